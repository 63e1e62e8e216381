"""The panel of chapter 10: a run that is killed and goes on with the pieces that were kept."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from typing import Any

import ipywidgets
import torch
from torch import Tensor

from ...checkpoint import files
from ...checkpoint.saving import Checkpointer, latest_checkpoint
from ...data.catalogue import load
from ...data.loaders import make_loader
from ...data.splits import Splits, split
from ...errors import TrainlabError, unknown_name
from ...events import Event, Restarted, Step
from ...loop.config import TrainConfig
from ...losses import classification
from ...models import MLP
from ...randomness import preserve_rng, seed_everything
from ...schedules import warmup_cosine
from ...state import TrainState
from ..charts import Axis, Chart, Curve, CurveChart, Mark
from ..drainer import own_state
from ..live import LiveRun
from ..panel import RunPanel, beside, button, curve, row, show_settings

PIECES = {
    "weights": "model",
    "optimizer": "optimizer",
    "schedule": "scheduler",
    "generators": "rng",
    "place in the epoch": "position",
}
_STEPS, _EVERY = 160, 20
_PACE = 0.05  # seconds a step: a hand must be quick enough to kill in time


class _Track:
    """An observer that keeps the weights after each step, as one vector."""

    def __init__(self, state: TrainState) -> None:
        self._state = state
        self.at: dict[int, Tensor] = {}

    def __call__(self, event: Event) -> None:
        if isinstance(event, Step):
            parts = [parameter.detach().flatten() for parameter in self._state.model.parameters()]
            self.at[event.step] = torch.cat(parts)
        elif isinstance(event, Restarted):
            self.at = {step: kept for step, kept in self.at.items() if step <= event.step}


class KillAndResume(RunPanel):
    """Two equal runs; one is killed, and goes on from its last checkpoint with the pieces that you keep.

    panel = tl.panels.KillAndResume()
    panel                                                       # live
    panel.run(kill_at=90, without=["optimizer"])                # the same without a person

    A small MLP learns the 8x8 digits in 160 steps; every 20 steps the run is saved to a real folder. To be
    killed means here: model, optimizer, schedule and loader are thrown away and built anew, as a new
    process would build them. What is not kept is as new.
    """

    title = "Kill and resume"
    forks = False

    def __init__(self) -> None:
        super().__init__()
        self.seed, self.kills, self.pace = 0, 0, _PACE
        self._tracks: list[_Track] = []
        self._killed: list[Mark] = []
        self._said = ""
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.boxes = {name: ipywidgets.Checkbox(True, description=f"keep: {name}") for name in PIECES}
        for box in self.boxes.values():
            box.style.description_width, box.layout.width = "initial", "max-content"
            box.muted = False
        self.kill_button = button("Kill", "bolt", "Kill the second run, and resume it", self._press, "danger")
        self.losses = CurveChart(
            "optimizer step",
            Axis("loss (nats)", low=0.0),
            title="Validation loss",
            alt="validation loss of the run that is never killed, and of the one that is",
            tools=False,
        )
        self.apart = CurveChart(
            "optimizer step",
            Axis("difference", low=0.0),
            title="How far apart the weights are",
            alt="the largest difference of a weight between the two runs, at the same step",
            tools=False,
        )
        self.draw()

    def run(
        self, *, kill_at: int = 90, without: Sequence[str] = (), seed: int = 0
    ) -> dict[str, float | int | bool]:
        """Train both without a person, kill the second after step `kill_at`, resume it without some pieces.

        Raises TrainlabError if a piece is unknown or `kill_at` leaves nothing to go on from or to do.
        """
        for name in without:
            if name not in PIECES:
                raise unknown_name("piece", name, PIECES)
        if not _EVERY <= kill_at < _STEPS:
            raise TrainlabError(f"kill_at={kill_at} is outside [{_EVERY}, {_STEPS}): choose 90, say")
        self.seed, self.earlier = seed, []
        show_settings(*((box, name not in without) for name, box in self.boxes.items()))
        with preserve_rng():
            self.runs = self.make()
        whole, second = self.runs
        whole.drain()
        with own_state(second):
            while second.state.step < kill_at:
                second._next()
        self._kill()
        self.runs[1].drain()
        self.draw()
        return self.outcome()

    def outcome(self) -> dict[str, float | int | bool]:
        """How the two compare, as plain values."""
        steps, apart = self._distances()
        losses = [float(run.values(3).get("valid_loss", 0.0)) for run in self.runs]
        return {
            "same": not any(apart),
            "first_difference": next((step for step, far in zip(steps, apart) if far), 0),
            "apart": float(f"{apart[-1] if apart else 0.0:.2g}"),
            "loss_never_killed": losses[0],
            "loss_killed": losses[1],
        }

    # --- runs

    def make(self) -> list[LiveRun]:
        self._folder = tempfile.TemporaryDirectory()  # the former one goes with its object
        self._killed, self._said, self._tracks = [], "", []
        first = self._run(_state(self.seed), "never killed")
        return [first, self._run(_state(self.seed), "killed")]

    def _run(self, state: TrainState, name: str) -> LiveRun:
        track = _Track(state)
        observers: list[Any] = [track]
        if name == "killed":
            assert self._folder is not None
            observers.append(Checkpointer(state, self._folder.name, every_steps=_EVERY, keep=2, best=None))
        self._tracks = [*self._tracks[:1], track]
        run = LiveRun(
            state,
            make_loader(_digits().train, 32, seed=self.seed, shuffle=True),
            classification(),
            TrainConfig(steps=_STEPS, validate_every=10),
            valid=make_loader(_digits().valid, 400, seed=0, shuffle=False),
            name=name,
            observers=observers,
        )
        run.pace = self.pace
        return run

    def _press(self) -> None:
        self.do(self._kill)

    def _kill(self) -> None:
        """Throw the second run away, and build it anew from its last checkpoint and the pieces kept."""
        place = latest_checkpoint(self._folder.name) if self._folder is not None else None
        if place is None or not self.runs:
            raise TrainlabError(f"nothing is saved before step {_EVERY}: start, and kill it later")
        dead, at, going = self.runs[1], self.runs[1].state.step, self.runs[1].status == "running"
        dead.on_frame.clear()
        dead._stop()
        self.kills += 1
        with preserve_rng():
            state = _state(self.seed)
            fresh = state.state_dict()
        without = [name for name, box in self.boxes.items() if not box.value]
        content = files.read(place)
        for piece in (PIECES[name] for name in without):
            content[piece] = fresh[piece] if piece != "position" else {**content[piece], "samples": 0}
        before = self._tracks[1].at
        run = self._run(state, "killed")
        with own_state(run):
            seed_everything(1000 + self.kills)  # a new process begins somewhere else
            state.load_state_dict(content)
            run._begin()
        run.series = dead.series
        for series in run.series.values():
            series.cut(state.step)
        self._tracks[1].at = {step: kept for step, kept in before.items() if step <= state.step}
        self.runs = self.runs[:1]
        self._take([run])
        run.status = "paused"
        self._killed.append(Mark(state.step, "resumed"))
        self._said = f"Killed after step {at}, went on from step {state.step} "
        self._said += f"without: {', '.join(without)}." if without else "with everything."
        if going:
            run.start()
        self._show()

    # --- pictures

    def _distances(self) -> tuple[list[int], list[float]]:
        if len(self._tracks) < 2:
            return [], []
        first, second = (track.at for track in self._tracks)
        steps = sorted(first.keys() & second.keys())
        return steps, [float((first[step] - second[step]).abs().max()) for step in steps]

    def curves(self, run: LiveRun, place: int) -> list[Curve]:
        return [curve(run, "valid_loss", run.name, place, "dashed" if place else "line")]

    def draw(self) -> None:
        lines = [each for place, run in enumerate(self.runs) for each in self.curves(run, place)]
        self.losses.show([*(each for old in self.earlier for each in old), *lines], self._killed)
        steps, apart = self._distances()
        self.apart.show([Curve("largest difference", steps, apart, color=1)], self._killed)

    def sentence(self) -> str:
        _, apart = self._distances()
        if not self._said:
            return super().sentence()
        how = f"{apart[-1]:.2g} apart" if apart and apart[-1] else "the same to the last bit"
        return f"{self._said} At the last common step the weights are {how}. {super().sentence()}"

    def charts(self) -> list[Chart]:
        return [self.losses, self.apart]

    def buttons(self) -> list[Any]:
        shown = [self.start_button, self.step_button, self.kill_button, self.stop_button, self.reset_button]
        return [row(*shown)]

    def layout(self) -> list[Any]:
        return [row(*self.boxes.values()), *self.buttons(), beside(self.losses, self.apart)]


@functools.cache
def _digits() -> Splits:
    return split(load("digits"), seed=0, stratify=True)


def _state(seed: int) -> TrainState:
    """Everything anew, as a process begins."""
    seed_everything(seed)
    model = MLP(64, [64], 10, dropout=0.5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    return TrainState(model, optimizer, warmup_cosine(optimizer, steps=_STEPS, warmup=_STEPS // 10))
