"""What every panel is made of: live runs, buttons, a line of status, charts."""

from __future__ import annotations

import functools
import html
import io
import sys
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

import ipywidgets
import torch
from torch import nn

from ..errors import TrainlabError
from .charts import Axis, Chart, Curve, CurveChart, Mark
from .drainer import DRAINER, FRAME_SECONDS, Job
from .sliders import Slider, rates

if TYPE_CHECKING:
    from .live import LiveRun

_EARLIER = 3  # curves of so many runs stay to be compared with
_STYLE = "color:var(--jp-content-font-color1, inherit);line-height:1.45;min-height:2.9em;padding:2px 4px"


class Panel:
    """Controls, a line of status and charts; shown by naming it at the end of a cell.

    Showing one starts nothing. Subclasses have `run(**settings)`, which does the same without a
    person and returns plain rounded values.
    """

    title = "Panel"

    def __init__(self) -> None:
        _load_torch()
        self._desk = Job("panel")  # what a handler asks for is done by the drainer, in turn
        self._desk.on_frame.append(lambda job: self._say())
        self._status = ipywidgets.HTML()
        self._moved_at: tuple[str, float] = ("", 0.0)
        self._view: Any = None
        self.told = ""

    # --- for subclasses

    def charts(self) -> list[Chart]:
        """The charts, from top to bottom."""
        raise NotImplementedError

    def layout(self) -> list[Any]:
        """The rows of widgets, from top to bottom."""
        raise NotImplementedError

    def jobs(self) -> Sequence[Job]:
        """What it has running."""
        return ()

    def sentence(self) -> str:
        """How things stand."""
        return ""

    # --- what all share

    def do(self, errand: Callable[[], None]) -> None:
        """Have the drainer carry this out; an error is said in the panel."""
        self.told = ""
        if DRAINER.cell_runs:
            self._status.value = _status("A cell is running: this waits until it is done.")
        self._desk._order(errand, wait=False)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until nothing runs any more; whether it came to that."""
        return DRAINER.until(lambda: not any(job.busy for job in (self._desk, *self.jobs())), seconds)

    def close(self) -> None:
        """Stop what it runs and take its widgets away."""
        for job in self.jobs():
            job.stop(wait=False)
        if self._view is not None:
            self._view.close()
            self._view = None

    def _say(self) -> None:
        errors = [f"{job.name}: {job.error}" for job in self.jobs() if job.error]
        errors += [self._desk.error] if self._desk.error else []
        self._desk.error = ""
        text = " ".join([self.told, *errors] if errors or self.told else [self.sentence()])
        running = any(job.status == "running" for job in self.jobs())
        self._status.value = _status(text.strip(), wrong=bool(errors), moving=running)

    def text(self) -> str:
        """What it shows, in words that are the same for the same numbers."""
        return "\n".join(
            [self.title, *(f"  {line}" for each in self.charts() for line in each.text().splitlines())]
        )

    def png(self) -> bytes:
        """Its charts, one above the other, as one picture."""
        from PIL import Image

        pictures = [Image.open(io.BytesIO(chart.png())) for chart in self.charts()]
        size = max(each.width for each in pictures), sum(each.height for each in pictures)
        whole, top = Image.new("RGBA", size), 0
        for each in pictures:
            whole.paste(each, (0, top))
            top += each.height
        file = io.BytesIO()
        whole.save(file, format="PNG")
        return file.getvalue()

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        DRAINER.watch_cells()
        _claim_cell(self)
        if self._view is None:
            self._say()
            self._view = ipywidgets.VBox([*self.layout(), self._status])
            self._view.add_class("trainlab-panel")  # chart.js keeps the keys of what is in it
        view = self._view._repr_mimebundle_(**options)
        return {**view, "text/plain": self.text(), "image/png": self.png()}


@functools.cache
def _load_torch() -> None:
    """Take a first step: torch imports much of itself then, and the first Start would wait for it."""
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], 0.1)
    weight.sum().backward()
    optimizer.step()


def _status(text: str, *, wrong: bool = False, moving: bool = False) -> str:
    # while numbers rush by, a screen reader keeps silent
    live = 'aria-live="off"' if moving else 'role="status"'
    sign = "&#9888; " if wrong else ""
    return f'<div class="trainlab-status" {live} style="{_STYLE}">{sign}{html.escape(text) or "&nbsp;"}</div>'


_PANELS: dict[str, weakref.ref[Panel]] = {}


def _claim_cell(panel: Panel) -> None:
    """A cell shows one panel: when it is run again, what its former one had running is stopped."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    parent: dict[str, Any] = getattr(shell, "get_parent", dict)() if shell is not None else {}
    cell = (parent.get("metadata") or {}).get("cellId")
    if cell is None:
        return
    former = _PANELS.get(cell, lambda: None)()
    if former is not None and former is not panel:
        former.close()
    _PANELS[cell] = weakref.ref(panel)


class RunPanel(Panel):
    """A panel around live runs: start, pause, step, stop, reset, go back, fork, compare.

    Subclasses build the runs (`make`) and draw them (`draw`). `runs` are the current ones: one, or
    two side by side after a fork.  `earlier` are the curves of those before, fainter.
    """

    forks = True

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[LiveRun] = []
        self.earlier: list[list[Curve]] = []
        self._next_draw = 0.0
        self._speeds: list[tuple[float, int]] = []
        self._buttons()

    # --- for subclasses

    def make(self) -> list[LiveRun]:
        """Fresh runs with the present settings; called by the drainer, with its own randomness."""
        raise NotImplementedError

    def draw(self) -> None:
        """Show the runs in the charts."""
        raise NotImplementedError

    def curves(self, run: LiveRun, place: int) -> list[Curve]:
        """The curves of one run that are kept for comparison."""
        raise NotImplementedError

    def settle(self) -> None:
        """Bring the controls in line with what the runs go by (after going back)."""

    # --- the buttons

    def _buttons(self) -> None:
        self.start_button = button("Start", "play", "Start, or pause", self._toggle, "primary")
        self.step_button = button("Step", "step-forward", "Take one step, then pause", self._one)
        self.stop_button = button("Stop", "stop", "Stop the run", lambda: self._all("stop"))
        self.reset_button = button(
            "Reset", "refresh", "A fresh run; this one stays as a faint curve", lambda: self.do(self.renew)
        )
        self.fork_button = button("Fork", "code-fork", "A second run from here, beside the first", self._fork)
        self.back = Slider("Go back to step", [0], 0, help="Back to a step that was kept", eager=False)
        self.back.on_move(lambda step: self.do(lambda: self._rewind(int(step))))
        # hidden until there are two: who is meant by the controls
        self.target = choice("controls act on:", ["both runs", "run A", "run B"], "both runs", lambda _: None)
        self.target.layout.display = "none"

    def buttons(self) -> list[Any]:
        """The rows of buttons."""
        shown = [self.start_button, self.step_button, self.stop_button, self.reset_button]
        shown += [self.fork_button] if self.forks else []
        return [row(*shown, self.back, *([self.target] if self.forks else []))]

    def _toggle(self) -> None:
        if any(run.status == "running" for run in self.runs):
            self._all("pause")
        else:
            self.do(self._go)

    def _go(self) -> None:
        if not self.runs or all(run.status == "finished" for run in self.runs):
            self.renew()
        for run in self.runs:
            if run.status != "finished":
                run.start()

    def _one(self) -> None:
        def one() -> None:
            if not self.runs:
                self.renew()
            for run in self.runs:
                run.step()

        self.do(one)

    def _all(self, method: str) -> None:
        for run in self.runs:
            getattr(run, method)(wait=False)

    def renew(self, *, start: bool = False) -> None:
        """Fresh runs; the curves of the present ones stay to be compared with."""
        going = start or any(run.status == "running" for run in self.runs)
        before, self.runs = self.runs, []
        for run in before:
            run.on_frame.clear()
            run._stop()
        if any(run.state.step for run in before):
            lines = [each for place, run in enumerate(before) for each in self.curves(run, place)]
            old = [replace(each, style="faint", legend=False) for each in lines]
            self.earlier = [*self.earlier, old][-_EARLIER:]
        self._take(self.make())
        if going:
            for run in self.runs:
                run.start()
        self._show()

    def _take(self, runs: Sequence[LiveRun]) -> None:
        self.runs = [*self.runs, *runs]
        for run in runs:
            run.on_frame.append(self._frame)
        if self.forks:
            self.target.layout.display = "" if len(self.runs) > 1 else "none"

    def _rewind(self, step: int) -> None:
        for run in self.runs:
            if step < run.state.step:
                run._rewind(step)
        self.settle()
        self._show()

    def _fork(self) -> None:
        def fork() -> None:
            if not self.runs or not self.runs[0].state.step:
                raise TrainlabError("there is nothing to fork yet: start a run, then fork it")
            del self.runs[1:]
            first = self.runs[0]
            going = first.status == "running"
            first.name = "run A"
            self._take([first._copy(None, "run B")])
            self.target.value = "run B"
            if going:
                self.runs[1].start()
            else:
                first._set("paused")
            self._show()

        self.do(fork)

    def meant(self) -> list[LiveRun]:
        """The runs that the controls act on."""
        if len(self.runs) < 2 or self.target.value == "both runs":
            return self.runs
        return [self.runs[self.target.value == "run B"]]

    def change(self, **controls: Any) -> None:
        """Change controls of the runs meant, from the next step on (`lr` is an absolute rate)."""

        def change() -> None:
            for run in self.meant():
                own = dict(controls)
                if "lr" in own:
                    own["lr_scale"] = own.pop("lr") / run.base_lr
                run.set(**own)
            if not any(run.status == "running" for run in self.meant()):
                self._show()  # a run that goes on shows it with its next step

        self.do(change)

    # --- pictures

    def jobs(self) -> Sequence[Job]:
        return self.runs

    def _frame(self, run: LiveRun) -> None:
        moving = any(each.status == "running" for each in self.runs)
        if moving and not run.hurried and perf_counter() < self._next_draw:
            return  # two runs, one picture
        self._next_draw = perf_counter() + 0.8 * FRAME_SECONDS
        self._show()

    def _show(self) -> None:
        self.draw()
        moving = any(run.status == "running" for run in self.runs)
        self.start_button.description, self.start_button.icon = (
            ("Pause", "pause") if moving else ("Start", "play")
        )
        if not moving:
            self._offer_steps()
        self._say()

    def _offer_steps(self) -> None:
        kept = sorted({step for run in self.runs for step in run.kept}) or [0]
        now = max((run.state.step for run in self.runs), default=0)
        if self.back.values != tuple(kept):
            self.back.offer(kept, now)
        elif self.back.value != now:
            self.back.move_to(now)

    def sentence(self) -> str:
        if not self.runs:
            return "Nothing runs yet. Start begins a run; every control may be moved at any time."
        return "; ".join(self._line(run) for run in self.runs) + self._speed()

    def _line(self, run: LiveRun) -> str:
        total = f" of {run.total:,}" if run.total else ""
        words = [f"{run.name}: {run.status}, step {run.state.step:,}{total}"]
        if "loss" in run.series:
            words.append(f"training loss {run.series['loss'].y[-1]:.3g}")
        if "valid_accuracy" in run.series:
            words.append(f"validation accuracy {run.series['valid_accuracy'].y[-1]:.3f}")
        return ", ".join(words)

    def _speed(self) -> str:
        steps = sum(run.state.step for run in self.runs)
        if not any(run.status == "running" for run in self.runs):
            self._speeds = []
            return ""
        self._speeds = [*self._speeds, (perf_counter(), steps)][-11:]
        (first, begun), (last, done) = self._speeds[0], self._speeds[-1]
        return f"; {(done - begun) / (last - first):,.0f} steps a second" if last > first + 0.2 else ""

    def marks(self) -> list[Mark]:
        """Where controls were changed."""
        return [mark for run in self.runs for mark in run.marks]


class LivePanel(RunPanel):
    """What a live run shows of itself: losses, whatever else is measured, and the controls of its state."""

    title = "Live run"

    def __init__(self, run: LiveRun) -> None:
        super().__init__()
        self.title = f"Live run: {run.name}"
        self._first = run
        self._losses = CurveChart("optimizer step", "loss", title="Loss", alt="training and validation loss")
        self._others = CurveChart("optimizer step", Axis("score"), title="Metrics", alt="the other metrics")
        self.rate = Slider(
            "learning rate",
            rates(run.base_lr / 100, run.base_lr * 100),
            run.base_lr,
            help="on top of the schedule; holds from the next step on",
        )
        self.rate.on_move(lambda value: self.change(lr=value))
        self._take([run])
        self.draw()

    def make(self) -> list[LiveRun]:
        self._first._go_to(self._first._points[0])
        self._first._begin()
        self._first.status = "ready"
        return [self._first]

    def settle(self) -> None:
        self.rate.move_to(self._first.base_lr * self._first.state.controls.lr_scale)

    def charts(self) -> list[Chart]:
        return [self._losses, self._others] if self._measured() else [self._losses]

    def layout(self) -> list[Any]:
        return [self.rate, *self.buttons(), self._losses, self._others]

    def _measured(self) -> list[str]:
        names = {name: None for run in self.runs for name in run.series}
        return [name for name in names if name not in ("loss", "valid_loss", "lr", "grad_norm")]

    def curves(self, run: LiveRun, place: int) -> list[Curve]:
        letter = f" {'AB'[place]}" if len(self.runs) > 1 else ""
        return [
            curve(run, "loss", f"training{letter}", 2 * place),
            curve(run, "valid_loss", f"validation{letter}", 2 * place + 1),
        ]

    def draw(self) -> None:
        losses = [each for place, run in enumerate(self.runs) for each in self.curves(run, place)]
        self._losses.show([*(each for old in self.earlier for each in old), *losses], self.marks())
        names = self._measured()
        self._others.layout.display = "" if names else "none"
        self._others.show(
            [
                curve(run, name, name.replace("_", " "), names.index(name), "dashed" if place else "line")
                for place, run in enumerate(self.runs)
                for name in names
            ]
        )


def curve(run: LiveRun, series: str, name: str, color: int, style: Any = "line", scale: float = 1.0) -> Curve:
    """One of a run's series as a curve (no points yet: an empty one).  scale: of x."""
    found = run.series.get(series)
    x, y = (found.x * scale, found.y) if found is not None else ((), ())
    return Curve(name, x, y, color=color, style=style)


def button(text: str, icon: str, help: str, handler: Callable[[], None], style: str = "") -> Any:
    """A button with an icon; help: what the pointer shows, and a screen reader says."""
    button = ipywidgets.Button(description=text, icon=icon, tooltip=help, button_style=style)
    button.layout.width = "6.2em"
    button.on_click(lambda _: handler())
    return button


def choice(label: str, options: Sequence[Any], value: Any, handler: Callable[[Any], None]) -> Any:
    """A labelled drop-down; `handler` is told when a person chooses."""
    box = ipywidgets.Dropdown(options=list(options), value=value, description=label)
    box.style.description_width = "initial"
    box.layout.width = "max-content"

    def chosen(change: Any) -> None:
        if not box.muted and not DRAINER.is_this_thread():
            handler(change["new"])

    box.muted = False
    box.observe(chosen, "value")
    return box


def show_settings(*settings: tuple[Any, Any]) -> None:
    """Have each control (a choice, a check box or a Slider) show its value, telling nobody."""
    for control, value in settings:
        if isinstance(control, Slider):
            control.move_to(value)
        else:
            control.muted = True
            control.value = value
            control.muted = False


def row(*widgets: Any) -> Any:
    """Widgets in a row, which goes on below where there is no more room."""
    return ipywidgets.HBox(list(widgets), layout={"flex_flow": "row wrap", "align_items": "center"})


def beside(*charts: Chart) -> Any:
    """Charts side by side where there is room, one below the other where not."""
    for chart in charts:
        chart.layout.flex, chart.layout.min_width = "1 1 340px", "300px"
    return ipywidgets.HBox(list(charts), layout={"flex_flow": "row wrap", "width": "100%"})
