"""The demo's page in a real, headless Chromium, on the server it is made for."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from support.browser import IS_THERE, Page
from support.serving import served
from support.tiny import D_MODEL, D_VOCAB, of_kind, tiny_vector

from neurosteer_cli.evaluation.judges.lexical import sentiment_judge
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.reports.demo import PROMPTS, demo_page
from neurosteer_cli.vectors.kinds import TokenBias
from neurosteer_cli.vectors.vector import Latents

pytestmark = pytest.mark.skipif(not IS_THERE, reason="needs chromium and chromedriver")
UP = [f"aaa bbb aab {n}" for n in range(12)]
DOWN = [f"zzz yyy zzy {n}" for n in range(12)]


def scores(_prompt: str, _rendered: bool, texts: Sequence[str]) -> dict[str, Any]:
    """A judge that is sad of unsteered texts, which come first."""
    numbers = [-0.5, *[0.25] * (len(texts) - 1)]
    return {"perplexities": [7.25, *[None] * (len(texts) - 1)], "judges": {"sentiment": numbers}}


@pytest.fixture(scope="module")
def address(engine: Engine) -> Iterator[str]:
    vectors = {}
    for number, name in enumerate(("happy", "polite")):
        push = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(number)) / D_MODEL**0.5
        vector = tiny_vector(engine.shape, {HookPoint(1): push})
        if name == "happy":  # in the unit of fitted vectors
            push *= 0.01 / vector.dose(1.0)
        else:
            vector.latents[HookPoint(1)] = Latents(
                torch.tensor([4, 7, 9]), torch.tensor([1.0, -3.0, 0.5]), torch.full((2, 3), 0.25)
            )
        vectors[name] = vector
    page = demo_page([sentiment_judge()])
    with served(engine, vectors, page=page, score=scores, fitting=True) as (found, _):
        yield found


@pytest.fixture
def page(browser: Any, address: str) -> "Demo":
    page = Demo(browser)
    page.on("desk")
    browser.get(address)
    page.wait(page.is_written)
    return page


class Demo(Page):
    """The page, and what one does on it."""

    def is_written(self) -> bool:
        cards = self.all(".written-text")
        return bool(cards) and not self.all(".running") and not self.all("#stop:enabled")

    def slide(self, vector: str, alpha: float) -> None:
        """Move a slider as a hand does that has not let go of it: its value changes, and it says so."""
        self.run(
            "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))",
            self.all(f"#alpha-{vector}")[0],
            alpha,
        )

    def alpha(self, vector: str) -> float:
        return float(self.all(f"#alpha-{vector}")[0].get_property("value"))

    def generate(self) -> list[str]:
        """The texts of all cards, without the prompt."""
        self.click("#go")
        self.wait(self.is_written)
        return self.written()

    def written(self) -> list[str]:
        found: list[str] = self.run(
            "return [...document.querySelectorAll('.written-text')].map((card) => written(card))"
        )
        return found

    def marks(self, card: int) -> list[str]:
        found: list[str] = self.run(
            "return [...document.querySelectorAll('.written-text')[arguments[0]].querySelectorAll('mark')]"
            ".map((mark) => mark.textContent)",
            card,
        )
        return found


def dose_of(page: Page, vector: str, alpha: float) -> float:
    """What the server says of it."""
    url = page.browser.current_url
    answer = httpx.post(f"{url}v1/dose", json={"steering": {vector: alpha}})
    dose: float = answer.json()["dose"]
    return dose


# --- what it opens with ------------------------------------------------------------------------------


def test_it_opens_with_an_example_written_side_by_side(page: Demo) -> None:
    assert page.texts(".written-text h3") == ["Unsteered", "polite +8"]
    assert all(page.written())
    assert page.texts(".said .prompt") == [PROMPTS[0]] * 2
    assert page.text("#what") == (
        "The model writes the same prompt twice with the same dice (seed 0): as it is, and with polite +8 "
        "added to it while it writes. Words in which they differ are marked."
    )
    assert (page.alpha("happy"), page.alpha("polite")) == (0, 8)
    assert page.complaints() == []


def test_scores_stand_beside_each_text_as_bars_from_the_middle(page: Demo) -> None:
    page.wait(lambda: page.text(".scores"))
    found = [" ".join(text.split()) for text in page.texts(".scores")]
    assert found == ["sentiment −0.50 perplexity 7.3", "sentiment +0.25"]
    below, above = page.all(".scores .bar span")
    assert below.get_attribute("style") == "left: 25%; width: 25%;"
    assert above.get_attribute("style") == "left: 50%; width: 12.5%;"


def test_words_are_marked_that_the_other_text_does_not_have(page: Demo) -> None:
    found = page.run(
        "const pieces = marked('a cat sat on the mat', 'a dog sat near the mat');"
        "return pieces.map((one) => [one.nodeName, one.textContent])"
    )
    assert found == [
        ["#text", "a "], ["MARK", "cat"], ["#text", " sat "], ["MARK", "on"], ["#text", " the mat"]
    ]  # fmt: skip
    page.slide("polite", 30)
    plain, steered = page.generate()
    assert plain != steered
    assert page.marks(0) and page.marks(1)
    assert all(mark in plain for mark in page.marks(0))


# --- sliders -----------------------------------------------------------------------------------------


def test_a_moved_slider_gives_another_text_and_none_the_same(page: Demo) -> None:
    page.fill("#prompt", "to be")
    page.slide("polite", 0)
    page.wait(lambda: page.text("#dose") == "0 %")
    plain, steered = page.generate()
    assert plain == steered != ""
    assert page.texts(".written-text h3")[1] == "all alphas 0"
    assert page.marks(0) == page.marks(1) == []
    page.slide("polite", 25)
    dose = dose_of(page, "polite", 25)
    page.wait(lambda: page.text("#dose") == f"{round(dose * 1000) / 10:g} %")
    again, polite = page.generate()
    assert again == plain
    assert polite not in ("", plain)
    page.slide("polite", -25)
    assert page.generate()[1] not in (plain, polite)
    assert page.complaints() == []


def test_a_slider_grows_from_a_zero_in_the_middle_in_two_colours(page: Demo) -> None:
    def ends(alpha: float) -> tuple[str, str, str]:
        page.slide("happy", alpha)
        slider = page.all("#alpha-happy")[0]
        found = page.run(
            "const style = getComputedStyle(arguments[0]);"
            "return ['--from', '--to', '--side'].map((name) => style.getPropertyValue(name).trim())",
            slider,
        )
        return tuple(part.replace(" * (100% - 1.125rem) + 0.5625rem", "") for part in found)  # type: ignore[return-value]

    middle = "calc(0.5)"
    assert ends(0)[:2] == (middle, middle)
    assert ends(15)[:2] == (middle, "calc(0.75)")
    assert ends(-15)[:2] == ("calc(0.25)", middle)
    assert ends(15)[2] != ends(-15)[2]


def test_the_safe_range_is_on_the_slider_and_its_ends_can_be_clicked(page: Demo) -> None:
    assert page.texts(".vector:has(#alpha-happy) .marks button") == ["−20", "0", "+20"]
    page.click(".vector:has(#alpha-happy) .marks button:last-child")
    assert page.alpha("happy") == 20
    page.wait(lambda: "happy +20" in page.texts(".written-text h3")[1] and page.is_written())
    page.slide("happy", 25)
    page.wait(lambda: "text begins to suffer" in page.text("#advice"))


def test_a_double_click_sets_a_slider_back_and_the_page_says_so(page: Demo) -> None:
    assert "A double-click, or its 0, sets it back." in page.text(".dials")
    page.run("document.querySelector('#alpha-polite').dispatchEvent(new Event('dblclick'))")
    assert page.alpha("polite") == 0
    assert page.text(".vector:has(#alpha-polite) output") == "0"


def test_to_let_go_of_a_slider_writes_anew(page: Demo) -> None:
    before = page.written()
    page.slide("polite", 30)
    page.run("document.querySelector('#alpha-polite').dispatchEvent(new Event('change'))")
    page.wait(lambda: page.texts(".written-text h3")[1] == "polite +30" and page.is_written())
    assert page.written()[0] == before[0]


def test_a_slider_has_the_range_of_its_vectors_kind(browser: Any, engine: Engine) -> None:
    push = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(0))
    pushing = tiny_vector(engine.shape, {HookPoint(1): push})
    bias = TokenBias(torch.arange(D_VOCAB), (torch.arange(D_VOCAB) % 7 == 3).float())
    vectors = {
        "ablates": of_kind("ablate", pushing),
        "clamps": of_kind("clamp", pushing),
        "urges": of_kind("logits", replace(tiny_vector(engine.shape, {}), bias=bias)),
    }
    page = Demo(browser)
    with served(engine, vectors, page=demo_page([]), score=scores) as (address, _):
        browser.get(address)
        page.wait(page.is_written)
        assert page.texts(".written-text h3") == ["Unsteered", "ablates +1"]
        assert page.text("#what").endswith(
            "as it is, and with ablates +1 at work while it writes. Words in which they differ are marked."
        )
        ranges = [
            [slider.get_attribute(name) for name in ("min", "max", "step")]
            for slider in page.all("input[type=range]")
        ]
        assert ranges == [["0", "1", "0.05"], ["-30", "30", "0.5"], ["-30", "30", "0.5"]]
        assert page.texts(".vector:has(#alpha-ablates) .marks button") == ["0", "+1"]
        assert page.texts(".vector:has(#alpha-urges) .marks button") == ["−30", "0", "+30"]
        assert page.text("#dose") == "–"
        assert "there is no length to tell" in page.text("#advice")
        page.click("[data-view=ladder]")
        page.wait(page.is_written)
        rungs = ["+1", "+0.75", "+0.5", "+0.25", "0"]
        assert page.texts(".written-text h3") == [f"{alpha}\nablates" for alpha in rungs]
        for name, what in (
            ("ablates", "It is taken away after block 1"),
            ("clamps", "It is held at a level after block 1"),
            ("urges", "It acts on the logits of tokens"),
        ):
            page.click(f".vector:has(#alpha-{name}) .from button")
            page.wait(lambda what=what: page.text("#latents-said").startswith(what))
        assert page.complaints() == []


# --- more ways ---------------------------------------------------------------------------------------


def test_a_ladder_is_one_click_away(page: Demo) -> None:
    page.click("[data-view=ladder]")
    page.wait(page.is_written)
    assert page.texts(".written-text h3") == [
        f"{alpha}\npolite" for alpha in ("+20", "+10", "0", "−10", "−20")
    ]
    texts = page.written()
    assert len(set(texts)) > 2
    assert page.marks(2) == []
    assert page.text("#what").startswith(
        "The model writes the same prompt 5 times with the same dice (seed 0), polite"
    )
    assert page.all("[data-view=ladder]")[0].get_attribute("aria-pressed") == "true"


def test_both_ends_are_written_around_the_unsteered_text(page: Demo) -> None:
    page.slide("polite", 25)
    page.click("[data-view=ends]")
    page.wait(page.is_written)
    assert page.texts(".written-text h3") == ["polite −25", "Unsteered", "polite +25"]


def test_another_seed_gives_another_text(page: Demo) -> None:
    before = page.written()
    page.click("#again")
    page.wait(lambda: "(seed 1)" in page.text("#what") and page.is_written())
    assert page.written()[0] != before[0]
    assert page.text("#settings-said") == "50 tokens, temperature 0.8, seed 1"


def test_an_example_prompt_is_written_at_a_click(page: Demo) -> None:
    page.click(".try")
    page.wait(lambda: page.texts(".said .prompt") == [PROMPTS[1]] * 2 and page.is_written())


def test_an_emptied_temperature_is_the_usual_one(page: Demo) -> None:
    before = page.written()
    page.click("#settings summary")
    page.run("document.querySelector('#temperature').value = ''")
    assert page.generate() == before
    assert page.all("#temperature")[0].get_property("value") == "0.8"


def test_what_cannot_be_a_temperature_is_refused_where_it_stands(page: Demo) -> None:
    page.run("document.querySelector('#temperature').value = '9'")
    before = page.run("return document.querySelector('.written-text').textContent")
    page.click("#go")
    assert page.all("#settings[open]")
    assert page.all("#temperature:invalid")
    assert page.run("return document.querySelector('.written-text').textContent") == before


def test_a_chat_is_written_too(page: Demo) -> None:
    page.fill("#prompt", "hello")
    page.click("#settings summary")
    page.click("#chat")
    page.slide("polite", 30)
    plain, steered = page.generate()
    assert plain and steered and plain != steered


def test_an_error_is_shown_where_the_text_would_be(page: Demo) -> None:
    page.fill("#prompt", "x" * 200)
    page.click("#go")
    page.wait(lambda: len(page.all(".said .error")) == 2)
    assert "context" in page.text(".said .error")
    assert "Input should" not in page.text(".said .error")


# --- a vector of one's own ---------------------------------------------------------------------------


def test_a_vector_is_fitted_from_pasted_texts_with_progress_and_steers(page: Demo) -> None:
    page.run(
        "const place = document.querySelector('#fit-said'); window.said = [];"
        "new MutationObserver(() => said.push(place.textContent)).observe(place, { childList: true })"
    )
    page.click("#fit summary")
    page.fill("#fit-name", "ab")
    page.fill("#fit-positive", "\n".join(UP))
    page.fill("#fit-negative", "\n".join(DOWN))
    page.all("#fit-method option[value=diffmean]")[0].click()
    page.click("#fit-go")
    page.wait(lambda: page.all("#alpha-ab"))
    assert "finding the SAEs…" in page.run("return said")
    assert page.text("#fit-said").startswith("ab: fitted in ")
    assert page.all("#fit-said a")[0].get_attribute("href").endswith("/v1/vectors/ab/file")
    assert (page.alpha("ab"), page.alpha("polite")) == (8, 0)
    page.wait(lambda: page.texts(".written-text h3")[1] == "ab +8" and page.is_written())
    page.click("#fit-go")  # once more: the name is taken
    page.wait(lambda: "there is a vector named 'ab' already" in page.text("#fit-said"))


def test_how_far_a_fit_is_is_shown(page: Demo, monkeypatch: pytest.MonkeyPatch) -> None:
    from neurosteer_cli.serving.computing.fitting import Fitting

    monkeypatch.setattr(Fitting, "progress", {"name": "ab", "n_read": 6, "n_texts": 24})
    page.run("window.end = followProgress()")
    page.wait(
        lambda: page.run("return document.querySelector('#fit-said').textContent") == "6 of 24 texts read"
    )
    bar = page.run(
        "const bar = document.querySelector('#fit-progress'); return [bar.hidden, bar.value, bar.max]"
    )
    assert bar == [False, 6, 24]
    page.run("end()")


def test_a_vector_is_fitted_from_files_whatever_they_keep_texts_in(page: Demo, tmp_path: Path) -> None:
    rows = ["review,stars", *(f'"{text}",5' for text in UP)]
    (tmp_path / "loud.csv").write_text("\n".join(rows))
    (tmp_path / "quiet.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in DOWN))
    page.click("#fit summary")
    page.all("input[data-side=negative]")[0].send_keys(str(tmp_path / "quiet.jsonl"))
    page.wait(lambda: page.texts(".file[data-side=negative]") == ["12 texts from quiet.jsonl · take it out"])
    page.all("input[data-side=positive]")[0].send_keys(str(tmp_path / "loud.csv"))
    page.wait(lambda: page.all("#fit-said.error"))
    assert page.text("#fit-said").startswith("loud.csv:2: no 'text'")
    (tmp_path / "loud.csv").write_text("\n".join(["text,stars", *rows[1:]]))
    page.all("input[data-side=positive]")[0].send_keys(str(tmp_path / "loud.csv"))
    page.wait(lambda: page.texts(".file[data-side=positive]") == ["12 texts from loud.csv · take it out"])
    assert page.all("#fit-name")[0].get_property("value") == "loud"
    page.all("#fit-method option[value=diffmean]")[0].click()
    page.click("#fit-go")
    page.wait(lambda: page.all("#alpha-loud"))


def test_an_example_to_fit_is_filled_in(page: Demo) -> None:
    page.click("#fit summary")
    page.click("#fit-example")
    assert page.all("#fit-name")[0].get_property("value") == "formal"
    for side in ("positive", "negative"):
        assert len(page.all(f"#fit-{side}")[0].get_property("value").split("\n")) == 16


def test_what_is_missing_is_said_in_plain_words(page: Demo) -> None:
    page.click("#fit summary")
    page.click("#fit-go")
    assert page.text("#fit-said") == "Give the vector a name."
    page.fill("#fit-name", "x")
    page.click("#fit-go")
    assert page.text("#fit-said").startswith("Both sides need texts")


# --- what is behind a vector -------------------------------------------------------------------------


def test_what_is_behind_a_vector_is_shown_by_strength_and_closed_again(page: Demo) -> None:
    page.click(".vector:has(#alpha-polite) button.plain")
    page.wait(lambda: page.all("#latents-list li"))
    assert page.text("#latents-title") == "Behind “polite”"
    assert [text.split("\n")[0] for text in page.texts(".weight")] == ["−66.7 %", "+22.2 %", "+11.1 %"]
    assert page.text("#latents-list .where").startswith("block 1, latent 7; fires at 25.0 % of tokens")
    page.click("#latents-close")
    assert not page.all("#latents")[0].is_displayed()


def test_a_vector_without_latents_says_so(page: Demo) -> None:
    page.click(".vector:has(#alpha-happy) button.plain")
    page.wait(lambda: "uses no latents" in page.text("#latents-said"))


# --- on every screen ---------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", ["desk", "phone"])
def test_nothing_is_cut_off_or_faint(page: Demo, size: str, scheme: str) -> None:
    page.on(size, scheme)
    page.click("#fit summary")
    page.click(".vector:has(#alpha-polite) button.plain")
    page.wait(lambda: page.all("#latents-list li"))
    for view in ("ladder", "ends", "sides"):
        page.run("document.querySelector(`[data-view=${arguments[0]}]`).click()", view)
        page.wait(page.is_written)
        assert page.beyond_the_edge() <= 0
        assert page.faint() == []


def test_on_a_phone_texts_come_before_sliders_and_the_button_is_at_hand(page: Demo) -> None:
    page.on("phone")
    top = {
        css: page.run("return document.querySelector(arguments[0]).getBoundingClientRect().top", css)
        for css in ("#prompt", "#texts", "#vectors", "#go")
    }
    assert top["#prompt"] < top["#texts"] < top["#vectors"]
    assert top["#go"] < 900
    page.run("scrollTo({ top: 1e6, behavior: 'instant' })")
    assert 0 < page.run("return document.querySelector('#go').getBoundingClientRect().top") < 900


def test_it_can_be_used_by_keyboard(page: Demo) -> None:
    from selenium.webdriver.common.keys import Keys

    slider = page.all("#alpha-polite")[0]
    slider.send_keys(Keys.ARROW_RIGHT)
    assert page.alpha("polite") == 8.5
    assert slider.get_attribute("aria-valuetext") == "+8.5, towards one side"
    assert page.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.wait(lambda: page.texts(".written-text h3")[1] == "polite +8.5" and page.is_written())
    page.all("#prompt")[0].send_keys(" more", Keys.ENTER)
    page.wait(lambda: page.texts(".said .prompt")[0].endswith(" more") and page.is_written())
