"""The panel of chapter 07: a model that learns a few digits by heart, and what saves it."""

from __future__ import annotations

import copy
import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...data.loaders import Loader, make_loader
from ...errors import TrainlabError
from ...events import Event, Restarted, Validation
from ...loop.config import TrainConfig
from ...loop.evaluation import evaluate
from ...losses import classification
from ...models import DropConnect
from ...optimizers import parameter_groups
from ...randomness import preserve_rng, seed_everything
from ...state import TrainState
from ..charts import Axis, BarChart, Chart, Curve, CurveChart, Mark
from ..live import LiveRun
from ..panel import RunPanel, beside, button, curve, row, show_settings
from ..sliders import Slider
from .material import few_digits, small_digits

_LR = 3e-3  # Adam's


@dataclass(frozen=True, slots=True)
class _Settings:
    """What a run is begun with; every field has a slider of its name."""

    rows: int = 200
    false_labels: float = 0.25
    hidden: int = 128
    drop_connect: float = 0.0
    smoothing: float = 0.0
    epochs: int = 60
    dropout: float = 0.0
    weight_decay: float = 0.0
    patience: int = 0


_LIVE = ("dropout", "weight_decay", "patience")  # may be moved during a run
_WHOLE = ("rows", "hidden", "epochs", "patience")


class _Watch:
    """An observer: measures the training rows again, keeps the best weights, and ends the run in time.

    Best is the lowest validation loss.  patience: validations in a row without a better one, after
    which the run is ended; 0 never ends it.
    """

    def __init__(self, rows: Loader, patience: int) -> None:
        self.run: LiveRun | None = None
        self.patience = patience
        self._rows = rows
        self._forget()

    def _forget(self) -> None:
        self.best, self.step, self.waited = math.inf, 0, 0
        self.weights: dict[str, Tensor] = {}

    def __call__(self, event: Event) -> None:
        assert self.run is not None
        if isinstance(event, Restarted):
            self._forget()  # what it waited for is taken back
        if not isinstance(event, Validation):
            return
        model = self.run.state.model
        again = evaluate(model, self._rows, classification())  # unsmoothed, whatever it is trained on
        self.run.note("again_loss", event.step, again["loss"])
        self.run.note("again_accuracy", event.step, again["accuracy"])
        self.waited += 1
        if event.metrics["loss"] < self.best:
            self.best, self.step, self.waited = event.metrics["loss"], event.step, 0
            self.weights = copy.deepcopy(model.state_dict())
        if self.patience and self.waited >= self.patience:
            self.run._stop()


class Rescue(RunPanel):
    """A network learns 200 digits by heart, a quarter of them mislabelled: save it, then open the seal.

    panel = tl.panels.Rescue()
    panel                                                  # live
    panel.run(dropout=0.8, patience=5, unseal=True)        # the same without a person

    200 digits validate, 2,000 are sealed. The seal scores the weights that one would hand over: those of
    the lowest validation loss where there is patience, else the last ones. Openings are counted.
    """

    title = "Rescue: 200 digits, and a seal"
    forks = False

    def __init__(self) -> None:
        super().__init__()
        self.seed, self.opened = 0, 0
        self._scores: dict[str, float] = {}
        self._watch: _Watch | None = None
        self._controls()
        self._charts()
        self.draw()

    def _controls(self) -> None:
        offered: dict[str, tuple[str, list[float], str]] = {
            "rows": ("training rows", [50, 100, 200, 400, 800, 2000], "digits to learn from"),
            "false_labels": ("false labels", [0, 0.1, 0.25, 0.5], "share of the training labels"),
            "hidden": ("hidden units", [4, 8, 16, 32, 64, 128, 256, 512], "capacity"),
            "drop_connect": ("DropConnect", [0, 0.2, 0.5, 0.8], "share of the weights silenced"),
            "smoothing": ("label smoothing", [0, 0.1, 0.2, 0.3], "share spread over all classes"),
            "epochs": ("epochs", [10, 20, 40, 60, 120, 500], "length of a run"),
            "dropout": ("dropout", [0, 0.2, 0.5, 0.8, 0.9], "share of hidden units silenced"),
            "weight_decay": ("weight decay", [0, 0.3, 1, 3, 10, 30], "AdamW's, of the matrices"),
            "patience": ("patience", [0, 2, 5, 10, 20], "validations without a better loss; 0: no end"),
        }
        self.sliders: dict[str, Slider] = {}
        for name, (label, values, help) in offered.items():
            begins = "" if name in _LIVE else "; begins a new run"
            slider = Slider(
                label, values, getattr(_Settings(), name), help=help + begins, eager=name in _LIVE
            )
            self.sliders[name] = slider
            if name not in _LIVE:
                slider.on_move(lambda value: self.do(self.renew))
        self.sliders["dropout"].on_move(lambda value: self.change(dropout=value))
        self.sliders["weight_decay"].on_move(lambda value: self.change(weight_decay=value))
        self.sliders["patience"].on_move(lambda value: self.do(lambda: self._wait_for(int(value))))
        self.seal_button = button(
            "Open the seal",
            "envelope",
            "Score on 2,000 sealed digits; counted",
            lambda: self.do(self._unseal),
        )
        self.seal_button.layout.width = "11em"

    def _charts(self) -> None:
        share = Axis("share right", low=0.0, high=1.0)
        said = "training rows, by the labels they were given, and 200 validation digits"
        self.shares = CurveChart("epoch", share, title="Right", alt=said, tools=False)
        self.losses = CurveChart("epoch", Axis("loss (nats)", low=0.0), title="Loss", alt=said)
        self.bars = BarChart(share, title="What would you report?", alt="the weights handed over", height=150)

    def run(
        self,
        *,
        rows: int = 200,
        false_labels: float = 0.25,
        hidden: int = 128,
        dropout: float = 0.0,
        drop_connect: float = 0.0,
        weight_decay: float = 0.0,
        smoothing: float = 0.0,
        patience: int = 0,
        epochs: int = 60,
        seed: int = 0,
        unseal: bool = False,
    ) -> dict[str, float | int | str]:
        """Train without a person; returns where it ended.  unseal: open the seal then, which is counted.

        Raises TrainlabError if a setting is out of range.
        """
        given = _Settings(
            rows, false_labels, hidden, drop_connect, smoothing, epochs, dropout, weight_decay, patience
        )
        self.seed, self._scores = seed, {}
        with preserve_rng():
            self.runs = [self._make(given)]
        show_settings(*((self.sliders[name], value) for name, value in asdict(given).items()))
        self.runs[0].drain()
        if unseal:
            self._unseal()
        self.draw()
        return self.outcome()

    def outcome(self) -> dict[str, float | int | str]:
        """Where the run stands, as plain values; the sealed score only if the seal was opened on it."""
        values = self.runs[0].values(3)
        shown: dict[str, float | int | str] = {
            "status": values["status"],
            "epoch": round(self.runs[0].state.step * self._scale()),
            "train_accuracy": values.get("again_accuracy", 0.0),
            "valid_accuracy": values.get("valid_accuracy", 0.0),
        }
        return shown | {name: float(f"{score:.3g}") for name, score in self._scores.items()}

    # --- runs

    def make(self) -> list[LiveRun]:
        given = {name: slider.value for name, slider in self.sliders.items()}
        whole: dict[str, Any] = {name: int(given[name]) for name in _WHOLE}
        return [self._make(_Settings(**{**given, **whole}))]

    def _make(self, given: _Settings) -> LiveRun:
        learned = few_digits(given.rows, given.false_labels, self.seed)
        seed_everything(self.seed)
        model = _network(given.hidden, given.drop_connect)
        # built with decay, so that the control moves that of the matrices only
        groups = parameter_groups(model, lr=_LR, weight_decay=1.0)
        state = TrainState(model, torch.optim.AdamW(groups, lr=_LR))
        state.controls.dropout, state.controls.weight_decay = given.dropout, given.weight_decay
        state.apply_controls()
        self._watch = _Watch(make_loader(learned, 400, seed=0, shuffle=False), given.patience)
        self._scores = {}
        self._watch.run = LiveRun(
            state,
            make_loader(learned, 50, seed=self.seed, shuffle=True),
            classification(label_smoothing=given.smoothing),
            TrainConfig(epochs=given.epochs),
            valid=make_loader(small_digits().valid, 200, seed=0, shuffle=False),
            name=f"{given.rows} rows",
            observers=[self._watch],
        )
        return self._watch.run

    def _wait_for(self, patience: int) -> None:
        if self._watch is not None:
            self._watch.patience = patience

    def settle(self) -> None:
        controls = self.runs[0].state.controls
        self.sliders["dropout"].move_to(controls.dropout or 0)
        self.sliders["weight_decay"].move_to(controls.weight_decay or 0)

    # --- the seal

    def _unseal(self) -> None:
        if self._watch is None or not self._watch.weights:
            raise TrainlabError("there is nothing to score yet: train for an epoch, then open the seal")
        assert self._watch.run is not None
        model = copy.deepcopy(self._watch.run.state.model)
        if self._watch.patience:
            model.load_state_dict(self._watch.weights)
        self.opened += 1
        for name, part in (("reported", small_digits().valid), ("sealed", small_digits().test)):
            loader = make_loader(part, 500, seed=0, shuffle=False)
            self._scores[name] = evaluate(model, loader, classification())["accuracy"]
        self._show()

    # --- pictures

    def _scale(self) -> float:
        return 1 / len(self.runs[0].loader) if self.runs else 1.0  # type: ignore[arg-type]

    def curves(self, run: LiveRun, place: int) -> list[Curve]:
        return self._pair(run, "loss")

    def _pair(self, run: LiveRun, what: str) -> list[Curve]:
        scale = 1 / len(run.loader)  # type: ignore[arg-type]
        return [
            curve(run, f"again_{what}", "training", 0, scale=scale),
            curve(run, f"valid_{what}", "validation", 1, scale=scale),
        ]

    def draw(self) -> None:
        scale = self._scale()
        marks = [Mark(mark.x * scale, mark.text) for mark in self.marks()]
        if self._watch is not None and self._watch.step:
            marks.append(Mark(self._watch.step * scale, "lowest", 1))
        old = [each for curves in self.earlier for each in curves]
        self.losses.show([*old, *(each for run in self.runs for each in self._pair(run, "loss"))], marks)
        self.shares.show([each for run in self.runs for each in self._pair(run, "accuracy")], marks)
        names = ("reported", "sealed")
        scores = [self._scores.get(name, 0.0) for name in names]
        texts = [f"{score:.3f}" if self._scores else "not opened" for score in scores]
        self.bars.show(["validation, 200", "sealed, 2,000"], scores, [1, 2], texts)

    def sentence(self) -> str:
        said = super().sentence()
        if self._scores:
            reported, sealed = self._scores["reported"], self._scores["sealed"]
            said += f". You would have reported {reported:.2f}, sealed digits say {sealed:.3f}"
        if self.opened > 1:
            said += f". Opened {self.opened} times: choose by it, and it is one more validation set"
        return said

    def charts(self) -> list[Chart]:
        return [self.shares, self.losses, self.bars]

    def layout(self) -> list[Any]:
        structure = [slider for name, slider in self.sliders.items() if name not in _LIVE]
        return [
            row(*structure),
            row(*(self.sliders[name] for name in _LIVE), self.seal_button),
            *self.buttons(),
            beside(self.shares, self.losses),
            self.bars,
        ]


def _network(hidden: int, drop_connect: float) -> nn.Sequential:
    """One hidden layer on 14x14 pixels, with a dropout layer that the controls move."""
    return nn.Sequential(
        nn.Flatten(),
        DropConnect(196, hidden, p=drop_connect),
        nn.ReLU(),
        nn.Dropout(0.0),
        DropConnect(hidden, 10, p=drop_connect),
    )
