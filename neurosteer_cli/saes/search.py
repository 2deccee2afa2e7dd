"""Find the latents of an SAE that go with a few words.

Knows the engine, SAEs and descriptions; knows nothing of files or the terminal.
"""

import math
import re
from dataclasses import dataclass

import torch

from ..errors import InputError
from ..models.engine import Engine, Tokens
from ..models.residuals import usual
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
    firing = _firing(engine, sae, descriptions, query)
    words = _word_scores(descriptions, query)
    hits = [
        Hit(latent.latent_id, firing[latent.latent_id] + words[latent.latent_id],
            firing[latent.latent_id], words[latent.latent_id], latent.name)
        for latent in descriptions.latents
    ]  # fmt: skip
    found = [hit for hit in hits if hit.score > 0]
    return sorted(found, key=lambda hit: (-hit.score, hit.latent_id))[:n]


def _firing(engine: Engine, sae: SparseAutoencoder, descriptions: Descriptions, query: str) -> list[float]:
    if not query.strip():
        raise InputError("the query is empty; give the words or the text to search by")
    before = engine.prompt_ids(LEAD, "the lead")
    ids = engine.tokenizer(f" {query.strip()}", add_special_tokens=False)["input_ids"]
    ids = ids[: engine.max_tokens - len(before)]
    tokens = Tokens([*before, *ids], [False] * len(before) + [True] * len(ids))
    (batch,) = engine.residuals([tokens], [sae.hook_point])
    resid = batch.resid[sae.hook_point]
    resid = resid[usual(resid, descriptions.about.median_resid_norm)]
    if not len(resid):
        raise InputError("the query has no token of a usual norm; give a longer text")
    activations = (sae.encode(resid) * sae.raw_scale(resid)).mean(0).cpu()
    peaks = torch.tensor([max(latent.peak, 1e-9) for latent in descriptions.latents])
    rarity = torch.tensor([-math.log(max(latent.firing_rate, RAREST)) for latent in descriptions.latents])
    fired = torch.tensor([latent.peak > 0 for latent in descriptions.latents])
    scores = (activations / peaks).clamp(max=1) * rarity * fired
    best = float(scores.max())
    found: list[float] = (scores / best if best > 0 else scores).tolist()
    return found


def _word_scores(descriptions: Descriptions, query: str) -> list[float]:
    """For each latent the share, by weight, of the query's words that its description has."""
    wanted = list(dict.fromkeys(_words(query)))
    marked = [_marked(latent) for latent in descriptions.latents]
    around = [_around(latent) for latent in descriptions.latents]
    weights = {}
    for word in wanted:
        n_with = sum(word in one for one in marked) + sum(word in one for one in around)
        weights[word] = math.log((2 * len(marked) + 1) / (n_with + 1))
    whole = sum(weights.values()) or 1.0

    def share(fired: set[str], near: set[str]) -> float:
        return sum(weights[word] * (1.0 if word in fired else 0.5) for word in wanted if word in fired | near)

    return [share(fired, near) / whole for fired, near in zip(marked, around, strict=True)]


def _marked(latent: Description) -> set[str]:
    """The words a latent fires at, and those it promotes."""
    return {
        word
        for text in (*(context.token for context in latent.contexts), *latent.promoted)
        for word in _words(text)
    }


def _around(latent: Description) -> set[str]:
    return {
        word
        for context in latent.contexts
        for word in _words(f"{context.before}{context.token}{context.after}")
    }


def _words(text: str) -> list[str]:
    """Words of three letters or more, in small letters, a plural's or a verb's s left off."""
    return [word.removesuffix("s") for word in re.findall(r"[^\W\d_]{3,}", text.lower())]
