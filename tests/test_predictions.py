"""A reveal waits for a commitment where somebody is there, and runs openly where nobody is."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace

import nbformat
import pytest

from trainlab.course import predictions, record
from trainlab.course.predictions import predict
from trainlab.errors import TrainlabError


@pytest.fixture(autouse=True)
def learner(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINLAB_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TRAINLAB_UNATTENDED", raising=False)
    monkeypatch.setattr(record, "_in_memory", {})


def choice(**options):
    return predict("98.a", "What happens?", **{"choices": ["worse", "better"], "guess": "worse", **options})


# --- unattended ------------------------------------------------------------------------------------


def test_without_a_kernel_question_and_outcome_are_plain_text(capsys):
    bet = choice()
    assert capsys.readouterr().out == (
        "Prediction 98.a: What happens?\n  - worse\n  - better\nguess: worse\n"
    )
    with bet.reveal("better", lesson="One sentence."):
        print("the body")
    assert capsys.readouterr().out == "the body\npredicted: worse; measured: better\nOne sentence.\n"
    assert record.read() == record.Record()


@pytest.mark.parametrize(
    ("options", "truth", "reveal", "line"),
    [
        ({"number": (0, 1), "guess": 0.9, "tolerance": 0.02}, 0.93456, {}, "predicted: 0.90; measured: 0.93"),
        ({"number": (0, 1), "guess": 0.9}, 0.93456, {"digits": 1}, "predicted: 0.9; measured: 0.9"),
        ({"number": (0, 1), "guess": 0.9}, 0.93456, {"text": "0.93 or so"}, "measured: 0.93 or so"),
        ({"number": (0, 300), "guess": 100, "unit": "s"}, 250, {}, "predicted: 100 s; measured: 250 s"),
        ({"ranking": ["a", "b"], "guess": ["b", "a"]}, ("a", "b"), {}, "predicted: b, a; measured: a, b"),
    ],
)
def test_outcomes_read_as_their_kind_does(options, truth, reveal, line, capsys):
    bet = predict("98.a", "How much?", **options)
    with bet.reveal(truth, **reveal):
        pass
    assert line in capsys.readouterr().out


LOSS = {"curve": (("epoch", 0, 10), ("loss (nats)", 0, 2)), "guess": [2.0, 1.0, 0.5]}


def test_a_curve_is_told_by_three_of_its_points(capsys):
    bet = predict("98.a", "How does it fall?", **LOSS)
    with bet.reveal(([0, 2, 10], [2.0, 1.0, 0.0])):
        pass
    said = capsys.readouterr().out
    assert "  a curve: loss (nats), 0 to 2, over epoch, 0 to 10\n" in said
    assert "predicted: 2.0 at 0, 1.0 at 5, 0.5 at 10; measured: 2.0 at 0, 0.6 at 5, 0.0 at 10" in said


@pytest.mark.parametrize(
    ("guess", "right"), [([2.0, 0.625, 0.0], True), ([2.0, 1.2, 0.0], True), ([2.0, 1.3, 0.0], False)]
)
def test_a_curve_is_right_within_the_mean_distance(guess, right):
    drawing = predictions._drawing(LOSS["curve"], guess, None)
    truth = drawing.plain(([0, 2, 10], [2.0, 1.0, 0.0]), "truth")
    assert drawing.compare(guess, truth)[0] is right


def test_a_drawn_curve_is_committed_and_stands_beside_the_truth(monkeypatch):
    monkeypatch.setattr(predictions, "_attended", lambda: True)
    monkeypatch.setattr(predictions, "_display_widget", lambda box, text: shown.append(box))
    shown = []
    bet = predict("98.a", "How does it fall?", **LOSS)
    _, chart, buttons, said = shown[0].children
    buttons.children[0].click()
    assert "Draw the whole curve first" in said.value
    assert not bet.settled
    chart.drawn = [1.0, 1.0, 1.0]
    buttons.children[0].click()
    assert bet.guess == [1.0, 1.0, 1.0]
    assert chart.locked
    predictions._Outcome(bet, ([0.0, 10.0], [2.0, 0.0]), "", None, "").uncover()
    assert "measured" in chart.text()


def test_an_error_in_the_body_passes_through_unattended(capsys):
    with pytest.raises(ZeroDivisionError), choice().reveal("better"):
        print("before")
        1 / 0  # noqa: B018
    assert capsys.readouterr().out.endswith("before\n")


@pytest.mark.parametrize(
    ("guess", "truth", "right", "says"),
    [
        (0.90, 0.92, True, "As predicted, within 0.02."),
        (0.90, 0.86, False, "Off by 0.04; within 0.02 would have counted as right."),
        (0.10, 0.90, False, "Off by 0.8; within 0.02 would have counted as right."),
    ],
)
def test_a_number_is_judged_on_the_scale_of_its_tolerance(guess, truth, right, says):
    assert predictions._Number(0, 1, "", 0.02).compare(guess, truth) == (right, says)


# --- wrong arguments -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"guess": "beter"}, r"guess='beter' is not among \(worse, better\): choose one of them"),
        ({"choices": None}, "98.a: give exactly one of choices=, ranking=, number= and curve="),
        ({"number": (0, 1)}, "98.a: give exactly one of choices=, ranking=, number= and curve="),
        ({"unit": "s"}, "98.a: unit= and tolerance= go with number= only: leave them out"),
        ({"choices": ["one"]}, r"\['one'\] are not two or more different texts"),
        ({"choices": ["a", "a"]}, "are not two or more different texts: list them as"),
        ({"choices": [1, 2]}, r"\[1, 2\] are not two or more different texts"),
        ({"choices": "ab"}, "'ab' are not two or more different texts"),
        (
            {"choices": None, "ranking": ["a", "b"], "guess": ["a", "a"]},
            r"is no order of \(a, b\): name each",
        ),
        ({"choices": None, "ranking": ["a", "b"], "guess": 3}, r"guess=3 is no order of \(a, b\)"),
        ({"choices": None, "number": (1, 0), "guess": 1}, r"number=\(1, 0\) is no range: write it as \(low"),
        ({"choices": None, "number": 1, "guess": 1}, "number=1 is no range"),
        ({"choices": None, "number": (0, float("inf")), "guess": 1}, r"number=\(0, inf\) is no range"),
        ({"choices": None, "number": ("0", "1"), "guess": 1}, r"number=\('0', '1'\) is no range"),
        ({"choices": None, "number": (0, 1), "guess": 2}, "guess=2 lies outside 0 to 1: choose one inside"),
        ({"choices": None, "number": (0, 1), "guess": "x"}, "guess='x' is not a finite number: enter one"),
        ({"choices": None, "number": (0, 1), "guess": 1, "tolerance": 0}, "tolerance=0 is not above 0: say"),
        ({"choices": None, "curve": 3, "guess": [1, 1, 1]}, "curve=3: write it as"),
        ({"choices": None, "curve": (("x", 1, 0), ("y", 0, 1)), "guess": [1, 1, 1]}, "low below high"),
        ({"choices": None, "curve": LOSS["curve"], "guess": [1]}, r"guess=\[1\] is no curve: give 3 values"),
        ({"choices": None, "curve": LOSS["curve"], "guess": [1, 1, "a"]}, "is no curve here: give 3 numbers"),
        ({"choices": None, **LOSS, "tolerance": 0}, "tolerance=0 is not above 0: say"),
    ],
)
def test_wrong_arguments_name_value_rule_and_remedy(options, says):
    with pytest.raises(TrainlabError, match=says):
        choice(**options)


def test_an_id_names_chapter_and_letter():
    with pytest.raises(
        TrainlabError, match=r"prediction id '2a' is not chapter\.letter: write it like '02\.a'"
    ):
        predict("2a", "?", choices=["a", "b"], guess="a")


def test_a_truth_that_cannot_be_answered_is_refused():
    with pytest.raises(TrainlabError, match=r"truth='same' is not among \(worse, better\)"):
        choice().reveal("same")
    with pytest.raises(TrainlabError, match="truth=nan is not a finite number"):
        predict("98.a", "?", number=(0, 1), guess=0.5).reveal(float("nan"))


# --- attended: widgets without a browser -----------------------------------------------------------


class _Publisher:
    """As much of a kernel's display publisher as a reveal needs."""

    def __init__(self):
        self.hooks, self.published = [], []
        self.register_hook, self.unregister_hook = self.hooks.append, self.hooks.remove

    def publish(self, data, metadata=None, **_):
        self.published.append(data)


@pytest.fixture
def kernel(monkeypatch):
    shell = SimpleNamespace(kernel=object(), display_pub=_Publisher())
    monkeypatch.setattr(predictions, "_shell", lambda: shell)
    shell.boxes = []
    monkeypatch.setattr(predictions, "_display_widget", lambda box, text: shell.boxes.append(box))
    return shell


def parts(panel):
    _, control, buttons, said = panel.children
    return control, *buttons.children, said


def test_a_reveal_waits_for_the_commitment_and_then_shows_both(kernel, capsys):
    bet = choice()
    control, commit, _, said = parts(kernel.boxes[0])
    with bet.reveal("better", lesson="Because <it> is."):
        print("held back")
    out, words, button = kernel.boxes[1].children
    assert (capsys.readouterr().out, out.outputs) == ("", ())
    assert "Make your prediction above" in words.value
    commit.click()
    assert "Choose one of them first." in said.value and out.outputs == ()
    control.value = "worse"
    commit.click()
    assert out.outputs == ({"output_type": "stream", "name": "stdout", "text": "held back\n"},)
    assert "Predicted: worse. Measured: better.<br>Because &lt;it&gt; is." in words.value
    assert (control.disabled, commit.disabled, button.layout.display) == (True, True, "none")
    (made,) = record.read().predictions["98.a"]
    assert (made.guess, made.truth, made.right) == ("worse", "better", False)


def test_show_me_reveals_and_counts_as_no_prediction(kernel):
    bet = choice()
    with bet.reveal("better"):
        print("held back")
    out, words, button = kernel.boxes[1].children
    button.click()
    assert len(out.outputs) == 1 and "You asked to be shown. Measured: better." in words.value
    assert record.read().predictions["98.a"][0].guess is None
    assert bet.settled and "made" in repr(bet)


def test_a_commitment_while_the_body_runs_on_another_thread_counts(kernel):
    bet = choice()
    control, commit, *_ = parts(kernel.boxes[0])
    with bet.reveal("worse"):
        control.value = "worse"
        handler = threading.Thread(target=commit.click)
        handler.start()
        handler.join()
        print("after the click")
    assert kernel.boxes[1].children[0].outputs[0]["text"] == "after the click\n"
    assert record.read().predictions["98.a"][0].right


def test_a_reveal_run_again_is_recorded_once(kernel, capsys, monkeypatch):
    bet = choice()
    parts(kernel.boxes[0])[2].click()
    for _ in range(2):
        with bet.reveal("better"):
            print("at once")
    assert capsys.readouterr().out.count("at once") == 2
    assert len(kernel.boxes) == 1 and len(record.read().predictions["98.a"]) == 1


def test_an_error_in_a_held_body_passes_and_shows_what_was_printed(kernel, capsys):
    with pytest.raises(ZeroDivisionError), choice().reveal("better"):
        print("before")
        1 / 0  # noqa: B018
    assert capsys.readouterr().out == "before\n"
    assert kernel.display_pub.hooks == []


def test_a_ranking_and_a_number_are_read_from_their_controls(kernel):
    ranking = predict("98.b", "Order?", ranking=["a", "b"], guess=["a", "b"])
    control, commit, _, said = parts(kernel.boxes[0])
    control.children[0].value = control.children[1].value = "b"
    commit.click()
    assert "Name each of them once first." in said.value and not ranking.settled
    control.children[1].value = "a"
    commit.click()
    assert ranking.guess == ["b", "a"] and control.children[0].disabled
    number = predict("98.c", "How much?", number=(0, 1), unit="m", guess=0.5)
    control, commit, _, said = parts(kernel.boxes[1])
    for text in ("", "x", "7"):
        control.children[0].value = text
        commit.click()
        assert "Enter a number from 0 to 1 m first." in said.value and not number.settled
    control.children[0].value = "0,25"
    commit.click()
    assert number.guess == 0.25


# --- attended: a real kernel -----------------------------------------------------------------------

CELLS = [
    "from trainlab.course.predictions import predict\n"
    "bet = predict('98.a', 'What?', choices=['yes', 'no'], guess='yes')",
    "from IPython.display import HTML, display\n"
    "from matplotlib import pyplot as plt\n"
    "with bet.reveal('no'):\n"
    "    print('one')\n"
    "    handle = display(HTML('<b>two</b>'), display_id=True)\n"
    "    print('three')\n"
    "    handle.update(HTML('<b>2</b>'))\n"
    "    plt.plot([1, 2])\n"
    "curtain = bet._curtains[0]",
    "bet._settle('yes')\n"
    "for each in curtain.out.outputs:\n"
    "    data = each.get('data', {})\n"
    "    print(each.get('text', '').strip() or data.get('text/html') or data['image/png'][:4])",
    "with bet.reveal('no'):\n    print('again')\n    plt.plot([1, 2])",
    "bet = predict('98.a', 'What?', choices=['yes', 'no'], guess='yes')\n"
    "with bet.reveal('no'):\n    display(HTML('shown'))\n    1/0",
]


def test_in_a_real_kernel_all_outputs_are_held_in_order(tmp_path):
    client = pytest.importorskip("nbclient").NotebookClient
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS])
    asyncio.set_event_loop(asyncio.new_event_loop())
    client(notebook, timeout=60, kernel_name="python3", allow_errors=True).execute()
    asked, held, told, again, failed = [cell.outputs for cell in notebook.cells]
    assert asked[0].data["text/plain"] == "Prediction 98.a: What?\n  - yes\n  - no"
    assert [each.data["text/plain"] for each in held] == ["The result waits for your prediction."]
    assert told[0].text == "one\n<b>2</b>\nthree\niVBO\n"
    assert again[0].text == "again\n"
    assert "image/png" in again[1].data and "Predicted: yes. Measured: no." in again[2].data["text/html"]
    assert failed[2].data["text/html"] == "shown" and failed[3].ename == "ZeroDivisionError"
