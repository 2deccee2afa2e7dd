"""Log-probabilities of texts, and how far a push moves next-token distributions."""

import math

import pytest
import torch

from neurosteer_cli.evaluation.measures.likelihood import (
    Written,
    damage,
    likelihoods,
    log_probs,
    perplexities,
)
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.vectors.steering import Steering

PAIRS = [([5, 6, 7], [8, 9]), ([1], [2, 3, 4, 5, 6]), (list(range(40)), [41]), ([9, 9], [9])]
TEXTS = [[5, 6, 7, 8], [1, 2], list(range(30))]
POINT = HookPoint(1)


def test_log_probs_are_the_log_softmax_of_each_text_alone(engine: Engine) -> None:
    told: list[int] = []
    found = log_probs(engine, PAIRS, told.append)
    for (prompt, continuation), values in zip(PAIRS, found, strict=True):
        with torch.no_grad():
            logits = engine.model(input_ids=torch.tensor([prompt + continuation])).logits[0]
        expected = [
            float(logits[len(prompt) - 1 + i].log_softmax(-1)[token]) for i, token in enumerate(continuation)
        ]
        torch.testing.assert_close(values, torch.tensor(expected), rtol=1e-5, atol=1e-5)
    assert sum(told) == len(PAIRS)


def test_log_probs_of_nothing_written_are_none(engine: Engine) -> None:
    found = log_probs(engine, [([1, 2], []), ([1, 2], [3])])
    assert [len(values) for values in found] == [0, 1]
    assert log_probs(engine, []) == []


def test_likelihoods_are_those_of_a_text_after_its_prompt_in_nats_bits_and_bytes(engine: Engine) -> None:
    told: list[int] = []
    found = likelihoods(
        engine, [Written("to be", " or nôt", False), Written("a", "", False)], advance=told.append
    )
    ids = engine.prompt_ids("to be")
    (expected,) = log_probs(engine, [(ids, engine.continuation_ids("to be", ids, " or nôt", rendered=False))])
    assert found.bits == [pytest.approx(-float(expected.sum()) / math.log(2), rel=1e-5), None]
    assert found.means == [pytest.approx(float(expected.mean()), rel=1e-5), None]
    assert (found.n_bytes, found.n_tokens, found.n_cut) == ([8, 0], [8, 0], 0)  # a token a byte; ô has two
    assert sum(told) == 2


def test_of_a_text_that_is_cut_the_bytes_that_are_read_count(engine: Engine) -> None:
    (n_bytes,) = likelihoods(engine, [Written("a", "é" * 100, False)]).n_bytes
    assert (
        engine.max_tokens == 128 and n_bytes == 2 * 63 + 3
    )  # half a letter is decoded as one of three bytes
    (n_bytes,) = likelihoods(engine, [Written("a", "b" * 300, False)]).n_bytes
    assert n_bytes == 127


def test_perplexities_are_those_of_the_continuations_alone(engine: Engine) -> None:
    found = perplexities(engine, "to be", [" or not", "", " or not"])
    prompt = engine.prompt_ids("to be")
    (expected,) = log_probs(
        engine, [(prompt, engine.continuation_ids("to be", prompt, " or not", rendered=False))]
    )
    assert found == [pytest.approx(math.exp(-float(expected.double().mean()))), None, found[0]]


def test_no_push_does_no_damage(engine: Engine) -> None:
    assert damage(engine, TEXTS, [Steering(), Steering({POINT: torch.zeros(engine.d_model)})]) == [0.0, 0.0]


def test_damage_is_the_mean_divergence_over_all_positions_but_the_first(engine: Engine) -> None:
    push = torch.randn(engine.d_model, generator=torch.Generator().manual_seed(3))
    told: list[int] = []
    (found,) = damage(engine, TEXTS, [Steering({POINT: push})], told.append)
    divergences = []
    for ids in TEXTS:
        tokens = torch.tensor([ids])
        with torch.no_grad():
            q = engine.model(input_ids=tokens).logits[0, 1:].double().softmax(-1)
            block = engine.blocks[POINT.layer]
            handle = block.register_forward_hook(lambda _block, _args, output: output + push)
            p = engine.model(input_ids=tokens).logits[0, 1:].double().softmax(-1)
            handle.remove()
        divergences += (p * (p.log() - q.log())).sum(-1).tolist()
    assert len(divergences) == 3 + 1 + 29
    torch.testing.assert_close(found, sum(divergences) / len(divergences), rtol=1e-5, atol=1e-7)
    assert found > 0
    assert sum(told) == len(TEXTS)
