"""Steered generation: rows of prompt and alphas, in batches, one token a step.

Knows the engine, vectors and sampling; knows nothing of records or the terminal.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from transformers import DynamicCache

from .engine import Engine
from .errors import InputError
from .hooks import HookPoint, add
from .sampling import Noise, Sampling, choose
from .vector import SteeringVector

Positions = Literal["all", "prompt", "generated"]
POSITIONS = get_args(Positions)
TOKENS_IN_CACHE = 2**16  # rows of a batch times the tokens each may come to


@dataclass(frozen=True)
class Row:
    """One continuation to write."""

    prompt: str  # names the noise: equal prompts draw equal noise
    ids: list[int]  # the prompt's tokens, at least one
    alphas: tuple[float, ...] = ()  # one a vector
    sample: int = 0  # number among the continuations of one prompt


@dataclass(frozen=True)
class Generation:
    """One finished continuation."""

    text: str  # without the prompt
    n_tokens: int  # the token that ended it, if any, not counted
    finish_reason: str  # "stop": the model ended the text; "length": max_new_tokens reached


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all rows of a call share.

    `positions` names the tokens whose residuals are steered: `all`, those of the `prompt`, or those
    `generated` (the first generated token is then chosen unsteered: it follows from the prompt).
    """

    sampling: Sampling = field(default_factory=Sampling)
    max_new_tokens: int = 64
    positions: Positions = "all"
    batch_size: int = 32

    def __post_init__(self) -> None:
        if self.positions not in POSITIONS:
            raise InputError(f"--positions must be one of {', '.join(POSITIONS)}, got {self.positions!r}")
        if self.max_new_tokens < 1:
            raise InputError(f"--max-new-tokens must be at least 1, got {self.max_new_tokens}")
        if self.batch_size < 1:
            raise InputError(f"--batch-size must be at least 1, got {self.batch_size}")


def generate(
    engine: Engine,
    rows: Sequence[Row],
    vectors: Sequence[SteeringVector] = (),
    settings: Settings = Settings(),  # noqa: B008  frozen
    *,
    on_text: Callable[[int, str], None] | None = None,
) -> Iterator[tuple[int, Generation]]:
    """Continue each row's prompt with the sum of its alphas times the vectors added.

    Args:
        vectors: each row has one alpha for each; all must fit the engine's model.
        on_text: told (row, new text) as a continuation grows.

    Yields:
        (row, generation) as soon as it is finished; batches follow the order of `rows`.

    A row's text depends on its prompt, sample, alphas and the seed, and not on the batch it is
    written in, as far as the machine's arithmetic does not (float32 and bfloat16 sums depend in
    their last bits on the shape of a batch).

    Raises:
        InputError: an alpha is not finite, or a prompt and its continuation exceed the context.
    """
    for row in rows:
        if not all(map(math.isfinite, row.alphas)) or len(row.alphas) != len(vectors):
            raise InputError(f"alphas {row.alphas} for {len(vectors)} vectors: one finite number each")
        if len(row.ids) + settings.max_new_tokens > engine.max_tokens:
            raise InputError(
                f"prompt of {len(row.ids)} tokens and {settings.max_new_tokens} new ones exceed the model's "
                f"context of {engine.max_tokens}: {row.prompt[:40]!r}; shorten it"
            )
    for start, stop in _batches(rows, settings):
        batch = _Batch(engine, rows[start:stop], vectors, settings)

        def on_batch_text(line: int, text: str, first: int = start) -> None:
            assert on_text is not None
            on_text(first + line, text)

        for index, generation in batch.run(on_batch_text if on_text else None):
            yield start + index, generation


def _batches(rows: Sequence[Row], settings: Settings) -> Iterator[tuple[int, int]]:
    """Cut rows, in order, into batches bounded in rows and in tokens held."""
    start, longest = 0, 0
    for i, row in enumerate(rows):
        longest = max(longest, len(row.ids) + settings.max_new_tokens)
        n = i - start + 1
        if n > 1 and (n > settings.batch_size or n * longest > TOKENS_IN_CACHE):
            yield start, i
            start, longest = i, len(row.ids) + settings.max_new_tokens
    if rows:
        yield start, len(rows)


class _Batch:
    """Rows that are written together. Finished ones leave, and the rest goes on in a smaller batch."""

    def __init__(
        self,
        engine: Engine,
        rows: Sequence[Row],
        vectors: Sequence[SteeringVector],
        settings: Settings,
    ) -> None:
        self.engine, self.rows, self.settings = engine, rows, settings
        self.live = list(range(len(rows)))  # which row each line of the tensors below belongs to
        self.written: list[list[int]] = [[] for _ in rows]
        self.ids, self.mask = _left_padded([row.ids for row in rows], engine.device)  # [batch, pos]
        self.padded = not bool(self.mask.all())
        self.pushes = _pushes(rows, vectors, engine.device)  # [batch, d_model] each
        self.cache = DynamicCache(config=engine.model.config)
        self.noise = Noise(
            [(row.prompt, row.sample) for row in rows], settings.sampling.seed, engine.shape.d_vocab
        )
        self.seen: Tensor | None = None  # [batch, d_vocab] bool
        if settings.sampling.repetition_penalty != 1.0:
            self.seen = torch.zeros(len(rows), engine.shape.d_vocab, dtype=torch.bool, device=engine.device)
            for line, row in enumerate(rows):
                self.seen[line, row.ids] = True

    @torch.inference_mode()
    def run(self, on_text: Callable[[int, str], None] | None) -> Iterator[tuple[int, Generation]]:
        """Write until every row is finished."""
        shown = [""] * len(self.rows)
        while self.live:
            logits = self._forward()
            chosen = choose(logits, self.noise, self.settings.sampling, self.seen)  # [batch]
            going, finished = [], []
            for line, (row, token) in enumerate(zip(self.live, chosen.tolist(), strict=True)):
                reason = self._take(row, token)
                if on_text:
                    shown[row] = self._show(row, shown[row], on_text, final=reason is not None)
                if reason is None:
                    going.append(line)
                else:
                    finished.append((row, reason))
            self._keep(going, chosen)
            for row, reason in finished:
                yield row, Generation(self._text(row), len(self.written[row]), reason)

    def _forward(self) -> Tensor:
        """Logits [batch, d_vocab] after the tokens not yet in the cache."""
        prefill = self.cache.get_seq_length() == 0
        steered = self.settings.positions in ("all", "prompt" if prefill else "generated")
        positions = (self.mask.cumsum(-1) - 1).clamp_min(0)  # [batch, pos so far]
        with add(self.engine.blocks, self._pushes_at(prefill) if steered else {}):
            output = self.engine.model(
                input_ids=self.ids,
                attention_mask=self.mask if self.padded else None,
                position_ids=positions[:, -self.ids.shape[1] :],
                use_cache=True,
                logits_to_keep=1,
                **{self.engine.cache_argument: self.cache},
            )
        logits: Tensor = output.logits[:, -1]
        return logits

    def _pushes_at(self, prefill: bool) -> dict[HookPoint, Tensor]:
        """Pushes [batch, 1 or pos, d_model]; pads are never steered."""
        if not (prefill and self.padded):
            return {point: push[:, None] for point, push in self.pushes.items()}
        return {point: push[:, None] * self.mask[..., None] for point, push in self.pushes.items()}

    def _take(self, row: int, token: int) -> str | None:
        """Add a token to a row; say why the row is finished, if it is."""
        if token in self.engine.stop_ids:
            return "stop"
        self.written[row].append(token)
        return "length" if len(self.written[row]) == self.settings.max_new_tokens else None

    def _keep(self, lines: list[int], chosen: Tensor) -> None:
        """Go on with these lines, each one's chosen token next."""
        if len(lines) < len(self.live):
            kept = torch.tensor(lines, dtype=torch.int64, device=self.engine.device)
            self.live = [self.live[line] for line in lines]
            if not lines:
                return
            self.cache.batch_select_indices(kept)
            self.mask, chosen = self.mask[kept], chosen[kept]
            self.pushes = {point: push[kept] for point, push in self.pushes.items()}
            self.seen = None if self.seen is None else self.seen[kept]
            self.noise.keep(lines)
        self.ids = chosen[:, None]
        self.mask = torch.cat([self.mask, torch.ones_like(self.ids)], dim=1)
        if self.seen is not None:
            self.seen.scatter_(1, self.ids, True)

    def _text(self, row: int) -> str:
        return self.engine.decode(self.rows[row].ids, self.written[row])

    def _show(self, row: int, before: str, on_text: Callable[[int, str], None], *, final: bool) -> str:
        """Pass on what is new; half a character waits for its other half."""
        text = self._text(row)
        if text.endswith("\ufffd") and not final:
            return before
        if text != before:
            on_text(row, text[len(before) :])
        return text


def _left_padded(rows: Sequence[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, both [batch, pos] int64, padded on the left."""
    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for line, row in enumerate(rows):
        ids[line, longest - len(row) :] = torch.tensor(row)
        mask[line, longest - len(row) :] = 1
    return ids.to(device), mask.to(device)


def _pushes(
    rows: Sequence[Row], vectors: Sequence[SteeringVector], device: torch.device
) -> dict[HookPoint, Tensor]:
    """Each row's push at each hook point, [batch, d_model]; hook points that no row steers left out."""
    pushes: dict[HookPoint, Any] = {}
    for number, vector in enumerate(vectors):
        alphas = torch.tensor([[row.alphas[number]] for row in rows])  # [batch, 1]
        if alphas.any():
            for point, push in vector.pushes.items():
                pushes[point] = pushes.get(point, 0) + alphas * push
    return {point: push.to(device) for point, push in pushes.items()}
