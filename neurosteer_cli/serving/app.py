"""The HTTP server: its parts put together.

Knows FastAPI; what is answered at which path is for `routes` to know.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from anyio import to_thread
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from .. import __version__
from .completions import Completions
from .computing.fitting import Fitting
from .http.errors import add_handlers
from .http.middleware import Metrics, RequestCheck, RequestLog
from .http.stream import Responder
from .registry import VectorRegistry
from .routes.models import add_model_routes
from .routes.ollama import add_ollama_routes
from .routes.page import add_page
from .routes.scores import Score, add_score_route
from .routes.state import add_state_routes
from .routes.text import add_text_routes
from .routes.vectors import add_fitting_routes, add_vector_routes
from .vector_files import VectorFiles

SECONDS_BETWEEN_LOOKS = 1.0  # at the vectors' files


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """How the server behaves."""

    max_bytes: int = 1_000_000  # of a request
    api_key: str | None = None
    hosts: tuple[str, ...] | None = None  # names it may be asked for under; None: any
    allow_origins: tuple[str, ...] = ()  # of other sites whose pages may ask; ("*",): all
    log_texts: bool = False  # whether the log of requests repeats what was asked and written
    shutdown_seconds: float = 30.0  # for what runs when it is told to stop
    page: str | None = None  # HTML, at /; without, there is what runs
    style: str = ""  # CSS of the page of what runs
    score: Score | None = None  # by which texts that were written can be compared
    fitting: bool = False  # whether vectors can be fitted


def create_app(
    completions: Completions,
    config: ServerConfig = ServerConfig(),  # noqa: B008  frozen
    vectors: VectorFiles | None = None,
) -> FastAPI:
    """The application, for an ASGI server. Its end closes the scheduler; the registry follows `vectors`."""
    registry, scheduler = completions.registry, completions.scheduler

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        following = asyncio.create_task(_follow(vectors, registry)) if vectors else None
        yield
        if following:
            following.cancel()
        await to_thread.run_sync(scheduler.close, config.shutdown_seconds)

    app = FastAPI(
        title="neurosteer",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        description="OpenAI-compatible completions of a steered language model.",
    )
    metrics = Metrics(lambda: scheduler.n_running, lambda: scheduler.n_waiting)
    add_handlers(app, completions)
    _add_routes(app, completions, config, metrics)
    _add_middleware(app, config, metrics)
    return app


def _add_routes(app: FastAPI, completions: Completions, config: ServerConfig, metrics: Metrics) -> None:
    registry, responder = completions.registry, Responder(completions.scheduler, metrics)
    add_model_routes(app, registry)
    add_text_routes(app, completions, responder)
    add_ollama_routes(app, completions, responder)
    add_vector_routes(app, registry, can_fit=config.fitting)
    if config.fitting:
        add_fitting_routes(app, registry, Fitting(completions.engine, registry, completions.scheduler))
    if config.score:
        add_score_route(app, completions.engine, config.score)
    add_state_routes(app, completions, metrics)
    add_page(app, completions, config.page, config.style, needs_key=config.api_key is not None)


def _add_middleware(app: FastAPI, config: ServerConfig, metrics: Metrics) -> None:
    """The last one added is the first that a request comes to."""
    app.add_middleware(RequestCheck, max_bytes=config.max_bytes, api_key=config.api_key, hosts=config.hosts)
    if config.allow_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=config.allow_origins,
            allow_methods=("GET", "HEAD", "POST"),
            allow_headers=("*",),
            expose_headers=("x-request-id", "Retry-After"),
            allow_private_network=True,  # whoever allows a page on the web means it to reach this machine
        )
    app.add_middleware(PathForm)
    app.add_middleware(RequestLog, metrics=metrics, routes=app.routes, texts=config.log_texts)


async def _follow(vectors: VectorFiles, registry: VectorRegistry) -> None:
    """Files are read beside what is answered; the registry changes between two steps of it."""
    while True:
        await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
        vectors.apply(await to_thread.run_sync(vectors.look), registry)


class PathForm:
    """Takes paths that end in a slash, and HEAD wherever there is GET; uvicorn leaves its body out."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            method = "GET" if scope["method"] == "HEAD" else scope["method"]
            scope = {**scope, "method": method, "path": scope["path"].rstrip("/") or "/"}
        await self.app(scope, receive, send)
