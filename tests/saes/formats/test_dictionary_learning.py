"""ae.pt of dictionary_learning: latents by formulas written here, which were found to be version 0.1.0's."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from support.saes import B_DEC, B_ENC, D_SAE, THRESHOLD, W_DEC, W_ENC, K, hidden, random, top, write
from support.tiny import D_MODEL
from torch import Tensor

from neurosteer_cli.errors import SAEError
from neurosteer_cli.models.hooks import RESID_PRE, HookPoint
from neurosteer_cli.saes.load import family_of, load_sae
from neurosteer_cli.saes.sae import SparseAutoencoder

pytestmark = pytest.mark.usefixtures("quietly_without_gradients")

ONE = torch.tensor(4.0)  # the threshold of BatchTopK, a number for all latents
LINEAR = {"encoder.weight": W_ENC.T, "encoder.bias": B_ENC, "decoder.weight": W_DEC.T}
TOPK = {"k": torch.tensor(K, dtype=torch.int), "threshold": ONE, **LINEAR, "b_dec": B_DEC}
MATRICES = {"W_enc": W_ENC, "b_enc": B_ENC, "W_dec": W_DEC, "b_dec": B_DEC}
GATES = {name: random(D_SAE, seed=seed) for seed, name in enumerate(("r_mag", "gate_bias", "mag_bias"))}
NORMS = W_DEC.norm(dim=-1)


def gated(resid: Tensor) -> Tensor:
    pre = (resid - B_DEC) @ W_ENC
    return (pre * GATES["r_mag"].exp() + GATES["mag_bias"]).relu() * (pre + GATES["gate_bias"] > 0)


def above(resid: Tensor, threshold: Tensor, *, subtracts: bool) -> Tensor:
    pre = hidden(resid, subtracts=subtracts).relu()
    return pre * (pre > threshold)


# What is saved, its latents, and what a latent adds to the reconstruction.
CLASSES: dict[str, tuple[dict[str, Tensor], Any, Tensor]] = {
    "AutoEncoder": (  # the library makes its decoder rows of length 1 as it loads it
        {"bias": B_DEC, **LINEAR},
        lambda resid: hidden(resid, subtracts=True).relu() * NORMS,
        W_DEC / NORMS[:, None],
    ),
    "AutoEncoderNew": (
        {**LINEAR, "decoder.bias": B_DEC},
        lambda resid: hidden(resid, subtracts=False).relu(),
        W_DEC,
    ),
    "GatedAutoEncoder": (
        {"decoder_bias": B_DEC, **GATES, "encoder.weight": W_ENC.T, "decoder.weight": W_DEC.T},
        gated,
        W_DEC,
    ),
    "JumpReluAutoEncoder": (
        {**MATRICES, "threshold": THRESHOLD},
        lambda resid: above(resid, THRESHOLD, subtracts=False),
        W_DEC,
    ),
    "AutoEncoderTopK": (TOPK, lambda resid: top(hidden(resid, subtracts=True)), W_DEC),
    "BatchTopKSAE": (TOPK, lambda resid: above(resid, ONE, subtracts=True), W_DEC),
    "MatryoshkaBatchTopKSAE": (
        {"k": TOPK["k"], "threshold": ONE, "group_sizes": torch.tensor([16, 32]), **MATRICES},
        lambda resid: above(resid, ONE, subtracts=True),
        W_DEC,
    ),
}  # fmt: skip


def config(kind: str, buffer: dict[str, Any] | None = None, **trainer: Any) -> dict[str, Any]:
    """As the library writes it, the entries of the training left out."""
    said = {
        "dict_class": kind, "activation_dim": D_MODEL, "dict_size": D_SAE, "k": K, "layer": 2,
        "lm_name": "EleutherAI/pythia-70m-deduped", "submodule_name": "resid_post_layer_2",
    }  # fmt: skip
    return {
        "trainer": {**said, **trainer},
        "buffer": {"io": "out", "ctx_len": 128} if buffer is None else buffer,
    }


def saved(folder: Path, kind: str = "AutoEncoderTopK", weights: Any = None, **changes: Any) -> Path:
    stored = CLASSES[kind][0] if weights is None else weights
    return write(folder, {"ae.pt": stored, "config.json": config(kind, **changes)})


def load(path: Path, **options: Any) -> SparseAutoencoder:
    return load_sae(str(path), model_id="tiny", **options)


@pytest.mark.parametrize("kind", CLASSES)
def test_latents_and_decoder_rows_of_each_class(tmp_path: Path, resid: Tensor, kind: str) -> None:
    sae = load(saved(tmp_path, kind))
    expected = CLASSES[kind][1](resid)
    assert 0.05 < float((expected > 0).float().mean()) < 0.9
    torch.testing.assert_close(sae.encode(resid), expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(sae.decoder_rows(torch.arange(D_SAE)), CLASSES[kind][2])
    assert (sae.hook_point, sae.model_name) == (HookPoint(2), "EleutherAI/pythia-70m-deduped")


def test_a_threshold_that_was_never_set_lets_all_fire(tmp_path: Path, resid: Tensor) -> None:
    sae = load(saved(tmp_path, "BatchTopKSAE", {**TOPK, "threshold": torch.tensor(-1.0)}))
    expected = hidden(resid, subtracts=True).relu()
    torch.testing.assert_close(sae.encode(resid), expected, rtol=1e-5, atol=1e-4)


def test_k_is_the_files_where_the_configuration_has_none(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    said = config("AutoEncoderTopK")
    del said["trainer"]["k"]
    assert load(write(folder, {"config.json": said})).k == K


def test_half_precision_and_a_row_of_zeros(tmp_path: Path, resid: Tensor) -> None:
    dead = W_DEC.clone()
    dead[3] = 0
    weights = {"bias": B_DEC, **LINEAR, "decoder.weight": dead.T}
    sae = load(saved(tmp_path, "AutoEncoder", {name: weight.bfloat16() for name, weight in weights.items()}))
    assert bool(sae.encode(resid).isfinite().all())
    assert not sae.decoder_rows(torch.tensor([3])).any()


# --- where it belongs --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes", "point"),
    [
        ("trainer_0", {"submodule_name": None, "layer": 3}, HookPoint(3)),
        ("trainer_0", {"submodule_name": "resid_pre_layer_2"}, HookPoint(2, RESID_PRE)),
        ("trainer_0", {"buffer": {"io": "in"}}, HookPoint(2, RESID_PRE)),
        ("trainer_0", {"submodule_name": "gpt_neox.layers.5", "layer": None}, HookPoint(5)),
        ("trainer_0", {"submodule_name": "model.layers.2", "buffer": {"io": "in"}}, HookPoint(2, RESID_PRE)),
        ("trainer_0", {"submodule_name": "residual_stream"}, HookPoint(2)),
        ("trainer_0", {"submodule_name": "layer_2"}, HookPoint(2)),
        ("resid_post_layer_7/trainer_0", {"submodule_name": None, "layer": None}, HookPoint(7)),
        ("resid_post_layer_7/trainer_0", {"submodule_name": None, "layer": -1}, HookPoint(7)),
        ("attention-study/resid_out_layer7/10_32768", {"submodule_name": None, "layer": None}, HookPoint(7)),
    ],
)  # fmt: skip
def test_the_configuration_or_the_folder_tells_the_place(
    tmp_path: Path, name: str, changes: dict[str, Any], point: HookPoint
) -> None:
    assert load(saved(tmp_path / name, **changes)).hook_point == point


@pytest.mark.parametrize("place", ["mlp_out_layer_2", "attention_out_layer_2", "resid_mid_layer_2"])
def test_another_place_is_refused(tmp_path: Path, place: str) -> None:
    with pytest.raises(SAEError, match="not of the residual stream"):
        load(saved(tmp_path / "a", submodule_name=place))
    with pytest.raises(SAEError, match="not of the residual stream"):
        load(saved(tmp_path / place / "trainer_0", submodule_name=None))


@pytest.mark.parametrize(
    "name",
    ["model.layers.2.input_layernorm", "transformer.h.2.ln_1", "model.layers.2.block_sparse_moe", "lm_head"],
)
def test_a_module_that_is_no_block_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SAEError, match=f"'{name}'.* is (not a residual hook point|no known name of the res)"):
        load(saved(tmp_path / "a", submodule_name=name))


def test_without_a_block_it_is_asked_for(tmp_path: Path) -> None:
    folder = saved(tmp_path / "mine", submodule_name=None, layer=None)
    with pytest.raises(SAEError, match="name it with --layers"):
        load(folder)
    assert load(folder, layer=3).hook_point == HookPoint(3)


def test_several_of_one_block_are_asked_for_by_name(tmp_path: Path) -> None:
    for layer, number in ((2, 0), (2, 1), (5, 0)):
        folder = tmp_path / f"resid_post_layer_{layer}" / f"trainer_{number}"
        saved(folder, layer=layer, submodule_name=f"resid_post_layer_{layer}")
    assert {layer: len(places) for layer, places in family_of(str(tmp_path), model_id="m").items()} == {
        2: 2,
        5: 1,
    }
    assert load(tmp_path).hook_point == HookPoint(5)
    with pytest.raises(SAEError, match="2 SAEs are in .* for block 2; name one: .*trainer_0, .*trainer_1$"):
        load(tmp_path, layer=2)


# --- files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ae.pt", "ae_5000.pt"])
def test_a_file_is_an_sae_too(tmp_path: Path, name: str) -> None:
    write(tmp_path, {name: TOPK, "config.json": config("AutoEncoderTopK")})
    assert load(tmp_path / name).k == K


class Bad:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("executed"),))


def test_a_pickle_is_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "sae")
    for content in (pickle.dumps({"b_dec": Bad()}), None):
        if content:
            (tmp_path / "sae" / "ae.pt").write_bytes(content)
        else:
            torch.save({**TOPK, "b_dec": Bad()}, tmp_path / "sae" / "ae.pt")
        with pytest.raises(
            SAEError, match="nothing in a file is run here; where it can be trusted, save it again"
        ):
            load(tmp_path / "sae")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [B_DEC, [B_DEC], {"state_dict": TOPK}, {"b_dec": 3}])
def test_what_is_no_state_dict_is_named(tmp_path: Path, content: Any) -> None:
    with pytest.raises(SAEError, match="not the state_dict of an SAE"):
        load(saved(tmp_path, weights=content))


def test_without_its_configuration_a_file_does_not_tell_what_it_computes(tmp_path: Path) -> None:
    with pytest.raises(
        SAEError, match="no config.json beside it, which says what a file of dictionary_learning"
    ):
        load(write(tmp_path, {"ae.pt": TOPK}))
    with pytest.raises(SAEError, match="no 'trainer' in it"):
        load(write(tmp_path, {"config.json": {"model_type": "llama"}}))


@pytest.mark.parametrize("kind", ["CrossCoder", "IdentityDict", None])
def test_another_class_is_named(tmp_path: Path, kind: str | None) -> None:
    with pytest.raises(SAEError, match=f"dictionary_learning's {kind!r} is not supported; AutoEncoder, "):
        load(write(tmp_path, {"ae.pt": TOPK, "config.json": config("x", dict_class=kind)}))


def test_weights_of_another_class_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        SAEError, match=r"not those of dictionary_learning's GatedAutoEncoder \('gate_bias'\)"
    ):
        load(saved(tmp_path, "GatedAutoEncoder", TOPK))
