"""Between text and a model's tokens: which of them count, chats, prompts, what ends a text.

Knows transformers' tokenizers and chat templates, and the files that declare ends; knows nothing of weights.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from os.path import commonprefix
from pathlib import Path
from typing import Any, NamedTuple

import transformers

from ..data.records import Passage
from ..errors import InputError, ModelError, one_line
from .shape import ModelShape

UNLIMITED = 2**20  # tokens: the context of a model that names none
_CONTEXTS = ("max_position_embeddings", "max_seq_len")
_PLACEHOLDER = "\ue000answer\ue001"  # of private-use characters, which no template escapes or changes


class Tokens(NamedTuple):
    """A text as the model sees it."""

    ids: list[int]
    counts: list[bool]  # whether statistics are taken over the token
    n_cut: int = 0  # tokens beyond the model's context, which are left out
    is_partial: bool = False  # the chat template left out some of the message


class Counted(NamedTuple):
    """A text to tokenize, and where in it the part that counts begins and ends."""

    text: str
    start: int
    end: int
    is_partial: bool = False


@dataclass
class Shortfall:
    """How many of the texts that were read did not reach the model whole."""

    n_texts: int = 0
    n_cut: int = 0
    n_partial: int = 0

    def add(self, tokens: Tokens) -> None:
        """Take a text in."""
        self.n_texts += 1
        self.n_cut += tokens.n_cut > 0
        self.n_partial += tokens.is_partial

    def warnings(self, max_tokens: int) -> list[str]:
        """A line for each thing that was left out; `max_tokens` is the model's context."""
        of = f"of {self.n_texts} texts"
        cut = f"{self.n_cut} {of} were cut to the model's {max_tokens} tokens"
        partial = f"{self.n_partial} {of}: the chat template leaves out part of the last message"
        return [line for line, n in ((cut, self.n_cut), (partial, self.n_partial)) if n]


@dataclass(frozen=True, kw_only=True)
class Tokenization:
    """A model's tokenizer, with what the model says of contexts and of the ends of texts."""

    model_id: str
    shape: ModelShape
    tokenizer: Any
    max_tokens: int  # the model's context
    stop_ids: frozenset[int]
    template_args: Mapping[str, Any] = field(default_factory=dict)  # for the chat template

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Tokens that are no text: markers, pads, the ends of texts."""
        added = self.tokenizer.added_tokens_decoder.items()
        return frozenset(self.tokenizer.all_special_ids) | {token for token, of in added if of.special}

    @cached_property
    def _added(self) -> tuple[int, int]:
        """How many tokens the tokenizer puts before a text (BOS), and after it (EOS, with some)."""
        mask = self.tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"]
        return mask.index(0), mask[::-1].index(0)

    def _encode(self, text: str, *, rendered: bool) -> tuple[list[int], list[tuple[int, int]]]:
        """A text's tokens and the characters they stand for, as the beginning of what is to be gone on from.

        What the tokenizer puts before a text comes first, once, also where the text brings it itself, as
        a `rendered` chat always does. What it would put after the text is left off.
        """
        encoded = self.tokenizer(
            text, add_special_tokens=not rendered, return_offsets_mapping=True, verbose=False
        )
        ids, places = self._known(encoded["input_ids"]), encoded["offset_mapping"]
        if not rendered:
            n_before, n_after = self._added
            is_twice = ids[:n_before] == ids[n_before : 2 * n_before]
            kept = slice(n_before if is_twice else 0, len(ids) - n_after)
            ids, places = ids[kept], places[kept]
        return ids, places

    def _known(self, ids: list[int]) -> list[int]:
        """The same tokens; ModelError if the model has no embedding for one."""
        if (highest := max(ids, default=0)) >= self.shape.d_vocab:
            raise ModelError(
                f"model {self.model_id!r}: its tokenizer gives {self.tokenizer.decode([highest])!r} the id "
                f"{highest}, and its embedding ends at {self.shape.d_vocab - 1}: they do not belong together"
            )
        return ids

    def tokenize(self, passage: Passage) -> Tokens:
        """Tokenize a text; position 0, special tokens and what precedes the text do not count.

        Position 0 is an attention sink: its residual is tens of times as long as any other.
        A text longer than the model's context is cut to its first tokens.

        Raises:
            InputError: the model has no chat template, it renders nothing of the last message, or no
                counted token is within the context.
            ModelError: the model has no embedding for one of the tokens.
        """
        text, start, end, is_partial = self._rendered(passage)
        whole, places = self._encode(text, rendered=bool(passage.messages))
        ids = whole[: self.max_tokens]
        counts = [
            position > 0 and token not in self.special_ids and first < end and last > start
            for position, (token, (first, last)) in enumerate(zip(ids, places, strict=False))
        ]
        if len(ids) < len(whole) and not any(counts):
            raise InputError(f"{passage.where}: the text lies beyond the model's {self.max_tokens} tokens")
        return Tokens(ids, counts, len(whole) - len(ids), is_partial)

    def _rendered(self, passage: Passage) -> Counted:
        """The text to tokenize. In a chat, what the template makes of the last message counts.

        Where that stands is seen from the same chat with another last message: a template may change
        its letters, escape or trim it, or leave its reasoning out.
        """
        if not passage.messages:
            text = passage.prompt + passage.text
            return Counted(text, len(passage.prompt), len(text))
        *before, last = passage.messages
        rendered, other = (
            self.chat([*before, message], passage.where, add_generation_prompt=False)
            for message in (last, {**last, "content": _PLACEHOLDER})
        )
        start = len(commonprefix([rendered, other]))
        end = len(rendered) - len(commonprefix([rendered[start:][::-1], other[::-1]]))
        if not rendered[start:end].strip():
            raise InputError(
                f"{passage.where}: the model's chat template leaves out "
                + (f"all of {passage.text.strip()[:40]!r}" if _PLACEHOLDER in other else "the last message")
            )
        return _counted(rendered, start, end, passage.text.strip())

    def chat(
        self,
        messages: Sequence[Mapping[str, str]],
        where: str,
        *,
        add_generation_prompt: bool = True,
        template_args: Mapping[str, Any] | None = None,
    ) -> str:
        """Render a chat with the model's template, if it has one that takes these messages.

        template_args: arguments of this one chat; they go before the model's own.
        """
        if not self.tokenizer.chat_template:
            raise InputError(f"{where}: model {self.model_id!r} has no chat template; give plain text")
        try:
            rendered: str = self.tokenizer.apply_chat_template(
                list(messages),
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **{**self.template_args, **(template_args or {})},
            )
        except Exception as error:  # templates raise what they like
            raise InputError(f"{where}: the model's chat template refuses this chat ({error})") from error
        return rendered

    def prompt_ids(self, prompt: str, where: str = "prompt", *, rendered: bool = False) -> list[int]:
        """A prompt's tokens, at least one; a `rendered` chat brings its special tokens with it."""
        ids, _ = self._encode(prompt, rendered=rendered)
        if not ids:
            raise InputError(f"{where}: empty; give the model at least one word to go on from")
        return ids

    def continuation_ids(self, prompt: str, prompt_ids: list[int], text: str, *, rendered: bool) -> list[int]:
        """Tokens of a text that goes on from a prompt; on their own where the two do not part cleanly."""
        whole, _ = self._encode(prompt + text, rendered=rendered)
        if whole[: len(prompt_ids)] == prompt_ids:
            return whole[len(prompt_ids) :]
        return self.plain_ids([text])[0]

    def plain_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Each text's tokens with nothing put before or after them."""
        ids = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return [self._known(of_text) for of_text in ids]

    def decode(self, prompt_ids: list[int], written: list[int]) -> str:
        """The text of the tokens written after a prompt, the space between the two included."""
        before, whole = self._text(prompt_ids), self._text(prompt_ids + written)
        return whole[len(before) :] if whole.startswith(before) else self._text(written)

    def _text(self, ids: list[int]) -> str:
        decode = self.tokenizer.decode
        return str(decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _counted(rendered: str, start: int, end: int, message: str) -> Counted:
    """A message's place in a rendered chat, of which it changed the characters from `start` to `end`."""
    if rendered[:end].rstrip().endswith(message):  # what it begins with, the template may always write
        end = len(rendered[:end].rstrip())
        return Counted(rendered, end - len(message), end)
    found = rendered[start:end]
    start, end = end - len(found.lstrip()), start + len(found.rstrip())
    is_whole = end - start >= len(message) or _letters(rendered[:end]).endswith(_letters(message))
    return Counted(rendered, start, end, not is_whole)


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text.casefold()))


def load_tokenizer(folder: Path) -> Any:
    """A checkpoint's tokenizer, which tells where in a text each token stands."""
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # it raises whatever its many formats lead to
        raise ModelError(f"{folder}: cannot read its tokenizer ({one_line(error)})") from error
    if not tokenizer.is_fast:
        raise ModelError(f"{folder}: its tokenizer gives no offsets; a tokenizer.json is needed")
    return tokenizer


def context_length(config: Any) -> int:
    """How many tokens a model reads at most, by the configuration of its text part."""
    named = (getattr(config.get_text_config(), name, None) for name in _CONTEXTS)
    return next((length for length in named if length), UNLIMITED)


def stop_ids(folder: Path, tokenizer: Any) -> frozenset[int]:
    """The tokens that end a text: those the checkpoint declares, as transformers' `generate` takes them.

    What generation_config.json says goes before config.json, that before its text_config, and all of them
    before the tokenizer's end-of-text token, which is taken where no file names one.
    """
    generation, config = (_read_json(folder / name) for name in ("generation_config.json", "config.json"))
    text = config.get("text_config")
    for declares in (generation, config, text if isinstance(text, dict) else {}):
        named = declares.get("eos_token_id")
        if ids := frozenset(named if isinstance(named, list) else [named]) - {None}:
            return ids
    return frozenset({tokenizer.eos_token_id} - {None})


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; an empty one where there is none."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        found = None
    return found if isinstance(found, dict) else {}
