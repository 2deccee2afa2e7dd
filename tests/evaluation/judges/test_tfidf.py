"""A judge by words and word pairs, against a calculation by hand."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import sklearn

from neurosteer_cli.data.sides import text_hash
from neurosteer_cli.errors import InputError
from neurosteer_cli.evaluation.judges.judge import Judge
from neurosteer_cli.evaluation.judges.load import load_judge

Write = Callable[[str, list[str]], Path]
UP = [f"Kind words, kind {'deeds' if n % 2 else 'acts'} number{n}" for n in range(25)]
DOWN = [f"rude words and {'blows' if n % 3 else 'acts'} number{n}" for n in range(30)]


def judge_of(positive: Path, negative: Path, leave_out: set[int] | None = None) -> Judge:
    return load_judge("tfidf", judge_data=(str(positive), str(negative)), leave_out=leave_out or set())


def by_hand(texts: list[str]) -> tuple[list[str], dict[str, float]]:
    """The words and pairs that are in two texts, and their inverse document frequencies, smoothed."""
    grams = [set(grams_of(text)) for text in texts]
    counts = {gram: sum(gram in each for each in grams) for each in grams for gram in each}
    kept = sorted(gram for gram, n in counts.items() if n >= 2)
    return kept, {gram: math.log((1 + len(texts)) / (1 + counts[gram])) + 1 for gram in kept}


def grams_of(text: str) -> list[str]:
    words = re.findall(r"\w+", text.lower())
    return [*words, *(f"{a} {b}" for a, b in zip(words, words[1:], strict=False))]


def features(text: str, kept: list[str], idf: dict[str, float]) -> numpy.ndarray:
    found = grams_of(text)
    row = numpy.array([(1 + math.log(found.count(g))) * idf[g] if g in found else 0.0 for g in kept])
    return row / (numpy.linalg.norm(row) or 1.0)


def test_texts_are_told_apart_by_the_probability_of_the_positive_side(write_texts: Write) -> None:
    judge = judge_of(write_texts("up.jsonl", UP), write_texts("down.jsonl", DOWN))
    texts = ["kind deeds", "RUDE, rude blows!", "", "words", "unheard-of"]
    advanced: list[int] = []
    found = judge.score([""] * 5, texts, advanced.append)
    assert sum(advanced) == 5
    assert found.positive[:2] == [True, False]
    # by hand: the weighted, L2-regularised log-likelihood has no slope at the classifier's weights
    (classifier,) = judge.scores_of.args  # type: ignore[attr-defined]
    w, b = classifier[-1].coef_[0], classifier[-1].intercept_[0]
    kept, idf = by_hand(UP + DOWN)
    assert judge.card["n_features"] == len(kept)
    X, y = numpy.array([features(t, kept, idf) for t in UP + DOWN]), numpy.array([1.0] * 25 + [0.0] * 30)
    weight = numpy.where(y == 1, 55 / (2 * 25), 55 / (2 * 30))
    error = weight * (1 / (1 + numpy.exp(-(X @ w + b))) - y)
    numpy.testing.assert_allclose(X.T @ error + w / 10.0, 0, atol=1e-2)
    expected = [1 / (1 + math.exp(-(features(text, kept, idf) @ w + b))) for text in texts]
    assert found.scores == pytest.approx(expected)
    assert found.scores[2] == found.scores[4]  # nothing known


def test_what_the_judge_is_made_of_is_told(write_texts: Write) -> None:
    up, down = write_texts("up.jsonl", [*UP, UP[0]]), write_texts("down.jsonl", DOWN)
    judge = judge_of(up, down, {text_hash(UP[1]), text_hash(DOWN[7])})
    card = json.loads(json.dumps(judge.card))
    assert {key: card[key] for key in card if key not in ("positive", "negative", "n_features")} == {
        "n_grams": [1, 2],
        "scikit_learn": sklearn.__version__,
        "folds": 5,
        "accuracy": 1.0,
        "balanced_accuracy": 1.0,
        "threshold": 0.5,
    }
    assert (card["positive"]["n_texts"], card["positive"]["n_duplicates"]) == (24, 1)
    assert (card["negative"]["n_texts"], card["negative"]["n_left_out"]) == (29, 1)
    assert judge.name == "tfidf" and judge.warnings == []
    assert judge.limits == (
        "A classifier that tells up from down by words and word pairs (TF-IDF), right on 100% of its own "
        "texts when they were held out (each side counted the same). It goes by whatever sets the two files "
        "apart, topic and length included, and knows only the words of those files."
    )


def test_of_words_none_of_which_comes_again_nothing_is_learnt(write_texts: Write) -> None:
    sides = [write_texts(f"{side}.jsonl", [f"{side}{n}" for n in range(20)]) for side in ("a", "b")]
    with pytest.raises(InputError, match="no word is in 2 texts: too little for judge tfidf"):
        judge_of(*sides)


def test_a_judge_may_name_its_own_texts(write_texts: Write) -> None:
    up, down = write_texts("up.jsonl", UP), write_texts("down.jsonl", DOWN)
    own = load_judge(f"tfidf:{up}:{down}", judge_data=("absent", "absent"))
    assert own.name == f"tfidf:{up}:{down}"
    plain = judge_of(up, down)
    texts = ["kind", "rude", "acts"]
    assert own.score([""] * 3, texts, lambda _n: None) == plain.score([""] * 3, texts, lambda _n: None)
