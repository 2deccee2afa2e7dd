"""Scores of continuations, against calculations by hand."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from neurosteer_cli.data.records import Passage
from neurosteer_cli.evaluation import evaluate as module
from neurosteer_cli.evaluation.evaluate import evaluate
from neurosteer_cli.evaluation.judges.judge import Scores
from neurosteer_cli.evaluation.judges.lexical import regex_judge
from neurosteer_cli.evaluation.measures.likelihood import log_probs
from neurosteer_cli.evaluation.measures.metrics import Estimate
from neurosteer_cli.evaluation.results import ConditionResult, Diversity, JudgeResult
from neurosteer_cli.evaluation.runs.comparison import Run
from neurosteer_cli.evaluation.runs.samples import RANDOM, UNSTEERED, Condition, Sample
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.vectors.steering import Steering

UNTOUCHED = Condition(("v.st",), (0.0,), "all", UNSTEERED)
STEERED = Condition(("v.st",), (8.0,))
TEXTS = {
    UNTOUCHED: {"a": [" bad", " good"], "b": [" bad", " bad"], "c": [" bad", " good"]},
    STEERED: {"a": [" good", " good"], "b": [" good good good good good", ""], "c": [" good", " good"]},
}


def sample(condition: Condition, prompt: str, number: int, text: str) -> Sample:
    return Sample(condition, prompt, False, number, text, "tiny", condition.alpha / 100)


SAMPLES = [
    sample(condition, prompt, number, text)
    for condition, prompts in TEXTS.items()
    for prompt, texts in prompts.items()
    for number, text in enumerate(texts)
]


class Forgetful:
    """A judge that has no answer for an empty text."""

    name, limits, card, warnings = "forgetful", "", {}, []  # type: ignore[var-annotated]

    def score(self, _prompts: Sequence[str], texts: Sequence[str], _advance: Any) -> Scores:
        scores = [1.0 if "good" in text else 0.0 if text else None for text in texts]
        fluency: list[float | None] = [None if score is None else 0.5 for score in scores]
        return Scores(scores, [None if s is None else s == 1 for s in scores], fluency)


def results(engine: Engine, steerings: Any = None, **options: Any) -> list[ConditionResult]:
    run = Run(engine, SAMPLES, steerings=steerings or {})
    return evaluate(run, [regex_judge("good"), Forgetful()], **options).results


def value(estimate: Estimate | None) -> float:
    assert estimate is not None
    return estimate.value


def test_a_row_a_setting_in_order_of_appearance(engine: Engine) -> None:
    unsteered, steered = results(engine)
    assert (unsteered.condition, steered.condition) == (UNTOUCHED, STEERED)
    assert (steered.n, steered.n_prompts, steered.n_empty, steered.dose) == (6, 3, 1, 0.08)


def test_rates_are_shares_of_the_answered_texts(engine: Engine) -> None:
    unsteered, steered = results(engine)
    assert value(unsteered.judges["regex:good"].rate) == 2 / 6
    assert value(steered.judges["regex:good"].rate) == 5 / 6
    assert value(steered.judges["regex:good"].rate_difference) == pytest.approx(3 / 6)
    assert value(steered.judges["forgetful"].rate) == 1.0
    assert value(steered.judges["forgetful"].fluency) == 0.5
    assert steered.judges["forgetful"].n_failed == 1
    assert steered.judges["regex:good"].fluency is None


def test_intervals_come_from_resampling_whole_prompts(engine: Engine) -> None:
    _, steered = results(engine)
    # per prompt 1, 1/2, 1: any resample's rate lies between 1/2 and 1
    rate = steered.judges["regex:good"].rate
    assert rate is not None and (rate.low, rate.high) == (0.5, 1.0)
    difference = steered.judges["regex:good"].rate_difference
    # per prompt 1/2, 1/2, 1/2: paired, it does not vary
    assert difference is not None
    assert (difference.low, difference.high) == pytest.approx((0.5, 0.5))


def test_texts_that_are_cut_for_perplexity_are_told(engine: Engine) -> None:
    samples = [sample(UNTOUCHED, "a", n, "b" * length) for n, length in enumerate((127, 128, 300))]
    warnings: list[str] = []
    found = evaluate(Run(engine, samples), warn=warnings.append).results[0]
    assert warnings == [f"2 of 3 texts were cut to the 128 tokens of {engine.model_id} for perplexity"]
    assert value(found.length) == 127


def test_perplexity_is_the_mean_over_texts_and_drops_nothing_but_empty_ones(engine: Engine) -> None:
    unsteered, steered = results(engine)
    losses = {
        condition: [
            -float(values.double().mean())
            for prompt, texts in prompts.items()
            for values in log_probs(
                engine, [(engine.prompt_ids(prompt), engine.prompt_ids(text)) for text in texts if text]
            )
        ]
        for condition, prompts in TEXTS.items()
    }
    assert [len(found) for found in losses.values()] == [6, 5]
    expected = {condition: math.exp(sum(found) / len(found)) for condition, found in losses.items()}
    assert value(unsteered.perplexity) == pytest.approx(expected[UNTOUCHED], rel=1e-5)
    assert value(steered.perplexity) == pytest.approx(expected[STEERED], rel=1e-5)
    assert value(steered.perplexity_ratio) == pytest.approx(expected[STEERED] / expected[UNTOUCHED], rel=1e-5)
    assert unsteered.perplexity_ratio == Estimate(1.0, 1.0, 1.0)


def test_another_model_can_give_the_perplexity(engine: Engine, other: Engine) -> None:
    own, others = results(engine), results(engine, ppl_models={"other": lambda: other})
    assert value(own[0].perplexity) != pytest.approx(value(others[0].perplexity), rel=0.01)
    assert others[0].perplexity == results(other)[0].perplexity


def test_of_several_models_the_highest_ratio_counts_and_says_whose_it_is(
    engine: Engine, other: Engine
) -> None:
    own, others = results(engine)[1], results(other)[1]
    models = {"other": lambda: other, engine.model_id: lambda: pytest.fail("it is there already")}
    unsteered, steered = results(engine, ppl_models=models)
    assert list(steered.models) == ["other", engine.model_id]  # as they were named
    assert steered.models == {
        "other": others.models[other.model_id],
        engine.model_id: own.models[engine.model_id],
    }
    highest = max(own, others, key=lambda one: value(one.perplexity_ratio))
    assert steered.perplexity_ratio == highest.perplexity_ratio
    assert steered.perplexity == highest.perplexity
    assert steered.ppl_model == ("other" if highest is others else engine.model_id)
    assert unsteered.ppl_model == "other"  # of equals the first
    row = steered.to_json()
    assert row["perplexity_ratio"]["value"] == value(highest.perplexity_ratio)
    assert row["ppl_model"] == steered.ppl_model and list(row["models"]) == list(steered.models)


def test_models_are_loaded_one_after_the_other_when_the_writer_is_done_with(
    engine: Engine, other: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "neutral_texts", lambda: [Passage("", "abc"), Passage("", "de")])
    done: list[str] = []
    genuine, of_damage = module.likelihoods, module.damage
    monkeypatch.setattr(
        module, "likelihoods", lambda e, *a: done.append(f"price {e.d_model}") or genuine(e, *a)
    )
    monkeypatch.setattr(module, "damage", lambda *a: done.append("damage") or of_damage(*a))

    def load(name: str) -> Engine:
        done.append(f"load {name}")
        return other

    models = {"a": lambda: load("a"), engine.model_id: lambda: engine, "b": lambda: load("b")}
    results(engine, {STEERED: Steering({HookPoint(1): torch.ones(engine.d_model)})}, ppl_models=models)
    assert done == ["price 16", "damage", "load a", "price 16", "load b", "price 16"]


def test_bits_per_byte_are_all_bits_over_all_bytes(engine: Engine) -> None:
    _, steered = results(engine)
    texts = [(prompt, text) for prompt, several in TEXTS[STEERED].items() for text in several if text]
    bits = -sum(
        float(each.double().sum())
        for each in log_probs(
            engine, [(engine.prompt_ids(prompt), engine.prompt_ids(text)) for prompt, text in texts]
        )
    ) / math.log(2)
    found = steered.models[engine.model_id]
    assert value(found.bits_per_byte) == pytest.approx(bits / sum(len(text) for _, text in texts), rel=1e-5)
    unsteered = results(engine)[0].models[engine.model_id]
    expected = value(found.bits_per_byte) / value(unsteered.bits_per_byte)
    assert value(found.bits_per_byte_ratio) == pytest.approx(expected, rel=1e-9)


def test_a_chat_is_read_as_any_text_by_a_model_that_it_was_not_rendered_for(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    genuine = module.likelihoods
    monkeypatch.setattr(
        module,
        "likelihoods",
        lambda e, texts, *a: seen.extend(text.rendered for text in texts) or genuine(e, texts, *a),
    )
    chat = Sample(UNTOUCHED, "<s>user\nhi</s>\n", True, 0, "ho", "tiny", 0.0)
    other = replace(engine, model_id="other")
    evaluate(Run(engine, [chat]), ppl_models={"other": lambda: other, engine.model_id: lambda: engine})
    assert seen == [True, False]  # its own model comes first


# --- diversity ----------------------------------------------------------------------------------


def diversity_of(unsteered: list[str], steered: list[str], engine: Engine) -> Diversity:
    """Of texts that follow a prompt each."""
    written = [(UNTOUCHED, unsteered), (STEERED, steered)]
    all_of = [sample(c, f"p{n}", 0, text) for c, texts in written for n, text in enumerate(texts)]
    first, second = evaluate(Run(engine, all_of)).results
    assert first.diversity is None and not first.is_less_diverse
    assert second.diversity is not None and second.is_less_diverse == second.diversity.is_low
    return second.diversity


PLAIN = [" ".join(f"{letter}{n}" for n in range(9)) for letter in "abcdef"]  # no pair comes twice


def test_the_same_texts_are_as_diverse(engine: Engine) -> None:
    found = diversity_of(PLAIN, PLAIN, engine)
    assert (found.distinct_2, found.new_4, found.distinct_2_across) == pytest.approx((1, 1, 1))
    assert not found.is_low


def test_texts_that_loop_are_marked(engine: Engine) -> None:
    found = diversity_of(PLAIN, ["so it is so it is so it is", *PLAIN[1:]], engine)
    # of 8 pairs 3 differ, of 6 runs of four 3: the mean of six texts
    assert found.distinct_2 == pytest.approx((5 + 3 / 8) / 6)
    assert found.new_4 == pytest.approx((5 + 3 / 6) / 6)
    assert found.is_low and found.lowest == pytest.approx((5 * 8 + 3) / 48)


def test_texts_that_all_say_the_same_are_marked_though_none_repeats_itself(engine: Engine) -> None:
    found = diversity_of(PLAIN, [PLAIN[0]] * 6, engine)
    assert (found.distinct_2, found.new_4) == pytest.approx((1, 1))
    assert found.distinct_2_across == pytest.approx(1 / 6)
    assert found.is_low


def test_texts_that_are_longer_or_more_diverse_are_not_marked(engine: Engine) -> None:
    longer = [f"{text} {text.upper()}" for text in PLAIN]
    assert not diversity_of(PLAIN, longer, engine).is_low
    looping = ["so it is so it is", *PLAIN[1:]]
    assert diversity_of(looping, PLAIN, engine).distinct_2_across > 1  # type: ignore[operator]


def test_texts_of_a_word_have_no_diversity(engine: Engine) -> None:
    found = diversity_of(["a", "b"], ["a", "c"], engine)
    assert found == Diversity(None, None, None)
    assert found.lowest is None and not found.is_low


# --- judges that agree --------------------------------------------------------------------------


def moved(low: float, high: float) -> JudgeResult:
    return JudgeResult(None, None, Estimate((low + high) / 2, low, high), None, 0)


@pytest.mark.parametrize(
    ("first", "second", "agreement"),
    [
        ((0.1, 0.3), (0.01, 0.2), "up"),
        ((-0.3, -0.1), (-0.2, -0.01), "down"),
        ((-0.1, 0.1), (-0.2, 0.01), "none"),
        ((0.1, 0.3), (-0.1, 0.2), "partly"),
        ((0.1, 0.3), (-0.2, -0.1), "apart"),
    ],
)
def test_whether_judges_agree(
    engine: Engine, first: tuple[float, float], second: tuple[float, float], agreement: str
) -> None:
    _, steered = results(engine)
    judged = replace(steered, judges={"a": moved(*first), "b": moved(*second)})
    assert judged.agreement == judged.to_json()["judges_agree"] == agreement
    assert replace(steered, judges={"a": moved(*first)}).agreement is None
    one_prompt = JudgeResult(None, None, Estimate(0.5), None, 0)  # nothing is known of how sure it is
    assert replace(steered, judges={"a": one_prompt, "b": one_prompt}).agreement == "none"
    unknown = JudgeResult(None, None, None, None, 0)
    assert replace(steered, judges={"a": moved(*first), "b": unknown}).agreement is None


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    from support.tiny import save_tiny

    return Engine.load(str(save_tiny(tmp_path_factory.mktemp("other") / "gpt2", "gpt2")), device="cpu")


def test_distinct_is_taken_over_the_continuations_of_a_prompt(engine: Engine) -> None:
    _, steered = results(engine)
    # good, good: 1/2; five times good: 1/5; good, good: 1/2
    assert value(steered.distinct_1) == pytest.approx((1 / 2 + 1 / 5 + 1 / 2) / 3)
    assert value(steered.distinct_2) == pytest.approx(1 / 4)
    assert value(steered.repetition_4) == pytest.approx(1 / 2)
    assert value(steered.length) == pytest.approx((5 * 4 + 25 + 0) / 6)  # a token a byte


def test_damage_is_measured_for_the_pushes_given(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "neutral_texts", lambda: [Passage("", "abc"), Passage("", "de")])
    push = torch.randn(engine.d_model, generator=torch.Generator().manual_seed(0))
    unsteered, steered = results(engine, steerings={STEERED: Steering({HookPoint(1): push})})
    assert unsteered.kl is None
    assert steered.kl is not None and steered.kl > 0


def test_without_an_unsteered_setting_there_are_no_differences(engine: Engine) -> None:
    only = [s for s in SAMPLES if s.condition == STEERED]
    (steered,) = evaluate(Run(engine, only), [regex_judge("good")]).results
    assert steered.perplexity_ratio is None
    assert steered.judges["regex:good"].rate_difference is None


def test_of_one_prompt_the_continuations_are_resampled(engine: Engine) -> None:
    only = [s for s in SAMPLES if s.prompt == "a"]
    unsteered, _ = evaluate(Run(engine, only), [regex_judge("good")]).results
    rate = unsteered.judges["regex:good"].rate
    assert rate is not None and (rate.low, rate.high) == (0.0, 1.0)


def test_progress_is_told_of_every_text(engine: Engine) -> None:
    from contextlib import contextmanager

    seen: dict[str, list[int]] = {}

    @contextmanager
    def progress(name: str, total: int):  # type: ignore[no-untyped-def]
        seen[name] = [total, 0]

        def advance(n: int) -> None:
            seen[name][1] += n

        yield advance

    results(engine, progress=progress)
    assert set(seen) == {"perplexity", "judge regex:good", "judge forgetful"}
    assert seen["perplexity"] == [12, 12] and seen["judge regex:good"] == [12, 12]


def test_rows_become_json_with_the_setting_first(engine: Engine) -> None:
    _, steered = results(engine)
    row = steered.to_json()
    assert list(row)[:5] == ["label", "vectors", "alpha", "positions", "baseline"]
    assert (row["label"], row["alpha"], row["n"]) == ("v +8", 8.0, 6)
    assert set(row["judges"]["regex:good"]["rate"]) == {"value", "low", "high"}


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (STEERED, "v +8"),
        (UNTOUCHED, "unsteered"),
        (Condition(("a/v.st", "w.st"), (8.0, -1.5)), "v +8, w -1.5"),
        (Condition(("v.st",), (8.0,), "prompt"), "v +8 (prompt)"),
        (Condition(("v.st",), (8.0,), "all", RANDOM), "random like v +8"),
        (Condition(("v.st",), (0.0,), "all", "prompt"), "prompting"),
        (Condition(alphas=None, source="dexperts.jsonl"), "dexperts.jsonl"),
        (Condition(alphas=None), "generations"),
    ],
)
def test_what_tables_call_a_setting(condition: Condition, expected: str) -> None:
    assert condition.label == expected
