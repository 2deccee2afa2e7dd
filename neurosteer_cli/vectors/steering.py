"""What is done to a text: vectors at their alphas, summed up as their kinds allow.

Knows vectors and kinds; knows nothing of rows, positions or when a text is written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from torch import Tensor

from ..errors import InputError
from ..models.hooks import RESID_POST, Change, HookPoint
from .gate import Gate
from .kinds import Ablation, Clamp, Edit, LatentClamp, TokenBias
from .vector import SteeringVector, total_pushes


@dataclass(frozen=True, eq=False)
class Steering:
    """What is done to the residuals of a text, and to its logits.

    At a hook point the push is added first, then the edits are made one after another.
    """

    pushes: Mapping[HookPoint, Tensor] = field(default_factory=dict)  # [d_model] each, raw residual units
    edits: Mapping[HookPoint, Sequence[Edit]] = field(default_factory=dict)
    bias: TokenBias | None = None
    gate: Gate | None = None  # which lets tokens be steered, or not

    def gated(self, gate: Gate) -> "Steering":
        """The same, of tokens alone that a gate lets be steered.

        Raises:
            InputError: the gate would be read after something has been done already.
        """
        first, last = min(self.points, key=_depth, default=None), max(gate.readers, key=_depth)
        if first and _depth(last) > _depth(first):
            raise InputError(
                f"gate {gate.name} is read at {last}, behind {first}, where steering begins: choose one of "
                "earlier blocks, or one for each prompt"
            )
        return replace(self, gate=gate)

    @property
    def points(self) -> list[HookPoint]:
        """Where residuals are changed."""
        return sorted({*self.pushes, *self.edits})

    def changes(self) -> dict[HookPoint, Change]:
        """What is done to residuals, by hook point, of every token of whichever texts."""
        return {point: partial(self._change, point) for point in self.points}

    def _change(self, point: HookPoint, resid: Tensor) -> Tensor:
        push = self.pushes.get(point)
        if not (edits := self.edits.get(point)):
            assert push is not None  # it is one of `points`
            return push
        before = resid.float()  # [batch, n, d_model]
        after = before if push is None else before + push.to(before)
        for edit in edits:
            after = after + edit.to(resid.device).change(after)
        return after - before

    @classmethod
    def of(cls, vectors: Sequence[SteeringVector], alphas: Sequence[float]) -> "Steering":
        """Each vector at its alpha, which for each kind means what `vectors/README.md` says.

        Vectors at alpha 0 do nothing, whatever their kind.

        Raises:
            InputError: a vector cannot act as its kind.
            SAEError: a latent is to be clamped, and its SAE is not at hand.
        """
        acting = [(vector, alpha) for vector, alpha in zip(vectors, alphas, strict=True) if alpha]
        adding = [(vector, alpha) for vector, alpha in acting if vector.metadata.kind in ("add", "logits")]
        biases = [vector.bias * alpha for vector, alpha in adding if vector.bias]
        edits: dict[HookPoint, list[Edit]] = {}
        for vector, alpha in acting:
            if vector.metadata.kind in ("ablate", "clamp"):
                for point in vector.pushes:
                    edits.setdefault(point, []).append(edit_of(vector, point, alpha))
        pushes = total_pushes([vector for vector, _ in adding], [alpha for _, alpha in adding])
        return cls(pushes, edits, sum(biases[1:], biases[0]) if biases else None)


NOTHING = Steering()


def _depth(point: HookPoint) -> tuple[int, bool]:
    """By which hook points are in the order in which a pass comes to them."""
    return point.layer, point.kind == RESID_POST


def edit_of(vector: SteeringVector, point: HookPoint, alpha: float) -> Edit:
    """What a vector of the kind `ablate` or `clamp` does at a hook point."""
    push = vector.pushes[point]
    direction = push / push.norm()
    if vector.metadata.kind == "ablate":
        return Ablation(direction, alpha)
    if (middle := vector.metadata.points[str(point)].middle) is not None:
        return Clamp(direction, middle + alpha * float(push.norm()))
    latents = vector.latents.get(point)
    if latents is None or vector.metadata.positive is not None:  # those of a fit stand for a direction
        raise InputError(
            f"the kind clamp sets a component to a level between its two sides, and nothing is known of "
            f"sides at {point}: fit the vector on texts, or name SAE latents with `fit --latent`"
        )
    sae = vector.sae_at(point)
    return LatentClamp(sae, latents.ids, alpha * latents.scaled_to(push, sae))
