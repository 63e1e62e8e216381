"""How long `save_checkpoint` takes, against a `torch.save` of the same state with fsync and a digest.

Round after round in one process, in turn, in a folder of this disk; the median of the rounds' ratios is
printed. Nothing here fails for being slow: a target that is missed is printed as missed.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from torch import nn

import trainlab as tl

TARGET = 1.5
WIDTHS = {"0.1 MB": 64, "10 MB": 900, "100 MB": 2900}  # of weights and Adam's two means together


def state_of(width: int) -> tl.TrainState:
    """A run of three layers after one step, so that Adam has its means."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.Linear(width, 10))
    state = tl.TrainState(model, torch.optim.Adam(model.parameters()))
    rows = torch.randn(8, 64), torch.randint(0, 10, (8,))
    loader = tl.make_loader(rows, 8, seed=0, shuffle=False)
    tl.fit(state, loader, tl.losses.classification(), tl.TrainConfig(steps=1, device="cpu"))
    return state


def by_torch(path: Path, state: tl.TrainState) -> None:
    """The rival: one file, hashed, on the disk when it returns."""
    torch.save(state.state_dict(), path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    path.with_suffix(".sha256").write_text(digest)


def seconds(
    save: Callable[[Path, tl.TrainState], object], state: tl.TrainState, folder: Path
) -> tuple[float, float]:
    """Wall-clock and CPU seconds of one save to a new place, which is then removed."""
    place = folder / "saved"
    gc.collect()
    wall, cpu = perf_counter(), process_time()
    save(place, state)
    wall, cpu = perf_counter() - wall, process_time() - cpu
    shutil.rmtree(place, ignore_errors=True)
    place.unlink(missing_ok=True)
    return wall, cpu


def main() -> None:
    """Measure each size, print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="measured rounds, 3 at least")
    parser.add_argument("--folder", type=Path, help="where to save: by default the system's temporary folder")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        for size, width in WIDTHS.items():
            state = state_of(width)
            rounds = [
                (seconds(by_torch, state, folder), seconds(tl.save_checkpoint, state, folder))
                for _ in range(max(3, options.rounds) + 1)
            ][1:]  # the first warms up
            wall, cpu = (median(ours[k] / theirs[k] for theirs, ours in rounds) for k in (0, 1))
            ours, theirs = (1000 * median(each[k][0] for each in rounds) for k in (1, 0))
            verdict = "met   " if wall <= TARGET else "MISSED"
            print(
                f"{verdict}  {wall:5.2f}, by CPU time {cpu:5.2f}, wanted {TARGET} at most:  saving {size}, "
                f"{ours:.0f} ms against {theirs:.0f} ms of torch.save with fsync and a digest",
                flush=True,
            )


if __name__ == "__main__":
    sys.exit(main())
