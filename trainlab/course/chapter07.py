"""The exercises of chapter 07, must the gap be closed?, and what its figures are drawn with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.catalogue import load
from ..data.loaders import make_loader
from ..events import STOP, Event, Validation
from ..loop.evaluation import evaluate
from ..losses import Loss, LossFunction, classification
from ..observers import EarlyStopping
from ..state import TrainState
from .exercises import Exercise, Verdict, right, wrong

Rows = tuple[Tensor, Tensor]
Gains = Mapping[str, Sequence[float]]

# --- the experiments -----------------------------------------------------------------------------------


class Course:
    """An observer: loss and accuracy on the training rows, measured again, and on validation rows.

    after: one tuple for each validation: training loss, validation loss, training and validation accuracy.
    """

    def __init__(self, state: TrainState, rows: Rows) -> None:
        self.after: list[tuple[float, float, float, float]] = []
        self._state = state
        self._rows = make_loader(rows, 500, seed=0, shuffle=False)

    def __call__(self, event: Event) -> None:
        if isinstance(event, Validation):
            again, valid = evaluate(self._state.model, self._rows, classification()), event.metrics
            self.after.append((again["loss"], valid["loss"], again["accuracy"], valid["accuracy"]))


def shifting(model: nn.Module, batch: Any) -> Loss | Tensor:
    """Cross-entropy; in training the batch is first moved by up to a pixel, at random."""
    images, targets = batch
    if model.training:
        down, across = torch.randint(-1, 2, (2,)).tolist()
        images = torch.roll(images, (down, across), (2, 3))  # (N,1,H,W); digits have an empty border
    return _CROSS_ENTROPY(model, (images, targets))


_CROSS_ENTROPY: LossFunction = classification()


def points(after: Sequence[float], before: Sequence[float]) -> list[float]:
    """What a move gained on each seed, in percentage points."""
    return [100 * (new - old) for new, old in zip(after, before)]


def said(gains: Sequence[float]) -> str:
    """Mean and spread of gains, as in "+7.4 (spread 1.0)"."""
    return f"{fmean(gains):+5.1f} (spread {stdev(gains):.1f})"


# --- drawing, so that the chapter's cells hold what it is about ----------------------------------------


def plot_course(after: Sequence[tuple[float, float, float, float]]) -> None:
    """Draw loss and accuracy over the epochs, of the training rows and of validation rows."""
    _, axes = _pyplot().subplots(1, 2, figsize=(7.5, 2.6))
    train_loss, valid_loss, train_share, valid_share = zip(*after)
    epochs = range(1, len(after) + 1)
    lowest = min(range(len(after)), key=valid_loss.__getitem__)
    for ax, pair, label in (
        (axes[0], (train_loss, valid_loss), "loss (nats)"),
        (axes[1], (train_share, valid_share), "share right"),
    ):
        for values, name in zip(pair, ("training rows", "held-back digits")):
            ax.plot(epochs, values, label=name)
        ax.axvline(lowest + 1, linestyle=":", color="gray")
        ax.set(xlabel="epoch", ylabel=label, ylim=(0, None))
    axes[1].legend(loc="lower right")


def plot_ladder(ladders: Mapping[str, Gains], *, unit: str) -> None:
    """Draw what each rung gained, a dot for each seed and a bar from mean - sd to mean + sd.

    ladders: for each condition, rung -> gains of its seeds.
    """
    rungs = list(next(iter(ladders.values())))
    ax = _pyplot().figure(figsize=(7, 0.8 + 0.32 * len(rungs))).add_subplot()
    for place, (name, gains) in enumerate(ladders.items()):
        for row, rung in enumerate(rungs):
            found, y = gains[rung], row + 0.26 * (place - (len(ladders) - 1) / 2)
            ax.plot(found, [y] * len(found), "os"[place % 2], color=f"C{place}", alpha=0.45, markersize=3.5)
            ax.errorbar(
                fmean(found), y, xerr=stdev(found), fmt="|", markersize=10, linewidth=2, color=f"C{place}",
                label=name if row == 0 else None,
            )  # fmt: skip
    ax.axvline(0, color="gray", linewidth=0.8)
    ax.set_yticks(range(len(rungs)), rungs)
    ax.set_ylim(len(rungs) - 0.5, -0.5)
    ax.set_xlabel(unit)
    if len(ladders) > 1:
        ax.legend(loc="lower right")


def _pyplot() -> Any:
    from matplotlib import pyplot

    return pyplot


# --- exercises -----------------------------------------------------------------------------------------


def _judge_dropconnect(dropconnect: Callable[..., Any]) -> Verdict:
    torch.manual_seed(0)
    x, weight, bias = torch.rand(4, 50) + 0.5, torch.rand(3, 50) + 0.5, torch.tensor([5.0, 0.0, -5.0])
    whole = F.linear(x, weight, bias)
    kept = weight.clone()
    draws = torch.stack([torch.as_tensor(dropconnect(x, weight, bias, 0.4)) for _ in range(600)])
    if not torch.equal(weight, kept):
        return wrong("the weights themselves were changed: the next step starts from damaged ones", hint=3)
    if draws.shape != (600, 4, 3):
        return wrong("the shape of an output", observed=tuple(draws.shape[1:]), expected=(4, 3), hint=3)
    if torch.equal(draws[0], draws[1]):
        return wrong("two calls gave the same output: nothing is drawn", hint=1)
    if _together(draws) or (draws == 0).any():
        return wrong("whole inputs or outputs fall silent: that is dropout of units, not of weights", hint=1)
    mean = draws.mean(0) - bias
    share = (mean / (whole - bias)).mean().item()
    if abs(share - 0.6) < 0.05 or abs(share - 0.4) < 0.05:
        return wrong("the mean output, as a share of the layer's own", observed=share, expected=1.0, hint=2)
    silent = torch.stack([torch.as_tensor(dropconnect(0 * x, weight, bias, 0.4)) for _ in range(20)])
    if not torch.allclose(silent, bias.expand(20, 4, 3)):
        return wrong(
            "for inputs of zero the output is not the bias", observed=silent[0, 0], expected=bias, hint=3
        )
    if abs(share - 1) > 0.05:
        return wrong("the mean output, as a share of the layer's own", observed=share, expected=1.0, hint=2)
    spread, expected = draws.std(0).mean().item(), _spread(x, weight, 0.4)
    if not 0.85 < spread / expected < 1.15:
        return wrong("how far the outputs spread over calls", observed=spread, expected=expected, hint=1)
    return right("weights are silenced, inputs and bias are not, and the mean output is the layer's own.")


def _together(draws: Tensor) -> bool:
    """Whether the outputs of a row rise and fall together: then what is silenced is an input, or all of them.

    draws: (calls, rows, outputs).
    """
    together = torch.corrcoef(draws[:, 0].T) - torch.eye(draws.shape[2])
    return bool(together.nan_to_num().max() > 0.5)


def _spread(x: Tensor, weight: Tensor, p: float) -> float:
    """The standard deviation of an output under DropConnect: each term w x is 0 or w x / (1 - p)."""
    variance = (x**2) @ (weight**2).T * p / (1 - p)
    return variance.sqrt().mean().item()


def _judge_stopped(stopped: Callable[..., Any]) -> Verdict:
    for losses, patience, min_delta, text, hint in _STOPS:
        got = tuple(int(each) for each in stopped(list(losses), patience, min_delta))
        expected = _stopping(losses, patience, min_delta)
        if got != expected:
            shown = f"losses {list(losses)}, patience {patience}, min_delta {min_delta}: {text}"
            return wrong(shown, observed=got, expected=expected, hint=hint)
    return right("it stops where tl.EarlyStopping does, and hands over the weights that waiting began from.")


# losses, patience, min_delta, what is tried, hint
_STOPS: tuple[tuple[tuple[float, ...], int, float, str, int], ...] = (
    ((1.0, 0.5, 0.75, 0.75, 0.25), 2, 0.0, "the second bad validation in a row ends it", 1),
    ((1.0, 0.5, 0.25), 2, 0.0, "it never had to wait, and ends with the losses", 3),
    ((1.0, 1.5, 0.5, 1.0, 0.25, 0.5, 0.75), 2, 0.0, "an improvement ends the waiting", 1),
    ((1.0, 3.0, 2.0, 1.5, 1.25), 3, 0.0, "better than the one before is not better than the best", 1),
    ((1.0, 0.9375, 0.875, 0.5), 2, 0.125, "a gain must exceed min_delta to count", 2),
    (
        (1.0, 0.9375, 0.8125, 0.75, 0.75),
        2,
        0.125,
        "small gains add up: compare with the best that counted",
        2,
    ),
)


def _stopping(losses: Sequence[float], patience: int, min_delta: float) -> tuple[int, int]:
    """Where tl.EarlyStopping ends the run, and the validation that counted last."""
    observer, best = EarlyStopping(patience, min_delta=min_delta), 0
    for place, loss in enumerate(losses):
        answer = observer(Validation(place + 1, place + 1, {"loss": loss}))
        best = place if observer.waited == 0 else best
        if answer is STOP:
            return place, best
    return len(losses) - 1, best


def _judge_gap(gap: Callable[..., Any]) -> Verdict:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(8, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 3))
    train, valid = ((torch.randn(n, 8), torch.randint(0, 3, (n,))) for n in (90, 60))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(train[0]), train[1]).backward()
        optimizer.step()
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    expected = _fair(model, valid) - _fair(model, train)
    mixed = _fair(model, valid) - F.cross_entropy(model(train[0]), train[1]).item()
    model.load_state_dict(kept)
    got = [float(gap(model.train(), train, valid)) for _ in range(2)]
    if any(not torch.equal(value, kept[name]) for name, value in model.state_dict().items()):
        return wrong("measuring moved the running statistics of batch normalisation", hint=1)
    if got[0] != got[1]:
        return wrong("measured twice on one model", observed=got, expected=[expected] * 2, hint=1)
    if not model.training:
        return wrong("the model came back in eval mode, and goes on training without dropout", hint=3)
    if math.isclose(got[0], -expected, rel_tol=1e-4):
        return wrong("validation minus training", observed=got[0], expected=expected, hint=2)
    if not math.isclose(got[0], expected, rel_tol=1e-4):
        near = "with one of the two measured in training mode" if abs(got[0] - mixed) < 0.1 else "the gap"
        return wrong(near, observed=got[0], expected=expected, hint=2)
    return right("both parts in eval mode, by the same loss, and the model as it was.")


@torch.no_grad()
def _fair(model: nn.Module, rows: Rows) -> float:
    model.eval()
    loss = F.cross_entropy(model(rows[0]), rows[1]).item()
    model.train()
    return loss


BAR = 0.78
"""The mean share of held-back digits that exercise 07.4 asks for."""


def _mislabelled(seed: int) -> tuple[Rows, Rows, Rows]:
    """150 of the 8x8 digits with three labels in ten made false, 100 true ones, and all the others."""
    data = load("digits")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(data), generator=generator)
    x, y = data.features[order], data.targets[order].clone()
    y[:45] = (y[:45] + torch.randint(1, 10, (45,), generator=generator)) % 10
    return (x[:150], y[:150]), (x[150:250], y[150:250]), (x[250:], y[250:])


def _judge_rescue(rescue: Callable[..., Any]) -> Verdict:
    held, learned = [], []
    for seed in range(3):
        train, valid, rest = _mislabelled(seed)
        torch.manual_seed(seed)
        model = rescue(*(part.clone() for part in (*train, *valid)))
        if not callable(model):
            return wrong("rescue returns the trained model", observed=type(model).__name__, hint=3)
        with torch.no_grad():
            if not torch.equal(model(rest[0]), model(rest[0])):
                return wrong("the model that you hand over answers differently each time", hint=3)
            shares = [(model(x).argmax(1) == y).float().mean().item() for x, y in (rest, train)]
        held.append(shares[0])
        learned.append(shares[1])
    if (score := fmean(held)) >= BAR:
        return right(f"{score:.3f} of the held-back digits, three draws; by heart it is about 0.72.")
    if fmean(learned) > 0.8:  # seven in ten of the labels are true
        return wrong(
            "it still learns the false labels by heart; held-back digits",
            observed=score,
            expected=BAR,
            hint=1,
        )
    return wrong(
        f"only {fmean(learned):.2f} of the labels it was given, and of held-back digits",
        observed=score, expected=BAR, hint=2,
    )  # fmt: skip


EXERCISES = (
    Exercise(
        "07.1",
        "Silence weights",
        difficulty=1,
        minutes=6,
        judge=_judge_dropconnect,
        expects="a function",
        hints=(
            "Draw one 0 or 1 for each entry of `weight`, anew at each call, and multiply the weights by it: "
            "not the inputs, not the outputs.",
            "A share 1 - p of the weights is left, so the sum is 1 - p of what it was. Divide by what?",
            "F.linear(x, weight * kept / (1 - p), bias): the bias stays outside; `weight` is not changed.",
        ),
        solution="""
def dropconnect(x, weight, bias, p):
    import torch
    kept = torch.rand_like(weight) >= p
    return x @ (weight * kept / (1 - p)).T + bias
""",
    ),
    Exercise(
        "07.2",
        "Patience and its two numbers",
        difficulty=2,
        minutes=10,
        judge=_judge_stopped,
        expects="a function",
        hints=(
            "Count the bad validations in a row: set the count to 0 at each improvement on the best so far, "
            "and stop when it reaches patience.",
            "A loss counts as better only if loss < best - min_delta, and only then is it the new best.",
            "Return (place, best place), counted from 0, also when the losses run out before patience does.",
        ),
        solution="""
def stopped(losses, patience, min_delta):
    best, kept, waited = float("inf"), 0, 0
    for place, loss in enumerate(losses):
        if loss < best - min_delta:
            best, kept, waited = loss, place, 0
        else:
            waited += 1
        if waited >= patience:
            break
    return place, kept
""",
    ),
    Exercise(
        "07.3",
        "A gap measured fairly",
        difficulty=2,
        minutes=8,
        judge=_judge_gap,
        expects="a function",
        hints=(
            "In training mode dropout draws, and batch normalisation looks at the batch and takes notes. "
            "Which mode is for measuring?",
            "Both losses in eval mode, under torch.no_grad(); the gap is validation minus training.",
            "Remember model.training before, and give that mode back with model.train(was_training).",
        ),
        solution="""
def gap(model, train, valid):
    import torch
    was_training = model.training
    model.eval()
    with torch.no_grad():
        losses = [torch.nn.functional.cross_entropy(model(x), y).item() for x, y in (train, valid)]
    model.train(was_training)
    return losses[1] - losses[0]
""",
    ),
    Exercise(
        "07.4",
        "Rescue on new data",
        difficulty=3,
        minutes=15,
        judge=_judge_rescue,
        expects="a function",
        hints=(
            "Something must keep it from learning the last few rows: end it by the validation loss, silence "
            "most of the hidden units, or decay the weights.",
            "Now it is held back too much, or not trained for long enough. Loosen one thing, and look at "
            "both numbers.",
            "Hand over the model itself, in eval mode: return model.eval().",
        ),
        solution="""
def rescue(x, y, valid_x, valid_y):
    import copy
    import torch
    from torch import nn
    F = nn.functional
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    best, kept = float("inf"), None
    for epoch in range(30):
        model.train()
        for rows in torch.randperm(len(y)).split(30):
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            loss = F.cross_entropy(model(valid_x), valid_y).item()
        if loss < best:
            best, kept = loss, copy.deepcopy(model.state_dict())
    model.load_state_dict(kept)
    return model
""",
    ),
)
