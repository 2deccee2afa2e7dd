"""The logit lens: which tokens a direction in the residual stream raises and lowers.

Source: nostalgebraist 2020, "interpreting GPT: the logit lens".
"""

import re
from typing import Any

import torch
from torch import Tensor, nn

from .engine import Engine

AT_ONCE = 256  # directions whose logits are held together


@torch.inference_mode()
def promoted_tokens(engine: Engine, directions: Tensor, k: int) -> list[tuple[list[str], list[str]]]:
    """The k tokens whose logits each direction [n, d_model] raises most, and those it lowers most.

    The direction goes through the final norm and the output head; the norm's division is left
    out, as it changes no order.
    """
    norm = _final_norm(engine.model, engine.d_model)
    x = directions.to(engine.device, torch.float32)
    if isinstance(norm, nn.LayerNorm):
        x = x - x.mean(-1, keepdim=True)
    if norm is not None:
        keeps_less_one = "gemma" in type(norm).__name__.lower()
        x = x * (norm.weight.float() + 1 if keeps_less_one else norm.weight.float())
    unembedding = engine.model.get_output_embeddings().weight.float().T  # [d_model, d_vocab]

    def pieces(ids: Tensor) -> list[str]:
        return [engine.tokenizer.decode([token]) for token in ids.tolist()]

    promoted = []
    for part in torch.split(x, AT_ONCE):
        logits = (part @ unembedding)[:, : len(engine.tokenizer)]
        up, down = logits.topk(k).indices, (-logits).topk(k).indices  # [n, k] each
        promoted += [(pieces(u), pieces(d)) for u, d in zip(up, down, strict=True)]
    return promoted


def _final_norm(model: nn.Module, d_model: int) -> Any:
    """The norm before the output head: the last norm-like module outside the blocks, if any."""
    norms = [
        module
        for name, module in model.named_modules()
        if "norm" in type(module).__name__.lower()
        and getattr(module, "weight", None) is not None
        and module.weight.shape == (d_model,)
        and not re.search(r"\.\d+\.", name)
    ]
    return norms[-1] if norms else None
