"""Numbers that are not finite are told of, with the block they begin in and the way out."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.engines import load, passage

from neurosteer_cli.errors import ModelError
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint

WEIGHTS = "model.safetensors"


def spoiled(folder: Path, name: str, factor: float) -> Path:
    """A checkpoint whose tensor of that name is multiplied."""
    tensors = load_file(folder / WEIGHTS)
    tensors[name] *= factor
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


def read(engine: Engine, layer: int = 3) -> None:
    list(engine.residuals([engine.tokenize(passage("to be or not"))], [HookPoint(layer)]))


def test_an_overflow_in_float16_names_the_block_and_the_number_types_that_hold_it(copied: Path) -> None:
    spoiled(copied, "model.layers.1.mlp.down_proj.weight", 1e7)
    expected = (
        f"^{copied}: from block 1 on its numbers are not finite in float16: they are too large for float16; "
        "pass --dtype float32 or bfloat16$"
    )
    engine = load(copied, dtype="float16")
    read(engine, 0)
    with pytest.raises(ModelError, match=expected):
        read(engine)
    read(load(copied, dtype="float32"))


@pytest.mark.parametrize("name", ["model.layers.2.self_attn.q_proj.weight", "model.embed_tokens.weight"])
def test_weights_that_are_no_numbers_are_called_damaged(copied: Path, name: str) -> None:
    spoiled(copied, name, float("nan"))
    expected = f"^{copied}/{WEIGHTS}: damaged: {name} holds NaN; fetch the model again$"
    with pytest.raises(ModelError, match=expected):
        load(copied)


def test_infinite_numbers_in_float32_are_laid_to_the_weights(copied: Path) -> None:
    spoiled(copied, "model.layers.2.mlp.up_proj.weight", float("inf"))
    expected = (
        "from block 2 on its numbers are not finite in float32: its weights are damaged; fetch the model"
    )
    with pytest.raises(ModelError, match=expected):
        read(load(copied))


def test_finite_numbers_that_steering_makes_infinite_are_laid_to_alpha(engine: Engine) -> None:
    ids = torch.tensor([engine.tokenize(passage("to be")).ids])
    engine.check_finite(torch.ones(3), ids)
    with pytest.raises(ModelError, match="not finite in float32: choose a smaller alpha$"):
        engine.check_finite(torch.tensor([1.0, torch.inf]), ids)
