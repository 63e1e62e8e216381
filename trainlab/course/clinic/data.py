"""Patients whose data are ill."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .parts import LETTERS, Case, Parts, digits, letters, loader, on_digits


def _one_off(mended: bool, seed: int) -> Parts:
    train, valid = digits()
    pair = train if mended else (train[0][1:], train[1][:-1])
    return on_digits(seed, train_loader=loader(pair, seed), val_loader=loader(valid, seed, shuffle=False))


def _torn_apart(mended: bool, seed: int) -> Parts:
    train, valid = digits()
    order = torch.randperm(len(train[0]), generator=torch.Generator().manual_seed(seed + 1))
    pair = (train[0][order], train[1][order] if mended else train[1])
    return on_digits(seed, train_loader=loader(pair, seed), val_loader=loader(valid, seed, shuffle=False))


def _other_scale(mended: bool, seed: int) -> Parts:
    _, valid = digits()
    pair = valid if mended else (valid[0] * 16, valid[1])
    return on_digits(seed, val_loader=loader(pair, seed, shuffle=False))


def _in_order(mended: bool, seed: int) -> Parts:
    train, _ = digits()
    order = train[1].argsort(stable=True)
    return on_digits(seed, train_loader=loader((train[0][order], train[1][order]), seed, shuffle=mended))


def _copied_first(mended: bool, seed: int) -> Parts:
    """Rows were doubled to have more of them; then the whole was split at random."""
    x, y = (torch.cat(parts) for parts in zip(*digits()))
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(x), generator=generator)
    if mended:
        first, held = order[:1200].repeat(2), order[1200:]
    else:
        both = order.repeat(2)[torch.randperm(2 * len(x), generator=generator)]
        first, held = both[:2400], both[2400:]
    train, valid = loader((x[first], y[first]), seed), loader((x[held], y[held]), seed, shuffle=False)
    return on_digits(seed, train_loader=train, val_loader=valid)


def _missing_class(mended: bool, seed: int) -> Parts:
    train, valid = digits()
    kept = train[1] != 9 if not mended else torch.ones(len(train[1]), dtype=torch.bool)
    return on_digits(
        seed,
        train_loader=loader((train[0][kept], train[1][kept]), seed),
        val_loader=loader(valid, seed, shuffle=False),
    )


class _Reader(nn.Module):
    """A small transformer over characters."""

    def __init__(self, causal: bool, words: int) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(words, 32), nn.Embedding(64, 32)
        layer = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.last = nn.Linear(32, words)
        self.causal = causal

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        mask = torch.triu(torch.ones(length, length, dtype=torch.bool), 1) if self.causal else None
        return self.last(self.body(self.embed(x) + self.place(torch.arange(length)), mask=mask))


def _per_token(output: Tensor, target: Tensor) -> Tensor:
    return nn.functional.cross_entropy(output.flatten(0, 1), target.flatten())


def _on_text(seed: int, x: Tensor, y: Tensor, causal: bool, criterion: Any = _per_token) -> Parts:
    torch.manual_seed(seed)
    model = _Reader(causal, len(LETTERS) + 1)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    cut = len(x) * 4 // 5
    held = loader((x[cut + 9 :], y[cut + 9 :]), seed, shuffle=False)
    return Parts(model, criterion, optimizer, loader((x[:cut], y[:cut]), seed, batch_size=16), held)


def _crystal_ball(mended: bool, seed: int) -> Parts:
    windows = letters()
    return _on_text(seed, windows[:, :-1], windows[:, 1:], causal=mended)


def _parrot(mended: bool, seed: int) -> Parts:
    windows = letters()
    return _on_text(seed, windows[:, :-1], windows[:, 1:] if mended else windows[:, :-1].clone(), causal=True)


def _hollow(mended: bool, seed: int) -> Parts:
    """Texts of different lengths, filled up; is the filling part of the loss?"""
    windows, pad = letters().clone(), len(LETTERS)
    lengths = torch.randint(8, 25, (len(windows),), generator=torch.Generator().manual_seed(seed))
    windows[torch.arange(25)[None] >= lengths[:, None]] = pad

    def ignoring(output: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output.flatten(0, 1), target.flatten(), ignore_index=pad)

    return _on_text(seed, windows[:, :-1], windows[:, 1:], True, ignoring if mended else _per_token)


CASES = (
    Case("one-off", "It learns nothing that holds for validation.", "labels-shifted", _one_off,
         "show five digits with their labels", ("labels-misaligned",)),
    Case("torn-apart", "Training loss stays high; validation is at chance.", "labels-misaligned", _torn_apart,
         "show five digits with their labels"),
    Case("other-scale", "Training is fine; validation has a huge loss.", "validation-prepared-differently",
         _other_scale, "compare a batch of each loader"),
    Case("in-order", "The loss falls to nothing and jumps up, again and again.", "training-data-sorted", _in_order,
         "print the labels of the first batches"),
    Case("copied-first", "Validation is as good as training: too good.", "validation-in-training", _copied_first,
         "look for rows that stand in both"),
    Case("missing-class", "No nine is ever recognised.", "class-missing-in-training", _missing_class,
         "count the labels of both loaders"),
    Case("crystal-ball", "The language model's loss falls below anything that was published.", "sees-the-future",
         _crystal_ball, "change the last character: which outputs change?"),
    Case("parrot", "A perfect loss, and it can only repeat what it was given.", "target-not-shifted", _parrot,
         "print input and target under each other"),
    Case("hollow", "The loss is low, and the texts are poor.", "padding-in-loss", _hollow,
         "which share of the targets is padding?"),
)  # fmt: skip
