"""What a vector file says about itself: model, texts, measurements, calibration.

Knows the fields and how to read them back from JSON; knows nothing of tensors.
"""

import json
from dataclasses import asdict, dataclass, fields, is_dataclass
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from ..errors import InputError, VectorFileError
from ..models.shape import ModelShape

FORMAT_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class SideMetadata:
    """One of the two sides a vector was fitted on."""

    label: str
    n_texts: int  # distinct ones
    n_tokens: int  # that statistics were taken over
    sha256: str  # of the texts in order


@dataclass(frozen=True, kw_only=True)
class SAEMetadata:
    """The SAE whose latents a vector is made of."""

    sae_id: str
    sha256: str
    model_name: str
    d_sae: int
    neuronpedia_id: str | None


@dataclass(frozen=True, kw_only=True)
class PointMetadata:
    """What was measured at one hook point."""

    resid_norm: float  # median norm of the residual over kept tokens, raw units
    shift_norm: float | None  # norm of the difference of the class means, raw units; None for a sum
    auroc: float | None  # of held-out texts along the vector; None for a sum of vectors
    sae: SAEMetadata | None


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """What was measured at one alpha."""

    alpha: float
    rate: float  # share of continuations in which the judge finds what it looks for
    rate_low: float | None  # 95 % bootstrap interval over prompts
    rate_high: float | None
    expected_rate: float  # by the monotone curve through all rates
    perplexity_ratio: float  # to the unsteered text's, under the unsteered model
    perplexity_ratio_low: float | None
    perplexity_ratio_high: float | None


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A dose-response curve, and the strengths it recommends."""

    judge: str
    judge_facts: dict[str, Any]
    model_id: str
    prompts_sha256: str
    n_prompts: int
    n: int  # continuations of each prompt and alpha
    generation: dict[str, Any]  # positions, lengths and sampling
    max_ppl_ratio: float
    curve: list[CurvePoint]  # by alpha, ascending
    alpha_up: float | None  # of the largest effect at an alpha above 0 within max_ppl_ratio
    alpha_down: float | None  # the same below 0
    created: str

    def recommended(self, up: bool) -> float:
        """The alpha of largest effect in a direction.

        Raises:
            InputError: no alpha in that direction had an effect within the perplexity allowed.
        """
        alpha = self.alpha_up if up else self.alpha_down
        if alpha is None:
            raise InputError(
                f"calibration found no alpha {'above' if up else 'below'} 0 with an effect within a "
                f"perplexity ratio of {self.max_ppl_ratio:g}; calibrate with a larger --max-ppl-ratio, "
                "or give --alpha a number"
            )
        return alpha

    def allowed(self) -> list[CurvePoint]:
        """The stretch of the curve around alpha 0 whose perplexity ratios stay within the bound."""
        zero = min(range(len(self.curve)), key=lambda i: abs(self.curve[i].alpha))
        start, stop = zero, zero + 1
        while start > 0 and self.curve[start - 1].perplexity_ratio <= self.max_ppl_ratio:
            start -= 1
        while stop < len(self.curve) and self.curve[stop].perplexity_ratio <= self.max_ppl_ratio:
            stop += 1
        return self.curve[start:stop]

    def alpha_at(self, rate: float) -> float:
        """The alpha nearest 0 whose expected rate is `rate`, by linear interpolation of the curve.

        Raises:
            InputError: no alpha within the perplexity allowed reaches it.
        """
        points = self.allowed()
        found = [
            _crossing(low, high, rate)
            for low, high in zip(points, points[1:], strict=False)
            if min(low.expected_rate, high.expected_rate)
            <= rate
            <= max(low.expected_rate, high.expected_rate)
        ]
        if not found:
            lowest = min(points, key=lambda point: point.expected_rate)
            highest = max(points, key=lambda point: point.expected_rate)
            raise InputError(
                f"a rate of {rate:.0%} by judge {self.judge!r} is out of reach within a perplexity ratio of "
                f"{self.max_ppl_ratio:g}: from {lowest.expected_rate:.0%} (alpha {lowest.alpha:g}) to "
                f"{highest.expected_rate:.0%} (alpha {highest.alpha:g})"
            )
        return min(found, key=abs)


def _crossing(low: CurvePoint, high: CurvePoint, rate: float) -> float:
    """Where the line between two points of the curve is at `rate`; of a level line the end nearer 0."""
    if low.expected_rate == high.expected_rate:
        return min(low.alpha, high.alpha, key=abs)
    share = (rate - low.expected_rate) / (high.expected_rate - low.expected_rate)
    return low.alpha + share * (high.alpha - low.alpha)


@dataclass(frozen=True, kw_only=True)
class VectorMetadata:
    """Where a vector came from and where it may be added.

    No field has a default: an absent fact is an error, never a guess. `None` says "does not apply".
    """

    format_version: int
    program_version: str
    created: str  # ISO 8601, UTC
    model_id: str  # as given to `fit`; a local path is absolute
    model_shape: ModelShape
    method: str  # a method of `fit`, or "combine"
    parameters: dict[str, Any]
    positive: SideMetadata | None
    negative: SideMetadata | None
    points: dict[str, PointMetadata]  # by hook point
    parents: list[dict[str, Any]]  # of a sum: {"name", "weight", "sha256", "metadata"}
    calibration: Calibration | None

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str, where: str) -> "VectorMetadata":
        """Read a file's metadata.

        Raises:
            VectorFileError: of a format this program does not read, or a field is absent.
        """
        try:
            facts = json.loads(text)
        except ValueError as error:
            raise VectorFileError(f"{where}: its metadata is not JSON; fit the vector again") from error
        if not isinstance(facts, dict) or "format_version" not in facts:
            raise VectorFileError(f"{where}: its metadata has no format_version; fit the vector again")
        if facts["format_version"] != FORMAT_VERSION:
            raise VectorFileError(
                f"{where}: format version {facts['format_version']}, this program reads {FORMAT_VERSION}; "
                "install the neurosteer that wrote it, or fit the vector again"
            )
        metadata: VectorMetadata = _build(cls, facts, where)
        return metadata


def _build(cls: Any, facts: Any, where: str) -> Any:
    """Make a metadata dataclass from a JSON object, every field present."""
    if not isinstance(facts, dict):
        raise VectorFileError(f"{where}: {cls.__name__} is not an object; fit the vector again")
    missing = {field.name for field in fields(cls)} - set(facts)
    if missing:
        raise VectorFileError(f"{where}: its metadata lacks {sorted(missing)}; fit the vector again")
    values = {field.name: facts[field.name] for field in fields(cls)}
    for name, kind in get_type_hints(cls).items():
        if not _is_a(values[name], kind):
            raise VectorFileError(
                f"{where}: its metadata says {name} is {values[name]!r:.40}; fit the vector again"
            )
    for name, part in _PARTS.get(cls, {}).items():
        if name == "points":
            values[name] = {point: _build(part, inner, where) for point, inner in values[name].items()}
        elif isinstance(values[name], list):
            values[name] = [_build(part, inner, where) for inner in values[name]]
        elif values[name] is not None:
            values[name] = _build(part, values[name], where)
    return cls(**values)


def _is_a(value: Any, kind: Any) -> bool:
    """Whether a JSON value can become a field of this type; parts are objects until they are built."""
    if isinstance(kind, UnionType):
        return any(_is_a(value, one) for one in get_args(kind))
    if kind is float:
        return type(value) in (int, float)
    kind = get_origin(kind) or kind
    return type(value) is (dict if is_dataclass(kind) else kind)


_PARTS: dict[type, dict[str, type]] = {
    VectorMetadata: {
        "model_shape": ModelShape, "positive": SideMetadata, "negative": SideMetadata,
        "points": PointMetadata,
        "calibration": Calibration,
    },
    Calibration: {"curve": CurvePoint},
    PointMetadata: {"sae": SAEMetadata},
}  # fmt: skip
