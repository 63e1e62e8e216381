"""What a step of training needs, foretold while the controls move, and measured on a button."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adafactor, Adam, Optimizer

from ...errors import TrainlabError, unknown_name
from ...memory.budget import Budget, memory_budget
from ...memory.meter import PARTS, StepCost, measure_step
from ...models import CNN, MLP, ResNet, Transformer, checkpoint_activations
from ...precision import autocast
from ...randomness import preserve_rng, seed_everything
from ..charts import Axis, BarChart, Chart
from ..drainer import Job, Task
from ..panel import Panel, beside, button, choice, row, show_settings
from ..sliders import Slider

LIMIT = 1e9  # bytes: what is larger is foretold only
WORDS = 5000
BUILD: dict[str, Callable[[int, int, int], nn.Module]] = {
    "MLP": lambda width, depth, length: MLP(784, [width] * depth, 10),
    "CNN": lambda width, depth, length: CNN(1, 10, widths=[width] * min(depth, 4)),  # 28 halves four times
    "ResNet": lambda width, depth, length: ResNet(1, 10, widths=[width], blocks=depth),
    "Transformer": lambda width, depth, length: Transformer(
        WORDS, width=width, layers=depth, heads=max(1, width // 64), length=length
    ),
}
OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "SGD": lambda weights: SGD(weights, 0.01),
    "momentum": lambda weights: SGD(weights, 0.01, momentum=0.9),
    "Adam": Adam,
    "Adam, fused": lambda weights: Adam(weights, fused=True),
    "Adafactor": Adafactor,
}
PRECISIONS = ("fp32", "bf16")
SIZES: dict[str, Sequence[int]] = {
    "width": (8, 16, 32, 64, 128, 256, 512, 768, 1024, 2048, 4096, 8192),
    "depth": (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48),
    "rows": (1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
    "length": (16, 32, 64, 128, 256, 512, 1024, 2048, 4096),
}


@dataclass(frozen=True, slots=True)
class Setting:
    """A step of training: what is trained, on how much, and how.

    width: units of a layer, channels of a stage, width of a Transformer.  depth: hidden layers, stages,
    blocks.  rows: of a batch.  length: tokens of a row, for the Transformer.
    Raises TrainlabError for an unknown name.
    """

    model: str = "Transformer"
    optimizer: str = "Adam"
    precision: str = "fp32"
    checkpointing: bool = False
    width: int = 128
    depth: int = 4
    rows: int = 8
    length: int = 128

    def __post_init__(self) -> None:
        for what, name, known in (
            ("model", self.model, BUILD),
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("precision", self.precision, PRECISIONS),
        ):
            if name not in known:
                raise unknown_name(what, name, known)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a batch."""
        return (self.rows, self.length) if self.model == "Transformer" else (self.rows, 1, 28, 28)

    def build(self) -> nn.Module:
        """The model, fresh."""
        return BUILD[self.model](self.width, self.depth, self.length)

    def budget(self) -> Budget:
        """What the step needs by arithmetic, whatever its size."""
        with torch.device("meta"):
            weightless = self.build()
        given: Any = {name: getattr(self, name) for name in ("optimizer", "precision", "checkpointing")}
        return memory_budget(weightless, self.shape, **given)

    def measured(self) -> StepCost:
        """One real step on random rows: the numbers do not matter for what it needs.

        Raises TrainlabError if it is foretold to need more than LIMIT.
        """
        if (told := self.budget().peak) > LIMIT:
            raise TrainlabError(
                f"a step of {_size(told)} is foretold only: choose less than {_size(LIMIT)} to measure it"
            )
        seed_everything(0)
        model = self.build()
        if self.checkpointing:
            checkpoint_activations(model)
        optimizer = OPTIMIZERS[self.optimizer](model.parameters())
        tokens = self.model == "Transformer"
        x: Tensor = torch.randint(0, WORDS, self.shape) if tokens else torch.randn(self.shape)
        y = torch.randint(0, WORDS, self.shape) if tokens else torch.randint(0, 10, self.shape[:1])

        def step() -> None:
            optimizer.zero_grad()
            with autocast(self.precision, torch.device("cpu")):
                loss = F.cross_entropy(model(x).flatten(0, -2), y.flatten())
            loss.backward()
            optimizer.step()

        return measure_step(step, model, optimizer, batch=(x, y), repeats=1)


class MemoryBudget(Panel):
    """The memory of one training step, part by part: foretold at once, measured on request.

    panel = tl.panels.MemoryBudget()
    panel.run(model="Transformer", width=128, depth=4, rows=8, length=128, precision="bf16")
    """

    title = "Memory budget: what does one step of training need?"

    def __init__(self) -> None:
        super().__init__()
        self.found: StepCost | None = None
        self._controls()
        self._charts()
        self.task = Task(self.title, self._steps, self._take)
        self.task.on_frame.append(lambda task: self._show())
        self.draw()

    def _controls(self) -> None:
        again: Callable[[Any], None] = lambda value: self.do(self._moved)  # noqa: E731
        self.choices = {
            "model": choice("model:", [*BUILD], "Transformer", again),
            "optimizer": choice("optimizer:", [*OPTIMIZERS], "Adam", again),
            "precision": choice("precision:", [*PRECISIONS], "fp32", again),
            "checkpointing": choice("checkpointing:", ["no", "yes"], "no", again),
        }
        help = {
            "width": "units of a layer, channels of a stage, or width of a Transformer",
            "depth": "hidden layers, stages, or blocks",
            "rows": "rows of a batch",
            "length": "tokens of a row, for the Transformer",
        }
        first = {"width": 128, "depth": 4, "rows": 8, "length": 128}
        self.sliders = {
            name: Slider(name, values, first[name], help=help[name]) for name, values in SIZES.items()
        }
        for slider in self.sliders.values():
            slider.on_move(again)
        self.start_button = button("Measure", "play", "Take a real step of this kind", self._go, "primary")
        self.start_button.layout.width = "8em"

    def _charts(self) -> None:
        self.bars = {
            name: BarChart(
                Axis("memory (MB)", low=0.0), title=title, alt=f"bytes of each part, {name}", height=230
            )
            for name, title in {"foretold": "Foretold", "measured": "Measured, one real step"}.items()
        }

    # --- settings

    def setting(self) -> Setting:
        """What the controls say."""
        chosen: dict[str, Any] = {name: box.value for name, box in self.choices.items()}
        chosen["checkpointing"] = chosen["checkpointing"] == "yes"
        return Setting(**chosen | {name: int(slider.value) for name, slider in self.sliders.items()})

    def run(
        self,
        *,
        model: str = "Transformer",
        optimizer: str = "Adam",
        precision: str = "fp32",
        checkpointing: bool = False,
        width: int = 128,
        depth: int = 4,
        rows: int = 8,
        length: int = 128,
        measure: bool = True,
    ) -> dict[str, Any]:
        """The budget without a person, and beside it a measured step; all in MB.

        Returns foretold and measured (the peaks; measured is None where measure is False), and parts: what
        each part is foretold to hold at the most.
        Raises TrainlabError if a setting cannot be, or a step beyond 1 GB is to be measured.
        """
        chosen = Setting(model, optimizer, precision, checkpointing, width, depth, rows, length)
        budget = chosen.budget()
        show_settings(*((slider, getattr(chosen, name)) for name, slider in self.sliders.items()))
        names = asdict(chosen) | {"checkpointing": "yes" if checkpointing else "no"}
        show_settings(*((box, names[name]) for name, box in self.choices.items()))
        self.found = None
        if measure:
            with preserve_rng():
                self.found = chosen.measured()
        self._draw(budget)
        return {
            "foretold": round(budget.peak / 1e6, 1),
            "measured": None if self.found is None else round(self.found.peak / 1e6, 1),
            "parts": {name: round(size / 1e6, 1) for name, size in budget.parts.items()},
        }

    def _moved(self) -> None:
        self.task._close()
        self.task._set("ready")
        self.found = None
        self._show()

    # --- the real step

    def _go(self) -> None:
        def go() -> None:
            self._moved()
            self.task.start()

        self.do(go)

    def _steps(self) -> Generator[StepCost, None, None]:
        yield self.setting().measured()

    def _take(self, cost: StepCost) -> None:
        self.found = cost

    # --- pictures

    def jobs(self) -> Sequence[Job]:
        return [self.task]

    def _show(self) -> None:
        self.draw()
        self._say()

    def draw(self) -> None:
        """Show the budget of the present settings, and what was measured of them."""
        try:
            self._draw(self.setting().budget())
        except TrainlabError as error:
            self.told = str(error)

    def _draw(self, budget: Budget) -> None:
        self._peak = budget.peak
        _bars(self.bars["foretold"], budget.at_peak, budget.peak)
        nothing = dict.fromkeys(PARTS, 0)
        found = self.found
        _bars(self.bars["measured"], found.at_peak if found else nothing, found.peak if found else 0)

    def sentence(self) -> str:
        said = f"Foretold at the peak: {_size(self._peak)}. "
        if self.task.status == "running":
            return f"{said}A real step is being taken."
        if self.found is None:
            return f"{said}Measure takes a real step of this kind, and counts."
        off = self._peak / self.found.peak - 1
        seconds = f", {self.found.seconds:.2g} s a step" if self.found.seconds is not None else ""
        return f"{said}Measured: {_size(self.found.peak)}{seconds}; the budget is off by {abs(off):.0%}."

    def charts(self) -> list[Chart]:
        return [*self.bars.values()]

    def layout(self) -> list[Any]:
        return [
            row(*self.choices.values()),
            row(*self.sliders.values(), self.start_button),
            beside(*self.bars.values()),
        ]


def _size(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _bars(chart: BarChart, parts: Mapping[str, int], peak: float) -> None:
    """One bar for each part at the peak, and what they make together."""
    sizes = [*parts.values(), peak]
    texts = [_size(size) if size else "0" for size in sizes]
    chart.show([*parts, "together"], [size / 1e6 for size in sizes], [0] * len(parts) + [1], texts)
