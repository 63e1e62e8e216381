"""Is this computer ready for the course? One line a check, and a remedy where one does not hold.

Nothing heavy is imported here, torch included: a broken installation must not break what names it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import math
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..paths import home

PYTHONS = ((3, 11), (3, 13))
# the lowest version of each that the course is tested with, as in pyproject.toml
LOWEST = {
    "torch": "2.14",
    "torchvision": "0.29",
    "jupyterlab": "4.6",
    "ipywidgets": "8.1.8",
    "anywidget": "0.11",
}
# the part of ipywidgets that runs in the browser: versions of the same line belong together
FRONT_END = {"8": "3"}
DISK_GB = 1.0
MEMORY_GB = 2.0

_REPAIR = "run `make clean` and `make lab` in the course's folder"
_OPERATOR_MISSING = re.compile(r"operator torchvision::\w+ does not exist")


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was found, the rule it is held against, and what to do where it fails."""

    name: str
    value: str
    rule: str
    ok: bool
    remedy: str = ""

    def line(self) -> str:
        """One line without the value where all is well, so that it reads the same on every machine."""
        if self.ok:
            return f"ok       {self.name}: {self.rule}"
        return f"PROBLEM  {self.name}: found {self.value}, the rule is {self.rule}\n         -> {self.remedy}"


@dataclass(frozen=True, slots=True)
class EnvironmentReport:
    """All findings, exact values included: `print(report)` shows them for a bug report."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether every check holds."""
        return all(finding.ok for finding in self.findings)

    def __str__(self) -> str:
        width = max(len(finding.name) for finding in self.findings)
        return "\n".join(
            f"{finding.name:{width}}  {finding.value}{'' if finding.ok else '  (PROBLEM)'}"
            for finding in self.findings
        )

    def _ipython_display_(self) -> None:
        """Show nothing: `check_environment` has just printed what there is to say."""


def check_environment() -> EnvironmentReport:
    """Check Python, packages, data, disk, memory and processor; print one line for each.

    Nothing is changed or fetched, and no problem raises: each is named with its rule and its remedy.
    Returns the report, which holds the exact versions and sizes.
    """
    findings = tuple(finding for check in _CHECKS for finding in check())
    report = EnvironmentReport(findings)
    for finding in findings:
        print(finding.line())
    wrong = sum(not finding.ok for finding in findings)
    print("Ready for the course." if report.ok else f"To mend first: {wrong} of {len(findings)}.")
    return report


# --- the checks ------------------------------------------------------------------------------------


def _python() -> Iterator[Finding]:
    low, high = PYTHONS
    rule = f"{_dotted(low)} to {_dotted(high)}"
    ok = low <= tuple(sys.version_info[:2]) <= high
    remedy = f"install one of these, then `make clean` and `make lab PYTHON=python{_dotted(high)}`"
    yield Finding("Python", platform.python_version(), rule, ok, remedy)


def _kernel() -> Iterator[Finding]:
    own = _course_environment()
    ok = own is None or Path(sys.prefix).resolve() == own.resolve()
    remedy = "choose Kernel > Change Kernel > Python 3 (ipykernel) in a JupyterLab started by `make lab`"
    yield Finding("kernel", sys.prefix, "the course's own Python", ok, remedy)


def _packages() -> Iterator[Finding]:
    for package, lowest in LOWEST.items():
        found = _version(package)
        ok = found is not None and _numbers(found) >= _numbers(lowest)
        yield Finding(package, found or "none", f"{lowest} or later", ok, _REPAIR)


def _torchvision_works() -> Iterator[Finding]:
    name, rule = "torch with torchvision", "they load together"
    try:
        importlib.import_module("torchvision")
    except Exception as error:
        torch, vision = _version("torch"), _version("torchvision")
        value, remedy = f"{type(error).__name__}: {error}", _REPAIR
        if _OPERATOR_MISSING.search(str(error)):
            value = f"torch {torch} with torchvision {vision} ({error})"
            remedy = (
                "this torchvision was built for another torch: install the two together, "
                f'python -m pip install --upgrade "torch>={LOWEST["torch"]}" '
                f'"torchvision>={LOWEST["torchvision"]}", and restart the kernel'
            )
        yield Finding(name, value, rule, False, remedy)
        return
    yield Finding(name, f"torch {_version('torch')}, torchvision {_version('torchvision')}", rule, True)


def _widgets() -> Iterator[Finding]:
    python, browser = _version("ipywidgets"), _version("jupyterlab_widgets")
    wanted = FRONT_END.get((python or "").partition(".")[0])
    ok = browser is not None and browser.partition(".")[0] == wanted
    value = f"ipywidgets {python or 'none'} with jupyterlab_widgets {browser or 'none'}"
    yield Finding("widgets", value, "ipywidgets 8 with jupyterlab_widgets 3", ok, _REPAIR)


def _data() -> Iterator[Finding]:
    name, rule = "data", "all of it on this disk, so that no network is needed"
    remedy = "run `make fetch` in the course's folder while there is a network"
    try:
        from ..data.catalogue import datasets

        cached = datasets()["cached"]
    except Exception as error:  # a broken torch or pandas is somebody else's line; this one must not stop
        yield Finding(name, f"{type(error).__name__}: {error}", rule, False, _REPAIR)
        return
    missing = [str(each) for each in cached.index[~cached]]
    value = f"{len(cached) - len(missing)} of {len(cached)} data sets"
    lacking = f" (missing: {', '.join(missing)})" if missing else ""
    yield Finding(name, value + lacking, rule, not missing, remedy)


def _disk() -> Iterator[Finding]:
    folder = home()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 1e9
    remedy = f"free some space, or set TRAINLAB_HOME to a folder on another disk (now {home()})"
    yield Finding("disk", f"{free:.1f} GB free", f"{DISK_GB:g} GB free", free >= DISK_GB, remedy)


def _memory() -> Iterator[Finding]:
    rule, remedy = f"{MEMORY_GB:g} GB free", "close other programs, and other notebooks' kernels"
    free = _free_memory()
    if free is None:
        yield Finding("memory", "unknown", rule, True)
        return
    yield Finding("memory", f"{free:.1f} GB free", rule, free >= MEMORY_GB, remedy)


def _processor() -> Iterator[Finding]:
    rule = "no more threads than cores"
    cores = _cores()
    try:
        threads = importlib.import_module("torch").get_num_threads()
    except Exception as error:
        yield Finding("processor", f"{type(error).__name__}: {error}", rule, False, _REPAIR)
        return
    remedy = f"set OMP_NUM_THREADS={cores} before JupyterLab starts: more threads only wait for one another"
    yield Finding("processor", f"{threads} threads on {cores} cores", rule, threads <= cores, remedy)


_CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    _python,
    _kernel,
    _packages,
    _torchvision_works,
    _widgets,
    _data,
    _disk,
    _memory,
    _processor,
)


# --- what the checks look at -----------------------------------------------------------------------


def _course_environment() -> Path | None:
    """The .venv that `make lab` made beside the package; None where the course lives elsewhere."""
    checkout = Path(__file__).resolve().parents[2]
    own = checkout / ".venv"
    return own if (checkout / "pyproject.toml").is_file() and (own / "bin" / "python").exists() else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version, for comparison: (2, 15, 0) of "2.15.0+cpu"."""
    return tuple(int(part) for part in re.findall(r"\d+", re.split(r"[+a-z]", version, maxsplit=1)[0]))


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def _free_memory() -> float | None:
    """GB that programs may still take, None where nobody says."""
    try:
        psutil: Any = importlib.import_module("psutil")  # ipykernel brings it
    except ImportError:
        return None
    return float(psutil.virtual_memory().available) / 1e9


def _cores(limit: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Cores that this process may use; a container's share counts, which torch does not see."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = limit.read_text().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no such file, or "max"
        return cores
