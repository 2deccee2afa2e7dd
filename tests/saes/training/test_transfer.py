"""An SAE carried over to other residuals does there what it did on its own."""

from pathlib import Path

import torch
from support.tiny import D_MODEL, save_tiny_sae

from neurosteer_cli.saes.load import load_sae
from neurosteer_cli.saes.training.transfer import Moments, transferred


def test_a_transferred_sae_encodes_moved_and_stretched_residuals_as_the_old_one_did(tmp_path: Path) -> None:
    sae = load_sae(str(save_tiny_sae(tmp_path / "sae", apply_b_dec_to_input=True)), model_id="tiny")
    sae.weights["b_dec"].normal_(generator=torch.Generator().manual_seed(0))
    old = torch.randn(500, D_MODEL) + 2.0
    new = (old - old.mean(0)) * 3.0 + 7.0
    weights = transferred(sae, Moments.of(old), Moments.of(new))
    before = (old - sae.weights["b_dec"]) @ sae.weights["W_enc"] + sae.weights["b_enc"]
    torch.testing.assert_close(new @ weights["W_enc"] + weights["b_enc"], before, rtol=1e-3, atol=1e-3)
    acts = before.relu()
    out_old = acts @ sae.weights["W_dec"] + sae.weights["b_dec"]
    out_new = acts @ weights["W_dec"] + weights["b_dec"]
    torch.testing.assert_close(out_new, (out_old - old.mean(0)) * 3.0 + 7.0, rtol=1e-3, atol=1e-3)
