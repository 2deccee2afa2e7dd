"""The HTTP server: routes, statuses, streams, and what happens when a client leaves.

Knows FastAPI; what requests mean is the service's.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, TypeVar

from anyio import to_thread
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response, StreamingResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from . import __version__
from .catalogue import UnknownVectorError
from .errors import InputError, NeurosteerError
from .forms import ChatForm, CompletionForm, DoseForm, FitForm
from .gate import Gate, error_body
from .portrait import portrait, strongest_latents
from .scheduler import BusyError, ClosedError, Piece, TimeLimitError
from .service import Order, Service, TooLongError
from .telemetry import CONTENT_TYPE, Counted, Telemetry
from .workshop import Workshop

GONE = 499  # nobody reads it
SECONDS_BETWEEN_LOOKS = 0.2  # whether a client is still there
T = TypeVar("T")
logger = logging.getLogger(__name__)


class ErrorFacts(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """Every refusal, as OpenAI's API has it."""

    error: ErrorFacts


_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": text}
    for status, text in {
        400: "A field is wrong, or asks for what cannot be had",
        401: "No valid API key",
        403: "Asked for under another host's name",
        404: "No such model or vector",
        408: "The request's body did not come",
        413: "The request is too large",
        415: "The body is not JSON",
        429: "Too many wait already; see Retry-After",
        503: "Shutting down",
        504: "Not finished within the time limit",
    }.items()
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """How the server behaves."""

    max_bytes: int = 1_000_000  # of a request
    api_key: str | None = None
    hosts: tuple[str, ...] | None = None  # names it may be asked for under; None: any
    shutdown_seconds: float = 30.0  # for what runs when it is told to stop
    page: bool = False  # whether / is the demo
    fitting: bool = False  # whether vectors can be fitted


def create_app(service: Service, options: Options = Options()) -> FastAPI:  # noqa: B008  frozen
    """The application, for an ASGI server. Its end closes the service's scheduler."""
    workshop = Workshop(service) if options.fitting else None

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await to_thread.run_sync(service.scheduler.close, options.shutdown_seconds)
        if workshop is not None:
            workshop.close()

    app = FastAPI(
        title="neurosteer", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None,
        description="OpenAI-compatible completions of a steered language model.",
    )  # fmt: skip
    scheduler = service.scheduler
    telemetry = Telemetry(lambda: scheduler.n_running, lambda: scheduler.n_waiting)
    writer = _Writer(service, telemetry)
    _add_errors(app)
    _add_openai_routes(app, service, writer)
    _add_vector_routes(app, service, workshop)
    _add_state_routes(app, service, telemetry)
    if options.page:
        page = (files("neurosteer_cli") / "pages" / "demo.html").read_text(encoding="utf-8")
        app.get("/", include_in_schema=False)(lambda: HTMLResponse(page))

    app.add_middleware(Gate, max_bytes=options.max_bytes, api_key=options.api_key, hosts=options.hosts)
    app.add_middleware(Counted, telemetry=telemetry)
    return app


# --- errors ------------------------------------------------------------------------------------


def _status(error: BaseException) -> int:
    for kind, status in (
        (UnknownVectorError, 404), (InputError, 400), (BusyError, 429), (ClosedError, 503),
        (TimeLimitError, 504), (NeurosteerError, 400),
    ):  # fmt: skip
        if isinstance(error, kind):
            return status
    return 500


def _body_of(error: BaseException) -> dict[str, Any]:
    status = _status(error)
    if status == 500:
        return error_body("the server failed; its log says why", "server_error")
    code = {404: "model_not_found", 429: "rate_limit_exceeded"}.get(status)
    if isinstance(error, TooLongError):
        code = "context_length_exceeded"
    return error_body(str(error), "invalid_request_error" if status < 500 else "server_error", code=code)


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(NeurosteerError)
    async def ours(request: Request, error: NeurosteerError) -> JSONResponse:
        headers = {}
        if isinstance(error, BusyError):
            headers["Retry-After"] = str(request.app.state.retry_after())
        return JSONResponse(_body_of(error), _status(error), headers=headers)

    @app.exception_handler(RequestValidationError)
    async def malformed(_request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:] if not _names_a_type(part))[:100]
        if first["type"] == "json_invalid":
            return JSONResponse(error_body("the body is not valid JSON", "invalid_request_error"), 400)
        message = f"{place or 'request'}: {first['msg']}"[:500]
        return JSONResponse(error_body(message, "invalid_request_error", place or None), 400)

    @app.exception_handler(HTTPException)
    async def other(_request: Request, error: HTTPException) -> JSONResponse:
        body = error_body(str(error.detail), "invalid_request_error")
        return JSONResponse(body, error.status_code, headers=error.headers)

    @app.exception_handler(Exception)
    async def bug(_request: Request, error: Exception) -> JSONResponse:
        return JSONResponse(_body_of(error), 500)


def _names_a_type(part: str | int) -> bool:
    """Whether a part of an error's place is one of the types a field may have, and no field."""
    return isinstance(part, str) and (part == "str" or "[" in part or "constrained" in part)


# --- routes ------------------------------------------------------------------------------------


def _add_openai_routes(app: FastAPI, service: Service, writer: "_Writer") -> None:
    model_id = service.catalogue.model_id
    app.state.retry_after = service.scheduler.retry_after
    began = int(time.time())

    def card(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": began, "owned_by": "neurosteer"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The model alone, and with each vector at the alpha suggested for it."""
        steered = [portrait(service.catalogue, name)["model"] for name in service.catalogue]
        return {"object": "list", "data": [card(name) for name in (model_id, *steered)]}

    @app.get("/v1/models/{name:path}", responses={404: _REFUSALS[404], 400: _REFUSALS[400]})
    async def model(name: str) -> dict[str, Any]:
        """A model's name, vectors and alphas included, held against what there is."""
        service.catalogue.alphas(name, {})
        return card(name)

    @app.post("/v1/completions", responses=_REFUSALS, response_model=None)
    async def completions(form: CompletionForm, request: Request) -> Response:
        """Go on from a prompt."""
        return await writer.respond(request, await to_thread.run_sync(service.completion, form))

    @app.post("/v1/chat/completions", responses=_REFUSALS, response_model=None)
    async def chat_completions(form: ChatForm, request: Request) -> Response:
        """Answer in a chat."""
        return await writer.respond(request, await to_thread.run_sync(service.chat, form))


def _add_vector_routes(app: FastAPI, service: Service, workshop: "Workshop | None") -> None:
    catalogue = service.catalogue

    @app.get("/v1/vectors")
    async def vectors() -> dict[str, Any]:
        """What there is to steer with."""
        return {
            "object": "list",
            "model": catalogue.model_id,
            "can_fit": workshop is not None,
            "data": [portrait(catalogue, name) for name in catalogue],
        }

    @app.get("/v1/vectors/{name}", responses={404: _REFUSALS[404]})
    def vector(name: str) -> dict[str, Any]:
        """A vector's facts and the latents behind it."""
        facts = portrait(catalogue, name)
        return {**facts, "latents": strongest_latents(catalogue[name], service.engine.model_id)}

    @app.post("/v1/dose", responses=_REFUSALS)
    async def dose(form: DoseForm) -> dict[str, float]:
        """|sum of alpha_i v_i| / median |resid|."""
        return {"dose": round(service.dose(form.steering), 6)}

    if workshop is not None:
        shop = workshop

        @app.post("/v1/vectors", responses=_REFUSALS, response_model=None)
        async def fit(form: FitForm, request: Request) -> Response:
            """Fit a vector, and keep it while the server runs."""
            facts = await _unless_gone(request, asyncio.wrap_future(shop.begin(form)))
            if facts is None:
                shop.abandon()
                return Response(status_code=GONE)
            return JSONResponse({**facts, **portrait(catalogue, form.name)})

        @app.get("/v1/vectors/{name}/file", responses={404: _REFUSALS[404]}, response_class=FileResponse)
        def file(name: str) -> FileResponse:
            """The vector file."""
            return FileResponse(shop.file(name), filename=f"{name}.st", media_type="application/octet-stream")


def _add_state_routes(app: FastAPI, service: Service, telemetry: Telemetry) -> None:
    @app.get("/health", responses={503: {"description": "The model's thread has ended"}})
    async def health() -> JSONResponse:
        """Whether it can write."""
        alive = service.scheduler.is_alive
        facts = {
            "status": "ok" if alive else "down", "model": service.catalogue.model_id,
            "vectors": len(service.catalogue), "running": service.scheduler.n_running,
            "waiting": service.scheduler.n_waiting,
        }  # fmt: skip
        return JSONResponse(facts, 200 if alive else 503)

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(telemetry.text(), media_type=CONTENT_TYPE)


# --- answers -----------------------------------------------------------------------------------


class _Writer:
    """Has orders written, and answers with the whole or with a stream."""

    def __init__(self, service: Service, telemetry: Telemetry) -> None:
        self.service, self.telemetry = service, telemetry

    async def respond(self, request: Request, order: Order) -> Response:
        pieces = self._pieces(order)
        if order.form.stream:
            return StreamingResponse(
                self._events(order, pieces),
                media_type="text/event-stream",
                headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no", "x-request-id": order.id},
            )
        parts = await _unless_gone(request, self._collected(order, pieces))
        if parts is None:
            self.telemetry.cancelled.inc()
            return Response(status_code=GONE)
        return JSONResponse(self.service.answer(order, parts), headers={"x-request-id": order.id})

    def _pieces(self, order: Order) -> AsyncIterator[tuple[int, Piece]]:
        """Submit an order; its (choice, piece) as they come. Whoever stops reading cancels it."""
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[tuple[int, Piece]] = asyncio.Queue()
        start = time.monotonic()

        def hear(choice: int, piece: Piece) -> None:
            loop.call_soon_threadsafe(arrived.put_nowait, (choice, piece))

        writings = self.service.submit(order, hear)

        async def read() -> AsyncIterator[tuple[int, Piece]]:
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

    async def _collected(self, order: Order, pieces: AsyncIterator[tuple[int, Piece]]) -> list[list[Piece]]:
        parts: list[list[Piece]] = [[] for _ in order.lines]
        async for choice, piece in pieces:
            parts[choice].append(piece)
        return parts

    async def _events(self, order: Order, pieces: AsyncIterator[tuple[int, Piece]]) -> AsyncIterator[str]:
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
            if _status(error) == 500:
                logger.exception("a stream failed")
            yield _event(_body_of(error))
        finally:
            if not ended:
                self.telemetry.cancelled.inc()
            await pieces.aclose()  # type: ignore[attr-defined]


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body)}\n\n"


async def _unless_gone(request: Request, work: Awaitable[T]) -> T | None:
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
