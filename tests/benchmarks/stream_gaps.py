"""How long a stream of the server stands still while others have something long read.

    python tests/benchmarks/stream_gaps.py [--tokens 6000] [--written 200] [--dtype auto]

Starts `neurosteer demo` on a free port, as a process of its own, and streams WRITTEN tokens greedily. After
the 15th another connection sends a prompt of TOKENS tokens; in the next stream it has a vector fitted, on 8
texts a side of TOKENS / 8 tokens each and 40 short ones; in the last it has both. Prints the median and the
longest time between two tokens, and how long the others took. Before prompts were read in slices, 6,000
tokens made a stream of this model stand still for 52 s, at a median of 0.09 s, on a loaded machine.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import httpx
from record import recorded

STARTS_AFTER = 15  # tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tokens", type=int, default=6000)
    parser.add_argument("--written", type=int, default=200)
    parser.add_argument("--dtype", default="auto")
    options = parser.parse_args()
    with (
        served("--dtype", options.dtype) as address,
        httpx.Client(base_url=address, timeout=None) as client,  # noqa: S113  a loaded machine takes its time
        ThreadPoolExecutor(2) as pool,
    ):

        def prompt() -> None:
            body = {"prompt": "word " * options.tokens, "max_tokens": 1}
            client.post("/v1/completions", json=body)  # at worst given up at the server's time limit

        def fit() -> None:
            sides = ([*long(word, options.tokens), *short(word)] for word in ("kind", "rude"))
            body = dict(zip(("positive", "negative"), sides, strict=True))
            client.post("/v1/vectors", json={"name": f"n{time.time_ns()}", **body}).raise_for_status()

        gaps(client, 20, list)  # warm
        for what, begun in (
            ("alone", ()), ("a long prompt", (prompt,)), ("a fit", (fit,)), ("both", (prompt, fit)),
        ):  # fmt: skip
            begin = partial(begun_in, pool, begun)
            found, seconds = gaps(client, options.written, begin)
            median, longest = statistics.median(found), max(found)
            print(
                f"{what}: median gap {median * 1000:.0f} ms, longest {longest * 1000:.0f} ms, "
                f"{longest / median:.1f} times it{others(seconds)}"
            )


def others(seconds: list[float]) -> str:
    return f"; the other took {', '.join(f'{each:.1f}' for each in seconds)} s" if seconds else ""


def long(word: str, n_tokens: int) -> list[str]:
    return [f"A {word} word, number {n}: " + f"{word} word " * (n_tokens // 16) for n in range(8)]


def short(word: str) -> list[str]:
    return [f"This is a {word} remark, and it has the number {n}, which says little." for n in range(40)]


def gaps(
    client: httpx.Client, n_tokens: int, begin: Callable[[], list[Future[float]]]
) -> tuple[list[float], list[float]]:
    """Seconds between two tokens of a stream, and what the others took that began in it."""
    body = {
        "prompt": "Once upon a time", "max_tokens": n_tokens, "temperature": 0, "stream": True,
        "logit_bias": {"2": -100},  # it is not to end
    }  # fmt: skip
    times: list[float] = []
    begun: list[Future[float]] = []
    with client.stream("POST", "/v1/completions", json=body) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {") and json.loads(line.removeprefix("data: "))["choices"][0]["text"]:
                times.append(time.perf_counter())
                if len(times) == STARTS_AFTER:
                    begun = begin()
    took = [each.result() for each in begun]
    return [after - before for before, after in zip(times, times[1:], strict=False)], took


def begun_in(pool: ThreadPoolExecutor, begun: Sequence[Callable[[], None]]) -> list[Future[float]]:
    return [pool.submit(timed, each) for each in begun]


def timed(function: Callable[[], None]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


@contextmanager
def served(*options: str) -> Iterator[str]:
    """The address of a server that fits vectors too."""
    command = [sys.executable, "-m", "neurosteer_cli", "demo", "--no-browser", "--port", "0", *options]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        for line in server.stderr:
            if found := re.search(r"on (http://\S+);", line):
                yield found[1]
                break
        else:
            sys.exit("the server did not start")
    finally:
        server.terminate()
        server.wait(60)


if __name__ == "__main__":
    with recorded(__file__):
        main()
