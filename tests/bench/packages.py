"""Training packages, each with whatever costs time and is not training switched off.

A package is imported when its contestant is built, so that none is disturbed by another.
"""

from __future__ import annotations

from typing import Any

import torch
from task import BATCH_SIZE, VALID_BATCH_SIZE, Pair, Run, Task
from torch import Tensor, nn
from torch.nn import functional as F


def lightning_trainer(task: Task) -> Run:
    """Lightning's Trainer in its barebones mode."""
    import lightning

    accuracies: list[float] = []

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = task.model
            self.correct: list[Tensor] = []
            self.losses: list[Tensor] = []

        def training_step(self, batch: Pair, _: int) -> Tensor:
            return F.cross_entropy(self.model(batch[0]), batch[1])

        # by hand: self.log is switched off in barebones mode, and slower where it is not
        def validation_step(self, batch: Pair, _: int) -> None:
            logits = self.model(batch[0])
            self.losses.append(F.cross_entropy(logits, batch[1], reduction="sum"))
            self.correct.append((logits.argmax(1) == batch[1]).sum())

        def on_validation_epoch_end(self) -> None:
            rows = len(task.valid[1])
            accuracies.append(torch.stack(self.correct).sum().item() / rows)
            _ = torch.stack(self.losses).sum().item() / rows
            self.correct.clear()
            self.losses.clear()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return task.optimizer

    trainer = lightning.Trainer(max_epochs=task.epochs, accelerator="cpu", devices=1, barebones=True)
    module, loader, valid = Module(), task.train_loader(), task.valid_loader()

    def run() -> list[float]:
        trainer.fit(module, loader, valid)
        return accuracies

    return run


def transformers_trainer(task: Task) -> Run:
    """transformers' Trainer: nothing saved, logged, clipped or drawn."""
    import tempfile

    from transformers import PrinterCallback, Trainer, TrainingArguments

    accuracies: list[float] = []

    class Rows(torch.utils.data.Dataset[dict[str, Tensor]]):
        def __init__(self, pair: Pair) -> None:
            self.pair = pair

        def __len__(self) -> int:
            return len(self.pair[1])

        def __getitem__(self, index: int) -> dict[str, Tensor]:
            return {"features": self.pair[0][index], "labels": self.pair[1][index]}

    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = task.model

        def forward(self, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
            logits = self.model(features)
            return {"loss": F.cross_entropy(logits, labels), "logits": logits}

    def measure(prediction: Any) -> dict[str, float]:
        accuracies.append(float((prediction.predictions.argmax(1) == prediction.label_ids).mean()))
        return {"accuracy": accuracies[-1]}

    arguments = TrainingArguments(
        output_dir=tempfile.gettempdir(),
        num_train_epochs=task.epochs,
        per_device_train_batch_size=BATCH_SIZE,
        per_device_eval_batch_size=VALID_BATCH_SIZE,
        max_grad_norm=0.0,
        eval_strategy="epoch",
        logging_strategy="no",
        logging_nan_inf_filter=False,
        dataloader_pin_memory=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    contestant = Trainer(
        WithLoss(),
        arguments,
        train_dataset=Rows(task.train),
        eval_dataset=Rows(task.valid),
        compute_metrics=measure,
        optimizers=(task.optimizer, torch.optim.lr_scheduler.ConstantLR(task.optimizer, factor=1.0)),
    )
    contestant.remove_callback(PrinterCallback)

    def run() -> list[float]:
        contestant.train()
        return accuracies

    return run


def fastai_learner(task: Task) -> Run:
    """fastai's Learner over torch's loaders, without its bar and its log."""
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.metrics import accuracy
    from fastai.optimizer import OptimWrapper
    from fastai.torch_core import default_device

    default_device(False)  # the CPU
    loaders = DataLoaders(task.train_loader(), task.valid_loader(), device="cpu")
    learner = Learner(
        loaders,
        task.model,
        loss_func=nn.CrossEntropyLoss(),
        opt_func=lambda parameters, **_: OptimWrapper(opt=task.optimizer),
        lr=task.optimizer.param_groups[0]["lr"],
        metrics=accuracy,
    )

    def run() -> list[float]:
        with learner.no_logging():  # the bar is an import that is not made here
            learner.fit(task.epochs)
        return [float(values[-1]) for values in learner.recorder.values]

    return run


def accelerate_loop(task: Task) -> Run:
    """The loop of accelerate's documentation."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model, optimizer, loader, valid = accelerator.prepare(
        task.model, task.optimizer, task.train_loader(), task.valid_loader()
    )

    def validate() -> float:
        model.eval()
        loss, correct, rows = torch.zeros(()), torch.zeros((), dtype=torch.int64), 0
        for features, targets in valid:
            with torch.no_grad():
                logits = model(features)
            logits, targets = accelerator.gather_for_metrics((logits, targets))
            loss += F.cross_entropy(logits, targets, reduction="sum")
            correct += (logits.argmax(1) == targets).sum()
            rows += len(targets)
        _ = loss.item() / rows
        return correct.item() / rows

    def run() -> list[float]:
        accuracies = []
        for _ in range(task.epochs):
            model.train()
            total = torch.zeros(())
            for features, targets in loader:
                optimizer.zero_grad()
                loss = F.cross_entropy(model(features), targets)
                total += loss.detach()
                accelerator.backward(loss)
                optimizer.step()
            accuracies.append(validate())
        return accuracies

    return run


def ignite_engine(task: Task) -> Run:
    """pytorch-ignite's supervised trainer and evaluator."""
    from ignite.engine import Events, create_supervised_evaluator, create_supervised_trainer
    from ignite.metrics import Accuracy, Loss

    loss_function = nn.CrossEntropyLoss()
    loader, valid = task.train_loader(), task.valid_loader()
    trainer = create_supervised_trainer(task.model, task.optimizer, loss_function)
    metrics = {"accuracy": Accuracy(), "loss": Loss(loss_function)}
    evaluator = create_supervised_evaluator(task.model, metrics=metrics)
    accuracies: list[float] = []

    @trainer.on(Events.EPOCH_COMPLETED)
    def validate() -> None:
        accuracies.append(evaluator.run(valid).metrics["accuracy"])

    def run() -> list[float]:
        trainer.run(loader, max_epochs=task.epochs)
        return accuracies

    return run
