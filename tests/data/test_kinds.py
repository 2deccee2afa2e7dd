"""A file or folder is named for what it is, with what takes it."""

import gzip
import json
import pickle
import tarfile
import zipfile
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.saes import write
from support.tiny import save_tiny, save_tiny_sae

from neurosteer_cli.data.kinds import kind_of, stem_of, suffix_of
from neurosteer_cli.data.sources import read_records
from neurosteer_cli.errors import InputError


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def what(name: str, data: bytes | None = None) -> str:
    if data is not None:
        Path(name).write_bytes(data)
    return kind_of(name).what


def save_gguf(name: str, architecture: str) -> None:
    writer = gguf.GGUFWriter(name, architecture)
    writer.add_tensor("direction.1", np.ones(8, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_what_this_program_and_its_neighbours_write_is_known() -> None:
    save_file({"a": torch.ones(2)}, "v.st", metadata={"neurosteer": "{}"})
    save_file({"a": torch.ones(2)}, "w.st", metadata={"format": "pt"})
    save_file({"W_enc": torch.ones(2)}, "sae.safetensors")
    save_gguf("cv.gguf", "controlvector")
    save_gguf("m.gguf", "llama")
    save_tiny(Path("model"))
    save_tiny_sae(Path("sae"))
    save_tiny_sae(Path("family/blocks.2"))
    write(Path("scope"), {"config.json": {}, "params.safetensors": {}})
    write(Path("learned"), {"config.json": {}, "ae.pt": {}})
    Path("vectors").mkdir()
    Path("vectors/a.st").write_bytes(Path("v.st").read_bytes())
    expected = {
        "v.st": "a steering vector",
        "w.st": "a safetensors file, but not one written by neurosteer",
        "sae.safetensors": "the weights of an SAE",
        "sae/sae_weights.safetensors": "the weights of an SAE",
        "cv.gguf": "a GGUF control vector",
        "m.gguf": "a GGUF model",
        "model": "a model's folder",
        "model/model.safetensors": "a safetensors file, but not one written by neurosteer",
        "sae": "an SAE's folder",
        "family": "an SAE's folder",
        "scope": "an SAE's folder",
        "learned": "an SAE's folder",
        "vectors": "a folder of vectors",
    }
    assert {name: what(name) for name in expected} == expected
    for name in expected:  # and none of them is read as texts, under whatever name
        with pytest.raises(InputError) as raised:
            list(read_records(name))
        assert str(raised.value) == f"{name}: {kind_of(name)}"


def test_what_people_have_besides_texts_is_known() -> None:
    with zipfile.ZipFile("book.xlsx", "w") as book:
        book.writestr("[Content_Types].xml", "")
        book.writestr("xl/workbook.xml", "")
    with zipfile.ZipFile("a.zip", "w") as archive:
        archive.writestr("a.txt", "one")
    Path("a.txt").write_text("one\n")
    with tarfile.open("a.tar", "w") as tar:
        tar.add("a.txt")
    Path("a.tar.gz").write_bytes(gzip.compress(Path("a.tar").read_bytes()))
    torch.save({"a": 1}, "model.pt")
    np.save("a.npy", np.ones(3))
    np.savez("a.npz", a=np.ones(3))
    Path("a.pkl").write_bytes(pickle.dumps({"text": "one"}))
    files = {
        "book.xlsx": "an Excel workbook",
        "a.zip": "a zip archive",
        "a.tar": "a tar archive",
        "model.pt": "a pickled PyTorch checkpoint",
        "a.npy": "NumPy arrays",
        "a.npz": "NumPy arrays",
        "a.pkl": "a Python pickle",
    }
    assert {name: what(name) for name in files} == files
    made = {
        "i.png": (b"\x89PNG\r\n\x1a\n", "an image"),
        "i.jpg": (b"\xff\xd8\xff\xe0", "an image"),
        "d.pdf": (b"%PDF-1.7\n", "a PDF document"),
        "report.html": (b"<!DOCTYPE html>\n<html>", "an HTML page"),
        "a.xml": (b"<?xml version='1.0'?>", "an XML file"),
        "lfs.jsonl": (
            b"version https://git-lfs.github.com/spec/v1\n",
            "a Git LFS pointer and not the file itself",
        ),
        "a.db": (b"SQLite format 3\0", "an SQLite database"),
    }
    assert {name: what(name, data) for name, (data, _) in made.items()} == {
        k: v for k, (_, v) in made.items()
    }
    for name in [*files, *made]:
        with pytest.raises(InputError) as raised:
            list(read_records(name))
        assert str(raised.value) == f"{name}: {kind_of(name)}"
    with pytest.raises(InputError, match=r"^a.tar.gz: a tar archive; unpack it first$"):
        list(read_records("a.tar.gz"))


def test_texts_are_texts_and_what_is_neither_is_said_to_be() -> None:
    for name, data in (
        ("a", b"one\n"),
        ("b.jsonl", b"{}"),
        ("c", "one".encode("utf-16")),
        ("d", "caf\xe9".encode("latin-1")),
    ):
        assert what(name, data) == "a text file"
    assert what("e", gzip.compress(b"one")) == "a gzip file"
    assert what("f", b"\1\2\0\3\0\0\0\4 and so on") == "a binary file of a kind unknown here"
    Path("texts").mkdir()
    assert what("texts") == "a directory"
    Path("texts/a.jsonl").write_text(json.dumps({"text": "one"}))
    assert what("texts") == "a folder of texts"
    with pytest.raises(InputError, match="^none: No such file or directory$"):
        kind_of("none")


@pytest.mark.parametrize(
    ("name", "suffix", "stem"),
    [
        ("a/polite.jsonl", ".jsonl", "polite"),
        ("polite.JSONL.GZ", ".jsonl", "polite"),
        ("polite.csv.zst", ".csv", "polite"),
        ("v1.2.txt", ".txt", "v1.2"),
        ("v1.2.txt.bz2", ".txt", "v1.2"),
        ("polite", "", "polite"),
        ("polite.gz", "", "polite"),
        ("polite/", "", "polite"),
        ("notes.md", ".md", "notes"),
    ],
)
def test_a_name_has_a_stem_and_an_ending(name: str, suffix: str, stem: str) -> None:
    assert (suffix_of(name), stem_of(name)) == (suffix, stem)
