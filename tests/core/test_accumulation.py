"""k micro-batches make the step of one batch of k times the size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from core.runs import CLASSES, FEATURES, make_state, mean_ce, network, table
from torch import Tensor, nn
from torch.nn import functional as F

import trainlab as tl


def trained(data: Any, size: int, accumulate: int, loss_fn: Any, **options: Any) -> tuple[list[Any], Any]:
    state = make_state("momentum", "step", norm=False, dropout=0.0)
    loader = tl.make_loader(data, size, seed=2, shuffle=True)
    config = tl.TrainConfig(epochs=2, accumulate=accumulate, **options)
    return list(tl.train(state, loader, loss_fn, config)), state


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("loss_fn", [mean_ce, tl.losses.classification()], ids=["bare", "sum"])
@pytest.mark.parametrize("clip", [None, 0.2])
def test_micro_batches_make_one_batch(k: int, loss_fn: Any, clip: float | None) -> None:
    data = table(199)  # the last group is short, and so is its last micro-batch
    small, accumulated = trained(data, 8, k, loss_fn, clip_norm=clip)
    large, whole = trained(data, 8 * k, 1, loss_fn, clip_norm=clip)
    torch.testing.assert_close(accumulated.model.state_dict(), whole.model.state_dict())
    torch.testing.assert_close([float(e.loss) for e in small], [float(e.loss) for e in large])
    assert [e.samples for e in small] == [e.samples for e in large]
    assert len(small) == len(large) == small[-1].total == large[-1].total


def test_class_weights_weigh_over_the_whole_step() -> None:
    loss_fn = tl.losses.classification(weight=torch.tensor([1.0, 5.0, 0.2]), label_smoothing=0.1)
    _, accumulated = trained(table(199), 8, 4, loss_fn)
    _, whole = trained(table(199), 32, 1, loss_fn)
    torch.testing.assert_close(accumulated.model.state_dict(), whole.model.state_dict())


class Tagger(nn.Module):
    """One row of class scores for each token."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layer = nn.Linear(FEATURES, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.layer(tokens)  # (N,T,6) -> (N,T,3)


def tokens(rows: int = 24) -> tuple[Tensor, Tensor]:
    """Sequences of very different lengths; the first micro-batch holds nothing but padding."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(rows, 7, FEATURES, generator=generator)
    targets = torch.randint(0, CLASSES, (rows, 7), generator=generator)
    lengths = torch.randint(1, 8, (rows,), generator=generator)
    targets[torch.arange(7) >= lengths[:, None]] = -100
    targets[:4] = -100
    return features, targets


def test_uneven_token_counts_are_exact_even_where_a_micro_batch_has_none() -> None:
    features, targets = tokens()
    ends = []
    for size, k in ((4, 3), (12, 1)):
        model = Tagger()
        state = tl.TrainState(model, torch.optim.SGD(model.parameters(), 0.5))
        loader = tl.make_loader((features, targets), size, seed=0, shuffle=False)
        loss_fn = tl.losses.classification(ignore_index=-100)
        events = list(tl.train(state, loader, loss_fn, tl.TrainConfig(epochs=3, accumulate=k)))
        ends.append((model.state_dict(), [float(event.loss) for event in events]))
    torch.testing.assert_close(ends[0], ends[1])

    model = Tagger()  # and both are torch's own mean over the tokens of twelve rows
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    for _ in range(3):
        for begin in (0, 12):
            optimizer.zero_grad()
            logits, wanted = model(features[begin : begin + 12]), targets[begin : begin + 12]
            F.cross_entropy(logits.flatten(0, 1), wanted.flatten()).backward()
            optimizer.step()
    torch.testing.assert_close(ends[0][0], model.state_dict())


@pytest.mark.parametrize("k", [1, 2])
def test_a_step_in_which_no_token_counts_does_not_ruin_the_weights(k: int) -> None:
    features, targets = tokens(8)
    targets[:] = -100
    model = Tagger()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = tl.TrainState(model, torch.optim.SGD(model.parameters(), 0.5))
    loader = tl.make_loader((features, targets), 4, seed=0, shuffle=False)
    with pytest.raises(tl.TrainlabError, match="loss at step 1 is nan"):
        loss_fn = tl.losses.classification(ignore_index=-100)
        list(tl.train(state, loader, loss_fn, tl.TrainConfig(epochs=1, accumulate=k)))
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_gradients_at_the_yield_are_those_of_the_mean() -> None:
    data = table(48)
    state = make_state("sgd", None, norm=False, dropout=0.0)
    twin = network(norm=False, dropout=0.0)
    loader = tl.make_loader(data, 8, seed=0, shuffle=False)
    for event in tl.train(state, loader, mean_ce, tl.TrainConfig(steps=1, accumulate=6)):
        F.cross_entropy(twin(data[0]), data[1]).backward()
        for ours, theirs in zip(state.model.parameters(), twin.parameters()):
            torch.testing.assert_close(ours.grad, theirs.grad)
        assert event.samples == 48


def test_metrics_of_a_step_weigh_by_their_own_counts() -> None:
    def loss_fn(model: nn.Module, batch: Any) -> tl.Loss:
        features, targets = batch
        total = F.cross_entropy(model(features), targets, reduction="sum")
        first = targets == 0
        return tl.Loss(total, len(targets), {"first": (features[first, 0].sum(), first.sum()), "x": total})

    features, targets = table(60)
    events, _ = trained((features, targets), 10, 6, loss_fn)
    expected = features[targets == 0, 0].mean()
    torch.testing.assert_close(torch.as_tensor(events[0].metrics["first"]), expected)
    assert float(events[0].metrics["x"]) == pytest.approx(float(events[0].loss))
