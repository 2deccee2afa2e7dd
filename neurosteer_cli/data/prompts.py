"""Prompts to go on from, and texts about nothing in particular: given, in files, on stdin or built in.

Knows records and the texts that come with the package; knows nothing of models or chat templates.
"""

import os
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from ..errors import InputError
from ..files import check_read_once, is_stdin
from .kinds import COMPRESSIONS, RECORDS, kind_of
from .records import Located, Passage, as_prompt
from .sources import Say, once, quiet, read_passages, read_records

_FOLDER = Path(__file__).parent
_NAMES = COMPRESSIONS | RECORDS | {".st", ".gguf", ".safetensors"}  # what no prompt of one word ends in


def read_prompts(
    arguments: Sequence[str], texts: Sequence[str] = (), *, text_key: str | None = None, say: Say = quiet
) -> list[Located]:
    """The prompts that arguments are or that the files they name hold, then texts; without any, stdin's.

    Args:
        arguments: a prompt, a file or folder that is there, or `-`.
        texts: prompts, whatever they look like.
        text_key: the key of the prompts in the files, if it is not "prompt".
        say: told of what a file is, where its name says something else.

    Raises:
        InputError: there is none, a record is none, or an argument looks like a file that is not there.
    """
    if not arguments and not texts:
        if sys.stdin is None or sys.stdin.isatty():
            raise InputError("no prompt: give one, a file of them (JSONL, CSV, .txt), or pipe some in")
        arguments = ["-"]
    check_read_once(arguments)
    read = partial(read_records, plain_key="prompt", text_key=text_key, say=once(say))
    named = [
        located
        for argument in arguments
        for located in (_named(argument) and read(argument)) or _given(argument)
    ]
    prompts = [*named, *(located for text in texts for located in _given(text))]
    for located in prompts:
        as_prompt(located)
    return prompts


def prompts_of(source: str | None, *, text_key: str | None = None, say: Say = quiet) -> list[Located]:
    """The prompts of a file or stdin, or, where there is no source, the built-in neutral openings."""
    if source is None:
        lines = (_FOLDER / "prompts.txt").read_text(encoding="utf-8").splitlines()
        return [Located(f"built-in prompt {n}", {"prompt": line}) for n, line in enumerate(lines, start=1)]
    if not is_stdin(source) and not os.path.exists(source):
        raise InputError(f"--prompts {source}: no such file; give one, or - for stdin")
    return read_prompts([source], text_key=text_key, say=say)


def neutral_texts() -> list[Passage]:
    """Built-in texts about nothing in particular: for the residual norm, and what a push does to a model."""
    return list(read_passages(str(_FOLDER / "neutral.txt")))


def _given(text: str) -> Iterable[Located]:
    return [Located("prompt", {"prompt": text})]


def _named(argument: str) -> bool:
    """Whether an argument names what prompts can be read from, and is no prompt."""
    if is_stdin(argument):
        return True
    if os.path.exists(argument):
        if not (kind := kind_of(argument)).texts:
            raise InputError(f"{argument}: {kind}. A prompt of these letters is given with --prompt")
        return True
    is_word = argument.split() == [argument]
    if is_word and Path(argument.lower()).suffix in _NAMES:
        raise InputError(f"{argument}: no such file. A prompt of these letters is given with --prompt")
    return False
