"""The exercises of chapter 13: the solutions pass, likely wrong answers fail with the fitting hint."""

from __future__ import annotations

import pytest
import torch
from chapters.answers import Answers
from torch.nn import functional as F

import trainlab as tl
from trainlab.course import chapter13


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


ANSWERS = Answers(
    {"13.1": "training_bytes", "13.2": "epoch", "13.3": "step", "13.4": "diet"}, {"torch": torch, "F": F}
)


test_the_solution_is_right = ANSWERS.solutions()
test_a_stub_is_not_an_attempt = ANSWERS.stubs()


BYTES = """
def training_bytes(weights, optimizer):
    return 4 * weights * (2 + {"SGD": 0, "momentum": 1, "Adam": 2}[optimizer])
"""
EPOCH = """
def epoch(model, optimizer, batches, accumulate):
    optimizer.zero_grad()
    for i, (x, y) in enumerate(batches):
        (F.cross_entropy(model(x), y) / DIVISOR).backward()
        if (i + 1) % accumulate == 0 or LAST:
            optimizer.step()
            optimizer.zero_grad()
"""
GROUP = "min(accumulate, len(batches) - i // accumulate * accumulate)"
STEP = """
def step(model, optimizer, scaler, loss, limit):
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(model.parameters(), limit)
    scaler.step(optimizer)
    scaler.update()
"""

WRONG = {
    "values for bytes": ("13.1", 1, BYTES.replace("4 * ", "")),
    "no gradients": ("13.1", 2, BYTES.replace("2 + {", "1 + {")),
    "one state for Adam": ("13.1", 3, BYTES.replace('"Adam": 2', '"Adam": 1')),
    "half precision": ("13.1", 3, BYTES.replace("4 * ", "2 * ")),
    "a step for each micro-batch": ("13.2", 1, EPOCH.replace("LAST", "True").replace("DIVISOR", "1")),
    "summed up, not averaged": (
        "13.2",
        1,
        EPOCH.replace("LAST", "i + 1 == len(batches)").replace("DIVISOR", "1"),
    ),
    "zeroed within the group": (
        "13.2",
        1,
        EPOCH.replace("LAST", "i + 1 == len(batches)")
        .replace("DIVISOR", GROUP)
        .replace("        (F.cross", "        optimizer.zero_grad()\n        (F.cross"),
    ),
    "the tail never stepped": ("13.2", 2, EPOCH.replace("LAST", "False").replace("DIVISOR", "accumulate")),
    "the tail divided by too much": (
        "13.2",
        2,
        EPOCH.replace("LAST", "i + 1 == len(batches)").replace("DIVISOR", "accumulate"),
    ),
    "a mean of unequal means": (
        "13.2",
        3,
        EPOCH.replace("LAST", "i + 1 == len(batches)").replace("DIVISOR", GROUP),
    ),
    "the scale left in": (
        "13.3",
        1,
        "def step(model, optimizer, scaler, loss, limit):\n"
        "    optimizer.zero_grad()\n"
        "    scaler.scale(loss).backward()\n"
        "    optimizer.step()\n",
    ),
    "clipped, then unscaled": ("13.3", 2, STEP.replace("    scaler.unscale_(optimizer)\n", "")),
    "not clipped at all": (
        "13.3",
        2,
        STEP.replace("    torch.nn.utils.clip_grad_norm_(model.parameters(), limit)\n", ""),
    ),
    "an overflow gets through": ("13.3", 3, STEP.replace("scaler.step(optimizer)", "optimizer.step()")),
    "the scale never learns": ("13.3", 3, STEP.replace("    scaler.update()\n", "")),
    "nothing chosen": ("13.4", 1, "def diet():\n    return {}"),
    "no such setting": ("13.4", 1, 'def diet():\n    return {"batch": 4}'),
    "rows only": ("13.4", 2, 'def diet():\n    return {"parts": 16}'),
    "rows and a fused optimizer": (
        "13.4",
        2,
        'def diet():\n    return {"parts": 16, "optimizer": "Adam, fused"}',
    ),
    "not enough of it": ("13.4", 3, 'def diet():\n    return {"parts": 2, "optimizer": "Adafactor"}'),
}


test_a_likely_wrong_answer_fails_with_its_hint = ANSWERS.wrong(WRONG)


def test_several_diets_are_right() -> None:
    source = 'def diet():\n    return {"parts": 4, "optimizer": "Adafactor", "checkpointing": True}'
    verdict = ANSWERS.verdict("13.4", source)
    assert verdict.ok, verdict


def test_dividing_inside_the_group_is_a_right_epoch_too() -> None:
    source = """
def epoch(model, optimizer, batches, accumulate):
    groups = [batches[at : at + accumulate] for at in range(0, len(batches), accumulate)]
    for group in groups:
        optimizer.zero_grad()
        for x, y in group:
            (F.cross_entropy(model(x), y) * len(y)).backward()
        for p in model.parameters():
            p.grad /= sum(len(y) for _, y in group)
        optimizer.step()
"""
    verdict = ANSWERS.verdict("13.2", source)
    assert verdict.ok, verdict


def test_both_steps_are_drawn_on_one_scale() -> None:
    from matplotlib import pyplot as plt

    model = tl.models.MLP(6, [8], 3)

    def step() -> None:
        model(torch.ones(4, 6)).sum().backward()

    chapter13.plot_both({name: tl.measure_step(step, model, repeats=0) for name in ("one", "two")})
    left, right = plt.gcf().axes
    assert left.get_ylim() == right.get_ylim()
    assert [ax.get_title() for ax in (left, right)] == ["one", "two"]
    assert left.get_legend() is None
    assert right.get_legend() is not None
    plt.close("all")


def test_the_machine_says_what_it_has_for_half_precision() -> None:
    assert chapter13.half_precision_units()
