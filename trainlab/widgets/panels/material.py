"""What the panels train: real digits, small models."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...data.catalogue import load
from ...data.dataset import Dataset
from ...data.loaders import Loader, make_loader
from ...data.splits import Splits, split
from ...errors import TrainlabError, unknown_name
from ...models import CNN, MLP
from ...randomness import seed_everything

Model = Callable[[], nn.Module]


@functools.cache
def digits() -> tuple[Dataset, Dataset]:
    """3,500 digits to learn from, 500 to look at while learning."""
    train, valid, _ = split(load("mnist5k"), (0.7, 0.1, 0.2), seed=0, stratify=True)
    assert isinstance(train, Dataset)
    assert isinstance(valid, Dataset)
    return train, valid


@functools.cache
def small_digits() -> Splits:
    """Digits of 14x14 pixels, to be quick: 2,800 to draw from, 200 for validation, 2,000 sealed.

    Not the split of chapter 07, which has looked at its held-back digits.
    """
    data = load("mnist5k")
    pixels = F.avg_pool2d(data.features, 2)  # (N,1,28,28) -> (N,1,14,14)
    return split(replace(data, features=pixels), (0.56, 0.04, 0.4), seed=7, stratify=True)


def few_digits(rows: int, false_labels: float, seed: int) -> tuple[Tensor, Tensor]:
    """Some digits of the first part, drawn at random; a share of them gets a wrong label.

    Raises TrainlabError if there are not so many, or the share is outside [0, 1].
    """
    drawn_from = small_digits().train
    assert isinstance(drawn_from, Dataset)
    features, targets = drawn_from.tensors
    if not 1 <= rows <= len(targets):
        raise TrainlabError(f"rows={rows}: there are {len(targets)} digits to draw from, use 1 or more")
    if not 0.0 <= false_labels <= 1.0:
        raise TrainlabError(f"false_labels={false_labels!r} is not a share: use 0.25 for a quarter")
    generator = torch.Generator().manual_seed(seed)
    index = torch.randperm(len(targets), generator=generator)[:rows]
    labels, wrong = targets[index], round(false_labels * rows)  # the rows are in random order
    labels[:wrong] = (labels[:wrong] + torch.randint(1, 10, (wrong,), generator=generator)) % 10
    return features[index], labels


MODELS: dict[str, Model] = {
    "MLP": lambda: MLP(784, [64], 10),
    "deep MLP": lambda: MLP(784, [64] * 6, 10),
    "CNN": lambda: CNN(1, 10, widths=(8, 16)),
}


def built(name: str, seed: int) -> nn.Module:
    """The model of this name, fresh, under this seed.  Raises TrainlabError if there is none such."""
    if name not in MODELS:
        raise unknown_name("model", name, MODELS)
    seed_everything(seed)
    return MODELS[name]()


def batches(data: Dataset, batch_size: int, seed: int, *, shuffle: bool = True) -> Loader:
    """A loader over one part of the digits."""
    return make_loader(data, batch_size, seed=seed, shuffle=shuffle)
