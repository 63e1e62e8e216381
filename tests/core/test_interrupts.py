"""A run that is interrupted anywhere and called again is the run that never was."""

from __future__ import annotations

import copy
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from core.runs import assert_same_run, everything, make_state, mean_ce, table
from torch import nn

import trainlab as tl

PACKAGE = str(Path(tl.__file__).parent)


def setting(
    *, accumulate: int = 1, precision: str = "fp32", schedule: str = "step", **options: Any
) -> tuple[tl.TrainState, dict[str, Any]]:
    """A run with everything that is hard to repeat, and the keyword arguments of its `fit`."""
    state = make_state("adamw", schedule)
    config = tl.TrainConfig(
        epochs=3, accumulate=accumulate, precision=precision, validate_every=2, clip_norm=1.0, **options
    )
    return state, {
        "loader": tl.make_loader(table(60), 8, seed=4, shuffle=True),
        "loss_fn": tl.losses.classification(),
        "config": config,
        "valid": tl.make_loader(table(40, seed=9), 16, seed=0, shuffle=False),
    }


class Trap:
    """Raises KeyboardInterrupt at its n-th call."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self, *_: Any) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def in_forward(state: tl.TrainState, given: dict[str, Any], trap: Trap) -> None:
    state.model[2].register_forward_hook(lambda *_: trap())  # after BatchNorm has moved its statistics


def in_loss(state: tl.TrainState, given: dict[str, Any], trap: Trap) -> None:
    loss_fn = given["loss_fn"]

    def wrapped(model: nn.Module, batch: Any) -> tl.Loss:
        loss = loss_fn(model, batch)
        trap()
        return loss

    given["loss_fn"] = wrapped


def in_backward(state: tl.TrainState, given: dict[str, Any], trap: Trap) -> None:
    state.model[4].weight.register_hook(lambda gradient: trap())


def in_observer(state: tl.TrainState, given: dict[str, Any], trap: Trap) -> None:
    given["observers"] = [trap]


def in_loader(state: tl.TrainState, given: dict[str, Any], trap: Trap) -> None:
    collate = torch.utils.data.default_collate

    def trapped(rows: list[Any]) -> Any:
        trap()
        return collate(rows)

    rows = list(zip(*table(60)))
    given["loader"] = tl.make_loader(rows, 8, seed=4, shuffle=True, collate=trapped)


def in_validation(state: tl.TrainState, given: dict[str, Any], trap: Trap) -> None:
    state.model.register_forward_hook(lambda module, *_: None if module.training else trap())


PLACES = [in_forward, in_loss, in_backward, in_observer, in_loader, in_validation]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "options",
    [{}, {"accumulate": 3}, {"precision": "fp16"}, {"schedule": "plateau", "precision": "bf16"}],
    ids=["plain", "accumulate", "fp16", "plateau-bf16"],
)
@pytest.mark.filterwarnings("ignore:precision='fp16'")
def test_interrupted_and_run_again(
    place: Callable[[tl.TrainState, dict[str, Any], Trap], None], options: dict[str, Any]
) -> None:
    if place is in_backward and options.get("precision") == "fp16":
        pytest.skip("a hook on the gradient sees the scaled one; in_forward covers the scaler")
    whole, given = setting(**options)
    place(whole, given, Trap(10**9))
    tl.fit(whole, **given)
    for at in (1, 6, 11, 14):
        state, given = setting(**options)
        trap = Trap(at)
        place(state, given, trap)
        interrupted = 0
        while True:
            try:
                tl.fit(state, **given)
                break
            except KeyboardInterrupt:
                interrupted += 1
                assert not state.updating
                if state.epoch == 3 and state.validated == state.step:
                    break
        assert interrupted == (1 if trap.left <= 0 else 0)
        assert_same_run(state, whole)


def test_an_error_in_the_loss_leaves_the_state_as_before_the_step() -> None:
    state, given = setting()
    list(zip(range(4), tl.train(state, **given)))
    before = everything(state)

    def broken(model: nn.Module, batch: Any) -> torch.Tensor:
        mean_ce(model, batch)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(tl.train(state, **{**given, "loss_fn": broken}))
    after = everything(state)
    assert before["position"] == after["position"]
    assert_same = torch.testing.assert_close
    assert_same(after["model"], before["model"], rtol=0, atol=0)
    assert_same(after["rng"]["torch"], before["rng"]["torch"], rtol=0, atol=0)


def test_an_update_broken_off_half_way_is_refused() -> None:
    state, given = setting()
    step = state.optimizer.step

    def half(*arguments: Any) -> None:
        with torch.no_grad():
            next(iter(state.model.parameters())).add_(1.0)
        raise KeyboardInterrupt

    saved = copy.deepcopy(state.state_dict())
    state.optimizer.step = half  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        tl.fit(state, **given)
    state.optimizer.step = step  # type: ignore[method-assign]
    assert state.updating
    for call in (lambda: tl.fit(state, **given), lambda: tl.train(state, **given), state.state_dict):
        with pytest.raises(tl.TrainlabError, match="load the last checkpoint"):
            call()
    whole, again = setting()
    tl.fit(whole, **again)
    state.load_state_dict(saved)  # the checkpoint: loading makes the state whole again
    tl.fit(state, **given)
    assert_same_run(state, whole)


class InterruptAtLine:
    """Sends SIGINT to this process when the n-th line of trainlab's own code is reached."""

    def __init__(self, at: int) -> None:
        self.lines = 0
        self.at = at

    def __enter__(self) -> InterruptAtLine:
        sys.settrace(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _call(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        return self._line

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            self.lines += 1
            if self.lines == self.at:
                os.kill(os.getpid(), signal.SIGINT)
        return self._line


def short() -> tuple[tl.TrainState, dict[str, Any], tl.EarlyStopping]:
    state = make_state("adamw", "plateau")
    patience = tl.EarlyStopping(patience=50)
    state.controls.lr_scale = 0.5
    return (
        state,
        {
            "loader": tl.make_loader(table(24), 8, seed=4, shuffle=True),
            "loss_fn": tl.losses.classification(),
            "config": tl.TrainConfig(epochs=2, validate_every=2, device="cpu"),
            "valid": tl.make_loader(table(20, seed=9), 16, seed=0, shuffle=False),
            "observers": [patience],
        },
        patience,
    )


def check_interrupt_at(at: int, whole: tl.TrainState, waited: dict[str, Any]) -> bool:
    state, given, patience = short()
    interrupted = False
    try:
        with InterruptAtLine(at):
            tl.fit(state, **given)
            given = {}
    except KeyboardInterrupt:
        interrupted = True
    assert not state.updating, at
    if given:
        try:
            tl.fit(state, **given)
        except tl.TrainlabError as error:
            assert "already at epoch 2 of 2" in str(error)
    try:
        assert_same_run(state, whole)
        assert patience.state_dict() == waited
    except AssertionError as error:
        raise AssertionError(f"interrupted at line event {at}: {error}") from error
    return interrupted


def every_line(stride: int, first: int) -> None:
    whole, given, patience = short()
    with InterruptAtLine(-1) as counter:
        tl.fit(whole, **given)
    interrupted = sum(
        check_interrupt_at(at, whole, patience.state_dict()) for at in range(first, counter.lines, stride)
    )
    assert interrupted > 0.9 * (counter.lines - first) / stride


def test_sigint_at_many_lines_of_the_code_loses_nothing() -> None:
    every_line(stride=11, first=2)


@pytest.mark.soak
def test_sigint_at_every_line_of_the_code_loses_nothing() -> None:
    every_line(stride=1, first=1)


def test_sigint_from_outside_at_random_moments() -> None:
    whole, given = setting()
    tl.fit(whole, **given)
    interrupted = 0
    for trial in range(25):
        state, given = setting()
        pause = 0.0015 * (trial + 1)

        def send(pause: float = pause) -> None:
            time.sleep(pause)
            os.kill(os.getpid(), signal.SIGINT)

        sender = threading.Thread(target=send)
        try:
            sender.start()
            tl.fit(state, **given)
            sender.join()
        except KeyboardInterrupt:
            interrupted += 1
        try:
            sender.join()
        except KeyboardInterrupt:
            sender.join()
        assert not state.updating
        if state.epoch < 3 or state.validated < state.step:
            tl.fit(state, **given)
        assert_same_run(state, whole)
    assert interrupted >= 3


def test_two_runs_that_take_turns_can_be_interrupted() -> None:
    runs = []
    for _ in range(2):
        state, given = setting()
        runs.append(tl.train(state, **given))
    for one, _other in zip(*runs):  # several epochs: each takes hold of SIGINT again and again
        last = one
    assert last.epoch == 3
    states = [setting() for _ in range(2)]
    runs = [tl.train(state, **given) for state, given in states]
    with pytest.raises(KeyboardInterrupt):
        for one, _other in zip(*runs):
            if one.epoch == 2:
                os.kill(os.getpid(), signal.SIGINT)
    del runs


@pytest.fixture(autouse=True)
def sigint_is_heard_afterwards() -> Any:
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background starts without it
    yield
    try:
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
    finally:
        signal.signal(signal.SIGINT, before)


def test_sigint_is_given_back_at_the_end() -> None:
    before = signal.getsignal(signal.SIGINT)
    state, given = setting()
    stream = tl.train(state, **given)
    next(stream)
    assert signal.getsignal(signal.SIGINT) is not before
    stream.close()  # type: ignore[attr-defined]
    assert signal.getsignal(signal.SIGINT) is before
    tl.fit(state, **given)
    assert signal.getsignal(signal.SIGINT) is before


def test_an_observer_that_takes_long_is_not_cut_off_but_a_second_interrupt_is_heard() -> None:
    state, given = setting()
    told: list[str] = []

    def slow(event: tl.Event) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        told.append("whole")
        if event.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
            told.append("never reached")

    with pytest.raises(KeyboardInterrupt):
        tl.fit(state, **given, observers=[slow])
    assert told == ["whole"]
    assert state.step == 1
    with pytest.raises(KeyboardInterrupt):
        tl.fit(state, **given, observers=[slow])
    assert told == ["whole", "whole"]
    assert state.step == 2


def test_an_interrupt_in_the_exit_of_no_grad_leaves_gradients_on() -> None:
    def interrupted(model: torch.nn.Module, batch: Any) -> Any:
        torch.set_grad_enabled(False)  # what is left where the exit of no_grad was broken off
        raise KeyboardInterrupt

    state = make_state("momentum")
    loader = tl.make_loader(table(40), 8, seed=0, shuffle=True)
    try:
        with pytest.raises(KeyboardInterrupt):
            tl.fit(state, loader, interrupted, tl.TrainConfig(epochs=1))
        assert torch.is_grad_enabled()
    finally:
        torch.set_grad_enabled(True)
