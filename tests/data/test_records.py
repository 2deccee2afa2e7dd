"""Records are read one at a time, kept whole, and blamed by file and line."""

import io
import json
import os
import re
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from neurosteer_cli.data import streams
from neurosteer_cli.data.records import (
    Located,
    Passage,
    appending,
    as_passage,
    chat_messages,
    recover,
    string_value,
    write_record,
)
from neurosteer_cli.data.sources import read_records
from neurosteer_cli.errors import InputError

BOM = b"\xef\xbb\xbf"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write bytes under a name in the working folder, and give the name back."""
    monkeypatch.chdir(tmp_path)

    def write_file(name: str, data: bytes | str) -> str:
        Path(name).write_bytes(data.encode() if isinstance(data, str) else data)
        return name

    return write_file


def stdin_of(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put bytes on a stdin that, as under a test runner, has no file descriptor."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))


def refusal(source: str, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        list(read_records(source, **options))
    return str(caught.value)


# --- what is read ------------------------------------------------------------------------------


def test_jsonl_records_come_with_every_key_and_their_line(write: Any) -> None:
    name = write("a.jsonl", '{"text": "one", "id": 7, "tags": ["x", null]}\n{"text": "two"}\n')
    assert list(read_records(name)) == [
        Located("a.jsonl:1", {"text": "one", "id": 7, "tags": ["x", None]}),
        Located("a.jsonl:2", {"text": "two"}),
    ]


def test_a_txt_file_has_a_text_a_line(write: Any) -> None:
    name = write("a.txt", '  one \n{"not": "json here"}\r\nthree')
    assert list(read_records(name)) == [
        Located("a.txt:1", {"text": "one"}),
        Located("a.txt:2", {"text": '{"not": "json here"}'}),
        Located("a.txt:3", {"text": "three"}),
    ]


def test_the_suffix_of_plain_text_may_be_in_capitals(write: Any) -> None:
    assert [r.record for r in read_records(write("A.TXT", "one"))] == [{"text": "one"}]


def test_a_plain_line_becomes_a_record_under_the_key_asked_for(write: Any) -> None:
    located = next(read_records(write("a.txt", "one"), plain_key="prompt"))
    assert located.record == {"prompt": "one"}


def test_empty_lines_are_skipped_and_counted(write: Any) -> None:
    name = write("a.jsonl", '\n  \n{"text": "three"}\n\r\n{"text": "five"}\n\n')
    assert [located.where for located in read_records(name)] == ["a.jsonl:3", "a.jsonl:5"]


def test_a_byte_order_mark_is_no_part_of_the_text(write: Any) -> None:
    for name, data in (("a.jsonl", b'{"text": "one"}'), ("a.txt", b"one")):
        assert [r.record for r in read_records(write(name, BOM + data))] == [{"text": "one"}]


def test_line_separators_inside_a_text_end_no_line(write: Any) -> None:
    text = "one\u2028two\x0bthree\x85four"
    name = write("a.jsonl", json.dumps({"text": text}, ensure_ascii=False) + "\n")
    assert [located.record["text"] for located in read_records(name)] == [text]
    assert [r.record["text"] for r in read_records(write("a.txt", text))] == [text]


def test_a_surrogate_pair_in_json_is_one_character(write: Any) -> None:
    assert next(read_records(write("a.jsonl", '{"text": "\\ud83d\\ude00"}'))).record == {"text": "😀"}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'\n {"text": "one"}\n', [Located("<stdin>:2", {"text": "one"})]),
        (BOM + b'{"text": "one"}', [Located("<stdin>:1", {"text": "one"})]),
        (b"one\n{two}\n",
         [Located("<stdin>:1", {"text": "one"}), Located("<stdin>:2", {"text": "{two}"})]),
    ],
)  # fmt: skip
def test_stdin_is_jsonl_if_its_first_line_begins_with_a_brace(
    monkeypatch: pytest.MonkeyPatch, data: bytes, expected: list[Located]
) -> None:
    stdin_of(data, monkeypatch)
    assert list(read_records("-")) == expected


def test_stdin_stays_open_after_it_has_been_read(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin_of(b"one\n", monkeypatch)
    list(read_records("-"))
    assert not sys.stdin.buffer.closed


def test_a_copy_of_stdin_is_read_like_stdin_and_blamed_as_stdin(write: Any) -> None:
    name = write("copy", "plain\n")
    assert list(read_records(name, name="<stdin>")) == [Located("<stdin>:1", {"text": "plain"})]
    assert refusal(write("copy", '{"a": 1}\n{'), name="<stdin>") == ("<stdin>:2: not a JSON object: '{'")


def test_a_record_is_known_before_the_next_line_exists(tmp_path: Path) -> None:
    path = tmp_path / "pipe.jsonl"
    os.mkfifo(path)
    first_is_read = threading.Event()

    def feed() -> None:
        with path.open("w") as pipe:
            pipe.write('{"text": "one"}\n')
            pipe.flush()
            assert first_is_read.wait(10)
            pipe.write("broken\n")

    feeder = threading.Thread(target=feed)
    feeder.start()
    located = read_records(str(path))
    assert next(located).record == {"text": "one"}
    first_is_read.set()
    with pytest.raises(InputError, match=re.escape(f"{path}:2: not a JSON object: 'broken'")):
        next(located)
    feeder.join()


# --- what is refused ---------------------------------------------------------------------------

NO_RECORDS = "no records; one JSON object (or, in a .txt file, one text) a line"
GOOD = '{"text": "good"}\n'


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", GOOD + '{"text": "half', "a.jsonl:2: not a JSON object: '{\"text\": \"half'"),
        ("a.jsonl", GOOD + "\n\n{]\n", "a.jsonl:4: not a JSON object: '{]'"),
        ("a.jsonl", "[1, 2]\n", "a.jsonl:1: not a JSON object: '[1, 2]'"),
        ("a.jsonl", "null\n", "a.jsonl:1: not a JSON object: 'null'"),
        ("a.jsonl", '"text"\n', "a.jsonl:1: not a JSON object: '\"text\"'"),
        ("a.jsonl", "plain\n" + GOOD, "a.jsonl:1: not a JSON object: 'plain'"),
        ("a.jsonl", GOOD.strip() * 2, "a.jsonl:1: not a JSON object: "
         "'{\"text\": \"good\"}{\"text\": \"good\"}'"),
        ("a.jsonl", "{" * 100, f"a.jsonl:1: not a JSON object: '{'{' * 56}..."),
        ("a.jsonl", '{"text": ' + "1" * 5000 + "}", "a.jsonl:1: not a JSON object: "
         f"'{{\"text\": {'1' * 47}..."),
        ("a.jsonl", '{"text": ' + "[" * 99999 + "]" * 99999 + "}",
         "a.jsonl:1: JSON nested too deeply"),
        ("a.jsonl", GOOD.encode() + b'{"text": "caf\xe9"}',
         "a.jsonl:2: not UTF-8 (byte 0xe9 at column 14); convert the file to UTF-8"),
        ("a.txt", "café".encode("utf-16"),
         "a.txt:1: not UTF-8 (byte 0xff at column 1); convert the file to UTF-8"),
        ("a.txt", b"one\ntwo\0", "a.txt:2: contains a NUL byte; this is not a text file"),
        ("a.jsonl", b"", f"a.jsonl: {NO_RECORDS}"),
        ("a.txt", b"\n \r\n\t", f"a.txt: {NO_RECORDS}"),
    ],
)  # fmt: skip
def test_a_bad_file_is_blamed_by_name_and_line(
    write: Any, name: str, data: bytes | str, message: str
) -> None:
    assert refusal(write(name, data)) == message


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_no_json_can_hold_is_refused_where_it_stands(write: Any, number: str) -> None:
    # It could be read, but `gen` could not write the record again.
    message = refusal(write("a.jsonl", GOOD + f'{{"text": "a", "score": {number}}}\n'))
    assert message.startswith("a.jsonl:2: ")
    assert number in message


def test_records_before_a_bad_one_are_yielded(write: Any) -> None:
    located = read_records(write("a.jsonl", GOOD + GOOD + "broken"))
    assert [next(located).where, next(located).where] == ["a.jsonl:1", "a.jsonl:2"]
    with pytest.raises(InputError):
        next(located)


def test_a_line_may_be_16_mib_long_and_no_longer(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert streams.MAX_LINE_BYTES == 16 * 2**20
    monkeypatch.setattr(streams, "MAX_LINE_BYTES", 2**20)
    assert len(next(read_records(write("a.txt", "a" * 2**20))).record["text"]) == 2**20
    assert refusal(write("a.txt", b"one\n" + b"a" * (2**20 + 1))) == (
        "a.txt:2: line longer than 1 MiB; one record a line"
    )


def test_a_directory_and_an_absent_file_are_named(tmp_path: Path) -> None:
    assert refusal(str(tmp_path)) == (f"{tmp_path}: is a directory; name a file, or `-` for stdin")
    assert refusal(f"{tmp_path}/no.jsonl") == f"{tmp_path}/no.jsonl: No such file or directory"


# --- the forms of a text record ----------------------------------------------------------------


def passage_of(record: dict[str, Any]) -> Passage:
    return as_passage(Located("f:3", record))


CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]


def test_the_three_forms_say_which_part_counts() -> None:
    assert passage_of({"text": "t", "id": 1}) == Passage("f:3", "t")
    assert passage_of({"prompt": "p", "completion": "c"}) == Passage("f:3", "c", prompt="p")
    assert passage_of({"messages": CHAT}) == Passage("f:3", "hello", messages=tuple(CHAT))


def test_a_record_of_several_forms_is_a_chat_then_a_completion() -> None:
    record = {"text": "t", "prompt": "p", "completion": "c", "messages": CHAT}
    assert passage_of(record).messages == tuple(CHAT)
    del record["messages"]
    assert passage_of(record) == Passage("f:3", "c", prompt="p")


def test_other_keys_of_a_turn_are_left_out() -> None:
    turns = [{**turn, "name": "x", "weight": 1} for turn in CHAT]
    assert passage_of({"messages": turns}).messages == tuple(CHAT)


def test_white_space_around_a_text_counts() -> None:
    assert passage_of({"prompt": "", "completion": " c\n"}) == Passage("f:3", " c\n", prompt="")


def test_passages_are_the_same_if_text_and_context_are() -> None:
    same = passage_of({"text": "c", "id": 1}).key()
    assert passage_of({"text": "c", "id": 2}).key() == same
    assert passage_of({"prompt": "", "completion": "c"}).key() == same
    assert passage_of({"prompt": "p", "completion": "c"}).key() != same
    assert passage_of({"messages": CHAT}).key() != passage_of({"text": "hello"}).key()
    longer = [{"role": "system", "content": "be kind"}, *CHAT]
    assert passage_of({"messages": longer}).key() != passage_of({"messages": CHAT}).key()


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"txt": "a", "id": 1},
         "f:3: no 'text', 'prompt' and 'completion', or 'messages' key; found ['id', 'txt']"),
        ({}, "f:3: no 'text', 'prompt' and 'completion', or 'messages' key; found []"),
        ({"text": 3}, "f:3: 'text' must be a string, got 3"),
        ({"text": None}, "f:3: 'text' must be a string, got None"),
        ({"text": ["a" * 99]}, f"f:3: 'text' must be a string, got ['{'a' * 55}..."),
        ({"text": ""}, "f:3: 'text' is empty; remove the record or give it a text"),
        ({"text": " \n"}, "f:3: 'text' is empty; remove the record or give it a text"),
        ({"text": "a\ud800"}, "f:3: 'text' holds half a surrogate pair, which is no text"),
        ({"completion": "c"}, "f:3: no 'prompt' key; found ['completion']"),
        ({"prompt": 1, "completion": "c"}, "f:3: 'prompt' must be a string, got 1"),
        ({"prompt": "p", "completion": " "},
         "f:3: 'completion' is empty; remove the record or give it a text"),
        ({"messages": []}, "f:3: 'messages' must be a list of {role, content}, got []"),
        ({"messages": "hi"}, "f:3: 'messages' must be a list of {role, content}, got 'hi'"),
        ({"messages": {"role": "user"}},
         "f:3: 'messages' must be a list of {role, content}, got {'role': 'user'}"),
        ({"messages": ["hi"]}, "f:3: a message must have 'role' and 'content', got 'hi'"),
        ({"messages": [{"role": "user"}]},
         "f:3: a message must have 'role' and 'content', got {'role': 'user'}"),
        ({"messages": [{"role": "assistant", "content": 3}]},
         "f:3: 'content' must be a string, got 3"),
        ({"messages": [{"role": None, "content": "a"}]}, "f:3: 'role' must be a string, got None"),
        ({"messages": CHAT[:1]}, "f:3: the last message is by 'user'; "
         "the last one counts and must be by 'assistant'"),
        ({"messages": [{"role": "assistant", "content": " "}]},
         "f:3: 'content' is empty; remove the record or give it a text"),
    ],
)  # fmt: skip
def test_a_record_of_no_form_is_blamed_by_line(record: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        passage_of(record)
    assert str(caught.value) == message


def test_a_chat_to_go_on_from_may_end_with_the_user() -> None:
    assert chat_messages(Located("f:1", {"messages": CHAT[:1]})) == tuple(CHAT[:1])


def test_a_string_is_asked_for_by_key() -> None:
    located = Located("f:1", {"prompt": "", "b": 1})
    assert string_value(located, "prompt") == ""
    with pytest.raises(InputError, match=re.escape("f:1: no 'a' key; found ['b', 'prompt']")):
        string_value(located, "a")


# --- what is written ---------------------------------------------------------------------------


def test_a_record_is_written_as_one_line_of_utf8(capsysbinary: Any) -> None:
    write_record({"text": "é\n😀", "n": 1})
    assert capsysbinary.readouterr().out == '{"text": "é\\n😀", "n": 1}\n'.encode()


def test_a_record_is_flushed_as_soon_as_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "out").open("w", encoding="utf-8") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        write_record({"a": 1})
        assert (tmp_path / "out").read_text() == '{"a": 1}\n'
        assert not stdout.closed


def test_half_a_surrogate_pair_in_a_kept_key_comes_out_as_it_came(write: Any, capsysbinary: Any) -> None:
    line = '{"prompt": "a", "id": "\\ud800"}'
    write_record(next(read_records(write("a.jsonl", line))).record)
    assert json.loads(capsysbinary.readouterr().out) == json.loads(line)


def test_a_half_written_record_is_told_apart_from_whole_ones(tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"
    with appending(path) as append:
        append({"job": 0})
        append({"job": 1})
    whole = path.stat().st_size
    with path.open("a") as file:
        file.write('{"job": 2, "te')
    found, size = recover(path)
    assert [one.record for one in found] == [{"job": 0}, {"job": 1}]
    assert [one.where for one in found] == [f"{path}:1", f"{path}:2"]
    assert size == whole
    assert path.read_text().endswith('"te')  # nothing is touched


def test_nothing_is_recovered_from_nothing(tmp_path: Path) -> None:
    assert recover(tmp_path / "absent") == ([], 0)
    (tmp_path / "torn").write_text('{"jo')
    assert recover(tmp_path / "torn") == ([], 0)
