"""The server under load: clients at once against one at a time, latencies, memory, and no answer mixed up.

    python tests/benchmarks/serve_load.py VECTORS [--clients 16] [--requests 1000] [--dtype auto]

Starts `neurosteer serve` on a free port, as a process of its own, and asks it for greedy continuations of
the examples' prompts, each with one of the vectors in the folder VECTORS at an alpha of its own. First one
request at a time, then CLIENTS at once, in turn, three times; then REQUESTS in all from CLIENTS at once, of
whose answers each is held against the one that was given one at a time. In bfloat16 sums depend on the
batch, so that greedy texts may part at a near tie; with --dtype float32 they hardly ever do. An answer whose
steering is not the one asked for, or which is nearer to that of another vector, is counted as mixed up.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import httpx
from record import recorded

PROMPTS = [
    json.loads(line)["prompt"]
    for line in (Path(__file__).parents[2] / "examples" / "prompts.jsonl").read_text().splitlines()
][:6]
MAX_TOKENS = 40
ALPHAS = (-15.0, 0.0, 15.0)


@dataclass(frozen=True)
class Ask:
    prompt: str
    vector: str
    alpha: float


@dataclass(frozen=True)
class Answer:
    ask: Ask
    text: str
    alphas: dict[str, float]
    n_tokens: int
    seconds: float
    status: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("vectors", type=Path)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--dtype", default="auto")
    options = parser.parse_args()
    command = [
        sys.executable, "-m", "neurosteer_cli", "serve", "--vectors", str(options.vectors), "--port", "0",
        "--dtype", options.dtype, "--no-log",
    ]  # fmt: skip
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    for line in server.stderr:
        print(line.strip())
        if found := re.search(r"on (http://\S+)/v1", line):
            break
    else:
        sys.exit("the server did not start")
    try:
        measure(found[1], server.pid, options)
    finally:
        server.terminate()
        print(f"the server ended with exit code {server.wait(60)}")


def measure(address: str, pid: int, options: argparse.Namespace) -> None:
    names = [path.stem for path in sorted(options.vectors.glob("*.st"))]
    asks = [Ask(prompt, name, alpha) for prompt in PROMPTS for name in names for alpha in ALPHAS]
    with httpx.Client(base_url=address, timeout=300, limits=httpx.Limits(max_connections=None)) as client:
        post(client, asks[0])  # warm
        few = asks[:12]
        ratios = []
        for _ in range(3):  # in turn: the machine's speed drifts
            single, _ = run(client, few, 1)
            many, answers = run(client, list(islice(cycle(few), 4 * len(few))), options.clients)
            ratios.append(many / single)
            told = latencies(answers)
            print(
                f"one at a time {single:.0f} tokens/s; {options.clients} clients {many:.0f} tokens/s, {told}"
            )
        ratio = statistics.median(ratios)
        print(f"{options.clients} clients at once: {ratio:.1f} times as many tokens a second")
        alone = {answer.ask: answer for answer in run(client, asks, 1)[1]}
        memory = [resident(pid)]
        answers = []
        chunk = options.requests // 4
        everything = islice(cycle(asks), options.requests)
        while part := list(islice(everything, chunk)):
            answers += run(client, part, options.clients)[1]
            memory.append(resident(pid))
        print("memory before and after each quarter: " + ", ".join(f"{mib:.0f}" for mib in memory) + " MiB")
        report(answers, alone, options.requests)


def report(answers: list[Answer], alone: dict[Ask, Answer], n_requests: int) -> None:
    lost = n_requests - sum(answer.status == 200 for answer in answers)
    equal = [answer for answer in answers if answer.text == alone[answer.ask].text]
    mixed = [answer for answer in answers if is_mixed_up(answer, alone)]
    print(
        f"{len(answers)} requests, {lost} lost; {len(equal)} answers are those given one at a time, "
        f"{len(answers) - len(equal)} part from them somewhere; {len(mixed)} are another's; "
        f"{latencies(answers)}"
    )


def is_mixed_up(answer: Answer, alone: dict[Ask, Answer]) -> bool:
    """Whether an answer's steering is another's, or its text is not its own but that of another steering."""
    ask = answer.ask
    if answer.alphas != {ask.vector: ask.alpha}:
        return True
    others = {one.text for other, one in alone.items() if other.prompt == ask.prompt and other != ask}
    return answer.text != alone[ask].text and answer.text in others


def run(client: httpx.Client, asks: list[Ask], n_clients: int) -> tuple[float, list[Answer]]:
    """Tokens a second, and the answers."""
    start = time.monotonic()
    with ThreadPoolExecutor(n_clients) as pool:
        answers = list(pool.map(lambda ask: post(client, ask), asks))
    return sum(answer.n_tokens for answer in answers) / (time.monotonic() - start), answers


def post(client: httpx.Client, ask: Ask) -> Answer:
    body = {
        "model": "smollm2", "prompt": ask.prompt, "max_tokens": MAX_TOKENS, "temperature": 0,
        "steering": {ask.vector: ask.alpha},
    }  # fmt: skip
    start = time.monotonic()
    answer = client.post("/v1/completions", json=body)
    seconds = time.monotonic() - start
    if answer.status_code != 200:
        return Answer(ask, "", {}, 0, seconds, answer.status_code)
    found = answer.json()
    text, n_tokens = found["choices"][0]["text"], found["usage"]["completion_tokens"]
    return Answer(ask, text, found["steering"]["alphas"], n_tokens, seconds, 200)


def latencies(answers: list[Answer]) -> str:
    cuts = statistics.quantiles([answer.seconds for answer in answers], n=100)
    return f"latency {cuts[49]:.2f} s at the 50th percentile, {cuts[98]:.2f} s at the 99th"


def resident(pid: int) -> float:
    """MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    with recorded(__file__):
        main()
