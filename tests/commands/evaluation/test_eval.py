"""eval, calibrate and layers as a user runs them, on a tiny random model."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.tiny import save_tiny, save_tiny_sae
from typer.testing import CliRunner, Result

from neurosteer_cli.cli import app
from neurosteer_cli.evaluation import plan as runs
from neurosteer_cli.vectors.metadata import Calibration
from neurosteer_cli.vectors.vector import SteeringVector

JUDGE = ("--judge", "regex:[a-m]")
SHORT = ("--max-new-tokens", "6")
EVAL = ("eval", "-v", "v.st", "--alpha", "-20,20", "--prompts", "prompts.jsonl", *SHORT)
ROW_KEYS = [
    "label", "vectors", "alpha", "positions", "baseline", "dose", "n", "n_prompts", "n_empty", "perplexity",
    "perplexity_ratio", "distinct_1", "distinct_2", "distinct_3", "repetition_4", "length", "kl", "judges",
]  # fmt: skip


def run(*arguments: str, **options: Any) -> Result:
    """Run a command that must succeed."""
    result = CliRunner().invoke(app, arguments, prog_name="neurosteer", **options)
    assert result.exit_code == 0, result.output or result.exc_info
    return result


def refused(*arguments: str, code: int = 2, **options: Any) -> str:
    """Run a command that must fail on purpose; what it says."""
    result = CliRunner().invoke(app, arguments, prog_name="neurosteer", **options)
    assert result.exit_code == code, result.output
    return result.stderr.splitlines()[-1]


def rows(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, a vector, prompts and generations."""
    folder = tmp_path_factory.mktemp("workshop")
    save_tiny(folder / "tiny")
    save_tiny_sae(folder / "sae")
    for name, text in (("up", "aaa bbb aab {} number {}"), ("down", "zzz yyy zzy {} number {}")):
        lines = [json.dumps({"text": text.format(name[0] * n, n)}) + "\n" for n in range(20)]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    (folder / "full.jsonl").mkdir()
    (folder / "none.jsonl").write_text('{"prompt": {"text": "a"}, "generations": []}\n')
    prompts = [json.dumps({"prompt": f"prompt {n}", "id": n}) + "\n" for n in range(5)]
    (folder / "prompts.jsonl").write_text("".join(prompts))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("NEUROSTEER_MODEL", raising=False)
        run("fit", "up.jsonl", "down.jsonl", "--model", "tiny", "--method", "diffmean", "--layer", "2",
            "-o", "v.st")  # fmt: skip
        written = run("gen", "-v", "v.st", "--alpha", "0,20", "prompts.jsonl", *SHORT, "--json")
        (folder / "written.jsonl").write_text(written.stdout)
    return folder


@pytest.fixture(autouse=True)
def in_workshop(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workshop)
    monkeypatch.delenv("NEUROSTEER_MODEL", raising=False)


# --- eval: continuations that exist ------------------------------------------------------------


def test_what_gen_writes_is_scored_a_row_a_setting() -> None:
    found = rows(run("eval", "written.jsonl", *JUDGE, "--json"))
    assert [list(row) for row in found] == [ROW_KEYS, ROW_KEYS]
    assert [(row["label"], row["alpha"], row["baseline"], row["n"]) for row in found] == [
        ("unsteered", 0.0, "unsteered", 5),
        ("v +20", 20.0, None, 5),
    ]
    assert found[0]["perplexity_ratio"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert found[0]["kl"] is None and found[1]["kl"] > 0
    assert found[1]["dose"] == pytest.approx(0.2, abs=1e-5)


def test_a_pipe_ends_in_eval(workshop: Path) -> None:
    piped = run("eval", "-", *JUDGE, "--json", input=(workshop / "written.jsonl").read_text())
    assert rows(piped) == rows(run("eval", "written.jsonl", *JUDGE, "--json"))


def test_chats_are_scored_as_the_model_read_them(tmp_path: Path) -> None:
    chat = run("gen", "-v", "v.st", "--alpha", "20", "--chat", "hello", *SHORT, "--json")
    (record,) = rows(chat)
    assert record["rendered"].startswith("<s>user\nhello")
    (tmp_path / "chat.jsonl").write_text(chat.stdout)
    plain = {key: value for key, value in record.items() if key != "rendered"}
    (tmp_path / "plain.jsonl").write_text(json.dumps(plain))
    rendered, bare = (
        rows(run("eval", str(tmp_path / name), "--json"))[0]["perplexity"]["value"]
        for name in ("chat.jsonl", "plain.jsonl")
    )
    assert rendered != pytest.approx(bare, rel=0.01)


def test_published_generations_are_scored_a_file_a_row(tmp_path: Path) -> None:
    for name, text in (("ours", " abc"), ("theirs", " xyz")):
        record = {"prompt": {"text": "a"}, "generations": [{"text": text}, {"text": text + " more"}]}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(record) + "\n")
    files = [str(tmp_path / "ours.jsonl"), str(tmp_path / "theirs.jsonl")]
    found = rows(run("eval", *files, "--model", "tiny", "--judge", "regex:abc", "--json"))
    assert [(row["label"], row["alpha"], row["n"]) for row in found] == [
        (files[0], None, 2),
        (files[1], None, 2),
    ]
    assert [row["judges"]["regex:abc"]["rate"]["value"] for row in found] == [1.0, 0.0]


def test_a_vector_that_is_gone_only_leaves_damage_unmeasured(tmp_path: Path, workshop: Path) -> None:
    text = (workshop / "written.jsonl").read_text().replace("v.st", "gone.st")
    (tmp_path / "w.jsonl").write_text(text)
    result = run("eval", str(tmp_path / "w.jsonl"), "--json")
    assert rows(result)[1]["kl"] is None
    assert "warning: gone.st: not there, so damage on neutral text is not measured" in result.stderr


# --- eval: generating --------------------------------------------------------------------------


def test_eval_generates_all_settings_and_baselines() -> None:
    found = rows(run(*EVAL, *JUDGE, "--baseline-prompt", "be nice", "-n", "2", "--json"))
    assert [(row["label"], row["baseline"], row["n"]) for row in found] == [
        ("v -20", None, 10),
        ("unsteered", "unsteered", 10),
        ("v +20", None, 10),
        ("random like v -20", "random", 10),
        ("random like v +20", "random", 10),
        ("prompting", "prompt", 10),
    ]
    assert [row["kl"] is None for row in found] == [False, True, False, False, False, True]
    assert [row["dose"] for row in found[:4]] == pytest.approx([0.2, 0, 0.2, 0.2], abs=1e-4)


def test_eval_writes_what_gen_writes(workshop: Path, tmp_path: Path) -> None:
    run(*EVAL, "--no-random", "--save", str(tmp_path / "kept.jsonl"))
    kept = [json.loads(line) for line in (tmp_path / "kept.jsonl").read_text().splitlines()]
    written = [json.loads(line) for line in (workshop / "written.jsonl").read_text().splitlines()]
    steered = {record["prompt"]: record["text"] for record in written if record["alpha"] == 20}
    assert {r["prompt"]: r["text"] for r in kept if r["alpha"] == 20} == steered
    assert len({record["run"] for record in kept}) == 1
    assert sorted(record["job"] for record in kept) == list(range(15))


def test_saved_continuations_score_the_same_again(tmp_path: Path) -> None:
    saved = str(tmp_path / "kept.jsonl")
    first = rows(run(*EVAL, *JUDGE, "--no-random", "--save", saved, "--json"))
    again = rows(run("eval", saved, *JUDGE, "--json"))
    by_label = {row["label"]: row for row in again}
    assert set(by_label) == {row["label"] for row in first}
    for row in first:
        # batches of another shape differ in the last bits
        assert by_label[row["label"]]["judges"] == row["judges"]
        assert by_label[row["label"]]["perplexity"]["value"] == pytest.approx(row["perplexity"]["value"])


def interrupted_after(count: int) -> Any:
    """`generate`, but Ctrl-C is pressed once so many rows are finished."""
    genuine = runs.generate

    def generate(*arguments: Any, **options: Any) -> Iterator[tuple[int, Any]]:
        for done, item in enumerate(genuine(*arguments, **options)):
            if done == count:
                raise KeyboardInterrupt
            yield item

    return generate


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = tmp_path / "kept.jsonl"
    whole = rows(run(*EVAL, *JUDGE, "--json"))
    with monkeypatch.context() as patch:
        patch.setattr("neurosteer_cli.evaluation.plan.generate", interrupted_after(7))
        result = CliRunner().invoke(app, [*EVAL, *JUDGE, "--save", str(saved)])
        assert result.exit_code == 130
    assert len(saved.read_text().splitlines()) == 7
    with saved.open("a") as file:
        file.write('{"job": 9, "tex')  # a kill in the middle of a line
    resumed = run(*EVAL, *JUDGE, "--save", str(saved), "--resume", "--json")
    assert f"{saved}: 7 continuations are there already" in resumed.stderr
    kept = [json.loads(line) for line in saved.read_text().splitlines()]
    assert sorted(record["job"] for record in kept) == list(range(25))
    assert [(row["label"], row["judges"], row["n"]) for row in rows(resumed)] == [
        (row["label"], row["judges"], row["n"]) for row in whole
    ]


def test_a_run_is_resumed_with_its_own_settings_only(tmp_path: Path) -> None:
    saved = str(tmp_path / "kept.jsonl")
    run(*EVAL, "--no-random", "--save", saved)
    assert refused(*EVAL, "--no-random", "--save", saved) == (
        f"error: --save {saved}: there already; --resume goes on with it, or name another file"
    )
    assert refused(*EVAL, "--no-random", "--save", saved, "--resume", "--seed", "1").startswith(
        f"error: {saved}:1: not of this run; --resume needs the same model, vectors, prompts and settings"
    )


def test_a_file_that_is_no_run_is_left_as_it_is(tmp_path: Path) -> None:
    other = tmp_path / "notes.jsonl"
    for text, message in (
        ('{"prompt": "a"}\n{"prom', ":1: not of this run"),
        ("torn", "holds no record of this"),
    ):
        other.write_text(text)
        assert message in refused(*EVAL, "--save", str(other), "--resume")
        assert other.read_text() == text


def test_the_table_has_a_row_a_setting_and_says_what_judges_are() -> None:
    result = run(*EVAL, *JUDGE)
    lines = [line.split("  ")[0].strip() for line in result.stdout.splitlines()]
    for label in ("v -20", "unsteered", "v +20", "random like v +20"):
        assert label in lines
    assert "judge regex:[a-m]: Whether the pattern is found anywhere in the text" in result.stderr
    assert "5 prompts; intervals are dependable from about 20 on" in result.stderr


def test_a_report_holds_every_number_and_needs_no_network(tmp_path: Path) -> None:
    page = tmp_path / "out.html"
    result = run(*EVAL, *JUDGE, "--report", str(page))
    text = page.read_text()
    assert f"wrote {page}" in result.stderr
    assert "prompt 3" in text and "random like v +20" in text and "v.st" in text
    assert not re.search(r"(src|href)=[\"'](http|//)", text)


def test_several_vectors_are_combined_and_without_a_judge_fluency_is_scored() -> None:
    result = run("eval", "-v", "v.st", "-a", "5", "-v", "v.st", "-a", "1,2", "--prompts", "prompts.jsonl",
                 *SHORT, "--json")  # fmt: skip
    assert [row["alpha"] for row in rows(result)] == [[0, 0], [5, 1], [5, 2], [5, 2]]
    assert [row["baseline"] for row in rows(result)] == ["unsteered", None, None, "random"]
    assert "no judge: fluency only" in result.stderr


def test_built_in_prompts_are_there_without_a_file() -> None:
    found = rows(run("eval", "-v", "v.st", "-a", "1", "--no-random", "--max-new-tokens", "1", "--json"))
    assert [row["n_prompts"] for row in found] == [36, 36]


# --- calibrate ---------------------------------------------------------------------------------


@pytest.fixture
def calibrated(tmp_path: Path, workshop: Path) -> Path:
    path = tmp_path / "v.st"
    path.write_bytes((workshop / "v.st").read_bytes())
    run("calibrate", str(path), "--prompts", "prompts.jsonl", *JUDGE, *SHORT, "--alpha", "-200,-100,100,200",
        "--max-ppl-ratio", "1000", "-n", "4")  # fmt: skip
    return path


def calibration_of(path: Path) -> Calibration:
    found = SteeringVector.load(path).metadata.calibration
    assert found is not None
    return found


def test_calibrate_keeps_curve_judge_and_recommendation(calibrated: Path, workshop: Path) -> None:
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
    before, after = SteeringVector.load(workshop / "v.st"), SteeringVector.load(calibrated)
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


# --- layers ------------------------------------------------------------------------------------


def test_layers_measures_every_block() -> None:
    found = rows(run("layers", "up.jsonl", "down.jsonl", "--model", "tiny", "--json"))
    assert [row["layer"] for row in found] == [0, 1, 2, 3]
    assert [row["hook_point"] for row in found] == [f"blocks.{n}.hook_resid_post" for n in range(4)]
    for row in found:
        assert row["auroc_low"] <= row["auroc"] <= row["auroc_high"]
        assert row["shift_share"] > 0 and row["sae_auroc"] is None and row["steer"] == []
    fitted = SteeringVector.load(Path("v.st")).metadata.points["blocks.2.hook_resid_post"]
    assert found[2]["auroc"] == pytest.approx(fitted.auroc)
    assert found[2]["resid_norm"] == pytest.approx(fitted.resid_norm)
    assert fitted.shift_norm is not None
    assert found[2]["shift_share"] == pytest.approx(fitted.shift_norm / fitted.resid_norm)


def test_layers_steers_at_each_layer_as_a_vector_fitted_there_would() -> None:
    result = run("layers", "up.jsonl", "down.jsonl", "--model", "tiny", "--layers", "1,2", "--steer",
                 "--alpha", "20", "--prompts", "prompts.jsonl", *JUDGE, *SHORT, "--json")  # fmt: skip
    steered = {row["layer"]: row["steer"] for row in rows(result)}
    assert [one["alpha"] for one in steered[1]] == [20.0]
    evaluated = {row["label"]: row for row in rows(run(*EVAL, *JUDGE, "--no-random", "--json"))}
    expected = evaluated["v +20"]
    assert steered[2][0]["rate"] == expected["judges"]["regex:[a-m]"]["rate"]
    assert steered[2][0]["perplexity_ratio"]["value"] == pytest.approx(
        expected["perplexity_ratio"]["value"], rel=1e-4
    )


def test_layers_draws_and_writes_a_page(tmp_path: Path) -> None:
    plot, page = tmp_path / "l.svg", tmp_path / "l.html"
    result = run("layers", "up.jsonl", "down.jsonl", "--model", "tiny", "--plot", str(plot), "--report",
                 str(page))  # fmt: skip
    assert plot.read_text().lstrip().startswith("<?xml") and "</html>" in page.read_text()
    assert f"wrote {plot}" in result.stderr and f"wrote {page}" in result.stderr
    assert [line.split()[0] for line in result.stdout.splitlines()[-5:] if line.strip()] == list("0123")


def test_a_model_of_another_width_named_like_a_bundled_one_is_refused(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "smollm2", n_layers=12)
    said = refused("layers", "up.jsonl", "down.jsonl", "--model", str(folder), "--layers", "11", code=1)
    assert said == (
        "error: SAE 'bundled' has d_model=576 and was trained on 'smollm2'; "
        f"model '{folder}' has d_model=16: choose the SAE of this model"
    )


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("eval",), "give either GENERATIONS (`-` is stdin) or --vector with what to generate"),
        (("eval", "written.jsonl", "-v", "v.st"), "give either GENERATIONS"),
        (("eval", "written.jsonl", "--alpha", "3"), "--alpha is for generating; with GENERATIONS"),
        (("eval", "written.jsonl", "-n", "1"), "-n is for generating; with GENERATIONS"),
        (("eval", "written.jsonl", "--chat"), "--chat is for generating; with GENERATIONS"),
        (("eval", "-", "-"), "`-` (stdin) can be read only once"),
        (("eval", "absent.jsonl"), "absent.jsonl: No such file or directory"),
        (("eval", "prompts.jsonl"), "prompts.jsonl:1: no 'text' key"),
        (("eval", "-v", "absent.st"), "absent.st: no such file"),
        (("eval", "-v", "v.st", "--judge", "mood"), "--judge mood: no such judge"),
        (("eval", "-v", "v.st", "--judge", "data"), "--judge data needs --judge-data POS NEG"),
        (("eval", "-v", "v.st", "--judge", "regex:a", "--judge", "regex:a"), "--judge: each judge once"),
        (("eval", "written.jsonl", "--judge", "llm:http://h/v1:m"), "name what the judge looks for"),
        (("eval", "-v", "v.st", "--resume"), "--resume goes on with what --save has begun"),
        (("eval", "-v", "v.st", "--alpha", "x"), "--alpha x: not a number"),
        (("eval", "-v", "v.st", "--alpha", "1", "--alpha", "2"), "1 --vector and 2 --alpha"),
        (("eval", "-v", "v.st", "--prompts", "notes.md"), "--prompts notes.md: a .jsonl or .txt file"),
        (("eval", "-v", "v.st", "--report", "no/such.html"), "no/such.html: no folder 'no'"),
        (("eval", "-v", "v.st", "--save", "full.jsonl"), "full.jsonl: is a directory"),
        (("eval", "-v", "v.st", "-n", "0"), "-n must be at least 1, got 0"),
        (("calibrate", "v.st"), "calibrate needs one judge: --judge NAME, or --judge-data POS NEG"),
        (("calibrate", "v.st", *JUDGE, "--max-ppl-ratio", "0.5"), "--max-ppl-ratio must be at least 1"),
        (("calibrate", "v.st", *JUDGE, "--max-ppl-ratio", "nan"), "--max-ppl-ratio must be at least 1"),
        (("calibrate", "v.st", *JUDGE, "--max-ppl-ratio", "inf"), "--max-ppl-ratio must be at least 1 and"),
        (("eval", "-v", "v.st", "--save", "x.txt"), "--save x.txt: name a .jsonl file"),
        (("eval", "none.jsonl", "--model", "tiny"), "none.jsonl: no continuation to score"),
        (("calibrate", "absent.st", *JUDGE), "absent.st: no such file"),
        (("gen", "-v", "v.st", "--alpha", "auto", "a"), "v.st is not calibrated: run `neurosteer calibrate"),
        (("gen", "-v", "v.st", "--level", "0.5", "a"), "v.st is not calibrated"),
        (("gen", "-v", "v.st", "--level", "1.5", "a"), "--level must be between 0 and 1, got 1.5"),
        (("gen", "-v", "v.st", "--level", "0.5", "--alpha", "3", "a"), "--level and --alpha both say"),
        (("gen", "--level", "0.5", "a"), "--level needs exactly one --vector"),
        (("layers", "up.jsonl", "down.jsonl", "--model", "tiny", "--steer"), "--steer needs one judge"),
        (("layers", "up.jsonl", "down.jsonl", *JUDGE), "--judge without --steer"),
        (("layers", "up.jsonl", "down.jsonl", "--plot", "x.pdf"), "x.pdf: a plot is a .png or a .svg file"),
        (("layers", "up.jsonl", "down.jsonl", "--model", "tiny", "--layers", "9"), "the model has 4 blocks"),
        (("layers", "up.jsonl", "down.jsonl", "--model", "tiny", "--layers", "x"), "--layers x: not a block"),
    ],
)  # fmt: skip
def test_bad_input_is_named(arguments: tuple[str, ...], message: str) -> None:
    assert message in refused(*arguments)
