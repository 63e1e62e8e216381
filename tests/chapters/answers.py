"""What the exercises of every chapter are held to: solutions pass, likely mistakes meet their hint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from trainlab.course.exercises import Verdict, exercise, judge_answer

STUBS = ("...", "pass", "return None")


@dataclass(frozen=True)
class Answers:
    """The exercises of one chapter, and the tests that all chapters have: bind each to a name `test_...`.

    names: exercise -> the name that its answer goes by.  space: what the chapter has imported by then.
    preface: code of the chapter that an answer may call.  slow: exercises whose judge takes seconds.
    """

    names: Mapping[str, str]
    space: Mapping[str, Any] = field(default_factory=dict)
    preface: str = ""
    slow: Collection[str] = ()

    def given(self, exercise_id: str, source: str) -> Any:
        """What this code of a learner makes: the answer to that exercise."""
        space = dict(self.space)
        exec(self.preface + source, space)
        return space[self.names[exercise_id]]

    def verdict(self, exercise_id: str, source: str) -> Verdict:
        """What the judge says to it."""
        return judge_answer(exercise(exercise_id), self.given(exercise_id, source))

    def solutions(self) -> Callable[[str], None]:
        """The solution of each exercise is right."""

        @self.marked("exercise_id", {each: each for each in self.names})
        def test(exercise_id: str) -> None:
            verdict = self.verdict(exercise_id, exercise(exercise_id).solution)
            assert verdict.ok, verdict

        return test

    def stubs(self, *, without: Collection[str] = ()) -> Callable[[str, str], None]:
        """A function that does nothing yet is no attempt; `without`: exercises that ask for no function."""

        @pytest.mark.parametrize("body", STUBS)
        @pytest.mark.parametrize("exercise_id", [each for each in self.names if each not in without])
        def test(exercise_id: str, body: str) -> None:
            verdict = self.verdict(exercise_id, f"def {self.names[exercise_id]}(*arguments):\n    {body}")
            assert not verdict.attempted and not verdict.ok, verdict

        return test

    def wrong(
        self,
        cases: Mapping[str, tuple[str, int, str] | tuple[str, int, str, str]],
        *,
        without: Collection[str] = (),
    ) -> Callable[[str], None]:
        """Each likely mistake, (exercise, number of the hint that fits, code), fails with that hint.

        A fourth entry is a part of what must be said of it.  Every exercise has two or more of them;
        `without`: those whose mistakes are tested otherwise.
        """
        count = Counter(exercise_id for exercise_id, *_ in cases.values())
        few = [each for each in self.names if count[each] < 2 and each not in without]
        assert not few, f"fewer than two likely mistakes: {few}"

        @self.marked("case", {case: exercise_id for case, (exercise_id, *_) in cases.items()})
        def test(case: str) -> None:
            exercise_id, hint, source, *said = cases[case]
            verdict = self.verdict(exercise_id, source)
            assert verdict.attempted and not verdict.ok, verdict
            assert verdict.hint == hint, verdict
            assert all(text in verdict.message for text in said), verdict

        return test

    def right(self, cases: Mapping[str, tuple[str, str]]) -> Callable[[str], None]:
        """Each other way to answer, (exercise, code), is right too."""

        @pytest.mark.parametrize("case", cases)
        def test(case: str) -> None:
            verdict = self.verdict(*cases[case])
            assert verdict.ok, verdict

        return test

    def marked(self, argument: str, exercises: Mapping[str, str]) -> pytest.MarkDecorator:
        """One test for each key; value: the exercise that it is about."""
        return pytest.mark.parametrize(
            argument,
            [
                pytest.param(key, id=key, marks=[pytest.mark.slow] if each in self.slow else [])
                for key, each in exercises.items()
            ],
        )
