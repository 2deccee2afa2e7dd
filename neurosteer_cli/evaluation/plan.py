"""What a run writes: prompts times samples times conditions, and the record each continuation becomes.

Knows generation and the record format that `gen` writes and `eval` reads; knows nothing of options
or the terminal.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import torch

from ..data.records import Located, Record
from ..generation.generate import Completion, GenerationConfig, Job, generate
from ..generation.prompts import Prompt
from ..models.engine import Engine
from ..vectors.metadata import PointMetadata
from ..vectors.vector import SteeringVector, mean_norms, total_dose, total_pushes
from .samples import PROMPTING, Condition, Sample, as_sample

# What a prompt's record may have from an earlier continuation, and must not pass on to this one.
OF_A_CONTINUATION = {"rendered", "baseline", "generations", "job", "run"}
Alphas = tuple[float, ...]  # one a vector
# Opens a bar (label, total) and yields what advances it.
Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


def no_progress(_label: str, _total: int) -> AbstractContextManager[Callable[[int], None]]:
    return nullcontext(lambda _n: None)


@dataclass(frozen=True, kw_only=True)
class PlannedJob(Job):
    """A job, and of which prompt and condition it is."""

    prompt: Prompt
    condition: Condition


@dataclass(frozen=True)
class Plan:
    """All that is to be written: every prompt, n times, in every condition."""

    engine: Engine
    prompts: Sequence[Prompt]
    vectors: Sequence[SteeringVector]
    conditions: Sequence[tuple[Condition, Alphas]]  # alphas of the first vectors; those of the others are 0
    config: GenerationConfig
    n: int = 1
    instructed: Sequence[Prompt] = ()  # the prompts again with an instruction, for the PROMPTING condition

    @cached_property
    def jobs(self) -> list[PlannedJob]:
        """In order; those of one prompt and sample share their noise."""
        unsteered, jobs = (0.0,) * len(self.vectors), []
        for number, prompt in enumerate(self.prompts):
            key = self.engine.decode([], prompt.ids)  # names the noise, also of the instructed prompt
            for sample, (condition, first) in product(range(self.n), self.conditions):
                read = self.instructed[number] if condition.baseline == PROMPTING else prompt
                alphas = first + unsteered[len(first) :]
                jobs.append(PlannedJob(key, read.ids, alphas, sample, prompt=prompt, condition=condition))
        return jobs

    def write(
        self,
        progress: Progress = no_progress,
        *,
        keep: Callable[[Record], object] = lambda _record: None,
        kept: Mapping[int, Record] | None = None,
    ) -> list[Sample]:
        """The continuations in the order of the jobs; jobs of which there are records are not written again.

        `keep` is told each record, with the number of its job, as soon as it is finished.
        """
        records, numbers = dict(kept or {}), range(len(self.jobs))
        left = [number for number in numbers if number not in records]
        jobs = [self.jobs[number] for number in left]
        with progress("writing", len(self.jobs)) as advance:
            advance(len(records))
            for index, completion in generate(self.engine, jobs, self.vectors, self.config):
                number = left[index]
                records[number] = self.record(number, completion)
                keep({**records[number], "job": number})
                advance(1)
        return [as_sample(Located("run", records[number])) for number in numbers]

    def in_order(self, on_text: Callable[[int, str], None] | None = None) -> Iterator[tuple[int, Completion]]:
        """(number of the job, completion) in the order of the jobs; on Ctrl-C those that are finished."""
        finished = generate(self.engine, self.jobs, self.vectors, self.config, on_text=on_text)
        waiting: dict[int, Completion] = {}
        try:
            for number in range(len(self.jobs)):
                while number not in waiting:
                    done, completion = next(finished)
                    waiting[done] = completion
                yield number, waiting.pop(number)
        except KeyboardInterrupt:
            yield from sorted(waiting.items())
            raise

    def dose(self, job: Job) -> float:
        return total_dose(self.vectors, job.alphas)

    def record(self, number: int, completion: Completion) -> Record:
        """The prompt's own keys, then what was done to it."""
        job = self.jobs[number]
        condition, rendered = job.condition, job.prompt.rendered
        return {
            **{key: value for key, value in job.prompt.record.items() if key not in OF_A_CONTINUATION},
            **({"rendered": rendered} if rendered is not None else {}),
            "text": completion.text,
            "model": self.engine.model_id,
            "vectors": list(condition.vectors),
            "alpha": condition.alpha,
            **({"baseline": condition.baseline} if condition.baseline else {}),
            "dose": round(self.dose(job), 6),
            "positions": condition.positions,
            "seed": self.config.sampling.seed,
            "sample": job.sample,
            "n_tokens": completion.n_tokens,
            "finish_reason": completion.finish_reason,
        }


def random_counterpart(
    vectors: Sequence[SteeringVector], alphas: Sequence[float], seed: int
) -> SteeringVector:
    """A random push as long as the vectors' together at every hook point, at alpha 1.

    Directions are drawn from a standard normal distribution, so no direction is preferred.
    """
    generator = torch.Generator().manual_seed(seed)
    pushes = {}
    for point, push in total_pushes(vectors, alphas).items():
        drawn = torch.randn(push.shape, generator=generator)  # [d_model]
        pushes[point] = drawn * (push.norm() / drawn.norm())
    points = {str(point): PointMetadata.without_texts(norm) for point, norm in mean_norms(vectors).items()}
    metadata = vectors[0].metadata.model_copy(update={"points": points})
    return replace(vectors[0], metadata=metadata, pushes=pushes, latents={})
