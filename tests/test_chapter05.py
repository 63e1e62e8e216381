"""The exercises of chapter 05: the solutions pass, likely wrong answers fail with the fitting hint."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from chapters.answers import Answers
from torch import nn
from torch.nn import functional as F

from trainlab import make_loader, models
from trainlab.course import chapter05

ADAM = """
def adam(weight, gradient, memory, lr):
    t = memory["t"] = memory.get("t", 0) + 1
    memory["mean"] = 0.9 * memory.get("mean", 0) + 0.1 * gradient
    memory["square"] = 0.999 * memory.get("square", 0) + 0.001 * gradient**2
    mean, square = memory["mean"] / (1 - 0.9**t), memory["square"] / (1 - 0.999**t)
    weight -= lr * mean / (square.sqrt() + 1e-8)
"""


ANSWERS = Answers(
    {
        "05.1": "nesterov",
        "05.2": "smooth",
        "05.3": "adamw",
        "05.4": "groups",
        "05.5": "pick",
    },
    {"torch": torch, "nn": nn},
    ADAM,
)


test_the_solution_is_right = ANSWERS.solutions()
test_a_stub_is_not_an_attempt = ANSWERS.stubs()


RIGHT = {
    "the adam of the chapter, called": (
        "05.3",
        """
def adamw(weight, gradient, memory, lr, weight_decay=0.01):
    weight *= 1 - lr * weight_decay
    adam(weight, gradient, memory, lr)
""",
    ),
    "a list of groups, one a parameter": (
        "05.4",
        """
def groups(model, weight_decay):
    return [{"params": [p], "weight_decay": weight_decay * (p.dim() > 1)} for p in model.parameters()]
""",
    ),
}


test_another_right_answer_is_right = ANSWERS.right(RIGHT)


WRONG = {
    "an average instead of a sum": (
        "05.1",
        1,
        """
def nesterov(weight, gradient, memory, lr, beta=0.9):
    memory["sum"] = beta * memory.get("sum", 0) + (1 - beta) * gradient
    weight -= lr * (gradient * (1 - beta) + beta * memory["sum"])
""",
    ),
    "a new tensor instead of the weight": (
        "05.1",
        1,
        """
def nesterov(weight, gradient, memory, lr, beta=0.9):
    memory["sum"] = beta * memory.get("sum", 0) + gradient
    weight = weight - lr * (gradient + beta * memory["sum"])
""",
    ),
    "plain momentum": (
        "05.1",
        2,
        """
def nesterov(weight, gradient, memory, lr, beta=0.9):
    memory["sum"] = beta * memory.get("sum", 0) + gradient
    weight -= lr * memory["sum"]
""",
    ),
    "the sum is forgotten": (
        "05.1",
        3,
        """
def nesterov(weight, gradient, memory, lr, beta=0.9):
    total = beta * memory.get("sum", 0) + gradient
    weight -= lr * (gradient + beta * total)
""",
    ),
    "the sum before this gradient": (
        "05.1",
        3,
        """
def nesterov(weight, gradient, memory, lr, beta=0.9):
    weight -= lr * (gradient + beta * memory.get("sum", gradient))
    memory["sum"] = beta * memory.get("sum", 0) + gradient
""",
    ),
    "no correction": (
        "05.2",
        1,
        """
def smooth(values, beta):
    average, smoothed = 0.0, []
    for value in values:
        average = beta * average + (1 - beta) * value
        smoothed.append(average)
    return smoothed
""",
    ),
    "t is one ahead": (
        "05.2",
        2,
        """
def smooth(values, beta):
    average, smoothed = 0.0, []
    for t, value in enumerate(values, start=2):
        average = beta * average + (1 - beta) * value
        smoothed.append(average / (1 - beta**t))
    return smoothed
""",
    ),
    "t from 0": (
        "05.2",
        2,
        """
def smooth(values, beta):
    average, smoothed = 0.0, []
    for t, value in enumerate(values):
        average = beta * average + (1 - beta) * value
        smoothed.append(average / (1 - beta**t))
    return smoothed
""",
    ),
    "begun at the first value": (
        "05.2",
        3,
        """
def smooth(values, beta):
    average, smoothed = values[0], []
    for value in values:
        average = beta * average + (1 - beta) * value
        smoothed.append(average)
    return smoothed
""",
    ),
    "the corrected average is kept": (
        "05.2",
        2,
        """
def smooth(values, beta):
    average, smoothed = 0.0, []
    for t, value in enumerate(values, start=1):
        average = (beta * average + (1 - beta) * value) / (1 - beta**t)
        smoothed.append(average)
    return smoothed
""",
    ),
    "L2 in the gradient": (
        "05.3",
        1,
        """
def adamw(weight, gradient, memory, lr, weight_decay=0.01):
    adam(weight, gradient + weight_decay * weight, memory, lr)
""",
    ),
    "decay without the rate": (
        "05.3",
        2,
        """
def adamw(weight, gradient, memory, lr, weight_decay=0.01):
    weight *= 1 - weight_decay
    adam(weight, gradient, memory, lr)
""",
    ),
    "no decay at all": (
        "05.3",
        3,
        """
def adamw(weight, gradient, memory, lr, weight_decay=0.01):
    adam(weight, gradient, memory, lr)
""",
    ),
    "eps inside of the root": (
        "05.3",
        3,
        """
def adamw(weight, gradient, memory, lr, weight_decay=0.01):
    weight *= 1 - lr * weight_decay
    t = memory["t"] = memory.get("t", 0) + 1
    memory["mean"] = 0.9 * memory.get("mean", 0) + 0.1 * gradient
    memory["square"] = 0.999 * memory.get("square", 0) + 0.001 * gradient**2
    mean, square = memory["mean"] / (1 - 0.9**t), memory["square"] / (1 - 0.999**t)
    weight -= lr * mean / (square + 1e-2).sqrt()
""",
    ),
    "bare lists": (
        "05.4",
        1,
        """
def groups(model, weight_decay):
    return [{"params": [p for p in model.parameters() if p.dim() > 1]}]
""",
    ),
    "only the matrices": (
        "05.4",
        2,
        """
def groups(model, weight_decay):
    return [{"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": weight_decay}]
""",
    ),
    "the vectors twice": (
        "05.4",
        2,
        """
def groups(model, weight_decay):
    vectors = [p for p in model.parameters() if p.dim() < 2]
    return [
        {"params": list(model.parameters()), "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
""",
    ),
    "by name: norms are decayed": (
        "05.4",
        3,
        """
def groups(model, weight_decay):
    named = list(model.named_parameters())
    return [
        {"params": [p for name, p in named if "bias" not in name], "weight_decay": weight_decay},
        {"params": [p for name, p in named if "bias" in name], "weight_decay": 0.0},
    ]
""",
    ),
    "linear layers only": (
        "05.4",
        2,
        """
def groups(model, weight_decay):
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
    biases = [m.bias for m in model.modules() if isinstance(m, nn.Linear)]
    return [
        {"params": weights, "weight_decay": weight_decay},
        {"params": biases, "weight_decay": 0.0},
    ]
""",
    ),
    "the luckiest run": (
        "05.5",
        1,
        """
def pick(runs):
    return min(runs, key=lambda rate: min(runs[rate]))
""",
    ),
    "NaN in the mean": (
        "05.5",
        2,
        """
def pick(runs):
    return min(runs, key=lambda rate: sum(runs[rate]) / len(runs[rate]))
""",
    ),
    "runs that diverged are left out": (
        "05.5",
        2,
        """
def pick(runs):
    import math
    whole = {rate: [loss for loss in runs[rate] if not math.isnan(loss)] for rate in runs}
    whole = {rate: losses for rate, losses in whole.items() if losses}
    return min(whole, key=lambda rate: sum(whole[rate]) / len(whole[rate]))
""",
    ),
    "always some rate": (
        "05.5",
        3,
        """
def pick(runs):
    import math
    def mean(losses):
        return sum(math.inf if math.isnan(loss) else loss for loss in losses) / len(losses)
    return min(runs, key=lambda rate: mean(runs[rate]))
""",
    ),
}


test_a_likely_wrong_answer_fails_with_its_hint = ANSWERS.wrong(WRONG)


def track() -> chapter05.Track:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(60, 4, generator=generator), torch.randint(0, 3, (60,), generator=generator)
    batches, valid = (
        make_loader((x, y), 20, seed=0, shuffle=True),
        make_loader((x, y), 60, seed=0, shuffle=False),
    )
    return chapter05.Track(lambda: models.MLP(4, [5], 3), batches, valid, epochs=2)


def test_a_race_gives_the_runs_of_each_rate_as_they_are_alone() -> None:
    ground = track()
    runs = chapter05.race(torch.optim.SGD, [0.1, 0.2], ground, seeds=[3, 4])
    assert {rate: [run.seed for run in found] for rate, found in runs.items()} == {0.1: [3, 4], 0.2: [3, 4]}
    torch.manual_seed(4)
    model = ground.build()
    optimizer = torch.optim.SGD(model.parameters(), 0.2)
    for epoch in range(2):
        for x, y in ground.batches.batches(epoch):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    ((x, y),) = ground.valid
    expected = F.cross_entropy(model(x), y).item()
    assert chapter05.loss_of([runs[0.2][1]]) == pytest.approx(expected, rel=1e-4)
    assert chapter05.race(torch.optim.SGD, [], ground) == {}


def test_agree_tells_a_right_rule_from_one_that_is_half_as_fast() -> None:
    def sgd(weight: Any, gradient: Any, memory: Any, lr: float) -> None:
        weight -= lr * gradient

    ground = track()
    assert chapter05.agree(sgd, torch.optim.SGD, 0.1, ground)
    assert not chapter05.agree(lambda w, g, m, lr: sgd(w, g, m, lr / 2), torch.optim.SGD, 0.1, ground)


@pytest.mark.parametrize(("optimizer", "kept"), [(torch.optim.SGD, 0), (torch.optim.Adam, 2)])
def test_numbers_kept_counts_copies_of_the_weights(optimizer: Any, kept: int) -> None:
    assert chapter05.numbers_kept(optimizer) == pytest.approx(kept, abs=0.01)


def test_gradient_lengths_are_those_of_a_bare_loop() -> None:
    ground = track()
    torch.manual_seed(0)
    model = ground.build()
    twin = copy.deepcopy(model)
    x, y = next(iter(ground.batches.batches(0)))
    F.cross_entropy(twin(x), y).backward()
    expected = sum(p.grad.square().sum() for p in twin.parameters() if p.grad is not None) ** 0.5
    assert chapter05.gradient_lengths(model, ground.batches, 0.1, steps=3)[0] == pytest.approx(
        float(expected)
    )
