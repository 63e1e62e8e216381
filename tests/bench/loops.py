"""Loops written by hand, and trainlab's."""

from __future__ import annotations

import math
from time import perf_counter

import torch
from task import BATCH_SIZE, VALID_BATCH_SIZE, Run, Task, mean_loss_and_accuracy
from torch.nn import functional as F

import trainlab as tl


def dataloader_loop(task: Task) -> Run:
    """The loop of tutorials: a DataLoader over a TensorDataset, `.item()` at each step."""
    loader, valid = task.train_loader(), task.valid_loader()
    model, optimizer = task.model, task.optimizer

    def run() -> list[float]:
        accuracies = []
        for _ in range(task.epochs):
            model.train()
            total = 0.0
            for features, targets in loader:
                optimizer.zero_grad()
                loss = F.cross_entropy(model(features), targets)
                loss.backward()
                optimizer.step()
                total += loss.item()
            accuracies.append(mean_loss_and_accuracy(model, valid)[1])
        return accuracies

    return run


def tensor_loop(task: Task) -> Run:
    """The fastest loop that only trains: batches cut from tensors, nothing looked at or kept."""
    features, targets = task.train
    valid = list(zip(*(part.split(VALID_BATCH_SIZE) for part in task.valid)))
    model, optimizer = task.model, task.optimizer

    def run() -> list[float]:
        accuracies = []
        for _ in range(task.epochs):
            for index in torch.randperm(len(targets)).split(BATCH_SIZE):
                optimizer.zero_grad()
                logits = model(features.index_select(0, index))
                F.cross_entropy(logits, targets.index_select(0, index)).backward()
                optimizer.step()
            accuracies.append(mean_loss_and_accuracy(model, valid)[1])
        return accuracies

    return run


def careful_loop(task: Task) -> Run:
    """The fastest loop that does what trainlab does at each step, on the same batches.

    It looks at each loss, keeps the random state to go back to, and records loss, rate and time.
    """
    features, targets = task.train
    valid = list(zip(*(part.split(VALID_BATCH_SIZE) for part in task.valid)))
    model, optimizer = task.model, task.optimizer
    order = tl.make_loader(task.train, BATCH_SIZE, seed=0, shuffle=True).order

    def run() -> list[float]:
        records, accuracies = [], []
        for epoch in range(task.epochs):
            for index in order(epoch).split(BATCH_SIZE):
                started = perf_counter()
                before = torch.get_rng_state()
                optimizer.zero_grad()
                logits = model(features.index_select(0, index))
                loss = F.cross_entropy(logits, targets.index_select(0, index))
                value = loss.item()
                if not math.isfinite(value):
                    torch.set_rng_state(before)
                    raise ArithmeticError(f"the loss is {value} at step {len(records) + 1}")
                loss.backward()
                optimizer.step()
                records.append((epoch, value, optimizer.param_groups[0]["lr"], perf_counter() - started))
            accuracies.append(mean_loss_and_accuracy(model, valid)[1])
        return accuracies

    return run


def trainlab_fit(task: Task) -> Run:
    """`fit` with its default settings; the history is recorded."""
    loader = tl.make_loader(task.train, BATCH_SIZE, seed=0, shuffle=True)
    valid = tl.make_loader(task.valid, VALID_BATCH_SIZE, seed=0, shuffle=False)
    state = tl.TrainState(task.model, task.optimizer)
    config = tl.TrainConfig(epochs=task.epochs, device="cpu")

    def run() -> list[float]:
        history = tl.fit(state, loader, tl.losses.classification(), config, valid=valid)
        return history.column("valid_accuracy")

    return run
