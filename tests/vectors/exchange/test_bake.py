"""A checkpoint with a vector baked in gives the steered logits at every token, in plain transformers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from support.baking import (
    FAMILIES,
    HEADS,
    IDS,
    PUSHES,
    URGED,
    WRITING,
    ablating,
    baked,
    baked_in,
    of_kind,
    plain_logits,
    pushing,
    save,
    steered_logits,
    urging,
)
from support.tiny import CONFIGS, D_MODEL, N_LAYERS, SIZES
from torch import Tensor

from neurosteer_cli.errors import IncompatibleVectorError, InputError, ModelError
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import RESID_PRE, HookPoint, add
from neurosteer_cli.models.load import read_config
from neurosteer_cli.vectors.exchange.bake import leaves_out
from neurosteer_cli.vectors.exchange.families import FAMILIES as KNOWN
from neurosteer_cli.vectors.exchange.families import (
    HEADS_WITH_BIAS,
    NO_ABLATIONS,
    TAKE_NO_PUSHES,
    TAKE_PUSHES,
    push_taker,
    writers,
)
from neurosteer_cli.vectors.vector import SteeringVector

# --- pushes, as biases -------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_the_folder_gives_the_steered_logits_at_every_token(tmp_path: Path, family: str) -> None:
    source = save(tmp_path / "model", FAMILIES[family](), shard="9KB")
    expected = steered_logits(source, PUSHES)
    assert (expected - plain_logits(source)).abs().amax(-1).min() > 0.1  # it matters at each token
    found = plain_logits(baked(source, tmp_path / "baked"))
    assert (found - expected).abs().max() < 2e-6


def test_every_family_with_a_place_is_held_to_that() -> None:
    assert {make().model_type for make in FAMILIES.values()} == set(TAKE_PUSHES)


def test_the_check_above_can_fail(tmp_path: Path) -> None:
    source = save(tmp_path / "model", FAMILIES["llama"]())
    one_block_off = {block - 1: push for block, push in PUSHES.items() if block}
    found = plain_logits(baked(source, tmp_path / "baked", one_block_off))
    assert (found - steered_logits(source, PUSHES)).abs().max() > 0.1


def test_generation_goes_on_as_the_steered_engine_does(tmp_path: Path) -> None:
    source = save(tmp_path / "model", FAMILIES["gpt2"]())
    model = transformers.AutoModelForCausalLM.from_pretrained(baked(source, tmp_path / "baked"))
    engine = Engine.load(str(source), dtype="float32", device="cpu")
    options = {"max_new_tokens": 20, "do_sample": False, "attention_mask": torch.ones_like(IDS)}
    with add(engine.blocks, {HookPoint(b): push for b, push in PUSHES.items()}):
        expected = engine.model.generate(IDS, **options)
    assert torch.equal(model.generate(IDS, **options), expected)


def test_llama_gets_biases_of_zero_but_for_the_push_and_its_configuration_says_so(tmp_path: Path) -> None:
    source = save(tmp_path / "model", FAMILIES["llama"]())
    target = baked(source, tmp_path / "baked", {2: PUSHES[2]})
    before, after = load_file(source / "model.safetensors"), load_file(target / "model.safetensors")
    fresh = {name: after.pop(name) for name in set(after) - set(before)}
    assert set(fresh) == {
        f"model.layers.{block}.mlp.{name}_proj.bias"
        for block in range(N_LAYERS) for name in ("gate", "up", "down")
    }  # fmt: skip
    assert torch.equal(fresh.pop("model.layers.2.mlp.down_proj.bias"), PUSHES[2])
    assert not any(bias.any() for bias in fresh.values())
    assert all(torch.equal(after[name], before[name]) for name in before)
    old, new = (json.loads((folder / "config.json").read_text()) for folder in (source, target))
    older = {"torch_dtype": "float32", "rope_theta": old["rope_parameters"]["rope_theta"]}
    assert new == {**old, "mlp_bias": True, **older}


def test_bfloat16_weights_stay_bfloat16(tmp_path: Path) -> None:
    source = save(tmp_path / "model", FAMILIES["llama"](), dtype=torch.bfloat16)
    after = load_file(baked(source, tmp_path / "baked") / "model.safetensors")
    assert {tensor.dtype for tensor in after.values()} == {torch.bfloat16}
    assert torch.equal(after["model.layers.2.mlp.down_proj.bias"], PUSHES[2].bfloat16())


# --- ablations, as weights that write nothing along the directions -------------------------------

WRITERS = {name: make for name, make in {**FAMILIES, **WRITING}.items() if name != "bloom"}


def span(vector: SteeringVector) -> Tensor:
    """Orthonormal rows [n, d_model]."""
    rows: Tensor = torch.linalg.qr(torch.stack([*vector.pushes.values()]).T.double()).Q.T.float()
    return rows


def ablated_logits(folder: Path, vector: SteeringVector, share: float) -> Tensor:
    """What transformers gives where what each layer writes to the residual stream is ablated as it runs."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    family, rows = KNOWN[model.config.model_type], span(vector)

    def less(_module: Any, _args: Any, written: Tensor) -> Tensor:
        return written - share * (written @ rows.T) @ rows

    names = {name.rpartition(".")[2]: module for name, module in model.named_modules() if module is not model}
    embeddings = [module for name, module in names.items() if name in family.embeddings]
    in_blocks = [
        module
        for name, module in model.named_modules()
        if name.endswith((f".{family.attention}", f".{family.mlp}"))
    ]
    assert (len(embeddings), len(in_blocks)) == (len(family.embeddings), 2 * N_LAYERS)
    for module in (*embeddings, *in_blocks):
        module.register_forward_hook(less)
    with torch.inference_mode():
        logits: Tensor = model(input_ids=IDS).logits
    return logits


@pytest.mark.parametrize("family", WRITERS)
def test_the_weights_give_what_an_ablation_of_all_that_is_written_gives(tmp_path: Path, family: str) -> None:
    source = save(tmp_path / "model", WRITERS[family](), shard="9KB")
    vector = ablating(source)
    expected = ablated_logits(source, vector, 1.0)
    assert (expected - plain_logits(source)).abs().amax(-1).min() > 0.01  # it matters at each token
    target = baked_in(vector, source, tmp_path / "baked")
    assert (plain_logits(target) - expected).abs().max() < 1e-5 * max(1, float(expected.abs().max()))
    engine = Engine.load(str(target), dtype="float32", device="cpu")
    points = [HookPoint(0, RESID_PRE), *(HookPoint(block) for block in range(N_LAYERS))]
    for point, resid in engine.read(IDS, points).items():
        assert float((resid @ span(vector).T).abs().max()) < 1e-5 * float(resid.norm(dim=-1).max()), point


def test_every_family_whose_writers_are_known_is_held_to_that() -> None:
    assert {make().model_type for make in WRITERS.values()} == set(KNOWN) - set(NO_ABLATIONS)


@pytest.mark.parametrize("share", [0.5, -1.0])
def test_a_share_of_the_component_is_taken_from_all_that_is_written(tmp_path: Path, share: float) -> None:
    source = save(tmp_path / "model", FAMILIES["gpt2"]())
    vector = ablating(source, points=1)
    found = plain_logits(baked_in(vector, source, tmp_path / "baked", share))
    assert (found - ablated_logits(source, vector, share)).abs().max() < 1e-5


def test_directions_that_are_one_are_taken_away_once(tmp_path: Path) -> None:
    source = save(tmp_path / "model", FAMILIES["llama"]())
    one = ablating(source, points=1)
    (push,) = one.pushes.values()
    twice = of_kind("ablate", pushing(source, {1: push, 2: 3 * push}))
    found = plain_logits(baked_in(twice, source, tmp_path / "baked", 0.5))
    assert (found - ablated_logits(source, one, 0.5)).abs().max() < 1e-5


def test_a_tied_head_becomes_one_of_its_own_and_reads_as_before(tmp_path: Path) -> None:
    source = save(tmp_path / "model", FAMILIES["qwen2"](), shard="9KB")
    target = baked_in(ablating(source), source, tmp_path / "baked")
    index = json.loads((target / "model.safetensors.index.json").read_text())
    head = load_file(target / index["weight_map"]["lm_head.weight"])["lm_head.weight"]
    old = json.loads((source / "model.safetensors.index.json").read_text())
    name = "model.embed_tokens.weight"
    assert torch.equal(head, load_file(source / old["weight_map"][name])[name])
    assert json.loads((target / "config.json").read_text())["tie_word_embeddings"] is False
    sizes = {key: index["metadata"][key] - old["metadata"][key] for key in ("total_size", "total_parameters")}
    assert sizes == {"total_size": head.nbytes, "total_parameters": head.numel()}


def test_a_head_that_is_in_the_weights_stays_what_it_is(tmp_path: Path) -> None:
    # though the configuration says that it is tied: transformers takes it then for one of its own
    source = save(tmp_path / "model", FAMILIES["qwen2"]())
    tensors = load_file(source / "model.safetensors")
    draw = torch.Generator().manual_seed(0)
    tensors["lm_head.weight"] = torch.randn(300, D_MODEL, generator=draw)
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    vector = ablating(source)
    found = plain_logits(baked_in(vector, source, tmp_path / "baked"))
    torch.testing.assert_close(found, ablated_logits(source, vector, 1.0), atol=2e-5, rtol=1e-5)


def test_weights_without_the_prefix_of_their_class_are_known_as_well(tmp_path: Path) -> None:
    source = save(tmp_path / "model", FAMILIES["gpt2"]())
    vector = ablating(source)
    expected = ablated_logits(source, vector, 1.0)
    bare = {
        name.removeprefix("transformer."): tensor
        for name, tensor in load_file(source / "model.safetensors").items()
    }
    save_file(bare, source / "model.safetensors", metadata={"format": "pt"})
    assert (plain_logits(baked_in(vector, source, tmp_path / "baked")) - expected).abs().max() < 2e-5


def test_what_does_not_write_to_the_residual_stream_stays_byte_for_byte(tmp_path: Path) -> None:
    source = save(tmp_path / "model", FAMILIES["llama with biases"]())
    target = baked_in(ablating(source), source, tmp_path / "baked")
    before, after = load_file(source / "model.safetensors"), load_file(target / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    layers = {
        f"model.layers.{block}.{module}.{kind}"
        for block in range(N_LAYERS)
        for module in ("self_attn.o_proj", "mlp.down_proj")
        for kind in ("weight", "bias")
    }
    assert changed == {"model.embed_tokens.weight", *layers}
    assert json.loads((target / "config.json").read_text())["tie_word_embeddings"] is False


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (CONFIGS["gemma2"], r"\(gemma2\) .*: it norms what its layers give before adding it, and no"),
        (FAMILIES["bloom"], r"\(bloom\) cannot have a component taken out of its weights: it norms its"),
        (lambda: transformers.OPTConfig(do_layer_norm_before=False), r"\(opt\) .*: it norms the residual"),
        (lambda: transformers.MixtralConfig(), r"\(mixtral\) .*: known are llama, mistral, qwen2, qwen3, "),
        (
            lambda: transformers.LlamaConfig(quantization_config={"quant_method": "gptq"}),
            r"\(llama\) cannot .*: its weights are quantised",
        ),
    ],
)  # fmt: skip
def test_a_model_whose_writers_are_not_the_residual_s_is_refused_by_name(
    config: Callable[[], Any], reason: str
) -> None:
    with pytest.raises(IncompatibleVectorError, match=f"^model 'some' {reason}") as caught:
        writers(config(), "some")
    assert str(caught.value).endswith("`neurosteer gen` takes it away while the model writes")


def test_a_writer_that_the_weights_lack_is_named(tmp_path: Path) -> None:
    source = save(tmp_path / "model", FAMILIES["llama"]())
    tensors = load_file(source / "model.safetensors")
    tensors["model.layers.3.self_attn.o.weight"] = tensors.pop("model.layers.3.self_attn.o_proj.weight")
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ModelError, match=r"its weights have no layers\.3\.self_attn\.o_proj\.weight to take the"
    ):
        baked_in(ablating(source), source, tmp_path / "baked")


# --- what is added to logits, as a bias of the head ----------------------------------------------


@pytest.mark.parametrize("family", HEADS)
def test_the_head_adds_to_logits_what_the_vector_does(tmp_path: Path, family: str) -> None:
    source = save(tmp_path / "model", HEADS[family]())
    found = plain_logits(baked_in(urging(source), source, tmp_path / "baked", -2.0))
    torch.testing.assert_close(
        found - plain_logits(source), (URGED * -2.0).dense(300).expand_as(found), atol=1e-5, rtol=0
    )


def test_every_family_whose_head_has_a_bias_is_held_to_that() -> None:
    assert {make().model_type for make in HEADS.values()} == set(HEADS_WITH_BIAS)


def test_a_vector_that_pushes_and_adds_to_logits_is_baked_whole_where_both_have_a_place(
    tmp_path: Path,
) -> None:
    source = save(tmp_path / "model", FAMILIES["phi"]())
    vector = urging(source, PUSHES)
    found = plain_logits(baked_in(vector, source, tmp_path / "baked"))
    expected = steered_logits(source, PUSHES) + URGED.dense(300)
    assert (found - expected).abs().max() < 1e-5
    assert not leaves_out(vector, read_config(source))


def test_where_the_head_has_no_bias_the_push_is_baked_alone(tmp_path: Path) -> None:
    source = save(tmp_path / "model", FAMILIES["llama"]())
    vector = urging(source, PUSHES)
    found = plain_logits(baked_in(vector, source, tmp_path / "baked"))
    assert (found - steered_logits(source, PUSHES)).abs().max() < 2e-6
    assert leaves_out(vector, read_config(source))


def test_a_head_without_a_bias_is_refused_by_name(tmp_path: Path) -> None:
    source = save(tmp_path / "model", FAMILIES["llama"]())
    with pytest.raises(IncompatibleVectorError) as caught:
        baked_in(urging(source), source, tmp_path / "baked")
    assert str(caught.value) == (
        "model 'tiny' (llama) cannot add to logits by itself: its head has no bias, as those of gptj, "
        "codegen, phi, phimoe have. --to logit_bias writes what servers add to them"
    )
    assert not (tmp_path / "baked").exists()


# --- refusals ----------------------------------------------------------------------------------


def test_what_clamps_is_refused_by_name(tmp_path: Path) -> None:
    source = save(tmp_path / "model", FAMILIES["llama"]())
    with pytest.raises(
        IncompatibleVectorError, match="^a vector of the kind clamp cannot be baked into a model"
    ):
        baked_in(of_kind("clamp", pushing(source, PUSHES)), source, tmp_path / "baked")


@pytest.mark.parametrize("alpha", [0.0, float("nan"), float("inf")])
def test_an_alpha_that_bakes_nothing_is_refused(tmp_path: Path, alpha: float) -> None:
    source = save(tmp_path / "model", FAMILIES["llama"]())
    with pytest.raises(InputError, match="^alpha must be a finite number other than 0, got"):
        baked_in(ablating(source), source, tmp_path / "baked", alpha)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (CONFIGS["gemma2"], r"\(gemma2\) has no place for a push: it norms what the MLP gives before adding"),
        (CONFIGS["qwen3"], r"\(qwen3\) has no place for a push: its MLP has no bias"),
        (CONFIGS["mistral"], r"\(mistral\) has no place for a push: its attention slides over a window"),
        (
            lambda: transformers.Qwen2Config(**SIZES, use_sliding_window=True, max_window_layers=2),
            r"\(qwen2\) has no place for a push: its attention slides over a window",
        ),
        (
            lambda: transformers.OPTConfig(do_layer_norm_before=False),
            r"\(opt\) has no place for a push: it norms the residual after the MLP",
        ),
        (
            lambda: transformers.MambaConfig(),
            r"\(mamba\) has no place for a push: known are llama, mistral, qwen2, gpt2, ",
        ),
        (
            lambda: transformers.LlamaConfig(quantization_config={"quant_method": "gptq"}),
            r"\(llama\) has no place for a push: its weights are quantised",
        ),
    ],
)  # fmt: skip
def test_a_model_without_a_place_is_refused_by_name(config: Callable[[], Any], reason: str) -> None:
    with pytest.raises(IncompatibleVectorError, match=f"^model 'some' {reason}") as caught:
        push_taker(config(), "some")
    assert str(caught.value).endswith("`neurosteer gen` steers it, and so does llama.cpp (--to gguf)")


def test_no_family_is_both_known_and_refused() -> None:
    assert not set(TAKE_PUSHES) & set(TAKE_NO_PUSHES)


def test_a_push_before_block_0_is_refused(tmp_path: Path) -> None:
    source = save(tmp_path / "model", FAMILIES["gpt2"]())
    with pytest.raises(
        IncompatibleVectorError, match="^a push on what enters block 0 of model 'tiny' has no"
    ):
        baked(source, tmp_path / "baked", {-1: PUSHES[2]})


def test_a_bias_that_the_weights_lack_is_named(tmp_path: Path) -> None:
    source = save(tmp_path / "model", transformers.Starcoder2Config(**SIZES, use_bias=False))
    with pytest.raises(ModelError, match=r"model: its weights have no layers\.0\.mlp\.c_proj\.bias to take"):
        baked(source, tmp_path / "baked")
    assert not (tmp_path / "baked").exists()


def test_a_push_too_large_for_the_number_type_is_refused(tmp_path: Path) -> None:
    source = save(tmp_path / "model", FAMILIES["gpt2"](), dtype=torch.float16)
    with pytest.raises(
        IncompatibleVectorError, match=r"c_proj\.bias: what is baked in is too large for torch\.float16"
    ):
        baked(source, tmp_path / "baked", {2: PUSHES[2] * 1e6})
