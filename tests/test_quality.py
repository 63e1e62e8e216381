"""`quality` counts what was planted, and nothing where nothing was."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import trainlab as tl


def clean(rows: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Two well parted clouds of measurements with light tails, and their labels."""
    rng = np.random.default_rng(0)
    labels = np.arange(rows) % 2
    return rng.uniform(-1, 1, (rows, 5)) + 3 * labels[:, None] * np.array([1, 1, 0, 0, 0]), labels


def dataset(features: np.ndarray, targets: np.ndarray, **options: object) -> tl.Dataset:
    columns = tuple("abcdefgh"[: features.shape[1]])
    return tl.Dataset("d", torch.tensor(features), torch.tensor(targets), ("no", "yes"), columns, **options)  # type: ignore[arg-type]


def test_clean_data_has_nothing_to_mend() -> None:
    report = tl.quality(dataset(*clean()))
    assert (report.duplicates, report.inconsistent, report.doubtful) == (0, 0, ())
    assert report.classes == {"no": 200, "yes": 200} and report.balance == 1
    assert report.rows_per_feature == 80
    assert all(
        (column.missing, column.constant, column.outliers, column.suspicious) == (0, False, 0, ())
        for column in report.columns
    )
    assert "->" not in str(report)


def test_what_is_planted_in_columns_is_counted() -> None:
    features, labels = clean()
    features[:7, 1] = np.nan
    features[10:13, 2] = 50
    features[20:24, 3] = 999
    features[:, 4] = 2
    report = tl.quality(dataset(features, labels))
    by_name = {column.name: column for column in report.columns}
    assert by_name["b"].missing == 7
    assert by_name["c"].outliers == 3 and by_name["c"].suspicious == ()
    assert by_name["d"].outliers == 4
    assert by_name["d"].suspicious == ("4 times 999, which often stands for missing",)
    assert by_name["e"].constant
    text = str(report)
    assert "b 7" in text and "d: 4 times 999" in text and "drop them" in text and "MAD" in text


def test_minus_one_is_strange_only_among_what_is_never_negative() -> None:
    features, labels = clean()
    features[:, 0] = np.abs(features[:, 0])
    features[:3, 0] = features[:3, 2] = -1
    columns = tl.quality(dataset(features, labels)).columns
    assert columns[0].suspicious == ("3 times -1, which often stands for missing",)
    assert columns[2].suspicious == ()


def test_categories_in_two_spellings_are_named() -> None:
    features, labels = clean()
    features[:, 0] = np.arange(400) % 3
    report = tl.quality(dataset(features, labels, levels={"a": ("Yes", "no", "yes ")}))
    assert report.columns[0].suspicious == ("spelt in 2 ways: ['Yes', 'yes ']",)
    assert report.columns[0].outliers == 0


def test_repeated_and_contradictory_rows_are_told_apart() -> None:
    features, labels = clean()
    features[100:110] = features[:10]  # 100 and 0 are both of class "no": the same rows again
    features[200:205], labels[200:205] = features[:5], 1 - labels[:5]
    report = tl.quality(dataset(features, labels))
    assert report.duplicates == 10
    assert report.inconsistent == 15  # five of the first ten, their equals, and the five that contradict


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_flipped_labels_of_real_digits_are_doubted(seed: int) -> None:
    digits, rng = tl.load("digits"), np.random.default_rng(seed)
    flipped = rng.permutation(len(digits))[:90]
    targets = digits.targets.clone()
    targets[flipped] = (targets[flipped] + torch.tensor(rng.integers(1, 10, 90))) % 10
    doubtful = tl.quality(tl.Dataset("d", digits.features, targets, digits.classes)).doubtful
    assert doubtful is not None
    right = len(set(doubtful) & set(flipped.tolist()))
    assert right > 0.75 * 90 and right > 0.9 * len(doubtful)
    assert len(tl.quality(digits).doubtful or ()) < 10


def test_labels_of_a_rare_class_are_not_doubted() -> None:
    default = tl.load("default")
    doubtful = tl.quality(default).doubtful
    assert doubtful is not None and len(doubtful) < 0.002 * len(default)
    assert (default.targets[list(doubtful)] == default.classes.index("No")).all()


def test_a_copy_does_not_vouch_for_its_own_label() -> None:
    features, labels = clean()
    labels[0] = 1
    features, labels = np.concatenate([features, features[:1].repeat(9, 0)]), np.append(labels, [1] * 9)
    assert tl.quality(dataset(features, labels)).doubtful == (0,)


@pytest.mark.slow
def test_real_data_is_described() -> None:
    animals, default = tl.quality(tl.load("animals")), tl.quality(tl.load("default"))
    assert animals.duplicates == 284
    assert default.balance < 0.05 and "stratify=True" in str(default)
    visits = tl.load("pbcseq")
    missing = {column.name: column.missing for column in tl.quality(visits).columns}
    assert missing == dict(zip(visits.columns, visits.features.isnan().sum(0).tolist()))
    assert missing["chol"] > 800


def test_texts_and_pictures_have_columns_of_their_own() -> None:
    said = ["a good film", "A good film!", "", *(f"number {k} of many" for k in range(40))]
    report = tl.quality((said, np.zeros(len(said))))
    assert [column.name for column in report.columns] == ["words"]
    assert report.columns[0].missing == 1 and report.duplicates == 1 and report.doubtful is None
    pictures = np.random.default_rng(0).random((40, 1, 6, 6))
    pictures[3] = 0.5
    report = tl.quality(pictures)
    assert [column.name for column in report.columns] == ["brightness", "contrast"]
    assert report.columns[1].suspicious == ("1 blank pictures",)


def test_the_report_is_a_table_with_escaped_names() -> None:
    features, labels = clean()
    features[0, 0] = np.nan
    columns = ("<b>", *"bcde")
    data = tl.Dataset("d", torch.tensor(features), torch.tensor(labels), ("no", "yes"), columns)
    shown = tl.quality(data)._repr_html_()
    assert "&lt;b&gt; 1" in shown and "<b>1" not in shown and shown.count("<tr>") == 10


def test_an_empty_data_set_is_refused() -> None:
    with pytest.raises(tl.TrainlabError, match=r"empty \(0 rows\): there is nothing to look at"):
        tl.quality(np.empty((0, 3)))
