"""A run killed with SIGKILL at any moment and resumed ends as the run that was never killed, bit for bit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from core.runs import assert_same

KILLING = Path(__file__).with_name("killing.py")
Order = dict[str, Any]

# what is trained: workers, optimizer, schedule; augmentation, dropout, accumulation and clipping in all
SETTINGS: list[Order] = [
    {"workers": 0},
    {"workers": 2, "schedule": "plateau", "optimizer": "momentum"},
    {"workers": 0, "schedule": "step", "lookahead": True},
    {"workers": 2, "schedule": "cosine", "optimizer": "adamw-fused"},
]


class Trainer:
    """The process that forks runs, and kills them on request."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(KILLING)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert self._answer() == ["ready"]

    def _answer(self) -> list[str]:
        assert self._process.stdout is not None
        return self._process.stdout.readline().split()

    def run(self, order: Order) -> tuple[int, int]:
        """Exit status (minus the signal), and how often it ticked if it came to its end."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        ticks = 0
        while True:
            word, number = self._answer()
            if word == "exit":
                return int(number), ticks
            if word == "ticks":
                ticks = int(number)
            else:
                os.kill(int(number), signal.SIGKILL)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def trainer() -> Iterator[Trainer]:
    trainer = Trainer()
    yield trainer
    trainer.close()


@pytest.fixture(scope="module")
def uninterrupted(trainer: Trainer) -> dict[int, tuple[Any, int]]:
    """What each setting ends with when nobody kills it, and how often it ticks."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for place, setting in enumerate(SETTINGS):
            order = setting | {"directory": f"{folder}/{place}", "result": f"{folder}/{place}.pt"}
            status, ticks = trainer.run(order)
            assert status == 0
            found[place] = torch.load(order["result"], weights_only=False), ticks
    return found


def killed_and_resumed(
    trainer: Trainer, uninterrupted: dict[int, tuple[Any, int]], folder: Path, seed: int
) -> str:
    """Kill one run at a random moment, possibly again, resume it, compare; what it went on from."""
    place = seed % len(SETTINGS)
    expected, ticks = uninterrupted[place]
    draw = random.Random(seed)
    order = SETTINGS[place] | {"directory": str(folder / "run"), "result": str(folder / "result.pt")}
    # every other one is struck from outside while it goes on; every fourth one a second time
    by = "another" if seed // len(SETTINGS) % 2 else "itself"
    for _ in range(2 if seed % 4 == 3 else 1):
        status, _ = trainer.run(order | {"at": draw.randint(1, ticks), "by": by})
        assert status in (-signal.SIGKILL, 0)  # one struck from outside may come to its end before
        if status == 0:
            break
    if status != 0:
        status, _ = trainer.run(order)
        assert status == 0
    found = torch.load(folder / "result.pt", weights_only=False)
    for part in ("rows", "drawn", "best", "state"):
        assert_same(found[part], expected[part], f"seed {seed}, from {found['from']}: {part}")
    assert found["left"] == [], "leftovers of the killed save"
    return str(found["from"])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_killed_at_a_random_moment(
    seed: int, trainer: Trainer, uninterrupted: dict[int, tuple[Any, int]], tmp_path: Path
) -> None:
    killed_and_resumed(trainer, uninterrupted, tmp_path, seed)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 150))
def test_killed_at_fifty_random_moments(
    seed: int, trainer: Trainer, uninterrupted: dict[int, tuple[Any, int]], tmp_path: Path
) -> None:
    killed_and_resumed(trainer, uninterrupted, tmp_path, seed)
