"""The history: rows in, columns out, whatever the device took its time over."""

from __future__ import annotations

import csv
import gc
import json
import math
import weakref
from typing import Any

import pytest
import torch
from core.runs import make_state, mean_ce, table

import trainlab as tl


def step(number: int, loss: Any = 1.0, **metrics: Any) -> tl.Step:
    return tl.Step(number, 1, loss, 0.1, None, 0.01, 8, metrics, 100)


def recorded() -> tl.History:
    history = tl.History()
    history.append(step(1, torch.tensor(0.5), accuracy=torch.tensor(0.25)))
    history.append(tl.Validation(1, 1, {"loss": 0.75, "accuracy": 0.5}))
    history.append(tl.Changed(2, "lr_scale", 0.5))
    history.append(step(2, 0.375, accuracy=0.5))
    return history


def test_columns_are_read_by_name_and_kind() -> None:
    history = recorded()
    assert len(history) == 4
    assert history.column("loss") == [0.5, 0.375]
    assert history.column("accuracy") == [0.25, 0.5]
    assert history.column("valid_accuracy") == [0.5]
    assert history.column("step") == [1, 2]
    assert history.column("step", event="validation") == [1]
    assert history.column("value") == [0.5]
    assert "total" not in history.rows[0]
    assert repr(history) == "History(2 steps, 1 validations, valid_loss=0.7500, valid_accuracy=0.5000)"
    assert repr(tl.History()) == "History(empty)"
    assert tl.History().column("loss") == []


def test_frame_csv_and_json_say_the_same(tmp_path: Any) -> None:
    history = recorded()
    frame = history.frame()
    assert list(frame["event"]) == ["step", "validation", "changed", "step"]
    assert frame["loss"].dropna().tolist() == [0.5, 0.375]
    history.to_json(tmp_path / "new folder" / "run.json")
    assert json.loads((tmp_path / "new folder" / "run.json").read_text()) == history.rows
    history.to_csv(tmp_path / "run.csv")
    with (tmp_path / "run.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["loss"] for row in rows] == ["0.5", "", "", "0.375"]
    again = tl.History()
    again.load_state_dict(history.state_dict())
    assert again.rows == history.rows
    again.append(step(3))
    assert len(history) == 4


def test_what_json_cannot_say_is_null(tmp_path: Any) -> None:
    history = tl.History()
    history.append(tl.Validation(1, 1, {"loss": math.nan, "worst": math.inf}))
    history.to_json(tmp_path / "run.json")

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    rows = json.loads((tmp_path / "run.json").read_text(), parse_constant=refuse)
    assert rows[0]["valid_loss"] is None
    assert rows[0]["valid_worst"] is None
    assert math.isnan(history.column("valid_loss")[0])


def test_going_back_drops_what_no_longer_counts() -> None:
    history = recorded()
    history.append(step(3))
    history.append(tl.Validation(3, 1, {"loss": 9.0}))
    history.append(tl.Restarted(1, 1))
    assert [(row["event"], row["step"]) for row in history.rows] == [
        ("step", 1),
        ("validation", 1),
        ("restarted", 1),
    ]


def test_tensors_are_read_late_in_order_and_all_at_once() -> None:
    history = tl.History()
    for number in range(1, 601):
        history.append(step(number, torch.tensor(float(number)) if number % 3 else float(number)))
    assert history.column("loss") == [float(number) for number in range(1, 601)]
    assert len(history) == 600


def test_nothing_of_a_step_is_kept_alive() -> None:
    graphs: list[Any] = []

    class Marked(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, x: torch.Tensor) -> torch.Tensor:
            big = torch.empty(1000)
            context.save_for_backward(big)
            graphs.append(weakref.ref(context))
            return x.clone()

        @staticmethod
        def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
            return gradient

    def loss_fn(model: Any, batch: Any) -> tl.Loss:
        total = Marked.apply(mean_ce(model, batch) * len(batch[0]))
        return tl.Loss(total, torch.tensor(len(batch[0])), {"own": total})

    state = make_state()
    seen: list[tl.Event] = []
    loader = tl.make_loader(table(80), 8, seed=0, shuffle=True)
    tl.fit(state, loader, loss_fn, tl.TrainConfig(epochs=1), observers=[seen.append])
    gc.collect()
    assert len(graphs) == len(seen) == 10
    assert not any(graph() is not None for graph in graphs)


def test_plot_history_draws_what_was_measured() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    ax = tl.plot_history(recorded())
    assert len(ax.lines) == 3
    assert ax.get_ylabel() == "loss (nats)"
    assert tl.plot_history(recorded(), ax, metric="accuracy") is ax
