"""What every request passes before anything reads it: it is noted, then its host, key and body checked.

Knows ASGI and prometheus_client. FastAPI's own `strict_content_type` answers 422 in place of 415, its
`max_body_size` in another form than OpenAI's, and neither knows a time limit.
"""

import asyncio
import hmac
import json
import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import OLLAMA, error_body, in_form_of

SECONDS_FOR_A_BODY = 30.0
JSON_TYPE = (b"content-type", b"application/json")
UNTYPED = ("", "application/x-www-form-urlencoded")  # what a body is sent as unless something is said
GUARDED = ("/v1", OLLAMA)  # paths that need the key, if there is one
BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)  # seconds
MAYBE_SURROGATES = re.compile(rb"\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]|\0")  # escaped, as bytes, in UTF-16
LONGEST_REASON = 500  # characters of a refusal that the log repeats
requests_log = logging.getLogger("neurosteer.requests")  # INFO: a line a request
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """What one server counts, for Prometheus."""

    def __init__(self, running: Callable[[], int], waiting: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        own: Any = {"namespace": "neurosteer", "registry": self.registry}
        timed: Any = {**own, "buckets": BUCKETS}
        self.requests = Counter("requests", "Requests answered.", ("endpoint", "status"), **own)
        self.tokens = Counter("tokens", "Tokens read and written.", ("kind",), **own)
        self.seconds = Histogram("request_seconds", "From a request to the end of its answer.", **timed)
        self.first_token = Histogram("first_text_seconds", "From a request to its first text.", **timed)
        self.cancelled = Counter("cancelled", "Requests whose client left before the end.", **own)
        Gauge("running", "Continuations being written.", **own).set_function(running)
        Gauge("waiting", "Continuations waiting for a place.", **own).set_function(waiting)

    def note_end(self, usage: dict[str, int], seconds: float) -> None:
        """Count a request for text that has come to its end."""
        for kind in ("prompt", "completion"):
            self.tokens.labels(kind).inc(usage[f"{kind}_tokens"])
        self.seconds.observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self.registry)


class RequestLog:
    """Counts an application's answers by route and status, those included that never reach a route.

    A line about each goes to the log "neurosteer.requests": client, method, path, status, seconds, then
    tokens and alphas, or why it was refused; what was asked and written only where `texts` are wanted.
    """

    def __init__(
        self, app: ASGIApp, metrics: Metrics, routes: Sequence[BaseRoute], *, texts: bool = False
    ) -> None:
        self.app, self.metrics, self.routes, self.texts = app, metrics, routes, texts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        status, refusal, start = 500, bytearray(), time.monotonic()

        async def noting(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            if status >= 400:
                refusal.extend(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, receive, noting)
        finally:
            self.metrics.requests.labels(self._endpoint(scope), str(status)).inc()
            address, port = scope["client"] or ("-", 0)
            parts = [f"{address}:{port} {scope['method']} {scope['path']} {status}"]
            parts += [f"{time.monotonic() - start:.2f} s", *self._told(state), _reason(bytes(refusal), state)]
            requests_log.info("%s", _in_one_line(", ".join(filter(None, parts))))

    def _told(self, state: dict[str, Any]) -> Iterator[str]:
        """Of a request for text: tokens, alphas, and how it ended."""
        if not (answer := state.get("answer")):
            return
        yield f"read {answer.n_read}, wrote {answer.n_written}"
        yield " ".join(f"{name}:{alpha:g}" for name, alpha in answer.steering["alphas"].items())
        limits = {each.limit for each in answer.continuations if each.limit and each.limit.unit == "seconds"}
        yield from (f"{limit.name} {limit.number:g} s" for limit in limits)
        if any(each.finish_reason == "cancelled" for each in answer.continuations):
            yield "client left"
        if self.texts:
            yield from (f"{_quoted(each.key)} -> {_quoted(each.text)}" for each in answer.continuations)

    def _endpoint(self, scope: Scope) -> str:
        # not scope["route"], which a request that was refused has not come to
        scope = {**scope, "path": scope["path"].rstrip("/") or "/"}
        matching = (route for route in self.routes if route.matches(scope)[0] is not Match.NONE)
        return str(getattr(next(matching, None), "path", "other"))


def _reason(refusal: bytes, state: dict[str, Any]) -> str:
    """Why a request was refused, by its answer's body, or by what was left of a failed stream."""
    try:
        error = state.get("refusal", {}).get("error") or json.loads(refusal)["error"]
    except (ValueError, LookupError):
        return refusal.decode(errors="replace")[:LONGEST_REASON]
    return str(error["message"] if isinstance(error, dict) else error)[:LONGEST_REASON]


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _in_one_line(text: str) -> str:
    """A text without characters that move a terminal's cursor, or begin a line."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


class RefusedError(Exception):
    """A request that goes no further, and how it is answered."""

    def __init__(self, status: int, message: str, code: str) -> None:
        super().__init__(message)
        headers = {"connection": "close"} if status in (408, 413) else None  # its rest is not read
        self.status, self.body, self.headers = status, error_body(status, message, code=code), headers


class RequestCheck:
    """Refuses by status and name: 401 no key, 403 another host, 415 not JSON, 413 too large, 408 too slow.

    A body is read whole, once, and refused (400) where it holds what is no text. That it must say it is
    JSON also keeps other sites' pages out: a browser sends such a body elsewhere only after asking for
    permission, which few are given, or none. Ollama's clients do not say it, and need not, as long as they
    are no page: a browser says where a page is from.
    Where `hosts` are given it may be asked for under these names alone: another site's name can be made to
    lead here, and its pages would then be free to ask.
    """

    def __init__(
        self, app: ASGIApp, *, max_bytes: int, api_key: str | None, hosts: Sequence[str] | None
    ) -> None:
        self.app, self.max_bytes, self.api_key, self.hosts = app, max_bytes, api_key, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            request = Request(scope, receive)
            try:
                self._check_host(request.headers.get("host", ""))
                self._check_key(scope["path"], request.headers.get("authorization", ""))
                if request.method == "POST":
                    _check_text(sent := await self._body(request))
                    receive = _replayed(sent, receive)
                    scope = {**scope, "headers": [*_without_type(scope["headers"]), JSON_TYPE]}
            except RefusedError as refused:
                body = in_form_of(scope["path"], refused.body)
                await JSONResponse(body, refused.status, refused.headers)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _check_host(self, host: str) -> None:
        if self.hosts is not None and _without_port(host) not in self.hosts:
            message = f"host {host[:80]!r} is not served without an API key, only {', '.join(self.hosts)}"
            raise RefusedError(403, message, "host_not_allowed")

    def _check_key(self, path: str, authorization: str) -> None:
        if self.api_key is None or not path.startswith(GUARDED):
            return
        scheme, _, key = authorization.partition(" ")
        is_key = hmac.compare_digest(key.encode(), self.api_key.encode())
        if scheme.lower() != "bearer" or not is_key:  # schemes of authorization have no case
            message = "a valid API key is needed: Authorization: Bearer KEY"
            raise RefusedError(401, message, "invalid_api_key")

    async def _body(self, request: Request) -> bytes:
        if not _is_json(request):
            message = "send JSON, with Content-Type: application/json"
            raise RefusedError(415, message, "unsupported_media_type")
        try:
            return await asyncio.wait_for(self._read(request), SECONDS_FOR_A_BODY)
        except (asyncio.TimeoutError, ClientDisconnect):
            raise RefusedError(408, "the request's body did not come", "request_timeout") from None

    async def _read(self, request: Request) -> bytes:
        message = f"the request is larger than {self.max_bytes} bytes"
        too_large = RefusedError(413, message, "request_too_large")
        length, body = request.headers.get("content-length", ""), bytearray()
        if length.isdecimal() and int(length[:19]) > self.max_bytes:
            raise too_large
        async for part in request.stream():
            body += part
            if len(body) > self.max_bytes:
                raise too_large
        return bytes(body)


def _check_text(body: bytes) -> None:
    """Refuse half of a surrogate pair, which JSON can hold, and no tokenizer or answer can."""
    if not MAYBE_SURROGATES.search(body):
        return
    try:
        json.dumps(json.loads(body), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])[1:-1]
        message = f"the body holds {half} alone, half of a surrogate pair: that is no text"
        raise RefusedError(400, message, "invalid_text") from error
    except (ValueError, RecursionError):  # no JSON: told by whoever reads it
        return


def _is_json(request: Request) -> bool:
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    is_page = "origin" in request.headers or "sec-fetch-site" in request.headers
    is_ollamas = request.url.path.startswith(OLLAMA) and kind in UNTYPED and not is_page
    return kind == "application/json" or is_ollamas


def _without_type(headers: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    return ((name, value) for name, value in headers if name != JSON_TYPE[0])


def _without_port(host: str) -> str:
    """`127.0.0.1:8000` and `[::1]:8000` without what follows the last colon."""
    name, _, port = host.rpartition(":")
    return (name if name and port.isdigit() else host).strip("[]").lower()


def _replayed(body: bytes, receive: Receive) -> Receive:
    """What gives the body once, and then what comes after it."""
    once: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return once.pop() if once else await receive()

    return replay
