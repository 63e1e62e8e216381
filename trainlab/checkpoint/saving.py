"""Saving a run and going on from there: by hand, or every so often by the `Checkpointer`."""

from __future__ import annotations

import os
import re
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ..errors import TrainlabError
from ..events import Event, Restarted, Step, Validation
from ..observers import _Best
from ..state import TrainState
from . import files


def save_checkpoint(path: str | Path, state: TrainState) -> Path:
    """Save everything that `state` needs to go on exactly, in a new directory `path`; returns it.

    It is written under another name, and gets its own once every byte is on the disk: whatever is
    found under `path` is whole, whenever the process or the machine died.
    Raises TrainlabError if `path` exists, the disk refuses, or something cannot be stored without
    running code on loading; nothing is left behind then, and other checkpoints are as they were.
    """
    path = Path(path).absolute()
    if path.exists():
        raise TrainlabError(
            f"{str(path)!r} exists, and each checkpoint is a new directory: give another name"
        )
    content = state.state_dict()
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
        partial.mkdir()
        numbers = [number for number, _ in _whole_names(path.parent)]
        files.write(partial, content, {"number": max(numbers, default=0) + 1, **_about(state)})
        partial.rename(path)
        files.sync_directory(path.parent)
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise TrainlabError(
            f"cannot save {str(path)!r} ({why}): make room or choose another folder, and save again; "
            "earlier checkpoints and the run itself are as they were"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return path


def load_checkpoint(path: str | Path, state: TrainState) -> None:
    """Put a saved run into `state`, which was built as that one's was; `train` then goes on exactly.

    Every byte is checked first, and no code that a file might hold is ever run.
    Raises TrainlabError, and changes nothing, if a file is damaged, or the run does not fit the state.
    """
    path = Path(path)
    if (wrong := files.flaw(path)) is not None:
        raise TrainlabError(
            f"{str(path)!r} is no whole checkpoint: {wrong}. latest_checkpoint({str(path.parent)!r}) names "
            "the newest whole one"
        )
    saved = (files.read_manifest(path) or {}).get("kinds")
    if saved != (ours := _about(state)["kinds"]):
        raise TrainlabError(
            f"{str(path)!r} was saved with {saved}, this state has {ours}: build it as it was"
        )
    state.load_state_dict(files.read(path))


def latest_checkpoint(directory: str | Path) -> Path | None:
    """The checkpoint saved last into `directory` of those that are whole, None if there is none.

    Last is what was saved last, whatever its name and the file's date. Damaged ones are named in a warning.
    """
    directory = Path(directory)
    unreadable = [
        place
        for place in sorted(directory.glob("[!.]*/"))
        if files.read_manifest(place) is None and any((place / name).exists() for name in files.FILES)
    ]
    for place in [*unreadable, *(place for _, place in reversed(_whole_names(directory)))]:
        if (wrong := files.flaw(place)) is None:
            return place
        warnings.warn(f"{str(place)!r} is passed over: {wrong}", stacklevel=2)
    return None


def _about(state: TrainState) -> dict[str, Any]:
    parts = {"optimizer": state.optimizer, "scheduler": state.scheduler}
    kinds = {name: None if part is None else type(part).__name__ for name, part in parts.items()}
    return {**state.position(), "kinds": kinds}


def _whole_names(directory: Path) -> list[tuple[int, Path]]:
    """Number and place of each checkpoint whose manifest can be read, in the order of saving."""
    manifests = [(files.read_manifest(place), place) for place in directory.glob("[!.]*/")]
    return sorted((manifest["number"], place) for manifest, place in manifests if manifest is not None)


def _sweep(directory: Path) -> None:
    """Remove what killed processes left half-written or half-deleted."""
    for place in directory.glob(".*.partial-*"):
        owner = place.name.rpartition("-")[2]
        if owner.isdigit() and (int(owner) == os.getpid() or not _runs(int(owner))):
            shutil.rmtree(place, ignore_errors=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


class Checkpointer:
    """An observer that saves the run into new directories below `directory`, and removes old ones.

        keeper = tl.Checkpointer(state, "runs/a", every_steps=500, keep=3)
        if (saved := tl.latest_checkpoint("runs/a")) is not None:
            tl.load_checkpoint(saved, state)
        tl.fit(state, loader, loss_fn, config, valid=valid, observers=[keeper])

    every_steps, every_epochs: how often; every epoch if neither is given.  The end of a run is saved too.
    keep: how many of the last ones stay, in the order of saving; None keeps all.
    best: a validation metric; the checkpoint of its best value stays besides, as `keeper.best`.  None: none.
    mode: "min" or "max"; by default "min" for losses and errors, "max" for scores.
    Raises TrainlabError if an argument cannot be right, or the disk refuses.
    """

    runs_last = True  # what the other observers know of an event is saved with it

    def __init__(
        self,
        state: TrainState,
        directory: str | Path,
        *,
        every_steps: int | None = None,
        every_epochs: int | None = None,
        keep: int | None = 3,
        best: str | None = "loss",
        mode: str | None = None,
    ) -> None:
        for name, value in {"every_steps": every_steps, "every_epochs": every_epochs, "keep": keep}.items():
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise TrainlabError(f"{name}={value!r} is not a whole number from 1 on")
        self.directory = Path(directory)
        self._state = state
        self._steps = every_steps
        self._epochs = 1 if every_steps is None and every_epochs is None else every_epochs
        self._keep = keep
        self._best = None if best is None else _Best(best, mode, 0.0)
        self._best_name: str | None = None
        self._epoch = state.epoch
        self._tried: dict[str, int] = {}

    @property
    def best(self) -> Path | None:
        """The checkpoint of the best validation so far, None before the first."""
        return None if self._best_name is None else self.directory / self._best_name

    def __call__(self, event: Event) -> None:
        if isinstance(event, Restarted):
            self._epoch = min(self._epoch, self._state.epoch)  # the end of an epoch may come again
        if not isinstance(event, Step | Validation):
            return
        improved = isinstance(event, Validation) and self._best is not None and self._best.improved(event)
        # asked last: on a device, it waits for the answer
        if (self._due(event) or improved) and not self._state.doubtful:
            self._save(improved)

    def _due(self, event: Step | Validation) -> bool:
        every = self._epochs
        if every is not None and self._state.epoch // every > self._epoch // every:
            return True
        return isinstance(event, Step) and self._steps is not None and event.step % self._steps == 0

    def _save(self, improved: bool) -> None:
        name = f"step_{self._state.step:08}"
        while (self.directory / name).exists():  # the same step of an earlier try, or before its validation
            name += "+"
        before, self._tried = (self._best_name, self._epoch), self._state.position()
        self._best_name, self._epoch = name if improved else self._best_name, self._state.epoch
        try:
            save_checkpoint(self.directory / name, self._state)
        except TrainlabError:
            self._best_name, self._epoch = before
            raise
        self._prune()

    def _prune(self) -> None:
        own = [path for _, path in _whole_names(self.directory) if re.fullmatch(r"step_\d{8}\+*", path.name)]
        for path in own[: -self._keep] if self._keep is not None else []:
            if path.name != self._best_name:
                # away from its name first: what is killed in between is no checkpoint any more
                shutil.rmtree(path.rename(path.with_name(f".{path.name}.partial-{os.getpid()}")))

    def close(self) -> None:
        """Save the end of the run, unless that is done; `fit` calls this."""
        state = self._state
        if not state.updating and not state.doubtful and state.step and self._tried != state.position():
            self._save(improved=False)

    def state_dict(self) -> dict[str, Any]:
        """The best value and its checkpoint, and the epoch last saved."""
        best = None if self._best is None else {"metric": self._best.metric, "value": self._best.value}
        return {"best": best, "name": self._best_name, "epoch": self._epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` returned; the best by another metric does not count."""
        self._epoch, self._tried = state["epoch"], self._state.position()
        if self._best is not None and state["best"] and state["best"]["metric"] == self._best.metric:
            self._best.value, self._best_name = state["best"]["value"], state["name"]
