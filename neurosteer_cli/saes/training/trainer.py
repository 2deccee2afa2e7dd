"""Train one SAE with sae-lens: its architectures, its trainer, its file format.

Importing sae-lens takes many seconds. Knows activations as tensors; knows nothing of models, texts or
where activations come from.
"""

import json
import math
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from sae_lens.config import SAETrainerConfig
from sae_lens.registry import get_sae_training_class
from sae_lens.training.sae_trainer import SAETrainer
from safetensors.torch import save_file
from torch import Tensor

from .checkpoint import LayerState
from .config import Quality, TrainingConfig
from .sparse_topk import SparseTopK

DEAD_AFTER_TOKENS = 100_000  # a latent that has not fired for so long is dead while training
JUMPRELU_L0_COEFFICIENT = 10.0  # the weight of (L0 / target - 1)^2
WARM_UP_SHARE, DECAY_SHARE = 0.02, 0.3  # of the steps
FADE = 0.98  # what a step weighs after the next one


class Average(NamedTuple):
    """Sums over recent steps, the newest weighing most."""

    error: float = 0.0  # squared
    variance: float = 0.0
    n_fired: float = 0.0  # latents, at all tokens
    n_tokens: float = 0.0

    def plus(self, *step: float) -> "Average":
        return Average(*(FADE * before + now for before, now in zip(self, step, strict=True)))

    def quality(self, n_dead: int) -> Quality:
        explained_variance = 1 - self.error / self.variance if self.variance else 0.0
        return Quality(explained_variance, self.n_fired / self.n_tokens, n_dead)


class LayerTrainer:
    """One SAE in training: sae-lens's trainer, a batch at a time, and its state for a checkpoint."""

    def __init__(self, config: TrainingConfig, mean: Tensor, n_steps: int) -> None:
        """Make a fresh SAE on the device of `mean` [d_model], its biases set for activations around it."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.sae = _fresh_sae(config, len(mean), n_steps, str(mean.device))
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
        with warnings.catch_warnings():  # that sparse tensors are young and their indices unchecked
            warnings.filterwarnings("ignore", "Sparse (invariant|CSR)")
            output = self.trainer.step(batch)
        self.trainer.n_training_steps += 1
        x, acts = output.sae_in, output.feature_acts
        with torch.no_grad():
            error = (output.sae_out - x).square().sum()
            variance = (x - x.mean(0)).square().sum()
            n_fired = ((acts.coalesce().values() if acts.is_sparse else acts) > 0).sum()
        self.average = self.average.plus(float(error), float(variance), float(n_fired), len(x))

    @property
    def quality(self) -> Quality:
        return self.average.quality(int(self.trainer.dead_neurons.sum()))

    def state(self) -> LayerState:
        """Everything a later `restore` needs: tensors, and numbers for JSON."""
        trainer = self.trainer
        tensors = {f"sae/{name}": weight for name, weight in self.sae.state_dict().items()}
        for name, parameter in self.sae.named_parameters():
            for key, moment in trainer.optimizer.state[parameter].items():
                tensors[f"adam/{name}/{key}"] = moment
        tensors["fired/since"] = trainer.n_forward_passes_since_fired
        tensors["fired/count"] = trainer.act_freq_scores
        numbers = {
            "n_steps": trainer.n_training_steps,
            "n_samples": trainer.n_training_samples,
            "n_counted": trainer.n_frac_active_samples,
            "quality": [*self.average],
        }
        return {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, numbers

    def restore(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Go on where `state` was taken; a schedule is a function of the number of steps."""
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
        self.sae.load_state_dict(_under("sae/", tensors))
        for name, parameter in self.sae.named_parameters():
            trainer.optimizer.state[parameter] = {
                key: moment.to(parameter.device if moment.dim() else "cpu")
                for key, moment in _under(f"adam/{name}/", tensors).items()
            }
        trainer.n_forward_passes_since_fired = tensors["fired/since"].to(self.sae.W_enc.device)
        trainer.act_freq_scores = tensors["fired/count"].to(self.sae.W_enc.device)

    @torch.no_grad()
    def save(self, folder: Path, scale: float, dtype: torch.dtype, metadata: dict[str, Any]) -> None:
        """Write the SAE as sae-lens does, for raw residuals: activations were residual x scale.

        The training ends here: the weights are folded in place.
        """
        self.sae.fold_activation_norm_scaling_factor(scale)
        weights = self.sae.state_dict()
        self.sae.process_state_dict_for_saving_inference(weights)
        weights = {name: weight.to("cpu", dtype).contiguous() for name, weight in weights.items()}
        save_file(weights, folder / "sae_weights.safetensors")
        config = self.sae.cfg.get_inference_sae_cfg_dict()
        config.update(dtype=str(dtype).removeprefix("torch."), device="cpu")
        config["metadata"].update(metadata, trained_tokens=self.trainer.n_training_samples)
        (folder / "cfg.json").write_text(json.dumps(config, indent=1, sort_keys=True))


def _fresh_sae(config: TrainingConfig, d_model: int, n_steps: int, device: str) -> Any:
    """An SAE of sae-lens's with random weights."""
    name = {"matryoshka": "matryoshka_batchtopk"}.get(config.architecture, config.architecture)
    sae_class, config_class = get_sae_training_class(name)
    own: dict[str, Any] = {"k": config.k}
    if config.architecture == "topk":
        sae_class = SparseTopK
    elif config.architecture == "matryoshka":
        own["matryoshka_widths"] = sorted({max(config.k, config.d_sae // part) for part in (8, 4, 2, 1)})
    elif config.architecture == "jumprelu":
        own = {
            "jumprelu_sparsity_loss_mode": "quadratic",
            "target_l0": config.k,
            "l0_coefficient": JUMPRELU_L0_COEFFICIENT,
            "l0_warm_up_steps": n_steps // 4,
            "jumprelu_bandwidth": 1.0,
            "jumprelu_init_threshold": 0.1,
        }
    return sae_class(
        config_class(d_in=d_model, d_sae=config.d_sae, device=device, apply_b_dec_to_input=False, **own)
    )


def _trainer_config(config: TrainingConfig, n_steps: int, device: str) -> SAETrainerConfig:
    return SAETrainerConfig(
        total_training_samples=n_steps * config.batch_size,
        train_batch_size_samples=config.batch_size,
        lr=config.lr,
        lr_end=config.lr / 10,
        lr_warm_up_steps=math.ceil(n_steps * WARM_UP_SHARE),
        lr_decay_steps=math.floor(n_steps * DECAY_SHARE),
        device=device,
        dead_feature_window=max(1, DEAD_AFTER_TOKENS // config.batch_size),
    )


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those whose name begins so, by the rest of it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
