"""`make bench`: how fast `fit` trains, against loops written by hand and other packages, as ratios.

All contestants run in one sitting, one after the other, round after round, in processes that stay alive.
Nothing here fails for being slow: a target that is missed is printed as missed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from environment import FOLDER, bench_python, surroundings

# how far a contestant's accuracy may lie from the hand-written loop's: their batches differ
BAND = {"mlp": 0.02, "cnn": 0.08}
CNN_EPOCHS = 4


@dataclass(frozen=True, slots=True)
class Contestant:
    """A line of the table.  name: of its function.  process: contestants of one package share one."""

    label: str
    name: str
    fused: bool
    process: str = "torch"
    model: str = "mlp"


def _both(label: str, name: str, process: str) -> list[Contestant]:
    return [
        Contestant(f"{label}, {'fused' if fused else 'plain'} Adam", name, fused, process)
        for fused in (True, False)
    ]


REFERENCE = Contestant("hand-written DataLoader loop, plain Adam", "dataloader_loop", False)
TRAINLAB_FUSED, TRAINLAB_PLAIN = _both("trainlab fit", "trainlab_fit", "trainlab")
CAREFUL_FUSED, CAREFUL_PLAIN = _both("best loop, same work as trainlab", "careful_loop", "torch")
TRAINERS = [
    *_both("Lightning Trainer", "lightning_trainer", "lightning"),
    *_both("transformers Trainer", "transformers_trainer", "transformers"),
]
PACKAGES = [
    *TRAINERS,
    *_both("fastai Learner", "fastai_learner", "fastai"),
    *_both("accelerate", "accelerate_loop", "accelerate"),
    *_both("pytorch-ignite", "ignite_engine", "ignite"),
]
MLP = [
    REFERENCE,
    Contestant("hand-written DataLoader loop, fused Adam", "dataloader_loop", True),
    Contestant("best loop over tensors, fused Adam", "tensor_loop", True),
    CAREFUL_FUSED,
    CAREFUL_PLAIN,
    TRAINLAB_FUSED,
    TRAINLAB_PLAIN,
    *PACKAGES,
]
CNN_REFERENCE = Contestant("hand-written DataLoader loop, plain Adam", "dataloader_loop", False, model="cnn")
CNN_CAREFUL = Contestant("best loop, same work, fused Adam", "careful_loop", True, model="cnn")
CNN_FUSED = Contestant("trainlab fit, fused Adam", "trainlab_fit", True, "trainlab", "cnn")
CNN_PLAIN = Contestant("trainlab fit, plain Adam", "trainlab_fit", False, "trainlab", "cnn")
CNN = [CNN_REFERENCE, CNN_CAREFUL, CNN_FUSED, CNN_PLAIN]

Answer = dict[str, float]
Answers = dict[Contestant, list[Answer]]


class Worker:
    """A process that runs contestants when told to."""

    def __init__(self, python: Path, name: str) -> None:
        self._log = FOLDER / f"{name}.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [python, Path(__file__).with_name("worker.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=surroundings(),
            )

    def run(self, contestant: Contestant, *, epochs: int, seed: int) -> Answer:
        """One run of the contestant; a worker that dies ends the benchmark with the end of its log."""
        request: dict[str, Any] = {"contestant": contestant.name, "model": contestant.model}
        request |= {"fused": contestant.fused, "epochs": epochs, "seed": seed}
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            tail = self._log.read_text()[-2000:]
            raise SystemExit(f"bench: {contestant.label} failed\n{tail}")
        return json.loads(answer)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


@contextmanager
def workers(python: Path, names: set[str]) -> Iterator[dict[str, Worker]]:
    """One worker for each name."""
    with ExitStack() as stack:
        made = {}
        for name in sorted(names):
            made[name] = Worker(python, name)
            stack.callback(made[name].close)
        yield made


def interleaved(python: Path, contestants: list[Contestant], *, rounds: int, epochs: int) -> Answers:
    """Each contestant once a round, in another order each round, after a round to warm up."""
    answers: Answers = {contestant: [] for contestant in contestants}
    shuffled = list(contestants)
    with workers(python, {contestant.process for contestant in contestants}) as processes:
        for seed in range(rounds + 1):
            print(f"bench: {contestants[0].model}, round {seed} of {rounds}", flush=True)
            random.Random(seed).shuffle(shuffled)
            for contestant in shuffled:
                answer = processes[contestant.process].run(contestant, epochs=epochs, seed=seed)
                if seed:
                    answers[contestant].append(answer)
    return answers


def speed(answers: Answers, of: Contestant, against: Contestant, clock: str = "wall") -> list[float]:
    """How many times as fast `of` was as `against`, round by round, in ascending order."""
    pairs = zip(answers[of], answers[against])
    return sorted(slow[clock] / fast[clock] for fast, slow in pairs)


def median_speed(answers: Answers, of: Contestant, against: Contestant, clock: str = "wall") -> float:
    """The middle one of the rounds."""
    return median(speed(answers, of, against, clock))


def print_table(title: str, answers: Answers) -> None:
    """Speeds relative to the first contestant."""
    reference, *_ = answers
    print(f"\n{title}\n")
    print(f"{'':46}  speed   (from  to)    by CPU time  seconds  accuracy")
    expected = median(answer["accuracy"] for answer in answers[reference])
    for contestant, rounds in answers.items():
        wall = speed(answers, contestant, reference)
        cpu = median_speed(answers, contestant, reference, "cpu")
        seconds, accuracy = (median(answer[name] for answer in rounds) for name in ("wall", "accuracy"))
        strays = abs(accuracy - expected) > BAND[contestant.model]
        print(
            f"{contestant.label:46}  {median(wall):5.2f}  ({wall[0]:5.2f} {wall[-1]:5.2f})  {cpu:11.2f}  "
            f"{seconds:7.2f}  {accuracy:8.3f}{'  <- strays: is that the same training?' if strays else ''}"
        )


def print_target(
    answers: Answers, ours: Contestant, rival: Contestant, target: float, name: str | None = None
) -> None:
    """One line that says whether a target is reached."""
    wall, cpu = (median_speed(answers, ours, rival, clock) for clock in ("wall", "cpu"))
    verdict = "met   " if wall >= target else "MISSED"
    who = rival.label if name is None else f"{name} ({rival.label})"
    print(f"{verdict}  {wall:5.2f}, by CPU time {cpu:5.2f}, wanted {target:.2f}:  {ours.label} against {who}")


def print_targets(mlp: Answers, cnn: Answers) -> None:
    """All targets of speed."""
    print_target(mlp, TRAINLAB_FUSED, REFERENCE, 1.7)
    print_target(mlp, TRAINLAB_FUSED, CAREFUL_FUSED, 0.95)
    print_target(mlp, TRAINLAB_PLAIN, CAREFUL_PLAIN, 0.95)
    for name, rivals, target in (
        ("the fastest package", PACKAGES, 1.45),
        ("the faster Trainer", TRAINERS, 2.2),
    ):
        # like with like, and as people meet them: packages with the optimizer of their own examples
        for ours, fused in ((TRAINLAB_FUSED, False), (TRAINLAB_FUSED, True), (TRAINLAB_PLAIN, False)):
            same = [rival for rival in rivals if rival.fused == fused]
            best = max(same, key=lambda rival: median_speed(mlp, rival, REFERENCE))
            print_target(mlp, ours, best, target, name)
    print_target(cnn, CNN_FUSED, CNN_REFERENCE, 1.1, "the CNN's loop")


def peak_memory(python: Path, contestant: Contestant, *, epochs: int) -> float:
    """The most memory of a fresh process that runs the contestant once, median of three, in MB."""
    peaks = []
    for seed in range(3):
        with workers(python, {"memory"}) as processes:
            peaks.append(processes["memory"].run(contestant, epochs=epochs, seed=seed)["memory"])
    return median(peaks) / 1e6


def print_memory(python: Path, *, epochs: int) -> None:
    """trainlab's peak against the hand-written loop's, both with plain Adam and the same modules loaded."""
    hand, ours = (peak_memory(python, who, epochs=epochs) for who in (REFERENCE, TRAINLAB_PLAIN))
    verdict = "met   " if ours <= 1.05 * hand else "MISSED"
    print(
        f"{verdict}  {ours / hand:5.3f}, wanted 1.05 at most:  peak memory of trainlab, {ours:.0f} MB, "
        f"against the DataLoader loop, {hand:.0f} MB"
    )


def main() -> None:
    """Set up, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="measured rounds, 5 at least")
    parser.add_argument("--epochs", type=int, default=12, help="epochs of a run of the MLP")
    options = parser.parse_args()
    rounds, epochs = max(5, options.rounds), options.epochs
    python = bench_python()
    load = os.getloadavg()[0]
    print(f"bench: load {load:.1f} on {os.cpu_count()} cores; busy cores make all of this noisy", flush=True)
    mlp = interleaved(python, MLP, rounds=rounds, epochs=epochs)
    cnn = interleaved(python, CNN, rounds=rounds, epochs=CNN_EPOCHS)
    size = "4,000 digits, batches of 64, 1 thread, loss and accuracy of 1,000 digits after each epoch"
    print_table(f"MLP 784-128-10, {epochs} epochs, {size}: medians of {rounds} rounds", mlp)
    print_table(f"CNN of two stages, {CNN_EPOCHS} epochs, likewise: medians of {rounds} rounds", cnn)
    print()
    print_targets(mlp, cnn)
    print_memory(python, epochs=epochs)
    print(f"\nload at the end {os.getloadavg()[0]:.1f}; from, to: the slowest and the fastest round")


if __name__ == "__main__":
    main()
