"""The mean residual of texts at one block.

Knows the engine and its model's thread; knows nothing of HTTP.
"""

import re

import torch

from ...data.records import Passage
from ...errors import InputError
from ...generation.prompts import prompt_ids
from ...models.engine import Engine
from ...models.hooks import RESID_POST, HookPoint
from ...models.tokenizer import Tokens
from ..protocol.embeddings import EmbeddingRequest
from ..protocol.fields import Json, places
from ..registry import UnknownVectorError
from ..scheduler import Scheduler, TooLongError
from .sharing import SharedEngine, Turns


class Embedding:
    """The mean residual of each of some texts at one block, over the tokens that count."""

    def __init__(
        self, engine: Engine, scheduler: Scheduler, model_id: str, request: EmbeddingRequest
    ) -> None:
        """`model_id` is what the server calls its model."""
        self.engine, self.request = engine, request
        self.model = request.model or model_id
        self.point = self._point(model_id)
        if request.dimensions not in (None, d_model := self.engine.d_model):
            raise InputError(f"dimensions: the residual has {d_model}, and a part of them means little")
        self.texts = list(map(self._tokens, request.texts, places("input", len(request.texts))))
        self._turns = Turns(scheduler)

    def compute(self) -> Json:
        """The answer; for the model's thread, where others' texts go on between its parts."""
        means = [torch.empty(0)] * len(self.texts)
        engine = SharedEngine.of(self.engine, self._turns)
        for batch in engine.residuals(self.texts, [self.point]):
            resid = batch.resid[self.point]
            for row, text in enumerate(batch.texts):
                means[text] = resid[batch.text_index == row].mean(0)
            engine.pause()
        n_read = sum(len(tokens.ids) for tokens in self.texts)
        return self.request.answer(self.model, str(self.point), [mean.tolist() for mean in means], n_read)

    def abandon(self) -> None:
        """Go on no further."""
        self._turns.abandon()

    def _point(self, model_id: str) -> HookPoint:
        """Where a model's name says; else two thirds of the way up, where text's meaning is."""
        n_layers = self.engine.shape.n_layers
        name, plus, block = self.model.partition("+")
        if name != model_id:
            raise UnknownVectorError(f"model {self.model[:80]!r} is not served; ask for {model_id!r}")
        if not plus:
            return HookPoint(n_layers * 2 // 3)
        if not (match := re.fullmatch(rf"blocks\.([0-9]{{1,6}})(\.{RESID_POST})?", block)):
            raise InputError(
                f"model {self.model[:80]!r}: embeddings are not steered; a block may be named, as "
                f"{name}+blocks.{n_layers * 2 // 3}"
            )
        point = HookPoint(int(match[1]))
        point.check(n_layers)
        return point

    def _tokens(self, text: str | list[int], where: str) -> Tokens:
        if isinstance(text, str):
            tokens = self.engine.tokenize(Passage(where, text))
        else:
            ids = prompt_ids(self.engine, text, where)
            tokens = Tokens(ids, [i > 0 and id not in self.engine.special_ids for i, id in enumerate(ids)])
        if (n := len(tokens.ids) + tokens.n_cut) > (most := self.engine.max_tokens):
            raise TooLongError(f"{where}: {n} tokens are more than the model's context of {most}")
        if not any(tokens.counts):
            raise InputError(f"{where}: no token counts: special ones do not, and neither does the first")
        return tokens
