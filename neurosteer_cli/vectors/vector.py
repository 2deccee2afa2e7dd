"""The vector file: tensors and metadata, whether it fits a model, and what alpha means.

Knows the file format, the tensors in it and the unit of alpha; knows nothing of how a vector is fitted.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..data.kinds import known_kind
from ..errors import IncompatibleVectorError, InputError, ModelError, OutputError, SAEError, VectorFileError
from ..files import replace_file, spooled
from ..models.hooks import HookPoint
from ..models.shape import ModelShape
from ..saes.load import load_sae
from ..saes.sae import SparseAutoencoder
from .kinds import TokenBias
from .metadata import Kind, VectorMetadata
from .tensors import METADATA_KEY, Tensors, read_tensors

TOKEN_IDS, TOKEN_BIAS = "logits/token_ids", "logits/token_bias"
NO_TEXTS = torch.empty(0, dtype=torch.int64)  # the hashes of a vector that was not fitted on texts

UNIT_DOSE = 0.01  # of alpha 1: its pushes together are 1 % of the median residual norm long
SAFE_DOSE = 0.2  # above it text tends to break down
DEFAULT_ALPHA = 8.0
DEFAULT_SHARE = 1.0  # in its place where a component is ablated: the whole of it
MAX_ALPHA = 1e6  # whatever a person asks for: nothing they meant lies beyond
MAX_REQUEST_ALPHA = 1e3  # a stranger's request to a server: ten times as long as the residual is noise


@dataclass(frozen=True)
class Latents:
    """The SAE latents behind a push, strongest first."""

    ids: Tensor  # [k] int64
    weights: Tensor  # [k] float32: the push is proportional to weights @ W_dec[ids]
    firing_rates: Tensor  # [2, k] float32: share of tokens at which each fires, positive and negative side

    def first(self, n: int) -> list[tuple[int, float, float, float]]:
        """The id, weight and two firing rates of each of the n strongest."""
        numbers = self.weights.tolist(), *self.firing_rates.tolist()
        return list(zip(self.ids[:n].tolist(), *numbers, strict=False))

    def decoded(self, sae: SparseAutoencoder) -> Tensor:
        """The sum of weight x decoder row, [d_model] float64."""
        return self.weights.double() @ sae.decoder_rows(self.ids).double().cpu()

    def scaled_to(self, push: Tensor, sae: SparseAutoencoder) -> Tensor:
        """The weights with which they are a push [d_model] and no longer proportional to it, [k] float32."""
        return self.weights * float(push.norm() / self.decoded(sae).norm())


@dataclass(frozen=True)
class SteeringVector:
    """Pushes at hook points, a bias of logits, or both, in the unit of alpha.

    `pushes[point]` [d_model] float32, raw residual units, is what alpha = 1 adds there: all pushes
    of a fitted vector together are as long as 1 % of the median residual norm. A vector of another kind
    than `add` acts along them in its own way.
    """

    metadata: VectorMetadata
    pushes: dict[HookPoint, Tensor]
    latents: dict[HookPoint, Latents]
    text_hashes: Tensor  # [n_texts] int64, sorted: of the texts fitted on, so that a judge can leave them out
    bias: TokenBias | None = None  # of logits, at alpha 1

    @property
    def adds(self) -> bool:
        """Whether its pushes are added, so that they have a dose."""
        return self.metadata.kind == "add"

    @property
    def default_alpha(self) -> float:
        """The alpha that is taken where none is said."""
        return DEFAULT_SHARE if self.metadata.kind == "ablate" else DEFAULT_ALPHA

    def acting(self, kind: Kind) -> "SteeringVector":
        """The same directions, used in another way; a calibration holds for its own way alone.

        Raises:
            InputError: there are none, or what is to act on logits has no bias.
        """
        if kind == self.metadata.kind:
            return self
        if kind == "logits" or not self.pushes:
            raise InputError(
                f"a vector of the kind {self.metadata.kind} cannot act as {kind}: "
                "`fit --method logodds` makes one that acts on logits, the other methods one for the rest"
            )
        changes = {"kind": kind, "calibration": None}
        return replace(self, metadata=self.metadata.model_copy(update=changes), bias=None)

    def save(self, path: Path) -> None:
        """Write the vector file.

        Raises:
            OutputError: it cannot be written; the old file, if any, is left as it was.
        """
        tensors = {str(point): push.contiguous() for point, push in self.pushes.items()}
        for point, latents in self.latents.items():
            tensors[f"{point}/latent_ids"] = latents.ids.contiguous()
            tensors[f"{point}/latent_weights"] = latents.weights.contiguous()
            tensors[f"{point}/firing_rates"] = latents.firing_rates.contiguous()
        if self.bias:
            tensors[TOKEN_IDS], tensors[TOKEN_BIAS] = self.bias.ids, self.bias.bias
        tensors["text_hashes"] = self.text_hashes
        with replace_file(path) as temporary:
            try:
                save_file(tensors, temporary, metadata={METADATA_KEY: self.metadata.to_json()})
            except SafetensorError as error:  # its own word for a full disk
                raise OutputError(f"{path}: cannot write ({error})") from error

    @classmethod
    def load(cls, path: Path) -> "SteeringVector":
        """Read a vector file.

        Raises:
            InputError: no such file, or a directory.
            VectorFileError: damaged, no vector file, incomplete, or too new.
        """
        if os.path.isdir(path):
            raise InputError(f"{path}: {known_kind(path) or 'is a directory; name a vector file'}")
        with spooled(str(path)) as readable:
            header, tensors = read_tensors(path, readable)
        return _assemble(VectorMetadata.from_json(header, str(path)), tensors)

    def check_fits(
        self, shape: ModelShape, model_id: str, name: str, warn: Callable[[str], None] = lambda _warning: None
    ) -> None:
        """Hold the vector against a model: an IncompatibleVectorError says how their shapes differ.

        Another vocabulary, as a fine-tuned model's may be, is no hindrance; `warn` is told of it. Nor is
        the class that takes images too, or the one that takes text alone.
        """
        own = self.metadata.model_shape
        if not own.steers_like(shape) or (self.bias and bool((self.bias.ids >= shape.d_vocab).any())):
            raise IncompatibleVectorError(
                f"{name} was fitted on {self.metadata.model_id!r} ({own}), model {model_id!r} is "
                f"{shape}: pass --model {self.metadata.model_id} or fit a vector on this model"
            )
        if own.d_vocab != shape.d_vocab:
            warn(
                f"{name} was fitted on {self.metadata.model_id!r}, whose vocabulary has "
                f"{own.d_vocab} tokens; that of {model_id!r} has {shape.d_vocab}"
            )

    def own_model(self, name: str) -> str:
        """The model it was fitted on, if it is still there; `name` is what the error calls the vector."""
        model_id = self.metadata.model_id
        if Path(model_id).is_absolute() and not os.path.exists(model_id):
            raise ModelError(
                f"{name} was fitted on {model_id!r}, which is not there any more: "
                "pass --model with the place where it is now"
            )
        return model_id

    def sae_at(self, point: HookPoint) -> SparseAutoencoder:
        """As `load_sae`, once; SAEError if its push is not made with an SAE."""
        if point not in self._saes:
            sae = self.load_sae(point)
            if sae is None:
                raise SAEError(f"the push at {point} is not made of an SAE's latents")
            self._saes[point] = sae
        return self._saes[point]

    @cached_property
    def _saes(self) -> dict[HookPoint, SparseAutoencoder]:
        return {}

    def load_sae(self, point: HookPoint) -> SparseAutoencoder | None:
        """The SAE that the push at a hook point is made with, as long as it is where it was; None without."""
        sae, model_id = self.metadata.points[str(point)].sae, self.metadata.model_id
        if sae is None:
            return None
        return load_sae(sae.sae_id, model_id=model_id, layer=point.layer, sha256=sae.sha256)

    def after_blocks(self, alpha: float) -> dict[int, Tensor]:
        """What alpha adds to the output of each block it adds to, [d_model] float32; -1 is the embedding."""
        check_alpha(alpha)
        sums: dict[int, Tensor] = {}
        for point, push in sorted(self.pushes.items()):
            sums[point.after_block] = sums.get(point.after_block, 0) + alpha * push
        if not all(bool(torch.isfinite(push).all()) for push in sums.values()):
            raise InputError(f"alpha {alpha:g} is too large: the push is not finite in 32-bit numbers")
        return sums

    def dose(self, alpha: float) -> float:
        """How long the pushes are at this alpha, where they are added, as a share of the median norm."""
        return dose_of(total_pushes([self], [alpha]), mean_norms([self]))


def check_alpha(alpha: float) -> None:
    """Raise InputError if nothing can be done, once for all, at an alpha."""
    if not math.isfinite(alpha) or alpha == 0:
        raise InputError(f"alpha must be a finite number other than 0, got {alpha:g}")


def dose_of(pushes: Mapping[HookPoint, Tensor], norms: Mapping[HookPoint, float]) -> float:
    """|push| / median |resid|, added up over hook points; pushes [d_model] and norms in raw units."""
    return sum(float(push.norm()) / norms[point] for point, push in pushes.items())


def unit_scale(directions: Mapping[HookPoint, Tensor], norms: Mapping[HookPoint, float]) -> float:
    """The factor that makes directions [d_model], not all zero, what alpha = 1 adds."""
    return UNIT_DOSE / dose_of(directions, norms)


def unit_pushes(
    directions: Mapping[HookPoint, Tensor], norms: Mapping[HookPoint, float]
) -> dict[HookPoint, Tensor]:
    """What alpha = 1 adds along directions [d_model] whatever their lengths, shared equally; float32."""
    equal = {point: at * (norms[point] / float(at.norm())) for point, at in directions.items()}
    scale = unit_scale(equal, norms)
    return {point: (scale * direction).float() for point, direction in equal.items()}


def total_pushes(vectors: Sequence[SteeringVector], alphas: Sequence[float]) -> dict[HookPoint, Tensor]:
    """Sum of alpha_i v_i at each hook point, [d_model], raw residual units."""
    sums: dict[HookPoint, Tensor] = {}
    for vector, alpha in zip(vectors, alphas, strict=True):
        for point, push in vector.pushes.items():
            sums[point] = sums.get(point, 0) + alpha * push
    return sums


def total_dose(vectors: Sequence[SteeringVector], alphas: Sequence[float]) -> float | None:
    """|sum of alpha_i v_i| / median |resid|, added up over hook points; None if what acts adds nothing."""
    adding = [(vector, alpha) for vector, alpha in zip(vectors, alphas, strict=True) if vector.adds]
    if any(alphas) and not any(alpha for _, alpha in adding):
        return None
    pushing = [vector for vector, _ in adding]
    return dose_of(total_pushes(pushing, [alpha for _, alpha in adding]), mean_norms(pushing))


def mean_norms(vectors: Sequence[SteeringVector]) -> dict[HookPoint, float]:
    """The median residual norm at each hook point; each vector measured it on its own texts."""
    norms: dict[HookPoint, list[float]] = {}
    for vector in vectors:
        for point in vector.pushes:
            norms.setdefault(point, []).append(vector.metadata.points[str(point)].resid_norm)
    return {point: sum(several) / len(several) for point, several in norms.items()}


def _assemble(metadata: VectorMetadata, tensors: Tensors) -> SteeringVector:
    try:
        points = [HookPoint.parse(name) for name in metadata.points]
    except InputError as error:
        raise VectorFileError(f"{tensors.where}: {error}") from error
    acts_somewhere = points or TOKEN_IDS in tensors
    if not acts_somewhere or any(point.resid_norm <= 0 for point in metadata.points.values()):
        raise VectorFileError(
            f"{tensors.where}: its metadata names no hook point, or a norm of 0; fit the vector again"
        )
    pushes = {
        point: tensors.take(str(point), torch.float32, (metadata.model_shape.d_model,)) for point in points
    }
    latents = {}
    for point in points:
        if f"{point}/latent_ids" in tensors:
            k = tensors.length(f"{point}/latent_ids")
            latents[point] = Latents(
                tensors.take(f"{point}/latent_ids", torch.int64, (k,)),
                tensors.take(f"{point}/latent_weights", torch.float32, (k,)),
                tensors.take(f"{point}/firing_rates", torch.float32, (2, k)),
            )
    hashes = tensors.take("text_hashes", torch.int64, (tensors.length("text_hashes"),))
    return SteeringVector(metadata, pushes, latents, hashes, _bias(metadata, tensors))


def _bias(metadata: VectorMetadata, tensors: Tensors) -> TokenBias | None:
    """What the file adds to logits, where it has that and may have it."""
    has_bias, urges = TOKEN_IDS in tensors, metadata.kind == "logits"
    if bool(metadata.points) == urges or (has_bias != urges and metadata.kind != "add"):
        raise VectorFileError(
            f"{tensors.where}: its tensors are not those of a vector of the kind {metadata.kind}; "
            "fit the vector again"
        )
    if not has_bias:
        return None
    shape = (tensors.length(TOKEN_IDS),)
    ids, bias = tensors.take(TOKEN_IDS, torch.int64, shape), tensors.take(TOKEN_BIAS, torch.float32, shape)
    known = ids.unique()  # type: ignore[no-untyped-call]
    if not 0 < len(known) == len(ids) or known[0] < 0 or known[-1] >= metadata.model_shape.d_vocab:
        raise VectorFileError(
            f"{tensors.where}: tensor {TOKEN_IDS!r} does not name tokens of its model, each once; "
            "fit the vector again"
        )
    return TokenBias(ids, bias)
