"""The exercises of chapter 06: the solutions pass, likely wrong answers fail with the fitting hint."""

from __future__ import annotations

import math

import pytest
import torch
from chapters.answers import Answers

from trainlab.course.chapter06 import RowReader

ANSWERS = Answers(
    {
        "06.1": "rate",
        "06.2": "plateau",
        "06.3": "suggest",
        "06.4": "scaled",
        "06.5": "design",
    },
    {"math": math},
)


test_the_solution_is_right = ANSWERS.solutions()
test_a_stub_is_not_an_attempt = ANSWERS.stubs()


SMOOTH = """
def smooth(losses):
    average, smoothed = 0.0, []
    for k, loss in enumerate(losses, 1):
        average = 0.9 * average + 0.1 * loss
        smoothed.append(average / (1 - 0.9**k))
    return smoothed
"""

PLATEAU = """
def plateau(losses, lr, factor, patience):
    rates, best, bad = [], float("inf"), 0
    for loss in losses:
        if loss < best:
            best, bad = loss, 0
        else:
            bad += 1
        if bad > patience:
            lr, bad = lr * factor, 0
        rates.append(lr)
    return rates
"""

WRONG = {
    "the rate stays": ("06.4", 1, "def scaled(lr, old, new):\n    return lr"),
    "the rate goes down": ("06.4", 1, "def scaled(lr, old, new):\n    return lr * old / new"),
    "the square root": ("06.4", 2, "def scaled(lr, old, new):\n    return lr * (new / old) ** 0.5"),
    "only upwards": ("06.4", 3, "def scaled(lr, old, new):\n    return lr * max(1, new / old)"),
    "the first step at zero": (
        "06.1",
        1,
        """
def rate(step, steps, warmup, peak):
    if step < warmup:
        return peak * step / warmup
    return peak * (steps - step) / (steps - warmup)
""",
    ),
    "the fall counted from step 0": (
        "06.1",
        2,
        """
def rate(step, steps, warmup, peak):
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (steps - step) / steps
""",
    ),
    "one step short at the end": (
        "06.1",
        3,
        """
def rate(step, steps, warmup, peak):
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (steps - 1 - step) / (steps - 1 - warmup)
""",
    ),
    "constant after the warm-up": (
        "06.1",
        3,
        "def rate(step, steps, warmup, peak):\n    return peak * min(1, (step + 1) / warmup)",
    ),
    "at patience bad ones": ("06.2", 1, PLATEAU.replace("bad > patience", "bad >= patience")),
    "one later": ("06.2", 1, PLATEAU.replace("bad > patience", "bad > patience + 1")),
    "the count goes on": ("06.2", 2, PLATEAU.replace("lr, bad = lr * factor, 0", "lr = lr * factor")),
    "compared with the one before": (
        "06.2",
        3,
        PLATEAU.replace("best, bad = loss, 0", "bad = 0").replace(
            "        if bad > patience", "        best = loss\n        if bad > patience"
        ),
    ),
    "bad ones in all, not in a row": ("06.2", 3, PLATEAU.replace("best, bad = loss, 0", "best = loss")),
    "the minimum itself": (
        "06.3",
        1,
        SMOOTH + "def suggest(rates, losses):\n    s = smooth(losses)\n    return rates[s.index(min(s))]",
    ),
    "a tenth of the raw minimum": (
        "06.3",
        2,
        "def suggest(rates, losses):\n    return rates[losses.index(min(losses))] / 10",
    ),
    "the steepest place of the raw losses": (
        "06.3",
        2,
        "def suggest(rates, losses):\n"
        "    falls = [b - a for a, b in zip(losses, losses[1:])]\n"
        "    return rates[falls.index(min(falls))]",
    ),
    "a thousandth of the minimum": (
        "06.3",
        3,
        SMOOTH
        + "def suggest(rates, losses):\n    s = smooth(losses)\n    return rates[s.index(min(s))] / 300",
    ),
    "the best constant": ("06.5", 1, "def design(step, steps):\n    return 0.008"),
    "a warm-up only": ("06.5", 2, "def design(step, steps):\n    return 0.016 * min(1, (step + 1) / 50)"),
    "a fall from a low peak": ("06.5", 3, "def design(step, steps):\n    return 0.002 * (1 - step / steps)"),
    "a fall from a ruinous peak": (
        "06.5",
        3,
        "def design(step, steps):\n    return 3.0 * (1 - step / steps)",
    ),
}


test_a_likely_wrong_answer_fails_with_its_hint = ANSWERS.wrong(WRONG)


def test_the_steepest_place_of_a_smoothed_climb_is_a_right_answer_too() -> None:
    source = SMOOTH + (
        "def suggest(rates, losses):\n"
        "    s = smooth(losses)[:]\n"
        "    low = s.index(min(s))\n"
        "    falls = [s[k + 5] - s[k - 5] for k in range(50, low - 5)]\n"
        "    return rates[50 + falls.index(min(falls))]"
    )
    verdict = ANSWERS.verdict("06.3", source)
    assert verdict.ok, verdict


@pytest.mark.parametrize("peak", [0.012, 0.016, 0.032])
@pytest.mark.parametrize("form", ["1 - step / steps", "(1 + math.cos(math.pi * step / steps)) / 2"])
def test_several_schedules_are_right(peak: float, form: str) -> None:
    source = f"def design(step, steps):\n    return {peak} * ({form})"
    verdict = ANSWERS.verdict("06.5", source)
    assert verdict.ok, verdict


def test_the_row_reader_sees_rows_in_their_order() -> None:
    torch.manual_seed(0)
    model, images = RowReader(), torch.rand(5, 1, 8, 8)
    logits = model(images)
    assert logits.shape == (5, 10)
    torch.testing.assert_close(model(images[2:3]), logits[2:3])  # no image looks at another
    assert not torch.allclose(model(images.flip(2)), logits, atol=1e-4)
