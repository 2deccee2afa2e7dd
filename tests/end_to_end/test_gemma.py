"""A second real model, Gemma 3 270M, held to plain transformers, fitted on and steered. Marked `real`.

It is a base model of 18 blocks, most of them with a window of 512 tokens, and 262,144 tokens tied to the
embedding. Its SAE is trained on 200,000 tokens of the examples' texts and guides, read two and a half
times over: enough to show that the path works, not to make latents worth looking at.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from typer.testing import CliRunner

from neurosteer_cli.cli import app
from neurosteer_cli.data.records import Passage
from neurosteer_cli.generation.continuation import GenerationConfig
from neurosteer_cli.generation.generate import Job, generate
from neurosteer_cli.generation.sampling import Sampling
from neurosteer_cli.models.checkpoints.resolve import resolve
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.vectors.vector import SteeringVector

pytestmark = pytest.mark.real
ROOT = Path(__file__).parents[2]
ON_GEMMA = ("--model", "gemma3-270m", "--dtype", "float32", "--device", "cpu")
N_TEXTS = 60  # of 220 a side
ALPHA, LAYER = 15.0, 12  # the block that `diffmean` takes by itself
WINDOW = 512
LENGTHS = (701, 21, 521, 501)  # about the window
N_NEW = 6
GREEDY = GenerationConfig(sampling=Sampling(temperature=0.0), max_new_tokens=N_NEW)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine.load("gemma3-270m", dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def plain() -> Any:
    """The same folder in plain transformers."""
    folder = resolve("gemma3-270m")
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sides of texts, and a corpus for an SAE."""
    folder = tmp_path_factory.mktemp("gemma")
    for side in ("polite", "rude"):
        lines = (ROOT / "examples" / f"{side}.jsonl").read_text().splitlines(keepends=True)
        (folder / f"{side}.jsonl").write_text("".join(lines[:N_TEXTS]))
    texts = [
        json.loads(line)["text"]
        for file in sorted((ROOT / "examples").rglob("*.jsonl"))
        for line in file.read_text().splitlines()
        if "text" in line
    ]
    texts += [file.read_text() for file in sorted((ROOT / "examples").rglob("*.md"))]
    repeats = -(-900_000 // sum(map(len, texts)))  # some four characters a token
    (folder / "corpus.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in texts * repeats)
    )
    return folder


def run(*arguments: str | Path) -> Any:
    result = CliRunner().invoke(app, [*map(str, arguments), *ON_GEMMA])
    assert result.exit_code == 0, result.stderr
    return result


@pytest.fixture(scope="module")
def polite(folder: Path) -> SteeringVector:
    out = folder / "polite.st"
    run("fit", folder / "polite.jsonl", folder / "rude.jsonl", "--method", "diffmean", "-o", out)
    return SteeringVector.load(out)


def prompts(engine: Engine) -> list[list[int]]:
    """Prompts of LENGTHS tokens, beginning alike, out of a guide."""
    ids = engine.prompt_ids((ROOT / "examples" / "guides" / "fitting.md").read_text())
    return [ids[:length] for length in LENGTHS]


def written(plain: Any, ids: list[int], n: int = N_NEW) -> list[int]:
    """The tokens that transformers' own generate writes."""
    with torch.inference_mode():
        whole = plain.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=n)
    return whole[0, len(ids) :].tolist()  # type: ignore[no-any-return]


# --- the model is the one that transformers reads ------------------------------------------------


def test_the_model_is_the_one_it_says_it_is(engine: Engine) -> None:
    assert (engine.shape.n_layers, engine.d_model, engine.shape.d_vocab) == (18, 640, 262_144)
    assert (engine.max_tokens, engine.stop_ids) == (32_768, {1})
    assert engine.model.config.sliding_window == WINDOW
    assert engine.model.get_output_embeddings().weight is engine.model.get_input_embeddings().weight
    ids = engine.prompt_ids("The capital of France is")
    assert (ids[0], engine.decode([], ids)) == (2, "The capital of France is")


@pytest.mark.parametrize("prompt", ["The capital of France is", "Once upon a time,", "def add(a, b):\n"])
def test_greedy_text_is_that_of_transformers(engine: Engine, plain: Any, prompt: str) -> None:
    ids = engine.prompt_ids(prompt)
    config = GenerationConfig(sampling=Sampling(temperature=0.0), max_new_tokens=24)
    ((_, completion),) = generate(engine, [Job(prompt, ids)], config=config)
    assert completion.text == engine.decode(ids, written(plain, ids, 24))


@pytest.mark.parametrize("layer", [0, 5, 17])
def test_residuals_are_those_of_transformers(plain: Any, layer: int) -> None:
    part = Engine.load("gemma3-270m", points=[HookPoint(layer)], head=False, dtype="float32", device="cpu")
    text = "The ferry was late again, and nobody said why. " * 3
    tokens = part.tokenize(Passage("here", text))
    (batch,) = part.residuals([tokens], [HookPoint(layer)])
    seen: list[Tensor] = []
    handle = plain.model.layers[layer].register_forward_hook(lambda _m, _a, output: seen.append(output))
    with torch.inference_mode():
        plain(torch.tensor([tokens.ids]))
    handle.remove()
    (output,) = seen
    expected = (output[0] if isinstance(output, tuple) else output).reshape(-1, 640)[tokens.counts]
    torch.testing.assert_close(batch.resid[HookPoint(layer)], expected, rtol=1e-4, atol=1e-2)


# --- fitted, and steered over the window ---------------------------------------------------------


def test_a_difference_of_means_tells_the_sides_apart(polite: SteeringVector) -> None:
    ((name, point),) = polite.metadata.points.items()
    assert name == f"blocks.{LAYER}.hook_resid_post"
    assert point.auroc is not None and point.auroc > 0.9
    assert polite.metadata.model_id == "gemma3-270m"


@pytest.fixture
def steered(plain: Any, polite: SteeringVector) -> Iterator[Callable[[float], None]]:
    """Have transformers' model add alpha times the vector, by a hook of its own."""
    alpha = [0.0]

    def push(_module: nn.Module, _arguments: Any, output: Any) -> Any:
        return output + alpha[0] * polite.pushes[HookPoint(LAYER)]

    handle = plain.model.layers[LAYER].register_forward_hook(push)
    yield lambda value: alpha.__setitem__(0, value)
    handle.remove()


def test_prompts_over_the_window_are_continued_as_transformers_does_alone_and_in_a_batch(
    engine: Engine, plain: Any, polite: SteeringVector, steered: Callable[[float], None]
) -> None:
    jobs = [Job(f"prompt {len(ids)}", ids, (alpha,)) for alpha in (0.0, ALPHA) for ids in prompts(engine)]
    together = dict(generate(engine, jobs, [polite], GREEDY))
    for number, job in enumerate(jobs):
        steered(job.alphas[0])
        expected = engine.decode(job.ids, written(plain, job.ids))
        ((_, alone),) = generate(engine, [job], [polite], GREEDY)
        assert (together[number].text, alone.text) == (expected, expected), job.key
    assert {together[n].text for n in range(4)} != {together[n].text for n in range(4, 8)}


# --- an SAE of its own ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saes(folder: Path) -> Path:
    out = folder / "saes"
    shape = ("--layers", "3", "--d-sae", "512", "--k", "16", "--tokens", "200k")
    result = run("sae", "train", folder / "corpus.jsonl", *shape, "-o", out, "--json")
    (record,) = map(json.loads, result.stdout.splitlines())
    assert record["l0"] == 16 and record["explained_variance"] > 0.5
    return out


def test_a_vector_is_fitted_with_an_sae_of_its_own_and_steers(folder: Path, saes: Path) -> None:
    out = folder / "latents.st"
    sides = folder / "polite.jsonl", folder / "rude.jsonl"
    run("fit", *sides, "--sae", saes, "-o", out)
    vector = SteeringVector.load(out)
    (latents,) = vector.latents.values()
    assert len(latents.ids) == 100
    assert (auroc := vector.metadata.points["blocks.3.hook_resid_post"].auroc) is not None and auroc > 0.7
    given = ("gen", "-v", out, "--alpha", "0,20", "--greedy", "--max-new-tokens", "12", "--json")
    plain, pushed = (json.loads(line) for line in run(*given, "Your invoice is late, so").stdout.splitlines())
    assert plain["text"] != pushed["text"]


# --- memory --------------------------------------------------------------------------------------

SCORE = """
import resource, sys, torch
from neurosteer_cli.evaluation.measures.likelihood import damage, log_probs
from neurosteer_cli.generation.generate import Job, generate
from neurosteer_cli.generation.continuation import GenerationConfig
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.vectors.steering import Steering

peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
engine = Engine.load("gemma3-270m", dtype="float32", device="cpu")
loaded = peak()
generator = torch.Generator().manual_seed(0)
texts = [torch.randint(10, 200_000, (n,), generator=generator).tolist() for n in (700, 600, 400)]
log_probs(engine, [(ids[:5], ids[5:]) for ids in texts])
damage(engine, texts[1:], [Steering({HookPoint(12): torch.ones(640)})])
jobs = [Job(str(n), ids) for n, ids in enumerate(texts)]
list(generate(engine, jobs, config=GenerationConfig(max_new_tokens=2)))
print(peak() - loaded)
"""


def test_logits_are_not_held_for_all_positions() -> None:
    """Those of the first batch alone, 1,300 tokens, would take 1.4 GB in float32."""
    found = subprocess.run([sys.executable, "-c", SCORE], capture_output=True, text=True, check=True)
    per_unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, in KiB elsewhere
    assert int(found.stdout) * per_unit < 0.75e9
