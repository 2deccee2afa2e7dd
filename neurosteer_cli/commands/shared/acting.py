"""How vectors act, and where: options, and the vectors that they come to.

Knows typer and vector files; knows nothing of models or of what is written.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...errors import InputError
from .command import completing
from .options import grouped

if TYPE_CHECKING:
    from ...vectors.gate import Each
    from ...vectors.vector import SteeringVector

Kind = Annotated[
    str | None,
    typer.Option(
        help="How the vectors act: add, ablate, clamp or logits [default: as their files say].",
        autocompletion=completing("add", "ablate", "clamp", "logits"),
    ),
]
When = Annotated[
    str | None,
    typer.Option(
        metavar="GATE",
        help="Steer only where a vector's score or a latent passes a threshold: 'rude.st>0', '20/1234>0.5'.",
    ),
]
WhenEach = Annotated[
    str,
    typer.Option(
        help="What the gate opens for: each prompt as a whole, or each token.",
        autocompletion=completing("prompt", "token"),
    ),
]


@dataclass(frozen=True, kw_only=True)
class ActingOptions:
    """How vectors act, and where."""

    kind: Kind = None
    when: When = None
    when_each: WhenEach = "prompt"

    @property
    def gates_each(self) -> "Each":
        """What a gate opens for."""
        return self.when_each  # type: ignore[return-value]  # checked by `load`

    def load(self, paths: Sequence[Path]) -> "list[tuple[str, SteeringVector]]":
        """The vectors, by name, acting as is asked.

        Raises:
            InputError: an option is none of its values, or a vector cannot act so.
        """
        from ...vectors.gate import EACH, check_gate
        from ...vectors.metadata import KINDS
        from ...vectors.vector import SteeringVector

        if self.kind not in (None, *KINDS):
            raise InputError(f"--kind must be one of {', '.join(KINDS)}, got {self.kind!r:.60}")
        if self.when_each not in EACH:
            raise InputError(f"--when-each must be one of {', '.join(EACH)}, got {self.when_each!r:.60}")
        if self.when_each != "prompt" and self.when is None:
            raise InputError("--when-each without --when: name the gate")
        if (self.when or self.kind) and not paths:
            raise InputError(f"--{'when' if self.when else 'kind'} without --vector: name what is to act")
        if self.when:
            check_gate(self.when)
        return [(str(path), self._acting(path, SteeringVector.load(path))) for path in paths]

    def _acting(self, path: Path, vector: "SteeringVector") -> "SteeringVector":
        try:
            return vector.acting(self.kind) if self.kind else vector  # type: ignore[arg-type]  # checked
        except InputError as error:
            raise InputError(f"{path}: {error}") from error


def acting_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command, as `acting`, the options of how vectors act."""
    return grouped(command, "acting", ActingOptions)


def what_alpha_does(vector: "SteeringVector", alpha: float, *, urges: bool = True) -> str:
    """What an alpha is for a vector of its kind; `urges`: with what it adds to logits besides pushing."""
    kind = vector.metadata.kind
    if kind == "ablate":
        return f"{alpha:.0%} of the component taken away"
    if kind == "clamp":
        length = f"{math.copysign(vector.dose(alpha), alpha):+.2%}"
        if vector.latents and vector.metadata.positive is None:  # see `steering.edit_of`
            return f"latents held at what a push of {length} is made of"
        return f"a component held {length} of the residual's length from the middle of the two sides"
    does = [f"a dose of {vector.dose(alpha):.2%}"] if vector.pushes else []
    if vector.bias and urges:
        does.append(f"up to {(vector.bias * alpha).bias.abs().max():.2f} nats on the logit of a token")
    return " and ".join(does)
