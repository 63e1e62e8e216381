"""Exercises are judged by behaviour, nothing a learner does breaks a check, and nothing kept is lost."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest
import torch

from trainlab import course
from trainlab.course import exercises, record
from trainlab.course.exercises import (
    Exercise,
    Verdict,
    check,
    hint,
    judge_answer,
    progress,
    right,
    solution,
    wrong,
)
from trainlab.errors import TrainlabError

CHAPTER = """
import torch
from trainlab.course.exercises import Exercise, right, wrong

def judge_mean(mean):
    got = mean([2.0, 4.0], [3, 1])
    if got == 3.0:
        return wrong("the last image got a batch's vote", observed=got, expected=2.5, hint=1)
    torch.testing.assert_close(float(got), 2.5)
    return right("every image has one vote.")

def judge_class(cls):
    cls()(torch.rand(3))
    torch.set_grad_enabled(False)
    return wrong("never right")

def judge_fill(fill):
    target = [1]
    fill(target)
    return right("ok") if target == [0] else wrong("the list is unchanged", observed=target, expected=[0])

HINTS = ("votes?", "weigh them", "divide by the sum")
SOLUTION = '''
    def mean(losses, counts):
        return sum(l * c for l, c in zip(losses, counts)) / sum(counts)
    '''
def make(number, judge, expects, **options):
    return Exercise(f"98.{number}", f"title <{number}>", 1, 5, judge, HINTS, SOLUTION, expects, **options)

EXERCISES = (
    make(1, judge_mean, "a function"),
    make(2, judge_class, "a class"),
    make(3, lambda value: right("yes") if value == 3 else wrong("no", observed=value), "a number"),
    make(4, lambda value: right("yes") if value["a"] == 1 else wrong("no"), dict),
    make(5, judge_fill, "a function", in_place=True),
    make(6, lambda value: None, "anything"),
    make(7, lambda value: right("none") if value is None else wrong("no"), (int, type(None))),
)
"""


@pytest.fixture(autouse=True)
def chapter(tmp_path, monkeypatch):
    """A chapter 98 that is found as the real ones are, and a learner with an empty record."""
    (tmp_path / "rooms").mkdir()
    (tmp_path / "rooms" / "chapter98.py").write_text(CHAPTER)
    monkeypatch.setattr(course, "__path__", [*course.__path__, str(tmp_path / "rooms")])
    monkeypatch.setenv("TRAINLAB_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TRAINLAB_UNATTENDED", raising=False)
    monkeypatch.setattr(record, "_in_memory", {})
    yield tmp_path / "home"
    sys.modules.pop("trainlab.course.chapter98", None)


def mean(losses, counts):
    return sum(loss * count for loss, count in zip(losses, counts)) / sum(counts)


def unweighted(losses, counts):
    return sum(losses) / len(losses)


def crashing(losses, counts):
    return losses[0] / 0


# --- verdicts --------------------------------------------------------------------------------------


def test_a_right_answer_is_printed_recorded_and_returned(capsys):
    assert check("98.1", mean) == right("every image has one vote.")
    assert capsys.readouterr().out == "98.1 right: every image has one vote.\n"
    assert record.read().tally("98.1") == record.Tally(attempts=1, solved=True)


def test_a_wrong_answer_says_what_was_seen_and_which_hint_fits(capsys):
    verdict = check("98.1", unweighted)
    assert (verdict.ok, verdict.hint, verdict.attempted) == (False, 1, True)
    assert capsys.readouterr().out == (
        "98.1 not right yet: the last image got a batch's vote (got 3, expected 2.5)\n"
        '     tl.hint("98.1", 1) fits this mistake.\n'
    )


def test_once_solved_an_exercise_stays_solved():
    check("98.1", mean)
    check("98.1", unweighted)
    assert record.read().tally("98.1") == record.Tally(attempts=2, solved=True)


def test_the_solution_of_the_chapter_is_right():
    space = {}
    exec(textwrap.dedent(exercises.exercise("98.1").solution), space)
    assert judge_answer(exercises.exercise("98.1"), space["mean"]).ok


def test_an_exception_shows_the_learners_own_line_and_no_traceback(capsys):
    verdict = check("98.1", crashing)
    assert not verdict.ok and verdict.attempted
    assert "ZeroDivisionError: float division by zero" in verdict.message
    assert "of crashing: return losses[0] / 0" in verdict.message
    assert "Traceback" not in capsys.readouterr().out


def test_an_assertion_in_the_judge_is_a_wrong_answer():
    verdict = judge_answer(exercises.exercise("98.1"), lambda losses, counts: 7.0)
    assert not verdict.ok and verdict.attempted and "7.0" in verdict.message


def test_an_answer_that_the_judge_cannot_use_is_a_wrong_answer():
    verdict = judge_answer(exercises.exercise("98.1"), lambda losses, counts: "text")
    assert "could not be used as it came back: ValueError" in verdict.message


def test_exit_is_a_wrong_answer_and_an_interrupt_passes():
    def leaves(*_):
        sys.exit(3)

    def interrupted(*_):
        raise KeyboardInterrupt

    assert "SystemExit: 3" in judge_answer(exercises.exercise("98.1"), leaves).message
    with pytest.raises(KeyboardInterrupt):
        check("98.1", interrupted)


def test_judging_leaves_random_state_and_grad_mode_alone():
    class Draws:
        def __call__(self, x):
            return torch.rand(5)

    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    check("98.2", Draws)
    assert torch.equal(torch.rand(3), expected)
    assert torch.is_grad_enabled()


# --- stubs -----------------------------------------------------------------------------------------


def empty(losses, counts):
    """What a stub looks like."""


def refusing(losses, counts):
    raise NotImplementedError


def scaffold(losses, counts):
    total = sum(losses)  # noqa: F841
    return ...


class EmptyClass:
    def __init__(self):
        self.rate = 1

    def __call__(self, x): ...


@pytest.mark.parametrize(
    ("number", "stub", "says"),
    [
        (1, ..., "in the place of `...`"),
        (1, None, "in the place of `None`"),
        (1, empty, "empty is still empty."),
        (1, lambda losses, counts: None, "is still empty."),
        (1, refusing, "refusing still raises NotImplementedError."),
        (1, scaffold, "scaffold returns nothing so far. If you have written it: is its `return` missing?"),
        (2, EmptyClass, "EmptyClass is still empty."),
        (4, {"a": ..., "b": 2}, "still `...` at 'a'."),
        (6, [1, ...], "still `...` at place 2."),
        (5, empty, "empty is still empty."),
    ],
)
def test_a_stub_is_no_attempt(number, stub, says, capsys):
    verdict = check(f"98.{number}", stub)
    out = capsys.readouterr().out
    assert out.startswith(f"98.{number} not attempted yet: ") and says in out
    assert not verdict.ok and not verdict.attempted
    assert record.read() == record.Record()


def test_none_is_an_answer_where_it_may_be_one():
    assert check("98.7", None).ok


def test_a_wrong_function_that_works_in_place_is_an_attempt():
    def append(values):
        values.append(0)

    verdict = check("98.5", append)
    assert verdict.attempted and verdict.message == "the list is unchanged (got [1, 0], expected [0])"


def test_a_class_with_one_method_written_is_an_attempt():
    class Half:
        def __call__(self, x):
            return x.nothing

        def later(self): ...

    assert judge_answer(exercises.exercise("98.2"), Half).attempted


# --- wrong use -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "answer", "says"),
    [
        (1, 2.5, r'check\("98.1", ...\) wants a function, got 2.5 \(float\): pass the function itself'),
        (1, int, "wants a function, got .*: pass the function itself, without calling it"),
        (2, EmptyClass(), "wants a class, got .*: pass the class itself, not an object of it"),
        (3, True, r"wants a number, got True \(bool\): pass a single number"),
        (3, torch.ones(2), r"wants a number, got tensor\(\[1., 1.\]\) \(Tensor\)"),
        (4, [1], r"wants dict, got \[1\] \(list\): pass a value of that type"),
        (7, "x", "wants int or NoneType, got 'x'"),
    ],
)
def test_a_wrong_type_names_what_came_and_what_is_wanted(number, answer, says):
    with pytest.raises(TrainlabError, match=says):
        check(f"98.{number}", answer)
    assert record.read() == record.Record()


@pytest.mark.parametrize("three", [3, 3.0, torch.tensor(3), torch.tensor(3.0).numpy()])
def test_a_number_may_come_as_any_scalar(three):
    assert check("98.3", three).ok


@pytest.mark.parametrize("call", [lambda name: check(name, 1), hint, solution])
def test_an_unknown_id_names_the_closest(call):
    with pytest.raises(TrainlabError, match=r"unknown exercise '98.11': did you mean '98.1'\?"):
        call("98.11")
    with pytest.raises(TrainlabError, match=r"unknown exercise 98.1: did you mean '98.1'\?"):
        call(98.1)


def test_a_judge_that_returns_no_verdict_is_named():
    with pytest.raises(TrainlabError, match=r"the judge of 98.6 returned None: end it with right\(...\)"):
        check("98.6", 1)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"id": "2.1"}, "exercise id '2.1' is not chapter.number: write it like '02.1'"),
        ({"difficulty": 4}, "difficulty=4 is not 1, 2 or 3"),
        ({"hints": ("a", "b")}, "hints are three texts of rising strength, got 2"),
        (
            {"expects": "a functoin"},
            "unknown kind of answer in 98.1: 'a functoin': did you mean 'a function'",
        ),
    ],
)
def test_an_exercise_that_is_not_well_formed_is_refused(change, says):
    fields = {"id": "98.1", "title": "t", "difficulty": 1, "minutes": 5, "judge": right}
    with pytest.raises(TrainlabError, match=says):
        Exercise(**{**fields, "hints": ("a", "b", "c"), "solution": "", **change})


def test_an_exercise_of_another_chapter_is_refused(chapter):
    text = CHAPTER.replace('f"98.{number}"', 'f"97.{number}"')
    (chapter.parent / "rooms" / "chapter98.py").write_text(text)
    with pytest.raises(TrainlabError, match=r"'97\.1' stands in chapter98: begin its id with '98\.'"):
        check("98.1", mean)


def test_a_hint_level_is_1_to_3():
    with pytest.raises(TrainlabError, match="hint=4 is not a hint level: use 1, 2 or 3"):
        wrong("no", hint=4)
    with pytest.raises(TrainlabError, match=r"level=0 is no hint of 98\.1: choose 1, 2 or 3"):
        hint("98.1", 0)


# --- hints, solution, progress ---------------------------------------------------------------------


def test_each_call_gives_the_next_hint_and_the_last_stays(capsys):
    for _ in range(4):
        hint("98.1")
    out = capsys.readouterr().out
    assert [line[:14] for line in out.splitlines() if "hint" in line] == [
        f"98.1 hint {level} of" for level in (1, 2, 3, 3)
    ]
    hint("98.1", 1)
    assert record.read().tally("98.1").hints == 3


def test_the_solution_opens_after_an_attempt_or_on_request(capsys):
    solution("98.1")
    assert 'To see it now: tl.solution("98.1", show=True)' in capsys.readouterr().out
    assert not record.read().tally("98.1").solution_seen
    solution("98.1", show=True)
    assert "\ndef mean(losses, counts):\n    return" in capsys.readouterr().out
    assert record.read().tally("98.1").solution_seen
    check("98.3", 4)
    capsys.readouterr()
    solution("98.3")
    assert capsys.readouterr().out.startswith("# 98.3 title <3>: one solution")


def test_progress_counts_exercises_and_first_predictions(tmp_path):
    check("98.1", mean)
    check("98.3", 4)
    record.note_prediction("98.a", guess="x", truth="y", right=False)
    record.note_prediction("98.a", guess="y", truth="y", right=True)  # after the reveal: does not count
    record.note_prediction("98.b", guess=1.0, truth=1.0, right=True)
    record.note_prediction("98.c", guess=None, truth=1.0, right=False)  # shown: not made
    report = progress()
    chapter = report.chapters[-1]
    assert [row.state for row in chapter.exercises[:3]] == ["done", "open", "tried"]
    assert "Chapter 98: 1 of 7 exercises done; predictions right: 1 of 2" in repr(report)
    assert "98.1  done   attempts  1  hints 0 of 3" in repr(report)
    assert "title &lt;1&gt;" in report._repr_html_() and "var(--jp-" in report._repr_html_()
    report.to_json(tmp_path / "report.json")
    exported = json.loads((tmp_path / "report.json").read_text())["chapters"][-1]
    assert (exported["predictions_right"], exported["exercises"][0]["state"]) == (1, "done")


def test_a_verdict_at_a_cells_end_is_shown_once():
    from IPython.core.interactiveshell import InteractiveShell

    formatter = InteractiveShell().display_formatter
    assert formatter.format(right("yes")) == ({}, {})
    assert str(Verdict(True, "yes")) == "right: yes"


# --- the record ------------------------------------------------------------------------------------


def test_two_processes_at_once_lose_no_attempt():
    code = "from trainlab.course import record\nfor _ in range(40): record.note_attempt('98.1', solved=False)"
    running = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [each.wait() for each in running] == [0, 0]
    assert record.read().tally("98.1").attempts == 80


@pytest.mark.parametrize("text", ["{half", "[]", '{"exercises": {"98.1": 3}, "predictions": {}}', "\x00"])
def test_a_broken_file_is_kept_aside_and_a_new_record_begins(chapter, text, capsys):
    chapter.mkdir()
    (chapter / "progress.json").write_text(text)
    check("98.1", mean)
    assert "could not be read: it is kept as" in capsys.readouterr().out
    assert (chapter / "progress.json.broken").read_text() == text
    assert record.read().tally("98.1").solved


def test_reading_a_broken_file_sets_it_aside_too(chapter):
    chapter.mkdir()
    (chapter / "progress.json").write_text("{half")
    assert record.read() == record.Record()
    assert (chapter / "progress.json.broken").exists()


def test_an_unwritable_home_is_said_once_and_breaks_nothing(chapter, capsys):
    chapter.write_text("a file where the folder should be")
    assert check("98.1", unweighted).attempted
    assert "Your progress is not kept:" in capsys.readouterr().out
    assert check("98.1", mean).ok
    assert capsys.readouterr().out == "98.1 right: every image has one vote.\n"
    assert record.read().tally("98.1") == record.Tally(attempts=2, solved=True)


def test_a_write_that_fails_leaves_the_old_record_whole(chapter, monkeypatch):
    check("98.1", mean)
    before = (chapter / "progress.json").read_text()
    monkeypatch.setattr(
        "pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "no space left"))
    )
    check("98.1", unweighted)
    assert (chapter / "progress.json").read_text() == before
    assert record.read().tally("98.1").attempts == 2  # in memory


def test_an_unattended_run_keeps_nothing_and_starts_afresh(chapter, monkeypatch, capsys):
    hint("98.1")
    monkeypatch.setenv("TRAINLAB_UNATTENDED", "1")
    kept = (chapter / "progress.json").read_text()
    capsys.readouterr()
    hint("98.1")
    assert capsys.readouterr().out.startswith("98.1 hint 1 of 3")
    assert (chapter / "progress.json").read_text() == kept


def test_progress_of_one_chapter():
    assert [each.chapter for each in progress("02").chapters] == ["02"]
    with pytest.raises(TrainlabError, match=r"unknown chapter '2'.*known: "):
        progress("2")
