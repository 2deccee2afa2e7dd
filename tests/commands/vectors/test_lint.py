"""`neurosteer lint`: what it says of two sides of texts, a line or a record a finding."""

import json
from pathlib import Path

import pytest
from support.cli import refused, rows, run

EXAMPLES = Path(__file__).parents[3] / "examples"
NOUNS = ["dog", "cat", "horse", "goat", "duck"]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, texts: list[str], **more: str) -> None:
    Path(name).write_text("".join(json.dumps({"text": text, **more}) + "\n" for text in texts))


def animals(before: str = "") -> list[str]:
    return [f"{before}The {noun} sat by the {other} today." for noun in NOUNS for other in NOUNS]


def test_each_finding_is_a_line_with_its_figure() -> None:
    write("up.jsonl", animals("Please, "))
    write("down.jsonl", [text.replace(".", "") for text in animals()])
    result = run("lint", "up.jsonl", "down.jsonl")
    assert result.stderr == ""
    assert [line.split(":")[0] for line in result.stdout.splitlines()] == [
        "length", "punctuation", "punctuation", "marker",
    ]  # fmt: skip
    assert result.stdout.splitlines()[-1] == (
        "marker: 'please' stands in 100% of up and 0% of down: the vector may be that word's; "
        "vary the wording"
    )


def test_with_json_each_finding_is_a_record() -> None:
    write("up.jsonl", animals("Please, "))
    write("down.jsonl", animals())
    found = rows(run("lint", "up.jsonl", "down.jsonl", "--json"))
    assert [set(row) for row in found] == [{"check", "value", "finding"}] * len(found)
    assert [(row["check"], row["value"]) for row in found] == [
        ("length", 1.0), ("punctuation", 1.0), ("marker", 1.0),
    ]  # fmt: skip
    assert found[0]["finding"].startswith("the number of words alone tells the sides apart (AUROC 1.00; ")


def test_one_file_of_labels_or_of_pairs_does_as_well() -> None:
    write("labelled.jsonl", [f"Hello {noun} {n}." for noun in NOUNS for n in range(4)], label="good")
    with Path("labelled.jsonl").open("a") as file:
        for noun in NOUNS:
            for n in range(4):
                file.write(json.dumps({"text": f"Goodbye {noun} {n}.", "label": "bad"}) + "\n")
    found = rows(run("lint", "labelled.jsonl", "--target", "good", "--source", "bad", "--json"))
    assert {row["finding"].split(" stands")[0] for row in found} == {"'hello'", "'goodbye'"}
    pairs = [{"chosen": f"Yes {noun} {n}", "rejected": f"No {noun} {n}"} for noun in NOUNS for n in range(4)]
    Path("pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    found = rows(run("lint", "pairs.jsonl", "--json"))
    assert {row["finding"].split(" stands")[0] for row in found} == {"'yes'", "'no'"}


@pytest.mark.parametrize(
    "sides", ["polite rude", "happy sad", "judge/polite judge/rude", "judge/happy judge/sad"]
)
def test_of_the_projects_own_texts_there_is_nothing_to_say(sides: str) -> None:
    result = run("lint", *(str(EXAMPLES / f"{side}.jsonl") for side in sides.split()))
    assert result.stdout == ""
    assert result.stderr == (
        "nothing found in lengths, punctuation, marker words, near duplicates and topics\n"
    )


def test_what_fit_refuses_lint_refuses() -> None:
    write("up.jsonl", animals())
    write("few.jsonl", ["one", "two"])
    assert refused("lint", "up.jsonl", "few.jsonl").startswith("error: few: 2 distinct texts; at least 8 ")
    assert refused("lint", "up.jsonl").startswith("error: one file needs --target and --source")
    assert refused("lint", "up.jsonl", "none.jsonl") == "error: none.jsonl: No such file or directory"
