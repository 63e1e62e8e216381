"""A meter for one training step: bytes by part at every moment, and seconds; on a CPU too.

    cost = tl.measure_step(step, model, optimizer, batch=(x, y))
    print(cost)

How it counts: every operation that makes a tensor is seen (a dispatch mode), and so is the moment at
which the tensor's memory is given back (a weak reference on its storage). Views share a storage, and it
counts once. What each storage was for is known at the end of the step, and then the step is told again.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from time import perf_counter, process_time
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from ..data.batches import tensors_in
from ..errors import TrainlabError
from ..precision import device_of
from ..randomness import preserve_rng

PARTS = (
    "parameters",
    "optimizer state",
    "gradients",
    "weight copies",
    "activations",
    "batch",
    "temporary",
)


@dataclass(frozen=True, slots=True)
class StepCost:
    """What one step of training held in memory, in bytes, and how long it took.

    parts: the most that each part ever held.  at_peak: what each part held when all together held most;
    the parts reach their own peaks at different moments, so `parts` adds up to more than `peak`.
    parameters: with the model's buffers.  weight copies: in half precision, made by autocast.
    activations: what is kept for the backward pass, and what checkpointing computes again there.
    temporary: everything else, such as results that nobody keeps.
    moments: the same parts, in the order of PARTS, after each of the step's allocations and releases.
    seconds: of one step, the median of several without the meter; None where none was timed. On CUDA by the
    clock; else what the processor worked, all threads added up, which other programs do not disturb.
    allocated: the allocator's own peak on CUDA, which also counts what kernels use inside; else None.
    """

    parts: Mapping[str, int]
    at_peak: Mapping[str, int]
    moments: tuple[tuple[int, ...], ...]
    seconds: float | None
    allocated: int | None

    @property
    def peak(self) -> int:
        """The most bytes that were held at one moment."""
        return sum(self.at_peak.values())

    def __str__(self) -> str:
        lines = [f"{'part':16} {'most':>9} {'at the peak':>12}"]
        lines += [
            f"{name:16} {_short(self.parts[name]):>9} {_short(self.at_peak[name]):>12}" for name in PARTS
        ]
        lines.append(f"{'together':16} {'':9} {_short(self.peak):>12}")
        if self.allocated is not None:
            lines.append(f"{'allocator':16} {'':9} {_short(self.allocated):>12}")
        return "\n".join(lines)


def _short(size: float) -> str:
    return f"{size / 1e6:.2f} MB"


def measure_step(
    step: Callable[[], object],
    model: nn.Module,
    optimizer: Optimizer | None = None,
    *,
    batch: Any = (),
    repeats: int = 3,
) -> StepCost:
    """Measure one call of `step`, which takes one whole step of training in whatever way you write it.

    batch: the tensors that it trains on, to be counted apart.  repeats: further calls, to be timed.
    `step` is called once before it is measured, so that the optimizer has its state. Weights, buffers,
    gradients, modes, the optimizer and all random states are put back. On CUDA, torch's peak statistics
    are reset.
    Raises TrainlabError if `step` is no function, or repeats is negative.
    """
    if not callable(step):
        raise TrainlabError(f"step is a {type(step).__name__}: give a function that takes one training step")
    if repeats < 0:
        raise TrainlabError(f"repeats={repeats} is negative: use 0 for no timing")
    with _put_back(model, optimizer), preserve_rng():
        step()
        ledger = _Ledger(model, optimizer, batch)
        with ledger.watching():
            step()
        seconds, allocated = _timed(step, device_of(model), repeats)
    return ledger.told(seconds, allocated)


def _timed(step: Callable[[], object], device: torch.device, repeats: int) -> tuple[float | None, int | None]:
    """Seconds of one step, and the CUDA allocator's peak; None for what there is not."""
    on_cuda, taken = device.type == "cuda", []
    clock = perf_counter if on_cuda else process_time
    if on_cuda:
        torch.cuda.reset_peak_memory_stats(device)
    for _ in range(max(repeats, 1 if on_cuda else 0)):
        started = clock()
        step()
        if on_cuda:
            torch.cuda.synchronize(device)
        taken.append(clock() - started)
    return (
        median(taken) if taken else None,
        torch.cuda.max_memory_allocated(device) if on_cuda else None,
    )


class _Ledger(TorchDispatchMode):
    """Every storage of the step: its size, what it is for, when it came and when it went."""

    def __init__(self, model: nn.Module, optimizer: Optimizer | None, batch: Any) -> None:
        super().__init__()
        self._model, self._optimizer = model, optimizer
        self._places: Any = WeakIdKeyDictionary()  # storage -> its place in `_kinds`
        self._kinds: list[str] = []
        self._log: list[tuple[int, int]] = []  # (place, bytes that came or, negative, went)
        self._take(self._weights(), "parameters")
        self._take((p.grad for p in model.parameters() if p.grad is not None), "gradients")
        self._take(self._states(), "optimizer state")
        self._take(tensors_in(batch), "batch")
        self._begun = len(self._log)

    def _weights(self) -> Iterator[Tensor]:
        yield from self._model.parameters()
        yield from self._model.buffers()

    def _states(self) -> Iterable[Tensor]:
        if self._optimizer is None:
            return ()
        return [t for t in tree_leaves(dict(self._optimizer.state.items())) if isinstance(t, Tensor)]

    def _take(self, tensors: Iterable[Tensor], kind: str) -> None:
        for tensor in tensors:
            self._note(tensor, kind)

    def _note(self, tensor: Tensor, kind: str) -> None:
        """Enter a tensor's storage, if it is not there yet."""
        storage = tensor.untyped_storage()
        if storage in self._places:
            return
        place, size = len(self._kinds), storage.nbytes()
        self._places[storage] = place
        self._kinds.append(kind)
        self._log.append((place, size))
        weakref.finalize(storage, self._log.append, (place, -size)).atexit = False

    def _call_it(self, tensor: Tensor, kind: str) -> None:
        """Say what a storage that came as "temporary" turned out to be."""
        place = self._places.get(tensor.untyped_storage())
        if place is not None and self._kinds[place] == "temporary":
            self._kinds[place] = kind

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch what is done inside."""
        hooks = [
            p.register_post_accumulate_grad_hook(lambda p: self._call_it(p.grad, "gradients"))
            for p in self._model.parameters()
            if p.requires_grad
        ]
        try:
            with torch.autograd.graph.saved_tensors_hooks(self._keep, lambda kept: kept), self:
                yield
        finally:
            for hook in hooks:
                hook.remove()
        for tensor in self._states():  # what the step itself made of it
            self._call_it(tensor, "optimizer state")
        self._ended = len(self._log)

    def _keep(self, tensor: Tensor) -> Tensor:
        self._call_it(tensor, "activations")
        return tensor.detach()  # the result of an operation, kept as it is, would keep the operation too

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor) and tensor.layout == torch.strided:
                self._note_outside(tensor)
        result = func(*args, **(kwargs or {}))
        kind = self._kind(func, args)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.layout == torch.strided:
                self._note(tensor, kind)
        return result

    def _note_outside(self, tensor: Tensor) -> None:
        """What is first seen as an input was there before, and is no cost of the step."""
        storage = tensor.untyped_storage()
        if storage not in self._places:
            self._places[storage] = len(self._kinds)
            self._kinds.append("outside")

    def _kind(self, func: Any, args: Any) -> str:
        """What the result of an operation is for, as far as can be said now."""
        if func is torch.ops.aten._to_copy.default:
            place = self._places.get(args[0].untyped_storage())
            if place is not None and self._kinds[place] == "parameters":
                return "weight copies"
        inside_backward = torch._C._current_graph_task_id() != -1
        # an ordinary backward pass records nothing: where it does, checkpointing computes again
        return "activations" if inside_backward and torch.is_grad_enabled() else "temporary"

    def told(self, seconds: float | None, allocated: int | None) -> StepCost:
        """The step, told again with what each storage was for."""
        held, moments = dict.fromkeys(PARTS, 0), []
        for at, (place, size) in enumerate(self._log[: self._ended], 1):
            held[self._kinds[place]] += size
            if at >= self._begun:
                moments.append(tuple(held.values()))
        highest = max(moments, key=sum)
        return StepCost(
            {name: max(each) for name, each in zip(PARTS, zip(*moments))},
            dict(zip(PARTS, highest)),
            tuple(moments),
            seconds,
            allocated,
        )


@contextmanager
def _put_back(model: nn.Module, optimizer: Optimizer | None) -> Iterator[None]:
    """Leave weights, buffers, gradients, modes and the optimizer as they were before."""
    tensors = [(each, each.detach().clone()) for each in [*model.parameters(), *model.buffers()]]
    grads = [(p, p.grad, None if p.grad is None else p.grad.clone()) for p in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    groups = [dict(group) for group in optimizer.param_groups] if optimizer is not None else []
    states = {} if optimizer is None else {key: _copies(own) for key, own in optimizer.state.items()}
    try:
        yield
    finally:
        with torch.no_grad():
            for each, value in tensors:
                each.copy_(value)
            for parameter, grad, kept in grads:
                parameter.grad = grad if grad is None or kept is None else grad.copy_(kept)
            for module, mode in modes:
                module.training = mode
            if optimizer is not None:
                for group, before in zip(optimizer.param_groups, groups):
                    group.update(before)
                optimizer.state.clear()
                optimizer.state.update({key: _originals(own) for key, own in states.items()})


def _copies(own: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {name: (value, value.clone() if torch.is_tensor(value) else value) for name, value in own.items()}


def _originals(own: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
    return {
        name: value.copy_(copy) if torch.is_tensor(value) else value for name, (value, copy) in own.items()
    }
