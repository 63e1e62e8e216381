"""What a run says of itself: the events of its stream, and the history that collects them."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from .errors import TrainlabError, unknown_name

if TYPE_CHECKING:
    import pandas as pd

Scalar = float | Tensor
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step, as it is yielded: `.grad` still holds the gradients it used.

    step: optimizer steps so far, from 1.  epoch: the epoch it belongs to, from 1.
    loss: mean over the items of the step, measured *before* its update (a detached scalar;
    `float(event.loss)` waits for the device).
    lr: the learning rate of the first parameter group, as applied.
    grad_norm: Euclidean norm of all gradients before clipping, or None where it was not asked for.
    seconds: wall-clock time of this step, loading included.  samples: rows in this step.
    metrics: mean over the items of whatever else the loss function returned.
    total: the step at which the run will end, where that is known beforehand.
    """

    step: int
    epoch: int
    loss: Scalar
    lr: float
    grad_norm: Scalar | None
    seconds: float
    samples: int
    metrics: Mapping[str, Scalar] = field(default_factory=dict)
    total: int | None = None


@dataclass(frozen=True, slots=True)
class Validation:
    """One pass over the validation data.  metrics: `loss` and whatever the loss function measures."""

    step: int
    epoch: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Changed:
    """A control that was changed by hand: `value` holds from step `step` on."""

    step: int
    control: str
    value: float | None


@dataclass(frozen=True, slots=True)
class Restarted:
    """The run went back: what came after step `step` no longer counts.  attempt: from 1."""

    attempt: int
    step: int


Event = Step | Validation | Changed | Restarted


class _Stop:
    def __repr__(self) -> str:
        return "STOP"


STOP: Final = _Stop()
"""What an observer returns to end the run after the current event."""

_KINDS: dict[type, str] = {
    Step: "step",
    Validation: "validation",
    Changed: "changed",
    Restarted: "restarted",
}

_PLAIN_FIELDS = {
    kind: tuple(part.name for part in fields(kind) if part.name != "metrics")
    for kind in (Step, Validation, Changed, Restarted)
}
_PLAIN_VALUES = {kind: attrgetter(*names) for kind, names in _PLAIN_FIELDS.items()}
_PLAIN_TYPES = {int, float, str, type(None)}


def event_row(event: Event) -> Row:
    """An event as a flat row of plain values, `event` naming its kind.

    Metrics become columns; those of a validation are prefixed with `valid_`.
    """
    kind = type(event)
    row: Row = {"event": _KINDS[kind]}
    for name, value in zip(_PLAIN_FIELDS[kind], _PLAIN_VALUES[kind](event)):
        row[name] = value if type(value) in _PLAIN_TYPES else _plain(value)
    if isinstance(event, Step | Validation):
        prefix = "valid_" if kind is Validation else ""
        for name, metric in event.metrics.items():
            row[prefix + name] = _plain(metric)
    return row


def json_row(row: Row) -> Row:
    """A row with null for what JSON cannot say: NaN and the infinities."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


class History:
    """The events of a run, as rows: append events, read columns.

    `history.column("loss")` is the loss of every step, `history.column("valid_accuracy")` that of
    every validation; `history.column("step", event="validation")` says when they were measured.
    """

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._pending: list[Event] = []

    def append(self, event: Event) -> None:
        """Take one event of any kind; `Restarted` drops the rows of the steps after it."""
        if type(event) not in _KINDS:
            raise TrainlabError(f"{event!r} is not an event: append what `train` yields")
        if isinstance(event, Restarted):
            self._rows = [row for row in self.rows if row["step"] <= event.step]
        # kept as it came: reading a loss here would make the device wait at every step
        self._pending.append(event)
        if len(self._pending) >= 256:
            self._settle()

    def _settle(self) -> None:
        losses = [event.loss for event in self._pending if isinstance(event, Step)]
        tensors = [loss for loss in losses if isinstance(loss, Tensor)]
        # one transfer for all of them
        values = iter(torch.stack(tensors).tolist() if tensors else ())
        for event in self._pending:
            if isinstance(event, Step) and isinstance(event.loss, Tensor):
                event = replace(event, loss=next(values))
            row = event_row(event)
            row.pop("total", None)  # the plan, not something that happened
            self._rows.append(row)
        self._pending.clear()

    @property
    def rows(self) -> list[Row]:
        """One dict per event, in order."""
        if self._pending:
            self._settle()
        return self._rows

    def column(self, name: str, *, event: str | None = None) -> list[Any]:
        """The values of one column, in order, of the events that have it.

        event: "step", "validation", "changed" or "restarted"; by default every event with the
        column, except that `step`, `epoch` and the like are those of the steps.
        Raises TrainlabError if no event has such a column.
        """
        if event is not None and event not in _KINDS.values():
            raise unknown_name("event", event, _KINDS.values())
        shared = {"step", "epoch"}
        wanted = event or ("step" if name in shared else None)
        values = [row[name] for row in self.rows if name in row and wanted in (None, row["event"])]
        known = {key for row in self.rows for key in row}
        if self.rows and name not in known:
            raise unknown_name("column", name, known)
        return values

    def frame(self) -> pd.DataFrame:
        """All rows as a pandas table, one row per event."""
        import pandas as pd

        return pd.DataFrame(self.rows)

    def to_csv(self, path: str | Path) -> None:
        """Write all rows as comma-separated values, one line per event."""
        names = list(dict.fromkeys(key for row in self.rows for key in row))
        with _writable(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self.rows)

    def to_json(self, path: str | Path) -> None:
        """Write all rows as one JSON array; values that are not finite become null."""
        _writable(path).write_text(
            json.dumps([json_row(row) for row in self.rows], indent=1), encoding="utf-8"
        )

    def state_dict(self) -> dict[str, Any]:
        """All rows, as plain values."""
        return {"rows": [dict(row) for row in self.rows]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self._rows = [dict(row) for row in state["rows"]]
        self._pending = []

    def __len__(self) -> int:
        return len(self._rows) + len(self._pending)

    def __repr__(self) -> str:
        kinds = [row["event"] for row in self.rows]
        if not kinds:
            return "History(empty)"
        text = f"{kinds.count('step')} steps, {kinds.count('validation')} validations"
        measured = [
            f"{key}={value:.4f}"
            for key, value in next(
                (row for row in reversed(self.rows) if row["event"] == "validation"), {}
            ).items()
            if key.startswith("valid_")
        ]
        return f"History({', '.join([text, *measured])})"


def _writable(path: str | Path) -> Path:
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a").close()
    except OSError as error:
        raise TrainlabError(
            f"cannot write {str(path)!r} ({error.strerror}): choose a folder that you may write to"
        ) from error
    return path
