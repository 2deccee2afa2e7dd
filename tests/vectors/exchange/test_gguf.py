"""A control-vector file says what a vector adds to which block, to llama.cpp and back again."""

import os
import re
import threading
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from support.baking import of_kind
from support.tiny import D_MODEL, save_tiny_sae, tiny_vector

from neurosteer_cli.errors import IncompatibleVectorError, InputError, NeurosteerError, VectorFileError
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.models.shape import ModelShape
from neurosteer_cli.vectors.exchange.foreign import from_control_vector
from neurosteer_cli.vectors.exchange.gguf import (
    ORIGINS,
    ControlVector,
    read_control_vector,
    write_control_vector,
)
from neurosteer_cli.vectors.kinds import TokenBias
from neurosteer_cli.vectors.metadata import Kind
from neurosteer_cli.vectors.vector import SteeringVector

SHAPE = ModelShape(architecture="LlamaForCausalLM", d_model=4, n_layers=6, d_vocab=300)
ONE, TWO = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([-0.1, 0.0, 1e-30, 3e37])


def vector_at(**pushes: torch.Tensor) -> SteeringVector:
    """Pushes by block and kind: `post3`, `pre4`."""
    points = {HookPoint(int(name[-1]), f"hook_resid_{name[:-1]}"): push for name, push in pushes.items()}
    return tiny_vector(SHAPE, points)


def exported(vector: SteeringVector, path: Path, alpha: float = 1.0) -> Path:
    write_control_vector(vector, alpha, path, name="v.st", sha256="abc")
    return path


def foreign(
    path: Path, tensors: dict[str, Any], hint: str | None = "llama", kind: str = "controlvector"
) -> Path:
    """A file as another program writes it."""
    writer = gguf.GGUFWriter(path, kind)
    if hint is not None:
        writer.add_string("controlvector.model_hint", hint)
    writer.add_uint32("controlvector.layer_count", len(tensors))
    for name, data in tensors.items():
        writer.add_tensor(name, np.asarray(data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def holding(directions: dict[int, torch.Tensor], hint: str | None = None) -> ControlVector:
    """What a file of another program says."""
    return ControlVector(Path("v.gguf"), "abc", directions, {"controlvector.model_hint": hint})


def config_of(model_type: str, d_model: int = 4) -> Any:
    """A model's configuration, as far as it is asked."""
    config = SimpleNamespace(
        model_type=model_type,
        architectures=["Some"],
        hidden_size=d_model,
        num_hidden_layers=6,
        vocab_size=300,
    )
    config.get_text_config = lambda **_options: config
    return config


def as_float32(*numbers: float) -> Any:
    return np.array(numbers, dtype=np.float32)


# --- written -----------------------------------------------------------------------------------


def test_the_file_is_what_llama_cpp_reads(tmp_path: Path) -> None:
    reader = gguf.GGUFReader(exported(vector_at(post2=ONE, post5=TWO), tmp_path / "v.gguf", alpha=8.0))
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.architecture"] == "controlvector"
    assert fields["controlvector.model_hint"] == "llama"
    assert fields["controlvector.layer_count"] == 2
    assert fields["neurosteer.alpha"] == 8.0
    assert fields["neurosteer.vector_sha256"] == "abc"
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert list(tensors) == ["direction.2", "direction.5"]
    for name, push in (("direction.2", ONE), ("direction.5", TWO)):
        assert tensors[name].tensor_type == gguf.GGMLQuantizationType.F32
        assert np.array_equal(tensors[name].data, (8 * push).numpy())


def test_what_enters_a_block_is_the_output_of_the_one_before(tmp_path: Path) -> None:
    control = read_control_vector(exported(vector_at(pre3=ONE, post2=ONE, post4=ONE), tmp_path / "v.gguf"))
    assert {k: push.tolist() for k, push in control.directions.items()} == {
        2: [2.0, 4.0, 6.0, 8.0], 4: [1.0, 2.0, 3.0, 4.0],
    }  # fmt: skip
    assert control.exported is not None
    exported_points = list(control.exported[0].metadata.points)
    assert exported_points == ["blocks.2.hook_resid_post", "blocks.4.hook_resid_post"]


@pytest.mark.parametrize(
    ("pushes", "place"),
    [
        ({"post0": ONE, "post3": ONE}, "the output of block 0"),
        ({"pre1": ONE}, "the output of block 0"),
        ({"pre0": ONE}, "what enters block 0"),
    ],
)
def test_block_0_is_refused_and_no_file_written(
    tmp_path: Path, pushes: dict[str, torch.Tensor], place: str
) -> None:
    with pytest.raises(
        IncompatibleVectorError,
        match=f"^v.st acts on {place}; a control vector begins at the output of block 1: "
        "fit at a later block, or use `neurosteer gen`$",
    ):
        exported(vector_at(**pushes), tmp_path / "v.gguf")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "way_out"),
    [
        ("ablate", "--to model takes the component out of a model's weights"),
        ("clamp", "`neurosteer gen` and `serve` clamp"),
        ("logits", "--to logit_bias writes what its server adds to logits"),
    ],
)
def test_what_llama_cpp_does_not_do_is_refused_by_name(tmp_path: Path, kind: Kind, way_out: str) -> None:
    vector = of_kind(kind, vector_at(post2=ONE))
    with pytest.raises(IncompatibleVectorError) as caught:
        exported(vector, tmp_path / "v.gguf")
    assert str(caught.value) == f"v.st is of the kind {kind}, and llama.cpp adds control vectors: {way_out}"
    assert list(tmp_path.iterdir()) == []


def test_what_a_vector_adds_to_logits_besides_comes_back_with_it(tmp_path: Path) -> None:
    bias = TokenBias(torch.tensor([299, 0]), torch.tensor([0.1, -1e-30]))
    control = read_control_vector(
        exported(replace(vector_at(post2=ONE), bias=bias), tmp_path / "v.gguf", 3.0)
    )
    assert control.unknown_fields == {}
    assert control.exported is not None
    found = control.exported[0].bias
    assert found is not None
    assert (found.ids.tolist(), found.bias.tolist()) == (bias.ids.tolist(), bias.bias.tolist())
    odd = replace(control, fields={**control.fields, "neurosteer.token_ids": [300, 0]})
    with pytest.raises(VectorFileError, match="its neurosteer.token_bias does not fit its metadata; export"):
        _ = odd.exported


@pytest.mark.parametrize("alpha", [0.0, float("nan"), float("inf")])
def test_an_alpha_that_pushes_nowhere_is_refused(tmp_path: Path, alpha: float) -> None:
    with pytest.raises(InputError, match="^alpha must be a finite number other than 0, got "):
        exported(vector_at(post2=ONE), tmp_path / "v.gguf", alpha)
    with pytest.raises(InputError, match=r"^alpha 1000 is too large: the push is not finite in 32-bit"):
        exported(vector_at(post2=TWO), tmp_path / "v.gguf", 1000.0)


@pytest.mark.parametrize(
    ("architecture", "hint"),
    [
        ("LlamaForCausalLM", "llama"), ("MistralForCausalLM", "llama"), ("Qwen2ForCausalLM", "qwen2"),
        ("Gemma2ForCausalLM", "gemma2"), ("GPT2LMHeadModel", "gpt2"), ("GPTNeoXForCausalLM", "gptneox"),
        ("MixtralForCausalLM", "llama"), ("GptOssForCausalLM", "gpt-oss"), ("CohereForCausalLM", "command-r"),
        ("DeepseekV3ForCausalLM", "deepseek2"), ("PhiForCausalLM", "phi2"), ("Phi3ForCausalLM", "phi3"),
        ("Qwen3MoeForCausalLM", "qwen3moe"), ("GPTBigCodeForCausalLM", "starcoder"),
        ("Gemma3ForCausalLM", "gemma3"), ("Gemma3ForConditionalGeneration", "gemma3"),
        ("LlavaForConditionalGeneration", "llama"), ("Qwen2_5_VLForConditionalGeneration", "qwen2vl"),
        ("OPTForCausalLM", "opt"), ("SomethingForCausalLM", "something"),
    ],
)  # fmt: skip
def test_the_hint_is_llama_cpps_name_for_the_family(tmp_path: Path, architecture: str, hint: str) -> None:
    vector = tiny_vector(SHAPE.model_copy(update={"architecture": architecture}), {HookPoint(2): ONE})
    assert read_control_vector(exported(vector, tmp_path / "v.gguf")).model_hint == hint


# --- and back ----------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [1.0, 8.0, -0.5])
def test_export_and_import_give_the_same_vector(tmp_path: Path, alpha: float) -> None:
    vector = vector_at(post2=ONE, post5=TWO)
    path = exported(vector, tmp_path / "v.gguf", alpha)
    exported_from = read_control_vector(path).exported
    assert exported_from is not None
    back, was = exported_from
    assert was == alpha
    assert back.metadata == vector.metadata
    assert back.pushes.keys() == vector.pushes.keys()
    assert all(torch.equal(back.pushes[point], push) for point, push in vector.pushes.items())
    back.save(tmp_path / "back.st")
    assert SteeringVector.load(tmp_path / "back.st").metadata == vector.metadata


def test_an_alpha_that_is_no_power_of_two_costs_a_rounding_at_most(tmp_path: Path) -> None:
    vector = vector_at(post2=torch.linspace(-3, 5, 4))
    path = exported(vector, tmp_path / "v.gguf", 7.3)
    exported_from = read_control_vector(path).exported
    assert exported_from is not None
    back = exported_from[0].pushes[HookPoint(2)]
    torch.testing.assert_close(back, vector.pushes[HookPoint(2)], rtol=2**-22, atol=0)


# --- read --------------------------------------------------------------------------------------


def test_each_origin_counts_in_its_own_way(tmp_path: Path) -> None:
    path = foreign(tmp_path / "v.gguf", {"direction.3": as_float32(1, 2), "direction.1": as_float32(3, 4)})
    control = read_control_vector(path)
    assert (control.d_model, control.model_hint, control.exported) == (2, "llama", None)
    found = {origin: control.at_points(origin) for origin in ORIGINS}
    assert [list(map(str, points)) for points in found.values()] == [
        ["blocks.1.hook_resid_post", "blocks.3.hook_resid_post"],  # llama.cpp
        ["blocks.1.hook_resid_post", "blocks.3.hook_resid_post"],  # repeng
        ["blocks.0.hook_resid_post", "blocks.2.hook_resid_post"],  # cvector-generator
    ]
    assert all([push.tolist() for push in points.values()] == [[3, 4], [1, 2]] for points in found.values())


def test_only_repeng_has_a_direction_0() -> None:
    control = holding({0: ONE, 1: TWO})
    assert list(control.at_points("repeng")) == [HookPoint(0), HookPoint(1)]
    for origin in ("llama.cpp", "cvector-generator"):
        with pytest.raises(
            VectorFileError, match=f"^v.gguf: holds direction.0, and {re.escape(origin)} counts from 1; "
        ):
            control.at_points(origin)


@pytest.mark.parametrize(
    ("hint", "model_type", "fits"),
    [
        ("llama", "llama", True),
        ("Llama", "llama", True),
        ("llama", "mistral", True),  # llama.cpp's name
        ("mistral", "mistral", True),  # repeng's, which is transformers'
        ("gptneox", "gpt_neox", True),
        (None, "llama", True),
        ("qwen2", "llama", False),
        ("Mistral", "llama", False),
        ("mistral", "llama", False),
        ("qwen3moe", "qwen3_moe", True),
        ("qwen3_moe", "qwen3_moe", True),
        ("llama", "mixtral", True),
        ("gpt-oss", "gpt_oss", True),
        ("deepseek2", "deepseek_v3", True),
        ("deepseek2", "deepseek_v2", True),
        ("command-r", "cohere", True),
        ("phi2", "phi", True),
        ("phi3", "phi3", True),
        ("gemma3", "gemma3_text", True),
        ("gemma3", "gemma3", True),
        ("olmo2", "olmo3", True),
        ("glm4moe", "glm4_moe", True),
        ("command-r", "llama", False),
        ("deepseek2", "qwen2", False),
    ],
)
def test_the_hint_is_held_against_the_model_under_both_its_names(
    hint: str | None, model_type: str, fits: bool
) -> None:
    control, config = holding({1: ONE}, hint), config_of(model_type)
    warnings: list[str] = []
    if fits:
        control.check_fits([HookPoint(1)], config, "some", warnings.append)
        assert warnings == []
        return
    with pytest.raises(
        IncompatibleVectorError,
        match=f"^v.gguf was made for a model of type '{hint}', model 'some' is of type '{model_type}': "
        "pass --model with the model it was made for$",
    ):
        control.check_fits([HookPoint(1)], config, "some", warnings.append)


@pytest.mark.parametrize(("hint", "model_type"), [("newmodel", "llama"), ("llama", "newmodel")])
def test_a_family_that_is_not_known_is_taken_with_a_warning(hint: str, model_type: str) -> None:
    warnings: list[str] = []
    holding({1: ONE}, hint).check_fits([HookPoint(1)], config_of(model_type), "some", warnings.append)
    assert warnings == [
        f"v.gguf was made for a model of type '{hint}', model 'some' is of type '{model_type}': "
        "taken to be the same"
    ]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"glp.operator": "projective"}, "glp.operator = 'projective'"),
        ({"controlvector.method": "ablate"}, "controlvector.method = 'ablate'"),
        ({"some.orthogonalized": True}, "some.orthogonalized = True"),
        ({"some.operators": ["project"]}, r"some.operators = \['project'\]"),
        ({"controlvector.mode": "erase"}, "controlvector.mode = 'erase'"),
    ],
)
def test_a_file_that_says_its_directions_are_not_added_is_refused(fields: dict[str, Any], said: str) -> None:
    control = ControlVector(Path("v.gguf"), "abc", {1: ONE}, fields)
    message = f"^v.gguf: {said}: its directions are not made to be added to the residual; --kind ablate takes"
    with pytest.raises(VectorFileError, match=message):
        control.check_acts("add", lambda _warning: None)
    control.check_acts("ablate", lambda _warning: None)


@pytest.mark.parametrize("kind", ["add", "ablate"])
def test_a_file_of_directions_that_nothing_here_acts_by_is_refused(kind: Kind) -> None:
    control = ControlVector(Path("v.gguf"), "abc", {1: ONE}, {"controlvector.mode": "angular"})
    with pytest.raises(VectorFileError, match="added to the residual; nothing else is done with them$"):
        control.check_acts(kind, lambda _warning: None)


def test_what_a_file_says_and_is_not_known_is_told() -> None:
    fields = {
        "general.architecture": "controlvector",
        "general.name": "project",
        "controlvector.layer_count": 1,
        "controlvector.model_hint": "llama",
        "glp.projected": False,
        "glp.scale": 0.5,
    }
    warnings: list[str] = []
    ControlVector(Path("v.gguf"), "abc", {1: ONE}, fields).check_acts("add", warnings.append)
    assert warnings == [
        "v.gguf: glp.projected = False, glp.scale = 0.5: not known here; "
        "its directions are taken to be added as they are"
    ]
    known = {name: value for name, value in fields.items() if not name.startswith("glp.")}
    ControlVector(Path("v.gguf"), "abc", {1: ONE}, known).check_acts("add", warnings.append)
    assert len(warnings) == 1


def test_a_model_of_another_width_or_with_too_few_blocks_is_refused() -> None:
    control = holding({1: ONE})
    with pytest.raises(IncompatibleVectorError) as caught:
        control.check_fits([HookPoint(1)], config_of("llama", d_model=8), "some", pytest.fail)
    assert str(caught.value) == (
        "v.gguf has d_model=4, model 'some' has d_model=8: pass --model with the model it was made for"
    )
    with pytest.raises(IncompatibleVectorError) as caught:
        control.check_fits([HookPoint(1), HookPoint(6)], config_of("llama"), "some", pytest.fail)
    assert str(caught.value) == (
        "v.gguf acts on block 6, model 'some' has 6 blocks, 0 to 5: "
        "pass --model with the model it was made for"
    )


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"direction.1": as_float32(1), "direction.2": as_float32(1, 2)}, "its directions differ in length"),
        ({"direction.x": as_float32(1)}, "tensor 'direction.x' is not a direction.k"),
        ({"direction.1": as_float32(1), "direction.01": as_float32(2)}, "tensor 'direction.01' is not a dir"),
        ({"direction.10000": as_float32(1)}, "tensor 'direction.10000' is not a direction.k"),
        ({"direction.-1": as_float32(1)}, "tensor 'direction.-1' is not a direction.k"),
        ({f"direction.{'9' * 40}": as_float32(1)}, r"tensor 'direction.9+' is not a direction.k"),
        (
            {"direction.1": np.ones(2, dtype=np.float16)},
            r"direction.1 is F16 \[2\], expected F32 \[d_model\]",
        ),
        ({"direction.1": np.ones((2, 2), dtype=np.float32)}, r"direction.1 is F32 \[2, 2\], expected F32"),
        ({"direction.1": as_float32(1, float("nan"))}, "direction.1 holds values that are not finite"),
        ({}, "holds no direction.k"),
    ],
)
def test_a_file_that_is_no_control_vector_is_named(
    tmp_path: Path, tensors: dict[str, Any], message: str
) -> None:
    path = foreign(tmp_path / "v.gguf", tensors)
    with pytest.raises(VectorFileError, match=rf"^{re.escape(str(path))}: {message}"):
        read_control_vector(path)


def test_other_gguf_files_and_damaged_ones_are_named(tmp_path: Path) -> None:
    model = foreign(tmp_path / "model.gguf", {"direction.1": as_float32(1)}, kind="llama")
    message = "model.gguf: a GGUF file of 'llama', not a control vector; give it with --model$"
    with pytest.raises(VectorFileError, match=message):
        read_control_vector(model)
    good = exported(vector_at(post2=ONE), tmp_path / "good.gguf").read_bytes()
    for n in (0, 4, 10, 100, len(good) - 20):
        (tmp_path / "cut.gguf").write_bytes(good[:n])
        with pytest.raises(VectorFileError, match=r"cut.gguf: damaged, or not a GGUF file \("):
            read_control_vector(tmp_path / "cut.gguf")
    with pytest.raises(InputError, match="none.gguf: no such file$"):
        read_control_vector(tmp_path / "none.gguf")
    with pytest.raises(InputError, match=r": is a directory; name a control-vector file \(.gguf\)$"):
        read_control_vector(tmp_path)
    save_tiny_sae(tmp_path / "sae")
    vector_at(post2=ONE).save(tmp_path / "v.st")
    (tmp_path / "t.jsonl").write_text('{"text": "hello"}\n')
    for name, what in {
        "v.st": "a steering vector; give it a --vector of its own, or to `neurosteer inspect`",
        "t.jsonl": "a text file; `neurosteer fit` makes a vector of texts",
        "sae": "an SAE's folder; give it with --sae, or to `neurosteer sae info`",
        "sae/sae_weights.safetensors": "the weights of an SAE; name its folder, "
        "with --sae or to `neurosteer sae info`",
    }.items():
        with pytest.raises(NeurosteerError, match=rf"^{re.escape(f'{tmp_path}/{name}: {what}')}$"):
            read_control_vector(tmp_path / name)


def test_a_pipe_is_read_as_the_file_behind_it_is(tmp_path: Path) -> None:
    data = exported(vector_at(post2=ONE), tmp_path / "v.gguf").read_bytes()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for written, what in {data: None, b"hello\n": "pipe: a text file; "}.items():
        writer = threading.Thread(target=pipe.write_bytes, args=[written])
        writer.start()
        with nullcontext() if what is None else pytest.raises(VectorFileError, match=what):
            found, plain = read_control_vector(pipe), read_control_vector(tmp_path / "v.gguf")
            assert found.sha256 == plain.sha256
            assert torch.equal(found.directions[2], plain.directions[2])
        writer.join()


def test_a_file_whose_metadata_and_directions_differ_is_refused(tmp_path: Path) -> None:
    path = exported(vector_at(post2=ONE), tmp_path / "v.gguf")
    control = read_control_vector(path)
    moved = replace(control, directions={3: ONE})
    with pytest.raises(VectorFileError, match="v.gguf: its directions do not fit its metadata; export"):
        _ = moved.exported


def test_a_file_of_another_program_has_nothing_to_restore() -> None:
    assert holding({1: ONE}).exported is None


# --- as a vector of ours -----------------------------------------------------------------------

POINTS = [HookPoint(1), HookPoint(3)]
NORMS = {HookPoint(1): 40.0, HookPoint(3): 80.0}
LENGTHS = {1: 2.0, 3: 8.0}


def converted(
    engine: Engine, points: list[HookPoint], lengths: dict[int, float] = LENGTHS
) -> tuple[SteeringVector, float]:
    """The vector of directions of given lengths, and the scale that its alpha 1 is."""
    unit = torch.ones(D_MODEL) / D_MODEL**0.5
    control = holding({k: length * unit for k, length in lengths.items()}, "llama")
    vector = from_control_vector(control, "repeng", {point: NORMS[point] for point in points}, engine)
    return vector, vector.metadata.parameters["scale"]


def test_alpha_1_is_one_percent_of_the_residual_and_the_lengths_keep_their_ratio(engine: Engine) -> None:
    vector, scale = converted(engine, POINTS)
    # 2/40 + 8/80 = 15 % of the residual at scale 1
    assert scale == pytest.approx(1 / 15)
    assert vector.dose(1) == pytest.approx(0.01)
    lengths = [float(push.norm()) for push in vector.pushes.values()]
    assert lengths == pytest.approx([2 / 15, 8 / 15])


def test_some_of_the_blocks_make_a_vector_of_their_own(engine: Engine) -> None:
    vector, scale = converted(engine, POINTS[1:])
    assert scale == pytest.approx(0.1)  # 8/80 = 10 %
    assert list(vector.pushes) == [HookPoint(3)]


def test_the_vector_says_where_it_came_from(engine: Engine, tmp_path: Path) -> None:
    vector, scale = converted(engine, POINTS)
    vector.save(tmp_path / "v.st")
    metadata = SteeringVector.load(tmp_path / "v.st").metadata
    assert (metadata.method, metadata.model_id, metadata.model_shape) == (
        "import",
        engine.model_id,
        engine.shape,
    )
    assert metadata.parameters == {
        "gguf_origin": "repeng", "scale": scale, "model_hint": "llama", "file": "v.gguf", "sha256": "abc",
        "texts": "neutral",
    }  # fmt: skip
    assert {name: point.resid_norm for name, point in metadata.points.items()} == {
        "blocks.1.hook_resid_post": 40.0, "blocks.3.hook_resid_post": 80.0,
    }  # fmt: skip


def test_directions_of_zero_are_refused(engine: Engine) -> None:
    with pytest.raises(VectorFileError, match="^v.gguf: its directions are zero: nothing would be steered$"):
        converted(engine, POINTS, {1: 0.0, 3: 0.0})
    for length in (1e-44, 3e38):
        with pytest.raises(VectorFileError, match="its directions are too short or too long for float32$"):
            converted(engine, POINTS, {1: length, 3: length})
