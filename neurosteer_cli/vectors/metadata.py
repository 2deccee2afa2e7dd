"""What a vector file says about itself: model, texts, measurements, calibration.

Knows the fields and how to read them back from JSON; knows nothing of tensors.
"""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from .. import __version__
from ..errors import InputError, VectorFileError
from ..models.shape import ModelShape

if TYPE_CHECKING:
    from ..saes.sae import SparseAutoencoder

FORMAT_VERSION = 3
OLDEST_VERSION = 2
Kind = Literal["add", "ablate", "clamp", "logits"]  # how a vector acts; see `kinds.py`
KINDS = get_args(Kind)


class _Part(BaseModel):
    """Read as it stands: no field has a default, none is converted, unknown ones are passed over."""

    model_config = ConfigDict(frozen=True, strict=True)


class SideMetadata(_Part):
    """One of the two sides a vector was fitted on."""

    label: str
    n_texts: int  # distinct ones
    n_tokens: int  # that statistics were taken over
    sha256: str  # of the texts in order


class SAEMetadata(_Part):
    """The SAE whose latents a vector is made of."""

    sae_id: str
    sha256: str
    model_name: str
    d_sae: int
    neuronpedia_id: str | None

    @classmethod
    def of(cls, sae: "SparseAutoencoder") -> "SAEMetadata":
        return cls.model_validate(sae, from_attributes=True)


class PointMetadata(_Part):
    """What was measured at one hook point."""

    resid_norm: float  # median norm of the residual over kept tokens, raw units
    shift_norm: float | None  # norm of the difference of the class means, raw units; None without texts
    auroc: float | None  # of held-out texts along the vector; None without such
    middle: float | None  # of the two class means along the push, raw units; None without texts
    sae: SAEMetadata | None

    @classmethod
    def without_texts(cls, resid_norm: float, sae: SAEMetadata | None = None) -> "PointMetadata":
        """Of a vector that was not fitted on the texts of two sides."""
        return cls(resid_norm=resid_norm, shift_norm=None, auroc=None, middle=None, sae=sae)


class Detector(_Part):
    """What the vector's projection of a text says, measured on texts that were held out of the fit.

    The projection is the sum over hook points of the text's mean residual times the push at alpha 1;
    z = (projection - middle) / spread; the probability of the first side is sigmoid(slope z + intercept),
    where z counts as 4 at most, and as -4 at least.
    """

    middle: float  # between the two sides' means
    spread: float  # within a side: 1.4826 times the median distance from its median
    slope: float
    intercept: float
    n_texts: int  # held out, both sides


class CurvePoint(_Part):
    """What was measured at one alpha."""

    alpha: float
    rate: float  # share of continuations in which the judge finds what it looks for
    rate_low: float | None  # 95 % bootstrap interval over prompts
    rate_high: float | None
    expected_rate: float  # by the monotone curve through all rates
    perplexity_ratio: float  # to the unsteered text's, under the most pessimistic of the models
    perplexity_ratio_low: float | None
    perplexity_ratio_high: float | None
    ppl_model: str  # which that is
    diversity: float | None  # of words, over the unsteered text's, in the least diverse respect


class Calibration(_Part):
    """A dose-response curve, and the strengths it recommends."""

    judge: str
    judge_facts: dict[str, Any]
    model_id: str
    prompts_sha256: str
    n_prompts: int
    n: int  # continuations of each prompt and alpha
    generation: dict[str, Any]  # positions, lengths and sampling
    max_ppl_ratio: float
    ppl_models: list[str]  # that the perplexity ratio was taken under, each unsteered
    curve: list[CurvePoint]  # by alpha, ascending
    alpha_up: float | None  # of the largest effect at an alpha above 0 within max_ppl_ratio
    alpha_down: float | None  # the same below 0
    created: str

    def recommended(self, up: bool) -> float:
        """The alpha of largest effect in a direction, if any had one within the perplexity allowed."""
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
        zero = min(self.curve, key=lambda point: abs(point.alpha)).alpha
        too_far = [point.alpha for point in self.curve if point.perplexity_ratio > self.max_ppl_ratio]
        low = max((alpha for alpha in too_far if alpha < zero), default=-math.inf)
        high = min((alpha for alpha in too_far if alpha > zero), default=math.inf)
        return [point for point in self.curve if low < point.alpha < high]

    def alpha_at(self, rate: float) -> float:
        """The alpha nearest 0 whose expected rate is `rate`, by linear interpolation of the curve."""
        points = self.allowed()
        found = [
            _crossing(low, high, rate)
            for low, high in pairwise(points)
            if (low.expected_rate - rate) * (high.expected_rate - rate) <= 0
        ]
        if found:
            return min(found, key=abs)
        lowest = min(points, key=lambda point: point.expected_rate)
        highest = max(points, key=lambda point: point.expected_rate)
        raise InputError(
            f"a rate of {rate:.0%} by judge {self.judge!r} is out of reach within a perplexity ratio of "
            f"{self.max_ppl_ratio:g}: from {lowest.expected_rate:.0%} (alpha {lowest.alpha:g}) to "
            f"{highest.expected_rate:.0%} (alpha {highest.alpha:g})"
        )


def _crossing(low: CurvePoint, high: CurvePoint, rate: float) -> float:
    """Where the line between two points of the curve is at `rate`; of a level line the end nearer 0."""
    if low.expected_rate == high.expected_rate:
        return min(low.alpha, high.alpha, key=abs)
    share = (rate - low.expected_rate) / (high.expected_rate - low.expected_rate)
    return low.alpha + share * (high.alpha - low.alpha)


class VectorMetadata(_Part):
    """Where a vector came from and where it may be added; `None` says "does not apply"."""

    format_version: int
    program_version: str
    created: str  # ISO 8601, UTC
    model_id: str  # as given to `fit`; a local path is absolute
    model_shape: ModelShape
    method: str  # a method of `fit`, or "combine"
    kind: Kind  # how it acts
    parameters: dict[str, Any]
    positive: SideMetadata | None
    negative: SideMetadata | None
    points: dict[str, PointMetadata]  # by hook point
    parents: list[dict[str, Any]]  # of a sum: {"name", "weight", "sha256", "metadata"}
    detector: Detector | None  # None without enough texts
    calibration: Calibration | None

    @classmethod
    def new(
        cls,
        model_id: str,
        model_shape: ModelShape,
        method: str,
        points: Mapping[str, PointMetadata],
        *,
        kind: Kind = "add",
        parameters: Mapping[str, Any] | None = None,
        sides: Sequence[SideMetadata] = (),
        parents: Sequence[dict[str, Any]] = (),
        detector: Detector | None = None,
    ) -> "VectorMetadata":
        """The metadata of a vector made now, by this program; `sides` are positive and negative, if any."""
        positive, negative = sides or (None, None)
        return cls(
            format_version=FORMAT_VERSION,
            program_version=__version__,
            created=now(),
            model_id=model_id,
            model_shape=model_shape,
            method=method,
            kind=kind,
            parameters=dict(parameters or {}),
            positive=positive,
            negative=negative,
            points=dict(points),
            parents=list(parents),
            detector=detector,
            calibration=None,
        )

    def to_json(self) -> str:
        return json.dumps(self.model_dump(), sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str, where: str) -> "VectorMetadata":
        """Read a file's metadata; a VectorFileError says what is wrong with it."""
        try:
            metadata = json.loads(text)
        except ValueError as error:
            raise VectorFileError(f"{where}: its metadata is not JSON; fit the vector again") from error
        if not isinstance(metadata, dict) or "format_version" not in metadata:
            raise VectorFileError(f"{where}: its metadata has no format_version; fit the vector again")
        if metadata["format_version"] not in range(OLDEST_VERSION, FORMAT_VERSION + 1):
            raise VectorFileError(
                f"{where}: format version {metadata['format_version']}, this program reads {OLDEST_VERSION} "
                f"to {FORMAT_VERSION}; install the neurosteer that wrote it, or fit the vector again"
            )
        if metadata["format_version"] == 2:
            _upgrade(metadata)
        _upgrade_calibration(metadata)
        try:
            return cls.model_validate(metadata)
        except ValidationError as error:
            raise VectorFileError(f"{where}: its metadata {_reason(error)}; fit the vector again") from error


def _upgrade(metadata: dict[str, Any]) -> None:
    """Say of a vector of version 2 what was not said then: it adds, and its sides were not measured."""
    metadata |= {"format_version": FORMAT_VERSION, "kind": "add", "detector": None}
    points = metadata.get("points")
    for point in points.values() if isinstance(points, dict) else ():
        if isinstance(point, dict):
            point["middle"] = None


def _upgrade_calibration(metadata: dict[str, Any]) -> None:
    """Say of a calibration of before several models were asked that it was the model's own."""
    calibration = metadata.get("calibration")
    if not isinstance(calibration, dict) or "ppl_models" in calibration:
        return
    own, curve = calibration.get("model_id"), calibration.get("curve")
    calibration["ppl_models"] = [own]
    for point in curve if isinstance(curve, list) else ():
        if isinstance(point, dict):
            point |= {"ppl_model": own, "diversity": None}


def now() -> str:
    """The time as files record it: ISO 8601, UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _reason(error: ValidationError) -> str:
    """What is wrong with the outermost part that anything is wrong with."""
    errors = error.errors(include_url=False)
    first = min(errors, key=lambda found: (len(found["loc"]), found["type"] != "missing"))
    if first["type"] != "missing":
        return f"says {first['loc'][-1]} is {first['input']!r:.40}"
    missing = [found["loc"] for found in errors if found["type"] == "missing"]
    absent = [str(name) for *part, name in missing if part == [*first["loc"][:-1]]]
    return f"lacks {sorted(absent)}"
