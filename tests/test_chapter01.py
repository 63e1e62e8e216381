"""The exercises of chapter 01: the solutions pass, likely wrong answers fail with the fitting hint."""

from __future__ import annotations

import numpy as np
import pytest
from chapters.answers import Answers

from trainlab.course.exercises import exercise, judge_answer

ANSWERS = Answers(
    {
        "01.1": "parts",
        "01.2": "hold_back",
        "01.3": "prepare",
        "01.4": "arrivals",
        "01.5": "honest_auc",
    },
    {"np": np},
)


test_the_solution_is_right = ANSWERS.solutions()
test_a_stub_is_not_an_attempt = ANSWERS.stubs(without=("01.4",))


def test_open_places_are_no_attempt() -> None:
    verdict = judge_answer(exercise("01.4"), {"bank": ..., "x-rays": "grouped"})
    assert not verdict.attempted and not verdict.ok


PARTS = exercise("01.1").solution
HOLD = exercise("01.2").solution
PREPARE = exercise("01.3").solution
HONEST = exercise("01.5").solution
ARRIVALS = {"bank": "stratified", "x-rays": "grouped", "power": "timed", "films": "timed"}


def changed(source: str, old: str, new: str) -> str:
    assert old in source
    return source.replace(old, new)


WRONG = {
    "a fifth of the remainder": (
        "01.1",
        1,
        changed(
            PARTS,
            "cuts = [round(0.7 * len(rows)), round(0.9 * len(rows))]",
            "left = len(rows) - round(0.7 * len(rows))\n"
            "        cuts = [round(0.7 * len(rows)), round(0.7 * len(rows)) + round(0.2 * left)]",
        ),
    ),
    "0.222 of what is left after the test": (
        "01.1",
        1,
        """
def parts(labels, seed):
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(labels))
    test, rest = rows[: len(rows) // 10], rows[len(rows) // 10 :]
    size = int(0.222 * len(rest))
    return rest[size:], rest[:size], test
""",
    ),
    "random, not stratified": (
        "01.1",
        2,
        """
def parts(labels, seed):
    rows = np.random.default_rng(seed).permutation(len(labels))
    return np.split(rows, [round(0.7 * len(rows)), round(0.9 * len(rows))])
""",
    ),
    "cut in the order of the file": (
        "01.1",
        2,
        "def parts(labels, seed):\n    return np.split(np.arange(len(labels)), [7000, 9000])",
    ),
    "three draws that overlap": (
        "01.1",
        1,
        """
def parts(labels, seed):
    rng = np.random.default_rng(seed)
    return [rng.choice(len(labels), size, replace=False) for size in (7000, 2000, 1000)]
""",
    ),
    "classes cut, but not shuffled": (
        "01.1",
        3,
        changed(PARTS, "rng.permutation(np.flatnonzero(labels == label))", "np.flatnonzero(labels == label)"),
    ),
    "a generator that nobody seeded": ("01.1", 3, changed(PARTS, "default_rng(seed)", "default_rng()")),
    "lengths learned by heart": (
        "01.1",
        1,
        changed(
            PARTS,
            "    return [np.conc",
            "    if len(labels) < 10_000:\n        return [np.arange(7), np.arange(2), np.arange(1)]\n"
            "    return [np.conc",
        ),
    ),
    "rows sorted by patient, then cut": (
        "01.2",
        1,
        """
def hold_back(patients, share, seed):
    out = np.zeros(len(patients), dtype=bool)
    out[np.argsort(patients, kind="stable")[: round(share * len(patients))]] = True
    return out
""",
    ),
    "rows at random, the number dropped": (
        "01.2",
        2,
        "def hold_back(patients, share, seed):\n"
        "    return np.random.default_rng(seed).random(len(patients)) < share",
    ),
    "the first patients, always": (
        "01.2",
        3,
        """
def hold_back(patients, share, seed):
    names = np.unique(patients)
    return np.isin(patients, names[: round(share * len(names))])
""",
    ),
    "row numbers in place of a mask": (
        "01.2",
        3,
        changed(HOLD, "return np.isin(", "return np.flatnonzero(np.isin(").replace("))])", "))]))"),
    ),
    "columns chosen on all rows": (
        "01.3",
        1,
        changed(
            PREPARE,
            "x[rare].mean(0) - x[common].mean(0)",
            "x[y == 1].mean(0) - x[y == 0].mean(0)",
        ),
    ),
    "a scale of all rows": (
        "01.3",
        1,
        changed(PREPARE, "    rng =", "    x = (x - x.mean(0)) / x.std(0)\n    rng ="),
    ),
    "valid oversampled too": (
        "01.3",
        2,
        changed(
            PREPARE,
            "    return ",
            "    sick = valid[y[valid] == 1]\n"
            "    valid = np.concatenate([valid, rng.choice(sick, len(valid) - 2 * len(sick))])\n"
            "    return ",
        ),
    ),
    "oversampled before the cut": (
        "01.3",
        2,
        """
def prepare(x, y, train, valid):
    rng = np.random.default_rng(0)
    rare, common = np.flatnonzero(y == 1), np.flatnonzero(y == 0)
    rows = rng.permutation(np.concatenate([common, rng.choice(rare, len(common))]))
    train, valid = rows[: len(rows) * 3 // 4], rows[len(rows) * 3 // 4 :]
    kept = np.argsort(-abs(x[train][y[train] == 1].mean(0) - x[train][y[train] == 0].mean(0)))[:20]
    return x[train][:, kept], y[train], x[valid][:, kept], y[valid]
""",
    ),
    "the columns that differ least": ("01.3", 3, changed(PREPARE, "np.argsort(-abs", "np.argsort(abs")),
    "nothing copied": (
        "01.3",
        3,
        changed(PREPARE, "np.concatenate([train, rng.choice(rare, len(common) - len(rare))])", "train"),
    ),
    "each part chooses its own columns": (
        "01.3",
        3,
        changed(
            PREPARE,
            "x[valid][:, kept]",
            "x[valid][:, np.argsort(-abs(x[valid][y[valid] == 1].mean(0) - x[valid].mean(0)))[:20]]",
        ),
    ),
    "each part scaled by itself": (
        "01.3",
        3,
        changed(
            PREPARE,
            "    return ",
            "    x = x.copy()\n"
            "    x[train] = x[train] / x[train].std(0)\n"
            "    x[valid] = x[valid] / x[valid].std(0)\n"
            "    return ",
        ),
    ),
    "rows at random": (
        "01.5",
        1,
        changed(HONEST, "np.unique(patient)", "np.arange(len(y))").replace(
            "np.isin(patient, fold)", "np.isin(np.arange(len(y)), fold)"
        ),
    ),
    "scored on what it learned": (
        "01.5",
        1,
        changed(HONEST, "fit(x[~out], y[~out])", "fit(x, y)"),
    ),
    "one small cut": (
        "01.5",
        2,
        changed(
            changed(HONEST, "for fold in np.array_split(names, 5):", "for fold in [names[:24]]:"),
            "roc_auc_score(y, chances)",
            "roc_auc_score(y[out], chances[out])",
        ),
    ),
    "accuracy in place of the AUC": (
        "01.5",
        3,
        changed(HONEST, "roc_auc_score(y, chances)", "((chances > 0.5) == y).mean()"),
    ),
    "always a half": ("01.5", 3, "def honest_auc(x, y, patient, seed):\n    return 0.5"),
    "upside down": ("01.5", 3, changed(HONEST, "[:, 1]", "[:, 0]")),
}


test_a_likely_wrong_answer_fails_with_its_hint = ANSWERS.wrong(WRONG, without=("01.4",))


@pytest.mark.parametrize(
    "name, chosen, hint",
    [
        ("bank", "timed", 1),
        ("x-rays", "stratified", 2),
        ("power", "stratified", 3),
        ("films", "grouped", 3),
        ("films", "sealed", 3),
    ],
)
def test_a_wrong_split_for_a_deployment_has_its_hint(name: str, chosen: str, hint: int) -> None:
    verdict = judge_answer(exercise("01.4"), {**ARRIVALS, name: chosen})
    assert not verdict.ok and verdict.attempted
    assert verdict.hint == hint, verdict


def test_other_forms_of_a_right_answer_are_right() -> None:
    scaled = PREPARE.replace(
        "    return ", "    x = (x - x[train].mean(0)) / x[train].std(0)\n    return "
    ).replace("    kept =", "    kept =")
    assert ANSWERS.verdict("01.3", scaled).ok
    folded = """
def honest_auc(x, y, patient, seed):
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import GroupKFold

    found = []
    for train, valid in GroupKFold(5, shuffle=True, random_state=seed).split(x, y, patient):
        chances = LogisticRegression().fit(x[train], y[train]).predict_proba(x[valid])[:, 1]
        found.append(roc_auc_score(y[valid], chances))
    return sum(found) / 5
"""
    assert ANSWERS.verdict("01.5", folded).ok
