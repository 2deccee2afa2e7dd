"""Train an SAE at each of several hook points, from one pass of the model over a corpus.

Knows how reading, training and checkpoints follow one another; knows nothing of the terminal. The
work goes in rounds: fill a file with activations, train on it for some epochs in an order drawn
anew, fill it with what comes next. A run that is killed goes on from its last checkpoint to the same
weights, bit for bit, as one that is not.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...data.corpus import Part, documents
from ...errors import InputError, OutputError
from ...files import make_folder, replace_file
from ...models.engine import Engine
from ...models.hooks import HookPoint
from ...models.residuals import packed
from ..sae import SparseAutoencoder
from .activations import Harvest
from .checkpoint import Checkpoint, order_of
from .config import STATE_FOLDER, Average, Progress, Recipe, Trained, TrainingConfig
from .trainer import LayerTrainer
from .transfer import Moments, transferred

SAMPLE_ROWS = 16_384  # for means


Tell = Callable[[Progress], None]


class Training:
    """One run: its folder, the activations on disk and an apprentice a hook point."""

    def __init__(
        self,
        settings: TrainingConfig,
        engine: Engine,
        corpus: Sequence[Part],
        folder: Path,
        *,
        init: Mapping[HookPoint, SparseAutoencoder] | None = None,
        checkpoint_steps: int = 500,
        dtype: torch.dtype = torch.float32,
        tell: Tell = lambda _progress: None,
    ) -> None:
        """Open a new or an interrupted training in `folder`.

        Args:
            corpus: read more than once.
            init: the SAE that each hook point starts from, its own or another's, on the engine's device;
                else from noise.
            checkpoint_steps: steps between checkpoints.
            dtype: of the saved weights.
            tell: told how far it has come.

        Raises:
            InputError: the folder holds a training with other settings.
        """
        self.settings, self.engine, self.corpus, self.folder = settings, engine, corpus, folder
        self.init, self.checkpoint_steps, self.dtype, self.tell = init, checkpoint_steps, dtype, tell
        self.points = [HookPoint.parse(name) for name in settings.points]
        self.state = folder / STATE_FOLDER
        self._claim()
        self.harvest = Harvest(self.state, self.points, engine.d_model)
        self.apprentices: list[LayerTrainer] = []
        self.moments: dict[HookPoint, Moments] = {}
        self.round, self.step = 0, 0  # the next step of this round to take
        self.quality: dict[str, Average] = {name: Average() for name in settings.points}

    def _claim(self) -> None:
        """Note the settings in the folder, or hold them against those noted there."""
        note = self.state / "settings.json"
        self.is_new = not note.exists()
        if self.is_new:
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
        """Read, train and save; the folder's state is removed in the end.

        Raises:
            InputError: the corpus cannot be trained on, or has changed since the training began.
            OutputError: something cannot be written; what was written before stays for a resumed run.
        """
        try:
            trained = self._run()
        except InputError:
            if self.is_new and not (self.state / Checkpoint.NAME).exists():
                shutil.rmtree(self.state)
                with suppress(OSError):  # not empty
                    self.folder.rmdir()
            raise
        shutil.rmtree(self.state)
        return trained

    def _run(self) -> list[Trained]:
        rounds = self.settings.rounds
        checkpoint = Checkpoint.load(self.state)
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
        if not self.apprentices:  # all steps were taken before the run was interrupted
            self._begin(checkpoint, rounds)
        return self._finish()

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

            sequences = packed(self.engine, documents(self.corpus), self.settings.context)
            self.harvest.fill(self.engine, sequences, wanted, advance)
        n_rows = self.harvest.place.n_rows
        if n_rows < self.settings.batch_size and self.round == 0:
            raise InputError(
                f"the corpus gives {n_rows} tokens to train on, fewer than one batch of "
                f"{self.settings.batch_size}; give more text or a smaller --batch-size"
            )
        return n_rows

    # --- training ------------------------------------------------------------------------------

    def _begin(self, checkpoint: "Checkpoint | None", rounds: list[int]) -> None:
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
                apprentice = LayerTrainer(recipe, mean)
                assert checkpoint is not None
                apprentice.restore(*checkpoint.of(name))
                self.quality[name] = Average(*checkpoint.numbers[name]["quality"])
            else:
                rows = sample[:, number].to(self.engine.device)
                apprentice = LayerTrainer(recipe, rows.mean(0))
                if self.init:
                    apprentice.start_from(self._transferred(number, rows))
            self.apprentices.append(apprentice)

    def _sample(self) -> Tensor:
        n_rows = self.harvest.place.n_rows
        return self.harvest.draw(order_of(n_rows, (self.settings.seed, -1, 0))[:SAMPLE_ROWS])

    def _transferred(self, number: int, rows: Tensor) -> dict[str, Tensor]:
        """The weights a hook point starts from, for its activations, rows [n, d_model], in training units."""
        assert self.init is not None
        point, scale = self.points[number], self.harvest.place.scales[number]
        sae = self.init[point]
        target = Moments.of(rows / scale)
        source = target if sae.hook_point == point else self._moments(sae.hook_point)
        weights = transferred(sae, source, target)
        return {
            "W_enc": weights["W_enc"] / scale,
            "b_enc": weights["b_enc"],
            "W_dec": weights["W_dec"] * scale,
            "b_dec": weights["b_dec"] * scale,
        }

    def _moments(self, point: HookPoint) -> Moments:
        """Of the residuals an SAE to start from was trained on."""
        if point not in self.moments:
            sequences = packed(self.engine, documents(self.corpus), self.settings.context)
            self.moments[point] = Moments.of_texts(self.engine, sequences, point)
        return self.moments[point]

    def _train(self, n_rows: int) -> None:
        """Take this round's steps from where it stands."""
        size = self.settings.batch_size
        per_epoch = n_rows // size
        rounds = self.settings.rounds
        before = self.settings.n_steps(rounds[: self.round])
        to_come = [] if self.harvest.place.exhausted else rounds[self.round + 1 :]
        total = before + self.settings.epochs * per_epoch + self.settings.n_steps(to_come)
        order, epoch = torch.empty(0), -1
        while self.step < self.settings.epochs * per_epoch:
            if self.step // per_epoch != epoch:
                epoch = self.step // per_epoch
                order = order_of(n_rows, (self.settings.seed, self.round, epoch))
            start = self.step % per_epoch * size
            batch = self.harvest.draw(order[start : start + size]).to(self.engine.device)
            for number, (name, apprentice) in enumerate(
                zip(self.settings.points, self.apprentices, strict=True)
            ):
                self.quality[name].add(*apprentice.step(batch[:, number].contiguous()))
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
        Checkpoint.save(
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
            with make_folder(target, replace=True) as temporary:
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
            "median_resid_norm": self.harvest.place.medians[number],
            "trained_tokens": self.apprentices[number].trainer.n_training_samples,
            "neurosteer": {key: value for key, value in asdict(settings).items() if key != "points"},
        }
