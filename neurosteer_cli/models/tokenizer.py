"""Between text and a model's tokens: which of them count, chats, prompts, what ends a text.

Knows transformers' tokenizers and chat templates; knows nothing of weights.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import transformers

from ..data.records import Passage
from ..errors import InputError, ModelError, one_line


class Tokens(NamedTuple):
    """A text as the model sees it."""

    ids: list[int]
    counts: list[bool]  # whether statistics are taken over the token


@dataclass(frozen=True)
class Tokenization:
    """A model's tokenizer, with what the model says of contexts and of the ends of texts."""

    model_id: str
    tokenizer: Any
    max_tokens: int  # the model's context
    stop_ids: frozenset[int]

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


def load_tokenizer(folder: Path) -> Any:
    """A checkpoint's tokenizer, which tells where in a text each token stands."""
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # it raises whatever its many formats lead to
        raise ModelError(f"{folder}: cannot read its tokenizer ({one_line(error)})") from error
    if not tokenizer.is_fast:
        raise ModelError(f"{folder}: its tokenizer gives no offsets; a tokenizer.json is needed")
    return tokenizer


def stop_ids(folder: Path, tokenizer: Any) -> frozenset[int]:
    """Special tokens, and those the checkpoint says end a text."""
    try:
        named = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    except (OSError, ValueError, LookupError, TypeError):  # absent, no JSON, or without the key
        named = None
    listed = named if isinstance(named, list) else [named]
    return frozenset({*listed, *tokenizer.all_special_ids} - {None})
