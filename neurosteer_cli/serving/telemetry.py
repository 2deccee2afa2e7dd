"""What the server counts, for Prometheus.

Knows prometheus_client and routes only.
"""

from collections.abc import Callable, MutableMapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.routing import BaseRoute, Match

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Telemetry:
    """Counters of one server."""

    def __init__(self, running: Callable[[], int], waiting: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "neurosteer_requests", "Requests answered.", ("endpoint", "status"), registry=self.registry
        )
        self.tokens = Counter(
            "neurosteer_tokens", "Tokens read and written.", ("kind",), registry=self.registry
        )
        self.seconds = Histogram(
            "neurosteer_request_seconds", "From a request to the end of its answer.",
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self.first_token = Histogram(
            "neurosteer_first_text_seconds", "From a request to its first text.",
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self.cancelled = Counter(
            "neurosteer_cancelled", "Requests whose client left before the end.", registry=self.registry
        )
        for name, text, count in (
            ("running", "Continuations being written.", running),
            ("waiting", "Continuations waiting for a place.", waiting),
        ):
            gauge = Gauge(f"neurosteer_{name}", text, registry=self.registry)
            gauge.set_function(count)

    def text(self) -> bytes:
        return generate_latest(self.registry)


class Counted:
    """Counts an application's answers by route and status, those included that never reach a route."""

    def __init__(self, app: Any, telemetry: Telemetry, routes: Sequence[BaseRoute]) -> None:
        self.app, self.telemetry, self.routes = app, telemetry, routes

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
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
            self.telemetry.requests.labels(self._endpoint(scope), str(status)).inc()

    def _endpoint(self, scope: MutableMapping[str, Any]) -> str:
        for route in self.routes:
            if route.matches(scope)[0] is not Match.NONE:
                return str(getattr(route, "path", "other"))
        return "other"
