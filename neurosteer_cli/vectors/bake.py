"""Bake a push into a checkpoint as a bias: a plain Hugging Face folder that writes steered text by itself.

Knows checkpoint folders and where in a block a bias adds to the residual stream; knows nothing of
tokens or of how a push came about.
"""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import IncompatibleVectorError, ModelError, OutputError
from ..files import make_folder

NOTE_FILE = "neurosteer.json"
_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
# Weights in other forms would be the unsteered ones.
_OTHER_WEIGHTS = (
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".h5",
    ".msgpack",
    ".gguf",
    ".onnx",
    ".ot",
    ".index.json",
)
_MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


class Place(NamedTuple):
    """Where the blocks of a model family take a push: a bias that is added to the residual as it is."""

    blocks: str  # the name of the list of blocks
    module: str  # the last layer of a block's MLP
    biased: tuple[str, ...] = ()  # the layers that get a bias, of zeros elsewhere, where they have none
    becomes: Mapping[str, Any] = {}  # what the configuration says then  # noqa: RUF012


_LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "mlp_bias": True}
PLACES = {
    "llama": Place("layers", "mlp.down_proj", _MLP, {"mlp_bias": True}),
    # the same arithmetic as Llama's, without sliding windows, and Llama's configuration knows biases
    "mistral": Place("layers", "mlp.down_proj", _MLP, _LLAMA),
    "qwen2": Place(
        "layers", "mlp.down_proj", (*_MLP, "self_attn.o_proj"), {**_LLAMA, "attention_bias": True}
    ),
    "gpt2": Place("h", "mlp.c_proj"),
    "gpt_neox": Place("layers", "mlp.dense_4h_to_h"),
    "gpt_neo": Place("h", "mlp.c_proj"),
    "gptj": Place("h", "mlp.fc_out"),
    "gpt_bigcode": Place("h", "mlp.c_proj"),
    "bloom": Place("h", "mlp.dense_4h_to_h"),
    "opt": Place("layers", "fc2"),
    "phi": Place("layers", "mlp.fc2"),
    "starcoder2": Place("layers", "mlp.c_proj"),
}
_POST_NORM = "it norms what the MLP gives before adding it, so a bias there would not be the push"
_NO_BIAS = "its MLP has no bias, and its configuration knows none"
NO_PLACE = {
    **dict.fromkeys(("gemma2", "gemma3_text", "gemma3", "olmo2", "olmo3"), _POST_NORM),
    **dict.fromkeys(("gemma", "qwen3", "phi3", "olmo"), _NO_BIAS),
}


def find_place(config: Any, model_id: str) -> Place:
    """Where a model takes a push.

    Raises:
        IncompatibleVectorError: nowhere, or nowhere known; the message says why.
    """
    kind = config.model_type
    reason = None
    if kind not in PLACES:
        reason = NO_PLACE.get(kind, f"known are {', '.join(PLACES)}")
    elif getattr(config, "quantization_config", None):
        reason = "its weights are quantised; name the model they were made from with --model"
    elif _slides(config) and "model_type" in PLACES[kind].becomes:
        reason = "its attention slides over a window, and " + _NO_BIAS
    elif kind == "opt" and not config.do_layer_norm_before:
        reason = "it norms the residual after the MLP"
    if reason:
        raise IncompatibleVectorError(
            f"model {model_id!r} ({kind}) has no place for a push: {reason}. "
            "`neurosteer gen` steers it, and so does llama.cpp (--to gguf)"
        )
    return PLACES[kind]


def _slides(config: Any) -> bool:
    if getattr(config, "layer_types", None):
        return any(kind != "full_attention" for kind in config.layer_types)
    return getattr(config, "sliding_window", None) is not None


def bake(
    folder: Path,
    config: Any,
    pushes: Mapping[int, Tensor],
    target: Path,
    *,
    model_id: str,
    note: Mapping[str, Any],
) -> None:
    """Write a copy of a checkpoint folder that adds the pushes to every token by itself.

    Weights go through memory one file at a time. Tokenizer, generation configuration and all else
    are copied; `neurosteer.json` keeps the note.

    Args:
        folder: the checkpoint, and `config` what transformers reads from it.
        pushes: what to add to the output of each block, [d_model].
        target: the folder to make; it does not exist yet.

    Raises:
        IncompatibleVectorError: the model has no place for a push.
        ModelError: the weights are damaged or lack what the configuration promises.
        OutputError: the folder cannot be written; nothing is left of it.
    """
    place = find_place(config, model_id)
    if min(pushes) < 0:
        raise IncompatibleVectorError(
            f"a push on what enters block 0 of model {model_id!r} has no place: it follows no MLP; "
            "fit at the output of a block"
        )
    shards = _Shards.of(folder)
    with make_folder(target) as part:
        _copy_rest(folder, part)
        grown = _Grown()
        for name in shards.names:
            _write_shard(folder / name, part / name, shards.tensors, place, pushes, grown)
        if missing := set(pushes) - grown.pushed:
            raise ModelError(
                f"{folder}: its weights have no {place.blocks}.{min(missing)}.{place.module}.bias "
                "to take the push"
            )
        _write_index(folder, part, grown)
        _write_config(folder, part, config, place if grown.tensors else place._replace(becomes={}))
        (part / NOTE_FILE).write_text(json.dumps(note, indent=2, sort_keys=True) + "\n")


class _Shards(NamedTuple):
    """A checkpoint's files of weights, as transformers chooses them."""

    names: list[str]
    tensors: frozenset[str]  # the names of all tensors

    @classmethod
    def of(cls, folder: Path) -> "_Shards":
        if (folder / _SINGLE).is_file():
            names = [_SINGLE]
        elif (folder / _INDEX).is_file():
            names = sorted(set(_read_json(folder / _INDEX)["weight_map"].values()))
        else:
            names = sorted(path.name for path in folder.glob("*.safetensors"))
        try:
            tensors = [name for file in names for name in _tensor_names(folder / file)]
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{folder}: damaged weights ({error})") from error
        return cls(names, frozenset(tensors))


@dataclass
class _Grown:
    """What has been added to the weights so far."""

    pushed: set[int] = field(default_factory=set)  # blocks
    tensors: dict[str, str] = field(default_factory=dict)  # new tensors, and the file each is in
    n_bytes: int = 0
    n_elements: int = 0

    def take(self, name: str, file: str, tensor: Tensor) -> None:
        self.tensors[name] = file
        self.n_bytes += tensor.nbytes
        self.n_elements += tensor.numel()


def _tensor_names(path: Path) -> list[str]:
    with safe_open(path, framework="pt") as file:
        return list(file.keys())


def _write_shard(
    source: Path,
    target: Path,
    known: frozenset[str],
    place: Place,
    pushes: Mapping[int, Tensor],
    grown: _Grown,
) -> None:
    """Write one file of weights with the biases that belong to it; a file without any is copied as it is."""
    names = _tensor_names(source)
    takes_push = re.compile(rf"(?:.*\.)?{place.blocks}\.(\d+)\.{re.escape(place.module)}\.bias")
    fresh = list(_lacking(names, known, place))
    if not fresh and not any(_layer(takes_push, name) in pushes for name in names):
        shutil.copyfile(source, target)
        return
    try:
        with safe_open(source, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in names}
            metadata = file.metadata()
        for name in fresh:
            weight = tensors[name.removesuffix("bias") + "weight"]
            tensors[name] = torch.zeros(weight.shape[0], dtype=weight.dtype)
            grown.take(name, source.name, tensors[name])
        for name in tensors:
            layer = _layer(takes_push, name)
            if layer in pushes:
                tensors[name] = _pushed(tensors[name], pushes[layer], name)
                grown.pushed.add(layer)
        save_file(tensors, target, metadata=metadata)
    except SafetensorError as error:
        raise OutputError(f"{target.name}: cannot be copied ({error})") from error


def _lacking(names: list[str], known: frozenset[str], place: Place) -> Iterator[str]:
    """The biases to be added for these weights."""
    modules = "|".join(map(re.escape, place.biased))
    gets_bias = re.compile(rf"(?:.*\.)?{place.blocks}\.\d+\.(?:{modules})\.weight")
    for name in names if place.biased else ():
        bias = name.removesuffix("weight") + "bias"
        if gets_bias.fullmatch(name) and bias not in known:
            yield bias


def _layer(pattern: re.Pattern[str], name: str) -> int:
    """The block a tensor's name is of; -1 if the pattern is not the name's."""
    match = pattern.fullmatch(name)
    return int(match[1]) if match else -1


def _pushed(bias: Tensor, push: Tensor, name: str) -> Tensor:
    summed = (bias.float() + push).to(bias.dtype)
    if not bool(torch.isfinite(summed).all()):
        raise IncompatibleVectorError(
            f"{name}: the push is too large for {bias.dtype}; use a smaller --alpha"
        )
    return summed


def _copy_rest(folder: Path, part: Path) -> None:
    """Copy what is not weights: tokenizer, generation configuration, templates, licence."""
    for path in sorted(folder.rglob("*")):
        inner = path.relative_to(folder)
        hidden = any(name.startswith(".") for name in inner.parts)
        if path.is_file() and not hidden and not path.name.endswith(_OTHER_WEIGHTS):
            (part / inner).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, part / inner)


def _write_index(folder: Path, part: Path, grown: _Grown) -> None:
    """Write the index of a checkpoint of several files, the new tensors in it."""
    if not (folder / _INDEX).is_file() or (folder / _SINGLE).is_file():
        return
    index = _read_json(folder / _INDEX)
    index["weight_map"] = dict(sorted({**index["weight_map"], **grown.tensors}.items()))
    facts = index.setdefault("metadata", {})
    for key, more in (("total_size", grown.n_bytes), ("total_parameters", grown.n_elements)):
        if key in facts:
            facts[key] += more
    (part / _INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _write_config(folder: Path, part: Path, config: Any, place: Place) -> None:
    """Write the configuration: the file as it was but for the biases, or for what Llama needs to be told."""
    facts = _read_json(folder / "config.json")
    if "model_type" in place.becomes:  # its defaults are not Llama's: say everything
        legacy = {"rope_theta", "rope_scaling"} & facts.keys()
        told = {
            key: value for key, value in config.to_dict().items() if not (legacy and key == "rope_parameters")
        }
        facts = {key: value for key, value in {**told, **facts}.items() if key not in _NOT_LLAMA}
    facts.update(place.becomes)
    (part / "config.json").write_text(json.dumps(facts, indent=2) + "\n")


_NOT_LLAMA = {"sliding_window", "use_sliding_window", "max_window_layers", "layer_types"}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: damaged ({error})") from error
    if not isinstance(facts, dict):
        raise ModelError(f"{path}: damaged (not a JSON object)")
    return facts
