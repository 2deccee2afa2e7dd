"""A file is what it holds, whatever it is called; the same texts come out of every format."""

import bz2
import csv
import gzip
import io
import json
import lzma
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest

from neurosteer_cli.data.sources import read_records
from neurosteer_cli.errors import InputError

TEXTS = ["one", 'two, "quoted"', "three\nlines\n\nof it", "ünï ☃ \u2028 end", "  five\t5  "]
PLAIN = [text for text in TEXTS if "\n" not in text]
RECORDS: list[dict[str, Any]] = [{"text": text, "label": n} for n, text in enumerate(TEXTS)]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, data: bytes | str) -> str:
    Path(name).write_bytes(data.encode() if isinstance(data, str) else data)
    return name


def read(source: str, **options: Any) -> list[dict[str, Any]]:
    return [located.record for located in read_records(source, **options)]


def texts(source: str, **options: Any) -> list[str]:
    return [record["text"] for record in read(source, **options)]


def refusal(source: str) -> str:
    with pytest.raises(InputError) as raised:
        read(source)
    return str(raised.value)


def jsonl(records: list[dict[str, Any]] = RECORDS) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def table(delimiter: str = ",", header: tuple[str, str] = ("text", "label"), end: str = "\r\n") -> str:
    written = io.StringIO()
    writer = csv.writer(written, delimiter=delimiter, lineterminator=end)
    writer.writerows([header, *(record.values() for record in RECORDS)])
    return written.getvalue()


def columns() -> Any:
    return pyarrow.table({"text": TEXTS, "label": [0, 1, 2, 3, 4]})


def parquet() -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(columns(), sink, row_group_size=2)
    return sink.getvalue()


def arrow(new: Callable[..., Any]) -> bytes:
    sink = io.BytesIO()
    with new(sink, columns().schema) as writer:
        writer.write_table(columns(), max_chunksize=2)
    return sink.getvalue()


def zstd(data: bytes) -> bytes:
    with pyarrow.CompressedOutputStream("packed", "zstd") as file:
        file.write(data)
    packed = Path("packed").read_bytes()
    Path("packed").unlink()
    return packed


FORMATS: dict[str, bytes | str] = {
    "JSONL": jsonl(),
    "JSONL, CRLF": jsonl().replace("\n", "\r\n"),
    "a list": json.dumps(RECORDS),
    "a list over lines": json.dumps(RECORDS, indent=2),
    "a list in an object": json.dumps({"version": 1, "data": RECORDS}),
    "a list in an object over lines": json.dumps({"version": 1, "data": RECORDS}, indent=1),
    "objects one behind the other": "".join(map(json.dumps, RECORDS)),
    "objects over lines": "\n".join(json.dumps(record, indent=2) for record in RECORDS),
    "CSV": table(),
    "CSV, LF": table(end="\n"),
    "TSV": table("\t"),
    "CSV with semicolons": table(";"),
    "Parquet": parquet(),
    "Arrow stream": arrow(pyarrow.ipc.new_stream),
    "Arrow file": arrow(pyarrow.ipc.new_file),
}


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt", "a.parquet", "a", "a.md", "a.gz"]
)
@pytest.mark.parametrize("what", FORMATS)
def test_a_file_is_read_by_what_it_holds(what: str, name: str) -> None:
    assert texts(write(name, FORMATS[what])) == TEXTS


@pytest.mark.parametrize("what", FORMATS)
def test_stdin_is_read_by_what_it_holds(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = FORMATS[what]
    stream = io.BytesIO(data.encode() if isinstance(data, str) else data)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(stream, encoding="utf-8"))
    assert texts("-") == TEXTS


@pytest.mark.parametrize("name", ["a.txt", "a", "a.md"])
def test_plain_lines_are_texts_even_with_commas_and_brackets(name: str) -> None:
    for lines in (
        ["Yes, please", "No, thanks"], ["[Scene: a bar]", "He enters."], ["{wave} hello", "bye"],
        ["Hello, text", "Good, text"], ["one"], ["<b>bold</b>", "plain"], ['"quoted", he said', "so"],
    ):  # fmt: skip
        assert texts(write(name, "\n".join(lines))) == lines


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.jsonl", jsonl(), None),
        ("a.json", jsonl(), None),
        ("a.json", json.dumps(RECORDS), None),
        ("a.txt", "one\ntwo\n", None),
        ("a.csv", table(), None),
        ("a.tsv", table("\t"), None),
        ("a.jsonl.gz", gzip.compress(jsonl().encode()), None),
        ("a", jsonl(), None),
        ("a", "one\n", None),
        ("a.txt", jsonl(), "a.txt: holds JSONL, and is read as that"),
        ("a.jsonl", json.dumps(RECORDS), "a.jsonl: holds JSON, and is read as that"),
        ("a.txt", table(), "a.txt: holds CSV, and is read as that"),
        ("a", table(), "a: holds CSV, and is read as that"),
        ("a", "prompt\none\ntwo\n", "a: holds CSV, and is read as that"),
        ("a.csv", parquet(), "a.csv: holds Parquet, and is read as that"),
        ("a.jsonl", gzip.compress(jsonl().encode()), "a.jsonl: holds gzip-packed JSONL, and is read as that"),
        ("a.jsonl.gz", jsonl(), "a.jsonl.gz: holds unpacked JSONL, and is read as that"),
    ],
)
def test_where_a_name_says_something_else_it_is_said_once(
    name: str, data: bytes | str, said: str | None
) -> None:
    messages: list[str] = []
    read(write(name, data), say=messages.append)
    assert messages == ([said] if said else [])


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstd,
    "gzip twice": lambda data: gzip.compress(gzip.compress(data)),
}


@pytest.mark.parametrize("what", ["JSONL", "CSV", "a list over lines", "Parquet"])
@pytest.mark.parametrize("packer", PACKERS)
def test_what_is_packed_is_unpacked_whatever_it_is_called(packer: str, what: str) -> None:
    data = FORMATS[what]
    packed = PACKERS[packer](data.encode() if isinstance(data, str) else data)
    assert texts(write("a.jsonl", packed)) == TEXTS
    message = refusal(write("cut.jsonl", packed[: len(packed) // 2]))
    assert message.startswith("cut.jsonl: ")
    assert "\n" not in message


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_texts_are_decoded_by_their_mark_or_their_zeros(encoding: str) -> None:
    assert texts(write("a.jsonl", jsonl().encode(encoding))) == TEXTS
    assert texts(write("a.csv", table().encode(encoding))) == TEXTS
    assert texts(write("a.txt", "one\r\ntwo".encode(encoding))) == ["one", "two"]


def test_text_that_is_cut_within_a_character_is_named() -> None:
    for encoding in ("utf-16", "utf-32"):
        message = refusal(write("a.txt", "one\ntwo".encode(encoding)[:-1]))
        assert message.startswith("a.txt: its text is damaged (")
    assert refusal(write("a.json", '[{"text": "caf\xe9"}]'.encode("latin-1"))).startswith(
        "a.json: not UTF-8 ("
    )


def test_a_long_line_alone_is_looked_at_once() -> None:
    line = '{"text": "' + "a" * 60_000 + '"}'
    start = time.monotonic()
    assert len(texts(write("a.jsonl", line))[0]) == 60_000
    assert time.monotonic() - start < 1


def test_a_byte_order_mark_in_the_middle_is_no_part_of_a_text() -> None:
    assert texts(write("a.txt", "\ufeffone\n\ufefftwo\n")) == ["one", "two"]
    assert texts(write("a.jsonl", '\ufeff{"text": "one"}\n\ufeff{"text": "two"}\n')) == ["one", "two"]


def test_lines_may_end_in_carriage_returns_alone() -> None:
    assert texts(write("a.txt", "one\rtwo\r")) == ["one", "two"]
    assert texts(write("a.jsonl", jsonl().replace("\n", "\r"))) == TEXTS
    assert texts(write("b.txt", "a\rb\nc")) == ["a\rb", "c"]


def test_a_list_of_texts_is_texts() -> None:
    assert texts(write("a.json", json.dumps(TEXTS))) == TEXTS
    assert read(write("a.json", '["one"]'), plain_key="prompt") == [{"prompt": "one"}]


def test_an_object_with_a_list_in_it_may_be_a_record() -> None:
    chat = {"messages": [{"role": "user", "content": "hi"}]}
    written = {"prompt": {"text": "p"}, "generations": [{"text": "a"}]}
    for record in (chat, written, {"text": "a", "spans": [{"start": 0}]}):
        assert read(write("a.jsonl", json.dumps(record))) == [record]
        assert read(write("a.json", json.dumps(record, indent=1))) == [record]


def test_objects_that_hold_a_list_each_are_records() -> None:
    records = [{"id": n, "lines": [{"speaker": "A", "text": f"hi {n}"}, {"text": "yo"}]} for n in range(3)]
    jsonl = "\n".join(map(json.dumps, records))
    for name, data in {
        "a.jsonl": jsonl,
        "a.json": jsonl,
        "b.json": "\n".join(json.dumps(record, indent=1) for record in records),
        "c.json": json.dumps(records),
    }.items():
        assert read(write(name, data)) == records
    told = [located.where for located in read_records(write("a.jsonl", f"\n{jsonl}\n\n"))]
    assert told == ["a.jsonl:2", "a.jsonl:3", "a.jsonl:4"]


def test_a_chat_under_a_key_of_ones_own_is_one_record() -> None:
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
    chats = [{"dialogue": turns}, {"dialogue": [*turns, *turns]}]
    for number in (1, 2):
        source = write("a.jsonl", "\n".join(map(json.dumps, chats[:number])))
        assert read(source) == chats[:number]
        read_as_chats = [record["messages"] for record in read(source, text_key="dialogue")]
        assert read_as_chats == [chat["dialogue"] for chat in chats[:number]]
    other = {"steps": [{"thought": "a"}]}
    assert read(write("a.json", json.dumps(other)), text_key="steps")[0]["messages"] == other["steps"]


# --- tables ------------------------------------------------------------------------------------


def test_rows_are_blamed_by_the_line_they_begin_on() -> None:
    where = [located.where for located in read_records(write("a.csv", table()))]
    assert where == ["a.csv:2", "a.csv:3", "a.csv:4", "a.csv:8", "a.csv:9"]
    assert [located.where for located in read_records(write("a.parquet", parquet()))][-1] == "a.parquet:5"
    assert [located.where for located in read_records(write("a.json", json.dumps(RECORDS)))][1] == (
        "a.json, item 2"
    )


def test_any_columns_may_be_named() -> None:
    for name in ("a.csv", "a.txt"):
        file = write(name, table(header=("review", "sentiment")))
        assert texts(file, text_key="review") == TEXTS
    file = write("a", table(header=("Bewertung", "Note")))
    assert texts(file, text_key="Bewertung") == TEXTS


def test_quotation_marks_in_a_tsv_file_may_be_plain_characters() -> None:
    lines = ['" smart " film', 'a "quote', '"', "plain"]
    data = "sentence\tlabel\n" + "".join(f"{line}\t1\n" for line in lines)
    assert texts(write("a.tsv", data), text_key="sentence") == lines


def test_one_column_of_texts_is_a_table_by_name_or_header() -> None:
    data = 'text\n"one, and\nmore"\ntwo\n'
    assert texts(write("a.csv", data)) == ["one, and\nmore", "two"]
    assert texts(write("a", data)) == ["one, and\nmore", "two"]
    assert texts(write("a.txt", "text\ntwo\n")) == ["text", "two"]


QUOTE = 'a text with the delimiter or a line break in it stands in "..."'


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("text,label\none,1\ntwo\n", f"a.csv:3: 1 cells, the header has 2; {QUOTE}"),
        ("text,label\none, and,1\n", f"a.csv:2: 3 cells, the header has 2; {QUOTE}"),
        ("text,text\na,b\n", "a.csv:1: two columns have the same name; found ['text', 'text']"),
        ('text,label\n"one" more,1\n', "a.csv:2: not a row of CSV (',' expected after '\"')"),
        ('text,label\n"one\ntwo\n', "a.csv:2: not a row of CSV (unexpected end of data)"),
        ("text,label\n", "a.csv: no records; give a JSON object or a text a line, CSV or Parquet"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named(data: str, message: str) -> None:
    assert refusal(write("a.csv", data)) == message


def test_a_cell_may_be_long() -> None:
    assert texts(write("a.csv", f"text,label\n{'a' * 2**18},1\n")) == ["a" * 2**18]


def test_a_damaged_table_is_named() -> None:
    for name, data in (
        ("a.parquet", parquet()),
        ("a.arrow", FORMATS["Arrow file"]),
        ("b", FORMATS["Arrow stream"]),
    ):
        message = refusal(write(name, data[:-60]))  # type: ignore[arg-type]
        assert message.startswith(f"{name}: damaged (")
        assert "\n" not in message


def test_cells_are_what_json_can_hold() -> None:
    made = pyarrow.table(
        {
            "text": ["one"],
            "none": [float("nan")],
            "when": pyarrow.array([0], pyarrow.timestamp("s")),
            "image": [b"\x89PNG"],
            "nested": [{"list": [1, 2.5, None]}],
        }
    )
    pyarrow.parquet.write_table(made, "a.parquet")
    said: list[str] = []
    assert read("a.parquet", say=said.append) == [
        {"text": "one", "none": None, "when": "1970-01-01 00:00:00", "nested": {"list": [1, 2.5, None]}}
    ]
    assert said == ["a.parquet: columns of bytes are left out: image"]


# --- folders -----------------------------------------------------------------------------------


def save_dataset(folder: Path) -> None:
    """What `datasets` saves: Arrow streams, named in order by state.json."""
    folder.mkdir(parents=True)
    for number, part in enumerate((TEXTS[:2], TEXTS[2:])):
        with pyarrow.ipc.new_stream(
            folder / f"data-{number}.arrow", pyarrow.schema({"text": "string"})
        ) as writer:
            writer.write_table(pyarrow.table({"text": part}))
    files = [{"filename": f"data-{number}.arrow"} for number in (0, 1)]
    (folder / "state.json").write_text(json.dumps({"_data_files": files}))
    (folder / "dataset_info.json").write_text("{}")


def test_a_dataset_folder_is_its_rows() -> None:
    save_dataset(Path("ds"))
    assert texts("ds") == TEXTS
    assert next(iter(read_records("ds"))).where == "ds/data-0.arrow:1"


def test_of_a_dataset_of_several_splits_one_is_named() -> None:
    for split in ("train", "test"):
        save_dataset(Path("dd") / split)
    Path("dd/dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert refusal("dd") == "dd: a dataset of several splits; name one of them: dd/train, dd/test"
    assert texts("dd/train") == TEXTS
    Path("dd/dataset_dict.json").write_text('{"splits": ["test"]}')
    assert texts("dd") == TEXTS


def test_a_folder_is_the_files_of_texts_in_it() -> None:
    Path("repo/data").mkdir(parents=True)
    write("repo/README.md", "about it")
    write("repo/dataset_infos.json", "{}")
    write("repo/data/train-00001.parquet", parquet())
    write("repo/data/train-00000.jsonl.gz", gzip.compress(b'{"text": "zero"}\n'))
    assert texts("repo") == ["zero", *TEXTS]


# --- memory ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "pretty.json", "a.csv", "a.jsonl.gz", "a.parquet"])
def test_memory_does_not_grow_with_the_file(name: str) -> None:
    write_large(name)
    tracemalloc.start()
    assert sum(1 for _ in read_records(name)) == 6_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6e6


def write_large(name: str) -> None:
    """12 MB of texts."""
    records = [{"text": f"{n} " * 500} for n in range(6_000)]
    if name == "a.parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), name, row_group_size=500)
    elif name == "a.csv":
        write(name, "".join(["text,id\n", *(f"{record['text']},1\n" for record in records)]))
    elif name.endswith(".json"):
        write(name, json.dumps(records, indent=2 if name == "pretty.json" else None))
    else:
        data = jsonl(records).encode()
        write(name, gzip.compress(data, 1) if name.endswith(".gz") else data)
