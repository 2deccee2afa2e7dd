"""Continuations written together, a token a step; others join and leave while they are.

Knows the engine, who may join, when prompts are read, and sampling; knows nothing of vector files or of
where text goes.
"""

import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ...models.engine import Engine
from ..continuation import Continuation, Delta, Token, scored
from ..sampling import Sampling, choose, generator
from ..text import TextStream
from .cache import Caching
from .pace import SLICE_ALONE, Pace
from .reading import Reading, shared
from .rows import Rows

TOKENS_IN_CACHE = 2**16  # rows of a batch times the tokens each may come to
TOKENS_PER_PASS = 4096  # of prompts that are run together, pads counted
LOGITS_AT_ONCE = 2**25  # of a prompt's tokens whose log-probabilities are wanted
SIMILAR = 2  # prompts that are read in slices together are at most so many times as long as one another

Told = list[tuple[Continuation, Delta]]


class Batch:
    """Continuations that are written together.

    Newcomers' prompts are read by themselves; then what the model remembers of them goes beside what it
    remembers of the others. What a continuation says depends on the others only as far as the machine's
    arithmetic does.
    """

    def __init__(self, engine: Engine, max_rows: int = 32, *, pace: Pace | None = None) -> None:
        """`pace`: those that are being written get a token between two slices of newcomers' prompts.

        A slice takes about as long as a token does, so how prompts are cut, and with it the last bits of
        their arithmetic, hangs on the machine's speed.
        """
        self.engine, self.max_rows = engine, max_rows
        self.caching = Caching(engine)
        self._rows = Rows.none(self.caching)
        self._newcomers: list[Continuation] = []
        self._reading: deque[Reading] = deque()
        self.pace = pace
        self._has_read = False  # in the last step

    def __len__(self) -> int:
        return len(self.continuations)

    @property
    def continuations(self) -> list[Continuation]:
        """Those being written, in the order of their rows, then those whose prompts are not read yet."""
        reading = (one for each in self._reading for one in each.continuations)
        return [*self._rows.continuations, *reading, *self._newcomers]

    def admit(self, waiting: deque[Continuation]) -> list[Continuation]:
        """Let those that wait join, first come first served, while there is room; those that have.

        There is room for `max_rows` rows, which may come to TOKENS_IN_CACHE tokens, pads counted, and
        for TOKENS_PER_PASS tokens of newcomers' prompts, those that are read once counted once. One alone is
        always let in.
        """
        self._drop_finished()
        newcomers: list[Continuation] = []
        while waiting and self._has_room([*newcomers, waiting[0]]):
            newcomers.append(waiting.popleft())
        self.join(newcomers)
        return newcomers

    def _has_room(self, newcomers: list[Continuation]) -> bool:
        rows = [*self.continuations, *newcomers]
        longest = max(len(each.ids) + each.config.max_new_tokens for each in rows)
        longest_prompt = max(len(each.ids) for each in newcomers)
        n_prompts = len(shared(self.caching, newcomers))
        return len(rows) == 1 or (
            len(rows) <= self.max_rows
            and len(rows) * longest <= TOKENS_IN_CACHE
            and (n_prompts == 1 or n_prompts * longest_prompt <= TOKENS_PER_PASS)
        )

    def join(self, continuations: Iterable[Continuation]) -> None:
        """Take continuations in; each gets its first token in the step that has read its prompt.

        Those of one key, sample and seed that join together share each draw of their noise.
        """
        shared: dict[tuple[int, str, int], torch.Generator] = {}
        for continuation in continuations:
            noise = (continuation.config.sampling.seed, continuation.key, continuation.sample)
            continuation.generator = shared[noise] = shared.get(noise) or generator(*noise)
            continuation.stream = TextStream(self.engine, continuation.ids, continuation.config.stops)
            self._newcomers.append(continuation)

    @torch.inference_mode()
    def step(self) -> Told:
        """Read prompts, whose continuations then get their first token, or give the others one more.

        Prompts come first; in slices, they take turns with the others' tokens. Returns what each has to
        give out now; after a slice that ends no prompt, nothing. Those with a `finish_reason` have left.
        """
        self._drop_finished()
        self._group_newcomers()
        self._has_read = self._reads_next()
        told = self._read() if self._has_read else self._write()
        self._drop_finished()
        return told

    def _group_newcomers(self) -> None:
        if self._newcomers and self._takes_rows_in:
            groups = self._read_together(self._newcomers)
            self._reading += (Reading.of(self.caching, group) for group in groups)
            self._newcomers = []

    @property
    def _takes_rows_in(self) -> bool:
        return self.caching.can_join or not self._rows.continuations

    def _read_together(self, newcomers: list[Continuation]) -> list[list[Continuation]]:
        """Newcomers in groups, each of which is padded to one length if the cache allows for pads."""
        if len(newcomers) == 1 or (self.caching.can_pad and not self.pace):
            return [newcomers]
        groups: list[list[Continuation]] = []
        for each in sorted(newcomers, key=lambda one: len(one.ids)):
            if groups and self._are_alike(groups[-1][0], each):
                groups[-1].append(each)
            else:
                groups.append([each])
        return groups

    def _are_alike(self, shorter: Continuation, longer: Continuation) -> bool:
        if self.caching.can_pad:
            return len(longer.ids) <= SIMILAR * len(shorter.ids)
        return len(longer.ids) == len(shorter.ids) and not self.caching.one_by_one

    def _reads_next(self) -> bool:
        if not self._reading or not self._takes_rows_in:
            return False
        return not (self.pace and self._has_read and self._rows.continuations)

    def _read(self) -> Told:
        """Read those prompts that have waited longest, or on in them; at their end choose first tokens."""
        reading = self._reading.popleft()
        rows, n = reading.rows, self._n_columns(reading)
        start = time.perf_counter()
        logits = self._logits(rows, n)  # [batch, d_vocab]
        if n is not None:
            float(logits[0, 0])  # an accelerator's time is over once there is a number
            if self.pace:
                n_tokens = n * len(rows.continuations)
                reading.n_tokens = self.pace.next_slice(n_tokens, time.perf_counter() - start)
            self._reading.append(reading)
            return []
        rows, logits, is_finite = reading.shared_out(*_urged(rows, logits))
        told = self._choose(rows, logits, is_finite)
        rows = _unfinished(rows)
        if rows.continuations:
            self._rows = self._rows.joined(rows)
        return told

    def _logits(self, rows: Rows, n: int | None) -> Tensor:
        """Read n tokens of each prompt, all if None, and note what echoes want of them; the last logits."""
        if not _scores_prompts(rows):
            return rows.forward(n)[:, -1]
        n = rows.n_unread if n is None else n
        width, n_read = rows.mask.shape[1], rows.mask.shape[1] - rows.n_unread
        logits = rows.forward(n, n_logits=n)  # [batch, n, d_vocab]
        for each, of_row in zip(rows.continuations, logits, strict=True):
            if each.echo and each.n_log_probs is not None:
                before = width - len(each.ids) - n_read  # columns of pads, less those read
                first, end = max(0, -before), max(0, n - before)  # of its tokens, those read now
                following = each.ids[first + 1 : end + 1]
                each.echo.take(following, of_row[first + before :], each.n_log_probs)
        return logits[:, -1]

    def _n_columns(self, reading: Reading) -> int | None:
        """Tokens of each prompt to read now; None if it is all that are left."""
        scores = _scores_prompts(reading.rows)
        if not (self.caching.can_slice and (self.pace or scores)):
            return None
        n_tokens = reading.n_tokens if self.pace and self._rows.continuations else SLICE_ALONE
        if scores:
            n_tokens = min(n_tokens, LOGITS_AT_ONCE // self.engine.shape.d_vocab)
        n = max(1, n_tokens // len(reading.rows.continuations))
        return n if n < reading.rows.n_unread else None

    def _write(self) -> Told:
        if not self._rows.continuations:
            return []
        start = time.perf_counter()
        told = self._choose(self._rows, *_urged(self._rows, self._rows.forward()[:, -1]))
        if self.pace:
            self.pace.note_step(time.perf_counter() - start)
        return told

    def _choose(self, rows: Rows, logits: Tensor, is_finite: Tensor) -> Told:
        """Go on with a token a row, by logits [batch, d_vocab]; of a row that has none, [batch], end it."""
        chosen = _chosen(logits, rows.continuations)
        rows.append(chosen)
        each = zip(rows.continuations, chosen.tolist(), logits, is_finite.tolist(), strict=True)
        return [(continuation, self._take(continuation, *token)) for continuation, *token in each]

    def _take(self, continuation: Continuation, token_id: int, logits: Tensor, is_finite: bool) -> Delta:
        try:
            if not is_finite:
                raise self.engine.not_finite(continuation.ids + continuation.written)
            token = _token(continuation, token_id, logits)
            if token_id not in self.engine.stop_ids or not continuation.config.max_new_tokens:
                return continuation.take(token)
            return replace(continuation.take(None), end=token)
        except Exception as error:  # its text cannot be made; the others' can
            continuation.finish_reason = "error"
            return Delta(error=error)

    @property
    def is_reading(self) -> bool:
        """Whether there are prompts that are not read to their ends."""
        return bool(self._reading or self._newcomers)

    def let_wait(self) -> None:
        """Something else has taken a slice's time: in the next step it is the others' turn, not prompts'."""
        self._has_read = True

    def _drop_finished(self) -> None:
        self._rows = _unfinished(self._rows)
        for reading in self._reading:
            reading.drop_finished()
        self._reading = deque(reading for reading in self._reading if reading.sharing)
        self._newcomers = [each for each in self._newcomers if not each.finish_reason]


def _scores_prompts(rows: Rows) -> bool:
    return any(each.scores_prompt for each in rows.continuations)


def _unfinished(rows: Rows) -> Rows:
    kept = [row for row, each in enumerate(rows.continuations) if not each.finish_reason]
    return rows if len(kept) == len(rows.continuations) else rows.kept(kept)


def _urged(rows: Rows, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [batch, d_vocab] with what the rows add to them, and whether each row's are finite, [batch]."""
    is_finite = logits.amax(-1).isfinite()  # NaN is the largest, and tokens may be ruled out by -inf
    if not is_finite.all():
        logits = logits.where(is_finite[:, None], 0)
    return rows.urged(logits), is_finite


def _chosen(logits: Tensor, continuations: Sequence[Continuation]) -> Tensor:
    """A token a row [batch], each by its own sampling; rows that sample alike are taken together."""
    logits = _allowed(logits, continuations)
    rows_of: dict[Sampling, list[int]] = {}
    for row, continuation in enumerate(continuations):
        rows_of.setdefault(continuation.config.sampling, []).append(row)
    chosen = torch.empty(len(continuations), dtype=torch.int64, device=logits.device)
    for sampling, rows in rows_of.items():
        alike = [continuations[row] for row in rows]
        of_these = logits if len(rows) == len(continuations) else logits[rows]
        prompts, written = [each.ids for each in alike], [each.written for each in alike]
        chosen[rows] = choose(of_these, [each.generator for each in alike], sampling, prompts, written)
    return chosen


def _allowed(logits: Tensor, continuations: Sequence[Continuation]) -> Tensor:
    """Logits without the tokens that a row's constraint does not allow."""
    constrained = {row: each.constraint for row, each in enumerate(continuations) if each.constraint}
    if constrained:
        logits = logits.clone()
    for row, constraint in constrained.items():
        logits[row, ~constraint.allowed(logits.shape[-1]).to(logits.device)] = -torch.inf
    return logits


def _token(continuation: Continuation, token_id: int, logits: Tensor) -> Token:
    """A chosen token and, where they are asked for, log-probabilities by its logits [d_vocab]."""
    start = len(continuation.stream.text)
    if continuation.n_log_probs is None:
        return Token(token_id, start)
    return scored(token_id, start, logits, continuation.n_log_probs)
