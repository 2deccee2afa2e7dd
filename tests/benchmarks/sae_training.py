"""Training throughput against sae-lens's own runner: same model, block, width and machine.

    python tests/benchmarks/sae_training.py [--tokens 16384] [--runs 3]

Both train a TopK SAE (4608 latents, k 32) on the output of block 20 of the embedded default for one
epoch, batches of 1024 tokens, sequences of 256, float32. Loading the model and sae-lens is left out;
each run is a process of its own, in turn. sae-lens reads the same checkpoint as AutoModelForCausalLM.
The corpus is made of the examples' texts, over and over: what they say makes no difference to the time.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

from record import recorded

EXAMPLES = Path(__file__).parents[2] / "examples"
LAYER, D_SAE, K, BATCH, CONTEXT = 20, 4608, 32, 1024, 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--one", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps({"ours": ours, "theirs": theirs}[options.one](options.tokens)))
    else:
        compare(options.tokens, options.runs)


def compare(n_tokens: int, n_runs: int) -> None:
    found: dict[str, list[dict[str, float]]] = {"ours": [], "theirs": []}
    for _ in range(n_runs):  # in turn: the machine's speed drifts
        for name, results in found.items():
            command = [sys.executable, __file__, "--tokens", str(n_tokens), "--one", name]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                print(f"{name} cannot run this model: {done.stderr.strip().splitlines()[-1]}")
                continue
            results.append(json.loads(done.stdout.splitlines()[-1]))
    for name, results in found.items():
        if results:
            rate = statistics.median(one["tokens"] / one["seconds"] for one in results)
            share = statistics.median(one["forward"] / one["seconds"] for one in results)
            print(f"{name:>7}: {rate:6.0f} tokens/s, {share:.0%} of the time in the model's forward pass")
    if all(found.values()):
        pairs = zip(found["ours"], found["theirs"], strict=True)
        ratios = [a["tokens"] / a["seconds"] / (b["tokens"] / b["seconds"]) for a, b in pairs]
        print(f"ours is {statistics.median(ratios):.1f} times as fast")


def texts() -> list[str]:
    return [
        json.loads(line)["text"]
        for name in ("polite.jsonl", "rude.jsonl", "happy.jsonl", "sad.jsonl")
        for line in (EXAMPLES / name).read_text().splitlines()
    ]


def ours(n_tokens: int) -> dict[str, float]:
    import torch

    from neurosteer_cli.data.corpus import Part
    from neurosteer_cli.models.engine import Engine
    from neurosteer_cli.models.hooks import HookPoint
    from neurosteer_cli.saes.training.config import Progress, TrainingConfig
    from neurosteer_cli.saes.training.run import Training

    engine = Engine.load("smollm2", points=[HookPoint(LAYER)], head=False, dtype="float32", device="cpu")
    config = TrainingConfig(
        model_id="smollm2", points=(f"blocks.{LAYER}.hook_resid_post",), architecture="topk", d_sae=D_SAE,
        k=K, n_tokens=n_tokens, epochs=1, rows_per_round=n_tokens, context=CONTEXT, batch_size=BATCH,
        lr=5e-4, seed=0, init=None, dtype="float32", device="cpu",
    )  # fmt: skip
    torch.manual_seed(0)
    forward = 0.0
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.txt"
        lines = islice(cycle(texts()), n_tokens // 20)
        corpus.write_text("".join(" ".join(text.split()) + "\n" for text in lines))
        run = engine.model.forward

        def timed(*arguments: object, **options: object) -> object:
            nonlocal forward
            start = time.monotonic()
            try:
                return run(*arguments, **options)
            finally:
                forward += time.monotonic() - start

        engine.model.forward = timed
        told: list[Progress] = []
        start = time.monotonic()
        parts = [Part(str(corpus), corpus.name)]
        Training(config, engine, parts, Path(folder) / "out", tell=told.append).run()
        return {"tokens": told[-1].done, "seconds": time.monotonic() - start, "forward": forward}


def theirs(n_tokens: int) -> dict[str, float]:
    import contextlib
    import io

    import torch
    from datasets import Dataset
    from sae_lens import LanguageModelSAERunnerConfig, LanguageModelSAETrainingRunner, LoggingConfig
    from sae_lens.saes.topk_sae import TopKTrainingSAEConfig

    from neurosteer_cli.models.checkpoints.resolve import resolve

    config = LanguageModelSAERunnerConfig(
        sae=TopKTrainingSAEConfig(d_in=576, d_sae=D_SAE, k=K),
        model_name=str(resolve("smollm2")),
        model_class_name="AutoModelForCausalLM",
        model_from_pretrained_kwargs={"dtype": torch.float32},
        hook_name=f"model.layers.{LAYER}",
        dataset_path="local",
        is_dataset_tokenized=False,
        streaming=False,
        context_size=CONTEXT,
        prepend_bos=False,
        training_tokens=n_tokens,
        train_batch_size_tokens=BATCH,
        store_batch_size_prompts=4,
        n_batches_in_buffer=16,
        lr=5e-4,
        device="cpu",
        output_path=None,
        checkpoint_path=None,
        logger=LoggingConfig(log_to_wandb=False),
    )
    data = Dataset.from_list([{"text": text} for text in islice(cycle(texts()), n_tokens // 10)])
    forward = 0.0
    with contextlib.redirect_stdout(io.StringIO()):
        runner = LanguageModelSAETrainingRunner(config, override_dataset=data)
        run = runner.model.model.forward

        def timed(*arguments: object, **options: object) -> object:
            nonlocal forward
            start = time.monotonic()
            try:
                return run(*arguments, **options)
            finally:
                forward += time.monotonic() - start

        runner.model.model.forward = timed
        start = time.monotonic()
        runner.run()
        return {"tokens": n_tokens, "seconds": time.monotonic() - start, "forward": forward}


if __name__ == "__main__":
    with recorded(__file__):
        main()
