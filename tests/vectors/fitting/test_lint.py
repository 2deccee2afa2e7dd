"""What lint finds in two sides of texts, and what it passes over."""

import random
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.naive_bayes import ComplementNB

from neurosteer_cli.data.sides import Sides, sides_of
from neurosteer_cli.vectors.fitting import lint as module
from neurosteer_cli.vectors.fitting.lint import WORD, Finding, lint

DRAW = random.Random(0)
NOUNS = ["dog", "cat", "horse", "goat", "duck", "sheep", "cow", "hen"]
VERBS = ["sat", "ran", "ate", "slept", "hid", "drank", "fell", "stood"]
PLACES = ["barn", "field", "yard", "wood", "garden", "lane", "stable", "pond"]
WORDS = NOUNS, VERBS, PLACES


def about(*words: list[str], n: int = 60) -> list[str]:
    """Texts like one another, each of its own words."""
    return [" ".join(["The", *(DRAW.choice(kind) for kind in words), "there."]) for _ in range(n)]


def many(words: list[str], n: int) -> list[str]:
    """Each word and n - 1 like it."""
    return [word + "".join("xyz"[i // 3**k % 3] for k in range(2)) for word in words for i in range(n)]


def animals(n: int = 60) -> list[str]:
    texts = about(NOUNS, VERBS, PLACES, n=n)
    return [f"{text} {chr(97 + i % 26)}{chr(97 + i // 26)}." for i, text in enumerate(texts)]


def sides(positive: list[str], negative: list[str]) -> Sides:
    return sides_of(list(dict.fromkeys(positive)), [t for t in dict.fromkeys(negative) if t not in positive])


def found(positive: list[str], negative: list[str], check: str) -> list[Finding]:
    return [finding for finding in lint(sides(positive, negative)) if finding.check == check]


def test_sides_that_differ_in_their_words_alone_are_passed_over() -> None:
    kind, rude = ["lovely", "dear", "sweet", "good"], ["awful", "bad", "vile", "nasty"]
    other = [many(words, 7) for words in WORDS]
    assert lint(sides(about(kind, *other, n=400), about(rude, *other, n=400))) == []


def test_lengths_that_tell_the_sides_apart_are_told_with_their_medians() -> None:
    (finding,) = found(animals(), [f"{text} And so on it went." for text in animals()], "length")
    assert finding.value == 0.0
    assert "(AUROC 0.00; medians: positive 6, negative 11)" in finding.words


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda text: f"Why? {text}", "'?' stands"),
        (lambda text: f"Oh! {text}", "'!' stands"),
        (lambda text: f"🎉 {text}", "'🎉' stands"),
        (lambda text: f"- {text}", "'-' stands"),
        (lambda text: text.replace(" ", "\n", 1), "a text has several lines"),
        (lambda text: f"{text} It was in 1997.", "a text has a number"),
        (str.upper, "a text is all in capitals"),
    ],
)
def test_marks_of_one_side_are_told_with_their_shares(change: Callable[[str], str], what: str) -> None:
    (first, *_) = found([change(text) for text in animals()], animals(), "punctuation")
    assert first.value == 1.0
    assert first.words == (
        f"{what} in 100% of positive and 0% of negative: the vector will hold that too; "
        "write both sides alike"
    )
    (first, *_) = found(animals(), [change(text) for text in animals()], "punctuation")
    assert first.value == -1.0


@pytest.mark.parametrize("quote", ["", '"', "”", ") "])
def test_a_full_stop_is_seen_before_what_closes_a_text(quote: str) -> None:
    closed = [text + quote for text in animals()]
    bare = [text.rstrip(".") + quote for text in animals()]
    (finding,) = found(closed, bare, "punctuation")
    assert finding.words.startswith("a text ends in a full stop in 100% of positive and 0% of negative")
    assert found(closed, animals(), "punctuation") == [] or quote


def test_of_many_marks_the_three_that_differ_most_are_told() -> None:
    odd = [f"* {text} # {text} + {text} % {text}" for text in animals()]
    assert len(found(odd, animals(), "punctuation")) == 3


def test_a_word_in_most_texts_of_one_side_is_named() -> None:
    (finding,) = found([f"Please, {text}" for text in animals()], animals(), "marker")
    assert finding.words.startswith("'please' stands in 100% of positive and 0% of negative")
    (finding,) = found(animals(), [f"Please, {text}" for text in animals()], "marker")
    assert finding.words.startswith("'please' stands in 100% of negative and 0% of positive")


def test_a_word_that_the_other_side_has_too_is_no_marker() -> None:
    often = [f"Please, {text}" for text in animals()]
    now_and_then = [f"Please, {text}" if n % 5 < 2 else text for n, text in enumerate(animals())]
    assert found(often, now_and_then, "marker") == []


def test_where_words_are_written_together_each_sign_is_one() -> None:
    assert [*WORD.findall("我喜欢猫 it's ça va")] == ["我", "喜", "欢", "猫", "it's", "ça", "va"]


def test_texts_of_nearly_the_same_words_on_both_sides_are_counted() -> None:
    one = [*dict.fromkeys(animals(40))]
    other = about(["stone", "brick", "tile"], ["was", "is"], [f"x{n}" for n in range(50)], n=30)
    other = [*dict.fromkeys(other), *(text.upper() for text in one[:10])]
    (finding,) = found(one, other, "near duplicates")
    assert finding.value == 10 / len(one)
    assert finding.words.startswith(
        f"10 of {len(one)} texts of positive have nearly the words of one of negative, such as "
        f"positive:1 and negative:{len(other) - 9}: "
    )


def test_sides_of_pairs_that_differ_in_a_word_are_no_near_duplicates() -> None:
    texts = [f"When the {noun} {verb} in the {place} it was" for noun, verb, place in product(*WORDS)]
    assert (
        found([f"{text} good" for text in texts], [f"{text} bad" for text in texts], "near duplicates") == []
    )


def test_near_duplicates_are_those_of_every_pair_by_the_jaccard_index() -> None:
    draw = random.Random(1)
    texts, others = (
        [frozenset(draw.sample("abcdefghijklm", draw.randint(1, 12))) for _ in range(150)] for _ in range(2)
    )
    expected = {}
    for (n, one), (m, other) in product(enumerate(texts), enumerate(others)):
        if 5 * len(one & other) >= 4 * len(one | other):
            expected.setdefault(n, m)
    assert 10 < len(expected) < 140
    assert dict(module._alike(texts, others)) == expected


def test_topics_of_one_side_are_told_with_their_words() -> None:
    ours = [many(words, 9) for words in WORDS]
    stock = [
        many(["stock", "bond", "fund", "bank"], 9),
        many(["rose", "split"], 9),
        many(["rally", "index"], 9),
    ]
    (finding,) = found(about(*ours, n=200), about(*stock, n=200), "topics")
    assert finding.value > 0.9
    of_animals, of_money = finding.words.split("positive: ")[1].split("; negative: ")
    assert {*of_animals.split(", ")} <= {word for words in ours for word in words}
    assert {*of_money.split(")")[0].split(", ")} <= {word for words in stock for word in words}


def test_pairs_on_one_topic_each_are_on_the_same_topics() -> None:
    """A text's pair, which has its words and the other label, is held out with it."""
    texts = [" ".join(many([letters], 4)) for letters in map("".join, product("abcde", "fghij", "klm"))]
    one, other = ([f"{text} {word}" for text in texts] for word in ("lovely", "awful"))
    assert lint_bag(one, other) == 0.5
    assert "topics" not in [finding.check for finding in lint(sides(one, other))]


def lint_bag(one: list[str], other: list[str]) -> float:
    return module._Bag.of(*([text.split() for text in side] for side in (one, other))).right()


def test_a_bag_of_words_is_naive_bayes_without_each_sides_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """As scikit-learn's, on the same folds."""
    draw = random.Random(2)
    words = [f"w{n}" for n in range(60)]
    texts = [
        [draw.choices(words, weights=[1 + 0.02 * n * side for n in range(60)], k=12) for _ in range(100)]
        for side in range(2)
    ]
    monkeypatch.setattr(module, "OWN_WORDS", 1000)  # none
    counts = CountVectorizer(analyzer=lambda text: text, binary=True).fit_transform([*texts[0], *texts[1]])
    labels = np.array([True] * 100 + [False] * 100)
    judged = np.zeros(200, dtype=bool)
    for fold in range(5):
        held = np.arange(200) % 5 == fold
        judged[held] = ComplementNB(norm=False).fit(counts[~held], labels[~held]).predict(counts[held])
    bag = module._Bag.of(*texts)
    assert bag.right() == pytest.approx(float((judged == labels).mean()))
    assert 0.55 < bag.right() < 0.95


def test_a_bag_of_few_words_says_nothing() -> None:
    assert lint_bag(["a b"] * 8, ["c d"] * 8) >= 0.5
    assert module._Bag.of([["a"]] * 8, [["b"]] * 8).strongest(5) == [["a", "b"], ["b", "a"]]
    assert module._Bag.of([[str(n)] for n in range(8)], [[]] * 8).right() == 0.5
