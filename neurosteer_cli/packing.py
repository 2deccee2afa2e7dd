"""Documents packed into token sequences of one length, so that no pad is ever computed.

Knows the engine's tokenizer; knows nothing of residuals or SAEs.
"""

from collections.abc import Iterable, Iterator
from itertools import islice

from .engine import Engine, Tokens

DOCUMENTS_AT_ONCE = 256  # tokenized together


def packed(engine: Engine, documents: Iterable[str], context: int) -> Iterator[Tokens]:
    """Yield sequences of `context` tokens, the last one maybe shorter, from documents end to end.

    Documents are parted by the tokenizer's end-of-text token, where it has one. Position 0 of a
    sequence (an attention sink) and special tokens do not count. The memory is that of some
    hundred documents.
    """
    special = set(engine.tokenizer.all_special_ids)
    parting = [engine.tokenizer.eos_token_id] if engine.tokenizer.eos_token_id is not None else []
    waiting: list[int] = []
    for ids in _tokenized(engine, documents):
        waiting += ids + parting
        for start in range(0, len(waiting) - context + 1, context):
            yield _sequence(waiting[start : start + context], special)
        del waiting[: len(waiting) // context * context]
    if len(waiting) > 1:
        yield _sequence(waiting, special)


def _tokenized(engine: Engine, documents: Iterable[str]) -> Iterator[list[int]]:
    stream = iter(documents)
    while texts := list(islice(stream, DOCUMENTS_AT_ONCE)):
        yield from engine.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]


def _sequence(ids: list[int], special: set[int]) -> Tokens:
    counts = [position > 0 and token not in special for position, token in enumerate(ids)]
    return Tokens(ids, counts)
