"""Tiny randomly initialised models and SAEs, built from configurations: no weights are fetched."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.models.shape import ModelShape
from neurosteer_cli.vectors.metadata import Detector, PointMetadata, VectorMetadata
from neurosteer_cli.vectors.vector import SteeringVector

D_MODEL, N_LAYERS, D_VOCAB, CONTEXT = 16, 4, 300, 128
CHAT_TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)

SIZES = {
    "vocab_size": D_VOCAB, "hidden_size": D_MODEL, "intermediate_size": 32, "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 2, "max_position_embeddings": CONTEXT,
}  # fmt: skip
GPT_SIZES = {
    "vocab_size": D_VOCAB,
    "n_embd": D_MODEL,
    "n_layer": N_LAYERS,
    "n_head": 2,
    "n_positions": CONTEXT,
}
_LLAMA_LIKE = {**SIZES, "num_key_value_heads": 1, "head_dim": 8}
CONFIGS: dict[str, Any] = {
    "llama": lambda: transformers.LlamaConfig(**_LLAMA_LIKE),
    "mistral": lambda: transformers.MistralConfig(**_LLAMA_LIKE, sliding_window=64),
    "qwen3": lambda: transformers.Qwen3Config(**_LLAMA_LIKE),
    "gemma2": lambda: transformers.Gemma2Config(
        **_LLAMA_LIKE, query_pre_attn_scalar=8, sliding_window=64
    ),
    "gpt2": lambda: transformers.GPT2Config(**GPT_SIZES),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(**SIZES),
}  # fmt: skip
# Further families whose biases can take a push.
BAKED_CONFIGS: dict[str, Any] = {
    "gpt_neo": lambda: transformers.GPTNeoConfig(
        vocab_size=D_VOCAB, hidden_size=D_MODEL, intermediate_size=32, num_layers=N_LAYERS, num_heads=2,
        max_position_embeddings=CONTEXT, attention_types=[[["global", "local"], N_LAYERS // 2]],
    ),
    "gptj": lambda: transformers.GPTJConfig(**GPT_SIZES, rotary_dim=4),
    "gpt_bigcode": lambda: transformers.GPTBigCodeConfig(**GPT_SIZES),
    "codegen": lambda: transformers.CodeGenConfig(**{**GPT_SIZES, "n_head": 4}, rotary_dim=4, n_ctx=CONTEXT),
    "bloom": lambda: transformers.BloomConfig(
        vocab_size=D_VOCAB, hidden_size=D_MODEL, n_layer=N_LAYERS, n_head=2
    ),
    "opt": lambda: transformers.OPTConfig(
        vocab_size=D_VOCAB, hidden_size=D_MODEL, word_embed_proj_dim=D_MODEL, ffn_dim=32,
        num_hidden_layers=N_LAYERS, num_attention_heads=2, max_position_embeddings=CONTEXT,
    ),
}  # fmt: skip
FAMILIES = tuple(CONFIGS)


def tiny_model(family: str, seed: int = 0, n_layers: int = N_LAYERS) -> Any:
    """A randomly initialised causal language model in float32, its weights large enough to matter."""
    torch.manual_seed(seed)
    config = CONFIGS[family]()
    if n_layers != N_LAYERS:  # not for a family whose configuration has an entry a layer
        config.num_hidden_layers = n_layers
    config.bos_token_id, config.eos_token_id, config.pad_token_id = 256, 257, 257
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
    return model.eval()


def tiny_tokenizer(*, bos: bool = False, eos: bool = False, chat: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer: 256 bytes, then `<s>` (256) and `</s>` (257, also the pad token).

    `bos` and `eos`: whether it puts them before and after every text.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(["<s>", "</s>"])
    if bos or eos:
        raw.post_processor = processors.TemplateProcessing(
            single=f"{'<s> ' * bos}$A{' </s>' * eos}", special_tokens=[("<s>", 256), ("</s>", 257)]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    if chat:
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def save_tiny(
    folder: Path, family: str = "llama", *, seed: int = 0, n_layers: int = N_LAYERS, chat: bool = True
) -> Path:
    """Write a checkpoint folder with a tiny model and tokenizer."""
    tiny_model(family, seed, n_layers).save_pretrained(folder)
    tiny_tokenizer(chat=chat).save_pretrained(folder)
    return folder


def save_tiny_sae(
    folder: Path,
    *,
    d_sae: int = 64,
    d_model: int = D_MODEL,
    hook_name: str = "blocks.2.hook_resid_post",
    model_name: str = "tiny",
    seed: int = 0,
    **changes: Any,
) -> Path:
    """Write a TopK SAE in sae-lens's format; `changes` go into its configuration."""
    generator = torch.Generator().manual_seed(seed)
    W_dec = torch.randn(d_sae, d_model, generator=generator)
    W_dec /= W_dec.norm(dim=-1, keepdim=True)
    weights = {
        "W_dec": W_dec,
        "W_enc": W_dec.T.contiguous(),
        "b_enc": torch.zeros(d_sae),
        "b_dec": torch.zeros(d_model),
    }
    config = {
        "architecture": "topk", "k": 8, "d_in": d_model, "d_sae": d_sae, "dtype": "float32", "device": "cpu",
        "apply_b_dec_to_input": False, "normalize_activations": "none", "reshape_activations": "none",
        "rescale_acts_by_decoder_norm": False,
        "metadata": {"sae_lens_version": "6.54.12", "model_name": model_name, "hook_name": hook_name},
        **changes,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps(config))
    save_file(weights, folder / "sae_weights.safetensors")
    return folder


def save_tiny_bert(
    folder: Path, labels: tuple[str, ...] = (), *, multi_label: bool = False, seed: int = 0
) -> Path:
    """Write a tiny encoder, a classifier if it has labels, with a byte-level tokenizer."""
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=D_VOCAB, hidden_size=D_MODEL, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=CONTEXT, pad_token_id=257, initializer_range=0.3,
    )  # fmt: skip
    if labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: i for i, label in enumerate(labels)}
        config.problem_type = "multi_label_classification" if multi_label else None
        model: Any = transformers.BertForSequenceClassification(config)
    else:
        model = transformers.BertModel(config)
    model.save_pretrained(folder)
    tiny_tokenizer(bos=True, chat=False).save_pretrained(folder)
    return folder


def tiny_vector(
    shape: ModelShape,
    pushes: dict[HookPoint, torch.Tensor],
    *,
    resid_norm: float = 10.0,
    model_id: str = "tiny",
) -> SteeringVector:
    """A vector with these pushes, fitted on nothing."""
    points = {str(point): PointMetadata.without_texts(resid_norm) for point in pushes}
    metadata = VectorMetadata.new(model_id, shape, "diffmean", points)
    return SteeringVector(metadata, pushes, {}, torch.empty(0, dtype=torch.int64))


def of_kind(kind: str, made: SteeringVector) -> SteeringVector:
    """The same directions, acting in another way; the sides' middle is at 0."""
    points = {
        name: measured.model_copy(update={"middle": 0.0}) for name, measured in made.metadata.points.items()
    }
    return replace(made, metadata=made.metadata.model_copy(update={"kind": kind, "points": points}))


def detecting(made: SteeringVector, middle: float = 0.0, spread: float = 1.0) -> SteeringVector:
    """The same, with a detector."""
    known = Detector(middle=middle, spread=spread, slope=1.0, intercept=0.0, n_texts=9)
    return replace(made, metadata=made.metadata.model_copy(update={"detector": known}))
