"""Train an SAE at each of several hook points, from one pass of the model over a corpus.

The work goes in rounds: fill a file with activations, train on it for some epochs in an order drawn
anew, fill it with what comes next. A run that is killed goes on from its last checkpoint to the same
weights, bit for bit, as one that is not. Knows nothing of the terminal.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from ...data.corpus import Part, documents
from ...errors import InputError
from ...files import make_folder, replace_file, writing
from ...models.engine import Engine
from ...models.hooks import HookPoint
from ...models.residuals import packed
from ...models.tokenizer import Tokens
from ..load import SAEs
from .activations import ActivationStore, order_of
from .checkpoint import Checkpoint
from .config import STATE_FOLDER, Progress, Quality, TrainingConfig
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
        init: SAEs | None = None,  # to start from, on the engine's device
        checkpoint_steps: int = 500,  # between checkpoints
        dtype: str = "float32",  # of the saved weights
        tell: Callable[[Progress], None] = lambda _progress: None,
    ) -> None:
        """Open a new or an interrupted training in `folder`; the corpus is read more than once.

        Raises:
            InputError: the folder holds a training with another configuration.
            OutputError: it cannot be written to.
        """
        self.config, self.engine, self.corpus, self.folder = config, engine, corpus, folder
        self.init, self.checkpoint_steps, self.dtype, self.tell = init, checkpoint_steps, dtype, tell
        self.state_folder = folder / STATE_FOLDER
        self.is_new = self._claim()
        self.points = [HookPoint.parse(name) for name in config.points]
        self.store = ActivationStore(self.state_folder, self.points, engine.d_model)
        self.round, self.step = 0, 0  # the next step of this round to take
        self.n_steps = 0  # of all rounds, as the learning rate goes
        self.trainers: dict[str, LayerTrainer] = {}  # by hook point

    def _claim(self) -> bool:
        """Note the configuration in a new folder, or hold it against the one noted there."""
        note, asked = self.state_folder / "settings.json", json.dumps(asdict(self.config))
        if not note.exists():
            with writing(self.folder):
                self.state_folder.mkdir(parents=True, exist_ok=True)
            with replace_file(note) as temporary:
                temporary.write_text(asked)
            return True
        noted = json.loads(note.read_text())
        for key, value in json.loads(asked).items():
            if noted.get(key) != value:
                raise InputError(
                    f"{self.folder}: its unfinished training has {key}={noted.get(key)!r}, and {value!r} is "
                    "asked for; give the same options with --resume, or another folder"
                )
        return False

    def run(self) -> dict[Path, Quality]:
        """Read, train and save; give each SAE's folder, and how it does on the last batches.

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
        self._save()
        shutil.rmtree(self.state_folder)
        return {self.folder / name: quality for name, quality in self._quality().items()}

    @property
    def rounds(self) -> list[int]:
        """Rows of each round: as asked for, or as the corpus gave."""
        state = self.store.state
        return [*self.config.rounds[: state.round], state.n_rows] if state.exhausted else self.config.rounds

    def _sequences(self) -> Iterator[Tokens]:
        return packed(self.engine, documents(self.corpus), self.config.context)

    def _read(self) -> None:
        """Fill the store for this round."""
        if self.store.state.round < self.round:
            self.store.next_round()
        wanted, before, total = self.rounds[self.round], sum(self.rounds[: self.round]), sum(self.rounds)

        def tell(n_rows: int) -> None:
            self.tell(Progress("reading", before + n_rows, total, {}))

        if self.store.state.n_rows < wanted:
            self.store.fill(self.engine, self._sequences(), wanted, tell)
        n_rows = self.store.state.n_rows
        if n_rows < self.config.batch_size and self.round == 0:
            raise InputError(
                f"the corpus gives {n_rows} tokens to train on, fewer than one batch of "
                f"{self.config.batch_size}; give more text or a smaller --batch-size"
            )

    def _new_trainers(self) -> dict[str, LayerTrainer]:
        """Trainers set for a sample of the activations, with fresh weights or those of `init`."""
        self.n_steps = max(1, self.config.n_steps(self.rounds))
        numbers = order_of(self.store.state.n_rows, (self.config.seed, -1, 0))[:SAMPLE_ROWS]
        samples = self.store.draw(numbers).unbind(1)
        trainers = {}
        for point, sample, scale in zip(self.points, samples, self.store.state.scales, strict=True):
            rows = sample.to(self.engine.device)
            trainers[str(point)] = LayerTrainer(self.config, rows.mean(0), self.n_steps)
            if self.init:
                sae = self.init[point]
                if sae.hook_point == point:
                    source = Moments.of(rows / scale)
                else:
                    source = Moments.of_texts(self.engine, self._sequences(), sae.hook_point)
                trainers[str(point)].start_from(transferred(sae, source, Moments.of(rows)))
        return trainers

    def _train(self) -> None:
        """Take this round's steps from where it stands."""
        before, total = self.config.n_steps(self.rounds[: self.round]), self.config.n_steps(self.rounds)
        size = self.config.batch_size
        for batch in self._batches():
            for trainer, activations in zip(self.trainers.values(), batch.unbind(1), strict=True):
                trainer.step(activations.contiguous())
            self.step += 1
            if self.step % self.checkpoint_steps == 0:
                self._save_checkpoint()
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
        return {name: trainer.quality for name, trainer in self.trainers.items()}

    def _save_checkpoint(self) -> None:
        layers = {name: trainer.state() for name, trainer in self.trainers.items()}
        Checkpoint(self.round, self.step, self.n_steps, layers).save(self.state_folder)

    def _restore(self) -> None:
        """Go on from the last checkpoint, if there is one."""
        checkpoint = Checkpoint.load(self.state_folder)
        if checkpoint is None:
            return
        self.round, self.step, self.n_steps = checkpoint.round, checkpoint.step, checkpoint.n_steps
        nowhere = torch.zeros(self.engine.d_model, device=self.engine.device)
        for name in self.config.points:
            self.trainers[name] = LayerTrainer(self.config, nowhere, self.n_steps)
            self.trainers[name].restore(*checkpoint.layers[name])

    def _save(self) -> None:
        """Write each SAE, with what cfg.json holds beside sae-lens's own entries."""
        state, config = self.store.state, asdict(self.config)
        del config["points"]
        layers = zip(self.trainers.items(), state.scales, state.medians, strict=True)
        for (name, trainer), scale, median in layers:
            metadata = {
                "model_name": self.config.model_id,
                "hook_name": name,
                "context_size": self.config.context,
                "prepend_bos": False,
                "median_resid_norm": median,
                "neurosteer": config,
            }
            with make_folder(self.folder / name, replace=True) as temporary:
                trainer.save(temporary, scale, getattr(torch, self.dtype), metadata)
