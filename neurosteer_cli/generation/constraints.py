"""What a text may go on with so that it comes out as JSON, of a schema or any.

Knows llguidance and the engine's tokenizer; knows nothing of sampling or of who asks.
"""

from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, one_line
from ..models.engine import Engine

ANY_OBJECT: dict[str, Any] = {"type": "object"}
# White space without an end would be JSON too.
COMPACT: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class Constraint:
    """What one text may go on with; it is told each token that is chosen."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def copy(self) -> "Constraint":
        """One of another text's, which so far has what this one's has."""
        return Constraint(self._matcher.deep_copy())

    def allowed(self, d_vocab: int) -> Tensor:
        """Whether each token may come next, [d_vocab] bool; the end token where the text may end."""
        packed = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        return torch.from_numpy(np.unpackbits(packed, count=d_vocab, bitorder="little")).bool()

    def take(self, token: int) -> bool:
        """Go on with a token; whether the text is whole and nothing more can come."""
        self._matcher.consume_token(token)
        self.check()
        return bool(self._matcher.is_stopped())

    def check(self) -> None:
        """Raise InputError where llguidance has given the schema up: from then on it allows the end alone."""
        if error := self._matcher.get_error():
            raise InputError(f"the JSON schema takes too much to be held to ({one_line(ValueError(error))})")


class JSONConstraints:
    """Makes constraints for one engine, by a tokenizer of llguidance's own, which is made once.

    That takes a second, of a large vocabulary several, and for half of it no other thread runs. So it is
    begun at once, beside whatever else is, and not when the first asks while others' texts are written.
    """

    def __init__(self, engine: Engine) -> None:
        self._is_installed = find_spec("llguidance") is not None
        if self._is_installed:
            one_thread = ThreadPoolExecutor(1, "llguidance")
            self._tokenizer = one_thread.submit(_tokenizer_of, engine)
            one_thread.shutdown(wait=False)

    def of_schema(self, schema: dict[str, Any]) -> Constraint:
        """A constraint to JSON of a schema, without white space but after commas and colons.

        Raises:
            InputError: llguidance is not installed, or takes the schema for none.
        """
        if not self._is_installed:
            raise InputError("JSON needs llguidance: install it with pip install 'neurosteer[json]'")
        from llguidance import LLMatcher

        grammar = LLMatcher.grammar_from_json_schema(schema, defaults=COMPACT)
        matcher = LLMatcher(self._tokenizer.result(), grammar, log_level=0)
        if error := matcher.get_error():
            raise InputError(f"not a JSON schema that can be held to ({one_line(ValueError(error))})")
        return Constraint(matcher)


def _tokenizer_of(engine: Engine) -> Any:
    from llguidance.hf import from_tokenizer

    end = min(engine.stop_ids, default=engine.tokenizer.eos_token_id)
    return from_tokenizer(engine.tokenizer, eos_token=end)
