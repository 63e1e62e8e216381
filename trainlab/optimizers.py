"""Optimizers beyond torch's own list, built out of it, and the parameter groups that one usually wants."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .errors import TrainlabError


class Combined(Optimizer):
    """Several optimizers as one: their parameter groups one after the other, stepped together.

    The groups and the state are those of the members themselves, so that schedules and controls act on
    them; `state_dict` has torch's form.  A group added later goes to the last member.
    Raises TrainlabError if a parameter is held twice.
    """

    def __init__(self, *members: Optimizer) -> None:
        for member in members:
            if not isinstance(member, Optimizer):
                raise TrainlabError(f"a {type(member).__name__} is no optimizer: build it first, and pass it")
        groups = [group for member in members for group in member.param_groups]
        held = [id(parameter) for group in groups for parameter in group["params"]]
        if len(set(held)) < len(held):
            raise TrainlabError(
                f"{len(held) - len(set(held))} parameter(s) are held twice: give each to one optimizer"
            )
        super().__init__(groups, {})  # torch takes the very dicts; without defaults it adds nothing
        self.members = members
        for member in members:
            self.state.update(member.state)
        self._share(self.param_groups)

    def _share(self, groups: list[dict[str, Any]]) -> None:
        """Give the members these groups, and the one state: it is keyed by parameter, and none is in two."""
        for member in self.members:
            count = len(member.param_groups)
            member.param_groups, groups = groups[:count], groups[count:]
            member.state = self.state
            if isinstance(member, Combined):
                member._share(member.param_groups)

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of each member, on gradients that are there or that `closure` computes."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for member in self.members:
            member.step()
        return loss

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        super().load_state_dict(dict(state_dict))  # it puts new dicts in the groups' places
        self._share(self.param_groups)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Hand a further group to the last member."""
        if not hasattr(self, "members"):  # torch's __init__ comes by here
            super().add_param_group(param_group)
            return
        self.members[-1].add_param_group(param_group)
        self.param_groups.append(self.members[-1].param_groups[-1])

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"members": self.members}


class Lookahead(Combined):
    """Slow weights that go part of the way after the fast ones of another optimizer.

    After every `steps` steps: slow += alpha (fast - slow), and the fast weights begin anew from there.
    In between, the model holds the fast weights.
    Raises TrainlabError if steps is below 1 or alpha outside (0, 1].
    Source: Zhang et al., Lookahead Optimizer: k steps forward, 1 step back, 2019, algorithm 1.
    """

    def __init__(self, optimizer: Optimizer, *, steps: int = 5, alpha: float = 0.5) -> None:
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise TrainlabError(f"steps={steps!r} is not a whole number from 1 on: 5 is usual")
        if not 0.0 < alpha <= 1.0:
            raise TrainlabError(f"alpha={alpha!r} is outside (0, 1]: 0.5 is usual")
        super().__init__(optimizer)
        self.defaults = dict(optimizer.defaults)
        self.steps, self.alpha = steps, alpha
        # in a group, or torch's state_dict would not hold it
        self.param_groups[0]["lookahead_step"] = 0

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of the fast weights; after every `steps` of them, one of the slow."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        parameters = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        new = {p: p.clone() for p in parameters if "slow" not in self.state.get(p, {})}
        super().step()
        for parameter, start in new.items():  # only now: Adam takes a state that is not empty for its own
            self.state[parameter]["slow"] = start
        self.param_groups[0]["lookahead_step"] += 1
        if self.param_groups[0]["lookahead_step"] % self.steps == 0:
            for group in self.param_groups:
                for parameter in group["params"]:
                    if "slow" in self.state.get(parameter, {}):
                        parameter.copy_(self.state[parameter]["slow"].lerp_(parameter, self.alpha))
        return loss

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"steps": self.steps, "alpha": self.alpha}


def muon(
    model: nn.Module,
    *,
    lr: float = 0.02,
    momentum: float = 0.95,
    weight_decay: float = 0.01,
    adamw_lr: float = 1e-3,
) -> Combined:
    """torch's Muon for the hidden weight matrices of `model`, AdamW for everything else, as one optimizer.

    Hidden are the 2-D parameters named "...weight" that belong neither to an embedding nor to the last
    nn.Linear (the head).  AdamW has the head, embeddings, convolutions, biases and norms.
    lr: of Muon, whose updates have singular values near 1 (computed in bfloat16).  adamw_lr: AdamW's.
    weight_decay: of both, but not for parameters with fewer than two dimensions.
    Raises TrainlabError if there is no hidden matrix.
    Source: Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024.
    """
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    apart = [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]
    apart += [module.weight for module in linears[-1:]]
    hidden: list[Tensor] = []
    decayed: list[Tensor] = []
    others: list[Tensor] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            matrix = parameter.dim() == 2 and name.endswith("weight")
            if matrix and not any(parameter is one for one in apart):
                hidden.append(parameter)
            else:
                (decayed if parameter.dim() > 1 else others).append(parameter)
    if not hidden:
        raise TrainlabError(
            f"{type(model).__name__} has no hidden weight matrix that can be trained: use AdamW alone"
        )
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    members: list[Optimizer] = [torch.optim.Muon(hidden, lr=lr, momentum=momentum, weight_decay=weight_decay)]
    if groups := [group for group in groups if group["params"]]:
        members.append(torch.optim.AdamW(groups, lr=adamw_lr, weight_decay=weight_decay))
    return Combined(*members)


def parameter_groups(
    model: nn.Module, *, lr: float, weight_decay: float, layer_decay: float | None = None
) -> list[dict[str, Any]]:
    """Groups of the trainable parameters for any torch optimizer: who is decayed, and at what rate.

    Parameters with fewer than two dimensions (biases, norm scales) get no weight decay.
    layer_decay: the rate of layer k, counted from the head, is lr * layer_decay ** k.  A layer is a
    numbered block ("encoder.layer.3", "features.0"), or outside of any the module in it ("embeddings",
    "head"), in order of registration; what holds no matrix (a norm) belongs to the layer before it.
    Frozen layers are counted, and are in no group.  Each group has a "name".
    Raises TrainlabError if nothing can be trained, or layer_decay is outside (0, 1].
    Source: Howard & Ruder, ULMFiT, 2018, section 3.2 (discriminative fine-tuning).
    """
    if layer_decay is not None and not 0.0 < layer_decay <= 1.0:
        raise TrainlabError(f"layer_decay={layer_decay!r} is outside (0, 1]: 0.8 is usual")
    layers = _layers(model) if layer_decay is not None else {name: "" for name, _ in model.named_parameters()}
    order = list(dict.fromkeys(layers.values()))
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decay = weight_decay if parameter.dim() > 1 else 0.0
        label = f"{layers[name]} {'decayed' if parameter.dim() > 1 else 'not decayed'}".strip()
        rate = lr * (layer_decay or 1.0) ** (len(order) - 1 - order.index(layers[name]))
        empty = {"params": [], "lr": rate, "weight_decay": decay, "name": label}
        groups.setdefault(label, empty)["params"].append(parameter)
    if not groups:
        raise TrainlabError(
            f"no parameter of {type(model).__name__} requires a gradient: unfreeze some layers"
        )
    return list(groups.values())


def _layers(model: nn.Module) -> dict[str, str]:
    """The layer that each parameter belongs to, by name, in order of registration."""
    named = list(model.named_parameters())
    own = {name: _block(name) for name, _ in named}
    whole = {own[name] for name, parameter in named if parameter.dim() > 1}
    current = next((own[name] for name, _ in named if own[name] in whole), "")
    found = {}
    for name, _ in named:
        current = own[name] if own[name] in whole else current
        found[name] = current
    return found


def _block(name: str) -> str:
    parts = name.split(".")
    numbered = next((place for place, part in enumerate(parts) if part.isdigit()), None)
    if numbered is not None:
        return ".".join(parts[: numbered + 1])
    return ".".join(parts[:-2] or parts[:1])
