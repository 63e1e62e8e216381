"""The learner's record: attempts, hints and predictions, kept in `home()/progress.json`.

Every change reads the file again under a lock and replaces it in one go, so that two notebooks
open at once lose nothing. Whatever is wrong with the file or its folder, no exercise stops for it.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..paths import home

try:
    import fcntl
except ImportError:  # Windows outside WSL: the file is still replaced in one go
    fcntl = None  # type: ignore[assignment]


@dataclass(frozen=True, slots=True)
class Tally:
    """What was done on one exercise. hints: the strongest level shown, 0 to 3."""

    attempts: int = 0
    solved: bool = False
    hints: int = 0
    solution_seen: bool = False


@dataclass(frozen=True, slots=True)
class Prediction:
    """One prediction whose truth is known. guess: None where the learner asked to be shown."""

    guess: Any
    truth: Any
    right: bool
    time: str  # UTC, ISO 8601


@dataclass(frozen=True, slots=True)
class Record:
    """Everything kept about a learner, by exercise and by prediction (those in order of time)."""

    exercises: Mapping[str, Tally] = field(default_factory=dict)
    predictions: Mapping[str, tuple[Prediction, ...]] = field(default_factory=dict)

    def tally(self, exercise_id: str) -> Tally:
        return self.exercises.get(exercise_id, Tally())

    def with_tally(self, exercise_id: str, tally: Tally) -> Record:
        return replace(self, exercises={**self.exercises, exercise_id: tally})

    def with_prediction(self, prediction_id: str, made: Prediction) -> Record:
        earlier = self.predictions.get(prediction_id, ())
        return replace(self, predictions={**self.predictions, prediction_id: (*earlier, made)})


_BROKEN = (ValueError, KeyError, TypeError, AttributeError)  # what reading a damaged file may raise
_in_memory: dict[Path, Record] = {}  # records that no file holds: unattended runs, unwritable homes


def unattended() -> bool:
    """Whether TRAINLAB_UNATTENDED=1 says that nobody is there, so that nothing may be kept."""
    return os.environ.get("TRAINLAB_UNATTENDED") == "1"


def read() -> Record:
    """The record as it stands now; an empty one where there is none yet or nobody is there."""
    path = home() / "progress.json"
    if unattended() or path in _in_memory:
        return _in_memory.get(path, Record())
    try:
        return _parse(path.read_text(encoding="utf-8"))
    except OSError:
        return Record()
    except _BROKEN:
        return amend(lambda record: record)  # sets the broken file aside, under the lock


def amend(change: Callable[[Record], Record]) -> Record:
    """Apply `change` to the newest record and keep the result, which is returned.

    Where the home cannot be written, this says so once and keeps the record in memory.
    """
    path = home() / "progress.json"
    if not unattended() and path not in _in_memory:
        try:
            return _amend_file(path, change)
        except OSError as error:
            reason = error.strerror or error
            print(f"Your progress is not kept: {path.parent} cannot be written ({reason}).", end=" ")
            print("Set TRAINLAB_HOME to a folder of yours and restart the kernel.")
            _in_memory[path] = Record()
            with contextlib.suppress(OSError, *_BROKEN):
                _in_memory[path] = _parse(path.read_text(encoding="utf-8"))
    _in_memory[path] = change(_in_memory.get(path, Record()))
    return _in_memory[path]


def note_attempt(exercise_id: str, *, solved: bool) -> None:
    """Count one attempt; an exercise once solved stays solved."""

    def count(record: Record) -> Record:
        tally = record.tally(exercise_id)
        done = replace(tally, attempts=tally.attempts + 1, solved=tally.solved or solved)
        return record.with_tally(exercise_id, done)

    amend(count)


def note_hint(exercise_id: str, level: int) -> None:
    """Keep the strongest hint level shown."""

    def raised(record: Record) -> Record:
        tally = record.tally(exercise_id)
        return record.with_tally(exercise_id, replace(tally, hints=max(tally.hints, level)))

    amend(raised)


def note_solution(exercise_id: str) -> None:
    """Keep that the solution was shown."""
    amend(lambda r: r.with_tally(exercise_id, replace(r.tally(exercise_id), solution_seen=True)))


def note_prediction(prediction_id: str, *, guess: Any, truth: Any, right: bool) -> None:
    """Keep one prediction; guess None: the learner asked to be shown."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    made = Prediction(guess, truth, right, now)
    amend(lambda record: record.with_prediction(prediction_id, made))


def _amend_file(path: Path, change: Callable[[Record], Record]) -> Record:
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.with_suffix(".lock")):
        try:
            record = _parse(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            record = Record()
        except _BROKEN:
            record = Record()
            aside = path.with_name("progress.json.broken")
            path.replace(aside)
            print(f"Your progress file could not be read: it is kept as {aside}, and a new one begins.")
        record = change(record)
        fresh = path.with_suffix(f".{os.getpid()}.tmp")
        text = json.dumps({"version": 1, **asdict(record)}, indent=1, ensure_ascii=False)
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(path)
    return record


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        if fcntl is not None:
            # some network folders know no locks: a rare lost attempt beats an exercise that fails
            with contextlib.suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _parse(text: str) -> Record:
    """The record in a file's text; one of the _BROKEN errors if it is not one."""
    kept = json.loads(text)
    return Record(
        exercises={name: _tally(entry) for name, entry in kept["exercises"].items()},
        predictions={name: tuple(map(_prediction, made)) for name, made in kept["predictions"].items()},
    )


def _tally(entry: dict[str, Any]) -> Tally:
    return Tally(
        attempts=int(entry["attempts"]),
        solved=bool(entry["solved"]),
        hints=int(entry["hints"]),
        solution_seen=bool(entry["solution_seen"]),
    )


def _prediction(entry: dict[str, Any]) -> Prediction:
    return Prediction(entry["guess"], entry["truth"], bool(entry["right"]), str(entry["time"]))
