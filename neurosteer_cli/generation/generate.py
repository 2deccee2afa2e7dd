"""Steered generation: jobs of prompt and alphas to finished continuations, in a batch that refills.

Knows the engine, vectors and batches; knows nothing of records or the terminal.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ..errors import InputError
from ..models.engine import Engine
from ..vectors.gate import Gate
from ..vectors.steering import Steering
from ..vectors.vector import SteeringVector
from .batching.batch import Batch
from .continuation import Continuation, GenerationConfig
from .positions import thinking_marks

# Share of the rows at which others join: each time costs a pass and a copy of the cache.
REFILL_AT = 0.75


@dataclass(frozen=True)
class Job:
    """One continuation to write."""

    key: str  # names the noise: equal keys draw equal noise; `Job.of` takes the prompt
    ids: list[int]  # the prompt's tokens, at least one
    alphas: tuple[float, ...] = ()  # one a vector
    sample: int = 0  # number among the continuations of one prompt

    @classmethod
    def of(cls, engine: Engine, prompt: str, *alphas: float, sample: int = 0) -> "Job":
        """The job to continue a plain prompt.

        Raises:
            InputError: the prompt is empty.
        """
        return cls(prompt, engine.prompt_ids(prompt), alphas, sample)


@dataclass(frozen=True)
class Completion:
    """One finished continuation."""

    text: str  # without the prompt
    n_tokens: int  # the token that ended it, if any, not counted
    finish_reason: str  # "stop": the model ended the text; "length": max_new_tokens reached


def generate(
    engine: Engine,
    jobs: Sequence[Job],
    vectors: Sequence[SteeringVector] = (),
    config: GenerationConfig = GenerationConfig(),  # noqa: B008  frozen
    *,
    gate: Gate | None = None,
    on_text: Callable[[int, str], None] | None = None,
) -> Iterator[tuple[int, Completion]]:
    """Continue each job's prompt with the sum of its alphas times the vectors added to the residual stream.

        polite = SteeringVector.load(Path("polite.st"))
        jobs = [Job.of(engine, "Your invoice is late, so", alpha) for alpha in (0, 8, 15)]
        for number, completion in generate(engine, jobs, [polite]):
            print(jobs[number].alphas, completion.text)

    Args:
        engine: the model, whole.
        jobs: what to write, each with one alpha for each vector, in the unit of its kind.
        vectors: all must fit the engine's model.
        config: how to write: sampling, length, positions, rows written at a time.
        gate: lets tokens be steered, or not, by what is read of each.
        on_text: told (number of the job, new text) as a continuation grows.

    Yields:
        (number of the job, completion) as soon as it is finished. Jobs are begun in their order; as
        continuations end, the next take their places.

    A job's text depends on its key, sample, prompt, alphas and the seed, and not on those it is written
    with, as far as the machine's arithmetic does not (float32 and bfloat16 sums depend in their last
    bits on the shape of a batch). Alphas of one prompt share their noise (common random numbers).

    Raises:
        InputError: an alpha is not finite, or a prompt and its continuation exceed the context.
    """
    for job in jobs:
        _check(engine, job, len(vectors), config)
    marks = thinking_marks(engine.tokenizer, engine.model_id, config.steered)
    steerings = {alphas: Steering.of(vectors, alphas) for alphas in {job.alphas for job in jobs}}
    if gate:
        steerings = {alphas: steering.gated(gate) for alphas, steering in steerings.items()}
    numbers = {
        Continuation(
            ids=job.ids,
            key=job.key,
            sample=job.sample,
            steering=steerings[job.alphas],
            marks=marks,
            config=config,
        ): n
        for n, job in enumerate(jobs)
    }
    waiting, batch = deque(numbers), Batch(engine, config.batch_size)
    while waiting or len(batch):
        if len(batch) <= REFILL_AT * config.batch_size:
            batch.admit(waiting)
        for continuation, delta in batch.step():
            if delta.error:
                raise delta.error
            if on_text and delta.text:
                on_text(numbers[continuation], delta.text)
            if delta.finish_reason:
                text, n_tokens = continuation.stream.text, len(continuation.written)
                yield numbers.pop(continuation), Completion(text, n_tokens, delta.finish_reason)


def _check(engine: Engine, job: Job, n_vectors: int, config: GenerationConfig) -> None:
    if not all(map(math.isfinite, job.alphas)) or len(job.alphas) != n_vectors:
        raise InputError(f"alphas {job.alphas} for {n_vectors} vectors: one finite number each")
    if len(job.ids) + config.max_new_tokens > engine.max_tokens:
        raise InputError(
            f"prompt of {len(job.ids)} tokens and {config.max_new_tokens} new ones exceed the model's "
            f"context of {engine.max_tokens}: {job.key[:40]!r}; shorten it"
        )
