"""Answers over HTTP: a request's deltas as one body or as server-sent events, until the client leaves.

Knows FastAPI and asyncio; what an answer looks like is the protocol's.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from ..generation.continuation import Delta
from .completions import CheckedRequest, Completions
from .errors import body_of, status_of
from .middleware import Metrics
from .protocol import ChatRequest

CLIENT_LEFT = 499  # nobody reads it
SECONDS_BETWEEN_LOOKS = 0.2  # whether a client is still there
Deltas = AsyncGenerator[tuple[int, Delta], None]  # (choice, delta)
T = TypeVar("T")
logger = logging.getLogger(__name__)


class Responder:
    """Has checked requests written, and answers with the whole or with a stream."""

    def __init__(self, completions: Completions, metrics: Metrics) -> None:
        self.completions, self.metrics = completions, metrics

    async def respond(self, request: Request, checked: CheckedRequest) -> Response:
        deltas, headers = self._deltas(checked), {"x-request-id": checked.answer.id}
        if checked.answer.request.stream:
            return StreamingResponse(
                self._events(checked, deltas),
                media_type="text/event-stream",
                headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **headers},
            )
        choices = await unless_client_leaves(request, _by_choice(len(checked.continuations), deltas))
        if choices is None:
            self.metrics.cancelled.inc()
            return Response(status_code=CLIENT_LEFT)
        return JSONResponse(checked.answer.whole(choices, checked.usage), headers=headers)

    def _deltas(self, checked: CheckedRequest) -> Deltas:
        """Submit a request; its deltas as they come. Whoever stops reading cancels it."""
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[tuple[int, Delta]] = asyncio.Queue()
        start = time.monotonic()

        def on_delta(choice: int, delta: Delta) -> None:
            loop.call_soon_threadsafe(arrived.put_nowait, (choice, delta))

        self.completions.submit(checked, on_delta)

        async def read() -> Deltas:
            unfinished, is_first = len(checked.continuations), True
            try:
                while unfinished:
                    choice, delta = await arrived.get()
                    if delta.error:
                        raise delta.error
                    if is_first:
                        self.metrics.first_token.observe(time.monotonic() - start)
                        is_first = False
                    unfinished -= delta.finish_reason is not None
                    yield choice, delta
            finally:
                if unfinished:
                    self.completions.cancel(checked)
                self.metrics.note_end(checked.usage, time.monotonic() - start)

        return read()

    async def _events(self, checked: CheckedRequest, deltas: Deltas) -> AsyncIterator[str]:
        """Server-sent events, as OpenAI's API streams them."""
        answer, has_ended = checked.answer, False
        try:
            if isinstance(answer.request, ChatRequest):
                for choice in range(len(checked.continuations)):
                    yield _event(answer.first_chunk(choice))
            async for choice, delta in deltas:
                yield _event(answer.chunk(choice, delta))
            if answer.request.stream_options and answer.request.stream_options.include_usage:
                yield _event(answer.usage_chunk(checked.usage))
            yield "data: [DONE]\n\n"
            has_ended = True
        except Exception as error:  # the status is sent already: the error goes into the stream
            has_ended = True
            if status_of(error) == 500:
                logger.exception("a stream failed")
            yield _event(body_of(error))
        finally:
            if not has_ended:
                self.metrics.cancelled.inc()
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
