"""The project that a learner carries through the course: which data, and how they are split.

Chosen in chapter 01 and kept in `home()/project.json`, so that every later chapter can ask for it:

    project = tl.project("my/patients.csv", target="outcome", groups="patient", split="groups")
    project = tl.project()        # in a later chapter: the same rows in the same three parts
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..data.catalogue import load
from ..data.splits import Splits, split
from ..errors import TrainlabError, unknown_name
from ..paths import home
from . import record

WAYS: dict[str, dict[str, Any]] = {
    "random": {},
    "stratify": {"stratify": True},
    "groups": {"groups": True},
    "time": {"time": True},
    "within": {"time": True, "within": True},
}


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen. name: of the catalogue, or the path of a file; target, groups, time: its columns."""

    name: str
    split: str
    seed: int
    target: str | None = None
    groups: str | None = None
    time: str | None = None

    def splits(self) -> Splits:
        """The data in three parts, 70-20-10."""
        data = load(self.name, self.target, groups=self.groups, time=self.time)
        return split(data, (0.7, 0.2, 0.1), seed=self.seed, **WAYS[self.split])


_STAND_IN = Choice("digits", "stratify", 0)


def project(
    name: str | Path | None = None,
    *,
    split: str = "random",
    seed: int = 0,
    target: str | None = None,
    groups: str | None = None,
    time: str | None = None,
) -> Splits:
    """The learner's project in three parts, 70-20-10: chosen here, or as it was chosen before.

    name: a data set of the catalogue, or the path of a file or folder, as `load` takes it with target,
    groups and time; None for the one chosen before (`digits` stands in where there is none).
    split: "random", "stratify", "groups" or "time", as the arguments of `tl.split`; "within" for later
    rows of the same groups, each cut in time by itself.
    With TRAINLAB_UNATTENDED=1 nothing is kept, and nothing that was kept is used.
    Raises TrainlabError if the data cannot be read or split so; then the former choice stays.
    """
    if name is None:
        return _kept().splits()
    if split not in WAYS:
        raise unknown_name("split", split, WAYS)
    own = Path(name)
    # chapters run in other folders: keep the whole path of a file
    text = str(own.resolve()) if own.exists() or isinstance(name, Path) else str(name)
    chosen = Choice(text, split, seed, target, groups, time)
    parts = chosen.splits()
    if not record.unattended():
        _keep(chosen)
    return parts


def _file() -> Path:
    return home() / "project.json"


def _keep(chosen: Choice) -> None:
    path = _file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(asdict(chosen), indent=1), encoding="utf-8")
        fresh.replace(path)
    except OSError as error:
        raise TrainlabError(
            f"your project cannot be kept in {path} ({error.strerror}): make the folder writable, or set "
            "TRAINLAB_HOME to another one"
        ) from error


def _kept() -> Choice:
    path = _file()
    if record.unattended() or not path.is_file():
        return _STAND_IN
    try:
        chosen = Choice(**json.loads(path.read_text(encoding="utf-8")))
        if chosen.split not in WAYS:
            raise ValueError(chosen.split)
    except (OSError, ValueError, TypeError) as error:
        raise TrainlabError(
            f"{path} cannot be read as a project: choose it again with tl.project(name, split=...)"
        ) from error
    return chosen
