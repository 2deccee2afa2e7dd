"""Measuring SAEs: figures against formulas written out, and against what they must be by definition."""

from pathlib import Path

import pytest
import torch
from support.tiny import D_MODEL, save_tiny_sae

from neurosteer_cli.errors import InputError
from neurosteer_cli.evaluation.measures.likelihood import log_probs
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.models.residuals import packed
from neurosteer_cli.models.tokenizer import Tokens
from neurosteer_cli.saes.formats.state import from_state
from neurosteer_cli.saes.load import load_sae
from neurosteer_cli.saes.quality import Tally, reconstruct, tally
from neurosteer_cli.saes.sae import SparseAutoencoder

TEXTS = [f"text number {n} has some {'more ' * (n % 4)}words" for n in range(30)]


def identity_sae() -> SparseAutoencoder:
    """One that reconstructs all: a latent for either sign of every dimension."""
    eye = torch.eye(D_MODEL)
    weights = {
        "W_enc": torch.cat([eye, -eye], 1), "W_dec": torch.cat([eye, -eye]),
        "b_enc": torch.zeros(2 * D_MODEL), "b_dec": torch.zeros(D_MODEL),
    }  # fmt: skip
    config = {
        "architecture": "standard", "d_in": D_MODEL, "d_sae": 2 * D_MODEL, "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "metadata": {"model_name": "tiny", "hook_name": "blocks.2.hook_resid_post"},
    }  # fmt: skip
    return from_state("identity", config, weights)


def test_the_figures_are_those_of_the_formulas(engine: Engine, tmp_path: Path) -> None:
    sae = load_sae(str(save_tiny_sae(tmp_path / "sae", d_sae=200)), model_id="tiny")
    one = tally(engine, [sae], packed(engine, TEXTS, 32), n_tokens=10**6)[0].measured()
    resid = torch.cat(
        [batch.resid[HookPoint(2)]
         for batch in engine.residuals(list(packed(engine, TEXTS, 32)), [HookPoint(2)])]
    ).double()  # fmt: skip
    acts = sae.encode(resid.float()).double()
    error = (resid - acts @ sae.weights["W_dec"].double()).square().sum()
    assert one.n_tokens == len(resid)
    assert one.explained_variance == pytest.approx(
        float(1 - error / (resid - resid.mean(0)).square().sum()), abs=1e-5
    )
    assert one.l0 == pytest.approx(float((acts > 0).sum(1).double().mean()))
    assert one.dead_share == pytest.approx(float(((acts > 0).sum(0) == 0).double().mean()))
    assert one.loss is None and one.loss_recovered is None


def test_a_perfect_reconstruction_explains_all_and_loses_nothing(engine: Engine) -> None:
    one = tally(engine, [identity_sae()], packed(engine, TEXTS, 32), n_tokens=10**6, n_loss_tokens=10**6)[0]
    measured = one.measured()
    assert measured.explained_variance == pytest.approx(1.0, abs=1e-6)
    assert measured.loss_spliced == pytest.approx(measured.loss, abs=1e-5)
    assert measured.loss_recovered == pytest.approx(1.0, abs=1e-3)
    assert measured.loss != pytest.approx(measured.loss_zeroed, abs=1e-3)


def test_the_plain_loss_is_the_engines_own(engine: Engine) -> None:
    tokens = list(packed(engine, TEXTS, 32))
    found = tally(engine, [identity_sae()], iter(tokens), n_tokens=10**6, n_loss_tokens=10**6)[0].measured()
    logs = log_probs(engine, [(one.ids[:1], one.ids[1:]) for one in tokens])
    expected = -torch.cat(logs).double().mean()
    assert found.loss == pytest.approx(float(expected), rel=1e-5)
    assert found.n_loss_tokens == sum(map(len, logs))


def test_layer_norm_is_taken_back_by_the_reconstruction(tmp_path: Path) -> None:
    sae = load_sae(
        str(save_tiny_sae(tmp_path / "sae", d_sae=400, k=400, normalize_activations="layer_norm")),
        model_id="tiny",
    )
    resid = torch.randn(10, D_MODEL) * 3 + 5
    out, activations = reconstruct(sae, resid)
    mean = resid.mean(-1, keepdim=True)
    expected = activations @ sae.weights["W_dec"] * (resid.std(-1, keepdim=True) + 1e-5) + mean
    torch.testing.assert_close(out, expected)


def test_an_outlier_is_left_out() -> None:
    one = Tally(identity_sae())
    resid = torch.randn(50, D_MODEL)
    resid[3] *= 1000
    one.add(resid)
    assert one.n == 49
    assert one.firing_rates.tolist() == (one.fired.double() / 49).tolist()


def test_texts_without_a_token_that_counts_are_named(engine: Engine) -> None:
    with pytest.raises(InputError, match="^letters: no token that counts; give longer texts$"):
        tally(engine, [identity_sae()], iter([Tokens([5], [False])]), n_tokens=10, name="letters")
