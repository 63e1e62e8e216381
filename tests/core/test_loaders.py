"""The order of an epoch is f(seed, epoch), whatever else goes on."""

from __future__ import annotations

import gc
import random
import time
from typing import Any

import numpy as np
import pytest
import torch
from core.runs import assert_same, table
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

import trainlab as tl
from trainlab.data.loaders import DatasetLoader, TensorLoader
from trainlab.randomness import get_rng_state

ROWS = 30


class Numbered:
    """Row k is the number k and a draw of each generator."""

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> tuple[int, Tensor]:
        return index, torch.rand(1).double() + random.random() + np.random.rand()


def kinds() -> dict[str, Any]:
    features = torch.arange(ROWS).float()[:, None]
    targets = torch.arange(ROWS)
    everything = TensorDataset(torch.arange(ROWS + 9).float()[:, None], torch.arange(ROWS + 9))
    return {
        "dataset": tl.Dataset("numbers", features, targets),
        "tensors": TensorDataset(features, targets),
        "tuple": (features, targets),
        "subset": Subset(everything, list(range(ROWS))),
        "subset of a subset": Subset(Subset(everything, list(range(ROWS + 4))), range(ROWS)),
        "rows": list(zip(features, targets)),
    }


def numbers(batches: Any) -> list[int]:
    return [int(k) for batch in batches for k in batch[1]]


@pytest.mark.parametrize("kind", kinds())
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
def test_every_row_comes_once_in_an_order_of_seed_and_epoch(
    kind: str, drop_last: bool, shuffle: bool
) -> None:
    data = kinds()[kind]
    make = lambda seed: tl.make_loader(data, 8, seed=seed, shuffle=shuffle, drop_last=drop_last)  # noqa: E731
    loader = make(1)
    assert isinstance(loader, DatasetLoader if kind == "rows" else TensorLoader)
    epochs = [numbers(loader.batches(epoch)) for epoch in range(3)]
    assert all(len(set(order)) == len(order) == (24 if drop_last else ROWS) for order in epochs)
    assert len(loader) == len(list(loader.batches(0))) == (3 if drop_last else 4)
    assert [numbers(loader) for _ in range(3)] == epochs  # `for batch in loader` counts the epochs
    assert [numbers(make(1).batches(epoch)) for epoch in (2, 0)] == [epochs[2], epochs[0]]
    if shuffle:
        assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
        assert numbers(make(2).batches(0)) != epochs[0]
    else:
        assert epochs[0] == epochs[1] == list(range(len(epochs[0])))
    for start in range(0, len(epochs[0]) + 1, 8):
        assert numbers(loader.batches(1, start)) == epochs[1][start:]
    assert numbers(loader.batches(1, len(epochs[1]))) == []


@pytest.mark.parametrize("kind", ["tuple", "rows"])
def test_the_fast_path_and_the_slow_one_agree(kind: str) -> None:
    reference = numbers(tl.make_loader(kinds()["tensors"], 8, seed=6, shuffle=True).batches(3))
    assert numbers(tl.make_loader(kinds()[kind], 8, seed=6, shuffle=True).batches(3)) == reference


def test_the_order_is_that_of_torchs_own_permutation() -> None:
    loader = tl.make_loader(kinds()["tuple"], 8, seed=6, shuffle=True)
    key = int(np.random.SeedSequence((6, 3)).generate_state(1, np.uint64)[0])
    expected = torch.randperm(ROWS, generator=torch.Generator().manual_seed(key))
    assert numbers(loader.batches(3)) == expected.tolist()


def test_what_a_row_draws_is_the_same_with_workers_and_after_leaving_early() -> None:
    alone = tl.make_loader(Numbered(), 8, seed=1, shuffle=True)
    helped = tl.make_loader(Numbered(), 8, seed=1, shuffle=True, workers=2)
    for epoch in (0, 1):
        assert_same(list(helped.batches(epoch)), list(alone.batches(epoch)))
    abandoned = helped.batches(0)
    next(abandoned)
    assert_same(list(helped.batches(1, 16)), list(alone.batches(1))[2:])
    # a pass that is begun within another keeps to its own place, and leaves the other at its
    outer = [next(abandoned), *abandoned]
    assert_same(outer, list(alone.batches(0))[1:])
    del abandoned
    assert_same(list(helped.batches(2)), list(alone.batches(2)))


@pytest.mark.parametrize("workers", [0, 2])
def test_passes_within_passes(workers: int) -> None:
    loader = tl.make_loader(kinds()["rows"], 8, seed=1, shuffle=True, workers=workers)
    expected = [numbers(loader.batches(epoch)) for epoch in (0, 1)]
    one, other = loader.batches(0), loader.batches(1)
    pairs = list(zip(one, other))
    assert [numbers(part) for part in zip(*pairs)] == expected


def test_workers_end_with_their_loader() -> None:
    loader = tl.make_loader(Numbered(), 8, seed=1, shuffle=True, workers=2)
    next(loader.batches(0))
    started = time.perf_counter()
    del loader
    gc.collect()
    assert time.perf_counter() - started < 4.0  # torch waits 5 s for each worker that does not hear


@pytest.mark.parametrize("data", [Numbered(), kinds()["tuple"]], ids=["rows", "tensors"])
@pytest.mark.parametrize("workers", [0, 2])
def test_global_randomness_is_left_alone(data: Any, workers: int) -> None:
    before = get_rng_state()
    list(tl.make_loader(data, 8, seed=1, shuffle=True, workers=workers))
    assert_same(get_rng_state(), before)
    torch.rand(1), random.random(), np.random.rand()
    again = list(tl.make_loader(data, 8, seed=1, shuffle=True, workers=workers))
    assert_same(again, list(tl.make_loader(data, 8, seed=1, shuffle=True).batches(0)))


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_model_that_works_in_place_does_not_change_the_data(shuffle: bool) -> None:
    features, targets = table(20)
    kept = features.clone()
    for batch, _ in tl.make_loader((features, targets), 20, seed=0, shuffle=shuffle):
        batch.zero_()
    assert torch.equal(features, kept)


class Flipped(TensorDataset):
    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        features, target = super().__getitem__(index)
        return -features, target


def test_a_subclass_that_augments_its_rows_is_asked_for_them() -> None:
    data = Flipped(torch.ones(10, 2), torch.arange(10))
    for given in (data, Subset(data, [1, 2, 3])):
        batch = next(iter(tl.make_loader(given, 3, seed=0, shuffle=False)))
        assert (batch[0] == -1).all()


def test_collate_makes_the_batch() -> None:
    loader = tl.make_loader(kinds()["tuple"], 8, seed=0, shuffle=False, collate=lambda rows: len(rows))
    assert list(loader) == [8, 8, 8, 6]
