"""`make bench`: how quickly the live panels answer in a real JupyterLab, and what they cost the training.

A browser presses and moves; each line of the table is a median over many trials. The page's clock and the
kernel's are one, the machine's. Nothing here fails for being slow: a missed target is printed as missed.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from browser.notebook_page import NotebookPage, browser_page, running_lab, write_notebook
from browser.panel_page import RECORD_TEXTS, PanelPage

CELLS = (
    """import time, torch, trainlab as tl
torch.set_num_threads(1)""",
    """first = tl.panels.FirstRun()
first.epochs = 10_000
first""",
    "lab = tl.panels.RateLab()\nlab",
    "tl.panels.LoopAndCurves()",
    "tl.panels.OptimizerRace()",
    """tl.seed_everything(0)
data = tl.split(tl.load("mnist5k"), seed=0, stratify=True)
model = tl.models.CNN(1, 10)
state = tl.TrainState(model, torch.optim.Adam(model.parameters(), 1e-3))
tl.LiveRun(state, tl.make_loader(data.train, 64, seed=0, shuffle=True), tl.losses.classification(),
           tl.TrainConfig(epochs=4), valid=tl.make_loader(data.valid, 250, seed=0, shuffle=False))""",
    """stops, exits = [], []
first.stop_button._click_handlers.callbacks.insert(0, lambda button: stops.append(time.time()))
def at_exit(run):
    if run.status == "stopped":
        exits.append(time.time())
first.runs[0].on_frame.insert(0, at_exit)""",
    """alone = first._make(0.1, 64)
alone.start(wait=False)""",
    """alone.stop()
again = first._make(0.1, 64)
config = tl.TrainConfig(steps=1500, validate_every=20)
began = time.perf_counter()
tl.fit(again.state, again.loader.inner, again.loss_fn, config, valid=again.valid)
fitted = 1500 / (time.perf_counter() - began)""",
)
FIRST, LAB, CURVES, RACE, LIVE, LISTEN, ALONE, FIT = range(1, 9)

# One move of a slider, to `place`: milliseconds until a frame is painted that answers it. That is any frame
# while nothing else moves, and else the one with the mark (null where the same mark stood there before).
MOVE = """([input, chart, place, marked]) => new Promise((done, fail) => {
    const canvas = chart.querySelector('.stage > canvas');
    const texts = () => canvas.texts.map(each => each.text);
    const [before, frame] = [texts(), chart.dataset.frame];
    const began = performance.now();
    input.value = place;
    input.dispatchEvent(new Event('input', { bubbles: true }));
    const mark = `rate ${input.parentNode.querySelector('output').textContent}`;
    if (marked && before.includes(mark)) return done(null);
    const watch = new MutationObserver(() => {
        if (marked ? !texts().includes(mark) : chart.dataset.frame === frame) return;
        watch.disconnect();
        done(Number(chart.dataset.painted) - began);
    });
    watch.observe(chart, { attributeFilter: ['data-frame'] });
    setTimeout(() => fail(new Error(`no answer in 5 s, ${mark}`)), 5000);
})"""
# A click on Stop: the time of it, and milliseconds until the page says that the run has stopped.
STOP = """([button, root]) => new Promise((done, fail) => {
    const clicked = performance.timeOrigin + performance.now(), began = performance.now();
    const watch = new MutationObserver(() => {
        if (!root.textContent.includes('stopped')) return;
        watch.disconnect();
        done([clicked, performance.now() - began]);
    });
    watch.observe(root, { childList: true, subtree: true, characterData: true });
    setTimeout(() => fail(new Error('not stopped in 5 s')), 5000);
    button.click();
})"""


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moves", type=int, default=50, help="of a slider, 40 at least")
    parser.add_argument("--rounds", type=int, default=5, help="of the training speed, 3 at least")
    options = parser.parse_args()
    moves, rounds = max(40, options.moves), max(3, options.rounds)
    load = os.getloadavg()[0]
    print(f"bench: load {load:.1f} on {os.cpu_count()} cores; busy cores make all of this noisy", flush=True)
    with tempfile.TemporaryDirectory() as folder, opened(Path(folder)) as notebook:
        first = PanelPage(notebook, FIRST)
        first.start()
        first.goes_on(20)
        idle = schedule_moves(notebook, moves)
        first.goes_on(20)
        training = rate_moves(first, moves)
        frames = frames_a_second(first)
        fast = speeds(first, rounds)
        stops = stop_times(first, 25)
        size = saved_size(notebook, Path(folder))
    print_table(idle, training, frames, fast, stops, size)
    print(f"\nload at the end {os.getloadavg()[0]:.1f}")


@contextmanager
def opened(folder: Path) -> Iterator[NotebookPage]:
    """A notebook with five panels, shown and not started."""
    chapters = folder / "chapters"
    chapters.mkdir()
    write_notebook(chapters / "00_panels.ipynb", CELLS)
    with running_lab(folder, chapters, every_cell_drawn=True) as link, browser_page(1280, 1000) as page:
        page.add_init_script(RECORD_TEXTS)
        notebook = NotebookPage.opened(page, link)
        for place in range(LIVE + 1):
            notebook.run_cell(place)
        page.wait_for_function("() => document.querySelectorAll('.trainlab-chart[data-frame]').length >= 9")
        yield notebook


def moved(panel: PanelPage, slider: str, title: str, moves: int, *, marked: bool) -> list[float]:
    """Milliseconds from each input event of a slider to the painted answer, ascending."""
    handle = panel.slider(slider).element_handle()
    chart = panel.chart(title).element_handle()
    highest = max(10, int(panel.slider(slider).input_value()))
    found: list[float] = []
    place = highest
    while len(found) < moves:
        place = random.choice([other for other in range(highest - 9, highest) if other != place])
        milliseconds = panel.notebook.page.evaluate(MOVE, [handle, chart, place, marked])
        if milliseconds is not None:
            found.append(milliseconds)
        panel.notebook.page.wait_for_timeout(random.uniform(120, 320))
    return sorted(found)


def schedule_moves(notebook: NotebookPage, moves: int) -> list[float]:
    """While nothing trains: the peak of a schedule, which is drawn anew."""
    first, lab = PanelPage(notebook, FIRST), PanelPage(notebook, LAB)
    first.pause()
    lab.press("Schedules")
    lab.chart("The schedule").locator("visible=true").wait_for()
    notebook.page.wait_for_timeout(500)
    found = moved(lab, "peak rate", "The schedule", moves, marked=False)
    first.start()
    return found


def rate_moves(first: PanelPage, moves: int) -> list[float]:
    """While the MLP trains: the learning rate, which leaves a mark on the curve."""
    return moved(first, "learning rate", "Loss", moves, marked=True)


def frames_a_second(first: PanelPage) -> list[float]:
    """Painted frames of the loss's chart a second, in spans of five."""
    chart = first.chart("Loss")
    found = []
    for _ in range(3):
        before = int(chart.get_attribute("data-frame") or 0)
        first.notebook.page.wait_for_timeout(5000)
        found.append((int(chart.get_attribute("data-frame") or 0) - before) / 5)
    return sorted(found)


def speeds(first: PanelPage, rounds: int) -> dict[str, list[float]]:
    """Steps a second round by round: under the panel, in the same thread without one, and by `fit`."""
    notebook = first.notebook
    found: dict[str, list[float]] = {"panel": [], "alone": [], "fit": []}
    for _ in range(rounds):
        found["panel"].append(steps_a_second(notebook, "first.runs[0]"))
        first.pause()
        notebook.run_cell(ALONE)
        found["alone"].append(steps_a_second(notebook, "alone"))
        notebook.run_cell(FIT)
        found["fit"].append(notebook.ask("fitted"))
        first.start()
        first.goes_on(20)
    return found


def steps_a_second(notebook: NotebookPage, run: str) -> float:
    """Of a run that goes on, over three seconds."""
    look = f"(time.perf_counter(), {run}.state.step)"
    begun, before = notebook.ask(look)
    notebook.page.wait_for_timeout(3000)
    ended, after = notebook.ask(look)
    return float((after - before) / (ended - begun))


def stop_times(first: PanelPage, times: int) -> dict[str, list[float]]:
    """Milliseconds from a click on Stop, and from its handler, to the exit, and to the page's word."""
    notebook = first.notebook
    notebook.run_cell(LISTEN)
    first.root.scroll_into_view_if_needed()  # what is out of sight is not laid out
    button, root = first.button("Stop").element_handle(), first.root.element_handle()
    found: dict[str, list[float]] = {"click": [], "handler": [], "page": []}
    for _ in range(times):
        notebook.page.wait_for_timeout(random.uniform(300, 600))
        clicked, said = notebook.page.evaluate(STOP, [button, root])
        handled, ended = notebook.ask("(stops[-1], exits[-1])")
        found["click"].append(1000 * ended - clicked)
        found["handler"].append(1000 * (ended - handled))
        found["page"].append(said)
        first.start()
        first.goes_on(3)
    first.press("Stop")
    return {name: sorted(values) for name, values in found.items()}


def saved_size(notebook: NotebookPage, folder: Path) -> float:
    """Megabytes of the notebook's file after every panel has run, saved as JupyterLab does by default."""
    for place in (FIRST, CURVES, RACE, LIVE):
        panel = PanelPage(notebook, place)
        panel.start()
        panel.goes_on(60)
        panel.pause()
    notebook.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    (saved,) = (path for path in (folder / "my").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
    return saved.stat().st_size / 1e6


def print_table(
    idle: list[float],
    training: list[float],
    frames: list[float],
    fast: dict[str, list[float]],
    stops: dict[str, list[float]],
    size: float,
) -> None:
    """One line for each quantity, with its target."""
    print(f"\n{'':58} median    90 %   target")
    for name, values in (("not training", idle), ("training", training)):
        line(f"slider event to changed picture, {name}, ms", values, 60, most=120)
    line("painted frames a second while an MLP trains", frames, 10, larger=True)
    for name, rival in (("the same run without a panel", "alone"), ("fit in a cell", "fit")):
        ratios = sorted(one / other for one, other in zip(fast["panel"], fast[rival]))
        line(f"training speed against {name}", ratios, 0.9, larger=True)
    line("Stop: click in the page to the loop's exit, ms", stops["click"], 30)
    line("Stop: handler in the kernel to the loop's exit, ms", stops["handler"], 30)
    line("Stop: click to the page's word that it stopped, ms", stops["page"], None)
    line("saved notebook with five panels that ran, MB", [size], 1)
    print("\nsteps a second: " + ", ".join(f"{name} {median(values):.0f}" for name, values in fast.items()))


def line(
    name: str, values: list[float], target: float | None, *, larger: bool = False, most: float | None = None
) -> None:
    """A line of the table.  larger: whether more is better.  most: target of the 90th percentile."""
    middle = median(values)
    tail = f"{quantiles(values, n=10, method='inclusive')[8]:7.2f}" if len(values) > 9 else f"{'':7}"
    if target is None:
        print(f"{name:58}{middle:7.2f} {tail}")
        return
    met = middle >= target if larger else middle <= target
    if most is not None:
        met = met and float(tail) <= most
    wanted = f"{target:g}" + (f" and {most:g}" if most is not None else "")
    print(f"{name:58}{middle:7.2f} {tail}   {wanted:12} {'met' if met else 'MISSED'}")


if __name__ == "__main__":
    main()
