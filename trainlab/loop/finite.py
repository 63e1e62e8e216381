"""Losses that are not finite: refused at once, or found late without making the device wait."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..data.batches import tensors_in
from ..errors import TrainlabError
from ..events import Scalar
from ..precision import autocast
from ..state import TrainState
from .run import Before, Run


def look(run: Run, before: Before, loss: Tensor, batch: Any) -> Scalar:
    """Refuse a loss that is not finite: now, or, where looking is deferred, put up the flag.

    Returns the loss as far as it was read: a number, or the tensor without its gradient.
    """
    if run.watch is not None:
        run.watch.note(loss)
        return loss.detach()
    value = loss.item()
    if math.isfinite(value):
        return value
    before.restore()
    origin = _origin(run, batch)
    run.state.optimizer.zero_grad()
    rate = float(run.state.optimizer.param_groups[0]["lr"]) * run.state.controls.lr_scale
    raise TrainlabError(
        f"the loss at step {before.step + 1} is {value}: {origin}. Lower the learning rate (now {rate:g}), "
        "set clip_norm=1.0, or mend the data; the state is as it was before the step"
    )


def look_at_gradients(run: Run, before: Before, norm: Tensor) -> None:
    """Refuse gradients that are not finite, where their norm is known anyway."""
    if run.watch is not None:
        run.watch.note(norm)
    elif run.state.scaler is None and not math.isfinite(norm.item()):  # a scaler skips such steps itself
        named = run.state.model.named_parameters()
        broken = (name for name, p in named if p.grad is not None and not _finite(p.grad))
        culprit = next(broken, "a parameter outside the model")
        raise TrainlabError(
            f"the gradient at step {before.step + 1} is not finite (first in {culprit!r}) though the loss "
            "is: look for sqrt(0), log(0) or a division by 0; the state is as it was before the step"
        )


def _finite(value: Any) -> bool:
    return all(bool(torch.isfinite(t).all()) for t in tensors_in(value) if t.is_floating_point())


def _origin(run: Run, batch: Any) -> str:
    """What came first: the weights, the batch, a layer's output, or the loss function itself."""
    model = run.state.model
    for name, parameter in model.named_parameters():
        if not _finite(parameter):
            return f"the weights {name!r} were not finite before it (the update before went too far)"
    if not _finite(batch):
        return "the batch itself holds values that are not finite"
    found: list[str] = []

    def recorder(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def record(module: nn.Module, inputs: Any, output: Any) -> None:
            if not found and not _finite(output):
                kind = type(module).__name__
                found.append(f"the first layer whose output is not finite is {name!r} ({kind})")

        return record

    hooks = [module.register_forward_hook(recorder(name)) for name, module in model.named_modules() if name]
    try:
        with torch.no_grad(), autocast(run.config.precision, run.device):
            run.loss_fn(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else "every layer's output is finite, so the loss function made it"


class _Settings:
    """Schedule, the optimizer's settings and the controls applied, as they are before an update."""

    __slots__ = ("_applied", "_groups", "_known", "_schedule", "_state")

    def __init__(self, state: TrainState) -> None:
        self._state = state
        self._schedule = None if state.scheduler is None else state.scheduler.state_dict()
        # a schedule may move momentum with the rate, and fills rates that are tensors in place
        self._groups = [
            {k: v.clone() if isinstance(v, Tensor) else v for k, v in group.items() if k != "params"}
            for group in state.optimizer.param_groups
        ]
        self._known = len(state.optimizer.state)
        self._applied = state.applied

    def restore(self) -> None:
        """Put them back; controls changed since are applied, and told, anew."""
        state = self._state
        if state.scheduler is not None and self._schedule is not None:
            state.scheduler.load_state_dict(self._schedule)
        for group, kept in zip(state.optimizer.param_groups, self._groups):
            group.update(kept)
        # a skipped first update leaves buffers that nothing was written to
        for parameter in list(state.optimizer.state)[self._known :]:
            del state.optimizer.state[parameter]
        state.applied = self._applied


class DeferredWatch:
    """Finds a loss that is not finite without making the device wait at every step.

    A flag on the device goes up at the first one and stays up; a fused optimizer that finds it up
    skips its update. Weights thus wait at the last good step until the flag is read.
    """

    def __init__(self, run: Run, every: int) -> None:
        self._run = run
        self._every = every
        self._flag = torch.zeros((), device=run.device)
        self._window: list[tuple[Before, Tensor, _Settings]] = []

    @property
    def full(self) -> bool:
        """Whether it is time to read the flag."""
        return len(self._window) >= self._every

    def bad(self) -> bool:
        """Read the flag, and leave it as it is."""
        return bool(self._window) and bool(self._flag.item())

    def note(self, value: Tensor) -> None:
        """Put the flag up if `value` is not finite."""
        self._flag = torch.maximum(self._flag, (~torch.isfinite(value.detach())).float())

    def remember(self, before: Before) -> None:
        """Keep what the coming update changes besides the weights (call it before rates are scaled)."""
        self._window.append((before, self._flag, _Settings(self._run.state)))

    def step(self, optimizer: Any) -> None:
        """The optimizer's step, skipped on the device where the flag is up."""
        # the two attributes by which torch's own GradScaler tells a fused optimizer to skip
        optimizer.grad_scale, optimizer.found_inf = None, self._flag
        try:
            optimizer.step()
        finally:
            del optimizer.grad_scale, optimizer.found_inf

    def roll_back(self) -> int | None:
        """Read the flag; if it is up, go back to before the first bad step and return its number."""
        bad, window, self._window = self.bad(), self._window, []
        if not bad:
            return None
        flags = torch.stack([flag for _, flag, _ in window])
        before, _, settings = window[int(flags.nonzero()[0])]
        with self._run.update:
            before.restore()
            settings.restore()
        self._flag = torch.zeros((), device=self._run.device)
        return before.step + 1
