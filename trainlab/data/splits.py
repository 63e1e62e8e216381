"""Cutting a data set into training, validation and test parts."""

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


def split(
    dataset: Any,
    fractions: Sequence[float] = (0.7, 0.2, 0.1),
    *,
    seed: int,
    stratify: ArrayLike | bool | None = None,
    groups: ArrayLike | None = None,
    time: ArrayLike | None = None,
) -> Splits:
    """Cut `dataset` into train, valid and test, by shares of its rows.

    fractions: shares of train, valid and test, summing to 1; valid or test may be 0.
    stratify: labels, (N,), whose shares each part keeps, with at least one row of each class in each
    part; True takes the data set's own targets.
    groups: (N,), rows of one group stay together; shares are then met as nearly as groups allow.
    time: (N,), sortable; train is the earliest, test the latest, rows of equal time stay together.
    At most one of the three. Every row goes to exactly one part: none is lost to rounding.
    Raises TrainlabError if an argument cannot be met; `dataset` is never changed.
    """
    n = _checked_length(dataset)
    check_seed(seed)
    shares = _checked_fractions(fractions, n)
    ways = {"stratify": stratify, "groups": groups, "time": time}
    given = [name for name, value in ways.items() if value is not None and value is not False]
    if len(given) > 1:
        raise TrainlabError(f"{' and '.join(given)} given together: choose the one that imitates deployment")
    rng = np.random.default_rng(derive_seed(seed))
    if stratify is not None and stratify is not False:
        labels = _own_targets(dataset) if stratify is True else stratify
        part = _stratified(_column("stratify", labels, n), shares, rng)
    elif groups is not None:
        part = _grouped(_column("groups", groups, n), shares, rng)
    elif time is not None:
        part = _timed(_column("time", time, n), shares)
    else:
        part = np.empty(n, dtype=np.int64)
        part[rng.permutation(n)] = np.repeat(np.arange(3), _counts(n, shares))
    train, valid, test = (torch.from_numpy(np.flatnonzero(part == k)) for k in range(3))
    return Splits(
        _subset(dataset, train), _subset(dataset, valid), _subset(dataset, test), (train, valid, test)
    )


def _checked_length(dataset: Any) -> int:
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise TrainlabError(
            f"a {type(dataset).__name__} has no length or no rows by number: split the list it is read from"
        )
    if len(dataset) == 0:
        raise TrainlabError("the data set is empty (0 rows): there is nothing to split")
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
    return column


def _own_targets(dataset: Any) -> Any:
    if not isinstance(dataset, Dataset):
        raise TrainlabError(
            f"stratify=True needs a data set with targets, not a {type(dataset).__name__}: give the labels"
        )
    if not dataset.classes:
        raise TrainlabError(
            "stratify=True needs classes, but the targets are values: give labels to stratify by"
        )
    return dataset.targets


def _counts(n: int, shares: NDArray[np.float64]) -> Counts:
    """Whole numbers nearest to n * shares that sum to n (largest remainders get the rest)."""
    exact = n * shares
    counts: Counts = np.floor(exact + 1e-9).astype(np.int64)
    rest = n - counts.sum()
    counts[np.argsort(counts - exact, kind="stable")[:rest]] += 1
    return counts


def _stratified(labels: NDArray[Any], shares: NDArray[np.float64], rng: np.random.Generator) -> Counts:
    classes, sizes = np.unique(labels, return_counts=True)
    needed = int((shares > 0).sum())
    if sizes.min() < needed:
        rare = sizes.argmin()
        raise TrainlabError(
            f"class {classes[rare]!s} has {sizes[rare]} row(s), fewer than the {needed} parts: "
            "merge it with another class, drop it, or split without stratify"
        )
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
    # the largest first, each to the part that lacks most: small groups then even out the shares
    order = rng.permutation(len(names))
    order = order[np.argsort(-sizes[order], kind="stable")]
    lack = len(groups) * shares
    filled = shares == 0
    home = np.empty(len(names), dtype=np.int64)
    for place, group in enumerate(order):
        must = len(order) - place <= (~filled).sum()  # as many groups left as parts still empty
        home[group] = np.where(filled & must, -np.inf, np.where(shares > 0, lack, -np.inf)).argmax()
        lack[home[group]] -= sizes[group]
        filled[home[group]] = True
    return home[member]


def _timed(time: NDArray[Any], shares: NDArray[np.float64]) -> Counts:
    order = np.argsort(time, kind="stable")
    ordered = time[order]
    cuts = np.cumsum(_counts(len(time), shares))[:2]
    # equal times stay together: a cut moves back to the first row of its moment
    cuts = np.array([cut if cut == len(time) else np.searchsorted(ordered, ordered[cut]) for cut in cuts])
    part = np.empty(len(time), dtype=np.int64)
    part[order] = np.searchsorted(cuts, np.arange(len(time)), side="right")
    missing = [
        name for k, name in enumerate(("train", "valid", "test")) if shares[k] > 0 and not (part == k).any()
    ]
    if missing:
        raise TrainlabError(
            f"too few different times ({len(np.unique(time))}): {' and '.join(missing)} would be empty; "
            "give finer times or fewer parts"
        )
    return part


def _subset(dataset: Any, index: Tensor) -> Part:
    if isinstance(dataset, Dataset | TextDataset):
        return dataset.subset(index)
    return Subset(dataset, index.tolist())
