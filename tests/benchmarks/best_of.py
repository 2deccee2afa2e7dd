"""What choosing among continuations does, by judges who did not choose, and what it takes.

python tests/benchmarks/best_of.py [POS NEG] [--vector V.st] [--alpha 15] [--best-of 8]
    [--prompts 36] [--ppl-model gemma3-270m]

The texts of the two sides (those of examples/judge, unless named) are halved. On one half the judge that
chooses is trained, by sentence embeddings; on the other those that score what is kept, one by words and
word pairs, one by sentence embeddings again. On every neutral opening the model writes unsteered, with the
vector (politeness, unless named) at either alpha, with the best and the worst of n unsteered texts, and
with the best of n pushed up and the worst of n pushed down. Tokens run are those that the model reads,
pads counted, prompts and candidates among them; seconds are those of writing and choosing.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from record import recorded

import neurosteer_cli
from neurosteer_cli.data.prompts import prompts_of
from neurosteer_cli.data.records import Located
from neurosteer_cli.evaluation.best_of import BestOf
from neurosteer_cli.evaluation.evaluate import evaluate
from neurosteer_cli.evaluation.judges.judge import Judge
from neurosteer_cli.evaluation.judges.load import load_judge
from neurosteer_cli.evaluation.measures.metrics import Estimate, known
from neurosteer_cli.evaluation.results import ConditionResult
from neurosteer_cli.evaluation.runs.comparison import Run
from neurosteer_cli.evaluation.runs.plan import Plan
from neurosteer_cli.evaluation.runs.samples import Condition, Sample, as_sample
from neurosteer_cli.generation.continuation import GenerationConfig
from neurosteer_cli.generation.prompts import Prompt, tokenize
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.vectors.vector import SteeringVector

EXAMPLES = Path(__file__).parents[2] / "examples" / "judge"
POLITE = Path(neurosteer_cli.__file__).parent / "vectors" / "bundled" / "polite.st"
CONFIG = GenerationConfig(max_new_tokens=30, batch_size=64)
SCORERS = ("tfidf", "data")


@dataclass(frozen=True)
class Way:
    """One way to write, what came of it, and what it took."""

    samples: Sequence[Sample]
    n_run: int  # tokens
    n_kept: int
    seconds: float


def main() -> None:
    options = asked()
    engine = Engine.load(dtype="float32")
    vector = SteeringVector.load(options.vector)
    prompts = tokenize(prompts_of(None)[: options.prompts], engine, max_new_tokens=CONFIG.max_new_tokens)
    with tempfile.TemporaryDirectory() as folder:
        first, second = halves([options.positive, options.negative], Path(folder))
        left_out = set(vector.text_hashes.tolist())
        chooser = load_judge("data", judge_data=first, leave_out=left_out)
        scorers = [load_judge(name, judge_data=second, leave_out=left_out) for name in SCORERS]
    for role, judge in (("chooses", chooser), *(("scores", judge) for judge in scorers)):
        accuracy = judge.card["balanced_accuracy"]
        print(f"{role}: {judge.name}, cross-validated balanced accuracy {accuracy:.2f}")
    write = partial(written, engine, (options.vector.stem, vector), prompts, options.best_of)
    best, worst = BestOf(judge=chooser), BestOf(judge=chooser, lowest=True)
    write(0.0, None)  # what a first pass takes besides
    ways = [
        write(alpha, best_of)
        for alpha, best_of in (
            (0.0, None), (options.alpha, None), (-options.alpha, None), (0.0, best), (0.0, worst),
            (options.alpha, best), (-options.alpha, worst),
        )
    ]  # fmt: skip
    samples = [sample for way in ways for sample in way.samples]
    models = {engine.model_id: lambda: engine, **{n: partial(Engine.load, n) for n in options.ppl_model}}
    results = evaluate(Run(engine, samples), scorers, ppl_models=models).results
    show(results, ways, list(models), scorers)


def asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("positive", nargs="?", default=str(EXAMPLES / "polite.jsonl"))
    parser.add_argument("negative", nargs="?", default=str(EXAMPLES / "rude.jsonl"))
    parser.add_argument("--vector", type=Path, default=POLITE)
    parser.add_argument("--alpha", type=float, default=15.0)
    parser.add_argument("--best-of", type=int, default=8)
    parser.add_argument("--prompts", type=int, default=36)
    parser.add_argument("--ppl-model", action="append", default=[], help="besides the steered one")
    return parser.parse_args()


def halves(sides: Sequence[str], folder: Path) -> list[tuple[str, str]]:
    """Files of every other text of both sides, and of the others."""
    found: list[list[str]] = [[], []]
    for number, side in enumerate(sides):
        lines = Path(side).read_text(encoding="utf-8").splitlines(keepends=True)
        for half in (0, 1):
            path = folder / f"{number}{half}.jsonl"
            path.write_text("".join(lines[half::2]), encoding="utf-8")
            found[half].append(str(path))
    return [(one, other) for one, other in found]


def written(
    engine: Engine,
    named: tuple[str, SteeringVector],
    prompts: Sequence[Prompt],
    n: int,
    alpha: float,
    best_of: BestOf | None,
) -> Way:
    """One text a prompt, the best or worst of n or the only one."""
    name, vector = named
    condition = Condition((name,), (alpha,))
    plan = Plan(engine, prompts, [vector], [(condition, (alpha,))], CONFIG, n if best_of else 1)
    start = time.perf_counter()
    with tokens_run(engine) as count:
        if best_of:
            records = [best_of.record(plan, chosen) for chosen in best_of.choose(plan)]
        else:
            records = [plan.record(*finished) for finished in plan.in_order()]
    seconds = time.perf_counter() - start
    n_kept = sum(record["n_tokens"] for record in records)
    return Way([as_sample(Located("here", record)) for record in records], count(), n_kept, seconds)


@contextmanager
def tokens_run(engine: Engine) -> Iterator[Callable[[], int]]:
    """How many tokens the model has read since."""
    sizes: list[int] = []

    def note(_module: torch.nn.Module, _args: object, given: dict[str, torch.Tensor]) -> None:
        sizes.append(given["input_ids"].numel())

    handle = engine.model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield lambda: sum(sizes)
    finally:
        handle.remove()


def show(
    results: Sequence[ConditionResult], ways: Sequence[Way], models: Sequence[str], scorers: Sequence[Judge]
) -> None:
    print(
        f"{results[0].n_prompts} prompts, a text of up to {CONFIG.max_new_tokens} tokens each; each judge's "
        "mean score in percent, perplexity ratios by model, in brackets 95 % intervals over prompts\n"
    )
    headings = [*(judge.name for judge in scorers), *(f"ratio, {name}" for name in models)]
    headings += ["dist-2", "rep-4", "tokens run a token kept", "seconds"]
    print("| | " + " | ".join(headings) + " |")
    print("|---" * (len(headings) + 1) + "|")
    for result, way in zip(results, ways, strict=True):
        cells = [
            *(interval(result.judges[judge.name].mean, 100, 0) for judge in scorers),
            *(interval(result.models[name].perplexity_ratio, 1, 2) for name in models),
            interval(result.distinct_2, 1, 3).split()[0],
            interval(result.repetition_4, 100, 1).split()[0],
            f"{way.n_run / way.n_kept:.1f}",
            f"{way.seconds:.0f}",
        ]
        print(f"| {result.condition.label} | " + " | ".join(cells) + " |")


def interval(estimate: Estimate | None, scale: float, digits: int) -> str:
    if not (found := known(estimate)):
        return "-"
    low, high = (f"{scale * end:.{digits}f}" for end in found.ends)
    return f"{scale * found.value:.{digits}f} [{low}, {high}]"


if __name__ == "__main__":
    with recorded(__file__):
        main()
