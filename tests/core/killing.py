"""A process that trains, saves, and can be killed: `python tests/core/killing.py` waits for orders.

Each line of stdin is one run as JSON; it is carried out by a fork of this process, which has trained
nothing itself, so that torch is imported only once. An answer follows on stdout: "tick N" where the run
has come so far that its killer may strike, and at the end "exit STATUS".
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from core.runs import OPTIMIZERS, SCHEDULES, everything, network, rows_of_run, table
from torch import Tensor

import trainlab as tl
from trainlab.checkpoint import files


def noisy(features: Tensor) -> Tensor:
    """Noise from all three generators, as an augmenting transform draws it."""
    return features + 0.1 * (torch.rand(6) + random.random() + float(np.random.rand()))


class Drawing:
    """An observer that draws from all three global generators, so that their state shows in the history."""

    def __init__(self) -> None:
        self.drawn: list[float] = []

    def __call__(self, event: tl.Event) -> None:
        self.drawn.append(torch.rand(()).item() + random.random() + float(np.random.rand()))

    def state_dict(self) -> dict[str, Any]:
        return {"drawn": list(self.drawn)}

    def load_state_dict(self, state: Any) -> None:
        self.drawn = list(state["drawn"])


def build(order: dict[str, Any]) -> tuple[tl.TrainState, dict[str, Any], Drawing]:
    """State and arguments of `fit`: augmentation, dropout, accumulation, schedule, clipping, BatchNorm."""
    model = network()
    base = OPTIMIZERS[order.get("optimizer", "adamw")](model.parameters())
    optimizer = tl.optimizers.Lookahead(base, steps=3) if order.get("lookahead") else base
    schedule = order.get("schedule", "one_cycle")
    state = tl.TrainState(model, optimizer, SCHEDULES[schedule](optimizer))
    tl.seed_everything(11)
    drawing = Drawing()
    saved = Path(order["directory"])
    observers = [
        tl.EarlyStopping(patience=50),
        tl.BestModel(state),
        drawing,
        tl.Checkpointer(state, saved, every_steps=2, keep=2),
    ]
    given: dict[str, Any] = {
        "loader": tl.make_loader(
            table(88), 8, seed=3, shuffle=True, workers=order["workers"], augment=noisy
        ),
        "loss_fn": tl.losses.classification(),
        "config": tl.TrainConfig(
            epochs=3, accumulate=2, clip_norm=0.5, validate_every=5, device="cpu",
            precision=order.get("precision", "fp32"),
        ),
        "valid": tl.make_loader(table(30, seed=8), 16, seed=0, shuffle=False),
        "observers": observers,
    }  # fmt: skip
    return state, given, drawing


def carry_out(order: dict[str, Any], tick: Callable[[], None]) -> None:
    """Train to the end from wherever the last run got to, and store what came out under `result`."""
    state, given, drawing = build(order)
    if (last := tl.latest_checkpoint(order["directory"])) is not None:
        tl.load_checkpoint(last, state)
    inner = given["loss_fn"]

    def loss_fn(model: Any, batch: Any) -> Any:
        tick()
        return inner(model, batch)

    given["loss_fn"] = loss_fn
    given["observers"].insert(0, lambda event: tick())
    for owner, name in (
        (os, "fsync"), (Path, "rename"), (Path, "mkdir"), (Path, "write_text"), (shutil, "rmtree"),
        (files, "save_file"), (state.optimizer, "step"),
    ):  # fmt: skip
        _ticking(owner, name, tick)
    if finished := state.epoch == given["config"].epochs:  # killed after its end was saved
        state.attach(given["observers"])
    else:
        tl.fit(state, **given)
    _, _, best, _, keeper = given["observers"]
    hidden = [place.name for place in Path(order["directory"]).iterdir() if place.name.startswith(".")]
    left = [] if finished else hidden  # what is left is removed by the next save
    torch.save(
        {"state": everything(state, rng=True), "rows": rows_of_run(state), "drawn": drawing.drawn,
         "best": (best.best, keeper.best.name), "left": left, "from": None if last is None else last.name},
        order["result"],
    )  # fmt: skip


def _ticking(owner: Any, name: str, tick: Callable[[], None]) -> None:
    """Have `owner.name` tick before and after its work."""
    plain = getattr(owner, name)

    def ticking(*given: Any, **options: Any) -> Any:
        tick()
        try:
            return plain(*given, **options)
        finally:
            tick()

    for attribute in ("__self__", "__func__", "_wrapped_by_lr_sched"):  # a schedule looks at them
        if hasattr(plain, attribute):
            setattr(ticking, attribute, getattr(plain, attribute))
    setattr(owner, name, ticking)


def _fork(order: dict[str, Any], answers: Any) -> int:
    """Carry the order out in a fork; its exit status, or minus the signal that ended it."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status)
    try:
        ticks, at = 0, order.get("at")

        def tick() -> None:
            nonlocal ticks
            ticks += 1
            if ticks != at:
                return
            if order["by"] == "itself":
                os.kill(os.getpid(), signal.SIGKILL)
            # whoever reads this kills; meanwhile the run goes on, so that it is struck anywhere
            print(f"tick {os.getpid()}", file=answers, flush=True)

        carry_out(order, tick)
        print(f"ticks {ticks}", file=answers, flush=True)
        os._exit(0)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)


def main() -> None:
    """Carry out orders until stdin ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    torch.set_num_threads(1)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        print(f"exit {_fork(json.loads(line), answers)}", file=answers, flush=True)


if __name__ == "__main__":
    main()
