"""One model, its tokenizer and device: tokens, residuals at hook points, the output head.

Knows transformers; knows nothing of labels, SAEs or how a vector is fitted.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..data.records import Passage
from ..errors import InputError
from .checkpoints.resolve import DEFAULT_MODEL, resolve
from .hooks import HookPoint, capture, find_blocks
from .load import choose_device, choose_dtype, load_tokenizer, load_weights, read_config, stop_ids
from .shape import ModelShape, shape_of

TOKENS_PER_BATCH = {"cpu": 1024, "cuda": 16384, "mps": 4096}


class Tokens(NamedTuple):
    """A text as the model sees it."""

    ids: list[int]
    counts: list[bool]  # whether statistics are taken over the token


class ResidualBatch(NamedTuple):
    """Residuals of some texts, tokens that do not count left out."""

    texts: list[int]  # positions in the sequence that was given
    text_index: Tensor  # [n] int64, into `texts`
    resid: dict[HookPoint, Tensor]  # [n, d_model] float32
    places: Tensor  # [n, 2] int64: row in `ids` and position of each token
    ids: Tensor  # [batch, pos] int64, right-padded with -1


@dataclass(frozen=True)
class Engine:
    """A loaded model: its tokenizer, its decoder blocks, and where and in what numbers they compute.

    Make one with `Engine.load`:

        engine = Engine.load("smollm2")
        tokens = [engine.tokenize(Passage("here", "a text of some words"))]
        for batch in engine.residuals(tokens, [HookPoint(20)]):
            batch.resid[HookPoint(20)]  # [n, d_model] float32, of the tokens that count
    """

    model_id: str
    shape: ModelShape
    model: Any
    tokenizer: Any
    blocks: nn.ModuleList
    device: torch.device
    dtype: torch.dtype
    max_tokens: int  # the model's context
    stop_ids: frozenset[int]

    @classmethod
    def load(
        cls,
        model: str = DEFAULT_MODEL,
        *,
        points: Iterable[HookPoint] | None = None,
        head: bool = True,
        dtype: str = "auto",
        device: str = "auto",
        say: Callable[[str], None] = lambda _message: None,
    ) -> "Engine":
        """Load a model, or only as much of it as is needed.

        Args:
            model: `smollm2`, a Hub id, a local folder or a `.gguf` file.
            points: load the decoder blocks up to the last of these hook points only; None loads all.
            head: whether the output head is needed.
            dtype, device: `auto` takes what the machine does fastest.
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
        loaded = load_weights(folder, config, wanted, head=head, dtype=number_type, device=place)
        tokenizer = load_tokenizer(folder)
        is_path = model != DEFAULT_MODEL and Path(model).exists()  # kept whole: found from any folder
        return cls(
            model_id=str(Path(model).resolve()) if is_path else model,
            shape=shape,
            model=loaded,
            tokenizer=tokenizer,
            blocks=find_blocks(loaded, wanted),
            device=place,
            dtype=number_type,
            max_tokens=getattr(config.get_text_config(), "max_position_embeddings", None) or 2**20,
            stop_ids=stop_ids(folder, tokenizer),
        )

    @property
    def d_model(self) -> int:
        return self.shape.d_model

    @property
    def model_names(self) -> set[str]:
        """What the model is called, by the user and by its configuration."""
        return {self.model_id, self.model.config.name_or_path or self.model_id}

    @property
    def uses_layer_norm(self) -> bool:
        """Whether blocks remove the mean over d_model (LayerNorm), as GPT-2's do, or not (RMSNorm)."""
        return any(isinstance(module, nn.LayerNorm) for module in self.blocks.modules())

    @cached_property
    def cache_argument(self) -> str:
        """What the model calls its key-value cache; transformers renamed it in 5.2x."""
        return "cache" if "cache" in inspect.signature(self.model.forward).parameters else "past_key_values"

    def tokenize(self, passage: Passage) -> Tokens:
        """Tokenize a text; position 0, special tokens and what precedes the text do not count.

        Position 0 is an attention sink: its residual is tens of times as long as any other.
        A text longer than the model's context is cut to its first tokens.

        Raises:
            InputError: the model has no chat template, or no counted token is within the context.
        """
        text, start, end = self._rendered(passage)
        encoded = self.tokenizer(
            text,
            add_special_tokens=not passage.messages,  # a chat template has them already
            return_offsets_mapping=True,
        )
        special = set(self.tokenizer.all_special_ids)
        ids = encoded["input_ids"][: self.max_tokens]
        spans = encoded["offset_mapping"]
        counts = [
            position > 0 and token not in special and first < end and last > start
            for position, (token, (first, last)) in enumerate(zip(ids, spans, strict=False))
        ]
        if len(ids) < len(encoded["input_ids"]) and not any(counts):
            raise InputError(f"{passage.where}: the text lies beyond the model's {self.max_tokens} tokens")
        return Tokens(ids, counts)

    def _rendered(self, passage: Passage) -> tuple[str, int, int]:
        """The text to tokenize, and where in it the part that counts begins and ends."""
        if not passage.messages:
            text = passage.prompt + passage.text
            return text, len(passage.prompt), len(text)
        rendered = self.chat(list(passage.messages), passage.where, add_generation_prompt=False)
        counted = passage.text.strip()
        # `</s>` ends the turn: an answer "s" must not be found in it
        start = self._without_special(rendered).rfind(self._without_special(counted))
        if start < 0:
            raise InputError(f"{passage.where}: the model's chat template leaves the last message out")
        return rendered, start, start + len(counted)

    def _without_special(self, text: str) -> str:
        """A text of the same length with its special tokens blanked out."""
        for token in sorted(self.tokenizer.all_special_tokens, key=len, reverse=True):
            text = text.replace(token, "\0" * len(token))
        return text

    def chat(self, messages: list[dict[str, str]], where: str, *, add_generation_prompt: bool = True) -> str:
        """Render a chat with the model's template, if it has one that takes these messages."""
        if not self.tokenizer.chat_template:
            raise InputError(f"{where}: model {self.model_id!r} has no chat template; give plain text")
        try:
            rendered: str = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except Exception as error:  # templates raise what they like
            raise InputError(f"{where}: the model's chat template refuses this chat ({error})") from error
        return rendered

    def prompt_ids(self, prompt: str, where: str = "prompt", *, rendered: bool = False) -> list[int]:
        """A prompt's tokens, at least one; a `rendered` chat brings its special tokens with it."""
        ids = self._ids(prompt, add_special_tokens=not rendered)
        if not ids:
            raise InputError(f"{where}: empty; give the model at least one word to go on from")
        return ids

    def continuation_ids(self, prompt: str, prompt_ids: list[int], text: str, *, rendered: bool) -> list[int]:
        """Tokens of a text that goes on from a prompt; on their own where the two do not part cleanly."""
        whole = self._ids(prompt + text, add_special_tokens=not rendered)
        if whole[: len(prompt_ids)] == prompt_ids:
            return whole[len(prompt_ids) :]
        return self._ids(text, add_special_tokens=False)

    def _ids(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"])

    def decode(self, prompt_ids: list[int], written: list[int]) -> str:
        """The text of the tokens written after a prompt, the space between the two included."""
        before, whole = self._text(prompt_ids), self._text(prompt_ids + written)
        return whole[len(before) :] if whole.startswith(before) else self._text(written)

    def _text(self, ids: list[int]) -> str:
        decode = self.tokenizer.decode
        return str(decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

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
        with capture(self.blocks, points) as seen:
            # Pads stand on the right: a causal model's real tokens never see them, so no mask is needed.
            self.model(input_ids=ids.clamp_min(0).to(self.device), use_cache=False)
        places = counts.nonzero()  # [n, 2]
        resid = {point: all_tokens[counts.to(self.device)].float() for point, all_tokens in seen.items()}
        return ResidualBatch(rows, places[:, 0].to(self.device), resid, places, ids)


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
