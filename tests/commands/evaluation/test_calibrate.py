"""calibrate as a user runs it, and what the alphas it recommends are to gen and inspect."""

from pathlib import Path

import pytest
from support.cli import refused, rows, run

from neurosteer_cli.vectors.metadata import Calibration
from neurosteer_cli.vectors.vector import SteeringVector

JUDGE = ("--judge", "regex:[a-m]")
SHORT = ("--max-new-tokens", "6")
EVAL = ("eval", "-v", "v.st", "--alpha", "-20,20", "--prompts", "prompts.jsonl", *SHORT)


@pytest.fixture
def calibrated(tmp_path: Path, folder: Path) -> Path:
    path = tmp_path / "v.st"
    path.write_bytes((folder / "v.st").read_bytes())
    run("calibrate", str(path), "--prompts", "prompts.jsonl", *JUDGE, *SHORT, "--alpha", "-200,-100,100,200",
        "--max-ppl-ratio", "1000", "-n", "4")  # fmt: skip
    return path


def calibration_of(path: Path) -> Calibration:
    found = SteeringVector.load(path).metadata.calibration
    assert found is not None
    return found


def test_calibrate_keeps_curve_judge_and_recommendation(calibrated: Path, folder: Path) -> None:
    found = calibration_of(calibrated)
    assert (found.judge, found.n_prompts, found.n, found.max_ppl_ratio) == ("regex:[a-m]", 5, 4, 1000)
    assert [point.alpha for point in found.curve] == [-200, -100, 0, 100, 200]
    assert found.generation["max_new_tokens"] == 6
    expected = [point.expected_rate for point in found.curve]
    assert expected == sorted(expected) or expected == sorted(expected, reverse=True)
    assert [p.rate for p in found.curve if p.alpha == 0] == [
        row["judges"]["regex:[a-m]"]["rate"]["value"]
        for row in rows(run(*EVAL, *JUDGE, "-n", "4", "--no-random", "--json"))
        if row["baseline"] == "unsteered"
    ]
    before, after = SteeringVector.load(folder / "v.st"), SteeringVector.load(calibrated)
    assert {str(k): v.tolist() for k, v in before.pushes.items()} == {
        str(k): v.tolist() for k, v in after.pushes.items()
    }


def test_calibrate_writes_the_calibration_as_json(calibrated: Path, tmp_path: Path) -> None:
    result = run("calibrate", str(calibrated), "--prompts", "prompts.jsonl", *JUDGE, *SHORT, "--alpha", "9",
                 "--report", str(tmp_path / "c.html"), "--json")  # fmt: skip
    (record,) = rows(result)
    assert record["vector"] == str(calibrated)
    assert [point["alpha"] for point in record["curve"]] == [0, 9]
    assert (tmp_path / "c.html").read_text().count("</html>") == 1


def test_of_several_models_the_highest_ratio_decides(tmp_path: Path, folder: Path) -> None:
    found = {}
    for models in (("tiny",), ("second",), ("tiny", "second")):
        path = tmp_path / f"{len(found)}.st"
        path.write_bytes((folder / "v.st").read_bytes())
        asked = [word for model in models for word in ("--ppl-model", model)]
        run("calibrate", str(path), "--prompts", "prompts.jsonl", *JUDGE, *SHORT, "--alpha", "-200,200",
            "--max-ppl-ratio", "1000", *asked)  # fmt: skip
        found[models] = calibration_of(path)
        shown = run("inspect", str(path)).output
        assert (" by tiny" in shown or " by second" in shown) == (len(models) == 2)
    both = found["tiny", "second"]
    assert both.ppl_models == [str(folder / "tiny"), str(folder / "second")]
    for point, *single in zip(both.curve, found["tiny",].curve, found["second",].curve, strict=True):
        highest = max(single, key=lambda one: one.perplexity_ratio)
        assert (point.perplexity_ratio, point.ppl_model) == (highest.perplexity_ratio, highest.ppl_model)
        assert point.diversity == single[0].diversity


def test_gen_takes_the_recommended_alpha(calibrated: Path) -> None:
    found = calibration_of(calibrated)
    for text, alpha in (("auto", found.alpha_up), ("-auto", found.alpha_down)):
        if alpha is None:
            message = refused("gen", "-v", str(calibrated), f"--alpha={text}", "a", *SHORT)
            assert "calibration found no alpha" in message
        else:
            (record,) = rows(run("gen", "-v", str(calibrated), f"--alpha={text}", "a", *SHORT, "--json"))
            assert record["alpha"] == alpha


def test_gen_takes_the_alpha_of_a_level(calibrated: Path) -> None:
    found = calibration_of(calibrated)
    levels = sorted(point.expected_rate for point in found.allowed())
    middle = (levels[0] + levels[-1]) / 2
    assert levels[0] < levels[-1]
    (record,) = rows(run("gen", "-v", str(calibrated), "--level", str(middle), "a", *SHORT, "--json"))
    assert record["alpha"] == found.alpha_at(middle)
    if levels[-1] < 1:
        message = refused("gen", "-v", str(calibrated), "--level", "1", "a", *SHORT)
        assert "a rate of 100% by judge 'regex:[a-m]' is out of reach" in message


def test_inspect_shows_a_calibration(calibrated: Path) -> None:
    shown = run("inspect", str(calibrated))
    assert "calibrated by regex:[a-m] on 5 prompts" in shown.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("calibrate", "v.st"), "calibrate needs one judge: --judge NAME, or --judge-data POS NEG"),
        (("calibrate", "v.st", *JUDGE, "--max-ppl-ratio", "0.5"), "--max-ppl-ratio must be at least 1"),
        (("calibrate", "v.st", *JUDGE, "--max-ppl-ratio", "nan"), "--max-ppl-ratio must be at least 1"),
        (("calibrate", "v.st", *JUDGE, "--max-ppl-ratio", "inf"), "--max-ppl-ratio must be at least 1 and"),
        (("calibrate", "absent.st", *JUDGE), "absent.st: no such file"),
        (("gen", "-v", "v.st", "--alpha", "auto", "a"), "v.st is not calibrated: run `neurosteer calibrate"),
        (("gen", "-v", "v.st", "--level", "0.5", "a"), "v.st is not calibrated"),
        (("gen", "-v", "v.st", "--level", "1.5", "a"), "--level must be between 0 and 1, got 1.5"),
        (("gen", "-v", "v.st", "--level", "0.5", "--alpha", "3", "a"), "--level and --alpha both say"),
        (("gen", "--level", "0.5", "a"), "--level needs exactly one --vector"),
    ],
)  # fmt: skip
def test_bad_input_is_named(arguments: tuple[str, ...], message: str) -> None:
    assert message in refused(*arguments)
