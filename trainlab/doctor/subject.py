"""The program under examination: everything on copies, the originals left as they are."""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from ..errors import TrainlabError

_COPY_LIMIT = 512 * 2**20  # bytes of a data set that are still copied
_LIBRARIES = ("torch", "numpy", "builtins", "math", "random", "collections", "functools", "sklearn")


@dataclass
class Program:
    """What a learner hands over, or the copies of it."""

    model: nn.Module
    criterion: Callable[..., Any]
    optimizer: Optimizer
    train: Any
    valid: Any = None
    step_fn: Callable[..., Any] | None = None
    scheduler: Any = None
    interval: str = "epoch"
    eval_fn: Callable[..., Any] | None = None
    task: str = "auto"
    notes: list[str] = field(default_factory=list)

    def forward(self, x: Any, model: nn.Module | None = None) -> Any:
        """The model's output for the inputs of a batch: one tensor, a tuple of them, or a mapping."""
        model = self.model if model is None else model
        if isinstance(x, dict):
            return model(**x)
        return model(*x) if isinstance(x, tuple) else model(x)


def inputs_and_target(batch: Any) -> tuple[Any, Any]:
    """(x, y) of a batch: the last part is the target; several inputs come as a tuple.

    Raises TrainlabError if the batch is no pair.
    """
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return batch[0], batch[1]
    if isinstance(batch, tuple | list) and len(batch) > 2:
        return tuple(batch[:-1]), batch[-1]
    raise TrainlabError(
        f"a batch is a {type(batch).__name__}, and a pair (x, y) is needed: give step_fn for other batches"
    )


def copied(program: Program) -> Program:
    """Deep copies of all that training may change, which refer to each other as the originals do.

    A function (step_fn, eval_fn, a criterion) is given copies of what it closes over as well.
    """
    memo: dict[int, Any] = {}
    for loader in (program.train, program.valid):
        _keep_what_is_large(loader, memo)
    with _optimizers_whole():
        _detach_left_overs(program.model, memo)
        twin = Program(
            copy.deepcopy(program.model, memo),
            program.criterion,
            copy.deepcopy(program.optimizer, memo),
            _copied_loader(program.train, memo, program.notes),
            _copied_loader(program.valid, memo, program.notes),
            interval=program.interval,
            task=program.task,
            notes=program.notes,
        )
        twin.scheduler = copy.deepcopy(program.scheduler, memo)
        twin.criterion = _rebound(program.criterion, memo)
        twin.step_fn = _rebound(program.step_fn, memo)
        twin.eval_fn = _rebound(program.eval_fn, memo)
    return twin


@contextmanager
def _optimizers_whole() -> Iterator[None]:
    """Inside, deepcopy of an optimizer keeps what a subclass adds (SAM's inner optimizer, Lookahead's)."""

    def whole(self: Optimizer, memo: dict[int, Any]) -> Optimizer:
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        # "step" in the instance is a scheduler's wrapper around the original's method
        own = {name: value for name, value in vars(self).items() if name != "step"}
        twin.__dict__.update({name: copy.deepcopy(value, memo) for name, value in own.items()})
        return twin

    Optimizer.__deepcopy__ = whole  # type: ignore[attr-defined]
    generator_copy = getattr(torch.Generator, "__deepcopy__", None)
    copy._deepcopy_dispatch[torch.Generator] = _copied_generator  # type: ignore[attr-defined]
    try:
        yield
    finally:
        del Optimizer.__deepcopy__  # type: ignore[attr-defined]
        if generator_copy is None:
            copy._deepcopy_dispatch.pop(torch.Generator, None)  # type: ignore[attr-defined]
        copy._deepcopy_dispatch.pop(torch.Generator, None)  # type: ignore[attr-defined]


def _copied_generator(generator: torch.Generator, memo: dict[int, Any]) -> torch.Generator:
    twin = torch.Generator(device=generator.device)
    twin.set_state(generator.get_state())
    memo[id(generator)] = twin
    return twin


def _detach_left_overs(model: nn.Module, memo: dict[int, Any]) -> None:
    """A result that a module keeps (old weight_norm's weight, a stored output) cannot be deep-copied."""
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and value.grad_fn is not None:
                memo[id(value)] = value.detach().clone()


def _keep_what_is_large(loader: Any, memo: dict[int, Any]) -> None:
    data = getattr(loader, "dataset", None)
    tensors = (
        [value for value in getattr(data, "tensors", ()) or vars(data).values() if _is_tensor(value)]
        if (hasattr(data, "__dict__"))
        else []
    )
    if sum(value.nbytes for value in tensors) > _COPY_LIMIT:
        memo |= {id(value): value for value in tensors}


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def _copied_loader(loader: Any, memo: dict[int, Any], notes: list[str]) -> Any:
    if loader is None:
        return None
    if iter_is_self(loader):
        raise TrainlabError(
            f"the loader is a {type(loader).__name__} that can be gone through once only: give a DataLoader, "
            "a list of batches, or another object whose iter() starts anew"
        )
    try:
        twin = copy.deepcopy(loader, memo)
    except Exception:
        notes.append("the loader could not be copied: it was read as it is, its generators put back")
        return loader
    if isinstance(twin, DataLoader):
        twin.num_workers, twin.timeout = 0, 0  # a worker process would cost more time than the check has
    return twin


def iter_is_self(loader: Any) -> bool:
    """Whether an object is an iterator itself, so that reading it would use it up."""
    return hasattr(loader, "__next__") and not isinstance(loader, list | tuple)


def _rebound(value: Any, memo: dict[int, Any], depth: int = 0) -> Any:
    """A function whose closure, defaults and stateful globals are the copies; anything else deep-copied."""
    if value is None or isinstance(value, type | types.ModuleType | types.BuiltinFunctionType) or depth > 6:
        return value
    if id(value) in memo:
        return memo[id(value)]
    if isinstance(value, types.FunctionType):
        return _rebound_function(value, memo, depth)
    if isinstance(value, functools.partial):
        keywords = {name: _rebound(each, memo, depth + 1) for name, each in value.keywords.items()}
        arguments = [_rebound(each, memo, depth + 1) for each in value.args]
        return functools.partial(_rebound(value.func, memo, depth + 1), *arguments, **keywords)
    try:
        return copy.deepcopy(value, memo)
    except Exception:
        return value


def _rebound_function(function: types.FunctionType, memo: dict[int, Any], depth: int) -> types.FunctionType:
    if (function.__module__ or "").split(".")[0] in _LIBRARIES:
        return function
    names = _names_of(function.__code__)
    own_globals = dict(function.__globals__)
    cells = tuple(types.CellType() for _ in function.__closure__ or ())
    twin = types.FunctionType(function.__code__, own_globals, function.__name__, None, cells or None)
    memo[id(function)] = twin
    for name in names & own_globals.keys():
        if _has_state(own_globals[name]):
            own_globals[name] = _rebound(own_globals[name], memo, depth + 1)
    for cell, original in zip(cells, function.__closure__ or ()):
        try:
            cell.cell_contents = _rebound(original.cell_contents, memo, depth + 1)
        except ValueError:
            continue  # a cell that is still empty
    twin.__defaults__ = tuple(_rebound(each, memo, depth + 1) for each in function.__defaults__ or ()) or None
    given = function.__kwdefaults__ or {}
    twin.__kwdefaults__ = {name: _rebound(each, memo, depth + 1) for name, each in given.items()} or None
    return twin


def _names_of(code: types.CodeType) -> set[str]:
    inner = [each for each in code.co_consts if isinstance(each, types.CodeType)]
    return set(code.co_names).union(*(_names_of(each) for each in inner)) if inner else set(code.co_names)


def _has_state(value: Any) -> bool:
    if isinstance(value, types.FunctionType):
        return True
    if isinstance(value, type | types.ModuleType | types.BuiltinFunctionType | str | int | float | tuple):
        return False
    return hasattr(value, "__dict__") or isinstance(value, dict | list | set | Tensor | torch.Generator)


@contextmanager
def originals_kept(program: Program) -> Iterator[None]:
    """Belt and braces: whatever the copies did not catch is put back to the last bit."""
    optimized = [p for group in program.optimizer.param_groups for p in group["params"]]
    tensors = {id(t): t for t in (*program.model.parameters(), *program.model.buffers(), *optimized)}
    kept = [(tensor, tensor.detach().clone()) for tensor in tensors.values()]
    leaves = [tensor for tensor in tensors.values() if tensor.is_leaf]
    gradients = [(leaf, leaf.grad, None if leaf.grad is None else leaf.grad.clone()) for leaf in leaves]
    modes = [(part, part.training) for part in program.model.modules()]
    generators = [(each, each.get_state()) for each in _generators(program)]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in kept:
                if not torch.equal(tensor, value):
                    tensor.copy_(value)
        for leaf, gradient, value in gradients:
            leaf.grad = gradient
            if gradient is not None and value is not None:
                gradient.copy_(value)
        for part, training in modes:
            part.training = training
        for generator, state in generators:
            generator.set_state(state)


def _generators(program: Program) -> Iterable[torch.Generator]:
    found = {}
    for loader in (program.train, program.valid):
        for holder in (loader, getattr(loader, "sampler", None), getattr(loader, "dataset", None)):
            for value in vars(holder).values() if hasattr(holder, "__dict__") else ():
                if isinstance(value, torch.Generator):
                    found[id(value)] = value
    return found.values()
