"""Prompts are given, named, piped in or built in, and each is checked before a model is loaded."""

import io
import sys
from pathlib import Path

import pytest

from neurosteer_cli.data.prompts import neutral_texts, prompts_of, read_prompts
from neurosteer_cli.data.records import Located, as_prompt
from neurosteer_cli.errors import InputError


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text('{"prompt": "one", "id": 7}\n')
    Path("two words.txt").write_text("two\nthree\n")
    Path("chat.jsonl").write_text('{"messages": [{"role": "user", "content": "hi"}]}\n')


def stdin_of(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))


def test_arguments_are_prompts_or_name_files_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin_of(b"four\n", monkeypatch)
    assert read_prompts(["zero", "a.jsonl", "two words.txt", "-", "no such file.txt"]) == [
        Located("prompt", {"prompt": "zero"}),
        Located("a.jsonl:1", {"prompt": "one", "id": 7}),
        Located("two words.txt:1", {"prompt": "two"}),
        Located("two words.txt:2", {"prompt": "three"}),
        Located("<stdin>:1", {"prompt": "four"}),
        Located("prompt", {"prompt": "no such file.txt"}),
    ]


def test_without_arguments_stdin_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin_of(b"four\n", monkeypatch)
    assert read_prompts([]) == [Located("<stdin>:1", {"prompt": "four"})]
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(
        InputError, match=r"^no prompt: give one, a file of them \(JSONL, CSV, .txt\), or pipe some in$"
    ):
        read_prompts([])


def test_a_prompt_is_a_text_or_a_chat() -> None:
    assert [as_prompt(located) for located in read_prompts(["a.jsonl", "chat.jsonl"])] == [
        "one", ({"role": "user", "content": "hi"},),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ('{"text": "a"}', "bad.jsonl:1: no 'prompt' key; found ['text']; perhaps --text-key text"),
        ('{"messages": []}', "bad.jsonl:1: 'messages' must be a list of {role, content}, got []"),
    ],
)
def test_a_record_that_is_no_prompt_is_refused(record: str, message: str) -> None:
    Path("bad.jsonl").write_text(record)
    with pytest.raises(InputError) as raised:
        read_prompts(["a prompt", "bad.jsonl"])
    assert str(raised.value) == message


def test_a_missing_file_is_named() -> None:
    with pytest.raises(
        InputError, match="^none.jsonl: no such file. A prompt of these letters is given with"
    ):
        read_prompts(["none.jsonl"])


def test_a_source_is_a_file_or_stdin_or_built_in(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin_of(b"four\n", monkeypatch)
    assert prompts_of("a.jsonl") == read_prompts(["a.jsonl"])
    assert prompts_of("-") == [Located("<stdin>:1", {"prompt": "four"})]
    built_in = prompts_of(None)
    assert (len(built_in), built_in[35].where) == (36, "built-in prompt 36")
    with pytest.raises(InputError, match="^--prompts p.csv: no such file; give one, or - for stdin$"):
        prompts_of("p.csv")


def test_neutral_texts_are_different_and_not_empty() -> None:
    texts = [passage.text for passage in neutral_texts()]
    assert len(texts) == len(set(texts)) == 32
    assert all(texts)


@pytest.mark.parametrize(
    "name",
    [
        "p.jsonl.gz",
        "p.ndjson",
        "p.json",
        "p.csv",
        "p.st",
        "polite.safetensors",
        "m.gguf",
        "P.TXT",
        "x.parquet",
    ],
)
def test_a_word_that_looks_like_a_file_is_no_prompt_unless_it_is_said_to_be(name: str) -> None:
    with pytest.raises(
        InputError, match=f"^{name}: no such file. A prompt of these letters is given with --prompt$"
    ):
        read_prompts([name])
    assert read_prompts([], [name, "a.jsonl"]) == [
        Located("prompt", {"prompt": name}), Located("prompt", {"prompt": "a.jsonl"}),
    ]  # fmt: skip


def test_a_file_of_another_kind_is_named_and_not_gone_on_from() -> None:
    Path("v.st").write_bytes((300).to_bytes(8, "little") + b'{"__metadata__":{"neurosteer":"{}"}}')
    Path("model").mkdir()
    Path("model/config.json").write_text("{}")
    Path("model/model.safetensors").write_bytes(b"")
    for name, what in (
        ("v.st", "a steering vector; give it a --vector of its own, or to `neurosteer inspect`"),
        ("model", "a model's folder; give it with --model"),
    ):
        with pytest.raises(InputError) as raised:
            read_prompts([name])
        assert str(raised.value) == f"{name}: {what}. A prompt of these letters is given with --prompt"


def test_stdin_is_given_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin_of(b"four\n", monkeypatch)
    with pytest.raises(InputError, match="can be read only once"):
        read_prompts(["-", "/dev/stdin"])
    assert prompts_of("-") == [Located("<stdin>:1", {"prompt": "four"})]
    with pytest.raises(InputError, match="can be read only once"):  # by another option, say
        prompts_of("-")


def test_prompts_have_any_key_that_is_named() -> None:
    Path("q.csv").write_text("id,question\n1,why\n")
    assert read_prompts(["q.csv"], text_key="question") == [
        Located("q.csv:2", {"id": "1", "question": "why", "prompt": "why"})
    ]
    with pytest.raises(InputError, match="found \\['id', 'question'\\]; perhaps --text-key question$"):
        read_prompts(["q.csv"])
