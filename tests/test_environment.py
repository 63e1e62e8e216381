"""The environment check names each fault that it is shown, with value, rule and remedy."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
import tomllib
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trainlab.course import environment
from trainlab.course.environment import EnvironmentReport, Finding, check_environment

REPOSITORY = Path(__file__).resolve().parents[1]
Version = namedtuple("Version", "major minor micro releaselevel serial")
Versions = Callable[..., None]

SOUND = {
    "torch": "2.15.0",
    "torchvision": "0.29.2",
    "jupyterlab": "4.6.6",
    "ipywidgets": "8.1.9",
    "jupyterlab_widgets": "3.0.17",
    "anywidget": "0.11.0",
}


@pytest.fixture(autouse=True)
def sound_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which all is well, whatever this one is like; each test then breaks one thing."""
    _pretend_versions(monkeypatch, SOUND)
    _pretend_modules(monkeypatch, torchvision=SimpleNamespace(), torch=_torch(2))
    monkeypatch.setattr(environment, "_cores", lambda: 2)
    monkeypatch.setattr(environment, "_free_memory", lambda: 8.0)
    monkeypatch.setattr(environment, "_course_environment", lambda: Path(sys.prefix))
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda path: SimpleNamespace(free=50e9))
    monkeypatch.setattr("trainlab.data.catalogue.datasets", lambda: _table(digits=True, mnist5k=True))


def _torch(threads: int) -> Any:
    return SimpleNamespace(get_num_threads=lambda: threads)


def _table(**cached: bool) -> Any:
    import pandas as pd

    return pd.DataFrame({"cached": cached.values()}, index=list(cached))


def _pretend_versions(monkeypatch: pytest.MonkeyPatch, versions: dict[str, str]) -> None:
    def version(package: str) -> str:
        if package not in versions:
            raise importlib.metadata.PackageNotFoundError(package)
        return versions[package]

    monkeypatch.setattr(environment.importlib.metadata, "version", version)


def _pretend_modules(monkeypatch: pytest.MonkeyPatch, **modules: Any) -> None:
    genuine = importlib.import_module

    def import_module(name: str, package: str | None = None) -> Any:
        found = modules.get(name)
        if isinstance(found, Exception):
            raise found
        return genuine(name, package) if found is None else found

    monkeypatch.setattr(environment.importlib, "import_module", import_module)


def problems(report: EnvironmentReport) -> dict[str, Finding]:
    return {finding.name: finding for finding in report.findings if not finding.ok}


def the_problem(name: str) -> Finding:
    """The one fault that the check reports."""
    found = problems(check_environment())
    assert list(found) == [name]
    assert found[name].remedy
    return found[name]


def test_a_sound_machine_has_one_line_a_rule_and_no_versions(capsys: pytest.CaptureFixture[str]) -> None:
    report = check_environment()
    printed = capsys.readouterr().out
    assert report.ok and not problems(report)
    assert printed.splitlines()[-1] == "Ready for the course."
    assert all(line.startswith("ok ") for line in printed.splitlines()[:-1])
    assert not any(version in printed for version in SOUND.values())  # they differ from machine to machine
    assert all(version in str(report) for version in SOUND.values())  # and are there for a bug report


def test_this_machine_is_fit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.undo()
    found = problems(check_environment())
    assert not found.keys() & {"Python", "torch", "torchvision", "torch with torchvision", "widgets"}, found


@pytest.mark.parametrize(
    ("version", "ok"), [((3, 10), False), ((3, 11), True), ((3, 13), True), ((3, 14), False)]
)
def test_python_versions(monkeypatch: pytest.MonkeyPatch, version: tuple[int, int], ok: bool) -> None:
    monkeypatch.setattr(environment.sys, "version_info", Version(*version, 0, "final", 0))
    found = problems(check_environment())
    assert ("Python" not in found) == ok
    if not ok:
        assert (
            found["Python"].rule == "3.11 to 3.13" and "make lab PYTHON=python3.13" in found["Python"].remedy
        )


@pytest.mark.parametrize(
    ("package", "old"),
    [
        ("torch", "2.13.0+cpu"),
        ("torchvision", "0.28.1"),
        ("jupyterlab", "4.5.9"),
        ("ipywidgets", "8.1.7"),
        ("anywidget", "0.9.21"),
    ],
)
def test_an_old_package(monkeypatch: pytest.MonkeyPatch, package: str, old: str) -> None:
    _pretend_versions(monkeypatch, {**SOUND, package: old})
    found = the_problem(package)
    assert found.value == old
    assert found.rule == f"{environment.LOWEST[package]} or later"
    assert "make lab" in found.remedy


def test_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend_versions(monkeypatch, {key: value for key, value in SOUND.items() if key != "anywidget"})
    assert the_problem("anywidget").value == "none"


@pytest.mark.parametrize("version", ["2.14.0", "2.14", "2.15.0+cpu", "2.100.0", "3.0.0a1"])
def test_versions_are_compared_as_numbers(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    _pretend_versions(monkeypatch, {**SOUND, "torch": version})
    assert check_environment().ok


def test_the_cpu_only_torch_with_the_index_s_torchvision(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _pretend_versions(monkeypatch, {**SOUND, "torch": "2.13.0+cpu"})
    broken = RuntimeError("operator torchvision::nms does not exist")
    _pretend_modules(monkeypatch, torchvision=broken, torch=_torch(1))
    found = problems(check_environment())
    assert list(found) == ["torch", "torch with torchvision"]
    pair = found["torch with torchvision"]
    assert "torch 2.13.0+cpu with torchvision 0.29.2" in pair.value
    assert "operator torchvision::nms does not exist" in pair.value
    assert 'pip install --upgrade "torch>=2.14" "torchvision>=0.29"' in pair.remedy
    assert "restart the kernel" in pair.remedy
    printed = capsys.readouterr().out
    assert "PROBLEM  torch with torchvision: found torch 2.13.0+cpu" in printed
    assert printed.splitlines()[-1].startswith("To mend first: 2 of ")


def test_a_torchvision_that_does_not_load_for_another_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend_modules(monkeypatch, torchvision=ImportError("libjpeg.so.8: no such file"), torch=_torch(1))
    found = the_problem("torch with torchvision")
    assert "libjpeg.so.8" in found.value and "make clean" in found.remedy


def test_a_torch_that_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = OSError("libtorch_cpu.so: cannot open shared object file")
    _pretend_modules(monkeypatch, torchvision=broken, torch=broken)
    assert problems(check_environment()).keys() == {"torch with torchvision", "processor"}


@pytest.mark.parametrize("browser", [None, "1.1.11", "4.0.0"])
def test_the_two_halves_of_the_widgets_differ(monkeypatch: pytest.MonkeyPatch, browser: str | None) -> None:
    versions = {key: value for key, value in SOUND.items() if key != "jupyterlab_widgets"}
    _pretend_versions(monkeypatch, versions | ({"jupyterlab_widgets": browser} if browser else {}))
    found = the_problem("widgets")
    assert found.value == f"ipywidgets 8.1.9 with jupyterlab_widgets {browser or 'none'}"


def test_a_kernel_of_another_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(environment, "_course_environment", lambda: tmp_path)
    found = the_problem("kernel")
    assert found.value == sys.prefix and "Change Kernel" in found.remedy


def test_without_an_environment_of_its_own_any_kernel_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_course_environment", lambda: None)
    assert check_environment().ok


def test_missing_data_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainlab.data.catalogue.datasets", lambda: _table(digits=True, mnist5k=False))
    found = the_problem("data")
    assert found.value == "1 of 2 data sets (missing: mnist5k)" and "make fetch" in found.remedy


def test_a_catalogue_that_does_not_load_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ImportError("pandas is missing")

    monkeypatch.setattr("trainlab.data.catalogue.datasets", broken)
    assert "pandas is missing" in the_problem("data").value


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRAINLAB_HOME", str(tmp_path / "not" / "there" / "yet"))
    asked = []
    usage = SimpleNamespace(free=0.3e9)
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda path: asked.append(path) or usage)
    found = the_problem("disk")
    assert (found.value, found.rule) == ("0.3 GB free", "1 GB free")
    assert "TRAINLAB_HOME" in found.remedy and asked == [tmp_path]


def test_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_free_memory", lambda: 0.7)
    assert the_problem("memory").value == "0.7 GB free"


def test_memory_that_nobody_knows_is_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_free_memory", lambda: None)
    assert check_environment().ok


def test_more_threads_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend_modules(monkeypatch, torchvision=SimpleNamespace(), torch=_torch(64))
    found = the_problem("processor")
    assert found.value == "64 threads on 2 cores" and "OMP_NUM_THREADS=2" in found.remedy


@pytest.mark.parametrize(("limit", "cores"), [("150000 100000", 2), ("50000 100000", 1), ("max 100000", 8)])
def test_a_container_s_share_of_the_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: str, cores: int
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(environment.os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    path = tmp_path / "cpu.max"
    path.write_text(limit)
    assert environment._cores(path) == cores
    assert environment._cores(tmp_path / "none") == 8


def test_the_rules_are_those_of_the_package() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = dict(line.split(">=") for line in project["dependencies"])
    assert {name: needed[name] for name in environment.LOWEST} == environment.LOWEST
    (low, high) = environment.PYTHONS
    assert project["requires-python"] == f">={low[0]}.{low[1]},<{high[0]}.{high[1] + 1}"


def test_the_report_shows_itself_only_when_printed(capsys: pytest.CaptureFixture[str]) -> None:
    report = check_environment()
    capsys.readouterr()
    assert report._ipython_display_() is None
    assert capsys.readouterr().out == ""
