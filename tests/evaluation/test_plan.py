"""Plans of prompts, samples and conditions, and what their records say when they are read again."""

import json
from contextlib import nullcontext

import pytest
import torch
from support.tiny import tiny_vector

from neurosteer_cli.data.records import Located
from neurosteer_cli.evaluation.plan import Plan, random_counterpart
from neurosteer_cli.evaluation.samples import PROMPTING, UNSTEERED, Condition, samples
from neurosteer_cli.generation.generate import GenerationConfig
from neurosteer_cli.generation.prompts import Prompt
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.models.shape import ModelShape
from neurosteer_cli.vectors.vector import SteeringVector

POINTS = (HookPoint(1), HookPoint(2))


def vector(shape: ModelShape, *pushes: float) -> SteeringVector:
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
        engine, prompts, [vector(engine.shape, 0.1, 0.2)], conditions, GenerationConfig(max_new_tokens=4), n=2
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
    records: list[dict[str, object]] = []
    told: list[int] = []
    found = planned.write(lambda _label, _total: nullcontext(told.append), keep=records.append)
    assert sum(told) == len(planned.jobs) == len(records)
    by_job = sorted(records, key=lambda record: str(record["job"]))
    again = list(samples([Located("r", json.loads(json.dumps(record))) for record in by_job], "r"))
    assert again == found
    assert [sample.condition for sample in found] == [job.condition for job in planned.jobs]
    assert {sample.model for sample in found} == {planned.engine.model_id}
    assert by_job[1]["dose"] == pytest.approx(9 * (0.01 + 0.02))
    assert by_job[0]["id"] == 0


def test_jobs_that_are_done_are_not_written_again(planned: Plan) -> None:
    records: list[dict[str, object]] = []
    whole = planned.write(keep=records.append)
    kept = {int(str(record["job"])): record for record in records[:5]}
    again: list[dict[str, object]] = []
    assert planned.write(keep=again.append, kept=kept) == whole
    assert {record["job"] for record in again} == set(range(8)) - set(kept)


def test_a_random_counterpart_is_as_long_at_every_hook_point(engine: Engine) -> None:
    one, two = vector(engine.shape, 1.0, 2.0), vector(engine.shape, 3.0, 0.5)
    found = random_counterpart([one, two], [2.0, -1.0], seed=1)
    lengths = {point: float(push.norm()) for point, push in found.pushes.items()}
    assert lengths == pytest.approx({POINTS[0]: 1.0, POINTS[1]: 3.5}, rel=1e-5)
    other = random_counterpart([one, two], [2.0, -1.0], seed=2)
    assert not torch.equal(found.pushes[POINTS[0]], other.pushes[POINTS[0]])


def test_what_a_prompt_has_from_an_earlier_continuation_is_not_passed_on(engine: Engine) -> None:
    record = {"prompt": "a", "id": 7, "baseline": "random", "rendered": "x", "generations": [], "run": "r"}
    conditions = [(Condition(("v.st",), (9.0,)), (9.0,))]
    planned = Plan(
        engine, [Prompt(record, "a", [1, 2])], [vector(engine.shape, 0.1, 0.2)], conditions,
        GenerationConfig(max_new_tokens=2),
    )  # fmt: skip
    (sample,) = planned.write()
    assert (sample.condition, sample.prompt, sample.rendered) == (conditions[0][0], "a", False)
    ((_, generation),) = planned.in_order()
    kept = planned.record(0, generation)
    assert kept["id"] == 7
    assert not {"baseline", "rendered", "generations", "run"} & set(kept)
