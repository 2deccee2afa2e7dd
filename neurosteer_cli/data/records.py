"""What a record means: the forms that texts, chats and pairs of them come in; and records written.

Knows the forms and their keys; knows nothing of files, formats, models or labels. The forms are read by
hand: pydantic's errors, put into these words, take more lines than they save.
"""

import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jsonlines

from ..errors import InputError
from ..files import writing
from .json_text import SURROGATE, Decoder, Record, dumps, short
from .streams import Stream, lines
from .tables import LABEL_COLUMNS, Label

STDIN = "<stdin>"
CHOSEN, REJECTED = "chosen", "rejected"
# How chats name their speakers, in messages and in ShareGPT's conversations.
_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}
# Keys of an instruction, of what it is about and of its answer, as Alpaca, Dolly and others have them.
_ABOUT, _ANSWERS = ("input", "context"), ("output", "response")
# Forms that go before a plain text, and a plain prompt.
_FIRST = {"messages", "conversations", "completion", *_ANSWERS}
FORM_KEYS = {*_FIRST, "text", "prompt", "instruction", "generations", CHOSEN, REJECTED}
_FORMS = "'text', 'prompt' and 'completion', or 'messages'"


# What rendering a chat is told by whoever renders it: no arguments of a model's chat template.
NOT_THE_TEMPLATES = frozenset({
    "messages", "conversation", "chat_template", "add_generation_prompt", "continue_final_message",
    "tokenize", "sanitize_control_tokens", "padding", "truncation", "max_length", "return_tensors",
    "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs",
})  # fmt: skip


class Located(NamedTuple):
    """A record and where it stands, as `file:line`, for the errors that come later."""

    where: str
    record: Record


class Passage(NamedTuple):
    """A text to take statistics over: `text` counts, what precedes it is context.

    `messages` (a chat, its last turn by the assistant) excludes `prompt`; both may be absent.
    """

    where: str
    text: str
    prompt: str = ""
    messages: tuple[dict[str, str], ...] = ()

    def key(self) -> str:
        """What makes two passages the same."""
        before = [[m["role"], m["content"]] for m in self.messages[:-1]] or self.prompt
        return json.dumps([before, self.text])

    @property
    def form(self) -> str:
        """What it is, in words."""
        return "chats" if self.messages else "completions of prompts" if self.prompt else "plain texts"


# --- texts -------------------------------------------------------------------------------------


def as_passage(located: Located) -> Passage:
    """Read one of the forms {"text"}, {"prompt", "completion"}, {"messages"}, ShareGPT's or Alpaca's."""
    where, record = located
    if is_chat(record):
        return _last_turn(where, chat_messages(located))
    if "completion" in record:
        return _completed(located, record.get("prompt"), "completion")
    if "instruction" in record and (answer := next((key for key in _ANSWERS if key in record), None)):
        return Passage(where, _filled_string(located, answer), prompt=f"{_instruction(located)}\n")
    if "text" in record:
        return Passage(where, _filled_string(located, "text"))
    if {CHOSEN, REJECTED} <= record.keys():
        raise InputError(f"{where}: a preference pair; `fit` fills both sides with such a file, given alone")
    raise InputError(f"{where}: {_no_key(_FORMS, record, '--text-key', _longest(record))}")


def _completed(located: Located, prompt: Any, key: str) -> Passage:
    """The text or turns under a key, after a prompt that is a text or turns, or None."""
    where, record = located
    if not isinstance(prompt, list) and not isinstance(record[key], list):
        before = "" if prompt is None and key != "completion" else string_value(located, "prompt")
        return Passage(where, _filled_string(located, key), prompt=before)
    first, second = (
        turns_of(value, located, name) for value, name in ((prompt, "prompt"), (record[key], key))
    )
    return _last_turn(where, (*first, *second))


def turns_of(value: Any, located: Located, key: str) -> tuple[dict[str, str], ...]:
    """A chat, whose turns are given, or the turn that a text makes: the user's of a prompt."""
    if value is None:
        return ()
    if isinstance(value, str):
        role = "user" if key == "prompt" else "assistant"
        return ({"role": role, "content": string_value(located, key)},)
    return _turns(Located(located.where, {key: value}), key)


def _last_turn(where: str, messages: tuple[dict[str, str], ...]) -> Passage:
    if (role := messages[-1]["role"]) != "assistant":
        raise InputError(
            f"{where}: the last message is by {role!r}; the last one counts and must be by 'assistant'"
        )
    return Passage(where, _filled_string(Located(where, messages[-1]), "content"), messages=messages)


def _instruction(located: Located) -> str:
    """An instruction, and below it what it is about, if it is about something."""
    about = next((located.record[key] for key in _ABOUT if located.record.get(key)), "")
    return "\n".join(filter(None, [string_value(located, "instruction"), str(about)]))


def pair_side(located: Located, which: str) -> Located:
    """The record of one side of a preference pair: what is `chosen`, or `rejected`, after the prompt."""
    where, record = located
    if which not in record:
        raise InputError(f"{where}: {_no_key(repr(which), record)}; a preference pair has both")
    passage = _completed(located, record.get("prompt"), which)
    if passage.messages:
        return Located(where, {"messages": list(passage.messages)})
    return Located(where, {"prompt": passage.prompt, "completion": passage.text})


def keyed(located: Located, key: str, plain_key: str) -> Located:
    """The record with what is under `key` as its text or chat, whatever other forms it has."""
    where, record = located
    if key not in record:
        raise InputError(f"{where}: {_no_key(repr(key), record)}")
    kept = {name: value for name, value in record.items() if name not in _FIRST}
    return Located(where, {**kept, "messages" if isinstance(record[key], list) else plain_key: record[key]})


# --- prompts -----------------------------------------------------------------------------------


def as_prompt(located: Located) -> str | tuple[dict[str, str], ...]:
    """A record's prompt: its text, an instruction, or a chat's turns."""
    where, record = located
    prompt = record.get("prompt")
    if is_chat(record):
        return chat_messages(located)
    if isinstance(prompt, list):
        return _turns(located, "prompt")
    if isinstance(prompt, dict) and "text" in prompt:  # as RealToxicityPrompts and DExperts have it
        return string_value(Located(where, prompt), "text")
    if "prompt" not in record and "instruction" in record:
        return f"{_instruction(located)}\n"
    if "prompt" not in record:
        raise InputError(f"{where}: {_no_key(repr('prompt'), record, '--text-key', _longest(record))}")
    return string_value(located, "prompt")


def is_chat(record: Record) -> bool:
    return "messages" in record or "conversations" in record


def is_turn(value: Record) -> bool:
    """Whether an object is a turn of a chat, of messages or of ShareGPT."""
    return {"role", "content"} <= value.keys() or {"from", "value"} <= value.keys()


def chat_messages(located: Located) -> tuple[dict[str, str], ...]:
    """The chat under `messages`, or ShareGPT's `conversations`, as {"role", "content"}, at least one turn."""
    where, record = located
    turns = _turns(located, "messages" if "messages" in record else "conversations")
    if "messages" not in record and record.get("system"):
        return ({"role": "system", "content": string_value(located, "system")}, *turns)
    return turns


def _turns(located: Located, key: str) -> tuple[dict[str, str], ...]:
    where, turns = located.where, located.record[key]
    if not isinstance(turns, list) or not turns:
        raise InputError(f"{where}: {key!r} must be a list of {{role, content}}, got {short(turns)}")
    return tuple(_turn(Located(where, turn)) for turn in turns)


def _turn(located: Located) -> dict[str, str]:
    where, turn = located
    if isinstance(turn, dict) and {"from", "value"} <= turn.keys():
        turn = {"role": turn["from"], "content": turn["value"]}
    if not isinstance(turn, dict) or not {"role", "content"} <= turn.keys():
        raise InputError(f"{where}: a message must have 'role' and 'content', got {short(turn)}")
    if isinstance(turn["content"], list):
        turn = {**turn, "content": _joined(turn["content"], where)}
    role, content = (string_value(Located(where, turn), key) for key in ("role", "content"))
    return {"role": _ROLES.get(role, role), "content": content}


def _joined(parts: list[Any], where: str) -> str:
    """The text of a message in parts."""
    for part in parts:
        kind = part.get("type", "text") if isinstance(part, dict) else None
        if kind not in ("text", "input_text", "output_text"):
            what = f"a part of type {kind!r}" if isinstance(kind, str) else short(part)
            raise InputError(f"{where}: 'content' holds {what}; only text is read")
    return "".join(string_value(Located(where, part), "text") for part in parts)


# --- values ------------------------------------------------------------------------------------


def string_value(located: Located, key: str) -> str:
    """The string under `key`, checked to be one that can be written as UTF-8."""
    where, record = located
    if key not in record:
        raise InputError(f"{where}: {_no_key(repr(key), record)}")
    value = record[key]
    if not isinstance(value, str):
        raise InputError(f"{where}: {key!r} must be a string, got {short(value)}")
    if SURROGATE.search(value):
        raise InputError(f"{where}: {key!r} holds half a surrogate pair, which is no text")
    return value


def _filled_string(located: Located, key: str) -> str:
    value = string_value(located, key)
    if not value.strip():
        raise InputError(f"{located.where}: {key!r} is empty; remove the record or give it a text")
    return value


def label_names(located: Located, key: str) -> tuple[str, ...]:
    """What the label under `key` is called: its name in a dataset, or as JSON writes it, or the text."""
    where, record = located
    if key not in record:
        raise InputError(f"{where}: {_no_key(repr(key), record, '--label-key', _shortest(record))}")
    value = record[key]
    if isinstance(value, Label):
        return value.called
    return (value if isinstance(value, str) else json.dumps(value),)


def _no_key(wanted: str, record: Record, option: str = "", likely: str | None = None) -> str:
    proposed = f"; perhaps {option} {shlex.quote(likely)}" if likely else ""
    return f"no {wanted} key; found {sorted(record)}{proposed}"


def _longest(record: Record) -> str | None:
    """The key that most likely holds the text."""
    texts = [key for key, value in record.items() if isinstance(value, str) and value.strip()]
    return max(texts, key=lambda key: len(record[key]), default=None)


def _shortest(record: Record) -> str | None:
    """The key that most likely holds the label: one with a usual name, else the shortest."""
    labels = [key for key, value in record.items() if isinstance(value, str | int) and key not in FORM_KEYS]
    return min(
        labels, key=lambda key: (key.lower() not in LABEL_COLUMNS, len(str(record[key]))), default=None
    )


# --- written -----------------------------------------------------------------------------------


def write_record(record: Record) -> None:
    """Write one JSONL record to stdout, in UTF-8 whatever the locale, so that a pipe sees it at once."""
    sys.stdout.flush()
    sys.stdout.buffer.write(f"{dumps(record)}\n".encode())
    sys.stdout.buffer.flush()


@contextmanager
def appending(path: Path) -> Iterator[Callable[[Record], object]]:
    """Yield a function that appends a record to a file and flushes it."""
    with writing(path), path.open("a", encoding="utf-8") as file:
        yield jsonlines.Writer(file, dumps=dumps, flush=True).write


def recover(path: Path) -> tuple[list[Located], int]:
    """Read back what `appending` wrote: whole records, and the bytes they take.

    What follows those bytes is a record that a killed run left half written.
    """
    data = path.read_bytes() if os.path.exists(path) else b""
    whole = data.rfind(b"\n") + 1
    decoder = Decoder(str(path), lambda _message: None)
    found = lines(Stream(iter([data[:whole]])), str(path))
    return [Located(where, decoder.object_of(line, where)) for where, line in found if line.strip()], whole
