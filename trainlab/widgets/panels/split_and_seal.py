"""Split and seal: what a split would have had you report, and what the day of use says."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.nn import functional as F

from ...data.catalogue import load
from ...data.splits import split
from ...errors import TrainlabError, unknown_name
from ..charts import Axis, BarChart, Chart, Curve, CurveChart
from ..drainer import Job, Task
from ..panel import Panel, button, choice, row, show_settings

Array = NDArray[Any]
_TREES, _STEP = 40, 4
_DOTS = 250  # of one colour in the strip: more of them no eye tells apart
PARTS = ("to learn from", "held back", "in the envelope")
COPIES = ("none", "after the split", "before the split")


@dataclass(frozen=True, slots=True)
class Case:
    """A data set, its tomorrow, and how its rows are drawn.

    features: (N, columns).  groups, time: (N,) or None.  sealed: (N,), the rows that imitate the day of use.
    columns: name of a choice -> places of the columns.  metric: "AUC", "R2", "recall" or "accuracy".
    at: x and y of each row in the strip.  shown: the rows that the strip shows.  tomorrow: who is sealed.
    """

    features: Array
    targets: Array
    groups: Array | None
    time: Array | None
    sealed: Array
    columns: Mapping[str, Sequence[int]]
    metric: str
    at: tuple[Array, Array]
    shown: Array
    tomorrow: str


def _places(names: Sequence[str], without: Sequence[str] = ()) -> list[int]:
    return [place for place, name in enumerate(names) if name not in without]


def _visits() -> Case:
    data = load("pbcseq")
    # the chapter's own envelope stays sealed: these are the 208 patients of its ward
    order = np.random.default_rng(1).permutation(data.groups.unique().numpy())[104:]
    ward = data.subset(np.flatnonzero(np.isin(data.groups, order)))
    names, groups = ward.columns, ward.groups.numpy()
    number = {name: place for place, name in enumerate(order)}
    at = np.array([number[group] for group in groups.tolist()])
    return Case(
        ward.features.numpy(),
        ward.targets.numpy(),
        groups,
        ward.time.numpy(),
        at < 52,
        {
            "all": _places(names),
            "age alone": [names.index("age")],
            "without age, sex, treatment": _places(names, ("age", "sex", "trt")),
        },
        "AUC",
        (ward.time.numpy() / 365.25, at),
        np.flatnonzero((at >= 42) & (at < 82)),
        "52 other patients",
    )


def _prices() -> Case:
    data = load("hotel_rates")
    time = data.time.numpy()
    cut = np.sort(time)[len(time) * 4 // 5]
    return Case(
        data.features.numpy(),
        data.targets.numpy(),
        None,
        time,
        time >= cut,
        {"all": _places(data.columns), "without the date": _places(data.columns, ("arrival_date_num",))},
        "R2",
        (time, data.targets.numpy()),
        np.arange(0, len(data), 20),
        "the latest fifth of the bookings",
    )


def _sentences() -> Case:
    from sklearn.feature_extraction.text import CountVectorizer

    data = load("amazon_reviews")
    groups = data.groups.numpy()
    counts = CountVectorizer(max_features=400, binary=True).fit_transform(data.texts).toarray()
    place = np.array([(groups[:row] == groups[row]).sum() for row in range(len(groups))])
    return Case(
        counts.astype(np.float32),
        data.targets.numpy(),
        groups,
        None,
        groups == groups.max(),
        {"all": range(counts.shape[1])},
        "accuracy",
        (place, groups),
        np.arange(0, len(data), 5),
        "a product that is not in the rows",
    )


def _silhouettes() -> Case:
    images = load("animals")
    # half of the distinct images, with their twins, in half the resolution: a forest grows in seconds
    _, picture = images.features.flatten(1).unique(dim=0, return_inverse=True)
    rng = np.random.default_rng(0)
    data = images.subset(np.flatnonzero(rng.random(len(images))[picture] < 0.5))
    small = F.avg_pool2d(data.features, 2).flatten(1).numpy()
    twin = picture[data.rows].numpy()
    _, first, place, counts = np.unique(twin, return_index=True, return_inverse=True, return_counts=True)
    alone, later = counts[place] == 1, np.arange(len(twin)) > first[place]
    pair = np.cumsum(counts > 1)[place]  # numbered among the pairs
    sealed = alone & (rng.random(len(twin)) < 0.2)
    return Case(
        small,
        data.targets.numpy(),
        twin,
        None,
        sealed,
        {"all": range(small.shape[1])},
        "accuracy",
        (pair, 1 + later),
        np.flatnonzero(~alone),
        "images that nobody has a copy of",
    )


def _defaults() -> Case:
    data = load("default")
    sealed = split(data, (0.8, 0.2, 0), seed=0, stratify=True).indices[1].numpy()
    return Case(
        data.features.numpy(),
        data.targets.numpy(),
        None,
        None,
        np.isin(np.arange(len(data)), sealed),
        {"all": range(3)},
        "recall",
        (data.features[:, 1].numpy(), data.features[:, 2].numpy()),
        np.arange(0, len(data), 12),
        "2,000 other customers, 67 of whom default",
    )


CASES: dict[str, Callable[[], Case]] = {
    "visits of patients": functools.cache(_visits),
    "hotel prices": functools.cache(_prices),
    "Amazon sentences": functools.cache(_sentences),
    "silhouettes": functools.cache(_silhouettes),
    "credit defaults": functools.cache(_defaults),
}
_LABELS = {  # x and y of the strip
    "visits of patients": ("years since the patient entered", "patient"),
    "hotel prices": ("day of arrival", "price of a night (euros)"),
    "Amazon sentences": ("sentence", "product"),
    "silhouettes": ("pair of equal images", "first or second"),
    "credit defaults": ("balance (dollars)", "income (dollars)"),
}
_SPLITS = ("random", "stratified", "grouped", "timed")


@dataclass(frozen=True, slots=True)
class Cut:
    """Rows to learn from and rows held back (a row may be there several times, as a copy)."""

    train: Array
    valid: Array


def _cut(case: Case, way: str, copies: str, seed: int) -> Cut:
    """The development rows, cut in this way.  Raises TrainlabError if the data set has no such way."""
    if way not in _SPLITS:
        raise unknown_name("split", way, _SPLITS)
    if copies not in COPIES:
        raise unknown_name("copies", copies, COPIES)
    rows = np.flatnonzero(~case.sealed)
    columns = {"grouped": case.groups, "timed": case.time}
    if way in columns and columns[way] is None:
        raise TrainlabError(
            f"these rows have no {'groups' if way == 'grouped' else 'time'}: choose another split"
        )
    if case.metric == "R2" and way == "stratified":
        raise TrainlabError("a price is no class to stratify by: choose another split")
    if copies != "none" and case.metric != "recall":
        raise TrainlabError(f"copies={copies!r} is for the rare class of the credit defaults: choose 'none'")
    rng = np.random.default_rng(seed)
    if copies == "before the split":
        rows = _copied(case, rows, rng)
    given: Any = {"stratified": {"stratify": case.targets[rows]}}.get(way, {})
    if way in columns:
        given = {"groups" if way == "grouped" else "time": columns[way][rows]}  # type: ignore[index]
    train, valid, _ = (rows[part.numpy()] for part in split(rows, (0.8, 0.2, 0), seed=seed, **given).indices)
    return Cut(_copied(case, train, rng) if copies == "after the split" else train, valid)


def _copied(case: Case, rows: Array, rng: np.random.Generator) -> Array:
    """The rows, and copies of the rare ones until both classes are equal."""
    rare = rows[case.targets[rows] == 1]
    return np.concatenate([rows, rng.choice(rare, len(rows) - 2 * len(rare))])


def _score(case: Case, forest: Any, rows: Array, columns: Sequence[int]) -> float:
    from sklearn.metrics import roc_auc_score

    features, targets = case.features[rows][:, columns], case.targets[rows]
    if case.metric == "AUC":
        return float(roc_auc_score(targets, forest.predict_proba(features)[:, 1]))
    if case.metric == "recall":
        return float(forest.predict(features[targets == 1]).mean())
    return float(forest.score(features, targets))


def _grown(case: Case, cut: Cut, columns: Sequence[int], seed: int) -> Iterator[tuple[int, Any]]:
    """A forest as it grows, and its number of trees."""
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    if case.metric == "R2":
        forest: Any = RandomForestRegressor(max_features=0.5, min_samples_leaf=2, max_samples=0.5)
    else:
        forest = RandomForestClassifier()
    forest.set_params(warm_start=True, random_state=seed, n_jobs=1)
    for trees in range(_STEP, _TREES + 1, _STEP):
        forest.set_params(n_estimators=trees).fit(
            case.features[cut.train][:, columns], case.targets[cut.train]
        )
        yield trees, forest


class SplitAndSeal(Panel):
    """Choose data, split and columns; a forest grows, and says what you would have reported.

    The envelope holds rows that imitate the day of use. Opening it is counted: the second time it is
    stamped "spent".  panel.run(data="visits of patients", split="grouped") returns both scores.
    """

    title = "Split and seal"

    def __init__(self) -> None:
        super().__init__()
        self.seed = 0
        self.openings: dict[str, int] = dict.fromkeys(CASES, 0)
        self.opened = False
        self.points: list[tuple[int, float]] = []
        self._cut: Cut | None = None
        self._inside = float("nan")
        first = next(iter(CASES))
        self.data = choice("data:", [*CASES], first, lambda _: self.do(self._other_data))
        self.way = choice("split:", [*_SPLITS], "random", self._moved)
        self.columns = choice("columns:", [*CASES[first]().columns], "all", self._moved)
        self.copies = choice("copies of the rare class:", [*COPIES], "none", self._moved)
        self.start_button = button("Start", "play", "Grow a forest, or pause", self._toggle, "primary")
        self.open_button = button("Open the envelope", "envelope", "Score the envelope; counted", self._open)
        self.open_button.layout.width = "13em"
        self._charts()
        self.task = Task(self.title, self._grow, self.points.append)
        self.task.on_frame.append(lambda task: self._show())
        self.draw()

    def _charts(self) -> None:
        self.bars = BarChart(
            Axis("score", low=0.0, high=1.1),
            title="Reported, and what the day of use says",
            alt="two scores: on the part held back, and in the envelope",
            height=120,
        )
        self.growth = CurveChart(
            "trees",
            Axis("score", low=0.0, high=1.05),
            title="The forest as it grows",
            alt="the score on the part held back, over the number of trees",
            height=200,
            tools=False,
            empty="Press Start.",
        )
        self.strips = {
            name: CurveChart(
                x,
                y,
                title="The rows, by the part they are in",
                alt=f"a dot for each of some rows: {y} over {x}",
                height=260,
                tools=False,
                empty="",
            )
            for name, (x, y) in _LABELS.items()
        }

    # --- settings

    @property
    def case(self) -> Case:
        return CASES[self.data.value]()

    def run(
        self,
        *,
        data: str = "visits of patients",
        split: str = "random",
        columns: str = "all",
        copies: str = "none",
        seed: int = 0,
    ) -> dict[str, float | int | str]:
        """Both scores without a person; the panel then shows this run, its envelope still sealed.

        Returns reported, sealed, metric, and straddling: the groups with rows on both sides of the cut.
        """
        if data not in CASES:
            raise unknown_name("data", data, CASES)
        case = CASES[data]()
        if columns not in case.columns:
            raise unknown_name("columns", columns, case.columns)
        _cut(case, split, copies, seed)  # refused before anything changes
        self.seed = seed
        self._offer(data)
        show_settings((self.data, data), (self.way, split), (self.columns, columns), (self.copies, copies))
        self._clear()
        self.task.drain()
        self.draw()
        return {
            "reported": round(self.points[-1][1], 2),
            "sealed": round(self._inside, 2),
            "metric": case.metric,
            "straddling": self.straddling(),
        }

    def straddling(self) -> int:
        """How many groups have rows on both sides of the present cut."""
        groups = self.case.groups
        if groups is None or self._cut is None:
            return 0
        return len(np.intersect1d(groups[self._cut.train], groups[self._cut.valid]))

    def _offer(self, data: str) -> None:
        """The choices of columns of that data set."""
        self.columns.muted = True
        self.columns.options = [*CASES[data]().columns]
        self.columns.value = "all"
        self.columns.muted = False

    def _moved(self, _: Any) -> None:
        self.do(self._again)

    def _other_data(self) -> None:
        self._offer(self.data.value)
        show_settings((self.way, "random"), (self.copies, "none"))
        self._again()

    # --- the run

    def _grow(self) -> Any:
        case = self.case
        self._cut = cut = _cut(case, self.way.value, self.copies.value, self.seed)
        columns = list(case.columns[self.columns.value])
        for trees, forest in _grown(case, cut, columns, self.seed):
            yield trees, _score(case, forest, cut.valid, columns)
        self._inside = _score(case, forest, np.flatnonzero(case.sealed), columns)

    def _toggle(self) -> None:
        if self.task.status == "running":
            self.task.pause(wait=False)
        else:
            self.do(self.task._start if self.task.status == "paused" else lambda: self._again(start=True))

    def _again(self, *, start: bool = False) -> None:
        going = start or self.task.status == "running"
        self.task._close()
        self._clear()
        self.task._set("ready")
        if going:
            self.task.start()
        self._show()

    def _clear(self) -> None:
        self.points.clear()
        self.opened, self._cut, self._inside = False, None, float("nan")

    def _open(self) -> None:
        def open_it() -> None:
            if self.task.status != "finished":
                raise TrainlabError("there is no finished forest to ask: press Start, then open the envelope")
            if not self.opened:
                self.opened = True
                self.openings[self.data.value] += 1
            self._show()

        self.do(open_it)

    # --- pictures

    def jobs(self) -> Sequence[Job]:
        return [self.task]

    def _show(self) -> None:
        self.draw()
        moving = self.task.status == "running"
        self.start_button.description, self.start_button.icon = (
            ("Pause", "pause") if moving else ("Start", "play")
        )
        self._say()

    def draw(self) -> None:
        case, name = self.case, self.data.value
        reported = self.points[-1][1] if self.points else float("nan")
        inside = self._inside if self.opened else float("nan")
        texts = [f"{reported:.2f}" if self.points else "nothing trained yet", self._stamp()]
        self.bars.show(
            ["you report", "the envelope"],
            [max(0.0, np.nan_to_num(each)) for each in (reported, inside)],
            [0, 2],
            texts,
        )
        trees = [at for at, _ in self.points]
        self.growth.show([Curve(case.metric, trees, [max(0.0, score) for _, score in self.points])])
        for other, strip in self.strips.items():
            strip.layout.display = "" if other == name else "none"
        self.strips[name].show(_strip(case, self._cut))

    def _stamp(self) -> str:
        count = self.openings[self.data.value]
        spent = f"SPENT: opened {count} times" if count > 1 else ""
        if not self.opened:
            return f"sealed ({spent})" if spent else "sealed"
        return f"{self._inside:.2f} {spent}".strip()

    def sentence(self) -> str:
        case = self.case
        held = f"In the envelope: {case.tomorrow}. "
        if not self.points:
            return f"{held}Start grows a forest on the rows outside it; the score is the {case.metric}."
        both = self.straddling()
        tell = f", {both} groups with rows on both sides of the cut" if both else ""
        trees, score = self.points[-1]
        if self.task.status != "finished":
            return f"{self.task.status}: {trees} of {_TREES} trees, {case.metric} {score:.2f} so far"
        said = f"{case.metric} {score:.2f} on the part held back{tell}. "
        if not self.opened:
            return f"{said}{held}"
        after = (
            " You choose by it now: it is a validation part." if self.openings[self.data.value] > 1 else ""
        )
        return f"{said}In the envelope {self._inside:.2f}.{after}"

    def charts(self) -> list[Chart]:
        return [self.bars, self.growth, self.strips[self.data.value]]

    def layout(self) -> list[Any]:
        return [
            row(self.data, self.way, self.columns, self.copies),
            row(self.start_button, self.open_button),
            self.bars,
            self.growth,
            *self.strips.values(),
        ]


def _strip(case: Case, cut: Cut | None) -> list[Curve]:
    """A dot for each of some rows, one curve for each part; before a cut all rows are to learn from."""
    part = np.where(case.sealed, 2, 0)
    if cut is not None:
        part[cut.valid] = 1
    (x, y), shown = case.at, case.shown
    curves = []
    for place, name in enumerate(PARTS):
        rows = shown[part[shown] == place]
        rows = rows[:: max(1, -(-len(rows) // _DOTS))]
        rows = rows[np.argsort(x[rows], kind="stable")]
        curves.append(Curve(name, x[rows], y[rows], color=place, style="dots"))
    return curves
