"""A copy of a checkpoint folder with some weights changed: one file of weights in memory at a time.

Knows files of weights, configurations and tokenizers; knows nothing of vectors or why weights change.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ...errors import IncompatibleVectorError, ModelError, OutputError
from ...files import make_folder

NOTE_FILE = "neurosteer.json"
_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
# Weights in other forms would be the unsteered ones.
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".gguf", ".onnx", ".ot", ".index.json")
_NOT_LLAMA = {"sliding_window", "use_sliding_window", "max_window_layers", "layer_types"}


class Made(NamedTuple):
    """A weight that a checkpoint does not have, made of one that it has."""

    of: str
    how: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Changes:
    """What becomes of a checkpoint."""

    made: Mapping[str, Made] = field(default_factory=dict)
    changed: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)  # float32; those made too
    config: Mapping[str, Any] = field(default_factory=dict)  # what else it says

    def __or__(self, other: "Changes") -> "Changes":
        """Both; no weight is changed by both."""
        return Changes(
            {**self.made, **other.made}, {**self.changed, **other.changed}, {**self.config, **other.config}
        )


@dataclass(frozen=True)
class Checkpoint:
    """A folder of safetensors weights, and `config`, what transformers reads from it."""

    folder: Path
    config: Any

    @cached_property
    def files(self) -> dict[str, set[str]]:
        """The names of the weights in each file, the files as transformers chooses them."""
        return {file: _tensor_names(self.folder / file) for file in _weight_files(self.folder)}

    @property
    def names(self) -> set[str]:
        return {name for names in self.files.values() for name in names}

    def copy(self, target: Path, changes: Changes, note: Mapping[str, Any]) -> None:
        """Write a changed copy; all else is copied too, and `neurosteer.json` keeps the note.

        Args:
            target: the folder to make; nothing is left of it where that fails.

        Raises:
            IncompatibleVectorError: a change leads to numbers too large for a weight's type.
            ModelError: the folder is damaged.
            OutputError: the copy cannot be written.
        """
        with make_folder(target) as part:
            _copy_rest(self.folder, part)
            _write_tokenizer(self.folder, part)
            added: dict[str, tuple[str, Tensor]] = {}
            for file, names in self.files.items():
                new = {name: made for name, made in changes.made.items() if made.of in names}
                if new or not names.isdisjoint(changes.changed):
                    shapes = _copy_changed(self.folder / file, part / file, new, changes)
                    added |= {name: (file, shapes[name]) for name in new}
                else:
                    shutil.copyfile(self.folder / file, part / file)
            self._write_index(part, added)
            self._write_config(part, changes.config)
            (part / NOTE_FILE).write_text(json.dumps(note, indent=2, sort_keys=True) + "\n")

    def _write_index(self, part: Path, added: Mapping[str, tuple[str, Tensor]]) -> None:
        """Write the index of a checkpoint of several files, with the weights made and the file of each."""
        if not (self.folder / _INDEX).is_file() or (self.folder / _SINGLE).is_file():
            return
        index = _read_json(self.folder / _INDEX)
        where = {name: file for name, (file, _) in added.items()}
        new = [like for _, like in added.values()]
        index["weight_map"] = dict(sorted({**index["weight_map"], **where}.items()))
        totals = index.setdefault("metadata", {})
        if "total_size" in totals:
            totals["total_size"] += sum(like.nbytes for like in new)
        if "total_parameters" in totals:
            totals["total_parameters"] += sum(like.numel() for like in new)
        (part / _INDEX).write_text(json.dumps(index, indent=2) + "\n")

    def _write_config(self, part: Path, becomes: Mapping[str, Any]) -> None:
        """Write the configuration: as it was but for `becomes`, and for what Llama and older readers need."""
        written = _read_json(self.folder / "config.json")
        written |= _as_version_4_says_it(self.config, written)
        if "model_type" in becomes:  # its defaults are not Llama's: say everything
            older = {"rope_theta", "rope_scaling"} & written.keys() and "rope_parameters" not in written
            left_out = {*_NOT_LLAMA, "rope_parameters"} if older else _NOT_LLAMA
            everything = {**self.config.to_dict(), **written}
            written = {key: value for key, value in everything.items() if key not in left_out}
        (part / "config.json").write_text(json.dumps({**written, **becomes}, indent=2) + "\n")


def _weight_files(folder: Path) -> list[str]:
    """A checkpoint's files of weights, as transformers chooses them."""
    if (folder / _SINGLE).is_file():
        return [_SINGLE]
    if (folder / _INDEX).is_file():
        return sorted(set(_read_json(folder / _INDEX)["weight_map"].values()))
    return sorted(path.name for path in folder.glob("*.safetensors"))


def _tensor_names(path: Path) -> set[str]:
    try:
        with safe_open(path, framework="pt") as file:
            return set(file.keys())
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path.parent}: damaged weights ({error})") from error


def _copy_changed(source: Path, target: Path, new: Mapping[str, Made], changes: Changes) -> dict[str, Tensor]:
    """Copy a file of weights, changed and with new ones; what is in it then, as tensors on no device."""
    try:
        with safe_open(source, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata()
        tensors |= {name: made.how(tensors[made.of]) for name, made in new.items()}
        for name in tensors.keys() & changes.changed.keys():
            tensors[name] = _changed(name, tensors[name], changes.changed[name])
        save_file(tensors, target, metadata=metadata)
    except SafetensorError as error:
        raise OutputError(f"{target.name}: cannot be copied ({error})") from error
    return {name: tensor.to("meta") for name, tensor in tensors.items()}


def _changed(name: str, tensor: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    new = change(tensor.float()).to(tensor.dtype).contiguous()
    if not bool(torch.isfinite(new).all()):
        raise IncompatibleVectorError(
            f"{name}: what is baked in is too large for {tensor.dtype}; use a smaller --alpha"
        )
    return new


def _copy_rest(folder: Path, part: Path) -> None:
    """Copy what is not weights: tokenizer, generation configuration, templates, licence."""
    for path in sorted(folder.rglob("*")):
        inner = path.relative_to(folder)
        hidden = any(name.startswith(".") for name in inner.parts)
        if path.is_file() and not hidden and not path.name.endswith(_WEIGHTS):
            (part / inner).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, part / inner)


def _as_version_4_says_it(config: Any, written: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration of transformers 5 says, in version 4's names, which vLLM, llama.cpp and more read.

    Version 5 reads both. Without them version 4 takes its own default for the base of rotary embeddings.
    """
    older = {"torch_dtype": written["dtype"]} if "dtype" in written else {}
    if config.model_type == "gpt2":
        older["n_ctx"] = config.n_positions  # which llama.cpp's converter asks for
    if "rope_parameters" not in written:
        return older
    rope = dict(config.rope_parameters)
    base, kind = rope.pop("rope_theta"), rope["rope_type"]
    older["rope_theta"] = base
    if (share := rope.pop("partial_rotary_factor", None)) is not None:
        older["partial_rotary_factor"] = share
    if config.model_type == "gpt_neox":
        older |= {"rotary_emb_base": base, "rotary_pct": share}
    if kind != "default":
        older["rope_scaling"] = rope
    trained_on = rope.get("original_max_position_embeddings")
    if kind == "longrope" and (rope.get("factor") is None or trained_on != config.max_position_embeddings):
        older["original_max_position_embeddings"] = trained_on
    return older


def _write_tokenizer(folder: Path, part: Path) -> None:
    """Write what version 5 says of a tokenizer in version 4's words; tokenizer.json says the rest."""
    name = "tokenizer_config.json"
    if not (folder / name).is_file() or not (folder / "tokenizer.json").is_file():
        return
    config = _read_json(folder / name)
    if config.get("backend") != "tokenizers":
        return
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    config.setdefault("model_input_names", ["input_ids", "attention_mask"])  # version 4 adds token types
    if isinstance(config.get("extra_special_tokens"), list):
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    if "model_specific_special_tokens" in config:
        config["extra_special_tokens"] = config.pop("model_specific_special_tokens")
    (part / name).write_text(json.dumps(config, indent=2) + "\n")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: damaged ({error})") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path}: damaged (not a JSON object)")
    return found
