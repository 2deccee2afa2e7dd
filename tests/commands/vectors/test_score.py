"""`neurosteer score`: what a vector says of texts and of their tokens, against the metadata's own formula."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from support.cli import refused, rows, run
from support.page import Page

from neurosteer_cli.data.records import Passage
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.vectors.vector import SteeringVector

pytestmark = pytest.mark.usefixtures("in_fitted_folder")
POINT = HookPoint(1)  # of b.st
SCORE = ("score", "b.st")


@pytest.fixture
def texts(tmp_path: Path) -> str:
    """Labelled texts that no vector was fitted on, and one of a single token."""
    path = tmp_path / "texts.jsonl"
    records = [{"text": f"aaa bbb {n}", "label": "up", "id": n} for n in range(5)]
    records += [{"text": f"zzz yyy {n}", "label": "down", "id": n} for n in range(6)]
    path.write_text("".join(json.dumps(record) + "\n" for record in [*records, {"text": "x"}]))
    return str(path)


def by_hand(text: str) -> tuple[float, float, list[float | None]]:
    """The score of a text, the probability of the first side, and the scores of its tokens."""
    vector = SteeringVector.load(Path("b.st"))
    known = vector.metadata.detector
    assert known is not None
    engine = Engine.load("tiny", dtype="float32")
    (batch,) = engine.residuals([engine.tokenize(Passage("", text))], [POINT])
    projections = (batch.resid[POINT].double() @ vector.pushes[POINT].double()).tolist()
    tokens = [(found - known.middle) / known.spread for found in projections]
    z = sum(tokens) / len(tokens)
    logit = known.slope * min(4.0, max(-4.0, z)) + known.intercept
    return z, 1 / (1 + math.exp(-logit)), [None, *tokens]  # the first token does not count


def test_a_text_has_a_score_and_a_probability(texts: str) -> None:
    found = rows(run(*SCORE, texts, "--dtype", "float32", "--json"))
    assert len(found) == 12
    for row in found[:-1]:
        z, probability, _ = by_hand(row["text"])
        assert row["score"] == pytest.approx(z, rel=1e-4)
        assert row["probability"] == pytest.approx(probability, rel=1e-4)
    assert [row.get("id") for row in found] == [*range(5), *range(6), None]  # records keep their keys
    assert (found[-1]["score"], found[-1]["probability"]) == (None, None)  # no token of it counts


def test_tokens_have_scores_whose_mean_is_the_texts(texts: str) -> None:
    for row in rows(run(*SCORE, texts, "--tokens", "--dtype", "float32", "--json")):
        assert "".join(token["text"] for token in row["tokens"]) == row["text"]
        scores = [token["score"] for token in row["tokens"]]
        assert scores[0] is None
        if row["score"] is not None:
            assert scores[1:] == pytest.approx(by_hand(row["text"])[2][1:], abs=1e-3)
            assert sum(scores[1:]) / len(scores[1:]) == pytest.approx(row["score"], abs=1e-3)


def auroc_by_hand(found: list[dict[str, Any]]) -> float:
    ups, downs = ([row["score"] for row in found if row.get("label") == side] for side in ("up", "down"))
    return sum((a > b) + (a == b) / 2 for a in ups for b in downs) / (len(ups) * len(downs))


def test_labels_give_an_auroc_on_stderr(texts: str) -> None:
    result = run(*SCORE, texts, "--json")
    value = auroc_by_hand(rows(result))
    assert result.stderr.startswith(f"AUROC {value:.3f} [")
    assert result.stderr.endswith("]: 'up' (5 texts) against the others (6)\n")
    turned = run(*SCORE, texts, "--target", "down", "--json").stderr
    assert turned.startswith(f"AUROC {1 - value:.3f} [")


def test_lines_show_score_probability_and_text(texts: str) -> None:
    shown = run(*SCORE, texts).stdout.splitlines()
    (first, *_) = rows(run(*SCORE, texts, "--json"))
    assert shown[0] == f"{first['score']:+6.2f} {first['probability']:4.0%}  aaa bbb 0"
    assert shown[-1] == "     -    -  x"
    assert len(run(*SCORE, "-", input=json.dumps({"text": "long " * 99})).stdout.splitlines()[0]) == 83


def test_a_score_does_not_depend_on_the_texts_beside_it(texts: str) -> None:
    together = rows(run(*SCORE, texts, "--dtype", "float32", "--json"))
    alone = rows(run(*SCORE, "-", "--dtype", "float32", "--json", input='{"text": "aaa bbb 3"}\n'))
    assert alone[0]["score"] == pytest.approx(together[3]["score"], rel=1e-4)


def test_texts_without_labels_have_no_auroc(tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_text("one line\nand another\n")
    result = run(*SCORE, str(tmp_path / "plain.txt"))
    assert result.stderr == ""
    assert len(result.stdout.splitlines()) == 2


def test_labels_of_one_side_alone_give_scores_and_say_why_no_auroc(texts: str) -> None:
    result = run(*SCORE, texts, "--target", "upwards", "--json")
    assert len(rows(result)) == 12
    assert result.stderr == (
        "no AUROC: no texts are labelled 'upwards'; --target names the label of the first side\n"
    )
    one = json.dumps({"text": "aaa bbb", "label": "up"}) + "\n"
    assert run(*SCORE, "-", input=one).stderr.startswith("no AUROC: all texts are labelled 'up'; ")


def test_texts_of_the_fit_are_warned_of(texts: str) -> None:
    warning = "20 of 32 texts are among those that b.st was fitted on: they are told apart better"
    assert run(*SCORE, "up.jsonl", texts, "--json").stderr.startswith(f"warning: {warning}")


def test_a_mixed_vector_scores_by_its_push(tmp_path: Path, texts: str) -> None:
    fit = ("fit", "up.jsonl", "down.jsonl", "-m", "tiny", "--method", "diffmean", "--layers", "1")
    run(*fit, "--logits-share", "0.75", "-o", str(tmp_path / "mixed.st"))
    mixed = rows(run("score", str(tmp_path / "mixed.st"), texts, "--json"))
    alone = rows(run(*SCORE, texts, "--json"))
    for one, other in zip(mixed[:-1], alone[:-1], strict=True):
        assert one["score"] == pytest.approx(other["score"], rel=1e-3)


def test_what_has_no_detector_is_refused_by_name(tmp_path: Path, texts: str) -> None:
    fit = ("fit", "up.jsonl", "down.jsonl", "-m", "tiny")
    run(*fit, "--method", "logodds", "-o", str(tmp_path / "urges.st"))
    assert refused("score", str(tmp_path / "urges.st"), texts) == (
        f"error: {tmp_path / 'urges.st'}: acts on logits alone, and texts are scored by a push: "
        "fit with another method than logodds"
    )
    run("fit", "up.jsonl", "--latent", "3:1", "--sae", "sae", "-m", "tiny", "-o", str(tmp_path / "chosen.st"))
    assert refused("score", str(tmp_path / "chosen.st"), texts) == (
        f"error: {tmp_path / 'chosen.st'}: nothing is known of how its two sides project on the vector; fit "
        "it again, on some twenty texts a side or more"
    )
    assert refused(*SCORE, "none.jsonl") == "error: none.jsonl: No such file or directory"


def test_a_page_holds_the_texts_their_scores_and_the_auroc(tmp_path: Path, texts: str) -> None:
    page = tmp_path / "page.html"
    result = run(*SCORE, texts, "--report", str(page))
    assert result.stdout == run(*SCORE, texts).stdout
    assert result.stderr.endswith(f"wrote {page}\n")
    seen = Page(page.read_text(encoding="utf-8"))
    assert "12 texts scored by b.st" in seen.text
    assert f"AUROC {auroc_by_hand(rows(run(*SCORE, texts, '--json'))):.2f}" in seen.text
    assert "others (6)" in seen.text
    assert "a text labelled up scores above another" in seen.text
    n_scored = sum(len(row["tokens"]) for row in rows(run(*SCORE, texts, "--tokens", "--json"))) - 12
    coloured = [
        attrs for tag, attrs in seen.elements if tag == "span" and "--depth" in (attrs.get("style") or "")
    ]
    assert len(coloured) == n_scored


def test_a_page_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path) -> None:
    said = refused("score", "nowhere.st", "none.jsonl", "--report", str(tmp_path / "no" / "page.html"))
    assert said.startswith(f"error: {tmp_path}/no/page.html: no folder")


def test_a_character_of_several_tokens_comes_whole(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(json.dumps({"text": "né \u20ac"}))
    (row,) = rows(run(*SCORE, str(tmp_path / "t.jsonl"), "--tokens", "--json"))
    assert [token["text"] for token in row["tokens"]] == ["n", "", "é", " ", "", "", "\u20ac"]


def test_a_records_own_keys_stand_aside_for_the_scores(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"text": "aaa bbb", "score": 5, "probability": "high", "record": 1, "id": 3}))
    (row,) = rows(run(*SCORE, str(path), "--json"))
    assert row["record"] == {"score": 5, "probability": "high", "record": 1}
    assert (row["text"], row["id"]) == ("aaa bbb", 3)
    assert -100 < row["score"] < 100 and 0 <= row["probability"] <= 1
    (again,) = rows(run(*SCORE, "-", "--json", input=json.dumps({"text": "aaa bbb", "score": row["score"]})))
    assert again["score"] == again["record"]["score"] == row["score"]
