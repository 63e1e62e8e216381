"""Tables: columns of numbers and of categories to a tensor, and back to a pandas DataFrame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import TrainlabError

if TYPE_CHECKING:
    import pandas as pd

    from .dataset import Dataset

# More different texts than this are hardly categories, more different numbers hardly classes.
MOST_CLASSES = 20

Levels = dict[str, tuple[str, ...]]


def encoded(columns: Mapping[str, NDArray[Any]]) -> tuple[torch.Tensor, Levels]:
    """Columns as one float32 tensor, (N, columns), and the names of the categories in it.

    columns: each (N,), of numbers, or of objects that are categories.  A category becomes the place of
    its name in alphabetical order; what is missing (None or NaN) becomes NaN.
    """
    features = np.empty((len(next(iter(columns.values()))), len(columns)), dtype=np.float32)
    levels: Levels = {}
    for place, (name, values) in enumerate(columns.items()):
        if values.dtype.kind in "biuf":
            features[:, place] = values
        else:
            features[:, place], levels[name] = codes(values)
    return torch.from_numpy(features), levels


def codes(values: NDArray[Any]) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """The place of each value among the sorted names, NaN where there is none, and those names."""
    absent = np.array([value is None or value != value for value in values], dtype=bool)
    texts = np.array([str(value) for value in values], dtype=np.str_)
    names, found = np.unique(texts[~absent], return_inverse=True)
    numbers = np.full(len(values), np.nan, dtype=np.float32)
    numbers[~absent] = found
    return numbers, tuple(names.tolist())


def frame_of(dataset: Dataset) -> pd.DataFrame:
    """What `Dataset.frame` returns."""
    import pandas as pd

    if not dataset.columns:
        raise TrainlabError(
            f"{dataset.name} has no columns, so it is no table: look at its `features` and `targets`"
        )
    table: dict[str, Any] = {}
    for name, values in zip(dataset.columns, dataset.features.T.numpy()):
        table[name] = _decoded(values, dataset.levels.get(name))
    for name, extra in (("group", dataset.groups), ("time", dataset.time)):
        if len(extra):
            table[_free(name, table)] = extra.numpy()
    targets = dataset.targets.numpy()
    named = pd.Categorical.from_codes(targets, list(dataset.classes)) if dataset.classes else targets
    table[_free("target", table)] = named
    return pd.DataFrame(table, index=pd.Index(dataset.rows.numpy(), name="row"))


def _decoded(values: NDArray[np.float32], names: tuple[str, ...] | None) -> Any:
    import pandas as pd

    if names is not None:
        return pd.Categorical.from_codes(np.where(np.isnan(values), -1, values).astype(np.int64), list(names))
    if np.isfinite(values).all() and (values == np.round(values)).all():
        return values.astype(np.int64)  # whole numbers read better without ".0"
    return values


def _free(name: str, table: Mapping[str, Any]) -> str:
    """The name, or the name with underscores before it where a column has it already."""
    while name in table:
        name = f"_{name}"
    return name
