"""The logit lens: which tokens a direction in the residual stream raises and lowers.

Source: nostalgebraist 2020, "interpreting GPT: the logit lens". What lies between the last block and the
output head is not known here, but run.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from .engine import Engine
from .hooks import HookPoint, replace

AT_ONCE = 256  # directions whose logits are held together
LENGTH = 1e4  # of a direction where the final norm reads it: what norms add to it does not count


class _Read(Exception):
    """What the head is given has been read; the head need not be run."""


@torch.inference_mode()
def promoted_tokens(engine: Engine, directions: Tensor, k: int) -> list[tuple[list[str], list[str]]]:
    """The k tokens whose logits each direction [n, d_model] raises most, and those it lowers most.

    The direction takes the place of the last block's output and goes through the final norm, whatever
    follows it, and the output head; what these add to any direction is left out.

    Raises:
        InputError: the engine has no block, after which a direction could be put.
    """
    unembedding = engine.model.get_output_embeddings().weight.float().T  # [d_head, d_vocab]

    def pieces(ids: Tensor) -> list[str]:
        return [engine.tokenizer.decode([token]) for token in ids.tolist()]

    promoted = []
    for part in torch.split(directions, AT_ONCE):
        logits = (_before_head(engine, part) @ unembedding)[:, : len(engine.tokenizer)]
        up, down = logits.topk(k).indices, (-logits).topk(k).indices  # [n, k] each
        promoted += [(pieces(u), pieces(d)) for u, d in zip(up, down, strict=True)]
    return promoted


def _before_head(engine: Engine, directions: Tensor) -> Tensor:
    """What the head reads of directions, less what it reads of their opposites; [n, d_head] float32.

    Each is put after the first block of a text of one token, the others being left out of the model.
    """
    if not len(engine.blocks):
        raise InputError("the logit lens needs a model with a block at least")
    x = directions.to(engine.device, torch.float32)
    x = x * (LENGTH / x.norm(dim=-1, keepdim=True).clamp_min(1e-30))
    resid = torch.cat([x, -x])[:, None]  # [2 n, 1, d_model]
    seen: list[Tensor] = []

    def read(_head: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen.append(args[0])
        raise _Read

    with ExitStack() as during:
        during.enter_context(_alone(engine.blocks))
        during.enter_context(replace(engine.blocks, HookPoint(0), resid))
        during.enter_context(engine.model.get_output_embeddings().register_forward_pre_hook(read))
        # After the block, as what comes before it computes with the embedding's numbers.
        widen = engine.blocks[0].register_forward_hook(
            lambda *_: during.enter_context(_in_float32(_outside(engine)))
        )
        during.enter_context(widen)
        during.enter_context(suppress(_Read))
        ids = torch.zeros(len(resid), 1, dtype=torch.int64, device=engine.device)
        engine.model(input_ids=ids, use_cache=False)
    up, down = seen[0][:, -1].float().chunk(2)
    return up - down


@contextmanager
def _alone(blocks: nn.ModuleList) -> Iterator[None]:
    """Leave the first block in its place, and no other."""
    others = list(blocks)[1:]
    del blocks[1:]
    try:
        yield
    finally:
        blocks.extend(others)


def _outside(engine: Engine) -> list[nn.Parameter]:
    """Those of norms and projections: neither of blocks, nor of embeddings or the output head."""
    large = {*engine.blocks.parameters(), *engine.model.get_output_embeddings().parameters()}
    modules = (module for module in engine.model.modules() if not isinstance(module, nn.Embedding))
    return [p for module in modules for p in module.parameters(recurse=False) if p not in large]


@contextmanager
def _in_float32(parameters: list[nn.Parameter]) -> Iterator[None]:
    narrow: list[tuple[Any, Tensor]] = [(p, p.data) for p in parameters if p.is_floating_point()]
    for parameter, data in narrow:
        parameter.data = data.float()
    try:
        yield
    finally:
        for parameter, data in narrow:
            parameter.data = data
