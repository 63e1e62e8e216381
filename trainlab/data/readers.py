"""The readers of the catalogue: each turns what a package carries into a data set."""

from __future__ import annotations

import gzip
import io
import lzma
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from .dataset import Dataset, TextDataset
from .fetch import package_file, read_inner, read_member
from .pickles import read_array, read_columns
from .tables import encoded

if TYPE_CHECKING:
    from .catalogue import Card

DIGITS = tuple("0123456789")
ANIMALS = ("bear", "bird", "cat", "cow", "dog", "elephant", "giraffe", "horse", "sheep", "zebra")
# The Amazon reviews are numbered product by product (Hu & Liu 2004): the first review of each.
PRODUCTS = {
    1: "Apex AD2600 DVD player",
    99: "Canon G3 camera",
    143: "Nikon Coolpix 4300 camera",
    176: "Nokia 6610 phone",
    216: "Creative Nomad Zen Xtra MP3 player",
}
# A mean of some twenty ratings from -4 to 4 that is nearer to 0 than this says neither good nor bad.
NEUTRAL = 0.5


def _digits(card: Card) -> Dataset:
    """scikit-learn's digits: pixels 0 to 16, as images scaled to 0..1."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).float().view(-1, 1, 8, 8) / 16  # (N,64) -> (N,1,8,8)
    return Dataset(card.name, images, torch.from_numpy(labels).long(), DIGITS)


def _breast_cancer(card: Card) -> Dataset:
    """scikit-learn's breast cancer table, in its own units."""
    from sklearn.datasets import load_breast_cancer

    table = load_breast_cancer()
    return Dataset(
        card.name,
        torch.from_numpy(table.data).float(),
        torch.from_numpy(table.target).long(),
        tuple(table.target_names.tolist()),
        tuple(table.feature_names.tolist()),
    )


def _digit_csv(card: Card) -> Dataset:
    """A gzipped CSV of 28x28 digits: 784 pixels from 0 to 255, then the label; scaled to 0..1."""
    content = gzip.decompress(read_member(package_file(card.source), card.source.member))
    table = torch.from_numpy(np.loadtxt(io.BytesIO(content), delimiter=",", dtype=np.uint8, ndmin=2))
    images = table[:, :-1].reshape(-1, 1, 28, 28).float() / 255  # (N,784) -> (N,1,28,28)
    return Dataset(card.name, images, table[:, -1].long(), DIGITS)


def _animals(card: Card) -> Dataset:
    """Gzipped pickles of (N, 28, 28) pixels from 0 to 255 and of (N,) labels; scaled to 0..1."""
    path = package_file(card.source)
    pixels, labels = (
        read_array(gzip.decompress(read_member(path, member)))
        for member in (card.source.member, card.source.labels)
    )
    images = torch.from_numpy(pixels).unsqueeze(1).float() / 255  # (N,28,28) -> (N,1,28,28)
    return Dataset(card.name, images, torch.from_numpy(labels).long(), ANIMALS)


def _frame(card: Card) -> dict[str, NDArray[Any]]:
    """The columns of an xz pickle of a pandas frame, without R's row names."""
    columns = read_columns(lzma.decompress(read_member(package_file(card.source), card.source.member)))
    del columns["rownames"]
    return columns


def _pbcseq(card: Card) -> Dataset:
    """Visits of patients; the target is how the patient's follow-up ended."""
    columns = _frame(card)
    died = columns.pop("status") == 2  # 0: alive at the end of the study, 1: transplanted
    patient = columns.pop("id")
    del columns["futime"]  # known only afterwards
    features, levels = encoded(columns)
    return Dataset(
        card.name,
        features,
        torch.from_numpy(died.astype(np.int64)),
        ("alive", "died"),
        tuple(columns),
        groups=torch.from_numpy(patient.astype(np.int64)),
        time=torch.from_numpy(columns["day"].astype(np.int64)),
        levels=levels,
    )


def _hotel_rates(card: Card) -> Dataset:
    """Bookings; the target is the price, the time the days since the first arrival."""
    columns = _frame(card)
    price = columns.pop("avg_price_per_room")
    arrival = np.array(columns.pop("arrival_date").tolist(), dtype="datetime64[D]")
    features, levels = encoded(columns)
    return Dataset(
        card.name,
        features,
        torch.from_numpy(price.astype(np.float32)),
        columns=tuple(columns),
        time=torch.from_numpy((arrival - arrival.min()).astype(np.int64)),
        levels=levels,
    )


def _default(card: Card) -> Dataset:
    """Customers of a bank; the target is whether they defaulted."""
    columns = _frame(card)
    defaulted = (columns.pop("default") == "Yes").astype(np.int64)
    features, levels = encoded(columns)
    return Dataset(
        card.name, features, torch.from_numpy(defaulted), ("No", "Yes"), tuple(columns), levels=levels
    )


def _rated_texts(card: Card) -> TextDataset:
    """Lines of an id, a mean rating from -4 to 4 and a text; the class is the rating's sign.

    An id of two numbers names the source of the text first. Neutral texts are left out.
    """
    archive = read_member(package_file(card.source), card.source.member)
    text = read_inner(archive, card.source.within).decode("utf-8")
    lines = [line.split("\t", 2) for line in text.split("\r\n") if line]
    lines = [line for line in lines if abs(float(line[1])) >= NEUTRAL]
    positive = torch.tensor([float(rating) > 0 for _, rating, _ in lines])
    sources = [int(name.split("_")[0]) for name, _, _ in lines if "_" in name]
    names: tuple[str, ...] = ()
    if card.name == "amazon_reviews":
        sources = (np.searchsorted(list(PRODUCTS), sources, side="right") - 1).tolist()
        names = tuple(PRODUCTS.values())
    return TextDataset(
        card.name,
        tuple(line[2].strip() for line in lines),
        positive.long(),
        ("negative", "positive"),
        groups=torch.tensor(sources, dtype=torch.int64),
        group_names=names,
    )


READERS: dict[str, Callable[[Card], Dataset | TextDataset]] = {
    "digits": _digits,
    "breast_cancer": _breast_cancer,
    "digit_csv": _digit_csv,
    "animals": _animals,
    "pbcseq": _pbcseq,
    "hotel_rates": _hotel_rates,
    "default": _default,
    "rated_texts": _rated_texts,
}
