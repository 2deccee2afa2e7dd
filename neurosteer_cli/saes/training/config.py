"""What a training of SAEs is asked to do, and what it tells while it runs. Knows numbers and names only."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

ARCHITECTURES = ("topk", "batchtopk", "jumprelu", "matryoshka")
STATE_FOLDER = ".training"  # in the folder of the SAEs, while they are trained


def row_bytes(n_points: int, d_model: int) -> int:
    """What the activations of a token take on disk, float16 at each hook point."""
    return 2 * n_points * d_model


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """All that decides the result, beside the corpus; a resumed run must have the same."""

    model_id: str
    points: tuple[str, ...]
    architecture: str  # one of ARCHITECTURES
    d_sae: int
    k: int  # latents that fire at a token; on average, for all but topk
    n_tokens: int  # that count, read from the corpus
    epochs: int  # times each of them is trained on
    rows_per_round: int  # activations on disk at a time
    context: int  # tokens of a sequence
    batch_size: int  # tokens a step
    lr: float
    seed: int
    init: str | None  # the SAE to start from
    dtype: str  # the model's numbers: bfloat16
    device: str  # cpu, cuda or mps: each rounds in its own way

    @property
    def rounds(self) -> list[int]:
        """Rows of each round, as asked for."""
        whole, rest = divmod(self.n_tokens, self.rows_per_round)
        return [self.rows_per_round] * whole + ([rest] if rest else [])

    def n_steps(self, rounds: Sequence[int]) -> int:
        """The steps that rounds of so many rows come to."""
        return sum(self.epochs * (rows // self.batch_size) for rows in rounds)

    def cost(self, d_model: int) -> tuple[int, int, int]:
        """Bytes of activations and of a checkpoint on disk, and of memory beside the model and a batch."""
        weights = len(self.points) * 2 * d_model * self.d_sae * 4
        moments, gradients = 2 * weights, weights
        activations = max(self.rounds) * row_bytes(len(self.points), d_model)
        return activations, weights + moments, weights + moments + gradients


class Quality(NamedTuple):
    """How well an SAE does on recent batches, before they are trained on."""

    explained_variance: float
    l0: float
    n_dead: int


class Progress(NamedTuple):
    """Where a training stands, for people."""

    phase: str  # "reading" or "training"
    done: int  # tokens of this phase, over all rounds
    total: int
    quality: dict[str, Quality]  # by hook point
