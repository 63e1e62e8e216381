"""Groups by their names or by a column that betrays them, and times as numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import TrainlabError
from .parts import Array, Part

TELLING = 20  # different values a column needs before it can name somebody
HEAPED = 0.7  # share of the different values that chance would give, below which a column is heaped
SAME = 0.75  # distance of two rows with one value, as a share of that of rows with neighbouring values


def comparable(first: Array, second: Array) -> tuple[Array, Array, bool]:
    """The groups' names of two parts, and whether they had to be spelt alike to have any in common."""
    numbers = all(names.dtype.kind in "iufb" for names in (first, second))
    a, b = (names if numbers else np.array([str(name) for name in names]) for names in (first, second))
    if numbers or np.isin(a, b).any():
        return a, b, False
    return _spelt_alike(a), _spelt_alike(b), True


def _spelt_alike(values: Array) -> Array:
    """Names without case, punctuation and leading zeros: "P-007" and "p7" are one."""
    plain = [re.sub(r"[\W_]+", "", str(value).casefold()) for value in values]
    return np.array([re.sub(r"(?<!\d)0+(?=\d)", "", name) for name in plain], dtype=np.str_)


# --- a column that names somebody -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """A column whose values name somebody.

    alike: the distance of rows of one value in the other columns, as a share of that of rows with
    neighbouring values.  possible: how many values so fine a column could take.
    """

    column: int
    alike: float
    possible: float


def fingerprints(parts: list[Part]) -> Iterator[Fingerprint]:
    """Columns in which rows share uncommon values, and are alike elsewhere where they share them."""
    filled = [part for part in parts if len(part)]
    table = np.concatenate([part.values for part in filled]).astype(np.float64)
    spread = np.nanstd(np.where(np.isfinite(table), table, 0.0), axis=0)
    scaled = np.nan_to_num(table / np.where(spread > 0, spread, 1.0))
    codes = frozenset().union(*(part.codes for part in filled))
    for column in range(table.shape[1]):
        values = np.round(table[:, column], 9)
        possible = 0.0 if column in codes else _possible_if_heaped(values)
        if possible and (alike := _alike(values, np.delete(scaled, column, axis=1))) < SAME:
            yield Fingerprint(column, alike, possible)


def _possible_if_heaped(values: Array) -> float:
    """How many values a column could take if it repeats a few of very many; 0 if its heaps are by chance."""
    known = values[np.isfinite(values)]
    distinct, sizes = np.unique(known, return_counts=True)
    if len(distinct) < TELLING or np.median(sizes) < 2 or sizes.max() > len(values) / 5:
        return 0.0
    # spread the same rows evenly between the quartiles over the steps that the column can take
    low, high = np.quantile(known, (0.25, 0.75))
    inside = known[(known >= low) & (known <= high)]
    possible = max((high - low) / np.diff(distinct).min(), 1.0)
    expected = possible * -np.expm1(-len(inside) / possible)
    return 2 * possible if len(np.unique(inside)) < HEAPED * expected else 0.0


def _alike(values: Array, others: Array) -> float:
    """Middle distance of rows that share a value, over that of rows with neighbouring values."""
    if others.shape[1] == 0:
        return 1.0
    order = np.argsort(values, kind="stable")
    names, start, size = np.unique(values[order], return_index=True, return_counts=True)
    first = order[start]
    has = size > 1
    mates = order[start + size // 2]
    after = np.roll(first, -1)
    own = np.abs(others[first] - others[mates])[has].mean(1)
    near = np.abs(others[first] - others[after])[has & (np.arange(len(names)) < len(names) - 1)].mean(1)
    return float(np.median(own) / max(float(np.median(near)), 1e-12))


# --- time --------------------------------------------------------------------------------------------


def as_times(columns: list[Array | None]) -> list[Array | None]:
    """Times of all parts as numbers that can be compared: numbers as they are, dates by their moment.

    Raises TrainlabError for words that are no dates, and for dates in which day and month may be swapped.
    """
    known = [column for column in columns if column is not None and len(column)]
    if not known or all(column.dtype.kind in "iuf" for column in known):
        return columns
    if all(column.dtype.kind == "M" for column in known):
        return [
            None if column is None else column.astype("datetime64[ns]").astype(np.int64) for column in columns
        ]
    words = [[str(value).strip() for value in column] for column in known]
    pooled = _as_numbers([word for column in words for word in column])
    cuts = iter(np.split(pooled, np.cumsum([len(column) for column in words])[:-1]))
    return [next(cuts) if column is not None and len(column) else column for column in columns]


def _as_numbers(words: list[str]) -> Array:
    try:
        return np.array([float(word) for word in words])
    except ValueError:
        pass
    import pandas as pd  # slow to import, and only needed here

    fields = [re.match(r"(\d{1,2})\D(\d{1,2})\D\d{2,4}\b", word) for word in words]
    days = [(int(match[1]), int(match[2])) for match in fields if match]
    day_first = any(day > 12 for day, _ in days)
    if days and not day_first and not any(month > 12 for _, month in days):
        raise TrainlabError(
            f"time {words[0]!r} may mean day or month first: give dates as year-month-day, such as "
            "'2016-07-01'"
        )
    try:
        moments: Any = pd.to_datetime(words, format="mixed", dayfirst=day_first, utc=True)
    except (ValueError, TypeError):
        raise TrainlabError(
            f"time holds {words[0]!r}, which is no number and no date: give numbers or dates such as "
            "'2016-07-01'"
        ) from None
    return np.asarray(moments.as_unit("ns").asi8, dtype=np.int64)
