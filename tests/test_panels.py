"""Panels without a browser: `run` is real training, and the buttons do what they say."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

import trainlab as tl
from trainlab.widgets.panels import material
from trainlab.widgets.panels.signal import signal
from trainlab.widgets.sliders import Slider, rates

PANELS: dict[str, Callable[[], Any]] = {
    "first run": lambda: tl.panels.FirstRun(),
    "curves": lambda: tl.panels.LoopAndCurves(),
    "losses": lambda: tl.panels.LossLab(),
    "race": lambda: tl.panels.OptimizerRace(),
    "schedules": lambda: tl.panels.ScheduleBoard(),
    "signal": lambda: tl.panels.SignalLab(),
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def started(panel: Any) -> Any:
    panel.start_button.click()
    assert panel.wait(60)
    return panel


# --- run() -----------------------------------------------------------------------------------------


def test_a_first_run_is_what_fit_gives() -> None:
    values = tl.panels.FirstRun().run(lr=0.05, epochs=1, seed=3)
    train, valid = material.digits()
    tl.seed_everything(3)
    model = tl.models.MLP(784, [64], 10)
    state = tl.TrainState(model, torch.optim.SGD(model.parameters(), 0.05))
    loader = tl.make_loader(train, 64, seed=3, shuffle=True)
    tl.fit(state, loader, tl.losses.classification(), tl.TrainConfig(epochs=1))
    found = tl.evaluate(model, tl.make_loader(valid, 500, seed=0, shuffle=False), tl.losses.classification())
    assert values["step"] == 55
    assert values["valid_loss"] == float(f"{found['loss']:.3g}")
    assert values["valid_accuracy"] == float(f"{found['accuracy']:.3g}")


@pytest.mark.parametrize(
    "call",
    [
        lambda: tl.panels.FirstRun().run(epochs=1),
        lambda: tl.panels.LoopAndCurves().run(rows=100, epochs=2),
        lambda: tl.panels.LossLab().run(loss="half MSE, half L1", steps=20),
        lambda: tl.panels.LossLab().run(on="defaults", smoothing=0.1, steps=20),
        lambda: tl.panels.OptimizerRace().run(steps=20),
        lambda: tl.panels.OptimizerRace().run(on="digits", optimizers=["Adam"], steps=5),
        lambda: tl.panels.RateLab().run(view="range", steps=30),
        lambda: tl.panels.RateLab().run(view="schedule", epochs=1),
        lambda: tl.panels.RateLab().run(view="sweep", epochs=1),
        lambda: tl.panels.SignalLab().run(depth=4, norm="batch", residual=True),
    ],
)
def test_run_gives_plain_values_twice_the_same_and_leaves_randomness_alone(call: Callable[[], Any]) -> None:
    torch.manual_seed(11)
    first = call()
    drawn = torch.rand(2)
    torch.manual_seed(11)
    assert torch.equal(torch.rand(2), drawn)
    assert json.loads(json.dumps(first)) is not None
    assert call() == first


def test_random_labels_are_learned_by_heart() -> None:
    values = tl.panels.LoopAndCurves().run(rows=200, random_labels=1.0, epochs=80)
    assert values["again_accuracy"] > 0.97
    assert values["valid_accuracy"] < 0.25


def test_measured_again_is_below_what_was_logged() -> None:
    values = tl.panels.LoopAndCurves().run(rows=1000, epochs=1)
    assert values["logged"] > values["again_loss"] * 1.2


@pytest.mark.parametrize("name", ["SGD", "momentum", "Nesterov", "RMSprop", "Adam", "AdamW"])
def test_a_racer_goes_the_way_of_torch(name: str) -> None:
    race = tl.panels.OptimizerRace()
    race.run(on="bend", optimizers={name: 0.02}, steps=30)
    at = torch.tensor([-2.5, -0.5], requires_grad=True)
    options = {"momentum": {"momentum": 0.9}, "Nesterov": {"momentum": 0.9, "nesterov": True}}
    kind = "SGD" if name in ("SGD", "momentum", "Nesterov") else name
    optimizer = getattr(torch.optim, kind)([at], 0.02, **options.get(name, {}))
    for _ in range(30):
        optimizer.zero_grad()
        ((1 - at[0]) ** 2 / 4 + 4 * (at[1] + 1 - at[0] ** 2 / 2) ** 2).backward()
        optimizer.step()
    torch.testing.assert_close(race.runs[0].state.model.at.detach(), at.detach())


def test_a_racer_that_diverges_is_a_result() -> None:
    values = tl.panels.OptimizerRace().run(on="valley", optimizers={"SGD": 0.1, "Adam": 0.1})
    assert values["SGD"]["status"] == "diverged"
    assert values["Adam"]["status"] == "finished"


@pytest.mark.parametrize("quantile", [0.25, 0.9])
def test_the_lab_says_the_quantile_that_was_asked_for(quantile: float) -> None:
    assert tl.panels.LossLab().run(loss="pinball", quantile=quantile)["below"] == pytest.approx(
        quantile, abs=0.05
    )


def test_the_lab_says_what_each_loss_asks_for() -> None:
    lab = tl.panels.LossLab()
    sound, slipped = lab.run(loss="MSE"), lab.run(loss="MSE", misprints=0.02)
    deaf = lab.run(loss="L1", misprints=0.02)
    assert slipped["mean_said"] >= sound["mean_said"] + 10
    assert sound["below"] > 0.53 and slipped["below"] > 0.65
    assert deaf["below"] == pytest.approx(0.5, abs=0.05)
    wide, narrow = (lab.run(loss="Huber", delta=delta)["below"] for delta in (400.0, 1.0))
    assert wide > narrow
    plain, weighted = (lab.run(on="defaults", weight=weight) for weight in (1.0, 29.0))
    assert plain["mean_said"] == pytest.approx(plain["defaulted"], abs=0.01)
    assert weighted["mean_said"] > 4 * plain["mean_said"]
    assert weighted["found"] > plain["found"] + 0.4
    smoothed = lab.run(on="defaults", smoothing=0.2)
    assert smoothed["mean_said"] > 2 * plain["mean_said"] and smoothed["found"] < 0.1


def test_the_range_view_is_the_range_test() -> None:
    values = tl.panels.RateLab().run(view="range", model="MLP", optimizer="momentum")
    train, _ = material.digits()
    tl.seed_everything(0)
    model = material.MODELS["MLP"]()
    state = tl.TrainState(model, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9))
    loader = tl.make_loader(train, 64, seed=0, shuffle=True)
    report = tl.lr_range_test(state, loader, tl.losses.classification(), low=1e-5, high=30.0)
    assert values["suggestion"] == float(f"{report.suggestion:.2g}")


def test_the_sweep_view_finds_too_low_and_too_high() -> None:
    values = tl.panels.RateLab().run(view="sweep", epochs=1)
    losses = values["losses"]
    assert losses[values["best"]] == min(losses.values())
    assert min(losses) < values["best"] < max(losses)


def test_the_signal_lab_trains_the_network_that_it_names() -> None:
    values = tl.panels.SignalLab().run(depth=4, scale=2.0, lr=0.05, seed=3)
    train, valid = (make_whole(part) for part in material.digits())
    mean, std = train[0].mean(), train[0].std()
    tl.seed_everything(3)
    model = tl.models.DeepMLP(196, tl.models.widest(50_000, 196, 4, 10), 4, 10, scale=2.0)
    found = tl.activation_stats(model, (valid[0][:250] - mean) / std, of=tl.models.DeepLayer)
    assert values["spread"] == float(f"{found[-1].spread:.1g}")
    state = tl.TrainState(model, torch.optim.SGD(model.parameters(), 0.05))
    loader = tl.make_loader(((train[0] - mean) / std, train[1]), 64, seed=3, shuffle=True)
    tl.fit(state, loader, tl.losses.classification(), tl.TrainConfig(epochs=1))
    others = tl.make_loader(((valid[0] - mean) / std, valid[1]), 250, seed=0, shuffle=False)
    loss = tl.evaluate(model, others, tl.losses.classification())["loss"]
    assert values["valid_loss"] == pytest.approx(loss, rel=0.05)


def make_whole(part: tl.Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = next(iter(tl.make_loader(part, len(part), seed=0, shuffle=False)))
    return torch.nn.functional.avg_pool2d(x, 2), y


def test_the_signal_is_measured_without_a_trace() -> None:
    torch.manual_seed(0)
    model = tl.models.DeepMLP(6, 5, 3, 4, norm="batch", residual=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x, y = torch.randn(30, 6), torch.randint(4, (30,))
    forward, backward = signal(model, x, y)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    h = x.clone()
    outputs = [h := layer(h) for layer in model[1:-1]]
    loss = torch.nn.functional.cross_entropy(model[-1](h), y)
    gradients = torch.autograd.grad(loss, outputs)
    assert backward == pytest.approx([each.norm().item() for each in gradients], rel=1e-4)
    assert forward == pytest.approx([h.var(0, correction=0).mean().sqrt().item() for h in outputs], rel=1e-4)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: tl.panels.FirstRun().run(model="GPT"), "unknown model 'GPT'"),
        (lambda: tl.panels.LoopAndCurves().run(rows=10**6), "there are 3500 training rows"),
        (lambda: tl.panels.LossLab().run(on="hotels"), "unknown ground 'hotels'"),
        (lambda: tl.panels.LossLab().run(loss="L2"), "unknown loss 'L2'"),
        (lambda: tl.panels.LossLab().run(misprints=2), "misprints=2 is no share"),
        (lambda: tl.panels.LossLab().run(loss="pinball", quantile=90), "quantile=90 is outside"),
        (lambda: tl.panels.OptimizerRace().run(on="hill"), "unknown ground 'hill'"),
        (lambda: tl.panels.OptimizerRace().run(optimizers=["Adm"]), "unknown optimizer 'Adm'"),
        (lambda: tl.panels.SignalLab().run(norm="bach"), "unknown norm 'bach': did you mean 'batch'"),
        (lambda: tl.panels.SignalLab().run(activation="swish"), "unknown activation 'swish'"),
        (lambda: tl.panels.SignalLab().run(scale=-1.0), r"scale=-1\.0 is not a number above 0"),
        (lambda: tl.panels.RateLab().run(view="rates"), "unknown view 'rates'"),
        (lambda: tl.panels.RateLab().run(view="range", optimizer="Lion"), "unknown optimizer 'Lion'"),
        (lambda: tl.panels.RateLab().run(view="sweep", optimizer="Lion"), "unknown optimizer 'Lion'"),
        (lambda: tl.panels.RateLab().run(view="sweep", model="GPT"), "unknown model 'GPT'"),
        (lambda: tl.panels.RateLab().run(view="schedule", schedule="sine"), "unknown schedule 'sine'"),
        (lambda: rates(0, 1), "low=0, high=1: a log scale needs 0 < low < high"),
    ],
)
def test_wrong_settings_are_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(tl.TrainlabError, match=message):
        call()


# --- the buttons -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PANELS)
def test_showing_a_panel_starts_nothing(name: str) -> None:
    panel = PANELS[name]()
    panel._repr_mimebundle_()
    assert not any(job.busy for job in panel.jobs())
    assert all(not run.state.step for run in panel.runs)


def test_start_pause_go_back_and_fork() -> None:
    panel = tl.panels.FirstRun()
    panel.epochs = 2
    started(panel)
    run = panel.runs[0]
    assert (run.status, run.state.step) == ("finished", 110)
    assert "step 110 of 110" in panel._status.value
    assert panel.back.values[-1] == 110
    panel.back.place = 1
    panel.wait(20)
    assert (run.status, run.state.step) == ("paused", 50)
    panel.fork_button.click()
    panel.wait(20)
    assert [each.name for each in panel.runs] == ["run A", "run B"]
    panel.rate.place += 3
    started(panel)
    assert panel.runs[0].marks == []
    assert [mark.text for mark in panel.runs[1].marks] == [f"rate {panel.rate.value:.2g}"]
    assert panel.runs[0].series["loss"].y[-1] != panel.runs[1].series["loss"].y[-1]


def test_a_structural_control_begins_a_new_run_and_keeps_the_old_curve() -> None:
    panel = tl.panels.LoopAndCurves()
    panel.length.place = 0
    started(panel)
    first = panel.runs[0]
    panel.rows.place = 0
    panel.wait(20)
    assert panel.runs[0] is not first
    assert panel.runs[0].state.step == 0
    assert [curve.style for curve in panel.earlier[0]] == ["faint"] * 3


def test_a_race_that_is_begun_anew_leaves_the_curves_of_all_racers() -> None:
    race = tl.panels.OptimizerRace()
    race.run(on="valley", optimizers={"SGD": 0.03, "Adam": 0.1}, steps=20)
    race.reset_button.click()
    race.wait(20)
    assert [(curve.name, curve.style) for curve in race.earlier[0]] == [("SGD", "faint"), ("Adam", "faint")]
    shown = race.losses.frame["curves"]
    assert [each["style"] for each in shown[:2]] == ["faint", "faint"]


def test_a_loss_that_is_changed_in_a_run_moves_the_answer_of_that_run() -> None:
    lab = tl.panels.LossLab()
    lab.steps = 120
    lab.step_button.click()
    assert lab.wait(60)
    run, before = lab.runs[0], lab.price_pull.text()
    lab.loss.value = "pinball"
    assert lab.wait(60)
    assert lab.quantile.layout.display == "" and lab.price_pull.text() != before
    started(lab)
    assert lab.runs == [run] and run.state.step == 120
    assert run.values()["below"] > 0.75
    lab.quantile.place = 0
    lab.misprints.place = 2  # begins a new run
    lab.wait(60)
    assert lab.ask.quantile == 0.05 and lab.ask.misprints == 0.02 and lab.runs[0] is not run
    lab.on.value = "defaults"
    assert lab.wait(60)
    assert lab.runs[0].state.step == 0 and lab.charts()[0] is lab.defaults


def test_the_pulls_of_the_lab_are_those_of_torch() -> None:
    lab = tl.panels.LossLab()
    lab.run(loss="Huber", delta=20.0, steps=1)
    assert "Huber: 20 at 150" in lab.price_pull.text()
    lab.run(on="defaults", weight=3.0, steps=1)
    curves = lab.default_pull._data[0]
    logits = torch.tensor(curves[0].x, requires_grad=True)
    yes = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, torch.ones_like(logits), pos_weight=torch.tensor(3.0), reduction="sum"
    )
    torch.testing.assert_close(
        torch.tensor(curves[0].y), -torch.autograd.grad(yes, logits)[0], atol=1e-5, rtol=0
    )


def test_errors_are_said_in_the_panel() -> None:
    panel = tl.panels.OptimizerRace()
    for box in panel.boxes.values():
        box.value = False
    panel.wait(20)
    assert "no optimizer is chosen: tick one or more" in panel._status.value
    panel.boxes["SGD"].value = True
    panel.sliders["SGD"].place = len(panel.sliders["SGD"].values) - 1
    panel.wait(20)
    for run in panel.runs:
        run.pace = 0.0
    started(panel)
    assert "SGD: the loss at step" in panel._status.value


def test_forking_nothing_is_answered() -> None:
    panel = tl.panels.FirstRun()
    panel.fork_button.click()
    panel.wait(20)
    assert "there is nothing to fork yet" in panel._status.value


def test_the_views_of_the_lab_run_by_their_buttons() -> None:
    lab = tl.panels.RateLab()
    lab._repr_mimebundle_()
    started(lab.views["range"])
    assert "Suggested rate" in lab.views["range"]._status.value
    lab.views["sweep"].length.place = 0
    started(lab.views["sweep"])
    assert "16 rates in" in lab.views["sweep"]._status.value


def test_a_panel_has_a_picture_and_stable_text() -> None:
    texts = []
    for _ in range(2):
        panel = tl.panels.FirstRun()
        panel.run(epochs=1)
        bundle = panel._repr_mimebundle_()
        texts.append(bundle["text/plain"])
        assert bundle["image/png"].startswith(b"\x89PNG")
        assert len(bundle["image/png"]) < 120_000
    assert texts[0] == texts[1]
    assert "unseen digits" in texts[0]


def test_run_leaves_the_controls_where_its_settings_were() -> None:
    panel = tl.panels.OptimizerRace()
    panel.run(on="bend", optimizers={"Nesterov": 0.05}, steps=5, momentum=0.8)
    assert (panel.ground.value, panel.momentum.value, panel.sliders["Nesterov"].value) == ("bend", 0.8, 0.05)
    assert [name for name, box in panel.boxes.items() if box.value] == ["Nesterov"]
    assert panel.wait(5)
    assert [run.name for run in panel.runs] == ["Nesterov"], "nothing was begun anew"
    lab = tl.panels.RateLab()
    lab.run(view="schedule", schedule="linear", lr=0.1, epochs=1)
    board = lab.views["schedule"]
    assert (lab.tabs.value, board.shape.value, board.peak.value) == ("schedule", "linear", 0.1)


def test_closing_a_panel_stops_what_it_runs() -> None:
    panel = tl.panels.FirstRun()
    panel.epochs = 10_000
    panel.start_button.click()
    while not panel.runs or not panel.runs[0].state.step:
        pass
    panel.close()
    panel.wait(20)
    assert panel.runs[0].status == "stopped"


def test_a_slider_tells_of_persons_only() -> None:
    heard: list[float] = []
    slider = Slider("rate", rates(0.01, 1), 0.1)
    slider.on_move(heard.append)
    slider.move_to(0.5)
    slider.offer([1, 2, 3], 2)
    assert (heard, slider.value, slider.texts) == ([], 2, ["1", "2", "3"])
    slider.place = 2
    assert heard == [3]
