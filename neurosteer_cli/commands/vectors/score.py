"""neurosteer score: what a vector, as a detector, says of texts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from ...data.json_text import set_aside
from ...data.records import Located, as_passage, label_names, write_record
from ...data.sides import LABEL_KEY, text_hash
from ...data.sources import read_records
from ..shared import console, results
from ..shared.load import load_engine_with
from ..shared.options import Json, LabelKey, ModelOptions, TextKey, chat_model_options

if TYPE_CHECKING:
    from ...evaluation.measures.metrics import Estimate
    from ...models.engine import Engine
    from ...models.tokenizer import Tokens
    from ...reports.scores import ScoredText
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
    report: Annotated[
        Path | None, typer.Option(help="Write a page there, tokens coloured by their scores.")
    ] = None,
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

    results.check_targets(report)
    found = SteeringVector.load(vector)
    known_detector(found, str(vector))
    where = ModelOptions(**{**vars(where), "model": where.model or found.own_model(str(vector))})
    engine, _ = load_engine_with({}, where, list(found.pushes))
    found.check_fits(engine.shape, engine.model_id, str(vector), console.warn)
    first = target or (found.metadata.positive and found.metadata.positive.label)
    tally = _Tally(str(first), label_key, {*found.text_hashes.tolist()})
    for scored in _scored(engine, found, texts, text_key):
        _show(engine, scored, tokens=tokens, json=json)
        tally.add(engine, scored, keeps=report is not None)
    tally.tell_of_own_texts(str(vector))
    auroc = tally.auroc()
    if report is not None:
        _write_page(report, (str(vector), found), texts, tally, auroc)


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
        found = {"score": z, "probability": probability, **of_tokens}
        write_record({**set_aside(scored.located.record, found.keys()), **found})
        return
    numbers = "     -    -" if z is None or probability is None else f"{z:+6.2f} {probability:4.0%}"
    shown = " ".join(scored.text.split())
    typer.echo(f"{numbers}  {shown if len(shown) <= SHOWN else shown[: SHOWN - 1] + '…'}")
    if tokens:
        typer.echo(
            " ".join(f"{text.strip() or '·'}:{number:+.1f}" for text, number in pieces if number is not None)
        )


def _pieces(engine: "Engine", scored: _Scored) -> list[tuple[str, float | None]]:
    """Each token's text and its score; none of those that do not count.

    The texts add up to the whole: the parts of a character come with the last of them.
    """
    from ...generation.text import TextStream

    stream = TextStream(engine, [])
    pieces = [stream.take(token) for token in scored.tokens.ids]
    if pieces:
        pieces[-1] += stream.finish()
    values = scored.score.tokens if scored.score else [None] * len(pieces)
    return [
        (text, None if value is None else round(value, 4)) for text, value in zip(pieces, values, strict=True)
    ]


@dataclass
class _Tally:
    """What is kept of texts that have been shown: scores by side, and the first of them for a page."""

    first: str
    label_key: str
    fitted_on: set[int]  # hashes of the texts that the vector was fitted on
    sides: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))  # of labelled texts
    unlabelled: list[float] = field(default_factory=list)
    n: int = 0
    n_own: int = 0  # of those that the vector was fitted on
    shown: "list[ScoredText]" = field(default_factory=list)

    def add(self, engine: "Engine", scored: _Scored, *, keeps: bool) -> None:
        """Count a text in; `keeps`: for a page, if it holds more."""
        record = scored.located.record
        labels = label_names(scored.located, self.label_key) if self.label_key in record else ()
        if scored.score:
            side = self.sides[self.first not in labels] if labels else self.unlabelled
            side.append(scored.score.z)
        self.n += 1
        self.n_own += text_hash(scored.text) in self.fitted_on
        if keeps:
            self._keep(engine, scored, labels)

    def _keep(self, engine: "Engine", scored: _Scored, labels: Sequence[str]) -> None:
        from ...reports.scores import N_SHOWN, ScoredText

        if len(self.shown) < N_SHOWN:
            z, probability = (scored.score.z, scored.score.probability) if scored.score else (None, None)
            pieces, label = _pieces(engine, scored), ", ".join(labels) or None
            self.shown.append(ScoredText(scored.located.where, label, z, probability, pieces))

    def tell_of_own_texts(self, name: str) -> None:
        """Warn of scores that flatter the vector."""
        if self.n_own:
            console.warn(
                f"{self.n_own} of {self.n} texts are among those that {name} was fitted on: they are told "
                "apart better than others would be"
            )

    @property
    def by_side(self) -> dict[str, list[float]]:
        """Scores by what labels say of their texts."""
        named = {self.first: self.sides[0], "others": self.sides[1], "without label": self.unlabelled}
        return {name: scores for name, scores in named.items() if scores}

    def auroc(self) -> "Estimate | None":
        """Of the first side's texts against the others, if there are labels; it is told."""
        if not any(self.sides):
            return None
        if not all(self.sides):
            which = "all" if self.sides[0] else "no"
            console.note(
                f"no AUROC: {which} texts are labelled {self.first!r}; --target names the label of the first "
                "side"
            )
            return None
        from ...evaluation.measures.metrics import Estimate, auroc_interval
        from ...vectors.fitting.statistics import auroc

        n_first, n_others = map(len, self.sides)
        value = auroc(*self.sides)
        low, high = auroc_interval(value, n_first, n_others)
        console.note(
            f"AUROC {value:.3f} [{low:.3f}, {high:.3f}]: {self.first!r} ({n_first} texts) against the others "
            f"({n_others})"
        )
        return Estimate(value, low, high)


def _write_page(
    path: Path,
    named: "tuple[str, SteeringVector]",
    sources: list[str],
    tally: _Tally,
    auroc: "Estimate | None",
) -> None:
    from ...evaluation.evaluate import stamp
    from ...evaluation.runs.provenance import of_vector
    from ...reports.scores import ScoredTexts, scores_page
    from ...vectors.detector import known_detector

    name, vector = named
    metadata = vector.metadata
    found = ScoredTexts(
        title=f"{tally.n} texts scored by {Path(name).name}",
        first=tally.first,
        second=metadata.negative.label if metadata.negative else "the second side",
        texts=tally.shown,
        n=tally.n,
        scores=tally.by_side,
        auroc=auroc,
        provenance={
            "vector": of_vector(name, vector),
            "detector": known_detector(vector, name).model_dump(),
            "texts": sources,
            **stamp(),
        },
    )
    results.write_page(path, scores_page(found, results.command_line()))
