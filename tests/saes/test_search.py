"""Searching latents by words: firing and words, each against its formula."""

import math
import tracemalloc
from itertools import product

import pytest

from neurosteer_cli.errors import InputError
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.models.tokenizer import Tokens
from neurosteer_cli.saes.descriptions import About, Context, Description, Descriptions
from neurosteer_cli.saes.sae import SparseAutoencoder
from neurosteer_cli.saes.search import LEAD, _word_scores, search


def by_hand(latents: list[Description], **changes: object) -> Descriptions:
    about = {
        "format_version": 1, "program_version": "0", "sae_sha256": "0" * 64, "model_id": "tiny",
        "hook_point": "blocks.2.hook_resid_post", "d_sae": len(latents), "n_tokens": 10,
        "median_resid_norm": 2.0, **changes,
    }  # fmt: skip
    return Descriptions(About(**about), latents)  # type: ignore[arg-type]


def test_a_latent_is_found_by_the_words_it_fires_at_before_those_around(
    engine: Engine, sae: SparseAutoencoder
) -> None:
    latents = [Description(n, 0.5, (Context("", "x", "", 1.0),), (), ()) for n in range(96)]
    latents[7] = Description(7, 0.5, (Context("the", " waiters", " came", 1.0),), (), ())
    latents[8] = Description(8, 0.5, (Context("the waiter", " came", "", 1.0),), (), ())
    hits = {hit.latent_id: hit for hit in search(engine, sae, by_hand(latents), "waiter", 96)}
    assert (hits[7].words, hits[8].words) == (1.0, 0.5)
    assert all(hit.words == 0.0 for latent, hit in hits.items() if latent not in (7, 8))


def test_firing_is_held_against_the_corpus(
    engine: Engine, sae: SparseAutoencoder, described: Descriptions
) -> None:
    query = "some words"
    lead, ids = engine.tokenizer(LEAD)["input_ids"], engine.tokenizer(f" {query}")["input_ids"]
    tokens = Tokens([*lead, *ids], [False] * len(lead) + [True] * len(ids))
    (batch,) = engine.residuals([tokens], [HookPoint(2)])
    means = sae.encode(batch.resid[HookPoint(2)]).mean(0).tolist()
    scores = [
        min(1.0, mean / latent.peak) * -math.log(latent.firing_rate) if latent.peak else 0.0
        for mean, latent in zip(means, described.latents, strict=True)
    ]
    hits = search(engine, sae, described, query, 96)
    best = max(scores)
    for hit in hits:
        assert hit.firing == pytest.approx(scores[hit.latent_id] / best, rel=1e-4)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert all(hit.score > 0 for hit in hits)
    assert len(search(engine, sae, described, query, 2)) == 2


def test_an_empty_query_is_refused(engine: Engine, sae: SparseAutoencoder, described: Descriptions) -> None:
    with pytest.raises(InputError, match="the query is empty"):
        search(engine, sae, described, "", 3)


def test_a_word_weighs_less_the_more_descriptions_have_it(engine: Engine, sae: SparseAutoencoder) -> None:
    latents = [Description(n, 0.5, (Context("", " common", "", 1.0),), (), ()) for n in range(96)]
    latents[5] = Description(5, 0.5, (Context("", " rare", "", 1.0),), ("Common",), ())
    hits = {hit.latent_id: hit for hit in search(engine, sae, by_hand(latents), "rare commons", 96)}
    rare, common = math.log(193 / 3), math.log(193 / (96 + 95 + 1))  # of 96 tokens' words and 96 contexts'
    assert hits[5].words == pytest.approx(1.0)
    assert hits[6].words == pytest.approx(common / (rare + common))


def test_a_long_query_takes_the_memory_of_one_latent_at_a_time() -> None:
    query = " ".join(map("".join, product("abcdefghij", repeat=4)))
    descriptions = by_hand([Description(n, 0.5, (), (), ()) for n in range(96)])
    tracemalloc.start()
    _word_scores(descriptions, query)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * 2**20
