"""Text is given out as soon as it can be, and up to a stop string alone."""

import pytest

from neurosteer_cli.engine import Engine
from neurosteer_cli.text_stream import TextStream

PROMPT = "to be"


def said(engine: Engine, text: str | bytes, *stops: str) -> tuple[list[str], TextStream]:
    """What a text's bytes give out one by one, and at the end."""
    stream = TextStream(engine, engine.prompt_ids(PROMPT), stops)
    alphabet = {token: i for token, i in engine.tokenizer.get_vocab().items()}
    from tokenizers import pre_tokenizers

    raw = text.encode() if isinstance(text, str) else text
    spelled = _byte_tokens(raw)
    assert set(spelled) <= set(pre_tokenizers.ByteLevel.alphabet())
    pieces = []
    for char in spelled:
        pieces.append(stream.take(alphabet[char]))
        if stream.stopped:
            return pieces, stream
    return [*pieces, stream.finish()], stream


def _byte_tokens(raw: bytes) -> list[str]:
    """Byte-level BPE's character of each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = {byte: 256 + n for n, byte in enumerate(b for b in range(256) if b not in plain)}
    return [chr(byte if byte in plain else others[byte]) for byte in raw]


def test_each_token_gives_out_its_text(engine: Engine) -> None:
    pieces, stream = said(engine, "or not")
    assert pieces == ["o", "r", " ", "n", "o", "t", ""]
    assert (stream.text, stream.n_given, stream.stopped) == ("or not", 6, False)


def test_half_a_character_waits_for_its_other_half(engine: Engine) -> None:
    assert said(engine, "a€b")[0] == ["a", "", "", "€", "b", ""]


def test_half_a_character_at_the_end_is_given_out_as_what_it_is(engine: Engine) -> None:
    pieces, _ = said(engine, "a€".encode()[:2])
    assert "".join(pieces) == "a\ufffd"


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("or not to be", ("not",), ["o", "r", " ", "", "", ""]),
        ("or not", ("nota",), ["o", "r", " ", "", "", "", "not"]),
        ("nnot", ("not",), ["", "n", "", ""]),
        ("ab", ("b", "a"), [""]),
        ("abcd", ("bcx", "cd"), ["a", "", "", "b"]),
        ("a€b", ("€",), ["a", "", "", ""]),
    ],
)
def test_a_text_ends_before_the_first_stop_string(
    engine: Engine, text: str, stops: tuple[str, ...], expected: list[str]
) -> None:
    pieces, stream = said(engine, text, *stops)
    assert [piece for piece in pieces] == expected
    assert stream.text == "".join(pieces)


def test_a_special_token_is_no_text(engine: Engine) -> None:
    stream = TextStream(engine, engine.prompt_ids(PROMPT))
    assert stream.take(engine.tokenizer.bos_token_id) == ""
    assert stream.finish() == ""
