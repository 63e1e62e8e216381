"""The exercises of chapter 03, where should the weights go?, and what its figures are drawn with."""

from __future__ import annotations

import copy
import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.catalogue import load
from ..data.loaders import make_loader
from ..data.splits import split
from ..models import MLP, count_parameters
from ..randomness import seed_everything
from .exercises import Exercise, Verdict, right, wrong

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Pair = tuple[Tensor, Tensor]

# --- drawing, so that the chapter's cells hold what it is about --------------------------------------


def show_images(images: Tensor, titles: Sequence[str]) -> None:
    """Draw grey images in a row, a title above each.  images: (N, 1, H, W)."""
    _, axes = _pyplot().subplots(1, len(images), figsize=(min(8, 1.4 * len(images)), 1.3), squeeze=False)
    for ax, image, title in zip(axes[0], images, titles):
        ax.imshow(image[0], cmap="gray")
        ax.set_title(title)
        ax.set_axis_off()


def plot_depth(found: Mapping[int, Tensor], levels: Mapping[str, float]) -> None:
    """Draw accuracies over the number of hidden layers, a dot for each seed.

    found: depth -> accuracies, (seeds,).  levels: name -> an accuracy to compare with.
    """
    ax = _pyplot().figure(figsize=(5.5, 2.8)).add_subplot()
    ax.plot(list(found), [scores.mean() for scores in found.values()], color="C0")
    for depth, scores in found.items():
        ax.plot([depth] * len(scores), scores, "o", color="C0", alpha=0.6, markersize=4)
    for place, (name, level) in enumerate(levels.items(), 1):
        ax.axhline(level, linestyle="--", color=f"C{place}", label=name)
    ax.set_xscale("log", base=2)
    ax.set_xticks(list(found), [str(depth) for depth in found])
    ax.set(xlabel="hidden layers, the same number of weights in all", ylabel="validation accuracy")
    ax.set_ylim(0, 1)
    ax.legend(loc="lower left")


def plot_signal(forward: Mapping[str, Sequence[float]], backward: Mapping[str, Sequence[float]]) -> None:
    """Draw left how much the images differ after each layer, right the gradient that arrives there."""
    _, axes = _pyplot().subplots(1, 2, figsize=(8, 2.9))
    for ax, found in zip(axes, (forward, backward)):
        for place, (name, values) in enumerate(found.items()):
            shown = [max(value, 1e-12) for value in values]
            ax.plot(range(1, len(values) + 1), shown, ".-", color=f"C{place}", label=name)
        ax.set_yscale("log")
        ax.set_xlabel("hidden layer, the first beside the image")
    axes[0].set_ylabel("spread: how much images differ")
    axes[1].set_ylabel("gradient that arrives there")
    axes[1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def plot_shuffled(scores: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Draw for each model the accuracies on images as they are and on shuffled ones, a dot for each seed."""
    ax = _pyplot().figure(figsize=(5.5, 0.7 + 0.5 * len(scores))).add_subplot()
    for row, pair in enumerate(scores.values()):
        for place, (found, marker, name) in enumerate(zip(pair, "os", ("as they are", "shuffled"))):
            label = name if row == 0 else None
            heights = [row + 0.2 * place - 0.1] * len(found)
            ax.plot(found, heights, marker, color=f"C{place}", alpha=0.7, label=label)
    ax.set_yticks(range(len(scores)), list(scores))
    ax.set_ylim(len(scores) - 0.5, -0.5)
    ax.set_xlabel("validation accuracy")
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def plot_activations(
    curves: Mapping[str, tuple[Tensor, Tensor]], factors: Mapping[str, Sequence[float]]
) -> Axes:
    """Draw left each function, right how much images differ after each layer of a network with it."""
    _, axes = _pyplot().subplots(1, 2, figsize=(8, 2.7))
    for place, (name, (z, value)) in enumerate(curves.items()):
        axes[0].plot(z, value, color=f"C{place}")
        spreads = [max(each, 1e-12) for each in factors[name]]
        axes[1].plot(range(1, len(spreads) + 1), spreads, ".-", color=f"C{place}", label=name)
    axes[0].set(xlabel="z", ylabel="f(z)")
    axes[1].set(xlabel="hidden layer", ylabel="spread: how much images differ", yscale="log")
    axes[1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return axes[1]


def _pyplot() -> Any:
    from matplotlib import pyplot as plt

    return plt


# --- the data of the open exercise --------------------------------------------------------------------


@functools.cache
def half_digits() -> tuple[Pair, Pair]:
    """The chapter's digits: 14 by 14 pixels on the training part's scale; training and validation rows."""
    splits = split(load("mnist5k"), (0.7, 0.2, 0.1), seed=0, stratify=True)
    parts = [make_loader(part, len(part), seed=0, shuffle=False) for part in (splits.train, splits.valid)]
    (train, labels), (valid, truth) = (next(iter(part)) for part in parts)
    train, valid = F.avg_pool2d(train, 2), F.avg_pool2d(valid, 2)
    mean, std = train.mean(), train.std()
    return ((train - mean) / std, labels), ((valid - mean) / std, truth)


# --- judging ------------------------------------------------------------------------------------------


def _judge_count(count: Callable[..., Any]) -> Verdict:
    for sizes in ([4, 3, 2], [196, 10], [196, 240, 10], [7, 5, 5, 5, 3]):
        got, truth = count(list(sizes)), count_parameters(MLP(sizes[0], sizes[1:-1], sizes[-1]))
        if got == truth:
            continue
        pairs = list(itertools.pairwise(sizes))
        if got == sum(a * b for a, b in pairs):
            return wrong(f"{sizes}: the biases are missing", observed=got, expected=truth, hint=1)
        if got == sum(a * b for a, b in pairs) + sum(sizes):
            return wrong(f"{sizes}: the inputs got biases, too", observed=got, expected=truth, hint=2)
        return wrong(f"{sizes}", observed=got, expected=truth, hint=3)
    return right("as count_parameters finds it, for networks of one to four layers.")


_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "a leaky relu": lambda z: torch.where(z > 0, z, 0.3 * z),
    "twice its input": lambda z: 2 * z,
}


def _mean_over_normal(f: Callable[[Tensor], Tensor]) -> float:
    """The expectation of f(z), z standard normal, by a sum over a fine grid."""
    z = torch.linspace(-9, 9, 200_001, dtype=torch.float64)
    weight = torch.exp(-(z**2) / 2)
    return ((f(z) * weight).sum() / weight.sum()).item()


def _judge_scale(scale_for: Callable[..., Any]) -> Verdict:
    for name, f in _FUNCTIONS.items():
        got = float(scale_for(f))
        square, mean = _mean_over_normal(lambda z, f=f: f(z) ** 2), _mean_over_normal(f)  # type: ignore[misc]
        size = _mean_over_normal(lambda z, f=f: f(z).abs())  # type: ignore[misc]
        shown = {"observed": got, "expected": 1 / square}
        if math.isclose(got, 1 / square, rel_tol=0.03):
            continue
        if math.isclose(got, square, rel_tol=0.03):
            return wrong(f"{name}: this is what the layer does, not what makes up for it", hint=1, **shown)
        if math.isclose(got, 1 / (square - mean**2), rel_tol=0.03):
            return wrong(f"{name}: the mean of f(z) was taken away", hint=2, **shown)
        if any(math.isclose(got, 1 / each, rel_tol=0.03) for each in (size, size**2, math.sqrt(square))):
            return wrong(f"{name}: the mean square is asked for, not the mean size", hint=3, **shown)
        return wrong(name, hint=1, **shown)
    return right("five functions; for ReLU it is He's 2.")


# what somebody may average over instead of (images, height, width), and the hint that helps
_OTHER_AXES = {
    (0,): ("each pixel got a mean of its own", 1),
    (0, 1, 2, 3): ("all channels share one mean", 1),
    (2, 3): ("each image and channel was normalised alone, so no image needs the others", 2),
    (1, 2, 3): ("each image was normalised alone, over all its channels: that is layer norm", 2),
}


def _judge_batch_norm(batch_norm: Callable[..., Any]) -> Verdict:
    images = torch.randn(6, 3, 4, 5, generator=torch.Generator().manual_seed(0)) * 2 + 1
    images[:, 1] *= 3
    truth, got = F.batch_norm(images, None, None, training=True), batch_norm(images.clone())
    if not torch.is_tensor(got) or got.shape != truth.shape:
        shape = tuple(got.shape) if torch.is_tensor(got) else type(got).__name__
        return wrong("images of shape (6, 3, 4, 5)", observed=shape, expected=tuple(truth.shape), hint=1)
    for over, (said, hint) in _OTHER_AXES.items():
        if any(torch.allclose(got, _normalised(images, over, less), atol=1e-4) for less in (0, 1)):
            return wrong(said, hint=hint)
    if not torch.allclose(got, truth, atol=1e-4):
        if torch.allclose(got, _normalised(images, (0, 2, 3), 1), atol=1e-3):
            return wrong("the variance is divided by n - 1", hint=3)
        return wrong("the first values", observed=got[0, 0, 0, :3], expected=truth[0, 0, 0, :3], hint=3)
    blank = batch_norm(torch.ones(4, 2, 3, 3))
    if not torch.equal(blank, torch.zeros(4, 2, 3, 3)):
        return wrong("a channel that is 1 everywhere should become 0", observed=blank[0, 0, 0], hint=3)
    return right("as torch does it: one mean and one deviation for each channel, over images and places.")


def _normalised(images: Tensor, over: tuple[int, ...], correction: int) -> Tensor:
    mean = images.mean(over, keepdim=True)
    return (images - mean) / (images.var(over, keepdim=True, correction=correction) + 1e-5).sqrt()


def _judge_carried(carried: Callable[..., Any]) -> Verdict:
    seed_everything(0)
    model, images, order = MLP(12, [8, 6], 3), torch.randn(20, 12), torch.randperm(12)
    before = copy.deepcopy(model.state_dict())
    truth, fresh = model(images), carried(model, order)
    if any(not torch.equal(value, before[name]) for name, value in model.state_dict().items()):
        return wrong("the given model was changed", hint=1)
    if not isinstance(fresh, nn.Module):
        return wrong("a model is wanted", observed=type(fresh).__name__, hint=1)
    got = fresh(images[:, order])
    if torch.allclose(got, truth, atol=1e-5):
        return right("the same scores on shuffled images: an MLP knows no neighbours.")
    if torch.allclose(got, model(images[:, order]), atol=1e-5):
        return wrong("it still reads pixel k of the shuffled image as pixel k", hint=1)
    if torch.allclose(fresh(images[:, order.argsort()]), truth, atol=1e-5):
        return wrong("this undoes the opposite order: right for images[:, order.argsort()]", hint=3)
    gap = (got - truth).abs().max().item()
    return wrong("scores differ from those on the images as they were", observed=gap, expected=0.0, hint=2)


BUDGET = 50_000
_BAR = 0.945


def _judge_build(build: Callable[..., Any]) -> Verdict:
    model = build()
    if not isinstance(model, nn.Module):
        return wrong("build() has to return a model", observed=type(model).__name__, hint=1)
    if (count := count_parameters(model)) > BUDGET:
        return wrong("more than 50,000 weights", observed=count, expected=BUDGET, hint=1)
    accuracy = sum(_trained(build, seed) for seed in range(2)) / 2
    if accuracy >= _BAR:
        return right(f"{count:,} weights, accuracy {accuracy:.3f} over two seeds.")
    slides = any(isinstance(part, nn.Conv2d) for part in model.modules())
    said = f"{count:,} weights, accuracy {accuracy:.3f} over two seeds, and {_BAR} is asked for"
    return wrong(said, hint=3 if slides else 2)


def _trained(build: Callable[..., Any], seed: int) -> float:
    """Accuracy on the chapter's digits after three epochs of Adam at 0.003, batches of 64."""
    (train, labels), (valid, truth) = half_digits()
    seed_everything(seed)
    model = build()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003, fused=True)
    batches = make_loader((train, labels), 64, seed=seed, shuffle=True)
    for epoch in range(3):
        for x, y in batches.batches(epoch):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        return (model(valid).argmax(1) == truth).float().mean().item()


EXERCISES = (
    Exercise(
        "03.1",
        "Count before you build",
        difficulty=1,
        minutes=4,
        judge=_judge_count,
        expects="a function",
        hints=(
            "A unit has one weight for each of its inputs, and one number more, which is added at the end.",
            "The first size is that of the image. Pixels are given, not computed: nothing is added to them.",
            "A layer from a to b has a * b + b weights. Sum over the pairs of neighbouring sizes.",
        ),
        solution="""
def count(sizes):
    return sum(a * b + b for a, b in zip(sizes, sizes[1:]))
""",
    ),
    Exercise(
        "03.2",
        "The scale for any activation",
        difficulty=2,
        minutes=10,
        judge=_judge_scale,
        expects="a function",
        hints=(
            "Before the activation the layer has multiplied the mean square by the scale. What does f do to "
            "the mean square of a normal z, and which scale makes up for it?",
            "The next layer multiplies f(z) itself, mean included. So it is the mean of f(z) squared, not "
            "its variance.",
            "Draw a million normal numbers, z = torch.randn(1_000_000), and return 1 / f(z).square().mean().",
        ),
        solution="""
def scale_for(f):
    z = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0))
    return 1 / f(z).square().mean().item()
""",
    ),
    Exercise(
        "03.3",
        "Batch normalisation of images",
        difficulty=2,
        minutes=8,
        judge=_judge_batch_norm,
        expects="a function",
        hints=(
            "A channel is one feature, looked for at every place: it gets one mean. With C channels there "
            "are C means, of shape (1, C, 1, 1).",
            "Batch norm compares images with one another: the mean runs over the images as well.",
            "x.mean((0, 2, 3), keepdim=True), x.var of the same axes with correction=0, and 1e-5 added to "
            "the variance before the root.",
        ),
        solution="""
def batch_norm(x):
    mean = x.mean((0, 2, 3), keepdim=True)
    variance = x.var((0, 2, 3), keepdim=True, correction=0)
    return (x - mean) / (variance + 1e-5).sqrt()
""",
    ),
    Exercise(
        "03.4",
        "Carry a model over",
        difficulty=2,
        minutes=8,
        judge=_judge_carried,
        expects="a function",
        hints=(
            "Begin with copy.deepcopy(model): the given one stays as it is. Only its first linear layer, "
            "model[1], sees the pixels.",
            "weight has shape (units, pixels): it is the columns that belong to pixels. Rows are units.",
            "Pixel k of a shuffled image is pixel order[k] of the image as it was. So column k of the new "
            "matrix is column order[k] of the old one: weight[:, order].",
        ),
        solution="""
def carried(model, order):
    fresh = copy.deepcopy(model)
    with torch.no_grad():
        fresh[1].weight.copy_(model[1].weight[:, order])
    return fresh
""",
    ),
    Exercise(
        "03.5",
        "Spend 50,000 weights better",
        difficulty=3,
        minutes=15,
        judge=_judge_build,
        expects="a function",
        hints=(
            "build() takes nothing and returns a fresh model with at most 50,000 weights: "
            "tl.count_parameters tells how many.",
            "What do you know about images that this model does not? Which layer knows it?",
            "More channels, and fewer places thrown away: after two poolings 7 by 7 or 3 by 3 places are "
            "left. nn.Flatten keeps where something was found, a mean over the places forgets it.",
        ),
        solution="""
def build():
    return nn.Sequential(
        nn.Conv2d(1, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(24, 48, 3, padding=1), nn.BatchNorm2d(48), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(48 * 3 * 3, 10),
    )
""",
    ),
)
