"""A loss that is not finite ends the run with an error, and the state as it was before the step."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from core.runs import assert_same, everything, make_state, mean_ce, table
from torch import nn

import trainlab as tl


def poisoned(at: int, state: tl.TrainState) -> Any:
    """A mean loss that is NaN whenever step `at` is taken."""

    def loss_fn(model: nn.Module, batch: Any) -> torch.Tensor:
        return mean_ce(model, batch) * (math.nan if state.step + 1 == at else 1.0)

    return loss_fn


def loader(shuffle: bool = True) -> Any:
    return tl.make_loader(table(80), 8, seed=3, shuffle=shuffle)


@pytest.mark.parametrize("optimizer", ["adamw", "momentum", "sgd-fused"])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_state_is_as_before_the_step(optimizer: str, accumulate: int) -> None:
    sound = make_state(optimizer)
    config = tl.TrainConfig(steps=8, accumulate=accumulate)
    stream = tl.train(sound, loader(), mean_ce, config)
    list(zip(range(3), stream))
    third = everything(sound)
    list(stream)

    state = make_state(optimizer)
    with pytest.raises(tl.TrainlabError, match=r"the loss at step 4 is nan: .*the loss function made it"):
        list(tl.train(state, loader(), poisoned(4, state), config))
    assert_same(everything(state), third)
    assert not any(p.grad is not None and p.grad.isnan().any() for p in state.model.parameters())
    list(tl.train(state, loader(), mean_ce, config))
    assert_same(everything(state), everything(sound))


def test_the_first_layer_is_named() -> None:
    class Log(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.log(x)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), Log(), nn.Linear(4, 3))
    state = tl.TrainState(model, torch.optim.SGD(model.parameters(), 0.1))
    with pytest.raises(tl.TrainlabError, match=r"first layer whose output is not finite is '2' \(Log\)"):
        list(tl.train(state, loader(), mean_ce, tl.TrainConfig(epochs=1)))
    assert not any(module._forward_hooks for module in model.modules())


def test_the_batch_and_the_weights_are_named() -> None:
    state = make_state()
    features, targets = table(16)
    features[11, 2] = math.inf
    batches = [(features[:8], targets[:8]), (features[8:], targets[8:])]
    with pytest.raises(tl.TrainlabError, match="step 2 is nan: the batch itself holds values"):
        list(tl.train(state, batches, mean_ce, tl.TrainConfig(epochs=1)))
    with torch.no_grad():
        state.model[4].bias[0] = math.nan
    with pytest.raises(tl.TrainlabError, match=r"the weights '4\.bias' were not finite before it"):
        list(tl.train(state, loader(), mean_ce, tl.TrainConfig(epochs=1)))


def test_a_lower_rate_lets_the_run_go_on() -> None:
    torch.manual_seed(0)
    model = nn.Linear(6, 1)
    state = tl.TrainState(model, torch.optim.SGD(model.parameters(), 1e4))
    data = (table(64)[0], table(64)[0].sum(1, keepdim=True))
    batches = tl.make_loader(data, 16, seed=0, shuffle=True)
    config = tl.TrainConfig(steps=200)
    with pytest.raises(tl.TrainlabError, match="Lower the learning rate"):
        list(tl.train(state, batches, tl.losses.regression(), config))
    reached = state.step
    assert 0 < reached < 100
    model.reset_parameters()
    state.controls.lr_scale = 1e-6
    events = list(tl.train(state, batches, tl.losses.regression(), config))
    assert isinstance(events[0], tl.Changed)
    assert events[1].step == reached + 1
    assert state.step == 200


class Counter(nn.Module):
    """A layer that puts a new tensor in its buffer's place at each pass."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return x - self.mean


def test_a_buffer_that_is_replaced_is_put_back_too() -> None:
    ends = []
    for at in (4, 0):
        state = make_state("sgd", None)
        state.model[1] = Counter()
        if at:
            with pytest.raises(tl.TrainlabError, match="step 4"):
                list(tl.train(state, loader(), poisoned(at, state), tl.TrainConfig(epochs=1)))
        else:
            list(zip(range(3), tl.train(state, loader(), mean_ce, tl.TrainConfig(epochs=1))))
        ends.append(everything(state))
    assert_same(ends[0], ends[1])


@pytest.mark.parametrize("optimizer", ["adamw-fused", "sgd-fused"])
@pytest.mark.parametrize("schedule", [None, "step", "one_cycle", "cosine"])
@pytest.mark.parametrize("bad", [1, 4, 8, 11, 13])
@pytest.mark.parametrize("lr_scale", [1.0, 0.5])
def test_looking_late_ends_as_looking_at_once(
    optimizer: str, schedule: str | None, bad: int, lr_scale: float
) -> None:
    ends = []
    for every in (1, 8):
        state = make_state(optimizer, schedule)
        state.controls.lr_scale = lr_scale
        config = tl.TrainConfig(epochs=3, check_every=every)
        seen: list[tl.Event] = []
        with pytest.raises(tl.TrainlabError, match=f"the loss at step {bad} is nan"):
            tl.fit(state, loader(), poisoned(bad, state), config, observers=[seen.append])
        restarts = [event for event in seen if isinstance(event, tl.Restarted)]
        assert [event.step for event in restarts] == ([bad - 1] if every > 1 else [])
        assert state.history.column("step") == list(range(1, bad))
        losses = state.history.column("loss") if bad > 1 else []
        ends.append((everything(state), losses))
    assert_same(ends[0], ends[1])


def test_looking_late_at_a_sound_run_changes_nothing() -> None:
    ends = []
    for every in (1, 8):
        state = make_state("adamw-fused", "one_cycle")
        valid = tl.make_loader(table(20), 8, seed=0, shuffle=False)
        config = tl.TrainConfig(epochs=3, check_every=every, validate_every=7, clip_norm=0.5)
        tl.fit(state, loader(), mean_ce, config, valid=valid)
        ends.append((everything(state), state.history.column("loss"), state.history.column("valid_loss")))
    assert_same(ends[0], ends[1])


def test_a_loss_that_is_bad_once_is_gone_back_over() -> None:
    """The second time the loss is sound: the run is the sound run, and so is its history."""
    sound = make_state("adamw-fused")
    tl.fit(sound, loader(), mean_ce, tl.TrainConfig(epochs=2))
    state = make_state("adamw-fused")
    spoilt: list[int] = []

    def once(model: nn.Module, batch: Any) -> torch.Tensor:
        bad = state.step == 4 and not spoilt
        if bad:
            spoilt.append(state.step)
        return mean_ce(model, batch) * (math.nan if bad else 1.0)

    tl.fit(state, loader(), once, tl.TrainConfig(epochs=2, check_every=8))
    assert spoilt == [4]
    assert_same(everything(state), everything(sound))
    assert state.history.column("loss") == sound.history.column("loss")
    assert [row["step"] for row in state.history.rows if row["event"] == "restarted"] == [4]


def test_a_control_changed_in_the_window_is_told_again() -> None:
    state = make_state("adamw-fused", None)
    spoilt: list[int] = []

    def once(model: nn.Module, batch: Any) -> torch.Tensor:
        bad = state.step == 2 and not spoilt
        spoilt.extend([1] if bad else [])
        return mean_ce(model, batch) * (math.nan if bad else 1.0)

    def change(event: tl.Event) -> None:
        if event.step == 5:
            state.controls.weight_decay = 0.3

    config = tl.TrainConfig(epochs=2, check_every=8)
    tl.fit(state, loader(), once, config, observers=[change])
    changes = [row["step"] for row in state.history.rows if row["event"] == "changed"]
    assert changes == [3]
    assert state.optimizer.param_groups[0]["weight_decay"] == 0.3


@pytest.mark.parametrize("how", ["break", "stop"])
def test_a_consumer_that_leaves_early_finds_the_last_good_step(how: str) -> None:
    config = tl.TrainConfig(epochs=3, check_every=8)
    sound = make_state("sgd-fused")
    list(zip(range(3), tl.train(sound, loader(), mean_ce, config)))
    third = everything(sound)
    state = make_state("sgd-fused")
    if how == "break":
        for event in tl.train(state, loader(), poisoned(4, state), config):
            if event.step == 6:
                break
        del event
    else:
        stop = lambda event: tl.STOP if event.step == 6 else None  # noqa: E731
        tl.fit(state, loader(), poisoned(4, state), config, observers=[stop])
        assert state.history.column("step") == [1, 2, 3]
    assert state.step == 3
    assert_same(everything(state), third)


class RootOfZero(nn.Module):
    """sqrt(x * 0) + 1: finite forward, infinite backward."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sqrt(x * 0) + x


@pytest.mark.parametrize("every", [1, 8])
def test_a_gradient_that_is_not_finite_under_a_finite_loss(every: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 3), RootOfZero())
    state = tl.TrainState(model, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, fused=True))
    before = everything(state)
    config = tl.TrainConfig(epochs=1, clip_norm=1.0, check_every=every)
    with pytest.raises(tl.TrainlabError, match=r"gradient at step 1 is not finite \(first in '0.weight'\)"):
        list(tl.train(state, loader(), mean_ce, config))
    assert_same(everything(state), before)


@pytest.mark.filterwarnings("ignore:Seems like")
def test_an_update_broken_off_is_not_declared_whole_by_a_late_look() -> None:
    state = make_state("adamw-fused")
    calls = []

    def broken(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    state.optimizer.step = broken  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        list(tl.train(state, loader(), poisoned(2, state), tl.TrainConfig(epochs=1, check_every=8)))
    assert state.updating
