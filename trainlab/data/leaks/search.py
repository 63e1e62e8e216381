"""`leakage`: does one part of a split know what it should not know about another?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np

from .fitting import fitted_on, traces
from .neighbours import FEWEST
from .order import as_times, comparable, fingerprints
from .parts import Array, Part, read_parts
from .report import Leak, LeakageReport
from .rows import WIDE, Copy, Rows
from .texts import Texts

EXAMPLES = 3

_COPIED = "a model that has memorised these rows scores better here than on rows it has never met"
_KEEP_COPIES = (
    "drop the copies before splitting, or number each set of copies and call split(..., groups=those "
    "numbers); "
    "augment and oversample after the split, in train only"
)
_KNOWN = "the model is asked about groups that it has met: on new ones it will do worse than this score says"
_WHOLE = (
    "split(..., groups=the group of each row); if the same groups come again in use, say "
    "leakage(groups=False)"
)
_FUTURE = "the model has seen what came after the rows it is asked about, which no forecast can"
_EARLIER = "split(..., time=the time of each row): train on what came before"
_REFIT = "split first, fit on train only, then transform every part with what train gave"
_STATISTICS = (
    "often next to nothing for a scaler, much for a selection of columns by the target: measure it by "
    "fitting "
    "on train alone"
)
_BEYOND = {
    "table": "copies in other units, rows made of several others (SMOTE), a column that holds the answer, "
    "choices made on the validation part",
    "images": "copies blurred, compressed hard, turned by other angles, zoomed, cropped or warped, the same "
    "subject in another picture, choices made on the validation part",
    "texts": "changed texts of fewer than ten words, paraphrases, translations, sentences in another "
    "order, choices made on the validation part",
}
_TRACELESS = {
    "table": "scaling by median and quartiles, selecting or combining columns",
    "images": "scaling, whitening",
    "texts": "a vocabulary, its weights",
}


def leakage(splits: Any, *, groups: Any = None, time: Any = None, fitted: Any = None) -> LeakageReport:
    """Look for rows, groups, moments and statistics of one part that another part already knows.

    splits: what `split` returns, a fold, or a tuple of 2 or 3 parts in the order train, valid, test: data
    sets, Subsets, arrays or frames, lists of texts, or pairs (features, targets) of these.
    groups, time: one value for each row of the data set that was split, or a tuple with a column for each
    part; None takes the data set's own, False looks for none.  Times may be numbers or dates.
    fitted: a fitted scaler, imputer, selector or pipeline (scikit-learn's convention), of rows as they are.
    Rows that are equal or near by chance are no finding: see `neighbours` for the yardstick.
    Returns what was found, what was looked for and what cannot be seen.  Nothing is changed.
    Raises TrainlabError if the parts do not fit each other, or groups, times or `fitted` do not fit them.
    """
    parts = read_parts(splits, groups if groups is not False else None, time)
    moments = as_times([part.time for part in parts])
    search = _Search([replace(part, time=column) for part, column in zip(parts, moments)])
    search.copies()
    if groups is False:
        search.checked.append("shared groups: not held against the parts, as groups=False asks")
    else:
        search.shared_groups()
    search.time_order(asked=time is not None)
    search.statistics(fitted)
    search.unchecked.append(_BEYOND[search.kind])
    return LeakageReport(tuple(search.findings), tuple(search.checked), tuple(search.unchecked))


@dataclass(slots=True)
class _Search:
    """The parts, and what is known about them so far."""

    parts: list[Part]
    findings: list[Leak] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)

    @property
    def kind(self) -> str:
        return next(part.kind for part in self.parts if len(part))

    def pairs(self) -> Iterator[tuple[int, int]]:
        """Every two parts that hold rows, the earlier first."""
        return combinations([place for place, part in enumerate(self.parts) if len(part)], 2)

    def found(
        self, kind: str, pair: tuple[int, int], count: int, rows: Any, texts: tuple[str, str, str]
    ) -> None:
        """Note a leak.  rows: places in the second part and in the first.

        texts: evidence, cost, remedy.
        """
        first, second = (self.parts[place] for place in pair)
        numbers = tuple((int(first.rows[a]), int(second.rows[b])) for b, a in list(rows)[:EXAMPLES])
        self.findings.append(Leak(kind, (first.name, second.name), count, numbers, *texts))

    # --- rows ---

    def copies(self) -> None:
        """Look for rows that two parts share, as they are or disguised."""
        for part in self.parts:
            if len(part) == 0:
                self.unchecked.append(f"{part.name}, which is empty")
        if self.kind == "texts":
            self._copied_texts()
        else:
            self._copied_rows()

    def _copied_texts(self) -> None:
        texts = Texts(self.parts)
        for pair in self.pairs():
            first, second = (self.parts[place] for place in pair)
            for kind, rows, how in zip(
                ("shared rows", "near-duplicates"),
                texts.between(*pair),
                ("stand in {} too but for case, punctuation and spaces", "are nearly those of {}"),
            ):
                if rows:
                    evidence = (
                        f"{len(rows)} of {len(second)} texts of {second.name} {how.format(first.name)}; "
                        "they are too "
                        "long to agree by chance"
                    )
                    self.found(kind, pair, len(rows), rows, (evidence, _COPIED, _KEEP_COPIES))
        self.checked += [
            "shared rows: texts without case, accents, punctuation and spaces; short ones repeat by chance",
            "near-duplicates: texts that share most of their words, in one order",
        ]

    def _copied_rows(self) -> None:
        rows, least = Rows(self.parts), 1.0
        for pair in self.pairs():
            copies, share = rows.between(*pair)
            least = min(least, share)
            self._tell_equal(pair, [copy for copy in copies if not copy.disguise])
            self._tell_disguised(pair, [copy for copy in copies if copy.disguise])
        self.checked.append("shared rows: equal in every value, beyond what chance gives")
        if min(len(part) for part in self.parts if len(part)) < FEWEST:
            self.unchecked.append(
                f"near-duplicates where a part has fewer than {FEWEST} rows: chance has no measure"
            )
        if least < 1:
            self.unchecked.append(
                f"near-duplicates of the rest: {100 * least:.0f} % of the largest part was compared"
            )
        names = ", ".join(space.disguise for space in rows.spaces)
        self.checked.append(f"near-duplicates: {names}")

    def _tell_equal(self, pair: tuple[int, int], copies: list[Copy]) -> None:
        first, second = (self.parts[place] for place in pair)
        for copy in copies:
            chance = "independent rows are not equal in such values"
            if copy.expected is not None:
                chance = f"the same rows dealt out at random would give about {copy.expected:.0f}"
            evidence = (
                f"{len(copy.query)} of {len(second)} rows of {second.name} stand in {first.name} too, "
                "value for "
                f"value; {chance}"
            )
            rows = zip(copy.query, copy.reference)
            self.found("shared rows", pair, len(copy.query), rows, (evidence, _COPIED, _KEEP_COPIES))

    def _tell_disguised(self, pair: tuple[int, int], copies: list[Copy]) -> None:
        first, second = (self.parts[place] for place in pair)
        if not copies:
            return
        count = sum(len(copy.query) for copy in copies)
        ways = "; ".join(f"{len(copy.query)}: {copy.disguise}" for copy in copies)
        evidence = (
            f"{count} of {len(second)} rows of {second.name} are copies of rows of {first.name} ({ways}); "
            "independent rows do not lie so near"
        )
        largest = max(copies, key=lambda copy: len(copy.query))
        rows = zip(largest.query, largest.reference)
        self.found("near-duplicates", pair, count, rows, (evidence, _COPIED, _KEEP_COPIES))

    # --- groups and time ---

    def shared_groups(self) -> None:
        """Look for groups that lie in two parts, and for columns that name one."""
        named = all(part.groups is not None for part in self.parts if len(part))
        shared = named and max([self._groups_of(pair) for pair in self.pairs()], default=False)
        if named:
            self.checked.append("shared groups: by the name of each row's group")
        if self.kind == "table" and self.parts[0].values.shape[1] <= WIDE and not shared:
            self._betrayed_groups()
        elif not named:
            self.unchecked.append(
                "shared groups: none are known; give groups=, such as the patient of each row"
            )

    def _groups_of(self, pair: tuple[int, int]) -> bool:
        first, second = (self.parts[place] for place in pair)
        assert first.groups is not None and second.groups is not None
        a, b, respelt = comparable(first.groups, second.groups)
        both = np.intersect1d(a, b)
        if len(both) == 0:
            return False
        spelt = ", once case, punctuation and leading zeros of the names are put aside" if respelt else ""
        rows = int(np.isin(b, both).sum())
        evidence = (
            f"{len(both)} of the {len(np.unique(b))} groups of {second.name} lie in {first.name} too, with "
            f"{rows} of "
            f"its {len(second)} rows{spelt}"
        )
        places = [(int((b == name).argmax()), int((a == name).argmax())) for name in both[:EXAMPLES]]
        self.found("shared groups", pair, len(both), places, (evidence, _KNOWN, _WHOLE))
        return True

    def _betrayed_groups(self) -> None:
        for print_ in fingerprints(self.parts):
            names = next(part.columns for part in self.parts if len(part))
            column = repr(names[print_.column]) if names else str(print_.column)
            for pair in self.pairs():
                first, second = (self.parts[place] for place in pair)
                a, b = (np.round(part.values[:, print_.column], 9) for part in (first, second))
                both = np.intersect1d(a, b)
                # a few values are shared by chance, by rows of different groups
                if len(both) < 5 + 3 * len(np.unique(a)) * len(np.unique(b)) / print_.possible:
                    continue
                evidence = (
                    f"column {column} names somebody: few values for so fine a column, rows that share one "
                    "are "
                    f"alike in the others ({print_.alike:.0%} of the usual distance), and {len(both)} of the "
                    f"{len(np.unique(b))} values in {second.name} lie in {first.name} too"
                )
                places = [(int((b == name).argmax()), int((a == name).argmax())) for name in both[:EXAMPLES]]
                self.found("shared groups", pair, len(both), places, (evidence, _KNOWN, _WHOLE))
        self.checked.append("shared groups: by a finely measured column that is constant within a group")
        self.unchecked.append("groups that only several columns together, or coarse ones, give away")

    def time_order(self, *, asked: bool) -> None:
        """Look for rows of an earlier part that are later than rows of a later one."""
        filled = [part for part in self.parts if len(part)]
        if any(part.time is None for part in filled):
            self.unchecked.append("time order: no times are known; give time=, such as the date of each row")
            return
        late = [(pair, rows) for pair in self.pairs() if len(rows := self._late(pair))]
        grouped = all(part.groups is not None for part in filled)
        if late and grouped and not asked and not any(leak.kind == "shared groups" for leak in self.findings):
            self.unchecked.append(
                "time order: the parts overlap in time and keep groups whole, which is right for new "
                "groups; give "
                "time= if the score is to hold for later moments"
            )
            return
        if late and grouped and all(self._in_order_within_groups(pair) for pair in self.pairs()):
            self.checked.append("time order: within each group what comes first is in the earlier part")
            return
        for pair, rows in late:
            first, second = (self.parts[place] for place in pair)
            assert second.time is not None
            evidence = (
                f"{len(rows)} of {len(first)} rows of {first.name} are later than the earliest row of "
                f"{second.name}"
            )
            earliest = int(second.time.argmin())
            places = [(earliest, int(row)) for row in rows[:EXAMPLES]]
            self.found("time order", pair, len(rows), places, (evidence, _FUTURE, _EARLIER))
        self.checked.append("time order: no row of an earlier part may be later than one of a later part")

    def _late(self, pair: tuple[int, int]) -> Array:
        first, second = (self.parts[place].time for place in pair)
        assert first is not None and second is not None
        return np.flatnonzero(first > second.min())

    def _in_order_within_groups(self, pair: tuple[int, int]) -> bool:
        """Whether there are shared groups, the rows of each in the first part before those in the second."""
        first, second = (self.parts[place] for place in pair)
        assert first.groups is not None and second.groups is not None
        assert first.time is not None and second.time is not None
        a, b, _ = comparable(first.groups, second.groups)
        both = np.intersect1d(a, b)
        return len(both) > 0 and all(
            first.time[a == name].max() <= second.time[b == name].min() for name in both
        )

    # --- statistics ---

    def statistics(self, fitted: Any) -> None:
        """Look for statistics that were taken from more than the training part."""
        filled = [part for part in self.parts if len(part)]
        ends = (self.parts.index(filled[0]), self.parts.index(filled[-1]))
        if len(filled) > 1 and filled[0].kind == "table":
            for what, columns in traces(self.parts):
                evidence = (
                    f"{columns} columns have {what} over all parts together, and not over {filled[0].name}"
                )
                self.found("preprocessing", ends, columns, (), (evidence, _STATISTICS, _REFIT))
            self.checked.append("preprocessing: columns scaled or filled with statistics of all parts")
        if fitted is None:
            without = _TRACELESS[self.kind]
            self.unchecked.append(f"preprocessing that leaves no trace ({without}): give fitted=")
            return
        names, count = fitted_on(fitted, filled)
        title = type(fitted).__name__
        if not names:
            self.unchecked.append(
                f"preprocessing: the statistics of {title} are those of none of these parts; give the rows "
                "as it "
                "took them in"
            )
            return
        if count:
            evidence = (
                f"{title} was fitted on {', '.join(names)}: "
                f"{count} of its numbers are not those of {names[0]}"
            )
            other = next(place for place, part in enumerate(self.parts) if part.name == names[-1])
            self.found("preprocessing", (ends[0], other), count, (), (evidence, _STATISTICS, _REFIT))
        self.checked.append(f"preprocessing: what {title} learnt, against fits on these parts")
