"""A split gives every row to exactly one part, and keeps its promise about classes, groups and time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import trainlab as tl


class Rows:
    """Any data set with a length and rows by number."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> int:
        return index * 10


def parts(splits: tl.Splits) -> list[np.ndarray]:
    return [index.numpy() for index in splits.indices]


def check_whole(splits: tl.Splits, n: int) -> None:
    found = np.concatenate(parts(splits))
    assert sorted(found) == list(range(n))
    assert all((np.diff(part) > 0).all() for part in parts(splits))
    assert [len(part) for part in splits] == [len(part) for part in parts(splits)]


@pytest.mark.parametrize("n", [10, 11, 57, 1000])
@pytest.mark.parametrize(
    "fractions", [(0.7, 0.2, 0.1), (0.8, 0.2, 0.0), (1.0, 0.0, 0.0), (1 / 3, 1 / 3, 1 / 3)]
)
def test_every_row_once_and_the_counts_within_a_row(n: int, fractions: tuple[float, float, float]) -> None:
    splits = tl.split(Rows(n), fractions, seed=0)
    check_whole(splits, n)
    for part, share in zip(parts(splits), fractions):
        assert abs(len(part) - n * share) < 1
        assert (len(part) == 0) == (share == 0)


def test_the_seed_decides() -> None:
    first, again, other = (tl.split(Rows(50), seed=seed) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(first.indices, again.indices))
    assert not torch.equal(first.indices[0], other.indices[0])
    assert [first.train[k] for k in range(5)] == [int(row) * 10 for row in first.indices[0][:5]]


def test_global_randomness_is_neither_read_nor_changed() -> None:
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    first = tl.split(Rows(50), seed=3)
    assert (np.random.get_state()[1] == before).all()
    np.random.seed(1)
    torch.manual_seed(1)
    assert torch.equal(first.indices[0], tl.split(Rows(50), seed=3).indices[0])


@pytest.mark.parametrize("seed", range(6))
def test_stratified_shares_are_kept_within_a_row_and_no_class_is_missing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for fractions in ((0.7, 0.2, 0.1), (0.8, 0.1, 0.1), (0.1, 0.45, 0.45), tuple(rng.dirichlet([1, 1, 1]))):
        for classes in (1, 2, 5):
            labels = rng.permutation(
                np.concatenate([np.arange(classes).repeat(3), rng.integers(0, classes, 60)])
            )
            splits = tl.split(Rows(len(labels)), fractions, seed=seed, stratify=labels)
            check_whole(splits, len(labels))
            for label in range(classes):
                counts = np.array([(labels[part] == label).sum() for part in parts(splits)])
                exact = (labels == label).sum() * np.array(fractions)
                assert (counts >= 1).all()
                if (exact >= 1).all():
                    assert (np.abs(counts - exact) <= 1 + 1e-9).all(), (fractions, exact, counts)


def test_stratify_true_takes_the_data_sets_own_classes() -> None:
    targets = torch.tensor([0] * 90 + [1] * 10)
    data = tl.Dataset("rare", torch.randn(100, 2), targets, classes=("no", "yes"))
    splits = tl.split(data, seed=0, stratify=True)
    assert [int(part.targets.sum()) for part in splits] == [7, 2, 1]
    assert torch.equal(splits.valid.features, data.features[splits.indices[1]])
    assert torch.equal(splits.valid.rows, splits.indices[1])


@pytest.mark.parametrize("seed", range(6))
def test_groups_stay_together(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = np.array([f"patient {k}" for k in rng.integers(0, 40, 300)])
    splits = tl.split(Rows(300), seed=seed, groups=groups)
    check_whole(splits, 300)
    members = [set(groups[part]) for part in parts(splits)]
    assert not (members[0] & members[1] or members[0] & members[2] or members[1] & members[2])
    largest = np.unique(groups, return_counts=True)[1].max()
    for part, share in zip(parts(splits), (0.7, 0.2, 0.1)):
        assert abs(len(part) - 300 * share) <= largest
    few = tl.split(Rows(9), (0.8, 0.1, 0.1), seed=seed, groups=[1] * 7 + [2, 3])
    assert [len(part) for part in parts(few)] == [7, 1, 1]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("fractions", [(0.7, 0.2, 0.1), (0.8, 0.0, 0.2), (0.1, 0.1, 0.8)])
def test_large_and_small_groups_are_in_every_part(fractions: tuple[float, float, float], seed: int) -> None:
    """Patients with few visits are others than those with many: no part may hold the one kind only."""
    sizes = np.random.default_rng(seed).integers(1, 17, 300)
    groups = np.arange(300).repeat(sizes)
    small = (sizes < 6).repeat(sizes)
    cuts = [parts(tl.split(Rows(len(groups)), fractions, seed=seed, groups=groups))]
    cuts += [[fold.indices[1].numpy() for fold in tl.folds(Rows(len(groups)), 5, seed=seed, groups=groups)]]
    for part in (part for cut in cuts for part in cut if len(part)):
        assert len(part) / len(np.unique(groups[part])) == pytest.approx(sizes.mean(), rel=0.1)
        assert small[part].mean() == pytest.approx(small.mean(), abs=0.04)


@pytest.mark.parametrize("way", ["stratify", "groups", "time"])
def test_true_takes_what_the_data_set_knows(way: str) -> None:
    rng = np.random.default_rng(0)
    known = {name: torch.from_numpy(rng.integers(0, 20, 200)) for name in ("groups", "time")}
    data = tl.Dataset("d", torch.randn(200, 2), known["groups"] % 3, ("a", "b", "c"), **known)
    texts = tl.TextDataset("t", tuple("abcde" * 40), data.targets, data.classes, **known)
    values = data.targets if way == "stratify" else known[way]
    for whole in (data, texts):
        given, own = (tl.split(whole, seed=2, **{way: value}) for value in (values, True))
        assert all(torch.equal(a, b) for a, b in zip(given.indices, own.indices))
        assert torch.equal(own.valid.groups, known["groups"][own.indices[1]])
        assert torch.equal(own.test.time, known["time"][own.indices[2]])
        folds = tl.folds(whole, 4, seed=2, **{way: True})
        assert torch.equal(folds[1].valid.rows, folds[1].indices[1])
    assert tl.split(texts, seed=2, groups=False).train.texts[:2] == tuple(
        texts.texts[row] for row in tl.split(texts, seed=2).indices[0][:2]
    )


def test_dates_as_texts_are_sorted_as_dates() -> None:
    days = [f"2025-{month:02d}-{day:02d}" for month in range(1, 6) for day in range(1, 6)]
    mixed = list(np.random.default_rng(0).permutation(days))
    splits = tl.split(Rows(25), seed=0, time=mixed)
    assert max(mixed[row] for row in splits.indices[0]) < min(mixed[row] for row in splits.indices[1])
    far = ["-0044-03-15", "1969-07-20", "0800-12-25"] * 2 + ["2000-01-01"] * 2  # as texts: -, 0, 1, 2
    assert tl.split(Rows(8), (0.25, 0.25, 0.5), seed=0, time=far).indices[0].tolist() == [0, 3]


def test_time_is_cut_in_order_and_equal_times_stay_together() -> None:
    rng = np.random.default_rng(0)
    days = rng.integers(0, 25, 200)
    splits = tl.split(Rows(200), seed=0, time=days)
    check_whole(splits, 200)
    train, valid, test = (days[part] for part in parts(splits))
    assert train.max() < valid.min() <= valid.max() < test.min()
    dates = np.datetime64("2020-01-01") + days
    assert torch.equal(tl.split(Rows(200), seed=5, time=dates).indices[1], splits.indices[1])
    distinct = tl.split(Rows(200), seed=0, time=rng.permutation(200))
    assert [len(part) for part in parts(distinct)] == [140, 40, 20]


def test_a_part_of_any_data_set_can_be_loaded_and_the_whole_is_unchanged() -> None:
    data = torch.utils.data.TensorDataset(torch.arange(20.0)[:, None], torch.arange(20))
    kept = data.tensors[0].clone()
    train, _, _ = tl.split(data, seed=0)
    seen = [int(k) for _, part in tl.make_loader(train, 4, seed=0, shuffle=True) for k in part]
    assert sorted(seen) == tl.split(data, seed=0).indices[0].tolist()
    assert torch.equal(data.tensors[0], kept)


def test_labels_may_be_tensors_lists_or_strings() -> None:
    names: Any = ["no"] * 20 + ["yes"] * 10
    numbers = torch.tensor([0] * 20 + [1] * 10)
    one, other = (tl.split(Rows(30), seed=1, stratify=labels) for labels in (names, numbers))
    assert all(torch.equal(a, b) for a, b in zip(one.indices, other.indices))


# --- folds, against scikit-learn's


def sides(fold: Any) -> tuple[np.ndarray, np.ndarray]:
    train, valid = fold.indices
    return train.numpy(), valid.numpy()


def references(n: int, labels: np.ndarray, groups: np.ndarray) -> dict[str, tuple[Any, dict[str, Any]]]:
    """The same kinds of folds, cut by scikit-learn, and the arguments that ours take for them."""
    from sklearn.model_selection import GroupKFold, KFold, StratifiedKFold

    rows = np.zeros(n)
    return {
        "plain": (list(KFold(5, shuffle=True, random_state=0).split(rows)), {}),
        "stratified": (
            list(StratifiedKFold(5, shuffle=True, random_state=0).split(rows, labels)),
            {"stratify": labels},
        ),
        "grouped": (list(GroupKFold(5).split(rows, groups=groups)), {"groups": groups}),
    }


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("n", [50, 103, 499])
def test_folds_have_the_sizes_and_the_classes_of_scikit_learns(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(
        np.concatenate([np.arange(3).repeat(5), rng.choice(3, n - 15, p=[0.7, 0.2, 0.1])])
    )
    groups = rng.integers(0, 23, n)
    for kind, (theirs, arguments) in references(n, labels, groups).items():
        ours = [sides(fold) for fold in tl.folds(Rows(n), 5, seed=seed, **arguments)]
        assert sorted(np.concatenate([valid for _, valid in ours])) == list(range(n)), kind
        assert sorted(len(valid) for _, valid in ours) == sorted(len(valid) for _, valid in theirs), kind
        for train, valid in ours:
            assert sorted([*train, *valid]) == list(range(n))
            assert kind != "grouped" or not set(groups[train]) & set(groups[valid])
        if kind == "stratified":
            for label in range(3):
                counts = [[(labels[valid] == label).sum() for _, valid in cut] for cut in (ours, theirs)]
                assert sorted(counts[0]) == sorted(counts[1])


def test_within_cuts_each_group_in_time_by_itself() -> None:
    rng = np.random.default_rng(0)
    owners = rng.integers(0, 12, 300)
    days = rng.permutation(300) + 1000 * (owners % 3)  # some come years after others
    splits = tl.split(Rows(300), (0.6, 0.2, 0.2), seed=0, time=days, within=owners)
    assert sorted(torch.cat(splits.indices).tolist()) == list(range(300))
    for owner in range(12):
        size = (owners == owner).sum()
        parts = [index.numpy()[owners[index.numpy()] == owner] for index in splits.indices]
        assert [len(part) for part in parts] == pytest.approx([0.6 * size, 0.2 * size, 0.2 * size], abs=1)
        for earlier, later in ((parts[0], parts[1]), (parts[1], parts[2])):
            assert days[earlier].max() < days[later].min()


def test_within_takes_the_data_sets_own_groups_and_leaves_small_ones_in_train() -> None:
    visits = tl.load("pbcseq")
    splits = tl.split(visits, (0.8, 0.2, 0), seed=0, time=True, within=True)
    given = tl.split(visits, (0.8, 0.2, 0), seed=0, time=visits.time, within=visits.groups)
    assert torch.equal(splits.indices[1], given.indices[1])
    sizes = visits.groups.bincount()
    assert not set(splits.valid.groups.tolist()) & set((sizes <= 2).nonzero().flatten().tolist())
    assert set(splits.valid.groups.tolist()) == set((sizes > 2).nonzero().flatten().tolist())


def test_within_without_time_is_refused() -> None:
    with pytest.raises(tl.TrainlabError, match="within cuts each group in time: give time= too"):
        tl.split(Rows(9), seed=0, within=np.zeros(9))
    with pytest.raises(tl.TrainlabError, match="within has shape"):
        tl.split(Rows(9), seed=0, time=np.arange(9), within=np.zeros(8))


def test_timed_folds_are_scikit_learns_where_the_rows_divide() -> None:
    from sklearn.model_selection import TimeSeriesSplit

    time = np.random.default_rng(0).permutation(120)
    order = np.argsort(time)
    for ours, (train, valid) in zip(
        tl.folds(Rows(120), 5, seed=0, time=time), TimeSeriesSplit(5).split(np.zeros(120)), strict=True
    ):
        np.testing.assert_array_equal(sides(ours)[0], np.sort(order[train]))
        np.testing.assert_array_equal(sides(ours)[1], np.sort(order[valid]))


def test_timed_folds_go_forward_and_keep_a_moment_together() -> None:
    days = np.random.default_rng(1).integers(0, 40, 307)
    cut = tl.folds(Rows(307), 4, seed=0, time=days)
    for fold, later in zip(cut, [*cut[1:], None]):
        train, valid = sides(fold)
        assert days[train].max() < days[valid].min()
        if later is not None:
            np.testing.assert_array_equal(np.sort([*train, *valid]), sides(later)[0])
    assert sorted([*sides(cut[-1])[0], *sides(cut[-1])[1]]) == list(range(307))


def test_a_fold_unpacks_and_the_seed_decides() -> None:
    first, again, other = (tl.folds(Rows(50), 3, seed=seed) for seed in (3, 3, 4))
    train, valid = first[0]
    assert [train[0], len(valid), repr(first[0])] == [
        int(first[0].indices[0][0]) * 10,
        17,
        "Fold(train=33, valid=17)",
    ]
    assert all(torch.equal(a.indices[1], b.indices[1]) for a, b in zip(first, again))
    assert not torch.equal(first[0].indices[1], other[0].indices[1])


def test_a_subset_by_mask_is_the_subset_by_number() -> None:
    data = tl.Dataset("d", torch.randn(6, 2), torch.arange(6), groups=torch.arange(6) // 2)
    kept = data.subset(data.groups == 1)
    assert kept.rows.tolist() == [2, 3]
    assert torch.equal(kept.features, data.subset([2, 3]).features)
    assert data.subset([True, False, False, False, False, True]).rows.tolist() == [0, 5]
