"""Train one SAE with sae-lens: its architectures, its trainer, its file format.

Knows sae-lens (imported on the way in: many seconds) and activations as tensors; knows nothing of
models, texts or where activations come from.
"""

import json
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.saes.jumprelu_sae import JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig
from sae_lens.saes.matryoshka_batchtopk_sae import (
    MatryoshkaBatchTopKTrainingSAE,
    MatryoshkaBatchTopKTrainingSAEConfig,
)
from sae_lens.saes.sae import SAEMetadata
from sae_lens.saes.topk_sae import TopKTrainingSAEConfig
from sae_lens.training.sae_trainer import SAETrainer
from safetensors.torch import save_file
from torch import Tensor

from .checkpoint import LayerState
from .config import Quality, TrainingConfig
from .sparse_topk import SparseTopK

DEAD_AFTER_TOKENS = 100_000  # a latent that has not fired for so long is dead while training
JUMPRELU_L0_COEFFICIENT = 10.0  # the weight of (L0 / target - 1)^2
WARM_UP_SHARE, DECAY_SHARE = 0.02, 0.3  # of the steps


def fresh_sae(config: TrainingConfig, d_model: int, n_steps: int, device: str) -> Any:
    """An SAE of sae-lens's with random weights."""
    common: dict[str, Any] = {
        "d_in": d_model,
        "d_sae": config.d_sae,
        "device": device,
        "apply_b_dec_to_input": False,
        "metadata": SAEMetadata(),
    }
    if config.architecture == "topk":
        return SparseTopK(TopKTrainingSAEConfig(k=config.k, **common))
    if config.architecture == "batchtopk":
        return BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(k=config.k, **common))
    if config.architecture == "matryoshka":
        widths = sorted({max(config.k, config.d_sae // part) for part in (8, 4, 2, 1)})
        return MatryoshkaBatchTopKTrainingSAE(
            MatryoshkaBatchTopKTrainingSAEConfig(k=config.k, matryoshka_widths=widths, **common)
        )
    return JumpReLUTrainingSAE(
        JumpReLUTrainingSAEConfig(
            jumprelu_sparsity_loss_mode="quadratic",
            target_l0=config.k,
            l0_coefficient=JUMPRELU_L0_COEFFICIENT,
            l0_warm_up_steps=n_steps // 4,
            jumprelu_bandwidth=1.0,
            jumprelu_init_threshold=0.1,
            **common,
        )
    )


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
    def explained_variance(self) -> float:
        return 1 - self.error / self.variance if self.variance else 0.0

    @property
    def l0(self) -> float:
        return self.n_fired / self.n_tokens if self.n_tokens else 0.0


class LayerTrainer:
    """One SAE in training: sae-lens's trainer, a batch at a time, and its state for a checkpoint."""

    def __init__(self, config: TrainingConfig, mean: Tensor, n_steps: int) -> None:
        """Make a fresh SAE on the device of `mean` [d_model], its biases set for activations around it."""
        self.n_steps = n_steps
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.sae = fresh_sae(config, len(mean), n_steps, str(mean.device))
        self.sae.b_enc.data.copy_(-(mean @ self.sae.W_enc.data))
        self.sae.b_dec.data.copy_(mean)
        self.trainer = SAETrainer(_trainer_config(config, n_steps, str(mean.device)), self.sae, iter(()))
        self.average = Average()

    def start_from(self, weights: dict[str, Tensor]) -> None:
        """Take W_enc, W_dec, b_enc and b_dec in place of the fresh ones.

        Decoder rows are given the length 1, and activations what they lose: the reconstruction stays
        as it is, and a learning rate means the same whatever the unit of the weights was.
        """
        lengths = weights["W_dec"].norm(dim=-1).clamp_min(1e-6)  # [d_sae]
        self.sae.W_enc.data.copy_(weights["W_enc"] * lengths)
        self.sae.b_enc.data.copy_(weights["b_enc"] * lengths)
        self.sae.W_dec.data.copy_(weights["W_dec"] / lengths[:, None])
        self.sae.b_dec.data.copy_(weights["b_dec"])

    def step(self, batch: Tensor) -> None:
        """Train on activations [batch_size, d_model] float32 in training units."""
        with _quiet():
            output = self.trainer.step(batch)
        self.trainer.n_training_steps += 1
        with torch.no_grad():
            acts = output.feature_acts
            fired = acts.coalesce().values() if acts.is_sparse else acts
            self.average.add(
                error=float((output.sae_out - output.sae_in).square().sum()),
                variance=float((output.sae_in - output.sae_in.mean(0)).square().sum()),
                n_fired=float((fired > 0).sum()),
                n_tokens=len(batch),
            )

    @property
    def n_tokens(self) -> int:
        """Trained on so far, each as often as it was."""
        n: int = self.trainer.n_training_samples
        return n

    @property
    def quality(self) -> Quality:
        n_dead = int(self.trainer.dead_neurons.sum())
        return Quality(self.average.explained_variance, self.average.l0, n_dead)

    # --- checkpoints ---------------------------------------------------------------------------

    def state(self) -> LayerState:
        """Everything a later `restore` needs: tensors, and numbers for JSON."""
        tensors = {f"sae/{name}": value.detach() for name, value in self.sae.state_dict().items()}
        for name, parameter in self.sae.named_parameters():
            for key, value in self.trainer.optimizer.state[parameter].items():
                tensors[f"adam/{name}/{key}"] = value
        tensors["fired/since"] = self.trainer.n_forward_passes_since_fired
        tensors["fired/count"] = self.trainer.act_freq_scores
        numbers = {
            "n_steps": self.trainer.n_training_steps,
            "n_samples": self.trainer.n_training_samples,
            "n_counted": self.trainer.n_frac_active_samples,
            "quality": [*astuple(self.average)],
        }
        return {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, numbers

    def restore(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Go on where `state` was taken; a schedule is a function of the number of steps."""
        self.sae.load_state_dict({
            name.removeprefix("sae/"): tensor for name, tensor in tensors.items() if name.startswith("sae/")
        })  # fmt: skip
        trainer = self.trainer
        trainer.n_training_steps = numbers["n_steps"]
        trainer.n_training_samples = numbers["n_samples"]
        trainer.n_frac_active_samples = numbers["n_counted"]
        self.average = Average(*numbers["quality"])
        for _ in range(trainer.n_training_steps):
            trainer.optimizer.step()  # without gradients it does nothing, and the scheduler asks for it
            trainer.lr_scheduler.step()
            for scheduler in trainer.coefficient_schedulers.values():
                scheduler.step()
        for name, parameter in self.sae.named_parameters():
            prefix = f"adam/{name}/"
            trainer.optimizer.state[parameter] = {
                key.removeprefix(prefix): tensor.to(parameter.device if tensor.dim() else "cpu")
                for key, tensor in tensors.items()
                if key.startswith(prefix)
            }
        trainer.n_forward_passes_since_fired = tensors["fired/since"].to(self.sae.W_enc.device)
        trainer.act_freq_scores = tensors["fired/count"].to(self.sae.W_enc.device)

    # --- the result ----------------------------------------------------------------------------

    @torch.no_grad()
    def save(self, folder: Path, scale: float, dtype: torch.dtype, metadata: dict[str, Any]) -> None:
        """Write the SAE as sae-lens does, for raw residuals: activations were residual x scale.

        The training ends here: the weights are folded in place.
        """
        self.sae.fold_activation_norm_scaling_factor(scale)
        weights = self.sae.state_dict()
        self.sae.process_state_dict_for_saving_inference(weights)
        config = self.sae.cfg.get_inference_sae_cfg_dict()
        config["dtype"] = str(dtype).removeprefix("torch.")
        config["device"] = "cpu"
        config["metadata"] = {**config["metadata"], **metadata}
        save_file(
            {name: tensor.to("cpu", dtype).contiguous() for name, tensor in weights.items()},
            folder / "sae_weights.safetensors",
        )
        (folder / "cfg.json").write_text(json.dumps(config, indent=1, sort_keys=True))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's remarks that sparse tensors are young and their indices unchecked."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse (invariant|CSR)")
        yield


def _trainer_config(config: TrainingConfig, n_steps: int, device: str) -> SAETrainerConfig:
    return SAETrainerConfig(
        total_training_samples=n_steps * config.batch_size,
        train_batch_size_samples=config.batch_size,
        lr=config.lr,
        lr_end=config.lr / 10,
        lr_scheduler_name="constant",
        lr_warm_up_steps=math.ceil(n_steps * WARM_UP_SHARE),
        lr_decay_steps=math.floor(n_steps * DECAY_SHARE),
        device=device,
        dead_feature_window=max(1, DEAD_AFTER_TOKENS // config.batch_size),
        logger=LoggingConfig(log_to_wandb=False),
    )
