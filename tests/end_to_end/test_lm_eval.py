"""lm-evaluation-harness, over HTTP and in the process, gives what the model itself gives, steered or not."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.cli import refused, rows, run
from support.serving import served
from support.tiny import D_MODEL, tiny_vector

from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint, add
from neurosteer_cli.vectors.vector import SteeringVector, total_pushes

lm_eval = pytest.importorskip("lm_eval")

CHOICES = [" good", " bad", " so so"]
ITEMS = [("The sun is out.", 0), ("It rains.", 1), ("We won the match!", 0), ("The train left late.", 1)]
ALPHA = 40.0
TASKS: dict[str, dict[str, Any]] = {
    "moods": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{text}} I feel",
        "doc_to_choice": CHOICES,
        "doc_to_target": "label",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "echoes": {
        "output_type": "generate_until",
        "doc_to_text": "{{text}}",
        "doc_to_target": "x",
        "generation_kwargs": {"until": [*"\nabcde"], "max_gen_toks": 6, "temperature": 0},
        "metric_list": [{"metric": "exact_match"}],
    },
}


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two tasks, one of log-likelihoods and one of texts."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    folder, file = tmp_path / "tasks", tmp_path / "items.jsonl"
    folder.mkdir()
    file.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in ITEMS))
    items = {"dataset_path": "json", "dataset_kwargs": {"data_files": str(file)}, "test_split": "train"}
    for name, task in TASKS.items():
        (folder / f"{name}.yaml").write_text(json.dumps({"task": name, **items, **task}))  # JSON is YAML
    return folder


@pytest.fixture
def vector(engine: Engine) -> SteeringVector:
    push = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(5)) * 10
    return tiny_vector(engine.shape, {HookPoint(1): push})


def likelihoods(engine: Engine, vector: SteeringVector, alpha: float) -> list[list[float]]:
    """Of each item's choices, by whole passes of the model."""
    found: list[list[float]] = []
    with torch.inference_mode(), add(engine.blocks, total_pushes([vector], [alpha]) if alpha else {}):
        for text, _ in ITEMS:
            prompt = engine.prompt_ids(f"{text} I feel")
            rows = [prompt + engine.prompt_ids(choice) for choice in CHOICES]
            logits = [engine.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1) for ids in rows]
            found.append(
                [
                    sum(float(of[i - 1, ids[i]]) for i in range(len(prompt), len(ids)))
                    for of, ids in zip(logits, rows, strict=True)
                ]
            )
    return found


def accuracies(engine: Engine, vector: SteeringVector, alpha: float) -> tuple[float, float]:
    """Of the most probable choice, and of the most probable a character."""
    found = likelihoods(engine, vector, alpha)
    plain = [max(range(3), key=of.__getitem__) for of in found]
    normed = [max(range(3), key=lambda i: of[i] / len(CHOICES[i])) for of in found]  # noqa: B023
    right = [label for _, label in ITEMS]
    return tuple(sum(a == b for a, b in zip(each, right, strict=True)) / 4 for each in (plain, normed))  # type: ignore[return-value]


def test_the_command_runs_a_task_at_each_alpha(
    tasks: Path, tmp_path: Path, tiny_folder: Path, engine: Engine, vector: SteeringVector
) -> None:
    vector.save(tmp_path / "v.st")
    asked = ["eval", "--vector", str(tmp_path / "v.st"), "--model", str(tiny_folder), "--dtype", "float32"]
    found = rows(run(*asked, "--alpha", f"0,{ALPHA:g}", "--lm-eval", "moods",
                     "--lm-eval-include", str(tasks), "--json"))  # fmt: skip
    told = {(row["alphas"][0], row["metric"]): (row["value"], row["n"]) for row in found}
    for alpha in (0.0, ALPHA):
        acc, normed = accuracies(engine, vector, alpha)
        assert told[alpha, "acc"] == (acc, 4)
        assert told[alpha, "acc_norm"] == (normed, 4)


@pytest.fixture
def harness(tiny_folder: Path, engine: Engine, vector: SteeringVector) -> Iterator[Any]:
    """A function that runs a task over HTTP, and gives what was found and each item's answers."""
    with served(engine, {"v": vector}) as (address, _):

        def evaluated(task: str, folder: Path, alpha: float) -> Any:
            settings = {
                "model": f"tiny+v:{alpha:g}", "base_url": f"{address}/v1/completions", "max_length": 128,
                "tokenizer": str(tiny_folder), "tokenizer_backend": "huggingface", "num_concurrent": 2,
            }  # fmt: skip
            manager = lm_eval.tasks.TaskManager(include_path=str(folder))
            return lm_eval.simple_evaluate(
                "local-completions", model_args=settings, tasks=[task], task_manager=manager, batch_size=3
            )

        yield evaluated


@pytest.mark.parametrize("alpha", [0.0, ALPHA])
def test_log_likelihoods_over_http_are_the_models_own(
    harness: Any, tasks: Path, engine: Engine, vector: SteeringVector, alpha: float
) -> None:
    found = harness("moods", tasks, alpha)
    for sample, expected in zip(found["samples"]["moods"], likelihoods(engine, vector, alpha), strict=True):
        told = [float(answer[0][0]) for answer in sample["resps"]]
        assert told == pytest.approx(expected, abs=1e-3)
    acc, normed = accuracies(engine, vector, alpha)
    assert found["results"]["moods"]["acc,none"] == acc
    assert found["results"]["moods"]["acc_norm,none"] == normed


def test_texts_over_http_end_at_any_number_of_stops(harness: Any, tasks: Path) -> None:
    found = harness("echoes", tasks, ALPHA)
    texts = [sample["resps"][0][0] for sample in found["samples"]["echoes"]]
    assert len(texts) == len(ITEMS)
    assert all(not set(text) & set("\nabcde") for text in texts)


def test_what_does_not_go_with_tasks_is_refused(tmp_path: Path, vector: SteeringVector) -> None:
    vector.save(tmp_path / "v.st")
    asked = ("eval", "--vector", str(tmp_path / "v.st"), "--lm-eval", "moods")
    assert refused(*asked, "--judge", "sentiment") == (
        "error: --judge does not go with --lm-eval, which writes no texts"
    )
    assert refused(*asked, "-n", "2") == "error: -n does not go with --lm-eval, which writes no texts"
    assert refused(*asked, "--lm-eval-limit", "0") == "error: --lm-eval-limit must be at least 1, got 0"


def test_an_unknown_task_is_named(tmp_path: Path, tiny_folder: Path, vector: SteeringVector) -> None:
    vector.save(tmp_path / "v.st")
    asked = ("eval", "--vector", str(tmp_path / "v.st"), "--model", str(tiny_folder))
    assert refused(*asked, "--lm-eval", "nosuch") == (
        "error: --lm-eval nosuch: no task of the harness; `lm-eval ls tasks` lists them"
    )
