"""The in-memory data set that the catalogue returns: tensors, names, and where each row came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import TrainlabError


@dataclass(frozen=True, eq=False, repr=False)
class Dataset(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Features and targets, row by row; `dataset[i]` is one (features, target) pair.

    features: (N, ...), floating.  targets: (N,) int64 classes, or floating values.
    classes: the name of each class, by label; empty for regression.
    columns: the name of each feature column of a table; empty for images.
    rows: (N,) int64, the row's number in the source, kept through `subset`.
    Raises TrainlabError if the lengths differ.
    """

    name: str
    features: Tensor
    targets: Tensor
    classes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    rows: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))

    def __post_init__(self) -> None:
        n = len(self.features)
        if len(self.targets) != n:
            raise TrainlabError(
                f"{len(self.targets)} targets for {n} rows of features: give each row one target"
            )
        if len(self.rows) == 0 and n > 0:
            object.__setattr__(self, "rows", torch.arange(n))

    @property
    def tensors(self) -> tuple[Tensor, Tensor]:
        """Features and targets: what a loader cuts its batches from."""
        return self.features, self.targets

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.features[index], self.targets[index]

    def subset(self, indices: Tensor | Sequence[int]) -> Dataset:
        """The rows at `indices`, in that order, as a data set of its own (a copy)."""
        index = torch.as_tensor(indices, dtype=torch.int64)
        return Dataset(
            self.name,
            self.features[index],
            self.targets[index],
            self.classes,
            self.columns,
            self.rows[index],
        )

    def __repr__(self) -> str:
        shape = "x".join(str(size) for size in self.features.shape[1:])
        kind = f"{len(self.classes)} classes" if self.classes else "a number to predict"
        return f"Dataset({self.name}: {len(self)} rows of {shape}, {kind})"
