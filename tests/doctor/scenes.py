"""Small made-up data and models for the doctor's held-out programs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

Program = dict[str, Any]


def blobs(
    rows: int, seed: int, *, columns: int = 12, classes: int = 4, noise: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Rows around one centre a class: the centres are the same for every seed."""
    centres = torch.randn(classes, columns, generator=torch.Generator().manual_seed(99)) * 1.2
    generator = torch.Generator().manual_seed(seed + 1000)
    labels = torch.randint(classes, (rows,), generator=generator)
    return centres[labels] + noise * torch.randn(rows, columns, generator=generator), labels


def curve(rows: int, seed: int, *, columns: int = 8) -> tuple[Tensor, Tensor]:
    """Values that depend on the columns, smoothly, with a little noise."""
    generator = torch.Generator().manual_seed(seed + 2000)
    x = torch.randn(rows, columns, generator=generator)
    y = torch.sin(x[:, 0]) + 0.5 * x[:, 1] * x[:, 2] - 0.3 * x[:, 3]
    return x, y + 0.1 * torch.randn(rows, generator=generator)


def pictures(
    rows: int, seed: int, *, channels: int = 1, side: int = 8, classes: int = 3
) -> tuple[Tensor, Tensor]:
    """Stripes of three directions under noise, values from 0 to 1."""
    generator = torch.Generator().manual_seed(seed + 3000)
    labels = torch.randint(classes, (rows,), generator=generator)
    grid = torch.arange(side).float()
    a, b = torch.meshgrid(grid, grid, indexing="ij")
    kinds = torch.stack([torch.sin(2 * a), torch.sin(2 * b), torch.sin(2 * (a + b))])[:classes]
    clean = kinds[labels][:, None].repeat(1, channels, 1, 1)
    return (0.5 + 0.25 * clean + 0.15 * torch.randn(clean.shape, generator=generator)).clamp(0, 1), labels


def words(rows: int, length: int, seed: int, *, vocabulary: int = 20) -> Tensor:
    """Sequences in which each token mostly follows from the one before, without token 0."""
    generator = torch.Generator().manual_seed(seed + 4000)
    follows = torch.randperm(vocabulary - 1, generator=torch.Generator().manual_seed(7)) + 1
    x = torch.randint(1, vocabulary, (rows, length), generator=generator)
    for place in range(1, length):
        keep = torch.rand(rows, generator=generator) < 0.8
        x[:, place] = torch.where(keep, follows[x[:, place - 1] - 1], x[:, place])
    return x


def padded(x: Tensor, seed: int, *, pad: int = 0, least: int = 4) -> Tensor:
    """The same rows, cut to lengths that differ and filled up with `pad`."""
    generator = torch.Generator().manual_seed(seed + 5000)
    lengths = torch.randint(least, x.shape[1] - 1, (len(x),), generator=generator)
    return torch.where(torch.arange(x.shape[1])[None] < lengths[:, None], x, pad)


def batches(
    x: Tensor, y: Tensor, seed: int = 0, size: int = 32, *, shuffle: bool = True, **options: Any
) -> DataLoader[Any]:
    """A DataLoader with a generator of its own."""
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(TensorDataset(x, y), size, shuffle=shuffle, generator=generator, **options)


def net(inputs: int, outputs: int, seed: int, *more: nn.Module, width: int = 32) -> nn.Sequential:
    """Two linear layers, more of them if given in between."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), *more, nn.Linear(width, outputs))


def adam(model: nn.Module, rate: float = 3e-3, **options: Any) -> torch.optim.Optimizer:
    """Adam over what requires a gradient."""
    return torch.optim.Adam([p for p in model.parameters() if p.requires_grad], rate, **options)


def program(
    model: nn.Module, criterion: Any, optimizer: Any, train: Any, valid: Any = None, **more: Any
) -> Program:
    """The arguments of doctor.check."""
    return {
        "model": model,
        "criterion": criterion,
        "optimizer": optimizer,
        "train_loader": train,
        "val_loader": valid,
        **more,
    }


def classifier(seed: int, model: nn.Module | None = None, **changes: Any) -> Program:
    """A sound classifier of blobs, with some parts exchanged."""
    model = net(12, 4, seed) if model is None else model
    train, valid = blobs(480, seed), blobs(200, seed + 500)
    optimizer = changes.pop("optimizer", None) or adam(model)
    parts = program(
        model, nn.CrossEntropyLoss(), optimizer, batches(*train, seed), batches(*valid, shuffle=False)
    )
    return parts | changes


def regressor(seed: int, model: nn.Module | None = None, **changes: Any) -> Program:
    """A sound regression on a curve, with some parts exchanged."""
    model = net(8, 1, seed).append(nn.Flatten(0)) if model is None else model
    train, valid = curve(400, seed), curve(160, seed + 500)
    optimizer = changes.pop("optimizer", None) or adam(model)
    parts = program(model, nn.MSELoss(), optimizer, batches(*train, seed), batches(*valid, shuffle=False))
    return parts | changes


class Reader(nn.Module):
    """A small transformer over tokens: a logit for each word at each place, or one row of logits a text."""

    def __init__(
        self, vocabulary: int, *, causal: bool = True, outputs: int | None = None, masks: Any = None
    ) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(vocabulary, 32), nn.Embedding(64, 32)
        layer = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.last = nn.Linear(32, outputs or vocabulary)
        self.causal, self.pools, self.masks = causal, outputs is not None, masks

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        future = torch.triu(torch.ones(length, length, dtype=torch.bool), 1) if self.causal else None
        padding = None if self.masks is None else self.masks(x)
        h = self.embed(x) + self.place(torch.arange(length))
        h = self.body(h, mask=future, src_key_padding_mask=padding)
        if not self.pools:
            return self.last(h)
        real = torch.ones_like(x, dtype=torch.bool) if padding is None else ~padding
        return self.last((h * real[..., None]).sum(1) / real.sum(1, keepdim=True))


def per_token(output: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy over all tokens; -100 does not count."""
    return nn.functional.cross_entropy(output.flatten(0, 1), target.flatten())


def plain_step(model: Any, batch: Any, criterion: Any, optimizer: Any, step: int) -> Tensor:
    """The five lines."""
    optimizer.zero_grad()
    loss = criterion(model(batch[0]), batch[1])
    loss.backward()
    optimizer.step()
    return loss


class LoRA(nn.Module):
    """A linear layer and a product of two small matrices beside it."""

    def __init__(self, base: nn.Linear, rank: int = 4, *, frozen: bool = True) -> None:
        super().__init__()
        self.base = base.requires_grad_(not frozen)
        self.lora_A = nn.Parameter(torch.randn(rank, base.in_features) * 0.1)
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.lora_A.T @ self.lora_B.T
