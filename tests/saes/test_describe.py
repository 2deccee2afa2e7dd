"""Describing latents: where they fire, how often, and what they promote."""

from pathlib import Path

import pytest
import torch
from support.tiny import save_tiny_sae

from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.models.logit_lens import promoted_tokens
from neurosteer_cli.models.residuals import MedianNorm, packed
from neurosteer_cli.saes.describe import describe
from neurosteer_cli.saes.descriptions import Descriptions
from neurosteer_cli.saes.load import load_sae
from neurosteer_cli.saes.sae import SparseAutoencoder

TEXTS = [f"text number {n} has some {'more ' * (n % 4)}words" for n in range(30)]


def test_rates_peaks_and_the_median_norm_are_those_of_all_tokens(
    engine: Engine, sae: SparseAutoencoder, described: Descriptions
) -> None:
    resid = torch.cat(
        [batch.resid[HookPoint(2)]
         for batch in engine.residuals(list(packed(engine, TEXTS, 32)), [HookPoint(2)])]
    )  # fmt: skip
    acts = sae.encode(resid)
    norms = MedianNorm()
    norms.add(resid)
    assert described.about.n_tokens == len(resid)
    assert described.about.median_resid_norm == norms.median
    assert described.about.sae_sha256 == sae.sha256
    rates = [latent.firing_rate for latent in described.latents]
    assert rates == pytest.approx((acts > 0).double().mean(0).tolist())
    peaks = [latent.peak for latent in described.latents]
    assert peaks == pytest.approx(acts.max(0).values.tolist(), rel=1e-4)


def test_contexts_are_of_different_sequences_strongest_first_and_spell_the_text(
    described: Descriptions,
) -> None:
    end = "".join(TEXTS)
    for latent in described.latents:
        heights = [context.activation for context in latent.contexts]
        assert heights == sorted(heights, reverse=True)
        assert len({(c.before, c.token, c.after) for c in latent.contexts}) == len(latent.contexts) <= 3
        for context in latent.contexts:
            assert len(context.token) == 1
            assert f"{context.before}{context.token}{context.after}" in end


def test_promoted_tokens_are_those_of_the_logit_lens(
    engine: Engine, sae: SparseAutoencoder, described: Descriptions
) -> None:
    rows = sae.decoder_rows(torch.arange(sae.d_sae))
    for latent, (up, down) in zip(described.latents, promoted_tokens(engine, rows, 5), strict=True):
        assert (list(latent.promoted), list(latent.suppressed)) == (up, down)


def test_several_saes_are_described_in_one_pass_as_each_alone(engine: Engine, tmp_path: Path) -> None:
    saes = [
        load_sae(str(save_tiny_sae(tmp_path / name, hook_name=name)), model_id="tiny")
        for name in ("blocks.1.hook_resid_post", "blocks.2.hook_resid_post")
    ]
    both = describe(engine, saes, packed(engine, TEXTS, 32), n_tokens=10**6)
    for sae, found in zip(saes, both, strict=True):
        assert describe(engine, [sae], packed(engine, TEXTS, 32), n_tokens=10**6) == [found]
