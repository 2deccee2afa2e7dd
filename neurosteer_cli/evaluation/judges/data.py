"""A judge made of labelled texts: logistic regression on frozen sentence embeddings.

Knows sentence embeddings; knows nothing of vectors or of how the texts it judges came about.
"""

from collections.abc import Collection
from functools import partial
from typing import Any

from .encoders import MINILM, MINILM_TOKENS, MINILM_WHEEL, Encoder, embed, load_encoder, minilm_folder
from .judge import Advance, Judge, Say, Scores, Texts
from .labelled import THRESHOLD, fitted, limits, read_labelled, warnings


def train(
    sources: tuple[str, str],
    leave_out: Collection[int] = (),
    say: Say = lambda _message: None,
    *,
    text_key: str | None = None,
    name: str = "data",
) -> Judge:
    """Read the texts of both sides and train on those that may be used; see `load_judge`.

    Raises:
        InputError: a record is malformed, a text stands on both sides, or a side keeps under 20.
        ModelError: the sentence encoder cannot be fetched or read.
    """
    from sklearn.linear_model import LogisticRegression

    labelled = read_labelled(sources, leave_out, text_key, say)
    encoder = load_encoder(minilm_folder(say), max_tokens=MINILM_TOKENS)
    say(f"training the {name} judge on {labelled.counts}")
    embeddings = embed(encoder, labelled.texts).numpy()  # [n_texts, d_model]
    # scikit-learn's own strength of regularisation; sides of unequal size count the same
    classifier = LogisticRegression(C=1.0, class_weight="balanced", max_iter=1000)
    classifier, accuracies = fitted(classifier, embeddings, labelled.labels)
    card = {"encoder": MINILM, "encoder_sha256": MINILM_WHEEL.sha256, **labelled.card(accuracies)}
    n_cut = encoder.n_cut(labelled.texts)
    cut = f"{n_cut} of {len(labelled.texts)} texts were cut to {MINILM}'s {MINILM_TOKENS} tokens"
    return Judge(
        name,
        limits(card, "sentence embeddings", f"reads a text's first {MINILM_TOKENS} tokens"),
        card,
        partial(_scores, encoder, classifier),
        [*([cut] if n_cut else []), *warnings(name, card)],
    )


def _scores(encoder: Encoder, classifier: Any, _prompts: Texts, texts: Texts, advance: Advance) -> Scores:
    """The probability that a text is of the positive side."""
    if not texts:
        return Scores([], [])
    embeddings = embed(encoder, texts, advance).numpy()  # [n_texts, d_model]
    return Scores.from_threshold(classifier.predict_proba(embeddings)[:, 1], THRESHOLD)  # [n_texts, 2]
