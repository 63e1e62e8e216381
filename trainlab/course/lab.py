"""What stands behind `make lab`: the data fetched, JupyterLab opened at the first chapter."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from ..data.fetch import cache_folder
from .copies import Places, chapter_files

# The file that JupyterLab reads its changed defaults from, below a folder of its configuration.
OVERRIDES = Path("etc/jupyter/labconfig/default_setting_overrides.json")
QUIET = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}


def start(where: Places, arguments: Sequence[str] = ()) -> NoReturn:
    """Become a JupyterLab server; `arguments` follow ours on its command line and so win.

    The link that it prints carries Jupyter's own random token and leads to the first chapter.
    """
    quieten(Path(sys.prefix))
    # A kernel specification in the home directory would otherwise run another Python.
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    sys.stdout.flush()
    os.execv(sys.executable, command(where, arguments))


def command(where: Places, arguments: Sequence[str]) -> list[str]:
    """The command line that starts JupyterLab. It never holds a token: others can read it."""
    first = chapter_files(where.chapters)[0].name
    root = ["--allow-root"] if os.geteuid() == 0 else []  # Jupyter refuses to run as root otherwise
    return [
        sys.executable,
        *["-m", "jupyterlab"],
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.root_dir={where.my}",
        f"--LabApp.default_url=/lab/tree/{first}",
        *root,
        *arguments,
    ]


def quieten(prefix: Path) -> None:
    """Switch off the question about "Jupyter news" and the look for updates: both want a network.

    Other settings in the same file are kept; a folder that cannot be written is left as it is.
    """
    path = prefix / OVERRIDES
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        settings = {}
    if {**settings, **QUIET} == settings:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**settings, **QUIET}, indent=2) + "\n", encoding="utf-8")
    except OSError:
        return  # a shared installation: the question appears once, and answering it is harmless


def fetch_all() -> bool:
    """Fetch all of the course's data; False if nothing has changed since it was last complete.

    The catalogue imports torch, which takes seconds: a note of how the cache looked spares them.
    """
    note = cache_folder() / ".complete"
    if note.is_file() and note.read_text(encoding="utf-8") == _look_of_the_cache():
        return False
    from ..data import catalogue

    catalogue.fetch()
    with contextlib.suppress(OSError):  # the note only saves time
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(_look_of_the_cache(), encoding="utf-8")
    return True


def _look_of_the_cache() -> str:
    """A digest of the cards, of the code that reads them, and of the cache's names, sizes and times."""
    package = Path(__file__).resolve().parents[1]
    look = hashlib.sha256()
    patterns = ("data/*.py", "cards/*.toml", "../datasets/*.toml")
    for path in sorted(path for pattern in patterns for path in package.glob(pattern)):
        look.update(path.name.encode() + path.read_bytes())
    # hidden names are left out: this note, and the folders of a fetch under way
    for path in sorted([*cache_folder().glob("[!.]*"), *cache_folder().glob("[!.]*/[!.]*")]):
        if path.is_file():
            stat = path.stat()
            look.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}".encode())
    return look.hexdigest()
