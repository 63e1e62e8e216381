"""What is measured inside a model, against the same sums by hand; nothing of it is changed."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from core.runs import assert_same, everything, make_state, mean_ce, table
from torch import nn

import trainlab as tl


def test_each_part_is_measured_as_by_hand() -> None:
    torch.manual_seed(0)
    model, x = tl.models.MLP(12, [8], 3), torch.randn(20, 12)
    found = {each.name: each for each in tl.activation_stats(model, (x, torch.zeros(20)))}
    assert [each.kind for each in found.values()] == ["Flatten", "Linear", "ReLU", "Linear"]
    values = model[2](model[1](x)).detach().double().numpy()
    hidden = found["2"]
    assert hidden.mean == pytest.approx(values.mean())
    assert hidden.rms == pytest.approx((values**2).mean() ** 0.5)
    assert hidden.spread == pytest.approx((values.std(0) ** 2).mean() ** 0.5)
    assert hidden.zeros == pytest.approx((values == 0).mean())


def test_rows_that_are_alike_have_no_spread() -> None:
    model = nn.Linear(4, 3)
    (same,) = tl.activation_stats(model, torch.ones(6, 4))
    assert same.spread == 0
    assert same.rms > 0


def test_parts_of_a_kind_are_measured_in_the_order_of_the_calls() -> None:
    model = tl.models.DeepMLP(6, 5, 3, 2)
    found = tl.activation_stats(model, torch.randn(4, 6), of=tl.models.DeepLayer)
    assert [each.name for each in found] == ["1", "2", "3"]
    (memory,) = tl.activation_stats(tl.models.Recurrent(4, 3, 2), torch.rand(5, 6, 4), of=nn.GRU)
    assert memory.kind == "GRU"


@pytest.mark.parametrize("training", [True, False])
def test_nothing_is_changed(training: bool) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 2))
    model.train(training)
    model[0].weight.grad = torch.ones(6, 4)
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    tl.activation_stats(model, torch.randn(8, 4, generator=torch.Generator().manual_seed(0)))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert model.training is training
    assert model[1].training is training
    assert torch.equal(model[0].weight.grad, torch.ones(6, 4))
    assert not any(part._forward_hooks for part in model.modules())


def test_a_model_that_fails_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(5, 2))
    with pytest.raises(RuntimeError):
        tl.activation_stats(model, torch.randn(8, 4))
    assert model[0].num_batches_tracked == 0
    assert not model[0].running_mean.any()
    assert not any(part._forward_hooks for part in model.modules())


def with_gradients(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    mean_ce(model, table(20)).backward()
    return model


def test_gradient_flow_is_what_numpy_says_of_the_entries() -> None:
    model = with_gradients()
    found = tl.gradient_flow(model)
    assert [(layer.name, layer.kind) for layer in found] == [("0", "Linear"), ("2", "Linear")]
    for layer, part in zip(found, (model[0], model[2])):
        entries = np.abs(np.concatenate([part.weight.grad.numpy().ravel(), part.bias.grad.numpy()]))
        assert layer.mean == pytest.approx(entries.mean(dtype=np.float64))
        assert layer.max == pytest.approx(entries.max())
        assert layer.given
        assert not layer.dead
        assert not layer.exploding


def test_dead_and_exploding_layers_are_marked_and_frozen_ones_left_out() -> None:
    model = with_gradients()
    model[2].weight.grad.zero_()
    model[2].bias.grad.fill_(1e-9)
    model[0].weight.grad.fill_(1e4)
    first, last = tl.gradient_flow(model)
    assert (first.dead, first.exploding, last.dead, last.exploding) == (False, True, True, False)
    model[0].bias.grad[0] = math.nan
    assert tl.gradient_flow(model)[0].exploding
    model[0].requires_grad_(False)
    assert [layer.name for layer in tl.gradient_flow(model)] == ["2"]
    model.append(nn.Linear(3, 3))  # no gradient has ever come here
    assert [(layer.given, layer.dead) for layer in tl.gradient_flow(model)] == [(True, True), (False, True)]


def test_check_gradients_names_what_is_missing_zero_nan_and_infinite() -> None:
    model = with_gradients()
    assert tl.check_gradients(model).ok
    model[0].weight.grad[0, 0] = math.nan
    model[0].bias.grad[:2] = math.inf
    model[2].weight.grad = None
    model[2].bias.grad.zero_()
    report = tl.check_gradients(model)
    assert not report.ok
    assert [(each.name, each.problem) for each in report.problems] == [
        ("0.weight", "NaN"),
        ("0.bias", "infinite"),
        ("2.weight", "none"),
        ("2.bias", "all 0"),
    ]
    assert (report.parameters[0].nan, report.parameters[1].infinite) == (1, 2)
    assert "4 of 4 gradients have a problem" in str(report)


def test_the_norms_are_those_that_clipping_sees() -> None:
    model = with_gradients()
    report = tl.check_gradients(model)
    assert report.norm == pytest.approx(nn.utils.clip_grad_norm_(model.parameters(), math.inf).item())
    for each, parameter in zip(report.parameters, model.parameters()):
        assert each.ratio == pytest.approx((parameter.grad.norm() / parameter.norm()).item())
    nn.init.zeros_(model[2].bias)
    assert tl.check_gradients(model).parameters[3].ratio == math.inf


def test_a_sparse_gradient_is_measured_where_it_was_touched() -> None:
    words = nn.Embedding(50, 4, sparse=True)
    words(torch.tensor([3, 3, 7])).sum().backward()
    (layer,) = tl.gradient_flow(words)
    assert (layer.mean, layer.max) == (1.5, 2.0)  # word 3 twice, word 7 once
    assert tl.check_gradients(words).norm == pytest.approx(math.sqrt(4 * 4 + 4 * 1))


def test_looking_at_gradients_changes_none() -> None:
    model = with_gradients()
    before = [p.grad.clone() for p in model.parameters()]
    tl.gradient_flow(model)
    tl.check_gradients(model)
    assert all(torch.equal(p.grad, kept) for p, kept in zip(model.parameters(), before))


def test_one_batch_is_learned_as_by_the_loop_written_by_hand() -> None:
    state, batch = make_state("adamw", dropout=0.0), table(16)
    twin = copy.deepcopy(state.model)
    report = tl.overfit_one_batch(state.model, batch, mean_ce, steps=30, target=0.0)
    rule = torch.optim.Adam(twin.parameters(), 0.003)
    losses = []
    for _ in range(31):
        loss = mean_ce(twin, batch)
        losses.append(loss.item())
        rule.zero_grad()
        loss.backward()
        rule.step()
    assert list(report.losses) == losses
    assert not report.ok
    assert "NOT learned in 30 steps" in str(report)


def test_a_sound_model_learns_its_batch_and_one_without_inputs_cannot() -> None:
    batch = table(16)
    report = tl.overfit_one_batch(make_state(dropout=0.0).model, batch, mean_ce, steps=400)
    assert report.ok
    assert report.losses[-1] <= report.target == report.losses[0] / 20
    assert report.reached_at == len(report.losses) - 1
    blind = nn.Sequential(nn.Linear(6, 3))
    blinded = (torch.zeros_like(batch[0]), batch[1])
    assert not tl.overfit_one_batch(blind, blinded, mean_ce, steps=400).ok


def test_a_loss_that_breaks_is_told() -> None:
    def broken(model: nn.Module, batch: Any) -> torch.Tensor:
        return torch.log(-model(batch[0]).square()).mean()

    report = tl.overfit_one_batch(make_state().model, table(8), broken)
    assert not report.ok
    assert "not finite after 0 steps" in str(report)


@pytest.mark.parametrize("own", [True, False], ids=["own optimizer", "Adam"])
@pytest.mark.parametrize("fails", [True, False], ids=["fails", "ends"])
def test_overfitting_leaves_no_trace(own: bool, fails: bool) -> None:
    state = make_state("adamw")
    tl.fit(state, [table(16)], mean_ce, tl.TrainConfig(epochs=2))
    state.model[1].eval()  # a part frozen on purpose
    state.model[0].weight.grad = torch.ones_like(state.model[0].weight)
    gradients = [p.grad if p.grad is None else p.grad.clone() for p in state.model.parameters()]
    before, calls = everything(state), [0]

    def loss_fn(model: nn.Module, batch: Any) -> torch.Tensor:
        calls[0] += 1
        if fails and calls[0] == 4:
            raise KeyboardInterrupt
        model.train()
        return mean_ce(model, batch)

    optimizer = state.optimizer if own else None
    if fails:
        with pytest.raises(KeyboardInterrupt):
            tl.overfit_one_batch(state.model, table(16), loss_fn, steps=6, optimizer=optimizer)
    else:
        tl.overfit_one_batch(state.model, table(16), loss_fn, steps=6, target=0.0, optimizer=optimizer)
    assert calls[0] > 3
    assert_same(everything(state), before)
    for parameter, kept in zip(state.model.parameters(), gradients):
        assert (parameter.grad is None) == (kept is None)
        assert kept is None or torch.equal(parameter.grad, kept)


def test_the_flow_is_drawn_on_a_log_scale_with_its_marks() -> None:
    model = with_gradients()
    model[0].weight.grad.fill_(1e4)
    model[2].weight.grad.zero_()
    model[2].bias.grad.zero_()
    layers = tl.gradient_flow(model)
    ax = tl.plot_gradient_flow(layers)
    assert ax.get_yscale() == "log"
    assert next(bar.get_height() for bar in ax.patches) == layers[0].mean
    marks = {line.get_label(): list(line.get_xdata()) for line in ax.lines}
    assert marks == {"largest of a layer": [0, 1], "dead": [1], "exploding": [0]}
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0 Linear", "2 Linear"]
