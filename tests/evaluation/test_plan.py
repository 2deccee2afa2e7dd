"""Plans of prompts, samples and settings, and what their records say when they are read again."""

import json
from pathlib import Path

import pytest
import torch

from neurosteer_cli.data.records import Located, appending, recover
from neurosteer_cli.errors import InputError
from neurosteer_cli.evaluation.plan import Plan, plan, random_counterpart, write_all
from neurosteer_cli.evaluation.samples import PROMPTING, RANDOM, UNSTEERED, Condition, samples
from neurosteer_cli.generation.generate import GenerationConfig
from neurosteer_cli.generation.prompts import Prompt
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.models.shape import ModelShape
from neurosteer_cli.vectors.metadata import PointMetadata, VectorMetadata
from neurosteer_cli.vectors.vector import SteeringVector

POINTS = (HookPoint(1), HookPoint(2))


def vector(shape: ModelShape, *pushes: float) -> SteeringVector:
    points = {str(point): PointMetadata.without_texts(10.0) for point in POINTS}
    metadata = VectorMetadata.new("tiny", shape, "diffmean", points)
    found = {
        point: torch.full((shape.d_model,), length / shape.d_model**0.5)
        for point, length in zip(POINTS, pushes, strict=True)
    }
    return SteeringVector(metadata, found, {}, torch.zeros(0, dtype=torch.int64))


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
    return plan(
        engine,
        prompts,
        [vector(engine.shape, 0.1, 0.2)],
        conditions,
        GenerationConfig(max_new_tokens=4),
        n=2,
    )


def test_a_plan_is_every_prompt_sample_and_setting(planned: Plan) -> None:
    assert [(job.prompt.shown, job.job.sample, job.condition.alpha) for job in planned.jobs] == [
        (prompt, sample, alpha) for prompt in "ab" for sample in (0, 1) for alpha in (0.0, 9.0)
    ]


def test_instructed_prompts_are_read_in_the_prompting_setting_only(engine: Engine) -> None:
    prompts = [Prompt({"prompt": "a"}, "a", [1])]
    instructed = [Prompt({"prompt": "a"}, "a", [7, 8])]
    conditions = [(Condition(), ()), (Condition(baseline=PROMPTING), ())]
    jobs = plan(engine, prompts, [], conditions, GenerationConfig(), instructed=instructed).jobs
    assert [job.job.ids for job in jobs] == [[1], [7, 8]]
    assert jobs[0].job.key == jobs[1].job.key  # the same noise


def test_records_read_again_are_what_was_written(planned: Plan) -> None:
    records: list[dict[str, object]] = []
    told: list[int] = []
    found = write_all(planned, told.append, keep=records.append)
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
    whole = write_all(planned, lambda _n: None, keep=records.append)
    kept = {int(str(record["job"])): record for record in records[:5]}
    again: list[dict[str, object]] = []
    assert write_all(planned, lambda _n: None, keep=again.append, kept=kept) == whole
    assert {record["job"] for record in again} == set(range(8)) - set(kept)


def test_a_random_counterpart_is_as_long_at_every_hook_point(engine: Engine) -> None:
    one, two = vector(engine.shape, 1.0, 2.0), vector(engine.shape, 3.0, 0.5)
    found = random_counterpart([one, two], [2.0, -1.0], seed=1)
    lengths = {point: float(push.norm()) for point, push in found.pushes.items()}
    assert lengths == pytest.approx({POINTS[0]: 1.0, POINTS[1]: 3.5}, rel=1e-5)
    other = random_counterpart([one, two], [2.0, -1.0], seed=2)
    assert not torch.equal(found.pushes[POINTS[0]], other.pushes[POINTS[0]])


def located(**record: object) -> list[Located]:
    return [Located("f:1", record)]


def test_the_published_layout_is_read() -> None:
    found = list(samples(located(prompt={"text": "a"}, generations=[{"text": " b"}, {"text": " c"}]), "f"))
    assert [(s.prompt, s.text, s.number, s.condition) for s in found] == [
        ("a", " b", 0, Condition(alphas=None, source="f")),
        ("a", " c", 1, Condition(alphas=None, source="f")),
    ]


@pytest.mark.parametrize(
    ("record", "setting"),
    [
        ({"vectors": [], "alpha": 0.0}, Condition((), (), "all", UNSTEERED)),
        ({"vectors": ["v"], "alpha": 0}, Condition(("v",), (0.0,), "all", UNSTEERED)),
        ({"vectors": ["v"], "alpha": 8, "positions": "prompt"}, Condition(("v",), (8.0,), "prompt")),
        ({"vectors": ["v", "w"], "alpha": [8, 1]}, Condition(("v", "w"), (8.0, 1.0))),
        ({"vectors": ["v"], "alpha": 8, "baseline": "random"}, Condition(("v",), (8.0,), "all", RANDOM)),
        ({}, Condition(alphas=None, source="f")),
    ],
)
def test_a_record_says_its_setting(record: dict[str, object], setting: Condition) -> None:
    (found,) = samples(located(prompt="a", text="b", **record), "f")
    assert found.condition == setting


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "a"}, "f:1: no 'text' key"),
        ({"text": "a"}, "f:1: no 'prompt' key; records are those that `gen --json` writes"),
        ({"prompt": "a", "text": "b", "alpha": "8", "vectors": ["v"]}, "f:1: 'alpha' must be a number"),
        ({"prompt": "a", "text": "b", "alpha": [8, 1], "vectors": ["v"]}, "f:1: 1 'vectors' and 2 alphas"),
        ({"prompt": "a", "text": "b", "alpha": 8, "vectors": "v"}, "f:1: 'vectors' must be a list of names"),
        ({"prompt": "a", "text": "b", "alpha": 0, "baseline": "x"}, "f:1: 'baseline' is 'x'"),
        ({"prompt": "a", "text": "b", "sample": "1"}, "f:1: 'sample' must be a number"),
        ({"prompt": "a", "generations": []}, "f:1: 'generations' without the layout"),
        ({"prompt": {"text": "a"}, "generations": [7]}, "f:1: generation 1 is no object"),
        ({"prompt": {}, "generations": [{"text": "a"}]}, "f:1: no 'text' key"),
    ],
)
def test_a_record_of_no_known_form_is_refused(record: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        list(samples(located(**record), "f"))


def test_a_half_written_record_is_told_apart_from_whole_ones(tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"
    with appending(path) as append:
        append({"job": 0})
        append({"job": 1})
    whole = path.stat().st_size
    with path.open("a") as file:
        file.write('{"job": 2, "te')
    found, size = recover(path)
    assert [one.record for one in found] == [{"job": 0}, {"job": 1}]
    assert [one.where for one in found] == [f"{path}:1", f"{path}:2"]
    assert size == whole
    assert path.read_text().endswith('"te')  # nothing is touched


def test_nothing_is_recovered_from_nothing(tmp_path: Path) -> None:
    assert recover(tmp_path / "absent") == ([], 0)
    (tmp_path / "torn").write_text('{"jo')
    assert recover(tmp_path / "torn") == ([], 0)


def test_what_a_prompt_has_from_an_earlier_continuation_is_not_passed_on(engine: Engine) -> None:
    record = {"prompt": "a", "id": 7, "baseline": "random", "rendered": "x", "generations": [], "run": "r"}
    conditions = [(Condition(("v.st",), (9.0,)), (9.0,))]
    planned = plan(
        engine, [Prompt(record, "a", [1, 2])], [vector(engine.shape, 0.1, 0.2)], conditions,
        GenerationConfig(max_new_tokens=2),
    )  # fmt: skip
    (sample,) = write_all(planned, lambda _n: None)
    assert (sample.condition, sample.prompt, sample.rendered) == (conditions[0][0], "a", False)
    ((_, generation),) = planned.run()
    kept = planned.record(0, generation)
    assert kept["id"] == 7
    assert not {"baseline", "rendered", "generations", "run"} & set(kept)
