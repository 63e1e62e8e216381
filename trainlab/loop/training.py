"""`train`, the stream of events, and `fit`, which hands it to observers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from torch.optim.lr_scheduler import ReduceLROnPlateau

from ..data.batches import epoch_batches
from ..errors import TrainlabError
from ..events import STOP, Event, History, Restarted, Validation
from ..losses import LossFunction
from ..precision import choose_device
from ..state import TrainState, Update
from .config import TrainConfig
from .evaluation import evaluate
from .finite import DeferredWatch
from .run import Run
from .step import whole_step

Observer = Callable[[Event], object]


def train(
    state: TrainState,
    loader: Iterable[Any],
    loss_fn: LossFunction,
    config: TrainConfig,
    *,
    valid: Iterable[Any] | None = None,
) -> Iterator[Event]:
    """Train `state` on the batches of `loader`, yielding an event after each step and validation.

    loader, valid: from `make_loader` (then the run can go on from any batch exactly), or any
    iterable of batches, such as a torch DataLoader (then a broken-off epoch is gone through again up
    to the place, in whatever order it gives).
    loss_fn: `loss_fn(model, batch)` gives a `Loss`, or a scalar, taken as a mean over the batch's rows.
    Raises TrainlabError if an argument cannot be right, if the run is already finished, or, naming
    step and layer, if a loss is not finite; the state is then as it was before that step.
    """
    if not isinstance(state, TrainState):
        raise TrainlabError(f"state is a {type(state).__name__}: make a TrainState(model, optimizer) first")
    if not isinstance(config, TrainConfig):
        raise TrainlabError(f"config is a {type(config).__name__}: use TrainConfig(epochs=...)")
    if not callable(loss_fn):
        raise TrainlabError(f"loss_fn is a {type(loss_fn).__name__}: give a function of (model, batch)")
    for name, batches in {"loader": loader, "valid": valid}.items():
        if batches is not None and not isinstance(batches, Iterable):
            raise TrainlabError(f"{name} is a {type(batches).__name__}, not batches: use make_loader(...)")
    state.check()
    run = Run(state, loader, loss_fn, config, valid, choose_device(config.device), Update(state))
    _refuse_finished(run)
    return _stream(run)


def _refuse_finished(run: Run) -> None:
    if run.validation_due() or not run.finished():
        return
    what = "epochs" if run.config.epochs is not None else "steps"
    limit = getattr(run.config, what)
    done = run.state.epoch if what == "epochs" else run.state.step
    raise TrainlabError(
        f"already at {what[:-1]} {done} of {limit}: raise {what} above {done}, or make a new TrainState"
    )


def _stream(run: Run) -> Iterator[Event]:
    run.prepare()
    run.watch = _deferred_watch(run)
    try:
        while True:
            run.update.hold()
            if run.validation_due():
                yield _validate(run)
            if run.finished():
                return
            yield from _epoch(run)
    finally:
        run.update.release()
        if run.watch is not None:  # a consumer that leaves early finds the state of the last good step
            run.watch.roll_back()


def _deferred_watch(run: Run) -> DeferredWatch | None:
    every = run.config.check_every or (1 if run.device.type == "cpu" else 16)
    skips = getattr(run.state.optimizer, "_step_supports_amp_scaling", False)
    return DeferredWatch(run, every) if every > 1 and skips and run.state.scaler is None else None


def _validate(run: Run) -> Validation:
    state = run.state
    metrics = evaluate(
        state.model, run.valid or (), run.loss_fn, precision=run.config.precision, device=run.device
    )
    with run.update:
        if isinstance(state.scheduler, ReduceLROnPlateau):
            state.scheduler.step(metrics["loss"])
        state.validated = state.step
    return Validation(state.step, state.epoch + (state.samples > 0), metrics)


def _epoch(run: Run) -> Iterator[Event]:
    """The steps of the epoch from the current position on, up to its end or the next validation."""
    state = run.state
    total = run.total_steps()
    run.buffers = list(state.model.buffers())
    batches = epoch_batches(run.loader, state.epoch, state.samples)
    while True:
        if state.controls_changed:
            yield from state.apply_controls()
        step = whole_step(run, batches, total)
        pause = step is None or run.finished() or run.validation_due()
        if run.watch is not None and (pause or run.watch.full) and (bad := run.watch.roll_back()):
            run.watch, run.restarts = None, run.restarts + 1  # from here on every step is looked at
            yield Restarted(run.restarts, bad - 1)
            return  # the position went back: the epoch is opened anew from there
        if step is None:
            _close_epoch(run)
            return
        yield step
        if pause:
            return


def _close_epoch(run: Run) -> None:
    state = run.state
    if state.samples == 0:
        raise TrainlabError(
            f"the loader gave no batches in epoch {state.epoch + 1}: an iterator that is used up cannot "
            "serve a second epoch; give a loader that can be gone through again"
        )
    with run.update:
        state.epoch += 1
        state.samples = 0


def fit(
    state: TrainState,
    loader: Iterable[Any],
    loss_fn: LossFunction,
    config: TrainConfig,
    *,
    valid: Iterable[Any] | None = None,
    observers: Sequence[Observer] = (),
) -> History:
    """Run `train` to its end and hand each event to the observers, the history first.

    An observer that returns STOP ends the run once all have seen the event; one with
    `runs_last = True` (a checkpointer) sees it after the others; one with a `close` method is closed
    at the end.  Returns `state.history`, the events of earlier sessions included.
    Raises TrainlabError naming an observer that failed; the run's state survives.
    """
    for observer in observers:
        if not callable(observer):
            raise TrainlabError(
                f"observer {observer!r} cannot be called: pass a function of one event, or an instance "
                "such as Progress()"
            )
    state.attach(observers)
    ordered = sorted(observers, key=lambda observer: bool(getattr(observer, "runs_last", False)))
    try:
        for event in train(state, loader, loss_fn, config, valid=valid):
            state.history.append(event)
            answers = [_tell(observer, event) for observer in ordered]
            if any(answer is STOP for answer in answers):
                break
    finally:
        for observer in ordered:
            if hasattr(observer, "close"):
                observer.close()
    return state.history


def _tell(observer: Observer, event: Event) -> object:
    try:
        return observer(event)
    except TrainlabError:
        raise
    except Exception as error:
        name = getattr(observer, "__name__", type(observer).__name__)
        raise TrainlabError(
            f"observer {name} failed at step {event.step} ({type(error).__name__}: {error}): "
            "mend or remove it and run again; the run goes on from there"
        ) from error
