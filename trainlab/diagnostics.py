"""Measuring a model from the inside; nothing here changes it, and nothing draws."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .errors import TrainlabError
from .randomness import preserve_rng


@dataclass(frozen=True, slots=True)
class ActivationStats:
    """What a part of a model gave for a batch.

    mean, rms: over all its values.  spread: how much the rows differ, the deviation of each unit over the
    rows, root mean square over the units.  zeros: share of values that are exactly 0.
    """

    name: str
    kind: str
    mean: float
    rms: float
    spread: float
    zeros: float


def activation_stats(
    model: nn.Module, batch: Any, *, of: type[nn.Module] | tuple[type[nn.Module], ...] | None = None
) -> list[ActivationStats]:
    """Measure what the parts of `model` give for one batch, in the order in which they are called.

    batch: rows as a loader gives them, inputs first, or the inputs alone; at least two rows.
    of: the kinds of parts to measure; None for every part that has no parts of its own.
    The model is measured in the mode it is in; its buffers and all random states are put back.
    Raises TrainlabError if there is no such part, or fewer than two rows.
    """
    inputs = batch[0] if isinstance(batch, tuple | list) else batch
    if len(inputs) < 2:
        raise TrainlabError(f"the batch has {len(inputs)} row: rows differ from two on")
    parts = [(name, part) for name, part in model.named_modules() if _is_meant(part, of)]
    if not parts:
        wanted = of if isinstance(of, tuple) else (of,)
        kinds = " or ".join(kind.__name__ for kind in wanted if kind is not None)
        raise TrainlabError(f"the model has no part of kind {kinds}: print(model) shows its parts")
    found: list[ActivationStats] = []
    hooks = [part.register_forward_hook(_noting(found, name)) for name, part in parts]
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        with preserve_rng(), torch.no_grad():
            model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
        _put_back(kept)
    return found


def _is_meant(part: nn.Module, of: type[nn.Module] | tuple[type[nn.Module], ...] | None) -> bool:
    return isinstance(part, of) if of is not None else not any(part.children())


def _noting(found: list[ActivationStats], name: str) -> Any:
    def note(part: nn.Module, _: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output  # a recurrent layer gives two
        if torch.is_tensor(first) and first.is_floating_point():
            found.append(_measured(name, type(part).__name__, first.detach().double().flatten(1)))

    return note


def _measured(name: str, kind: str, values: Tensor) -> ActivationStats:
    """values: (rows, units)."""
    return ActivationStats(
        name=name,
        kind=kind,
        mean=values.mean().item(),
        rms=values.square().mean().sqrt().item(),
        spread=values.var(0, correction=0).mean().sqrt().item(),
        zeros=(values == 0).double().mean().item(),
    )


@torch.no_grad()
def _put_back(kept: Iterable[tuple[Tensor, Tensor]]) -> None:
    for buffer, value in kept:
        buffer.copy_(value)
