"""What steering costs in generation, and what several alphas of one prompt cost; and `--help`.

python tests/benchmarks/generation_cost.py
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from record import recorded
from whole_process import run

from neurosteer_cli.generation.continuation import GenerationConfig
from neurosteer_cli.generation.generate import Job, generate
from neurosteer_cli.generation.sampling import Sampling
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.vectors.vector import SteeringVector

EXAMPLES = Path(__file__).parents[2] / "examples"
# No end of text is drawn at this temperature within so few tokens but by chance; both sides of a
# comparison write the same number of tokens, which is printed.
SETTINGS = GenerationConfig(sampling=Sampling(temperature=0.7), max_new_tokens=32)


def main() -> None:
    helps = [run([sys.executable, "-m", "neurosteer_cli", "--help"]).seconds for _ in range(5)]
    print(f"--help: {statistics.median(helps):.2f} s")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "v.st"
        subprocess.run(
            [sys.executable, "-m", "neurosteer_cli", "fit", EXAMPLES / "polite.jsonl",
             EXAMPLES / "rude.jsonl", "-o", path],
            check=True, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        vector = SteeringVector.load(path)
    engine = Engine.load()
    prompts = ["I read your report and", "About the meeting tomorrow:", "The soup they served", "Our dog"] * 2

    def rows(alphas: list[float], texts: list[str]) -> list[Job]:
        return [Job(text, engine.prompt_ids(text), (alpha,)) for text in texts for alpha in alphas]

    compare("8 prompts", engine, vector, rows([0.0], prompts), rows([8.0], prompts), "unsteered", "steered")
    one = [prompts[0]]
    compare("1 prompt", engine, vector, rows([8.0], one), rows([2.0 * i for i in range(8)], one),
            "one alpha", "eight alphas")  # fmt: skip


def compare(
    title: str, engine: Engine, vector: SteeringVector, left: list[Job], right: list[Job], *names: str
) -> None:
    """Time two sets of rows in turn, per step: rows that end early would flatter either side."""

    def seconds_a_step(rows: list[Job]) -> float:
        return timed(lambda: [g for _, g in generate(engine, rows, [vector], SETTINGS)])

    pairs = [(seconds_a_step(left), seconds_a_step(right)) for _ in range(9)]
    ratio = statistics.median(second / first for first, second in pairs)
    medians = [statistics.median(column) for column in zip(*pairs, strict=True)]
    print(
        f"{title}: {names[0]} {medians[0] * 1000:.1f}, {names[1]} {medians[1] * 1000:.1f} ms a step, "
        f"ratio {ratio:.3f} (median of pairs)"
    )


def timed(write: Callable[[], list]) -> float:
    start = time.perf_counter()
    steps = max(generation.n_tokens for generation in write())
    return (time.perf_counter() - start) / steps


if __name__ == "__main__":
    with recorded(__file__):
        main()
