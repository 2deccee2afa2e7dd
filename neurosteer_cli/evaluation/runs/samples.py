"""Continuations to be scored, and the condition each was written in.

Knows the record format that `gen` writes, and which records a run has kept; knows nothing of judges.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from ...data.json_text import Record
from ...data.records import Located, chat_messages, recover, string_value
from ...data.sources import Say, quiet, read_records
from ...errors import InputError
from ...files import check_read_once, check_target, is_stdin

ADD = "add"  # the kind of vector that goes without saying
UNSTEERED, RANDOM, PROMPTING = "unsteered", "random", "prompt"
MAX_PPL_RATIO = 1.25  # perplexity, over the unsteered one, up to which a condition counts as affordable
LEAST_DIVERSITY = 0.97  # of words, over that of the unsteered texts; a condition below it is marked
FEW_PROMPTS = 20  # below it, intervals are not to be depended on


def short(name: str) -> str:
    """A file or a model as tables name it, without the folder it is in."""
    return name.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Condition:
    """One way to write that is compared with others."""

    vectors: tuple[str, ...] = ()
    alphas: tuple[float, ...] | None = ()  # one a vector; None where a record says nothing of it
    positions: str = "all"
    baseline: str | None = None  # UNSTEERED, RANDOM or PROMPTING
    source: str | None = None  # the file, of texts that others wrote
    kinds: tuple[str, ...] = ()  # how the vectors act, one each; none where all of them add
    when: str | None = None  # the gate, where there is one
    choice: str | None = None  # which of several candidates it is, and by which judge, where one chose

    @property
    def alpha(self) -> Any:
        """As records have it: a number, or one a vector."""
        if self.alphas is None:
            return None
        return self.alphas[0] if len(self.alphas) == 1 else list(self.alphas) or 0.0

    @property
    def label(self) -> str:
        """What tables call it."""
        if self.alphas is None:
            return self.source or "generations"
        kinds = [f" {kind}" if kind != ADD else "" for kind in self.kinds] or [""] * len(self.vectors)
        steered = ", ".join(
            f"{short(name).removesuffix('.st')}{kind} {alpha:+g}"
            for name, kind, alpha in zip(self.vectors, kinds, self.alphas, strict=True)
        )
        if self.baseline is not None:
            names = {RANDOM: f"random like {steered}", PROMPTING: "prompting", UNSTEERED: "unsteered"}
            return names[self.baseline]
        where = [*([] if self.positions == "all" else [self.positions]), *([self.when] if self.when else [])]
        steered = f"{steered} ({', '.join(where)})" if where else steered
        return ", ".join([*([steered] if any(self.alphas) else []), self.choice]) if self.choice else steered


@dataclass(frozen=True)
class Sample:
    """A continuation to be scored, whoever wrote it."""

    condition: Condition
    prompt: str
    rendered: bool  # a chat, special tokens and all
    number: int  # among the continuations of one prompt and condition
    text: str
    model: str | None
    dose: float | None


def read_samples(sources: Sequence[str], say: Say = quiet) -> list[Sample]:
    """Read continuations of one model, in the order of the files; `-` is stdin."""
    check_read_once(sources)
    names = ["stdin" if is_stdin(source) else source for source in sources]
    records = (read_records(source, say=say) for source in sources)
    found = list(chain.from_iterable(map(samples, records, names)))
    if not found:
        raise InputError(f"{', '.join(sources)}: no continuation to score")
    if len(models := {sample.model for sample in found if sample.model is not None}) > 1:
        raise InputError(
            f"the continuations are by several models ({', '.join(sorted(models))}): score each model's alone"
        )
    return found


def samples(records: Iterable[Located], source: str) -> Iterator[Sample]:
    """Read what `gen --json` wrote, or {"prompt": {"text"}, "generations": [{"text"}, ...]}."""
    for located in records:
        for written in _published(located) if "generations" in located.record else [located]:
            yield as_sample(written, source)


def _published(located: Located) -> Iterator[Located]:
    """A record a text, of the layout in which DExperts and its successors publish their generations."""
    where, prompt, generations = located.where, located.record.get("prompt"), located.record["generations"]
    shape = '{"prompt": {"text"}, "generations": [{"text"}, ...]}'
    if not isinstance(prompt, dict) or not isinstance(generations, list):
        raise InputError(f"{where}: 'generations' without the layout {shape}")
    text = string_value(Located(where, prompt), "text")
    for number, generation in enumerate(generations):
        if not isinstance(generation, dict):
            raise InputError(f"{where}: generation {number + 1} is no object; the layout is {shape}")
        written = string_value(Located(where, generation), "text")
        yield Located(where, {"prompt": text, "text": written, "sample": number})


def as_sample(located: Located, source: str | None = None) -> Sample:
    """A record that `gen --json` writes; `source` is the file, for a text that others wrote."""
    record = located.record
    if "text" not in record and ("prompt" in record or "messages" in record):
        raise InputError(
            f"{located.where}: a prompt without its continuation, which is 'text'; "
            "`eval --vector V --prompts FILE` writes and scores them"
        )
    text = string_value(located, "text")
    if "rendered" in record or "prompt" in record:
        prompt = string_value(located, "rendered" if "rendered" in record else "prompt")
    elif "messages" in record:
        prompt = chat_messages(located)[-1]["content"]
    else:
        raise InputError(f"{located.where}: no 'prompt' key; records are those that `gen --json` writes")
    for key, types in {"sample": (int,), "dose": (int, float, type(None))}.items():
        if key in record and type(record[key]) not in types:
            raise InputError(f"{located.where}: {key!r} must be a number, got {record[key]!r:.60}")
    condition, number, dose = _condition(located, source), record.get("sample", 0), record.get("dose")
    model = string_value(located, "model") if "model" in record else None
    return Sample(condition, prompt, "rendered" in record, number, text, model, dose)


def _condition(located: Located, source: str | None) -> Condition:
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
    choice = _choice(located)
    baseline = baseline or (None if any(alphas) or choice else UNSTEERED)
    positions = string_value(located, "positions") if "positions" in record else "all"
    when = string_value(located, "when") if "when" in record else None
    numbers, kinds = tuple(map(float, alphas)), _kinds(located, names)
    return Condition(tuple(names), numbers, positions, baseline, kinds=kinds, when=when, choice=choice)


def _kinds(located: Located, names: list[str]) -> tuple[str, ...]:
    from ...vectors.metadata import KINDS

    kinds = located.record.get("kinds", [])
    if not isinstance(kinds, list) or not {*map(str, kinds)} <= {*KINDS} or len(kinds) not in (0, len(names)):
        raise InputError(
            f"{located.where}: 'kinds' must be a list of {', '.join(KINDS)}, one a vector, got {kinds!r:.60}"
        )
    return tuple(kinds)


def _choice(located: Located) -> str | None:
    """What `gen --best-of` kept of how many; None where nothing was chosen, or all are there."""
    record = located.record
    if "best_of" not in record:
        return None
    n, kept = record["best_of"], record.get("kept")
    if type(n) is not int or type(kept) is not int:
        raise InputError(
            f"{located.where}: 'best_of' and 'kept' must be whole numbers, got {n!r:.30} and {kept!r:.30}"
        )
    which = f"{'lowest' if record.get('lowest') else 'best'}{f' {kept}' if kept > 1 else ''}"
    return f"{which} of {n} by {string_value(located, 'judge')}" if kept < n else None


def check_save(save: Path | None, resume: bool) -> None:
    """Find out before any work is done whether a run's records can be kept in a file, if in any."""
    if save is None:
        if resume:
            raise InputError("--resume goes on with what --save has begun: name that file")
        return
    if save.suffix != ".jsonl":  # its name says what it will hold
        raise InputError(f"--save {save}: name a .jsonl file")
    check_target(save)
    if os.path.exists(save) and save.stat().st_size and not resume:
        raise InputError(f"--save {save}: there already; --resume goes on with it, or name another file")


def kept_records(save: Path, run: str) -> dict[int, Record]:
    """What an earlier part of a run has kept, by job; a record that a kill left half written is cut off."""
    located, whole = recover(save)
    for line in located:
        if line.record.get("run") != run or type(line.record.get("job")) is not int:
            raise InputError(
                f"{line.where}: not of this run; --resume needs the same model, vectors, prompts and "
                "settings: give those, or name another file"
            )
    if os.path.exists(save) and save.stat().st_size > whole:
        if not located:
            raise InputError(f"{save}: holds no record of this run; name another file")
        os.truncate(save, whole)
    return {line.record["job"]: line.record for line in located}
