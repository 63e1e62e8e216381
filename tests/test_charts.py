"""The Python side of the charts: what is sent, what is kept, and what a saved notebook shows."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from matplotlib import pyplot as plt
from PIL import Image

from trainlab.errors import TrainlabError
from trainlab.plots import COLORS
from trainlab.widgets.charts import (
    POINTS,
    Axis,
    BarChart,
    BoundaryChart,
    Chart,
    Curve,
    CurveChart,
    ImageChart,
    Mark,
    SketchChart,
    SurfaceChart,
    thin,
)

EPOCHS, LOSS = Axis("epoch", low=0, high=10), Axis("loss (nats)", low=0, high=2)
SQUARE = (0.0, 1.0, 0.0, 1.0)


def _curves() -> CurveChart:
    chart = CurveChart("step", Axis("loss (nats)", log=True), title="Loss", alt="two runs")
    chart.show(
        [Curve("fast", [1, 2, 3], [2.0, 1.0, 0.1234]), Curve("slow", [1, 2, 3], [2, np.nan, np.inf], 1)],
        [Mark(2, "dropout 0.5")],
        cursor=1,
    )
    return chart


def _boundary() -> BoundaryChart:
    chart = BoundaryChart("u", "v", title="Halves", alt="", extent=SQUARE, classes=["left", "right"])
    chart.show(np.tile([0.1, 0.2, 0.3, 0.9], (2, 1)), np.array([[0.9, 0.5]]), np.array([1]))
    return chart


def _images() -> ImageChart:
    chart = ImageChart(title="Digits", alt="two digits", columns=2)
    chart.show(np.linspace(0, 1, 32).reshape(2, 4, 4), ["7", "3"], [True, False])
    return chart


def _bars() -> BarChart:
    chart = BarChart("accuracy", title="Per class", alt="")
    chart.show(["cat", "dog"], [0.51234, 0.9], texts=["0.512", "most"])
    return chart


def _surface() -> SurfaceChart:
    chart = SurfaceChart("a", "b", title="Bowl", alt="", extent=(-1, 1, -1, 1))
    a, b = np.meshgrid(np.linspace(-1, 1, 9), np.linspace(-1, 1, 7))
    chart.show_surface(a**2 + b**2)
    chart.show([Curve("SGD", [-1, 0.126], [0.5, 0])], start=(-1, 0.5), minima=[(0, 0)])
    return chart


def _sketch() -> SketchChart:
    chart = SketchChart(EPOCHS, LOSS, knots=3, title="Draw", alt="")
    chart.drawn = [2, 1, 0.5]
    chart.reveal(Curve("measured", [0, 10], [2, 0.25]), "It falls.")
    return chart


ALL: list[Callable[[], Chart]] = [_curves, _boundary, _images, _bars, _surface, _sketch]
TEXTS = {
    _curves: """Loss
  two runs
  loss (nats) over step
  fast: 0.12 at 3
  slow: 2 at 1, not finite from there
  mark at 2: dropout 0.5""",
    _boundary: """Halves
  v over u, 1 points
  left: 0.75 of the plane
  right: 0.25 of the plane""",
    _images: """Digits
  two digits
  2 images: ✓ 7, ✗ 3""",
    _bars: """Per class
  accuracy
  cat: 0.51
  dog: 0.9 (most)""",
    _surface: """Bowl
  b over a
  start: (-1, 0.5)
  minimum: (0, 0)
  SGD: at (0.13, 0) after 1 steps""",
    _sketch: """Draw
  loss (nats) over epoch
  your prediction: 2 1 0.5
  measured: 0.25 at 10
  It falls.""",
}


@pytest.mark.parametrize("build", ALL)
def test_the_text_says_what_is_drawn(build: Callable[[], Chart]) -> None:
    assert build().text() == TEXTS[build]


@pytest.mark.parametrize("build", ALL)
def test_the_picture_has_ink_on_a_clear_ground_and_leaves_pyplot_alone(build: Callable[[], Chart]) -> None:
    open_before = plt.get_fignums()
    picture = build().png()
    assert plt.get_fignums() == open_before
    alpha = np.asarray(Image.open(io.BytesIO(picture)))[:, :, 3]
    assert alpha[0, -1] == 0
    assert (alpha > 200).sum() > 500
    assert build().png() == picture


@pytest.mark.parametrize("build", ALL)
def test_a_saved_notebook_keeps_text_and_picture_beside_the_view(build: Callable[[], Chart]) -> None:
    chart = build()
    bundle = chart._repr_mimebundle_()
    assert bundle is not None
    assert bundle[0]["text/plain"] == chart.text()
    assert bundle[0]["image/png"].startswith(b"\x89PNG")
    assert bundle[0]["application/vnd.jupyter.widget-view+json"]["model_id"] == chart.model_id


def test_before_the_first_frame_there_is_a_text_and_a_picture() -> None:
    empty: list[Chart] = [
        CurveChart("step", "loss", title="Nothing"),
        BoundaryChart("u", "v", title="Nothing", alt="", extent=SQUARE, classes=["a", "b"]),
        ImageChart(title="Nothing", alt=""),
        BarChart("accuracy", title="Nothing", alt=""),
        SurfaceChart("a", "b", title="Nothing", alt="", extent=SQUARE),
        SketchChart(EPOCHS, LOSS, title="Nothing", alt=""),
    ]
    for chart in empty:
        assert chart.text().startswith("Nothing\n")
        assert chart.png().startswith(b"\x89PNG")


# --- what is sent ----------------------------------------------------------------------------------


def _sent(chart: Chart, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The messages that the chart sends from here on."""
    messages: list[dict[str, Any]] = []
    monkeypatch.setattr(chart.comm, "send", lambda **message: messages.append(message))
    return messages


def test_a_frame_is_one_message_with_its_numbers_as_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    chart = CurveChart("step", "loss")
    messages = _sent(chart, monkeypatch)
    x, y = np.arange(5), np.array([1, 0.5, np.nan, np.inf, 1e300])
    chart.show([Curve("train", x, y)], cursor=2)
    assert len(messages) == 1
    frame = messages[0]["data"]["state"]["frame"]
    assert frame["curves"][0]["name"] == "train"
    first, second = (np.frombuffer(buffer, np.float32) for buffer in messages[0]["buffers"])
    assert messages[0]["data"]["buffer_paths"] == [["frame", "curves", 0, "x"], ["frame", "curves", 0, "y"]]
    np.testing.assert_array_equal(first, x)
    np.testing.assert_array_equal(second, [1, 0.5, np.nan, np.inf, np.inf])


def test_a_surface_is_not_sent_again_with_every_path(monkeypatch: pytest.MonkeyPatch) -> None:
    chart = _surface()
    messages = _sent(chart, monkeypatch)
    chart.show([Curve("SGD", [0], [0])])
    assert list(messages[0]["data"]["state"]) == ["frame"]


def test_equal_factors_of_height_are_equal_steps_of_the_relief() -> None:
    chart = SurfaceChart("a", "b", title="", alt="", extent=SQUARE)
    chart.show_surface(5 + np.array([[0, 1.0, 10], [100, 1000, np.nan]]))
    relief = np.frombuffer(chart.backdrop["relief"], np.float32)
    np.testing.assert_allclose(np.diff(relief[2:5]), 1 / 3, atol=0.02)
    assert relief[0] == pytest.approx(0, abs=1e-6)
    assert np.isnan(relief[5])


def test_what_is_shown_is_the_callers_to_change_afterwards() -> None:
    chart, losses = CurveChart("step", "loss"), np.array([3.0, 2.0])
    chart.show([Curve("train", [0, 1], losses)])
    said = chart.text()
    losses[1] = 7
    assert chart.text() == said


def test_images_and_scores_go_as_single_bytes() -> None:
    frame = _images().frame
    np.testing.assert_array_equal(
        np.frombuffer(frame["images"], np.uint8), np.rint(np.linspace(0, 255, 32)).astype(np.uint8)
    )
    frame = _boundary().frame
    assert frame["soft"]
    np.testing.assert_array_equal(np.frombuffer(frame["scores"], np.uint8)[:4], [26, 51, 76, 230])
    assert frame["shape"] == [2, 4]


def test_a_frame_is_cheap_and_may_come_from_any_thread() -> None:
    chart = CurveChart("step", "loss")
    x = np.arange(300.0)
    seconds = []

    def run() -> None:
        for last in range(60):
            curves = [Curve(str(color), x, np.append(x[1:], last), color) for color in range(3)]
            start = time.perf_counter()
            chart.show(curves)
            seconds.append(time.perf_counter() - start)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert np.median(seconds) < 1.5e-3
    assert "2: 59 at 299" in chart.text()


def test_importing_and_making_charts_starts_no_thread() -> None:
    code = """
import threading
from trainlab.widgets.charts import BarChart, CurveChart
CurveChart("step", "loss"), BarChart("accuracy", title="", alt="")
assert threading.active_count() == 1, threading.enumerate()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# --- thinning --------------------------------------------------------------------------------------


def test_thinning_keeps_the_ends_and_takes_means_between() -> None:
    x = np.arange(2 + 7 * (POINTS - 2), dtype=float)
    y = np.sin(x / 50)
    thin_x, thin_y = thin(x, y)
    for long, short in ((x, thin_x), (y, thin_y)):
        assert (short[0], short[-1]) == (long[0], long[-1])
        np.testing.assert_allclose(short[1:-1], long[1:-1].reshape(-1, 7).mean(1))


@pytest.mark.parametrize("size", [1, 2, 299, 300, 301, 302, 450, 10_001])
def test_a_thinned_curve_has_at_most_so_many_points_in_order(size: int) -> None:
    x, y = thin(np.arange(float(size)), np.ones(size))
    assert len(x) == len(y) == min(size, POINTS)
    assert (np.diff(x) > 0).all()
    np.testing.assert_allclose(y, 1)


def test_a_gap_stays_a_gap() -> None:
    y = np.ones(3000)
    y[1500:1520] = np.nan
    y[100] = np.inf
    thinned = thin(np.arange(3000.0), y)[1]
    assert 2 <= (~np.isfinite(thinned)).sum() <= 5


# --- the sketch ------------------------------------------------------------------------------------


def test_a_sketch_is_complete_when_every_knot_has_a_value() -> None:
    chart = SketchChart(EPOCHS, LOSS, knots=3, title="", alt="")
    np.testing.assert_allclose(chart.knots, [0, 5, 10])
    assert chart.drawn == [None, None, None]
    assert not chart.complete
    chart.drawn = [1.0, None, 2.0]
    assert not chart.complete
    chart.drawn = [1.0, 0.0, 2.0]
    assert chart.complete
    assert not chart.locked
    chart.reveal(Curve("measured", [0, 10], [2, 1]))
    assert chart.locked


def test_knots_on_a_log_axis_are_even_factors_apart() -> None:
    chart = SketchChart(Axis("lr", log=True, low=1e-4, high=1), LOSS, knots=5, title="", alt="")
    np.testing.assert_allclose(chart.knots, [1e-4, 1e-3, 1e-2, 1e-1, 1])


# --- wrong calls -----------------------------------------------------------------------------------


def test_a_wrong_curve_is_refused_and_the_chart_stays_as_it_was() -> None:
    chart = _curves()
    frame, said = chart.frame, chart.text()
    with pytest.raises(TrainlabError, match=r"curve 'a' has x of shape \(2,\) and y of shape \(3,\)"):
        chart.show([Curve("a", [1, 2], [1, 2, 3])])
    with pytest.raises(TrainlabError, match=r"unknown style of a curve 'dash': did you mean 'dashed'"):
        chart.show([Curve("a", [1], [1], style="dash")])  # type: ignore[arg-type]
    assert chart.frame is frame
    assert chart.text() == said


def test_wrong_scores_are_refused() -> None:
    chart = _boundary()
    point, label = np.zeros((1, 2)), np.array([0])
    with pytest.raises(TrainlabError, match=r"scores \(3,\), points \(1, 2\) and labels \(1,\) do not fit"):
        chart.show(np.zeros(3), point, label)
    with pytest.raises(TrainlabError, match="class 2 is none of the 2 classes: name them all"):
        chart.show(np.full((2, 2), 2), point, label)
    three = BoundaryChart("u", "v", title="", alt="", extent=SQUARE, classes=["a", "b", "c"])
    with pytest.raises(TrainlabError, match="scores are probabilities, and there are 3 classes"):
        three.show(np.zeros((2, 2)), point, label)


def test_counts_that_differ_are_refused() -> None:
    with pytest.raises(TrainlabError, match=r"images \(2, 4, 4\), 1 captions and no marks do not fit"):
        _images().show(np.zeros((2, 4, 4)), ["7"])
    with pytest.raises(TrainlabError, match=r"images \(2, 4, 4\), 2 captions and 1 marks do not fit"):
        _images().show(np.zeros((2, 4, 4)), ["7", "3"], [True])
    with pytest.raises(TrainlabError, match="2 names, 1 values, 2 colors, 1 texts: give one of each"):
        _bars().show(["cat", "dog"], [1.0])


def test_a_surface_without_heights_is_refused() -> None:
    for heights in (np.zeros(3), np.full((2, 2), np.nan)):
        with pytest.raises(TrainlabError, match=r"heights of shape .*: give \(H, W\), some of it finite"):
            _surface().show_surface(heights)


def test_a_sketch_needs_bounds_and_a_value_for_each_knot() -> None:
    with pytest.raises(TrainlabError, match="axis 'loss' goes from None to None: a sketch needs low < high"):
        SketchChart(EPOCHS, Axis("loss"), title="", alt="")
    with pytest.raises(TrainlabError, match="knots=1: a sketch needs at least 2"):
        SketchChart(EPOCHS, LOSS, knots=1, title="", alt="")
    chart = SketchChart(EPOCHS, LOSS, knots=3, title="", alt="")
    with pytest.raises(TrainlabError, match="2 values are drawn, the sketch has 3 knots: give one for each"):
        chart.drawn = [1.0, 2.0]
    assert chart.drawn == [None, None, None]


def test_the_browser_has_the_colours_of_the_figures() -> None:
    assert tuple(_bars().spec["colors"]) == COLORS
