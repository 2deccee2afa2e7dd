"""Tiny checkpoints with vectors baked into them, and what they give."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import RESID_PRE, HookPoint, add
from neurosteer_cli.models.load import read_config
from neurosteer_cli.models.shape import shape_of
from neurosteer_cli.vectors.exchange.bake import bake
from neurosteer_cli.vectors.kinds import TokenBias
from neurosteer_cli.vectors.metadata import Kind
from neurosteer_cli.vectors.vector import SteeringVector

from .tiny import (
    BAKED_CONFIGS,
    CONFIGS,
    D_MODEL,
    D_VOCAB,
    GPT_SIZES,
    N_LAYERS,
    SIZES,
    tiny_tokenizer,
    tiny_vector,
)

_ONE_KEY = {**SIZES, "num_key_value_heads": 1}
FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": CONFIGS["llama"],
    "llama with biases": lambda: transformers.LlamaConfig(**SIZES, mlp_bias=True, attention_bias=True),
    "mistral": lambda: transformers.MistralConfig(
        **_ONE_KEY, head_dim=6, sliding_window=None, rope_theta=1e6, rms_norm_eps=1e-3
    ),
    "qwen2": lambda: transformers.Qwen2Config(
        **_ONE_KEY, rope_theta=1e6, rms_norm_eps=1e-3, tie_word_embeddings=True
    ),
    "gpt2": CONFIGS["gpt2"],
    "gpt_neox": CONFIGS["gpt_neox"],
    "gpt_neox in sequence": lambda: transformers.GPTNeoXConfig(**SIZES, use_parallel_residual=False),
    **BAKED_CONFIGS,
    "phi": lambda: transformers.PhiConfig(**SIZES),
    "starcoder2": lambda: transformers.Starcoder2Config(**_ONE_KEY, sliding_window=4),
}  # fmt: skip
# Further families whose layers write to the residual stream as they are.
WRITING: dict[str, Callable[[], Any]] = {
    "qwen3": CONFIGS["qwen3"],
    "phi3": lambda: transformers.Phi3Config(**_ONE_KEY, pad_token_id=257),
    "gemma": lambda: transformers.GemmaConfig(**_ONE_KEY, head_dim=8),
    "olmo": lambda: transformers.OlmoConfig(**_ONE_KEY),
    "granite": lambda: transformers.GraniteConfig(
        **_ONE_KEY, embedding_multiplier=3.0, residual_multiplier=0.5, logits_scaling=2.0,
        attention_bias=True, tie_word_embeddings=True,
    ),
    "cohere": lambda: transformers.CohereConfig(**_ONE_KEY, logit_scale=0.5),
    "stablelm": lambda: transformers.StableLmConfig(**_ONE_KEY),
    "smollm3": lambda: transformers.SmolLM3Config(**_ONE_KEY),
    "nemotron": lambda: transformers.NemotronConfig(**_ONE_KEY, head_dim=8),
    "falcon": lambda: transformers.FalconConfig(
        vocab_size=D_VOCAB, hidden_size=D_MODEL, num_hidden_layers=N_LAYERS, num_attention_heads=2, bias=True
    ),
}  # fmt: skip
_EXPERTS = {**_ONE_KEY, "head_dim": 8}
# Families whose heads have a bias, or can have one.
HEADS: dict[str, Callable[[], Any]] = {
    **{family: FAMILIES[family] for family in ("gptj", "codegen", "phi")},
    "gptj tied": lambda: transformers.GPTJConfig(**GPT_SIZES, rotary_dim=4, tie_word_embeddings=True),
    "phimoe": lambda: transformers.PhimoeConfig(**_EXPERTS),
    "phimoe with a bias": lambda: transformers.PhimoeConfig(**_EXPERTS, lm_head_bias=True),
}
PUSHES = {
    block: torch.randn(D_MODEL, generator=torch.Generator().manual_seed(block)) * 3 for block in (0, 2, 3)
}
URGED = TokenBias(torch.tensor([3, 250, 97]), torch.tensor([0.5, -0.25, 4.0]))
IDS = torch.tensor([list(b"a prompt of some tokens"), list(b"and another one, padded")])  # [batch, pos]


def save(folder: Path, config: Any, *, shard: str = "50GB", dtype: torch.dtype = torch.float32) -> Path:
    """A tiny model whose biases are not zero, in files of a given size."""
    torch.manual_seed(0)
    config.bos_token_id, config.eos_token_id, config.pad_token_id = 256, 257, 257
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(
                parameter * 8 if parameter.dim() > 1 else parameter + torch.randn_like(parameter) / 8
            )
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def pushing(source: Path, pushes: dict[int, Tensor]) -> SteeringVector:
    """A vector whose pushes are added, at alpha 1, to the outputs of blocks; -1 is the embedding."""
    points = {HookPoint(block) if block >= 0 else HookPoint(0, RESID_PRE): p for block, p in pushes.items()}
    return tiny_vector(shape_of(read_config(source)), points)


def ablating(source: Path, points: int = 2) -> SteeringVector:
    """A vector that ablates, with a direction of its own at each hook point."""
    draw = torch.Generator().manual_seed(7)
    pushes = {block: torch.randn(D_MODEL, generator=draw) for block in range(1, 1 + points)}
    return of_kind("ablate", pushing(source, pushes))


def urging(source: Path, pushes: dict[int, Tensor] | None = None) -> SteeringVector:
    """A vector that adds to logits, and pushes besides if it has pushes."""
    return of_kind("add" if pushes else "logits", replace(pushing(source, pushes or {}), bias=URGED))


def of_kind(kind: Kind, vector: SteeringVector) -> SteeringVector:
    """The same vector, acting in another way."""
    return replace(vector, metadata=vector.metadata.model_copy(update={"kind": kind}))


def baked(source: Path, target: Path, pushes: dict[int, Tensor] = PUSHES) -> Path:
    """A copy with pushes baked in."""
    return baked_in(pushing(source, pushes), source, target)


def baked_in(vector: SteeringVector, source: Path, target: Path, alpha: float = 1.0) -> Path:
    """A copy with a vector baked in."""
    bake(vector, alpha, source, read_config(source), target, model_id="tiny", note={"alpha": alpha})
    return target


def plain_logits(folder: Path) -> Tensor:
    """What transformers alone gives, every weight of the folder used, [batch, pos, d_vocab]."""
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.inference_mode():
        logits: Tensor = model.eval()(input_ids=IDS).logits
    return logits


def steered_logits(folder: Path, pushes: dict[int, Tensor]) -> Tensor:
    """What our engine gives with pushes at every position, [batch, pos, d_vocab]."""
    engine = Engine.load(str(folder), dtype="float32", device="cpu")
    with torch.inference_mode(), add(engine.blocks, {HookPoint(b): push for b, push in pushes.items()}):
        logits: Tensor = engine.model(input_ids=IDS).logits
    return logits
