"""Measuring a model from the inside; nothing here changes it, and nothing draws."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .errors import TrainlabError
from .losses import LossFunction, as_loss, checked_loss
from .randomness import preserve_rng

# Where every entry of a gradient is below Adam's own epsilon, even Adam takes no step worth the name
DEAD = 1e-8
# An average entry this large moves a weight by its own size and more at any usual rate
EXPLODING = 1e2


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


@dataclass(frozen=True, slots=True)
class LayerGradient:
    """The gradient that has reached one layer: over all entries of the layer's own parameters.

    mean, max: of the absolute values; NaN where an entry is, and 0 where there is no gradient.
    given: whether any of the layer's parameters has a gradient at all.
    """

    name: str
    kind: str
    mean: float
    max: float
    given: bool

    @property
    def dead(self) -> bool:
        """Whether no entry is larger than 1e-8 (Adam's epsilon): the layer will not move."""
        return not self.given or self.max <= DEAD

    @property
    def exploding(self) -> bool:
        """Whether the mean is above 100, or an entry is NaN or infinite."""
        return not math.isfinite(self.max) or self.mean > EXPLODING


def gradient_flow(model: nn.Module) -> list[LayerGradient]:
    """The gradients that stand in `.grad` now, layer by layer in the order in which the model lists them.

    Call it between `backward()` and `zero_grad()`.  Frozen parameters are left out.
    Raises TrainlabError if no parameter has a gradient.
    """
    found = []
    for name, layer in model.named_modules():
        own = [p for p in layer.parameters(recurse=False) if p.requires_grad]
        if own:
            found.append(_flow(name, layer, [p.grad for p in own if p.grad is not None]))
    if not any(layer.given for layer in found):
        raise TrainlabError("no parameter has a gradient: call loss.backward() first, zero_grad() after")
    return found


def _flow(name: str, layer: nn.Module, gradients: list[Tensor]) -> LayerGradient:
    kind = type(layer).__name__
    if not gradients:
        return LayerGradient(name, kind, 0.0, 0.0, given=False)
    entries = torch.cat([_entries(each).abs().flatten() for each in gradients])
    return LayerGradient(name, kind, entries.mean().item(), entries.max().item(), given=True)


def _entries(gradient: Tensor) -> Tensor:
    """The entries that were touched, in double precision: an embedding's gradient may be sparse."""
    gradient = gradient.detach()
    return (gradient.coalesce().values() if gradient.is_sparse else gradient).double()


@dataclass(frozen=True, slots=True)
class ParameterGradient:
    """One parameter's gradient against the parameter itself.

    norm, weight_norm: Euclidean.  ratio: norm / weight_norm, infinite for weights that are all 0.
    nan, infinite: how many entries are.  problem: what is wrong in one word, or "".
    """

    name: str
    norm: float
    weight_norm: float
    ratio: float
    nan: int
    infinite: int
    problem: str


@dataclass(frozen=True, slots=True, repr=False)
class GradientReport:
    """All parameters that are to be trained, in the order of the model."""

    parameters: tuple[ParameterGradient, ...]

    @property
    def problems(self) -> tuple[ParameterGradient, ...]:
        """Those without a gradient, with one that is all 0, or with NaN or infinite entries."""
        return tuple(each for each in self.parameters if each.problem)

    @property
    def ok(self) -> bool:
        """Whether every gradient is there, finite and not all 0."""
        return not self.problems

    @property
    def norm(self) -> float:
        """The norm of all gradients together: what clipping compares with its limit."""
        return math.sqrt(sum(each.norm**2 for each in self.parameters))

    def __str__(self) -> str:
        wrong = f"{len(self.problems)} of {len(self.parameters)} gradients have a problem"
        title = f"all {len(self.parameters)} gradients are there and finite" if self.ok else wrong
        lines = [f"{title}; norm of all together {self.norm:.3g}"]
        width = max([len(each.name) for each in self.parameters], default=0)
        for each in self.parameters:
            against = f"against weights {each.weight_norm:9.3g}  ratio {each.ratio:9.3g}"
            lines.append(f"{each.name:{width}}  norm {each.norm:9.3g}  {against}  {each.problem}".rstrip())
        return "\n".join(lines)

    __repr__ = __str__


def check_gradients(model: nn.Module) -> GradientReport:
    """Look at every gradient that stands in `.grad` now: missing, all 0, NaN, infinite, large or small.

    Call it between `backward()` and `zero_grad()`.  Frozen parameters are left out.
    Raises TrainlabError if the model has no parameter to train.
    """
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not trained:
        raise TrainlabError(f"no parameter of {type(model).__name__} requires a gradient: unfreeze some")
    return GradientReport(tuple(_against_weights(name, parameter) for name, parameter in trained))


def _against_weights(name: str, parameter: nn.Parameter) -> ParameterGradient:
    weight_norm = parameter.detach().double().norm().item()
    if parameter.grad is None:
        return ParameterGradient(name, 0.0, weight_norm, 0.0, 0, 0, "none")
    entries = _entries(parameter.grad)
    nan, infinite = int(entries.isnan().sum()), int(entries.isinf().sum())
    norm = entries.norm().item()
    problem = "NaN" if nan else "infinite" if infinite else "all 0" if norm == 0 else ""
    if weight_norm:
        ratio = norm / weight_norm
    else:
        ratio = math.inf if norm else 0.0
    return ParameterGradient(name, norm, weight_norm, ratio, nan, infinite, problem)


@dataclass(frozen=True, slots=True, repr=False)
class OverfitReport:
    """What became of one batch that was trained on again and again.

    losses: before each step, and after the last.  target: what had to be reached.
    reached_at: how many steps that took, None if it was not reached.
    """

    losses: tuple[float, ...]
    target: float
    reached_at: int | None

    @property
    def ok(self) -> bool:
        """Whether the loss fell to the target."""
        return self.reached_at is not None

    def __str__(self) -> str:
        course = f"loss {self.losses[0]:.3g} -> {self.losses[-1]:.3g}"
        if self.ok:
            goal = f"the target {self.target:.3g} reached in {self.reached_at} steps"
            return f"one batch learned: {course}, {goal}"
        if not math.isfinite(self.losses[-1]):
            return f"one batch NOT learned: {course}, not finite after {len(self.losses) - 1} steps"
        lowest = f"lowest {min(self.losses):.3g}, target {self.target:.3g}"
        return f"one batch NOT learned in {len(self.losses) - 1} steps: {course} ({lowest})"

    __repr__ = __str__


def overfit_one_batch(
    model: nn.Module,
    batch: Any,
    loss_fn: LossFunction,
    *,
    steps: int = 200,
    target: float | None = None,
    optimizer: torch.optim.Optimizer | None = None,
) -> OverfitReport:
    """Train on one batch again and again: a sound model and loss bring it to almost nothing.

    target: the loss to reach, in the loss's own unit; None for a twentieth of the first one.  Where the
    loss cannot fall to 0 (label smoothing, soft targets, heavy dropout), give what it can reach.
    optimizer: whose parameters, rate and rule are to be used; None for Adam with a rate of 0.003.
    It trains the model itself, in the mode it is in, and then puts everything back: weights, buffers,
    gradients, optimizer, modes and all random states, at an error or interrupt as well.
    Raises TrainlabError if steps or target cannot be right, or nothing is to be trained.
    Source: Karpathy, A Recipe for Training Neural Networks, 2019.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise TrainlabError(f"steps={steps!r} is not a whole number from 1 on: 200 is usual")
    trained = [p for p in model.parameters() if p.requires_grad]
    if optimizer is None and not trained:
        raise TrainlabError(f"no parameter of {type(model).__name__} requires a gradient: unfreeze some")
    with _untouched(model, optimizer), torch.enable_grad():
        rule = optimizer if optimizer is not None else torch.optim.Adam(trained, 0.003)
        return _overfit(model, batch, loss_fn, rule, steps, target)


def _overfit(
    model: nn.Module,
    batch: Any,
    loss_fn: LossFunction,
    optimizer: torch.optim.Optimizer,
    steps: int,
    target: float | None,
) -> OverfitReport:
    losses: list[float] = []
    for step in range(steps + 1):
        loss = as_loss(loss_fn(model, batch), batch)
        checked_loss(loss)
        mean = loss.total / loss.count
        losses.append(mean.item())
        target = losses[0] / 20 if target is None else target
        if losses[-1] <= target or not math.isfinite(losses[-1]) or step == steps:
            break
        optimizer.zero_grad()
        mean.backward()
        optimizer.step()
    assert target is not None
    reached = len(losses) - 1 if losses[-1] <= target else None
    return OverfitReport(tuple(losses), target, reached)


@contextmanager
def _untouched(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> Iterator[None]:
    """Whatever is done inside, weights, buffers, gradients, optimizer, modes and random state come back."""
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
    if optimizer is not None:
        tensors |= {id(p): p for group in optimizer.param_groups for p in group["params"]}
    kept = [(tensor, tensor.detach().clone()) for tensor in tensors.values()]
    gradients = [(tensor, tensor.grad) for tensor in tensors.values() if tensor.is_leaf]
    modes = [(part, part.training) for part in model.modules()]
    rules = None if optimizer is None else deepcopy(optimizer.state_dict())
    for tensor, _ in gradients:
        tensor.grad = None  # those that were there are not written into
    try:
        with preserve_rng():
            yield
    finally:
        _put_back(kept)
        for tensor, gradient in gradients:
            tensor.grad = gradient
        for part, training in modes:
            part.training = training
        if optimizer is not None and rules is not None:
            optimizer.load_state_dict(rules)
