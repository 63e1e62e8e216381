"""Patients whose model, loss or optimizer is ill."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .parts import Case, Parts, diabetes, digits, loader, mlp, on_digits, tumours


def _softmax_twice(mended: bool, seed: int) -> Parts:
    torch.manual_seed(seed)
    model = mlp()
    return on_digits(seed, model if mended else model.append(nn.Softmax(dim=1)))


def _outer_difference(mended: bool, seed: int) -> Parts:
    torch.manual_seed(seed)
    last = [nn.Flatten(0)] if mended else []
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1), *last)
    train, valid = diabetes()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    return Parts(model, nn.MSELoss(), optimizer, loader(train, seed), loader(valid, seed, shuffle=False))


class _Tower(nn.Module):
    """Four hidden layers in a list."""

    def __init__(self, registered: bool) -> None:
        super().__init__()
        self.first = nn.Linear(64, 48)
        layers = [nn.Linear(48, 48) for _ in range(4)]
        self.middle = nn.ModuleList(layers) if registered else layers
        self.last = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        for layer in self.middle:
            x = torch.relu(layer(x))
        return self.last(x)


def _list_of_layers(mended: bool, seed: int) -> Parts:
    torch.manual_seed(seed)
    return on_digits(seed, _Tower(mended))


class _Cut(nn.Module):
    """An encoder and a head, with or without a cut between them."""

    def __init__(self, whole: bool) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 32), nn.ReLU())
        self.head = nn.Linear(32, 10)
        self.whole = whole

    def forward(self, x: Tensor) -> Tensor:
        code = self.encoder(x)
        return self.head(code if self.whole else code.detach())


def _cut_encoder(mended: bool, seed: int) -> Parts:
    torch.manual_seed(seed)
    return on_digits(seed, _Cut(mended))


def _old_head(mended: bool, seed: int) -> Parts:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 100))
    if mended:
        model[2] = nn.Linear(64, 10)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    if not mended:
        model[2] = nn.Linear(64, 10)
    return on_digits(seed, model, optimizer=optimizer)


def _all_zero(mended: bool, seed: int) -> Parts:
    torch.manual_seed(seed)
    model = mlp()
    if not mended:
        for p in model.parameters():
            nn.init.zeros_(p)
    return on_digits(seed, model)


def _wild_start(mended: bool, seed: int) -> Parts:
    torch.manual_seed(seed)
    model = mlp()
    for part in model:
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=part.in_features**-0.5 if mended else 3.0)
    return on_digits(seed, model)


def _rate(too_much: float, right: float) -> Any:
    def build(mended: bool, seed: int) -> Parts:
        torch.manual_seed(seed)
        model = mlp()
        optimizer = torch.optim.SGD(model.parameters(), right if mended else too_much, momentum=0.9)
        return on_digits(seed, model, optimizer=optimizer)

    return build


def _heavy_decay(mended: bool, seed: int) -> Parts:
    torch.manual_seed(seed)
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), 2e-3, weight_decay=1e-4 if mended else 10.0)
    return on_digits(seed, model, optimizer=optimizer)


def _wrong_weights(mended: bool, seed: int) -> Parts:
    train, valid = tumours()
    rare = (train[1] == 0).nonzero().flatten()[40:]  # few malignant ones are left
    kept = torch.ones(len(train[1]), dtype=torch.bool)
    kept[rare] = False
    train = (train[0][kept], train[1][kept])
    counts = torch.bincount(train[1]).float()
    weight = counts.sum() / (2 * counts) if mended else 2 * counts / counts.sum()
    torch.manual_seed(seed)
    model = mlp(30, 2, width=16)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    held = loader(valid, seed, shuffle=False)
    return Parts(model, nn.CrossEntropyLoss(weight), optimizer, loader(train, seed), held)


def _positive_only(mended: bool, seed: int) -> Parts:
    torch.manual_seed(seed)
    last = [nn.Flatten(0)] if mended else [nn.ReLU(), nn.Flatten(0)]
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1), *last)
    train, valid = diabetes()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    return Parts(model, nn.MSELoss(), optimizer, loader(train, seed), loader(valid, seed, shuffle=False))


def _network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(2)),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def _drifting_norm(mended: bool, seed: int) -> Parts:
    model = _network(seed)
    model[1].requires_grad_(False)

    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Any:
        model.train()
        if mended:
            model[1].eval()
        optimizer.zero_grad()
        loss = criterion(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        return loss

    optimizer = torch.optim.Adam(model[3].parameters(), 3e-3)
    return on_digits(seed, model, optimizer=optimizer, step_fn=step)


class _LoRA(nn.Module):
    """A frozen linear layer and a product of two small matrices beside it."""

    def __init__(self, base: nn.Linear, rank: int, start: float) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora_A = nn.Parameter(torch.randn(rank, base.in_features) * start)
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.lora_A.T @ self.lora_B.T


def _still_adapter(mended: bool, seed: int) -> Parts:
    torch.manual_seed(seed)
    model = mlp()
    start = 0.1 if mended else 0.0
    model[0] = _LoRA(model[0], 4, start)  # type: ignore[arg-type]
    model[2] = _LoRA(model[2], 4, start)  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-2)
    return on_digits(seed, model, optimizer=optimizer)


class _Rows(nn.Module):
    """A digit read as eight rows by a GRU."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.memory = nn.GRU(8, 32, batch_first=batch_first)
        self.last = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.memory(x.unflatten(1, (8, 8)))[0][:, -1])


def _batch_as_time(mended: bool, seed: int) -> Parts:
    torch.manual_seed(seed)
    return on_digits(seed, _Rows(mended))


def _dead(mended: bool, seed: int) -> Parts:
    torch.manual_seed(seed)
    model = mlp()
    if not mended:
        nn.init.constant_(model[0].bias, -20.0)  # type: ignore[arg-type]
    return on_digits(seed, model)


def _raw(mended: bool, seed: int) -> Parts:
    train, valid = digits()
    factor = 1.0 if mended else 4000.0  # the camera's own unit
    return on_digits(
        seed,
        train_loader=loader((train[0] * factor, train[1]), seed),
        val_loader=loader((valid[0] * factor, valid[1]), seed, shuffle=False),
    )


CASES = (
    Case("softmax-twice", "It learns, but slowly, and the loss never comes below 1.5.",
         "softmax-before-cross-entropy", _softmax_twice, "what values does the loss get?"),
    Case("outer-difference", "The loss settles at the variance: every patient gets the mean.", "shapes-broadcast",
         _outer_difference, "print the shapes of output and target"),
    Case("list-of-layers", "A deep model that learns no better than a shallow one.", "layers-not-registered",
         _list_of_layers, "count the parameters"),
    Case("cut-encoder", "The encoder's weights are the same before and after.", "gradient-cut", _cut_encoder,
         "check_gradients after one backward()"),
    Case("old-head", "A new head for ten classes, and it stays as random as it was.",
         "optimizer-holds-stale-parameters", _old_head, "which parameters does the optimizer hold?"),
    Case("all-zero", "The loss stays at ln 10.", "symmetric-initialisation", _all_zero,
         "gradient_flow: which layers get anything?"),
    Case("wild-start", "The first loss is in the dozens.", "initialisation-too-large", _wild_start,
         "what should a model that knows nothing lose?"),
    Case("hot", "The loss explodes within a few steps.", "learning-rate-too-large", _rate(20.0, 0.05),
         "one batch, with other rates", ("loss-not-finite",)),
    Case("frozen-stiff", "The loss does not move in an hour.", "learning-rate-too-small", _rate(1e-8, 0.05),
         "how large is a step against the weights?"),
    Case("heavy-decay", "The weights shrink, and the outputs with them.", "weight-decay-too-large", _heavy_decay,
         "compare the norm of the weights before and after"),
    Case("wrong-weights", "The few malignant ones are missed even more than before.", "class-weights-inverted",
         _wrong_weights, "which class weighs more, and which is rarer?"),
    Case("positive-only", "Half the patients get exactly 0.", "output-cannot-reach-target", _positive_only,
         "the range of the outputs, and of the targets"),
    Case("drifting-norm", "The frozen part is frozen, and its outputs change.", "frozen-batchnorm-learns",
         _drifting_norm, "compare the buffers before and after"),
    Case("still-adapter", "LoRA does not learn at all.", "lora-cannot-move", _still_adapter,
         "the gradient of a product whose factors are both 0"),
    Case("batch-as-time", "A prediction depends on who else is in the batch.", "rows-mix", _batch_as_time,
         "ask the model about one digit, alone and in company"),
    Case("dead", "Nothing gets through the first layer.", "gradient-all-zero", _dead,
         "activation_stats: the share of zeros", ("dead-units", "outputs-ignore-inputs")),
    Case("raw", "The first loss is in the hundreds.", "inputs-not-scaled", _raw, "print x.std()"),
)  # fmt: skip
