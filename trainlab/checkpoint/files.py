"""A checkpoint on disk: a directory of four files that can be checked, and of which none can run anything.

weights.safetensors   the model's tensors, by their names in its state_dict
tensors.safetensors   all other tensors of the run
state.json            everything else, with a reference where a tensor was
manifest.json         length and SHA-256 of each of these and of itself; written last

Tensors that are one and the same (tied weights) are stored once; the others' names are in the metadata of
the file, as Hugging Face's `safetensors.torch.save_model` puts them.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..errors import TrainlabError

WEIGHTS, TENSORS, STATE, MANIFEST = (
    "weights.safetensors",
    "tensors.safetensors",
    "state.json",
    "manifest.json",
)
FILES = (WEIGHTS, TENSORS, STATE)
FORMAT = 1
_KIND = "$"  # the key that marks what JSON has no word for
_PLAIN = {int, str, bool, type(None)}

# containers by the name that stands for them, how each is taken apart into a list and put together again
_LISTS: dict[str, type] = {"tuple": tuple, "set": set}
_MAPS: dict[str, Callable[[list[Any]], Any]] = {
    "dict": dict,
    "counter": lambda pairs: Counter(dict(pairs)),
}


def write(directory: Path, state: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Write what `TrainState.state_dict` returned into `directory`, all of it on the disk on return.

    about: what the manifest says besides.
    Raises TrainlabError, naming it, if something is neither tensor nor plain value; OSError or
    SafetensorError if the disk refuses.
    """
    weights = {name: part for name, part in state["model"].items() if isinstance(part, Tensor)}
    extra = {name: part for name, part in state["model"].items() if name not in weights}
    for name, tensor in weights.items():
        _check_tensor(tensor, f"model.{name}")
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_packed({**state, "model": extra}, tensors, ""), allow_nan=False)
    _write_tensors(directory / WEIGHTS, weights)
    _write_tensors(directory / TENSORS, tensors)
    (directory / STATE).write_text(text, encoding="utf-8")
    files = {name: _sealed(directory / name) for name in FILES}
    manifest = {"format": FORMAT, **about, "files": files}
    (directory / MANIFEST).write_text(_manifest_text(manifest), encoding="utf-8")
    _sealed(directory / MANIFEST)
    sync_directory(directory)


def sync_directory(directory: Path) -> None:
    """Have the names in a directory reach the disk."""
    number = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _sealed(path: Path) -> dict[str, Any]:
    """Length and digest of a file that has reached the disk."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    return {"bytes": path.stat().st_size, "sha256": digest}


def _manifest_text(manifest: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(manifest).encode()).hexdigest()
    return json.dumps({**manifest, "sha256": digest}, indent=1)


def read_manifest(directory: Path) -> dict[str, Any] | None:
    """The manifest of a checkpoint, None where it is missing or damaged (any byte of it counts)."""
    try:
        text = (directory / MANIFEST).read_text(encoding="utf-8")
        manifest = json.loads(text)
        del manifest["sha256"]
        named = isinstance(manifest["number"], int) and set(FILES) <= manifest["files"].keys()
        return manifest if named and _manifest_text(manifest) == text else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def flaw(directory: Path) -> str | None:
    """What is wrong with a checkpoint, as a clause that names the file; None if every byte is as written."""
    manifest = read_manifest(directory)
    if manifest is None:
        missing = not (directory / MANIFEST).exists()
        return f"{MANIFEST} is missing" if missing else f"{MANIFEST} is damaged: it is not what was written"
    if manifest["format"] != FORMAT:
        return f"{MANIFEST} says format {manifest['format']}, and this version of trainlab reads {FORMAT}"
    for name in FILES:
        path, written = directory / name, manifest["files"][name]
        if not path.is_file():
            return f"{name} is missing"
        if (size := path.stat().st_size) != written["bytes"]:
            return f"{name} is damaged: it has {size} bytes, {written['bytes']} were written"
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != written["sha256"]:
                return f"{name} is damaged: its bytes are not those that were written"
    return None


def read(directory: Path) -> dict[str, Any]:
    """What `write` was given, from the files of a checkpoint without a flaw.

    Nothing in them is ever run: a file that only pretends to be one of these raises TrainlabError.
    """
    name = STATE
    try:
        tree = json.loads((directory / STATE).read_text(encoding="utf-8"))
        tensors, weights = (_read_tensors(directory / (name := each)) for each in (TENSORS, WEIGHTS))
        name = STATE
        state = _unpacked(tree, tensors)
        return {**state, "model": {**weights, **state["model"]}}
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise TrainlabError(
            f"{str(directory / name)!r} is not what its name says ({type(error).__name__}): whoever made "
            "this checkpoint did not use save_checkpoint; do not use it"
        ) from error


# --- tensors


def _check_tensor(tensor: Tensor, where: str) -> None:
    if type(tensor) not in (Tensor, nn.Parameter, nn.Buffer) or tensor.layout != torch.strided:
        kind = f"a {tensor.layout} tensor" if type(tensor) is Tensor else f"a {type(tensor).__name__}"
        raise TrainlabError(
            f"{where} is {kind}, and a checkpoint holds dense torch tensors: convert it in state_dict"
        )


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    first: dict[Any, str] = {}
    aliases, kept = {}, {}
    for name, tensor in tensors.items():
        place = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if tensor.numel() and place in first:
            aliases[name] = first[place]
            continue
        first[place] = name
        plain = tensor.detach().cpu().contiguous()
        whole = plain.untyped_storage().nbytes() == plain.nbytes
        kept[name] = plain if whole else plain.clone()  # a part of something larger is stored by itself
    save_file(kept, path, aliases)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    with safe_open(path, "pt") as file:
        # cloned: the file's own memory is aligned otherwise, and goes with the file
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        aliases = file.metadata() or {}
    return tensors | {name: tensors[kept] for name, kept in aliases.items()}


# --- everything else


def _packed(value: Any, tensors: dict[str, Tensor], where: str) -> Any:
    """`value` as JSON can say it; tensors are put into `tensors` under the names that stand for them."""

    def inside(part: Any, key: object) -> Any:
        if type(part) in _PLAIN:  # most of a history: no need to say where it is
            return part
        return _packed(part, tensors, f"{where}.{key}" if where else str(key))

    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {_KIND: "float", "is": str(float(value))}
    if isinstance(value, np.generic):
        return inside(value.item(), "item")
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return {_KIND: "array", "is": inside(torch.from_numpy(value.copy()), "array")}
    if isinstance(value, Tensor):
        _check_tensor(value, where)
        name = where
        while name in tensors:  # {"a": {"b": ...}, "a.b": ...}
            name += "'"
        tensors[name] = value
        dense = value.untyped_storage().nbytes() == value.nbytes and 0 not in value.stride()
        laid = {} if value.is_contiguous() or not dense else {"stride": list(value.stride())}
        return {_KIND: "tensor", "is": name, **laid}
    if type(value) is list:
        return [inside(part, place) for place, part in enumerate(value)]
    word = next((name for name, kind in _LISTS.items() if type(value) is kind), None)
    if word is not None:
        return {_KIND: word, "is": [inside(part, place) for place, part in enumerate(value)]}
    if not isinstance(value, Mapping):
        raise TrainlabError(
            f"{where} is a {type(value).__name__}: a checkpoint holds tensors, numbers, texts and containers "
            "of them, since nothing in it may run; return plain values from state_dict"
        )
    if not isinstance(value, Counter) and all(isinstance(key, str) and key != _KIND for key in value):
        return {key: inside(part, key) for key, part in value.items()}
    pairs = [[inside(key, "key"), inside(part, key)] for key, part in value.items()]
    return {_KIND: "counter" if isinstance(value, Counter) else "dict", "is": pairs}


def _unpacked(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What `_packed` made `value` of; a KeyError for a kind that it does not make."""
    if isinstance(value, list):
        return [_unpacked(part, tensors) for part in value]
    if not isinstance(value, dict):
        return value
    if _KIND not in value:
        return {key: _unpacked(part, tensors) for key, part in value.items()}
    kind, content = value[_KIND], value["is"]
    if kind == "float":
        return float(content)
    if kind == "array":
        return _unpacked(content, tensors).numpy()
    if kind == "tensor":
        tensor = tensors[content]
        stride = value.get("stride")
        return (
            tensor if stride is None else torch.empty_strided(tensor.shape, stride).to(tensor).copy_(tensor)
        )
    parts = _unpacked(content, tensors)
    return _LISTS[kind](parts) if kind in _LISTS else _MAPS[kind](parts)
