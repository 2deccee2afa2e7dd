"""Statistics over latents, against numpy and scipy over everything at once, and by hand."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import ttest_ind
from torch import Tensor

from neurosteer_cli.errors import InputError
from neurosteer_cli.vectors.fitting.statistics import (
    LatentStats,
    MeanStats,
    PairStats,
    TextFold,
    auroc,
    fold,
    select_by_frequency,
    select_by_t,
    text_means,
    welch_t,
)

D_SAE = 12


class Sample:
    """Token activations of texts of unequal length, and their statistics added in two parts."""

    def __init__(self, seed: int, n_texts: int, shift: float = 0.0) -> None:
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.randint(1, 9, (n_texts,), generator=generator)
        self.texts = [(torch.randn(int(n), D_SAE, generator=generator) + shift).relu() for n in lengths]
        self.means = torch.stack([text.double().mean(0) for text in self.texts]).numpy()
        self.tokens = torch.cat(self.texts).double().numpy()
        self.stats = LatentStats.empty(D_SAE)
        half = n_texts // 2
        for part in (self.texts[:half], self.texts[half:]):
            owner = torch.cat([torch.full((len(text),), i) for i, text in enumerate(part)])
            self.stats.add(fold(torch.cat(part), owner, len(part)))


@pytest.fixture(scope="module")
def positive() -> Sample:
    return Sample(1, 11, shift=0.2)


@pytest.fixture(scope="module")
def negative() -> Sample:
    return Sample(2, 17)


def of_texts(means: list[list[float]]) -> LatentStats:
    """Statistics of texts of one token each, [n_texts, d_sae]."""
    activations = torch.tensor(means)
    stats = LatentStats.empty(activations.shape[1])
    stats.add(fold(activations, torch.arange(len(means)), len(means)))
    return stats


# --- folding -----------------------------------------------------------------------------------


def test_folding_sums_and_counts_over_the_tokens_of_each_text() -> None:
    activations = torch.tensor([[1.0, 0.0], [2.0, 5.0], [4.0, 0.0], [0.0, 3.0]])
    folded = fold(activations, torch.tensor([0, 1, 0, 1]), 2)
    assert folded.sums.tolist() == [[5.0, 0.0], [2.0, 8.0]]
    assert folded.fired.tolist() == [[2.0, 0.0], [1.0, 2.0]]
    assert folded.lengths.tolist() == [2, 2]


def test_folds_of_parts_of_a_batch_add_up_to_the_fold_of_the_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    activations = torch.randn(20, D_SAE, generator=generator).relu()
    owner = torch.randint(5, (20,), generator=generator)
    whole = fold(activations, owner, 5)
    parts = [fold(activations[p], owner[p], 5) for p in (slice(0, 7), slice(7, 20))]
    for name, together in whole._asdict().items():
        torch.testing.assert_close(getattr(parts[0], name) + getattr(parts[1], name), together)


# --- running statistics ------------------------------------------------------------------------


def test_statistics_per_text_are_those_of_numpy(positive: Sample) -> None:
    stats = positive.stats
    assert (stats.n_texts, stats.n_tokens) == (11, len(positive.tokens))
    np.testing.assert_allclose(stats.mean, positive.means.mean(0), rtol=1e-6)
    np.testing.assert_allclose(stats.variance, positive.means.var(0, ddof=1), rtol=1e-6)


def test_statistics_per_token_are_those_of_numpy(positive: Sample) -> None:
    np.testing.assert_allclose(positive.stats.token_mean, positive.tokens.mean(0), rtol=1e-6)
    np.testing.assert_allclose(positive.stats.firing_rate, (positive.tokens > 0).mean(0))


def test_a_long_text_weighs_as_much_as_a_short_one_per_text_but_not_per_token() -> None:
    stats = LatentStats.empty(1)
    stats.add(fold(torch.tensor([[2.0], [2.0], [2.0], [0.0]]), torch.tensor([0, 0, 0, 1]), 2))
    assert float(stats.mean) == 1.0
    assert float(stats.token_mean) == 1.5
    assert float(stats.firing_rate) == 0.75


def test_sums_of_statistics_are_the_statistics_of_all(positive: Sample, negative: Sample) -> None:
    both = positive.stats + negative.stats
    means = np.concatenate([positive.means, negative.means])
    assert both.n_texts == 28
    np.testing.assert_allclose(both.mean, means.mean(0), rtol=1e-6)
    np.testing.assert_allclose(both.variance, means.var(0, ddof=1), rtol=1e-6)
    assert positive.stats.n_texts == 11  # left as it was


def test_the_order_of_texts_does_not_matter() -> None:
    texts = torch.randn(200, D_SAE, generator=torch.Generator().manual_seed(3)).relu()
    forwards, backwards = LatentStats.empty(D_SAE), LatentStats.empty(D_SAE)
    for text in texts:
        forwards.add(fold(text[None], torch.tensor([0]), 1))
    for text in texts.flip(0):
        backwards.add(fold(text[None], torch.tensor([0]), 1))
    torch.testing.assert_close(forwards.variance, backwards.variance, rtol=1e-12, atol=0)


def test_statistics_take_folds_of_any_device_and_precision() -> None:
    folded = TextFold(torch.ones(1, 2).half(), torch.ones(1, 2).half(), torch.tensor([2]))
    stats = LatentStats.empty(2)
    stats.add(folded)
    assert stats.mean.tolist() == [0.5, 0.5]
    assert stats.mean.dtype == torch.float64


# --- Welch's t ---------------------------------------------------------------------------------


def test_welch_t_is_that_of_scipy(positive: Sample, negative: Sample) -> None:
    expected = ttest_ind(positive.means, negative.means, equal_var=False).statistic
    np.testing.assert_allclose(welch_t(positive.stats, negative.stats), expected, rtol=1e-6)


def test_welch_t_changes_sign_with_the_sides(positive: Sample, negative: Sample) -> None:
    there = welch_t(positive.stats, negative.stats)
    torch.testing.assert_close(welch_t(negative.stats, positive.stats), -there)


@pytest.mark.parametrize(("up", "down"), [(0.0, 0.0), (2.0, 1.0), (0.1, 0.3), (0.7, 0.7)])
def test_welch_t_is_0_where_neither_side_varies(up: float, down: float) -> None:
    assert welch_t(of_texts([[up]] * 7), of_texts([[down]] * 11)).tolist() == [0.0]


@pytest.mark.parametrize(("n_up", "n_down"), [(7, 11), (11, 7), (400, 404)])
@pytest.mark.parametrize("down", [[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
def test_rounding_does_not_pass_for_variance(down: list[float], n_up: int, n_down: int) -> None:
    sides = []
    for tokens, n in (([1.0, 0.0, 0.0], n_up), (down, n_down)):  # all means are 1/3, or 2/3
        stats = LatentStats.empty(1)
        owner = torch.arange(n).repeat_interleave(3)
        stats.add(fold(torch.tensor(tokens * n)[:, None], owner, n))
        sides.append(stats)
    assert welch_t(*sides).tolist() == [0.0]


def test_welch_t_is_that_of_scipy_where_one_side_alone_varies() -> None:
    up, down = [[1.0], [2.0], [4.0]], [[0.0], [0.0]]
    expected = ttest_ind(np.array(up), np.array(down), equal_var=False).statistic
    np.testing.assert_allclose(welch_t(of_texts(up), of_texts(down)), expected, rtol=1e-6)


# --- selecting ---------------------------------------------------------------------------------

# latents: 0 alike, 1 up clearly, 2 down most clearly, 3 up faintly, 4 never fires
UP = [[1.0, 5.0, 0.0, 1.0, 0.0], [3.0, 7.0, 0.2, 5.0, 0.0], [2.0, 6.0, 0.1, 3.0, 0.0]]
DOWN = [[2.0, 1.0, 8.0, 1.0, 0.0], [1.0, 2.0, 8.2, 4.0, 0.0], [3.0, 3.0, 8.1, 1.0, 0.0]]


def test_latents_come_in_order_of_t_and_are_weighted_by_the_signed_difference_of_means() -> None:
    chosen = select_by_t(of_texts(UP), of_texts(DOWN), 3)
    assert chosen.latent_ids.tolist() == [2, 1, 3]
    torch.testing.assert_close(chosen.weights, torch.tensor([-8.0, 4.0, 1.0]))
    assert (chosen.latent_ids.dtype, chosen.weights.dtype) == (torch.int64, torch.float32)


def test_a_larger_difference_does_not_go_before_a_larger_t() -> None:
    up = [[10.0, 1.0], [30.0, 1.1], [50.0, 1.2]]
    down = [[0.0, 0.0], [20.0, 0.1], [40.0, 0.2]]
    chosen = select_by_t(of_texts(up), of_texts(down), 2)
    assert chosen.latent_ids.tolist() == [1, 0]
    torch.testing.assert_close(chosen.weights, torch.tensor([1.0, 10.0]))


def test_ties_go_to_the_lower_latent_id() -> None:
    up, down = of_texts([[3.0] * 5000, [1.0] * 5000]), of_texts([[1.0] * 5000, [0.0] * 5000])
    for select in (select_by_t, select_by_frequency):
        assert select(up, down, 100).latent_ids.tolist() == list(range(100))


def test_latents_that_do_not_differ_are_left_out_though_fewer_than_k_remain() -> None:
    assert select_by_t(of_texts(UP), of_texts(DOWN), 5).latent_ids.tolist() == [2, 1, 3]
    assert select_by_frequency(of_texts(DOWN), of_texts(UP), 5).latent_ids.tolist() == [2]


def test_the_published_selection_takes_latents_that_fire_more_often_and_turns_them_up() -> None:
    # firing rates 3/4 and 1/4, 1/4 and 3/4, 2/4 and 1/4, 1 and 1
    up = [[1.0, 0.0, 4.0, 9.0], [1.0, 0.0, 0.0, 9.0], [1.0, 0.0, 2.0, 9.0], [0.0, 8.0, 0.0, 9.0]]
    down = [[0.0, 1.0, 0.0, 1.0], [0.0, 1.0, 0.0, 1.0], [0.0, 1.0, 3.0, 1.0], [1.0, 0.0, 0.0, 1.0]]
    chosen = select_by_frequency(of_texts(up), of_texts(down), 4)
    assert chosen.latent_ids.tolist() == [0, 2]
    torch.testing.assert_close(chosen.weights, torch.tensor([0.5, 0.75]))


def test_the_published_weights_are_never_negative() -> None:
    # fires more often on the positive side, but less strongly
    up, down = [[1.0], [1.0], [0.0]], [[9.0], [0.0], [0.0]]
    chosen = select_by_frequency(of_texts(up), of_texts(down), 1)
    assert (chosen.latent_ids.tolist(), chosen.weights.tolist()) == ([0], [0.0])


def test_the_published_statistics_are_over_tokens() -> None:
    positive, negative = LatentStats.empty(1), LatentStats.empty(1)
    # 5 of 6 tokens fire; the text means alone would be 1 and 0
    positive.add(fold(torch.tensor([[1.0]] * 5 + [[0.0]]), torch.tensor([0] * 5 + [1]), 2))
    negative.add(fold(torch.tensor([[1.0], [0.0], [0.0]]), torch.tensor([0, 0, 1]), 2))
    weights = select_by_frequency(positive, negative, 1).weights
    torch.testing.assert_close(weights, torch.tensor([5 / 6 - 1 / 3]))


@pytest.mark.parametrize("select", [select_by_t, select_by_frequency])
@pytest.mark.parametrize("k", [0, -1, 6])
def test_k_out_of_range_is_refused(select: object, k: int) -> None:
    assert callable(select)
    message = f"^--top-k must be between 1 and d_sae=5, got {k}$"
    with pytest.raises(InputError, match=message):
        select(of_texts(UP), of_texts(DOWN), k)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


# --- means -------------------------------------------------------------------------------------


def test_text_means_average_each_texts_tokens() -> None:
    resid = torch.tensor([[1.0, 0.0], [10.0, 2.0], [3.0, 4.0], [20.0, 0.0], [2.0, 2.0]])
    means = text_means(resid, torch.tensor([0, 1, 0, 1, 0]), 2)
    assert means.tolist() == [[2.0, 2.0], [15.0, 1.0]]


def test_text_means_of_batches_of_any_order_are_those_of_each_text(generator: torch.Generator) -> None:
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


# --- pairs -------------------------------------------------------------------------------------


def test_the_first_component_is_the_first_right_singular_vector(generator: torch.Generator) -> None:
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


def by_counting(positive: Tensor, negative: Tensor) -> float:
    """Every pair looked at: 1 for a win, a half for a tie."""
    pairs = [(float(p), float(n)) for p in positive for n in negative]
    return sum(1.0 if p > n else 0.5 if p == n else 0.0 for p, n in pairs) / len(pairs)


def test_auroc_is_the_share_of_pairs_won() -> None:
    assert auroc(torch.tensor([3.0, 1.0]), torch.tensor([0.0, 2.0, 4.0])) == (2 + 1) / 6


def test_ties_count_half() -> None:
    assert auroc(torch.tensor([1.0]), torch.tensor([0.0, 1.0, 2.0])) == 0.5
    assert auroc(torch.ones(3), torch.ones(5)) == 0.5


@pytest.mark.parametrize("seed", range(5))
def test_auroc_equals_a_count_of_all_pairs(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    positive = torch.randint(8, (17,), generator=generator).double()  # many ties
    negative = torch.randint(6, (23,), generator=generator).double()
    assert auroc(positive, negative) == pytest.approx(by_counting(positive, negative), abs=1e-15)
    swapped = auroc(negative, positive)
    assert auroc(positive, negative) + swapped == pytest.approx(1, abs=1e-15)


def test_auroc_is_1_and_0_where_the_sides_separate() -> None:
    low, high = torch.tensor([-3.0, -1.0]), torch.tensor([0.5, 7.0, 9.0])
    assert auroc(high, low) == 1.0
    assert auroc(low, high) == 0.0
