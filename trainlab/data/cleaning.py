"""`quality`: what is wrong with the data before anything is learned from it, in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import TrainlabError
from .leaks.neighbours import Floats, nearest
from .leaks.parts import Array, Part, read_part
from .leaks.report import INK, html_table
from .leaks.rows import row_keys
from .leaks.texts import words_of

FAR_OUT = 3.5  # robust deviations from the median beyond which a value is an outlier
CODED = 10  # different values up to which a column is a code and has no outliers
SENTINELS = (-1.0, -9.0, -99.0, -999.0, -9999.0, 99.0, 999.0, 9999.0, 99999.0)
NEIGHBOURS = 10
CONFIDENT = 9  # of these neighbours must agree on another class before a label is doubted
MOST = 10_000  # rows whose labels are held against their neighbours
EXAMPLES = 5

OUTLIER_RULE = "further than 3.5 times 1.4826 MAD from the median (Iglewicz & Hoaglin, 1993)"
RARE = 0.1  # share of the commonest class below which a class always lies among others, and is not doubted

DOUBT_RULE = "at least 9 of the 10 nearest other rows carry one and the same other class"


@dataclass(frozen=True, slots=True)
class ColumnQuality:
    """One column: how many values are missing or outliers, whether it is constant, what else is odd.

    Of images and texts the columns are properties of a row: brightness and contrast, or words.
    """

    name: str
    missing: int
    constant: bool
    outliers: int
    suspicious: tuple[str, ...]


@dataclass(frozen=True, slots=True, repr=False)
class QualityReport:
    """The state of a data set: shows itself as text or as a table.

    rows, features: its size.  duplicates: rows that equal an earlier one, target included.
    inconsistent: rows whose features occur with another target too.  doubtful: numbers of the rows whose
    label their neighbours doubt, in order; None where that was not tried.  classes: rows of each class.
    """

    name: str
    rows: int
    features: int
    columns: tuple[ColumnQuality, ...]
    duplicates: int
    inconsistent: int
    doubtful: tuple[int, ...] | None
    classes: dict[str, int]

    @property
    def rows_per_feature(self) -> float:
        """How many rows there are for each feature: below some ten, expect a model to memorise."""
        return self.rows / max(self.features, 1)

    @property
    def balance(self) -> float:
        """Rows of the rarest class for each row of the commonest; 1 where there are no classes."""
        return min(self.classes.values()) / max(self.classes.values()) if self.classes else 1.0

    def lines(self) -> tuple[tuple[str, str, str], ...]:
        """What was looked at, what was found, and what to do about it: one line for each."""
        return (*self._of_rows(), *self._of_columns())

    def _of_rows(self) -> Iterator[tuple[str, str, str]]:
        wide = self.rows_per_feature < 10
        yield (
            "volume",
            f"{self.rows} rows, {self.rows_per_feature:.3g} for each feature",
            "fewer features, or a model that is held back" if wide else "",
        )
        if self.classes:
            rare, common = (pick(self.classes, key=self.classes.__getitem__) for pick in (min, max))
            yield (
                "classes",
                f"{common} {self.classes[common] / self.rows:.1%} to {rare} "
                f"{self.classes[rare] / self.rows:.1%}",
                "split(..., stratify=True), and no accuracy as the metric" if self.balance < 0.2 else "",
            )
        yield (
            "duplicates",
            f"{self.duplicates} rows equal an earlier one",
            "keep one of each, or keep them on one side of a split" if self.duplicates else "",
        )
        yield (
            "inconsistent",
            f"{self.inconsistent} rows have features that occur with another target too",
            "look at them: a missing column, or a wrong target" if self.inconsistent else "",
        )
        if self.doubtful is None:
            yield "labels", "not held against their neighbours", ""
        else:
            some = ", ".join(str(row) for row in self.doubtful[:EXAMPLES])
            yield (
                "labels",
                f"{len(self.doubtful)} are doubted: {DOUBT_RULE}{f' (rows {some})' if some else ''}",
                "look at each before you change it: it may be right and rare" if self.doubtful else "",
            )

    def _of_columns(self) -> Iterator[tuple[str, str, str]]:
        missing = [column for column in self.columns if column.missing]
        yield (
            "missing",
            _listed(missing, "missing"),
            "fill with what train gives, and say so" if missing else "",
        )
        constant = [column.name for column in self.columns if column.constant]
        yield "constant", ", ".join(constant[:EXAMPLES]) or "none", "drop them" if constant else ""
        odd = [column for column in self.columns if column.outliers]
        yield (
            "outliers",
            f"{_listed(odd, 'outliers')}: {OUTLIER_RULE}",
            "errors or the rare case? ask" if odd else "",
        )
        strange = [f"{column.name}: {what}" for column in self.columns for what in column.suspicious]
        yield (
            "suspicious",
            "; ".join(strange) or "none",
            "make them missing, or one spelling" if strange else "",
        )

    def __str__(self) -> str:
        rows = [
            f"{name:13}{found}{f'  -> {remedy}' if remedy else ''}" for name, found, remedy in self.lines()
        ]
        return "\n".join([f"Quality of {self.name}", *rows])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f'<p style="{INK}"><b>Quality of the data</b></p>' + html_table(
            ("looked at", "found", "what to do"), self.lines()
        )


def quality(dataset: Any) -> QualityReport:
    """What is missing, constant, far out, repeated, contradictory or doubtful in a data set, in numbers.

    dataset: a data set of tables, images or texts, or a pair (features, targets).  Nothing is changed.
    Outliers are judged in measured columns only, doubts about labels in tables and images with classes.
    Raises TrainlabError if the data set is empty or is none of these.
    """
    part = read_part("data", dataset)
    if len(part) == 0:
        raise TrainlabError("the data set is empty (0 rows): there is nothing to look at")
    keys = _keys(part)
    duplicates, inconsistent = _repeats(part, keys)
    targets = part.targets
    names = tuple(getattr(dataset, "classes", ()))
    labels = targets if targets is not None and targets.ndim == 1 and targets.dtype.kind in "iub" else None
    return QualityReport(
        str(getattr(dataset, "name", "the data")),
        len(part),
        1 if part.kind == "texts" else part.values[0].size,
        tuple(_columns(part, getattr(dataset, "levels", {}))),
        duplicates,
        inconsistent,
        None if labels is None or part.kind == "texts" else _doubtful(part, keys, labels),
        {} if labels is None else _counts(labels, names),
    )


def _counts(labels: Array, names: tuple[str, ...]) -> dict[str, int]:
    counts = Counter(labels.tolist())
    known = {name: counts.pop(label, 0) for label, name in enumerate(names)}
    return known | {str(label): count for label, count in sorted(counts.items())}


def _keys(part: Part) -> Array:
    """One number for each row's features, (N,)."""
    if part.kind == "texts":
        return np.array([hash(words_of(str(text))) for text in part.values])
    return row_keys(part.values.reshape(len(part), -1).astype(np.float64))


def _repeats(part: Part, keys: Array) -> tuple[int, int]:
    """How many rows equal an earlier one, target included; how many have features with two targets."""
    targets = (
        np.zeros(len(part)) if part.targets is None else part.targets.reshape(len(part), -1).astype(float)
    )
    both = keys ^ row_keys(targets.reshape(len(part), -1)).astype(keys.dtype)
    first: dict[int, int] = {}
    differs: set[int] = set()
    for key, whole in zip(keys.tolist(), both.tolist()):
        if first.setdefault(key, whole) != whole:
            differs.add(key)
    return len(both) - len(np.unique(both)), int(np.isin(keys, list(differs)).sum()) if differs else 0


# --- columns -----------------------------------------------------------------------------------------


def _columns(part: Part, levels: Any) -> Iterator[ColumnQuality]:
    if part.kind == "texts":
        words = np.array([len(words_of(str(text))) for text in part.values], dtype=np.float64)
        yield _column("words", np.where(words > 0, words, np.nan), ())
        return
    if part.kind == "images":
        flat = part.values.reshape(len(part), -1).astype(np.float64)
        yield _column("brightness", flat.mean(1), ())
        spread = flat.std(1)
        blank = int((spread == 0).sum())
        yield _column("contrast", spread, (f"{blank} blank pictures",) if blank else ())
        return
    for place, column in enumerate(part.values.T.astype(np.float64)):
        name = part.columns[place] if part.columns else f"column {place}"
        names = tuple(levels.get(name, ()))
        yield _column(name, column, _spellings(names), coded=bool(names))


def _column(name: str, values: Floats, odd: tuple[str, ...], *, coded: bool = False) -> ColumnQuality:
    known = values[np.isfinite(values)]
    distinct = np.unique(known)
    missing = len(values) - len(known)
    if coded or len(distinct) <= CODED:
        return ColumnQuality(name, missing, len(distinct) < 2, 0, odd)
    middle = np.median(known)
    away = np.abs(known - middle)
    # more than half of the values alike: the mean deviation takes the place of the median one
    unit = 1.4826 * np.median(away) or 1.2533 * away.mean()
    outliers = known[away > FAR_OUT * unit]
    odd = (*odd, *_sentinels(known, outliers))
    return ColumnQuality(name, missing, False, len(outliers), odd)


def _sentinels(known: Floats, outliers: Floats) -> Iterator[str]:
    """Numbers that often stand for a missing value, repeated where they do not belong."""
    for value in SENTINELS:
        count = int((known == value).sum())
        rest = known[known != value]
        negative = value < 0 and len(rest) and rest.min() >= 0
        if count >= 2 and (negative or (value in outliers and value in (known.min(), known.max()))):
            yield f"{count} times {value:g}, which often stands for missing"


def _spellings(names: tuple[str, ...]) -> tuple[str, ...]:
    """Categories that differ in case and spaces only."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(" ".join(name.casefold().split()), []).append(name)
    return tuple(f"spelt in {len(ways)} ways: {ways}" for ways in alike.values() if len(ways) > 1)


# --- labels ------------------------------------------------------------------------------------------


def _doubtful(part: Part, keys: Array, labels: Array) -> tuple[int, ...] | None:
    """Rows whose nearest other rows agree on another class: leave one out, ask those near it.

    Equal rows count once, for a copy would vouch for its own label.
    """
    only = np.sort(np.unique(keys, return_index=True)[1])
    if len(only) <= 2 * NEIGHBOURS or len(np.unique(labels)) < 2:
        return None
    flat = part.values[only].reshape(len(only), -1).astype(np.float64)
    if part.kind == "table":
        middle = np.nanmedian(np.where(np.isfinite(flat).any(0), flat, 0.0), axis=0)
        flat = np.where(np.isfinite(flat), flat, middle)
        spread = flat.std(0)
        flat = (flat - flat.mean(0)) / np.where(spread > 0, spread, 1.0)
    asked = np.arange(len(only))[:: -(-len(only) // MOST)]
    _, near = nearest(flat[asked], flat, NEIGHBOURS + 1)
    values, counts = np.unique(labels, return_counts=True)
    rare = set(values[counts < RARE * counts.max()].tolist())
    found = []
    for place, around in zip(asked, near):
        said = Counter(labels[only[around[around != place][:NEIGHBOURS]]].tolist())
        label, votes = said.most_common(1)[0]
        if votes >= CONFIDENT and labels[only[place]] not in {label, *rare}:
            found.append(int(part.rows[only[place]]))
    return tuple(found)


def _listed(columns: list[ColumnQuality], field: str) -> str:
    named = sorted(columns, key=lambda column: -getattr(column, field))[:EXAMPLES]
    more = f" and {len(columns) - EXAMPLES} more columns" if len(columns) > EXAMPLES else ""
    return ", ".join(f"{column.name} {getattr(column, field)}" for column in named) + more or "none"
