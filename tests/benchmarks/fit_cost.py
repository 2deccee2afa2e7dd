"""What `fit` costs against the plain procedure, both as whole processes on the embedded default.

    python tests/benchmarks/fit_cost.py            figures of both, in one run
    python tests/benchmarks/fit_cost.py --memory   peak memory at 1,000 and at 100,000 texts, on a tiny model

The plain procedure loads the whole model in float32 with its output head and the SAE with sae-lens,
keeps every hidden state of a batch, and takes batches of 32 texts in file order. Both fit the first
200 texts of either side of the politeness examples with the same method, at block 20.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from importlib.resources import files
from pathlib import Path

from record import recorded
from whole_process import run

EXAMPLES = Path(__file__).parents[2] / "examples"
N_TEXTS = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--plain", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--rate", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    if options.plain:
        plain(*options.plain)
    elif options.rate:
        forward_rate(*options.rate)
    elif options.memory:
        memory_by_texts()
    else:
        compare(options.runs)


def compare(n_runs: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        sides = [str(head(EXAMPLES / name, Path(folder) / name)) for name in ("polite.jsonl", "rude.jsonl")]
        ours = [
            sys.executable,
            "-m",
            "neurosteer_cli",
            "fit",
            *sides,
            "--layers",
            "20",
            "-o",
            f"{folder}/out.st",
        ]
        theirs = [sys.executable, __file__, "--plain", *sides]
        costs = [(run(ours), run(theirs)) for _ in range(n_runs)]  # in turn: the machine's speed drifts
        for name, column in (("fit", 0), ("plain procedure", 1)):
            seconds = statistics.median(pair[column].seconds for pair in costs)
            peak = statistics.median(pair[column].peak_mb for pair in costs)
            print(f"{name:>16}: {seconds:6.1f} s, peak {peak:6.0f} MB")
        faster = statistics.median(plain.seconds / fit.seconds for fit, plain in costs)
        smaller = statistics.median(fit.peak_mb / plain.peak_mb for fit, plain in costs)
        print(f"fit is {faster:.1f} times as fast, with {smaller:.2f} of the peak memory")
        run_here = [sys.executable, __file__, "--rate", *sides]
        import subprocess

        print(subprocess.run(run_here, capture_output=True, text=True, check=True).stdout, end="")


def head(source: Path, target: Path) -> Path:
    target.write_text("".join(source.read_text().splitlines(keepends=True)[:N_TEXTS]))
    return target


def memory_by_texts() -> None:
    """On a tiny random model: its own memory would hide what the texts add."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from support.tiny import save_tiny, save_tiny_sae

    words = (EXAMPLES / "polite.jsonl").read_text().replace('"', " ").replace("\\", " ").split()
    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        model, sae = save_tiny(Path(folder) / "tiny"), save_tiny_sae(Path(folder) / "sae")
        for n in (1_000, 100_000):
            sides = []
            for side in ("up", "down"):
                path = Path(folder) / f"{side}.jsonl"
                with path.open("w") as file:
                    for i in range(n // 2):  # shuffled words: what they say does not matter here
                        text = f"{side} {i} " + " ".join(draw.choices(words, k=2))
                        file.write(json.dumps({"text": text}) + "\n")
                sides.append(str(path))
            options = ["-m", str(model), "--sae", str(sae), "--top-k", "10", "-o", f"{folder}/out.st"]
            cost = run([sys.executable, "-m", "neurosteer_cli", "fit", *sides, *options])
            print(f"{n:>7} texts: {cost.seconds:6.1f} s, peak {cost.peak_mb:6.0f} MB")


def forward_rate(positive: str, negative: str) -> None:
    """Tokens per second of `fit`'s pass against what this machine's matrix products allow."""
    import torch

    from neurosteer_cli.data.sides import open_sides
    from neurosteer_cli.models.engine import TOKENS_PER_BATCH, Engine
    from neurosteer_cli.models.hooks import HookPoint

    engine = Engine.load(points=[HookPoint(20)], head=False)
    with open_sides([positive, negative]) as sides:
        texts = [engine.tokenize(passage) for side in sides for _, passage in side.passages()]
    n_tokens = sum(len(tokens.ids) for tokens in texts)
    start = time.perf_counter()
    for _ in engine.residuals(texts, [HookPoint(20)]):
        pass
    rate = n_tokens / (time.perf_counter() - start)
    matrices = [p for p in engine.blocks.parameters() if p.dim() == 2]
    flops_per_token = 2 * sum(p.numel() for p in matrices)
    with torch.inference_mode():
        x = {p.shape[1]: torch.randn(TOKENS_PER_BATCH["cpu"], p.shape[1], dtype=p.dtype) for p in matrices}
        products, start = 0, time.perf_counter()
        while time.perf_counter() - start < 10:
            for p in matrices:
                torch.nn.functional.linear(x[p.shape[1]], p)
            products += 1
        product_flops = products * flops_per_token * TOKENS_PER_BATCH["cpu"] / (time.perf_counter() - start)
    print(
        f"forward pass: {rate:.0f} tokens/s, {rate * flops_per_token / 1e9:.0f} GFLOP/s in matrix products; "
        f"the products alone reach {product_flops / 1e9:.0f} GFLOP/s ({engine.dtype}): "
        f"{rate * flops_per_token / product_flops:.0%}"
    )


def plain(positive: str, negative: str) -> None:
    """The same vector the plain way."""
    import sae_lens
    import torch
    import transformers
    from safetensors.torch import save_file

    from neurosteer_cli.models.checkpoints.resolve import resolve

    folder = resolve("smollm2")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.padding_side = "right"
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    layer = 20
    sae_folder = files("neurosteer_cli.saes") / "bundled" / "smollm2" / f"blocks.{layer}.hook_resid_post"
    sae = sae_lens.SAE.load_from_disk(str(sae_folder), dtype="float32")
    means, norms = [], []
    for path in (positive, negative):
        texts = [json.loads(line)["text"] for line in Path(path).read_text().splitlines()]
        side = []
        for start in range(0, len(texts), 32):
            batch = tokenizer(texts[start : start + 32], return_tensors="pt", padding=True)
            with torch.no_grad():
                hidden = model(**batch, output_hidden_states=True).hidden_states
                for row, mask in zip(hidden[layer + 1], batch["attention_mask"], strict=True):
                    kept = row[mask.bool()][1:]
                    norms.append(kept.norm(dim=-1))
                    side.append(sae.encode(kept).mean(0))
        means.append(torch.stack(side))
    difference = means[0].mean(0) - means[1].mean(0)
    t = difference / (means[0].var(0) / len(means[0]) + means[1].var(0) / len(means[1])).sqrt()
    ids = t.nan_to_num().abs().topk(100).indices
    vector = difference[ids] @ sae.W_dec[ids].detach()
    vector *= 0.01 * torch.cat(norms).median() / vector.norm()
    with tempfile.TemporaryDirectory() as out:
        save_file({"vector": vector}, f"{out}/plain.safetensors")


if __name__ == "__main__":
    with recorded(__file__):
        main()
