"""Text is given out as soon as it can be, and up to a stop string alone."""

import random
from dataclasses import replace

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from neurosteer_cli.generation.text import TextStream, token_bytes
from neurosteer_cli.models.engine import Engine

PROMPT = "to be"


def tokens_of(engine: Engine, raw: bytes) -> list[int]:
    """A token a byte, also for what is no text."""
    found = {token_bytes(engine.tokenizer, token): token for token in range(256)}
    return [found[bytes([byte])] for byte in raw]


def said(
    engine: Engine, text: str | bytes, *stops: str, prompt: str = PROMPT
) -> tuple[list[str], TextStream]:
    """What a text's bytes give out one by one, and at the end."""
    stream = TextStream(engine, engine.prompt_ids(prompt), stops)
    pieces = []
    for token in tokens_of(engine, text.encode() if isinstance(text, str) else text):
        pieces.append(stream.take(token))
        if stream.stopped:
            return pieces, stream
    return [*pieces, stream.finish()], stream


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
    assert pieces == expected
    assert stream.text == "".join(pieces)


def test_a_special_token_is_no_text(engine: Engine) -> None:
    stream = TextStream(engine, engine.prompt_ids(PROMPT))
    assert stream.take(engine.tokenizer.bos_token_id) == ""
    assert stream.finish() == ""


@pytest.mark.parametrize(
    "prompt", ["p", "ends with \ufffd", "\ufffd\ufffd", "€ and more than sixteen tokens of it"]
)
@pytest.mark.parametrize("text", ["or not", "a€b" * 32, "\ufffd\ufffdx", "y" * 64])
def test_the_pieces_are_the_text_that_gen_writes(engine: Engine, prompt: str, text: str) -> None:
    pieces, stream = said(engine, text, prompt=prompt)
    ids = tokens_of(engine, text.encode())
    assert "".join(pieces) == stream.text == engine.decode(engine.prompt_ids(prompt), ids) == text


def test_a_prompt_may_end_in_half_a_character(engine: Engine) -> None:
    stream = TextStream(engine, tokens_of(engine, "a€".encode()[:3]))
    pieces = [stream.take(token) for token in tokens_of(engine, b"\xacb")]
    assert "".join(pieces).endswith("b")
    assert "a" not in "".join(pieces)


def with_decoder(engine: Engine, words: list[str], decoder: decoders.Decoder) -> Engine:
    """The engine with a tokenizer of whole words."""
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}))
    raw.decoder = decoder
    return replace(engine, tokenizer=PreTrainedTokenizerFast(tokenizer_object=raw))


@pytest.mark.parametrize("prompt", [[0, 1], []])
def test_a_space_between_prompt_and_text_is_the_texts(engine: Engine, prompt: list[int]) -> None:
    words = ["▁to", "▁be", "▁or", "no", "t", "▁that"]
    llama = with_decoder(engine, words, decoders.Metaspace())
    stream = TextStream(llama, prompt)
    pieces = [stream.take(token) for token in (2, 5, 3, 4)]
    assert pieces == [" or" if prompt else "or", " that", "no", "t"]
    assert stream.finish() == ""
    assert stream.text == llama.decode(prompt, [2, 5, 3, 4])


def with_byte_fallback(engine: Engine) -> Engine:
    words = ["▁a", "<0xE2>", "<0x82>", "<0xAC>", "▁b", "<0xF0>"]
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    return with_decoder(engine, words, decoders.Sequence(parts))


def test_bytes_that_fall_back_are_held_till_they_are_a_character(engine: Engine) -> None:
    stream = TextStream(with_byte_fallback(engine), [0])
    assert [stream.take(token) for token in (4, 1, 2, 3, 4)] == [" b", "", "", "€", " b"]


def test_a_decoder_that_takes_text_back_does_not_end_the_stream(engine: Engine) -> None:
    llama, written = with_byte_fallback(engine), [1, 2, 3, 5, 4]  # half a character spoils the one before it
    stream = TextStream(llama, [0])
    assert [stream.take(token) for token in written] == ["", "", "€", "", "\ufffd b"]
    assert stream.finish() == ""
    assert stream.text == "€\ufffd b"
    assert llama.decode([0], written) == "\ufffd\ufffd\ufffd\ufffd b"


@pytest.mark.parametrize("decoder", ["bytes", "byte fallback"])
def test_whatever_is_written_after_whatever_prompt_the_pieces_are_the_text(
    engine: Engine, decoder: str
) -> None:
    """Prompts and texts that begin and end within characters, and what is no text at all."""
    chosen = random.Random(0)
    tokenized, n_tokens = (engine, 258) if decoder == "bytes" else (with_byte_fallback(engine), 6)
    for _ in range(500):
        ids = [chosen.randrange(n_tokens) for _ in range(chosen.randrange(1, 12))]
        if decoder == "bytes" and chosen.random() < 0.7:
            ids = tokens_of(engine, "naïve 日本 👍🏽 \ufffd".encode())
        start = chosen.randrange(len(ids) + 1)
        stream = TextStream(tokenized, ids[:start], ("\U0001f3fd", "xyz"))
        pieces = []
        for token in ids[start:]:
            pieces.append(stream.take(token))
            if stream.stopped:
                break
        assert "".join([*pieces, stream.finish()]) == stream.text


def test_every_byte_has_its_token(engine: Engine) -> None:
    assert sorted(token_bytes(engine.tokenizer, token)[0] for token in range(256)) == list(range(256))


def test_bytes_of_other_tokenizers() -> None:
    class Fallback:
        def decode(self, _ids: list[int]) -> str:
            return "\ufffd"

        def convert_ids_to_tokens(self, _token: int) -> str:
            return "<0xE2>"

    assert token_bytes(Fallback(), 5) == b"\xe2"
