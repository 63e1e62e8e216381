"""Wrong calls: the message names the value, the rule and the remedy, and nothing is lost."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from core.runs import assert_same, everything, make_state, mean_ce, rows_of_run, table
from torch import Tensor, nn

import trainlab as tl
from trainlab.checkpoint import files
from trainlab.rates import range_report

PACKAGE = Path(tl.__file__).parent
CORE = [
    *(f"{name}.py" for name in ("errors", "randomness", "events", "state", "precision", "losses", "models")),
    *("observers.py", "plots.py", "schedules.py", "optimizers.py", "rates.py", "diagnostics.py"),
    *(f"loop/{name}.py" for name in ("config", "evaluation", "finite", "run", "step", "training")),
    *(f"memory/{name}.py" for name in ("meter", "budget")),
    *(f"data/{name}.py" for name in ("dataset", "splits", "loaders", "batches")),
    *(f"checkpoint/{name}.py" for name in ("files", "saving")),
]

Scene = SimpleNamespace
Call = Callable[[Scene], object]


def scene(folder: Path) -> Scene:
    """A run one epoch old, and what a wrong call may need."""
    other, frozen, adam = nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False), make_state("adamw")
    state = make_state("momentum")
    loader = tl.make_loader(table(40), 8, seed=0, shuffle=True)
    tl.fit(state, loader, mean_ce, tl.TrainConfig(epochs=1))
    state.model[1].eval()  # a part that is frozen on purpose
    blocked = folder / "a file"
    blocked.write_text("")
    data = tl.Dataset("d", *table(20), classes=("a", "b", "c"))
    values = tl.Dataset("v", table(20)[0], table(20)[0][:, 0])
    return Scene(
        state=state,
        loader=loader,
        blocked=blocked,
        data=data,
        values=values,
        other=other,
        frozen=frozen,
        adam=adam,
        still=tl.TrainState(other, torch.optim.SGD(other.parameters(), 0.0)),
    )


def run(s: Scene, loss_fn: Any = mean_ce, batches: Any = None, **options: Any) -> object:
    valid, observers = options.pop("valid", None), options.pop("observers", ())
    config = tl.TrainConfig(**({"epochs": 3} | options))
    return tl.fit(s.state, batches or s.loader, loss_fn, config, valid=valid, observers=observers)


def one_batch(features: Any = None, targets: Any = None) -> list[Any]:
    own = table(8)
    return [(own[0] if features is None else features, own[1] if targets is None else targets)]


def classify(s: Scene, targets: Tensor | None = None, **options: Any) -> object:
    accumulate = options.pop("accumulate", 1)
    batches = one_batch(targets=targets)
    return run(s, tl.losses.classification(**options), batches, accumulate=accumulate)


def state_of(model: Any, optimizer: Any = None, scheduler: Any = None) -> tl.TrainState:
    optimizer = torch.optim.SGD(model.parameters(), 0.1) if optimizer is None else optimizer
    return tl.TrainState(model, optimizer, scheduler)


def weightless(build: Callable[[], nn.Module]) -> nn.Module:
    """A model that draws no random numbers."""
    with torch.device("meta"):
        return build()


def broken_off(s: Scene) -> None:
    s.state.updating = True
    try:
        run(s)
    finally:
        s.state.updating = False


def loading(s: Scene, **changes: Any) -> None:
    s.state.load_state_dict(s.state.state_dict() | changes)


def loading_from(s: Scene, other: tl.TrainState) -> None:
    s.state.load_state_dict(other.state_dict())


def climb(s: Scene, state: Any = None, **options: Any) -> object:
    return tl.lr_range_test(state or s.state, s.loader, mean_ce, **options)


class Keeping:
    """An observer whose state holds `part`."""

    def __init__(self, part: Any) -> None:
        self.part = part

    def __call__(self, event: tl.Event) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        return {"part": self.part}

    def load_state_dict(self, state: Any) -> None: ...


def saving_with(s: Scene, part: Any) -> None:
    s.adam.attach([Keeping(part)])
    tl.save_checkpoint(s.blocked.with_name("run"), s.adam)


def loading_what_another_saved(s: Scene) -> None:
    tl.load_checkpoint(tl.save_checkpoint(s.blocked.with_name("run"), s.adam), s.state)


def loading_what_was_forged(s: Scene) -> None:
    path = tl.save_checkpoint(s.blocked.with_name("run"), s.state)
    (path / files.STATE).write_text('{"$": "eval", "is": "1"}')
    manifest = files.read_manifest(path)
    assert manifest is not None
    manifest["files"][files.STATE] = files._sealed(path / files.STATE)
    (path / files.MANIFEST).write_text(files._manifest_text(manifest))
    tl.load_checkpoint(path, s.state)


def saving_in_doubt(s: Scene) -> None:
    s.adam.look = lambda: True
    tl.save_checkpoint(s.blocked.with_name("run"), s.adam)


def failing(event: tl.Event) -> None:
    raise RuntimeError("the disk is full")


def no_root(model: nn.Module, batch: Any) -> Tensor:
    return torch.sqrt(model(batch[0]) * 0).sum() + mean_ce(model, batch)


ignored = torch.full((8,), -100)
seed0: dict[str, Any] = {"seed": 0, "shuffle": True}

CASES: list[tuple[str, Call, str]] = [
    # seeds and names
    ("seed below 0", lambda s: tl.seed_everything(-1), r"seed=-1 is not an integer from 0"),
    ("seed of another kind", lambda s: tl.seed_everything(1.5), r"seed=1\.5 is not an integer"),
    ("seed too large", lambda s: tl.seed_everything(2**32), r"from 0 to 2\*\*32 - 1"),
    # data
    (
        "targets of another length",
        lambda s: tl.Dataset("d", torch.ones(3, 2), torch.ones(2)),
        "2 targets for 3 rows",
    ),
    (
        "targets for other texts",
        lambda s: tl.TextDataset("t", ("a", "b"), torch.ones(3)),
        "3 targets for 2 texts",
    ),
    (
        "groups for other rows",
        lambda s: tl.Dataset("d", torch.ones(3, 2), torch.ones(3), groups=torch.ones(2)),
        r"groups has shape \(2,\) for 3 rows of features",
    ),
    (
        "levels of no column",
        lambda s: tl.Dataset("d", torch.ones(3, 1), torch.ones(3), columns=("a",), levels={"b": ("x",)}),
        r"levels are given for \['b'\], which are no columns",
    ),
    ("fractions above 1", lambda s: tl.split(s.data, (0.7, 0.2, 0.2), seed=0), r"sum to 1\.1: shares"),
    ("fractions below 0", lambda s: tl.split(s.data, (1.2, -0.2, 0.0), seed=0), "shares are at least 0"),
    ("NaN fractions", lambda s: tl.split(s.data, (math.nan, 0.5, 0.5), seed=0), "sum to nan"),
    ("two fractions", lambda s: tl.split(s.data, (0.8, 0.2), seed=0), "give three shares"),
    ("too few rows", lambda s: tl.split([1, 2], seed=0), "2 rows cut by .* leave a part empty"),
    (
        "an empty data set to split",
        lambda s: tl.split([], seed=0),
        r"empty \(0 rows\): there is nothing to split",
    ),
    ("a stream to split", lambda s: tl.split(iter([1]), seed=0), "a list_iterator has no length"),
    ("a seed that is none", lambda s: tl.split(s.data, seed=None), "seed=None is not a whole number"),
    (
        "two ways to split",
        lambda s: tl.split(s.data, seed=0, stratify=True, time=range(20)),
        "stratify and time given together",
    ),
    (
        "within without time",
        lambda s: tl.split(s.data, seed=0, within=[0] * 20),
        "within cuts each group in time: give time= too",
    ),
    (
        "a class with one member",
        lambda s: tl.split(s.data, seed=0, stratify=[0] * 19 + [7]),
        r"class 7 has 1 row\(s\), fewer than the 3 parts",
    ),
    (
        "labels of the wrong length",
        lambda s: tl.split(s.data, seed=0, stratify=[0, 1]),
        r"stratify has shape \(2,\)",
    ),
    (
        "groups of the wrong length",
        lambda s: tl.split(s.data, seed=0, groups=[0] * 21),
        r"groups has shape \(21,\) for 20",
    ),
    (
        "times of the wrong shape",
        lambda s: tl.split(s.data, seed=0, time=torch.ones(20, 2)),
        r"time has shape \(20, 2\)",
    ),
    (
        "too few groups",
        lambda s: tl.split(s.data, seed=0, groups=[0] * 10 + [1] * 10),
        r"2 group\(s\) cannot fill 3",
    ),
    ("one moment only", lambda s: tl.split(s.data, seed=0, time=[5] * 20), r"too few different times \(1\)"),
    (
        "stratify=True without targets",
        lambda s: tl.split([0] * 20, seed=0, stratify=True),
        "stratify=True needs a data set with targets, not a list",
    ),
    (
        "stratify=True on values",
        lambda s: tl.split(s.values, seed=0, stratify=True),
        "the targets are values",
    ),
    (
        "groups=True without groups",
        lambda s: tl.split(s.data, seed=0, groups=True),
        "groups=True, but d has no groups: give one value",
    ),
    (
        "a group that is missing",
        lambda s: tl.split(s.data, seed=0, groups=[1.0, math.nan] * 10),
        "groups is missing in 10 of 20 rows, the first is row 1",
    ),
    (
        "times that sort as letters",
        lambda s: tl.folds(s.data, seed=0, time=["31/12/2025"] * 20),
        "time holds '31/12/2025', which cannot be sorted as a moment",
    ),
    ("one fold", lambda s: tl.folds(s.data, 1, seed=0), "k=1 folds of 20 rows: choose a whole number from 2"),
    (
        "fewer in a class than folds",
        lambda s: tl.folds(s.data, 5, seed=0, stratify=[0] * 16 + [7] * 4),
        r"class 7 has 4 row\(s\), fewer than the 5 folds",
    ),
    (
        "fewer groups than folds",
        lambda s: tl.folds(s.data, 5, seed=0, groups=[0, 1] * 10),
        r"2 group\(s\) cannot fill 5 parts",
    ),
    (
        "a mask of the wrong length",
        lambda s: s.data.subset(torch.ones(3, dtype=torch.bool)),
        r"a mask of shape \(3,\) for 20 rows: give one boolean",
    ),
    ("batch size 0", lambda s: tl.make_loader(s.data, 0, **seed0), "batch_size=0 is not a whole number"),
    ("batch size of another kind", lambda s: tl.make_loader(s.data, 8.0, **seed0), r"batch_size=8\.0 is not"),
    ("workers below 0", lambda s: tl.make_loader(s.data, 8, workers=-1, **seed0), "workers=-1 is not"),
    ("a loader's seed below 0", lambda s: tl.make_loader(s.data, 8, seed=-3, shuffle=True), "seed=-3 is not"),
    (
        "no full batch",
        lambda s: tl.make_loader(s.data, 64, drop_last=True, **seed0),
        "20 rows make no full batch of 64",
    ),
    (
        "transforms that are not composed",
        lambda s: tl.make_loader(s.data, 8, augment=[torch.flip], **seed0),
        r"augment is a list, which cannot be called: give one function",
    ),
    (
        "mixing without shuffling",
        lambda s: tl.make_loader(s.data, 8, seed=0, shuffle=False, mix=lambda x, y: (x, y)),
        "mix blends neighbours of a batch, and shuffle=False leaves them",
    ),
    (
        "augmenting rows that are mappings",
        lambda s: list(tl.make_loader([{"x": 1}] * 9, 8, augment=len, **seed0)),
        "a row is a mapping with the keys x, and augment takes the first part",
    ),
    ("an empty data set", lambda s: tl.make_loader([], 8, **seed0), "there is nothing to load"),
    ("a stream", lambda s: tl.make_loader((n for n in range(9)), 8, **seed0), "a generator has no length"),
    (
        "tensors of different lengths",
        lambda s: tl.make_loader((torch.ones(4, 2), torch.ones(3)), 2, **seed0),
        "tensors of 4 and 3 rows",
    ),
    (
        "NaN in features",
        lambda s: tl.make_loader((torch.tensor([[1.0], [math.nan], [math.inf]]), torch.ones(3)), 2, **seed0),
        "2 of 3 rows hold NaN or infinite values, the first is row 1",
    ),
    (
        "a batch without a tensor",
        lambda s: run(s, lambda m, b: m[0].bias.sum(), [("text",)]),
        "a batch of type tuple holds no tensor",
    ),
    # losses
    (
        "soft targets that are no distributions",
        lambda s: classify(s, torch.full((8, 3), 0.5)),
        r"soft targets as low as 0\.5, in rows that sum to 1\.5 to 1\.5: each row must be a distribution",
    ),
    (
        "soft targets below 0",
        lambda s: classify(s, torch.tensor([[-1.0, 1.0, 1.0]] * 8)),
        "soft targets as low as -1,",
    ),
    (
        "soft targets that are not numbers",
        lambda s: classify(s, torch.full((8, 3), math.nan)),
        "soft targets as low as nan",
    ),
    (
        "weights for fewer classes than soft targets have",
        lambda s: classify(s, torch.full((8, 3), 1 / 3), weight=torch.ones(2)),
        r"weight has shape \(2,\) for 3 classes",
    ),
    (
        "label smoothing of 1",
        lambda s: tl.losses.classification(label_smoothing=1.0),
        r"label_smoothing=1\.0 is outside",
    ),
    (
        "an unknown regression",
        lambda s: tl.losses.regression(kind="l3"),
        "kind='l3' is not a regression loss",
    ),
    ("a delta of 0", lambda s: tl.losses.regression("huber", delta=0), r"delta=0 must be above 0"),
    (
        "a quantile of 1",
        lambda s: tl.losses.regression("pinball", quantile=1),
        r"quantile=1 is outside \(0, 1\)",
    ),
    (
        "a quantile in per cent",
        lambda s: tl.losses.pinball_loss(torch.ones(2), torch.ones(2), quantile=90),
        r"quantile=90 is outside",
    ),
    ("a yes that weighs nothing", lambda s: tl.losses.binary(pos_weight=0), r"pos_weight=0 must be above 0"),
    (
        "three classes for a yes or no",
        lambda s: tl.losses.binary()(s.other, (torch.ones(3, 2), torch.tensor([[0, 1], [1, 0], [2, 1]]))),
        r"targets reach from 0 to 2: .*losses\.classification",
    ),
    ("a mixture of nothing", lambda s: tl.losses.mixture({}), "a mixture of no parts"),
    (
        "a part that is to be raised",
        lambda s: tl.losses.mixture({"a": (-1.0, tl.losses.regression())}),
        r"weight -1\.0 of part 'a'",
    ),
    (
        "parts that count different items",
        lambda s: run(
            s,
            tl.losses.mixture(
                {
                    "plain": (1.0, tl.losses.classification()),
                    "weighted": (1.0, tl.losses.classification(weight=torch.tensor([1.0, 2.0, 3.0]))),
                }
            ),
        ),
        "the parts count different items, .*leave out class weights",
    ),
    ("label too large", lambda s: classify(s, torch.full((8,), 3)), "target 3 is outside the classes 0 to 2"),
    ("label below 0", lambda s: classify(s, torch.full((8,), -1)), "target -1 is outside the classes"),
    ("-100 not named", lambda s: classify(s, ignored), "target -100 is outside .* ignore_index"),
    ("float labels", lambda s: classify(s, torch.ones(8)), r"targets are torch\.float32, but class labels"),
    (
        "labels as columns",
        lambda s: classify(s, torch.ones(8, 1).long()),
        r"logits \(8, 3\) do not fit targets \(8, 1\)",
    ),
    (
        "class weights too few",
        lambda s: classify(s, weight=torch.ones(2)),
        r"weight has shape \(2,\) for 3 classes",
    ),
    (
        "shapes that broadcast",
        lambda s: run(s, tl.losses.regression(), one_batch(targets=torch.ones(8))),
        r"predictions are \(8, 3\) but targets \(8,\): they would broadcast",
    ),
    (
        "a batch that is no pair",
        lambda s: run(s, tl.losses.classification(), [{"x": torch.ones(8, 6)}]),
        "a batch of type dict is not a pair",
    ),
    (
        "a loss per row",
        lambda s: run(s, lambda m, b: m(b[0]).sum(1)),
        r"loss_fn returned shape \(8,\): return a Loss",
    ),
    ("no loss at all", lambda s: run(s, lambda m, b: None), "loss_fn returned type NoneType"),
    (
        "a number for a loss",
        lambda s: run(s, lambda m, b: mean_ce(m, b).item()),
        "loss_fn returned type float",
    ),
    (
        "a count of 0",
        lambda s: run(s, lambda m, b: tl.Loss(mean_ce(m, b), 0)),
        "count=0: no item of the batch counts",
    ),
    (
        "a detached loss",
        lambda s: run(s, lambda m, b: mean_ce(m, b).detach()),
        "the loss does not require a gradient",
    ),
    (
        "a bare mean over ignored targets",
        lambda s: run(s, lambda m, b: m(b[0]).mean(), one_batch(targets=ignored), accumulate=2),
        r"the targets hold ignored items \(-100\), and accumulate is above 1",
    ),
    ("no target that counts", lambda s: classify(s, ignored, ignore_index=-100), "the loss at step 6 is nan"),
    (
        "none in a whole group",
        lambda s: classify(s, ignored, ignore_index=-100, accumulate=2),
        "the loss at step 6 is nan",
    ),
    (
        "a loss that is not finite",
        lambda s: run(s, lambda m, b: mean_ce(m, b) / 0),
        "the loss at step 6 is inf",
    ),
    (
        "a gradient that is not",
        lambda s: run(s, no_root, clip_norm=1.0),
        "the gradient at step 6 is not finite",
    ),
    # state
    (
        "a model that is none",
        lambda s: tl.TrainState("model", s.state.optimizer),
        "model is a str, not a Module",
    ),
    (
        "a class for an optimizer",
        lambda s: tl.TrainState(s.state.model, torch.optim.SGD),
        "optimizer is SGD, not a Optimizer object",
    ),
    ("nothing trainable", lambda s: state_of(s.frozen), "no parameter of Linear requires a gradient"),
    (
        "another model's optimizer",
        lambda s: state_of(s.other, s.state.optimizer),
        "the optimizer holds none of the 2 trainable parameters of Linear",
    ),
    (
        "LBFGS",
        lambda s: state_of(s.state.model, torch.optim.LBFGS(s.state.model.parameters())),
        "LBFGS evaluates the loss several times",
    ),
    (
        "another optimizer's schedule",
        lambda s: state_of(s.state.model, None, s.state.scheduler),
        "the scheduler belongs to another optimizer",
    ),
    (
        "something else for a schedule",
        lambda s: state_of(s.state.model, None, 0.1),
        "belongs to another optimizer",
    ),
    (
        "an update broken off",
        broken_off,
        "the update after step 5 was broken off half-way: load the last checkpoint",
    ),
    (
        "an unknown control",
        lambda s: setattr(s.state.controls, "lr_scal", 1.0),
        "unknown control 'lr_scal': did you mean",
    ),
    (
        "a control below 0",
        lambda s: setattr(s.state.controls, "lr_scale", -1.0),
        r"lr_scale=-1\.0 is outside \[0, inf\)",
    ),
    (
        "a control that is NaN",
        lambda s: setattr(s.state.controls, "dropout", math.nan),
        r"dropout=nan is outside \[0, 1\)",
    ),
    ("no lr_scale", lambda s: setattr(s.state.controls, "lr_scale", None), "lr_scale=None is outside"),
    (
        "another model's weights",
        lambda s: loading(s, model=s.other.state_dict()),
        r"'0\.bias' is \(16,\) in the model, absent in the saved state",
    ),
    (
        "another optimizer's groups",
        lambda s: loading(s, optimizer=torch.optim.SGD(s.other.parameters(), 0.1).state_dict()),
        r"the optimizer holds \[6\] parameters a group, the saved one \[2\]",
    ),
    (
        "another kind of optimizer",
        lambda s: loading_from(s, s.adam),
        "the saved optimizer has other settings than this SGD",
    ),
    (
        "no schedule saved",
        lambda s: loading(s, scheduler=None),
        "differ in the scheduler: this state has one",
    ),
    # configuration
    (
        "epochs and steps",
        lambda s: tl.TrainConfig(epochs=1, steps=1),
        "epochs=1 and steps=1: give one of the two",
    ),
    ("neither", lambda s: tl.TrainConfig(), "epochs=None and steps=None"),
    ("no epochs", lambda s: tl.TrainConfig(epochs=0), "epochs=0 is not a whole number from 1 on"),
    ("half an epoch", lambda s: tl.TrainConfig(epochs=0.5), r"epochs=0\.5 is not a whole number"),
    ("accumulate 0", lambda s: tl.TrainConfig(steps=1, accumulate=0), "accumulate=0 is not a whole number"),
    ("check_every 0", lambda s: tl.TrainConfig(steps=1, check_every=0), "check_every=0 is not"),
    (
        "validate_every 0",
        lambda s: tl.TrainConfig(steps=1, validate_every=0),
        "validate_every=0: give 'epoch'",
    ),
    (
        "validate_every a word",
        lambda s: tl.TrainConfig(steps=1, validate_every="step"),
        "validate_every='step'",
    ),
    (
        "clip norm below 0",
        lambda s: tl.TrainConfig(steps=1, clip_norm=-1.0),
        r"clip_norm=-1\.0 is not above 0",
    ),
    ("clip norm a word", lambda s: tl.TrainConfig(steps=1, clip_norm="1"), "clip_norm='1' is not above 0"),
    (
        "unknown precision",
        lambda s: tl.TrainConfig(steps=1, precision="bf61"),
        "unknown precision 'bf61': did you mean 'bf16'",
    ),
    ("unknown device", lambda s: run(s, device="cudaa"), "unknown device 'cudaa': did you mean 'cuda'"),
    # the loop
    (
        "no state",
        lambda s: tl.train(s.state.model, s.loader, mean_ce, tl.TrainConfig(steps=3)),
        "state is a Sequential",
    ),
    ("no configuration", lambda s: tl.fit(s.state, s.loader, mean_ce, {"epochs": 1}), "config is a dict"),
    ("no loss function", lambda s: run(s, "cross_entropy"), "loss_fn is a str: give a function"),
    ("no loader", lambda s: run(s, batches=7), "loader is a int, not batches"),
    ("no validation loader", lambda s: run(s, valid=7), "valid is a int, not batches"),
    ("a finished run", lambda s: run(s, epochs=1), "already at epoch 1 of 1: raise epochs above 1"),
    (
        "one observer without a list",
        lambda s: run(s, observers=tl.Progress()),
        "observers is a Progress: give a list",
    ),
    (
        "an observer that cannot be called",
        lambda s: run(s, observers=["Progress"]),
        "observer 'Progress' cannot be called",
    ),
    (
        "nothing to evaluate",
        lambda s: tl.evaluate(s.state.model, [], mean_ce),
        "there is nothing to evaluate on",
    ),
    (
        "nothing that counts",
        lambda s: tl.evaluate(
            s.state.model, one_batch(targets=ignored), tl.losses.classification(ignore_index=-100)
        ),
        "no item of any batch counts",
    ),
    (
        "evaluate in another precision",
        lambda s: tl.evaluate(s.state.model, s.loader, mean_ce, precision="int8"),
        "unknown precision 'int8'",
    ),
    # history, observers, plots
    (
        "no event",
        lambda s: s.state.history.append({"loss": 1.0}),
        "is not an event: append what `train` yields",
    ),
    (
        "an unknown kind of event",
        lambda s: s.state.history.column("loss", event="steps"),
        "unknown event 'steps': did you mean",
    ),
    (
        "an unknown column",
        lambda s: s.state.history.column("los"),
        "unknown column 'los': did you mean 'loss'",
    ),
    (
        "an unwritable file",
        lambda s: s.state.history.to_csv(s.blocked / "x.csv"),
        "cannot write .* choose a folder",
    ),
    ("the same for JSON", lambda s: s.state.history.to_json(s.blocked / "x.json"), "cannot write"),
    ("the same for lines", lambda s: tl.JsonLines(s.blocked / "x.jsonl"), "cannot write .* choose a folder"),
    (
        "an unknown mode",
        lambda s: tl.EarlyStopping(mode="maximum"),
        "unknown mode 'maximum': did you mean 'max'",
    ),
    ("min_delta below 0", lambda s: tl.BestModel(s.state, min_delta=-1), "min_delta=-1 is below 0"),
    ("patience 0", lambda s: tl.EarlyStopping(0), "patience=0 is not a number of validations"),
    (
        "a dropout schedule without dropout",
        lambda s: tl.DropoutSchedule(
            tl.TrainState(s.other, torch.optim.SGD(s.other.parameters())),
            lambda done: 0.5,
        ),
        "Linear has no dropout layer to schedule: build it with dropout=0.5",
    ),
    (
        "a dropout schedule out of range",
        lambda s: tl.DropoutSchedule(s.state, lambda done: 1.5),
        r"controls\.dropout=1\.5 is outside \[0, 1\)",
    ),
    ("nothing to restore", lambda s: tl.BestModel(s.state).restore(), "no validation has been seen yet"),
    (
        "a metric that is not measured",
        lambda s: tl.EarlyStopping(metric="acuracy")(tl.Validation(1, 1, {"accuracy": 1.0})),
        "unknown metric 'acuracy': did you mean 'accuracy'",
    ),
    (
        "a plot of nothing measured",
        lambda s: tl.plot_history(s.state.history, metric="valid_loss"),
        "unknown metric 'valid_loss'",
    ),
    # models
    (
        "an unknown activation",
        lambda s: tl.models.MLP(2, [3], 2, activation="rellu"),
        "unknown activation 'rellu': did you mean",
    ),
    ("a hidden layer of width 0", lambda s: tl.models.MLP(2, [0], 2), r"hidden\[0\]=0 is not a whole number"),
    ("no outputs", lambda s: tl.models.CNN(1, 0), "outputs=0 is not a whole number"),
    ("blocks below 1", lambda s: tl.models.ResNet(1, 2, blocks=0), "blocks=0 is not a whole number"),
    ("dropout of 1", lambda s: tl.models.MLP(2, [3], 2, dropout=1.0), r"dropout=1\.0 is outside \[0, 1\)"),
    (
        "an unknown norm",
        lambda s: tl.models.DeepMLP(2, 3, 2, 2, norm="bach"),
        "unknown norm 'bach': did you mean 'batch'",
    ),
    (
        "an unknown activation of a layer",
        lambda s: tl.models.DeepLayer(2, 3, activation="rellu"),
        "unknown activation 'rellu': did you mean",
    ),
    (
        "an unknown cell",
        lambda s: tl.models.Recurrent(2, 3, 2, cell="lsmt"),
        "unknown cell 'lsmt': did you mean 'lstm'",
    ),
    (
        "a residual layer that changes the width",
        lambda s: tl.models.DeepLayer(2, 3, residual=True),
        "a residual layer from 2 to 3 cannot add its input: give it one width",
    ),
    (
        "weights of no variance",
        lambda s: tl.models.DeepLayer(2, 3, scale=0.0),
        r"scale=0\.0 is not a number above 0",
    ),
    (
        "a budget that is too small",
        lambda s: tl.models.widest(20, 30, 2, 4),
        "budget=20 is below 41, which a width of 1 needs: raise the budget",
    ),
    # diagnostics
    (
        "one row to measure the spread over rows",
        lambda s: tl.activation_stats(s.other, torch.ones(1, 2)),
        "the batch has 1 row: rows differ from two on",
    ),
    (
        "a part that is not there",
        lambda s: tl.activation_stats(s.other, torch.ones(3, 2), of=nn.LSTM),
        "the model has no part of kind LSTM: print",
    ),
    ("a step that is none", lambda s: tl.measure_step(None, s.other), "step is a NoneType: give a function"),
    (
        "timed a negative number of times",
        lambda s: tl.measure_step(lambda: None, s.other, repeats=-1),
        "repeats=-1 is negative: use 0",
    ),
    (
        "the budget of another optimizer",
        lambda s: tl.memory_budget(weightless(lambda: tl.models.MLP(2, [3], 2)), (4, 2), optimizer="adam"),
        "unknown optimizer 'adam': did you mean 'Adam'",
    ),
    (
        "the budget of another model",
        lambda s: tl.memory_budget(s.other, (4, 2)),
        "a Linear is not an MLP, CNN, ResNet or Transformer: measure it",
    ),
    (
        "the budget of a checkpointed CNN",
        lambda s: tl.memory_budget(weightless(lambda: tl.models.CNN(1, 2)), (4, 1, 8, 8), checkpointing=True),
        "a CNN of tl.models has no checkpointing: use a ResNet",
    ),
    (
        "checkpointing of what is not ours",
        lambda s: tl.models.checkpoint_activations(s.other),
        r"a Linear holds no chain, ResNet or Transformer of tl\.models: wrap its own blocks",
    ),
    (
        "heads that do not divide the width",
        lambda s: tl.models.Transformer(9, width=10, heads=4),
        "width=10 is not a multiple of heads=4",
    ),
    (
        "more tokens than places",
        lambda s: weightless(lambda: tl.models.Transformer(9, length=4))(torch.zeros(1, 5, device="meta")),
        "5 tokens are more than length=4: cut them, or raise length",
    ),
    (
        "the gradients of a model that has none",
        lambda s: tl.gradient_flow(s.other),
        r"no parameter has a gradient: call loss\.backward\(\) first",
    ),
    (
        "the gradients of a frozen model",
        lambda s: tl.check_gradients(s.frozen),
        "no parameter of Linear requires a gradient: unfreeze some",
    ),
    (
        "no step of overfitting",
        lambda s: tl.overfit_one_batch(s.state.model, table(8), mean_ce, steps=0),
        "steps=0 is not a whole number from 1 on",
    ),
    (
        "overfitting a frozen model",
        lambda s: tl.overfit_one_batch(s.frozen, table(8), mean_ce),
        "no parameter of Linear requires a gradient: unfreeze some",
    ),
    (
        "the gradients of no layer",
        lambda s: tl.plot_gradient_flow([]),
        r"no layer to draw: gradient_flow\(model\) gives them",
    ),
    ("dropconnect of 1", lambda s: tl.models.DropConnect(2, 3, p=1.0), r"p=1\.0 is outside \[0, 1\)"),
    ("dropconnect to nothing", lambda s: tl.models.DropConnect(2, 0), "outputs=0 is not a whole number"),
    # schedules
    (
        "a schedule of a model",
        lambda s: tl.schedules.constant(s.state.model),
        "optimizer is a Sequential: build the optimizer first",
    ),
    (
        "a schedule of a class",
        lambda s: tl.schedules.plateau(torch.optim.SGD),
        "optimizer is SGD: build the optimizer first",
    ),
    (
        "a warm-up below 0",
        lambda s: tl.schedules.constant(s.state.optimizer, warmup=-1),
        "warmup=-1 is not a whole number from 0 on",
    ),
    (
        "a warm-up as a share",
        lambda s: tl.schedules.warmup_cosine(s.state.optimizer, steps=9, warmup=0.1),
        r"warmup=0\.1 is not a whole number",
    ),
    (
        "a warm-up of the whole run",
        lambda s: tl.schedules.warmup_linear(s.state.optimizer, steps=9, warmup=9),
        "warmup=9 leaves none of steps=9 for the fall",
    ),
    (
        "a final rate above the peak",
        lambda s: tl.schedules.restarts(s.state.optimizer, period=3, final=1.5),
        r"final=1\.5 is not a number from 0 to 1",
    ),
    (
        "a plateau that lowers nothing",
        lambda s: tl.schedules.plateau(s.state.optimizer, factor=1.0),
        r"factor=1\.0 is not a number from 0 to 0\.999",
    ),
    (
        "a peak of 0",
        lambda s: tl.schedules.one_cycle(s.state.optimizer, steps=9, peak=0.0),
        r"peak=0\.0 over a first rate of 0\.05: both must be above 0",
    ),
    (
        "a preview of an optimizer",
        lambda s: tl.schedules.preview(s.state.optimizer, 5),
        "scheduler is a SGD: give one of tl.schedules",
    ),
    (
        "a plateau without losses",
        lambda s: tl.schedules.preview(tl.schedules.plateau(s.adam.optimizer), 5),
        r"5 rates need 4 of them \(none given\): pass valid_losses",
    ),
    (
        "a plateau with too few losses",
        lambda s: tl.schedules.preview(tl.schedules.plateau(s.adam.optimizer), 5, valid_losses=[1.0] * 3),
        r"5 rates need 4 of them \(3 given\)",
    ),
    # range test
    (
        "a range test of a model",
        lambda s: climb(s, s.state.model),
        "state is a Sequential: make a TrainState",
    ),
    ("a range upside down", lambda s: climb(s, low=1.0, high=0.1), r"low=1\.0 and high=0\.1: two rates"),
    ("a range from 0", lambda s: climb(s, low=0), "low=0 and high=10.0: two rates above 0"),
    ("a range of 9 steps", lambda s: climb(s, steps=9), "steps=9 is not a whole number from 10 on"),
    ("smoothing of 1", lambda s: climb(s, smoothing=1), r"smoothing=1 is outside \[0, 1\)"),
    ("a range test at no rate", lambda s: climb(s, s.still), "the first group's rate is 0, so the others"),
    (
        "a range that is all too high",
        lambda s: climb(s, low=1e6, high=1e9),
        "the loss never fell below its start up to a rate of",
    ),
    ("no step of a range", lambda s: range_report([]), "below its start up to a rate of nothing"),
    (
        "a range test without a loss",
        lambda s: tl.lr_range_test(s.state, s.loader, None),
        "loss_fn is a NoneType: give a function",
    ),
    # checkpoints
    (
        "a checkpoint in a place that is taken",
        lambda s: tl.save_checkpoint(s.blocked, s.state),
        "a file' exists, and each checkpoint is a new directory: give another name",
    ),
    (
        "a checkpoint below a file",
        lambda s: tl.save_checkpoint(s.blocked / "run", s.state),
        r"cannot save .*run' \(File exists\): make room or choose another folder, and save again; earlier",
    ),
    (
        "a checkpoint that is a file",
        lambda s: tl.load_checkpoint(s.blocked, s.state),
        r"a file' is no whole checkpoint: manifest\.json is missing\. latest_checkpoint\(",
    ),
    (
        "a checkpoint of another optimizer",
        loading_what_another_saved,
        "was saved with {'optimizer': 'AdamW', .*}, this state has {'optimizer': 'SGD', .*}: build it as",
    ),
    (
        "a forged checkpoint",
        loading_what_was_forged,
        r"state\.json' is not what its name says \(KeyError\): whoever made this checkpoint did not use",
    ),
    (
        "a function in what is saved",
        lambda s: saving_with(s, [failing]),
        r"observers\.0:Keeping\.part\.0 is a function: a checkpoint holds tensors, numbers, texts",
    ),
    (
        "a sparse tensor in what is saved",
        lambda s: saving_with(s, torch.eye(2).to_sparse()),
        r"0:Keeping\.part is a torch\.sparse_coo tensor, and a checkpoint holds dense torch tensors",
    ),
    (
        "a checkpoint of steps that will be taken back",
        saving_in_doubt,
        "a loss of the last steps up to 0 was not finite, and they will be taken back",
    ),
    (
        "no checkpoint kept",
        lambda s: tl.Checkpointer(s.state, s.blocked, keep=0),
        "keep=0 is not a whole number from 1 on",
    ),
    # optimizers
    (
        "a lookahead of 0 steps",
        lambda s: tl.optimizers.Lookahead(s.adam.optimizer, steps=0),
        "steps=0 is not a whole number from 1 on",
    ),
    (
        "a lookahead that stays",
        lambda s: tl.optimizers.Lookahead(s.adam.optimizer, alpha=0.0),
        r"alpha=0\.0 is outside \(0, 1\]",
    ),
    (
        "a lookahead of a class",
        lambda s: tl.optimizers.Lookahead(torch.optim.SGD),
        "a type is no optimizer: build it first",
    ),
    (
        "a parameter in two optimizers",
        lambda s: tl.optimizers.Combined(s.state.optimizer, torch.optim.Adam(s.state.model[0].parameters())),
        r"2 parameter\(s\) are held twice",
    ),
    (
        "Muon without a hidden matrix",
        lambda s: tl.optimizers.muon(s.other),
        "Linear has no hidden weight matrix that can be trained: use AdamW",
    ),
    (
        "a layer decay of 0",
        lambda s: tl.optimizers.parameter_groups(s.other, lr=0.1, weight_decay=0.0, layer_decay=0.0),
        r"layer_decay=0\.0 is outside \(0, 1\]",
    ),
    (
        "groups of a frozen model",
        lambda s: tl.optimizers.parameter_groups(s.frozen, lr=0.1, weight_decay=0.0),
        "no parameter of Linear requires a gradient",
    ),
]

# these are met in mid-run: the steps before them stand, and the run goes on
LATER: list[tuple[str, Call, str]] = [
    (
        "an observer that raises",
        lambda s: run(s, observers=[failing]),
        r"observer failing failed at step 6 \(RuntimeError: the disk is full\)",
    ),
    (
        "a loader that is used up",
        lambda s: run(s, batches=iter(list(s.loader))),
        "the loader gave no batches in epoch 3",
    ),
]

if not torch.cuda.is_available():
    CASES.append(
        (
            "a device that is absent",
            lambda s: run(s, device="cuda"),
            "'cuda' is not available on this machine",
        )
    )

_hit: set[tuple[str, int]] = set()


def refused(call: Call, text: str, s: Scene) -> None:
    with pytest.raises(tl.TrainlabError, match=text) as caught:
        call(s)
    trace = caught.value.__traceback__
    while trace is not None:
        _hit.add((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next


@pytest.mark.parametrize(("call", "text"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_wrong_call_is_refused_and_loses_nothing(call: Call, text: str, tmp_path: Path) -> None:
    s = scene(tmp_path)
    before, rows, controls = everything(s.state), rows_of_run(s.state), vars(s.state.controls).copy()
    refused(call, text, s)
    assert_same(everything(s.state), before)
    assert rows_of_run(s.state) == rows
    assert vars(s.state.controls) == controls
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(("call", "text"), [case[1:] for case in LATER], ids=[case[0] for case in LATER])
def test_an_error_in_mid_run_leaves_a_state_that_goes_on(call: Call, text: str, tmp_path: Path) -> None:
    s = scene(tmp_path)
    refused(call, text, s)
    assert not s.state.updating
    assert s.state.step > 5
    run(s)
    assert s.state.epoch == 3
    assert sorted(set(s.state.history.column("step"))) == list(range(1, s.state.step + 1))


def raises() -> Iterator[tuple[str, ast.Raise]]:
    for name in CORE:
        path = PACKAGE / name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                yield str(path), node


def test_every_raise_of_the_core_is_met_by_a_wrong_call(tmp_path: Path) -> None:
    assert len(CASES) >= 40
    for name, call, text in [*CASES, *LATER]:  # anew: the table's own tests may run in another process
        folder = tmp_path / name
        folder.mkdir()
        refused(call, text, scene(folder))
    unmet = [
        f"{Path(path).relative_to(PACKAGE)}:{node.lineno}"
        for path, node in raises()
        if not any(file == path and node.lineno <= line <= (node.end_lineno or 0) for file, line in _hit)
    ]
    assert not unmet


def test_errors_that_end_the_package_are_one_kind() -> None:
    """What the core raises on its own account is TrainlabError, made here or by `unknown_name`."""
    made = {ast.unparse(node.exc.func) for _, node in raises() if isinstance(node.exc, ast.Call)}
    assert made == {"TrainlabError", "unknown_name", "_out_of_range"}
