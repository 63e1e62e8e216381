"""Chapter 00: its solutions pass, its likely wrong answers meet the hint that fits, its stubs are stubs."""

from __future__ import annotations

import copy

import pytest
import torch
from chapters.answers import Answers
from torch import nn
from torch.nn import functional as F

from trainlab.course import chapter00

ANSWERS = Answers(
    {"00.1": "error_rate", "00.2": "learn_table", "00.3": "borrow", "00.4": "learn_few"},
    {"torch": torch, "nn": nn, "F": F, "copy": copy},
    slow=("00.4",),  # what its judge says takes donors that are trained
)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


test_the_solution_is_right = ANSWERS.solutions()
test_a_stub_is_not_an_attempt = ANSWERS.stubs()


def test_every_exercise_has_a_place_in_the_chapter_order() -> None:
    assert [each.id for each in chapter00.EXERCISES] == sorted(ANSWERS.names)
    assert [each.difficulty for each in chapter00.EXERCISES] == [1, 2, 2, 3]


TRAIN = """
def train(network, rows, labels, lr=0.1, kind=torch.optim.SGD, steps=200):
    optimizer = kind(network.parameters(), lr=lr)
    for step in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(network(rows), labels).backward()
        optimizer.step()
    return network

def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 2))
"""

FIT = """
def holds(layers):
    return torch.optim.Adam(layers.parameters(), lr=0.01)

def fit(model, optimizer, images, labels):
    for step in range(100):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model
"""

DONORS = """
def train(model, images, labels, steps):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    for step in range(steps):
        batch = torch.randint(len(images), (64,))
        optimizer.zero_grad()
        F.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()
    return model

def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 5))
"""

WRONG = {
    "accuracy instead": (
        "00.1",
        "def error_rate(logits, labels):\n    return (logits.argmax(dim=1) == labels).float().mean()",
        1,
        "share of right answers",
    ),
    "a count": (
        "00.1",
        "def error_rate(logits, labels):\n    return (logits.argmax(dim=1) != labels).sum()",
        2,
        "how many are wrong",
    ),
    "over images": (
        "00.1",
        "def error_rate(logits, labels):\n    return (logits.argmax(dim=0) != labels).float().mean()",
        3,
        "compares images",
    ),
    "a constant divisor": (
        "00.1",
        "def error_rate(logits, labels):\n    return (logits.argmax(dim=1) != labels).sum() / 4",
        2,
        "nine of them misread",
    ),
    "raw columns": (
        "00.2",
        TRAIN + "def learn_table(rows, labels):\n    return train(network(), rows, labels)",
        1,
        "every mass benign",
    ),
    "raw columns, a small rate": (
        "00.2",
        TRAIN + "def learn_table(rows, labels):\n    return train(network(), rows, labels, lr=1e-6)",
        1,
        "",
    ),
    "scaled in training only": (
        "00.2",
        TRAIN
        + "def learn_table(rows, labels):\n"
        + "    return train(network(), (rows - rows.mean(0)) / rows.std(0), labels)",
        2,
        "as they come",
    ),
    "scaled by whoever is asked about": (
        "00.2",
        TRAIN
        + "def scaled(rows):\n    return (rows - rows.mean(0)) / (rows.std(0, correction=0) + 1e-6)\n"
        + "def learn_table(rows, labels):\n    net = train(network(), scaled(rows), labels)\n"
        + "    return lambda new: net(scaled(new))",
        2,
        "who else is asked",
    ),
    "one output": (
        "00.2",
        "def learn_table(rows, labels):\n    return nn.Linear(30, 1)",
        3,
        "two scores",
    ),
    "the donor's own head replaced": (
        "00.3",
        FIT
        + "def borrow(donor, images, labels):\n    donor[-1] = nn.Linear(48, 5)\n"
        + "    return fit(donor, holds(donor[-1]), images, labels)",
        1,
        "donor itself has changed",
    ),
    "the donor frozen for good": (
        "00.3",
        FIT
        + "def borrow(donor, images, labels):\n    donor.requires_grad_(False)\n"
        + "    model = nn.Sequential(donor[:-1], nn.Linear(48, 5))\n"
        + "    return fit(model, holds(model[-1]), images, labels)",
        1,
        "no longer ask for gradients",
    ),
    "fine-tuned": (
        "00.3",
        FIT
        + "def borrow(donor, images, labels):\n    model = copy.deepcopy(donor)\n"
        + "    model[-1] = nn.Linear(48, 5)\n    return fit(model, holds(model), images, labels)",
        2,
        "that is fine-tuning",
    ),
    "a head that no optimizer holds": (
        "00.3",
        FIT
        + "def borrow(donor, images, labels):\n    model = copy.deepcopy(donor)\n"
        + "    optimizer = holds(model[-1])\n    model[-1] = nn.Linear(48, 5)\n"
        + "    return fit(model, optimizer, images, labels)",
        3,
        "new digits are misread",
    ),
    "from scratch": (
        "00.4",
        DONORS + "def learn_few(theirs, images, labels):\n    return train(mlp(), images, labels, 100)",
        1,
        "noise in the place",
    ),
    "borrowed as in the chapter": (
        "00.4",
        DONORS
        + """
def learn_few(theirs, images, labels):
    torch.manual_seed(0)
    donor = nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2, padding=2), nn.GroupNorm(1, 16), nn.ReLU(),
        nn.Conv2d(16, 16, 5, stride=2, padding=2), nn.GroupNorm(1, 16), nn.ReLU(),
        nn.Flatten(), nn.Linear(784, 5))
    train(donor, *theirs, 200)
    with torch.no_grad():
        features = donor[:-1](images)
    means = torch.stack([features[labels == k].mean(0) for k in range(5)])
    return lambda new: -torch.cdist(donor[:-1](new), means)
""",
        3,
        "within reach",
    ),
    "the poor donor": (
        "00.4",
        DONORS
        + "def learn_few(theirs, images, labels):\n    donor = train(mlp(), *theirs, 200)\n"
        + "    with torch.no_grad():\n        features = donor[:-1](images)\n"
        + "    means = torch.stack([features[labels == k].mean(0) for k in range(5)])\n"
        + "    return lambda new: -torch.cdist(donor[:-1](new), means)",
        2,
        "within reach",
    ),
}


test_a_likely_wrong_answer_fails_with_its_hint = ANSWERS.wrong(
    {name: (exercise_id, hint, code, said) for name, (exercise_id, code, hint, said) in WRONG.items()}
)
