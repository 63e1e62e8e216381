"""What the panels train: real digits, small models."""

from __future__ import annotations

import functools
from collections.abc import Callable

from torch import nn

from ...data.catalogue import load
from ...data.dataset import Dataset
from ...data.loaders import Loader, make_loader
from ...data.splits import split
from ...errors import unknown_name
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
