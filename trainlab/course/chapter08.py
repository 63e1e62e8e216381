"""Chapter 08, is a flipped 6 still a 6?: its exercises, its specimen, and what its figures are drawn with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.catalogue import load
from ..data.dataset import Dataset
from ..data.loaders import make_loader
from ..randomness import get_rng_state, seed_everything, set_rng_state
from .exercises import Exercise, Verdict, right, wrong

if TYPE_CHECKING:
    from matplotlib.axes import Axes


# --- a few labels ---------------------------------------------------------------------------------------


def few(dataset: Dataset, per_class: int, seed: int) -> Dataset:
    """`per_class` rows of each class, drawn under this seed; a larger draw holds the smaller one."""
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
    labels = dataset.targets[order]
    return dataset.subset(torch.cat([order[labels == c][:per_class] for c in range(len(dataset.classes))]))


def worth(sizes: Sequence[int], scores: Sequence[float], reached: float) -> float:
    """How many labels a class give the score `reached`: between the measured sizes, on a log scale.

    scores: the mean score at each size, rising.  Beyond the last size it is that size.
    """
    return float(math.exp(np.interp(reached, scores, [math.log(size) for size in sizes])))


class Jittered(torch.utils.data.Dataset[float]):
    """The specimen: rows with noise from a generator that the data set holds, as many tutorials have it."""

    def __init__(self, rows: int = 8) -> None:
        self.rows = rows
        self.rng = np.random.default_rng(0)

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> float:
        return round(float(self.rng.normal()), 2)


# --- drawing, so that the chapter's cells hold what it is about -----------------------------------------


def show_rows(rows: Mapping[str, Tensor], *, low: float = 0.0, high: float = 1.0) -> None:
    """Draw images in rows, each with its name at the left.

    rows: name -> (K, 1, H, W), the same K in each.
    """
    count = max(len(images) for images in rows.values())
    size = (0.72 * count + 1.4, 0.78 * len(rows))
    figure, grid = _pyplot().subplots(len(rows), count, figsize=size, squeeze=False, layout="none")
    for axes, (name, images) in zip(grid, rows.items()):
        for ax in axes:
            ax.set_axis_off()
        for ax, image in zip(axes, images):
            ax.imshow(image[0], cmap="gray", vmin=low, vmax=high)
        axes[0].text(-0.25, 0.5, name, transform=axes[0].transAxes, ha="right", va="center")
    figure.subplots_adjust(left=0.24, right=0.99, top=0.99, bottom=0.01, wspace=0.08, hspace=0.08)


def plot_exchange(sizes: Sequence[int], plain: Tensor, augmented: Tensor, worth_labels: float) -> None:
    """Draw accuracy over labels a class, and what augmentation makes of the first size.

    plain: (sizes, seeds).  augmented: (seeds,), at the first size.
    """
    ax = _pyplot().figure(figsize=(5.4, 2.8)).add_subplot()
    ax.plot(sizes, plain.mean(1), color="C0", label="labels alone")
    ax.plot(sizes, plain, "o", color="C0", alpha=0.5, markersize=3)
    ax.plot([sizes[0]] * len(augmented), augmented, "o", color="C1", alpha=0.5, markersize=3)
    ax.plot(sizes[0], augmented.mean(), "*", color="C1", markersize=13, label="with one line more")
    ax.plot([sizes[0], worth_labels], [augmented.mean()] * 2, ":", color="C1")
    ax.set_xscale("log")
    ax.set_xticks(list(sizes), [str(size) for size in sizes])
    ax.set_xticks([], minor=True)
    ax.set_xlabel("labelled digits of each class")
    ax.set_ylabel("validation accuracy")
    ax.legend()


def plot_claims(scores: Mapping[str, Sequence[float]], base: str) -> Axes:
    """Draw the accuracies of each augmentation in a row of its own, a dot a seed; `base` as a dotted line."""
    ax = _pyplot().figure(figsize=(6, 0.36 * len(scores) + 0.7)).add_subplot()
    for place, (name, found) in enumerate(scores.items()):
        color = "C0" if name == base else "C1"
        ax.plot(found, [-place] * len(found), "o", color=color, alpha=0.5, markersize=4)
        ax.plot(sum(found) / len(found), -place, "|", color=color, markersize=13, markeredgewidth=2.5)
    ax.axvline(sum(scores[base]) / len(scores[base]), linestyle=":", color="gray")
    ax.set_yticks([-place for place in range(len(scores))], list(scores))
    ax.set_xlabel("validation accuracy")
    return ax


def plot_digits(changes: Mapping[str, Sequence[float]]) -> None:
    """Draw for each digit how its share of right answers changes under each augmentation."""
    _, axes = _pyplot().subplots(1, len(changes), figsize=(7.2, 2.3), sharey=True)
    for ax, (name, change) in zip(axes, changes.items()):
        ax.bar(range(len(change)), change, color=["C2" if each >= 0 else "C5" for each in change])
        ax.axhline(0, color="gray", linewidth=0.8)
        ax.set_title(name)
        ax.set_xticks(range(len(change)))
        ax.set_xlabel("digit")
    axes[0].set_ylabel("change of the share read")


def _pyplot() -> Any:
    from matplotlib import pyplot as plt

    return plt


# --- exercises ------------------------------------------------------------------------------------------


def _judge_soft_target(soft_target: Callable[..., Any]) -> Verdict:
    got = torch.as_tensor(soft_target(3, 5, 0.8, 10)).float()
    if got.shape != (10,):
        return wrong("ten classes need ten numbers", observed=tuple(got.shape), expected=(10,), hint=1)
    if math.isclose(float(got[5]), 0.8, abs_tol=1e-6):
        return wrong("0.8 of a 3, and the 5 got that share", observed=float(got[3]), expected=0.2, hint=1)
    if float(got.max()) == 1.0:
        return wrong("0.8 of a 3 and 0.2 of a 5 became one class, for certain", hint=2)
    if not math.isclose(float(got.sum()), 1.0, abs_tol=1e-5):
        return wrong("the shares must add up to 1", observed=float(got.sum()), expected=1.0, hint=2)
    if not (
        math.isclose(float(got[3]), 0.8, abs_tol=1e-5) and math.isclose(float(got[5]), 0.2, abs_tol=1e-5)
    ):
        return wrong("0.8 of a 3 and 0.2 of a 5", observed=got, hint=2)
    twice = torch.as_tensor(soft_target(4, 4, 0.3, 10)).float()
    if not math.isclose(float(twice[4]), 1.0, abs_tol=1e-5):
        return wrong("a 4 blended with a 4 is a 4", observed=float(twice[4]), expected=1.0, hint=3)
    return right("the label is blended as the image is, also where both are of one class.")


def _judge_keyed(keyed: Callable[..., Any]) -> Verdict:
    image = torch.linspace(0, 1, 16).view(1, 4, 4)
    kept, state = image.clone(), get_rng_state()
    first = keyed(image, 0, 1, 2).clone()
    changed = not torch.equal(get_rng_state()["torch"], state["torch"])
    if not torch.equal(image, kept):
        return wrong("the image that you were given has changed: make a new one", hint=3)
    keyed(image, 0, 3, 4)
    if not torch.equal(keyed(image, 0, 1, 2), first):
        return wrong("the same keys, asked for again, gave another image", hint=1)
    if changed:
        return wrong("torch's default generator is not where it was: everybody else's draws move", hint=2)
    set_rng_state(state)
    keys = [
        (s, e, i) for s in (0, 1, 2) for e in (0, 1, 2, 10) for i in (0, 1, 2, 3, 10, 20, 100, 1000, 2000)
    ]
    seen: dict[tuple[float, ...], tuple[int, int, int]] = {}
    for key in keys:
        made = tuple((keyed(image, *key) - image).flatten().tolist())
        if made in seen:
            return wrong(f"keys {seen[made]} and {key} gave the same noise", hint=3)
        seen[made] = key
    spread = float(torch.tensor(list(seen)).std())
    if not 0.08 < spread < 0.12:
        return wrong("the standard deviation of the noise", observed=spread, expected=0.1, hint=3)
    return right("the noise of a sample is a function of its keys, whoever asks, and in whatever order.")


def _judge_scan_transforms(scan_transforms: Callable[..., Any]) -> Verdict:
    scans = (load("mnist5k").features[::500] * 255).round().to(torch.uint8)
    mean, std = 0.13, 0.31
    train, valid = scan_transforms(mean, std)
    expected = (scans.float() / 255 - mean) / std
    for scan, wanted in zip(scans, expected):
        got = valid(scan)
        if not torch.equal(torch.as_tensor(got), torch.as_tensor(valid(scan))):
            return wrong("a validation image, asked for twice, is not the same", hint=1)
        if not torch.allclose(torch.as_tensor(got).float(), wanted, atol=1e-3):
            said = "the brightest pixel of a validation image"
            return wrong(said, observed=float(got.max()), expected=float(wanted.max()), hint=2)
    made = torch.stack([train(scans[3]) for _ in range(20)])
    if made.std(0).max() < 0.05:
        return wrong("twenty calls of the training transform gave one image: nothing is random", hint=1)
    if not math.isclose(float(made.min()), -mean / std, abs_tol=0.02):
        return wrong(
            "the black of a training image", observed=float(made.min()), expected=-mean / std, hint=2
        )
    corners = made[:, 0, [0, 0, -1, -1], [0, -1, 0, -1]]
    if not torch.allclose(corners, torch.full_like(corners, -mean / std), atol=0.02):
        return wrong(
            "the corners that a turn brings in are not black", observed=float(corners.max()),
            expected=-mean / std, hint=3,
        )  # fmt: skip
    return right("one is random, the other is not; both end on the same scale, and black stays black.")


def animals() -> tuple[Dataset, Dataset]:
    """The silhouettes of the last exercise: rows to draw few labels from, and 1,000 to judge by."""
    whole = load("animals")
    assert isinstance(whole, Dataset)
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))
    return whole.subset(order[:6000]), whole.subset(order[9000:])


def animal_score(policy: Any, seed: int) -> float:
    """Accuracy of a small CNN on unseen silhouettes, after 300 steps from 10 labelled ones a class."""
    from ..widgets.panels.augmentation_desk import small_cnn  # it brings all widgets along

    pool, unseen = animals()
    seed_everything(seed)
    model = small_cnn()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003, fused=True)
    loader = make_loader(few(pool, 10, seed), 10, seed=seed, shuffle=True, augment=policy)
    batches = (batch for epoch in range(30) for batch in loader.batches(epoch))
    for x, y in batches:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    with torch.no_grad():
        return float((model(unseen.features).argmax(1) == unseen.targets).float().mean())


def _judge_policy(policy: Callable[..., Any]) -> Verdict:
    change = policy()
    if not callable(change):
        return wrong("policy() must return a transform, which is called with an image", hint=1)
    image = torch.linspace(0, 1, 784).view(1, 28, 28)
    made = [torch.as_tensor(change(image.clone())) for _ in range(12)]
    if any(each.shape != image.shape for each in made):
        shapes = {tuple(each.shape) for each in made}
        return wrong("the network takes (1, 28, 28)", observed=shapes.pop(), expected=(1, 28, 28), hint=3)
    if all(torch.equal(each, made[0]) for each in made):
        return wrong("twelve calls gave one image: the network is shown nothing new", hint=1)
    scores = [animal_score(change, seed) for seed in range(3)]
    mean = sum(scores) / 3
    if mean >= _BAR:
        return right(f"accuracy {mean:.2f} over three seeds; ten labels alone reach {_ALONE:.2f}.")
    if mean < _ALONE - 0.03:
        return wrong("worse than no augmentation at all: some claim is false", observed=mean, hint=2)
    return wrong(f"over three seeds the mean accuracy is not {_BAR}", observed=mean, hint=3)


_ALONE, _BAR = (
    0.54,
    0.60,
)  # measured; over five seeds ten labels alone reach 0.51 to 0.56, a flip 0.60 to 0.66

EXERCISES = (
    Exercise(
        "08.1",
        "The target of a blend",
        difficulty=1,
        minutes=3,
        judge=_judge_soft_target,
        expects="a function",
        hints=(
            "One number for each class: `share` belongs to the first class, what is left to the second.",
            "Zeros for all classes, then share at `one` and 1 - share at `other`: a probability for each.",
            "Two images of one class: what is assigned second wipes out the first. Add instead: +=.",
        ),
        solution="""
def soft_target(one, other, share, classes):
    target = torch.zeros(classes)
    target[one] += share
    target[other] += 1 - share
    return target
""",
    ),
    Exercise(
        "08.2",
        "Two pipelines for one scan",
        difficulty=2,
        minutes=8,
        judge=_judge_scan_transforms,
        expects="a function",
        hints=(
            "One of the two has something random, the other has not: call each twice on one image.",
            "Both end in the same two steps: to float between 0 and 1 (scale=True), then "
            "Normalize([mean], [std]).",
            "What a turn brings in at the corners is 0. That is black as long as the image is a scan; after "
            "Normalize 0 is the mean grey. Turn first.",
        ),
        solution="""
def scan_transforms(mean, std):
    finish = [v2.ToDtype(torch.float32, scale=True), v2.Normalize([mean], [std])]
    return v2.Compose([v2.RandomRotation(15), *finish]), v2.Compose(finish)
""",
    ),
    Exercise(
        "08.3",
        "Noise by keys",
        difficulty=2,
        minutes=10,
        judge=_judge_keyed,
        expects="a function",
        hints=(
            "A generator that lives on remembers what was drawn before. Make a fresh one in each call, "
            "seeded by the keys.",
            "torch.manual_seed seeds the generator that everybody draws from. Use one of your own, "
            "torch.Generator().manual_seed(...), and pass it on: torch.randn(..., generator=generator).",
            "Three keys must make one seed without collisions: 1 + 2 + 3 is 3 + 2 + 1. "
            "derive_seed(seed, epoch, index) does it. And return image + noise: += works in place.",
        ),
        solution="""
def keyed(image, seed, epoch, index):
    generator = torch.Generator().manual_seed(derive_seed(seed, epoch, index))
    return image + 0.1 * torch.randn(image.shape, generator=generator)
""",
    ),
    Exercise(
        "08.4",
        "A policy for silhouettes",
        difficulty=3,
        minutes=15,
        judge=_judge_policy,
        expects="a function",
        hints=(
            "Return something that is called with an image and draws anew each time, such as "
            "v2.RandomHorizontalFlip().",
            "Cover the label and ask: is it still the same animal, and does it look like one that will "
            "arrive? None of these stands on its head.",
            "A cat that looks to the left is a cat. Add small moves and sizes: "
            "v2.Compose([flip, v2.RandomAffine(...)]); the result keeps its 28 by 28 pixels.",
        ),
        solution="""
def policy():
    moves = v2.RandomAffine(10, translate=(0.1, 0.1), scale=(0.9, 1.1))
    return v2.Compose([v2.RandomHorizontalFlip(), moves])
""",
    ),
)
