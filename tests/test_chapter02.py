"""The exercises of chapter 02: the solutions pass, likely wrong answers fail with the fitting hint."""

from __future__ import annotations

import torch
from chapters.answers import Answers

ANSWERS = Answers(
    {
        "02.1": "epoch_loss",
        "02.2": "measure_accuracy",
        "02.3": "order",
        "02.4": "standardise",
        "02.5": "diagnosis",
    },
    {"torch": torch},
)


test_the_solution_is_right = ANSWERS.solutions()


WRONG = {
    "mean of means": (
        "02.1",
        1,
        """
def epoch_loss(losses, counts):
    return sum(losses) / len(losses)
""",
    ),
    "as if the last batch were full": (
        "02.1",
        2,
        """
def epoch_loss(losses, counts):
    return sum(l * c for l, c in zip(losses, counts)) / (len(losses) * counts[0])
""",
    ),
    "sum instead of mean": (
        "02.1",
        3,
        """
def epoch_loss(losses, counts):
    return sum(l * c for l, c in zip(losses, counts))
""",
    ),
    "no eval": (
        "02.2",
        1,
        """
@torch.no_grad()
def measure_accuracy(model, batches):
    hits = sum((model(x).argmax(1) == y).sum().item() for x, y in batches)
    return hits / sum(len(y) for _, y in batches)
""",
    ),
    "always ends in train": (
        "02.2",
        2,
        """
@torch.no_grad()
def measure_accuracy(model, batches):
    model.eval()
    hits = sum((model(x).argmax(1) == y).sum().item() for x, y in batches)
    model.train()
    return hits / sum(len(y) for _, y in batches)
""",
    ),
    "stays in eval": (
        "02.2",
        2,
        """
@torch.no_grad()
def measure_accuracy(model, batches):
    model.eval()
    hits = sum((model(x).argmax(1) == y).sum().item() for x, y in batches)
    return hits / sum(len(y) for _, y in batches)
""",
    ),
    "mean of the batches' accuracies": (
        "02.2",
        3,
        """
@torch.no_grad()
def measure_accuracy(model, batches):
    mode = model.training
    model.eval()
    means = [(model(x).argmax(1) == y).float().mean().item() for x, y in batches]
    model.train(mode)
    return sum(means) / len(means)
""",
    ),
    "shuffling off": (
        "02.3",
        1,
        """
def order(rows, seed, epoch):
    return torch.arange(rows)
""",
    ),
    "reseeded alike in every epoch": (
        "02.3",
        2,
        """
def order(rows, seed, epoch):
    return torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
""",
    ),
    "global generator reseeded": (
        "02.3",
        3,
        """
def order(rows, seed, epoch):
    torch.manual_seed(seed * 1000 + epoch)
    return torch.randperm(rows)
""",
    ),
    "seed and epoch added": (
        "02.3",
        3,
        """
def order(rows, seed, epoch):
    return torch.randperm(rows, generator=torch.Generator().manual_seed(seed + epoch))
""",
    ),
    "each table by its own statistics": (
        "02.4",
        1,
        """
def standardise(train, other):
    return tuple((t - t.mean(0)) / t.std(0).clamp(min=1e-8) for t in (train, other))
""",
    ),
    "statistics of both tables": (
        "02.4",
        1,
        """
def standardise(train, other):
    both = torch.cat([train, other])
    mean, std = both.mean(0), both.std(0).clamp(min=1e-8)
    return (train - mean) / std, (other - mean) / std
""",
    ),
    "one mean for all columns": (
        "02.4",
        2,
        """
def standardise(train, other):
    return (train - train.mean()) / train.std(), (other - train.mean()) / train.std()
""",
    ),
    "division by zero": (
        "02.4",
        3,
        """
def standardise(train, other):
    return (train - train.mean(0)) / train.std(0), (other - train.mean(0)) / train.std(0)
""",
    ),
    "dropout taken for a fault": (
        "02.5",
        1,
        'diagnosis = {"A": "memorising", "B": "rate too low", "C": "memorising"}',
    ),
    "flat taken for healthy": ("02.5", 2, 'diagnosis = {"A": "memorising", "B": "healthy", "C": "healthy"}'),
    "memory taken for a rate": (
        "02.5",
        3,
        'diagnosis = {"A": "rate too high", "B": "rate too low", "C": "healthy"}',
    ),
}


test_a_likely_wrong_answer_fails_with_its_hint = ANSWERS.wrong(WRONG)
