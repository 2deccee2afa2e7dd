"""neurosteer gen: continue prompts with vectors added."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import console
from ..errors import InputError, ModelError
from .options import Device, Dtype, Json, Model, parse_alphas

if TYPE_CHECKING:
    from ..engine import Engine
    from ..generation import Generation, Row, Settings
    from ..records import Located
    from ..vector import SteeringVector

DEFAULT_ALPHA = "8"
SAFE_DOSE = 0.2
FILE_SUFFIXES = (".jsonl", ".txt")


@dataclass(frozen=True)
class Prompt:
    """A prompt as it came, and as the model gets it."""

    record: dict[str, Any]
    shown: str  # what stands before the continuation in plain output
    ids: list[int]


def gen(
    prompts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PROMPT]...",
            help="Prompts; an argument that ends in .jsonl or .txt is read as a file, - is stdin. "
            "Without any, stdin is read.",
        ),
    ] = None,
    vector: Annotated[
        list[Path] | None, typer.Option("--vector", "-v", help="Vector file; may be repeated.")
    ] = None,
    alpha: Annotated[
        list[str] | None,
        typer.Option(
            "--alpha",
            "-a",
            help="Strength of the vector in the same place, in percent of the residual's median norm; "
            f"0,4,8 writes one continuation a value. [default: {DEFAULT_ALPHA}]",
        ),
    ] = None,
    chat: Annotated[bool, typer.Option(help="Put each prompt into the model's chat template.")] = False,
    system: Annotated[str | None, typer.Option(help="System message; implies --chat.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens to write at most.")] = 64,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.9,
    top_p: Annotated[float, typer.Option(help="Nucleus sampling.")] = 0.9,
    top_k: Annotated[int, typer.Option(help="0 is no bound.")] = 0,
    repetition_penalty: Annotated[float, typer.Option(help="1 is none.")] = 1.0,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always the most probable token.")] = False,
    n: Annotated[int, typer.Option("-n", help="Continuations of each prompt and alpha.")] = 1,
    seed: Annotated[int, typer.Option(help="Same seed, same text.")] = 0,
    positions: Annotated[
        str, typer.Option(help="Tokens steered: all, those of the prompt, or those generated.")
    ] = "all",
    batch_size: Annotated[int, typer.Option(help="Continuations written at a time.")] = 32,
    compare: Annotated[
        bool, typer.Option("--compare", help="Show unsteered and steered side by side.")
    ] = False,
    model: Model = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Continue prompts while vectors are added to the residual stream.

    A JSONL record has "prompt" or "messages"; its other keys come out again with --json.

    Example: neurosteer gen --vector polite.st --alpha 8 "Your invoice is late, so"
    """
    from ..generation import Settings
    from ..sampling import Sampling
    from ..vector import SteeringVector

    if n < 1:
        raise InputError(f"-n must be at least 1, got {n}")
    settings = Settings(
        sampling=Sampling(
            temperature=0.0 if greedy else temperature,
            top_p=top_p,
            top_k=top_k,
            repetition_penalty=repetition_penalty,
            seed=seed,
        ),
        max_new_tokens=max_new_tokens,
        positions=positions,  # type: ignore[arg-type]  # checked there
        batch_size=batch_size,
    )
    paths = vector or []
    alphas = _alphas(paths, alpha or [], compare)
    vectors = [SteeringVector.load(path) for path in paths]
    records = _read_prompts(prompts or [])
    for located in records:
        _check_form(located)
    engine = _load_engine(model, paths, vectors, dtype, device)
    as_chat = chat or system is not None
    asked = [_prompt(located, engine, as_chat, system) for located in records]
    _check_lengths(records, asked, max_new_tokens, engine.max_tokens)
    names = [str(path) for path in paths]
    run = _Run(engine, asked, names, vectors, alphas, n, settings)
    run.warn_of_dose()
    if json:
        run.write_json()
    elif compare:
        run.write_columns()
    else:
        run.write_text()


def _alphas(paths: list[Path], given: list[str], compare: bool) -> list[tuple[float, ...]]:
    """Every combination of the alphas of each vector, in the order given."""
    if not paths and compare:
        raise InputError("--compare without --vector: there is nothing to compare with")
    if not paths and given:
        raise InputError("--alpha without --vector: name the vector to add")
    if given and len(given) != len(paths):
        raise InputError(
            f"{len(paths)} --vector and {len(given)} --alpha: give one --alpha for each --vector"
        )
    values = [parse_alphas(text) for text in given or [DEFAULT_ALPHA] * len(paths)]
    settings = list(product(*values))
    if compare and (0.0,) * len(paths) not in settings:
        settings = [(0.0,) * len(paths), *settings]
    return settings


def _read_prompts(arguments: list[str]) -> "list[Located]":
    from ..records import Located, read_records

    if not arguments and (sys.stdin is None or sys.stdin.isatty()):
        raise InputError("no prompt: give one, a .jsonl or .txt file, or pipe some in")
    records: list[Located] = []
    for argument in arguments or ["-"]:
        if argument == "-" or _names_file(argument):
            records.extend(read_records(argument, plain_key="prompt"))
        else:
            records.append(Located("prompt", {"prompt": argument}))
    return records


def _names_file(argument: str) -> bool:
    is_path = argument.endswith(FILE_SUFFIXES)
    return is_path and (Path(argument).exists() or not any(char.isspace() for char in argument))


def _load_engine(
    model: str | None, paths: list[Path], vectors: "list[SteeringVector]", dtype: str, device: str
) -> "Engine":
    """Load the model named, or the vectors' own, once all vectors are known to fit together."""
    from ..checkpoints import DEFAULT_MODEL, resolve
    from ..engine import Engine
    from ..loading import read_config, shape_of
    from ..vector import check_same_model

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


def _check_form(located: "Located") -> None:
    """Find a bad record before a model is loaded."""
    from ..records import chat_messages, string_value

    if "messages" in located.record:
        chat_messages(located)
    else:
        string_value(located, "prompt")


def _check_lengths(
    records: "list[Located]", prompts: list[Prompt], max_new_tokens: int, context: int
) -> None:
    for located, prompt in zip(records, prompts, strict=True):
        if len(prompt.ids) + max_new_tokens > context:
            raise InputError(
                f"{located.where}: {len(prompt.ids)} tokens and {max_new_tokens} new ones exceed the "
                f"model's context of {context}; shorten the prompt or lower --max-new-tokens"
            )


def _prompt(located: "Located", engine: "Engine", as_chat: bool, system: str | None) -> Prompt:
    """Tokenize a record's prompt or chat."""
    from ..records import chat_messages, string_value

    record = located.record
    if "messages" not in record and not as_chat:
        text = string_value(located, "prompt")
        return Prompt(record, text, engine.prompt_ids(text, located.where))
    if "messages" in record:
        messages = list(chat_messages(located))
    else:
        messages = [{"role": "user", "content": string_value(located, "prompt")}]
    if system is not None:
        messages = [{"role": "system", "content": system}, *messages]
    rendered = engine.chat(messages, located.where)
    return Prompt(
        record,
        f"> {messages[-1]['content']}\n",
        engine.prompt_ids(rendered, located.where, rendered=True),
    )


class _Run:
    """Prompts times alphas times n, written as they are finished."""

    def __init__(
        self,
        engine: "Engine",
        prompts: Sequence[Prompt],
        names: list[str],
        vectors: "list[SteeringVector]",
        alphas: list[tuple[float, ...]],
        n: int,
        settings: "Settings",
    ) -> None:
        from ..generation import Row

        self.engine, self.names, self.vectors, self.settings = engine, names, vectors, settings
        self.alphas = alphas
        self.jobs = [
            (prompt, Row(engine.decode([], prompt.ids), prompt.ids, setting, sample))
            for prompt in prompts
            for sample in range(n)
            for setting in alphas
        ]

    def warn_of_dose(self) -> None:
        dose = max(map(self.dose, self.alphas))
        if dose > SAFE_DOSE:
            console.warn(
                f"the push is {dose:.0%} as long as the residual; "
                f"above {SAFE_DOSE:.0%} text tends to break down"
            )

    def dose(self, alphas: tuple[float, ...]) -> float:
        from ..vector import total_dose

        return total_dose(self.vectors, alphas)

    def finished(self, on_text: Callable[[int, str], None] | None = None) -> "Any":
        """(job, generation) in the order of the jobs; on Ctrl-C those that are finished already."""
        from ..generation import generate

        waiting: dict[int, Generation] = {}
        following = 0
        try:
            rows = [row for _, row in self.jobs]
            for index, generation in generate(
                self.engine, rows, self.vectors, self.settings, on_text=on_text
            ):
                waiting[index] = generation
                while following in waiting:
                    yield following, waiting.pop(following)
                    following += 1
        except KeyboardInterrupt:
            yield from sorted(waiting.items())
            raise

    def write_json(self) -> None:
        from ..records import write_record

        with console.progress("writing", len(self.jobs), beside_results=True) as advance:
            for index, generation in self.finished():
                write_record(self.record(index, generation))
                advance(1)

    def record(self, index: int, generation: "Generation") -> dict[str, Any]:
        """The input record's own keys, then what was done to it."""
        prompt, row = self.jobs[index]
        return {
            **prompt.record,
            "text": generation.text,
            "vectors": self.names,
            "alpha": row.alphas[0] if len(row.alphas) == 1 else list(row.alphas) if row.alphas else 0.0,
            "dose": round(self.dose(row.alphas), 6),
            "positions": self.settings.positions,
            "seed": self.settings.sampling.seed,
            "sample": row.sample,
            "n_tokens": generation.n_tokens,
            "finish_reason": generation.finish_reason,
        }

    def write_text(self) -> None:
        if len(self.jobs) == 1 and sys.stdout.isatty():
            self._stream()
            return
        with console.progress("writing", len(self.jobs), beside_results=True) as advance:
            for index, generation in self.finished():
                prompt, row = self.jobs[index]
                if len(self.jobs) > 1:
                    typer.echo(f"[{self.heading(row)}]")
                typer.echo(prompt.shown + generation.text)
                if len(self.jobs) > 1:
                    typer.echo()
                advance(1)

    def _stream(self) -> None:
        typer.echo(self.jobs[0][0].shown, nl=False)
        for _ in self.finished(lambda _row, text: typer.echo(text, nl=False)):
            typer.echo()

    def write_columns(self) -> None:
        """A table a prompt and sample, a column an alpha, unsteered first."""
        found: dict[int, Generation] = {}
        with console.progress("writing", len(self.jobs), beside_results=True) as advance:
            for index, generation in self.finished():
                found[index] = generation
                advance(1)
                if (index + 1) % len(self.alphas) == 0:
                    group = range(index + 1 - len(self.alphas), index + 1)
                    rows = [self.jobs[i] for i in group]
                    cells = [
                        prompt.shown + found.pop(i).text for i, (prompt, _) in zip(group, rows, strict=True)
                    ]
                    console.columns([self.heading(row) for _, row in rows], cells)

    def heading(self, row: "Row") -> str:
        if not any(row.alphas):
            return "unsteered"
        parts = [f"{Path(name).stem} {alpha:+g}" for name, alpha in zip(self.names, row.alphas, strict=True)]
        return f"{', '.join(parts)} (dose {self.dose(row.alphas):.1%})"
