"""Tables of one's own: a CSV file, its columns told what part they play."""

from __future__ import annotations

import csv
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from ...errors import TrainlabError, unknown_name
from ..dataset import Dataset
from ..tables import MOST_CLASSES, codes, encoded
from .text_file import read_utf8

_FORM = (
    "its first line names the columns, at least two, and every other line has as many values, separated by "
    "commas, semicolons or tabs"
)
_EXACT = 2**24  # float32 knows every whole number up to this one


@dataclass(frozen=True, slots=True)
class Roles:
    """Which columns are no features: what is to be predicted, what belongs together, what came first."""

    target: str | None
    groups: str | None
    time: str | None
    drop: tuple[str, ...]


def read_table(path: Path, roles: Roles) -> Dataset:
    """The table in a file of values separated by commas, semicolons or tabs, its columns named in line 1.

    Raises TrainlabError if a column cannot be told from its values, or its part cannot be played.
    """
    frame = _read_csv(path)
    features = _feature_columns(path, frame, roles)
    values, levels = encoded({name: _feature(name, frame[name]) for name in features})
    targets, classes = _target(frame[roles.target])
    absent = torch.empty(0, dtype=torch.int64)
    groups = absent if roles.groups is None else _groups(frame[roles.groups])
    time = absent if roles.time is None else _time(frame[roles.time])
    _report_missing(values, features)
    return Dataset(path.stem, values, targets, classes, features, groups=groups, time=time, levels=levels)


def _feature_columns(path: Path, frame: pd.DataFrame, roles: Roles) -> tuple[str, ...]:
    if roles.target is None:
        raise TrainlabError(
            f"which column of {path.name} is to be predicted? Say target=..., one of {', '.join(frame)}"
        )
    asked = [name for name in (roles.target, roles.groups, roles.time, *roles.drop) if name is not None]
    for name in asked:
        if name not in frame:
            raise unknown_name("column", name, frame)
        if asked.count(name) > 1:
            raise TrainlabError(f"column {name!r} is named twice: give it one part to play")
    features = tuple(name for name in frame if name not in asked)
    if not features:
        raise TrainlabError(f"{path.name} has no column left to learn from: drop fewer")
    return features


def _read_csv(path: Path) -> pd.DataFrame:
    head = read_utf8(path).partition("\n")[0]
    separator = max(",;\t", key=head.count)
    _refuse_names(path, next(csv.reader([head], delimiter=separator)))
    try:
        with warnings.catch_warnings():
            # it warns where it leaves out values for which there is no name
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                path,
                sep=separator,
                index_col=False,
                encoding="utf-8-sig",
                skipinitialspace=True,
                low_memory=False,
            )
    except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
        raise TrainlabError(f"{path.name} is no table ({str(error).strip()}): {_FORM}") from None
    if len(frame.columns) == 1 or len(frame) == 0:
        raise TrainlabError(
            f"{path.name} is no table ({len(frame)} rows under {len(frame.columns)} names): {_FORM}"
        )
    return frame


def _refuse_names(path: Path, names: list[str]) -> None:
    for place, name in enumerate(names, 1):
        if not name.strip():
            raise TrainlabError(
                f"column {place} of {path.name} has no name: name it in the first line, or delete it where "
                "it only numbers the rows"
            )
        if names.count(name) > 1:
            raise TrainlabError(f"two columns of {path.name} are called {name!r}: give each its own name")


def _feature(name: str, values: pd.Series) -> NDArray[Any]:
    """The column as numbers, or as objects that are categories."""
    if values.dtype.kind in "biuf":
        numbers = values.to_numpy()
        if np.isinf(numbers).any():
            raise TrainlabError(f"column {name!r} holds infinite values: correct them, or leave them empty")
        _refuse_inexact(name, numbers)
        return numbers
    texts = values.dropna().astype(str)
    _refuse_mixed(name, texts)
    different = texts.nunique()
    if different > MOST_CLASSES and different > len(values) / 2:
        raise TrainlabError(
            f"column {name!r} holds {different} different texts in {len(values)} rows, too many for "
            "categories: leave it out with drop=..., or say what it is with groups=... or time=..."
        )
    return values.astype(object).to_numpy()


def _refuse_inexact(name: str, numbers: NDArray[Any]) -> None:
    if numbers.dtype.kind in "iu" and len(numbers) and np.abs(numbers.astype(np.float64)).max() > _EXACT:
        different = len(np.unique(numbers))
        if len(np.unique(numbers.astype(np.float32))) < different:
            raise TrainlabError(
                f"column {name!r} holds whole numbers up to {numbers.max()}, which float32 cannot tell "
                "apart: leave it out with drop=..., or say what it is with groups=... or time=..."
            )


def _refuse_mixed(name: str, texts: pd.Series) -> None:
    """Numbers that were read as texts: with commas in them, or with a few words among them."""
    if len(texts) and texts.str.fullmatch(r"-?\d[\d.]*,[\d.,]*\d|-?\d+").all():
        comma = texts[texts.str.contains(",")].iloc[0]
        raise TrainlabError(
            f"column {name!r} holds numbers with a comma, such as {comma!r}: write a point before the "
            "decimals, and nothing between the thousands"
        )
    odd = texts[pd.to_numeric(texts, errors="coerce").isna()]
    if 0 < len(odd) < len(texts) / 2:
        raise TrainlabError(
            f"column {name!r} holds numbers, but not in {len(odd)} rows, such as {odd.iloc[0]!r}: correct "
            "these, or leave them empty"
        )


def _report_missing(features: torch.Tensor, columns: tuple[str, ...]) -> None:
    missing = features.isnan()
    if not missing.any():
        return
    counts = missing.sum(0).tolist()
    where = ", ".join(f"{name} {count}" for name, count in zip(columns, counts) if count)
    warnings.warn(
        f"values are missing in {int(missing.any(1).sum())} of {len(features)} rows ({where}) and stay NaN. "
        "Leave these rows out: data.subset(~data.features.isnan().any(1)). Or split first, then fill every "
        "part with statistics of the training part.",
        stacklevel=5,  # the line that calls `load`
    )


def _target(values: pd.Series) -> tuple[torch.Tensor, tuple[str, ...]]:
    """Texts, booleans and few different whole numbers are classes, other numbers are values."""
    _refuse_missing("the target", values)
    different = values.nunique()
    if different < 2:
        raise TrainlabError(f"the target is {str(values.iloc[0])!r} in every row: nothing is to predict")
    if values.dtype.kind in "iuf":
        numbers = values.to_numpy(dtype=np.float64)
        if np.isinf(numbers).any():
            raise TrainlabError("the target holds infinite values: correct them, or delete these rows")
        if different > MOST_CLASSES or (numbers != np.round(numbers)).any():
            return torch.from_numpy(numbers.astype(np.float32)), ()
        names, places = np.unique(numbers.astype(np.int64), return_inverse=True)
        return torch.from_numpy(places.astype(np.int64)), tuple(str(name) for name in names)
    _refuse_mixed("target", values.astype(str))
    if different > MOST_CLASSES and different > len(values) / 2:
        raise TrainlabError(
            f"the target {str(values.name)!r} holds {different} different texts in {len(values)} rows: "
            "a class needs several rows"
        )
    labels, classes = codes(values.astype(object).to_numpy())
    return torch.from_numpy(labels.astype(np.int64)), classes


def _groups(values: pd.Series) -> torch.Tensor:
    _refuse_missing("the group", values)
    if values.dtype.kind in "iu":
        return torch.from_numpy(values.to_numpy(dtype=np.int64, copy=True))
    return torch.from_numpy(codes(values.astype(object).to_numpy())[0].astype(np.int64))


def _time(values: pd.Series) -> torch.Tensor:
    """Numbers as they are, dates as days since the first."""
    _refuse_missing("the time", values)
    if values.dtype.kind in "iu":
        return torch.from_numpy(values.to_numpy(dtype=np.int64, copy=True))
    if values.dtype.kind == "f":
        return torch.from_numpy(values.to_numpy(dtype=np.float64, copy=True))
    try:
        moments = np.array(values.astype(str).tolist(), dtype="datetime64[us]")
    except ValueError:
        raise TrainlabError(
            f"column {str(values.name)!r} holds {str(values.iloc[0])!r}: write dates as year-month-day, such "
            "as 2025-12-31, which can be read in one way only"
        ) from None
    days = (moments - moments.min()) / np.timedelta64(1, "D")
    return torch.from_numpy(days.astype(np.int64) if (days == np.round(days)).all() else days)


def _refuse_missing(part: str, values: pd.Series) -> None:
    if missing := int(values.isna().sum()):
        raise TrainlabError(
            f"{part} {str(values.name)!r} is missing in {missing} of {len(values)} rows, the first is row "
            f"{int(values.isna().to_numpy().argmax())}: fill it in, or delete these rows"
        )
