"""The learning rate under the hands: a range test, schedules, many rates at once."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets
import torch

from ... import schedules
from ...errors import TrainlabError, unknown_name
from ...loop.config import TrainConfig
from ...losses import classification
from ...randomness import preserve_rng
from ...rates import RangePoint, range_report, range_steps
from ...state import TrainState
from ...sweeps import sweep_steps
from ..charts import Axis, Chart, Curve, CurveChart, Mark
from ..drainer import Job, Task
from ..live import LiveRun
from ..panel import Panel, RunPanel, beside, button, choice, curve, row, show_settings
from ..sliders import Slider, rates
from .material import MODELS, batches, built, digits
from .race import OPTIMIZERS, Build

_OPTIMIZERS: dict[str, Build] = {name: OPTIMIZERS[name][0] for name in ("SGD", "momentum", "Adam")}


def _state(model: str, optimizer: str, lr: float, seed: int) -> TrainState:
    if optimizer not in _OPTIMIZERS:
        raise unknown_name("optimizer", optimizer, _OPTIMIZERS)
    fresh = built(model, seed)
    return TrainState(fresh, _OPTIMIZERS[optimizer](list(fresh.parameters()), lr))


class _TaskPanel(Panel):
    """A panel around one task: start, pause, stop, and a choice of model and optimizer."""

    def __init__(self, models: Sequence[str]) -> None:
        super().__init__()
        self.seed = 0
        self.model = choice("model:", models, models[0], lambda _: self.do(self._again))
        self.optimizer = choice("optimizer:", [*_OPTIMIZERS], "SGD", lambda _: self.do(self._again))
        self.start_button = button("Start", "play", "Start, or pause", self._toggle, "primary")
        self.stop_button = button("Stop", "stop", "Stop, and take it all back", self._stop)
        self.task = Task(self.title, self.open, self.take)
        self.task.on_frame.append(lambda task: self._show())

    def open(self) -> Any:
        """The generator of the task, with the present settings."""
        raise NotImplementedError

    def take(self, item: Any) -> None:
        """Note one item."""
        raise NotImplementedError

    def clear(self) -> None:
        """Forget what was noted."""
        raise NotImplementedError

    def draw(self) -> None:
        """Show what was noted."""
        raise NotImplementedError

    def jobs(self) -> Sequence[Job]:
        return [self.task]

    def _toggle(self) -> None:
        if self.task.status == "running":
            self.task.pause(wait=False)
        else:
            self.do(self.task._start if self.task.status == "paused" else lambda: self._again(start=True))

    def _stop(self) -> None:
        self.task.stop(wait=False)

    def _again(self, *, start: bool = False) -> None:
        going = start or self.task.status == "running"
        self.task._close()
        self.clear()
        self.task._set("ready")
        if going:
            self.task.start()

    def _show(self) -> None:
        self.draw()
        moving = self.task.status == "running"
        self.start_button.description, self.start_button.icon = (
            ("Pause", "pause") if moving else ("Start", "play")
        )
        self._say()

    def _show_settings(self, model: str, optimizer: str, length: int) -> None:
        if model in self.model.options and optimizer in self.optimizer.options:
            show_settings((self.model, model), (self.optimizer, optimizer), (self.length, length))

    length: Slider

    def _drained(self) -> None:
        self.clear()
        self.task.drain()
        self.draw()

    def controls(self) -> list[Any]:
        """What stands above the buttons."""
        return [self.model, self.optimizer]

    def layout(self) -> list[Any]:
        return [row(*self.controls()), row(self.start_button, self.stop_button), *self.charts()]


class RangeTest(_TaskPanel):
    """A learning-rate range test as it goes: the rate rises at each step, the loss answers.

    panel.run(model="MLP", optimizer="SGD") returns the suggestion and where the loss diverged.
    """

    title = "Range test"

    def __init__(self) -> None:
        self.points: list[RangePoint] = []
        self.chart = CurveChart(
            Axis("learning rate", log=True),
            Axis("loss (nats)"),
            title="Loss as the rate rises",
            alt="loss of each step and its moving average",
            tools=False,
        )
        super().__init__(["MLP", "deep MLP", "CNN"])
        self.length = Slider("steps", [30, 50, 100, 200, 400], 100, eager=False, help="of the whole climb")
        self.length.on_move(lambda value: self.do(self._again))
        self.draw()

    def run(
        self, *, model: str = "MLP", optimizer: str = "SGD", steps: int = 100, seed: int = 0
    ) -> dict[str, float | None]:
        """The test without a person; returns the rates: suggested, steepest, and too much."""
        self.seed, self._given = seed, (model, optimizer, steps)
        self._show_settings(model, optimizer, steps)
        self._drained()
        report = range_report(self.points)
        return {
            "suggestion": _two(report.suggestion),
            "steepest": _two(report.steepest),
            "diverged_at": _two(report.diverged_at),
        }

    _given: tuple[str, str, int] | None = None

    def open(self) -> Any:
        given, self._given = self._given, None
        model, optimizer, steps = given or (self.model.value, self.optimizer.value, int(self.length.value))
        state = _state(model, optimizer, 0.1, self.seed)
        loader = batches(digits()[0], 64, self.seed)
        return range_steps(state, loader, classification(), low=1e-5, high=30.0, steps=steps)

    def take(self, item: RangePoint) -> None:
        self.points.append(item)

    def clear(self) -> None:
        self.points = []

    def draw(self) -> None:
        points = [point for point in self.points if math.isfinite(point.loss)]
        top = 2 * max((point.smoothed for point in points[:5]), default=3.0)
        rate = [point.rate for point in points]
        found = self._report()
        marks = [Mark(found.suggestion, f"suggestion {found.suggestion:.2g}")] if found else []
        self.chart.show(
            [
                Curve("single batches", rate, [min(point.loss, top) for point in points], style="faint"),
                Curve("moving average", rate, [min(point.smoothed, top) for point in points], color=1),
            ],
            marks,
        )

    def _report(self) -> Any:
        if self.task.status != "finished":
            return None
        with contextlib.suppress(TrainlabError):  # the loss fell nowhere
            return range_report(self.points)

    def sentence(self) -> str:
        found = self._report()
        if found:
            end = f"; too much at {found.diverged_at:.2g}" if found.diverged_at else ""
            return f"Suggested rate {found.suggestion:.2g} (steepest fall at {found.steepest:.2g}{end})."
        if self.points:
            last = self.points[-1]
            return f"{self.task.status}: step {last.step}, rate {last.rate:.2g}, loss {last.smoothed:.3g}"
        return (
            "Start lets the rate rise from 0.00001 until the loss leaves all bounds; then all is taken back."
        )

    def charts(self) -> list[Chart]:
        return [self.chart]

    def controls(self) -> list[Any]:
        return [self.model, self.optimizer, self.length]


def _two(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.2g}")


class ManyRates(_TaskPanel):
    """One model trained at many rates at once, on the same batches.

    panel.run(model="MLP", optimizer="SGD", epochs=2) returns the best rate and each one's loss.
    """

    title = "Many rates at once"

    def __init__(self) -> None:
        self.lrs = rates(1e-4, 10, (1, 2, 5))
        self.losses = dict.fromkeys(self.lrs, math.nan)
        self.chart = CurveChart(
            Axis("learning rate", log=True),
            Axis("loss (nats)", low=0.0, high=3.0),
            tools=False,
            title="Loss of each member, now",
            alt="one dot for each rate",
        )
        super().__init__(["MLP", "deep MLP"])
        self.length = Slider("epochs", [1, 2, 3, 5, 10], 2, eager=False, help="of each member")
        self.length.on_move(lambda value: self.do(self._again))
        self.draw()

    def run(
        self, *, model: str = "MLP", optimizer: str = "SGD", epochs: int = 2, seed: int = 0
    ) -> dict[str, Any]:
        """The sweep without a person; returns the best rate, how many diverged, and validation losses."""
        self.seed, self._given = seed, (model, optimizer, epochs)
        self._show_settings(model, optimizer, epochs)
        self._drained()
        report = self.task.result
        return {
            "best": report.best.lr if report.best else None,
            "diverged": sum(member.diverged_at is not None for member in report.members),
            "losses": {member.lr: round(member.score, 2) for member in report.members},
        }

    _given: tuple[str, str, int] | None = None

    def open(self) -> Any:
        given, self._given = self._given, None
        model, optimizer, epochs = given or (self.model.value, self.optimizer.value, int(self.length.value))
        if model not in MODELS:
            raise unknown_name("model", model, MODELS)
        if optimizer not in _OPTIMIZERS:
            raise unknown_name("optimizer", optimizer, _OPTIMIZERS)
        train, valid = digits()
        return sweep_steps(
            MODELS[model],
            batches(train, 64, self.seed),
            classification(),
            self.lrs,
            optimizer=optimizer.lower(),
            epochs=epochs,
            seeds=self.seed,
            valid=batches(valid, 250, 0, shuffle=False),
        )

    def take(self, item: Any) -> None:
        self.losses[item.lr] = item.loss
        self.at = (item.step, item.total)

    at = (0, 0)

    def clear(self) -> None:
        self.losses, self.at = dict.fromkeys(self.lrs, math.nan), (0, 0)

    def draw(self) -> None:
        report = self.task.result
        final = {member.lr: member.score for member in report.members} if report else {}
        curves = [
            Curve("last training loss", self.lrs, [min(v, 3.0) for v in self.losses.values()], style="dots")
        ]
        if final:
            curves.append(Curve("validation loss", self.lrs, [min(v, 3.0) for v in final.values()], color=1))
        marks = [Mark(report.best.lr, f"best {report.best.lr:.2g}")] if report and report.best else []
        marks += [Mark(m.lr, "diverged", 5) for m in (report.members if report else ()) if m.diverged_at]
        self.chart.show(curves, marks)

    def sentence(self) -> str:
        report = self.task.result
        if report:
            gone = sum(member.diverged_at is not None for member in report.members)
            best = f"best rate {report.best.lr:.2g}" if report.best else "no rate survived"
            return f"{len(self.lrs)} rates in {report.seconds:.1f} s: {best}; {gone} diverged."
        if self.at[1]:
            return f"{self.task.status}: a member at step {self.at[0]} of {self.at[1]}"
        return f"Start trains {len(self.lrs)} copies of the model, each at its own rate, on the same batches."

    def charts(self) -> list[Chart]:
        return [self.chart]

    def controls(self) -> list[Any]:
        return [self.model, self.optimizer, self.length]


# name -> (what it is built with: optimizer, steps, warm-up, final)
SCHEDULES: dict[str, Callable[[torch.optim.Optimizer, int, int, float], Any]] = {
    "constant": lambda o, steps, warmup, final: schedules.constant(o, warmup=warmup),
    "step": lambda o, steps, warmup, final: schedules.step(o, every=max(1, steps // 3), warmup=warmup),
    "linear": lambda o, steps, warmup, final: schedules.warmup_linear(
        o, steps=steps, warmup=warmup, final=final
    ),
    "cosine": lambda o, steps, warmup, final: schedules.warmup_cosine(
        o, steps=steps, warmup=warmup, final=final
    ),
    "restarts": lambda o, steps, warmup, final: schedules.restarts(
        o, period=max(1, steps // 7), multiply=2, final=final
    ),
    "one cycle": lambda o, steps, warmup, final: schedules.one_cycle(
        o, steps=steps, warmup=min(0.9, max(warmup, 1) / steps)
    ),
}


class ScheduleBoard(RunPanel):
    """A schedule, drawn while it is edited, and the training that goes by it.

    panel.run(schedule="cosine", lr=0.3, warmup=50, epochs=5) returns where the run ended.
    """

    title = "Schedules"

    def __init__(self) -> None:
        super().__init__()
        self.seed = 0
        self.model = choice("model:", [*MODELS], "MLP", lambda _: self.do(self.renew))
        self.optimizer = choice("optimizer:", [*_OPTIMIZERS], "SGD", lambda _: self.do(self.renew))
        self.shape = choice("schedule:", [*SCHEDULES], "cosine", lambda _: self.do(self.renew))
        self.peak = Slider("peak rate", rates(1e-3, 10), 0.3, help="the highest rate; begins a new run")
        self.warmup = Slider(
            "warm-up", [0, 10, 20, 50, 100, 200], 0, unit="steps", help="steps of rising rate"
        )
        self.final = Slider(
            "final", [0, 0.01, 0.05, 0.1, 0.3], 0, help="share of the peak that is left at the end"
        )
        self.length = Slider("epochs", [1, 2, 3, 5, 10], 5, help="length of the run")
        for slider in (self.peak, self.warmup, self.final, self.length):
            slider.on_move(lambda value: self.do(self.renew))
        self.plan = CurveChart(
            "step",
            Axis("learning rate", low=0.0),
            title="The schedule",
            height=200,
            tools=False,
            alt="the learning rate at each step; the line moves with the run",
            empty="",
        )
        self.losses = CurveChart(
            "step", Axis("loss (nats)"), title="Loss", alt="training and validation loss"
        )
        self.draw()

    def run(
        self,
        *,
        schedule: str = "cosine",
        lr: float = 0.3,
        warmup: int = 0,
        final: float = 0.0,
        epochs: int = 3,
        model: str = "MLP",
        optimizer: str = "SGD",
        seed: int = 0,
    ) -> dict[str, float | int | str]:
        """Train by a schedule without a person; returns where it ended: step, losses, last rate."""
        if schedule not in SCHEDULES:
            raise unknown_name("schedule", schedule, SCHEDULES)
        self.seed = seed
        with preserve_rng():
            self.runs = [self._make(schedule, lr, warmup, final, epochs, model, optimizer)]
        show_settings((self.shape, schedule), (self.model, model), (self.optimizer, optimizer))
        show_settings((self.peak, lr), (self.warmup, warmup), (self.final, final), (self.length, epochs))
        self.runs[0].drain()
        self.draw()
        return self.runs[0].values(2)

    def make(self) -> list[LiveRun]:
        numbers = (self.peak.value, int(self.warmup.value), self.final.value, int(self.length.value))
        return [self._make(self.shape.value, *numbers, self.model.value, self.optimizer.value)]

    def _make(
        self, schedule: str, lr: float, warmup: int, final: float, epochs: int, model: str, optimizer: str
    ) -> LiveRun:
        state = _state(model, optimizer, lr, self.seed)
        loader = batches(digits()[0], 64, self.seed)
        steps = epochs * len(loader)
        state.scheduler = SCHEDULES[schedule](state.optimizer, steps, min(warmup, steps - 1), final)
        self._planned = schedules.preview(state.scheduler, steps)
        return LiveRun(
            state,
            loader,
            classification(),
            TrainConfig(epochs=epochs, validate_every=20),
            valid=batches(digits()[1], 250, 0, shuffle=False),
            name=f"{schedule}, peak {lr:.2g}",
        )

    _planned: Sequence[float] = ()

    def curves(self, run: LiveRun, place: int) -> list[Curve]:
        letter = f" {'AB'[place]}" if len(self.runs) > 1 else ""
        return [
            curve(run, "loss", f"training{letter}", 2 * place, "line" if place else "faint"),
            curve(run, "valid_loss", f"validation{letter}", 2 * place + 1),
        ]

    def draw(self) -> None:
        if not self._planned:
            with preserve_rng():
                self.make()
        now = max((run.state.step for run in self.runs), default=0)
        at = range(1, len(self._planned) + 1)
        self.plan.show([Curve("learning rate", at, self._planned)], cursor=now or None)
        shown = [each for place, run in enumerate(self.runs) for each in self.curves(run, place)]
        self.losses.show([*(each for old in self.earlier for each in old), *shown], self.marks())

    def charts(self) -> list[Chart]:
        return [self.plan, self.losses]

    def layout(self) -> list[Any]:
        return [
            row(self.model, self.optimizer, self.shape),
            row(self.peak, self.warmup, self.final, self.length),
            *self.buttons(),
            beside(self.plan, self.losses),
        ]


class RateLab(Panel):
    """Three views of the learning rate: a range test, schedules, and many rates at once.

    lab = tl.panels.RateLab()
    lab.run(view="range", model="MLP", optimizer="SGD")
    lab.run(view="schedule", schedule="cosine", lr=0.3, warmup=50)
    lab.run(view="sweep", epochs=2)
    """

    title = "Learning-rate lab"

    def __init__(self) -> None:
        super().__init__()
        self.views: dict[str, Any] = {"range": RangeTest(), "schedule": ScheduleBoard(), "sweep": ManyRates()}
        options = [(view.title, name) for name, view in self.views.items()]
        self.tabs = ipywidgets.ToggleButtons(options=options, value="range")
        self.tabs.style.button_width = "12em"
        self.tabs.observe(lambda change: self._turn_to(change["new"]), "value")

    def run(self, *, view: str = "range", **settings: Any) -> dict[str, Any]:
        """What the `run` of the view does with these settings."""
        if view not in self.views:
            raise unknown_name("view", view, self.views)
        self.tabs.value = view
        result: dict[str, Any] = self.views[view].run(**settings)
        return result

    def _turn_to(self, name: str) -> None:
        for other, box in getattr(self, "_boxes", {}).items():
            box.layout.display = "" if other == name else "none"

    def jobs(self) -> Sequence[Job]:
        return [job for view in self.views.values() for job in (*view.jobs(), view._desk)]

    def charts(self) -> list[Chart]:
        return list(self.views[self.tabs.value].charts())

    def layout(self) -> list[Any]:
        self._boxes = {}
        for name, view in self.views.items():
            view._say()
            self._boxes[name] = ipywidgets.VBox([*view.layout(), view._status])
        self._turn_to(self.tabs.value)
        return [self.tabs, *self._boxes.values()]

    def _say(self) -> None:
        """Each view says how things stand by itself."""
