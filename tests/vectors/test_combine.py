"""A sum of vectors: what it pushes, what it says it is, and how alike two vectors are."""

from pathlib import Path

import pytest
import torch

from neurosteer_cli.errors import IncompatibleVectorError, InputError
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.models.shape import ModelShape
from neurosteer_cli.vectors.combine import Part, combine, cosine
from neurosteer_cli.vectors.metadata import PointMetadata, VectorMetadata
from neurosteer_cli.vectors.vector import SteeringVector

SHAPE = ModelShape(architecture="TinyForCausalLM", d_model=4, n_layers=6, d_vocab=300)


def make(
    pushes: dict[int, list[float]],
    *,
    resid_norm: float = 10.0,
    shape: ModelShape = SHAPE,
    model_id: str = "tiny",
    hashes: tuple[int, ...] = (-3, 5),
) -> SteeringVector:
    """A vector with these pushes, by layer."""
    points = {str(HookPoint(layer)): PointMetadata.without_texts(resid_norm) for layer in pushes}
    return SteeringVector(
        VectorMetadata.new(model_id, shape, "diffmean", points),
        {HookPoint(layer): torch.tensor(push) for layer, push in pushes.items()},
        {},
        torch.tensor(hashes, dtype=torch.int64),
    )


def add_up(*parts: tuple[str, SteeringVector, float]) -> SteeringVector:
    return combine([Part(name, vector, weight, f"sha256 of {name}") for name, vector, weight in parts])


def test_vectors_of_different_models_are_not_summed() -> None:
    other = make({1: [1.0, 0.0, 0.0, 0.0]}, shape=SHAPE.model_copy(update={"n_layers": 12}), model_id="large")
    with pytest.raises(IncompatibleVectorError) as caught:
        add_up(("a.st", make({1: [1.0, 0.0, 0.0, 0.0]}), 1.0), ("b.st", other, 1.0))
    assert str(caught.value) == (
        "b.st was fitted on 'large' (TinyForCausalLM, d_model=4, 12 blocks, d_vocab=300), "
        "a.st on 'tiny' (TinyForCausalLM, d_model=4, 6 blocks, d_vocab=300): "
        "only vectors of one model can be summed"
    )


# --- sums --------------------------------------------------------------------------------------


def test_weights_multiply_pushes_and_nothing_is_rescaled() -> None:
    one, two = make({1: [1.0, 2.0, 0.0, 0.0]}), make({1: [0.0, 4.0, 8.0, 0.0]})
    result = add_up(("a.st", one, 2.0), ("b.st", two, -0.5))
    assert result.pushes[HookPoint(1)].tolist() == [2.0, 2.0, -4.0, 0.0]


def test_vectors_at_different_layers_join() -> None:
    one = make({3: [1.0, 0.0, 0.0, 0.0], 4: [0.0, 1.0, 0.0, 0.0]})
    two = make({4: [0.0, 0.0, 1.0, 0.0], 1: [0.0, 0.0, 0.0, 1.0]})
    result = add_up(("a.st", one, 1.0), ("b.st", two, 3.0))
    assert {str(point): push.tolist() for point, push in result.pushes.items()} == {
        "blocks.1.hook_resid_post": [0.0, 0.0, 0.0, 3.0],
        "blocks.3.hook_resid_post": [1.0, 0.0, 0.0, 0.0],
        "blocks.4.hook_resid_post": [0.0, 1.0, 3.0, 0.0],
    }
    assert list(result.pushes) == [HookPoint(1), HookPoint(3), HookPoint(4)]


def test_a_sum_says_what_it_is_and_comes_back_from_a_file(tmp_path: Path) -> None:
    one = make({1: [0.1, -0.0, 1e-42, 3e38], 3: [1.0, 2.0, 3.0, 4.0]})
    two = make({1: [0.0, 1.0, 0.0, 0.0]}, resid_norm=20.0, hashes=(5, 9))
    result = add_up(("a.st", one, 1.0), ("b.st", two, 0.25))
    assert result.metadata == VectorMetadata(
        format_version=3,
        program_version="0.1.0",
        created=result.metadata.created,
        model_id="tiny",
        model_shape=SHAPE,
        method="combine",
        kind="add",
        parameters={},
        positive=None,
        negative=None,
        points={
            # each parent measured the norm on its own texts
            "blocks.1.hook_resid_post": PointMetadata(
                resid_norm=15.0, shift_norm=None, auroc=None, middle=None, sae=None
            ),
            "blocks.3.hook_resid_post": PointMetadata(
                resid_norm=10.0, shift_norm=None, auroc=None, middle=None, sae=None
            ),
        },
        parents=[
            {"name": "a.st", "weight": 1.0, "sha256": "sha256 of a.st",
             "metadata": one.metadata.model_dump()},
            {"name": "b.st", "weight": 0.25, "sha256": "sha256 of b.st",
             "metadata": two.metadata.model_dump()},
        ],
        detector=None,
        calibration=None,
    )  # fmt: skip
    assert result.latents == {}
    assert result.text_hashes.tolist() == [-3, 5, 9]
    result.save(tmp_path / "sum.st")
    assert SteeringVector.load(tmp_path / "sum.st").metadata == result.metadata


def test_a_sum_of_sums_keeps_the_whole_descent() -> None:
    inner = add_up(("a.st", make({1: [1.0, 0.0, 0.0, 0.0]}), 2.0))
    outer = add_up(("inner.st", inner, 3.0))
    assert outer.pushes[HookPoint(1)].tolist() == [6.0, 0.0, 0.0, 0.0]
    assert outer.metadata.parents[0]["metadata"]["parents"][0]["name"] == "a.st"


@pytest.mark.parametrize("weight", [0.0, float("nan"), float("inf")])
def test_a_weight_that_is_0_or_not_finite_is_refused(weight: float) -> None:
    with pytest.raises(InputError) as caught:
        add_up(("a.st", make({1: [1.0, 0.0, 0.0, 0.0]}), weight))
    assert str(caught.value) == (f"a.st: weight must be a finite number other than 0, got {weight}")


def test_a_sum_that_is_nothing_is_refused() -> None:
    vector = make({2: [1.0, 2.0, 0.0, 0.0]})
    with pytest.raises(InputError) as caught:
        add_up(("a.st", vector, 1.0), ("b.st", vector, -1.0))
    assert str(caught.value) == (
        "the weighted sum at blocks.2.hook_resid_post is zero: nothing would be steered"
    )
    with pytest.raises(InputError, match="^nothing to combine: give one or more vector files"):
        add_up()


@pytest.mark.parametrize("weight", [1e39, 1e300, -1e300])
def test_a_sum_too_large_for_its_numbers_is_refused(weight: float) -> None:
    # It would be written, and then refused by everything that reads it.
    with pytest.raises(InputError) as caught:
        add_up(("a.st", make({2: [1.0, 2.0, 0.0, 0.0]}), weight))
    assert str(caught.value) == (
        "the weighted sum at blocks.2.hook_resid_post is not finite: a weight is too large for 32-bit numbers"
    )


# --- cosine ---------------------------------------------------------------------------


def test_cosine_is_over_all_hook_points_together() -> None:
    one = make({1: [3.0, 0.0, 0.0, 0.0], 2: [0.0, 4.0, 0.0, 0.0]})
    two = make({1: [1.0, 0.0, 0.0, 0.0], 3: [0.0, 1.0, 0.0, 0.0]})
    assert cosine(one, two) == pytest.approx(3 / (5 * 2**0.5))
    assert cosine(one, one) == pytest.approx(1.0)
    assert cosine(one, make({2: [0.0, -1.0, 0.0, 0.0]})) == pytest.approx(-0.8)


def test_vectors_without_a_common_hook_point_have_no_cosine() -> None:
    assert cosine(make({1: [1.0, 0.0, 0.0, 0.0]}), make({2: [1.0, 0.0, 0.0, 0.0]})) is None
