"""The exercises of chapter 09: the solutions pass, likely wrong answers fail with the fitting hint."""

from __future__ import annotations

import copy

import pytest
import torch
from chapters.answers import Answers
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from trainlab.course import chapter09, clinic
from trainlab.course.exercises import exercise


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


ANSWERS = Answers(
    {"09.1": "learns_one", "09.2": "steady_step", "09.3": "treatment"},
    {
        "torch": torch,
        "nn": nn,
        "F": F,
        "copy": copy,
        "DataLoader": DataLoader,
        "TensorDataset": TensorDataset,
    },
)


test_the_solution_is_right = ANSWERS.solutions()


test_a_stub_is_not_an_attempt = ANSWERS.stubs()


def changed(exercise_id: str, *pairs: tuple[str, str]) -> str:
    source = exercise(exercise_id).solution
    for old, new in pairs:
        assert old in source
        source = source.replace(old, new)
    return source


def treated(name: str, cause: str, *lines: str) -> str:
    body = "\n".join(f"        {line}" for line in lines)
    return f"def treatment():\n    def cure(parts):\n{body}\n    return {name!r}, {cause!r}, cure\n"


CLIP = "    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n"
MEND_SOFTMAX = (
    "model = parts.model[:-1]",
    "return parts.with_parts(model=model, optimizer=torch.optim.Adam(model.parameters(), 2e-3))",
)

WRONG = {
    "has changed: print a weight": (
        "09.1",
        2,
        changed("09.1", ("    model = copy.deepcopy(model)\n", "")),
        "has changed: print a weight",
    ),
    "part from the reference at step": (
        "09.1",
        3,
        changed("09.1", ("        optimizer.zero_grad()\n", "")),
        "part from the reference at step",
    ),
    "plain numbers": ("09.1", 1, changed("09.1", ("loss.item()", "loss")), "plain numbers"),
    "100 steps were asked for": (
        "09.1",
        1,
        changed("09.1", ("range(100)", "range(10)")),
        "100 steps were asked for",
    ),
    "zero-grad-missing": (
        "09.2",
        1,
        changed("09.2", ("    optimizer.zero_grad()\n", "")),
        "zero-grad-missing",
    ),
    "is dropout awake": ("09.2", 3, changed("09.2", ("    model.train()\n", "")), "is dropout awake"),
    "clip-after-step": (
        "09.2",
        2,
        changed(
            "09.2",
            (CLIP, ""),
            ("    optimizer.step()\n", "    optimizer.step()\n" + CLIP),
        ),
        "clip-after-step",
    ),
    "as long as the limit of 1": ("09.2", 2, changed("09.2", (CLIP, "")), "as long as the limit of 1"),
    "unknown patient": ("09.3", 1, treated("no-such", "x", "return parts"), "unknown patient"),
    "lies on another ward": (
        "09.3",
        1,
        treated("dead", "dead-units", "return parts"),
        "lies on another ward",
    ),
    "is not what one-off suffers": (
        "09.3",
        2,
        treated("one-off", "learning-rate-too-large", "return parts"),
        "is not what one-off suffers",
    ),
    "the doctor still says": (
        "09.3",
        3,
        treated("frozen-stiff", "learning-rate-too-small", "return parts"),
        "the doctor still says",
    ),
    "the cure returns the parts": (
        "09.3",
        3,
        treated("frozen-stiff", "learning-rate-too-small", "return 3"),
        "the cure returns the parts",
    ),
    "what did the cure cost": (
        "09.3",
        3,
        treated(
            "softmax-twice",
            "softmax-before-cross-entropy",
            "model = parts.model[:-1]",
            "return parts.with_parts(model=model, optimizer=torch.optim.SGD(model.parameters(), 1e-3))",
        ),
        "what did the cure cost",
    ),
}


test_a_likely_wrong_answer_fails_with_its_hint = ANSWERS.wrong(WRONG)


CURES = {
    "softmax-twice": ("softmax-before-cross-entropy", MEND_SOFTMAX),
    "one-off": (
        "labels-shifted",
        (
            "x, y = parts.train_loader.dataset.tensors",
            "rows = TensorDataset(x[:-1], y[1:])",
            "return parts.with_parts(train_loader=DataLoader(rows, 32, shuffle=True))",
        ),
    ),
    "drifting-norm": (
        "frozen-batchnorm-learns",
        (
            "def step(model, batch, criterion, optimizer, number):",
            "    model.train()",
            "    model[1].eval()",
            "    optimizer.zero_grad()",
            "    loss = criterion(model(batch[0]), batch[1])",
            "    loss.backward()",
            "    optimizer.step()",
            "    return loss",
            "return parts.with_parts(step_fn=step)",
        ),
    ),
    "wild-start": (
        "initialisation-too-large",
        (
            "for part in parts.model:",
            "    if isinstance(part, nn.Linear):",
            "        part.reset_parameters()",
            "return parts",
        ),
    ),
    "left-resting": (
        "eval-mode-in-training",
        ("return parts.with_parts(step_fn=None)",),
    ),
}


@pytest.mark.parametrize("name", CURES)
def test_every_patient_of_the_ward_can_be_cured(name: str) -> None:
    assert set(CURES) | {"frozen-stiff"} == set(chapter09.WARD)
    cause, lines = CURES[name]
    verdict = ANSWERS.verdict("09.3", treated(name, cause, *lines))
    assert verdict.ok, verdict


def test_training_a_program_of_the_clinic_is_the_loop_by_hand() -> None:
    first, second = (clinic.patient("softmax-twice").build(True, 2) for _ in range(2))
    losses = chapter09.train(first, 5, seed=2)
    torch.manual_seed(2)
    wanted = []
    for (x, y), _ in zip(second.train_loader, range(5)):
        second.optimizer.zero_grad()
        loss = second.criterion(second.model(x), y)
        loss.backward()
        second.optimizer.step()
        wanted.append(loss.item())
    assert losses == wanted


@pytest.mark.parametrize("name", chapter09.WARD)
def test_the_pictures_of_the_ward_are_drawn(name: str) -> None:
    found = chapter09.examine(name)
    assert set(found) == {"first loss", "last loss"}
