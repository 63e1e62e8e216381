"""The number format of the forward pass: autocast, and the scaler that float16 needs."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from .errors import TrainlabError, unknown_name

_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def check_precision(precision: str) -> None:
    """Raise TrainlabError unless `precision` is "fp32", "bf16" or "fp16"."""
    if precision not in _DTYPES:
        raise unknown_name("precision", precision, _DTYPES)


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """A context in which matrix products run in the given precision; for fp32 one that does nothing.

    Weights stay in float32. Enter it anew for each forward pass, never across a `yield`.
    """
    dtype = _DTYPES[precision]
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def make_scaler(precision: str, device: torch.device) -> torch.amp.GradScaler | None:
    """The gradient scaler that `precision` needs on `device`: one for fp16, None otherwise."""
    if precision != "fp16":
        return None
    if device.type == "cpu":
        warnings.warn(
            "precision='fp16' on a CPU works but is slow: choose 'bf16' or 'fp32' here", stacklevel=2
        )
    return torch.amp.GradScaler(device.type)


def choose_device(device: str | torch.device) -> torch.device:
    """The device that `device` names; "auto" takes CUDA, else MPS, else the CPU.

    Raises TrainlabError if the name is unknown or the device is not there.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise unknown_name("device", device, ["auto", "cpu", "cuda", "mps"]) from error
    absent = (chosen.type == "cuda" and not torch.cuda.is_available()) or (
        chosen.type == "mps" and not torch.backends.mps.is_available()
    )
    if absent:
        raise TrainlabError(f"device={str(device)!r} is not available on this machine: use device='auto'")
    return chosen


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter is; the CPU for a model without any."""
    first = next(model.parameters(), None)
    return torch.device("cpu") if first is None else first.device
