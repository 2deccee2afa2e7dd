"""Find the latents of an SAE that go with a few words. Knows nothing of files or the terminal."""

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from ..models.engine import Engine
from ..models.residuals import usual
from ..models.tokenizer import Tokens
from .descriptions import Description, Descriptions
from .sae import SparseAutoencoder

# The first tokens of a text are unlike all others: words to precede the query, which do not count.
LEAD = "The following few words are what the rest is about:"
RAREST = 1e-6  # a firing rate below this counts as this


@dataclass(frozen=True)
class Hit:
    """A latent and how well it goes with the query."""

    latent_id: int
    score: float  # firing + words
    firing: float  # on the query against the corpus; the best latent has 1
    words: float  # share of the query's words in its description, rare ones weighing more
    name: str


def check_query(query: str) -> None:
    """Find an empty query, an InputError, before anything is loaded."""
    if not query.strip():
        raise InputError("the query is empty; give the words or the text to search by")


def search(
    engine: Engine, sae: SparseAutoencoder, descriptions: Descriptions, query: str, n: int
) -> list[Hit]:
    """The n latents that go best with a query, best first; those with no score are left out.

    A latent's firing score is its mean activation over the query's tokens, as a share of the
    largest seen in the corpus, times ln(1 / firing rate): what fires everywhere says little. Its word
    score looks for the query's words among the tokens it fires at, promotes and the contexts.

    Raises:
        InputError: the query has no token that counts.
    """
    firing = _firing(engine, sae, descriptions, query).tolist()
    words = _word_scores(descriptions, query).tolist()
    hits = [
        Hit(latent.latent_id, fires + has, fires, has, latent.name)
        for latent, fires, has in zip(descriptions.latents, firing, words, strict=True)
        if fires + has > 0
    ]
    return sorted(hits, key=lambda hit: -hit.score)[:n]


def _firing(engine: Engine, sae: SparseAutoencoder, descriptions: Descriptions, query: str) -> Tensor:
    """How far the query fires each latent, against the corpus, [d_sae]; the best one has 1."""
    check_query(query)
    before = engine.prompt_ids(LEAD, "the lead")
    (ids,) = engine.plain_ids([f" {query.strip()}"])
    ids = ids[: engine.max_tokens - len(before)]
    tokens = Tokens([*before, *ids], [False] * len(before) + [True] * len(ids))
    (batch,) = engine.residuals([tokens], [sae.hook_point])
    resid = batch.resid[sae.hook_point]
    resid = resid[usual(resid, descriptions.about.median_resid_norm)]
    if not len(resid):
        raise InputError("the query has no token of a usual norm; give a longer text")
    activations = (sae.encode(resid) * sae.raw_scale(resid)).mean(0).cpu()
    peaks = torch.tensor([latent.peak for latent in descriptions.latents])
    rates = torch.tensor([latent.firing_rate for latent in descriptions.latents], dtype=torch.float64)
    rarity = -rates.clamp_min(RAREST).log().float()
    scores = (activations / peaks.clamp_min(1e-9)).clamp(max=1) * rarity * (peaks > 0)
    best: Tensor = scores.max()
    return scores / best if best > 0 else scores


def _word_scores(descriptions: Descriptions, query: str) -> Tensor:
    """For each latent the share, by weight, of the query's words that its description has, [d_sae].

    A word around a latent counts half. Words weigh as in TF-IDF; scikit-learn's cosine would put the
    latent of fewest words first, not that of most of the query's, and takes a second to import.
    """
    wanted = list(dict.fromkeys(_words(query)))
    fired, around = (
        torch.stack([torch.tensor([word in words for word in wanted], dtype=torch.bool) for words in sets])
        for sets in zip(*map(_words_of, descriptions.latents), strict=True)
    )  # [d_sae, n_words]
    weights = ((2 * len(fired) + 1) / (fired.sum(0) + around.sum(0) + 1).double()).log()
    halves = fired.double() @ weights + (fired | around).double() @ weights
    return halves / 2 / weights.sum().clamp_min(1e-9)


def _words_of(latent: Description) -> tuple[set[str], set[str]]:
    """The words of the tokens a latent fires at and promotes, and of the contexts it fires in."""
    tokens = " ".join((*(context.token for context in latent.contexts), *latent.promoted))
    contexts = "\n".join(f"{c.before}{c.token}{c.after}" for c in latent.contexts)
    return set(_words(tokens)), set(_words(contexts))


def _words(text: str) -> list[str]:
    """Words of three letters or more, in small letters, a plural's or a verb's s left off."""
    return [word.removesuffix("s") for word in re.findall(r"[^\W\d_]{3,}", text.lower())]
