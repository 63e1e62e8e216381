"""Pictures of a chapter as a learner sees it, from top to bottom: for authors.

python tests/browser/look.py 00                        both themes, every cell run first
python tests/browser/look.py 02 --theme dark --out pictures
python tests/browser/look.py draft.ipynb --no-run      any notebook, with the outputs it has
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from browser.notebook_page import THEMES, NotebookPage, browser_page, running_lab
from chapters.environment import REPOSITORY

from trainlab.course.copies import find_chapter


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("chapter", help="a chapter's number, or the path of a notebook")
    parser.add_argument("--theme", choices=[*THEMES, "both"], default="both")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "artefacts", help="default: artefacts/")
    parser.add_argument("--no-run", action="store_true", help="show the stored outputs, run nothing")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=1400)
    parser.add_argument("--seconds", type=float, default=600, help="the longest that running it may take")
    options = parser.parse_args()
    chapter = options.chapter
    path = Path(chapter) if chapter.endswith(".ipynb") else find_chapter(REPOSITORY / "notebooks", chapter)
    with tempfile.TemporaryDirectory() as folder:
        look(path, Path(folder), options)


def look(path: Path, folder: Path, options: argparse.Namespace) -> None:
    """Open the notebook in a lab of its own, run it, and take its pictures in each theme."""
    chapters = folder / "chapters"
    chapters.mkdir()
    shutil.copy(path, chapters)
    if options.no_run:  # the learner's copies come without outputs: put one with them in its place
        (folder / "my").mkdir()
        shutil.copy(path, folder / "my")
    with (
        running_lab(folder, chapters, every_cell_drawn=True) as link,
        browser_page(options.width, options.height) as page,
    ):
        notebook = NotebookPage.opened(page, link)
        notebook.show_only_the_notebook()
        if not options.no_run:
            notebook.run_all(options.seconds)
        for theme in THEMES if options.theme == "both" else [options.theme]:
            notebook.set_theme(theme)
            taken = notebook.pictures(options.out, f"{path.stem}-{theme}", options.height - 200)
            print(*taken, sep="\n")
        for error in notebook.error_outputs() + notebook.errors:
            print(f"error: {error}")


if __name__ == "__main__":
    main()
