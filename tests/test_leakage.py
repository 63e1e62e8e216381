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
from scipy.ndimage import gaussian_filter
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.feature_selection import SelectKBest
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, RobustScaler, StandardScaler
from torch.utils.data import Subset, TensorDataset

import trainlab as tl

Array = np.ndarray
Parts = tuple[Any, ...]
Rng = np.random.Generator
# one seed where time is short, three where there is more
SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))]


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


WORDS = """
    film plot actor scene story ending camera script music director joke dialogue hero villain
    loved hated enjoyed missed watched praised doubted followed noticed forgot admired
    quietly boldly slowly madly rarely truly oddly nearly warmly badly sharply gladly
"""


def snippets(rng: Rng, count: int = 600, words: int = 14) -> list[str]:
    """Sentences of random words, few enough of them to be met again and again."""
    pools = [line.split() for line in WORDS.strip().splitlines()]
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


@pytest.mark.parametrize("seed", SEEDS)
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


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", CLEAN)
def test_what_is_clean_is_let_pass(name: str, seed: int) -> None:
    splits, options = CLEAN[name](np.random.default_rng(seed))
    report = tl.leakage(splits, **options)
    assert report.ok, str(report)
    assert str(report).startswith("No leak found.")


# --- real data ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_animals_show_every_duplicate_that_straddles() -> None:
    animals = tl.load("animals")
    pixels = [row.numpy().tobytes() for row in animals.features]
    splits = tl.split(animals, (0.5, 0.5, 0.0), seed=3)
    train, valid, _ = (index.tolist() for index in splits.indices)
    held = {pixels[row] for row in train}
    expected = sum(pixels[row] in held for row in valid)
    report = tl.leakage(splits)
    assert [(leak.kind, leak.count) for leak in report.findings] == [("shared rows", expected)]
    assert expected > 100  # of the 284, about half lie on both sides
    for first, second in report.findings[0].rows:
        assert first in train and second in valid and pixels[first] == pixels[second]


@pytest.mark.slow
def test_all_284_duplicates_are_found_when_each_has_a_copy_on_the_other_side() -> None:
    animals = tl.load("animals")
    _, first, member = np.unique(
        animals.features.flatten(1).numpy(), axis=0, return_index=True, return_inverse=True
    )
    again = np.setdiff1d(np.arange(len(animals)), first)
    assert len(again) == 284
    (leak,) = tl.leakage((animals.subset(first), animals.subset(again))).findings
    assert (leak.kind, leak.count) == ("shared rows", 284)
    assert all(member[a] == member[b] for a, b in leak.rows)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_real_data_that_is_clean_is_let_pass(seed: int) -> None:
    assert tl.leakage(tl.split(tl.load("mnist5k"), seed=seed, stratify=True)).ok
    assert tl.leakage(tl.split(tl.load("breast_cancer"), seed=seed, stratify=True)).ok
    assert tl.leakage(tl.split(tl.load("default"), seed=seed, stratify=True)).ok
    assert tl.leakage(tl.split(tl.load("hotel_rates"), seed=seed, time=True)).ok


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_visits_are_judged_by_patient_and_by_day(seed: int) -> None:
    visits = tl.load("pbcseq")
    grouped = tl.leakage(tl.split(visits, seed=seed, groups=True))
    assert grouped.ok
    assert any("overlap in time" in line for line in grouped.unchecked)
    kinds = {leak.kind for leak in tl.leakage(tl.split(visits, seed=seed)).findings}
    assert {"shared groups", "time order"} <= kinds
    timed = tl.split(visits, seed=seed, time=True)
    assert {leak.kind for leak in tl.leakage(timed).findings} == {"shared groups"}
    assert tl.leakage(timed, groups=False).ok  # the same patients' next visits


def test_an_age_betrays_the_patient_without_a_number() -> None:
    visits = tl.load("pbcseq")
    nameless = tl.Dataset("visits", visits.features, visits.targets, visits.classes, visits.columns)
    leaks = [leak for leak in tl.leakage(tl.split(nameless, seed=0)).findings if leak.kind == "shared groups"]
    assert len(leaks) == 3
    assert all("column 'age' names somebody" in leak.evidence for leak in leaks)


# --- what is understood, said and refused ---------------------------------------------------------------


def test_last_visits_may_be_asked_of_known_patients() -> None:
    p = patients(np.random.default_rng(0))
    order = np.lexsort((p.when, p.who)).reshape(80, 6)
    train, valid = order[:, :5].ravel(), order[:, 5]
    given = {"time": (p.when[train], p.when[valid]), "groups": (p.who[train], p.who[valid])}
    report = tl.leakage((p.rows[train, 1:], p.rows[valid, 1:]), **given)
    assert {leak.kind for leak in report.findings} == {"shared groups"}
    assert any("within each group" in line for line in report.checked)
    mixed = given | {"time": (p.when[valid].repeat(5), p.when[train][:80])}
    kinds = [leak.kind for leak in tl.leakage((p.rows[train, 1:], p.rows[valid, 1:]), **mixed).findings]
    assert "time order" in kinds


def test_every_form_of_a_part_is_understood() -> None:
    train, valid = planted(np.random.default_rng(0), np.copy)
    y, z = np.zeros(len(train), dtype=int), np.zeros(len(valid), dtype=int)
    whole = TensorDataset(torch.tensor(np.concatenate([train, valid])), torch.tensor(np.concatenate([y, z])))
    places = list(range(len(train))), list(range(len(train), len(whole)))
    names = tuple("abcdefgh")
    back = valid[:, ::-1].copy()
    frames = [pd.DataFrame(rows, columns=names).assign(word="same") for rows in (train, valid)]
    forms: list[Parts] = [
        (train, valid),
        ((train, y), (valid, z)),
        (torch.tensor(train), torch.tensor(valid)),
        (Subset(whole, places[0]), Subset(whole, places[1])),
        ([whole[k] for k in places[0]], [whole[k] for k in places[1]]),
        (frames[0], frames[1]),
        ((frames[0], y), (frames[1], z)),
        (
            tl.Dataset("d", torch.tensor(train), torch.tensor(y), columns=names),
            tl.Dataset("d", torch.tensor(back), torch.tensor(z), columns=names[::-1]),
        ),
    ]
    for form in forms:
        (leak,) = tl.leakage(form).findings
        assert (leak.kind, leak.count) == ("shared rows", 20)
        assert leak.rows == ((0, 0), (1, 1), (2, 2))


def test_a_subset_keeps_the_groups_of_its_data_set() -> None:
    p = patients(np.random.default_rng(0))
    rows = torch.tensor(p.rows[:, 1:])
    dataset = tl.Dataset("d", rows, torch.zeros(len(rows)), groups=torch.tensor(p.who))
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist()
    report = tl.leakage((Subset(dataset, order[:300]), Subset(dataset, order[300:])))
    assert {leak.kind for leak in report.findings} == {"shared groups"}


def test_rows_are_named_by_their_numbers_in_the_source() -> None:
    rows = table(np.random.default_rng(0))
    rows[500] = rows[7]
    dataset = tl.Dataset("d", torch.tensor(rows), torch.zeros(600, dtype=torch.int64))
    for seed in range(20):
        splits = tl.split(dataset, (0.5, 0.5, 0.0), seed=seed)
        if (7 in splits.indices[0]) != (500 in splits.indices[0]):
            (leak,) = tl.leakage(splits).findings
            assert set(leak.rows[0]) == {7, 500}
            (again,) = tl.leakage(tl.split(torch.tensor(rows), (0.5, 0.5, 0.0), seed=seed)).findings
            assert again.rows == leak.rows
            return
    raise AssertionError("no seed put the two on different sides")


def test_the_report_reads_as_text_and_as_a_table() -> None:
    train, valid = planted(np.random.default_rng(0), np.copy)
    report = tl.leakage((train, valid))
    text = str(report)
    assert text.startswith("1 leak(s) found.\n\nLEAK  shared rows, train -> valid: 20 of 180 rows of valid")
    assert "remedy: drop the copies before splitting" in text and "unchecked  time order" in text
    shown = report._repr_html_()
    assert html.escape(report.findings[0].evidence) in shown and "<script" not in shown
    plain = tl.leakage((table(np.random.default_rng(1)), table(np.random.default_rng(2))))
    assert plain.ok and "No leak found." in plain._repr_html_() and "<table" not in plain._repr_html_()


UNSEEN: dict[str, tuple[Callable[[Rng], Parts], str]] = {
    "another unit": (lambda rng: planted(rng, lambda rows: rows * 2.54), "copies in other units"),
    "robust scaling": (lambda rng: scaled_by_all(rng, RobustScaler()), "scaling by median and quartiles"),
    "blurred": (
        lambda rng: pictures(rng, lambda images: gaussian_filter(images, (0, 0, 1, 1))),
        "copies blurred, compressed hard",
    ),
    "backwards": (
        lambda rng: told(rng, lambda text: " ".join(text.split()[::-1])),
        "sentences in another order",
    ),
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", UNSEEN)
def test_what_cannot_be_seen_is_named_in_the_report(name: str, seed: int) -> None:
    plant, words = UNSEEN[name]
    report = tl.leakage(plant(np.random.default_rng(seed)))
    assert report.ok, "seen after all: then the report must not say that it is not"
    named = [line for line in report.unchecked if words in line]
    assert len(named) == 1 and named[0] in str(report) and html.escape(named[0]) in report._repr_html_()


def test_fitted_finds_the_scaling_that_leaves_no_trace() -> None:
    (train,), (valid,) = cut(np.random.default_rng(0), table(np.random.default_rng(0)))
    report = tl.leakage((train, valid), fitted=RobustScaler().fit(np.concatenate([train, valid])))
    assert [leak.kind for leak in report.findings] == ["preprocessing"]
    assert not any("give fitted=" in line for line in report.unchecked)


def test_nothing_is_changed_and_no_randomness_is_drawn() -> None:
    train, valid = planted(np.random.default_rng(0), with_noise(np.random.default_rng(1)))
    before, state = (train.copy(), valid.copy()), torch.get_rng_state()
    first = tl.leakage((train, valid))
    assert np.array_equal(before[0], train) and np.array_equal(before[1], valid)
    assert torch.equal(state, torch.get_rng_state())
    assert tl.leakage((train, valid)) == first


def test_what_a_fit_learnt_is_told_from_every_choice_of_parts() -> None:
    rng = np.random.default_rng(0)
    parts = tuple(np.split(table(rng), [300, 450]))
    for seen, other in (((0, 1), "valid"), ((0, 2), "test"), ((0, 1, 2), "test")):
        scaler = StandardScaler().fit(np.concatenate([parts[k] for k in seen]))
        (leak,) = tl.leakage(parts, fitted=scaler).findings
        assert leak.parts == ("train", other)
    strange = StandardScaler().fit(table(np.random.default_rng(9)))
    report = tl.leakage(parts, fitted=strange)
    assert report.ok and any("those of none of these parts" in line for line in report.unchecked)


def test_pipelines_and_texts_are_refitted_without_their_model() -> None:
    rng = np.random.default_rng(0)
    rows, labels = table(rng), rng.integers(0, 2, 600)
    a, b = cut(rng, rows, labels)
    model = make_pipeline(StandardScaler(), PCA(3), RandomForestClassifier(3)).fit(rows, labels)
    (leak,) = tl.leakage((tuple(a), tuple(b)), fitted=model).findings
    assert leak.kind == "preprocessing" and "Pipeline was fitted on train, valid" in leak.evidence
    texts = snippets(rng)
    assert tl.leakage((texts[:400], texts[400:]), fitted=TfidfVectorizer().fit(texts[:400])).ok
    assert not tl.leakage((texts[:400], texts[400:]), fitted=TfidfVectorizer().fit(texts)).ok


@pytest.mark.slow
def test_ten_thousand_pictures_take_seconds() -> None:
    rng = np.random.default_rng(0)
    images = rng.random((10_000, 1, 28, 28), dtype=np.float32)
    splits = tl.split(torch.tensor(images), seed=0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        started = time.process_time()
        assert tl.leakage(splits).ok
        seconds = time.process_time() - started
    finally:
        torch.set_num_threads(threads)
    assert seconds < 20, f"{seconds:.1f} s"  # about 5 on a core of its own


ROWS = np.arange(40.0).reshape(20, 2)
WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "one array": (lambda: tl.leakage(ROWS), r"ndarray, which is no 2 or 3 parts: give what `split`"),
    "one part": (lambda: tl.leakage((ROWS,)), r"tuple, which is no 2 or 3 parts"),
    "no part": (lambda: tl.leakage(7), r"int, which is no 2 or 3 parts"),
    "groups of another length": (
        lambda: tl.leakage((ROWS, ROWS), groups=(range(20), range(19))),
        r"groups has 19 values for the 20 rows of valid: give each row one",
    ),
    "times of the whole for parts": (
        lambda: tl.leakage((ROWS, ROWS), time=np.arange(40)),
        r"time has shape \(40,\): give one value for each row .* a tuple with a column for each part",
    ),
    "parts of different kinds": (
        lambda: tl.leakage((ROWS, ROWS[:, :1])),
        r"different kinds \(train: table \(20, 2\), valid: table \(20, 1\)\): give parts of one data set",
    ),
    "nothing": (lambda: tl.leakage((ROWS[:0], ROWS[:0])), r"all parts are empty \(0 rows\)"),
    "a stream": (
        lambda: tl.leakage((iter(ROWS), ROWS)),
        "no length or no rows by number: give a data set",
    ),
    "objects": (lambda: tl.leakage(([object()], [object()])), r"objects that make no array of numbers"),
    "dates that may be read in two ways": (
        lambda: tl.leakage((ROWS[:1], ROWS[:1]), time=(["01/02/2016"], ["03/04/2016"])),
        r"time '01/02/2016' may mean day or month first: give dates as year-month-day",
    ),
    "words for times": (
        lambda: tl.leakage((ROWS[:1], ROWS[:1]), time=(["soon"], ["later"])),
        r"time holds 'soon', which is no number and no date",
    ),
    "a model for a scaler": (
        lambda: tl.leakage((ROWS, ROWS + 0.5), fitted=RandomForestClassifier()),
        r"fitted is a RandomForestClassifier, which transforms nothing",
    ),
    "a scaler not fitted": (
        lambda: tl.leakage((ROWS, ROWS + 0.5), fitted=StandardScaler()),
        r"fitted=StandardScaler is not fitted yet: fit it, then ask",
    ),
    "a scaler of other columns": (
        lambda: tl.leakage(
            (["a b", "c"], ["d", "e f"]), fitted=StandardScaler().fit(np.arange(6.0).reshape(3, 2))
        ),
        r"StandardScaler cannot be fitted on the training part .*: give parts whose rows are as it",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_call_is_refused(name: str) -> None:
    call, message = WRONG[name]
    with pytest.raises(tl.TrainlabError, match=re.compile(message, re.DOTALL)):
        call()
