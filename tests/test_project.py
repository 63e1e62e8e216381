"""The project that is chosen in chapter 01 comes back in every later chapter."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import trainlab as tl


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
