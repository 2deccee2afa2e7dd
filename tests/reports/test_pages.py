"""Pages open without a network, escape every text, and hold every number."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from support import evaluations
from support.page import NO_ICON, Page

from neurosteer_cli.errors import InputError
from neurosteer_cli.evaluation.results import Evaluation
from neurosteer_cli.reports.charts import layers_plot
from neurosteer_cli.reports.pages import calibration_page, evaluation_page, latents_page, layers_page
from neurosteer_cli.saes.descriptions import About, Context, Description, Descriptions

EVALUATIONS = (
    evaluations.working,
    evaluations.without_effect,
    evaluations.costly,
    evaluations.single,
    evaluations.seven,
    evaluations.two_vectors,
    evaluations.published,
    evaluations.failed,
    evaluations.priced_twice,
    evaluations.hostile,
)
COMMAND = "neurosteer eval -v polite.st --alpha=-8,4,8,16,24"
PAGES: dict[str, Callable[[], str]] = {
    **{
        make.__name__: lambda make=make: evaluation_page(
            make(), evaluations.HOSTILE if make is evaluations.hostile else COMMAND
        )
        for make in EVALUATIONS
    },
    "calibration": lambda: calibration_page(evaluations.working(), evaluations.calibration(), COMMAND),
    "layers": lambda: layers_page(evaluations.layers(), COMMAND),
    "layers without steering": lambda: layers_page(evaluations.layers(steer=False), COMMAND),
}


@cache
def made(name: str) -> str:
    """A page, made once for all tests that read it."""
    return PAGES[name]()


# --- safe and self-contained --------------------------------------------------------------------


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole_and_loads_nothing(name: str) -> None:
    html = made(name)
    page = Page(html)
    assert html.startswith("<!DOCTYPE html>")
    assert page.open == []
    assert {"script", "img", "iframe", "object", "embed", "base"} & {t for t, _ in page.elements} == set()
    assert [attributes for tag, attributes in page.elements if tag == "link"] == [NO_ICON]
    for _, attributes in page.elements:
        for key, value in attributes.items():
            assert not key.startswith("on")
            assert key != "src"
            assert key != "href" or (value or "").startswith(("#", "data:,"))
            assert key == "aria-label" or not re.search(r"https?:", value or "")
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
def test_the_same_results_give_the_same_bytes(name: str) -> None:
    assert made(name).encode() == PAGES[name]().encode()


def test_hostile_texts_are_shown_and_not_obeyed() -> None:
    page = Page(made("hostile"))
    shown = evaluations.HOSTILE.translate({0xD83D: 0xFFFD, 0: 0xFFFD, 0x1B: 0xFFFD, 0x202E: 0xFFFD})
    assert page.text.count('<script>alert("x")</script>') > 20
    assert "{{ 7 * 7 }} {% raw %} &amp; $\\frac{1}{0}$" in page.text  # no template, entity or formula
    for place in ("h1", "pre"):
        assert place in {tag for tag, _ in page.elements}
    assert " ".join(shown.split()) in page.text


def test_a_sample_s_text_stands_there_whole() -> None:
    page = Page(made("seven"))
    assert (" and again, and again" * 120).strip() in page.text


def test_whether_judges_agree_is_said() -> None:
    page = Page(made("priced_twice"))
    together = (
        "The judges together: with polite -8, polite +4, polite +8, polite +16, polite +24 only some find an "
        "effect beyond its interval."
    )
    assert together in " ".join(page.text.split())
    assert "The judges together" not in made("working")


# --- every number is in the table ---------------------------------------------------------------


def test_every_row_s_numbers_stand_in_the_table() -> None:
    page = Page(made("working"))
    assert page.row("polite +16") == [
        "polite +16",
        "16",
        "16.0 %",
        "95.5 % [92.0, 99.0]",
        "+34.5 [31.0, 38.0]",
        "0.89 [0.85, 0.93]",
        "9.07 [8.35, 9.80]",
        "1.08 [1.01, 1.15]",
        "0.920 [0.890, 0.950]",
        "0.160",
        "0.99",
        "0.412 [0.399, 0.425]",
        "0.834 [0.823, 0.845]",
        "0.957 [0.951, 0.963]",
        "0.021 [0.013, 0.029]",
        "38.7 [38.1, 39.3]",
        "240",
        "60",
        "0",
    ]
    assert page.row("unsteered")[:5] == ["unsteered", "0", "0.0 %", "61.0 % [52.0, 70.0]", ""]


@pytest.mark.parametrize("make", EVALUATIONS[:-1])
def test_every_condition_has_its_row_and_every_judge_its_numbers(make: Callable[[], Evaluation]) -> None:
    page = Page(made(make.__name__))
    for result in make().results:
        cells = page.row(result.condition.label)
        for judged in result.judges.values():
            if judged.rate:
                assert [cell for cell in cells if cell.startswith(f"{100 * judged.rate.value:.1f} %")]


def test_settings_stand_in_the_order_of_alpha_baselines_behind() -> None:
    page = Page(made("working"))
    labels = [cells[0] for cells in page.cells if len(cells) > 10][1:]
    assert labels == [
        "polite -8",
        "unsteered",
        "prompting",
        "polite +4",
        "polite +8",
        "random like polite +8",
        "polite +16",
        "random like polite +16",
        "polite +24",
    ]


def test_infinite_perplexity_is_written_and_failed_answers_are_counted() -> None:
    page = Page(made("failed"))
    assert any(cell.startswith("∞") for cell in page.row("polite +24"))
    assert "240" in page.row("polite +8")
    assert "The judge “llm” judged no text." in page.text


def test_a_failed_score_is_marked_and_an_absent_text_leaves_its_place_empty() -> None:
    page = Page(made("seven"))
    assert "llm failed" in page.text
    samples = [cells for cells in page.cells if len(cells) == 7 and "polite -24" in cells[0]]
    assert len(samples) == 4
    assert samples[2][6 - 1].split() == ["polite", "+16"]  # its text of the third prompt was left out


def test_judges_show_their_limits_and_warnings_and_a_note_on_top_points_there() -> None:
    page = Page(made("seven"))
    assert "Mind 1 warning about the judges." in page.text
    assert "On 21 of 1680 texts it gave no answer that could be read." in page.text
    assert "may reward the same habits" in page.text


def test_all_that_is_needed_to_repeat_the_run_is_there() -> None:
    text = Page(made("working")).text
    for value in (
        COMMAND,
        evaluations.PROVENANCE["vectors"][0]["sha256"],
        "top_p 0.95",
        "greedy no",
        "neutral_texts none",
        "2026-11-24T16:59:34+00:00",
    ):
        assert value in text


def test_an_evaluation_without_judges_has_its_costs() -> None:
    evaluation = evaluations.working()
    results = [replace(result, judges={}) for result in evaluation.results]
    page = Page(evaluation_page(replace(evaluation, results=results, judges=[], scores={}), COMMAND))
    assert "No judge was asked, so only the cost is known. 3 prompts are too few to tell" in page.text
    assert "1.08 [1.01, 1.15]" in page.row("polite +16")


def test_settings_without_an_alpha_are_drawn_by_their_labels() -> None:
    for name in ("two_vectors", "published"):
        html = made(name)
        assert "of each setting</title>" in html
        assert "against alpha</title>" not in html
    assert "$x^2$ &lt;b&gt;.jsonl" in html  # in the drawing, too, no formula and no tag


def test_few_prompts_are_called_few_on_the_page() -> None:
    evaluation = evaluations.working()
    few = replace(evaluation, results=[replace(one, n_prompts=6) for one in evaluation.results])
    text = Page(evaluation_page(few, COMMAND)).text
    assert "too few prompts to tell" in text
    assert "6 prompts are too few to tell" in text
    assert "too few" not in Page(made("working")).text


def test_a_negative_score_has_a_bar_from_the_middle() -> None:
    evaluation = evaluations.working()
    judge = replace(evaluation.judges[0], card={"range": [-1, 1]})
    scores = [-0.5, 0.25, *[0.0] * (len(evaluation.samples) - 2)]
    html = evaluation_page(replace(evaluation, judges=[judge], scores={"data": scores}), COMMAND)
    below = '<span class="bar signed"><span class=below style="left: 25%; width: 25%"></span></span>'
    above = '<span class="bar signed"><span style="left: 50%; width: 12%"></span></span>'
    assert re.search(rf"{below}\s*-0.50", html)
    assert re.search(rf"{above}\s*0.25", html)
    assert 'class="bar signed"' not in made("working")


def test_prompts_that_are_not_shown_are_counted() -> None:
    evaluation = evaluations.working()
    prompts = tuple(f"prompt {n}" for n in range(15))
    many = evaluations.evaluation(evaluation.results, *evaluation.judges, prompts=prompts)  # type: ignore[arg-type]
    assert "The first 12 prompts; 3 more were written to." in Page(evaluation_page(many, COMMAND)).text
    assert "more were written to" not in made("working")


def test_panels_leave_no_row_half_empty() -> None:
    for name, columns, n in (("working", 2, 4), ("seven", 3, 6), ("published", 3, 5), ("layers", 2, 4)):
        html = made(name)
        assert f'class="figures" style="--columns: {columns}"' in html
        assert html.count("<figure>") == n


# --- calibration, layers ------------------------------------------------------------------------


def test_a_calibration_names_the_recommended_alphas_and_the_expected_rates() -> None:
    page = Page(made("calibration"))
    assert "Upwards alpha 16, downwards alpha -8." in page.text
    assert "Tested alphas from -8 to 16 keep the perplexity ratio within 1.25." in page.text
    alphas, expected = page.row("alpha"), page.row("expected")
    assert dict(zip(alphas, expected, strict=True))["-4"] == "50.0 %"
    assert "up 16" in page.text  # in the drawing


def test_a_calibration_that_recommends_nothing_says_so() -> None:
    calibration = evaluations.calibration(None, None)
    alone = calibration.model_copy(update={"curve": [at for at in calibration.curve if at.alpha == 0]})
    text = Page(calibration_page(evaluations.working(), alone, COMMAND)).text
    assert "No alpha has an effect beyond its interval, so none is recommended." in text
    assert "No tested alpha keeps the perplexity ratio within 1.25." in text


def test_an_alpha_that_is_not_recommended_is_not_marked_either() -> None:
    calibration = evaluations.calibration(16.0, None)
    html = calibration_page(evaluations.without_effect(), calibration, COMMAND)
    assert "nothing to recommend" in html
    assert "up 16" not in html
    assert "upright lines" not in html


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
    assert "told apart equally well after layers 13 to 29: AUROC 0.92 to 0.97." in page.text
    assert "layers 11, 14, 17 and 20 give the most positive texts" in page.text
    assert "layers 11, 14, 17, 20 and 23 give the fewest positive texts" in page.text


def test_layers_that_were_not_steered_have_no_chart_of_steering() -> None:
    html = made("layers without steering")
    assert html.count("<figure>") == 2
    assert "perplexity" not in html.lower()


@pytest.mark.parametrize(
    ("name", "start"), [("p.png", b"\x89PNG\r\n\x1a\n"), ("p.svg", b"<?xml"), ("P.SVG", b"<?xml")]
)
@pytest.mark.parametrize("steer", [True, False])
def test_a_plot_of_layers_is_what_its_suffix_says(
    tmp_path: Path, name: str, start: bytes, steer: bool
) -> None:
    layers_plot(evaluations.layers(steer=steer), tmp_path / name)
    first = (tmp_path / name).read_bytes()
    assert first.startswith(start)
    layers_plot(evaluations.layers(steer=steer), tmp_path / name)
    assert (tmp_path / name).read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_plot_of_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"p\.pdf: a plot is a \.png or a \.svg file; name one of the two$"):
        layers_plot(evaluations.layers(), tmp_path / "p.pdf")
    assert list(tmp_path.iterdir()) == []


# --- latents ------------------------------------------------------------------------------------


def records_of(html: str) -> Any:
    """The data of the page."""
    (data,) = re.findall('id="data">(.*?)</script>', html)
    return json.loads(data)


def described(*latents: Description, hook_point: str = "blocks.2.hook_resid_post") -> Descriptions:
    about = About(
        format_version=1,
        program_version="0",
        sae_sha256="0" * 64,
        model_id="<tiny>",
        hook_point=hook_point,
        d_sae=len(latents),
        n_tokens=1234,
        median_resid_norm=2.0,
    )
    return Descriptions(about, list(latents))


def test_the_page_needs_nothing_else_and_holds_every_latent() -> None:
    nasty = Context("</script><b>", " & ", "<!--", 1.0)
    latents = Description(0, 0.25, (nasty,), ("up",), ("down",), (3, 1)), Description(1, 0.0, (), (), ())
    text = latents_page([described(*latents)])
    elements = Page(text).elements
    assert [attributes for _, attributes in elements if {"src", "href"} & set(attributes)] == [NO_ICON]
    assert text.count("<b>") == 1  # the page's own
    assert "<tiny>" not in text
    assert "blocks.2.hook_resid_post of &lt;tiny&gt;: 2 latents, contexts from 1,234 tokens" in text
    assert records_of(text) == [
        {
            "id": "0",
            "rate": 0.25,
            "at": [["</script><b>", " & ", "<!--", 1.0]],
            "up": ["up"],
            "down": ["down"],
            "strengths": [3, 1],
        },
        {"id": "1", "rate": 0.0, "at": [], "up": [], "down": [], "strengths": []},
    ]


def test_latents_of_several_saes_are_told_apart_by_their_block() -> None:
    latent = Description(0, 0.0, (), (), ())
    text = latents_page([described(latent), described(latent, hook_point="blocks.5.hook_resid_post")])
    assert [record["id"] for record in records_of(text)] == ["2/0", "5/0"]
