"""Describing latents: where they fire, what is kept in the file, finding them again, browsing."""

import gzip
import math
from pathlib import Path

import pytest
import torch
from support.tiny import save_tiny_sae

from neurosteer_cli.errors import InputError, SAEError
from neurosteer_cli.models.engine import Engine, Tokens
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.models.logit_lens import promoted_tokens
from neurosteer_cli.models.residuals import MedianNorm, packed
from neurosteer_cli.saes.describe import describe
from neurosteer_cli.saes.descriptions import (
    FILE_NAME,
    About,
    Context,
    Description,
    Descriptions,
    file_for,
    find,
    names,
)
from neurosteer_cli.saes.load import load_sae
from neurosteer_cli.saes.sae import SparseAutoencoder
from neurosteer_cli.saes.search import LEAD, search

TEXTS = [f"text number {n} has some {'more ' * (n % 4)}words" for n in range(30)]


@pytest.fixture
def sae(tmp_path: Path) -> SparseAutoencoder:
    return load_sae(str(save_tiny_sae(tmp_path / "sae", d_sae=96)), model_id="tiny")


@pytest.fixture
def described(engine: Engine, sae: SparseAutoencoder) -> Descriptions:
    (found,) = describe(engine, [sae], packed(engine, TEXTS, 32), n_tokens=10**6, n_contexts=3)
    return found


def by_hand(latents: list[Description], **changes: object) -> Descriptions:
    facts = {
        "format_version": 1, "program_version": "0", "sae_sha256": "0" * 64, "model_id": "tiny",
        "hook_point": "blocks.2.hook_resid_post", "d_sae": len(latents), "n_tokens": 10,
        "median_resid_norm": 2.0, **changes,
    }  # fmt: skip
    return Descriptions(About(**facts), latents)  # type: ignore[arg-type]


# --- making them -------------------------------------------------------------------------------


def test_rates_peaks_and_the_median_norm_are_those_of_all_tokens(
    engine: Engine, sae: SparseAutoencoder, described: Descriptions
) -> None:
    resid = torch.cat(
        [batch.resid[HookPoint(2)]
         for batch in engine.residuals(list(packed(engine, TEXTS, 32)), [HookPoint(2)])]
    )  # fmt: skip
    acts = sae.encode(resid)
    norms = MedianNorm()
    norms.add(resid)
    assert described.about.n_tokens == len(resid)
    assert described.about.median_resid_norm == norms.median
    assert described.about.sae_sha256 == sae.sha256
    rates = [latent.firing_rate for latent in described.latents]
    assert rates == pytest.approx((acts > 0).double().mean(0).tolist())
    peaks = [latent.peak for latent in described.latents]
    assert peaks == pytest.approx(acts.max(0).values.tolist(), rel=1e-4)


def test_contexts_are_of_different_sequences_strongest_first_and_spell_the_text(
    described: Descriptions,
) -> None:
    end = "".join(TEXTS)
    for latent in described.latents:
        heights = [context.activation for context in latent.contexts]
        assert heights == sorted(heights, reverse=True)
        assert len({(c.before, c.token, c.after) for c in latent.contexts}) == len(latent.contexts) <= 3
        for context in latent.contexts:
            assert len(context.token) == 1
            assert f"{context.before}{context.token}{context.after}" in end


def test_promoted_tokens_are_those_of_the_logit_lens(
    engine: Engine, sae: SparseAutoencoder, described: Descriptions
) -> None:
    rows = sae.decoder_rows(torch.arange(sae.d_sae))
    for latent, (up, down) in zip(described.latents, promoted_tokens(engine, rows, 5), strict=True):
        assert (list(latent.promoted), list(latent.suppressed)) == (up, down)


def test_several_saes_are_described_in_one_pass_as_each_alone(engine: Engine, tmp_path: Path) -> None:
    saes = [
        load_sae(str(save_tiny_sae(tmp_path / name, hook_name=name)), model_id="tiny")
        for name in ("blocks.1.hook_resid_post", "blocks.2.hook_resid_post")
    ]
    both = describe(engine, saes, packed(engine, TEXTS, 32), n_tokens=10**6)
    for sae, found in zip(saes, both, strict=True):
        assert describe(engine, [sae], packed(engine, TEXTS, 32), n_tokens=10**6) == [found]


def test_a_latents_name_is_where_it_fires() -> None:
    contexts = (
        Context("it was", " hardly", " worth", 9.0), Context("is", " utterly", "", 8.0),
        Context("", " hardly", " a", 7.0), Context("a", "\n", "", 6.0),
    )  # fmt: skip
    assert Description(1, 0.1, contexts, (), ()).name == "hardly, utterly, \\n: it was [hardly] worth"
    assert Description(1, 0.0, (), (), ()).name == "never fired"


# --- the file ----------------------------------------------------------------------------------


def test_what_is_saved_is_read_again_and_found_by_the_weights(
    sae: SparseAutoencoder, described: Descriptions, tmp_path: Path
) -> None:
    file = file_for(sae, str(tmp_path / "sae"), "tiny")
    assert file == tmp_path / "sae" / FILE_NAME
    described.save(file)
    first = file.read_bytes()
    found = find(sae, "tiny")
    assert found is not None
    assert found.about == described.about
    for before, after in zip(described.latents, found.latents, strict=True):
        assert (after.latent_id, after.promoted, after.suppressed) == (
            before.latent_id, before.promoted, before.suppressed,
        )  # fmt: skip
        assert after.firing_rate == pytest.approx(before.firing_rate, rel=0.01)
        assert after.name == before.name
    found.save(file)
    assert file.read_bytes() == first


def test_descriptions_of_other_weights_are_not_its_own(
    sae: SparseAutoencoder, described: Descriptions, tmp_path: Path
) -> None:
    assert find(sae, "tiny") is None
    described.save(tmp_path / "sae" / FILE_NAME)
    other = load_sae(str(save_tiny_sae(tmp_path / "sae", d_sae=96, seed=1)), model_id="tiny")
    assert find(other, "tiny") is None
    assert names(None, [1, 2]) == {}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"no gzip", "damaged"),
        (gzip.compress(b"{}\n"), "format version None, this program reads 1"),
        (gzip.compress(b'{"format_version": 2}\n'), "format version 2, this program reads 1"),
        (gzip.compress(b'{"format_version": 1}\n'), "damaged"),
        (None, "damaged .latents are missing."),
    ],
)
def test_a_damaged_file_is_named(data: bytes | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / FILE_NAME
    if data is None:
        by_hand([Description(0, 0.1, (), (), ())], d_sae=2).save(file)
    else:
        file.write_bytes(data)
    with pytest.raises(SAEError, match=rf"{FILE_NAME}: {message}.*run `neurosteer sae describe` again"):
        Descriptions.load(file)


# --- search ------------------------------------------------------------------------------------


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
