"""The words in which a diagnosis is told."""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import dataclass

LEVELS = ("error", "warning", "info")
_COLORS = {"error": "#cc4b4b", "warning": "#d9730d", "info": "#2b7bba"}
_CARDS = 3
_INK = "color:var(--jp-content-font-color1, inherit)"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    code: its short name, as `ignore` takes it.  level: "error" for what contradicts itself, "warning" for
    what two independent signs speak for, "info" for what is worth a look.  where: the part of the program.
    evidence: the number that was measured, against its limit.  why: one sentence.  fix: a few lines.
    """

    code: str
    level: str
    where: str
    evidence: str
    why: str
    fix: str


@dataclass(frozen=True, slots=True, repr=False)
class Diagnosis:
    """What a check found, causes first.

    findings: the causes, the most certain first.  folded: the symptoms that a cause explains, each under
    no card of its own.  checks: how many questions were asked.  unchecked: what could not be, and why.
    """

    findings: tuple[Finding, ...]
    folded: tuple[Finding, ...]
    checks: int
    unchecked: tuple[str, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether there is neither an error nor a warning."""
        return not any(finding.level in LEVELS[:2] for finding in self.findings)

    def show(self) -> None:
        """Print the diagnosis: at most three cards, then the rest in a line each."""
        print(self)

    def __str__(self) -> str:
        lines = [self._title()]
        for finding in self.findings[:_CARDS]:
            lines += ["", f"{finding.level.upper()}  {finding.code}  ({finding.where})"]
            lines += [f"  seen: {finding.evidence}", f"  why:  {finding.why}"]
            lines += [f"  fix:  {line}" if not place else f"        {line}" for place, line in _fix(finding)]
        lines += ["", *self._small_print()]
        return "\n".join(lines)

    __repr__ = __str__

    def _title(self) -> str:
        asked = f"{self.checks} checks in {self.seconds:.1f} s"
        if not self.findings:
            return f"Nothing wrong found: {asked}."
        count = {level: sum(each.level == level for each in self.findings) for level in LEVELS}
        told = ", ".join(f"{number} {level}(s)" for level, number in count.items() if number)
        return f"{told}: {asked}." if not self.ok else f"Nothing wrong found, {told}: {asked}."

    def _small_print(self) -> list[str]:
        rest = [f"also: {each.level} {each.code}: {each.evidence}" for each in self.findings[_CARDS:]]
        rest += [f"follows from it: {each.code}: {each.evidence}" for each in self.folded]
        return rest + [f"not checked: {line}" for line in self.unchecked]

    def _repr_html_(self) -> str:
        cards = "".join(_card(finding) for finding in self.findings[:_CARDS])
        small = "".join(f"<li>{html.escape(line)}</li>" for line in self._small_print())
        title = f'<p style="{_INK}"><b>{html.escape(self._title())}</b></p>'
        return f'{title}{cards}<ul style="{_INK};font-size:90%">{small}</ul>'


def _fix(finding: Finding) -> Iterable[tuple[int, str]]:
    return enumerate(finding.fix.splitlines() or [""])


def _card(finding: Finding) -> str:
    color = _COLORS[finding.level]
    parts = [
        f'<div style="border-left:4px solid {color};padding:4px 12px;margin:8px 0;{_INK}">',
        f'<b style="color:{color}">{finding.level}</b> <b>{html.escape(finding.code)}</b> ',
        f"({html.escape(finding.where)})<br>seen: {html.escape(finding.evidence)}<br>",
        f"why: {html.escape(finding.why)}<pre style='margin:4px "
        f"0;{_INK}'>{html.escape(finding.fix)}</pre></div>",
    ]
    return "".join(parts)
