"""The HTTP server: its routes.

Knows FastAPI; what requests mean is the service's.
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
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response

from .. import __version__
from .completions import Service
from .errors import REFUSALS, add_handlers
from .fitting import Workshop
from .middleware import Gate
from .portrait import portrait, strongest_latents
from .protocol import ChatForm, CompletionForm, DoseForm, FitForm
from .stream import GONE, Writer, unless_gone
from .telemetry import CONTENT_TYPE, Counted, Telemetry


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """How the server behaves."""

    max_bytes: int = 1_000_000  # of a request
    api_key: str | None = None
    hosts: tuple[str, ...] | None = None  # names it may be asked for under; None: any
    shutdown_seconds: float = 30.0  # for what runs when it is told to stop
    page: bool = False  # whether / is the demo
    fitting: bool = False  # whether vectors can be fitted


def create_app(service: Service, options: ServerConfig = ServerConfig()) -> FastAPI:  # noqa: B008  frozen
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
    writer = Writer(service, telemetry)
    add_handlers(app)
    _add_openai_routes(app, service, writer)
    _add_vector_routes(app, service, workshop)
    _add_state_routes(app, service, telemetry)
    if options.page:
        page = (files("neurosteer_cli.serving") / "demo.html").read_text(encoding="utf-8")
        app.get("/", include_in_schema=False)(lambda: HTMLResponse(page))

    app.add_middleware(Gate, max_bytes=options.max_bytes, api_key=options.api_key, hosts=options.hosts)
    app.add_middleware(Counted, telemetry=telemetry, routes=app.routes)
    return app


def _add_openai_routes(app: FastAPI, service: Service, writer: Writer) -> None:
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

    @app.get("/v1/models/{name:path}", responses={404: REFUSALS[404], 400: REFUSALS[400]})
    async def model(name: str) -> dict[str, Any]:
        """A model's name, vectors and alphas included, held against what there is."""
        service.catalogue.alphas(name, {})
        return card(name)

    @app.post("/v1/completions", responses=REFUSALS, response_model=None)
    async def completions(form: CompletionForm, request: Request) -> Response:
        """Go on from a prompt."""
        return await writer.respond(request, await to_thread.run_sync(service.completion, form))

    @app.post("/v1/chat/completions", responses=REFUSALS, response_model=None)
    async def chat_completions(form: ChatForm, request: Request) -> Response:
        """Answer in a chat."""
        return await writer.respond(request, await to_thread.run_sync(service.chat, form))


def _add_vector_routes(app: FastAPI, service: Service, workshop: Workshop | None) -> None:
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

    @app.get("/v1/vectors/{name}", responses={404: REFUSALS[404]})
    def vector(name: str) -> dict[str, Any]:
        """A vector's facts and the latents behind it."""
        facts = portrait(catalogue, name)
        return {**facts, "latents": strongest_latents(catalogue[name], service.engine.model_id)}

    @app.post("/v1/dose", responses=REFUSALS)
    async def dose(form: DoseForm) -> dict[str, float]:
        """|sum of alpha_i v_i| / median |resid|."""
        return {"dose": round(service.dose(form.steering), 6)}

    if workshop is not None:
        shop = workshop

        @app.post("/v1/vectors", responses=REFUSALS, response_model=None)
        async def fit(form: FitForm, request: Request) -> Response:
            """Fit a vector, and keep it while the server runs."""
            facts = await unless_gone(request, asyncio.wrap_future(shop.begin(form)))
            if facts is None:
                shop.abandon()
                return Response(status_code=GONE)
            return JSONResponse({**facts, **portrait(catalogue, form.name)})

        @app.get("/v1/vectors/{name}/file", responses={404: REFUSALS[404]}, response_class=FileResponse)
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
