"""What a file or a folder is, by what it holds and not by its name; which files of a folder hold records.

Knows the first bytes of formats, and the files that make a folder a model, an SAE or a dataset. Knows
nothing of records.
"""

import codecs
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import InputError

HEAD = 2**16  # bytes that tell what a file is
COMPRESSIONS = {".gz", ".bz2", ".xz", ".zst"}
RECORDS = {".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt", ".parquet", ".arrow"}
# what makes a folder that of an SAE, or of several, before what makes it a model's
_OF_AN_SAE = ("cfg.json", "*/cfg.json", "ae.pt", "*/ae.pt", "params.npz", "params.safetensors")
# what a folder of texts holds besides texts
_ABOUT_A_DATASET = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}


class Kind(NamedTuple):
    """What a file or folder is, and what takes it."""

    what: str
    use: str
    texts: bool = False  # whether records can be read from it

    def __str__(self) -> str:
        return f"{self.what}; {self.use}"


TEXT = Kind("a text file", "`neurosteer fit` makes a vector of texts", texts=True)
UNKNOWN = Kind("a binary file of a kind unknown here", "give texts: JSONL, CSV, Parquet or plain lines")
VECTOR = Kind("a steering vector", "give it a --vector of its own, or to `neurosteer inspect`")
SAE = Kind("an SAE's folder", "give it with --sae, or to `neurosteer sae info`")
MODEL = Kind("a model's folder", "give it with --model")
_SAE_WEIGHTS = Kind("the weights of an SAE", "name its folder, with --sae or to `neurosteer sae info`")
_WEIGHTS = Kind("a safetensors file, but not one written by neurosteer", "name a model's folder with --model")
CONTROL_VECTOR = Kind("a GGUF control vector", "`neurosteer import` makes a steering vector of it")
GGUF = Kind("a GGUF model", "give it with --model")
_ZIP = Kind("a zip archive", "unpack it first")
_WORKBOOK = Kind("an Excel workbook", "save it as CSV")
_DOCUMENT = Kind("an office document", "save it as plain text")
_CHECKPOINT = Kind("a pickled PyTorch checkpoint", "pickles are never read; save it as safetensors")
_ARRAYS = Kind("NumPy arrays", "give texts: JSONL, CSV, Parquet or plain lines")
_IMAGE = Kind("an image", "only texts are read")

_BY_MAGIC = {
    b"PAR1": Kind("a Parquet file", TEXT.use, texts=True),
    b"ARROW1": Kind("an Arrow file", TEXT.use, texts=True),
    b"\xff\xff\xff\xff": Kind("an Arrow stream", TEXT.use, texts=True),
    b"\x1f\x8b": Kind("a gzip file", "unpack it first: gunzip", texts=True),
    b"BZh": Kind("a bzip2 file", "unpack it first: bunzip2", texts=True),
    b"\xfd7zXZ\0": Kind("an xz file", "unpack it first: unxz", texts=True),
    b"\x28\xb5\x2f\xfd": Kind("a zstd file", "unpack it first: unzstd", texts=True),
    b"\x04\x22\x4d\x18": Kind("an lz4 file", "unpack it first: unlz4"),
    b"7z\xbc\xaf\x27\x1c": Kind("a 7z archive", "unpack it first"),
    b"Rar!": Kind("a RAR archive", "unpack it first"),
    b"\x89PNG": _IMAGE,
    b"\xff\xd8\xff": _IMAGE,
    b"GIF8": _IMAGE,
    b"%PDF-": Kind("a PDF document", "save its text: pdftotext"),
    b"\x93NUMPY": _ARRAYS,
    b"\x89HDF": Kind("an HDF5 file", "save its texts as JSONL or CSV"),
    b"SQLite format 3\0": Kind("an SQLite database", "write its texts out as CSV: sqlite3 -csv -header"),
    b"\xd0\xcf\x11\xe0": Kind("an old Office file (.xls or .doc)", "save it as CSV or plain text"),
    b"version https://git-lfs": Kind("a Git LFS pointer and not the file itself", "run: git lfs pull"),
}
# The architecture that a GGUF file says it is of: a string, by its type and length.
_OF_CONTROL_VECTORS = re.compile(rb"general\.architecture\x08\0\0\0.{8}controlvector", re.DOTALL)
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16's, with which it begins
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_PAGE = re.compile(rb"\s*<(!doctype html|html|\?xml)", re.IGNORECASE)


def kind_of(path: str | Path) -> Kind:
    """What a file or folder is.

    Raises:
        InputError: there is none, or it cannot be read. What is no regular file is not looked into: TEXT.
    """
    if os.path.isdir(path):
        return folder_kind(Path(path))
    if os.path.exists(path) and not os.path.isfile(path):
        return TEXT
    try:
        with open(path, "rb") as file:
            return kind_of_bytes(file.read(HEAD))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error


def known_kind(path: str | Path) -> Kind | None:
    """What a path is, if that is certain: an empty or damaged file and a plain folder may be anything."""
    if os.path.isdir(path):
        kind = folder_kind(Path(path))
        return kind if kind in (MODEL, SAE) else None
    kind = kind_of(path)
    return kind if kind != UNKNOWN and os.path.getsize(path) else None


def kind_of_bytes(head: bytes) -> Kind:
    """What a file is that begins so."""
    if head.startswith(b"GGUF"):
        return CONTROL_VECTOR if _OF_CONTROL_VECTORS.search(head) else GGUF
    if head.startswith((b"PK\3\4", b"PK\5\6")):
        return _zipped(head)
    if head[4:9] == b"\0\0\0\0{":  # safetensors: the header's length, below 4 GiB, and the header
        return VECTOR if b'"neurosteer"' in head else _SAE_WEIGHTS if b'"W_enc"' in head else _WEIGHTS
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return _IMAGE
    if head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return Kind("a Python pickle", "pickles are never read; save it as JSONL")
    if head[257:262] == b"ustar":
        return Kind("a tar archive", "unpack it first")
    if page := _PAGE.match(head):
        is_page = b"html" in page[1].lower()
        return Kind("an HTML page" if is_page else "an XML file", "give texts: JSONL, CSV or plain lines")
    known = (kind for magic, kind in _BY_MAGIC.items() if head.startswith(magic))
    return next(known, UNKNOWN if b"\0" in head and encoding_of(head) == "utf-8" else TEXT)


def encoding_of(head: bytes) -> str:
    """How a text that begins so is encoded: by its byte order mark, or by where its zeros stand."""
    for mark, encoding in _MARKS.items():
        if head.startswith(mark):
            return encoding
    sample, pairs = head[:256], len(head[:256]) // 2
    zeros = [sample[start : 2 * pairs : 2].count(0) for start in (0, 1)]
    if pairs >= 4 and min(zeros) == 0 and max(zeros) > 0.7 * pairs:
        return "utf-16-be" if zeros[0] else "utf-16-le"
    return "utf-8"


def _zipped(head: bytes) -> Kind:
    inside = {
        b"[Content_Types].xml": _WORKBOOK if b"xl/" in head else _DOCUMENT,
        b"xl/": _WORKBOOK,
        b"word/": _DOCUMENT,
        b"data.pkl": _CHECKPOINT,
        b".npy": _ARRAYS,
    }
    return next((kind for name, kind in inside.items() if name in head), _ZIP)


def folder_kind(folder: Path) -> Kind:
    """What a folder is."""

    def has(pattern: str) -> bool:
        return any(folder.glob(pattern))

    if any(map(has, _OF_AN_SAE)):
        return SAE
    if has("config.json") and (has("*.safetensors") or has("*.bin")):
        return MODEL
    if has("*.st") and not any(_records_in(folder)):
        return Kind("a folder of vectors", "name one of them")
    if any(_records_in(folder)):
        return Kind("a folder of texts", TEXT.use, texts=True)
    return Kind("a directory", "name a file, or `-` for stdin")


def files_in(folder: Path) -> list[str]:
    """The files of a folder that hold records: in a Hugging Face dataset's own order, else by path.

    Raises:
        InputError: it is not a folder of texts, or a dataset of several splits.
    """
    if not (kind := folder_kind(folder)).texts:
        is_plain = kind.what == "a directory"
        what = f"no {', '.join(sorted(RECORDS))} file in this folder" if is_plain else str(kind)
        raise InputError(f"{folder}: {what}")
    if (folder / "dataset_dict.json").is_file():
        splits: list[str] = _json(folder / "dataset_dict.json")["splits"]
        if len(splits) != 1:
            named = ", ".join(str(folder / split) for split in splits)
            raise InputError(f"{folder}: a dataset of several splits; name one of them: {named}")
        return files_in(folder / splits[0])
    if (folder / "state.json").is_file():
        return [str(folder / part["filename"]) for part in _json(folder / "state.json")["_data_files"]]
    return list(_records_in(folder))


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read; save the dataset again") from error


def _records_in(folder: Path) -> Iterator[str]:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith((".", "cache-")) or entry.name in _ABOUT_A_DATASET:
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _records_in(Path(entry))
        elif suffix_of(entry.name) in RECORDS:
            yield str(Path(entry))


def suffix_of(name: str) -> str:
    """What a name ends in, `.jsonl` of texts.jsonl.gz; in small letters, "" if nothing."""
    path = Path(name.lower())
    return Path(path.stem).suffix if path.suffix in COMPRESSIONS else path.suffix


def stem_of(name: str) -> str:
    """What a file of texts is called without its endings: `polite` of data/polite.jsonl.gz."""
    path = Path(name)
    return Path(path.stem).stem if path.suffix.lower() in COMPRESSIONS else path.stem
