"""eval as a user runs it, on a tiny random model."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cli import refused, rows, run
from typer.testing import CliRunner

from neurosteer_cli.cli import app
from neurosteer_cli.evaluation.runs import plan as runs
from neurosteer_cli.models.engine import Engine

JUDGE = ("--judge", "regex:[a-m]")
SHORT = ("--max-new-tokens", "6")
EVAL = ("eval", "-v", "v.st", "--alpha", "-20,20", "--prompts", "prompts.jsonl", *SHORT)
ROW_KEYS = [
    "label", "vectors", "alpha", "positions", "baseline", "perplexity", "perplexity_ratio", "bits_per_byte",
    "bits_per_byte_ratio", "ppl_model", "dose", "n", "n_prompts", "n_empty", "models", "distinct_1",
    "distinct_2", "distinct_3", "repetition_4", "diversity", "length", "kl", "judges", "judges_agree",
]  # fmt: skip


# --- continuations that exist ------------------------------------------------------------------


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


def test_a_pipe_ends_in_eval(folder: Path) -> None:
    piped = run("eval", "-", *JUDGE, "--json", input=(folder / "written.jsonl").read_text())
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


def test_a_vector_that_is_gone_only_leaves_damage_unmeasured(tmp_path: Path, folder: Path) -> None:
    text = (folder / "written.jsonl").read_text().replace("v.st", "gone.st")
    (tmp_path / "w.jsonl").write_text(text)
    result = run("eval", str(tmp_path / "w.jsonl"), "--json")
    assert rows(result)[1]["kl"] is None
    assert "warning: gone.st: not there, so damage on neutral text is not measured" in result.stderr


def test_a_damaged_vector_or_judge_is_told_before_a_model_is_loaded(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "bad.st").write_text("garbage")
    text = (folder / "written.jsonl").read_text().replace("v.st", str(tmp_path / "bad.st"))
    (tmp_path / "w.jsonl").write_text(text)
    assert "bad.st: a text file" in refused(
        "eval", str(tmp_path / "w.jsonl"), "--ppl-model", "./none", code=1
    )
    data = ("--judge-data", "absent.jsonl", "absent.jsonl")
    assert refused("eval", "-v", "v.st", *data, "--ppl-model", "./none").startswith("error: absent.jsonl: ")


# --- generating --------------------------------------------------------------------------------


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


def test_eval_writes_what_gen_writes(folder: Path, tmp_path: Path) -> None:
    run(*EVAL, "--no-random", "--save", str(tmp_path / "kept.jsonl"))
    kept = [json.loads(line) for line in (tmp_path / "kept.jsonl").read_text().splitlines()]
    written = [json.loads(line) for line in (folder / "written.jsonl").read_text().splitlines()]
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
        patch.setattr("neurosteer_cli.evaluation.runs.plan.generate", interrupted_after(7))
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


def test_vectors_at_different_blocks_have_a_random_counterpart_as_strong(tmp_path: Path) -> None:
    early = str(tmp_path / "early.st")
    run(
        "fit",
        "up.jsonl",
        "down.jsonl",
        "--model",
        "tiny",
        "--method",
        "diffmean",
        "--layer",
        "1",
        "-o",
        early,
    )
    found = rows(run("eval", "-v", "v.st", "-a", "5", "-v", early, "-a", "1,2", "--prompts", "prompts.jsonl",
                     *SHORT, "--json"))  # fmt: skip
    assert [(row["alpha"], row["baseline"]) for row in found[2:]] == [([5, 2], None), ([5, 2], "random")]
    assert found[3]["dose"] == pytest.approx(found[2]["dose"]) == pytest.approx(0.07, abs=1e-3)


# --- several models, judges and respects -------------------------------------------------------


BOTH = ("--ppl-model", "./tiny", "--ppl-model", "second")


def test_of_several_models_the_highest_ratio_counts(folder: Path) -> None:
    both = rows(run("eval", "written.jsonl", *BOTH, "--json"))
    alone = [rows(run("eval", "written.jsonl", "--ppl-model", name, "--json")) for name in ("tiny", "second")]
    names = [str(folder / "tiny"), str(folder / "second")]
    assert rows(run("eval", "written.jsonl", "--json"))[1]["models"] == alone[0][1]["models"]
    for row, *single in zip(both, *alone, strict=True):
        assert row["models"] == {name: one["models"][name] for name, one in zip(names, single, strict=True)}
        ratios = [one["perplexity_ratio"]["value"] for one in single]
        assert row["perplexity_ratio"]["value"] == max(ratios)
        assert row["ppl_model"] == names[ratios.index(max(ratios))]
        assert row["bits_per_byte"] == row["models"][row["ppl_model"]]["bits_per_byte"]


def test_the_table_says_which_model_counts_and_what_each_finds() -> None:
    found = rows(run("eval", "written.jsonl", *BOTH, "--json"))
    lines = run("eval", "written.jsonl", *BOTH).stdout.splitlines()
    heads = [line.split() for line in lines if " ppl " in line or " by " in line]
    assert heads == [
        ["ratio", "by", "KL", "dist-2", "rep-4", "div", "len"],
        [*("tiny:", "ppl", "ratio", "bits/byte"), *("second:", "ppl", "ratio", "bits/byte")],
    ]
    first, second = (line for line in lines if line.strip().startswith("v +20"))
    assert Path(found[1]["ppl_model"]).name in first.split()
    numbers = [
        f"{model[key]['value']:{form}}"
        for model in found[1]["models"].values()
        for key, form in (("perplexity", ".1f"), ("perplexity_ratio", ".2f"), ("bits_per_byte", ".2f"))
    ]
    assert re.sub(r"\[.*?\]", "", second).split()[2:] == numbers


def test_one_model_is_loaded_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    genuine = Engine.load.__func__  # type: ignore[attr-defined]
    loaded: list[Engine] = []

    def load(cls: type[Engine], *arguments: Any, **options: Any) -> Engine:
        held.append(sum(p.numel() for engine in loaded for p in engine.model.parameters()))
        loaded.append(genuine(cls, *arguments, **options))
        return loaded[-1]

    monkeypatch.setattr(Engine, "load", classmethod(load))
    run("eval", "written.jsonl", "--ppl-model", "second", "--json")
    assert held == [0, 0]
    assert all(p.numel() for p in loaded[1].model.parameters())


def test_a_model_that_is_not_there_is_told_before_anything_is_written(tmp_path: Path) -> None:
    saved = tmp_path / "kept.jsonl"
    ask = (*EVAL, "--ppl-model", "second", "--ppl-model", "./none", "--save", str(saved))
    assert "'./none': no such folder" in refused(*ask, code=1)
    assert not saved.exists()


def test_texts_that_loop_are_marked_in_the_table_in_json_and_on_the_page(tmp_path: Path) -> None:
    record = {"vectors": ["v.st"], "model": "tiny"}
    plain, looping = (" one two three four five six seven eight", " so it is so it is so it is so it is")
    lines = [
        {**record, "prompt": f"p{n}", "text": text + f" {n}", "alpha": alpha}
        for n in range(4)
        for text, alpha in ((plain, 0), (looping, 8))
    ]
    path = tmp_path / "w.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    unsteered, steered = rows(run("eval", str(path), "--json"))
    assert unsteered["diversity"] is None and steered["diversity"]["is_low"]
    result = run("eval", str(path), "--report", str(tmp_path / "r.html"), *JUDGE)
    least = min(steered["diversity"][name] for name in ("distinct_2", "new_4", "distinct_2_across"))
    assert f" {least:.2f}! " in result.stdout
    assert "warning: v +8: texts are more than 3% less diverse than unsteered ones (div, !)" in result.stderr
    assert "less diverse" in (tmp_path / "r.html").read_text()


def test_judges_of_two_families_say_whether_they_agree(tmp_path: Path) -> None:
    data = [str(tmp_path / f"{side}.jsonl") for side in "ab"]
    for path, words in zip(data, ("good fine", "bad poor"), strict=True):
        texts = [{"text": f"{words} {words.split()[n % 2]} text {n}"} for n in range(24)]
        Path(path).write_text("".join(json.dumps(text) + "\n" for text in texts))
    record = {"vectors": ["v.st"], "model": "tiny"}
    lines = [
        {**record, "prompt": f"p{n}", "text": text, "alpha": alpha}
        for n in range(4)
        for text, alpha in ((" bad", 0), (" good", 8), (" it is", 9))
    ]
    path = tmp_path / "w.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    ask = ("eval", str(path), "--judge", "tfidf", "--judge-data", *data, "--judge", "regex:good")
    found = rows(run(*ask, "--json"))
    assert [list(row["judges"]) for row in found] == [["tfidf", "regex:good"]] * 3
    assert [row["judges_agree"] for row in found[:2]] == [None, "up"]
    assert " up " in next(line for line in run(*ask).stdout.splitlines() if "v +8" in line)


def test_built_in_prompts_are_there_without_a_file() -> None:
    found = rows(run("eval", "-v", "v.st", "-a", "1", "--no-random", "--max-new-tokens", "1", "--json"))
    assert [row["n_prompts"] for row in found] == [36, 36]


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
        (("eval", "prompts.jsonl"), "prompts.jsonl:1: a prompt without its continuation"),
        (("eval", "-v", "absent.st"), "absent.st: no such file"),
        (("eval", "-v", "v.st", "--judge", "mood"), "--judge mood: no such judge"),
        (("eval", "-v", "v.st", "--judge", "data"), "--judge data needs --judge-data POS NEG"),
        (("eval", "-v", "v.st", "--judge", "regex:a", "--judge", "regex:a"), "--judge: each judge once"),
        (("eval", "written.jsonl", "--judge", "llm:http://h/v1:m"), "name what the judge looks for"),
        (("eval", "written.jsonl", *BOTH, *BOTH[2:]), "--ppl-model: each model once"),
        (("eval", "written.jsonl", "--ppl-model", "tiny", "--ppl-model", "./tiny"), "each model once"),
        (("eval", "-v", "v.st", "--judge", "tfidf"), "--judge tfidf needs --judge-data POS NEG, or tfidf:"),
        (("eval", "-v", "v.st", "--judge", "data:a"), "--judge data:a: write data:POS:NEG: two files"),
        (("eval", "-v", "v.st", "--judge", "data:-:a", "--judge", "tfidf:-:b"), "`-` (stdin) can be read"),
        (("eval", "-v", "v.st", "--resume"), "--resume goes on with what --save has begun"),
        (("eval", "-v", "v.st", "--alpha", "x"), "--alpha x: not a number"),
        (("eval", "-v", "v.st", "--alpha", "1", "--alpha", "2"), "1 --vector and 2 --alpha"),
        (("eval", "-v", "v.st", "--prompts", "notes.md"), "--prompts notes.md: no such file; give one, or -"),
        (("eval", "-v", "v.st", "--report", "no/such.html"), "no/such.html: no folder 'no'"),
        (("eval", "-v", "v.st", "--save", "full.jsonl"), "full.jsonl: is a directory"),
        (("eval", "-v", "v.st", "-n", "0"), "-n must be at least 1, got 0"),
        (("eval", "-v", "v.st", "--save", "x.txt"), "--save x.txt: name a .jsonl file"),
        (("eval", "none.jsonl", "--model", "tiny"), "none.jsonl: no continuation to score"),
    ],
)  # fmt: skip
def test_bad_input_is_named(arguments: tuple[str, ...], message: str) -> None:
    assert message in refused(*arguments)
