"""The exercises of chapter 01, what number shall I tell the ward?, and what its figures are drawn with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.dataset import Dataset
from .exercises import Exercise, Verdict, right, wrong

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[Any]

# --- drawing, so that the chapter's cells hold what it is about --------------------------------------


def plot_pairs(scores: Mapping[str, Mapping[str, Sequence[float]]], label: str, chance: float) -> Axes:
    """Draw the scores of several ways to split as dots, a row for each of several models.

    scores: way to split -> model -> one score for each seed.  chance: the score of blind guessing.
    """
    ax = _pyplot().figure(figsize=(6, 0.9 + 0.45 * len(next(iter(scores.values()))))).add_subplot()
    names = list(next(iter(scores.values())))
    for place, (way, found) in enumerate(scores.items()):
        for row, name in enumerate(names):
            at = [row + 0.13 * (2 * place - len(scores) + 1)] * len(found[name])
            ax.plot(found[name], at, "osD"[place % 3], color=f"C{place}", alpha=0.7, markersize=5,
                    label=way if row == 0 else None)  # fmt: skip
    ax.axvline(chance, linestyle=":", color="gray")
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_xlabel(label)
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def plot_prices(days: Array, prices: Array, cut: float) -> Axes:
    """Draw the median price of each week, with the middle half of the bookings, and where the test begins."""
    ax = _pyplot().figure(figsize=(6, 2.5)).add_subplot()
    weeks = np.unique(days // 7)
    quarters = np.array([np.quantile(prices[days // 7 == week], (0.25, 0.5, 0.75)) for week in weeks])
    for side, color, name in (
        (weeks * 7 < cut, "C0", "to learn from"),
        (weeks * 7 >= cut, "C1", "the latest fifth"),
    ):
        ax.fill_between(
            weeks[side] * 7, quarters[side, 0], quarters[side, 2], color=color, alpha=0.25, linewidth=0
        )
        ax.plot(weeks[side] * 7, quarters[side, 1], color=color, label=name)
    ax.set_xlabel("day of arrival, from 2 July 2016 on")
    ax.set_ylabel("price of a night (euros)")
    ax.set_ylim(0)
    ax.legend(loc="upper center")
    return ax


def plot_learning(patients: Sequence[int], scores: Array, label: str) -> Axes:
    """Draw scores over the number of patients learned from: a dot for each repeat, a line through the means.

    scores: (patients, repeats).
    """
    ax = _pyplot().figure(figsize=(4.6, 2.5)).add_subplot()
    ax.plot(patients, scores.mean(1))
    ax.plot(patients, scores, "o", color="C0", alpha=0.4, markersize=4)
    ax.set_xscale("log")
    ax.set_xticks(patients, [str(count) for count in patients])
    ax.set_xticks([], minor=True)
    ax.set_xlabel("patients to learn from")
    ax.set_ylabel(label)
    return ax


def plot_wear(best_seen: Array, same_elsewhere: Array, rows: int) -> Axes:
    """Draw the best score so far on a small validation part, and the score of that same model elsewhere.

    Both (repeats, models tried).
    """
    ax = _pyplot().figure(figsize=(5, 2.6)).add_subplot()
    tried = np.arange(1, best_seen.shape[1] + 1)
    ax.plot(tried, best_seen.mean(0), label=f"on the {rows} rows it was chosen by")
    ax.plot(tried, same_elsewhere.mean(0), color="C1", linestyle="--", label="the same model on new rows")
    ax.set_xscale("log")
    ax.set_xlabel("models tried")
    ax.set_ylabel("accuracy of the best so far")
    ax.legend(loc="lower right")
    return ax


def _pyplot() -> Any:
    from matplotlib import pyplot as plt

    return plt


# --- rows with faults whose number is known ----------------------------------------------------------


def dirtied(visits: Dataset, *, seed: int = 0) -> Dataset:
    """A copy of the visits with four faults that real tables have.

    25 values of bilirubin are in another unit (17.1 times as much), each missing platelet count is 999,
    20 visits are there twice, and 10 of these have one outcome in one place and the other in the other.
    """
    rng = np.random.default_rng(seed)
    features = visits.features.clone()
    bilirubin, platelets = (visits.columns.index(name) for name in ("bili", "platelet"))
    features[rng.choice(len(visits), 25, replace=False), bilirubin] *= 17.1
    features[features[:, platelets].isnan(), platelets] = 999
    rows = np.concatenate([np.arange(len(visits)), rng.choice(len(visits), 20, replace=False)])
    twice = replace(visits, features=features).subset(torch.from_numpy(rows))
    targets = twice.targets.clone()
    targets[-10:] = 1 - targets[-10:]
    return replace(twice, targets=targets)


# --- exercises ----------------------------------------------------------------------------------------


def _judge_parts(parts: Callable[..., Any]) -> Verdict:
    labels = np.repeat([0, 1, 2], [8000, 1600, 400])  # sorted, as many files are
    got = [np.asarray(rows).astype(int).ravel() for rows in parts(labels.copy(), 0)]
    if len(got) != 3:
        return wrong("give three arrays of row numbers", observed=len(got), expected=3, hint=1)
    if (verdict := _miscounted([len(rows) for rows in got])) is not None:
        return verdict
    if len(np.unique(np.concatenate(got))) != 10_000:
        return wrong("some rows are in two parts, others in none", hint=1)
    shares = [[int((labels[rows] == label).sum()) for label in range(3)] for rows in got]
    if not np.allclose(shares, [[5600, 1120, 280], [1600, 320, 80], [800, 160, 40]], atol=2):
        said = "the rare class has 400 of the 10,000 rows; its rows in train, valid and test"
        return wrong(said, observed=[row[2] for row in shares], expected=[280, 80, 40], hint=2)
    if np.array_equal(np.sort(got[0]), np.sort(np.asarray(parts(labels.copy(), 1)[0]))):
        return wrong(
            "two seeds give the same training part: within a class the rows must be shuffled", hint=3
        )
    if not np.array_equal(np.sort(got[0]), np.sort(np.asarray(parts(labels.copy(), 0)[0]))):
        return wrong("the same seed, called twice, gives two different training parts", hint=3)
    few = [len(rows) for rows in parts(np.repeat([0, 1], [30, 20]), 0)]
    if sum(few) != 50:
        return wrong(
            "50 rows in two classes: some are lost or doubled", observed=sum(few), expected=50, hint=1
        )
    return right("7,000 + 2,000 + 1,000, no row lost, and each class has its share in each part.")


def _miscounted(sizes: list[int]) -> Verdict | None:
    if sizes == [7000, 2000, 1000]:
        return None
    said = "10,000 rows, cut 70-20-10"
    if sum(sizes) == 10_000 and abs(sizes[1] - 2000) < 30:
        return wrong(f"{said}: close, but a rounded share is no share", observed=sizes,
                     expected=[7000, 2000, 1000], hint=1)  # fmt: skip
    return wrong(said, observed=sizes, expected=[7000, 2000, 1000], hint=1)


def _judge_hold_back(hold_back: Callable[..., Any]) -> Verdict:
    rng = np.random.default_rng(3)
    patients = np.repeat(np.arange(100, 300), rng.integers(2, 12, 200))
    mixed = rng.permutation(patients)
    cases = [(patients, 0.2), (patients, 0.25), (patients, 0.3), (mixed, 0.2)]
    for column, share in cases:
        got = np.asarray(hold_back(column.copy(), share, 0)).ravel()
        if got.shape != column.shape or got.dtype != bool:
            return wrong("give one True or False for each row", observed=f"{got.dtype} {got.shape}", hint=3)
        both = np.intersect1d(column[got], column[~got])
        if len(both) > 20:
            said = "patients with visits on both sides, of 200: what does their age reveal?"
            return wrong(said, observed=len(both), expected=0, hint=2)
        if len(both):
            return wrong(f"patient {both[0]} is on both sides of your cut", hint=1)
        if abs(got.mean() - share) > 0.08:
            return wrong(
                "the share of the rows held back", observed=float(got.mean()), expected=share, hint=3
            )
    if np.array_equal(got, np.asarray(hold_back(mixed.copy(), 0.2, 1)).ravel()):
        return wrong("two seeds hold back the same patients: nothing was drawn at random", hint=3)
    if not np.array_equal(got, np.asarray(hold_back(mixed.copy(), 0.2, 0)).ravel()):
        return wrong("the same seed, called twice, holds back different patients", hint=3)
    return right("no patient is on both sides, whatever the order of the rows.")


def _bank(seed: int) -> tuple[Array, Array, Array, Array]:
    """400 rows of 60 columns, five of which tell; 40 rare rows; and which rows are train and valid."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat([0, 1], [360, 40]))
    table = rng.normal(size=(400, 60))
    table[:, 50:55] += 3.0 * labels[:, None]
    order = rng.permutation(400)
    return table, labels, order[:300], order[300:]


def _judge_prepare(prepare: Callable[..., Any]) -> Verdict:
    table, labels, train, valid = _bank(0)
    x, y, valid_x, valid_y = (np.asarray(part) for part in prepare(*_copies(table, labels, train, valid)))
    if len(valid_x) != len(valid) or not np.array_equal(valid_y, labels[valid]):
        said = "of 100 validation rows few default; in yours this many of this many do"
        return wrong(
            said,
            observed=(int(np.sum(valid_y)), len(valid_y)),
            expected=(int(labels[valid].sum()), 100),
            hint=2,
        )
    if x.shape[1:] != (20,) or valid_x.shape[1:] != (20,):
        return wrong("columns kept, of 60", observed=(x.shape, valid_x.shape), expected=20, hint=3)
    if (y == 0).sum() != (y == 1).sum() or (y == 0).sum() != (labels[train] == 0).sum():
        return wrong(
            "both classes as often in train as the common one was",
            observed=(int((y == 0).sum()), int((y == 1).sum())),
            hint=3,
        )
    shuffled = labels.copy()
    shuffled[valid] = np.random.default_rng(1).permutation(1 - labels[valid])
    moved = table.copy()
    moved[valid] = 7 * moved[valid] + 100
    for said, changed in {"labels shuffled": (table, shuffled), "features changed": (moved, labels)}.items():
        again = np.asarray(prepare(*_copies(*changed, train, valid))[0])
        if not _same_rows(x, again):
            return wrong(
                f"the validation rows had their {said}, and the training rows came back different", hint=1
            )
    return _chosen_well(table, labels, (train, valid), (x[y == 0], valid_x))


def _chosen_well(table: Array, labels: Array, rows: tuple[Array, Array], got: tuple[Array, Array]) -> Verdict:
    """The last question to a prepared table: the same, telling columns on both sides, on one scale?

    got: the features of the training rows that are common (each of them is there once), and of valid.
    """
    train, valid = rows
    x, valid_x = got
    kept = [_column_like(table[valid], column) for column in valid_x.T]
    for place, column in enumerate(kept):
        if column is None or not _same_column(table[:, column], train[labels[train] == 0], valid,
                                              (x[:, place], valid_x[:, place])):  # fmt: skip
            said = "train and valid do not have the same twenty columns, on the same scale"
            return wrong(said, hint=3)
    if not set(range(50, 55)) <= set(kept):
        return wrong("five columns differ between the classes by far; some of them were not kept", hint=3)
    return right("what is learned from data, be it a choice of columns, is learned from the training rows.")


def _same_column(column: Array, common: Array, valid: Array, got: tuple[Array, Array]) -> bool:
    """Whether both sides are this column, moved and scaled in one way."""
    slope, start = np.polyfit(column[valid], got[1], 1)
    return np.allclose(np.sort(slope * column[common] + start), np.sort(got[0]), atol=1e-4)


def _copies(*arrays: Array) -> tuple[Array, ...]:
    return tuple(array.copy() for array in arrays)


def _same_rows(one: Array, other: Array) -> bool:
    """Whether both hold the same distinct rows (copies are drawn at random: their counts may differ)."""
    return one.shape == other.shape and np.allclose(np.unique(one, axis=0), np.unique(other, axis=0))


def _column_like(table: Array, column: Array) -> int | None:
    """The column of `table` that `column` is a rescaled copy of, or None."""
    for place, candidate in enumerate(table.T):
        if len(column) == len(candidate) and abs(np.corrcoef(column, candidate)[0, 1]) > 0.999:
            return place
    return None


_ARRIVALS = {
    "bank": ("stratified", 1, "the bank's rows are independent customers, and few of them default"),
    "x-rays": ("grouped", 2, "one patient has many x-rays, and tomorrow's patients are new"),
    "power": ("timed", 3, "tomorrow's demand follows on days that you know"),
    "films": ("timed", 3, "the app's users are known, and are asked what they will like next"),
}


def _judge_arrivals(chosen: dict[str, str]) -> Verdict:
    for name, (split, hint, why) in _ARRIVALS.items():
        if chosen.get(name) not in ("stratified", "grouped", "timed"):
            said = f"{name}: one of 'stratified', 'grouped' and 'timed'"
            return wrong(said, observed=chosen.get(name), hint=hint)
        if chosen[name] != split:
            return wrong(f"{name}: {why}", observed=chosen[name], hint=hint)
    return right("each split imitates the day on which the model is used.")


def _simulated(seed: int, *, telling: bool, ill: float = 0.5) -> tuple[Array, Array, Array]:
    """Visits of 120 simulated patients: features, the outcome of each one's patient, and the patient.

    The first column is a fingerprint.  telling: whether the other three have to do with the outcome.
    """
    rng = np.random.default_rng(seed)
    outcome = rng.permutation(np.arange(120) < round(120 * ill)).astype(int)
    patient = np.repeat(np.arange(120), rng.integers(1, 6, 120))
    patient = rng.permutation(patient)
    own = rng.normal(size=(120, 4)) + (np.array([0, 1, 1, 1]) * outcome[:, None] if telling else 0)
    table = own[patient] + np.array([0, 0.5, 0.5, 0.5]) * rng.normal(size=(len(patient), 4))
    return table, outcome[patient], patient


def _judge_honest(honest_auc: Callable[..., Any]) -> Verdict:
    def mean(seeds: Sequence[int], **ward: Any) -> float:
        return float(np.mean([honest_auc(*_simulated(seed, **ward), seed) for seed in seeds]))

    if (blind := mean((0, 1), telling=False)) > 0.68:
        said = "two wards in which nothing tells the outcome of a new patient; your mean AUC"
        return wrong(said, observed=blind, expected="about 0.5", hint=1)
    if (rare := mean((2, 3), telling=False, ill=0.8)) > 0.68:
        said = "nothing tells the outcome, and 80 in 100 patients are ill: the AUC of guessing is 0.5"
        return wrong(said, observed=rare, expected="about 0.5", hint=3)
    numbers = [honest_auc(*_simulated(1, telling=True, ill=0.8), seed) for seed in range(5)]
    if np.std(numbers) > 0.05:
        said = "one ward, five seeds: your number moves, with a standard deviation of"
        return wrong(said, observed=float(np.std(numbers)), expected="below 0.05", hint=2)
    if np.mean(numbers) < 0.6:
        said = "three columns tell the outcome: your mean AUC (0.5 is blind, 1 is perfect)"
        return wrong(said, observed=float(np.mean(numbers)), expected="above 0.6", hint=3)
    return right("half where nothing tells, steady from seed to seed, and higher where something does.")


EXERCISES = (
    Exercise(
        "01.1",
        "70-20-10, and its share of each class",
        difficulty=1,
        minutes=6,
        judge=_judge_parts,
        expects="a function",
        hints=(
            "Twenty per cent of what? Of all rows, not of what is left after another cut: print the three "
            "lengths and their sum. A remainder share such as 0.222 gives 1,998 of 10,000, not 2,000.",
            "Cut each class by itself, then put the pieces of all classes together.",
            "For each label: rows = rng.permutation(np.flatnonzero(labels == label)), then np.split(rows, "
            "[round(0.7 * n), round(0.9 * n)]) with n = len(rows), with one generator made from the seed.",
        ),
        solution="""
def parts(labels, seed):
    rng = np.random.default_rng(seed)
    pieces = ([], [], [])
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        cuts = [round(0.7 * len(rows)), round(0.9 * len(rows))]
        for part, piece in zip(pieces, np.split(rows, cuts)):
            part.append(piece)
    return [np.concatenate(part) for part in pieces]
""",
    ),
    Exercise(
        "01.2",
        "Nobody on both sides",
        difficulty=2,
        minutes=8,
        judge=_judge_hold_back,
        expects="a function",
        hints=(
            "Print the patient on either side of the cut: a cut through the rows may go through a patient. "
            "And are the rows in the order of the patients at all?",
            "Dropping the number takes away the name and leaves the face: a patient's other visits are still "
            "there to be recognised. Draw patients, not rows.",
            "Shuffle np.unique(patients) with a generator made from the seed, take a share of *them*, and "
            "return np.isin(patients, those).",
        ),
        solution="""
def hold_back(patients, share, seed):
    names = np.random.default_rng(seed).permutation(np.unique(patients))
    return np.isin(patients, names[: round(share * len(names))])
""",
    ),
    Exercise(
        "01.3",
        "Mend a pipeline",
        difficulty=2,
        minutes=12,
        judge=_judge_prepare,
        expects="a function",
        hints=(
            "Shuffle the validation labels: did your columns change? Then they were chosen with them. "
            "Compute the difference between the classes, and any mean or scale, from the training rows only.",
            "How many of the bank's next hundred customers default? The validation rows have to look like "
            "them: copy rare rows in the training part only, after the cut.",
            "gap = abs(x[train][y[train] == 1].mean(0) - x[train][y[train] == 0].mean(0)); keep the 20 "
            "largest; draw the missing rare rows from train with rng.choice; leave valid as it is, but for "
            "its columns.",
        ),
        solution="""
def prepare(x, y, train, valid):
    rng = np.random.default_rng(0)
    rare, common = train[y[train] == 1], train[y[train] == 0]
    kept = np.argsort(-abs(x[rare].mean(0) - x[common].mean(0)))[:20]
    rows = np.concatenate([train, rng.choice(rare, len(common) - len(rare))])
    return x[rows][:, kept], y[rows], x[valid][:, kept], y[valid]
""",
    ),
    Exercise(
        "01.4",
        "Who arrives tomorrow?",
        difficulty=2,
        minutes=5,
        judge=_judge_arrivals,
        expects=dict,
        hints=(
            "Are two rows more alike than chance makes them, by person or by date? Where not, a random cut "
            "is right; where a class is rare, see to it that each part gets its share.",
            "Will tomorrow's patients have other x-rays in your training part? If not, they must not have "
            "any there today.",
            "What is known on the day the model is asked? All that came before, of the very same users too. "
            "Train on the past, validate on what followed.",
        ),
        solution="""
arrivals = {"bank": "stratified", "x-rays": "grouped", "power": "timed", "films": "timed"}
""",
    ),
    Exercise(
        "01.5",
        "Your own honest number",
        difficulty=3,
        minutes=15,
        judge=_judge_honest,
        expects="a function",
        hints=(
            "The first column is the same in all visits of a patient, as age was. Which visits may stand on "
            "the two sides of a cut?",
            "Call it with other seeds: how far does the number move? One cut leaves 24 patients to judge by. "
            "Five folds let every patient be judged once, and their mean moves less.",
            "For each of five folds of patients, fit on the others, predict_proba(...)[:, 1] on the fold, "
            "and roc_auc_score; return the mean. Accuracy will not do: where 80 in 100 are ill, 'ill' is "
            "right 0.8 of the time.",
        ),
        solution="""
def honest_auc(x, y, patient, seed):
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.metrics import roc_auc_score

    names = np.random.default_rng(seed).permutation(np.unique(patient))
    chances = np.zeros(len(y))
    for fold in np.array_split(names, 5):
        out = np.isin(patient, fold)
        forest = RandomForestClassifier(20, random_state=seed).fit(x[~out], y[~out])
        chances[out] = forest.predict_proba(x[out])[:, 1]
    return roc_auc_score(y, chances)
""",
    ),
)
