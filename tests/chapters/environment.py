"""The surroundings in which chapters run: for tests, for storing outputs and in the browser."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from trainlab.data.fetch import cache_folder

REPOSITORY = Path(__file__).resolve().parents[2]
GUARD = Path(__file__).resolve().parent / "guard"
# Planted notebooks are sent through the same machinery from a folder of their own.
NOTEBOOKS = Path(os.environ.get("TRAINLAB_NOTEBOOKS") or REPOSITORY / "notebooks")
IN_CI = os.environ.get("CI", "").lower() == "true"


def chapter_paths() -> list[Path]:
    """Every chapter, found by pattern."""
    return sorted(NOTEBOOKS.glob("*.ipynb"))


def learner(folder: Path) -> dict[str, str]:
    """The environment of a learner with a home of their own below `folder` and no network."""
    home = folder / "trainlab"
    home.mkdir(parents=True, exist_ok=True)
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    if not (home / "data").exists():
        (home / "data").symlink_to(cache, target_is_directory=True)  # fetched once, shared by all
    own = {
        "TRAINLAB_HOME": str(home),
        "IPYTHONDIR": str(folder / "ipython"),
        "JUPYTER_CONFIG_DIR": str(folder / "jupyter"),
        "JUPYTER_DATA_DIR": str(folder / "jupyter-data"),
        "JUPYTER_RUNTIME_DIR": str(folder / "jupyter-runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "lab-settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "lab-workspaces"),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "PYTHONPATH": str(GUARD),
    }
    inherited = {key: value for key, value in os.environ.items() if key != "TRAINLAB_UNATTENDED"}
    return {**inherited, **own}


def unattended(folder: Path) -> dict[str, str]:
    """The environment in which stored outputs are made and compared: nobody answers, one thread.

    One thread because two give other roundings, and because two chapters run side by side on two
    cores. No GPU, because its numbers are not the processor's.
    """
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return {
        **learner(folder),
        **threads,
        "TRAINLAB_UNATTENDED": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "TOKENIZERS_PARALLELISM": "false",  # forked workers make tokenizers print a warning
        "PYTHONHASHSEED": "0",
    }


def namespace() -> list[str]:
    """A command prefix that gives a program a network of loopback only; empty where there is none.

    Root may make one; others may through a user namespace, where the machine allows it.
    """
    for options in (["-n"], ["-r", "-n"]):
        prefix = ["unshare", *options, "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
        try:
            trial = subprocess.run([*prefix, "true"], capture_output=True, timeout=20, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return []
        if trial.returncode == 0:
            return prefix
    return []


def isolation() -> list[str]:
    """The prefix to run chapters with: a network namespace in CI, nothing elsewhere.

    Elsewhere the guard alone has to do: a namespace hides the machine's own servers from whoever
    debugs a chapter. Exits with a message where CI has none to give.
    """
    if not IN_CI or sys.platform != "linux":
        return []
    return namespace() or sys.exit("CI=true, but no network namespace: install util-linux and iproute2")
