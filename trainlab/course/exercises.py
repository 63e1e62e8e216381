"""Exercises: what an answer is judged by, and what a learner calls to check it.

A chapter's module `trainlab/course/chapterNN.py` lists its exercises. A judge is a function of
the answer that returns `wrong(...)` at the first flaw it observes, and `right(...)` at the end:

    from .exercises import Exercise, Verdict, right, wrong

    def _judge_epoch_loss(epoch_loss: Callable[..., float]) -> Verdict:
        got = epoch_loss([2.0, 4.0], [3, 1])  # two batches, of 3 images and of 1
        if got == 3.0:
            return wrong("the last image got a batch's vote", observed=got, expected=2.5, hint=1)
        if abs(got - 2.5) > 1e-6:
            return wrong("3 images at 2.0 and 1 at 4.0", observed=got, expected=2.5, hint=2)
        return right("every image has one vote.")

    EXERCISES = (
        Exercise(
            "02.1", "The mean of an epoch", difficulty=1, minutes=5,
            judge=_judge_epoch_loss, expects="a function",
            hints=("How many votes does the last image get?",
                   "Weigh each batch's loss by its count.",
                   "Divide the sum of loss * count by the sum of the counts."),
            solution=\"\"\"
    def epoch_loss(losses, counts):
        return sum(loss * count for loss, count in zip(losses, counts)) / sum(counts)
    \"\"\",
        ),
    )

Judges judge behaviour only. An exception in the learner's code, or an AssertionError in the judge
(as from torch.testing.assert_close), becomes a wrong verdict: judges need no try. Random state and
grad mode are put back afterwards. `judge_answer` judges in tests, without printing or recording.
"""

from __future__ import annotations

import dis
import functools
import html
import importlib
import inspect
import json
import numbers
import pkgutil
import re
import reprlib
import sysconfig
import textwrap
import traceback
import types
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from .. import course
from ..errors import TrainlabError, unknown_name
from ..randomness import preserve_rng
from . import record

_NOT_GIVEN = object()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check found. hint: the level of the hint that fits the mistake, 0 for none.

    attempted is False for a stub that nobody has filled in yet. `print(verdict)` shows it; as the
    last line of a cell it shows nothing, because `check` has just printed it.
    """

    ok: bool
    message: str
    hint: int = 0
    attempted: bool = True

    def __str__(self) -> str:
        head = "right" if self.ok else "not right yet" if self.attempted else "not attempted yet"
        return f"{head}: {self.message}"

    def _ipython_display_(self) -> None:
        """Show nothing: the text is there once already, as plain text that tests can compare."""


def right(message: str) -> Verdict:
    """The verdict on a right answer; the message says what was shown to hold."""
    return Verdict(True, message)


def wrong(message: str, *, observed: Any = _NOT_GIVEN, expected: Any = _NOT_GIVEN, hint: int = 0) -> Verdict:
    """The verdict on a wrong answer, with the hint (1 to 3) that fits this very mistake.

    observed, expected: values to show side by side; floats are shown to four digits.
    Raises TrainlabError if `hint` is not 0 to 3.
    """
    if hint not in (0, 1, 2, 3):
        raise TrainlabError(f"hint={hint!r} is not a hint level: use 1, 2 or 3, or 0 for none")
    pairs = [("got", observed), ("expected", expected)]
    shown = [f"{name} {_short(value)}" for name, value in pairs if value is not _NOT_GIVEN]
    return Verdict(False, f"{message} ({', '.join(shown)})" if shown else message, hint)


@dataclass(frozen=True, slots=True)
class Exercise:
    """One exercise: its judge, three hints of rising strength and a runnable solution.

    id: chapter and number, such as "02.1".
    difficulty: 1 = nobody should fail (a line or two, just shown); 2 = transfer (the same idea on
    new data or in another shape); 3 = open (several right answers, plan before you type).
    expects: "a function", "a class", "a number" (the judge then gets a plain int or float),
    "anything", or a type or tuple of types.
    in_place: a function answer that changes its arguments; None is then no sign of a stub.
    Raises TrainlabError if id, difficulty, hints or expects are none of these.
    """

    id: str
    title: str
    difficulty: int
    minutes: int
    judge: Callable[[Any], Verdict]
    hints: tuple[str, str, str]
    solution: str
    expects: str | type | tuple[type, ...] = "anything"
    in_place: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\d\d\.\d+", self.id):
            raise TrainlabError(f"exercise id {self.id!r} is not chapter.number: write it like '02.1'")
        if self.difficulty not in (1, 2, 3):
            raise TrainlabError(f"{self.id}: difficulty={self.difficulty!r} is not 1, 2 or 3")
        if isinstance(self.hints, str) or len(self.hints) != 3:
            raise TrainlabError(f"{self.id}: hints are three texts of rising strength, got {len(self.hints)}")
        if isinstance(self.expects, str) and self.expects not in _KINDS:
            raise unknown_name(f"kind of answer in {self.id}:", self.expects, _KINDS)


def exercise(exercise_id: str) -> Exercise:
    """The exercise of that id, from its chapter's module.

    Raises TrainlabError, with the closest id, if there is none.
    """
    chapters = [name for name in _chapters() if str(exercise_id).startswith(f"{name}.")] or _chapters()
    known = {each.id: each for name in chapters for each in _exercises(name)}
    if exercise_id not in known:
        raise unknown_name("exercise", exercise_id, known)
    return known[exercise_id]


def check(exercise_id: str, answer: object) -> Verdict:
    """Judge `answer`, print the verdict, record the attempt, and return the verdict.

    The text is printed, so that it is there in a notebook and in a script alike, and compares as
    plain text. A stub that is still empty counts as no attempt; code that fails is a wrong answer.
    Raises TrainlabError if the id is unknown or the answer is not the kind of thing that was asked.
    """
    asked = exercise(exercise_id)
    verdict = judge_answer(asked, answer)
    if verdict.attempted:
        record.note_attempt(asked.id, solved=verdict.ok)
    print(f"{asked.id} {verdict}")
    if verdict.hint:
        print(f'     tl.hint("{asked.id}", {verdict.hint}) fits this mistake.')
    return verdict


def judge_answer(asked: Exercise, answer: object) -> Verdict:
    """The verdict on `answer`, neither printed nor recorded.

    Raises TrainlabError if the answer has the wrong type, or the judge returns no Verdict.
    """
    if blank := _blank(asked, answer):
        return Verdict(False, blank, attempted=False)
    answer = _accepted(asked, answer)
    silent: list[bool] = []  # for each call of the learner's function: did it return nothing?
    try:
        verdict = _undisturbed(asked.judge, _watched(answer, silent))
    except (Exception, SystemExit) as error:
        verdict = _stumble(error)
    if not isinstance(verdict, Verdict):
        raise TrainlabError(
            f"the judge of {asked.id} returned {verdict!r}: end it with right(...) or wrong(...)"
        )
    if verdict.ok or not (stub := _stub(asked, answer, silent)):
        return verdict
    return Verdict(False, stub, attempted=False)


def hint(exercise_id: str, level: int | None = None) -> None:
    """Print a hint: the next one at each call, or that of `level` 1 to 3.

    Raises TrainlabError if the id is unknown or there is no such level.
    """
    asked = exercise(exercise_id)
    if level is None:
        level = min(record.read().tally(asked.id).hints + 1, 3)
    if level not in (1, 2, 3):
        raise TrainlabError(f"level={level!r} is no hint of {asked.id}: choose 1, 2 or 3")
    record.note_hint(asked.id, level)
    print(f"{asked.id} hint {level} of 3: {asked.hints[level - 1]}")
    if level == 3:
        print(f'     Still stuck after a try? tl.solution("{asked.id}")')


def solution(exercise_id: str, *, show: bool = False) -> None:
    """Print the solution, after at least one attempt or with show=True.

    Raises TrainlabError if the id is unknown.
    """
    asked = exercise(exercise_id)
    if not show and not record.read().tally(asked.id).attempts:
        print(f"{asked.id} the solution opens after one attempt, right or wrong.")
        print(f'     To see it now: tl.solution("{asked.id}", show=True)')
        return
    record.note_solution(asked.id)
    print(f"# {asked.id} {asked.title}: one solution\n{textwrap.dedent(asked.solution).strip()}")


# --- the table of progress -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ExerciseProgress:
    """One exercise in the table. state: "done", "tried" or "open"."""

    id: str
    title: str
    state: str
    attempts: int
    hints: int
    solution_seen: bool


@dataclass(frozen=True, slots=True)
class ChapterProgress:
    """One chapter in the table; of each prediction the first one made counts."""

    chapter: str
    exercises: tuple[ExerciseProgress, ...]
    predictions_made: int
    predictions_right: int

    def __str__(self) -> str:
        done = sum(row.state == "done" for row in self.exercises)
        bets = f"; predictions right: {self.predictions_right} of {self.predictions_made}"
        head = f"Chapter {self.chapter}: {done} of {len(self.exercises)} exercises done"
        return head + (bets if self.predictions_made else "")


@dataclass(frozen=True, slots=True, repr=False)
class ProgressReport:
    """What has been done, chapter by chapter: shows itself as a table in a notebook."""

    chapters: tuple[ChapterProgress, ...]

    def __repr__(self) -> str:
        lines = []
        for chapter in self.chapters:
            lines.append(str(chapter))
            for row in chapter.exercises:
                seen = "  (solution seen)" if row.solution_seen else ""
                tried = f"attempts {row.attempts:>2}  hints {row.hints} of 3"
                lines.append(f"  {row.id}  {row.state:5}  {tried}  {row.title}{seen}")
        return "\n".join(lines) or "No chapter has exercises yet."

    def _repr_html_(self) -> str:
        ink, line = "var(--jp-content-font-color1, inherit)", "1px solid var(--jp-border-color1, #888)"
        cell = f'style="text-align:left;padding:2px 12px;border-bottom:{line};color:{ink}"'
        head = "".join(f'<th scope="col" {cell}>{name}</th>' for name in _COLUMNS)
        rows = []
        for chapter in self.chapters:
            rows.append(f'<tr><th scope="rowgroup" colspan="6" {cell}>{html.escape(str(chapter))}</th></tr>')
            for row in chapter.exercises:
                cells = "".join(f"<td {cell}>{html.escape(text)}</td>" for text in _cells(row))
                rows.append(f"<tr>{cells}</tr>")
        return f'<table style="border-collapse:collapse"><tr>{head}</tr>{"".join(rows)}</table>'

    def to_json(self, path: str | Path) -> None:
        """Write the table to `path` as JSON, for an instructor to collect."""
        Path(path).write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False), encoding="utf-8")


_COLUMNS = ("exercise", "state", "attempts", "hints", "solution", "title")


def progress(chapter: str | None = None) -> ProgressReport:
    """The learner's exercises and predictions so far: of one chapter ("02"), or of each.

    Raises TrainlabError if there is no such chapter.
    """
    if chapter is not None and chapter not in _chapters():
        raise unknown_name("chapter", chapter, _chapters())
    kept = record.read()
    names = _chapters() if chapter is None else [chapter]
    return ProgressReport(tuple(_chapter_progress(name, kept) for name in names))


def _chapter_progress(chapter: str, kept: record.Record) -> ChapterProgress:
    rows = []
    for each in _exercises(chapter):
        tally = kept.tally(each.id)
        state = "done" if tally.solved else "tried" if tally.attempts else "open"
        row = (each.id, each.title, state, tally.attempts, tally.hints, tally.solution_seen)
        rows.append(ExerciseProgress(*row))
    # a prediction made again after the reveal is no prediction
    firsts = [made[0] for name, made in kept.predictions.items() if made and name.startswith(f"{chapter}.")]
    bets = [first for first in firsts if first.guess is not None]
    return ChapterProgress(chapter, tuple(rows), len(bets), sum(bet.right for bet in bets))


def _cells(row: ExerciseProgress) -> tuple[str, ...]:
    seen = "seen" if row.solution_seen else "-"
    return row.id, row.state, str(row.attempts), f"{row.hints} of 3", seen, row.title


# --- finding exercises -----------------------------------------------------------------------------


def _chapters() -> list[str]:
    """The chapters that have exercises, as two digits each."""
    names = (module.name for module in pkgutil.iter_modules(course.__path__))
    return sorted(name[7:] for name in names if re.fullmatch(r"chapter\d\d", name))


def _exercises(chapter: str) -> tuple[Exercise, ...]:
    module = importlib.import_module(f"{course.__name__}.chapter{chapter}")
    for each in module.EXERCISES:
        if not each.id.startswith(f"{chapter}."):
            raise TrainlabError(
                f"exercise {each.id!r} stands in chapter{chapter}: begin its id with '{chapter}.'"
            )
    return module.EXERCISES


# --- judging ---------------------------------------------------------------------------------------


def _is_number(value: object) -> bool:
    if getattr(value, "ndim", None) == 0 and callable(getattr(value, "item", None)):
        value = value.item()  # type: ignore[attr-defined]
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


# kind of answer -> (what is one, what to do instead)
_KINDS: dict[str, tuple[Callable[[object], bool], str]] = {
    "a function": (
        lambda value: callable(value) and not isinstance(value, type),
        "pass the function itself, without calling it",
    ),
    "a class": (lambda value: isinstance(value, type), "pass the class itself, not an object of it"),
    "a number": (_is_number, "pass a single number"),
    "anything": (lambda value: True, ""),
}


def _accepted(asked: Exercise, answer: Any) -> Any:
    """The answer as its judge gets it; TrainlabError if it is not what the exercise expects."""
    if isinstance(asked.expects, str):
        fits, remedy = _KINDS[asked.expects]
        wanted, fitting = asked.expects, fits(answer)
    else:
        expected = asked.expects if isinstance(asked.expects, tuple) else (asked.expects,)
        wanted = " or ".join(each.__name__ for each in expected)
        fitting, remedy = isinstance(answer, expected), "pass a value of that type"
    if not fitting:
        came = f"{_short(answer)} ({type(answer).__name__})"
        raise TrainlabError(f'check("{asked.id}", ...) wants {wanted}, got {came}: {remedy}')
    return answer.item() if asked.expects == "a number" and hasattr(answer, "item") else answer


def _blank(asked: Exercise, answer: object) -> str:
    """Why `answer` is a stub that nobody has filled in, or ""."""
    optional = isinstance(asked.expects, tuple) and type(None) in asked.expects
    if answer is ... or (answer is None and not optional and asked.expects is not type(None)):
        return f"put your answer in the place of `{'...' if answer is ... else None}`."
    if isinstance(answer, dict):
        open_places = [_short(name) for name, value in answer.items() if value is ...]
    elif isinstance(answer, list | tuple):
        open_places = [f"place {place}" for place, value in enumerate(answer, 1) if value is ...]
    else:
        return ""
    return f"still `...` at {', '.join(open_places)}." if open_places else ""


def _watched(answer: Any, silent: list[bool]) -> Any:
    """`answer`; if it is a function, one that also notes for each call whether it returned nothing."""
    if not inspect.isfunction(answer):
        return answer

    @functools.wraps(answer)
    def watched(*args: Any, **kwargs: Any) -> Any:
        value = answer(*args, **kwargs)
        silent.append(value is None or value is ...)
        return value

    return watched


def _undisturbed(judge: Callable[[Any], Verdict], answer: Any) -> Verdict:
    with preserve_rng(), torch.set_grad_enabled(torch.is_grad_enabled()):
        return judge(answer)


def _stub(asked: Exercise, answer: Any, silent: list[bool]) -> str:
    """Why a function or class whose answer was not right is a stub rather than a mistake, or ""."""
    if isinstance(answer, type):
        methods = [
            each for name, each in vars(answer).items() if inspect.isfunction(each) and name != "__init__"
        ]
        return f"{answer.__name__} is still empty." if methods and all(map(_is_empty, methods)) else ""
    if not inspect.isfunction(answer):
        return ""
    if _is_empty(answer):
        return f"{answer.__name__} is still empty."
    if silent and all(silent) and not asked.in_place:
        return f"{answer.__name__} returns nothing so far. If you have written it: is its `return` missing?"
    return ""


def _is_empty(function: types.FunctionType) -> bool:
    """Whether the body is nothing but a docstring, `...`, `pass`, or a return of None or `...`."""
    return all(
        each.opname in {"RESUME", "NOP"}
        or (each.opname in {"LOAD_CONST", "RETURN_VALUE", "RETURN_CONST"} and each.argval in (None, ...))
        for each in dis.get_instructions(function)
    )


def _stumble(error: BaseException) -> Verdict:
    """The verdict where judging ended in `error`, with the learner's own line instead of a traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _is_own(frame.filename)]
    text = textwrap.shorten(str(error), 300)
    if own and isinstance(error, NotImplementedError) and own[-1] is frames[-1]:
        return Verdict(False, f"{own[-1].name} still raises NotImplementedError.", attempted=False)
    if not own and isinstance(error, AssertionError):
        return wrong(text or "what has to hold of your answer does not.")
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if not own:
        return wrong(f"your answer could not be used as it came back: {said}")
    place = f"line {own[-1].lineno} of {own[-1].name}: {own[-1].line}"
    advice = "Run it yourself on a small input: the full traceback shows how it got there."
    return wrong(f"your code stopped with {said}\n     {place}\n     {advice}")


def _is_own(filename: str) -> bool:
    """Whether a traceback's file is the learner's, not Python's, a package's or ours."""
    installed = [sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")]
    ours = [str(Path(__file__).parents[1]), *course.__path__]
    return not filename.startswith(("<frozen", *installed, *ours))


class _Short(reprlib.Repr):
    """Values on one line: floats to four digits, long things cut."""

    def repr_float(self, value: float, level: int) -> str:
        return f"{value:.4g}"

    def repr_Tensor(self, value: torch.Tensor, level: int) -> str:
        text = self.repr1(value.item(), level) if value.ndim == 0 else " ".join(repr(value).split())
        return textwrap.shorten(text, 100)


def _short(value: object) -> str:
    short = _Short()
    short.maxother = short.maxstring = 100
    return short.repr(value)
