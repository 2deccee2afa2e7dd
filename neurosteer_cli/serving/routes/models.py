"""The model's names, alone and with vectors: OpenAI's list of models."""

import time
from typing import Any

from fastapi import FastAPI

from ..http.errors import REFUSALS
from ..protocol.fields import Json
from ..registry import VectorRegistry


def add_model_routes(app: FastAPI, registry: VectorRegistry) -> None:
    began = int(time.time())

    def card(name: str) -> Json:
        return {"id": name, "object": "model", "created": began, "owned_by": "neurosteer"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The model alone, and with each vector at the alpha suggested for it."""
        return {"object": "list", "data": [card(name) for name in registry.model_names]}

    @app.get("/v1/models/{name:path}", responses={404: REFUSALS[404], 400: REFUSALS[400]})
    async def model(name: str) -> dict[str, Any]:
        """A model's name, vectors and alphas included, held against what there is."""
        registry.alphas(name, {})
        return card(name)
