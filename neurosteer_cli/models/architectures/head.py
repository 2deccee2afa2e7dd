"""The output head on some positions at a time: of a vocabulary of 262,000, a batch's logits are gigabytes.

Knows where a model's text part ends; knows nothing of what logits are wanted for.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .decoder import text_part

NUMBERS_AT_ONCE = 2**24  # logits: 64 MiB in float32


class _Read(Exception):
    """The text part has been run; the head need not be."""


class FinalStates:
    """What a model's text part gives for some tokens, before the output head.

    The model's own forward takes it from there, a few positions at a time, so that whatever a family does
    to its logits is done. `ids` are [batch, pos].
    """

    def __init__(self, model: Any, ids: Tensor) -> None:
        self._model, self._text = model, text_part(model)
        self._given: Any = None
        handle = self._text.register_forward_hook(self._keep)
        try:
            model(input_ids=ids, use_cache=False)
        except _Read:
            pass
        finally:
            handle.remove()

    def _keep(self, _module: Any, _arguments: Any, output: Any) -> None:
        self._given = output
        raise _Read

    def logits(self, places: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Float32 logits [n, d_vocab] at places [n_places, 2], which are rows and positions.

        Yields which of the places they are at, and the logits.
        """
        states = self._given[0][places[:, 0], places[:, 1]]  # [n_places, d_model]
        step = max(1, NUMBERS_AT_ONCE // self._model.config.get_text_config(decoder=True).vocab_size)
        for start in range(0, len(states), step):
            some = slice(start, start + step)
            yield some, self._of(states[some][None]).float()

    def _of(self, states: Tensor) -> Tensor:
        """The model's logits [n, d_vocab] of states [1, n, d_model]."""
        if isinstance(self._given, tuple):
            given: Any = (states, *self._given[1:])
        else:
            given = type(self._given)(**{**self._given, next(iter(self._given)): states})
        self._text.forward = lambda *_arguments, **_named: given
        try:
            ids = torch.zeros(states.shape[:2], dtype=torch.int64, device=states.device)
            logits: Tensor = self._model(input_ids=ids, use_cache=False).logits
        finally:
            del self._text.forward
        return logits[0]
