"""Running statistics over residuals, against the same taken over everything at once."""

import math
from collections.abc import Iterator

import pytest
import torch

from neurosteer_cli.data.records import Passage
from neurosteer_cli.errors import InputError
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.models.residuals import TEXTS_AT_ONCE, MedianNorm, median_norms, packed, read, usual
from neurosteer_cli.vectors.statistics import MeanStats, PairStats, text_means


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


# --- means -------------------------------------------------------------------------------------


def test_text_means_average_each_texts_tokens() -> None:
    resid = torch.tensor([[1.0, 0.0], [10.0, 2.0], [3.0, 4.0], [20.0, 0.0], [2.0, 2.0]])
    means = text_means(resid, torch.tensor([0, 1, 0, 1, 0]), 2)
    assert means.tolist() == [[2.0, 2.0], [15.0, 1.0]]


def test_text_means_of_batches_of_any_order_are_those_of_each_text(
    generator: torch.Generator,
) -> None:
    resid = torch.randn(50, 6, generator=generator)
    owner = torch.randint(4, (50,), generator=generator)
    expected = torch.stack([resid[owner == text].mean(0) for text in range(4)])
    torch.testing.assert_close(text_means(resid, owner, 4), expected)


def test_mean_stats_are_the_mean_of_all_vectors(generator: torch.Generator) -> None:
    vectors = torch.randn(30, 4, generator=generator)
    stats = MeanStats.empty(4)
    for part in vectors.split([1, 20, 9]):
        stats.add(part)
    assert stats.n == 30
    torch.testing.assert_close(stats.mean, vectors.double().mean(0))


def test_sums_of_mean_stats_are_the_stats_of_all(generator: torch.Generator) -> None:
    vectors = torch.randn(30, 4, generator=generator)
    first, second, whole = MeanStats.empty(4), MeanStats.empty(4), MeanStats.empty(4)
    first.add(vectors[:11])
    second.add(vectors[11:])
    whole.add(vectors)
    both = first + second
    assert (both.n, first.n, second.n) == (30, 11, 19)
    torch.testing.assert_close(both.mean, whole.mean)
    torch.testing.assert_close(first.mean, vectors[:11].double().mean(0))  # left as it was


def test_mean_stats_do_not_lose_small_vectors_among_large_ones() -> None:
    stats = MeanStats.empty(1)
    stats.add(torch.tensor([[1e8]]))
    for _ in range(100):
        stats.add(torch.tensor([[1.0]]))  # float32 would drop each of them
    assert float(stats.total) == 1e8 + 100


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


def test_texts_of_a_single_token_are_refused(engine: Engine) -> None:
    texts = [Passage("letters:1", "a"), Passage("letters:2", "b")]
    with pytest.raises(InputError, match="^letters: every text is a single token; nothing to measure the"):
        median_norms(engine, POINTS, texts, "letters")


# --- pairs -------------------------------------------------------------------------------------


def test_the_first_component_is_the_first_right_singular_vector(
    generator: torch.Generator,
) -> None:
    differences = torch.randn(40, 6, generator=generator) @ torch.diag(torch.arange(1.0, 7.0))
    stats = PairStats.empty(6)
    for part in differences.split(7):
        stats.add(part)
    expected = torch.linalg.svd(differences.double()).Vh[0]
    found = stats.first_component(expected)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    assert float(found.norm()) == pytest.approx(1, abs=1e-12)


def test_its_sign_is_that_of_the_direction_given() -> None:
    stats = PairStats.empty(2)
    stats.add(torch.tensor([[3.0, 0.0], [-5.0, 0.0]]))
    for sign in (1.0, -1.0):
        found = stats.first_component(torch.tensor([sign, 9.0], dtype=torch.float64))
        torch.testing.assert_close(found, torch.tensor([sign, 0.0], dtype=torch.float64))


def test_the_moment_is_not_centred() -> None:
    stats = PairStats.empty(2)
    stats.add(torch.tensor([[4.0, 1.0], [4.0, -1.0]]))  # centred, only the second axis would vary
    found = stats.first_component(torch.tensor([1.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor([1.0, 0.0], dtype=torch.float64))


def test_sums_of_pair_stats_are_the_stats_of_all(generator: torch.Generator) -> None:
    differences = torch.randn(9, 3, generator=generator)
    first, second = PairStats.empty(3), PairStats.empty(3)
    first.add(differences[:4])
    second.add(differences[4:])
    expected = differences.double().T @ differences.double()
    torch.testing.assert_close((first + second).moment, expected)


def test_lengths_of_differences_weigh_and_not_their_number() -> None:
    stats = PairStats.empty(2)
    stats.add(torch.tensor([[0.0, 1.0]] * 8))  # moment 8
    stats.add(torch.tensor([[math.sqrt(9), 0.0]]))  # moment 9
    found = stats.first_component(torch.tensor([1.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close(found.abs(), torch.tensor([1.0, 0.0], dtype=torch.float64))
