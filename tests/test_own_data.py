"""The learner's own files: what is in them arrives, and what could be misread is refused with a remedy."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import trainlab as tl
from trainlab.data.own import image_folder

CSV = """name,city,age,income,visit,day,left
ann, Bonn,31,1200.5,a,2024-01-03,no
bob, Köln,44,,a,2024-01-01,yes
cyd, Bonn,29,900,b,2024-02-01,no
dan, ,51,1000,c,2024-01-01,no
"""


def written(folder: Path, name: str, content: str, encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_bytes(content.encode(encoding))
    return path


def quietly(*arguments: Any, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tl.load(*arguments, **options)


def save(folder: Path, name: str, pixels: np.ndarray, **options: Any) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


# --- tables


def test_a_table_arrives_as_it_is_written(tmp_path: Path) -> None:
    path = written(tmp_path, "people.csv", CSV, "utf-8-sig")
    data = quietly(path, "left", groups="visit", time="day", drop=["name"])
    assert repr(data) == "Dataset(people: 4 rows of 3, 2 classes)"
    assert data.columns == ("city", "age", "income")
    assert data.classes == ("no", "yes")
    assert data.targets.tolist() == [0, 1, 0, 0]
    assert data.groups.tolist() == [0, 0, 1, 2]
    assert data.time.tolist() == [2, 0, 31, 0]
    assert data.levels == {"city": ("Bonn", "Köln")}
    expected = torch.tensor([[0, 31, 1200.5], [1, 44, np.nan], [0, 29, 900], [np.nan, 51, 1000]])
    torch.testing.assert_close(data.features, expected, equal_nan=True)
    whole = data.subset(~data.features.isnan().any(1))  # what the warning advises
    assert whole.rows.tolist() == [0, 2]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_pandas_reads_the_same(tmp_path: Path, separator: str, line_end: str) -> None:
    rng = np.random.default_rng(0)
    written_frame = pd.DataFrame(
        {
            "x": rng.normal(size=60),
            "kind": rng.choice(["one, two", "three; four", 'a "b"'], 60),
            "y": rng.normal(size=60),
        }
    )
    suffix = ".tsv" if separator == "\t" else ".csv"
    path = tmp_path / f"table{suffix}"
    written_frame.to_csv(path, index=False, sep=separator, lineterminator=line_end)
    frame = tl.load(str(path), target="y").frame()
    np.testing.assert_allclose(frame["x"], written_frame["x"], rtol=1e-6)
    np.testing.assert_allclose(frame["target"], written_frame["y"], rtol=1e-6)
    assert list(frame["kind"]) == list(written_frame["kind"])


def test_missing_values_are_reported_where_they_are_and_never_filled(tmp_path: Path) -> None:
    path = written(tmp_path, "people.csv", CSV)
    with pytest.warns(UserWarning, match=r"2 of 4 rows \(city 1, income 1\) and stay NaN. Leave") as caught:
        data = tl.load(path, "left", drop=("name", "visit", "day"))
    assert caught[0].filename == __file__, "the warning points at the line that calls load"
    assert data.features.isnan().sum() == 2
    with pytest.raises(tl.TrainlabError, match="2 of 4 rows hold NaN"):
        tl.make_loader(data, 2, seed=0, shuffle=False)


@pytest.mark.parametrize(
    ("values", "classes", "targets"),
    [
        (["3", "1", "3", "2"], ("1", "2", "3"), [2, 0, 2, 1]),
        (["1.0", "0.0", "1.0", "0.0"], ("0", "1"), [1, 0, 1, 0]),
        (["1.5", "0", "1", "0"], (), [1.5, 0, 1, 0]),
        (["True", "False", "True", "True"], ("False", "True"), [1, 0, 1, 1]),
        (["low", "high", "low", "low"], ("high", "low"), [1, 0, 1, 1]),
    ],
)
def test_what_is_a_class_and_what_a_value(
    tmp_path: Path, values: list[str], classes: tuple[str, ...], targets: list[float]
) -> None:
    path = written(tmp_path, "t.csv", "x,y\n" + "".join(f"{k},{value}\n" for k, value in enumerate(values)))
    data = tl.load(path, "y")
    assert data.classes == classes
    assert data.targets.tolist() == targets
    assert data.targets.dtype == (torch.int64 if classes else torch.float32)
    many = written(tmp_path, "m.csv", "x,y\n" + "".join(f"{k},{k}\n" for k in range(21)))
    assert tl.load(many, "y").classes == ()


def test_times_and_groups_are_kept_as_numbers_where_they_are_numbers(tmp_path: Path) -> None:
    lines = "".join(f"{k % 3},{10**12 + k % 4},{k / 4},{k % 2}\n" for k in range(12))
    path = written(tmp_path, "t.csv", "x,customer,hour,y\n" + lines)
    data = tl.load(path, "y", groups="customer", time="hour")
    assert data.groups.tolist() == [10**12 + k % 4 for k in range(12)]
    assert data.time.tolist() == [k / 4 for k in range(12)]
    hours = written(tmp_path, "h.csv", "x,at,y\n1,2024-01-01T12:00,0\n2,2024-01-01,1\n")
    assert tl.load(hours, "y", time="at").time.tolist() == [0.5, 0.0]
    assert len(tl.split(data, (0.5, 0.5, 0), seed=0, groups=True).valid) == 6


# --- folders of images


def test_a_folder_of_images_arrives_pixel_by_pixel(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2, 3, 5, 4), dtype=np.uint8)
    for label, name in enumerate(("cat", "ant")):
        for k in range(3):
            save(tmp_path / "pets", f"{name}/{k}.png", pixels[label, k])
    written(tmp_path / "pets" / "cat", ".DS_Store", "x")
    written(tmp_path / "pets" / "cat", "Thumbs.db", "x")
    data = tl.load(tmp_path / "pets")
    assert repr(data) == "Dataset(pets: 6 rows of 1x5x4, 2 classes)"
    assert data.classes == ("ant", "cat")
    assert data.targets.tolist() == [0, 0, 0, 1, 1, 1]
    np.testing.assert_allclose(data.features[3:, 0].numpy() * 255, pixels[0], atol=1e-4)
    assert tl.load(str(tmp_path / "pets"), size=(2, 8)).features.shape == (6, 1, 2, 8)


def test_colours_transparency_depth_and_orientation(tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    red = np.zeros((4, 6, 3), np.uint8)
    red[..., 0] = 255
    red[0] = 0  # the upper edge is black
    turned = Image.Exif()
    turned[0x0112] = 6  # held upright: turn it by a quarter to the right
    save(folder, "a/red.png", red)
    save(folder, "a/turned.png", np.ascontiguousarray(np.rot90(red)), exif=turned)
    glass = np.zeros((4, 6, 4), np.uint8)
    glass[:, :3] = [0, 0, 255, 255]
    save(folder, "b/glass.png", glass)
    save(folder, "b/deep.png", np.full((4, 6), 65535 // 3, np.uint16))
    data = tl.load(folder)
    deep, glass_read, red_read, turned_read = data.features[[2, 3, 0, 1]]
    assert data.features.shape == (4, 3, 4, 6)
    assert torch.equal(red_read, torch.from_numpy(red).permute(2, 0, 1) / 255)
    assert torch.equal(turned_read, red_read)
    assert torch.equal(glass_read[:, 0], torch.tensor([[0.0] * 3 + [1.0] * 3] * 2 + [[1.0] * 6]))
    assert deep.unique().tolist() == pytest.approx([1 / 3], abs=1e-6)


# --- texts


def test_lines_paragraphs_and_labelled_lines(tmp_path: Path) -> None:
    lines = tl.load(written(tmp_path, "lines.txt", "\ufeffone\r\n two words \r\nthree\r\n"))
    assert lines.texts == ("one", "two words", "three")
    assert lines.targets.tolist() == [-100] * 3
    assert repr(lines) == "TextDataset(lines: 3 texts, without labels)"
    story = tl.load(written(tmp_path, "story.txt", "\n\nOnce upon\na time.\n\n \n\nThe end.\n"))
    assert story.texts == ("Once upon a time.", "The end.")
    labelled = tl.load(written(tmp_path, "mail.txt", "spam\tbuy\tnow\nham\thello\n\nspam\tcheap\n"))
    assert labelled.texts == ("buy\tnow", "hello", "cheap")
    assert labelled.classes == ("ham", "spam")
    assert [(text, int(label)) for text, label in (labelled[0], labelled[1])] == [
        ("buy\tnow", 1),
        ("hello", 0),
    ]
    [(texts, labels)] = list(tl.make_loader(labelled, 3, seed=0, shuffle=False))
    assert list(texts) == list(labelled.texts)
    assert labels.tolist() == [1, 0, 1]


# --- names and paths


def test_what_is_a_name_and_what_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for place in ("digits", "pets"):
        save(tmp_path, f"{place}/a/0.png", np.zeros((2, 2), np.uint8))
        save(tmp_path, f"{place}/b/0.png", np.zeros((2, 2), np.uint8))
    assert len(tl.load("digits")) == 1797, "a name of the catalogue is never taken for a folder"
    assert len(tl.load("./digits")) == len(tl.load(Path("digits"))) == len(tl.load("pets")) == 2
    with pytest.raises(tl.TrainlabError, match="unknown data set 'petz'"):
        tl.load("petz")


# --- wrong files

Make = Callable[[Path], Any]


def table(content: str, target: str | None = "y", **options: Any) -> Make:
    return lambda folder: tl.load(written(folder, "t.csv", content), target, **options)


def text(content: str, **options: Any) -> Make:
    return lambda folder: tl.load(written(folder, "t.txt", content), **options)


def images(*files: tuple[str, Any], **options: Any) -> Make:
    def make(folder: Path) -> Any:
        for name, content in files:
            if isinstance(content, str):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                written(folder, name, content)
            else:
                save(folder, name, content)
        return tl.load(folder, **options)

    return make


grey = np.zeros((4, 4), np.uint8)
pair = (("a/0.png", grey), ("b/0.png", grey))
many = "".join(f"name{k},{k % 2}\n" for k in range(30))

WRONG: list[tuple[str, Make, str]] = [
    ("no such file", lambda folder: tl.load(folder / "x.csv"), r"there is no file or folder '.*x\.csv' in /"),
    ("another kind", lambda f: tl.load(written(f, "t.xlsx", "x")), r"t\.xlsx is none of \.csv, \.tsv, \.txt"),
    ("a target for images", images(*pair, target="y"), "a folder of images, which knows no target: leave"),
    ("a size for a table", table("x,y\n1,2\n", size=8), "is a table, which knows no size"),
    ("groups for a text", text("a\nb\n", groups="a"), "is a text, which knows no groups"),
    (
        "a target for the catalogue",
        lambda folder: tl.load("digits", "label", drop="x"),
        "target and drop belong to a file of your own: digits is a data set of the catalogue",
    ),
    ("no target", table("x,y\n1,2\n", None), r"which column of t\.csv is to be predicted\? .* one of x, y"),
    ("a column that is not there", table("x,y\n1,2\n", "z"), "unknown column 'z'"),
    ("a column with two parts", table("x,y\n1,2\n", groups="y"), "column 'y' is named twice"),
    ("nothing to learn from", table("x,y\n1,2\n", drop="x"), "no column left to learn from"),
    (
        "other values than names",
        table("x,y\n1,2\n1,2,3,4\n"),
        r"is no table \(Error .*\): its first line names",
    ),
    ("more values than names", table("x,y\n1,2,3\n4,5,6\n"), r"is no table \(Length .*\): its first"),
    ("no rows", table("x,y\n"), r"is no table \(0 rows under 2 names\)"),
    ("one column", table("y\n1\n2\n"), r"is no table \(2 rows under 1 names\)"),
    ("a column without a name", table(",x,y\n0,1,2\n"), r"column 1 of t\.csv has no name: name it"),
    ("one name twice", table("x,y,x\n0,1,2\n"), "two columns of t.csv are called 'x'"),
    ("infinite features", table("x,y\n1,2\ninf,3\n"), "column 'x' holds infinite values"),
    ("infinite targets", table("y,x\n1,2\ninf,3\n"), "the target holds infinite values"),
    (
        "large numbers",
        table("x,y\n1700000001,1\n1700000002,2\n"),
        "column 'x' holds whole numbers up to 1700000002, which float32 cannot tell apart: leave it out",
    ),
    ("names of people", table("x,y\n" + many), "column 'x' holds 30 different texts in 30 rows, too many"),
    ("names to predict", table("y,x\n" + many), "target 'y' holds 30 different texts in 30 rows: a class"),
    ("decimal commas", table("x;y\n1;2\n1,5;3\n"), "column 'x' holds numbers with a comma, such as '1,5'"),
    ("thousands", table('x,y\n"1,200",2\n"3",3\n'), "numbers with a comma, such as '1,200': write a point"),
    (
        "words among numbers",
        table("x,y\n1,2\n2,3\n?,4\n"),
        r"column 'x' holds numbers, but not in 1 rows, such as '\?'",
    ),
    ("one class only", table("x,y\n1,2\n2,2\n"), "the target is '2' in every row"),
    (
        "a target is missing",
        table("x,y\n1,2\n2,\n3,4\n"),
        "target 'y' is missing in 1 of 3 rows, .* row 1",
    ),
    ("a group is missing", table("x,y,g\n1,2,\n2,3,a\n", groups="g"), "the group 'g' is missing in 1 of 2"),
    ("a time is missing", table("x,y,t\n1,2,5\n2,3,\n", time="t"), "the time 't' is missing in 1 of 2"),
    (
        "a date to misread",
        table("x,y,t\n1,2,03/04/2024\n2,3,05/04/2024\n", time="t"),
        "column 't' holds '03/04/2024': write dates as year-month-day",
    ),
    (
        "another encoding",
        lambda folder: tl.load(written(folder, "t.csv", "x,y\nKöln,1\n", "latin-1"), "y"),
        r"t\.csv is not in UTF-8: save it anew",
    ),
    ("an empty file", table("\n \n"), r"t\.csv is empty: nothing"),
    ("no subfolders", images(("0.png", grey)), r"has 0 subfolder\(s\): put the images of each class"),
    (
        "train and test already",
        images(*((f"{part}/{name}", content) for part in ("train", "test") for name, content in pair)),
        "there are folders inside 'test': give the folder whose subfolders are the classes",
    ),
    ("a class without images", images(*pair, ("c/.hidden", "")), "the folder 'c' holds no image: give each"),
    (
        "other files among images",
        images(*pair, ("a/notes.md", "x")),
        r"the folder 'a' holds 1 file\(s\) that are no images \(notes\.md\)",
    ),
    (
        "a damaged image",
        images(*pair, ("b/1.png", "x")),
        r"b/1\.png cannot be read as an image \(.*\)",
    ),
    (
        "values of 32 bits",
        images(*pair, ("b/1.tif", np.zeros((4, 4), np.float32))),
        r"b/1\.tif cannot be read as an image \(its values have 32 bits",
    ),
    (
        "several sizes",
        images(*pair, ("b/1.png", np.zeros((3, 9), np.uint8))),
        r"the images have 2 sizes, the smallest height and width are 3 and 4: say .* size=3\)",
    ),
    ("a size of nothing", images(*pair, size=0), "size=0 is no height and width in pixels: use 64"),
    ("a size of three", images(*pair, size=(4, 4, 3)), r"size=\(4, 4, 3\) is no height and width"),
    ("more than fits", images(*pair, size=30_000), r"2 images of 30000x30000 take 7\.2 GB of memory"),
    ("one text", text("only one\n"), r"t\.txt holds 1 text\(s\): write one a line"),
    (
        "labels here and there",
        text("a\tx\n\nno label\nb\ty\n"),
        r"2 of 3 lines .* tab, line 3 has none",
    ),
    ("one label", text("a\tx\na\ty\n"), r"has 1 different label\(s\) in 2 lines, such as 'a'"),
    (
        "the label last",
        text("".join(f"some text {k}\t{k % 2}\n" for k in range(40))),
        r"has 40 different label\(s\) in 40 lines, .* the label first",
    ),
]


@pytest.mark.parametrize(("make", "match"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_a_file_that_could_be_misread_is_refused(tmp_path: Path, make: Make, match: str) -> None:
    with pytest.raises(tl.TrainlabError, match=match):
        quietly_made(tmp_path, make)


def quietly_made(folder: Path, make: Make) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make(folder)


def test_a_cut_off_image_is_refused_too(tmp_path: Path) -> None:
    images(*pair)(tmp_path)
    save(tmp_path, "b/1.png", np.random.default_rng(0).integers(0, 256, (4, 4), dtype=np.uint8))
    whole = (tmp_path / "b/1.png").read_bytes()
    (tmp_path / "b/1.png").write_bytes(whole[: len(whole) - 30])
    with pytest.raises(tl.TrainlabError, match=r"b/1\.png cannot be read as an image"):
        tl.load(tmp_path)


def test_every_refusal_is_met(tmp_path: Path) -> None:
    hit: set[tuple[str, int]] = set()
    for number, (_, make, _) in enumerate(WRONG):
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises(tl.TrainlabError) as caught:
            quietly_made(folder, make)
        trace = caught.value.__traceback__
        while trace is not None:
            hit.add((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
            trace = trace.tb_next
    unmet = []
    for path in sorted(Path(image_folder.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            lines = range(node.lineno, (node.end_lineno or 0) + 1) if isinstance(node, ast.Raise) else ()
            if lines and not any((str(path), line) in hit for line in lines):
                unmet.append(f"{path.name}:{lines[0]}")
    # the second reading of an image fails only where its first bytes are sound: see the test above
    assert len(unmet) == 1, unmet
    assert unmet[0].startswith("image_folder.py")
