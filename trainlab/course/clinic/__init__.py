"""The clinic: broken programs on real data, each with its mended twin."""

from __future__ import annotations

from ...errors import unknown_name
from .data import CASES as _DATA
from .loops import CASES as _LOOPS
from .models import CASES as _MODELS
from .parts import Case, Parts

CASES: tuple[Case, ...] = (*_LOOPS, *_MODELS, *_DATA)

__all__ = ["CASES", "Case", "Parts", "patient"]


def patient(name: str) -> Case:
    """The case of that name.

    Raises TrainlabError if there is none.
    """
    for case in CASES:
        if case.name == name:
            return case
    raise unknown_name("patient", name, [case.name for case in CASES])
