"""`train` is the loop that one would write by hand, to the last bit; watching changes nothing."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import pytest
import torch
from core.runs import OPTIMIZERS, SCHEDULES, assert_same, everything, make_state, mean_ce, network, table
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import trainlab as tl


def by_hand(
    loader: Any, optimizer_name: str, schedule: str | None, clip: float | None, epochs: int
) -> tuple[Any, Any, list[float], list[float]]:
    """The bare loop: no trainlab code in it but, where asked for, the loader."""
    model = network()
    optimizer = OPTIMIZERS[optimizer_name](model.parameters())
    scheduler = SCHEDULES[schedule](optimizer) if schedule else None
    torch.manual_seed(11)
    model.train()
    losses, norms = [], []
    for _ in range(epochs):
        for features, targets in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(features), targets)
            loss.backward()
            if clip is not None:
                norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), clip)))
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
            losses.append(loss.item())
    return model, optimizer, losses, norms


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("batch_size", [64, 333])
@pytest.mark.parametrize("loss", ["bare", "classification"])
def test_train_is_the_bare_loop(optimizer: str, batch_size: int, loss: str) -> None:
    data = table(900)  # both sizes leave an uneven last batch
    make = lambda: tl.make_loader(data, batch_size, seed=5, shuffle=True)  # noqa: E731
    model, reference, losses, _ = by_hand(make(), optimizer, "step", None, 2)
    state = make_state(optimizer, "step")
    loss_fn = mean_ce if loss == "bare" else tl.losses.classification()
    events = list(tl.train(state, make(), loss_fn, tl.TrainConfig(epochs=2)))
    assert_same(state.model.state_dict(), model.state_dict())
    assert_same(state.optimizer.state_dict(), reference.state_dict())
    assert [event.loss for event in events] == losses
    assert [event.step for event in events] == list(range(1, len(losses) + 1))


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle", None])
@pytest.mark.parametrize("clip", [0.3, None])
def test_clipping_and_schedules_are_torchs_own(schedule: str | None, clip: float | None) -> None:
    data = TensorDataset(*table(300))
    model, reference, losses, norms = by_hand(
        DataLoader(data, 64, shuffle=True), "momentum", schedule, clip, 3
    )
    after = torch.rand(3)
    state = make_state("momentum", schedule)
    config = tl.TrainConfig(epochs=3, clip_norm=clip)
    events = list(tl.train(state, DataLoader(data, 64, shuffle=True), mean_ce, config))
    assert torch.equal(torch.rand(3), after)  # the generator is where the bare loop leaves it
    assert_same(state.model.state_dict(), model.state_dict())
    assert_same(state.optimizer.state_dict(), reference.state_dict())
    assert [event.loss for event in events] == losses
    assert [float(event.grad_norm) for event in events if event.grad_norm is not None] == norms
    assert [event.samples for event in events] == [64, 64, 64, 64, 44] * 3
    assert [event.epoch for event in events] == [1] * 5 + [2] * 5 + [3] * 5


def test_grad_norm_is_measured_where_asked_for_and_changes_nothing() -> None:
    data = table(200)
    runs = {}
    for asked in (False, True):
        state = make_state()
        loader = tl.make_loader(data, 64, seed=0, shuffle=True)
        gradients = []
        for event in tl.train(state, loader, mean_ce, tl.TrainConfig(steps=5, grad_norm=asked)):
            flat = torch.cat([p.grad.flatten() for p in state.model.parameters()])
            gradients.append(float(flat.double().norm()))
            assert (event.grad_norm is not None) == asked
            if asked:
                assert float(event.grad_norm) == pytest.approx(gradients[-1], rel=1e-5)
        runs[asked] = everything(state)
    assert_same(runs[False], runs[True])


def test_a_watched_run_is_the_unwatched_one(tmp_path: Any) -> None:
    data, held_out = table(250), table(100, seed=3)
    ends = []
    for watched in (False, True):
        state = make_state("adamw-fused")
        loader = tl.make_loader(data, 32, seed=0, shuffle=True, workers=0)
        valid = DataLoader(TensorDataset(*held_out), 30, shuffle=True)
        flow: list[float] = []

        def gradients(event: tl.Event, model: Any = state.model, flow: list[float] = flow) -> None:
            flow.extend(float(p.grad.norm()) for p in model.parameters())

        observers = [
            tl.Progress(enabled=True),
            tl.EarlyStopping(patience=100),
            tl.BestModel(state),
            tl.JsonLines(tmp_path / "run.jsonl"),
            gradients,
        ]
        config = tl.TrainConfig(epochs=3, validate_every=3)
        with contextlib.redirect_stderr(io.StringIO()):
            tl.fit(state, loader, mean_ce, config, valid=valid, observers=observers if watched else [])
        ends.append((everything(state), [row.get("loss") for row in state.history.rows]))
    assert flow
    assert_same(ends[0], ends[1])


@pytest.mark.parametrize("workers", [0, 2])
def test_measuring_on_the_training_loader_in_mid_epoch_changes_nothing(workers: int) -> None:
    ends = []
    for measured in (False, True):
        state = make_state()
        loader = tl.make_loader(list(zip(*table(96))), 16, seed=0, shuffle=True, workers=workers)
        for event in tl.train(state, loader, mean_ce, tl.TrainConfig(epochs=2)):
            if measured and event.step % 4 == 2:
                tl.evaluate(state.model, loader, mean_ce)
        ends.append(everything(state))
    assert_same(ends[0], ends[1])
    assert ends[0]["position"]["step"] == 12


@pytest.mark.parametrize("every", [1, 3])
def test_validating_within_an_epoch_keeps_the_order_of_an_ordinary_loader(every: int) -> None:
    ends = []
    for valid in (None, DataLoader(TensorDataset(*table(50, seed=3)), 16, shuffle=True)):
        state = make_state()
        loader = DataLoader(TensorDataset(*table(200)), 16, shuffle=True)
        config = tl.TrainConfig(epochs=2, validate_every=every)
        events = tl.train(state, loader, mean_ce, config, valid=valid)
        losses = [event.loss for event in events if isinstance(event, tl.Step)]
        ends.append((everything(state)["model"], losses))
    assert_same(ends[0], ends[1])


def test_events_hold_no_graph_and_no_model() -> None:
    state = make_state()
    loss_fn = lambda model, batch: tl.Loss(  # noqa: E731
        mean_ce(model, batch) * len(batch[0]), torch.tensor(len(batch[0])), {"twice": mean_ce(model, batch)}
    )
    loader = tl.make_loader(table(100), 32, seed=0, shuffle=True)
    config = tl.TrainConfig(steps=4, grad_norm=True)
    for event in tl.train(state, loader, loss_fn, config):
        for value in (event.loss, event.grad_norm, *event.metrics.values()):
            assert not (isinstance(value, torch.Tensor) and value.requires_grad)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_train_is_the_bare_loop() -> None:
    data = table(1000)
    model = network(dropout=0.0).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), 0.01, fused=True)
    losses = []
    for features, targets in tl.make_loader(data, 64, seed=5, shuffle=True):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(features.cuda()), targets.cuda())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    state = make_state("adamw-fused", None, dropout=0.0)
    loader = tl.make_loader(data, 64, seed=5, shuffle=True)
    events = list(tl.train(state, loader, mean_ce, tl.TrainConfig(epochs=1, device="cuda")))
    torch.testing.assert_close([float(event.loss) for event in events], losses)
    torch.testing.assert_close(state.model.state_dict(), model.state_dict())


def test_an_optimizer_with_a_zero_grad_of_its_own_is_asked() -> None:
    class Counting(torch.optim.SGD):
        asked = 0

        def zero_grad(self, set_to_none: bool = True) -> None:
            self.asked += 1
            super().zero_grad(set_to_none)

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = Counting(model.parameters(), lr=0.1)
    loader = tl.make_loader((torch.randn(12, 3), torch.randint(0, 2, (12,))), 4, seed=0, shuffle=True)
    tl.fit(tl.TrainState(model, optimizer), loader, tl.losses.classification(), tl.TrainConfig(epochs=2))
    assert optimizer.asked == 6
