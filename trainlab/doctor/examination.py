"""The check itself: copy, look, train a little, look again, report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import TrainlabError
from ..randomness import preserve_rng
from .codes import CODES, EXPLAINS, SYMPTOMS
from .data import look_at_data
from .evaluation import look_at_evaluation
from .learning import look_at_learning
from .loop import look_at_steps
from .objective import CLASSIFIES, look_at_objective
from .report import LEVELS, Diagnosis, Finding
from .rest import look_at_rest
from .sample import read
from .signs import Sign
from .subject import Program, copied, inputs_and_target, iter_is_self, originals_kept
from .trial import Trial, try_out
from .wiring import hidden_parameters, look_at_wiring

Question = tuple[str, Callable[[], Iterable[Sign]]]
TASKS = ("auto", "classification", "regression", "language_model", "other")


def check(
    model: nn.Module,
    criterion: Callable[..., Any],
    optimizer: Optimizer,
    train_loader: Any,
    val_loader: Any = None,
    *,
    step_fn: Callable[..., Any] | None = None,
    scheduler: Any = None,
    scheduler_interval: str = "epoch",
    eval_fn: Callable[..., Any] | None = None,
    task: str = "auto",
    steps: int = 24,
    budget_s: float = 10,
    ignore: Iterable[str] = (),
) -> Diagnosis:
    """Find out why a training program is broken: look at it, train copies a little, look again.

    criterion: an ordinary criterion(output, target) of PyTorch.  train_loader, val_loader: what gives
    batches (x, y) and can be gone through again; other batches need a step_fn.
    step_fn: the learner's own step, called as step_fn(model, batch, criterion, optimizer, step): faults of
    the loop are seen only there.  eval_fn: their own metric, called as eval_fn(model, loader).
    scheduler_interval: whether scheduler.step() is called once an "epoch" or once a "step".
    task: "auto", or what kind the targets are where that cannot be seen.
    steps: how many training steps are made.  budget_s: after how many seconds no new question is begun.
    ignore: codes that are not to be reported.
    Model, optimizer, scheduler, data set, gradients, modes and random states are left to the last bit.
    Raises TrainlabError if an argument cannot be right, or a loader can be gone through only once.
    """
    _check_arguments(model, optimizer, train_loader, scheduler_interval, task, steps)
    program = Program(model, criterion, optimizer, train_loader, val_loader, step_fn, scheduler)
    program.interval, program.eval_fn, program.task = scheduler_interval, eval_fn, task
    left_out = _known(ignore)
    started = time.perf_counter()
    with originals_kept(program), preserve_rng():
        asked = _Asked(started + budget_s)
        trial = _examine(program, asked, steps)
    signs = [sign for sign in asked.signs if sign.code not in left_out]
    unchecked = (*asked.unchecked, *_not_seen(program, trial))
    return _diagnosis(signs, asked.count, unchecked, time.perf_counter() - started)


def _check_arguments(model: Any, optimizer: Any, loader: Any, interval: str, task: str, steps: int) -> None:
    if not isinstance(model, nn.Module):
        raise TrainlabError(f"model is a {type(model).__name__}: give a torch.nn.Module")
    if not isinstance(optimizer, Optimizer):
        raise TrainlabError(f"optimizer is a {type(optimizer).__name__}: give a torch.optim.Optimizer")
    if iter_is_self(loader) or (not hasattr(loader, "__iter__") and not hasattr(loader, "__getitem__")):
        raise TrainlabError(
            f"train_loader is a {type(loader).__name__}, which cannot be "
            f"gone through again: give a DataLoader, "
            "or a list of batches"
        )
    if interval not in ("epoch", "step"):
        raise TrainlabError(f"scheduler_interval={interval!r} is neither 'epoch' nor 'step'")
    if task not in TASKS:
        raise TrainlabError(f"task={task!r} is none of {', '.join(TASKS)}")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise TrainlabError(f"steps={steps!r} is not a whole number from 1 on: 24 is usual")


def _known(ignore: Iterable[str]) -> set[str]:
    codes = {ignore} if isinstance(ignore, str) else set(ignore)
    unknown = sorted(codes - CODES.keys())
    if unknown:
        raise TrainlabError(f"ignore holds {unknown[0]!r}, which is no code: see the code of a Finding")
    return codes


class _Asked:
    """What was asked so far, and answered; a question that fails is told, not raised."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.signs: list[Sign] = []
        self.unchecked: list[str] = []
        self.count = 0

    def all(self, questions: Iterable[Question]) -> None:
        """Ask them one after the other while there is time."""
        for name, question in questions:
            if time.perf_counter() > self.deadline:
                self.unchecked.append(f"{name}: no time left (budget_s)")
                continue
            try:
                self.signs += list(question())
                self.count += 1
            except Exception as error:  # a strange program must not bring the doctor down
                self.unchecked.append(f"{name}: {type(error).__name__}: {str(error)[:80]}")


def _examine(program: Program, asked: _Asked, steps: int) -> Trial:
    twin = copied(program)
    train, valid = read(twin.train), read(twin.valid)
    batches = len(train.batches) if train.complete else None
    deadline = asked.deadline - 0.4 * max(0.0, asked.deadline - time.perf_counter())
    with preserve_rng():
        trial = try_out(twin, train, valid, steps, deadline)
    if any(step.all("schedule") for step in trial.steps[2:8]):
        program.notes.append("stepped-in-step")
    classifies = any(call.kind in CLASSIFIES[:2] for step in trial.steps for call in step.losses)
    asked.all(look_at_wiring(program, batches))
    asked.all(look_at_steps(trial))
    asked.all(look_at_objective(trial))
    if not _uses_targets(trial):
        train, valid = replace(train, y=None), replace(valid, y=None)
    asked.all(look_at_data(train, valid, classifies))
    asked.all(look_at_rest(trial))
    if program.eval_fn is not None and valid.batches:
        asked.all(look_at_evaluation(trial))
    asked.all(look_at_learning(trial, lambda: copied(program), asked.deadline))
    asked.signs = list(_confirmed(asked.signs, trial))
    return trial


def _uses_targets(trial: Trial) -> bool:
    """Whether the loss is given the targets of the loader: a step may ignore them (pairs, views)."""
    y = trial.train.y
    if y is None or not trial.steps:
        return True
    step = trial.steps[0]
    if trial.program.step_fn is None:
        return all(_depends(trial.program.criterion, *call[:2]) for call in step.criteria[:1])
    try:
        ours = inputs_and_target(step.batch)[1].float().flatten().sort().values
    except Exception:
        return True
    given = [target for _, target, _ in step.criteria] + [call.target for call in step.losses]
    given = [t.float().flatten().sort().values for t in given if isinstance(t, Tensor)]
    same = [t.shape == ours.shape and torch.equal(t, ours) for t in given]
    return all(same) if len(ours.unique()) == 1 and same else any(same)


def _depends(criterion: Callable[..., Any], output: Any, target: Any) -> bool:
    """Whether the loss is another one when every target is: pairs and triplets come with idle targets."""
    try:
        with torch.no_grad():
            ours, other = (float(criterion(output, each)) for each in (target, target + 1))
    except Exception:  # a class too many, say
        return True
    return ours != other


def _confirmed(signs: Iterable[Sign], trial: Trial) -> Iterator[Sign]:
    """What was only suspected before the steps is kept where the steps bear it out."""
    for sign in signs:
        if sign.level == "hidden":
            if any(p.grad is not None for _, p in hidden_parameters(trial.program.model)):
                yield Sign(sign.code, "error", sign.where, sign.evidence)
        elif sign.code == "plateau-mode":
            given = [e.data["value"] for s in trial.steps for e in s.all("schedule") if e.data["value"]]
            losses = trial.values()
            if given and any(abs(given[-1] - loss) < 1e-6 * abs(loss) for loss in losses):
                yield Sign(sign.code, "warning", sign.where, f"{sign.evidence}, and it is given the loss")
        elif sign.level != "candidate":
            yield sign


def _not_seen(program: Program, trial: Trial) -> Iterator[str]:
    if program.valid is None:
        yield "validation: no val_loader was given"
    if program.step_fn is None:
        yield "the order of the calls in your own loop: give it as step_fn"
    if program.eval_fn is None:
        yield "your metric: give it as eval_fn"
    if not trial.direct and not trial.crash:
        yield "the loss outside your step: criterion(model(x), y) does not work on a batch"
    if trial.train.x is None:
        yield "rows and targets one by one: the batches do not fit together"
    yield from (note for note in program.notes if note != "stepped-in-step")


def _diagnosis(signs: Iterable[Sign], count: int, unchecked: Iterable[str], seconds: float) -> Diagnosis:
    order = list(CODES)
    unique: dict[str, Sign] = {}
    for sign in sorted(signs, key=lambda each: LEVELS.index(each.level)):
        unique.setdefault(sign.code, sign)
    ranked = sorted(unique.values(), key=lambda each: (LEVELS.index(each.level), order.index(each.code)))
    causes = [sign for sign in ranked if sign.level != "info" and sign.code not in SYMPTOMS]
    hidden = SYMPTOMS if causes else set()
    hidden = hidden | {code for sign in causes for code in EXPLAINS.get(sign.code, ())}
    kept = [_finding(sign) for sign in ranked if sign.code not in hidden]
    return Diagnosis(
        tuple(kept),
        tuple(_finding(sign) for sign in ranked if sign.code in hidden),
        count,
        tuple(dict.fromkeys(unchecked)),
        seconds,
    )


def _finding(sign: Sign) -> Finding:
    why, fix = CODES[sign.code]
    return Finding(sign.code, sign.level, sign.where, sign.evidence, why, fix)
