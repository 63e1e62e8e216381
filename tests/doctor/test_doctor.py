"""The doctor itself: nothing is changed, the words are right, and a watched loop is the same loop."""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import pytest
import torch
from doctor.scenes import batches, blobs, classifier, net, plain_step
from torch import nn
from torch.utils.data import DataLoader, Dataset

import trainlab as tl
from trainlab.doctor.codes import CODES, EXPLAINS, SYMPTOMS
from trainlab.doctor.recording import origin_of
from trainlab.doctor.report import LEVELS
from trainlab.doctor.sample import skill
from trainlab.randomness import get_rng_state


class Restless(Dataset[Any]):
    """A data set that changes what it holds, and draws from every generator."""

    def __init__(self) -> None:
        self.x, self.y = blobs(160, 0)
        self.read = 0
        self.log: list[int] = []

    def __len__(self) -> int:
        return 160

    def __getitem__(self, place: int) -> Any:
        self.read += 1
        self.log.append(place)
        self.x[place] += 1e-3 * random.random() + 1e-3 * float(np.random.rand())
        return self.x[place], self.y[place]


def scene(own: bool) -> dict[str, Any]:
    """A program half a run old, with all that a check could disturb."""
    torch.manual_seed(0)
    model = net(12, 4, 0, nn.BatchNorm1d(32), nn.Dropout(0.3))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    train = DataLoader(Restless(), 16, shuffle=True, generator=torch.Generator().manual_seed(3))
    for x, y in batches(*blobs(96, 3)):
        plain_step(model, (x, y), nn.functional.cross_entropy, optimizer, 0)
    schedule.step()
    model[1].eval()
    kept: list[float] = []

    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Any:
        loss = plain_step(model, batch, criterion, optimizer, number)
        kept.append(float(loss.detach()))
        schedule.step()
        return loss

    def evaluate(model: Any, loader: Any) -> float:
        model.train()
        return float(sum((model(x).argmax(1) == y).sum() for x, y in loader)) / 100

    return {
        "model": model,
        "criterion": nn.CrossEntropyLoss(),
        "optimizer": optimizer,
        "train_loader": train,
        "val_loader": batches(*blobs(100, 9), shuffle=False),
        "scheduler": schedule,
        "step_fn": step if own else None,
        "eval_fn": evaluate,
    } | ({"kept": kept} if own else {})


def everything(parts: dict[str, Any]) -> dict[str, Any]:
    model, data = parts["model"], parts["train_loader"].dataset
    return copy.deepcopy(
        {
            "weights": model.state_dict(),
            "gradients": [p.grad for p in model.parameters()],
            "identity": [id(p.grad) for p in model.parameters()],
            "modes": [part.training for part in model.modules()],
            "flags": [p.requires_grad for p in model.parameters()],
            "hooks": [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules()],
            "optimizer": parts["optimizer"].state_dict(),
            "step": "step" in vars(parts["optimizer"]),
            "schedule": {k: v for k, v in vars(parts["scheduler"]).items() if k != "optimizer"},
            "data": (data.x, data.y, data.read, data.log),
            "order": parts["train_loader"].generator.get_state(),
            "random": get_rng_state(),
            "grad mode": torch.is_grad_enabled(),
        }
    )


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))
    return type(a) is type(b) and (a == b or callable(a))


@pytest.mark.parametrize("own", [False, True], ids=["plain steps", "own steps"])
def test_a_check_leaves_everything_to_the_last_bit(own: bool) -> None:
    parts = scene(own)
    kept = parts.pop("kept", [])
    before = everything(parts)
    found = tl.doctor.check(**parts, budget_s=120)
    assert found.checks > 30
    after = everything(parts)
    assert not [key for key in before if not same(before[key], after[key])]
    assert kept == []
    assert torch.Tensor.backward.__module__ == "torch._tensor"


def test_a_step_that_fails_leaves_everything_too() -> None:
    parts = scene(False)

    def step(model: Any, batch: Any, criterion: Any, optimizer: Any, number: int) -> Any:
        plain_step(model, batch, criterion, optimizer, number)
        raise RuntimeError("the power is gone")

    before = everything(parts)
    found = tl.doctor.check(**parts | {"step_fn": step}, budget_s=120)
    assert "step-fails" in {each.code for each in found.findings}
    assert not [key for key in before if not same(before[key], everything(parts)[key])]


def test_a_function_that_closes_over_the_original_is_given_the_copies() -> None:
    model = net(12, 4, 0)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    counted = {"steps": 0}

    def step(_: Any, batch: Any, criterion: Any, __: Any, number: int) -> Any:
        counted["steps"] += 1
        return plain_step(model, batch, criterion, optimizer, number)  # the outer names

    before = copy.deepcopy(model.state_dict())
    assert tl.doctor.check(**classifier(0, model, optimizer=optimizer, step_fn=step), budget_s=120).ok
    assert same(before, model.state_dict())
    assert counted == {"steps": 0}


def test_watching_sees_the_loop_and_changes_no_bit_of_it() -> None:
    def run(watched: bool) -> tuple[dict[str, Any], Any]:
        model = net(12, 4, 0, nn.Dropout(0.3))
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        torch.manual_seed(5)
        seen = tl.doctor.watch(model, optimizer)
        if watched:
            seen.__enter__()
        for x, y in batches(*blobs(320, 0), seed=1):
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()  # never cleared
            optimizer.step()
        if watched:
            seen.__exit__(None, None, None)
        return model.state_dict(), seen

    plain, _ = run(False)
    watched, seen = run(True)
    assert same(dict(plain), dict(watched))
    assert seen.diagnosis.findings[0].code == "zero-grad-missing"
    assert not any(part._forward_hooks for part in seen.model.modules())


def test_watching_a_sound_loop_finds_nothing() -> None:
    model = net(12, 4, 0, nn.BatchNorm1d(32), nn.Dropout(0.3))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    with tl.doctor.watch(model, optimizer) as seen:
        for _ in range(2):
            model.train()
            for x, y in batches(*blobs(320, 0), seed=1):
                plain_step(model, (x, y), nn.functional.cross_entropy, optimizer, 0)
            model.eval()
            with torch.no_grad():
                model(blobs(50, 1)[0])
    assert seen.diagnosis.ok, str(seen.diagnosis)


def test_watching_hands_an_error_on_and_tells_it() -> None:
    model = net(12, 4, 0)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    seen = tl.doctor.watch(model, optimizer)
    with pytest.raises(ZeroDivisionError), seen:
        plain_step(model, blobs(32, 0), nn.functional.cross_entropy, optimizer, 0)
        _ = 1 / 0
    assert isinstance(seen.diagnosis, tl.Diagnosis)


def test_a_diagnosis_says_number_limit_reason_and_cure(capsys: pytest.CaptureFixture[str]) -> None:
    model = net(12, 4, 0).append(nn.Softmax(1))
    found = tl.doctor.check(**classifier(0, model), budget_s=120)
    assert not found.ok
    first = found.findings[0]
    assert (first.code, first.level) == ("softmax-before-cross-entropy", "error")
    assert "sum to 1" in first.evidence
    found.show()
    printed = capsys.readouterr().out
    assert "ERROR  softmax-before-cross-entropy" in printed
    assert first.why in printed
    assert "<b>softmax-before-cross-entropy</b>" in found._repr_html_()
    assert "not checked: your metric" in printed


def test_nothing_wrong_is_said_with_what_was_not_seen() -> None:
    found = tl.doctor.check(**classifier(0), budget_s=120)
    assert found.ok
    assert str(found).startswith("Nothing wrong found")
    assert any("step_fn" in line for line in found.unchecked)


def test_a_code_that_is_ignored_is_not_told() -> None:
    model = net(12, 4, 0).append(nn.Softmax(1))
    found = tl.doctor.check(**classifier(0, model), ignore=["softmax-before-cross-entropy"], budget_s=120)
    assert "softmax-before-cross-entropy" not in {each.code for each in found.findings}


def test_without_time_questions_are_named_and_not_asked() -> None:
    found = tl.doctor.check(**classifier(0), budget_s=0)
    assert any("no time left" in line for line in found.unchecked)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"model": len}, r"model is a builtin_function_or_method: give a torch\.nn\.Module"),
        ({"optimizer": 0.1}, r"optimizer is a float: give a torch\.optim\.Optimizer"),
        ({"train_loader": iter([])}, r"list_iterator, which cannot be gone through again"),
        ({"val_loader": iter([])}, "list_iterator that can be gone through once only"),
        ({"scheduler_interval": "batch"}, "'batch' is neither 'epoch' nor 'step'"),
        ({"task": "chess"}, "task='chess' is none of auto"),
        ({"steps": 0}, "steps=0 is not a whole number from 1 on"),
        ({"ignore": ["softmx"]}, "ignore holds 'softmx', which is no code"),
    ],
)
def test_wrong_calls_are_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(tl.TrainlabError, match=text):
        tl.doctor.check(**classifier(0) | changes)


@pytest.mark.parametrize(("model", "optimizer"), [(3, None), (nn.Linear(2, 2), 3)])
def test_watching_something_else_is_refused(model: Any, optimizer: Any) -> None:
    with pytest.raises(tl.TrainlabError, match=r"is a (int|NoneType): give a torch"):
        tl.doctor.watch(model, optimizer)


def test_the_codes_are_whole() -> None:
    assert set(CODES) >= SYMPTOMS
    for code, explained in EXPLAINS.items():
        assert {code} | explained <= set(CODES), code
    assert all(why and fix for why, fix in CODES.values())
    assert LEVELS == ("error", "warning", "info")


def test_the_maker_of_a_tensor_is_found_behind_reshapes() -> None:
    x = torch.randn(4, 6, requires_grad=True)
    assert origin_of(x.sigmoid().view(2, 12).unsqueeze(0)) == "Sigmoid"
    assert origin_of(torch.log_softmax(x, 1).transpose(0, 1)) == "LogSoftmax"
    assert origin_of(x.detach()) == ""


def test_skill_is_chance_on_noise_and_high_on_blobs() -> None:
    x, y = blobs(400, 0)
    assert skill(x, y) > 0.7
    assert abs(skill(x, y[torch.randperm(400, generator=torch.Generator().manual_seed(0))])) < 0.15
    line = 2 * x[:, 0] - x[:, 3]
    assert skill(x, line) > 0.95
