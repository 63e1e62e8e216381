"""Run chapters and store their real outputs, in the surroundings in which tests compare them.

python tests/chapters/store.py 02      (or: make store CH=02)
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import nbformat
from chapters import stored
from chapters.environment import NOTEBOOKS, unattended
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from trainlab.course.copies import find_chapter

CELL_SECONDS = 600


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("chapters", nargs="+", help="numbers, such as 02, or paths of notebooks")
    faults = 0
    for name in parser.parse_args().chapters:
        path = Path(name) if name.endswith(".ipynb") else find_chapter(NOTEBOOKS, name)
        faults += store(path)
    return 1 if faults else 0


def store(path: Path) -> int:
    """Run one chapter and put the outputs into its file; returns how much is wrong with it.

    A cell that raises leaves the file as it was.
    """
    notebook = nbformat.read(path, as_version=4)
    started = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory() as folder:
            execute(notebook, path, Path(folder))
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        print(f"{path.name} is left as it was: {error}", file=sys.stderr)
        return 1
    strip(notebook)
    nbformat.write(notebook, path)
    content = stored.read(path)
    tally, found = stored.tally(content), list(stored.complaints(content))
    print(f"{path.name}: {time.perf_counter() - started:.0f} s, {tally.code} code cells, ", end="")
    print(f"{tally.compared} compared, {tally.ignored} ignored, {tally.silent} without output")
    for complaint in found:
        print(f"  {complaint}")
    return len(found)


def execute(notebook: nbformat.NotebookNode, path: Path, folder: Path) -> None:
    """Run the notebook in a copy of its folder, with the environment that the tests use."""
    beside = shutil.copytree(
        path.parent, folder / "notebooks", ignore=shutil.ignore_patterns(".*", "runs", "*.ipynb")
    )
    client = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(beside)}},
        record_timing=False,
        store_widget_state=False,
    )
    # read by the kernel's launcher, inherited by the kernel; put back, or the next chapter's home would
    # lie inside this one's
    with patch.dict(os.environ, unattended(folder)):
        client.execute()


def strip(notebook: nbformat.NotebookNode) -> None:
    """Take out what differs from machine to machine and from day to day.

    Widget states are left out, so the views that need them go too; what a widget has to say without
    them (its text and picture) stays.
    """
    spec = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    notebook.metadata = nbformat.from_dict({"kernelspec": spec, "language_info": {"name": "python"}})
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(stored.WIDGET_VIEW, None)


if __name__ == "__main__":
    sys.exit(main())
