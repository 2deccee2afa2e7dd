"""The page of scored texts: every token with its colour, whatever the texts hold."""

import re

from support.page import NO_ICON, Page

from neurosteer_cli.evaluation.measures.metrics import Estimate
from neurosteer_cli.reports.scores import ScoredText, ScoredTexts, scores_page

TOKENS = [("Thank", None), (" you", 4.0), (" <b>", -1.0), ("\n&", 0.0), ("!", -9.0), ("é", 2.0)]


def found(**changes: object) -> ScoredTexts:
    texts = [
        ScoredText("a.jsonl:1", "polite", 1.25, 0.9, TOKENS),
        ScoredText("a.jsonl:2", None, -0.5, 0.25, [("no", -0.5)]),
        ScoredText("a.jsonl:3", "</p>", None, None, []),
    ]
    values = {
        "title": "3 texts scored by polite.st", "first": "polite", "second": "rude", "texts": texts, "n": 3,
        "scores": {"polite": [1.25], "others": [-0.5, -2.0]}, "auroc": Estimate(0.9, 0.8, 1.0),
        "provenance": {"vector": {"name": "polite.st"}}, **changes,
    }  # fmt: skip
    return ScoredTexts(**values)  # type: ignore[arg-type]


def page_of(**changes: object) -> Page:
    return Page(scores_page(found(**changes), "neurosteer score polite.st a.jsonl --report page.html"))


def spans(page: Page) -> list[tuple[str, str, str]]:
    """(class, depth, title) of every token with a colour."""
    return [
        (str(attrs["class"]), str(attrs["style"]).removeprefix("--depth: "), str(attrs["title"]))
        for tag, attrs in page.elements
        if tag == "span" and attrs.get("class") in ("toward", "away")
    ]


def test_a_token_is_coloured_by_its_score_up_to_the_deepest() -> None:
    # of 0, 0.5, 1, 2, 4, 9 the quantile 0.95 is 4 + 0.75 * 5
    assert spans(page_of()) == [
        ("toward", "0.52", "+4.0"), ("away", "0.13", "-1.0"), ("away", "0.00", "+0.0"),
        ("away", "1.00", "-9.0"), ("toward", "0.26", "+2.0"), ("away", "0.06", "-0.5"),
    ]  # fmt: skip


def test_texts_stand_there_as_they_are_and_as_nothing_else() -> None:
    html = scores_page(found(), "a command")
    assert "Thank<span" in html
    text = re.sub("<[^>]+>", "", re.search(r'<div class="text">(.*?)</div>', html, re.DOTALL)[1])  # type: ignore[index]
    assert text == "Thank you &lt;b&gt;\n&amp;!é"
    assert "labelled &lt;/p&gt;" in html


def test_numbers_and_sides_are_said() -> None:
    said = " ".join(" ".join(page_of().texts).split())
    assert "AUROC 0.90 [0.80, 1.00]: a text labelled polite scores above another at 90" in said
    for words in ("1.25", "90 % polite", "labelled polite", "a.jsonl:1", "no score", "others (2)"):
        assert words in said.replace("\u00a0", " ")
    assert "other way round" not in said
    assert "other way round" in " ".join(page_of(auroc=Estimate(0.2, 0.1, 0.3)).texts)


def test_without_labels_there_is_no_auroc_and_of_many_texts_the_first() -> None:
    said = " ".join(page_of(auroc=None, scores={"without label": [0.5]}, n=1234).texts)
    assert "AUROC" not in said
    assert "The first 3 of 1,234 texts." in said


def test_a_page_without_a_single_score_is_one() -> None:
    nothing = [ScoredText("a:1", None, None, None, [("x", None)])]
    assert spans(page_of(texts=nothing, scores={}, auroc=None)) == []


def test_it_needs_no_network_and_no_script() -> None:
    page = page_of()
    assert [attrs for tag, attrs in page.elements if tag == "link"] == [NO_ICON]
    assert not [tag for tag, _ in page.elements if tag in ("script", "img", "iframe")]
    assert page.open == []
