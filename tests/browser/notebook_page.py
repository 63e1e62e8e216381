"""A real JupyterLab with one notebook open in Debian's Chromium, driven from Python."""

from __future__ import annotations

import ast
import contextlib
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chapters.environment import learner
from playwright.sync_api import Page, sync_playwright

# What a Chromium needs to run as root, without a screen, and without asking the network for anything.
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
START_SECONDS = 90


def chromium() -> str | None:
    """The path of the machine's Chromium, None if there is none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextlib.contextmanager
def running_lab(folder: Path, chapters: Path, *, every_cell_drawn: bool = False) -> Iterator[str]:
    """A JupyterLab started by `trainlab lab` with a learner's home in `folder`; gives the link it prints.

    every_cell_drawn: draw cells that are out of sight too, which JupyterLab otherwise puts off.
    """
    environment = learner(folder)
    if every_cell_drawn:
        options = {"windowingMode": "none", "scrollPastLastCell": False}
        _set_lab_option(folder, "@jupyterlab/notebook-extension/tracker", options)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "jupyterlab.log"
    command = [
        sys.executable,
        "-m",
        "trainlab",
        "lab",
        "--my",
        str(folder / "my"),
        "--chapters",
        str(chapters),
    ]
    command += ["--no-browser", f"--port={port}", "--LabApp.expose_app_in_browser=True"]
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        try:
            yield _printed_link(log, server)
        finally:
            server.send_signal(signal.SIGTERM)  # it ends its kernels, too
            try:
                server.wait(timeout=20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _printed_link(log: Path, server: subprocess.Popen[bytes]) -> str:
    """The link that JupyterLab prints for a person to open."""
    for _ in range(START_SECONDS * 10):
        text = log.read_text(encoding="utf-8", errors="replace")
        found = re.search(r"http://127\.0\.0\.1:\d+/lab\S*token=\w+", text)
        if found:
            return found[0]
        if server.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError(f"JupyterLab printed no link to a notebook:\n{text}")


def _set_lab_option(folder: Path, plugin: str, settings: dict[str, Any]) -> None:
    path = folder / "lab-settings" / f"{plugin}.jupyterlab-settings"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings), encoding="utf-8")


@contextlib.contextmanager
def browser_page(width: int = 1280, height: int = 1000) -> Iterator[Page]:
    """A fresh page in headless Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield browser.new_page(viewport={"width": width, "height": height})
        browser.close()


def write_notebook(path: Path, sources: Sequence[str]) -> None:
    """A notebook of code cells that were never run."""
    cells = [
        {
            "cell_type": "code",
            "id": f"cell{place}",
            "metadata": {},
            "execution_count": None,
            "outputs": [],
            "source": source,
        }
        for place, source in enumerate(sources)
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path.write_text(json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))


@dataclass
class NotebookPage:
    """One open notebook. `errors` collects what the page's own console calls an error."""

    page: Page
    errors: list[str]

    @classmethod
    def opened(cls, page: Page, link: str) -> NotebookPage:
        """Open the link and wait until the notebook is drawn and its kernel answers."""
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(link)
        page.wait_for_selector(".jp-NotebookPanel .jp-Cell", timeout=START_SECONDS * 1000)
        self = cls(page, errors)
        self._wait_for_kernel("idle")
        return self

    def _wait_for_kernel(self, status: str) -> None:
        """Wait until the kernel is "idle" or "busy"."""
        script = """status => window.jupyterapp?.shell.currentWidget
            ?.sessionContext?.session?.kernel?.status === status"""
        self.page.wait_for_function(script, arg=status, timeout=START_SECONDS * 1000)

    def run_all(self, seconds: float) -> None:
        """Run every cell, as the menu does, and wait until the last one is done.

        JupyterLab stops at the first cell that raises; `error_outputs` then has it.
        """
        script = """() => { window.allRun = false;
            window.jupyterapp.commands.execute('notebook:run-all-cells')
                .finally(() => { window.allRun = true; }); }"""
        self.page.evaluate(script)
        self.page.wait_for_function("() => window.allRun", timeout=seconds * 1000)
        self._wait_for_kernel("idle")

    def run_cell(self, place: int, seconds: float = 30) -> None:
        """Run the cell at this place, counted from 0, and wait until it is done."""
        script = """place => { window.cellRun = false;
            window.jupyterapp.shell.currentWidget.content.activeCellIndex = place;
            window.jupyterapp.commands.execute('notebook:run-cell')
                .finally(() => { window.cellRun = true; }); }"""
        self.page.evaluate(script, place)
        self.page.wait_for_function("() => window.cellRun", timeout=seconds * 1000)

    def ask(self, expression: str) -> Any:
        """The value of a Python expression in the kernel, run as a cell of its own: plain values only."""
        script = """async expression => {
            const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
            const code = { code: '', user_expressions: { answer: expression }, store_history: false };
            const reply = await kernel.requestExecute(code).done;
            const { data, evalue } = reply.content.user_expressions.answer;
            return data ? data['text/plain'] : `raise ${evalue}`; }"""
        text: str = self.page.evaluate(script, expression)
        if text.startswith("raise "):
            raise RuntimeError(f"{expression}: {text[6:]}")
        return ast.literal_eval(text)

    def interrupt(self) -> None:
        """Interrupt the kernel, as the button with the square does."""
        self.page.evaluate(
            "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.interrupt()"
        )

    def cells(self) -> list[dict[str, Any]]:
        """Every cell with its source and outputs as the notebook's file format has them."""
        model: dict[str, Any] = self.page.evaluate(
            "() => window.jupyterapp.shell.currentWidget.content.model.toJSON()"
        )
        return list(model["cells"])

    def outputs(self) -> list[dict[str, Any]]:
        return [output for cell in self.cells() for output in cell.get("outputs", [])]

    def error_outputs(self) -> list[str]:
        """`Name: message` of every error among the outputs."""
        found = [output for output in self.outputs() if output["output_type"] == "error"]
        return [f"{output['ename']}: {output['evalue']}" for output in found]

    def set_theme(self, theme: str) -> None:
        """theme: "light" or "dark"."""
        name = THEMES[theme]
        script = "name => window.jupyterapp.commands.execute('apputils:change-theme', {theme: name})"
        self.page.evaluate(script, name)
        self.page.wait_for_function("name => document.body.dataset.jpThemeName === name", arg=name)
        self.page.wait_for_timeout(700)  # the style sheet arrives after the name

    def show_only_the_notebook(self) -> None:
        """Fold the side bar away, so that a picture holds the notebook and little else."""
        self.page.evaluate("() => window.jupyterapp.shell.collapseLeft()")
        self.page.wait_for_timeout(500)

    def scroll(self, top: int) -> int:
        """Scroll to `top` pixels below the notebook's start; returns where that was possible."""
        script = """top => {
            const panes = document.querySelectorAll('.jp-NotebookPanel-notebook .jp-WindowedPanel-outer');
            const pane = [...panes].find(pane => pane.clientHeight > 0);
            pane.scrollTop = top;
            return pane.scrollTop; }"""
        reached: int = self.page.evaluate(script, top)
        self.page.wait_for_timeout(400)
        return reached

    def pictures(self, folder: Path, name: str, step: int) -> list[Path]:
        """Screenshots from top to bottom, `step` pixels apart: NAME-01.png, NAME-02.png, ..."""
        folder.mkdir(parents=True, exist_ok=True)
        taken: list[Path] = []
        reached, previous = self.scroll(0), -1
        while reached > previous:  # at the end it scrolls no further
            taken.append(folder / f"{name}-{len(taken) + 1:02d}.png")
            self.page.screenshot(path=taken[-1])
            reached, previous = self.scroll(reached + step), reached
        return taken
