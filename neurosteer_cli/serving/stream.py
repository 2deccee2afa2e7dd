"""Answers: an order's pieces as one body or as a stream, until the client leaves."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from .completions import CheckedRequest, Service
from .errors import body_of, status_of
from .telemetry import Telemetry
from .writing import Delta

GONE = 499  # nobody reads it
SECONDS_BETWEEN_LOOKS = 0.2  # whether a client is still there
T = TypeVar("T")
logger = logging.getLogger(__name__)


class Writer:
    """Has orders written, and answers with the whole or with a stream."""

    def __init__(self, service: Service, telemetry: Telemetry) -> None:
        self.service, self.telemetry = service, telemetry

    async def respond(self, request: Request, order: CheckedRequest) -> Response:
        pieces = self._pieces(order)
        if order.form.stream:
            return StreamingResponse(
                self._events(order, pieces),
                media_type="text/event-stream",
                headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no", "x-request-id": order.id},
            )
        parts = await unless_gone(request, self._collected(order, pieces))
        if parts is None:
            self.telemetry.cancelled.inc()
            return Response(status_code=GONE)
        return JSONResponse(self.service.answer(order, parts), headers={"x-request-id": order.id})

    def _pieces(self, order: CheckedRequest) -> AsyncIterator[tuple[int, Delta]]:
        """Submit an order; its (choice, piece) as they come. Whoever stops reading cancels it."""
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[tuple[int, Delta]] = asyncio.Queue()
        start = time.monotonic()

        def hear(choice: int, piece: Delta) -> None:
            loop.call_soon_threadsafe(arrived.put_nowait, (choice, piece))

        writings = self.service.submit(order, hear)

        async def read() -> AsyncIterator[tuple[int, Delta]]:
            unfinished, is_first = len(writings), True
            try:
                while unfinished:
                    choice, piece = await arrived.get()
                    if piece.error:
                        raise piece.error
                    if is_first:
                        self.telemetry.first_token.observe(time.monotonic() - start)
                        is_first = False
                    unfinished -= piece.finish_reason is not None
                    yield choice, piece
            finally:
                if unfinished:
                    self.service.scheduler.cancel(writings)
                usage = self.service.usage(order)
                self.telemetry.tokens.labels("prompt").inc(usage["prompt_tokens"])
                self.telemetry.tokens.labels("completion").inc(usage["completion_tokens"])
                self.telemetry.seconds.observe(time.monotonic() - start)

        return read()

    async def _collected(
        self, order: CheckedRequest, pieces: AsyncIterator[tuple[int, Delta]]
    ) -> list[list[Delta]]:
        parts: list[list[Delta]] = [[] for _ in order.lines]
        async for choice, piece in pieces:
            parts[choice].append(piece)
        return parts

    async def _events(
        self, order: CheckedRequest, pieces: AsyncIterator[tuple[int, Delta]]
    ) -> AsyncIterator[str]:
        """Server-sent events, as OpenAI's API streams them."""
        ended = False
        try:
            for choice in range(len(order.lines)) if order.is_chat else ():
                yield _event(self.service.first_chunk(order, choice))
            async for choice, piece in pieces:
                yield _event(self.service.chunk(order, choice, piece))
            if order.form.stream_options and order.form.stream_options.include_usage:
                yield _event(self.service.usage_chunk(order))
            yield "data: [DONE]\n\n"
            ended = True
        except Exception as error:  # the status is sent already: the error goes into the stream
            ended = True
            if status_of(error) == 500:
                logger.exception("a stream failed")
            yield _event(body_of(error))
        finally:
            if not ended:
                self.telemetry.cancelled.inc()
            await pieces.aclose()  # type: ignore[attr-defined]


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body)}\n\n"


async def unless_gone(request: Request, work: Awaitable[T]) -> T | None:
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
