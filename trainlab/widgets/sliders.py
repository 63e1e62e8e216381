"""A slider over given values: it shows and says the value itself, a rate and not its exponent."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import anywidget
import traitlets

from ..errors import TrainlabError
from .drainer import DRAINER


class Slider(anywidget.AnyWidget):
    """Choose one of `values` (ascending numbers); `on_move` is told when a person moves it.

    help: what it does, shown by the pointer.  eager: tell while it is dragged, not only at the end.
    """

    _esm = Path(__file__).with_name("slider.js")

    label = traitlets.Unicode().tag(sync=True)
    help = traitlets.Unicode().tag(sync=True)
    unit = traitlets.Unicode().tag(sync=True)
    texts = traitlets.List(traitlets.Unicode()).tag(sync=True)
    place = traitlets.Int(0).tag(sync=True)
    eager = traitlets.Bool(True).tag(sync=True)
    disabled = traitlets.Bool(False).tag(sync=True)

    def __init__(
        self,
        label: str,
        values: Sequence[float],
        value: float,
        *,
        help: str = "",
        unit: str = "",
        eager: bool = True,
    ) -> None:
        self.values = tuple(values)
        texts = [short(each) for each in self.values]
        place = self._nearest(value)
        super().__init__(label=label, help=help, unit=unit, texts=texts, place=place, eager=eager)
        self._mute = False

    @property
    def value(self) -> float:
        """The value that it stands at."""
        return self.values[self.place]

    def move_to(self, value: float) -> None:
        """Show the nearest value, telling nobody: what it stands for is so already."""
        self._mute = True
        try:
            self.place = self._nearest(value)
        finally:
            self._mute = False

    def offer(self, values: Sequence[float], value: float) -> None:
        """Offer other values."""
        self._mute = True
        try:
            with self.hold_sync():
                self.values = tuple(values)
                self.texts = [short(each) for each in self.values]
                self.place = self._nearest(value)
        finally:
            self._mute = False

    def on_move(self, handler: Callable[[float], object]) -> None:
        """Have `handler` called with the new value whenever a person moves it."""

        def moved(change: object) -> None:
            if not self._mute and not DRAINER.is_this_thread():
                handler(self.value)

        self.observe(moved, "place")

    def _nearest(self, value: float) -> int:
        return min(range(len(self.values)), key=lambda place: abs(self.values[place] - value))


def rates(low: float, high: float, steps: Sequence[float] = (1, 1.5, 2, 3, 5, 7)) -> list[float]:
    """Round values from low to high, such as 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1: about even on a log scale.

    Raises TrainlabError unless 0 < low < high.
    """
    if not 0 < low < high:
        raise TrainlabError(f"low={low!r}, high={high!r}: a log scale needs 0 < low < high")
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [float(f"{step}e{decade}") for decade in decades for step in steps]
    return [value for value in found if low * 0.999 <= value <= high * 1.001]


def short(value: float) -> str:
    """A number as a learner writes it: 0.003, 30, 1e-05."""
    return f"{value:.4g}"
