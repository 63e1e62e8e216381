"""The exercises of chapter 03: the solutions pass, likely wrong answers fail with the fitting hint."""

from __future__ import annotations

import copy

import pytest
import torch
from chapters.answers import Answers
from torch import nn

import trainlab as tl
from trainlab.course.chapter03 import half_digits


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


ANSWERS = Answers(
    {
        "03.1": "count",
        "03.2": "scale_for",
        "03.3": "batch_norm",
        "03.4": "carried",
        "03.5": "build",
    },
    {"torch": torch, "nn": nn, "tl": tl, "copy": copy},
)


test_the_solution_is_right = ANSWERS.solutions()
test_a_stub_is_not_an_attempt = ANSWERS.stubs()


NORMAL = "    z = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0))\n"
NORM = """
def batch_norm(x):
    over = {over}
    mean = x.mean(over, keepdim=True)
    return (x - mean) / (x.var(over, keepdim=True, correction={less}) + {eps}).sqrt()
"""
CARRIED = """
def carried(model, order):
    fresh = {fresh}
    with torch.no_grad():
        fresh[1].weight.copy_(model[1].weight{how})
    return fresh
"""


def norm(over: str, less: int = 0, eps: float = 1e-5) -> str:
    return NORM.format(over=over, less=less, eps=eps)


def carried(how: str, fresh: str = "copy.deepcopy(model)") -> str:
    return CARRIED.format(how=how, fresh=fresh)


WRONG = {
    "no biases": ("03.1", 1, "def count(s):\n    return sum(a * b for a, b in zip(s, s[1:]))"),
    "biases for the pixels": (
        "03.1",
        2,
        "def count(s):\n    return sum(a * b for a, b in zip(s, s[1:])) + sum(s)",
    ),
    "only the first layer": ("03.1", 3, "def count(s):\n    return s[0] * s[1] + s[1]"),
    "the units": ("03.1", 3, "def count(s):\n    return sum(s)"),
    "what f does": ("03.2", 1, f"def scale_for(f):\n{NORMAL}    return f(z).square().mean()"),
    "always He's": ("03.2", 1, "def scale_for(f):\n    return 2.0"),
    "the variance": ("03.2", 2, f"def scale_for(f):\n{NORMAL}    return 1 / f(z).var()"),
    "the mean size": ("03.2", 3, f"def scale_for(f):\n{NORMAL}    return 1 / f(z).abs().mean()"),
    "the root": ("03.2", 3, f"def scale_for(f):\n{NORMAL}    return f(z).square().mean() ** -0.5"),
    "a mean for each pixel": ("03.3", 1, norm("0")),
    "one mean for all": ("03.3", 1, norm("(0, 1, 2, 3)")),
    "each image and channel alone": ("03.3", 2, norm("(2, 3)")),
    "layer norm": ("03.3", 2, norm("(1, 2, 3)")),
    "n - 1": ("03.3", 3, norm("(0, 2, 3)", less=1)),
    "nothing added to the variance": ("03.3", 3, norm("(0, 2, 3)", eps=0.0)),
    "a plain copy": ("03.4", 1, carried("")),
    "the model itself is changed": ("03.4", 1, carried("[:, order].clone()", fresh="model")),
    "the model without the copy": ("03.4", 1, "def carried(model, order):\n    return model"),
    "a fresh model of that form": (
        "03.4",
        2,
        "def carried(model, order):\n    return tl.models.MLP(12, [8, 6], 3)",
    ),
    "the opposite order": ("03.4", 3, carried("[:, order.argsort()]")),
    "too many weights": ("03.5", 1, "def build():\n    return tl.models.MLP(196, [250], 10)"),
    "no model": ("03.5", 1, "def build():\n    return 50_000"),
    "one wide layer": ("03.5", 2, "def build():\n    return tl.models.MLP(196, [240], 10)"),
    "a normalised MLP": ("03.5", 2, "def build():\n    return tl.models.MLP(196, [150, 100], 10, norm=True)"),
    "four channels": (
        "03.5",
        3,
        "def build():\n"
        "    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(),\n"
        "                         nn.Linear(36, 10))",
    ),
}


test_a_likely_wrong_answer_fails_with_its_hint = ANSWERS.wrong(WRONG)


def test_a_plain_small_cnn_is_a_right_answer_too() -> None:
    source = """
def build():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(288, 10),
    )
"""
    verdict = ANSWERS.verdict("03.5", source)
    assert verdict.ok, verdict


def test_the_digits_are_those_of_the_chapter() -> None:
    (train, labels), (valid, truth) = half_digits()
    assert train.shape == (3500, 1, 14, 14)
    assert valid.shape == (1000, 1, 14, 14)
    assert (len(labels), len(truth)) == (3500, 1000)
    assert abs(train.mean().item()) < 1e-5
    assert abs(train.std().item() - 1) < 1e-5
    assert valid.mean().item() != 0  # by the training part's scale
