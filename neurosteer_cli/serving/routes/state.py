"""Whether the server can write, what it counts, and which paths there are."""

from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response

from ..completions import Completions
from ..http.errors import routes_of
from ..http.middleware import CONTENT_TYPE, Metrics


def add_state_routes(app: FastAPI, completions: Completions, metrics: Metrics) -> None:
    registry, scheduler = completions.registry, completions.scheduler

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

    @app.get("/v1", include_in_schema=False)
    @app.get("/api", include_in_schema=False)
    async def index() -> dict[str, Any]:
        """Which models and paths there are."""
        return {"models": registry.model_names, "paths": routes_of(app)}
