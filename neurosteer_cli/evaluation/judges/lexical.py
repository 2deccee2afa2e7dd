"""Judges that go by words: VADER's sentiment, alt-profanity-check's toxicity, a regular expression.

Knows words; knows nothing of what they are about, and needs no model of ours.
"""

import re
from collections.abc import Callable, Iterable
from functools import partial
from importlib.metadata import version

from ...errors import InputError, ModelError
from .judge import Advance, Judge, Scores, Texts

BATCH = 100  # texts, between two reports of progress

Measure = Callable[[Texts], Iterable[float]]  # a number a text


def sentiment_judge() -> Judge:
    """VADER's compound score, -1 to 1.

    Positive from 0.05 up, as its authors have it (Hutto & Gilbert 2014, "VADER").
    """
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    polarity = SentimentIntensityAnalyzer().polarity_scores
    threshold = 0.05
    return Judge(
        name="sentiment",
        limits="VADER adds up the sentiment of words in a fixed English list. It knows nothing of irony, "
        "context or what the words are about.",
        card={"vadersentiment": version("vaderSentiment"), "range": [-1, 1], "threshold": threshold},
        scores_of=partial(_scores, lambda texts: [polarity(text)["compound"] for text in texts], threshold),
    )


def toxicity_judge() -> Judge:
    """The probability, by alt-profanity-check, that a text is offensive; positive from 0.5 up.

    The package reads pickled models that it brings itself, which is why it pins scikit-learn.
    """
    try:
        from profanity_check import predict_prob
    except Exception as error:  # its own model files, made for one version of scikit-learn
        raise ModelError(
            f"judge 'toxicity': alt-profanity-check cannot be loaded ({type(error).__name__}: {error}); "
            "run: pip install --force-reinstall alt-profanity-check"
        ) from error
    threshold = 0.5
    packages = {name.replace("-", "_"): version(name) for name in ("alt-profanity-check", "scikit-learn")}
    return Judge(
        name="toxicity",
        limits="A linear model on words, trained on English comments. It finds swearing and insults better "
        "than toxicity without bad words, and takes quoted or harmless uses of such words for toxic.",
        card={**packages, "threshold": threshold},
        scores_of=partial(_scores, predict_prob, threshold),
    )


def regex_judge(pattern: str) -> Judge:
    """1 where a pattern is found anywhere in a text, else 0.

    Raises:
        InputError: there is no pattern, or it is no regular expression.
    """
    if not pattern:
        raise InputError("--judge regex: no pattern; write regex:PATTERN, such as 'regex:(?i)thank you'")
    try:
        search = re.compile(pattern).search
    except (re.error, OverflowError, RecursionError) as error:
        raise InputError(f"--judge regex:{pattern}: not a regular expression: {error}") from error
    return Judge(
        name=f"regex:{pattern}",
        limits="Whether the pattern is found anywhere in the text, upper and lower case told apart unless it "
        "starts with (?i). It says nothing of what the text means.",
        card={"pattern": pattern},
        scores_of=partial(_scores, lambda texts: [search(text) is not None for text in texts], 1.0),
    )


def _scores(measure: Measure, threshold: float, _prompts: Texts, texts: Texts, advance: Advance) -> Scores:
    """A number a text, measured some texts at a time."""
    numbers: list[float] = []
    for start in range(0, len(texts), BATCH):
        batch = texts[start : start + BATCH]
        numbers.extend(measure(batch))
        advance(len(batch))
    return Scores.from_threshold(numbers, threshold)
