"""One thread that owns the model: continuations wait, are written together, and are told of.

Knows batches; knows nothing of HTTP. Every method may be called from any thread.
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from ..errors import InputError, NeurosteerError
from ..generation.batching.batch import Batch
from ..generation.batching.cache import Caching
from ..generation.batching.pace import Pace
from ..generation.continuation import Continuation, Delta, Limit
from ..models.engine import Engine

SECONDS_TO_GIVE_UP = 5.0
T = TypeVar("T")
logger = logging.getLogger(__name__)


class BusyError(NeurosteerError):
    """Too many continuations wait already."""


class ClosedError(NeurosteerError):
    """No more is taken on: the program is ending."""


class TimeLimitError(NeurosteerError):
    """Nothing was written in time."""


class TooLongError(InputError):
    """A prompt leaves no room in the model's context."""


class Scheduler:
    """Writes what is submitted, in that order as far as there is room, each with its own settings.

    A continuation's `on_delta` is called from the model's thread, and must not block. A cancelled one
    is written no further.
    """

    def __init__(self, engine: Engine, *, max_batch: int = 32, max_waiting: int = 64) -> None:
        """Start the thread: continuations written at a time, and those that may wait for a place."""
        self.engine, self.max_batch, self.max_waiting = engine, max_batch, max_waiting
        self.pace = Pace()
        self._batch = Batch(engine, max_batch, pace=self.pace)
        self._waiting: deque[Continuation] = deque()
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._closing = self._given_up = False
        self._seconds_to_close = 0.0
        self._is_calling = False
        self._seconds_each = 0.0  # between two ends of continuations while there is work, of late
        self._last_end = self._last_round = time.monotonic()
        self._changed = threading.Condition(threading.RLock())
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    @property
    def n_running(self) -> int:
        return len(self._batch)

    @property
    def n_waiting(self) -> int:
        return len(self._waiting)

    @property
    def is_busy(self) -> bool:
        """Whether anything is written, waits to be, or is computed."""
        return bool(self._batch or self._waiting or self._calls or self._is_calling)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def submit(self, continuations: Sequence[Continuation]) -> None:
        """Take on all of these, or none.

        Raises:
            BusyError: there is no room for them to wait.
            ClosedError: the scheduler is being closed.
        """
        with self._changed:
            self._check_open()
            free = self.max_batch - self.n_running
            if self.n_waiting + len(continuations) > self.max_waiting + free:
                raise BusyError(
                    f"{self.n_waiting} continuations wait already, at most {self.max_waiting} may; "
                    "try again later"
                )
            self._waiting.extend(continuations)
            self._changed.notify()

    def call(self, function: Callable[[], T]) -> "Future[T]":
        """Run a function on the model's thread, between two tokens."""
        future: Future[T] = Future()
        with self._changed:
            self._check_open()
            self._calls.append((function, future))
            self._changed.notify()
        return future

    def retry_after(self) -> int:
        """Seconds after which it is worth asking again, 1 to 60."""
        return min(60, max(1, math.ceil(self._seconds_each * (1 + self.n_waiting / 2))))

    def close(self, wait: float) -> None:
        """Take on no more, finish what is there, and end the thread; after `wait` seconds give up."""
        with self._changed:
            self._closing, self._seconds_to_close = True, wait
            self._cancel_calls()
            self._changed.notify()
        self._thread.join(wait)
        self._given_up = True
        self._thread.join(SECONDS_TO_GIVE_UP)

    @property
    def caching(self) -> Caching:
        return self._batch.caching

    def yield_to_batch(self) -> None:
        """For a long call, between its parts: give what is being written a token, or give the call up.

        Of prompts that wait a slice is read as well. A call whose part was short goes on at once.
        """
        if self._given_up:
            raise ClosedError("shut down before it was finished")
        if time.monotonic() - self._last_round < self.pace.step / 2:
            return
        self._batch.let_wait()
        self._round()
        if self._batch.is_reading:
            self._round()
            self._batch.let_wait()
            self._round()

    def _check_open(self) -> None:
        if self._closing:
            raise ClosedError("shutting down; nothing new is taken on")

    def _cancel_calls(self) -> None:
        for _, future in self._calls:
            future.cancel()

    # --- on the model's thread -----------------------------------------------------------------

    def _work(self) -> None:
        try:
            while self._wait():
                if self._calls:
                    self._is_calling = True
                    _run(*self._calls.popleft())
                    self._is_calling = False
                self._round()
        except BaseException as error:  # a bug: nobody is to wait for ever
            logger.exception("the model's thread has ended")
            with self._changed:
                self._closing = True
                self._cancel_calls()
                self._fail_all(error)

    def _wait(self) -> bool:
        """Wait for something to do; whether there is."""
        with self._changed:
            while not (self._batch or self._waiting or self._calls or self._closing):
                self._changed.wait()
                self._last_end = time.monotonic()
            if self._given_up:
                self._end_all(Limit("shutdown", self._seconds_to_close))
            return bool(self._batch or self._waiting or self._calls)

    def _round(self) -> None:
        """Let go of those whose time is over, let in others, write a token."""
        with self._changed:
            self._expire()
            self._batch.admit(self._waiting)
        if self._batch:
            n_running = self.n_running
            self._step()
            self._note_ends(n_running - self.n_running)
        self._last_round = time.monotonic()

    def _expire(self) -> None:
        now = time.monotonic()
        for continuation in self._continuations():
            if continuation.deadline < now and not continuation.finish_reason:
                _cut_off(continuation, Limit("time_limit", continuation.time_limit))
        self._waiting = deque(each for each in self._waiting if not each.finish_reason)

    def _step(self) -> None:
        try:
            deltas = self._batch.step()
        except Exception as error:  # a bug, or no memory: those being written are lost, the rest goes on
            logger.exception("a step of the model failed")
            deltas = [(continuation, Delta(error=error)) for continuation in self._batch.continuations]
            self._batch = Batch(self.engine, self.max_batch, pace=self.pace)
        for continuation, delta in deltas:
            _tell(continuation, delta)

    def _note_ends(self, n: int) -> None:
        for _ in range(n):
            now = time.monotonic()
            weight = 0.1 if self._seconds_each else 1.0
            self._seconds_each += weight * (min(60.0, now - self._last_end) - self._seconds_each)
            self._last_end = now

    def _continuations(self) -> list[Continuation]:
        return [*self._batch.continuations, *self._waiting]

    def _end_all(self, limit: Limit) -> None:
        for continuation in self._continuations():
            if not continuation.finish_reason:
                _cut_off(continuation, limit)
        self._forget_all()

    def _fail_all(self, error: BaseException) -> None:
        for continuation in self._continuations():
            _tell(continuation, Delta(error=error))
        self._forget_all()

    def _forget_all(self) -> None:
        self._batch = Batch(self.engine, self.max_batch, pace=self.pace)
        self._waiting.clear()


def nothing_written(continuations: Sequence[Continuation]) -> NeurosteerError | None:
    """What to say of continuations that have ended, if a limit ended all before anything was written."""
    if any(each.written or not each.limit for each in continuations):
        return None
    limits = {each.limit.name: each.limit for each in continuations if each.limit}
    if "shutdown" in limits:
        return ClosedError("shut down before anything was written")
    if limit := limits.get("time_limit"):
        n_tokens = sum(len(each.ids) for each in continuations)
        return TimeLimitError(
            f"nothing was written within the time limit of {limit.number:g} s: others came first, or "
            f"reading takes longer ({n_tokens} prompt tokens); ask again later, send less to read, or have "
            "the server started with a larger --time-limit"
        )
    return None


def _cut_off(continuation: Continuation, limit: Limit) -> None:
    try:
        delta = continuation.cut_off(limit)
    except Exception as error:  # its text cannot be made; the others' can
        delta = Delta(error=error)
    _tell(continuation, delta)


def _tell(continuation: Continuation, delta: Delta) -> None:
    if not delta:
        return
    try:
        continuation.on_delta(delta)
    except Exception:  # whoever waited is gone
        logger.debug("nobody listens", exc_info=True)


def _run(function: Callable[[], T], future: "Future[T]") -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function())
    except BaseException as error:
        future.set_exception(error)
