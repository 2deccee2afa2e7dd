"""Which tokens are steered, place by place."""

import re

import pytest
from support.tiny import tiny_tokenizer

from neurosteer_cli.errors import InputError
from neurosteer_cli.generation.positions import Marks, Positions, thinking_marks

PROMPT, WRITTEN = [1, 2, 3], [4, 90, 5, 6, 91, 7]
MARKS = Marks(90, 91)


def steered(text: str, prompt: list[int] = PROMPT, written: list[int] = WRITTEN) -> str:
    """A letter a token: x where it is steered, with a bar after the prompt."""
    positions, ids = Positions.parse(text), prompt + written
    letters = [".x"[positions.covers(place, ids, len(prompt), MARKS)] for place in range(len(ids))]
    return "".join(letters[: len(prompt)]) + "|" + "".join(letters[len(prompt) :])


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        ("all", "xxx|xxxxxx"),
        ("prompt", "xxx|......"),
        ("generated", "...|xxxxxx"),
        ("answer", "..x|xxxxxx"),
        ("first:1", "..x|......"),
        ("first:3", "..x|xx...."),
        ("after:0", "..x|xxxxxx"),
        ("after:2", "...|.xxxxx"),
        ("thinking", "...|.xxx.."),
        ("after-thinking", "...|....xx"),
    ],
)
def test_the_tokens_steered_are_those_that_choose_what_is_named(positions: str, expected: str) -> None:
    assert steered(positions) == expected


def test_thinking_may_begin_in_the_prompt_as_templates_write_it() -> None:
    assert steered("thinking", [1, 90, 2], [4, 91, 5]) == "..x|x.."
    assert steered("after-thinking", [90, 2, 91, 3], [4]) == "...x|x"  # an earlier turn's, or none at all
    assert steered("thinking", [1], [4, 5]) == ".|.."


@pytest.mark.parametrize("text", ["", "last", "first", "first:", "first:-1", "after:x", "first:0", "All"])
def test_other_positions_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=re.escape("--positions")):
        Positions.parse(text)


def test_marks_of_thinking_are_the_tokenizers_own() -> None:
    tokenizer = tiny_tokenizer()
    with pytest.raises(InputError, match="the tokenizer of 'tiny' has none of the known marks of thinking"):
        thinking_marks(tokenizer, "tiny", Positions.parse("thinking"))
    assert thinking_marks(tokenizer, "tiny", Positions.parse("answer")) is None
    tokenizer.add_tokens(["<think>", "</think>"])
    begin, end = tokenizer.convert_tokens_to_ids(["<think>", "</think>"])
    assert thinking_marks(tokenizer, "tiny", Positions.parse("thinking")) == Marks(begin, end)
