"""The exercises of chapter 04: the solutions pass, likely wrong answers fail with the fitting hint."""

from __future__ import annotations

import pytest
import torch
from chapters.answers import Answers
from torch.nn import functional as F

from trainlab.course.chapter04 import bookings, customers, without_weight
from trainlab.course.exercises import exercise


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


ANSWERS = Answers(
    {"04.1": "pinball", "04.2": "repair", "04.3": "cross_entropy", "04.4": "loss"}, {"torch": torch, "F": F}
)


test_the_solution_is_right = ANSWERS.solutions()
test_a_stub_is_not_an_attempt = ANSWERS.stubs()


PINBALL = """
def pinball(predictions, targets, quantile):
    lack = targets - predictions
    return torch.maximum(quantile * lack, (quantile - 1) * lack).mean()
"""
CROSS_ENTROPY = """
def cross_entropy(logits, targets):
    top = logits.max(1, keepdim=True).values
    lse = top[:, 0] + (logits - top).exp().sum(1).log()
    return (lse - logits[torch.arange(len(targets)), targets]).mean()
"""
OF_PROBABILITIES = """
def cross_entropy(logits, targets):
    p = logits.softmax(1)[torch.arange(len(targets)), targets]
    return -p.log().mean()
"""
COST = """
def loss(predictions, targets):
    lack = targets - predictions
    return torch.maximum(4 * lack, -lack).mean()
"""


def pinball(line: str) -> str:
    return f"def pinball(predictions, targets, quantile):\n    {line}"


def repair(line: str) -> str:
    return f"def repair(probability, weight):\n    {line}"


def loss(line: str) -> str:
    return f"def loss(predictions, targets):\n    {line}"


LACK, DETACHED = "targets - predictions", "targets - predictions.detach()"
BY_HAND = "(logits.exp() / logits.exp().sum(1, keepdim=True))"
FOR_ALL = "logits.max().expand(len(logits), 1)"
WEIGHTED = "probability * weight / (probability * weight + 1 - probability)"

WRONG = {
    "the sides are taken for each other": ("04.1", 1, PINBALL.replace(LACK, "predictions - targets")),
    "both sides cost the same": ("04.1", 1, pinball("return (targets - predictions).abs().mean()")),
    "a sum": ("04.1", 2, PINBALL.replace(".mean()", ".sum()")),
    "the smaller of the two": ("04.1", 3, PINBALL.replace("maximum", "minimum")),
    "one slope for both signs": ("04.1", 3, pinball("return (quantile * (targets - predictions)).mean()")),
    "a pinball without a gradient": ("04.1", 3, PINBALL.replace(LACK, DETACHED)),
    "softmax, then the logarithm": ("04.3", 1, OF_PROBABILITIES),
    "exponentials by hand": ("04.3", 1, OF_PROBABILITIES.replace("logits.softmax(1)", BY_HAND)),
    "a small number in the logarithm": ("04.3", 2, OF_PROBABILITIES.replace("p.log()", "(p + 1e-8).log()")),
    "a clamp": ("04.3", 2, OF_PROBABILITIES.replace("p.log()", "p.clamp(min=1e-12).log()")),
    "one largest logit for all rows": (
        "04.3",
        3,
        CROSS_ENTROPY.replace("logits.max(1, keepdim=True).values", FOR_ALL),
    ),
    "the sum of the rows": ("04.3", 3, CROSS_ENTROPY.replace(".mean()", ".sum()")),
    "the sign": ("04.3", 3, CROSS_ENTROPY.replace("return (", "return -(")),
    "without a gradient": (
        "04.3",
        3,
        CROSS_ENTROPY.replace("    top =", "    logits = logits.detach()\n    top =", 1),
    ),
    "the probability divided": ("04.2", 1, repair("return probability / weight")),
    "weighted once more": ("04.2", 2, repair(f"return {WEIGHTED}")),
    "the weight taken off the logit": (
        "04.2",
        3,
        repair("return (torch.logit(probability) - weight).sigmoid()"),
    ),
    "the odds, left as odds": ("04.2", 3, repair("return probability / (1 - probability) / weight")),
    "the median": ("04.4", 1, loss("return (targets - predictions).abs().mean()")),
    "the mean": ("04.4", 1, loss("return F.mse_loss(predictions, targets)")),
    "the mean, four times as strongly": ("04.4", 1, loss("return 4 * F.mse_loss(predictions, targets)")),
    "the dear side taken for the cheap one": ("04.4", 2, COST.replace("4 * lack, -lack", "lack, -4 * lack")),
    "too much costs nothing": ("04.4", 3, loss("return 4 * (targets - predictions).clamp(min=0).mean()")),
    "no gradient at all": ("04.4", 3, COST.replace(LACK, DETACHED)),
}


test_a_likely_wrong_answer_fails_with_its_hint = ANSWERS.wrong(WRONG)


RIGHT = {
    "torch's logsumexp": (
        "04.3",
        "def cross_entropy(logits, targets):\n"
        "    return (logits.logsumexp(1) - logits.gather(1, targets[:, None])[:, 0]).mean()",
    ),
    "by logits": ("04.2", repair("return (torch.logit(probability) - torch.tensor(weight).log()).sigmoid()")),
    "where in place of maximum": (
        "04.1",
        pinball("lack = targets - predictions\n    cost = torch.where(lack > 0, quantile, quantile - 1)\n")
        + "    return (cost * lack).mean()",
    ),
    "the pinball loss at 0.8": ("04.4", COST.replace("4 * lack, -lack", "0.8 * lack, -0.2 * lack")),
    "rounded at the kink": (
        "04.4",
        loss("each = F.huber_loss(predictions, targets, reduction='none')\n")
        + "    return (torch.where(targets > predictions, 4, 1) * each).mean()",
    ),
}


test_another_way_is_right_too = ANSWERS.right(RIGHT)


def test_the_chapter_repairs_as_the_solution_does() -> None:
    said = torch.tensor([0.0, 0.02, 0.5, 0.93, 1.0])
    mended = ANSWERS.given("04.2", exercise("04.2").solution)(said, 29.0)
    torch.testing.assert_close(without_weight(said, 29.0), mended)
    assert torch.equal(without_weight(said, 1.0), said) and mended[2] < 0.04


def test_the_rows_are_split_and_standardised_on_the_training_part() -> None:
    (x, paid), (unseen, other) = bookings(3)
    assert x.shape == (10781, 12) and paid.shape == (10781, 1) and len(unseen) == len(other) == 3081
    torch.testing.assert_close(x.mean(0), torch.zeros(12), atol=1e-4, rtol=0)
    torch.testing.assert_close(x.std(0), torch.ones(12), atol=1e-4, rtol=0)
    assert unseen.mean(0).abs().max() > 1e-3, "the unseen rows are measured by the training part"
    (owed, defaulted), (later, _) = customers(3)
    assert owed.shape == (5000, 3) and len(later) == 4000
    assert abs(defaulted.float().mean() - 0.0333) < 1e-3
    (dollars, _), _ = customers(3, raw=True)
    torch.testing.assert_close((dollars - dollars.mean(0)) / dollars.std(0), owed)


def test_the_season_of_a_booking_is_that_of_its_day() -> None:
    (x, paid), _ = bookings(0)
    high = paid[x[:, 1] < x[:, 1].quantile(0.1)].mean()  # the cosine of the year is lowest about midsummer
    low = paid[x[:, 1] > x[:, 1].quantile(0.9)].mean()
    assert high > 2 * low
