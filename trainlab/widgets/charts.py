"""Charts that move while a run goes on: drawn in the browser by chart.js, and as a picture for the file.

    chart = CurveChart("step", Axis("loss (nats)", log=True), title="Loss", alt="the training loss")
    chart.show([Curve("lr 0.1", steps, losses)])         # as often as wanted, from any thread

`show` only sets one trait: one message a picture. Each chart also has a stable `text()` and a `png()`,
and a notebook that is saved keeps both beside the live view.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import anywidget
import matplotlib as mpl
import numpy as np
import traitlets
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..errors import TrainlabError, unknown_name
from ..plots import _STYLE, COLORS, INK

Numbers = Sequence[float] | np.ndarray
POINTS = 300  # more of them no screen shows, and each one is sent
RIGHT, WRONG = COLORS[2], COLORS[5]
_MARKERS = "os^Dv*"  # a class has a shape besides its colour
_LINES: dict[str, dict[str, Any]] = {
    "line": {},
    "dashed": {"linestyle": "--"},
    "dots": {"linestyle": "none", "marker": "o", "markersize": 3.5},
    "faint": {"linewidth": 0.8, "alpha": 0.4},
}


@dataclass(frozen=True, slots=True)
class Curve:
    """One curve: x and y have the same length, x does not fall; a y that is not finite leaves a gap.

    color: place in `plots.COLORS`.  legend: whether it has an entry; those of one name hide together.
    """

    name: str
    x: Numbers
    y: Numbers
    color: int = 0
    style: Literal["line", "dashed", "dots", "faint"] = "line"
    legend: bool = True


@dataclass(frozen=True, slots=True)
class Mark:
    """A vertical line with a short label, where a control was changed or something was found."""

    x: float
    text: str
    color: int | None = None


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis: its label has the unit ("loss (nats)"); a bound that is None is fitted to the data."""

    label: str
    log: bool = False
    low: float | None = None
    high: float | None = None


# --- what all charts share -------------------------------------------------------------------------


class Chart(anywidget.AnyWidget):
    """A chart as a widget: what stands still is in `spec`, what moves in `frame`, numbers as bytes.

    title: stands above it.  alt: what it shows, for those who do not see it.  height: pixels.
    """

    _esm = Path(__file__).parent / "chart.js"
    kind = traitlets.Unicode().tag(sync=True)
    spec = traitlets.Dict().tag(sync=True)
    frame = traitlets.Dict().tag(sync=True)

    def __init__(self, kind: str, spec: dict[str, Any], *, title: str, alt: str, height: int) -> None:
        self._data: Any = None  # what was shown last, whole: one assignment, so that threads see all or none
        spec = {"title": title, "alt": alt, "height": height, "colors": list(COLORS), **spec}
        super().__init__(kind=kind, spec=spec)

    def text(self) -> str:
        """What is drawn, in words: the same for the same numbers, rounded to two digits."""
        head = [self.spec["title"] or self.spec["alt"] or f"a {type(self).__name__}"]
        if self.spec["alt"] and self.spec["title"]:
            head.append(self.spec["alt"])
        return "\n  ".join([*head, *self._lines()])

    def png(self) -> bytes:
        """What is drawn, as a picture that is legible on a light and on a dark page."""
        with mpl.rc_context(_STYLE):
            figure = Figure(figsize=(6.4, max(self.spec["height"], 160) / 80))
            FigureCanvasAgg(figure)
            self._draw(figure)
            if self.spec["title"]:
                figure.suptitle(self.spec["title"], fontsize=10, x=0.01, ha="left")
            file = io.BytesIO()
            figure.savefig(file, format="png", metadata={"Software": None})
        return file.getvalue()

    def _lines(self) -> list[str]:
        raise NotImplementedError

    def _draw(self, figure: Figure) -> None:
        raise NotImplementedError

    def _repr_mimebundle_(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any]] | None:
        bundle: tuple[dict[str, Any], dict[str, Any]] | None = super()._repr_mimebundle_(**options)
        if bundle is None:
            return None
        data, metadata = bundle
        return {**data, "text/plain": self.text(), "image/png": self.png()}, metadata


def thin(x: np.ndarray, y: np.ndarray, limit: int = POINTS) -> tuple[np.ndarray, np.ndarray]:
    """At most `limit` points of a longer curve: the first, the last, and means over equal spans between.

    A span with a value that is not finite has none itself: the gap stays to be seen.
    """
    if len(x) <= limit:
        return x, y
    starts = np.linspace(1, len(x) - 1, limit - 1).astype(int)
    sizes, starts = np.diff(starts), starts[:-1]
    thinned = []
    with np.errstate(invalid="ignore"):  # inf - inf
        for values in (x, y):
            means = np.add.reduceat(values[:-1], starts) / sizes
            thinned.append(np.concatenate([values[:1], means, values[-1:]]))
    return thinned[0], thinned[1]


def _float32(values: Numbers) -> bytes:
    with np.errstate(over="ignore"):  # beyond float32 is a gap, as inf is
        return np.asarray(values).astype(np.float32).tobytes()


def _kept(curve: Curve) -> Curve:
    """The curve with arrays of its own, which nobody else goes on to change."""
    if curve.style not in _LINES:
        raise unknown_name("style of a curve", curve.style, _LINES)
    x, y = np.array(curve.x, dtype=np.float64), np.array(curve.y, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise TrainlabError(
            f"curve {curve.name!r} has x of shape {x.shape} and y of shape {y.shape}: "
            "give one y for each x, both one-dimensional"
        )
    return replace(curve, x=x, y=y)


def _packed(curve: Curve) -> dict[str, Any]:
    x, y = thin(np.asarray(curve.x), np.asarray(curve.y))
    looks = {"name": curve.name, "color": curve.color, "style": curve.style, "legend": curve.legend}
    return {**looks, "x": _float32(x), "y": _float32(y)}


def _axis(axis: Axis | str) -> Axis:
    return Axis(axis) if isinstance(axis, str) else axis


def _color(place: int) -> str:
    return COLORS[place % len(COLORS)]


def _place(x: float) -> str:
    """A step as it is, anything else to two digits."""
    return f"{x:.0f}" if float(x).is_integer() else f"{x:.2g}"


def _short(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}g}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")


def _last(curve: Curve) -> str:
    """Where a curve ends: "lr 0.1: 0.35 at 300"."""
    finite = np.flatnonzero(np.isfinite(curve.y))
    if not len(finite):
        return f"{curve.name}: no value"
    gone = "" if finite[-1] == len(curve.y) - 1 else ", not finite from there"
    return f"{curve.name}: {_short(curve.y[finite[-1]])} at {curve.x[finite[-1]]:g}{gone}"


def _plot(axes: Axes, curve: Curve) -> None:
    label = curve.name if curve.legend else None
    axes.plot(*thin(np.asarray(curve.x), np.asarray(curve.y)), color=_color(curve.color), label=label,
              **_LINES[curve.style])  # fmt: skip


def _dress(axes: Axes, x: Axis, y: Axis) -> None:
    """Labels, scales and bounds of both axes."""
    axes.set(xlabel=textwrap.fill(x.label, 64), ylabel=textwrap.fill(y.label, 32))
    axes.set(xscale="log" if x.log else "linear", yscale="log" if y.log else "linear")
    axes.set_xlim(x.low, x.high)
    axes.set_ylim(y.low, y.high)


def _legend(axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    distinct = dict(zip(labels, handles))
    if distinct:
        many = len(distinct) > 10
        axes.legend(distinct.values(), distinct, fontsize=6 if many else 8, ncols=1 + many,
                    loc="center left", bbox_to_anchor=(1.0, 0.5))  # fmt: skip


# --- the six kinds ---------------------------------------------------------------------------------


class CurveChart(Chart):
    """Curves over one x, with marks where something happened.

    tools: a log scale and smoothing, in the browser only.  empty: what stands there before the first frame.
    """

    def __init__(
        self,
        x: Axis | str,
        y: Axis | str,
        *,
        title: str = "",
        alt: str = "",
        height: int = 240,
        tools: bool = True,
        empty: str = "Press Start.",
    ) -> None:
        self._x, self._y = _axis(x), _axis(y)
        spec = {"x": asdict(self._x), "y": asdict(self._y), "tools": tools, "empty": empty}
        super().__init__("curves", spec, title=title, alt=alt, height=height)

    def show(self, curves: Sequence[Curve], marks: Sequence[Mark] = (), cursor: float | None = None) -> None:
        """Draw these curves in place of the former; cursor: a thin vertical line at this x.

        Raises TrainlabError, and leaves the chart as it was, if a curve's x and y do not fit.
        """
        kept = [_kept(curve) for curve in curves]
        self._data = (kept, tuple(marks), cursor)
        self.frame = {
            "curves": [_packed(curve) for curve in kept],
            "marks": [asdict(mark) for mark in marks],
            "cursor": cursor,
        }

    def _lines(self) -> list[str]:
        curves, marks, _ = self._data or ((), (), None)
        lines = [f"{self._y.label} over {self._x.label}"]
        lines += [_last(curve) for curve in curves if curve.legend] or ["nothing drawn yet"]
        return lines + [f"mark at {_place(mark.x)}: {mark.text}" for mark in marks]

    def _draw(self, figure: Figure) -> None:
        axes = figure.add_subplot()
        curves, marks, cursor = self._data or ((), (), None)
        for curve in curves:
            _plot(axes, curve)
        for place, mark in enumerate(sorted(marks, key=lambda mark: mark.x)):
            color = INK if mark.color is None else _color(mark.color)
            axes.axvline(mark.x, color=color, linewidth=0.8, linestyle=":")
            at = (mark.x, 1 - 0.07 * (place % 4))
            style: Any = {"color": color, "fontsize": 7, "va": "top", "textcoords": "offset points"}
            axes.annotate(mark.text, at, (2, 0), xycoords=axes.get_xaxis_transform(), **style)
        if cursor is not None:
            axes.axvline(cursor, color=INK, linewidth=0.8)
        _dress(axes, self._x, self._y)
        _legend(axes)


class BoundaryChart(Chart):
    """What a classifier says on a plane, and the points it was asked about.

    extent: (x low, x high, y low, y high) of the plane.  classes: their names, in the labels' order.
    """

    def __init__(
        self,
        x: str,
        y: str,
        *,
        title: str,
        alt: str,
        extent: tuple[float, float, float, float],
        classes: Sequence[str],
        height: int = 260,
    ) -> None:
        self._x, self._y = Axis(x, False, *extent[:2]), Axis(y, False, *extent[2:])
        self.classes = tuple(classes)
        spec = {"x": asdict(self._x), "y": asdict(self._y), "classes": list(classes)}
        super().__init__("boundary", spec, title=title, alt=alt, height=height)

    def show(self, scores: np.ndarray, points: np.ndarray, labels: np.ndarray) -> None:
        """Draw the plane and its points.

        scores: (H, W), the first row at the low end of y: class indices (integers) or, of two classes,
        the probability of the second one.  points: (N, 2).  labels: (N,), class indices.
        Raises TrainlabError if a shape or a class does not fit.
        """
        scores, points, labels = np.array(scores), np.array(points, dtype=np.float64), np.array(labels)
        self._check(scores, points, labels)
        self._data = (scores, points, labels)
        soft = scores.dtype.kind == "f"
        values = np.rint(np.nan_to_num(scores, nan=0.5).clip(0, 1) * 255) if soft else scores
        self.frame = {
            "scores": values.astype(np.uint8).tobytes(),
            "shape": list(scores.shape),
            "soft": soft,
            "points": _float32(points),
            "labels": labels.astype(np.uint8).tobytes(),
        }

    def _check(self, scores: np.ndarray, points: np.ndarray, labels: np.ndarray) -> None:
        count = len(self.classes)
        if scores.ndim != 2 or points.shape != (len(labels), 2):
            raise TrainlabError(
                f"scores {scores.shape}, points {points.shape} and labels {labels.shape} do not fit: "
                "give (H, W), (N, 2) and (N,)"
            )
        if scores.dtype.kind == "f" and count != 2:
            raise TrainlabError(
                f"scores are probabilities, and there are {count} classes: give the index of the class"
            )
        for values in (labels, scores[:0] if scores.dtype.kind == "f" else scores):
            if values.size and not 0 <= values.min() <= values.max() < count:
                raise TrainlabError(f"class {values.max()} is none of the {count} classes: name them all")

    def _predicted(self, scores: np.ndarray) -> np.ndarray:
        return (scores >= 0.5).astype(int) if scores.dtype.kind == "f" else scores

    def _lines(self) -> list[str]:
        if self._data is None:
            return ["nothing drawn yet"]
        predicted = self._predicted(self._data[0])
        return [f"{self._y.label} over {self._x.label}, {len(self._data[2])} points"] + [
            f"{name}: {_short((predicted == place).mean())} of the plane"
            for place, name in enumerate(self.classes)
        ]

    def _draw(self, figure: Figure) -> None:
        axes = figure.add_subplot()
        if self._data is not None:
            scores, points, labels = self._data
            extent: Any = (self._x.low, self._x.high, self._y.low, self._y.high)
            colors = [mpl.colors.to_rgb(_color(place)) for place in range(len(self.classes))]
            image = np.array(colors)[self._predicted(scores)]
            axes.imshow(image, extent=extent, origin="lower", aspect="auto", alpha=0.3)
            for place, name in enumerate(self.classes):
                x, y = points[labels == place].T
                axes.plot(x, y, _MARKERS[place % 6], color=_color(place), label=name, markersize=4)
        _dress(axes, self._x, self._y)
        axes.grid(False)
        _legend(axes)


class ImageChart(Chart):
    """Grey images in rows, a caption under each; what is wrong has another colour and a sign.

    columns: at most so many in a row, fewer where the cell is narrow.  height: None for what they need.
    """

    def __init__(self, *, title: str, alt: str, columns: int = 8, height: int | None = None) -> None:
        self._columns, self._fixed = columns, height
        spec = {"columns": columns, "fixed": height}
        super().__init__("images", spec, title=title, alt=alt, height=height or 240)

    def show(self, images: np.ndarray, captions: Sequence[str], right: Sequence[bool] | None = None) -> None:
        """Draw these images in place of the former.

        images: (N, h, w), from 0 (black) to 1 (white).  captions: N of them.  right: which ones are right.
        Raises TrainlabError if the counts differ.
        """
        images = np.array(images, dtype=np.float32)
        counts = {len(images), len(captions), len(captions if right is None else right)}
        if images.ndim != 3 or len(counts) > 1:
            raise TrainlabError(
                f"images {images.shape}, {len(captions)} captions and "
                f"{'no' if right is None else len(right)} marks do not fit: give (N, h, w) and N of each"
            )
        signs = None if right is None else [bool(each) for each in right]
        self._data = (images, tuple(captions), signs)
        self.frame = {
            "images": np.rint(np.nan_to_num(images).clip(0, 1) * 255).astype(np.uint8).tobytes(),
            "shape": list(images.shape),
            "captions": list(captions),
            "right": signs,
        }

    def _signed(self) -> list[tuple[str, str]]:
        """Caption with its sign, and the colour."""
        _, captions, right = self._data
        if right is None:
            return [(caption, INK) for caption in captions]
        return [
            (f"{'✓' if good else '✗'} {caption}", RIGHT if good else WRONG)
            for caption, good in zip(captions, right)
        ]

    def _lines(self) -> list[str]:
        if self._data is None:
            return ["nothing drawn yet"]
        return [f"{len(self._data[0])} images: " + ", ".join(caption for caption, _ in self._signed())]

    def _draw(self, figure: Figure) -> None:
        if self._data is None or not len(self._data[0]):
            return
        columns = min(self._columns, len(self._data[0]))
        rows = -(-len(self._data[0]) // columns)
        figure.set_figheight(0.4 + rows * (6.4 / max(columns, 4) + 0.25))
        for place, (image, (caption, color)) in enumerate(zip(self._data[0], self._signed())):
            axes = figure.add_subplot(rows, columns, place + 1)
            axes.imshow(image, cmap="gray", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
            axes.set_xlabel(textwrap.fill(caption, max(6, 80 // columns)), color=color, fontsize=7)


class BarChart(Chart):
    """One bar a name; they lie on their side where the names are too long to stand beside one another."""

    def __init__(self, y: Axis | str, *, title: str, alt: str, height: int = 220) -> None:
        self._y = _axis(y)
        super().__init__("bars", {"y": asdict(self._y)}, title=title, alt=alt, height=height)

    def show(
        self,
        names: Sequence[str],
        values: Sequence[float],
        colors: Sequence[int] | None = None,
        texts: Sequence[str] | None = None,
    ) -> None:
        """Draw these bars in place of the former; texts: what stands at each, its value by default.

        Raises TrainlabError if the counts differ.
        """
        colors = [0] * len(names) if colors is None else list(colors)
        texts = [_short(value, 3) for value in values] if texts is None else list(texts)
        if not len(names) == len(values) == len(colors) == len(texts):
            raise TrainlabError(
                f"{len(names)} names, {len(values)} values, {len(colors)} colors, {len(texts)} texts: "
                "give one of each for every bar"
            )
        self._data = (list(names), np.array(values, dtype=np.float64), colors, texts)
        shown = {"names": list(names), "colors": colors, "texts": texts}
        self.frame = {**shown, "values": _float32(self._data[1])}

    def _lines(self) -> list[str]:
        names, values, _, texts = self._data or ((), (), (), ())
        bars = [
            f"{name}: {_short(value)}{f' ({text})' if text != _short(value, 3) else ''}"
            for name, value, text in zip(names, values, texts)
        ]
        return [self._y.label, *(bars or ["nothing drawn yet"])]

    def _draw(self, figure: Figure) -> None:
        axes = figure.add_subplot()
        if self._data is not None:
            names, values, colors, texts = self._data
            figure.set_figheight(max(figure.get_figheight(), 0.6 + 0.22 * len(names)))
            bars = axes.barh(range(len(names)), values, color=[_color(each) for each in colors], height=0.7)
            axes.bar_label(bars, texts, padding=2, fontsize=8, color=INK)
            axes.set_yticks(range(len(names)), names)
            axes.margins(x=0.12)
        axes.set(xlabel=self._y.label, xscale="log" if self._y.log else "linear")
        axes.set_xlim(self._y.low, self._y.high)
        axes.invert_yaxis()
        axes.grid(False, axis="y")


class SurfaceChart(Chart):
    """A surface from above with paths on it; a click, or the arrow keys, choose where to start.

    extent: (x low, x high, y low, y high).  picked: [x, y] as chosen last, [] before; observe it.
    """

    picked: traitlets.List[Any] = traitlets.List().tag(sync=True)
    backdrop = traitlets.Dict().tag(sync=True)  # apart from the frame: it is large, and sent once

    def __init__(
        self,
        x: str,
        y: str,
        *,
        title: str,
        alt: str,
        extent: tuple[float, float, float, float],
        height: int = 300,
    ) -> None:
        self._x, self._y = Axis(x, False, *extent[:2]), Axis(y, False, *extent[2:])
        self._extent = extent
        self._relief: np.ndarray | None = None
        spec = {"x": asdict(self._x), "y": asdict(self._y)}
        super().__init__("surface", spec, title=title, alt=alt, height=height)

    def show_surface(self, heights: np.ndarray) -> None:
        """Draw the surface; heights: (H, W), the first row at the low end of y.

        Equal steps of colour are equal factors of the height above the lowest point.
        Raises TrainlabError if it is not two-dimensional, or nowhere finite.
        """
        heights = np.array(heights, dtype=np.float64)
        finite = heights[np.isfinite(heights)]
        if heights.ndim != 2 or not finite.size:
            raise TrainlabError(f"heights of shape {heights.shape}: give (H, W), some of it finite")
        above = (heights - finite.min()) / (np.ptp(finite) or 1.0)
        self._relief = 1 + np.log10(above.clip(0, 1) * 0.999 + 0.001) / 3  # three decades fill 0 to 1
        self._relief[~np.isfinite(heights)] = np.nan
        self.backdrop = {"relief": _float32(self._relief), "shape": list(heights.shape)}

    def show(
        self,
        paths: Sequence[Curve],
        start: tuple[float, float] | None = None,
        minima: Sequence[tuple[float, float]] = (),
    ) -> None:
        """Draw these paths in place of the former, the marker of the start, and the known minima."""
        kept = [_kept(path) for path in paths]
        self._data = (kept, start, tuple(minima))
        self.frame = {
            "curves": [_packed(path) for path in kept],
            "start": None if start is None else [float(each) for each in start],
            "minima": [[float(each) for each in minimum] for minimum in minima],
        }

    def _lines(self) -> list[str]:
        paths, start, minima = self._data or ((), None, ())
        lines = [f"{self._y.label} over {self._x.label}"]
        lines += [] if start is None else [f"start: ({_short(start[0])}, {_short(start[1])})"]
        lines += [f"minimum: ({_short(x)}, {_short(y)})" for x, y in minima]
        for path in paths:
            end = f"({_short(path.x[-1])}, {_short(path.y[-1])})" if len(path.x) else "nowhere"
            lines.append(f"{path.name}: at {end} after {max(len(path.x) - 1, 0)} steps")
        return lines

    def _draw(self, figure: Figure) -> None:
        axes = figure.add_subplot()
        paths, start, minima = self._data or ((), None, ())
        if self._relief is not None:
            rows, columns = self._relief.shape
            x, y = np.linspace(*self._extent[:2], columns), np.linspace(*self._extent[2:], rows)
            axes.contour(x, y, np.ma.masked_invalid(self._relief), 12, colors=INK, linewidths=0.5, alpha=0.6)
        for path in paths:
            _plot(axes, path)
        for x, y in minima:
            axes.plot(x, y, "*", color=INK, markersize=9)
        if start is not None:
            axes.plot(*start, "o", color=INK, markersize=7, markerfacecolor="none")
        _dress(axes, self._x, self._y)
        axes.grid(False)
        _legend(axes)


class SketchChart(Chart):
    """An empty chart to draw a prediction into, by pointer or keys; then both, it and the truth.

    x, y: with low and high.  knots: the places on x, evenly spaced, at which the drawing is taken.
    drawn: the value at each knot, None where nothing is drawn yet; observe it.  locked: no more drawing.
    Raises TrainlabError if an axis has no bounds.
    """

    drawn: traitlets.List[Any] = traitlets.List().tag(sync=True)
    locked = traitlets.Bool(False).tag(sync=True)

    def __init__(self, x: Axis, y: Axis, *, knots: int = 11, title: str, alt: str, height: int = 240) -> None:
        for axis in (x, y):
            if axis.low is None or axis.high is None or not axis.low < axis.high:
                raise TrainlabError(
                    f"axis {axis.label!r} goes from {axis.low} to {axis.high}: a sketch needs low < high"
                )
        if knots < 2:
            raise TrainlabError(f"knots={knots}: a sketch needs at least 2")
        self._x, self._y = x, y
        space = np.geomspace if x.log else np.linspace
        self.knots: np.ndarray = space(x.low or 0.0, x.high or 0.0, knots)
        spec = {"x": asdict(x), "y": asdict(y), "knots": self.knots.tolist()}
        super().__init__("sketch", spec, title=title, alt=alt, height=height)

    @traitlets.default("drawn")
    def _nothing(self) -> list[float | None]:
        return [None] * len(self.knots)

    @traitlets.validate("drawn")
    def _fits(self, proposal: Any) -> list[float | None]:
        drawn = list(proposal["value"])
        if len(drawn) != len(self.knots):
            raise TrainlabError(
                f"{len(drawn)} values are drawn, the sketch has {len(self.knots)} knots: give one for each"
            )
        return drawn

    @property
    def complete(self) -> bool:
        """Whether every knot has a value."""
        return None not in self.drawn

    def reveal(self, truth: Curve, lesson: str = "") -> None:
        """Show the truth beside the drawing, and lock it; lesson: a sentence that stands below."""
        truth = _kept(truth)
        self._data = (truth, lesson)
        self.locked = True
        self.frame = {"curves": [_packed(truth)], "lesson": lesson}

    def _prediction(self) -> Curve:
        values = np.array([np.nan if each is None else each for each in self.drawn], dtype=np.float64)
        return Curve("your prediction", self.knots, values, color=1, style="dashed")

    def _lines(self) -> list[str]:
        lines = [f"{self._y.label} over {self._x.label}"]
        said = ["-" if each is None else _short(each) for each in self.drawn]
        lines.append(f"your prediction: {' '.join(said)}")
        if self._data is not None:
            truth, lesson = self._data
            lines += [_last(truth), *([lesson] if lesson else [])]
        return lines

    def _draw(self, figure: Figure) -> None:
        axes = figure.add_subplot()
        _plot(axes, self._prediction())
        if self._data is not None:
            _plot(axes, self._data[0])
        _dress(axes, self._x, self._y)
        _legend(axes)
