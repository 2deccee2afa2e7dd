"""Prompts to go on from, and texts about nothing in particular: given, in files, on stdin or built in.

Knows records and the texts that come with the package; knows nothing of models or chat templates.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import InputError
from .records import SUFFIXES, Located, Passage, chat_messages, read_passages, read_records, string_value

_FOLDER = Path(__file__).parent


def read_prompts(arguments: Sequence[str]) -> list[Located]:
    """The prompts that arguments are or that the files they name hold, checked; without any, stdin's."""
    if not arguments and (sys.stdin is None or sys.stdin.isatty()):
        raise InputError("no prompt: give one, a .jsonl or .txt file, or pipe some in")
    prompts = [located for argument in arguments or ["-"] for located in _named_or_given(argument)]
    for located in prompts:
        as_prompt(located)
    return prompts


def prompts_of(source: str | None) -> list[Located]:
    """The prompts of a file or stdin, or, where there is no source, the built-in neutral openings."""
    if source is None:
        lines = (_FOLDER / "prompts.txt").read_text(encoding="utf-8").splitlines()
        return [Located(f"built-in prompt {n}", {"prompt": line}) for n, line in enumerate(lines, start=1)]
    if source != "-" and not source.endswith(SUFFIXES):
        raise InputError(f"--prompts {source}: a .jsonl or .txt file, or - for stdin")
    return read_prompts([source])


def as_prompt(located: Located) -> str | tuple[dict[str, str], ...]:
    """A record's prompt: its text, or a chat's turns."""
    return chat_messages(located) if "messages" in located.record else string_value(located, "prompt")


def neutral_texts() -> list[Passage]:
    """Built-in texts about nothing in particular: for the residual norm, and what a push does to a model."""
    return list(read_passages(str(_FOLDER / "neutral.txt")))


def _named_or_given(argument: str) -> Iterable[Located]:
    is_path = argument.endswith(SUFFIXES) and (Path(argument).exists() or argument.split() == [argument])
    if argument == "-" or is_path:
        return read_records(argument, plain_key="prompt")
    return [Located("prompt", {"prompt": argument})]
