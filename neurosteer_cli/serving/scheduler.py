"""One thread that owns the model: continuations wait, are written together, and are heard of.

Knows batches and text streams; knows nothing of HTTP. Every method may be called from any thread.
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from ..errors import NeurosteerError
from ..generation.batch import Batch, Continuation
from ..models.engine import Engine
from .writing import Delta, Writing

TOKENS_IN_CACHE = 2**16  # rows of the batch times the tokens each may come to
TOKENS_PER_PASS = 4096  # of prompts that are run together, pads counted
SECONDS_TO_GIVE_UP = 5.0
CUT_OFF = "shut down before it was finished"
T = TypeVar("T")
logger = logging.getLogger(__name__)


class BusyError(NeurosteerError):
    """Too many continuations wait already."""


class ClosedError(NeurosteerError):
    """No more is taken on: the program is ending."""


class TimeLimitError(NeurosteerError):
    """A continuation was not finished in time."""


class Scheduler:
    """Writes what is submitted, in that order as far as there is room, each with its own settings."""

    def __init__(self, engine: Engine, *, max_batch: int = 32, max_waiting: int = 64) -> None:
        """Start the thread.

        Args:
            max_batch: continuations written at a time.
            max_waiting: continuations that may wait for a place.
        """
        self.engine, self.max_batch, self.max_waiting = engine, max_batch, max_waiting
        self.n_tokens_written = 0
        self._batch = Batch(engine)
        self._running: dict[Continuation, Writing] = {}
        self._waiting: deque[Writing] = deque()
        self._cancelled: set[Writing] = set()
        self._jobs: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._closing = self._given_up = False
        self._has_let_in = False  # in the last round
        self._seconds_each = 1.0  # between two ends of continuations, of late
        self._last_end = time.monotonic()
        self._changed = threading.Condition(threading.RLock())
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    @property
    def n_running(self) -> int:
        return len(self._running)

    @property
    def n_waiting(self) -> int:
        return len(self._waiting)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def submit(self, writings: Sequence[Writing]) -> None:
        """Take on all of these, or none.

        Raises:
            BusyError: there is no room for them to wait.
            ClosedError: the scheduler is being closed.
        """
        with self._changed:
            if self._closing:
                raise ClosedError("shutting down; nothing new is taken on")
            free = self.max_batch - len(self._running)
            if len(self._waiting) + len(writings) > self.max_waiting + free:
                raise BusyError(
                    f"{len(self._waiting)} continuations wait already, at most {self.max_waiting} may; "
                    "try again later"
                )
            self._waiting.extend(writings)
            self._changed.notify()

    def cancel(self, writings: Sequence[Writing]) -> None:
        """Write these no further; nothing more is heard of them."""
        with self._changed:
            self._cancelled.update(writings)
            self._changed.notify()

    def call(self, job: Callable[[], T]) -> "Future[T]":
        """Run a job on the model's thread, between two tokens."""
        future: Future[T] = Future()
        with self._changed:
            if self._closing:
                raise ClosedError("shutting down; nothing new is taken on")
            self._jobs.append((job, future))
            self._changed.notify()
        return future

    def retry_after(self) -> int:
        """Seconds after which it is worth asking again, 1 to 60."""
        return min(60, max(1, math.ceil(self._seconds_each * (1 + len(self._waiting) / 2))))

    def close(self, wait: float) -> None:
        """Take on no more, finish what is there, and end the thread; after `wait` seconds give up."""
        with self._changed:
            self._closing = True
            for _, future in self._jobs:
                future.cancel()
            self._jobs.clear()
            self._changed.notify()
        self._thread.join(wait)
        self._given_up = True
        with self._changed:
            self._changed.notify()
        self._thread.join(SECONDS_TO_GIVE_UP)

    def breathe(self) -> None:
        """For a long job, between its parts: write a token of what is being written.

        Raises:
            ClosedError: the job is to be given up.
        """
        if self._given_up:
            raise ClosedError(CUT_OFF)
        self._round()

    # --- on the model's thread -----------------------------------------------------------------

    def _work(self) -> None:
        try:
            while self._wait():
                job = None
                with self._changed:
                    if self._jobs:
                        job = self._jobs.popleft()
                if job:
                    _run(*job)
                self._round()
        except BaseException as error:  # a bug: nobody is to wait for ever
            logger.exception("the model's thread has ended")
            with self._changed:
                self._closing = True
                self._fail_all(error)
                for _, future in self._jobs:
                    future.cancel()

    def _wait(self) -> bool:
        """Wait for something to do; whether there is."""
        with self._changed:
            while not (self._running or self._waiting or self._jobs or self._closing):
                self._changed.wait()
            if self._given_up:
                self._fail_all(ClosedError(CUT_OFF))
            return bool(self._running or self._waiting or self._jobs)

    def _round(self) -> None:
        """Let go of some, let in others, write a token."""
        with self._changed:
            self._drop()
            self._admit()
        if self._running:
            self._step()
        if not self._running:
            self._batch = Batch(self.engine)  # its cache goes

    def _fail_all(self, error: BaseException) -> None:
        with self._changed:
            for one in [*self._running.values(), *self._waiting]:
                self._tell(one, Delta(error=error))
            self._running, self._batch = {}, Batch(self.engine)
            self._waiting.clear()

    def _drop(self) -> None:
        """Let go of what was cancelled and what is late."""
        now = time.monotonic()
        late = [one for one in [*self._running.values(), *self._waiting] if one.deadline < now]
        for one in late:
            if one not in self._cancelled:
                self._tell(one, Delta(error=TimeLimitError("the time limit of a request is over")))
        gone = self._cancelled.union(late)
        if gone:
            self._waiting = deque(one for one in self._waiting if one not in gone)
            for one in gone:
                self._end(one)
        self._cancelled = set()

    def _admit(self) -> None:
        """Let those that wait into the batch, first come first served, while there is room.

        Newcomers hold up the others for a step, so between two lots of them the others have one.
        """
        if self._has_let_in and self._running:
            self._has_let_in = False
            return
        longest = max((one.n_tokens for one in self._running.values()), default=0)
        newcomers: list[Writing] = []
        longest_prompt = 0
        while self._waiting and self._batch.is_open:
            one = self._waiting[0]
            n = len(self._running) + 1
            longest = max(longest, one.n_tokens)
            longest_prompt = max(longest_prompt, len(one.line.ids))
            too_many = n > self.max_batch or n * longest > TOKENS_IN_CACHE
            too_long = (len(newcomers) + 1) * longest_prompt > TOKENS_PER_PASS
            if n > 1 and (too_many or (newcomers and too_long)):
                break
            newcomers.append(self._waiting.popleft())
            self._running[one.line] = one
        self._has_let_in = bool(newcomers)
        self._batch.join(one.line for one in newcomers)

    def _step(self) -> None:
        try:
            steps = self._batch.step()
        except Exception as error:  # a bug, or no memory: those being written are lost, the rest goes on
            logger.exception("a step of the model failed")
            for one in list(self._running.values()):
                self._tell(one, Delta(error=error))
            self._running, self._batch = {}, Batch(self.engine)
            return
        for written in steps:
            one = self._running[written.line]
            try:
                piece = one.take(written)
            except Exception as error:
                logger.exception("a token could not be made text")
                piece = Delta(error=error)
            self.n_tokens_written += written.line.finish_reason != "stop"  # that token is no text
            if piece:
                self._tell(one, piece)
                if piece.finish_reason or piece.error:
                    self._end(one)

    def _end(self, one: Writing) -> None:
        self._batch.leave(one.line)
        if self._running.pop(one.line, None):
            now = time.monotonic()
            self._seconds_each += 0.1 * (min(60.0, now - self._last_end) - self._seconds_each)
            self._last_end = now

    def _tell(self, one: Writing, piece: Delta) -> None:
        try:
            one.hear(piece)
        except Exception:  # whoever waited is gone
            logger.debug("nobody hears", exc_info=True)


def _run(job: Callable[[], T], future: "Future[T]") -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(job())
    except BaseException as error:
        future.set_exception(error)
