"""The exercises of chapter 10: the solutions pass, likely wrong answers fail with the fitting hint."""

from __future__ import annotations

import pytest
import torch
from chapters.answers import Answers


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


ANSWERS = Answers(
    {"10.1": "snapshot", "10.2": "old", "10.3": "write_safely", "10.4": "newest"},
    {"torch": torch},
    "import copy, hashlib, json, os, pathlib, tempfile\n",
)


test_the_solution_is_right = ANSWERS.solutions()
test_a_stub_is_not_an_attempt = ANSWERS.stubs()


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

WRONG = {
    "by name": ("10.2", 1, OLD.format("sorted(names)[:-keep]")),
    "the ones to keep": ("10.2", 2, OLD.format("sorted(names, key=lambda n: int(n[6:]))[-keep:]")),
    "as they come": ("10.2", 2, OLD.format("names[:-keep]")),
    "one too many": ("10.2", 2, OLD.format("sorted(names, key=lambda n: int(n[6:]))[: 1 - keep]")),
    "below zero": ("10.2", 3, OLD.format("sorted(names, key=lambda n: int(n[6:]))[: len(names) - keep]")),
    "no copy": ("10.1", 2, SNAPSHOT.replace("COPY", "dict")),
    "a flat copy": ("10.1", 2, SNAPSHOT.replace("COPY", "copy.copy")),
    "the weights alone": (
        "10.1",
        3,
        "def snapshot(model, *rest):\n    return {'model': copy.deepcopy(model.state_dict())}",
    ),
    "a seed": ("10.1", 3, SNAPSHOT.replace("COPY", "copy.deepcopy").replace("get_rng_state", "initial_seed")),
    "a new generator": (
        "10.1",
        3,
        SNAPSHOT.replace("COPY", "copy.deepcopy").replace(
            "torch.get_rng_state", "torch.Generator().get_state"
        ),
    ),
    "the epoch's start": (
        "10.1",
        1,
        SNAPSHOT.replace("COPY", "copy.deepcopy").replace(
            '"position": position', '"position": (position[0], 0)'
        ),
    ),
    "only the weights are copied": (
        "10.1",
        2,
        SNAPSHOT.replace("COPY", "(lambda s: s if 'state' in s else copy.deepcopy(s))"),
    ),
    "in place": ("10.3", 1, "def write_safely(path, content):\n    path.write_bytes(content)"),
    "in place, with fsync": (
        "10.3",
        1,
        "def write_safely(path, content):\n    with open(path, 'wb') as f:\n        f.write(content)\n"
        "        f.flush()\n        os.fsync(f.fileno())",
    ),
    "removed first": (
        "10.3",
        2,
        WRITE + "    fresh = path.with_suffix('.new')\n    fresh.write_bytes(content)\n"
        "    path.unlink()\n    fresh.rename(path)",
    ),
    "no fsync": (
        "10.3",
        3,
        WRITE + "    fresh = path.with_suffix('.new')\n    fresh.write_bytes(content)\n"
        "    os.replace(fresh, path)",
    ),
    "fsync without flush": (
        "10.3",
        3,
        WRITE + "    fresh = path.with_suffix('.new')\n    with open(fresh, 'wb') as f:\n"
        "        f.write(content)\n        os.fsync(f.fileno())\n    os.replace(fresh, path)",
    ),
    "by name, the newest": ("10.4", 1, "def newest(folder):\n    return sorted(folder.iterdir())[-1]"),
    "nothing looked at": ("10.4", 2, "def whole(place):\n    return True\n" + NEWEST),
    "only that the files are there": (
        "10.4",
        2,
        "def whole(place):\n    return all((place / n).exists() for n in ('digests.json', 'weights.bin'))\n"
        + NEWEST,
    ),
    "only the weights": (
        "10.4",
        2,
        "def whole(place):\n    d = json.loads((place / 'digests.json').read_text())\n"
        "    return hashlib.sha256((place / 'weights.bin').read_bytes()).hexdigest() == d['weights.bin']\n"
        + NEWEST,
    ),
    "an error where digests are missing": (
        "10.4",
        3,
        "def whole(place):\n    d = json.loads((place / 'digests.json').read_text())\n"
        "    return all(hashlib.sha256((place / n).read_bytes()).hexdigest() == v for n, v in d.items())\n"
        + NEWEST,
    ),
}


test_a_likely_wrong_answer_fails_with_its_hint = ANSWERS.wrong(WRONG)


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
    verdict = ANSWERS.verdict("10.3", source)
    assert verdict.ok, verdict
