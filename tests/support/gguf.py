"""GGUF files of tiny models, whole or with a hole, in one file or in shards, written by the gguf package."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from support.tiny import CHAT_TEMPLATE, D_VOCAB, tiny_model
from tokenizers import pre_tokenizers

# a token each: bytes, then ends and markers, then what merges make
NORMAL, CONTROL = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL


def tokens() -> tuple[list[str], list[int], list[str]]:
    """The vocabulary of a file: tokens, their types, merges. 256 to 261 are control tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    control = ["<s>", "</s>", "<|eot|>", "<|eom|>", "<think>", "</think>"]
    pairs = [f"{one}{other}" for one in "aeiou" for other in "bcdfghjklm"][: D_VOCAB - 256 - len(control)]
    types = [NORMAL] * 256 + [CONTROL] * len(control) + [NORMAL] * len(pairs)
    return [*alphabet, *control, *pairs], types, [" ".join(pair) for pair in pairs]


def save_gguf(
    path: Path,
    *,
    model: Any = None,
    architecture: str = "llama",
    keep: Callable[[str], bool] = lambda _name: True,
    n_shards: int = 1,
    chat_template: str | None = CHAT_TEMPLATE,
    fields: dict[str, Any] | None = None,
    tensors: dict[str, "np.ndarray[Any, Any]"] | None = None,
) -> list[Path]:
    """Write a tiny Llama's file, or its shards; those written. `keep` says which tensors stay."""
    model = tiny_model("llama") if model is None else model
    writer = gguf.GGUFWriter(
        path, architecture, split_max_tensors=0 if n_shards == 1 else -(-len(model.state_dict()) // n_shards)
    )
    _add_config(writer, model.config)
    _add_tokenizer(writer, chat_template)
    for name, value in (fields or {}).items():
        kind = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32}[type(value)]
        kind(name, value)
    for name, array in {**_tensors(model), **(tensors or {})}.items():
        if keep(name):
            writer.add_tensor(name, array)
    before = set(path.parent.iterdir())
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(set(path.parent.iterdir()) - before)


def _add_config(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_key_length(config.head_dim)
    writer.add_vocab_size(config.vocab_size)


def _add_tokenizer(writer: gguf.GGUFWriter, chat_template: str | None) -> None:
    vocabulary, types, merges = tokens()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(vocabulary)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(257)
    if chat_template:
        writer.add_chat_template(chat_template)


def _tensors(model: Any) -> dict[str, "np.ndarray[Any, Any]"]:
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, model.config.num_hidden_layers)
    found = {}
    for hf_name, tensor in model.state_dict().items():
        stem, _, suffix = hf_name.rpartition(".")
        array = tensor.numpy()
        if stem.endswith(("q_proj", "k_proj")):
            array = _interleaved(array, model.config.head_dim)
        found[f"{names.get_name(stem)}.{suffix}"] = np.ascontiguousarray(array)
    return found


def _interleaved(array: "np.ndarray[Any, Any]", head_dim: int) -> "np.ndarray[Any, Any]":
    """Rows of each head in llama.cpp's order: the halves that rotate together side by side."""
    heads = array.reshape(-1, 2, head_dim // 2, array.shape[-1])
    return heads.swapaxes(1, 2).reshape(array.shape)
