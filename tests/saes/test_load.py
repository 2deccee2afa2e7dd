"""Where SAEs are found, and how they come onto a model."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support.tiny import D_MODEL, save_tiny_sae
from torch import Tensor

from neurosteer_cli.errors import SAEError
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import RESID_PRE, HookPoint
from neurosteer_cli.saes.descriptions import find
from neurosteer_cli.saes.load import (
    check_fit,
    family_of,
    find_saes,
    load_sae,
    nearest_saes,
    open_saes,
    sae_place,
)

pytestmark = pytest.mark.usefixtures("quietly_without_gradients")

D_SAE = 64


def assert_near(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def random_weights(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(14)
    return {
        name.replace("_DOT_", "."): 0.4 * torch.randn(shape, generator=generator)
        for name, shape in shapes.items()
    }


# --- the registry ------------------------------------------------------------------------------


THRESHOLD, AVERAGE_NORM = 1.5, 3.2


@pytest.fixture
def llama_scope(hub: Path) -> dict[str, Tensor]:
    """The weights of llama_scope_lxr_8x/l16r_8x as the Hub has them."""
    folder = hub / "fnlp/Llama3_1-8B-Base-LXR-8x/Llama3_1-8B-Base-L16R-8x"
    (folder / "checkpoints").mkdir(parents=True)
    config = {
        "d_model": D_MODEL, "d_sae": D_SAE, "jump_relu_threshold": THRESHOLD,
        "dataset_average_activation_norm": {"in": AVERAGE_NORM},
        "hook_point_in": "blocks.16.hook_resid_post",
    }  # fmt: skip
    (folder / "hyperparams.json").write_text(json.dumps(config))
    weights = random_weights(
        encoder_DOT_weight=(D_SAE, D_MODEL), encoder_DOT_bias=(D_SAE,),
        decoder_DOT_weight=(D_MODEL, D_SAE), decoder_DOT_bias=(D_MODEL,),
    )  # fmt: skip
    save_file(weights, folder / "checkpoints" / "final.safetensors")
    return weights


def test_the_scaling_factor_of_a_llama_scope_sae_is_folded_in(
    lens: Any, llama_scope: dict[str, Tensor], resid: Tensor
) -> None:
    sae = load_sae("llama_scope_lxr_8x/l16r_8x", model_id="meta-llama/Llama-3.1-8B")
    directory = lens.loading.pretrained_saes_directory.get_pretrained_saes_directory()
    factor = directory["llama_scope_lxr_8x"].norm_scaling_factor["l16r_8x"]
    assert factor > 1.5
    assert (sae.architecture, sae.normalize_activations) == ("jumprelu", "none")
    assert (sae.hook_point, sae.centred) == (HookPoint(16), False)
    assert_near(sae.weights["W_enc"], factor * llama_scope["encoder.weight"].T)
    assert_near(sae.decoder_rows(torch.arange(D_SAE)), llama_scope["decoder.weight"].T / factor)
    theirs = lens.SAE.from_pretrained("llama_scope_lxr_8x", "l16r_8x")
    assert_near(sae.encode(resid), theirs.encode(resid))
    hidden = factor * resid @ llama_scope["encoder.weight"].T + llama_scope["encoder.bias"]
    threshold = THRESHOLD * D_MODEL**0.5 / AVERAGE_NORM
    assert_near(sae.encode(resid), hidden * (hidden > threshold))


@pytest.mark.usefixtures("llama_scope")
def test_a_scaling_factor_that_sae_lens_does_not_know_is_an_error(
    lens: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lens.saes.sae, "get_norm_scaling_factor", lambda *_: None)
    message = "normalize_activations='expected_average_only_in' has not been folded"
    with pytest.raises(SAEError, match=message):
        load_sae("llama_scope_lxr_8x/l16r_8x", model_id="meta-llama/Llama-3.1-8B")


@pytest.mark.usefixtures("hub")
def test_a_release_that_is_nearly_right_is_answered_with_the_right_one() -> None:
    message = (
        "^'gpt2-smal-res-jb/blocks.6.hook_resid_pre' is neither a folder nor a RELEASE/SAE_ID of "
        "sae-lens's registry; did you mean gpt2-small-res-jb"
    )
    with pytest.raises(SAEError, match=message):
        load_sae("gpt2-smal-res-jb/blocks.6.hook_resid_pre", model_id="gpt2")


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("name", ["./no/such/folder", "!?", "bundle"])
def test_what_is_nothing_at_all_is_said_to_be_neither(name: str) -> None:
    with pytest.raises(SAEError, match="is neither a folder nor a RELEASE/SAE_ID"):
        load_sae(name, model_id="gpt2")


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("name", "near"),
    [("blocks.6.hook_resid_pree", "blocks.6.hook_resid_pre, "), ("", "blocks.0.hook_resid_pre, ")],
)
def test_an_sae_that_a_release_does_not_have_is_answered_with_those_it_has(name: str, near: str) -> None:
    message = f"^release 'gpt2-small-res-jb' has no SAE '{name}'; it has {near}"
    with pytest.raises(SAEError, match=message):
        load_sae(f"gpt2-small-res-jb/{name}", model_id="gpt2")


def test_a_failed_fetch_says_how_to_fetch_it_where_there_is_a_network(
    lens: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: Any, **__: Any) -> Any:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(lens.loading.pretrained_sae_loaders, "hf_hub_download", offline)
    message = (
        r"^SAE 'gpt2-small-res-jb/blocks.6.hook_resid_pre' could not be fetched \(no route\); "
        'where there is a network, run: python -c "from sae_lens import SAE; '
        r"SAE.from_pretrained\('gpt2-small-res-jb', 'blocks.6.hook_resid_pre'\)\"$"
    )
    with pytest.raises(SAEError, match=message):
        load_sae("gpt2-small-res-jb/blocks.6.hook_resid_pre", model_id="gpt2")


# --- the bundled SAE ---------------------------------------------------------------------------


def modules_after(code: str) -> tuple[str, set[str]]:
    """The first line a new process writes, and the modules it has loaded in the end."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; print(*sys.modules)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    first, modules = done.stdout.splitlines()
    return first, set(modules.split())


def test_the_bundled_sae_is_read_without_sae_lens() -> None:
    shown = "sae.hook_point, sae.architecture, sae.k, sae.d_model, sae.d_sae, sae.sae_id"
    first, modules = modules_after(
        "from neurosteer_cli.saes.load import load_sae; "
        f"sae = load_sae('bundled', model_id='smollm2'); print({shown})"
    )
    assert first == "blocks.20.hook_resid_post topk 32 576 4608 bundled"
    assert "torch" in modules  # the list is not empty
    assert not {"sae_lens", "transformer_lens", "transformers"} & modules


def test_a_layer_without_a_bundled_sae_is_answered_with_those_that_have_one() -> None:
    message = r"^no SAE is bundled with 'smollm2' for block 3; there is one for \[11, 14, 17, 20\]$"
    with pytest.raises(SAEError, match=message):
        load_sae("bundled", model_id="smollm2", layer=3)


@pytest.mark.parametrize("layer", [11, 14, 17, 20])
def test_each_bundled_sae_is_small_and_described(layer: int) -> None:
    folder = sae_place("bundled", model_id="smollm2", layer=layer)
    assert folder is not None
    assert sum(file.stat().st_size for file in folder.iterdir()) < 11_000_000
    sae = load_sae("bundled", model_id="smollm2", layer=layer)
    assert (sae.hook_point, sae.architecture, sae.k, sae.d_sae) == (HookPoint(layer), "topk", 32, 4608)
    torch.testing.assert_close(sae.decoder_norms, torch.ones(4608), rtol=2e-3, atol=0.0)
    described = find(sae, "smollm2")
    assert described is not None
    assert described.about.hook_point == f"blocks.{layer}.hook_resid_post"
    assert sum(not latent.contexts for latent in described.latents) < 46  # 1 %
    contexts = [context for latent in described.latents for context in latent.contexts]
    assert max(len(f"{one.before}{one.token}{one.after}".split()) for one in contexts) < 9  # fragments


def test_the_last_blocks_of_a_family_are_found(tmp_path: Path) -> None:
    def layers(sae: str | Path, last: int) -> list[int]:
        return [point.layer for point in find_saes(str(sae), model_id="smollm2", last=last)]

    assert layers("bundled", 3) == [14, 17, 20]
    assert layers("bundled", 1) == [20]
    assert family_of("release/sae", model_id="smollm2") == {}
    for layer in (3, 7):
        name = f"blocks.{layer}.hook_resid_post"
        save_tiny_sae(tmp_path / name, hook_name=name)
    assert layers(tmp_path, 3) == [3, 7]
    assert layers(tmp_path / "blocks.3.hook_resid_post", 3) == [3]


@pytest.mark.parametrize("model", ["gpt2", "openai-community/gpt2", "", "."])
def test_a_model_without_a_bundled_sae_is_told_what_else_there_is(model: str) -> None:
    message = (
        f"^no SAE is bundled for model '{model}': give --sae FOLDER or --sae RELEASE/SAE_ID, "
        r"or a method that needs none \(--method diffmean\)$"
    )
    with pytest.raises(SAEError, match=message):
        load_sae("bundled", model_id=model)


# --- families ----------------------------------------------------------------------------------


@pytest.fixture
def family(tmp_path: Path) -> str:
    for layer in (1, 3):
        name = f"blocks.{layer}.hook_resid_post"
        save_tiny_sae(tmp_path / name, hook_name=name, seed=layer)
    return str(tmp_path)


def test_a_folder_of_saes_gives_the_one_of_the_layer(tmp_path: Path, family: str) -> None:
    folders = {layer: [tmp_path / f"blocks.{layer}.hook_resid_post"] for layer in (1, 3)}
    assert family_of(family, model_id="tiny") == folders
    assert family_of(str(folders[1][0]), model_id="tiny") == {}
    for layer in (1, 3):
        assert load_sae(family, model_id="tiny", layer=layer).hook_point == HookPoint(layer)
    assert load_sae(family, model_id="tiny").hook_point == HookPoint(3)
    with pytest.raises(SAEError, match=r"no SAE is in .* for block 2; there is one for \[1, 3\]"):
        load_sae(family, model_id="tiny", layer=2)


def test_saes_are_found_by_their_hook_points(family: str) -> None:
    assert list(find_saes(family, model_id="tiny")) == [HookPoint(1), HookPoint(3)]
    assert list(find_saes(family, model_id="tiny", layers=[3])) == [HookPoint(3)]
    assert list(find_saes(family, model_id="tiny", layers=[None])) == [HookPoint(3)]
    assert list(find_saes(f"{family}/{HookPoint(1)}", model_id="tiny")) == [HookPoint(1)]
    assert find_saes(family, model_id="tiny", layers=[]) == {}


def test_the_sae_of_a_family_that_is_nearest_is_found_for_each_hook_point(family: str) -> None:
    points = [HookPoint(0), HookPoint(2, RESID_PRE), HookPoint(9)]
    found = nearest_saes(family, model_id="tiny", points=points)
    assert {point: sae.hook_point.layer for point, sae in found.items()} == dict(
        zip(points, (1, 1, 3), strict=True)
    )
    alone = nearest_saes(f"{family}/{HookPoint(3)}", model_id="tiny", points=points)
    assert [sae.hook_point.layer for sae in alone.values()] == [3, 3, 3]


def test_an_sae_that_has_changed_is_told_of(family: str) -> None:
    sae = load_sae(family, model_id="tiny")
    assert load_sae(family, model_id="tiny", sha256=sae.sha256).sha256 == sae.sha256
    with pytest.raises(SAEError, match=f"^SAE '{family}' has changed$"):
        load_sae(family, model_id="tiny", sha256="0" * 64)


# --- on a model --------------------------------------------------------------------------------


def test_saes_are_opened_on_a_model_without_layer_norm_uncentred(family: str, engine: Engine) -> None:
    told: list[str] = []
    found = {point: replace(sae, centred=True) for point, sae in find_saes(family, model_id="tiny").items()}
    opened = open_saes(found, engine, warn=told.append)
    assert list(opened) == [HookPoint(1), HookPoint(3)] and told == []
    assert not any(sae.centred for sae in opened.values())


def test_an_sae_of_another_model_is_opened_with_a_warning_or_not_at_all(
    tmp_path: Path, engine: Engine
) -> None:
    told: list[str] = []
    other = find_saes(str(save_tiny_sae(tmp_path / "other", model_name="gpt2")), model_id="tiny")
    open_saes(other, engine, warn=told.append)
    assert told == [
        f"SAE '{tmp_path}/other' was trained on 'gpt2', the model is '{engine.model_id}': "
        "its latents may mean something else there"
    ]
    wide = find_saes(str(save_tiny_sae(tmp_path / "wide", d_model=32)), model_id="tiny")
    with pytest.raises(SAEError, match="has d_model=32 and was trained on 'tiny'; model .* has d_model=16"):
        open_saes(wide, engine)


def test_a_block_that_the_model_does_not_have_is_named_with_those_it_has(
    tmp_path: Path, engine: Engine
) -> None:
    found = find_saes(str(save_tiny_sae(tmp_path, hook_name="blocks.7.hook_resid_post")), model_id="tiny")
    message = "belongs to blocks.7.hook_resid_post; model .* has 4 blocks, 0 to 3: choose the SAE of this"
    with pytest.raises(SAEError, match=message):
        open_saes(found, engine)
    with pytest.raises(SAEError, match=message):
        check_fit(found, engine.shape, "tiny")
    check_fit(found, engine.shape.model_copy(update={"n_layers": 8}), "deeper")


def test_a_model_of_another_width_is_refused_with_both_widths(tiny_sae_folder: Path, engine: Engine) -> None:
    sae = replace(load_sae(str(tiny_sae_folder), model_id="tiny"), sae_id="sae")
    message = (
        "^SAE 'sae' has d_model=16 and was trained on 'tiny'; model 'gpt2' has d_model=768: "
        "choose the SAE of this model$"
    )
    with pytest.raises(SAEError, match=message):
        check_fit({sae.hook_point: sae}, engine.shape.model_copy(update={"d_model": 768}), "gpt2")
