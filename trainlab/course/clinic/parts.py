"""What a program of the clinic is made of, and the real data that the patients are fed with."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

Pair = tuple[Tensor, Tensor]


@dataclass
class Parts:
    """A training program in pieces, named as `doctor.check` names them.

    No step_fn stands for the five lines that everybody writes.
    """

    model: nn.Module
    criterion: Callable[..., Any]
    optimizer: torch.optim.Optimizer
    train_loader: Any
    val_loader: Any = None
    step_fn: Callable[..., Any] | None = None
    scheduler: Any = None
    scheduler_interval: str = "epoch"
    eval_fn: Callable[..., Any] | None = None

    def arguments(self) -> dict[str, Any]:
        """As `doctor.check(**arguments)` takes them."""
        return dict(vars(self))

    def with_parts(self, **changes: Any) -> Parts:
        """The same program with some pieces exchanged."""
        return replace(self, **changes)


@dataclass(frozen=True)
class Case:
    """One patient: what its owner complains of, and how to build it, broken or mended.

    cause: the code of the fault.  also: codes that name the same fault from another side.
    build: build(mended, seed) gives the parts.  hint: where to look.
    """

    name: str
    complaint: str
    cause: str
    build: Callable[[bool, int], Parts]
    hint: str
    also: tuple[str, ...] = ()

    @property
    def causes(self) -> tuple[str, ...]:
        """All codes that are right."""
        return (self.cause, *self.also)


@functools.cache
def digits() -> tuple[Pair, Pair]:
    """1,797 handwritten digits of scikit-learn, 8 x 8 grey values from 0 to 1: 1,200 to train on, 597 to check."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(5))
    images, labels = torch.tensor(x, dtype=torch.float32)[order] / 16, torch.tensor(y)[order]
    return (images[:1200], labels[:1200]), (images[1200:], labels[1200:])


@functools.cache
def tumours() -> tuple[Pair, Pair]:
    """569 biopsies, 30 measurements each, scaled by the training part: benign is 1."""
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(5))
    rows, labels = torch.tensor(x, dtype=torch.float32)[order], torch.tensor(y)[order]
    mean, std = rows[:400].mean(0), rows[:400].std(0)
    rows = (rows - mean) / std
    return (rows[:400], labels[:400]), (rows[400:], labels[400:])


@functools.cache
def diabetes() -> tuple[Pair, Pair]:
    """442 patients, 10 measurements, and how far the illness went within a year (scaled)."""
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(5))
    rows = torch.tensor(x, dtype=torch.float32)[order]
    rows = (rows - rows[:320].mean(0)) / rows[:320].std(0)
    values = torch.tensor(y, dtype=torch.float32)[order]
    values = (values - values[:320].mean()) / values[:320].std()
    return (rows[:320], values[:320]), (rows[320:], values[320:])


TEXT = (
    """We hold that a model is learned and not written, and that a loop is only as honest as its author.
The quick brown fox jumps over the lazy dog, and the dog, who has seen many foxes, does not get up.
What can be measured should be measured twice: once before the change, and once after it.
"""
    * 12
)
LETTERS = sorted(set(TEXT))


@functools.cache
def letters(length: int = 25, step: int = 3) -> Tensor:
    """Windows of a short English text as numbers of its characters: (windows, length)."""
    codes = torch.tensor([LETTERS.index(letter) for letter in TEXT[:900]])
    return codes.unfold(0, length, step).clone()


def loader(pair: Pair, seed: int, *, batch_size: int = 32, shuffle: bool = True, **options: Any) -> Any:
    """A DataLoader over tensors, with a generator of its own."""
    generator = torch.Generator().manual_seed(seed)
    data = TensorDataset(*pair)
    return DataLoader(data, batch_size, shuffle=shuffle, generator=generator, **options)


def mlp(inputs: int = 64, outputs: int = 10, *middle: nn.Module, width: int = 64) -> nn.Sequential:
    """Two linear layers with a ReLU, and what else is to stand between them."""
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), *middle, nn.Linear(width, outputs))


def on_digits(seed: int, model: nn.Module | None = None, **changes: Any) -> Parts:
    """A sound classifier of digits, with some parts exchanged."""
    if model is None:
        torch.manual_seed(seed)
        model = mlp()
    train, valid = digits()
    parts = Parts(
        model,
        nn.CrossEntropyLoss(),
        torch.optim.Adam(model.parameters(), 2e-3),
        loader(train, seed),
        loader(valid, seed, shuffle=False),
    )
    return parts.with_parts(**changes)


def accuracy(model: nn.Module, batches: Any) -> float:
    """The share of the rows that are named rightly, in eval mode."""
    training = model.training
    model.eval()
    hits = rows = 0
    with torch.no_grad():
        for x, y in batches:
            hits += int((model(x).argmax(1) == y).sum())
            rows += len(y)
    model.train(training)
    return hits / rows
