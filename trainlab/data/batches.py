"""What the loop needs of a batch, whatever its form: its rows, its tensors, its device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import TrainlabError
from .loaders import Loader


def epoch_batches(loader: Iterable[Any], epoch: int, start: int) -> Iterator[Any]:
    """The batches of an epoch from row `start` on, of our loader or of any iterable."""
    if isinstance(loader, Loader):
        return loader.batches(epoch, start)
    return _skipping(loader, epoch, start)


def _skipping(loader: Iterable[Any], epoch: int, start: int) -> Iterator[Any]:
    sampler: Any = getattr(loader, "sampler", None)
    if hasattr(sampler, "set_epoch"):
        sampler.set_epoch(epoch)
    skipped = 0
    for batch in loader:
        if skipped < start:
            skipped += rows_of(batch)
        else:
            yield batch


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors inside nested tuples, lists and mappings, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from tensors_in(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from tensors_in(part)


def rows_of(batch: Any) -> int:
    """Rows of a batch: the length of its first tensor.  Raises TrainlabError if it holds none."""
    first = batch
    while not isinstance(first, Tensor):
        if isinstance(first, Mapping):
            first = next(iter(first.values()), None)
        elif isinstance(first, list | tuple) and first:
            first = first[0]
        else:
            raise TrainlabError(
                f"a batch of type {type(batch).__name__} holds no tensor: collate it into tensors"
            )
    return first.shape[0] if first.dim() else 1


def to_device(batch: Any, device: torch.device) -> Any:
    """The batch with all its tensors on `device`; on a CPU the batch itself."""
    if device.type == "cpu":
        return batch
    if isinstance(batch, Mapping):
        return {name: to_device(part, device) for name, part in batch.items()}
    if isinstance(batch, list | tuple):
        return [to_device(part, device) for part in batch]
    return batch.to(device, non_blocking=True) if hasattr(batch, "to") else batch
