"""The exercises of chapter 10, what is a run made of?, and what its figures are drawn with."""

from __future__ import annotations

import builtins
import copy
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.catalogue import load
from ..data.loaders import make_loader
from ..data.splits import split
from ..models import MLP
from ..randomness import seed_everything
from .exercises import Exercise, Verdict, right, wrong

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Course = Sequence[tuple[int, Tensor, float]]

# --- drawing, so that the chapter's cells hold what it is about --------------------------------------


def plot_pieces(whole: Course, others: Mapping[str, Course], *, killed: int) -> None:
    """Draw what is seen of runs that were resumed without a piece, and what is not.

    A course has for each step (step, all weights as one vector, validation loss).  Left the losses, right
    the largest difference of a weight from the run that was never killed.
    """
    left, apart = _pyplot().subplots(1, 2, figsize=(8, 2.9))[1]
    left.plot(
        [step for step, _, _ in whole], [loss for _, _, loss in whole], color="gray", linewidth=5, alpha=0.4
    )
    for place, (name, course) in enumerate(others.items()):
        at = {step: weights for step, weights, _ in whole}
        steps = [step for step, _, _ in course]
        left.plot(steps, [loss for _, _, loss in course], color=f"C{place}", linewidth=1)
        far = [float((weights - at[step]).abs().max()) for step, weights, _ in course]
        apart.plot(steps, far, color=f"C{place}", label=f"without {name}")
    for ax in (left, apart):
        ax.axvline(killed, linestyle=":", color="gray")
        ax.set_xlabel("optimizer step")
    left.set_xlim(killed - 20, None)
    left.set_ylim(0.15, 0.45)
    left.set_ylabel("validation loss (nats)")
    left.set_title("what you see")
    apart.set_ylabel("largest difference of a weight")
    apart.set_yscale("log")
    apart.set_title("what happened")
    apart.legend(fontsize=8)


def plot_twins(ends: Mapping[str, Sequence[float]]) -> Axes:
    """Draw the final validation loss of each seed, its runs joined by a line.

    ends: name of the run -> a loss for each seed.
    """
    ax = _pyplot().figure(figsize=(4.5, 2.6)).add_subplot()
    for losses in zip(*ends.values()):
        ax.plot(range(len(losses)), losses, "o-", color="C0", alpha=0.7)
    ax.set_xticks(range(len(ends)), list(ends))
    ax.set_xlim(-0.5, len(ends) - 0.5)
    ax.set_ylabel("final validation loss (nats)")
    return ax


def _pyplot() -> Any:
    from matplotlib import pyplot as plt

    return plt


# --- 10.2: keep the last ones ------------------------------------------------------------------------


def _judge_old(old: Callable[..., Any]) -> Verdict:
    names = [f"epoch_{number}" for number in (9, 12, 7, 10, 8, 11)]
    got, expected = set(old(list(names), 2)), {"epoch_7", "epoch_8", "epoch_9", "epoch_10"}
    if got == set(sorted(names)[:-2]):
        return wrong("epoch_7 to epoch_12, keep 2: the newest is thrown away", observed=sorted(got), hint=1)
    if got == {"epoch_11", "epoch_12"}:
        return wrong("these are the two to keep; name those to delete", observed=sorted(got), hint=2)
    if got == set(names[:-2]):
        return wrong("the names come in no particular order", observed=sorted(got), hint=2)
    if got != expected:
        return wrong("epoch_7 to epoch_12, keep 2", observed=sorted(got), expected=sorted(expected), hint=2)
    few = list(old(["epoch_1", "epoch_3", "epoch_2"], 5))
    if few:
        return wrong("three checkpoints, keep 5: nothing may go", observed=few, expected=[], hint=3)
    many = set(old([f"epoch_{number}" for number in range(98, 103)], 1))
    if many != {f"epoch_{number}" for number in range(98, 102)}:
        return wrong("epoch_98 to epoch_102, keep 1", observed=sorted(many), hint=1)
    return right("ten comes after nine, and nothing is deleted before there is too much.")


# --- 10.1: everything that a run is made of -----------------------------------------------------------


class _Hand:
    """A run by hand on the digits: dropout, AdamW, a falling rate, a shuffled order."""

    def __init__(self) -> None:
        seed_everything(0)
        self.model = MLP(64, [16], 10, dropout=0.3)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 5, 0.7)
        self.position = (0, 0)

    def go(self, steps: int) -> None:
        """So many steps in batches of 100, from wherever it stands."""
        epoch, samples = self.position
        loader = make_loader(split(load("digits"), seed=0, stratify=True).train, 100, seed=0, shuffle=True)
        batches = loader.batches(epoch, samples)
        for _ in range(steps):
            if (batch := next(batches, None)) is None:
                epoch, samples = epoch + 1, 0
                batches = loader.batches(epoch)
                batch = next(batches)
            self.optimizer.zero_grad()
            F.cross_entropy(self.model(batch[0]), batch[1]).backward()
            self.optimizer.step()
            self.scheduler.step()
            samples += len(batch[1])
        self.position = (epoch, samples)

    def weights(self) -> Tensor:
        """All of them, as one vector."""
        return torch.cat([part.detach().flatten() for part in self.model.parameters()])


_KEYS = ("model", "optimizer", "scheduler", "generator", "position")


def _judge_snapshot(snapshot: Callable[..., Any]) -> Verdict:
    run = _Hand()
    run.go(17)
    then, drawn_from, place = run.weights().clone(), torch.get_rng_state(), run.position
    kept = snapshot(run.model, run.optimizer, run.scheduler, run.position)
    missing = [key for key in _KEYS if key not in kept]
    if missing:
        return wrong(f"the dictionary lacks {', '.join(missing)}", hint=3 if "generator" in missing else 1)
    if not isinstance(kept["generator"], Tensor) or not torch.equal(kept["generator"], drawn_from):
        said = "the generator is not in the state that it had: dropout would draw other units"
        return wrong(said, hint=3)
    if tuple(kept["position"]) != place:
        return wrong("the place in the data", observed=tuple(kept["position"]), expected=place, hint=1)
    run.go(20)
    if not all(torch.equal(one, other) for one, other in zip(_loaded(kept), _split(then, run.model))):
        said = "the run went on, and the weights in your snapshot went with it"
        return wrong(said, hint=2)
    again = _Hand()
    torch.manual_seed(99)  # another process draws from somewhere else
    for name in _KEYS[:3]:
        getattr(again, name).load_state_dict(copy.deepcopy(kept[name]))
    torch.set_rng_state(kept["generator"])
    again.position = tuple(kept["position"])
    again.go(20)
    if not torch.equal(again.weights(), run.weights()):
        said = "resumed from your snapshot the run ends elsewhere: the optimizer or the schedule went on, too"
        return wrong(
            said, observed=float((again.weights() - run.weights()).abs().max()), expected=0.0, hint=2
        )
    return right("killed after 17 steps and resumed from it, the run is the same to the last bit.")


def _loaded(kept: Mapping[str, Any]) -> list[Tensor]:
    return [part for part in kept["model"].values() if isinstance(part, Tensor)]


def _split(vector: Tensor, model: nn.Module) -> Iterator[Tensor]:
    for part in model.parameters():
        yield vector[: part.numel()].view_as(part)
        vector = vector[part.numel() :]


# --- 10.3: a file that is old or new, never anything between -------------------------------------------


class _Dead(BaseException):
    """The process was killed here."""


class _Disk:
    """Has the process killed at one of its operations on files, and knows what would survive a power cut."""

    def __init__(self, at: int) -> None:
        self.at, self.count = at, 0
        self.synced: set[int] = set()
        self.written: dict[int, int] = {}
        self.early = False  # a name was switched before its bytes were on the disk

    def tick(self) -> bool:
        """Count an operation; whether it is cut off half-way. Whoever is dead does nothing more."""
        self.count += 1
        if self.count > self.at:
            raise _Dead
        return self.count == self.at

    def open(self, file: Any, mode: str = "r", *given: Any, **options: Any) -> Any:
        """In the place of `open`."""
        if self.tick() and not set(mode) & set("wax+"):
            raise _Dead
        opened = _OPEN(file, mode, *given, **options)
        if self.count == self.at:
            opened.close()
            raise _Dead
        return _File(self, opened)

    def fsync(self, number: Any) -> None:
        """In the place of `os.fsync`."""
        number = number if isinstance(number, int) else number.fileno()
        if self.tick():
            raise _Dead
        found = os.fstat(number)
        if found.st_size >= self.written.get(found.st_ino, 0):
            self.synced.add(found.st_ino)
        _FSYNC(number)

    def moved(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        """In the place of `os.replace` and its like."""

        def call(first: Any, *given: Any, **options: Any) -> Any:
            if self.tick():
                raise _Dead
            if given and Path(first).is_file():
                self.early |= Path(first).stat().st_ino not in self.synced
            return plain(first, *given, **options)

        return call


class _File:
    """A file whose writing may be cut off."""

    def __init__(self, disk: _Disk, file: Any) -> None:
        self._disk, self._file = disk, file

    def write(self, content: Any) -> Any:
        """Half of it, where the process dies here."""
        cut = self._disk.tick()
        inode = os.fstat(self._file.fileno()).st_ino
        self._disk.synced.discard(inode)
        self._disk.written[inode] = self._disk.written.get(inode, 0) + len(content)
        written = self._file.write(content[: len(content) // 2] if cut else content)
        if cut:
            self._file.close()
            raise _Dead
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


_OPEN, _FSYNC = open, os.fsync


@contextmanager
def _dying(at: int) -> Iterator[_Disk]:
    disk = _Disk(at)
    moves: dict[str, Any] = {
        name: disk.moved(getattr(os, name)) for name in ("replace", "rename", "remove", "unlink")
    }
    with (
        mock.patch.object(builtins, "open", disk.open),
        mock.patch.object(io, "open", disk.open),
        mock.patch.multiple(os, fsync=disk.fsync, **moves),
    ):
        yield disk


def _judge_write(write_safely: Callable[..., Any]) -> Verdict:
    old, new = b"the weights of yesterday " * 40, b"the weights of today " * 60
    for at in range(1, 40):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "weights"
            path.write_bytes(old)
            dead = False
            with _dying(at) as disk:
                try:
                    write_safely(path, new)
                except _Dead:
                    dead = True
            if not path.exists():
                return wrong("killed at the wrong moment, it leaves no file at all", hint=2)
            if (found := path.read_bytes()) not in (old, new):
                said = f"it leaves {len(found)} of {len(new)} bytes, and the old file is gone"
                return wrong(f"killed in the middle, {said}", hint=1)
            if dead:
                continue
            if found != new:
                return wrong("the file holds the old bytes still", hint=1)
            if disk.early:
                said = "the name is switched while the bytes are still on their way to the disk"
                return wrong(f"{said}: a power cut here leaves an empty file", hint=3)
            return right(
                f"killed at each of its {at - 1} operations, it leaves the old file or the new one, whole."
            )
    return wrong("forty operations on files, and it is not done", hint=2)


# --- 10.4: the newest whole one ------------------------------------------------------------------------


def _made(folder: Path, number: int) -> Path:
    place = folder / f"epoch_{number}"
    place.mkdir()
    for name, content in {
        "weights.bin": os.urandom(400),
        "state.json": json.dumps({"epoch": number}).encode(),
    }.items():
        (place / name).write_bytes(content)
    digests = {each.name: hashlib.sha256(each.read_bytes()).hexdigest() for each in place.iterdir()}
    (place / "digests.json").write_text(json.dumps(digests))
    return place


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


# what befalls the newest of epoch_8, epoch_9, epoch_10: what to say, the hint that fits
_BLOWS: tuple[tuple[str, Callable[[Path], None], int], ...] = (
    ("a byte of the newest one's weights is flipped", lambda place: _flip(place / "weights.bin"), 2),
    ("a byte of the newest one's state.json is flipped", lambda place: _flip(place / "state.json"), 2),
    ("the newest one's weights are cut off", lambda place: os.truncate(place / "weights.bin", 100), 2),
    ("the newest one was killed before its digests.json", lambda place: (place / "digests.json").unlink(), 3),
    ("the newest one's weights are missing", lambda place: (place / "weights.bin").unlink(), 3),
)


def _judge_newest(newest: Callable[..., Any]) -> Verdict:
    def asked(blow: Callable[[Path], None] | None, *, all_of_them: bool = False) -> str | None:
        with tempfile.TemporaryDirectory() as folder:
            places = [_made(Path(folder), number) for number in (10, 8, 9)]
            for place in places[: 3 if all_of_them else 1] if blow is not None else []:
                blow(place)  # type: ignore[misc]
            try:
                got = newest(Path(folder))
            except (OSError, ValueError, KeyError) as error:
                return f"{type(error).__name__}"
            return None if got is None else Path(got).name

    if (got := asked(None)) != "epoch_10":
        return wrong("epoch_8, epoch_9 and epoch_10, all whole", observed=got, expected="epoch_10", hint=1)
    for said, blow, hint in _BLOWS:
        if (got := asked(blow)) != "epoch_9":
            return wrong(said, observed=got, expected="epoch_9", hint=hint)
    if (got := asked(_BLOWS[0][1], all_of_them=True)) is not None:
        return wrong("all three are damaged", observed=got, expected=None, hint=3)
    return right("whatever happened to the newest, yours finds the newest that is whole.")


EXERCISES = (
    Exercise(
        "10.1",
        "Everything that a run is made of",
        difficulty=2,
        minutes=12,
        judge=_judge_snapshot,
        expects="a function",
        hints=(
            "Five keys: model, optimizer, scheduler, generator, position. The position is what you were "
            "given: (epoch, samples).",
            "state_dict() hands out the run's own tensors, not copies, and the run goes on: copy.deepcopy "
            "each of them.",
            "Dropout draws from torch's default generator: keep torch.get_rng_state() under 'generator'.",
        ),
        solution="""
import copy
import torch

def snapshot(model, optimizer, scheduler, position):
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    kept = {name: copy.deepcopy(part.state_dict()) for name, part in parts.items()}
    return kept | {"generator": torch.get_rng_state(), "position": position}
""",
    ),
    Exercise(
        "10.2",
        "Which ones may go",
        difficulty=1,
        minutes=6,
        judge=_judge_old,
        expects="a function",
        hints=(
            "As text, 'epoch_10' comes before 'epoch_9': sort by the number, not by the name.",
            "int(name.split('_')[1]) is the number. Sorted by it, all but the last `keep` may go, whatever "
            "order the names came in.",
            "With fewer names than `keep` the number of those to go would be below 0, and a negative index "
            "counts from the end: take max(0, len(names) - keep).",
        ),
        solution="""
def old(names, keep):
    in_order = sorted(names, key=lambda name: int(name.split("_")[1]))
    return in_order[: max(0, len(names) - keep)]
""",
    ),
    Exercise(
        "10.3",
        "Old or new, never between",
        difficulty=2,
        minutes=12,
        judge=_judge_write,
        expects="a function",
        in_place=True,
        hints=(
            "Whoever opens the file itself for writing has emptied it before the first byte is there. Write "
            "to another name beside it, and switch the names at the end.",
            "Removing the old file first leaves a moment with none. os.replace(new, path) has none.",
            "write() hands the bytes to Python, flush() to the system, os.fsync(file.fileno()) to the disk: "
            "do all three before os.replace.",
        ),
        solution="""
import os

def write_safely(path, content):
    fresh = path.with_name(path.name + ".new")
    with open(fresh, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)
""",
    ),
    Exercise(
        "10.4",
        "The newest whole one",
        difficulty=3,
        minutes=15,
        judge=_judge_newest,
        expects="a function",
        hints=(
            "Newest first, by number: 10 is after 9.",
            "Neither existence nor length is enough: for every file that digests.json names, compare what it "
            "says with hashlib.sha256(file.read_bytes()).hexdigest().",
            "A folder whose digests.json is missing is not whole, nor is one that lacks a file named in it: "
            "pass it over without an error. If none is whole, return None.",
        ),
        solution="""
import hashlib
import json

def newest(folder):
    def whole(place):
        try:
            digests = json.loads((place / "digests.json").read_text())
            return all(
                hashlib.sha256((place / name).read_bytes()).hexdigest() == digest
                for name, digest in digests.items()
            )
        except (OSError, ValueError):
            return False

    places = sorted(folder.glob("epoch_*"), key=lambda place: int(place.name.split("_")[1]))
    return next((place for place in reversed(places) if whole(place)), None)
""",
    ),
)
