"""Typed results as the documents that pages are still made of."""

from pathlib import Path
from typing import Any

from ...evaluation.evaluate import Evaluation
from ...evaluation.layers import LayerSweep
from ...reports import pages
from ...vectors.metadata import Calibration
from .results import percent


def _opening(result: Any, judges: Any, command: str) -> dict[str, Any]:
    return {
        "title": result.title,
        "command": command,
        "facts": result.provenance,
        "judges": [
            {"name": j.name, "limits": j.limits, "facts": j.card, "warnings": j.warnings} for j in judges
        ],
    }


def evaluation_page(evaluation: Evaluation, command: str) -> str:
    row_of = {result.condition: row for row, result in enumerate(evaluation.results)}
    shown: dict[str, dict[int, dict[str, Any]]] = {}
    for number, sample in enumerate(evaluation.samples):
        if sample.prompt in shown or len(shown) < 12:
            row = row_of[sample.condition]
            scores = {judge: of_all[number] for judge, of_all in evaluation.scores.items()}
            text = {"row": row, "text": sample.text, "scores": scores}
            shown.setdefault(sample.prompt, {}).setdefault(row, text)
    samples = [{"prompt": prompt, "texts": list(texts.values())} for prompt, texts in shown.items()]
    rows = [result.to_json() for result in evaluation.results]
    opening = _opening(evaluation, evaluation.judges, command)
    return pages.evaluation_page({**opening, "rows": rows, "samples": samples, "notes": []})


def calibration_page(evaluation: Evaluation, calibration: Calibration, command: str) -> str:
    return pages.calibration_page({
        **_opening(evaluation, evaluation.judges, command),
        "rows": [result.to_json() for result in evaluation.results],
        "recommended": {"up": calibration.alpha_up, "down": calibration.alpha_down},
        "max_ppl_ratio": calibration.max_ppl_ratio,
        "expected": [{"alpha": point.alpha, "rate": point.expected_rate} for point in calibration.curve],
    })


def _layers(sweep: LayerSweep, command: str) -> dict[str, Any]:
    judges = [] if sweep.judge is None else [sweep.judge]
    return {
        **_opening(sweep, judges, command),
        "judge": sweep.judge and sweep.judge.name,
        "unsteered": None if sweep.judge is None else {"shown": percent(sweep.unsteered_rate)},
        "rows": [layer.to_json() for layer in sweep.layers],
    }


def layers_page(sweep: LayerSweep, command: str) -> str:
    return pages.layers_page(_layers(sweep, command))


def layers_plot(sweep: LayerSweep, path: Path) -> None:
    pages.layers_plot(_layers(sweep, ""), path)
