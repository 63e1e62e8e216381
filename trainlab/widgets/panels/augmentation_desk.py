"""Augmentation under the hands: what the network is shown, and what that does to what it can read."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ...data.dataset import Dataset
from ...data.loaders import Loader, make_loader
from ...errors import TrainlabError, unknown_name
from ...events import Event, Validation
from ...loop.config import TrainConfig
from ...losses import classification
from ...randomness import preserve_rng, seed_everything
from ...schedules import warmup_cosine
from ...state import TrainState
from ..charts import Axis, BarChart, Chart, Curve, CurveChart, ImageChart
from ..live import LiveRun
from ..panel import RunPanel, beside, choice, curve, row, show_settings
from ..sliders import Slider, rates
from .material import digits

Transform = Callable[[Tensor], Tensor]
FLIPS = ("none", "left-right", "upside-down")
BLENDS = ("none", "mixup", "cutmix")
ARRIVALS = ("as they are", "tilted", "dim")


@dataclass(frozen=True, slots=True)
class Settings:
    """What is done to the training images, and which images are to be read.

    per_class: labelled digits of each class.  turn: degrees, either way.  move: share of the width,
    in both directions.  zoom: share by which the size varies.  brightness: share by which it varies.
    """

    per_class: int = 10
    turn: float = 0.0
    move: float = 0.0
    zoom: float = 0.0
    brightness: float = 0.0
    flip: str = "none"
    blend: str = "none"
    arriving: str = "as they are"

    def __post_init__(self) -> None:
        for what, name, known in (
            ("flip", self.flip, FLIPS),
            ("blend", self.blend, BLENDS),
            ("way to arrive", self.arriving, ARRIVALS),
        ):
            if name not in known:
                raise unknown_name(what, name, known)
        if not 1 <= self.per_class <= 200:
            raise TrainlabError(f"per_class={self.per_class}: take 1 to 200 digits of each class")

    def augment(self) -> Transform | None:
        """The transform of torchvision's v2 for one image; None where nothing is done to it."""
        from torchvision.transforms import v2  # slow to import

        chain: list[Transform] = []
        if self.turn or self.move or self.zoom:
            chain.append(
                v2.RandomAffine(
                    self.turn,
                    translate=(self.move, self.move),
                    scale=(1 - self.zoom, 1 + self.zoom),
                    interpolation=v2.InterpolationMode.BILINEAR,
                )
            )
        if self.flip != "none":
            chain.append(v2.RandomHorizontalFlip() if self.flip == "left-right" else v2.RandomVerticalFlip())
        if self.brightness:
            chain.append(v2.ColorJitter(brightness=self.brightness))
        return v2.Compose(chain) if chain else None

    def mix(self) -> Callable[..., Any] | None:
        """Mixup or cutmix of a batch, or None."""
        from torchvision.transforms import v2

        if self.blend == "none":
            return None
        return v2.MixUp(num_classes=10) if self.blend == "mixup" else v2.CutMix(num_classes=10)


class AugmentationDesk(RunPanel):
    """A few labelled digits, what is done to them before the network sees them, and what it then reads.

    desk = tl.panels.AugmentationDesk()
    desk.run(per_class=10, turn=15, move=0.1, zoom=0.1)
    """

    title = "Augmentation desk: what may change, and what may not?"

    def __init__(self) -> None:
        super().__init__()
        self.seed, self.steps = 0, 300
        self._shown: tuple[Settings, int, int] | None = None
        self._controls()
        self._charts()
        self.draw()

    def _controls(self) -> None:
        begins = "; begins a new run"
        self.sliders = {
            "per_class": Slider("labels a class", [5, 10, 20, 40, 80], 10, eager=False, help="to learn from"),
            "turn": Slider(
                "turn", [0, 5, 10, 15, 30, 60, 90, 180], 0, unit="degrees", eager=False, help="either way"
            ),
            "move": Slider("move", [0, 0.05, 0.1, 0.2, 0.3], 0, eager=False, help="share of the width"),
            "zoom": Slider("zoom", [0, 0.1, 0.2, 0.4], 0, eager=False, help="larger or smaller by"),
            "brightness": Slider(
                "brightness", [0, 0.3, 0.6, 0.9], 0, eager=False, help="brighter or darker by"
            ),
        }
        for slider in self.sliders.values():
            slider.help += begins
            slider.on_move(lambda value: self.do(self.renew))
        again: Callable[[Any], None] = lambda value: self.do(self.renew)  # noqa: E731
        self.choices = {
            "flip": choice("flip:", FLIPS, "none", again),
            "blend": choice("blend:", BLENDS, "none", again),
            "arriving": choice("digits to read:", ARRIVALS, "as they are", again),
        }
        self.rate = Slider(
            "learning rate", rates(1e-4, 0.1), 0.005, help="Adam's; holds from the next step on"
        )
        self.rate.on_move(lambda value: self.change(lr=value))

    def _charts(self) -> None:
        self.images = ImageChart(
            title="A batch as the network is shown it",
            columns=10,
            alt="twenty training images after augmentation, with their labels",
        )
        self.losses = CurveChart(
            "step",
            Axis("loss (nats)", low=0.0),
            title="Loss",
            alt="training loss of each step, on augmented digits, and loss on unseen digits",
            height=220,
        )
        self.shares = CurveChart(
            "step",
            Axis("share read correctly", low=0.0, high=1.0),
            title="Read correctly",
            alt="share of 500 unseen digits",
            height=220,
            tools=False,
        )
        self.each = BarChart(
            Axis("share read correctly", low=0.0, high=1.0),
            title="Digit by digit",
            alt="share of the unseen digits of each class that are read correctly",
            height=200,
        )

    def settings(self) -> Settings:
        """What the controls say."""
        values: dict[str, Any] = {name: slider.value for name, slider in self.sliders.items()}
        values |= {name: box.value for name, box in self.choices.items()}
        return Settings(**values | {"per_class": int(values["per_class"])})

    def run(
        self,
        *,
        per_class: int = 10,
        turn: float = 0.0,
        move: float = 0.0,
        zoom: float = 0.0,
        brightness: float = 0.0,
        flip: str = "none",
        blend: str = "none",
        arriving: str = "as they are",
        lr: float = 0.005,
        steps: int = 200,
        seed: int = 0,
    ) -> dict[str, float | int | str]:
        """Train without a person; returns where it ended: step, losses, accuracy, and the digits' shares.

        Raises TrainlabError if a setting cannot be (what they mean: see Settings).
        """
        chosen = Settings(per_class, turn, move, zoom, brightness, flip, blend, arriving)
        self.seed, self.steps = seed, steps
        with preserve_rng():
            self.runs = [self._make(chosen, lr)]
        controls = self.sliders | self.choices
        show_settings(*((controls[name], getattr(chosen, name)) for name in controls), (self.rate, lr))
        self.runs[0].drain()
        self.draw()
        return self.runs[0].values(2)

    def make(self) -> list[LiveRun]:
        return [self._make(self.settings(), self.rate.value)]

    def _make(self, settings: Settings, lr: float) -> LiveRun:
        seed_everything(self.seed)
        model = small_cnn()
        optimizer = torch.optim.Adam(model.parameters(), lr)
        observer = _Reader(*arriving(settings.arriving).tensors)
        run = LiveRun(
            TrainState(model, optimizer, warmup_cosine(optimizer, steps=self.steps)),
            loader_of(settings, self.seed),
            classification(),
            TrainConfig(steps=self.steps, validate_every=20),
            valid=make_loader(arriving(settings.arriving), 250, seed=0, shuffle=False),
            name=f"{settings.per_class} labels a class",
            observers=[observer],
        )
        observer.run = run
        return run

    def settle(self) -> None:
        self.rate.move_to(self.runs[0].base_lr * self.runs[0].state.controls.lr_scale)

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
        letters = "AB" if len(self.runs) > 1 else [""]
        self.shares.show(
            [
                curve(run, "valid_accuracy", f"unseen digits {letter}".strip(), 2 * place + 1)
                for place, (run, letter) in enumerate(zip(self.runs, letters))
            ],
            self.marks(),
        )
        self._show_batch()
        self._show_digits()

    def _show_batch(self) -> None:
        """The first batch of the epoch that the run is in."""
        wanted = (self.settings(), self.runs[0].state.epoch if self.runs else 0, self.seed)
        if wanted != self._shown:
            self._shown = wanted
            images, labels = next(iter(loader_of(wanted[0], self.seed).batches(wanted[1])))
            self.images.show(images[:, 0].numpy(), [caption(label) for label in labels])

    def _show_digits(self) -> None:
        found = [self.runs[0].series.get(f"digit_{digit}") for digit in range(10)] if self.runs else []
        if all(found) and found:
            shares = [float(series.y[-1]) for series in found if series]
            texts = [f"{share:.2f}" for share in shares]
            self.each.show([str(digit) for digit in range(10)], shares, texts=texts)

    def charts(self) -> list[Chart]:
        return [self.images, self.losses, self.shares, self.each]

    def layout(self) -> list[Any]:
        return [
            row(*self.sliders.values(), *self.choices.values(), self.rate),
            *self.buttons(),
            self.images,
            beside(self.losses, self.shares),
            self.each,
        ]


class _Reader:
    """An observer: the share of each digit that is read correctly, at each validation."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.run: LiveRun | None = None
        self._images, self._labels = images, labels

    def __call__(self, event: Event) -> None:
        assert self.run is not None
        if not isinstance(event, Validation):
            return
        with torch.no_grad():
            right = self.run.state.model(self._images).argmax(1) == self._labels
        for digit in range(10):
            share = right[self._labels == digit].float().mean()
            self.run.note(f"digit_{digit}", event.step, float(share))


def small_cnn() -> nn.Sequential:
    """Two convolutions with stride 2 and a linear layer: it learns to read from a hundred digits."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(8, 16, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(784, 10),
    )


def loader_of(settings: Settings, seed: int) -> Loader:
    """Batches of 20 of the labelled digits, augmented and mixed."""
    train, generator = digits()[0], torch.Generator().manual_seed(seed)
    order = torch.randperm(len(train), generator=generator)
    chosen = [order[train.targets[order] == digit][: settings.per_class] for digit in range(10)]
    return make_loader(
        train.subset(torch.cat(chosen)),
        20,
        seed=seed,
        shuffle=True,
        augment=settings.augment(),
        mix=settings.mix(),
    )


@functools.cache
def arriving(name: str) -> Dataset:
    """500 unseen digits: as they are, each turned by up to 60 degrees, or at a fifth of the light."""
    valid = digits()[1]
    if name == "tilted":
        from torchvision.transforms.v2 import InterpolationMode
        from torchvision.transforms.v2.functional import rotate

        generator = torch.Generator().manual_seed(0)
        angles = (120 * torch.rand(len(valid), generator=generator) - 60).tolist()
        turned = [rotate(x, a, InterpolationMode.BILINEAR) for x, a in zip(valid.features, angles)]
        return replace(valid, features=torch.stack(turned))
    return replace(valid, features=0.2 * valid.features) if name == "dim" else valid


def caption(label: Tensor) -> str:
    """A class as a digit, a soft target by its two largest shares: "6", "6 70 %, 9 30 %"."""
    if not label.is_floating_point():
        return str(int(label))
    shares, classes = label.topk(2)
    named = [
        f"{c} {100 * share:.0f} %" for c, share in zip(classes.tolist(), shares.tolist()) if share > 0.005
    ]
    return ", ".join(named) if len(named) > 1 else str(int(classes[0]))
