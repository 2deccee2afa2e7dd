"""The HTTP server: its routes.

Knows FastAPI; what requests mean is for completions, registry and fitting to know.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from anyio import to_thread
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from .. import __version__
from .completions import Completions
from .errors import REFUSALS, add_handlers
from .fitting import Fitting
from .middleware import CONTENT_TYPE, Metrics, RequestCheck, RequestCount
from .protocol import ChatRequest, CompletionRequest, DoseRequest, FitRequest
from .registry import VectorRegistry, strongest_latents
from .scheduler import Scheduler
from .stream import CLIENT_LEFT, Responder, unless_client_leaves


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """How the server behaves."""

    max_bytes: int = 1_000_000  # of a request
    api_key: str | None = None
    hosts: tuple[str, ...] | None = None  # names it may be asked for under; None: any
    shutdown_seconds: float = 30.0  # for what runs when it is told to stop
    page: bool = False  # whether / is the demo
    fitting: bool = False  # whether vectors can be fitted


def create_app(completions: Completions, config: ServerConfig = ServerConfig()) -> FastAPI:  # noqa: B008  frozen
    """The application, for an ASGI server. Its end closes the scheduler."""
    registry, scheduler = completions.registry, completions.scheduler
    fitting = Fitting(completions) if config.fitting else None

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await to_thread.run_sync(scheduler.close, config.shutdown_seconds)

    app = FastAPI(
        title="neurosteer",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        description="OpenAI-compatible completions of a steered language model.",
    )
    metrics = Metrics(lambda: scheduler.n_running, lambda: scheduler.n_waiting)
    add_handlers(app, scheduler)
    _add_model_routes(app, registry)
    _add_text_routes(app, completions, Responder(scheduler, metrics))
    _add_vector_routes(app, registry, can_fit=fitting is not None)
    if fitting is not None:
        _add_fitting_routes(app, registry, fitting)
    _add_state_routes(app, registry, scheduler, metrics)
    if config.page:
        page = (files("neurosteer_cli.serving") / "demo.html").read_text(encoding="utf-8")
        app.get("/", include_in_schema=False)(lambda: HTMLResponse(page))

    app.add_middleware(RequestCheck, max_bytes=config.max_bytes, api_key=config.api_key, hosts=config.hosts)
    app.add_middleware(RequestCount, metrics=metrics, routes=app.routes)
    return app


def _add_model_routes(app: FastAPI, registry: VectorRegistry) -> None:
    began = int(time.time())

    def card(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": began, "owned_by": "neurosteer"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The model alone, and with each vector at the alpha suggested for it."""
        names = [registry.model_id, *map(registry.suggested_model, sorted(registry))]
        return {"object": "list", "data": [card(name) for name in names]}

    @app.get("/v1/models/{name:path}", responses={404: REFUSALS[404], 400: REFUSALS[400]})
    async def model(name: str) -> dict[str, Any]:
        """A model's name, vectors and alphas included, held against what there is."""
        registry.alphas(name, {})
        return card(name)


def _add_text_routes(app: FastAPI, completions: Completions, responder: Responder) -> None:
    @app.post("/v1/completions", responses=REFUSALS, response_model=None)
    async def complete(body: CompletionRequest, request: Request) -> Response:
        """Go on from a prompt."""
        return await responder.respond(request, await to_thread.run_sync(completions.completion, body))

    @app.post("/v1/chat/completions", responses=REFUSALS, response_model=None)
    async def chat(body: ChatRequest, request: Request) -> Response:
        """Answer in a chat."""
        return await responder.respond(request, await to_thread.run_sync(completions.chat, body))

    @app.post("/v1/dose", responses=REFUSALS)
    async def dose(body: DoseRequest) -> dict[str, float]:
        """|sum of alpha_i v_i| / median |resid|."""
        return {"dose": round(completions.dose(body.steering), 6)}


def _add_vector_routes(app: FastAPI, registry: VectorRegistry, *, can_fit: bool) -> None:
    @app.get("/v1/vectors")
    async def vectors() -> dict[str, Any]:
        """What there is to steer with."""
        cards = [registry.card(name) for name in sorted(registry)]
        return {"object": "list", "model": registry.model_id, "can_fit": can_fit, "data": cards}

    @app.get("/v1/vectors/{name}", responses={404: REFUSALS[404]})
    def vector(name: str) -> dict[str, Any]:
        """A vector's card and the latents behind it."""
        return {**registry.card(name), "latents": strongest_latents(registry[name])}


def _add_fitting_routes(app: FastAPI, registry: VectorRegistry, fitting: Fitting) -> None:
    @app.post("/v1/vectors", responses=REFUSALS, response_model=None)
    async def fit(body: FitRequest, request: Request) -> Response:
        """Fit a vector, and keep it while the server runs."""
        report = await unless_client_leaves(request, asyncio.wrap_future(fitting.begin(body)))
        if report is None:
            fitting.abandon()
            return Response(status_code=CLIENT_LEFT)
        return JSONResponse({**report, **registry.card(body.name)})

    @app.get("/v1/vectors/{name}/file", responses={404: REFUSALS[404]}, response_class=Response)
    def file(name: str) -> Response:
        """The vector file."""
        headers = {"Content-Disposition": f'attachment; filename="{name}.st"'}
        return Response(fitting.file(name), media_type="application/octet-stream", headers=headers)


def _add_state_routes(app: FastAPI, registry: VectorRegistry, scheduler: Scheduler, metrics: Metrics) -> None:
    @app.get("/health", responses={503: {"description": "The model's thread has ended"}})
    async def health() -> JSONResponse:
        """Whether it can write."""
        state = {
            "status": "ok" if scheduler.is_alive else "down",
            "model": registry.model_id,
            "vectors": len(registry),
            "running": scheduler.n_running,
            "waiting": scheduler.n_waiting,
        }
        return JSONResponse(state, 200 if state["status"] == "ok" else 503)

    @app.get("/metrics", include_in_schema=False)
    async def text() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)
