"""Tokens to text as they come, up to the first stop string.

Knows the engine's tokenizer; knows nothing of who reads.
"""

import re
from collections.abc import Sequence
from typing import Any

from tokenizers.decoders import DecodeStream
from transformers.convert_slow_tokenizer import bytes_to_unicode

from ..models.engine import Engine

HALF = "\ufffd"  # what a part of a character decodes to
TAIL = 16  # tokens of the prompt that are decoded with the text: the first may begin with a space

_BYTES = {char: byte for byte, char in bytes_to_unicode().items()}  # type: ignore[no-untyped-call]


class TextStream:
    """The text of one continuation, given out as soon as nothing can change it any more.

    Half a character waits for its other half, and what may be the beginning of a stop string for
    what comes next. The pieces given out are the whole text, which ends before the stop string.
    """

    def __init__(self, engine: Engine, prompt_ids: list[int], stops: Sequence[str] = ()) -> None:
        self._engine, self._stops = engine, tuple(stops)
        self._before = prompt_ids[-TAIL:]  # tokens whose text the next ones' goes on from
        while engine.decode([], self._before).endswith(HALF):  # half a character is not for text to complete
            self._before.pop()
        self._stream = DecodeStream(self._before, skip_special_tokens=True)
        self._held: list[int] = []  # tokens that are no text yet
        self.text = ""  # decoded so far
        self.n_given = 0  # characters of it given out
        self.stopped = False  # a stop string has come; nothing is read any more

    def take(self, token: int) -> str:
        """Read a token; the text that can be given out now."""
        self._held.append(token)
        if text := self._step(token):
            self.text += text
            self._before, self._held = [*self._before, *self._held][-TAIL:], []
        return self._release(len(self.text) - self._n_open())

    def finish(self) -> str:
        """The rest, once no token comes any more."""
        if not self.stopped:
            self.text += self._engine.decode(self._before, self._held)
            self._held = []
        return self._release(len(self.text))

    def _step(self, token: int) -> str | None:
        tokenizer = self._engine.tokenizer.backend_tokenizer
        try:
            return self._stream.step(tokenizer, token)
        except Exception:  # half a character that another follows may take back the one before it
            self._stream = DecodeStream(skip_special_tokens=True)
            pieces = [self._stream.step(tokenizer, each) for each in self._held]
            return "".join(filter(None, pieces))

    def _release(self, end: int) -> str:
        places = [place for stop in self._stops if (place := self.text.find(stop)) >= 0]
        if places:
            self.stopped, self.text = True, self.text[: min(places)]
            end = len(self.text)
        given = self.text[self.n_given : end]
        self.n_given += len(given)
        return given

    def _n_open(self) -> int:
        """Characters at the end that a stop string may begin with."""
        begun = [n for stop in self._stops for n in range(len(stop)) if self.text.endswith(stop[:n])]
        return max(begun, default=0)


def token_bytes(tokenizer: Any, token: int) -> bytes:
    """The bytes that a token stands for, also where they are only part of a character."""
    piece: str = tokenizer.decode([token])
    if HALF not in piece:
        return piece.encode()
    spelled: str = tokenizer.convert_ids_to_tokens(token)
    if match := re.fullmatch("<0x([0-9A-Fa-f]{2})>", spelled):
        return bytes([int(match[1], 16)])
    if all(character in _BYTES for character in spelled):
        return bytes(_BYTES[character] for character in spelled)
    return piece.encode()
