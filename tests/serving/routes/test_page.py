"""The page that says what runs."""

import html
import re
import subprocess

import httpx
from support.serving import served

from neurosteer_cli.models.engine import Engine
from neurosteer_cli.serving.completions import Completions
from neurosteer_cli.vectors.vector import SteeringVector


def test_the_page_says_what_runs_and_its_line_works(server: tuple[str, Completions]) -> None:
    address = server[0]
    page = httpx.get(address)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    for said in ("neurosteer serves tiny", f"{address}/v1", "tiny+happy:8", "tiny+polite:8", "/v1/responses"):
        assert said in page.text
    line = html.unescape(re.findall(r"<pre>(.*?)</pre>", page.text, re.DOTALL)[0])
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    assert '"object":"text_completion"' in done.stdout
    for link in re.findall(r'href="(v1/[^"]+)"', page.text):
        assert httpx.get(f"{address}/{link}").is_success


def test_where_a_key_is_needed_the_page_names_no_vector(
    engine: Engine, vectors: dict[str, SteeringVector]
) -> None:
    with served(engine, vectors, api_key="secret") as (address, _):
        page = httpx.get(address).text
        assert "polite" not in page and "secret" not in page
        assert "Authorization: Bearer KEY" in page
        refused = httpx.get(f"{address}/api/tags")
        assert (refused.status_code, refused.json()) == (
            401, {"error": "a valid API key is needed: Authorization: Bearer KEY"}
        )  # fmt: skip


def test_a_demo_stands_before_it(engine: Engine, vectors: dict[str, SteeringVector]) -> None:
    with served(engine, vectors, page="<p>sliders</p>") as (address, _):
        assert httpx.get(address).text == "<p>sliders</p>"
        assert 'href="./"' in httpx.get(f"{address}/about").text


def test_without_vectors_it_says_how_to_have_some(engine: Engine) -> None:
    with served(engine, {}) as (address, _):
        assert "--vectors" in httpx.get(address).text
