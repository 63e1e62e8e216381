"""The exercises of chapter 06, is there a best learning rate?, and what its figures are drawn with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.catalogue import load
from ..data.loaders import make_loader
from ..data.splits import split
from ..events import History
from ..models import MLP
from ..randomness import seed_everything
from .exercises import Exercise, Verdict, right, wrong

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Pair = tuple[Tensor, Tensor]

# --- drawing, so that the chapter's cells hold what it is about --------------------------------------


def plot_valleys(rates: Sequence[float], found: Mapping[str, Tensor]) -> None:
    """Draw validation losses over the rate, one panel for each name, with the best rate marked.

    found: name -> losses, (rates, seeds).
    """
    plt = _pyplot()
    _, axes = plt.subplots(1, len(found), figsize=(7, 2.6))
    for ax, (name, losses) in zip(axes, found.items()):
        mean = losses.mean(1)
        best = int(mean.argmin())
        ax.plot(rates, mean, color="C0")
        ax.plot(rates, losses, "o", color="C0", alpha=0.5, markersize=3)
        ax.plot(rates[best], mean[best], "*", color="C1", markersize=14, label=f"best: {rates[best]:g}")
        ax.set_xscale("log")
        ax.set_title(name)
        ax.set_xlabel("learning rate")
        ax.legend()
    axes[0].set_ylabel("validation loss (nats)")


def plot_envelope(rates: Sequence[float], constant: Tensor, peaks: Sequence[float], decayed: Tensor) -> None:
    """Draw validation losses over the rate, or over its peak where it decays: a dot for each seed.

    constant: (rates, seeds).  decayed: (peaks, seeds).
    """
    ax = _pyplot().figure(figsize=(5, 2.6)).add_subplot()
    both = {"constant": (rates, constant, "C0"), "cosine to 0": (peaks, decayed, "C1")}
    for name, (at, losses, color) in both.items():
        ax.plot(at, losses.mean(1), color=color, label=name)
        ax.plot(at, losses, "o", color=color, alpha=0.5, markersize=3)
    ax.set_xscale("log")
    ax.set_ylim(0.1, 0.5)
    ax.set_xlabel("learning rate, or its peak")
    ax.set_ylabel("validation loss (nats)")
    ax.legend()


def plot_courses(courses: Mapping[str, History], *, low: float, high: float) -> Axes:
    """Draw the validation loss of each run over its steps, between the bounds `low` and `high`."""
    ax = _pyplot().figure(figsize=(6, 2.8)).add_subplot()
    for name, history in courses.items():
        losses = history.column("valid_loss", event="validation")
        ax.plot(history.column("step", event="validation"), losses, label=name)
    ax.set_ylim(low, high)
    ax.set_xlabel("optimizer step")
    ax.set_ylabel("validation loss (nats)")
    ax.legend()
    return ax


def plot_gallery(schedules: Mapping[str, Sequence[float]], *, columns: int = 4) -> None:
    """Draw each list of rates in a small panel of its own, all on the same scale."""
    rows = math.ceil(len(schedules) / columns)
    _, axes = _pyplot().subplots(rows, columns, figsize=(8, 1.55 * rows), sharex=True, sharey=True)
    for ax, (name, rates) in zip(axes.flat, schedules.items()):
        ax.plot(range(1, len(rates) + 1), rates)
        ax.set_title(name)
    for ax in axes[-1]:
        ax.set_xlabel("step")
    for ax in axes[:, 0]:
        ax.set_ylabel("rate")


def plot_survival(rates: Sequence[float], scores: Mapping[str, Tensor]) -> Axes:
    """Draw accuracies over the rate: a dot for each seed, a line through the means.

    scores: name -> accuracies, (rates, seeds).
    """
    ax = _pyplot().figure(figsize=(5, 2.6)).add_subplot()
    for place, (name, found) in enumerate(scores.items()):
        beside = [rate * (0.97 if place == 0 else 1.03) for rate in rates]
        ax.plot(beside, found.mean(1), color=f"C{place}", label=name)
        ax.plot(beside, found, "o", color=f"C{place}", alpha=0.6, markersize=4)
    ax.axhline(0.1, linestyle=":", color="gray")
    ax.set_xscale("log")
    ax.set_xticks(rates, [f"{rate:g}" for rate in rates])
    ax.set_xticks([], minor=True)
    ax.set_ylim(0, 1)
    ax.set_xlabel("peak learning rate")
    ax.set_ylabel("validation accuracy")
    ax.legend(loc="center left")
    return ax


def _pyplot() -> Any:
    from matplotlib import pyplot as plt

    return plt


# --- the model of the warm-up experiment --------------------------------------------------------------


class RowReader(nn.Module):
    """A small transformer that reads an 8x8 image as a sentence of eight rows.

    Its layers are torch's own with their default, `norm_first=False`: normalisation after each addition,
    as in the first transformer (Vaswani et al. 2017).  Input (N, 1, 8, 8), output (N, 10).
    """

    def __init__(self, *, width: int = 32, layers: int = 2) -> None:
        super().__init__()
        self.read = nn.Linear(8, width)
        self.place = nn.Parameter(0.02 * torch.randn(8, width))
        self.body = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.0, batch_first=True)
                for _ in range(layers)
            )
        )
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        rows = self.read(images.flatten(0, 1)) + self.place  # (N,1,8,8) -> (N,8,width)
        return self.head(self.body(rows).mean(1))  # -> (N,width) -> (N,10)


# --- exercises ----------------------------------------------------------------------------------------


def _judge_scaled(scaled: Callable[..., Any]) -> Verdict:
    same, eight, half = (float(scaled(0.05, 16, new)) for new in (16, 128, 8))
    if math.isclose(eight, 0.05 / 8) or math.isclose(eight, 0.05):
        return wrong("from batches of 16 to batches of 128, at 0.05", observed=eight, expected=0.4, hint=1)
    if math.isclose(eight, 0.05 * math.sqrt(8)):
        return wrong("eight times the batch got the square root of 8", observed=eight, expected=0.4, hint=2)
    if not math.isclose(eight, 0.4) or not math.isclose(half, 0.025) or not math.isclose(same, 0.05):
        return wrong(
            "batches of 128 and of 8, at 0.05", observed=(eight, half), expected=(0.4, 0.025), hint=3
        )
    return right("one long step goes about as far as eight short ones.")


def _judge_rate(rate: Callable[..., Any]) -> Verdict:
    steps, warmup, peak = 100, 10, 0.3
    got = [float(rate(step, steps, warmup, peak)) for step in range(steps)]
    rise = [peak * (step + 1) / warmup for step in range(warmup)]
    fall = [peak * (steps - step) / (steps - warmup) for step in range(warmup, steps)]
    if got[0] == 0:
        return wrong(
            "the first step has a rate of 0: it changes nothing", observed=0.0, expected=0.03, hint=1
        )
    if not _close(got[:warmup], rise):
        return wrong("the first and the tenth rate", observed=(got[0], got[9]), expected=(0.03, 0.3), hint=1)
    if abs(got[warmup] - got[warmup - 1]) > peak / warmup + 1e-9 or got[warmup] < 0.97 * peak:
        return wrong("the rate jumps where the warm-up ends", observed=got[9:11], expected=[0.3, 0.3], hint=2)
    if got[-1] <= 0:
        return wrong("the last step has no rate left: it changes nothing", observed=got[-1], hint=3)
    if not _close(got[warmup:], fall):
        return wrong("step 55 of 100, half-way down", observed=got[55], expected=fall[45], hint=3)
    plain = [float(rate(step, 4, 0, 1.0)) for step in range(4)]
    if not _close(plain, [1.0, 0.75, 0.5, 0.25]):
        return wrong("four steps without a warm-up", observed=plain, expected=[1.0, 0.75, 0.5, 0.25], hint=3)
    return right("no step is wasted at either end, and the two lines meet at the peak.")


def _judge_plateau(plateau: Callable[..., Any]) -> Verdict:
    first = [float(rate) for rate in plateau([1.0, 0.9, 0.9, 0.9, 0.9, 0.8], 0.1, 0.1, 2)]
    if len(first) != 6:
        return wrong("one rate after each of 6 validations", observed=len(first), expected=6, hint=3)
    if not math.isclose(first[3], 0.1):
        return wrong("two bad validations in a row are borne when patience is 2", hint=1)
    if not math.isclose(first[4], 0.01):
        return wrong(
            "the third bad one in a row must lower the rate", observed=first[4], expected=0.01, hint=1
        )
    flat = [float(rate) for rate in plateau([1.0] * 8, 1.0, 0.5, 2)]
    if not _close(flat, [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]):
        return wrong(
            "eight equal losses, patience 2: after a cut the waiting begins anew", observed=flat, hint=2
        )
    saw = [float(rate) for rate in plateau([1.0, 3.0, 2.0, 1.5, 1.2], 1.0, 0.5, 2)]
    if not _close(saw, [1, 1, 1, 0.5, 0.5]):
        return wrong("losses 1.0, 3.0, 2.0, 1.5, 1.2: none of them beats the first", observed=saw, hint=3)
    again = [float(rate) for rate in plateau([1.0, 1.1, 1.2, 0.9, 1.1, 1.2, 0.8], 1.0, 0.5, 2)]
    if not _close(again, [1.0] * 7):
        return wrong("an improvement must end the waiting: no rate should fall here", observed=again, hint=3)
    return right("it waits for patience bad validations, acts at the next, and begins to count anew.")


def _climb(seed: int) -> tuple[list[float], list[float]]:
    """A range test on breast_cancer, rates from 1e-4 to 8 in 100 steps, with one lucky batch."""
    train, _ = _tumours()
    seed_everything(seed)
    model = MLP(30, [16], 2)
    rates = [1e-4 * (8 / 1e-4) ** (place / 99) for place in range(100)]
    losses = _sgd(model, train, rates, seed)
    losses[35] = 0.001  # eight patients that were read at once, at a rate of 0.005
    return rates, losses


def _rows(name: str) -> tuple[Pair, Pair]:
    """The training and the validation rows of a data set."""
    parts = split(load(name), seed=0, stratify=True)
    whole = [make_loader(part, len(part), seed=0, shuffle=False) for part in (parts.train, parts.valid)]
    train, valid = (next(iter(loader)) for loader in whole)
    return train, valid


def _tumours() -> tuple[Pair, Pair]:
    train, valid = _rows("breast_cancer")
    mean, std = train[0].mean(0), train[0].std(0)
    return ((train[0] - mean) / std, train[1]), ((valid[0] - mean) / std, valid[1])


def _sgd(model: nn.Module, rows: Pair, rates: Sequence[float], seed: int) -> list[float]:
    """Train a step at each rate in batches of 8; the losses, a last one repeated where it is not finite."""
    optimizer = torch.optim.SGD(model.parameters(), lr=rates[0])
    loader = make_loader(rows, 8, seed=seed, shuffle=True)
    batches = (batch for epoch in range(9) for batch in loader.batches(epoch))
    losses: list[float] = []
    for rate, (x, y) in zip(rates, batches):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item() if loss.isfinite() else losses[-1])
    return losses


def _judge_suggest(suggest: Callable[..., Any]) -> Verdict:
    train, valid = _tumours()
    for seed in (1, 3, 5):
        rates, losses = _climb(seed)
        got = float(suggest(list(rates), list(losses)))
        if 0.5 * rates[35] < got < 2 * rates[35] or got < 1e-3:
            return wrong(
                "one lucky batch at a rate of 0.005 decided, or the noise of the start", observed=got, hint=2
            )
        seed_everything(seed)
        model = MLP(30, [16], 2)
        _sgd(model, train, [got] * 98, seed)  # two epochs
        with torch.no_grad():
            loss = F.cross_entropy(model(valid[0]), valid[1]).item()
        if got > 0.8:
            said = "at your rate two epochs end with this validation loss, and 0.13 can be had"
            return wrong(f"a rate of {got:.2g} is on the cliff: {said}", observed=loss, hint=1)
        if not loss < 0.25:
            said = f"at your rate, {got:.2g}, two epochs end with this validation loss, and 0.13 can be had"
            return wrong(said, observed=loss, hint=3)
    return right("on three climbs your rate trains well in two epochs, lucky batch or not.")


def _judge_design(design: Callable[..., Any]) -> Verdict:
    steps = 400
    rates = [float(design(step, steps)) for step in range(steps)]
    if not all(math.isfinite(rate) and rate >= 0 for rate in rates):
        return wrong("a rate is negative or not finite", observed=min(rates), hint=1)
    train, valid = _rows("digits")
    scores = [_digits_loss(train, valid, rates, seed) for seed in range(3)]
    mean = sum(scores) / len(scores)
    if mean < 0.19:
        return right(f"validation loss {mean:.3f} over three seeds; no constant rate comes below 0.20.")
    bar = "over three seeds the mean validation loss is not below 0.19"
    if max(rates) == min(rates):
        return wrong(f"a constant rate, and {bar}", observed=mean, hint=1)
    if rates[-1] > 0.2 * max(rates):
        return wrong(f"the last rate is still {rates[-1]:.2g}, and {bar}", observed=mean, hint=2)
    return wrong(f"it peaks at {max(rates):.2g} and falls, but {bar}", observed=mean, hint=3)


def _digits_loss(train: Pair, valid: Pair, rates: Sequence[float], seed: int) -> float:
    """Validation loss of a small MLP after one Adam step at each rate, in batches of 8."""
    seed_everything(seed)
    model = MLP(64, [32], 10)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=True)
    loader = make_loader(train, 8, seed=seed, shuffle=True)
    batches = (batch for epoch in range(9) for batch in loader.batches(epoch))
    for rate, (x, y) in zip(rates, batches):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    with torch.no_grad():
        loss = F.cross_entropy(model(valid[0]), valid[1]).item()
    return loss if math.isfinite(loss) else math.inf


def _close(got: Sequence[float], expected: Sequence[float]) -> bool:
    return len(got) == len(expected) and all(
        math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-9) for one, other in zip(got, expected)
    )


EXERCISES = (
    Exercise(
        "06.1",
        "Up and down in two lines",
        difficulty=2,
        minutes=8,
        judge=_judge_rate,
        expects="a function",
        hints=(
            "Steps are counted from 0, but a rate of 0 moves nothing: of the warm-up's steps the first has "
            "1/warmup of the peak, the last the whole peak.",
            "Print the rates at warmup - 1, warmup and warmup + 1. The fall is counted from the end of the "
            "warm-up, and over the steps that are left.",
            "peak * (step + 1) / warmup before, peak * (steps - step) / (steps - warmup) from then on: the "
            "last step still has 1/(steps - warmup) of the peak, and 0 is reached after it.",
        ),
        solution="""
def rate(step, steps, warmup, peak):
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (steps - step) / (steps - warmup)
""",
    ),
    Exercise(
        "06.2",
        "Patience, to the step",
        difficulty=2,
        minutes=10,
        judge=_judge_plateau,
        expects="a function",
        hints=(
            "patience is how many bad validations in a row are *borne*. With patience 2 the first and the "
            "second change nothing; the third lowers the rate.",
            "After a cut the new rate needs its chance: what happens to the count of bad validations?",
            "Bad means not below the best so far, not below the one before. An improvement sets the count "
            "to 0, and so does a cut.",
        ),
        solution="""
def plateau(losses, lr, factor, patience):
    rates, best, bad = [], float("inf"), 0
    for loss in losses:
        if loss < best:
            best, bad = loss, 0
        else:
            bad += 1
        if bad > patience:
            lr, bad = lr * factor, 0
        rates.append(lr)
    return rates
""",
    ),
    Exercise(
        "06.3",
        "Read a range test on new data",
        difficulty=2,
        minutes=10,
        judge=_judge_suggest,
        expects="a function",
        hints=(
            "At the minimum of the curve good and bad steps balance already: it is the last rate that can be "
            "borne for one step. Go back by a factor of ten, or to where the loss falls fastest.",
            "One batch says little: a lucky one has a low loss at any rate. Smooth first (a moving average, "
            "as in the range test by hand), then look.",
            "Smooth with average = 0.9 * average + 0.1 * loss, divided by 1 - 0.9 ** k; find the rate where "
            "it is lowest; return a tenth of it.",
        ),
        solution="""
def suggest(rates, losses):
    average, smoothed = 0.0, []
    for k, loss in enumerate(losses, 1):
        average = 0.9 * average + 0.1 * loss
        smoothed.append(average / (1 - 0.9**k))
    return rates[smoothed.index(min(smoothed))] / 10
""",
    ),
    Exercise(
        "06.4",
        "Another batch size",
        difficulty=1,
        minutes=3,
        judge=_judge_scaled,
        expects="a function",
        hints=(
            "Eight times the batch means an eighth of the steps in an epoch. Must each step then be shorter, "
            "as long, or longer, to go as far?",
            "The square root keeps the noise of a step the same, and is a rule of thumb for Adam. For plain "
            "SGD eight short steps along about the same gradient add up to one that is eight times as long.",
            "The rate times new_batch_size / batch_size.",
        ),
        solution="""
def scaled(lr, batch_size, new_batch_size):
    return lr * new_batch_size / batch_size
""",
    ),
    Exercise(
        "06.5",
        "A schedule of your own",
        difficulty=3,
        minutes=15,
        judge=_judge_design,
        expects="a function",
        hints=(
            "Constants have been tried: between 0.001 and 0.064 none ends below 0.20. Which two "
            "parts of a run want different rates?",
            "However it begins, how does it end? Let the rate be (almost) 0 at the last step.",
            "Start from a peak of 0.016 or 0.032, higher than the best constant one, and let it fall to 0 "
            "over all the steps, along a line or half a cosine.",
        ),
        solution="""
def design(step, steps):
    return 0.02 * (1 + math.cos(math.pi * step / steps)) / 2
""",
    ),
)
