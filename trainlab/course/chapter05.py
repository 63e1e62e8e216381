"""The exercises and pictures of chapter 05: was it the optimizer, or the rate?"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.loaders import Loader
from ..loop.config import TrainConfig
from ..loop.training import fit
from ..losses import classification
from ..randomness import preserve_rng, seed_everything
from ..state import TrainState
from ..sweeps import SweepMember, SweepProgress, sweep
from .exercises import Exercise, Verdict, right, wrong

Build = Callable[..., torch.optim.Optimizer]  # (parameters, rate) -> an optimizer
Runs = dict[float, list[SweepMember]]  # for each rate, one run a seed
Rule = Callable[..., Any]  # (weight, gradient, memory, rate): changes weight and memory

_GRADIENTS = ([0.5, -2.0, 0.0], [1.0, 1.0, 0.0], [-0.3, 4.0, 0.0], [0.2, -1.0, 0.0])
_START = (1.0, -0.5, 0.8)


# --- the race: tl.sweep over rates and seeds -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Track:
    """What all contestants share: the model, its batches, those it is measured on, and how long it takes."""

    build: Callable[[], nn.Module]
    batches: Loader
    valid: Iterable[Any]
    epochs: int
    way: str = "vmap"


def race(optimizer: Build, rates: Iterable[float], track: Track, seeds: Iterable[int] = range(5)) -> Runs:
    """Train one model for each rate and seed: for each rate its runs, in the order of the seeds."""
    rates = list(rates)
    pairs = [(rate, seed) for rate in rates for seed in seeds]
    if not pairs:
        return {}
    report = sweep(
        track.build,
        track.batches,
        classification(),
        [rate for rate, _ in pairs],
        seeds=[seed for _, seed in pairs],
        optimizer=optimizer,
        epochs=track.epochs,
        valid=track.valid,
        way=track.way,
        workers=1,  # for models this small a second thread costs more than it brings
        progress=None if track.way == "one by one" else _silent,  # a bar where it takes long
    )
    return {rate: [run for run in report.members if run.lr == rate] for rate in rates}


def _silent(progress: SweepProgress) -> None:
    """Show no bar."""


def accuracies(runs: Iterable[SweepMember]) -> list[float]:
    """The validation accuracy of each run, 0 for one that diverged."""
    return [run.valid.get("accuracy", 0.0) for run in runs]


def loss_of(runs: Iterable[SweepMember]) -> float:
    """The mean validation loss of the runs (nats), infinite if one diverged."""
    return fmean(math.inf if run.diverged_at else run.score for run in runs)


def best_rate(runs: Runs) -> float:
    """The rate with the lowest mean validation loss."""
    return min(runs, key=lambda rate: loss_of(runs[rate]))


def agree(rule: Rule, optimizer: Build, lr: float, track: Track, epochs: int = 6) -> bool:
    """Whether a rule written by hand and an optimizer end at the same weights, to four decimals."""
    with preserve_rng():
        seed_everything(0)
        mine = track.build()
    theirs = copy.deepcopy(mine)
    weights = list(mine.parameters())
    memories: list[dict[str, Any]] = [{} for _ in weights]
    for epoch in range(epochs):
        for x, y in track.batches.batches(epoch):
            gradients = torch.autograd.grad(F.cross_entropy(mine(x), y), weights)
            with torch.no_grad():
                for weight, gradient, memory in zip(weights, gradients, memories):
                    rule(weight, gradient, memory, lr)
    state = TrainState(theirs, optimizer(theirs.parameters(), lr))
    fit(state, track.batches, classification(), TrainConfig(epochs=epochs))
    return all(torch.allclose(*pair, atol=1e-4) for pair in zip(weights, theirs.parameters()))


def numbers_kept(optimizer: Build) -> float:
    """How many numbers an optimizer keeps for each weight, after one step."""
    weight = nn.Parameter(torch.zeros(100, 100))
    stepper = optimizer([weight], 0.1)
    weight.grad = torch.ones(100, 100)
    stepper.step()
    kept = [value.numel() for value in stepper.state[weight].values() if torch.is_tensor(value)]
    return sum(kept) / weight.numel()


def gradient_lengths(model: nn.Module, batches: Loader, lr: float, steps: int = 165) -> list[float]:
    """The length of the gradient at each step of SGD."""
    state = TrainState(model, torch.optim.SGD(model.parameters(), lr))
    return fit(state, batches, classification(), TrainConfig(steps=steps, grad_norm=True)).column("grad_norm")


# --- drawing, so that the chapter's cells hold what it is about --------------------------------------


def plot_rates(found: Mapping[str, Runs]) -> None:
    """Draw accuracy over the learning rate: a dot for each run, a line through the means."""
    ax = _pyplot().figure(figsize=(6, 3)).add_subplot()
    for (name, by_rate), marker in zip(found.items(), "os^"):
        rates = sorted(by_rate)
        scores = [accuracies(by_rate[rate]) for rate in rates]
        (line,) = ax.plot(rates, [fmean(each) for each in scores], marker=marker, label=name)
        for rate, each in zip(rates, scores):
            ax.plot([rate] * len(each), each, ".", color=line.get_color(), alpha=0.5)
    ax.set_xscale("log")
    ax.set(xlabel="learning rate", ylabel="validation accuracy")
    ax.legend(loc="lower left")


def plot_reader(scores: Mapping[str, Sequence[float]], norms: Mapping[str, Sequence[float]]) -> None:
    """Draw left the accuracies of each optimizer's runs, right the gradient's length along training."""
    _, (left, across) = _pyplot().subplots(1, 2, figsize=(7.5, 2.8))
    for row, found in enumerate(scores.values()):
        left.plot(found, [row] * len(found), "o", alpha=0.7)
        left.plot([fmean(found)], [row], "|", markersize=20, color="#808080")
    left.set_yticks(range(len(scores)), list(scores))
    left.set(xlabel="validation accuracy", xlim=(0, 1), ylim=(-0.5, len(scores) - 0.5))
    left.invert_yaxis()
    for name, found in norms.items():
        smooth = [fmean(found[max(0, k - 9) : k + 1]) for k in range(len(found))]
        across.plot(range(1, len(found) + 1), smooth, label=name)
    across.set(xlabel="step", ylabel="length of the gradient", yscale="log")
    across.legend()


def plot_pixels(maps: Mapping[str, Tensor]) -> None:
    """Draw for each title a map, (784,), of what share of each pixel's weights is left."""
    plt = _pyplot()
    figure, axes = plt.subplots(1, len(maps), figsize=(7.5, 2.5))
    for ax, (title, share) in zip(axes, maps.items()):
        image = ax.imshow(share.view(28, 28), vmin=0, vmax=1, cmap="cividis")
        ax.set_title(title)
        ax.set_axis_off()
    figure.colorbar(image, ax=axes, label="share left", shrink=0.8)


def _pyplot() -> Any:
    """Matplotlib's pyplot, imported where a figure is wanted: checking an answer does without."""
    from matplotlib import pyplot

    return pyplot


# --- judging an update rule ----------------------------------------------------------------------------


def _walk(rule: Rule, **options: Any) -> list[Tensor]:
    """Where three weights stand after each of four steps at rate 0.1."""
    weight, places = torch.tensor(_START), []
    memory: dict[str, Any] = {}
    for gradient in _GRADIENTS:
        rule(weight, torch.tensor(gradient), memory, 0.1, **options)
        places.append(weight.clone())
    return places


def _torch_walk(build: Build, **options: Any) -> list[Tensor]:
    """The same steps, by an optimizer of torch."""
    weight = nn.Parameter(torch.tensor(_START))
    optimizer, places = build([weight], lr=0.1, **options), []
    for gradient in _GRADIENTS:
        weight.grad = torch.tensor(gradient)
        optimizer.step()
        places.append(weight.detach().clone())
    return places


def _alike(left: Sequence[Tensor], right: Sequence[Tensor]) -> bool:
    return all(torch.allclose(one, other, atol=1e-5) for one, other in zip(left, right))


def _unanswered(rule: Rule) -> str:
    """Why the weights never moved, or ""."""
    weight = torch.tensor(_START)
    rule(weight, torch.tensor(_GRADIENTS[0]), {}, 0.1)
    return "" if not torch.equal(weight, torch.tensor(_START)) else "the weights did not move"


def _judge_nesterov(nesterov: Rule) -> Verdict:
    if still := _unanswered(nesterov):
        return wrong(f"{still}: change `weight` in place, with -=", hint=1)
    got = _walk(nesterov)
    truth = _torch_walk(torch.optim.SGD, momentum=0.9, nesterov=True)
    if _alike(got, truth):
        return right("four steps like torch.optim.SGD(momentum=0.9, nesterov=True).")
    if _alike(got, _torch_walk(torch.optim.SGD, momentum=0.9)):
        return wrong("this is momentum without the look ahead", observed=got[0], expected=truth[0], hint=2)
    if _alike(got[:1], truth[:1]):
        return wrong("the first step is right, the second is not", observed=got[1], expected=truth[1], hint=3)
    begun = torch.tensor(_START)
    ratio = ((got[0] - begun)[0] / (truth[0] - begun)[0]).item()
    if math.isclose(ratio, 0.1, abs_tol=0.05):
        return wrong("the first step is a tenth of what it should be", observed=ratio, expected=1.0, hint=1)
    return wrong("the first step", observed=got[0], expected=truth[0], hint=2)


def _judge_smooth(smooth: Callable[..., Any]) -> Verdict:
    try:
        flat = [float(value) for value in smooth([2.0] * 6, 0.9)]
    except ZeroDivisionError:
        return wrong("the first value was divided by 1 - beta ** 0, which is 0", hint=2)
    if len(flat) != 6:
        return wrong("as many values out as in", observed=len(flat), expected=6, hint=3)
    if math.isclose(flat[0], 0.2, abs_tol=1e-6):
        return wrong("a flat curve at 2.0 seems to start", observed=flat[0], expected=2.0, hint=1)
    if not all(math.isfinite(value) and math.isclose(value, 2.0, abs_tol=1e-6) for value in flat):
        return wrong("a flat curve at 2.0 does not stay at 2.0", observed=flat, hint=2)
    got = [float(value) for value in smooth([4.0, 0.0, 0.0], 0.5)]
    truth = [4.0, 4 / 3, 4 / 7]
    if all(math.isclose(one, other, abs_tol=1e-6) for one, other in zip(got, truth)):
        return right("from the first value on, an average of what was seen, the latest counting most.")
    if math.isclose(got[1], 2.0, abs_tol=1e-6):
        return wrong("the first value weighs too much after it", observed=got, expected=truth, hint=3)
    return wrong("4, 0, 0 with beta 0.5", observed=got, expected=truth, hint=3)


def _judge_adamw(adamw: Rule) -> Verdict:
    options = {"weight_decay": 0.5}
    weight = torch.tensor(_START)
    adamw(weight, torch.tensor(_GRADIENTS[0]), {}, 0.1, **options)
    if torch.equal(weight, torch.tensor(_START)):
        return wrong("the weights did not move: change `weight` in place", hint=3)
    got, truth = _walk(adamw, **options), _torch_walk(torch.optim.AdamW, **options)
    if _alike(got, truth):
        return right("four steps like torch.optim.AdamW, and a weight without gradient shrinks by a share.")
    third = [place[2].item() for place in got]  # the third weight's gradient is always 0
    if _alike(got, _torch_walk(torch.optim.Adam, **options)):
        shown = {"observed": third[0], "expected": truth[0][2].item()}
        return wrong("a weight of 0.8 without gradient loses a whole step, as with L2", hint=1, **shown)
    if math.isclose(third[0], 0.4, abs_tol=1e-5):
        return wrong(
            "a weight of 0.8 without gradient lost half at once", observed=third[0], expected=0.76, hint=2
        )
    if math.isclose(third[0], 0.8, abs_tol=1e-6):
        return wrong("a weight without gradient was not decayed", observed=0.8, expected=0.76, hint=3)
    return wrong("the first step", observed=got[0], expected=truth[0], hint=3)


class _Reader(nn.Module):
    """A model with everything that a rule about names or layers gets wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(7, 4)
        self.rows = nn.LSTM(4, 5, batch_first=True)
        self.norm = nn.LayerNorm(5)
        self.mix = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU())
        self.scale = nn.Parameter(torch.ones(6))
        self.head = nn.Linear(6, 3)


def _judge_groups(groups: Callable[..., Any]) -> Verdict:
    model = _Reader()
    found = list(groups(model, 0.3))
    names = {id(p): name for name, p in model.named_parameters()}
    decay: dict[str, list[float]] = {name: [] for name in names.values()}
    for group in found:
        if "weight_decay" not in group:
            return wrong("each group is a dict with params and weight_decay", observed=sorted(group), hint=1)
        for parameter in list(group["params"]):
            if id(parameter) not in names:
                return wrong("a group holds something that is no parameter of the model", hint=1)
            decay[names[id(parameter)]].append(group["weight_decay"])
    if missing := [name for name, given in decay.items() if not given]:
        return wrong(f"{missing[0]} is in no group: the optimizer would never train it", hint=2)
    if twice := [name for name, given in decay.items() if len(given) > 1]:
        return wrong(f"{twice[0]} is in two groups", hint=2)
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2 and decay[name] != [0.0]:
            return wrong(f"{name} is a vector, and is decayed", observed=decay[name][0], expected=0.0, hint=3)
        if parameter.dim() >= 2 and decay[name] != [0.3]:
            return wrong(f"{name} is a matrix", observed=decay[name][0], expected=0.3, hint=3)
    return right("every parameter once; matrices are decayed, biases and scales are not.")


def _judge_pick(pick: Callable[..., Any]) -> Verdict:
    lucky = {0.1: [0.30, 0.32, 0.31], 0.3: [0.20, 0.55, 0.60], 1.0: [0.40, 0.41, 0.42]}
    if pick(lucky) == 0.3:
        return wrong("0.3 had one lucky run", observed=0.3, expected=0.1, hint=1)
    if pick(lucky) != 0.1:
        return wrong("the runs at 0.1 lose least", observed=pick(lucky), expected=0.1, hint=1)
    for where in range(3):
        runs = [0.10, 0.11, 0.12]
        runs[where] = math.nan
        broken = {0.01: [0.50, 0.52, 0.51], 0.3: runs, 0.1: [0.30, 0.32, 0.31]}
        for order in ([0.01, 0.3, 0.1], [0.3, 0.1, 0.01], [0.1, 0.01, 0.3]):
            if (got := pick({rate: broken[rate] for rate in order})) != 0.1:
                shown = "one of three runs at 0.3 diverged (NaN)"
                return wrong(shown, observed=got, expected=0.1, hint=2)
    if (got := pick({0.1: [math.nan, math.nan], 0.3: [math.nan, 0.2]})) is not None:
        return wrong("at each rate a run diverged: there is nothing to recommend", observed=got, hint=3)
    return right(
        "means over seeds, a diverged run counts against its rate, and no winner where there is none."
    )


EXERCISES = (
    Exercise(
        "05.1",
        "Nesterov's step",
        difficulty=1,
        minutes=5,
        judge=_judge_nesterov,
        expects="a function",
        in_place=True,
        hints=(
            "Begin with the three lines of momentum. The sum takes the whole gradient, not a tenth of it; "
            "`weight -= ...` changes the weight that was handed over.",
            "Only the last line differs from momentum: it steps along gradient + beta * sum.",
            "The sum must outlive the call, in memory; the step uses the new sum, with this gradient in it.",
        ),
        solution="""
def nesterov(weight, gradient, memory, lr, beta=0.9):
    memory["sum"] = beta * memory.get("sum", 0) + gradient
    weight -= lr * (gradient + beta * memory["sum"])
""",
    ),
    Exercise(
        "05.2",
        "Smooth a loss curve",
        difficulty=2,
        minutes=8,
        judge=_judge_smooth,
        expects="a function",
        hints=(
            "An average that starts at 0 believes in zeros it has never seen. What does Adam divide by?",
            "After t values the weights add up to 1 - beta ** t. Is t 1 at the first value?",
            "Start at 0, not at the first value; average = beta * average + (1 - beta) * value; append "
            "average / (1 - beta ** t), and keep the undivided one.",
        ),
        solution="""
def smooth(values, beta):
    average, smoothed = 0.0, []
    for t, value in enumerate(values, start=1):
        average = beta * average + (1 - beta) * value
        smoothed.append(average / (1 - beta**t))
    return smoothed
""",
    ),
    Exercise(
        "05.3",
        "Adam with a decay of its own",
        difficulty=2,
        minutes=8,
        judge=_judge_adamw,
        expects="a function",
        in_place=True,
        hints=(
            "Was the decay divided by anything? It must not pass through the gradient or Adam's memory.",
            "By what share does the weight shrink in one step: weight_decay, or lr * weight_decay?",
            "Two lines: weight *= 1 - lr * weight_decay, then adam(weight, gradient, memory, lr).",
        ),
        solution="""
def adamw(weight, gradient, memory, lr, weight_decay=0.01):
    weight *= 1 - lr * weight_decay
    t = memory["t"] = memory.get("t", 0) + 1
    memory["mean"] = 0.9 * memory.get("mean", 0) + 0.1 * gradient
    memory["square"] = 0.999 * memory.get("square", 0) + 0.001 * gradient**2
    mean, square = memory["mean"] / (1 - 0.9**t), memory["square"] / (1 - 0.999**t)
    weight -= lr * mean / (square.sqrt() + 1e-8)
""",
    ),
    Exercise(
        "05.4",
        "Who is decayed?",
        difficulty=2,
        minutes=8,
        judge=_judge_groups,
        expects="a function",
        hints=(
            'Return two dicts: {"params": [...], "weight_decay": ...}, with what model.parameters() gives.',
            "Put each parameter into exactly one list: one loop with an if and an else.",
            "Names mislead: a norm's scale is called weight too, a recurrent layer's biases end in _l0. "
            "Ask for parameter.dim().",
        ),
        solution="""
def groups(model, weight_decay):
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
""",
    ),
    Exercise(
        "05.5",
        "Name the best rate",
        difficulty=3,
        minutes=10,
        judge=_judge_pick,
        expects="a function",
        in_place=True,  # None is an answer: no rate is safe
        hints=(
            "The smallest number in the table belongs to one seed. What will the next seed give?",
            "Comparisons with NaN are false, so min() and sort() answer by the order of the entries. Replace "
            "a NaN by infinity first.",
            "A rate with a diverged run is out. Return None where every rate is out.",
        ),
        solution="""
def pick(runs):
    import math
    means = {rate: sum(losses) / len(losses) for rate, losses in runs.items()}
    whole = {rate: mean for rate, mean in means.items() if math.isfinite(mean)}
    return min(whole, key=whole.get, default=None)
""",
    ),
)
