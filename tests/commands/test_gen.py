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
from support.tiny import save_tiny
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
