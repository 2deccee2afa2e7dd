"""neurosteer demo: a page in the browser, with a slider for each vector."""

import threading
import webbrowser
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib.resources import as_file, files
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..shared import options, results
from ..shared.options import JudgeOptions, ModelOptions
from .server import LOOPBACK, More, Port, Vectors, address_of, bound, check_installed, load, run, style_sheet

if TYPE_CHECKING:
    from ...evaluation.judges.judge import Judge
    from ...serving.completions import Completions
    from ...serving.routes.scores import Score

SECONDS_TO_START = 1.0
MAX_BYTES = 64_000_000  # of a request, which may hold a file of texts
DEFAULT_JUDGE = "sentiment"


@options.judge_options()
@options.chat_model_options
def demo(
    more: More = None,
    vectors: Vectors = None,
    *,
    where: ModelOptions,
    judging: JudgeOptions,
    port: Port = 8008,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
) -> None:
    """Try vectors in the browser: sliders, unsteered and steered text side by side, new vectors.

    Without --vectors it shows two that come with neurosteer, polite and happy, for the embedded default.
    Beside each text stand its perplexity and what the judges say, by default of its sentiment.
    The page and the server behind it are on this machine alone; Ctrl-C ends both.

    Example: neurosteer demo --vectors vectors/
    """
    check_installed()
    if not judging.judges:
        judging = replace(judging, judge=[DEFAULT_JUDGE])
    results.check_judges(judging, "the label of the vector")
    from ...models.checkpoints.named import DEFAULT_MODEL
    from ...reports.demo import demo_page
    from ...serving.app import ServerConfig

    listener = bound("127.0.0.1", port)
    with as_file(files("neurosteer_cli.vectors") / "bundled") as bundled:
        of_model = [bundled] if where.name == DEFAULT_MODEL else []
        completions, followed = load([*(vectors or []), *(more or [])] or of_model, where)
    judges = results.load_judges_of(judging, completions.registry.values())
    if browser:
        timer = threading.Timer(SECONDS_TO_START, webbrowser.open, [address_of(listener)])
        timer.daemon = True
        timer.start()
    config = ServerConfig(
        page=demo_page(judges),
        style=style_sheet(),
        score=_scorer(completions, judges),
        fitting=True,
        max_bytes=MAX_BYTES,
        hosts=LOOPBACK,
        shutdown_seconds=5,
    )
    run(completions, config, listener, followed)


def _scorer(completions: "Completions", judges: "Sequence[Judge]") -> "Score":
    """What the judges say of texts, and how probable they are; the model is asked on its own thread."""
    from ...evaluation.measures.likelihood import perplexities

    def score(prompt: str, rendered: bool, texts: Sequence[str]) -> dict[str, Any]:
        asked = partial(perplexities, completions.engine, prompt, texts, rendered=rendered)
        found = completions.scheduler.call(asked).result()
        prompts = [prompt] * len(texts)
        judged = {judge.name: judge.score(prompts, texts, lambda _n: None).scores for judge in judges}
        return {"perplexities": found, "judges": judged}

    return score
