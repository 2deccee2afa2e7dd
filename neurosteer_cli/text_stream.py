"""Tokens to text as they come, up to the first stop string.

Knows the engine's tokenizer; knows nothing of who reads.
"""

from collections.abc import Sequence

from tokenizers.decoders import DecodeStream

from .engine import Engine


class TextStream:
    """The text of one continuation, given out as soon as nothing can change it any more.

    Half a character waits for its other half, and what may be the beginning of a stop string for
    what comes next. The pieces given out are the whole text, which ends before the stop string.
    """

    def __init__(self, engine: Engine, prompt_ids: list[int], stops: Sequence[str] = ()) -> None:
        self._engine, self._prompt_ids, self._stops = engine, prompt_ids, tuple(stops)
        self._decoder = DecodeStream(ids=prompt_ids, skip_special_tokens=True)
        self._ids: list[int] = []
        self.text = ""  # decoded so far
        self.n_given = 0  # characters of it given out
        self.stopped = False  # a stop string has come; nothing is read any more

    def take(self, token: int) -> str:
        """Read a token; the text that can be given out now."""
        self._ids.append(token)
        self.text += self._decoder.step(self._engine.tokenizer.backend_tokenizer, token) or ""
        return self._release(len(self.text) - self._n_open())

    def finish(self) -> str:
        """The rest, once no token comes any more."""
        whole = self._engine.decode(self._prompt_ids, self._ids)
        if not self.stopped and whole.startswith(self.text):
            self.text = whole  # half a character, never to be completed
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
