"""Broken programs that were written after the doctor's rules: the same families, other disguises."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
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
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)

Build = Callable[[int], Program]
BROKEN: dict[str, tuple[Build, tuple[str, ...]]] = {}


def broken(*codes: str) -> Callable[[Build], Build]:
    def keep(build: Build) -> Build:
        BROKEN[build.__name__] = (build, codes)
        return build

    return keep


# -- the loop --------------------------------------------------------------------------------------------


@broken("zero-grad-missing")
def zeroes_the_head_only(seed: int) -> Program:
    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Tensor:
        model[-1].zero_grad()
        loss = criterion(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        return loss

    return classifier(seed, step_fn=step)


@broken("step-before-backward")
def steps_with_the_last_gradients(seed: int) -> Program:
    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Tensor:
        loss = criterion(model(batch[0]), batch[1])
        optimizer.step()
        optimizer.zero_grad()
        loss.backward()
        return loss

    return classifier(seed, step_fn=step)


@broken("loss-without-graph", "backward-missing")
def counts_errors_and_calls_it_a_loss(seed: int) -> Program:
    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Tensor:
        optimizer.zero_grad()
        errors = (model(batch[0]).argmax(1) != batch[1]).float().mean().requires_grad_(True)
        errors.backward()
        optimizer.step()
        return errors

    return classifier(seed, step_fn=step)


@broken("loss-without-graph", "backward-missing")
def makes_the_loss_a_new_tensor(seed: int) -> Program:
    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Tensor:
        optimizer.zero_grad()
        loss = torch.tensor(criterion(model(batch[0]), batch[1]).item(), requires_grad=True)
        loss.backward()
        optimizer.step()
        return loss

    return classifier(seed, step_fn=step)


@broken("loss-without-graph")
def trains_under_no_grad(seed: int) -> Program:
    @torch.no_grad()
    def predict(model: Any, x: Tensor) -> Tensor:
        return model(x)

    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Tensor:
        optimizer.zero_grad()
        loss = criterion(predict(model, batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        return loss

    return classifier(seed, step_fn=step)


@broken("step-missing")
def never_steps(seed: int) -> Program:
    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Tensor:
        optimizer.zero_grad()
        loss = criterion(model(batch[0]), batch[1])
        loss.backward()
        return loss

    return classifier(seed, step_fn=step)


@broken("optimizer-rebuilt")
def builds_adam_anew_each_step(seed: int) -> Program:
    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Tensor:
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        return plain_step(model, batch, criterion, optimizer, number)

    return classifier(seed, step_fn=step)


@broken("same-batch-every-step")
def asks_the_loader_itself(seed: int) -> Program:
    train = batches(*blobs(480, seed), shuffle=False)

    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Tensor:
        return plain_step(model, next(iter(train)), criterion, optimizer, number)

    return classifier(seed, step_fn=step, train_loader=batches(*blobs(480, seed), seed))


@broken("labels-misaligned")
def rolls_the_targets(seed: int) -> Program:
    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Tensor:
        return plain_step(model, (batch[0], batch[1].roll(1)), criterion, optimizer, number)

    return classifier(seed, step_fn=step)


@broken("labels-misaligned")
def shuffles_the_inputs_in_the_step(seed: int) -> Program:
    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Tensor:
        x, y = batch
        return plain_step(model, (x[torch.randperm(len(x))], y), criterion, optimizer, number)

    return classifier(seed, step_fn=step)


@broken("clip-before-backward")
def clips_what_is_not_there(seed: int) -> Program:
    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Tensor:
        optimizer.zero_grad()
        loss = criterion(model(batch[0]), batch[1])
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        loss.backward()
        optimizer.step()
        return loss

    return classifier(seed, step_fn=step)


@broken("clip-after-step")
def clips_values_too_late(seed: int) -> Program:
    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Tensor:
        loss = plain_step(model, batch, criterion, optimizer, number)
        torch.nn.utils.clip_grad_value_(model.parameters(), 0.01)
        return loss

    return classifier(seed, step_fn=step)


@broken("accumulation-tail-lost")
def drops_the_tail(seed: int) -> Program:
    train = batches(*blobs(224, seed), seed)  # 7 batches, 3 to a group

    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Tensor:
        place = number % 7
        if place == 0:
            optimizer.zero_grad()
        loss = criterion(model(batch[0]), batch[1])
        (loss / 3).backward()
        if place % 3 == 2:
            optimizer.step()
            optimizer.zero_grad()
        return loss

    return classifier(seed, step_fn=step, train_loader=train)


@broken("accumulation-not-divided")
def adds_eight_batches(seed: int) -> Program:
    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Tensor:
        loss = criterion(model(batch[0]), batch[1])
        loss.backward()
        if (number + 1) % 8 == 0:
            optimizer.step()
            optimizer.zero_grad()
        return loss

    return classifier(seed, step_fn=step)


@broken("scaled-gradients-stepped")
def steps_past_the_scaler(seed: int) -> Program:
    scaler = torch.amp.GradScaler("cpu")

    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Tensor:
        optimizer.zero_grad()
        loss = criterion(model(batch[0]), batch[1])
        scaler.scale(loss).backward()
        optimizer.step()
        scaler.update()
        return loss

    return classifier(seed, step_fn=step)


@broken("loss-not-scaled")
def forgets_to_scale(seed: int) -> Program:
    scaler = torch.amp.GradScaler("cpu")

    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Tensor:
        optimizer.zero_grad()
        loss = criterion(model(batch[0]), batch[1])
        loss.backward()
        scaler.step(optimizer)
        scaler.update()
        return loss

    return classifier(seed, step_fn=step)


@broken("scaler-never-updated")
def never_updates_the_scaler(seed: int) -> Program:
    scaler = torch.amp.GradScaler("cpu")

    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Tensor:
        optimizer.zero_grad()
        loss = criterion(model(batch[0]), batch[1])
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        return loss

    return classifier(seed, step_fn=step)


@broken("float16-without-scaler")
def half_without_a_scaler(seed: int) -> Program:
    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Tensor:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            output = model(batch[0])
        loss = criterion(output.float(), batch[1])
        loss.backward()
        optimizer.step()
        return loss

    return classifier(seed, step_fn=step)


@broken("half-precision-weights")
def everything_in_half(seed: int) -> Program:
    model = net(12, 4, seed).half()
    x, y = blobs(480, seed)
    return classifier(seed, model, train_loader=batches(x.half(), y, seed), val_loader=None)


@broken("graph-used-twice")
def keeps_the_memory(seed: int) -> Program:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.last, self.h = nn.GRUCell(12, 16), nn.Linear(16, 4), None

        def forward(self, x: Tensor) -> Tensor:
            self.h = self.cell(x, self.h)
            return self.last(self.h)

    torch.manual_seed(seed)
    return classifier(seed, Model())


@broken("data-changed")
def scales_in_place(seed: int) -> Program:
    x, y = blobs(320, seed)
    stored = [(x[at : at + 32], y[at : at + 32]) for at in range(0, 320, 32)]

    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Tensor:
        batch[0].sub_(0.3).div_(1.5)
        return plain_step(model, batch, criterion, optimizer, number)

    return classifier(seed, step_fn=step, train_loader=stored)


@broken("eval-mode-in-training")
def handed_over_in_eval_mode(seed: int) -> Program:
    model = net(12, 4, seed, nn.BatchNorm1d(32), nn.Dropout(0.4)).eval()
    return classifier(seed, model, step_fn=plain_step)


@broken("climbs-the-loss")
def maximises(seed: int) -> Program:
    model = net(12, 4, seed)
    return classifier(seed, model, optimizer=torch.optim.SGD(model.parameters(), 0.05, maximize=True))


@broken("climbs-the-loss")
def minus_the_loss(seed: int) -> Program:
    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Tensor:
        optimizer.zero_grad()
        loss = -criterion(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        return loss

    return regressor(seed, step_fn=step)


# -- schedules ---------------------------------------------------------------------------------------------


@broken("schedule-stepped-per-batch")
def cosine_of_five_epochs_in_batches(seed: int) -> Program:
    model = net(12, 4, seed)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=5)

    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Tensor:
        loss = plain_step(model, batch, criterion, optimizer, number)
        schedule.step()
        return loss

    return classifier(seed, model, optimizer=optimizer, scheduler=schedule, step_fn=step)


@broken("schedule-stepped-per-epoch")
def one_cycle_by_epochs(seed: int) -> Program:
    model = net(12, 4, seed)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=15 * 20)
    return classifier(seed, model, optimizer=optimizer, scheduler=schedule)


@broken("schedule-multiplies-twice")
def lambda_gives_a_rate(seed: int) -> Program:
    model = net(12, 4, seed)
    optimizer = adam(model, 1e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1e-3 * 0.95**epoch)
    return classifier(seed, model, optimizer=optimizer, scheduler=schedule)


@broken("schedule-before-step")
def schedule_first(seed: int) -> Program:
    model = net(12, 4, seed)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.999)

    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Tensor:
        schedule.step()
        return plain_step(model, batch, criterion, optimizer, number)

    return classifier(
        seed, model, optimizer=optimizer, scheduler=schedule, scheduler_interval="step", step_fn=step
    )


@broken("plateau-mode")
def waits_for_the_loss_to_rise(seed: int) -> Program:
    model = net(12, 4, seed)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", patience=2)

    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Tensor:
        loss = plain_step(model, batch, criterion, optimizer, number)
        schedule.step(loss.item())
        return loss

    return classifier(seed, model, optimizer=optimizer, scheduler=schedule, step_fn=step)


@broken("schedule-of-another-optimizer")
def schedules_the_old_optimizer(seed: int) -> Program:
    old, model = net(12, 4, seed), net(12, 4, seed)
    schedule = torch.optim.lr_scheduler.StepLR(torch.optim.SGD(old.parameters(), 0.1), 5)
    return classifier(seed, model, scheduler=schedule)


# -- the optimizer -----------------------------------------------------------------------------------------


@broken("optimizer-of-another-model")
def trains_a_copy(seed: int) -> Program:
    model = net(12, 4, seed)
    return classifier(seed, model, optimizer=adam(copy.deepcopy(model)))


@broken("parameters-not-in-optimizer")
def leaves_out_the_last_layer(seed: int) -> Program:
    model = net(12, 4, seed)
    return classifier(seed, model, optimizer=torch.optim.Adam(model[0].parameters(), 3e-3))


@broken("learning-rate-too-large", "loss-not-finite")
def adam_at_five(seed: int) -> Program:
    model = net(12, 4, seed, nn.Linear(32, 32), nn.ReLU())
    return classifier(seed, model, optimizer=adam(model, 5.0))


@broken("learning-rate-too-large", "loss-not-finite")
def regression_at_three(seed: int) -> Program:
    model = net(8, 1, seed).append(nn.Flatten(0))
    return regressor(seed, model, optimizer=torch.optim.SGD(model.parameters(), 3.0))


@broken("learning-rate-too-small")
def adamw_at_a_whisper(seed: int) -> Program:
    model = net(12, 4, seed)
    return classifier(seed, model, optimizer=torch.optim.AdamW(model.parameters(), 1e-10))


@broken("learning-rate-zero")
def rate_of_nothing(seed: int) -> Program:
    model = net(12, 4, seed)
    return classifier(seed, model, optimizer=torch.optim.SGD(model.parameters(), 0.0))


@broken("betas-swapped")
def betas_the_wrong_way_round(seed: int) -> Program:
    model = net(12, 4, seed)
    return classifier(seed, model, optimizer=adam(model, betas=(0.999, 0.9)))


@broken("rate-and-momentum-swapped", "learning-rate-too-large")
def rate_for_momentum(seed: int) -> Program:
    model = net(12, 4, seed)
    return classifier(seed, model, optimizer=torch.optim.SGD(model.parameters(), lr=0.9, momentum=0.01))


@broken("weight-decay-too-large")
def decays_everything(seed: int) -> Program:
    model = net(8, 1, seed).append(nn.Flatten(0))
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=5.0)
    return regressor(seed, model, optimizer=optimizer)


@broken("momentum-too-large")
def never_forgets(seed: int) -> Program:
    model = net(12, 4, seed)
    return classifier(seed, model, optimizer=torch.optim.SGD(model.parameters(), 0.01, momentum=1.0))


@broken("loss-is-a-sum", "learning-rate-too-large")
def adds_up_the_batch(seed: int) -> Program:
    model = net(8, 1, seed).append(nn.Flatten(0))
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    return regressor(seed, model, optimizer=optimizer, criterion=nn.MSELoss(reduction="sum"))


# -- the model ---------------------------------------------------------------------------------------------


@broken("layer-shared-by-accident")
def one_block_three_times(seed: int) -> Program:
    torch.manual_seed(seed)
    block = nn.Sequential(nn.Linear(32, 32), nn.ReLU())
    model = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), *[block] * 3, nn.Linear(32, 4))
    return classifier(seed, model)


@broken("layer-unused", "layer-shared-by-accident")
def second_layer_forgotten(seed: int) -> Program:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(self.first(x).relu()).relu())

    torch.manual_seed(seed)
    return classifier(seed, Model())


@broken("layers-not-registered")
def heads_in_a_dict(seed: int) -> Program:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(12, 16)
            self.heads = {"main": nn.Linear(16, 4)}

        def forward(self, x: Tensor) -> Tensor:
            return self.heads["main"](self.body(x).relu())

    torch.manual_seed(seed)
    return classifier(seed, Model())


@broken("layers-not-registered")
def a_bare_tensor_as_weight(seed: int) -> Program:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.last = nn.Linear(12, 16), nn.Linear(16, 4)
            self.mix = torch.eye(16).requires_grad_()

        def forward(self, x: Tensor) -> Tensor:
            return self.last((self.body(x) @ self.mix).relu())

    torch.manual_seed(seed)
    return classifier(seed, Model())


@broken("layer-made-in-forward")
def a_new_layer_each_time(seed: int) -> Program:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(nn.Linear(12, 16)(x).relu())

    torch.manual_seed(seed)
    return classifier(seed, Model())


@broken("gradient-cut")
def numpy_in_the_middle(seed: int) -> Program:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.last = nn.Linear(12, 16), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            h = self.body(x)
            return self.last(torch.tensor(h.detach().numpy().clip(0)))

    torch.manual_seed(seed)
    return classifier(seed, Model())


@broken("gradient-cut")
def no_grad_around_the_encoder(seed: int) -> Program:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.last = nn.Linear(12, 16), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                h = self.body(x).relu()
            return self.last(h)

    torch.manual_seed(seed)
    return classifier(seed, Model())


@broken("everything-frozen", "loss-without-graph")
def froze_the_head_too(seed: int) -> Program:
    model = net(12, 4, seed)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    return classifier(seed, model.requires_grad_(False), optimizer=optimizer)


@broken("freeze-has-no-effect")
def misspelt_freeze(seed: int) -> Program:
    model = net(12, 4, seed)
    for p in model[0].parameters():
        p.require_grad = False
    return classifier(seed, model)


@broken("lora-base-unfrozen")
def adapters_and_base(seed: int) -> Program:
    model = net(12, 4, seed)
    model[0] = LoRA(model[0], frozen=False)
    return classifier(seed, model)


@broken("lora-not-trained", "parameters-not-in-optimizer")
def adapters_added_after_the_optimizer(seed: int) -> Program:
    model = net(12, 4, seed)
    optimizer = torch.optim.Adam(model[2].parameters(), 3e-3)
    model[0] = LoRA(model[0])
    return classifier(seed, model, optimizer=optimizer)


@broken("frozen-batchnorm-learns")
def frozen_trunk_in_train_mode(seed: int) -> Program:
    torch.manual_seed(seed)
    trunk = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten()
    )
    model = nn.Sequential(trunk, nn.Linear(54, 3))
    trunk.requires_grad_(False)
    x, y = pictures(300, seed)
    return program(model, nn.CrossEntropyLoss(), adam(model), batches(x, y, seed))


@broken("symmetric-initialisation")
def constant_weights(seed: int) -> Program:
    model = net(8, 1, seed).append(nn.Flatten(0))
    for p in model.parameters():
        nn.init.constant_(p, 0.01)
    return regressor(seed, model)


@broken("initialisation-too-large")
def saturated_tanh(seed: int) -> Program:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(12, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 4))
    for part in model[:3]:
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=8.0)
    return classifier(seed, model)


@broken("initialisation-too-small", "gradient-all-zero", "outputs-ignore-inputs", "signal-dies")
def deep_and_faint(seed: int) -> Program:
    torch.manual_seed(seed)
    layers = [layer for _ in range(6) for layer in (nn.Linear(12, 12), nn.Tanh())]
    model = nn.Sequential(*layers, nn.Linear(12, 4))
    for part in model:
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=1e-4)
            nn.init.zeros_(part.bias)
    return classifier(seed, model)


@broken("dropout-in-evaluation")
def drops_for_ever(seed: int) -> Program:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.last = nn.Linear(12, 32), nn.Linear(32, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(F.dropout(self.body(x).relu(), 0.3))

    torch.manual_seed(seed)
    return classifier(seed, Model())


@broken("rows-mix")
def view_for_transpose(seed: int) -> Program:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.last = nn.Linear(8, 16), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            n = len(x)
            rows = x[:, 0].transpose(0, 1).reshape(n, 8, 8)  # (N,8,8) torn across the batch
            return self.last(self.body(rows).relu().mean(1))

    torch.manual_seed(seed)
    x, y = pictures(300, seed)
    model = Model()
    return program(model, nn.CrossEntropyLoss(), adam(model), batches(x, y, seed))


@broken("rows-mix")
def scales_by_the_batch(seed: int) -> Program:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = net(12, 4, seed)

        def forward(self, x: Tensor) -> Tensor:
            return self.body((x - x.mean(0)) / x.std(0))

    return classifier(seed, Model())


# -- the loss ----------------------------------------------------------------------------------------------


@broken("sigmoid-twice")
def sigmoid_and_with_logits(seed: int) -> Program:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = net(12, 1, seed)

        def forward(self, x: Tensor) -> Tensor:
            return torch.sigmoid(self.body(x)).squeeze(1)

    x, y = blobs(480, seed, classes=2)
    model = Model()
    return program(model, nn.BCEWithLogitsLoss(), adam(model), batches(x, y.float(), seed))


@broken("log-probabilities-needed")
def nll_of_probabilities(seed: int) -> Program:
    return classifier(seed, net(12, 4, seed).append(nn.Softmax(1)), criterion=nn.NLLLoss())


@broken("log-probabilities-needed")
def nll_of_logits(seed: int) -> Program:
    return classifier(seed, criterion=nn.NLLLoss())


@broken("softmax-over-the-batch", "rows-mix")
def softmax_the_wrong_way(seed: int) -> Program:
    return classifier(seed, net(12, 4, seed).append(nn.LogSoftmax(0)), criterion=nn.NLLLoss())


@broken("shapes-broadcast")
def column_against_row(seed: int) -> Program:
    return regressor(seed, net(8, 1, seed), criterion=nn.SmoothL1Loss())


@broken("shapes-broadcast")
def by_hand_and_broadcast(seed: int) -> Program:
    return regressor(seed, net(8, 1, seed), criterion=lambda output, target: ((output - target) ** 2).mean())


@broken("one-class-output")
def softmax_of_one(seed: int) -> Program:
    x, y = blobs(480, seed, classes=2)
    model = net(12, 1, seed)
    return program(model, nn.CrossEntropyLoss(), adam(model), batches(x, torch.zeros_like(y), seed))


@broken("targets-not-signs")
def hinge_of_zero_and_one(seed: int) -> Program:
    x, y = blobs(480, seed, classes=2)
    model = net(12, 1, seed).append(nn.Flatten(0))
    return program(model, nn.SoftMarginLoss(), adam(model), batches(x, y.float(), seed))


@broken("log-probabilities-needed")
def kl_of_probabilities(seed: int) -> Program:
    x, y = blobs(480, seed)
    soft = F.one_hot(y, 4) * 0.9 + 0.025
    model = net(12, 4, seed).append(nn.Softmax(1))
    return program(model, nn.KLDivLoss(reduction="batchmean"), adam(model), batches(x, soft, seed))


@broken("target-no-distribution")
def several_labels_and_cross_entropy(seed: int) -> Program:
    x, _ = blobs(480, seed)
    several = (x[:, :5] > 0.2).float()
    model = net(12, 5, seed)
    return program(model, nn.CrossEntropyLoss(), adam(model), batches(x, several, seed))


@broken("class-weights-inverted")
def positive_weight_upside_down(seed: int) -> Program:
    x, _ = blobs(600, seed)
    y = (x[:, 0] > 2.0).float()
    share = float(y.mean())
    model = net(12, 1, seed).append(nn.Flatten(0))
    criterion = nn.BCEWithLogitsLoss(pos_weight=torch.tensor([share / (1 - share)]))
    return program(model, criterion, adam(model), batches(x, y, seed))


@broken("output-cannot-reach-target")
def sigmoid_for_degrees(seed: int) -> Program:
    x, y = curve(400, seed)
    model = net(8, 1, seed).append(nn.Sigmoid()).append(nn.Flatten(0))
    return program(model, nn.L1Loss(), adam(model), batches(x, 20 + 5 * y, seed))


@broken("exponential-twice")
def exp_of_exp(seed: int) -> Program:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = net(8, 1, seed)

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x).squeeze(1).exp()

    x, y = curve(400, seed)
    model = Model()
    return program(model, nn.PoissonNLLLoss(), adam(model), batches(x, y.exp().round(), seed))


@broken("relu-on-logits")
def relu_at_the_end(seed: int) -> Program:
    return classifier(seed, net(12, 4, seed).append(nn.ReLU()))


@broken("loss-not-finite", "gradient-not-finite")
def logarithm_of_nothing(seed: int) -> Program:
    def entropy(output: Tensor, target: Tensor) -> Tensor:
        chosen = F.one_hot(target, 4)
        return -(chosen * (output.softmax(1) * (output > 0)).log()).sum(1).mean()

    return classifier(seed, criterion=entropy)


@broken("arguments-swapped")
def target_first(seed: int) -> Program:
    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Tensor:
        optimizer.zero_grad()
        loss = criterion(batch[1], model(batch[0]).sigmoid())
        loss.backward()
        optimizer.step()
        return loss

    x, y = blobs(480, seed, classes=2)
    model = net(12, 1, seed).append(nn.Flatten(0))
    return program(model, nn.BCELoss(), adam(model), batches(x, y.float(), seed), step_fn=step)


# -- data --------------------------------------------------------------------------------------------------


@broken("labels-misaligned")
def collate_shuffles_the_labels(seed: int) -> Program:
    def collate(rows: Any) -> Any:
        x, y = torch.stack([row[0] for row in rows]), torch.stack([row[1] for row in rows])
        return x, y[torch.randperm(len(y))]

    train = batches(*blobs(480, seed), seed, collate_fn=collate)
    return classifier(seed, train_loader=train)


@broken("labels-shifted", "labels-misaligned")
def target_of_the_row_before(seed: int) -> Program:
    class Shifted(Dataset[Any]):
        def __init__(self) -> None:
            self.x, self.y = curve(400, seed)

        def __len__(self) -> int:
            return 400

        def __getitem__(self, place: int) -> Any:
            return self.x[place], self.y[place - 1]

    train = DataLoader(Shifted(), 32, shuffle=True, generator=torch.Generator().manual_seed(seed))
    return regressor(seed, train_loader=train)


@broken("target-constant")
def one_class_left(seed: int) -> Program:
    x, y = blobs(480, seed)
    return classifier(seed, train_loader=batches(x, torch.full_like(y, 2), seed))


@broken("training-data-sorted")
def class_by_class(seed: int) -> Program:
    x, y = pictures(360, seed)
    order = y.argsort()
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 3))
    return program(model, nn.CrossEntropyLoss(), adam(model), batches(x[order], y[order], shuffle=False))


@broken("validation-scaled-by-itself")
def each_part_by_itself(seed: int) -> Program:
    (x, y), (v, w) = curve(400, seed), curve(160, seed + 500)
    x, v = ((each - each.mean(0)) / each.std(0) for each in (3 + 2 * x, 3 + 2 * v))
    return regressor(seed, train_loader=batches(x, y, seed), val_loader=batches(v, w, shuffle=False))


@broken("validation-prepared-differently")
def validation_in_bytes(seed: int) -> Program:
    (x, y), (v, w) = pictures(300, seed, channels=3), pictures(120, seed + 500, channels=3)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 3))
    valid = batches((v * 255).round(), w, shuffle=False)
    return program(model, nn.CrossEntropyLoss(), adam(model), batches(x, y, seed), valid)


@broken("validation-prepared-differently")
def one_column_in_another_unit(seed: int) -> Program:
    v, w = curve(160, seed + 500)
    v[:, 2] *= 1000  # metres there, kilometres here
    return regressor(seed, val_loader=batches(v, w, shuffle=False))


@broken("validation-is-random")
def augments_validation(seed: int) -> Program:
    class Noisy(Dataset[Any]):
        def __init__(self, rows: tuple[Tensor, Tensor]) -> None:
            self.x, self.y = rows

        def __len__(self) -> int:
            return len(self.x)

        def __getitem__(self, place: int) -> Any:
            x = self.x[place]
            return (x.flip(-1) if torch.rand(()) < 0.5 else x), self.y[place]

    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 3))
    train = DataLoader(Noisy(pictures(300, seed)), 32, shuffle=True)
    return program(
        model, nn.CrossEntropyLoss(), adam(model), train, DataLoader(Noisy(pictures(120, seed + 5)), 32)
    )


@broken("validation-is-train")
def the_same_rows_again(seed: int) -> Program:
    train = blobs(480, seed)
    return classifier(seed, train_loader=batches(*train, seed), val_loader=batches(*train, shuffle=False))


@broken("validation-in-training")
def indices_that_overlap(seed: int) -> Program:
    data = TensorDataset(*blobs(500, seed))
    train = DataLoader(Subset(data, range(420)), 32, shuffle=True)
    return classifier(seed, train_loader=train, val_loader=DataLoader(Subset(data, range(380, 500)), 32))


@broken("sampler-repeats-rows", "sampler-skips-a-class")
def weights_of_classes_for_rows(seed: int) -> Program:
    x, y = blobs(480, seed)
    weights = 1 / torch.bincount(y).float()
    sampler = WeightedRandomSampler(weights.tolist(), len(x))
    return classifier(seed, train_loader=DataLoader(TensorDataset(x, y), 32, sampler=sampler))


@broken("sampler-skips-a-class")
def a_class_of_weight_nothing(seed: int) -> Program:
    x, y = blobs(480, seed)
    sampler = WeightedRandomSampler((y != 3).double().tolist(), len(x))
    return classifier(seed, train_loader=DataLoader(TensorDataset(x, y), 32, sampler=sampler))


@broken("rows-repeated", "shards-overlap")
def both_ranks_the_same_shard(seed: int) -> Program:
    x, y = blobs(480, seed)
    shards = [Subset(TensorDataset(x, y), range(0, 480, 2)) for _rank in range(2)]
    train = DataLoader(ConcatDataset(shards), 32, shuffle=True)
    return classifier(seed, train_loader=train)


@broken("loader-empty")
def batch_larger_than_the_data(seed: int) -> Program:
    return classifier(seed, train_loader=batches(*blobs(100, seed), seed, 128, drop_last=True))


@broken("loader-drops-data")
def drops_nearly_half(seed: int) -> Program:
    return classifier(seed, train_loader=batches(*blobs(480, seed), seed, 256, drop_last=True))


@broken("not-finite-data")
def a_hole_in_the_table(seed: int) -> Program:
    x, y = curve(400, seed)
    x[17, 3] = math.nan
    return regressor(seed, train_loader=batches(x, y, seed))


@broken("target-in-inputs")
def answer_in_the_table(seed: int) -> Program:
    (x, y), (v, w) = curve(400, seed), curve(160, seed + 500)
    x, v = torch.cat([x, 2 * y[:, None] + 1], 1), torch.cat([v, 2 * w[:, None] + 1], 1)
    model = net(9, 1, seed).append(nn.Flatten(0))
    return regressor(seed, model, train_loader=batches(x, y, seed), val_loader=batches(v, w, shuffle=False))


@broken("inputs-not-scaled")
def raw_columns(seed: int) -> Program:
    x, y = blobs(480, seed)
    return classifier(seed, train_loader=batches(x * 3000 + 500, y, seed), val_loader=None)


# -- sequences ---------------------------------------------------------------------------------------------


def _language(
    seed: int, model: nn.Module, x: Tensor, y: Tensor, criterion: Any = per_token, **more: Any
) -> Program:
    return program(model, criterion, adam(model), batches(x, y, seed, 16), **more)


@broken("target-shifted-twice")
def shifts_in_the_data_and_in_the_loss(seed: int) -> Program:
    def criterion(output: Tensor, target: Tensor) -> Tensor:
        return per_token(output[:, :-1], target[:, 1:])

    torch.manual_seed(seed)
    x = words(200, 17, seed)
    return _language(seed, Reader(20), x[:, :-1], x[:, 1:], criterion)


@broken("sees-the-future")
def reads_backwards_as_well(seed: int) -> Program:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(20, 16)
            self.memory = nn.LSTM(16, 16, batch_first=True, bidirectional=True)
            self.last = nn.Linear(32, 20)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.memory(self.embed(x))[0])

    torch.manual_seed(seed)
    x = words(200, 17, seed)
    return _language(seed, Model(), x[:, :-1], x[:, 1:])


@broken("sees-the-future")
def forgets_the_causal_mask_in_the_step(seed: int) -> Program:
    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Tensor:
        optimizer.zero_grad()
        x = batch[0]
        loss = F.cross_entropy(model(x)[:, :-1].reshape(-1, 20), x[:, 1:].reshape(-1))
        loss.backward()
        optimizer.step()
        return loss

    torch.manual_seed(seed)
    x = words(200, 16, seed)
    return _language(seed, Reader(20, causal=False), x, x, step_fn=step)


@broken("target-not-shifted")
def copies_its_input(seed: int) -> Program:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.memory = nn.Embedding(20, 16), nn.GRU(16, 24, batch_first=True)
            self.last = nn.Linear(24, 20)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.memory(self.embed(x))[0])

    torch.manual_seed(seed)
    x = words(200, 16, seed)
    return _language(seed, Model(), x, x.clone())


@broken("target-is-the-past")
def shifts_the_wrong_way(seed: int) -> Program:
    torch.manual_seed(seed)
    x = words(200, 17, seed)
    return _language(seed, Reader(20), x[:, 1:], x[:, :-1])


@broken("padding-in-loss")
def learns_the_padding(seed: int) -> Program:
    torch.manual_seed(seed)
    x = padded(words(200, 21, seed), seed)
    return _language(seed, Reader(20), x[:, :-1], x[:, 1:])


@broken("mask-inverted")
def masks_the_words(seed: int) -> Program:
    torch.manual_seed(seed)
    x = padded(words(240, 20, seed), seed)
    y = (x == 5).any(1).long()
    model = Reader(20, causal=False, outputs=2, masks=lambda x: x != 0)
    return _language(seed, model, x, y, nn.CrossEntropyLoss())


@broken("padding-not-masked")
def attends_to_padding(seed: int) -> Program:
    torch.manual_seed(seed)
    x = padded(words(240, 20, seed), seed)
    y = (x == 5).any(1).long()
    return _language(seed, Reader(20, causal=False, outputs=2), x, y, nn.CrossEntropyLoss())


@broken("all-targets-ignored")
def truncated_to_nothing(seed: int) -> Program:
    torch.manual_seed(seed)
    x = words(200, 16, seed)
    return _language(seed, Reader(20), x, torch.full_like(x, -100))


# -- evaluation --------------------------------------------------------------------------------------------


def _rested(
    score: Callable[[Tensor, Tensor], float], divide: Callable[[Any, int], float] | None = None
) -> Any:
    def evaluate(model: Any, loader: Any) -> float:
        model.eval()
        total, rows = 0.0, 0
        with torch.no_grad():
            for x, y in loader:
                total += score(model(x), y)
                rows += len(y)
        return total / (divide(loader, rows) if divide else rows)

    return evaluate


@broken("metric-wrong")
def argmax_over_the_rows(seed: int) -> Program:
    def score(output: Tensor, y: Tensor) -> float:
        best = output.argmax(0)
        return float((best == y[: len(best)]).sum())

    return classifier(seed, eval_fn=_rested(score))


@broken("metric-wrong")
def divides_by_full_batches(seed: int) -> Program:
    hits = _rested(lambda out, y: float((out.argmax(1) == y).sum()), lambda loader, rows: len(loader) * 32)
    return classifier(seed, eval_fn=hits)


@broken("evaluates-something-else", "metric-wrong")
def evaluates_on_the_training_rows(seed: int) -> Program:
    train = batches(*blobs(480, seed), seed)
    score = _rested(lambda out, y: float((out.argmax(1) == y).sum()))
    return classifier(seed, train_loader=train, eval_fn=lambda model, loader: score(model, train))


@broken("metric-wrong")
def cuts_logits_at_a_half(seed: int) -> Program:
    x, y = blobs(480, seed, classes=2)
    v, w = blobs(200, seed + 500, classes=2, noise=3.0)
    model = net(12, 1, seed).append(nn.Flatten(0))
    score = _rested(lambda out, y: float(((out > 0.5) == (y > 0.5)).sum()))
    valid = batches(v, w.float(), shuffle=False)
    return program(
        model, nn.BCEWithLogitsLoss(), adam(model), batches(x, y.float(), seed), valid, eval_fn=score
    )


@broken("evaluation-changes-the-model")
def goes_on_training(seed: int) -> Program:
    model = net(12, 4, seed)
    optimizer = adam(model)

    def evaluate(model: Any, loader: Any) -> float:
        losses = []
        for x, y in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return sum(losses) / len(losses)

    return classifier(seed, model, optimizer=optimizer, eval_fn=evaluate)


@broken("mean-of-batch-means")
def mean_of_batch_losses(seed: int) -> Program:
    def evaluate(model: Any, loader: Any) -> float:
        model.eval()
        with torch.no_grad():
            losses = [F.cross_entropy(model(x), y).item() for x, y in loader]
        return sum(losses) / len(losses)

    valid = batches(*blobs(130, seed + 500), size=64, shuffle=False)
    return classifier(seed, eval_fn=evaluate, val_loader=valid)


@broken("evaluation-in-train-mode")
def norm_works_while_scoring(seed: int) -> Program:
    def evaluate(model: Any, loader: Any) -> float:
        model.train()
        with torch.no_grad():
            errors = [((model(x) - y) ** 2).sum().item() for x, y in loader]
        return sum(errors) / 160

    model = net(8, 1, seed, nn.BatchNorm1d(32)).append(nn.Flatten(0))
    return regressor(seed, model, eval_fn=evaluate)
