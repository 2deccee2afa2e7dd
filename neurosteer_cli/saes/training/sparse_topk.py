"""sae-lens's TopK SAE trained over the k latents that fire: the same loss and gradients, sooner.

A training step takes a third of the time (d_model 576, d_sae 4608, k 32, a thread of a CPU: 0.11 s in
place of 0.34 s for 1024 tokens, 0.18 s in place of 0.66 s for 2048). Knows sae-lens's training step and
tensors; knows nothing of configurations, trainers or files.
"""

from typing import Any

import torch
from sae_lens.saes.sae import TrainStepInput, TrainStepOutput
from sae_lens.saes.topk_sae import TopKTrainingSAE
from torch import Tensor
from torch.nn.functional import embedding_bag


class _EncodeTopK(torch.autograd.Function):
    """relu(x @ W_enc + b_enc) at the k latents of largest value x gain; backward over those alone."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, W_enc: Tensor, b_enc: Tensor, gain: Tensor, k: int
    ) -> tuple[Tensor, Tensor]:
        pre = torch.addmm(b_enc, x, W_enc)  # [n, d_sae]
        latent_ids = (pre * gain).topk(k, dim=-1, sorted=False).indices  # [n, k]
        values = pre.gather(-1, latent_ids).relu_()
        ctx.save_for_backward(x, latent_ids, values)
        ctx.d_sae = W_enc.shape[1]
        ctx.mark_non_differentiable(latent_ids)
        return values, latent_ids

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[None, Tensor, Tensor, None, None]:
        x, latent_ids, values = ctx.saved_tensors
        grad = grad * (values > 0)
        ids = latent_ids.flatten()
        order = ids.argsort(stable=True)
        rows = torch.zeros(ctx.d_sae + 1, dtype=torch.int64, device=x.device)
        rows[1:] = torch.bincount(ids, minlength=ctx.d_sae).cumsum(0)
        transposed = torch.sparse_csr_tensor(
            rows, order // latent_ids.shape[1], grad.flatten()[order], (ctx.d_sae, len(x))
        )
        b_enc = grad.new_zeros(ctx.d_sae).index_add_(0, ids, grad.flatten())
        return None, (transposed @ x).T, b_enc, None, None


_encode: Any = _EncodeTopK.apply


class SparseTopK(TopKTrainingSAE):  # type: ignore[misc]
    """sae-lens's TopK; a decoder row's norm only takes part in the choice of the k, as it cancels after."""

    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        x = step_input.sae_in  # [n, d_model]
        gain = self.W_dec.norm(dim=-1).detach()
        values, latent_ids = _encode(x, self.W_enc, self.b_enc, gain, self.cfg.k)
        out = embedding_bag(latent_ids, self.W_dec, per_sample_weights=values, mode="sum") + self.b_dec
        error = (out - x).square().sum(-1).mean()
        dead = self._dead_loss(x, out, step_input.dead_neuron_mask)
        with torch.no_grad():
            places = torch.arange(len(x), device=x.device).repeat_interleave(self.cfg.k)
            acts = torch.sparse_coo_tensor(
                torch.stack([places, latent_ids.flatten()]),
                (values * gain[latent_ids]).flatten(),
                (len(x), self.cfg.d_sae),
            )
        return TrainStepOutput(
            sae_in=x,
            sae_out=out,
            feature_acts=acts,
            hidden_pre=values,
            loss=error + dead,
            losses={"mse_loss": error, "auxiliary_reconstruction_loss": dead},
        )

    def _dead_loss(self, x: Tensor, out: Tensor, dead: Tensor | None) -> Tensor:
        """sae-lens's auxiliary loss, computed over the dead latents alone.

        The dead latents of largest activation reconstruct what the others leave (Gao et al. 2024,
        arXiv 2406.04093, appendix A.2).
        """
        if dead is None or not dead.any():
            return out.new_zeros(())
        ids = dead.nonzero()[:, 0]
        limit = x.shape[-1] // 2
        pre = x @ self.W_enc[:, ids] + self.b_enc[ids]  # [n, n_dead]
        top = (pre * self.W_dec[ids].norm(dim=-1)).topk(min(limit, len(ids)), dim=-1, sorted=False).indices
        kept = torch.zeros_like(pre).scatter(-1, top, pre.gather(-1, top))
        loss: Tensor = (kept @ self.W_dec[ids] - (x - out).detach()).square().sum(-1).mean()
        return loss * float(self.cfg.aux_loss_coefficient * min(len(ids) / limit, 1.0))
