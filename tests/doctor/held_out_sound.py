"""Sound but unusual programs that were written after the doctor's rules: about each it must be silent."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from doctor.scenes import (
    LoRA,
    Program,
    Reader,
    adam,
    batches,
    blobs,
    classifier,
    curve,
    net,
    padded,
    per_token,
    pictures,
    plain_step,
    program,
    regressor,
    words,
)
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

Build = Callable[[int], Program]
SOUND: dict[str, Build] = {}


def sound(build: Build) -> Build:
    SOUND[build.__name__] = build
    return build


@sound
def tied_embeddings(seed: int) -> Program:
    torch.manual_seed(seed)
    model = Reader(20)
    model.last.weight = model.embed.weight
    x = words(200, 17, seed)
    return program(model, per_token, adam(model), batches(x[:, :-1], x[:, 1:], seed, 16))


@sound
def masked_language_model(seed: int) -> Program:
    class Masked(Dataset[Any]):
        def __init__(self, rows: Tensor) -> None:
            self.rows = rows

        def __len__(self) -> int:
            return len(self.rows)

        def __getitem__(self, place: int) -> Any:
            row = self.rows[place]
            hidden = torch.rand(row.shape) < 0.2
            hidden[place % len(row)] = True
            return torch.where(hidden, 0, row), torch.where(hidden, row, -100)

    torch.manual_seed(seed)
    model = Reader(20, causal=False)
    train = DataLoader(Masked(words(200, 16, seed)), 16, shuffle=True)
    return program(model, per_token, adam(model), train, DataLoader(Masked(words(60, 16, seed + 9)), 16))


@sound
def counts_as_targets(seed: int) -> Program:
    x, y = curve(400, seed)
    counts = torch.poisson(y.exp(), generator=torch.Generator().manual_seed(seed))
    model = net(8, 1, seed).append(nn.Flatten(0))
    return program(model, nn.PoissonNLLLoss(), adam(model), batches(x, counts, seed))


def _series(seed: int, rows: int = 500) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(rows + 13.0)
    values = torch.sin(time / 9) + 0.002 * time + 0.1 * torch.randn(rows + 13, generator=generator)
    windows = values.unfold(0, 13, 1)[:rows]
    return windows[:, :12], windows[:, 12]


@sound
def data_in_time_order(seed: int) -> Program:
    x, y = _series(seed)
    model = net(12, 1, seed).append(nn.Flatten(0))
    train, valid = batches(x[:380], y[:380], shuffle=False), batches(x[400:], y[400:], shuffle=False)
    return program(model, nn.MSELoss(), adam(model), train, valid)


@sound
def random_walk_forecast(seed: int) -> Program:
    generator = torch.Generator().manual_seed(seed)
    changes = torch.randn(520, generator=generator)
    windows = changes.unfold(0, 13, 1)[:500]
    model = net(12, 1, seed).append(nn.Flatten(0))
    train = batches(windows[:400, :12], windows[:400, 12], shuffle=False)
    return program(model, nn.HuberLoss(), adam(model), train)


def _trunk(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    trunk = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten()
    )
    return nn.Sequential(trunk, nn.Linear(54, 3))


@sound
def batch_norm_frozen_on_purpose(seed: int) -> Program:
    model = _trunk(seed)

    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Tensor:
        model.train()
        model[0][1].eval()
        return plain_step(model, batch, criterion, optimizer, number)

    model[0][1].requires_grad_(False)
    return program(
        model, nn.CrossEntropyLoss(), adam(model), batches(*pictures(300, seed), seed), step_fn=step
    )


@sound
def frozen_backbone(seed: int) -> Program:
    model = _trunk(seed)
    model[0].requires_grad_(False).eval()
    return program(model, nn.CrossEntropyLoss(), adam(model), batches(*pictures(300, seed), seed))


@sound
def head_only_in_the_optimizer(seed: int) -> Program:
    model = net(12, 4, seed, nn.Linear(32, 32), nn.ReLU())
    return classifier(seed, model, optimizer=torch.optim.Adam(model[-1].parameters(), 3e-3))


@sound
def batch_of_one(seed: int) -> Program:
    model = net(12, 4, seed)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    return classifier(seed, model, optimizer=optimizer, train_loader=batches(*blobs(200, seed), seed, 1))


@sound
def clips_every_step(seed: int) -> Program:
    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Tensor:
        optimizer.zero_grad()
        loss = criterion(model(batch[0]), batch[1])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        optimizer.step()
        return loss

    return classifier(seed, step_fn=step)


@sound
def warm_up_from_zero(seed: int) -> Program:
    model = net(12, 4, seed)
    optimizer = adam(model, 1e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 500))
    return classifier(seed, model, optimizer=optimizer, scheduler=schedule, scheduler_interval="step")


@sound
def warm_up_and_cosine_in_the_step(seed: int) -> Program:
    model = net(12, 4, seed)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)

    def factor(step: int) -> float:
        return step / 60 if step < 60 else 0.5 * (1 + math.cos(math.pi * min(1, (step - 60) / 540)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)

    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Tensor:
        loss = plain_step(model, batch, criterion, optimizer, number)
        schedule.step()
        return loss

    return classifier(
        seed, model, optimizer=optimizer, scheduler=schedule, scheduler_interval="step", step_fn=step
    )


@sound
def one_cycle_per_step(seed: int) -> Program:
    model = net(12, 4, seed)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, epochs=10, steps_per_epoch=15)
    return classifier(seed, model, optimizer=optimizer, scheduler=schedule, scheduler_interval="step")


@sound
def step_schedule_by_epochs(seed: int) -> Program:
    model = net(12, 4, seed)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [30, 60], 0.1)
    return classifier(seed, model, optimizer=optimizer, scheduler=schedule)


@sound
def plateau_by_epochs(seed: int) -> Program:
    model = net(12, 4, seed)
    optimizer = adam(model)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", patience=3)
    return classifier(seed, model, optimizer=optimizer, scheduler=schedule)


@sound
def warm_restarts(seed: int) -> Program:
    model = net(12, 4, seed)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=10, T_mult=2)
    return classifier(seed, model, optimizer=optimizer, scheduler=schedule)


@sound
def long_accumulation(seed: int) -> Program:
    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Tensor:
        loss = criterion(model(batch[0]), batch[1])
        (loss / 32).backward()
        if (number + 1) % 32 == 0:
            optimizer.step()
            optimizer.zero_grad()
        return loss

    return classifier(seed, step_fn=step, train_loader=batches(*blobs(512, seed), seed, 8))


@sound
def accumulation_with_a_tail(seed: int) -> Program:
    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Tensor:
        place = number % 7
        size = 3 if place < 6 else 1
        loss = criterion(model(batch[0]), batch[1])
        (loss / size).backward()
        if place % 3 == 2 or place == 6:
            optimizer.step()
            optimizer.zero_grad()
        return loss

    return classifier(seed, step_fn=step, train_loader=batches(*blobs(224, seed), seed))


@sound
def lora_with_its_zero_matrix(seed: int) -> Program:
    model = net(12, 4, seed).requires_grad_(False)
    model[0], model[2] = LoRA(model[0]), LoRA(model[2])
    return classifier(seed, model, optimizer=adam(model, 1e-2))


@sound
def lora_under_warm_up(seed: int) -> Program:
    model = net(12, 4, seed).requires_grad_(False)
    model[0], model[2] = LoRA(model[0]), LoRA(model[2])
    optimizer = adam(model, 1e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 100))
    return classifier(seed, model, optimizer=optimizer, scheduler=schedule, scheduler_interval="step")


@sound
def heavy_dropout(seed: int) -> Program:
    return classifier(seed, net(12, 4, seed, nn.Dropout(0.8)))


@sound
def rare_class(seed: int) -> Program:
    x, _ = blobs(800, seed)
    limit = (x[:, 0] + x[:, 1]).quantile(0.96)
    y = (x[:, 0] + x[:, 1] > limit).long()
    v, _ = blobs(300, seed + 500)
    w = (v[:, 0] + v[:, 1] > limit).long()
    counts = torch.bincount(y, minlength=2).float().clamp(min=1)
    model = net(12, 2, seed)
    weighted = nn.CrossEntropyLoss(weight=counts.sum() / (2 * counts))
    return program(model, weighted, adam(model), batches(x, y, seed), batches(v, w, shuffle=False))


@sound
def rare_class_without_weights(seed: int) -> Program:
    x, _ = blobs(800, seed)
    y = (x[:, 0] > x[:, 0].quantile(0.97)).float()[:, None]
    model = net(12, 1, seed)
    return program(model, nn.BCEWithLogitsLoss(), adam(model), batches(x, y, seed))


@sound
def mostly_padding(seed: int) -> Program:
    torch.manual_seed(seed)
    x = padded(words(240, 30, seed), seed, least=3)
    x[:, 9:] = 0
    y = (x == 5).any(1).long()
    model = Reader(20, causal=False, outputs=2, masks=lambda x: x == 0)
    return program(model, nn.CrossEntropyLoss(), adam(model), batches(x, y, seed))


@sound
def padding_ignored_in_the_loss(seed: int) -> Program:
    def criterion(output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output.flatten(0, 1), target.flatten(), ignore_index=0)

    torch.manual_seed(seed)
    x = padded(words(200, 21, seed), seed)
    model = Reader(20)
    return program(model, criterion, adam(model), batches(x[:, :-1], x[:, 1:], seed, 16))


@sound
def padding_masked_by_hand(seed: int) -> Program:
    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Tensor:
        optimizer.zero_grad()
        x = batch[0]
        single = F.cross_entropy(model(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten(), reduction="none")
        real = (x[:, 1:] != 0).flatten().float()
        loss = (single * real).sum() / real.sum()
        loss.backward()
        optimizer.step()
        return loss

    torch.manual_seed(seed)
    x = padded(words(200, 21, seed), seed)
    model = Reader(20)
    return program(model, per_token, adam(model), batches(x, x, seed, 16), step_fn=step)


@sound
def noisy_labels(seed: int) -> Program:
    x, y = blobs(480, seed)
    generator = torch.Generator().manual_seed(seed)
    wrong = torch.rand(480, generator=generator) < 0.4
    y = torch.where(wrong, torch.randint(4, (480,), generator=generator), y)
    return classifier(seed, train_loader=batches(x, y, seed))


@sound
def autoencoder(seed: int) -> Program:
    x, _ = pictures(300, seed)
    flat = x.flatten(1)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 64), nn.Sigmoid())
    return program(model, nn.MSELoss(), adam(model), batches(flat, flat, seed))


@sound
def variational_autoencoder(seed: int) -> Program:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode, self.decode = nn.Linear(64, 16), nn.Linear(8, 64)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            mean, log = self.encode(x).chunk(2, 1)
            code = mean + torch.randn_like(mean) * (0.5 * log).exp()
            return self.decode(code), mean, log

    def criterion(output: Any, target: Tensor) -> Tensor:
        said, mean, log = output
        distance = 0.5 * (mean**2 + log.exp() - 1 - log).sum(1).mean()
        return F.binary_cross_entropy_with_logits(said, target, reduction="sum") / len(target) + distance

    torch.manual_seed(seed)
    x = pictures(300, seed)[0].flatten(1)
    model = Model()
    return program(model, criterion, adam(model), batches(x, x, seed))


@sound
def adversarial_pair(seed: int) -> Program:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.maker, self.judge = net(4, 2, seed), net(2, 1, seed + 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.judge(x)

    model = Pair()
    judging = torch.optim.Adam(model.judge.parameters(), 2e-3, betas=(0.5, 0.999))
    making = torch.optim.Adam(model.maker.parameters(), 2e-3, betas=(0.5, 0.999))

    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Tensor:
        real = batch[0]
        made = model.maker(torch.randn(len(real), 4))
        optimizer.zero_grad()
        ones, zeros = torch.ones(len(real), 1), torch.zeros(len(real), 1)
        judged = criterion(model.judge(real), ones) + criterion(model.judge(made.detach()), zeros)
        judged.backward()
        optimizer.step()
        making.zero_grad()
        fooled = criterion(model.judge(made), ones)
        fooled.backward()
        making.step()
        return judged

    x = blobs(480, seed, columns=2)[0]
    return program(model, nn.BCEWithLogitsLoss(), judging, batches(x, torch.zeros(480), seed), step_fn=step)


@sound
def targets_in_thousands(seed: int) -> Program:
    x, y = curve(400, seed)
    model = net(8, 1, seed)
    return program(model, nn.L1Loss(), adam(model, 1e-2), batches(x, 200_000 + 40_000 * y[:, None], seed))


@sound
def several_labels(seed: int) -> Program:
    x, _ = blobs(480, seed)
    y = (x[:, :6] > torch.tensor([0.0, 1.0, 2.0, -1.0, 0.5, 1.5])).float()
    share = y.mean(0).clamp(0.05, 0.95)
    model = net(12, 6, seed)
    criterion = nn.BCEWithLogitsLoss(pos_weight=(1 - share) / share)
    return program(model, criterion, adam(model), batches(x, y, seed))


@sound
def ranking(seed: int) -> Program:
    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Tensor:
        optimizer.zero_grad()
        x, y = batch
        half = len(x) // 2
        first, second = model(x[:half]), model(x[half : 2 * half])
        loss = criterion(first, second, torch.sign(y[:half] - y[half : 2 * half]))
        loss.backward()
        optimizer.step()
        return loss

    return regressor(seed, criterion=nn.MarginRankingLoss(0.1), step_fn=step)


@sound
def pairwise_ranking_by_hand(seed: int) -> Program:
    def criterion(output: Tensor, target: Tensor) -> Tensor:
        gap = output[:, None] - output[None, :]
        wanted = torch.sign(target[:, None] - target[None, :])
        return F.softplus(-gap * wanted).mean()

    return regressor(seed, criterion=criterion)


@sound
def contrastive(seed: int) -> Program:
    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Tensor:
        optimizer.zero_grad()
        views = [batch[0] + 0.2 * torch.randn_like(batch[0]) for _ in range(2)]
        first, second = (F.normalize(model(view), dim=1) for view in views)
        loss = criterion(first @ second.T / 0.1, torch.arange(len(first)))
        loss.backward()
        optimizer.step()
        return loss

    x, y = blobs(480, seed)
    model = net(12, 8, seed)
    return program(model, nn.CrossEntropyLoss(), adam(model), batches(x, y, seed), step_fn=step)


@sound
def triplets(seed: int) -> Program:
    class Triplets(Dataset[Any]):
        def __init__(self) -> None:
            self.x, self.y = blobs(300, seed)

        def __len__(self) -> int:
            return 300

        def __getitem__(self, place: int) -> Any:
            same, other = (self.y == self.y[place]).nonzero(), (self.y != self.y[place]).nonzero()
            generator = torch.Generator().manual_seed(place)
            picks = [int(each[torch.randint(len(each), (1,), generator=generator)]) for each in (same, other)]
            return self.x[place], self.x[picks[0]], self.x[picks[1]]

    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Tensor:
        optimizer.zero_grad()
        loss = criterion(*(model(each) for each in batch))
        loss.backward()
        optimizer.step()
        return loss

    model = net(12, 8, seed)
    train = DataLoader(Triplets(), 32, shuffle=True)
    return program(model, nn.TripletMarginLoss(), adam(model), train, step_fn=step)


@sound
def triplets_with_idle_targets(seed: int) -> Program:
    x, y = blobs(480, seed)
    draw = torch.Generator().manual_seed(seed)
    picks = [
        [int(each[torch.randint(len(each), (1,), generator=draw)]) for each in (alike, unlike)]
        for alike, unlike in (((y == label).nonzero(), (y != label).nonzero()) for label in y)
    ]
    triples = torch.stack([x, *(x[list(rows)] for rows in zip(*picks))], 1)  # (N, 3, features)
    model = net(12, 8, seed)
    train = batches(triples, torch.zeros(480), seed)
    return program(model, lambda out, _: F.triplet_margin_loss(*out.unbind(1)), adam(model), train)


@sound
def recurrent_classifier(seed: int) -> Program:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.memory, self.last = nn.GRU(8, 24, 2, batch_first=True, dropout=0.2), nn.Linear(24, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.memory(x.squeeze(1))[0][:, -1])

    torch.manual_seed(seed)
    model = Model()
    return program(model, nn.CrossEntropyLoss(), adam(model), batches(*pictures(300, seed), seed))


@sound
def convolutions_with_norm(seed: int) -> Program:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d(0.1),
        nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip
    (x, y), (v, w) = pictures(300, seed, channels=3), pictures(100, seed + 9, channels=3)
    return program(
        model, nn.CrossEntropyLoss(label_smoothing=0.1), adam(model), batches(x, y, seed), batches(v, w)
    )


@sound
def residual_network_with_zero_branches(seed: int) -> Program:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
            self.second, self.last = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
            nn.init.zeros_(self.last.weight)

        def forward(self, x: Tensor) -> Tensor:
            return (x + self.last(self.second(self.norm(self.first(x)).relu()))).relu()

    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        Block(),
        Block(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 3),
    )
    return program(model, nn.CrossEntropyLoss(), adam(model), batches(*pictures(200, seed), seed))


@sound
def zero_head(seed: int) -> Program:
    model = net(12, 4, seed)
    nn.init.zeros_(model[-1].weight)
    nn.init.zeros_(model[-1].bias)
    return classifier(seed, model)


@sound
def bag_of_words(seed: int) -> Program:
    torch.manual_seed(seed)
    x = words(300, 12, seed)
    y = (x == 5).any(1).long()
    model = nn.Sequential(nn.EmbeddingBag(20, 16, mode="mean"), nn.ReLU(), nn.Linear(16, 2))
    return program(model, nn.CrossEntropyLoss(), adam(model, 1e-2), batches(x, y, seed))


@sound
def weights_normed(seed: int) -> Program:
    model = net(12, 4, seed)
    nn.utils.parametrizations.weight_norm(model[0])
    nn.utils.parametrizations.spectral_norm(model[2])
    return classifier(seed, model)


@sound
def a_stream_of_rows(seed: int) -> Program:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            x, y = blobs(400, seed)
            yield from zip(x, y)

    return classifier(seed, train_loader=DataLoader(Stream(), 32))


@sound
def batches_as_dicts(seed: int) -> Program:
    class Rows(Dataset[Any]):
        def __init__(self) -> None:
            self.x, self.y = blobs(320, seed)

        def __len__(self) -> int:
            return 320

        def __getitem__(self, place: int) -> Any:
            return {"features": self.x[place], "label": self.y[place]}

    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Tensor:
        return plain_step(model, (batch["features"], batch["label"]), criterion, optimizer, number)

    return classifier(seed, train_loader=DataLoader(Rows(), 32, shuffle=True), val_loader=None, step_fn=step)


@sound
def two_backward_passes(seed: int) -> Program:
    """Sharpness-aware minimisation."""

    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Tensor:
        optimizer.zero_grad()
        loss = criterion(model(batch[0]), batch[1])
        loss.backward()
        norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
        shifts = [p.grad * (0.05 / norm) for p in model.parameters()]
        with torch.no_grad():
            for p, shift in zip(model.parameters(), shifts):
                p.add_(shift)
        optimizer.zero_grad()
        criterion(model(batch[0]), batch[1]).backward()
        with torch.no_grad():
            for p, shift in zip(model.parameters(), shifts):
                p.sub_(shift)
        optimizer.step()
        return loss

    return classifier(seed, step_fn=step)


@sound
def lbfgs(seed: int) -> Program:
    model = net(8, 1, seed).append(nn.Flatten(0))
    optimizer = torch.optim.LBFGS(model.parameters(), 0.5, max_iter=4)

    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Tensor:
        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = criterion(model(batch[0]), batch[1])
            loss.backward()
            return loss

        return optimizer.step(closure)

    train = batches(*curve(400, seed), seed, 400)
    return regressor(seed, model, optimizer=optimizer, train_loader=train, step_fn=step)


@sound
def moving_average_of_weights(seed: int) -> Program:
    model = net(12, 4, seed)
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99)
    )

    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Tensor:
        loss = plain_step(model, batch, criterion, optimizer, number)
        average.update_parameters(model)
        return loss

    return classifier(seed, model, step_fn=step)


@sound
def momentum_encoder(seed: int) -> Program:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.online, self.target, self.guess = net(12, 8, seed), net(12, 8, seed), nn.Linear(8, 8)
            self.target.requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            return self.guess(self.online(x))

    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Tensor:
        optimizer.zero_grad()
        first, second = (batch[0] + 0.2 * torch.randn_like(batch[0]) for _ in range(2))
        with torch.no_grad():
            goal = model.target(second)
        loss = 1 - F.cosine_similarity(model(first), goal).mean()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for mine, theirs in zip(model.target.parameters(), model.online.parameters()):
                mine.lerp_(theirs, 0.01)
        return loss

    x, y = blobs(480, seed)
    model = Model()
    return program(model, nn.CosineSimilarity(), adam(model), batches(x, y, seed), step_fn=step)


@sound
def checkpointed_activations(seed: int) -> Program:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.body, self.last = nn.Linear(12, 32), net(32, 32, seed), nn.Linear(32, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(checkpoint(self.body, self.first(x), use_reentrant=False))

    torch.manual_seed(seed)
    return classifier(seed, Model())


@sound
def mixup(seed: int) -> Program:
    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Tensor:
        x, y = batch
        order, share = torch.randperm(len(x)), float(torch.rand(()))
        soft = F.one_hot(y, 4).float()
        mixed = (share * x + (1 - share) * x[order], share * soft + (1 - share) * soft[order])
        return plain_step(model, mixed, criterion, optimizer, number)

    return classifier(seed, step_fn=step)


@sound
def mixup_with_two_losses(seed: int) -> Program:
    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Tensor:
        x, y = batch
        order, share = torch.randperm(len(x)), float(torch.rand(()))
        optimizer.zero_grad()
        output = model(share * x + (1 - share) * x[order])
        loss = share * criterion(output, y) + (1 - share) * criterion(output, y[order])
        loss.backward()
        optimizer.step()
        return loss

    return classifier(seed, step_fn=step)


@sound
def quantiles(seed: int) -> Program:
    levels = torch.tensor([0.1, 0.5, 0.9])

    def pinball(output: Tensor, target: Tensor) -> Tensor:
        gap = target[:, None] - output
        return torch.maximum(levels * gap, (levels - 1) * gap).mean()

    return regressor(seed, net(8, 3, seed), criterion=pinball)


@sound
def hinge(seed: int) -> Program:
    return classifier(seed, criterion=nn.MultiMarginLoss())


@sound
def hinge_with_signs(seed: int) -> Program:
    x, y = blobs(480, seed, classes=2)
    model = net(12, 1, seed).append(nn.Flatten(0))
    return program(model, nn.SoftMarginLoss(), adam(model), batches(x, 2.0 * y - 1, seed))


@sound
def distillation(seed: int) -> Program:
    teacher = net(12, 4, seed + 1, width=64).requires_grad_(False).eval()

    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Tensor:
        optimizer.zero_grad()
        with torch.no_grad():
            soft = (teacher(batch[0]) / 2).softmax(1)
        loss = criterion((model(batch[0]) / 2).log_softmax(1), soft) * 4
        loss.backward()
        optimizer.step()
        return loss

    return classifier(seed, criterion=nn.KLDivLoss(reduction="batchmean"), step_fn=step)


@sound
def log_softmax_and_nll(seed: int) -> Program:
    return classifier(seed, net(12, 4, seed).append(nn.LogSoftmax(1)), criterion=nn.NLLLoss())


@sound
def connectionist_temporal(seed: int) -> Program:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = net(8, 6, seed)

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x).log_softmax(-1)

    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Tensor:
        optimizer.zero_grad()
        x, y = batch
        lengths = torch.full((len(x),), x.shape[1]), torch.full((len(x),), y.shape[1])
        loss = criterion(model(x).transpose(0, 1), y, *lengths)
        loss.backward()
        optimizer.step()
        return loss

    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(1, 6, (200, 4), generator=generator)
    x = F.one_hot(y.repeat_interleave(3, 1), 8).float() + 0.3 * torch.randn(200, 12, 8, generator=generator)
    model = Model()
    return program(model, nn.CTCLoss(), adam(model), batches(x, y, seed), step_fn=step)


@sound
def time_first(seed: int) -> Program:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.memory, self.last = nn.LSTM(8, 16), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.memory(x)[0][-1])

    def collate(rows: Any) -> Any:
        return torch.stack([row[0][0] for row in rows], 1), torch.stack([row[1] for row in rows])

    torch.manual_seed(seed)
    model = Model()
    train = batches(*pictures(300, seed), seed, 20, collate_fn=collate)
    return program(model, nn.CrossEntropyLoss(), adam(model), train)


@sound
def a_graph_of_rows(seed: int) -> Program:
    class Model(nn.Module):
        def __init__(self, links: Tensor) -> None:
            super().__init__()
            self.register_buffer("links", links)
            self.first, self.last = nn.Linear(12, 16), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.links @ self.last((self.links @ self.first(x)).relu())

    torch.manual_seed(seed)
    x, y = blobs(200, seed)
    near = (torch.cdist(x, x) < 3.5).float()
    model = Model(near / near.sum(1, keepdim=True))
    return program(model, nn.CrossEntropyLoss(), adam(model, 1e-2), [(x, y)])


@sound
def two_tasks(seed: int) -> Program:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.kind, self.size = nn.Linear(12, 24), nn.Linear(24, 4), nn.Linear(24, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            h = self.body(x).relu()
            return self.kind(h), self.size(h).squeeze(1)

    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Tensor:
        optimizer.zero_grad()
        kind, size = model(batch[0])
        loss = criterion(kind, batch[1]) + 0.1 * F.mse_loss(size, batch[0].sum(1))
        loss.backward()
        optimizer.step()
        return loss

    torch.manual_seed(seed)
    return classifier(seed, Model(), step_fn=step)


@sound
def q_learning(seed: int) -> Program:
    model = net(6, 3, seed)
    target = copy.deepcopy(model)

    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Tensor:
        state, action, reward, after = batch
        if number % 10 == 0:
            target.load_state_dict(model.state_dict())
        with torch.no_grad():
            goal = reward + 0.9 * target(after).max(1).values
        optimizer.zero_grad()
        loss = criterion(model(state).gather(1, action[:, None]).squeeze(1), goal)
        loss.backward()
        optimizer.step()
        return loss

    generator = torch.Generator().manual_seed(seed)
    state, after = (torch.randn(300, 6, generator=generator) for _ in range(2))
    action = torch.randint(3, (300,), generator=generator)
    data = TensorDataset(state, action, state[:, 0] * (action == 1), after)
    return program(model, nn.SmoothL1Loss(), adam(model), DataLoader(data, 32, shuffle=True), step_fn=step)


@sound
def slow_and_steady(seed: int) -> Program:
    model = net(12, 4, seed)
    return classifier(seed, model, optimizer=torch.optim.SGD(model.parameters(), 1e-4))


@sound
def fine_tuning_gently(seed: int) -> Program:
    model = net(12, 4, seed)
    optimizer = adam(model, 1e-2)
    x, y = blobs(480, seed + 77)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return classifier(seed, model, optimizer=torch.optim.AdamW(model.parameters(), 2e-5, weight_decay=0.01))


@sound
def few_categories(seed: int) -> Program:
    """Rows of four yes-or-no columns repeat, within the parts and between them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 2, (500, 5), generator=generator).float()
    y = ((x.sum(1) + torch.randn(500, generator=generator)) > 2.5).long()
    model = net(5, 2, seed)
    train, valid = batches(x[:350], y[:350], seed), batches(x[350:], y[350:], shuffle=False)
    return program(model, nn.CrossEntropyLoss(), adam(model), train, valid)


@sound
def samplers_of_indices(seed: int) -> Program:
    data = TensorDataset(*blobs(500, seed))
    train = DataLoader(data, 32, sampler=SubsetRandomSampler(range(400)))
    valid = DataLoader(data, 32, sampler=SubsetRandomSampler(range(400, 500)))
    return classifier(seed, train_loader=train, val_loader=valid)


@sound
def balanced_by_a_sampler(seed: int) -> Program:
    x, y = blobs(600, seed)
    kept = (y != 0) | (torch.arange(600) % 8 == 0)
    x, y = x[kept], y[kept]
    sampler = WeightedRandomSampler((1 / torch.bincount(y).float())[y].double().tolist(), len(x))
    return classifier(seed, train_loader=DataLoader(TensorDataset(x, y), 32, sampler=sampler))


@sound
def oversampled_in_training_only(seed: int) -> Program:
    x, y = blobs(300, seed)
    rare = y == 0
    x, y = torch.cat([x, x[rare], x[rare]]), torch.cat([y, y[rare], y[rare]])
    return classifier(seed, train_loader=batches(x, y, seed))


@sound
def bfloat16_autocast(seed: int) -> Program:
    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Tensor:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = criterion(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        return loss

    return classifier(seed, step_fn=step)


@sound
def float16_with_its_scaler(seed: int) -> Program:
    scaler = torch.amp.GradScaler("cpu")

    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Tensor:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = criterion(model(batch[0]), batch[1])
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        return loss

    return classifier(seed, step_fn=step)


@sound
def scaler_switched_off(seed: int) -> Program:
    scaler = torch.amp.GradScaler("cpu", enabled=False)

    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Tensor:
        optimizer.zero_grad()
        loss = criterion(model(batch[0]), batch[1])
        scaler.scale(loss).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        return loss

    return classifier(seed, step_fn=step)


@sound
def tagging(seed: int) -> Program:
    """A class for each token, its own parity: targets as long as the inputs, padding ignored."""
    torch.manual_seed(seed)
    x = padded(words(200, 16, seed), seed)
    y = torch.where(x == 0, -100, x % 2)
    model = nn.Sequential(nn.Embedding(20, 16), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
    return program(model, per_token, adam(model), batches(x, y, seed))


@sound
def token_autoencoder(seed: int) -> Program:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.encode = nn.Embedding(20, 8), nn.Linear(16 * 8, 12)
            self.decode = nn.Linear(12, 16 * 20)

        def forward(self, x: Tensor) -> Tensor:
            return self.decode(self.encode(self.embed(x).flatten(1)).relu()).unflatten(1, (16, 20))

    torch.manual_seed(seed)
    x = words(200, 16, seed)
    model = Model()
    return program(model, per_token, adam(model), batches(x, x, seed))


@sound
def recurrent_language_model(seed: int) -> Program:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.memory = nn.Embedding(20, 16), nn.LSTM(16, 24, batch_first=True)
            self.last = nn.Linear(24, 20)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.memory(self.embed(x))[0])

    torch.manual_seed(seed)
    x = words(240, 17, seed)
    model = Model()
    valid = batches(words(60, 17, seed + 9)[:, :-1], words(60, 17, seed + 9)[:, 1:], shuffle=False)
    return program(model, per_token, adam(model), batches(x[:, :-1], x[:, 1:], seed, 16), valid)


@sound
def huber_on_heavy_tails(seed: int) -> Program:
    x, y = curve(400, seed)
    noise = torch.distributions.StudentT(2.0)
    torch.manual_seed(seed)
    model = net(8, 1, seed).append(nn.Flatten(0))
    return program(model, nn.HuberLoss(), adam(model), batches(x, y + noise.sample((400,)), seed))


@sound
def mixture_of_experts(seed: int) -> Program:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate = nn.Linear(12, 3)
            self.experts = nn.ModuleList(net(12, 4, seed + place, width=12) for place in range(3))

        def forward(self, x: Tensor) -> Tensor:
            weights = self.gate(x).softmax(1)
            best = weights.argmax(1)
            said = torch.stack([expert(x) for expert in self.experts], 1)
            return said[torch.arange(len(x)), best] * weights.max(1).values[:, None]

    torch.manual_seed(seed)
    return classifier(seed, Model())


@sound
def depth_by_one_layer_again_and_again(seed: int) -> Program:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.again, self.last = nn.Linear(12, 24), nn.Linear(24, 24), nn.Linear(24, 4)

        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x).relu()
            for _ in range(3):
                h = h + self.again(h).relu()
            return self.last(h)

    torch.manual_seed(seed)
    return classifier(seed, Model())


@sound
def straight_through(seed: int) -> Program:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.last = nn.Linear(12, 24), nn.Linear(24, 4)

        def forward(self, x: Tensor) -> Tensor:
            soft = self.body(x).sigmoid()
            return self.last(soft + (soft.round() - soft).detach())

    torch.manual_seed(seed)
    return classifier(seed, Model())


@sound
def learned_temperature_in_the_criterion(seed: int) -> Program:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.log = nn.Parameter(torch.zeros(()))

        def forward(self, output: Tensor, target: Tensor) -> Tensor:
            return F.cross_entropy(output * self.log.exp(), target)

    model, criterion = net(12, 4, seed), Scaled()
    optimizer = torch.optim.Adam([*model.parameters(), *criterion.parameters()], 3e-3)
    return classifier(seed, model, criterion=criterion, optimizer=optimizer)


@sound
def focal_loss(seed: int) -> Program:
    def focal(output: Tensor, target: Tensor) -> Tensor:
        single = F.cross_entropy(output, target, reduction="none")
        return ((1 - (-single).exp()) ** 2 * single).mean()

    return classifier(seed, criterion=focal)


@sound
def penalty_by_hand(seed: int) -> Program:
    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Tensor:
        optimizer.zero_grad()
        penalty = sum(p.abs().sum() for p in model.parameters())
        loss = criterion(model(batch[0]), batch[1]) + 1e-4 * penalty
        loss.backward()
        optimizer.step()
        return loss

    return classifier(seed, step_fn=step)


@sound
def probabilities_and_bce(seed: int) -> Program:
    x, y = blobs(480, seed, classes=2)
    model = net(12, 1, seed).append(nn.Sigmoid())
    return program(model, nn.BCELoss(), adam(model), batches(x, y[:, None].float(), seed))


@sound
def bounded_by_tanh(seed: int) -> Program:
    x, y = curve(400, seed)
    model = net(8, 1, seed).append(nn.Tanh()).append(nn.Flatten(0))
    return program(model, nn.MSELoss(), adam(model), batches(x, torch.tanh(y), seed))


@sound
def evaluates_with_care(seed: int) -> Program:
    def evaluate(model: Any, loader: Any) -> dict[str, float]:
        model.eval()
        hits, losses, rows = 0.0, 0.0, 0
        with torch.no_grad():
            for x, y in loader:
                output = model(x)
                losses += F.cross_entropy(output, y, reduction="sum").item()
                hits += float((output.argmax(1) == y).sum())
                rows += len(y)
        model.train()
        return {"loss": losses / rows, "accuracy": hits / rows}

    valid = batches(*blobs(130, seed + 500), size=64, shuffle=False)
    return classifier(seed, net(12, 4, seed, nn.BatchNorm1d(32)), eval_fn=evaluate, val_loader=valid)


@sound
def macro_recall(seed: int) -> Program:
    def evaluate(model: Any, loader: Any) -> float:
        model.eval()
        with torch.no_grad():
            pairs = [(model(x).argmax(1), y) for x, y in loader]
        said, y = (torch.cat(each) for each in zip(*pairs))
        return float(torch.stack([(said[y == name] == name).float().mean() for name in y.unique()]).mean())

    return classifier(seed, eval_fn=evaluate)
