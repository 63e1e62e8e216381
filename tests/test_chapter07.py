"""The exercises of chapter 07: the solutions pass, likely wrong answers fail with the fitting hint."""

from __future__ import annotations

import pytest
import torch
from chapters.answers import Answers
from torch import nn
from torch.nn import functional as F

from trainlab import losses
from trainlab.course import chapter07


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


ANSWERS = Answers(
    {"07.1": "dropconnect", "07.2": "stopped", "07.3": "gap", "07.4": "rescue"},
    {"torch": torch, "nn": nn, "F": F},
)


test_the_solution_is_right = ANSWERS.solutions()
test_a_stub_is_not_an_attempt = ANSWERS.stubs()


STOPPED = """
def stopped(losses, patience, min_delta):
    best, kept, waited = float("inf"), 0, 0
    for place, loss in enumerate(losses):
        if loss < best - min_delta:
            best, kept, waited = loss, place, 0
        else:
            waited += 1
        if waited >= patience:
            break
    return place, kept
"""

GAP = """
def gap(model, train, valid):
    was_training = model.training
    model.eval()
    with torch.no_grad():
        losses = [F.cross_entropy(model(x), y).item() for x, y in (train, valid)]
    model.train(was_training)
    return losses[1] - losses[0]
"""

RESCUE = """
def rescue(x, y, valid_x, valid_y):
    layers = [nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(128, 10)]
    model = nn.Sequential(*layers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003, weight_decay=DECAY)
    model.train()
    for epoch in range(EPOCHS):
        for rows in torch.randperm(len(y)).split(30):
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows], label_smoothing=SMOOTHING).backward()
            optimizer.step()
    return model.eval()
"""


def trained(*, dropout: float = 0.0, decay: float = 0.0, epochs: int = 60, smoothing: float = 0.0) -> str:
    values = {"DROPOUT": dropout, "DECAY": decay, "EPOCHS": epochs, "SMOOTHING": smoothing}
    source = RESCUE
    for name, value in values.items():
        source = source.replace(name, str(value))
    return source


WRONG = {
    "dropout of the inputs": (
        "07.1",
        1,
        "def dropconnect(x, weight, bias, p):\n    return F.linear(F.dropout(x, p), weight, bias)",
    ),
    "dropout of the outputs": (
        "07.1",
        1,
        "def dropconnect(x, weight, bias, p):\n    return F.dropout(F.linear(x, weight, bias), p)",
    ),
    "nothing silenced": (
        "07.1",
        1,
        "def dropconnect(x, weight, bias, p):\n    return F.linear(x, weight * (1 - p) / (1 - p), bias)",
    ),
    "not rescaled": (
        "07.1",
        2,
        "def dropconnect(x, weight, bias, p):\n"
        "    kept = (torch.rand_like(weight) >= p).float()\n    return F.linear(x, weight * kept, bias)",
    ),
    "rescaled by p": (
        "07.1",
        2,
        "def dropconnect(x, weight, bias, p):\n"
        "    kept = (torch.rand_like(weight) >= p).float()\n    return F.linear(x, weight * kept / p, bias)",
    ),
    "p is kept": (
        "07.1",
        2,
        "def dropconnect(x, weight, bias, p):\n"
        "    kept = (torch.rand_like(weight) < p).float()\n"
        "    return F.linear(x, weight * kept / (1 - p), bias)",
    ),
    "the bias rescaled too": (
        "07.1",
        3,
        "def dropconnect(x, weight, bias, p):\n"
        "    kept = (torch.rand_like(weight) >= p).float()\n"
        "    return F.linear(x, weight * kept, bias) / (1 - p)",
    ),
    "the weights are changed for good": (
        "07.1",
        3,
        "def dropconnect(x, weight, bias, p):\n"
        "    weight *= (torch.rand_like(weight) >= p) / (1 - p)\n    return F.linear(x, weight, bias)",
    ),
    "one later": ("07.2", 1, STOPPED.replace("waited >= patience", "waited > patience")),
    "bad ones in all, not in a row": (
        "07.2",
        1,
        STOPPED.replace("best, kept, waited = loss, place, 0", "best, kept = loss, place"),
    ),
    "better than the one before": (
        "07.2",
        1,
        STOPPED.replace(
            "        else:\n            waited += 1",
            "        else:\n            best, waited = loss, waited + 1",
        ),
    ),
    "min_delta forgotten": ("07.2", 2, STOPPED.replace("best - min_delta", "best")),
    "equal to min_delta is enough": ("07.2", 2, STOPPED.replace("loss < best - min", "loss <= best - min")),
    "the last weights": ("07.2", 1, STOPPED.replace("return place, kept", "return place, place")),
    "counted from 1": ("07.2", 1, STOPPED.replace("return place, kept", "return place + 1, kept + 1")),
    "no answer where it never waits": (
        "07.2",
        3,
        STOPPED.replace(
            "            break\n    return place, kept", "            return place, kept\n    return -1, kept"
        ),
    ),
    "in training mode": ("07.3", 1, GAP.replace("    model.eval()\n", "    model.train()\n")),
    "only validation in eval mode": (
        "07.3",
        1,
        "def gap(model, train, valid):\n"
        "    one = F.cross_entropy(model(train[0]), train[1]).item()\n    model.eval()\n"
        "    other = F.cross_entropy(model(valid[0]), valid[1]).item()\n    model.train()\n"
        "    return other - one",
    ),
    "the other way round": ("07.3", 2, GAP.replace("losses[1] - losses[0]", "losses[0] - losses[1]")),
    "accuracies": (
        "07.3",
        2,
        GAP.replace("F.cross_entropy(model(x), y).item()", "(model(x).argmax(1) == y).float().mean().item()"),
    ),
    "left in eval mode": ("07.3", 3, GAP.replace("    model.train(was_training)\n", "")),
    "by heart": ("07.4", 1, trained()),
    "smoothing alone": ("07.4", 1, trained(smoothing=0.1)),
    "too few epochs": ("07.4", 2, trained(epochs=2)),
    "a decay that crushes": ("07.4", 2, trained(decay=100.0)),
    "handed over in training mode": (
        "07.4",
        3,
        trained(dropout=0.5, epochs=12).replace("return model.eval()", "return model"),
    ),
    "the score instead of the model": (
        "07.4",
        3,
        trained(epochs=1).replace("return model.eval()", "return 0.9"),
    ),
}


test_a_likely_wrong_answer_fails_with_its_hint = ANSWERS.wrong(WRONG)


RIGHT = {
    "dropconnect by F.dropout": (
        "07.1",
        "def dropconnect(x, weight, bias, p):\n    return F.linear(x, F.dropout(weight, p), bias)",
    ),
    "dropconnect with a mask for each row": (
        "07.1",
        "def dropconnect(x, weight, bias, p):\n"
        "    kept = (torch.rand(len(x), *weight.shape) >= p) / (1 - p)\n"
        "    return torch.einsum('ni,noi->no', x, weight * kept) + bias",
    ),
    "rescued by dropout alone": ("07.4", trained(dropout=0.8, epochs=80)),
    "rescued by stopping in time": ("07.4", trained(epochs=12)),
}


test_another_right_answer_is_right = ANSWERS.right(RIGHT)


def test_shifting_moves_images_in_training_only() -> None:
    class Tell(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            self.seen = images
            return images.flatten(1)[:, :3] * 1.0

    model, images = Tell(), torch.zeros(4, 1, 9, 9)
    images[:, 0, 4, 4] = 1.0
    batch = (images, torch.zeros(4, dtype=torch.int64))
    places = set()
    for _ in range(60):
        chapter07.shifting(model, batch)
        assert model.seen.sum() == 4
        places.add(int(model.seen[0].argmax()))
    assert places == {9 * y + x for y in (3, 4, 5) for x in (3, 4, 5)}
    value = chapter07.shifting(model.eval(), batch)
    assert torch.equal(model.seen, images)
    assert value.total == losses.classification()(model, batch).total


def test_gains_are_points_seed_by_seed() -> None:
    assert chapter07.points([0.75, 0.5], [0.5, 0.75]) == [25.0, -25.0]
    assert chapter07.said([1.0, 3.0]) == " +2.0 (spread 1.4)"
