"""Where the weights of model families take what vectors do: pushes, ablations, biases of logits.

Knows names of weights and what configurations say; knows nothing of files, vectors or numbers.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ...errors import IncompatibleVectorError


class Family(NamedTuple):
    """The layers of a model family that write to the residual stream, by what their weights are called."""

    blocks: str  # the list of blocks
    attention: str  # the last layer of a block's attention
    mlp: str  # and of its MLP
    embeddings: tuple[str, ...]  # of tokens, then of positions
    head: str = "lm_head"
    is_transposed: bool = False  # whether the weights of blocks are [in, out], as GPT-2's

    def block_of(self, tensor: str, modules: Iterable[str], kind: str) -> int:
        """The block in which a tensor is the weight, or the bias, of one of the modules; -1 if in none."""
        pattern = rf"(?:.*\.)?{self.blocks}\.(\d+)\.(?:{'|'.join(map(re.escape, modules))})\.{kind}"
        match = re.fullmatch(pattern, tensor)
        return int(match[1]) if match else -1

    def embedding_of(self, tensor: str) -> int:
        """Which of the embeddings a tensor is the weight of; -1 if of none."""
        owner = tensor.removesuffix(".weight").rpartition(".")[2]
        return self.embeddings.index(owner) if owner in self.embeddings and tensor.endswith(".weight") else -1


class Biases(NamedTuple):
    """Which layers of a block get a bias, of zeros but for a push, where they have none."""

    modules: tuple[str, ...] = ()
    config: Mapping[str, Any] = {}  # what the configuration says then


_LLAMA = Family("layers", "self_attn.o_proj", "mlp.down_proj", ("embed_tokens",))
_GPT = Family("h", "attn.c_proj", "mlp.c_proj", ("wte", "wpe"))
FAMILIES = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma", "olmo", "granite"), _LLAMA),
    **dict.fromkeys(("cohere", "stablelm", "smollm3", "nemotron"), _LLAMA),
    "starcoder2": _LLAMA._replace(mlp="mlp.c_proj"),
    "opt": Family("layers", "self_attn.out_proj", "fc2", ("embed_tokens", "embed_positions")),
    "phi": Family("layers", "self_attn.dense", "mlp.fc2", ("embed_tokens",)),
    "gpt2": _GPT._replace(is_transposed=True),
    "gpt_bigcode": _GPT,
    "gpt_neo": _GPT._replace(attention="attn.attention.out_proj"),
    "gpt_neox": Family("layers", "attention.dense", "mlp.dense_4h_to_h", ("embed_in",), "embed_out"),
    **dict.fromkeys(("gptj", "codegen"), Family("h", "attn.out_proj", "mlp.fc_out", ("wte",))),
    **dict.fromkeys(
        ("bloom", "falcon"), Family("h", "self_attention.dense", "mlp.dense_4h_to_h", ("word_embeddings",))
    ),
}
_MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
_AS_LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "mlp_bias": True}
# Which families take a push, as the bias of the MLP's last layer: it is added to the residual as it is.
TAKE_PUSHES = {
    "llama": Biases(_MLP, {"mlp_bias": True}),
    # the same arithmetic as Llama's, without sliding windows, and Llama's configuration knows biases
    "mistral": Biases(_MLP, _AS_LLAMA),
    "qwen2": Biases((*_MLP, "self_attn.o_proj"), {**_AS_LLAMA, "attention_bias": True}),
    **dict.fromkeys(("gpt2", "gpt_neox", "gpt_neo", "gptj", "gpt_bigcode", "bloom", "opt", "phi"), Biases()),
    **dict.fromkeys(("starcoder2", "codegen"), Biases()),
}
# Which have a bias of the head, and what their configuration says where it is to have one.
HEADS_WITH_BIAS: Mapping[str, Mapping[str, Any]] = {
    **dict.fromkeys(("gptj", "codegen", "phi"), {}),
    "phimoe": {"lm_head_bias": True},
}

_POST_NORM = "it norms what the MLP gives before adding it, so a bias there would not be the push"
_NO_BIAS = "its MLP has no bias, and its configuration knows none"
_NORMED = "it norms what its layers give before adding it, and no weights keep a component out of that"
WITH_POST_NORMS = ("gemma2", "gemma3_text", "gemma3", "olmo2", "olmo3", "glm4")
TAKE_NO_PUSHES = {
    **dict.fromkeys(WITH_POST_NORMS, _POST_NORM),
    **dict.fromkeys(("gemma", "qwen3", "phi3", "olmo", "granite", "cohere", "stablelm", "smollm3"), _NO_BIAS),
}
NO_ABLATIONS = {**dict.fromkeys(WITH_POST_NORMS, _NORMED), "bloom": "it norms its embedding"}


def push_taker(config: Any, model_id: str) -> tuple[Family, Biases]:
    """Where a model takes a push; if nowhere, an IncompatibleVectorError says why."""
    kind = config.model_type
    reason = _never(config)
    if kind not in TAKE_PUSHES:
        reason = TAKE_NO_PUSHES.get(kind, f"known are {', '.join(TAKE_PUSHES)}")
    elif not reason and _slides(config) and "model_type" in TAKE_PUSHES[kind].config:
        reason = "its attention slides over a window, and " + _NO_BIAS
    if reason:
        raise IncompatibleVectorError(
            f"model {model_id!r} ({kind}) has no place for a push: {reason}. "
            "`neurosteer gen` steers it, and so does llama.cpp (--to gguf)"
        )
    return FAMILIES[kind], TAKE_PUSHES[kind]


def writers(config: Any, model_id: str) -> Family:
    """The layers that write to a model's residual stream.

    Raises:
        IncompatibleVectorError: they are not known, or something comes between them and the residual.
    """
    kind = config.model_type
    known = [family for family in FAMILIES if family not in NO_ABLATIONS]
    reason = _never(config)
    if kind not in known:
        reason = NO_ABLATIONS.get(kind, f"known are {', '.join(known)}")
    if reason:
        raise IncompatibleVectorError(
            f"model {model_id!r} ({kind}) cannot have a component taken out of its weights: {reason}. "
            "`neurosteer gen` takes it away while the model writes"
        )
    return FAMILIES[kind]


def head_bias(config: Any, model_id: str) -> Mapping[str, Any]:
    """What a configuration says where the model's head has a bias.

    Raises:
        IncompatibleVectorError: it has none.
    """
    kind = config.model_type
    reason = _never(config)
    if kind not in HEADS_WITH_BIAS:
        reason = f"its head has no bias, as those of {', '.join(HEADS_WITH_BIAS)} have"
    if reason:
        raise IncompatibleVectorError(
            f"model {model_id!r} ({kind}) cannot add to logits by itself: {reason}. "
            "--to logit_bias writes what servers add to them"
        )
    return HEADS_WITH_BIAS[kind]


def _never(config: Any) -> str | None:
    """Why nothing can be baked into a model of a family, if so."""
    if getattr(config, "quantization_config", None):
        return "its weights are quantised; name the model they were made from with --model"
    if config.model_type == "opt" and not config.do_layer_norm_before:
        return "it norms the residual after the MLP"
    return None


def _slides(config: Any) -> bool:
    if kinds := getattr(config, "layer_types", None):
        return set(kinds) != {"full_attention"}
    return getattr(config, "sliding_window", None) is not None
