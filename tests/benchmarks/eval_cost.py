"""Where the time of `eval` goes: 60 prompts, 5 alphas, 40 tokens, judged by VADER.

python tests/benchmarks/eval_cost.py
"""

import time

START = time.perf_counter()  # before anything heavy is imported, which counts as overhead

import json  # noqa: E402
import tempfile  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from contextlib import suppress  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from record import recorded  # noqa: E402

from neurosteer_cli.cli import app  # noqa: E402
from neurosteer_cli.evaluation import evaluate as scoring  # noqa: E402
from neurosteer_cli.evaluation.runs import plan as runs  # noqa: E402

EXAMPLES = Path(__file__).parents[2] / "examples"
SPENT = {"generation": 0.0, "perplexity": 0.0, "damage": 0.0}


def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try:
            return call(*arguments, **options)
        finally:
            SPENT[name] += time.perf_counter() - start

    return wrapped


def timed_iterator(name: str, call: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    def wrapped(*arguments: Any, **options: Any) -> Iterator[Any]:
        items = call(*arguments, **options)
        following = timed(name, lambda: next(items))
        with suppress(StopIteration):
            while True:
                yield following()

    return wrapped


def main() -> None:
    runs.generate = timed_iterator("generation", runs.generate)  # type: ignore[assignment]
    scoring.likelihoods = timed("perplexity", scoring.likelihoods)
    scoring.damage = timed("damage", scoring.damage)
    with tempfile.TemporaryDirectory() as folder:
        vector, prompts = Path(folder) / "v.st", Path(folder) / "prompts.jsonl"
        sides = [str(EXAMPLES / f"{name}.jsonl") for name in ("happy", "sad")]
        before_fit = time.perf_counter()
        app(
            ["fit", *sides, "--method", "diffmean", "--layer", "20", "-o", str(vector)], standalone_mode=False
        )
        fitting = time.perf_counter() - before_fit
        lines = [json.dumps({"prompt": f"On day {n} of the journey, we"}) for n in range(60)]
        prompts.write_text("\n".join(lines))
        app(
            ["eval", "-v", str(vector), "--alpha=-10,-5,5,10", "--prompts", str(prompts), "--no-random",
             "--judge", "sentiment", "--max-new-tokens", "40"],
            standalone_mode=False,
        )  # fmt: skip
    whole = time.perf_counter() - START - fitting
    for name, seconds in SPENT.items():
        print(f"{name}: {seconds:.1f} s, {seconds / whole:.1%}")
    print(f"whole command, imports and loading included: {whole:.1f} s; "
          f"in the model: {sum(SPENT.values()) / whole:.1%}")  # fmt: skip


if __name__ == "__main__":
    with recorded(__file__):
        main()
