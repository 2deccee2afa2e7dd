"""What servers are to add to logits: the strongest tokens, in their form and within their bounds."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.baking import of_kind
from support.tiny import tiny_vector

from neurosteer_cli.errors import IncompatibleVectorError, InputError
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.models.shape import ModelShape
from neurosteer_cli.vectors.exchange.logit_bias import MOST_TOKENS, logit_bias, write_logit_bias
from neurosteer_cli.vectors.kinds import TokenBias
from neurosteer_cli.vectors.vector import SteeringVector

SHAPE = ModelShape(architecture="TinyForCausalLM", d_model=4, n_layers=6, d_vocab=2000)


def urging(nats: torch.Tensor) -> SteeringVector:
    bias = TokenBias(torch.arange(len(nats)), nats)
    return of_kind("logits", replace(tiny_vector(SHAPE, {}), bias=bias))


def test_the_strongest_are_kept_with_their_signs_and_share(tmp_path: Path) -> None:
    kept, share = logit_bias(urging(torch.tensor([0.5, -2.0, 0.25, 1.0])), -2.0, 2)
    assert (kept.ids.tolist(), kept.bias.tolist()) == ([1, 3], [4.0, -2.0])
    assert share == pytest.approx(3 / 3.75)
    write_logit_bias(kept, tmp_path / "b.json")
    assert json.loads((tmp_path / "b.json").read_text()) == {"1": 4.0, "3": -2.0}


def test_as_many_are_kept_as_openais_api_takes() -> None:
    kept, _ = logit_bias(urging(torch.linspace(0.1, 1, 1000)), 1.0)
    assert len(kept.ids) == MOST_TOKENS == 300
    assert int(kept.ids.min()) == 700


def test_more_than_servers_take_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"^alpha 51 is too large: it adds -102 to a logit, and servers take no"
    ):
        logit_bias(urging(torch.tensor([0.5, -2.0])), 51.0)
    with pytest.raises(InputError, match="^alpha must be a finite number other than 0"):
        logit_bias(urging(torch.tensor([0.5])), float("nan"))


def test_a_vector_that_adds_nothing_to_logits_is_refused_by_name() -> None:
    vector = tiny_vector(SHAPE, {HookPoint(1): torch.ones(4)})
    with pytest.raises(IncompatibleVectorError) as caught:
        logit_bias(of_kind("ablate", vector), 1.0, name="v.st")
    assert str(caught.value) == (
        "v.st is of the kind ablate and adds nothing to logits: `fit --method logodds` and --logits-share "
        "make vectors that do"
    )
