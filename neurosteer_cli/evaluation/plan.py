"""A run: prompts times samples times settings, and the record each continuation becomes.

Knows generation and the record format that `gen` writes and `eval` reads; knows nothing of options
or the terminal.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..generation.generate import Completion, GenerationConfig, Job, generate
from ..generation.prompts import Prompt
from ..models.engine import Engine
from ..vectors.vector import SteeringVector, total_dose, total_pushes
from .samples import PROMPTING, Condition, Sample

# What a prompt's record may have from an earlier continuation, and must not pass on to this one.
OF_A_CONTINUATION = {"rendered", "baseline", "generations", "job", "run"}


@dataclass(frozen=True)
class PlannedJob:
    """One continuation to write."""

    prompt: Prompt
    setting: Condition
    row: Job


@dataclass(frozen=True)
class Plan:
    """All that is to be written: jobs in order, and the vectors whose alphas their rows have."""

    engine: Engine
    vectors: Sequence[SteeringVector]
    jobs: list[PlannedJob]
    settings: GenerationConfig

    def run(
        self, on_text: Callable[[int, str], None] | None = None, *, done: frozenset[int] = frozenset()
    ) -> Iterator[tuple[int, Completion]]:
        """(job, generation) as soon as it is finished, those already done left out."""
        numbers = [number for number in range(len(self.jobs)) if number not in done]
        rows = [self.jobs[number].row for number in numbers]
        for index, generation in generate(self.engine, rows, self.vectors, self.settings, on_text=on_text):
            yield numbers[index], generation

    def run_in_order(
        self, on_text: Callable[[int, str], None] | None = None
    ) -> Iterator[tuple[int, Completion]]:
        """The same in the order of the jobs; on Ctrl-C those that are finished already."""
        waiting: dict[int, Completion] = {}
        following = 0
        try:
            for index, generation in self.run(on_text):
                waiting[index] = generation
                while following in waiting:
                    yield following, waiting.pop(following)
                    following += 1
        except KeyboardInterrupt:
            yield from sorted(waiting.items())
            raise

    def dose(self, job: PlannedJob) -> float:
        return total_dose(self.vectors, job.row.alphas)

    def record(self, number: int, generation: Completion) -> dict[str, Any]:
        """The prompt's own keys, then what was done to it."""
        job = self.jobs[number]
        setting = job.setting
        own = {key: value for key, value in job.prompt.record.items() if key not in OF_A_CONTINUATION}
        return {
            **own,
            **({"rendered": job.prompt.rendered} if job.prompt.rendered is not None else {}),
            "text": generation.text,
            "model": self.engine.model_id,
            "vectors": list(setting.vectors),
            "alpha": setting.alpha,
            **({"baseline": setting.baseline} if setting.baseline else {}),
            "dose": round(self.dose(job), 6),
            "positions": setting.positions,
            "seed": self.settings.sampling.seed,
            "sample": job.row.sample,
            "n_tokens": generation.n_tokens,
            "finish_reason": generation.finish_reason,
        }


def plan(
    engine: Engine,
    prompts: Sequence[Prompt],
    vectors: Sequence[SteeringVector],
    settings_of: Sequence[tuple[Condition, tuple[float, ...]]],
    settings: GenerationConfig,
    *,
    n: int = 1,
    instructed: Sequence[Prompt] = (),
) -> Plan:
    """Every prompt, n times, in every setting; settings of one prompt and sample share their noise.

    Args:
        settings_of: (setting, alpha of each vector).
        instructed: the prompts again with an instruction, for the PROMPTING setting.
    """
    jobs = []
    for number, prompt in enumerate(prompts):
        key = engine.decode([], prompt.ids)  # names the noise, also of the instructed prompt
        for sample in range(n):
            for setting, alphas in settings_of:
                ids = instructed[number].ids if setting.baseline == PROMPTING else prompt.ids
                jobs.append(PlannedJob(prompt, setting, Job(key, ids, alphas, sample)))
    return Plan(engine, vectors, jobs, settings)


def random_counterpart(
    vectors: Sequence[SteeringVector], alphas: Sequence[float], seed: int
) -> SteeringVector:
    """A random push as long as the vectors' together at every hook point, at alpha 1.

    Directions are drawn from a standard normal distribution, so no direction is preferred.
    """
    generator = torch.Generator().manual_seed(seed)
    pushes = {}
    for point, push in total_pushes(vectors, alphas).items():
        drawn = torch.randn(push.shape, generator=generator)
        pushes[point] = drawn * (push.norm() / drawn.norm())
    return replace(vectors[0], pushes=pushes, latents={})


def write_all(
    plan: Plan,
    advance: Callable[[int], None],
    *,
    keep: Callable[[dict[str, Any]], None] = lambda _record: None,
    kept: Mapping[int, dict[str, Any]] | None = None,
) -> "list[Sample]":
    """Run a plan and give its continuations in the order of the jobs.

    Args:
        keep: told each record as soon as it is finished.
        kept: records of jobs that an earlier run finished.
    """
    found = dict(kept or {})
    advance(len(found))
    for number, generation in plan.run(done=frozenset(found)):
        found[number] = plan.record(number, generation)
        keep({**found[number], "job": number})
        advance(1)
    return [_sample(plan, number, found[number]) for number in range(len(plan.jobs))]


def _sample(plan: Plan, number: int, record: dict[str, Any]) -> "Sample":
    job = plan.jobs[number]
    prompt = job.prompt
    return Sample(
        condition=job.setting,
        prompt=prompt.shown if prompt.rendered is None else prompt.rendered,
        rendered=prompt.rendered is not None,
        number=job.row.sample,
        text=record["text"],
        model=plan.engine.model_id,
        dose=round(plan.dose(job), 6),
    )
