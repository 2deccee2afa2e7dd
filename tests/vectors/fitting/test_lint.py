"""What lint finds in two sides of texts, and what it passes over."""

import random

import pytest

from neurosteer_cli.data.sides import Sides, sides_of
from neurosteer_cli.vectors.fitting import lint as module
from neurosteer_cli.vectors.fitting.lint import Finding, lint

DRAW = random.Random(0)
NOUNS = ["dog", "cat", "horse", "goat", "duck", "sheep", "cow", "hen"]
VERBS = ["sat", "ran", "ate", "slept", "hid", "drank", "fell", "stood"]
PLACES = ["barn", "field", "yard", "wood", "garden", "lane", "stable", "pond"]


def about(*words: list[str], n: int = 60) -> list[str]:
    """Texts like one another, each of its own words."""
    return [" ".join(["The", *(DRAW.choice(kind) for kind in words), "there."]) for _ in range(n)]


def animals(n: int = 60) -> list[str]:
    texts = about(NOUNS, VERBS, PLACES, n=n)
    return [f"{text} {chr(97 + i % 26)}{chr(97 + i // 26)}." for i, text in enumerate(texts)]


def sides(positive: list[str], negative: list[str]) -> Sides:
    return sides_of(list(dict.fromkeys(positive)), [t for t in dict.fromkeys(negative) if t not in positive])


def found(positive: list[str], negative: list[str], check: str) -> list[Finding]:
    return [finding for finding in lint(sides(positive, negative)) if finding.check == check]


def test_sides_that_differ_in_their_words_alone_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOP_WORDS", 4)
    kind, rude = ["lovely", "dear", "sweet", "good"], ["awful", "bad", "vile", "nasty"]
    assert lint(sides(about(kind, NOUNS, VERBS, PLACES), about(rude, NOUNS, VERBS, PLACES))) == []


def test_lengths_that_tell_the_sides_apart_are_told_with_their_medians() -> None:
    (finding,) = found(animals(), [f"{text} And so on it went." for text in animals()], "length")
    assert finding.value == 0.0
    assert "(AUROC 0.00; medians: positive 6, negative 11)" in finding.words


def test_punctuation_of_one_side_is_told_with_its_shares() -> None:
    asking = [text.rstrip(".") + "?" for text in animals()]
    found_ones = found(asking, animals(), "punctuation")
    assert [round(finding.value, 2) for finding in found_ones] == [1.0, -1.0]
    assert "a text ends in a question mark in 100% of positive and 0% of negative" in found_ones[0].words
    assert "a text ends in a full stop in 0% of positive and 100% of negative" in found_ones[1].words


def test_a_word_in_most_texts_of_one_side_is_named() -> None:
    (finding,) = found([f"Please, {text}" for text in animals()], animals(), "marker")
    assert finding.words.startswith("'please' stands in 100% of positive and 0% of negative")


def test_texts_of_nearly_the_same_words_on_both_sides_are_counted() -> None:
    one = animals(40)
    other = [text.upper() for text in one[:10]] + about(
        ["stone", "brick", "tile"], ["was", "is"], PLACES, n=30
    )
    (finding,) = found(one, other, "near duplicates")
    assert finding.value == pytest.approx(10 / len(set(one)), abs=0.05)


def test_topics_of_one_side_are_told_with_their_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOP_WORDS", 3)
    kinds = ["stock", "bond", "fund", "bank", "loan", "share"], ["rose", "split", "sank"], ["market", "rally"]
    money = about(*kinds)
    (finding,) = found(animals(), money, "topics")
    assert finding.value > 0.9
    of_animals, of_money = finding.words.split("positive: ")[1].split("; negative: ")
    assert set(of_animals.split(", ")) <= {*NOUNS, *VERBS, *PLACES}
    assert set(of_money.split(")")[0].split(", ")) <= {word for kind in kinds for word in kind}
    assert "topics" not in [finding.check for finding in lint(sides(animals(), money), topics=False)]
