"""Live runs in a real Jupyter kernel: cells and runs do not disturb each other, interrupts pause."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager, start_new_kernel

SETUP = """
import sys, threading, time, torch
sys.path.insert(0, TESTS)
torch.set_num_threads(1)
import trainlab as tl
from test_live import CONFIG, alone, live, mean_ce, parts, valid
def digest(run): return [p.double().sum().item() for p in run.state.model.parameters()]
def same(run, seed):
    state, history = alone(seed)
    own = run.state.model.state_dict()
    weights = all(torch.equal(own[name], value) for name, value in state.model.state_dict().items())
    return weights and run.history.column("loss") == history.column("loss")
"""


@contextlib.contextmanager
def running_kernel(folder: Path) -> Iterator[tuple[KernelManager, BlockingKernelClient]]:
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(folder))
    try:
        run(client, f"TESTS = {str(Path(__file__).parent)!r}")
        run(client, SETUP)
        yield manager, client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def run(client: BlockingKernelClient, code: str) -> str:
    """What the cell prints; an error in it is one here."""
    printed: list[str] = []

    def hook(message: Any) -> None:
        if message["msg_type"] == "stream":
            printed.append(message["content"]["text"])

    reply = client.execute_interactive(code, output_hook=hook, timeout=60, allow_stdin=False)
    content = reply["content"]
    assert content["status"] == "ok", f"{content.get('ename')}: {content.get('evalue')}"
    return "".join(printed).strip()


@pytest.mark.slow
def test_cells_and_live_runs_do_not_disturb_each_other(tmp_path: Path) -> None:
    with running_kernel(tmp_path) as (_, client):
        run(client, "run = live(0); run.pace = 0.005; run.start(wait=False); torch.manual_seed(7)")
        drawn = []
        for _ in range(4):
            time.sleep(0.08)  # it trains between the cells ...
            steps, numbers = run(
                client,
                "before = run.state.step; time.sleep(0.05); x = torch.rand(3).tolist()\n"
                "print(run.state.step - before, '|', x)",
            ).split("|")
            assert int(steps) == 0  # ... and stands still in them
            drawn.append(numbers.strip())
        assert int(run(client, "print(run.state.step)")) > 5
        expected = run(
            client, "torch.manual_seed(7); [print(torch.rand(3).tolist()) for _ in range(4)]; None"
        )
        assert drawn == expected.splitlines()
        assert (
            run(client, "run.pace = 0.0; print(run.wait(30), run.status, same(run, 0))")
            == "True finished True"
        )


@pytest.mark.slow
def test_an_interrupt_pauses_live_runs_in_an_idle_kernel_and_in_a_cell(tmp_path: Path) -> None:
    with running_kernel(tmp_path) as (manager, client):
        run(client, "run = live(0); run.pace = 0.005; run.start(wait=False)")
        time.sleep(0.2)
        manager.interrupt_kernel()
        time.sleep(0.2)
        assert run(client, "print(run.status)") == "paused"
        assert (
            run(client, "step = run.state.step; time.sleep(0.1); print(0 < step == run.state.step)") == "True"
        )
        run(client, "run.start(wait=False)")
        time.sleep(0.1)
        client.execute("time.sleep(30)")
        time.sleep(0.5)
        manager.interrupt_kernel()
        client.get_shell_msg(timeout=10)
        time.sleep(0.2)
        assert run(client, "print(run.status)") == "paused"
        assert run(client, "run.pace = 0.0; run.start(); print(run.wait(30), same(run, 0))") == "True True"


@pytest.mark.slow
def test_a_cell_that_is_run_again_leaves_one_thread_and_one_driver(tmp_path: Path) -> None:
    cell = "state, loader = parts(0); run = tl.LiveRun(state, loader, mean_ce, CONFIG, valid=valid())"
    with running_kernel(tmp_path) as (_, client):
        run(client, f"{cell}; first, kept = run, state; run.pace = 0.01; run.start(wait=False)")
        time.sleep(0.1)
        run(client, "run = tl.LiveRun(kept, loader, mean_ce, CONFIG); run.pace = 0.01; run.start(wait=False)")
        time.sleep(0.1)
        names = "sum(each.name == 'trainlab-live' for each in threading.enumerate())"
        assert run(client, f"print(first.status, run.status, {names})") == "stopped running 1"


@pytest.mark.slow
def test_a_program_that_ends_while_a_run_goes_on_ends_quietly() -> None:
    program = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_live import live
run, other = live(0), live(1)
run.pace = 0.01
run.start(wait=False)
time.sleep(0.3)
other.step(3)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")
