"""Layer by layer: how well two sides of texts part, and how far steering there moves text.

Knows fitting, runs and evaluation; knows nothing of files or the terminal.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..data.sides import Sides
from ..generation.generate import GenerationConfig
from ..generation.prompts import Prompt
from ..models.engine import Engine
from ..models.hooks import HookPoint
from ..saes.sae import SparseAutoencoder
from ..vectors.from_texts import build, held_out_auroc
from ..vectors.methods import METHODS
from ..vectors.reading import Reading
from ..vectors.vector import SteeringVector
from .evaluate import ConditionResult, Progress, evaluate
from .judges.judge import Judge
from .metrics import Estimate, auroc_interval
from .plan import plan, write_all
from .run import Run
from .samples import UNSTEERED, Condition

STEERED_WITH = "diffmean"  # a method that every layer has


@dataclass(frozen=True)
class Steered:
    """What steering at one layer does at one alpha."""

    alpha: float
    rate: Estimate | None
    perplexity_ratio: Estimate | None


@dataclass(frozen=True)
class Layer:
    """What was measured at the output of one block.

    auroc: of held-out texts along the difference of the class means of the others; 0.5 is chance.
        None where too few texts were held out.
    sae_auroc: the same along the SAE method, where there is an SAE.
    shift_share: length of the difference of class means over the median residual norm.
    """

    layer: int
    hook_point: str
    auroc: Estimate | None
    sae_auroc: float | None
    shift_share: float
    resid_norm: float
    steer: list[Steered]

    def to_json(self) -> dict[str, Any]:
        """The row as `layers --json` writes it."""
        numbers = asdict(self)
        place = {key: numbers.pop(key) for key in ("layer", "hook_point")}
        auroc = numbers.pop("auroc") or {"value": None, "low": None, "high": None}
        separation = {"auroc": auroc["value"], "auroc_low": auroc["low"], "auroc_high": auroc["high"]}
        return {**place, **separation, **numbers}


@dataclass(frozen=True)
class LayerSweep:
    """What was measured at every block, and how.

    title: which sides of texts, on which model.
    judge: of the steered texts, if any were written.
    unsteered_rate: the judge's, of texts written beside them.
    provenance: JSON-able, all that is needed to repeat it, for a reader.
    """

    title: str
    layers: list[Layer]
    provenance: dict[str, Any]
    judge: Judge | None = None
    unsteered_rate: Estimate | None = None


def measure(
    engine: Engine,
    sides: Sides,
    points: Sequence[HookPoint],
    saes: dict[HookPoint, SparseAutoencoder],
    *,
    top_k: int = 100,
    advance: Callable[[int], None] = lambda _n: None,
) -> tuple[list[Layer], list[SteeringVector]]:
    """Read the texts once and measure every hook point; also the vector by which each would be steered."""
    reading = Reading(engine, points, saes, pairs=False)
    reading.run(sides, advance)
    layers, vectors = [], []
    for point in points:
        at = reading.at[point]
        direction = METHODS[STEERED_WITH](at.all, top_k)
        found = held_out_auroc(at, METHODS[STEERED_WITH], top_k)
        auroc = None
        if found is not None:
            auroc = Estimate(found, *auroc_interval(found, *map(len, at.held_out)))
        layers.append(
            Layer(
                layer=point.layer,
                hook_point=str(point),
                auroc=auroc,
                sae_auroc=held_out_auroc(at, METHODS["neurosteer"], top_k) if at.sae else None,
                shift_share=float(at.all.shift.norm()) / at.norms.median,
                resid_norm=at.norms.median,
                steer=[],
            )
        )
        vectors.append(build(engine, sides, reading, {point: direction}, STEERED_WITH, top_k))
    return layers, vectors


def steer(
    engine: Engine,
    layers: Sequence[Layer],
    vectors: Sequence[SteeringVector],
    alphas: Sequence[float],
    prompts: Sequence[Prompt],
    judge: Judge,
    settings: GenerationConfig,
    *,
    n: int,
    progress: Progress,
) -> tuple[list[Layer], ConditionResult]:
    """Steer at each layer in turn; also the unsteered result. All settings share batches and noise."""
    none = (0.0,) * len(vectors)
    settings_of = [(Condition(("",), (0.0,), settings.positions, UNSTEERED), none)]
    for number, layer in enumerate(layers):
        for alpha in alphas:
            only = tuple(alpha if other == number else 0.0 for other in range(len(vectors)))
            settings_of.append((Condition((layer.hook_point,), (alpha,), settings.positions), only))
    planned = plan(engine, prompts, vectors, settings_of, settings, n=n)
    with progress("writing", len(planned.jobs)) as advance:
        samples = write_all(planned, advance)
    unsteered, *results = evaluate(Run(engine, samples), [judge], progress=progress).results
    found: dict[str, list[Steered]] = {}
    for result in results:
        assert result.condition.alphas is not None
        found.setdefault(result.condition.vectors[0], []).append(
            Steered(result.condition.alphas[0], result.judges[judge.name].rate, result.perplexity_ratio)
        )
    return [Layer(**{**vars(layer), "steer": found.get(layer.hook_point, [])}) for layer in layers], unsteered
