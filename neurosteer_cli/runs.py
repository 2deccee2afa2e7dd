"""A run: prompts times samples times settings, and the record each continuation becomes.

Knows generation and the record format that `gen` writes and `eval` reads; knows nothing of options
or the terminal.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from .engine import Engine
from .errors import InputError
from .generation import Generation, Row, Settings, generate
from .records import Located, chat_messages, string_value
from .vector import SteeringVector, total_dose, total_pushes

UNSTEERED, RANDOM, PROMPTING = "unsteered", "random", "prompt"
# What a prompt's record may have from an earlier continuation, and must not pass on to this one.
OF_A_CONTINUATION = {"rendered", "baseline", "generations", "job", "run"}


@dataclass(frozen=True)
class Prompt:
    """A prompt as it came, and as the model gets it."""

    record: dict[str, Any]
    shown: str  # what stands before the continuation in plain output
    ids: list[int]
    rendered: str | None = None  # a chat as the model's template puts it


@dataclass(frozen=True)
class Setting:
    """One way to write that is compared with others."""

    vectors: tuple[str, ...] = ()
    alphas: tuple[float, ...] | None = ()  # one a vector; None where a record says nothing of it
    positions: str = "all"
    baseline: str | None = None  # UNSTEERED, RANDOM or PROMPTING
    source: str | None = None  # the file, of texts that others wrote

    @property
    def alpha(self) -> Any:
        """As records have it: a number, or one a vector."""
        if self.alphas is None:
            return None
        return self.alphas[0] if len(self.alphas) == 1 else list(self.alphas) if self.alphas else 0.0


@dataclass(frozen=True)
class Job:
    """One continuation to write."""

    prompt: Prompt
    setting: Setting
    row: Row


@dataclass(frozen=True)
class Plan:
    """All that is to be written: jobs in order, and the vectors whose alphas their rows have."""

    engine: Engine
    vectors: Sequence[SteeringVector]
    jobs: list[Job]
    settings: Settings

    def run(
        self, on_text: Callable[[int, str], None] | None = None, *, done: frozenset[int] = frozenset()
    ) -> Iterator[tuple[int, Generation]]:
        """(job, generation) as soon as it is finished, those already done left out."""
        numbers = [number for number in range(len(self.jobs)) if number not in done]
        rows = [self.jobs[number].row for number in numbers]
        for index, generation in generate(self.engine, rows, self.vectors, self.settings, on_text=on_text):
            yield numbers[index], generation

    def run_in_order(
        self, on_text: Callable[[int, str], None] | None = None
    ) -> Iterator[tuple[int, Generation]]:
        """The same in the order of the jobs; on Ctrl-C those that are finished already."""
        waiting: dict[int, Generation] = {}
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

    def dose(self, job: Job) -> float:
        return total_dose(self.vectors, job.row.alphas)

    def record(self, number: int, generation: Generation) -> dict[str, Any]:
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
    settings_of: Sequence[tuple[Setting, tuple[float, ...]]],
    settings: Settings,
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
                jobs.append(Job(prompt, setting, Row(key, ids, alphas, sample)))
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
        setting=job.setting,
        prompt=prompt.shown if prompt.rendered is None else prompt.rendered,
        rendered=prompt.rendered is not None,
        number=job.row.sample,
        text=record["text"],
        model=plan.engine.model_id,
        dose=round(plan.dose(job), 6),
    )


@dataclass(frozen=True)
class Sample:
    """A continuation to be scored, whoever wrote it."""

    setting: Setting
    prompt: str
    rendered: bool  # a chat, special tokens and all
    number: int  # among the continuations of one prompt and setting
    text: str
    model: str | None
    dose: float | None


def samples(records: Iterable[Located], source: str) -> Iterator[Sample]:
    """Read what `gen --json` wrote, or {"prompt": {"text"}, "generations": [{"text"}, ...]}.

    Raises:
        InputError: a record of neither form, or a value of the wrong type.
    """
    for located in records:
        if "generations" in located.record:
            yield from _published(located, source)
        else:
            yield _written(located, source)


def _published(located: Located, source: str) -> Iterator[Sample]:
    """The layout in which DExperts and its successors publish their generations."""
    prompt = located.record.get("prompt")
    generations = located.record["generations"]
    shape = '{"prompt": {"text"}, "generations": [{"text"}, ...]}'
    if not isinstance(prompt, dict) or not isinstance(generations, list):
        raise InputError(f"{located.where}: 'generations' without the layout {shape}")
    text = string_value(Located(located.where, prompt), "text")
    for number, generation in enumerate(generations):
        if not isinstance(generation, dict):
            raise InputError(f"{located.where}: generation {number + 1} is no object; the layout is {shape}")
        written = string_value(Located(located.where, generation), "text")
        setting = Setting(alphas=None, source=source)
        yield Sample(setting, text, False, number, written, None, None)


def _written(located: Located, source: str) -> Sample:
    record = located.record
    text = string_value(located, "text")
    if "rendered" in record:
        prompt, rendered = string_value(located, "rendered"), True
    elif "prompt" in record:
        prompt, rendered = string_value(located, "prompt"), False
    elif "messages" in record:
        prompt, rendered = chat_messages(located)[-1]["content"], False
    else:
        raise InputError(f"{located.where}: no 'prompt' key; records are those that `gen --json` writes")
    return Sample(
        _setting(located, source),
        prompt,
        rendered,
        _number(located, "sample", int, 0),
        text,
        string_value(located, "model") if "model" in record else None,
        _number(located, "dose", float, None),
    )


def _setting(located: Located, source: str) -> Setting:
    record = located.record
    if "alpha" not in record:
        return Setting(alphas=None, source=source)
    names = record.get("vectors", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{located.where}: 'vectors' must be a list of names, got {names!r:.60}")
    alpha = record["alpha"]
    alphas = alpha if isinstance(alpha, list) else [alpha] if names else []
    if not all(type(value) in (int, float) for value in [*alphas, *([] if names else [alpha])]):
        raise InputError(f"{located.where}: 'alpha' must be a number or one a vector, got {alpha!r:.60}")
    if len(alphas) != len(names):
        raise InputError(f"{located.where}: {len(names)} 'vectors' and {len(alphas)} alphas; one each")
    baseline = record.get("baseline")
    if baseline not in (None, UNSTEERED, RANDOM, PROMPTING):
        raise InputError(f"{located.where}: 'baseline' is {baseline!r:.60}; this program writes no such one")
    if baseline is None and not any(alphas):
        baseline = UNSTEERED
    positions = string_value(located, "positions") if "positions" in record else "all"
    return Setting(tuple(names), tuple(map(float, alphas)), positions, baseline)


def _number(located: Located, key: str, kind: type, absent: Any) -> Any:
    value = located.record.get(key, absent)
    if value is absent:
        return absent
    if type(value) not in ((int,) if kind is int else (int, float)):
        raise InputError(f"{located.where}: {key!r} must be a number, got {value!r:.60}")
    return value
