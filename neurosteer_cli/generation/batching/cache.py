"""How models of transformers remember what they have read, and what may be done with that.

Knows the caches' keys, values and recurrent states, a row a text; knows nothing of steering or sampling.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import (
    CacheLayerMixin,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
    LinearAttentionCacheLayerMixin,
    LinearAttentionLayer,
)

from ...models.architectures.decoder import text_part
from ...models.engine import Engine

ARGUMENTS = ("cache", "past_key_values", "cache_params", "state")  # what models call theirs, new names first
PADDED = (DynamicLayer, DynamicSlidingWindowLayer)  # keys and values [batch, n_heads, pos, d_head], no more
JOINED = (
    *PADDED,
    LinearAttentionLayer,  # states [batch, ...], whatever has been read
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
)
# By which a model's code masks what lies beyond a window.
MASKS_OF_WINDOWS = {"create_sliding_window_causal_mask", "create_chunked_causal_mask"}
# Read in two ways, a text gives the same but for rounding, or what is different altogether.
SAME_STATE, SAME_LOGITS = 0.01, 0.05


class Caching:
    """What a model remembers, and so which rows may be read and written together.

    Keys and values are masked where a row has pads, and take rows in and let them go. A recurrent state
    cannot be counted on to pass over pads: such rows are read with others of their length, and joined
    as states. Of a cache that a model makes itself, or keeps in its modules, no row can be taken: one
    text is written after another. A model without a cache that works reads all of a text for each token.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._takes = engine.takes
        self.argument = next((name for name in ARGUMENTS if name in self._takes), None)
        self.is_own = self.argument is None or not engine.model._supports_default_dynamic_cache()
        layers = [] if self.is_own else [each for each in self._empty().layers if _holds_something(each)]
        self._is_recurrent = any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in layers)
        self._has_attention = self.is_own or any(isinstance(layer, CacheLayerMixin) for layer in layers)
        self.can_pad = not self.is_own and all(type(layer) in PADDED for layer in layers)
        self._is_known = not self.is_own and all(type(layer) in JOINED for layer in layers)
        if self.is_own and self.argument and not self._own_is_right():
            self.argument = None

    def _empty(self) -> DynamicCache:
        cache = DynamicCache(config=self.engine.model.config)
        for number, layer in enumerate(cache.layers):
            if type(layer) is DynamicSlidingWindowLayer and not self._knows_windows:
                cache.layers[number] = DynamicLayer()  # type: ignore[no-untyped-call]
        return cache

    @cached_property
    def _knows_windows(self) -> bool:
        """Whether the model's code has windows; some configurations name one that it never looks at.

        The cache would drop what lies beyond it, though a pass over the whole text reads it.
        """
        parts = text_part(self.engine.model).modules()
        kinds = {type(part) for part in parts if isinstance(part, PreTrainedModel)}
        methods = [each for kind in kinds for _, each in inspect.getmembers(kind, inspect.isfunction)]
        return any(_names(inspect.unwrap(method).__code__) & MASKS_OF_WINDOWS for method in methods)

    def new(self) -> Any:
        """A cache of no rows; None where the model makes its own."""
        if self._is_in_modules:  # which forget in a pass that is to leave nothing behind
            ids = torch.zeros(1, 1, dtype=torch.int64, device=self.engine.device)
            self.engine.model(input_ids=ids, use_cache=False)
        return None if self.is_own else self._empty()

    @cached_property
    def _is_in_modules(self) -> bool:
        """Whether states are nowhere in the cache after a token has been read."""
        return self._is_recurrent and not self._states_of([1])

    @property
    def one_by_one(self) -> bool:
        """Whether no row can be taken from what the model remembers of several."""
        return self.is_own or self._is_in_modules

    @property
    def can_join(self) -> bool:
        """Whether rows can be put beside others that have been read."""
        return self._is_known and not self.one_by_one

    @cached_property
    def can_slice(self) -> bool:
        """Whether a prompt read in parts is what it is read whole.

        Some recurrent layers begin anew in each pass of several tokens: that is tried out.
        """
        if self.can_pad or not self.can_join:
            return self.can_pad
        whole, parts = self._states_of([8]), self._states_of([6, 2])
        return all((a - b).norm() <= SAME_STATE * a.norm() for a, b in zip(whole, parts, strict=True))

    def _own_is_right(self) -> bool:
        """Whether a text read in two parts with the model's own cache is what it is read whole.

        What goes wrong with a sliding window may begin beyond it, and it may be too long to try.
        """
        if getattr(self.engine.model.config.get_text_config(), "sliding_window", None):
            return False
        try:
            (whole, _), (parts, _) = self._read_in([8], None), self._read_in([7, 1], None)
        except Exception:  # xLSTM's and MiniMax's are not made for each of their configurations
            return False
        return bool((whole - parts).norm() <= SAME_LOGITS * whole.norm())

    def _states_of(self, lengths: list[int]) -> list[Tensor]:
        """The states of the first recurrent layer after a text that is read in parts of these lengths."""
        _, cache = self._read_in(lengths, self._empty())
        layer = next(each for each in cache.layers if isinstance(each, LinearAttentionCacheLayerMixin))
        return [state for states in _states(layer) for state in states.values() if state is not None]

    @torch.inference_mode()
    def _read_in(self, lengths: list[int], cache: Any) -> tuple[Tensor, Any]:
        """The last logits of a text that is read in parts of these lengths, and what is remembered of it."""
        ids = torch.arange(sum(lengths), device=self.engine.device)[None]
        logits, n_read = ids, 0
        for part in torch.split(ids, lengths, dim=1):
            n_read += part.shape[1]
            logits, cache = self.forward(part, torch.ones_like(ids[:, :n_read]), cache)
        return logits, cache

    def forward(self, ids: Tensor, mask: Tensor, cache: Any, n_logits: int = 1) -> tuple[Tensor, Any]:
        """Logits [batch, n_logits, d_vocab] of the last tokens, and what is remembered now.

        ids: [batch, n] of the next tokens; mask: [batch, all pos] of these and those before them.
        """
        positions = (mask.cumsum(-1) - 1).clamp_min(0)[:, -ids.shape[1] :]
        is_masked = self._has_attention and not mask.all()
        given = {
            "position_ids": positions,
            "attention_mask": mask if is_masked else None,
            "use_cache": self.argument is not None,
            "logits_to_keep": n_logits,
            self.argument or "": cache,
        }
        with _whole_rows(self.engine.model.get_output_embeddings()):
            output = self.engine.model(
                input_ids=ids, **{name: given[name] for name in given if name in self._takes}
            )
        now = output[self.argument] if self.is_own and self.argument else cache
        return output.logits[:, -n_logits:], now


@contextmanager
def _whole_rows(head: nn.Module) -> Iterator[None]:
    """Give the head what it reads row by row in memory.

    Of a slice of positions torch makes a product for each row of the batch, with a copy of the head's
    weights each: in a pass over a prompt that took longer than all blocks of a small model.
    """

    def before(_head: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0].clone(memory_format=torch.contiguous_format), *args[1:])

    handle = head.register_forward_pre_hook(before)
    try:
        yield
    finally:
        handle.remove()


def select(cache: Any, rows: Tensor) -> None:
    """Keep these rows, [n] int64, in this order.

    What every layer offers for beam search does it; not every one has `batch_select_indices`.
    """
    cache.reorder_cache(rows)


def join(cache: Any, other: Any) -> None:
    """Put another cache's rows below those of a cache, what both have read last side by side."""
    for layer, others in zip(cache.layers, other.layers, strict=True):
        if isinstance(layer, LinearAttentionCacheLayerMixin):
            for states, those in zip(_states(layer), _states(others), strict=True):
                states.update({i: torch.cat([states[i], those[i]]) for i in states if states[i] is not None})
        if _has_keys(layer):
            layer.keys = below(layer.keys, others.keys, dim=-2)
            layer.values = below(layer.values, others.values, dim=-2)
            if layer.is_sliding:
                layer.cumulative_length = max(layer.cumulative_length, others.cumulative_length)


def cut(cache: Any, n: int) -> None:
    """Take away the first n columns; a sliding window may hold none of them any more."""
    for layer in cache.layers:
        if _has_keys(layer):
            length = layer.get_seq_length() - n
            first = max(0, layer.keys.shape[-2] - length)
            layer.keys, layer.values = layer.keys[:, :, first:], layer.values[:, :, first:]
            if layer.is_sliding:
                layer.cumulative_length = length


def below(upper: Tensor, lower: Tensor, dim: int) -> Tensor:
    """Two batches as one, what is last along `dim` side by side: zeros go before the shorter."""
    gap = upper.shape[dim] - lower.shape[dim]
    before = (*(0, 0) * (-1 - dim), abs(gap), 0)  # sizes from the last dimension on
    return torch.cat([pad(upper, before) if gap < 0 else upper, pad(lower, before) if gap > 0 else lower])


def _names(code: CodeType) -> set[str]:
    """What code refers to that is not its own, functions within it included."""
    within = (each for each in code.co_consts if isinstance(each, CodeType))
    return set(code.co_names).union(*map(_names, within))


def _has_keys(layer: Any) -> bool:
    """Whether it has keys and values; a block that uses another's has none."""
    return isinstance(layer, DynamicLayer) and layer.is_initialized


def _states(layer: Any) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    return layer.conv_states, layer.recurrent_states


def _holds_something(layer: Any) -> bool:
    """Whether it is no mere place in the list, of a block that keeps nothing or uses another's keys."""
    return isinstance(layer, CacheLayerMixin | LinearAttentionCacheLayerMixin)
