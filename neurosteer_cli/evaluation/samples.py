"""Continuations to be scored, and the setting each was written in.

Knows the record format that `gen` writes; knows nothing of generation, judges or the terminal.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ..data.records import Located, chat_messages, string_value
from ..errors import InputError

UNSTEERED, RANDOM, PROMPTING = "unsteered", "random", "prompt"


@dataclass(frozen=True)
class Condition:
    """One way to write that is compared with others."""

    vectors: tuple[str, ...] = ()
    alphas: tuple[float, ...] | None = ()  # one a vector; None where a record says nothing of it
    positions: str = "all"
    baseline: str | None = None  # UNSTEERED, RANDOM or PROMPTING
    source: str | None = None  # the file, of texts that others wrote

    @property
    def alpha(self) -> Any:
        """As records have it: a number, or one a vector."""
        if self.alphas is None:
            return None
        return self.alphas[0] if len(self.alphas) == 1 else list(self.alphas) if self.alphas else 0.0


@dataclass(frozen=True)
class Sample:
    """A continuation to be scored, whoever wrote it."""

    setting: Condition
    prompt: str
    rendered: bool  # a chat, special tokens and all
    number: int  # among the continuations of one prompt and setting
    text: str
    model: str | None
    dose: float | None


def samples(records: Iterable[Located], source: str) -> Iterator[Sample]:
    """Read what `gen --json` wrote, or {"prompt": {"text"}, "generations": [{"text"}, ...]}.

    Raises:
        InputError: a record of neither form, or a value of the wrong type.
    """
    for located in records:
        if "generations" in located.record:
            yield from _published(located, source)
        else:
            yield _written(located, source)


def _published(located: Located, source: str) -> Iterator[Sample]:
    """The layout in which DExperts and its successors publish their generations."""
    prompt = located.record.get("prompt")
    generations = located.record["generations"]
    shape = '{"prompt": {"text"}, "generations": [{"text"}, ...]}'
    if not isinstance(prompt, dict) or not isinstance(generations, list):
        raise InputError(f"{located.where}: 'generations' without the layout {shape}")
    text = string_value(Located(located.where, prompt), "text")
    for number, generation in enumerate(generations):
        if not isinstance(generation, dict):
            raise InputError(f"{located.where}: generation {number + 1} is no object; the layout is {shape}")
        written = string_value(Located(located.where, generation), "text")
        setting = Condition(alphas=None, source=source)
        yield Sample(setting, text, False, number, written, None, None)


def _written(located: Located, source: str) -> Sample:
    record = located.record
    text = string_value(located, "text")
    if "rendered" in record:
        prompt, rendered = string_value(located, "rendered"), True
    elif "prompt" in record:
        prompt, rendered = string_value(located, "prompt"), False
    elif "messages" in record:
        prompt, rendered = chat_messages(located)[-1]["content"], False
    else:
        raise InputError(f"{located.where}: no 'prompt' key; records are those that `gen --json` writes")
    return Sample(
        _setting(located, source),
        prompt,
        rendered,
        _number(located, "sample", int, 0),
        text,
        string_value(located, "model") if "model" in record else None,
        _number(located, "dose", float, None),
    )


def _setting(located: Located, source: str) -> Condition:
    record = located.record
    if "alpha" not in record:
        return Condition(alphas=None, source=source)
    names = record.get("vectors", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{located.where}: 'vectors' must be a list of names, got {names!r:.60}")
    alpha = record["alpha"]
    alphas = alpha if isinstance(alpha, list) else [alpha] if names else []
    if not all(type(value) in (int, float) for value in [*alphas, *([] if names else [alpha])]):
        raise InputError(f"{located.where}: 'alpha' must be a number or one a vector, got {alpha!r:.60}")
    if len(alphas) != len(names):
        raise InputError(f"{located.where}: {len(names)} 'vectors' and {len(alphas)} alphas; one each")
    baseline = record.get("baseline")
    if baseline not in (None, UNSTEERED, RANDOM, PROMPTING):
        raise InputError(f"{located.where}: 'baseline' is {baseline!r:.60}; this program writes no such one")
    if baseline is None and not any(alphas):
        baseline = UNSTEERED
    positions = string_value(located, "positions") if "positions" in record else "all"
    return Condition(tuple(names), tuple(map(float, alphas)), positions, baseline)


def _number(located: Located, key: str, kind: type, absent: Any) -> Any:
    value = located.record.get(key, absent)
    if value is absent:
        return absent
    if type(value) not in ((int,) if kind is int else (int, float)):
        raise InputError(f"{located.where}: {key!r} must be a number, got {value!r:.60}")
    return value
