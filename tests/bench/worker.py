"""A process that runs contestants on demand: a JSON request on each line of stdin, a JSON answer to each.

Answers go to the stdout that the process was started with; whatever a package prints goes to stderr.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import loops
import packages
import task as tasks
import torch


def measure(request: dict[str, Any]) -> dict[str, float]:
    """Build the contestant, then time one run of it, and check that it trained and validated.

    wall, cpu: seconds of the run, building left out.  accuracy: of the final model on the validation rows.
    memory: the most that the process had in memory during the run, in bytes.
    """
    name = request["contestant"]
    build = getattr(loops, name, None) or getattr(packages, name)
    task = tasks.make_task(
        request["model"], fused=request["fused"], epochs=request["epochs"], seed=request["seed"]
    )
    run = build(task)
    gc.collect()
    _forget_peak()
    wall, cpu = time.perf_counter(), time.process_time()
    accuracies = run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    accuracy = task.accuracy()
    _check(name, task, accuracies, accuracy)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"wall": wall, "cpu": cpu, "accuracy": accuracy, "memory": memory}


def _forget_peak() -> None:
    """Let the peak of the memory begin here, where the system can (reading the data may have been more)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _check(name: str, task: tasks.Task, accuracies: list[float], accuracy: float) -> None:
    wanted = task.epochs * task.batches
    if task.steps_done() != wanted:
        raise RuntimeError(f"{name} made {task.steps_done()} steps of {wanted}")
    if len(accuracies) != task.epochs or abs(accuracies[-1] - accuracy) > 1e-4:
        raise RuntimeError(f"{name} validated {accuracies}: {task.epochs} wanted, the last {accuracy}")


def main() -> None:
    """Answer until stdin ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        print(json.dumps(measure(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
