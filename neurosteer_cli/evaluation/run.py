"""Continuations to score together, and what is known of their making.

Knows engines, vectors and samples; knows nothing of scores, options or the terminal.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..models.engine import Engine
from ..models.hooks import HookPoint
from ..vectors.vector import SteeringVector
from .samples import Condition, Sample


@dataclass(frozen=True)
class Run:
    """Continuations to score, and what is known of their making.

    vectors: by name, those that could be read.
    pushes: of the conditions whose damage on neutral text can be measured, [d_model] at each hook point.
    provenance: JSON-able, all that is needed to repeat the run.
    """

    engine: Engine
    samples: list[Sample]
    vectors: Mapping[str, SteeringVector] = field(default_factory=dict)
    pushes: Mapping[Condition, Mapping[HookPoint, Tensor]] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
