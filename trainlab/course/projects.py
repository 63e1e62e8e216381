"""The project that a learner carries through the course: which data, and how they are split.

Chosen in chapter 01 and kept in `home()/project.json`, so that every later chapter can ask for it:

    project = tl.project("my/patients.csv", target="outcome", groups="patient", split="groups")
    project = tl.project()        # in a later chapter: the same rows in the same three parts

`numbers` makes rows for a network of it, whatever it is: a table, pictures or texts.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.catalogue import load
from ..data.dataset import Dataset, TextDataset
from ..data.splits import Part, Splits, split
from ..errors import TrainlabError, unknown_name
from ..paths import home
from . import record

Rows = tuple[Tensor, Tensor]  # features (N, D), targets (N,)

WORDS = 1000  # of a text, those that stand in most training texts
_WORD = re.compile(r"\w+")

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


def numbers(project: Splits) -> tuple[Rows, Rows, int]:
    """The training and the validation rows as a network takes them, and the number of classes.

    Features are float32, (N, D), on the scale of the training rows: there each column has mean 0 and
    deviation 1 (0 where it is constant), and gaps are filled with the mean.  A picture is flattened; a
    text becomes 0 or 1 for each of the 1,000 words that stand in most training texts.
    Targets are class numbers, (N,); a target of values becomes 1 above the training median, else 0.
    Nothing is learned from the validation part, and the test part is not touched.
    Raises TrainlabError if the parts are of another kind, or a text has no label.
    """
    train, valid = _features(project.train, project.train), _features(project.valid, project.train)
    centre = train.nanmean(0).nan_to_num(0.0)
    train, valid = (torch.where(rows.isnan(), centre, rows) for rows in (train, valid))
    spread = train.std(0)
    train, valid = ((rows - centre) / torch.where(spread > 0, spread, torch.inf) for rows in (train, valid))
    known, asked = (_targets(part) for part in (project.train, project.valid))
    if known.is_floating_point():
        known, asked = ((each > known.median()).long() for each in (known, asked))
    classes = len(getattr(project.train, "classes", ())) or 2
    return (train, known), (valid, asked), classes


def _features(part: Part, train: Part) -> Tensor:
    """(N, D) float32; what stands for a text is decided by the training texts."""
    if isinstance(part, Dataset):
        return part.features.flatten(1).float()
    if not isinstance(part, TextDataset) or not isinstance(train, TextDataset):
        raise TrainlabError(
            f"a project of {type(part).__name__} rows has no numbers: choose one by tl.project(name or path)"
        )
    stands_in = Counter(word for text in train.texts for word in _words(text))
    chosen = [word for word, _ in stands_in.most_common(WORDS)]
    return torch.tensor([[float(word in held) for word in chosen] for held in map(_words, part.texts)])


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.casefold()))


def _targets(part: Part) -> Tensor:
    assert isinstance(part, Dataset | TextDataset)  # `_features` has refused all others
    if not part.targets.is_floating_point() and len(part.targets) and part.targets.min() < 0:
        raise TrainlabError(
            f"{part.name} holds texts without a label: write `label<TAB>text` in each line, or choose "
            "another project for this chapter"
        )
    return part.targets


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
