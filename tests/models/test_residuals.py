"""Residuals of many texts: packing, reading in groups, outliers and the median norm."""

from collections.abc import Iterator

import pytest
import torch

from neurosteer_cli.data.records import Passage
from neurosteer_cli.errors import InputError
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.models.residuals import TEXTS_AT_ONCE, MedianNorm, median_norms, packed, read, usual


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


# --- the median norm ---------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 1e5])
@pytest.mark.parametrize("n", [1, 2, 7, 1000])
def test_the_median_norm_is_torch_median_to_a_tenth_of_a_percent(
    generator: torch.Generator, n: int, scale: float
) -> None:
    resid = scale * torch.randn(n, 8, generator=generator)
    norms = MedianNorm()
    for part in resid.split(300):
        norms.add(part)
    expected = float(resid.double().norm(dim=-1).median())
    assert norms.median == pytest.approx(expected, rel=1e-3)


def test_of_an_even_number_of_norms_the_lower_middle_one_is_taken() -> None:
    norms = MedianNorm()
    norms.add(torch.tensor([[1.0], [8.0], [2.0], [4.0]]))
    assert norms.median == pytest.approx(2.0, rel=1e-3)
    assert float(torch.tensor([1.0, 8.0, 2.0, 4.0]).median()) == 2.0


def test_outliers_do_not_move_the_median(generator: torch.Generator) -> None:
    resid = torch.randn(99, 8, generator=generator)
    norms, with_sink = MedianNorm(), MedianNorm()
    norms.add(resid)
    with_sink.add(torch.cat([resid, 1e4 * torch.ones(2, 8)]))
    assert with_sink.median == pytest.approx(norms.median, rel=0.05)


def test_norms_beyond_the_histogram_are_counted_at_its_ends() -> None:
    norms = MedianNorm()
    norms.add(torch.tensor([[0.0], [0.0], [5.0], [1e30], [1e30]]))
    assert norms.median == pytest.approx(5.0, rel=1e-3)


# --- outliers ----------------------------------------------------------------------------------


def test_an_outlier_is_five_times_as_long_as_the_median() -> None:
    resid = torch.tensor([[3.0, 4.0], [0.0, 24.9], [0.0, 25.0], [0.0, -40.0]])
    assert usual(resid, 5.0).tolist() == [True, True, False, False]


def test_each_hook_point_has_a_median_of_its_own() -> None:
    resid = torch.tensor([[[4.9], [4.9]], [[0.1], [99.0]]])  # [n, n_points, d_model]
    assert usual(resid, torch.tensor([1.0, 0.5])).tolist() == [[True, False], [True, False]]


# --- reading -----------------------------------------------------------------------------------

POINTS = [HookPoint(1), HookPoint(2)]


def test_sequences_are_read_in_groups_while_more_is_wanted(engine: Engine) -> None:
    sequences = list(packed(engine, [f"some document, number {n}" for n in range(20)], 16))
    stream, n_tokens = iter(sequences), [0]
    for batch in read(engine, stream, POINTS, lambda: sum(n_tokens) < 40, group=2):
        n_tokens.append(len(batch.places))
    assert sum(n_tokens) == sum(sum(tokens.counts) for tokens in sequences[:4])  # at most 15 each
    assert list(stream) == sequences[4:]


def test_all_that_is_read_are_the_engines_residuals(engine: Engine) -> None:
    sequences = list(packed(engine, [f"some document, number {n}" for n in range(20)], 16))
    found = list(read(engine, sequences, POINTS))
    for batch, expected in zip(found, engine.residuals(sequences, POINTS), strict=True):
        assert all(torch.equal(batch.resid[point], expected.resid[point]) for point in POINTS)


def test_the_norm_is_the_median_over_the_tokens_that_count(engine: Engine) -> None:
    texts = [Passage("here", "some words"), Passage("here", "x"), Passage("here", "and a longer text")]
    seen: list[int] = []
    found = median_norms(engine, POINTS, texts, "texts", seen.append)
    assert sum(seen) == 3
    for point in POINTS:
        norms: list[float] = []
        for text in texts:
            ids = torch.tensor([engine.tokenize(text).ids])
            hidden = engine.model(ids, output_hidden_states=True).hidden_states
            norms += hidden[point.layer + 1][0, 1:].norm(dim=-1).tolist()
        assert found[point] == pytest.approx(sorted(norms)[(len(norms) - 1) // 2], rel=1e-3)


def test_many_texts_are_read_a_group_at_a_time(engine: Engine) -> None:
    n_drawn, seen = 0, []

    def texts() -> Iterator[Passage]:
        nonlocal n_drawn
        for n_drawn in range(1, TEXTS_AT_ONCE + 3):  # noqa: B007
            yield Passage("here", "ab")

    median_norms(engine, POINTS, texts(), "texts", lambda n: seen.append((n_drawn, n)))
    assert sum(n for _, n in seen) == TEXTS_AT_ONCE + 2
    assert sum(n for drawn, n in seen if drawn == TEXTS_AT_ONCE) == TEXTS_AT_ONCE


def test_texts_that_are_cut_are_told(engine: Engine) -> None:
    texts = [Passage("here", text) for text in ("some words", "x" * 128, "x" * 129)]
    warnings: list[str] = []
    median_norms(engine, POINTS, texts, "texts", warn=warnings.append)
    assert warnings == ["1 of 3 texts were cut to the model's 128 tokens"]


def test_texts_of_a_single_token_are_refused(engine: Engine) -> None:
    texts = [Passage("letters:1", "a"), Passage("letters:2", "b")]
    with pytest.raises(InputError, match="^letters: every text is a single token; nothing to measure the"):
        median_norms(engine, POINTS, texts, "letters")


# --- packing -----------------------------------------------------------------------------------


def test_documents_are_packed_end_to_end_with_an_end_of_text_between(engine: Engine) -> None:
    sequences = list(packed(engine, ["abcde", "fg", "hijklmnop"], 8))
    end = engine.tokenizer.eos_token_id
    flat = [token for tokens in sequences for token in tokens.ids]
    words = [engine.tokenizer(text)["input_ids"] for text in ("abcde", "fg", "hijklmnop")]
    spelt = [token for ids in words for token in [*ids, end]]
    assert flat == spelt
    assert [len(tokens.ids) for tokens in sequences] == [8, 8, 3]
    for tokens in sequences:
        assert tokens.counts == [n > 0 and token != end for n, token in enumerate(tokens.ids)]


def test_packing_does_not_depend_on_how_many_documents_are_tokenized_together(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"document {n} " * (n % 5 + 1) for n in range(20)]
    whole = list(packed(engine, texts, 16))
    monkeypatch.setattr("neurosteer_cli.models.residuals.DOCUMENTS_AT_ONCE", 3)
    assert list(packed(engine, texts, 16)) == whole


def test_a_long_document_is_cut_and_none_of_it_is_lost(engine: Engine) -> None:
    sequences = list(packed(engine, ["x" * 1000], 64))
    assert sum(len(tokens.ids) for tokens in sequences) == 1001
    assert torch.tensor([len(tokens.ids) for tokens in sequences]).max() == 64
