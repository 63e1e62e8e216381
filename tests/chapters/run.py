"""Run chapters under nbval, compare their outputs, and print what each took.

python tests/chapters/run.py           every chapter
python tests/chapters/run.py 02 05     these

A copy of `notebooks/` is run, so that what a chapter writes beside itself does not stay.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from chapters import stored
from chapters.environment import NOTEBOOKS, chapter_paths, isolation, unattended

from trainlab.course.copies import find_chapter

CELL_SECONDS = 120  # nbval's own limit is 2,000
CHAPTER_SECONDS = 60  # what a chapter should take; 150 where a transformer is fine-tuned


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("chapters", nargs="*", help="numbers, such as 02 (default: all)")
    parser.add_argument("--cell-seconds", type=float, default=CELL_SECONDS, help="limit for one cell")
    parser.add_argument("--junit", type=Path, help="write the results to this file as well")
    options = parser.parse_args()
    chosen = [find_chapter(NOTEBOOKS, name) for name in options.chapters] or chapter_paths()
    if not chosen:
        print(f"no chapters in {NOTEBOOKS}")
        return 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results = options.junit or folder / "results.xml"
        status = run(chosen, folder, results, options.cell_seconds)
        if results.exists():
            print(ledger(chosen, results))
    return status


def run(chapters: list[Path], folder: Path, results: Path, cell_seconds: float) -> int:
    """Compare the chapters' outputs with new ones made in `folder`; returns pytest's exit status."""
    shutil.copytree(
        NOTEBOOKS, folder / "notebooks", ignore=shutil.ignore_patterns(".*", "runs"), dirs_exist_ok=True
    )
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")  # the project's is about its tests
    nbval = ["--nbval", "--nbval-current-env", f"--nbval-cell-timeout={cell_seconds}"]
    workers = ["-n", "2", "--dist", "loadfile"]  # a chapter's cells belong to one kernel
    report = ["-ra", "--no-header", "-p", "no:cacheprovider", f"--junit-xml={results}"]
    files = [f"notebooks/{path.name}" for path in chapters]
    command = [*isolation(), sys.executable, "-m", "pytest", *nbval, *workers, *report, *files]
    return subprocess.run(command, cwd=folder, env=unattended(folder), check=False).returncode


def ledger(chapters: list[Path], results: Path) -> str:
    """A table: seconds per chapter (its kernel's start included), and what was compared."""
    seconds: dict[str, float] = defaultdict(float)
    for case in ElementTree.parse(results).iter("testcase"):
        for path in chapters:
            if path.stem in case.get("classname", ""):
                seconds[path.stem] += float(case.get("time", 0))
    lines = ["", f"{'chapter':32} seconds  code cells  compared  ignored  no output"]
    for path in chapters:
        tally, took = stored.tally(stored.read(path)), seconds[path.stem]
        late = f"  over {CHAPTER_SECONDS} s" if took > CHAPTER_SECONDS else ""
        counts = f"{tally.code:10}  {tally.compared:8}  {tally.ignored:7}  {tally.silent:9}"
        lines.append(f"{path.stem:32} {took:7.1f}  {counts}{late}")
    lines.append(f"{'all':32} {sum(seconds.values()):7.1f}  (seconds of two chapters side by side, added)")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
