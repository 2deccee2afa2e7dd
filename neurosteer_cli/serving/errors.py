"""Refusals: which status an error has, and its body as OpenAI's API words it.

Knows FastAPI, and every error that a request may meet.
"""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ..errors import InputError, NeurosteerError
from .completions import TooLongError
from .protocol import ErrorAnswer, error_body
from .registry import UnknownVectorError
from .scheduler import BusyError, ClosedError, TimeLimitError

REFUSALS: dict[int | str, dict[str, Any]] = {
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
STATUS_OF: tuple[tuple[type[NeurosteerError], int], ...] = (  # the first that an error is one of
    (UnknownVectorError, 404),
    (InputError, 400),
    (BusyError, 429),
    (ClosedError, 503),
    (TimeLimitError, 504),
    (NeurosteerError, 400),
)


def status_of(error: BaseException) -> int:
    """The HTTP status that an error is answered with; 500 for what is a bug."""
    return next((status for kind, status in STATUS_OF if isinstance(error, kind)), 500)


def body_of(error: BaseException) -> dict[str, Any]:
    """The body of that answer; nothing of a bug's own text."""
    status = status_of(error)
    if status == 500:
        return error_body("the server failed; its log says why", "server_error")
    code = {404: "model_not_found", 429: "rate_limit_exceeded"}.get(status)
    if isinstance(error, TooLongError):
        code = "context_length_exceeded"
    return error_body(str(error), "invalid_request_error" if status < 500 else "server_error", code=code)


def add_handlers(app: FastAPI) -> None:
    """Have the application answer every error as above."""

    @app.exception_handler(NeurosteerError)
    async def ours(request: Request, error: NeurosteerError) -> JSONResponse:
        headers = {}
        if isinstance(error, BusyError):
            headers["Retry-After"] = str(request.app.state.retry_after())
        return JSONResponse(body_of(error), status_of(error), headers=headers)

    @app.exception_handler(RequestValidationError)
    async def malformed(_request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:] if not _names_a_type(part))[:100]
        if first["type"] == "json_invalid":
            return JSONResponse(error_body("the body is not valid JSON"), 400)
        message = f"{place or 'request'}: {first['msg']}"[:500]
        return JSONResponse(error_body(message, param=place or None), 400)

    @app.exception_handler(HTTPException)
    async def other(_request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse(error_body(str(error.detail)), error.status_code, headers=error.headers)

    @app.exception_handler(Exception)
    async def bug(_request: Request, error: Exception) -> JSONResponse:
        return JSONResponse(body_of(error), 500)


def _names_a_type(part: str | int) -> bool:
    """Whether a part of an error's place is one of the types a field may have, and no field."""
    return isinstance(part, str) and (part == "str" or "[" in part or "constrained" in part)
