"""Reports in a real, headless Chromium: on every screen, in both schemes; the page of latents at work."""

from pathlib import Path
from typing import Any

import pytest
from support import evaluations
from support.browser import IS_THERE, Page

from neurosteer_cli.evaluation.measures.metrics import Estimate
from neurosteer_cli.reports.pages import calibration_page, evaluation_page, latents_page, layers_page
from neurosteer_cli.reports.scores import ScoredText, ScoredTexts, scores_page
from neurosteer_cli.saes.descriptions import About, Context, Description, Descriptions

pytestmark = pytest.mark.skipif(not IS_THERE, reason="needs chromium and chromedriver")
COMMAND = f"neurosteer eval {'-v a_vector_with_a_long_name.st ' * 4}"
N_LATENTS = 64


def latents() -> Descriptions:
    found = []
    for number in range(N_LATENTS):
        contexts = tuple(
            Context(f"words before{' and more' * n}", " token" if n % 2 else "\n", " after\nit", 9.0 - 2 * n)
            for n in range(4)
        )
        strengths = (number, 40, 30, 20, 9, 8, 7, 6, 5, 4, 2, 1)
        found.append(Description(number, 0.01 * number, contexts, (" up", "\n"), (" down",), strengths))
    found[1] = Description(1, 0.0, (), (), (), (0,) * 12)
    found[2] = Description(2, 0.5, (Context("", "strongest", "", 99.0),), (), (), (0, 1))
    about = About(
        format_version=2, program_version="0", sae_sha256="0" * 64, model_id="tiny",
        hook_point="blocks.2.hook_resid_post", d_sae=N_LATENTS, n_tokens=1234, median_resid_norm=2.0,
    )  # fmt: skip
    return Descriptions(about, found)


def scored() -> ScoredTexts:
    tokens = [
        ("The", None),
        *((f" word{n}" * (1 + n % 5), (n % 13 - 6) / 2) for n in range(90)),
        ("x" * 300, 9.0),
    ]
    texts = [
        ScoredText(f"a/folder/of/texts.jsonl:{n}", f"label {n}", n - 2.0, n / 5, tokens) for n in range(5)
    ]
    texts.append(ScoredText("texts.jsonl:9", None, None, None, []))
    sides = {"polite": [0.5, 1.0, 2.5], "others": [-2.0, -0.5, 0.75]}
    auroc = Estimate(0.875, 0.75, 1.0)
    return ScoredTexts(
        "6 texts scored by polite.st", "polite", "rude", texts, 6, sides, auroc, {"texts": ["a"]}
    )


MAKES: dict[str, Any] = {
    "evaluation": lambda: evaluation_page(evaluations.seven(), COMMAND),
    "published": lambda: evaluation_page(evaluations.published(), COMMAND),
    "calibration": lambda: calibration_page(evaluations.working(), evaluations.calibration(), COMMAND),
    "layers": lambda: layers_page(evaluations.layers(), COMMAND),
    "latents": lambda: latents_page([latents()]),
    "scores": lambda: scores_page(scored(), COMMAND),
}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    for name, make in MAKES.items():
        (folder / f"{name}.html").write_text(make(), encoding="utf-8", errors="replace")
    return folder


def opened(browser: Any, pages: Path, name: str, place: str = "") -> Page:
    page = Page(browser)
    page.on("desk")
    browser.get("about:blank")
    browser.get(f"{(pages / f'{name}.html').as_uri()}{place}")
    return page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", ["desk", "phone"])
@pytest.mark.parametrize("name", MAKES)
def test_nothing_is_cut_off_or_faint(browser: Any, pages: Path, name: str, size: str, scheme: str) -> None:
    page = opened(browser, pages, name)
    page.on(size, scheme)
    page.run("for (const one of [...document.querySelectorAll('details')].slice(0, 4)) one.open = true")
    assert page.beyond_the_edge() <= 0
    assert page.faint() == []
    assert page.complaints() == []


@pytest.mark.parametrize("name", ["evaluation", "published", "calibration", "layers"])
def test_no_two_labels_of_a_chart_lie_on_one_another(browser: Any, pages: Path, name: str) -> None:
    clashes = opened(browser, pages, name).run("""
        const found = [];
        for (const svg of document.querySelectorAll("figure svg")) {
          const texts = [...svg.querySelectorAll("text")];
          const labels = texts.map((one) => [one.textContent, one.getBoundingClientRect()]);
          labels.forEach(([a, p], i) => labels.slice(i + 1).forEach(([b, q]) => {
            const wide = Math.min(p.right, q.right) - Math.max(p.left, q.left);
            const high = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
            if (wide > 1 && high > 3) found.push(`${a} / ${b}`);
          }));
        }
        return found;""")
    assert clashes == []


@pytest.mark.parametrize("name", ["evaluation", "published", "calibration", "layers"])
def test_charts_use_the_width_there_is(browser: Any, pages: Path, name: str) -> None:
    page = opened(browser, pages, name)
    ends = page.run("""
        const within = document.querySelector(".figures").getBoundingClientRect(), rows = {};
        for (const one of document.querySelectorAll("figure")) {
          const place = one.getBoundingClientRect();
          (rows[Math.round(place.top)] ??= []).push(place.right - within.left);
        }
        return Object.values(rows).map((row) => Math.max(...row) / within.width);""")
    assert all(end > 0.97 for end in ends)


def test_a_table_that_scrolls_shows_it_and_keeps_its_first_column(browser: Any, pages: Path) -> None:
    page = opened(browser, pages, "evaluation")
    page.on("phone")
    page.run("document.querySelector('.scroll').scrollLeft = 300")
    first, box = page.run("""
        const box = document.querySelector(".scroll");
        return [box.querySelector("tbody th"), box].map((one) => one.getBoundingClientRect().left);""")
    assert abs(first - box) <= 2
    image = page.run("return getComputedStyle(document.querySelector('.scroll')).backgroundAttachment")
    assert image == "local, local, scroll, scroll"


# --- latents -----------------------------------------------------------------------------------------


def test_latents_are_compact_and_open(browser: Any, pages: Path) -> None:
    page = opened(browser, pages, "latents")
    assert len(page.all("details.latent")) == N_LATENTS
    assert page.run("return document.documentElement.scrollHeight") < 3000
    assert page.text("#count") == "64 latents"
    assert page.text("#latent-0 summary .token") == "⏎"
    assert page.all("#latent-0 summary .after")[0].get_property("textContent") == "⏎ after⏎it"
    page.click("#latent-0 summary")
    assert page.texts("#latent-0 .contexts .value") == ["7.00", "5.00", "3.00"]
    assert page.texts("#latent-0 .chip.up") == ["·up", "⏎"]
    page.click("#open")
    assert len(page.all("details.latent[open]")) == N_LATENTS


def test_contexts_are_aligned_at_the_token_which_is_coloured_by_strength(browser: Any, pages: Path) -> None:
    page = opened(browser, pages, "latents", "#latent-5")
    assert page.texts("details.latent[open] .number") == ["5"]
    lefts = page.run(
        "return [...document.querySelectorAll('.token')].map((one) => one.getBoundingClientRect().left)"
    )
    assert len(lefts) == 4
    assert max(lefts) - min(lefts) < 1
    colours = page.run(
        "return [...document.querySelectorAll('.token')].map((one) => getComputedStyle(one).backgroundColor)"
    )
    assert len(set(colours)) == 4
    assert page.all(".histogram i") and len(page.all("details.latent")) == 1


def test_latents_are_found_by_number_and_word_and_put_in_order(browser: Any, pages: Path) -> None:
    page = opened(browser, pages, "latents")
    page.fill("#query", "strongest")
    assert (page.text("#count"), page.texts(".number")) == ("1 latent", ["2"])
    page.fill("#query", "7")
    assert page.texts(".number") == ["7"]
    page.run(
        "const box = document.querySelector('#query'); box.value = ''; box.dispatchEvent(new Event('input'))"
    )
    page.all("#order option[value=peak]")[0].click()
    assert page.texts(".number")[0] == "2"
    page.all("#order option[value=rate]")[0].click()
    assert page.texts(".number")[:2] == ["63", "62"]
    page.fill("#query", "1")
    assert "never fired" in page.text("details.latent")
