"""Every family of models that write text which transformers knows, built small from its configuration.

Knows transformers' mappings from a family's name to its classes, and which sizes a configuration has;
knows nothing of neurosteer.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from .tiny import tiny_tokenizer

N_BLOCKS = 4  # of the text; images' and sounds' encoders have as many, so that they can be mistaken for them
D_VOCAB = 300

# What a configuration calls its sizes. A key that ends in a name has its value, the longest name first.
SIZES: dict[str, Any] = {
    # width
    "vocab_size": D_VOCAB, "unpadded_vocab_size": D_VOCAB, "hidden_size": 32, "d_model": 32, "n_embd": 32,
    "dim_model": 32, "embed_dim": 32, "embedding_size": 32, "word_embed_proj_dim": 32, "emb_dim": 32,
    "input_embedding_size": 32, "decoder_hidden_size": 32, "lru_width": 32, "projection_dim": 32,
    "output_size": 32, "out_hidden_size": 32, "output_hidden_size": 32, "proj_dim": 32, "projector_dim": 32,
    "intermediate_size": 48, "ffn_dim": 48, "n_inner": 48, "ffn_hidden_size": 48, "dim_ff": 48, "dff": 48,
    "feed_forward_size": 48, "ffw_hidden_size": 48, "mlp_dim": 48, "shared_intermediate_size": 48,
    "intermediate_dim": 48, "inner_dim": 48,
    # heads
    "num_attention_heads": 2, "num_heads": 2, "n_head": 2, "n_heads": 2, "attention_heads": 2,
    "num_key_value_heads": 2, "n_kv_heads": 2, "num_kv_heads": 2, "kv_n_heads": 2,
    "head_dim": 16, "head_size": 16, "dim_head": 16, "d_kv": 16, "kv_channels": 16, "attention_head_dim": 16,
    "rotary_dim": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 16, "rope_head_dim": 8,
    "q_lora_rank": 8, "kv_lora_rank": 8, "o_lora_rank": 8, "lora_rank": 8, "r_rank": 8,
    "index_n_heads": 2, "index_head_dim": 16, "index_topk": 64,
    # depth
    "num_hidden_layers": N_BLOCKS, "num_layers": N_BLOCKS, "n_layer": N_BLOCKS, "n_layers": N_BLOCKS,
    "depth": N_BLOCKS, "encoder_layers": N_BLOCKS, "decoder_layers": N_BLOCKS, "n_layer_dense": 1,
    # experts
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4,
    "num_experts_per_tok": 2, "num_experts_per_token": 2, "moe_topk": 2, "moe_k": 2, "top_k_experts": 2,
    "experts_top_k": 2, "n_group": 1, "topk_group": 1, "num_expert_group": 1, "moe_router_topk": 2,
    "n_shared_experts": 1, "num_shared_experts": 1, "moe_num_shared_experts": 1,
    "first_k_dense_replace": 1, "num_dense_layers": 1, "num_nextn_predict_layers": 0,
    # recurrent layers
    "mamba_d_state": 8, "state_size": 8, "ssm_state_size": 8, "mamba_n_heads": 4, "mamba_num_heads": 4,
    "mamba_d_head": 16, "mamba_head_dim": 16, "mamba_n_groups": 1, "mamba_d_ssm": 64, "mamba_dt_rank": 4,
    "time_step_rank": 4, "conv_kernel": 4, "n_groups": 1, "mamba_chunk_size": 16, "chunk_size": 16,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    # lengths
    "max_position_embeddings": 128, "n_positions": 128, "max_seq_len": 128, "n_ctx": 128,
    "sliding_window": 16, "attention_window_size": 16, "attention_chunk_size": 16, "local_window": 16,
    # images and sound
    "image_size": 16, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 1,
    "num_position_embeddings": 16, "num_mel_bins": 8, "image_seq_length": 16, "mm_tokens_per_image": 4,
    # tokens
    "bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 257,
}  # fmt: skip


def all_families() -> list[tuple[str, str]]:
    """Every family and class of models that write text, alone or of images and sound with it.

    A family may have two: Qwen 3.5's text alone is one class, with images another.
    """
    mappings = (
        modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
    )
    return list(dict.fromkeys(item for mapping in mappings for item in mapping.items()))


def tiny_config(family: str) -> Any:
    """A family's configuration with small sizes."""
    config_class = CONFIG_MAPPING[family]
    with silence():
        default = config_class()
        return config_class.from_dict(_shrunk(default.to_dict(), family))


def _shrunk(sizes: dict[str, Any], family: str) -> dict[str, Any]:
    n_layers = next(
        (
            sizes[name]
            for name in ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
            if sizes.get(name)
        ),
        0,
    )
    return {name: _small(name, value, n_layers, family) for name, value in sizes.items()}


def _small(name: str, value: Any, n_layers: int, family: str) -> Any:
    if isinstance(value, dict):
        return _shrunk(value, family)
    if isinstance(value, list) and len(value) == n_layers and n_layers > N_BLOCKS:
        return _short(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        for size in sorted(SIZES, key=len, reverse=True):
            if name == size or name.endswith("_" + size):
                return SIZES[size]
    if (
        isinstance(value, int)
        and not isinstance(value, bool)
        and name.endswith(("_token_id", "_token_index"))
    ):
        return D_VOCAB - 1
    return value


def _short(per_layer: list[Any]) -> list[Any]:
    """The first entries of a list with one a layer, the last of each further kind in place of the last."""
    kept = per_layer[:N_BLOCKS]
    kinds = []
    for each in per_layer:
        if each not in kept and each not in kinds:
            kinds.append(each)
    return [*kept[: N_BLOCKS - len(kinds[:2])], *kinds[:2]]


def tiny_family(family: str, class_name: str, seed: int = 0) -> Any:
    """A randomly initialised model of a family in float32, its weights large enough to matter."""
    config = tiny_config(family)
    model_class = getattr(transformers, class_name)
    if (text := config.get_text_config()) is not config and model_class.config_class is type(text):
        config = text
    torch.manual_seed(seed)
    with silence():
        model = model_class._from_config(config, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
            else:  # gains and biases are random, so that none can be left out
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


def save_family(folder: Path, family: str, class_name: str) -> Path:
    """Write a checkpoint folder of a small model of a family."""
    with silence():
        tiny_family(family, class_name).save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
    return folder


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Say nothing of kernels that are not installed, of weights made anew and the like."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        quiet = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
        with warnings.catch_warnings(), quiet[0], quiet[1]:
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
