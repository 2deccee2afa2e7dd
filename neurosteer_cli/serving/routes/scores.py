"""What is thought of texts that were written, where whoever runs the server gave something to think by."""

from collections.abc import Callable, Sequence

from anyio import to_thread
from fastapi import FastAPI

from ...models.engine import Engine
from ..http.errors import REFUSALS
from ..protocol.fields import Json
from ..protocol.vectors import ScoreRequest

# Of a prompt, whether it is a rendered chat, and its continuations, on any thread.
Score = Callable[[str, bool, Sequence[str]], Json]


def add_score_route(app: FastAPI, engine: Engine, score: Score) -> None:
    @app.post("/v1/score", responses=REFUSALS)
    async def scores(body: ScoreRequest) -> Json:
        """What judges say of continuations, and how probable they are unsteered."""
        message = [{"role": "user", "content": body.prompt}]
        prompt = engine.chat(message, "prompt") if body.chat else body.prompt
        return await to_thread.run_sync(score, prompt, body.chat, body.texts)
