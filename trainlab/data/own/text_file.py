"""Texts of one's own: one a line, with or without a label, or paragraphs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch

from ...errors import TrainlabError
from ..dataset import UNLABELLED, TextDataset
from ..tables import MOST_CLASSES, codes


def read_texts(path: Path) -> TextDataset:
    """Lines of label<TAB>text, or else one text a line, or else paragraphs between empty lines.

    Raises TrainlabError if only some lines have a tab, or there are too few texts or labels.
    """
    text = read_utf8(path).replace("\r\n", "\n")
    lines = [line.strip() for line in text.split("\n")]
    filled = [line for line in lines if line]
    labelled = [line for line in filled if "\t" in line]
    if labelled:
        return _labelled_texts(path, text, filled, len(labelled))
    body = "\n".join(lines).strip("\n")
    # an empty line says that the lines between two of them are one paragraph
    texts = filled
    if "\n\n" in body:
        texts = [" ".join(part.split("\n")) for part in re.split(r"\n{2,}", body)]
    if len(texts) < 2:
        raise TrainlabError(
            f"{path.name} holds {len(texts)} text(s): write one a line, or paragraphs with an empty line "
            "between them"
        )
    return TextDataset(path.stem, tuple(texts), torch.full((len(texts),), UNLABELLED))


def _labelled_texts(path: Path, text: str, filled: list[str], labelled: int) -> TextDataset:
    if labelled < len(filled):
        first = next(
            k for k, line in enumerate(text.split("\n"), 1) if line.strip() and "\t" not in line.strip()
        )
        raise TrainlabError(
            f"{labelled} of {len(filled)} lines of {path.name} have a tab, line {first} has none: write "
            "label<TAB>text in every line, or no tab at all"
        )
    pairs = [line.partition("\t")[::2] for line in filled]
    labels, classes = codes(np.array([label.strip() for label, _ in pairs], dtype=object))
    if len(classes) > max(MOST_CLASSES, len(pairs) / 2) or len(classes) < 2:
        raise TrainlabError(
            f"{path.name} has {len(classes)} different label(s) in {len(pairs)} lines, such as "
            f"{classes[0]!r}: write label<TAB>text, the label first, with at least two classes"
        )
    return TextDataset(
        path.stem,
        tuple(text.strip() for _, text in pairs),
        torch.from_numpy(labels.astype(np.int64)),
        classes,
    )


def read_utf8(path: Path) -> str:
    """The content of a text file.  Raises TrainlabError if it is empty or in another encoding."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise TrainlabError(
            f"{path.name} is not in UTF-8: save it anew with that encoding (in a spreadsheet: CSV UTF-8)"
        ) from None
    if not text.strip():
        raise TrainlabError(f"{path.name} is empty: nothing can be read from it")
    return text
