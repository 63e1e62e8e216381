"""The small models of the course, from an MLP to a recurrent reader; and a layer that torch lacks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .errors import TrainlabError, unknown_name

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
}
NORMS: dict[str, type[nn.Module]] = {
    "none": nn.Identity,
    "batch": nn.BatchNorm1d,
    "layer": nn.LayerNorm,
}
CELLS: dict[str, Any] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


def count_parameters(model: nn.Module, *, trainable_only: bool = False) -> int:
    """The number of weights in `model`, each counted once even where layers share it."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable_only)


class _Chain(nn.Sequential):
    """Layers one after the other, of which a slice is a plain nn.Sequential."""

    def __getitem__(self, index: slice | int) -> nn.Module:  # type: ignore[override]
        """A layer, or for a slice such as `model[:-1]` those layers as an nn.Sequential."""
        layers = list(self)
        return nn.Sequential(*layers[index]) if isinstance(index, slice) else layers[index]


class MLP(_Chain):
    """Linear layers with a nonlinearity between them; images are flattened first.

    inputs: values per row.  hidden: width of each hidden layer.  outputs: scores per row.
    norm: batch normalisation before each nonlinearity.  dropout: probability after each.
    Input (N, ...) with `inputs` values a row, output (N, outputs).
    """

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        outputs: int,
        *,
        activation: str = "relu",
        norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        if activation not in ACTIVATIONS:
            raise unknown_name("activation", activation, ACTIVATIONS)
        _check_sizes(inputs=inputs, outputs=outputs, **{f"hidden[{k}]": n for k, n in enumerate(hidden)})
        _check_share("dropout", dropout)
        layers: list[nn.Module] = [nn.Flatten()]
        width = inputs
        for size in hidden:
            layers.append(nn.Linear(width, size))
            if norm:
                layers.append(nn.BatchNorm1d(size))
            layers.append(ACTIVATIONS[activation]())
            if dropout:
                layers.append(nn.Dropout(dropout))
            width = size
        super().__init__(*layers, nn.Linear(width, outputs))


class DeepLayer(nn.Module):
    """One layer of a DeepMLP: f(x) = act(norm(linear(x))), or with residual x + act(linear(norm(x))).

    A residual layer keeps the width, and normalises on the branch, so that x passes untouched.
    scale: variance of the weights times `inputs`, biases 0 (2 is He's for ReLU); None: torch's own, which
    draws both evenly from +-1/sqrt(inputs), that is at a scale of 1/3.
    Sources: He et al., Delving Deep into Rectifiers, 2015; He et al., Identity Mappings, 2016.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        activation: str = "relu",
        norm: str = "none",
        residual: bool = False,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise unknown_name("activation", activation, ACTIVATIONS)
        if norm not in NORMS:
            raise unknown_name("norm", norm, NORMS)
        _check_sizes(inputs=inputs, outputs=outputs)
        if residual and inputs != outputs:
            raise TrainlabError(
                f"a residual layer from {inputs} to {outputs} cannot add its input: give it one width"
            )
        if scale is not None and not 0.0 < scale < math.inf:
            raise TrainlabError(
                f"scale={scale!r} is not a number above 0: 2 keeps the signal of a ReLU layer"
            )
        self.residual = residual
        self.linear = nn.Linear(inputs, outputs)
        self.norm = NORMS[norm](outputs)
        self.activation = ACTIVATIONS[activation]()
        if scale is not None:
            _draw_weights(self.linear, scale)

    def forward(self, x: Tensor) -> Tensor:
        if self.residual:
            return x + self.activation(self.linear(self.norm(x)))
        return self.activation(self.norm(self.linear(x)))


class DeepMLP(_Chain):
    """`depth` hidden layers of one width, to be made as deep as you like; images are flattened first.

    The first layer is a plain DeepLayer, the others are residual where `residual` says so; the
    other options are DeepLayer's.  The last linear layer keeps torch's initialisation.
    Input (N, ...) with `inputs` values a row, output (N, outputs).
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        depth: int,
        outputs: int,
        *,
        activation: str = "relu",
        norm: str = "none",
        residual: bool = False,
        scale: float | None = None,
    ) -> None:
        _check_sizes(inputs=inputs, width=width, depth=depth, outputs=outputs)
        first = DeepLayer(inputs, width, activation=activation, norm=norm, scale=scale)
        others = [
            DeepLayer(width, width, activation=activation, norm=norm, residual=residual, scale=scale)
            for _ in range(depth - 1)
        ]
        super().__init__(nn.Flatten(), first, *others, nn.Linear(width, outputs))


def widest(budget: int, inputs: int, depth: int, outputs: int) -> int:
    """The largest width at which a DeepMLP of this depth, without norms, has at most `budget` weights.

    Raises TrainlabError if even a width of 1 has more.
    """
    _check_sizes(budget=budget, inputs=inputs, depth=depth, outputs=outputs)
    width = 0
    while _weights([inputs, *[width + 1] * depth, outputs]) <= budget:
        width += 1
    if not width:
        least = _weights([inputs, *[1] * depth, outputs])
        raise TrainlabError(f"budget={budget} is below {least}, which a width of 1 needs: raise the budget")
    return width


def _weights(sizes: Sequence[int]) -> int:
    return sum(before * after + after for before, after in itertools.pairwise(sizes))


class Recurrent(nn.Module):
    """Reads a sequence one element at a time and scores it by what is remembered after the last.

    The same weights serve every element. An image is read from top to bottom, a row at a time.
    inputs: values of one element.  hidden: size of the memory.  cell: "rnn", "gru" or "lstm".
    Input (N, T, inputs), or images (N, C, T, W) with C * W = inputs; output (N, outputs).
    Sources: Elman, Finding Structure in Time, 1990 ("rnn", with tanh); Cho et al. 2014 ("gru");
    Hochreiter and Schmidhuber, Long Short-Term Memory, 1997 ("lstm").
    """

    def __init__(self, inputs: int, hidden: int, outputs: int, *, cell: str = "gru") -> None:
        super().__init__()
        _check_sizes(inputs=inputs, hidden=hidden, outputs=outputs)
        if cell not in CELLS:
            raise unknown_name("cell", cell, CELLS)
        self.memory = CELLS[cell](inputs, hidden, batch_first=True)
        self.head = nn.Linear(hidden, outputs)

    def forward(self, rows: Tensor) -> Tensor:
        if rows.dim() == 4:
            rows = rows.transpose(1, 2).flatten(2)  # (N,C,T,W) -> (N,T,C*W)
        states, _ = self.memory(rows)  # (N,T,inputs) -> (N,T,hidden): what is remembered after each
        return self.head(states[:, -1])  # -> (N,outputs)


class DropConnect(nn.Linear):
    """A linear layer that is trained with a random share `p` of its weights silenced at each step.

    The weights that stay are divided by 1 - p, so that the expected output is the layer's own, and eval
    mode uses all of them as they are. One draw serves all rows of a batch; the bias is never silenced.
    Input (N, inputs), output (N, outputs); the state dict is that of nn.Linear.
    Raises TrainlabError if `p` is outside [0, 1).
    Source: Wan et al., Regularization of Neural Networks using DropConnect, 2013 (there one draw a row,
    and a Gaussian approximation in place of the mean network).
    """

    def __init__(self, inputs: int, outputs: int, *, p: float = 0.5, bias: bool = True) -> None:
        _check_sizes(inputs=inputs, outputs=outputs)
        _check_share("p", p)
        super().__init__(inputs, outputs, bias)
        self.p = p

    def forward(self, input: Tensor) -> Tensor:
        # F.dropout silences and rescales; on the weights it is DropConnect
        return F.linear(input, F.dropout(self.weight, self.p, self.training), self.bias)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, p={self.p}"


class CNN(nn.Module):
    """Stages of 3x3 convolution, ReLU and 2x2 pooling, then the mean over positions and a linear layer.

    channels: of the images (1 grey, 3 colour).  widths: channels of each stage; each halves the size.
    Input (N, channels, H, W), H and W at least 2 ** stages; output (N, outputs).
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        *,
        widths: Sequence[int] = (16, 32),
        norm: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        _check_sizes(channels=channels, outputs=outputs, **{f"widths[{k}]": n for k, n in enumerate(widths)})
        _check_share("dropout", dropout)
        stages: list[nn.Module] = []
        for width in widths:
            stages.append(nn.Conv2d(channels, width, 3, padding=1, bias=not norm))
            if norm:
                stages.append(nn.BatchNorm2d(width))
            stages += [nn.ReLU(), nn.MaxPool2d(2)]
            channels = width
        self.features = nn.Sequential(*stages)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels, outputs)

    def forward(self, images: Tensor) -> Tensor:
        features = self.features(_channels_last(images))  # (N,C,H,W) -> (N,width,H/2^s,W/2^s)
        return self.head(self.dropout(features.mean((2, 3))))  # -> (N,width) -> (N,outputs)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions added to their input: y = relu(x + f(x)).

    Where the size or the width changes, a 1x1 convolution brings x into shape.
    Source: He et al., Deep Residual Learning for Image Recognition, 2015, fig. 2.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        change = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        return self.relu(self.shortcut(x) + change)


class ResNet(nn.Module):
    """A small residual network: a stem, stages of residual blocks, the mean over positions, a linear layer.

    widths: channels of each stage; each but the first halves the size.  blocks: per stage.
    Input (N, channels, H, W); output (N, outputs).  Source: He et al. 2015, section 4.2 (CIFAR form).
    """

    def __init__(
        self, channels: int, outputs: int, *, widths: Sequence[int] = (16, 32, 64), blocks: int = 1
    ) -> None:
        super().__init__()
        _check_sizes(
            channels=channels,
            outputs=outputs,
            blocks=blocks,
            **{f"widths[{k}]": n for k, n in enumerate(widths)},
        )
        self.stem = nn.Sequential(
            nn.Conv2d(channels, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        stages: list[nn.Module] = []
        before = widths[0]
        for place, width in enumerate(widths):
            for block in range(blocks):
                halve = place > 0 and block == 0
                stages.append(ResidualBlock(before, width, stride=2 if halve else 1))
                before = width
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(before, outputs)

    def forward(self, images: Tensor) -> Tensor:
        # (N,C,H,W) -> (N,width,H/2^(s-1),W/2^(s-1))
        features = self.stages(self.stem(_channels_last(images)))
        return self.head(features.mean((2, 3)))  # -> (N,width) -> (N,outputs)


def _channels_last(images: Tensor) -> Tensor:
    """The same images with the channels innermost in memory: a step is then some 1.3 to 1.7 times as fast."""
    return images.to(memory_format=torch.channels_last)


def _draw_weights(linear: nn.Linear, scale: float) -> None:
    nn.init.normal_(linear.weight, std=math.sqrt(scale / linear.in_features))
    nn.init.zeros_(linear.bias)


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise TrainlabError(f"{name}={size!r} is not a whole number from 1 on")


def _check_share(name: str, share: float) -> None:
    if not 0.0 <= share < 1.0:
        raise TrainlabError(f"{name}={share!r} is outside [0, 1): 0.5 drops half of the values")
