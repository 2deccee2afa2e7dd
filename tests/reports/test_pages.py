"""Pages open without a network, escape every text, and hold every number."""

import re
from collections.abc import Callable
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from support import documents

from neurosteer_cli.errors import InputError
from neurosteer_cli.reports.pages import calibration_page, evaluation_page, layers_page, layers_plot

Document = dict[str, Any]
EVALUATIONS = (
    documents.working, documents.without_effect, documents.costly, documents.single, documents.seven,
    documents.two_vectors, documents.published, documents.failed, documents.hostile,
)  # fmt: skip
PAGES: dict[str, Callable[[], str]] = {
    **{make.__name__: lambda make=make: evaluation_page(make()) for make in EVALUATIONS},
    "calibration": lambda: calibration_page(documents.calibration()),
    "layers": lambda: layers_page(documents.layers()),
    "layers without steering": lambda: layers_page(documents.layers(steer=False)),
}


@cache
def made(name: str) -> str:
    """A page, made once for all tests that read it."""
    return PAGES[name]()


VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, texts, and the cells of tables."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.cells: list[list[str]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.cells.append([])
        elif tag in ("td", "th"):
            self.cells[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if {"td", "th"} & set(self.open):
            self.cells[-1][-1] += data

    def row(self, label: str) -> list[str]:
        """The cells of a table's row, blanks made plain, the interval behind the number."""
        (found,) = [cells for cells in self.cells if cells[0] == label]
        return [" ".join(cell.replace("[", " [").split()) for cell in found]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


# --- safe and self-contained --------------------------------------------------------------------


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole_and_loads_nothing(name: str) -> None:
    html = made(name)
    page = Page(html)
    assert html.startswith("<!DOCTYPE html>")
    assert page.open == []
    assert {"script", "link", "img", "iframe", "object", "embed", "base"} & {
        t for t, _ in page.elements
    } == set()
    for _, attributes in page.elements:
        for key, value in attributes.items():
            assert not key.startswith("on")
            assert key != "src"
            assert key != "href" or (value or "").startswith("#")
            assert not re.search(r"https?:", value or "")
    (style,) = re.findall("<style>(.*?)</style>", html, re.DOTALL)
    assert re.findall("@import|@font-face|url|http", style) == []


@pytest.mark.parametrize("name", PAGES)
def test_ids_are_each_used_once_and_every_reference_has_its_target(name: str) -> None:
    html = made(name)
    ids = [value for _, attributes in Page(html).elements if (value := attributes.get("id"))]
    assert len(ids) == len(set(ids))
    references = re.findall(r'(?:href="#|url\(#|aria-labelledby=")([^")]+)', html)
    assert set(references) <= set(ids)
    assert any(reference.endswith("-title") for reference in references)


@pytest.mark.parametrize("name", PAGES)
def test_every_chart_has_a_role_and_a_title(name: str) -> None:
    page = Page(made(name))
    drawings = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert drawings
    assert all(one["role"] == "img" and one["aria-labelledby"] for one in drawings)
    titles = [attributes for tag, attributes in page.elements if tag == "title" and "id" in attributes]
    assert [one["aria-labelledby"] for one in drawings] == [one["id"] for one in titles]


@pytest.mark.parametrize("name", PAGES)
def test_the_same_document_gives_the_same_bytes(name: str) -> None:
    assert made(name).encode() == PAGES[name]().encode()


def test_hostile_texts_are_shown_and_not_obeyed() -> None:
    page = Page(made("hostile"))
    shown = documents.HOSTILE.translate({0xD83D: 0xFFFD, 0: 0xFFFD, 0x1B: 0xFFFD, 0x202E: 0xFFFD})
    assert page.text.count('<script>alert("x")</script>') > 20
    assert "{{ 7 * 7 }} {% raw %} &amp; $\\frac{1}{0}$" in page.text  # no template, entity or formula
    for place in ("h1", "pre"):
        assert place in {tag for tag, _ in page.elements}
    assert " ".join(shown.split()) in page.text


def test_a_sample_s_text_stands_there_whole() -> None:
    page = Page(made("seven"))
    assert (" and again, and again" * 120).strip() in page.text


# --- every number is in the table ---------------------------------------------------------------


def test_every_row_s_numbers_stand_in_the_table() -> None:
    page = Page(made("working"))
    assert page.row("polite +16") == [
        "polite +16", "16", "16.0 %", "all", "95.5 % [92.0, 99.0]", "+34.5 [31.0, 38.0]", "0.89 [0.85, 0.93]",
        "9.07 [8.35, 9.80]", "1.08 [1.01, 1.15]", "0.160", "0.412 [0.399, 0.425]", "0.834 [0.823, 0.845]",
        "0.957 [0.951, 0.963]", "0.021 [0.013, 0.029]", "38.7 [38.1, 39.3]", "240", "60", "0",
    ]  # fmt: skip
    assert page.row("unsteered")[:6] == ["unsteered", "0", "0.0 %", "all", "61.0 % [52.0, 70.0]", ""]


@pytest.mark.parametrize("make", EVALUATIONS[:-1])
def test_every_row_has_its_line_and_every_judge_its_numbers(make: Callable[[], Document]) -> None:
    document, page = make(), Page(made(make.__name__))
    for row in document["rows"]:
        cells = page.row(row["label"])
        for numbers in row["judges"].values():
            if numbers["rate"]:
                found = [cell for cell in cells if cell.startswith(f"{100 * numbers['rate']['value']:.1f} %")]
                assert found


def test_settings_stand_in_the_order_of_alpha_baselines_behind() -> None:
    page = Page(made("working"))
    labels = [cells[0] for cells in page.cells if len(cells) > 10][1:]
    assert labels == [
        "polite -8", "unsteered", "prompt “Be polite.”", "polite +4", "polite +8", "random +8",
        "polite +16", "random +16", "polite +24",
    ]  # fmt: skip


def test_infinite_perplexity_is_written_and_failed_answers_are_counted() -> None:
    page = Page(made("failed"))
    assert any(cell.startswith("∞") for cell in page.row("polite +24"))
    assert "240" in page.row("polite +8")
    assert "The judge “llm” judged no text." in page.text


def test_a_failed_score_is_marked_and_an_absent_text_leaves_its_place_empty() -> None:
    document, page = documents.seven(), Page(made("seven"))
    assert "llm failed" in page.text
    samples = [cells for cells in page.cells if len(cells) == 7 and "polite -24" in cells[0]]
    assert len(samples) == len(document["samples"])
    assert samples[2][6 - 1].split() == ["polite", "+16"]  # its text of the third prompt was left out


def test_judges_show_their_limits_and_warnings_and_a_note_on_top_points_there() -> None:
    page = Page(made("seven"))
    assert "Mind 1 warning about the judges." in page.text
    assert "On 21 of 1680 texts it gave no answer that could be read." in page.text
    assert "may reward the same habits" in page.text


def test_all_that_is_needed_to_repeat_the_run_is_there() -> None:
    document = documents.working()
    text = Page(made("working")).text
    for value in (
        document["command"], document["facts"]["vectors"][0]["sha256"], "top_p 0.95", "greedy no",
        "neutral_texts none", "2026-11-24T16:59:34+00:00",
    ):  # fmt: skip
        assert value in text


def test_a_document_without_judges_has_its_costs() -> None:
    document = documents.working()
    for row in document["rows"]:
        row["judges"] = {}
    document["judges"] = []
    page = Page(evaluation_page(document))
    assert "No judge was asked, so only the cost is known." in page.text
    assert "1.08 [1.01, 1.15]" in page.row("polite +16")


def test_settings_without_an_alpha_are_drawn_by_their_labels() -> None:
    for name in ("two_vectors", "published"):
        html = made(name)
        assert "Effect and cost of each setting" in html
        assert "Dose-response" not in html
    assert "$x^2$ &lt;b&gt;.jsonl" in html  # in the drawing, too, no formula and no tag


# --- calibration, layers ------------------------------------------------------------------------


def test_a_calibration_names_the_recommended_alphas_and_the_expected_rates() -> None:
    page = Page(made("calibration"))
    assert "Upwards: alpha 16, downwards: alpha -8." in page.text
    assert "Tested alphas from -8 to 16 keep the perplexity ratio within 1.25." in page.text
    assert page.row("-4") == ["-4", "50.0 %"]
    assert "up 16" in page.text  # in the drawing


def test_a_calibration_that_recommends_nothing_says_so() -> None:
    document = documents.calibration() | {"recommended": {"up": None, "down": None}, "expected": []}
    assert "Upwards: no alpha, downwards: no alpha." in Page(calibration_page(document)).text


def test_layers_show_every_row_and_where_to_steer() -> None:
    page = Page(made("layers"))
    assert page.row("20")[:6] == [
        "20",
        "blocks.20.hook_resid_post",
        "0.96 [0.93, 0.98]",
        "0.94",
        "8.0 %",
        "226.0",
    ]
    assert page.row("20")[8:10] == ["70.5 % [64.5, 76.5]", "1.06 [1.01, 1.11]"]
    assert page.row("0")[6:] == [""] * 6  # not steered
    assert "The sides are told apart best after layer 23: AUROC 0.97 [0.94, 0.99]." in page.text
    assert "layer 17 at alpha 16 gives the most positive texts: 90 % [84, 96]" in page.text
    assert "layer 17 at alpha -10 gives the fewest positive texts: 25 % [19, 31]" in page.text


def test_layers_that_were_not_steered_have_one_chart() -> None:
    html = made("layers without steering")
    assert html.count("<svg") == 1
    assert "perplexity" not in html.lower()


@pytest.mark.parametrize(
    ("name", "start"), [("p.png", b"\x89PNG\r\n\x1a\n"), ("p.svg", b"<?xml"), ("P.SVG", b"<?xml")]
)
@pytest.mark.parametrize("steer", [True, False])
def test_a_plot_of_layers_is_what_its_suffix_says(
    tmp_path: Path, name: str, start: bytes, steer: bool
) -> None:
    layers_plot(documents.layers(steer=steer), tmp_path / name)
    first = (tmp_path / name).read_bytes()
    assert first.startswith(start)
    layers_plot(documents.layers(steer=steer), tmp_path / name)
    assert (tmp_path / name).read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_plot_of_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"p\.pdf: a plot is a \.png or a \.svg file; name one of the two$"):
        layers_plot(documents.layers(), tmp_path / "p.pdf")
    assert list(tmp_path.iterdir()) == []
