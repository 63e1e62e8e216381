"""The learner's copies: brought up to date without losing a word that the learner wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trainlab import TrainlabError
from trainlab.course import copies
from trainlab.course.copies import Places

FIRST, SECOND = "00_start_here.ipynb", "02_training_loop.ipynb"


def _notebook(*sources: str) -> dict[str, Any]:
    """A chapter with outputs, as `notebooks/` keeps them."""
    output = {"output_type": "stream", "name": "stdout", "text": ["the answer\n"]}
    cells = [
        {
            "cell_type": "code",
            "id": f"cell-{number}",
            "source": source.splitlines(keepends=True),
            "metadata": {"execution": {"iopub.execute_input": "2026"}, "tags": ["kept"]},
            "execution_count": number,
            "outputs": [output],
        }
        for number, source in enumerate(sources, start=1)
    ]
    return {"cells": cells, "metadata": {"widgets": {}}, "nbformat": 4, "nbformat_minor": 5}


def _write(path: Path, *sources: str) -> None:
    path.write_text(json.dumps(_notebook(*sources)), encoding="utf-8")


def _sources(path: Path) -> list[str]:
    return ["".join(cell["source"]) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]


@pytest.fixture
def where(tmp_path: Path) -> Places:
    chapters = tmp_path / "notebooks"
    chapters.mkdir()
    _write(chapters / FIRST, "a = 1", "print(a)")
    _write(chapters / SECOND, "b = 2")
    return Places(chapters, tmp_path / "my")


@pytest.fixture
def said(where: Places) -> list[str]:
    """What the terminal was told, with the copies handed out once."""
    lines: list[str] = []
    copies.update(where, lines.append)
    assert lines == []
    return lines


def _others(where: Places) -> list[Path]:
    return sorted(set(where.my.glob("*.ipynb")) - {where.my / FIRST, where.my / SECOND})


def test_copies_arrive_without_outputs(where: Places, said: list[str]) -> None:
    copy = json.loads((where.my / FIRST).read_text(encoding="utf-8"))
    assert _sources(where.my / FIRST) == ["a = 1", "print(a)"]
    for cell in copy["cells"]:
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
        assert cell["metadata"] == {"tags": ["kept"]}
    assert "widgets" not in copy["metadata"]
    original = json.loads((where.chapters / FIRST).read_text(encoding="utf-8"))
    assert original == _notebook("a = 1", "print(a)"), "the chapter itself is left alone"


def test_an_untouched_copy_is_replaced_silently(where: Places, said: list[str]) -> None:
    _write(where.my / FIRST, "a = 1", "print(a)")  # run by the learner: outputs and metadata differ
    _write(where.chapters / FIRST, "a = 10", "print(a)")
    copies.update(where, said.append)
    assert _sources(where.my / FIRST) == ["a = 10", "print(a)"]
    assert said == []
    assert _others(where) == []


def test_a_copy_that_was_only_run_keeps_its_outputs(where: Places, said: list[str]) -> None:
    _write(where.my / FIRST, "a = 1", "print(a)", "")  # JupyterLab adds the empty cell
    before = (where.my / FIRST).read_bytes()
    copies.update(where, said.append)
    assert (where.my / FIRST).read_bytes() == before


def test_a_touched_copy_stays_and_the_new_chapter_arrives_beside_it(where: Places, said: list[str]) -> None:
    _write(where.my / FIRST, "a = 7  # mine", "print(a)")
    before = (where.my / FIRST).read_bytes()
    copies.update(where, said.append)
    assert (said, _others(where)) == ([], []), "the chapter has not changed"

    _write(where.chapters / FIRST, "a = 10", "print(a)")
    copies.update(where, said.append)
    copies.update(where, said.append)
    assert (where.my / FIRST).read_bytes() == before
    [beside] = _others(where)
    assert _sources(beside) == ["a = 10", "print(a)"]
    assert beside.name.startswith("00_start_here.updated-")
    assert len(said) == 1, "said once"
    assert FIRST in said[0]
    assert beside.name in said[0]

    _write(where.chapters / FIRST, "a = 100", "print(a)")
    copies.update(where, said.append)
    assert len(said) == len(_others(where)) == 2, "a further change is a further file: none is written over"
    assert (where.my / FIRST).read_bytes() == before


def test_a_deleted_copy_is_handed_out_again(where: Places, said: list[str]) -> None:
    (where.my / FIRST).unlink()
    copies.update(where, said.append)
    assert _sources(where.my / FIRST) == ["a = 1", "print(a)"]


@pytest.mark.parametrize("record", [None, "{", "[]", '{"00_start_here.ipynb": 1}'])
def test_without_a_record_nothing_is_written_over(where: Places, said: list[str], record: str | None) -> None:
    _write(where.my / FIRST, "mine")
    if record is None:
        (where.my / copies.ORIGINS).unlink()
    else:
        (where.my / copies.ORIGINS).write_text(record, encoding="utf-8")
    copies.update(where, said.append)
    assert _sources(where.my / FIRST) == ["mine"]
    assert len(_others(where)) == len(said) == 1


@pytest.mark.parametrize("content", ["", "not a notebook", "{}", "[]"])
def test_an_unreadable_copy_is_theirs_all_the_same(where: Places, said: list[str], content: str) -> None:
    (where.my / FIRST).write_text(content, encoding="utf-8")
    _write(where.chapters / FIRST, "new")
    copies.update(where, said.append)
    assert (where.my / FIRST).read_text(encoding="utf-8") == content
    assert len(_others(where)) == 1


def test_taking_over_the_new_chapter_settles_it(where: Places, said: list[str]) -> None:
    _write(where.my / FIRST, "mine")
    _write(where.chapters / FIRST, "second")
    copies.update(where, said.append)
    [beside] = _others(where)
    beside.replace(where.my / FIRST)
    copies.update(where, said.append)
    _write(where.chapters / FIRST, "third")
    copies.update(where, said.append)
    assert _sources(where.my / FIRST) == ["third"]
    assert len(said) == 1


@pytest.mark.parametrize("name", ["02", "2", "02_training_loop", SECOND])
def test_reset_sets_the_learners_version_aside(where: Places, said: list[str], name: str) -> None:
    _write(where.my / SECOND, "b = 5  # mine")
    before = (where.my / SECOND).read_bytes()
    fresh, aside = copies.reset(where, name)
    assert fresh == where.my / SECOND
    assert _sources(fresh) == ["b = 2"]
    assert aside is not None
    assert aside.name.startswith("02_training_loop.mine-")
    assert aside.read_bytes() == before
    _, again = copies.reset(where, name)
    assert again != aside, "a second reset within the same minute keeps the first one's file"
    assert aside.read_bytes() == before
    copies.update(where, said.append)
    assert said == []


def test_reset_of_a_deleted_copy(where: Places, said: list[str]) -> None:
    (where.my / SECOND).unlink()
    assert copies.reset(where, "02") == (where.my / SECOND, None)


@pytest.mark.parametrize(
    ("name", "message"), [("07", "unknown chapter '07'"), ("loop", "did you mean '02_training_loop'")]
)
def test_reset_of_an_unknown_chapter(where: Places, said: list[str], name: str, message: str) -> None:
    with pytest.raises(TrainlabError, match=message):
        copies.reset(where, name)
    assert _others(where) == []


def test_no_chapters(tmp_path: Path) -> None:
    with pytest.raises(TrainlabError, match=r"no chapters in .*: the installation is incomplete"):
        copies.update(Places(tmp_path, tmp_path / "my"))


def test_a_broken_chapter(where: Places) -> None:
    (where.chapters / FIRST).write_text("{", encoding="utf-8")
    with pytest.raises(TrainlabError, match=r"is not a readable notebook .*restore it"):
        copies.update(where)


def test_a_folder_that_cannot_be_written(where: Places) -> None:
    where.my.write_text("a file where the folder should be", encoding="utf-8")
    with pytest.raises(TrainlabError, match=r"cannot write .*: free space or make it writable"):
        copies.update(where)
    assert where.my.read_text(encoding="utf-8") == "a file where the folder should be"


def test_a_failed_write_leaves_the_old_copy(where: Places, said: list[str], monkeypatch: Any) -> None:
    def no_space(path: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    before = (where.my / FIRST).read_bytes()
    _write(where.chapters / FIRST, "new")
    monkeypatch.setattr(Path, "replace", no_space)
    with pytest.raises(TrainlabError, match="No space left on device"):
        copies.update(where, said.append)
    assert (where.my / FIRST).read_bytes() == before
    assert not list(where.my.glob(".*.partial"))


def test_places_of_a_checkout_and_of_an_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = Path(__file__).resolve().parents[1]
    assert copies.places() == Places(repository / "notebooks", repository / "my")
    assert copies.places(my=tmp_path).my == tmp_path
    installed = tmp_path / "site-packages" / "trainlab" / "course" / "copies.py"
    monkeypatch.setattr(copies, "__file__", str(installed))
    monkeypatch.chdir(tmp_path)
    assert copies.places() == Places(tmp_path / "site-packages" / "trainlab" / "chapters", tmp_path / "my")
