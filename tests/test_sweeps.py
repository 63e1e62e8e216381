"""A member of a sweep is the model that `fit` trains alone, whatever the way it goes."""

from __future__ import annotations

import math
import os
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from core.runs import assert_same, mean_ce, table
from torch import Tensor, nn
from torch.nn import functional as F

import trainlab as tl
from trainlab.randomness import get_rng_state

RATES = [0.003, 0.01, 0.03, 0.1, 0.3]
# torch's own, as everybody writes them
PLAIN: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p, lr: torch.optim.SGD(p, lr),
    "momentum": lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9),
    "adam": lambda p, lr: torch.optim.Adam(p, lr),
    "adamw": lambda p, lr: torch.optim.AdamW(p, lr),
}


def build() -> nn.Module:
    return tl.models.MLP(6, [16, 8], 3)


def with_dropout() -> nn.Module:
    return tl.models.MLP(6, [16], 3, dropout=0.3)


def with_norm() -> nn.Module:
    return tl.models.MLP(6, [16], 3, norm=True)


def cnn() -> nn.Module:
    return tl.models.CNN(1, 3, widths=(4, 8))


class Tied(nn.Module):
    """Two layers with one weight, and a bias that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.second.weight = self.first.weight
        self.last.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.second(torch.tanh(self.first(x)))))


class Odd(nn.Module):
    """A linear layer and something that a group cannot do."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 5 + random.randrange(9) if kind == "shape" else 3)
        self.kind, self.calls = kind, 0
        self.register_buffer("features", torch.randn(6) if kind == "buffer" else torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "counter":
            self.calls += 1
        if self.kind == "in place":
            x.mul_(0.5)
        y = self.layer(x * self.features)
        return y * 2 if self.kind == "branch" and y.sum() > 0 else y


def images(rows: int = 60) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, 1, 8, 8, generator=generator), torch.arange(rows) % 3


def loader(data: Any = None, size: int = 32) -> Any:
    return tl.make_loader(table(200) if data is None else data, size, seed=5, shuffle=True)


def alone(
    make: Callable[[], nn.Module],
    lr: float,
    seed: int = 0,
    *,
    optimizer: str = "momentum",
    data: Any = None,
    loss_fn: Any = mean_ce,
    valid: Any = None,
    **total: int,
) -> tuple[list[float], dict[str, float]]:
    """The losses and the last validation of one run by `fit`; up to where it diverges."""
    tl.seed_everything(seed)
    model = make()
    state = tl.TrainState(model, PLAIN[optimizer](model.parameters(), lr))
    tl.fit(state, data or loader(), loss_fn, tl.TrainConfig(**total))
    return state.history.column("loss"), tl.evaluate(model, valid, loss_fn) if valid else {}


# ---- the law ----


@pytest.mark.parametrize("optimizer", PLAIN)
@pytest.mark.parametrize("loss", ["bare", "classification"])
def test_under_vmap_a_member_is_the_run_alone(optimizer: str, loss: str) -> None:
    loss_fn = mean_ce if loss == "bare" else tl.losses.classification()
    valid = tl.make_loader(table(50, seed=3), 20, seed=0, shuffle=False)
    seeds = [0, 0, 1, 2, 0]
    report = tl.sweep(
        build, loader(), loss_fn, RATES, optimizer=optimizer, epochs=4, seeds=seeds, valid=valid, workers=2
    )
    assert report.way == "vmap"
    for member, lr, seed in zip(report.members, RATES, seeds):
        losses, metrics = alone(build, lr, seed, optimizer=optimizer, loss_fn=loss_fn, valid=valid, epochs=4)
        assert (member.lr, member.seed, len(losses)) == (lr, seed, 28)
        torch.testing.assert_close(list(member.losses), losses, rtol=1e-3, atol=1e-5)
        assert member.valid == pytest.approx(metrics, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("optimizer", PLAIN)
def test_in_float64_nothing_but_rounding_is_left(optimizer: str) -> None:
    features, targets = table(200)
    data = loader((features.double(), targets))
    for make in (lambda: build().double(), lambda: Tied().double()):
        report = tl.sweep(make, data, mean_ce, RATES, optimizer=optimizer, steps=30, way="vmap", workers=2)
        for member in report.members:
            losses, _ = alone(make, member.lr, optimizer=optimizer, data=data, steps=30)
            torch.testing.assert_close(list(member.losses), losses, rtol=1e-9, atol=1e-11)


def test_a_factory_goes_under_vmap_too() -> None:
    factory = lambda p, lr: torch.optim.RMSprop(p, lr, weight_decay=0.1)  # noqa: E731
    features, targets = table(200)
    data, make = loader((features.double(), targets)), lambda: build().double()
    report = tl.sweep(make, data, mean_ce, RATES, optimizer=factory, steps=20, workers=1)
    assert report.way == "vmap"
    for member in report.members:
        tl.seed_everything(0)
        model = make()
        state = tl.TrainState(model, factory(model.parameters(), member.lr))
        losses = tl.fit(state, data, mean_ce, tl.TrainConfig(steps=20)).column("loss")
        torch.testing.assert_close(list(member.losses), losses, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("make", [with_dropout, with_norm, build])
def test_one_by_one_is_fit_to_the_last_bit(make: Callable[[], nn.Module]) -> None:
    valid = tl.make_loader(table(50, seed=3), 20, seed=0, shuffle=False)
    stream = tl.sweep_steps(
        make,
        loader(),
        mean_ce,
        RATES[:3],
        optimizer=PLAIN["adam"],
        epochs=3,
        seeds=[4, 4, 5],
        valid=valid,
        way="one by one",
    )
    report = drained(stream, lambda _: torch.rand(3))  # the consumer's draws are no matter of the members
    for member in report.members:
        losses, metrics = alone(make, member.lr, member.seed, optimizer="adam", valid=valid, epochs=3)
        assert list(member.losses) == losses
        assert member.valid == metrics


@pytest.mark.slow
def test_by_processes_a_cnn_with_batch_norm_is_the_run_alone() -> None:
    data, valid = loader(images(), 16), tl.make_loader(images(30), 10, seed=0, shuffle=False)
    report = tl.sweep(
        cnn,
        data,
        mean_ce,
        RATES,
        optimizer=PLAIN["momentum"],
        epochs=2,
        seeds=[0, 1, 2, 3, 4],
        valid=valid,
        way="processes",
        workers=2,
    )
    assert report.way == "processes"
    for member in report.members:
        losses, metrics = alone(cnn, member.lr, member.seed, data=data, valid=valid, epochs=2)
        torch.testing.assert_close(list(member.losses), losses, rtol=1e-5, atol=1e-6)
        assert member.valid == pytest.approx(metrics, rel=1e-5)


@pytest.mark.slow
def test_by_processes_dropout_is_that_of_the_run_alone() -> None:
    rows = tl.make_loader(list(zip(*table(90))), 16, seed=0, shuffle=True, workers=1)
    list(rows)  # its workers stay here, and cannot be sent
    report = tl.sweep(with_dropout, rows, mean_ce, RATES, steps=9, way="processes", workers=2)
    for member in report.members:
        losses, _ = alone(with_dropout, member.lr, optimizer="sgd", data=rows, steps=9)
        torch.testing.assert_close(list(member.losses), losses, rtol=1e-5, atol=1e-6)


def test_rows_that_draw_are_the_same_for_all_members() -> None:
    class Noisy(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 50

        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            return torch.randn(6), torch.tensor(index % 3)

    report = tl.sweep(build, loader(Noisy(), 10), mean_ce, RATES, epochs=3, way="vmap", workers=2)
    for member in report.members:
        losses, _ = alone(build, member.lr, optimizer="sgd", data=loader(Noisy(), 10), epochs=3)
        torch.testing.assert_close(list(member.losses), losses, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("way", ["vmap", "one by one"])
def test_the_callers_random_state_is_kept(way: str) -> None:
    tl.seed_everything(9)
    before = get_rng_state()
    tl.sweep(build, loader(), mean_ce, RATES, epochs=1, seeds=3, way=way)
    assert_same(get_rng_state(), before)


# ---- divergence ----


@pytest.mark.parametrize("way", ["vmap", "one by one", pytest.param("processes", marks=pytest.mark.slow)])
def test_a_member_that_diverges_is_marked_and_disturbs_nobody(way: str) -> None:
    rates = [0.01, 1e25, 0.1, 1e30, 0.03]
    told: dict[int, tl.SweepProgress] = {}
    report = tl.sweep(
        build,
        loader(),
        mean_ce,
        rates,
        steps=12,
        valid=loader(),
        way=way,
        workers=2,
        progress=lambda one: told.update({one.member: one}),
    )
    assert set(told) == set(range(5))
    for place, (member, lr) in enumerate(zip(report.members, rates)):
        if lr < 1:
            losses, _ = alone(build, lr, optimizer="sgd", steps=12)
            torch.testing.assert_close(list(member.losses), losses, rtol=1e-3, atol=1e-5)
            assert member.diverged_at is None and told[place].step == 12
            assert told[place].loss == member.losses[-1]
        else:
            with pytest.raises(tl.TrainlabError, match=f"the loss at step {member.diverged_at} is"):
                alone(build, lr, optimizer="sgd", steps=12)
            assert member.diverged_at is not None
            assert len(member.losses) == member.diverged_at - 1
            assert member.valid == {} and math.isnan(member.score) and math.isnan(told[place].loss)
            assert f"diverged at step {member.diverged_at}" in repr(report)
    assert report.best is not None and report.best.lr == 0.1
    assert list(report.frame()["diverged_at"].isna()) == [True, False, True, False, True]


def test_where_all_diverge_none_is_best() -> None:
    report = tl.sweep(build, loader(), mean_ce, [1e30] * 4, steps=50, way="vmap")
    assert report.best is None
    assert "best" not in repr(report)
    assert len(tl.plot_sweep(report).lines) == 3  # two empty ones, and the marks


# ---- which way ----


@pytest.mark.parametrize("make", [with_dropout, with_norm, cnn])
def test_auto_leaves_to_vmap_what_it_can_do(make: Callable[[], nn.Module]) -> None:
    data = loader(images(), 16) if make is cnn else loader()
    assert tl.sweep(make, data, mean_ce, RATES, steps=2).way == "one by one"  # too little for processes
    assert tl.sweep(build, loader(), mean_ce, RATES, steps=2).way == "vmap"
    assert tl.sweep(build, loader(), mean_ce, RATES[:1], steps=2).way == "one by one"


@pytest.mark.slow
def test_auto_takes_processes_where_the_work_pays_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainlab.sweeps.START_UP", 1e-6)
    assert tl.sweep(with_norm, loader(), mean_ce, RATES, steps=2, workers=2).way == "processes"
    assert tl.sweep(with_norm, loader(), mean_ce, RATES, steps=2, workers=1).way == "one by one"


REFUSED = {
    "dropout": (with_dropout, "it draws random numbers"),
    "norm": (with_norm, "it changes its buffers in training"),
    "counter": (lambda: Odd("counter"), "it changes values of its own, or the batch"),
    "in place": (lambda: Odd("in place"), "it changes values of its own, or the batch"),
    "branch": (lambda: Odd("branch"), "vmap refuses it"),
    "shape": (lambda: Odd("shape"), "its parameters are not alike under all seeds"),
    "buffer": (lambda: Odd("buffer"), "its buffers are not alike under all seeds"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_vmap_is_refused_where_it_would_not_be_the_run_alone(kind: str) -> None:
    make, reason = REFUSED[kind]
    with pytest.raises(tl.TrainlabError, match=f"way='vmap' cannot train this model: {reason}"):
        tl.sweep(make, loader(), mean_ce, RATES, steps=2, seeds=[1, 2, 3, 4, 5], way="vmap")
    assert tl.sweep(make, loader(), mean_ce, RATES, steps=2, seeds=[1, 2, 3, 4, 5]).way == "one by one"


def test_vmap_is_refused_where_the_loss_is_of_another_model() -> None:
    other = build()
    wrong = lambda model, batch: F.cross_entropy(other(batch[0]), batch[1])  # noqa: E731
    with pytest.raises(tl.TrainlabError, match="its loss in a group is not the one that it has alone"):
        tl.sweep(build, loader(), wrong_once(wrong), RATES, steps=2, way="vmap")
    detached = lambda model, batch: mean_ce(model, batch).detach()  # noqa: E731
    with pytest.raises(tl.TrainlabError, match="its loss has no gradient"):
        tl.sweep(build, loader(), detached, RATES, steps=2, way="vmap")
    with pytest.raises(tl.TrainlabError, match="does not require a gradient"):
        tl.sweep(build, loader(), detached, RATES, steps=2)


def wrong_once(wrong: Any) -> Any:
    """The model's loss where it is alone, another in a group."""
    return lambda model, batch: (
        mean_ce(model, batch) if isinstance(model[-1].weight, nn.Parameter) else wrong(model, batch)
    )


# ---- the stream ----


def drained(stream: Any, look: Callable[[Any], object] = lambda _: None) -> Any:
    while True:
        try:
            look(next(stream))
        except StopIteration as end:
            return end.value


def test_the_stream_can_be_left_at_any_yield() -> None:
    before = threading.active_count()
    seen: list[int] = []
    counting = lambda model, batch: (seen.append(1), mean_ce(model, batch))[1]  # noqa: E731
    stream = tl.sweep_steps(build, loader(), counting, RATES, epochs=1000, way="vmap", workers=2)
    first = next(stream)
    assert (first.member, first.lr, first.total) == (0, RATES[0], 7000)
    assert 0 < first.step < 7000 and math.isfinite(first.loss)
    steps = len(seen)
    assert {next(stream).member for _ in range(4)} == {1, 2, 3, 4}
    assert len(seen) == steps  # nothing is trained behind the consumer's back
    assert next(stream).step > first.step
    stream.close()
    assert threading.active_count() == before


@pytest.mark.slow
def test_closing_a_stream_of_processes_frees_them() -> None:
    stream = tl.sweep_steps(with_norm, loader(), mean_ce, RATES, steps=50, way="processes", workers=2)
    assert next(stream).step == 50
    stream.close()
    report = tl.sweep(with_norm, loader(), mean_ce, RATES, steps=5, way="processes", workers=2)
    assert [len(member.losses) for member in report.members] == [5] * 5


@pytest.mark.parametrize("way", ["vmap", "one by one"])
def test_a_progress_bar_reaches_its_end(
    way: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("trainlab.sweeps._somebody_watches", lambda: True)
    tl.sweep(build, loader(), mean_ce, [*RATES, 1e30], steps=20, way=way)
    assert "120/120" in capsys.readouterr().err
    monkeypatch.setattr("trainlab.sweeps._somebody_watches", lambda: False)
    tl.sweep(build, loader(), mean_ce, RATES, steps=20, way=way)
    assert capsys.readouterr().err == ""


def test_the_report_says_what_was_measured() -> None:
    valid = tl.make_loader(table(50, seed=3), 20, seed=0, shuffle=False)
    report = tl.sweep(build, loader(), tl.losses.classification(), RATES, epochs=3, valid=valid)
    frame = report.frame()
    assert list(frame["lr"]) == RATES
    assert list(frame["steps"]) == [21] * 5
    assert list(frame["valid_accuracy"]) == [member.valid["accuracy"] for member in report.members]
    assert report.best is report.members[int(np.argmin(frame["valid_loss"]))]
    assert repr(report).count("\n") == 5 and repr(report).count("<- best") == 1
    bare = tl.SweepReport((tl.SweepMember(0.1, 0, tuple(range(20, 0, -1))),), "vmap", 1.0)
    assert bare.members[0].score == 1.5  # the last tenth of twenty


def test_the_plot_shows_each_member() -> None:
    members = (
        tl.SweepMember(0.1, 0, (3.0, 2.0), {"loss": 1.5}),
        tl.SweepMember(0.01, 0, (3.0, 2.5), {"loss": 2.5}),
        tl.SweepMember(0.1, 1, (3.0, 2.0), {"loss": 0.5}),
        tl.SweepMember(10.0, 0, (3.0,), {}, 2),
    )
    ax = tl.plot_sweep(tl.SweepReport(members, "vmap", 1.0))
    means, points, best, lost = ax.lines
    assert ax.get_xscale() == "log" and ax.get_ylabel() == "validation loss"
    assert means.get_xydata().tolist() == [[0.01, 2.5], [0.1, 1.0]]
    assert points.get_xydata().tolist() == [[0.01, 2.5], [0.1, 1.5], [0.1, 0.5]]
    assert best.get_xydata().tolist() == [[0.1, 0.5]]
    assert list(lost.get_xdata()) == [10.0]


# ---- wrong calls ----


def call(**changes: Any) -> Any:
    options = {"build_model": build, "loader": loader(), "loss_fn": mean_ce, "lrs": RATES, "steps": 2}
    return tl.sweep(**(options | changes))  # type: ignore[arg-type]


MODEL = build()
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no rates": ({"lrs": []}, "lrs is empty"),
    "zero": ({"lrs": [0.1, 0.0]}, "the rate 0.0 in lrs is not above 0"),
    "nan": ({"lrs": [math.nan]}, "the rate nan in lrs is not above 0"),
    "both": ({"epochs": 1}, "give one of the two"),
    "neither": ({"steps": None}, "give one of the two"),
    "seeds": ({"seeds": [1, 2]}, "2 seeds for 5 rates"),
    "seed": ({"seeds": -1}, "seed=-1 is not an integer from 0"),
    "optimizer": ({"optimizer": "adma"}, "unknown optimizer 'adma': did you mean 'adam'"),
    "way": ({"way": "vmpa"}, "unknown way 'vmpa': did you mean 'vmap'"),
    "workers": ({"workers": 0}, "workers=0 is not a number of threads or processes"),
    "loader": ({"loader": [table(20)]}, "loader is a list, whose order cannot be repeated"),
    "loss": ({"loss_fn": 3}, "loss_fn is a int: give a function of"),
    "valid": ({"valid": iter([table(20)])}, "each member goes through it"),
    "progress": ({"progress": 3}, "progress is a int: give a function of one SweepProgress"),
    "a model": ({"build_model": build()}, "build_model is a MLP: give a function that makes a new model"),
    "arguments": ({"build_model": lambda width: None}, "build_model needs width: give a function without"),
    "no model": ({"build_model": lambda: 3}, "build_model gave a int: let it return a new"),
    "the same": ({"build_model": lambda: MODEL}, "build_model gives the same model each time"),
    "no loss": ({"loss_fn": lambda model, batch: model(batch[0])}, "loss_fn returned shape"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_call_says_what_to_do(kind: str) -> None:
    changes, text = WRONG[kind]
    with pytest.raises(tl.TrainlabError, match=text):
        call(**changes)


@pytest.mark.parametrize("way", ["vmap", "one by one"])
def test_a_label_out_of_range_in_a_later_batch_is_named(way: str) -> None:
    features, targets = table(64)
    data = tl.make_loader((features, targets.index_fill(0, torch.tensor(60), 7)), 16, seed=0, shuffle=False)
    with pytest.raises(tl.TrainlabError, match="target 7 is outside the classes 0 to 2"):
        call(loader=data, loss_fn=tl.losses.classification(), steps=8, way=way)


def elsewhere() -> nn.Module:
    if os.getpid() != HERE:
        raise ValueError("no such file")
    return build()


HERE = int(os.environ.setdefault("TRAINLAB_TEST_PROCESS", str(os.getpid())))


@pytest.mark.slow
def test_what_goes_wrong_in_a_worker_is_said_here() -> None:
    with pytest.raises(tl.TrainlabError, match=r"a worker process failed \(ValueError: no such file\)"):
        call(build_model=elsewhere, way="processes", workers=2)
    huge = lambda model, batch: model(batch[0])  # noqa: E731
    with pytest.raises(tl.TrainlabError, match="loss_fn returned shape"):
        call(loss_fn=huge, way="processes", workers=2)


def test_where_no_process_can_be_started_it_goes_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any, tasks: Any) -> None:
        raise PermissionError("no semaphores here")

    monkeypatch.setattr("joblib.Parallel.__call__", refuse)
    report = call(way="processes", workers=2)
    assert report.way == "one by one" and len(report.members) == 5


def test_what_cannot_be_sent_is_said() -> None:
    lock = threading.Lock()
    make = lambda: (lock, build())[1]  # noqa: E731
    with pytest.raises(tl.TrainlabError, match="cannot be sent to another process"):
        call(build_model=make, way="processes", workers=2)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
