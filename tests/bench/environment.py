"""The benchmark's own environment: the course's packages as they are, and the contestants beside them."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / ".bench"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
LOCK = REPOSITORY / "requirements.lock"


def bench_python() -> Path:
    """The interpreter of `.bench/venv`, made or brought up to date if need be.

    It borrows torch and the rest from the environment that runs this, which stays as it is.
    """
    python = FOLDER / "venv" / "bin" / "python"
    borrowed = sysconfig.get_path("purelib")
    parts = [REQUIREMENTS.read_bytes(), LOCK.read_bytes(), borrowed.encode(), sys.version.encode()]
    wanted = hashlib.sha256(b"\0".join(parts)).hexdigest()
    stamp = FOLDER / "stamp"
    if not stamp.exists() or stamp.read_text() != wanted:
        print("bench: setting up .bench (a minute, 0.3 GB)", flush=True)
        stamp.unlink(missing_ok=True)
        _make(python, borrowed)
        stamp.write_text(wanted)
    return python


def _make(python: Path, borrowed: str) -> None:
    venv.create(FOLDER / "venv", clear=True, with_pip=True)
    (FOLDER / ".gitignore").write_text("*\n")
    own = _printed(python, "import sysconfig; print(sysconfig.get_path('purelib'))")
    # addsitedir, not a bare path: editable installs are found through .pth files of their own
    Path(own, "course.pth").write_text(f"import site; site.addsitedir({borrowed!r})\n")
    pip = [python, "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    if subprocess.run([*pip, "-c", LOCK, "-r", REQUIREMENTS]).returncode:
        sys.exit("bench: pip could not install what tests/bench/requirements.txt names (see above)")
    torch = _printed(python, "import importlib.util; print(importlib.util.find_spec('torch').origin)")
    if not Path(torch).is_relative_to(borrowed):
        sys.exit("bench: a contestant brought a torch of its own: pin versions that take the course's")


def _printed(python: Path, code: str) -> str:
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def surroundings() -> dict[str, str]:
    """The environment variables of a contestant: one thread, no accelerator, no hub."""
    single = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return os.environ | single | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(REPOSITORY)}
