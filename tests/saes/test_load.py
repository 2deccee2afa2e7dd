"""Where SAEs are found, and how they come onto a model."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.tiny import save_tiny_sae

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
from neurosteer_cli.saes.sae import UNKNOWN_MODEL

pytestmark = pytest.mark.usefixtures("quietly_without_gradients")

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


def test_an_sae_that_names_no_model_is_taken_for_one_of_this_with_a_warning(
    tiny_sae_folder: Path, engine: Engine
) -> None:
    told: list[str] = []
    sae = replace(load_sae(str(tiny_sae_folder), model_id="tiny"), sae_id="sae", model_name=UNKNOWN_MODEL)
    open_saes({sae.hook_point: sae}, engine, name="tiny", warn=told.append)
    assert told == [
        "SAE 'sae' does not say which model it was trained on, nor where in it: it is taken for one of "
        "'tiny' at blocks.2.hook_resid_post"
    ]
