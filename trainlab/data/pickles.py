"""Pickles of numpy arrays and of pandas frames, read without running anything that they ask for.

A pickle is a program: it may name any function of any module and have it called. The unpickler here
knows an exact list of names, and what stands behind each of them is written in this file. pandas
itself is not needed, and its version does not matter.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import TrainlabError


class _Frame:
    """Stands for a pandas DataFrame: keeps its state, and does nothing with it."""

    state: dict[str, Any]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.state = state


def _empty_array(kind: type, shape: tuple[int, ...], code: bytes) -> NDArray[Any]:
    """An array without content, which the pickle then fills (numpy's `_reconstruct`)."""
    return np.ndarray(shape, np.dtype("b"))


def _array_of(content: Any, dtype: Any, shape: tuple[int, ...], order: str) -> NDArray[Any]:
    """An array of bytes that lie in the pickle as they are (numpy's `_frombuffer`)."""
    array: NDArray[Any] = np.frombuffer(content, dtype=dtype)
    return array.reshape(shape, order="F" if order == "F" else "C")


def _index(kind: object, parts: dict[str, Any]) -> Any:
    return parts.get("data")


def _block(values: Any, places: Any, dimensions: int) -> tuple[Any, Any]:
    return values, places


def _blocks(*parts: Any) -> tuple[Any, ...]:
    return parts


# Every name that a pickle may ask for, as (module, name), and what it gets for it.
_ARRAYS: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy.core.numeric", "_frombuffer"): _array_of,
}
_FRAMES: dict[tuple[str, str], Any] = {
    **_ARRAYS,
    ("builtins", "slice"): slice,
    ("pandas.core.frame", "DataFrame"): _Frame,
    ("pandas.core.internals.managers", "BlockManager"): _blocks,
    ("pandas._libs.internals", "_unpickle_block"): _block,
    ("pandas.core.indexes.base", "_new_Index"): _index,
    ("pandas.core.indexes.base", "Index"): None,
    ("pandas.core.indexes.range", "RangeIndex"): None,
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, content: bytes, known: dict[tuple[str, str], Any]) -> None:
        super().__init__(io.BytesIO(content))
        self._known = known

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._known:
            raise TrainlabError(
                f"the pickle asks for {module}.{name}, which is not among the names that belong to plain "
                "data: do not open this file; delete it and run `trainlab fetch` again"
            )
        return self._known[module, name]


def read_array(content: bytes) -> NDArray[Any]:
    """The numpy array in a pickle.

    Raises TrainlabError if the pickle asks for anything but numpy arrays, or is damaged.
    """
    array = _unpickled(content, _ARRAYS)
    if not isinstance(array, np.ndarray):
        raise TrainlabError(f"the pickle holds a {type(array).__name__}: a numpy array was expected")
    return array


def read_columns(content: bytes) -> dict[str, NDArray[Any]]:
    """The columns of the pandas DataFrame in a pickle, by name, each (N,): numbers or objects.

    Raises TrainlabError if the pickle asks for anything but such a frame, or is damaged.
    """
    frame = _unpickled(content, _FRAMES)
    if not isinstance(frame, _Frame):
        raise TrainlabError(f"the pickle holds a {type(frame).__name__}: a pandas DataFrame was expected")
    blocks, axes = frame.state["_mgr"]
    names = axes[0].tolist()
    found: dict[str, NDArray[Any]] = {}
    for values, places in blocks:
        numbers = range(*places.indices(len(names))) if isinstance(places, slice) else places.tolist()
        found |= {names[number]: values[k] for k, number in enumerate(numbers)}
    return {name: found[name] for name in names}


def _unpickled(content: bytes, known: dict[tuple[str, str], Any]) -> Any:
    try:
        return _Unpickler(content, known).load()
    except TrainlabError:
        raise
    except Exception as error:  # a damaged pickle raises almost anything
        raise TrainlabError(
            f"the pickle is damaged ({type(error).__name__}: {error}): delete the file and run "
            "`trainlab fetch` again"
        ) from error
