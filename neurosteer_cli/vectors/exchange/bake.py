"""Bake a push into a checkpoint as a bias: a plain Hugging Face folder that writes steered text by itself.

Knows checkpoint folders and where in a block a bias adds to the residual stream; knows nothing of tokens.
"""

import json
import re
import shutil
from collections.abc import Container, Iterable, Mapping, Sequence
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
_MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


class BiasSite(NamedTuple):
    """Where the blocks of a model family take a push: a bias that is added to the residual as it is."""

    blocks: str  # the name of the list of blocks
    module: str  # the last layer of a block's MLP
    biased: tuple[str, ...] = ()  # the layers that get a bias, of zeros elsewhere, where they have none
    becomes: Mapping[str, Any] = {}  # what the configuration says then

    def block_of(self, tensor: str, modules: Iterable[str], kind: str) -> int:
        """The block in which a tensor is the weight, or the bias, of one of the modules; -1 if in none."""
        pattern = rf"(?:.*\.)?{self.blocks}\.(\d+)\.(?:{'|'.join(map(re.escape, modules))})\.{kind}"
        match = re.fullmatch(pattern, tensor)
        return int(match[1]) if match else -1


_LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "mlp_bias": True}
_QWEN = {**_LLAMA, "attention_bias": True}
BIAS_SITES = {
    "llama": BiasSite("layers", "mlp.down_proj", _MLP, {"mlp_bias": True}),
    # the same arithmetic as Llama's, without sliding windows, and Llama's configuration knows biases
    "mistral": BiasSite("layers", "mlp.down_proj", _MLP, _LLAMA),
    "qwen2": BiasSite("layers", "mlp.down_proj", (*_MLP, "self_attn.o_proj"), _QWEN),
    "gpt2": BiasSite("h", "mlp.c_proj"),
    "gpt_neox": BiasSite("layers", "mlp.dense_4h_to_h"),
    "gpt_neo": BiasSite("h", "mlp.c_proj"),
    "gptj": BiasSite("h", "mlp.fc_out"),
    "gpt_bigcode": BiasSite("h", "mlp.c_proj"),
    "bloom": BiasSite("h", "mlp.dense_4h_to_h"),
    "opt": BiasSite("layers", "fc2"),
    "phi": BiasSite("layers", "mlp.fc2"),
    "starcoder2": BiasSite("layers", "mlp.c_proj"),
}
_NOT_LLAMA = {"sliding_window", "use_sliding_window", "max_window_layers", "layer_types"}
_POST_NORM = "it norms what the MLP gives before adding it, so a bias there would not be the push"
_NO_BIAS = "its MLP has no bias, and its configuration knows none"
NO_BIAS_SITE = {
    **dict.fromkeys(("gemma2", "gemma3_text", "gemma3", "olmo2", "olmo3"), _POST_NORM),
    **dict.fromkeys(("gemma", "qwen3", "phi3", "olmo"), _NO_BIAS),
}


def find_site(config: Any, model_id: str) -> BiasSite:
    """Where a model takes a push; if nowhere, an IncompatibleVectorError says why."""
    kind = config.model_type
    reason = None
    if kind not in BIAS_SITES:
        reason = NO_BIAS_SITE.get(kind, f"known are {', '.join(BIAS_SITES)}")
    elif getattr(config, "quantization_config", None):
        reason = "its weights are quantised; name the model they were made from with --model"
    elif _slides(config) and "model_type" in BIAS_SITES[kind].becomes:
        reason = "its attention slides over a window, and " + _NO_BIAS
    elif kind == "opt" and not config.do_layer_norm_before:
        reason = "it norms the residual after the MLP"
    if reason:
        raise IncompatibleVectorError(
            f"model {model_id!r} ({kind}) has no place for a push: {reason}. "
            "`neurosteer gen` steers it, and so does llama.cpp (--to gguf)"
        )
    return BIAS_SITES[kind]


def _slides(config: Any) -> bool:
    if kinds := getattr(config, "layer_types", None):
        return set(kinds) != {"full_attention"}
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

    Weights go through memory one file at a time; all else is copied; `neurosteer.json` keeps the note.

    Args:
        folder: the checkpoint, and `config` what transformers reads from it.
        pushes: what to add to the output of each block, [d_model].
        target: the folder to make; nothing is left of it where that fails.
    """
    site = find_site(config, model_id)
    if min(pushes) < 0:
        raise IncompatibleVectorError(
            f"a push on what enters block 0 of model {model_id!r} has no place: it follows no MLP; "
            "fit at the output of a block"
        )
    known = {file: _tensor_names(folder / file) for file in _weight_files(folder)}
    there = {name for names in known.values() for name in names}
    fresh = {file: _fresh_biases(site, names, there) for file, names in known.items()}
    takers = {site.block_of(name, [site.module], "bias"): name for name in there.union(*fresh.values())}
    if missing := pushes.keys() - takers:
        raise ModelError(
            f"{folder}: its weights have no {site.blocks}.{min(missing)}.{site.module}.bias to take the push"
        )
    added = {takers[block]: push for block, push in pushes.items()}
    with make_folder(target) as part:
        _copy_rest(folder, part)
        _write_tokenizer(folder, part)
        biases: list[Tensor] = []
        for file, names in known.items():
            if fresh[file] or added.keys() & names:
                biases += _copy_pushed(folder / file, part / file, fresh[file], added)
            else:
                shutil.copyfile(folder / file, part / file)
        _write_index(folder, part, fresh, biases)
        _write_config(folder, part, config, site.becomes if biases else {})
        (part / NOTE_FILE).write_text(json.dumps(note, indent=2, sort_keys=True) + "\n")


def _weight_files(folder: Path) -> list[str]:
    """A checkpoint's files of weights, as transformers chooses them."""
    if (folder / _SINGLE).is_file():
        return [_SINGLE]
    if (folder / _INDEX).is_file():
        return sorted(set(_read_json(folder / _INDEX)["weight_map"].values()))
    return sorted(path.name for path in folder.glob("*.safetensors"))


def _tensor_names(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path.parent}: damaged weights ({error})") from error


def _fresh_biases(site: BiasSite, names: Iterable[str], there: Container[str]) -> list[str]:
    """The biases that the weights of these names get, where there are none yet."""
    weights = [name for name in names if site.block_of(name, site.biased, "weight") >= 0]
    return [bias for name in weights if (bias := name.removesuffix("weight") + "bias") not in there]


def _copy_pushed(
    source: Path, target: Path, fresh: Sequence[str], pushes: Mapping[str, Tensor]
) -> list[Tensor]:
    """Copy a file of weights, the pushes added to its biases; return the fresh ones, zeros elsewhere."""
    try:
        with safe_open(source, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata()
        for name in fresh:
            weight = tensors[name.removesuffix("bias") + "weight"]
            tensors[name] = weight.new_zeros(len(weight))
        for name in tensors.keys() & pushes.keys():
            bias = tensors[name]
            tensors[name] = (bias.float() + pushes[name]).to(bias.dtype)
            if not bool(torch.isfinite(tensors[name]).all()):
                raise IncompatibleVectorError(
                    f"{name}: the push is too large for {bias.dtype}; use a smaller --alpha"
                )
        save_file(tensors, target, metadata=metadata)
    except SafetensorError as error:
        raise OutputError(f"{target.name}: cannot be copied ({error})") from error
    return [tensors[name] for name in fresh]


def _copy_rest(folder: Path, part: Path) -> None:
    """Copy what is not weights: tokenizer, generation configuration, templates, licence."""
    for path in sorted(folder.rglob("*")):
        inner = path.relative_to(folder)
        hidden = any(name.startswith(".") for name in inner.parts)
        if path.is_file() and not hidden and not path.name.endswith(_WEIGHTS):
            (part / inner).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, part / inner)


def _write_index(
    folder: Path, part: Path, fresh: Mapping[str, Sequence[str]], biases: Sequence[Tensor]
) -> None:
    """Write the index of a checkpoint of several files, the fresh biases of each file in it."""
    if not (folder / _INDEX).is_file() or (folder / _SINGLE).is_file():
        return
    index = _read_json(folder / _INDEX)
    added = {name: file for file, names in fresh.items() for name in names}
    index["weight_map"] = dict(sorted({**index["weight_map"], **added}.items()))
    totals = index.setdefault("metadata", {})
    if "total_size" in totals:
        totals["total_size"] += sum(bias.nbytes for bias in biases)
    if "total_parameters" in totals:
        totals["total_parameters"] += sum(bias.numel() for bias in biases)
    (part / _INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _write_config(folder: Path, part: Path, config: Any, becomes: Mapping[str, Any]) -> None:
    """Write the configuration: as it was but for the biases, and for what Llama and older readers need."""
    written = _read_json(folder / "config.json")
    written |= _as_version_4_says_it(config, written)
    if "model_type" in becomes:  # its defaults are not Llama's: say everything
        older = {"rope_theta", "rope_scaling"} & written.keys() and "rope_parameters" not in written
        left_out = {*_NOT_LLAMA, "rope_parameters"} if older else _NOT_LLAMA
        everything = {**config.to_dict(), **written}
        written = {key: value for key, value in everything.items() if key not in left_out}
    (part / "config.json").write_text(json.dumps({**written, **becomes}, indent=2) + "\n")


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
