"""The in-memory data sets that the catalogue returns: what is learned from, and where each row came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import TrainlabError

if TYPE_CHECKING:
    import pandas as pd


# The target of a row without one; what losses and metrics of language models ignore.
UNLABELLED = -100


def _none() -> Tensor:
    return torch.empty(0, dtype=torch.int64)


@dataclass(frozen=True, eq=False, repr=False)
class Dataset(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Features and targets, row by row; `dataset[i]` is one (features, target) pair.

    features: (N, ...), floating; NaN where a table has no value.
    targets: (N,) int64 classes, or floating values.
    classes: the name of each class, by label; empty for regression.
    columns: the name of each feature column of a table; empty for images.
    rows: (N,) int64, the row's number in the source, kept through `subset`.
    groups: (N,) int64, the patient or product that a row belongs to; empty where there is none.
    time: (N,) sortable numbers, such as days since the first; empty where there is none.
    levels: for each column that holds category codes, the name that each code stands for.
    Raises TrainlabError if the lengths differ or `levels` names no column.
    """

    name: str
    features: Tensor
    targets: Tensor
    classes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    rows: Tensor = field(default_factory=_none)
    groups: Tensor = field(default_factory=_none)
    time: Tensor = field(default_factory=_none)
    levels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _complete(self, len(self.features), "rows of features")
        if strange := set(self.levels) - set(self.columns):
            raise TrainlabError(
                f"levels are given for {sorted(strange)}, which are no columns: use the names in `columns`"
            )

    @property
    def tensors(self) -> tuple[Tensor, Tensor]:
        """Features and targets: what a loader cuts its batches from."""
        return self.features, self.targets

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.features[index], self.targets[index]

    def subset(self, indices: Tensor | Sequence[int] | Sequence[bool]) -> Dataset:
        """The rows at `indices`, in that order, as a data set of its own (a copy).

        indices: row numbers, or one boolean for each row.
        """
        index = _row_numbers(indices, len(self))
        return Dataset(
            self.name,
            self.features[index],
            self.targets[index],
            self.classes,
            self.columns,
            self.rows[index],
            _chosen(self.groups, index),
            _chosen(self.time, index),
            self.levels,
        )

    def frame(self) -> pd.DataFrame:
        """The table as a pandas DataFrame, categories and classes by their names, indexed by `rows`.

        After the columns come "group" and "time", where the data set has them, and "target".
        Raises TrainlabError if the data set is no table.
        """
        from .tables import frame_of  # it imports pandas, which is slow

        return frame_of(self)

    def __repr__(self) -> str:
        shape = "x".join(str(size) for size in self.features.shape[1:])
        return f"Dataset({self.name}: {len(self)} rows of {shape}, {_kind(self.classes)})"


@dataclass(frozen=True, eq=False, repr=False)
class TextDataset(torch.utils.data.Dataset[tuple[str, Tensor]]):
    """Texts and targets, row by row; `dataset[i]` is one (text, target) pair.

    texts: N strings.  targets: (N,) int64 classes; UNLABELLED (-100) where a text has none.
    classes, rows, groups, time: as in `Dataset`.
    group_names: the name of each group, by its number; empty where they have none.
    Raises TrainlabError if the lengths differ.
    """

    name: str
    texts: tuple[str, ...]
    targets: Tensor
    classes: tuple[str, ...] = ()
    rows: Tensor = field(default_factory=_none)
    groups: Tensor = field(default_factory=_none)
    time: Tensor = field(default_factory=_none)
    group_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _complete(self, len(self.texts), "texts")

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> tuple[str, Tensor]:
        return self.texts[index], self.targets[index]

    def subset(self, indices: Tensor | Sequence[int] | Sequence[bool]) -> TextDataset:
        """The texts at `indices`, row numbers or one boolean for each, as a data set of its own."""
        index = _row_numbers(indices, len(self))
        return TextDataset(
            self.name,
            tuple(self.texts[place] for place in index.tolist()),
            self.targets[index],
            self.classes,
            self.rows[index],
            _chosen(self.groups, index),
            _chosen(self.time, index),
            self.group_names,
        )

    def __repr__(self) -> str:
        kind = _kind(self.classes) if self.classes else "without labels"
        return f"TextDataset({self.name}: {len(self)} texts, {kind})"


def _complete(dataset: Dataset | TextDataset, n: int, what: str) -> None:
    """Check that every row has one entry in everything, and number the rows where they have no numbers."""
    if len(dataset.targets) != n:
        raise TrainlabError(f"{len(dataset.targets)} targets for {n} {what}: give each row one target")
    if len(dataset.rows) == 0 and n > 0:
        object.__setattr__(dataset, "rows", torch.arange(n))
    for name in ("rows", "groups", "time"):
        values = getattr(dataset, name)
        if len(values) and values.shape != (n,):
            raise TrainlabError(
                f"{name} has shape {tuple(values.shape)} for {n} {what}: give one value for each row"
            )


def _row_numbers(indices: Tensor | Sequence[int] | Sequence[bool], n: int) -> Tensor:
    index = torch.as_tensor(indices)
    if index.dtype == torch.bool:
        if index.shape != (n,):
            raise TrainlabError(
                f"a mask of shape {tuple(index.shape)} for {n} rows: give one boolean for each row"
            )
        return index.nonzero().flatten()
    return index.to(torch.int64)


def _chosen(values: Tensor, index: Tensor) -> Tensor:
    return values[index] if len(values) else values


def _kind(classes: tuple[str, ...]) -> str:
    return f"{len(classes)} classes" if classes else "a number to predict"
