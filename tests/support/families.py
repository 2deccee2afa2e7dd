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
    "vocab_size": D_VOCAB, "vocab_size_per_layer_input": D_VOCAB,
    "unpadded_vocab_size": D_VOCAB, "hidden_size": 32, "d_model": 32, "n_embd": 32,
    "dim_model": 32, "embed_dim": 32, "embedding_size": 32, "word_embed_proj_dim": 32, "emb_dim": 32,
    "input_embedding_size": 32, "decoder_hidden_size": 32, "lru_width": 32, "projection_dim": 32,
    "output_size": 32, "out_hidden_size": 32, "output_hidden_size": 32, "proj_dim": 32, "projector_dim": 32,
    "intermediate_size": 48, "ffn_dim": 48, "n_inner": 48, "ffn_hidden_size": 48, "dim_ff": 48, "dff": 48,
    "feed_forward_size": 48, "ffw_hidden_size": 48, "mlp_dim": 48, "shared_intermediate_size": 48,
    "intermediate_dim": 48, "inner_dim": 48, "hidden_size_per_layer_input": 8,
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
    "num_experts_per_tok": 2, "num_experts_per_token": 2, "moe_topk": 2, "moe_k": 2, "zero_expert_num": 2,
    "top_k_experts": 2, "experts_top_k": 2, "n_group": 1, "topk_group": 1, "num_expert_group": 1,
    "moe_router_topk": 2,
    "n_shared_experts": 1, "num_shared_experts": 1, "moe_num_shared_experts": 1,
    "first_k_dense_replace": 1, "num_dense_layers": 1, "num_nextn_predict_layers": 0,
    # recurrent layers
    "mamba_d_state": 8, "state_size": 8, "ssm_state_size": 8, "mamba_n_heads": 4, "mamba_num_heads": 4,
    "mamba_d_head": 16, "mamba_head_dim": 16, "mamba_n_groups": 1, "mamba_d_ssm": 64, "mamba_dt_rank": 4,
    "num_query_groups": 2, "adapter_rank": 8,
    "time_step_rank": 4, "conv_kernel": 4, "n_groups": 1, "mamba_chunk_size": 16, "chunk_size": 16,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    # lengths
    "max_position_embeddings": 128, "n_positions": 128, "max_seq_len": 128, "n_ctx": 128,
    "sliding_window": 16, "attention_window_size": 16, "attention_chunk_size": 16, "local_window": 16,
    # images and sound
    "image_size": 16, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 1,
    "num_position_embeddings": 16, "num_mel_bins": 8, "mrope_section": [2, 3, 3],
    "image_seq_length": 16, "mm_tokens_per_image": 4,
    # tokens
    "bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 257,
}  # fmt: skip

BY_LENGTH = sorted(SIZES, key=len, reverse=True)
DEPTHS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "decoder_layers", "depth")
# Sizes that some configurations leave open though their models cannot be built without.
NEEDED = {
    "head_dim", "num_key_value_heads", "n_routed_experts", "num_experts_per_tok", "n_shared_experts",
    "n_group", "topk_group", "index_head_dim", "index_n_heads",
}  # fmt: skip
# What some configurations cannot be made without.
FIRST = {
    "gemma4_assistant": {
        "text_config": {
            "hidden_size_per_layer_input": 0,
            "vocab_size_per_layer_input": 0,
            "num_kv_shared_layers": 30,
        }
    }
}
_ROPE = {"rope_type": "default", "rope_theta": 10_000.0}
_BY_KIND = {"full_attention": _ROPE, "sliding_attention": _ROPE}
_MLA = {"head_dim": 8, "v_head_dim": 8}  # rotary embeddings take it for their own
_PADDED = {"pad_token_id": 1}  # it must be a position too
_IN_TURNS = ["sliding_attention", "full_attention"] * 2
_SHARED_KEYS = {"layer_types": _IN_TURNS, "num_kv_shared_layers": 2}
_DOTS3 = {"head_dim": 16, "per_layer_config": {}}
_MROPE = {"rope_parameters": _ROPE | {"mrope_section": [2, 3, 3]}}
_QUERY_SPARSE = {
    "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 64,
    "indexer_compress_ratio": 4,
}  # fmt: skip
# What the sizes above do not settle, by the name of a configuration or of a part of one.
SPECIAL: dict[str, dict[str, Any]] = {
    "axk1": _MLA,
    "deepseek_v3": _MLA,
    "longcat_flash": _MLA,
    "youtu": _MLA,
    "camembert": _PADDED,
    "data2vec-text": _PADDED,
    "prophetnet": _PADDED,
    "roberta": _PADDED,
    "roberta-prelayernorm": _PADDED,
    "xlm-roberta": _PADDED,
    "xlm-roberta-xl": _PADDED,
    "xmod": _PADDED,
    "xglm": _PADDED,
    "kosmos_2_text_model": _PADDED | {"layers": N_BLOCKS},
    "kosmos_2_5_text_model": _PADDED | {"layers": N_BLOCKS},
    "chameleon": {"vocabulary_map": {"<image>": 299}},
    "cohere_compass_text": {"rope_parameters": _BY_KIND, "layer_types": _IN_TURNS},
    "cosmos3_edge_text": _MROPE,
    "glm4v_text": _MROPE,
    "qwen2_vl_text": _MROPE,
    "qwen2_5_vl_text": _MROPE,
    "paddleocr_vl_text": _MROPE,
    "qwen2_5_omni_text": _MROPE,
    "glm_ocr_text": _MROPE,
    "attn_config": {"rope_theta": 10_000.0, "clip_qkv": 8.0},  # of DBRX
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "mllama_text_model": {"cross_attention_layers": [2]},
    "modernbert-decoder": {"layer_types": _IN_TURNS},
    "bamba": {"attn_layer_indices": [1, 3]},
    "aria": {"projector_patch_to_query_dict": {16: 4}},
    "deepseek_ocr2_text": {"mlp_layer_types": ["dense", *["sparse"] * 3]},
    "dots3_note_audio_encoder": {"adapter_input_size": 32},
    "dots3_note_vision_encoder": {"adapter_in_dim": 32},
    "dory": {
        "num_hidden_layers": N_BLOCKS,
        "n_input_layers": 1,
        "n_recurrent_layers": 2,
        "n_output_layers": 1,
        "layer_types": ["sliding_attention", "mlp", "full_attention", "mlp"],
    },
    "dots3_note": _DOTS3,
    "dots3_note_text": _DOTS3,
    "emu3": {"vocabulary_map": {"<image>": 299}},
    "ernie4_5_vl_moe_text": {
        "rope_parameters": _ROPE | {"mrope_section": [3, 3, 2]},
        "moe_intermediate_size": [48, 48],
    },
    "gemma3n_text": {
        **_SHARED_KEYS,
        "laurel_rank": 4,
        "activation_sparsity_pattern": [0.9, 0.0, 0.0, 0.0],
        "intermediate_size": [48] * N_BLOCKS,
    },
    "gemma4_text": _SHARED_KEYS | {"per_layer_config": {1: {"head_dim": 32}, 3: {"head_dim": 32}}},
    "glm4v_moe_text": {"rope_parameters": _ROPE | {"mrope_section": [1, 1, 2], "partial_rotary_factor": 0.5}},
    "glm5_next_text": {"qk_rope_head_dim": 0, "head_dim": 0},
    "granite4_vision": {
        "deepstack_layer_map": [[-1, 1]],
        "downsample_rate": "2/4",
        "spatial_target_layers": [2],
    },
    "hunyuan_vl_text": {"rope_parameters": _ROPE | {"mrope_section": [2, 2, 2, 2]}},
    "hy_v4_vl_text": {"rope_parameters": _ROPE | {"mrope_section": [1, 1, 2]}},
    "inkling_text": {"unpadded_vocab_size": D_VOCAB},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 4},
    "molmo2_adapter": {"vision_feature_layer": [3, 1]},
    "nemotron_h_omni": {"video_temporal_patch_size": 2},
    "radio": {"video_temporal_patch_size": 2},
    "adaptor_config": {"intermediate_size": 8},  # of Fun-ASR-Nano
    "mimi": {"upsample_groups": 1},
    "vibevoice_asr": {"acoustic_tokenizer_chunk_size": 3200 * 128},
    "wavtokenizer_encoder": {"codebook_dim": 32},
    "mimo_v2_flash": {"num_key_value_heads": 1},
    "qwen4_exp": _QUERY_SPARSE,
    "qwen4_exp_text": _QUERY_SPARSE,
    "reformer": {"is_decoder": True},
    "step3p5": {"sliding_window": 16},
    "xlstm": {"hidden_size": 64, "embedding_dim": 64, "num_blocks": N_BLOCKS},
    "xlnet": {"d_head": 16},
    "zamba": {
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "attention_hidden_size": 64,
        "attention_head_dim": 32,
    },
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "hybrid_layer_ids": [1, 3],
        "n_mamba_heads": 4,
        "mamba_headdim": 16,
        "attention_hidden_size": 64,
        "attention_head_dim": 32,
    },
    "zaya": {"num_experts_per_tok": 1},
}


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
        default = config_class(**FIRST.get(family, {}))
        return config_class.from_dict(_small(family, default.to_dict()))


def _shrunk(sizes: dict[str, Any], kind: str) -> dict[str, Any]:
    """The fields of a configuration, or of a part of one, with small sizes."""
    n_layers = next(
        (sizes[name] for name in DEPTHS if sizes.get(name)), len(sizes.get("layers_block_type") or ())
    )
    per_layer = [each for each in sizes.values() if isinstance(each, list) and len(each) == n_layers]
    own = sizes.get("per_layer_config") or {}
    layers = _kept_layers([*per_layer, [own.get(f"{i:02}") for i in range(n_layers)]], n_layers)
    small = {}
    for name, value in sizes.items():
        if isinstance(value, list) and len(value) == n_layers > N_BLOCKS:
            value = [value[i] for i in layers]
        if name == "per_layer_config":
            value = {i: own[f"{old:02}"] for i, old in enumerate(layers) if f"{old:02}" in own}
            small[name] = {i: {k: 2 * _small(k, v) for k, v in each.items()} for i, each in value.items()}
        else:
            small[name] = _small(name, value)
    return {**small, **SPECIAL.get(sizes.get("model_type") or kind, {})}


def _kept_layers(per_layer: list[list[Any]], n_layers: int) -> list[int]:
    """N_BLOCKS layers of a model of many, with one of each kind there is, as far as they go."""
    kinds = [str(kind) for kind in zip(*per_layer, strict=True)]
    first = sorted({kinds.index(kind) for kind in kinds})[:N_BLOCKS]
    others = [i for i in range(n_layers) if i not in first]
    return sorted(first + others[: N_BLOCKS - len(first)])


def _small(name: Any, value: Any) -> Any:
    name = str(name)
    if isinstance(value, dict):
        return _shrunk(value, name)
    if isinstance(value, list) and name == "mrope_section":
        return SIZES[name]
    if isinstance(value, list):
        return [_small(name, each) for each in value]
    if isinstance(value, bool) or not isinstance(value, int | float | None):
        return value
    known = next((size for size in BY_LENGTH if name == size or name.endswith("_" + size)), None)
    if known and (value is not None or known in NEEDED):
        return SIZES[known]
    if isinstance(value, int) and name.endswith(("_token_id", "_token_index")):
        return D_VOCAB - 1
    return value


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
