"""The small models of the course, from an MLP to a recurrent reader; and a layer that torch lacks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager as ContextManager
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

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


def checkpoint_activations(model: nn.Module, on: bool = True) -> nn.Module:
    """Have `model` keep only what enters each of its stretches, and compute the rest again in backward.

    The gradients, the batch norms' statistics and the random states are the same to the bit. The stretches
    are the blocks of a ResNet or a Transformer, and some sqrt(n) equal pieces of a chain of n layers; a
    model that holds such models checkpoints those.  on: False undoes it.  Returns the model.
    Raises TrainlabError if nothing in the model can be checkpointed.
    Source: Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016.
    """
    parts = [part for part in model.modules() if isinstance(part, _Chain | ResNet | Transformer)]
    if not parts:
        raise TrainlabError(
            f"a {type(model).__name__} holds no chain, ResNet or Transformer of tl.models: wrap its own "
            "blocks in torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False)"
        )
    for part in parts:
        part.checkpointing = on
    return model


def _through(model: nn.Module, stretches: Iterable[nn.Module], x: Tensor) -> Tensor:
    """x through the stretches in turn, each checkpointed where the model says so."""
    again = model.checkpointing and model.training and torch.is_grad_enabled()
    for stretch in stretches:
        x = checkpoint(stretch, x, use_reentrant=False, context_fn=_twice(stretch)) if again else stretch(x)
    return x


def _twice(stretch: nn.Module) -> Callable[[], tuple[ContextManager[Any], ContextManager[Any]]]:
    return lambda: (nullcontext(), _still_statistics(stretch))


@contextmanager
def _still_statistics(stretch: nn.Module) -> Iterator[None]:
    """The batch norms' running statistics stand still: the same rows must not be counted twice."""
    norms = [part for part in stretch.modules() if isinstance(part, nn.modules.batchnorm._NormBase)]
    before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, momentum, count in before:
            norm.momentum, norm.num_batches_tracked = momentum, count


class _Chain(nn.Sequential):
    """Layers one after the other, of which a slice is a plain nn.Sequential."""

    checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        if not self.checkpointing:
            return super().forward(x)
        size = math.ceil(len(self) / math.ceil(math.sqrt(len(self))))
        return _through(self, (self[at : at + size] for at in range(0, len(self), size)), x)

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

    checkpointing = False

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
        features = _through(self, self.stages, self.stem(_channels_last(images)))
        return self.head(features.mean((2, 3)))  # -> (N,width) -> (N,outputs)


class TransformerBlock(nn.Module):
    """Attention, then two linear layers with GELU; each is normalised on its branch and added to its input.

    causal: a token sees itself and what is before it.  dropout: probability on each branch.
    Input and output (N, T, width).
    Sources: Vaswani et al., Attention Is All You Need, 2017; the order of norm and sum: Radford et al. 2019.
    """

    def __init__(self, width: int, heads: int, *, dropout: float = 0.0, causal: bool = True) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norm1 = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.query_key_value(self.norm1(x)).chunk(3, -1)  # 3 times (N,T,C)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)  # (N,H,T,C/H)
        x = x + self.dropout(self.mix(seen.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.narrow(F.gelu(self.widen(self.norm2(x)))))


class Transformer(nn.Module):
    """A small language model: embeddings of tokens and places, blocks, and scores for the next token.

    length: the most tokens it can read.  width: a multiple of heads.  tied: the last layer shares its
    weights with the embedding.  The other options are TransformerBlock's.
    Input (N, T) int64, T at most `length`; output (N, T, vocabulary).
    Sources: Radford et al., Language Models are Unsupervised Multitask Learners, 2019; tying: Press and
    Wolf, Using the Output Embedding, 2017.
    """

    checkpointing = False

    def __init__(
        self,
        vocabulary: int,
        *,
        width: int = 64,
        layers: int = 2,
        heads: int = 4,
        length: int = 128,
        dropout: float = 0.0,
        causal: bool = True,
        tied: bool = False,
    ) -> None:
        super().__init__()
        _check_sizes(vocabulary=vocabulary, width=width, layers=layers, heads=heads, length=length)
        _check_share("dropout", dropout)
        if width % heads:
            raise TrainlabError(
                f"width={width} is not a multiple of heads={heads}: each head has as much of it"
            )
        self.length = length
        self.token = nn.Embedding(vocabulary, width)
        self.place = nn.Embedding(length, width)
        self.blocks = nn.Sequential(
            *(TransformerBlock(width, heads, dropout=dropout, causal=causal) for _ in range(layers))
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        for table in (self.token, self.place):
            nn.init.normal_(table.weight, std=0.02)
        if tied:
            self.head.weight = self.token.weight

    def forward(self, tokens: Tensor) -> Tensor:
        count = tokens.shape[1]
        if count > self.length:
            raise TrainlabError(
                f"{count} tokens are more than length={self.length}: cut them, or raise length"
            )
        x = self.token(tokens) + self.place.weight[:count]  # (N,T) -> (N,T,C)
        return self.head(self.norm(_through(self, self.blocks, x)))  # -> (N,T,vocabulary)


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
