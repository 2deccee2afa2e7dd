"""Continuations to score together: read, or written in every condition that is compared.

Knows plans, engines and vectors, and what identifies a run; knows nothing of scores, options or the
terminal.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from ..data.records import Located, Record, appending
from ..files import file_sha256
from ..generation.generate import GenerationConfig
from ..generation.prompts import tokenize
from ..models.engine import Engine
from ..models.hooks import HookPoint
from ..vectors.vector import SteeringVector, total_dose, total_pushes
from .plan import Alphas, Plan, Progress, no_progress, random_counterpart
from .samples import PROMPTING, RANDOM, UNSTEERED, Condition, Sample, kept_records


@dataclass(frozen=True)
class Run:
    """Continuations to score, and what is known of their making."""

    engine: Engine
    samples: list[Sample]
    vectors: Mapping[str, SteeringVector] = field(default_factory=dict)  # by name, those that could be read
    # of the conditions whose damage on neutral text can be measured, [d_model] at each hook point
    pushes: Mapping[Condition, Mapping[HookPoint, Tensor]] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)  # JSON-able, what is needed to repeat the run


def recorded(
    engine: Engine,
    samples: list[Sample],
    sources: Sequence[str] = (),
    warn: Callable[[str], None] = lambda _message: None,
) -> Run:
    """A run of continuations that exist, by this engine's model, as `read_samples` gives them.

    The vectors that they name are read, where they still are; `warn` is told which are gone.
    """
    names = {name for sample in samples for name in sample.condition.vectors}
    vectors = {name: SteeringVector.load(Path(name)) for name in sorted(names) if Path(name).is_file()}
    if missing := sorted(names - set(vectors)):
        warn(
            f"{', '.join(missing)}: not there, so damage on neutral text is not measured, and judge data "
            "cannot leave out the texts it was fitted on"
        )
    fitting = {name for name, vector in vectors.items() if vector.metadata.model_shape == engine.shape}
    pushes = {
        condition: total_pushes([vectors[name] for name in condition.vectors], condition.alphas)
        for condition in dict.fromkeys(sample.condition for sample in samples)
        if condition.alphas and condition.baseline is None and fitting.issuperset(condition.vectors)
    }
    return Run(engine, samples, vectors, pushes, {"generations": list(sources)})


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
            progress: opens a bar (label, total) and yields what advances it.

        Raises:
            InputError: a prompt does not fit the model's context, or `save` holds another run.
        """
        planned = self.plan(engine, prompts)
        provenance = self.provenance(engine, prompts)
        run = _sha256(provenance)[:16]
        kept = kept_records(save, run) if save is not None and resume else {}
        if kept:
            say(f"{save}: {len(kept)} continuations are there already")
        file: AbstractContextManager[Callable[[Record], object]]
        file = nullcontext(lambda _record: None) if save is None else appending(save)
        with file as append:
            samples = planned.write(progress, keep=lambda record: append({**record, "run": run}), kept=kept)
        steered = {job.condition: job.alphas for job in planned.jobs if any(job.alphas)}
        pushes = {condition: total_pushes(planned.vectors, alphas) for condition, alphas in steered.items()}
        return Run(engine, samples, dict(self.vectors), pushes, provenance)

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
        instructed, plain = (read(system=self.system, instruction=text) for text in (self.instruction, None))
        return Plan(engine, plain, both, conditions, config, self.n, instructed)

    def provenance(self, engine: Engine, prompts: Sequence[Located]) -> dict[str, Any]:
        """Everything needed to repeat the run; by it a run is known again."""
        config = asdict(self.config)
        del config["batch_size"]
        return {
            "model": engine.model_id,
            "dtype": str(engine.dtype),
            "vectors": [_origin(name, vector) for name, vector in self.vectors],
            "alphas": self.alphas,
            "n_prompts": len(prompts),
            "prompts_sha256": _sha256([located.record for located in prompts]),
            "n": self.n,
            "random": self.random,
            "baseline_prompt": self.instruction,
            "chat": self.as_chat,
            "system": self.system,
            **config,
        }

    def _strongest(self, vectors: Sequence[SteeringVector]) -> list[Alphas]:
        """The alphas of the longest push; of one vector, in either direction."""
        groups = [[alphas for alphas in self.alphas if any(alphas)]]
        if len(vectors) == 1:
            groups = [[a for a in groups[0] if a[0] < 0], [a for a in groups[0] if a[0] > 0]]
        return [max(group, key=lambda alphas: total_dose(vectors, alphas)) for group in groups if group]


def _origin(name: str, vector: SteeringVector) -> dict[str, Any]:
    """How a vector was fitted, and its file's hash, if it is in one."""
    metadata, of_side = vector.metadata, {"label", "n_texts", "sha256"}
    sides = {"positive": metadata.positive, "negative": metadata.negative}
    return {
        "name": name,
        "sha256": file_sha256(Path(name)) if Path(name).is_file() else None,
        "method": metadata.method,
        "parameters": metadata.parameters,
        "points": list(metadata.points),
        **{which: side.model_dump(include=of_side) for which, side in sides.items() if side is not None},
    }


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
