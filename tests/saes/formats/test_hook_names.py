"""Names of places in the residual stream, and the hook points they are."""

from pathlib import Path

import pytest

from neurosteer_cli.errors import SAEError
from neurosteer_cli.models.hooks import RESID_PRE, HookPoint
from neurosteer_cli.saes.formats.hook_names import layer_in, residual_point


@pytest.mark.parametrize(
    ("name", "point"),
    [
        ("blocks.20.hook_resid_post", HookPoint(20)),
        ("blocks.20.hook_resid_pre", HookPoint(20, RESID_PRE)),
        ("model.layers.20", HookPoint(20)),
        ("model.layers.20.output", HookPoint(20)),
        ("model.layers.20.input", HookPoint(20, RESID_PRE)),
        ("model.language_model.layers.7", HookPoint(7)),
        ("layers.0", HookPoint(0)),
        ("h.5", HookPoint(5)),
        ("transformer.h.5", HookPoint(5)),
        ("gpt_neox.layers.5", HookPoint(5)),
        ("transformer.blocks.5", HookPoint(5)),
    ],
)
def test_a_block_by_any_of_its_names(name: str, point: HookPoint) -> None:
    assert residual_point("sae", name) == point


@pytest.mark.parametrize(
    "name",
    [
        "blocks.20.hook_resid_mid", "blocks.20.hook_mlp_out", "blocks.20.attn.hook_z", "hook_embed",
        "model.layers.20.mlp", "model.layers.20.self_attn.o_proj.input", "model.embed_tokens", "model.norm",
        "model.layers.20.mlp.experts.3", "model.layers.20.input_layernorm",
        "model.vision_tower.encoder.layers.2", "visual.blocks.2", "model.audio_tower.layers.2",
        "layers", "layers.", "layers.-1", "",
    ],
)  # fmt: skip
def test_another_place_is_none(name: str) -> None:
    with pytest.raises(
        SAEError, match="^SAE 'sae': .* is not a residual hook point; use blocks.L.hook_resid_post"
    ):
        residual_point("sae", name)


@pytest.mark.parametrize(
    ("path", "layer"),
    [
        ("/x/layer_20/width_16k/average_l0_71", 20),
        ("/x/layers.5/seed0", 5),
        ("/x/layer_9_width_16k_l0_small", 9),
        ("/x/resid_post_layer_7/trainer_0", 7),
        ("/x/blocks.3/layer_4", 4),
        ("/x/layer_12/" + "y/" * 7, None),
        ("/x/player_7/width_16k", None),
        ("/x/layer_norm", None),
    ],
)
def test_the_nearest_folder_that_tells_a_block(path: str, layer: int | None) -> None:
    assert layer_in(Path(path)) == layer
