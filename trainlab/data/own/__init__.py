"""The learner's own data: a CSV file, a folder of images, or a text file, as a data set.

Nothing is guessed in silence. What could be read in two ways is refused, and the message says how to
write it so that it can be read in one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import TrainlabError
from ..dataset import Dataset, TextDataset

TABLES = (".csv", ".tsv")
TEXTS = (".txt",)


@dataclass(frozen=True, slots=True)
class Reading:
    """How a file is to be read: the arguments of `load` beside the path."""

    target: str | None = None
    groups: str | None = None
    time: str | None = None
    drop: Sequence[str] = ()
    size: int | tuple[int, int] | None = None

    def given(self) -> list[str]:
        """The names of the arguments that were given."""
        values = {name: getattr(self, name) for name in ("target", "groups", "time", "drop", "size")}
        return [name for name, value in values.items() if value is not None and value != ()]


def read_own(path: Path, reading: Reading) -> Dataset | TextDataset:
    """The data set in a file or a folder; see `load`.

    Raises TrainlabError if it cannot be read, or could be read in more than one way.
    """
    if not path.exists():
        raise TrainlabError(
            f"there is no file or folder {str(path)!r} in {Path.cwd()}: give its full path, or one from there"
        )
    if path.is_dir():
        _refuse_given(path, reading, ("size",), "a folder of images")
        from .image_folder import read_images  # each kind brings a library, and only one is needed

        return read_images(path, reading.size)
    kind = path.suffix.lower()
    if kind in TABLES:
        _refuse_given(path, reading, ("target", "groups", "time", "drop"), "a table")
        from .table_file import Roles, read_table

        dropped = (reading.drop,) if isinstance(reading.drop, str) else tuple(reading.drop)
        return read_table(path, Roles(reading.target, reading.groups, reading.time, dropped))
    if kind in TEXTS:
        _refuse_given(path, reading, (), "a text")
        from .text_file import read_texts

        return read_texts(path)
    raise TrainlabError(
        f"{path.name} is none of {', '.join(TABLES + TEXTS)} and no folder: save a table as CSV (UTF-8), "
        "a text as .txt, and put images into one folder for each class"
    )


def _refuse_given(path: Path, reading: Reading, known: tuple[str, ...], kind: str) -> None:
    if strange := [name for name in reading.given() if name not in known]:
        raise TrainlabError(f"{path.name} is {kind}, which knows no {' or '.join(strange)}: leave it out")
