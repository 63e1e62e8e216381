"""The mathematics of a run, as one frozen value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from ..errors import TrainlabError
from ..precision import check_precision


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """The mathematics of a run; what watches it is an observer.

    epochs or steps: totals, one of the two; a run that has 3 of 5 epochs behind it does 2 more.
    accumulate: micro-batches per optimizer step; their losses are weighted by their true counts.
    clip_norm: largest Euclidean norm of the gradients.  grad_norm: measure it at every step.
    precision: "fp32", "bf16" or "fp16".  device: "auto", or a torch device.
    validate_every: "epoch", or a number of steps; the end of the run is always validated.
    check_every: steps between the looks for a loss that is not finite; None looks at every step on a
    CPU and every 16 on other devices, where a look makes the device wait.
    """

    epochs: int | None = None
    steps: int | None = None
    accumulate: int = 1
    clip_norm: float | None = None
    grad_norm: bool = False
    precision: str = "fp32"
    validate_every: int | Literal["epoch"] = "epoch"
    device: str | torch.device = "auto"
    check_every: int | None = None

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise TrainlabError(
                f"epochs={self.epochs} and steps={self.steps}: give one of the two, the other follows"
            )
        for name in ("epochs", "steps", "accumulate", "check_every"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise TrainlabError(f"{name}={value!r} is not a whole number from 1 on")
        if self.validate_every != "epoch" and (
            not isinstance(self.validate_every, int) or self.validate_every < 1
        ):
            raise TrainlabError(f"validate_every={self.validate_every!r}: give 'epoch' or a number of steps")
        number = isinstance(self.clip_norm, int | float)
        if self.clip_norm is not None and not (number and self.clip_norm > 0):
            raise TrainlabError(
                f"clip_norm={self.clip_norm!r} is not above 0: use 1.0, or None for no clipping"
            )
        check_precision(self.precision)
