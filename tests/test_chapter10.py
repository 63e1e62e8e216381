"""The exercises of chapter 10: the solutions pass, likely wrong answers fail with the fitting hint."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trainlab.course.exercises import exercise, judge_answer

NAMES = {"10.2": "old", "10.1": "snapshot", "10.3": "write_safely", "10.4": "newest"}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def answer(source: str, name: str) -> Any:
    space: dict[str, Any] = {"torch": torch}
    exec("import copy, hashlib, json, os, pathlib, tempfile\n" + source, space)
    return space[name]


@pytest.mark.parametrize("exercise_id", NAMES)
def test_the_solution_is_right(exercise_id: str) -> None:
    one = exercise(exercise_id)
    verdict = judge_answer(one, answer(one.solution, NAMES[exercise_id]))
    assert verdict.ok, verdict


@pytest.mark.parametrize("body", ["...", "pass"])
@pytest.mark.parametrize("exercise_id", NAMES)
def test_a_stub_is_not_an_attempt(exercise_id: str, body: str) -> None:
    code = f"def {NAMES[exercise_id]}(*arguments):\n    {body}"
    verdict = judge_answer(exercise(exercise_id), answer(code, NAMES[exercise_id]))
    assert not verdict.attempted and not verdict.ok


OLD = "def old(names, keep):\n    return {}"
SNAPSHOT = """
def snapshot(model, optimizer, scheduler, position):
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    kept = {name: COPY(part.state_dict()) for name, part in parts.items()}
    return kept | {"generator": torch.get_rng_state(), "position": position}
"""
NEWEST = """
def newest(folder):
    places = sorted(folder.glob("epoch_*"), key=lambda place: int(place.name.split("_")[1]))
    return next((place for place in reversed(places) if whole(place)), None)
"""

WRITE = "def write_safely(path, content):\n"

WRONG = [
    ("10.2", "by name", OLD.format("sorted(names)[:-keep]"), 1),
    ("10.2", "the ones to keep", OLD.format("sorted(names, key=lambda n: int(n[6:]))[-keep:]"), 2),
    ("10.2", "as they come", OLD.format("names[:-keep]"), 2),
    ("10.2", "one too many", OLD.format("sorted(names, key=lambda n: int(n[6:]))[: 1 - keep]"), 2),
    (
        "10.2",
        "below zero",
        OLD.format("sorted(names, key=lambda n: int(n[6:]))[: len(names) - keep]"),
        3,
    ),
    ("10.1", "no copy", SNAPSHOT.replace("COPY", "dict"), 2),
    ("10.1", "a flat copy", SNAPSHOT.replace("COPY", "copy.copy"), 2),
    (
        "10.1",
        "the weights alone",
        "def snapshot(model, *rest):\n    return {'model': copy.deepcopy(model.state_dict())}",
        3,
    ),
    ("10.1", "a seed", SNAPSHOT.replace("COPY", "copy.deepcopy").replace("get_rng_state", "initial_seed"), 3),
    (
        "10.1",
        "a new generator",
        SNAPSHOT.replace("COPY", "copy.deepcopy").replace(
            "torch.get_rng_state", "torch.Generator().get_state"
        ),
        3,
    ),
    (
        "10.1",
        "the epoch's start",
        SNAPSHOT.replace("COPY", "copy.deepcopy").replace(
            '"position": position', '"position": (position[0], 0)'
        ),
        1,
    ),
    (
        "10.1",
        "only the weights are copied",
        SNAPSHOT.replace("COPY", "(lambda s: s if 'state' in s else copy.deepcopy(s))"),
        2,
    ),
    ("10.3", "in place", "def write_safely(path, content):\n    path.write_bytes(content)", 1),
    (
        "10.3",
        "in place, with fsync",
        "def write_safely(path, content):\n    with open(path, 'wb') as f:\n        f.write(content)\n"
        "        f.flush()\n        os.fsync(f.fileno())",
        1,
    ),
    (
        "10.3",
        "removed first",
        WRITE + "    fresh = path.with_suffix('.new')\n    fresh.write_bytes(content)\n"
        "    path.unlink()\n    fresh.rename(path)",
        2,
    ),
    (
        "10.3",
        "no fsync",
        WRITE + "    fresh = path.with_suffix('.new')\n    fresh.write_bytes(content)\n"
        "    os.replace(fresh, path)",
        3,
    ),
    (
        "10.3",
        "fsync without flush",
        WRITE + "    fresh = path.with_suffix('.new')\n    with open(fresh, 'wb') as f:\n"
        "        f.write(content)\n        os.fsync(f.fileno())\n    os.replace(fresh, path)",
        3,
    ),
    ("10.4", "by name", "def newest(folder):\n    return sorted(folder.iterdir())[-1]", 1),
    ("10.4", "nothing looked at", "def whole(place):\n    return True\n" + NEWEST, 2),
    (
        "10.4",
        "only that the files are there",
        "def whole(place):\n    return all((place / n).exists() for n in ('digests.json', 'weights.bin'))\n"
        + NEWEST,
        2,
    ),
    (
        "10.4",
        "only the weights",
        "def whole(place):\n    d = json.loads((place / 'digests.json').read_text())\n"
        "    return hashlib.sha256((place / 'weights.bin').read_bytes()).hexdigest() == d['weights.bin']\n"
        + NEWEST,
        2,
    ),
    (
        "10.4",
        "an error where digests are missing",
        "def whole(place):\n    d = json.loads((place / 'digests.json').read_text())\n"
        "    return all(hashlib.sha256((place / n).read_bytes()).hexdigest() == v for n, v in d.items())\n"
        + NEWEST,
        3,
    ),
]


@pytest.mark.parametrize(
    ("exercise_id", "source", "hint"),
    [(each[0], each[2], each[3]) for each in WRONG],
    ids=[f"{each[0]} {each[1]}" for each in WRONG],
)
def test_a_likely_wrong_answer_gets_the_hint_that_fits(exercise_id: str, source: str, hint: int) -> None:
    verdict = judge_answer(exercise(exercise_id), answer(source, NAMES[exercise_id]))
    assert not verdict.ok and verdict.attempted, verdict
    assert verdict.hint == hint, verdict


@pytest.mark.parametrize(
    "source",
    [
        WRITE
        + "    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as f:\n"
        + "        f.write(content)\n        f.flush()\n        os.fsync(f.fileno())\n"
        + "    os.replace(f.name, path)",
        WRITE
        + "    new = pathlib.Path(str(path) + '~')\n    with new.open('wb') as f:\n"
        + "        f.write(content)\n        f.flush()\n        os.fsync(f)\n    new.replace(path)",
    ],
)
def test_another_right_way_to_write_passes(source: str) -> None:
    verdict = judge_answer(exercise("10.3"), answer(source, "write_safely"))
    assert verdict.ok, verdict
