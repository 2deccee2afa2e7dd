"""A corpus: files, folders, gzip; documents in order, and packed into sequences."""

import gzip
import io
import json
import sys
from pathlib import Path

import pytest

from neurosteer_cli.data.corpus import checked, corpus_files, documents
from neurosteer_cli.errors import InputError


def write(path: Path, *texts: str) -> str:
    """Texts as the records or lines of a file, compressed if it is so named."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = ".txt" in path.name
    data = "".join((text if plain else json.dumps({"text": text})) + "\n" for text in texts).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


def read(*sources: str) -> list[str]:
    return list(documents(corpus_files(sources)))


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "a.jsonl.gz", "a.txt.gz"])
def test_every_kind_of_file_gives_its_documents_in_order(name: str, tmp_path: Path) -> None:
    assert read(write(tmp_path / name, "one", "two two", "three")) == ["one", "two two", "three"]


def test_a_folder_stands_for_the_files_in_it_sorted(tmp_path: Path) -> None:
    for name in ("b/x.txt", "a.jsonl.gz", "c.jsonl", "notes.md"):
        write(tmp_path / name, name)
    files = corpus_files([str(tmp_path)])
    assert [Path(part.path).name for part in files] == ["a.jsonl.gz", "x.txt", "c.jsonl"]
    assert list(documents(files)) == ["a.jsonl.gz", "b/x.txt", "c.jsonl"]


def test_prompts_count_with_their_completions_and_chats_whole(tmp_path: Path) -> None:
    records = [
        {"prompt": "two and two ", "completion": "are four"},
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]},
    ]
    file = tmp_path / "c.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert read(str(file)) == ["two and two are four", "hi\n\nhello"]


def test_blank_documents_are_passed_over(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.jsonl", "", "one", " \n")) == ["one"]


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (["nothing.jsonl"], "nothing.jsonl: No such file or directory"),
        (
            ["empty"],
            "empty: no .arrow, .csv, .json, .jsonl, .ndjson, .parquet, .tsv, .txt file in this folder",
        ),
        (["a.txt", "a.txt"], "a.txt: given twice; each part of a corpus once"),
        (["-", "-"], "<stdin>: given twice; each part of a corpus once"),
    ],
)
def test_what_is_no_corpus_is_named(
    sources: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    write(tmp_path / "a.txt", "one")
    with pytest.raises(InputError) as raised:
        corpus_files(sources)
    assert str(raised.value) == message


def test_a_damaged_gzip_file_is_named_with_its_fault(tmp_path: Path) -> None:
    file = Path(write(tmp_path / "a.jsonl.gz", *(f"text {n}" for n in range(1000))))
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"a.jsonl.gz: not a whole compressed file .*; compress it again"):
        read(str(file))


def test_a_corpus_without_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a.jsonl: no text at all"):
        read(write(tmp_path / "a.jsonl", " ", ""))


def test_a_corpus_from_stdin_is_checked_whole_and_read_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = write(tmp_path / "a.txt", "a file")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\ntwo\n"), encoding="utf-8"))
    with checked(corpus_files([file, "-"])) as parts:
        assert [list(documents(parts)) for _ in range(2)] == [["a file", "one", "two"]] * 2
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"text": 3}\n'), encoding="utf-8"))
    with pytest.raises(InputError, match="^<stdin>:1: 'text' must be a string"), checked(corpus_files(["-"])):
        pass
