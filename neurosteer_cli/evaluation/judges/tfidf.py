"""A judge made of labelled texts: logistic regression on the words and word pairs of a text.

Knows bags of words, where the judge `data` knows sentence embeddings: what moves only one of the two is
less sure. Knows nothing of vectors or of how the texts it judges came about.
"""

from collections.abc import Collection
from functools import partial
from typing import Any

from ...errors import InputError
from .judge import Advance, Judge, Say, Scores, Texts
from .labelled import THRESHOLD, fitted, limits, read_labelled, warnings

N_GRAMS = (1, 2)
LEAST_TEXTS = 2  # that a word is in


def train(
    sources: tuple[str, str],
    leave_out: Collection[int] = (),
    say: Say = lambda _message: None,
    *,
    text_key: str | None = None,
    name: str = "tfidf",
) -> Judge:
    """Read the texts of both sides and train on those that may be used; see `load_judge`.

    TF-IDF of words and pairs, the logarithm of a count in place of the count (Manning et al. 2008,
    "Introduction to Information Retrieval", section 6.4).

    Raises:
        InputError: a record is malformed, a text stands on both sides, a side keeps under 20, or no word
            is in two texts.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    labelled = read_labelled(sources, leave_out, text_key, say)
    say(f"training the {name} judge on {labelled.counts}")
    words = TfidfVectorizer(
        token_pattern=r"\b\w+\b", ngram_range=N_GRAMS, min_df=LEAST_TEXTS, sublinear_tf=True
    )
    # rows are of unit length over thousands of words: at C=1 probabilities would hardly leave 0.5
    classifier = make_pipeline(words, LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000))
    try:
        classifier, accuracies = fitted(classifier, labelled.texts, labelled.labels)
    except ValueError as error:  # no word is left
        raise InputError(
            f"{sources[0]}, {sources[1]}: no word is in {LEAST_TEXTS} texts: too little for judge {name}"
        ) from error
    card = {"n_grams": list(N_GRAMS), "n_features": len(words.vocabulary_), **labelled.card(accuracies)}
    told = limits(card, "words and word pairs (TF-IDF)", "knows only the words of those files")
    return Judge(name, told, card, partial(_scores, classifier), warnings(name, card))


def _scores(classifier: Any, _prompts: Texts, texts: Texts, advance: Advance) -> Scores:
    """The probability that a text is of the positive side."""
    if not texts:
        return Scores([], [])
    found = classifier.predict_proba(texts)[:, 1]  # [n_texts, 2]
    advance(len(texts))
    return Scores.from_threshold(found, THRESHOLD)
