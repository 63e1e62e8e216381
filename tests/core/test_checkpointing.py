"""Activation checkpointing: the same gradients, statistics and draws to the bit, and less that is kept."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import trainlab as tl

Build = Callable[[], nn.Module]
MODELS: dict[str, tuple[Build, tuple[int, ...]]] = {
    "MLP": (lambda: tl.models.MLP(20, [16] * 6, 5, norm=True, dropout=0.3), (12, 20)),
    "DeepMLP": (lambda: tl.models.DeepMLP(20, 16, 8, 5, norm="batch", residual=True), (12, 20)),
    "ResNet": (lambda: tl.models.ResNet(1, 5, widths=(16, 32), blocks=2), (6, 1, 12, 12)),
    "Transformer": (lambda: tl.models.Transformer(5, width=16, layers=4, length=8, dropout=0.3), (6, 8)),
    "one inside another": (
        lambda: nn.Sequential(nn.Linear(20, 20), tl.models.MLP(20, [16] * 4, 5, dropout=0.2)),
        (12, 20),
    ),
}


def inputs(shape: tuple[int, ...], name: str) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    if name == "Transformer":
        x, y = torch.randint(0, 5, (2, *shape))
        return x, y
    return torch.randn(shape), torch.randint(0, 5, shape[:1])


def trained(model: nn.Module, x: Tensor, y: Tensor, precision: str, steps: int = 3) -> list[Tensor]:
    """Train a few steps; the losses, and what was drawn after them."""
    torch.manual_seed(2)
    optimizer, seen = torch.optim.Adam(model.parameters(), 0.01), []
    for _ in range(steps):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = F.cross_entropy(model(x).flatten(0, -2), y.flatten())
        loss.backward()
        optimizer.step()
        seen += [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]
    return [*seen, torch.rand(3)]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", MODELS)
def test_a_checkpointed_model_learns_the_same_to_the_bit(name: str, precision: str) -> None:
    build, shape = MODELS[name]
    torch.manual_seed(0)
    plain = build()
    again = tl.models.checkpoint_activations(copy.deepcopy(plain))
    x, y = inputs(shape, name)
    expected, got = (trained(model, x, y, precision) for model in (plain, again))
    assert all(torch.equal(one, other) for one, other in zip(expected, got))
    # buffers too: the second forward pass counts no row twice
    mine, theirs = again.state_dict(), plain.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_without_care_a_batch_norm_counts_the_rows_twice() -> None:
    """What the test above would not see if torch did it by itself."""
    norm, x = nn.BatchNorm1d(4), torch.randn(8, 4) + 3
    torch.utils.checkpoint.checkpoint(norm, x.requires_grad_(), use_reentrant=False).sum().backward()
    assert norm.num_batches_tracked == 2


@pytest.mark.parametrize("name", ["MLP", "ResNet", "Transformer"])
def test_it_keeps_less_and_computes_more(name: str) -> None:
    build, shape = MODELS[name]
    torch.manual_seed(0)
    model = build()
    x, y = inputs(shape, name)

    def step() -> None:
        F.cross_entropy(model(x).flatten(0, -2), y.flatten()).backward()

    kept = tl.measure_step(step, model, repeats=0).parts["activations"]
    tl.models.checkpoint_activations(model)
    calls: list[int] = []
    layers = [part for part in model.modules() if isinstance(part, nn.Linear | nn.Conv2d)]
    hooks = [layer.register_forward_hook(lambda *_: calls.append(0)) for layer in layers]
    step()
    for hook in hooks:
        hook.remove()
    assert len(calls) > 1.3 * len(layers)
    assert tl.measure_step(step, model, repeats=0).parts["activations"] < 0.8 * kept
    tl.models.checkpoint_activations(model, False)
    assert tl.measure_step(step, model, repeats=0).parts["activations"] == kept


def test_where_nothing_is_learned_nothing_is_computed_twice() -> None:
    model = tl.models.checkpoint_activations(tl.models.Transformer(5, width=16, layers=2, length=8))
    calls: list[int] = []
    model.blocks[0].register_forward_hook(lambda *_: calls.append(0))
    x = torch.randint(0, 5, (2, 8))
    with torch.no_grad():
        model(x)
    model.eval()
    model(x).sum().backward()
    assert len(calls) == 2
