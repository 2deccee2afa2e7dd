"""neurosteer score: what a vector, as a detector, says of texts."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from ...data.records import Located, as_passage, label_names, write_record
from ...data.sides import LABEL_KEY
from ...data.sources import read_records
from ...errors import InputError
from ..shared import console
from ..shared.load import load_engine_with
from ..shared.options import Json, LabelKey, ModelOptions, TextKey, chat_model_options

if TYPE_CHECKING:
    from ...models.engine import Engine
    from ...models.tokenizer import Tokens
    from ...vectors.detector import Score
    from ...vectors.vector import SteeringVector

AT_ONCE = 512  # texts that are read together
SHOWN = 70  # characters of a text in a table


class _Scored(NamedTuple):
    located: Located
    text: str
    tokens: "Tokens"
    score: "Score | None"  # of a text without tokens that count there is none


@chat_model_options
def score_(
    vector: Annotated[Path, typer.Argument(metavar="VECTOR", help="Vector file, fitted on two sides.")],
    texts: Annotated[
        list[str], typer.Argument(metavar="TEXTS...", help="Texts as for `fit`, or - for stdin.")
    ],
    target: Annotated[
        str | None,
        typer.Option(help="The label of the first side [default: what the vector steers towards]."),
    ] = None,
    text_key: TextKey = None,
    label_key: LabelKey = LABEL_KEY,
    tokens: Annotated[bool, typer.Option("--tokens", help="Also the score of each token.")] = False,
    *,
    where: ModelOptions,
    json: Json = False,
) -> None:
    """Say of each text, or token, which of a vector's two sides it is on.

    The score counts in the spread within a side from the middle of the two, as measured on texts that were
    held out of the fit: above 0 is the side that is steered towards. Records with labels give an AUROC.

    Example: neurosteer score polite.st mails.jsonl --json
    """
    from ...vectors.detector import known_detector
    from ...vectors.vector import SteeringVector

    found = SteeringVector.load(vector)
    known_detector(found, str(vector))
    where = ModelOptions(**{**vars(where), "model": where.model or found.own_model(str(vector))})
    engine, _ = load_engine_with({}, where, list(found.pushes))
    found.check_fits(engine.shape, engine.model_id, str(vector), console.warn)
    first = target or (found.metadata.positive and found.metadata.positive.label)
    sides: tuple[list[float], list[float]] = [], []
    for scored in _scored(engine, found, texts, text_key):
        _show(engine, scored, tokens=tokens, json=json)
        if scored.score and label_key in scored.located.record:
            sides[first not in label_names(scored.located, label_key)].append(scored.score.z)
    _tell_auroc(sides, str(first))


def _scored(
    engine: "Engine", vector: "SteeringVector", sources: Sequence[str], text_key: str | None
) -> Iterator[_Scored]:
    """The texts in their order, a bounded number at a time."""
    from ...vectors.detector import score

    records = (
        each for source in sources for each in read_records(source, text_key=text_key, say=console.note)
    )
    while chunk := list(islice(records, AT_ONCE)):
        passages = [as_passage(located) for located in chunk]
        tokenized = [engine.tokenize(passage) for passage in passages]
        scores = dict(score(engine, vector, tokenized))
        for number, (located, passage, each) in enumerate(zip(chunk, passages, tokenized, strict=True)):
            yield _Scored(located, passage.text, each, scores.get(number))


def _show(engine: "Engine", scored: _Scored, *, tokens: bool, json: bool) -> None:
    z, probability = (scored.score.z, scored.score.probability) if scored.score else (None, None)
    pieces = _pieces(engine, scored) if tokens else []
    if json:
        of_tokens = {"tokens": [{"text": text, "score": number} for text, number in pieces]} if tokens else {}
        write_record({**scored.located.record, "score": z, "probability": probability, **of_tokens})
        return
    numbers = "     -    -" if z is None or probability is None else f"{z:+6.2f} {probability:4.0%}"
    shown = " ".join(scored.text.split())
    typer.echo(f"{numbers}  {shown if len(shown) <= SHOWN else shown[: SHOWN - 1] + '…'}")
    if tokens:
        typer.echo(
            " ".join(f"{text.strip() or '·'}:{number:+.1f}" for text, number in pieces if number is not None)
        )


def _pieces(engine: "Engine", scored: _Scored) -> list[tuple[str, float | None]]:
    """Each token's text and its score; none of those that do not count."""
    values = scored.score.tokens if scored.score else [None] * len(scored.tokens.ids)
    return [
        (engine.decode([], [token]), None if value is None else round(value, 4))
        for token, value in zip(scored.tokens.ids, values, strict=True)
    ]


def _tell_auroc(sides: tuple[list[float], list[float]], first: str) -> None:
    if not any(sides):
        return
    if not all(sides):
        raise InputError(
            f"{'all' if sides[0] else 'no'} texts are labelled {first!r}; --target names the label of "
            "the first side"
        )
    from ...evaluation.measures.metrics import auroc_interval
    from ...vectors.fitting.statistics import auroc

    value = auroc(*sides)
    low, high = auroc_interval(value, *map(len, sides))
    console.note(
        f"AUROC {value:.3f} [{low:.3f}, {high:.3f}]: {first!r} ({len(sides[0])} texts) against the others "
        f"({len(sides[1])})"
    )
