"""Steered generation: rows of prompt and alphas, in batches, in their order.

Knows the engine, vectors and batches; knows nothing of records or the terminal.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ..errors import InputError
from ..models.engine import Engine
from ..models.hooks import HookPoint
from ..vectors.vector import SteeringVector, total_pushes
from .batch import POSITIONS, Batch, Continuation, Positions
from .sampling import Sampling, generator
from .text import TextStream

TOKENS_IN_CACHE = 2**16  # rows of a batch times the tokens each may come to


@dataclass(frozen=True)
class Job:
    """One continuation to write."""

    prompt: str  # names the noise: equal prompts draw equal noise
    ids: list[int]  # the prompt's tokens, at least one
    alphas: tuple[float, ...] = ()  # one a vector
    sample: int = 0  # number among the continuations of one prompt


@dataclass(frozen=True)
class Completion:
    """One finished continuation."""

    text: str  # without the prompt
    n_tokens: int  # the token that ended it, if any, not counted
    finish_reason: str  # "stop": the model ended the text; "length": max_new_tokens reached


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
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
    rows: Sequence[Job],
    vectors: Sequence[SteeringVector] = (),
    settings: GenerationConfig = GenerationConfig(),  # noqa: B008  frozen
    *,
    on_text: Callable[[int, str], None] | None = None,
) -> Iterator[tuple[int, Completion]]:
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
        yield from _run(engine, start, rows[start:stop], vectors, settings, on_text)


def _batches(rows: Sequence[Job], settings: GenerationConfig) -> Iterator[tuple[int, int]]:
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


def _run(
    engine: Engine,
    first: int,
    rows: Sequence[Job],
    vectors: Sequence[SteeringVector],
    settings: GenerationConfig,
    on_text: Callable[[int, str], None] | None,
) -> Iterator[tuple[int, Completion]]:
    """Write the rows of one batch, the first of which has the number `first`."""
    number_of = {line: first + i for i, line in enumerate(_lines(rows, vectors, settings))}
    streams = {line: TextStream(engine, line.ids) for line in number_of}
    batch = Batch(engine)
    batch.join(number_of)
    while len(batch):
        for line, token, *_ in batch.step():
            if on_text:
                text = streams[line].take(token) if line.finish_reason != "stop" else ""
                text += streams[line].finish() if line.finish_reason else ""
                if text:
                    on_text(number_of[line], text)
            if line.finish_reason:
                text = engine.decode(line.ids, line.written)
                yield number_of[line], Completion(text, len(line.written), line.finish_reason)


def _lines(
    rows: Sequence[Job], vectors: Sequence[SteeringVector], settings: GenerationConfig
) -> list[Continuation]:
    """Rows of one prompt and sample share their noise; rows of the same alphas their pushes."""
    keys = {
        (row.prompt, row.sample): generator(settings.sampling.seed, row.prompt, row.sample) for row in rows
    }
    pushes = {alphas: _pushes(vectors, alphas) for alphas in {row.alphas for row in rows}}
    return [
        Continuation(
            ids=row.ids,
            pushes=pushes[row.alphas],
            positions=settings.positions,
            sampling=settings.sampling,
            generator=keys[row.prompt, row.sample],
            max_new_tokens=settings.max_new_tokens,
        )
        for row in rows
    ]


def _pushes(vectors: Sequence[SteeringVector], alphas: tuple[float, ...]) -> dict[HookPoint, Tensor]:
    """A row's push at each hook point, [d_model]; vectors whose alpha is 0 take no part."""
    steering = [(vector, alpha) for vector, alpha in zip(vectors, alphas, strict=True) if alpha]
    return total_pushes([vector for vector, _ in steering], [alpha for _, alpha in steering])
