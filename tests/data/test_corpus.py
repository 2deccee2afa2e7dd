"""A corpus: files, folders, gzip; documents in order, and packed into sequences."""

import gzip
import io
import json
import sys
from pathlib import Path

import pytest
import torch

from neurosteer_cli.data.corpus import checked, corpus_files, documents
from neurosteer_cli.errors import InputError
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.residuals import packed


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
        (["empty"], "empty: no .jsonl, .txt, .jsonl.gz, .txt.gz file in this folder"),
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
    with pytest.raises(InputError, match=r"a.jsonl.gz: not a whole gzip file .*; compress it again"):
        read(str(file))
    file.write_bytes(b"plain text")
    with pytest.raises(InputError, match=r"a.jsonl.gz: not a whole gzip file .*; compress it again"):
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


def test_documents_are_packed_end_to_end_with_an_end_of_text_between(engine: Engine) -> None:
    sequences = list(packed(engine, ["abcde", "fg", "hijklmnop"], 8))
    end = engine.tokenizer.eos_token_id
    flat = [token for tokens in sequences for token in tokens.ids]
    words = [engine.tokenizer(text)["input_ids"] for text in ("abcde", "fg", "hijklmnop")]
    spelt = [token for ids in words for token in [*ids, end]]
    assert flat == spelt
    assert [len(tokens.ids) for tokens in sequences] == [8, 8, 3]
    for tokens in sequences:
        assert tokens.counts == [n > 0 and token != end for n, token in enumerate(tokens.ids)]


def test_packing_does_not_depend_on_how_many_documents_are_tokenized_together(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"document {n} " * (n % 5 + 1) for n in range(20)]
    whole = list(packed(engine, texts, 16))
    monkeypatch.setattr("neurosteer_cli.models.residuals.DOCUMENTS_AT_ONCE", 3)
    assert list(packed(engine, texts, 16)) == whole


def test_a_long_document_is_cut_and_none_of_it_is_lost(engine: Engine) -> None:
    sequences = list(packed(engine, ["x" * 1000], 64))
    assert sum(len(tokens.ids) for tokens in sequences) == 1001
    assert torch.tensor([len(tokens.ids) for tokens in sequences]).max() == 64
