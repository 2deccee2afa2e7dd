"""Refusals: which status an error has, and its body as OpenAI's API words it, or Ollama's.

Knows FastAPI, and every error that a request may meet.
"""

from difflib import get_close_matches
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from ...errors import NeurosteerError
from ..completions import Completions
from ..protocol.fields import Json
from ..registry import UnknownVectorError
from ..scheduler import BusyError, ClosedError, TimeLimitError, TooLongError
from .words import fault

OLLAMA = "/api"  # paths under which errors have Ollama's form


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
        504: "Nothing was written within the time limit",
    }.items()
}
NO_RETRY = {"x-should-retry": "false"}  # OpenAI's clients ask again otherwise, and add to the load
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


def in_form_of(path: str, body: Json) -> Json:
    """An error's body, as those read it who ask under a path."""
    return {"error": body["error"]["message"]} if path.startswith(OLLAMA) else body


def refusal_of(error: Exception) -> tuple[int, Json]:
    """The HTTP status and the body that an error is answered with; of a bug 500, and nothing it says."""
    for kind, status, code in ANSWERS:
        if isinstance(error, kind):
            return status, error_body(status, str(error), code=code)
    return 500, error_body(500, "the server failed; its log says why")


def routes_of(app: FastAPI) -> dict[str, list[str]]:
    """The methods that each path takes; what is a name in it stands in capitals."""
    found: dict[str, list[str]] = {}
    for route in app.routes:
        path, methods = getattr(route, "path", ""), getattr(route, "methods", None)
        if methods and path != app.openapi_url:
            path = path.replace("{name:path}", "NAME").replace("{name}", "NAME")
            found.setdefault(path, []).extend(sorted(methods))
    return found


def add_handlers(app: FastAPI, completions: Completions) -> None:
    """Have the application answer every error as above."""
    name, folder = completions.registry.model_id, completions.engine.model_id

    def answer(request: Request, status: int, body: Json, headers: Any = None) -> JSONResponse:
        error = body["error"]
        error["message"] = error["message"].replace(folder, name)  # a path is the operator's
        return JSONResponse(in_form_of(request.url.path, body), status, headers)

    @app.exception_handler(NeurosteerError)
    @app.exception_handler(Exception)
    async def own(request: Request, error: Exception) -> JSONResponse:
        status, body = refusal_of(error)
        retry_after = {"Retry-After": str(completions.scheduler.retry_after())}
        headers = {429: retry_after, 504: NO_RETRY}.get(status)
        return answer(request, status, body, headers)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        message, param = fault(error.errors())
        return answer(request, 400, error_body(400, message, param=param))

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> JSONResponse:
        message = _unroutable(request, error.status_code, routes_of(app))
        return answer(request, error.status_code, error_body(error.status_code, message), error.headers)


def _unroutable(request: Request, status: int, routes: dict[str, list[str]]) -> str:
    """What to say of a path or method that there is not, or of a body that cannot be read at all."""
    path = request.url.path[:80]
    if status == 405:
        methods = next(routes[known] for known in routes if _fits(path, known))
        return f"{path} takes {' or '.join(methods)}, not {request.method}"
    if status == 404:
        suffix = [known for known in routes if known.endswith(path) and path != "/"]
        close = suffix or get_close_matches(path, routes, n=1)
        meant = f", did you mean {close[0]}?" if close else ""
        return f"there is no {path}{meant}; there are {', '.join(routes)}"
    return "the body cannot be read as JSON"


def _fits(path: str, known: str) -> bool:
    before, has_name, after = known.partition("NAME")
    if not has_name:
        return path == known
    return path.startswith(before) and path.endswith(after)
