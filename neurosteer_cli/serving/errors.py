"""Refusals: which status an error has, and its body as OpenAI's API words it.

Knows FastAPI, and every error that a request may meet.
"""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from ..errors import NeurosteerError
from .completions import TooLongError
from .protocol import Json
from .registry import UnknownVectorError
from .scheduler import BusyError, ClosedError, Scheduler, TimeLimitError


class ErrorInfo(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """Every refusal, as OpenAI's API has it."""

    error: ErrorInfo


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
ANSWERS: tuple[tuple[type[Exception], int, str | None], ...] = (  # status and code; the first that fits
    (UnknownVectorError, 404, "model_not_found"),
    (TooLongError, 400, "context_length_exceeded"),
    (BusyError, 429, "rate_limit_exceeded"),
    (ClosedError, 503, None),
    (TimeLimitError, 504, None),
    (NeurosteerError, 400, None),
)


def error_body(status: int, message: str, *, param: str | None = None, code: str | None = None) -> Json:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def refusal_of(error: Exception) -> tuple[int, Json]:
    """The HTTP status and the body that an error is answered with; of a bug 500, and nothing it says."""
    for kind, status, code in ANSWERS:
        if isinstance(error, kind):
            return status, error_body(status, str(error), code=code)
    return 500, error_body(500, "the server failed; its log says why")


def add_handlers(app: FastAPI, scheduler: Scheduler) -> None:
    """Have the application answer every error as above."""

    @app.exception_handler(NeurosteerError)
    @app.exception_handler(Exception)
    async def own(_request: Request, error: Exception) -> JSONResponse:
        status, body = refusal_of(error)
        headers = {"Retry-After": str(scheduler.retry_after())} if status == 429 else None
        return JSONResponse(body, status, headers)

    @app.exception_handler(RequestValidationError)
    async def malformed(_request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return JSONResponse(error_body(400, "the body is not valid JSON"), 400)
        place = ".".join(str(part) for part in first["loc"][1:] if not _names_a_type(part))[:100]
        message = f"{place or 'request'}: {first['msg']}"[:500]
        return JSONResponse(error_body(400, message, param=place or None), 400)

    @app.exception_handler(HTTPException)
    async def other(_request: Request, error: HTTPException) -> JSONResponse:
        body = error_body(error.status_code, str(error.detail))
        return JSONResponse(body, error.status_code, headers=error.headers)


def _names_a_type(part: str | int) -> bool:
    """Whether a part of an error's place is one of the types a field may have, and no field."""
    return isinstance(part, str) and (part == "str" or "[" in part or "constrained" in part)
