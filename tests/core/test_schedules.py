"""Schedules: the rate of every step against closed forms written anew here, and against torch's own."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from core.runs import assert_same_run, make_state, mean_ce, network, table
from torch.optim import lr_scheduler as torch_schedules

import trainlab as tl

PEAK = 0.05
S = tl.schedules
Make = Callable[[torch.optim.Optimizer], Any]


def optimizer_of(kind: type[torch.optim.Optimizer] = torch.optim.SGD, **options: Any) -> Any:
    return kind([torch.nn.Parameter(torch.zeros(2))], **({"lr": PEAK} | options))


def ramp(k: int, warmup: int) -> float | None:
    """Step k, counted from 0, of a warm-up."""
    return (k + 1) / warmup if k < warmup else None


# name -> (the schedule, its factor at step k counted from 0, as a formula of its own)
FORMS: dict[str, tuple[Make, Callable[[int], float]]] = {
    "constant": (lambda o: S.constant(o), lambda k: 1.0),
    "constant after warm-up": (lambda o: S.constant(o, warmup=4), lambda k: ramp(k, 4) or 1.0),
    "step": (lambda o: S.step(o, every=5, factor=0.5), lambda k: 0.5 ** math.floor(k / 5)),
    "step after warm-up": (
        lambda o: S.step(o, every=3, warmup=2),
        lambda k: ramp(k, 2) or 0.1 ** math.floor((k - 2) / 3),
    ),
    "linear": (lambda o: S.warmup_linear(o, steps=12), lambda k: max(0.0, 1 - k / 12)),
    "linear after warm-up": (
        lambda o: S.warmup_linear(o, steps=13, warmup=3, final=0.2),
        lambda k: ramp(k, 3) or max(0.2, 1 - 0.8 * (k - 3) / 10),
    ),
    "cosine": (
        lambda o: S.warmup_cosine(o, steps=14),
        lambda k: math.cos(math.pi / 2 * min(k, 14) / 14) ** 2,
    ),
    "cosine after warm-up": (
        lambda o: S.warmup_cosine(o, steps=14, warmup=5, final=0.1),
        lambda k: ramp(k, 5) or 0.1 + 0.9 * math.cos(math.pi / 2 * min(k - 5, 9) / 9) ** 2,
    ),
    "restarts": (
        lambda o: S.restarts(o, period=4, final=0.3),
        lambda k: 0.3 + 0.7 * math.cos(math.pi / 2 * (k % 4) / 4) ** 2,
    ),
    "longer restarts": (
        lambda o: S.restarts(o, period=3, multiply=2),
        # periods 0-2, 3-8, 9-20
        lambda k: math.cos(math.pi / 2 * (k / 3 if k < 3 else (k - 3) / 6 if k < 9 else (k - 9) / 12)) ** 2,
    ),
}
BY_TRAIN: dict[str, Make] = {name: made for name, (made, _) in FORMS.items()}
BY_TRAIN["one cycle"] = lambda o: S.one_cycle(o, steps=12, final=0.01)


def run(
    make: Make, steps: int, optimizer: str = "momentum"
) -> tuple[tl.TrainState, list[float], list[float]]:
    """Previewed and applied rates of a run, by `train`."""
    state = make_state(optimizer, None)
    state.scheduler = make(state.optimizer)
    previewed = S.preview(state.scheduler, steps)
    loader = tl.make_loader(table(40), 8, seed=0, shuffle=True)
    events = tl.train(state, loader, mean_ce, tl.TrainConfig(steps=steps))
    return state, previewed, [event.lr for event in events if isinstance(event, tl.Step)]


@pytest.mark.parametrize("name", FORMS)
def test_every_step_of_a_run_has_the_rate_of_the_formula(name: str) -> None:
    make, factor = FORMS[name]
    _, previewed, applied = run(make, 20)  # longer than the schedules: the last rate holds
    assert applied == previewed
    assert applied == pytest.approx([PEAK * factor(k) for k in range(20)], rel=1e-12, abs=1e-15)
    assert applied[0] > 0


REFERENCES: dict[str, tuple[Make, Make, int]] = {
    "step": (lambda o: S.step(o, every=4), lambda o: torch_schedules.StepLR(o, 4), 15),
    "linear": (
        lambda o: S.warmup_linear(o, steps=9, final=0.1),
        lambda o: torch_schedules.LinearLR(o, 1.0, 0.1, total_iters=9),
        15,
    ),
    "cosine": (
        lambda o: S.warmup_cosine(o, steps=9, final=0.1),
        lambda o: torch_schedules.CosineAnnealingLR(o, 9, PEAK / 10),
        10,  # torch's rises again after its end
    ),
    "restarts": (
        lambda o: S.restarts(o, period=3, multiply=2, final=0.1),
        lambda o: torch_schedules.CosineAnnealingWarmRestarts(o, 3, 2, PEAK / 10),
        20,
    ),
    "one cycle": (
        lambda o: S.one_cycle(o, steps=15),
        lambda o: torch_schedules.OneCycleLR(o, PEAK, total_steps=15),
        15,
    ),
    "one cycle to another peak": (
        lambda o: S.one_cycle(o, steps=15, peak=0.4, start=0.1, final=0.001, warmup=0.5),
        lambda o: torch_schedules.OneCycleLR(
            o, 0.4, total_steps=15, pct_start=0.5, div_factor=10, final_div_factor=100
        ),
        15,
    ),
}


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("name", REFERENCES)
def test_the_rates_and_momenta_are_those_of_torchs_own(name: str, kind: Any) -> None:
    make, reference, steps = REFERENCES[name]
    ours, theirs = optimizer_of(kind), optimizer_of(kind)
    schedules = make(ours), reference(theirs)
    for _ in range(steps):
        for key in {"lr", "momentum", "betas"} & ours.param_groups[0].keys():
            assert ours.param_groups[0][key] == pytest.approx(theirs.param_groups[0][key], rel=1e-9), key
        for optimizer, schedule in zip((ours, theirs), schedules):
            optimizer.step()
            schedule.step()


def test_one_cycle_holds_its_last_rate_and_momentum_where_torch_raises() -> None:
    state, previewed, applied = run(BY_TRAIN["one cycle"], 20)
    assert applied == previewed
    assert applied[:12] == pytest.approx(S.preview(S.one_cycle(optimizer_of(), steps=12, final=0.01), 12))
    assert applied[11:] == [applied[11]] * 9
    assert applied[11] == pytest.approx(PEAK / 100)
    assert state.optimizer.param_groups[0]["momentum"] == 0.95
    reference = torch_schedules.OneCycleLR(optimizer_of(), PEAK, total_steps=12)
    with pytest.raises(ValueError, match="Tried to step"):
        S.preview(reference, 20)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 10])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.25, 0.5, 1.0])
def test_one_cycle_of_any_length_and_warm_up_stays_between_start_and_peak(steps: int, warmup: float) -> None:
    rates = S.preview(S.one_cycle(optimizer_of(), steps=steps, warmup=warmup, final=0.0), steps + 2)
    assert all(0 <= rate <= PEAK * (1 + 1e-12) for rate in rates)
    # an optimizer without momentum has none to cycle
    S.preview(S.one_cycle(optimizer_of(torch.optim.Adagrad), steps=steps, warmup=warmup), steps + 2)


@pytest.mark.parametrize("name", BY_TRAIN)
def test_resuming_in_the_middle_changes_nothing(name: str) -> None:
    loader = tl.make_loader(table(40), 8, seed=0, shuffle=True)
    whole, broken = (make_state("momentum", None) for _ in range(2))
    for state in (whole, broken):
        state.scheduler = BY_TRAIN[name](state.optimizer)
    torch.manual_seed(11)
    tl.fit(whole, loader, mean_ce, tl.TrainConfig(steps=18))
    torch.manual_seed(11)
    tl.fit(broken, loader, mean_ce, tl.TrainConfig(steps=7))
    saved = broken.state_dict()
    resumed = make_state("momentum", None)
    resumed.scheduler = BY_TRAIN[name](resumed.optimizer)
    resumed.load_state_dict(saved)
    tl.fit(resumed, loader, mean_ce, tl.TrainConfig(steps=18))
    assert_same_run(resumed, whole)


@pytest.mark.parametrize("name", [*BY_TRAIN, "plateau"])
def test_what_is_saved_is_plain(name: str) -> None:
    make = BY_TRAIN.get(name, S.plateau)

    def plain(value: Any) -> bool:
        if isinstance(value, dict):
            return all(isinstance(key, str) and plain(part) for key, part in value.items())
        if isinstance(value, list):
            return all(map(plain, value))
        return value is None or type(value) in (bool, int, float, str)

    assert plain(make(optimizer_of()).state_dict())


def test_a_longer_form_given_at_a_resume_is_followed() -> None:
    optimizer = optimizer_of()
    short = S.warmup_linear(optimizer, steps=10)
    for _ in range(5):
        optimizer.step()
        short.step()
    longer = S.warmup_linear(optimizer_of(), steps=20)
    longer.load_state_dict(short.state_dict())
    longer.optimizer.load_state_dict(optimizer.state_dict())
    assert S.preview(longer, 3)[1:] == pytest.approx([PEAK * 14 / 20, PEAK * 13 / 20])


@pytest.mark.parametrize("name", BY_TRAIN)
def test_groups_keep_their_ratios(name: str) -> None:
    groups = [{"params": [torch.zeros(1)], "lr": rate} for rate in (0.1, 0.02, 0.003)]
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    schedule = BY_TRAIN[name](optimizer)
    for _ in range(20):
        first, second, third = (group["lr"] for group in optimizer.param_groups)
        assert (second, third) == pytest.approx((first * 0.2, first * 0.03), rel=1e-9, abs=1e-18)
        optimizer.step()
        schedule.step()


def test_a_peak_is_that_of_the_first_group() -> None:
    groups = [{"params": [torch.zeros(1)], "lr": rate} for rate in (0.1, 0.02)]
    optimizer = torch.optim.SGD(groups)
    schedule = S.one_cycle(optimizer, steps=10, peak=0.5, warmup=0.3)
    assert max(S.preview(schedule, 10)) == 0.5
    assert optimizer.param_groups[1]["max_lr"] == pytest.approx(0.1)


@pytest.mark.parametrize("later", BY_TRAIN)
@pytest.mark.parametrize("earlier", ["one cycle", "cosine after warm-up"])
def test_building_a_schedule_again_begins_at_the_same_peak(earlier: str, later: str) -> None:
    optimizer = optimizer_of()
    schedule = BY_TRAIN[earlier](optimizer)
    for _ in range(3):
        optimizer.step()
        schedule.step()
    fresh = optimizer_of()
    assert S.preview(BY_TRAIN[later](optimizer), 20) == S.preview(BY_TRAIN[later](fresh), 20)
    # else a run that is resumed with the later one alone would be refused
    assert optimizer.param_groups[0].keys() == fresh.param_groups[0].keys()


def test_a_plateau_schedule_steps_with_the_validations_as_its_preview_says() -> None:
    losses = [3.0, 2.0, 2.0, 1.95, 2.5, 1.0, 1.0, 1.0, 1.0, 1.0]
    # improvements above 0.1 at validations 1, 2 and 6; lowered by the second one in vain in a row
    expected = [PEAK] * 4 + [PEAK / 2] * 4 + [PEAK / 4] * 2
    state = make_state("sgd", None)
    state.scheduler = S.plateau(state.optimizer, factor=0.5, patience=1, min_delta=0.1, min_lr=PEAK / 4)
    assert S.preview(state.scheduler, 10, valid_losses=losses) == pytest.approx(expected)
    given = iter(losses)

    def loss_fn(model: torch.nn.Module, batch: Any) -> Any:
        return mean_ce(model, batch) if model.training else mean_ce(model, batch) * 0 + next(given)

    loader = tl.make_loader(table(8), 8, seed=0, shuffle=False)
    config = tl.TrainConfig(epochs=10)
    events = list(tl.train(state, loader, loss_fn, config, valid=loader))
    assert [e.lr for e in events if isinstance(e, tl.Step)] == S.preview(
        S.plateau(optimizer_of(), factor=0.5, patience=1, min_delta=0.1, min_lr=PEAK / 4),
        10,
        valid_losses=losses,
    )


TORCHS: dict[str, Make] = {
    "sequential": lambda o: torch_schedules.SequentialLR(
        o, [torch_schedules.LinearLR(o, 0.1, 1.0, 3), torch_schedules.CosineAnnealingLR(o, 9)], [3]
    ),
    "chained": lambda o: torch_schedules.ChainedScheduler(
        [torch_schedules.ConstantLR(o, 0.5, 4), torch_schedules.ExponentialLR(o, 0.9)]
    ),
    "cyclic": lambda o: torch_schedules.CyclicLR(o, 0.01, 0.1, 3),
    "multiplicative": lambda o: torch_schedules.MultiplicativeLR(o, lambda k: 0.9),
    "one cycle": lambda o: torch_schedules.OneCycleLR(o, 0.2, total_steps=20),
    "polynomial": lambda o: torch_schedules.PolynomialLR(o, 8, 2.0),
}


@pytest.mark.parametrize("name", TORCHS)
def test_preview_is_what_comes_and_moves_nothing(name: str) -> None:
    optimizer = optimizer_of(momentum=0.9)
    schedule = TORCHS[name](optimizer)
    for _ in range(2):  # from the middle
        optimizer.step()
        schedule.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        previewed = S.preview(schedule, 9)
        assert S.preview(schedule, 9) == previewed
    comes = []
    for _ in range(9):
        comes.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert comes == previewed


def test_the_scale_of_the_controls_comes_on_top() -> None:
    state = make_state("sgd", None)
    state.scheduler = S.warmup_cosine(state.optimizer, steps=10, warmup=2)
    previewed = S.preview(state.scheduler, 8)
    state.controls.lr_scale = 0.5
    loader = tl.make_loader(table(40), 8, seed=0, shuffle=True)
    events = tl.train(state, loader, mean_ce, tl.TrainConfig(steps=8))
    assert [e.lr for e in events if isinstance(e, tl.Step)] == [rate * 0.5 for rate in previewed]


def test_the_plot_shows_the_rates_over_the_steps() -> None:
    rates = S.preview(S.warmup_linear(torch.optim.SGD(network().parameters(), 1.0), steps=4), 4)
    ax = tl.plot_schedule(rates, label="linear")
    assert tl.plot_schedule(rates[:2], ax) is ax
    assert [list(line.get_xdata()) for line in ax.lines] == [[1, 2, 3, 4], [1, 2]]
    assert list(ax.lines[0].get_ydata()) == [1.0, 0.75, 0.5, 0.25]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["linear"]
