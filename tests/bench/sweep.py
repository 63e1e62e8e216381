"""How fast `sweep` trains 16 models, against `fit` on one after the other: a table of ratios.

Both are run round after round in one process, each with one thread or, for the sweep, one for each
core; the median of the rounds is printed. Nothing here fails for being slow.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter, process_time

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from task import BATCH_SIZE, make_task
from torch import nn

import trainlab as tl
from trainlab.sweeps import OPTIMIZERS

RATES = [10 ** (-4 + 0.2 * place) for place in range(16)]
PLAIN: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "momentum": lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9),
    "adam": lambda p, lr: torch.optim.Adam(p, lr),
}


@dataclass(frozen=True, slots=True)
class Case:
    """A line of the table.  fused: whether the runs one by one have the sweep's own, faster, optimizer."""

    model: str
    optimizer: str
    fused: bool
    epochs: int
    target: float | None = None

    def build(self) -> nn.Module:
        return tl.models.MLP(784, [128], 10) if self.model == "mlp" else tl.models.CNN(1, 10)

    def factory(self) -> Callable[..., torch.optim.Optimizer]:
        return OPTIMIZERS[self.optimizer] if self.fused else PLAIN[self.optimizer]


CASES = [
    Case("mlp", "momentum", False, 5, 4.0),
    Case("mlp", "momentum", True, 5),
    Case("mlp", "adam", False, 5),
    Case("mlp", "adam", True, 5),
    Case("cnn", "momentum", False, 2, 1.6),
    Case("cnn", "adam", False, 2),
]


def loader() -> tl.data.loaders.Loader:
    """The digits that the other benchmarks train on."""
    return tl.make_loader(
        make_task("mlp", fused=False, epochs=1, seed=0).train, BATCH_SIZE, seed=0, shuffle=True
    )


def one_by_one(case: Case, batches: tl.data.loaders.Loader) -> None:
    """What one writes without `sweep`."""
    for rate in RATES:
        tl.seed_everything(0)
        model = case.build()
        state = tl.TrainState(model, case.factory()(model.parameters(), rate))
        tl.fit(state, batches, tl.losses.classification(), tl.TrainConfig(epochs=case.epochs))


def swept(case: Case, batches: tl.data.loaders.Loader, way: str = "auto") -> str:
    """The same by `sweep`; the way that it took."""
    loss_fn = tl.losses.classification()
    return tl.sweep(
        case.build, batches, loss_fn, RATES, optimizer=case.optimizer, epochs=case.epochs, way=way
    ).way


def timed(function: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the wall and of this process's CPU."""
    wall, cpu = perf_counter(), process_time()
    function()
    return perf_counter() - wall, process_time() - cpu


def start_up(batches: tl.data.loaders.Loader) -> tuple[float, float]:
    """Seconds of the smallest sweep by processes: the first in this process, and the second."""
    case = Case("cnn", "sgd", True, 1)

    def smallest() -> None:
        loss_fn = tl.losses.classification()
        tl.sweep(case.build, batches, loss_fn, RATES[:2], steps=1, way="processes")

    return timed(smallest)[0], timed(smallest)[0]


def line(case: Case, batches: tl.data.loaders.Loader, rounds: int) -> str:
    """One line of the table."""
    way = swept(case, batches)
    alone, together = [], []
    for _ in range(rounds):
        alone.append(timed(lambda: one_by_one(case, batches)))
        together.append(timed(lambda: swept(case, batches)))
    ratio = median(a[0] / t[0] for a, t in zip(alone, together))
    # processes do their work elsewhere: this process's clock does not see it
    by_cpu = "" if way == "processes" else f"{median(a[1] / t[1] for a, t in zip(alone, together)):8.2f}"
    wanted = "" if case.target is None else f"  {'met' if ratio >= case.target else 'MISSED'}: {case.target}"
    name = f"{case.model}, {'fused' if case.fused else 'plain'} {case.optimizer} alone"
    walls = [median(run[0] for run in runs) for runs in (alone, together)]
    return f"{name:28} {way:11} {walls[0]:8.2f} {walls[1]:8.2f} {ratio:8.2f} {by_cpu:8}{wanted}"


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="the cases whose model is this: mlp or cnn")
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["TRAINLAB_UNATTENDED"] = "1"
    batches = loader()
    print(f"16 rates; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores: busy cores make this noisy")
    if options.only != "mlp":
        cold, warm = start_up(batches)
        print(f"starting worker processes: {cold:.1f} s the first time, {warm:.2f} s from then on")
    print(f"{'':28} {'way':11} {'alone s':>8} {'sweep s':>8} {'ratio':>8} {'by CPU':>8}")
    for case in CASES:
        if options.only in ("", case.model):
            print(line(case, batches, options.rounds), flush=True)
    print(f"load at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
