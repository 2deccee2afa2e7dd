"""From a request for text to continuations to write, checked against model, vectors and limits.

Knows requests, the engine, vectors by name and the scheduler; knows nothing of HTTP.
"""

import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from ..errors import InputError
from ..generation.continuation import Continuation, Delta
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
    seconds: float = 120.0


@dataclass(frozen=True, kw_only=True)
class CheckedRequest:
    """A request that has been checked: its continuations, in the order of the answer's choices."""

    answer: Answer
    continuations: list[Continuation]
    prompt_tokens: int

    @property
    def usage(self) -> dict[str, int]:
        """Tokens read and written so far."""
        written = sum(len(continuation.written) for continuation in self.continuations)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": written,
            "total_tokens": self.prompt_tokens + written,
        }


class Completions:
    """Text by a model, steered by vectors of a registry."""

    def __init__(
        self, engine: Engine, registry: VectorRegistry, scheduler: Scheduler, limits: Limits
    ) -> None:
        self.engine, self.registry, self.scheduler, self.limits = engine, registry, scheduler, limits

    def completion(self, request: CompletionRequest) -> CheckedRequest:
        """Check a request to go on from prompts.

        Raises:
            InputError: what it asks for cannot be had.
        """
        prompts = [self._ids(prompt) for prompt in request.prompts]
        return self._checked(request, prompts, request.max_tokens or 16)

    def chat(self, request: ChatRequest) -> CheckedRequest:
        """Check a request to answer in a chat.

        Raises:
            InputError: what it asks for cannot be had.
        """
        if request.top_logprobs is not None and not request.logprobs:
            raise InputError("top_logprobs: only with logprobs true")
        rendered = self.engine.chat([message.plain for message in request.messages], "messages")
        ids = self.engine.prompt_ids(rendered, "messages", rendered=True)
        room = max(1, min(self.limits.max_new_tokens, self.engine.max_tokens - len(ids)))
        return self._checked(request, [ids], request.max_completion_tokens or request.max_tokens or room)

    def submit(self, checked: CheckedRequest, on_delta: Callable[[int, Delta], None]) -> None:
        """Have a request's continuations written; `on_delta` is told (choice, delta) on the model's thread.

        Raises:
            BusyError: there is no room for them to wait.
            ClosedError: nothing new is taken on.
        """
        deadline = time.monotonic() + self.limits.seconds
        for choice, continuation in enumerate(checked.continuations):
            continuation.deadline = deadline
            continuation.on_delta = partial(on_delta, choice)
        self.scheduler.submit(checked.continuations)

    def cancel(self, checked: CheckedRequest) -> None:
        """Write a request's continuations no further."""
        self.scheduler.cancel(checked.continuations)

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

    def _vectors(self, alphas: dict[str, float]) -> tuple[list[SteeringVector], list[float]]:
        """Those that steer, and their alphas."""
        steering = {name: alpha for name, alpha in alphas.items() if alpha}
        return [self.registry[name] for name in steering], list(steering.values())

    def _checked(
        self, request: CompletionRequest | ChatRequest, prompts: list[list[int]], max_new_tokens: int
    ) -> CheckedRequest:
        alphas = self.registry.alphas(request.model, request.steering)
        self._check_size(prompts, request.n or 1, max_new_tokens)
        vectors, strengths = self._vectors(alphas)
        pushes, sampling = total_pushes(vectors, strengths), _sampling(request)
        continuations = [
            Continuation(
                ids=ids,
                key=self.engine.decode([], ids),
                sample=sample,
                pushes=pushes,
                positions=request.positions,
                sampling=sampling,
                max_new_tokens=max_new_tokens,
                stops=request.stops,
                n_log_probs=request.n_log_probs,
            )
            for ids, sample in _samples(prompts, request.n or 1)
        ]
        answer = Answer(
            request=request,
            id=f"{request.prefix}-{secrets.token_hex(12)}",
            created=int(time.time()),
            alphas=alphas,
            dose=total_dose(vectors, strengths),
            bytes_of=partial(token_bytes, self.engine.tokenizer),
        )
        return CheckedRequest(
            answer=answer, continuations=continuations, prompt_tokens=sum(map(len, prompts))
        )

    def _check_size(self, prompts: list[list[int]], n: int, max_new_tokens: int) -> None:
        if len(prompts) * n > self.scheduler.max_batch:
            raise InputError(
                f"{len(prompts)} prompts, n {n}: at most {self.scheduler.max_batch} continuations"
            )
        if max_new_tokens > self.limits.max_new_tokens:
            raise TooLongError(
                f"max_tokens {max_new_tokens}: this server writes at most {self.limits.max_new_tokens}"
            )
        for ids in prompts:
            if len(ids) + max_new_tokens > self.engine.max_tokens:
                raise TooLongError(
                    f"the prompt's {len(ids)} tokens and {max_new_tokens} new ones exceed the model's "
                    f"context of {self.engine.max_tokens}"
                )


def _sampling(request: CompletionRequest | ChatRequest) -> Sampling:
    """OpenAI's defaults, and without a seed one that nobody else has."""
    return Sampling(
        temperature=1.0 if request.temperature is None else request.temperature,
        top_p=1.0 if request.top_p is None else request.top_p,
        top_k=request.top_k,
        repetition_penalty=request.repetition_penalty,
        seed=request.seed if request.seed is not None else secrets.randbits(63),
    )


def _samples(prompts: list[list[int]], n: int) -> Iterator[tuple[list[int], int]]:
    """Each prompt n times, its samples numbered on where it comes again, so that no two are alike."""
    n_samples: Counter[tuple[int, ...]] = Counter()
    for ids in prompts:
        for _ in range(n):
            yield ids, n_samples[tuple(ids)]
            n_samples[tuple(ids)] += 1
