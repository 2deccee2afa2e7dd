"""A model whose numbers overflow is told of by every command that runs it, with the way out."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from support.cli import refused
from support.tiny import save_tiny


@pytest.fixture(scope="module")
def overflowing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama whose block 1 is beyond float16."""
    folder = save_tiny(tmp_path_factory.mktemp("models") / "hot")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"] *= 1e7
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two sides and a corpus."""
    folder = tmp_path_factory.mktemp("texts")
    for name, word in (("up", "aaa bbb"), ("down", "zzz yyy")):
        lines = [json.dumps({"text": f"{word} {n} of them, and more"}) + "\n" for n in range(12)]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    return [str(folder / "up.jsonl"), str(folder / "down.jsonl")]


@pytest.mark.parametrize(
    "command",
    [
        "fit UP DOWN --method diffmean --layers 2 -o OUT",
        "fit UP DOWN --method pca --layers 2 -o OUT",
        "gen --greedy --max-new-tokens 4 abcd",
        "gen --max-new-tokens 4 abcd e",
        "layers UP DOWN",
        "sae train UP --layer 2 --tokens 64 --d-sae 32 --context 64 --batch-size 16 -o OUT",
    ],
)
def test_an_overflow_ends_a_command_in_one_line(
    overflowing: Path, texts: list[str], tmp_path: Path, command: str
) -> None:
    places = {"UP": texts[0], "DOWN": texts[1], "OUT": str(tmp_path / "out")}
    asked = [places.get(word, word) for word in command.split()]
    last = refused(*asked, "--model", str(overflowing), "--dtype", "float16", "--device", "cpu", code=1)
    assert last.endswith(
        "from block 1 on its numbers are not finite in float16: they are too large for float16; "
        "pass --dtype float32 or bfloat16"
    )
    assert not (tmp_path / "out").is_file()
