"""Measuring a model without leaving a trace."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..data.batches import epoch_batches, to_device
from ..errors import TrainlabError
from ..losses import LossFunction, as_loss, checked_loss, detached_sums
from ..precision import autocast, check_precision, choose_device, device_of
from ..randomness import RngState, get_rng_state, set_rng_state


def evaluate(
    model: nn.Module,
    loader: Iterable[Any],
    loss_fn: LossFunction,
    *,
    precision: str = "fp32",
    device: str | torch.device | None = None,
) -> dict[str, float]:
    """The mean loss and metrics of `model` over all items of `loader`, in eval mode, without a trace.

    Each batch weighs by its own count. Every module's mode and all random state are as before.
    device: where the model is, by default.
    """
    check_precision(precision)
    where = device_of(model) if device is None else choose_device(device)
    modes = [(module, module.training) for module in model.modules()]
    rng, grad_mode = get_rng_state(), torch.is_grad_enabled()
    try:
        sums = _sums(model, loader, loss_fn, precision, where)
        _put_back(modes, rng, grad_mode)
    except BaseException:  # not `finally`: an interrupt that lands in the putting back has it done again
        _put_back(modes, rng, grad_mode)
        raise
    if not sums:
        raise TrainlabError("the loader gave no batches: there is nothing to evaluate on")
    means = {name: _mean(_plain_sum(totals), _plain_sum(counts)) for name, (totals, counts) in sums.items()}
    if not _plain_sum(sums["loss"][1]):
        raise TrainlabError("no item of any batch counts: are all targets the ignored one?")
    return means


def _sums(
    model: nn.Module, loader: Iterable[Any], loss_fn: LossFunction, precision: str, where: torch.device
) -> dict[str, tuple[list[Any], list[Any]]]:
    sums: dict[str, tuple[list[Any], list[Any]]] = {}
    model.eval()
    with torch.no_grad():
        for batch in epoch_batches(loader, epoch=0, start=0):
            batch = to_device(batch, where)
            with autocast(precision, where):
                value = loss_fn(model, batch)
            checked_loss(value)
            for name, (total, count) in detached_sums(as_loss(value, batch)).items():
                totals, counts = sums.setdefault(name, ([], []))
                totals.append(total)
                counts.append(count)
    return sums


def _put_back(modes: list[tuple[nn.Module, bool]], rng: RngState, grad_mode: bool) -> None:
    torch.set_grad_enabled(grad_mode)  # an interrupt can land in the exit of no_grad
    for module, mode in modes:
        module.training = mode
    set_rng_state(rng)


def _mean(total: float, count: float) -> float:
    return total / count if count else math.nan


def _plain_sum(values: list[Any]) -> float:
    tensors = [value for value in values if isinstance(value, Tensor)]
    numbers = [value for value in values if not isinstance(value, Tensor)]
    return math.fsum([*numbers, *(torch.stack(tensors).tolist() if tensors else ())])
