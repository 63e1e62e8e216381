"""What augmentation draws is f(seed, epoch, index); what mixing draws is f(seed, epoch, rows before it)."""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import pytest
import torch
from core.runs import CLASSES, assert_same, assert_same_run, make_state
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Subset, TensorDataset
from torchvision.transforms import v2

import trainlab as tl
from trainlab.data import augmentation
from trainlab.randomness import derive_seed, get_rng_state, preserve_rng, seed_host

IMAGES = torch.rand(22, 1, 12, 12, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(22) % 3
TURN = v2.Compose([v2.RandomRotation(30), v2.RandomHorizontalFlip(), v2.Normalize([0.5], [0.5])])


def noise(features: Tensor) -> Tensor:
    """Draws from all three generators, and works in place."""
    return features.add_(torch.rand(features.shape)).add_(random.random() + float(np.random.rand()))


def shout(text: str) -> str:
    return text.upper() if random.random() < 0.5 else text


def loader(**options: Any) -> Any:
    given: dict[str, Any] = {"seed": 4, "shuffle": True, "augment": TURN} | options
    return tl.make_loader((IMAGES, LABELS), given.pop("batch_size", 8), **given)


def numbered(**options: Any) -> dict[int, Tensor]:
    """Each augmented image of an epoch, by its row number."""
    rows = tl.make_loader((IMAGES, torch.arange(22)), options.pop("batch_size", 8), **options)
    epoch = rows.batches(options.pop("epoch", 1))
    return {int(k): image for images, places in epoch for k, image in zip(places, images)}


# --- per row ------------------------------------------------------------------------------------------


def test_a_row_is_what_the_transform_makes_of_it_under_the_seed_of_its_keys() -> None:
    for k, image in numbered(seed=4, shuffle=True, augment=TURN).items():
        with preserve_rng():
            key = int(np.random.SeedSequence((4, 1, k, 1)).generate_state(1, np.uint64)[0])
            torch.manual_seed(key)
            expected = TURN(IMAGES[k])
        assert torch.equal(image, expected)


def test_batch_size_and_order_do_not_change_what_becomes_of_a_row() -> None:
    reference = numbered(seed=4, shuffle=True, augment=TURN)
    for options in ({"batch_size": 5}, {"shuffle": False}, {"workers": 2}, {"batch_size": 1}):
        assert_same(
            dict(sorted(numbered(**({"seed": 4, "shuffle": True, "augment": TURN} | options)).items())),
            dict(sorted(reference.items())),
        )


def test_epochs_rows_and_seeds_draw_differently() -> None:
    same = (torch.ones(6, 1, 12, 12), torch.arange(6))
    seen = [
        image
        for seed in (4, 5)
        for epoch in (0, 1)
        for images, _ in tl.make_loader(same, 6, seed=seed, shuffle=False, augment=noise).batches(epoch)
        for image in images
    ]
    assert len({tuple(image.flatten().tolist()) for image in seen}) == len(seen) == 24


def test_the_keys_of_order_rows_and_mixing_share_no_stream() -> None:
    # SeedSequence fills up with zeros: (4, 1) and (4, 1, 0) are one seed
    assert derive_seed(4, 1) == derive_seed(4, 1, 0)
    keys = [(4, 1), *((4, 1, k, tag) for k in range(50) for tag in (1, 2))]
    assert len({derive_seed(*key) for key in keys}) == len(keys)


@pytest.mark.parametrize("augment", [TURN, noise], ids=["torchvision", "all generators"])
@pytest.mark.parametrize("mix", [None, v2.MixUp(num_classes=3), v2.CutMix(num_classes=3)])
def test_workers_persistent_ones_too_and_a_start_in_mid_epoch_change_nothing(augment: Any, mix: Any) -> None:
    alone, helped = (loader(augment=augment, mix=mix, workers=workers) for workers in (0, 2))
    for epoch in (0, 1, 0):  # the same processes serve all of them
        assert_same(list(helped.batches(epoch)), list(alone.batches(epoch)))
    for start in (8, 16):
        assert_same(list(helped.batches(1, start)), list(alone.batches(1))[start // 8 :])
        assert_same(list(alone.batches(1, start)), list(alone.batches(1))[start // 8 :])


@pytest.mark.parametrize("workers", [0, 2])
def test_global_randomness_is_neither_read_nor_changed(workers: int) -> None:
    before = get_rng_state()
    first = list(loader(augment=noise, mix=v2.MixUp(num_classes=3), workers=workers).batches(0))
    assert_same(get_rng_state(), before)
    torch.rand(1), random.random(), np.random.rand()
    again = list(loader(augment=noise, mix=v2.MixUp(num_classes=3), workers=workers).batches(0))
    assert_same(again, first)


@pytest.mark.parametrize(
    "data",
    [
        (IMAGES, LABELS),
        TensorDataset(IMAGES, LABELS),
        tl.Dataset("d", IMAGES, LABELS),
        Subset(TensorDataset(IMAGES, LABELS), range(22)),
        list(zip(IMAGES, LABELS)),
    ],
    ids=["tuple", "tensors", "dataset", "subset", "rows"],
)
def test_every_kind_of_data_set_is_augmented_and_none_is_changed(data: Any) -> None:
    kept = IMAGES.clone()
    made = list(tl.make_loader(data, 8, seed=4, shuffle=True, augment=noise).batches(2))
    assert torch.equal(IMAGES, kept), "an augmentation in place went into the data"
    assert_same(made, list(loader(augment=noise).batches(2)))


def test_texts_and_rows_without_a_target_are_augmented_too() -> None:
    texts = ["one", "two", "three", "four"]
    rows = [(text, place) for place, text in enumerate(texts)]
    found = [batch for epoch in range(4) for batch in tl.make_loader(rows, 4, seed=0, shuffle=False,
             augment=shout, collate=list).batches(epoch)]  # fmt: skip
    words = [text for batch in found for text, _ in batch]
    assert {word.lower() for word in words} == set(texts)
    assert 0 < sum(word.isupper() for word in words) < len(words)
    assert [place for batch in found for _, place in batch] == [0, 1, 2, 3] * 4
    bare = tl.make_loader(list(IMAGES), 22, seed=4, shuffle=False, augment=lambda image: -image)
    assert torch.equal(next(bare.batches(0)), -IMAGES)


def test_seed_host_leaves_no_trace_inside_preserve_rng() -> None:
    before = get_rng_state()
    with preserve_rng():
        seed_host(1, 2)
        first = torch.rand(1).item(), random.random(), float(np.random.rand())
        seed_host(1, 2)
        assert first == (torch.rand(1).item(), random.random(), float(np.random.rand()))
    assert_same(get_rng_state(), before)


def test_a_worker_says_what_is_wrong_with_a_row() -> None:
    rows = [{"image": image} for image in IMAGES]
    with pytest.raises(tl.TrainlabError, match="a row is a mapping with the keys image"):
        list(tl.make_loader(rows, 8, seed=0, shuffle=False, augment=TURN, workers=1).batches(0))


# --- mixing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [v2.MixUp, v2.CutMix])
def test_mixing_is_torchvisions_under_the_seed_of_its_keys(kind: Any) -> None:
    mix = kind(num_classes=3)
    plain = list(loader(augment=None).batches(3))
    mixed = list(loader(augment=None, mix=mix).batches(3))
    assert [len(images) for images, _ in mixed] == [8, 8, 6]
    for place, (batch, found) in enumerate(zip(plain, mixed)):
        with preserve_rng():
            key = int(np.random.SeedSequence((4, 3, 8 * place, 2)).generate_state(1, np.uint64)[0])
            torch.manual_seed(key)
            expected = mix(*batch)
        assert_same(list(found), list(expected))
        torch.testing.assert_close(found[1].sum(1), torch.ones(len(found[1])))
    assert not torch.equal(mixed[0][1], next(iter(loader(augment=None, mix=mix).batches(4)))[1])


def test_a_batch_that_is_no_pair_is_mixed_whole() -> None:
    found = tl.make_loader(
        list(IMAGES), 22, seed=0, shuffle=True, collate=torch.stack, mix=lambda images: images * 0
    )
    assert not next(found.batches(0)).any()


# --- a run killed and resumed is the uninterrupted one --------------------------------------------------


def convolutional() -> tl.TrainState:
    state = make_state("adamw", "one_cycle")
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
                          nn.Dropout(0.3), nn.Linear(400, CLASSES))  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    state = tl.TrainState(
        model, optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=12)
    )
    torch.manual_seed(11)
    return state


def trained(state: tl.TrainState, workers: int, mix: Any, until: int | None = None) -> tl.TrainState:
    tl.fit(
        state,
        loader(augment=v2.Compose([noise, TURN]), mix=mix, workers=workers),
        tl.losses.classification(),
        tl.TrainConfig(epochs=4, device="cpu"),
        observers=[lambda event: tl.STOP if event.step == until else None],
    )
    return state


@pytest.mark.parametrize("mix", [None, v2.MixUp(num_classes=3), v2.CutMix(num_classes=3)])
@pytest.mark.parametrize(("workers", "then"), [(0, 0), (2, 2), (0, 2), (2, 0)])
@pytest.mark.parametrize("at", [3, 4, 8])
def test_killed_and_resumed_is_uninterrupted(at: int, workers: int, then: int, mix: Any) -> None:
    """To the bit, also where the second half has another number of workers (3 steps make an epoch)."""
    whole = trained(convolutional(), workers, mix)
    first = trained(convolutional(), workers, mix, until=at)
    assert first.step == at
    saved = copy.deepcopy(first.state_dict())
    del first
    torch.rand(3), np.random.rand(), random.random()
    second = convolutional()
    second.load_state_dict(saved)
    assert_same_run(trained(second, then, mix), whole)


def test_a_run_without_augmentation_is_another_one() -> None:
    """The law above would hold of a loader that augments nothing."""
    plain = convolutional()
    tl.fit(plain, loader(augment=None), tl.losses.classification(), tl.TrainConfig(epochs=4, device="cpu"))
    augmented = trained(convolutional(), 0, None)
    mixed = trained(convolutional(), 0, v2.MixUp(num_classes=3))
    losses = [state.history.column("loss", event="step") for state in (plain, augmented, mixed)]
    assert losses[0][0] != losses[1][0] != losses[2][0]


# --- soft targets ---------------------------------------------------------------------------------------


def model_of(logits: Tensor, *, training: bool) -> nn.Module:
    class Fixed(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return logits

    return Fixed().train(training)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(7,), (4, 5)], ids=["rows", "tokens"])
@pytest.mark.parametrize("weight", [None, torch.tensor([0.2, 1.0, 3.0])], ids=["plain", "weighted"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_a_soft_target_that_is_certain_is_the_class(
    training: bool, shape: tuple[int, ...], weight: Tensor | None, label_smoothing: float
) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(*shape, 3, generator=generator)
    targets = torch.randint(0, 3, shape, generator=generator)
    loss_fn = tl.losses.classification(weight=weight, label_smoothing=label_smoothing)
    model = model_of(logits, training=training)
    hard = tl.losses.as_loss(loss_fn(model, (logits, targets)), (logits, targets))
    soft = loss_fn(model, (logits, F.one_hot(targets, 3).float()))
    assert isinstance(soft, tl.Loss)
    torch.testing.assert_close(soft.total / soft.count, hard.total / hard.count)
    if not training:
        torch.testing.assert_close(
            torch.as_tensor(soft.count), torch.as_tensor(hard.count), check_dtype=False
        )
        assert soft.metrics["accuracy"][0] == hard.metrics["accuracy"][0]


def test_a_mixed_target_is_the_mixed_loss() -> None:
    """Cross-entropy is linear in its target: that is what makes mixup's labels right."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(7, 3, generator=generator)
    one, other = (torch.randint(0, 3, (7,), generator=generator) for _ in range(2))
    targets = 0.3 * F.one_hot(one, 3) + 0.7 * F.one_hot(other, 3)
    found = tl.losses.classification()(model_of(logits, training=True), (logits, targets))
    expected = 0.3 * F.cross_entropy(logits, one) + 0.7 * F.cross_entropy(logits, other)
    torch.testing.assert_close(found.total / found.count, expected)


# --- texts ------------------------------------------------------------------------------------------------

SENTENCES = [f"the {a} {n} was {v}" for a in ("red", "blue", "green") for n in ("cat", "dog") for v in
             ("here", "there", "gone")] * 4  # fmt: skip
TEXT = "The Red cat, it's here: 9 times!"


def seeded(change: Any, text: str = TEXT, tries: int = 50) -> list[str]:
    with preserve_rng():
        made = []
        for k in range(tries):
            seed_host(7, k)
            made.append(change(text))
    return made


def test_words_are_found_without_numbers_and_punctuation() -> None:
    assert augmentation.words_of(TEXT) == ["the", "red", "cat", "it's", "here", "times"]
    assert augmentation.words_of("Élan: naïve -- 'quoted'") == ["élan", "naïve", "quoted"]


def test_deletion_keeps_the_order_about_the_share_and_one_word_at_least() -> None:
    text = " ".join(f"w{k}" for k in range(200))
    for made in seeded(augmentation.RandomDeletion(0.25), text, 10):
        kept = [int(word[1:]) for word in made.split()]
        assert kept == sorted(kept)
        assert 115 < len(kept) < 185
    assert all(made in TEXT.split() for made in seeded(augmentation.RandomDeletion(1.0)))
    assert set(seeded(augmentation.RandomDeletion(0.0))) == {TEXT}


def test_swap_keeps_the_bag_of_words() -> None:
    made = seeded(augmentation.RandomSwap(0.3))
    assert all(sorted(each.split()) == sorted(TEXT.split()) for each in made)
    assert len(set(made)) > 20
    one = seeded(augmentation.RandomSwap(0.0), "a b")
    assert set(one) == {"b a"}


def test_synonyms_come_from_the_lexicon_and_keep_capitals_and_signs() -> None:
    change = augmentation.Synonyms({"red": ("blue", "green"), "it's": ("was",)}, 1.0)
    assert set(seeded(change)) == {f"The {c} cat, was here: 9 times!" for c in ("Blue", "Green")}
    some = seeded(augmentation.Synonyms({"a": ("b",)}, 0.3), " ".join(["a"] * 200), 5)
    assert all(35 < made.count("b") < 85 for made in some)


def test_insertion_adds_entries_and_keeps_the_rest_in_order() -> None:
    for made in seeded(augmentation.RandomInsertion({"cat": ("dog", "cow")}, 0.3)):
        words = made.split()
        added = [word for word in words if word in ("dog", "cow")]
        assert len(added) == 2  # 0.3 of 7 words
        assert [word for word in words if word not in added] == TEXT.split()
    assert set(seeded(augmentation.RandomInsertion({}, 0.3))) == {TEXT}


@pytest.mark.parametrize("text", ["", "   ", "one"])
def test_texts_with_hardly_a_word_are_borne(text: str) -> None:
    lexicon = {"one": ("two",)}
    for change in (
        augmentation.RandomDeletion(0.9),
        augmentation.RandomSwap(),
        augmentation.Synonyms(lexicon, 0.5),
        augmentation.RandomInsertion(lexicon),
        augmentation.BackTranslation(str.strip, str.strip),
    ):
        assert all(isinstance(made, str) for made in seeded(change, text, 5))


@pytest.fixture(scope="module")
def vectors() -> augmentation.WordVectors:
    return augmentation.word_vectors(SENTENCES, dimensions=6, window=2, at_least=3)


def test_words_in_the_same_places_are_neighbours(vectors: augmentation.WordVectors) -> None:
    assert set(vectors.words[:2]) == {"the", "was"}
    assert vectors.counts.tolist() == sorted(vectors.counts.tolist(), reverse=True)
    np.testing.assert_allclose(np.linalg.norm(vectors.vectors, axis=1), 1, rtol=1e-4)
    lexicon = augmentation.neighbour_lexicon(vectors, entries=2)
    assert set(lexicon["red"]) == {"blue", "green"}
    assert set(lexicon["here"]) == {"there", "gone"}
    assert lexicon["cat"][0] == "dog"


def test_neighbourhoods_count_both_directions_within_the_window() -> None:
    words = {"a": 0, "b": 1, "c": 2}
    found = augmentation._neighbourhoods([["a", "b", "x", "c"], ["b", "b"]], words, 2)
    assert found.tolist() == [[0, 1, 0], [1, 2, 1], [0, 1, 0]]


def test_there_and_back_stays_within_the_words_of_one_code(vectors: augmentation.WordVectors) -> None:
    there, back = augmentation.pivot_translators(vectors, size=5)
    assert {there.codes[word] for word in ("red", "blue", "green")} == {there.codes["red"]}
    coded = there("The red unicorn was gone!")
    assert "unicorn" in coded and "!" in coded and "red" not in coded
    made = set(seeded(augmentation.BackTranslation(there, back), "a red cat"))
    assert made <= {f"a {c} {n}" for c in vectors.words for n in vectors.words}
    colours = {text.split()[1] for text in made}
    assert {"red", "blue", "green"} <= colours
    assert there.codes["blue"] == there.codes["red"]


def test_any_pair_of_functions_is_a_pair_of_translators() -> None:
    assert augmentation.BackTranslation(str.upper, str.lower)(TEXT) == TEXT.lower()


def test_a_model_of_the_learners_own_translates(tmp_path: Any) -> None:
    """A tiny T5 with random weights and a word-level tokenizer: what comes back is its words, as drawn."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    table = {word: k for k, word in enumerate(["<pad>", "</s>", "<unk>", "red", "cat", "dog"])}
    inner = Tokenizer(models.WordLevel(table, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    torch.manual_seed(0)
    config = T5Config(vocab_size=6, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2,
                      decoder_start_token_id=0, eos_token_id=1, pad_token_id=0)  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    translate = augmentation.model_translator(tmp_path, longest=6)
    made = seeded(translate, "red cat", 6)
    assert len(set(made)) > 1 and {word for text in made for word in text.split()} <= set(table)
    assert seeded(translate, "red cat", 6) == made
    greedy = augmentation.model_translator(tmp_path, sample=False, longest=6)
    assert len(set(seeded(greedy, "red cat", 3))) == 1


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda v, p: augmentation.RandomDeletion(1.5), r"share=1\.5 is outside \[0, 1\]: 0\.1 changes"),
        (lambda v, p: augmentation.RandomSwap(-0.1), r"share=-0\.1 is outside"),
        (lambda v, p: augmentation.Synonyms({}, 2), "share=2 is outside"),
        (lambda v, p: augmentation.RandomInsertion({}, float("nan")), "share=nan is outside"),
        (lambda v, p: augmentation.word_vectors(["a b"]), "0 words occur 10 times or more, too few for 50"),
        (lambda v, p: augmentation.pivot_translators(v, size=0), "size=0: a language of 1 to 10 words"),
        (lambda v, p: augmentation.pivot_translators(v, size=99), "size=99: a language of"),
        (lambda v, p: augmentation.model_translator(p), "holds no sequence-to-sequence model with its"),
    ],
)
def test_wrong_calls_are_refused(call: Any, message: str, vectors: Any, tmp_path: Any) -> None:
    with pytest.raises(tl.TrainlabError, match=message):
        call(vectors, tmp_path)
