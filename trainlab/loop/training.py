"""`train`, the stream of events, and `fit`, which hands it to observers."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

from torch.optim.lr_scheduler import ReduceLROnPlateau

from ..data.batches import epoch_batches
from ..errors import TrainlabError
from ..events import STOP, Event, History, Restarted, Step, Validation
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
    return _stream(_checked_run(state, loader, loss_fn, config, valid))


def _checked_run(
    state: TrainState,
    loader: Iterable[Any],
    loss_fn: LossFunction,
    config: TrainConfig,
    valid: Iterable[Any] | None,
) -> Run:
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
    return run


def _refuse_finished(run: Run) -> None:
    if run.validation_due() or not run.finished():
        return
    what = "epochs" if run.config.epochs is not None else "steps"
    limit = getattr(run.config, what)
    done = run.state.epoch if what == "epochs" else run.state.step
    raise TrainlabError(
        f"already at {what[:-1]} {done} of {limit}: raise {what} above {done}, or make a new TrainState"
    )


def _stream(run: Run) -> Generator[Event, None, None]:
    run.prepare()
    run.watch = _deferred_watch(run)
    run.state.look = run.watch.bad if run.watch is not None else None
    try:
        while True:
            run.update.hold()
            run.update.told()
            if run.validation_due():
                yield _validate(run)
            if run.finished():
                return
            yield from _epoch(run)
    finally:
        # a consumer that leaves early finds the state of the last good step
        if run.watch is not None and not run.state.updating:
            run.watch.roll_back()
        run.state.look = None
        run.update.release()


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
    """The steps of the epoch from the current position on, up to its end, or that of the run."""
    state = run.state
    total = run.total_steps()
    # by name: a model may put a new tensor in a buffer's place
    run.buffers = [(module._buffers, name) for module in state.model.modules() for name in module._buffers]
    batches = epoch_batches(run.loader, state.epoch, state.samples)
    while True:
        run.update.told()
        if state.controls_changed:
            with run.update:
                changes = state.apply_controls()
            yield from changes
        step = whole_step(run, batches, total)
        pause = step is None or run.finished() or run.validation_due()
        if run.watch is not None and (pause or run.watch.full) and (bad := run.watch.roll_back()):
            run.watch, run.state.look = None, None  # from here on every step is looked at
            run.restarts += 1
            yield Restarted(run.restarts, bad - 1)
            return  # the position went back: the epoch is opened anew from there
        if step is None:
            _close_epoch(run)
            return
        yield step
        if run.validation_due():  # here, or a shuffling DataLoader would begin another order
            run.update.told()
            yield _validate(run)
        if run.finished():
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
    _check_observers(observers)
    run = _checked_run(state, loader, loss_fn, config, valid)
    run.update.until_told = True  # an interrupt waits for the observers: none misses an event
    state.attach(observers)
    ordered = sorted(observers, key=lambda observer: bool(getattr(observer, "runs_last", False)))
    stream = _stream(run)
    reached = state.step
    try:
        for event in stream:
            state.history.append(event)
            if isinstance(event, Step):
                reached = event.step
            answers = [_tell(observer, event) for observer in ordered]
            run.update.told()
            if any(answer is STOP for answer in answers):
                break
    finally:
        for observer in ordered:
            if hasattr(observer, "close"):
                observer.close()
        stream.close()
        if state.step < reached:  # closing it took steps back
            state.history.append(Restarted(run.restarts + 1, state.step))
    return state.history


def _check_observers(observers: object) -> None:
    if not isinstance(observers, Sequence):
        raise TrainlabError(
            f"observers is a {type(observers).__name__}: give a list, such as observers=[Progress()]"
        )
    for observer in observers:
        if not callable(observer):
            raise TrainlabError(
                f"observer {observer!r} cannot be called: pass a function of one event, or an instance "
                "such as Progress()"
            )


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
