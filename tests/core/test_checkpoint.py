"""What is saved comes back to the last bit; damage is noticed and named; nothing that is loaded runs."""

from __future__ import annotations

import copy
import errno
import json
import math
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from core.runs import (
    assert_same,
    assert_same_run,
    everything,
    make_state,
    mean_ce,
    network,
    rows_of_run,
    table,
)
from torch import nn
from torch.optim import lr_scheduler as lr

import trainlab as tl
from trainlab.checkpoint import files

VALID = table(30, seed=8)


def batches() -> Any:
    return tl.make_loader(table(40), 8, seed=3, shuffle=True)


def train_on(state: tl.TrainState, epochs: int, *observers: Any, **options: Any) -> None:
    valid = tl.make_loader(VALID, 16, seed=0, shuffle=False)
    config = tl.TrainConfig(epochs=epochs, device="cpu", **options)
    tl.fit(state, batches(), mean_ce, config, valid=valid, observers=observers)


def there_and_back(path: Path, first: tl.TrainState, second: tl.TrainState) -> None:
    tl.load_checkpoint(tl.save_checkpoint(path, first), second)


# --- everything that a run may be made of


def _optimizers() -> dict[str, Callable[[Any], torch.optim.Optimizer]]:
    """Every optimizer of torch that `train` takes, and ours, with settings away from their defaults."""
    options: dict[str, dict[str, Any]] = {
        "SGD": {"momentum": 0.9, "nesterov": True},
        "RMSprop": {"momentum": 0.5, "centered": True},
        "Adam": {"amsgrad": True},
    }
    left_out = {"Optimizer", "LBFGS", "SparseAdam", "Muon"}  # refused by TrainState; sparse; matrices only
    found: dict[str, Callable[[Any], torch.optim.Optimizer]] = {}
    for name in sorted(set(dir(torch.optim)) - left_out):
        kind = getattr(torch.optim, name)
        if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer):
            own = {"lr": 0.01} | options.get(name, {})
            found[name] = lambda m, k=kind, o=own: k(m.parameters(), **o)
    found["a rate that is a tensor"] = lambda m: torch.optim.Adam(m.parameters(), lr=torch.tensor(0.01))
    found["lookahead"] = lambda m: tl.optimizers.Lookahead(torch.optim.AdamW(m.parameters()), steps=3)
    found["muon"] = lambda m: tl.optimizers.muon(m)
    found["lookahead over muon"] = lambda m: tl.optimizers.Lookahead(tl.optimizers.muon(m), steps=2)
    return found


OPTIMIZERS = _optimizers()


def test_all_optimizers_of_torch_are_there() -> None:
    assert {"ASGD", "Adadelta", "Adafactor", "Adagrad", "Adamax", "NAdam", "RAdam", "Rprop"} <= set(
        OPTIMIZERS
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_goes_on_exactly(name: str, tmp_path: Path) -> None:
    def fresh() -> tl.TrainState:
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.Dropout(0.3), nn.Linear(8, 3))
        torch.manual_seed(4)
        return tl.TrainState(model, OPTIMIZERS[name](model))

    first, second = fresh(), fresh()
    second.model.load_state_dict(first.model.state_dict())
    train_on(first, 1)
    there_and_back(tmp_path / "saved", first, second)
    assert_same_run(second, first)
    torch.manual_seed(5)
    train_on(first, 2)
    torch.manual_seed(5)
    train_on(second, 2)
    assert_same_run(second, first)


def _chained(o: Any) -> Any:
    return lr.ChainedScheduler([lr.ConstantLR(o), lr.ExponentialLR(o, 0.9)], o)


SCHEDULES: dict[str, Callable[[Any], Any]] = {
    "lambda": lambda o: lr.LambdaLR(o, lambda done: 1 / (done + 1)),
    "multiplicative": lambda o: lr.MultiplicativeLR(o, lambda done: 0.9),
    "multistep": lambda o: lr.MultiStepLR(o, [2, 2, 7]),
    "sequential": lambda o: lr.SequentialLR(o, [lr.LinearLR(o), lr.CosineAnnealingLR(o, 9)], [3]),
    "chained": _chained,
    "cyclic": lambda o: lr.CyclicLR(o, 0.01, 0.1, step_size_up=3),
    "polynomial": lambda o: lr.PolynomialLR(o, 9),
    "warm restarts": lambda o: lr.CosineAnnealingWarmRestarts(o, 3),
    "plateau": lambda o: tl.schedules.plateau(o, patience=0),
    "ours, one cycle": lambda o: tl.schedules.one_cycle(o, steps=15),
    "ours, cosine": lambda o: tl.schedules.warmup_cosine(o, steps=15, warmup=3),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_goes_on_exactly(name: str, tmp_path: Path) -> None:
    def fresh() -> tl.TrainState:
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
        return tl.TrainState(model, optimizer, SCHEDULES[name](optimizer))

    first, second = fresh(), fresh()
    train_on(first, 1)
    there_and_back(tmp_path / "saved", first, second)
    assert_same(second.scheduler.state_dict(), first.scheduler.state_dict())  # type: ignore[union-attr]
    for state in (first, second):
        torch.manual_seed(5)
        train_on(state, 3)
    assert_same_run(second, first)


@pytest.mark.filterwarnings("ignore:precision='fp16'")
def test_scaler_controls_observers_and_generators_come_back(tmp_path: Path) -> None:
    def fresh() -> tuple[tl.TrainState, tl.EarlyStopping, tl.BestModel]:
        state = make_state("adamw", "plateau")
        return state, tl.EarlyStopping(patience=9), tl.BestModel(state)

    first, *watching = fresh()
    first.controls.dropout, first.controls.lr_scale = 0.6, 0.5
    train_on(first, 2, *watching, precision="fp16")
    assert first.scaler is not None
    first.scaler.update(2.0**7)
    saved = tl.save_checkpoint(tmp_path / "saved", first)
    before = everything(first)
    torch.rand(3), np.random.rand()
    second, *others = fresh()
    tl.load_checkpoint(saved, second)
    assert_same(everything(second), before)
    assert second.controls == first.controls and second.model[3].p == 0.6
    second.attach(others)
    for one, other in zip(others, watching):
        assert_same(one.state_dict(), dict(other.state_dict()))
    assert second.scaler is not None and second.scaler.get_scale() == 2.0**7


class Tied(nn.Module):
    """Two layers that share their weights, a buffer that is a part of another, and extra state."""

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Linear(6, 4)
        self.embedding = nn.Linear(4, 3, bias=False)
        self.head = nn.Linear(4, 3)
        self.head.weight = self.embedding.weight
        whole = torch.arange(12.0)
        self.register_buffer("part", whole[2:5])
        self.register_buffer("turned", torch.arange(6.0).view(2, 3).t())
        self.register_buffer("empty", torch.zeros(0, 3))
        self.seen = 0

    def get_extra_state(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.read(x))


def test_tied_weights_are_stored_once_and_stay_tied(tmp_path: Path) -> None:
    states = []
    for _ in range(2):
        model = Tied()
        states.append(tl.TrainState(model, torch.optim.Adam(model.parameters())))
    first, second = states
    train_on(first, 1, tl.BestModel(first))
    first.model.seen = 5  # type: ignore[assignment]
    saved = tl.save_checkpoint(tmp_path / "saved", first)
    stored = safetensors.torch.load_file(saved / "weights.safetensors")
    assert ("head.weight" in stored) != ("embedding.weight" in stored)
    tl.load_checkpoint(saved, second)
    assert_same_run(second, first)
    assert second.model.head.weight is second.model.embedding.weight
    assert second.model.seen == 5
    with safetensors.safe_open(saved / "weights.safetensors", "pt") as file:
        assert set(file.metadata().items()) == {("head.weight", "embedding.weight")}


def test_a_memory_format_is_kept(tmp_path: Path) -> None:
    def fresh() -> tl.TrainState:
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Unflatten(1, (2, 3, 1)), nn.Conv2d(2, 3, (2, 1)), nn.Flatten(), nn.Linear(6, 3)
        )
        model = model.to(memory_format=torch.channels_last)
        return tl.TrainState(model, torch.optim.Adam(model.parameters()))

    first, second = fresh(), fresh()
    train_on(first, 1)
    there_and_back(tmp_path / "saved", first, second)
    for one, other in zip(first.optimizer.state.values(), second.optimizer.state.values()):
        assert one["exp_avg"].stride() == other["exp_avg"].stride()
    assert_same_run(second, first)


def test_what_plain_values_may_be_comes_back_as_it_was(tmp_path: Path) -> None:
    class Odd:
        """An observer whose state holds every kind of plain value."""

        state: dict[str, Any]

        def __call__(self, event: tl.Event) -> None: ...

        def state_dict(self) -> dict[str, Any]:
            return self.state

        def load_state_dict(self, state: Any) -> None:
            self.state = state

    odd, other = Odd(), Odd()
    odd.state = {
        "numbers": [1, 2**80, True, None, -0.0, 1e-320, math.inf, -math.inf, math.nan],
        "text": "\u00fc\n\U00012000",
        "tuple": (1, (2, [3])),
        "set": {1, 2},
        "keys": {1: "a", (2, 3): "b", None: "c", "$": "d"},
        "marked": {"$": "tensor", "is": "rng.torch"},
        "counter": Counter({3: 2}),
        "ordered": OrderedDict(b=1, a=2),
        "numpy": [np.float32(0.1), np.int64(3), np.bool_(True)],
        "array": np.arange(6, dtype=np.int16).reshape(2, 3),
        "dots": {"a": {"b": torch.ones(2)}, "a.b": torch.zeros(2)},
        "kinds": [torch.zeros(2, dtype=kind) for kind in (torch.bfloat16, torch.bool, torch.complex64)],
        "scalar": torch.tensor(3),
    }
    first, second = make_state(), make_state()
    first.attach([odd])
    there_and_back(tmp_path / "saved", first, second)
    second.attach([other])
    got = other.state
    assert_same(
        {k: v for k, v in got.items() if k != "numpy"}, {k: v for k, v in odd.state.items() if k != "numpy"}
    )
    assert got["numpy"] == [float(np.float32(0.1)), 3, True]
    assert type(got["counter"]) is Counter and type(got["tuple"][1]) is tuple
    assert got["array"].dtype == np.int16


# --- damage


def damaged_copies(whole: Path) -> list[tuple[str, Callable[[Path], None]]]:
    """Ways to harm each file of a checkpoint: cut off, emptied, a byte flipped at several places, gone."""

    def flip(place: float, bit: int) -> Callable[[Path], None]:
        def harm(path: Path) -> None:
            content = bytearray(path.read_bytes())
            content[int(place * (len(content) - 1))] ^= 1 << bit
            path.write_bytes(content)

        return harm

    def cut(share: float) -> Callable[[Path], None]:
        return lambda path: os.truncate(path, int(share * path.stat().st_size))

    return [
        *((f"bit {bit} at {place}", flip(place, bit)) for place in (0, 0.3, 0.7, 1) for bit in (0, 5, 7)),
        *((f"cut to {share}", cut(share)) for share in (0.0, 0.5, 0.999)),
        ("a byte more", lambda path: path.write_bytes(path.read_bytes() + b" ")),
        ("gone", Path.unlink),
    ]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint of one epoch, and one of two."""
    folder = tmp_path_factory.mktemp("two")
    state = make_state()
    for epoch in (1, 2):
        train_on(state, epoch)
        tl.save_checkpoint(folder / f"epoch_{epoch}", state)
    return folder


@pytest.mark.parametrize("name", [*files.FILES, files.MANIFEST])
def test_damage_to_any_file_is_noticed_and_named(name: str, two: Path, tmp_path: Path) -> None:
    for label, harm in damaged_copies(two):
        folder = tmp_path / label
        shutil.copytree(two, folder)
        harm(folder / "epoch_2" / name)
        state = make_state()
        before = everything(state)
        with pytest.raises(tl.TrainlabError, match=name.replace(".", r"\.") + " is (damaged|missing)"):
            tl.load_checkpoint(folder / "epoch_2", state)
        assert_same(everything(state), before)
        with pytest.warns(UserWarning, match=name.replace(".", r"\.") + " is (damaged|missing)"):
            found = tl.latest_checkpoint(folder)
        assert found == folder / "epoch_1", label
        tl.load_checkpoint(found, state)
        assert state.epoch == 1


def test_a_folder_without_a_whole_checkpoint(two: Path, tmp_path: Path) -> None:
    assert tl.latest_checkpoint(tmp_path / "nowhere") is None
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/todo.txt").write_text("")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a folder of something else is no damaged checkpoint
        assert tl.latest_checkpoint(tmp_path) is None


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.trace),))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", [*files.FILES, files.MANIFEST])
def test_a_malicious_pickle_is_never_run(name: str, protocol: int, two: Path, tmp_path: Path) -> None:
    """Also where whoever planted it made a manifest that fits."""
    trace = tmp_path / "trace"
    folder = tmp_path / "run"
    shutil.copytree(two, folder)
    victim = folder / "epoch_2"
    bomb = pickle.dumps(Bomb(trace), protocol)
    pickle.loads(bomb)
    assert trace.exists()  # it would work
    trace.rmdir()
    (victim / name).write_bytes(bomb)
    if name != files.MANIFEST:
        manifest = files.read_manifest(victim)
        assert manifest is not None
        manifest["files"][name] = files._sealed(victim / name)
        (victim / files.MANIFEST).write_text(files._manifest_text(manifest))
    state = make_state()
    before = everything(state)
    with pytest.raises(
        tl.TrainlabError, match="is not what its name says" if name in files.FILES else "damaged"
    ):
        tl.load_checkpoint(victim, state)
    assert_same(everything(state), before)
    assert not trace.exists()


def test_the_pickle_of_torch_save_is_no_checkpoint(tmp_path: Path) -> None:
    torch.save({"model": Bomb(tmp_path / "trace")}, tmp_path / "model.pt")
    with pytest.raises(tl.TrainlabError, match=r"no whole checkpoint: manifest\.json is missing"):
        tl.load_checkpoint(tmp_path / "model.pt", make_state())
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    "tree", ['{"$": "eval", "is": "1"}', "[[[[", "[" * 100_000, '{"$": "tensor", "is": "x"}', "7"]
)
def test_a_forged_state_is_refused(tree: str, two: Path, tmp_path: Path) -> None:
    shutil.copytree(two / "epoch_1", tmp_path / "run")
    (tmp_path / "run" / files.STATE).write_text(tree)
    manifest = files.read_manifest(tmp_path / "run")
    assert manifest is not None
    manifest["files"][files.STATE] = files._sealed(tmp_path / "run" / files.STATE)
    (tmp_path / "run" / files.MANIFEST).write_text(files._manifest_text(manifest))
    with pytest.raises(tl.TrainlabError, match="is not what its name says"):
        tl.load_checkpoint(tmp_path / "run", make_state())


# --- the disk


def test_a_full_disk_leaves_what_was_there(
    two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every single operation that writes may be the one that finds the disk full."""
    shutil.copytree(two, tmp_path / "run")
    state = make_state()
    train_on(state, 3)
    before = everything(state)
    calls, fails_at = 0, 0

    def refusing(plain: Any) -> Any:
        def call(*given: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == fails_at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return plain(*given, **options)

        return call

    for owner, name in (
        (os, "fsync"),
        (Path, "mkdir"),
        (Path, "write_text"),
        (Path, "rename"),
        (files, "save_file"),
    ):
        monkeypatch.setattr(owner, name, refusing(getattr(owner, name)))
    for number in range(1, 100):
        calls, fails_at = 0, number
        try:
            tl.save_checkpoint(tmp_path / "run/epoch_3", state)
            break
        except tl.TrainlabError as error:
            assert "cannot save" in str(error) and "No space left on device" in str(error), error
            assert "epoch_3" in str(error)
        if (tmp_path / "run/epoch_3").exists():  # only the parent's last fsync failed: it is whole
            shutil.rmtree(tmp_path / "run/epoch_3")
        assert sorted(place.name for place in (tmp_path / "run").iterdir()) == ["epoch_1", "epoch_2"]
        assert tl.latest_checkpoint(tmp_path / "run") == tmp_path / "run/epoch_2"
        assert_same(everything(state), before)
    assert fails_at > 10
    assert tl.latest_checkpoint(tmp_path / "run") == tmp_path / "run/epoch_3"


def test_a_file_that_may_not_grow_is_told(tmp_path: Path) -> None:
    """A real refusal by the system, in the middle of writing the tensors."""
    state = make_state()
    train_on(state, 1)
    tl.save_checkpoint(tmp_path / "first", state)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        with pytest.raises(tl.TrainlabError, match=r"cannot save .*second.*File too large"):
            tl.save_checkpoint(tmp_path / "second", state)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert [place.name for place in tmp_path.iterdir()] == ["first"]
    assert tl.latest_checkpoint(tmp_path) == tmp_path / "first"
    tl.save_checkpoint(tmp_path / "second", state)


def test_leftovers_of_the_dead_are_removed_and_those_of_the_living_stay(tmp_path: Path) -> None:
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    )
    for name in (f".a.partial-{int(dead.stdout)}", f".b.partial-{os.getppid()}", f".c.partial-{os.getpid()}"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights.safetensors").write_bytes(b"half")
    tl.save_checkpoint(tmp_path / "run", make_state())
    assert sorted(place.name for place in tmp_path.iterdir()) == [f".b.partial-{os.getppid()}", "run"]
    assert tl.latest_checkpoint(tmp_path) == tmp_path / "run"


# --- the observer


def names(folder: Path) -> list[str]:
    return sorted(place.name for place in folder.iterdir())


def test_every_so_many_steps_and_the_end(tmp_path: Path) -> None:
    state = make_state()
    train_on(state, 2, tl.Checkpointer(state, tmp_path, every_steps=4, keep=None, best=None))
    assert names(tmp_path) == ["step_00000004", "step_00000008", "step_00000010"]
    again = make_state()
    tl.load_checkpoint(tmp_path / "step_00000004", again)
    assert again.step == 4 and again.samples == 32
    tl.load_checkpoint(tmp_path / "step_00000010", again)
    assert_same_run(again, state)


@pytest.mark.parametrize("validated", [True, False])
def test_every_so_many_epochs(validated: bool, tmp_path: Path) -> None:
    state = make_state()
    keeper = tl.Checkpointer(state, tmp_path, every_epochs=2, keep=None, best=None)
    if validated:
        train_on(state, 5, keeper)
    else:
        tl.fit(state, batches(), mean_ce, tl.TrainConfig(epochs=5), observers=[keeper])
    # without a validation an epoch is known to be over when the next one has begun
    first = ["step_00000010", "step_00000020"] if validated else ["step_00000011", "step_00000021"]
    assert names(tmp_path) == [*first, "step_00000025"]


def test_the_last_are_kept_in_the_order_of_saving_not_of_names_or_steps(tmp_path: Path) -> None:
    state = make_state("sgd", None)
    train_on(state, 3, tl.Checkpointer(state, tmp_path, every_steps=2, keep=2, best=None))
    assert names(tmp_path) == ["step_00000014", "step_00000015"]
    fork = make_state("sgd", None)  # a run that begins anew beside it saves lower steps later
    tl.fit(
        fork, batches(), mean_ce, tl.TrainConfig(steps=6),
        observers=[tl.Checkpointer(fork, tmp_path, every_steps=2, keep=2, best=None)],
    )  # fmt: skip
    assert names(tmp_path) == ["step_00000004", "step_00000006"]
    assert tl.latest_checkpoint(tmp_path) == tmp_path / "step_00000006"


def test_names_made_by_hand_are_in_the_order_of_saving(tmp_path: Path) -> None:
    state = make_state()
    for epoch in (8, 9, 10, 2):
        tl.save_checkpoint(tmp_path / f"epoch_{epoch}", state)
    os.utime(tmp_path / "epoch_8", (2e9, 2e9))
    assert tl.latest_checkpoint(tmp_path) == tmp_path / "epoch_2"


def test_the_best_stays_and_what_others_saved_as_well(tmp_path: Path) -> None:
    state = make_state()
    tl.save_checkpoint(tmp_path / "before", state)
    keeper = tl.Checkpointer(state, tmp_path, keep=1, best="loss")
    losses = iter([0.5, 0.3, 0.9, 0.4])

    def said(event: tl.Event) -> None:
        """Give the keeper other losses than were measured."""
        if isinstance(event, tl.Validation):
            event = tl.Validation(event.step, event.epoch, {"loss": next(losses)})
        keeper(event)

    train_on(state, 4, said)
    assert keeper.best == tmp_path / "step_00000010"
    assert names(tmp_path) == ["before", "step_00000010", "step_00000020"]


def test_the_best_is_known_after_a_resume(tmp_path: Path) -> None:
    def fresh() -> tuple[tl.TrainState, tl.Checkpointer]:
        state = make_state()
        return state, tl.Checkpointer(state, tmp_path, best="loss", mode="max", keep=1)

    state, keeper = fresh()
    train_on(state, 2, keeper)
    best = keeper.best
    again, other = fresh()
    saved = tl.latest_checkpoint(tmp_path)
    assert saved is not None
    tl.load_checkpoint(saved, again)
    again.attach([other])
    assert other.best == best and other._best.value == keeper._best.value  # type: ignore[union-attr]
    by_accuracy = tl.Checkpointer(again, tmp_path, best="accuracy")
    by_accuracy.load_state_dict(keeper.state_dict())
    assert by_accuracy.best is None


def test_a_step_that_was_saved_before_is_saved_beside_it(tmp_path: Path) -> None:
    state = make_state()
    train_on(state, 1, tl.Checkpointer(state, tmp_path, every_steps=5, best="loss", keep=None))
    assert names(tmp_path) == ["step_00000005", "step_00000005+"]
    before, after = make_state(), make_state()
    tl.load_checkpoint(tmp_path / "step_00000005", before)
    tl.load_checkpoint(tmp_path / "step_00000005+", after)
    assert before.validated == 0 and after.validated == 5
    train_on(before, 2)
    assert before.history.column("valid_loss") == [
        *state.history.column("valid_loss"),
        before.history.column("valid_loss")[-1],
    ]


def test_observed_is_unobserved(tmp_path: Path) -> None:
    states = [make_state(), make_state()]
    for state, keeps in zip(states, (True, False)):
        torch.manual_seed(7)
        train_on(state, 2, *([tl.Checkpointer(state, tmp_path, every_steps=1)] if keeps else []))
    assert_same_run(*states)


def test_a_state_that_will_be_taken_back_is_not_saved(tmp_path: Path) -> None:
    """Losses that are looked at late: between a bad one and the look, nothing may be kept."""
    state = make_state("adamw-fused", None)
    refused = []

    def loss_fn(model: nn.Module, batch: Any) -> Any:
        return mean_ce(model, batch) * (math.nan if state.step == 9 and not refused else 1.0)

    def by_hand(event: tl.Event) -> None:
        if isinstance(event, tl.Step) and event.step == 10 and not refused:
            with pytest.raises(
                tl.TrainlabError, match="up to 10 was not finite, and they will be taken back"
            ):
                tl.save_checkpoint(tmp_path / "hand", state)
            refused.append(event.step)

    keeper = tl.Checkpointer(state, tmp_path / "run", every_steps=1, keep=None, best=None)
    config = tl.TrainConfig(epochs=3, device="cpu", check_every=4)
    tl.fit(state, batches(), loss_fn, config, observers=[by_hand, keeper])
    assert refused == [10] and state.look is None
    assert "restarted" in [row["event"] for row in rows_of_run(state)]
    assert names(tmp_path / "run") == [*(f"step_{step:08}" for step in range(1, 16)), "step_00000015+"]
    for place in (tmp_path / "run").iterdir():
        again = make_state("adamw-fused", None)
        tl.load_checkpoint(place, again)
        counted = {int(entry["step"]) for entry in again.optimizer.state.values()}
        assert counted == {again.step}


def test_the_end_of_an_epoch_is_saved_though_the_step_after_it_was_taken_back(tmp_path: Path) -> None:
    state = make_state("adamw-fused", None)
    spoiled: list[int] = []

    def loss_fn(model: nn.Module, batch: Any) -> Any:
        bad = state.step == 5 and not spoiled
        spoiled.extend([5] if bad else [])
        return mean_ce(model, batch) * (math.nan if bad else 1.0)

    keeper = tl.Checkpointer(state, tmp_path, every_epochs=1, keep=None, best=None)
    config = tl.TrainConfig(epochs=3, device="cpu", check_every=2)
    tl.fit(state, batches(), loss_fn, config, observers=[keeper])
    assert "restarted" in [row["event"] for row in rows_of_run(state)]
    assert names(tmp_path) == ["step_00000006", "step_00000011", "step_00000015"]


def test_the_disk_full_ends_the_run_with_the_state_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = make_state()
    keeper = tl.Checkpointer(state, tmp_path, every_steps=2)
    plain = files.save_file

    def full(*given: Any) -> None:
        if state.step == 6:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        plain(*given)

    monkeypatch.setattr(files, "save_file", full)
    with pytest.raises(tl.TrainlabError, match=r"cannot save .*step_00000006.*No space left"):
        train_on(state, 2, keeper)
    assert state.step == 6 and tl.latest_checkpoint(tmp_path) is not None
    monkeypatch.setattr(files, "save_file", plain)
    train_on(state, 2, keeper)
    whole = make_state()
    train_on(whole, 2)
    assert_same_run(state, whole)


def test_a_manifest_is_plain_to_read(two: Path) -> None:
    manifest = json.loads((two / "epoch_2/manifest.json").read_text())
    assert manifest["step"] == 10 and manifest["epoch"] == 2 and manifest["number"] == 2
    assert manifest["kinds"] == {"optimizer": "AdamW", "scheduler": "StepLR"}


def test_what_was_loaded_is_not_tied_to_the_files(two: Path, tmp_path: Path) -> None:
    shutil.copytree(two / "epoch_1", tmp_path / "run")
    state, other = make_state(), make_state()
    tl.load_checkpoint(tmp_path / "run", state)
    shutil.rmtree(tmp_path / "run")
    tl.load_checkpoint(two / "epoch_1", other)
    before = copy.deepcopy(everything(other))
    train_on(state, 2)
    assert_same(everything(other, rng=False), before | {"rng": None})
