"""What every request passes before anything reads it: host, key, kind and size of its body; and counts.

Knows ASGI and prometheus_client. FastAPI's own `strict_content_type` answers 422 in place of 415, its
`max_body_size` in another form than OpenAI's, and neither knows a time limit.
"""

import asyncio
import hmac
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Match

from .protocol import error_body

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

SECONDS_FOR_A_BODY = 30.0
GUARDED = "/v1"  # paths that need the key, if there is one
BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)  # seconds
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class RefusedError(Exception):
    """A request that goes no further."""

    def __init__(self, status: int, message: str, code: str) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code

    def response(self) -> JSONResponse:
        # 408 and 413: the rest of the body is not read
        headers = {"connection": "close"} if self.status in (408, 413) else None
        return JSONResponse(error_body(self.message, code=self.code), self.status, headers)


class RequestCheck:
    """Refuses by status and name: 401 no key, 403 another host, 415 not JSON, 413 too large, 408 too slow.

    A body is read whole, once.

    That a body must say it is JSON also keeps other sites' pages out: a browser sends such a body
    elsewhere only after asking for permission, which is not given.
    """

    def __init__(
        self, app: App, *, max_bytes: int, api_key: str | None, hosts: Sequence[str] | None = None
    ) -> None:
        """Guard an application.

        Args:
            hosts: names under which it may be asked for; None takes any. Another site's name can be made
                to lead here, and its pages would then be free to ask.
        """
        self.app, self.max_bytes, self.api_key, self.hosts = app, max_bytes, api_key, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            try:
                self._check_host(headers.get("host", ""))
                self._check_key(scope["path"], headers.get("authorization", ""))
                if scope["method"] == "POST":
                    receive = _replayed(await self._body(headers, receive), receive)
            except RefusedError as refused:
                await refused.response()(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _check_host(self, host: str) -> None:
        if self.hosts is not None and _without_port(host) not in self.hosts:
            message = f"host {host[:80]!r} is not served without an API key, only {', '.join(self.hosts)}"
            raise RefusedError(403, message, "host_not_allowed")

    def _check_key(self, path: str, authorization: str) -> None:
        if self.api_key is None or not path.startswith(GUARDED):
            return
        if not hmac.compare_digest(authorization.encode(), b"Bearer " + self.api_key.encode()):
            message = "a valid API key is needed: Authorization: Bearer KEY"
            raise RefusedError(401, message, "invalid_api_key")

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        if headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
            message = "send JSON, with Content-Type: application/json"
            raise RefusedError(415, message, "unsupported_media_type")
        try:
            return await asyncio.wait_for(self._read(headers, receive), SECONDS_FOR_A_BODY)
        except asyncio.TimeoutError:
            raise RefusedError(408, "the request's body did not come", "request_timeout") from None

    async def _read(self, headers: Headers, receive: Receive) -> bytes:
        too_large = RefusedError(
            413, f"the request is larger than {self.max_bytes} bytes", "request_too_large"
        )
        length, body = headers.get("content-length", ""), bytearray()
        if length.isdigit() and int(length[:19]) > self.max_bytes:
            raise too_large
        while True:
            message = await receive()
            body += message.get("body", b"")
            if message["type"] != "http.request" or len(body) > self.max_bytes:  # or its sender is gone
                raise too_large
            if not message.get("more_body"):
                return bytes(body)


def _without_port(host: str) -> str:
    """`127.0.0.1:8000` and `[::1]:8000` without what follows the last colon."""
    name, _, port = host.rpartition(":")
    return (name if name and port.isdigit() else host).strip("[]").lower()


def _replayed(body: bytes, receive: Receive) -> Receive:
    """What gives the body once, and then what comes after it."""
    bodies = [body]

    async def replay() -> MutableMapping[str, Any]:
        if bodies:
            return {"type": "http.request", "body": bodies.pop(), "more_body": False}
        return await receive()

    return replay


class Metrics:
    """What one server counts, for Prometheus."""

    def __init__(self, running: Callable[[], int], waiting: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()

        def made(kind: Any, name: str, text: str, *labels: str, **options: Any) -> Any:
            return kind(f"neurosteer_{name}", text, labels, registry=self.registry, **options)

        self.requests = made(Counter, "requests", "Requests answered.", "endpoint", "status")
        self.tokens = made(Counter, "tokens", "Tokens read and written.", "kind")
        self.seconds = made(
            Histogram, "request_seconds", "From a request to the end of its answer.", buckets=BUCKETS
        )
        self.first_token = made(
            Histogram, "first_text_seconds", "From a request to its first text.", buckets=BUCKETS
        )
        self.cancelled = made(Counter, "cancelled", "Requests whose client left before the end.")
        made(Gauge, "running", "Continuations being written.").set_function(running)
        made(Gauge, "waiting", "Continuations waiting for a place.").set_function(waiting)

    def note_end(self, usage: dict[str, int], seconds: float) -> None:
        """Count a request for text that has come to its end."""
        for kind in ("prompt", "completion"):
            self.tokens.labels(kind).inc(usage[f"{kind}_tokens"])
        self.seconds.observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self.registry)


class RequestCount:
    """Counts an application's answers by route and status, those included that never reach a route."""

    def __init__(self, app: App, metrics: Metrics, routes: Sequence[BaseRoute]) -> None:
        self.app, self.metrics, self.routes = app, metrics, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = 500

        async def noting(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self.app(scope, receive, noting)
        finally:
            self.metrics.requests.labels(self._endpoint(scope), str(status)).inc()

    def _endpoint(self, scope: Scope) -> str:
        # not scope["route"], which a request that was refused has not come to
        matching = (route for route in self.routes if route.matches(scope)[0] is not Match.NONE)
        return str(getattr(next(matching, None), "path", "other"))
