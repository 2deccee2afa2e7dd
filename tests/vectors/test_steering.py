"""What vectors at their alphas come to, by their kinds."""

from dataclasses import replace

import pytest
import torch
from support.tiny import tiny_vector

from neurosteer_cli.errors import InputError
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.models.shape import ModelShape
from neurosteer_cli.vectors.kinds import TokenBias
from neurosteer_cli.vectors.metadata import Kind
from neurosteer_cli.vectors.steering import Steering
from neurosteer_cli.vectors.vector import SteeringVector

SHAPE = ModelShape(architecture="TinyForCausalLM", d_model=4, n_layers=6, d_vocab=300)
ONE, TWO = HookPoint(1), HookPoint(2)
RESID = torch.tensor([[[3.0, 4.0, 0.0, 1.0]]])


def vector(
    kind: Kind = "add", *push: float, point: HookPoint = ONE, middle: float | None = None
) -> SteeringVector:
    made = tiny_vector(SHAPE, {point: torch.tensor(push or (0.3, 0.4, 0.0, 0.0))})
    points = {str(point): made.metadata.points[str(point)].model_copy(update={"middle": middle})}
    return replace(made, metadata=made.metadata.model_copy(update={"kind": kind, "points": points}))


def after(steering: Steering, point: HookPoint = ONE) -> list[float]:
    found: list[float] = (RESID + steering.changes()[point](RESID))[0, 0].tolist()
    return found


def test_pushes_add_up() -> None:
    found = Steering.of([vector(), vector("add", 1.0, 0.0, 0.0, 0.0)], [10.0, -1.0])
    assert after(found) == pytest.approx([5.0, 8.0, 0.0, 1.0])
    assert found.points == [ONE]


def test_edits_come_after_the_pushes_in_the_order_of_the_vectors() -> None:
    ablated, clamped = vector("ablate"), vector("clamp", 0.0, 0.0, 0.0, 2.0, middle=0.5)
    found = Steering.of([ablated, vector("add", 0.0, 0.0, 1.0, 0.0), clamped], [1.0, 3.0, 2.0])
    assert after(found) == pytest.approx([0.0, 0.0, 3.0, 4.5], abs=1e-6)


def test_the_level_of_a_clamp_counts_from_the_middle_of_the_two_sides() -> None:
    assert after(Steering.of([vector("clamp", 0.0, 0.0, 0.0, 2.0, middle=0.5)], [-3.0]))[3] == pytest.approx(
        -5.5
    )


def test_nothing_is_clamped_where_no_sides_are_known() -> None:
    with pytest.raises(
        InputError, match=r"nothing is known of sides at blocks.1.hook_resid_post: fit the vector"
    ):
        Steering.of([vector("clamp")], [1.0])


def test_alpha_0_does_nothing_whatever_the_kind() -> None:
    found = Steering.of([vector("ablate"), vector("clamp"), vector()], [0.0, 0.0, 0.0])
    assert (found.points, found.bias) == ([], None)


def test_a_vector_may_push_and_urge_tokens_both() -> None:
    both = replace(vector(), bias=TokenBias(torch.tensor([7]), torch.tensor([0.25])))
    found = Steering.of([both, vector("add", 1.0, 0.0, 0.0, 0.0, point=TWO)], [4.0, 1.0])
    assert found.points == [ONE, TWO]
    assert found.bias is not None and found.bias.dense(9)[7] == 1.0


def test_a_vector_can_act_in_another_way_and_loses_what_it_urges() -> None:
    both = replace(vector(), bias=TokenBias(torch.tensor([7]), torch.tensor([0.25])))
    ablating = both.acting("ablate")
    assert (ablating.metadata.kind, ablating.bias) == ("ablate", None)
    assert both.acting("add") is both


def test_a_vector_without_a_bias_cannot_act_on_logits() -> None:
    with pytest.raises(
        InputError, match="of the kind add cannot act as logits: `fit --method logodds` makes"
    ):
        vector().acting("logits")
