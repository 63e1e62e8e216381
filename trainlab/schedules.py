"""Learning-rate schedules: each takes the optimizer, and steps once with every optimizer step.

The rate that an optimizer was built with is the peak; groups with different rates keep their ratios.
Where a schedule has a `warmup`, the rate rises linearly over that many steps: 1/warmup of the peak at
the first, the whole peak at the last, so that no step is made at a rate of zero. Past its end a
schedule holds its last rate. What is saved is how far it has come, not its form: built anew as it was,
it goes on exactly; built with more `steps`, it follows the longer form from there.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from .errors import TrainlabError


def constant(optimizer: Optimizer, *, warmup: int = 0) -> LambdaLR:
    """The peak rate throughout, after the warm-up."""
    return _scheduled(optimizer, lambda done: 1.0, warmup)


def step(optimizer: Optimizer, *, every: int, factor: float = 0.1, warmup: int = 0) -> LambdaLR:
    """The rate times `factor` after every `every` steps, counted from the end of the warm-up."""
    _check_whole("every", every, 1)
    _check_within("factor", factor, 0.0, 1.0)
    return _scheduled(optimizer, lambda done: factor ** (done // every), warmup)


def warmup_linear(optimizer: Optimizer, *, steps: int, warmup: int = 0, final: float = 0.0) -> LambdaLR:
    """A linear fall from the peak, after the warm-up, to `final` times the peak once `steps` are done.

    steps: of the whole run, the warm-up's included.
    """
    return _scheduled(optimizer, _fall(steps, warmup, final, lambda part: 1 - part), warmup)


def warmup_cosine(optimizer: Optimizer, *, steps: int, warmup: int = 0, final: float = 0.0) -> LambdaLR:
    """Half a cosine from the peak, after the warm-up, to `final` times the peak once `steps` are done.

    steps: of the whole run, the warm-up's included.
    Source: Loshchilov & Hutter, SGDR, 2016, eq. 5 (one period); the warm-up of Goyal et al. 2017.
    """
    return _scheduled(optimizer, _fall(steps, warmup, final, _half_cosine), warmup)


def restarts(optimizer: Optimizer, *, period: int, multiply: int = 1, final: float = 0.0) -> LambdaLR:
    """Half cosines from the peak towards `final` times the peak, over and over.

    period: steps of the first (torch's T_0).  multiply: how many times as long each next one is (T_mult).
    final: as a fraction of the peak (torch's eta_min is a rate).
    Source: Loshchilov & Hutter, SGDR, 2016, eq. 5.
    """
    _check_whole("period", period, 1)
    _check_whole("multiply", multiply, 1)
    _check_within("final", final, 0.0, 1.0)

    def factor(done: int) -> float:
        length, since = period, done if multiply > 1 else done % period
        while since >= length:
            since, length = since - length, length * multiply
        return _between(_half_cosine(since / length), final)

    return _scheduled(optimizer, factor, warmup=0)


def one_cycle(
    optimizer: Optimizer,
    *,
    steps: int,
    peak: float | None = None,
    start: float = 1 / 25,
    final: float = 4e-6,
    warmup: float = 0.3,
) -> OneCycleLR:
    """Up by half a cosine from `start` times the peak, and down by another to `final` times the peak.

    peak: rate of the first group at the top; the others keep their ratios to it.  By default the
    optimizer's own.  warmup: the *share* of the steps spent on the way up.
    As torch does it, the momentum (SGD's, or Adam's first beta) goes from 0.95 down to 0.85 and back
    up, whatever it was before: SGD without momentum gets it.
    Source: Smith & Topin, Super-Convergence, 2017; the form in two phases is fastai's.
    """
    _check_whole("steps", steps, 1)
    _check_within("start", start, 1e-9, 1.0)
    _check_within("final", final, 0.0, 1.0)
    _check_within("warmup", warmup, 0.0, 1.0)
    peaks = _peaks(optimizer)
    if peak is not None:
        if not (peaks[0] > 0 and peak > 0):
            raise TrainlabError(f"peak={peak!r} over a first rate of {peaks[0]:g}: both must be above 0")
        peaks = [peak * (rate / peaks[0]) for rate in peaks]
    return _OneCycle(
        optimizer,
        peaks,
        total_steps=steps,
        # torch divides by zero where the way up is exactly one step
        pct_start=float(warmup) * (1 - 1e-9 * (warmup * steps == 1)),
        cycle_momentum=not {"momentum", "betas"}.isdisjoint(optimizer.defaults),
        div_factor=1 / start,
        final_div_factor=start / final if final else math.inf,
    )


def plateau(
    optimizer: Optimizer,
    *,
    factor: float = 0.1,
    patience: int = 2,
    min_delta: float = 0.0,
    min_lr: float = 0.0,
) -> ReduceLROnPlateau:
    """The rate times `factor` whenever the validation loss has not fallen for a while; `train` steps it.

    patience: validations in a row without improvement that are borne; the next one lowers the rate.
    min_delta: what counts as an improvement must exceed it.  min_lr: no rate goes below it.
    """
    _check_whole("patience", patience, 0)
    _check_within("factor", factor, 0.0, 0.999)
    _check_within("min_delta", min_delta, 0.0, math.inf)
    _check_within("min_lr", min_lr, 0.0, math.inf)
    _check_optimizer(optimizer)
    return ReduceLROnPlateau(
        optimizer, factor=factor, patience=patience, threshold=min_delta, threshold_mode="abs", min_lr=min_lr
    )


def preview(
    scheduler: LRScheduler, steps: int, *, valid_losses: Sequence[float] | None = None
) -> list[float]:
    """The rate of the first group at each of the next `steps` steps; the schedule itself stays where it is.

    scheduler: any of torch's.  Of a plateau schedule it is the rate before each of the next `steps`
    validations, and `valid_losses` says what all of them but the last would find.
    `state.controls.lr_scale` comes on top in a run.
    """
    if not isinstance(scheduler, LRScheduler):
        raise TrainlabError(f"scheduler is a {type(scheduler).__name__}: give one of tl.schedules or torch's")
    _check_whole("steps", steps, 1)
    losses: Sequence[float | None] = [None] * steps
    if isinstance(scheduler, ReduceLROnPlateau):
        if valid_losses is None or len(valid_losses) < steps - 1:
            found = "none" if valid_losses is None else len(valid_losses)
            raise TrainlabError(
                f"a plateau schedule follows the validation losses, and {steps} rates need {steps - 1} of "
                f"them ({found} given): pass valid_losses=[...]"
            )
        losses = [*valid_losses[: steps - 1], math.nan]
    twin = _twin(scheduler.optimizer)
    ahead: Any = copy.deepcopy(scheduler, {id(scheduler.optimizer): twin})
    rates = []
    for loss in losses:
        rates.append(float(twin.param_groups[0]["lr"]))
        ahead.step() if loss is None else ahead.step(loss)
    return rates


def _twin(optimizer: Optimizer) -> SimpleNamespace:
    """What a schedule sees of its optimizer: the settings of each group, without the weights."""

    def made() -> None: ...

    made._wrapped_by_lr_sched = True  # type: ignore[attr-defined]  # or torch warns of a replaced step
    groups = [
        {"params": [torch.zeros(1)], **{k: copy.deepcopy(v) for k, v in group.items() if k != "params"}}
        for group in optimizer.param_groups
    ]
    return SimpleNamespace(
        param_groups=groups, defaults=dict(optimizer.defaults), state={}, step=made, _opt_called=True
    )


class _OneCycle(OneCycleLR):
    """torch's, but it holds its last rate where torch raises."""

    def get_lr(self) -> list[Any]:
        done = self.last_epoch
        self.last_epoch = min(done, self.total_steps - 1)
        try:
            return super().get_lr()
        finally:
            self.last_epoch = done


def _scheduled(optimizer: Optimizer, factor: Callable[[int], float], warmup: int) -> LambdaLR:
    """The peak times factor(steps done since the warm-up), after the warm-up's linear rise."""
    _check_whole("warmup", warmup, 0)

    def scale(done: int) -> float:
        return (done + 1) / warmup if done < warmup else factor(done - warmup)

    peaks = _peaks(optimizer)
    for group, rate in zip(optimizer.param_groups, peaks):
        for leftover in ("max_lr", "min_lr", "max_momentum", "base_momentum"):  # of an earlier one-cycle
            group.pop(leftover, None)
        group["initial_lr"] = rate
    return LambdaLR(optimizer, scale)


def _peaks(optimizer: Optimizer) -> list[Any]:
    """The rates that the groups were built with, also where a schedule was made for them before."""
    _check_optimizer(optimizer)
    return [group.get("max_lr", group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]


def _fall(steps: int, warmup: int, final: float, form: Callable[[float], float]) -> Callable[[int], float]:
    _check_whole("warmup", warmup, 0)
    _check_whole("steps", steps, 1)
    _check_within("final", final, 0.0, 1.0)
    if warmup >= steps:
        raise TrainlabError(f"warmup={warmup} leaves none of steps={steps} for the fall: lower it")
    return lambda done: _between(form(min(1.0, done / (steps - warmup))), final)


def _half_cosine(part: float) -> float:
    return (1 + math.cos(math.pi * part)) / 2


def _between(height: float, final: float) -> float:
    """1 at height 1, `final` at height 0, both to the last bit."""
    return height + final * (1 - height)


def _check_optimizer(optimizer: object) -> None:
    if not isinstance(optimizer, Optimizer):
        what = optimizer.__name__ if isinstance(optimizer, type) else f"a {type(optimizer).__name__}"
        raise TrainlabError(f"optimizer is {what}: build the optimizer first, and pass it to the schedule")


def _check_whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise TrainlabError(f"{name}={value!r} is not a whole number from {least} on")


def _check_within(name: str, value: float, low: float, high: float) -> None:
    if not (isinstance(value, int | float) and low <= value <= high and math.isfinite(value)):
        raise TrainlabError(f"{name}={value!r} is not a number from {low:g} to {high:g}")
