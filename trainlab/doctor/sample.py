"""What the loaders give: rows, targets, their order, and how far a simple rule gets with them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..randomness import preserve_rng
from .recording import detached, first_tensor
from .subject import inputs_and_target

_ROWS = 8192
_SECONDS = 1.5


@dataclass
class Part:
    """One pass through a loader, as far as it was read.

    x, y: rows one after the other, None where they do not fit together (lengths that differ).
    complete: whether the pass was read to its end.  again: x of a second pass, for its first batches.
    """

    loader: Any
    batches: list[Any] = field(default_factory=list)
    complete: bool = False
    x: Tensor | None = None
    y: Tensor | None = None
    again: list[Any] = field(default_factory=list)
    error: str = ""

    @property
    def sizes(self) -> list[int]:
        """Rows of each batch."""
        return [len(found) for batch in self.batches if (found := _rows(batch)) is not None]

    @property
    def same_order(self) -> bool:
        """Whether a second pass began with the very same rows."""
        pairs = list(zip(self.batches, self.again))
        return bool(pairs) and all(same(first, second) for first, second in pairs)


def _rows(batch: Any) -> Tensor | None:
    found = first_tensor(batch)
    return found if found is not None and found.dim() else None


def same(first: Any, second: Any) -> bool:
    """Whether two batches hold the same values."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return first.shape == second.shape and torch.equal(first.nan_to_num(), second.nan_to_num())
    if isinstance(first, tuple | list) and isinstance(second, tuple | list):
        return len(first) == len(second) and all(same(a, b) for a, b in zip(first, second))
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    return bool(first == second) if not isinstance(first, Tensor) else False


def read(loader: Any) -> Part:
    """Read a loader once, within bounds of rows and time, and the start of a second pass."""
    part = Part(loader)
    if loader is None:
        return part
    started, rows = time.perf_counter(), 0
    with preserve_rng():
        try:
            for batch in loader:
                part.batches.append(detached(batch))
                found = _rows(batch)
                rows += len(found) if found is not None else 1
                if rows >= _ROWS or time.perf_counter() - started > _SECONDS:
                    break
            else:
                part.complete = True
            for batch, _ in zip(loader, range(min(4, len(part.batches)))):
                part.again.append(detached(batch))
        except Exception as error:
            part.error = f"{type(error).__name__}: {str(error)[:200]}"
    _stack(part)
    return part


def _stack(part: Part) -> None:
    pairs = []
    for batch in part.batches:
        try:
            x, y = inputs_and_target(batch)
        except Exception:
            return
        x = first_tensor(x)
        if x is None or not isinstance(y, Tensor) or not x.dim() or not y.dim() or len(x) != len(y):
            return
        pairs.append((x, y))
    if pairs and len({(x.shape[1:], y.shape[1:]) for x, y in pairs}) == 1:
        part.x = torch.cat([x for x, _ in pairs]).cpu()
        part.y = torch.cat([y for _, y in pairs]).cpu()


def row_keys(x: Tensor) -> list[int]:
    """A hash for each row, equal for equal rows."""
    array = x.detach().contiguous().flatten(1).cpu() if x.dim() > 1 else x.detach().cpu()[:, None]
    if array.dtype == torch.bfloat16:
        array = array.float()
    return [hash(row.tobytes()) for row in array.contiguous().numpy()]


def classes_of(y: Tensor | None) -> Tensor | None:
    """Targets that name classes: whole numbers, one a row, fewer than a tenth of the rows; else None."""
    if y is None:
        return None
    flat = y.flatten(1).squeeze(1) if y.dim() > 1 and y[0].numel() == 1 else y
    if flat.dim() != 1 or len(flat) < 8:
        return None
    if flat.is_floating_point():
        if not bool(((flat == 0) | (flat == 1)).all()):
            return None
        flat = flat.long()
    return flat.long() if len(flat.unique()) <= max(2, len(flat) // 5) else None


def features_of(x: Tensor, like: Tensor | None = None) -> Tensor:
    """Rows as at most 128 numbers: counts of words for whole numbers, else values standardised by `like`."""
    if not x.is_floating_point() and x.dim() == 2 and x.max() > 1 and x.min() >= 0 and x.max() < 20_000:
        words = int(max(x.max(), like.max() if like is not None else 0)) + 1
        counts = torch.zeros(len(x), words).scatter_add_(1, x.long(), torch.ones(x.shape))
        x, like = counts, None
    flat = x.float().flatten(1) if x.dim() > 1 else x.float()[:, None]
    base = flat if like is None else like.float().flatten(1) if like.dim() > 1 else like.float()[:, None]
    flat = (flat - base.mean(0)) / base.std(0).clamp(min=1e-6)
    if flat.shape[1] > 128:
        generator = torch.Generator().manual_seed(0)
        flat = flat @ torch.randn(flat.shape[1], 128, generator=generator) / flat.shape[1] ** 0.5
    return flat.clamp(-10, 10).nan_to_num()


def skill(features: Tensor, y: Tensor) -> float:
    """How well a simple rule foretells y on rows it was not fitted on: 0 for chance, 1 for all of it.

    Classes: the better of ridge regression and nearest neighbours, as the share of the errors of the
    most frequent class that it avoids.  Values: the share of the variance that ridge regression explains.
    """
    n = len(features) // 2
    if n < 16:
        return 0.0
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(1))
    features, y = features[order][: 2 * min(n, 1000)], y[order][: 2 * min(n, 1000)]
    n = len(features) // 2
    labels = classes_of(y)
    if labels is None:
        values = y.float().flatten(1) if y.dim() > 1 else y.float()[:, None]
        said = _ridge(features[:n], values[:n], features[n:])
        rest = (values[n:] - said).square().sum() / (values[n:] - values[:n].mean(0)).square().sum().clamp(
            1e-9
        )
        return float(1 - rest)
    names, labels = labels.unique(return_inverse=True)
    one_hot = torch.nn.functional.one_hot(labels, len(names)).float()
    ridge = (_ridge(features[:n], one_hot[:n], features[n:]).argmax(1) == labels[n:]).float().mean()
    votes = one_hot[:n][torch.cdist(features[n:], features[:n]).topk(5, largest=False).indices].sum(1)
    near = (votes.argmax(1) == labels[n:]).float().mean()
    base = (labels[n:] == one_hot[:n].sum(0).argmax()).float().mean()
    return float((torch.maximum(ridge, near) - base) / (1 - base).clamp(min=0.02))


def transfer(x: Tensor, y: Tensor, unseen: Tensor, wanted: Tensor) -> float:
    """How well neighbours in one part name the classes of another: 0 for the most frequent one, 1 for all."""
    x, y, unseen, wanted = x[:1500], y[:1500], unseen[:500], wanted[:500]
    nearest = torch.cdist(unseen, x).topk(5, largest=False).indices
    said = y[nearest].mode(1).values
    base = (wanted == y.mode().values).float().mean()
    return float(((said == wanted).float().mean() - base) / (1 - base).clamp(min=0.02))


def _ridge(x: Tensor, y: Tensor, unseen: Tensor) -> Tensor:
    x, unseen = (torch.cat([each, torch.ones(len(each), 1)], 1) for each in (x, unseen))
    gram = x.T @ x + 0.3 * len(x) ** 0.5 * torch.eye(x.shape[1])
    return unseen @ torch.linalg.solve(gram, x.T @ y)
