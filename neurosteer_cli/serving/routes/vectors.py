"""What there is to steer with, and vectors fitted while the server runs."""

import asyncio
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from ..computing.fitting import Fitting, texts_of
from ..http.errors import REFUSALS
from ..http.stream import CLIENT_LEFT, unless_client_leaves
from ..protocol.vectors import FitRequest, TextsRequest
from ..registry import VectorRegistry, strongest_latents


def add_vector_routes(app: FastAPI, registry: VectorRegistry, *, can_fit: bool) -> None:
    @app.get("/v1/vectors")
    async def vectors() -> dict[str, Any]:
        """What there is to steer with."""
        cards = [registry.card(name) for name in sorted(registry)]
        return {"object": "list", "model": registry.model_id, "can_fit": can_fit, "data": cards}

    @app.get("/v1/vectors/{name}", responses={404: REFUSALS[404]})
    def vector(name: str) -> dict[str, Any]:
        """A vector's card and the latents behind it."""
        return {**registry.card(name), "latents": strongest_latents(registry[name])}


def add_fitting_routes(app: FastAPI, registry: VectorRegistry, fitting: Fitting) -> None:
    @app.post("/v1/vectors", responses=REFUSALS, response_model=None)
    async def fit(body: FitRequest, request: Request) -> Response:
        """Fit a vector, and keep it while the server runs."""
        report = await unless_client_leaves(request, asyncio.wrap_future(fitting.begin(body)))
        if report is None:
            fitting.abandon()
            return Response(status_code=CLIENT_LEFT)
        return JSONResponse({**report, **registry.card(body.name)})

    @app.get("/v1/fitting")
    async def progress() -> dict[str, Any]:
        """How far the vector is that is being fitted; empty while there is none."""
        return fitting.progress

    @app.post("/v1/texts", responses=REFUSALS)
    def texts(body: TextsRequest) -> dict[str, Any]:
        """The records of a file, to fit on."""
        return {"records": texts_of(body)}

    @app.get("/v1/vectors/{name}/file", responses={404: REFUSALS[404]}, response_class=Response)
    def file(name: str) -> Response:
        """The vector file."""
        headers = {"Content-Disposition": f'attachment; filename="{name}.st"'}
        return Response(fitting.file(name), media_type="application/octet-stream", headers=headers)
