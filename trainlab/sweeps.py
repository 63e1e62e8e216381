"""Many small models trained at once on the same batches, each with a learning rate and a seed of its own."""

from __future__ import annotations

import copy
import inspect
import math
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, count, islice
from statistics import fmean
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F

from .data.batches import tensors_in
from .data.loaders import DatasetLoader, Loader
from .errors import TrainlabError, unknown_name
from .events import Step
from .loop.config import TrainConfig
from .loop.evaluation import evaluate
from .loop.training import train
from .losses import Loss, LossFunction, checked_loss
from .observers import _somebody_watches
from .precision import device_of
from .randomness import get_rng_state, preserve_rng, seed_everything, set_rng_state
from .state import TrainState

if TYPE_CHECKING:
    import pandas as pd

Factory = Callable[[Iterable[nn.Parameter], float], torch.optim.Optimizer]

# fused: one pass over weights and gradients, the same mathematics
OPTIMIZERS: dict[str, Factory] = {
    "sgd": partial(torch.optim.SGD, fused=True),
    "momentum": partial(torch.optim.SGD, momentum=0.9, fused=True),
    "adam": partial(torch.optim.Adam, fused=True),
    "adamw": partial(torch.optim.AdamW, fused=True),
}
WAYS = ("auto", "vmap", "processes", "one by one")
# members stacked at most. Milliseconds a step and member of an MLP 784-128-10, batch 64, one thread:
# 0.69 alone, 0.87 for 2, 0.58 for 4, 0.45 for 6, 0.44 for 8; beyond, the weights fill the caches
GROUP = 8
SLICE = 0.1  # seconds of training between two yields
START_UP = 4.0  # seconds that worker processes take to start and import torch


@dataclass(frozen=True, slots=True)
class SweepProgress:
    """Where one member is.  loss: of its last step, NaN once it has diverged.  total: steps to be made."""

    member: int
    lr: float
    step: int
    total: int
    loss: float


@dataclass(frozen=True, slots=True)
class SweepMember:
    """What one run of a sweep gave.

    losses: training loss at each step, before its update.  valid: metrics at the end, empty for one
    that diverged.  diverged_at: the step whose loss was not finite; the weights stay as before it.
    """

    lr: float
    seed: int
    losses: tuple[float, ...] = ()
    valid: Mapping[str, float] = field(default_factory=dict)
    diverged_at: int | None = None

    @property
    def score(self) -> float:
        """Validation loss, or without one the mean of the last tenth of the losses; NaN if diverged."""
        if self.diverged_at is not None or not self.losses:
            return math.nan
        return self.valid.get("loss", fmean(self.losses[-max(1, len(self.losses) // 10) :]))


@dataclass(frozen=True, slots=True, repr=False)
class SweepReport:
    """What a sweep gave: its members in the order of the rates.

    way: how they were trained, "vmap", "processes" or "one by one".  seconds: wall-clock time of it all.
    """

    members: tuple[SweepMember, ...]
    way: str
    seconds: float

    @property
    def best(self) -> SweepMember | None:
        """The member with the lowest score, None if all diverged."""
        whole = [member for member in self.members if math.isfinite(member.score)]
        return min(whole, key=lambda member: member.score, default=None)

    def frame(self) -> pd.DataFrame:
        """One line a member: rate, seed, steps, score, validation metrics, the step where it diverged."""
        import pandas as pd

        return pd.DataFrame([_row(member) for member in self.members]).astype({"diverged_at": "Int64"})

    def __repr__(self) -> str:
        head = f"SweepReport: {len(self.members)} members, {self.way}, {self.seconds:.1f} s"
        best = self.best
        lines = []
        for member in self.members:
            shown = "".join(f"  {name} {value:.4g}" for name, value in member.valid.items() if name != "loss")
            said = f"diverged at step {member.diverged_at}" if member.diverged_at else f"{member.score:.4f}"
            mark = "  <- best" if member is best else ""
            lines.append(f"  lr {member.lr:<8.3g} seed {member.seed}  loss {said}{shown}{mark}")
        return "\n".join([head, *lines])


def _row(member: SweepMember) -> dict[str, Any]:
    row = {"lr": member.lr, "seed": member.seed, "steps": len(member.losses), "score": member.score}
    valid = {f"valid_{name}": value for name, value in member.valid.items()}
    return row | valid | {"diverged_at": member.diverged_at}


@dataclass(frozen=True, slots=True)
class _Plan:
    """What all members have in common, and (rate, seed) of each."""

    build_model: Callable[[], nn.Module]
    loader: Loader
    loss_fn: LossFunction
    factory: Factory
    config: TrainConfig
    valid: Iterable[Any] | None
    members: tuple[tuple[float, int], ...]

    @property
    def total(self) -> int:
        """Optimizer steps of each member."""
        return self.config.steps or (self.config.epochs or 0) * len(self.loader)

    def batches(self) -> Iterator[Any]:
        """All batches of the run, epoch after epoch."""
        return islice(chain.from_iterable(self.loader.batches(epoch) for epoch in count()), self.total)

    def built(self, seed: int) -> nn.Module:
        """A new model, made under `seed`; the caller keeps the random state."""
        seed_everything(seed)
        model = self.build_model()
        if not isinstance(model, nn.Module):
            raise TrainlabError(
                f"build_model gave a {type(model).__name__}: let it return a new torch.nn.Module"
            )
        return model if model.training else model.train()

    def measured(self, model: nn.Module) -> dict[str, float]:
        """Validation metrics of a trained model, none where there is nothing to validate on."""
        return {} if self.valid is None else evaluate(model, self.valid, self.loss_fn)


def sweep(
    build_model: Callable[[], nn.Module],
    loader: Loader,
    loss_fn: LossFunction,
    lrs: Sequence[float],
    *,
    optimizer: str | Factory = "sgd",
    epochs: int | None = None,
    steps: int | None = None,
    seeds: int | Sequence[int] = 0,
    valid: Iterable[Any] | None = None,
    way: str = "auto",
    workers: int | None = None,
    progress: Callable[[SweepProgress], object] | None = None,
) -> SweepReport:
    """Train one model for each rate of `lrs`, all on the same batches, and compare them.

    Each gives what `fit` gives it alone (up to float32 rounding): `seed_everything(seed)`,
    `build_model()`, the optimizer, then the epochs of `loader` (from `make_loader`).
    optimizer: "sgd", "momentum" (0.9), "adam", "adamw", or a function of (parameters, lr).
    seeds: one for all, or one for each.  valid: batches to measure each on at the end.
    way: "vmap" stacks the weights and trains groups in threads (on a CPU only, not with dropout or
    running statistics); "processes" spreads the members over the cores; "auto" takes what fits.
    Training is where `build_model` puts the model.  workers: threads or processes, by default one a core.
    progress: called with a SweepProgress now and then; by default a bar, where somebody watches.
    A loss that is not finite ends the run of its member only.  The caller's random state is kept.
    Raises TrainlabError if an argument cannot be right.
    """
    stream = sweep_steps(
        build_model,
        loader,
        loss_fn,
        lrs,
        optimizer=optimizer,
        epochs=epochs,
        steps=steps,
        seeds=seeds,
        valid=valid,
        way=way,
        workers=workers,
    )
    return _drained(stream, _Bar(len(lrs)) if progress is None and _somebody_watches() else progress)


def sweep_steps(
    build_model: Callable[[], nn.Module],
    loader: Loader,
    loss_fn: LossFunction,
    lrs: Sequence[float],
    *,
    optimizer: str | Factory = "sgd",
    epochs: int | None = None,
    steps: int | None = None,
    seeds: int | Sequence[int] = 0,
    valid: Iterable[Any] | None = None,
    way: str = "auto",
    workers: int | None = None,
) -> Generator[SweepProgress, None, SweepReport]:
    """`sweep` as a generator, for a live panel: yields progress about every 0.1 s, returns the report.

    Nothing is trained between two `next`, but by processes; with them a member is told of when it is
    done.  `close()` ends the sweep and frees the workers.  Arguments and errors as for `sweep`.
    """
    started = perf_counter()
    rates, chosen = _checked_rates(lrs), _checked_seeds(seeds, lrs)
    factory = _checked_factory(optimizer)
    _check_parts(build_model, loader, loss_fn, valid)
    if way not in WAYS:
        raise unknown_name("way", way, WAYS)
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
        raise TrainlabError(f"workers={workers!r} is not a number of threads or processes from 1 on")
    config = TrainConfig(epochs=epochs, steps=steps)
    members = tuple(zip(rates, chosen))
    plan = _Plan(build_model, loader, loss_fn, factory, config, valid, members)
    crew = workers or _cores()
    with preserve_rng():
        plan, way = _ready(plan, way, crew)
    return _stream(plan, way, crew, started)


def _checked_rates(lrs: Sequence[float]) -> list[float]:
    rates = [float(rate) for rate in lrs]
    if not rates:
        raise TrainlabError("lrs is empty: give at least one learning rate, such as lrs=[0.01, 0.1]")
    for rate in rates:
        if not 0 < rate < math.inf:
            raise TrainlabError(f"the rate {rate!r} in lrs is not above 0 and finite: use 0.01 or 0.1, say")
    return rates


def _checked_seeds(seeds: int | Sequence[int], lrs: Sequence[float]) -> list[int]:
    if isinstance(seeds, int):
        return [seeds] * len(lrs)
    if len(seeds) != len(lrs):
        raise TrainlabError(
            f"{len(seeds)} seeds for {len(lrs)} rates: give one seed for all, or one for each rate"
        )
    return list(seeds)


def _checked_factory(optimizer: str | Factory) -> Factory:
    if callable(optimizer):
        return optimizer
    if optimizer not in OPTIMIZERS:
        raise unknown_name("optimizer", optimizer, OPTIMIZERS)
    return OPTIMIZERS[optimizer]


def _check_parts(build_model: object, loader: object, loss_fn: object, valid: object) -> None:
    if isinstance(build_model, nn.Module) or not callable(build_model):
        raise TrainlabError(
            f"build_model is a {type(build_model).__name__}: give a function that makes a new model, "
            "such as lambda: models.MLP(784, [128], 10)"
        )
    if needed := _needed_arguments(build_model):
        raise TrainlabError(
            f"build_model needs {', '.join(needed)}: give a function without arguments, such as "
            "lambda: build(width=128)"
        )
    if not isinstance(loader, Loader):
        raise TrainlabError(
            f"loader is a {type(loader).__name__}, whose order cannot be repeated for each member: "
            "use make_loader(dataset, batch_size, seed=0, shuffle=True)"
        )
    if not callable(loss_fn):
        raise TrainlabError(f"loss_fn is a {type(loss_fn).__name__}: give a function of (model, batch)")
    if valid is not None and (not isinstance(valid, Iterable) or isinstance(valid, Iterator)):
        raise TrainlabError(
            f"valid is a {type(valid).__name__}: each member goes through it, so use make_loader(...)"
        )


def _needed_arguments(function: Callable[..., Any]) -> list[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # written in C: it will say so itself
        return []
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [one.name for one in parameters if one.default is one.empty and one.kind not in kinds]


def _cores() -> int:
    import joblib

    return int(joblib.cpu_count())


def _ready(plan: _Plan, way: str, workers: int) -> tuple[_Plan, str]:
    """The plan with the device of its models, and the way to go."""
    seed = plan.members[0][1]
    model, other = plan.built(seed), plan.built(seed)
    if {id(p) for p in model.parameters()} & {id(p) for p in other.parameters()}:
        raise TrainlabError(
            "build_model gives the same model each time, so that all members would train one set of "
            "weights: make the model inside the function"
        )
    plan = replace(plan, config=replace(plan.config, device=device_of(model)))
    if way in ("processes", "one by one"):
        return plan, way
    # convolutions of several models at once run slower than one after the other
    many = len(plan.members) >= 4 and not any(
        isinstance(part, nn.modules.conv._ConvNd) for part in model.modules()
    )
    if way == "vmap" or many:
        reason = _not_stackable(plan, model)
        if reason is None:
            return plan, "vmap"
        if way == "vmap":
            raise TrainlabError(f"way='vmap' cannot train this model: {reason}; use way='auto'")
    cpu = device_of(model).type == "cpu"
    alone = _seconds_alone(plan, model)
    spared = alone * (1 - 1 / min(workers, len(plan.members)))
    return plan, "processes" if cpu and spared > START_UP else "one by one"


def _seconds_alone(plan: _Plan, model: nn.Module) -> float:
    """An estimate of the time that all members take one after the other."""
    times = []
    for batch in islice(plan.batches(), 3):
        begun = perf_counter()
        loss = _mean_loss(plan.loss_fn, model, batch)
        if loss.requires_grad:  # `train` will refuse it otherwise
            loss.backward()
        times.append(perf_counter() - begun)
    return min(times, default=0.0) * plan.total * len(plan.members)


def _mean_loss(loss_fn: LossFunction, model: nn.Module, batch: Any) -> Tensor:
    value = loss_fn(model, batch)
    checked_loss(value)
    return value.total / value.count if isinstance(value, Loss) else value


def _stream(
    plan: _Plan, way: str, workers: int, started: float
) -> Generator[SweepProgress, None, SweepReport]:
    ways = {"vmap": _in_groups, "processes": _in_processes, "one by one": _one_by_one}
    try:
        members = yield from ways[way](plan, workers)
    except _NoProcesses:
        way = "one by one"
        members = yield from _one_by_one(plan, workers)
    return SweepReport(members, way, perf_counter() - started)


Told = Generator[SweepProgress, None, tuple[SweepMember, ...]]


# ---- one by one ----


def _one_by_one(plan: _Plan, workers: int) -> Told:
    members = []
    for place in range(len(plan.members)):
        member = yield from _alone(plan, place, SLICE)
        members.append(member)
    return tuple(members)


def _alone(plan: _Plan, place: int, seconds: float) -> Generator[SweepProgress, None, SweepMember]:
    """Train one member with `train`, yielding about every `seconds`; its random state is its own."""
    lr, seed = plan.members[place]
    last = [torch.zeros(())]

    def watched(model: nn.Module, batch: Any) -> Loss | Tensor:
        value = plan.loss_fn(model, batch)
        last[0] = checked_loss(value).detach()
        return value

    with preserve_rng():
        model = plan.built(seed)
        state = TrainState(model, plan.factory(model.parameters(), lr))
        own = get_rng_state()
    stream = train(state, plan.loader, watched, plan.config)
    losses: list[float] = []
    going, diverged = True, None
    try:
        while going:
            with preserve_rng():
                set_rng_state(own)
                try:
                    going = _advance(stream, losses, seconds)
                except TrainlabError:
                    if bool(torch.isfinite(last[0])):
                        raise
                    going, diverged = False, state.step + 1
                own = get_rng_state()
            yield _told(plan, place, losses, diverged)
    finally:
        stream.close()  # type: ignore[attr-defined]
    valid = {} if diverged else plan.measured(model)
    return SweepMember(lr, seed, tuple(losses), valid, diverged)


def _advance(stream: Iterator[Any], losses: list[float], seconds: float) -> bool:
    """Take steps for some time; whether there may be more."""
    until = perf_counter() + seconds
    for event in stream:
        if isinstance(event, Step):
            losses.append(float(event.loss))
        if perf_counter() > until:
            return True
    return False


def _told(plan: _Plan, place: int, losses: Sequence[float], diverged: int | None) -> SweepProgress:
    loss = math.nan if diverged or not losses else losses[-1]
    return SweepProgress(place, plan.members[place][0], diverged or len(losses), plan.total, loss)


# ---- processes ----


class _NoProcesses(Exception):
    """The system lets no process be started."""


def _in_processes(plan: _Plan, workers: int) -> Told:
    """Members over worker processes that stay for the next sweep, each with one thread."""
    import joblib

    parcel = _parcel(plan)
    # four helpings a worker: one that gets members which diverge early takes from the others' share
    size = max(1, len(plan.members) // (4 * workers))
    places = range(len(plan.members))
    with joblib.parallel_config("loky", inner_max_num_threads=1):
        parallel = joblib.Parallel(workers, return_as="generator_unordered", batch_size=1)
    found: dict[int, SweepMember] = {}
    tasks = [joblib.delayed(_in_worker)(parcel, places[first : first + size]) for first in places[::size]]
    try:
        results = parallel(tasks)
    except OSError as error:
        raise _NoProcesses from error
    try:
        for done in results:
            for place, member in done.items():
                found[place] = member
                yield _told(plan, place, member.losses, member.diverged_at)
    except TrainlabError:
        raise
    except Exception as error:
        raise TrainlabError(
            f"a worker process failed ({type(error).__name__}: {error}): mend it, or use way='one by one' "
            "to see where"
        ) from error
    finally:
        with warnings.catch_warnings():  # that tasks are cancelled is what closing is for
            warnings.simplefilter("ignore", UserWarning)
            results.close()
    return tuple(found[place] for place in places)


def _parcel(plan: _Plan) -> bytes:
    """The plan as bytes, functions defined in a notebook included."""
    import cloudpickle

    try:
        return cloudpickle.dumps(replace(plan, loader=_settled(plan.loader), valid=_settled(plan.valid)))
    except Exception as error:
        raise TrainlabError(
            f"build_model, loader, loss_fn or valid cannot be sent to another process ({error}): "
            "use way='one by one', or build what cannot be sent inside build_model"
        ) from error


def _settled(loader: Any) -> Any:
    """The loader without processes of its own: its batches are the same with any number of them."""
    if not isinstance(loader, DatasetLoader):
        return loader
    loader = copy.copy(loader)
    loader._workers, loader._idle = 0, []
    return loader


def _in_worker(parcel: bytes, places: Sequence[int]) -> dict[int, SweepMember]:
    import cloudpickle

    torch.set_num_threads(1)
    plan = cloudpickle.loads(parcel)
    return {place: _drained(_alone(plan, place, math.inf)) for place in places}


def _drained(stream: Generator[Any, None, Any], tell: Callable[[Any], object] | None = None) -> Any:
    """Go through the stream, telling of each progress; what it returns."""
    if tell is not None and not callable(tell):
        raise TrainlabError(f"progress is a {type(tell).__name__}: give a function of one SweepProgress")
    try:
        while True:
            told = next(stream)
            if tell is not None:
                tell(told)
    except StopIteration as end:
        return end.value
    finally:
        stream.close()
        if isinstance(tell, _Bar):
            tell.close()


# ---- groups under vmap ----


class _Objective(nn.Module):
    """The mean loss of a model on a batch, as a module, so that weights can be put into it."""

    def __init__(self, model: nn.Module, loss_fn: LossFunction) -> None:
        super().__init__()
        self.model = model
        self._loss_fn = loss_fn

    def forward(self, batch: Any) -> Tensor:
        return _mean_loss(self._loss_fn, self.model, batch)


def _weights_first(layer: nn.Linear, inputs: Tensor) -> Tensor:
    """A linear layer as W x: the gradient of stacked weights then needs no transposed copy."""
    if inputs.dim() != 2:
        return F.linear(inputs, layer.weight, layer.bias)
    outputs = (layer.weight @ inputs.mT).mT  # (O,I) @ (I,N) -> (N,O)
    return outputs if layer.bias is None else outputs + layer.bias


class _Group:
    """Members whose weights are stacked: one pass for all, then to each its own optimizer.

    The parameters of the models are views of the stacks, (members, ...), so that torch's own
    optimizers, and validation, work on each model as if it were alone.
    """

    def __init__(self, plan: _Plan, places: Sequence[int]) -> None:
        self.places = places
        self.models = [plan.built(plan.members[place][1]) for place in places]
        self.losses: list[list[float]] = [[] for _ in places]
        self.diverged: list[int | None] = [None for _ in places]
        self._objective = _Objective(plan.built(plan.members[0][1]), plan.loss_fn)
        for layer in self._objective.modules():
            if type(layer) is nn.Linear:
                layer.forward = partial(_weights_first, layer)  # type: ignore[method-assign]
        self._stacks: dict[str, Tensor] = {}
        self._views: list[list[nn.Parameter]] = []
        for name, first in self.models[0].named_parameters():
            parts = [model.get_parameter(name) for model in self.models]
            stack = torch.stack([part.detach() for part in parts])  # (M,...)
            for part, view in zip(parts, stack.unbind()):
                part.data = view
            self._stacks[f"model.{name}"] = stack.requires_grad_(first.requires_grad)
            self._views.append(parts)
        rates = [plan.members[place][0] for place in places]
        states = [TrainState(m, plan.factory(m.parameters(), rate)) for m, rate in zip(self.models, rates)]
        self._optimizers = [state.optimizer for state in states]
        self._pass = vmap(partial(functional_call, self._objective), in_dims=(0, None))

    def mean_losses(self, batch: Any) -> Tensor:
        """The loss of each member on the batch, (members,)."""
        return self._pass(self._stacks, (batch,))

    def advance(self, batches: Sequence[Any]) -> None:
        """One step on each batch."""
        for batch in batches:
            if all(self.diverged):
                return
            self._step(batch)

    def _step(self, batch: Any) -> None:
        try:
            losses = self.mean_losses(batch)
        except Exception:
            self._objective(batch)  # if the loss function refuses the batch, it says so best itself
            raise
        for stack in self._stacks.values():
            stack.grad = None
        losses.sum().backward()
        for stack, parts in zip(self._stacks.values(), self._views):
            if stack.grad is not None:
                for part, gradient in zip(parts, stack.grad.unbind()):
                    part.grad = gradient
        for member, loss in enumerate(losses.tolist()):
            if self.diverged[member]:
                continue
            if math.isfinite(loss):
                self.losses[member].append(loss)
                self._optimizers[member].step()
            else:
                self.diverged[member] = len(self.losses[member]) + 1


def _in_groups(plan: _Plan, workers: int) -> Told:
    """Stacked groups, a thread each; all wait while the consumer has the floor."""
    with preserve_rng():
        size = min(GROUP, math.ceil(len(plan.members) / workers))
        places = range(len(plan.members))
        groups = [_Group(plan, places[first : first + size]) for first in places[::size]]
    # a thread each, one core each: one pass spread over the cores waits for the slower one at each layer
    pool = ThreadPoolExecutor(min(workers, len(groups)), initializer=partial(torch.set_num_threads, 1))
    batches, ahead = plan.batches(), 4
    try:
        while taken := list(islice(batches, ahead)):
            begun = perf_counter()
            for done in [pool.submit(group.advance, taken) for group in groups]:
                done.result()
            ahead = max(1, min(64, round(ahead * SLICE / (perf_counter() - begun))))
            for group in groups:
                for place, losses, diverged in zip(group.places, group.losses, group.diverged):
                    yield _told(plan, place, losses, diverged)
    finally:
        pool.shutdown(cancel_futures=True)
    return tuple(member for group in groups for member in _members(plan, group))


def _members(plan: _Plan, group: _Group) -> Iterator[SweepMember]:
    for place, model, losses, diverged in zip(group.places, group.models, group.losses, group.diverged):
        valid = {} if diverged else plan.measured(model)
        yield SweepMember(*plan.members[place], tuple(losses), valid, diverged)


def _not_stackable(plan: _Plan, model: nn.Module) -> str | None:
    """Why members cannot be trained as a group, None if they can: found by trying it on one batch."""
    if device_of(model).type != "cpu":
        return f"it is on {device_of(model)}, and groups are trained on the CPU"
    batch = next(plan.batches(), None)
    models = [plan.built(seed) for _, seed in plan.members]
    shapes = [[(name, p.shape, p.requires_grad) for name, p in one.named_parameters()] for one in models]
    if any(shape != shapes[0] for shape in shapes):
        return "its parameters are not alike under all seeds"
    kept = [[buffer.clone() for buffer in one.buffers()] for one in models]
    if any(not _same(buffers, kept[0]) for buffers in kept):
        return "its buffers are not alike under all seeds"
    values, versions = _plain_values(model), [tensor._version for tensor in tensors_in(batch)]
    before = torch.get_rng_state()
    alone = _mean_loss(plan.loss_fn, model, batch)
    if not alone.requires_grad:
        return "its loss has no gradient"
    if not torch.equal(before, torch.get_rng_state()):
        return "it draws random numbers (dropout?), which would not be those that it draws alone"
    if not _same(list(model.buffers()), kept[0]):
        return "it changes its buffers in training (batch normalisation?)"
    if values != _plain_values(model) or versions != [tensor._version for tensor in tensors_in(batch)]:
        return "it changes values of its own, or the batch, as it goes"
    try:
        together = _Group(plan, range(min(2, len(models)))).mean_losses(batch)
    except TrainlabError:
        raise
    except Exception as error:
        return f"vmap refuses it ({str(error).splitlines()[0]})"
    same = torch.allclose(together[0], alone, rtol=1e-3, equal_nan=True)
    return None if same else "its loss in a group is not the one that it has alone"


def _same(left: list[Tensor], right: list[Tensor]) -> bool:
    return len(left) == len(right) and all(map(torch.equal, left, right))


def _plain_values(model: nn.Module) -> list[dict[str, Any]]:
    plain = (bool, int, float, str)
    return [{k: v for k, v in vars(part).items() if isinstance(v, plain)} for part in model.modules()]


class _Bar:
    """A progress bar over the steps of all members."""

    def __init__(self, members: int) -> None:
        self._steps = [0] * members
        self._bar: Any = None

    def __call__(self, told: SweepProgress) -> None:
        if self._bar is None:
            from tqdm.auto import tqdm

            self._bar = tqdm(total=told.total * len(self._steps), unit="step", dynamic_ncols=True)
        # one that diverged has no steps left
        reached = told.total if math.isnan(told.loss) else told.step
        self._bar.update(reached - self._steps[told.member])
        self._steps[told.member] = reached

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()
