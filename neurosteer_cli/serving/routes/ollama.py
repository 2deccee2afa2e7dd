"""Ollama's paths, for the front ends that know no others."""

from typing import Any

from anyio import to_thread
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from ... import __version__
from ...models.engine import Engine
from ..completions import Completions
from ..http.errors import REFUSALS
from ..http.stream import Responder
from ..protocol.fields import Json
from ..protocol.ollama import GenerateRequest, OllamaChatRequest, OllamaRequest, ShowRequest, loaded, now


def add_ollama_routes(app: FastAPI, completions: Completions, responder: Responder) -> None:
    _add_listing(app, completions)
    _add_text(app, completions, responder)


def _add_listing(app: FastAPI, completions: Completions) -> None:
    registry, engine, began = completions.registry, completions.engine, now()
    details = _details(engine)

    def card(name: str) -> Json:
        size = engine.model.get_memory_footprint()
        return {
            "name": name, "model": name, "modified_at": began, "size": size, "digest": "", "details": details
        }  # fmt: skip

    @app.get("/api/tags")
    async def tags() -> dict[str, Any]:
        """The model alone, and with each vector at the alpha suggested for it."""
        return {"models": [card(name) for name in registry.model_names]}

    @app.get("/api/ps")
    async def running() -> dict[str, Any]:
        """What is loaded."""
        return {"models": [{**card(registry.model_id), "size_vram": 0}]}

    @app.get("/api/version")
    async def version() -> dict[str, str]:
        return {"version": __version__}

    @app.post("/api/show", responses=REFUSALS)
    async def show(body: ShowRequest) -> dict[str, Any]:
        """What there is to know of a model's name."""
        registry.alphas(body.model or body.name or registry.model_id, {})
        info = {"general.architecture": engine.shape.architecture, "context_length": engine.max_tokens}
        unsaid = dict.fromkeys(("template", "parameters", "modelfile", "license"), "")
        return {
            "details": details, "model_info": info, "capabilities": ["completion"], "modified_at": began,
            **unsaid,
        }  # fmt: skip


def _details(engine: Engine) -> Json:
    return {
        "parent_model": "",
        "format": "safetensors",
        "family": engine.shape.architecture,
        "families": [engine.shape.architecture],
        "parameter_size": f"{engine.model.num_parameters() / 1e6:.3g}M",
        "quantization_level": str(engine.dtype).removeprefix("torch."),
    }


def _add_text(app: FastAPI, completions: Completions, responder: Responder) -> None:
    registry, engine = completions.registry, completions.engine

    def loaded_model(body: OllamaRequest) -> Response:
        """To a request for nothing: the model is there."""
        name = body.model or registry.model_id
        registry.alphas(name, body.steering)
        return JSONResponse(loaded(body, name))

    @app.post("/api/chat", responses=REFUSALS, response_model=None)
    async def chat(body: OllamaChatRequest, request: Request) -> Response:
        """Answer in a chat."""
        if not body.messages:
            return loaded_model(body)
        return await responder.respond(request, await to_thread.run_sync(completions.chat, body))

    @app.post("/api/generate", responses=REFUSALS, response_model=None)
    async def generate(body: GenerateRequest, request: Request) -> Response:
        """Answer a prompt, or go on from it."""
        if not body.prompt:
            return loaded_model(body)
        goes_on = body.raw or not (engine.tokenizer.chat_template or body.system)
        answer = completions.completion if goes_on else completions.chat
        return await responder.respond(request, await to_thread.run_sync(answer, body))
