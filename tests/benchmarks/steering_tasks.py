"""What the steering benchmarks share: tasks, every method's vector and the controls, judges, models.

A task is a folder's NAME.pos.jsonl and NAME.neg.jsonl, steered up (NAME+) or down (NAME-). Of each side the
odd texts fit the vectors, the even ones train two judges of different families: `data`, by sentence
embeddings, and `tfidf`, by words and word pairs. Controls are a random vector, one of the same texts with
their sides dealt out at random, and plain log-odds of tokens. Perplexity is under every --ppl-model.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

from neurosteer_cli.data.sides import open_sides, shuffled
from neurosteer_cli.evaluation.judges import data, tfidf
from neurosteer_cli.evaluation.judges.judge import Judge
from neurosteer_cli.evaluation.runs.comparison import random_counterpart
from neurosteer_cli.evaluation.runs.plan import Alphas, Plan
from neurosteer_cli.evaluation.runs.samples import PROMPTING, UNSTEERED, Condition, Sample
from neurosteer_cli.generation.continuation import GenerationConfig
from neurosteer_cli.generation.prompts import Prompt
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.saes.load import BUNDLED, find_saes, open_saes
from neurosteer_cli.vectors.fitting.from_texts import build
from neurosteer_cli.vectors.fitting.methods import LOGODDS, METHODS
from neurosteer_cli.vectors.fitting.reading import Reading
from neurosteer_cli.vectors.vector import SteeringVector

BOUNDS = (1.1, 1.25, 1.5)
CONFIG = GenerationConfig(max_new_tokens=30, batch_size=64)
TOP_K = 100
SINGLE, SPREAD = HookPoint(20), [HookPoint(layer) for layer in (14, 17, 20)]
DEFAULT, SHUFFLED = "neurosteer 14,17,20", "shuffled diffmean 14,17,20"
CONTROLS = ("random 20", SHUFFLED, LOGODDS)
PPL_MODELS = ("smollm2", "gemma3-270m")

Models = Mapping[str, Callable[[], Engine]]  # by name, each loaded once


@dataclass(frozen=True)
class Task:
    name: str
    up: bool
    positive: Path
    negative: Path
    prompts: Path | None

    def __str__(self) -> str:
        return self.name + ("+" if self.up else "-")


def find_tasks(folder: Path, pairs: Sequence[str]) -> list[Task]:
    files = {
        path.name.removesuffix(".pos.jsonl"): (path, folder / path.name.replace(".pos.", ".neg."))
        for path in sorted(folder.glob("*.pos.jsonl"))
    }
    for pair in pairs:
        up, down = pair.split(":")
        if (folder / f"{up}.jsonl").is_file():
            files[up] = (folder / f"{up}.jsonl", folder / f"{down}.jsonl")
    found = []
    for name, (positive, negative) in files.items():
        candidates = (
            folder / f"prompts.{name}.jsonl",
            folder / "prompts.neutral.jsonl",
            folder / "prompts.jsonl",
        )
        prompts = next((path for path in candidates if path.is_file()), None)
        found += [Task(name, up, positive, negative, prompts) for up in (True, False)]
    return found


def halves(task: Task, folder: Path) -> tuple[tuple[str, str], tuple[str, str]]:
    """The files to fit on and those to train the judge on."""
    parts: list[tuple[str, str]] = []
    for which in ("fit", "judge"):
        names = []
        for side, path in (("pos", task.positive), ("neg", task.negative)):
            lines = [line for line in path.read_text().split("\n") if line.strip()]
            part = folder / f"{task.name}.{side}.{which}.jsonl"
            part.write_text("\n".join(lines[1::2] if which == "fit" else lines[::2]) + "\n")
            names.append(str(part))
        parts.append((names[0], names[1]))
    return parts[0], parts[1]


def fit_all(engine: Engine, files: tuple[str, str]) -> dict[str, SteeringVector]:
    """Every method's vector and the controls, from two readings of the texts."""
    saes = open_saes(find_saes(BUNDLED, model_id=engine.model_id), engine)
    points = sorted({SINGLE, *SPREAD, *saes})
    vectors = {}
    with open_sides(list(files)) as sides:
        reading = Reading(engine, sides, points, saes, pairs=True, counts_tokens=True)
        reading.run()
        for name in METHODS:
            for where, chosen in {"20": [SINGLE], "14,17,20": SPREAD}.items():
                if name in ("pca", "paper") and len(chosen) > 1:
                    continue
                vectors[f"{name} {where}"] = build(reading, chosen, name, TOP_K)
        dealt = Reading(engine, shuffled(sides, 0), SPREAD, {}, pairs=False)
        dealt.run()
    vectors["random 20"] = random_counterpart([vectors["diffmean 20"]], (1.0,), seed=0)
    vectors[SHUFFLED] = build(dealt, SPREAD, "diffmean", TOP_K, shuffle_labels=0)
    vectors[LOGODDS] = build(reading, [], LOGODDS, TOP_K, logits_share=1.0)
    return vectors


def ready(
    engine: Engine, task: Task, methods: Sequence[str]
) -> tuple[dict[str, SteeringVector], list[Judge]]:
    """Every method's vector, the default's first and controls last, and the two judges."""
    with tempfile.TemporaryDirectory() as folder:
        fit_files, judge_files = halves(task, Path(folder))
        vectors = fit_all(engine, fit_files)
        judges = [data.train(judge_files), tfidf.train(judge_files)]
    asked = (DEFAULT, *methods, *CONTROLS) if methods else vectors
    right = ", ".join(f"{judge.name} {judge.card['balanced_accuracy']:.2f}" for judge in judges)
    print(f"== {task.name}: of held-out texts right: {right}", flush=True)
    return {name: vectors[name] for name in dict.fromkeys((DEFAULT, *asked))}, judges


def models_of(engine: Engine, names: Sequence[str]) -> Models:
    """What perplexity is under."""
    load = cache(lambda name: engine if name == engine.model_id else Engine.load(name))
    return {name: partial(load, name) for name in names}


def write(
    engine: Engine,
    prompts: Sequence[Prompt],
    instructed: Sequence[Prompt],
    vectors: Mapping[str, SteeringVector],
    doses: Mapping[str, Sequence[float]],
    n: int,
    seed: int,
) -> list[Sample]:
    """Every method at its doses, unsteered and prompted: all rows share batches and noise."""
    names = [name for name in doses if doses[name]]
    conditions: list[tuple[Condition, Alphas]] = [(Condition(("",), (0.0,), "all", UNSTEERED), ())]
    if instructed:
        conditions.append((Condition(("",), (0.0,), "all", PROMPTING), ()))
    for number, name in enumerate(names):
        for alpha in dict.fromkeys(doses[name]):
            if alpha:
                conditions.append((Condition((name,), (alpha,)), (*(0.0,) * number, alpha)))
    config = replace(CONFIG, sampling=replace(CONFIG.sampling, seed=seed))
    chosen = [vectors[name] for name in names]
    plan = Plan(engine, prompts, chosen, conditions, config, n, instructed)
    return plan.samples(dict(plan.records()))


def key_of(condition: Condition) -> tuple[str, float]:
    """A condition as cells and curves name it: method and strength."""
    return condition.baseline or condition.vectors[0], sum(condition.alphas or ())


def asked(description: str, *, n: str) -> argparse.Namespace:
    """The options, and as `tasks` the tasks they name."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="+")
    parser.add_argument("--tasks", nargs="*", help="such as sentiment+ toxicity-; all if left out")
    parser.add_argument("--pairs", nargs="*", default=[], help="POS:NEG of files POS.jsonl, NEG.jsonl")
    parser.add_argument("--methods", nargs="*", help="such as 'neurosteer 20' 'diffmean 14,17,20'")
    parser.add_argument("-n", type=int, default=4, help=n)
    parser.add_argument(
        "--ppl-model", action="append", help=f"may be repeated [default: {' and '.join(PPL_MODELS)}]"
    )
    options = parser.parse_args()
    options.ppl_model = options.ppl_model or PPL_MODELS
    tasks = [task for folder in options.folder for task in find_tasks(folder, options.pairs)]
    known = [str(task) for task in tasks]
    if unknown := set(options.tasks or []) - set(known):
        sys.exit(f"no task {sorted(unknown)}; there are {known}")
    options.tasks = [task for task in tasks if not options.tasks or str(task) in options.tasks]
    return options
