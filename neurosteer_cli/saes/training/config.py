"""What a training of SAEs is asked to do, and what it tells while it runs and in the end.

Knows numbers and names only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

STATE_FOLDER = ".training"  # in the folder of the SAEs, while they are trained


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """All that decides the result, beside the corpus; a resumed run must have the same."""

    model_id: str
    points: tuple[str, ...]
    architecture: str
    d_sae: int
    k: int
    n_tokens: int  # that count, read from the corpus
    epochs: int  # times each of them is trained on
    rows_per_round: int  # activations on disk at a time
    context: int  # tokens of a sequence
    batch_size: int
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
        return sum(self.epochs * (rows // self.batch_size) for rows in rounds)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What decides how one SAE is trained, beside the activations."""

    architecture: str  # one of training.ARCHITECTURES
    d_model: int
    d_sae: int
    k: int  # latents that fire at a token; on average, for all but topk
    lr: float
    batch_size: int  # tokens a step
    n_steps: int
    seed: int
    device: str


@dataclass(frozen=True)
class Progress:
    """Where a training stands, for people."""

    phase: str  # "reading" or "training"
    done: int  # tokens of this phase, over all rounds
    total: int
    quality: dict[str, tuple[float, float, int]]  # explained variance, L0, dead latents, by hook point


@dataclass(frozen=True)
class Trained:
    """What came out for one hook point."""

    folder: Path
    explained_variance: float  # over the last steps, on batches not yet trained on in that epoch
    l0: float
    n_dead: int


@dataclass
class Average:
    """Explained variance and L0 averaged over recent steps, the newest weighing most."""

    error: float = 0.0
    variance: float = 0.0
    n_fired: float = 0.0
    n_tokens: float = 0.0
    FADE: ClassVar[float] = 0.98

    def add(self, error: float, variance: float, n_fired: float, n_tokens: float) -> None:
        """Take in a batch's sum of squared errors, its variance, and the latents fired at its tokens."""
        self.error = self.FADE * self.error + error
        self.variance = self.FADE * self.variance + variance
        self.n_fired = self.FADE * self.n_fired + n_fired
        self.n_tokens = self.FADE * self.n_tokens + n_tokens

    @property
    def numbers(self) -> list[float]:
        return [self.error, self.variance, self.n_fired, self.n_tokens]

    @property
    def explained_variance(self) -> float:
        return 1 - self.error / self.variance if self.variance else 0.0

    @property
    def l0(self) -> float:
        return self.n_fired / self.n_tokens if self.n_tokens else 0.0
