"""Every patient of the clinic is told from its mended twin: one seed here, three in the soak."""

from __future__ import annotations

import pytest
import torch

import trainlab as tl
from trainlab.course.clinic import CASES, Case, patient
from trainlab.doctor.codes import CODES

BUDGET = 120  # on a machine that others use the clock says little


def causes(case: Case, seed: int, *, mended: bool) -> tl.Diagnosis:
    return tl.doctor.check(**case.build(mended, seed).arguments(), budget_s=BUDGET)


def serious(diagnosis: tl.Diagnosis) -> list[str]:
    return [f"{each.code}: {each.evidence}" for each in diagnosis.findings if each.level != "info"]


def test_the_clinic_is_full_and_its_causes_are_codes() -> None:
    assert len(CASES) >= 24
    assert len({case.name for case in CASES}) == len(CASES)
    assert len({case.cause for case in CASES}) >= 24
    assert all(code in CODES for case in CASES for code in case.causes)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_patient_is_told_from_its_twin(case: Case) -> None:
    found = causes(case, 0, mended=False)
    assert set(case.causes) & {each.code for each in found.findings[:3]}, str(found)
    assert not serious(causes(case, 0, mended=True))


@pytest.mark.soak
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_patient_is_told_from_its_twin_on_every_seed(case: Case, seed: int) -> None:
    found = causes(case, seed, mended=False)
    assert set(case.causes) & {each.code for each in found.findings[:3]}, str(found)
    assert not serious(causes(case, seed, mended=True))


def test_the_same_seed_builds_the_same_program() -> None:
    first, second = (patient("softmax-twice").build(False, 4) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), second.model.parameters()))
    assert torch.equal(next(iter(first.train_loader))[0], next(iter(second.train_loader))[0])


def test_an_unknown_patient_is_refused() -> None:
    with pytest.raises(tl.TrainlabError, match="unknown patient 'no-zeroo': did you mean 'no-zero'"):
        patient("no-zeroo")
