"""What is written and compared: jobs, records read again, conditions in their order, runs known again."""

import json
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from support.tiny import tiny_vector

from neurosteer_cli.data.records import Located
from neurosteer_cli.errors import InputError
from neurosteer_cli.evaluation.calibrate import calibrate
from neurosteer_cli.evaluation.evaluate import evaluate
from neurosteer_cli.evaluation.judges.load import load_judge
from neurosteer_cli.evaluation.runs import comparison as runs
from neurosteer_cli.evaluation.runs.comparison import (
    Comparison,
    Plan,
    named_vectors,
    random_counterpart,
    recorded,
)
from neurosteer_cli.evaluation.runs.samples import PROMPTING, RANDOM, UNSTEERED, Condition, samples
from neurosteer_cli.generation.continuation import GenerationConfig
from neurosteer_cli.generation.prompts import Prompt
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.models.shape import ModelShape
from neurosteer_cli.vectors.vector import SteeringVector

PROMPTS = [Located(f"prompt {n}", {"prompt": f"number {n}"}) for n in range(3)]
POINTS = (HookPoint(1), HookPoint(2))


def vector_of(shape: ModelShape, *pushes: float) -> SteeringVector:
    """A vector with pushes of these lengths, one a hook point."""
    directions = [torch.full((shape.d_model,), length / shape.d_model**0.5) for length in pushes]
    return tiny_vector(shape, dict(zip(POINTS, directions, strict=True)))


@pytest.fixture
def planned(engine: Engine) -> Plan:
    """Two prompts, twice, unsteered and steered."""
    prompts = [
        Prompt({"prompt": text, "id": n}, text, engine.prompt_ids(text)) for n, text in enumerate("ab")
    ]
    conditions = [
        (Condition(("v.st",), (0.0,), "all", UNSTEERED), (0.0,)),
        (Condition(("v.st",), (9.0,)), (9.0,)),
    ]
    return Plan(
        engine,
        prompts,
        [vector_of(engine.shape, 0.1, 0.2)],
        conditions,
        GenerationConfig(max_new_tokens=4),
        n=2,
    )


def test_a_plan_is_every_prompt_sample_and_condition(planned: Plan) -> None:
    assert [(job.prompt.shown, job.sample, job.condition.alpha) for job in planned.jobs] == [
        (prompt, sample, alpha) for prompt in "ab" for sample in (0, 1) for alpha in (0.0, 9.0)
    ]


def test_instructed_prompts_are_read_in_the_prompting_condition_only(engine: Engine) -> None:
    prompts = [Prompt({"prompt": "a"}, "a", [1])]
    instructed = [Prompt({"prompt": "a"}, "a", [7, 8])]
    conditions = [(Condition(), ()), (Condition(baseline=PROMPTING), ())]
    jobs = Plan(engine, prompts, [], conditions, GenerationConfig(), instructed=instructed).jobs
    assert [job.ids for job in jobs] == [[1], [7, 8]]
    assert jobs[0].key == jobs[1].key  # the same noise


def test_records_read_again_are_what_was_written(planned: Plan) -> None:
    told: list[int] = []
    records = dict(planned.records(lambda _label, _total: nullcontext(told.append)))
    assert sum(told) == len(planned.jobs) == len(records)
    found = planned.samples(records)
    by_job = [records[number] for number in range(len(planned.jobs))]
    again = list(samples([Located("r", json.loads(json.dumps(record))) for record in by_job], "r"))
    assert again == found
    assert [sample.condition for sample in found] == [job.condition for job in planned.jobs]
    assert {sample.model for sample in found} == {planned.engine.model_id}
    assert by_job[1]["dose"] == pytest.approx(9 * (0.01 + 0.02))
    assert by_job[0]["id"] == 0


def test_jobs_that_are_done_are_not_written_again(planned: Plan) -> None:
    whole = dict(planned.records())
    done = [*whole][:5]
    again = dict(planned.records(done=done))
    assert set(again) == set(range(8)) - set(done)
    assert all(again[number] == whole[number] for number in again)


def test_a_random_counterpart_is_as_long_at_every_hook_point(engine: Engine) -> None:
    one, two = vector_of(engine.shape, 1.0, 2.0), vector_of(engine.shape, 3.0, 0.5)
    found = random_counterpart([one, two], (2.0, -1.0), seed=1)
    lengths = {point: float(push.norm()) for point, push in found.pushes.items()}
    assert lengths == pytest.approx({POINTS[0]: 1.0, POINTS[1]: 3.5}, rel=1e-5)
    other = random_counterpart([one, two], (2.0, -1.0), seed=2)
    assert not torch.equal(found.pushes[POINTS[0]], other.pushes[POINTS[0]])


def test_what_a_prompt_has_from_an_earlier_continuation_is_not_passed_on(engine: Engine) -> None:
    record = {"prompt": "a", "id": 7, "baseline": "random", "rendered": "x", "generations": [], "run": "r"}
    conditions = [(Condition(("v.st",), (9.0,)), (9.0,))]
    planned = Plan(
        engine, [Prompt(record, "a", [1, 2])], [vector_of(engine.shape, 0.1, 0.2)], conditions,
        GenerationConfig(max_new_tokens=2),
    )  # fmt: skip
    (sample,) = planned.samples(dict(planned.records()))
    assert (sample.condition, sample.prompt, sample.rendered) == (conditions[0][0], "a", False)
    ((_, generation),) = planned.in_order()
    kept = planned.record(0, generation)
    assert kept["id"] == 7
    assert not {"baseline", "rendered", "generations", "run"} & set(kept)


@pytest.fixture
def vector(engine: Engine) -> SteeringVector:
    push = torch.zeros(engine.d_model)
    push[0] = 0.01
    return tiny_vector(engine.shape, {HookPoint(2): push})


def comparison(vector: SteeringVector, **options: object) -> Comparison:
    config = GenerationConfig(max_new_tokens=4)
    alphas = [(-9.0,), (0.0,), (8.0,), (9.0,)]
    return Comparison(vectors=[("v", vector)], alphas=alphas, config=config, **options)  # type: ignore[arg-type]


def test_conditions_are_those_given_then_random_counterparts_then_prompting(
    engine: Engine, vector: SteeringVector
) -> None:
    plan = comparison(vector, instruction="be kind").plan(engine, PROMPTS)
    assert [(job.condition.alpha, job.condition.baseline) for job in plan.jobs[:7]] == [
        (-9, None),
        (0, UNSTEERED),
        (8, None),
        (9, None),
        (-9, RANDOM),
        (9, RANDOM),
        (0, PROMPTING),
    ]
    assert [job.alphas for job in plan.jobs[3:7]] == [(9, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0)]
    read = [engine.decode([], job.ids) for job in plan.jobs[:7]]
    assert read == ["number 0"] * 6 + ["be kind\nnumber 0"]


@pytest.mark.parametrize(("instruction", "n"), [(None, 1), ("be kind", 2)])
def test_prompts_are_tokenized_once_and_once_more_with_an_instruction(
    engine: Engine, vector: SteeringVector, monkeypatch: pytest.MonkeyPatch, instruction: str, n: int
) -> None:
    tokenize = Mock(wraps=runs.tokenize)
    monkeypatch.setattr(runs, "tokenize", tokenize)
    comparison(vector, instruction=instruction).plan(engine, PROMPTS)
    assert tokenize.call_count == n


def test_of_several_vectors_only_the_strongest_condition_gets_a_counterpart(
    engine: Engine, vector: SteeringVector
) -> None:
    several = Comparison(vectors=[("v", vector)] * 2, alphas=[(0, 0), (1, 5), (5, 5), (5, -5)])
    baselines = [job.condition for job in several.plan(engine, PROMPTS[:1]).jobs]
    assert [(c.alpha, c.baseline) for c in baselines if c.baseline == RANDOM] == [([5, 5], RANDOM)]


def test_the_counterpart_of_vectors_at_different_blocks_is_as_strong_as_they_are(engine: Engine) -> None:
    late, early = (
        tiny_vector(engine.shape, {HookPoint(layer): torch.full((engine.d_model,), 0.1)}, resid_norm=norm)
        for layer, norm in ((2, 10.0), (1, 4.0))
    )
    both = Comparison(
        vectors=[("late", late), ("early", early)],
        alphas=[(0, 0), (5, 1), (5, 2)],
        config=GenerationConfig(max_new_tokens=2),
    )
    samples = both.write(engine, PROMPTS[:1]).samples
    doses = {(str(sample.condition.alpha), sample.condition.baseline): sample.dose for sample in samples}
    assert doses["[5.0, 2.0]", RANDOM] == pytest.approx(0.4 * (5 / 10 + 2 / 4))  # each push is 0.4 long
    assert doses["[5.0, 2.0]", RANDOM] == pytest.approx(doses["[5.0, 2.0]", None])


def test_a_run_is_scored_and_calibrated_without_a_command(engine: Engine, vector: SteeringVector) -> None:
    run = comparison(vector, random=False, n=2).write(engine, PROMPTS)
    assert len(run.samples) == 3 * 2 * 4
    assert {condition.alpha for condition in run.steerings} == {-9, 8, 9}
    evaluation = evaluate(run, [load_judge("regex:.")])
    assert evaluation.title == f"v on {engine.model_id}"
    assert [result.condition.alpha for result in evaluation.results] == [-9, 0, 8, 9]
    assert evaluation.provenance["n_prompts"] == evaluation.n_prompts == 3
    calibration = calibrate(evaluation, 1000)
    assert [point.alpha for point in calibration.curve] == [-9, 0, 8, 9]
    assert (calibration.alpha_up, calibration.n, calibration.n_prompts) == (None, 2, 3)  # all rates are 1


def test_a_run_goes_on_with_what_it_kept_and_with_nothing_else(
    engine: Engine, vector: SteeringVector, tmp_path: Path
) -> None:
    save, told = tmp_path / "kept.jsonl", []  # type: ignore[var-annotated]
    whole = comparison(vector).write(engine, PROMPTS, save=save)
    kept = save.read_text().splitlines(keepends=True)
    save.write_text("".join(kept[:5]) + '{"job": 9, "tex')  # a kill in the middle of a line
    again = comparison(vector).write(engine, PROMPTS, save=save, resume=True, say=told.append)
    assert again.samples == whole.samples
    assert told == [f"{save}: 5 continuations are there already"]
    assert sorted(save.read_text().splitlines(keepends=True)) == sorted(kept)
    with pytest.raises(InputError, match=":1: not of this run; --resume needs the same model, vectors"):
        comparison(vector).write(engine, PROMPTS[:2], save=save, resume=True)
    with pytest.raises(InputError, match="there already; --resume goes on with it"):
        comparison(vector).write(engine, PROMPTS[:2], save=save)


def test_a_recorded_run_has_pushes_for_the_vectors_that_are_there(
    engine: Engine, vector: SteeringVector, tmp_path: Path
) -> None:
    vector.save(tmp_path / "v.st")
    here = Comparison(vectors=[(str(tmp_path / "v.st"), vector)], alphas=[(0,), (9,)])
    gone = comparison(vector)
    samples = [*here.write(engine, PROMPTS).samples, *gone.write(engine, PROMPTS).samples]
    told: list[str] = []
    run = recorded(engine, samples, named_vectors(samples, told.append), ["a.jsonl"])
    assert [(condition.vectors, condition.alpha) for condition in run.steerings] == [
        ((str(tmp_path / "v.st"),), 9)
    ]
    assert told[0].startswith("v: not there, so damage on neutral text is not measured")
    assert run.provenance == {"generations": ["a.jsonl"]}
