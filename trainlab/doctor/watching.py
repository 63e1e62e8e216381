"""The doctor beside a loop that the learner runs: `with doctor.watch(model, optimizer) as seen: ...`."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ..errors import TrainlabError
from .examination import _Asked, _confirmed, _diagnosis
from .learning import _decay, _finite
from .loop import (
    _accumulation,
    _clipping,
    _frozen_norm,
    _modes,
    _reach,
    _scaler,
    _unhandled,
    _updates,
    _zeroing,
)
from .objective import look_at_objective
from .recording import Recorder, StepTrace, recording
from .report import Diagnosis
from .sample import Part
from .subject import Program
from .trial import Trial
from .wiring import look_at_wiring

_KEPT = 64  # steps that are looked at; those after them run without a record


class watch:
    """Watch a loop from outside: what is called, in which order, and what becomes of the weights.

    model, optimizer: those that the loop trains; they are not copied.  Within the `with`, hooks note the
    first 64 updates; afterwards none is left, and `diagnosis` says what was found.  An error that the
    loop raises is passed on, and the diagnosis is made all the same.
    Raises TrainlabError if model or optimizer is something else.
    """

    diagnosis: Diagnosis

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        if not isinstance(model, nn.Module):
            raise TrainlabError(f"model is a {type(model).__name__}: give a torch.nn.Module")
        if not isinstance(optimizer, Optimizer):
            raise TrainlabError(f"optimizer is a {type(optimizer).__name__}: give a torch.optim.Optimizer")
        self.model, self.optimizer = model, optimizer

    def __enter__(self) -> watch:
        self._started = time.perf_counter()
        self._recorder = _Rows(self.model, None, self.optimizer)
        self._start = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        self._buffers = {name: b.detach().clone() for name, b in self.model.named_buffers()}
        self._recording = recording(self._recorder)
        self._recording.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._recording.__exit__(None, None, None)
        crash = "" if error is None else f"{type(error).__name__}: {str(error)[:200]}"
        self.diagnosis = self._diagnose(crash)

    def _diagnose(self, crash: str) -> Diagnosis:
        program = Program(self.model, _no_criterion, self.optimizer, [], step_fn=_no_criterion)
        trial = Trial(program, _Frozen(self._buffers), self._recorder, Part([]), Part(None), crash)
        trial.start, trial.crash_step = self._start, len(self._recorder.steps)
        asked = _Asked(time.perf_counter() + 10)
        asked.all(look_at_wiring(program, None))
        questions: Iterable[Any] = (_zeroing, _updates, _unhandled, _accumulation, _scaler, _modes, _reach)
        for question in (*questions, _frozen_norm, _finite, _decay):
            asked.all([(question.__name__.strip("_"), functools.partial(question, trial))])
        asked.all([("clipping", lambda: _clipping([s for s in trial.steps if s.all("step")]))])
        asked.all(look_at_objective(trial))
        unchecked = [*asked.unchecked, "data and validation: a watched loop keeps them to itself; use check"]
        signs = _confirmed(asked.signs, trial)
        return _diagnosis(signs, asked.count, unchecked, time.perf_counter() - self._started)


class _Rows(Recorder):
    """A recorder that begins a new step after each update."""

    def after_update(self, optimizer: Optimizer, *rest: Any) -> None:
        """How far the weights have moved; with the next forward pass a new step begins."""
        super().after_update(optimizer, *rest)
        self._ended = True

    def before_forward(self, model: nn.Module, *rest: Any) -> None:
        """The model is about to be called: the first time after an update this is a new step."""
        if getattr(self, "_ended", True) and len(self.steps) <= _KEPT and torch.is_grad_enabled():
            self.steps.append(StepTrace(len(self.steps) - 1))
            self._ended = False
        super().before_forward(model, *rest)


class _Frozen(nn.Module):
    """Stands for the model before: only its buffers are asked for."""

    def __init__(self, buffers: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self._kept = buffers

    def named_buffers(self, *_: Any, **__: Any) -> Iterator[tuple[str, torch.Tensor]]:
        """The buffers as they were."""
        yield from self._kept.items()


def _no_criterion(*_: Any) -> None:
    return None
