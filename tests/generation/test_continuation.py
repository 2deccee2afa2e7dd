"""What a continuation gives out of itself: text and the tokens whose text it is, until it ends."""

import pytest
import torch
from support.tiny import tiny_tokenizer

from neurosteer_cli.generation.continuation import Continuation, Delta, GenerationConfig, Token
from neurosteer_cli.generation.text import TextStream
from neurosteer_cli.models.engine import Engine

TOKENIZER = tiny_tokenizer()


def deltas(engine: Engine, text: str, *stops: str, n: int = 50, ends: bool = True) -> list[Delta]:
    """What a text's tokens give out one by one, and at last its end."""
    continuation = Continuation(
        ids=engine.prompt_ids("to be"), key="k", config=GenerationConfig(max_new_tokens=n, stops=stops)
    )
    continuation.generator = torch.Generator()
    continuation.stream = TextStream(engine, continuation.ids, stops)
    given = []
    for token in [*TOKENIZER(text)["input_ids"], *([None] if ends else [])]:
        start = len(continuation.stream.text)
        given.append(continuation.take(None if token is None else Token(token, start)))
        if continuation.finish_reason:
            break
    return given


def told(parts: list[Delta]) -> list[tuple[str, int, str | None]]:
    return [(delta.text, len(delta.tokens), delta.finish_reason) for delta in parts]


def test_each_token_goes_with_its_text_and_the_end_has_none(engine: Engine) -> None:
    assert told(deltas(engine, "ab")) == [("a", 1, None), ("b", 1, None), ("", 0, "stop")]


def test_the_last_token_allowed_ends_it(engine: Engine) -> None:
    assert told(deltas(engine, "abc", n=2)) == [("a", 1, None), ("b", 1, "length")]


def test_tokens_of_one_character_are_given_out_with_it(engine: Engine) -> None:
    parts = deltas(engine, "a€b")
    assert told(parts) == [
        ("a", 1, None),
        ("", 0, None),
        ("", 0, None),
        ("€", 3, None),
        ("b", 1, None),
        ("", 0, "stop"),
    ]
    assert [bool(delta) for delta in parts] == [True, False, False, True, True, True]


def test_half_a_character_at_the_end_is_given_out_with_its_tokens(engine: Engine) -> None:
    assert told(deltas(engine, "a€", n=3)) == [("a", 1, None), ("", 0, None), ("\ufffd", 2, "length")]


@pytest.mark.parametrize("n", [50, 4])
def test_a_stop_string_ends_it_and_takes_its_own_tokens_along(engine: Engine, n: int) -> None:
    assert told(deltas(engine, "abcd", "cd", n=n)) == [
        ("a", 1, None),
        ("b", 1, None),
        ("", 0, None),
        ("", 0, "stop"),
    ]


def test_what_began_like_a_stop_string_and_was_none_is_given_out_at_the_end(engine: Engine) -> None:
    assert told(deltas(engine, "ac", "cd")) == [("a", 1, None), ("", 0, None), ("c", 1, "stop")]
    assert told(deltas(engine, "ac", "cd", n=2)) == [("a", 1, None), ("c", 1, "length")]


def test_cancelling_does_nothing_to_what_has_ended() -> None:
    one = Continuation(ids=[1], key="k", config=GenerationConfig(max_new_tokens=1), finish_reason="stop")
    one.cancel()
    assert one.finish_reason == "stop"
