"""Best of n: what a judge likes most of what is written anyway, and what records say of it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from support.tiny import tiny_vector

from neurosteer_cli.data.records import Located
from neurosteer_cli.evaluation import best_of as module
from neurosteer_cli.evaluation.best_of import BestOf, Chosen
from neurosteer_cli.evaluation.judges.judge import Advance, Judge, Scores, Texts
from neurosteer_cli.evaluation.runs.plan import Plan
from neurosteer_cli.evaluation.runs.samples import UNSTEERED, Condition, as_sample
from neurosteer_cli.generation.continuation import GenerationConfig
from neurosteer_cli.generation.prompts import Prompt
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint

N = 5


def judge_of(measure: Callable[[str, str], float | None]) -> Judge:
    """A judge by a function of prompt and text."""

    def scores_of(prompts: Texts, texts: Texts, _advance: Advance) -> Scores:
        scores = [measure(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
        return Scores(scores, [score is not None and score > 0 for score in scores])

    return Judge("mine", "knows nothing", {}, scores_of)


LETTERS = judge_of(lambda _prompt, text: float(len(set(text))))


@pytest.fixture
def plan(engine: Engine) -> Plan:
    """Two prompts, five candidates each, unsteered and steered."""
    prompts = [
        Prompt({"prompt": text, "id": n}, text, engine.prompt_ids(text)) for n, text in enumerate("ab")
    ]
    push = torch.full((engine.shape.d_model,), 0.1)
    vector = tiny_vector(engine.shape, {HookPoint(1): push})
    conditions = [(Condition(("v.st",), (0.0,)), (0.0,)), (Condition(("v.st",), (9.0,)), (9.0,))]
    return Plan(engine, prompts, [vector], conditions, GenerationConfig(max_new_tokens=8), n=N)


def score_of(chosen: Chosen) -> float:
    assert chosen.score is not None
    return chosen.score


def of_condition(plan: Plan, found: list[Chosen], condition: Condition, prompt: str) -> list[Chosen]:
    jobs = plan.jobs
    return [
        c for c in found if jobs[c.number].condition == condition and jobs[c.number].prompt.shown == prompt
    ]


def test_what_is_kept_is_the_candidate_of_the_highest_score(plan: Plan) -> None:
    written = dict(plan.in_order())
    found = list(BestOf(judge=LETTERS).choose(plan))
    assert [(plan.jobs[c.number].prompt.shown, plan.jobs[c.number].alphas) for c in found] == [
        ("a", (0.0,)), ("a", (9.0,)), ("b", (0.0,)), ("b", (9.0,)),
    ]  # fmt: skip
    for chosen in found:
        job = plan.jobs[chosen.number]
        candidates = {
            number: len(set(written[number].text))
            for number, other in enumerate(plan.jobs)
            if (other.prompt, other.condition) == (job.prompt, job.condition)
        }
        assert len(candidates) == N
        assert (chosen.score, chosen.rank) == (max(candidates.values()), 1)
        assert chosen.completion == written[chosen.number]


def test_all_are_kept_by_rank_if_asked_in_either_direction(plan: Plan) -> None:
    for lowest in (False, True):
        found = list(BestOf(judge=LETTERS, keep=N, lowest=lowest).choose(plan))
        assert [chosen.rank for chosen in found] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5] * 2
        assert sorted(chosen.number for chosen in found) == list(range(len(plan.jobs)))
        for condition, _ in plan.conditions:
            for prompt in "ab":
                scores = [*map(score_of, of_condition(plan, found, condition, prompt))]
                assert scores == sorted(scores, reverse=not lowest)
                assert len(set(scores)) > 1


def test_some_are_kept(plan: Plan) -> None:
    some, all_ = (list(BestOf(judge=LETTERS, keep=keep).choose(plan)) for keep in (2, N))
    assert some == [chosen for chosen in all_ if chosen.rank <= 2]


def test_of_equal_scores_the_first_sample_is_kept(plan: Plan) -> None:
    for lowest in (False, True):
        found = BestOf(judge=judge_of(lambda _p, _t: 0.5), lowest=lowest).choose(plan)
        assert [plan.jobs[chosen.number].sample for chosen in found] == [0] * 4


def test_who_has_no_score_comes_last_in_either_direction(plan: Plan) -> None:
    judge = judge_of(lambda _prompt, text: None if len(text) % 2 else -1.0)
    for lowest in (False, True):
        found = list(BestOf(judge=judge, keep=N, lowest=lowest).choose(plan))
        for condition, _ in plan.conditions:
            missing = [c.score is None for c in of_condition(plan, found, condition, "a")]
            assert missing == sorted(missing)
    nobody = list(BestOf(judge=judge_of(lambda _p, _t: None)).choose(plan))
    assert [(c.score, plan.jobs[c.number].sample) for c in nobody] == [(None, 0)] * 4


def test_a_judge_gets_the_prompts_that_eval_gives_it(engine: Engine) -> None:
    seen: list[str] = []
    rendered = engine.chat([{"role": "user", "content": "hi"}], "here")
    ids = engine.prompt_ids(rendered, rendered=True)
    prompts = [
        Prompt({"prompt": "plain"}, "plain", engine.prompt_ids("plain")),
        Prompt({"messages": [{"role": "user", "content": "hi"}]}, "> hi\n", ids, rendered),
    ]
    plan = Plan(engine, prompts, [], [(Condition(), ())], GenerationConfig(max_new_tokens=2), n=2)
    judge = judge_of(lambda prompt, _text: seen.append(prompt) or 0.0)
    list(BestOf(judge=judge).choose(plan))
    assert seen == ["plain", "plain", rendered, rendered]


def test_a_record_says_how_it_was_chosen(plan: Plan) -> None:
    best_of = BestOf(judge=LETTERS, lowest=True)
    chosen = next(best_of.choose(plan))
    record = best_of.record(plan, chosen)
    assert {key: record[key] for key in [*record][-6:]} == {
        "best_of": N, "kept": 1, "rank": 1, "judge": "mine", "lowest": True, "score": chosen.score,
    }  # fmt: skip
    assert record["sample"] == plan.jobs[chosen.number].sample
    assert "lowest" not in BestOf(judge=LETTERS).record(plan, chosen)


def test_what_is_chosen_is_no_unsteered_text(plan: Plan) -> None:
    def condition(keep: int, lowest: bool = False) -> Condition:
        best_of = BestOf(judge=LETTERS, keep=keep, lowest=lowest)
        return as_sample(Located("here", best_of.record(plan, next(best_of.choose(plan))))).condition

    best, lowest, two, all_ = condition(1), condition(1, True), condition(2), condition(N)
    assert (best.baseline, best.choice, best.label) == (None, "best of 5 by mine", "best of 5 by mine")
    assert lowest.label == "lowest of 5 by mine"
    assert two.label == "best 2 of 5 by mine"
    assert (all_.baseline, all_.choice) == (UNSTEERED, None)
    steered = Condition(("v.st",), (9.0,), choice=best.choice)
    assert steered.label == "v +9, best of 5 by mine"


def test_ctrl_c_leaves_the_prompts_whose_candidates_are_all_written(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = list(BestOf(judge=LETTERS).choose(plan))
    genuine, last = Plan._generate, 2 * N + 3  # three of the second prompt's

    def interrupted(self: Plan, *arguments: Any) -> Iterator[Any]:
        yield from (each for each in sorted(dict(genuine(self, *arguments)).items()) if each[0] < last)
        raise KeyboardInterrupt

    monkeypatch.setattr(module.Plan, "_generate", interrupted)
    kept, choosing = [], BestOf(judge=LETTERS).choose(plan)
    with pytest.raises(KeyboardInterrupt):
        kept = [next(choosing), next(choosing)]
        next(choosing)
    assert kept == whole[:2]
