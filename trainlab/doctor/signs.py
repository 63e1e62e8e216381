"""What a probe says: a code, the place, the number, and how certain it is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sign:
    """One thing that a probe has seen: `code` is a key of CODES, the rest is for the Finding."""

    code: str
    level: str
    where: str
    evidence: str


def error(code: str, where: str, evidence: str) -> Sign:
    """A logical contradiction."""
    return Sign(code, "error", where, evidence)


def warning(code: str, where: str, evidence: str) -> Sign:
    """Two independent signs."""
    return Sign(code, "warning", where, evidence)


def info(code: str, where: str, evidence: str) -> Sign:
    """One sign, or a habit that is often meant."""
    return Sign(code, "info", where, evidence)
