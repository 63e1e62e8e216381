"""What the steps did to the weights and the loss: rates, initialisation, signals that die."""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .objective import CLASSIFIES
from .recording import first_tensor
from .signs import Sign, error, info, warning
from .subject import Program, inputs_and_target
from .trial import Trial, _batches, at_rest, plain_step, probe
from .wiring import lora_pairs, optimized

Again = Callable[[], Program]


def look_at_learning(trial: Trial, again: Again, deadline: float) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The questions about what was learned; `again` gives fresh copies for a trial with other settings."""
    yield "losses and gradients are finite", lambda: _finite(trial)
    yield "the rate is neither too large nor too small", lambda: _rate(trial, again, deadline)
    yield "weight decay leaves the weights alive", lambda: _decay(trial)
    yield "a summed loss", lambda: _summed(trial)
    yield "weights start apart from each other", lambda: _symmetric(trial)
    yield "weights start with a usual size", lambda: _sizes(trial)
    yield "signals and gradients pass through all layers", lambda: _signals(trial)
    yield "outputs depend on the inputs", lambda: _outputs(trial)


def trivial_loss(trial: Trial) -> float | None:
    """The loss of a constant, in the unit of the criterion: uniform for classes, the mean for values."""
    calls = [call for step in trial.steps for call in step.losses]
    y = trial.train.y
    if not calls or y is None:
        return None
    call = calls[0]
    if call.kind in CLASSIFIES[:2] and not y.is_floating_point() and call.input.dim() > 1:
        return math.log(call.input.shape[1])
    if call.kind in CLASSIFIES[2:]:
        return math.log(2)
    if call.kind == "mse_loss" and y.is_floating_point():
        return float(y.float().var(0).mean()) if len(y) > 1 else None
    return None


def _finite(trial: Trial) -> Iterator[Sign]:
    values = trial.values()
    broken = next((place for place, value in enumerate(values) if not math.isfinite(value)), None)
    if broken is not None:
        where = f"step {broken}"
        yield error("loss-not-finite", where, f"the loss is {values[broken]}, after {values[:broken][-3:]}")
        return
    bad = [each for each in trial.updates if not each["finite"] and not each["scaled"]]
    if bad:
        told = f"{len(bad)} of {len(trial.updates)} updates use gradients with NaN or inf, the loss is finite"
        yield error("gradient-not-finite", "the training step", told)


def _repeat(trial: Trial, again: Again, factor: float, steps: int, deadline: float) -> float | None:
    """The loss on the first batches after steps with all rates times `factor`, without the schedule."""
    if time.perf_counter() > deadline:
        return None
    program = again()
    for group in program.optimizer.param_groups:
        group["lr"] = group["lr"] * factor
    for number, batch in enumerate(_batches(program.train)):
        if number >= steps or time.perf_counter() > deadline:
            break
        try:
            if program.step_fn is not None:
                program.step_fn(program.model, batch, program.criterion, program.optimizer, number)
            else:
                plain_step(program, batch, program.criterion)
        except Exception:
            return None
    value = probe(trial, program.model)
    return value if math.isfinite(value) else None


def _rate(trial: Trial, again: Again, deadline: float) -> Iterator[Sign]:
    updates = [each for each in trial.updates if each["given"]]
    if trial.losses is None or len(updates) < 4:
        return
    before, after = trial.losses
    ratios = [each["ratio"] for each in updates if math.isfinite(each["ratio"])]
    if not ratios or not math.isfinite(before) or before <= 0:
        return
    rates, typical = updates[-1]["rates"], statistics.median(ratios)
    steps = min(len(trial.steps), 24)
    told = f"lr={max(rates):.3g} moves the weights by {typical:.1e} of their size a step"
    rose = not math.isfinite(after) or after > 1.05 * before
    if rose and max(ratios) > 0.02:
        for factor in (0.1, 0.01, 0.001):
            calm = _repeat(trial, again, factor, steps, deadline)
            if calm is not None and calm < 0.97 * before and (not math.isfinite(after) or calm < 0.7 * after):
                told += (
                    f"; the loss goes from {before:.3g} to {after:.3g}, with lr x {factor:g} to {calm:.3g}"
                )
                yield warning("learning-rate-too-large", "the optimizer", told)
                return
    elif abs(after - before) < 3e-3 * before and typical < 5e-6 and not _warms_up(trial):
        for factor in (1e3, 1e5, 1e7):
            brisk = _repeat(trial, again, factor, steps, deadline)
            if brisk is not None and brisk < 0.95 * before:
                told += f"; the loss stays at {after:.3g}, with lr x {factor:g} it reaches {brisk:.3g}"
                limits = [e.data["limit"] for s in trial.steps for e in s.all("clip") if e.data["limit"]]
                if limits and max(limits) < 1e-2:
                    told += f"; clipped at {max(limits):g}"
                    yield warning("clip-too-small", "the training step", told)
                else:
                    yield warning("learning-rate-too-small", "the optimizer", told)
                return


def _warms_up(trial: Trial) -> bool:
    rates = [max(each["rates"]) for each in trial.updates if each["rates"]]
    scheduler = trial.program.scheduler
    base = max([float(each) for each in getattr(scheduler, "base_lrs", None) or [0.0]], default=0.0)
    return bool(rates) and (rates[-1] > 1.2 * rates[0] or base > 5 * rates[-1])


def _decay(trial: Trial) -> Iterator[Sign]:
    strong = []
    for each in trial.updates:
        weights = each["moved"] / each["ratio"] if each["ratio"] and math.isfinite(each["ratio"]) else 0.0
        if each["decay"] >= 0.5 and weights and each["decay"] * weights > 3 * each["norm"]:
            strong.append(each["decay"] * weights / max(each["norm"], 1e-12))
    if len(strong) >= 3 and len(strong) >= 0.5 * len(trial.updates):
        told = (
            f"weight_decay={trial.updates[-1]['decay']:g} pulls "
            f"{statistics.median(strong):.0f} times as hard as the gradient"
        )
        yield warning("weight-decay-too-large", "the optimizer", told)


def _summed(trial: Trial) -> Iterator[Sign]:
    reduction = getattr(trial.program.criterion, "reduction", None)
    calls = [c for step in trial.steps for c in step.losses if c.options.get("reduction", "mean") == "sum"]
    if reduction != "sum" and not calls and not _added_up(trial):
        return
    rows = statistics.median(trial.train.sizes or [1])
    ratios = [each["ratio"] for each in trial.updates if each["given"] and math.isfinite(each["ratio"])]
    if rows < 4 or not ratios:
        return
    rose = trial.losses is not None and not trial.losses[1] < 1.02 * trial.losses[0]
    told = (
        f"reduction='sum' over {rows:.0f} rows; a step moves the "
        f"weights by up to {max(ratios):.1e} of their size"
    )
    plain = type(trial.program.optimizer).__name__ in ("SGD", "LBFGS", "Adagrad")
    if rose and max(ratios) > 0.05 and plain:
        yield warning("loss-is-a-sum", "the criterion", told)
    else:
        yield info("loss-is-a-sum", "the criterion", told)


def _added_up(trial: Trial) -> bool:
    """Whether backward() is called on the sum of losses that were not reduced."""
    for step in trial.steps[:1]:
        values = [
            c.value for c in step.losses if c.value is not None and c.options.get("reduction") == "none"
        ]
        back = [e.data["value"] for e in step.all("backward") if e.data["value"]]
        if values and back and values[0].numel() > 3:
            return abs(float(values[0].sum()) - back[0]) < 1e-4 * abs(back[0])
    return False


def _symmetric(trial: Trial) -> Iterator[Sign]:
    if len([each for each in trial.updates if max(each["rates"], default=1)]) < 8:
        return
    held = optimized(trial.program.optimizer)
    adapters = {name for name, _ in lora_pairs(trial.program.model)}
    stuck, constant = [], []
    norms = {
        id(p) for m in trial.program.model.modules() if "Norm" in type(m).__name__ for p in m.parameters()
    }
    for name, p in trial.program.model.named_parameters():
        before = trial.start[name]
        if id(p) in norms or p.dim() < 2 or min(p.shape[:2]) < 2 or not p.requires_grad or id(p) not in held:
            continue
        if bool((before == before.flatten()[0]).all()):
            constant.append(name)
            if torch.equal(p, p[:1].expand_as(p)) and id(p) in trial.recorder.total:
                stuck.append(name)
    lora = [name for name in stuck if name in adapters]
    if len(lora) >= 2:
        told = f"{len(lora)} LoRA matrices start at 0 and have not moved, as {lora[0]} and {lora[1]}"
        yield error("lora-cannot-move", "the LoRA layers", told)
    elif stuck and not lora:
        told = f"all rows of {stuck[0]} start equal and are equal after {len(trial.updates)} updates"
        yield error("symmetric-initialisation", stuck[0], told)
    elif len([n for n in constant if n not in adapters and trial.start[n].flatten()[0] != 0]) >= 2:
        told = f"{len(constant)} weight matrices start with one value everywhere, as {constant[0]}"
        yield warning("symmetric-initialisation", constant[0], told)


def _weights(model: nn.Module) -> Iterator[tuple[str, Tensor, int]]:
    for name, part in model.named_modules():
        if isinstance(part, nn.Linear | nn.modules.conv._ConvNd) and not part.weight.requires_grad:
            continue
        if isinstance(part, nn.Linear | nn.modules.conv._ConvNd) and part.weight.numel() > 32:
            yield name or type(model).__name__, part.weight.detach().float(), part.weight[0].numel()
        elif isinstance(part, nn.Embedding):
            yield name or type(model).__name__, part.weight.detach().float(), 1


def _sizes(trial: Trial) -> Iterator[Sign]:
    gains = {name: float(w.square().mean().sqrt()) * fan**0.5 for name, w, fan in _weights(trial.fresh)}
    base = trivial_loss(trial)
    before = trial.losses[0] if trial.losses else None
    x = trial.train.x
    size = float(x.float().square().mean().sqrt()) if x is not None and x.is_floating_point() else 0.0
    far = before is not None and base is not None and before > 4 * base
    wild = far and (_classifies(trial) or _beyond_targets(trial))
    large = [name for name, gain in gains.items() if gain > 6]
    if large and (wild or _saturated(trial)):
        told = f"{large[0]} multiplies its inputs by about {gains[large[0]]:.3g} (usual is 1 to 2)"
        told += (
            f"; the first loss is {before:.3g}, a constant has {base:.3g}"
            if far
            else "; its units are saturated"
        )
        yield warning("initialisation-too-large", large[0], told)
    elif size > 20 and wild:
        told = (
            f"inputs have a root mean square of {size:.3g}; the first loss "
            f"is {before:.3g}, a constant has {base:.3g}"
        )
        yield warning("inputs-not-scaled", "train_loader", told)
    elif far and _classifies(trial):
        yield info(
            "first-loss-high", "the model", f"the first loss is {before:.3g}, a constant has {base:.3g}"
        )
    small = [name for name, gain in gains.items() if 0 < gain < 0.02]
    if len(small) >= 2:
        yield info(
            "initialisation-too-small", small[0], f"{small[0]} multiplies its inputs by {gains[small[0]]:.1e}"
        )


def _classifies(trial: Trial) -> bool:
    calls = [call.kind for step in trial.steps for call in step.losses]
    return bool(calls) and calls[0] in CLASSIFIES


def _beyond_targets(trial: Trial) -> bool:
    calls = [call for step in trial.steps[:1] for call in step.losses if isinstance(call.target, Tensor)]
    if not calls:
        return False
    ours, theirs = (float(v.float().square().mean().sqrt()) for v in (calls[0].input, calls[0].target))
    return ours > 5 * theirs


def _saturated(trial: Trial) -> bool:
    found = _passed(trial, trial.fresh)
    shares = [
        float(((out.abs() > 0.99) | ((out < 0.01) if isinstance(part, nn.Sigmoid) else False)).float().mean())
        for part, out in found
        if isinstance(part, nn.Tanh | nn.Sigmoid)
    ]
    return bool(shares) and max(shares) > 0.9


def _passed(trial: Trial, model: nn.Module) -> list[tuple[nn.Module, Tensor]]:
    """What each part gives for the first batch, in eval mode."""
    found: list[tuple[nn.Module, Tensor]] = []

    def note(part: nn.Module, _: Any, output: Any) -> None:
        first = first_tensor(output)
        if first is not None and first.is_floating_point():
            found.append((part, first.detach()))

    handles = [part.register_forward_hook(note) for part in model.modules() if not any(part.children())]
    try:
        with at_rest(model):
            trial.program.forward(inputs_and_target(trial.train.batches[0])[0], model)
    except Exception:
        return []
    finally:
        for handle in handles:
            handle.remove()
    return found


def _signals(trial: Trial) -> Iterator[Sign]:
    recorder = trial.recorder
    held = optimized(trial.program.optimizer)
    lively = [each for each in trial.updates if max(each["rates"], default=1) > 0]
    if trial.crash or len(lively) < 8:
        return
    adapters = {name for name, _ in lora_pairs(trial.program.model)}
    weights = [
        (name, p)
        for name, p in trial.program.model.named_parameters()
        if p.requires_grad
        and id(p) in held
        and p.dim() >= 2
        and name not in adapters
        and id(p) in recorder.total
    ]
    silent = [name for name, p in weights if id(p) not in recorder.nonzero and recorder.total[id(p)] >= 8]
    flat = trial.losses is not None and trial.losses[1] > 0.97 * trial.losses[0]
    if silent and (flat or len(silent) >= 0.5 * len(weights)):
        told = (
            f"{len(silent)} of {len(weights)} weight matrices got a gradient "
            f"of exactly 0 in every step, as {silent[0]}"
        )
        yield warning("gradient-all-zero", silent[0], told)
    yield from _units(trial)
    yield from _faint(trial, flat)


def _faint(trial: Trial, flat: bool) -> Iterator[Sign]:
    """How much of the gradient arrives at the first layer of a fresh model."""
    if not trial.direct or not flat:
        return
    model = copy.deepcopy(trial.fresh).train()
    x, y = inputs_and_target(trial.train.batches[0])
    with torch.enable_grad():
        trial.program.criterion(trial.program.forward(x, model), y).backward()
    sizes = [
        (name, float(p.grad.abs().mean()))
        for name, p in model.named_parameters()
        if p.dim() >= 2 and p.grad is not None and not p.grad.is_sparse
    ]
    if len(sizes) >= 4 and 0 < sizes[0][1] < 1e-4 * sizes[-1][1]:
        told = (
            f"the mean gradient of {sizes[0][0]} is {sizes[0][1]:.1e}, "
            f"that of {sizes[-1][0]} {sizes[-1][1]:.1e}"
        )
        yield warning("signal-dies", sizes[0][0], f"{told}; the loss stays")


def _units(trial: Trial) -> Iterator[Sign]:
    for part, out in _passed(trial, trial.program.model):
        if not isinstance(part, nn.ReLU) or out.dim() < 2 or len(out) < 8:
            continue
        units = out.transpose(1, -1).flatten(0, -2) if out.dim() > 2 else out
        dead = float((units == 0).all(0).float().mean())
        if dead > 0.9 and out[0].numel() > 4:
            flat = trial.losses is not None and trial.losses[1] > 0.97 * trial.losses[0]
            told = f"{dead:.0%} of the units after a ReLU are 0 for all {len(out)} rows"
            yield (warning if flat else info)("dead-units", "a ReLU", told)
            return


def _outputs(trial: Trial) -> Iterator[Sign]:
    if not trial.direct or not trial.updates or trial.train.x is None or len(trial.train.x) < 8:
        return
    spreads = []
    for model in (trial.fresh, trial.program.model):
        passed = _last(trial, model)
        if passed is None or passed.dim() < 1 or len(passed) < 4 or not torch.isfinite(passed).all():
            return
        spreads.append(float((passed - passed.mean(0)).abs().max() / passed.abs().max().clamp(min=1e-12)))
    x = inputs_and_target(trial.train.batches[0])[0]
    first = first_tensor(x)
    differ = first is not None and bool((first != first[:1]).any())
    if differ and spreads[1] < 1e-5 and (spreads[0] < 1e-5 or trial.losses is not None):
        told = (
            f"outputs for different rows differ by {spreads[1]:.1e} of "
            f"their size after {len(trial.updates)} updates"
        )
        moved = [each["ratio"] for each in trial.updates]
        level = warning if max(moved) > 1e-4 and len(moved) >= 8 else info
        yield level("outputs-ignore-inputs", "the model", told)


def _last(trial: Trial, model: nn.Module) -> Tensor | None:
    try:
        with at_rest(model):
            out = trial.program.forward(inputs_and_target(trial.train.batches[0])[0], model)
    except Exception:
        return None
    first = first_tensor(out)
    return None if first is None else first.float()
