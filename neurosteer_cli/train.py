"""Train an SAE at each of several hook points, from one pass of the model over a corpus.

Knows how reading, training and checkpoints follow one another; knows nothing of the terminal. The
work goes in rounds: fill a file with activations, train on it for some epochs in an order drawn
anew, fill it with what comes next. A run that is killed goes on from its last checkpoint to the same
weights, bit for bit, as one that is not.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .corpus import documents
from .engine import Engine
from .errors import InputError, OutputError
from .files import replace_file
from .harvest import Harvest
from .hooks import HookPoint
from .packing import packed
from .sae import SparseAutoencoder
from .training import Apprentice, Quality, Recipe, sae_lens_version
from .transfer import Moments, transferred

STATE_FOLDER = ".training"
SAMPLE_ROWS = 16_384  # for means


@dataclass(frozen=True, kw_only=True)
class Settings:
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

    @property
    def rounds(self) -> list[int]:
        """Rows of each round, as asked for."""
        whole, rest = divmod(self.n_tokens, self.rows_per_round)
        return [self.rows_per_round] * whole + ([rest] if rest else [])

    def n_steps(self, rounds: Sequence[int]) -> int:
        return sum(self.epochs * (rows // self.batch_size) for rows in rounds)


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


Tell = Callable[[Progress], None]


class Training:
    """One run: its folder, the activations on disk and an apprentice a hook point."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        files: Sequence[str],
        folder: Path,
        *,
        init: SparseAutoencoder | None = None,
        checkpoint_steps: int = 500,
        dtype: torch.dtype = torch.float32,
        tell: Tell = lambda _progress: None,
    ) -> None:
        """Open a new or an interrupted training in `folder`.

        Raises:
            InputError: the folder holds a training with other settings.
        """
        self.settings, self.engine, self.files, self.folder = settings, engine, list(files), folder
        self.init, self.checkpoint_steps, self.dtype, self.tell = init, checkpoint_steps, dtype, tell
        self.points = [HookPoint.parse(name) for name in settings.points]
        self.state = folder / STATE_FOLDER
        self._claim()
        self.harvest = Harvest(self.state, self.points, engine.d_model)
        self.apprentices: list[Apprentice] = []
        self.round, self.step = 0, 0  # the next step of this round to take
        self.quality: dict[str, _Average] = {name: _Average() for name in settings.points}

    def _claim(self) -> None:
        """Note the settings in the folder, or hold them against those noted there."""
        note = self.state / "settings.json"
        if not note.exists():
            try:
                self.state.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OutputError(f"{self.folder}: cannot write ({error.strerror})") from error
            with replace_file(note) as temporary:
                temporary.write_text(json.dumps(asdict(self.settings)))
            return
        noted, asked = json.loads(note.read_text()), json.loads(json.dumps(asdict(self.settings)))
        other = [key for key in asked if noted.get(key) != asked[key]]
        if other:
            key = other[0]
            raise InputError(
                f"{self.folder}: its unfinished training has {key}={noted.get(key)!r}, and {asked[key]!r} is "
                "asked for; give the same options with --resume, or another folder"
            )

    def run(self) -> list[Trained]:
        """Read, train and save; the folder's state is removed in the end."""
        rounds = self.settings.rounds
        checkpoint = _Checkpoint.load(self.state)
        if checkpoint:
            self.round, self.step = checkpoint.round, checkpoint.step
        while self.round < len(rounds):
            n_rows = self._read(rounds)
            if not self.apprentices:
                self._begin(checkpoint, rounds)
            self._train(n_rows)
            if self.harvest.place.exhausted:
                break
            self.round, self.step = self.round + 1, 0
            self._save_checkpoint()
        trained = self._finish()
        shutil.rmtree(self.state)
        return trained

    # --- reading -------------------------------------------------------------------------------

    def _read(self, rounds: list[int]) -> int:
        """Fill the file for this round; the number of its rows."""
        if self.harvest.place.round < self.round:
            self.harvest.next_round()
        wanted, total = rounds[self.round], sum(rounds)
        if self.harvest.place.n_rows < wanted and not self.harvest.place.exhausted:
            done = sum(rounds[: self.round]) + self.harvest.place.n_rows

            def advance(n: int) -> None:
                nonlocal done
                done += n
                self.tell(Progress("reading", done, total, {}))

            sequences = packed(self.engine, documents(self.files), self.settings.context)
            self.harvest.fill(self.engine, sequences, wanted, advance)
        n_rows = self.harvest.place.n_rows
        if n_rows < self.settings.batch_size and self.round == 0:
            raise InputError(
                f"the corpus gives {n_rows} tokens to train on, fewer than one batch of "
                f"{self.settings.batch_size}; give more text or a smaller --batch-size"
            )
        return n_rows

    # --- training ------------------------------------------------------------------------------

    def _begin(self, checkpoint: "_Checkpoint | None", rounds: list[int]) -> None:
        """Make the apprentices, fresh, from `init`, or as the checkpoint has them."""
        if self.harvest.place.exhausted and self.round == 0:
            rounds = [self.harvest.place.n_rows]
        n_steps = checkpoint.n_steps if checkpoint else self.settings.n_steps(rounds)
        recipe = Recipe(
            architecture=self.settings.architecture,
            d_model=self.engine.d_model,
            d_sae=self.settings.d_sae,
            k=self.settings.k,
            lr=self.settings.lr,
            batch_size=self.settings.batch_size,
            n_steps=max(1, n_steps),
            seed=self.settings.seed,
            device=str(self.engine.device),
        )
        sample = None if checkpoint else self._sample()
        for number, name in enumerate(self.settings.points):
            if sample is None:
                mean = torch.zeros(self.engine.d_model, device=self.engine.device)
                apprentice = Apprentice(recipe, mean)
                assert checkpoint is not None
                apprentice.restore(*checkpoint.of(name))
                self.quality[name] = _Average(*checkpoint.numbers[name]["quality"])
            else:
                rows = sample[:, number].to(self.engine.device)
                apprentice = Apprentice(recipe, rows.mean(0))
                if self.init is not None:
                    apprentice.start_from(self._transferred(rows))
            self.apprentices.append(apprentice)

    def _sample(self) -> Tensor:
        n_rows = self.harvest.place.n_rows
        return self.harvest.draw(_order(n_rows, (self.settings.seed, -1, 0))[:SAMPLE_ROWS])

    def _transferred(self, rows: Tensor) -> dict[str, Tensor]:
        """The weights of `init` for rows [n, d_model] of another hook point."""
        assert self.init is not None
        sequences = packed(self.engine, documents(self.files), self.settings.context)
        source = Moments.of_texts(self.engine, sequences, self.init.hook_point)
        return transferred(self.init, source, Moments.of(rows))

    def _train(self, n_rows: int) -> None:
        """Take this round's steps from where it stands."""
        size = self.settings.batch_size
        per_epoch = n_rows // size
        rounds = self.settings.rounds
        before = self.settings.n_steps(rounds[: self.round])
        total = (before + self.settings.epochs * per_epoch + self.settings.n_steps(rounds[self.round + 1 :]))
        order, epoch = torch.empty(0), -1
        while self.step < self.settings.epochs * per_epoch:
            if self.step // per_epoch != epoch:
                epoch = self.step // per_epoch
                order = _order(n_rows, (self.settings.seed, self.round, epoch))
            start = self.step % per_epoch * size
            batch = self.harvest.draw(order[start : start + size]).to(self.engine.device)
            for number, (name, apprentice) in enumerate(
                zip(self.settings.points, self.apprentices, strict=True)
            ):
                self.quality[name].add(apprentice.step(batch[:, number].contiguous()))
            self.step += 1
            if self.step % self.checkpoint_steps == 0:
                self._save_checkpoint()
            self.tell(Progress("training", (before + self.step) * size, total * size, self._figures()))

    def _figures(self) -> dict[str, tuple[float, float, int]]:
        return {
            name: (average.explained_variance, average.l0, apprentice.n_dead)
            for (name, average), apprentice in zip(self.quality.items(), self.apprentices, strict=True)
        }

    def _save_checkpoint(self) -> None:
        numbers = {"round": self.round, "step": self.step, "n_steps": self.apprentices[0].recipe.n_steps}
        _Checkpoint.save(
            self.state,
            numbers,
            {
                name: (*apprentice.state(), self.quality[name].numbers)
                for name, apprentice in zip(self.settings.points, self.apprentices, strict=True)
            },
        )

    # --- the result ----------------------------------------------------------------------------

    def _finish(self) -> list[Trained]:
        figures = self._figures()
        trained = []
        for number, (name, apprentice) in enumerate(zip(self.settings.points, self.apprentices, strict=True)):
            target = self.folder / name
            with _whole_folder(target) as temporary:
                apprentice.save(
                    temporary, self.harvest.place.scales[number], self.dtype, self._metadata(number)
                )
            trained.append(Trained(target, *figures[name]))
        return trained

    def _metadata(self, number: int) -> dict[str, Any]:
        """What is written into cfg.json beside sae-lens's own facts."""
        settings = self.settings
        return {
            "model_name": settings.model_id,
            "hook_name": settings.points[number],
            "context_size": settings.context,
            "prepend_bos": False,
            "sae_lens_version": sae_lens_version(),
            "median_resid_norm": self.harvest.place.medians[number],
            "trained_tokens": self.apprentices[number].trainer.n_training_samples,
            "neurosteer": {key: value for key, value in asdict(settings).items() if key != "points"},
        }


@dataclass
class _Average:
    """Explained variance and L0 averaged over recent steps, the newest weighing most."""

    error: float = 0.0
    variance: float = 0.0
    n_fired: float = 0.0
    n_tokens: float = 0.0
    FADE = 0.98

    def add(self, quality: Quality) -> None:
        for name in ("error", "variance", "n_fired", "n_tokens"):
            setattr(self, name, self.FADE * getattr(self, name) + getattr(quality, name))

    @property
    def numbers(self) -> list[float]:
        return [self.error, self.variance, self.n_fired, self.n_tokens]

    @property
    def explained_variance(self) -> float:
        return 1 - self.error / self.variance if self.variance else 0.0

    @property
    def l0(self) -> float:
        return self.n_fired / self.n_tokens if self.n_tokens else 0.0


@dataclass(frozen=True)
class _Checkpoint:
    """All apprentices at one step, in one safetensors file that is there whole or not at all."""

    round: int
    step: int
    n_steps: int
    numbers: dict[str, dict[str, Any]]
    tensors: dict[str, Tensor]
    NAME = "checkpoint.safetensors"

    @classmethod
    def save(
        cls,
        folder: Path,
        numbers: dict[str, int],
        states: dict[str, tuple[dict[str, Tensor], dict[str, float], list[float]]],
    ) -> None:
        tensors = {
            f"{point}|{name}": tensor
            for point, (state, _, _) in states.items()
            for name, tensor in state.items()
        }
        inner = {point: {**counts, "quality": quality} for point, (_, counts, quality) in states.items()}
        with replace_file(folder / cls.NAME) as temporary:
            try:
                save_file(tensors, temporary, metadata={"neurosteer": json.dumps([numbers, inner])})
            except SafetensorError as error:  # how it tells of a full disk
                raise OutputError(f"{folder / cls.NAME}: cannot write ({error})") from error

    @classmethod
    def load(cls, folder: Path) -> "_Checkpoint | None":
        file = folder / cls.NAME
        if not file.exists():
            return None
        try:
            with safe_open(file, framework="pt") as opened:
                numbers, inner = json.loads(opened.metadata()["neurosteer"])
                tensors = {name: opened.get_tensor(name) for name in list(opened.keys())}
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{file}: a damaged checkpoint ({error}); remove {folder} and start anew") from error
        return cls(**numbers, numbers=inner, tensors=tensors)

    def of(self, point: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        prefix = f"{point}|"
        tensors = {
            name.removeprefix(prefix): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(prefix)
        }
        return tensors, self.numbers[point]


def _order(n: int, seed: tuple[int, int, int]) -> Tensor:
    """A permutation of n that depends on (seed, round, epoch) alone."""
    mixed = (seed[0] * 1_000_003 + seed[1] + 1) * 1_000_003 + seed[2]
    return torch.randperm(n, generator=torch.Generator().manual_seed(mixed % 2**63))


@contextmanager
def _whole_folder(target: Path) -> Iterator[Path]:
    """Yield a folder beside `target` that takes its name if the body succeeds.

    Raises:
        OutputError: it cannot be written.
    """
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_mask())
        if target.exists():
            shutil.rmtree(target)
        temporary.replace(target)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{target}: cannot write ({error})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _mask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
