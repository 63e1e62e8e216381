"""Small runs, and what it means that two of them are the same to the last bit."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainlab.randomness import get_rng_state
from trainlab.state import TrainState

FEATURES, CLASSES = 6, 3


def table(rows: int = 200, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features (rows, 6) and classes (rows,) that a small network can learn."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(rows, FEATURES, generator=generator)
    targets = (features @ torch.randn(FEATURES, CLASSES, generator=generator)).argmax(1)
    return features, targets


def network(seed: int = 1, *, norm: bool = True, dropout: float = 0.3) -> nn.Sequential:
    """Two linear layers with what makes a run hard to repeat: BatchNorm and dropout."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(FEATURES, 16),
        nn.BatchNorm1d(16) if norm else nn.Identity(),
        nn.ReLU(),
        nn.Dropout(dropout) if dropout else nn.Identity(),
        nn.Linear(16, CLASSES),
    )


OPTIMIZERS: dict[str, Callable[[Iterable[Tensor]], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.05),
    "momentum": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01),
    "adamw-fused": lambda p: torch.optim.AdamW(p, 0.01, fused=True),
    "sgd-fused": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, fused=True),
}


def make_state(optimizer: str = "adamw", schedule: str | None = "step", **options: Any) -> TrainState:
    """A fresh state, the global generator seeded as every fresh one's."""
    model = network(**options)
    built = OPTIMIZERS[optimizer](model.parameters())
    state = TrainState(model, built, SCHEDULES[schedule](built) if schedule else None)
    torch.manual_seed(11)
    return state


SCHEDULES: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "step": lambda o: torch.optim.lr_scheduler.StepLR(o, 3, 0.7),
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 40),
    "one_cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=60),
    "plateau": lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, factor=0.5, patience=0),
}


def mean_ce(model: nn.Module, batch: Any) -> Tensor:
    """The loss as everybody writes it: a bare mean over the rows of a batch."""
    features, targets = batch
    return F.cross_entropy(model(features), targets)


def everything(state: TrainState, *, rng: bool = True) -> dict[str, Any]:
    """A copy of all that a run changes, but for the history."""
    parts = {
        "model": state.model.state_dict(),
        "modes": [module.training for module in state.model.modules()],
        "optimizer": state.optimizer.state_dict(),
        "scheduler": state.scheduler.state_dict() if state.scheduler else None,
        "scaler": state.scaler.state_dict() if state.scaler else None,
        "position": state.position(),
        "updating": state.updating,
        "rng": get_rng_state() if rng else None,
    }
    return copy.deepcopy(parts)


def rows_of_run(state: TrainState) -> list[dict[str, Any]]:
    """The history without what the clock says."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in state.history.rows]


def assert_same(left: Any, right: Any, where: str = "") -> None:
    """Equal to the last bit, through nested containers; NaN equals NaN."""
    if isinstance(left, Tensor):
        assert isinstance(right, Tensor), where
        assert left.dtype == right.dtype and left.shape == right.shape, where
        torch.testing.assert_close(left, right, rtol=0, atol=0, equal_nan=True, msg=where)
    elif isinstance(left, np.ndarray):
        assert np.array_equal(left, right), where
    elif isinstance(left, Mapping):
        assert list(left) == list(right), where
        for key in left:
            assert_same(left[key], right[key], f"{where}/{key}")
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), where
        for place, (one, other) in enumerate(zip(left, right)):
            assert_same(one, other, f"{where}/{place}")
    elif isinstance(left, float) and math.isnan(left):
        assert math.isnan(right), where
    else:
        assert left == right, where


def assert_same_run(left: TrainState, right: TrainState) -> None:
    """Weights, buffers, optimizer, schedule, scaler, position and history are the same to the last bit."""
    assert_same(everything(left, rng=False), everything(right, rng=False))
    assert_same(rows_of_run(left), rows_of_run(right), "history")
