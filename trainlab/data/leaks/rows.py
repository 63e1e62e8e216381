"""Rows of tables and images that lie in two parts: equal ones, and copies in disguise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from .neighbours import (
    FAR,
    FEWEST,
    SAMPLE,
    Floats,
    Ints,
    agreement_by_chance,
    by_chance,
    copies,
    nearest,
    nearest_but_one_field,
)
from .parts import Array, Part

WIDE = 64  # columns: above, one field among many does not hide a copy, and one scale serves all
WORK = 3e10  # multiplications spent on the distances of one pair of parts
MOST = 20_000  # rows of the reference looked through
LIMIT = 0.05  # pairs that would agree so well by chance, among all pairs, were columns independent
CONTINUOUS = 0.4  # share of different values from which a column counts as measured, not as coded
HEAP = 0.05  # share of the rows that one value of a measured column may hold

Neighbours = Callable[[Floats, Floats, int], tuple[Floats, Ints]]


@dataclass(frozen=True, slots=True)
class Copy:
    """Copies found between two parts: their disguise ("" for none), and where they lie.

    expected: how many a random cut of the same rows would give, where that is what tells them.
    """

    disguise: str
    query: Ints
    reference: Ints
    expected: float | None = None


@dataclass(frozen=True, slots=True)
class Space:
    """One way to see all rows.

    rows: (N, D).  floor: (N,), what the space cannot tell apart.  neighbours: how distances are had.
    cost: multiplications for a pair of rows.  step: (D,), the finest of each column; empty where a
    row is one picture or too wide for its columns to be judged one by one.
    left_out, anywhere: see `agreement_by_chance`.
    """

    disguise: str
    rows: Floats
    floor: Floats
    neighbours: Neighbours
    cost: int
    step: Floats = field(default_factory=lambda: np.empty(0))
    left_out: int = 0
    anywhere: bool = False


@dataclass(slots=True)
class Rows:
    """All parts' rows as one matrix, in every space in which copies are looked for."""

    parts: list[Part]
    keys: Array = field(init=False)
    spaces: list[Space] = field(init=False)
    starts: Ints = field(init=False)

    def __post_init__(self) -> None:
        filled = [part for part in self.parts if len(part)]
        values = np.concatenate([part.values for part in filled]).astype(np.float64)
        flat = values.reshape(len(values), -1)
        self.keys = row_keys(flat)
        self.starts = np.cumsum([0] + [len(part) for part in self.parts])
        # where the targets are measured, a row is its target too
        measured = [
            part.targets for part in filled if part.targets is not None and part.targets.dtype.kind == "f"
        ]
        if values.ndim == 2 and len(measured) == len(filled) and all(t.ndim == 1 for t in measured):
            flat = np.column_stack([flat, np.concatenate(measured)])
        self.spaces = list(_image_spaces(values) if values.ndim > 2 else _table_spaces(flat))

    def between(self, first: int, second: int) -> tuple[list[Copy], float]:
        """Copies of rows of part `first` in part `second`, and the share of its rows looked at closely."""
        a, b = (np.arange(self.starts[k], self.starts[k + 1]) for k in (first, second))
        equal = np.isin(self.keys[b], self.keys[a])
        reference = a[np.unique(self.keys[a], return_index=True)[1]]
        query = b[np.unique(self.keys[b], return_index=True)[1]]
        # rows that are equal come first: they must not be lost where there are too many to look at
        query = query[np.argsort(~np.isin(self.keys[query], self.keys[a]), kind="stable")]
        found: list[Copy] = []
        known: set[int] = set()
        share = 1.0
        for space in self.spaces:
            r = reference[:: -(-len(reference) // MOST)]
            q = query[: max(int(WORK / (len(r) * space.cost)), FEWEST)]
            share = min(share, len(q) / len(query))
            pairs = self._near(space, q, r)
            pairs = {row: other for row, other in pairs.items() if row not in known}
            known |= set(pairs)
            found += self._told(space.disguise, pairs, a, b)
        return [*self._equal(found, a, b, equal), *(copy for copy in found if copy.disguise)], share

    def _near(self, space: Space, query: Ints, reference: Ints) -> dict[int, int]:
        k = min(FAR, len(reference) - 1)
        if k < FEWEST:
            return {}
        distance, index = space.neighbours(space.rows[query], space.rows[reference], k)
        near = copies(distance, index, space.floor[query])
        found = zip(query[near.query].tolist(), reference[near.reference].tolist())
        if len(space.step) == 0:
            return dict(found)
        sample = space.rows[reference[:: -(-len(reference) // SAMPLE)]]
        chance = partial(
            agreement_by_chance,
            sample=sample,
            step=space.step,
            left_out=space.left_out,
            anywhere=space.anywhere,
        )
        pairs = len(query) * len(reference)
        return {
            row: other for row, other in found if pairs * chance(space.rows[row], space.rows[other]) < LIMIT
        }

    def _told(self, disguise: str, pairs: dict[int, int], a: Ints, b: Ints) -> Iterator[Copy]:
        """Found pairs as places in their parts: those that are equal apart from those that are not."""
        rows = np.array(sorted(pairs), dtype=np.int64)
        others = np.array([pairs[row] for row in rows], dtype=np.int64)
        same = self.keys[rows] == self.keys[others]
        for name, chosen in (("", same), (disguise, ~same)):
            if chosen.any():
                yield Copy(name, rows[chosen] - b[0], others[chosen] - a[0])

    def _equal(self, found: list[Copy], a: Ints, b: Ints, equal: Array) -> list[Copy]:
        """The rows that stand in both parts, where chance does not explain them."""
        telling = np.concatenate(
            [copy.query for copy in found if not copy.disguise] or [np.empty(0, np.int64)]
        )
        rows = np.flatnonzero(equal)
        expected: float | None
        expected, spread = by_chance(self.keys[a], self.keys[b])
        kinds = len(np.unique(self.keys[b][rows]))
        if len(telling) * 2 < kinds or kinds == 0:
            if len(rows) > expected + 5 * spread + 5:
                telling = rows  # more than a random cut of the same rows would give
            else:
                rows, expected = np.flatnonzero(np.isin(self.keys[b], self.keys[b][telling])), None
        else:
            expected = None
        if len(telling) == 0:
            return []
        first = {key: place for place, key in reversed(list(enumerate(self.keys[a].tolist())))}
        others = np.array([first[key] for key in self.keys[b][rows].tolist()], dtype=np.int64)
        return [Copy("", rows, others, expected)]


def row_keys(flat: Floats) -> Array:
    """One number for each row, (N,): equal rows have equal ones (missing values equal one another)."""
    known = np.where(np.isnan(flat), np.nan, flat + 0.0)  # -0.0 and 0.0 are one value
    bits: Array = np.ascontiguousarray(known, dtype=np.float64).view(np.uint64)
    factors: Array = np.asarray(np.random.default_rng(0).integers(0, 2**63, flat.shape[1])).astype(np.uint64)
    factors = 2 * factors + 1  # an even factor would lose bits
    mixed = (bits ^ (bits >> np.uint64(29))) * factors
    mixed ^= mixed >> np.uint64(32)
    return np.asarray((mixed * factors[::-1]).sum(1, dtype=np.uint64))


# --- spaces ----------------------------------------------------------------------------------------


def _table_spaces(flat: Floats) -> Iterator[Space]:
    moving = (flat != flat[0]).any(0)
    flat = flat[:, moving] if moving.any() else flat[:, :1]
    d = flat.shape[1]
    flat = _filled(flat)
    rows = _levelled(flat)
    floors = _floors(rows, flat)
    step = _finest(rows) if d <= WIDE else np.empty(0)
    yield Space("nearly the same values", rows, floors[0], nearest, d, step)
    if 4 <= d <= WIDE:
        yield Space(
            "the same but for one field", rows, floors[1], nearest_but_one_field, 40 * d, step, left_out=1
        )
    if d > 2:
        # one scale for all columns, for a value may have stood in any
        levelled = np.sort(_levelled(flat.reshape(-1, 1)).reshape(flat.shape), axis=1)
        floor = _floors(levelled, levelled)[0]
        step = _finest(levelled) if d <= WIDE else np.empty(0)
        disguise = "the same values in another order of columns"
        yield Space(disguise, levelled, floor, nearest, d, step, anywhere=True)


def _filled(flat: Floats) -> Floats:
    """Missing values as a value of their own below all others of the column."""
    missing = np.isnan(flat)
    if not missing.any():
        return flat
    low = np.nanmin(np.where(missing.all(0), 0.0, flat), axis=0)
    return np.where(missing, low - 1.0, flat)


def _levelled(flat: Floats) -> Floats:
    """Columns on one scale: by their own distribution, from 0 to 1; very wide tables by their spread."""
    if flat.shape[1] > WIDE:
        spread = flat.std(0)
        alike = spread.max() < 100 * max(np.median(spread), 1e-12)
        return flat / spread.max() if alike and spread.max() > 0 else flat / np.where(spread > 0, spread, 1.0)
    grid = np.quantile(flat, np.linspace(0, 1, 65), axis=0)
    levelled = np.empty_like(flat)
    for column, marks in enumerate(grid.T):
        values, first, count = np.unique(marks, return_index=True, return_counts=True)
        levelled[:, column] = np.interp(flat[:, column], values, (first + (count - 1) / 2) / 64)
    return levelled


def _floors(rows: Floats, flat: Floats) -> tuple[Floats, Floats]:
    """What equality cannot tell apart, (N,): with all columns, and with the most telling one left out.

    In measured columns the smallest step that occurs; where all are coded, the row's middle step.
    """
    distinct = len(np.unique(row_keys(flat)))
    steps, finest = [], []
    for column in rows.T:
        values, member = np.unique(column, return_inverse=True)
        if len(values) < 2:
            continue
        gaps = np.diff(values)
        commonest = np.bincount(member).max()
        if len(values) >= CONTINUOUS * distinct and commonest <= max(HEAP * len(rows), 3):
            finest.append(gaps.min())
        else:
            steps.append(np.minimum(np.append(gaps, np.inf), np.append(np.inf, gaps))[member])
    coded = np.median(steps, axis=0) if steps else np.zeros(len(rows))
    finest = sorted(finest)
    floors = [np.full(len(rows), finest[k]) if len(finest) > k else coded for k in (0, 1)]
    return floors[0], floors[1]


def _finest(rows: Floats) -> Floats:
    """The smallest step that occurs in each column, (D,); 1 where there is none."""
    gaps = [np.diff(np.unique(column)) for column in rows.T]
    return np.array([gap.min() if len(gap) else 1.0 for gap in gaps])


def _image_spaces(images: Floats) -> Iterator[Space]:
    n, pixels = len(images), images[0].size
    images = images.astype(np.float32)
    rows = images.reshape(n, -1) / max(float(np.abs(images).max()), 1e-12)
    values = np.unique(rows[:: max(n // 500, 1)])
    step = np.full(n, np.diff(values).min() if len(values) > 1 else 1.0)
    yield Space("nearly the same pixels", rows, step, nearest, pixels)
    turned = upright(images).reshape(n, -1)
    turned = turned - turned.mean(1, keepdims=True)
    size = np.sqrt((turned**2).sum(1, keepdims=True))
    unit = turned / np.where(size > 0, size, 1.0)
    scale = np.sqrt((rows.var(1) * pixels).mean()) or 1.0

    def either_sign(query: Floats, reference: Floats, k: int) -> tuple[Floats, Ints]:
        return nearest(query, reference, k, signless=True)

    disguise = "the same picture moved, mirrored, turned by quarters, negated or in another contrast"
    yield Space(disguise, unit, step / scale, either_sign, pixels)


def upright(images: Floats) -> Floats:
    """Pictures (N, C, H, W) moved to their middle, and turned and mirrored to a form of their own.

    What counts is how far a pixel is from the border's middle tone, so that a negative moves alike.
    """
    height, width = images.shape[2:]
    border = np.concatenate([images[:, :, 0], images[:, :, -1], images[..., 0], images[..., -1]], axis=2)
    ground = np.median(border, axis=2)[:, :, None, None]
    moved = _centred(images - ground)
    y, x = np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2
    mass = np.abs(moved).sum(1)
    if height == width:
        tall = np.einsum("nhw,h->n", mass, y**2) > np.einsum("nhw,w->n", mass, x**2)
        moved[tall] = moved[tall].swapaxes(2, 3)
        mass[tall] = mass[tall].swapaxes(1, 2)
    lower, right = np.einsum("nhw,h->n", mass, y**3) < 0, np.einsum("nhw,w->n", mass, x**3) < 0
    moved[lower] = moved[lower][:, :, ::-1]
    moved[right] = moved[right][..., ::-1]
    return moved


def _centred(images: Floats) -> Floats:
    """Pictures rolled by whole pixels so that their mass lies in the middle; the ground is 0."""
    n, _, height, width = images.shape
    mass = np.abs(images).sum(1)
    total = np.maximum(mass.sum((1, 2)), 1e-12)
    rows = np.arange(n)[:, None]
    down = np.rint(np.einsum("nhw,h->n", mass, np.arange(height)) / total - (height - 1) / 2).astype(int)
    along = np.rint(np.einsum("nhw,w->n", mass, np.arange(width)) / total - (width - 1) / 2).astype(int)
    moved = images.swapaxes(1, 2)[rows, (np.arange(height) + down[:, None]) % height].swapaxes(1, 2)
    moved = moved.swapaxes(1, 3)[rows, (np.arange(width) + along[:, None]) % width].swapaxes(1, 3)
    return moved.copy()
