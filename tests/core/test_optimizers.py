"""Optimizers built out of torch's: against loops by hand, singular values, and groups made by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from core.runs import assert_same, assert_same_run, mean_ce, network, table
from torch import Tensor, nn
from torch.nn import functional as F

import trainlab as tl
from trainlab.optimizers import Combined, Lookahead, muon, parameter_groups

INNER: dict[str, Callable[[Iterable[Tensor]], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1),
    "momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01),
    "adamw-fused": lambda p: torch.optim.AdamW(p, 0.01, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01),
}


def batches() -> Any:
    return tl.make_loader(table(80), 8, seed=3, shuffle=True)


def state_of(build: Callable[[nn.Module], torch.optim.Optimizer], **options: Any) -> tl.TrainState:
    model = network(**options)
    optimizer = build(model)
    state = tl.TrainState(model, optimizer, tl.schedules.warmup_cosine(optimizer, steps=40, warmup=4))
    torch.manual_seed(11)
    return state


BUILT: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "lookahead sgd": lambda m: Lookahead(INNER["sgd"](m.parameters())),
    "lookahead adamw": lambda m: Lookahead(INNER["adamw"](m.parameters()), steps=4),
    "muon": muon,
    "lookahead muon": lambda m: Lookahead(muon(m), steps=3, alpha=0.8),
    "adamw by layers": lambda m: torch.optim.AdamW(
        parameter_groups(m, lr=0.01, weight_decay=0.1, layer_decay=0.5)
    ),
}


@pytest.mark.parametrize("inner", INNER)
def test_lookahead_is_the_loop_of_the_paper(inner: str) -> None:
    state = state_of(lambda m: Lookahead(INNER[inner](m.parameters()), steps=3, alpha=0.4))
    tl.fit(state, batches(), mean_ce, tl.TrainConfig(steps=20))

    model = network()
    fast = INNER[inner](model.parameters())
    schedule = tl.schedules.warmup_cosine(fast, steps=40, warmup=4)
    slow = [parameter.detach().clone() for parameter in model.parameters()]
    torch.manual_seed(11)
    loader = batches()
    for place, batch in enumerate([*loader.batches(0), *loader.batches(1)], 1):
        fast.zero_grad()
        mean_ce(model, batch).backward()
        fast.step()
        schedule.step()
        if place % 3 == 0:
            with torch.no_grad():
                slow = [torch.lerp(s, p, 0.4) for s, p in zip(slow, model.parameters())]
                for parameter, value in zip(model.parameters(), slow):
                    parameter.copy_(value)
    assert_same(state.model.state_dict(), model.state_dict())


def test_with_alpha_1_lookahead_is_the_fast_optimizer() -> None:
    states = [
        state_of(lambda m: Lookahead(INNER["momentum"](m.parameters()), alpha=1.0)),
        state_of(lambda m: INNER["momentum"](m.parameters())),
    ]
    for state in states:
        torch.manual_seed(11)
        tl.fit(state, batches(), mean_ce, tl.TrainConfig(steps=17))
    assert_same(states[0].model.state_dict(), states[1].model.state_dict())


def test_a_parameter_that_gets_its_gradient_late_has_slow_weights_too() -> None:
    early, late = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = Lookahead(torch.optim.Adam([early, late], 0.1), steps=2, alpha=0.5)
    reference = torch.optim.Adam([moved := nn.Parameter(torch.ones(2))], 0.1)
    for step in range(4):
        optimizer.zero_grad()
        (early.sum() + (late.square().sum() if step >= 2 else 0)).backward()
        optimizer.step()
        if step >= 2:
            reference.zero_grad()
            moved.square().sum().backward()
            reference.step()
    assert torch.equal(late, torch.lerp(torch.ones(2), moved, 0.5))


@pytest.mark.parametrize("at", [7, 8])
@pytest.mark.parametrize("name", BUILT)
def test_resuming_changes_nothing(name: str, at: int) -> None:
    unbroken, broken = state_of(BUILT[name]), state_of(BUILT[name])
    torch.manual_seed(11)
    tl.fit(unbroken, batches(), mean_ce, tl.TrainConfig(steps=18))
    torch.manual_seed(11)
    tl.fit(broken, batches(), mean_ce, tl.TrainConfig(steps=at))
    saved = copy.deepcopy(broken.state_dict())
    resumed = state_of(BUILT[name], seed=99)
    resumed.load_state_dict(saved)
    tl.fit(resumed, batches(), mean_ce, tl.TrainConfig(steps=18))
    assert_same_run(resumed, unbroken)


@pytest.mark.parametrize("name", BUILT)
def test_a_copy_goes_its_own_way(name: str) -> None:
    state = state_of(BUILT[name])
    tl.fit(state, batches(), mean_ce, tl.TrainConfig(steps=7))
    model, optimizer = copy.deepcopy((state.model, state.optimizer))
    before = copy.deepcopy(state.optimizer.state_dict())
    twin = tl.TrainState(model, optimizer)
    tl.fit(twin, batches(), mean_ce, tl.TrainConfig(steps=7))
    assert_same(state.optimizer.state_dict(), before)
    different = [not torch.equal(a, b) for a, b in zip(model.parameters(), state.model.parameters())]
    assert all(different)


@pytest.mark.parametrize("name", BUILT)
def test_what_is_changed_by_hand_reaches_the_members(name: str) -> None:
    state = state_of(BUILT[name])
    tl.fit(state, batches(), mean_ce, tl.TrainConfig(steps=2))
    state.controls.lr_scale = 0.0
    weights = copy.deepcopy(list(state.model.parameters()))
    optimizer: Any = state.optimizer
    # the slow weights of a lookahead move without the fast: begin with both at one place
    for held in optimizer.state.values():
        held.pop("slow", None)
    for _ in tl.train(state, batches(), mean_ce, tl.TrainConfig(steps=9)):
        pass
    assert_same(list(state.model.parameters()), weights)


class Reader(nn.Module):
    """Tokens in, classes out: a hidden matrix, an in-projection, and a table of places."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.places = nn.Parameter(torch.zeros(5, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.hidden = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.places
        x = self.norm(x + self.attention(x, x, x, need_weights=False)[0])
        return self.head(F.relu(self.hidden(x)).mean(1))


def names_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[set[str]]:
    by_id = {id(parameter): name for name, parameter in model.named_parameters()}
    return [{by_id[id(parameter)] for parameter in group["params"]} for group in optimizer.param_groups]


def test_muon_has_the_hidden_matrices_and_adamw_the_rest() -> None:
    model = Reader()
    model.attention.out_proj.weight.requires_grad_(False)
    hidden, decayed, others = names_of(model, muon(model))
    assert hidden == {"attention.in_proj_weight", "hidden.weight"}
    assert decayed == {"embed.weight", "places", "head.weight"}
    assert others == {
        "attention.in_proj_bias",
        "attention.out_proj.bias",
        "norm.weight",
        "norm.bias",
        "hidden.bias",
        "head.bias",
    }
    tied = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 7, bias=False))
    tied[2].weight = tied[0].weight
    assert names_of(tied, muon(tied)) == [{"1.weight"}, {"0.weight"}, {"1.bias"}]


def test_muon_moves_a_matrix_equally_in_all_directions_and_the_rest_as_adamw_does() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 12), nn.ReLU(), nn.Linear(12, 3))
    twin = copy.deepcopy(model)
    features, targets = torch.randn(64, 20), torch.randint(3, (64,))
    optimizer = muon(model, lr=0.5, weight_decay=0.0, adamw_lr=0.01)
    before = model[0].weight.detach().clone()
    for net in (model, twin):
        F.cross_entropy(net(features), targets).backward()
    gradient = torch.linalg.svdvals(model[0].weight.grad)
    optimizer.step()
    # AdamW alone, on the parameters that Muon leaves to it
    torch.optim.AdamW([twin[0].bias, *twin[2].parameters()], 0.01, weight_decay=0.0).step()
    moved = torch.linalg.svdvals(before - model[0].weight.detach())
    assert gradient.max() / gradient.min() > 5  # the gradient itself is far from that
    # lr times a value between 0.7 and 1.2, where the five iterations bring each singular value
    assert bool((moved > 0.5 * 0.65).all()) and bool((moved < 0.5 * 1.25).all())
    assert torch.equal(model[0].bias, twin[0].bias)
    assert_same(model[2].state_dict(), twin[2].state_dict())


def test_muon_learns_a_table() -> None:
    model = network(dropout=0.0)
    state = tl.TrainState(model, muon(model))
    first = tl.evaluate(model, batches(), mean_ce)["loss"]
    tl.fit(state, batches(), mean_ce, tl.TrainConfig(epochs=15))
    assert tl.evaluate(model, batches(), mean_ce)["loss"] < 0.5 * first


def test_a_group_added_later_goes_to_the_last_member() -> None:
    model = Reader()
    optimizer = muon(model)
    extra = nn.Parameter(torch.ones(4))
    optimizer.add_param_group({"params": [extra], "lr": 0.1, "weight_decay": 0.0})
    extra.grad = torch.ones(4)
    optimizer.step()
    torch.testing.assert_close(extra.detach(), torch.full((4,), 0.9))
    saved = copy.deepcopy(optimizer.state_dict())
    optimizer.load_state_dict(saved)
    assert optimizer.members[-1].param_groups[-1] is optimizer.param_groups[-1]


def test_a_closure_is_evaluated_once_a_step() -> None:
    for build in (lambda p: Lookahead(torch.optim.SGD(p, 0.5)), lambda p: Combined(torch.optim.SGD(p, 0.5))):
        weight = nn.Parameter(torch.tensor([2.0]))
        optimizer = build([weight])
        calls = []

        def closure(weight: Any = weight, optimizer: Any = optimizer, calls: Any = calls) -> float:
            optimizer.zero_grad()
            loss = weight.square().sum() / 2
            loss.backward()
            calls.append(1)
            return loss.item()

        assert optimizer.step(closure) == 2.0
        assert len(calls) == 1
        assert weight.item() == 1.0


MODELS: dict[str, Callable[[], nn.Module]] = {
    "network": network,
    "MLP": lambda: tl.models.MLP(6, [5, 4], 3, norm=True),
    "CNN": lambda: tl.models.CNN(1, 10),
    "ResNet": lambda: tl.models.ResNet(1, 10, blocks=2),
    "reader": Reader,
    "partly frozen": lambda: _frozen(Reader()),
}


def _frozen(model: Any) -> nn.Module:
    model.embed.requires_grad_(False)
    model.hidden.bias.requires_grad_(False)
    return model


@pytest.mark.parametrize("layer_decay", [None, 0.7])
@pytest.mark.parametrize("name", MODELS)
def test_the_groups_hold_every_trainable_parameter_once(name: str, layer_decay: float | None) -> None:
    model = MODELS[name]()
    groups = parameter_groups(model, lr=0.1, weight_decay=0.05, layer_decay=layer_decay)
    held = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    for group in groups:
        assert {p.dim() > 1 for p in group["params"]} == {group["weight_decay"] == 0.05}
        assert group["weight_decay"] in (0.0, 0.05)
    assert len({group["name"] for group in groups}) == len(groups)


def rates_of(model: nn.Module, **options: Any) -> dict[str, float]:
    groups = parameter_groups(model, lr=1.0, weight_decay=0.0, **options)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: group["lr"] for group in groups for p in group["params"]}


def test_layers_are_counted_from_the_head() -> None:
    halves = rates_of(tl.models.ResNet(1, 10, widths=(4, 8)), layer_decay=0.5)
    blocks = {"stem.0": 0.125, "stages.0": 0.25, "stages.1": 0.5, "head": 1.0}
    # the norm after the stem's convolution is of its layer
    assert halves.pop("stem.1.weight") == halves.pop("stem.1.bias") == 0.125
    assert all(rate == blocks[next(b for b in blocks if name.startswith(b))] for name, rate in halves.items())
    # a wrapped encoder, as transformers names its parts
    encoder = nn.ModuleDict(
        {
            "embeddings": nn.ModuleDict({"words": nn.Embedding(5, 2), "norm": nn.LayerNorm(2)}),
            "layer": nn.ModuleList(nn.ModuleDict({"dense": nn.Linear(2, 2)}) for _ in range(12)),
        }
    )
    model = nn.ModuleDict({"bert": encoder, "classifier": nn.Linear(2, 2)})
    rates = rates_of(model, layer_decay=0.9)
    assert rates["classifier.weight"] == 1.0
    for block in range(12):
        assert rates[f"bert.layer.{block}.dense.bias"] == pytest.approx(0.9 ** (12 - block))
    assert rates["bert.embeddings.words.weight"] == rates["bert.embeddings.norm.weight"] == 0.9**13
    model["bert"].requires_grad_(False)
    model["bert"]["layer"][3].requires_grad_(True)
    assert rates_of(model, layer_decay=0.9)["bert.layer.3.dense.weight"] == pytest.approx(0.9**9)


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_training_with_the_groups_is_training_with_groups_by_hand(kind: Any) -> None:
    def by_hand(model: Any) -> torch.optim.Optimizer:
        first, norm, last = model[0], model[1], model[4]
        return kind(
            [
                {"params": [first.weight], "weight_decay": 0.1, "lr": 0.005},
                {"params": [first.bias, norm.weight, norm.bias], "weight_decay": 0.0, "lr": 0.005},
                {"params": [last.weight], "weight_decay": 0.1, "lr": 0.01},
                {"params": [last.bias], "weight_decay": 0.0, "lr": 0.01},
            ]
        )

    states = [
        state_of(lambda m: kind(parameter_groups(m, lr=0.01, weight_decay=0.1, layer_decay=0.5))),
        state_of(by_hand),
    ]
    for state in states:
        torch.manual_seed(11)
        tl.fit(state, batches(), mean_ce, tl.TrainConfig(steps=15))
    assert_same(states[0].model.state_dict(), states[1].model.state_dict())


def test_the_weight_decay_control_leaves_undecayed_groups_alone() -> None:
    state = state_of(lambda m: torch.optim.AdamW(parameter_groups(m, lr=0.01, weight_decay=0.1)))
    state.controls.weight_decay = 0.5
    tl.fit(state, batches(), mean_ce, tl.TrainConfig(steps=2))
    decays = {group["name"]: group["weight_decay"] for group in state.optimizer.param_groups}
    assert decays == {"decayed": 0.5, "not decayed": 0.0}


def test_what_is_saved_of_the_groups_is_plain() -> None:
    optimizer = Lookahead(muon(Reader()))
    for group in optimizer.state_dict()["param_groups"]:
        assert all(
            isinstance(value, bool | int | float | str | list | tuple | None) for value in group.values()
        )
    assert optimizer.state_dict()["param_groups"][0]["params"] == [0, 1, 2]
