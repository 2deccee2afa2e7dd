"""A baked checkpoint is the same model and the same tokenizer in transformers 4 as in version 5.

Needs version 4 in a folder that NEUROSTEER_TRANSFORMERS4 names; tests/transformers4.sh puts it there.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from support import version4
from support.baking import HEADS, WRITING, ablating, baked_in, pushing, urging
from support.tiny import BAKED_CONFIGS, CONFIGS, D_MODEL, SIZES, tiny_tokenizer
from typer.testing import CliRunner

from neurosteer_cli import vectors
from neurosteer_cli.cli import app
from neurosteer_cli.vectors.exchange.families import TAKE_PUSHES
from neurosteer_cli.vectors.vector import SteeringVector

BUNDLED = Path(vectors.__file__).parent / "bundled"
VERSION_4 = os.environ.get("NEUROSTEER_TRANSFORMERS4")
pytestmark = pytest.mark.skipif(
    not VERSION_4,
    reason="NEUROSTEER_TRANSFORMERS4 names no folder; sh tests/transformers4.sh FOLDER makes one",
)


def scaled(kind: str, base: float = 1e5, **rope: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": base, **rope}}


LONG = {"long_factor": [2.0] * 4, "short_factor": [1.5] * 4}
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
SCALES: dict[str, dict[str, Any]] = {
    "default": scaled("default"),
    "linear": scaled("linear", factor=4.0),
    "dynamic": scaled("dynamic", factor=2.0),
    "yarn": scaled("yarn", factor=4.0, original_max_position_embeddings=32),
    "yarn in full": scaled("yarn", factor=4.0, beta_fast=16.0, beta_slow=2.0, attention_factor=1.3,
                           original_max_position_embeddings=32),
    "llama3": scaled("llama3", **LLAMA3),
    "longrope": scaled("longrope", **LONG, original_max_position_embeddings=64),
    "longrope by its factor": scaled("longrope", **LONG, factor=4.0),
}  # fmt: skip
FAMILIES: dict[str, Callable[[], Any]] = {
    **{
        f"llama {name}": (lambda rope=rope: transformers.LlamaConfig(**SIZES, **rope))
        for name, rope in SCALES.items()
    },
    "mistral": lambda: transformers.MistralConfig(
        **SIZES, num_key_value_heads=1, head_dim=6, sliding_window=None, rms_norm_eps=1e-3,
        **scaled("default", 1e6),
    ),
    "qwen2": lambda: transformers.Qwen2Config(
        **SIZES, num_key_value_heads=1, tie_word_embeddings=True, **SCALES["yarn"]
    ),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(
        **SIZES, **scaled("default", partial_rotary_factor=0.5)
    ),
    "gpt_neox linear": lambda: transformers.GPTNeoXConfig(
        **SIZES, **scaled("linear", factor=2.0, partial_rotary_factor=0.5)
    ),
    "phi": lambda: transformers.PhiConfig(**SIZES, **scaled("default", partial_rotary_factor=0.25)),
    "starcoder2": lambda: transformers.Starcoder2Config(
        **SIZES, num_key_value_heads=1, sliding_window=4, **scaled("default")
    ),
    "gpt2": CONFIGS["gpt2"],
    **BAKED_CONFIGS,
}  # fmt: skip
IDS = [[byte % 256 for byte in range(start, start + 60)] for start in (40, 70)]
TEXTS = ["ab  cd", "<s>hello</s>", "<think>x</think> <mark>", "é 12"]


def save(folder: Path, config: Any, *, bos: bool) -> Path:
    torch.manual_seed(0)
    config.bos_token_id, config.eos_token_id, config.pad_token_id = 256, 257, 257
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8 if parameter.dim() > 1 else 1)
    model.save_pretrained(folder)
    tokenizer = tiny_tokenizer(bos=bos)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<think>"]})
    tokenizer.save_pretrained(folder)
    return folder


def read_in_version_4(folders: Mapping[str, Path], place: Path, *, prompt: str = "", ids: Any = IDS) -> None:
    task = {"folders": list(map(str, folders.values())), "ids": ids, "texts": TEXTS, "prompt": prompt,
            "max_new_tokens": 24}  # fmt: skip
    (place / "task.json").write_text(json.dumps(task))
    done = subprocess.run(
        [sys.executable, version4.__file__, place / "task.json"], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.path.abspath(str(VERSION_4)), "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


VECTORS: dict[str, Callable[[Path], SteeringVector]] = {
    "push": lambda source: pushing(source, {1: torch.linspace(-3, 3, D_MODEL)}),
    "ablation": ablating,
    "bias of the head": urging,
}
BAKED = {
    **{f"{name}: push": make for name, make in FAMILIES.items()},
    **{f"{name}: ablation": make for name, make in {**FAMILIES, **WRITING}.items() if name != "bloom"},
    **{f"{name}: bias of the head": make for name, make in HEADS.items()},
}


@pytest.fixture(scope="module")
def baked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each family with vectors baked in, and what version 4 made of it."""
    place, folders = tmp_path_factory.mktemp("baked"), {}
    for number, (name, make) in enumerate(BAKED.items()):
        source = save(place / "sources" / name, make(), bos=number % 2 == 0)
        vector = VECTORS[name.partition(": ")[2]](source)
        folders[name] = baked_in(vector, source, place / name)
    read_in_version_4(folders, place)
    return folders


def answer(folder: Path) -> dict[str, Any]:
    said: dict[str, Any] = json.loads((folder / "version4.json").read_text())
    return said


@pytest.mark.parametrize("family", BAKED)
def test_the_logits_are_the_same(baked: dict[str, Path], family: str) -> None:
    folder = baked[family]
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = model(input_ids=torch.tensor(IDS)).logits
    found = load_file(folder / "version4.safetensors")["logits"]
    assert (found - expected).abs().max() < 2e-5 * expected.abs().max()
    assert answer(folder)["left"] == [[], [], []]  # every weight was found, and every one used


def test_every_family_with_a_place_is_held_to_that() -> None:
    assert {make().model_type for make in FAMILIES.values()} == set(TAKE_PUSHES)


@pytest.mark.parametrize("family", BAKED)
def test_the_tokens_are_the_same(baked: dict[str, Path], family: str) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(baked[family])
    said = answer(baked[family])
    assert said["inputs"] == sorted(tokenizer("x"))
    assert said["ids"] == [tokenizer(text)["input_ids"] for text in TEXTS]
    assert said["decoded"] == [tokenizer.decode(ids, skip_special_tokens=True) for ids in IDS]
    # the class that version 5 takes for a tokenizer of Qwen 2 has one of its own besides
    own = {"<|endoftext|>"} if type(tokenizer) is transformers.Qwen2Tokenizer else set()
    assert said["special"] == sorted({*tokenizer.all_special_tokens} - own) == ["</s>", "<s>", "<think>"]
    assert said["chat"] == tokenizer.apply_chat_template(version4.MESSAGES, tokenize=False)


@pytest.mark.real
def test_the_embedded_model_writes_the_same_in_both_as_here(tmp_path: Path) -> None:
    def run(*arguments: str | Path) -> str:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.stderr
        return result.stdout

    prompt, folder = "I read your report and", tmp_path / "baked"
    run("export", BUNDLED / "polite.st", "--to", "model", "--alpha", "15", "-o", folder)
    here = run("gen", "-m", folder, "--greedy", "--dtype", "float32", "--max-new-tokens", "24", prompt)
    read_in_version_4({"": folder}, tmp_path, prompt=prompt, ids=[[1, 2, 3]])
    written = answer(folder)["written"]
    assert written and here.strip() == (prompt + written).strip()
