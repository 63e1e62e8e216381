"""Cutting a data set into training, validation and test parts, once or in folds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.utils.data import Subset

from ..errors import TrainlabError
from ..randomness import derive_seed
from .dataset import Dataset, TextDataset
from .loaders import check_seed

Part = Dataset | TextDataset | Subset[Any]
Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Splits:
    """The three parts of a data set, and which of its rows went where.

    indices: the row numbers of train, valid and test, each sorted, together every row once.
    `train, valid, test = split(...)` unpacks the parts.
    """

    train: Part
    valid: Part
    test: Part
    indices: tuple[Tensor, Tensor, Tensor]

    def __iter__(self) -> Iterator[Part]:
        return iter((self.train, self.valid, self.test))

    def __repr__(self) -> str:
        train, valid, test = (len(index) for index in self.indices)
        return f"Splits(train={train}, valid={valid}, test={test})"


@dataclass(frozen=True, slots=True)
class Fold:
    """One of the ways to hold a part back, and which rows are on which side.

    indices: the row numbers of train and valid, each sorted.  `train, valid = fold` unpacks the parts.
    """

    train: Part
    valid: Part
    indices: tuple[Tensor, Tensor]

    def __iter__(self) -> Iterator[Part]:
        return iter((self.train, self.valid))

    def __repr__(self) -> str:
        train, valid = (len(index) for index in self.indices)
        return f"Fold(train={train}, valid={valid})"


def split(
    dataset: Any,
    fractions: Sequence[float] = (0.7, 0.2, 0.1),
    *,
    seed: int,
    stratify: ArrayLike | bool | None = None,
    groups: ArrayLike | bool | None = None,
    time: ArrayLike | bool | None = None,
    within: ArrayLike | bool | None = None,
) -> Splits:
    """Cut `dataset` into train, valid and test, by shares of its rows.

    fractions: shares of train, valid and test, summing to 1; valid or test may be 0.
    stratify: labels, (N,), whose shares each part keeps, with at least one row of each class in each
    part.  groups: (N,), rows of one group stay together; shares are then met as nearly as groups allow.
    time: (N,), numbers or dates; train is the earliest, test the latest, equal times stay together.
    within: (N,), groups that are each cut in time by themselves, for use on later rows of the same
    groups; a group of few rows may be missing from a part.
    True takes the data set's own targets, groups or times.  At most one of the first three, within
    beside time only.
    Every row goes to exactly one part: none is lost to rounding.
    Raises TrainlabError if an argument cannot be met; `dataset` is never changed.
    """
    n = _checked_length(dataset, "split")
    check_seed(seed)
    shares = _checked_fractions(fractions, n)
    way, values = _chosen_way(dataset, n, {"stratify": stratify, "groups": groups, "time": time})
    rng = np.random.default_rng(derive_seed(seed))
    if within is not None and within is not False:
        part = _timed_within(_owners(dataset, n, within, way), values, shares)
    elif way == "stratify":
        part = _stratified(values, shares, rng)
    elif way == "groups":
        part = _grouped(values, shares, rng)
    elif way == "time":
        part = _timed(values, shares)
    else:
        part = np.empty(n, dtype=np.int64)
        part[rng.permutation(n)] = np.repeat(np.arange(3), _counts(n, shares))
    train, valid, test = (torch.from_numpy(np.flatnonzero(part == k)) for k in range(3))
    return Splits(
        _subset(dataset, train), _subset(dataset, valid), _subset(dataset, test), (train, valid, test)
    )


def folds(
    dataset: Any,
    k: int = 5,
    *,
    seed: int,
    stratify: ArrayLike | bool | None = None,
    groups: ArrayLike | bool | None = None,
    time: ArrayLike | bool | None = None,
) -> tuple[Fold, ...]:
    """`k` ways to hold a part of `dataset` back, for cross-validation; stratify, groups, time as in `split`.

    Each row is in exactly one valid part.  stratify: each class is dealt out as evenly as its rows
    allow.  groups: a group is never on both sides; the parts are as even as groups allow.
    time: forward chaining, train is everything before valid; the earliest of k + 1 parts is never valid.
    Raises TrainlabError if an argument cannot be met; `dataset` is never changed.
    """
    n = _checked_length(dataset, "cut into folds")
    check_seed(seed)
    if isinstance(k, bool) or not isinstance(k, int) or not 2 <= k <= n:
        raise TrainlabError(f"k={k!r} folds of {n} rows: choose a whole number from 2 to the rows, such as 5")
    way, values = _chosen_way(dataset, n, {"stratify": stratify, "groups": groups, "time": time})
    rng = np.random.default_rng(derive_seed(seed))
    if way == "time":
        part = _timed(values, np.full(k + 1, 1 / (k + 1)))
        sides = [(part < place, part == place) for place in range(1, k + 1)]
    else:
        part = _dealt(way, values, n, k, rng)
        sides = [(part != place, part == place) for place in range(k)]
    found = []
    for chosen in sides:
        train, valid = (torch.from_numpy(np.flatnonzero(side)) for side in chosen)
        found.append(Fold(_subset(dataset, train), _subset(dataset, valid), (train, valid)))
    return tuple(found)


def _dealt(way: str, values: NDArray[Any], n: int, k: int, rng: np.random.Generator) -> Counts:
    """The valid part, 0 to k - 1, that each row belongs to."""
    if way == "groups":
        return _grouped(values, np.full(k, 1 / k), rng)
    order = rng.permutation(n)
    if way == "stratify":
        _refuse_rare(values, k, f"{k} folds")
        order = order[np.argsort(values[order], kind="stable")]
    part = np.empty(n, dtype=np.int64)
    part[order] = np.arange(n) % k  # like cards: counts differ by one at most, in all and in each class
    return part


def _chosen_way(dataset: Any, n: int, ways: dict[str, Any]) -> tuple[str, NDArray[Any]]:
    """The one way that was asked for, and its value for each row; "" where the cut is at random."""
    given = [name for name, value in ways.items() if value is not None and value is not False]
    if len(given) > 1:
        raise TrainlabError(f"{' and '.join(given)} given together: choose the one that imitates deployment")
    if not given:
        return "", np.empty(0)
    [name] = given
    values = _own(dataset, name) if ways[name] is True else ways[name]
    return name, _column(name, values, n)


def _checked_length(dataset: Any, purpose: str) -> int:
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise TrainlabError(
            f"a {type(dataset).__name__} has no length or no rows by number: split the list it is read from"
        )
    if len(dataset) == 0:
        raise TrainlabError(f"the data set is empty (0 rows): there is nothing to {purpose}")
    return len(dataset)


def _checked_fractions(fractions: Sequence[float], n: int) -> NDArray[np.float64]:
    shares = np.asarray(fractions, dtype=np.float64)
    if shares.shape != (3,):
        raise TrainlabError(f"fractions={fractions!r}: give three shares, of train, valid and test")
    if (shares < 0).any() or not math.isclose(shares.sum(), 1.0, abs_tol=1e-6):
        raise TrainlabError(
            f"fractions={fractions!r} sum to {shares.sum():g}: shares are at least 0 and sum to 1, "
            "such as (0.7, 0.2, 0.1)"
        )
    counts = _counts(n, shares)
    if ((counts == 0) & (shares > 0)).any():
        raise TrainlabError(
            f"{n} rows cut by {tuple(float(share) for share in shares)} leave a part empty "
            f"({', '.join(str(count) for count in counts)}): give more rows or larger shares"
        )
    return shares


def _column(name: str, values: Any, n: int) -> NDArray[Any]:
    column = values.numpy() if isinstance(values, Tensor) else np.asarray(values)
    if column.shape != (n,):
        raise TrainlabError(f"{name} has shape {column.shape} for {n} rows: give one value for each row")
    if name == "time" and column.dtype.kind in "OUS":
        column = _dates(column)
    absent = np.isnat(column) if column.dtype.kind in "mM" else column != column  # NaN differs from itself
    if absent.any():
        raise TrainlabError(
            f"{name} is missing in {int(absent.sum())} of {n} rows, the first is row "
            f"{int(absent.argmax())}: fill it in, or leave these rows out"
        )
    return column


def _dates(column: NDArray[Any]) -> NDArray[Any]:
    """Texts as dates: sorted as texts, 9 would come after 10."""
    try:
        return column.astype("datetime64[us]")
    except (ValueError, TypeError):
        raise TrainlabError(
            f"time holds {str(column[0])!r}, which cannot be sorted as a moment: give numbers, or dates such "
            "as 2025-12-31"
        ) from None


def _own(dataset: Any, name: str) -> Any:
    """The data set's own targets, groups or times."""
    field = "targets" if name == "stratify" else name
    if not isinstance(dataset, Dataset | TextDataset):
        raise TrainlabError(
            f"{name}=True needs a data set with {field}, not a {type(dataset).__name__}: give one value for "
            "each row"
        )
    if name == "stratify" and not dataset.classes:
        raise TrainlabError(
            "stratify=True needs classes, but the targets are values: give labels to stratify by"
        )
    if len(getattr(dataset, field)) == 0:
        raise TrainlabError(f"{name}=True, but {dataset.name} has no {field}: give one value for each row")
    return getattr(dataset, field)


def _counts(n: int, shares: NDArray[np.float64]) -> Counts:
    """Whole numbers nearest to n * shares that sum to n (largest remainders get the rest)."""
    exact = n * shares
    counts: Counts = np.floor(exact + 1e-9).astype(np.int64)
    rest = n - counts.sum()
    counts[np.argsort(counts - exact, kind="stable")[:rest]] += 1
    return counts


def _stratified(labels: NDArray[Any], shares: NDArray[np.float64], rng: np.random.Generator) -> Counts:
    needed = int((shares > 0).sum())
    classes, sizes = _refuse_rare(labels, needed, f"{needed} parts")
    part = np.empty(len(labels), dtype=np.int64)
    done: Counts = np.zeros(3, dtype=np.int64)
    seen = 0
    for label, size in zip(classes, sizes):
        rows = rng.permutation(np.flatnonzero(labels == label))
        seen += size
        # what is due so far, less what was given: rounding errors of the classes cancel out
        due = _counts(seen, shares) - done
        low = np.floor(size * shares + 1e-9).astype(np.int64)
        counts = np.clip(due, np.maximum(low, shares > 0), low + 1)
        counts[0] += size - counts.sum()
        _level(counts, size * shares, low)
        done += counts
        part[rows] = np.repeat(np.arange(3), counts)
    return part


def _refuse_rare(labels: NDArray[Any], needed: int, parts: str) -> tuple[NDArray[Any], Counts]:
    """The classes and their sizes, refused where one has fewer rows than there are parts."""
    classes, sizes = np.unique(labels, return_counts=True)
    if sizes.min() < needed:
        rare = sizes.argmin()
        raise TrainlabError(
            f"class {classes[rare]!s} has {sizes[rare]} row(s), fewer than the {parts}: "
            "merge it with another class, drop it, or do without stratify"
        )
    return classes, sizes


def _level(counts: Counts, exact: NDArray[np.float64], low: Counts) -> None:
    """Bring the first count, which took what was left over, to within a row of its share, in place."""
    while counts[0] > max(low[0] + 1, 1):
        place = 1 + (exact - counts)[1:].argmax()
        counts[0], counts[place] = counts[0] - 1, counts[place] + 1
    while counts[0] < max(low[0], exact[0] > 0) and counts[1:].max() > 1:
        # the part furthest above its share gives, but never its only row
        place = 1 + np.where(counts > 1, counts - exact, -np.inf)[1:].argmax()
        counts[0], counts[place] = counts[0] + 1, counts[place] - 1


def _grouped(groups: NDArray[Any], shares: NDArray[np.float64], rng: np.random.Generator) -> Counts:
    names, member, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    needed = int((shares > 0).sum())
    if len(names) < needed:
        raise TrainlabError(
            f"{len(names)} group(s) cannot fill {needed} parts: use fewer parts or finer groups"
        )
    # the largest first, so that small groups even out the shares; each to the part that lacks the largest
    # fraction of its share (of equals, the larger part), or large groups would all end in one part
    order = rng.permutation(len(names))
    order = order[np.argsort(-sizes[order], kind="stable")]
    lack = np.where(shares > 0, 1.0, -np.inf)
    filled = shares == 0
    home = np.empty(len(names), dtype=np.int64)
    for place, group in enumerate(order):
        must = len(order) - place <= (~filled).sum()  # as many groups left as parts still empty
        part = np.lexsort((shares, np.where(filled & must, -np.inf, lack)))[-1]
        home[group] = part
        lack[part] -= sizes[group] / (len(groups) * shares[part])
        filled[part] = True
    return home[member]


def _timed(time: NDArray[Any], shares: NDArray[np.float64]) -> Counts:
    part = _earliest_first(time, shares)
    _refuse_few_times(time, part, shares)
    return part


def _owners(dataset: Any, n: int, within: ArrayLike | bool, way: str) -> NDArray[Any]:
    if way != "time":
        raise TrainlabError(
            "within cuts each group in time: give time= too, or groups= to keep the groups whole"
        )
    return _column("within", _own(dataset, "groups") if within is True else within, n)


def _timed_within(owners: NDArray[Any], time: NDArray[Any], shares: NDArray[np.float64]) -> Counts:
    part = np.empty(len(time), dtype=np.int64)
    order = np.argsort(owners, kind="stable")
    starts = np.unique(owners[order], return_index=True)[1][1:]
    for rows in np.split(order, starts):
        part[rows] = _earliest_first(time[rows], shares)
    _refuse_few_times(time, part, shares)
    return part


def _earliest_first(time: NDArray[Any], shares: NDArray[np.float64]) -> Counts:
    """The part of each row, the earliest rows in the first."""
    order = np.argsort(time, kind="stable")
    ordered = time[order]
    cuts = np.cumsum(_counts(len(time), shares))[:-1]
    # equal times stay together: a cut moves back to the first row of its moment
    cuts = np.array([cut if cut == len(time) else np.searchsorted(ordered, ordered[cut]) for cut in cuts])
    part = np.empty(len(time), dtype=np.int64)
    part[order] = np.searchsorted(cuts, np.arange(len(time)), side="right")
    return part


def _refuse_few_times(time: NDArray[Any], part: Counts, shares: NDArray[np.float64]) -> None:
    missing = [k for k in np.flatnonzero(shares) if not (part == k).any()]
    if missing:
        raise TrainlabError(
            f"too few different times ({len(np.unique(time))}): {len(missing)} of {(shares > 0).sum()} parts "
            "would be empty; give finer times or fewer parts"
        )


def _subset(dataset: Any, index: Tensor) -> Part:
    if isinstance(dataset, Dataset | TextDataset):
        return dataset.subset(index)
    return Subset(dataset, index.tolist())
