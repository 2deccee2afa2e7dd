"""neurosteer gen: continue prompts with vectors added."""

from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..data.prompts import read_prompts
from ..errors import InputError
from ..evaluation.runs.samples import Condition
from .shared import console, options
from .shared.acting import ActingOptions, acting_options
from .shared.choosing import ChoosingOptions, choosing_options
from .shared.load import load_engine
from .shared.options import GenerationOptions, ModelOptions
from .shared.parse import check_paired, parse_alphas
from .shared.texts import Texts

if TYPE_CHECKING:
    from ..evaluation.runs.plan import Plan
    from ..vectors.metadata import Calibration
    from ..vectors.vector import SteeringVector

AUTO, AUTO_AWAY = "auto", "-auto"


@options.generation_options()
@choosing_options
@acting_options
@options.chat_model_options
def gen(
    prompts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PROMPT]...",
            help="Prompts; an argument that names a file is read (JSONL, CSV, Parquet, plain lines), - is "
            "stdin. Without any, stdin is read.",
        ),
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="A prompt, even if it looks like a file's name; may be repeated.")
    ] = None,
    vector: options.Vectors = None,
    alpha: Annotated[
        list[str] | None,
        typer.Option(
            "--alpha",
            "-a",
            help="Strength of the vector in the same place, in percent of the residual's median norm; "
            "0,4,8 writes one continuation a value. [default: 8]",
        ),
    ] = None,
    level: Annotated[
        float | None,
        typer.Option(
            help="In place of --alpha, with a calibrated vector: the alpha at which the judge's rate is "
            "expected to be this, 0.8 say."
        ),
    ] = None,
    *,
    acting: ActingOptions,
    choosing: ChoosingOptions,
    generation: GenerationOptions,
    compare: Annotated[
        bool, typer.Option("--compare", help="Show unsteered and steered side by side.")
    ] = False,
    where: ModelOptions,
    json: options.Json = False,
) -> None:
    """Continue prompts while vectors are added to the residual stream.

    A record has "prompt" or "messages"; its other keys come out again with --json, those that --json
    writes itself under "record".

    Example: neurosteer gen --vector polite.st --alpha 8 "Your invoice is late, so"
    """
    from ..evaluation.runs.comparison import kinds_of
    from ..evaluation.runs.plan import Plan
    from ..generation.prompts import tokenize
    from ..vectors.gate import open_gate

    config, as_chat, given = generation.config(), generation.as_chat, alpha or []
    _check_alphas(vector or [], given, level, compare)
    choosing.check(generation, has_vectors=bool(vector))
    named = acting.load(vector or [])
    names, vectors = tuple(name for name, _ in named), [vector for _, vector in named]
    if level is not None or {AUTO, AUTO_AWAY} & set(given):
        _warn_of_other_settings(vectors, config.positions, acting.when, as_chat=as_chat)
    combinations = _alphas(named, given, level, compare)
    records = read_prompts(prompts or [], prompt or [], text_key=choosing.text_key, say=console.note)
    best_of = choosing.load(vectors, generation.n)
    engine = load_engine(where, named)
    found = tokenize(
        records, engine, as_chat=as_chat, system=generation.system, max_new_tokens=config.max_new_tokens
    )
    gate = open_gate(acting.when, engine) if acting.when else None
    condition = partial(
        Condition, names, positions=config.positions, kinds=kinds_of(vectors), when=acting.when
    )
    conditions = [(condition(alphas=alphas), alphas) for alphas in combinations]
    n = choosing.best_of or generation.n
    plan = Plan(engine, found, vectors, conditions, config, n, gate=gate, gates_each=acting.gates_each)
    _warn_of_strength(plan)
    if plan.of_gate:
        console.note(plan.of_gate)
    Texts(plan, best_of).write(json=json, compare=compare)


def _check_alphas(paths: list[Path], given: list[str], level: float | None, compare: bool) -> None:
    if not paths and compare:
        raise InputError("--compare without --vector: there is nothing to compare with")
    if not paths and given:
        raise InputError("--alpha without --vector: name the vector to add")
    check_paired(paths, given)
    for text in given:
        if text not in (AUTO, AUTO_AWAY):
            parse_alphas(text)
    if level is not None and given:
        raise InputError("--level and --alpha both say how strongly to steer; give one of them")
    if level is not None and len(paths) != 1:
        raise InputError("--level needs exactly one --vector, a calibrated one")
    if level is not None and not 0 <= level <= 1:
        raise InputError(f"--level must be between 0 and 1, got {level}")


def _warn_of_other_settings(
    vectors: "list[SteeringVector]", positions: str, when: str | None, *, as_chat: bool
) -> None:
    calibrations = [vector.metadata.calibration for vector in vectors]
    for measured in (calibration.generation for calibration in calibrations if calibration):
        if (measured["positions"], measured["chat"], None) != (positions, as_chat, when):
            chat = "on" if measured["chat"] else "off"
            settings = f"positions {measured['positions']} and chat {chat}"
            if when:
                settings += ", without a gate"
            console.warn(f"calibrated with {settings}: other settings may need another alpha")


def _alphas(
    named: "list[tuple[str, SteeringVector]]", given: list[str], level: float | None, compare: bool
) -> list[tuple[float, ...]]:
    """Every combination of the alphas of each vector, in the order given."""
    if level is not None:
        values = [[_calibration(*named[0]).alpha_at(level)]]
        console.note(f"level {level:g}: alpha {values[0][0]:g}")
    else:
        texts = given or [f"{vector.default_alpha:g}" for _, vector in named]
        values = [_values(text, *vector) for text, vector in zip(texts, named, strict=True)]
    combinations, unsteered = list(product(*values)), (0.0,) * len(named)
    return [unsteered, *combinations] if compare and unsteered not in combinations else combinations


def _values(text: str, name: str, vector: "SteeringVector") -> list[float]:
    if text not in (AUTO, AUTO_AWAY):
        return parse_alphas(text)
    alpha = _calibration(name, vector).recommended(text == AUTO)
    console.note(f"{name}: alpha {text} is {alpha:g}")
    return [alpha]


def _calibration(name: str, vector: "SteeringVector") -> "Calibration":
    if vector.metadata.calibration is None:
        of_kind = "" if vector.adds else f" as the kind {vector.metadata.kind}"
        way_out = f"run `neurosteer calibrate {name}`" if vector.adds else "calibrate a file of that kind"
        raise InputError(f"{name} is not calibrated{of_kind}: {way_out}, or give --alpha")
    return vector.metadata.calibration


def _warn_of_strength(plan: "Plan") -> None:
    from ..vectors.vector import SAFE_DOSE, total_dose

    combinations = [alphas for _, alphas in plan.conditions]
    doses = (total_dose(plan.vectors, alphas) or 0.0 for alphas in combinations)
    if (dose := round(max(doses), 6)) > SAFE_DOSE:  # an alpha of 20 is no more than 20 %
        console.warn(
            f"the push is {dose:.0%} as long as the residual; above {SAFE_DOSE:.0%} text tends to break down"
        )
    kinds = [vector.metadata.kind for vector in plan.vectors]
    shares = (alphas[n] for alphas in combinations for n, kind in enumerate(kinds) if kind == "ablate")
    if (share := max(shares, default=0.0)) > 1:
        console.warn(f"alpha {share:g} takes the component away {share:g} times; 1 is the whole of it")
