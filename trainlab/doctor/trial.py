"""Some 24 steps on copies, and what they leave behind."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .recording import Recorder, StepTrace, detached, first_tensor, recording
from .sample import Part, same
from .subject import Program, inputs_and_target

_LONGEST = 160  # steps that are made where no update has been seen: accumulation may be long


@dataclass
class Trial:
    """The copies after the steps, the model before them, and the record."""

    program: Program
    fresh: nn.Module
    recorder: Recorder
    train: Part
    valid: Part
    crash: str = ""
    crash_step: int = -1
    direct: bool = False
    epoch: int | None = None
    start: dict[str, Tensor] = field(default_factory=dict)
    losses: tuple[float, float] | None = None
    data_changed: str = ""
    warned: list[str] = field(default_factory=list)

    @property
    def steps(self) -> list[StepTrace]:
        """The steps that were made."""
        return self.recorder.steps[1:]

    @property
    def updates(self) -> list[dict[str, Any]]:
        """The data of every optimizer step."""
        return [event.data for step in self.steps for event in step.events if event.kind == "step"]

    def values(self) -> list[float]:
        """The loss of each step: the criterion's, else what backward was called on."""
        found = []
        for step in self.steps:
            value = [
                e.data["value"] for e in step.events if e.kind == "criterion" and e.data["value"] is not None
            ]
            value += [e.data["value"] for e in step.all("backward") if e.data["value"] is not None]
            if value:
                found.append(value[0])
        return found

    def moved(self) -> dict[str, float]:
        """How far each parameter has moved, against its own norm."""
        found = {}
        for name, p in self.program.model.named_parameters():
            before = self.start[name]
            norm = float(before.float().norm())
            change = float((p.detach() - before).float().norm())
            found[name] = change / norm if norm else (float("inf") if change else 0.0)
        return found


def try_out(program: Program, train: Part, valid: Part, steps: int, deadline: float) -> Trial:
    """Make the steps, with everything recorded; an error of the program ends them and is kept."""
    fresh = copy.deepcopy(program.model) if _copies(program.model) else program.model
    recorder = Recorder(program.model, program.criterion, program.optimizer, program.scheduler)
    trial = Trial(program, fresh, recorder, train, valid)
    trial.start = {name: p.detach().clone() for name, p in program.model.named_parameters()}
    trial.epoch = len(train.batches) if train.complete else None
    trial.direct = _is_direct(trial)
    if trial.direct:
        before = probe(trial, fresh)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _make_steps(trial, steps, deadline)
    trial.warned = [str(each.message) for each in caught]
    trial.direct = trial.direct and _says_the_same(trial)
    if trial.direct:
        trial.losses = (before, probe(trial, program.model))
    trial.data_changed = _changed(trial)
    return trial


def _copies(model: nn.Module) -> bool:
    try:
        copy.deepcopy(model)
    except Exception:
        return False
    return True


def _make_steps(trial: Trial, steps: int, deadline: float) -> None:
    recorder, program = trial.recorder, trial.program
    criterion = (
        program.criterion if isinstance(program.criterion, nn.Module) else _Spy(program.criterion, recorder)
    )
    with recording(recorder):
        for number, batch in enumerate(_batches(program.train)):
            if number >= _wanted(trial, steps) or (number > 3 and time.perf_counter() > deadline):
                break
            recorder.steps.append(StepTrace(number, detached(batch)))
            try:
                _one_step(program, batch, criterion, number, recorder)
                _follow_schedule(program, recorder, number, trial.epoch)
            except Exception as error:
                trial.crash, trial.crash_step = f"{type(error).__name__}: {str(error)[:400]}", number
                break


def _wanted(trial: Trial, steps: int) -> int:
    """More steps where no update was seen so far, or where an epoch of several micro-batches ends soon."""
    updates = sum(step.kinds().count("step") for step in trial.steps)
    if updates == 0:
        return _LONGEST
    gathers = len(trial.steps) >= 2 * updates and trial.program.step_fn is not None
    return max(steps, min(2 * trial.epoch + 2, 96)) if gathers and trial.epoch else steps


def _batches(loader: Any) -> Iterator[Any]:
    while True:
        given = False
        for batch in loader:
            given = True
            yield batch
        if not given:
            return


def _one_step(program: Program, batch: Any, criterion: Any, number: int, recorder: Recorder) -> None:
    if program.step_fn is not None:
        returned = program.step_fn(program.model, batch, criterion, program.optimizer, number)
        if isinstance(returned, Tensor | float | int):
            recorder.now.returned = float(returned)
        return
    plain_step(program, batch, criterion)


def plain_step(program: Program, batch: Any, criterion: Any) -> None:
    """The five lines that everybody writes, with a closure for LBFGS."""
    x, y = inputs_and_target(batch)

    def closure() -> Tensor:
        program.optimizer.zero_grad()
        loss = criterion(program.forward(x), y)
        loss.backward()
        return loss

    if isinstance(program.optimizer, torch.optim.LBFGS):
        program.optimizer.step(closure)
    else:
        closure()
        program.optimizer.step()


def _follow_schedule(program: Program, recorder: Recorder, number: int, epoch: int | None) -> None:
    scheduler = program.scheduler
    if scheduler is None or (program.step_fn is not None and recorder.now.all("schedule")):
        return
    if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        return
    ends = program.interval == "step" or (epoch is not None and (number + 1) % epoch == 0)
    if ends and any(step.all("step") for step in recorder.steps):
        scheduler.step()
        recorder.now.events.pop()  # ours, not the learner's


class _Spy:
    """A criterion that is a plain function, with its calls recorded."""

    def __init__(self, criterion: Any, recorder: Recorder) -> None:
        self._criterion, self._recorder = criterion, recorder

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        value = self._criterion(*args, **kwargs)
        self._recorder.after_criterion(None, args, value)
        return value

    def __getattr__(self, name: str) -> Any:
        return getattr(self._criterion, name)


def probe(trial: Trial, model: nn.Module) -> float:
    """The mean loss over the first batches, in eval mode, without a trace in the model."""
    total = rows = 0.0
    with at_rest(model, live_norms=max(trial.train.sizes[:4], default=1) > 1):
        for batch in trial.train.batches[:4]:
            x, y = inputs_and_target(batch)
            value = trial.program.criterion(trial.program.forward(x, model), y)
            total, rows = total + float(value.float().mean()) * 1.0, rows + 1
    return total / max(rows, 1)


class at_rest:
    """Eval mode and no gradients inside; modes and buffers as before afterwards."""

    def __init__(self, model: nn.Module, *, live_norms: bool = False) -> None:
        self.model = model
        # after a few steps running statistics say little: a loss before and after is one of batch statistics
        norms = [part for part in model.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
        self.batch_norms = [part for part in norms if live_norms and part.training]

    def __enter__(self) -> nn.Module:
        self.modes = [(part, part.training) for part in self.model.modules()]
        self.buffers = [(buffer, buffer.detach().clone()) for buffer in self.model.buffers()]
        self.grad = torch.is_grad_enabled()
        self.model.eval()
        for part in self.batch_norms:
            part.train()
        torch.set_grad_enabled(False)
        return self.model

    def __exit__(self, *_: Any) -> None:
        for buffer, value in self.buffers:
            buffer.copy_(value)
        torch.set_grad_enabled(self.grad)
        for part, training in self.modes:
            part.training = training


def _is_direct(trial: Trial) -> bool:
    """Whether criterion(model(x), y) works, and gives one number."""
    try:
        value = probe(trial, trial.fresh)
    except Exception:
        return False
    return bool(trial.train.batches) and isinstance(value, float)


def _says_the_same(trial: Trial) -> bool:
    """Whether the learner's own step gives the criterion what criterion(model(x), y) would give it."""
    if trial.program.step_fn is None or not trial.steps:
        return True
    step = trial.steps[0]
    y = inputs_and_target(step.batch)[1]
    outputs = [out for forward in step.forwards if (out := first_tensor(forward.output)) is not None]
    calls = [(out, target) for out, target, _ in step.criteria]
    calls += [(call.input, call.target) for call in step.losses]
    for out, target in calls:
        known = isinstance(out, Tensor) and any(out.numel() == each.numel() for each in outputs)
        paired = isinstance(target, Tensor) and isinstance(y, Tensor) and target.numel() == y.numel()
        if known and paired and torch.equal(target.flatten().float(), y.flatten().float()):
            return True
    return False


def _changed(trial: Trial) -> str:
    """Whether batches of a fixed order have other values after training than before."""
    if not trial.train.same_order:
        return ""
    try:
        for place, (batch, before) in enumerate(zip(trial.program.train, trial.train.again)):
            if not same(detached(batch), before):
                return f"batch {place} of the loader holds other values after the steps than before"
    except Exception:
        return ""
    return ""
