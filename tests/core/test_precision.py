"""Half precision: close to float32, with a scaler that survives, and clipping of the true gradients."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from core.runs import make_state, mean_ce, table
from torch import nn
from torch.nn import functional as F

import trainlab as tl


def trained(precision: str, **options: Any) -> tuple[tl.TrainState, list[Any]]:
    state = make_state("sgd", None, dropout=0.0)
    loader = tl.make_loader(table(200), 50, seed=0, shuffle=True)
    config = tl.TrainConfig(epochs=10, precision=precision, device="cpu", **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return state, list(tl.train(state, loader, mean_ce, config))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_stays_close_to_float32(precision: str) -> None:
    state, events = trained(precision)
    reference, expected = trained("fp32")
    assert all(p.dtype == torch.float32 for p in state.model.parameters())
    torch.testing.assert_close(
        [float(e.loss) for e in events], [float(e.loss) for e in expected], rtol=0.02, atol=0.02
    )
    torch.testing.assert_close(
        dict(state.model.named_parameters()), dict(reference.model.named_parameters()), rtol=0.05, atol=0.02
    )
    assert float(events[-1].loss) != float(expected[-1].loss)  # it did run in half precision


def test_matrix_products_run_in_the_asked_precision() -> None:
    seen: list[torch.dtype] = []
    state = make_state()
    state.model[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    loader = tl.make_loader(table(16), 8, seed=0, shuffle=True)
    config = tl.TrainConfig(epochs=1, precision="bf16", device="cpu")
    for _ in tl.train(state, loader, mean_ce, config, valid=loader):
        assert not torch.is_autocast_enabled("cpu")  # no context spans a yield
        assert torch.is_grad_enabled()
    assert set(seen) == {torch.bfloat16}


def test_fp16_on_a_cpu_warns_and_makes_a_scaler() -> None:
    state = make_state()
    loader = tl.make_loader(table(16), 8, seed=0, shuffle=True)
    with pytest.warns(UserWarning, match="'fp16' on a CPU works but is slow"):
        list(tl.train(state, loader, mean_ce, tl.TrainConfig(epochs=1, precision="fp16", device="cpu")))
    assert state.scaler is not None
    list(tl.train(state, loader, mean_ce, tl.TrainConfig(epochs=2, device="cpu")))
    assert state.scaler is None


@pytest.mark.filterwarnings("ignore:precision='fp16'")
def test_clipping_comes_after_unscaling() -> None:
    data = table(50)
    for limit in (0.05, 1e6):
        state = make_state("sgd", None, dropout=0.0)
        loader = tl.make_loader(data, 50, seed=0, shuffle=False)
        config = tl.TrainConfig(steps=1, precision="fp16", clip_norm=limit, device="cpu")
        event = next(iter(tl.train(state, loader, mean_ce, config)))
        model = make_state("sgd", None, dropout=0.0).model
        F.cross_entropy(model(data[0]), data[1]).backward()
        true = nn.utils.get_total_norm([p.grad for p in model.parameters()])
        assert float(event.grad_norm) == pytest.approx(float(true), rel=0.02)
        left = nn.utils.get_total_norm([p.grad for p in state.model.parameters()])
        assert float(left) == pytest.approx(min(limit, float(true)), rel=0.02)


@pytest.mark.filterwarnings("ignore:precision='fp16'")
def test_accumulated_sums_do_not_overflow_half_precision() -> None:
    """A sum over 4,000 items times the first scale is beyond float16; the mean of it is not."""
    model = nn.Linear(6, 3)
    state = tl.TrainState(model, torch.optim.SGD(model.parameters(), 0.1))
    loader = tl.make_loader(table(8000), 4000, seed=0, shuffle=True)
    config = tl.TrainConfig(steps=1, accumulate=2, precision="fp16", device="cpu")
    before = model.weight.detach().clone()
    list(tl.train(state, loader, tl.losses.classification(), config))
    assert state.scaler is not None
    assert state.scaler.get_scale() == 2.0**16  # no step was skipped
    assert not torch.equal(model.weight, before)
