"""Tokens to text as they come, up to the first stop string.

Knows the engine's tokenizer; knows nothing of who reads.
"""

import re
from collections.abc import Sequence
from typing import Any

from ..models.engine import Engine

HALF = "\ufffd"  # what a part of a character decodes to
TAIL, STRETCH = 16, 32  # tokens before, and of, the stretch that is decoded anew at each token


class TextStream:
    """The text of one continuation, given out as soon as nothing can change it any more.

    Half a character waits for its other half, and what may be the beginning of a stop string for
    what comes next. The pieces given out are the whole text, which ends before the stop string.
    """

    def __init__(self, engine: Engine, prompt_ids: list[int], stops: Sequence[str] = ()) -> None:
        self._engine, self._stops = engine, tuple(stops)
        self._tail, self._new = prompt_ids[-TAIL:], list[int]()
        self._settled = ""  # the text of what came between the prompt and `_new`
        self.text = ""  # decoded so far
        self.n_given = 0  # characters of it given out
        self.stopped = False  # a stop string has come; nothing is read any more

    def take(self, token: int) -> str:
        """Read a token; the text that can be given out now."""
        self._new.append(token)
        text = self._engine.decode(self._tail, self._new)
        if text.endswith(HALF):
            return ""
        self.text = self._settled + text
        if len(self._new) >= STRETCH:
            self._settled = self.text
            self._tail, self._new = (self._tail + self._new)[-TAIL:], []
        return self._release(len(self.text) - self._n_open())

    def finish(self) -> str:
        """The rest, once no token comes any more."""
        if not self.stopped:
            self.text = self._settled + self._engine.decode(self._tail, self._new)
        return self._release(len(self.text))

    def _release(self, end: int) -> str:
        places = [place for stop in self._stops if (place := self.text.find(stop)) >= 0]
        if places:
            self.stopped, self.text = True, self.text[: min(places)]
            end = len(self.text)
        given = self.text[self.n_given : max(self.n_given, end)]
        self.n_given += len(given)
        return given

    def _n_open(self) -> int:
        """Characters at the end that a stop string may begin with."""
        return max(
            (
                n
                for stop in self._stops
                for n in range(min(len(stop) - 1, len(self.text)), 0, -1)
                if self.text.endswith(stop[:n])
            ),
            default=0,
        )


def _byte_of_character() -> dict[str, int]:
    """Byte-level BPE's spelling of bytes: printable ones as themselves, the others from U+0100 on."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTES = _byte_of_character()


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
