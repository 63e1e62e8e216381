"""The yardstick: how near would the nearest row lie if the rows had been drawn independently?

Around a row, independent draws lie at distances whose m-th powers grow evenly, where m is the number
of dimensions that the data really fills.  So (d_k / d_(k+1))^(m k) is uniform between 0 and 1: a copy
shows as a ratio far too small for chance, in dense regions and in sparse ones alike.  m is measured
around each row from neighbours further out, which a copy does not touch.
Source: Levina & Bickel, Maximum Likelihood Estimation of Intrinsic Dimension, 2004; Facco et al.,
Estimating the intrinsic dimension of datasets by a minimal neighborhood information, 2017.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaincc

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FAR = 30  # neighbours looked at
NEAR = 10  # a row may have up to so many copies
FEWEST = 12  # rows below which nothing can be said about distances
ALPHA = 0.01  # chance of one false alarm in a whole part, were the law exact
GAP = 0.25  # a copy lies at most at this share of the distance of the next row that is none
SAMPLE = 2000  # rows from which the chance of agreement is estimated
STEEPEST = 12.0  # dimensions: more are never counted, for the law is an idealisation


@dataclass(frozen=True, slots=True)
class Copies:
    """Rows of one part that lie too near to one of another: places in both, and the distance."""

    query: Ints
    reference: Ints


def copies(distance: Floats, index: Ints, floor: Floats) -> Copies:
    """The queries whose nearest neighbour is too near for chance.

    distance: (Q, K), rising along a row.  index: (Q, K), of the neighbours.  floor: (Q,), a distance
    below which the data cannot tell two rows apart (its step, where values are rounded).
    """
    q, k = distance.shape
    if k < FEWEST or q == 0:
        return Copies(np.empty(0, np.int64), np.empty(0, np.int64))
    log = np.log(np.maximum(distance + floor[:, None], 1e-300))
    near = min(NEAR, k // 3)
    spread = (log[:, -1:] - log[:, near:-1]).mean(1)
    local = 1 / np.maximum(spread, 1 / STEEPEST)
    # three quarters of the smaller estimate: what lies unevenly looks emptier than it is
    m = 0.75 * np.minimum(local, np.median(local))
    gaps = log[:, :near] - log[:, 1 : near + 1]
    surprise = (m[:, None] * np.arange(1, near + 1) * gaps).min(1, initial=0, where=gaps < np.log(GAP))
    found = np.flatnonzero(surprise < np.log(ALPHA / (q * near)))
    return Copies(found, index[found, 0])


def nearest(query: Floats, reference: Floats, k: int, *, signless: bool = False) -> tuple[Floats, Ints]:
    """Distances to the k nearest reference rows and their places, each (Q, k); rows are (N, D).

    signless: rows have unit length, and a row and its negative count as the same.
    """
    r = torch.from_numpy(np.ascontiguousarray(reference, dtype=np.float32))
    squares = (r * r).sum(1)
    places = []
    for block in torch.from_numpy(np.ascontiguousarray(query, dtype=np.float32)).split(512):
        product = block @ r.T
        score = product.abs() if signless else product - squares / 2  # least distance, up to a constant
        places.append(score.topk(k, dim=1).indices)

    def measure(row: Floats, other: Floats) -> Floats:
        sign = np.where((row * other).sum(1) < 0, -1.0, 1.0)[:, None] if signless else 1.0
        return ((row - other * sign) ** 2).sum(1)

    return _exact(query, reference, torch.cat(places).numpy(), measure)


def nearest_but_one_field(query: Floats, reference: Floats, k: int) -> tuple[Floats, Ints]:
    """As `nearest`, with the one column left out in which a pair differs most."""
    r = torch.from_numpy(np.ascontiguousarray(reference.T, dtype=np.float32))  # (D,R)
    places = []
    for block in torch.from_numpy(np.ascontiguousarray(query, dtype=np.float32)).split(256):
        total = torch.zeros(len(block), r.shape[1])
        largest = torch.zeros_like(total)
        for column, values in zip(block.T, r):
            gap = (column[:, None] - values).square_()
            total += gap
            torch.maximum(largest, gap, out=largest)
        places.append((total - largest).topk(k, dim=1, largest=False).indices)

    def measure(row: Floats, other: Floats) -> Floats:
        gaps = np.sort((row - other) ** 2, axis=1)
        return gaps[:, :-1].sum(1)

    return _exact(query, reference, torch.cat(places).numpy(), measure)


def _exact(
    query: Floats, reference: Floats, index: Ints, measure: Callable[[Floats, Floats], Floats]
) -> tuple[Floats, Ints]:
    """The distances again without the rounding of the fast formulas, rising, and the places so ordered."""
    columns = [np.sqrt(measure(query, reference[place])) for place in index.T]
    distance = np.stack(columns, axis=1)
    order = np.argsort(distance, axis=1, kind="stable")
    return np.take_along_axis(distance, order, 1), np.take_along_axis(index, order, 1)


def agreement_by_chance(
    row: Floats, other: Floats, sample: Floats, step: Floats, *, left_out: int, anywhere: bool
) -> float:
    """The chance that a row drawn with independent columns agrees with `row` as well as `other` does.

    row, other: (D,).  sample: (S, D), rows drawn from the data.  step: (D,), the finest of each column.
    left_out: how many of the columns that agree worst do not count.  anywhere: whether a value may stand
    in any column.  Columns that depend on each other make the result too small: it is one of two tests.
    Source: Fisher, Statistical Methods for Research Workers, on combining probabilities.
    """
    gaps = np.abs(sample - row)
    if anywhere:
        gaps = np.stack([np.abs(sample - value).min(1) for value in row], axis=1)
    own = np.abs(row - other)
    share = (gaps <= own + 1e-12).mean(0)
    nth = min(NEAR, len(sample) - 1)
    around = np.partition(gaps, nth, axis=0)[nth]
    # nearer than any few of the sample: the density around the row goes on to where no row lies
    finer = (own + step) / np.maximum(around + step, 1e-300) * (nth + 1) / len(sample)
    chance = np.where(own < around, finer, share).clip(1e-300, 1.0)
    order = np.argsort(chance)
    kept = order[: len(order) - left_out]
    # equal values agree or do not: their chances multiply; distances can be near in more ways than one
    equal = kept[own[kept] <= 1e-12]
    near = kept[own[kept] > 1e-12]
    ways = math.comb(len(order), left_out) * math.comb(len(kept), len(near))
    nearness = gammaincc(len(near), -np.log(chance[near]).sum()) if len(near) else 1.0
    return ways * float(chance[equal].prod() * nearness)


def by_chance(first: ArrayLike, second: ArrayLike) -> tuple[float, float]:
    """How many keys of `second` would stand in `first` had the same keys been dealt out at random.

    first, second: one key for each row; equal rows have equal keys.  Returns the mean and its spread.
    """
    first, second = np.asarray(first), np.asarray(second)
    _, member, sizes = np.unique(np.concatenate([first, second]), return_inverse=True, return_counts=True)
    share = len(second) / len(member)
    # a row in the second part is alone there only if none of its c - 1 equals is in the first
    inside = share * (1 - share ** (sizes - 1))
    expected = float((sizes * inside).sum())
    spread = float(np.sqrt((sizes[sizes > 1] * share * (1 - share)).sum()))
    return expected, spread
