"""layers as a user runs it, on a tiny random model."""

from pathlib import Path

import pytest
from support.cli import refused, rows, run
from support.tiny import save_tiny

from neurosteer_cli.vectors.vector import SteeringVector

JUDGE = ("--judge", "regex:[a-m]")
SHORT = ("--max-new-tokens", "6")
EVAL = ("eval", "-v", "v.st", "--alpha", "-20,20", "--prompts", "prompts.jsonl", *SHORT)


def test_layers_measures_every_block() -> None:
    found = rows(run("layers", "up.jsonl", "down.jsonl", "--model", "tiny", "--json"))
    assert [row["layer"] for row in found] == [0, 1, 2, 3]
    assert [row["hook_point"] for row in found] == [f"blocks.{n}.hook_resid_post" for n in range(4)]
    for row in found:
        assert row["auroc_low"] <= row["auroc"] <= row["auroc_high"]
        assert row["shift_share"] > 0 and row["sae_auroc"] is None and row["steer"] == []
    fitted = SteeringVector.load(Path("v.st")).metadata.points["blocks.2.hook_resid_post"]
    assert found[2]["auroc"] == pytest.approx(fitted.auroc)
    assert found[2]["resid_norm"] == pytest.approx(fitted.resid_norm)
    assert fitted.shift_norm is not None
    assert found[2]["shift_share"] == pytest.approx(fitted.shift_norm / fitted.resid_norm)


def test_layers_steers_at_each_layer_as_a_vector_fitted_there_would() -> None:
    result = run("layers", "up.jsonl", "down.jsonl", "--model", "tiny", "--layers", "1,2", "--steer",
                 "--alpha", "20", "--prompts", "prompts.jsonl", *JUDGE, *SHORT, "--json")  # fmt: skip
    steered = {row["layer"]: row["steer"] for row in rows(result)}
    assert [one["alpha"] for one in steered[1]] == [20.0]
    evaluated = {row["label"]: row for row in rows(run(*EVAL, *JUDGE, "--no-random", "--json"))}
    expected = evaluated["v +20"]
    assert steered[2][0]["rate"] == expected["judges"]["regex:[a-m]"]["rate"]
    assert steered[2][0]["perplexity_ratio"]["value"] == pytest.approx(
        expected["perplexity_ratio"]["value"], rel=1e-4
    )


def test_of_several_models_the_highest_ratio_is_given_and_whose_it_is(folder: Path) -> None:
    ask = ("layers", "up.jsonl", "down.jsonl", "--model", "tiny", "--layers", "2", "--steer", "--alpha", "20",
           "--prompts", "prompts.jsonl", *JUDGE, *SHORT, "--json")  # fmt: skip
    models = ("--ppl-model", "tiny", "--ppl-model", "second")
    ((both,), *alone) = (rows(run(*ask, *asked))[0]["steer"] for asked in (models, models[:2], models[2:]))
    highest = max((one for (one,) in alone), key=lambda one: one["perplexity_ratio"]["value"])
    assert both == highest
    assert both["ppl_model"] in (str(folder / "tiny"), str(folder / "second"))


def test_layers_draws_and_writes_a_page(tmp_path: Path) -> None:
    plot, page = tmp_path / "l.svg", tmp_path / "l.html"
    result = run("layers", "up.jsonl", "down.jsonl", "--model", "tiny", "--plot", str(plot), "--report",
                 str(page))  # fmt: skip
    assert plot.read_text().lstrip().startswith("<?xml") and "</html>" in page.read_text()
    assert f"wrote {plot}" in result.stderr and f"wrote {page}" in result.stderr
    assert [line.split()[0] for line in result.stdout.splitlines()[-5:] if line.strip()] == list("0123")


def test_a_model_of_another_width_named_like_a_bundled_one_is_refused(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "smollm2", n_layers=12)
    said = refused("layers", "up.jsonl", "down.jsonl", "--model", str(folder), "--layers", "11", code=1)
    assert said == (
        "error: SAE 'bundled' has d_model=576 and was trained on 'smollm2'; "
        f"model '{folder}' has d_model=16: choose the SAE of this model"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("layers", "up.jsonl", "down.jsonl", "--model", "tiny", "--steer"), "--steer needs one judge"),
        (("layers", "up.jsonl", "down.jsonl", *JUDGE), "--judge without --steer"),
        (("layers", "up.jsonl", "down.jsonl", "--ppl-model", "tiny"), "--ppl-model without --steer"),
        (("layers", "up.jsonl", "down.jsonl", "--plot", "x.pdf"), "x.pdf: a plot is a .png or a .svg file"),
        (("layers", "up.jsonl", "down.jsonl", "--model", "tiny", "--layers", "9"), "the model has 4 blocks"),
        (("layers", "up.jsonl", "down.jsonl", "--model", "tiny", "--layers", "x"), "x: not block numbers"),
    ],
)  # fmt: skip
def test_bad_input_is_named(arguments: tuple[str, ...], message: str) -> None:
    assert message in refused(*arguments)
