"""`neurosteer gen`: continuations on stdout, everything else on stderr."""

import errno
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cli import refused, rows, run
from support.tiny import save_tiny, tiny_tokenizer
from typer.testing import CliRunner

from neurosteer_cli.cli import app
from neurosteer_cli.evaluation.runs import plan as runs

pytestmark = pytest.mark.usefixtures("in_fitted_folder")
GEN = ("gen", "--max-new-tokens", "5")
GEN_KEYS = [
    "text", "model", "vectors", "alpha", "dose", "positions", "seed", "sample", "n_tokens", "finish_reason",
]  # fmt: skip


def test_gen_writes_the_prompt_and_its_continuation_and_nothing_else() -> None:
    result = run(*GEN, "-v", "a.st", "hello")
    (record,) = rows(run(*GEN, "-v", "a.st", "hello", "--json"))
    assert result.stdout == f"hello{record['text']}\n"
    assert result.stderr == ""


def test_gen_json_has_the_prompt_and_what_was_done() -> None:
    (record,) = rows(run(*GEN, "-v", "a.st", "hello", "--json"))
    assert list(record) == ["prompt", *GEN_KEYS]
    assert {**record, "text": ""} == {
        "prompt": "hello",
        "text": "",
        "model": str(Path("tiny").resolve()),
        "vectors": ["a.st"],
        "alpha": 8.0,
        "dose": 0.08,
        "positions": "all",
        "seed": 0,
        "sample": 0,
        "n_tokens": 5,
        "finish_reason": "length",
    }


def test_gen_without_a_vector_is_the_model_alone() -> None:
    (record,) = rows(run(*GEN, "-m", "tiny", "hello", "--json"))
    assert (record["vectors"], record["alpha"], record["dose"]) == ([], 0.0, 0.0)
    (same,) = rows(run(*GEN, "-v", "a.st", "-a", "0", "hello", "--json"))
    assert same["text"] == record["text"]


def test_gen_steers_the_text() -> None:
    plain, steered = rows(run(*GEN, "-v", "a.st", "-a", "0,500", "hello", "--json"))
    assert steered["text"] != plain["text"]


def test_gen_takes_the_model_from_the_option_then_the_environment_then_the_vector(tmp_path: Path) -> None:
    save_tiny(tmp_path / "other", seed=1)
    env = {"NEUROSTEER_MODEL": str(tmp_path / "other")}
    own = run(*GEN, "-v", "a.st", "hello").stdout
    other = run(*GEN, "-v", "a.st", "hello", "-m", str(tmp_path / "other")).stdout
    assert own != other
    assert run(*GEN, "-v", "a.st", "hello", env=env).stdout == other
    assert run(*GEN, "-v", "a.st", "hello", "-m", "tiny", env=env).stdout == own


def test_keys_of_an_input_record_come_out_first_and_unchanged(tmp_path: Path) -> None:
    records = [
        {"id": 7, "prompt": "one", "tags": ["é", None, {"x": 1.5}]},
        {"prompt": "two", "text": "own", "seed": 7, "record": "own"},
    ]
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(record) + "\n\n" for record in records))
    one, two = rows(run(*GEN, "-v", "a.st", str(path), "--json"))
    assert list(one) == ["id", "prompt", "tags", *GEN_KEYS]
    assert {key: one[key] for key in records[0]} == records[0]
    assert list(two) == ["prompt", "record", *GEN_KEYS]
    assert two["record"] == {"text": "own", "seed": 7, "record": "own"}
    assert (two["text"] != "own", two["seed"]) == (True, 0)
    (tmp_path / "again.jsonl").write_text(json.dumps(two))  # of a continuation only the prompt's own is kept
    (again,) = rows(run(*GEN, "-v", "a.st", str(tmp_path / "again.jsonl"), "--json"))
    assert again == two


def test_prompts_come_from_arguments_files_and_stdin_alike(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("one\n\ntwo\n")
    (tmp_path / "p.jsonl").write_text('{"prompt": "one"}\n{"prompt": "two"}\n')
    gen = (*GEN, "-v", "a.st", "--json")
    expected = rows(run(*gen, "one", "two"))
    assert [record["prompt"] for record in expected] == ["one", "two"]
    assert rows(run(*gen, str(tmp_path / "p.txt"))) == expected
    assert rows(run(*gen, str(tmp_path / "p.jsonl"))) == expected
    assert rows(run(*gen, input="one\ntwo\n")) == expected
    assert rows(run(*gen, "-", input='{"prompt": "one"}\n{"prompt": "two"}\n')) == expected
    assert rows(run(*gen, "one", "-", input="two")) == expected


def test_an_argument_with_spaces_is_a_prompt_even_if_it_ends_like_a_file() -> None:
    assert run(*GEN, "-m", "tiny", "see notes.txt").stdout.startswith("see notes.txt")


def test_a_text_does_not_depend_on_its_company() -> None:
    alone = rows(run(*GEN, "-v", "a.st", "hello", "--json", "--dtype", "float32"))
    among = rows(run(*GEN, "-v", "a.st", "a much longer prompt", "hello", "--json", "--dtype", "float32"))
    assert among[1:] == alone


def test_several_alphas_give_a_record_each_in_the_order_given() -> None:
    result = run(*GEN, "-v", "a.st", "-a", "8,-4.5,0", "one", "two", "--json")
    assert [(r["prompt"], r["alpha"], r["dose"]) for r in rows(result)] == [
        (prompt, alpha, dose)
        for prompt in ("one", "two")
        for alpha, dose in ((8.0, 0.08), (-4.5, 0.045), (0.0, 0.0))
    ]
    assert result.stderr == ""


def test_several_texts_have_a_heading_each() -> None:
    lines = run(*GEN, "-v", "a.st", "-a", "0,8", "--greedy", "hi").stdout.split("\n")
    assert lines[0] == "[unsteered]"
    assert "[a +8 (dose 8.0%)]" in lines


def test_each_vector_is_paired_with_the_alpha_in_its_place() -> None:
    gen = (*GEN, "hello", "--json")
    (pair,) = rows(run(*gen, "-v", "a.st", "-a", "4", "-v", "b.st", "-a", "2"))
    assert (pair["vectors"], pair["alpha"]) == (["a.st", "b.st"], [4.0, 2.0])
    assert pair["dose"] == 0.06  # at different layers: 4 % + 2 %
    (turned,) = rows(run(*gen, "-v", "b.st", "-v", "a.st", "-a", "2", "-a", "4"))
    assert (turned["vectors"], turned["alpha"]) == (["b.st", "a.st"], [2.0, 4.0])
    assert turned["text"] == pair["text"]


def test_alphas_of_several_vectors_are_all_combined() -> None:
    gen = (*GEN, "hello", "--json", "-v", "a.st", "-v", "b.st")
    assert [r["alpha"] for r in rows(run(*gen, "-a", "0,8", "-a", "1,2"))] == [
        [0.0, 1.0], [0.0, 2.0], [8.0, 1.0], [8.0, 2.0],
    ]  # fmt: skip
    assert [r["alpha"] for r in rows(run(*gen))] == [[8.0, 8.0]]


def test_a_vector_and_its_negative_cancel() -> None:
    plain = run(*GEN, "-m", "tiny", "hello").stdout
    assert run(*GEN, "-v", "a.st", "-a", "50", "-v", "a.st", "-a", "-50", "hello").stdout == plain


def test_n_continuations_differ_by_sample_and_by_nothing_else() -> None:
    gen = (*GEN, "-v", "a.st", "-a", "8,4", "hello", "--json")
    records = rows(run(*gen, "-n", "2"))
    assert [(r["sample"], r["alpha"]) for r in records] == [(0, 8.0), (0, 4.0), (1, 8.0), (1, 4.0)]
    assert records[0]["text"] != records[2]["text"]
    assert records[:2] == rows(run(*gen))
    greedy = rows(run(*gen, "-n", "2", "--greedy"))
    assert greedy[0]["text"] == greedy[2]["text"]


def test_the_seed_decides_the_text() -> None:
    gen = (*GEN, "-m", "tiny", "hello")
    assert run(*gen).stdout == run(*gen, "--seed", "0").stdout
    assert run(*gen).stdout != run(*gen, "--seed", "1").stdout


def test_compare_shows_unsteered_and_steered_side_by_side() -> None:
    result = run(*GEN, "-v", "a.st", "-a", "8", "--compare", "one", "two")
    headings = [line for line in result.stdout.splitlines() if "unsteered" in line]
    assert [line.split() for line in headings] == [["unsteered", "a", "+8", "(dose", "8.0%)"]] * 2
    assert result.stderr == ""


def test_compare_with_json_adds_the_unsteered_texts_once() -> None:
    gen = (*GEN, "-v", "a.st", "--compare", "--json", "hello")
    assert [r["alpha"] for r in rows(run(*gen))] == [0.0, 8.0]
    assert [r["alpha"] for r in rows(run(*gen, "-a", "8,0"))] == [8.0, 0.0]


def test_a_dose_above_a_fifth_is_warned_of_once() -> None:
    result = run(*GEN, "-v", "a.st", "-a", "21,30", "one", "two", "--json")
    assert result.stderr == (
        "warning: the push is 30% as long as the residual; above 20% text tends to break down\n"
    )
    assert len(rows(result)) == 4
    assert run(*GEN, "-v", "a.st", "-a", "-20", "one").stderr == ""


def test_chat_puts_a_prompt_into_the_template(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "hi"}], "id": 1}')
    (chat,) = rows(run(*GEN, "-m", "tiny", "--chat", "hi", "--json"))
    (messages,) = rows(run(*GEN, "-m", "tiny", str(path), "--json"))
    assert list(chat) == ["prompt", "rendered", *GEN_KEYS]
    assert list(messages) == ["messages", "id", "rendered", *GEN_KEYS]
    assert chat["rendered"] == messages["rendered"] == "<s>user\nhi</s>\n<s>assistant\n"
    assert messages["text"] == chat["text"]
    (by_hand,) = rows(
        run(*GEN, "-m", "tiny", "<s>user\nhi</s>\n<s>assistant\n", "--json")
    )  # the tiny tokenizer adds no special tokens of its own
    assert by_hand["text"] == chat["text"]
    (plain,) = rows(run(*GEN, "-m", "tiny", "hi", "--json"))
    assert plain["text"] != chat["text"]


def test_a_system_message_comes_first_and_implies_chat(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    turns = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}]
    path.write_text(json.dumps({"messages": turns}) + "\n" + json.dumps({"messages": turns[1:]}))
    (system,) = rows(run(*GEN, "-m", "tiny", "--system", "be kind", "hi", "--json"))
    whole, plain = rows(run(*GEN, "-m", "tiny", str(path), "--json"))
    assert system["text"] == whole["text"]
    assert system["text"] != plain["text"]
    added = rows(run(*GEN, "-m", "tiny", "--system", "be kind", str(path), "--json"))
    assert added[1]["text"] == whole["text"]


def test_arguments_reach_the_chat_template(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "thinker")
    template = "{{ messages[0].content }} {{ enable_thinking | tojson }} {{ effort }}"
    (folder / "chat_template.jinja").write_text(template)
    for spelt in ("false", "False"):
        given = ("--template-arg", f"enable_thinking={spelt}", "--template-arg", "effort=low")
        (record,) = rows(run(*GEN, "-m", str(folder), "--chat", "hi", "--json", *given))
        assert record["rendered"] == "hi false low"
    for wrong in ("enable_thinking", "=1", "a b=1"):
        said = refused(*GEN, "-m", str(folder), "--chat", "hi", "--template-arg", wrong)
        assert said == f"error: --template-arg {wrong}: give KEY=VALUE, each key once"
    said = refused(*GEN, "-m", str(folder), "--chat", "hi", "--template-arg", "tokenize=true")
    assert said == "error: --template-arg tokenize=true: tokenize is set by neurosteer itself"


def test_positions_are_recorded() -> None:
    gen = (*GEN, "-v", "a.st", "-a", "300", "hello", "--json")
    found = {}
    for positions in ("all", "prompt", "generated"):
        (record,) = rows(run(*gen, "--positions", positions))
        assert record["positions"] == positions
        found[positions] = record["text"]
    assert found["generated"] != found["prompt"]


# --- interrupted -------------------------------------------------------------------------------


def interrupted_after(indices: list[int]) -> Callable[..., Iterator[Any]]:
    """`generate`, but Ctrl-C is pressed once these rows are finished."""
    genuine = runs.generate

    def generate(*arguments: Any, **options: Any) -> Iterator[Any]:
        finished = dict(genuine(*arguments, **options))
        yield from ((index, finished[index]) for index in indices)
        raise KeyboardInterrupt

    return generate


@pytest.mark.parametrize(
    ("finished", "written"), [([0, 1], "ab"), ([1, 0], "ab"), ([0, 2], "ac"), ([3, 2], "cd")]
)
def test_ctrl_c_leaves_the_finished_records_and_exits_130(
    monkeypatch: pytest.MonkeyPatch, finished: list[int], written: str
) -> None:
    whole = run(*GEN, "-m", "tiny", "--json", *"abcd")
    monkeypatch.setattr(runs, "generate", interrupted_after(finished))
    result = CliRunner().invoke(app, [*GEN, "-m", "tiny", "--json", *"abcd"])
    assert result.exit_code == 130
    assert result.stderr == "interrupted\n"
    assert rows(result) == [r for r in rows(whole) if r["prompt"] in written]


def test_a_reader_that_has_had_enough_ends_the_program_quietly() -> None:
    command = f"{sys.executable} -m neurosteer_cli gen -m tiny --max-new-tokens 1 -n 300 --json hi"
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -1; echo ${{PIPESTATUS[*]}}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    record, status = done.stdout.splitlines()
    assert json.loads(record)["sample"] == 0
    assert status == "0 0"
    assert done.stderr == ""


@pytest.mark.parametrize("options", [(), ("--json",), ("--compare", "-v", "a.st")])
def test_a_reader_that_is_gone_is_no_error_whatever_is_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        with pytest.raises(SystemExit) as caught:
            app([*GEN, "-m", "tiny", "hi", *options])
        monkeypatch.undo()
    assert caught.value.code == 0
    assert capsys.readouterr().err == ""


class Full(io.RawIOBase):
    """A full disk."""

    def writable(self) -> bool:
        return True

    def write(self, _data: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("options", [(), ("--json",), ("--compare", "-v", "a.st")])
def test_a_stdout_that_takes_nothing_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(Full(), write_through=True))
    with pytest.raises(SystemExit) as caught:
        app([*GEN, "-m", "tiny", "hi", *options])
    monkeypatch.undo()
    assert caught.value.code == 1
    assert capsys.readouterr().err == "error: <stdout>: cannot write (No space left on device)\n"


def test_a_closed_stdin_holds_no_prompt(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", None)  # what Python makes of `neurosteer gen <&-`
    with pytest.raises(SystemExit) as caught:
        app([*GEN, "-m", "tiny"])
    assert caught.value.code == 2
    assert capsys.readouterr().err == (
        "error: no prompt: give one, a file of them (JSONL, CSV, .txt), or pipe some in\n"
    )


# --- best of n ---------------------------------------------------------------------------------

CHOICE = ["best_of", "kept", "rank", "judge", "score"]
BEST = (*GEN, "-v", "a.st", "-a", "0,8", "one", "two", "--best-of", "4", "--judge", "regex:[aeiou]")


def test_best_of_keeps_one_of_what_n_writes() -> None:
    of_n = rows(run(*GEN, "-v", "a.st", "-a", "0,8", "one", "two", "-n", "4", "--json"))
    found = rows(run(*BEST, "--json"))
    assert [(record["prompt"], record["alpha"]) for record in found] == [
        ("one", 0.0), ("one", 8.0), ("two", 0.0), ("two", 8.0),
    ]  # fmt: skip
    for record in found:
        assert list(record) == ["prompt", *GEN_KEYS, *CHOICE]
        assert {key: record[key] for key in CHOICE[:4]} == {
            "best_of": 4, "kept": 1, "rank": 1, "judge": "regex:[aeiou]",
        }  # fmt: skip
        candidates = [r for r in of_n if (r["prompt"], r["alpha"]) == (record["prompt"], record["alpha"])]
        assert {key: record[key] for key in candidates[0]} == candidates[record["sample"]]
        liked = [any(letter in r["text"] for letter in "aeiou") for r in candidates]
        assert record["sample"] == (liked.index(True) if any(liked) else 0)
        assert record["score"] == float(any(liked))


def test_keep_all_writes_every_candidate_by_rank() -> None:
    of_n = rows(run(*GEN, "-v", "a.st", "-a", "0,8", "one", "two", "-n", "4", "--json"))
    for direction in ((), ("--lowest",)):
        found = rows(run(*BEST, *direction, "--keep", "all", "--json"))
        for place in range(0, len(found), 8):
            group = found[place : place + 8]
            assert [record["rank"] for record in group] == [1, 1, 2, 2, 3, 3, 4, 4]
            scores = [record["score"] for record in group if record["alpha"] == 8]
            assert scores == sorted(scores, reverse=not direction)
            assert all(record.get("lowest", False) == bool(direction) for record in group)
        plain = [{key: value for key, value in r.items() if key in of_n[0]} for r in found]
        assert sorted(plain, key=str) == sorted(of_n, key=str)


def test_n_says_how_many_of_the_best_are_kept() -> None:
    some = rows(run(*BEST, "-n", "2", "--json"))
    all_ = rows(run(*BEST, "--keep", "all", "--json"))
    assert [r["text"] for r in some] == [r["text"] for r in all_ if r["rank"] <= 2]
    assert {record["kept"] for record in some} == {2}


def test_best_of_shows_rank_and_score_where_there_are_several_texts() -> None:
    result = run(*BEST, "--keep", "all")
    headings = [line for line in result.stdout.splitlines() if "; rank " in line]
    assert len(headings) == 16
    assert headings[0].startswith("[unsteered; rank 1 of 4, regex:[aeiou] ")
    assert headings[1].startswith("[a +8 (dose 8.0%); rank 1 of 4, regex:[aeiou] ")
    assert "judge regex:[aeiou]: Whether the pattern is found" in result.stderr
    assert "highest of 4 by regex:[aeiou]: " in result.stderr
    alone = run(*GEN, "-m", "tiny", "hi", "--best-of", "4", "--judge", "regex:[aeiou]", "--lowest")
    assert alone.stdout.startswith("hi")
    assert "lowest of 4 by regex:[aeiou]: " in alone.stderr


def test_best_of_is_compared_side_by_side() -> None:
    result = run(*GEN, "-v", "a.st", "--compare", "one", "two", "--best-of", "2", "--judge", "regex:a")
    assert result.stdout.count("unsteered") == result.stdout.count("a +8") == 2


def test_what_is_kept_is_scored_like_any_text_and_named_for_what_it_is(tmp_path: Path) -> None:
    plain = run(*GEN, "-m", "tiny", "one", "two", "--json").stdout
    chosen = run(*GEN, "-m", "tiny", "one", "two", "--best-of", "4", "--judge", "regex:a", "--json").stdout
    table = rows(run("eval", "-", "--judge", "regex:a", "--json", input=plain + chosen))
    assert [row["label"] for row in table] == ["unsteered", "best of 4 by regex:a"]
    score = sum(json.loads(line)["score"] for line in chosen.splitlines()) / 2
    assert table[1]["judges"]["regex:a"]["rate"]["value"] == score
    page = tmp_path / "page.html"
    run("eval", "-", "--judge", "regex:a", "--report", str(page), input=plain + chosen)
    assert "best of 4 by regex:a" in page.read_text(encoding="utf-8")


def test_a_record_that_was_chosen_can_be_written_on_from_again(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "one", "score": 7, "rank": 2}\n')
    gen = (*GEN, "-m", "tiny", str(path), "--json")
    (plain,) = rows(run(*gen))
    assert (plain["score"], plain["rank"]) == (7, 2)  # the prompt's own
    (chosen,) = rows(run(*gen, "--best-of", "2", "--judge", "regex:a"))
    assert chosen["record"] == {"score": 7, "rank": 2}
    path.write_text(json.dumps(chosen))
    (again,) = rows(run(*gen))
    assert list(again) == ["prompt", "record", *GEN_KEYS]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--judge", "regex:a"), "--judge without --best-of: say among how many texts to choose"),
        (("--lowest",), "--lowest without --best-of: say among how many texts to choose"),
        (("--keep", "all"), "--keep without --best-of: say among how many texts to choose"),
        (("--best-of", "4"), "--best-of needs one --judge, which says what texts are kept"),
        (
            ("--best-of", "1", "--judge", "regex:a"),
            "--best-of 1: must be at least 2, and no less than -n (1)",
        ),
        (
            ("--best-of", "4", "-n", "5", "--judge", "regex:a"),
            "--best-of 4: must be at least 2, and no less than -n (5)",
        ),
        (
            ("--best-of", "4", "--judge", "regex:a", "--greedy"),
            "--best-of: without a temperature all candidates would be the same text",
        ),
        (
            ("--best-of", "4", "--judge", "regex:a", "--keep", "some"),
            "--keep must be one of best, all, got 'some'",
        ),
        (("--best-of", "4", "--judge", "regex:("), "--judge regex:(: not a regular expression"),
    ],
)
def test_what_choosing_cannot_be_asked_is_refused_at_once(options: tuple[str, ...], said: str) -> None:
    assert refused(*GEN, "-m", "nowhere", "hi", *options).startswith(f"error: {said}")


# --- kinds and gates ---------------------------------------------------------------------------------


def test_gen_says_of_each_kind_what_was_done(tmp_path: Path) -> None:
    sides, urges, both = ("up.jsonl", "down.jsonl", "-m", "tiny"), tmp_path / "urges.st", tmp_path / "both.st"
    run("fit", *sides, "--method", "logodds", "-o", str(urges))
    run("fit", *sides, "--method", "diffmean", "--layers", "1", "--logits-share", "0.5", "-o", str(both))
    gen, said = ("gen", "hello", "--json", "--max-new-tokens", "20"), {}
    plain = rows(run(*gen, "-m", "tiny"))[0]["text"]
    for name, options in {
        "ablate": ("-v", "b.st", "--kind", "ablate"),
        "clamp": ("-v", "b.st", "--kind", "clamp", "-a", "-90"),
        "latents": ("-v", "a.st", "--kind", "clamp", "-a", "90"),
        "logits": ("-v", str(urges), "-a", "90"),
        "mixed": ("-v", str(both), "-a", "20"),
    }.items():
        (said[name],) = rows(run(*gen, *options))
    kinds = {name: (record.get("kinds"), record["alpha"], record["dose"]) for name, record in said.items()}
    assert kinds == {
        "ablate": (["ablate"], 1.0, None),
        "clamp": (["clamp"], -90.0, None),
        "latents": (["clamp"], 90.0, None),
        "logits": (["logits"], 90.0, None),
        "mixed": (None, 20.0, 0.1),
    }
    assert len({plain, *(record["text"] for record in said.values())}) == 6


def test_headings_name_the_kind_and_no_dose_where_nothing_is_added() -> None:
    found = run(*GEN, "-v", "b.st", "--kind", "ablate", "-a", "0,1,2", "hi")
    headings = [line for line in found.stdout.splitlines() if line.startswith("[")]
    assert headings == ["[unsteered]", "[b ablate +1]", "[b ablate +2]"]
    assert found.stderr == "warning: alpha 2 takes the component away 2 times; 1 is the whole of it\n"
    assert run(*GEN, "-v", "b.st", "--kind", "ablate", "hi").stderr == ""


def test_a_calibration_is_of_the_kind_it_was_measured_with() -> None:
    assert refused(*GEN, "-v", "b.st", "--kind", "ablate", "-a", "auto", "hi") == (
        "error: b.st is not calibrated as the kind ablate: calibrate a file of that kind, or give --alpha"
    )


def gate_of(prompts: list[str]) -> tuple[str, list[bool]]:
    """A gate that opens for some of the prompts, and for which."""
    found = rows(run(*GEN, "-v", "b.st", "--when", "a.st>0", *prompts, "--json"))
    read = [record["gate"] for record in found]
    middle = sorted(read)[len(read) // 2]
    return f"a.st>{middle:.4f}", [number > round(middle, 4) for number in read]


def test_a_gate_lets_prompts_be_steered_and_leaves_the_others_byte_for_byte() -> None:
    prompts = ["aaa bbb aab", "zzz yyy", "to be or not", "hello", "z"]
    gate, is_open = gate_of(prompts)
    assert any(is_open) and not all(is_open)
    gen = (*GEN, "-v", "b.st", "-a", "300", *prompts)
    plain = [record["text"] for record in rows(run(*GEN, "-m", "tiny", *prompts, "--json"))]
    steered = [record["text"] for record in rows(run(*gen, "--json"))]
    found = run(*gen, "--when", gate, "--json")
    assert f"gate {gate}: {sum(is_open)} of 5 prompts are steered\n" in found.stderr
    records = rows(found)
    assert [(record["when"], record["steered"]) for record in records] == [(gate, each) for each in is_open]
    assert [record["dose"] for record in records] == [3.0 if each else 0.0 for each in is_open]
    expected = [b if each else a for a, b, each in zip(plain, steered, is_open, strict=True)]
    assert [record["text"] for record in records] == expected
    headings = [line for line in run(*gen, "--when", gate).stdout.splitlines() if line.startswith("[b ")]
    assert headings == [
        f"[b +300 ({gate}) (dose 300.0%)]" if each else f"[b +300 ({gate}): closed, unsteered]"
        for each in is_open
    ]


def test_a_strong_push_is_warned_of_though_the_first_prompt_is_not_steered() -> None:
    closed = run(*GEN, "-v", "b.st", "-a", "30", "--when", "a.st>1000", "hello")
    assert "the push is 30% as long as the residual" in closed.stderr
    assert "gate a.st>1000: 0 of 1 prompts are steered" in closed.stderr


def test_a_gate_of_tokens_says_nothing_of_prompts() -> None:
    gen = (
        *GEN,
        "-v",
        "a.st",
        "-a",
        "300",
        "hello",
        "there",
        "--when",
        "b.st>0",
        "--when-each",
        "token",
        "--json",
    )
    for record in rows(found := run(*gen)):
        assert record["when"] == "b.st>0"
        assert not {"gate", "steered"} & record.keys()
    assert found.stderr.splitlines() == [
        "warning: the push is 300% as long as the residual; above 20% text tends to break down"
    ]
    assert refused(*GEN, "-v", "b.st", "--when", "a.st>0", "--when-each", "token", "hi") == (
        "error: gate a.st>0 is read at blocks.2.hook_resid_post, behind blocks.1.hook_resid_post, where "
        "steering begins: choose one of earlier blocks, or one for each prompt"
    )


def test_thinking_is_steered_where_the_template_has_it(tmp_path: Path) -> None:
    folder, tokenizer = save_tiny(tmp_path / "thinker"), tiny_tokenizer()
    tokenizer.add_tokens(["<think>", "</think>"])
    template = "{{ messages[0].content }}{{ '<think>' if thinks else '<think></think>' }}"
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    said = {}
    for thinks in ("true", "false"):
        for positions in ("answer", "thinking", "after-thinking"):
            gen = (*GEN, "-v", "b.st", "-a", "0,300", "-m", str(folder), "--chat", "hi", "--json", "--greedy")
            found = rows(run(*gen, "--template-arg", f"thinks={thinks}", "--positions", positions))
            said[thinks, positions] = [record["text"] for record in found]
    assert len({plain for plain, _ in said.values()}) == 2  # one a template
    for thinks, steered, other in (
        ("true", "thinking", "after-thinking"),
        ("false", "after-thinking", "thinking"),
    ):
        plain, everywhere = said[thinks, "answer"]
        assert everywhere != plain
        assert said[thinks, steered] == [plain, everywhere]
        assert said[thinks, other] == [plain, plain]
    assert refused(*GEN, "-v", "b.st", "--positions", "thinking", "hi").startswith(
        "error: positions thinking: "
    )
