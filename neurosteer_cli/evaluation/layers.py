"""Layer by layer: how well two sides of texts part, and how far steering there moves text.

Knows fitting, runs and evaluation; knows nothing of files or the terminal.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from typing import Any

from ..data.records import Located
from ..data.sides import Sides, few_texts
from ..generation.continuation import GenerationConfig
from ..generation.prompts import tokenize
from ..models.engine import Engine
from ..models.hooks import HookPoint
from ..saes.load import BUNDLED, family_of, find_saes, open_saes
from ..vectors.fitting.from_texts import build, held_out_auroc
from ..vectors.fitting.methods import METHODS
from ..vectors.fitting.reading import PointReading, Reading
from ..vectors.vector import SteeringVector
from .evaluate import evaluate, stamp
from .judges.judge import Judge
from .measures.metrics import Estimate, auroc_interval
from .results import Diversity
from .runs.comparison import Run
from .runs.plan import Plan, Progress, no_progress
from .runs.samples import UNSTEERED, Condition

STEERED_WITH = "diffmean"  # a method that every layer has
TOP_K = 100  # latents of the SAE method


@dataclass(frozen=True)
class Steered:
    """What steering at one layer does at one alpha."""

    alpha: float
    rate: Estimate | None
    perplexity_ratio: Estimate | None  # by the most pessimistic of the models
    ppl_model: str  # which that is
    diversity: Diversity | None


@dataclass(frozen=True)
class Layer:
    """What was measured at the output of one block."""

    layer: int
    hook_point: str
    auroc: Estimate | None  # of held-out texts along the difference of the others' class means; 0.5 is chance
    sae_auroc: float | None  # the same along the SAE method, where there is an SAE
    shift_share: float  # length of the difference of class means over the median residual norm
    resid_norm: float
    steer: list[Steered]  # by alpha, where it was tried

    def to_json(self) -> dict[str, Any]:
        """The row as `layers --json` writes it."""
        found = asdict(self.auroc) if self.auroc else dict.fromkeys(("value", "low", "high"))
        auroc = {"auroc": found["value"], "auroc_low": found["low"], "auroc_high": found["high"]}
        return {"layer": self.layer, "hook_point": self.hook_point} | auroc | asdict(self) | auroc


@dataclass(frozen=True)
class LayerSweep:
    """What was measured at every block, and how."""

    title: str  # which sides of texts, on which model
    layers: list[Layer]
    provenance: dict[str, Any]  # JSON-able, all that is needed to repeat it, for a reader
    judge: Judge | None = None  # of the steered texts, if any were written
    unsteered_rate: Estimate | None = None  # the judge's, of texts written beside them
    ppl_models: Sequence[str] = ()  # that their perplexity ratios were taken under


@dataclass(frozen=True, kw_only=True)
class Steering:
    """How to steer at each layer in turn: what to write, and who judges it."""

    alphas: Sequence[float]  # in percent of the median residual norm
    prompts: Sequence[Located]
    judge: Judge
    config: GenerationConfig = field(default_factory=GenerationConfig)
    n: int = 1  # continuations of each prompt, layer and alpha
    ppl_models: Mapping[str, Callable[[], Engine]] | None = None  # that price them, as `evaluate` takes them


def sweep_layers(
    engine: Engine,
    sides: Sides,
    layers: Sequence[int] | None = None,
    steering: Steering | None = None,
    *,
    sources: Sequence[str] = (),
    warn: Callable[[str], None] = lambda _warning: None,
    progress: Progress = no_progress,
) -> LayerSweep:
    """Read the texts once and measure every block; with `steering` also write texts steered at each.

    Args:
        sides: as `open_sides` gives them.
        layers: blocks, from 0; None is all.
        sources: where the texts were read, for a reader.
        warn: told if the bundled SAEs were trained on a model of another name, of few texts, and of texts
            that were cut.
        progress: opens a bar (label, total) and yields what advances it.

    Raises:
        InputError: the model has no such block, or a prompt does not fit its context.
        SAEError: the bundled SAEs belong to a model of another shape.
    """
    wanted = range(engine.shape.n_layers) if layers is None else dict.fromkeys(layers)  # each once
    points = [HookPoint(layer) for layer in wanted]
    for point in points:
        point.check(engine.shape.n_layers)
    bundled = family_of(BUNDLED, model_id=engine.model_id)
    with_sae = [point.layer for point in points if point.layer in bundled]
    saes = open_saes(find_saes(BUNDLED, model_id=engine.model_id, layers=with_sae), engine, warn=warn)
    reading = Reading(engine, sides, points, saes, pairs=False)
    with progress("reading", sum(side.n_texts for side in sides)) as advance:
        reading.run(advance)
    few = few_texts(sides, "more dependable numbers")
    for warning in (*few, *reading.shortfall.warnings(engine.max_tokens)):
        warn(warning)
    vectors = [build(reading, [point], STEERED_WITH, TOP_K) for point in points]
    steered_by = dict.fromkeys(("steered_by", "prompts", "n"))
    sweep = LayerSweep(
        title=f"{sides[0].label} against {sides[1].label} on {engine.model_id}, layer by layer",
        layers=[_measured(point, reading.at[point]) for point in points],
        provenance={
            "model": engine.model_id,
            "texts": list(sources),
            "n_texts": [side.n_texts for side in sides],
            **steered_by,
            **stamp(),
        },
    )
    return sweep if steering is None else _steered(engine, sweep, vectors, steering, progress)


def _measured(point: HookPoint, at: PointReading) -> Layer:
    auroc = held_out_auroc(at, METHODS[STEERED_WITH], TOP_K)
    return Layer(
        layer=point.layer,
        hook_point=str(point),
        auroc=None if auroc is None else Estimate(auroc, *auroc_interval(auroc, *map(len, at.held_out))),
        sae_auroc=held_out_auroc(at, METHODS["neurosteer"], TOP_K) if at.sae else None,
        shift_share=float(at.all.shift.norm()) / at.norms.median,
        resid_norm=at.norms.median,
        steer=[],
    )


def _steered(
    engine: Engine, sweep: LayerSweep, vectors: list[SteeringVector], steering: Steering, progress: Progress
) -> LayerSweep:
    """Steer at each layer in turn; all conditions share batches and noise."""
    config, judge, alphas = steering.config, steering.judge, list(dict.fromkeys(steering.alphas))
    prompts = tokenize(steering.prompts, engine, max_new_tokens=config.max_new_tokens)
    unsteered = (Condition(("",), (0.0,), config.positions, UNSTEERED), ())
    conditions = [
        (Condition((layer.hook_point,), (alpha,), config.positions), (*(0.0,) * number, alpha))
        for number, layer in enumerate(sweep.layers)
        for alpha in alphas
    ]
    plan = Plan(engine, prompts, vectors, [unsteered, *conditions], config, steering.n)
    run = Run(engine, plan.samples(dict(plan.records(progress))))
    found = evaluate(run, [judge], ppl_models=steering.ppl_models, progress=progress)
    reference, *results = found.results
    steered = (
        Steered(
            result.condition.alpha,
            result.judges[judge.name].rate,
            result.perplexity_ratio,
            result.ppl_model,
            result.diversity,
        )
        for result in results
    )
    made = {
        "steered_by": "difference of class means",
        "prompts": len(prompts),
        "n": steering.n,
        **found.provenance,
    }
    return replace(
        sweep,
        layers=[replace(layer, steer=list(islice(steered, len(alphas)))) for layer in sweep.layers],
        provenance=sweep.provenance | made,
        judge=judge,
        unsteered_rate=reference.judges[judge.name].rate,
        ppl_models=list(reference.models),
    )
