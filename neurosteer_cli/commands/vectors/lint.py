"""neurosteer lint: what besides the attribute tells two sides of texts apart."""

from typing import Annotated

import typer

from ...data.records import write_record
from ...data.sides import LABEL_KEY, open_sides
from ..shared import console
from ..shared.options import Json, LabelKey, TextKey


def lint_(
    texts: Annotated[
        list[str],
        typer.Argument(
            metavar="TOWARDS [AWAY]", help="Texts as for `fit`: two files, or one of labels or pairs."
        ),
    ],
    target: Annotated[str | None, typer.Option(help="With one file: the label to steer towards.")] = None,
    source: Annotated[str | None, typer.Option(help="With one file: the label to steer away from.")] = None,
    text_key: TextKey = None,
    label_key: LabelKey = LABEL_KEY,
    json: Json = False,
) -> None:
    """Find what would make a vector of two sides of texts measure something else: lengths, marks, topics.

    Checked are the number of words, punctuation, words that mark one side, texts that are nearly the same
    on both, and topics that only one side has. Without findings nothing is written on stdout.

    Example: neurosteer lint polite.jsonl rude.jsonl
    """
    from ...vectors.fitting.lint import lint

    with open_sides(texts, target, source, text_key=text_key, label_key=label_key, say=console.note) as sides:
        findings = lint(sides)
    for finding in findings:
        if json:
            write_record({"check": finding.check, "value": finding.value, "finding": finding.words})
        else:
            typer.echo(f"{finding.check}: {finding.words}")
    if not findings:
        console.note("nothing found in lengths, punctuation, marker words, near duplicates and topics")
