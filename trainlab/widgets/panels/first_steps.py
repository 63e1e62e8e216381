"""The panels of the first chapters: a first run, and what its curves say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...data.loaders import Loader, make_loader
from ...errors import TrainlabError
from ...events import Event, Restarted, Step, Validation
from ...loop.config import TrainConfig
from ...loop.evaluation import evaluate
from ...losses import classification
from ...models import MLP
from ...randomness import preserve_rng, seed_everything
from ...state import TrainState
from ..charts import Axis, Chart, Curve, CurveChart, ImageChart, Mark
from ..live import LiveRun
from ..panel import RunPanel, beside, choice, curve, row, show_settings
from ..sliders import Slider, rates
from .material import batches, built, digits


class FirstRun(RunPanel):
    """A first network under your hands: learning rate and batch size while it learns to read digits.

    panel = tl.panels.FirstRun()
    panel                                       # live
    panel.run(model="MLP", lr=0.1, epochs=3)    # the same without a person
    """

    title = "First run: a network learns to read digits"

    def __init__(self) -> None:
        super().__init__()
        self.model, self.seed, self.epochs = "MLP", 0, 20
        self._controls()
        self._charts()
        self.draw()

    def _controls(self) -> None:
        self.rate = Slider("learning rate", rates(1e-4, 10), 0.1, help="how far each step moves the weights")
        self.batch = Slider(
            "batch size",
            [8, 16, 32, 64, 128, 256],
            64,
            unit="images",
            help="images per step; a change holds from the next epoch on",
        )
        self.rate.on_move(lambda value: self.change(lr=value))
        self.batch.on_move(lambda value: self.change(batch_size=int(value)))
        self.choice = choice("model:", ["MLP", "CNN"], self.model, self._choose)

    def _charts(self) -> None:
        self.losses = CurveChart(
            "step",
            Axis("loss (nats)", low=0.0),
            title="Loss",
            alt="training loss of each step and loss on unseen digits",
            height=230,
        )
        self.shares = CurveChart(
            "step",
            Axis("share read correctly", low=0.0, high=1.0),
            title="Read correctly",
            alt="share of 500 unseen digits",
            height=230,
            tools=False,
        )
        self.images = ImageChart(
            title="Sixteen unseen digits, as they are read now",
            columns=8,
            alt="each with the answer of the network at this moment",
        )

    def run(
        self, *, model: str = "MLP", lr: float = 0.1, batch_size: int = 64, epochs: int = 3, seed: int = 0
    ) -> dict[str, float | int | str]:
        """Train without a person; returns where it ended: step, losses, accuracies."""
        self.model, self.seed, self.epochs = model, seed, epochs
        with preserve_rng():
            self.runs = [self._make(lr, batch_size)]
        show_settings((self.choice, model), (self.rate, lr), (self.batch, batch_size))
        self.runs[0].drain()
        self.draw()
        return self.runs[0].values()

    def _choose(self, model: str) -> None:
        self.model = model
        self.do(self.renew)

    def make(self) -> list[LiveRun]:
        return [self._make(self.rate.value, int(self.batch.value))]

    def _make(self, lr: float, batch_size: int) -> LiveRun:
        train, valid = digits()
        model = built(self.model, self.seed)
        state = TrainState(model, torch.optim.SGD(model.parameters(), lr))
        return LiveRun(
            state,
            batches(train, batch_size, self.seed),
            classification(),
            TrainConfig(epochs=self.epochs, validate_every=20),
            valid=batches(valid, 250, 0, shuffle=False),
            name=f"{self.model}, rate {lr:.2g}",
        )

    def settle(self) -> None:
        run = self.runs[0]
        self.rate.move_to(run.base_lr * run.state.controls.lr_scale)
        self.batch.move_to(run.batch_size or 0)

    def curves(self, run: LiveRun, place: int) -> list[Curve]:
        letter = f" {'AB'[place]}" if len(self.runs) > 1 else ""
        return [
            curve(run, "loss", f"training{letter}", 2 * place, "line" if place else "faint"),
            curve(run, "valid_loss", f"unseen digits{letter}", 2 * place + 1),
        ]

    def draw(self) -> None:
        old = [each for curves in self.earlier for each in curves]
        now = [each for place, run in enumerate(self.runs) for each in self.curves(run, place)]
        self.losses.show([*old, *now], self.marks())
        self.shares.show(
            [
                curve(
                    run, "valid_accuracy", f"unseen digits{f' {letter}' if len(self.runs) > 1 else ''}", color
                )
                for run, letter, color in zip(self.runs, "AB", (1, 3))
            ],
            self.marks(),
        )
        self._show_images()

    def _show_images(self) -> None:
        chosen = digits()[1].subset(torch.arange(0, 500, 31)[:16])
        images = chosen.features[:, 0].numpy()
        if not self.runs:
            self.images.show(images, ["?"] * 16, None)
            return
        answers = _answers(self.runs[0].state.model, chosen.features)
        self.images.show(images, [str(a) for a in answers.tolist()], (answers == chosen.targets).tolist())

    def charts(self) -> list[Chart]:
        return [self.losses, self.shares, self.images]

    def layout(self) -> list[Any]:
        return [
            row(self.choice, self.rate, self.batch),
            *self.buttons(),
            beside(self.losses, self.shares),
            self.images,
        ]


@torch.no_grad()
def _answers(model: nn.Module, images: Tensor) -> Tensor:
    """What the model says, in eval mode and without a trace (batch norm and dropout included)."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        return model(images).argmax(1)
    finally:
        for module, mode in modes:
            module.training = mode


class _Remeasured:
    """An observer: the loss as it was logged over each epoch, and on the same rows measured again."""

    def __init__(self, rows: Loader) -> None:
        self.run: LiveRun | None = None
        self._rows = rows
        self._sum = self._count = 0.0

    def __call__(self, event: Event) -> None:
        assert self.run is not None
        if isinstance(event, Step):
            self._sum += float(event.loss) * event.samples
            self._count += event.samples
        elif isinstance(event, Validation) and self._count:
            again = evaluate(self.run.state.model, self._rows, self.run.loss_fn)
            self.run.note("logged", event.step, self._sum / self._count)
            self.run.note("again_loss", event.step, again["loss"])
            self.run.note("again_accuracy", event.step, again["accuracy"])
        if isinstance(event, Validation | Restarted):
            self._sum = self._count = 0.0


class LoopAndCurves(RunPanel):
    """Three curves of one run: training as logged, the same rows measured again, and validation.

    panel = tl.panels.LoopAndCurves()
    panel.run(hidden=128, rows=200, random_labels=1.0, epochs=80)
    """

    title = "Loop and curves: what a training loss says, and what it does not"

    def __init__(self) -> None:
        super().__init__()
        self.seed = 0
        self._controls()
        self._charts()
        self.draw()

    def _controls(self) -> None:
        self.rate = Slider(
            "learning rate", rates(1e-5, 0.1), 1e-3, help="Adam's; holds from the next step on"
        )
        self.hidden = Slider(
            "hidden units",
            [2, 4, 8, 16, 32, 64, 128, 256, 512],
            128,
            eager=False,
            help="capacity; begins a new run",
        )
        self.rows = Slider(
            "training rows",
            [50, 100, 200, 500, 1000, 2000, 3500],
            1000,
            eager=False,
            help="how many digits to learn from; begins a new run",
        )
        self.noise = Slider(
            "random labels",
            [0, 0.1, 0.25, 0.5, 0.75, 1.0],
            0,
            eager=False,
            help="share of training labels drawn at random; begins a new run",
        )
        self.length = Slider(
            "epochs", [5, 10, 20, 40, 60, 80, 120], 60, eager=False, help="length of a run; begins a new one"
        )
        self.rate.on_move(lambda value: self.change(lr=value))
        for slider in (self.hidden, self.rows, self.noise, self.length):
            slider.on_move(lambda value: self.do(self.renew))

    def _charts(self) -> None:
        self.losses = CurveChart(
            "epoch",
            Axis("loss (nats)", low=0.0),
            title="Loss",
            alt="training as logged, the same rows measured again, validation",
        )
        self.shares = CurveChart(
            "epoch",
            Axis("accuracy", low=0.0, high=1.0),
            title="Accuracy",
            tools=False,
            alt="training rows measured again, validation",
        )

    def run(
        self,
        *,
        hidden: int = 128,
        rows: int = 1000,
        random_labels: float = 0.0,
        epochs: int = 20,
        lr: float = 1e-3,
        seed: int = 0,
    ) -> dict[str, float | int | str]:
        """Train without a person; returns where it ended: step, losses, accuracies."""
        self.seed = seed
        with preserve_rng():
            self.runs = [self._make(hidden, rows, random_labels, epochs, lr)]
        show_settings((self.hidden, hidden), (self.rows, rows), (self.noise, random_labels))
        show_settings((self.length, epochs), (self.rate, lr))
        self.runs[0].drain()
        self.draw()
        return self.runs[0].values(2)

    def make(self) -> list[LiveRun]:
        sizes = (int(self.hidden.value), int(self.rows.value))
        return [self._make(*sizes, self.noise.value, int(self.length.value), self.rate.value)]

    def _make(self, hidden: int, rows: int, random_labels: float, epochs: int, lr: float) -> LiveRun:
        if not 1 <= rows <= len(digits()[0]):
            raise TrainlabError(f"rows={rows}: there are {len(digits()[0])} training rows, use 1 or more")
        (train, valid), generator = digits(), torch.Generator().manual_seed(self.seed)
        some = train.subset(torch.randperm(len(train), generator=generator)[:rows])
        labels = some.targets.clone()
        drawn = torch.randperm(rows, generator=generator)[: round(random_labels * rows)]
        labels[drawn] = torch.randint(0, 10, (len(drawn),), generator=generator)
        seed_everything(self.seed)
        model = MLP(784, [hidden], 10)
        state = TrainState(model, torch.optim.Adam(model.parameters(), lr))
        observer = _Remeasured(make_loader((some.features, labels), 500, seed=0, shuffle=False))
        run = LiveRun(
            state,
            make_loader((some.features, labels), 50, seed=self.seed, shuffle=True),
            classification(),
            TrainConfig(epochs=epochs),
            valid=batches(valid, 250, 0, shuffle=False),
            name=f"{hidden} units, {rows} rows",
            observers=[observer],
        )
        observer.run = run
        return run

    def settle(self) -> None:
        self.rate.move_to(self.runs[0].base_lr * self.runs[0].state.controls.lr_scale)

    def curves(self, run: LiveRun, place: int) -> list[Curve]:
        return self._three(run, place, ("logged", "again_loss", "valid_loss"))

    def _three(self, run: LiveRun, place: int, names: Sequence[str]) -> list[Curve]:
        letter = f" {'AB'[place]}" if len(self.runs) > 1 else ""
        said = ("training, as logged", "training, measured again", "validation")[-len(names) :]
        scale = 1 / len(run.loader)  # type: ignore[arg-type]
        style = "dashed" if place else "line"
        colors = (0, 2, 1)[-len(names) :]
        return [curve(run, n, s + letter, c, style, scale) for n, s, c in zip(names, said, colors)]

    def draw(self) -> None:
        scale = 1 / len(self.runs[0].loader) if self.runs else 1  # type: ignore[arg-type]
        marks = [Mark(mark.x * scale, mark.text) for mark in self.marks()]
        now = [each for place, run in enumerate(self.runs) for each in self.curves(run, place)]
        self.losses.show([*(each for old in self.earlier for each in old), *now], marks)
        self.shares.show(
            [
                each
                for place, run in enumerate(self.runs)
                for each in self._three(run, place, ("again_accuracy", "valid_accuracy"))
            ],
            marks,
        )

    def charts(self) -> list[Chart]:
        return [self.losses, self.shares]

    def layout(self) -> list[Any]:
        return [
            row(self.hidden, self.rows, self.noise, self.length, self.rate),
            *self.buttons(),
            beside(self.losses, self.shares),
        ]
