"""What is to be written, prompt by prompt and condition by condition, and the record each comes to.

Knows generation, vectors and gates; knows nothing of baselines, files or scores.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import torch

from ...data.json_text import Record, set_aside
from ...data.records import Located
from ...generation.continuation import GenerationConfig
from ...generation.generate import Completion, Job, generate
from ...generation.prompts import Prompt
from ...models.engine import Engine
from ...vectors.gate import Each, Gate
from ...vectors.vector import SteeringVector, total_dose
from .samples import PROMPTING, Condition, Sample, as_sample

# The keys of a continuation. A prompt's own of these names stand under "record"; those of an earlier
# continuation, which has them all, must not be passed on to this one.
OF_EVERY_CONTINUATION = {
    "text", "model", "vectors", "alpha", "dose", "positions", "seed", "sample", "n_tokens", "finish_reason",
}  # fmt: skip
OF_A_CONTINUATION = {
    *OF_EVERY_CONTINUATION, "rendered", "baseline", "kinds", "when", "gate", "steered", "generations", "job",
    "run",
}  # fmt: skip
OF_A_CHOICE = {"best_of", "kept", "rank", "judge", "lowest", "score"}  # and of one that a judge chose
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
    read: float | None = None  # what the gate reads of the prompt, where prompts are gated

    @property
    def is_steered(self) -> bool:
        return any(self.alphas)


@dataclass(frozen=True)
class Plan:
    """All that is to be written: every prompt, n times, in every condition.

    Of a prompt whose gate is closed, what is to be steered is written unsteered.
    """

    engine: Engine
    prompts: Sequence[Prompt]
    vectors: Sequence[SteeringVector]
    conditions: Sequence[tuple[Condition, Alphas]]  # alphas of the first vectors; those of the others are 0
    config: GenerationConfig
    n: int = 1
    instructed: Sequence[Prompt] = ()  # the prompts again with an instruction, for the PROMPTING condition
    gate: Gate | None = None
    gates_each: Each = "prompt"

    @cached_property
    def jobs(self) -> list[PlannedJob]:
        """In order; those of one prompt and sample share their noise."""
        unsteered, jobs = (0.0,) * len(self.vectors), []
        for number, prompt in enumerate(self.prompts):
            key = self.engine.decode([], prompt.ids)  # names the noise, also of the instructed prompt
            for sample, (condition, first) in product(range(self.n), self.conditions):
                read = self.instructed[number] if condition.baseline == PROMPTING else prompt
                alphas = first + unsteered[len(first) :] if number in self._open else unsteered
                jobs.append(
                    PlannedJob(
                        key,
                        read.ids,
                        alphas,
                        sample,
                        prompt=prompt,
                        condition=condition,
                        read=self._read.get(number),
                    )
                )
        return jobs

    @cached_property
    def _read(self) -> dict[int, float]:
        """What the gate reads of each prompt, if it is prompts that it opens for."""
        if self.gate is None or self.gates_each != "prompt":
            return {}
        return dict(self.gate.prompts(self.engine, [prompt.ids for prompt in self.prompts]))

    @cached_property
    def _open(self) -> Collection[int]:
        """The numbers of prompts that are steered."""
        if self.gate is None or self.gates_each != "prompt":
            return range(len(self.prompts))
        is_open = self.gate.is_open(torch.tensor([*self._read.values()]))
        return {number for number, each in zip(self._read, is_open.tolist(), strict=True) if each}

    @property
    def of_gate(self) -> str | None:
        """How many prompts a gate lets be steered, in a sentence; None where it does not gate prompts."""
        if self.gate is None or self.gates_each != "prompt":
            return None
        n_open, n = len(self._open), len(self.prompts)
        return f"gate {self.gate.name}: {n_open} of {n} prompts are steered"

    def _generate(
        self, jobs: Sequence[PlannedJob], on_text: Callable[[int, str], None] | None = None
    ) -> Iterator[tuple[int, Completion]]:
        gate = self.gate if self.gates_each == "token" else None
        return generate(self.engine, jobs, self.vectors, self.config, gate=gate, on_text=on_text)

    def records(
        self, progress: Progress = no_progress, done: Collection[int] = ()
    ) -> Iterator[tuple[int, Record]]:
        """(number of the job, record) of those that are not done, each as soon as it is finished."""
        left = [number for number in range(len(self.jobs)) if number not in done]
        jobs = [self.jobs[number] for number in left]
        with progress("writing", len(self.jobs)) as advance:
            advance(len(done))
            for index, completion in self._generate(jobs):
                yield left[index], self.record(left[index], completion)
                advance(1)

    def samples(self, records: Mapping[int, Record]) -> list[Sample]:
        """What the records of all jobs say, in the order of the jobs."""
        return [as_sample(Located("run", records[number])) for number in range(len(self.jobs))]

    def in_order(self, on_text: Callable[[int, str], None] | None = None) -> Iterator[tuple[int, Completion]]:
        """(number of the job, completion) in the order of the jobs; on Ctrl-C those that are finished."""
        finished = self._generate(self.jobs, on_text)
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

    def dose(self, job: Job) -> float | None:
        """How long the push is; None of what is steered without one."""
        return total_dose(self.vectors, job.alphas)

    def record(self, number: int, completion: Completion, choice: Record | None = None) -> Record:
        """The prompt's own keys, then what was done to it, and how it was chosen."""
        job = self.jobs[number]
        condition, rendered, dose = job.condition, job.prompt.rendered, self.dose(job)
        return {
            **_passed_on(job.prompt.record, own=choice or {}),
            **({"rendered": rendered} if rendered is not None else {}),
            "text": completion.text,
            "model": self.engine.model_id,
            "vectors": list(condition.vectors),
            "alpha": condition.alpha,
            **({"kinds": list(condition.kinds)} if condition.kinds else {}),
            **({"baseline": condition.baseline} if condition.baseline else {}),
            **self._gated(job),
            "dose": None if dose is None else round(dose, 6),
            "positions": condition.positions,
            "seed": self.config.sampling.seed,
            "sample": job.sample,
            "n_tokens": completion.n_tokens,
            "finish_reason": completion.finish_reason,
            **(choice or {}),
        }

    def _gated(self, job: PlannedJob) -> Record:
        """What the gate had to say of a job, if there is one."""
        if self.gate is None:
            return {}
        if job.read is None:
            return {"when": self.gate.name}
        return {"when": self.gate.name, "gate": round(job.read, 6), "steered": job.is_steered}


def _passed_on(record: Record, own: Collection[str]) -> Record:
    """What a prompt's record says that is not of a continuation; its own keys that are so called, aside.

    `own` are keys that this continuation has besides the usual ones.
    """
    if record.keys() >= OF_EVERY_CONTINUATION:
        taken = OF_A_CONTINUATION | OF_A_CHOICE
        return {key: value for key, value in record.items() if key not in taken}
    return set_aside(record, OF_A_CONTINUATION | {*own})
