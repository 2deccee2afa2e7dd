"""What a run writes and compares, the record each continuation becomes, and what identifies a run.

Knows generation, vectors and records; knows nothing of scores, options or the terminal.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from ...data.records import Located, appending
from ...generation.continuation import GenerationConfig
from ...generation.prompts import tokenize
from ...models.engine import Engine
from ...vectors.gate import Each, open_gate
from ...vectors.kinds import TokenBias
from ...vectors.metadata import Kind, PointMetadata
from ...vectors.steering import Steering
from ...vectors.vector import SteeringVector, mean_norms, total_dose, total_pushes
from .plan import Alphas, Plan, Progress, no_progress
from .provenance import of_settings, of_vector, sha256_of
from .samples import ADD, PROMPTING, RANDOM, UNSTEERED, Condition, Sample, check_save, kept_records


def random_counterpart(vectors: Sequence[SteeringVector], alphas: Alphas, seed: int) -> SteeringVector:
    """A random push, at alpha 1 as long as the vectors' together at every hook point, in any direction.

    It acts as the first of the vectors does; where they urge tokens, it urges others as much.
    """
    generator = torch.Generator().manual_seed(seed)
    pushes = {}
    for point, push in total_pushes(vectors, alphas).items():
        drawn = torch.randn(push.shape, generator=generator)  # [d_model]
        pushes[point] = drawn * (push.norm() / drawn.norm())
    points = {str(point): PointMetadata.without_texts(norm) for point, norm in mean_norms(vectors).items()}
    metadata = vectors[0].metadata.model_copy(update={"points": points})
    bias = Steering.of(vectors, alphas).bias
    if bias:
        others = torch.randperm(metadata.model_shape.d_vocab, generator=generator)[: len(bias.ids)]
        bias = TokenBias(others, bias.bias)
    return replace(vectors[0], metadata=metadata, pushes=pushes, latents={}, bias=bias)


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
        condition: Steering.of(_acting(vectors, condition), condition.alphas)
        for condition in dict.fromkeys(sample.condition for sample in samples)
        if condition.alphas and _is_everywhere(condition) and fitting.issuperset(condition.vectors)
    }
    return Run(engine, samples, vectors, steerings, {"generations": list(sources)})


def _is_everywhere(condition: Condition) -> bool:
    """Whether a steering's damage is that of its condition: a gate lets some texts be."""
    return condition.baseline is None and condition.when is None


def _acting(vectors: Mapping[str, SteeringVector], condition: Condition) -> list[SteeringVector]:
    """The vectors of a condition, acting as they did in it."""
    kinds = condition.kinds or (ADD,) * len(condition.vectors)
    return [
        vectors[name].acting(cast(Kind, kind)) for name, kind in zip(condition.vectors, kinds, strict=True)
    ]


def kinds_of(vectors: Sequence[SteeringVector]) -> tuple[str, ...]:
    """As a condition has them: none where all vectors add."""
    return () if all(vector.adds for vector in vectors) else tuple(v.metadata.kind for v in vectors)


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
    when: str | None = None  # a gate, as `open_gate` reads it
    when_each: Each = "prompt"

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
        if plan.of_gate:
            say(plan.of_gate)
        if records:
            say(f"{save}: {len(records)} continuations are there already")
        with nullcontext(lambda _record: None) if save is None else appending(save) as append:
            for number, record in plan.records(progress, [*records]):
                records[number] = record
                append({**record, "job": number, "run": run})
        steered = {job.condition: job.alphas for job in plan.jobs if any(job.alphas) and not self.when}
        steerings = {condition: Steering.of(plan.vectors, alphas) for condition, alphas in steered.items()}
        return Run(engine, plan.samples(records), dict(self.vectors), steerings, provenance)

    def plan(self, engine: Engine, prompts: Sequence[Located]) -> Plan:
        """The conditions as given, then their random counterparts, then prompting."""
        names, vectors = zip(*self.vectors, strict=True)
        unsteered, config = (0.0,) * len(vectors), self.config
        condition = partial(
            Condition, names, positions=config.positions, kinds=kinds_of(vectors), when=self.when
        )
        conditions: list[tuple[Condition, Alphas]] = [
            (condition(alphas=alphas, baseline=None if any(alphas) else UNSTEERED), alphas)
            for alphas in self.alphas
        ]
        counterparts: list[SteeringVector] = []
        for number, alphas in enumerate(self._strongest(vectors) if self.random else []):
            counterparts.append(random_counterpart(vectors, alphas, config.sampling.seed + number))
            only = (*unsteered, *(0.0,) * number, 1.0)
            conditions.append((condition(alphas=alphas, baseline=RANDOM), only))
        if self.instruction is not None:
            conditions.append((condition(alphas=unsteered, baseline=PROMPTING), ()))
        length, both = config.max_new_tokens, [*vectors, *counterparts]
        read = partial(tokenize, prompts, engine, max_new_tokens=length, as_chat=self.as_chat)
        plain = read(system=self.system)
        instructed = (
            [] if self.instruction is None else read(system=self.system, instruction=self.instruction)
        )
        gate = open_gate(self.when, engine) if self.when else None
        return Plan(engine, plain, both, conditions, config, self.n, instructed, gate, self.when_each)

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
            **({"when": self.when, "when_each": self.when_each} if self.when else {}),
            **of_settings(self.config),
        }

    def _strongest(self, vectors: Sequence[SteeringVector]) -> list[Alphas]:
        """The alphas of the longest push; of one vector, in either direction."""
        groups = [[alphas for alphas in self.alphas if any(alphas)]]
        if len(vectors) == 1:
            groups = [[a for a in groups[0] if a[0] < 0], [a for a in groups[0] if a[0] > 0]]
        if any(vector.metadata.kind in ("ablate", "clamp") for vector in vectors):
            return []  # a component to take away or to set is not more or less long

        def strength(alphas: Alphas) -> tuple[float, float]:
            return total_dose(vectors, alphas) or 0.0, sum(map(abs, alphas))

        return [max(group, key=strength) for group in groups if group]
