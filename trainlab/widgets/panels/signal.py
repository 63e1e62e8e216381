"""A deep network under the hands: what of the image comes through its layers, before and while it learns."""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...data.loaders import Loader, make_loader
from ...diagnostics import activation_stats
from ...loop.config import TrainConfig
from ...losses import classification
from ...models import ACTIVATIONS, NORMS, DeepLayer, DeepMLP, count_parameters, widest
from ...randomness import preserve_rng, seed_everything
from ...state import TrainState
from ..charts import Axis, Chart, Curve, CurveChart
from ..live import LiveRun
from ..panel import RunPanel, beside, choice, curve, row, show_settings
from ..sliders import Slider, rates
from .material import digits

BUDGET = 50_000  # weights, however many layers they are spread over
_PIXELS = 14 * 14
_LOW, _HIGH = 1e-9, 1e3  # bounds of the logarithmic axes: a flat line is to look flat
_SCALES = [0.1, 0.2, 0.333, 0.5, 0.7, 1, 1.5, 2, 2.5, 3, 4]


@dataclass(frozen=True, slots=True)
class _Design:
    """What a network of the panel is built from."""

    depth: int = 8
    activation: str = "relu"
    scale: float = 0.333
    norm: str = "none"
    residual: bool = False

    def build(self, seed: int) -> DeepMLP:
        seed_everything(seed)
        options: Any = {"activation": self.activation, "norm": self.norm, "scale": self.scale}
        return DeepMLP(_PIXELS, self.width, self.depth, 10, residual=self.residual, **options)

    @property
    def width(self) -> int:
        return widest(BUDGET, _PIXELS, self.depth, 10)


@functools.cache
def _halved() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The panels' digits at 14 by 14 pixels, on the training part's scale."""
    train, valid = (make_loader(part, len(part), seed=0, shuffle=False) for part in digits())
    (x, y), (other, truth) = next(iter(train)), next(iter(valid))
    x, other = F.avg_pool2d(x, 2), F.avg_pool2d(other, 2)
    mean, std = x.mean(), x.std()
    return ((x - mean) / std, y), ((other - mean) / std, truth)


def signal(model: nn.Module, x: Tensor, y: Tensor) -> tuple[list[float], list[float]]:
    """How much the images differ after each DeepLayer, and the length of the gradient that arrives there.

    The model is left as it is: a copy is measured.
    """
    probe, outputs = copy.deepcopy(model), list[Tensor]()
    forward = [each.spread for each in activation_stats(probe, x, of=DeepLayer)]
    for part in probe.modules():
        if isinstance(part, DeepLayer):
            part.register_forward_hook(lambda _, inputs, output: outputs.append(output))
    with preserve_rng(), torch.enable_grad():
        loss = F.cross_entropy(probe(x), y)
        return forward, [each.norm().item() for each in torch.autograd.grad(loss, outputs)]


def _within(values: list[float]) -> list[float]:
    return [min(max(value, _LOW), _HIGH) for value in values]


class SignalLab(RunPanel):
    """50,000 weights in as many layers as you like: the signal through them, live while they learn.

    panel = tl.panels.SignalLab()
    panel.run(depth=16, scale=2.0, epochs=1)
    """

    title = "Signal lab: what comes through the layers"
    forks = False

    def __init__(self) -> None:
        super().__init__()
        self.seed, self.epochs = 0, 10
        self._controls()
        self._charts()
        self.draw()

    def _controls(self) -> None:
        self.depth = Slider("hidden layers", [1, 2, 4, 8, 16, 32], 8, help="begins a new run", eager=False)
        self.scale = Slider(
            "weight scale",
            _SCALES,
            0.333,
            help="variance times inputs; begins a new run",
            eager=False,
        )
        self.rate = Slider("learning rate", rates(1e-3, 3), 0.1, help="holds from the next step on")
        self.rate.on_move(lambda value: self.change(lr=value))
        for slider in (self.depth, self.scale):
            slider.on_move(lambda _: self.do(self.renew))
        self.activation = choice("activation:", [*ACTIVATIONS], "relu", self._chosen)
        self.norm = choice("normalisation:", [*NORMS], "none", self._chosen)
        self.way = choice("layers:", ["plain", "residual"], "plain", self._chosen)

    def _chosen(self, _: Any) -> None:
        self.do(self.renew)

    def _charts(self) -> None:
        self.forward = CurveChart(
            "hidden layer",
            Axis("spread", log=True, low=_LOW, high=_HIGH),
            title="Forward: how much images differ",
            alt="deviation over 250 images, after each layer",
            tools=False,
        )
        self.backward = CurveChart(
            "hidden layer",
            Axis("length of the gradient", log=True, low=_LOW, high=_HIGH),
            title="Backward: what arrives of the gradient",
            alt="length of the gradient at the output of each layer",
            tools=False,
        )
        self.losses = CurveChart(
            "step",
            Axis("loss (nats)", low=0.0),
            title="Loss",
            alt="training loss of each step and loss on unseen digits",
        )

    def run(
        self,
        *,
        depth: int = 8,
        activation: str = "relu",
        scale: float = 0.333,
        norm: str = "none",
        residual: bool = False,
        lr: float = 0.1,
        epochs: int = 1,
        seed: int = 0,
    ) -> dict[str, float | int | str]:
        """Train without a person; returns where it ended, and the last layer's spread before training."""
        self.seed, self.epochs = seed, epochs
        design = _Design(depth, activation, scale, norm, residual)
        with preserve_rng():
            self.runs = [self._make(design, lr)]
            (x, y), before = _halved()[1], self.runs[0].state.model
            spread = signal(before, x[:250], y[:250])[0][-1]
        show_settings((self.depth, depth), (self.activation, activation), (self.scale, scale))
        way = "residual" if residual else "plain"
        show_settings((self.norm, norm), (self.way, way), (self.rate, lr))
        self.runs[0].drain()
        self.draw()
        return {"spread": float(f"{spread:.1g}"), **self.runs[0].values(2)}

    def _design(self) -> _Design:
        names = (self.activation.value, self.scale.value, self.norm.value, self.way.value == "residual")
        return _Design(int(self.depth.value), *names)

    def make(self) -> list[LiveRun]:
        return [self._make(self._design(), self.rate.value)]

    def _make(self, design: _Design, lr: float) -> LiveRun:
        train, valid = _halved()
        model = design.build(self.seed)
        count = count_parameters(model)
        return LiveRun(
            TrainState(model, torch.optim.SGD(model.parameters(), lr)),
            make_loader(train, 64, seed=self.seed, shuffle=True),
            classification(),
            TrainConfig(epochs=self.epochs, validate_every=20),
            valid=_loader(valid),
            name=f"{design.depth} layers of {design.width}, {count:,} weights",
        )

    def settle(self) -> None:
        run = self.runs[0]
        self.rate.move_to(run.base_lr * run.state.controls.lr_scale)

    def curves(self, run: LiveRun, place: int) -> list[Curve]:
        return [
            curve(run, "loss", "training", 0, "faint"),
            curve(run, "valid_loss", "unseen digits", 1),
        ]

    def draw(self) -> None:
        x, y = _halved()[1]
        with preserve_rng():
            model = self.runs[0].state.model if self.runs else self._design().build(self.seed)
            forward, backward = signal(model, x[:250], y[:250])
        places = range(1, len(forward) + 1)
        self.forward.show([Curve("now", places, _within(forward))])
        self.backward.show([Curve("now", places, _within(backward), color=2)])
        now = [each for run in self.runs for each in self.curves(run, 0)]
        self.losses.show([*(each for old in self.earlier for each in old), *now], self.marks())

    def charts(self) -> list[Chart]:
        return [self.forward, self.backward, self.losses]

    def layout(self) -> list[Any]:
        return [
            row(self.activation, self.norm, self.way),
            row(self.depth, self.scale, self.rate),
            *self.buttons(),
            beside(self.forward, self.backward),
            self.losses,
        ]


def _loader(rows: tuple[Tensor, Tensor]) -> Loader:
    return make_loader(rows, 250, seed=0, shuffle=False)
