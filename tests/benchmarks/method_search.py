"""Whether another way to steer beats the difference of means: one bounded search, every text kept.

python tests/benchmarks/method_search.py DATA_DIR --raw FOLDER [--tasks sentiment- ...] [--table]

Tasks are a folder's (see steering_quality.py) and the project's own examples, polite and happy. Of a folder's
texts the odd ones fit, the even ones train the judges; examples are judged by those in examples/judge. Every
method writes one continuation of 30 tokens at each of its doses on 65 openings (toxicity: on its own 60), all
with the same noise. Two judges of different families score a text: logistic regression on its embedding,
and on TF-IDF of words and pairs of words. Two language models price it: the unsteered model itself (nats a
token) and Gemma 3 270M (bits a byte). All of that is kept in FOLDER, a file a task and method, and a run goes
on where another ended. With --table nothing is written, and what is there is summed up by method_table.py.
"""

import argparse
import json
import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import method_table
import torch
from method_tasks import JUDGES, Corpus, Rate, Texts, shuffled
from onpolicy import OnPolicy
from placed import LAYERS, front_loaded, local_means
from record import recorded
from torch import Tensor

from neurosteer_cli.data.prompts import prompts_of
from neurosteer_cli.data.records import Passage
from neurosteer_cli.data.sides import sides_of
from neurosteer_cli.evaluation.measures.likelihood import log_probs
from neurosteer_cli.generation.continuation import GenerationConfig
from neurosteer_cli.generation.generate import Job, generate
from neurosteer_cli.generation.sampling import Sampling
from neurosteer_cli.models.architectures import head
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.saes.load import BUNDLED, find_saes, open_saes
from neurosteer_cli.vectors.fitting.from_texts import build
from neurosteer_cli.vectors.fitting.reading import Reading
from neurosteer_cli.vectors.vector import SteeringVector, unit_scale

TASKS = (
    "sentiment-", "politeness+", "toxicity-", "sentiment+", "politeness-", "polite+", "happy-", "toxicity+",
    "polite-", "happy+",
)  # fmt: skip
SPREAD = [HookPoint(layer) for layer in (14, 17, 20)]
TOP_K = 100
NARROW = 0.855  # top-p of the arms with a narrower nucleus
SEED = 3
N_CANDIDATES = 8
CHOSEN_OF = (2, 4, 8)
CONFIG = GenerationConfig(max_new_tokens=30, batch_size=64, sampling=Sampling(seed=SEED))


class Arm(NamedTuple):
    """A method as it is compared."""

    vector: str
    doses: tuple[float, ...]
    top_p: float = 0.9
    fades: bool = False


ARMS = {
    "diffmean": Arm("diffmean", (8, 14, 22)),
    "diffmean narrow": Arm("diffmean", (10, 18, 28), NARROW),
    "mixed": Arm("mixed", (14, 24, 36)),
    "mixed narrow": Arm("mixed", (14, 24, 36), NARROW),
    "logodds": Arm("logodds", (14, 24, 36)),
    "neurosteer": Arm("neurosteer", (8, 14, 22)),
    "onpolicy": Arm("onpolicy", (8, 14, 22)),
    "placed": Arm("placed", (8, 14, 22)),
    "neurosteer narrow": Arm("neurosteer", (10, 18, 28), NARROW),
    "shuffled": Arm("shuffled", (14, 22)),
    "front-loaded": Arm("diffmean", (7, 12, 19), fades=True),
}
METHODS = ("best of n", *ARMS)


@dataclass
class Search:
    """The engine, the second language model, and the folder that texts are kept in."""

    engine: Engine
    second: Engine
    folder: Path  # of the tasks
    raw: Path
    _judges: dict[tuple[str, str], Rate] = field(default_factory=dict)

    @cached_property
    def prompts(self) -> dict[str, list[str]]:
        """Openings by their name."""
        neutral = self.folder / "prompts.neutral.jsonl"
        named = {
            "neutral": [*prompts_of(str(neutral)), *prompts_of(None)],
            "toxicity": prompts_of(str(self.folder / "prompts.toxicity.jsonl")),
        }
        return {
            name: list(dict.fromkeys(each.record["prompt"] for each in found))
            for name, found in named.items()
        }

    def run(self, task: str, methods: Sequence[str]) -> None:
        """Write, price and judge what is not there yet of a task, method by method."""
        corpus = Corpus.read(task[:-1], self.folder)
        sign = 1 if task.endswith("+") else -1
        print(f"== {task}", flush=True)
        if not (missing := [name for name in methods if not self._file(task, name).is_file()]):
            return
        judges = {name: make(corpus.judge) for name, make in JUDGES.items()}
        vectors = self.vectors(corpus, {ARMS[name].vector for name in methods if name in ARMS})
        for name in missing:
            start = time.monotonic()
            if not (arm := ARMS.get(name)):
                self._choose(task, corpus, judges, sign)
                continue
            doses = [sign * dose for dose in arm.doses]
            with front_loaded() if arm.fades else nullcontext():
                rows = self._write(corpus.prompts, vectors[arm.vector], doses, arm.top_p)
            self._price(rows)
            self._judge(rows, judges)
            self._keep(self._file(task, name), rows)
            print(f"   {name}: {time.monotonic() - start:.0f} s", flush=True)

    def _file(self, task: str, name: str) -> Path:
        return self.raw / f"{task}.{name}.jsonl"

    def _keep(self, path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
        part = path.with_suffix(".part")
        part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        os.replace(part, path)

    def _write(
        self,
        prompts: str,
        vector: SteeringVector | None,
        doses: Sequence[float],
        top_p: float = 0.9,
        n: int = 1,
    ) -> list[dict[str, Any]]:
        """One record a text: of a vector at its doses, or n unsteered texts of each opening."""
        sampling = replace(CONFIG.sampling, top_p=top_p)
        alphas = [(dose,) for dose in doses] if vector else [()]
        jobs = [
            Job.of(self.engine, prompt, *alpha, sample=sample)
            for prompt in self.prompts[prompts]
            for sample in range(n)
            for alpha in alphas
        ]
        vectors = [vector] if vector else []
        done = dict(generate(self.engine, jobs, vectors, replace(CONFIG, sampling=sampling)))
        return [
            {"prompt": job.key, "dose": abs(sum(job.alphas)), "sample": job.sample, "text": done[n].text}
            for n, job in enumerate(jobs)
        ]

    def _price(self, rows: Sequence[dict[str, Any]]) -> None:
        """Adds nats and tokens (the model itself, unsteered), bits and bytes (the second model)."""
        for engine, name in ((self.engine, "nats"), (self.second, "bits")):
            pairs = []
            for row in rows:
                ids = engine.prompt_ids(row["prompt"])
                pairs.append((ids, engine.continuation_ids(row["prompt"], ids, row["text"], rendered=False)))
            for row, found in zip(rows, log_probs(engine, pairs), strict=True):
                row[name] = -float(found.double().sum()) / (1 if name == "nats" else 0.6931471805599453)
                if name == "nats":
                    row["tokens"] = len(found)
        for row in rows:
            row["bytes"] = len(row["text"].encode())

    @staticmethod
    def _judge(rows: Sequence[dict[str, Any]], judges: Mapping[str, Rate]) -> None:
        for name, rate in judges.items():
            for row, score in zip(rows, rate([row["text"] for row in rows]), strict=True):
                row[name] = score

    def _candidates(self, prompts: str) -> list[dict[str, Any]]:
        """Unsteered texts of each opening, priced; the first of each is what methods are compared with."""
        path = self.raw / f"unsteered.{prompts}.jsonl"
        if not path.is_file():
            n = N_CANDIDATES if prompts == "neutral" else 1
            rows = self._write(prompts, None, (), n=n)
            self._price(rows)
            self._keep(path, rows)
        return [json.loads(line) for line in path.read_text().splitlines()]

    def _choose(self, task: str, corpus: Corpus, judges: Mapping[str, Rate], sign: int) -> None:
        """Unsteered texts, and the best of n by a judge trained on the texts of the fit, of either family.

        A record's `dose` is n, and `by` the family it is chosen by: 1 and none for unsteered.
        """
        rows = self._candidates(corpus.prompts)
        self._judge(rows, judges)
        kept = [{**row, "dose": 0, "by": ""} for row in rows if row["sample"] == 0]
        if len(rows) > len(kept):
            for family, make in JUDGES.items():
                rates = make(corpus.fit)([row["text"] for row in rows])
                for n in CHOSEN_OF:
                    best: dict[str, tuple[float, dict[str, Any]]] = {}
                    for row, rate in zip(rows, rates, strict=True):
                        worth = sign * rate
                        if row["sample"] < n and worth > best.get(row["prompt"], (-9.0, {}))[0]:
                            best[row["prompt"]] = worth, row
                    kept += [{**row, "dose": n, "by": family} for _, row in best.values()]
        self._keep(self._file(task, "best of n"), kept)

    def vectors(self, corpus: Corpus, names: Collection[str]) -> dict[str, SteeringVector]:
        """Those of some methods, fitted once and kept."""
        if not all(self._vector(corpus, name).is_file() for name in names):
            seconds = {}
            start = time.process_time()
            for name, vector in self._fitted(corpus, names):
                vector.save(self._vector(corpus, name))
                seconds[name] = time.process_time() - start
                start = time.process_time()
            print(f"   fitted: {json.dumps(seconds)}", flush=True)
            self._keep(self.raw / f"{corpus.name}.fits.jsonl", [seconds])
        return {name: SteeringVector.load(self._vector(corpus, name)) for name in names}

    def _vector(self, corpus: Corpus, name: str) -> Path:
        return self.raw / f"{corpus.name}.{name}.st"

    def _fitted(self, corpus: Corpus, names: Collection[str]) -> Iterator[tuple[str, SteeringVector]]:
        """Vectors as they are made; the first takes the pass that all of them share."""
        points = [HookPoint(layer) for layer in LAYERS]
        reading = self._read(corpus.fit, points, with_saes=True)
        everywhere = build(reading, points, "diffmean", TOP_K)
        yield "neurosteer", build(reading, SPREAD, "neurosteer", TOP_K)
        yield "diffmean", build(reading, SPREAD, "diffmean", TOP_K)
        yield "mixed", build(reading, SPREAD, "diffmean", TOP_K, 0.5)
        yield "logodds", build(reading, [], "logodds", TOP_K, 1.0)
        sides = [[self.engine.tokenize(Passage("fit", text)) for text in side] for side in corpus.fit]
        norms = {point: reading.at[point].norms.median for point in points}

        def as_vector(pushes: Mapping[HookPoint, Tensor]) -> SteeringVector:
            scale = unit_scale(pushes, norms)
            scaled = {point: (scale * push).float() for point, push in pushes.items()}
            return replace(everywhere, pushes=scaled, latents={})

        yield "placed", as_vector(local_means(self.engine, sides[0], sides[1]))
        if "onpolicy" in names:
            search = OnPolicy(self.engine, reading, everywhere)
            yield "onpolicy", as_vector(search.fit(sides[0][:150], sides[1][:150]))
            print(f"   onpolicy: {json.dumps(search.report)}", flush=True)
        yield "shuffled", build(self._read(shuffled(corpus.fit, SEED), SPREAD), SPREAD, "diffmean", TOP_K)

    def _read(self, texts: Texts, points: Sequence[HookPoint], *, with_saes: bool = False) -> Reading:
        saes = open_saes(find_saes(BUNDLED, model_id=self.engine.model_id), self.engine) if with_saes else {}
        reading = Reading(self.engine, sides_of(*texts), points, saes, counts_tokens=with_saes)
        reading.run()
        return reading


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--raw", type=Path, required=True)
    parser.add_argument("--tasks", nargs="*", default=TASKS, choices=TASKS)
    parser.add_argument("--methods", nargs="*", default=METHODS, choices=METHODS)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if not options.table:
        torch.manual_seed(0)
        head.NUMBERS_AT_ONCE = 2**26  # a vocabulary of 262,000 is quicker in larger parts
        search = Search(Engine.load(), Engine.load("gemma3-270m"), options.folder, options.raw)
        for task in options.tasks:
            search.run(task, options.methods)
    method_table.show(options.raw, options.tasks)


if __name__ == "__main__":
    with recorded(__file__, seed=str(SEED)):
        main()
