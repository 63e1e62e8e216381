"""What a stored chapter says about itself, read from its file without running it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chapters.environment import REPOSITORY

LONGEST_CELL = 25
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
# A path of one machine among the outputs would be wrong, and compared, on every other.
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:tmp|root|home|Users|var/folders)/[\w.]+")

Cell = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Tally:
    """How many of a chapter's code cells nbval compares, leaves out, or has nothing to compare in."""

    code: int
    compared: int
    ignored: int

    @property
    def silent(self) -> int:
        return self.code - self.compared - self.ignored


def read(path: Path) -> dict[str, Any]:
    notebook: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return notebook


def code_cells(notebook: dict[str, Any]) -> list[Cell]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def source(cell: Cell) -> str:
    return "".join(cell["source"])


def is_tagged(cell: Cell, tag: str) -> bool:
    return tag in cell["metadata"].get("tags", [])


def tally(notebook: dict[str, Any]) -> Tally:
    """Count the code cells by what nbval does with their outputs."""
    cells = code_cells(notebook)
    ignored = [cell for cell in cells if is_tagged(cell, "nbval-ignore-output")]
    compared = [cell for cell in cells if cell["outputs"] and cell not in ignored]
    return Tally(len(cells), len(compared), len(ignored))


def complaints(notebook: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a chapter's file, one sentence each."""
    cells = code_cells(notebook)
    if not cells:
        yield "there is no code cell"
    if [cell["execution_count"] for cell in cells] != list(range(1, len(cells) + 1)):
        yield "the code cells were not all run once from top to bottom: nbval would compare nothing"
    for number, cell in enumerate(cells):
        for complaint in _about_cell(cell):
            yield f"code cell {number}: {complaint}"
    if not tally(notebook).compared:
        yield "no output is compared"
    yield from _about_widgets(notebook)


def _about_cell(cell: Cell) -> Iterator[str]:
    lines = len(source(cell).splitlines())
    if lines > LONGEST_CELL:
        yield f"{lines} lines, {LONGEST_CELL} are allowed"
    if is_tagged(cell, "nbval-skip"):
        yield "nbval-skip keeps it from being run: leave out its output only, by the tag nbval-ignore-output"
    if re.search(r"^\s*#+\s*NBVAL_", source(cell), re.MULTILINE):
        yield "a comment tells nbval what to do, which learners read: use the tag of that name"
    for output in cell["outputs"]:
        if output["output_type"] == "error":
            yield f"its output is an error, {output['ename']}: {output['evalue']}"
        found = MACHINE_PATH.search(_text(output)) or re.search(re.escape(str(REPOSITORY)), _text(output))
        if found:
            yield f"its output names a path of one machine, {found[0]}"


def _text(output: dict[str, Any]) -> str:
    """What an output says in words (pictures are left out)."""
    said = {mime: value for mime, value in output.get("data", {}).items() if mime.startswith("text/")}
    return "\n".join("".join(value) for value in [output.get("text", ""), *said.values()])


def _about_widgets(notebook: dict[str, Any]) -> Iterator[str]:
    """Widget states are stored for every model that is shown or referred to, or not at all."""
    state = notebook["metadata"].get("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    outputs = [output for cell in code_cells(notebook) for output in cell["outputs"]]
    shown = {o["data"][WIDGET_VIEW]["model_id"] for o in outputs if WIDGET_VIEW in o.get("data", {})}
    referred = set(re.findall(r'"IPY_MODEL_(\w+)"', json.dumps(state)))
    missing = (shown | referred) - set(state)
    if missing:
        yield f"{len(missing)} widgets are shown whose state is not stored: store the chapter again"
    if "widgets" in notebook["metadata"] and not state:
        yield "metadata.widgets is there but empty: store the chapter again"
