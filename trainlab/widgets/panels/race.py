"""Optimizers side by side: on a surface that can be seen, and on a real model."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets
import numpy as np
import torch
from torch import Tensor, nn

from ... import optimizers
from ...data.loaders import make_loader
from ...errors import TrainlabError, unknown_name
from ...events import Event, Step
from ...loop.config import TrainConfig
from ...losses import classification
from ...randomness import preserve_rng, seed_everything
from ...state import TrainState
from ..charts import Axis, Chart, Curve, CurveChart, SurfaceChart
from ..live import LiveRun
from ..panel import RunPanel, beside, choice, curve, row, show_settings
from ..sliders import Slider, rates
from .material import MODELS, batches, digits


class Landscape(nn.Module):
    """A model with two weights whose loss is a height over the plane: `at` is where it stands."""

    def __init__(self, height: Callable[[Tensor, Tensor], Tensor], start: Sequence[float]) -> None:
        super().__init__()
        self.height = height
        self.at = nn.Parameter(torch.tensor([float(each) for each in start]))

    def forward(self, noise: Tensor) -> Tensor:
        """The height here; noise, (1,2), tilts the plane, as another batch would."""
        return self.height(self.at[0], self.at[1]) + (noise @ self.at).mean()


EXTENT = (-3.0, 3.0, -2.0, 2.0)
# name -> height, start, minima
SURFACES: dict[str, tuple[Callable[[Any, Any], Any], tuple[float, float], list[tuple[float, float]]]] = {
    "bowl": (lambda x, y: (x**2 + y**2) / 2, (-2.5, 1.5), [(0, 0)]),
    "valley": (lambda x, y: (x**2 + 40 * y**2) / 2, (-2.5, 1.0), [(0, 0)]),
    "bend": (lambda x, y: (1 - x) ** 2 / 4 + 4 * (y + 1 - x**2 / 2) ** 2, (-2.5, -0.5), [(1, -0.5)]),
    "saddle": (lambda x, y: x**2 / 2 - y**2 / 2 + y**4 / 4, (-2.5, 0.01), [(0, -1), (0, 1)]),
}

Build = Callable[[list[nn.Parameter], float], torch.optim.Optimizer]
# name -> (how it is built, its rate on a surface, its rate on the model)
OPTIMIZERS: dict[str, tuple[Build, float, float]] = {
    "SGD": (lambda p, lr: torch.optim.SGD(p, lr), 0.03, 0.1),
    "momentum": (lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9), 0.01, 0.03),
    "Nesterov": (lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9, nesterov=True), 0.01, 0.03),
    "RMSprop": (lambda p, lr: torch.optim.RMSprop(p, lr), 0.03, 1e-3),
    "Adam": (lambda p, lr: torch.optim.Adam(p, lr), 0.1, 3e-3),
    "AdamW": (lambda p, lr: torch.optim.AdamW(p, lr), 0.1, 3e-3),
    "Lookahead": (lambda p, lr: optimizers.Lookahead(torch.optim.SGD(p, lr, momentum=0.9)), 0.01, 0.03),
}
_WITH_MOMENTUM = ("momentum", "Nesterov", "Adam", "AdamW", "Lookahead")


class OptimizerRace(RunPanel):
    """Optimizers side by side, from one start and on the same batches: on a surface, or on a real model.

    race = tl.panels.OptimizerRace()
    race.run(on="valley", optimizers={"SGD": 0.03, "Adam": 0.1}, steps=100)
    race.run(on="digits", optimizers=("momentum", "Adam"), steps=165)
    """

    title = "Optimizer race"
    forks = False

    def __init__(self) -> None:
        super().__init__()
        self.on, self.steps, self.seed = "valley", 150, 0
        self.start: tuple[float, float] = SURFACES[self.on][1]
        self.ground = choice("on:", [*SURFACES, "digits"], self.on, self._go_to_ground)
        self.boxes, self.sliders = {}, {}
        for name, (_, lr, _) in OPTIMIZERS.items():
            self.boxes[name] = ipywidgets.Checkbox(
                name in ("SGD", "momentum", "Adam"), description=name, indent=False
            )
            self.boxes[name].layout.width = "7.5em"
            self.boxes[name].muted = False
            self.boxes[name].observe(self._chosen, "value")
            self.sliders[name] = Slider("rate", rates(1e-4, 3), lr, help=f"learning rate of {name}")
            self.sliders[name].on_move(functools.partial(self._rate, name))
        self.momentum = Slider(
            "momentum", [0, 0.5, 0.8, 0.9, 0.95, 0.99], 0.9, help="of all that have one (Adam's first beta)"
        )
        self.momentum.on_move(self._momentum)
        self.noise = Slider("gradient noise", [0, 0.3, 1, 3], 0, eager=False, help="as from small batches")
        self.noise.on_move(lambda value: self.do(self.renew))
        self.surface = SurfaceChart(
            "weight 1",
            "weight 2",
            title="Paths",
            extent=EXTENT,
            height=320,
            alt="the way of each optimizer over the height of the loss",
        )
        self.surface.observe(self._picked, "picked")
        self.losses = CurveChart(
            "step",
            Axis("height", log=True),
            title="Height of the loss",
            height=320,
            alt="how high each optimizer stands after each step",
        )
        self._lay_out_ground()
        self.draw()

    def run(
        self,
        *,
        on: str = "valley",
        optimizers: Sequence[str] | dict[str, float] = ("SGD", "momentum", "Adam"),
        steps: int = 150,
        momentum: float = 0.9,
        noise: float = 0.0,
        start: tuple[float, float] | None = None,
        seed: int = 0,
    ) -> dict[str, dict[str, float | int | str]]:
        """Race without a person.  optimizers: names, or names and rates.  Returns where each ended.

        Raises TrainlabError if a name is unknown.
        """
        if on not in (*SURFACES, "digits"):
            raise unknown_name("ground", on, [*SURFACES, "digits"])
        for name in optimizers:
            if name not in OPTIMIZERS:
                raise unknown_name("optimizer", name, OPTIMIZERS)
        self.on, self.steps, self.seed = on, steps, seed
        self.start = start or (SURFACES[on][1] if on in SURFACES else (0.0, 0.0))
        given = (
            optimizers if isinstance(optimizers, dict) else {name: self._usual(name) for name in optimizers}
        )
        self._lay_out_ground()
        with preserve_rng():
            self.runs = [self._make(name, lr, momentum, noise) for name, lr in given.items()]
        show_settings((self.ground, on), (self.momentum, momentum), (self.noise, noise))
        show_settings(*((self.sliders[name], given.get(name, self._usual(name))) for name in OPTIMIZERS))
        show_settings(*((box, name in given) for name, box in self.boxes.items()))
        for run in self.runs:
            with contextlib.suppress(TrainlabError):  # one that diverges is a result, not an error
                run.drain()
        self.draw()
        return {run.name: self._ended(run) for run in self.runs}

    def _ended(self, run: LiveRun) -> dict[str, float | int | str]:
        shown = ("status", "step", *(["height"] if self.on in SURFACES else ["loss", "valid_accuracy"]))
        values = {name: value for name, value in run.values(2).items() if name in shown}
        return values | ({"status": "diverged"} if run.status == "failed" else {})

    def _usual(self, name: str) -> float:
        _, on_surface, on_digits = OPTIMIZERS[name]
        return on_surface if self.on in SURFACES else on_digits

    # --- what a person does

    def _go_to_ground(self, on: str) -> None:
        def go() -> None:
            self.on = on
            self.start = SURFACES[on][1] if on in SURFACES else (0.0, 0.0)
            self.steps = 150 if on in SURFACES else 55 * 3
            for name, slider in self.sliders.items():
                slider.move_to(self._usual(name))
            self.earlier = []
            self._lay_out_ground()
            self.renew()
            self.earlier = []
            self._show()

        self.do(go)

    def _chosen(self, change: Any) -> None:
        if not change["owner"].muted:
            self.do(self.renew)

    def _rate(self, name: str, value: float) -> None:
        def change() -> None:
            for run in self.runs:
                if run.name == name:
                    run.set(lr_scale=value / run.base_lr)
            self._show()

        self.do(change)

    def _momentum(self, value: float) -> None:
        def change() -> None:
            for run in self.runs:
                if run.name in _WITH_MOMENTUM:
                    run.set(momentum=value)
            self._show()

        self.do(change)

    def _picked(self, change: Any) -> None:
        if change["new"]:
            self.start = (float(change["new"][0]), float(change["new"][1]))
            self.do(lambda: self.renew(start=bool(self.runs)))

    # --- runs

    def make(self) -> list[LiveRun]:
        names = [name for name, box in self.boxes.items() if box.value]
        if not names:
            raise TrainlabError("no optimizer is chosen: tick one or more")
        runs = [
            self._make(name, self.sliders[name].value, self.momentum.value, self.noise.value)
            for name in names
        ]
        for run in runs:
            run.pace = 0.03 if self.on in SURFACES else 0.0  # an eye can follow it
        return runs

    def _make(self, name: str, lr: float, momentum: float, noise: float) -> LiveRun:
        seed_everything(self.seed)
        model = Landscape(SURFACES[self.on][0], self.start) if self.on in SURFACES else MODELS["MLP"]()
        state = TrainState(model, OPTIMIZERS[name][0](list(model.parameters()), lr))
        if name in _WITH_MOMENTUM:
            state.controls.momentum = momentum
            state.apply_controls()
        return self._on_surface(name, state, noise) if self.on in SURFACES else self._on_digits(name, state)

    def _on_surface(self, name: str, state: TrainState, noise: float) -> LiveRun:
        tilt = noise * torch.randn(self.steps, 2, generator=torch.Generator().manual_seed(self.seed))
        path = _Path(_lowest(self.on))
        path.run = LiveRun(
            state,
            make_loader((tilt, tilt[:, 0]), 1, seed=0, shuffle=False),
            lambda model, batch: model(batch[0]),
            TrainConfig(steps=self.steps),
            name=name,
            observers=[path],
            keep_every=10,
        )
        return path.run

    def _on_digits(self, name: str, state: TrainState) -> LiveRun:
        train, valid = digits()
        return LiveRun(
            state,
            batches(train, 64, self.seed),
            classification(),
            TrainConfig(steps=self.steps),
            valid=batches(valid, 250, 0, shuffle=False),
            name=name,
        )

    # --- pictures

    def _lay_out_ground(self) -> None:
        on_surface = self.on in SURFACES
        self.surface.layout.display = "" if on_surface else "none"
        self.noise.layout.display = "" if on_surface else "none"
        if on_surface:
            height = SURFACES[self.on][0]
            x, y = np.linspace(*EXTENT[:2], 120), np.linspace(*EXTENT[2:], 80)
            self.surface.show_surface(height(x[None, :], y[:, None]) - _lowest(self.on))

    def curves(self, run: LiveRun, place: int) -> list[Curve]:
        names = list(OPTIMIZERS)
        color = names.index(run.name)
        style = "dashed" if color > 5 else "line"
        return [curve(run, "height" if self.on in SURFACES else "loss", run.name, color % 6, style)]

    def draw(self) -> None:
        now = [each for place, run in enumerate(self.runs) for each in self.curves(run, place)]
        self.losses.show([*(each for old in self.earlier for each in old), *now], self.marks())
        if self.on in SURFACES:
            paths = [self._path(run, each) for run, each in zip(self.runs, now)]
            self.surface.show(paths, self.start, SURFACES[self.on][2])

    def _path(self, run: LiveRun, like: Curve) -> Curve:
        """Where a run has been, in the colour of its loss."""
        x, y = (
            np.append(begin, run.series[axis].y if axis in run.series else [])
            for begin, axis in zip(self.start, ("weight_1", "weight_2"))
        )
        return Curve(like.name, x, y, color=like.color, style=like.style)

    def sentence(self) -> str:
        if not self.runs:
            return "Start begins the race. Click on the map for another start; move a rate at any time."
        return "; ".join(
            f"{run.name}: step {run.state.step}, {'height' if self.on in SURFACES else 'loss'} "
            f"{run.series['loss'].y[-1]:.2g}"
            if "loss" in run.series
            else f"{run.name}: {run.status}"
            for run in self.runs
        )

    def charts(self) -> list[Chart]:
        return [self.surface, self.losses] if self.on in SURFACES else [self.losses]

    def layout(self) -> list[Any]:
        racers = [ipywidgets.HBox([self.boxes[name], self.sliders[name]]) for name in OPTIMIZERS]
        return [
            row(self.ground, self.momentum, self.noise),
            row(*racers),
            *self.buttons(),
            beside(self.surface, self.losses),
        ]


class _Path:
    """An observer: where a run on a surface stands after each step, and how high above the lowest point."""

    def __init__(self, lowest: float) -> None:
        self.run: LiveRun | None = None
        self._lowest = lowest

    def __call__(self, event: Event) -> None:
        assert self.run is not None
        land = self.run.state.model
        if isinstance(event, Step) and isinstance(land, Landscape):
            x, y = land.at.tolist()
            self.run.note("weight_1", event.step, x)
            self.run.note("weight_2", event.step, y)
            self.run.note("height", event.step, max(float(land.height(x, y)) - self._lowest, 1e-6))


def _lowest(on: str) -> float:
    height, _, minima = SURFACES[on]
    return float(height(*minima[0]))
