"""Options that several commands share, alone and in groups.

A group is a dataclass; its decorator puts the group's options where the command has one parameter:

    @model_options  # `where: ModelOptions`
    @judge_options()  # `judging: JudgeOptions`
    @generation_options(max_new_tokens=40, batch_size=64)  # `generation: GenerationOptions`
    def eval(vector: ..., *, judging: JudgeOptions, generation: GenerationOptions, where: ModelOptions)

Knows typer; knows nothing of what the options do.
"""

import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import InputError
from ...evaluation.judges.judge import FORMS
from .command import completing
from .parse import parse_template_args

if TYPE_CHECKING:
    from ...generation.continuation import GenerationConfig

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        envvar="NEUROSTEER_MODEL",
        help="smollm2 (the embedded default), gemma3-270m, a Hub id, a local folder or a .gguf file.",
        autocompletion=completing("smollm2", "gemma3-270m"),
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        help="auto, float32, bfloat16 or float16; auto is what this machine does fastest.",
        autocompletion=completing("auto", "float32", "bfloat16", "float16"),
    ),
]
Device = Annotated[
    str,
    typer.Option(
        help="auto, cpu, cuda, cuda:1, mps.", autocompletion=completing("auto", "cpu", "cuda", "mps")
    ),
]
TemplateArgs = Annotated[
    list[str] | None,
    typer.Option(
        "--template-arg",
        metavar="KEY=VALUE",
        help="Argument of the model's chat template, such as enable_thinking=false; may be repeated.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Write JSON to stdout, for programs.")]
SAE = Annotated[
    str,
    typer.Argument(
        metavar="SAE", help="bundled, an SAE's folder, a folder of such, RELEASE/SAE_ID or OWNER/REPO/FOLDER."
    ),
]
Corpus = Annotated[
    list[str],
    typer.Argument(
        metavar="CORPUS...", help="Texts: JSONL, CSV, Parquet, plain lines, also .gz; folders; - for stdin."
    ),
]
TextKey = Annotated[
    str | None,
    typer.Option(help="Key or column of the texts [default: text, or that of another usual form]."),
]
LabelKey = Annotated[str, typer.Option(help="With one file: key or column of the labels.")]
Layers = Annotated[
    list[str] | None,
    typer.Option(
        "--layers", "--layer", metavar="LAYERS", help="Blocks, from 0: 20, 14,17,20 or 11-20 [default: all]."
    ),
]
OfLayers = Annotated[
    list[str] | None,
    typer.Option("--layers", "--layer", metavar="LAYERS", help="Of several SAEs, those of these blocks."),
]

Chat = Annotated[bool, typer.Option("--chat", help="Put each prompt into the model's chat template.")]
System = Annotated[str | None, typer.Option(help="System message; implies --chat.")]
MaxNewTokens = Annotated[int, typer.Option(help="Tokens to write at most.")]
Temperature = Annotated[float, typer.Option(help="0 is greedy.")]
TopP = Annotated[float, typer.Option(help="Nucleus sampling.")]
TopK = Annotated[int, typer.Option(help="0 is no bound.")]
RepetitionPenalty = Annotated[float, typer.Option(help="1 is none.")]
Greedy = Annotated[bool, typer.Option("--greedy", help="Always the most probable token.")]
Stops = Annotated[
    list[str] | None, typer.Option("--stop", help="End a text before this string; may be repeated.")
]
N = Annotated[int, typer.Option("-n", help="Continuations of each prompt and alpha.")]
Seed = Annotated[int, typer.Option(help="Same seed, same text.")]
Positions = Annotated[
    str,
    typer.Option(
        help="Tokens steered: all, prompt, generated, answer, first:N, after:N, thinking or after-thinking.",
        autocompletion=completing("all", "prompt", "generated", "answer", "thinking", "after-thinking"),
    ),
]
BatchSize = Annotated[int, typer.Option(help="Continuations written at a time.")]

Vectors = Annotated[list[Path] | None, typer.Option("--vector", "-v", help="Vector file; may be repeated.")]

JUDGE_FORMS = "{0} or {1} (of --judge-data, or as {0}:POS:NEG), {2}, {3}, {5}, {4} or {6}".format(*FORMS)
OneJudge = Annotated[str | None, typer.Option("--judge", help=f"{JUDGE_FORMS}.")]
Judges = Annotated[
    list[str] | None,
    typer.Option(
        "--judge",
        help=f"{JUDGE_FORMS}; may be repeated.",
        autocompletion=completing("data", "tfidf", "sentiment", "toxicity", "regex:", "hf:", "llm:"),
    ),
]
JudgeData = Annotated[
    tuple[str, str] | None,
    typer.Option(
        "--judge-data",
        metavar="POS NEG",
        help="Texts of the two sides for the judges data and tfidf, others than those fitted on.",
    ),
]
Attribute = Annotated[
    str | None, typer.Option(help="What judge llm looks for [default: the label the vector steers towards].")
]
Prompts = Annotated[
    str | None,
    typer.Option(help="Prompts: a file as for `gen`, or - for stdin [default: 36 neutral openings]."),
]

Command = Callable[..., None]


def grouped(
    command: Command,
    name: str,
    group: Any,
    *,
    without: Collection[str] = (),
    types: Any = None,
    **defaults: Any,
) -> Command:
    """The command with a group's options in the place of its parameter `name`."""
    by_name = inspect.Parameter.KEYWORD_ONLY  # their order is that of --help
    options = {
        field.name: inspect.Parameter(
            field.name,
            by_name,
            default=defaults.get(field.name, field.default),
            annotation=(types or {}).get(field.name, field.type),
        )
        for field in fields(group)
        if field.name not in without
    }
    own = inspect.signature(command).parameters.values()
    parameters = [
        option.replace(kind=by_name)
        for parameter in own
        for option in (options.values() if parameter.name == name else [parameter])
    ]

    @wraps(command)
    def call(**given: Any) -> None:
        values = {**defaults, **{option: given.pop(option) for option in options}}
        command(**{name: group(**values)}, **given)

    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which model, in which numbers, where."""

    model: Model = None
    dtype: Dtype = "auto"
    device: Device = "auto"
    template_arg: TemplateArgs = None

    @property
    def loading(self) -> dict[str, Any]:
        """What `Engine.load` takes of them, besides the name."""
        template_args = parse_template_args(self.template_arg or ())
        return {"dtype": self.dtype, "device": self.device, "template_args": template_args}

    @property
    def name(self) -> str:
        """The model named, or the embedded default."""
        from ...models.checkpoints.named import DEFAULT_MODEL

        return self.model or DEFAULT_MODEL


def model_options(command: Command) -> Command:
    """Give a command, as `where`, the options of a model."""
    return grouped(command, "where", ModelOptions, without={"template_arg"})


def chat_model_options(command: Command) -> Command:
    """Give a command, as `where`, the options of a model that may read chats."""
    return grouped(command, "where", ModelOptions)


@dataclass(frozen=True, kw_only=True)
class JudgeOptions:
    """Who judges, and on what."""

    judge: Judges = None
    judge_data: JudgeData = None
    text_key: TextKey = None  # also of other texts and prompts that a command with judges reads
    attribute: Attribute = None

    @property
    def judges(self) -> list[str]:
        """Those named, in order; --judge-data asks for `data` where none of them is trained on it."""
        named = [self.judge] if isinstance(self.judge, str) else list(self.judge or [])
        return named if self.judge_data is None or {"data", "tfidf"} & {*named} else [*named, "data"]


def judge_options(*, only_one: bool = False) -> Callable[[Command], Command]:
    """Give a command, as `judging`, the options of judges, or of `only_one`."""
    types = {"judge": OneJudge} if only_one else None
    return lambda command: grouped(command, "judging", JudgeOptions, types=types)


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """How continuations are written."""

    chat: Chat = False
    system: System = None
    max_new_tokens: MaxNewTokens = 64
    temperature: Temperature = 0.9
    top_p: TopP = 0.9
    top_k: TopK = 0
    repetition_penalty: RepetitionPenalty = 1.0
    greedy: Greedy = False
    stop: Stops = None
    n: N = 1
    seed: Seed = 0
    positions: Positions = "all"
    batch_size: BatchSize = 32

    @property
    def as_chat(self) -> bool:
        return self.chat or self.system is not None

    def config(self, n: int | None = None) -> "GenerationConfig":
        """What the options come to; `n`, that of -n where a command has it elsewhere, is only checked.

        Raises:
            InputError: one of them is out of its range.
        """
        from ...generation.continuation import GenerationConfig
        from ...generation.sampling import Sampling

        n = self.n if n is None else n
        if n < 1:
            raise InputError(f"-n must be at least 1, got {n}")
        if self.max_new_tokens < 1:
            raise InputError(f"--max-new-tokens must be at least 1, got {self.max_new_tokens}")
        sampling = Sampling(
            temperature=0.0 if self.greedy else self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            repetition_penalty=self.repetition_penalty,
            seed=self.seed,
        )
        return GenerationConfig(
            sampling=sampling,
            max_new_tokens=self.max_new_tokens,
            positions=self.positions,
            batch_size=self.batch_size,
            stops=tuple(self.stop or ()),
        )


def generation_options(*, without: Collection[str] = (), **defaults: Any) -> Callable[[Command], Command]:
    """Give a command, as `generation`, the options of writing, less some, some with other defaults."""
    return lambda command: grouped(command, "generation", GenerationOptions, without=without, **defaults)
