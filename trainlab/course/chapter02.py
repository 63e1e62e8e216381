"""The exercises of chapter 02: is your loop lying to you?"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .exercises import Exercise, Verdict, right, wrong


def _judge_epoch_loss(epoch_loss: Callable[..., Any]) -> Verdict:
    got = float(epoch_loss([2.0, 4.0], [3, 1]))  # a batch of 3 images, a batch of 1
    if math.isclose(got, 3.0, abs_tol=1e-6):
        return wrong(
            "the single image of the last batch got half of the vote", observed=got, expected=2.5, hint=1
        )
    if math.isclose(got, 10.0 / 6.0, abs_tol=1e-6):
        return wrong("4 images were counted as 6", observed=got, expected=2.5, hint=2)
    if not math.isclose(got, 2.5, abs_tol=1e-6):
        return wrong("three images at 2.0 and one at 4.0", observed=got, expected=2.5, hint=3)
    many = float(epoch_loss([1.0] * 15 + [9.0], [64] * 15 + [40]))
    if not math.isclose(many, 1.32, abs_tol=1e-6):
        return wrong("15 batches of 64 at 1.0, then 40 images at 9.0", observed=many, expected=1.32, hint=2)
    return right("every image has one vote, whatever the batches.")


def _probe() -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    """A model on which modes matter, and batches of 32, 32 and 5 rows."""
    generator = torch.Generator().manual_seed(7)
    torch.manual_seed(7)
    model = nn.Sequential(nn.Linear(6, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 3))
    x = torch.randn(69, 6, generator=generator) * 3 + 1
    y = torch.randint(0, 3, (69,), generator=generator)
    for _ in range(5):
        model(x)  # running statistics that differ from any batch's own
    y[:60] = model.eval()(x[:60]).argmax(1)  # a last batch of its own accuracy
    return model, list(zip(x.split(32), y.split(32)))


def _judge_accuracy(measure_accuracy: Callable[..., Any]) -> Verdict:
    model, batches = _probe()
    with torch.no_grad():
        hits = [(model(x).argmax(1) == y).float() for x, y in batches]
    expected = torch.cat(hits).mean().item()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    got, again = float(measure_accuracy(model, batches)), float(measure_accuracy(model, batches))
    moved = any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
    if moved or got != again:
        return wrong(
            "called twice on one model it left a trace or gave two numbers", observed=(got, again), hint=1
        )
    mean_of_means = sum(hit.mean().item() for hit in hits) / len(hits)
    if math.isclose(got, mean_of_means, abs_tol=1e-6):
        return wrong("5 rows weigh as much as 32", observed=got, expected=expected, hint=3)
    if not math.isclose(got, expected, abs_tol=1e-6):
        return wrong("not the share of right rows", observed=got, expected=expected, hint=3)
    if not model.training:
        return wrong("a model handed over in training mode came back in eval mode", hint=2)
    model.eval()
    measure_accuracy(model, batches)
    if model.training:
        return wrong("a model handed over in eval mode came back in training mode", hint=2)
    return right("the same number twice, every row one vote, and the model as you were given it.")


def _judge_order(order: Callable[..., Any]) -> Verdict:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, second, again = (torch.as_tensor(order(50, 3, epoch)) for epoch in (0, 1, 0))
    if not torch.equal(torch.get_rng_state(), state):
        return wrong("the global generator moved: a look would still disturb training", hint=3)
    if sorted(first.tolist()) != list(range(50)):
        return wrong(
            "an epoch must visit each of the 50 rows once", observed=len(set(first.tolist())), hint=3
        )
    if torch.equal(first, torch.arange(50)):
        return wrong("the rows come unshuffled: equal runs, but is it still the same training?", hint=1)
    if torch.equal(first, second):
        return wrong("epochs 0 and 1 have the same order", observed=first[:5].tolist(), hint=2)
    if not torch.equal(first, again):
        return wrong("epoch 0 came in two different orders", hint=3)
    other = torch.as_tensor(order(50, 4, 0))
    if torch.equal(first, other) or torch.equal(second, other):
        return wrong("seed 4 gives an order of seed 3: two seeds share a stream", hint=3)
    return right("a function of seed and epoch, and nobody else's randomness is touched.")


def _judge_standardise(standardise: Callable[..., Any]) -> Verdict:
    generator = torch.Generator().manual_seed(5)
    train = torch.randn(200, 3, generator=generator) * torch.tensor([1.0, 50.0, 1e-3]) + torch.tensor(
        [0.0, 900.0, 2.0]
    )
    other = train[:40] + torch.tensor([0.0, 100.0, 1e-3])
    got_train, got_other = (torch.as_tensor(part) for part in standardise(train.clone(), other.clone()))
    mean, std = train.mean(0), train.std(0)
    if got_train.shape != train.shape or got_other.shape != other.shape:
        return wrong(
            "the tables changed their shape", observed=tuple(got_train.shape), expected=(200, 3), hint=2
        )
    both = torch.cat([train, other])
    if torch.allclose(got_train, (train - both.mean(0)) / both.std(0), atol=0.02):
        return wrong("some of the scale came from the other rows", hint=1)
    if (got_train.mean(0).abs() > 0.05).any() and (got_train.std(0) - 1).abs().max() > 0.05:
        return wrong("the training columns do not have mean 0 and standard deviation 1 each", hint=2)
    close = torch.allclose(got_other, (other - mean) / std, atol=0.05)
    if not close and torch.allclose(got_other.mean(0), torch.zeros(3), atol=0.1):
        return wrong("the other rows were scaled by their own mean: the shift in them is gone", hint=1)
    if not close or (got_train - (train - mean) / std).abs().max() > 0.05:
        return wrong("the other rows are not on the training rows' scale", hint=1)
    flat = torch.cat([train, torch.full((200, 1), 4.0)], 1)
    if not all(torch.isfinite(torch.as_tensor(part)).all() for part in standardise(flat, flat[:3])):
        return wrong("a column that never varies became NaN or infinite", hint=3)
    return right("mean and spread come from the training rows, column by column.")


_CAUSES = ("healthy", "memorising", "rate too low", "rate too high")


def _judge_diagnosis(answer: dict[str, str]) -> Verdict:
    truth = {"A": "memorising", "B": "rate too low", "C": "healthy"}
    if set(answer) != set(truth) or any(cause not in _CAUSES for cause in answer.values()):
        return wrong(f"give A, B and C one cause each of {', '.join(_CAUSES)}", observed=answer)
    if answer["C"] != "healthy":
        return wrong("C: training above validation is what dropout and a moving average do", hint=1)
    if answer["B"] != "rate too low":
        return wrong("B: look where it starts and where it ends", hint=2)
    if answer["A"] != "memorising":
        return wrong("A: one of its curves goes down and the other goes up", hint=3)
    return right("shape, starting point and gap tell the three apart.")


EXERCISES = (
    Exercise(
        "02.1",
        "The mean of an epoch",
        difficulty=1,
        minutes=4,
        judge=_judge_epoch_loss,
        expects="a function",
        hints=(
            "How many votes does the last image get?",
            "Is the last batch full? Divide by the images that were there, not by batches times batch size.",
            "Sum of loss times count, divided by the sum of the counts.",
        ),
        solution="""
def epoch_loss(losses, counts):
    return sum(loss * count for loss, count in zip(losses, counts)) / sum(counts)
""",
    ),
    Exercise(
        "02.2",
        "Measure without leaving a trace",
        difficulty=2,
        minutes=8,
        judge=_judge_accuracy,
        expects="a function",
        hints=(
            "Call it twice: the same number? Print the running_mean of the batch norm before and after.",
            "Which mode did the caller hand you? Remember model.training before you change it.",
            "Count hits and rows over all batches; divide once, at the end.",
        ),
        solution="""
@torch.no_grad()
def measure_accuracy(model, batches):
    was_training = model.training
    model.eval()
    hits = rows = 0
    for x, y in batches:
        hits += (model(x).argmax(1) == y).sum().item()
        rows += len(y)
    model.train(was_training)
    return hits / rows
""",
    ),
    Exercise(
        "02.3",
        "Make looking harmless",
        difficulty=2,
        minutes=8,
        judge=_judge_order,
        expects="a function",
        hints=(
            "Shuffling off gives equal runs, but the batches are then the same in every epoch: that is "
            "another training.",
            "Print the first five rows of epochs 0 and 1. The seed of an epoch must depend on the epoch.",
            "A torch.Generator() of your own, seeded from both (seed * 1000 + epoch, say), "
            "handed to torch.randperm(rows, generator=...).",
        ),
        solution="""
def order(rows, seed, epoch):
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(rows, generator=generator)
""",
    ),
    Exercise(
        "02.4",
        "New data, and an instrument that fires",
        difficulty=2,
        minutes=8,
        judge=_judge_standardise,
        expects="a function",
        hints=(
            "Where do the mean and the spread come from? The model will have learned on the training scale; "
            "a new row must be read on that same scale.",
            "Each column has its own unit: take mean and standard deviation over the rows only (dim 0).",
            "A column that never varies has standard deviation 0: use .clamp(min=1e-8) before dividing.",
        ),
        solution="""
def standardise(train, other):
    mean, std = train.mean(0), train.std(0).clamp(min=1e-8)
    return (train - mean) / std, (other - mean) / std
""",
    ),
    Exercise(
        "02.5",
        "Three curves",
        difficulty=3,
        minutes=6,
        judge=_judge_diagnosis,
        expects=dict,
        hints=(
            "When was the training loss of an epoch measured, and in which mode?",
            "ln 10 is 2.3: what has a model learned whose loss is still near it?",
            "Which data does a falling training loss speak of, and which does it not?",
        ),
        solution="""
diagnosis = {"A": "memorising", "B": "rate too low", "C": "healthy"}
""",
    ),
)
