"""From a request's form to continuations to write, and back to the JSON that OpenAI's clients read.

Knows forms, the engine, vectors by name and continuations; knows nothing of HTTP.
"""

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import InputError
from ..generation.batch import Continuation
from ..generation.sampling import Sampling, generator
from ..generation.text import TextStream, token_bytes
from ..models.engine import Engine
from ..vectors.vector import total_dose, total_pushes
from .protocol import ChatForm, CompletionForm
from .registry import Catalogue
from .scheduler import Scheduler
from .writing import Delta, Token, Writing


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

    form: CompletionForm | ChatForm
    lines: list[Continuation]
    prompt_tokens: int
    alphas: dict[str, float]
    dose: float  # |sum of alpha_i v_i| / median |resid|
    id: str
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def is_chat(self) -> bool:
        return isinstance(self.form, ChatForm)


class Service:
    """What the server can do, on one model."""

    def __init__(self, engine: Engine, catalogue: Catalogue, scheduler: Scheduler, limits: Limits) -> None:
        self.engine, self.catalogue, self.scheduler, self.limits = engine, catalogue, scheduler, limits

    # --- requests ------------------------------------------------------------------------------

    def completion(self, form: CompletionForm) -> CheckedRequest:
        """Check a completion's form against model and vectors.

        Raises:
            InputError: what it asks for cannot be had.
        """
        prompts = [form.prompt] if isinstance(form.prompt, str) else form.prompt
        if prompts and isinstance(prompts[0], int):
            prompts = [prompts]
        ids = [self._ids(prompt) for prompt in prompts]  # type: ignore[arg-type]
        return self._order(form, "cmpl", ids, form.max_tokens or 16, form.logprobs)

    def chat(self, form: ChatForm) -> CheckedRequest:
        """Check a chat's form against model and vectors.

        Raises:
            InputError: what it asks for cannot be had.
        """
        if form.top_logprobs is not None and not form.logprobs:
            raise InputError("top_logprobs: only with logprobs true")
        rendered = self.engine.chat([message.said for message in form.messages], "messages")
        ids = self.engine.prompt_ids(rendered, "messages", rendered=True)
        asked = form.max_completion_tokens or form.max_tokens
        room = max(1, min(self.limits.max_new_tokens, self.engine.max_tokens - len(ids)))
        n_log_probs = (form.top_logprobs or 0) if form.logprobs else None
        return self._order(form, "chatcmpl", [ids], asked or room, n_log_probs)

    def _ids(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            return self.engine.prompt_ids(prompt)
        d_vocab = self.engine.shape.d_vocab
        if outside := [token for token in prompt if token >= d_vocab]:
            raise InputError(f"prompt: token {outside[0]} is none of the model's {d_vocab}")
        return prompt

    def _order(
        self,
        form: CompletionForm | ChatForm,
        kind: str,
        prompts: list[list[int]],
        max_new_tokens: int,
        n_log_probs: int | None,
    ) -> CheckedRequest:
        alphas = self.catalogue.alphas(form.model, form.steering)
        n = form.n or 1
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
        vectors = [self.catalogue[name] for name, alpha in alphas.items() if alpha]
        strengths = [alpha for alpha in alphas.values() if alpha]
        pushes = total_pushes(vectors, strengths)
        seed = form.seed if form.seed is not None else secrets.randbits(63)
        sampling = Sampling(
            temperature=1.0 if form.temperature is None else form.temperature,
            top_p=1.0 if form.top_p is None else form.top_p,
            top_k=form.top_k,
            repetition_penalty=form.repetition_penalty,
            seed=seed,
        )
        lines = [
            Continuation(
                ids=ids,
                pushes=pushes,
                positions=form.positions,
                sampling=sampling,
                generator=generator(seed, self.engine.decode([], ids), sample),  # unlike that of the others
                max_new_tokens=max_new_tokens,
                n_log_probs=n_log_probs,
            )
            for number, ids in enumerate(prompts)
            for sample in range(n * prompts[:number].count(ids), n * prompts[: number + 1].count(ids))
        ]
        return CheckedRequest(
            form=form,
            lines=lines,
            prompt_tokens=sum(map(len, prompts)),
            alphas=alphas,
            dose=total_dose(vectors, strengths),
            id=f"{kind}-{secrets.token_hex(12)}",
        )

    def submit(self, order: CheckedRequest, hear: Callable[[int, Delta], None]) -> list[Writing]:
        """Have an order's continuations written; `hear` is told (choice, piece) on the model's thread.

        Raises:
            BusyError: there is no room for them to wait.
            ClosedError: nothing new is taken on.
        """
        deadline = time.monotonic() + self.limits.seconds
        writings = [
            Writing(
                line=line,
                text=TextStream(self.engine, line.ids, order.form.stops),
                hear=lambda piece, choice=choice: hear(choice, piece),  # type: ignore[misc]
                deadline=deadline,
            )
            for choice, line in enumerate(order.lines)
        ]
        self.scheduler.submit(writings)
        return writings

    def dose(self, steering: dict[str, float]) -> float:
        """|sum of alpha_i v_i| / median |resid| of some vectors by name."""
        alphas = self.catalogue.alphas(self.catalogue.model_id, steering)
        return total_dose([self.catalogue[name] for name in alphas], list(alphas.values()))

    # --- answers -------------------------------------------------------------------------------

    def answer(self, order: CheckedRequest, pieces: Sequence[Sequence[Delta]]) -> dict[str, Any]:
        """The whole answer, from each choice's pieces."""
        choices = []
        for index, parts in enumerate(pieces):
            text = "".join(part.text for part in parts)
            tokens = [token for part in parts for token in part.tokens]
            said: dict[str, Any] = {"text": text}
            if order.is_chat:
                said = {"message": {"role": "assistant", "content": text, "refusal": None}}
            choices.append(self._choice(order, index, said, tokens, parts[-1].finish_reason))
        kind = "chat.completion" if order.is_chat else "text_completion"
        return {**self._head(order, kind), "choices": choices, "usage": self.usage(order)}

    def first_chunk(self, order: CheckedRequest, index: int) -> dict[str, Any]:
        """What a chat's stream begins with."""
        said = {"delta": {"role": "assistant", "content": ""}}
        return {**self._chunk_head(order), "choices": [self._choice(order, index, said, [], None)]}

    def chunk(self, order: CheckedRequest, index: int, piece: Delta) -> dict[str, Any]:
        """A part of a streamed answer."""
        said: dict[str, Any] = {"text": piece.text}
        if order.is_chat:
            said = {"delta": {"content": piece.text} if piece.text else {}}
        choice = self._choice(order, index, said, list(piece.tokens), piece.finish_reason)
        return {**self._chunk_head(order), "choices": [choice]}

    def usage_chunk(self, order: CheckedRequest) -> dict[str, Any]:
        return {**self._chunk_head(order), "choices": [], "usage": self.usage(order)}

    def usage(self, order: CheckedRequest) -> dict[str, int]:
        """Tokens read and written so far."""
        written = sum(len(line.written) for line in order.lines)
        return {
            "prompt_tokens": order.prompt_tokens,
            "completion_tokens": written,
            "total_tokens": order.prompt_tokens + written,
        }

    def _head(self, order: CheckedRequest, kind: str) -> dict[str, Any]:
        return {
            "id": order.id,
            "object": kind,
            "created": order.created,
            "model": order.form.model,
            "steering": {"alphas": order.alphas, "dose": round(order.dose, 6)},
        }

    def _chunk_head(self, order: CheckedRequest) -> dict[str, Any]:
        head = self._head(order, "chat.completion.chunk" if order.is_chat else "text_completion")
        options = order.form.stream_options
        return {**head, "usage": None} if options and options.include_usage else head

    def _choice(
        self, order: CheckedRequest, index: int, said: dict[str, Any], tokens: list[Token], reason: str | None
    ) -> dict[str, Any]:
        log_probs = None
        if order.lines[index].n_log_probs is not None:
            log_probs = self._chat_log_probs(tokens) if order.is_chat else self._log_probs(tokens)
        return {"index": index, **said, "logprobs": log_probs, "finish_reason": reason}

    def _log_probs(self, tokens: list[Token]) -> dict[str, Any]:
        """As completions tell them."""
        return {
            "tokens": [self._piece(token.written.token) for token in tokens],
            "token_logprobs": [token.written.log_prob for token in tokens],
            "top_logprobs": [
                {self._piece(other): value for other, value in token.written.most_probable}
                for token in tokens
            ],
            "text_offset": [token.start for token in tokens],
        }

    def _chat_log_probs(self, tokens: list[Token]) -> dict[str, Any]:
        """As chats tell them."""

        def entry(token: int, log_prob: float | None) -> dict[str, Any]:
            raw = token_bytes(self.engine.tokenizer, token)
            return {"token": self._piece(token), "logprob": log_prob, "bytes": list(raw)}

        return {
            "content": [
                {
                    **entry(token.written.token, token.written.log_prob),
                    "top_logprobs": [entry(*other) for other in token.written.most_probable],
                }
                for token in tokens
            ],
            "refusal": None,
        }

    def _piece(self, token: int) -> str:
        """A token's text; of a part of a character its bytes, as OpenAI's API spells them."""
        raw = token_bytes(self.engine.tokenizer, token)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
