"""Vectors from chosen latents: their direction, their length, and what is said of them."""

from pathlib import Path

import pytest
import torch
from support.tiny import save_tiny_sae

from neurosteer_cli.errors import InputError, NeurosteerError
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.saes.load import load_sae
from neurosteer_cli.vectors.fitting.from_latents import Choice, choose, from_latents, parse_latents
from neurosteer_cli.vectors.vector import SteeringVector


def choice(folder: Path, weights: dict[int, float], **changes: object) -> Choice:
    sae = load_sae(str(save_tiny_sae(folder, **changes)), model_id="tiny")  # type: ignore[arg-type]
    return choose(sae, weights, 200.0, [0.25] * sae.d_sae)


def test_the_push_is_the_weighted_sum_of_decoder_rows_one_percent_long(
    engine: Engine, tmp_path: Path
) -> None:
    one = choice(tmp_path / "sae", {3: -1.0, 9: 2.0})
    vector = from_latents(engine, [one])
    rows = one.sae.weights["W_dec"]
    expected = 2.0 * rows[9] - rows[3]
    push = vector.pushes[HookPoint(2)]
    torch.testing.assert_close(push, expected / expected.norm() * 2.0)
    assert vector.dose(1.0) == pytest.approx(0.01)
    latents = vector.latents[HookPoint(2)]
    assert (latents.ids.tolist(), latents.weights.tolist()) == ([9, 3], [2.0, -1.0])
    assert latents.firing_rates.tolist() == [[0.25, 0.25], [0.25, 0.25]]


def test_several_hook_points_share_the_push_and_the_file_keeps_all(engine: Engine, tmp_path: Path) -> None:
    choices = [
        choice(tmp_path / str(layer), {layer: 1.0}, hook_name=f"blocks.{layer}.hook_resid_post")
        for layer in (1, 2)
    ]
    vector = from_latents(engine, choices)
    assert [float(push.norm()) for push in vector.pushes.values()] == pytest.approx([1.0, 1.0])
    vector.save(tmp_path / "v.st")
    again = SteeringVector.load(tmp_path / "v.st")
    assert again.metadata == vector.metadata
    assert (again.metadata.method, again.metadata.positive, again.metadata.negative) == (
        "latents",
        None,
        None,
    )
    assert again.metadata.points["blocks.1.hook_resid_post"].resid_norm == 200.0


def test_latents_that_cancel_out_are_refused(engine: Engine, tmp_path: Path) -> None:
    one = choice(tmp_path / "sae", {3: -1.0, 9: 1.0})
    one.sae.weights["W_dec"][9] = one.sae.weights["W_dec"][3]
    with pytest.raises(NeurosteerError, match=r"the latents chosen at blocks.2.hook_resid_post cancel out"):
        from_latents(engine, [one])


def test_a_latent_the_sae_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--latent 64: the SAE at .* has 64 latents, 0 to 63"):
        choice(tmp_path / "sae", {64: 1.0})


def test_latents_are_read_with_and_without_a_block_and_a_weight() -> None:
    assert parse_latents(["960:-1", "521:0.5", "7"]) == {None: {960: -1.0, 521: 0.5, 7: 1.0}}
    assert parse_latents(["20/960:-1", "14/3"]) == {20: {960: -1.0}, 14: {3: 1.0}}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a:1"], "--latent a:1: not ID:WEIGHT such as 960:-1, or BLOCK/ID:WEIGHT"),
        (["1:x"], "--latent 1:x: not ID:WEIGHT such as 960:-1, or BLOCK/ID:WEIGHT"),
        (["1:0"], "--latent 1:0: the weight must be a finite number other than 0"),
        (["1:nan"], "--latent 1:nan: the weight must be a finite number other than 0"),
        (["1:2", "1:3"], "--latent 1:3: latent 1 is named twice"),
    ],
)
def test_what_is_no_latent_is_refused(texts: list[str], message: str) -> None:
    with pytest.raises(InputError) as raised:
        parse_latents(texts)
    assert str(raised.value) == message
