"""What is found of continuations, condition by condition: judges' numbers, models' numbers, diversity.

Knows conditions and estimates; knows nothing of how a number is come by.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from .judges.judge import Judge
from .measures.metrics import Estimate, known
from .runs.samples import LEAST_DIVERSITY, UNSTEERED, Condition, Sample

Agreement = Literal["up", "down", "none", "partly", "apart"]


@dataclass(frozen=True)
class JudgeResult:
    """What a judge finds in the continuations of one condition."""

    rate: Estimate | None  # share in which it finds what it looks for
    mean: Estimate | None  # of its scores
    rate_difference: Estimate | None  # to the unsteered rate, paired by prompt
    fluency: Estimate | None  # where the judge scores it, 0 to 1
    n_failed: int  # texts to which it gave no answer

    @property
    def direction(self) -> int | None:
        """+1 or -1 where the rate moved, 0 where it may not have; None without an unsteered rate."""
        if (found := self.rate_difference) is None:
            return None
        return 0 if found.low is None or found.high is None else int(found.low > 0) - int(found.high < 0)


@dataclass(frozen=True)
class ModelResult:
    """How probable the continuations of one condition are to an unsteered language model.

    perplexity: exp of the mean over texts of the text's mean negative log-probability a token, given
        its prompt; nothing dropped but texts without tokens.
    bits_per_byte: negative log2-probability of the texts, given their prompts, over their length in bytes
        of UTF-8: comparable between models whose tokens differ.
    """

    perplexity: Estimate | None
    perplexity_ratio: Estimate | None  # to the unsteered continuations', paired by prompt
    bits_per_byte: Estimate | None
    bits_per_byte_ratio: Estimate | None


@dataclass(frozen=True)
class Diversity:
    """How diverse the words of a condition are, over how diverse the unsteered ones are; None if unknown."""

    distinct_2: float | None  # of the continuations of a prompt, see `metrics.distinct`
    new_4: float | None  # share of 4-word runs that the text has not had before, 1 - `metrics.repetition`
    distinct_2_across: float | None  # of all continuations together, see `metrics.rarefied_distinct`

    @property
    def lowest(self) -> float | None:
        ratios = (self.distinct_2, self.new_4, self.distinct_2_across)
        return min((ratio for ratio in ratios if ratio is not None), default=None)

    @property
    def is_low(self) -> bool:
        """Whether one of them is more than 3 % below the unsteered texts'."""
        return self.lowest is not None and self.lowest < LEAST_DIVERSITY


@dataclass(frozen=True)
class ConditionResult:
    """One condition: its continuations in numbers, most with a 95 % bootstrap interval over prompts."""

    condition: Condition
    dose: float | None
    n: int
    n_prompts: int
    n_empty: int  # continuations without a token, of which there is no perplexity
    models: dict[str, ModelResult]  # by the name of the model, at least one
    distinct_1: Estimate | None  # see `metrics.distinct`; over words of the continuations of one prompt
    distinct_2: Estimate | None
    distinct_3: Estimate | None
    repetition_4: Estimate | None  # see `metrics.repetition`; over words of one continuation
    diversity: Diversity | None  # None of the unsteered condition, and without one
    length: Estimate | None  # tokens of the continuation, to the first model
    kl: float | None  # see `likelihood.damage`, on neutral text; None where the vector is not at hand
    judges: dict[str, JudgeResult]  # by the judge's name

    @property
    def ppl_model(self) -> str:
        """The most pessimistic of the models: that of the highest perplexity ratio; of equals the first."""
        ratios = {name: known(model.perplexity_ratio) for name, model in self.models.items()}
        return max(ratios, key=lambda name: ratio.value if (ratio := ratios[name]) else 0.0)

    @property
    def perplexity(self) -> Estimate | None:
        """Under the most pessimistic model."""
        return self.models[self.ppl_model].perplexity

    @property
    def perplexity_ratio(self) -> Estimate | None:
        """The headline: by the most pessimistic model."""
        return self.models[self.ppl_model].perplexity_ratio

    @property
    def is_less_diverse(self) -> bool:
        return self.diversity is not None and self.diversity.is_low

    @property
    def agreement(self) -> Agreement | None:
        """Whether several judges find that the rate moved, and the same way; None without a comparison."""
        found = [judged.direction for judged in self.judges.values()]
        directions = {direction for direction in found if direction is not None}
        if len(found) < 2 or None in found or self.condition.baseline == UNSTEERED:
            return None
        if {1, -1} <= directions:
            return "apart"
        if len(directions) > 1:
            return "partly"
        named: dict[int, Agreement] = {1: "up", -1: "down", 0: "none"}
        return named[directions.pop()]

    def to_json(self) -> dict[str, Any]:
        """The row as `eval --json` writes it."""
        of_condition = ("label", "vectors", "alpha", "positions", "baseline")
        condition = {name: getattr(self.condition, name) for name in of_condition}
        condition |= {"kinds": list(self.condition.kinds)} if self.condition.kinds else {}
        condition |= {"when": self.condition.when} if self.condition.when else {}
        condition |= {"choice": self.condition.choice} if self.condition.choice else {}
        found = {name: value for name, value in asdict(self).items() if name != "condition"}
        headline = asdict(self.models[self.ppl_model]) | {"ppl_model": self.ppl_model}
        diversity = self.diversity and {**asdict(self.diversity), "is_low": self.diversity.is_low}
        return {**condition, **headline, **found, "diversity": diversity, "judges_agree": self.agreement}


@dataclass(frozen=True)
class Evaluation:
    """What is found of all conditions and of each continuation, and how it was made."""

    title: str  # what was evaluated, in a few words
    results: list[ConditionResult]  # in the order in which conditions first appear among the samples
    samples: list[Sample]
    scores: dict[str, list[float | None]]  # by the judge's name, one a sample; None: it gave no answer
    judges: list[Judge]
    provenance: dict[str, Any]  # JSON-able, all that is needed to repeat the evaluation, for a reader

    @property
    def n_prompts(self) -> int:
        return len({sample.prompt for sample in self.samples})
