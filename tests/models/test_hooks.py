"""The residual stream is read and edited where a hook point says, and nowhere else."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from support.tiny import D_MODEL, D_VOCAB, FAMILIES, N_LAYERS, tiny_model
from torch import Tensor, nn

from neurosteer_cli.errors import InputError
from neurosteer_cli.models.hooks import RESID_POST, RESID_PRE, HookPoint, add, capture

LISTS = {
    "llama": "model.layers",
    "mistral": "model.layers",
    "qwen3": "model.layers",
    "gemma2": "model.layers",
    "gpt2": "transformer.h",
    "gpt_neox": "gpt_neox.layers",
}
FINAL_NORMS = {"gpt2": "transformer.ln_f", "gpt_neox": "gpt_neox.final_layer_norm"}
LAST = HookPoint(N_LAYERS - 1, RESID_POST)
ALL_POINTS = [HookPoint(layer, kind) for layer in range(N_LAYERS) for kind in (RESID_PRE, RESID_POST)]


class Family:
    """A tiny model, its blocks found by name, and two rows of token ids."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.model = tiny_model(name)
        self.blocks: nn.ModuleList = self.model.get_submodule(LISTS[name])
        self.norm = self.model.get_submodule(FINAL_NORMS.get(name, "model.norm"))
        generator = torch.Generator().manual_seed(1)
        self.ids = torch.randint(D_VOCAB, (2, 7), generator=generator)
        self.push = 3 * torch.randn(D_MODEL, generator=generator)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    return Family(request.param)


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


class Passed:
    """What one forward pass sent into and out of each block, and the logits."""

    def __init__(self, family: Family) -> None:
        self.into: dict[int, Tensor] = {}
        self.out: dict[int, Tensor] = {}
        with ExitStack() as handles:
            for layer, block in enumerate(family.blocks):
                handles.enter_context(self._recording(layer, block))
            self.logits: Tensor = family.model(input_ids=family.ids, use_cache=False).logits

    @contextmanager
    def _recording(self, layer: int, block: nn.Module) -> Iterator[None]:
        def before(_block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.into[layer] = (args[0] if args else kwargs["hidden_states"]).clone()

        def after(_block: nn.Module, _args: Any, output: Any) -> None:
            self.out[layer] = (output[0] if isinstance(output, tuple) else output).clone()

        handles = [
            block.register_forward_pre_hook(before, with_kwargs=True),
            block.register_forward_hook(after),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def captured(family: Family, *points: HookPoint) -> dict[HookPoint, Tensor]:
    with capture(family.blocks, points) as seen:
        family.model(input_ids=family.ids, use_cache=False)
    return seen


def n_hooks(blocks: nn.ModuleList) -> int:
    """Hooks on the blocks; transformers leaves some of its own on them."""
    return sum(len(block._forward_hooks) + len(block._forward_pre_hooks) for block in blocks)


# --- hook points -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "point"),
    [
        ("blocks.0.hook_resid_pre", HookPoint(0, RESID_PRE)),
        ("blocks.20.hook_resid_post", HookPoint(20, RESID_POST)),
    ],
)
def test_a_hook_point_is_read_from_its_name_and_written_back(name: str, point: HookPoint) -> None:
    assert HookPoint.parse(name) == point
    assert str(point) == name


def test_a_hook_point_is_after_its_block_unless_said_otherwise() -> None:
    assert HookPoint(3) == HookPoint(3, "hook_resid_post")


def test_hook_points_sort_by_layer_as_numbers() -> None:
    assert sorted([HookPoint(10), HookPoint(9)]) == [HookPoint(9), HookPoint(10)]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "20",
        "blocks.-1.hook_resid_post",
        "blocks.x.hook_resid_post",
        "blocks.2.hook_resid_mid",
        "blocks.2.attn.hook_z",
        "blocks.2.hook_resid_post ",
        "model.blocks.2.hook_resid_post",
    ],
)
def test_another_name_is_no_residual_hook_point(name: str) -> None:
    expected = (
        f"^'{name}' is not a residual hook point; use blocks.L.hook_resid_post or blocks.L.hook_resid_pre$"
    )
    with pytest.raises(InputError, match=expected):
        HookPoint.parse(name)


def test_a_layer_beyond_the_model_is_refused_with_the_layers_it_has() -> None:
    HookPoint(3).check(4)
    expected = r"^blocks\.4\.hook_resid_post: the model has 4 blocks, 0 to 3$"
    with pytest.raises(InputError, match=expected):
        HookPoint(4).check(4)


# --- adding ------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", range(N_LAYERS))
def test_a_push_after_a_block_changes_its_output_alone_by_exactly_the_push(
    family: Family, layer: int
) -> None:
    clean = Passed(family)
    with add(family.blocks, {HookPoint(layer, RESID_POST): family.push}):
        steered = Passed(family)
    assert torch.equal(steered.out[layer], clean.out[layer] + family.push)
    for earlier in range(layer):
        assert torch.equal(steered.out[earlier], clean.out[earlier])
    for up_to in range(layer + 1):
        assert torch.equal(steered.into[up_to], clean.into[up_to])
    assert not torch.equal(steered.logits, clean.logits)


@pytest.mark.parametrize("layer", range(N_LAYERS))
def test_a_push_before_a_block_changes_its_input_alone_by_exactly_the_push(
    family: Family, layer: int
) -> None:
    clean = Passed(family)
    with add(family.blocks, {HookPoint(layer, RESID_PRE): family.push}):
        steered = Passed(family)
    assert torch.equal(steered.into[layer], clean.into[layer] + family.push)
    for earlier in range(layer):
        assert torch.equal(steered.out[earlier], clean.out[earlier])
        assert torch.equal(steered.into[earlier], clean.into[earlier])
    assert not torch.equal(steered.out[layer], clean.out[layer])
    assert not torch.equal(steered.logits, clean.logits)


def test_a_push_after_a_block_and_one_before_the_next_are_the_same(family: Family) -> None:
    with add(family.blocks, {HookPoint(1, RESID_POST): family.push}):
        after = Passed(family)
    with add(family.blocks, {HookPoint(2, RESID_PRE): family.push}):
        before = Passed(family)
    assert torch.equal(after.logits, before.logits)


def test_a_push_after_the_last_block_reaches_the_final_norm(family: Family) -> None:
    clean = Passed(family)
    into_norm: list[Tensor] = []
    handle = family.norm.register_forward_pre_hook(lambda _norm, args: into_norm.append(args[0]))
    with add(family.blocks, {HookPoint(N_LAYERS - 1): family.push}):
        Passed(family)
    handle.remove()
    assert torch.equal(into_norm[0], clean.out[N_LAYERS - 1] + family.push)


@pytest.mark.parametrize("shape", [(D_MODEL,), (2, 1, D_MODEL), (2, 7, D_MODEL)])
def test_a_push_may_be_the_same_everywhere_or_differ_by_row_and_position(
    family: Family, shape: tuple[int, ...]
) -> None:
    push = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    clean = Passed(family)
    with add(family.blocks, {HookPoint(1): push}):
        steered = Passed(family)
    assert torch.equal(steered.out[1], clean.out[1] + push.expand(2, 7, D_MODEL))


def test_pushes_at_several_points_are_all_added(family: Family) -> None:
    pushes = {HookPoint(0, RESID_PRE): family.push, HookPoint(3): -2 * family.push}
    clean = Passed(family)
    with add(family.blocks, pushes):
        steered = Passed(family)
    assert torch.equal(steered.into[0], clean.into[0] + family.push)
    with add(family.blocks, {HookPoint(0, RESID_PRE): family.push}):
        first_alone = Passed(family)
    assert torch.equal(steered.out[3], first_alone.out[3] - 2 * family.push)


def test_no_pushes_leave_the_model_bit_for_bit_alone_and_set_no_hook(family: Family) -> None:
    clean = Passed(family)
    before = n_hooks(family.blocks)
    with add(family.blocks, {}):
        assert n_hooks(family.blocks) == before
        assert torch.equal(Passed(family).logits, clean.logits)


@pytest.mark.parametrize("point", [HookPoint(2, RESID_PRE), HookPoint(2, RESID_POST)])
def test_the_hook_is_gone_afterwards(family: Family, point: HookPoint) -> None:
    clean, before = Passed(family), n_hooks(family.blocks)
    with add(family.blocks, {point: family.push}):
        assert n_hooks(family.blocks) == before + 1
    assert n_hooks(family.blocks) == before
    assert torch.equal(Passed(family).logits, clean.logits)


@pytest.mark.parametrize("point", [HookPoint(2, RESID_PRE), HookPoint(2, RESID_POST)])
def test_the_hook_is_gone_when_the_body_raises(family: Family, point: HookPoint) -> None:
    clean, before = Passed(family), n_hooks(family.blocks)
    with pytest.raises(KeyError), add(family.blocks, {point: family.push}):
        raise KeyError
    assert n_hooks(family.blocks) == before
    assert torch.equal(Passed(family).logits, clean.logits)


def test_no_hook_stays_when_another_point_does_not_exist() -> None:
    blocks = nn.ModuleList([nn.Identity()])
    pushes = {HookPoint(0): torch.ones(2), HookPoint(9): torch.ones(2)}
    with pytest.raises(IndexError), add(blocks, pushes):
        pass
    assert n_hooks(blocks) == 0


def test_a_push_takes_the_number_type_of_the_residual() -> None:
    blocks = nn.ModuleList([nn.Identity()])
    resid = torch.randn(1, 2, 4).bfloat16()
    push = torch.randn(4)
    with add(blocks, {HookPoint(0): push}):
        out = blocks[0](resid)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, resid + push.bfloat16())


# --- blocks of transformers 4 and 5 ------------------------------------------------------------


class Doubling(nn.Module):
    """A block that doubles its residual and returns it as a tensor."""

    def forward(self, hidden_states: Tensor, scale: float = 2.0) -> Tensor:
        return scale * hidden_states


class TupleDoubling(nn.Module):
    """The same, as transformers 4 has it: a tuple with more in it than the residual."""

    def forward(self, hidden_states: Tensor, scale: float = 2.0) -> tuple[Tensor, str]:
        return scale * hidden_states, "attention"


@pytest.mark.parametrize("keyword", [False, True], ids=["positional", "keyword"])
@pytest.mark.parametrize("block", [Doubling(), TupleDoubling()], ids=["tensor", "tuple"])
def test_tensor_and_tuple_blocks_are_steered_alike(block: nn.Module, keyword: bool) -> None:
    resid, push = torch.randn(2, 3, 4), torch.randn(4)
    for point, expected in (
        (HookPoint(0, RESID_POST), 3.0 * resid + push),
        (HookPoint(0, RESID_PRE), 3.0 * (resid + push)),
    ):
        with add(nn.ModuleList([block]), {point: push}):
            out = block(hidden_states=resid, scale=3.0) if keyword else block(resid, 3.0)
        if isinstance(block, TupleDoubling):
            assert out[1:] == ("attention",)
            out = out[0]
        assert torch.equal(out, expected)


@pytest.mark.parametrize("keyword", [False, True], ids=["positional", "keyword"])
@pytest.mark.parametrize("block", [Doubling(), TupleDoubling()], ids=["tensor", "tuple"])
def test_tensor_and_tuple_blocks_are_read_alike(block: nn.Module, keyword: bool) -> None:
    resid = torch.randn(2, 3, 4)
    points = [HookPoint(0, RESID_PRE), HookPoint(0, RESID_POST)]
    with capture(nn.ModuleList([block]), points) as seen:
        block(hidden_states=resid) if keyword else block(resid)
    assert torch.equal(seen[points[0]], resid)
    assert torch.equal(seen[points[1]], 2.0 * resid)


# --- capturing ---------------------------------------------------------------------------------


def test_captured_residuals_are_the_hidden_states_of_transformers(family: Family) -> None:
    states = family.model(input_ids=family.ids, use_cache=False, output_hidden_states=True).hidden_states
    for point in ALL_POINTS:
        resid = captured(family, point)[point]
        if point == LAST:  # transformers gives it after the final norm
            assert torch.equal(family.norm(resid), states[N_LAYERS])
            assert not torch.allclose(resid, states[N_LAYERS])
        else:
            assert torch.equal(resid, states[point.layer + (point.kind == RESID_POST)])


def test_all_points_can_be_captured_in_one_pass(family: Family) -> None:
    seen = captured(family, *ALL_POINTS)
    assert set(seen) == set(ALL_POINTS)
    for point in ALL_POINTS:
        assert torch.equal(seen[point], captured(family, point)[point])


def test_the_order_in_which_points_are_named_does_not_matter(family: Family) -> None:
    seen = captured(family, HookPoint(2), HookPoint(0, RESID_PRE))
    assert torch.equal(seen[HookPoint(0, RESID_PRE)], Passed(family).into[0])
    assert torch.equal(seen[HookPoint(2)], Passed(family).out[2])


@pytest.mark.parametrize(
    ("points", "called"),
    [
        ([HookPoint(1, RESID_POST)], [0, 1]),
        ([HookPoint(2, RESID_PRE)], [0, 1]),
        ([HookPoint(0, RESID_PRE)], []),
        ([HookPoint(0), HookPoint(2)], [0, 1, 2]),
    ],
)
def test_the_pass_ends_at_the_last_point(family: Family, points: list[HookPoint], called: list[int]) -> None:
    finished: list[int] = []
    handles = [
        block.register_forward_hook(lambda *_args, layer=layer: finished.append(layer))
        for layer, block in enumerate(family.blocks)
    ]
    captured(family, *points)
    for handle in handles:
        handle.remove()
    assert finished == called


def test_what_follows_the_call_of_the_model_is_skipped(family: Family) -> None:
    after = "skipped"
    with capture(family.blocks, [HookPoint(0)]):
        family.model(input_ids=family.ids, use_cache=False)
        after = "run"
    assert after == "skipped"


def test_capturing_leaves_no_hook_behind(family: Family) -> None:
    before = n_hooks(family.blocks)
    captured(family, *ALL_POINTS)
    assert n_hooks(family.blocks) == before
    with pytest.raises(KeyError), capture(family.blocks, ALL_POINTS):
        raise KeyError
    assert n_hooks(family.blocks) == before


def test_what_is_captured_under_a_push_includes_it(family: Family) -> None:
    clean = Passed(family)
    with add(family.blocks, {HookPoint(1): family.push}):
        steered = captured(family, HookPoint(1))[HookPoint(1)]
    assert torch.equal(steered, clean.out[1] + family.push)


def test_what_enters_a_block_is_the_output_of_the_block_before_it() -> None:
    names = ("3.hook_resid_post", "3.hook_resid_pre", "0.hook_resid_post", "0.hook_resid_pre")
    assert [HookPoint.parse(f"blocks.{name}").after_block for name in names] == [3, 2, 0, -1]
