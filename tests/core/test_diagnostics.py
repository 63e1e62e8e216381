"""What is measured inside a model, against the same sums by hand; nothing of it is changed."""

from __future__ import annotations

import copy

import pytest
import torch
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
