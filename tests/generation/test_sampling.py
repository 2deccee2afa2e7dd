"""Choosing tokens, against transformers' own processors and the distributions asked for."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from neurosteer_cli.errors import InputError
from neurosteer_cli.generation import sampling
from neurosteer_cli.generation.sampling import (
    Sampling,
    above_min_p,
    adjusted,
    choose,
    generator,
    nucleus,
    penalize,
    uniform,
    urged,
)

D_VOCAB = 40
CHI_SQUARE_7 = 24.3  # a fair sample of 8 categories exceeds this once in a thousand times
SHAPES: dict[str, Callable[[Tensor], Tensor]] = {
    "random": lambda noise: 3 * noise,
    "flat": lambda noise: 0.01 * noise,
    "peaked": lambda noise: 15 * noise,
}


def logits_of(shape: str, batch: int = 4) -> Tensor:
    noise = torch.randn(batch, D_VOCAB, generator=torch.Generator().manual_seed(3))
    return SHAPES[shape](noise)


def dense(scores: Tensor, token_ids: Tensor) -> Tensor:
    """The candidates' logits in the order of the vocabulary, -inf for all other tokens."""
    full = torch.full((len(scores), D_VOCAB), -torch.inf)
    return full.scatter(-1, token_ids, scores)


def of_transformers(logits: Tensor, top_p: float, top_k: int) -> Tensor:
    """What transformers' generate leaves of logits: top-k first, then top-p."""
    ids = torch.zeros(len(logits), 1, dtype=torch.int64)
    if top_k:
        logits = TopKLogitsWarper(top_k)(ids, logits)
    if top_p < 1.0:
        logits = TopPLogitsWarper(top_p)(ids, logits)
    return logits


def generators(keys: list[tuple[str, int]], seed: int = 0) -> list[torch.Generator]:
    """One a key."""
    of_key = {key: generator(seed, *key) for key in keys}
    return [of_key[key] for key in keys]


def keys(n: int) -> list[tuple[str, int]]:
    return [("prompt", sample) for sample in range(n)]


# --- the candidates ----------------------------------------------------------------------------


@pytest.mark.parametrize("guess", [2, 8, 512])
@pytest.mark.parametrize("top_k", [0, 1, 5, 12, D_VOCAB, 1000])
@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_candidates_are_those_of_transformers_however_many_are_sorted_first(
    monkeypatch: pytest.MonkeyPatch, shape: str, top_p: float, top_k: int, guess: int
) -> None:
    monkeypatch.setattr(sampling, "NUCLEUS_GUESS", guess)
    logits = logits_of(shape)
    ours = dense(*nucleus(logits, top_p, top_k))
    assert torch.equal(ours, of_transformers(logits, top_p, top_k))


def test_a_flat_row_among_peaked_ones_gets_all_of_its_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "NUCLEUS_GUESS", 4)
    logits = torch.cat([logits_of("peaked", 2), logits_of("flat", 1)])
    candidates = dense(*nucleus(logits, 0.9, 0)).isfinite().sum(-1)
    alone = dense(*nucleus(logits[:2], 0.9, 0)).isfinite().sum(-1)
    assert candidates.tolist() == [*alone.tolist(), 36]  # equal shares: 36 of 40 hold 90 %
    assert alone.tolist() == [1, 1]


def test_candidates_come_most_probable_first() -> None:
    scores, token_ids = nucleus(torch.tensor([[0.0, 3.0, 1.0, 2.0]]), 0.95, 0)
    # probabilities 0.032, 0.644, 0.087, 0.237: the first three hold 0.968
    assert token_ids[0, :3].tolist() == [1, 3, 2]
    assert scores[0].tolist() == [3.0, 2.0, 1.0, -torch.inf]


def test_the_most_probable_token_is_left_whatever_top_p() -> None:
    scores, token_ids = nucleus(logits_of("flat"), 1e-9, 0)
    assert token_ids[:, 0].tolist() == logits_of("flat").argmax(-1).tolist()
    assert scores.isfinite().sum(-1).tolist() == [1, 1, 1, 1]


def test_without_bounds_every_token_is_a_candidate() -> None:
    assert torch.equal(dense(*nucleus(logits_of("random"), 1.0, 0)), logits_of("random"))


# --- repetition --------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", [0.5, 1.0, 1.3, 4.0])
def test_the_penalty_is_that_of_transformers(penalty: float) -> None:
    logits = logits_of("random")
    ids = torch.randint(D_VOCAB, (4, 9), generator=torch.Generator().manual_seed(4))
    expected = RepetitionPenaltyLogitsProcessor(penalty)(ids, logits.clone())
    assert torch.equal(penalize(logits, ids.tolist(), penalty), expected)


def test_the_penalty_lowers_positive_and_negative_logits_of_seen_tokens_alone() -> None:
    logits = torch.tensor([[2.0, -2.0, 2.0, -2.0]])
    assert penalize(logits, [[0, 1]], 2.0).tolist() == [[1.0, -4.0, 2.0, -2.0]]


def test_a_penalty_can_change_the_greedy_token() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0]])
    greedy = Sampling(temperature=0, repetition_penalty=2.0)
    assert choose(logits, generators(keys(1)), greedy, [[0]], [[]]).tolist() == [1]


# --- drawing -----------------------------------------------------------------------------------


def frequencies(logits: Tensor, settings: Sampling, n: int = 8000) -> Tensor:
    """Counts of each token among n draws from one distribution [d_vocab]."""
    noise = generators(keys(500))
    batch = logits.expand(500, -1)
    drawn = torch.cat([choose(batch, noise, settings) for _ in range(n // 500)])
    return torch.bincount(drawn, minlength=len(logits))


def chi_square(counts: Tensor, probabilities: Tensor) -> float:
    expected = counts.sum() * probabilities
    return float(((counts - expected).square() / expected).sum())


def test_sampled_frequencies_are_the_softmax() -> None:
    logits = torch.tensor([2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0, -1.5])
    counts = frequencies(logits, Sampling(temperature=1.0, top_p=1.0))
    assert chi_square(counts, logits.softmax(-1)) < CHI_SQUARE_7


def test_the_temperature_divides_the_logits() -> None:
    logits = torch.tensor([2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0, -1.5])
    counts = frequencies(logits, Sampling(temperature=2.0, top_p=1.0))
    warped = TemperatureLogitsWarper(2.0)(torch.zeros(1, 1), logits[None])[0]  # type: ignore[arg-type]
    assert chi_square(counts, warped.softmax(-1)) < CHI_SQUARE_7
    assert chi_square(counts, logits.softmax(-1)) > 10 * CHI_SQUARE_7  # the check can fail


def test_what_the_nucleus_leaves_is_drawn_in_its_proportions() -> None:
    logits = torch.log(torch.tensor([0.05, 0.4, 0.3, 0.15, 0.1]))
    counts = frequencies(logits, Sampling(temperature=1.0, top_p=0.8))
    assert counts[[0, 4]].tolist() == [0, 0]  # 0.4 + 0.3 + 0.15 reach 0.8
    assert chi_square(counts[1:4], torch.tensor([0.4, 0.3, 0.15]) / 0.85) < CHI_SQUARE_7


def test_the_nucleus_is_taken_after_the_temperature() -> None:
    logits = torch.log(torch.tensor([0.05, 0.4, 0.3, 0.15, 0.1]))
    counts = frequencies(logits, Sampling(temperature=100.0, top_p=0.8), n=1000)
    assert (counts > 0).tolist() == [False, True, True, True, True]  # nearly equal: 4/5 are left
    cold = frequencies(logits, Sampling(temperature=0.1, top_p=0.8), n=1000)
    assert cold.tolist() == [0, 1000, 0, 0, 0]


def test_temperature_0_takes_the_most_probable_token_and_draws_nothing() -> None:
    logits = logits_of("random")
    noise, untouched = generators(keys(4)), generators(keys(4))
    chosen = choose(logits, noise, Sampling(temperature=0, top_p=0.1, top_k=1))
    assert chosen.tolist() == logits.argmax(-1).tolist()
    assert torch.equal(uniform(noise, D_VOCAB), uniform(untouched, D_VOCAB))


def test_logits_of_half_precision_are_compared_in_full_precision() -> None:
    logits = logits_of("random").bfloat16()
    settings = Sampling(temperature=0.7)
    ours = choose(logits, generators(keys(4)), settings)
    assert ours.tolist() == choose(logits.float(), generators(keys(4)), settings).tolist()


# --- noise -------------------------------------------------------------------------------------


def draws(noise: list[torch.Generator], steps: int = 3) -> Tensor:
    """[steps, batch, d_vocab]"""
    return torch.stack([uniform(noise, D_VOCAB) for _ in range(steps)])


def test_a_rows_noise_does_not_depend_on_its_company() -> None:
    alone = draws(generators([("b", 1)], 7))
    together = draws(generators([("a", 0), ("b", 1), ("b", 0)], 7))
    assert torch.equal(together[:, 1], alone[:, 0])


def test_rows_of_one_key_share_their_noise() -> None:
    drawn = draws(generators([("a", 0), ("b", 0), ("a", 0)], 7))
    assert torch.equal(drawn[:, 0], drawn[:, 2])
    assert not torch.equal(drawn[:, 0], drawn[:, 1])


def test_prompt_sample_and_seed_each_change_the_noise() -> None:
    first = draws(generators([("a", 0)], 7))
    for other in (generators([("b", 0)], 7), generators([("a", 1)], 7),
                  generators([("a", 0)], 8)):  # fmt: skip
        assert not torch.equal(draws(other), first)


def test_every_step_draws_anew() -> None:
    first, second, _ = draws(generators([("a", 0)], 7))
    assert not torch.equal(first, second)


def test_rows_that_go_on_keep_their_noise() -> None:
    whole = draws(generators([("a", 0), ("b", 0), ("c", 0)], 7), steps=4)
    noise = generators([("a", 0), ("b", 0), ("c", 0)], 7)
    draws(noise, steps=2)
    assert torch.equal(draws([noise[0], noise[2]], steps=2), whole[2:, [0, 2]])


def test_uniform_numbers_lie_in_the_unit_interval_with_mean_a_half() -> None:
    drawn = uniform(generators(keys(100)), 1000)
    assert float(drawn.min()) >= 0 and float(drawn.max()) < 1
    assert float(drawn.mean()) == pytest.approx(0.5, abs=0.005)  # five standard errors


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -0.1}, "^--temperature must be a finite number >= 0, got -0.1$"),
        ({"temperature": float("nan")}, "^--temperature must be a finite number >= 0, got nan$"),
        ({"temperature": float("inf")}, "^--temperature must be a finite number >= 0, got inf$"),
        ({"top_p": 0.0}, "^--top-p must be above 0 and at most 1, got 0.0$"),
        ({"top_p": 1.1}, "^--top-p must be above 0 and at most 1, got 1.1$"),
        ({"top_p": float("nan")}, "^--top-p must be above 0 and at most 1, got nan$"),
        ({"top_k": -1}, r"^--top-k must be >= 0 \(0: no bound\), got -1$"),
        ({"repetition_penalty": 0.0}, "^--repetition-penalty must be above 0, got 0.0$"),
        ({"repetition_penalty": float("inf")}, "^--repetition-penalty must be above 0, got inf$"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Sampling(**values)  # type: ignore[arg-type]


def test_the_edges_of_the_ranges_are_allowed() -> None:
    Sampling(temperature=0, top_p=1.0, top_k=0, repetition_penalty=0.01)


# --- penalties, bias, min-p -------------------------------------------------------------------


def test_presence_and_frequency_are_taken_once_and_for_each_time() -> None:
    sampling = Sampling(presence_penalty=0.5, frequency_penalty=0.25)
    logits = logits_of("random", batch=2)
    found = adjusted(logits, sampling, prompts=[[7], [7]], written=[[3, 3, 5], []])
    expected = logits.clone()
    expected[0, 3] -= 0.5 + 2 * 0.25
    expected[0, 5] -= 0.5 + 0.25
    assert torch.equal(found, expected)  # what stands in the prompt is not penalized


def test_a_repetition_penalty_takes_prompt_and_text() -> None:
    logits = logits_of("random", batch=1)
    ids = torch.tensor([[7, 3, 3, 5]])
    found = adjusted(logits, Sampling(repetition_penalty=1.3), prompts=[[7]], written=[[3, 3, 5]])
    assert torch.equal(found, RepetitionPenaltyLogitsProcessor(1.3)(ids, logits))


def test_a_bias_is_added_to_each_row() -> None:
    logits = logits_of("random")
    found = adjusted(logits, Sampling(logit_bias=((2, 1.5), (9, -100.0))), prompts=[], written=[])
    expected = logits.clone()
    expected[:, 2] += 1.5
    expected[:, 9] -= 100.0
    assert torch.equal(found, expected)
    assert choose(logits, [], Sampling(temperature=0, logit_bias=((2, 100.0),))).tolist() == [2] * 4


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("min_p", [0.01, 0.1, 0.5, 1.0])
def test_min_p_leaves_what_transformers_leaves(shape: str, min_p: float) -> None:
    logits = logits_of(shape)
    expected = MinPLogitsWarper(min_p)(torch.zeros(4, 1, dtype=torch.int64), logits.clone())
    assert torch.equal(above_min_p(logits, min_p), expected)


def test_without_them_logits_are_as_they_were() -> None:
    logits = logits_of("random")
    assert above_min_p(logits, 0.0) is logits
    assert not Sampling().changes_logits


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"min_p": 1.5}, "--min-p must be from 0 to 1, got 1.5"),
        ({"min_p": float("nan")}, "--min-p must be from 0 to 1, got nan"),
        ({"presence_penalty": float("inf")}, "presence_penalty must be a finite number, got inf"),
        ({"frequency_penalty": float("nan")}, "frequency_penalty must be a finite number, got nan"),
        ({"logit_bias": ((-1, 1.0),)}, "logit_bias: tokens count from 0, and what is added must be finite"),
        (
            {"logit_bias": ((1, float("inf")),)},
            "logit_bias: tokens count from 0, and what is added must be finite",
        ),
    ],
)
def test_what_is_out_of_range_is_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=f"^{said}$"):
        Sampling(**given)


# --- urging ------------------------------------------------------------------------------------


def test_urged_are_tokens_of_the_nucleus_that_were_not_said() -> None:
    probs = torch.tensor([[0.5, 0.3, 0.16, 0.03, 0.01]])  # the nucleus of 0.95: the first three
    bias = torch.tensor([[0.0, 2.0, 1.0, 5.0, 5.0]])
    found = urged(probs.log(), bias, [[1]])
    # token 1 was said and is not urged again; the mean of what is left, over the nucleus: 1 * 0.16 / 0.96
    mean = 0.16 / 0.96
    expected = probs.log() + torch.tensor([[-mean, -mean, 1 - mean, 0.0, 0.0]])
    torch.testing.assert_close(found, expected)


def test_a_said_token_may_be_held_back() -> None:
    probs = torch.tensor([[0.5, 0.48, 0.02]])
    found = urged(probs.log(), torch.tensor([[-2.0, 0.0, 0.0]]), [[0, 2]])
    mean = -2 * 0.5 / 0.98
    torch.testing.assert_close(found, probs.log() + torch.tensor([[-2 - mean, -mean, 0.0]]))
