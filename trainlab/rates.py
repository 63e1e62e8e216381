"""The learning-rate range test: raise the rate step by step, watch the loss, and put everything back."""

from __future__ import annotations

import copy
import math
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .data.loaders import Batch
from .errors import TrainlabError
from .events import Event, Step
from .loop.config import TrainConfig
from .loop.training import train
from .losses import Loss, LossFunction
from .precision import device_of
from .randomness import get_rng_state, set_rng_state
from .state import TrainState

DIVERGED = 4.0  # times the best smoothed loss, as in fastai


@dataclass(frozen=True, slots=True)
class RangePoint:
    """One step of the climb.

    step: from 1.  rate: of the first group, as applied.  loss: before the update of this step; not
    finite where that ended the climb.  smoothed: the debiased moving average of the losses so far.
    diverged: whether the climb ended here because the loss was too high.
    """

    step: int
    rate: float
    loss: float
    smoothed: float
    diverged: bool = False


@dataclass(frozen=True, slots=True)
class LrRangeReport:
    """What a range test measured, and the rate it suggests.

    rates, losses, smoothed: one entry per step; losses are those of single batches, smoothed their
    debiased exponential moving average.
    minimum: the rate at which the smoothed loss was lowest.  steepest: the one up to there at which it
    fell fastest per factor in the rate.  The first tenth of the steps, still noisy, does not count.
    suggestion: sqrt(steepest * minimum / 10), half-way on the log scale between the two usual rules,
    the steepest point (often too high) and a tenth of the minimum (often too low).
    diverged_at: the rate at which the loss left all bounds, None if the climb reached its top.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggestion: float
    steepest: float
    minimum: float
    diverged_at: float | None

    def __repr__(self) -> str:
        end = "did not diverge" if self.diverged_at is None else f"diverged at {self.diverged_at:.2g}"
        return (
            f"LrRangeReport: try a learning rate of {self.suggestion:.2g}. Over {len(self.rates)} steps from "
            f"{self.rates[0]:.2g} to {self.rates[-1]:.2g} the loss fell fastest at {self.steepest:.2g}, was "
            f"lowest at {self.minimum:.2g} and {end}."
        )


def lr_range_test(
    state: TrainState,
    loader: Iterable[Any],
    loss_fn: LossFunction,
    *,
    low: float = 1e-6,
    high: float = 10.0,
    steps: int = 100,
    smoothing: float = 0.85,
    device: str | torch.device = "auto",
) -> LrRangeReport:
    """Train with a rate that rises from `low` to `high`, see where the loss falls, and take it all back.

    The arguments are those of `range_steps`, which says what is done and what is put back.
    Raises TrainlabError if an argument cannot be right, or if the loss fell nowhere.
    Source: Smith, Cyclical Learning Rates for Training Neural Networks, 2015, section 3.3.
    """
    climb = range_steps(
        state, loader, loss_fn, low=low, high=high, steps=steps, smoothing=smoothing, device=device
    )
    return range_report(list(climb))


def range_steps(
    state: TrainState,
    loader: Iterable[Any],
    loss_fn: LossFunction,
    *,
    low: float = 1e-6,
    high: float = 10.0,
    steps: int = 100,
    smoothing: float = 0.85,
    device: str | torch.device = "auto",
) -> Generator[RangePoint, None, None]:
    """The steps of a range test as they are made; however it ends, everything is as before.

    The state's own model and optimizer are trained for up to `steps` steps through `train`, from where
    the state is, its schedule and `lr_scale` set aside: the rate of the first group rises
    geometrically from `low` to `high`, the other groups' in proportion.  The climb ends early once the
    smoothed loss is above 4 times its best, or the loss is not finite.
    Then weights, buffers, gradients, optimizer, schedule, position, controls, modes and random state
    are put back to the last bit: at the end, at an error or interrupt, and when the consumer closes it.
    loader: one that can be gone through again.  smoothing: share of the past in the moving average.
    """
    if not isinstance(state, TrainState):
        raise TrainlabError(f"state is a {type(state).__name__}: make a TrainState(model, optimizer) first")
    if not 0 < low < high < math.inf:
        raise TrainlabError(f"low={low!r} and high={high!r}: two rates above 0, the lower one first")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 10:
        raise TrainlabError(f"steps={steps!r} is not a whole number from 10 on: 100 tell more")
    if not 0 <= smoothing < 1:
        raise TrainlabError(f"smoothing={smoothing!r} is outside [0, 1): 0 takes the losses as they are")
    first = float(state.optimizer.param_groups[0]["lr"])
    if not first > 0:
        raise TrainlabError(
            f"the first group's rate is {first:g}, so the others have no proportion to it: set one above 0"
        )
    rates = [low * (high / low) ** (place / (steps - 1)) for place in range(steps)]
    config = TrainConfig(steps=state.step + steps, device=device, check_every=1)
    guarded = _Guarded(loss_fn) if callable(loss_fn) else loss_fn  # `train` says what is wrong with it
    return _climb(state, loader, train(state, loader, guarded, config), rates, smoothing)


def range_report(points: Sequence[RangePoint]) -> LrRangeReport:
    """What the steps of a climb say, or those made so far.

    Raises TrainlabError if the smoothed loss was nowhere below its start.
    """
    seen = [point for point in points if math.isfinite(point.loss)]
    first = len(seen) // 10  # an average over a few losses is lowest, or falls fastest, by chance
    smoothed = np.array([point.smoothed for point in seen])
    lowest = first + int(np.argmin(smoothed[first:])) if seen else 0
    if lowest == first:
        last = f"{points[-1].rate:.2g}" if points else "nothing"
        raise TrainlabError(
            f"the loss never fell below its start up to a rate of {last}: give a lower low if it rose at "
            "once, a higher high if nothing moved, or look at the data"
        )
    slopes = np.gradient(smoothed, np.log([point.rate for point in seen]))
    steepest = seen[first + int(np.argmin(slopes[first : lowest + 1]))].rate
    minimum = seen[lowest].rate
    return LrRangeReport(
        tuple(point.rate for point in seen),
        tuple(point.loss for point in seen),
        tuple(point.smoothed for point in seen),
        math.sqrt(steepest * minimum / 10),
        steepest,
        minimum,
        next((point.rate for point in points if point.diverged), None),
    )


class _Diverged(Exception):
    """The loss is not finite: here a result."""


class _Guarded:
    """A loss function whose losses that are not finite are no errors, once it gave one that is."""

    def __init__(self, loss_fn: LossFunction) -> None:
        self._loss_fn = loss_fn
        self._seen = False

    def __call__(self, model: nn.Module, batch: Batch) -> Loss | Tensor:
        value = self._loss_fn(model, batch)
        mean = value.total / value.count if isinstance(value, Loss) else value
        if self._seen and isinstance(mean, Tensor) and mean.dim() == 0 and not math.isfinite(mean.item()):
            raise _Diverged
        self._seen = True
        return value


def _climb(
    state: TrainState, loader: Iterable[Any], stream: Any, rates: Sequence[float], smoothing: float
) -> Generator[RangePoint, None, None]:
    kept = _Kept(state, loader)
    average, best = 0.0, math.inf
    try:
        kept.set_aside()
        kept.set_rates(rates[0])
        for place, loss in enumerate(_losses(stream), 1):
            average = smoothing * average + (1 - smoothing) * loss
            smoothed = average / (1 - smoothing**place)
            best = min(best, smoothed)
            # as a distance, or the measure would be none for losses below 0
            diverged = not smoothed <= best + (DIVERGED - 1) * abs(best)
            yield RangePoint(place, rates[place - 1], loss, smoothed, diverged)
            if diverged:
                return
            if place < len(rates):
                kept.set_rates(rates[place])
    finally:
        try:
            stream.close()
        finally:
            kept.put_back()


def _losses(stream: Iterable[Event]) -> Iterator[float]:
    """The loss of each step, NaN at the end where one is not finite."""
    try:
        for event in stream:
            if isinstance(event, Step):
                yield float(event.loss)
    except _Diverged:
        pass
    else:
        return
    yield math.nan


class _Kept:
    """A copy of all that training changes, with what no checkpoint holds: gradients, modes, every buffer."""

    def __init__(self, state: TrainState, loader: Iterable[Any]) -> None:
        self._state = state
        self._fields = vars(state) | {"_decayed": set(state._decayed)}
        self._device = device_of(state.model)
        modules, groups = list(state.model.modules()), state.optimizer.param_groups
        self._settings = [(module, module.training, getattr(module, "p", None)) for module in modules]
        self._buffers = [
            (module._buffers, name, buffer, None if buffer is None else buffer.clone())
            for module in modules
            for name, buffer in module._buffers.items()
        ]
        every = [*state.model.parameters(), *(p for group in groups for p in group["params"])]
        self._weights = [(p, p.detach().clone(), p.grad) for p in {id(p): p for p in every}.values()]
        self._optimizer = copy.deepcopy(state.optimizer.state_dict())
        self._ratios = [float(group["lr"]) / float(groups[0]["lr"]) for group in groups]
        drawn = (getattr(part, "generator", None) for part in (loader, getattr(loader, "sampler", None)))
        self._generators = [(g, g.get_state()) for g in drawn if isinstance(g, torch.Generator)]
        self._rng = get_rng_state()

    def set_aside(self) -> None:
        """Take away what would move the rate, and the gradients, which training would add to."""
        self._state.scheduler = None
        self._state.controls = replace(self._state.controls, lr_scale=1.0)
        for parameter, _, _ in self._weights:
            parameter.grad = None

    def set_rates(self, rate: float) -> None:
        """Give the first group this rate, and the others theirs in proportion."""
        for group, ratio in zip(self._state.optimizer.param_groups, self._ratios):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate * ratio)
            else:
                group["lr"] = rate * ratio

    def put_back(self) -> None:
        """Make everything as it was."""
        try:
            self._put_back()
        except BaseException:  # not `finally`: an interrupt that lands in the putting back has it done again
            self._put_back()
            raise

    def _put_back(self) -> None:
        state = self._state
        if device_of(state.model) != self._device:
            state.model.to(self._device)
        for parameter, value, gradient in self._weights:
            parameter.detach().copy_(value)
            parameter.grad = gradient
        for place, name, buffer, value in self._buffers:
            place[name] = buffer
            if buffer is not None and value is not None:
                buffer.copy_(value)
        for module, mode, probability in self._settings:
            module.training = mode
            if isinstance(module, nn.modules.dropout._DropoutNd) and probability is not None:
                module.p = probability
        state.optimizer.load_state_dict(self._optimizer)
        vars(state).update(self._fields)
        for generator, drawn in self._generators:
            generator.set_state(drawn)
        set_rng_state(self._rng)
