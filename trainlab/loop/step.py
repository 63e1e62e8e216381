"""One optimizer step: forward and backward over its micro-batches, clipping, the update."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ..data.batches import rows_of, tensors_in, to_device
from ..errors import TrainlabError
from ..events import Scalar, Step
from ..losses import Loss, as_loss, checked_loss, detached_sums
from ..precision import autocast
from .finite import look, look_at_gradients
from .run import Before, Run


def whole_step(run: Run, batches: Iterator[Any], total: int | None) -> Step | None:
    """One optimizer step over the next group of micro-batches, or nothing done at all.

    None if the epoch has no more.  Whatever breaks it off (an interrupt, a refused loss) finds
    buffers and random state as before the step.
    """
    state = run.state
    started = perf_counter()
    before = Before(run)
    try:
        micro_batches = batches if run.config.accumulate == 1 else islice(batches, run.config.accumulate)
        gathered = _backward(run, before, micro_batches)
        if gathered is None:
            return None
        grad_norm = _clip(run, before)
        rate = _update(run, before, gathered.rows)
    except BaseException:
        torch.set_grad_enabled(before.grad_mode)  # an interrupt can land in the exit of a no_grad
        if not state.updating and state.step == before.step:
            before.restore()
        raise
    return Step(
        state.step,
        state.epoch + 1,
        gathered.mean,
        rate,
        grad_norm,
        perf_counter() - started,
        gathered.rows,
        gathered.metrics,
        total,
    )


@dataclass(slots=True)
class _Gathered:
    """What the backward pass of one step leaves besides the gradients."""

    mean: Scalar
    rows: int
    metrics: Mapping[str, Scalar]


def _backward(run: Run, before: Before, micro_batches: Iterator[Any]) -> _Gathered | None:
    """Gradients of the mean loss over all items of the micro-batches, None if there are none."""
    batch = next(micro_batches, None)
    if batch is None:
        return None
    # at the start, not after the update: consumers read .grad at the yield
    _clear_gradients(run.state.optimizer)
    if run.config.accumulate > 1:
        return _accumulate(run, before, chain([batch], micro_batches))
    batch = to_device(batch, run.device)
    value = _forward(run, batch)
    mean = value.total / value.count if isinstance(value, Loss) else value
    seen = look(run, before, mean, batch)
    _objective(run, mean).backward()
    metrics: Mapping[str, Scalar] = {}
    if isinstance(value, Loss) and value.metrics:
        sums = detached_sums(value)
        metrics = {name: part / whole for name, (part, whole) in sums.items() if name != "loss"}
    return _Gathered(seen, rows_of(batch), metrics)


def _clear_gradients(optimizer: torch.optim.Optimizer) -> None:
    """What `zero_grad` does, without the profiling around it (2 % of a small step)."""
    if type(optimizer).zero_grad is not torch.optim.Optimizer.zero_grad:
        optimizer.zero_grad()
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


def _accumulate(run: Run, before: Before, micro_batches: Iterator[Any]) -> _Gathered:
    """Sums of gradients over micro-batches, divided in the end by the true count of them all."""
    sums: dict[str, tuple[Any, Any]] = {}
    rows = 0
    divisor: Any = None
    for batch in micro_batches:
        batch = to_device(batch, run.device)
        value = _forward(run, batch)
        if not isinstance(value, Loss):
            _refuse_inexact_mean(batch)
        loss = as_loss(value, batch)
        if divisor is None:  # a guess at the final count: bare sums would overflow in half precision
            first = loss.count.clamp(min=1) if isinstance(loss.count, Tensor) else loss.count
            divisor = first * run.config.accumulate
        look(run, before, loss.total, batch)
        _objective(run, loss.total / divisor).backward()
        rows += rows_of(batch)
        for name, (part, whole) in detached_sums(loss).items():
            so_far, of = sums.get(name, (0.0, 0))
            sums[name] = (so_far + part, of + whole)
    total, count = sums.pop("loss")
    look(run, before, torch.as_tensor(total / count), batch)  # NaN where no item of the whole group counts
    if isinstance(count, Tensor) or count != divisor:
        for parameter in _parameters(run):
            if parameter.grad is not None:
                parameter.grad.mul_(divisor / count)
    return _Gathered(total / count, rows, {name: part / whole for name, (part, whole) in sums.items()})


def _forward(run: Run, batch: Any) -> Loss | Tensor:
    if run.config.precision == "fp32":
        value = run.loss_fn(run.state.model, batch)
    else:
        with autocast(run.config.precision, run.device):
            value = run.loss_fn(run.state.model, batch)
    if not checked_loss(value).requires_grad:
        raise TrainlabError(
            "the loss does not require a gradient: it was detached, computed under no_grad or from another "
            "model; compute it from model(inputs) with torch operations only"
        )
    return value


def _objective(run: Run, loss: Tensor) -> Tensor:
    return loss if run.state.scaler is None else run.state.scaler.scale(loss)


def _refuse_inexact_mean(batch: Any) -> None:
    targets = list(tensors_in(batch))[1:]
    if any(t.dtype == torch.int64 and bool((t == -100).any()) for t in targets):
        raise TrainlabError(
            "loss_fn returned a bare mean, the targets hold ignored items (-100), and accumulate is above 1: "
            "the mean does not say over how many; return Loss(total, count) with the number that counts"
        )


def _parameters(run: Run) -> list[Tensor]:
    return [parameter for group in run.state.optimizer.param_groups for parameter in group["params"]]


def _clip(run: Run, before: Before) -> Tensor | None:
    """The norm of all gradients, clipped where a limit is set; None where nobody asked for it."""
    state = run.state
    limit = run.config.clip_norm if state.controls.clip_norm is None else state.controls.clip_norm
    if limit is None and not run.config.grad_norm:
        return None
    if state.scaler is not None:
        state.scaler.unscale_(state.optimizer)
    parameters = [parameter for parameter in _parameters(run) if parameter.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    look_at_gradients(run, before, norm)
    if limit is not None:
        nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return norm


def _update(run: Run, before: Before, rows: int) -> float:
    """Weights, schedule and position move together; returns the learning rate that was applied."""
    state = run.state
    groups, scale = state.optimizer.param_groups, state.controls.lr_scale
    with run.update:
        if run.watch is not None:
            run.watch.remember(before)
        rates = [group["lr"] for group in groups] if scale != 1.0 else []
        for group, rate in zip(groups, rates):
            group["lr"] = rate * scale
        applied = float(groups[0]["lr"])
        _optimizer_step(run)
        for group, rate in zip(groups, rates):
            group["lr"] = rate
        if state.scheduler is not None and not isinstance(state.scheduler, ReduceLROnPlateau):
            state.scheduler.step()
        state.step += 1
        state.samples += rows
    return applied


def _optimizer_step(run: Run) -> None:
    state = run.state
    if state.scaler is not None:
        state.scaler.step(state.optimizer)
        state.scaler.update()
    elif run.watch is not None:
        run.watch.step(state.optimizer)
    else:
        state.optimizer.step()
