"""Chapters have no network: a planted connection fails, one within the machine works."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from chapters.environment import GUARD, IN_CI, REPOSITORY, namespace

# An address kept for documentation (RFC 5737): nobody answers there.
OUTSIDE = "192.0.2.1"
CONNECT = f"import socket; socket.create_connection(('{OUTSIDE}', 80), timeout=5)"
LOOK_UP = "import socket; socket.getaddrinfo('example.org', 80)"
DATAGRAM = f"import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('{OUTSIDE}', 53))"
IN_A_CHILD = f'import subprocess, sys; subprocess.run([sys.executable, "-c", "{CONNECT}"], check=True)'
WITHIN = """\
import socket
with socket.create_server(("127.0.0.1", 0)) as server:
    socket.create_connection(("localhost", server.getsockname()[1])).close()
print("connected")
"""


def _guarded(code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(GUARD)}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("code", [CONNECT, LOOK_UP, DATAGRAM, IN_A_CHILD])
def test_leaving_the_machine_is_refused(code: str) -> None:
    result = _guarded(code)
    assert result.returncode == 1
    assert "NetworkBlocked: the network is blocked here" in result.stderr


def test_connections_within_the_machine_work() -> None:
    assert _guarded(WITHIN).stdout == "connected\n"


def test_a_library_sees_a_machine_without_network() -> None:
    code = f"import urllib.request as r\ntry: r.urlopen('http://{OUTSIDE}/')\nexcept OSError as e: print(e)"
    assert "the network is blocked here" in _guarded(code).stdout


@pytest.mark.slow
def test_a_planted_connection_fails_its_chapter(tmp_path: Path) -> None:
    """Through the very machinery that runs the chapters."""
    notebook = nbformat.v4.new_notebook()
    for count, code in enumerate((CONNECT, IN_A_CHILD, WITHIN), start=1):
        cell = nbformat.v4.new_code_cell(code, execution_count=count)
        notebook.cells.append(cell)
    notebook.cells[2].outputs = [nbformat.v4.new_output("stream", text="connected\n")]
    nbformat.write(notebook, tmp_path / "00_planted.ipynb")
    runner = REPOSITORY / "tests" / "chapters" / "run.py"
    result = subprocess.run(
        [sys.executable, runner],
        env={**os.environ, "TRAINLAB_NOTEBOOKS": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1, result.stdout
    assert "2 failed, 1 passed" in result.stdout
    assert "the network is blocked here" in result.stdout


def test_the_namespace_holds_for_programs_without_the_guard() -> None:
    prefix = namespace()
    if not prefix and IN_CI and sys.platform == "linux":
        pytest.fail("CI=true, but no network namespace: install util-linux and iproute2")
    if not prefix:
        pytest.skip("no network namespaces here: the guard alone keeps chapters from the network")
    for code, expected in ((CONNECT, "Network is unreachable"), (WITHIN, "connected")):
        command = [*prefix, sys.executable, "-I", "-c", code]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert expected in result.stdout + result.stderr
