"""From a request for text to continuations to write, checked against model, vectors and limits.

Knows requests, the engine and vectors by name; knows nothing of HTTP.
"""

import secrets
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from ..errors import InputError
from ..generation.constraints import Constraint, JSONConstraints
from ..generation.continuation import Continuation, Echo, GenerationConfig
from ..generation.positions import Positions, thinking_marks
from ..generation.prompts import check_tokens, prompt_ids
from ..generation.text import token_bytes
from ..models.engine import Engine
from ..vectors.metadata import Kind
from ..vectors.steering import Steering
from ..vectors.vector import SteeringVector, total_dose
from .computing.gating import Gated, Gating
from .computing.scoring import Scoring
from .protocol.chat import ChatRequest
from .protocol.completions import CompletionRequest
from .protocol.fields import Json, places
from .protocol.ollama import GenerateRequest, OllamaChatRequest
from .protocol.responses import ResponsesRequest
from .protocol.text import Answer, Scorer, TextRequest
from .registry import UnknownVectorError, VectorRegistry
from .scheduler import Scheduler, TooLongError

T = TypeVar("T")


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
        self._constraints = JSONConstraints(engine)
        self._gating = Gating(engine, scheduler, registry.__getitem__)

    def completion(self, request: CompletionRequest | GenerateRequest) -> Answer:
        """The answer, nothing of it written, to a request to go on from prompts."""
        prompts = request.prompts
        named = zip(prompts, places("prompt", len(prompts)), strict=True)
        return self._answer(request, [prompt_ids(self.engine, *each) for each in named])

    def chat(self, request: ChatRequest | ResponsesRequest | OllamaChatRequest | GenerateRequest) -> Answer:
        """The answer, nothing of it written, in a chat."""
        if not self.engine.tokenizer.chat_template:
            raise InputError(
                f"model {self.registry.model_id!r} has no chat template: to go on from plain text ask "
                '/v1/completions, or /api/generate with "raw": true'
            )
        rendered = self.engine.chat(request.chat, "messages", template_args=request.template_args)
        return self._answer(request, [self.engine.prompt_ids(rendered, "messages", rendered=True)])

    def dose(self, steering: dict[str, float]) -> float | None:
        """|sum of alpha_i v_i| / median |resid| of some vectors by name; None if what acts adds nothing."""
        return _dose(*self._vectors(self.registry.alphas(self.registry.model_id, steering)))

    def _answer(self, request: TextRequest, prompts: list[list[int]]) -> Answer:
        model = request.model or self.registry.model_id
        alphas = self.registry.alphas(model, request.steering)
        self._check_number(len(prompts), request.n_samples)
        rooms = [self._room(ids, request.max_new_tokens) for ids in prompts]
        steered = self._steered(request, alphas, prompts)  # a gate reads them
        positions, settings = Positions.parse(request.positions), self._settings(request)
        continuation = partial(
            Continuation,
            marks=thinking_marks(self.engine.tokenizer, self.registry.model_id, positions),
            n_log_probs=request.n_log_probs,
            time_limit=self.limits.seconds,
        )
        constraint = self._constraint(request)
        return request.answer(
            request=request,
            id=f"{request.prefix}{secrets.token_hex(12)}",
            created=time.time(),
            model=model,
            steering=steered.told,
            continuations=[
                continuation(
                    ids=ids,
                    steering=steering,
                    constraint=constraint and constraint.copy(),
                    echo=Echo.of(self.engine, ids) if request.echoes else None,
                    key=self.engine.decode([], ids),
                    sample=sample,
                    config=settings(max_new_tokens=room),
                )
                for ids, sample, (room, steering) in _samples(
                    prompts, request.n_samples, zip(rooms, steered.steerings, strict=True)
                )
            ],
            bytes_of=partial(token_bytes, self.engine.tokenizer),
            scorer=self._scorer(request.scored_by),
        )

    def _settings(self, request: TextRequest) -> partial[GenerationConfig]:
        """How texts are written, but for how long."""
        sampling, stops = request.sampled.sampling, request.sampled.stops
        check_tokens(self.engine, (token for token, _ in sampling.logit_bias), "logit_bias")
        return partial(GenerationConfig, sampling=sampling, positions=request.positions, stops=stops)

    def _steered(self, request: TextRequest, alphas: dict[str, float], prompts: list[list[int]]) -> Gated:
        """What is done to each prompt's texts, and what an answer says of it."""
        vectors, strengths = self._vectors(alphas, request.kind)
        if request.when and not vectors:
            raise InputError("when: nothing is to be steered; name vectors and their alphas")
        steering = Steering.of(vectors, strengths)
        if steering.bias and request.echoes and request.n_log_probs is not None:
            raise InputError("echo with logprobs: not with vectors that act on logits; leave these out")
        gated = self._gating.gated(request.when, request.when_each, steering, prompts)
        told: Json = {"alphas": alphas, "dose": _dose(vectors, strengths)}
        if not all(vector.adds for vector in vectors):
            named = zip((name for name, alpha in alphas.items() if alpha), vectors, strict=True)
            told["kinds"] = {name: vector.metadata.kind for name, vector in named}
        return Gated(gated.steerings, {**told, **gated.told})

    def _scorer(self, names: Sequence[str]) -> Scorer | None:
        if not names:
            return None
        return Scoring(self.engine, self.scheduler, {name: self.registry[name] for name in names}).submit

    def _constraint(self, request: TextRequest) -> Constraint | None:
        """What texts have to come out as; each goes on from a copy."""
        if request.schema_asked is None:
            return None
        try:
            return self._constraints.of_schema(request.schema_asked)
        except InputError as error:
            raise InputError(f"the format asked for: {error}") from error

    def _vectors(
        self, alphas: dict[str, float], kind: Kind | None = None
    ) -> tuple[list[SteeringVector], list[float]]:
        """Those that steer, acting as is asked, and their alphas."""
        steering = {name: alpha for name, alpha in alphas.items() if alpha}
        return [self._acting(name, kind) for name in steering], list(steering.values())

    def _acting(self, name: str, kind: Kind | None) -> SteeringVector:
        try:
            return self.registry[name].acting(kind) if kind else self.registry[name]
        except UnknownVectorError:
            raise
        except InputError as error:
            raise InputError(f"kind: {name}: {error}") from error

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
        if context < (asked != 0):
            raise TooLongError(
                f"the prompt's {len(ids)} tokens leave no room in the model's context of "
                f"{self.engine.max_tokens}"
            )
        return min(context if asked is None else asked, context, self.limits.max_new_tokens)


def _dose(vectors: Sequence[SteeringVector], alphas: Sequence[float]) -> float | None:
    dose = total_dose(vectors, alphas)
    return None if dose is None else round(dose, 6)


def _samples(
    prompts: Sequence[list[int]], n: int, of_prompts: Iterable[T]
) -> Iterator[tuple[list[int], int, T]]:
    """Each prompt n times, its samples numbered on where it comes again, so that no two are alike.

    With each what there is of its prompt.
    """
    n_samples: Counter[tuple[int, ...]] = Counter()
    for ids, of_prompt in zip(prompts, of_prompts, strict=True):
        for _ in range(n):
            yield ids, n_samples[tuple(ids)], of_prompt
            n_samples[tuple(ids)] += 1
