"""What a run is made of: model, optimizer, schedule, position, controls, history."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import FrameType, TracebackType
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from .errors import TrainlabError, unknown_name
from .events import Changed, History
from .randomness import get_rng_state, set_rng_state

Scheduler = LRScheduler | ReduceLROnPlateau


@dataclass
class Controls:
    """What may be changed while a run goes on; `train` reads them at the start of each step.

    lr_scale: factor on the schedule's learning rate.  momentum: SGD's, or Adam's first beta.
    weight_decay: for the parameter groups that have one.  clip_norm: takes the place of the
    configuration's.  dropout: the probability in every dropout layer.  None leaves things as they are.
    Raises TrainlabError at once on a value out of range; the old value stays.
    """

    lr_scale: float = 1.0
    momentum: float | None = None
    weight_decay: float | None = None
    clip_norm: float | None = None
    dropout: float | None = None

    def __setattr__(self, name: str, value: float | None) -> None:
        low_high = _CONTROL_RANGES.get(name)
        if low_high is None:
            raise unknown_name("control", name, _CONTROL_RANGES)
        low, high = low_high
        fits = value is None if name != "lr_scale" else False
        if not fits and not (isinstance(value, int | float) and low <= value < high):
            raise TrainlabError(
                f"controls.{name}={value!r} is outside [{low:g}, {high:g}): the old value stays"
            )
        super().__setattr__(name, value)


_CONTROL_RANGES = {
    "lr_scale": (0.0, float("inf")),
    "momentum": (0.0, 1.0),
    "weight_decay": (0.0, float("inf")),
    "clip_norm": (0.0, float("inf")),
    "dropout": (0.0, 1.0),
}


class Stateful(Protocol):
    """An observer that is saved with the run."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class TrainState:
    """Everything that a run changes, in one place: hand the same one to `train` again and it goes on.

    model, optimizer, scheduler: torch's own; the schedule steps with the optimizer, a
    ReduceLROnPlateau with each validation.
    step: optimizer steps so far.  epoch: epochs completed.  samples: rows consumed of the current one.
    controls: what may change during the run.  history: all events of the run so far.
    applied: the controls that the run goes by.
    updating: True only while the update itself is under way; a state left so by an error is
    part old, part new, and is refused.
    look: where losses are looked at late (`DeferredWatch`), whether a bad one is among the last steps.
    Raises TrainlabError if nothing in the model can be trained, or the optimizer holds none of it.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, scheduler: Scheduler | None = None
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.scaler: torch.amp.GradScaler | None = None
        self.controls = Controls()
        self.history = History()
        self.step = 0
        self.epoch = 0
        self.samples = 0
        self.validated = 0
        self.updating = False
        self.look: Callable[[], bool] | None = None
        self.applied = Controls()
        self._decayed: set[int] = set()
        self._observers: dict[str, Stateful] = {}
        self._observer_states: dict[str, Any] = {}
        self.check()
        self._decayed |= _decayed_groups(optimizer)

    def check_whole(self) -> None:
        """Raise TrainlabError if an update was broken off half-way."""
        if self.updating:
            raise TrainlabError(
                f"the update after step {self.step} was broken off half-way: load the last checkpoint, "
                "or make a new TrainState"
            )

    @property
    def doubtful(self) -> bool:
        """Whether a loss of the last steps was not finite, so that they will be taken back."""
        return self.look is not None and self.look()

    def check(self) -> None:
        """Raise TrainlabError unless an update can be made: whole, and wired to the model."""
        self.check_whole()
        for name, part, kind in (
            ("model", self.model, nn.Module),
            ("optimizer", self.optimizer, torch.optim.Optimizer),
        ):
            if not isinstance(part, kind):
                what = part.__name__ if isinstance(part, type) else f"a {type(part).__name__}"
                raise TrainlabError(
                    f"{name} is {what}, not a {kind.__name__} object: give TrainState(model, optimizer)"
                )
        trainable = {id(p) for p in self.model.parameters() if p.requires_grad}
        if not trainable:
            raise TrainlabError(
                f"no parameter of {type(self.model).__name__} requires a gradient: unfreeze some layers"
            )
        held = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        if not trainable & held:
            raise TrainlabError(
                f"the optimizer holds none of the {len(trainable)} trainable parameters of "
                f"{type(self.model).__name__}: build it from model.parameters() of this very model"
            )
        if isinstance(self.optimizer, torch.optim.LBFGS):
            raise TrainlabError(
                "LBFGS evaluates the loss several times a step: use SGD or Adam's family here"
            )
        if self.scheduler is not None and getattr(self.scheduler, "optimizer", None) is not self.optimizer:
            raise TrainlabError("the scheduler belongs to another optimizer: build it from this state's")

    @property
    def controls_changed(self) -> bool:
        """Whether a control differs from what the run goes by."""
        return self.controls != self.applied

    def apply_controls(self) -> list[Changed]:
        """Bring optimizer and model in line with the controls; one event for each that changed."""
        wanted, applied = asdict(self.controls), asdict(self.applied)
        changed = [name for name in wanted if wanted[name] != applied[name]]
        for name in changed:
            if wanted[name] is not None:
                self._apply(name, wanted[name])
        self.applied = Controls(**wanted)
        return [Changed(self.step + 1, name, wanted[name]) for name in changed]

    def _apply(self, name: str, value: float) -> None:
        groups = self.optimizer.param_groups
        if name == "dropout":
            for module in self.model.modules():
                if isinstance(module, nn.modules.dropout._DropoutNd):
                    module.p = value
        elif name == "momentum":
            for group in groups:
                if "betas" in group:
                    group["betas"] = (value, *group["betas"][1:])
                elif "momentum" in group:
                    group["momentum"] = value
        elif name == "weight_decay":
            # groups without decay (biases, norms) keep theirs, unless no group ever had any
            self._decayed |= _decayed_groups(self.optimizer)
            for place in self._decayed or range(len(groups)):
                groups[place]["weight_decay"] = value

    def attach(self, observers: Sequence[Any]) -> None:
        """Save these observers with the run; each goes on from the one that had its place and type before."""
        self._observer_states |= {name: observer.state_dict() for name, observer in self._observers.items()}
        self._observers = {
            f"{place}:{type(observer).__name__}": observer
            for place, observer in enumerate(observers)
            if hasattr(observer, "state_dict") and hasattr(observer, "load_state_dict")
        }
        for name, observer in self._observers.items():
            if name in self._observer_states:
                observer.load_state_dict(self._observer_states.pop(name))

    def position(self) -> dict[str, int]:
        """Where the run is: step, epoch, samples, and the step last validated."""
        return {"step": self.step, "epoch": self.epoch, "samples": self.samples, "validated": self.validated}

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on exactly, the generators included.

        Tensors are those of the run, not copies (as everywhere in torch): `copy.deepcopy` it to keep it.
        """
        self.check_whole()
        if self.doubtful:
            raise TrainlabError(
                f"a loss of the last steps up to {self.step} was not finite, and they will be taken back: "
                "save after the Restarted event"
            )
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler else None,
            "scaler": self.scaler.state_dict() if self.scaler else None,
            "controls": asdict(self.controls),
            "applied": asdict(self.applied),
            "position": self.position(),
            "observers": self._observer_states
            | {name: observer.state_dict() for name, observer in self._observers.items()},
            "history": self.history.state_dict(),
            "rng": get_rng_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` returned.

        Raises TrainlabError, and changes nothing, if it does not fit.
        """
        self._check_fit(state)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        if state["scaler"] is not None:
            self.scaler = torch.amp.GradScaler(next(self.model.parameters()).device.type)
            self.scaler.load_state_dict(state["scaler"])
        else:
            self.scaler = None
        self.controls = Controls(**state["controls"])
        self.applied = Controls(**state["applied"])
        if self.applied.dropout is not None:  # the others are in the optimizer's groups
            self._apply("dropout", self.applied.dropout)
        for name, value in state["position"].items():
            setattr(self, name, value)
        self.history.load_state_dict(state["history"])
        self._observer_states = dict(state["observers"])
        for name in self._observers.keys() & self._observer_states.keys():
            self._observers[name].load_state_dict(self._observer_states.pop(name))
        set_rng_state(state["rng"])
        self.updating = False

    def _check_fit(self, state: Mapping[str, Any]) -> None:
        ours, theirs = _shapes(self.model.state_dict()), _shapes(state["model"])
        if ours != theirs:
            name = next(key for key in sorted(ours | theirs) if ours.get(key) != theirs.get(key))
            raise TrainlabError(
                f"{name!r} is {ours.get(name, 'absent')} in the model, {theirs.get(name, 'absent')} in the "
                "saved state: build the model as it was when the run was saved"
            )
        saved = [len(group["params"]) for group in state["optimizer"]["param_groups"]]
        held = [len(group["params"]) for group in self.optimizer.param_groups]
        if saved != held:
            raise TrainlabError(
                f"the optimizer holds {held} parameters a group, the saved one {saved}: build it as it was"
            )
        options = [sorted(group.keys() - {"initial_lr"}) for group in state["optimizer"]["param_groups"]]
        if options != [sorted(group.keys() - {"initial_lr"}) for group in self.optimizer.param_groups]:
            raise TrainlabError(
                f"the saved optimizer has other settings than this {type(self.optimizer).__name__}: "
                "build the one that the run was saved with"
            )
        if (self.scheduler is None) != (state["scheduler"] is None):
            has = "has none" if self.scheduler is None else "has one"
            raise TrainlabError(f"the saved run and this state differ in the scheduler: this state {has}")

    def __repr__(self) -> str:
        return (
            f"TrainState({type(self.model).__name__}, {type(self.optimizer).__name__}, "
            f"step={self.step}, epoch={self.epoch}, samples={self.samples})"
        )


def _shapes(weights: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Of all tensors: a module may keep other things in its state as well."""
    return {name: tuple(value.shape) for name, value in weights.items() if isinstance(value, torch.Tensor)}


def _decayed_groups(optimizer: torch.optim.Optimizer) -> set[int]:
    return {place for place, group in enumerate(optimizer.param_groups) if group.get("weight_decay")}


class Update:
    """The bracket around the updates of a run: a keyboard interrupt waits until the update is whole.

    After `hold`, SIGINT in the main thread is kept back inside the bracket and delivered by `told`,
    once the consumer has the event that tells of the update: no event is lost. With `until_told` one
    that comes between the two waits as well (the second one does not).
    Whatever else breaks an update off leaves `state.updating` True, and the state is refused from then on.
    """

    def __init__(self, state: TrainState) -> None:
        self.until_told = False
        self._state = state
        self._telling = False
        self._waiting = False
        self._released = False
        self._previous: Any = None
        self._handler = self._on_interrupt  # one object: a bound method is made anew at each access

    def hold(self) -> None:
        """Stand between SIGINT and its handler, if this is the main thread (call it again at will)."""
        if threading.current_thread() is not threading.main_thread():
            return
        current = handler = signal.getsignal(signal.SIGINT)
        # runs that take turns stand behind one another: a second place in the row would close a circle
        while isinstance(other := getattr(handler, "__self__", None), Update):
            if other is self:
                return
            handler = other._previous
        if callable(current):
            self._previous = current
            signal.signal(signal.SIGINT, self._handler)

    def release(self) -> None:
        """Give SIGINT back to the handler found by `hold`."""
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGINT) is self._handler:
            signal.signal(signal.SIGINT, self._previous)
        self._released = True
        self.told()

    def told(self) -> None:
        """The consumer has the last event: deliver the interrupt that waited, if there is one."""
        self._telling = False
        if self._waiting:
            self._waiting = False
            self._previous(signal.SIGINT, None)

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        again, self._waiting = self._waiting, True
        if self._released or not (self._state.updating or (self._telling and not again)):
            self.told()

    def __enter__(self) -> None:
        self._telling = self.until_told
        self._state.updating = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._state.updating = False
