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
    as_prompt,
    chat_messages,
    keyed,
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
    assert refusal(write("copy", '{"a": 1}\n{'), name="<stdin>") == (
        "<stdin>:2: not JSON at column 2: expecting a key in double quotes, the text ends there"
    )


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

NO_RECORDS = "no records; give a JSON object or a text a line, CSV or Parquet"
GOOD = '{"text": "good"}\n'


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", GOOD + '{"text": "half',
         "a.jsonl:2: not JSON at column 10: a string begins there and does not end"),
        ("a.jsonl", GOOD + "\n\n{]\n",
         "a.jsonl:4: not JSON at column 2: expecting a key in double quotes, found ']'"),
        ("a.jsonl", GOOD + '{"text": "a",}', "a.jsonl:2: not JSON at column 14: a trailing comma"),
        ("a.jsonl", '{"text": "a",}', "a.jsonl:1: not JSON at column 14: a trailing comma"),
        ("a.jsonl", '{"a": ["b",], "text": "a"}', "a.jsonl:1: not JSON at column 12: a trailing comma"),
        ("a.jsonl", "{'text': 'a'}", "a.jsonl:1: not JSON at column 2: a single quote; JSON has double ones"),
        ("a.jsonl", '{"text": None}', "a.jsonl:1: not JSON at column 10: None; JSON has null"),
        ("a.jsonl", '{"text" "a"}', "a.jsonl:1: not JSON at column 9: expecting ':', found '\"'"),
        ("a.jsonl", '{"text": "a" "b": 1}', "a.jsonl:1: not JSON at column 14: expecting ',', found '\"'"),
        ("a.jsonl", '{"text": "a\tb"}',
         "a.jsonl:1: not JSON at column 12: '\\t' in a string; JSON writes \\t"),
        ("a.jsonl", '{"text": "C:\\d"}', "a.jsonl:1: not JSON at column 13: an invalid escape; "
         "JSON writes a backslash as \\\\"),
        ("a.jsonl", '{"text": "a"},\n{"text": "b"}',
         "a.jsonl:1: not JSON at column 14: a comma after the end; one object a line, nothing between"),
        ("a.jsonl", GOOD + GOOD.strip() * 2, "a.jsonl:2: not JSON at column 17: something after the end; "
         "one object a line, nothing between"),
        ("a.jsonl", "[1, 2]\n", "a.jsonl:1: not a JSON object: '[1, 2]'"),
        ("a.jsonl", "null\n", "a.jsonl:1: not a JSON object: 'null'"),
        ("a.jsonl", '"text"\n', "a.jsonl:1: not a JSON object: '\"text\"'"),
        ("a.jsonl", "plain\n" + GOOD, "a.jsonl:1: not a JSON object: 'plain'"),
        ("a.jsonl", "{" * 100,
         "a.jsonl:1: not JSON at column 2: expecting a key in double quotes, found '{'"),
        ("a.jsonl", '{"text": ' + "1" * 5000 + "}", "a.jsonl:1: not JSON: a number of too many digits"),
        ("a.jsonl", '{"text": ' + "[" * 99999 + "]" * 99999 + "}",
         "a.jsonl:1: JSON nested too deeply"),
        ("a.jsonl", GOOD.encode() + b'{"text": "caf\xe9"}',
         "a.jsonl:2: not UTF-8 (byte 0xe9 at column 14); convert the file to UTF-8"),
        ("a.txt", b"one\ntwo\0", "a.txt:2: contains a NUL byte; this is not a text file"),
        ("a.jsonl", b"", f"a.jsonl: {NO_RECORDS}"),
        ("a.txt", b"\n \r\n\t", f"a.txt: {NO_RECORDS}"),
    ],
)  # fmt: skip
def test_a_bad_file_is_blamed_by_name_and_line(
    write: Any, name: str, data: bytes | str, message: str
) -> None:
    assert refusal(write(name, data)) == message


def test_a_number_that_no_json_can_hold_is_refused_where_it_stands(write: Any) -> None:
    # It could be read, but `gen` could not write the record again.
    message = refusal(write("a.jsonl", GOOD + '{"text": "a", "score": 1e999}\n'))
    assert message == "a.jsonl:2: not JSON at column 24: 1e999 is too large a number"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_what_python_writes_for_no_number_is_null_and_said_once(write: Any, number: str) -> None:
    said: list[str] = []
    name = write("a.jsonl", f'{{"text": "a", "score": {number}}}\n' * 3)
    assert [located.record["score"] for located in read_records(name, say=said.append)] == [None] * 3
    assert said == [f"a.jsonl: {number} is no JSON; it is read as null"]


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
    assert refusal(str(tmp_path)).startswith(f"{tmp_path}: no .arrow, .csv, .json, .jsonl, ")
    assert refusal("") == "'': names no file; give one, or `-` for stdin"
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
    ("record", "messages"),
    [
        # content in parts, as OpenAI's clients have it
        ({"messages": [{"role": "user", "content": [{"text": "h"}, {"type": "text", "text": "i"}]},
                       {"role": "assistant", "content": [{"type": "output_text", "text": "hello"}]}]}, CHAT),
        # ShareGPT
        ({"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]}, CHAT),
        ({"system": "be kind",
          "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]},
         [{"role": "system", "content": "be kind"}, *CHAT]),
        ({"conversations": CHAT}, CHAT),
        # TRL's conversational prompt and completion
        ({"prompt": CHAT[:1], "completion": CHAT[1:]}, CHAT),
        ({"prompt": "hi", "completion": CHAT[1:]}, CHAT),
    ],
)  # fmt: skip
def test_chats_are_read_as_others_write_them(record: dict[str, Any], messages: list[dict[str, str]]) -> None:
    assert passage_of(record) == Passage("f:3", "hello", messages=tuple(messages))


@pytest.mark.parametrize(
    ("record", "prompt", "text"),
    [
        (
            {"instruction": "Sum up.", "input": "a b", "output": "c", "text": "all of it"},
            "Sum up.\na b\n",
            "c",
        ),
        ({"instruction": "Sum up.", "input": "", "output": "c"}, "Sum up.\n", "c"),
        ({"instruction": "Sum up.", "context": "a b", "response": "c"}, "Sum up.\na b\n", "c"),
    ],
)
def test_instructions_are_prompts_and_answers_count(record: dict[str, Any], prompt: str, text: str) -> None:
    assert passage_of(record) == Passage("f:3", text, prompt=prompt)
    assert as_prompt(Located("f:3", record)) == prompt


def test_prompts_are_read_as_others_write_them() -> None:
    assert as_prompt(Located("f:1", {"prompt": {"text": "p", "toxicity": 0.1}})) == "p"
    assert as_prompt(Located("f:1", {"prompt": CHAT[:1]})) == tuple(CHAT[:1])
    assert as_prompt(Located("f:1", {"conversations": [{"from": "human", "value": "hi"}]})) == tuple(CHAT[:1])


def test_a_key_of_ones_own_goes_before_every_form() -> None:
    record = {"review": "r", "text": "t", "completion": "c", "messages": CHAT, "id": 1}
    assert passage_of(keyed(Located("f:3", record), "review", "text").record).text == "r"
    assert keyed(Located("f:3", record), "review", "prompt").record == {
        "review": "r", "text": "t", "id": 1, "prompt": "r",
    }  # fmt: skip
    assert passage_of(keyed(Located("f:3", {"dialog": CHAT}), "dialog", "text").record).text == "hello"
    with pytest.raises(InputError, match=r"^f:3: no 'reviw' key; found \['id', 'review'\]$"):
        keyed(Located("f:3", {"review": "r", "id": 1}), "reviw", "text")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"txt": "a", "id": 1},
         "f:3: no 'text', 'prompt' and 'completion', or 'messages' key; found ['id', 'txt']; "
         "perhaps --text-key txt"),
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
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, CHAT[1]]},
         "f:3: 'content' holds a part of type 'image_url'; only text is read"),
        ({"messages": [{"role": "assistant", "content": [1]}]}, "f:3: 'content' holds 1; only text is read"),
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


def test_a_key_is_proposed_as_it_is_typed() -> None:
    with pytest.raises(InputError, match="; perhaps --text-key 'the review'$"):
        as_passage(Located("here", {"the review": "Good.", "n": 1}))


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
