"""Continuations written together, a token a step; others join and leave while they are.

Knows the engine, who may join, and sampling; knows nothing of vector files or of where text goes.
"""

from collections import deque
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ..models.engine import Engine
from .cache import Rows
from .continuation import Continuation, Delta, Token
from .sampling import Sampling, choose, generator
from .text import TextStream

TOKENS_IN_CACHE = 2**16  # rows of a batch times the tokens each may come to
TOKENS_PER_PASS = 4096  # of prompts that are run together, pads counted


class Batch:
    """Continuations that are written together.

    Newcomers' prompts are run by themselves, in the step after they have joined; then their keys and
    values go beside those of the others. What a continuation says depends on the others only as far
    as the machine's arithmetic does.
    """

    def __init__(self, engine: Engine, max_rows: int = 32) -> None:
        self.engine, self.max_rows = engine, max_rows
        self._rows = Rows.none(engine)
        self._newcomers: list[Continuation] = []

    def __len__(self) -> int:
        return len(self._rows.continuations) + len(self._newcomers)

    @property
    def continuations(self) -> list[Continuation]:
        """Those being written, in the order of their rows."""
        return [*self._rows.continuations, *self._newcomers]

    @property
    def is_open(self) -> bool:
        """Whether any can join: always when empty, else where the cache is one of keys and values."""
        return self._rows.can_be_joined or not self._rows.continuations

    def admit(self, waiting: deque[Continuation]) -> list[Continuation]:
        """Let those that wait join, first come first served, while there is room; those that have.

        There is room for `max_rows` rows, which may come to TOKENS_IN_CACHE tokens, pads counted, and
        for TOKENS_PER_PASS tokens of newcomers' prompts. One alone is always let in.
        """
        self._drop_finished()
        newcomers: list[Continuation] = []
        while waiting and self.is_open and self._has_room([*newcomers, waiting[0]]):
            newcomers.append(waiting.popleft())
        self.join(newcomers)
        return newcomers

    def _has_room(self, newcomers: list[Continuation]) -> bool:
        rows = [*self.continuations, *newcomers]
        longest = max(len(each.ids) + each.config.max_new_tokens for each in rows)
        longest_prompt = max(len(each.ids) for each in newcomers)
        return len(rows) == 1 or (
            len(rows) <= self.max_rows
            and len(rows) * longest <= TOKENS_IN_CACHE
            and (len(newcomers) == 1 or len(newcomers) * longest_prompt <= TOKENS_PER_PASS)
        )

    def join(self, continuations: Iterable[Continuation]) -> None:
        """Take continuations in; the next step gives each its first token. `is_open` must hold.

        Those of one key, sample and seed that join together share each draw of their noise.
        """
        shared: dict[tuple[int, str, int], torch.Generator] = {}
        for continuation in continuations:
            noise = (continuation.config.sampling.seed, continuation.key, continuation.sample)
            continuation.generator = shared[noise] = shared.get(noise) or generator(*noise)
            continuation.stream = TextStream(self.engine, continuation.ids, continuation.config.stops)
            self._newcomers.append(continuation)

    @torch.inference_mode()
    def step(self) -> list[tuple[Continuation, Delta]]:
        """Give one more token to every continuation, or, if any have joined, the first one to these alone.

        Returns what each has to give out now. Those with a `finish_reason` have left.
        """
        self._drop_finished()
        rows = Rows.of(self.engine, self._newcomers) if self._newcomers else self._rows
        if not rows.continuations:
            return []
        logits = rows.forward()
        chosen = _choose(logits, rows.continuations)
        rows.append(chosen)
        deltas = [self._take(*each) for each in zip(rows.continuations, chosen.tolist(), logits, strict=True)]
        if self._newcomers:
            self._rows, self._newcomers = self._rows.joined(rows), []
        self._drop_finished()
        return list(zip(rows.continuations, deltas, strict=True))

    def _take(self, continuation: Continuation, token_id: int, logits: Tensor) -> Delta:
        try:
            ends = token_id in self.engine.stop_ids
            return continuation.take(None if ends else _token(continuation, token_id, logits))
        except Exception as error:  # its text cannot be made; the others' can
            continuation.finish_reason = "error"
            return Delta(error=error)

    def _drop_finished(self) -> None:
        kept = [row for row, each in enumerate(self._rows.continuations) if not each.finish_reason]
        if len(kept) < len(self._rows.continuations):
            self._rows = self._rows.kept(kept)
        self._newcomers = [each for each in self._newcomers if not each.finish_reason]


def _choose(logits: Tensor, continuations: Sequence[Continuation]) -> Tensor:
    """A token a row [batch], each by its own sampling; rows that sample alike are taken together."""
    rows_of: dict[Sampling, list[int]] = {}
    for row, continuation in enumerate(continuations):
        rows_of.setdefault(continuation.config.sampling, []).append(row)
    chosen = torch.empty(len(continuations), dtype=torch.int64, device=logits.device)
    for sampling, rows in rows_of.items():
        alike = [continuations[row] for row in rows]
        ids = [each.ids + each.written for each in alike] if sampling.repetition_penalty != 1.0 else []
        of_these = logits if len(rows) == len(continuations) else logits[rows]
        chosen[rows] = choose(of_these, [each.generator for each in alike], sampling, ids)
    return chosen


def _token(continuation: Continuation, token_id: int, logits: Tensor) -> Token:
    """A chosen token and, where they are asked for, log-probabilities by its logits [d_vocab]."""
    start = len(continuation.stream.text)
    if continuation.n_log_probs is None:
        return Token(token_id, start)
    log_probs = logits.float().log_softmax(-1)
    top = log_probs.topk(continuation.n_log_probs)
    most_probable = list(zip(top.indices.tolist(), top.values.tolist(), strict=True))
    return Token(token_id, start, float(log_probs[token_id]), most_probable)
