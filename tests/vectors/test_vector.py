"""A vector file holds every bit and all its metadata, and says what is wrong when it does not."""

import json
import os
import pickle
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from neurosteer_cli.errors import (
    IncompatibleVectorError,
    InputError,
    ModelError,
    OutputError,
    VectorFileError,
)
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.models.shape import ModelShape
from neurosteer_cli.vectors import vector as vector_module
from neurosteer_cli.vectors.metadata import PointMetadata, SAEMetadata, SideMetadata, VectorMetadata
from neurosteer_cli.vectors.vector import Latents, SteeringVector, total_dose, unit_pushes, unit_scale

D_MODEL = 4
SHAPE = ModelShape(architecture="TinyForCausalLM", d_model=D_MODEL, n_layers=6, d_vocab=300)
SAE = SAEMetadata(sae_id="sae", sha256="5ae", model_name="tiny", d_sae=64, neuronpedia_id=None)
POSITIVE = SideMetadata(label="up", n_texts=10, n_tokens=100, sha256="a1")
NEGATIVE = SideMetadata(label="down", n_texts=11, n_tokens=110, sha256="b2")


def make(
    pushes: dict[int, list[float]],
    *,
    resid_norm: float = 10.0,
    shape: ModelShape = SHAPE,
    model_id: str = "tiny",
    hashes: tuple[int, ...] = (-3, 5),
    sae: SAEMetadata | None = None,
) -> SteeringVector:
    """A vector with these pushes, by layer."""
    measured = PointMetadata(resid_norm=resid_norm, shift_norm=2.5, auroc=0.75, middle=None, sae=sae)
    metadata = VectorMetadata(
        format_version=3,
        program_version="0.1.0",
        created="2026-01-02T03:04:05+00:00",
        model_id=model_id,
        model_shape=shape,
        method="diffmean",
        kind="add",
        parameters={"top_k": 2},
        positive=POSITIVE,
        negative=NEGATIVE,
        points={str(HookPoint(layer)): measured for layer in pushes},
        parents=[],
        detector=None,
        calibration=None,
    )
    return SteeringVector(
        metadata,
        {HookPoint(layer): torch.tensor(push) for layer, push in pushes.items()},
        {},
        torch.tensor(hashes, dtype=torch.int64),
    )


def with_latents() -> SteeringVector:
    """A vector of two layers, made of latents, with values that only exact bits keep."""
    vector = make({1: [0.1, -0.0, 1e-42, 3e38], 3: [1.0, 2.0, 3.0, 4.0]}, sae=SAE)
    latents = Latents(
        torch.tensor([63, 0]), torch.tensor([0.3, -7.0]), torch.tensor([[0.5, 0.1], [0.0, 1.0]])
    )
    return replace(vector, latents={HookPoint(1): latents})


def same_bits(left: Tensor, right: Tensor) -> bool:
    return left.dtype == right.dtype and left.numpy().tobytes() == right.numpy().tobytes()


# --- saving and loading ------------------------------------------------------------------------


def test_a_vector_comes_back_bit_for_bit(tmp_path: Path) -> None:
    saved = with_latents()
    saved.save(tmp_path / "v.st")
    loaded = SteeringVector.load(tmp_path / "v.st")
    assert loaded.metadata == saved.metadata
    assert list(loaded.pushes) == [HookPoint(1), HookPoint(3)]
    for point, push in saved.pushes.items():
        assert same_bits(loaded.pushes[point], push)
    assert list(loaded.latents) == [HookPoint(1)]
    for one, other in zip(
        vars(loaded.latents[HookPoint(1)]).values(), vars(saved.latents[HookPoint(1)]).values(), strict=True
    ):
        assert same_bits(one, other)
    assert same_bits(loaded.text_hashes, saved.text_hashes)


def test_saving_what_was_loaded_writes_the_same_file(tmp_path: Path) -> None:
    with_latents().save(tmp_path / "v.st")
    SteeringVector.load(tmp_path / "v.st").save(tmp_path / "again.st")
    assert (tmp_path / "again.st").read_bytes() == (tmp_path / "v.st").read_bytes()


def test_the_file_names_its_tensors_by_hook_point(tmp_path: Path) -> None:
    with_latents().save(tmp_path / "v.st")
    with safe_open(tmp_path / "v.st", framework="pt") as file:
        assert sorted(file.keys()) == [
            "blocks.1.hook_resid_post",
            "blocks.1.hook_resid_post/firing_rates",
            "blocks.1.hook_resid_post/latent_ids",
            "blocks.1.hook_resid_post/latent_weights",
            "blocks.3.hook_resid_post",
            "text_hashes",
        ]
        assert list(file.metadata()) == ["neurosteer"]
        metadata = json.loads(file.metadata()["neurosteer"])
    assert metadata == with_latents().metadata.model_dump()


def test_a_file_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make({1: [1.0, 0.0, 0.0, 0.0]}).save(tmp_path / "v.st")
    before = (tmp_path / "v.st").read_bytes()

    def full(_tensors: Any, path: Path, **_options: Any) -> None:
        Path(path).write_bytes(b"half")
        # safetensors' own word for a full disk, seen on a full tmpfs
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(vector_module, "save_file", full)
    with pytest.raises(OutputError, match=r"v\.st: cannot write \(.*No space left on device.*\)"):
        with_latents().save(tmp_path / "v.st")
    assert (tmp_path / "v.st").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["v.st"]


# --- files that are refused --------------------------------------------------------------------


@pytest.fixture
def rewrite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Write `v.st` with its metadata or tensors changed, load it, and return the refusal."""
    monkeypatch.chdir(tmp_path)

    def rewritten(
        metadata: dict[str, Any] | str | None = None, tensors: dict[str, Tensor | None] | None = None
    ) -> str:
        with_latents().save(Path("good.st"))
        with safe_open("good.st", framework="pt") as file:
            old = {name: file.get_tensor(name) for name in list(file.keys())}
            text = file.metadata()["neurosteer"]
        changed = {name: tensor for name, tensor in {**old, **(tensors or {})}.items() if tensor is not None}
        if isinstance(metadata, dict):
            metadata = json.dumps({**json.loads(text), **metadata})
        save_file(changed, "v.st", metadata={"neurosteer": text if metadata is None else metadata})
        with pytest.raises(VectorFileError) as caught:
            SteeringVector.load(Path("v.st"))
        return str(caught.value)

    return rewritten


def without(metadata: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in metadata.items() if key not in keys}


@pytest.mark.parametrize("field", list(VectorMetadata.model_fields))
def test_metadata_without_a_field_is_refused(rewrite: Callable[..., str], field: str) -> None:
    metadata = without(with_latents().metadata.model_dump(), field)
    message = {"format_version": "its metadata has no format_version"}.get(
        field, f"its metadata lacks ['{field}']"
    )
    assert rewrite(json.dumps(metadata)) == f"v.st: {message}; fit the vector again"


@pytest.mark.parametrize(
    ("part", "field"),
    [
        *(("model_shape", field) for field in ModelShape.model_fields),
        *(("positive", field) for field in SideMetadata.model_fields),
        ("negative", "label"),
    ],
)
def test_a_part_without_a_field_is_refused(rewrite: Callable[..., str], part: str, field: str) -> None:
    metadata = with_latents().metadata.model_dump()
    assert rewrite({part: without(metadata[part], field)}) == (
        f"v.st: its metadata lacks ['{field}']; fit the vector again"
    )


@pytest.mark.parametrize("field", list(PointMetadata.model_fields))
def test_a_hook_point_without_a_field_is_refused(rewrite: Callable[..., str], field: str) -> None:
    points = with_latents().metadata.model_dump()["points"]
    points["blocks.1.hook_resid_post"].pop(field)
    assert rewrite({"points": points}) == (f"v.st: its metadata lacks ['{field}']; fit the vector again")


def test_all_fields_that_are_missing_are_named(rewrite: Callable[..., str]) -> None:
    metadata = without(with_latents().metadata.model_dump(), "method", "created", "points")
    assert rewrite(json.dumps(metadata)) == (
        "v.st: its metadata lacks ['created', 'method', 'points']; fit the vector again"
    )


@pytest.mark.parametrize("version", [0, 1, 10])
def test_another_format_version_is_refused(rewrite: Callable[..., str], version: int) -> None:
    assert rewrite({"format_version": version}) == (
        f"v.st: format version {version}, this program reads 2 to 3; "
        "install the neurosteer that wrote it, or fit the vector again"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{half", "v.st: its metadata is not JSON; fit the vector again"),
        ("", "v.st: its metadata is not JSON; fit the vector again"),
        ("[1]", "v.st: its metadata has no format_version; fit the vector again"),
        ("null", "v.st: its metadata has no format_version; fit the vector again"),
    ],
)
def test_metadata_that_is_no_json_object_is_refused(
    rewrite: Callable[..., str], text: str, message: str
) -> None:
    assert rewrite(text) == message


@pytest.mark.parametrize(
    "metadata",
    [
        {"points": []},
        {"points": "blocks.1.hook_resid_post"},
        {"points": {}},
        {"points": {"blocks.1.hook_resid_post": None}},
        {"points": {"blocks.1.mlp": {
            "resid_norm": 10.0, "shift_norm": 1.0, "auroc": 1.0, "sae": None}}},
        {"model_shape": 3},
        {"model_shape": None},
        {"model_shape": {**SHAPE.model_dump(), "d_model": "4"}},
        {"model_id": None},
        {"parents": None},
        {"parameters": None},
        {"points": {"blocks.1.hook_resid_post": {
            "resid_norm": "10", "shift_norm": 1.0, "auroc": 1.0, "sae": None}}},
        {"points": {"blocks.1.hook_resid_post": {
            "resid_norm": 0.0, "shift_norm": 1.0, "auroc": 1.0, "sae": None}}},
    ],
)  # fmt: skip
def test_metadata_of_the_wrong_kind_is_refused(rewrite: Callable[..., str], metadata: dict[str, Any]) -> None:
    assert rewrite(metadata).startswith("v.st: ")


POINT = "blocks.1.hook_resid_post"


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({POINT: torch.zeros(5)},
         f"tensor '{POINT}' is torch.float32 [5], expected torch.float32 [4]"),
        ({POINT: torch.zeros(1, 4)},
         f"tensor '{POINT}' is torch.float32 [1, 4], expected torch.float32 [4]"),
        ({POINT: torch.zeros(4, dtype=torch.float64)},
         f"tensor '{POINT}' is torch.float64 [4], expected torch.float32 [4]"),
        ({POINT: None}, f"tensor '{POINT}' is absent, expected torch.float32 [4]"),
        ({POINT: torch.tensor([0.0, float("nan"), 0.0, 0.0])},
         f"tensor '{POINT}' holds values that are not finite"),
        ({POINT: torch.tensor([0.0, float("-inf"), 0.0, 0.0])},
         f"tensor '{POINT}' holds values that are not finite"),
        ({f"{POINT}/latent_weights": torch.ones(3)},
         f"tensor '{POINT}/latent_weights' is torch.float32 [3], expected torch.float32 [2]"),
        ({f"{POINT}/latent_weights": torch.tensor([1.0, float("nan")])},
         f"tensor '{POINT}/latent_weights' holds values that are not finite"),
        ({f"{POINT}/latent_ids": torch.zeros(1, 2, dtype=torch.int64)},
         f"tensor '{POINT}/latent_ids' is torch.int64 [1, 2], expected torch.int64 [2]"),
        ({f"{POINT}/latent_ids": torch.zeros(2)},
         f"tensor '{POINT}/latent_ids' is torch.float32 [2], expected torch.int64 [2]"),
        ({f"{POINT}/firing_rates": None},
         f"tensor '{POINT}/firing_rates' is absent, expected torch.float32 [2, 2]"),
        ({"text_hashes": None}, "tensor 'text_hashes' is absent, expected torch.int64 [0]"),
        ({"text_hashes": torch.zeros(2)},
         "tensor 'text_hashes' is torch.float32 [2], expected torch.int64 [2]"),
    ],
)  # fmt: skip
def test_an_altered_tensor_is_named_with_what_it_should_be(
    rewrite: Callable[..., str], tensors: dict[str, Tensor], message: str
) -> None:
    assert rewrite(tensors=tensors) == f"v.st: {message}"


URGED: dict[str, Tensor | None] = {
    "logits/token_ids": torch.tensor([7, 299]),
    "logits/token_bias": torch.tensor([0.5, -0.5]),
}


@pytest.mark.parametrize("kind", ["ablate", "clamp"])
def test_a_kind_that_adds_nothing_to_logits_has_no_bias(rewrite: Callable[..., str], kind: str) -> None:
    assert rewrite({"kind": kind}, tensors=URGED) == (
        f"v.st: its tensors are not those of a vector of the kind {kind}; fit the vector again"
    )


def test_a_vector_that_acts_on_logits_alone_has_no_hook_point(rewrite: Callable[..., str]) -> None:
    message = "v.st: its tensors are not those of a vector of the kind logits; fit the vector again"
    assert rewrite({"kind": "logits"}, tensors=URGED) == message
    assert rewrite({"kind": "logits"}) == message


@pytest.mark.parametrize("ids", [[7, 300], [-1, 7], [7, 7]])
def test_token_ids_that_are_not_the_models_are_refused(rewrite: Callable[..., str], ids: list[int]) -> None:
    assert rewrite(tensors={**URGED, "logits/token_ids": torch.tensor(ids)}) == (
        "v.st: tensor 'logits/token_ids' does not name tokens of its model, each once; fit the vector again"
    )


def test_a_safetensors_file_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.zeros(4)}, path, metadata={"format": "pt"})
    with pytest.raises(VectorFileError) as caught:
        SteeringVector.load(path)
    assert str(caught.value) == (
        f"{path}: a safetensors file, but not one written by neurosteer; name a model's folder with --model"
    )
    save_file({"weight": torch.zeros(4)}, path)
    with pytest.raises(VectorFileError, match="not one written by neurosteer"):
        SteeringVector.load(path)


@pytest.mark.parametrize("length", [0, 7, 8, 100, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "v.st"
    with_latents().save(path)
    path.write_bytes(path.read_bytes()[:length])
    message = rf"{re.escape(str(path))}: damaged, or not a vector file \(.+\)"
    with pytest.raises(VectorFileError, match=message):
        SteeringVector.load(path)


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (
            b"GGUF\3\0\0\0 general.architecture\x08\0\0\0\x0d\0\0\0\0\0\0\0controlvector",
            "a GGUF control vector; `neurosteer import` makes",
        ),
        (
            b"GGUF\3\0\0\0 general.architecture\x08\0\0\0\5\0\0\0\0\0\0\0llama",
            "a GGUF model; give it with --model",
        ),
        (b'{"text": "a"}\n', "a text file; `neurosteer fit` makes a vector of texts"),
    ],
)
def test_a_file_of_another_kind_is_named_by_what_it_is(tmp_path: Path, head: bytes, kind: str) -> None:
    path = tmp_path / "v.st"
    path.write_bytes(head)
    with pytest.raises(VectorFileError, match=f"^{path}: {kind}"):
        SteeringVector.load(path)


def test_a_pipe_is_named_by_what_comes_out_of_it(tmp_path: Path) -> None:
    pipe, model = tmp_path / "pipe", tmp_path / "model.safetensors"
    os.mkfifo(pipe)
    save_file({"weight": torch.zeros(4)}, model)
    for written, kind in {b"hello\n": "a text file; ", model.read_bytes(): "a safetensors file, "}.items():
        writer = threading.Thread(target=pipe.write_bytes, args=[written])
        writer.start()
        with pytest.raises(VectorFileError, match=f"^{pipe}: {kind}"):
            SteeringVector.load(pipe)
        writer.join()


def test_a_models_folder_and_an_saes_are_named_by_what_they_are(
    tiny_folder: Path, tiny_sae_folder: Path
) -> None:
    for folder, kind in (
        (tiny_folder, "a model's folder; give it"),
        (tiny_sae_folder, "an SAE's folder; give"),
    ):
        with pytest.raises(InputError, match=f"^{folder}: {kind}"):
            SteeringVector.load(folder)


def test_an_absent_file_and_a_directory_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        SteeringVector.load(tmp_path / "no.st")
    assert str(caught.value) == f"{tmp_path}/no.st: no such file; `neurosteer fit` writes one"
    with pytest.raises(InputError) as caught:
        SteeringVector.load(tmp_path)
    assert str(caught.value) == f"{tmp_path}: is a directory; name a vector file"


class Trap:
    """Unpickling this writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("write", [torch.save, lambda trap, path: path.write_bytes(pickle.dumps(trap))])
def test_a_pickle_is_refused_and_never_run(tmp_path: Path, write: Callable[..., Any]) -> None:
    write(Trap(tmp_path / "sprung"), tmp_path / "v.st")
    with pytest.raises(VectorFileError, match="pickles are never read"):
        SteeringVector.load(tmp_path / "v.st")
    assert not (tmp_path / "sprung").exists()


# --- models ------------------------------------------------------------------------------------


def test_a_vector_fits_a_model_whose_vocabulary_alone_differs_and_says_so() -> None:
    warnings: list[str] = []
    make({1: [1.0, 0.0, 0.0, 0.0]}).check_fits(
        SHAPE.model_copy(update={"d_vocab": 308}), "tuned", "v.st", warnings.append
    )
    assert warnings == ["v.st was fitted on 'tiny', whose vocabulary has 300 tokens; that of 'tuned' has 308"]


@pytest.mark.parametrize(
    "change", [{"architecture": "OtherForCausalLM"}, {"d_model": 8}, {"n_layers": 7, "d_vocab": 9}]
)
def test_a_vector_of_a_model_of_another_shape_is_refused(change: dict[str, Any]) -> None:
    vector = make({1: [1.0, 0.0, 0.0, 0.0]})
    vector.check_fits(SHAPE, "a renamed copy", "v.st")
    other = SHAPE.model_copy(update=change)
    with pytest.raises(IncompatibleVectorError) as caught:
        vector.check_fits(other, "other", "v.st")
    assert str(caught.value) == (
        "v.st was fitted on 'tiny' (TinyForCausalLM, d_model=4, 6 blocks, d_vocab=300), "
        f"model 'other' is {other.architecture}, d_model={other.d_model}, "
        f"{other.n_layers} blocks, d_vocab={other.d_vocab}: "
        "pass --model tiny or fit a vector on this model"
    )


# --- the unit of alpha, and doses ----------------------------------------------------------------


def test_alpha_8_of_a_fitted_vector_is_a_dose_of_8_percent() -> None:
    # alpha 1 is 1 % of the median norm of 10, whichever way it points
    assert make({1: [0.06, 0.0, -0.08, 0.0]}).dose(8) == pytest.approx(0.08)
    assert make({1: [0.06, 0.0, -0.08, 0.0]}).dose(-8) == pytest.approx(0.08)
    assert make({1: [0.06, 0.0, -0.08, 0.0]}).dose(0) == 0.0


def test_a_dose_shared_by_hook_points_adds_up() -> None:
    vector = make({1: [0.05, 0.0, 0.0, 0.0], 2: [0.0, 0.05, 0.0, 0.0]})
    assert vector.dose(8) == pytest.approx(0.08)


def test_pushes_of_several_vectors_add_up_before_they_are_measured() -> None:
    one, two = make({1: [0.1, 0.0, 0.0, 0.0]}), make({1: [0.0, 0.1, 0.0, 0.0]})
    assert total_dose([one, two], [3, 4]) == pytest.approx(0.05)
    assert total_dose([one, one], [4, -4]) == 0.0
    # parents that measured 10 and 30: the push of 0.4 is held against 20
    assert total_dose([one, make({1: [0.1, 0.0, 0.0, 0.0]}, resid_norm=30.0)], [2, 2]) == (
        pytest.approx(0.02)
    )
    assert total_dose([], []) == 0.0


def test_alpha_1_is_a_dose_of_one_percent_that_hook_points_share_equally() -> None:
    one, two = HookPoint(1), HookPoint(2)
    directions = {one: torch.tensor([3.0, 4.0]).double(), two: torch.tensor([0.0, 0.1]).double()}
    pushes = unit_pushes(directions, {one: 40.0, two: 80.0})
    # half of 1 % of 40 and of 80, whatever the lengths
    torch.testing.assert_close(pushes[one], torch.tensor([0.12, 0.16]))
    torch.testing.assert_close(pushes[two], torch.tensor([0.0, 0.4]))


def test_directions_scaled_to_the_unit_keep_their_relative_lengths() -> None:
    one, two = HookPoint(1), HookPoint(2)
    directions = {one: torch.tensor([3.0, 4.0]), two: torch.zeros(2)}
    # 5/40 = 12.5 % of the residual at scale 1
    assert unit_scale(directions, {one: 40.0, two: 80.0}) == pytest.approx(0.08)


def test_a_local_model_that_is_gone_is_told_of(tmp_path: Path) -> None:
    push = {1: [1.0, 0.0, 0.0, 0.0]}
    assert make(push).own_model("v.st") == "tiny"  # a name of the Hub may be anywhere
    assert make(push, model_id=str(tmp_path)).own_model("v.st") == str(tmp_path)
    with pytest.raises(ModelError) as caught:
        make(push, model_id=f"{tmp_path}/gone").own_model("v.st")
    assert str(caught.value) == (
        f"v.st was fitted on '{tmp_path}/gone', which is not there any more: "
        "pass --model with the place where it is now"
    )
