"""Where text is asked for in OpenAI's forms, and what is told about it: residuals and doses."""

import asyncio
from typing import Any

from anyio import to_thread
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from ..completions import Completions
from ..computing.embeddings import Embedding
from ..http.errors import REFUSALS
from ..http.stream import CLIENT_LEFT, Responder, unless_client_leaves
from ..protocol.chat import ChatRequest
from ..protocol.completions import CompletionRequest
from ..protocol.embeddings import EmbeddingRequest
from ..protocol.responses import ResponsesRequest
from ..protocol.vectors import DoseRequest


def add_text_routes(app: FastAPI, completions: Completions, responder: Responder) -> None:
    engine, registry, scheduler = completions.engine, completions.registry, completions.scheduler

    @app.post("/v1/completions", responses=REFUSALS, response_model=None)
    async def complete(body: CompletionRequest, request: Request) -> Response:
        """Go on from a prompt."""
        return await responder.respond(request, await to_thread.run_sync(completions.completion, body))

    @app.post("/v1/chat/completions", responses=REFUSALS, response_model=None)
    async def chat(body: ChatRequest, request: Request) -> Response:
        """Answer in a chat."""
        return await responder.respond(request, await to_thread.run_sync(completions.chat, body))

    @app.post("/v1/responses", responses=REFUSALS, response_model=None)
    async def respond(body: ResponsesRequest, request: Request) -> Response:
        """Answer in a chat, in the form of OpenAI's newer API."""
        return await responder.respond(request, await to_thread.run_sync(completions.chat, body))

    @app.post("/v1/embeddings", responses=REFUSALS, response_model=None)
    async def embed(body: EmbeddingRequest, request: Request) -> Response:
        """Each text's mean residual at a block."""
        embedding = await to_thread.run_sync(Embedding, engine, scheduler, registry.model_id, body)
        future = scheduler.call(embedding.compute)
        answer = await unless_client_leaves(request, asyncio.wrap_future(future))
        if answer is None:
            embedding.abandon()
            return Response(status_code=CLIENT_LEFT)
        return JSONResponse(answer)

    @app.post("/v1/dose", responses=REFUSALS)
    async def dose(body: DoseRequest) -> dict[str, Any]:
        """|sum of alpha_i v_i| / median |resid|; null if what acts adds nothing."""
        return {"dose": completions.dose(body.steering)}
