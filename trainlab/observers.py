"""Consumers of the event stream: each is called with one event, and may return STOP."""

from __future__ import annotations

import copy
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from torch import nn

from .errors import TrainlabError, unknown_name
from .events import STOP, Event, Restarted, Step, Validation, event_row, json_row
from .state import TrainState


class Progress:
    """A progress bar with rate and time left: tqdm's notebook form in a notebook, else its terminal form.

    enabled: by default on in a notebook and at a terminal, off where output is kept in a file, and
    off wherever the environment says TRAINLAB_UNATTENDED=1.
    refresh: least seconds between two looks at the loss (a look waits for a GPU).
    """

    def __init__(self, *, enabled: bool | None = None, refresh: float = 0.2) -> None:
        self.enabled = _somebody_watches() if enabled is None else enabled
        self._refresh = refresh
        self._bar: Any = None
        self._valid = ""

    def __call__(self, event: Event) -> None:
        if not self.enabled:
            return
        if isinstance(event, Step):
            bar = self._open(event)
            bar.update(event.step - bar.n)
            if bar.format_dict["elapsed"] - self._shown >= self._refresh:
                self._describe(event)
        elif isinstance(event, Validation):
            self._valid = "".join(f" valid {name} {value:.4g}" for name, value in event.metrics.items())
            if self._bar is not None:
                self._bar.set_postfix_str(self._valid.strip())

    def _open(self, event: Step) -> Any:
        if self._bar is None:
            from tqdm.auto import tqdm

            self._bar = tqdm(initial=event.step - 1, total=event.total, unit="step", dynamic_ncols=True)
            self._shown = -self._refresh
        return self._bar

    def _describe(self, event: Step) -> None:
        self._shown = self._bar.format_dict["elapsed"]
        self._bar.set_postfix_str(f"epoch {event.epoch} loss {float(event.loss):.4g}{self._valid}")

    def close(self) -> None:
        """Leave the bar as it stands; `fit` calls this at the end of the run."""
        if self._bar is not None:
            if sys.exc_info()[0] is None:  # stopped early on purpose: tqdm would show a failure in red
                self._bar.total = self._bar.n
                self._bar.refresh()
            self._bar.close()
            self._bar = None


def _somebody_watches() -> bool:
    if os.environ.get("TRAINLAB_UNATTENDED") == "1":
        return False
    in_notebook = "ipykernel" in sys.modules and "IPython" in sys.modules
    return in_notebook or sys.stderr.isatty()


class _Best:
    """The best value so far of one validation metric."""

    def __init__(self, metric: str, mode: str | None, min_delta: float) -> None:
        if mode not in (None, "min", "max"):
            raise unknown_name("mode", mode, ["min", "max"])
        if min_delta < 0:
            raise TrainlabError(f"min_delta={min_delta} is below 0: use 0 to count any improvement")
        self.metric = metric
        # what is an error or a loss is better when small; what is a score, when large
        small = metric.endswith(("loss", "error", "mae", "mse", "perplexity"))
        self.sign = -1.0 if (mode or ("min" if small else "max")) == "min" else 1.0
        self.min_delta = min_delta
        self.value: float | None = None

    def improved(self, event: Validation) -> bool:
        """Whether this validation is the best so far (one that is NaN never is)."""
        if self.metric not in event.metrics:
            raise unknown_name("metric", self.metric, event.metrics)
        value = event.metrics[self.metric]
        if self.value is not None and not self.sign * (value - self.value) > self.min_delta:
            return False
        if value != value:
            return False
        self.value = value
        return True


class EarlyStopping:
    """Ends the run when `metric` has not improved for `patience` validations in a row.

    mode: "min" or "max"; by default "min" for losses and errors, "max" for scores.
    min_delta: what counts as an improvement must exceed it.
    """

    def __init__(
        self, patience: int = 3, *, metric: str = "loss", mode: str | None = None, min_delta: float = 0.0
    ) -> None:
        if isinstance(patience, bool) or not isinstance(patience, int) or patience < 1:
            raise TrainlabError(f"patience={patience!r} is not a number of validations from 1 on")
        self.patience = patience
        self.waited = 0
        self._best = _Best(metric, mode, min_delta)

    @property
    def best(self) -> float | None:
        """The best value so far, None before the first validation."""
        return self._best.value

    def __call__(self, event: Event) -> object:
        if not isinstance(event, Validation):
            return None
        self.waited = 0 if self._best.improved(event) else self.waited + 1
        return STOP if self.waited >= self.patience else None

    def state_dict(self) -> dict[str, Any]:
        """Best value and validations waited, so that patience survives a resume."""
        return {"metric": self._best.metric, "best": self._best.value, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` returned; what was seen of another metric does not count."""
        if state["metric"] == self._best.metric:
            self._best.value, self.waited = state["best"], state["waited"]


class BestModel:
    """Keeps a copy of the weights at the best validation; `restore()` puts them into the model.

    mode: "min" or "max"; by default "min" for losses and errors, "max" for scores.
    """

    def __init__(
        self, state: TrainState, *, metric: str = "loss", mode: str | None = None, min_delta: float = 0.0
    ) -> None:
        self._state = state
        self._best = _Best(metric, mode, min_delta)
        self.step: int | None = None
        self._weights: dict[str, Any] | None = None

    @property
    def best(self) -> float | None:
        """The best value so far, None before the first validation."""
        return self._best.value

    def __call__(self, event: Event) -> None:
        if isinstance(event, Validation) and self._best.improved(event):
            self.step = event.step
            self._weights = copy.deepcopy(self._state.model.state_dict())

    def restore(self) -> None:
        """Give the model its best weights.  Raises TrainlabError before the first validation."""
        if self._weights is None:
            raise TrainlabError("no validation has been seen yet: run `fit` with valid=... first")
        self._state.model.load_state_dict(self._weights)

    def state_dict(self) -> dict[str, Any]:
        """Best value, its step, and the weights kept."""
        best = {"metric": self._best.metric, "best": self._best.value}
        return best | {"step": self.step, "weights": self._weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` returned; the best by another metric does not count."""
        if state["metric"] == self._best.metric:
            self._best.value, self.step, self._weights = state["best"], state["step"], state["weights"]


class DropoutSchedule:
    """Moves the probability of every dropout layer during a run: `form(done)` after `done` steps.

        halfway = tl.DropoutSchedule(state, lambda done: 0.5 if done < 200 else 0.0)
        tl.fit(state, loader, loss_fn, config, observers=[halfway])

    Built before the run, it sets the first probability at once. It goes by the number of steps alone,
    so a run that is resumed or taken back goes on exactly; and it keeps to hundredths, so that a slow
    ramp is at most a hundred `Changed` events.
    Raises TrainlabError if the model has no dropout layer, or `form` leaves [0, 1).
    """

    def __init__(self, state: TrainState, form: Callable[[int], float]) -> None:
        if not any(isinstance(part, nn.modules.dropout._DropoutNd) for part in state.model.modules()):
            name = type(state.model).__name__
            raise TrainlabError(f"{name} has no dropout layer to schedule: build it with dropout=0.5, say")
        self._state = state
        self._form = form
        self._set(state.step)

    def __call__(self, event: Event) -> None:
        if isinstance(event, Step | Restarted):
            self._set(event.step)

    def _set(self, done: int) -> None:
        self._state.controls.dropout = round(float(self._form(done)), 2)


class JsonLines:
    """Writes each event as one line of JSON, readable while the run goes on.

    A run that goes on appends; lines of steps that are done again are dropped first, so that the
    file holds each step once.
    Raises TrainlabError if the file cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: IO[str] | None = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.open("a").close()
        except OSError as error:
            raise TrainlabError(
                f"cannot write {str(path)!r} ({error.strerror}): choose a folder that you may write to"
            ) from error

    def __call__(self, event: Event) -> None:
        if self._file is None or isinstance(event, Restarted):
            self._open(event)
        assert self._file is not None
        self._file.write(json.dumps(json_row(event_row(event)), allow_nan=False) + "\n")
        self._file.flush()

    def _open(self, event: Event) -> None:
        self.close()
        # a validation follows the step of the same number; anything else begins with its own
        keep_to = event.step if isinstance(event, Validation | Restarted) else event.step - 1
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        kept = [line for line in lines if _step_of(line) <= keep_to]
        if isinstance(event, Validation):
            kept = [line for line in kept if _step_of(line) < keep_to or '"event": "validation"' not in line]
        self.path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        self._file = self.path.open("a", encoding="utf-8")

    def close(self) -> None:
        """Close the file; the next event opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a line cut off by a crash is dropped
