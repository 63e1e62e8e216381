"""Training that answers while it goes on: a run that is paused, rewound, forked, and changed by hand."""

from __future__ import annotations

import copy
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.loaders import Loader
from ..errors import TrainlabError
from ..events import Changed, Event, History, Restarted, Step, Validation
from ..loop.config import TrainConfig
from ..loop.training import Observer, train
from ..losses import LossFunction
from ..state import Controls, TrainState
from .charts import Mark
from .drainer import Job, own_state

if TYPE_CHECKING:
    from .panel import LivePanel

_POINTS = 240
_ONE_MOVE = 0.6  # seconds: a slider that is dragged changes often, and leaves one mark


class Series:
    """Values over the steps of a run, thinned to some hundred points as they come.

    Where it is full, neighbours are averaged and from then on every point stands for twice as many.
    """

    def __init__(self, limit: int = _POINTS) -> None:
        self._limit = limit
        self._x = np.zeros(limit)
        self._y = np.zeros(limit)
        self._size = 0
        self._width = 1  # values that make one point
        self._open: list[tuple[float, float]] = []

    def add(self, x: float, y: float) -> None:
        """Take one value."""
        self._open.append((x, y))
        if len(self._open) < self._width:
            return
        if self._size == self._limit:
            self._halve()
            if len(self._open) < self._width:
                return
        self._x[self._size], self._y[self._size] = np.mean(self._open, axis=0)
        self._size += 1
        self._open.clear()

    def _halve(self) -> None:
        for values in (self._x, self._y):
            values[: self._limit // 2] = values.reshape(-1, 2).mean(1)
        self._size //= 2
        self._width *= 2

    def cut(self, x: float) -> None:
        """Forget all values after `x`."""
        self._size = int(np.searchsorted(self._x[: self._size], x, side="right"))
        self._open = [point for point in self._open if point[0] <= x]

    @property
    def x(self) -> np.ndarray:
        """The steps, with the point that is not yet full."""
        return self._all(self._x, 0)

    @property
    def y(self) -> np.ndarray:
        """The values, with the point that is not yet full."""
        return self._all(self._y, 1)

    def _all(self, values: np.ndarray, place: int) -> np.ndarray:
        rest = [np.mean([point[place] for point in self._open])] if self._open else []
        return np.concatenate([values[: self._size], rest])

    def __len__(self) -> int:
        return self._size + bool(self._open)


@dataclass(frozen=True, slots=True)
class _Kept:
    """A point of a run that one can go back to."""

    step: int
    state: dict[str, Any]
    batch_size: int | None


class LiveRun(Job):
    """Drives `train(state, loader, loss_fn, config, valid=valid)` in the background, under your hands.

        live = tl.LiveRun(state, loader, loss_fn, tl.TrainConfig(epochs=20), valid=valid)
        live                                # in a notebook: its panel; nothing starts by itself
        live.start(); live.pause(); live.set(lr_scale=0.1); live.rewind(200); other = live.fork()

    It gives bit for bit what `fit` gives from the same random state, whatever else runs meanwhile.
    history: all events.  series: for each quantity its curve, at most some hundred points.
    marks: where a control was changed.  observers: called with each event, as `fit` does.
    keep_every: steps between the points that `rewind` and `fork` can go to; the distance doubles
    whenever more than `keep` would be held (each holds model and optimizer once more).
    A second LiveRun of the same state stops the first.
    Raises TrainlabError if an argument cannot be right.
    """

    def __init__(
        self,
        state: TrainState,
        loader: Iterable[Any],
        loss_fn: LossFunction,
        config: TrainConfig,
        *,
        valid: Iterable[Any] | None = None,
        name: str = "run",
        observers: Sequence[Observer] = (),
        keep_every: int = 50,
        keep: int = 24,
    ) -> None:
        if keep_every < 1 or keep < 2:
            raise TrainlabError(
                f"keep_every={keep_every}, keep={keep}: keep 2 points or more, from 1 step on"
            )
        train(state, loader, loss_fn, config, valid=valid)  # its complaints come here, not in a panel
        super().__init__(name)
        self.state = state
        self.loader = _Resizable(loader) if isinstance(loader, Loader) else loader
        self.loss_fn = loss_fn
        self.config = config
        self.valid = valid
        self.observers = list(observers)
        group = state.optimizer.param_groups[0]
        self.base_lr = float(group.get("initial_lr", group["lr"]))
        self._keep_every, self._keep = keep_every, keep
        self._panel: LivePanel | None = None
        self._at = state.step
        previous = _take_over(self)
        if previous is not None and state.step:
            self._rng = previous._rng  # the state goes on, and so does its randomness
        with own_state(self):
            self._begin()

    def _begin(self) -> None:
        self.history = History()
        self.series: dict[str, Series] = {}
        self.marks: list[Mark] = []
        self._attempts = 0
        self._marked = ("", 0.0)
        self._total: int | None = None
        self._points = [self._snapshot()]
        self._batch_size = self._points[0].batch_size

    # --- what a person does

    def set(self, *, wait: bool = True, batch_size: int | None = None, **controls: float | None) -> None:
        """Change controls (lr_scale, momentum, weight_decay, clip_norm, dropout) from the next step on.

        batch_size: from the next epoch on.  Raises TrainlabError at once if a value is out of range.
        """
        Controls(**controls)  # type: ignore[arg-type]
        if batch_size is not None and not isinstance(self.loader, _Resizable):
            raise TrainlabError("the batch size of this loader is fixed: use make_loader(...) to change it")
        if batch_size is not None and not batch_size >= 1:
            raise TrainlabError(f"batch_size={batch_size!r} is not a whole number from 1 on")

        def change() -> None:
            for control, value in controls.items():
                setattr(self.state.controls, control, value)
            if batch_size is not None:
                assert isinstance(self.loader, _Resizable)
                self.loader.wanted = int(batch_size)

        self._order(change, wait)

    def reset(self, *, wait: bool = True) -> None:
        """Back to the very beginning, with the weights and controls it had."""

        def back() -> None:
            first = self._points[0]
            self._go_to(first)
            self._begin()
            self._set("ready")

        self._order(back, wait)

    def rewind(self, step: int, *, wait: bool = True) -> None:
        """Back to the last kept point at or before `step`: weights, optimizer, controls, randomness."""
        self._order(lambda: self._rewind(step), wait)

    def fork(self, step: int | None = None, *, name: str = "") -> LiveRun:
        """A run of its own that goes on from here, or from the last kept point at or before `step`."""
        made: list[LiveRun] = []
        self._order(lambda: made.append(self._copy(step, name or f"{self.name}, forked")), wait=True)
        if not made:
            raise TrainlabError(self.error)
        return made[0]

    @property
    def kept(self) -> list[int]:
        """The steps that `rewind` and `fork` can go to, and the current one."""
        return sorted({*(point.step for point in self._points), self.state.step})

    @property
    def batch_size(self) -> int | None:
        """The batch size asked for, None where the loader's cannot be told."""
        return self.loader.wanted if isinstance(self.loader, _Resizable) else None

    @property
    def total(self) -> int | None:
        """The step at which the run will end, where that is known."""
        return self._total

    def values(self, digits: int = 3) -> dict[str, float | int | str]:
        """Where it stands, as plain values: the last of each curve, to so many significant digits."""
        last = {name: float(f"{series.y[-1]:.{digits}g}") for name, series in self.series.items()}
        return {"status": self.status, "step": self.state.step, **last}

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        from .panel import LivePanel

        if self._panel is None:
            self._panel = LivePanel(self)
        return self._panel._repr_mimebundle_(**options)

    # --- what the drainer does

    def _open(self) -> Iterator[Event]:
        self._at = self.state.step
        return train(self.state, self.loader, self.loss_fn, self.config, valid=self.valid)

    def _next(self) -> None:
        if self._stream is not None and self.state.step != self._at:
            self._close()  # somebody else trained this state meanwhile: its batches are no longer ours
        if self._finished():
            self._set("finished")
            return
        super()._next()

    def _finished(self) -> bool:
        done = self.state.epoch if self.config.epochs is not None else self.state.step
        over = done >= (self.config.epochs or self.config.steps or 0)
        return (
            over and self._stream is None and (self.valid is None or self.state.validated == self.state.step)
        )

    def _take(self, event: Event) -> bool:
        self._at = self.state.step
        if isinstance(event, Step) and (resized := self._resized(event.step)):
            self._take(resized)
        self.history.append(event)
        if isinstance(event, Step):
            self.note("loss", event.step, event.loss)
            self.note("lr", event.step, event.lr)
            if event.grad_norm is not None:
                self.note("grad_norm", event.step, event.grad_norm)
            for name, value in event.metrics.items():
                self.note(name, event.step, value)
            self._total = event.total
        elif isinstance(event, Validation):
            for name, value in event.metrics.items():
                self.note(f"valid_{name}", event.step, value)
        else:
            self._mark(event)
        for observer in self.observers:
            observer(event)
        if isinstance(event, Step) and event.step - self._points[-1].step >= self._keep_every:
            self._keep_point()
        return isinstance(event, Step)

    def _resized(self, step: int) -> Changed | None:
        """The change of the batch size, at the first step that goes by it."""
        size = self.loader.batch_size if isinstance(self.loader, _Resizable) else None
        before, self._batch_size = self._batch_size, size
        return Changed(step, "batch_size", size) if size != before else None

    def note(self, name: str, step: int, value: Any) -> None:
        """Put one value on the curve `name`; an observer may add curves of its own."""
        self.series.setdefault(name, Series()).add(step, float(value))

    def _mark(self, event: Changed | Restarted) -> None:
        if isinstance(event, Restarted):
            self._cut(event.step)
            return
        if event.control == "lr_scale" and event.value is not None:
            said, value = "rate", f"{self.base_lr * event.value:.2g}"
        else:
            said, value = event.control.replace("_", " "), f"{event.value:g}"
        control, when = self._marked
        self._marked = (event.control, perf_counter())
        if self.marks and control == event.control and perf_counter() - when < _ONE_MOVE:
            self.marks.pop()
        self.marks.append(Mark(event.step, f"{said} {value}"))
        self._next_frame = 0.0  # whoever moved it waits for the picture

    def _cut(self, step: int) -> None:
        for series in self.series.values():
            series.cut(step)
        self.marks = [mark for mark in self.marks if mark.x <= step]

    # --- going back

    def _snapshot(self) -> _Kept:
        resizable = self.loader if isinstance(self.loader, _Resizable) else None
        state = copy.deepcopy(self.state.state_dict())
        return _Kept(self.state.step, state, resizable.batch_size if resizable else None)

    def _keep_point(self) -> None:
        if self.state.doubtful:
            return  # these steps will be taken back
        self._points.append(self._snapshot())
        if len(self._points) > self._keep:
            self._points = self._points[::2]
            self._keep_every *= 2

    def _point(self, step: int) -> _Kept:
        if step < self._points[0].step:
            raise TrainlabError(
                f"step {step} is before the run's first, {self._points[0].step}: use a later one"
            )
        return [point for point in self._points if point.step <= step][-1]

    def _rewind(self, step: int) -> None:
        point = self._point(step)
        if step >= self.state.step:
            return
        self._go_to(point)
        self._points = [kept for kept in self._points if kept.step <= point.step]
        self._attempts += 1
        self._take_back(Restarted(self._attempts, point.step))
        self._set("paused")

    def _take_back(self, event: Restarted) -> None:
        self.history.append(event)
        self._cut(event.step)
        for observer in self.observers:
            observer(event)

    def _go_to(self, point: _Kept) -> None:
        self._close()
        self.state.load_state_dict(copy.deepcopy(point.state))
        self._at = self.state.step
        self.error = ""
        self._batch_size = point.batch_size
        if isinstance(self.loader, _Resizable) and point.batch_size is not None:
            self.loader.batch_size = self.loader.wanted = point.batch_size

    def _copy(self, step: int | None, name: str) -> LiveRun:
        point = self._snapshot() if step is None else self._point(step)
        state = self.state
        model, optimizer, scheduler = copy.deepcopy((state.model, state.optimizer, state.scheduler))
        loader = self.loader.inner if isinstance(self.loader, _Resizable) else self.loader
        other = LiveRun(
            TrainState(model, optimizer, scheduler),
            loader,
            self.loss_fn,
            self.config,
            valid=self.valid,
            name=name,
            keep_every=self._keep_every,
            keep=self._keep,
        )
        other.base_lr = self.base_lr
        with own_state(other):
            other._go_to(point)  # the generators, too
        other._points = [point]
        other.status = "paused"
        return other


class _Resizable(Loader):
    """A loader whose batch size may be changed; it holds from the next epoch on."""

    def __init__(self, inner: Loader) -> None:
        super().__init__(
            inner.rows, inner.batch_size, seed=inner.seed, shuffle=inner.shuffle, drop_last=inner.drop_last
        )
        self.inner = inner
        self.wanted = inner.batch_size

    def batches(self, epoch: int, start: int = 0) -> Iterator[Any]:
        if start == 0:
            self.batch_size = self.wanted
        sized = copy.copy(self.inner)
        sized.batch_size = self.batch_size
        return sized.batches(epoch, start)


_DRIVEN: weakref.WeakKeyDictionary[TrainState, weakref.ref[LiveRun]] = weakref.WeakKeyDictionary()
_DRIVEN_LOCK = threading.Lock()


def _take_over(run: LiveRun) -> LiveRun | None:
    """Stop whatever drove this state before, and return it: two drivers would tear it apart."""
    with _DRIVEN_LOCK:
        other = _DRIVEN.get(run.state, lambda: None)()
        _DRIVEN[run.state] = weakref.ref(run)
    if other is not None:
        other.stop()
    return other
