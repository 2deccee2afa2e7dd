"""Train an SAE at each of several hook points, from one pass of the model over a corpus.

Knows how reading, training and checkpoints follow one another; knows nothing of the terminal. The
work goes in rounds: fill a file with activations, train on it for some epochs in an order drawn
anew, fill it with what comes next. A run that is killed goes on from its last checkpoint to the same
weights, bit for bit, as one that is not.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...data.corpus import Part, documents
from ...errors import InputError
from ...files import make_folder, replace_file, writing
from ...models.engine import Engine, Tokens
from ...models.hooks import HookPoint
from ...models.residuals import packed
from ..sae import SparseAutoencoder
from .activations import ActivationStore, order_of
from .checkpoint import Checkpoint
from .config import STATE_FOLDER, Progress, Quality, Trained, TrainingConfig
from .trainer import LayerTrainer
from .transfer import Moments, transferred

SAMPLE_ROWS = 16_384  # for means


class Training:
    """One run: its folder, the activations on disk and a trainer a hook point."""

    def __init__(
        self,
        config: TrainingConfig,
        engine: Engine,
        corpus: Sequence[Part],
        folder: Path,
        *,
        init: Mapping[HookPoint, SparseAutoencoder] | None = None,
        checkpoint_steps: int = 500,
        dtype: str = "float32",
        tell: Callable[[Progress], None] = lambda _progress: None,
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
            InputError: the folder holds a training with another configuration.
            OutputError: it cannot be written to.
        """
        self.config, self.engine, self.corpus, self.folder = config, engine, corpus, folder
        self.init, self.checkpoint_steps, self.dtype, self.tell = init, checkpoint_steps, dtype, tell
        self.points = [HookPoint.parse(name) for name in config.points]
        self.state_folder = folder / STATE_FOLDER
        self.is_new = self._claim()
        self.store = ActivationStore(self.state_folder, self.points, engine.d_model)
        self.round, self.step = 0, 0  # the next step of this round to take
        self.trainers: list[LayerTrainer] = []

    def _claim(self) -> bool:
        """Note the configuration in a new folder, or hold it against the one noted there."""
        note = self.state_folder / "settings.json"
        if not note.exists():
            with writing(self.folder):
                self.state_folder.mkdir(parents=True, exist_ok=True)
            with replace_file(note) as temporary:
                temporary.write_text(json.dumps(asdict(self.config)))
            return True
        noted, asked = json.loads(note.read_text()), json.loads(json.dumps(asdict(self.config)))
        for key in asked:
            if noted.get(key) != asked[key]:
                raise InputError(
                    f"{self.folder}: its unfinished training has {key}={noted.get(key)!r}, and "
                    f"{asked[key]!r} is asked for; give the same options with --resume, or another folder"
                )
        return False

    def run(self) -> list[Trained]:
        """Read, train and save; the folder's state is removed in the end.

        Raises:
            InputError: the corpus cannot be trained on, or has changed since the training began; or the
                checkpoint is damaged.
            OutputError: something cannot be written; what was written before stays for a resumed run.
        """
        try:
            self._restore()
            while self.round < len(self.rounds):
                self._read()
                self.trainers = self.trainers or self._new_trainers()
                self._train()
                self.round, self.step = self.round + 1, 0
                self._save_checkpoint()
        except InputError:
            if self.is_new and not self.trainers:
                shutil.rmtree(self.state_folder)
                with suppress(OSError):  # not empty
                    self.folder.rmdir()
            raise
        trained = self._save()
        shutil.rmtree(self.state_folder)
        return trained

    @property
    def rounds(self) -> list[int]:
        """Rows of each round: as asked for, or as the corpus gave."""
        state = self.store.state
        return [*self.config.rounds[: state.round], state.n_rows] if state.exhausted else self.config.rounds

    # --- reading -------------------------------------------------------------------------------

    def _sequences(self) -> Iterator[Tokens]:
        return packed(self.engine, documents(self.corpus), self.config.context)

    def _read(self) -> None:
        """Fill the store for this round."""
        if self.store.state.round < self.round:
            self.store.next_round()
        wanted, before, total = self.rounds[self.round], sum(self.rounds[: self.round]), sum(self.rounds)

        def advance(_n: int) -> None:
            self.tell(Progress("reading", before + self.store.state.n_rows, total, {}))

        if self.store.state.n_rows < wanted:
            self.store.fill(self.engine, self._sequences(), wanted, advance)
        n_rows = self.store.state.n_rows
        if n_rows < self.config.batch_size and self.round == 0:
            raise InputError(
                f"the corpus gives {n_rows} tokens to train on, fewer than one batch of "
                f"{self.config.batch_size}; give more text or a smaller --batch-size"
            )

    # --- training ------------------------------------------------------------------------------

    def _new_trainers(self) -> list[LayerTrainer]:
        """Trainers set for a sample of the activations, with fresh weights or those of `init`."""
        numbers = order_of(self.store.state.n_rows, (self.config.seed, -1, 0))[:SAMPLE_ROWS]
        sample = self.store.draw(numbers)
        n_steps = max(1, self.config.n_steps(self.rounds))
        trainers = []
        for number, point in enumerate(self.points):
            rows = sample[:, number].to(self.engine.device)
            trainer = LayerTrainer(self.config, rows.mean(0), n_steps)
            if self.init:
                sae = self.init[point]
                source = self._raw_moments(sae.hook_point, number, rows)
                trainer.start_from(transferred(sae, source, Moments.of(rows)))
            trainers.append(trainer)
        return trainers

    def _raw_moments(self, point: HookPoint, number: int, rows: Tensor) -> Moments:
        """Of the raw residuals at an SAE's own hook point; `rows` are those of a trainer's."""
        if point == self.points[number]:
            return Moments.of(rows / self.store.state.scales[number])
        return Moments.of_texts(self.engine, self._sequences(), point)

    def _train(self) -> None:
        """Take this round's steps from where it stands."""
        before, total = self.config.n_steps(self.rounds[: self.round]), self.config.n_steps(self.rounds)
        for batch in self._batches():
            for number, trainer in enumerate(self.trainers):
                trainer.step(batch[:, number].contiguous())
            self.step += 1
            if self.step % self.checkpoint_steps == 0:
                self._save_checkpoint()
            size = self.config.batch_size
            self.tell(Progress("training", (before + self.step) * size, total * size, self._quality()))

    def _batches(self) -> Iterator[Tensor]:
        """The batches [batch_size, n_points, d_model] of this round that are still to come."""
        size, n_rows = self.config.batch_size, self.store.state.n_rows
        per_epoch = n_rows // size
        order = None
        for step in range(self.step, self.config.epochs * per_epoch):
            epoch, nth = divmod(step, per_epoch)
            if order is None or nth == 0:
                order = order_of(n_rows, (self.config.seed, self.round, epoch))
            yield self.store.draw(order[nth * size : (nth + 1) * size]).to(self.engine.device)

    def _quality(self) -> dict[str, Quality]:
        return {
            name: trainer.quality for name, trainer in zip(self.config.points, self.trainers, strict=True)
        }

    # --- checkpoints ---------------------------------------------------------------------------

    def _save_checkpoint(self) -> None:
        layers = {
            name: trainer.state() for name, trainer in zip(self.config.points, self.trainers, strict=True)
        }
        Checkpoint(self.round, self.step, self.trainers[0].n_steps, layers).save(self.state_folder)

    def _restore(self) -> None:
        """Go on from the last checkpoint, if there is one."""
        checkpoint = Checkpoint.load(self.state_folder)
        if checkpoint is None:
            return
        self.round, self.step = checkpoint.round, checkpoint.step
        nowhere = torch.zeros(self.engine.d_model, device=self.engine.device)
        for name in self.config.points:
            trainer = LayerTrainer(self.config, nowhere, checkpoint.n_steps)
            trainer.restore(*checkpoint.layers[name])
            self.trainers.append(trainer)

    # --- the result ----------------------------------------------------------------------------

    def _save(self) -> list[Trained]:
        trained = []
        for number, (name, trainer) in enumerate(zip(self.config.points, self.trainers, strict=True)):
            trained.append(Trained(self.folder / name, trainer.quality))
            with make_folder(self.folder / name, replace=True) as temporary:
                scale = self.store.state.scales[number]
                trainer.save(temporary, scale, getattr(torch, self.dtype), self._metadata(number))
        return trained

    def _metadata(self, number: int) -> dict[str, Any]:
        """What is written into cfg.json beside sae-lens's own entries."""
        config = asdict(self.config)
        return {
            "model_name": config["model_id"],
            "hook_name": config.pop("points")[number],
            "context_size": config["context"],
            "prepend_bos": False,
            "median_resid_norm": self.store.state.medians[number],
            "trained_tokens": self.trainers[number].n_tokens,
            "neurosteer": config,
        }
