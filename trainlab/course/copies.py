"""The learner's copies: chapters handed out into `my/`, never written over once touched.

A chapter counts as touched when the source of a cell differs from what was handed out: running it,
which changes outputs and metadata, is not touching it. What was handed out is recorded in
`my/.origins.json`.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import TrainlabError, unknown_name

ORIGINS = ".origins.json"
Notebook = dict[str, Any]
Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Places:
    """Where the course's own chapters lie, and where the learner's copies go."""

    chapters: Path
    my: Path


def places(chapters: str | Path | None = None, my: str | Path | None = None) -> Places:
    """The folders in use; those not named are the checkout's.

    Where the package is installed without its checkout, the chapters are inside it and `my/` is in
    the current directory.
    """
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / "notebooks").is_dir():
        ours = Places(checkout / "notebooks", checkout / "my")
    else:
        ours = Places(package / "chapters", Path.cwd() / "my")
    return Places(Path(chapters or ours.chapters).absolute(), Path(my or ours.my).absolute())


def chapter_files(chapters: Path) -> list[Path]:
    """The chapters in order, as their names (00_start_here, 01_...) put them.

    Raises TrainlabError if there is none.
    """
    found = sorted(chapters.glob("*.ipynb"))
    if not found:
        raise TrainlabError(f"no chapters in {chapters}: the installation is incomplete, install it again")
    return found


def find_chapter(chapters: Path, name: str) -> Path:
    """The chapter that `name` stands for: a number ("2", "02") or the notebook's name.

    Raises TrainlabError if there is none.
    """
    found = {path.stem: path for path in chapter_files(chapters)}
    for stem, path in found.items():
        if name.removesuffix(".ipynb") == stem or (name.isdecimal() and name.zfill(2) == stem[:2]):
            return path
    raise unknown_name("chapter", name, [stem[:2] for stem in found] if name.isdecimal() else found)


def update(where: Places, say: Callable[[str], object] = print) -> None:
    """Hand out every chapter that is missing, new or changed; what the learner wrote stays.

    An untouched copy is replaced. Beside a touched one the changed chapter arrives under a dated
    name, and `say` is told once. A deleted copy is handed out again.
    """
    record = _read_record(where.my)
    for path in chapter_files(where.chapters):
        chapter = cleared(_read(path))
        record[path.name] = _hand_out(chapter, where.my / path.name, record.get(path.name, {}), say)
        _write_json(where.my / ORIGINS, record)  # after each: an interruption forgets nothing


def reset(where: Places, name: str) -> tuple[Path, Path | None]:
    """Set the learner's version of a chapter aside and hand out a fresh one.

    Returns the fresh copy and where the old version went (None if there was none).
    """
    path = find_chapter(where.chapters, name)
    chapter, mine, aside = cleared(_read(path)), where.my / path.name, None
    if mine.exists():
        aside = _free_name(mine, "mine")
        mine.rename(aside)
    _write_json(mine, chapter)
    record = _read_record(where.my)
    record[path.name] = {"given": digest(chapter)}
    _write_json(where.my / ORIGINS, record)
    return mine, aside


def cleared(notebook: Notebook) -> Notebook:
    """A copy of the notebook without outputs, execution counts and widget states."""
    fresh: Notebook = json.loads(json.dumps(notebook))
    fresh.get("metadata", {}).pop("widgets", None)
    for cell in fresh["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
            cell.get("metadata", {}).pop("execution", None)
    return fresh


def digest(notebook: Notebook) -> str:
    """A digest of what the cells say, blind to outputs, metadata and empty cells.

    JupyterLab adds an empty cell where the last one is run: that is no change worth keeping.
    """
    cells = [[cell["cell_type"], "".join(cell["source"]).strip()] for cell in notebook["cells"]]
    text = json.dumps([cell for cell in cells if cell[1]])
    return hashlib.sha256(text.encode()).hexdigest()


def _hand_out(chapter: Notebook, mine: Path, record: Record, say: Callable[[str], object]) -> Record:
    """Bring one copy up to date; returns what is to be recorded about it."""
    new = digest(chapter)
    current = _digest_on_disk(mine)
    if current is None or (current == record.get("given") and current != new):
        _write_json(mine, chapter)
        return {"given": new}
    if current == new:
        return {"given": new}
    if new in (record.get("given"), record.get("offered")):
        return record
    beside = _free_name(mine, "updated")
    _write_json(beside, chapter)
    say(f"{mine.name} has changed in the course. Yours is as you left it; the new one is {beside.name}")
    return {**record, "offered": new}


def _digest_on_disk(mine: Path) -> str | None:
    """The digest of the learner's copy, None if there is none, "" if it is no readable notebook."""
    if not mine.exists():
        return None
    try:
        return digest(_read(mine))
    except (TrainlabError, KeyError, TypeError):
        return ""  # theirs all the same: it counts as touched


def _free_name(mine: Path, label: str) -> Path:
    """A dated name beside `mine` that is not taken: 02_training_loop.mine-2026-03-31-0915.ipynb"""
    stem = f"{mine.stem}.{label}-{datetime.datetime.now():%Y-%m-%d-%H%M}"
    candidate, count = mine.with_name(f"{stem}.ipynb"), 1
    while candidate.exists():
        count += 1
        candidate = mine.with_name(f"{stem}-{count}.ipynb")
    return candidate


def _read_record(my: Path) -> dict[str, Record]:
    """What was handed out; nothing where the record is missing or unreadable.

    Without a record a copy that differs from the chapter counts as touched: nothing is lost.
    """
    try:
        record = json.loads((my / ORIGINS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    pairs = record.items() if isinstance(record, dict) else []
    return {name: entry for name, entry in pairs if isinstance(entry, dict)}


def _read(path: Path) -> Notebook:
    try:
        notebook: Notebook = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainlabError(
            f"{path} is not a readable notebook ({error}): restore it and try again"
        ) from error
    return notebook


def _write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a whole file or none: a new one takes the old one's place at once."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # the folder may be no folder
            partial.unlink(missing_ok=True)
        reason = error.strerror or error
        raise TrainlabError(f"cannot write {path} ({reason}): free space or make it writable") from error
