"""Texts that lie in two parts: equal once case, punctuation and spaces are put aside, or nearly equal.

Short texts repeat by chance ("good movie"), long ones do not.  How much two texts share is counted in
bits, under a model of pairs of words made from all other texts; with it comes how many pairs of texts
would share as much by chance.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from itertools import pairwise
from typing import Any

import numpy as np

from .neighbours import by_chance
from .parts import Part

ALIKE = 0.7  # share of the bits of the longer text that both must hold
CHANCE = 0.01  # pairs of texts that may share as much by chance
FAMILY = 5  # different texts like one another from which they are a pattern (a form letter), not copies
RARE = 50  # texts that may hold a word, or two in a row, by which candidates are found
SHORT = 5  # words below which a text may be a stock phrase, whatever its bits; twice that with changes
_WORD = re.compile(r"\w+")


def words_of(text: str) -> tuple[str, ...]:
    """The words of a text without case, accents, punctuation and spacing; all its signs if it has none."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    plain = "".join(sign for sign in plain if not unicodedata.combining(sign))
    plain = plain.replace("'", "").replace("’", "")
    return tuple(_WORD.findall(plain.replace("_", " "))) or tuple(plain.split())


@dataclass(slots=True)
class Texts:
    """The words of all parts' texts, and how surprising each pair of words is."""

    parts: list[Part]
    words: list[list[tuple[str, ...]]] = field(init=False)
    single: Counter[str] = field(init=False)
    double: Counter[tuple[str, str]] = field(init=False)

    def __post_init__(self) -> None:
        self.words = [[words_of(str(text)) for text in part.values] for part in self.parts]
        distinct = {text for part in self.words for text in part}  # a copy must not make itself usual
        self.single = Counter(word for text in distinct for word in text)
        self.double = Counter(pair for text in distinct for pair in pairwise(text))

    def bits(self, text: Sequence[str], copies: int) -> list[float]:
        """How surprising each word is after the one before it, in bits, in the other texts.

        copies: in how many different texts the words stand because they were copied: they do not count.
        """
        total = sum(self.single.values()) + len(self.single)
        found = []
        for before, word in zip(("", *text), text):
            alone = (max(self.single[word] - copies, 0) + 1) / total
            seen = max(self.single[before] - copies, 0)
            after = max(self.double[before, word] - copies, 0) / seen if seen else 0.0
            found.append(-math.log2(0.5 * alone + 0.5 * after))
        return found

    def between(self, first: int, second: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Pairs of rows (in `second`, in `first`): of equal texts, and of nearly equal ones."""
        a, b = self.words[first], self.words[second]
        limit = math.log2(max(len(a) * len(b), 1) / CHANCE)
        places: dict[tuple[str, ...], int] = {}
        for place, text in enumerate(a):
            places.setdefault(text, place)
        equal, rest, stock = [], [], []
        for row, text in enumerate(b):
            if text not in places:
                rest.append(row)
            elif len(text) >= SHORT and sum(self.bits(text, 1)) > limit:
                equal.append((row, places[text]))
            else:
                stock.append((row, places[text]))
        expected, spread = by_chance(*([hash(text) for text in part] for part in (a, b)))
        if len(equal) + len(stock) > expected + 5 * spread + 5:
            equal = sorted([*equal, *stock])  # more than a random cut of the same texts would give
        return equal, self._nearly(rest, b, places, limit)

    def _nearly(
        self, rows: list[int], b: list[tuple[str, ...]], places: dict[tuple[str, ...], int], limit: float
    ) -> list[tuple[int, int]]:
        """For each text of `rows` the one of `places` that shares most, where that is too much for chance."""
        holders: dict[Any, list[tuple[str, ...]]] = {}
        for text in places:
            for key in {*text, *pairwise(text)}:
                holders.setdefault(key, []).append(text)
        holders = {key: texts for key, texts in holders.items() if len(texts) <= RARE}
        found = []
        for row in rows:
            lists = [holders[key] for key in {*b[row], *pairwise(b[row])} if key in holders]
            shared = Counter(other for texts in lists for other in texts)
            best = [other for other, count in shared.most_common(FAMILY + 1) if 2 * count >= len(lists)]
            near = [other for other in best if self._alike(b[row], other, limit)]
            if 0 < len(near) <= FAMILY:
                found.append((row, places[near[0]]))
        return found

    def _alike(self, text: tuple[str, ...], other: tuple[str, ...], limit: float) -> bool:
        """Whether two texts share, in order, too many words for chance, and most of the longer one."""
        longer, shorter = sorted((text, other), key=len, reverse=True)
        bits = np.array(self.bits(longer, 2))
        same = np.zeros(len(longer), dtype=bool)
        for block in SequenceMatcher(None, longer, shorter, autojunk=False).get_matching_blocks():
            same[block.a : block.a + block.size] = True
        ways = 2 * math.log2(math.comb(len(longer), int(same.sum())))  # to choose the words that agree
        enough = same.sum() >= 2 * SHORT and bits[same].sum() >= ALIKE * bits.sum()
        return bool(enough and bits[same].sum() - ways > limit)
