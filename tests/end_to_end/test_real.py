"""The embedded default model and the project's own examples, end to end. Marked `real`."""

import json
import math
import statistics
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from neurosteer_cli.cli import app
from neurosteer_cli.data.records import Passage
from neurosteer_cli.data.sources import read_records
from neurosteer_cli.evaluation.measures.likelihood import log_probs
from neurosteer_cli.generation.continuation import GenerationConfig
from neurosteer_cli.generation.generate import Completion, Job, generate
from neurosteer_cli.generation.sampling import Sampling
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.vectors.vector import SteeringVector

pytestmark = pytest.mark.real
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine.load("smollm2")


def fit(folder: Path, positive: str, negative: str, *options: str) -> tuple[SteeringVector, dict]:
    out = folder / f"{positive}.st"
    sides = [str(EXAMPLES / f"{name}.jsonl") for name in (positive, negative)]
    result = CliRunner().invoke(app, ["fit", *sides, "-o", str(out), "--json", *options])
    assert result.exit_code == 0, result.stderr
    return SteeringVector.load(out), json.loads(result.stdout)


@pytest.fixture(scope="module")
def sentiment(tmp_path_factory: pytest.TempPathFactory) -> tuple[SteeringVector, dict]:
    return fit(tmp_path_factory.mktemp("sentiment"), "happy", "sad")


def test_the_embedded_model_is_the_one_it_says_it_is(engine: Engine) -> None:
    assert (engine.shape.n_layers, engine.d_model, engine.shape.d_vocab) == (30, 576, 49152)
    ids = engine.prompt_ids("The capital of France is")
    assert engine.decode([], ids) == "The capital of France is"
    [(_, generation)] = generate(
        engine, [Job("", ids)], config=GenerationConfig(sampling=Sampling(temperature=0.0), max_new_tokens=1)
    )
    assert generation.text == " Paris"


def test_fit_reports_the_examples_as_they_are(sentiment: tuple[SteeringVector, dict]) -> None:
    vector, summary = sentiment
    metadata = vector.metadata
    assert metadata.positive is not None and metadata.negative is not None
    assert (metadata.positive.label, metadata.positive.n_texts) == ("happy", 220)
    assert (metadata.negative.label, metadata.negative.n_texts) == ("sad", 220)
    assert list(vector.pushes) == [HookPoint(14), HookPoint(17), HookPoint(20)]
    assert vector.dose(8) == pytest.approx(0.08, rel=1e-4)
    point = metadata.points["blocks.20.hook_resid_post"]
    assert point.auroc is not None and point.auroc > 0.75
    assert summary["report"]["n_held_out"] == [44, 44]
    assert summary["report"]["n_duplicates"] == 0


def test_a_sentiment_vector_moves_vader_both_ways_and_keeps_the_text_fluent(
    engine: Engine, sentiment: tuple[SteeringVector, dict]
) -> None:
    prompts = [located.record["prompt"] for located in read_records(str(EXAMPLES / "prompts.jsonl"))]
    alphas = (-10.0, 0.0, 10.0)
    rows = [
        Job(prompt, engine.prompt_ids(prompt), (alpha,), sample)
        for alpha in alphas
        for prompt in prompts
        for sample in range(6)
    ]
    settings = GenerationConfig(max_new_tokens=30, batch_size=64)
    found = dict(generate(engine, rows, [sentiment[0]], settings))
    compound = {alpha: mean_compound(rows, found, alpha) for alpha in alphas}
    fluency = {alpha: mean_perplexity(engine, rows, found, alpha) for alpha in alphas}
    shown = f"VADER {compound}, perplexity {fluency}"
    assert compound[-10.0] < compound[0.0] - 0.1, shown
    assert compound[10.0] > compound[0.0] + 0.05, shown
    assert max(fluency.values()) < 1.5 * fluency[0.0], shown


def mean_compound(rows: list[Job], found: dict[int, Completion], alpha: float) -> float:
    vader = SentimentIntensityAnalyzer()
    return statistics.mean(
        vader.polarity_scores(found[i].text)["compound"]
        for i, row in enumerate(rows)
        if row.alphas == (alpha,)
    )


def mean_perplexity(engine: Engine, rows: list[Job], found: dict[int, Completion], alpha: float) -> float:
    pairs = []
    for i, row in enumerate(rows):
        whole = engine.prompt_ids(row.key + found[i].text)
        if row.alphas == (alpha,) and len(whole) > len(row.ids):
            pairs.append((row.ids, whole[len(row.ids) :]))
    return math.exp(-statistics.mean(float(text.double().mean()) for text in log_probs(engine, pairs)))


def test_truncated_and_whole_model_see_the_same_residuals(engine: Engine) -> None:
    part = Engine.load("smollm2", points=[HookPoint(20)], head=False)
    texts = [part.tokenize(Passage("here", text)) for text in ("A short text.", "Another, a bit longer one.")]
    for ours, whole in zip(
        part.residuals(texts, [HookPoint(20)]), engine.residuals(texts, [HookPoint(20)]), strict=True
    ):
        assert torch.equal(ours.resid[HookPoint(20)], whole.resid[HookPoint(20)])


def test_the_polite_vector_makes_texts_more_polite_by_their_words(engine: Engine, tmp_path: Path) -> None:
    vector, _ = fit(tmp_path, "polite", "rude")
    lines = (EXAMPLES / "prompts.jsonl").read_text().splitlines()
    prompts = [json.loads(line)["prompt"] for line in lines]
    rows = [
        Job(prompt, engine.prompt_ids(prompt), (alpha,), sample)
        for alpha in (-15.0, 15.0)
        for prompt in prompts
        for sample in range(3)
    ]
    found = dict(generate(engine, rows, [vector], GenerationConfig(max_new_tokens=30, batch_size=96)))
    words = ("please", "thank", "appreciate", "would", "could", "kindly", "sorry", "happy to", "welcome")
    counts = {
        alpha: sum(
            any(word in found[i].text.lower() for word in words)
            for i, row in enumerate(rows)
            if row.alphas == (alpha,)
        )
        for alpha in (-15.0, 15.0)
    }
    # Of 72 each. Number types and machines write different texts: 22 to 8 in bfloat16, 16 to 8 in float32.
    assert counts[15.0] >= counts[-15.0] + 5, counts


def test_a_calibrated_level_holds_on_prompts_it_was_not_calibrated_on(
    sentiment: tuple[SteeringVector, dict], tmp_path: Path
) -> None:
    path = tmp_path / "happy.st"
    sentiment[0].save(path)
    judge = ["--judge", "sentiment"]
    run(["calibrate", str(path), *judge, "--alpha=-14,14", "--max-new-tokens", "30", "--max-ppl-ratio", "2"])
    calibration = SteeringVector.load(path).metadata.calibration
    assert calibration is not None and calibration.n_prompts == 36
    rates = [point.expected_rate for point in calibration.allowed()]
    assert rates == sorted(rates) and rates[-1] - rates[0] > 0.2, rates
    level = round((rates[0] + rates[-1]) / 2, 2)
    written = run(["gen", "-v", str(path), "--level", str(level), str(EXAMPLES / "prompts.jsonl"), "-n", "3",
                   "--max-new-tokens", "30", "--batch-size", "72", "--json"])  # fmt: skip
    (tmp_path / "written.jsonl").write_text(written)
    (row,) = map(json.loads, run(["eval", str(tmp_path / "written.jsonl"), *judge, "--json"]).splitlines())
    assert row["alpha"] == calibration.alpha_at(level)
    assert row["judges"]["sentiment"]["rate"]["value"] == pytest.approx(level, abs=0.2)


def run(arguments: list[str]) -> str:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    return result.stdout
