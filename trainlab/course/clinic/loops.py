"""Patients whose training step is ill: calls forgotten, in the wrong order, in the wrong mode."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .parts import Case, Parts, accuracy, digits, loader, mlp, on_digits

_clip = torch.nn.utils.clip_grad_norm_


def _no_zero(mended: bool, seed: int) -> Parts:
    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Any:
        if mended:
            optimizer.zero_grad()
        loss = criterion(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        return loss

    return on_digits(seed, step_fn=step)


def _cleared_early(mended: bool, seed: int) -> Parts:
    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Any:
        loss = criterion(model(batch[0]), batch[1])
        if mended:
            optimizer.zero_grad()
        loss.backward()
        if not mended:
            optimizer.zero_grad()
        optimizer.step()
        return loss

    return on_digits(seed, step_fn=step)


def _left_resting(mended: bool, seed: int) -> Parts:
    torch.manual_seed(seed)
    model = mlp(64, 10, nn.BatchNorm1d(64), nn.Dropout(0.3))
    held = loader(digits()[1], seed, shuffle=False, batch_size=200)

    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Any:
        if mended:
            model.train()
        optimizer.zero_grad()
        loss = criterion(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        if number % 5 == 4:
            model.eval()
            with torch.no_grad():
                sum(criterion(model(x), y) for x, y in held)
        return loss

    return on_digits(seed, model, step_fn=step)


def _late_clip(mended: bool, seed: int) -> Parts:
    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Any:
        optimizer.zero_grad()
        loss = criterion(model(batch[0]), batch[1])
        loss.backward()
        if mended:
            _clip(model.parameters(), 1.0)
        optimizer.step()
        if not mended:
            _clip(model.parameters(), 1.0)
        return loss

    return on_digits(seed, step_fn=step)


def _undivided(mended: bool, seed: int) -> Parts:
    k = 4

    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Any:
        if number % k == 0:
            optimizer.zero_grad()
        loss = criterion(model(batch[0]), batch[1])
        (loss / k if mended else loss).backward()
        if number % k == k - 1:
            optimizer.step()
        return loss

    torch.manual_seed(seed)
    model = mlp()
    return on_digits(
        seed, model, step_fn=step, optimizer=torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    )


def _scaled_clip(mended: bool, seed: int) -> Parts:
    scaler = torch.amp.GradScaler("cpu")

    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Any:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = criterion(model(batch[0]), batch[1])
        scaler.scale(loss).backward()
        if mended:
            scaler.unscale_(optimizer)
        _clip(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        return loss

    return on_digits(seed, step_fn=step)


def _hurried_schedule(mended: bool, seed: int) -> Parts:
    torch.manual_seed(seed)
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.1)  # "every third epoch a tenth"
    interval = "epoch" if mended else "step"
    return on_digits(seed, model, optimizer=optimizer, scheduler=schedule, scheduler_interval=interval)


def _training_while_scoring(mended: bool, seed: int) -> Parts:
    torch.manual_seed(seed)
    model = mlp(64, 10, nn.BatchNorm1d(64), nn.Dropout(0.5))

    def score(model: Any, batches: Any) -> float:
        if mended:
            return accuracy(model, batches)
        hits = rows = 0
        for x, y in batches:
            hits += int((model(x).argmax(1) == y).sum())
            rows += len(y)
        return hits / rows

    return on_digits(seed, model, eval_fn=score)


def _mean_of_means(mended: bool, seed: int) -> Parts:
    def score(model: Any, batches: Any) -> float:
        if mended:
            return accuracy(model, batches)
        model.eval()
        with torch.no_grad():
            shares = [float((model(x).argmax(1) == y).float().mean()) for x, y in batches]
        return sum(shares) / len(shares)

    held = loader(tuple(part[:261] for part in digits()[1]), seed, shuffle=False, batch_size=128)  # type: ignore[arg-type]
    return on_digits(seed, eval_fn=score, val_loader=held)


CASES = (
    Case("no-zero", "The loss falls at first, then jumps about and climbs.", "zero-grad-missing", _no_zero,
         "print the norm of the gradient at each step"),
    Case("cleared-early", "Not one weight moves.", "zero-grad-before-step", _cleared_early,
         "call check_gradients right before optimizer.step()"),
    Case("left-resting", "After the first evaluation it overfits, though there is dropout.", "eval-mode-in-training",
         _left_resting, "print model.training at each step"),
    Case("late-clip", "Clipping at 1.0 changes nothing, not even the spikes.", "clip-after-step", _late_clip,
         "in what order are gradients made, cut and used?"),
    Case("undivided", "Four small batches should train like one large one, and it is wilder.",
         "accumulation-not-divided", _undivided, "compare the gradient with that of one batch four times as large"),
    Case("scaled-clip", "With mixed precision, clipping at 1.0 makes training crawl.", "clip-before-unscale",
         _scaled_clip, "what is the norm that clipping sees?"),
    Case("hurried-schedule", "Learning stops within the first epoch.", "schedule-stepped-per-batch",
         _hurried_schedule, "plot the rate over the steps", ("schedule-falls-at-once",)),
    Case("training-while-scoring", "The score is lower than it should be, and another one at each call.",
         "evaluation-in-train-mode", _training_while_scoring, "call the metric twice"),
    Case("mean-of-means", "The score changes with the batch size.", "mean-of-batch-means", _mean_of_means,
         "how many rows has the last batch?"),
)  # fmt: skip
