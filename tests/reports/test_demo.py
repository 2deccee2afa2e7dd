"""The page of the demo is whole, loads nothing, and holds what it offers to try."""

import json
import re
from dataclasses import replace

from support import evaluations

from neurosteer_cli.data.sides import sides_of
from neurosteer_cli.reports.demo import LADDER, PROMPTS, demo_page

HOSTILE = "</script><b>x</b>"


def data_of(html: str) -> dict[str, object]:
    (data,) = re.findall('id="data">(.*?)</script>', html)
    found: dict[str, object] = json.loads(data)
    return found


def test_the_page_asks_for_nothing_from_elsewhere() -> None:
    page = demo_page()
    assert page.startswith("<!DOCTYPE html>")
    assert re.findall(r"""(?:src|href)=["'](?!data:)[^"']+|https?://[^"'\s]+|@import|url\(""", page) == []


def test_it_opens_with_a_prompt_and_offers_the_others() -> None:
    page = demo_page()
    assert f'<textarea id="prompt" rows="2" required>{PROMPTS[0]}</textarea>' in page
    assert re.findall('class="try">(.*?)</button>', page) == list(PROMPTS[1:])
    assert data_of(page)["ladder"] == list(LADDER) == [-20, -10, 0, 10, 20]


def test_judges_are_named_with_their_scales() -> None:
    judge = evaluations.Judge("sentiment", limits=HOSTILE, card={"range": [-1, 1]})
    page = demo_page([judge, replace(judge, name="data", card={})])  # type: ignore[list-item]
    assert HOSTILE not in page
    assert data_of(page)["judges"] == [
        {"name": "sentiment", "range": [-1, 1], "limits": HOSTILE},
        {"name": "data", "range": [0, 1], "limits": HOSTILE},
    ]


def test_the_example_to_fit_can_be_fitted() -> None:
    example = data_of(demo_page())["fit_example"]
    assert isinstance(example, dict)
    positive, negative = sides_of(example["positive"], example["negative"])
    assert positive.n_texts == negative.n_texts == 16
