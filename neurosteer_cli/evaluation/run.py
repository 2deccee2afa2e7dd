"""What a run writes and compares, the record each continuation becomes, and what identifies a run.

Knows generation, vectors and records; knows nothing of scores, options or the terminal.
"""

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from ..data.json_text import Record
from ..data.records import Located, appending
from ..generation.continuation import GenerationConfig
from ..generation.generate import Completion, Job, generate
from ..generation.prompts import Prompt, tokenize
from ..models.engine import Engine
from ..vectors.metadata import PointMetadata
from ..vectors.steering import Steering
from ..vectors.vector import SteeringVector, mean_norms, total_dose, total_pushes
from .provenance import of_settings, of_vector, sha256_of
from .samples import PROMPTING, RANDOM, UNSTEERED, Condition, Sample, as_sample, check_save, kept_records

# The keys of a continuation. A prompt's own of these names stand under "record"; those of an earlier
# continuation, which has them all, must not be passed on to this one.
OF_EVERY_CONTINUATION = {
    "text", "model", "vectors", "alpha", "dose", "positions", "seed", "sample", "n_tokens", "finish_reason",
}  # fmt: skip
OF_A_CONTINUATION = {*OF_EVERY_CONTINUATION, "rendered", "baseline", "generations", "job", "run"}
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

    def records(
        self, progress: Progress = no_progress, done: Collection[int] = ()
    ) -> Iterator[tuple[int, Record]]:
        """(number of the job, record) of those that are not done, each as soon as it is finished."""
        left = [number for number in range(len(self.jobs)) if number not in done]
        jobs = [self.jobs[number] for number in left]
        with progress("writing", len(self.jobs)) as advance:
            advance(len(done))
            for index, completion in generate(self.engine, jobs, self.vectors, self.config):
                yield left[index], self.record(left[index], completion)
                advance(1)

    def samples(self, records: Mapping[int, Record]) -> list[Sample]:
        """What the records of all jobs say, in the order of the jobs."""
        return [as_sample(Located("run", records[number])) for number in range(len(self.jobs))]

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
            **_passed_on(job.prompt.record),
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


def _passed_on(record: Record) -> Record:
    """What a prompt's record says that is not of a continuation; its own keys that are so called, aside."""
    passed = {key: value for key, value in record.items() if key not in OF_A_CONTINUATION}
    own = {key: value for key, value in record.items() if key not in passed}
    if not own or record.keys() >= OF_EVERY_CONTINUATION:
        return passed
    return {**passed, "record": {**own, **({"record": record["record"]} if "record" in record else {})}}


def random_counterpart(vectors: Sequence[SteeringVector], alphas: Alphas, seed: int) -> SteeringVector:
    """A random push, at alpha 1 as long as the vectors' together at every hook point, in any direction."""
    generator = torch.Generator().manual_seed(seed)
    pushes = {}
    for point, push in total_pushes(vectors, alphas).items():
        drawn = torch.randn(push.shape, generator=generator)  # [d_model]
        pushes[point] = drawn * (push.norm() / drawn.norm())
    points = {str(point): PointMetadata.without_texts(norm) for point, norm in mean_norms(vectors).items()}
    metadata = vectors[0].metadata.model_copy(update={"points": points})
    return replace(vectors[0], metadata=metadata, pushes=pushes, latents={})


@dataclass(frozen=True)
class Run:
    """Continuations to score, and what is known of their making."""

    engine: Engine
    samples: list[Sample]
    vectors: Mapping[str, SteeringVector] = field(default_factory=dict)  # by name, those that could be read
    # of the conditions whose damage on neutral text can be measured
    steerings: Mapping[Condition, Steering] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)  # JSON-able, what is needed to repeat the run


def named_vectors(
    samples: Sequence[Sample], warn: Callable[[str], None] = lambda _message: None
) -> dict[str, SteeringVector]:
    """The vectors that samples name, read from their files; `warn` is told of those not there."""
    names = {name for sample in samples for name in sample.condition.vectors}
    vectors = {name: SteeringVector.load(Path(name)) for name in sorted(names) if os.path.isfile(name)}
    if missing := sorted(names - set(vectors)):
        warn(
            f"{', '.join(missing)}: not there, so damage on neutral text is not measured, and judge data "
            "cannot leave out the texts it was fitted on"
        )
    return vectors


def recorded(
    engine: Engine, samples: list[Sample], vectors: Mapping[str, SteeringVector], sources: Sequence[str] = ()
) -> Run:
    """A run of samples that exist; `vectors` are those they name, as far as they are there."""
    fitting = {
        name for name, vector in vectors.items() if engine.shape.steers_like(vector.metadata.model_shape)
    }
    steerings = {
        condition: Steering.of([vectors[name] for name in condition.vectors], condition.alphas)
        for condition in dict.fromkeys(sample.condition for sample in samples)
        if condition.alphas and condition.baseline is None and fitting.issuperset(condition.vectors)
    }
    return Run(engine, samples, vectors, steerings, {"generations": list(sources)})


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What is to be written and compared: every prompt, n times, in every condition."""

    vectors: Sequence[tuple[str, SteeringVector]]  # by names for results, as a rule those of their files
    # the conditions, one alpha a vector, in percent of the median residual norm; all 0 is the unsteered one
    alphas: Sequence[Alphas]
    config: GenerationConfig = field(default_factory=GenerationConfig)
    n: int = 1
    random: bool = True  # also a random push as long as the strongest, of one vector in either direction
    instruction: str | None = None  # also prompting in place of steering: it is put before every prompt
    as_chat: bool = False  # put each prompt into the model's chat template
    system: str | None = None  # with a system message

    def write(
        self,
        engine: Engine,
        prompts: Sequence[Located],
        *,
        save: Path | None = None,
        resume: bool = False,
        say: Callable[[str], None] = lambda _message: None,
        progress: Progress = no_progress,
    ) -> Run:
        """Write all continuations; conditions of one prompt and sample share their noise.

        Args:
            prompts: as `read_prompts` gives them.
            save: a .jsonl file that keeps each continuation as soon as it is finished.
            resume: go on with what an interrupted run has kept there; `say` is told how much that is.

        Raises:
            InputError: a prompt does not fit the model's context, or `save` is there or another run's.
        """
        check_save(save, resume)
        plan = self.plan(engine, prompts)
        provenance = self.provenance(engine, prompts)
        run = sha256_of(provenance)[:16]
        records = kept_records(save, run) if save is not None and resume else {}
        if records:
            say(f"{save}: {len(records)} continuations are there already")
        with nullcontext(lambda _record: None) if save is None else appending(save) as append:
            for number, record in plan.records(progress, [*records]):
                records[number] = record
                append({**record, "job": number, "run": run})
        steered = {job.condition: job.alphas for job in plan.jobs if any(job.alphas)}
        steerings = {condition: Steering.of(plan.vectors, alphas) for condition, alphas in steered.items()}
        return Run(engine, plan.samples(records), dict(self.vectors), steerings, provenance)

    def plan(self, engine: Engine, prompts: Sequence[Located]) -> Plan:
        """The conditions as given, then their random counterparts, then prompting."""
        names, vectors = zip(*self.vectors, strict=True)
        unsteered, config = (0.0,) * len(vectors), self.config
        conditions: list[tuple[Condition, Alphas]] = [
            (Condition(names, alphas, config.positions, None if any(alphas) else UNSTEERED), alphas)
            for alphas in self.alphas
        ]
        counterparts: list[SteeringVector] = []
        for number, alphas in enumerate(self._strongest(vectors) if self.random else []):
            counterparts.append(random_counterpart(vectors, alphas, config.sampling.seed + number))
            only = (*unsteered, *(0.0,) * number, 1.0)
            conditions.append((Condition(names, alphas, config.positions, RANDOM), only))
        if self.instruction is not None:
            conditions.append((Condition(names, unsteered, config.positions, PROMPTING), ()))
        length, both = config.max_new_tokens, [*vectors, *counterparts]
        read = partial(tokenize, prompts, engine, max_new_tokens=length, as_chat=self.as_chat)
        plain = read(system=self.system)
        instructed = (
            [] if self.instruction is None else read(system=self.system, instruction=self.instruction)
        )
        return Plan(engine, plain, both, conditions, config, self.n, instructed)

    def provenance(self, engine: Engine, prompts: Sequence[Located]) -> dict[str, Any]:
        """Everything needed to repeat the run; by it a run is known again."""
        return {
            "model": engine.model_id,
            "dtype": str(engine.dtype),
            "vectors": [of_vector(name, vector) for name, vector in self.vectors],
            "alphas": self.alphas,
            "n_prompts": len(prompts),
            "prompts_sha256": sha256_of([located.record for located in prompts]),
            "n": self.n,
            "random": self.random,
            "baseline_prompt": self.instruction,
            "chat": self.as_chat,
            "system": self.system,
            **of_settings(self.config),
        }

    def _strongest(self, vectors: Sequence[SteeringVector]) -> list[Alphas]:
        """The alphas of the longest push; of one vector, in either direction."""
        groups = [[alphas for alphas in self.alphas if any(alphas)]]
        if len(vectors) == 1:
            groups = [[a for a in groups[0] if a[0] < 0], [a for a in groups[0] if a[0] > 0]]
        return [max(group, key=lambda alphas: total_dose(vectors, alphas)) for group in groups if group]
