"""The continuations that eval and calibrate score: read from records, or generated and kept."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import InputError
from ..shared import console
from .prompting import load_engine, tokenized

if TYPE_CHECKING:
    from ...data.records import Located
    from ...evaluation.plan import Plan
    from ...evaluation.run import Run
    from ...evaluation.samples import Condition, Sample
    from ...generation.generate import GenerationConfig
    from ...models.engine import Engine
    from ...models.hooks import HookPoint
    from ...vectors.vector import SteeringVector

Record = dict[str, Any]
Keep = Callable[[Record], None]


@dataclass
class Continuations:
    """Continuations to score, and what is known of their making."""

    engine: "Engine"
    samples: "list[Sample]"
    vectors: "dict[str, SteeringVector]"  # by name; those that could be read
    pushes: "dict[Condition, dict[HookPoint, Any]]"
    facts: dict[str, Any] = field(default_factory=dict)

    def scored(self) -> "Run":
        from ...evaluation.run import Run

        return Run(self.engine, self.samples, self.vectors, self.pushes, self.facts)


def read(sources: list[str], model: str | None, dtype: str, device: str) -> Continuations:
    """Continuations that exist; vectors they name are read if they are still there."""
    from ...data.records import read_records
    from ...evaluation.samples import samples
    from ...vectors.vector import SteeringVector, total_pushes

    if sources.count("-") > 1:
        raise InputError("`-` (stdin) can be read only once")
    found = [
        sample
        for source in sources
        for sample in samples(read_records(source), "stdin" if source == "-" else source)
    ]
    models = {sample.model for sample in found if sample.model is not None}
    if not found:
        raise InputError(f"{', '.join(sources)}: no continuation to score")
    if len(models) > 1:
        raise InputError(
            f"the continuations are by several models ({', '.join(sorted(models))}): score each model's alone"
        )
    names = {name for sample in found for name in sample.condition.vectors}
    vectors = {name: SteeringVector.load(Path(name)) for name in sorted(names) if Path(name).is_file()}
    if missing := sorted(names - set(vectors)):
        console.warn(
            f"{', '.join(missing)}: not there, so damage on neutral text is not measured, and judge data "
            "cannot leave out the texts it was fitted on"
        )
    engine = load_engine(model or next(iter(models), None), [], [], dtype, device)
    pushes = {
        setting: total_pushes([vectors[name] for name in setting.vectors], setting.alphas)
        for setting in dict.fromkeys(sample.condition for sample in found)
        if setting.alphas
        and setting.baseline is None
        and all(
            name in vectors and vectors[name].metadata.model_shape == engine.shape for name in setting.vectors
        )
    }
    return Continuations(engine, found, vectors, pushes, {"generations": sources})


@dataclass(frozen=True)
class Planned:
    """What is to be generated."""

    paths: list[Path]
    alphas: Sequence[tuple[float, ...]]
    settings: "GenerationConfig"
    n: int
    random: bool
    instruction: str | None
    as_chat: bool
    system: str | None

    def run(
        self,
        records: "Sequence[Located]",
        named: "dict[str, SteeringVector]",
        save: Path | None,
        resume: bool,
        model: str | None,
        dtype: str,
        device: str,
    ) -> Continuations:
        """Generate; `named` are the vectors by the names of their paths."""
        from ...evaluation.plan import write_all
        from ...vectors.vector import total_pushes

        vectors = [named[str(path)] for path in self.paths]
        engine = load_engine(model, self.paths, vectors, dtype, device)
        plan = self._plan(engine, records, vectors)
        facts = self._facts(engine, records, vectors)
        with (
            console.progress("writing", len(plan.jobs)) as advance,
            _kept(save, resume, facts) as (keep, kept),
        ):
            found = write_all(plan, advance, keep=keep, kept=kept)
        pushes = {
            job.setting: total_pushes(plan.vectors, job.row.alphas)
            for job in plan.jobs
            if any(job.row.alphas)
        }
        return Continuations(engine, found, named, pushes, facts)

    def _plan(
        self, engine: "Engine", records: "Sequence[Located]", vectors: "list[SteeringVector]"
    ) -> "Plan":
        from ...evaluation.plan import plan, random_counterpart
        from ...evaluation.samples import PROMPTING, RANDOM, UNSTEERED, Condition

        names, positions = tuple(map(str, self.paths)), self.settings.positions
        controls = self._controls(vectors) if self.random else []
        seed = self.settings.sampling.seed
        every = [
            *vectors,
            *(random_counterpart(vectors, alphas, seed + i) for i, alphas in enumerate(controls)),
        ]
        none = (0.0,) * len(controls)
        settings_of = [
            (Condition(names, alphas, positions, None if any(alphas) else UNSTEERED), (*alphas, *none))
            for alphas in self.alphas
        ]
        unsteered = (0.0,) * len(vectors)
        for number, alphas in enumerate(controls):
            only = tuple(float(other == number) for other in range(len(controls)))
            settings_of.append((Condition(names, alphas, positions, RANDOM), (*unsteered, *only)))
        if self.instruction is not None:
            settings_of.append((Condition(names, unsteered, positions, PROMPTING), (*unsteered, *none)))
        prompts = self._prompts(engine, records, None)
        instructed = self._prompts(engine, records, self.instruction) if self.instruction is not None else []
        return plan(engine, prompts, every, settings_of, self.settings, n=self.n, instructed=instructed)

    def _prompts(
        self, engine: "Engine", records: "Sequence[Located]", instruction: str | None
    ) -> "list[Any]":
        return tokenized(
            records, engine, as_chat=self.as_chat, system=self.system,
            max_new_tokens=self.settings.max_new_tokens, instruction=instruction,
        )  # fmt: skip

    def _controls(self, vectors: "list[SteeringVector]") -> list[tuple[float, ...]]:
        """The settings that get a random counterpart: the strongest, of one vector in either direction."""
        from ...vectors.vector import total_dose

        def strongest(among: list[tuple[float, ...]]) -> list[tuple[float, ...]]:
            return [max(among, key=lambda alphas: total_dose(vectors, alphas))] if among else []

        steered = [alphas for alphas in self.alphas if any(alphas)]
        if len(vectors) > 1:
            return strongest(steered)
        return strongest([a for a in steered if a[0] < 0]) + strongest([a for a in steered if a[0] > 0])

    def _facts(
        self, engine: "Engine", records: "Sequence[Located]", vectors: "list[SteeringVector]"
    ) -> dict[str, Any]:
        """Every setting needed to repeat the run."""
        from ...vectors.vector import file_sha256

        asked = json.dumps([located.record for located in records], sort_keys=True)
        settings = asdict(self.settings)
        settings.pop("batch_size")
        return {
            "model": engine.model_id,
            "dtype": str(engine.dtype),
            "vectors": [
                {"name": str(path), "sha256": file_sha256(path), **_origin(vector)}
                for path, vector in zip(self.paths, vectors, strict=True)
            ],
            "alphas": self.alphas,
            "n_prompts": len(records),
            "prompts_sha256": hashlib.sha256(asked.encode()).hexdigest(),
            "n": self.n,
            "random": self.random,
            "baseline_prompt": self.instruction,
            "chat": self.as_chat,
            "system": self.system,
            **settings,
        }


def _origin(vector: "SteeringVector") -> dict[str, Any]:
    facts = vector.metadata
    sides = {
        name: {"label": side.label, "n_texts": side.n_texts, "sha256": side.sha256}
        for name, side in (("positive", facts.positive), ("negative", facts.negative))
        if side is not None
    }
    return {"method": facts.method, "parameters": facts.parameters, "points": list(facts.points), **sides}


def check_save(save: Path, resume: bool) -> None:
    from ...files import check_target

    if save.suffix != ".jsonl":  # by its suffix it is read again
        raise InputError(f"--save {save}: name a .jsonl file")
    check_target(save)
    if save.exists() and save.stat().st_size and not resume:
        raise InputError(f"--save {save}: there already; --resume goes on with it, or name another file")


def _kept(
    save: Path | None, resume: bool, facts: dict[str, Any]
) -> AbstractContextManager[tuple[Keep, dict[int, Record]]]:
    """(what keeps a record, records kept by an earlier run by the number of their job)."""
    from ...data.records import recover

    if save is None:
        return nullcontext((lambda _record: None, {}))
    run = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    kept: dict[int, Record] = {}
    located, whole = recover(save) if resume else ([], 0)
    for where, record in ((one.where, one.record) for one in located):
        if record.get("run") != run or type(record.get("job")) is not int:
            raise InputError(
                f"{where}: not of this run; --resume needs the same model, vectors, prompts and "
                "settings: give those, or name another file"
            )
        kept[record["job"]] = record
    if save.exists() and save.stat().st_size > whole:
        if not kept:
            raise InputError(f"{save}: holds no record of this run; name another file")
        os.truncate(save, whole)  # the record that a killed run left half written
    if kept:
        console.note(f"{save}: {len(kept)} continuations are there already")
    return _appending(save, run, kept)


@contextmanager
def _appending(save: Path, run: str, kept: dict[int, Record]) -> Iterator[tuple[Keep, dict[int, Record]]]:
    from ...data.records import appending

    with appending(save) as append:
        yield lambda record: append({**record, "run": run}), kept
