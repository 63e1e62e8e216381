"""Reading the parts of a split, whatever they are, into arrays that can be compared."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

from ...errors import TrainlabError

Array = NDArray[Any]
NAMES = ("train", "valid", "test")
_PAIR = 2


@dataclass(frozen=True, slots=True)
class Part:
    """One part, as arrays.

    kind: "table" (N, D), "images" (N, C, H, W), "texts" (N,) of str, or "empty".
    groups, time: (N,), or None.  codes: which columns hold the codes of categories.
    """

    name: str
    kind: str
    values: Array
    targets: Array | None
    rows: Array
    groups: Array | None = None
    time: Array | None = None
    columns: tuple[str, ...] = ()
    codes: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self.values)


def read_parts(splits: Any, groups: Any, time: Any) -> list[Part]:
    """The parts of `splits`, with their groups and times, in the order train, valid, test.

    groups, time: as `leakage` takes them; None leaves the data set's own, False takes them away.
    Raises TrainlabError if there are no two parts, if they do not hold rows of one kind, or if `groups`
    or `time` do not fit them.
    """
    given = (
        list(splits) if hasattr(splits, "__iter__") and not isinstance(splits, Tensor | np.ndarray) else []
    )
    if not _PAIR <= len(given) <= len(NAMES):
        raise TrainlabError(
            f"splits is a {type(splits).__name__}, which is no 2 or 3 parts: give what `split` or a fold of "
            "`folds` returns, or a tuple of parts (train, valid, test)"
        )
    indices = [as_array(index) for index in getattr(splits, "indices", ())]
    indices = indices if len(indices) == len(given) else []
    parts = [read_part(name, part) for name, part in zip(NAMES, _frames_as_numbers(given))]
    if indices and not any(_keeps_rows(part) for part in given):
        parts = [replace(part, rows=index) for part, index in zip(parts, indices)]
    for field, column in (("groups", groups), ("time", time)):
        cut = _cut(field, column, parts, indices)
        for part, values in zip(parts, cut):
            if values is not None and len(values) != len(part):
                raise TrainlabError(
                    f"{field} has {len(values)} values for the {len(part)} rows of {part.name}: "
                    "give each row one"
                )
        if field == "groups":
            parts = [replace(part, groups=values) for part, values in zip(parts, cut)]
        else:
            parts = [replace(part, time=values) for part, values in zip(parts, cut)]
    kinds = {(part.kind, part.values.shape[1:]) for part in parts if len(part)}
    if len(kinds) > 1:
        shapes = ", ".join(f"{part.name}: {part.kind} {part.values.shape}" for part in parts)
        raise TrainlabError(f"the parts hold rows of different kinds ({shapes}): give parts of one data set")
    if not kinds:
        raise TrainlabError("all parts are empty (0 rows): there is nothing to compare")
    return _columns_in_one_order(parts)


def as_array(values: Any) -> Array:
    """Tensors, lists and pandas columns as an array."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _cut(field: str, given: Any, parts: list[Part], indices: list[Array]) -> list[Array | None]:
    """The values of `given` for each part: a column of the whole data set, or a column for each part."""
    if given is None or given is True:
        return [getattr(part, field) for part in parts]
    if given is False:
        return [None] * len(parts)
    if isinstance(given, tuple | list) and len(given) == len(parts) and np.ndim(given[0]) == 1:
        return [as_array(column) for column in given]
    whole = as_array(given)
    if indices and whole.ndim == 1 and all(index.max(initial=-1) < len(whole) for index in indices):
        return [whole[index] for index in indices]
    raise TrainlabError(
        f"{field} has shape {whole.shape}: give one value for each row of the data set that was split, or, "
        "for parts that you cut yourself, a tuple with a column for each part"
    )


def _keeps_rows(part: Any) -> bool:
    return hasattr(part, "rows") and hasattr(part, "targets")


def read_part(name: str, part: Any) -> Part:
    """One part as arrays: a data set, a Subset, an array, a list of texts, or a pair (features, targets).

    Raises TrainlabError if it is none of these, or its rows make no array of numbers.
    """
    if isinstance(part, Subset) and hasattr(part.dataset, "subset"):
        part = part.dataset.subset(part.indices)  # with groups, times and numbers of the rows
    values, targets = _values(part)
    n = len(values)
    own = {field: as_array(getattr(part, field, ())) for field in ("rows", "groups", "time")}
    columns = tuple(getattr(part, "columns", ()))
    codes = frozenset(columns.index(column) for column in getattr(part, "levels", ()) if column in columns)
    kind = "texts" if values.dtype.kind in "UO" else "images" if values.ndim > _PAIR else "table"
    return Part(
        name,
        kind if n else "empty",
        values if kind == "texts" else _shaped(values),
        targets,
        own["rows"] if len(own["rows"]) == n else np.arange(n),
        own["groups"] if n and len(own["groups"]) == n else None,
        own["time"] if n and len(own["time"]) == n else None,
        columns,
        codes,
    )


def _values(part: Any) -> tuple[Array, Array | None]:
    """What a part holds, row by row, and its targets."""
    if hasattr(part, "texts") or hasattr(part, "features"):
        features = part.texts if hasattr(part, "texts") else part.features
        return _plain(features), as_array(part.targets)
    if isinstance(part, TensorDataset):
        return _values(part.tensors)
    if isinstance(part, Subset):
        values, targets = _values(part.dataset)
        index = np.asarray(part.indices, dtype=np.int64)
        return values[index], None if targets is None else targets[index]
    if isinstance(part, Tensor | np.ndarray):
        return _plain(part), None
    if isinstance(part, tuple) and part and isinstance(part[0], Tensor | np.ndarray | list):
        return _plain(part[0]), as_array(part[1]) if len(part) > 1 else None
    if isinstance(part, list | tuple) and all(isinstance(row, str) for row in part):
        return _plain(part), None
    if not hasattr(part, "__len__") or not hasattr(part, "__getitem__"):
        raise TrainlabError(
            f"a part is a {type(part).__name__}, which has no length or no rows by number: give a data set, "
            "a Subset, an array, a list of texts, or a pair (features, targets)"
        )
    items = [part[index] for index in range(len(part))]
    if items and isinstance(items[0], tuple):
        return _plain([item[0] for item in items]), np.array([as_array(item[1]) for item in items])
    return _plain(items), None


def _plain(values: Any) -> Array:
    if isinstance(values, Tensor | np.ndarray):
        return as_array(values)
    if len(values) and isinstance(values[0], str):
        return np.array(list(values), dtype=object)  # as fixed-width text the longest row sets the memory
    try:
        return np.array([as_array(value) for value in values], dtype=np.float64)
    except (TypeError, ValueError):
        raise TrainlabError(
            f"the rows of a part are {type(values[0]).__name__}s that make no array of numbers: give "
            "tensors of "
            "one shape, or texts (convert pictures with torchvision.transforms.v2.functional.to_image)"
        ) from None


def _shaped(values: Array) -> Array:
    """Tables as (N, D), images as (N, C, H, W)."""
    if values.ndim <= _PAIR:
        return values.reshape(len(values), -1) if values.size else values.reshape(len(values), 0)
    height, width = values.shape[-2:]
    return values.reshape(len(values), -1, height, width) if values.size else values.reshape(0, 1, 1, 1)


def _frames_as_numbers(given: list[Any]) -> list[Any]:
    """pandas frames as arrays, their words numbered alike in all parts."""
    frames = [part[0] if isinstance(part, tuple) and part else part for part in given]
    if not all(hasattr(frame, "columns") and hasattr(frame, "iloc") for frame in frames):
        return given
    import pandas as pd  # slow to import, and only needed here

    whole = pd.concat(frames, ignore_index=True)
    numbers = np.stack(
        [
            whole[name]
            if pd.api.types.is_numeric_dtype(whole[name])
            else pd.factorize(whole[name].astype(str))[0]
            for name in frames[0].columns
        ],
        axis=1,
    ).astype(np.float64)
    cuts = np.split(numbers, np.cumsum([len(frame) for frame in frames])[:-1])
    return [(cut, *part[1:]) if isinstance(part, tuple) else cut for cut, part in zip(cuts, given)]


def _columns_in_one_order(parts: list[Part]) -> list[Part]:
    """The columns of every part in the order of the first, where they have names."""
    first = parts[0].columns
    ordered = []
    for part in parts:
        same = first and len(part) and part.columns != first and sorted(part.columns) == sorted(first)
        order = [part.columns.index(name) for name in first] if same else None
        ordered.append(part if order is None else replace(part, values=part.values[:, order], columns=first))
    return ordered
