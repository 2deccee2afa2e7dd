"""How long a stream stands still while another's long prompt is read.

    python tests/benchmarks/long_prompt.py [--model MODEL] [--tokens 6000] [--new 1]

Writes 100 tokens greedily; after the 15th another continuation joins, whose prompt is `"word " * TOKENS` and
which writes NEW tokens. Prints the median and the longest gap between two tokens of the first: with prompts
read whole, and in slices; and how long the other waited for its first token, beside others and alone.
"""

import argparse
import statistics
import time

from record import recorded

from neurosteer_cli.generation.batching.batch import Batch
from neurosteer_cli.generation.batching.pace import Pace
from neurosteer_cli.generation.continuation import Continuation, GenerationConfig
from neurosteer_cli.generation.sampling import Sampling
from neurosteer_cli.models.engine import Engine

N_TOKENS, JOINS_AFTER = 100, 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--tokens", type=int, default=6000)
    parser.add_argument("--new", type=int, default=1)
    parser.add_argument("--dtype", default="auto")
    options = parser.parse_args()
    engine = Engine.load(options.model, dtype=options.dtype)
    long = engine.prompt_ids("word " * options.tokens)
    stream(engine, engine.prompt_ids("word " * 200), 2, in_slices=True)  # warm
    for in_slices in (False, True):
        gaps, waited = stream(engine, long, options.new, in_slices=in_slices)
        median, longest = statistics.median(gaps), max(gaps)
        print(
            f"{'in slices' if in_slices else 'read whole'}: median gap {median * 1000:.0f} ms, longest "
            f"{longest * 1000:.0f} ms, {longest / median:.1f} times it; the first token of the other after "
            f"{waited:.1f} s, alone {alone(engine, long, in_slices=in_slices):.1f} s"
        )


def stream(engine: Engine, long: list[int], n_new: int, *, in_slices: bool) -> tuple[list[float], float]:
    """Seconds between two tokens of the stream, and until the first token of the other."""
    batch = Batch(engine, pace=Pace() if in_slices else None)
    one, other = greedy(engine.prompt_ids("Once upon a time"), N_TOKENS), greedy(long, n_new)
    batch.join([one])
    times: list[float] = []
    joined = waited = 0.0
    while not one.finish_reason:
        told = [each for each, _ in batch.step()]
        times += [time.perf_counter()] * (one in told)
        if other in told and not waited:
            waited = time.perf_counter() - joined
        if len(times) == JOINS_AFTER and not joined:
            batch.join([other])
            joined = time.perf_counter()
    while not waited and len(batch):
        batch.step()
        waited = (time.perf_counter() - joined) if other.written else 0.0
    return [after - before for before, after in zip(times, times[1:], strict=False)], waited


def alone(engine: Engine, long: list[int], *, in_slices: bool) -> float:
    batch, one = Batch(engine, pace=Pace() if in_slices else None), greedy(long, 1)
    batch.join([one])
    start = time.perf_counter()
    while len(batch):
        batch.step()
    return time.perf_counter() - start


def greedy(ids: list[int], n: int) -> Continuation:
    config = GenerationConfig(sampling=Sampling(temperature=0), max_new_tokens=n)
    return Continuation(ids=ids, key="", config=config)


if __name__ == "__main__":
    with recorded(__file__):
        main()
