"""The metadata of a vector file: read as it was written, of today's version and before."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

import neurosteer_cli
from neurosteer_cli import __version__
from neurosteer_cli.errors import VectorFileError
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.models.shape import ModelShape
from neurosteer_cli.vectors.metadata import (
    Calibration,
    CurvePoint,
    PointMetadata,
    SAEMetadata,
    SideMetadata,
    VectorMetadata,
)
from neurosteer_cli.vectors.vector import SteeringVector

BUNDLED = sorted((Path(neurosteer_cli.__file__).parent / "vectors" / "bundled").glob("*.st"))
VERSION_2 = Path(__file__).with_name("version2.st")  # written by neurosteer 0.1.0
SHAPE = ModelShape(architecture="TinyForCausalLM", d_model=4, n_layers=6, d_vocab=300)
POINTS = {"blocks.1.hook_resid_post": PointMetadata.without_texts(10.0)}


def written(path: Path) -> str:
    """The metadata in a file, as it stands there."""
    with safe_open(path, framework="pt") as file:
        text: str = file.metadata()["neurosteer"]
    return text


def on_curve(alpha: float, rate: float) -> CurvePoint:
    return CurvePoint(
        alpha=alpha, rate=rate, rate_low=rate - 0.125, rate_high=None, expected_rate=rate,
        perplexity_ratio=1.125, perplexity_ratio_low=None, perplexity_ratio_high=1.5, ppl_model="tiny",
        diversity=None,
    )  # fmt: skip


# --- files of before ---------------------------------------------------------------------------


def test_a_file_of_version_2_holds_what_was_put_in_then() -> None:
    vector = SteeringVector.load(VERSION_2)
    assert vector.metadata == VectorMetadata(
        format_version=3,
        program_version="0.1.0",
        created="2026-01-02T03:04:05+00:00",
        model_id="tiny",
        model_shape=SHAPE,
        method="neurosteer",
        kind="add",
        parameters={"top_k": 2},
        positive=SideMetadata(label="up", n_texts=10, n_tokens=100, sha256="a1"),
        # half of a surrogate pair: JSONL may hold one, and so may the name of a file
        negative=SideMetadata(label="d\ud800wn", n_texts=11, n_tokens=110, sha256="b2"),
        points={
            "blocks.1.hook_resid_post": PointMetadata(
                resid_norm=10.5,
                shift_norm=2.25,
                auroc=0.75,
                middle=None,
                sae=SAEMetadata(
                    sae_id="family/blocks.1", sha256="5ae", model_name="tiny", d_sae=64, neuronpedia_id=None
                ),
            ),
            "blocks.3.hook_resid_post": PointMetadata.without_texts(12.0),
        },
        parents=[{"name": "a.st", "weight": 0.5, "sha256": "c3", "metadata": {"method": "pca"}}],
        detector=None,
        calibration=Calibration(
            judge="regex:a",
            judge_facts={"pattern": "a"},
            model_id="tiny",
            prompts_sha256="b0",
            n_prompts=9,
            n=2,
            generation={"positions": "all"},
            max_ppl_ratio=1.25,
            ppl_models=["tiny"],
            curve=[on_curve(-8.0, 0.25), on_curve(0.0, 0.5), on_curve(8.0, 0.75)],
            alpha_up=8.0,
            alpha_down=None,
            created="2026-03-04T05:06:07+00:00",
        ),
    )
    exact = torch.tensor([0.1, -0.0, 1e-42, 3e38])
    assert vector.pushes[HookPoint(1)].numpy().tobytes() == exact.numpy().tobytes()
    assert vector.pushes[HookPoint(3)].tolist() == [1.0, 2.0, 3.0, 4.0]
    latents = vector.latents[HookPoint(1)]
    assert (latents.ids.tolist(), latents.weights.tolist()) == ([63, 0], pytest.approx([0.3, -7.0]))
    assert latents.firing_rates.tolist() == [pytest.approx([0.5, 0.1]), [0.0, 1.0]]
    assert vector.text_hashes.tolist() == [-3, 5]


@pytest.mark.parametrize("path", BUNDLED, ids=lambda path: path.name)
def test_the_bundled_vectors_are_read_and_written_again_byte_for_byte(path: Path, tmp_path: Path) -> None:
    vector = SteeringVector.load(path)
    assert (vector.metadata.model_id, vector.metadata.method) == ("smollm2", "neurosteer")
    assert vector.dose(1.0) == pytest.approx(0.01)
    vector.save(tmp_path / "again.st")
    assert (tmp_path / "again.st").read_bytes() == path.read_bytes()


def test_there_are_bundled_vectors() -> None:
    assert [path.name for path in BUNDLED] == ["happy.st", "polite.st"]


# --- what is written and read ------------------------------------------------------------------


def test_new_metadata_says_when_and_by_what_it_was_made() -> None:
    made = VectorMetadata.new("tiny", SHAPE, "pca", POINTS, parameters={"top_k": 3})
    assert (made.format_version, made.program_version) == (3, __version__)
    assert made.created.endswith("+00:00")
    assert (made.positive, made.negative, made.parents, made.calibration) == (None, None, [], None)
    assert VectorMetadata.from_json(made.to_json(), "v.st") == made


def test_what_a_later_program_adds_is_passed_over() -> None:
    made = VectorMetadata.new("tiny", SHAPE, "pca", POINTS)
    more = {**json.loads(made.to_json()), "mood": "good"}
    assert VectorMetadata.from_json(json.dumps(more), "v.st") == made


def test_a_calibration_of_before_was_by_the_model_itself() -> None:
    metadata = SteeringVector.load(VERSION_2).metadata
    before = json.loads(metadata.to_json())
    del before["calibration"]["ppl_models"]
    for point in before["calibration"]["curve"]:
        del point["ppl_model"], point["diversity"]
    assert VectorMetadata.from_json(json.dumps(before), "v.st") == metadata
    assert metadata.calibration is not None and metadata.calibration.ppl_models == ["tiny"]


def test_an_integer_is_a_float_and_nothing_else_is() -> None:
    made = json.loads(VectorMetadata.new("tiny", SHAPE, "pca", POINTS).to_json())
    point = made["points"]["blocks.1.hook_resid_post"]
    point["resid_norm"] = 10
    assert VectorMetadata.from_json(json.dumps(made), "v.st").points == POINTS


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"method": 3}, "says method is 3"),
        ({"method": None}, "says method is None"),
        ({"parameters": []}, "says parameters is []"),
        ({"positive": 7}, "says positive is 7"),
        ({"created": "x" * 60, "model_id": ["x" * 60]}, f"says model_id is ['{'x' * 38}"),
        ({"model_shape": {**SHAPE.model_dump(), "d_model": "4"}}, "says d_model is '4'"),
        ({"model_shape": {**SHAPE.model_dump(), "d_model": 4.0}}, "says d_model is 4.0"),
        ({"model_shape": {**SHAPE.model_dump(), "d_model": True}}, "says d_model is True"),
        ({"points": {"p": {**POINTS["blocks.1.hook_resid_post"].model_dump(), "resid_norm": True}}},
         "says resid_norm is True"),
        ({"points": {"p": {**POINTS["blocks.1.hook_resid_post"].model_dump(), "auroc": "0.5"}}},
         "says auroc is '0.5'"),
        ({"points": {"p": None}}, "says p is None"),
        # what is wrong further out is told first, and all that is absent there
        ({"points": {"p": {"sae": None, "auroc": None}}, "model_shape": {"d_model": "4"}},
         "lacks ['architecture', 'd_vocab', 'n_layers']"),
        ({"points": {"p": {"sae": None, "auroc": None}}, "method": 3}, "says method is 3"),
    ],
)  # fmt: skip
def test_a_field_of_another_kind_is_named_with_what_stands_there(change: dict[str, Any], reason: str) -> None:
    made = json.loads(VectorMetadata.new("tiny", SHAPE, "pca", POINTS).to_json())
    with pytest.raises(VectorFileError) as caught:
        VectorMetadata.from_json(json.dumps({**made, **change}), "v.st")
    assert str(caught.value) == f"v.st: its metadata {reason}; fit the vector again"


def test_a_number_that_json_does_not_know_is_not_written() -> None:
    made = VectorMetadata.new("tiny", SHAPE, "pca", {"p": PointMetadata.without_texts(math.nan)})
    with pytest.raises(ValueError, match="Out of range"):
        made.to_json()
