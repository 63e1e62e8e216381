"""The one thread that moves every live run on, and what it can drive."""

from __future__ import annotations

import atexit
import contextlib
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Generator, Iterator
from time import perf_counter
from typing import Any

import torch

from ..errors import TrainlabError
from ..randomness import get_rng_state, set_rng_state

FRAME_SECONDS = 0.09  # ten a second, and a bit: a step that is under way ends before the picture comes
_TURN_SECONDS = 0.015
_SWITCH_SECONDS = 0.001  # Python's 5 ms, several times over, is what a moved slider would wait for
_FRAME_SHARE = 0.06  # of the time, at most, that goes into pictures

Order = Callable[[], None]
_JOBS: weakref.WeakSet[Job] = weakref.WeakSet()


class Job:
    """A generator that is drained in the background: started, paused, stepped and stopped at will.

    Only the drainer touches the generator. The methods may be called from any thread: they leave an
    order, and wait until it is carried out unless `wait=False` (what a widget's handler has to say,
    since it may run while a cell does).
    status: "ready", "running", "paused", "finished", "stopped" or "failed".
    error: the sentence that ended it, or "".
    pace: least seconds from one item to the next, so that an eye can follow; 0 goes as fast as it can.
    on_frame: called with the job, from the drainer's thread, at most eleven times a second while it
    runs and at once when something changed; it may read everything and set traits, nothing else.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.status = "ready"
        self.error = ""
        self.on_frame: list[Callable[[Any], None]] = []
        self._orders: list[Order] = []
        self._stream: Iterator[Any] | None = None
        _JOBS.add(self)
        self._steps = 0  # still to go before a pause, where steps were asked for
        self._rng = get_rng_state()
        # a new thread would begin with every core, and round otherwise
        self._threads = torch.get_num_threads()
        self._next_frame = 0.0
        self.hurried = False  # the picture at hand was asked for at once
        self.pace = 0.0
        self._due = 0.0

    def start(self, *, wait: bool = True) -> None:
        """Go on from where it stands; nothing happens if it is going already."""
        self._order(self._start, wait)

    def pause(self, *, wait: bool = True) -> None:
        """Stand still after the current event; `start` goes on from there."""
        self._order(lambda: self._set("paused") if self.status == "running" else None, wait)

    def step(self, count: int = 1, *, wait: bool = True) -> None:
        """Take `count` steps, then stand still."""
        self._order(lambda: self._start(count), wait)

    def stop(self, *, wait: bool = True) -> None:
        """End it: the generator is closed, what it holds is given back."""
        self._order(self._stop, wait)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until it runs no more (a cell that waits gives it the floor); whether it came to that."""
        return DRAINER.until(lambda: self.status != "running" and not self._orders, seconds)

    def drain(self) -> None:
        """Run it to its end in this thread, as without a panel; errors are raised."""
        with DRAINER.floor(self):
            self._orders.append(self._start)
            try:
                while self.busy:
                    self.advance(lambda: False)  # not paced: nobody watches
            except BaseException:  # an interrupt: the generator is lost, what it moved is whole
                self._close()
                self.status = "paused"
                raise
        if self.status == "failed":
            raise TrainlabError(self.error)

    @property
    def busy(self) -> bool:
        """Whether there is anything to do for the drainer."""
        return bool(self._orders) or self.status == "running"

    @property
    def waits(self) -> float:
        """Seconds until it is due again (0 or less: now)."""
        return 0.0 if self._orders else self._due - perf_counter()

    def advance(self, enough: Callable[[], bool]) -> None:
        """Carry out the orders, then take items until `enough`; called with the job's own randomness."""
        while True:
            self._obey()
            if self.status != "running":
                return
            try:
                self._next()
            except Exception as error:
                self._fail(error)
            if self.status == "running" and perf_counter() >= self._next_frame:
                self.frame()
            self._due = perf_counter() + self.pace
            if self.pace or enough():
                return

    def frame(self) -> None:
        """Have the picture drawn from what is known now."""
        began = perf_counter()
        self.hurried = self._next_frame == 0.0 or self.status != "running"
        try:
            for draw in self.on_frame:
                draw(self)
        except Exception as error:  # a picture that fails must not end the run
            self.error = f"the picture could not be drawn ({type(error).__name__}: {error})"
        now = perf_counter()
        self._next_frame = began + max(FRAME_SECONDS, (now - began) / _FRAME_SHARE)

    # --- for subclasses

    def _open(self) -> Iterator[Any]:
        raise NotImplementedError

    def _take(self, item: Any) -> bool:
        """Note one item; whether it counts as a step."""
        raise NotImplementedError

    # --- carried out by the drainer

    def _next(self) -> None:
        if self._stream is None:
            self._stream = self._open()
        try:
            item = next(self._stream)
        except StopIteration as end:
            self._stream = None
            self._ended(end.value)
            self._set("finished")
            return
        if self._take(item) and self._steps:
            self._steps -= 1
            if not self._steps:
                self._set("paused")

    def _ended(self, value: Any) -> None:
        """The generator came to its end and returned `value`."""

    def _start(self, count: int = 0) -> None:
        self._steps = count
        self.error = ""
        self.status = "running"

    def _stop(self) -> None:
        self._close()
        if self.status in ("running", "paused"):
            self._set("stopped")

    def _close(self) -> None:
        stream, self._stream = self._stream, None
        if isinstance(stream, Generator):
            stream.close()

    def _set(self, status: str) -> None:
        self.status = status
        self.frame()
        DRAINER.tell()

    def _fail(self, error: Exception) -> None:
        self._close()
        own = isinstance(error, TrainlabError)
        self.error = str(error) if own else f"{type(error).__name__}: {error}"
        self._set("failed")

    def _obey(self) -> None:
        while self._orders:
            order = self._orders[0]
            try:
                order()
            except Exception as error:
                self._fail(error)
            finally:
                self._orders.pop(0)  # only now: whoever waits looks whether it is left
                DRAINER.tell()

    def _order(self, order: Order, wait: bool) -> None:
        self._orders.append(order)
        DRAINER.drive(self)
        if wait and not DRAINER.is_this_thread():
            DRAINER.until(lambda: order not in self._orders, None)


class Task(Job):
    """Work that comes as a generator, such as a range test: `open` makes it, `take` gets each item.

    result: what the generator returned, None before its end.  Started again, it begins anew.
    """

    def __init__(
        self, name: str, open: Callable[[], Generator[Any, None, Any]], take: Callable[[Any], None]
    ) -> None:
        super().__init__(name)
        self.result: Any = None
        self._make, self._note = open, take

    def _open(self) -> Iterator[Any]:
        self.result = None
        return self._make()

    def _take(self, item: Any) -> bool:
        self._note(item)
        return True

    def _ended(self, value: Any) -> None:
        self.result = value


class Drainer:
    """One daemon thread for all jobs of the process, alive only while there is something to do.

    Jobs take turns, each with its own random state, so that each goes as it would alone. While a
    notebook cell runs, jobs stand still: cell and jobs share the default generators.
    """

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._jobs: list[Job] = []
        self._thread: threading.Thread | None = None
        self._inside = False
        self.cell_runs = False
        self._lent = 0  # a cell that waits for a job lends it the floor
        self._wanted = 0  # others who wait for the floor
        self._watched_shell: Any = None
        self._closing = False
        self._usual_switch = sys.getswitchinterval()
        atexit.register(self.shut)

    def shut(self) -> None:
        """End the thread and close every generator, before Python takes its modules apart."""
        with self._change:
            self._closing = True
            self._change.notify_all()
            self._change.wait_for(lambda: not self._inside, timeout=5)
        for job in [*_JOBS]:
            job._close()

    def drive(self, job: Job) -> None:
        """Take care of a job that has something to do."""
        self.watch_cells()
        with self._change:
            if job not in self._jobs:
                self._jobs.append(job)
            if self._thread is None and not self._closing:
                self._usual_switch = sys.getswitchinterval()
                sys.setswitchinterval(_SWITCH_SECONDS)
                self._thread = threading.Thread(target=self._loop, name="trainlab-live", daemon=True)
                self._thread.start()
            self._change.notify_all()

    def is_this_thread(self) -> bool:
        """Whether the caller is the drainer itself."""
        return threading.current_thread() is self._thread

    def until(self, done: Callable[[], bool], seconds: float | None) -> bool:
        """Wait until `done`, letting jobs run even though a cell does; False if time ran out."""
        with self._change:
            lends = threading.current_thread() is threading.main_thread()
            self._lent += lends
            self._change.notify_all()
            try:
                return self._change.wait_for(done, seconds)
            finally:
                self._lent -= lends
                # this thread's random state is back once the turn ends; outside of cells it may go on
                self._change.wait_for(lambda: not self._inside or self._goes_on())

    def _goes_on(self) -> bool:
        return not self.cell_runs and any(job.busy for job in self._jobs)

    @contextlib.contextmanager
    def floor(self, job: Job) -> Iterator[None]:
        """Let this thread move `job` on by itself, with the job's random state."""
        with self._change:
            self._wanted += 1
            self._change.wait_for(lambda: not self._inside)
            self._inside = True
            self._wanted -= 1
        try:
            with own_state(job):
                yield
        finally:
            with self._change:
                self._inside = False
                if job in self._jobs and not job.busy:
                    self._jobs.remove(job)
                self._change.notify_all()

    def tell(self) -> None:
        """Let those who wait look again."""
        with self._change:
            self._change.notify_all()

    def pause_all(self) -> None:
        """Have every running job stand still (an interrupt of the kernel)."""
        for job in [*self._jobs]:
            job.pause(wait=False)

    def _loop(self) -> None:
        while True:
            with self._change:
                self._jobs = [job for job in self._jobs if job.busy]
                if not self._jobs or self._closing:
                    self._thread = None
                    sys.setswitchinterval(self._usual_switch)
                    self._change.notify_all()
                    return
                if self._wanted or (self.cell_runs and not self._lent) or self._inside:
                    self._change.wait()
                    continue
                job = min(self._jobs, key=lambda job: max(job.waits, 0.0))  # the first of those due
                if job.waits > 0:
                    self._change.wait(job.waits)
                    continue
                self._jobs.remove(job)
                self._jobs.append(job)  # to the end of the row: they take turns
                self._inside = True
            try:
                with own_state(job):
                    job.advance(self._enough(perf_counter()))
            finally:
                with self._change:
                    self._inside = False
                    self._change.notify_all()

    def _enough(self, began: float) -> Callable[[], bool]:
        """Whether a turn is over: somebody asks for the floor, or others wait and time is up."""

        def over() -> bool:
            if self._wanted or self._closing or (self.cell_runs and not self._lent):
                return True
            return len(self._jobs) > 1 and perf_counter() - began > _TURN_SECONDS

        return over

    # --- cells and interrupts of a notebook kernel

    def watch_cells(self) -> None:
        """From here on stand still while a cell runs, and pause where the kernel is interrupted."""
        shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
        if shell is None or shell is self._watched_shell:
            return
        if threading.current_thread() is not threading.main_thread():
            return
        self._watched_shell = shell
        self.cell_runs = True  # the one that calls this
        shell.events.register("pre_run_cell", self._cell_begins)
        shell.events.register("post_run_cell", self._cell_ends)
        kernel = getattr(shell, "kernel", None)
        if kernel is not None and getattr(kernel, "saved_sigint_handler", None) is signal.SIG_IGN:
            # what an idle kernel does with an interrupt: nothing, by itself
            kernel.saved_sigint_handler = lambda number, frame: self.pause_all()

    def _cell_begins(self, info: Any = None) -> None:
        with self._change:
            self.cell_runs = True
            self._change.wait_for(lambda: not self._inside)

    def _cell_ends(self, result: Any = None) -> None:
        if isinstance(getattr(result, "error_in_exec", None), KeyboardInterrupt):
            self.pause_all()
        with self._change:
            self.cell_runs = False
            self._change.notify_all()


@contextlib.contextmanager
def own_state(job: Job) -> Iterator[None]:
    """The job's random state and thread count in the place of this thread's."""
    outside, threads = get_rng_state(), torch.get_num_threads()
    set_rng_state(job._rng)
    if threads != job._threads:
        torch.set_num_threads(job._threads)
    try:
        yield
    finally:
        job._rng = get_rng_state()
        if threads != job._threads:
            torch.set_num_threads(threads)
        set_rng_state(outside)


DRAINER = Drainer()
