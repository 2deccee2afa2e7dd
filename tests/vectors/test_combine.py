"""A sum of vectors: what it pushes, what it says it is, and how alike two vectors are."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.baking import of_kind
from support.tiny import D_MODEL, tiny_vector

from neurosteer_cli.errors import IncompatibleVectorError, InputError
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.models.shape import ModelShape
from neurosteer_cli.saes.load import load_sae
from neurosteer_cli.vectors.combine import Part, bias_cosine, combine, cosine
from neurosteer_cli.vectors.kinds import TokenBias
from neurosteer_cli.vectors.metadata import Kind, PointMetadata, SAEMetadata, VectorMetadata
from neurosteer_cli.vectors.steering import Steering
from neurosteer_cli.vectors.vector import Latents, SteeringVector

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


# --- kinds ----------------------------------------------------------------------------


def urging(*pairs: tuple[int, float], pushes: dict[int, list[float]] | None = None) -> SteeringVector:
    """A vector that adds to logits of tokens, and pushes besides if it has pushes."""
    bias = TokenBias(torch.tensor([token for token, _ in pairs]), torch.tensor([nats for _, nats in pairs]))
    return of_kind("add" if pushes else "logits", replace(make(pushes or {}), bias=bias))


def with_middle(vector: SteeringVector, middle: float | None) -> SteeringVector:
    points = {
        name: point.model_copy(update={"middle": middle}) for name, point in vector.metadata.points.items()
    }
    return replace(vector, metadata=vector.metadata.model_copy(update={"points": points}))


def test_what_is_added_to_logits_is_summed_by_token(tmp_path: Path) -> None:
    result = add_up(("a.st", urging((5, 0.5), (2, -1.0)), 2.0), ("b.st", urging((2, 1.0), (9, 4.0)), -0.5))
    assert (result.metadata.kind, result.pushes) == ("logits", {})
    assert result.bias is not None
    assert result.bias.dense(10).tolist() == [0, 0, -2.5, 0, 0, 1.0, 0, 0, 0, -2.0]
    result.save(tmp_path / "sum.st")
    loaded = SteeringVector.load(tmp_path / "sum.st")
    assert loaded.bias is not None and loaded.bias.ids.tolist() == [2, 5, 9]


def test_pushes_and_biases_of_logits_make_one_vector_that_does_both() -> None:
    push, odds = make({1: [1.0, 0.0, 0.0, 0.0]}), urging((7, 0.25))
    both = urging((7, 1.0), (8, -1.0), pushes={1: [0.0, 2.0, 0.0, 0.0]})
    result = add_up(("push.st", push, 0.5), ("odds.st", odds, 0.5), ("both.st", both, 1.0))
    assert result.metadata.kind == "add"
    assert result.pushes[HookPoint(1)].tolist() == [0.5, 2.0, 0.0, 0.0]
    assert result.bias is not None and result.bias.dense(9).tolist()[7:] == [1.125, -1.0]
    apart = Steering.of([push, odds, both], [4.0, 4.0, 8.0])
    assert torch.equal(apart.pushes[HookPoint(1)], 8.0 * result.pushes[HookPoint(1)])
    assert apart.bias is not None and torch.equal(apart.bias.dense(9), (result.bias * 8.0).dense(9))


def test_biases_that_cancel_leave_the_push_or_nothing() -> None:
    both = urging((7, 1.0), pushes={1: [0.0, 2.0, 0.0, 0.0]})
    assert add_up(("both.st", both, 1.0), ("odds.st", urging((7, 0.5)), -2.0)).bias is None
    with pytest.raises(InputError, match="^the weighted sum of what is added to logits is zero: nothing"):
        add_up(("a.st", urging((7, 0.5)), 1.0), ("b.st", urging((7, 0.5)), -1.0))
    with pytest.raises(InputError, match="what is added to logits is not finite: a weight is too large"):
        add_up(("a.st", urging((7, 0.5)), 1e39))


@pytest.mark.parametrize(
    ("kind", "other"), [("add", "ablate"), ("ablate", "clamp"), ("logits", "ablate"), ("clamp", "add")]
)
def test_vectors_that_do_not_act_alike_are_not_summed(kind: Kind, other: Kind) -> None:
    push = {1: [1.0, 0.0, 0.0, 0.0]}
    one = urging((7, 1.0)) if kind == "logits" else of_kind(kind, make(push))
    with pytest.raises(IncompatibleVectorError) as caught:
        add_up(("a.st", one, 1.0), ("b.st", of_kind(other, make(push)), 1.0))
    assert str(caught.value) == (
        f"a.st is of the kind {kind}, b.st of the kind {other}: only vectors that act alike can be summed; "
        "give each to `gen` with a --vector of its own"
    )


def test_a_sum_of_vectors_that_ablate_takes_away_the_component_along_their_sum() -> None:
    one, two = make({1: [3.0, 0.0, 0.0, 0.0]}), make({1: [0.0, 4.0, 0.0, 0.0], 2: [0.0, 0.0, 1.0, 0.0]})
    result = add_up(("a.st", of_kind("ablate", one), 1.0), ("b.st", of_kind("ablate", two), 1.0))
    assert result.metadata.kind == "ablate"
    changes = Steering.of([result], [1.0]).changes()
    resid = torch.tensor([[[5.0, 0.0, 7.0, 1.0]]])
    after = {point: (resid + change(resid))[0, 0] for point, change in changes.items()}
    torch.testing.assert_close(after[HookPoint(1)], torch.tensor([3.2, -2.4, 7.0, 1.0]))
    torch.testing.assert_close(after[HookPoint(2)], torch.tensor([5.0, 0.0, 0.0, 1.0]))


def test_the_middle_of_a_sum_is_that_of_the_texts_along_it() -> None:
    # texts whose middle is at [2, 1, ...]: along the first vector at 2, along the second at 1
    one = with_middle(of_kind("clamp", make({1: [3.0, 0.0, 0.0, 0.0]})), 2.0)
    two = with_middle(of_kind("clamp", make({1: [0.0, 2.0, 0.0, 0.0]})), 1.0)
    result = add_up(("a.st", one, 1.0), ("b.st", two, -2.0))
    assert result.pushes[HookPoint(1)].tolist() == [3.0, -4.0, 0.0, 0.0]
    middle = result.metadata.points["blocks.1.hook_resid_post"].middle
    assert middle == pytest.approx((3 * 2 - 4 * 1) / 5)
    unknown = add_up(("a.st", one, 1.0), ("b.st", with_middle(two, None), 1.0))
    assert unknown.metadata.points["blocks.1.hook_resid_post"].middle is None


def clamping(sae_folder: Path, weights: dict[int, float], *, sha256: str | None = None) -> SteeringVector:
    """A vector that clamps latents of a tiny SAE, its push 0.5 long."""
    sae = load_sae(str(sae_folder), model_id="tiny")
    shape = SHAPE.model_copy(update={"d_model": D_MODEL})
    rates = torch.tensor([[0.5] * len(weights), [0.25] * len(weights)])
    latents = Latents(torch.tensor([*weights]), torch.tensor([*weights.values()]), rates)
    push = latents.decoded(sae)
    vector = of_kind("clamp", tiny_vector(shape, {sae.hook_point: (0.5 * push / push.norm()).float()}))
    about = (
        SAEMetadata.of(sae) if sha256 is None else SAEMetadata.of(sae).model_copy(update={"sha256": sha256})
    )
    points = {str(sae.hook_point): PointMetadata.without_texts(10.0, about)}
    metadata = vector.metadata.model_copy(update={"points": points})
    return replace(vector, metadata=metadata, latents={sae.hook_point: latents})


def test_a_sum_of_vectors_that_clamp_latents_clamps_those_of_all(tiny_sae_folder: Path) -> None:
    one, two = clamping(tiny_sae_folder, {3: 1.0, 5: 2.0}), clamping(tiny_sae_folder, {5: -1.0, 9: 4.0})
    sae = load_sae(str(tiny_sae_folder), model_id="tiny")
    point = sae.hook_point
    result = add_up(("a.st", one, 1.0), ("b.st", two, -0.5))
    found = result.latents[point]
    assert sorted(found.ids.tolist()) == [3, 5, 9]
    assert found.weights.abs().tolist() == sorted(found.weights.abs().tolist(), reverse=True)
    torch.testing.assert_close(found.decoded(sae).float(), result.pushes[point])
    levels = torch.zeros(sae.d_sae)
    for vector, weight in ((one, 1.0), (two, -0.5)):
        latents = vector.latents[point]
        levels[latents.ids] += weight * latents.scaled_to(vector.pushes[point], sae)
    torch.testing.assert_close(found.scaled_to(result.pushes[point], sae), levels[found.ids])
    assert result.metadata.points[str(point)].sae == SAEMetadata.of(sae)


def test_latents_of_two_saes_or_of_none_are_not_clamped_as_one(tiny_sae_folder: Path) -> None:
    one = clamping(tiny_sae_folder, {3: 1.0})
    for other in (clamping(tiny_sae_folder, {3: 1.0}, sha256="other"), replace(one, latents={})):
        with pytest.raises(
            IncompatibleVectorError, match="^a.st and b.st do not clamp latents of one SAE at"
        ):
            add_up(("a.st", one, 1.0), ("b.st", other, 1.0))


# --- cosine ---------------------------------------------------------------------------


def test_cosine_is_over_all_hook_points_together() -> None:
    one = make({1: [3.0, 0.0, 0.0, 0.0], 2: [0.0, 4.0, 0.0, 0.0]})
    two = make({1: [1.0, 0.0, 0.0, 0.0], 3: [0.0, 1.0, 0.0, 0.0]})
    assert cosine(one, two) == pytest.approx(3 / (5 * 2**0.5))
    assert cosine(one, one) == pytest.approx(1.0)
    assert cosine(one, make({2: [0.0, -1.0, 0.0, 0.0]})) == pytest.approx(-0.8)


def test_vectors_without_a_common_hook_point_have_no_cosine() -> None:
    assert cosine(make({1: [1.0, 0.0, 0.0, 0.0]}), make({2: [1.0, 0.0, 0.0, 0.0]})) is None


def test_cosine_of_what_is_added_to_logits_is_over_all_tokens() -> None:
    one, two = urging((1, 3.0), (2, 4.0)), urging((9, 5.0), (2, -5.0))
    assert bias_cosine(one, two) == pytest.approx(-20 / (5 * 50**0.5))
    assert bias_cosine(one, make({1: [1.0, 0.0, 0.0, 0.0]})) is None
