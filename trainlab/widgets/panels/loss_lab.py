"""One loss under your hands: what it makes a model say, and how hard each row pulls."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ...data.catalogue import load
from ...data.dataset import Dataset
from ...data.loaders import make_loader
from ...data.splits import split
from ...errors import TrainlabError, unknown_name
from ...events import Event, Step
from ...loop.config import TrainConfig
from ...losses import Loss, LossFunction, binary, mixture, regression
from ...randomness import preserve_rng, seed_everything
from ...state import TrainState
from ..charts import Axis, Chart, Curve, CurveChart, Mark
from ..live import LiveRun
from ..panel import RunPanel, beside, choice, curve, row, show_settings
from ..sliders import Slider, rates

_FIRST_DAY, _YEAR = 183, 365.25  # the first arrival of the data is on 2 July
_SHOWN = 240  # rows that are drawn
_FEWEST = 10  # customers that make a dot
_ONE_MOVE = 10  # steps
LOSSES = ("MSE", "L1", "Huber", "pinball", "half MSE, half L1")


@dataclass(frozen=True, slots=True)
class Ask:
    """What a run asks for.  on: "prices" (euros, by `loss`) or "defaults" (yes or no, by cross-entropy).

    delta: of Huber (euros).  quantile: of pinball.  misprints: share of the training prices that are ten
    times too high.  weight: factor of the loss of each default.  smoothing: of the labels.
    """

    on: str = "prices"
    loss: str = "MSE"
    delta: float = 20.0
    quantile: float = 0.9
    misprints: float = 0.0
    weight: float = 1.0
    smoothing: float = 0.0

    def loss_fn(self) -> LossFunction:
        """The loss as a function of model and batch."""
        if self.on == "defaults":
            return binary(pos_weight=self.weight, label_smoothing=self.smoothing)
        if self.loss not in LOSSES:
            raise unknown_name("loss", self.loss, LOSSES)
        if self.loss == "half MSE, half L1":
            return mixture({name: (0.5, regression(name)) for name in ("mse", "l1")})
        return regression(self.loss.lower(), delta=self.delta, quantile=self.quantile)


class Season(nn.Module):
    """A price for each day of the year: a constant and three waves.  Input (N, 1) days, output (N, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor(100.0))
        self.waves = nn.Linear(6, 1, bias=False)
        nn.init.zeros_(self.waves.weight)

    def forward(self, days: Tensor) -> Tensor:
        angle = days * (2 * math.pi / _YEAR)  # (N,1)
        waves = [wave(times * angle) for times in (1, 2, 3) for wave in (torch.sin, torch.cos)]
        answer: Tensor = self.level + self.waves(torch.cat(waves, 1))  # (N,6) -> (N,1)
        return answer


class Owing(nn.Module):
    """The logit of a default by what is owed.  Input (N, 1) thousands of dollars, output (N, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(1, 1)
        nn.init.zeros_(self.line.weight)
        nn.init.zeros_(self.line.bias)

    def forward(self, owed: Tensor) -> Tensor:
        logit: Tensor = self.line(owed - 1)
        return logit


Rows = tuple[Tensor, Tensor]


@functools.cache
def _rows(on: str) -> tuple[Rows, Rows]:
    """(inputs, targets) to learn from and unseen ones, (N, 1) each."""
    data = load("hotel_rates" if on == "prices" else "default")
    found = []
    for part in list(split(data, (0.6, 0.4, 0.0), seed=0))[:2]:
        assert isinstance(part, Dataset)
        owed = part.columns.index("balance") if on == "defaults" else None
        x = (part.time + _FIRST_DAY) % _YEAR if owed is None else part.features[:, owed] / 1000
        found.append((x[:, None].float(), part.targets[:, None].float()))
    return found[0], found[1]


_MODELS: dict[str, tuple[Callable[[], nn.Module], float]] = {
    "prices": (Season, 2.0),
    "defaults": (Owing, 0.1),
}


class LossLab(RunPanel):
    """One loss under your hands: what it makes a model say, how hard rows pull, and what comes true.

    lab = tl.panels.LossLab()
    lab.run(on="prices", loss="pinball", quantile=0.9)
    lab.run(on="defaults", weight=29)
    """

    title = "Loss lab: what a loss makes a model say"
    forks = False

    def __init__(self) -> None:
        super().__init__()
        self.ask, self.seed, self.steps = Ask(), 0, 400
        self._controls()
        self._charts()
        self._lay_out()
        self.draw()

    def _controls(self) -> None:
        change = self._changed
        self.on = choice("on:", ["prices", "defaults"], "prices", lambda value: self._begin(on=value))
        self.loss = choice("loss:", LOSSES, "MSE", lambda value: change(loss=value))
        self.delta = Slider("delta", [1, 5, 20, 50, 100, 400], 20, unit="euros", help="of Huber")
        self.quantile = Slider("quantile", [0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95], 0.9, help="of pinball")
        self.misprints = Slider(
            "misprints", [0, 0.01, 0.02, 0.05, 0.1], 0, eager=False,
            help="share of the training prices that are ten times too high; begins a new run",
        )  # fmt: skip
        self.weight = Slider("weight", [1, 3, 10, 29, 100], 1, help="factor of the loss of each default")
        self.smoothing = Slider("smoothing", [0, 0.05, 0.1, 0.2, 0.4], 0, help="of the labels")
        self.rate = Slider("learning rate", rates(1e-3, 30), 2.0, help="Adam's; holds from the next step on")
        self.delta.on_move(lambda value: change(delta=float(value)))
        self.quantile.on_move(lambda value: change(quantile=float(value)))
        self.weight.on_move(lambda value: change(weight=float(value)))
        self.smoothing.on_move(lambda value: change(smoothing=float(value)))
        self.misprints.on_move(lambda value: self._begin(misprints=float(value)))
        self.rate.on_move(lambda value: self.change(lr=value))

    def _charts(self) -> None:
        looks: dict[str, Any] = {"tools": False, "height": 260}
        self.prices = CurveChart(
            Axis("day of the year", low=0, high=366), Axis("price (euros)", low=0, high=350),
            title="Prices", alt="prices that were paid, and what the model says for each day", **looks,
        )  # fmt: skip
        self.defaults = CurveChart(
            Axis("owed (thousands of dollars)", low=0, high=2.7), Axis("share", low=0, high=1),
            title="Defaults", alt="share that defaulted, and the probability the model says", **looks,
        )  # fmt: skip
        self.price_pull = CurveChart(
            "price - answer (euros)", "pull on the answer",
            title="Pull of one booking", alt="how hard a row pulls, by how far off the answer is", **looks,
        )  # fmt: skip
        self.default_pull = CurveChart(
            "logit", "pull on the logit",
            title="Pull of one customer", alt="how hard a row pulls, by what the model says of it", **looks,
        )  # fmt: skip
        self.truth = CurveChart(
            "step", Axis("share of unseen rows", low=0.0, high=1.0),
            title="Said, and come true", alt="what the answers amount to on unseen rows", tools=False,
            height=220,
        )  # fmt: skip

    def run(
        self,
        *,
        on: str = "prices",
        loss: str = "MSE",
        delta: float = 20.0,
        quantile: float = 0.9,
        misprints: float = 0.0,
        weight: float = 1.0,
        smoothing: float = 0.0,
        lr: float | None = None,
        steps: int = 400,
        seed: int = 0,
    ) -> dict[str, float | int | str]:
        """Train without a person: step and loss, and what the answers amount to on unseen rows.

        prices: `below`, the share of prices at or below the answer, and `mean_said` (euros).
        defaults: `mean_said`, the mean probability, and `found`, the share of the defaults above one half.
        Raises TrainlabError if a name is unknown or a number out of range.
        """
        if on not in _MODELS:
            raise unknown_name("ground", on, _MODELS)
        if not 0 <= misprints < 1:
            raise TrainlabError(f"misprints={misprints} is no share: use 0.02, say")
        ask = Ask(on, loss, delta, quantile, misprints, weight, smoothing)
        ask.loss_fn()  # its complaints come before anything is changed
        self.ask = ask
        self.seed, self.steps = seed, steps
        lr = _MODELS[on][1] if lr is None else lr
        with preserve_rng():
            self.runs = [self._make(lr)]
        show_settings((self.on, on), (self.loss, loss), (self.delta, delta), (self.quantile, quantile))
        show_settings((self.misprints, misprints), (self.weight, weight), (self.smoothing, smoothing))
        show_settings((self.rate, lr))
        self._lay_out()
        self.runs[0].drain()
        self.draw()
        return self.runs[0].values(2)

    # --- what a person does

    def _changed(self, **settings: Any) -> None:
        """Another loss from the next step on: the model goes on from where it is."""

        def change() -> None:
            ask = replace(self.ask, **settings)
            ask.loss_fn()  # its complaints come here
            self.ask = ask
            for run in self.runs:
                _mark(run, *next(iter(settings.items())))
            self._lay_out()
            self._show()

        self.do(change)

    def _begin(self, **settings: Any) -> None:
        def begin() -> None:
            if settings.get("on", self.ask.on) != self.ask.on:
                self.rate.move_to(_MODELS[settings["on"]][1])
            self.ask = replace(self.ask, **settings)
            self._lay_out()
            self.renew()
            self.earlier = []
            self._show()

        self.do(begin)

    def make(self) -> list[LiveRun]:
        runs = [self._make(self.rate.value)]
        runs[0].pace = 0.02  # an eye can follow it
        return runs

    def _make(self, lr: float) -> LiveRun:
        (x, y), unseen = _rows(self.ask.on)
        if self.ask.misprints and self.ask.on == "prices":  # the other rows have no decimal point to lose
            slipped = torch.arange(len(y)) % round(1 / self.ask.misprints) == 0
            y = torch.where(slipped[:, None], 10 * y, y)
        seed_everything(self.seed)
        model = _MODELS[self.ask.on][0]()
        observer = _Amounts(self.ask.on, *unseen)
        observer.run = LiveRun(
            TrainState(model, torch.optim.Adam(model.parameters(), lr)),
            make_loader((x, y), 256, seed=self.seed, shuffle=True),
            lambda model, batch: self.ask.loss_fn()(model, batch),  # whatever is asked at this step
            TrainConfig(steps=self.steps),
            name=self.ask.on,
            observers=[observer],
        )
        return observer.run

    def settle(self) -> None:
        self.rate.move_to(self.runs[0].base_lr * self.runs[0].state.controls.lr_scale)

    # --- pictures

    def _lay_out(self) -> None:
        """Show what belongs to the rows and the loss that are chosen."""
        prices, loss = self.ask.on == "prices", self.ask.loss
        shown = {
            self.prices: prices, self.price_pull: prices, self.loss: prices, self.misprints: prices,
            self.delta: prices and loss == "Huber", self.quantile: prices and loss == "pinball",
            self.defaults: not prices, self.default_pull: not prices, self.weight: not prices,
            self.smoothing: not prices,
        }  # fmt: skip
        for widget, is_shown in shown.items():
            widget.layout.display = "" if is_shown else "none"

    def curves(self, run: LiveRun, place: int) -> list[Curve]:
        if self.ask.on == "prices":
            return [curve(run, "below", "prices at or below the answer", 0)]
        return [
            curve(run, "mean_said", "mean probability said", 0),
            curve(run, "defaulted", "share that defaulted", 1, "dashed"),
            curve(run, "found", "defaults found (above one half)", 2),
        ]

    def draw(self) -> None:
        now = [each for place, run in enumerate(self.runs) for each in self.curves(run, place)]
        self.truth.show([*(each for old in self.earlier for each in old), *now], self.marks())
        if self.ask.on == "prices":
            self._draw_prices()
        else:
            self._draw_defaults()

    def _draw_prices(self) -> None:
        x, y = (each[:: len(each) // _SHOWN, 0] for each in _rows("prices")[1])
        order = x.argsort()
        dots = Curve("unseen bookings", x[order].numpy(), y[order].numpy(), 4, "dots")
        days = torch.linspace(0, 366, 120)[:, None]
        self.prices.show([dots, *self._answers(days, "the answer", lambda said: said)])
        lack = torch.linspace(-150, 150, 121)
        pull = _pull(self.ask.loss_fn(), -lack[:, None], torch.zeros(121, 1))
        self.price_pull.show([Curve(self.ask.loss, lack.numpy(), pull.numpy())])

    def _draw_defaults(self) -> None:
        owed, share = _shares(*_rows("defaults")[1])
        grid = torch.linspace(0, 2.7, 120)[:, None]
        dots = Curve("share that defaulted", owed, share, 1, "dots")
        self.defaults.show([dots, *self._answers(grid, "probability said", torch.sigmoid)])
        logits = torch.linspace(-6, 6, 121)
        self.default_pull.show(
            [
                Curve(
                    name, logits.numpy(), _pull(self.ask.loss_fn(), logits[:, None], happened).numpy(), color
                )
                for name, happened, color in (
                    ("one that defaults", torch.ones(121, 1), 1),
                    ("one that does not", torch.zeros(121, 1), 0),
                )
            ]
        )

    def _answers(self, x: Tensor, name: str, reads: Callable[[Tensor], Tensor]) -> list[Curve]:
        if not self.runs:
            return []
        with torch.no_grad():
            said = reads(self.runs[0].state.model(x))
        return [Curve(name, x[:, 0].numpy(), said[:, 0].numpy(), 0)]

    def charts(self) -> list[Chart]:
        if self.ask.on == "prices":
            return [self.prices, self.price_pull, self.truth]
        return [self.defaults, self.default_pull, self.truth]

    def layout(self) -> list[Any]:
        own = (self.loss, self.delta, self.quantile, self.misprints, self.weight, self.smoothing)
        return [
            row(self.on, *own, self.rate),
            *self.buttons(),
            beside(self.prices, self.price_pull, self.defaults, self.default_pull),
            self.truth,
        ]


def _mark(run: LiveRun, name: str, value: float | str) -> None:
    """Note where the loss was changed; a slider that is dragged leaves one mark, and so does one place."""
    step, last = run.state.step, run.marks[-1] if run.marks else None
    if last and (last.x == step or (last.text.startswith(name) and step - last.x < _ONE_MOVE)):
        run.marks.pop()
    if step:
        run.marks.append(Mark(step, f"{name} {value}" if isinstance(value, str) else f"{name} {value:g}"))


class _Amounts:
    """An observer: what the answers amount to on unseen rows."""

    def __init__(self, on: str, x: Tensor, y: Tensor) -> None:
        self.run: LiveRun | None = None
        self._on, self._x, self._y = on, x, y

    def __call__(self, event: Event) -> None:
        assert self.run is not None
        if not isinstance(event, Step):
            return
        with torch.no_grad():
            said = self.run.state.model(self._x)
        if self._on == "prices":
            self.run.note("below", event.step, (self._y <= said).float().mean())
            self.run.note("mean_said", event.step, said.mean())
            return
        yes = self._y > 0.5
        self.run.note("mean_said", event.step, said.sigmoid().mean())
        self.run.note("defaulted", event.step, self._y.mean())
        self.run.note("found", event.step, (said > 0)[yes].float().mean())


def _pull(loss_fn: LossFunction, answers: Tensor, targets: Tensor) -> Tensor:
    """How hard each row pulls its answer up: minus the gradient of its own loss, (N,)."""
    answers = answers.clone().requires_grad_()
    found = loss_fn(nn.Identity(), (answers, targets))
    assert isinstance(found, Loss)
    (gradient,) = torch.autograd.grad(found.total, answers)
    return -gradient[:, 0]


def _shares(owed: Tensor, happened: Tensor) -> tuple[list[float], list[float]]:
    """The share that defaulted among customers that owe about the same: mean debts and shares."""
    debts, shares = [], []
    for group in range(11):  # a quarter of a thousand dollars each
        inside = (owed >= group / 4) & (owed < (group + 1) / 4)
        if inside.sum() >= _FEWEST:
            debts.append(owed[inside].mean().item())
            shares.append(happened[inside].mean().item())
    return debts, shares
