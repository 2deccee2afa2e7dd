"""A headless Chromium, and what a person does and sees in it."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
IS_THERE = bool(CHROMIUM and DRIVER)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
    "--window-size=1280,1000",
)  # fmt: skip
SIZES = {"desk": (1280, 800), "phone": (420, 900)}


def launched(profile: Path) -> Any:
    """A browser of its own; whoever starts it quits it."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})  # type: ignore[no-untyped-call]
    return webdriver.Chrome(options, webdriver.ChromeService(executable_path=DRIVER))


class Page:
    """What is open in a browser."""

    def __init__(self, browser: Any) -> None:
        self.browser = browser

    def all(self, css: str) -> list[Any]:
        found: list[Any] = self.browser.find_elements("css selector", css)
        return found

    def text(self, css: str) -> str:
        return self.texts(css)[0]

    def texts(self, css: str) -> list[str]:
        found: list[str] = self.run(
            "return [...document.querySelectorAll(arguments[0])].map((one) => one.innerText.trim())", css
        )
        return found

    def click(self, css: str) -> None:
        """Bring it into view, clear of what is fixed to an edge, and click it."""
        (one, *_) = self.all(css)
        self.run("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", one)
        one.click()

    def fill(self, css: str, text: str) -> None:
        self.all(css)[0].clear()
        self.all(css)[0].send_keys(text)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.browser.execute_script(script, *arguments)

    def wait(self, condition: Callable[[], Any]) -> Any:
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.browser, 30, poll_frequency=0.05).until(lambda _: condition())

    def on(self, size: str, scheme: str = "light") -> None:
        """Show it on a screen of that size, by a person who prefers that scheme."""
        width, height = SIZES[size]
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def beyond_the_edge(self) -> float:
        """By how many pixels the page is wider than the screen."""
        beyond: float = self.run("return document.documentElement.scrollWidth - innerWidth")
        return beyond

    def faint(self) -> list[str]:
        """Texts whose contrast to what is behind them is under 4.5, with that contrast (WCAG 2.2, 1.4.3)."""
        found: list[str] = self.run(CONTRASTS)
        return found

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.browser.get_log("browser")]


CONTRASTS = """
const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const over = (behind, colour) => {
  canvas.fillStyle = `rgb(${behind})`; canvas.fillRect(0, 0, 1, 1);
  canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
};
const light = (colour) => {
  const linear = (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const [r, g, b] = colour.map((v) => linear(v / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const dark = matchMedia("(prefers-color-scheme: dark)").matches, faint = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let node = walker.nextNode(); node; node = walker.nextNode()) {
  const one = node.parentElement, style = getComputedStyle(one);
  if (!node.data.trim() || !one.checkVisibility({ visibilityProperty: true })) continue;
  if (one.closest("svg, script, style, noscript, :disabled")) continue;
  const line = [];
  for (let each = one; each; each = each.parentElement) line.unshift(getComputedStyle(each).backgroundColor);
  const behind = line.reduce(over, dark ? [0, 0, 0] : [255, 255, 255]);
  const [a, b] = [light(behind), light(over(behind, style.color))];
  const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (contrast < 4.5) faint.push(`${contrast.toFixed(2)} ${node.data.trim().slice(0, 40)}`);
}
return [...new Set(faint)];
"""
