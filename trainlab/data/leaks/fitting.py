"""Statistics fitted on more than the training part: of a fitted transformer, or left in the data."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np

from ...errors import TrainlabError
from .parts import Array, Part

EXACT = 1e-5  # relative difference up to which two statistics are the same number
MEASURED = 20  # different values from which a column's mean and range are worth comparing

Statistics = dict[str, Array]
_OF_ALL_FITS = ("feature_names_in_", "n_features_in_")  # the same whatever rows were seen


def fitted_on(fitted: Any, parts: list[Part]) -> tuple[tuple[str, ...], int]:
    """The names of the parts that a fitted transformer learnt from, and how many numbers betray it.

    Empty names: it shows no statistics, or they are those of no choice of parts with train among them.
    Raises TrainlabError if it is not fitted, does not transform, or cannot be fitted on these rows.
    """
    from sklearn.base import clone  # slow to import, and only needed here

    fitted = _without_predictor(fitted)
    own = _statistics(fitted)
    if not own:
        return (), 0
    filled = [part for part in parts if len(part)]
    train, others = filled[0], filled[1:]
    baseline: Statistics = {}
    for size in range(len(others) + 1):
        for chosen in combinations(others, size):
            seen = [train, *chosen]
            try:
                other = _statistics(_fit(clone(fitted), seen))
            except Exception as reason:
                raise TrainlabError(
                    f"fitted={type(fitted).__name__} cannot be fitted on the training part ({reason}): "
                    "give parts "
                    "whose rows are as it took them in"
                ) from reason
            baseline = baseline or other
            if _differences(own, other) == 0:
                return tuple(part.name for part in seen), _differences(own, baseline)
    return (), _differences(own, baseline)


def _without_predictor(fitted: Any) -> Any:
    from sklearn.exceptions import NotFittedError
    from sklearn.pipeline import Pipeline
    from sklearn.utils.validation import check_is_fitted

    if isinstance(fitted, Pipeline) and not hasattr(fitted.steps[-1][1], "transform"):
        fitted = fitted[:-1]
    if not hasattr(fitted, "transform") or not hasattr(fitted, "fit"):
        raise TrainlabError(
            f"fitted is a {type(fitted).__name__}, which transforms nothing: give a scaler, imputer, "
            "selector or "
            "pipeline by scikit-learn's convention"
        )
    try:
        check_is_fitted(fitted)
    except NotFittedError:
        raise TrainlabError(f"fitted={type(fitted).__name__} is not fitted yet: fit it, then ask") from None
    return fitted


def _fit(transformer: Any, parts: list[Part]) -> Any:
    values = np.concatenate([part.values for part in parts])
    rows = list(values) if parts[0].kind == "texts" else values.reshape(len(values), -1)
    targets = [part.targets for part in parts if part.targets is not None]
    return transformer.fit(rows, np.concatenate(targets) if len(targets) == len(parts) else None)


def _statistics(fitted: Any, path: str = "") -> Statistics:
    """Every number and word that a transformer and its parts learnt, by name."""
    found: Statistics = {}
    for name, value in vars(fitted).items():
        if name in ("steps", "transformers_", "transformer_list", "_tfidf"):
            inner = [("", value)] if name == "_tfidf" else [(step[0], step[1]) for step in value]
            for label, step in inner:
                found |= _statistics(step, f"{path}{name}.{label}.") if hasattr(step, "fit") else {}
        elif name == "_fit_X" or (
            name.endswith("_") and not name.startswith("_") and name not in _OF_ALL_FITS
        ):
            values = sorted(value) if isinstance(value, dict) else value
            for place, each in enumerate(
                values if isinstance(values, list) and name[:1] == "c" else [values]
            ):
                array = np.asarray(each)
                if array.dtype.kind in "iufbUS":
                    # the sign of a component is a matter of taste
                    found[f"{path}{name}{place}"] = np.abs(array) if name == "components_" else array
    return found


def _differences(own: Statistics, other: Statistics) -> int:
    """In how many numbers two fits differ; where they have other shapes, at least in one."""
    worst = 0
    for name, mine in own.items():
        theirs = other.get(name)
        if theirs is None or theirs.shape != mine.shape:
            worst = max(worst, 1)
        elif mine.dtype.kind in "US":
            worst = max(worst, int((mine != theirs).sum()))
        else:
            size = np.abs(np.nan_to_num(mine)).max(initial=0.0)
            apart = ~np.isclose(mine, theirs, rtol=EXACT, atol=EXACT * 1e-2 * size + 1e-12, equal_nan=True)
            worst = max(worst, int(apart.sum()))
    return worst


# --- without a transformer: what it leaves in the data ---------------------------------------------------


def traces(parts: list[Part]) -> Iterator[tuple[str, int]]:
    """Marks of statistics of all parts together, in tables: what was done, and in how many columns."""
    filled = [part for part in parts if len(part)]
    whole = np.concatenate([part.values for part in filled]).astype(np.float64)
    columns = [
        (column, column[: len(filled[0])])
        for column in whole.T
        if np.isfinite(column).all() and len(np.unique(column)) >= MEASURED
    ]
    standard = [not _standard(train) for column, train in columns if _standard(column)]
    if len(standard) * 2 > len(columns) and any(standard):
        yield "mean 0 and spread 1", sum(standard)
    for low, high in ((0.0, 1.0), (-1.0, 1.0)):
        ranged = [
            (_spans(train, low, high), _ends(column))
            for column, train in columns
            if _spans(column, low, high)
        ]
        lost = sum(not spans for spans, _ in ranged)
        if lost and len(ranged) == len(columns) and np.median([ends for _, ends in ranged]) <= 2:
            yield f"range exactly {low:g} to {high:g}", lost
    filled_in = sum(_filled_from_all(column, train) for column, train in columns)
    if filled_in:
        yield "gaps filled with the mean or median", filled_in


def _standard(column: Array) -> bool:
    """Mean 0 and spread 1 to the rounding of float32, by either convention."""
    spread = column.std()
    corrected = spread * np.sqrt(len(column) / max(len(column) - 1, 1))
    return bool(abs(column.mean()) < EXACT and min(abs(spread - 1), abs(corrected - 1)) < EXACT)


def _spans(column: Array, low: float, high: float) -> bool:
    return bool(abs(column.min() - low) < EXACT * 1e-1 and abs(column.max() - high) < EXACT * 1e-1)


def _ends(column: Array) -> int:
    """How many rows share the commoner end of the range: a natural bound holds many."""
    return int(max((column == column.min()).sum(), (column == column.max()).sum()))


def _filled_from_all(column: Array, train: Array) -> bool:
    """Whether one value stands out in number and is the mean or median of all other rows, not of train's."""
    values, counts = np.unique(column, return_counts=True)
    value = values[counts.argmax()]
    if counts.max() < max(3, 3 * np.median(counts)):
        return False
    rest, known = column[column != value], train[train != value]
    scale = EXACT * 1e-1 * max(float(rest.std()), 1e-300)
    if len(known) == 0 or np.median(counts) > 1:
        return False
    return any(
        abs(middle(rest) - value) < scale + 1e-7 * abs(value) and abs(middle(known) - value) > 100 * scale
        for middle in (np.mean, np.median)
    )
