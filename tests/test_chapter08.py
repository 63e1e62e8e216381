"""The exercises of chapter 08: the solutions pass, likely wrong answers fail with the fitting hint."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from chapters.answers import Answers
from torch.utils.data import DataLoader
from torchvision.transforms import v2

import trainlab as tl
from trainlab.course import chapter08
from trainlab.randomness import derive_seed


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


FRESH = "    generator = torch.Generator().manual_seed(derive_seed(seed, epoch, index))\n"


ANSWERS = Answers(
    {"08.1": "soft_target", "08.2": "scan_transforms", "08.3": "keyed", "08.4": "policy"},
    {"torch": torch, "np": np, "v2": v2, "derive_seed": derive_seed},
)


test_the_solution_is_right = ANSWERS.solutions()
test_a_stub_is_not_an_attempt = ANSWERS.stubs()


SOFT = """
def soft_target(one, other, share, classes):
    target = torch.zeros(classes)
    target[one] = share
    target[other] = 1 - share
    return target
"""

SCANS = """
def scan_transforms(mean, std):
    finish = [v2.ToDtype(torch.float32, scale=True), v2.Normalize([mean], [std])]
    turn = v2.RandomRotation(15)
    return v2.Compose([turn, *finish]), v2.Compose(finish)
"""

KEYED = """
def keyed(image, seed, epoch, index):
    generator = torch.Generator().manual_seed(KEY)
    return image + 0.1 * torch.randn(image.shape, generator=generator)
"""

POLICY = "def policy():\n    return "

WRONG = {
    "the shares exchanged": ("08.1", 1, SOFT.replace("[one] = share", "[one] = 1 - share").replace(
        "[other] = 1 - share", "[other] = share")),
    "two numbers only": ("08.1", 1, "def soft_target(one, other, share, classes):\n"
                                    "    return torch.tensor([share, 1 - share])"),
    "the larger share takes all": ("08.1", 2, "def soft_target(one, other, share, classes):\n"
                                              "    target = torch.zeros(classes)\n"
                                              "    target[one if share > 0.5 else other] = 1\n"
                                              "    return target"),
    "the second class forgotten": ("08.1", 2, SOFT.replace("    target[other] = 1 - share\n", "")),
    "assigned, not added": ("08.1", 3, SOFT),
    "validation is turned, too": ("08.2", 1, SCANS.replace(", v2.Compose(finish)",
                                                           ", v2.Compose([turn, *finish])")),
    "nothing random": ("08.2", 1, SCANS.replace("[turn, *finish]", "finish")),
    "not scaled to 1": ("08.2", 2, SCANS.replace(", scale=True", "")),
    "validation is not normalised": ("08.2", 2, SCANS.replace("v2.Compose(finish)", "finish[0]")),
    "training is not normalised": ("08.2", 2, SCANS.replace("[turn, *finish]", "[turn, finish[0]]")),
    "turned after the normalisation": ("08.2", 3, SCANS.replace("[turn, *finish]", "[*finish, turn]")),
    "a generator that lives on": ("08.3", 1, "generator = torch.Generator().manual_seed(0)\n"
                                             "def keyed(image, seed, epoch, index):\n"
                                             + KEYED.splitlines()[-1]),
    "no seed at all": ("08.3", 1, "def keyed(image, seed, epoch, index):\n"
                                  "    return image + 0.1 * torch.randn(image.shape)"),
    "the generator of all": ("08.3", 2, "def keyed(image, seed, epoch, index):\n"
                                        "    torch.manual_seed(derive_seed(seed, epoch, index))\n"
                                        "    return image + 0.1 * torch.randn(image.shape)"),
    "keys added up": ("08.3", 3, KEYED.replace("KEY", "seed + epoch + index")),
    "keys side by side": ("08.3", 3, KEYED.replace("KEY", "1000 * epoch + 100 * seed + index")),
    "the epoch left out": ("08.3", 3, KEYED.replace("KEY", "derive_seed(seed, index)")),
    "in place": ("08.3", 3, "def keyed(image, seed, epoch, index):\n"
                            + FRESH +
                            "    image += 0.1 * torch.randn(image.shape, generator=generator)\n"
                            "    return image"),
    "too loud": ("08.3", 3, KEYED.replace("KEY", "derive_seed(seed, epoch, index)").replace("0.1 *", "")),
    "nothing changes": ("08.4", 1, POLICY + "v2.Identity()"),
    "no transform": ("08.4", 1, POLICY + "15"),
    "another size": ("08.4", 3, POLICY + "v2.RandomCrop(20)"),
    "on their heads, at any angle": ("08.4", 2, POLICY + "v2.RandomRotation(180)"),
    "hardly anything": ("08.4", 3, POLICY + "v2.ColorJitter(brightness=0.05)"),
}  # fmt: skip


test_a_likely_wrong_answer_fails_with_its_hint = ANSWERS.wrong(WRONG)


def test_a_soft_target_may_be_a_list_and_keys_may_be_hashed() -> None:
    listed = """
def soft_target(one, other, share, classes):
    return [share * (k == one) + (1 - share) * (k == other) for k in range(classes)]
"""
    hashed = KEYED.replace("KEY", "hash((seed, epoch, index))")
    for name, source in {"08.1": listed, "08.3": hashed}.items():
        verdict = ANSWERS.verdict(name, source)
        assert verdict.ok, verdict


# --- what the chapter is made with ----------------------------------------------------------------------


def test_a_larger_draw_of_labels_holds_the_smaller_one() -> None:
    data = tl.load("digits")
    small, large = (chapter08.few(data, size, seed=3) for size in (4, 9))
    assert torch.bincount(small.targets).tolist() == [4] * 10
    assert torch.bincount(large.targets).tolist() == [9] * 10
    assert set(small.rows.tolist()) < set(large.rows.tolist())
    assert set(chapter08.few(data, 4, seed=4).rows.tolist()) != set(small.rows.tolist())


@pytest.mark.parametrize(("reached", "labels"), [(0.6, 10), (0.7, 20), (0.65, 14.1), (0.5, 10), (0.9, 40)])
def test_a_score_is_worth_the_labels_that_reach_it(reached: float, labels: float) -> None:
    assert chapter08.worth([10, 20, 40], [0.6, 0.7, 0.75], reached) == pytest.approx(labels, abs=0.1)


def test_the_specimen_gives_every_worker_the_same_noise_and_every_epoch_too() -> None:
    for workers, same in ((0, False), (2, True)):
        loader = DataLoader(chapter08.Jittered(), batch_size=4, num_workers=workers)
        first, second = ([batch.tolist() for batch in loader] for _ in range(2))
        assert (first[0] == first[1]) is same
        assert (first == second) is same
