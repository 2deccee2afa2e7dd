"""What each kind adds to residuals and logits, worked by hand."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from neurosteer_cli.saes.load import load_sae
from neurosteer_cli.vectors.kinds import Ablation, Clamp, Edit, LatentClamp, TokenBias

RESID = torch.tensor([[[3.0, 4.0, 0.0, 1.0], [0.0, 0.0, 2.0, -5.0]]])  # [batch, n, d_model]
SOME = torch.tensor([0.6, 0.8, 0.0, 0.0])  # of length 1


def after(edit: Edit, resid: Tensor = RESID) -> Tensor:
    return resid + edit.to(torch.device("cpu")).change(resid)


@pytest.mark.parametrize(
    ("share", "first"),
    [(1.0, [0.0, 0.0, 0.0, 1.0]), (0.5, [1.5, 2.0, 0.0, 1.0]), (-1.0, [6.0, 8.0, 0.0, 1.0])],
)
def test_ablation_takes_a_share_of_the_component_away(share: float, first: list[float]) -> None:
    one, other = after(Ablation(SOME, share))[0]
    torch.testing.assert_close(one, torch.tensor(first))
    assert other.tolist() == RESID[0, 1].tolist()  # it has no such component


def test_a_clamped_component_is_at_its_level_whatever_it_was() -> None:
    found = after(Clamp(SOME, -2.0))
    assert (found @ SOME).tolist() == [[pytest.approx(-2.0), pytest.approx(-2.0)]]
    torch.testing.assert_close(found[0, 0], torch.tensor([-1.2, -1.6, 0.0, 1.0]))
    torch.testing.assert_close(found[0, 1], torch.tensor([-1.2, -1.6, 2.0, -5.0]))


def test_a_clamped_latent_moves_the_residual_along_its_row_alone(tiny_sae_folder: Path) -> None:
    sae = load_sae(str(tiny_sae_folder), model_id="tiny")
    resid = 5 * torch.randn(2, 3, sae.d_model, generator=torch.Generator().manual_seed(0))
    activations = sae.encode(resid.flatten(0, 1))
    latent = int(activations.sum(0).argmax())
    found = after(LatentClamp(sae, torch.tensor([latent]), torch.tensor([7.0])), resid)
    expected = (7.0 - activations[:, latent])[:, None] * sae.decoder_rows(torch.tensor([latent]))
    torch.testing.assert_close((found - resid).flatten(0, 1), expected)


def test_a_latent_that_is_where_it_is_to_be_changes_nothing(tiny_sae_folder: Path) -> None:
    sae = load_sae(str(tiny_sae_folder), model_id="tiny")
    resid = 5 * torch.randn(1, 1, sae.d_model, generator=torch.Generator().manual_seed(1))
    ids = torch.tensor([3, 5])
    levels = sae.encode(resid[0])[0, ids]
    torch.testing.assert_close(after(LatentClamp(sae, ids, levels), resid), resid)


def test_biases_of_tokens_add_up_and_are_multiplied() -> None:
    one = TokenBias(torch.tensor([4, 1]), torch.tensor([0.5, -1.0]))
    other = TokenBias(torch.tensor([1, 0]), torch.tensor([3.0, 2.0]))
    assert (one * 2.0 + other).dense(6).tolist() == [2.0, 1.0, 0.0, 0.0, 1.0, 0.0]
