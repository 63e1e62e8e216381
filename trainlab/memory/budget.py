"""What a training step will need, by arithmetic: bytes by part, before anything is allocated.

    with torch.device("meta"):  # weights with a shape and no memory
        model = tl.models.Transformer(50257, width=768, layers=12, heads=12, length=1024)
    print(tl.memory_budget(model, (8, 1024), optimizer="Adam", precision="bf16"))

A model is taken as stretches, one after the other. Going forward, each keeps values for the backward pass;
going backward, each gives them up and leaves gradients instead. The peak is at the worst place of that way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..errors import TrainlabError, unknown_name
from ..models import CNN, MLP, ResidualBlock, ResNet, Transformer
from ..precision import check_precision
from .meter import PARTS

Shape = Sequence[int]


def _factored(shape: Shape) -> int:
    """Adafactor's state: of a matrix the means over its rows and over its columns."""
    if len(shape) < 2:
        return math.prod(shape)
    return math.prod(shape[:-1]) + math.prod(shape[:-2]) * shape[-1]


# optimizer -> values of state for a weight of this shape, and its temporaries as multiples of the largest
OPTIMIZERS: dict[str, tuple[Callable[[Shape], int], float]] = {
    "SGD": (lambda shape: 0, 0),
    "momentum": (math.prod, 0),
    "Adam": (lambda shape: 2 * math.prod(shape), 2),
    "Adam, fused": (lambda shape: 2 * math.prod(shape), 0),
    "Adafactor": (_factored, 1),
}


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a model, and what it needs for one row (one token of a Transformer), in bytes.

    kept: held for the backward pass.  enters: its input, all that is held of it where it is checkpointed.
    widest: what its backward pass needs for the time being.
    """

    module: nn.Module
    kept: float
    widest: float = 0
    enters: float | None = None  # None: never checkpointed

    def weights(self) -> int:
        """The number of its weights."""
        return sum(p.numel() for p in self.module.parameters())

    def copied(self) -> int:
        """The number of those that autocast copies: of linear layers and convolutions."""
        parts = [part for part in self.module.modules() if isinstance(part, nn.Linear | nn.Conv2d)]
        return sum(p.numel() for part in parts for p in part.parameters())


@dataclass(frozen=True, slots=True)
class Budget:
    """Bytes of one training step, as foretold: `parts`, `at_peak` and `peak` mean what StepCost's do."""

    parts: Mapping[str, int]
    at_peak: Mapping[str, int]

    @property
    def peak(self) -> int:
        """The most bytes that are held at one moment."""
        return sum(self.at_peak.values())

    def __str__(self) -> str:
        lines = [f"{name:16} {self.parts[name] / 1e6:10.2f} MB" for name in PARTS]
        return "\n".join([*lines, f"{'at the peak':16} {self.peak / 1e6:10.2f} MB"])


def memory_budget(
    model: nn.Module,
    shape: Shape,
    *,
    optimizer: str = "Adam",
    precision: str = "fp32",
    checkpointing: bool | None = None,
) -> Budget:
    """The memory of one step on a batch of this shape: (N, ...) as the model takes it.

    model: an MLP, CNN, ResNet or Transformer of tl.models; on the device "meta" it needs no memory itself.
    optimizer: a key of OPTIMIZERS.  checkpointing: None for what the model is set to.
    It is taken that gradients are set to None before the forward pass, and that the loss is a cross-entropy.
    What kernels use inside is not counted.
    Raises TrainlabError for another model, or an unknown optimizer or precision.
    """
    if optimizer not in OPTIMIZERS:
        raise unknown_name("optimizer", optimizer, OPTIMIZERS)
    check_precision(precision)
    kind = next((kind for kind in _STRETCHES if isinstance(model, kind)), None)
    if kind is None:
        raise TrainlabError(
            f"a {type(model).__name__} is not an MLP, CNN, ResNet or Transformer: measure it "
            "with tl.measure_step"
        )
    again = getattr(model, "checkpointing", False) if checkpointing is None else checkpointing
    half = 4 if precision == "fp32" else 2
    stretches = _STRETCHES[kind](model, shape, half, again)
    rows = math.prod(shape[:2]) if kind is Transformer else shape[0]
    given = rows * 16 if kind is Transformer else math.prod(shape) * 4 + rows * 8  # int64 tokens and targets
    shapes = [tuple(p.shape) for p in model.parameters()]
    states, spare = OPTIMIZERS[optimizer]
    fixed = {
        "parameters": 4 * (sum(map(math.prod, shapes)) + sum(b.numel() for b in model.buffers())),
        "optimizer state": 4 * sum(map(states, shapes)),
        "batch": given,
    }
    gradients = 4 * sum(map(math.prod, shapes))
    copies = [2 * each.copied() if half == 2 else 0 for each in stretches]
    moments = _backward(stretches, rows, gradients, copies)
    moments.append({"gradients": gradients, "temporary": spare * 4 * max(map(math.prod, shapes))})
    whole = [{name: int((fixed | each).get(name, 0)) for name in PARTS} for each in moments]
    parts = {name: max(each[name] for each in whole) for name in PARTS}
    parts["weight copies"] = sum(copies)  # autocast holds them all until its end
    return Budget(parts, max(whole, key=lambda each: sum(each.values())))


def _backward(
    stretches: Sequence[Stretch], rows: int, gradients: int, copies: Sequence[int]
) -> list[dict[str, float]]:
    """What is held while the backward pass is in each stretch: what is before it, and what it has left."""
    held = [rows * (each.kept if each.enters is None else each.enters) for each in stretches]
    staying = [0 if each.enters is not None else size for each, size in zip(stretches, copies)]
    return [
        {
            "gradients": gradients - 4 * sum(before.weights() for before in stretches[: at + 1]),
            "weight copies": sum(staying[:at]) + copies[at],
            "activations": sum(held[:at]) + rows * each.kept,
            "temporary": rows * each.widest,
        }
        for at, each in enumerate(stretches)
    ]


# --- the models, stretch by stretch; half: the bytes of a value that comes out of a matrix product --------


def _mlp(model: MLP, shape: Shape, half: int, again: bool) -> list[Stretch]:
    """Of a chain: a linear layer and a norm keep their input, a nonlinearity its output, dropout its mask.

    What two of them keep is held once; the model's own input is the batch's (in half precision a copy).
    """
    layers, width = list(model), math.prod(shape[1:])
    size = math.ceil(len(layers) / math.ceil(math.sqrt(len(layers)))) if again else 1
    found: list[Stretch] = []
    place, known = 0, {0} if half == 4 else set()  # values by their place in the chain
    for at in range(0, len(layers), size):
        enters, kept, widest = (width if at else 0), 0, 0
        known = {0} & known if again else known
        for layer in layers[at : at + size]:
            if isinstance(layer, nn.Flatten):
                continue
            inputs, width = width, getattr(layer, "out_features", width)
            value, count = place + 1, width
            if isinstance(layer, nn.Linear | nn.BatchNorm1d):
                value, count = place, inputs
            elif isinstance(layer, nn.Dropout):
                value = -place  # the mask is a value of its own
            kept += 0 if value in known else count
            known.add(value)
            widest = max(widest, width, inputs if place else 0)
            place += 1
        if again:  # what nobody keeps is there for a moment when it is computed again, and counts as kept
            spare = any(isinstance(layer, nn.BatchNorm1d | nn.Dropout) for layer in layers[at : at + size])
            kept += (1 + spare) * widest
        found.append(
            Stretch(
                nn.Sequential(*layers[at : at + size]),
                half * kept,
                widest=half * widest,
                enters=half * enters if again else None,
            )
        )
    return [*found, Stretch(nn.Identity(), 4 * width, widest=4 * width)]  # the loss


def _cnn(model: CNN, shape: Shape, half: int, again: bool) -> list[Stretch]:
    """Of a stage: the input of its norm, the output of its ReLU, the maxima, and their places in 8 bytes."""
    if again:
        raise TrainlabError("a CNN of tl.models has no checkpointing: use a ResNet, or checkpointing=False")
    height, width = shape[2:]
    layers: list[Any] = list(model.features)
    normed = any(isinstance(layer, nn.BatchNorm2d) for layer in layers)
    size = 4 if normed else 3
    found = [Stretch(nn.Identity(), 0 if half == 4 else half * math.prod(shape[1:]))]
    for at in range(0, len(layers), size):
        full = layers[at].out_channels * height * width
        height, width = height // 2, width // 2
        pooled = layers[at].out_channels * height * width
        kept = half * (full * (2 if normed else 1) + pooled) + 8 * pooled
        # the gradients of two of its values, when the places of the maxima have been given back
        found.append(Stretch(nn.Sequential(*layers[at : at + size]), kept, 2 * half * full - 8 * pooled))
    return [*found, Stretch(model.head, 8 * model.head.out_features)]


def _resnet(model: ResNet, shape: Shape, half: int, again: bool) -> list[Stretch]:
    """Of a block: the inputs of its norms and the outputs of its ReLUs."""
    height, width = shape[2:]
    stem: Any = model.stem[0]
    values = half * stem.out_channels * height * width
    copied = 0 if half == 4 else half * math.prod(shape[1:])
    found = [Stretch(model.stem, copied + 2 * values, values)]
    for block in model.stages:
        assert isinstance(block, ResidualBlock)
        enters, stride = values, block.conv1.stride[0]
        height, width = math.ceil(height / stride), math.ceil(width / stride)
        values = half * block.conv1.out_channels * height * width
        norms = sum(isinstance(part, nn.BatchNorm2d) for part in block.modules())
        # computed again, what its last norm gives and its sum are there for a moment, and count as kept
        kept = (norms + 2 + 2 * again) * values
        found.append(Stretch(block, kept, max(enters, values), enters if again else None))
    return [*found, Stretch(model.head, 8 * model.head.out_features)]


def _transformer(model: Transformer, shape: Shape, half: int, again: bool) -> list[Stretch]:
    """Of a block and a token, C wide: two sums in float32, and in the precision of the products 14 C.

    The 14: two normalised; query, key, value; what attention gives; 4 before and 4 after GELU.
    """
    block: Any = model.blocks[0]
    wide, words = model.token.embedding_dim, model.head.out_features
    kept = half * 14 * wide + 4 * (2 * wide + block.heads + 4)
    kept += 2 * half * wide if block.dropout.p else 0  # its masks
    blocks = [Stretch(each, kept, 5 * half * wide, 4 * wide if again else None) for each in model.blocks]
    end = nn.ModuleList([model.norm, model.head])
    return [
        Stretch(nn.ModuleList([model.token, model.place]), 0),
        *blocks,
        Stretch(end, half * wide + 4 * (wide + words + 2), 8 * words),
    ]


_STRETCHES: dict[Any, Callable[[Any, Shape, int, bool], list[Stretch]]] = {
    MLP: _mlp,
    CNN: _cnn,
    ResNet: _resnet,
    Transformer: _transformer,
}
