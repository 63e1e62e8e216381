"""The exercises of chapter 13, where does the memory go?, and what its cells lean on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..memory.meter import PARTS, StepCost, measure_step
from ..models import MLP, Transformer, checkpoint_activations
from ..randomness import seed_everything
from .exercises import Exercise, Verdict, right, wrong

# --- what the cells lean on -------------------------------------------------------------------------------


def plot_both(costs: Mapping[str, StepCost]) -> None:
    """Draw steps side by side on one scale of memory, each with its parts upon each other."""
    from matplotlib import pyplot as plt

    from ..plots import plot_step_cost

    _, axes = plt.subplots(1, len(costs), figsize=(8, 2.7), sharey=True)
    highest = max(cost.peak for cost in costs.values()) / 1e6
    for ax, (name, cost) in zip(axes, costs.items()):
        plot_step_cost(cost, ax)
        ax.set_title(name)
        ax.set_xlabel("allocations, in their order")
        ax.set_ylim(0, 1.12 * highest)
        ax.annotate(f"peak {cost.peak / 1e6:.0f} MB", (0.03, 0.93), xycoords="axes fraction", fontsize=8)
        if ax is not axes[-1]:
            ax.get_legend().remove()
            continue
        handles, names = ax.get_legend_handles_labels()
        chosen = [(handle, name) for handle, name in zip(handles, names) if name in PARTS][::-1]
        ax.legend(*zip(*chosen), loc="center left", bbox_to_anchor=(1.0, 0.5))
    for ax in axes[1:]:
        ax.set_ylabel("")


def half_precision_units() -> str:
    """What this machine has for products in half precision, in words."""
    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        bf16 = "yes" if major >= 8 else "no"  # from Ampere on
        return f"{torch.cuda.get_device_name()} ({major}.{minor}): fp16 yes, bf16 {bf16}"
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return "unknown: the system does not tell"
    found = [name for name in ("avx512_bf16", "amx_bf16", "avx512_fp16", "amx_fp16") if name in flags]
    return ", ".join(found) or "none: it is done with instructions for float32, and conversions"


# --- exercises ----------------------------------------------------------------------------------------


def _judge_bytes(training_bytes: Callable[..., Any]) -> Verdict:
    got = {name: float(training_bytes(1000, name)) for name in ("SGD", "momentum", "Adam")}
    expected = {"SGD": 8000, "momentum": 12000, "Adam": 16000}
    if got == {name: size // 4 for name, size in expected.items()}:
        return wrong(
            "1,000 weights: that counts values, not bytes", observed=got["Adam"], expected=16000, hint=1
        )
    if got == {name: size - 4000 for name, size in expected.items()}:
        return wrong(
            "1,000 weights with SGD: one part is missing", observed=got["SGD"], expected=8000, hint=2
        )
    if got != expected:
        return wrong("1,000 weights, by optimizer", observed=got, expected=expected, hint=3)
    if float(training_bytes(7, "Adam")) != 112:
        return wrong("7 weights with Adam", observed=float(training_bytes(7, "Adam")), expected=112, hint=3)
    return right("weights, gradients and the optimizer's state, four bytes a value.")


def _small(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    seed_everything(seed)
    model = MLP(6, [8], 3)
    return model, torch.optim.SGD(model.parameters(), lr=0.5)


def _batches(sizes: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(rows, 6, generator=generator), torch.randint(0, 3, (rows,), generator=generator))
        for rows in sizes
    ]


def _weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def _after(batches: list[tuple[Tensor, Tensor]], accumulate: int) -> Tensor:
    """The weights after an epoch in which each group of micro-batches was one batch."""
    model, optimizer = _small(0)
    for at in range(0, len(batches), accumulate):
        x, y = (torch.cat(parts) for parts in zip(*batches[at : at + accumulate]))
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return _weights(model)


def _judge_epoch(epoch: Callable[..., Any]) -> Verdict:
    def result(sizes: tuple[int, ...], accumulate: int) -> tuple[bool, int]:
        model, optimizer = _small(0)
        steps: list[int] = []
        optimizer.register_step_post_hook(lambda *_: steps.append(0))
        epoch(model, optimizer, _batches(sizes), accumulate)
        close = torch.allclose(_weights(model), _after(_batches(sizes), accumulate), atol=1e-5)
        return close, len(steps)

    close, steps = result((4, 4, 4, 4), 2)
    if steps != 2:
        return wrong(
            "four micro-batches in groups of two: optimizer steps", observed=steps, expected=2, hint=1
        )
    if not close:
        return wrong("two whole groups, and the weights are not those of two large batches", hint=1)
    close, steps = result((4, 4, 4, 4, 4), 2)
    if steps != 3:
        return wrong(
            "five micro-batches in groups of two: optimizer steps", observed=steps, expected=3, hint=2
        )
    if not close:
        return wrong("the group of one at the end is divided by more than it has", hint=2)
    if not result((4, 4, 4, 1), 2)[0]:
        return wrong("a last group of 4 + 1 rows: its five rows do not weigh the same", hint=3)
    return right("each group is the large batch that it stands for, the last one too.")


class _Counting(torch.amp.GradScaler):
    """A scaler that notes what it is told to do; its scale is 1024 at first."""

    def __init__(self) -> None:
        super().__init__("cpu", init_scale=1024.0)
        self.calls: list[str] = []

    def unscale_(self, optimizer: torch.optim.Optimizer) -> None:
        self.calls.append("unscale")
        super().unscale_(optimizer)

    def update(self, new_scale: Any = None) -> None:
        self.calls.append("update")
        super().update(new_scale)


def _scaled(step: Callable[..., Any], factor: float) -> tuple[Tensor, Tensor, _Counting]:
    """The weights before and after one step on a loss times `factor`, clipped at 1."""
    model, optimizer = _small(0)
    x, y = _batches((16,))[0]
    before, scaler = _weights(model), _Counting()
    step(model, optimizer, scaler, factor * F.cross_entropy(model(x), y), 1.0)
    return before, _weights(model), scaler


def _judge_scaled(step: Callable[..., Any]) -> Verdict:
    before, after, scaler = _scaled(step, 0.1)
    model, optimizer = _small(0)
    x, y = _batches((16,))[0]
    (0.1 * F.cross_entropy(model(x), y)).backward()
    whole = nn.utils.clip_grad_norm_(model.parameters(), 1.0).item()  # below 1: nothing is clipped
    optimizer.step()
    moved, due = (after - before).norm().item(), (_weights(model) - before).norm().item()
    if moved > 100 * due:
        return wrong(
            "the weights moved by this many times the true step", observed=moved / due, expected=1, hint=1
        )
    if moved < 0.9 * due:
        said = f"the true gradient has norm {whole:.2g}, nothing is to be clipped; your step, in true steps"
        return wrong(said, observed=moved / due, expected=1, hint=2)
    before, after, _ = _scaled(step, 1e3)
    if not math.isclose((after - before).norm().item(), 0.5, rel_tol=0.02):
        moved = (after - before).norm().item() / 0.5
        return wrong(
            "a huge gradient, limit 1: the norm it was clipped to", observed=moved, expected=1, hint=2
        )
    before, after, scaler = _scaled(step, math.inf)
    if not torch.equal(before, after):
        return wrong("the gradient was infinite, and the weights were moved all the same", hint=3)
    if scaler.get_scale() != 512:
        return wrong(
            "after an overflow the scale must fall", observed=scaler.get_scale(), expected=512, hint=3
        )
    return right("true gradients are clipped, an overflow is skipped, and the scale learns from it.")


def _judge_diet(diet: Callable[..., Any]) -> Verdict:
    chosen = dict(diet())
    known: dict[str, Any] = {"optimizer": "Adam", "parts": 1, "precision": "fp32", "checkpointing": False}
    if strange := sorted(chosen.keys() - known.keys()):
        return wrong(f"{strange[0]!r} is no setting: there are {', '.join(known)}", hint=1)
    given = known | chosen
    cost, rows = diet_cost(**given)
    said = f"{cost.peak / 1e6:.0f} MB at the peak"
    if cost.peak <= 13e6 and rows == 16:
        return right(f"{said}, and the step is still one of 16 rows with Adam's kind of state.")
    most = max(cost.at_peak, key=lambda name: cost.at_peak[name])
    if most in ("parameters", "optimizer state", "gradients"):
        return wrong(f"{said}, the limit is 13; most of it are {most}", hint=2)
    if len({name for name in known if given[name] != known[name]}) < 2:
        return wrong(f"{said}, the limit is 13: one cure is not enough; most of it are {most}", hint=1)
    return wrong(f"{said}, the limit is 13; most of it are {most}", hint=3)


DIET_OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "Adam": torch.optim.Adam,
    "Adam, fused": lambda weights: torch.optim.Adam(weights, fused=True),
    "Adafactor": torch.optim.Adafactor,
}


def diet_cost(*, optimizer: str, parts: int, precision: str, checkpointing: bool) -> tuple[StepCost, int]:
    """A real step of the model of exercise 13.4 with these settings, measured, and the rows it trained on."""
    seed_everything(0)
    model = Transformer(128, width=128, layers=4, length=64)
    if checkpointing:
        checkpoint_activations(model)
    own = DIET_OPTIMIZERS[optimizer](model.parameters())
    x = torch.randint(0, 128, (16, 64))
    rows = 0

    def step() -> None:
        nonlocal rows
        rows = 0
        own.zero_grad()
        for tokens in x.chunk(parts):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                loss = F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
            (loss * len(tokens) / 16).backward()
            rows += len(tokens)
        own.step()

    return measure_step(step, model, own, batch=x, repeats=0), rows


EXERCISES = (
    Exercise(
        "13.1",
        "Before the first row",
        difficulty=1,
        minutes=4,
        judge=_judge_bytes,
        expects="a function",
        hints=(
            "A value of float32 takes four bytes.",
            "Three things have the size of the weights: the weights themselves, and what else after "
            "backward()?",
            "4 * weights * (2 + k): weights and gradients, and k copies of state: 0 for SGD, 1 for momentum, "
            "2 for Adam.",
        ),
        solution="""
def training_bytes(weights, optimizer):
    state = {"SGD": 0, "momentum": 1, "Adam": 2}[optimizer]
    return 4 * weights * (2 + state)
""",
    ),
    Exercise(
        "13.2",
        "Accumulate, the tail included",
        difficulty=2,
        minutes=12,
        judge=_judge_epoch,
        expects="a function",
        in_place=True,
        hints=(
            "Zero once at the start of a group, add up gradients by backward() for each micro-batch, "
            "step once at its end. The mean over a group is the sum of the rows' losses over the "
            "rows of the *group*.",
            "How many micro-batches does the last group have? Its gradient must be divided by that, "
            "and it must be stepped.",
            "Cut the list into groups first: for at in range(0, len(batches), accumulate). Count the "
            "group's rows, and call backward() on cross_entropy(..., reduction='sum') / rows.",
        ),
        solution="""
def epoch(model, optimizer, batches, accumulate):
    for at in range(0, len(batches), accumulate):
        group = batches[at : at + accumulate]
        rows = sum(len(y) for _, y in group)
        optimizer.zero_grad()
        for x, y in group:
            (F.cross_entropy(model(x), y, reduction="sum") / rows).backward()
        optimizer.step()
""",
    ),
    Exercise(
        "13.3",
        "Scale, clip, step",
        difficulty=2,
        minutes=8,
        judge=_judge_scaled,
        expects="a function",
        in_place=True,
        hints=(
            "Whoever scales the loss must take the scale out of the gradients again: "
            "scaler.step(optimizer) does, optimizer.step() does not.",
            "The limit is meant for the true gradients: scaler.unscale_(optimizer) comes before "
            "clip_grad_norm_, not after.",
            "scaler.scale(loss).backward(), scaler.unscale_(optimizer), clip, "
            "scaler.step(optimizer), which skips an overflow, and scaler.update(), which lowers the "
            "scale after one.",
        ),
        solution="""
def step(model, optimizer, scaler, loss, limit):
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(model.parameters(), limit)
    scaler.step(optimizer)
    scaler.update()
""",
    ),
    Exercise(
        "13.4",
        "A diet",
        difficulty=3,
        minutes=12,
        judge=_judge_diet,
        expects="a function",
        hints=(
            "Measure first: chapter13.diet_cost(...) gives the step's cost. Which part is the "
            "largest at the peak, and which setting cures that part? When it has shrunk, look again.",
            "Now weights, gradients and state are the most, and no smaller batch will make them less: which "
            "optimizer keeps a smaller state, or needs fewer temporaries?",
            "Adam alone needs four times the weights, which is too much already: take Adafactor. "
            "Then cut the activations: parts=8, or parts=4 with checkpointing.",
        ),
        solution="""
def diet():
    return {"parts": 8, "optimizer": "Adafactor"}
""",
    ),
)
