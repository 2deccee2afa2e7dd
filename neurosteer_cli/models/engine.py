"""One model on its device: residuals at hook points, the output head.

Knows transformers; knows nothing of labels, SAEs or how a vector is fitted.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import InputError, ModelError
from .architectures.decoder import text_part
from .checkpoints.named import DEFAULT_MODEL
from .checkpoints.resolve import model_id, resolve
from .hooks import RESID_PRE, HookPoint, add, capture, not_finite
from .load import choose_device, choose_dtype, load_weights, read_config
from .shape import shape_of
from .tokenizer import Tokenization, Tokens, context_length, load_tokenizer, stop_ids

TOKENS_PER_BATCH = {"cpu": 1024, "cuda": 16384, "mps": 4096}


class ResidualBatch(NamedTuple):
    """Residuals of some texts, tokens that do not count left out."""

    texts: list[int]  # positions in the sequence that was given
    text_index: Tensor  # [n] int64, into `texts`
    resid: dict[HookPoint, Tensor]  # [n, d_model] float32
    places: Tensor  # [n, 2] int64: row in `ids` and position of each token
    ids: Tensor  # [batch, pos] int64, right-padded with -1


@dataclass(frozen=True, kw_only=True)
class Engine(Tokenization):
    """A loaded model: its tokenizer, its decoder blocks, and where and in what numbers they compute.

    Make one with `Engine.load`:

        engine = Engine.load("smollm2")
        tokens = [engine.tokenize(Passage("here", "a text of some words"))]
        for batch in engine.residuals(tokens, [HookPoint(20)]):
            batch.resid[HookPoint(20)]  # [n, d_model] float32, of the tokens that count
    """

    model: Any
    blocks: nn.ModuleList
    device: torch.device
    dtype: torch.dtype

    @classmethod
    def load(
        cls,
        model: str = DEFAULT_MODEL,
        *,
        points: Iterable[HookPoint] | None = None,
        head: bool = True,
        dtype: str = "auto",
        device: str = "auto",
        template_args: Mapping[str, Any] | None = None,
        say: Callable[[str], None] = lambda _message: None,
    ) -> "Engine":
        """Load a model, or only as much of it as is needed.

        Args:
            model: `smollm2`, `gemma3-270m`, a Hub id, a local folder or a `.gguf` file.
            points: load the decoder blocks up to the last of these hook points only; None loads all.
            head: whether the output head is needed.
            dtype, device: `auto` takes what the machine does fastest.
            template_args: arguments of the chat template, such as `{"enable_thinking": False}`.
            say: told what takes long, before it is begun.

        Raises:
            ModelError: the model cannot be found or read, or is no decoder-only language model.
            InputError: unknown dtype or device, or more blocks than the model has.
        """
        place = choose_device(device)
        number_type = choose_dtype(dtype, place)
        folder = resolve(model, say)
        config = read_config(folder)
        shape = shape_of(config)
        wanted = shape.n_layers if points is None else max((point.layer + 1 for point in points), default=0)
        loaded, blocks = load_weights(folder, config, wanted, head=head, dtype=number_type, device=place)
        tokenizer = load_tokenizer(folder)
        return cls(
            model_id=model_id(model),
            shape=shape,
            model=loaded,
            tokenizer=tokenizer,
            blocks=blocks,
            device=place,
            dtype=number_type,
            max_tokens=context_length(config),
            stop_ids=stop_ids(folder, tokenizer),
            template_args=template_args or {},
        )

    @property
    def d_model(self) -> int:
        return self.shape.d_model

    @property
    def model_names(self) -> set[str]:
        """What the model is called, by the user and by its configuration."""
        return {self.model_id, self.model.config.name_or_path or self.model_id}

    @cached_property
    def uses_layer_norm(self) -> bool:
        """Whether blocks disregard the mean of a residual (LayerNorm), as GPT-2's do, or not (RMSNorm).

        Tried on the first one: does it add the same to a residual whose mean is another?
        """
        before, after = HookPoint(0, RESID_PRE), HookPoint(0)
        ids = torch.arange(8, device=self.device)[None]
        plain = self.read(ids, [before, after])
        shift = 3 * plain[before].float().std().expand(self.d_model)
        with add(self.blocks, {before: shift}):
            moved = self.read(ids, [after])[after].float() - plain[after].float() - shift
        return bool(moved.norm() < 0.3 * (plain[after] - plain[before]).float().norm())

    @cached_property
    def takes(self) -> frozenset[str]:
        """What the model's call can be given by name, its own or handed on to its text part."""
        own = inspect.signature(self.model.forward).parameters
        if all(each.kind != each.VAR_KEYWORD for each in own.values()):
            return frozenset(own)
        return frozenset(own) | frozenset(inspect.signature(text_part(self.model).forward).parameters)

    @torch.inference_mode()
    def residuals(
        self, texts: Sequence[Tokens], points: Sequence[HookPoint], tokens_per_batch: int | None = None
    ) -> Iterator[ResidualBatch]:
        """Run texts through the model up to the last hook point and yield residuals batch by batch.

        Batches hold texts of similar length, about `tokens_per_batch` tokens; none without a counted token.
        """
        lengths = [len(tokens.ids) for tokens in texts]
        order = sorted((i for i, tokens in enumerate(texts) if any(tokens.counts)), key=lengths.__getitem__)
        for rows in batches(order, lengths, tokens_per_batch or TOKENS_PER_BATCH[self.device.type]):
            yield self._residual_batch(texts, rows, points)

    def _residual_batch(
        self, texts: Sequence[Tokens], rows: list[int], points: Sequence[HookPoint]
    ) -> ResidualBatch:
        ids = padded([texts[row].ids for row in rows], value=-1)  # [batch, pos]
        counts = padded([texts[row].counts for row in rows], value=0).bool()  # [batch, pos]
        # Pads stand on the right: a causal model's real tokens never see them, so no mask is needed.
        seen = self.read(ids.clamp_min(0).to(self.device), points)
        if unseen := [point for point in points if point not in seen]:
            raise InputError(f"{unseen[0]}: the model does not run this block for text alone; name another")
        places = counts.nonzero()  # [n, 2]
        resid = {point: all_tokens[counts.to(self.device)].float() for point, all_tokens in seen.items()}
        for each in resid.values():
            self.check_finite(each, ids)
        return ResidualBatch(rows, places[:, 0].to(self.device), resid, places, ids)

    def read(self, ids: Tensor, points: Sequence[HookPoint]) -> dict[HookPoint, Tensor]:
        """Residuals [batch, pos, d_model] of token ids [batch, pos], with nothing before them."""
        with capture(self.blocks, points) as seen:
            self.model(input_ids=ids, use_cache=False)
        return seen

    def unload(self) -> None:
        """Give back the memory of the weights; nothing can be computed any more."""
        for tensor in (*self.model.parameters(), *self.model.buffers()):
            tensor.data = tensor.data.new_empty(0)

    def pause(self) -> None:
        """Called between the parts of a long computation: where the model is shared, it is others' turn."""

    def check_finite(self, numbers: Tensor, ids: Tensor) -> None:
        """Raise ModelError if a pass over tokens [batch, pos], pads -1, gave numbers that are not finite.

        It says in which block they began, and what to do about it.
        """
        if not bool(numbers.isfinite().all()):
            raise not_finite(self.model_id, self.model, self.blocks, ids.to(self.device))

    def not_finite(self, ids: list[int]) -> ModelError:
        """What to say where a pass over one text's tokens gave numbers that are not finite."""
        return not_finite(self.model_id, self.model, self.blocks, torch.tensor([ids], device=self.device))


def batches(order: list[int], lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Cut a sequence sorted by length into batches of at most `budget` tokens, pads counted."""
    batch: list[int] = []
    for row in order:
        if batch and (len(batch) + 1) * lengths[row] > budget:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def padded(rows: Sequence[Sequence[int]], value: int, *, side: str = "right") -> Tensor:
    """Rows of unequal length as one int64 tensor [batch, pos], padded on one side."""
    tensors = [torch.tensor(row, dtype=torch.int64) for row in rows]
    return nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value, padding_side=side)
