"""Observers: each sees every event once, in the order that `fit` promises."""

from __future__ import annotations

import contextlib
import io
import json
import math
from typing import Any

import pytest
import torch
from core.runs import assert_same, make_state, mean_ce, network, table

import trainlab as tl
from trainlab import observers as observers_module


def validations(metric: str, values: list[float]) -> list[tl.Validation]:
    return [tl.Validation(k, k, {metric: value}) for k, value in enumerate(values, 1)]


@pytest.mark.parametrize(
    ("options", "metric", "values", "stops_at"),
    [
        ({"patience": 2}, "loss", [3, 2, 2, 1, 1, 1, 1], 6),
        ({"patience": 1}, "loss", [3, 3], 2),
        ({"patience": 2, "min_delta": 0.5}, "loss", [3, 2.6, 2.4, 2.3, 2.2], 5),
        ({"patience": 2, "metric": "accuracy"}, "accuracy", [0.1, 0.2, 0.2, 0.1], 4),
        ({"patience": 2, "metric": "accuracy", "mode": "min"}, "accuracy", [0.1, 0.2, 0.2], 3),
        ({"patience": 2, "metric": "val_error"}, "val_error", [1, 2, 0.5, 1, 1], 5),
        ({"patience": 2}, "loss", [math.nan, 1, math.nan, math.nan], 4),
        ({"patience": 3}, "loss", [math.nan, math.nan, math.nan], 3),
        ({"patience": 2}, "loss", [3, 2, 1, 0, -1], None),
    ],
)
def test_early_stopping(options: Any, metric: str, values: list[float], stops_at: int | None) -> None:
    patience = tl.EarlyStopping(**options)
    answers = [patience(event) for event in validations(metric, values)]
    stopped = [k for k, answer in enumerate(answers, 1) if answer is tl.STOP]
    assert (stopped[0] if stopped else None) == stops_at
    assert patience(tl.Changed(1, "dropout", 0.1)) is None


def test_best_model_restores_the_weights_of_the_best_validation() -> None:
    state = make_state()
    best = tl.BestModel(state)
    kept: dict[int, Any] = {}

    def keep(event: tl.Event) -> None:
        if isinstance(event, tl.Validation):
            kept[event.step] = {name: value.clone() for name, value in state.model.state_dict().items()}

    loader = tl.make_loader(table(40), 8, seed=0, shuffle=True)
    valid = tl.make_loader(table(30, seed=4), 16, seed=0, shuffle=False)
    tl.fit(state, loader, mean_ce, tl.TrainConfig(epochs=6), valid=valid, observers=[keep, best])
    losses = state.history.column("valid_loss")
    assert best.best == min(losses)
    assert best.step == state.history.column("step", event="validation")[losses.index(min(losses))]
    best.restore()
    assert_same(dict(state.model.state_dict()), kept[best.step])


def test_order_stop_and_close() -> None:
    calls: list[str] = []

    class Watcher:
        def __init__(self, name: str, answer: object = None, last: bool = False) -> None:
            self.name, self.answer, self.runs_last = name, answer, last

        def __call__(self, event: tl.Event) -> object:
            calls.append(f"{self.name} {len(state.history)}")
            return self.answer if event.step == 2 else None

        def close(self) -> None:
            calls.append(f"{self.name} closed")

    state = make_state()
    watchers = [Watcher("last", last=True), Watcher("first", answer=tl.STOP), Watcher("second")]
    loader = tl.make_loader(table(40), 8, seed=0, shuffle=True)
    tl.fit(state, loader, mean_ce, tl.TrainConfig(epochs=6), observers=watchers)
    assert calls == [
        *("first 1", "second 1", "last 1", "first 2", "second 2", "last 2"),
        *("first closed", "second closed", "last closed"),
    ]
    assert state.step == 2


def test_observers_are_closed_when_the_run_fails() -> None:
    closed: list[int] = []

    class Watcher:
        def __call__(self, event: tl.Event) -> None:
            raise ValueError("no")

        def close(self) -> None:
            closed.append(1)

    state = make_state()
    loader = tl.make_loader(table(40), 8, seed=0, shuffle=True)
    config = tl.TrainConfig(epochs=1)
    with pytest.raises(tl.TrainlabError, match=r"observer Watcher failed at step 1 \(ValueError: no\)"):
        tl.fit(state, loader, mean_ce, config, observers=[Watcher()])
    assert closed == [1]
    tl.fit(state, loader, mean_ce, config)
    assert state.history.column("step") == [1, 2, 3, 4, 5]


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def read(path: Any) -> list[dict[str, Any]]:
    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def test_json_lines_hold_each_step_once(tmp_path: Any) -> None:
    path = tmp_path / "folder" / "run.jsonl"
    loader = tl.make_loader(table(40), 8, seed=0, shuffle=True)
    given: dict[str, Any] = {
        "config": tl.TrainConfig(epochs=2, validate_every=3),
        "valid": tl.make_loader(table(30, seed=4), 16, seed=0, shuffle=False),
    }
    whole = make_state()
    tl.fit(whole, loader, mean_ce, **given, observers=[tl.JsonLines(path)])
    expected = [{k: v for k, v in row.items() if k != "seconds"} for row in whole.history.rows]

    def timeless() -> list[dict[str, Any]]:
        return [{k: v for k, v in row.items() if k not in ("seconds", "total")} for row in read(path)]

    assert timeless() == expected
    # a crash left a torn line, and the run goes on from an earlier step
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:9]) + lines[9][:20])
    state = make_state()
    stop = lambda event: tl.STOP if event.step == 5 else None  # noqa: E731
    tl.fit(state, loader, mean_ce, **given, observers=[stop])
    tl.fit(state, loader, mean_ce, **given, observers=[tl.JsonLines(path)])
    assert timeless() == expected
    # the last good place lies between a step and its validation
    again = tl.JsonLines(path)
    again(tl.Validation(3, 1, {"loss": math.nan}))
    again.close()
    found = read(path)
    assert [(row["event"], row["step"]) for row in found] == [
        ("step", 1),
        ("step", 2),
        ("step", 3),
        ("validation", 3),
    ]
    assert found[-1]["valid_loss"] is None


def test_json_lines_follow_a_run_that_goes_back(tmp_path: Any) -> None:
    lines = tl.JsonLines(tmp_path / "run.jsonl")
    for number in (1, 2, 3):
        lines(tl.Step(number, 1, torch.tensor(0.5), 0.1, None, 0.0, 8))
    lines(tl.Restarted(1, 1))
    lines(tl.Step(2, 1, 0.25, 0.1, None, 0.0, 8))
    lines.close()
    assert [(row["event"], row["step"]) for row in read(tmp_path / "run.jsonl")] == [
        ("step", 1),
        ("restarted", 1),
        ("step", 2),
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_counts_to_the_total_and_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRAINLAB_UNATTENDED", raising=False)
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    bar = tl.Progress(refresh=0.0)
    assert bar.enabled
    for number in (1, 2, 3):
        bar(tl.Step(number, 1, 0.5, 0.1, None, 0.0, 8, {}, 7))
    bar(tl.Validation(3, 1, {"accuracy": 0.25}))
    assert (bar._bar.n, bar._bar.total) == (3, 7)
    bar(tl.Restarted(1, 1))
    bar(tl.Step(2, 1, 0.5, 0.1, None, 0.0, 8, {}, 7))
    assert bar._bar.n == 2
    bar.close()
    text = screen.getvalue()
    assert "3/7" in text
    assert "loss 0.5" in text
    assert "valid accuracy 0.25" in text


def test_progress_goes_on_where_the_run_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", io.StringIO())
    bar = tl.Progress(enabled=True)
    bar(tl.Step(41, 1, 0.5, 0.1, None, 0.0, 8, {}, 50))
    assert (bar._bar.initial, bar._bar.n) == (40, 41)
    bar.close()


@pytest.mark.parametrize(
    ("unattended", "terminal", "enabled"), [("1", True, False), ("", False, False), ("", True, True)]
)
def test_progress_is_silent_when_nobody_watches(
    unattended: str, terminal: bool, enabled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAINLAB_UNATTENDED", unattended)
    screen = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(observers_module.sys, "stderr", screen)
    monkeypatch.delitem(observers_module.sys.modules, "ipykernel", raising=False)
    bar = tl.Progress()
    bar(tl.Step(1, 1, 0.5, 0.1, None, 0.0, 8, {}, 7))
    bar.close()
    assert bar.enabled is enabled
    assert bool(screen.getvalue()) is enabled


def test_an_observer_that_is_saved_goes_on_in_its_place() -> None:
    state = make_state()
    loader = tl.make_loader(table(40), 8, seed=0, shuffle=True)
    given: dict[str, Any] = {"valid": tl.make_loader(table(30, seed=4), 16, seed=0, shuffle=False)}
    first = tl.EarlyStopping(patience=50, min_delta=100.0)
    tl.fit(state, loader, mean_ce, tl.TrainConfig(epochs=3), observers=[first], **given)
    again = tl.EarlyStopping(patience=50, min_delta=100.0)
    tl.fit(state, loader, mean_ce, tl.TrainConfig(epochs=5), observers=[again], **given)
    assert (first.waited, again.waited, again.best) == (2, 4, first.best)


def test_count_parameters_counts_shared_weights_once() -> None:
    model = network(norm=False)
    assert tl.count_parameters(model) == 6 * 16 + 16 + 16 * 3 + 3
    model.tied = model[0]
    model[4].weight.requires_grad_(False)
    assert tl.count_parameters(model) == 163
    assert tl.count_parameters(model, trainable_only=True) == 163 - 48


def test_what_was_seen_of_another_metric_does_not_count() -> None:
    state = make_state()
    first = [tl.EarlyStopping(metric="loss"), tl.BestModel(state, metric="loss")]
    second = [tl.EarlyStopping(metric="accuracy"), tl.BestModel(state, metric="accuracy")]
    for event in (tl.Validation(1, 1, {"loss": 0.5, "accuracy": 0.1}), tl.Validation(2, 2, {"loss": 0.9})):
        for observer in first:
            observer(event)
    for before, after in zip(first, second):
        after.load_state_dict(before.state_dict())
        assert after.best is None
        after(tl.Validation(3, 3, {"accuracy": 0.2}))
        assert after.best == 0.2


@pytest.mark.parametrize("ending", ["stop", "error"])
def test_a_bar_is_full_where_the_run_was_stopped_on_purpose(
    ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def end(event: tl.Event) -> object:
        if event.step == 3 and ending == "error":
            raise ValueError("no")
        return tl.STOP if event.step == 3 else None

    loader = tl.make_loader(table(40), 8, seed=0, shuffle=True)
    with contextlib.suppress(tl.TrainlabError):
        tl.fit(
            make_state(),
            loader,
            mean_ce,
            tl.TrainConfig(epochs=2),
            observers=[tl.Progress(enabled=True), end],
        )
    last = capsys.readouterr().err.rstrip().rpartition("\r")[2]
    assert ("3/3 [" if ending == "stop" else "3/10 [") in last
