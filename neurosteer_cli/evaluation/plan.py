"""What a run writes: prompts times samples times conditions, and the record each continuation becomes.

Knows generation and the record format that `gen` writes and `eval` reads; knows nothing of options
or the terminal.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from ..data.records import Located
from ..generation.generate import Completion, GenerationConfig, Job, generate
from ..generation.prompts import Prompt
from ..models.engine import Engine
from ..vectors.vector import SteeringVector, total_dose, total_pushes
from .samples import PROMPTING, Condition, Record, Sample, as_sample

# What a prompt's record may have from an earlier continuation, and must not pass on to this one.
OF_A_CONTINUATION = {"rendered", "baseline", "generations", "job", "run"}
Alphas = tuple[float, ...]  # one a vector


@dataclass(frozen=True)
class PlannedJob:
    """A job, and of which prompt and condition it is."""

    prompt: Prompt
    condition: Condition
    job: Job


@dataclass(frozen=True)
class Plan:
    """All that is to be written: jobs in order, and the vectors that each has an alpha for."""

    engine: Engine
    vectors: Sequence[SteeringVector]
    jobs: list[PlannedJob]
    config: GenerationConfig

    def run(
        self, on_text: Callable[[int, str], None] | None = None, *, done: frozenset[int] = frozenset()
    ) -> Iterator[tuple[int, Completion]]:
        """(number of the job, completion) as soon as it is finished, those already done left out."""
        numbers = [number for number in range(len(self.jobs)) if number not in done]
        jobs = [self.jobs[number].job for number in numbers]
        for index, completion in generate(self.engine, jobs, self.vectors, self.config, on_text=on_text):
            yield numbers[index], completion

    def run_in_order(
        self, on_text: Callable[[int, str], None] | None = None
    ) -> Iterator[tuple[int, Completion]]:
        """The same in the order of the jobs; on Ctrl-C those that are finished already."""
        waiting: dict[int, Completion] = {}
        following = 0
        try:
            for number, completion in self.run(on_text):
                waiting[number] = completion
                while following in waiting:
                    yield following, waiting.pop(following)
                    following += 1
        except KeyboardInterrupt:
            yield from sorted(waiting.items())
            raise

    def dose(self, planned: PlannedJob) -> float:
        return total_dose(self.vectors, planned.job.alphas)

    def record(self, number: int, completion: Completion) -> Record:
        """The prompt's own keys, then what was done to it."""
        planned = self.jobs[number]
        prompt, condition = planned.prompt, planned.condition
        own = {key: value for key, value in prompt.record.items() if key not in OF_A_CONTINUATION}
        return {
            **own,
            **({"rendered": prompt.rendered} if prompt.rendered is not None else {}),
            "text": completion.text,
            "model": self.engine.model_id,
            "vectors": list(condition.vectors),
            "alpha": condition.alpha,
            **({"baseline": condition.baseline} if condition.baseline else {}),
            "dose": round(self.dose(planned), 6),
            "positions": condition.positions,
            "seed": self.config.sampling.seed,
            "sample": planned.job.sample,
            "n_tokens": completion.n_tokens,
            "finish_reason": completion.finish_reason,
        }


def plan(
    engine: Engine,
    prompts: Sequence[Prompt],
    vectors: Sequence[SteeringVector],
    conditions: Sequence[tuple[Condition, Alphas]],
    config: GenerationConfig,
    *,
    n: int = 1,
    instructed: Sequence[Prompt] = (),
) -> Plan:
    """Every prompt, n times, in every condition; conditions of one prompt and sample share their noise.

    Args:
        conditions: each with the alpha of each vector.
        instructed: the prompts again with an instruction, for the PROMPTING condition.
    """
    jobs = []
    for number, prompt in enumerate(prompts):
        key = engine.decode([], prompt.ids)  # names the noise, also of the instructed prompt
        for sample in range(n):
            for condition, alphas in conditions:
                ids = instructed[number].ids if condition.baseline == PROMPTING else prompt.ids
                jobs.append(PlannedJob(prompt, condition, Job(key, ids, alphas, sample)))
    return Plan(engine, vectors, jobs, config)


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
    return replace(vectors[0], pushes=pushes, latents={})


def write_all(
    plan: Plan,
    advance: Callable[[int], None] = lambda _n: None,
    *,
    keep: Callable[[Record], object] = lambda _record: None,
    kept: Mapping[int, Record] | None = None,
) -> list[Sample]:
    """Run a plan and give its continuations in the order of the jobs.

    Args:
        keep: told each record as soon as it is finished.
        kept: records of jobs that an earlier run finished.
    """
    records = dict(kept or {})
    advance(len(records))
    for number, completion in plan.run(done=frozenset(records)):
        records[number] = plan.record(number, completion)
        keep({**records[number], "job": number})
        advance(1)
    return [as_sample(Located("run", records[number])) for number in range(len(plan.jobs))]
