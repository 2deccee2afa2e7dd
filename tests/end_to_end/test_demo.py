"""The demo's page in a real, headless Chromium, on the server it is made for."""

import shutil
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import torch
from support.live import running
from support.tiny import D_MODEL, tiny_vector

from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.serving.app import ServerConfig, create_app
from neurosteer_cli.serving.completions import Completions, Limits
from neurosteer_cli.serving.registry import VectorRegistry
from neurosteer_cli.serving.scheduler import Scheduler

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
    "--window-size=1280,1000",
)  # fmt: skip


@pytest.fixture(scope="module")
def address(engine: Engine) -> Iterator[str]:
    registry = VectorRegistry(engine.shape, "tiny")
    for number, name in enumerate(("happy", "polite")):
        push = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(number)) / D_MODEL**0.5
        registry.add(name, tiny_vector(engine.shape, {HookPoint(1): push}), name)
    completions = Completions(engine, registry, Scheduler(engine), Limits())
    with running(create_app(completions, ServerConfig(page=True, fitting=True))) as found:
        yield found


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})  # type: ignore[no-untyped-call]
    driver = webdriver.Chrome(options, webdriver.ChromeService(executable_path=DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser: Any, address: str) -> "Page":
    browser.get(address)
    page = Page(browser)
    page.wait(lambda: page.all("#vectors input"))
    page.wait(lambda: page.text("#dose") != "0 %")  # the first vector's usual alpha
    return page


class Page:
    """What a person does and sees."""

    def __init__(self, browser: Any) -> None:
        self.browser = browser

    def all(self, css: str) -> list[Any]:
        found: list[Any] = self.browser.find_elements("css selector", css)
        return found

    def text(self, css: str) -> str:
        text: str = self.all(css)[0].text
        return text

    def click(self, css: str) -> None:
        self.all(css)[0].click()

    def fill(self, css: str, text: str) -> None:
        self.all(css)[0].clear()
        self.all(css)[0].send_keys(text)

    def slide(self, vector: str, alpha: float) -> None:
        """Move a slider as a hand does: its value changes, and it says so."""
        self.browser.execute_script(
            "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))",
            self.all(f"#alpha-{vector}")[0],
            alpha,
        )

    def wait(self, condition: Any) -> Any:
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.browser, 20, poll_frequency=0.05).until(lambda _: condition())

    def generate(self) -> tuple[str, str]:
        """The two texts, without the prompt."""
        self.click("#go")
        self.wait(lambda: not self.all(".running") and not self.all("#stop:enabled"))
        plain, steered = (
            self.browser.execute_script("return arguments[0].lastChild.data", self.all(f"{side} .said")[0])
            for side in ("#plain", "#steered")
        )
        return plain, steered

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.browser.get_log("browser")]


def dose_of(page: Page, vector: str, alpha: float) -> float:
    """What the server says of it."""
    url = page.browser.current_url
    answer = httpx.post(f"{url}v1/dose", json={"steering": {vector: alpha}})
    dose: float = answer.json()["dose"]
    return dose


def test_a_moved_slider_gives_another_text_and_none_the_same(page: Page) -> None:
    page.fill("#prompt", "to be")
    page.slide("happy", 0)
    page.wait(lambda: page.text("#dose") == "0 %")
    plain, steered = page.generate()
    assert plain == steered != ""
    assert page.text("#setting") == "all alphas 0"
    page.slide("polite", 25)
    dose = dose_of(page, "polite", 25)
    page.wait(lambda: page.text("#dose") == f"{round(dose * 1000) / 10:g} %")
    again, polite = page.generate()
    assert again == plain
    assert polite not in ("", plain)
    assert page.text("#setting") == "polite +25"
    page.slide("polite", -25)
    assert page.generate()[1] not in (plain, polite)
    assert page.complaints() == []


def test_a_chat_is_written_too(page: Page) -> None:
    page.fill("#prompt", "hello")
    page.click("#chat")
    page.slide("happy", 30)
    plain, steered = page.generate()
    assert plain and steered and plain != steered


def test_an_error_is_shown_where_the_text_would_be(page: Page) -> None:
    page.fill("#prompt", "x" * 200)
    page.click("#go")
    page.wait(lambda: len(page.all(".said .error")) == 2)
    assert "exceed the model's context of 128" in page.text("#plain .error")


def test_a_vector_is_fitted_from_pasted_texts_and_steers(page: Page) -> None:
    page.click("#fit summary")
    page.fill("#fit-name", "ab")
    page.fill("#fit-positive", "\n".join(f"aaa bbb aab {n}" for n in range(12)))
    page.fill("#fit-negative", "\n".join(f"zzz yyy zzy {n}" for n in range(12)))
    page.all("#fit-method option[value=diffmean]")[0].click()
    page.click("#fit-go")
    page.wait(lambda: page.all("#alpha-ab"))
    assert page.text("#fit-said").startswith("ab: ")
    assert page.all("#fit-said a")[0].get_attribute("href").endswith("/v1/vectors/ab/file")
    page.slide("happy", 0)
    page.slide("ab", 30)
    plain, steered = page.generate()
    assert plain != steered
    page.click("#fit-go")  # once more: the name is taken
    page.wait(lambda: "there is a vector named 'ab' already" in page.text("#fit-said"))


def test_what_is_behind_a_vector_is_shown(page: Page) -> None:
    page.click(".vector:has(#alpha-happy) button.text")
    page.wait(lambda: page.text("#latents-title") == "Behind “happy”")
    assert "this method uses no SAE latents" in page.text("#latents-said")


def test_on_a_narrow_screen_nothing_is_cut_off(page: Page) -> None:
    page.browser.set_window_size(420, 900)
    width, inner = page.browser.execute_script(
        "return [document.documentElement.scrollWidth, window.innerWidth]"
    )
    page.browser.set_window_size(1280, 1000)
    assert width <= inner
