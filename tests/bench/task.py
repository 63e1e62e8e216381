"""The one task that every contestant trains on: 4,000 MNIST digits, 1,000 to validate on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import trainlab as tl

BATCH_SIZE = 64
VALID_BATCH_SIZE = 250
RATE = 1e-3

Pair = tuple[Tensor, Tensor]
# what a contestant returns: the validation accuracy that it measured after each epoch
Run = Callable[[], list[float]]


@dataclass(frozen=True, slots=True)
class Task:
    """A fresh model and optimizer, and the data: everything that a contestant is given.

    train, valid: (features, targets), (N, 1, 28, 28) and (N,).
    """

    model: nn.Module
    optimizer: torch.optim.Adam
    train: Pair
    valid: Pair
    epochs: int

    @property
    def batches(self) -> int:
        """Training batches in an epoch, the last one smaller."""
        return -(-len(self.train[0]) // BATCH_SIZE)

    def train_loader(self) -> DataLoader[Pair]:
        """The loader that tutorials make."""
        return DataLoader(TensorDataset(*self.train), BATCH_SIZE, shuffle=True)

    def valid_loader(self) -> DataLoader[Pair]:
        """Likewise for validation, in order."""
        return DataLoader(TensorDataset(*self.valid), VALID_BATCH_SIZE)

    def steps_done(self) -> int:
        """How often the optimizer has stepped, as it says itself."""
        return int(next(iter(self.optimizer.state.values()))["step"])

    @torch.no_grad()
    def accuracy(self) -> float:
        """Of the model as it is now, on all validation rows at once."""
        features, targets = self.valid
        self.model.eval()
        return (self.model(features).argmax(1) == targets).float().mean().item()


def make_task(model_name: str, *, fused: bool, epochs: int, seed: int) -> Task:
    """A task with the weights and the random state that belong to `seed`."""
    torch.manual_seed(seed)
    model = tl.models.MLP(784, [128], 10) if model_name == "mlp" else tl.models.CNN(1, 10)
    # fused=False, foreach=None is what a tutorial's Adam(parameters, lr) comes to on a CPU
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=fused)
    return Task(model, optimizer, *_digits(), epochs)


@cache
def _digits() -> tuple[Pair, Pair]:
    splits = tl.split(tl.load("mnist5k"), (0.8, 0.2, 0.0), seed=0, stratify=True)
    train, valid = ((part.features, part.targets) for part in (splits.train, splits.valid))
    return train, valid


def mean_loss_and_accuracy(model: nn.Module, batches: list[Pair] | DataLoader[Pair]) -> tuple[float, float]:
    """The validation of the hand-written loops: sums on tensors, read once at the end."""
    model.eval()
    loss, correct, rows = torch.zeros(()), torch.zeros((), dtype=torch.int64), 0
    with torch.no_grad():
        for features, targets in batches:
            logits = model(features)
            loss += F.cross_entropy(logits, targets, reduction="sum")
            correct += (logits.argmax(1) == targets).sum()
            rows += len(targets)
    model.train()
    return loss.item() / rows, correct.item() / rows
