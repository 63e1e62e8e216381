"""The project that is chosen in chapter 01 comes back in every later chapter."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import trainlab as tl
from trainlab.course.projects import numbers


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRAINLAB_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TRAINLAB_UNATTENDED", raising=False)
    return tmp_path


def table(folder: Path) -> Path:
    path = folder / "mine.csv"
    rows = [f"{place % 7},{place / 3},{'ab'[place % 2]},{place // 4}" for place in range(80)]
    path.write_text("\n".join(["x,z,outcome,patient", *rows]))
    return path


def same(one: tl.Splits, other: tl.Splits) -> bool:
    return all(torch.equal(*pair) for pair in zip(one.indices, other.indices))


def test_digits_stand_in_until_a_project_is_chosen() -> None:
    stand_in = tl.project()
    assert stand_in.train.name == "digits"
    assert same(stand_in, tl.split(tl.load("digits"), (0.7, 0.2, 0.1), seed=0, stratify=True))


def test_a_file_of_ones_own_comes_back_from_another_folder(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table(own_home)
    monkeypatch.chdir(own_home)
    chosen = tl.project("mine.csv", target="outcome", groups="patient", split="groups", seed=3)
    elsewhere = own_home / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    again = tl.project()
    assert same(chosen, again)
    assert not set(again.train.groups.tolist()) & set(again.test.groups.tolist())
    assert again.train.columns == ("x", "z")


def test_later_rows_of_the_same_groups_are_a_way_to_split() -> None:
    chosen = tl.project("pbcseq", split="within")
    assert same(chosen, tl.split(tl.load("pbcseq"), seed=0, time=True, within=True))
    assert same(chosen, tl.project())


def test_choosing_again_replaces_the_choice() -> None:
    tl.project("digits", split="random", seed=1)
    tl.project("breast_cancer", split="stratify")
    assert tl.project().train.name == "breast_cancer"


@pytest.mark.parametrize("name", ["digits", "breast_cancer", "pbcseq", "hotel_rates", "amazon_reviews"])
def test_every_kind_of_project_becomes_rows_for_a_network(name: str) -> None:
    project = tl.split(tl.load(name), seed=0)
    (x, y), (asked, answers), classes = numbers(project)
    assert x.dtype == asked.dtype == torch.float32 and x.shape[1:] == asked.shape[1:] and x.dim() == 2
    assert (len(x), len(asked)) == (len(project.train), len(project.valid)) == (len(y), len(answers))
    assert x.isfinite().all() and asked.isfinite().all()
    assert (
        y.dtype == torch.int64 and min(y.min(), answers.min()) >= 0 and max(y.max(), answers.max()) < classes
    )
    moving = x.std(0) > 0
    assert x.mean(0).abs().max() < 1e-3 and torch.allclose(x.std(0)[moving], torch.ones(1), atol=1e-3)
    model = torch.nn.Linear(x.shape[1], classes)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    frequent = answers.bincount(minlength=classes)[y.bincount().argmax()] / len(answers)
    right = (model(asked).argmax(1) == answers).float().mean()
    assert right > frequent + 0.02, "a line through these rows says nothing of the answer"


def test_rows_for_a_network_learn_nothing_from_validation() -> None:
    project = tl.split(tl.load("pbcseq"), seed=0)
    before = numbers(project)[0][0]
    project.valid.features[:] = 1e6
    assert torch.equal(numbers(project)[0][0], before)


def test_rows_for_a_network_are_refused_where_there_are_none(own_home: Path) -> None:
    plain = tl.split(torch.utils.data.TensorDataset(torch.zeros(40, 3)), seed=0)
    with pytest.raises(tl.TrainlabError, match="a project of Subset rows has no numbers"):
        numbers(plain)
    path = own_home / "texts.txt"
    path.write_text("\n".join(f"line {place} says nothing" for place in range(60)))
    with pytest.raises(tl.TrainlabError, match="texts without a label"):
        numbers(tl.project(path))


def test_nothing_is_kept_or_used_where_nobody_is_there(
    own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tl.project("breast_cancer")
    monkeypatch.setenv("TRAINLAB_UNATTENDED", "1")
    assert tl.project().train.name == "digits"
    tl.project("digits", split="random")
    monkeypatch.delenv("TRAINLAB_UNATTENDED")
    assert tl.project().train.name == "breast_cancer"


def test_a_choice_that_fails_leaves_the_former_one() -> None:
    tl.project("breast_cancer")
    with pytest.raises(tl.TrainlabError, match="unknown split 'grouped'"):
        tl.project("digits", split="grouped")
    with pytest.raises(tl.TrainlabError, match="groups=True"):
        tl.project("digits", split="groups")
    assert tl.project().train.name == "breast_cancer"


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"name": "digits"}', '{"name": "d", "split": "x", "seed": 0}']
)
def test_a_damaged_record_is_said_with_its_remedy(own_home: Path, content: str) -> None:
    (own_home / "home").mkdir()
    (own_home / "home" / "project.json").write_text(content)
    with pytest.raises(tl.TrainlabError, match="cannot be read as a project: choose it again"):
        tl.project()


@pytest.mark.skipif(os.name == "nt", reason="a file in the place of the folder")
def test_a_home_that_cannot_be_written_is_said(own_home: Path) -> None:
    (own_home / "home").write_text("a file where the folder should be")
    with pytest.raises(tl.TrainlabError, match=r"your project cannot be kept in .*TRAINLAB_HOME"):
        tl.project("digits")
