"""Shapes, counts and structure of the models, against torch's own parts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import trainlab as tl


def test_an_mlp_is_the_chain_of_its_layers() -> None:
    model = tl.models.MLP(12, [8, 5], 3, activation="tanh")
    x = torch.randn(4, 3, 4)
    first, second, last = model[1], model[3], model[5]
    expected = last(torch.tanh(second(torch.tanh(first(x.flatten(1))))))
    torch.testing.assert_close(model(x), expected)
    torch.testing.assert_close(model[-1](model[:-1](x)), expected)
    assert type(model[:-1]) is nn.Sequential


def test_count_parameters() -> None:
    model = tl.models.MLP(784, [128], 10)
    assert tl.count_parameters(model) == 784 * 128 + 128 + 128 * 10 + 10
    model[1].requires_grad_(False)
    assert tl.count_parameters(model, trainable_only=True) == 128 * 10 + 10
    shared = nn.Linear(3, 3)
    assert tl.count_parameters(nn.Sequential(shared, shared)) == 12


@pytest.mark.parametrize("size", [8, 28, 31])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["CNN", "ResNet"])
def test_images_of_any_size_give_one_row_of_scores(kind: str, channels: int, size: int) -> None:
    model = getattr(tl.models, kind)(channels, 7)
    assert model(torch.randn(2, channels, size, size)).shape == (2, 7)


def test_a_residual_block_whose_convolutions_are_silent_passes_its_input_on() -> None:
    block = tl.models.ResidualBlock(4, 4).eval()
    nn.init.zeros_(block.norm2.weight)
    x = torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(block(x), torch.relu(x))


def test_batch_norm_and_dropout_stand_where_the_text_says() -> None:
    kinds = [type(layer).__name__ for layer in tl.models.MLP(4, [3], 2, norm=True, dropout=0.5)]
    assert kinds == ["Flatten", "Linear", "BatchNorm1d", "ReLU", "Dropout", "Linear"]
