"""Control-vector files (GGUF): written for llama.cpp, read from there and from repeng.

Knows the file format and at which block a file's `direction.k` acts; knows nothing of how long a
push should be.
"""

import os
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import IncompatibleVectorError, InputError, VectorFileError, one_line
from ..files import replace_file
from ..models.hooks import HookPoint
from .metadata import VectorMetadata
from .vector import NO_TEXTS, SteeringVector


class Numbering(NamedTuple):
    """How the maker of a file counts."""

    first: int  # the lowest k of a direction.k
    shift: int  # direction.k belongs to the output of block k - shift


ORIGINS = {
    "llama.cpp": Numbering(1, 0),  # `--control-vector` adds direction.k to the output of block k
    "repeng": Numbering(0, 0),  # reads the output of block k, and adds there
    "cvector-generator": Numbering(1, 1),  # reads the output of block k-1 for what is then added at block k
}

_ARCHITECTURE = "controlvector"
_HINT = f"{_ARCHITECTURE}.model_hint"
_COUNT = f"{_ARCHITECTURE}.layer_count"
_DIRECTION = "direction."
_OWN_METADATA, _OWN_ALPHA, _OWN_SHA256 = "neurosteer.metadata", "neurosteer.alpha", "neurosteer.vector_sha256"
_FIELDS = {"general.architecture", _HINT, _OWN_METADATA, _OWN_ALPHA}
MAX_BLOCK = 10_000

# llama.cpp's name for a Hugging Face model type, where it is another one.
_LLAMA_CPP_NAMES = {
    "mistral": "llama",
    "gpt_neox": "gptneox",
    "gemma3_text": "gemma3",
    "gpt_bigcode": "starcoder",
}
# The model type of an architecture whose class name does not tell.
_MODEL_TYPES = {
    "GPT2LMHeadModel": "gpt2",
    "GPTNeoXForCausalLM": "gpt_neox",
    "GPTBigCodeForCausalLM": "gpt_bigcode",
}


@dataclass(frozen=True)
class Origin:
    """What a file written here keeps of the vector it came from."""

    metadata: VectorMetadata  # hook points named as outputs of blocks
    alpha: float  # the strength baked into the directions


@dataclass(frozen=True)
class ControlVector:
    """A control-vector file as it is.

    `directions[k]` [d_model] float32, raw residual units: what scale 1 adds for `direction.k`.
    """

    directions: dict[int, Tensor]
    model_hint: str | None
    own: Origin | None  # None if written by another program

    @property
    def d_model(self) -> int:
        return len(next(iter(self.directions.values())))

    def at_points(self, origin: str, name: str) -> dict[HookPoint, Tensor]:
        """The directions by the hook point they belong to, from the first block to the last.

        Raises:
            VectorFileError: a direction 0 in a file of an origin that counts from 1.
        """
        first, shift = ORIGINS[origin]
        if min(self.directions) < first:
            raise VectorFileError(
                f"{name}: holds {_DIRECTION}0, and {origin} counts from {first}; "
                "--gguf-origin names another program"
            )
        return {HookPoint(k - shift): push for k, push in self.directions.items()}

    def check_hint(self, model_type: str, model_id: str, name: str) -> None:
        """Hold the model family a file names, if it names one, against a model's.

        Raises:
            IncompatibleVectorError: another family.
        """
        if self.model_hint not in (None, model_type, llama_cpp_name(model_type)):
            raise IncompatibleVectorError(
                f"{name} was made for a model of type {self.model_hint!r}, model {model_id!r} is of type "
                f"{model_type!r}: pass --model with the model it was made for"
            )


def llama_cpp_name(model_type: str) -> str:
    """What llama.cpp calls a Hugging Face model type."""
    return _LLAMA_CPP_NAMES.get(model_type, model_type)


def write_control_vector(vector: SteeringVector, alpha: float, path: Path, *, name: str, sha256: str) -> None:
    """Write alpha times a vector as llama.cpp's control vector: `direction.k` acts on block k's output.

    Args:
        name, sha256: of the vector's file, for errors and for the record.

    Raises:
        InputError: alpha is 0, not finite or too large.
        IncompatibleVectorError: the vector acts at block 0 or before, which the format cannot express.
        OutputError: the file cannot be written; the old one, if any, is left as it was.
    """
    import gguf

    pushes = vector.after_blocks(alpha)
    if min(pushes) < 1:
        raise IncompatibleVectorError(
            f"{name} acts on {_place(min(pushes))}; a control vector begins at the output of block 1: "
            "fit at a later block, or use `neurosteer gen`"
        )
    with replace_file(path) as temporary:
        writer = gguf.GGUFWriter(temporary, _ARCHITECTURE)
        writer.add_string(_HINT, llama_cpp_name(_model_type(vector.metadata.model_shape.architecture)))
        writer.add_int32(_COUNT, len(pushes))
        writer.add_string(_OWN_METADATA, _after_blocks(vector.metadata).to_json())
        writer.add_float64(_OWN_ALPHA, alpha)
        writer.add_string(_OWN_SHA256, sha256)
        for block, push in pushes.items():
            writer.add_tensor(f"{_DIRECTION}{block}", push.numpy())
        try:
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()


def _place(block: int) -> str:
    return f"the output of block {block}" if block >= 0 else "what enters block 0"


def _model_type(architecture: str) -> str:
    """The model type of an architecture: `LlamaForCausalLM` is llama."""
    return _MODEL_TYPES.get(architecture, architecture.removesuffix("ForCausalLM").lower())


def _after_blocks(metadata: VectorMetadata) -> VectorMetadata:
    """The same metadata with what enters block L named as the output of block L-1."""
    points = {
        str(HookPoint(HookPoint.parse(name).after_block)): point for name, point in metadata.points.items()
    }
    return metadata.model_copy(update={"points": points})


def read_control_vector(path: Path) -> ControlVector:
    """Read a control-vector file.

    Raises:
        InputError: no such file, or a directory.
        VectorFileError: damaged, no GGUF file, or no control vector.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a directory; name a control-vector file (.gguf)")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    fields, tensors = _parsed(path)
    architecture = fields.get("general.architecture")
    if architecture != _ARCHITECTURE:
        raise VectorFileError(f"{path}: a GGUF file of {architecture!r}, not a control vector")
    directions = {_block(name, path): _direction(tensor, path) for name, tensor in tensors.items()}
    if not directions:
        raise VectorFileError(f"{path}: holds no {_DIRECTION}k")
    if len({len(push) for push in directions.values()}) > 1:
        raise VectorFileError(f"{path}: its directions differ in length; one d_model is needed")
    hint = fields.get(_HINT)
    return ControlVector(
        dict(sorted(directions.items())), hint if isinstance(hint, str) else None, _origin(fields, path)
    )


def _parsed(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A GGUF file's fields and tensors by name."""
    import gguf

    try:
        with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
            reader = gguf.GGUFReader(path)
            fields = {name: reader.fields[name].contents() for name in _FIELDS & reader.fields.keys()}
    except Exception as error:  # the reader raises whatever the file's damage leads to
        raise VectorFileError(f"{path}: damaged, or not a GGUF file ({one_line(error)})") from error
    return fields, {tensor.name: tensor for tensor in reader.tensors}


def _block(name: str, path: Path) -> int:
    number = name.removeprefix(_DIRECTION)
    if number == name or not number.isdecimal() or not int(number[:6]) < MAX_BLOCK:
        raise VectorFileError(f"{path}: tensor {name!r} is not a {_DIRECTION}k")
    return int(number)


def _direction(tensor: Any, path: Path) -> Tensor:
    data = np.asarray(tensor.data)
    if data.dtype != np.float32 or data.ndim != 1:
        raise VectorFileError(
            f"{path}: {tensor.name} is {tensor.tensor_type.name} {list(data.shape)}, expected F32 [d_model]"
        )
    push = torch.from_numpy(data.copy())
    if not bool(torch.isfinite(push).all()):
        raise VectorFileError(f"{path}: {tensor.name} holds values that are not finite")
    return push


def _origin(fields: dict[str, Any], path: Path) -> Origin | None:
    if _OWN_METADATA not in fields:
        return None
    alpha = fields.get(_OWN_ALPHA)
    if not isinstance(alpha, float) or not np.isfinite(alpha) or alpha == 0:
        raise VectorFileError(f"{path}: its {_OWN_ALPHA} is {alpha!r}; export the vector again")
    return Origin(VectorMetadata.from_json(str(fields[_OWN_METADATA]), str(path)), alpha)


def restore(control: ControlVector, path: Path) -> SteeringVector:
    """The vector that a file written here was exported from: its pushes and metadata, without its latents.

    Raises:
        VectorFileError: the file's directions are not at the hook points its metadata names.
    """
    assert control.own is not None
    found = control.at_points("llama.cpp", str(path))
    pushes = {point: push / control.own.alpha for point, push in found.items()}
    metadata = control.own.metadata
    if set(map(str, pushes)) != set(metadata.points) or control.d_model != metadata.model_shape.d_model:
        raise VectorFileError(f"{path}: its directions do not fit its metadata; export the vector again")
    return SteeringVector(metadata, pushes, {}, NO_TEXTS)
