"""The command `trainlab`: thin, every subcommand a few calls into the package."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import __version__
from .errors import TrainlabError

INTERRUPTED = 130  # what a shell reports for a command ended by Ctrl-C


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit status. What a user can put right is said in one line."""
    parser = _parser()
    options, others = parser.parse_known_args(arguments)
    if others and options.run is not _lab:
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    options.others = others
    try:
        options.run(options)
    except TrainlabError as error:
        print(f"trainlab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("trainlab: interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trainlab",
        description="The course on training neural networks: open it, fetch its data, restart a chapter.",
    )
    parser.add_argument("--version", action="version", version=f"trainlab {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    lab = commands.add_parser(
        "lab",
        help="open your copies of the chapters in JupyterLab",
        description="Bring your copies of the chapters up to date (what you wrote stays) and open them in "
        "JupyterLab. All other options are passed on to it, such as --no-browser or --port=9000.",
        allow_abbrev=False,  # an option of JupyterLab's must not be taken for a shortened one of ours
    )
    lab.set_defaults(run=_lab)

    fetch = commands.add_parser("fetch", help="fetch the course's data (later, no network is needed)")
    fetch.add_argument(
        "names", nargs="*", metavar="NAME", help="a data set or model; all of them if none is named"
    )
    fetch.set_defaults(run=_fetch)

    reset = commands.add_parser("reset", help="set your copy of a chapter aside and get a fresh one")
    reset.add_argument("chapter", help="its number, such as 02")
    reset.set_defaults(run=_reset)

    for command in (lab, reset):
        command.add_argument("--my", metavar="FOLDER", help="where your copies are (default: my/)")
        command.add_argument(
            "--chapters", metavar="FOLDER", help="hand out these notebooks, not the course's"
        )
    return parser


# Each subcommand imports what it needs when it runs: `trainlab --help` and `trainlab lab` answer at once.


def _lab(options: argparse.Namespace) -> None:
    from .course import copies, lab

    where = copies.places(options.chapters, options.my)
    copies.update(where)
    print(f"Your copies of the chapters are in {where.my}. Starting JupyterLab; Ctrl-C stops it.")
    lab.start(where, options.others)


def _fetch(options: argparse.Namespace) -> None:
    from .course import lab

    if not options.names:
        print("The course's data is there." if lab.fetch_all() else "The course's data is there already.")
        return
    from .data import catalogue

    for name in options.names:
        catalogue.fetch(name)


def _reset(options: argparse.Namespace) -> None:
    from .course import copies

    fresh, aside = copies.reset(copies.places(options.chapters, options.my), options.chapter)
    if aside is not None:
        print(f"Your version is kept as {aside.name}.")
    print(f"A fresh copy is at {fresh}.")
