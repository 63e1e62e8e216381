"""Losses are torch's own, summed and counted: for each kind, also through `train`, and mixed."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import trainlab as tl

REFERENCES: dict[str, Any] = {
    "mse": F.mse_loss,
    "l1": F.l1_loss,
    "huber": partial(F.huber_loss, delta=0.4),
    "pinball": lambda said, y: (0.8 * (y - said).clamp(min=0) + 0.2 * (said - y).clamp(min=0)).mean(),
}


def rows(count: int = 50) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, generator=generator), torch.randn(count, 1, generator=generator)


def mean_and_gradient(loss_fn: Any, model: nn.Module, batch: Any) -> tuple[Tensor, list[Tensor]]:
    found = loss_fn(model, batch)
    mean = found.total / found.count if isinstance(found, tl.Loss) else found
    return mean, list(torch.autograd.grad(mean, list(model.parameters())))


@pytest.mark.parametrize("kind", REFERENCES)
def test_a_regression_loss_is_torchs(kind: str) -> None:
    model, batch = nn.Linear(3, 1), rows()
    loss_fn = tl.losses.regression(kind, delta=0.4, quantile=0.8)
    torch.testing.assert_close(
        mean_and_gradient(loss_fn, model, batch),
        mean_and_gradient(lambda model, batch: REFERENCES[kind](model(batch[0]), batch[1]), model, batch),
    )


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.9])
def test_the_pinball_loss_is_lowest_at_the_quantile(quantile: float) -> None:
    targets = torch.randn(1001, generator=torch.Generator().manual_seed(1)).exp()
    tried = torch.linspace(0.05, 6, 2000)
    losses = torch.stack(
        [tl.losses.pinball_loss(each.expand(1001), targets, quantile=quantile) for each in tried]
    )
    torch.testing.assert_close(tried[losses.argmin()], targets.quantile(quantile), atol=0.01, rtol=0)


def test_the_pinball_loss_reduces_as_torchs_losses_do() -> None:
    said, y = torch.tensor([1.0, 1.0]), torch.tensor([3.0, 0.0])
    each = tl.losses.pinball_loss(said, y, quantile=0.9, reduction="none")
    torch.testing.assert_close(each, torch.tensor([1.8, 0.1]))
    torch.testing.assert_close(tl.losses.pinball_loss(said, y, quantile=0.9, reduction="sum"), each.sum())
    torch.testing.assert_close(tl.losses.pinball_loss(said, y, quantile=0.9), each.mean())


@pytest.mark.parametrize("weight", [None, 7.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.bool])
def test_binary_is_torchs(weight: float | None, smoothing: float, dtype: torch.dtype) -> None:
    model, x = nn.Linear(3, 1), rows()[0]
    y = x[:, :1] > 0.3
    factor = None if weight is None else torch.tensor(weight)

    def reference(model: nn.Module, batch: Any) -> Tensor:
        target = y.float() * (1 - smoothing) + smoothing / 2
        return F.binary_cross_entropy_with_logits(model(x), target, pos_weight=factor)

    loss_fn = tl.losses.binary(pos_weight=weight, label_smoothing=smoothing)
    torch.testing.assert_close(
        mean_and_gradient(loss_fn, model, (x, y.to(dtype))), mean_and_gradient(reference, model, None)
    )


def test_binary_is_the_classification_of_two_classes() -> None:
    x, z = rows(40)
    y = (x[:, 0] > 0).long()
    two = torch.cat([torch.zeros_like(z), z], 1)
    for smoothing in (0.0, 0.3):
        one = tl.losses.binary(label_smoothing=smoothing)(nn.Identity(), (z, y[:, None]))
        other = tl.losses.classification(label_smoothing=smoothing)(nn.Identity(), (two, y))
        assert isinstance(one, tl.Loss)
        torch.testing.assert_close(one.total / one.count, other)


def test_binary_measures_accuracy_in_eval_mode() -> None:
    logits, y = torch.tensor([[2.0], [-1.0], [0.5], [-3.0]]), torch.tensor([[1], [1], [0], [0]])
    loader = tl.make_loader((logits, y), 3, seed=0, shuffle=False)
    assert tl.evaluate(nn.Identity(), loader, tl.losses.binary())["accuracy"] == 0.5


def test_a_mixture_is_the_weighted_sum_and_measures_its_parts() -> None:
    model, batch = nn.Linear(3, 1), rows()
    mixed = tl.losses.mixture(
        {"square": (0.3, tl.losses.regression("mse")), "absolute": (2.0, tl.losses.regression("l1"))}
    )

    def reference(model: nn.Module, batch: Any) -> Tensor:
        said = model(batch[0])
        return 0.3 * F.mse_loss(said, batch[1]) + 2.0 * F.l1_loss(said, batch[1])

    torch.testing.assert_close(
        mean_and_gradient(mixed, model, batch), mean_and_gradient(reference, model, batch)
    )
    found = tl.evaluate(model, tl.make_loader(batch, 7, seed=0, shuffle=False), mixed)
    said = model(batch[0])
    assert found["square"] == pytest.approx(F.mse_loss(said, batch[1]).item(), rel=1e-5)
    assert found["absolute"] == pytest.approx(F.l1_loss(said, batch[1]).item(), rel=1e-5)
    assert found["absolute_mae"] == pytest.approx(found["absolute"])
    assert found["loss"] == pytest.approx(0.3 * found["square"] + 2.0 * found["absolute"], rel=1e-5)


def test_a_mixture_takes_bare_means_and_plain_classifications() -> None:
    model, x = nn.Linear(3, 2), rows()[0]
    y = (x[:, 0] > 0).long()
    mixed = tl.losses.mixture(
        {"bare": (1.0, lambda model, batch: F.cross_entropy(model(batch[0]), batch[1])),
         "classes": (0.5, tl.losses.classification())}
    )  # fmt: skip
    mean, _ = mean_and_gradient(mixed, model, (x, y))
    torch.testing.assert_close(mean, 1.5 * F.cross_entropy(model(x), y))


def test_a_mixture_asks_the_model_once() -> None:
    calls = []

    class Counting(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(len(x))
            return super().forward(x)

    parts = {kind: (1.0, tl.losses.regression(kind)) for kind in REFERENCES}
    tl.losses.mixture(parts)(Counting(3, 1), rows(6))
    assert calls == [6]


@pytest.mark.parametrize("loss_fn", [
    tl.losses.regression("pinball", quantile=0.9),
    tl.losses.mixture({"a": (0.5, tl.losses.regression("mse")), "b": (0.5, tl.losses.regression("l1"))}),
], ids=["pinball", "mixture"])  # fmt: skip
def test_accumulated_steps_are_those_of_whole_batches(loss_fn: Any) -> None:
    ends = []
    for size, accumulate in ((5, 4), (20, 1)):
        tl.seed_everything(0)
        model = nn.Linear(3, 1)
        state = tl.TrainState(model, torch.optim.SGD(model.parameters(), 0.1))
        loader = tl.make_loader(rows(48), size, seed=0, shuffle=False)
        tl.fit(state, loader, loss_fn, tl.TrainConfig(epochs=2, accumulate=accumulate))
        ends.append(model.state_dict())
    torch.testing.assert_close(*ends)


def test_many_models_are_trained_at_once_on_the_new_losses() -> None:
    x = rows()[0]
    loader = tl.make_loader((x, (x[:, :1] > 0).float()), 10, seed=0, shuffle=False)
    parts = {
        "bce": (0.5, tl.losses.binary(pos_weight=3.0)),
        "pinball": (0.5, tl.losses.regression("pinball")),
    }
    report = tl.sweep(
        lambda: nn.Linear(3, 1), loader, tl.losses.mixture(parts), [0.1, 0.2], seeds=[0, 0], epochs=1
    )
    for member in report.members:
        tl.seed_everything(0)
        model = nn.Linear(3, 1)
        state = tl.TrainState(model, torch.optim.SGD(model.parameters(), member.lr))
        losses = tl.fit(state, loader, tl.losses.mixture(parts), tl.TrainConfig(epochs=1)).column("loss")
        torch.testing.assert_close(list(member.losses), losses, rtol=1e-4, atol=1e-5)
