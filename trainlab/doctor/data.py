"""Before training: what the loaders give."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from ..randomness import preserve_rng, seed_everything
from .recording import detached
from .sample import Part, classes_of, features_of, row_keys, same, skill, transfer
from .signs import Sign, error, info, warning


def look_at_data(train: Part, valid: Part, classifies: bool) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The questions about the data, each a name and a function that gives signs."""
    yield "the loaders give batches", lambda: _empty(train, valid)
    yield "inputs and targets are finite", lambda: _finite(train, valid)
    yield "the loader covers the data set", lambda: _coverage(train, valid)
    yield "no rows come twice in an epoch", lambda: _repeated(train)
    yield "the training rows are in no order of their classes", lambda: _sorted(train)
    yield "the targets vary, and training has every class", lambda: _classes(train, valid, classifies)
    yield "validation shares no rows with training", lambda: _shared(train, valid)
    yield "validation is prepared as training is", lambda: _prepared(train, valid)
    yield "what is learned in one part holds in the other", lambda: _disagree(train, valid)
    yield "reading a row leaves the data as they are", lambda: _drifting(train)
    yield "validation is the same in every pass", lambda: _random_validation(valid)
    yield "inputs are of a usual size", lambda: _scale(train)
    yield "the target is no column of the inputs", lambda: _given_away(train)
    yield "targets belong to their inputs", lambda: _misaligned(train, valid)


def _empty(train: Part, valid: Part) -> Iterator[Sign]:
    for name, part in (("train_loader", train), ("val_loader", valid)):
        if part.loader is None:
            continue
        if part.error:
            yield error("loader-fails", name, part.error)
        elif not part.batches:
            size, rows = getattr(part.loader, "batch_size", None), _length(part.loader)
            drops = ", drop_last=True" if getattr(part.loader, "drop_last", False) else ""
            yield error("loader-empty", name, f"0 batches of {size} from {rows} rows{drops}")


def _length(loader: Any) -> int | None:
    try:
        return len(loader.dataset)
    except (AttributeError, TypeError):
        return None


def _finite(train: Part, valid: Part) -> Iterator[Sign]:
    for name, part in (("train_loader", train), ("val_loader", valid)):
        for what, values in (("inputs", part.x), ("targets", part.y)):
            if values is not None and values.is_floating_point():
                wrong = (
                    (~torch.isfinite(values)).flatten(1).any(1) if values.dim() > 1 else ~values.isfinite()
                )
                if wrong.any():
                    count = int(wrong.sum())
                    yield error(
                        "not-finite-data", name, f"{count} of {len(values)} rows of {what} hold NaN or inf"
                    )


def _coverage(train: Part, valid: Part) -> Iterator[Sign]:
    for name, part in (("train_loader", train), ("val_loader", valid)):
        rows, given = _length(part.loader), sum(part.sizes)
        if not rows or not part.complete or not isinstance(part.loader, DataLoader) or not given:
            continue
        sampler = part.loader.sampler
        plain = isinstance(sampler, RandomSampler | SequentialSampler)
        lost = 1 - given / rows
        if plain and part.loader.drop_last and lost > 0.25:
            yield warning(
                "loader-drops-data",
                name,
                f"{given} of {rows} rows in an epoch: drop_last=True loses {lost:.0%}",
            )
        if name == "train_loader":
            yield from _unreached(part, rows, given, sampler)


def _unreached(part: Part, rows: int, given: int, sampler: Any) -> Iterator[Sign]:
    """Rows, and whole classes, that the sampler leaves out."""
    if part.x is None or part.y is None or rows > 5000:
        return
    labels = classes_of(part.y)
    own = _own_rows(part.loader.dataset, rows)
    if own is None or labels is None:
        return
    names, counts = own[1].unique(return_counts=True)
    reached = set(labels.tolist())
    missing = [
        int(name) for name, count in zip(names, counts) if int(name) not in reached and count >= 0.05 * rows
    ]
    chance = [
        float((1 - count / rows) ** given) for name, count in zip(names, counts) if int(name) in missing
    ]
    if missing and max(chance) < 1e-3 and not isinstance(sampler, SubsetRandomSampler):
        yield error(
            "sampler-skips-a-class",
            f"train_loader's {type(sampler).__name__}",
            f"class {missing[0]} has {int(counts[names == missing[0]])} of "
            f"{rows} rows, and 0 of the {given} drawn",
        )
    distinct = len(set(row_keys(part.x)))
    if isinstance(sampler, WeightedRandomSampler | RandomSampler) and given >= 64:
        pool = len(set(row_keys(own[0])))
        if distinct < 0.2 * min(pool, given):
            yield warning(
                "sampler-repeats-rows",
                f"train_loader's {type(sampler).__name__}",
                f"{distinct} different rows among {given} drawn, from {pool} that there are",
            )


def _own_rows(dataset: Any, rows: int) -> tuple[Tensor, Tensor] | None:
    try:
        pairs = [dataset[place] for place in range(rows)]
        x, y = torch.stack([pair[0] for pair in pairs]), torch.stack([torch.as_tensor(p[1]) for p in pairs])
    except Exception:
        return None
    labels = classes_of(y)
    return None if labels is None else (x, labels)


def _repeated(train: Part) -> Iterator[Sign]:
    if train.x is None or not train.complete or len(train.x) < 32:
        return
    sampler = getattr(train.loader, "sampler", None)
    if isinstance(sampler, WeightedRandomSampler) or getattr(sampler, "replacement", False):
        return
    rows = _length(train.loader) or len(train.x)
    dataset_rows = _own_keys(train.loader, rows)
    if isinstance(sampler, DistributedSampler) and sampler.num_replicas > 1:
        share = len(train.x) / rows
        if share > 1.5 / sampler.num_replicas:
            yield error(
                "shards-overlap",
                "train_loader's sampler",
                f"a shard of 1/{sampler.num_replicas} holds {share:.0%}",
            )
    keys = row_keys(train.x)
    repeated = len(keys) - len(set(keys))
    pool = len(dataset_rows) - len(set(dataset_rows)) if dataset_rows else 0
    if dataset_rows and len(keys) > 1.5 * len(dataset_rows) and repeated > 0.3 * len(keys) + pool:
        yield warning(
            "rows-repeated",
            "train_loader",
            f"{len(keys)} rows in an epoch from a data set of {len(dataset_rows)}",
        )
    elif (overlap := _same_shard_twice(getattr(train.loader, "dataset", None))) > 0:
        yield error(
            "shards-overlap", "train_loader", f"two parts of the data set share {overlap} of their rows"
        )
    elif repeated >= 0.45 * len(keys) and _rich(train.x):
        least = min(Counter(keys).values())
        told = f"{repeated} of {len(keys)} rows are copies of others, each row comes at least {least} times"
        yield info("rows-repeated", "train_loader", told)
    yield from _left_out(sampler, len(set(keys)), len(set(dataset_rows)))


def _left_out(sampler: Any, given: int, held: int) -> Iterator[Sign]:
    """A sampler of the learner's own that leaves out most rows."""
    known = SubsetRandomSampler | SequentialSampler | RandomSampler | DistributedSampler
    if isinstance(sampler, known) or not isinstance(sampler, torch.utils.data.Sampler):
        return
    if given < 0.5 * held:
        told = f"{given} different rows of {held} that the data set holds"
        yield info("sampler-skips-rows", f"train_loader's {type(sampler).__name__}", told)


def _same_shard_twice(dataset: Any) -> int:
    """How many indices two shards of one and the same data set have in common."""
    parts = getattr(dataset, "datasets", None)
    shards = [part for part in parts if isinstance(part, Subset)] if isinstance(parts, list) else []
    if len(shards) < 2 or any(part.dataset is not shards[0].dataset for part in shards):
        return 0
    return sum(len(part) for part in shards) - len({int(at) for part in shards for at in part.indices})


def _own_keys(loader: Any, rows: int) -> list[int]:
    if rows > 5000 or not isinstance(loader, DataLoader):
        return []
    try:
        return row_keys(torch.stack([loader.dataset[place][0] for place in range(rows)]))
    except Exception:
        return []


def _sorted(train: Part) -> Iterator[Sign]:
    labels = classes_of(train.y)
    if labels is None or len(train.sizes) < 3 or len(labels) < 40:
        return
    classes = len(labels.unique())
    runs = 1 + int((labels[1:] != labels[:-1]).sum())
    expected = 1 + (len(labels) - 1) * float(
        1 - (labels.unique(return_counts=True)[1] / len(labels)).square().sum()
    )
    if classes >= 2 and runs <= classes and train.same_order and runs < 0.2 * expected:
        yield warning(
            "training-data-sorted",
            "train_loader",
            f"{runs} runs of equal labels where {expected:.0f} are "
            f"expected, and the same order in a second pass",
        )
    elif classes >= 2 and not train.same_order and sum(train.sizes) == len(labels) and _pure(train, labels):
        told = f"nearly every batch holds one class only, of {classes}; {runs} runs, {expected:.0f} expected"
        yield warning("training-data-sorted", "train_loader", told)
    elif classes >= 2 and runs < 0.2 * expected and train.same_order:
        told = f"{runs} runs of equal labels where {expected:.0f} are expected by chance"
        yield info("training-data-sorted", "train_loader", told)


def _pure(train: Part, labels: Tensor) -> bool:
    """Whether nearly every batch holds one class only."""
    parts = [part for part in labels.split(train.sizes) if len(part) >= 8]
    alike = [part for part in parts if bool((part == part[0]).all())]
    return len(parts) >= 4 and len(alike) >= 0.8 * len(parts)


def _classes(train: Part, valid: Part, classifies: bool) -> Iterator[Sign]:
    y = train.y
    if y is None or len(y) < 16:
        return
    if y.unique().numel() == 1 and classifies:
        yield error(
            "target-constant", "train_loader", f"all {y.numel()} targets are {y.flatten()[0].item():g}"
        )
        return
    if y.is_floating_point() and y.numel() == len(y) and float(y.float().std()) == 0:
        yield warning(
            "target-constant", "train_loader", f"all {len(y)} targets are {y.flatten()[0].item():g}"
        )
    ours, theirs = classes_of(train.y), classes_of(valid.y)
    if ours is None or theirs is None or not train.complete:
        return
    known, (names, counts) = set(ours.tolist()), theirs.unique(return_counts=True)
    for name, count in zip(names.tolist(), counts.tolist()):
        if name not in known and count >= 5 and count >= 0.03 * len(theirs):
            told = (
                f"class {name} has {count} of {len(theirs)} validation "
                f"rows, and none of {len(ours)} for training"
            )
            yield warning("class-missing-in-training", "train_loader", told)
            return
    shares = [
        torch.bincount(each, minlength=int(max(ours.max(), theirs.max())) + 1) / len(each)
        for each in (ours, theirs)
    ]
    gap = float((shares[0] - shares[1]).abs().sum() / 2)
    if gap > 0.25 and min(len(ours), len(theirs)) >= 60:
        yield info(
            "class-shares-differ", "val_loader", f"{gap:.0%} of the rows would have to change their class"
        )


def _shared(train: Part, valid: Part) -> Iterator[Sign]:
    if valid.loader is None:
        return
    if valid.loader is train.loader:
        yield error("validation-is-train", "val_loader", "val_loader is the very object train_loader is")
        return
    if (overlap := _index_overlap(train.loader, valid.loader)) is not None and overlap[0] > 0:
        told = f"{overlap[0]} of {overlap[1]} validation indices are training indices of the same data set"
        yield error("validation-in-training", "val_loader", told)
        return
    if train.x is None or valid.x is None or train.x.shape[1:] != valid.x.shape[1:] or len(valid.x) < 8:
        return
    ours = set(row_keys(train.x))
    theirs = row_keys(valid.x)
    own = 1 - len(ours) / len(train.x)
    both = sum(key in ours for key in theirs)
    share = both / len(theirs)
    if own > 0.1 and not _rich(train.x):
        return  # rows of few values repeat by chance
    if share > 0.9 and train.complete:
        told = f"{both} of {len(theirs)} validation rows stand in the training data, too"
        yield error("validation-is-train", "val_loader", told)
    elif share > 0.05 and both >= 5 and (share > 5 * own + 0.02 or _rich(train.x)):
        told = (
            f"{both} of {len(theirs)} validation rows stand in the training data, {own:.1%} of which repeat"
        )
        yield warning("validation-in-training", "val_loader", told)
    else:
        yield from _nearly(train.x, valid.x)


def _nearly(ours: Tensor, theirs: Tensor) -> Iterator[Sign]:
    """Validation rows that are a training row and a little noise: augmented before the split."""
    if not _rich(ours) or ours.shape[1:] != theirs.shape[1:] or len(ours) < 40:
        return
    a, b = (each.float().flatten(1)[:1500] for each in (ours, theirs))
    if a.shape[1] > 4096:
        return
    own = torch.cdist(a[:300], a).topk(2, largest=False).values[:, 1]  # the first is the row itself
    near = torch.cdist(b[:300], a).min(1).values
    limit = 0.25 * float(own.median())
    share, usual = float((near < limit).float().mean()), float((own < limit).float().mean())
    if len(a) == len(ours) and share > 0.2 and usual < 0.2 * share:
        told = f"{share:.0%} of the validation rows are within {limit:.2g} of a training row"
        told += f", where {usual:.0%} are usual"
        yield warning("validation-in-training", "val_loader", told)


def _rich(x: Tensor) -> bool:
    """Whether two rows are never the same by chance: many columns of more than a few values."""
    flat = x[:500].flatten(1) if x.dim() > 1 else x[:500, None]
    if not flat.is_floating_point():
        return False
    several = sum(flat[:, place].unique().numel() > 5 for place in range(min(flat.shape[1], 256)))
    return several >= 8 or (several >= 3 and flat.unique().numel() > 100)


def _index_overlap(train: Any, valid: Any) -> tuple[int, int] | None:
    first, second = (_indices(loader) for loader in (train, valid))
    if first is None or second is None or first[0] is not second[0]:
        return None
    return len(set(first[1]) & set(second[1])), len(second[1])


def _indices(loader: Any) -> tuple[Any, list[int]] | None:
    data = getattr(loader, "dataset", None)
    if isinstance(data, Subset):
        return data.dataset, [int(place) for place in data.indices]
    if isinstance(getattr(loader, "sampler", None), SubsetRandomSampler):
        return data, [int(place) for place in loader.sampler.indices]
    return None


def _prepared(train: Part, valid: Part) -> Iterator[Sign]:
    if train.x is None or valid.x is None or len(valid.x) < 8:
        return
    if train.x.dim() > 1 and train.x.shape[1:] != valid.x.shape[1:]:
        told = (
            f"rows of {tuple(train.x.shape[1:])} for training and of "
            f"{tuple(valid.x.shape[1:])} for validation"
        )
        if train.x.is_floating_point() and train.x.dim() != 3:
            yield info("validation-prepared-differently", "val_loader", told)
        return
    if not (train.x.is_floating_point() and valid.x.is_floating_point()):
        yield from _other_words(train, valid)
        return
    yield from _other_scale(train.x.float(), valid.x.float())
    yield from _own_statistics(train.x, valid.x)
    yield from _other_channels(train.x, valid.x)
    y, w = train.y, valid.y
    if y is None or w is None or classes_of(y) is not None or y.shape[1:] != w.shape[1:]:
        return
    if y.is_floating_point():
        yield from _other_scale(y.float(), w.float(), "the targets")


def _other_words(train: Part, valid: Part) -> Iterator[Sign]:
    assert train.x is not None
    assert valid.x is not None
    if train.x.dtype != valid.x.dtype and train.x.is_floating_point() != valid.x.is_floating_point():
        told = f"{train.x.dtype} for training and {valid.x.dtype} for validation"
        yield warning("validation-prepared-differently", "val_loader", told)
        return
    ours, theirs = set(train.x.unique().tolist()), valid.x.flatten().tolist()
    unknown = sum(word not in ours for word in theirs) / max(len(theirs), 1)
    if train.x.dim() == 2 and len(ours) < train.x.numel() / 20 and unknown > 0.2:
        told = f"{unknown:.0%} of the validation tokens never occur in {train.x.numel()} training tokens"
        yield warning("validation-prepared-differently", "val_loader", told)


def _other_channels(ours: Tensor, theirs: Tensor) -> Iterator[Sign]:
    """Red and blue exchanged: the channels' means fit better in the reverse order."""
    if ours.dim() != 4 or ours.shape[1] != 3:
        return
    (a, spread), (b, _) = ((x.float().mean((0, 2, 3)), x.float().std((0, 2, 3))) for x in (ours, theirs))
    straight, reverse = float((a - b).norm()), float((a - b.flip(0)).norm())
    if straight > 0.3 * float(spread.norm()) and reverse < 0.2 * straight:
        told = f"the channels' means differ by {straight:.2g}, and by {reverse:.2g} in the reverse order"
        yield warning("validation-prepared-differently", "val_loader", told)


def _disagree(train: Part, valid: Part) -> Iterator[Sign]:
    """Both parts can be learned, and what one teaches is wrong in the other."""
    ours, theirs = classes_of(train.y), classes_of(valid.y)
    x, v = train.x, valid.x
    if ours is None or theirs is None or x is None or v is None or len(v) < 80 or x[0].numel() > 20_000:
        return
    if x.shape[1:] != v.shape[1:] or x.dtype != v.dtype or not x.is_floating_point():
        return
    here, there = skill(features_of(x), ours), skill(features_of(v), theirs)
    across = transfer(features_of(x), ours, features_of(v, x), theirs)
    if min(here, there) > 0.5 and across < 0.1:
        told = f"a simple rule avoids {here:.0%} of the errors in training, {there:.0%} in validation"
        yield warning("parts-disagree", "val_loader", f"{told}, and {across:.0%} from one to the other")


def _drifting(train: Part) -> Iterator[Sign]:
    """The same row read twice, under the same random state."""
    data = getattr(train.loader, "dataset", None)
    if data is None or isinstance(data, IterableDataset) or not hasattr(data, "__dict__"):
        return
    stored = {k: v for k, v in vars(data).items() if isinstance(v, Tensor | np.ndarray) and v.nbytes < 2**26}
    before = {name: copy.deepcopy(value) for name, value in stored.items()}
    reads = []
    for _ in range(2):
        with preserve_rng():
            seed_everything(0)
            reads.append(detached([data[place] for place in range(4)]))
    changed = [name for name, value in stored.items() if not np.array_equal(value, before[name])]
    if changed and not same(reads[0], reads[1]):
        told = f"dataset[0] gives another row each time, and dataset.{changed[0]} has changed"
        yield error("data-changed", "the data set", told)


def _other_scale(ours: Tensor, theirs: Tensor, what: str = "all values") -> Iterator[Sign]:
    """The same distribution up to a factor and a shift: a step of the preparation was left out."""
    views = _views(ours, theirs) if what == "all values" else {what: (ours.flatten(), theirs.flatten())}
    for name, (a, b) in views.items():
        whole = name in ("all values", what)
        if not whole and not (_supported(a) and _supported(b)):
            continue
        points = torch.linspace(0.02, 0.98, 49) if whole else torch.linspace(0.1, 0.9, 33)
        p, q = (torch.quantile(each[: 10**6], points) for each in (a, b))
        if p.std() < 1e-8 or q.std() < 1e-8:
            continue
        slope = float(q.std() / p.std())
        r = float(torch.corrcoef(torch.stack([p, q]))[0, 1])
        shift = abs(float(q.mean() - p.mean())) / float(p.std() + q.std())
        told = (
            f"between its tenths {name} spreads {float(q.std()):.3g} in "
            f"validation, {float(p.std()):.3g} in training"
        )
        limit = 3 if whole else 8  # of many columns one is always odd: a unit that is wrong is so by more
        if r > 0.98 and min(len(a), len(b)) >= 60 and (slope > limit or slope < 1 / limit):
            yield warning("validation-prepared-differently", "val_loader", f"{told}, a factor of {slope:.3g}")
            return
        if name == "all values" and r > 0.98 and (shift > 1.5 or slope > 1.8 or slope < 0.55):
            yield info(
                "validation-prepared-differently", "val_loader", f"{told}; shifted by {shift:.2g} spreads"
            )
            return


def _supported(values: Tensor) -> bool:
    """Whether the spread of a column is no matter of a few rows: many values, few of them equal."""
    _, counts = values.unique(return_counts=True)
    return len(values) >= 60 and len(counts) >= 20 and int(counts.max()) < 0.2 * len(values)


def _views(ours: Tensor, theirs: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    found = {
        "all values": (
            ours.flatten()[:: max(1, ours.numel() // 10**5)],
            theirs.flatten()[:: max(1, theirs.numel() // 10**5)],
        )
    }
    if ours.dim() == 2 and ours.shape[1] <= 64:
        found |= {f"column {place}": (ours[:, place], theirs[:, place]) for place in range(ours.shape[1])}
    elif ours.dim() == 4 and ours.shape[1] <= 4:
        found |= {
            f"channel {place}": (ours[:2000, place].flatten()[::7], theirs[:2000, place].flatten()[::7])
            for place in range(ours.shape[1])
        }
    return found


def _own_statistics(ours: Tensor, theirs: Tensor) -> Iterator[Sign]:
    """Both parts have mean 0 and deviation 1 in every column: each was scaled by its own numbers."""
    both = []
    for x in (ours, theirs):
        flat = x.double().flatten(1) if x.dim() > 1 else x.double()[:, None]
        alone = flat[: min(len(flat), 100)]
        if float(alone.mean(1).abs().max()) < 1e-3:
            return  # each row is scaled by itself, which needs no part
        flat = flat[:, flat.std(0) > 0]
        if flat.shape[1] == 0 or len(flat) < 16:
            return
        off = max(
            float(flat.mean(0).abs().max()),
            min(float((flat.std(0, correction=c) - 1).abs().max()) for c in (0, 1)),
        )
        whole = max(abs(float(flat.mean())), abs(float(flat.std(correction=0)) - 1))
        both.append(min(off, whole))
    if max(both) < 1e-4:
        told = f"means within {max(both):.1g} of 0 and deviations of 1, in training and in validation"
        yield warning("validation-scaled-by-itself", "val_loader", told)


def _random_validation(valid: Part) -> Iterator[Sign]:
    if valid.x is None or not valid.again or classes_of(valid.y) is None or not valid.x.is_floating_point():
        return
    order = getattr(valid.loader, "sampler", None)
    if isinstance(order, SequentialSampler) and not valid.same_order and valid.x.dim() >= 2:
        labels = [batch[-1] for batch in valid.batches[: len(valid.again)]]
        if all(torch.equal(a, batch[-1]) for a, batch in zip(labels, valid.again)):
            yield warning(
                "validation-is-random",
                "val_loader",
                "the same rows in the same order have other values in a second pass",
            )


def _scale(train: Part) -> Iterator[Sign]:
    if train.x is None or not train.x.is_floating_point():
        return
    size = float(train.x.float().square().mean().sqrt())
    if size > 20:
        yield info(
            "inputs-not-scaled",
            "train_loader",
            f"root mean square of the inputs {size:.3g}, usual is about 1",
        )
    elif train.x.dim() == 2 and train.x.shape[1] > 1:
        spread = train.x.float().std(0)
        spread = spread[spread > 0]
        if len(spread) > 1 and float(spread.max() / spread.min()) > 1e3:
            told = f"columns spread between {float(spread.min()):.2g} and {float(spread.max()):.2g}"
            yield info("inputs-not-scaled", "train_loader", told)
    if size < 1e-3:
        yield info(
            "inputs-not-scaled",
            "train_loader",
            f"root mean square of the inputs {size:.3g}, usual is about 1",
        )


def _given_away(train: Part) -> Iterator[Sign]:
    x, y = train.x, train.y
    if x is None or y is None or not x.is_floating_point() or y[0].numel() != 1 or len(y) < 40:
        return
    flat, target = x.double().flatten(1) if x.dim() > 1 else x.double()[:, None], y.double().flatten()
    if flat.shape[1] < 3 or target.std() == 0:
        return
    centred = flat - flat.mean(0)
    r = (centred * (target - target.mean())[:, None]).sum(0)
    r = (r / (centred.norm(dim=0) * (target - target.mean()).norm()).clamp(min=1e-12)).abs()
    place = int(r.argmax())
    others = r[torch.arange(len(r)) != place]
    if float(r[place]) > 0.99999 and float(others.max()) < 0.999:
        told = f"column {place} and the target have a correlation of {float(r[place]):.5f}"
        yield warning("target-in-inputs", "train_loader", told)
    elif float(r[place]) > 0.95 and float(others.max()) < 0.75:
        told = f"column {place} and the target have a correlation of {float(r[place]):.2f}, no other above "
        yield info("target-in-inputs", "train_loader", f"{told}{float(others.max()):.2f}")


def _misaligned(train: Part, valid: Part) -> Iterator[Sign]:
    """Is there any relation at all, and would there be one with the targets of a neighbour?"""
    pair = _in_order(train)
    if pair is None:
        return
    x, y = pair
    if x[0].numel() > 20_000 or len(x) < 64 or y[0].numel() != 1:
        return
    features = features_of(x)
    yield from _neighbours(x, features, y, skill(features, y))
    if train.x is None or train.y is None:
        return
    whole = skill(features_of(train.x), train.y)
    if whole < 0.03 and len(x) >= 200:
        yield info(
            "no-relation-found", "train_loader", f"simple rules explain {max(whole, 0):.0%} of the targets"
        )
    n = min(len(train.x), 0 if valid.x is None else len(valid.x))
    if n < 100 or valid.x is None or valid.y is None or valid.y[0].numel() != 1:
        return
    # as many rows of each, so that a small part is not taken for a bad one
    here, there = (skill(features_of(part.x[:n]), part.y[:n]) for part in (train, valid))  # type: ignore[index]
    told = (
        f"a simple rule explains {max(here, 0):.0%} of the targets in "
        f"training, {max(there, 0):.0%} in validation"
    )
    if whole < 0.05 and here < 0.15 and there > 0.3:  # few rows: a little is found by chance
        yield warning("labels-misaligned", "train_loader", told)
    elif there < 0.05 and here > 0.3:
        yield warning("labels-misaligned", "val_loader", told)


def _neighbours(x: Tensor, features: Tensor, y: Tensor, here: float) -> Iterator[Sign]:
    alike = (features[1:] * features[:-1]).mean() / features.square().mean().clamp(min=1e-9)
    if float(alike) > 0.15:
        return  # rows in the order of time, or windows that overlap: a neighbour's target is no stranger
    for lag in (1, -1, 2, -2):
        if _holds(x, y, lag):
            continue  # a window of a series: the targets of earlier rows are among its inputs
        moved = skill(
            features[max(0, -lag) : len(features) - max(0, lag)], y[max(0, lag) : len(y) - max(0, -lag)]
        )
        if here < 0.1 and moved > 0.3 and moved > here + 0.25:
            told = (
                f"a simple rule explains {max(here, 0):.0%} of the targets, "
                f"and {moved:.0%} of those {lag:+d} rows away"
            )
            yield error("labels-shifted", "the data set", told)
            return


def _holds(x: Tensor, y: Tensor, lag: int) -> bool:
    """Whether a column of the inputs is the target of a neighbour, to the last digits."""
    if not x.is_floating_point() or not y.is_floating_point():
        return False
    rows = x.flatten(1)[max(0, -lag) : len(x) - max(0, lag)].double()
    target = y.flatten()[max(0, lag) : len(y) - max(0, -lag)].double()
    both = torch.cat([rows, target[:, None]], 1)
    r = torch.corrcoef(both.T)[-1, :-1].nan_to_num().abs()
    return bool((r > 0.99).any())


def _in_order(part: Part) -> tuple[Tensor, Tensor] | None:
    """Rows in the order of the data set, where it can be read by index; else in the loader's."""
    rows = _length(part.loader)
    if isinstance(part.loader, DataLoader) and rows and rows <= 4000:
        try:
            pairs = [part.loader.dataset[place] for place in range(rows)]
            return torch.stack([p[0] for p in pairs]), torch.stack([torch.as_tensor(p[1]) for p in pairs])
        except Exception:
            pass
    return None if part.x is None or part.y is None else (part.x, part.y)
