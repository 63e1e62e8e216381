"""The charts in a real browser: what is drawn, said by the keys, and sent back to the kernel."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from browser.notebook_page import NotebookPage
    from playwright.sync_api import Locator

# one lab for the whole file: they stay in one process
pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("charts")]

CELLS = (
    """import threading, time
import ipywidgets, numpy as np
from trainlab.widgets.charts import *
said = ipywidgets.HTML("nothing")
curves = CurveChart("step", "loss (nats)", title="Loss", alt="two runs")
x = np.arange(5.0)
curves.show([Curve("fast", x, 4 / (1 + x)), Curve("slow", x, 4 - x / 2, 1)], [Mark(2, "dropout 0.5")])
go_on = ipywidgets.Button(description="Go on")
def later():
    for last in range(1, 21):
        curves.show([Curve("fast", x, 4 / (1 + x)), Curve("slow", x, np.r_[4, 3, 2, 1, last], 1)])
        time.sleep(0.05)
go_on.on_click(lambda _: threading.Thread(target=later).start())
display(curves, curves, go_on, said)""",
    """epochs, losses = Axis("epoch", low=0, high=10), Axis("loss (nats)", low=0, high=2)
sketch = SketchChart(epochs, losses, title="Draw", alt="")
surface = SurfaceChart("a", "b", title="Bowl", alt="", extent=(-2, 2, -1, 1))
a, b = np.meshgrid(np.linspace(-2, 2, 30), np.linspace(-1, 1, 30))
surface.show_surface(a**2 + b**2)
surface.show([Curve("SGD", [-1, 0], [0.5, 0])], start=(-1, 0.5))
sketch.observe(lambda change: setattr(said, "value", f"drawn {change.new}"), "drawn")
surface.observe(lambda change: setattr(said, "value", f"picked {change.new}"), "picked")
pair = ipywidgets.HBox([sketch, surface])
reveal = ipywidgets.Button(description="Reveal")
reveal.on_click(lambda _: sketch.reveal(Curve("measured", [0, 10], [2, 0]), "It falls."))
display(pair, reveal)""",
    """square, sides = (0, 1, 0, 1), ["left", "right"]
boundary = BoundaryChart("u", "v", title="Halves", alt="", extent=square, classes=sides)
boundary.show(np.tile(np.linspace(0, 1, 11), (2, 1)), np.array([[0.9, 0.9]]), np.array([1]))
images = ImageChart(title="Digits", alt="", columns=4)
images.show(np.zeros((3, 8, 8)), ["a", "b", "c"], [True, False, True])
bars = BarChart("accuracy", title="Bars", alt="")
bars.show(["one", "two"], [0.5, 0.25])
kind = ipywidgets.Dropdown(options=["plain", "momentum"], description="kind")
ipywidgets.VBox([kind, boundary, images, bars]).add_class("trainlab-panel")""",
)


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NotebookPage]:
    """A notebook with every kind of chart, its cells run."""
    from browser.notebook_page import NotebookPage, browser_page, running_lab, write_notebook

    folder = tmp_path_factory.mktemp("lab")
    chapters = folder / "chapters"
    chapters.mkdir()
    write_notebook(chapters / "00_charts.ipynb", CELLS)
    with (
        running_lab(folder, chapters, every_cell_drawn=True) as link,
        browser_page(1280, 2400) as page,
    ):
        opened = NotebookPage.opened(page, link)
        opened.run_all(60)
        page.wait_for_function("() => document.querySelectorAll('.trainlab-chart[data-frame]').length === 7")
        assert opened.error_outputs() == []
        yield opened
        assert opened.errors == [], "errors in the page's own console"


def _chart(notebook: NotebookPage, title: str) -> Locator:
    return notebook.page.locator(".trainlab-chart").filter(has_text=title).first


def _label(chart: Locator) -> str:
    return chart.locator(".stage > canvas").get_attribute("aria-label") or ""


def _painted(chart: Locator, color: str, tolerance: int = 12) -> int:
    """How many of the canvas' pixels have about this colour, for instance "#2b7bba"."""
    script = """(root, [red, green, blue, tolerance]) => {
        const canvas = root.querySelector('.stage > canvas');
        const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        let count = 0;
        for (let i = 0; i < data.length; i += 4) {
            count += data[i + 3] > 200 && Math.abs(data[i] - red) + Math.abs(data[i + 1] - green)
                + Math.abs(data[i + 2] - blue) <= tolerance;
        }
        return count; }"""
    rgb = [int(color[place : place + 2], 16) for place in (1, 3, 5)]
    count: int = chart.evaluate(script, [*rgb, tolerance])
    return count


def _said(notebook: NotebookPage, start: str) -> list[float | None]:
    """The list that the kernel wrote after `start`, once it has written one."""
    place = notebook.page.locator(".widget-html-content", has_text=start)
    place.wait_for(timeout=5000)
    text = re.sub(r"^\w+ ", "", place.inner_text())
    values: list[float | None] = json.loads(text.replace("None", "null"))
    return values


def _paint(notebook: NotebookPage) -> None:
    notebook.page.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done, 60)))")


def _leave(notebook: NotebookPage) -> None:
    """Take the pointer away, so that nothing is hovered."""
    notebook.page.mouse.move(5, 5)


def test_a_button_of_the_legend_hides_its_curve(notebook: NotebookPage) -> None:
    chart = _chart(notebook, "Loss")
    blue = _painted(chart, "#2b7bba")
    assert blue > 200
    button = chart.get_by_role("button", name="fast")
    button.click()
    _paint(notebook)
    assert button.get_attribute("aria-pressed") == "false"
    assert _painted(chart, "#2b7bba") == 0
    button.click()
    _paint(notebook)
    assert _painted(chart, "#2b7bba") == blue


def test_the_keys_move_a_crosshair_and_its_values_are_said(notebook: NotebookPage) -> None:
    chart = _chart(notebook, "Loss")
    chart.locator(".stage > canvas").focus()
    notebook.page.keyboard.press("Home")
    notebook.page.keyboard.press("ArrowRight")
    said = chart.locator("[aria-live=polite]")
    assert said.inner_text() == "step 1, fast 2, slow 3.5"
    notebook.page.keyboard.press("ArrowRight")
    assert said.inner_text() == "step 2, dropout 0.5, fast 1.333, slow 3"
    assert chart.locator(".tip").is_visible()
    notebook.page.keyboard.press("Escape")
    _paint(notebook)
    assert not chart.locator(".tip").is_visible()


def test_hovering_shows_the_values_of_the_nearest_point(notebook: NotebookPage) -> None:
    chart = _chart(notebook, "Loss")
    box = chart.locator(".stage").bounding_box()
    assert box
    notebook.page.mouse.move(box["x"] + box["width"] - 20, box["y"] + box["height"] / 2)
    _paint(notebook)
    rows = chart.locator(".tip div").all_inner_texts()
    assert [re.sub(r"\s+", " ", row).strip() for row in rows] == ["step 4", "fast 0.8", "slow 2"]
    _leave(notebook)


def test_the_scale_and_the_smoothing_are_the_browsers_own(notebook: NotebookPage) -> None:
    chart = _chart(notebook, "Loss")
    before = _pixels(chart)
    chart.get_by_role("button", name="log").click()
    _leave(notebook)
    _paint(notebook)
    logarithmic = _pixels(chart)
    chart.get_by_role("slider", name="smoothing").fill("0.9")
    _paint(notebook)
    assert len({before, logarithmic, _pixels(chart)}) == 3
    assert _pixels(notebook.page.locator(".trainlab-chart").nth(1)) == before, "the other view keeps its own"
    chart.get_by_role("slider", name="smoothing").fill("0")
    chart.get_by_role("button", name="log").click()
    _leave(notebook)
    _paint(notebook)
    assert _pixels(chart) == before


def _pixels(chart: Locator) -> str:
    found: str = chart.evaluate("root => root.querySelector('.stage > canvas').toDataURL()")
    return found


def test_frames_from_a_thread_reach_every_view(notebook: NotebookPage) -> None:
    page = notebook.page
    page.get_by_role("button", name="Go on").click()
    views = [page.locator(".trainlab-chart").nth(place) for place in (0, 1)]
    for view in views:
        page.wait_for_function(
            "root => root.querySelector('.stage > canvas').ariaLabel.includes('slow 20')",
            arg=view.element_handle(),
            timeout=5000,
        )
        assert 2 <= int(view.get_attribute("data-frame") or 0) <= 21
        assert float(view.get_attribute("data-painted") or 0) > 0


def test_a_theme_switch_is_drawn(notebook: NotebookPage) -> None:
    chart = _chart(notebook, "Loss")
    assert _painted(chart, "#ffffff") == 0  # what is white here is the page, not the canvas
    notebook.set_theme("dark")
    notebook.page.wait_for_timeout(500)
    assert _painted(chart, "#ffffff") > 50
    notebook.set_theme("light")
    assert _painted(chart, "#ffffff") == 0


def test_a_start_is_picked_by_a_click_and_by_keys(notebook: NotebookPage) -> None:
    canvas = _chart(notebook, "Bowl").locator(".stage > canvas")
    box = canvas.bounding_box()
    assert box
    canvas.focus()
    notebook.page.keyboard.press("ArrowRight")  # a fiftieth of the extent
    assert _said(notebook, "picked") == pytest.approx([-0.92, 0.5])
    canvas.click(position={"x": box["width"] - 14, "y": 28})
    notebook.page.wait_for_function("() => document.body.innerText.includes('picked [1.9')", timeout=5000)
    x, y = _said(notebook, "picked")
    assert x == pytest.approx(2, abs=0.05)
    assert y == pytest.approx(1, abs=0.05)


def test_a_prediction_is_drawn_by_pointer_and_by_keys_until_it_is_revealed(notebook: NotebookPage) -> None:
    page, chart = notebook.page, _chart(notebook, "Draw")
    canvas = chart.locator(".stage > canvas")
    box = canvas.bounding_box()
    assert box
    low, high = box["y"] + box["height"] - 39, box["y"] + 27
    page.mouse.move(box["x"] + 30, high)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 13, low, steps=4)  # few steps: the knots between are filled in
    page.mouse.up()
    drawn = _said(notebook, "drawn")
    assert drawn == pytest.approx([2 - 0.2 * knot for knot in range(11)], abs=0.06)
    canvas.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")  # a fortieth of the axis
    page.wait_for_function("old => !document.body.innerText.includes(old)", arg=f"drawn {drawn}")
    assert _said(notebook, "drawn")[1] == pytest.approx((drawn[1] or 0) - 0.05, abs=1e-3)
    page.get_by_role("button", name="Reveal").click()
    chart.get_by_text("It falls.").wait_for(timeout=5000)
    kept = _said(notebook, "drawn")
    page.mouse.click(box["x"] + 100, low)
    page.keyboard.press("ArrowUp")
    _paint(notebook)
    assert _said(notebook, "drawn") == kept, "it is locked"
    assert "measured ends at 0" in _label(chart)


def test_a_panel_without_a_slider_keeps_its_keys(notebook: NotebookPage) -> None:
    """In command mode the arrows are JupyterLab's, and d, d would delete the cell."""
    page = notebook.page
    page.keyboard.press("Escape")
    box = page.get_by_role("combobox", name="kind")
    box.focus()
    cells, active = len(notebook.cells()), page.evaluate(_ACTIVE)
    for key in ("ArrowDown", "d", "d"):
        page.keyboard.press(key)
    page.wait_for_timeout(300)
    assert notebook.ask("kind.value") == "momentum"
    assert (len(notebook.cells()), page.evaluate(_ACTIVE)) == (cells, active)


_ACTIVE = "() => window.jupyterapp.shell.currentWidget.content.activeCellIndex"


def test_the_other_kinds_say_and_mark_what_they_show(notebook: NotebookPage) -> None:
    page = notebook.page
    assert "3 images, 1 wrong" in _label(_chart(notebook, "Digits"))
    assert _painted(_chart(notebook, "Digits"), "#cc4b4b") > 100
    bars = _chart(notebook, "Bars")
    assert "one 0.5, two 0.25" in _label(bars)
    assert _painted(bars, "#2b7bba", 3) > 1000
    halves = _chart(notebook, "Halves")
    halves.locator(".stage > canvas").focus()
    page.keyboard.press("Shift+ArrowRight")
    assert "right 0.6" in halves.locator("[aria-live=polite]").inner_text()
