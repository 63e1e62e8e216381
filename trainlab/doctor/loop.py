"""During the steps: calls that are missing or in the wrong order, precision, accumulation, clipping."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .recording import StepTrace, first_tensor, mode_parts
from .sample import same
from .signs import Sign, error, info, warning
from .subject import inputs_and_target
from .trial import Trial
from .wiring import hidden_parameters, optimized


def look_at_steps(trial: Trial) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The questions about the order of the calls in the learner's steps."""
    yield "a step runs without an error", lambda: _crashed(trial)
    yield "gradients are cleared between updates", lambda: _zeroing(trial)
    yield "backward, clipping and step in this order", lambda: _order(trial)
    yield "the optimizer updates the weights", lambda: _updates(trial)
    yield "accumulated gradients are divided and used", lambda: _accumulation(trial)
    yield "the scaler is used whole", lambda: _scaler(trial)
    yield "the model trains in train mode, with gradients", lambda: _modes(trial)
    yield "each step uses its own batch", lambda: _batch(trial)
    yield "the data stay as they are", lambda: _data(trial)
    yield "gradients reach every layer that is called", lambda: _reach(trial)
    yield "no layer is called in two roles", lambda: _two_roles(trial)
    yield "the last layer is trained", lambda: _head(trial)
    yield "frozen batch norm rests", lambda: _frozen_norm(trial)
    yield "the steps go downhill", lambda: _direction(trial)


_MESSAGES = (
    ("does not require grad", "loss-without-graph"),
    ("trying to backward through the graph a second time", "graph-used-twice"),
    ("has been modified by an inplace operation", "changed-in-place"),
    ("since the last update()", "scaler-never-updated"),
    ("No inf checks were recorded", "scaler-without-gradients"),
    ("_scale is None", "loss-not-scaled"),
    ("Tried to step", "schedule-too-short"),
    ("out of bounds", "target-out-of-range"),
    ("index out of range", "token-out-of-range"),
    ("shapes cannot be multiplied", "shapes-do-not-fit"),
    ("size of tensor", "shapes-do-not-fit"),
    ("must match", "shapes-do-not-fit"),
    ("expected scalar type", "dtype-does-not-fit"),
    ("between 0 and 1", "loss-needs-probabilities"),
    ("more than 1 value per channel", "batchnorm-of-one-row"),
)


def _crashed(trial: Trial) -> Iterator[Sign]:
    if trial.crash:
        code = next((code for text, code in _MESSAGES if text.lower() in trial.crash.lower()), "step-fails")
        code = _by_order(code, trial.steps)
        cuts = sorted({cut for step in trial.steps for cut in step.cuts})
        blind = any(not forward.grad_enabled for step in trial.steps for forward in step.forwards)
        told = trial.crash[:160]
        if code == "loss-without-graph":
            seen = [*cuts, *(["no_grad"] if blind else [])]
            told = f"backward() on a loss without a graph; on the way: {', '.join(seen) or 'a new tensor'}"
        yield error(code, f"step {trial.crash_step}", told)


def _by_order(code: str, steps: list[StepTrace]) -> str:
    """What lies behind an error that torch raises, where the order of the calls tells it."""
    kinds = steps[-1].kinds() if steps else []
    if code == "changed-in-place" and "step" in kinds and "gradient" not in kinds[: kinds.index("step")]:
        return "step-before-backward"
    if code == "scaler-without-gradients" and {"scale", "step"} <= set(kinds) and "scaler-step" not in kinds:
        return "scaled-gradients-stepped"
    if code == "scaler-without-gradients" and "scale" not in kinds:
        return "loss-not-scaled"
    return code


def _zeroing(trial: Trial) -> Iterator[Sign]:
    updates = [each for each in trial.updates if each["given"] and not each["closure"]]
    stale = [each for each in updates[1:] if each["stale"] > 0]
    if len(stale) >= 3 and len(stale) >= 0.5 * len(updates[1:]):
        told = f"{len(stale)} of {len(updates)} updates use gradients that an earlier update had used"
        yield error("zero-grad-missing", "the training step", told)


def _order(trial: Trial) -> Iterator[Sign]:
    steps = [step for step in trial.steps if "step" in step.kinds()]
    if not steps or any(event.data.get("closure") for step in steps for event in step.all("step")):
        return
    empty = [event for step in steps for event in step.all("step") if event.data["given"] == 0]
    total = sum(len(step.all("step")) for step in steps)
    reached = bool(trial.recorder.nonzero)
    if len(empty) >= 0.8 * total and reached:
        kinds = next(step.kinds() for step in steps)
        first_zero = "zero" in kinds and kinds.index("zero") < kinds.index("step")
        late = "gradient" in kinds and kinds.index("gradient") > kinds.index("step")
        code = (
            "step-before-backward"
            if late
            else "zero-grad-before-step"
            if first_zero
            else "step-before-backward"
        )
        told = f"{len(empty)} of {total} updates find no gradient; the order is {_spoken(kinds)}"
        yield error(code, "the training step", told)
    elif _late(steps):
        told = (
            f"the order in a step is {_spoken(steps[-1].kinds())}: an "
            f"update uses the gradients of the last batch"
        )
        yield error("step-before-backward", "the training step", told)
    yield from _clipping(steps)
    yield from _schedule_order(trial, steps)


def _late(steps: list[StepTrace]) -> bool:
    """In every step the update comes first, and the backward pass after it."""
    kinds = [step.kinds() for step in steps[1:]]
    simple = [each for each in kinds if each.count("step") == 1 and each.count("gradient") == 1]
    return len(simple) >= 3 and all(each.index("step") < each.index("gradient") for each in simple)


def _spoken(kinds: list[str]) -> str:
    names = {"zero": "zero_grad", "gradient": "", "forward": "forward", "criterion": "", "dropout": ""}
    spoken: list[str] = []
    for kind in kinds:
        name = names.get(kind, kind)
        if name and (not spoken or spoken[-1] != name):
            spoken.append(name)
    return ", ".join(spoken)


def _clipping(steps: list[StepTrace]) -> Iterator[Sign]:
    wrong = {"after": 0, "before": 0, "scaled": 0}
    clipped = 0
    for step in steps:
        kinds = step.kinds()
        if "clip" not in kinds:
            continue
        clipped += 1
        clip, last_step = kinds.index("clip"), len(kinds) - 1 - kinds[::-1].index("step")
        gradients = [place for place, kind in enumerate(kinds) if kind == "gradient"]
        wrong["after"] += clip > last_step
        wrong["before"] += bool(gradients) and gradients[0] > clip and clip < last_step
        scaled = "scale" in kinds[:clip] and "unscale" not in kinds[:clip]
        wrong["scaled"] += scaled and "scaler-step" in kinds
    for key, code, what in (
        ("scaled", "clip-before-unscale", "gradients are clipped that still carry the scaler's factor"),
        ("after", "clip-after-step", "clipping comes after the update"),
        ("before", "clip-before-backward", "clipping comes before the backward pass"),
    ):
        if clipped >= 2 and wrong[key] >= 0.8 * clipped:
            yield error(code, "the training step", f"in {wrong[key]} of {clipped} steps {what}")
            return


def _schedule_order(trial: Trial, steps: list[StepTrace]) -> Iterator[Sign]:
    called = [step.kinds() for step in steps if "schedule" in step.kinds()]
    calls = sum(step.kinds().count("schedule") for step in trial.steps)
    updates = sum(step.kinds().count("step") for step in trial.steps)
    if updates >= 3 and calls >= 1.8 * updates:
        told = f"{calls} calls of scheduler.step() for {updates} updates"
        yield warning("schedule-stepped-per-batch", "the training step", told)
    early = [kinds for kinds in called if kinds.index("schedule") < kinds.index("step")]
    if len(called) >= 3 and len(early) >= 0.8 * len(called):
        told = f"in {len(early)} of {len(called)} steps scheduler.step() comes before optimizer.step()"
        yield warning("schedule-before-step", "the training step", told)


def _updates(trial: Trial) -> Iterator[Sign]:
    if trial.crash and trial.crash_step < 2:
        return
    steps, updates = trial.steps, trial.updates
    if not steps:
        return
    hidden = [p for _, p in hidden_parameters(trial.program.model)]
    if not trial.recorder.total and not any(p.grad is not None for p in hidden):
        called = any("backward" in step.kinds() for step in steps)
        cuts = ", ".join(sorted({cut for step in steps for cut in step.cuts})) or "a new tensor"
        told = f"no gradient has come to any weight in {len(steps)} steps"
        if called:
            yield error("loss-without-graph", "the training step", f"{told}; on the way to the loss: {cuts}")
        else:
            yield error("backward-missing", "the training step", told)
        return
    moved = max(trial.moved().values(), default=0.0)
    if not updates and moved == 0 and len(steps) >= 24 and not hidden:
        yield error(
            "step-missing", "the training step", f"optimizer.step() was not called in {len(steps)} steps"
        )
    if trial.recorder.built_optimizers >= 3 and trial.recorder.built_optimizers >= 0.5 * len(steps):
        told = f"{trial.recorder.built_optimizers} optimizers were built in {len(steps)} steps"
        yield error("optimizer-rebuilt", "the training step", told)
    rates = {rate for each in updates for rate in each["rates"]}
    if updates and rates == {0.0} and len(updates) >= 8 and trial.program.scheduler is None:
        yield error("learning-rate-zero", "the optimizer", f"lr is 0 in all {len(updates)} updates")
    made = trial.recorder.made
    if made:
        yield error(
            "layer-made-in-forward", type(trial.program.model).__name__, f"forward() builds a new {min(made)}"
        )
    yield from _unhandled(trial)


def _unhandled(trial: Trial) -> Iterator[Sign]:
    """Parameters with a gradient that no optimizer ever moves."""
    model = trial.program.model
    held = {id(p) for each in trial.updates for g in each["optimizer"].param_groups for p in g["params"]}
    held |= optimized(trial.program.optimizer)
    names = {id(p): name for name, p in model.named_parameters()}
    lost = [key for key in trial.recorder.nonzero if key in names and key not in held]
    if not lost or not set(names) & held or not trial.updates:
        return
    moved = trial.moved()
    lost = [key for key in lost if moved[names[key]] == 0]
    order = [part for part in trial.recorder.called if any(True for _ in part.parameters(recurse=False))]
    place = {id(p): at for at, part in enumerate(order) for p in part.parameters(recurse=False)}
    first = min([place.get(key, 0) for key in set(names) & held], default=0)
    behind = [key for key in lost if place.get(key, -1) > first]
    whole = [
        key for key in behind if all(id(p) not in held for p in order[place[key]].parameters(recurse=False))
    ]
    told = (
        f"{len(lost)} of {len(names)} parameters get gradients and are in no optimizer, as {names[lost[0]]}"
        if lost
        else ""
    )
    if whole:
        yield warning("parameters-not-in-optimizer", "the optimizer", told)
    elif lost:
        yield info("parameters-not-in-optimizer", "the optimizer", told)


def _accumulation(trial: Trial) -> Iterator[Sign]:
    updates = [each for each in trial.updates if not each["closure"]]
    gathered = [each for each in updates if each["backwards"] >= 2]
    stale = sum(each["stale"] > 0 for each in updates[1:])
    spans = len(trial.steps) >= 1.5 * max(len(updates), 1)
    if len(gathered) >= 2 and len(gathered) >= 0.5 * len(updates) and spans and stale < 0.5 * len(updates):
        k = gathered[0]["backwards"]
        yield from _undivided(trial, k)
    lost = [
        e
        for step in trial.steps
        for e in step.all("zero")
        if e.data["unused"] == e.data["of"] > 0 and e.data["held"]
    ]
    lost = [e for e in lost if e.data["unused"] >= e.data["held"]]
    used = any(each["given"] for each in updates)
    if lost and used and spans and len(gathered) >= 1:
        yield error(
            "accumulation-tail-lost",
            "the training step",
            f"{len(lost)} time(s) gradients were cleared unused",
        )


def _undivided(trial: Trial, k: int) -> Iterator[Sign]:
    ratios = []
    rescaled = any("rescale" in step.kinds() for step in trial.steps)
    for step in trial.steps:
        values = [e.data["value"] for e in step.events if e.kind == "criterion"]
        ratios += [
            e.data["value"] / values[-1]
            for e in step.all("backward")
            if values and values[-1] and e.data["value"] is not None
        ]
    reduction = getattr(trial.program.criterion, "reduction", "mean")
    if ratios and not rescaled and reduction == "mean" and min(ratios) > 0.9 and max(ratios) < 1.1:
        told = (
            f"{k} backward passes an update, each of the whole loss (factor {ratios[0]:.2g}, expected 1/{k})"
        )
        yield warning("accumulation-not-divided", "the training step", told)


def _scaler(trial: Trial) -> Iterator[Sign]:
    steps = [step for step in trial.steps if step.kinds()]
    scaled = [step for step in steps if "scale" in step.kinds() and "step" in step.kinds()]
    bare = [s for s in scaled if "scaler-step" not in s.kinds() and "unscale" not in s.kinds()]
    if len(bare) >= 2:
        yield error(
            "scaled-gradients-stepped",
            "the training step",
            f"{len(bare)} updates use gradients with the scaler's factor",
        )
    through = [step for step in steps if "scaler-step" in step.kinds()]
    unscaled = [step for step in through if "scale" not in step.kinds()]
    if len(unscaled) >= 2 and not scaled:
        yield error(
            "loss-not-scaled",
            "the training step",
            f"{len(unscaled)} updates divide by a factor that the loss never had",
        )
    updated = any("scaler-update" in step.kinds() for step in steps)
    if through and not updated and trial.crash == "" and len(through) >= 2:
        yield error(
            "scaler-never-updated", "the training step", f"scaler.update() is missing in {len(through)} steps"
        )
    half = [f for step in steps for f in step.forwards if f.autocast == torch.float16]
    if half and not any("scale" in step.kinds() for step in steps):
        told = f"{len(half)} forward passes in float16, no gradient scaled"
        yield warning("float16-without-scaler", "the training step", told)


def _modes(trial: Trial) -> Iterator[Sign]:
    graph = [f for step in trial.steps for f in step.forwards if f.has_graph or f.grad_enabled]
    parts = mode_parts(trial.program.model)
    if not graph or not parts:
        return
    per_step = [[f for f in step.forwards if f.grad_enabled] for step in trial.steps]
    trained = [any(f.training for f in fs) for fs in per_step if fs]
    where, kinds = "the training step", sorted({type(part).__name__ for _, part in parts})
    active = any(
        isinstance(part, nn.modules.dropout._DropoutNd) or any(p.requires_grad for p in part.parameters())
        for _, part in parts
    )
    if not active or not trained:
        return
    resting = [f for f in graph if len(f.resting) == len(parts)]
    if any(trained) and not all(trained):
        first = trained.index(False)
        if not any(trained[first:]) and len(trained) - first >= 2:
            told = f"train mode until step {first - 1}, eval mode in the {len(trained) - first} steps after"
            yield error("eval-mode-in-training", where, f"{told}: {', '.join(kinds)} at rest")
        elif trained.count(False) >= 3:
            told = f"{trained.count(False)} of {len(trained)} training steps in eval mode"
            yield error("eval-mode-in-training", where, f"{told}: {', '.join(kinds)} at rest")
    elif not any(trained) and len(resting) == len(graph):
        told = f"all {len(trained)} steps in eval mode, {len(parts)} layers at rest ({', '.join(kinds)})"
        yield warning("eval-mode-in-training", where, told)


def _batch(trial: Trial) -> Iterator[Sign]:
    if trial.program.step_fn is None or len(trial.steps) < 4:
        return
    yield from _same_inputs(trial)
    yield from _reordered(trial)


def _same_inputs(trial: Trial) -> Iterator[Sign]:
    pairs = [(step.batch, step.forwards[0].inputs) for step in trial.steps if step.forwards]
    if len(pairs) < 4 or first_tensor(pairs[0][1]) is None:
        return
    given = all(not same(pairs[0][0], batch) for batch, _ in pairs[1:4])
    if given and all(same(pairs[0][1], inputs) for _, inputs in pairs[1:]):
        told = f"the model is given the same inputs in all {len(pairs)} steps, the loader gives others"
        yield error("same-batch-every-step", "the training step", told)


def _reordered(trial: Trial) -> Iterator[Sign]:
    """Targets (or inputs) in another order than in the batch, while the others keep theirs."""
    wrong = judged = 0
    for step in trial.steps:
        verdict = _order_of(step)
        judged += verdict is not None
        wrong += verdict is True
    if judged >= 4 and wrong >= 0.8 * judged:
        told = f"in {wrong} of {judged} steps inputs and targets are in different orders"
        yield error("labels-misaligned", "the training step", told)


def _order_of(step: StepTrace) -> bool | None:
    """True where the pairs of a batch are torn apart, False where not, None where nobody can tell."""
    try:
        x, y = inputs_and_target(step.batch)
    except Exception:
        return None
    calls = [target for _, target, _ in step.criteria] + [call.target for call in step.losses]
    if not isinstance(x, Tensor) or not isinstance(y, Tensor) or not step.forwards or not calls or len(y) < 4:
        return None
    inputs = step.forwards[0].inputs
    targets = [t for t in calls if isinstance(t, Tensor) and t.numel() == y.numel() == len(y)]
    if not targets or not isinstance(inputs, Tensor) or inputs.numel() != x.numel() or len(inputs) != len(x):
        return None
    flat, ours = inputs.float().flatten(1), x.float().flatten(1)
    distances = torch.cdist(flat, ours)
    if (
        float(distances.min(1).values.max()) > 1e-3 * float(ours.norm(dim=1).mean())
        or len(set(y.tolist())) < 2
    ):
        return None
    order = distances.argmin(1)
    wanted = y.flatten().float()[order]
    return not any(torch.equal(t.flatten().float(), wanted) for t in targets) and all(
        torch.equal(t.flatten().float().sort().values, y.flatten().float().sort().values) for t in targets
    )


def _data(trial: Trial) -> Iterator[Sign]:
    if trial.data_changed:
        yield error("data-changed", "the data set", trial.data_changed)


def _reach(trial: Trial) -> Iterator[Sign]:
    model, recorder = trial.program.model, trial.recorder
    if not recorder.total or trial.crash:
        return
    held = optimized(trial.program.optimizer)
    cut, blind, unused = [], [], []
    used = [name for name, part in model.named_modules() if part in recorder.called]
    for name, part in model.named_modules():
        own = [p for p in part.parameters(recurse=False) if p.requires_grad and id(p) in held]
        if not own or any(id(p) in recorder.total for p in own):
            continue
        calls = recorder.called.get(part)
        if calls is None:
            unused.append(name)
        elif any(calls):
            cut.append(name)
        else:
            blind.append(name)
    where = type(model).__name__
    if cut:
        told = f"{len(cut)} layers are called and never get a gradient, as {cut[0]}"
        several = any(len(_tensors(f.output)) > 1 for step in trial.steps for f in step.forwards)
        if several:  # an output that this loss does not use
            yield info("layer-unused", where, told)
        else:
            yield error("gradient-cut", where, told)
    elif blind and not _has_twin(model, blind):
        told = f"{len(blind)} layers that the optimizer holds are called without a graph, as {blind[0]}"
        yield warning("gradient-cut", where, told)
    if unused:
        yield from _unused(model, unused, used, where)


def _tensors(output: Any) -> list[Any]:
    values = output.values() if isinstance(output, dict) else output
    return (
        [each for each in values if each is not None] if isinstance(output, dict | tuple | list) else [output]
    )


def _has_twin(model: nn.Module, names: list[str]) -> bool:
    """A momentum encoder: the layers that stand still have the shapes of some that are trained."""
    shapes = [
        tuple(tuple(p.shape) for p in model.get_submodule(name).parameters(recurse=False)) for name in names
    ]
    others = [
        tuple(tuple(p.shape) for p in part.parameters(recurse=False))
        for name, part in model.named_modules()
        if name not in names
    ]
    return all(shape in others for shape in shapes)


def _unused(model: nn.Module, unused: list[str], used: list[str], where: str) -> Iterator[Sign]:
    names = [name for name, _ in model.named_modules()]
    last = max([names.index(name) for name in used if name], default=0)
    between = [name for name in unused if names.index(name) < last and not _direct_use(model, name)]
    told = f"{len(unused)} layers are never called and get no gradient, as {unused[0]}"
    if any(_would_fit(model, name, used) for name in between):
        yield warning("layer-unused", where, told)
    else:
        yield info("layer-unused", where, told)


def _would_fit(model: nn.Module, name: str, used: list[str]) -> bool:
    """Whether a layer would be a link between layers that are used: it takes what one gives to the other."""
    part = model.get_submodule(name)
    ends = [_ends(model.get_submodule(each)) for each in used]
    own = _ends(part)
    return (
        own is not None
        and any(e and e[1] == own[0] for e in ends)
        and any(e and e[0] == own[1] for e in ends)
    )


def _ends(part: nn.Module) -> tuple[int, int] | None:
    """How many values a layer takes and gives."""
    if isinstance(part, nn.Linear):
        return part.in_features, part.out_features
    if isinstance(part, nn.modules.conv._ConvNd):
        return part.in_channels, part.out_channels
    return (part.input_size, part.hidden_size) if isinstance(part, nn.RNNBase) else None


def _direct_use(model: nn.Module, name: str) -> bool:
    """A stack of experts, or heads of which one at a time is chosen."""
    parent = name.rpartition(".")[0]
    return isinstance(model.get_submodule(parent), nn.ModuleList | nn.ModuleDict) if parent else False


def _two_roles(trial: Trial) -> Iterator[Sign]:
    """One module under two names of the same parent, and called for both."""
    forwards = max(sum(len(step.forwards) for step in trial.steps), 1)
    for path, parent in trial.program.model.named_modules():
        if isinstance(parent, nn.Sequential | nn.ModuleList):
            continue
        names: dict[nn.Module, list[str]] = {}
        for name, child in parent._modules.items():
            if child is not None and any(True for _ in child.parameters()):
                names.setdefault(child, []).append(name)
        for child, same_child in names.items():
            if len(same_child) > 1 and len(trial.recorder.called.get(child, ())) >= 1.8 * forwards:
                told = f"{' and '.join(same_child)} are one and the same layer, called for each"
                yield warning("layer-shared-by-accident", path or type(parent).__name__, told)


def _head(trial: Trial) -> Iterator[Sign]:
    order = [part for part in trial.recorder.called if any(True for _ in part.parameters(recurse=False))]
    if len(order) < 2 or trial.crash:
        return
    resting = [not any(p.requires_grad for p in part.parameters(recurse=False)) for part in order]
    if resting[-1] and not resting[0]:
        names = {part: name for name, part in trial.program.model.named_modules()}
        yield info(
            "head-frozen", names[order[-1]], f"{names[order[-1]]} is frozen, {names[order[0]]} is trained"
        )


def _frozen_norm(trial: Trial) -> Iterator[Sign]:
    model = trial.program.model
    norms = [
        (name, part)
        for name, part in model.named_modules()
        if isinstance(part, nn.modules.batchnorm._BatchNorm)
    ]
    frozen = [
        (name, part)
        for name, part in norms
        if part.affine
        and part.running_mean is not None
        and part.track_running_stats
        and not any(p.requires_grad for p in part.parameters())
    ]
    if not frozen:
        return
    fresh = dict(trial.fresh.named_buffers())
    drifting = [
        n
        for n, part in frozen
        if not torch.equal(part.get_buffer("running_mean"), fresh[f"{n}.running_mean".lstrip(".")])
    ]
    others = [p for p in model.parameters() if not p.requires_grad and p.dim() >= 2]
    if drifting and others:
        told = f"running statistics of {len(drifting)} frozen batch norms moved, as {drifting[0]}"
        yield warning("frozen-batchnorm-learns", type(model).__name__, told)


def _direction(trial: Trial) -> Iterator[Sign]:
    signs = []
    for step in trial.steps:
        values = [e.data["value"] for e in step.events if e.kind == "criterion" and e.data["value"]]
        signs += [
            math.copysign(1, e.data["value"]) * math.copysign(1, values[-1])
            for e in step.all("backward")
            if values
            and e.data["value"]
            and abs(abs(e.data["value"]) - abs(values[-1])) < 1e-6 + 0.5 * abs(values[-1])
        ]
    maximise = any(group.get("maximize") for group in trial.program.optimizer.param_groups)
    uphill = trial.losses is not None and not trial.losses[1] <= trial.losses[0]
    flipped = len(signs) >= 4 and sum(sign < 0 for sign in signs) >= 0.8 * len(signs)
    if flipped != maximise and uphill and trial.losses is not None:
        what = "maximize=True" if maximise else "backward() is called on the negative loss"
        told = f"{what}, and the loss rose from {trial.losses[0]:.3g} to {trial.losses[1]:.3g}"
        yield error("climbs-the-loss", "the training step", told)
