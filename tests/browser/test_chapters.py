"""Every chapter in a real JupyterLab in a real browser, as a learner meets it."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from chapters.environment import NOTEBOOKS, REPOSITORY, chapter_paths
from chapters.stored import WIDGET_VIEW

if TYPE_CHECKING:  # the others import it where they know that there is a browser
    from browser.notebook_page import NotebookPage

pytestmark = pytest.mark.browser

ARTEFACTS = REPOSITORY / "artefacts"
# The longest that running a chapter may take here; unattended, a chapter has 60 to 150 s.
RUN_SECONDS = float(os.environ.get("TRAINLAB_BROWSER_SECONDS", "400"))


@pytest.fixture
def lab_folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    if (tmp_path / "jupyterlab.log").exists():
        ARTEFACTS.mkdir(exist_ok=True)
        shutil.copy(tmp_path / "jupyterlab.log", ARTEFACTS)


def _title(path: Path) -> str:
    """The text of the chapter's first heading."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    found = re.search(r"^# (.+)$", "".join(cells[0]["source"]), re.MULTILINE)
    assert found, f"{path.name}: the first cell has no title"
    return re.sub(r"[`*]", "", found[1]).strip()


@pytest.mark.parametrize("chapter", chapter_paths(), ids=lambda path: path.stem)
def test_chapter_runs_in_the_browser(chapter: Path, lab_folder: Path) -> None:
    from browser.notebook_page import THEMES, NotebookPage, browser_page, running_lab

    # `00` is what the link opens, so each chapter is handed out alone.
    chapters = lab_folder / "chapters"
    chapters.mkdir()
    shutil.copy(chapter, chapters)
    with running_lab(lab_folder, chapters) as link, browser_page() as page:
        notebook = NotebookPage.opened(page, link)
        assert page.locator(".jp-NotebookPanel h1").first.inner_text().strip("¶ \n") == _title(chapter)
        assert not notebook.outputs(), "the learner's copy arrives without outputs"
        assert page.get_by_text("Would you like to").count() == 0, "the news pop-up is off"
        notebook.run_all(RUN_SECONDS)
        for theme in THEMES:
            notebook.set_theme(theme)
            notebook.scroll(0)
            page.screenshot(path=ARTEFACTS / f"{chapter.stem}-{theme}.png")
        assert notebook.error_outputs() == []
        assert notebook.errors == [], "errors in the page's own console"
        assert all(cell["execution_count"] for cell in notebook.cells() if _is_code(cell))
        assert notebook.outputs(), "nothing was put out"
        _assert_pictures_are_drawn(notebook)
        _assert_a_prediction_lifts_the_curtain(notebook)


def _is_code(cell: dict) -> bool:
    return cell["cell_type"] == "code" and bool("".join(cell["source"]).strip())


def _assert_pictures_are_drawn(notebook: NotebookPage) -> None:
    """What the file holds as a picture is on the page, with a size, once it is scrolled to."""
    # a panel brings a picture of itself for where it cannot live: here it lives
    shown = [output.get("data", {}) for output in notebook.outputs()]
    expected = sum("image/png" in data and WIDGET_VIEW not in data for data in shown)
    if not expected:
        return
    script = (
        "() => [...document.querySelectorAll('.jp-OutputArea img')].filter(i => i.naturalWidth > 50).length"
    )
    reached, previous, drawn = notebook.scroll(0), -1, 0
    while not drawn and reached > previous:
        drawn = notebook.page.evaluate(script)
        reached, previous = notebook.scroll(reached + 600), reached
    assert drawn, f"{expected} pictures in the notebook, none on the page"


def _assert_a_prediction_lifts_the_curtain(notebook: NotebookPage) -> None:
    """The first result waits for its prediction, and stands beside it once that is committed."""
    if not any("tl.predict(" in "".join(cell["source"]) for cell in notebook.cells()):
        return
    page = notebook.page
    panel = page.locator(".jp-OutputArea-child").filter(has=page.get_by_role("button", name="Commit")).first
    reached, previous = notebook.scroll(0), -1
    while panel.count() == 0 and reached > previous:
        reached, previous = notebook.scroll(reached + 600), reached
    assert page.get_by_text("Predicted:").count() == 0, "a result shows before its prediction"
    radios = panel.locator("input[type=radio]")
    if radios.count():
        radios.first.check()
    else:
        field = panel.locator("input").first
        low, _, high = (field.get_attribute("placeholder") or "").partition(" to ")
        assert high, "the field does not say from where to where"
        field.fill(low)  # what lies outside is refused: no number would do for every question
    panel.get_by_role("button", name="Commit").click()
    page.get_by_text("Predicted:").first.wait_for(timeout=10_000)


def test_the_link_opens_the_first_chapter(lab_folder: Path) -> None:
    from browser.notebook_page import NotebookPage, browser_page, running_lab

    first = chapter_paths()[0].name
    with running_lab(lab_folder, NOTEBOOKS) as link, browser_page() as page:
        assert f"/lab/tree/{first}?token=" in link
        NotebookPage.opened(page, link)
        assert page.locator(".jp-NotebookPanel").count() == 1
        assert page.locator(".lm-TabBar-tabLabel", has_text=first).count() >= 1
