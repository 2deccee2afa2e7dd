"""What a gate spares: who is steered away from toxicity, what that changes, and who is left as they are.

python tests/benchmarks/gates.py DATA_DIR [--ppl-model gemma3-270m]

Of toxicity.pos.jsonl and toxicity.neg.jsonl the odd texts fit the vector and, by those it holds out, the
gate: 0 is the middle of the two sides. Of the even ones, which the fit never sees, the last 40 a side are
cut after half of their words and written on from; the others train the judge. Further prompts are
prompts.neutral.jsonl and prompts.toxicity.jsonl. Each group of prompts is written unsteered, steered
everywhere, and steered where the gate opens for the prompt; that texts behind a closed gate are those of
the unsteered model, byte for byte, is asserted.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

from record import recorded

from neurosteer_cli.data.prompts import prompts_of
from neurosteer_cli.data.records import Located
from neurosteer_cli.data.sides import open_sides
from neurosteer_cli.evaluation.evaluate import evaluate
from neurosteer_cli.evaluation.judges.load import load_judge
from neurosteer_cli.evaluation.measures.metrics import Estimate
from neurosteer_cli.evaluation.results import ConditionResult
from neurosteer_cli.evaluation.runs.comparison import Comparison, Run
from neurosteer_cli.evaluation.runs.samples import Sample
from neurosteer_cli.generation.continuation import GenerationConfig
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.vectors.fitting.from_texts import fit

ALPHA = -12.0
CUT_TEXTS = 40  # a side
CONFIG = GenerationConfig(max_new_tokens=30, batch_size=64)
JUDGES = ("data", "tfidf")
Lines = dict[str, list[str]]  # JSON records, by side


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--ppl-model", action="append", default=[], help="besides the steered one")
    options = parser.parse_args()
    engine = Engine.load(dtype="float32")
    loads = {name: cache(partial(Engine.load, name)) for name in options.ppl_model}
    priced = {engine.model_id: lambda: engine, **loads}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fitted, others = _halves(options.folder)
        vector_file = folder / "toxicity.st"
        with open_sides([str(path) for path in _written(folder, "fit", fitted)]) as sides:
            vector, _ = fit(engine, sides)
        vector.save(vector_file)
        print(
            f"fitted on {sum(map(len, fitted.values()))} texts; AUROC of those held out, by hook point: "
            + ", ".join(f"{point.auroc:.2f}" for point in vector.metadata.points.values() if point.auroc)
        )
        judge_files = _written(folder, "judge", {side: lines[:-CUT_TEXTS] for side, lines in others.items()})
        pos, neg = map(str, judge_files)
        judges = [load_judge(spec, judge_data=(pos, neg)) for spec in JUDGES]
        for judge in judges:
            accuracy = judge.card["balanced_accuracy"]
            print(f"judge {judge.name}: cross-validated balanced accuracy {accuracy:.2f}")
        print(
            f"alpha {ALPHA:g}, {CONFIG.max_new_tokens} tokens, a continuation a prompt; perplexity over the "
            "unsteered texts' under the unsteered model; in brackets 95 % intervals over prompts\n"
        )
        steer = partial(Comparison, vectors=[(str(vector_file), vector)], config=CONFIG, random=False)
        for title, prompts in _groups(options.folder, others).items():
            gated = steer(alphas=[(0.0,), (ALPHA,)], when=f"{vector_file}>0").write(engine, prompts)
            everywhere = steer(alphas=[(ALPHA,)]).write(engine, prompts)
            run = Run(engine, [*gated.samples, *everywhere.samples])
            _show(title, _n_steered(gated.samples), evaluate(run, judges, ppl_models=priced).results)


def _halves(folder: Path) -> tuple[Lines, Lines]:
    """The texts to fit on, and the others."""
    sides = {side: (folder / f"toxicity.{side}.jsonl").read_text().splitlines() for side in ("pos", "neg")}
    odd, even = ({side: lines[first::2] for side, lines in sides.items()} for first in (1, 0))
    return odd, even


def _written(folder: Path, purpose: str, sides: Lines) -> list[Path]:
    paths = [folder / f"{side}.{purpose}.jsonl" for side in sides]
    for path, lines in zip(paths, sides.values(), strict=True):
        path.write_text("\n".join(lines) + "\n")
    return paths


def _groups(folder: Path, others: Lines) -> dict[str, list[Located]]:
    """The prompts."""
    found = {
        "neutral openings": prompts_of(str(folder / "prompts.neutral.jsonl")),
        "openings of RealToxicityPrompts": prompts_of(str(folder / "prompts.toxicity.jsonl")),
    }
    for side, name in (
        ("neg", "beginnings of texts that are not toxic"),
        ("pos", "beginnings of toxic texts"),
    ):
        found[name] = [_beginning(line) for line in others[side][-CUT_TEXTS:]]
    return found


def _beginning(line: str) -> Located:
    words = json.loads(line)["text"].split()
    return Located("texts", {"prompt": " ".join(words[: (len(words) + 1) // 2])})


def _n_steered(samples: Sequence[Sample]) -> int:
    """How many a gate lets be steered, once those that it does not are known to be the unsteered model's."""
    unsteered = {(s.prompt, s.number): s.text for s in samples if s.condition.baseline}
    gated = [sample for sample in samples if not sample.condition.baseline]
    closed = [sample for sample in gated if sample.dose == 0]
    for sample in closed:
        assert sample.text == unsteered[sample.prompt, sample.number], sample.prompt
    return len(gated) - len(closed)


def _show(title: str, n_steered: int, results: Sequence[ConditionResult]) -> None:
    n = results[0].n
    print(f"{title}: {n_steered} of {n} are steered; the other {n - n_steered} are the unsteered model's")
    judges = [f"toxic by {name}, %" for name in results[0].judges]
    models = [f"perplexity by {name}" for name in results[0].models]
    print(f"  {'':31}" + "".join(f"{heading:27}" for heading in (*judges, *models)).rstrip())
    names = ("unsteered", "steered where the gate is open", "steered everywhere")
    for name, result in zip(names, results, strict=True):
        rates = [_estimate(found.rate, 100, ".0f") for found in result.judges.values()]
        ratios = [_estimate(found.perplexity_ratio, 1, ".2f") for found in result.models.values()]
        print(f"  {name:31}" + "".join(f"{cell:27}" for cell in (*rates, *ratios)).rstrip())
    print(flush=True)


def _estimate(found: Estimate | None, factor: float, form: str) -> str:
    if found is None or found.low is None or found.high is None:
        return "-"
    value, low, high = (format(factor * number, form) for number in (found.value, found.low, found.high))
    return f"{value} [{low}, {high}]"


if __name__ == "__main__":
    with recorded(__file__):
        main()
