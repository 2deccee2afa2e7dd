"""From a request for text to continuations to write, checked against model, vectors and limits.

Knows requests, the engine and vectors by name; knows nothing of HTTP.
"""

import re
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch

from ..data.records import Passage
from ..errors import InputError
from ..generation.continuation import Continuation, GenerationConfig
from ..generation.text import token_bytes
from ..models.engine import Engine
from ..models.hooks import RESID_POST, HookPoint
from ..models.tokenizer import Tokens
from ..vectors.vector import SteeringVector, total_dose, total_pushes
from .protocol.chat import ChatRequest
from .protocol.completions import CompletionRequest
from .protocol.embeddings import EmbeddingRequest
from .protocol.fields import Json
from .protocol.ollama import GenerateRequest, OllamaChatRequest
from .protocol.responses import ResponsesRequest
from .protocol.text import Answer, TextRequest
from .registry import UnknownVectorError, VectorRegistry
from .scheduler import ClosedError, Scheduler


class TooLongError(InputError):
    """A prompt leaves no room in the model's context."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request may ask for."""

    max_new_tokens: int = 1024  # at most so many are written
    seconds: float = 120.0  # from when it has been checked


class Completions:
    """Text by a model, steered by vectors of a registry. What cannot be had is an InputError."""

    def __init__(
        self, engine: Engine, registry: VectorRegistry, scheduler: Scheduler, limits: Limits
    ) -> None:
        self.engine, self.registry, self.scheduler, self.limits = engine, registry, scheduler, limits

    def completion(self, request: CompletionRequest | GenerateRequest) -> Answer:
        """The answer, nothing of it written, to a request to go on from prompts."""
        prompts = request.prompts
        places = ["prompt"] if len(prompts) == 1 else [f"prompt.{i}" for i in range(len(prompts))]
        return self._answer(request, list(map(self.ids, prompts, places)))

    def chat(self, request: ChatRequest | ResponsesRequest | OllamaChatRequest | GenerateRequest) -> Answer:
        """The answer, nothing of it written, in a chat."""
        if not self.engine.tokenizer.chat_template:
            raise InputError(
                f"model {self.registry.model_id!r} has no chat template: to go on from plain text ask "
                '/v1/completions, or /api/generate with "raw": true'
            )
        rendered = self.engine.chat(request.chat, "messages")
        return self._answer(request, [self.engine.prompt_ids(rendered, "messages", rendered=True)])

    def embedding(self, request: EmbeddingRequest) -> "Embedding":
        """The mean residuals that are asked for, nothing of them computed."""
        return Embedding(self, request)

    def dose(self, steering: dict[str, float]) -> float:
        """|sum of alpha_i v_i| / median |resid| of some vectors by name."""
        return total_dose(*self._vectors(self.registry.alphas(self.registry.model_id, steering)))

    def ids(self, prompt: str | list[int], where: str) -> list[int]:
        """A prompt's tokens; `where` is what errors call it."""
        if isinstance(prompt, str):
            return self.engine.prompt_ids(prompt, where)
        d_vocab = self.engine.shape.d_vocab
        if outside := [token for token in prompt if token >= d_vocab]:
            raise InputError(f"{where}: token {outside[0]} is none of the model's {d_vocab}")
        return prompt

    def _answer(self, request: TextRequest, prompts: list[list[int]]) -> Answer:
        model = request.model or self.registry.model_id
        alphas = self.registry.alphas(model, request.steering)
        self._check_number(len(prompts), request.n_samples)
        vectors, strengths = self._vectors(alphas)
        settings = partial(
            GenerationConfig,
            sampling=request.sampled.sampling,
            positions=request.positions,
            stops=request.sampled.stops,
        )
        continuation = partial(
            Continuation,
            pushes=total_pushes(vectors, strengths),
            n_log_probs=request.n_log_probs,
            time_limit=self.limits.seconds,
        )
        return request.answer(
            request=request,
            id=f"{request.prefix}{secrets.token_hex(12)}",
            created=time.time(),
            model=model,
            alphas=alphas,
            dose=total_dose(vectors, strengths),
            continuations=[
                continuation(
                    ids=ids,
                    key=self.engine.decode([], ids),
                    sample=sample,
                    config=settings(max_new_tokens=self._room(ids, request.max_new_tokens)),
                )
                for ids, sample in _samples(prompts, request.n_samples)
            ],
            bytes_of=partial(token_bytes, self.engine.tokenizer),
        )

    def _vectors(self, alphas: dict[str, float]) -> tuple[list[SteeringVector], list[float]]:
        """Those that steer, and their alphas."""
        steering = {name: alpha for name, alpha in alphas.items() if alpha}
        return [self.registry[name] for name in steering], list(steering.values())

    def _check_number(self, n_prompts: int, n_samples: int) -> None:
        scheduler = self.scheduler
        if (n := n_prompts * n_samples) > (most := scheduler.max_batch + scheduler.max_waiting):
            raise InputError(
                f"{n} continuations in one request (prompts times n): this server takes on at most {most} "
                f"({scheduler.max_batch} at a time, {scheduler.max_waiting} waiting)"
            )

    def _room(self, ids: list[int], asked: int | None) -> int:
        """Tokens to write at most: what is asked for, if the server and the model's context allow it."""
        context = self.engine.max_tokens - len(ids)
        if context < 1:
            raise TooLongError(
                f"the prompt's {len(ids)} tokens leave no room in the model's context of "
                f"{self.engine.max_tokens}"
            )
        return min(asked or context, context, self.limits.max_new_tokens)


def _samples(prompts: list[list[int]], n: int) -> Iterator[tuple[list[int], int]]:
    """Each prompt n times, its samples numbered on where it comes again, so that no two are alike."""
    n_samples: Counter[tuple[int, ...]] = Counter()
    for ids in prompts:
        for _ in range(n):
            yield ids, n_samples[tuple(ids)]
            n_samples[tuple(ids)] += 1


class Embedding:
    """The mean residual of each of some texts at one block, over the tokens that count."""

    def __init__(self, completions: Completions, request: EmbeddingRequest) -> None:
        self.engine, self.scheduler, self.request = completions.engine, completions.scheduler, request
        self._ids = completions.ids
        self.model = request.model or completions.registry.model_id
        self.point = self._point(completions.registry.model_id)
        if request.dimensions not in (None, d_model := self.engine.d_model):
            raise InputError(f"dimensions: the residual has {d_model}, and a part of them means little")
        self.texts = [self._tokens(text, f"input.{i}") for i, text in enumerate(request.texts)]
        self._is_wanted = True

    def compute(self) -> Json:
        """The answer; for the model's thread, where others' texts go on between two batches."""
        means = [torch.empty(0)] * len(self.texts)
        for batch in self.engine.residuals(self.texts, [self.point]):
            resid = batch.resid[self.point]
            for row, text in enumerate(batch.texts):
                means[text] = resid[batch.text_index == row].mean(0)
            if not self._is_wanted:
                raise ClosedError("nobody waits for these numbers any more")
            self.scheduler.yield_to_batch()
        n_read = sum(len(tokens.ids) for tokens in self.texts)
        return self.request.answer(self.model, str(self.point), [mean.tolist() for mean in means], n_read)

    def abandon(self) -> None:
        """Go on no further."""
        self._is_wanted = False

    def _point(self, model_id: str) -> HookPoint:
        """Where a model's name says; else two thirds of the way up, where text's meaning is."""
        n_layers = self.engine.shape.n_layers
        name, plus, block = self.model.partition("+")
        if name != model_id:
            raise UnknownVectorError(f"model {self.model[:80]!r} is not served; ask for {model_id!r}")
        if not plus:
            return HookPoint(n_layers * 2 // 3)
        if not (match := re.fullmatch(rf"blocks\.([0-9]{{1,6}})(\.{RESID_POST})?", block)):
            raise InputError(
                f"model {self.model[:80]!r}: embeddings are not steered; a block may be named, as "
                f"{name}+blocks.{n_layers * 2 // 3}"
            )
        point = HookPoint(int(match[1]))
        point.check(n_layers)
        return point

    def _tokens(self, text: str | list[int], where: str) -> Tokens:
        if isinstance(text, str):
            tokens = self.engine.tokenize(Passage(where, text))
        else:
            ids = self._ids(text, where)
            tokens = Tokens(ids, [i > 0 and id not in self.engine.special_ids for i, id in enumerate(ids)])
        if (n := len(tokens.ids) + tokens.n_cut) > (most := self.engine.max_tokens):
            raise TooLongError(f"{where}: {n} tokens are more than the model's context of {most}")
        if not any(tokens.counts):
            raise InputError(f"{where}: no token counts: special ones do not, and neither does the first")
        return tokens
