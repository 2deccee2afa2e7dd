"""Both sides are checked whole before a model is loaded, and held in memory by hash alone."""

import gzip
import hashlib
import io
import json
import os
import sys
import tempfile
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest

from neurosteer_cli.data.sides import (
    NEEDS_LABELS,
    Sides,
    few_texts,
    open_sides,
    shuffled,
    sides_of,
    text_hash,
    unlike_forms,
)
from neurosteer_cli.errors import InputError

UP = [f"up {n}" for n in range(8)]
DOWN = [f"down {n}" for n in range(8)]
Write = Callable[[str, list[Any]], str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write records, or texts, as JSONL into the working folder, and give the name back."""
    monkeypatch.chdir(tmp_path)

    def write_file(name: str, records: list[Any]) -> str:
        lines = [json.dumps(r if isinstance(r, dict) else {"text": r}) + "\n" for r in records]
        Path(name).write_text("".join(lines))
        return name

    return write_file


def stdin_of(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = io.BytesIO(Path(name).read_bytes())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(data, encoding="utf-8"))


def texts_of(sides: Sides) -> list[list[str]]:
    return [[passage.text for _, passage in side.passages()] for side in sides]


def refusal(*arguments: Any) -> str:
    with pytest.raises(InputError) as caught, open_sides(*arguments):
        pass
    return str(caught.value)


# --- what is read ------------------------------------------------------------------------------


def test_two_files_are_the_two_sides_in_order_named_by_their_stems(write: Write) -> None:
    with open_sides([write("up.jsonl", UP), write("down.jsonl", DOWN)]) as sides:
        assert [side.label for side in sides] == ["up", "down"]
        assert [side.n_texts for side in sides] == [8, 8]
        assert texts_of(sides) == [UP, DOWN]
        assert texts_of(sides) == [UP, DOWN]  # as often as is needed


def test_one_labelled_file_is_parted_by_label_and_the_rest_left_out(write: Write) -> None:
    records = [
        {"text": text, "label": label}
        for pair in zip(UP, DOWN, [f"other {n}" for n in range(8)], strict=True)
        for text, label in zip(pair, ("good", "bad", "neutral"), strict=True)
    ]
    with open_sides([write("all.jsonl", records)], "good", "bad") as sides:
        assert [side.label for side in sides] == ["good", "bad"]
        assert texts_of(sides) == [UP, DOWN]
        assert [side.n_records for side in sides] == [8, 8]


def test_labels_may_be_numbers(write: Write) -> None:
    records = [{"text": t, "label": n} for n, side in enumerate((DOWN, UP)) for t in side]
    with open_sides([write("all.jsonl", records)], "1", "0") as sides:
        assert texts_of(sides) == [UP, DOWN]


def test_labelled_stdin_is_kept_aside_and_read_twice(
    write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    records = [{"text": t, "label": n} for n, side in (("u", UP), ("d", DOWN)) for t in side]
    stdin_of(write("all.jsonl", records), monkeypatch)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with open_sides(["-"], "u", "d") as sides:
        assert len(list((tmp_path / "temporary").iterdir())) == 1
        assert texts_of(sides) == [UP, DOWN]
        assert texts_of(sides) == [UP, DOWN]
    assert list((tmp_path / "temporary").iterdir()) == []


def test_stdin_may_be_one_of_two_sides(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    stdin_of(write("up.jsonl", UP), monkeypatch)
    with open_sides(["-", write("down.jsonl", DOWN)]) as sides:
        assert [side.label for side in sides] == ["stdin", "down"]
        assert texts_of(sides) == [UP, DOWN]


def test_preference_pairs_fill_both_sides(write: Write) -> None:
    plain = [{"prompt": "q ", "chosen": up, "rejected": down} for up, down in zip(UP, DOWN, strict=True)]
    with open_sides([write("pairs.jsonl", plain)]) as sides:
        assert [side.label for side in sides] == ["chosen", "rejected"]
        assert texts_of(sides) == [UP, DOWN]
        assert {passage.prompt for side in sides for _, passage in side.passages()} == {"q "}
    asked = {"role": "user", "content": "q"}

    def chat(text: str) -> list[dict[str, str]]:
        return [asked, {"role": "assistant", "content": text}]

    chats = [{"chosen": chat(up), "rejected": chat(down)} for up, down in zip(UP, DOWN, strict=True)]
    after = [  # the prompt by itself, as TRL has it
        {"prompt": [asked], "chosen": chat(up)[1:], "rejected": chat(down)[1:]}
        for up, down in zip(UP, DOWN, strict=True)
    ]
    for records in (chats, after):
        with open_sides([write("chats.jsonl", records)]) as sides:
            assert texts_of(sides) == [UP, DOWN]
            assert {p.messages[0]["content"] for side in sides for _, p in side.passages()} == {"q"}


def test_one_file_without_labels_is_no_pair_of_sides(write: Write) -> None:
    assert refusal([write("up.jsonl", UP)]) == NEEDS_LABELS
    pairs = [{"chosen": up, "rejected": down} for up, down in zip(UP, DOWN, strict=True)]
    assert refusal([write("pairs.jsonl", [*pairs, {"chosen": "c"}])]) == (
        "pairs.jsonl:9: no 'rejected' key; found ['chosen']; a preference pair has both"
    )
    assert refusal([write("pairs.jsonl", pairs), write("up.jsonl", UP)]) == (
        "pairs.jsonl:1: a preference pair; `fit` fills both sides with such a file, given alone"
    )


def test_labels_are_known_as_json_writes_them_under_any_key(write: Write) -> None:
    records = [{"review": t, "good": n == 0} for n, side in enumerate((UP, DOWN)) for t in side]
    name = write("all.jsonl", records)
    with open_sides([name], "true", "false", text_key="review", label_key="good") as sides:
        assert texts_of(sides) == [UP, DOWN]
    with pytest.raises(
        InputError, match=r"^all.jsonl: no record is labelled 'True'; found \['false', 'true'\]$"
    ):
        open_sides([name], "True", "false", text_key="review", label_key="good").__enter__()


@pytest.mark.parametrize(
    ("value", "label"),
    [
        ("01", "01"),
        (1, "1"),
        (-1, "-1"),
        (1.5, "1.5"),
        (True, "true"),
        (None, "null"),
        ("😀", "😀"),
        ('a b:"c', 'a b:"c'),
    ],
)
def test_labels_of_every_kind_are_known(write: Write, value: Any, label: str) -> None:
    records = [{"text": t, "label": n} for n, side in ((value, UP), ("other", DOWN)) for t in side]
    with open_sides([write("all.jsonl", records)], label, "other") as sides:
        assert texts_of(sides) == [UP, DOWN]


@pytest.mark.parametrize("name", ["all.parquet", "all.arrow"])
def test_labels_of_a_dataset_go_by_name_or_number(write: Write, name: str) -> None:
    def save(names: list[str]) -> None:
        feature = {"label": {"names": names, "_type": "ClassLabel"}, "text": {"_type": "Value"}}
        about = {b"huggingface": json.dumps({"info": {"features": feature}}).encode()}
        table = pyarrow.table({"text": [*DOWN, *UP, "none"], "label": [0] * 8 + [1] * 8 + [-1]})
        table = table.replace_schema_metadata(about)
        if name == "all.parquet":
            pyarrow.parquet.write_table(table, name)
        else:
            with pyarrow.ipc.new_stream(name, table.schema) as writer:
                writer.write_table(table)

    write("up.jsonl", UP)  # and go to its folder
    save(["sad", "glad"])
    for target, source in (("glad", "sad"), ("1", "0")):
        with open_sides([name], target, source) as sides:
            assert texts_of(sides) == [UP, DOWN]
    assert refusal([name], "happy", "sad") == (
        f"{name}: no record is labelled 'happy'; found ['-1', 'glad', 'sad']"
    )
    save(["1", "2"])  # stars, whose numbers are not their names
    with open_sides([name], "2", "1") as sides:
        assert texts_of(sides) == [UP, DOWN]


def test_a_side_is_called_as_its_file_without_its_endings(write: Write) -> None:
    Path("up.jsonl.gz").write_bytes(gzip.compress(Path(write("up.jsonl", UP)).read_bytes()))
    Path("v1.2.jsonl").write_bytes(Path(write("down.jsonl", DOWN)).read_bytes())
    with open_sides(["up.jsonl.gz", "v1.2.jsonl"]) as sides:
        assert [side.label for side in sides] == ["up", "v1.2"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_what_can_be_read_only_once_is_kept_aside(write: Write) -> None:
    data = Path(write("down.jsonl", DOWN)).read_bytes()
    os.mkfifo("pipe")
    feeder = threading.Thread(target=lambda: Path("pipe").write_bytes(data))
    feeder.start()
    with open_sides([write("up.jsonl", UP), "pipe"]) as sides:
        assert [side.label for side in sides] == ["up", "away"]
        assert texts_of(sides) == [UP, DOWN]
        assert texts_of(sides) == [UP, DOWN]
    feeder.join()
    assert refusal(["pipe", "pipe"]) == "pipe can be read only once; name a file in its other place"
    assert refusal(["-", "/dev/stdin"]).startswith("`-` (stdin) can be read only once")


def test_sides_of_few_texts_are_warned_of() -> None:
    sides = sides_of([f"a {n}" for n in range(50)], [f"b {n}" for n in range(9)])
    assert few_texts(sides, "more") == [f"{sides[1].label}: 9 texts; 50 or more a side give more"]


def test_sides_of_unlike_forms_are_warned_of(write: Write) -> None:
    chats = [{"messages": [{"role": "assistant", "content": text}]} for text in UP]
    with open_sides([write("up.jsonl", chats), write("down.jsonl", DOWN)]) as sides:
        assert unlike_forms(sides) == [
            "up holds chats, down holds plain texts: what stands around the texts then tells the sides "
            "apart, too; give both in one form"
        ]
    with open_sides([write("up.jsonl", UP), write("down.jsonl", DOWN)]) as sides:
        assert unlike_forms(sides) == []


# --- lists -------------------------------------------------------------------------------------


def test_lists_of_texts_or_records_make_the_sides_that_files_of_them_make(write: Write) -> None:
    up = [*({"prompt": "p ", "completion": text} for text in UP), {"text": "more", "id": 1}]
    listed = sides_of(up, [*DOWN, DOWN[2]], ("up", "down"))
    with open_sides([write("up.jsonl", up), write("down.jsonl", [*DOWN, DOWN[2]])]) as sides:
        for ours, expected in zip(listed, sides, strict=True):
            assert (ours.label, ours.n_texts, ours.sha256) == (
                expected.label,
                expected.n_texts,
                expected.sha256,
            )
            assert (ours.hashes, ours.duplicates) == (expected.hashes, expected.duplicates)
    assert texts_of(listed) == [[*UP, "more"], DOWN]
    assert texts_of(listed) == [[*UP, "more"], DOWN]  # as often as is needed


@pytest.mark.parametrize(
    ("positive", "options", "message"),
    [
        ([*UP, DOWN[1]], {}, "negative:2: this text stands on both sides, first at positive:9; remove one"),
        (["a", "b"], {"labels": ("x", "not-x")}, "x: 2 distinct texts; at least 8 a side are needed"),
        ([*UP, " "], {"labels": ("x", "y")}, "x:9: 'text' is empty; remove the record or give it a text"),
        (
            [{"id": 1}],
            {"names": ("x.jsonl", "y.jsonl")},
            "x.jsonl:1: no 'text', 'prompt' and 'completion', or",
        ),
        ([], {}, "positive: 0 distinct texts; at least 8 a side are needed"),
    ],
)
def test_a_bad_list_is_blamed_by_name_and_number(
    positive: list[Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        sides_of(positive, DOWN, **options)


# --- duplicates and hashes ---------------------------------------------------------------------


def test_duplicates_within_a_side_are_dropped_and_counted(write: Write) -> None:
    up = write("up.jsonl", [UP[0], UP[0], *UP, UP[3]])
    with open_sides([up, write("down.jsonl", DOWN)]) as sides:
        assert sides[0].n_records == 11
        assert sides[0].n_texts == 8
        assert sides[0].duplicates == {1, 2, 10}
        assert texts_of(sides) == [UP, DOWN]
        assert [n for n, _ in sides[0].passages()] == [0, 3, 4, 5, 6, 7, 8, 9]


def test_a_completion_after_another_prompt_is_no_duplicate(write: Write) -> None:
    records = [{"prompt": p, "completion": c} for p in ("a", "b") for c in UP]
    with open_sides([write("up.jsonl", records), write("down.jsonl", DOWN)]) as sides:
        assert sides[0].n_texts == 16


def test_a_texts_hash_is_the_first_eight_bytes_of_its_sha256() -> None:
    assert text_hash("") == int("e3b0c44298fc1c14", 16) - 2**64  # sha256 of nothing, signed
    assert text_hash("abc") == int("ba7816bf8f01cfea", 16) - 2**64


def test_a_side_keeps_one_hash_a_distinct_text_of_the_part_that_counts(write: Write) -> None:
    records = [{"prompt": "p ", "completion": text} for text in [*UP, UP[2]]]
    with open_sides([write("up.jsonl", records), write("down.jsonl", DOWN)]) as sides:
        assert sides[0].hashes == [text_hash(text) for text in UP]
        assert sides[1].hashes == [text_hash(text) for text in DOWN]


def test_the_sha256_of_a_side_is_that_of_its_records_in_order(write: Write) -> None:
    with open_sides([write("up.jsonl", UP), write("down.jsonl", DOWN)]) as sides:
        lines = "".join(json.dumps(["", text]) + "\n" for text in UP)
        assert sides[0].sha256 == hashlib.sha256(lines.encode()).hexdigest()
    with open_sides([write("up.jsonl", UP[::-1]), write("down.jsonl", DOWN)]) as turned:
        assert turned[0].sha256 != sides[0].sha256
        assert turned[1].sha256 == sides[1].sha256


def test_keys_that_do_not_count_change_no_sha256(write: Write) -> None:
    with open_sides([write("up.jsonl", UP), write("down.jsonl", DOWN)]) as plain:
        pass
    records = [{"text": text, "id": n} for n, text in enumerate(UP)]
    with open_sides([write("up.jsonl", records), write("down.jsonl", DOWN)]) as marked:
        assert marked[0].sha256 == plain[0].sha256


# --- controls ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_up", "n_down"), [(8, 8), (9, 9), (9, 8), (8, 31), (21, 10)])
def test_labels_are_shuffled_so_that_half_of_either_side_is_on_each(n_up: int, n_down: int) -> None:
    up, down = [f"up {n}" for n in range(n_up)], [f"down {n}" for n in range(n_down)]
    sides = shuffled(sides_of(up, down, ("good", "bad")), 7)
    assert [side.label for side in sides] == ["good", "bad"]
    dealt = texts_of(sides)
    assert sorted([*dealt[0], *dealt[1]]) == sorted([*up, *down])
    for of_side in dealt:
        for kind, n in (("up", n_up), ("down", n_down)):
            assert sum(text.startswith(kind) for text in of_side) in (n // 2, n - n // 2)
    if n_up == n_down:
        assert len(dealt[0]) == len(dealt[1])
    assert [side.n_texts for side in sides] == [*map(len, dealt)]
    assert [side.hashes for side in sides] == [[*map(text_hash, side)] for side in dealt]


def test_labels_are_shuffled_by_a_seed_as_often_as_texts_are_read(write: Write) -> None:
    up, down = write("up.jsonl", [*UP, UP[0]]), write("down.jsonl", DOWN)
    with open_sides([up, down]) as sides:
        once = shuffled(sides, 0)
        dealt = texts_of(once)
        assert texts_of(once) == texts_of(shuffled(sides, 0)) == dealt
        assert all(texts_of(shuffled(sides, seed)) != dealt for seed in range(1, 4))
        assert sorted([*dealt[0], *dealt[1]]) == sorted([*UP, *DOWN])


# --- memory ------------------------------------------------------------------------------------


def test_memory_holds_no_texts(write: Write) -> None:
    texts = [f"{n} " + "a" * 100_000 for n in range(40)]  # 4 MB in two files
    sources = [write("up.jsonl", texts[:20]), write("down.jsonl", texts[20:])]
    tracemalloc.start()
    try:
        with open_sides(sources) as sides:
            for side in sides:
                assert sum(len(passage.text) for _, passage in side.passages()) > 2_000_000 - 1
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1_500_000


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["a", "b", "c"],),
         "give two files (towards, away from), or one with --target and --source"),
        (([],), "give two files (towards, away from), or one with --target and --source"),
        ((["-", "-"],), "`-` (stdin) can be read only once; name a file in its other place"),
        ((["a", "b"], "x", "y"),
         "--target and --source name two labels of one file; two files need neither"),
        ((["a"], "x"), NEEDS_LABELS),
        ((["a"], "x", "x"), "--target and --source are both 'x'; they must differ"),
    ],
)  # fmt: skip
def test_sources_and_labels_must_fit_together(arguments: tuple[Any, ...], message: str) -> None:
    assert refusal(*arguments) == message


def test_a_text_on_both_sides_is_named_at_both_places(write: Write) -> None:
    sources = [write("up.jsonl", UP), write("down.jsonl", [*DOWN[:3], UP[5], *DOWN[3:]])]
    assert refusal(sources) == (
        "down.jsonl:4: this text stands on both sides, first at up.jsonl:6; remove one of them"
    )


def test_a_text_of_both_labels_is_named_at_both_places(write: Write) -> None:
    records = [{"text": t, "label": n} for n, side in (("u", UP), ("d", DOWN)) for t in side]
    records.insert(2, {"text": DOWN[7], "label": "u"})
    assert refusal([write("all.jsonl", records)], "u", "d") == (
        "all.jsonl:17: this text stands on both sides, first at all.jsonl:3; remove one of them"
    )


@pytest.mark.parametrize(("texts", "n"), [(UP[:7], 7), ([*UP[:7], UP[0]], 7), (["one"] * 100, 1)])
def test_fewer_than_eight_distinct_texts_are_refused(write: Write, texts: list[str], n: int) -> None:
    message = "distinct texts; at least 8 a side are needed, and 50 or more give a dependable vector"
    down = write("down.jsonl", DOWN)
    assert refusal([write("up.jsonl", texts), down]) == f"up: {n} {message}"
    assert refusal([down, write("up.jsonl", texts)]) == f"up: {n} {message}"


def test_a_record_without_a_label_is_blamed_by_line(write: Write) -> None:
    records = [{"text": "a", "label": "u"}, {"text": "b", "id": 1}]
    assert refusal([write("all.jsonl", records)], "u", "d") == (
        "all.jsonl:2: no 'label' key; found ['id', 'text']; perhaps --label-key id"
    )


def test_the_key_with_a_usual_name_is_proposed_for_the_labels(write: Write) -> None:
    record = {"text": "a", "id": 1, "Sentiment": "positive"}
    assert refusal([write("all.jsonl", [record])], "u", "d").endswith("; perhaps --label-key Sentiment")


def test_a_label_that_no_record_has_is_answered_with_those_there_are(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [{"text": t, "label": n} for n, side in (("u", UP), ("d", DOWN)) for t in side]
    name = write("all.jsonl", records)
    assert refusal([name], "up", "d") == "all.jsonl: no record is labelled 'up'; found ['d', 'u']"
    assert refusal([name], "u", "down") == ("all.jsonl: no record is labelled 'down'; found ['d', 'u']")
    stdin_of(name, monkeypatch)
    assert refusal(["-"], "up", "d") == "<stdin>: no record is labelled 'up'; found ['d', 'u']"


def test_a_bad_record_of_a_third_label_does_not_matter(write: Write) -> None:
    records = [{"text": t, "label": n} for n, side in (("u", UP), ("d", DOWN)) for t in side]
    with open_sides([write("all.jsonl", [{"label": "x"}, *records])], "u", "d") as sides:
        assert texts_of(sides) == [UP, DOWN]


def test_a_bad_record_far_down_is_found_before_anything_is_computed(write: Write) -> None:
    down = write("down.jsonl", [*DOWN, {"txt": "oops"}])
    assert refusal([write("up.jsonl", UP), down]) == (
        "down.jsonl:9: no 'text', 'prompt' and 'completion', or 'messages' key; found ['txt']; "
        "perhaps --text-key txt"
    )
