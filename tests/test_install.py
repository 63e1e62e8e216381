"""The lock fits what is installed, and importing trainlab costs next to nothing."""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
import time
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).resolve().parents[1]
LINES = (REPOSITORY / "requirements.lock").read_text(encoding="utf-8").splitlines()
HEAVY = ("torch", "torchvision", "matplotlib", "ipywidgets", "transformers", "sklearn", "pandas", "numpy")
IMPORT_SECONDS = 0.15


def _locked() -> dict[str, list[Requirement]]:
    """The lock's lines by name: some names have one line per platform or Python."""
    locked: dict[str, list[Requirement]] = {}
    for line in LINES:
        requirement = Requirement(line)
        locked.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return locked


def _needed(name: str, extras: frozenset[str], seen: dict[str, str]) -> None:
    """Add what an installed distribution needs on this machine, and what that needs, to `seen`."""
    for text in metadata.requires(name) or []:
        requirement = Requirement(text)
        wanted = [{"extra": extra} for extra in extras or {""}]
        if requirement.marker and not any(requirement.marker.evaluate(extra) for extra in wanted):
            continue
        key = canonicalize_name(requirement.name)
        if key not in seen or requirement.extras:
            first_time = key not in seen
            seen[key] = metadata.version(key)
            if first_time or requirement.extras:
                _needed(key, frozenset(requirement.extras), seen)


def test_what_is_installed_is_what_is_locked() -> None:
    seen: dict[str, str] = {}
    _needed("trainlab", frozenset({"dev"}), seen)
    assert len(seen) > 50
    locked = _locked()
    for name, version in seen.items():
        here = [r for r in locked.get(name, []) if r.marker is None or r.marker.evaluate()]
        assert [str(r.specifier) for r in here] == [f"=={version}"], name


def test_the_lock_holds_names_versions_and_markers_only() -> None:
    for line in LINES:
        assert re.fullmatch(r"[\w.-]+==[\w.]+( ; [\w\s.<>=!'()]+)?", line), line
    assert "://" not in "".join(LINES)


def test_nvidia_and_triton_are_for_linux_only() -> None:
    of_linux = [line for line in LINES if re.match(r"(nvidia|cuda|triton)", line)]
    assert len(of_linux) > 10
    assert all("sys_platform == 'linux'" in line for line in of_linux)


def test_every_direct_dependency_is_locked_within_its_range() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    locked = _locked()
    for text in project["dependencies"] + project["optional-dependencies"]["dev"]:
        requirement = Requirement(text)
        versions = [str(r.specifier).removeprefix("==") for r in locked[canonicalize_name(requirement.name)]]
        assert all(requirement.specifier.contains(version) for version in versions), text


def test_torch_is_not_a_processor_only_build_that_lies_around() -> None:
    """2.13 and older break torchvision; the pins keep pip from picking one up."""
    assert tuple(map(int, metadata.version("torch").split("+")[0].split(".")[:2])) >= (2, 14)


def test_importing_trainlab_brings_in_nothing_heavy() -> None:
    code = f"import sys, trainlab; print([name for name in {HEAVY} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def _seconds(code: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - started


def test_importing_trainlab_is_quick() -> None:
    pairs = [(_seconds("import trainlab"), _seconds("pass")) for _ in range(7)]
    cost = statistics.median(with_import - without for with_import, without in pairs)
    assert cost < IMPORT_SECONDS


@pytest.mark.parametrize("folder", [REPOSITORY, REPOSITORY / "notebooks", REPOSITORY / "tests"])
def test_the_folder_of_cards_hides_no_package(folder: Path) -> None:
    """`datasets/` without an __init__.py loses against Hugging Face's package of that name."""
    assert not list((REPOSITORY / "datasets").rglob("__init__.py"))
    code = "import importlib.util as u; spec = u.find_spec('datasets'); print(spec and spec.origin)"
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(REPOSITORY / "datasets") not in result.stdout


# The set-up as `make` calls it, on a machine that lacks something: one clear line, nothing left behind.

TOOLS = ("sh", "dirname", "cat", "cksum", "uname", "awk", "df", "du", "rm")


@pytest.fixture
def poor_machine(tmp_path: Path) -> Path:
    """A checkout in `tmp_path` and, below it, a `bin` that holds little more than a shell."""
    (tmp_path / ".ci").mkdir()
    for name in (".ci/setup", "pyproject.toml", "requirements.lock"):
        (tmp_path / name).write_bytes((REPOSITORY / name).read_bytes())
    (tmp_path / "bin").mkdir()
    for tool in TOOLS:
        (tmp_path / "bin" / tool).symlink_to(str(shutil.which(tool)))
    return tmp_path


def _put(machine: Path, tool: str, script: str) -> None:
    path = machine / "bin" / tool
    path.unlink(missing_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)


def _set_up(machine: Path) -> str:
    """What the failing set-up says on stderr."""
    environment = {"PATH": str(machine / "bin"), "PYTHON": "python3"}
    command = [str(machine / "bin" / "sh"), ".ci/setup", "lab"]
    result = subprocess.run(
        command, cwd=machine, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert not (machine / ".venv").exists()
    return result.stderr


def test_set_up_without_python(poor_machine: Path) -> None:
    assert re.fullmatch(
        r"set-up: Python 3\.11, 3\.12 or 3\.13 is needed, and 'python3' was not found: .*\n",
        _set_up(poor_machine),
    )


def test_set_up_with_an_old_python(poor_machine: Path) -> None:
    _put(poor_machine, "python3", 'case "$*" in *exit*) exit 1 ;; *) echo 3.9.2 ;; esac')
    assert re.fullmatch(
        r"set-up: Python 3\.11, 3\.12 or 3\.13 is needed, 'python3' is 3\.9\.2: install one.*\n",
        _set_up(poor_machine),
    )


def test_set_up_without_the_venv_module(poor_machine: Path) -> None:
    _put(poor_machine, "python3", 'case "$*" in *ensurepip*) exit 1 ;; *) exit 0 ;; esac')
    assert re.fullmatch(r"set-up: .* install the package python3-venv .*\n", _set_up(poor_machine))


def test_set_up_on_a_full_disk(poor_machine: Path) -> None:
    _put(poor_machine, "python3", "exit 0")
    _put(poor_machine, "df", "echo header; echo /dev/disk 9000 8000 102400 99% /")
    said = _set_up(poor_machine)
    assert re.fullmatch(r"set-up: the disk is too full: .* needs \d{4} MB .*, 100 MB are free\n", said)
