"""Control-vector files (GGUF): written for llama.cpp, read from there and from repeng.

Knows the file format and at which block a file's `direction.k` acts; knows nothing of the terminal.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...data.kinds import CONTROL_VECTOR, GGUF, known_kind
from ...errors import IncompatibleVectorError, InputError, VectorFileError, one_line
from ...files import file_sha256, is_stdin, replace_file, spooled
from ...models.checkpoints import llama_cpp
from ...models.hooks import HookPoint
from ...models.shape import shape_of
from ..kinds import TokenBias
from ..metadata import Kind, VectorMetadata
from ..vector import NO_TEXTS, SteeringVector

# Who made a file: the lowest k of a direction.k, and its k less the block whose output it belongs to.
ORIGINS = {
    "llama.cpp": (1, 0),  # `--control-vector` adds direction.k to the output of block k
    "repeng": (0, 0),  # reads the output of block k, and adds there
    "cvector-generator": (1, 1),  # reads the output of block k-1 for what is then added at block k
}

_ARCHITECTURE = "controlvector"
_HINT, _COUNT = f"{_ARCHITECTURE}.model_hint", f"{_ARCHITECTURE}.layer_count"
_DIRECTION = "direction."
_NUMBERED = re.compile(r"direction\.(0|[1-9][0-9]{0,3})")
_OWN_METADATA, _OWN_ALPHA, _OWN_SHA256 = "neurosteer.metadata", "neurosteer.alpha", "neurosteer.vector_sha256"
_OWN_TOKENS, _OWN_BIAS = (
    "neurosteer.token_ids",
    "neurosteer.token_bias",
)  # at alpha 1; no program else reads them
_KNOWN = {_HINT, _COUNT, _OWN_METADATA, _OWN_ALPHA, _OWN_SHA256, _OWN_TOKENS, _OWN_BIAS}
_DESCRIPTIVE = ("general.", "GGUF.")  # of a file and of its form, not of what its directions do
# What does what a control vector does not, by kind.
OTHERWISE: Mapping[Kind, str] = {
    "ablate": "--to model takes the component out of a model's weights",
    "clamp": "`neurosteer gen` and `serve` clamp",
    "logits": "--to logit_bias writes what its server adds to logits",
}

# What a field says, by its name or in words, of directions that are taken away, or act in yet other ways.
_ABLATED = re.compile("project|ablat|orthogonal|reject|eras|remov", re.IGNORECASE)
_NOT_ADDED = re.compile(
    f"{_ABLATED.pattern}|subspace|rotat|angular|affine|multipl|clamp|replac|reflect", re.IGNORECASE
)


@dataclass(frozen=True)
class ControlVector:
    """A control-vector file as it is.

    `directions[k]` [d_model] float32, raw residual units: what scale 1 adds for `direction.k`.
    """

    path: Path
    sha256: str  # of the file
    directions: dict[int, Tensor]
    fields: Mapping[str, Any]

    @property
    def d_model(self) -> int:
        return len(next(iter(self.directions.values())))

    @property
    def model_hint(self) -> str | None:
        hint = self.fields.get(_HINT)
        return hint if isinstance(hint, str) else None

    @property
    def exported(self) -> tuple[SteeringVector, float] | None:
        """The vector that `write_control_vector` made the file of, less its latents, and its alpha."""
        if _OWN_METADATA not in self.fields:
            return None
        alpha = self.fields.get(_OWN_ALPHA)
        if not isinstance(alpha, float) or not np.isfinite(alpha) or alpha == 0:
            raise VectorFileError(f"{self.path}: its {_OWN_ALPHA} is {alpha!r}; export the vector again")
        metadata = VectorMetadata.from_json(str(self.fields[_OWN_METADATA]), str(self.path))
        pushes = {point: push / alpha for point, push in self.at_points("llama.cpp").items()}
        if set(map(str, pushes)) != set(metadata.points) or self.d_model != metadata.model_shape.d_model:
            raise VectorFileError(
                f"{self.path}: its directions do not fit its metadata; export the vector again"
            )
        return SteeringVector(
            metadata, pushes, {}, NO_TEXTS, self._own_bias(metadata.model_shape.d_vocab)
        ), alpha

    def _own_bias(self, d_vocab: int) -> TokenBias | None:
        ids, bias = self.fields.get(_OWN_TOKENS, []), self.fields.get(_OWN_BIAS, [])
        if len(ids) != len(bias) or not set(ids) <= set(range(d_vocab)):
            raise VectorFileError(
                f"{self.path}: its {_OWN_BIAS} does not fit its metadata; export the vector again"
            )
        return TokenBias(torch.tensor(ids), torch.tensor(bias)) if ids else None

    @property
    def unknown_fields(self) -> dict[str, Any]:
        """What the file says beyond what llama.cpp reads of it."""
        return {
            name: value
            for name, value in self.fields.items()
            if name not in _KNOWN and not name.startswith(_DESCRIPTIVE)
        }

    def check_acts(self, kind: Kind, warn: Callable[[str], None]) -> None:
        """Hold what the file says of its directions against how they are to act.

        `warn` is told what it says that is not known here.

        Raises:
            VectorFileError: it says that they are to be, say, projected out, and they are to be added.
        """
        for name, value in self.unknown_fields.items():
            said = f"{name} = {value}" if isinstance(value, str | list) else name if value else ""
            is_ablated = _ABLATED.search(said)
            if _NOT_ADDED.search(said) and not (is_ablated and kind == "ablate"):
                way_out = (
                    "--kind ablate takes them out of it" if is_ablated else "nothing else is done with them"
                )
                raise VectorFileError(
                    f"{self.path}: {name} = {value!r}: its directions are not made to be added to the "
                    f"residual; {way_out}"
                )
        taken = "taken out of it" if kind == "ablate" else "added as they are"
        if named := ", ".join(f"{name} = {value!r}"[:80] for name, value in self.unknown_fields.items()):
            warn(f"{self.path}: {named}: not known here; its directions are taken to be {taken}")

    def at_points(self, origin: str) -> dict[HookPoint, Tensor]:
        """The directions by hook point, from the first block to the last; `origin` is one of ORIGINS."""
        first, shift = ORIGINS[origin]
        if min(self.directions) < first:
            raise VectorFileError(
                f"{self.path}: holds {_DIRECTION}0, and {origin} counts from {first}; "
                "--gguf-origin names another program"
            )
        return {HookPoint(k - shift): push for k, push in self.directions.items()}

    def check_fits(
        self, points: Iterable[HookPoint], config: Any, model_id: str, warn: Callable[[str], None]
    ) -> None:
        """Hold the file, to be added at some hook points, against a model's configuration.

        `warn` is told of a family that is not known here: it may be the model's by another name.
        """
        shape, hint, last = shape_of(config), self.model_hint, max(points).layer
        family = config.get_text_config().model_type
        if self.d_model != shape.d_model:
            own, other = f"has d_model={self.d_model}", f"has d_model={shape.d_model}"
        elif last >= shape.n_layers:
            own, other = f"acts on block {last}", f"has {shape.n_layers} blocks, 0 to {shape.n_layers - 1}"
        elif hint is None or hint.lower() in llama_cpp.names_of(config):
            return
        else:
            own, other = f"was made for a model of type {hint!r}", f"is of type {family!r}"
            if not (llama_cpp.is_known(hint.lower()) and llama_cpp.is_known(family)):
                warn(f"{self.path} {own}, model {model_id!r} {other}: taken to be the same")
                return
        raise IncompatibleVectorError(
            f"{self.path} {own}, model {model_id!r} {other}: pass --model with the model it was made for"
        )


def write_control_vector(vector: SteeringVector, alpha: float, path: Path, *, name: str, sha256: str) -> None:
    """Write alpha times a vector as llama.cpp's control vector: `direction.k` acts on block k's output.

    What a vector that pushes adds to logits besides is kept for `import`; llama.cpp does not read it.
    `name` and `sha256` are those of the vector's file, for errors and for the record.

    Raises:
        IncompatibleVectorError: the vector adds nothing to residuals, or adds before the output of block 1.
    """
    import gguf

    if not vector.adds:
        raise IncompatibleVectorError(
            f"{name} is of the kind {vector.metadata.kind}, and llama.cpp adds control vectors: "
            + OTHERWISE[vector.metadata.kind]
        )
    pushes = vector.after_blocks(alpha)
    if min(pushes) < 1:
        place = "the output of block 0" if min(pushes) == 0 else "what enters block 0"
        raise IncompatibleVectorError(
            f"{name} acts on {place}; a control vector begins at the output of block 1: "
            "fit at a later block, or use `neurosteer gen`"
        )
    hint = llama_cpp.name_of_architecture(vector.metadata.model_shape.architecture)
    with replace_file(path) as temporary, closing(gguf.GGUFWriter(temporary, _ARCHITECTURE)) as writer:
        writer.add_string(_HINT, hint)
        writer.add_int32(_COUNT, len(pushes))
        writer.add_string(_OWN_METADATA, _after_blocks(vector.metadata).to_json())
        writer.add_float64(_OWN_ALPHA, alpha)
        writer.add_string(_OWN_SHA256, sha256)
        if vector.bias:
            writer.add_array(_OWN_TOKENS, vector.bias.ids.tolist())
            writer.add_array(_OWN_BIAS, vector.bias.bias.tolist())
        for block, push in pushes.items():
            writer.add_tensor(f"{_DIRECTION}{block}", push.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()


def _after_blocks(metadata: VectorMetadata) -> VectorMetadata:
    """The same metadata with what enters block L named as the output of block L-1."""
    points = {
        str(HookPoint(HookPoint.parse(name).after_block)): point for name, point in metadata.points.items()
    }
    return metadata.model_copy(update={"points": points})


def read_control_vector(path: Path) -> ControlVector:
    """Read a control-vector file; a VectorFileError says why it is none."""
    if os.path.isdir(path):
        raise InputError(
            f"{path}: {known_kind(path) or 'is a directory; name a control-vector file (.gguf)'}"
        )
    if not is_stdin(str(path)) and not os.path.exists(path):
        raise InputError(f"{path}: no such file")
    with spooled(str(path)) as readable:
        return _control_vector(path, Path(readable))


def _control_vector(path: Path, readable: Path) -> ControlVector:
    """The file that is called `path`, and can be read more than once."""
    fields, tensors = _parsed(path, readable)
    architecture = fields.get("general.architecture")
    if architecture != _ARCHITECTURE:
        raise VectorFileError(f"{path}: a GGUF file of {architecture!r}, not a control vector; {GGUF.use}")
    directions = {_block(tensor.name, path): _direction(tensor, path) for tensor in tensors}
    if not directions:
        raise VectorFileError(f"{path}: holds no {_DIRECTION}k")
    if len({len(push) for push in directions.values()}) > 1:
        raise VectorFileError(f"{path}: its directions differ in length; one d_model is needed")
    return ControlVector(path, file_sha256(readable), dict(sorted(directions.items())), fields)


def _parsed(path: Path, readable: Path) -> tuple[dict[str, Any], Sequence[Any]]:
    """A GGUF file's fields, by name, and tensors."""
    import gguf

    try:
        with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
            reader = gguf.GGUFReader(readable)
            fields = {name: field.contents() for name, field in reader.fields.items()}
    except Exception as error:  # the reader raises whatever the file's damage leads to
        kind = known_kind(readable)
        is_another = kind not in (GGUF, CONTROL_VECTOR, None)
        why = kind if is_another else f"damaged, or not a GGUF file ({one_line(error)})"
        raise VectorFileError(f"{path}: {why}") from error
    return fields, reader.tensors


def _block(name: str, path: Path) -> int:
    if not (match := _NUMBERED.fullmatch(name)):
        raise VectorFileError(f"{path}: tensor {name!r} is not a {_DIRECTION}k")
    return int(match[1])


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
