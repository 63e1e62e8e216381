"""`leakage` finds what was planted, plain and disguised, and is silent where chance explains all."""

from __future__ import annotations

import html
import re
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.feature_selection import SelectKBest
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from torch.utils.data import Subset, TensorDataset

import trainlab as tl

Array = np.ndarray
Parts = tuple[Any, ...]
Rng = np.random.Generator


def cut(rng: Rng, *columns: Array, share: float = 0.3) -> tuple[list[Array], list[Array]]:
    """The same random rows of every column as a second part, the others as the first."""
    order = rng.permutation(len(columns[0]))
    place = int(len(order) * (1 - share))
    return [c[order[:place]] for c in columns], [c[order[place:]] for c in columns]


def table(rng: Rng, rows: int = 600, width: int = 8) -> Array:
    """Correlated measurements of different sizes, as tables have them."""
    mixing = rng.normal(size=(width, width)) / width**0.5 + np.eye(width)
    return rng.normal(size=(rows, width)) @ mixing * 10.0 ** rng.integers(-2, 3, width)


def planted(rng: Rng, disguise: Callable[[Array], Array], copies: int = 20, **size: int) -> Parts:
    """Two parts, with `copies` rows of the first standing in the second, disguised."""
    (train,), (valid,) = cut(rng, table(rng, **size))
    valid[:copies] = disguise(train[:copies])
    return train, valid


def with_noise(rng: Rng) -> Callable[[Array], Array]:
    return lambda rows: rows * (1 + 1e-6 * rng.normal(size=rows.shape))


def with_one_field_changed(rng: Rng) -> Callable[[Array], Array]:
    def change(rows: Array) -> Array:
        changed = rows.copy()
        fields = rng.integers(0, rows.shape[1], len(rows))
        changed[np.arange(len(rows)), fields] = rows[rng.permutation(len(rows)), fields] * 1.5
        return changed

    return change


def digits(rng: Rng) -> tuple[Array, Array]:
    """Two disjoint parts of the real digits, (N, 1, 28, 28)."""
    (train,), (valid,) = cut(rng, tl.load("mnist5k").features.numpy()[rng.permutation(5000)[:1500]])
    return train, valid


def pictures(rng: Rng, disguise: Callable[[Array], Array]) -> Parts:
    train, valid = digits(rng)
    valid[:20] = disguise(train[:20])
    return train, valid


NOUNS = "film plot actor scene story ending camera script music director joke dialogue hero villain".split()
VERBS = "loved hated enjoyed missed watched praised doubted followed noticed forgot admired".split()
MORE = "quietly boldly slowly madly rarely truly oddly nearly warmly badly sharply gladly".split()


def snippets(rng: Rng, count: int = 600, words: int = 14) -> list[str]:
    """Sentences of random words, few enough of them to be met again and again."""
    pools = (NOUNS, VERBS, MORE)
    return [
        " ".join(pools[k % 3][rng.integers(len(pools[k % 3]))] for k in range(words)) for _ in range(count)
    ]


def told(rng: Rng, disguise: Callable[[str], str]) -> Parts:
    texts = snippets(rng)
    train, valid = texts[:400], texts[400:]
    return train, [disguise(text) for text in train[:20]] + valid[20:]


def patients(rng: Rng, count: int = 80, visits: int = 6) -> SimpleNamespace:
    """Visits: an age in days that stays, values that stay nearly, values that move."""
    who = np.repeat(np.arange(count), visits)
    age = rng.integers(20 * 365, 80 * 365, count)[who] / 365.25
    level = rng.normal(size=(count, 4))[who] + 0.7 * rng.normal(size=(len(who), 4))
    rows = np.column_stack([age, level, rng.normal(size=len(who))])
    return SimpleNamespace(rows=rows, who=who, when=rng.random(len(who)) * 3000)


def dates(days: Array, form: str) -> Array:
    return np.array((pd.Timestamp("2015-11-03") + pd.to_timedelta(days, "D")).strftime(form))


# --- what is planted ---------------------------------------------------------------------------------


def by_group(rng: Rng, **options: Any) -> tuple[Any, dict[str, Any]]:
    p = patients(rng)
    a, b = cut(rng, p.rows[:, 1:], p.who)
    return (a[0], b[0]), {"groups": options.get("names", tuple)((a[1], b[1]))}


def respelt(pair: Any) -> Any:
    return ([f"P-{name:03}" for name in pair[0]], [f"p{name}" for name in pair[1]])


def by_time(rng: Rng, form: str) -> tuple[Any, dict[str, Any]]:
    days = rng.permutation(600)
    a, b = cut(rng, table(rng), dates(days, form) if form else days)
    return (a[0], b[0]), {"time": (a[1], b[1])}


def scaled_by_all(rng: Rng, scaler: Any) -> Parts:
    (train,), (valid,) = cut(rng, scaler.fit_transform(table(rng)))
    return train, valid


def with_fitted(rng: Rng, transformer: Any, everything: bool = True) -> tuple[Any, dict[str, Any]]:
    rows = table(rng, width=30)
    rows[rng.random(rows.shape) < 0.05] = np.nan
    a, b = cut(rng, rows, (rng.random(600) < 0.5).astype(int))
    seen = [np.concatenate([x, y]) for x, y in zip(a, b)] if everything else a
    return (tuple(a), tuple(b)), {"fitted": transformer.fit(*seen)}


def oversampled(rng: Rng) -> Parts:
    rows = table(rng)
    (train,), (valid,) = cut(rng, np.concatenate([rows, np.repeat(rows[:25], 8, axis=0)]))
    return train, valid


def copied_into_coded(rng: Rng) -> Parts:
    rows = rng.integers(0, 4, (600, 5)).astype(float)
    rows = rows[rng.random(600).argsort()]
    return rows[:400], np.concatenate([rows[:120], rows[400:480]])


def only(parts: Parts) -> tuple[Parts, dict[str, Any]]:
    return parts, {}


PLANTED: dict[str, tuple[str, Callable[[Rng], tuple[Any, dict[str, Any]]]]] = {
    "equal rows": ("shared rows", lambda r: only(planted(r, np.copy))),
    "equal rows, two columns": ("shared rows", lambda r: only(planted(r, np.copy, width=2))),
    "equal rows, few": ("shared rows", lambda r: only(planted(r, np.copy, rows=60, copies=3))),
    "oversampled before the split": ("shared rows", lambda r: only(oversampled(r))),
    "a valid part copied from train, coded": ("shared rows", lambda r: only(copied_into_coded(r))),
    "float noise": ("near-duplicates", lambda r: only(planted(r, with_noise(r)))),
    "one field changed": ("near-duplicates", lambda r: only(planted(r, with_one_field_changed(r)))),
    "columns in another order": (
        "near-duplicates",
        lambda r: only(planted(r, lambda rows: rows[:, r.permutation(8)])),
    ),
    "columns in another order, with noise": (
        "near-duplicates",
        lambda r: only(planted(r, lambda rows: with_noise(r)(rows)[:, ::-1])),
    ),
    "equal pictures": ("shared rows", lambda r: only(pictures(r, np.copy))),
    "pictures with noise": (
        "near-duplicates",
        lambda r: only(pictures(r, lambda x: x + 0.02 * r.normal(size=x.shape))),
    ),
    "pictures moved": ("near-duplicates", lambda r: only(pictures(r, lambda x: np.roll(x, (1, -1), (2, 3))))),
    "pictures mirrored": ("near-duplicates", lambda r: only(pictures(r, lambda x: x[..., ::-1]))),
    "pictures turned": (
        "near-duplicates",
        lambda r: only(pictures(r, lambda x: x.swapaxes(2, 3)[..., ::-1])),
    ),
    "pictures negated": ("near-duplicates", lambda r: only(pictures(r, lambda x: 1 - x))),
    "pictures dimmed": ("near-duplicates", lambda r: only(pictures(r, lambda x: 0.2 + 0.5 * x))),
    "equal texts": ("shared rows", lambda r: only(told(r, str))),
    "texts in capitals": ("shared rows", lambda r: only(told(r, str.upper))),
    "texts respaced": ("shared rows", lambda r: only(told(r, lambda t: f"  {t.replace(' ', ' , ')} !!"))),
    "texts with a word changed": (
        "near-duplicates",
        lambda r: only(told(r, lambda t: " ".join(["perhaps", *t.split()[1:]]))),
    ),
    "groups on both sides": ("shared groups", by_group),
    "groups spelt otherwise": ("shared groups", lambda r: by_group(r, names=respelt)),
    "groups betrayed by a column": (
        "shared groups",
        lambda r: only(tuple(p[0] for p in cut(r, patients(r).rows))),
    ),
    "shuffled times": ("time order", lambda r: by_time(r, "")),
    "times as words": ("time order", lambda r: by_time(r, "%Y-%m-%d")),
    "times as words, day first": ("time order", lambda r: by_time(r, "%d/%m/%Y")),
    "times with names of months": ("time order", lambda r: by_time(r, "%B %d, %Y")),
    "standardised by all": ("preprocessing", lambda r: only(scaled_by_all(r, StandardScaler()))),
    "scaled to a range by all": ("preprocessing", lambda r: only(scaled_by_all(r, MinMaxScaler()))),
    "scaler of all": ("preprocessing", lambda r: with_fitted(r, StandardScaler())),
    "range of all": ("preprocessing", lambda r: with_fitted(r, MinMaxScaler())),
    "imputer of all": ("preprocessing", lambda r: with_fitted(r, SimpleImputer(strategy="median"))),
    "selector of all": (
        "preprocessing",
        lambda r: with_fitted(r, make_pipeline(SimpleImputer(), StandardScaler(), SelectKBest(k=5))),
    ),
}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_is_found(name: str, seed: int) -> None:
    kind, make = PLANTED[name]
    splits, options = make(np.random.default_rng(seed))
    report = tl.leakage(splits, **options)
    assert [leak.kind for leak in report.findings] == [kind], str(report)
    assert not report.ok
    assert report.findings[0].parts == ("train", "valid")


# --- what is clean --------------------------------------------------------------------------------------


def clean(rng: Rng, rows: Array) -> tuple[Any, dict[str, Any]]:
    (train,), (valid,) = cut(rng, rows)
    return (train, valid), {}


def in_time(rng: Rng) -> tuple[Any, dict[str, Any]]:
    days = np.sort(rng.integers(0, 90, 600))
    dataset = tl.Dataset("d", torch.tensor(table(rng)), torch.zeros(600))
    return tl.split(dataset, seed=0, time=days), {"time": days}


def grouped(rng: Rng) -> tuple[Any, dict[str, Any]]:
    p = patients(rng)
    dataset = tl.Dataset("d", torch.tensor(p.rows), torch.zeros(len(p.rows)))
    return tl.split(dataset, seed=0, groups=p.who), {"groups": p.who}


def standardised_by_train(rng: Rng) -> tuple[Any, dict[str, Any]]:
    (train,), (valid,) = cut(rng, table(rng))
    scaler = StandardScaler().fit(train)
    return (scaler.transform(train), scaler.transform(valid)), {}


def short_texts(rng: Rng) -> tuple[Any, dict[str, Any]]:
    said = [*["good movie", "bad", "loved it", "not good at all", "great fun"] * 20, *snippets(rng, 300)]
    order = rng.permutation(len(said))
    return ([said[k] for k in order[:280]], [said[k] for k in order[280:]]), {}


def mixed_kinds(rng: Rng) -> Array:
    """Age in years, sex, class of ticket, children, a price with few values: rows that repeat by chance."""
    price = np.round(rng.choice(rng.lognormal(3, 1, 60), 800), 2)
    parts = [rng.normal(35, 14, 800).clip(0, 80).round(), rng.integers(0, 2, 800), rng.integers(1, 4, 800)]
    return np.column_stack([*parts, rng.poisson(0.4, 800), price]).astype(float)


CLEAN: dict[str, Callable[[Rng], tuple[Any, dict[str, Any]]]] = {
    "a table": lambda r: clean(r, table(r)),
    "a coded table": lambda r: clean(r, r.integers(0, 4, (800, 5)).astype(float)),
    "a coded table, skewed": lambda r: clean(r, (r.random((800, 12)) < 0.06).astype(float)),
    "one of few": lambda r: clean(r, np.eye(4)[r.integers(0, 4, (800, 4))].reshape(800, -1)),
    "mixed kinds": lambda r: clean(r, mixed_kinds(r)),
    "an integer table": lambda r: clean(r, r.poisson(6, (800, 6)).astype(float)),
    "one column": lambda r: clean(r, r.normal(size=(300, 1)).round(2)),
    "constant columns": lambda r: clean(r, np.column_stack([table(r), np.zeros(600), np.ones(600)])),
    "few rows": lambda r: clean(r, table(r, rows=14)),
    "real digits": lambda r: (digits(r), {}),
    "digits in black and white": lambda r: (tuple((part > 0.5) * 1.0 for part in digits(r)), {}),
    "short texts": short_texts,
    "texts of few words": lambda r: ((snippets(r, 400), snippets(r, 200)), {}),
    "in time, with ties": in_time,
    "groups whole": grouped,
    "standardised by train": standardised_by_train,
    "scaler of train": lambda r: with_fitted(r, StandardScaler(), everything=False),
    "pipeline of train": lambda r: with_fitted(
        r, make_pipeline(SimpleImputer(), SelectKBest(k=5)), everything=False
    ),
    "sorted": lambda r: (tuple(np.split(np.sort(table(r), axis=0), [400])), {}),
    "many missing": lambda r: clean(r, np.where(r.random((600, 8)) < 0.3, np.nan, table(r))),
    "a part empty": lambda r: (tl.split(torch.tensor(table(r)), (0.8, 0.2, 0.0), seed=1), {}),
    "a number to predict": lambda r: (tuple(map(tuple, cut(r, table(r), r.normal(size=600)))), {}),
    "heavy tails": lambda r: clean(r, r.lognormal(0, 2, (800, 5)).round(2)),
    "shares between 0 and 1": lambda r: clean(r, r.integers(0, 101, (800, 6)) / 100),
}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", CLEAN)
def test_what_is_clean_is_let_pass(name: str, seed: int) -> None:
    splits, options = CLEAN[name](np.random.default_rng(seed))
    report = tl.leakage(splits, **options)
    assert report.ok, str(report)
    assert str(report).startswith("No leak found.")
