"""Where in a transformers model its text part is, and the model without what text alone does not need.

Knows modules; knows nothing of files or of how a family computes.
"""

from collections import deque
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ...errors import ModelError
from ..shape import n_blocks_of


def text_part(model: Any) -> Any:
    """The part of a model that reads and writes text, without its output head."""
    text = model.get_decoder()
    return text if isinstance(text, PreTrainedModel) else model.base_model  # ModernBERT's head is a `decoder`


def text_blocks(model: Any) -> nn.ModuleList:
    """The decoder blocks of a whole model, found in its text part; ModelError as `find_blocks`."""
    text = text_part(model)
    return find_blocks(text, n_blocks_of(text.config.get_text_config(decoder=True)))


def writer(model: Any, blocks: nn.ModuleList) -> Any:
    """The part of a model that takes and writes text alone: the smallest around its blocks that can."""
    around = (module for module in model.modules() if isinstance(module, PreTrainedModel))
    writing = [module for module in around if module.can_generate() and blocks in module.modules()]
    return writing[-1]  # outer modules come before those inside them


def find_blocks(text: nn.Module, n_blocks: int) -> nn.ModuleList:
    """The decoder blocks of a text model, found by structure: the outermost ModuleList of that length.

    Raises:
        ModelError: there is none.
    """
    queue: deque[nn.Module] = deque([text])
    while queue:  # breadth first: experts and the like are lists inside a block
        module = queue.popleft()
        if isinstance(module, nn.ModuleList) and len(module) == n_blocks:
            return module
        queue.extend(module.children())
    raise ModelError(
        f"{type(text).__name__}: no list of {n_blocks} decoder blocks found; "
        "neurosteer steers decoder-only transformers"
    )


def reduce_to(model: Any, n_blocks: int, *, head: bool) -> nn.ModuleList:
    """Take from a model what no text needs up to its first `n_blocks` blocks, and return these.

    The encoders of images and sound go, the blocks beyond, and the output head if it is not wanted; the
    configuration stays whole, as blocks may compute with the number of all.
    """
    blocks = text_blocks(model)
    del blocks[n_blocks:]
    text = set(text_part(model).modules())
    for name, module in list(model.named_modules()):
        if isinstance(module, PreTrainedModel) and module not in text and text.isdisjoint(module.modules()):
            model.set_submodule(name, _Absent(blocks))
    if not head:
        _drop_head(model)
    left = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    model.all_tied_weights_keys = {
        target: source for target, source in model.all_tied_weights_keys.items() if {target, source} <= left
    }
    return blocks


class _Absent(nn.Module):
    """In place of an encoder that text does not need: some models ask where it computes."""

    def __init__(self, blocks: nn.ModuleList) -> None:
        super().__init__()
        self.parameters_of_text = blocks.parameters  # no module of its own

    @property
    def device(self) -> torch.device:
        return next(self.parameters_of_text()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters_of_text()).dtype


def _drop_head(model: Any) -> None:
    """Drop the output head, but for one that is the embedding: its checkpoint may have it by either name."""
    head = model.get_output_embeddings()
    name = next((name for name, module in model.named_modules() if module is head), None)
    if name and f"{name}.weight" not in model.all_tied_weights_keys:
        model.set_submodule(name, nn.Identity())
