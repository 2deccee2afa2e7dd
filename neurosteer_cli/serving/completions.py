"""From a request for text to continuations to write, checked against model, vectors and limits.

Knows requests, the engine and vectors by name; knows nothing of HTTP.
"""

import secrets
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from ..errors import InputError
from ..generation.continuation import Continuation, GenerationConfig
from ..generation.sampling import Sampling
from ..generation.text import token_bytes
from ..models.engine import Engine
from ..vectors.vector import SteeringVector, total_dose, total_pushes
from .protocol import Answer, ChatRequest, CompletionRequest
from .registry import VectorRegistry
from .scheduler import Scheduler


class TooLongError(InputError):
    """A prompt and its continuation are more than the model, or this server, takes."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request may ask for."""

    max_new_tokens: int = 1024
    seconds: float = 120.0  # from when it has been checked


class Completions:
    """Text by a model, steered by vectors of a registry. What cannot be had is an InputError."""

    def __init__(
        self, engine: Engine, registry: VectorRegistry, scheduler: Scheduler, limits: Limits
    ) -> None:
        self.engine, self.registry, self.scheduler, self.limits = engine, registry, scheduler, limits

    def completion(self, request: CompletionRequest) -> Answer:
        """The answer, nothing of it written, to a request to go on from prompts."""
        prompts = [self._ids(prompt) for prompt in request.prompts]
        return self._answer(request, prompts, request.max_tokens or 16)

    def chat(self, request: ChatRequest) -> Answer:
        """The answer, nothing of it written, in a chat."""
        if request.top_logprobs is not None and not request.logprobs:
            raise InputError("top_logprobs: only with logprobs true")
        rendered = self.engine.chat([message.plain for message in request.messages], "messages")
        ids = self.engine.prompt_ids(rendered, "messages", rendered=True)
        room = max(1, min(self.limits.max_new_tokens, self.engine.max_tokens - len(ids)))
        return self._answer(request, [ids], request.max_completion_tokens or request.max_tokens or room)

    def dose(self, steering: dict[str, float]) -> float:
        """|sum of alpha_i v_i| / median |resid| of some vectors by name."""
        return total_dose(*self._vectors(self.registry.alphas(self.registry.model_id, steering)))

    def _ids(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            return self.engine.prompt_ids(prompt)
        d_vocab = self.engine.shape.d_vocab
        if outside := [token for token in prompt if token >= d_vocab]:
            raise InputError(f"prompt: token {outside[0]} is none of the model's {d_vocab}")
        return prompt

    def _answer(
        self, request: CompletionRequest | ChatRequest, prompts: list[list[int]], max_new_tokens: int
    ) -> Answer:
        alphas = self.registry.alphas(request.model, request.steering)
        self._check_size(prompts, request.n or 1, max_new_tokens)
        vectors, strengths = self._vectors(alphas)
        continuation = partial(
            Continuation,
            pushes=total_pushes(vectors, strengths),
            config=GenerationConfig(
                sampling=_sampling(request),
                max_new_tokens=max_new_tokens,
                positions=request.positions,
                stops=tuple(request.stops),
            ),
            n_log_probs=request.n_log_probs,
            time_limit=self.limits.seconds,
        )
        return Answer(
            request=request,
            id=f"{request.prefix}-{secrets.token_hex(12)}",
            created=int(time.time()),
            alphas=alphas,
            dose=total_dose(vectors, strengths),
            continuations=[
                continuation(ids=ids, key=self.engine.decode([], ids), sample=sample)
                for ids, sample in _samples(prompts, request.n or 1)
            ],
            bytes_of=partial(token_bytes, self.engine.tokenizer),
        )

    def _vectors(self, alphas: dict[str, float]) -> tuple[list[SteeringVector], list[float]]:
        """Those that steer, and their alphas."""
        steering = {name: alpha for name, alpha in alphas.items() if alpha}
        return [self.registry[name] for name in steering], list(steering.values())

    def _check_size(self, prompts: list[list[int]], n: int, max_new_tokens: int) -> None:
        if len(prompts) * n > (most := self.scheduler.max_batch):
            raise InputError(f"{len(prompts)} prompts, n {n}: at most {most} continuations")
        if max_new_tokens > (most := self.limits.max_new_tokens):
            raise TooLongError(f"max_tokens {max_new_tokens}: this server writes at most {most}")
        for ids in prompts:
            if len(ids) + max_new_tokens > self.engine.max_tokens:
                raise TooLongError(
                    f"the prompt's {len(ids)} tokens and {max_new_tokens} new ones exceed the model's "
                    f"context of {self.engine.max_tokens}"
                )


def _sampling(request: CompletionRequest | ChatRequest) -> Sampling:
    """What is asked for; else OpenAI's defaults, and a seed that nobody else has."""
    settings = {"temperature", "top_p", "top_k", "repetition_penalty", "seed"}
    given = request.model_dump(include=settings, exclude_none=True)
    return Sampling(**{"temperature": 1.0, "top_p": 1.0, "seed": secrets.randbits(63), **given})


def _samples(prompts: list[list[int]], n: int) -> Iterator[tuple[list[int], int]]:
    """Each prompt n times, its samples numbered on where it comes again, so that no two are alike."""
    n_samples: Counter[tuple[int, ...]] = Counter()
    for ids in prompts:
        for _ in range(n):
            yield ids, n_samples[tuple(ids)]
            n_samples[tuple(ids)] += 1
