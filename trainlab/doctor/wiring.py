"""Before training: parameters, optimizer, schedule, and how they hang together."""

from __future__ import annotations

import copy
import difflib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .signs import Sign, error, info, warning
from .subject import Program


def look_at_wiring(program: Program, batches: int | None) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The questions about the program as it stands, before a step is made."""
    yield "something is to be trained", lambda: _frozen(program)
    yield "the optimizer holds this model's parameters", lambda: _held(program)
    yield "layers are registered", lambda: _hidden(program)
    yield "no layer stands in two places of a stack", lambda: _shared(program.model)
    yield "freezing was written as PyTorch reads it", lambda: _misspelt(program.model)
    yield "dropout leaves something", lambda: _dropout(program.model)
    yield "settings of the optimizer", lambda: _settings(program)
    yield "settings of the criterion", lambda: _criterion(program.criterion)
    yield "LoRA trains what it should", lambda: _lora(program)
    yield "the schedule", lambda: _schedule(program, batches)


def optimized(optimizer: Optimizer) -> set[int]:
    """The ids of all parameters in an optimizer, those of an optimizer inside it as well."""
    found = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for value in vars(optimizer).values():
        if isinstance(value, Optimizer):
            found |= {id(p) for group in value.param_groups for p in group["params"]}
    return found


def _frozen(program: Program) -> Iterator[Sign]:
    parameters = list(program.model.parameters())
    if parameters and not any(p.requires_grad for p in parameters):
        extra = program.criterion.parameters() if isinstance(program.criterion, nn.Module) else ()
        if not any(p.requires_grad for p in extra):
            told = f"0 of {len(parameters)} parameters require a gradient"
            yield error("everything-frozen", type(program.model).__name__, told)


def _held(program: Program) -> Iterator[Sign]:
    own = {id(p): name for name, p in program.model.named_parameters()}
    held = optimized(program.optimizer)
    known = set(own)
    if isinstance(program.criterion, nn.Module):
        known |= {id(p) for p in program.criterion.parameters()}
    known |= {id(p) for _, p in hidden_parameters(program.model)}
    foreign = held - known
    trained = {id(p) for p in program.model.parameters() if p.requires_grad}
    if trained and not held & set(own):
        told = f"{len(held)} parameters in the optimizer, 0 of them among the model's {len(own)}"
        yield error("optimizer-of-another-model", "the optimizer", told)
    elif foreign and trained - held:
        missing = [own[key] for key in trained - held]
        told = f"{len(foreign)} parameters in the optimizer are not the model's; it lacks {_some(missing)}"
        yield error("optimizer-holds-stale-parameters", "the optimizer", told)
    elif foreign and not program.step_fn:
        told = f"{len(foreign)} of {len(held)} parameters in the optimizer are not the model's"
        yield info("optimizer-holds-stale-parameters", "the optimizer", told)


def _some(names: list[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def hidden_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter | Tensor]]:
    """What a module keeps in a plain list, dict or attribute and would train, but has not registered."""
    registered = {id(p) for p in model.parameters()}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if name.startswith("_") and name in ("_parameters", "_buffers", "_modules"):
                continue
            for place, found in _inside(value, f"{path}.{name}".lstrip("."), 0):
                if id(found) not in registered:
                    yield place, found


def _inside(value: Any, place: str, depth: int) -> Iterator[tuple[str, Any]]:
    if isinstance(value, nn.Module) and not isinstance(value, Optimizer):
        for name, p in value.named_parameters():
            if p.requires_grad:
                yield f"{place}.{name}", p
    elif isinstance(value, Tensor) and value.is_leaf and value.requires_grad:
        yield place, value
    elif isinstance(value, list | tuple | dict) and depth < 3:
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, each in pairs:
            yield from _inside(each, f"{place}[{key}]", depth + 1)


def _hidden(program: Program) -> Iterator[Sign]:
    held = optimized(program.optimizer)
    lost = [place for place, p in hidden_parameters(program.model) if id(p) not in held]
    if lost:
        told = f"{len(lost)} trainable tensors outside parameters(), and in no optimizer: {_some(lost)}"
        yield Sign("layers-not-registered", "hidden", type(program.model).__name__, told)


def _shared(model: nn.Module) -> Iterator[Sign]:
    for path, stack in model.named_modules():
        if not isinstance(stack, nn.Sequential | nn.ModuleList):
            continue
        layers = [each for each in stack if any(True for _ in each.parameters())]
        twice = len(layers) - len({id(each) for each in layers})
        if twice:
            told = f"{len(layers)} places with parameters are filled by {len(layers) - twice} layers"
            yield warning("layer-shared-by-accident", path or type(model).__name__, told)
            return


def _dropout(model: nn.Module) -> Iterator[Sign]:
    for name, part in model.named_modules():
        if isinstance(part, nn.modules.dropout._DropoutNd) and part.p >= 1:
            yield error("dropout-of-everything", name, f"p={part.p:g}: every value is dropped in train mode")


def _misspelt(model: nn.Module) -> Iterator[Sign]:
    named = [*model.named_parameters(), *model.named_modules()]
    for name, each in named:
        for attribute in vars(each) if hasattr(each, "__dict__") else ():
            if attribute.startswith("_") or not isinstance(vars(each)[attribute], bool):
                continue
            typo = difflib.SequenceMatcher(None, attribute, "requires_grad").ratio() > 0.85
            typo = typo or attribute == "trainable"  # Keras reads that one
            if typo and (attribute != "requires_grad" or isinstance(each, nn.Module)):
                value = vars(each)[attribute]
                inside = each.parameters() if isinstance(each, nn.Module) else [each]
                if not value and any(p.requires_grad for p in inside):
                    told = (
                        f"{name or 'the model'}.{attribute} = False, and its "
                        f"parameters still require gradients"
                    )
                    yield error("freeze-has-no-effect", name or "the model", told)
                    return


def _settings(program: Program) -> Iterator[Sign]:
    for place, group in enumerate(program.optimizer.param_groups):
        yield from _group(program, group, f"group {place} of {type(program.optimizer).__name__}")
    half = [p for p in program.model.parameters() if p.dtype == torch.float16 and p.requires_grad]
    eps = [group["eps"] for group in program.optimizer.param_groups if "eps" in group]
    if half and eps and min(eps) < 5e-8:
        told = (
            f"{len(half)} weights are float16, where eps={min(eps):g} is "
            f"0: the smallest number above 0 is 6e-8"
        )
        yield error("half-precision-weights", "model.half()", told)
    elif half:
        told = f"{len(half)} weights are float16: a change below a thousandth of a weight is rounded away"
        yield warning("half-precision-weights", "model.half()", told)


def _group(program: Program, group: dict[str, Any], where: str) -> Iterator[Sign]:
    rate, momentum = float(group.get("lr", 1.0)), group.get("momentum", 0.0)
    adaptive = "betas" in group
    if "betas" in group and len(group["betas"]) == 2:
        first, second = (float(beta) for beta in group["betas"])
        if first > second and (first >= 0.98 or second < 0.5):
            yield warning(
                "betas-swapped", where, f"betas=({first:g}, {second:g}): the mean is slower than the square"
            )
    if isinstance(momentum, float | int) and momentum >= 1:
        yield error(
            "momentum-too-large", where, f"momentum={momentum:g}, where every step is kept for ever from 1 on"
        )
    elif isinstance(momentum, float) and 0 < momentum <= 0.2 and rate >= 0.5 and "nesterov" in group:
        yield warning("rate-and-momentum-swapped", where, f"lr={rate:g} and momentum={momentum:g}")
    decay = float(group.get("weight_decay") or 0.0)
    if decay * (rate if "betas" in group or adaptive else 1.0) > 0 and decay >= 1:
        yield Sign("weight-decay-too-large", "candidate", where, f"weight_decay={decay:g}, usual is 0 to 0.1")
    if rate < 0:
        yield error("learning-rate-negative", where, f"lr={rate:g}")
    if group.get("maximize"):
        yield Sign("climbs-the-loss", "candidate", where, "maximize=True")
    if "eps" in group and float(group["eps"]) >= 0.1:
        yield info("epsilon-large", where, f"eps={float(group['eps']):g}, usual is 1e-8")


def _criterion(criterion: Any) -> Iterator[Sign]:
    weight = getattr(criterion, "weight", None)
    if not isinstance(weight, Tensor) or weight.numel() < 2 or isinstance(criterion, nn.Linear):
        return
    if bool((weight < 0).any()):
        yield error("class-weights-wrong", "the criterion", f"a class weight is {float(weight.min()):g}")


def lora_pairs(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Parameters that go by LoRA's names."""
    found = [(name, p) for name, p in model.named_parameters() if "lora" in name.lower()]
    for path, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        for first, second in (("A", "B"), ("a", "b"), ("down", "up")):
            if {first, second} <= own.keys() and own[first].dim() == own[second].dim() == 2:
                known = {name for name, _ in found}
                named = [(f"{path}.{each}".lstrip("."), own[each]) for each in (first, second)]
                found += [pair for pair in named if pair[0] not in known]
    return found


def _lora(program: Program) -> Iterator[Sign]:
    pairs = lora_pairs(program.model)
    if not pairs:
        return
    adapters = {id(p) for _, p in pairs}
    held = optimized(program.optimizer)
    lost = [name for name, p in pairs if id(p) not in held or not p.requires_grad]
    if lost:
        told = f"{len(lost)} of {len(pairs)} LoRA matrices are frozen or in no optimizer: {_some(lost)}"
        yield warning("lora-not-trained", "the optimizer", told)
    wrapped = {name.rsplit(".", 2)[0] for name, _ in pairs} | {name.rsplit(".", 1)[0] for name, _ in pairs}
    base = [
        (name, p)
        for name, p in program.model.named_parameters()
        if id(p) not in adapters
        and p.dim() >= 2
        and p.requires_grad
        and id(p) in held
        and any(name.startswith(f"{path}.") or path == "" for path in wrapped)
    ]
    if base:
        told = (
            f"{len(base)} weight matrices that LoRA stands beside are "
            f"trained, too: {_some([n for n, _ in base])}"
        )
        yield warning("lora-base-unfrozen", "the model", told)


def _schedule(program: Program, batches: int | None) -> Iterator[Sign]:
    scheduler = program.scheduler
    if scheduler is None:
        return
    where = type(scheduler).__name__
    theirs = getattr(scheduler, "optimizer", None)
    if (
        theirs is not None
        and theirs is not program.optimizer
        and not optimized(theirs) & optimized(program.optimizer)
    ):
        yield error(
            "schedule-of-another-optimizer", where, "scheduler.optimizer holds none of these parameters"
        )
        return
    per_step = program.interval == "step" or "stepped-in-step" in program.notes
    rates = _simulated(program, 6000 if per_step else 400)
    if rates:
        yield from _course(rates, scheduler, batches, per_step, where)
    if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau) and scheduler.mode == "max":
        yield Sign("plateau-mode", "candidate", where, "mode='max'")


def _simulated(program: Program, length: int) -> list[float]:
    """The first group's rate over the calls of the schedule, on copies."""
    if isinstance(program.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        return []
    from .subject import _optimizers_whole

    with _optimizers_whole(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            memo: dict[int, Any] = {}
            scheduler = copy.deepcopy(program.scheduler, memo)
        except Exception:
            return []
        rates = []
        for _ in range(length):
            try:
                rates.append(float(scheduler.optimizer.param_groups[0]["lr"]))
                scheduler.step()
            except Exception:
                break
        return rates


def _course(
    rates: list[float], scheduler: Any, batches: int | None, per_step: bool, where: str
) -> Iterator[Sign]:
    base = max(float(each) for each in getattr(scheduler, "base_lrs", None) or [max(rates)])
    if max(rates) > 50 * base and rates[-1] > 50 * base:
        yield warning("schedule-grows", where, f"the rate grows from {rates[0]:.2g} to {rates[-1]:.2g}")
        return
    still = next((at for at, rate in enumerate(rates) if rate != 0), len(rates))
    if still >= 10:
        told = f"the rate is exactly 0 for the first {still} calls of the schedule"
        yield warning("learning-rate-zero", where, told)
        return
    mistaken = _per_batch(rates, scheduler, batches or 0) if per_step else None
    if mistaken:
        yield warning("schedule-stepped-per-batch", where, mistaken)
        return
    mistaken = None if per_step else _per_epoch(rates, scheduler, batches or 0)
    if mistaken:
        yield warning("schedule-stepped-per-epoch", where, mistaken)
        return
    if max(rates) < 0.02 * base:
        told = f"the rate never rises above {max(rates):.2g}, lr={base:.2g} was given"
        yield warning("schedule-multiplies-twice", where, told)
    low = getattr(scheduler, "eta_min", 0.0)
    if isinstance(low, float | int) and low > base:
        yield warning("schedule-grows", where, f"eta_min={low:g} is above lr={base:g}")
    if len(rates) > 3 and rates[0] > 0 and rates[3] < 2e-3 * rates[0]:
        told = f"the rate falls from {rates[0]:.2g} to {rates[3]:.2g} in 3 steps"
        yield warning("schedule-falls-at-once", where, told)


def _per_batch(rates: list[float], scheduler: Any, batches: int) -> str | None:
    """Whether a schedule that is stepped after each batch is over long before the first epoch is."""
    schedules = torch.optim.lr_scheduler
    cyclic = isinstance(scheduler, schedules.CosineAnnealingWarmRestarts | schedules.CyclicLR)
    if batches < 8 or cyclic:
        return None
    epoch = rates[: batches + 1]
    top = next(at for at, rate in enumerate(epoch) if rate >= 0.999 * max(epoch))
    gone = next((at for at in range(top, len(epoch)) if epoch[at] < 0.02 * epoch[top]), batches)
    falling = isinstance(scheduler, schedules.ExponentialLR | schedules.StepLR | schedules.MultiStepLR)
    if falling and len(rates) > 3 * batches and rates[3 * batches] < 0.02 * rates[0]:
        late = rates[3 * batches]
        return (
            f"stepped for each of {batches} batches, the rate is "
            f"{late:.2g} after 3 epochs, from {rates[0]:.2g}"
        )
    if len(rates) < batches or (gone < 0.6 * batches and batches >= 12):
        end = min(epoch[top:])
        return (
            f"stepped for each of {batches} batches, the rate falls from "
            f"{epoch[top]:.2g} to {end:.2g} in one epoch"
        )
    return None


def _per_epoch(rates: list[float], scheduler: Any, batches: int) -> str | None:
    """Whether a schedule that is stepped after each epoch has hardly begun after thirty of them."""
    if batches < 4:
        return None
    horizon = getattr(scheduler, "T_max", None) or getattr(scheduler, "total_steps", None) or 0
    slow = rates[0] < 0.1 * max(rates) and max(rates[:30]) < 0.35 * max(rates)
    if slow or (horizon >= 1000 and horizon % batches == 0):
        late = rates[min(30, len(rates) - 1)]
        told = f"after 30 epochs the rate is {late:.2g}, its peak {max(rates):.2g}"
        return f"{told}; an epoch has {batches} batches"
    return None
