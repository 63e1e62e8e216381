"""The panels under a person's hands, in a real JupyterLab: every control, and every way to stop."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from chapters.environment import REPOSITORY

from trainlab.plots import COLORS

if TYPE_CHECKING:
    from browser.notebook_page import NotebookPage
    from browser.panel_page import PanelPage

# one lab for the whole file: they stay in one process
pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("panels")]

ARTEFACTS = REPOSITORY / "artefacts"
CELLS = (
    """import threading, torch, trainlab as tl
torch.set_num_threads(1)
made = []
def kept(panel):
    made.append(panel)
    return panel
def live(loss_fn=tl.losses.classification(), observers=()):
    tl.seed_everything(0)
    x = torch.randn(600, 20)
    rows = (x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long())
    model = tl.models.MLP(20, [16], 3)
    state = tl.TrainState(model, torch.optim.SGD(model.parameters(), 0.01))
    loader = tl.make_loader(rows, 20, seed=0, shuffle=True)
    return tl.LiveRun(state, loader, loss_fn, tl.TrainConfig(epochs=2000), observers=observers,
                      valid=tl.make_loader(rows, 200, seed=0, shuffle=False))""",
    """first = kept(tl.panels.FirstRun())
first.epochs = 200  # as many as a quick machine needs to be watched
first""",
    "kept(tl.panels.LoopAndCurves())",
    "kept(tl.panels.OptimizerRace())",
    "kept(tl.panels.RateLab())",
    "kept(live())",
    """def not_a_number(model, batch):
    steps.append(0)
    loss = torch.nn.functional.cross_entropy(model(batch[0]), batch[1])
    return loss * float("nan") if len(steps) > 7 else loss
steps = []
kept(live(not_a_number))""",
    """def reads(event):
    if event.step == 5:
        open("labels.csv")
kept(live(observers=[reads]))""",
    """signal = kept(tl.panels.SignalLab())
signal.epochs = 200  # as many as a quick machine needs to be watched
signal""",
    """desk = kept(tl.panels.AugmentationDesk())
desk.steps = 3000
desk""",
    "kept(tl.panels.SplitAndSeal())",
    """rescue = kept(tl.panels.Rescue())
rescue.sliders["epochs"].move_to(500)  # as many as a quick machine needs to be watched
rescue""",
    """losses = kept(tl.panels.LossLab())
losses.steps = 4000  # as many as a slow machine needs to be watched
losses""",
    "kept(tl.panels.KillAndResume())",
    "kept(tl.panels.MemoryBudget())",
)
FIRST, CURVES, RACE, LAB, LIVE, NAN, FILE, SIGNAL, DESK, SEAL, RESCUE, LOSSES, KILL, MEMORY = range(1, 15)
RUNS = {"FirstRun": FIRST, "LoopAndCurves": CURVES, "OptimizerRace": RACE, "LiveRun": LIVE}
RUNS |= {"SignalLab": SIGNAL, "AugmentationDesk": DESK, "Rescue": RESCUE, "LossLab": LOSSES}
FORK = [name for name in RUNS if name not in ("OptimizerRace", "SignalLab", "Rescue", "LossLab")]
MOVED = {"OptimizerRace": "learning rate of SGD", "Rescue": "dropout"}  # in the place of the learning rate


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NotebookPage]:
    """A notebook with one cell for each panel; none of them is run yet."""
    from browser.notebook_page import NotebookPage, browser_page, running_lab, write_notebook
    from browser.panel_page import RECORD_TEXTS

    folder = tmp_path_factory.mktemp("lab")
    chapters = folder / "chapters"
    chapters.mkdir()
    write_notebook(chapters / "00_panels.ipynb", CELLS)
    with running_lab(folder, chapters, every_cell_drawn=True) as link, browser_page(1280, 1000) as page:
        page.add_init_script(RECORD_TEXTS)
        opened = NotebookPage.opened(page, link)
        opened.show_only_the_notebook()
        opened.run_cell(0)
        yield opened
        assert opened.error_outputs() == []
        assert opened.errors == [], "errors in the page's own console"


def _shown(notebook: NotebookPage, cell: int) -> PanelPage:
    """A fresh panel; whatever other tests left running is stopped."""
    from browser.panel_page import PanelPage

    notebook.ask("[panel.close() for panel in made if hasattr(panel, 'close')] and None")
    return PanelPage(notebook, cell).show()


def _threads(notebook: NotebookPage) -> int:
    """How many threads drive live runs."""
    count: int = notebook.ask("sum(t.name == 'trainlab-live' for t in threading.enumerate())")
    return count


def _stands(panel: PanelPage) -> None:
    """No step is taken for a while."""
    before = panel.steps()
    panel.notebook.page.wait_for_timeout(300)
    assert panel.steps() == before


# --- what all panels around a run do -----------------------------------------------------------------


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_started_paused_stepped_rewound_and_stopped(notebook: NotebookPage, name: str) -> None:
    panel = _shown(notebook, RUNS[name])
    frames = panel.frames()
    notebook.page.wait_for_timeout(250)
    assert _threads(notebook) == 0, "it began by being shown"
    assert panel.frames() == frames
    panel.start()
    panel.goes_on(30)
    assert panel.frames() >= frames + 2
    panel.pause()
    _stands(panel)
    panel.one_step()
    panel.one_step()
    _go_back(panel)
    panel.start()
    panel.goes_on(5)
    panel.press("Stop")
    panel.rests()
    assert "stopped" in panel.status() or name == "OptimizerRace"
    _stands(panel)


_OFFERED = "(root, step) => [...root.querySelectorAll('input')].some(each => each.ariaValueText === step)"


def _go_back(panel: PanelPage) -> None:
    """To a step that was kept, an epoch or more before this one."""
    _train(panel, 75)
    now, picture = panel.steps(), panel.picture()
    back = now[0]
    while back > min(now) - 20:  # an epoch, for what has one point an epoch; and one racer may be ahead
        panel.until(_OFFERED, str(max(panel.steps())))
        back = int(panel.move("Go back to step", "ArrowLeft"))
        panel.stands_at_most(back)
    panel.changes(picture)
    assert back > 0
    assert panel.steps() == [back] * len(now)


@pytest.mark.parametrize("name", FORK)
def test_a_fork_has_curves_of_its_own_and_a_reset_keeps_the_old_ones_faint(
    notebook: NotebookPage, name: str
) -> None:
    panel = _shown(notebook, RUNS[name])
    panel.start()
    panel.goes_on(60)
    panel.pause()
    alone = panel.legend("Loss")
    panel.press("Fork")
    panel.says("run B")
    both = panel.legend("Loss")
    assert both == [f"{curve} {letter}" for letter in "AB" for curve in alone]
    for target in ("run A", "both runs", "run B"):  # B last: it alone is changed
        _choose(panel, "controls act on:", target)
    rate = panel.move("learning rate")
    panel.start()
    panel.goes_on(40)
    panel.pause()
    panel.draws(f"rate {float(rate):.2g}")
    losses = re.findall(r"loss ([\d.e+-]+)", panel.status())
    assert len(set(losses)) == 2, "two rates, one loss"
    panel.inked("Loss", COLORS[1], full=True)
    panel.press("Reset")
    panel.says("step 0")
    assert panel.legend("Loss") == alone
    panel.until("root => !root.innerText.includes('run B')")
    panel.inked("Loss", COLORS[1], full=False, faint=True)


def test_a_control_moved_during_a_run_leaves_a_mark_on_the_curve(notebook: NotebookPage) -> None:
    panel = _shown(notebook, FIRST)
    panel.start()
    panel.goes_on(5)
    panel.move("learning rate", "ArrowLeft")
    panel.draws("rate 0.07")
    panel.move("batch size")
    panel.draws("batch size 128")
    panel.pause()


def test_each_key_of_a_slider_says_a_rate(notebook: NotebookPage) -> None:
    panel = _shown(notebook, LIVE)
    said = [panel.move("learning rate", key) for key in ("ArrowRight", "ArrowUp", "Home", "End", "ArrowLeft")]
    assert said == ["0.015", "0.02", "0.0001", "1", "0.7"]
    assert panel.slider("learning rate").evaluate("each => each.labels[0].innerText") == "learning rate"


# --- one thread, whatever is pressed ------------------------------------------------------------------


def test_a_double_click_and_a_cell_run_again_leave_one_thread(notebook: NotebookPage) -> None:
    panel = _shown(notebook, LIVE)
    panel.button("Start").dblclick()
    panel.says(r"step [1-9]|running|paused")
    assert _threads(notebook) <= 1
    if panel.button("Start").count():  # its second click was a pause
        panel.start()
    panel.goes_on(3)
    assert notebook.ask("made[-1].status") == "running"
    panel.show()
    assert notebook.ask("[each.status for each in made[-2:]]") == ["stopped", "ready"]
    panel.start()
    panel.goes_on(3)
    assert _threads(notebook) == 1
    panel.press("Stop")
    panel.says("stopped")


def test_an_interrupt_of_the_idle_kernel_pauses_the_run(notebook: NotebookPage) -> None:
    panel = _shown(notebook, LIVE)
    panel.start()
    panel.goes_on(10)
    notebook.interrupt()
    panel.says("paused")
    _stands(panel)
    panel.start()
    panel.goes_on(10)
    panel.press("Stop")
    panel.says("stopped")


# --- nothing goes wrong in silence --------------------------------------------------------------------


def test_a_rate_that_diverges_is_said_with_its_step(notebook: NotebookPage) -> None:
    panel = _shown(notebook, RACE)
    panel.root.get_by_role("checkbox", name="momentum").uncheck()
    panel.root.get_by_role("checkbox", name="Adam", exact=True).uncheck()
    panel.move("learning rate of SGD", "End")
    panel.start()
    panel.says(r"SGD: .*loss.*step \d+")


def test_what_a_loss_function_and_an_observer_raise_is_said(notebook: NotebookPage) -> None:
    panel = _shown(notebook, NAN)
    panel.press("Start")
    panel.says(r"(?=.*loss.*nan)(?=.*step 8)")
    panel = _shown(notebook, FILE)
    panel.press("Start")
    panel.says("FileNotFoundError.*labels.csv")
    assert panel.steps() == [] or panel.steps() == [5]


# --- every control ------------------------------------------------------------------------------------


def test_every_control_of_the_first_run(notebook: NotebookPage) -> None:
    panel = _shown(notebook, FIRST)
    moved = {"Start", "Step", "Stop", "Reset", "Fork", "Go back to step"}  # in the tests above
    moved.add("Sixteen unseen digits, as they are read now")  # a picture that the keys read out
    panel.one_step()
    for name in ("learning rate", "batch size"):
        moved.add(name)
    picture = panel.picture()
    moved.add(_choose(panel, "model:", "CNN"))
    panel.changes(picture)
    panel.says("CNN.*step 0")
    _train(panel, 21)
    moved |= _charts_answer(panel, "Loss")
    moved |= _charts_answer(panel, "Read correctly")
    _assert_all(panel, moved)


def test_every_control_of_loop_and_curves(notebook: NotebookPage) -> None:
    panel = _shown(notebook, CURVES)
    moved = {"Start", "Step", "Stop", "Reset", "Fork", "Go back to step", "training rows"}
    panel.move("training rows", "Home")
    panel.says("50 rows")
    outcomes = {_two_steps(panel)}
    for name in ("hidden units", "random labels", "epochs", "training rows"):
        picture = panel.picture()
        panel.move(name)
        panel.says("step 0")
        panel.changes(picture)
        outcomes.add(_two_steps(panel))
        moved.add(name)
    assert len(outcomes) == 5, f"a control has no effect: {outcomes}"
    rate = panel.move("learning rate")
    _train(panel, 8)  # the curves of this panel get a point at the end of an epoch
    panel.draws(f"rate {rate}")
    moved |= {"learning rate"} | _charts_answer(panel, "Loss") | _charts_answer(panel, "Accuracy")
    _assert_all(panel, moved)


def test_every_control_of_the_signal_lab(notebook: NotebookPage) -> None:
    panel = _shown(notebook, SIGNAL)
    moved = {"Start", "Step", "Stop", "Reset", "Go back to step"}
    for name in ("hidden layers", "weight scale"):
        picture = panel.picture()
        panel.move(name)
        panel.changes(picture)  # the signal before the first step
        panel.says("step 0")
        moved.add(name)
    panel.move("hidden layers", "Home")
    panel.says("1 layers of 241")
    panel.move("hidden layers")
    panel.says("2 layers of 142")
    for name, option in (("activation:", "tanh"), ("normalisation:", "layer"), ("layers:", "residual")):
        picture = panel.picture()
        moved.add(_choose(panel, name, option))
        panel.changes(picture)
    _train(panel, 25)
    rate = panel.move("learning rate")
    _train(panel, 8)
    moved.add("learning rate")
    panel.draws(f"rate {rate}")
    for title in ("Forward: how much images differ", "Backward: what arrives of the gradient", "Loss"):
        moved |= _charts_answer(panel, title)
    _assert_all(panel, moved)


def test_every_control_of_the_loss_lab(notebook: NotebookPage) -> None:
    panel = _shown(notebook, LOSSES)
    moved = {"Start", "Step", "Stop", "Reset", "Go back to step"}
    _train(panel, 25)
    for loss in ("L1", "Huber", "pinball"):  # the run that is there goes on, on another loss
        picture = panel.picture()
        moved.add(_choose(panel, "loss:", loss))
        panel.changes(picture)
        panel.draws(f"loss {loss}")
        for name in {"Huber": ["delta"], "pinball": ["quantile"]}.get(loss, []):
            panel.draws(f"{name} {panel.move(name).removesuffix(' euros')}")
            moved.add(name)
    assert min(panel.steps()) >= 25
    moved.add("learning rate")
    rate = panel.move("learning rate", "ArrowLeft")
    _train(panel, 8)
    panel.draws(f"rate {float(rate):.2g}")
    for title in ("Prices", "Pull of one booking", "Said, and come true"):
        moved |= _charts_answer(panel, title)
    panel.move("misprints")
    panel.says("step 0")
    _assert_all(panel, moved | {"misprints", "on:"})

    picture = panel.picture()
    _choose(panel, "on:", "defaults")
    panel.changes(picture)
    panel.says("defaults.*step 0")
    _train(panel, 25)
    for name in ("weight", "smoothing"):
        panel.draws(f"{name} {panel.move(name)}")
        moved.add(name)
    for title in ("Defaults", "Pull of one customer", "Said, and come true"):
        moved |= _charts_answer(panel, title)
    _assert_all(panel, moved | {"on:"})


def _train(panel: PanelPage, steps: int) -> None:
    """So many steps, and a few more."""
    panel.start()
    panel.goes_on(steps)
    panel.pause()


def _two_steps(panel: PanelPage) -> str:
    panel.one_step()
    panel.one_step()
    return panel.status().partition("paused")[2]


def test_every_control_of_the_race(notebook: NotebookPage) -> None:
    panel = _shown(notebook, RACE)
    moved = {"Start", "Step", "Stop", "Reset", "Go back to step"}
    names = ["SGD", "momentum", "Nesterov", "RMSprop", "Adam", "AdamW", "Lookahead"]
    for name in names:
        box = panel.root.get_by_role("checkbox", name=name, exact=True)
        if not box.is_checked():
            box.focus()
            notebook.page.keyboard.press("Space")
            panel.until("(root, name) => root.querySelector('.legend').innerText.includes(name)", name)
        moved.add(name)
    panel.one_step()
    for name in names:
        rate = panel.move(f"learning rate of {name}", "ArrowLeft")
        panel.one_step()
        panel.draws(f"rate {float(rate):.2g}")
    momentum = panel.move("momentum")
    panel.one_step()
    panel.draws(f"momentum {momentum}")
    moved |= {"rate", "momentum", "gradient noise", "Paths"}
    picture = panel.picture()
    panel.move("gradient noise")
    panel.says("SGD: ready")
    panel.changes(picture)
    picture = panel.picture()
    panel.chart("Paths").locator(".stage > canvas").click(position={"x": 300, "y": 90})
    panel.goes_on(40, [])  # the race begins anew from there
    panel.pause()
    panel.changes(picture)
    moved |= _charts_answer(panel, "Height of the loss") | _charts_answer(panel, "Paths")
    _assert_all(panel, moved | {"on:"})
    for ground in ("bowl", "bend", "saddle", "digits", "valley"):
        picture = panel.picture()
        _choose(panel, "on:", ground)
        panel.changes(picture)


def test_every_control_of_the_rate_lab(notebook: NotebookPage) -> None:
    panel = _shown(notebook, LAB)
    views = {"Range test", "Schedules", "Many rates at once", "Start", "Stop"}
    panel.move("steps", "Home")
    for choice in (("optimizer:", "Adam"), ("model:", "deep MLP"), ("steps", "ArrowRight")):
        panel.press("Start")
        panel.says("Suggested rate|not fall|fell nowhere")
        picture = panel.picture()
        _choose(panel, *choice) if choice[0] != "steps" else panel.move(*choice)
        panel.changes(picture)
    panel.press("Start")
    panel.says("Suggested rate|not fall|fell nowhere")
    moved = views | {"model:", "optimizer:", "steps"} | _charts_answer(panel, "Loss as the rate rises")
    _assert_all(panel, moved)

    panel.turn_to("Schedules", "The schedule", "Loss")
    moved = views | {"Step", "Reset", "Fork", "Go back to step"}
    for name, option in (("model:", "deep MLP"), ("optimizer:", "Adam"), ("schedule:", "one cycle")):
        panel.one_step()
        panel.one_step()
        picture = panel.picture()
        moved.add(_choose(panel, name, option))
        panel.changes(picture)
        panel.says("step 0")
    _choose(panel, "schedule:", "cosine")
    for name in ("peak rate", "warm-up", "final", "epochs"):
        picture = panel.picture()
        panel.move(name)
        panel.changes(picture)
        moved.add(name)
    _train(panel, 21)
    moved |= _charts_answer(panel, "Loss") | _charts_answer(panel, "The schedule")
    _assert_all(panel, moved)

    panel.turn_to("Many rates at once", "Loss of each member, now")
    panel.move("epochs", "End")  # long enough to be paused in the middle
    for name, option in (("epochs", ""), ("optimizer:", "Adam"), ("model:", "deep MLP")):
        picture = panel.picture()
        panel.start()
        panel.changes(picture)
        panel.pause()
        picture = panel.picture()
        _choose(panel, name, option) if option else panel.move(name, "ArrowLeft")
        panel.changes(picture)
    panel.move("epochs", "Home")
    panel.press("Start")
    panel.says("best rate", 20)
    moved = views | {"model:", "optimizer:", "epochs"} | _charts_answer(panel, "Loss of each member, now")
    _assert_all(panel, moved)


def test_every_control_of_split_and_seal(notebook: NotebookPage) -> None:
    panel = _shown(notebook, SEAL)
    moved = {"Start", "Open the envelope", "Reported, and what the day of use says"}
    panel.press("Open the envelope")
    panel.says("no finished forest")
    panel.press("Start")
    panel.says("AUC 0.9.*groups with rows on both sides")
    panel.press("Open the envelope")
    panel.draws("the envelope")
    panel.says("In the envelope 0.")
    for name, option, said in (
        ("columns:", "age alone", r"AUC (0\.9|1\.0)"),
        ("split:", "grouped", r"AUC 0\.[4-7]"),
        ("data:", "Amazon sentences", "accuracy 0.[67].*groups with rows"),
        ("data:", "silhouettes", "accuracy 0.8"),
        ("data:", "hotel prices", "R2 0.9"),
        ("data:", "credit defaults", r"recall 0\.[1-5]"),
        ("copies of the rare class:", "before the split", "recall 1.00"),
    ):
        picture = panel.picture()
        moved.add(_choose(panel, name, option))
        panel.changes(picture)
        panel.says("Start grows a forest")
        panel.press("Start")
        panel.says("(?=.*on the part held back).*" + said, 60)  # and no longer "so far"
    panel.press("Open the envelope")
    panel.says(r"In the envelope 0\.")
    panel.move("seed")
    panel.says("Start grows a forest")
    moved.add("seed")
    _choose(panel, "data:", "visits of patients")
    panel.says("Start grows a forest")
    for count in range(2):
        panel.press("Start")
        panel.says("on the part held back")
        panel.press("Open the envelope")
        panel.says("it is a validation part")
        _choose(panel, "split:", ("timed", "random")[count])
        panel.says("Start grows a forest")
    panel.press("Start")
    panel.says("on the part held back")
    moved |= _charts_answer(panel, "The forest as it grows")
    moved |= _charts_answer(panel, "The rows, by the part they are in")
    _assert_all(panel, moved)


def test_every_control_of_the_memory_budget(notebook: NotebookPage) -> None:
    panel = _shown(notebook, MEMORY)
    moved = {"Measure", "Foretold", "Measured, one real step"}
    panel.press("Measure")
    panel.says("the budget is off by", 60)
    for name in ("width", "depth", "rows", "length"):
        picture = panel.picture()
        panel.move(name, "ArrowLeft")
        panel.says("Measure takes a real step")
        panel.changes(picture)
        moved.add(name)
    for name, option in (
        ("optimizer:", "SGD"),
        ("precision:", "bf16"),
        ("checkpointing:", "yes"),
        ("model:", "ResNet"),
    ):
        picture = panel.picture()
        moved.add(_choose(panel, name, option))
        panel.changes(picture)
    panel.press("Measure")
    panel.says("the budget is off by", 60)
    _choose(panel, "model:", "CNN")
    panel.says("has no checkpointing")
    _assert_all(panel, moved)


def test_every_control_of_the_rescue(notebook: NotebookPage) -> None:
    panel = _shown(notebook, RESCUE)
    moved = {"Start", "Step", "Stop", "Reset", "Go back to step", "Open the seal"}
    panel.press("Open the seal")
    panel.says("nothing to score yet")
    panel.move("training rows", "Home")  # an epoch is one step
    panel.says("50 rows")
    outcomes = {_two_steps(panel)}
    structure = ("false labels", "hidden units", "DropConnect", "label smoothing", "training rows", "epochs")
    for name in structure:
        picture = panel.picture()
        panel.move(name, "ArrowLeft" if name == "epochs" else "ArrowRight")
        panel.says("step 0")
        panel.changes(picture)
        outcomes.add(_two_steps(panel))
        moved.add(name)
    assert len(outcomes) == 1 + len(structure), f"a control has no effect: {outcomes}"
    for name in ("dropout", "weight decay"):
        value = panel.move(name)
        _train(panel, 8)  # the curves of this panel get a point at the end of an epoch
        panel.draws(f"{name} {value}")
        moved.add(name)
    picture = panel.picture()
    panel.press("Open the seal")
    panel.says("You would have reported")
    panel.changes(picture)
    panel.press("Open the seal")
    panel.says("Opened 2 times")
    for title in ("Right", "Loss", "What would you report?"):
        moved |= _charts_answer(panel, title)
    panel.move("patience")
    moved.add("patience")
    panel.press("Start")
    panel.says(r"stopped.*step \d+ of", 30)
    _assert_all(panel, moved)


def test_every_control_of_kill_and_resume(notebook: NotebookPage) -> None:
    panel = _shown(notebook, KILL)
    moved = {"Start", "Step", "Kill", "Stop", "Reset"}
    panel.press("Kill")
    panel.says("nothing is saved before step 20")
    panel.start()
    panel.says(r"step ([2-9]\d|1[0-3]\d) of 160", 60)
    panel.press("Kill")
    panel.says(r"went on from step \d+ with everything.*the same to the last bit", 30)
    pieces = ("weights", "optimizer", "schedule", "generators", "place in the epoch")
    for piece in pieces:
        panel.root.get_by_role("checkbox", name=f"keep: {piece}").uncheck()
        moved.add(f"keep: {piece}")
    panel.press("Kill")
    panel.says(rf"without: {', '.join(pieces)}.*apart", 30)
    panel.pause()
    for title in ("Validation loss", "How far apart the weights are"):
        moved |= _charts_answer(panel, title)
    picture = panel.picture()
    panel.press("Reset")
    panel.changes(picture)
    panel.one_step()
    panel.start()
    panel.press("Stop")
    panel.says("stopped")
    _assert_all(panel, moved)


def test_every_control_of_a_live_run(notebook: NotebookPage) -> None:
    panel = _shown(notebook, LIVE)
    panel.one_step()
    rate = panel.move("learning rate")
    panel.one_step()
    panel.draws(f"rate {rate}")
    _train(panel, 35)
    moved = {"Start", "Step", "Stop", "Reset", "Fork", "Go back to step", "learning rate"}
    _assert_all(panel, moved | _charts_answer(panel, "Loss") | _charts_answer(panel, "Metrics"))


def test_every_control_of_the_augmentation_desk(notebook: NotebookPage) -> None:
    panel = _shown(notebook, DESK)
    batch = "A batch as the network is shown it"
    moved = {
        "Start",
        "Step",
        "Stop",
        "Reset",
        "Fork",
        "Go back to step",
        batch,
    }  # a picture the keys read out
    panel.one_step()
    for name in ("labels a class", "turn", "move", "zoom", "brightness"):
        picture = panel.picture()
        panel.move(name)
        panel.changes(picture)
        panel.says("step 0")
        moved.add(name)
    for name, option in (("flip:", "left-right"), ("blend:", "mixup"), ("digits to read:", "dim")):
        _train(panel, 21)
        picture = panel.picture()
        moved.add(_choose(panel, name, option))
        panel.changes(picture)
        panel.says("step 0")
    rate = panel.move("learning rate")
    _train(panel, 41)
    panel.draws(f"rate {rate}")
    moved |= (
        {"learning rate"} | _charts_answer(panel, "Read correctly") | _charts_answer(panel, "Digit by digit")
    )
    moved |= _charts_answer(panel, "Loss")
    _assert_all(panel, moved)


_CHOSEN = "box => box.selectedOptions[0].text.replaceAll('\\xa0', ' ')"


def _choose(panel: PanelPage, name: str, option: str) -> str:
    """Choose in a list by the keys; gives its name."""
    box = panel.root.get_by_role("combobox", name=name).locator("visible=true")
    for _ in range(5):  # JupyterLab may take the focus to the cell a moment after a click
        box.focus()
        options = [each.replace("\xa0", " ") for each in box.locator("option").all_inner_texts()]
        away = options.index(option) - options.index(box.evaluate(_CHOSEN))
        for _ in range(abs(away)):
            panel.notebook.page.keyboard.press("ArrowDown" if away > 0 else "ArrowUp")
        if box.evaluate(_CHOSEN) == option:
            break
        panel.notebook.page.wait_for_timeout(300)
    assert box.evaluate(_CHOSEN) == option
    return name


def _charts_answer(panel: PanelPage, title: str) -> set[str]:
    """Move all that a chart has itself, and see it drawn; gives the names."""
    chart = panel.chart(title)
    moved = {title}
    for button in chart.locator(".legend button, .tools button").all():
        panel.painted()
        picture = panel.picture()
        button.click()
        panel.changes(picture)
        button.click()
        panel.shows(picture)
        moved.add(button.inner_text())
    if chart.get_by_role("slider").count():
        chart.get_by_role("slider").focus()
        panel.notebook.page.keyboard.press("End")
        moved.add("smoothing")
    return moved


def _assert_all(panel: PanelPage, moved: set[str]) -> None:
    """Nothing that can be moved was left out (a chart goes by its title), and Tab reaches all of it."""
    names = {name.partition(". ")[0] if kind == "canvas" else name for kind, name in panel.controls()}
    assert names - moved - {"Pause"} == set(), "controls that no test moves"
    assert all(names), "a control without a name"
    panel.root.evaluate("root => root.querySelector('button, select, input').focus()")
    reached = panel.root.evaluate(_HERE)
    for _ in panel.controls()[1:]:
        panel.notebook.page.keyboard.press("Tab")
        reached += panel.root.evaluate(_HERE)
    assert reached == list(range(len(panel.controls()))), "Tab does not reach every control in its order"
    sliders = panel.root.locator(".trainlab-slider input")
    said = sliders.evaluate_all("all => all.map(each => each.ariaValueText)")
    assert all(re.fullmatch(r"[\d.e-]+( [a-z]+)?", value) for value in said)


# --- as it looks ---------------------------------------------------------------------------------------


WIDTHS = (1280, 1920)


def test_nothing_is_cut_or_overlaps_in_either_theme_at_either_width(notebook: NotebookPage) -> None:
    """All of them with runs in them, forks and marks included; a theme switch draws every chart anew."""
    panels = _all(notebook)
    pictures: dict[str, list[str]] = {}
    ARTEFACTS.mkdir(exist_ok=True)
    flaws = []
    for theme in ("light", "dark"):
        notebook.set_theme(theme)
        for width in WIDTHS:
            notebook.page.set_viewport_size({"width": width, "height": 6000})  # all in sight
            notebook.scroll(0)
            for name, panel in panels.items():
                pictures.setdefault(f"{name} {width}", []).append(panel.picture())
                flaws += [f"{name}, {theme}, {width}: {flaw}" for flaw in panel.flaws()]
            notebook.page.screenshot(path=ARTEFACTS / f"panels-{theme}-{width}.png")
    notebook.set_theme("light")
    notebook.page.set_viewport_size({"width": 1280, "height": 1000})
    assert flaws == []
    assert all(light != dark for light, dark in pictures.values()), "a theme switch is not drawn"


def _all(notebook: NotebookPage) -> dict[str, PanelPage]:
    """Every panel, paused in the middle of a run, with a mark; those that fork are forked."""
    from browser.panel_page import PanelPage

    panels = {}
    for name, cell in {**RUNS, "RateLab": LAB, "SplitAndSeal": SEAL, "MemoryBudget": MEMORY}.items():
        panel = panels[name] = PanelPage(notebook, cell).show()
        if cell == MEMORY:
            panel.press("Measure")
            panel.says("the budget is off by")
            continue
        if cell == LAB:
            panel.press("Start")
            panel.says("Suggested rate")
            continue
        if cell == SEAL:
            panel.press("Start")
            panel.says("on the part held back")
            panel.press("Open the envelope")
            panel.says("In the envelope 0")
            continue
        _train(panel, 25)
        panel.move(MOVED.get(name, "learning rate"))
        _train(panel, 25)
        if name in FORK:
            panel.press("Fork")
            panel.says("run B")
            panel.one_step()
    return panels


# The place among its controls of the one that has the focus.
_HERE = """root => {
    const all = [...root.querySelectorAll('button, select, input, canvas[tabindex]')]
        .filter(each => each.checkVisibility() && each.getBoundingClientRect().width && !each.disabled);
    return [all.indexOf(document.activeElement)]; }"""


def test_enter_and_space_press_a_button_and_letters_leave_the_cells_alone(notebook: NotebookPage) -> None:
    panel = _shown(notebook, LIVE)
    cells = len(notebook.cells())
    for key, label in (("Enter", "Pause"), ("Space", "Start")):
        panel.root.locator("button.mod-primary").focus()
        notebook.page.keyboard.press(key)
        panel.button(label).wait_for(timeout=8000)
    for place in (
        panel.slider("learning rate"),
        panel.chart("Loss").locator(".stage > canvas"),
        panel.button("Start"),
    ):
        place.focus()
        for key in ("d", "d", "b", "m"):  # delete the cell, another below, make it text
            notebook.page.keyboard.press(key)
    assert len(notebook.cells()) == cells
    assert notebook.cells()[LIVE]["cell_type"] == "code"
