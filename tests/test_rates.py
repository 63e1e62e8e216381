"""The range test: it leaves no trace, however it ends, and what it says agrees with theory."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from core.runs import (
    CLASSES,
    FEATURES,
    assert_same,
    everything,
    make_state,
    mean_ce,
    network,
    rows_of_run,
    table,
)
from torch import Tensor, nn
from torch.nn import functional as F

import trainlab as tl
from trainlab.rates import RangePoint, range_report, range_steps


def batches() -> Any:
    return tl.make_loader(table(80), 8, seed=3, shuffle=True)


def whole(state: tl.TrainState) -> dict[str, Any]:
    """All that there is to a state, with what a checkpoint leaves out."""
    held = [p for group in state.optimizer.param_groups for p in group["params"]]
    return everything(state) | {
        "controls": copy.copy(vars(state.controls)),
        "applied": copy.copy(vars(state.applied)),
        "history": rows_of_run(state),
        "gradients": [None if p.grad is None else p.grad.clone() for p in [*state.model.parameters(), *held]],
        "buffers": [buffer.clone() for buffer in state.model.buffers()],
        "dropout": [module.p for module in state.model.modules() if isinstance(module, nn.Dropout)],
        "decayed": sorted(state._decayed),
    }


class Peculiar(nn.Module):
    """Buffers that no checkpoint holds: one changed in place, one replaced, one that is there only later."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()
        self.register_buffer("seen", torch.zeros(()), persistent=False)
        self.register_buffer("last", torch.zeros(FEATURES), persistent=False)
        self.register_buffer("late", None, persistent=False)
        self.frozen = nn.Linear(FEATURES, CLASSES).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        self.last = x[0].clone()
        self.late = x.sum()
        return self.inner(x) + self.frozen(x)


def fresh() -> tl.TrainState:
    return make_state("adamw", None)


def in_the_middle(optimizer: str = "adamw", schedule: str | None = "one_cycle") -> tl.TrainState:
    """Half-way into an epoch, with gradients, controls applied and others that wait, a part in eval mode."""
    state = make_state(optimizer, schedule)
    state.controls.dropout = 0.2
    tl.fit(state, batches(), mean_ce, tl.TrainConfig(steps=13), valid=batches())
    state.controls.lr_scale, state.controls.weight_decay, state.controls.dropout = 0.3, 0.2, 0.6
    state.model[1].eval()
    return state


def peculiar() -> tl.TrainState:
    model = Peculiar()
    # the optimizer holds a part of the model only, and something outside of it
    parameters = [*model.inner[0].parameters(), nn.Parameter(torch.ones(3))]
    state = tl.TrainState(model, torch.optim.SGD(parameters, 0.1, momentum=0.9))
    F.cross_entropy(model(table()[0]), table()[1]).backward()
    model.eval()
    model.inner[3].train()
    return state


STATES: dict[str, Callable[[], tl.TrainState]] = {
    "fresh": fresh,
    "AdamW, one cycle": in_the_middle,
    "momentum, plateau": lambda: in_the_middle("momentum", "plateau"),
    "fused, cosine": lambda: in_the_middle("adamw-fused", "cosine"),
    "peculiar": peculiar,
    "Lookahead": lambda: _lookahead(),
}


def _lookahead() -> tl.TrainState:
    model = network()
    optimizer = tl.optimizers.Lookahead(torch.optim.AdamW(model.parameters(), 0.01))
    state = tl.TrainState(model, optimizer, tl.schedules.warmup_cosine(optimizer, steps=60, warmup=5))
    tl.fit(state, batches(), mean_ce, tl.TrainConfig(steps=13))
    return state


class Stopped(Exception):
    pass


def breaking(error: type[BaseException], at: int) -> Callable[[nn.Module, Any], Tensor]:
    calls = iter(range(10**6))

    def loss_fn(model: nn.Module, batch: Any) -> Tensor:
        loss = mean_ce(model, batch)
        if next(calls) == at:
            raise error
        return loss

    return loss_fn


def closing(state: tl.TrainState, loader: Any) -> None:
    climb = range_steps(state, loader, mean_ce)
    for point in climb:
        if point.step == 17:
            break
    climb.close()


def abandoning(state: tl.TrainState, loader: Any) -> None:
    climb = range_steps(state, loader, mean_ce)
    assert next(climb).step == 1
    with pytest.raises(Stopped):
        climb.throw(Stopped)


ENDS: dict[str, Callable[[tl.TrainState, Any], None]] = {
    "to its end": lambda state, loader: list(range_steps(state, loader, mean_ce, high=1e-3)) and None,
    "diverging": lambda state, loader: list(range_steps(state, loader, mean_ce, high=1e30)) and None,
    "an error": lambda state, loader: _raises(Stopped, state, loader),
    "an interrupt": lambda state, loader: _raises(KeyboardInterrupt, state, loader),
    "closed": closing,
    "thrown into": abandoning,
}


def _raises(error: type[BaseException], state: tl.TrainState, loader: Any) -> None:
    with pytest.raises(error):
        tl.lr_range_test(state, loader, breaking(error, 23))


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("name", STATES)
def test_everything_is_as_before(name: str, end: str) -> None:
    state, loader = STATES[name](), batches()
    next(iter(loader))
    before, passes = whole(state), loader._passes
    objects = [state.scheduler, state.controls, state.applied, state.history, *state.model.parameters()]
    gradients = [p.grad for p in state.model.parameters()]
    buffers = list(state.model.buffers())
    ENDS[end](state, loader)
    assert_same(whole(state), before)
    assert loader._passes == passes
    after = [state.scheduler, state.controls, state.applied, state.history, *state.model.parameters()]
    assert all(one is other for one, other in zip(after, objects))
    assert all(p.grad is one for p, one in zip(state.model.parameters(), gradients))
    assert all(one is other for one, other in zip(state.model.buffers(), buffers))
    assert torch.is_grad_enabled()


def test_the_run_after_it_is_the_run_without_it() -> None:
    states = [in_the_middle("momentum", "step") for _ in range(2)]
    for state, tested in zip(states, (True, False)):
        torch.manual_seed(5)
        if tested:
            assert len(list(range_steps(state, batches(), mean_ce))) > 50
        tl.fit(state, batches(), mean_ce, tl.TrainConfig(epochs=3))
    assert_same(whole(states[0]), whole(states[1]))


def test_an_interrupt_inside_the_update_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    state = in_the_middle()
    before = whole(state)
    scheduled_step, calls = state.optimizer.step, iter(range(100))

    def half(*args: Any) -> None:
        scheduled_step()
        if next(calls) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(state.optimizer, "step", half)
    with pytest.raises(KeyboardInterrupt):
        tl.lr_range_test(state, batches(), mean_ce)
    assert not state.updating
    assert_same(whole(state), before)


def test_an_interrupt_in_the_putting_back_has_it_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    state = in_the_middle()
    before = whole(state)
    load, calls = state.optimizer.load_state_dict, iter(range(100))

    def interrupted(saved: Any) -> None:
        if next(calls) == 0:
            raise KeyboardInterrupt
        load(saved)

    monkeypatch.setattr(state.optimizer, "load_state_dict", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tl.lr_range_test(state, batches(), mean_ce)
    assert_same(whole(state), before)


def test_a_data_loader_of_torch_draws_as_before() -> None:
    data = torch.utils.data.TensorDataset(*table(80))
    loader = torch.utils.data.DataLoader(data, 8, shuffle=True, generator=torch.Generator().manual_seed(5))
    orders = []
    for tested in (False, True):
        loader.generator.manual_seed(5)
        if tested:
            tl.lr_range_test(fresh(), loader, mean_ce)
        orders.append(torch.cat([targets for _, targets in loader]))
    assert torch.equal(*orders)


def test_the_rates_rise_geometrically_and_the_groups_in_proportion() -> None:
    model = network()
    groups = [
        {"params": model[0].parameters(), "lr": 0.02},
        {"params": model[4].parameters(), "lr": torch.tensor(0.05)},
    ]
    state = tl.TrainState(model, torch.optim.AdamW(groups))
    state.controls.lr_scale = 0.1  # set aside: the rates are those applied
    groups = state.optimizer.param_groups
    climb = range_steps(state, batches(), mean_ce, low=1e-5, high=1e-2, steps=31)
    applied = [[point.rate, *(float(group["lr"]) for group in groups)] for point in climb]
    expected = [10 ** (-5 + place / 10) for place in range(31)]
    assert [row[0] for row in applied] == pytest.approx(expected)
    assert [row[1] for row in applied] == pytest.approx(expected)
    assert [row[2] for row in applied] == pytest.approx([2.5 * rate for rate in expected])


def test_the_scale_of_the_controls_and_the_schedule_are_set_aside() -> None:
    plain, scaled = (in_the_middle("momentum", None) for _ in range(2))
    scheduler = tl.schedules.step(scaled.optimizer, every=1)
    scaled.scheduler = scheduler
    reports = []
    for state, scale in ((plain, 1.0), (scaled, 0.1)):
        state.controls.lr_scale = scale
        torch.manual_seed(5)
        reports.append(list(range_steps(state, batches(), mean_ce, low=1e-3, high=0.5, steps=30)))
    assert reports[0] == reports[1]


def test_the_losses_are_those_of_a_hand_written_climb() -> None:
    state = make_state("momentum", None)
    report = tl.lr_range_test(state, batches(), mean_ce, low=1e-4, high=1.0, steps=20, smoothing=0.8)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=0.01)
    torch.manual_seed(11)
    losses, averages = [], []
    order = [batch for epoch in range(2) for batch in batches().batches(epoch)]
    for place, batch in enumerate(order):
        optimizer.param_groups[0]["lr"] = 1e-4 * 1e4 ** (place / 19)
        optimizer.zero_grad()
        loss = mean_ce(model, batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        weights = [0.8**age for age in range(place, -1, -1)]
        averages.append(sum(w * value for w, value in zip(weights, losses)) / sum(weights))
    assert list(report.losses) == losses
    assert report.smoothed == pytest.approx(averages)


def quadratic(curvatures: list[float]) -> tuple[tl.TrainState, Any, Callable[[nn.Module, Any], Tensor]]:
    """Least squares whose Hessian has these eigenvalues, over one full batch: divergence at 2 / largest."""
    count = len(curvatures)
    torch.manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(count, count))[0]
    features = (rotation * torch.tensor(curvatures).sqrt()) @ torch.linalg.qr(torch.randn(count, count))[0]
    model = nn.Linear(count, 1, bias=False)
    batch = (features, torch.zeros(count, 1))

    def loss_fn(model: nn.Module, batch: Any) -> Tensor:
        return 0.5 * (model(batch[0]) - batch[1]).square().sum()

    hessian = torch.autograd.functional.hessian(
        lambda w: 0.5 * (features @ w).square().sum(), torch.zeros(count)
    )
    assert float(torch.linalg.eigvalsh(hessian).max()) == pytest.approx(max(curvatures), rel=1e-4)
    return tl.TrainState(model, torch.optim.SGD(model.parameters(), 1.0)), [batch], loss_fn


@pytest.mark.parametrize("largest", [0.5, 4.0, 100.0])
def test_on_a_quadratic_it_diverges_at_two_over_the_largest_curvature(largest: float) -> None:
    state, loader, loss_fn = quadratic([largest, largest / 2, largest / 10, largest / 1000])
    bound = 2 / largest
    report = tl.lr_range_test(state, loader, loss_fn, low=bound / 30, high=bound * 30, steps=1200)
    assert report.diverged_at is not None
    assert bound < report.diverged_at < 1.5 * bound
    assert report.steepest < bound
    assert report.minimum < report.diverged_at
    assert bound / 100 < report.suggestion < bound


def test_a_loss_that_is_not_finite_ends_the_climb_as_a_result() -> None:
    state, loader, loss_fn = quadratic([1.0, 0.5])

    calls = iter(range(100))

    def cut(model: nn.Module, batch: Any) -> Tensor:
        return loss_fn(model, batch) * (1 if next(calls) < 30 else math.inf)

    points = list(range_steps(state, loader, cut, low=1e-3, high=1.0, steps=50))
    assert [point.step for point in points] == list(range(1, 32))
    assert points[-1].diverged and not math.isfinite(points[-1].loss)
    report = range_report(points)
    assert len(report.rates) == len(report.losses) == len(report.smoothed) == 30
    assert report.diverged_at == points[-1].rate > report.rates[-1]
    assert all(map(math.isfinite, report.losses))


def test_a_loss_below_zero_is_judged_by_its_distance_from_the_best() -> None:
    state, loader, loss_fn = quadratic([1.0, 0.5])
    report = tl.lr_range_test(
        state, loader, lambda model, batch: loss_fn(model, batch) - 5, low=1e-3, high=100.0, steps=200
    )
    best = min(report.smoothed)
    assert best < -4
    assert report.diverged_at is not None
    assert report.smoothed[-1] > best + 3 * abs(best) >= max(report.smoothed[:-1])


def points_of(losses: list[float]) -> Iterator[RangePoint]:
    for place, loss in enumerate(losses):
        yield RangePoint(place + 1, 10 ** (place / 4 - 4), loss, loss)


def test_the_suggestion_follows_its_rule() -> None:
    losses = [2.0, 2.0, 1.95, 1.8, 1.3, 0.8, 0.7, 0.65, 0.6, 0.9, 3.0]
    report = range_report(list(points_of(losses)))
    assert report.steepest == pytest.approx(10 ** (4 / 4 - 4))  # 1.8 to 0.8 around it
    assert report.minimum == pytest.approx(10 ** (8 / 4 - 4))
    assert report.suggestion == pytest.approx(math.sqrt(report.steepest * report.minimum / 10))
    assert report.diverged_at is None
    assert f"try a learning rate of {report.suggestion:.2g}" in repr(report)
    assert "did not diverge" in repr(report)


def test_the_plot_shows_both_losses_and_the_suggestion() -> None:
    report = range_report(list(points_of([2.0, 1.9, 1.5, 1.0, 0.9, 1.2, 9.0])))
    ax = tl.plot_lr_range(report)
    raw, smoothed, line = ax.lines
    assert ax.get_xscale() == "log"
    assert list(raw.get_ydata()) == list(report.losses)
    assert list(smoothed.get_xdata()) == list(report.rates)
    assert line.get_xdata()[0] == report.suggestion
    assert tl.plot_lr_range(report, ax) is ax
