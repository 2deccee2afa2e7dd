"""Prompts, as they came and as the model gets them.

Knows records, chats and tokens; knows nothing of options or the terminal.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..data.records import Located, as_prompt
from ..errors import InputError
from ..models.engine import Engine


@dataclass(frozen=True)
class Prompt:
    """A prompt as it came, and as the model gets it."""

    record: dict[str, Any]
    shown: str  # what stands before the continuation in plain output
    ids: list[int]
    rendered: str | None = None  # a chat as the model's template puts it


def tokenize(
    records: Sequence[Located],
    engine: Engine,
    *,
    max_new_tokens: int,
    as_chat: bool = False,
    system: str | None = None,
    instruction: str | None = None,
) -> list[Prompt]:
    """Records' prompts as the model gets them, each with room for the new tokens in the model's context.

    `as_chat` puts plain ones into the model's chat template too, as its user's message. An instruction
    goes before a prompt, or into a chat's system message.
    """
    prompts = [_prompt(located, engine, as_chat, system, instruction) for located in records]
    for located, prompt in zip(records, prompts, strict=True):
        if len(prompt.ids) + max_new_tokens > engine.max_tokens:
            raise InputError(
                f"{located.where}: {len(prompt.ids)} tokens and {max_new_tokens} new ones exceed the "
                f"model's context of {engine.max_tokens}; shorten the prompt or lower --max-new-tokens"
            )
    return prompts


def _prompt(
    located: Located, engine: Engine, as_chat: bool, system: str | None, instruction: str | None
) -> Prompt:
    record, given = located.record, as_prompt(located)
    if isinstance(given, str) and not as_chat:
        read = given if instruction is None else f"{instruction}\n{given}"
        return Prompt(record, given, engine.prompt_ids(read, located.where))
    messages = [{"role": "user", "content": given}] if isinstance(given, str) else list(given)
    if above := "\n".join(part for part in (system, instruction) if part is not None):
        messages = [{"role": "system", "content": above}, *messages]
    rendered = engine.chat(messages, located.where)
    ids = engine.prompt_ids(rendered, located.where, rendered=True)
    return Prompt(record, f"> {messages[-1]['content']}\n", ids, rendered)


def prompt_ids(engine: Engine, prompt: str | list[int], where: str) -> list[int]:
    """The tokens of a plain prompt, or of one that comes as tokens; `where` is what errors call it."""
    if isinstance(prompt, str):
        return engine.prompt_ids(prompt, where)
    check_tokens(engine, prompt, where)
    return prompt


def check_tokens(engine: Engine, tokens: Iterable[int], where: str) -> None:
    """Raise InputError if one of the tokens is none of the model's."""
    d_vocab = engine.shape.d_vocab
    if outside := [token for token in tokens if token >= d_vocab]:
        raise InputError(f"{where}: token {outside[0]} is none of the model's {d_vocab}")
