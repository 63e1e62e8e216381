"""Every test, stage by stage, with a ledger of seconds at the end: what `make test` runs.

python tests/run_all.py            all stages
python tests/run_all.py --quick    the first two, without what takes seconds: `make check`

A stage that fails does not keep the next from running: one run tells everything that is wrong.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path

TESTS = Path(__file__).resolve().parent
REPOSITORY = TESTS.parent
PYTHON = sys.executable
NO_TESTS = 5  # pytest's exit status where it found nothing to run


@dataclass
class Stage:
    """One part of the run: commands that all have to succeed, and what became of them."""

    name: str
    commands: list[list[str]]
    junit: Path | None = None
    allow_none: bool = False  # whether finding no test at all is fine
    seconds: float = 0.0
    failed: bool = False
    counts: dict[str, int] = field(default_factory=dict)

    def run(self) -> None:
        print(f"\n== {self.name}", flush=True)
        started = time.perf_counter()
        for command in self.commands:
            status = subprocess.run(command, cwd=REPOSITORY, check=False).returncode
            self.failed |= status != 0 and not (status == NO_TESTS and self.allow_none)
        self.seconds = time.perf_counter() - started
        self.counts = _counts(self.junit)


def _counts(junit: Path | None) -> dict[str, int]:
    """passed, failed and skipped of a results file; nothing where there is none."""
    if junit is None or not junit.exists():
        return {}
    suites = list(ElementTree.parse(junit).iter("testsuite"))
    total = {key: sum(int(suite.get(key, 0)) for suite in suites) for key in ("tests", "skipped")}
    failed = sum(int(suite.get(key, 0)) for suite in suites for key in ("failures", "errors"))
    passed = total["tests"] - failed - total["skipped"]
    return {"passed": passed, "failed": failed, "skipped": total["skipped"]}


def stages(folder: Path, quick: bool) -> list[Stage]:
    """The stages in order, the browser apart from the other tests: it needs both cores."""
    tools = [[PYTHON, "-m", "ruff", "check", "."], [PYTHON, "-m", "ruff", "format", "--check", "."]]
    lint = Stage("ruff and mypy", [*tools, [PYTHON, "-m", "mypy"]])
    left_out = "browser or soak or slow" if quick else "browser or soak"
    parallel = ["-n", "2", "--dist", "worksteal"]
    tests = _pytest("tests", folder, "-m", f"not ({left_out})", *parallel)
    if quick:
        return [lint, tests]
    # a lab, a browser and a kernel for each of two at a time
    browser = _pytest(
        "browser", folder, "-m", "browser and not soak", "tests/browser", "-n", "2", "--dist", "loadgroup"
    )
    results = folder / "chapters.xml"
    runner = [PYTHON, str(TESTS / "chapters" / "run.py"), "--junit", str(results)]
    return [lint, tests, browser, Stage("chapters", [runner], results)]


def _pytest(name: str, folder: Path, *options: str) -> Stage:
    results = folder / f"{name}.xml"
    command = [PYTHON, "-m", "pytest", "-q", "--no-header", f"--junit-xml={results}", *options]
    return Stage(name, [command], results)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="under two minutes")
    parser.add_argument("--soak", action="store_true", help="only the tests that are too long for every run")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # two workers share two cores
    with tempfile.TemporaryDirectory() as folder:
        if options.soak:
            chosen = [_pytest("soak", Path(folder), "-m", "soak")]
            chosen[0].allow_none = True
        else:
            chosen = stages(Path(folder), options.quick)
        for stage in chosen:
            stage.run()
    print(_ledger(chosen), flush=True)
    return int(any(stage.failed for stage in chosen))


def _ledger(chosen: list[Stage]) -> str:
    """Seconds and outcome by stage, and one closing line with all tests added up."""
    lines = ["", f"{'stage':16} seconds"]
    for stage in chosen:
        outcome = "FAILED" if stage.failed else "ok"
        lines.append(f"{stage.name:16} {stage.seconds:7.1f}  {outcome}")
    lines.append(f"{'all':16} {sum(stage.seconds for stage in chosen):7.1f}")
    total = {
        key: sum(stage.counts.get(key, 0) for stage in chosen) for key in ("passed", "failed", "skipped")
    }
    # A stage may fail without a failed test: ruff, mypy, a process that died.
    total["failed"] += sum(stage.failed and not stage.counts.get("failed") for stage in chosen)
    lines += ["", f"{total['passed']} passed, {total['failed']} failed, {total['skipped']} skipped"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
