"""Answers over HTTP: their deltas as one body or as server-sent events, until the client leaves.

Knows FastAPI and asyncio; what an answer looks like is the protocol's.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from functools import partial
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from ..generation.continuation import Delta
from .errors import refusal_of
from .middleware import Metrics
from .protocol import Answer
from .scheduler import Scheduler

CLIENT_LEFT = 499  # nobody reads it
SECONDS_BETWEEN_LOOKS = 0.2  # whether a client is still there
Deltas = AsyncGenerator[tuple[int, Delta], None]  # (choice, delta)
Arrivals = asyncio.Queue[tuple[int, Delta]]
T = TypeVar("T")
logger = logging.getLogger(__name__)


class Responder:
    """Has answers written, and sends them as a whole or as a stream."""

    def __init__(self, scheduler: Scheduler, metrics: Metrics) -> None:
        self.scheduler, self.metrics = scheduler, metrics

    async def respond(self, request: Request, answer: Answer) -> Response:
        deltas, headers = self._submit(answer), {"x-request-id": answer.id}
        if answer.request.stream:
            headers |= {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
            events = self._events(answer, deltas)
            return StreamingResponse(events, media_type="text/event-stream", headers=headers)
        choices = await unless_client_leaves(request, _by_choice(len(answer.continuations), deltas))
        if choices is None:
            self.metrics.cancelled.inc()
            return Response(status_code=CLIENT_LEFT)
        return JSONResponse(answer.whole(choices), headers=headers)

    def _submit(self, answer: Answer) -> Deltas:
        """Have an answer written; its deltas as they come."""
        loop = asyncio.get_running_loop()
        arrivals = Arrivals()

        def on_delta(choice: int, delta: Delta) -> None:  # on the model's thread
            loop.call_soon_threadsafe(arrivals.put_nowait, (choice, delta))

        for choice, continuation in enumerate(answer.continuations):
            continuation.on_delta = partial(on_delta, choice)
        self.scheduler.submit(answer.continuations)
        return self._read(answer, arrivals, time.monotonic())

    async def _read(self, answer: Answer, arrivals: Arrivals, start: float) -> Deltas:
        """The deltas up to each choice's last. Whoever stops reading cancels the rest."""
        unfinished, is_first = len(answer.continuations), True
        try:
            while unfinished:
                choice, delta = await arrivals.get()
                if delta.error:
                    raise delta.error
                if is_first:
                    self.metrics.first_token.observe(time.monotonic() - start)
                    is_first = False
                unfinished -= delta.finish_reason is not None
                yield choice, delta
        finally:
            for continuation in answer.continuations:
                continuation.cancel()
            self.metrics.note_end(answer.usage, time.monotonic() - start)

    async def _events(self, answer: Answer, deltas: Deltas) -> AsyncIterator[str]:
        """Server-sent events, as OpenAI's API streams them."""
        try:
            for chunk in answer.first_chunks():
                yield _event(chunk)
            async for choice, delta in deltas:
                yield _event(answer.chunk(choice, delta))
            for chunk in answer.last_chunks():
                yield _event(chunk)
            yield "data: [DONE]\n\n"
        except Exception as error:  # the status is sent already: the error goes into the stream
            status, body = refusal_of(error)
            if status == 500:
                logger.exception("a stream failed")
            yield _event(body)
        except BaseException:
            self.metrics.cancelled.inc()
            raise
        finally:
            await deltas.aclose()


async def _by_choice(n: int, deltas: Deltas) -> list[list[Delta]]:
    choices: list[list[Delta]] = [[] for _ in range(n)]
    async for choice, delta in deltas:
        choices[choice].append(delta)
    return choices


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body)}\n\n"


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
