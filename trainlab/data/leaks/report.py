"""The words in which leaks are reported."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

INK = "color:var(--jp-content-font-color1, inherit);text-align:left;vertical-align:top;padding:2px 12px"


@dataclass(frozen=True, slots=True)
class Leak:
    """One way in which a part of the data knows about another.

    kind: "shared rows", "near-duplicates", "shared groups", "time order" or "preprocessing".
    parts: the two parts.  count: how many rows (groups, columns) of the second are touched, in the
    unit that `evidence` names.  rows: examples, a row of the first part and one of the second each, by
    their numbers in the source where the data set keeps them, else by their places in the part.
    evidence: what was counted, and the yardstick.  cost: what it may do to a score.  remedy: what to do.
    """

    kind: str
    parts: tuple[str, str]
    count: int
    rows: tuple[tuple[int, int], ...]
    evidence: str
    cost: str
    remedy: str


@dataclass(frozen=True, slots=True, repr=False)
class LeakageReport:
    """What was found, what was looked for, and what could not be seen.

    findings: one Leak for each kind and pair of parts.  checked, unchecked: a line for each question.
    """

    findings: tuple[Leak, ...]
    checked: tuple[str, ...]
    unchecked: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing was found; what is in `unchecked` may still leak."""
        return not self.findings

    def __str__(self) -> str:
        lines = [self._title()]
        for leak in self.findings:
            lines += ["", f"LEAK  {leak.kind}, {' -> '.join(leak.parts)}: {leak.evidence}"]
            lines += [f"      rows {_pairs(leak)}"] if leak.rows else []
            lines += [f"      cost: {leak.cost}", f"      remedy: {leak.remedy}"]
        lines += ["", *(f"checked    {line}" for line in self.checked)]
        return "\n".join([*lines, *(f"unchecked  {line}" for line in self.unchecked)])

    __repr__ = __str__

    def _title(self) -> str:
        return "No leak found." if self.ok else f"{len(self.findings)} leak(s) found."

    def _repr_html_(self) -> str:
        found = [
            (f"{leak.kind}, {' → '.join(leak.parts)}", leak.evidence, _pairs(leak), leak.cost, leak.remedy)
            for leak in self.findings
        ]
        head = ("leak", "evidence", "rows", "what it may cost", "remedy")
        lists = "".join(
            f'<p style="{INK}"><b>{name}</b>: {html.escape("; ".join(lines) or "nothing")}</p>'
            for name, lines in (("checked", self.checked), ("unchecked", self.unchecked))
        )
        return f'<p style="{INK}"><b>{self._title()}</b></p>{html_table(head, found) if found else ""}{lists}'


def _pairs(leak: Leak) -> str:
    return ", ".join(f"{first} and {second}" for first, second in leak.rows)


def html_table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A table for a notebook, in the colours of its theme; what stands in the cells is escaped."""
    cell = f'style="{INK};border-bottom:1px solid var(--jp-border-color1, #888)"'
    top = "".join(f'<th scope="col" {cell}>{html.escape(name)}</th>' for name in head)
    body = "".join(
        f"<tr>{''.join(f'<td {cell}>{html.escape(text)}</td>' for text in row)}</tr>" for row in rows
    )
    return f'<table style="border-collapse:collapse"><tr>{top}</tr>{body}</table>'
