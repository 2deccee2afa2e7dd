"""The four commands, one after the other: results on stdout, everything else on stderr."""

import errno
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny import save_tiny, save_tiny_sae
from typer.testing import CliRunner, Result

from neurosteer_cli import __version__
from neurosteer_cli.cli import app
from neurosteer_cli.errors import InputError
from neurosteer_cli.evaluation import run as runs
from neurosteer_cli.vectors.from_texts import FitReport, LatentRow
from neurosteer_cli.vectors.vector import DEFAULT_ALPHA, SteeringVector, VectorMetadata

GEN = ("gen", "--max-new-tokens", "5")
POINT = "blocks.2.hook_resid_post"
METADATA_KEYS = set(VectorMetadata.model_fields)
GEN_KEYS = [
    "text", "model", "vectors", "alpha", "dose", "positions", "seed", "sample", "n_tokens", "finish_reason",
]  # fmt: skip


def run(*arguments: str, **options: Any) -> Result:
    """Run a command that must succeed."""
    result = CliRunner().invoke(app, arguments, prog_name="neurosteer", **options)
    assert result.exit_code == 0, result.output or result.exc_info
    return result


def records_of(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, an SAE, two sides of texts and two vectors, all made by commands."""
    folder = tmp_path_factory.mktemp("workshop")
    save_tiny(folder / "tiny")
    save_tiny_sae(folder / "sae")
    for name, text in (("up", "aaa bbb aab {} number {}"), ("down", "zzz yyy zzy {} number {}")):
        lines = [json.dumps({"text": text.format(name[0] * n, n)}) + "\n" for n in range(20)]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("NEUROSTEER_MODEL", raising=False)
        run(*FIT, "--sae", "sae", "--top-k", "8", "-o", "a.st")
        run(*FIT, "--method", "diffmean", "--layers", "1", "-o", "b.st")
    return folder


FIT = ("fit", "up.jsonl", "down.jsonl", "--model", "tiny")


@pytest.fixture(autouse=True)
def in_workshop(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workshop)
    monkeypatch.delenv("NEUROSTEER_MODEL", raising=False)
    monkeypatch.setenv("NEUROSTEER_CACHE", str(workshop / "cache"))


# --- fit ---------------------------------------------------------------------------------------


def test_fit_writes_the_file_and_tells_the_rest_on_stderr(tmp_path: Path) -> None:
    result = run(*FIT, "--sae", "sae", "--top-k", "8", "-o", str(tmp_path / "v.st"))
    assert result.stdout == ""
    vector = SteeringVector.load(tmp_path / "v.st")
    assert [str(point) for point in vector.pushes] == [POINT]
    lines = result.stderr.splitlines()
    assert lines[:2] == [
        f"warning: {side}: 20 texts; 50 or more a side give a more dependable vector"
        for side in ("up", "down")
    ]
    assert lines[2].startswith("up 20 texts, 600 tokens; down 20 texts, 600 tokens; ")
    assert lines[3].startswith(f"{POINT}: held-out AUROC 1.00 on 4 + 4 texts; the sides differ by ")
    assert lines[4].strip() == "strongest latents"
    assert " ".join(lines[6].split()) == "fires fires"
    assert " ".join(lines[7].split()) == "latent weight t up down fires most at"
    assert lines[-1] == f"wrote {tmp_path / 'v.st'}"


@pytest.mark.parametrize(
    ("sources", "options", "name"),
    [
        (["up.jsonl", "down.jsonl"], [], "up.st"),
        (["up.jsonl", "-"], [], "up.st"),
        (["-", "up.jsonl"], [], "vector.st"),
        (["both.jsonl"], ["--target", "down", "--source", "up"], "down.st"),
    ],
)
def test_a_vector_is_named_after_what_it_steers_towards(
    workshop: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sources: list[str],
    options: list[str],
    name: str,
) -> None:
    both = ""
    for side in ("up", "down"):
        data = (workshop / f"{side}.jsonl").read_text()
        (tmp_path / f"{side}.jsonl").write_text(data)
        both += data.replace("{", f'{{"label": "{side}", ')
    (tmp_path / "both.jsonl").write_text(both)
    monkeypatch.chdir(tmp_path)
    model = str(workshop / "tiny")
    run("fit", *sources, *options, "-m", model, "--method", "diffmean",
        input=(workshop / "down.jsonl").read_text())  # fmt: skip
    assert [path.name for path in tmp_path.glob("*.st")] == [name]


def test_fit_json_is_the_metadata_and_a_report(tmp_path: Path) -> None:
    result = run(*FIT, "--sae", "sae", "--top-k", "8", "-o", str(tmp_path / "v.st"), "--json")
    (record,) = records_of(result)
    assert set(record) == {"vector", "report"} | METADATA_KEYS
    assert record["vector"] == str(tmp_path / "v.st")
    assert set(record["report"]) == {field.name for field in fields(FitReport)}
    assert set(record["report"]) == {
        "seconds", "tokens_per_second", "n_held_out", "n_duplicates", "n_without_tokens",
        "warnings", "strongest",
    }  # fmt: skip
    (row, *_) = record["report"]["strongest"][POINT]
    assert set(row) == {field.name for field in fields(LatentRow)}
    stored = SteeringVector.load(tmp_path / "v.st").metadata
    assert {key: record[key] for key in METADATA_KEYS} == json.loads(stored.to_json())


def test_fit_steers_at_the_layers_asked_for(tmp_path: Path) -> None:
    out = str(tmp_path / "v.st")
    for options, points in (
        (["--layers", "1,3"], ["blocks.1.hook_resid_post", "blocks.3.hook_resid_post"]),
        (["--layer", "0"], ["blocks.0.hook_resid_post"]),
        (["--hook-point", "blocks.2.hook_resid_pre"], ["blocks.2.hook_resid_pre"]),
        ([], [POINT]),  # two thirds up
    ):
        run(*FIT, "--method", "diffmean", *options, "-o", out)
        assert [str(point) for point in SteeringVector.load(Path(out)).pushes] == points


def test_fit_says_that_duplicates_were_dropped(workshop: Path, tmp_path: Path) -> None:
    lines = (workshop / "up.jsonl").read_text()
    (tmp_path / "up.jsonl").write_text(lines + lines.splitlines()[0])
    result = run("fit", str(tmp_path / "up.jsonl"), "down.jsonl", "-m", "tiny",
                 "--method", "diffmean", "-o", str(tmp_path / "v.st"))  # fmt: skip
    assert "\n1 duplicate texts were dropped\n" in result.stderr


def test_fit_takes_the_model_from_the_environment(tmp_path: Path) -> None:
    out = str(tmp_path / "v.st")
    fit = ("fit", "up.jsonl", "down.jsonl", "--method", "diffmean", "-o", out)
    run(*fit, env={"NEUROSTEER_MODEL": "tiny"})
    assert SteeringVector.load(Path(out)).metadata.model_id == str(Path("tiny").resolve())


def test_an_sae_of_a_model_of_another_name_is_warned_of(tmp_path: Path) -> None:
    save_tiny_sae(tmp_path / "sae", model_name="gpt2-small")
    result = run(*FIT, "--sae", str(tmp_path / "sae"), "--top-k", "8", "-o", str(tmp_path / "v.st"))
    assert result.stderr.startswith(
        f"warning: SAE '{tmp_path / 'sae'}' was trained on 'gpt2-small', the model is 'tiny': "
        "its latents may mean something else there\n"
    )


# --- gen ---------------------------------------------------------------------------------------


def test_gen_writes_the_prompt_and_its_continuation_and_nothing_else() -> None:
    result = run(*GEN, "-v", "a.st", "hello")
    (record,) = records_of(run(*GEN, "-v", "a.st", "hello", "--json"))
    assert result.stdout == f"hello{record['text']}\n"
    assert result.stderr == ""


def test_gen_json_has_the_prompt_and_what_was_done() -> None:
    (record,) = records_of(run(*GEN, "-v", "a.st", "hello", "--json"))
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
    (record,) = records_of(run(*GEN, "-m", "tiny", "hello", "--json"))
    assert (record["vectors"], record["alpha"], record["dose"]) == ([], 0.0, 0.0)
    (same,) = records_of(run(*GEN, "-v", "a.st", "-a", "0", "hello", "--json"))
    assert same["text"] == record["text"]


def test_gen_steers_the_text() -> None:
    plain, steered = records_of(run(*GEN, "-v", "a.st", "-a", "0,500", "hello", "--json"))
    assert steered["text"] != plain["text"]


def test_gen_takes_the_model_from_the_option_then_the_environment_then_the_vector(
    tmp_path: Path,
) -> None:
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
        {"prompt": "two", "text": "replaced"},
    ]
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(record) + "\n\n" for record in records))
    one, two = records_of(run(*GEN, "-v", "a.st", str(path), "--json"))
    assert list(one) == ["id", "prompt", "tags", *GEN_KEYS]
    assert {key: one[key] for key in records[0]} == records[0]
    assert set(two) == {"prompt", *GEN_KEYS}
    assert two["text"] != "replaced"


def test_prompts_come_from_arguments_files_and_stdin_alike(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("one\n\ntwo\n")
    (tmp_path / "p.jsonl").write_text('{"prompt": "one"}\n{"prompt": "two"}\n')
    gen = (*GEN, "-v", "a.st", "--json")
    expected = records_of(run(*gen, "one", "two"))
    assert [record["prompt"] for record in expected] == ["one", "two"]
    assert records_of(run(*gen, str(tmp_path / "p.txt"))) == expected
    assert records_of(run(*gen, str(tmp_path / "p.jsonl"))) == expected
    assert records_of(run(*gen, input="one\ntwo\n")) == expected
    assert records_of(run(*gen, "-", input='{"prompt": "one"}\n{"prompt": "two"}\n')) == expected
    assert records_of(run(*gen, "one", "-", input="two")) == expected


def test_an_argument_with_spaces_is_a_prompt_even_if_it_ends_like_a_file() -> None:
    assert run(*GEN, "-m", "tiny", "see notes.txt").stdout.startswith("see notes.txt")


def test_a_text_does_not_depend_on_its_company() -> None:
    alone = records_of(run(*GEN, "-v", "a.st", "hello", "--json", "--dtype", "float32"))
    among = records_of(
        run(*GEN, "-v", "a.st", "a much longer prompt", "hello", "--json", "--dtype", "float32")
    )
    assert among[1:] == alone


def test_several_alphas_give_a_record_each_in_the_order_given() -> None:
    result = run(*GEN, "-v", "a.st", "-a", "8,-4.5,0", "one", "two", "--json")
    assert [(r["prompt"], r["alpha"], r["dose"]) for r in records_of(result)] == [
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
    (pair,) = records_of(run(*gen, "-v", "a.st", "-a", "4", "-v", "b.st", "-a", "2"))
    assert (pair["vectors"], pair["alpha"]) == (["a.st", "b.st"], [4.0, 2.0])
    assert pair["dose"] == 0.06  # at different layers: 4 % + 2 %
    (turned,) = records_of(run(*gen, "-v", "b.st", "-v", "a.st", "-a", "2", "-a", "4"))
    assert (turned["vectors"], turned["alpha"]) == (["b.st", "a.st"], [2.0, 4.0])
    assert turned["text"] == pair["text"]


def test_alphas_of_several_vectors_are_all_combined() -> None:
    gen = (*GEN, "hello", "--json", "-v", "a.st", "-v", "b.st")
    assert [r["alpha"] for r in records_of(run(*gen, "-a", "0,8", "-a", "1,2"))] == [
        [0.0, 1.0], [0.0, 2.0], [8.0, 1.0], [8.0, 2.0],
    ]  # fmt: skip
    assert [r["alpha"] for r in records_of(run(*gen))] == [[8.0, 8.0]]


def test_a_vector_and_its_negative_cancel() -> None:
    plain = run(*GEN, "-m", "tiny", "hello").stdout
    assert run(*GEN, "-v", "a.st", "-a", "50", "-v", "a.st", "-a", "-50", "hello").stdout == plain


def test_n_continuations_differ_by_sample_and_by_nothing_else() -> None:
    gen = (*GEN, "-v", "a.st", "-a", "8,4", "hello", "--json")
    records = records_of(run(*gen, "-n", "2"))
    assert [(r["sample"], r["alpha"]) for r in records] == [(0, 8.0), (0, 4.0), (1, 8.0), (1, 4.0)]
    assert records[0]["text"] != records[2]["text"]
    assert records[:2] == records_of(run(*gen))
    greedy = records_of(run(*gen, "-n", "2", "--greedy"))
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
    assert [r["alpha"] for r in records_of(run(*gen))] == [0.0, 8.0]
    assert [r["alpha"] for r in records_of(run(*gen, "-a", "8,0"))] == [8.0, 0.0]


def test_a_dose_above_a_fifth_is_warned_of_once() -> None:
    result = run(*GEN, "-v", "a.st", "-a", "21,30", "one", "two", "--json")
    assert result.stderr == (
        "warning: the push is 30% as long as the residual; above 20% text tends to break down\n"
    )
    assert len(records_of(result)) == 4
    assert run(*GEN, "-v", "a.st", "-a", "-20", "one").stderr == ""


def test_chat_puts_a_prompt_into_the_template(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "hi"}], "id": 1}')
    (chat,) = records_of(run(*GEN, "-m", "tiny", "--chat", "hi", "--json"))
    (messages,) = records_of(run(*GEN, "-m", "tiny", str(path), "--json"))
    assert list(chat) == ["prompt", "rendered", *GEN_KEYS]
    assert list(messages) == ["messages", "id", "rendered", *GEN_KEYS]
    assert chat["rendered"] == messages["rendered"] == "<s>user\nhi</s>\n<s>assistant\n"
    assert messages["text"] == chat["text"]
    (by_hand,) = records_of(
        run(*GEN, "-m", "tiny", "<s>user\nhi</s>\n<s>assistant\n", "--json")
    )  # the tiny tokenizer adds no special tokens of its own
    assert by_hand["text"] == chat["text"]
    (plain,) = records_of(run(*GEN, "-m", "tiny", "hi", "--json"))
    assert plain["text"] != chat["text"]


def test_a_system_message_comes_first_and_implies_chat(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    turns = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}]
    path.write_text(json.dumps({"messages": turns}) + "\n" + json.dumps({"messages": turns[1:]}))
    (system,) = records_of(run(*GEN, "-m", "tiny", "--system", "be kind", "hi", "--json"))
    whole, plain = records_of(run(*GEN, "-m", "tiny", str(path), "--json"))
    assert system["text"] == whole["text"]
    assert system["text"] != plain["text"]
    added = records_of(run(*GEN, "-m", "tiny", "--system", "be kind", str(path), "--json"))
    assert added[1]["text"] == whole["text"]


def test_positions_are_recorded() -> None:
    gen = (*GEN, "-v", "a.st", "-a", "300", "hello", "--json")
    found = {}
    for positions in ("all", "prompt", "generated"):
        (record,) = records_of(run(*gen, "--positions", positions))
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
    assert records_of(result) == [r for r in records_of(whole) if r["prompt"] in written]


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


class Full(io.StringIO):
    """A stdout on a full disk."""

    def write(self, text: str) -> int:
        if text:
            raise OSError(errno.ENOSPC, "No space left on device")
        return 0


@pytest.mark.parametrize("options", [(), ("--json",), ("--compare", "-v", "a.st")])
def test_a_stdout_that_takes_nothing_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    monkeypatch.setattr(sys, "stdout", Full())
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
    assert capsys.readouterr().err == ("error: no prompt: give one, a .jsonl or .txt file, or pipe some in\n")


# --- combine -----------------------------------------------------------------------------------


def test_combine_writes_the_sum_and_tells_the_rest_on_stderr(tmp_path: Path) -> None:
    out = tmp_path / "sum.st"
    result = run("combine", "a.st:2", "b.st:-0.5", "a.st", "-o", str(out))
    assert result.stdout == ""
    assert result.stderr == (
        "a.st and b.st: no hook point in common\n"
        "a.st and a.st: cosine +1.000\n"
        "b.st and a.st: no hook point in common\n"
        f"wrote {out}: alpha 1 is a dose of 3.50%\n"
    )
    a, b, total = (SteeringVector.load(Path(path)) for path in ("a.st", "b.st", out))
    for point, push in a.pushes.items():
        torch.testing.assert_close(total.pushes[point], 3 * push)
    for point, push in b.pushes.items():
        torch.testing.assert_close(total.pushes[point], -0.5 * push)
    assert [(p["name"], p["weight"]) for p in total.metadata.parents] == [
        ("a.st", 2.0), ("b.st", -0.5), ("a.st", 1.0),
    ]  # fmt: skip


def test_a_file_whose_name_has_a_colon_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "odd:2"
    path.write_bytes(Path("a.st").read_bytes())
    run("combine", str(path), f"{path}:3", "-o", str(tmp_path / "sum.st"))
    parents = SteeringVector.load(tmp_path / "sum.st").metadata.parents
    assert [(p["name"], p["weight"]) for p in parents] == [(str(path), 1.0), (str(path), 3.0)]


def test_a_sum_may_take_the_place_of_its_part(tmp_path: Path) -> None:
    path = tmp_path / "v.st"
    path.write_bytes(Path("a.st").read_bytes())
    run("combine", f"{path}:2", "-o", str(path))
    assert SteeringVector.load(path).metadata.parents[0]["weight"] == 2.0


def test_gen_with_a_sum_writes_what_its_parts_would_write(tmp_path: Path) -> None:
    run("combine", "a.st:2", "b.st:-0.5", "-o", str(tmp_path / "sum.st"))
    gen = (*GEN, "hello", "--dtype", "float32")
    parts = run(*gen, "-v", "a.st", "-a", "20", "-v", "b.st", "-a", "-5").stdout
    assert run(*gen, "-v", str(tmp_path / "sum.st"), "-a", "10").stdout == parts


# --- inspect -----------------------------------------------------------------------------------


def test_inspect_shows_origin_and_latents_on_stdout() -> None:
    result = run("inspect", "a.st")
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"vector: a.st (format 2, neurosteer {__version__}, ")
    assert lines[1] == f"model: {Path('tiny').resolve()} (LlamaForCausalLM, d_model 16, 4 blocks)"
    assert lines[2] == "method: neurosteer top_k=8"
    assert lines[3].startswith("towards: up: 20 texts, 600 tokens, sha256 ")
    assert lines[4].startswith("away: down: 20 texts, 600 tokens, sha256 ")
    assert lines[5].startswith(f"{POINT}: alpha 1 adds ")
    assert lines[6].strip() == POINT
    ids = SteeringVector.load(Path("a.st")).latents
    (latents,) = ids.values()
    shown = [line.split()[0] for line in lines if line.strip()[:1].isdigit()]
    assert shown == [str(latent) for latent in latents.ids.tolist()]


def test_inspect_json_is_the_metadata_and_the_pushes() -> None:
    (record,) = records_of(run("inspect", "a.st", "--json", "--latents", "3"))
    assert set(record) == {"vector", "pushes"} | METADATA_KEYS
    push = record["pushes"][POINT]
    assert set(push) == {"push_norm", "latents"}
    whole, *rows = push["latents"]
    assert set(whole) == {"latent_id", "weight", "promoted", "suppressed"}
    assert (whole["latent_id"], whole["weight"]) == (None, None)
    assert len(rows) == 3
    vector = SteeringVector.load(Path("a.st"))
    (latents,) = vector.latents.values()
    for row, latent, weight in zip(rows, latents.ids.tolist(), latents.weights.tolist(), strict=False):
        assert set(row) == {
            "latent_id", "weight", "positive_rate", "negative_rate", "neuronpedia",
            "promoted", "suppressed", "name",
        }  # fmt: skip
        assert row["name"] is None  # its SAE has no descriptions
        assert (row["latent_id"], row["weight"]) == (latent, weight)
        assert len(row["promoted"]) == len(row["suppressed"]) == 5


def test_inspect_names_the_parents_of_a_sum(tmp_path: Path) -> None:
    run("combine", "a.st:2", "b.st:-0.5", "-o", str(tmp_path / "sum.st"))
    lines = run("inspect", str(tmp_path / "sum.st")).stdout.splitlines()
    assert lines[2] == "method: combine"
    assert lines[3].startswith("parent: +2 x a.st (sha256 ")
    assert lines[4].startswith("parent: -0.5 x b.st (sha256 ")
    (record,) = records_of(run("inspect", str(tmp_path / "sum.st"), "--json"))
    assert list(record["pushes"]) == ["blocks.1.hook_resid_post", POINT]


@pytest.fixture
def lone(tmp_path: Path) -> Callable[..., list[str]]:
    """Fit a vector on a model and an SAE of its own; the arguments that inspect it."""
    save_tiny(tmp_path / "own")
    save_tiny_sae(tmp_path / "own_sae")
    run("fit", "up.jsonl", "down.jsonl", "-m", str(tmp_path / "own"), "--top-k", "8",
        "--sae", str(tmp_path / "own_sae"), "-o", str(tmp_path / "v.st"))  # fmt: skip
    return ["inspect", str(tmp_path / "v.st"), "--latents", "2", "--json"]


def latents_of(result: Result) -> list[dict[str, Any]]:
    (record,) = records_of(result)
    rows: list[dict[str, Any]] = record["pushes"][POINT]["latents"]
    return rows


def test_inspect_does_without_a_model_that_is_gone(lone: list[str], tmp_path: Path) -> None:
    (tmp_path / "own").rename(tmp_path / "moved")
    result = run(*lone)
    assert result.stderr == (
        f"model '{tmp_path / 'own'}' is not on this machine: promoted tokens are left out\n"
    )
    assert [set(row) for row in latents_of(result)] == [
        {"latent_id", "weight", "positive_rate", "negative_rate", "neuronpedia"}
    ] * 2


@pytest.mark.parametrize("change", ["another shape", "damaged"])
def test_inspect_does_without_a_model_that_has_changed(lone: list[str], tmp_path: Path, change: str) -> None:
    own = tmp_path / "own"
    if change == "another shape":
        save_tiny(own, "gpt2")
        message = f"model '{own}' is not the one the vector was fitted on: promoted tokens are left out"
    else:
        (own / "config.json").unlink()
        message = f"promoted tokens are left out: {own}: no config.json; not a Hugging Face checkpoint folder"
    result = run(*lone)
    assert result.stderr == f"{message}\n"
    assert all("promoted" not in row for row in latents_of(result))


@pytest.mark.parametrize("change", [{"d_sae": 32}, {"seed": 5}])
def test_inspect_does_without_an_sae_that_has_changed(
    lone: list[str], tmp_path: Path, change: dict[str, int]
) -> None:
    save_tiny_sae(tmp_path / "own_sae", **change)
    result = run(*lone)
    assert result.stderr == (
        f"tokens of single latents are left out: SAE '{tmp_path / 'own_sae'}' has changed\n"
    )
    whole, *rows = latents_of(result)
    assert "promoted" in whole
    assert all("promoted" not in row for row in rows)


# --- the program -------------------------------------------------------------------------------


def test_the_version_is_a_result() -> None:
    result = run("--version")
    assert (result.stdout, result.stderr) == (f"neurosteer {__version__}\n", "")


@pytest.mark.parametrize("command", ["fit", "gen", "combine", "inspect"])
def test_every_command_explains_itself_with_an_example(command: str) -> None:
    assert f"\n  Example: neurosteer {command} " in run(command, "--help").stdout


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: Any, **_options: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(runs, "generate", broken)
    result = CliRunner().invoke(app, [*GEN, "-m", "tiny", "hi"])
    assert isinstance(result.exception, ZeroDivisionError)


def test_errors_of_the_library_are_lines_only_in_the_program() -> None:
    with pytest.raises(InputError):
        SteeringVector.load(Path("none.st"))
    result = CliRunner().invoke(app, ["inspect", "none.st"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "error: none.st: no such file; `neurosteer fit` writes one\n"


def test_the_help_of_gen_names_the_alpha_that_is_taken() -> None:
    # not read from there: it would load torch on the way to --help
    assert f"[default: {DEFAULT_ALPHA:g}]" in run("gen", "--help").stdout
