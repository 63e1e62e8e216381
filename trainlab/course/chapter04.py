"""The exercises of chapter 04, what did you ask?, its rows, and what its figures are drawn with."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.catalogue import load
from ..data.dataset import Dataset
from ..data.loaders import make_loader
from ..data.splits import split
from ..loop.config import TrainConfig
from ..loop.training import fit
from ..randomness import seed_everything
from ..schedules import warmup_cosine
from ..state import TrainState
from .exercises import Exercise, Verdict, right, wrong

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rows = tuple[Tensor, Tensor]
Said = tuple[Tensor, Tensor]  # probabilities, and what happened (0 or 1)

_ROOMS = "adefg"  # the types of room that are booked often
_YEAR = 365.25  # days
_FIRST_DAY = 183  # the first arrival of the data is on 2 July

# --- the rows of the experiments ----------------------------------------------------------------------


def bookings(seed: int) -> tuple[Rows, Rows]:
    """Bookings of the hotel to learn from and unseen ones: 12 columns, standardised, and prices (N, 1).

    The columns say the season (two waves a year), who comes, how long ahead, and which type of room.
    Split at random, under this seed: both parts are of the same months.
    """
    parts = split(load("hotel_rates"), seed=seed)
    (train, paid), (valid, unseen) = (_priced(part) for part in (parts.train, parts.valid))
    mean, std = train.mean(0), train.std(0)
    return ((train - mean) / std, paid), ((valid - mean) / std, unseen)


def _priced(part: Any) -> Rows:
    assert isinstance(part, Dataset)
    column = dict(zip(part.columns, part.features.T))
    names = part.levels["reserved_room_type"]
    rooms = [(column["reserved_room_type"] == names.index(letter)).float() for letter in _ROOMS]
    season = 2 * math.pi * (part.time + _FIRST_DAY) / _YEAR
    waves = [wave(times * season).float() for times in (1, 2) for wave in (torch.sin, torch.cos)]
    guests = [column[name] for name in ("adults", "children", "lead_time")]
    return torch.stack([*waves, *guests, *rooms], 1), part.targets[:, None]


def customers(seed: int, *, raw: bool = False) -> tuple[Rows, Rows]:
    """Customers of the bank to learn from and unseen ones: student or not, balance, income; 1 = default.

    raw: the balance and the income in dollars, as they come, instead of standardised.
    """
    parts = split(load("default"), (0.5, 0.4, 0.1), seed=seed, stratify=True)
    assert isinstance(parts.train, Dataset)
    assert isinstance(parts.valid, Dataset)
    (train, defaulted), (valid, unseen) = parts.train.tensors, parts.valid.tensors
    if not raw:
        mean, std = train.mean(0), train.std(0)
        train, valid = (train - mean) / std, (valid - mean) / std
    return (train, defaulted), (valid, unseen)


def without_weight(said: Tensor, weight: float) -> Tensor:
    """Probabilities of a yes as a model would say them that was not trained with this weight of each yes."""
    return said / (said + weight * (1 - said))


# --- drawing, so that the chapter's cells hold what it is about --------------------------------------


def plot_prices(prices: Tensor, answers: Mapping[str, float]) -> Axes:
    """Draw how often each price was paid, and the one number that each loss asks for."""
    ax = _pyplot().figure(figsize=(6, 2.4)).add_subplot()
    ax.hist(prices.flatten().numpy(), bins=60, range=(0, 300), color="#808080", alpha=0.5)
    for place, (name, answer) in enumerate(answers.items()):
        ax.axvline(answer, color=f"C{place}", linestyle=("-", "--", "-.", ":")[place], label=name)
    ax.set_xlabel("price of a night (euros)")
    ax.set_ylabel("bookings")
    ax.legend()
    return ax


def plot_pulls(
    pulls: Mapping[str, Mapping[str, Sequence[float]]], x: Tensor, *, xlabel: str, columns: int = 3
) -> None:
    """Draw pulls in small panels: panel -> curve -> the gradient of one row's loss at each x."""
    rows = math.ceil(len(pulls) / columns)
    _, axes = _pyplot().subplots(rows, columns, figsize=(7.6, 1.9 * rows + 0.2), sharex=True, squeeze=False)
    for ax, (title, curves) in zip(axes.flat, pulls.items()):
        for place, (name, values) in enumerate(curves.items()):
            ax.plot(x, values, color=f"C{place}", linestyle=("-", "--")[place % 2], label=name)
        ax.axhline(0, color="#808080", linewidth=0.6)
        ax.set_title(title)
        if len(curves) > 1:
            ax.legend(fontsize=7)
    for ax in axes[-1]:
        ax.set_xlabel(xlabel)
    for ax in axes[:, 0]:
        ax.set_ylabel("pull")
    for ax in list(axes.flat)[len(pulls) :]:
        ax.set_visible(False)


_EDGES = (0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0)


def plot_calibration(found: Mapping[str, Said], *, fewest: int = 20) -> Axes:
    """Draw what share came true of the rows that were told about the same probability.

    found: name -> probabilities and outcomes, (N,) each.  fewest: rows that make a dot.
    """
    ax = _pyplot().figure(figsize=(4.4, 3.2)).add_subplot()
    ax.plot([0, 1], [0, 1], color="#808080", linewidth=0.8, label="as often as said")
    for place, (name, (said, happened)) in enumerate(found.items()):
        dots = []
        for low, high in itertools.pairwise(_EDGES):
            inside = (said >= low) & (said < high)
            if inside.sum() >= fewest:
                dots.append((said[inside].mean().item(), happened[inside].float().mean().item()))
        ax.plot(
            *zip(*dots), "os^"[place] + ("-", "--", ":")[place], color=f"C{place}", label=name, markersize=4
        )
    ax.set_xlabel("probability said")
    ax.set_ylabel("share that defaulted")
    ax.legend(fontsize=8)
    return ax


def _pyplot() -> Any:
    from matplotlib import pyplot as plt

    return plt


# --- exercises ----------------------------------------------------------------------------------------


def _judge_pinball(pinball: Callable[..., Any]) -> Verdict:
    said, paid = torch.tensor([10.0, 10.0]), torch.tensor([20.0, 5.0])  # 10 too little, 5 too much
    got = float(pinball(said, paid, 0.9))
    asked = "at 0.9, once 10 euros too little and once 5 too much"
    if math.isclose(got, 2.75, rel_tol=1e-5) or math.isclose(got, 7.5, rel_tol=1e-5):
        return wrong(f"{asked}: which of the two costs 0.9 a euro?", observed=got, expected=4.75, hint=1)
    if math.isclose(got, 9.5, rel_tol=1e-5):
        return wrong(f"{asked}: that is the sum, the mean is asked for", observed=got, expected=4.75, hint=2)
    if not math.isclose(got, 4.75, rel_tol=1e-5):
        return wrong(asked, observed=got, expected=4.75, hint=3)
    even = float(pinball(said, paid, 0.5))
    if not math.isclose(even, 3.75, rel_tol=1e-5):
        return wrong("at 0.5 it is half the absolute error", observed=even, expected=3.75, hint=3)
    at = torch.zeros(1, requires_grad=True)
    slope = _slope(pinball(at, torch.ones(1), 0.9), at)
    if not torch.allclose(slope, torch.tensor([-0.9])):
        return wrong("the gradient at a prediction that is too low", observed=slope, expected=-0.9, hint=3)
    return right("nine tenths a euro below, one tenth a euro above: the pulls balance at the 0.9 quantile.")


def _judge_repair(repair: Callable[..., Any]) -> Verdict:
    for said, weight, expected in ((0.5, 29.0, 1 / 30), (0.9, 9.0, 0.5), (0.2, 1.0, 0.2)):
        got = float(repair(torch.tensor(said), weight))
        about = f"said {said} after training with weight {weight:g}"
        if weight > 1 and math.isclose(got, said / weight, rel_tol=1e-4):
            return wrong(
                f"{about}: it is the odds that were multiplied", observed=got, expected=expected, hint=1
            )
        if got > said * (1 + 1e-6):
            return wrong(f"{about}: the weight has made it too high", observed=got, expected=expected, hint=2)
        if not math.isclose(got, expected, rel_tol=1e-3):
            return wrong(about, observed=got, expected=expected, hint=3)
    many = torch.tensor([0.0, 0.1, 0.9])
    got_all = torch.as_tensor(repair(many, 9.0)).tolist()
    if any(abs(one - other) > 1e-4 for one, other in zip(got_all, (0.0, 1 / 82, 0.5))):
        return wrong("a whole tensor of probabilities, weight 9", observed=got_all, hint=3)
    return right("the odds divided by the weight: what the plain loss would have said.")


def _judge_cross_entropy(cross_entropy: Callable[..., Any]) -> Verdict:
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(6, 4, generator=generator), torch.tensor([0, 3, 2, 2, 1, 0])
    expected = F.cross_entropy(logits, targets).item()
    got = float(cross_entropy(logits, targets))
    if math.isclose(got, 6 * expected, rel_tol=1e-4):
        return wrong(
            "six rows: that is the sum, the mean is asked for", observed=got, expected=expected, hint=3
        )
    if not math.isclose(got, expected, rel_tol=1e-4):
        return wrong("six rows of four small logits", observed=got, expected=expected, hint=3)
    for far in (1000.0, -1000.0):
        got = float(cross_entropy(torch.tensor([[0.0, far]]), torch.tensor([int(far < 0)])))
        if not math.isfinite(got):
            return wrong(
                f"logits 0 and {far:g}, the lower one is true", observed=got, expected=1000.0, hint=1
            )
        if not math.isclose(got, 1000.0, rel_tol=1e-4):
            return wrong(
                f"logits 0 and {far:g}, the lower one is true", observed=got, expected=1000.0, hint=2
            )
    apart = torch.tensor([[1000.0, 999.0], [-1000.0, -1001.0]], requires_grad=True)
    loss = cross_entropy(apart, torch.tensor([0, 0]))
    got = torch.as_tensor(loss).item()
    if not math.isclose(got, math.log(1 + math.exp(-1)), rel_tol=1e-3):
        return wrong("two rows, 2,000 apart from each other", observed=got, expected=0.3133, hint=3)
    share = math.exp(-1) / (1 + math.exp(-1))
    expected_slope = torch.tensor([[-share, share], [-share, share]]) / 2
    slope = _slope(loss, apart)
    if not torch.allclose(slope, expected_slope, atol=1e-5):
        return wrong("the gradient at those two rows", observed=slope, expected=expected_slope, hint=3)
    return right("the same as torch's, also a thousand away, and with its gradient.")


def _slope(loss: Any, at: Tensor) -> Tensor:
    """The gradient of a loss, zeros where none arrives."""
    if not isinstance(loss, Tensor) or not loss.requires_grad:
        return torch.zeros_like(at)
    (found,) = torch.autograd.grad(loss, at, allow_unused=True, materialize_grads=True)
    return found


def _judge_reserve(loss: Callable[..., Any]) -> Verdict:
    (x, y), (unseen, paid) = bookings(7)
    at = unseen[:4, :1].clone().requires_grad_()
    if not _slope(loss(at, paid[:4]), at).any():
        return wrong("no gradient reaches the predictions: a model could not learn from this loss", hint=3)
    own, least = (_reserved(each, x, y, unseen) for each in (loss, _cost))
    cost, best = float(_cost(own, paid)), float(_cost(least, paid))
    enough = (paid <= own).float().mean().item()
    if not math.isfinite(cost):
        return wrong("the loss or its gradient was not finite", observed=cost, hint=3)
    if cost < 1.03 * best:
        return right(f"{cost:.1f} euros a booking; it was enough for {enough:.0%} of the guests.")
    said = f"{cost:.1f} euros a booking, {best:.1f} can be had; it was enough for {enough:.0%} of the guests"
    if enough < 0.45:
        return wrong(f"{said}: too little costs four times as much as too much", hint=2)
    if enough < 0.65:
        return wrong(f"{said}: your loss asks for the middle", hint=1)
    return wrong(said, hint=3)


def _cost(reserved: Tensor, paid: Tensor) -> Tensor:
    """What the hotel pays: 4 a euro too little, 1 a euro too much."""
    lack = paid - reserved
    return torch.maximum(4 * lack, -lack).mean()


def _reserved(loss: Callable[..., Any], x: Tensor, y: Tensor, unseen: Tensor) -> Tensor:
    """What a linear model says of unseen bookings, trained on this loss."""
    seed_everything(0)
    model = nn.Linear(x.shape[1], 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=3.0)
    state = TrainState(model, optimizer, warmup_cosine(optimizer, steps=300))
    loader = make_loader((x, y), 128, seed=0, shuffle=True)
    fit(state, loader, lambda model, batch: loss(model(batch[0]), batch[1]), TrainConfig(steps=300))
    with torch.no_grad():
        said: Tensor = model(unseen)
    return said


EXERCISES = (
    Exercise(
        "04.1",
        "Two prices for a mistake",
        difficulty=1,
        minutes=5,
        judge=_judge_pinball,
        expects="a function",
        hints=(
            "Too little means that the target is above the prediction. That side costs `quantile` a euro, "
            "the other side 1 - quantile.",
            "A mean over the rows: end with .mean().",
            "lack = targets - predictions; where it is positive the cost is quantile * lack, where it is "
            "negative (quantile - 1) * lack. The larger of the two is always the right one.",
        ),
        solution="""
def pinball(predictions, targets, quantile):
    lack = targets - predictions
    return torch.maximum(quantile * lack, (quantile - 1) * lack).mean()
""",
    ),
    Exercise(
        "04.2",
        "Repair a weighted model",
        difficulty=2,
        minutes=8,
        judge=_judge_repair,
        expects="a function",
        hints=(
            "A weight of w makes each yes count as w of them. Which of these does that multiply by w: the "
            "probability p, or the odds p / (1 - p), yes against no?",
            "Counted w times, the yeses look more frequent than they are: the repaired probability is lower.",
            "The odds divided by w, and back to a probability: p / (p + w * (1 - p)). In logits: z - ln w.",
        ),
        solution="""
def repair(probability, weight):
    return probability / (probability + weight * (1 - probability))
""",
    ),
    Exercise(
        "04.3",
        "Cross-entropy that survives",
        difficulty=2,
        minutes=12,
        judge=_judge_cross_entropy,
        expects="a function",
        hints=(
            "exp(1000) is inf and exp(-1000) is 0 in any float. Adding the same number to all logits of a "
            "row changes no probability: which number keeps every exp at 1 or below?",
            "A small number added inside the logarithm, or a clamp, caps the loss at its logarithm, and "
            "where it caps, no gradient is left. Do not form the probability at all.",
            "For each row of its own: m = the row's largest logit; lse = m + log(sum(exp(z - m))); the loss "
            "is lse - z[true class]. Then the mean over the rows.",
        ),
        solution="""
def cross_entropy(logits, targets):
    top = logits.max(1, keepdim=True).values
    lse = top[:, 0] + (logits - top).exp().sum(1).log()
    return (lse - logits[torch.arange(len(targets)), targets]).mean()
""",
    ),
    Exercise(
        "04.4",
        "The loss that the hotel pays",
        difficulty=3,
        minutes=12,
        judge=_judge_reserve,
        expects="a function",
        hints=(
            "A loss that treats both sides alike asks for a middle, be it the mean or the median. These "
            "costs are not alike.",
            "targets - predictions is positive where too little was reserved. That side is the dear one.",
            "Write down what is paid: 4 times the lack where there is a lack, 1 times the excess where there "
            "is one, and the mean of it. A loss may be the very cost.",
        ),
        solution="""
def loss(predictions, targets):
    lack = targets - predictions
    return torch.maximum(4 * lack, -lack).mean()
""",
    ),
)
