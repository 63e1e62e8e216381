"""Every chapter's file is fit to be compared: nbval alone passes a notebook that was never run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from chapters import stored
from chapters.environment import chapter_paths


@pytest.mark.parametrize("chapter", chapter_paths(), ids=lambda path: path.stem)
def test_stored_chapter(chapter: Path) -> None:
    notebook = stored.read(chapter)
    assert list(stored.complaints(notebook)) == []
    tally = stored.tally(notebook)
    print(
        f"{chapter.stem}: {tally.compared} compared, {tally.ignored} ignored, {tally.silent} without output"
    )
    assert tally.compared > tally.ignored, "most outputs are to be compared"


@pytest.fixture
def notebook() -> dict[str, Any]:
    """A sound one: a cell that prints, one whose output is left out, one that says nothing."""
    v4 = nbformat.v4
    printed = v4.new_code_cell("print(1)", execution_count=1, outputs=[v4.new_output("stream", text="1\n")])
    timed = v4.new_code_cell("print(time())", execution_count=2)
    timed["metadata"]["tags"] = ["nbval-ignore-output"]
    timed.outputs = [v4.new_output("stream", text="1234.5\n")]
    silent = v4.new_code_cell("a = 1", execution_count=3)
    return v4.new_notebook(cells=[v4.new_markdown_cell("# Title"), printed, timed, silent])


def test_a_sound_notebook(notebook: dict[str, Any]) -> None:
    assert list(stored.complaints(notebook)) == []
    tally = stored.tally(notebook)
    assert tally == stored.Tally(code=3, compared=1, ignored=1)
    assert tally.silent == 1


def test_never_run(notebook: dict[str, Any]) -> None:
    notebook["cells"][3]["execution_count"] = None
    assert "not all run once" in " ".join(stored.complaints(notebook))


def test_long_cell(notebook: dict[str, Any]) -> None:
    notebook["cells"][3]["source"] = "a = 1\n" * 26
    assert list(stored.complaints(notebook)) == ["code cell 2: 26 lines, 25 are allowed"]


def test_stored_error(notebook: dict[str, Any]) -> None:
    error = nbformat.v4.new_output("error", ename="ValueError", evalue="no", traceback=[])
    notebook["cells"][3]["outputs"] = [error]
    assert list(stored.complaints(notebook)) == ["code cell 2: its output is an error, ValueError: no"]


def test_skipped_cell(notebook: dict[str, Any]) -> None:
    notebook["cells"][3]["metadata"]["tags"] = ["nbval-skip"]
    assert "nbval-skip" in " ".join(stored.complaints(notebook))


def test_marked_by_a_comment(notebook: dict[str, Any]) -> None:
    notebook["cells"][3]["source"] = "# NBVAL_IGNORE_OUTPUT\na = 1"
    assert "which learners read" in " ".join(stored.complaints(notebook))


def test_machine_path(notebook: dict[str, Any]) -> None:
    home = "/home/" + "someone/notes"
    notebook["cells"][3]["outputs"] = [nbformat.v4.new_output("stream", text=f"saved to {home}\n")]
    assert "names a path of one machine" in " ".join(stored.complaints(notebook))


def test_nothing_compared(notebook: dict[str, Any]) -> None:
    notebook["cells"][1]["outputs"] = []
    assert list(stored.complaints(notebook)) == ["no output is compared"]


def test_widgets_are_complete_or_absent(notebook: dict[str, Any]) -> None:
    view = {stored.WIDGET_VIEW: {"model_id": "abc", "version_major": 2, "version_minor": 0}}
    notebook["cells"][3]["outputs"] = [nbformat.v4.new_output("display_data", data=view)]
    assert "1 widgets are shown" in " ".join(stored.complaints(notebook))
    state = {"abc": {"state": {"layout": "IPY_MODEL_def"}}}
    notebook["metadata"]["widgets"] = {stored.WIDGET_STATE: {"state": state}}
    assert "1 widgets are shown" in " ".join(stored.complaints(notebook)), "its layout is missing"
    state["def"] = {"state": {}}
    notebook["metadata"]["widgets"] = {stored.WIDGET_STATE: {"state": state}}
    assert list(stored.complaints(notebook)) == []
    notebook["metadata"]["widgets"] = {}
    assert "metadata.widgets is there but empty" in " ".join(stored.complaints(notebook))
