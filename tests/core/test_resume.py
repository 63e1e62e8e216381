"""A run saved in mid-epoch and loaded into fresh objects goes on as if nothing had happened."""

from __future__ import annotations

import copy
import io
import random
from typing import Any

import numpy as np
import pytest
import torch
from core.runs import assert_same, assert_same_run, everything, make_state, mean_ce, table
from torch import Tensor

import trainlab as tl


class Augmented:
    """Rows with noise from all three generators, as an augmenting data set draws it."""

    def __init__(self, rows: int = 40) -> None:
        self.features, self.targets = table(rows)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        noise = torch.rand(6) + random.random() + float(np.random.rand())
        return self.features[index] + 0.1 * noise, self.targets[index]


def setting(workers: int, schedule: str, precision: str = "fp32") -> tuple[tl.TrainState, dict[str, Any]]:
    state = make_state("adamw", schedule)
    return state, {
        "loader": tl.make_loader(Augmented(), 8, seed=3, shuffle=True, workers=workers),
        "loss_fn": mean_ce,
        "config": tl.TrainConfig(epochs=4, validate_every=3, precision=precision, device="cpu"),
        "valid": tl.make_loader(table(30, seed=8), 16, seed=0, shuffle=False),
        "observers": [tl.EarlyStopping(patience=2, min_delta=0.02), tl.BestModel(state)],
    }


def stop_at(step: int) -> Any:
    return lambda event: tl.STOP if event.step >= step else None


def through_memory(saved: dict[str, Any]) -> dict[str, Any]:
    return copy.deepcopy(saved)


def through_a_file(saved: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)
    return torch.load(file, weights_only=True)  # tensors and plain values only


@pytest.mark.parametrize("through", [through_memory, through_a_file])
@pytest.mark.parametrize("schedule", ["one_cycle", "plateau"])
@pytest.mark.parametrize(("workers", "at"), [(0, 2), (0, 5), (0, 8), (2, 7)])
def test_saved_in_mid_epoch_and_loaded_into_fresh_objects(
    workers: int, at: int, schedule: str, through: Any
) -> None:
    whole, given = setting(workers, schedule)
    tl.fit(whole, **given)
    patience = given["observers"][0].state_dict()

    first, given = setting(workers, schedule)
    given["observers"].append(stop_at(at))
    tl.fit(first, **given)
    saved = through(first.state_dict())
    position = first.position()
    del first
    torch.rand(3), np.random.rand(), random.random()

    second, given = setting(workers, schedule)
    second.load_state_dict(saved)
    assert second.position() == position
    tl.fit(second, **given)
    assert_same_run(second, whole)
    assert given["observers"][0].state_dict() == patience


@pytest.mark.filterwarnings("ignore:precision='fp16'")
def test_the_scaler_is_part_of_the_state() -> None:
    whole, given = setting(0, "step", "fp16")
    tl.fit(whole, **given)
    first, given = setting(0, "step", "fp16")
    given["observers"].append(stop_at(5))
    tl.fit(first, **given)
    assert first.scaler is not None
    first.scaler.update(2.0**7)  # a scale that no fresh scaler has
    saved = copy.deepcopy(first.state_dict())
    second, given = setting(0, "step", "fp16")
    second.load_state_dict(saved)
    assert second.scaler is not None
    assert second.scaler.state_dict() == first.scaler.state_dict()
    tl.fit(second, **given)
    assert second.scaler.get_scale() == 2.0**7


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("rows", [40, 37])
def test_left_at_the_last_step_of_an_epoch(shuffle: bool, rows: int) -> None:
    ends = []
    for leave in (False, True):
        state = make_state()
        loader = tl.make_loader(table(rows), 8, seed=3, shuffle=shuffle)
        config = tl.TrainConfig(epochs=2)
        if leave:
            for event in tl.train(state, loader, mean_ce, config):
                if event.step == 5:
                    break
        list(tl.train(state, loader, mean_ce, config))
        ends.append(everything(state))
    assert_same(ends[0], ends[1])
    assert ends[0]["position"]["step"] == 10


def test_the_state_dict_of_a_run_is_not_copied_but_loading_takes_nothing_over() -> None:
    first, given = setting(0, "step")
    saved = copy.deepcopy(first.state_dict())
    kept = copy.deepcopy(saved)
    second, given = setting(0, "step")
    second.load_state_dict(saved)
    tl.fit(second, **given)
    assert_same(saved, kept)


def test_controls_are_part_of_the_state() -> None:
    first = make_state()
    loader = tl.make_loader(table(40), 8, seed=3, shuffle=True)
    first.controls.lr_scale, first.controls.dropout, first.controls.weight_decay = 0.5, 0.7, 0.2
    list(zip(range(3), tl.train(first, loader, mean_ce, tl.TrainConfig(steps=9))))
    saved = copy.deepcopy(first.state_dict())
    second = make_state()
    second.load_state_dict(saved)
    assert second.controls == first.controls
    assert second.model[3].p == 0.7
    after = [list(tl.train(run, loader, mean_ce, tl.TrainConfig(steps=9))) for run in (second,)]
    assert not [event for event in after[0] if isinstance(event, tl.Changed)]
    first.load_state_dict(saved)
    list(tl.train(first, loader, mean_ce, tl.TrainConfig(steps=9)))
    assert_same(everything(first), everything(second))
