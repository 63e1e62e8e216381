"""Augmentation: rows changed when they are fetched, and what changes texts. (For images: torchvision's v2.)

    lexicon = neighbour_lexicon(word_vectors(train_texts))
    loader = make_loader(dataset, 16, seed=0, shuffle=True, augment=Synonyms(lexicon, 0.2))

An augmentation of texts is called with a text and returns another one. What it draws comes from
Python's default generator, which a loader seeds by (seed, epoch, index) and puts back. Any function
from text to text is as good: a model that paraphrases, or one that translates there and back.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import TrainlabError

Translator = Callable[[str], str]
Lexicon = Mapping[str, tuple[str, ...]]
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")


# --- rows ---------------------------------------------------------------------------------------------


class AugmentedRows(torch.utils.data.Dataset[Any]):
    """A data set whose rows have their first part changed by `augment`, anew each time they are fetched.

    Raises TrainlabError, when a row is fetched, if it is a mapping: which part is meant?
    """

    def __init__(self, dataset: Any, augment: Callable[[Any], Any]) -> None:
        self.dataset = dataset
        self.augment = augment

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        row = self.dataset[index]
        if isinstance(row, Mapping):
            raise TrainlabError(
                f"a row is a mapping with the keys {', '.join(map(str, row))}, and augment takes the first "
                "part of a tuple: augment in the data set's own __getitem__ (its draws are seeded as well)"
            )
        if isinstance(row, tuple | list):
            return (self.augment(_own(row[0])), *row[1:])
        return self.augment(_own(row))


def _own(part: Any) -> Any:
    """A copy of a tensor: it may be a view of the data set, and an augmentation may work in place."""
    return part.clone() if isinstance(part, Tensor) else part


def check_changes(augment: object, mix: object, shuffle: bool) -> None:
    """Raise TrainlabError unless `augment` and `mix` can be called, and the rows to be mixed are shuffled."""
    for name, given in {"augment": augment, "mix": mix}.items():
        if given is not None and not callable(given):
            raise TrainlabError(
                f"{name} is a {type(given).__name__}, which cannot be called: give one function; "
                "transforms in a row are v2.Compose([...])"
            )
    if mix is not None and not shuffle:
        raise TrainlabError(
            "mix blends neighbours of a batch, and shuffle=False leaves them in the file's order (often all "
            "of one class): use shuffle=True for training, and no mix for validation"
        )


# --- the four easy ones -------------------------------------------------------------------------------


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, without numbers and punctuation: "It's 9 pm." has it's and pm."""
    return _WORD.findall(text.lower())


@dataclass(frozen=True, slots=True)
class RandomDeletion:
    """Leave out each word with probability `share`; one word stays at least.

    Source of this and the next three: Wei and Zou, EDA, 2019.
    Raises TrainlabError if the share is outside 0 to 1.
    """

    share: float = 0.1

    def __post_init__(self) -> None:
        _check_share(self.share)

    def __call__(self, text: str) -> str:
        words = text.split()
        kept = [word for word in words if random.random() >= self.share]
        return " ".join(kept or random.choices(words, k=min(1, len(words))))


@dataclass(frozen=True, slots=True)
class RandomSwap:
    """Exchange two words, as often as `share` of the words (once at least, where there are two).

    Raises TrainlabError if the share is outside 0 to 1.
    """

    share: float = 0.1

    def __post_init__(self) -> None:
        _check_share(self.share)

    def __call__(self, text: str) -> str:
        words = text.split()
        for _ in range(max(1, round(self.share * len(words))) if len(words) > 1 else 0):
            one, other = random.sample(range(len(words)), 2)
            words[one], words[other] = words[other], words[one]
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class Synonyms:
    """Replace each word that the lexicon has, with probability `share`, by one of its entries.

    Raises TrainlabError if the share is outside 0 to 1.
    """

    lexicon: Lexicon
    share: float = 0.1

    def __post_init__(self) -> None:
        _check_share(self.share)

    def __call__(self, text: str) -> str:
        def replaced(match: re.Match[str]) -> str:
            word = match.group()
            others = self.lexicon.get(word.lower(), ())
            return _like(word, random.choice(others)) if others and random.random() < self.share else word

        return _WORD.sub(replaced, text)


@dataclass(frozen=True, slots=True)
class RandomInsertion:
    """Put entries of the lexicon for random words of the text at random places, `share` as many as words.

    Raises TrainlabError if the share is outside 0 to 1.
    """

    lexicon: Lexicon
    share: float = 0.1

    def __post_init__(self) -> None:
        _check_share(self.share)

    def __call__(self, text: str) -> str:
        words = text.split()
        known = [others for word in words_of(text) if (others := self.lexicon.get(word, ()))]
        for _ in range(max(1, round(self.share * len(words))) if known else 0):
            words.insert(random.randint(0, len(words)), random.choice(random.choice(known)))
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class BackTranslation:
    """There and back through another language: what comes back says the same, if the translators are good.

    Source: Sennrich, Haddow and Birch, Improving Neural Machine Translation Models with Monolingual
    Data, 2016; as augmentation of a classifier's texts Xie et al., Unsupervised Data Augmentation, 2020.
    """

    there: Translator
    back: Translator

    def __call__(self, text: str) -> str:
        return self.back(self.there(text))


def _check_share(share: float) -> None:
    if not 0.0 <= share <= 1.0:
        raise TrainlabError(f"share={share!r} is outside [0, 1]: 0.1 changes one word in ten")


def _like(word: str, other: str) -> str:
    return other.capitalize() if word[0].isupper() else other


# --- words by the company they keep -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WordVectors:
    """words: the V most frequent first.  counts: (V,).  vectors: (V, D), each of length 1."""

    words: tuple[str, ...]
    counts: np.ndarray
    vectors: np.ndarray


def word_vectors(
    texts: Iterable[str], *, dimensions: int = 50, window: int = 2, at_least: int = 10
) -> WordVectors:
    """Vectors of the words that occur `at_least` so often: alike where their neighbours are alike.

    Positive pointwise mutual information with the words up to `window` places away, then the leading
    singular vectors.  Source: Levy and Goldberg, Neural Word Embedding as Implicit Matrix
    Factorization, 2014, with the context smoothing (power 0.75) of Levy, Goldberg and Dagan, 2015.
    Raises TrainlabError if there are not more such words than dimensions.
    """
    from scipy.sparse.linalg import svds

    documents = [words_of(text) for text in texts]
    counts = Counter(word for document in documents for word in document)
    words = tuple(word for word, count in counts.most_common() if count >= at_least)
    if len(words) <= dimensions:
        raise TrainlabError(
            f"{len(words)} words occur {at_least} times or more, too few for {dimensions} dimensions: "
            "give more texts, or lower at_least or dimensions"
        )
    together = _neighbourhoods(documents, {word: place for place, word in enumerate(words)}, window)
    row, column = together.sum(1), together.sum(0) ** 0.75
    with np.errstate(divide="ignore", invalid="ignore"):
        information = np.log(together / row[:, None] / column[None, :] * column.sum())
    positive = np.nan_to_num(information, nan=0.0, posinf=0.0, neginf=0.0).clip(0)
    left, scale, _ = svds(positive, dimensions, rng=np.random.default_rng(0))
    vectors = left * np.sqrt(scale)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True) + 1e-9
    return WordVectors(words, np.array([counts[word] for word in words]), vectors)


def _neighbourhoods(documents: list[list[str]], place: dict[str, int], window: int) -> np.ndarray:
    """How often each word stands near each other one, (V, V)."""
    together = np.zeros((len(place), len(place)), dtype=np.float32)
    for document in documents:
        known = np.array([place.get(word, -1) for word in document])
        for away in range(1, window + 1):
            one, other = known[:-away], known[away:]
            both = (one >= 0) & (other >= 0)
            np.add.at(together, (one[both], other[both]), 1)
            np.add.at(together, (other[both], one[both]), 1)
    return together


def neighbour_lexicon(vectors: WordVectors, *, entries: int = 3) -> dict[str, tuple[str, ...]]:
    """For each word the `entries` nearest ones: used in the same places, which is not meaning the same."""
    alike = vectors.vectors @ vectors.vectors.T
    np.fill_diagonal(alike, -np.inf)
    nearest = np.argsort(-alike, axis=1, kind="stable")[:, :entries]
    return {
        word: tuple(vectors.words[k] for k in places) for word, places in zip(vectors.words, nearest.tolist())
    }


# --- translators --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ToPivot:
    """Translate word by word into a small language that has one word for several of ours."""

    codes: Mapping[str, str]

    def __call__(self, text: str) -> str:
        return _WORD.sub(lambda match: self.codes.get(match.group().lower(), match.group()), text)


@dataclass(frozen=True, slots=True)
class FromPivot:
    """Translate back: each word of the small language becomes one of ours, frequent ones more often."""

    meanings: Mapping[str, tuple[Sequence[str], Sequence[float]]]

    def __call__(self, text: str) -> str:
        def meant(match: re.Match[str]) -> str:
            words, counts = self.meanings.get(match.group(), ((match.group(),), (1.0,)))
            return random.choices(words, counts)[0]

        return re.sub(r"<\d+>", meant, text)


def pivot_translators(vectors: WordVectors, *, size: int = 500) -> tuple[ToPivot, FromPivot]:
    """A word-level translator into a language of `size` words, and one back: clusters of word vectors.

    It has no grammar and keeps the order of the words: a stand-in where there is no real model.
    Raises TrainlabError if `size` is not from 1 to the number of words.
    """
    if not 1 <= size <= len(vectors.words):
        raise TrainlabError(f"size={size}: a language of 1 to {len(vectors.words)} words can be made here")
    from sklearn.cluster import MiniBatchKMeans

    found = MiniBatchKMeans(size, random_state=0, n_init=1, batch_size=1024).fit_predict(vectors.vectors)
    codes = {word: f"<{code}>" for word, code in zip(vectors.words, found.tolist())}
    meanings: dict[str, tuple[list[str], list[float]]] = {}
    for word, count in zip(vectors.words, vectors.counts.tolist()):
        words, counts = meanings.setdefault(codes[word], ([], []))
        words.append(word)
        counts.append(count)
    return ToPivot(codes), FromPivot(meanings)


def model_translator(folder: str | Path, *, sample: bool = True, longest: int = 128) -> Translator:
    """A translator from a pre-trained sequence-to-sequence model of yours, such as Marian's opus-mt-en-de.

    folder: where `save_pretrained` put model and tokenizer.  sample: draw each token, so that one text
    has many translations; the draws come from torch's default generator.  longest: tokens at most.
    Raises TrainlabError if there is no such model in the folder.
    """
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model: Any = AutoModelForSeq2SeqLM.from_pretrained(folder, local_files_only=True).eval()
    except (OSError, ValueError) as error:
        raise TrainlabError(
            f"{str(folder)!r} holds no sequence-to-sequence model with its tokenizer: give the folder that "
            "save_pretrained wrote both to"
        ) from error

    def translate(text: str) -> str:
        with torch.no_grad():
            tokens = tokenizer([text], return_tensors="pt", truncation=True)
            made = model.generate(**tokens, do_sample=sample, num_beams=1, max_new_tokens=longest)
        return tokenizer.decode(made[0], skip_special_tokens=True)

    return translate
