"""Predict, run, reveal: a reveal waits until the learner has committed, or asks to be shown.

    bet = tl.predict("02.a", "You delete zero_grad at lr 0.01. Accuracy becomes ...",
                     choices=["much worse", "a little worse", "better"], guess="much worse")

    with bet.reveal("better", lesson="A good score does not prove a correct program."):
        print(scores)
        plot(scores)

Other kinds: `ranking=["lr", "depth", "seed"]` (put in order, the first one first),
`number=(0, 1), unit="accuracy", tolerance=0.02`, and a curve to be drawn,
`curve=(("epoch", 0, 10), ("loss (nats)", 0, 2.5))`, whose truth is a pair of sequences, x and y.
Where nobody is there (TRAINLAB_UNATTENDED=1, or no notebook kernel) the stored `guess` stands,
everything is plain text, and nothing is recorded.
"""

from __future__ import annotations

import contextlib
import html
import io
import math
import re
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import TrainlabError
from . import record

_SHOWN = "You asked to be shown."


# --- the kinds of prediction: which values will do, how one reads, the control to enter one ----------


@dataclass(frozen=True, slots=True)
class _Choice:
    choices: tuple[str, ...]
    missing = "Choose one of them first."  # said where a commitment comes without a whole answer

    def options(self) -> list[str]:
        return [f"- {choice}" for choice in self.choices]

    def plain(self, value: Any, what: str) -> Any:
        """`value` as plain Python; TrainlabError if it is no answer (what: "guess" or "truth")."""
        if value not in self.choices:
            raise TrainlabError(f"{what}={value!r} is not among {_listed(self.choices)}: choose one of them")
        return value

    def show(self, value: Any, digits: int | None) -> str:
        return value

    def compare(self, guess: Any, truth: Any) -> tuple[bool, str]:
        """Whether the guess is right, and a sentence that says how far off it is."""
        return guess == truth, "As predicted." if guess == truth else "Not as predicted."

    def control(self, label: str) -> tuple[Any, Callable[[], Any]]:
        """A widget, and a function that reads what has been entered."""
        import ipywidgets

        wide = {"width": "max-content"}
        radio = ipywidgets.RadioButtons(options=self.choices, value=None, tooltip=label, layout=wide)
        radio.description, radio.style.description_width = "Your prediction:", "initial"
        return radio, lambda: radio.value


@dataclass(frozen=True, slots=True)
class _Ranking:
    items: tuple[str, ...]
    missing = "Name each of them once first."

    def options(self) -> list[str]:
        return ["put in order, the first one first:", *(f"- {item}" for item in self.items)]

    def plain(self, value: Any, what: str) -> Any:
        if not isinstance(value, list | tuple) or sorted(map(str, value)) != sorted(self.items):
            raise TrainlabError(
                f"{what}={value!r} is no order of {_listed(self.items)}: name each of them once"
            )
        return list(value)

    def show(self, value: Any, digits: int | None) -> str:
        return ", ".join(value)

    def compare(self, guess: Any, truth: Any) -> tuple[bool, str]:
        in_place = sum(one == other for one, other in zip(guess, truth))
        return guess == truth, f"In their places: {in_place} of {len(truth)}."

    def control(self, label: str) -> tuple[Any, Callable[[], Any]]:
        import ipywidgets

        options = [("choose", ""), *((item, item) for item in self.items)]
        places = [
            ipywidgets.Dropdown(options=options, description=f"Place {place}:", tooltip=label)
            for place in range(1, len(self.items) + 1)
        ]
        return ipywidgets.VBox(places), lambda: [place.value for place in places]


@dataclass(frozen=True, slots=True)
class _Number:
    low: float
    high: float
    unit: str
    tolerance: float

    @property
    def missing(self) -> str:
        return f"Enter {self.options()[0]} first."

    def options(self) -> list[str]:
        return [f"a number from {self.low:g} to {self.high:g}{self._unit()}"]

    def plain(self, value: Any, what: str) -> Any:
        try:
            number = float(value.replace(",", ".") if isinstance(value, str) else value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise TrainlabError(f"{what}={value!r} is not a finite number: enter one such as {self.low:g}")
        if what == "guess" and not self.low <= number <= self.high:
            raise TrainlabError(
                f"guess={number:g} lies outside {self.low:g} to {self.high:g}: choose one inside"
            )
        return number

    def show(self, value: Any, digits: int | None) -> str:
        if digits is None:  # as many as make one tolerance visible
            digits = max(0, math.ceil(-math.log10(self.tolerance)))
        return f"{value:.{digits}f}{self._unit()}"

    def compare(self, guess: Any, truth: Any) -> tuple[bool, str]:
        off = abs(guess - truth)
        if off <= self.tolerance * (1 + 1e-9):  # 0.92 to 0.90 is within 0.02
            return True, f"As predicted, within {self.tolerance:g}{self._unit()}."
        return (
            False,
            f"Off by {off:.2g}{self._unit()}; within {self.tolerance:g} would have counted as right.",
        )

    def control(self, label: str) -> tuple[Any, Callable[[], Any]]:
        import ipywidgets

        # a slider or a spin box would have to start somewhere, and so would suggest an answer
        span = f"{self.low:g} to {self.high:g}"
        field = ipywidgets.Text(placeholder=span, description="Your prediction:", tooltip=label)
        field.style.description_width = "initial"
        return ipywidgets.HBox([field, ipywidgets.Label(self.unit)]), lambda: field.value.strip()

    def _unit(self) -> str:
        return f" {self.unit}" if self.unit else ""


_Span = tuple[str, float, float]  # label, low, high


@dataclass(frozen=True, slots=True)
class _Drawing:
    x: _Span
    y: _Span
    knots: int
    tolerance: float
    missing = "Draw the whole curve first, from the left edge to the right."

    def options(self) -> list[str]:
        (x, low, high), (y, bottom, top) = self.x, self.y
        return [f"a curve: {y}, {bottom:g} to {top:g}, over {x}, {low:g} to {high:g}"]

    def plain(self, value: Any, what: str) -> Any:
        """A guess is the list of values at the knots, a truth the pair of lists x and y."""
        parts = value if what == "truth" else (self.places(), value)
        try:
            x, y = ([float(each) for each in part] for part in parts)
        except (TypeError, ValueError):
            x, y = [], []
        whole = len(x) == len(y) > 1 and all(map(math.isfinite, [*x, *y]))
        if not whole or (what == "guess" and len(y) != self.knots):
            needed = f"{self.knots} numbers" if what == "guess" else "two sequences of numbers, x and y"
            raise TrainlabError(f"{what}={value!r} is no curve here: give {needed}")
        return y if what == "guess" else (x, y)

    def places(self) -> list[float]:
        _, low, high = self.x
        return [low + (high - low) * knot / (self.knots - 1) for knot in range(self.knots)]

    def show(self, value: Any, digits: int | None) -> str:
        y = self._at_knots(value)
        if digits is None:
            digits = max(0, math.ceil(-math.log10(self.tolerance)))
        places = (0, self.knots // 2, self.knots - 1)
        return ", ".join(f"{y[place]:.{digits}f} at {self.places()[place]:g}" for place in places)

    def compare(self, guess: Any, truth: Any) -> tuple[bool, str]:
        """By the mean distance over the knots."""
        off = sum(abs(a - b) for a, b in zip(guess, self._at_knots(truth))) / self.knots
        near = f"{off:.2g} apart on average; within {self.tolerance:g} counts as right."
        return (
            off <= self.tolerance,
            f"{'As predicted' if off <= self.tolerance else 'Not as predicted'}: {near}",
        )

    def control(self, label: str) -> tuple[Any, Callable[[], Any]]:
        chart = self._chart()
        return chart, lambda: list(chart.drawn)

    def picture(self, guess: Any, truth: Any) -> bytes:
        """Guess and truth in one PNG."""
        chart = self._chart()
        chart.drawn = guess
        self.uncover(chart, truth)
        return chart.png()

    def uncover(self, chart: Any, truth: Any) -> None:
        """Show the truth in the chart that was drawn into."""
        from ..widgets.charts import Curve

        chart.reveal(Curve("measured", *truth))

    def _chart(self) -> Any:
        from ..widgets.charts import Axis, SketchChart

        x, y = (Axis(label, low=low, high=high) for label, low, high in (self.x, self.y))
        alt = f"draw {y.label} over {x.label}: with the pointer, or with the arrow keys"
        return SketchChart(x, y, knots=self.knots, title="Draw your prediction", alt=alt)

    def _at_knots(self, value: Any) -> list[float]:
        if not isinstance(value, tuple):
            return list(value)
        return [float(each) for each in np.interp(self.places(), *value)]


_Kind = _Choice | _Ranking | _Number | _Drawing


# --- predict and reveal ----------------------------------------------------------------------------


def predict(
    prediction_id: str,
    question: str,
    *,
    guess: Any,
    choices: Sequence[str] | None = None,
    ranking: Sequence[str] | None = None,
    number: tuple[float, float] | None = None,
    curve: tuple[_Span, _Span] | None = None,
    unit: str = "",
    tolerance: float | None = None,
) -> Bet:
    """Ask for a prediction, and return the bet whose `reveal` holds the truth back.

    prediction_id: chapter and letter, such as "02.a".  guess: what stands where nobody is there.
    Exactly one of choices (one of them), ranking (all of them, in order), number (low, high) and
    curve (label, low and high of x, and of y; the guess has its values, evenly spaced over x).
    tolerance: how far off a number still counts as right, or a curve on average; a twentieth of the
    range by default, of a curve a tenth.
    Raises TrainlabError if an argument is none of these, or the guess would not do as an answer.
    """
    if not re.fullmatch(r"\d\d\.[a-z]", prediction_id):
        raise TrainlabError(f"prediction id {prediction_id!r} is not chapter.letter: write it like '02.a'")
    if sum(each is not None for each in (choices, ranking, number, curve)) != 1:
        raise TrainlabError(f"{prediction_id}: give exactly one of choices=, ranking=, number= and curve=")
    kind: _Kind
    if number is not None:
        kind = _number(number, unit, tolerance)
    elif curve is not None:
        kind = _drawing(curve, guess, tolerance)
    elif unit or tolerance is not None:
        raise TrainlabError(f"{prediction_id}: unit= and tolerance= go with number= only: leave them out")
    else:
        kind = _Choice(_distinct(choices)) if choices is not None else _Ranking(_distinct(ranking or ()))
    bet = Bet(prediction_id, question, kind, kind.plain(guess, "guess"))
    bet._ask()
    return bet


class Bet:
    """A prediction that is awaited, made, or (where nobody is there) taken as stored."""

    def __init__(self, prediction_id: str, question: str, kind: _Kind, stored: Any) -> None:
        self.id = prediction_id
        self.question = question
        self._kind = kind
        self._attended = _attended()
        self.settled = not self._attended
        self.guess = None if self._attended else stored  # None once settled: asked to be shown
        self._noted = not self._attended
        self._curtains: list[_Curtain] = []
        self._control: Any = None
        # handlers run on the main thread or, while a cell runs, on another one
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<prediction {self.id}: {'made' if self.settled else 'awaited'}>"

    def reveal(
        self, truth: Any, *, text: str | None = None, digits: int | None = None, lesson: str = ""
    ) -> contextlib.AbstractContextManager[None]:
        """Hold back what the `with` body shows until the prediction is made; then show both.

        truth: a choice, an order or a number, as the question asks.  text: how the truth reads;
        digits: decimals of a number, where the tolerance does not tell.  lesson: one sentence
        that names the misconception and what replaces it. An error in the body passes through.
        Raises TrainlabError if `truth` would not do as an answer.
        """
        truth = self._kind.plain(truth, "truth")
        measured = self._kind.show(truth, digits) if text is None else text
        outcome = _Outcome(self, truth, measured, digits, lesson)
        if not self._attended:
            return outcome.printed()
        return outcome.displayed() if self.settled else _Curtain(outcome).held()

    def _ask(self) -> None:
        lines = [f"Prediction {self.id}: {self.question}", *(f"  {line}" for line in self._kind.options())]
        if self._attended:
            _display_widget(self._panel(), "\n".join(lines))
        else:
            lines.append(f"guess: {self._kind.show(self.guess, None)}")
            print(*(textwrap.fill(line, 96, subsequent_indent="    ") for line in lines), sep="\n")

    def _panel(self) -> Any:
        import ipywidgets

        control, entered = self._kind.control(self.question)
        self._control = control
        commit = ipywidgets.Button(description="Commit", button_style="primary", tooltip="Commit to it")
        show = ipywidgets.Button(description="Show me", tooltip="Show the result without a prediction")
        said = ipywidgets.HTML()

        def settle(guess: Any, words: str) -> None:
            for each in (*getattr(control, "children", (control,)), commit, show):
                for trait in ("disabled", "locked"):
                    if hasattr(each, trait):
                        setattr(each, trait, True)
            said.value = _block(words)
            self._settle(guess)

        def on_commit(_: Any) -> None:
            try:
                guess = self._kind.plain(entered(), "guess")
            except TrainlabError:
                said.value = _block(self._kind.missing)
                return
            settle(guess, f"You predict: {self._kind.show(guess, None)}. Now look below.")

        commit.on_click(on_commit)
        show.on_click(lambda _: settle(None, _SHOWN))
        head = ipywidgets.HTML(_block(self.question, title=f"Prediction {self.id}"))
        return ipywidgets.VBox([head, control, ipywidgets.HBox([commit, show]), said])

    def _settle(self, guess: Any) -> None:
        with self._lock:
            if self.settled:
                return
            self.guess, self.settled = guess, True
            waiting, self._curtains = self._curtains, []
        for curtain in waiting:
            curtain.lift()

    def _wait(self, curtain: _Curtain) -> bool:
        """Whether `curtain` has to wait for the prediction."""
        with self._lock:
            if not self.settled:
                self._curtains.append(curtain)
            return not self.settled


@dataclass(frozen=True, slots=True)
class _Outcome:
    """A bet and the truth about it."""

    bet: Bet
    truth: Any
    measured: str
    digits: int | None
    lesson: str

    def predicted(self) -> str:
        return self.bet._kind.show(self.bet.guess, self.digits)

    def block(self) -> str:
        if self.bet.guess is None:
            return _block(f"{_SHOWN} Measured: {self.measured}.", after=self.lesson)
        _, sentence = self.bet._kind.compare(self.bet.guess, self.truth)
        said = f"Predicted: {self.predicted()}. Measured: {self.measured}."
        return _block(said, title=sentence, after=self.lesson)

    def note(self) -> None:
        """Record the prediction, once however often its reveal runs."""
        bet = self.bet
        if bet._noted:
            return
        bet._noted = True
        right = bet.guess is not None and bet._kind.compare(bet.guess, self.truth)[0]
        record.note_prediction(bet.id, guess=bet.guess, truth=self.truth, right=right)

    def uncover(self) -> None:
        """Show the truth in the control itself, where that is a drawing."""
        if isinstance(self.bet._kind, _Drawing) and self.bet._control is not None:
            self.bet._kind.uncover(self.bet._control, self.truth)

    @contextlib.contextmanager
    def printed(self) -> Iterator[None]:
        with _figures_shown():
            yield
        if isinstance(self.bet._kind, _Drawing) and _shell() is not None:
            from IPython.display import display

            picture = self.bet._kind.picture(self.bet.guess, self.truth)
            display({"image/png": picture, "text/plain": "guess and measurement, drawn"}, raw=True)
        print(f"predicted: {self.predicted()}; measured: {self.measured}")
        if self.lesson:
            print(self.lesson)

    @contextlib.contextmanager
    def displayed(self) -> Iterator[None]:
        with _figures_shown():
            yield
        from IPython.display import HTML, display

        display(HTML(self.block()))
        self.uncover()
        self.note()


class _Curtain:
    """What a reveal shows until its bet is settled. Only widget values change in a handler."""

    def __init__(self, outcome: _Outcome) -> None:
        import ipywidgets

        self.outcome = outcome
        self.outputs: list[dict[str, Any]] = []
        waiting = "Make your prediction above, or press Show me: the result is held back here."
        self.said = ipywidgets.HTML(_block(waiting))
        self.button = ipywidgets.Button(description="Show me", tooltip="Show the result without a prediction")
        self.button.on_click(lambda _: outcome.bet._settle(None))
        self.out = ipywidgets.Output()
        self.box = ipywidgets.VBox([self.out, self.said, self.button])

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        _display_widget(self.box, "The result waits for your prediction.")
        try:
            with _taped(self.outputs), _figures_shown():
                yield
        except BaseException:
            self.box.layout.display = "none"
            _replay(self.outputs)
            raise
        if not self.outcome.bet._wait(self):
            self.lift()

    def lift(self) -> None:
        self.out.outputs = tuple(self.outputs)
        self.said.value = self.outcome.block()
        self.button.layout.display = "none"
        self.outcome.uncover()
        self.outcome.note()


# --- capturing -------------------------------------------------------------------------------------


def _attended() -> bool:
    """Whether a person may answer: in a notebook kernel, unless TRAINLAB_UNATTENDED=1."""
    return not record.unattended() and getattr(_shell(), "kernel", None) is not None


def _shell() -> Any:
    return sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None


class _Stream(io.TextIOBase):
    """A stdout or stderr that appends what is written to a list of notebook outputs."""

    def __init__(self, name: str, outputs: list[dict[str, Any]]) -> None:
        self._name, self._outputs = name, outputs

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        last = self._outputs[-1] if self._outputs else {}
        if last.get("name") == self._name:
            last["text"] += text
        else:
            self._outputs.append({"output_type": "stream", "name": self._name, "text": text})
        return len(text)


@contextlib.contextmanager
def _taped(outputs: list[dict[str, Any]]) -> Iterator[None]:
    """Append all that is printed and displayed to `outputs`, in order, instead of showing it."""
    publisher = _shell().display_pub

    def on_message(message: dict[str, Any]) -> None:
        content, update = message["content"], message["msg_type"] == "update_display_data"
        if message["msg_type"] == "clear_output":
            outputs.clear()
            return
        shown = {"output_type": "display_data", "data": content["data"], "metadata": content["metadata"]}
        name = content["transient"].get("display_id")
        if update and name in named:
            named[name].update(shown)
            return
        if name:
            named[name] = shown
        outputs.append(shown)

    named: dict[str, dict[str, Any]] = {}
    # a hook of this thread: replacing display_pub, as capture_output does, would break the handlers
    # that run on another thread in the meantime
    publisher.register_hook(on_message)
    try:
        with (
            contextlib.redirect_stdout(_Stream("stdout", outputs)),
            contextlib.redirect_stderr(_Stream("stderr", outputs)),
        ):
            yield
    finally:
        publisher.unregister_hook(on_message)


def _replay(outputs: list[dict[str, Any]]) -> None:
    for output in outputs:
        if output["output_type"] == "stream":
            getattr(sys, output["name"]).write(output["text"])
        else:
            _shell().display_pub.publish(output["data"], output["metadata"])


@contextlib.contextmanager
def _figures_shown() -> Iterator[None]:
    """Show the figures that the body opens at its end: inline ones come at the cell's end otherwise."""
    before = _figure_numbers()
    try:
        yield
    finally:
        for number in sorted(_figure_numbers() - before):
            from IPython.display import display
            from matplotlib import pyplot

            display(pyplot.figure(number))
            pyplot.close(number)


def _figure_numbers() -> set[int]:
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is None or "inline" not in pyplot.get_backend().lower() or _shell() is None:
        return set()
    return set(pyplot.get_fignums())


def _display_widget(box: Any, text: str) -> None:
    """Display a widget, with a text that stands for it where there is no kernel behind the notebook."""
    from IPython.display import display

    display({**box._repr_mimebundle_(), "text/plain": text}, raw=True)


def _block(text: str, *, title: str = "", after: str = "") -> str:
    """HTML that is legible in the light and the dark theme."""
    bold = f"<strong>{html.escape(title)}</strong><br>" if title else ""
    rest = f"<br>{html.escape(after)}" if after else ""
    style = "color:var(--jp-content-font-color1, inherit);line-height:1.5;max-width:45em"
    return f'<div role="status" style="{style}">{bold}{html.escape(text)}{rest}</div>'


# --- arguments -------------------------------------------------------------------------------------


def _distinct(options: Sequence[str]) -> tuple[str, ...]:
    texts = isinstance(options, list | tuple) and all(isinstance(each, str) for each in options)
    if not texts or len(set(options)) < max(2, len(options)):
        raise TrainlabError(f"{options!r} are not two or more different texts: list them as ['this', 'that']")
    return tuple(options)


def _number(span: tuple[float, float], unit: str, tolerance: float | None) -> _Number:
    ends = span if isinstance(span, tuple) and len(span) == 2 else (math.nan, math.nan)
    if not all(isinstance(end, int | float) and math.isfinite(end) for end in ends) or ends[0] >= ends[1]:
        raise TrainlabError(f"number={span!r} is no range: write it as (low, high), such as (0, 1)")
    tolerance = (span[1] - span[0]) / 20 if tolerance is None else tolerance
    if not tolerance > 0:
        raise TrainlabError(f"tolerance={tolerance!r} is not above 0: say how far off is still right")
    return _Number(span[0], span[1], unit, tolerance)


def _drawing(axes: tuple[_Span, _Span], guess: Any, tolerance: float | None) -> _Drawing:
    try:
        x, y = ((str(label), float(low), float(high)) for label, low, high in axes)
        whole = x[1] < x[2] and y[1] < y[2]
    except (TypeError, ValueError):
        whole = False
    if not whole:
        raise TrainlabError(
            f"curve={axes!r}: write it as (('epoch', 0, 10), ('loss (nats)', 0, 2.5)), low below high"
        )
    knots = len(guess) if isinstance(guess, list | tuple) else 0
    if knots < 3:
        raise TrainlabError(f"guess={guess!r} is no curve: give 3 values or more, evenly spaced over x")
    tolerance = (y[2] - y[1]) / 10 if tolerance is None else tolerance
    if not tolerance > 0:
        raise TrainlabError(f"tolerance={tolerance!r} is not above 0: say how far off is still right")
    return _Drawing(x, y, knots, tolerance)


def _listed(options: Sequence[str]) -> str:
    return "(" + ", ".join(options) + ")"
