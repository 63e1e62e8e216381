"""Panels without a browser: `run` is real training, and the buttons do what they say."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import trainlab as tl
from trainlab.widgets.panels import augmentation_desk, material, split_and_seal
from trainlab.widgets.panels.signal import signal
from trainlab.widgets.panels.split_and_seal import CASES
from trainlab.widgets.sliders import Slider, rates

PANELS: dict[str, Callable[[], Any]] = {
    "first run": lambda: tl.panels.FirstRun(),
    "curves": lambda: tl.panels.LoopAndCurves(),
    "losses": lambda: tl.panels.LossLab(),
    "race": lambda: tl.panels.OptimizerRace(),
    "schedules": lambda: tl.panels.ScheduleBoard(),
    "desk": lambda: tl.panels.AugmentationDesk(),
    "signal": lambda: tl.panels.SignalLab(),
    "rescue": lambda: tl.panels.Rescue(),
    "kill": lambda: tl.panels.KillAndResume(),
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
        lambda: tl.panels.AugmentationDesk().run(turn=15, brightness=0.3, blend="cutmix", steps=20),
        lambda: tl.panels.RateLab().run(view="range", steps=30),
        lambda: tl.panels.RateLab().run(view="schedule", epochs=1),
        lambda: tl.panels.RateLab().run(view="sweep", epochs=1),
        lambda: tl.panels.SignalLab().run(depth=4, norm="batch", residual=True),
        lambda: tl.panels.SplitAndSeal().run(data="credit defaults"),
        lambda: tl.panels.Rescue().run(dropout=0.5, drop_connect=0.2, epochs=3, unseal=True),
        lambda: tl.panels.KillAndResume().run(kill_at=30, without=["optimizer", "generators"]),
        lambda: tl.panels.MemoryBudget().run(model="ResNet", width=8, depth=2, rows=4, checkpointing=True),
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


def rescued(**settings: Any) -> tuple[Any, dict[str, Any]]:
    panel = tl.panels.Rescue()
    return panel, panel.run(epochs=20, seed=2, unseal=True, **settings)


def by_hand(
    *, dropout: float = 0.0, drop_connect: float = 0.0, weight_decay: float = 0.0, smoothing: float = 0.0
) -> Any:
    """The network of the rescue panel, trained without the panel: 200 digits, a quarter of them false."""
    rows = material.few_digits(200, 0.25, 2)
    tl.seed_everything(2)
    first = tl.models.DropConnect(196, 128, p=drop_connect)
    last = tl.models.DropConnect(128, 10, p=drop_connect)
    drop = torch.nn.Dropout(dropout)
    model = torch.nn.Sequential(torch.nn.Flatten(), first, torch.nn.ReLU(), drop, last)
    groups = [{"params": [first.weight, last.weight], "weight_decay": weight_decay}]
    groups.append({"params": [first.bias, last.bias], "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(groups, 3e-3)
    for epoch in range(20):
        for x, y in tl.make_loader(rows, 50, seed=2, shuffle=True).batches(epoch):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y, label_smoothing=smoothing).backward()
            optimizer.step()
    return model


@pytest.mark.parametrize(
    "settings", [{}, {"dropout": 0.8}, {"drop_connect": 0.5}, {"weight_decay": 3.0}, {"smoothing": 0.2}]
)
def test_a_rescue_is_the_loop_by_hand(settings: dict[str, float]) -> None:
    panel, values = rescued(**settings)
    model = by_hand(**settings).eval()
    for got, expected in zip(panel.runs[0].state.model.parameters(), model.parameters()):
        torch.testing.assert_close(got, expected)
    x, y = material.small_digits().test.tensors
    with torch.no_grad():
        assert values["sealed"] == float(f"{(model(x).argmax(1) == y).double().mean():.3g}")


def test_few_digits_have_the_share_of_false_labels_that_was_asked_for() -> None:
    x, y = material.few_digits(200, 0.25, 5)
    truth_x, truth = material.few_digits(200, 0.0, 5)
    assert torch.equal(x, truth_x)
    assert (y != truth).sum() == 50
    assert set(y.tolist()) == set(range(10))
    seen = {tuple(image.flatten().tolist()) for image in material.small_digits().test.features}
    assert not seen & {tuple(image.flatten().tolist()) for image in x}, "a sealed digit was learned from"


def test_patience_ends_the_rescue_and_the_seal_scores_the_best_weights() -> None:
    panel = tl.panels.Rescue()
    values = panel.run(patience=5, unseal=True)
    run = panel.runs[0]
    losses = run.history.column("valid_loss")
    assert values["status"] == "stopped"
    assert len(losses) - losses.index(min(losses)) == 6, "five in a row without a better one"
    best = run.history.column("valid_accuracy")[losses.index(min(losses))]
    assert values["reported"] == float(f"{best:.3g}")
    assert best != run.history.column("valid_accuracy")[-1], "the last weights would have scored the same"


def test_the_seal_stays_closed_until_it_is_opened_and_counts() -> None:
    panel = tl.panels.Rescue()
    assert "sealed" not in panel.run(epochs=2)
    assert "sealed, 2,000: 0 (not opened)" in panel.text()
    panel.seal_button.click()
    assert panel.wait(20)
    assert panel.opened == 1
    assert "sealed digits say" in panel._status.value
    assert "Opened" not in panel._status.value
    panel.reset_button.click()
    panel.wait(20)
    assert "sealed, 2,000: 0 (not opened)" in panel.text(), "another run, another envelope"
    panel.seal_button.click()
    panel.wait(20)
    assert "there is nothing to score yet" in panel._status.value
    panel.sliders["epochs"].place = 0
    panel.wait(20)
    started(panel)
    panel.seal_button.click()
    panel.wait(20)
    assert "Opened 2 times" in panel._status.value


def test_a_rescue_taken_back_waits_anew() -> None:
    panel = started(tl.panels.Rescue())
    panel.back.place = 1
    panel.wait(20)
    run = panel.runs[0]
    assert run.state.step == 50
    panel.sliders["patience"].place = 2
    panel.sliders["dropout"].place = 3
    panel.wait(20)
    started(panel)
    assert [mark.text for mark in run.marks] == ["dropout 0.8"]
    assert run.state.model[3].p == 0.8
    assert run.status in ("finished", "stopped")
    panel.back.place = 1
    panel.wait(20)
    assert panel.sliders["dropout"].value == 0, "the control goes back with the run"


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
        (lambda: tl.panels.AugmentationDesk().run(flip="upwards"), "unknown flip 'upwards'"),
        (lambda: tl.panels.AugmentationDesk().run(blend="mix"), "unknown blend 'mix'"),
        (lambda: tl.panels.AugmentationDesk().run(arriving="wet"), "unknown way to arrive 'wet'"),
        (lambda: tl.panels.AugmentationDesk().run(per_class=0), "per_class=0: take 1 to 200 digits"),
        (lambda: tl.panels.SignalLab().run(norm="bach"), "unknown norm 'bach': did you mean 'batch'"),
        (lambda: tl.panels.SignalLab().run(activation="swish"), "unknown activation 'swish'"),
        (lambda: tl.panels.SignalLab().run(scale=-1.0), r"scale=-1\.0 is not a number above 0"),
        (lambda: tl.panels.RateLab().run(view="rates"), "unknown view 'rates'"),
        (lambda: tl.panels.RateLab().run(view="range", optimizer="Lion"), "unknown optimizer 'Lion'"),
        (lambda: tl.panels.RateLab().run(view="sweep", optimizer="Lion"), "unknown optimizer 'Lion'"),
        (lambda: tl.panels.RateLab().run(view="sweep", model="GPT"), "unknown model 'GPT'"),
        (lambda: tl.panels.RateLab().run(view="schedule", schedule="sine"), "unknown schedule 'sine'"),
        (lambda: tl.panels.SplitAndSeal().run(data="wards"), "unknown data 'wards'"),
        (lambda: tl.panels.MemoryBudget().run(model="GPT"), "unknown model 'GPT'"),
        (lambda: tl.panels.MemoryBudget().run(optimizer="adam"), "unknown optimizer 'adam': did you mean"),
        (lambda: tl.panels.MemoryBudget().run(precision="fp8"), "unknown precision 'fp8'"),
        (lambda: tl.panels.MemoryBudget().run(model="CNN", checkpointing=True), "a CNN .* no checkpointing"),
        (
            lambda: tl.panels.MemoryBudget().run(width=4096, depth=24),
            r"a step of \d+\.\d GB is foretold only: choose less than 1\.0 GB",
        ),
        (lambda: tl.panels.SplitAndSeal().run(split="by patient"), "unknown split 'by patient'"),
        (lambda: tl.panels.SplitAndSeal().run(columns="age"), "unknown columns 'age'"),
        (lambda: tl.panels.SplitAndSeal().run(data="credit defaults", copies="yes"), "unknown copies 'yes'"),
        (
            lambda: tl.panels.SplitAndSeal().run(copies="after the split"),
            "is for the rare class of the credit",
        ),
        (
            lambda: tl.panels.SplitAndSeal().run(data="hotel prices", split="stratified"),
            "a price is no class",
        ),
        (lambda: tl.panels.SplitAndSeal().run(data="hotel prices", split="grouped"), "have no groups"),
        (lambda: tl.panels.SplitAndSeal().run(data="silhouettes", split="timed"), "have no time"),
        (lambda: tl.panels.Rescue().run(rows=5000), "there are 2800 digits to draw from"),
        (lambda: tl.panels.Rescue().run(false_labels=25), "false_labels=25 is not a share"),
        (lambda: tl.panels.Rescue().run(dropout=1.0), r"controls\.dropout=1\.0 is outside"),
        (lambda: tl.panels.Rescue().run(drop_connect=1.0), r"p=1\.0 is outside"),
        (lambda: tl.panels.Rescue().run(smoothing=1.0), "label_smoothing=1.0 is outside"),
        (lambda: rates(0, 1), "low=0, high=1: a log scale needs 0 < low < high"),
    ],
)
def test_wrong_settings_are_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(tl.TrainlabError, match=message):
        call()


def test_the_desk_trains_on_what_its_settings_say() -> None:
    """Against the same run by hand: the rows, the transform, the blend, the schedule."""
    from torchvision.transforms import v2

    values = tl.panels.AugmentationDesk().run(
        per_class=5, turn=30, flip="left-right", blend="mixup", steps=40
    )
    train, valid = material.digits()
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    labels = train.targets[order]
    rows = train.subset(torch.cat([order[labels == digit][:5] for digit in range(10)]))
    bilinear = v2.InterpolationMode.BILINEAR
    affine = v2.RandomAffine(30, translate=(0, 0), scale=(1, 1), interpolation=bilinear)
    tl.seed_everything(0)
    model = augmentation_desk.small_cnn()
    optimizer = torch.optim.Adam(model.parameters(), 0.005)
    state = tl.TrainState(model, optimizer, tl.schedules.warmup_cosine(optimizer, steps=40))
    loader = tl.make_loader(
        rows,
        20,
        seed=0,
        shuffle=True,
        augment=v2.Compose([affine, v2.RandomHorizontalFlip()]),
        mix=v2.MixUp(num_classes=10),
    )
    tl.fit(state, loader, tl.losses.classification(), tl.TrainConfig(steps=40))
    found = tl.evaluate(model, tl.make_loader(valid, 500, seed=0, shuffle=False), tl.losses.classification())
    assert values["valid_accuracy"] == float(f"{found['accuracy']:.2g}")
    with torch.no_grad():
        right = model(valid.features).argmax(1) == valid.targets
    assert values["digit_3"] == float(f"{right[valid.targets == 3].float().mean():.2g}")


@pytest.mark.parametrize("setting", [{"turn": 90}, {"move": 0.3}, {"zoom": 0.4}, {"brightness": 0.9},
                                     {"flip": "left-right"}, {"flip": "upside-down"}, {"blend": "mixup"},
                                     {"blend": "cutmix"}, {"per_class": 20}])  # fmt: skip
def test_every_setting_changes_what_the_network_is_shown(setting: dict[str, Any]) -> None:
    shown = [augmentation_desk.loader_of(augmentation_desk.Settings(**each), 0) for each in ({}, setting)]
    batches = [next(loader.batches(0)) for loader in shown]
    assert not torch.equal(batches[0][0], batches[1][0])
    again = next(augmentation_desk.loader_of(augmentation_desk.Settings(**setting), 0).batches(0))
    assert torch.equal(again[0], batches[1][0])


def test_digits_that_arrive_otherwise() -> None:
    plain, tilted, dim = (augmentation_desk.arriving(name) for name in augmentation_desk.ARRIVALS)
    torch.testing.assert_close(dim.features, 0.2 * plain.features)
    assert torch.equal(tilted.targets, plain.targets)
    assert (tilted.features - plain.features).abs().mean() > 0.02
    ink = [each.features.sum((1, 2, 3)) for each in (plain, tilted)]
    assert (ink[1] / ink[0]).mean() > 0.9  # turned, not cut off


def test_a_caption_names_a_class_or_the_two_of_a_blend() -> None:
    assert augmentation_desk.caption(torch.tensor(6)) == "6"
    assert augmentation_desk.caption(torch.tensor([0.0, 0.3, 0.7])) == "2 70 %, 1 30 %"
    assert augmentation_desk.caption(torch.tensor([0.0, 1.0, 0.0])) == "1"


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


# --- split and seal --------------------------------------------------------------------------------

CUTS = [
    (data, way, copies)
    for data in CASES
    for way in ("random", "stratified", "grouped", "timed")
    for copies in ("none", "after the split", "before the split")
]


@pytest.mark.parametrize("data, way, copies", CUTS)
def test_nothing_from_the_envelope_is_learned_from_or_held_back(data: str, way: str, copies: str) -> None:
    case = CASES[data]()
    try:
        cut = split_and_seal._cut(case, way, copies, 0)
    except tl.TrainlabError:
        return  # which ways there are, the wrong settings above say
    assert not case.sealed[cut.train].any()
    assert not case.sealed[cut.valid].any()
    assert set(cut.train.tolist()) | set(cut.valid.tolist()) == set(np.flatnonzero(~case.sealed).tolist())
    doubled = bool(set(cut.train.tolist()) & set(cut.valid.tolist()))
    assert doubled == (copies == "before the split")
    if way == "grouped" and case.groups is not None:
        assert not set(case.groups[cut.train].tolist()) & set(case.groups[cut.valid].tolist())
    if way == "timed" and case.time is not None:
        assert case.time[cut.train].max() < case.time[cut.valid].min()


def test_the_chapters_own_envelope_is_not_among_the_rows() -> None:
    visits = tl.load("pbcseq")
    sealed = np.random.default_rng(1).permutation(visits.groups.unique())[:104]
    assert not set(sealed.tolist()) & set(CASES["visits of patients"]().groups.tolist())


@pytest.mark.parametrize("way", ["random", "grouped"])
def test_a_forest_that_grows_is_the_forest_that_is_grown_at_once(way: str) -> None:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.metrics import roc_auc_score

    found = tl.panels.SplitAndSeal().run(split=way, seed=2)
    case = CASES["visits of patients"]()
    rows = np.flatnonzero(~case.sealed)
    given = {"groups": case.groups[rows]} if way == "grouped" else {}
    parts = tl.split(rows, (0.8, 0.2, 0), seed=2, **given)
    train, valid = (rows[part.numpy()] for part in parts.indices[:2])
    forest = RandomForestClassifier(40, random_state=2).fit(case.features[train], case.targets[train])
    for name, asked in {"reported": valid, "sealed": np.flatnonzero(case.sealed)}.items():
        chance = forest.predict_proba(case.features[asked])[:, 1]
        assert found[name] == round(roc_auc_score(case.targets[asked], chance), 2)
    assert found["straddling"] == len(set(case.groups[train].tolist()) & set(case.groups[valid].tolist()))


def test_a_random_split_promises_what_age_alone_cannot_hold() -> None:
    panel = tl.panels.SplitAndSeal()
    random = panel.run(columns="age alone")
    grouped = panel.run(columns="age alone", split="grouped")
    assert random["reported"] > 0.95
    assert abs(random["sealed"] - 0.5) < 0.15
    assert grouped["reported"] < 0.8
    assert grouped["straddling"] == 0 < random["straddling"]


def test_the_envelope_opens_after_training_and_is_spent_the_second_time() -> None:
    panel = tl.panels.SplitAndSeal()
    panel.open_button.click()
    panel.wait(20)
    assert "there is no finished forest to ask" in panel._status.value
    for count in (1, 2):
        panel.columns.value = "age alone" if count == 2 else "all"
        panel.wait(20)
        assert "SPENT" not in panel.text()
        started(panel)
        assert "the envelope: 0 (sealed)" in panel.text()
        panel.open_button.click()
        panel.open_button.click()  # it is open already: not counted again
        panel.wait(20)
        assert panel.openings["visits of patients"] == count
        assert ("SPENT: opened 2 times" in panel.text()) == (count == 2)
    assert "it is a validation part" in panel._status.value
    panel.way.value = "grouped"
    panel.wait(20)
    assert "sealed (SPENT: opened 2 times)" in panel.text()


def test_another_seed_is_another_cut_and_seals_the_envelope() -> None:
    panel = tl.panels.SplitAndSeal()
    first = panel.run(seed=0)
    panel.draws.place = 3
    panel.wait(20)
    assert "nothing trained yet" in panel.text()
    started(panel)
    moved = panel._cut
    assert round(panel.points[-1][1], 2) == tl.panels.SplitAndSeal().run(seed=3)["reported"]
    panel.run(seed=0)
    assert (panel.draws.value, panel.points[-1][1]) == (0, pytest.approx(first["reported"], abs=0.01))
    assert not np.array_equal(moved.valid, panel._cut.valid)


def test_other_data_bring_their_columns_their_strip_and_a_sealed_envelope() -> None:
    panel = tl.panels.SplitAndSeal()
    panel._repr_mimebundle_()
    started(panel)
    panel.data.value = "hotel prices"
    panel.wait(20)
    assert panel.columns.options == ("all", "without the date")
    assert [name for name, strip in panel.strips.items() if strip.layout.display != "none"] == [
        "hotel prices"
    ]
    assert "nothing trained yet" in panel.text()
    panel.way.value = "grouped"
    panel.start_button.click()
    panel.wait(20)
    assert "these rows have no groups" in panel._status.value


def test_misprints_are_of_prices_alone() -> None:
    runs = [tl.panels.LossLab().run(on="defaults", misprints=share, steps=5) for share in (0.0, 0.02)]
    assert runs[0] == runs[1]
    prices = [tl.panels.LossLab().run(misprints=share, steps=5) for share in (0.0, 0.02)]
    assert prices[0] != prices[1]


# --- kill and resume -------------------------------------------------------------------------------


@pytest.mark.parametrize("kill_at", [20, 67, 159])
def test_a_run_that_was_killed_and_kept_everything_is_the_same(kill_at: int) -> None:
    panel = tl.panels.KillAndResume()
    values = panel.run(kill_at=kill_at, seed=1)
    assert values["same"] and values["apart"] == 0 and values["first_difference"] == 0
    assert values["loss_killed"] == values["loss_never_killed"]
    tl.seed_everything(1)
    model = tl.models.MLP(64, [64], 10, dropout=0.5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    state = tl.TrainState(model, optimizer, tl.schedules.warmup_cosine(optimizer, steps=160, warmup=16))
    rows = tl.split(tl.load("digits"), seed=0, stratify=True).train
    batches = tl.make_loader(rows, 32, seed=1, shuffle=True)
    tl.fit(state, batches, tl.losses.classification(), tl.TrainConfig(steps=160))
    for got, expected in zip(panel.runs[1].state.model.parameters(), model.parameters()):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("piece", ["weights", "optimizer", "schedule", "generators", "place in the epoch"])
def test_without_any_one_piece_it_is_another_run_from_the_checkpoint_on(piece: str) -> None:
    values = tl.panels.KillAndResume().run(kill_at=67, without=[piece])
    assert not values["same"] and values["apart"] > 0
    assert values["first_difference"] in (61, 62)  # saved at step 60; the next rate is the optimizer's


def test_kill_by_hand_goes_on_from_the_last_checkpoint() -> None:
    panel = tl.panels.KillAndResume()
    panel.pace = 0.0
    panel.kill_button.click()
    assert panel.wait(30)
    assert "nothing is saved before step 20" in panel._status.value
    for _ in range(25):
        panel.step_button.click()
        assert panel.wait(30)
    panel.kill_button.click()
    assert panel.wait(30)
    assert panel.runs[1].state.step == 20 and panel.runs[0].state.step == 25
    assert "Killed after step 25, went on from step 20 with everything." in panel._status.value
    assert "the same to the last bit" in panel._status.value
    panel.boxes["schedule"].value = False
    panel.kill_button.click()
    started(panel)
    assert "without: schedule." in panel.sentence() and "apart" in panel.sentence()
    assert panel.runs[1].state.step == 160 and not panel.outcome()["same"]


def test_what_cannot_be_killed_is_told() -> None:
    panel = tl.panels.KillAndResume()
    with pytest.raises(tl.TrainlabError, match=r"kill_at=160 is outside \[20, 160\): choose 90"):
        panel.run(kill_at=160)
    with pytest.raises(tl.TrainlabError, match="unknown piece 'optimiser': did you mean 'optimizer'"):
        panel.run(without=["optimiser"])


# --- memory budget ------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["MLP", "CNN", "ResNet", "Transformer"])
def test_the_panel_foretells_what_a_real_step_needs(model: str) -> None:
    found = tl.panels.MemoryBudget().run(model=model, width=64, depth=2, rows=8, length=32)
    assert found["foretold"] == pytest.approx(found["measured"], rel=0.15)
    assert found["parts"]["optimizer state"] == pytest.approx(2 * found["parts"]["gradients"], abs=0.2)


def test_what_is_too_large_to_measure_is_foretold() -> None:
    found = tl.panels.MemoryBudget().run(width=1024, depth=24, rows=64, length=1024, measure=False)
    assert found["measured"] is None
    assert found["foretold"] > 10_000


def test_the_budget_follows_the_controls_and_a_measurement_is_gone_when_they_move() -> None:
    panel = tl.panels.MemoryBudget()
    panel.run(model="MLP", width=32, depth=1, rows=8)
    assert "Measured" in panel.sentence()
    foretold = panel.bars["foretold"].text()
    panel.sliders["rows"].place += 3
    assert panel.wait(60)
    assert panel.found is None
    assert panel.bars["foretold"].text() != foretold
    assert "Measure takes a real step" in panel.sentence()
    started(panel)
    assert "the budget is off by" in panel.sentence()
    panel.choices["model"].value = "CNN"
    panel.choices["checkpointing"].value = "yes"
    assert panel.wait(60)
    assert "a CNN of tl.models has no checkpointing" in panel._status.value
