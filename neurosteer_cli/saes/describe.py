"""Read a corpus with SAEs and note where each latent fires, and how strongly.

Memory holds a few token windows a latent and one batch. Knows nothing of files or the terminal.
"""

from collections.abc import Callable, Iterable, Iterator

import torch

from .. import __version__
from ..models.engine import Engine, ResidualBatch
from ..models.logit_lens import promoted_tokens
from ..models.residuals import MedianNorm, read, usual
from ..models.tokenizer import Tokens
from .descriptions import FORMAT_VERSION, N_STRENGTHS, About, Context, Description, Descriptions
from .peaks import Peaks, Strengths
from .sae import SparseAutoencoder

SEQUENCES_AT_ONCE = 32


class LatentLog:
    """Where one SAE's latents fired most, at most once a sequence, and how often."""

    def __init__(self, sae: SparseAutoencoder, n_contexts: int, before: int, after: int) -> None:
        self.sae = sae
        self.peaks = Peaks(sae.d_sae, n_contexts, before=before, after=after)
        self.strengths = Strengths(sae.d_sae)
        self.n_tokens = 0
        self.norms = MedianNorm()

    def add(self, batch: ResidualBatch) -> None:
        """Take in a batch's residuals, a sequence at a time; those of outlying norm so far are left out."""
        resid = batch.resid[self.sae.hook_point]
        self.norms.add(resid)
        kept = usual(resid, self.norms.median)
        for row in range(len(batch.texts)):
            mine = ((batch.text_index == row) & kept).nonzero()[:, 0]
            if len(mine):
                activations = (self.sae.encode(resid[mine]) * self.sae.raw_scale(resid[mine])).cpu()
                self.n_tokens += len(mine)
                self.strengths.add(activations)
                self.peaks.add(activations, batch.places[mine.cpu()], batch.ids)

    def described(self, engine: Engine, n_tokens_shown: int) -> Descriptions:
        """What was seen, and the tokens each decoder row promotes and suppresses."""
        rows = self.sae.decoder_rows(torch.arange(self.sae.d_sae))
        rates = (self.strengths.counts.sum(1).double() / max(1, self.n_tokens)).tolist()
        latents = [
            Description(
                latent_id=latent,
                firing_rate=rates[latent],
                contexts=self._contexts(latent, engine),
                promoted=tuple(up),
                suppressed=tuple(down),
                strengths=tuple(self.strengths.of(latent, N_STRENGTHS)),
            )
            for latent, (up, down) in enumerate(promoted_tokens(engine, rows, n_tokens_shown))
        ]
        about = About(
            format_version=FORMAT_VERSION,
            program_version=__version__,
            sae_sha256=self.sae.sha256,
            model_id=engine.model_id,
            hook_point=str(self.sae.hook_point),
            d_sae=self.sae.d_sae,
            n_tokens=self.n_tokens,
            median_resid_norm=self.norms.median,
        )
        return Descriptions(about, latents)

    def _contexts(self, latent: int, engine: Engine) -> tuple[Context, ...]:
        """The places of largest activation first; the same words once."""
        decode, activations = engine.decode, dict[tuple[str, str, str], float]()
        for activation, before, token, after in self.peaks.of(latent):
            words = (decode([], before), decode(before, [token]), decode([*before, token], after))
            activations.setdefault(words, activation)
        return tuple(Context(*words, activation) for words, activation in activations.items())


def describe(
    engine: Engine,
    saes: Iterable[SparseAutoencoder],
    sequences: Iterator[Tokens],
    n_tokens: int,  # that count, to read; outliers in norm are left out
    *,
    n_contexts: int = 5,  # kept a latent, of different sequences
    before: int = 8,  # tokens shown before the one it fires at
    after: int = 4,
    n_tokens_shown: int = 5,  # promoted, and suppressed, a latent
    advance: Callable[[int], None] = lambda _n: None,  # told how many tokens have been read
) -> list[Descriptions]:
    """Describe the latents of one or several SAEs in one pass over token sequences."""
    logs = [LatentLog(sae, n_contexts, before, after) for sae in saes]
    points = [log.sae.hook_point for log in logs]
    for batch in read(engine, sequences, points, lambda: logs[0].n_tokens < n_tokens, SEQUENCES_AT_ONCE):
        for log in logs:
            log.add(batch)
        advance(len(batch.places))
    return [log.described(engine, n_tokens_shown) for log in logs]
