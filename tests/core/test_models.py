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


# --- deep and recurrent -------------------------------------------------------------------------------


def test_a_deep_mlp_is_the_chain_of_its_layers() -> None:
    torch.manual_seed(0)
    model = tl.models.DeepMLP(12, 8, 3, 4, norm="layer", activation="tanh")
    x = torch.randn(5, 3, 4)
    h = x.flatten(1)
    for layer in model[1:4]:
        h = torch.tanh(nn.functional.layer_norm(layer.linear(h), (8,)))
    torch.testing.assert_close(model(x), model[4](h))
    assert tl.count_parameters(model) == 12 * 8 + 8 + 2 * (8 * 8 + 8) + 3 * 16 + 8 * 4 + 4


def test_a_residual_layer_whose_branch_is_silent_passes_its_input_on() -> None:
    layer = tl.models.DeepLayer(6, 6, norm="batch", residual=True)
    nn.init.zeros_(layer.linear.weight)
    nn.init.zeros_(layer.linear.bias)
    x = torch.randn(9, 6)
    assert torch.equal(layer(x), x)
    kinds = [part.residual for part in tl.models.DeepMLP(12, 6, 4, 2, residual=True)[1:5]]
    assert kinds == [False, True, True, True]


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_the_scale_is_the_variance_of_the_weights_times_the_inputs(scale: float) -> None:
    torch.manual_seed(0)
    linear = tl.models.DeepLayer(400, 300, scale=scale).linear
    assert linear.weight.var().item() * 400 == pytest.approx(scale, rel=0.03)
    assert not linear.bias.any()
    plain = tl.models.DeepLayer(400, 300).linear
    assert plain.weight.var().item() * 400 == pytest.approx(1 / 3, rel=0.03)


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_a_recurrent_model_steps_through_the_rows_with_one_set_of_weights(cell: str) -> None:
    torch.manual_seed(0)
    model, images = tl.models.Recurrent(4, 6, 3, cell=cell), torch.rand(5, 1, 7, 4)
    single = {"rnn": nn.RNNCell, "gru": nn.GRUCell, "lstm": nn.LSTMCell}[cell](4, 6)
    single.load_state_dict({name[:-3]: value for name, value in model.memory.state_dict().items()})
    state = None
    for row in range(7):
        state = single(images[:, 0, row], state)
    last = state[0] if cell == "lstm" else state
    torch.testing.assert_close(model(images), model.head(last))
    torch.testing.assert_close(model(images[:, 0]), model(images))


def test_rows_of_a_colour_image_hold_all_channels() -> None:
    model = tl.models.Recurrent(3 * 5, 4, 2)
    images = torch.rand(2, 3, 7, 5)
    rows = torch.stack([images[:, :, row].flatten(1) for row in range(7)], 1)
    torch.testing.assert_close(model(images), model(rows))


@pytest.mark.parametrize("depth", [1, 2, 7])
def test_the_widest_network_fits_the_budget_and_the_next_one_does_not(depth: int) -> None:
    width = tl.models.widest(5000, 30, depth, 4)
    counts = [tl.count_parameters(tl.models.DeepMLP(30, each, depth, 4)) for each in (width, width + 1)]
    assert counts[0] <= 5000 < counts[1]


def test_dropconnect_is_dropout_of_the_weights_on_the_same_draws() -> None:
    torch.manual_seed(0)
    layer, x = tl.models.DropConnect(6, 4, p=0.5), torch.randn(5, 6)
    torch.manual_seed(1)
    got = layer(x)
    torch.manual_seed(1)
    kept = torch.empty_like(layer.weight).bernoulli_(0.5)
    assert 0 < kept.sum() < kept.numel()
    torch.testing.assert_close(got, x @ (layer.weight * kept / 0.5).T + layer.bias)
    got.sum().backward()
    assert ((layer.weight.grad != 0) == (kept != 0)).all(), "a silenced weight has no gradient"


@pytest.mark.parametrize("p", [0.2, 0.5, 0.8])
def test_dropconnect_expects_what_eval_mode_gives(p: float) -> None:
    torch.manual_seed(0)
    layer, x = tl.models.DropConnect(30, 4, p=p), torch.rand(3, 30)
    with torch.no_grad():
        draws = torch.stack([layer(x) for _ in range(4000)])
        whole = layer.eval()(x)
    error = draws.std(0) / 4000**0.5
    assert ((draws.mean(0) - whole).abs() < 5 * error).all()
    torch.testing.assert_close(whole, torch.nn.functional.linear(x, layer.weight, layer.bias))


def test_a_dropconnect_layer_takes_the_weights_of_a_linear_one_and_says_its_p() -> None:
    plain, layer = nn.Linear(3, 2), tl.models.DropConnect(3, 2, p=0.3)
    layer.load_state_dict(plain.state_dict())
    x = torch.randn(4, 3)
    torch.testing.assert_close(layer.eval()(x), plain(x))
    assert "p=0.3" in repr(layer)
    assert tl.models.DropConnect(3, 2, bias=False).bias is None


# --- the transformer ----------------------------------------------------------------------------------


def test_a_transformer_is_torchs_own_encoder_with_the_same_weights() -> None:
    torch.manual_seed(0)
    block = tl.models.TransformerBlock(16, 4, causal=False)
    own = nn.TransformerEncoderLayer(16, 4, 64, 0.0, "gelu", batch_first=True, norm_first=True)
    names = {
        "query_key_value": "self_attn.in_proj_",
        "mix": "self_attn.out_proj.",
        "widen": "linear1.",
        "narrow": "linear2.",
        "norm1": "norm1.",
        "norm2": "norm2.",
    }
    weights = {
        names[key.split(".")[0]] + key.split(".")[1]: value for key, value in block.state_dict().items()
    }
    own.load_state_dict(weights)
    x = torch.randn(3, 7, 16)
    torch.testing.assert_close(block(x), own(x))


def test_a_token_sees_what_is_before_it_and_nothing_after() -> None:
    torch.manual_seed(0)
    model = tl.models.Transformer(9, width=16, layers=2, length=12)
    tokens = torch.randint(0, 9, (2, 10))
    changed = tokens.clone()
    changed[:, 6] = (changed[:, 6] + 1) % 9
    before, after = model(tokens), model(changed)
    assert before.shape == (2, 10, 9)
    torch.testing.assert_close(before[:, :6], after[:, :6])
    assert not torch.allclose(before[:, 6:], after[:, 6:], atol=1e-3)
    both_ways = tl.models.Transformer(9, width=16, layers=2, length=12, causal=False)
    assert not torch.allclose(both_ways(tokens)[:, :6], both_ways(changed)[:, :6], atol=1e-5)


def test_tied_weights_are_one() -> None:
    tied = tl.models.Transformer(50, width=8, layers=1, heads=2, tied=True)
    loose = tl.models.Transformer(50, width=8, layers=1, heads=2)
    assert tied.head.weight is tied.token.weight
    assert tl.count_parameters(loose) - tl.count_parameters(tied) == 50 * 8
