"""What is changed by hand between two steps holds from the next step on, and nothing else moves."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from core.runs import SCHEDULES, assert_same, assert_same_run, make_state, mean_ce, network, table
from torch.nn import functional as F

import trainlab as tl


def changing(state: tl.TrainState, changes: dict[int, dict[str, Any]], **config: Any) -> list[Any]:
    loader = tl.make_loader(table(80), 8, seed=3, shuffle=True)
    events = []
    for event in tl.train(state, loader, mean_ce, tl.TrainConfig(epochs=1, **config)):
        events.append(event)
        if isinstance(event, tl.Step):
            for name, value in changes.get(event.step, {}).items():
                setattr(state.controls, name, value)
    return events


@pytest.mark.parametrize("schedule", ["step", "cosine"])
def test_equal_to_a_hand_written_run_with_the_same_changes(schedule: str) -> None:
    changes = {
        2: {"lr_scale": 0.1},
        4: {"momentum": 0.5, "weight_decay": 0.3},
        5: {"clip_norm": 0.2},
        6: {"dropout": 0.8},
        7: {"lr_scale": 2.0, "clip_norm": None},
    }
    state = make_state("momentum", schedule)
    events = changing(state, changes)

    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=0.01)
    scheduler = SCHEDULES[schedule](optimizer)
    torch.manual_seed(11)
    scale, clip = 1.0, None
    rates, losses = [], []
    for step, (features, targets) in enumerate(tl.make_loader(table(80), 8, seed=3, shuffle=True), 1):
        done = changes.get(step - 1, {})
        scale, clip = done.get("lr_scale", scale), done.get("clip_norm", clip)
        optimizer.param_groups[0]["momentum"] = done.get("momentum", optimizer.param_groups[0]["momentum"])
        decay = done.get("weight_decay", optimizer.param_groups[0]["weight_decay"])
        optimizer.param_groups[0]["weight_decay"] = decay
        model[3].p = done.get("dropout", model[3].p)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(features), targets)
        loss.backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        rate = scheduler.get_last_lr()[0]
        optimizer.param_groups[0]["lr"] = rate * scale
        rates.append(rate * scale)
        optimizer.step()
        optimizer.param_groups[0]["lr"] = rate
        scheduler.step()
        losses.append(loss.item())
    steps = [event for event in events if isinstance(event, tl.Step)]
    assert [event.loss for event in steps] == losses
    assert [event.lr for event in steps] == rates
    assert_same(state.model.state_dict(), model.state_dict())
    assert_same(state.optimizer.state_dict(), optimizer.state_dict())
    assert state.scheduler is not None
    assert state.scheduler.get_last_lr() == scheduler.get_last_lr()  # the schedule never hears of the scale


def test_a_change_is_an_event_before_the_step_it_holds_for() -> None:
    state = make_state("momentum")
    events = changing(state, {3: {"lr_scale": 0.5, "dropout": 0.1}, 6: {"dropout": None}})
    kinds = [(event.step, event.control, event.value) for event in events if isinstance(event, tl.Changed)]
    assert kinds == [(4, "lr_scale", 0.5), (4, "dropout", 0.1), (7, "dropout", None)]
    places = [k for k, event in enumerate(events) if isinstance(event, tl.Changed)]
    assert [type(events[k + 1]).__name__ for k in places] == ["Changed", "Step", "Step"]
    assert state.model[3].p == 0.1  # None leaves things as they are


def test_momentum_is_adams_first_beta() -> None:
    state = make_state("adamw")
    changing(state, {1: {"momentum": 0.7}})
    assert state.optimizer.param_groups[0]["betas"] == (0.7, 0.999)


def test_groups_without_decay_keep_none_even_after_the_control_was_at_zero() -> None:
    model = network()
    weights = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": weights, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    state = tl.TrainState(model, torch.optim.AdamW(groups, 0.01))
    changing(state, {1: {"weight_decay": 0.0}, 3: {"weight_decay": 0.05}})
    assert [group["weight_decay"] for group in state.optimizer.param_groups] == [0.05, 0.0]
    bare = make_state("sgd")  # no group has any: then the control is for all
    changing(bare, {1: {"weight_decay": 0.05}})
    assert bare.optimizer.param_groups[0]["weight_decay"] == 0.05


def test_the_clip_control_takes_the_configurations_place() -> None:
    state = make_state("sgd", None)
    for event in changing(state, {2: {"clip_norm": 1e-3}}, clip_norm=1e6):
        if isinstance(event, tl.Step):
            norm = float(event.grad_norm)
            assert norm > 1e-2  # before clipping
    left = float(torch.nn.utils.get_total_norm([p.grad for p in state.model.parameters()]))
    assert left == pytest.approx(1e-3, rel=1e-3)


def ramp(done: int) -> float:
    return 0.6 * min(1.0, done / 12)


def ramped(state: tl.TrainState, *others: Any) -> tl.History:
    loader = tl.make_loader(table(80), 8, seed=3, shuffle=True)
    observers = [tl.DropoutSchedule(state, ramp), *others]
    return tl.fit(state, loader, mean_ce, tl.TrainConfig(epochs=2), observers=observers)


def test_a_dropout_schedule_is_the_hand_written_loop() -> None:
    state = make_state("adamw", None)
    history = ramped(state)
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    torch.manual_seed(11)
    loader, losses = tl.make_loader(table(80), 8, seed=3, shuffle=True), []
    for features, targets in [batch for epoch in range(2) for batch in loader.batches(epoch)]:
        model[3].p = round(ramp(len(losses)), 2)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(features), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert history.column("loss") == losses
    assert_same(state.model.state_dict(), model.state_dict())
    changes = history.column("value", event="changed")
    assert changes == [round(ramp(done), 2) for done in range(13)], "one change a step, none on the plateau"


@pytest.mark.parametrize("load_first", [True, False])
@pytest.mark.parametrize("at", [5, 13])
def test_a_dropout_schedule_goes_on_exactly_after_a_resume(at: int, load_first: bool) -> None:
    whole = make_state()
    ramped(whole)
    first = make_state()
    ramped(first, lambda event: tl.STOP if event.step >= at else None)
    saved = copy.deepcopy(first.state_dict())
    second = make_state()
    if load_first:
        second.load_state_dict(saved)
        ramped(second)
    else:
        schedule = tl.DropoutSchedule(second, ramp)
        second.load_state_dict(saved)
        loader = tl.make_loader(table(80), 8, seed=3, shuffle=True)
        tl.fit(second, loader, mean_ce, tl.TrainConfig(epochs=2), observers=[schedule])
    assert_same_run(second, whole)


def test_a_run_taken_back_takes_the_dropout_schedule_along() -> None:
    state = make_state()
    schedule = tl.DropoutSchedule(state, ramp)
    schedule(tl.Step(9, 1, 0.5, 0.1, None, 0.0, 8))
    assert state.controls.dropout == 0.45
    schedule(tl.Restarted(1, 4))
    assert state.controls.dropout == 0.2
    schedule(tl.Validation(9, 1, {"loss": 1.0}))
    assert state.controls.dropout == 0.2
