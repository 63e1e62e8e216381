"""What happens during training steps, written down as it happens; nothing is judged here."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.overrides import TorchFunctionMode

LOSSES = {
    *("cross_entropy", "nll_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits", "mse_loss"),
    *("l1_loss", "smooth_l1_loss", "huber_loss", "kl_div", "poisson_nll_loss", "gaussian_nll_loss"),
    *("hinge_embedding_loss", "margin_ranking_loss", "soft_margin_loss", "multi_margin_loss", "ctc_loss"),
    *("cosine_embedding_loss", "multilabel_soft_margin_loss", "multilabel_margin_loss"),
}
_CUTS = {
    "detach",
    "argmax",
    "item",
    "tolist",
    "numpy",
    "round",
    "sign",
    "detach_",
    "topk",
    "__ge__",
    "__gt__",
}
_RESHAPES = {
    *("View", "Reshape", "ReshapeAlias", "UnsafeView", "Squeeze", "Unsqueeze", "Transpose", "T", "Permute"),
    *("Slice", "Select", "Clone", "ToCopy", "AsStrided", "Expand", "Index", "Alias", "Contiguous", "Flatten"),
    *("Unflatten", "MeanDim"),
}


@dataclass
class LossCall:
    """One call of a loss function of torch: its arguments as they came, before any reduction."""

    kind: str
    input: Tensor
    target: Any
    options: dict[str, Any]
    origin: str
    input_has_graph: bool
    target_has_graph: bool
    value: Tensor | None = None


@dataclass
class Forward:
    """One call of the whole model."""

    inputs: Any
    output: Any
    training: bool
    resting: tuple[str, ...]  # dropout and batch norm layers in eval mode
    grad_enabled: bool
    has_graph: bool
    autocast: torch.dtype | None


@dataclass
class Event:
    """One call, in the order of the calls: "zero", "backward", "clip", "step", "schedule", "scale", ..."""

    kind: str
    data: dict[str, Any] = field(default_factory=dict)


@dataclass
class StepTrace:
    """Everything that one step of the learner's loop did."""

    number: int
    batch: Any = None
    events: list[Event] = field(default_factory=list)
    forwards: list[Forward] = field(default_factory=list)
    losses: list[LossCall] = field(default_factory=list)
    criteria: list[tuple[Any, Any, Any]] = field(default_factory=list)
    cuts: list[str] = field(default_factory=list)
    spread_out: list[tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    returned: float | None = None

    def kinds(self) -> list[str]:
        """The kinds of the events, in order."""
        return [event.kind for event in self.events]

    def all(self, kind: str) -> list[Event]:
        """The events of one kind."""
        return [event for event in self.events if event.kind == kind]


def origin_of(output: Any) -> str:
    """The name of the operation that made a tensor, changes of its shape left out; "" without a graph."""
    node = output.grad_fn if isinstance(output, Tensor) else None
    for _ in range(12):
        if node is None:
            return ""
        name = str(node.name()).rstrip("0123456789").removesuffix("Backward")
        if name not in _RESHAPES:
            return name
        node = node.next_functions[0][0] if node.next_functions else None
    return ""


def detached(value: Any) -> Any:
    """A copy that later changes do not reach, in the same nesting."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, tuple | list):
        return tuple(detached(each) for each in value)
    if isinstance(value, dict):
        return {name: detached(each) for name, each in value.items()}
    return value


class Recorder:
    """Hooks and wrappers around a model and all optimizers, while `recording` is open."""

    def __init__(self, model: nn.Module, criterion: Any, optimizer: Optimizer, scheduler: Any = None) -> None:
        self.model, self.optimizer, self.scheduler = model, optimizer, scheduler
        self.criterion = criterion
        self.steps: list[StepTrace] = [StepTrace(0)]
        self.contributions: dict[int, int] = {}  # since the parameter's last update
        self.total: dict[int, int] = {}  # in all
        self.nonzero: set[int] = set()  # parameters that ever had a gradient that is not all 0
        self.stale: set[int] = set()
        self.called: dict[nn.Module, list[bool]] = {}  # for each call, whether its output had a graph
        self.outputs: dict[nn.Module, Any] = {}
        self.made: set[str] = set()
        self.built_optimizers = 0
        self.activations = 0
        self.depth = 0
        self.updating = False
        self.scaling = False
        self.keep_outputs = False
        self.parameters = self._parameters()

    def _parameters(self) -> dict[int, nn.Parameter]:
        held = [p for group in self.optimizer.param_groups for p in group["params"]]
        own = [*self.model.parameters(), *held]
        if isinstance(self.criterion, nn.Module):
            own += list(self.criterion.parameters())
        return {id(p): p for p in own}

    @property
    def now(self) -> StepTrace:
        """The step that is being made."""
        return self.steps[-1]

    def log(self, kind: str, **data: Any) -> None:
        """Write an event into the step that is being made."""
        self.now.events.append(Event(kind, data))

    # -- gradients ---------------------------------------------------------------------------------
    def look_for_zeros(self) -> None:
        """Parameters whose gradient was taken away since are no longer stale."""
        gone = [key for key in self.stale if _is_zero(self.parameters[key].grad)]
        self.stale.difference_update(gone)

    def accumulated(self, parameter: nn.Parameter) -> None:
        """A backward pass has reached this parameter."""
        key = id(parameter)
        self.contributions[key] = self.contributions.get(key, 0) + 1
        self.total[key] = self.total.get(key, 0) + 1
        if key not in self.nonzero and not _is_zero(parameter.grad):
            self.nonzero.add(key)
        if not self.now.events or self.now.events[-1].kind != "gradient":
            self.log("gradient")

    def before_zero(self) -> None:
        """A zero_grad is about to run: was anything in the gradients that no update has used?"""
        held = [key for key in self._held() if not _is_zero(self.parameters[key].grad)]
        unused = [key for key in held if self.contributions.get(key, 0)]
        self.log("zero", held=len(held), unused=len(unused), of=len(self._held()))

    def after_zero(self) -> None:
        """The gradients that are gone count no longer."""
        self.look_for_zeros()
        for key, parameter in self.parameters.items():
            if _is_zero(parameter.grad):
                self.contributions[key] = 0

    def _held(self) -> list[int]:
        return [id(p) for g in self.optimizer.param_groups for p in g["params"] if id(p) in self.parameters]

    def before_update(self, optimizer: Optimizer, *_: Any) -> None:
        """What stands in the gradients when an optimizer steps, and the weights before."""
        self.look_for_zeros()
        held = [p for group in optimizer.param_groups for p in group["params"]]
        for p in held:
            self.parameters.setdefault(id(p), p)
        grads = [p.grad for p in held if p.grad is not None]
        given = sum(not _is_zero(grad) for grad in grads)
        self._weights = [(p, p.detach().clone()) for p in held]
        self.updating = True
        self.log(
            "step",
            optimizer=optimizer,
            given=given,
            held=len(held),
            stale=sum(id(p) in self.stale and self.contributions.get(id(p), 0) > 0 for p in held),
            backwards=max([self.contributions.get(id(p), 0) for p in held], default=0),
            norm=math.sqrt(sum(float(g.detach().float().norm()) ** 2 for g in grads if not g.is_sparse)),
            scaled=self.scaling,
            rates=[float(group.get("lr", 0.0)) for group in optimizer.param_groups],
            decay=_decay(optimizer),
            finite=all(_finite(grad) for grad in grads),
        )

    def after_update(self, optimizer: Optimizer, *_: Any) -> None:
        """How far the weights have moved."""
        self.updating = False
        moved = weights = 0.0
        for p, before in self._weights:
            moved += float((p.detach() - before).float().norm()) ** 2
            weights += float(before.float().norm()) ** 2
            if not _is_zero(p.grad):
                self.stale.add(id(p))
            self.contributions[id(p)] = 0
        step = next(event for event in reversed(self.now.events) if event.kind == "step")
        inside = self.now.events[self.now.events.index(step) + 1 :]
        step.data["moved"] = math.sqrt(moved)
        step.data["ratio"] = math.sqrt(moved / weights) if weights else math.inf
        step.data["closure"] = any(event.kind == "gradient" for event in inside)

    # -- the model and the loss ----------------------------------------------------------------------
    def before_forward(self, model: nn.Module, *_: Any) -> None:
        """The whole model is about to be called."""
        self.depth += 1
        self.look_for_zeros()

    def after_forward(self, model: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """The whole model has been called."""
        self.depth -= 1
        first = first_tensor(output)
        kind = "cuda" if first is not None and first.is_cuda else "cpu"
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        inputs = detached(args[0] if len(args) == 1 else args) if args else detached(kwargs)
        self.now.forwards.append(
            Forward(
                inputs,
                detached(output),
                model.training,
                tuple(name for name, part in mode_parts(model) if not part.training),
                torch.is_grad_enabled(),
                first is not None and first.requires_grad,
                dtype,
            )
        )
        self.log("forward", training=model.training, grad=torch.is_grad_enabled())

    def after_part(self, part: nn.Module, _: Any, output: Any) -> None:
        """A part of the model has been called."""
        first = first_tensor(output)
        self.called.setdefault(part, []).append(first is not None and first.requires_grad)
        if self.keep_outputs and first is not None:
            self.outputs[part] = first.detach()

    def after_criterion(self, _: Any, args: Any, value: Any) -> None:
        """The criterion has been called."""
        if len(args) >= 2:
            self.now.criteria.append((detached(args[0]), detached(args[1]), detached(value)))
            self.log("criterion", value=_number(value))


def first_tensor(output: Any) -> Tensor | None:
    """The first tensor in an output of any nesting."""
    if isinstance(output, Tensor):
        return output
    values = output.values() if isinstance(output, dict) else output
    if isinstance(output, tuple | list | dict):
        return next((found for each in values if (found := first_tensor(each)) is not None), None)
    return None


def mode_parts(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The layers that work differently in train mode: dropout above 0, and batch norm."""
    found = []
    for name, part in model.named_modules():
        drops = isinstance(part, nn.modules.dropout._DropoutNd) and part.p > 0
        if drops or isinstance(part, nn.modules.batchnorm._BatchNorm):
            found.append((name, part))
    return found


def _number(value: Any) -> float | None:
    if isinstance(value, float | int):
        return float(value)
    return float(value.detach()) if isinstance(value, Tensor) and value.numel() == 1 else None


def _is_zero(gradient: Tensor | None) -> bool:
    return gradient is None or not bool(gradient.detach().any() if not gradient.is_sparse else True)


def _finite(gradient: Tensor) -> bool:
    return bool(torch.isfinite(gradient.coalesce().values() if gradient.is_sparse else gradient).all())


def _decay(optimizer: Optimizer) -> float:
    return max([float(group.get("weight_decay") or 0.0) for group in optimizer.param_groups], default=0.0)


class _Calls(TorchFunctionMode):
    """Sees the functions of torch as the learner's code calls them."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        recorder = self.recorder
        if recorder.updating and name != "backward":
            return func(*args, **kwargs)
        call = self._loss(func, name, args, kwargs) if name in LOSSES else None
        if name == "backward" and args:
            recorder.look_for_zeros()
            recorder.log("backward", value=_number(args[0]), graph=args[0].requires_grad)
        elif name in _CUTS and args and isinstance(args[0], Tensor) and args[0].requires_grad:
            recorder.now.cuts.append(name)
        elif name in ("relu", "gelu", "tanh", "sigmoid", "silu", "elu", "leaky_relu"):
            recorder.activations += 1
        elif name == "dropout":
            given = dict(zip(("p", "training"), args[1:])) | kwargs
            recorder.log("dropout", training=given.get("training", True), rate=given.get("p", 0.5))
        result = func(*args, **kwargs)
        if call is not None:
            call.value = detached(result)
        if name in ("sub", "__sub__", "__rsub__", "rsub"):
            self._difference(args, result)
        elif name in ("mul_", "div_", "clamp_", "_foreach_mul_", "_foreach_div_", "_foreach_clamp_min_"):
            self._on_gradients(name, args)
        return result

    def _loss(self, func: Callable[..., Any], name: str, args: Any, kwargs: Any) -> LossCall | None:
        try:
            given = inspect.signature(func).bind(*args, **kwargs).arguments
        except (TypeError, ValueError):
            return None
        names = list(given)
        if len(names) < 2 or not isinstance(given[names[0]], Tensor):
            return None
        first, second = given.pop(names[0]), given.pop(names[1])
        if name == "margin_ranking_loss":
            second = given.get("target", second)
        call = LossCall(
            name,
            detached(first),
            detached(second),
            dict(given),
            origin_of(first),
            first.requires_grad,
            isinstance(second, Tensor) and second.requires_grad,
        )
        self.recorder.now.losses.append(call)
        return call

    def _difference(self, args: Any, result: Any) -> None:
        """Two columns of N values whose difference has N x N of them."""
        if len(args) < 2 or not all(isinstance(each, Tensor) for each in args[:2]):
            return
        a, b = args[0], args[1]
        if a.numel() == b.numel() > 1 and result.numel() > a.numel() and a.requires_grad != b.requires_grad:
            self.recorder.now.spread_out.append((tuple(a.shape), tuple(b.shape)))

    def _on_gradients(self, name: str, args: Any) -> None:
        first = args[0][0] if isinstance(args[0], list | tuple) and args[0] else args[0]
        if not isinstance(first, Tensor):
            return
        place = first.data_ptr()
        parameters = self.recorder.parameters.values()
        if any(p.grad is not None and p.grad.data_ptr() == place for p in parameters):
            self.recorder.log("clip" if "clamp" in name else "rescale", limit=None)


@contextmanager
def recording(recorder: Recorder, *, deep: bool = True) -> Iterator[Recorder]:
    """Write down what happens inside; afterwards no hook and no wrapper is left.

    deep: also see the single functions of torch (which costs time); without it only the calls' order.
    """
    with ExitStack() as stack:
        _hook_modules(recorder, stack)
        _hook_gradients(recorder, stack)
        for owner, name, wrapper in _wrappers(recorder):
            _replace(stack, owner, name, wrapper)
        handles = [
            register_optimizer_step_pre_hook(recorder.before_update),
            register_optimizer_step_post_hook(recorder.after_update),
        ]
        for handle in handles:
            stack.callback(handle.remove)
        if deep:
            stack.enter_context(_Calls(recorder))
        yield recorder


def _hook_modules(recorder: Recorder, stack: ExitStack) -> None:
    model = recorder.model
    handles = [part.register_forward_hook(recorder.after_part) for part in model.modules()]
    handles.append(model.register_forward_pre_hook(recorder.before_forward))
    handles.append(model.register_forward_hook(recorder.after_forward, with_kwargs=True))
    if isinstance(recorder.criterion, nn.Module):
        handles.append(recorder.criterion.register_forward_hook(recorder.after_criterion))
    for handle in handles:
        stack.callback(handle.remove)


def _hook_gradients(recorder: Recorder, stack: ExitStack) -> None:
    for parameter in recorder.parameters.values():
        if parameter.requires_grad and parameter.is_leaf:
            handle = parameter.register_post_accumulate_grad_hook(recorder.accumulated)
            stack.callback(handle.remove)


def _replace(stack: ExitStack, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    own = name in vars(owner)
    original = getattr(owner, name)
    setattr(owner, name, functools.wraps(original)(make(original)))
    stack.callback(setattr, owner, name, original) if own else stack.callback(delattr, owner, name)


def _wrappers(recorder: Recorder) -> Sequence[tuple[Any, str, Callable[[Any], Any]]]:
    """What is replaced, by name, and by what each is replaced."""
    scaler = torch.amp.GradScaler
    found: list[tuple[Any, str, Callable[[Any], Any]]] = [
        (Optimizer, "zero_grad", functools.partial(_zeroing, recorder)),
        (nn.Module, "zero_grad", functools.partial(_zeroing, recorder)),
        (clip_grad, "_clip_grads_with_norm_", functools.partial(_clipping, recorder)),
        (scaler, "scale", functools.partial(_logged, recorder, "scale")),
        (scaler, "unscale_", functools.partial(_logged, recorder, "unscale")),
        (scaler, "step", functools.partial(_logged, recorder, "scaler-step")),
        (scaler, "update", functools.partial(_logged, recorder, "scaler-update")),
        (nn.Module, "register_parameter", functools.partial(_registering, recorder)),
        (Optimizer, "__init__", functools.partial(_building, recorder)),
    ]
    if recorder.scheduler is not None and hasattr(recorder.scheduler, "step"):
        found.append((type(recorder.scheduler), "step", functools.partial(_logged, recorder, "schedule")))
    return found


def _zeroing(recorder: Recorder, original: Any) -> Any:
    def zero_grad(self: Any, *args: Any, **kwargs: Any) -> Any:
        recorder.before_zero()
        result = original(self, *args, **kwargs)
        recorder.after_zero()
        return result

    return zero_grad


def _clipping(recorder: Recorder, original: Any) -> Any:
    def clip(parameters: Any, max_norm: Any, total_norm: Any, *args: Any, **kwargs: Any) -> Any:
        recorder.log("clip", limit=float(max_norm), norm=float(total_norm))
        return original(parameters, max_norm, total_norm, *args, **kwargs)

    return clip


def _logged(recorder: Recorder, kind: str, original: Any) -> Any:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(self, "_enabled", True):
            recorder.log(kind, value=_number(args[0]) if args else None)
        recorder.scaling = kind == "scaler-step"
        try:
            return original(self, *args, **kwargs)
        finally:
            recorder.scaling = False

    return method


def _registering(recorder: Recorder, original: Any) -> Any:
    def register(self: Any, name: str, param: Any) -> None:
        if recorder.depth and param is not None:
            recorder.made.add(type(self).__name__)
        original(self, name, param)

    return register


def _building(recorder: Recorder, original: Any) -> Any:
    def build(self: Any, *args: Any, **kwargs: Any) -> None:
        recorder.built_optimizers += 1
        original(self, *args, **kwargs)

    return build
