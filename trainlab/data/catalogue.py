"""The catalogue of real data sets: one card each, and the arrays that a card stands for.

A card is a TOML file that says what the data is, which package carries it, under which licence,
and what to beware of. `load` fetches on first use, converts, and keeps the arrays in the cache.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import unknown_name
from .dataset import Dataset
from .fetch import Source, cache_folder, package_file, read_member, workspace

if TYPE_CHECKING:
    import pandas as pd

# Part of the name of every cached file: raise it when a reader below changes what it returns.
_LAYOUT = 1


@dataclass(frozen=True, slots=True)
class Card:
    """What is known about one data set.

    kind: "images" or "table".  rows: how many there are.  reader: which of this module's readers
    turns the source into arrays.  splits: the split that is advised, and why.
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


def load(name: str | Card) -> Dataset:
    """The data set of that name, fetched and converted on first use, from the cache afterwards.

    name: one of `datasets().index`, or a card of your own.
    Raises TrainlabError if the name is unknown, or if its package can neither be found in the cache
    nor be fetched.
    """
    card = _card(name)
    if card.source.installed:
        return _READERS[card.reader](card)
    path = _arrays_path(card)
    stored = _read_arrays(card, path)
    if stored is not None:
        return stored
    dataset = _READERS[card.reader](card)
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


def _card(name: str | Card) -> Card:
    if isinstance(name, Card):
        return name
    known = cards()
    if name not in known:
        raise unknown_name("data set", name, known)
    return known[name]


def _arrays_path(card: Card) -> Path:
    key = hashlib.sha256(f"{_LAYOUT} {card.reader} {card.source.sha256} {card.source.member}".encode())
    return cache_folder() / f"{card.name}-{key.hexdigest()[:12]}.npz"


def _write_arrays(dataset: Dataset, path: Path) -> None:
    arrays = {
        "features": dataset.features.numpy(),
        "targets": dataset.targets.numpy(),
        "classes": np.array(dataset.classes, dtype=np.str_),
        "columns": np.array(dataset.columns, dtype=np.str_),
    }
    with workspace(sum(array.nbytes for array in arrays.values())) as folder:
        finished = folder / "arrays.npz"
        np.savez(finished, allow_pickle=False, **arrays)
        finished.replace(path)


def _read_arrays(card: Card, path: Path) -> Dataset | None:
    """The data set in a cached file; None if there is no such file or it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return Dataset(
                card.name,
                torch.from_numpy(arrays["features"]),
                torch.from_numpy(arrays["targets"]),
                tuple(arrays["classes"].tolist()),
                tuple(arrays["columns"].tolist()),
            )
    # The zip's checksums find any damage, but a damaged zip raises almost anything (RuntimeError for a
    # flipped bit that says "encrypted"), and whatever it was, the arrays can be made again.
    except Exception:
        return None


def _digits(card: Card) -> Dataset:
    """scikit-learn's digits: pixels 0 to 16, as images scaled to 0..1."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).float().view(-1, 1, 8, 8) / 16  # (N,64) -> (N,1,8,8)
    return Dataset(card.name, images, torch.from_numpy(labels).long(), _DIGIT_NAMES)


def _breast_cancer(card: Card) -> Dataset:
    """scikit-learn's breast cancer table, in its own units."""
    from sklearn.datasets import load_breast_cancer

    table = load_breast_cancer()
    return Dataset(
        card.name,
        torch.from_numpy(table.data).float(),
        torch.from_numpy(table.target).long(),
        tuple(table.target_names.tolist()),
        tuple(table.feature_names.tolist()),
    )


def _digit_csv(card: Card) -> Dataset:
    """A gzipped CSV of 28x28 digits: 784 pixels from 0 to 255, then the label; scaled to 0..1."""
    content = gzip.decompress(read_member(package_file(card.source), card.source.member))
    table = torch.from_numpy(np.loadtxt(io.BytesIO(content), delimiter=",", dtype=np.uint8, ndmin=2))
    images = table[:, :-1].reshape(-1, 1, 28, 28).float() / 255  # (N,784) -> (N,1,28,28)
    return Dataset(card.name, images, table[:, -1].long(), _DIGIT_NAMES)


_DIGIT_NAMES = tuple("0123456789")
_READERS: dict[str, Callable[[Card], Dataset]] = {
    "digits": _digits,
    "breast_cancer": _breast_cancer,
    "digit_csv": _digit_csv,
}
