"""What gen, eval and calibrate share: reading prompts, and loading the model that vectors belong to."""

import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import InputError, ModelError
from ..shared import console

if TYPE_CHECKING:
    from ...data.records import Located
    from ...generation.prompts import Prompt
    from ...models.engine import Engine
    from ...vectors.vector import SteeringVector

FILE_SUFFIXES = (".jsonl", ".txt")


def read_prompts(arguments: list[str]) -> "list[Located]":
    """The prompts that arguments are or name, each checked for its form; stdin where there are none."""
    from ...data.records import Located, read_records

    if not arguments and (sys.stdin is None or sys.stdin.isatty()):
        raise InputError("no prompt: give one, a .jsonl or .txt file, or pipe some in")
    records: list[Located] = []
    for argument in arguments or ["-"]:
        if argument == "-" or _names_file(argument):
            records.extend(read_records(argument, plain_key="prompt"))
        else:
            records.append(Located("prompt", {"prompt": argument}))
    for located in records:
        _check_form(located)
    return records


def _check_form(located: "Located") -> None:
    """Find a bad record before a model is loaded."""
    from ...data.records import chat_messages, string_value

    if "messages" in located.record:
        chat_messages(located)
    else:
        string_value(located, "prompt")


def prompt_records(source: str | None) -> "list[Located]":
    """The prompts of a file or stdin, or the built-in neutral openings."""
    from ...data.records import Located

    if source is not None:
        if source != "-" and not source.endswith(FILE_SUFFIXES):
            raise InputError(f"--prompts {source}: a .jsonl or .txt file, or - for stdin")
        return read_prompts([source])
    lines = (files("neurosteer_cli") / "data" / "prompts.txt").read_text(encoding="utf-8").splitlines()
    return [Located(f"built-in prompt {i}", {"prompt": line}) for i, line in enumerate(lines, start=1)]


def _names_file(argument: str) -> bool:
    is_path = argument.endswith(FILE_SUFFIXES)
    return is_path and (Path(argument).exists() or not any(char.isspace() for char in argument))


def load_engine(
    model: str | None, paths: list[Path], vectors: "list[SteeringVector]", dtype: str, device: str
) -> "Engine":
    """Load the model named, or the vectors' own, once all vectors are known to fit together."""
    from ...models.engine import Engine
    from ...models.load import read_config
    from ...models.resolve import DEFAULT_MODEL, resolve
    from ...models.shape import shape_of
    from ...vectors.combine import check_same_model

    name = model or (vectors[0].metadata.model_id if vectors else DEFAULT_MODEL)
    if vectors:
        check_same_model([(str(path), vector) for path, vector in zip(paths, vectors, strict=True)])
        if not model and Path(name).is_absolute() and not Path(name).exists():
            raise ModelError(
                f"{paths[0]} was fitted on {name!r}, which is not there any more: "
                "pass --model with the place where it is now"
            )
        shape = shape_of(read_config(resolve(name, console.note)))
        for path, vector in zip(paths, vectors, strict=True):
            vector.check_fits(shape, name, str(path))
    return Engine.load(name, dtype=dtype, device=device, say=console.note)


def tokenized(
    records: "Sequence[Located]",
    engine: "Engine",
    *,
    as_chat: bool,
    system: str | None,
    max_new_tokens: int,
    instruction: str | None = None,
) -> "list[Prompt]":
    """Each prompt as the model gets it; an instruction goes before it, or into the system message.

    Raises:
        InputError: a prompt is empty, or leaves no room for the new tokens.
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
    located: "Located", engine: "Engine", as_chat: bool, system: str | None, instruction: str | None
) -> "Prompt":
    from ...data.records import chat_messages, string_value
    from ...generation.prompts import Prompt

    record = located.record
    if "messages" not in record and not as_chat:
        text = string_value(located, "prompt")
        read = text if instruction is None else f"{instruction}\n{text}"
        return Prompt(record, text, engine.prompt_ids(read, located.where))
    if "messages" in record:
        messages = list(chat_messages(located))
    else:
        messages = [{"role": "user", "content": string_value(located, "prompt")}]
    if said := "\n".join(part for part in (system, instruction) if part is not None):
        messages = [{"role": "system", "content": said}, *messages]
    rendered = engine.chat(messages, located.where)
    return Prompt(
        record,
        f"> {messages[-1]['content']}\n",
        engine.prompt_ids(rendered, located.where, rendered=True),
        rendered,
    )
