"""Judges that go by words: VADER's sentiment, alt-profanity-check's toxicity, a regular expression.

Knows words; knows nothing of what they are about, and needs no model of ours.
"""

import re
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

from ...errors import InputError, ModelError
from .judge import ThresholdJudge, in_batches


class SentimentJudge(ThresholdJudge):
    """VADER's compound score, -1 to 1.

    Positive from 0.05 up, as its authors have it (Hutto & Gilbert 2014, "VADER").
    """

    name = "sentiment"
    limits = (
        "VADER adds up the sentiment of words in a fixed English list. It knows nothing of irony, "
        "context or what the words are about."
    )
    threshold = 0.05

    def __init__(self) -> None:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

        self._vader = SentimentIntensityAnalyzer()
        vader = version("vaderSentiment")
        super().__init__({"vadersentiment": vader, "range": [-1, 1], "threshold": self.threshold})

    def _numbers(self, texts: Sequence[str], advance: Callable[[int], None]) -> list[float]:
        polarity = self._vader.polarity_scores
        return [polarity(text)["compound"] for batch in in_batches(texts, advance) for text in batch]


class ToxicityJudge(ThresholdJudge):
    """The probability, by alt-profanity-check, that a text is offensive; positive from 0.5 up.

    The package reads pickled models that it brings itself, which is why it pins scikit-learn.
    """

    name = "toxicity"
    limits = (
        "A linear model on words, trained on English comments. It finds swearing and insults better than "
        "toxicity without bad words, and takes quoted or harmless uses of such words for toxic."
    )
    threshold = 0.5

    def __init__(self) -> None:
        try:
            from profanity_check import predict_prob
        except Exception as error:  # its own model files, made for one version of scikit-learn
            raise ModelError(
                f"judge 'toxicity': alt-profanity-check cannot be loaded ({type(error).__name__}: {error}); "
                "run: pip install --force-reinstall alt-profanity-check"
            ) from error
        self._predict: Callable[[list[str]], Any] = predict_prob
        packages = {name.replace("-", "_"): version(name) for name in ("alt-profanity-check", "scikit-learn")}
        super().__init__({**packages, "threshold": self.threshold})

    def _numbers(self, texts: Sequence[str], advance: Callable[[int], None]) -> list[float]:
        return [float(share) for batch in in_batches(texts, advance) for share in self._predict(batch)]


class RegexJudge(ThresholdJudge):
    """1 where a pattern is found anywhere in a text, else 0.

    Raises:
        InputError: there is no pattern, or it is no regular expression.
    """

    limits = (
        "Whether the pattern is found anywhere in the text, upper and lower case told apart unless it "
        "starts with (?i). It says nothing of what the text means."
    )
    threshold = 1.0

    def __init__(self, pattern: str) -> None:
        if not pattern:
            raise InputError("--judge regex: no pattern; write regex:PATTERN, such as 'regex:(?i)thank you'")
        try:
            self._pattern = re.compile(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            raise InputError(f"--judge regex:{pattern}: not a regular expression: {error}") from error
        self.name = f"regex:{pattern}"
        super().__init__({"pattern": pattern})

    def _numbers(self, texts: Sequence[str], advance: Callable[[int], None]) -> list[float]:
        search = self._pattern.search
        return [float(bool(search(text))) for batch in in_batches(texts, advance) for text in batch]
