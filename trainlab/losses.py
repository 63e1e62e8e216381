"""Loss functions of a model and a batch: a sum, and the number of items it is a sum over."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .data.batches import rows_of
from .errors import TrainlabError

Sum = float | Tensor


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss that can be added up exactly: `total` is a *sum* over `count` items (rows or tokens).

    total: scalar with gradient.  count: items it sums over; a number, or a scalar tensor.
    metrics: further sums; a bare one is over the same items, a pair is (sum, its own count).
    """

    total: Tensor
    count: float | Tensor
    metrics: Mapping[str, Sum | tuple[Sum, Sum]] = field(default_factory=dict)


LossFunction = Callable[[nn.Module, Any], Loss | Tensor]


def checked_loss(value: Any) -> Tensor:
    """The tensor to differentiate of what a loss function returned.

    Raises TrainlabError unless that is a scalar tensor or a Loss over at least one item.
    """
    tensor = value.total if isinstance(value, Loss) else value
    if not isinstance(tensor, Tensor) or tensor.dim() != 0:
        got = f"shape {tuple(tensor.shape)}" if isinstance(tensor, Tensor) else f"type {type(value).__name__}"
        raise TrainlabError(
            f"loss_fn returned {got}: return a Loss(total, count), or a scalar tensor (use .mean())"
        )
    if isinstance(value, Loss) and not isinstance(value.count, Tensor) and not value.count > 0:
        raise TrainlabError(f"loss_fn returned count={value.count}: no item of the batch counts")
    return tensor


def as_loss(value: Loss | Tensor, batch: Any) -> Loss:
    """What a loss function returned, as a Loss; a bare scalar is a mean over the batch's rows."""
    if isinstance(value, Loss):
        return value
    rows = rows_of(batch)
    return Loss(value * rows, rows)


def detached_sums(loss: Loss) -> dict[str, tuple[Sum, Sum]]:
    """(sum, count) of the loss and of each metric, without gradient."""
    pairs: dict[str, tuple[Sum, Sum]] = {"loss": (loss.total, loss.count)}
    for name, metric in loss.metrics.items():
        pairs[name] = metric if isinstance(metric, tuple) else (metric, loss.count)
    return {name: (_detached(total), _detached(count)) for name, (total, count) in pairs.items()}


def _detached(value: Sum) -> Sum:
    return value.detach() if isinstance(value, Tensor) else value


def classification(
    *, weight: Tensor | None = None, label_smoothing: float = 0.0, ignore_index: int | None = None
) -> LossFunction:
    """Cross-entropy (nats) of `model(inputs)` against classes, for batches (inputs, targets).

    Logits are (N, C) or (N, T, C); targets (N,) or (N, T), int64, 0 to C - 1; or soft targets of the
    logits' shape, floating, each row a distribution (mixup's); right is then to name its largest class.
    weight: (C,), one factor a class; the items then count by their factors.
    ignore_index: the label of targets that do not count (padding), if there are any.
    In eval mode it also measures `accuracy` (a training step would pay for it at every step).
    It gives a Loss; in training, where each row counts once, the bare mean over the rows.
    Raises TrainlabError if dtype, shape or range of the targets cannot be right.
    """
    _check_smoothing(label_smoothing)
    # a label that no int64 target has by mistake: -100, torch's own default, would vanish in silence
    ignored = torch.iinfo(torch.int64).min if ignore_index is None else ignore_index
    plain = weight is None and ignore_index is None

    def loss_fn(model: nn.Module, batch: Any) -> Loss | Tensor:
        inputs, targets = _pair(batch)
        logits = model(inputs)
        if targets.is_floating_point() and targets.shape == logits.shape:
            return _soft(model, logits, targets, weight, label_smoothing)
        _check_classes(logits, targets, weight)
        # where each row counts once, the mean over the rows says it all, with one operation less
        bare = plain and model.training and targets.dim() == 1
        if targets.dim() > 1:
            logits, targets = logits.flatten(0, -2), targets.flatten()  # (N,T,C) -> (N*T,C)
        factors = None if weight is None else weight.to(logits)
        try:
            value = F.cross_entropy(
                logits,
                targets,
                factors,
                ignore_index=ignored,
                reduction="mean" if bare else "sum",
                label_smoothing=label_smoothing,
            )
        except IndexError as error:  # the CPU's kernel checks the range for nothing
            raise _out_of_range(logits, targets, ignore_index) from error
        if bare:
            return value
        counted = targets != ignored
        shares = counted if factors is None else factors[targets * counted] * counted
        count = len(targets) if plain else shares.sum()
        if model.training:
            return Loss(value, count)
        rows = len(targets) if ignore_index is None else counted.sum()
        return Loss(value, count, {"accuracy": ((logits.argmax(-1) == targets).sum(), rows)})

    return loss_fn


def _soft(
    model: nn.Module, logits: Tensor, targets: Tensor, weight: Tensor | None, label_smoothing: float
) -> Loss | Tensor:
    """Cross-entropy against distributions: one that is certain of a class counts as that class does."""
    low, sums = float(targets.min()), targets.sum(-1)
    if not low >= 0 or not float((sums - 1).abs().max()) < 1e-3:
        raise TrainlabError(
            f"soft targets as low as {low:.3g}, in rows that sum to {sums.min():.3g} to {sums.max():.3g}: "
            "each row must be a distribution (from 0 on, sum 1); use losses.regression() for values"
        )
    _check_weight(logits, weight)
    logits, targets = logits.flatten(0, -2), targets.flatten(0, -2).to(logits.dtype)  # (N,T,C) -> (N*T,C)
    factors = None if weight is None else weight.to(logits)
    value = F.cross_entropy(logits, targets, factors, reduction="sum", label_smoothing=label_smoothing)
    count = len(targets) if factors is None else (targets @ factors).sum()
    if model.training:
        return Loss(value, count)
    hits = (logits.argmax(-1) == targets.argmax(-1)).sum()
    return Loss(value, count, {"accuracy": (hits, len(targets))})


def binary(*, pos_weight: float | None = None, label_smoothing: float = 0.0) -> LossFunction:
    """Binary cross-entropy (nats) of yes-or-no questions, from logits; batches are (inputs, targets).

    Logits and targets have the same shape, (N,), (N, 1) or (N, K) for K questions a row; targets are 0
    and 1 (any dtype), or probabilities.  A logit z says yes with probability 1 / (1 + exp(-z)).
    pos_weight: factor of the loss of each yes; unlike the class weights of `classification` it does not
    enter the count, as in torch.
    label_smoothing: 0.1 makes the targets 0.05 and 0.95, as `classification` does for two classes.
    In eval mode it also measures `accuracy`.
    Raises TrainlabError if a target is outside 0 to 1, or the shapes differ: they would broadcast.
    """
    _check_smoothing(label_smoothing)
    if pos_weight is not None and not pos_weight > 0:
        raise TrainlabError(f"pos_weight={pos_weight} must be above 0: 10.0 makes a yes count ten times")

    def loss_fn(model: nn.Module, batch: Any) -> Loss:
        inputs, targets = _pair(batch)
        logits = model(inputs)
        _check_same_shape(logits, targets)
        _check_probabilities(targets)
        wanted = targets.to(logits)
        total = F.binary_cross_entropy_with_logits(
            logits,
            wanted * (1 - label_smoothing) + label_smoothing / 2,
            pos_weight=None if pos_weight is None else logits.new_tensor(pos_weight),
            reduction="sum",
        )
        if model.training:
            return Loss(total, targets.numel())
        return Loss(total, targets.numel(), {"accuracy": ((logits > 0) == (wanted > 0.5)).sum()})

    return loss_fn


def pinball_loss(
    predictions: Tensor, targets: Tensor, *, quantile: float = 0.5, reduction: str = "mean"
) -> Tensor:
    """Pinball loss: a unit too little costs `quantile`, a unit too much costs 1 - quantile.

    predictions, targets: of the same shape, floating.  reduction: "mean", "sum" or "none".
    Its least value is at that quantile of the targets: 0.9 asks for a number that nine in ten stay below.
    Raises TrainlabError unless quantile is between 0 and 1.
    Source: R. Koenker and G. Bassett, Regression Quantiles, Econometrica 46, 1978.
    """
    if not 0 < quantile < 1:
        raise TrainlabError(
            f"quantile={quantile} is outside (0, 1): 0.9 asks for what nine in ten stay below"
        )
    lack = targets - predictions
    each = torch.maximum(quantile * lack, (quantile - 1) * lack)
    if reduction == "none":
        return each
    return each.sum() if reduction == "sum" else each.mean()


def regression(kind: str = "mse", *, delta: float = 1.0, quantile: float = 0.5) -> LossFunction:
    """The "mse", "l1", "huber" or "pinball" loss of `model(inputs)`, summed over all values.

    Predictions and targets have the same shape, (N,) or (N, K), floating; batches are (inputs, targets).
    mse: squared error.  l1: absolute error.  huber: half the squared error up to `delta`, in the targets'
    unit, and a straight line beyond.  pinball: see `pinball_loss`, which `quantile` belongs to.
    In eval mode it also measures `mae`, the mean absolute error, in the targets' unit.
    Raises TrainlabError if the shapes differ: (N, 1) against (N,) would broadcast to (N, N).
    """
    errors: dict[str, Callable[..., Tensor]] = {
        "mse": F.mse_loss,
        "l1": F.l1_loss,
        "huber": functools.partial(F.huber_loss, delta=delta),
        "pinball": functools.partial(pinball_loss, quantile=quantile),
    }
    if kind not in errors:
        raise TrainlabError(f"kind={kind!r} is not a regression loss: use one of {', '.join(errors)}")
    if not delta > 0:
        raise TrainlabError(
            f"delta={delta} must be above 0: an error in the targets' unit, beyond which it is linear"
        )
    if not 0 < quantile < 1:
        raise TrainlabError(
            f"quantile={quantile} is outside (0, 1): 0.9 asks for what nine in ten stay below"
        )

    def loss_fn(model: nn.Module, batch: Any) -> Loss:
        inputs, targets = _pair(batch)
        predictions = model(inputs)
        _check_same_shape(predictions, targets)
        total = errors[kind](predictions, targets, reduction="sum")
        if model.training:
            return Loss(total, targets.numel())
        return Loss(total, targets.numel(), {"mae": (predictions - targets).abs().sum()})

    return loss_fn


def mixture(parts: Mapping[str, tuple[float, LossFunction]]) -> LossFunction:
    """A weighted sum of losses: name -> (weight, loss function); the model answers a batch once for all.

    Each part is measured too, unweighted, under its name, and its own metrics as name_metric.
    What a part pulls is its weight times its gradient: compare those, in the units of the targets.
    Raises TrainlabError if there is no part, a weight is negative or not finite, or the parts count
    different items: their means could not be added exactly over several batches.
    """
    if not parts:
        raise TrainlabError("a mixture of no parts: give name -> (weight, loss function)")
    for name, (weight, _) in parts.items():
        if not 0 <= weight < math.inf:
            raise TrainlabError(f"weight {weight} of part {name!r}: give a number from 0 on")

    def loss_fn(model: nn.Module, batch: Any) -> Loss:
        once: Any = _AnswersOnce(model)
        found = {name: as_loss(part(once, batch), batch) for name, (_, part) in parts.items()}
        counts = {name: float(loss.count) for name, loss in found.items()}
        if len(set(counts.values())) > 1:
            raise TrainlabError(
                f"the parts count different items, {counts}: leave out class weights and ignore_index"
            )
        total = torch.stack([weight * found[name].total for name, (weight, _) in parts.items()]).sum()
        metrics: dict[str, Any] = {name: loss.total for name, loss in found.items()}
        for name, loss in found.items():
            metrics |= {f"{name}_{key}": value for key, value in loss.metrics.items()}
        return Loss(total, next(iter(counts.values())), metrics)

    return loss_fn


class _AnswersOnce:
    """Stands for a model: the same inputs are answered once, so that dropout is drawn once, too."""

    def __init__(self, model: nn.Module) -> None:
        self.training = model.training
        self._model, self._inputs, self._answer = model, None, None

    def __call__(self, inputs: Any) -> Any:
        if self._answer is None or inputs is not self._inputs:
            self._inputs, self._answer = inputs, self._model(inputs)
        return self._answer


def _pair(batch: Any) -> tuple[Tensor, Tensor]:
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise TrainlabError(
            f"a batch of type {type(batch).__name__} is not a pair (inputs, targets): "
            "write loss_fn(model, batch) for batches of another form"
        )
    return batch[0], batch[1]


def _check_smoothing(label_smoothing: float) -> None:
    if not 0.0 <= label_smoothing < 1.0:
        raise TrainlabError(f"label_smoothing={label_smoothing} is outside [0, 1): use 0.1, say")


def _check_probabilities(targets: Tensor) -> None:
    if targets.is_cuda or not targets.numel():  # a look at the values would halt a GPU at every step
        return
    low, high = float(targets.min()), float(targets.max())
    if not 0 <= low <= high <= 1:
        raise TrainlabError(
            f"targets reach from {low:g} to {high:g}: a yes-or-no target is 0, 1 or a probability between; "
            "use losses.classification() for more classes"
        )


def _check_same_shape(predictions: Tensor, targets: Tensor) -> None:
    if predictions.shape != targets.shape:
        raise TrainlabError(
            f"predictions are {tuple(predictions.shape)} but targets {tuple(targets.shape)}: they would "
            "broadcast; end the model with .squeeze(-1) or give the targets the same shape"
        )


def _check_classes(logits: Tensor, targets: Tensor, weight: Tensor | None) -> None:
    if targets.dtype != torch.int64:
        raise TrainlabError(
            f"targets are {targets.dtype}, but class labels must be torch.int64: use targets.long() "
            "if they are classes, losses.regression() if they are values"
        )
    if logits.shape[:-1] != targets.shape:
        raise TrainlabError(
            f"logits {tuple(logits.shape)} do not fit targets {tuple(targets.shape)}: "
            "the model must give one row of class scores for each target"
        )
    _check_weight(logits, weight)


def _check_weight(logits: Tensor, weight: Tensor | None) -> None:
    if weight is not None and weight.shape != logits.shape[-1:]:
        raise TrainlabError(
            f"weight has shape {tuple(weight.shape)} for {logits.shape[-1]} classes: give one factor for each"
        )


def _out_of_range(logits: Tensor, targets: Tensor, ignore_index: int | None) -> TrainlabError:
    classes = logits.shape[-1]
    wrong = targets[(targets < 0) | (targets >= classes)]
    if ignore_index is not None:
        wrong = wrong[wrong != ignore_index]
    return TrainlabError(
        f"target {int(wrong[0])} is outside the classes 0 to {classes - 1}: widen the model's last layer, "
        "renumber the labels from 0, or name the label of padding by ignore_index"
    )
