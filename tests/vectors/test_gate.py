"""Gates: what they read of prompts and tokens, and what they refuse."""

from functools import partial
from pathlib import Path

import pytest
import torch
from support.tiny import detecting, tiny_vector

from neurosteer_cli.errors import InputError
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import RESID_PRE, HookPoint
from neurosteer_cli.saes.load import load_sae
from neurosteer_cli.saes.sae import SparseAutoencoder
from neurosteer_cli.vectors.gate import Gate, of_vector, open_gate, opened
from neurosteer_cli.vectors.steering import Steering
from neurosteer_cli.vectors.vector import SteeringVector

ONE, TWO = HookPoint(1), HookPoint(2)
PROMPTS = [[7, 21, 3], [99], [50, 51, 52, 53, 54]]


def detecting_at(engine: Engine, *points: HookPoint) -> SteeringVector:
    draw = torch.Generator().manual_seed(0)
    made = tiny_vector(engine.shape, {point: torch.randn(engine.d_model, generator=draw) for point in points})
    return detecting(made, middle=3.0, spread=2.0)


def sae_in(engine: Engine, folder: Path, layer: int) -> SparseAutoencoder:
    return opened(engine, load_sae(str(folder), model_id="tiny", layer=layer))


def test_a_vector_reads_the_mean_projection_of_the_tokens_that_count(engine: Engine) -> None:
    vector = detecting_at(engine, ONE, TWO)
    gate = of_vector("v.st<0.5", vector, 0.5, is_above=False)
    assert gate.threshold == 0.5
    found = dict(gate.prompts(engine, PROMPTS))
    for number, ids in enumerate(PROMPTS):
        resid = engine.read(torch.tensor([ids]), [ONE, TWO])
        numbers = sum(
            (resid[point][0] @ push for point, push in vector.pushes.items()), torch.zeros(len(ids))
        )
        expected = numbers[1:].mean() if len(ids) > 1 else numbers[0]
        assert found[number] == pytest.approx((float(expected) - 3.0) / 2.0, abs=1e-4)
    assert gate.is_open(torch.tensor([0.4, 0.5, 0.6])).tolist() == [True, False, False]


def test_a_latent_reads_the_most_it_fires(engine: Engine, tiny_sae_folder: Path) -> None:
    gate = open_gate("2/5>0.25", engine, sae_of=partial(sae_in, engine, tiny_sae_folder))
    assert (list(gate.readers), gate.threshold, gate.is_above) == ([TWO], 0.25, True)
    ((_, found),) = gate.prompts(engine, PROMPTS[2:])
    resid = engine.read(torch.tensor(PROMPTS[2:]), [TWO])[TWO][0, 1:]
    expected = load_sae(str(tiny_sae_folder), model_id="tiny").encode(resid)[:, 5].max()
    assert found == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("text", ["", "v.st", "v.st<", "v.st<x", "<3", "v.st<nan", "v.st=3"])
def test_what_is_no_gate_is_refused(engine: Engine, text: str) -> None:
    with pytest.raises(InputError, match="write a vector or a latent, < or >, and a number: 'polite.st<0'"):
        open_gate(text, engine)


def test_a_vector_that_knows_nothing_of_its_sides_is_no_gate(engine: Engine, tmp_path: Path) -> None:
    tiny_vector(engine.shape, {ONE: torch.ones(engine.d_model)}).save(tmp_path / "v.st")
    with pytest.raises(
        InputError, match="nothing is known of how its two sides project on the vector; fit it"
    ):
        open_gate(f"{tmp_path / 'v.st'} > 1", engine)


def test_an_unknown_latent_is_no_gate(engine: Engine, tiny_sae_folder: Path) -> None:
    with pytest.raises(InputError, match="the SAE at blocks.2.hook_resid_post has 64 latents, 0 to 63"):
        open_gate("2/64>0", engine, sae_of=partial(sae_in, engine, tiny_sae_folder))


def test_a_model_without_saes_has_no_latents_to_gate_by(engine: Engine) -> None:
    with pytest.raises(InputError, match=r"no SAE of block 2 comes along for '.*' \(blocks: none\)"):
        open_gate("2/5>0", engine)


def test_vectors_are_found_by_whatever_finds_them(engine: Engine) -> None:
    gate = open_gate("polite < -1", engine, vector_of={"polite": detecting_at(engine, ONE)}.__getitem__)
    assert (gate.name, gate.threshold, gate.is_above) == ("polite < -1", -1.0, False)


def test_tokens_cannot_be_gated_by_what_comes_after_the_steering() -> None:
    def gate(point: HookPoint) -> Gate:
        return Gate("v.st<0", {point: lambda resid: resid[..., 0]}, 0.0, False, "mean")

    steering = Steering({ONE: torch.ones(4)})
    assert steering.gated(gate(ONE)).gate
    assert steering.gated(gate(HookPoint(1, RESID_PRE))).gate
    with pytest.raises(
        InputError, match="is read at blocks.2.hook_resid_pre, behind blocks.1.hook_resid_post"
    ):
        steering.gated(gate(HookPoint(2, RESID_PRE)))
