"""Prompts as the model gets them: plain, as chats, after an instruction, with room for what is written."""

from typing import Any

import pytest

from neurosteer_cli.data.records import Located
from neurosteer_cli.errors import InputError
from neurosteer_cli.generation.prompts import Prompt, tokenize
from neurosteer_cli.models.engine import Engine

PLAIN = Located("here:1", {"prompt": "to be", "id": 7})
CHAT = Located("here:2", {"messages": [{"role": "user", "content": "or not"}]})


def read(engine: Engine, located: Located, **options: Any) -> Prompt:
    (prompt,) = tokenize([located], engine, **{"max_new_tokens": 1, **options})
    return prompt


def test_a_plain_prompt_is_its_own_text(engine: Engine) -> None:
    expected = Prompt(PLAIN.record, "to be", engine.prompt_ids("to be"))
    assert read(engine, PLAIN) == expected
    assert read(engine, PLAIN, system="ignored") == expected


def test_an_instruction_goes_before_a_plain_prompt_and_is_not_shown(engine: Engine) -> None:
    prompt = read(engine, PLAIN, instruction="Be kind.")
    assert (prompt.shown, prompt.ids) == ("to be", engine.prompt_ids("Be kind.\nto be"))


@pytest.mark.parametrize(
    ("options", "system"),
    [
        ({}, None),
        ({"system": "Be brief."}, "Be brief."),
        ({"instruction": "Be kind."}, "Be kind."),
        ({"system": "Be brief.", "instruction": "Be kind."}, "Be brief.\nBe kind."),
    ],
)
@pytest.mark.parametrize("located", [PLAIN, CHAT])
def test_a_chat_is_rendered_with_its_system_message(
    engine: Engine, located: Located, options: dict[str, str], system: str | None
) -> None:
    text = "to be" if located is PLAIN else "or not"
    messages = [{"role": "user", "content": text}]
    if system is not None:
        messages = [{"role": "system", "content": system}, *messages]
    rendered = engine.chat(messages, "here")
    ids = engine.prompt_ids(rendered, rendered=True)
    prompt = read(engine, located, as_chat=True, **options)
    assert prompt == Prompt(located.record, f"> {text}\n", ids, rendered)


def test_a_prompt_must_leave_room_for_what_is_written(engine: Engine) -> None:
    room = engine.max_tokens - len(engine.prompt_ids("to be"))
    read(engine, PLAIN, max_new_tokens=room)
    message = f"^here:1: 5 tokens and {room + 1} new ones exceed the model's context of {engine.max_tokens}; "
    with pytest.raises(InputError, match=message):
        read(engine, PLAIN, max_new_tokens=room + 1)
