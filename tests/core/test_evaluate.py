"""`evaluate` measures exactly and leaves no trace."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from core.runs import assert_same, mean_ce, network, table
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import trainlab as tl
from trainlab.randomness import get_rng_state


@pytest.mark.parametrize("loss_fn", [mean_ce, tl.losses.classification()], ids=["bare", "sum"])
@pytest.mark.parametrize("batch_size", [7, 64, 100])
def test_uneven_batches_give_the_mean_over_all_rows(loss_fn: Any, batch_size: int) -> None:
    features, targets = table(100)
    model = network()
    means = tl.evaluate(
        model, tl.make_loader((features, targets), batch_size, seed=0, shuffle=False), loss_fn
    )
    model.eval()
    logits = model(features)
    assert means["loss"] == pytest.approx(F.cross_entropy(logits, targets).item(), rel=1e-6)
    if "accuracy" in means:
        assert means["accuracy"] == (logits.argmax(1) == targets).sum().item() / 100


def test_no_trace_is_left() -> None:
    model = network()
    model[1].eval()  # a frozen BatchNorm in a model in training
    model(table(8)[0]).sum().backward()
    grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    rng = get_rng_state()
    seen: list[tuple[bool, bool]] = []

    def drawing(model: nn.Module, batch: Any) -> torch.Tensor:
        seen.append((model.training, torch.is_grad_enabled()))
        random.random(), np.random.rand(), torch.rand(1)
        return mean_ce(model, batch)

    loader = DataLoader(TensorDataset(*table(50)), 16, shuffle=True)  # draws from the global generator
    tl.evaluate(model, loader, drawing)
    assert set(seen) == {(False, False)}
    assert torch.is_grad_enabled()
    assert [module.training for module in model.modules()] == modes
    assert_same(dict(model.state_dict()), weights)
    assert_same([p.grad for p in model.parameters() if p.grad is not None], grads)
    assert_same(get_rng_state(), rng)


def test_no_trace_is_left_by_an_evaluation_that_fails() -> None:
    model = network()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    rng = get_rng_state()

    def failing(model: nn.Module, batch: Any) -> torch.Tensor:
        torch.rand(1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        tl.evaluate(model, tl.make_loader(table(8), 8, seed=0, shuffle=False), failing)
    assert [module.training for module in model.modules()] == modes
    assert torch.is_grad_enabled()
    assert_same(get_rng_state(), rng)


def test_regression_measures_in_the_targets_unit() -> None:
    features, _ = table(50)
    targets = features[:, :2] * 3
    model = nn.Linear(6, 2)
    means = tl.evaluate(
        model, tl.make_loader((features, targets), 16, seed=0, shuffle=False), tl.losses.regression()
    )
    assert means["loss"] == pytest.approx(F.mse_loss(model(features), targets).item(), rel=1e-5)
    assert means["mae"] == pytest.approx((model(features) - targets).abs().mean().item(), rel=1e-5)


def test_the_order_of_evaluation_is_the_same_each_time() -> None:
    loader = tl.make_loader(table(30), 8, seed=0, shuffle=True)
    orders = []
    for _ in range(2):
        seen: list[torch.Tensor] = []
        tl.evaluate(network(), loader, lambda m, b, seen=seen: (seen.append(b[0]), mean_ce(m, b))[1])
        orders.append(torch.cat(seen))
    assert torch.equal(*orders)
