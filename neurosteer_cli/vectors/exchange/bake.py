"""Bake a vector into a checkpoint: a plain Hugging Face folder that writes steered text by itself.

Knows what a vector of each kind makes of a model's weights; knows nothing of files or tokens.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import IncompatibleVectorError, ModelError
from ...models.shape import shape_of
from ..kinds import TokenBias
from ..vector import SteeringVector, check_alpha
from .checkpoint import Changes, Checkpoint, Made
from .families import HEADS_WITH_BIAS, Family, head_bias, push_taker, writers

SAME_DIRECTION = 1e-5  # of a length of 1: what is shorter is rounding


def bake(
    vector: SteeringVector,
    alpha: float,
    folder: Path,
    config: Any,
    target: Path,
    *,
    model_id: str,
    note: Mapping[str, Any],
) -> None:
    """Write a copy of a checkpoint folder that does to every token what a vector does at an alpha.

    A push becomes a bias of the last layer of the block's MLP. For an ablation all layers that write to the
    residual stream are made to write less, by the share that alpha is, along all of the vector's pushes
    (weight orthogonalisation, Arditi et al. 2024, arXiv 2406.11717). What is added to logits becomes a bias
    of the head; where a vector pushes as well and the head has none, it is left out (see `leaves_out`).

    Args:
        folder: the checkpoint, and `config` what transformers reads from it.
        target: the folder to make; nothing is left of it where that fails.
        note: kept in `neurosteer.json`.

    Raises:
        IncompatibleVectorError: the model has no place for it, or no weights do what the vector does.
        InputError: the alpha is 0, or not finite, or too large.
        ModelError: the folder is damaged.
        OutputError: the copy cannot be written.
    """
    check_alpha(alpha)
    checkpoint = Checkpoint(folder, config)
    if vector.metadata.kind == "clamp":
        raise IncompatibleVectorError(
            "a vector of the kind clamp cannot be baked into a model: `neurosteer gen` and `serve` clamp"
        )
    if vector.metadata.kind == "ablate":
        changes = _ablated(vector, alpha, checkpoint, model_id)
    else:
        changes = _pushed(vector.after_blocks(alpha), checkpoint, model_id)
        if vector.bias and not leaves_out(vector, config):
            changes |= _urged(vector.bias * alpha, checkpoint, model_id)
    checkpoint.copy(target, changes, note)


def leaves_out(vector: SteeringVector, config: Any) -> bool:
    """Whether what a vector that pushes adds to logits cannot be baked into a model."""
    return bool(vector.pushes and vector.bias) and config.model_type not in HEADS_WITH_BIAS


def _pushed(pushes: Mapping[int, Tensor], checkpoint: Checkpoint, model_id: str) -> Changes:
    """A bias of the MLP's last layer, in the blocks to whose outputs pushes [d_model] are added."""
    if not pushes:
        return Changes()
    family, biases = push_taker(checkpoint.config, model_id)
    if min(pushes) < 0:
        raise IncompatibleVectorError(
            f"a push on what enters block 0 of model {model_id!r} has no place: it follows no MLP; "
            "fit at the output of a block"
        )
    names = checkpoint.names
    weights = [name for name in names if family.block_of(name, biases.modules, "weight") >= 0]
    made = {
        bias: Made(name, _zeros)
        for name in weights
        if (bias := name.removesuffix("weight") + "bias") not in names
    }
    takers = {family.block_of(name, [family.mlp], "bias"): name for name in names | made.keys()}
    if missing := pushes.keys() - takers:
        raise ModelError(
            f"{checkpoint.folder}: its weights have no {family.blocks}.{min(missing)}.{family.mlp}.bias to "
            "take the push"
        )
    changed = {takers[block]: partial(torch.add, push) for block, push in pushes.items()}
    return Changes(made, changed, biases.config if made else {})


def _zeros(weight: Tensor) -> Tensor:
    return weight.new_zeros(len(weight))


def _ablated(vector: SteeringVector, share: float, checkpoint: Checkpoint, model_id: str) -> Changes:
    """Writers of the residual stream that write less, by a share, along the vector's pushes."""
    family, names = writers(checkpoint.config, model_id), checkpoint.names
    _check_complete(family, checkpoint)
    modules = [family.attention, family.mlp]
    less = partial(_less, basis=_basis([*vector.pushes.values()]), share=share)

    def less_in_columns(weight: Tensor) -> Tensor:
        return less(weight.T).T

    embeddings = {name: number for name in names if (number := family.embedding_of(name)) >= 0}
    biases = [name for name in names if family.block_of(name, modules, "bias") >= 0]
    weights = [name for name in names if family.block_of(name, modules, "weight") >= 0]
    changed = {
        **dict.fromkeys([*embeddings, *biases], less),
        **dict.fromkeys(weights, less if family.is_transposed else less_in_columns),
    }
    if not checkpoint.config.tie_word_embeddings:
        return Changes(changed=changed)
    head, tokens = f"{family.head}.weight", next(name for name in embeddings if not embeddings[name])
    made = {} if head in names else {head: Made(tokens, Tensor.clone)}  # it reads the residual stream
    return Changes(made, changed, {"tie_word_embeddings": False})


def _check_complete(family: Family, checkpoint: Checkpoint) -> None:
    """Raise ModelError if the weights of a layer that writes to the residual stream are not there."""
    names, blocks = checkpoint.names, set(range(shape_of(checkpoint.config).n_layers))
    absent = [
        f"{family.blocks}.{block}.{module}.weight"
        for module in (family.attention, family.mlp)
        for block in blocks - {family.block_of(name, [module], "weight") for name in names}
    ]
    there = set(map(family.embedding_of, names))
    absent += [f"{name}.weight" for number, name in enumerate(family.embeddings) if number not in there]
    if absent:
        raise ModelError(f"{checkpoint.folder}: its weights have no {absent[0]} to take the component out of")


def _basis(directions: Sequence[Tensor]) -> Tensor:
    """Orthonormal rows [n, d_model] float32 that span directions [d_model]."""
    unit = torch.stack([direction.double() / direction.double().norm() for direction in directions])
    found = torch.linalg.svd(unit, full_matrices=False)
    basis: Tensor = found.Vh[found.S > SAME_DIRECTION].float()
    return basis


def _less(rows: Tensor, basis: Tensor, share: float) -> Tensor:
    """Rows [..., d_model] without a share of their components along a basis [n, d_model]."""
    return rows - share * (rows @ basis.T) @ basis


def _urged(bias: TokenBias, checkpoint: Checkpoint, model_id: str) -> Changes:
    """A bias of the head, by what is added to logits."""
    config = head_bias(checkpoint.config, model_id)
    head, names = "lm_head", checkpoint.names
    if f"{head}.weight" not in names and f"{head}.bias" not in names:
        raise ModelError(f"{checkpoint.folder}: its weights have no {head}.weight to give a bias")
    made = {} if f"{head}.bias" in names else {f"{head}.bias": Made(f"{head}.weight", _zeros)}

    def urged(old: Tensor) -> Tensor:
        return old + bias.dense(len(old))

    return Changes(made, {f"{head}.bias": urged}, config if made else {})
