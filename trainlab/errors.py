"""The one error of trainlab, and how a message about an unknown name is built."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TrainlabError(Exception):
    """Something a user can put right: the message names the value, the rule and the remedy."""


def unknown_name(kind: str, name: object, known: Iterable[str]) -> TrainlabError:
    """The error for a name that is none of `known`, with the closest one suggested.

    kind: what the name stands for ("dataset", "precision"), as it should read in the message.
    """
    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.4)
    hint = f": did you mean {close[0]!r}?" if close else ""
    return TrainlabError(f"unknown {kind} {name!r}{hint} (known: {', '.join(names)})")
