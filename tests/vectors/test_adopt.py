"""A control vector of another program becomes ours: its directions kept, its strength in our unit."""

from pathlib import Path

import pytest
import torch
from support.tiny import D_MODEL

from neurosteer_cli.errors import VectorFileError
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.vectors.adopt import adopt
from neurosteer_cli.vectors.gguf import ControlVector
from neurosteer_cli.vectors.vector import SteeringVector

POINTS = [HookPoint(1), HookPoint(3)]
NORMS = {HookPoint(1): 40.0, HookPoint(3): 80.0}
LENGTHS = {1: 2.0, 3: 8.0}


def control(lengths: dict[int, float] = LENGTHS) -> ControlVector:
    """Directions of given lengths."""
    unit = torch.ones(D_MODEL) / D_MODEL**0.5
    return ControlVector({k: length * unit for k, length in lengths.items()}, "llama", None)


def adopted(
    engine: Engine, points: list[HookPoint], found: ControlVector | None = None
) -> tuple[SteeringVector, float]:
    return adopt(
        found or control(),
        points,
        NORMS,
        engine=engine,
        origin="repeng",
        provenance={"file": "v.gguf", "sha256": "abc", "texts": "neutral"},
    )


def test_alpha_1_is_one_percent_of_the_residual_and_the_lengths_keep_their_ratio(engine: Engine) -> None:
    vector, scale = adopted(engine, POINTS)
    # 2/40 + 8/80 = 15 % of the residual at scale 1
    assert scale == pytest.approx(1 / 15)
    assert vector.dose(1) == pytest.approx(0.01)
    lengths = [float(push.norm()) for push in vector.pushes.values()]
    assert lengths == pytest.approx([2 / 15, 8 / 15])


def test_some_of_the_blocks_make_a_vector_of_their_own(engine: Engine) -> None:
    vector, scale = adopted(engine, POINTS[1:])
    assert scale == pytest.approx(0.1)  # 8/80 = 10 %
    assert list(vector.pushes) == [HookPoint(3)]


def test_the_vector_says_where_it_came_from(engine: Engine, tmp_path: Path) -> None:
    vector, scale = adopted(engine, POINTS)
    vector.save(tmp_path / "v.st")
    facts = SteeringVector.load(tmp_path / "v.st").metadata
    assert (facts.method, facts.model_id, facts.model_shape) == ("import", engine.model_id, engine.shape)
    assert facts.parameters == {
        "gguf_origin": "repeng", "scale": scale, "model_hint": "llama", "file": "v.gguf", "sha256": "abc",
        "texts": "neutral",
    }  # fmt: skip
    assert {name: point.resid_norm for name, point in facts.points.items()} == {
        "blocks.1.hook_resid_post": 40.0, "blocks.3.hook_resid_post": 80.0,
    }  # fmt: skip


def test_directions_of_zero_are_refused(engine: Engine) -> None:
    with pytest.raises(VectorFileError, match="^v.gguf: its directions are zero: nothing would be steered$"):
        adopted(engine, POINTS, control({1: 0.0, 3: 0.0}))
