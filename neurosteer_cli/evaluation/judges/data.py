"""A judge made of labelled texts: logistic regression on frozen sentence embeddings.

Knows text records, sentence embeddings and scikit-learn; knows nothing of vectors or of how the
texts it judges came about.
"""

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ...data.records import STDIN, read_passages
from ...data.sides import text_hash
from ...errors import InputError
from .encoders import MINILM, MINILM_TOKENS, MINILM_WHEEL, Encoder, embed, load_encoder, minilm_folder
from .judge import ThresholdJudge

FOLDS = 5
MIN_TEXTS = 20
LOW_ACCURACY = 0.7
THRESHOLD = 0.5


@dataclass
class _Side:
    """The texts of one file that may be trained on, and what was left out of it."""

    source: str
    texts: list[str] = field(default_factory=list)
    n_records: int = 0
    n_duplicates: int = 0
    n_left_out: int = 0

    @property
    def name(self) -> str:
        return STDIN if self.source == "-" else self.source

    @property
    def label(self) -> str:
        return "stdin" if self.source == "-" else Path(self.source).stem

    def card(self) -> dict[str, Any]:
        return {
            "source": self.name,
            "label": self.label,
            "n_texts": len(self.texts),
            "n_duplicates": self.n_duplicates,
            "n_left_out": self.n_left_out,
            "sha256": hashlib.sha256("\0".join(self.texts).encode()).hexdigest(),
        }


class DataJudge(ThresholdJudge):
    """Scores a text with the probability that it is of the positive side."""

    name = "data"
    threshold = THRESHOLD

    def __init__(self, encoder: Encoder, positive: _Side, negative: _Side) -> None:
        embeddings = embed(encoder, [*positive.texts, *negative.texts]).numpy()  # [n_texts, d_model]
        labels = [True] * len(positive.texts) + [False] * len(negative.texts)
        self._encoder = encoder
        self._classifier = _classifier().fit(embeddings, labels)
        accuracy, balanced = _held_out_accuracy(embeddings, labels)
        super().__init__(
            {
                "encoder": MINILM,
                "encoder_sha256": MINILM_WHEEL.sha256,
                "scikit_learn": version("scikit-learn"),
                "positive": positive.card(),
                "negative": negative.card(),
                "folds": FOLDS,
                "accuracy": accuracy,
                "balanced_accuracy": balanced,
                "threshold": THRESHOLD,
            }
        )
        self.limits = (
            f"A classifier that tells {positive.label} from {negative.label} by sentence embeddings, "
            f"right on {balanced:.0%} of its own texts when they were held out (each side counted the same). "
            f"It goes by whatever sets the two files apart, topic and length included, and reads a text's "
            f"first {MINILM_TOKENS} tokens."
        )
        if balanced < LOW_ACCURACY:
            self.warnings.append(
                f"the data judge is right on only {balanced:.0%} of held-out texts (each side counted the "
                f"same; 50% is chance, {LOW_ACCURACY:.0%} the least to rely on): its scores say little; "
                "give --judge-data more, or more clearly different, texts"
            )

    def _numbers(self, texts: Sequence[str], advance: Callable[[int], None]) -> list[float]:
        if not texts:
            return []
        embeddings = embed(self._encoder, texts, advance).numpy()  # [n_texts, d_model]
        return list(map(float, self._classifier.predict_proba(embeddings)[:, 1]))  # classes: False, True


def train(
    sources: tuple[str, str],
    leave_out: Collection[int] = (),
    say: Callable[[str], None] = lambda _message: None,
) -> DataJudge:
    """Read the texts of both sides and train on those that may be used.

    Args:
        sources: files with texts of the positive and of the negative side; one may be `-`.
        leave_out: `text_hash` of texts that must not be trained on, those a vector was fitted on
            above all: steered text may repeat them.
        say: told what takes long, before it is begun.

    Raises:
        InputError: a record is malformed, a text stands on both sides, or a side keeps under 20.
        ModelError: the sentence encoder cannot be fetched or read.
    """
    if sources == ("-", "-"):
        raise InputError("--judge-data: `-` (stdin) can be read only once; give a file for the other side")
    positive, negative = _read_sides(sources, frozenset(leave_out))
    encoder = load_encoder(minilm_folder(say), max_tokens=MINILM_TOKENS)
    say(f"training the data judge on {len(positive.texts)} and {len(negative.texts)} texts")
    return DataJudge(encoder, positive, negative)


def _read_sides(sources: tuple[str, str], leave_out: frozenset[int]) -> tuple[_Side, _Side]:
    """Read both files; a text that comes again counts once."""
    sides = (_Side(sources[0]), _Side(sources[1]))
    seen: dict[int, tuple[_Side, str]] = {}  # hash -> where it stood first: side, file:line
    for side in sides:
        for passage in read_passages(side.source):
            side.n_records += 1
            key = text_hash(passage.text)
            first_side, first = seen.setdefault(key, (side, passage.where))
            if first_side is not side:
                raise InputError(
                    f"{passage.where}: this text stands on both sides of --judge-data, first at {first}; "
                    "remove one of them"
                )
            if first != passage.where:
                side.n_duplicates += 1
            elif key in leave_out:
                side.n_left_out += 1
            else:
                side.texts.append(passage.text)
    for side in sides:
        if len(side.texts) < MIN_TEXTS:
            raise InputError(
                f"{side.name}: {len(side.texts)} of {side.n_records} texts can train a judge, at least "
                f"{MIN_TEXTS} a side are needed ({side.n_left_out} were also used to fit the vector, "
                f"{side.n_duplicates} are repeated); "
                "give --judge-data more texts that no vector was fitted on"
            )
    return sides


def _classifier() -> Any:
    """Scikit-learn's own strength of regularisation; sides of unequal size count the same."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=1.0, class_weight="balanced", max_iter=1000)


def _held_out_accuracy(embeddings: Any, labels: list[bool]) -> tuple[float, float]:
    """Accuracy over all texts, each judged by a classifier that was trained without its fold.

    Returns:
        The share judged rightly, and the mean of the two sides' shares: chance is 0.5 of the latter
        even where one side has most of the texts.
    """
    from sklearn.metrics import accuracy_score, balanced_accuracy_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    judged = cross_val_predict(_classifier(), embeddings, labels, cv=folds)
    return float(accuracy_score(labels, judged)), float(balanced_accuracy_score(labels, judged))
