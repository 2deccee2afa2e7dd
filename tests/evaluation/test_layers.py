"""Layers measured from texts at hand, and rows of them as JSON."""

import pytest

from neurosteer_cli.data.records import Located
from neurosteer_cli.data.sides import sides_of
from neurosteer_cli.errors import InputError
from neurosteer_cli.evaluation.judges.load import load_judge
from neurosteer_cli.evaluation.layers import Layer, Steering, sweep_layers
from neurosteer_cli.evaluation.measures.metrics import Estimate
from neurosteer_cli.generation.continuation import GenerationConfig
from neurosteer_cli.models.engine import Engine

SIDES = [[f"{word} number {n} {'!' * n}" for n in range(20)] for word in ("aaa bbb", "zzz yyy")]
PROMPTS = [Located(f"prompt {n}", {"prompt": f"number {n}"}) for n in range(3)]


def test_layers_are_measured_and_steered_at_without_a_command(engine: Engine) -> None:
    steering = Steering(
        alphas=[-20, 20],
        prompts=PROMPTS,
        judge=load_judge("regex:."),
        config=GenerationConfig(max_new_tokens=4),
    )
    sweep = sweep_layers(engine, sides_of(*SIDES), [1, 1, 3], steering)  # each once
    assert [layer.hook_point for layer in sweep.layers] == [
        "blocks.1.hook_resid_post",
        "blocks.3.hook_resid_post",
    ]
    assert [[steered.alpha for steered in layer.steer] for layer in sweep.layers] == [[-20, 20]] * 2
    assert sweep.judge is steering.judge
    assert sweep.unsteered_rate is not None and sweep.unsteered_rate.value == 1
    assert (sweep.provenance["prompts"], sweep.provenance["n"]) == (3, 1)
    assert all(layer.auroc is not None and layer.auroc.low <= layer.auroc.value for layer in sweep.layers)  # type: ignore[operator]


def test_without_steering_nothing_is_written(engine: Engine) -> None:
    sweep = sweep_layers(engine, sides_of(*SIDES))
    assert [layer.layer for layer in sweep.layers] == [0, 1, 2, 3]
    assert (sweep.judge, sweep.unsteered_rate, sweep.layers[0].steer) == (None, None, [])
    assert sweep.provenance["n_texts"] == [len(side) for side in SIDES]


def test_texts_that_are_cut_are_told(engine: Engine) -> None:
    long = [f"aaa bbb number {n} {'!' * 128}" for n in range(5)]
    warnings: list[str] = []
    sweep_layers(engine, sides_of([*SIDES[0], *long], SIDES[1]), [1], warn=warnings.append)
    *few, cut = warnings
    assert [warning.split(": ")[1] for warning in few] == [
        f"{n} texts; 50 or more a side give more dependable numbers" for n in (25, 20)
    ]
    assert cut == "5 of 45 texts were cut to the model's 128 tokens"


def test_a_block_that_the_model_lacks_is_refused(engine: Engine) -> None:
    with pytest.raises(InputError, match="the model has 4 blocks"):
        sweep_layers(engine, sides_of(*SIDES), [4])


@pytest.mark.parametrize("auroc", [Estimate(0.9, 0.8, 1.0), None])
def test_a_row_has_the_interval_in_keys_of_its_own(auroc: Estimate | None) -> None:
    row = Layer(2, "blocks.2.hook_resid_post", auroc, None, 0.1, 5.0, []).to_json()
    assert list(row) == [
        "layer",
        "hook_point",
        "auroc",
        "auroc_low",
        "auroc_high",
        "sae_auroc",
        "shift_share",
        "resid_norm",
        "steer",
    ]
    assert [row["auroc"], row["auroc_low"], row["auroc_high"]] == ([0.9, 0.8, 1.0] if auroc else [None] * 3)
