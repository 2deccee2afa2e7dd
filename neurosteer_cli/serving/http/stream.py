"""Answers over HTTP: their deltas as one body or as server-sent events, until the client leaves.

Knows FastAPI and asyncio; what an answer looks like is the protocol's.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable
from functools import partial
from typing import TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from ...generation.continuation import Delta
from ..protocol.text import Answer
from ..scheduler import Scheduler, nothing_written
from .errors import refusal_of
from .middleware import Metrics

CLIENT_LEFT = 499  # nobody reads it
SECONDS_BETWEEN_LOOKS = 0.2  # whether a client is still there
SECONDS_BETWEEN_COMMENTS = 10.0  # proxies close a connection on which nothing comes, often after 60
T = TypeVar("T")
logger = logging.getLogger(__name__)


class Responder:
    """Has answers written, and sends them as a whole or as a stream."""

    def __init__(self, scheduler: Scheduler, metrics: Metrics) -> None:
        self.scheduler, self.metrics = scheduler, metrics

    async def respond(self, request: Request, answer: Answer) -> Response:
        request.state.answer = answer  # for the log
        writing = Writing(answer, self.metrics)
        self.scheduler.submit(answer.continuations)
        headers = {"x-request-id": answer.id}
        if answer.request.stream:
            headers |= {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
            return _Stream(request, writing, headers)
        try:
            choices = await unless_client_leaves(request, writing.choices())
        finally:
            writing.end()
        if choices is None:
            return Response(status_code=CLIENT_LEFT)
        return JSONResponse(answer.whole(choices), headers=headers)


class Writing:
    """An answer while it is written. Whoever stops reading ends it, and with it what is not written yet."""

    def __init__(self, answer: Answer, metrics: Metrics) -> None:
        self.answer, self.metrics, self.start = answer, metrics, time.monotonic()
        self._n_unfinished = len(answer.continuations)
        self._arrivals: asyncio.Queue[tuple[int, Delta]] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def on_delta(choice: int, delta: Delta) -> None:  # on the model's thread
            loop.call_soon_threadsafe(self._arrivals.put_nowait, (choice, delta))

        for choice, continuation in enumerate(answer.continuations):
            continuation.on_delta = partial(on_delta, choice)

    async def deltas(self) -> AsyncIterator[tuple[int, Delta] | None]:
        """(choice, delta) as they come, up to each choice's last; None where nothing comes for a while.

        Raises:
            TimeLimitError, ClosedError: a limit ended the last choice, and nothing was written of any.
        """
        is_first = True
        while self._n_unfinished:
            try:
                choice, delta = await asyncio.wait_for(self._arrivals.get(), SECONDS_BETWEEN_COMMENTS)
            except asyncio.TimeoutError:
                yield None
                continue
            if is_first:
                self.metrics.first_token.observe(time.monotonic() - self.start)
                is_first = False
            self._n_unfinished -= delta.finish_reason is not None
            if error := self._error(delta):
                self._n_unfinished = 0
                raise error
            yield choice, delta

    async def choices(self) -> list[list[Delta]]:
        """All deltas of each choice."""
        found: list[list[Delta]] = [[] for _ in self.answer.continuations]
        async for arrival in self.deltas():
            if arrival:
                found[arrival[0]].append(arrival[1])
        await self.score()
        return found

    async def score(self) -> None:
        """Have all that is written scored, where that is asked for."""
        if self.answer.scorer:
            texts = [each.text for each in self.answer.continuations]
            found = await asyncio.wrap_future(self.answer.scorer(texts))
            self.answer.scores.extend(found)

    def end(self) -> None:
        """Write it no further, and count it."""
        if self._n_unfinished:
            self.metrics.cancelled.inc()
        for continuation in self.answer.continuations:
            continuation.cancel()
        self.metrics.note_end(self.answer.usage, time.monotonic() - self.start)

    def _error(self, delta: Delta) -> BaseException | None:
        if self._n_unfinished or delta.error:
            return delta.error
        return nothing_written(self.answer.continuations)


class _Stream(StreamingResponse):
    """An answer in parts, as its framing has them. It ends what is written when it is left."""

    def __init__(self, request: Request, writing: Writing, headers: dict[str, str]) -> None:
        self._request, self._writing = request, writing
        super().__init__(self._events(), media_type=writing.answer.framing.media_type, headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:  # the events may never have been asked for
            self._writing.end()

    async def _events(self) -> AsyncIterator[str]:
        answer = self._writing.answer
        frame, idle = answer.framing.frame, answer.framing.idle
        choices: list[list[Delta]] = [[] for _ in answer.continuations]
        try:
            for body in answer.opening():
                yield frame(body)
            async for arrival in self._writing.deltas():
                if arrival is None:
                    yield idle
                    continue
                choices[arrival[0]].append(arrival[1])
                for body in answer.part(*arrival):
                    yield frame(body)
            await self._writing.score()
            for body in answer.closing(choices):
                yield frame(body)
            yield answer.framing.end
        except Exception as error:  # the status is sent already: the error goes into the stream
            status, body = refusal_of(error)
            if status == 500:
                logger.exception("a stream failed")
            self._request.state.refusal = body  # for the log
            yield frame(answer.failure(body))


async def unless_client_leaves(request: Request, work: Awaitable[T]) -> T | None:
    """What `work` gives; None, and the work cancelled, once the client has left."""
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            await asyncio.wait([task], timeout=SECONDS_BETWEEN_LOOKS)
            if not task.done() and await request.is_disconnected():
                return None
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
