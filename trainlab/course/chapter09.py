"""Chapter 09, why does it not learn?: its exercises, its ward, and what its figures are drawn with."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .. import doctor
from ..diagnostics import ActivationStats, activation_stats, gradient_flow
from ..errors import TrainlabError
from ..plots import COLORS, INK, plot_gradient_flow
from ..randomness import preserve_rng, seed_everything
from .clinic import Case, Parts, patient
from .clinic.parts import accuracy, digits
from .exercises import Exercise, Verdict, right, wrong

if TYPE_CHECKING:
    from matplotlib.axes import Axes


# --- the ward -------------------------------------------------------------------------------------------


def train(parts: Parts, steps: int = 76, *, seed: int = 0) -> list[float]:
    """Run a program of the clinic for some steps, in place, and return its losses.

    Its own step is called where it has one, else the five lines; its schedule at its interval.
    """
    seed_everything(seed)
    losses = []
    every = len(parts.train_loader) if parts.scheduler_interval == "epoch" else 1
    for number, batch in enumerate(islice(_again(parts.train_loader), steps)):
        step = parts.step_fn if parts.step_fn is not None else plain_step
        loss = step(parts.model, batch, parts.criterion, parts.optimizer, number)
        losses.append(loss.detach().item())
        if parts.scheduler is not None and (number + 1) % every == 0:
            parts.scheduler.step()
    return losses


def _again(loader: Any) -> Any:
    while True:
        yield from loader


def plain_step(model: Any, batch: Any, criterion: Any, optimizer: Any, step: int) -> Tensor:
    """The five lines that everybody writes."""
    optimizer.zero_grad()
    loss = criterion(model(batch[0]), batch[1])
    loss.backward()
    optimizer.step()
    return loss.detach()


def reads(parts: Parts) -> float:
    """The share of the held-out digits that the model names."""
    valid = digits()[1]
    return accuracy(parts.model, [valid])


def loss_of(parts: Parts) -> Callable[[nn.Module, Any], Tensor]:
    """The criterion as trainlab's instruments take it: loss_fn(model, batch)."""
    return lambda model, batch: parts.criterion(model(batch[0]), batch[1])


def twins(name: str, seeds: Sequence[int], steps: int = 114) -> tuple[list[float], list[float]]:
    """Accuracies of a broken program and of its mended twin, a pair for each seed."""
    found: tuple[list[float], list[float]] = ([], [])
    for mended, scores in zip((False, True), found):
        for seed in seeds:
            parts = patient(name).build(mended, seed)
            train(parts, steps, seed=seed)
            scores.append(reads(parts))
    return found


# --- drawing, so that the chapter's cells hold what it is about -----------------------------------------


def _pyplot() -> Any:
    from matplotlib import pyplot as plt

    return plt


def plot_charts(charts: Mapping[str, Sequence[float]], *, flat: float | None = None) -> Axes:
    """Loss over steps for several programs; flat: where a constant guess lies."""
    ax = _pyplot().figure().add_subplot()
    for (name, losses), color in zip(charts.items(), cycle(COLORS)):
        ax.plot(range(1, len(losses) + 1), losses, color=color, label=name)
    if flat is not None:
        ax.axhline(flat, color=INK, linestyle="--", linewidth=1)
        ax.text(1, flat, " ln 10: a guess", va="bottom", color=INK, fontsize=8)
    ax.set_ylim(0, max(max(losses) for losses in charts.values()) * 1.1)
    ax.set_xlabel("step")
    ax.set_ylabel("training loss (nats)")
    ax.legend(loc="lower left")
    return ax


def plot_flow(name: str, *, mended: bool = False) -> Axes:
    """The gradients of a patient's layers for one batch, as `plot_gradient_flow` draws them."""
    parts = patient(name).build(mended, 0)
    loss_of(parts)(parts.model, next(iter(parts.train_loader))).backward()
    return plot_gradient_flow(gradient_flow(parts.model))


def sigmoid_tower(depth: int, activation: type[nn.Module] = nn.Sigmoid) -> nn.Sequential:
    """`depth` layers of 32 units with PyTorch's own initialisation, for digits of 64 pixels."""
    seed_everything(0)
    layers: list[nn.Module] = [nn.Linear(64, 32), activation()]
    for _ in range(depth - 2):
        layers += [nn.Linear(32, 32), activation()]
    return nn.Sequential(*layers, nn.Linear(32, 10))


def plot_zeros(stats: Mapping[str, Sequence[ActivationStats]]) -> Axes:
    """The share of values that are exactly 0 behind each part, for several models side by side."""
    ax = _pyplot().figure().add_subplot()
    width = 0.8 / len(stats)
    for place, ((name, parts), color) in enumerate(zip(stats.items(), COLORS)):
        at = [spot + (place - (len(stats) - 1) / 2) * width for spot in range(len(parts))]
        ax.bar(at, [part.zeros for part in parts], width, color=color, label=name)
        ax.set_xticks(range(len(parts)), [part.kind for part in parts])
    ax.set_ylabel("share of zeros")
    ax.set_ylim(0, 1.05)
    ax.legend()
    return ax


def plot_quiet(scores: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> Axes:
    """Accuracy of broken programs and their mended twins, a dot for each seed."""
    ax = _pyplot().figure().add_subplot()
    for row, (broken, mended) in enumerate(scores.values()):
        ax.plot(broken, [row + 0.12] * len(broken), "x", color=COLORS[5], label="broken" if not row else None)
        ax.plot(mended, [row - 0.12] * len(mended), "o", color=COLORS[2], label="mended" if not row else None)
    ax.set_yticks(range(len(scores)), list(scores))
    ax.invert_yaxis()
    ax.set_xlabel("accuracy on held-out digits")
    ax.legend(loc="lower left")
    return ax


def examine(name: str) -> dict[str, Any]:
    """Three pictures of a patient: its losses, its gradients by layer, and its zeros; and its complaint."""
    plt = _pyplot()
    case = patient(name)
    parts = case.build(False, 0)
    figure, (left, middle, last) = plt.subplots(1, 3, figsize=(11, 2.9))
    probe = copy.deepcopy(parts.model)
    batch = next(iter(parts.train_loader))
    loss_of(parts)(probe, batch).backward()
    plot_gradient_flow(gradient_flow(probe), middle).legend().remove()
    stats = activation_stats(probe, batch[0])
    last.bar(range(len(stats)), [each.zeros for each in stats], color=COLORS[0])
    last.set_xticks(range(len(stats)), [each.kind for each in stats], rotation=60, ha="right", fontsize=8)
    last.set_ylim(0, 1.05)
    losses = train(parts)
    left.plot(losses, color=COLORS[0])
    for ax, title in zip((left, middle, last), ("training loss", "gradients by layer", "share of zeros")):
        ax.set_title(title)
    middle.set_ylabel("")
    figure.suptitle(case.complaint, fontsize=9)
    return {"first loss": round(losses[0], 1), "last loss": round(losses[-1], 1)}


# --- exercises ------------------------------------------------------------------------------------------


def _judge_learns_one(learns_one: Callable[..., Any]) -> Verdict:
    """A sound model learns its batch; one that sees nothing does not; the caller's model is untouched."""
    seed_everything(0)
    model = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 3))
    x, y = torch.randn(12, 6), torch.arange(12) % 3
    before = copy.deepcopy(model.state_dict())
    losses = learns_one(model, x, y)
    if (
        not isinstance(losses, list | tuple)
        or len(losses) < 2
        or not all(isinstance(v, float) for v in losses)
    ):
        return wrong("return the losses as a list of plain numbers: loss.item() at each step", hint=1)
    if any(not torch.equal(value, before[name]) for name, value in model.state_dict().items()):
        return wrong("the model that was handed in has changed: print a weight before and after", hint=2)
    reference = copy.deepcopy(model)
    optimizer = torch.optim.Adam(reference.parameters(), 0.01)
    wanted = []
    for _ in range(100):
        loss = nn.functional.cross_entropy(reference(x), y)
        wanted.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if len(losses) != 100:
        return wrong("100 steps were asked for", observed=len(losses), expected=100, hint=1)
    if max(abs(a - b) for a, b in zip(losses, wanted)) > 1e-4:
        at = next(i for i, (a, b) in enumerate(zip(losses, wanted)) if abs(a - b) > 1e-4)
        return wrong(
            f"the losses part from the reference at step {at}: what stands in .grad from the step before?",
            observed=losses[at],
            expected=wanted[at],
            hint=3,
        )
    return right(f"From {losses[0]:.2f} to {losses[-1]:.3f}, and the model is as it was.")


def _judge_steady_step(steady_step: Callable[..., Any]) -> Verdict:
    """The doctor sees the step; then it must do what the reference does, also when told to rest before."""
    case = patient("softmax-twice")  # its mended twin is a plain classifier
    seed_everything(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 10))
    parts = case.build(True, 0).with_parts(
        model=model, optimizer=torch.optim.SGD(model.parameters(), 0.1), step_fn=steady_step
    )
    found = doctor.check(**parts.arguments(), budget_s=60)
    serious = {each.code: each.evidence for each in found.findings if each.level != "info"}
    for code, hint in (("zero-grad-missing", 1), ("clip-after-step", 2), ("clip-before-backward", 2)):
        if code in serious:
            return wrong(f"the doctor says {code}: {serious[code]}", hint=hint)
    model.eval()
    resting = doctor.check(**parts.arguments(), budget_s=60)
    if "eval-mode-in-training" in {each.code for each in resting.findings}:
        return wrong(
            "handed a model in eval mode, the step trains it in eval mode: is dropout awake?", hint=3
        )
    if serious:
        code, evidence = next(iter(serious.items()))
        return wrong(f"the doctor says {code}: {evidence}", hint=1)
    return _clips(steady_step, model)


def _clips(steady_step: Callable[..., Any], model: nn.Module) -> Verdict:
    """One step on a steep loss moves the weights by the rate times the limit."""
    x, y = digits()[0][0][:32], digits()[0][1][:32]
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    before = [p.detach().clone() for p in model.parameters()]
    steady_step(
        model, (x, y), lambda out, target: 100 * nn.functional.cross_entropy(out, target), optimizer, 0
    )
    moved = (
        torch.stack([(p.detach() - old).norm() for p, old in zip(model.parameters(), before)]).norm().item()
    )
    if abs(moved - 1.0) > 1e-3:
        return wrong(
            "on a loss 100 times as steep, a step at rate 1 must be as long as the limit of 1",
            observed=round(moved, 3),
            expected=1.0,
            hint=2,
        )
    return right("Cleared, clipped between backward and step, and awake.")


WARD = ("softmax-twice", "one-off", "frozen-stiff", "drifting-norm", "wild-start", "left-resting")


def _judge_treatment(treatment: Callable[..., Any]) -> Verdict:
    """Cause and cure: the code must be right, the doctor content, and the digits read as by the twin."""
    told = treatment()
    if not isinstance(told, tuple) or len(told) != 3 or not callable(told[2]):
        return wrong("return three things: the patient's name, the code of the cause, the cure", hint=1)
    name, cause, cure = told
    try:
        case = patient(str(name))
    except TrainlabError as error:
        return wrong(str(error), hint=1)
    if case.name not in WARD:
        return wrong(f"{case.name} lies on another ward: choose one of {', '.join(WARD)}", hint=1)
    if cause not in case.causes:
        return wrong(f"{cause!r} is not what {case.name} suffers from: {case.hint}", hint=2)
    return _cured(case, cure)


def _cured(case: Case, cure: Callable[[Parts], Any]) -> Verdict:
    with preserve_rng():
        healed = cure(case.build(False, 1))
        if not isinstance(healed, Parts):
            return wrong("the cure returns the parts: parts.with_parts(model=..., optimizer=...)", hint=3)
        found = doctor.check(**healed.arguments(), budget_s=60)
        serious = [each for each in found.findings if each.level != "info"]
        if serious:
            return wrong(f"the doctor still says {serious[0].code}: {serious[0].evidence}", hint=3)
        twin = case.build(True, 1)
        for parts in (twin, healed):
            train(parts, 152, seed=1)
        ours, theirs = reads(healed), reads(twin)
    if ours < theirs - 0.05:
        return wrong(
            "the doctor is content, and the mended twin reads more digits: what did the cure cost?",
            observed=round(ours, 2),
            expected=round(theirs, 2),
            hint=3,
        )
    return right(
        f"{case.name}: cause and cure. It reads {ours:.2f} of the digits, the clinic's own twin {theirs:.2f}."
    )


EXERCISES = (
    Exercise(
        "09.1",
        "One batch, by hand",
        difficulty=1,
        minutes=6,
        judge=_judge_learns_one,
        expects="a function",
        hints=(
            "100 steps of Adam at 0.01, cross-entropy, one `loss.item()` a step, before the update.",
            "Train `copy.deepcopy(model)`, not the model: an instrument leaves no trace.",
            "optimizer.zero_grad(), loss.backward(), optimizer.step(): in this order, in each step.",
        ),
        solution="""
def learns_one(model, x, y):
    model = copy.deepcopy(model)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    losses = []
    for _ in range(100):
        loss = F.cross_entropy(model(x), y)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses
""",
    ),
    Exercise(
        "09.2",
        "A step with three faults",
        difficulty=2,
        minutes=10,
        judge=_judge_steady_step,
        expects="a function",
        in_place=True,
        hints=(
            "backward() adds to .grad. Who takes away what the last step left?",
            "Clipping works on gradients that are there and not yet used: between backward() and step().",
            "A step that trains says so itself: model.train(), whoever evaluated before.",
        ),
        solution="""
def steady_step(model, batch, criterion, optimizer, step):
    model.train()
    optimizer.zero_grad()
    loss = criterion(model(batch[0]), batch[1])
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.detach()
""",
    ),
    Exercise(
        "09.3",
        "Cause and cure",
        difficulty=3,
        minutes=20,
        judge=_judge_treatment,
        expects="a function",
        hints=(
            'Look first: chapter09.examine("frozen-stiff"). Then rung by rung; the code is how the doctor '
            "names the fault.",
            "What can you rule out? Does it learn one batch with another optimizer? Do image and label of "
            "one digit belong together? Do buffers move that should rest?",
            "A new model needs a new optimizer: build it after the change. with_parts(...) takes model, "
            "criterion, optimizer, train_loader, val_loader, step_fn, scheduler.",
        ),
        solution="""
def treatment():
    def cure(parts):
        optimizer = torch.optim.SGD(parts.model.parameters(), 0.05, momentum=0.9)
        return parts.with_parts(optimizer=optimizer)
    return "frozen-stiff", "learning-rate-too-small", cure
""",
    ),
)
