"""What it gives to fill a batch again as continuations end, against batches that only shrink.

    python tests/benchmarks/refill.py [--model smollm2] [--jobs 256] [--batch-size 32] [--dtype auto]

Writes the same jobs, prompts of 8 to 120 tokens whose texts end by themselves or after 128 tokens, in turn
as slices of the batch's size and as one list, whose batch is filled again once no more than a share of its
rows is taken. Without --model the model is a random Llama (8 blocks, d_model 256), every 48th of whose tokens
ends a text.
"""

import argparse
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from record import recorded
from tokenizers import Tokenizer, decoders, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from neurosteer_cli.generation import generate as module
from neurosteer_cli.generation.continuation import GenerationConfig
from neurosteer_cli.generation.generate import Completion, Job, generate
from neurosteer_cli.generation.sampling import Sampling
from neurosteer_cli.models.engine import Engine

D_VOCAB, MAX_NEW_TOKENS, ROUNDS = 8192, 128, 3
SHARES = (0.95, 0.75, 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--jobs", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--dtype", default="auto")
    options = parser.parse_args()
    engine = Engine.load(options.model, dtype=options.dtype) if options.model else random_engine()
    jobs = chats(engine, options.jobs) if options.model else random_jobs(options.jobs)
    config = GenerationConfig(
        sampling=Sampling(temperature=1.0, top_p=1.0),
        max_new_tokens=MAX_NEW_TOKENS,
        batch_size=options.batch_size,
    )
    ways = {"slices": [jobs[i : i + config.batch_size] for i in range(0, len(jobs), config.batch_size)]}
    ways.update({f"refilled at {share:.0%}": [jobs] for share in SHARES})
    speeds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, share in zip(ways, (0.75, *SHARES), strict=True):
            module.REFILL_AT = share
            start = time.perf_counter()
            found = written(engine, ways[way], config)
            speeds[way].append(sum(one.n_tokens for one in found) / (time.perf_counter() - start))
    lengths = [one.n_tokens for one in found]
    print(f"{len(jobs)} jobs of {min(lengths)} to {max(lengths)} tokens, mean {statistics.mean(lengths):.0f}")
    base = statistics.median(speeds["slices"])
    for way, values in speeds.items():
        median = statistics.median(values)
        print(f"{way:16} {median:8.0f} tokens/s, {median / base:.2f} of slices'")


def written(engine: Engine, lists: Sequence[list[Job]], config: GenerationConfig) -> list[Completion]:
    return [completion for jobs in lists for _, completion in generate(engine, jobs, config=config)]


def random_engine() -> Engine:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=D_VOCAB,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=1024,
    )
    raw = Tokenizer(models.WordLevel({f" {i}": i for i in range(D_VOCAB)}))
    raw.decoder = decoders.Fuse()
    model = LlamaForCausalLM(config).eval()
    return Engine(
        model_id="random",
        shape=None,  # type: ignore[arg-type]  # nothing is steered
        model=model,
        tokenizer=PreTrainedTokenizerFast(tokenizer_object=raw),
        blocks=model.model.layers,
        device=torch.device("cpu"),
        dtype=torch.float32,
        max_tokens=1024,
        stop_ids=frozenset(range(0, D_VOCAB, 48)),
    )


def random_jobs(n: int) -> list[Job]:
    draw = random.Random(0)
    lengths = [draw.randrange(8, 120) for _ in range(n)]
    return [Job(str(i), [draw.randrange(D_VOCAB) for _ in range(length)]) for i, length in enumerate(lengths)]


def chats(engine: Engine, n: int) -> list[Job]:
    """Questions about lines of text of unequal number, which the model answers until it ends."""
    draw = random.Random(0)
    path = Path(__file__).parents[2] / "neurosteer_cli" / "data" / "neutral.txt"
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    jobs = []
    for sample in range(n):
        text = " ".join(draw.sample(lines, draw.choice([1, 1, 2, 3])))
        message = {"role": "user", "content": f"Say in a sentence or two what this is about: {text}"}
        rendered = engine.chat([message], "prompt")
        jobs.append(Job(rendered, engine.prompt_ids(rendered, rendered=True)[:120], sample=sample))
    return jobs


if __name__ == "__main__":
    with recorded(__file__):
        main()
