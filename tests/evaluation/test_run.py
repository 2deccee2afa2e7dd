"""What a notebook compares and scores: conditions in their order, known again by their making."""

from pathlib import Path

import pytest
import torch
from support.tiny import tiny_vector

from neurosteer_cli.data.records import Located
from neurosteer_cli.errors import InputError
from neurosteer_cli.evaluation.calibrate import calibrate
from neurosteer_cli.evaluation.evaluate import evaluate
from neurosteer_cli.evaluation.judges.load import load_judge
from neurosteer_cli.evaluation.run import Comparison, recorded
from neurosteer_cli.evaluation.samples import PROMPTING, RANDOM, UNSTEERED
from neurosteer_cli.generation.generate import GenerationConfig
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.vectors.vector import SteeringVector

PROMPTS = [Located(f"prompt {n}", {"prompt": f"number {n}"}) for n in range(3)]


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
    assert {condition.alpha for condition in run.pushes} == {-9, 8, 9}
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


def test_a_recorded_run_has_pushes_for_the_vectors_that_are_there(
    engine: Engine, vector: SteeringVector, tmp_path: Path
) -> None:
    vector.save(tmp_path / "v.st")
    here = Comparison(vectors=[(str(tmp_path / "v.st"), vector)], alphas=[(0,), (9,)])
    gone = comparison(vector)
    samples = [*here.write(engine, PROMPTS).samples, *gone.write(engine, PROMPTS).samples]
    told: list[str] = []
    run = recorded(engine, samples, ["a.jsonl"], told.append)
    assert [(condition.vectors, condition.alpha) for condition in run.pushes] == [
        ((str(tmp_path / "v.st"),), 9)
    ]
    assert told[0].startswith("v: not there, so damage on neutral text is not measured")
    assert run.provenance == {"generations": ["a.jsonl"]}
