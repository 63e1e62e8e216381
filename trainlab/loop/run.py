"""One call of `train`: its arguments, where it stands, and how a step is taken back."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..losses import LossFunction
from ..precision import device_of, make_scaler
from ..state import TrainState, Update
from .config import TrainConfig

if TYPE_CHECKING:
    from .finite import DeferredWatch


@dataclass(slots=True)
class Run:
    """The arguments of `train`, and what the loop keeps between steps."""

    state: TrainState
    loader: Iterable[Any]
    loss_fn: LossFunction
    config: TrainConfig
    valid: Iterable[Any] | None
    device: torch.device
    update: Update
    buffers: list[tuple[dict[str, Tensor | None], str]] = field(default_factory=list)
    watch: DeferredWatch | None = None
    restarts: int = 0

    def finished(self) -> bool:
        """Whether the totals of the configuration are reached."""
        if self.config.epochs is not None:
            return self.state.epoch >= self.config.epochs
        return self.state.step >= (self.config.steps or 0)

    def validation_due(self) -> bool:
        """Whether this position calls for a validation that has not been made."""
        state, every = self.state, self.config.validate_every
        if self.valid is None or state.step == 0 or state.validated == state.step:
            return False
        at_boundary = state.samples == 0 if every == "epoch" else state.step % every == 0
        return at_boundary or self.finished()

    def total_steps(self) -> int | None:
        """The step at which the run will end, None if the loader does not know its length."""
        if self.config.steps is not None:
            return self.config.steps
        try:
            batches = len(self.loader)  # type: ignore[arg-type]
        except TypeError:
            return None
        return (self.config.epochs or 0) * math.ceil(batches / self.config.accumulate)

    def prepare(self) -> None:
        """Bring the model to its device and into training mode; make the scaler if one is needed."""
        state = self.state
        if device_of(state.model) != self.device:
            state.model.to(self.device)
            # the optimizer's own tensors follow its parameters when they are loaded
            state.optimizer.load_state_dict(state.optimizer.state_dict())
        if not state.model.training:  # left alone otherwise: parts may be in eval mode on purpose
            state.model.train()
        if self.config.precision != "fp16":
            state.scaler = None
        elif state.scaler is None:
            state.scaler = make_scaler(self.config.precision, self.device)


class Before:
    """Position, random state and buffers at the start of a step, to be put back if it is broken off."""

    __slots__ = ("_buffers", "_device_rng", "_host_rng", "_position", "_run", "grad_mode", "step")

    def __init__(self, run: Run) -> None:
        state = run.state
        self._run = run
        self.step = state.step
        self.grad_mode = torch.is_grad_enabled()
        self._position = (state.step, state.epoch, state.samples)
        self._host_rng = torch.default_generator.get_state()
        kind = run.device.type
        self._device_rng = None if kind == "cpu" else getattr(torch, kind).get_rng_state()
        self._buffers = [kept.clone() for place, name in run.buffers if (kept := place[name]) is not None]

    def restore(self) -> None:
        """Put all of it back, and let the scaler forget that gradients were unscaled."""
        state, device = self._run.state, self._run.device
        torch.set_rng_state(self._host_rng)
        if self._device_rng is not None:
            getattr(torch, device.type).set_rng_state(self._device_rng)
        present = (place[name] for place, name in self._run.buffers)
        for buffer, kept in zip((buffer for buffer in present if buffer is not None), self._buffers):
            buffer.copy_(kept)
        state.step, state.epoch, state.samples = self._position
        if state.scaler is not None:
            fresh = torch.amp.GradScaler(device.type)
            fresh.load_state_dict(state.scaler.state_dict())
            state.scaler = fresh
