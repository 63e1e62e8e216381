"""A live run gives what `fit` gives, whatever is done to it and whatever runs beside it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from core.runs import mean_ce, table

import trainlab as tl
from trainlab.widgets.drainer import DRAINER
from trainlab.widgets.live import LiveRun, Series

CONFIG = tl.TrainConfig(epochs=6)


def parts(seed: int, batch_size: int = 8) -> tuple[tl.TrainState, Any]:
    """A small run with dropout, batch norm and momentum: it draws random numbers at every step."""
    tl.seed_everything(seed)
    model = tl.models.MLP(6, [16], 3, dropout=0.4, norm=True)
    state = tl.TrainState(model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9))
    return state, tl.make_loader(table(90), batch_size, seed=seed, shuffle=True)


def valid() -> Any:
    return tl.make_loader(table(30), 10, seed=0, shuffle=False)


def live(seed: int, **options: Any) -> LiveRun:
    state, loader = parts(seed)
    return LiveRun(state, loader, mean_ce, CONFIG, valid=valid(), **{"keep_every": 10} | options)


def alone(seed: int) -> tuple[tl.TrainState, tl.History]:
    state, loader = parts(seed)
    return state, tl.fit(state, loader, mean_ce, CONFIG, valid=valid())


def assert_same_run(run: LiveRun, expected: tuple[tl.TrainState, tl.History]) -> None:
    state, history = expected
    for name, value in state.model.state_dict().items():
        assert torch.equal(run.state.model.state_dict()[name], value), name
    assert run.history.column("loss") == history.column("loss")
    assert run.history.column("valid_loss") == history.column("valid_loss")


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.005)


def live_threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name == "trainlab-live"]


def test_a_live_run_is_the_fitted_run() -> None:
    run = live(0)
    run.start()
    assert run.wait(20)
    assert run.status == "finished"
    assert_same_run(run, alone(0))


def test_drained_without_a_thread_it_is_the_same() -> None:
    run = live(0)
    run.drain()
    assert_same_run(run, alone(0))


def test_runs_side_by_side_are_each_as_alone() -> None:
    runs = [live(seed) for seed in (0, 1, 2)]
    for run in runs:
        run.pace = 0.001  # they really take turns
        run.start(wait=False)
    assert all(run.wait(20) for run in runs)
    for seed, run in enumerate(runs):
        assert_same_run(run, alone(seed))


def test_others_random_numbers_are_left_alone() -> None:
    run = live(0)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run.start()
    run.wait(20)
    assert torch.equal(torch.rand(3), expected)


def test_paused_stepped_and_stopped_in_between_it_is_the_same() -> None:
    run = live(0)
    run.step(7)
    assert run.wait(10)
    assert (run.status, run.state.step) == ("paused", 7)
    run.step()
    run.wait(10)
    assert run.state.step == 8
    run.stop()
    assert run.status == "stopped"
    run.start()
    run.wait(20)
    assert_same_run(run, alone(0))


def test_a_start_during_a_start_makes_no_second_thread() -> None:
    run = live(0)
    run.pace = 0.002
    for _ in range(20):
        run.start(wait=False)
    wait_for(lambda: run.state.step > 3)
    assert live_threads() == ["trainlab-live"]
    run.wait(20)
    assert_same_run(run, alone(0))


def test_the_thread_ends_with_its_work() -> None:
    usual = sys.getswitchinterval()
    run = live(0)
    run.start()
    run.wait(20)
    wait_for(lambda: not live_threads())
    assert not run.busy
    assert sys.getswitchinterval() == usual


def test_rewound_it_goes_the_same_way_again() -> None:
    run = live(0)
    run.start()
    run.wait(20)
    run.rewind(34)
    assert (run.status, run.state.step) == ("paused", 30)
    assert max(run.history.column("step")) == 30
    assert max(run.series["loss"].x) <= 30
    run.start()
    run.wait(20)
    assert_same_run(run, alone(0))


def test_a_fork_goes_its_own_way_and_leaves_the_first_alone() -> None:
    run = live(0)
    run.step(25)
    run.wait(10)
    twin, other = run.fork(), run.fork(20)
    assert (twin.state.step, other.state.step) == (25, 20)
    other.set(lr_scale=0.0)
    for each in (run, twin, other):
        each.start(wait=False)
    assert all(each.wait(20) for each in (run, twin, other))
    assert_same_run(run, alone(0))
    for name, value in run.state.model.state_dict().items():
        assert torch.equal(twin.state.model.state_dict()[name], value), name
    assert not torch.equal(next(other.state.model.parameters()), next(run.state.model.parameters()))


def test_a_fork_of_a_scheduled_run_steps_its_own_optimizer() -> None:
    state, loader = parts(0)
    state.scheduler = torch.optim.lr_scheduler.StepLR(state.optimizer, 10, 0.5)
    run = LiveRun(state, loader, mean_ce, CONFIG, keep_every=10)
    run.step(5)
    run.wait(10)
    twin = run.fork()
    before = [p.clone() for p in state.model.parameters()]
    twin.start()
    twin.wait(20)
    assert all(map(torch.equal, state.model.parameters(), before))
    run.start()
    run.wait(20)
    assert all(map(torch.equal, state.model.parameters(), twin.state.model.parameters()))
    assert twin.series["lr"].y[-1] == run.series["lr"].y[-1] < 0.05


def test_reset_begins_again_and_gives_the_same() -> None:
    run = live(0)
    run.step(20)
    run.wait(10)
    run.set(lr_scale=3.0)
    run.reset()
    assert (run.status, run.state.step, len(run.history)) == ("ready", 0, 0)
    run.start()
    run.wait(20)
    assert_same_run(run, alone(0))


def test_a_change_holds_from_the_next_step_and_is_marked() -> None:
    run = live(0)
    run.step(9)
    run.wait(10)
    run.set(lr_scale=0.1, dropout=0.0)
    run.start()
    run.wait(20)
    rates = run.history.column("lr")
    assert rates[8] == pytest.approx(0.05)
    assert rates[9] == pytest.approx(0.005)
    assert [(mark.x, mark.text) for mark in run.marks] == [(10, "rate 0.005"), (10, "dropout 0")]


def test_the_batch_size_changes_with_the_next_epoch() -> None:
    run = live(0)
    run.step(3)
    run.wait(10)
    run.set(batch_size=30)
    run.start()
    run.wait(20)
    rows = run.history.column("samples")
    assert rows[:12] == [8] * 11 + [2]
    assert set(rows[12:]) == {30}
    assert [(mark.x, mark.text) for mark in run.marks] == [(13, "batch size 30")]


def test_a_rewind_past_a_change_undoes_it() -> None:
    run = live(0)
    run.step(12)
    run.wait(10)
    run.set(lr_scale=5.0)
    run.step(10)
    run.wait(10)
    run.rewind(10)
    assert run.state.controls.lr_scale == 1.0
    assert run.marks == []
    run.start()
    run.wait(20)
    assert_same_run(run, alone(0))


def test_kept_points_are_thinned() -> None:
    run = live(0, keep_every=2, keep=4)
    run.drain()
    points = run.kept[:-1]
    assert len(points) <= 5
    assert points[0] == 0
    assert len({late - early for early, late in pairwise(points[1:])}) <= 2


def test_what_goes_wrong_is_said_and_the_state_is_whole() -> None:
    def loss_fn(model: torch.nn.Module, batch: Any) -> torch.Tensor:
        return mean_ce(model, batch) * broken

    state, loader = parts(0)
    run = LiveRun(state, loader, loss_fn, CONFIG, valid=valid())
    broken = 1.0
    run.step(5)
    run.wait(10)
    broken = float("nan")
    run.start()
    run.wait(20)
    assert run.status == "failed"
    assert "the loss at step 6 is nan" in run.error
    broken = 1.0
    run.start()
    run.wait(20)
    assert (run.status, run.error) == ("finished", "")
    assert_same_run(run, alone(0))


def test_an_observer_that_fails_is_said() -> None:
    def broken(event: tl.Event) -> None:
        raise ValueError("no such file")

    run = live(0, observers=[broken])
    run.start()
    run.wait(10)
    assert (run.status, run.error) == ("failed", "ValueError: no such file")


def test_a_picture_that_fails_does_not_end_the_run() -> None:
    run = live(0)

    def broken(job: object) -> None:
        raise ValueError("no canvas")

    run.on_frame.append(broken)
    run.start()
    run.wait(20)
    assert run.status == "finished"
    assert "the picture could not be drawn (ValueError: no canvas)" in run.error


def test_a_second_run_of_one_state_stops_the_first() -> None:
    state, loader = parts(0)
    first = LiveRun(state, loader, mean_ce, CONFIG, valid=valid())
    first.pace = 0.002
    first.start()
    wait_for(lambda: state.step > 2)
    second = LiveRun(state, loader, mean_ce, CONFIG, valid=valid())
    at = state.step
    time.sleep(0.05)
    assert first.status == "stopped"
    assert state.step == at
    second.start()
    second.wait(20)
    assert torch.equal(next(state.model.parameters()), next(alone(0)[0].model.parameters()))


def test_a_state_trained_elsewhere_meanwhile_goes_on_from_there() -> None:
    run = live(0)
    run.step(5)
    run.wait(10)
    tl.seed_everything(3)
    tl.fit(run.state, run.loader, mean_ce, tl.TrainConfig(steps=20))
    run.start()
    run.wait(20)
    assert run.history.column("step")[5] == 21
    assert run.state.epoch == CONFIG.epochs


def test_an_interrupt_while_draining_leaves_a_whole_state() -> None:
    def interrupt(event: tl.Event) -> None:
        if isinstance(event, tl.Step) and event.step == 11 and not run.state.applied.weight_decay:
            run.observers.clear()
            raise KeyboardInterrupt

    run = live(0)
    run.observers.append(interrupt)
    with pytest.raises(KeyboardInterrupt):
        run.drain()
    assert run.status == "paused"
    run.start()
    run.wait(20)
    assert_same_run(run, alone(0))


def test_an_interrupt_of_the_kernel_pauses_every_run() -> None:
    runs = [live(seed) for seed in (0, 1)]
    for run in runs:
        run.pace = 0.002
        run.start()
    wait_for(lambda: all(run.state.step > 1 for run in runs))
    DRAINER.pause_all()
    wait_for(lambda: all(run.status == "paused" for run in runs))
    for seed, run in enumerate(runs):
        run.start()
        run.wait(20)
        assert_same_run(run, alone(seed))


def test_stop_comes_within_thirty_milliseconds() -> None:
    delays = []
    for _ in range(9):
        run = live(0)
        run.config = tl.TrainConfig(epochs=5000)
        run.start()
        wait_for(lambda run=run: run.state.step > 20)
        began = time.perf_counter()
        run.stop()
        delays.append(time.perf_counter() - began)
    assert sorted(delays)[4] < 0.03


def test_frames_come_at_most_ten_times_a_second() -> None:
    run, frames = live(0), []
    run.config = tl.TrainConfig(epochs=100_000)
    run.on_frame.append(lambda job: frames.append(time.monotonic()))
    run.start()
    time.sleep(1.05)
    run.stop()
    gaps = [late - early for early, late in pairwise(frames)]
    assert 6 <= len(frames) <= 13
    assert sorted(gaps)[len(gaps) // 2] >= 0.09


def test_a_series_keeps_its_shape_in_few_points() -> None:
    series = Series(limit=100)
    for step in range(1, 10_001):
        series.add(step, 1 / step)
    assert 50 <= len(series) <= 101
    assert series.x[-1] == pytest.approx(10_000, rel=0.02)
    assert (series.x[1:] > series.x[:-1]).all()
    expected = sum(1 / k for k in range(1, 10_001)) / 10_000
    assert series.y.mean() == pytest.approx(expected, rel=0.02)
    series.cut(500)
    assert series.x[-1] <= 500
    series.add(501, 3.0)
    assert series.y[-1] == 3.0


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda run: live(0, keep_every=0), "keep_every=0, keep=24: keep 2 points or more"),
        (lambda run: run.set(lr_scale=-1), r"controls.lr_scale=-1 is outside \[0, inf\)"),
        (lambda run: run.set(batch_size=0), "batch_size=0 is not a whole number from 1 on"),
        (lambda run: run.set(speed=3), "'speed'"),
        (lambda run: LiveRun(run.state, 3, mean_ce, CONFIG), "loader is a int, not batches"),
    ],
)
def test_wrong_calls_are_answered_at_once(call: Callable[[LiveRun], Any], message: str) -> None:
    with pytest.raises((tl.TrainlabError, TypeError), match=message):
        call(live(0))


def test_a_fixed_loader_refuses_another_batch_size() -> None:
    state, loader = parts(0)
    run = LiveRun(state, list(loader), mean_ce, CONFIG)
    with pytest.raises(tl.TrainlabError, match="the batch size of this loader is fixed"):
        run.set(batch_size=4)


def test_before_the_first_kept_point_there_is_no_way_back() -> None:
    run = live(0)
    run.step(20)
    run.wait(10)
    late = run.fork()
    with pytest.raises(tl.TrainlabError, match="step 10 is before the run's first, 20"):
        late.fork(10)
