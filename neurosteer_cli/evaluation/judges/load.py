"""The judges by their `--judge` names; those that need no model of ours.

Knows every judge's name and what it must be given; knows nothing of vectors, alphas or tables.
"""

import importlib.util
import re
from collections.abc import Callable, Collection, Sequence
from importlib.metadata import version
from typing import Any

from ...errors import InputError, ModelError
from .judge import Judge, Scores
from .llm import load as load_llm
from .llm import split_spec as split_llm

__all__ = ["FORMS", "Judge", "Scores", "check_spec", "load_judge"]

FORMS = ("data", "sentiment", "toxicity", "hf:MODEL:LABEL", "regex:PATTERN", "llm:URL:MODEL")
_FORM = {form.partition(":")[0]: form for form in FORMS}
# kind -> the module it needs, and what pip calls that
_NEEDS = {
    "data": ("sklearn", "scikit-learn"),
    "sentiment": ("vaderSentiment", "vaderSentiment"),
    "toxicity": ("profanity_check", "alt-profanity-check (Python 3.11 or newer)"),
    "llm": ("httpx", "httpx"),
}
VADER_POSITIVE = 0.05
TOXIC = 0.5
_BATCH = 100


def check_spec(spec: str, *, has_data: bool, attribute: str | None) -> None:
    """Find out what is wrong with a `--judge` before anything is loaded.

    Args:
        spec: one of `FORMS`.
        has_data: whether --judge-data is given.
        attribute: what an LLM judge looks for.

    Raises:
        InputError: there is no such judge, or it lacks what it needs.
        ModelError: a package it needs is not installed.
    """
    kind, colon, rest = spec.partition(":")
    if kind not in _FORM:
        raise InputError(f"--judge {spec}: no such judge; there are {', '.join(FORMS)}")
    if ":" not in _FORM[kind] and colon:
        raise InputError(f"--judge {spec}: {kind!r} stands alone; write --judge {kind}")
    if kind == "data" and not has_data:
        raise InputError(
            "--judge data needs --judge-data POS NEG: two files of texts that show what is looked for, "
            "and that do not"
        )
    if kind == "hf":
        _split_hf(spec)
    if kind == "regex":
        _compiled(rest)
    if kind == "llm":
        split_llm(spec)
        if not (attribute or "").strip():
            raise InputError(f"--judge {spec}: name what the judge looks for, such as --attribute polite")
    if kind in _NEEDS:
        _check_installed(kind)


def load_judge(
    spec: str,
    *,
    judge_data: tuple[str, str] | None = None,
    leave_out: Collection[int] = (),
    attribute: str | None = None,
    say: Callable[[str], None] = lambda _message: None,
) -> Judge:
    """Make the judge that a `--judge` names.

    Args:
        spec: one of `FORMS`.
        judge_data: for `data`, files of texts of the positive and of the negative side.
        leave_out: for `data`, `texts.text_hash` of the texts that must not be trained on.
        attribute: for `llm`, what is looked for, such as "polite".
        say: told what takes long, before it is begun.

    Raises:
        InputError: what `check_spec` refuses, or a wrong record, label or side.
        ModelError: a model cannot be found, fetched, read or reached.
    """
    check_spec(spec, has_data=judge_data is not None, attribute=attribute)
    kind, _, rest = spec.partition(":")
    if kind == "data" and judge_data is not None:
        from .data import train

        return train(judge_data, leave_out, say)
    if kind == "hf":
        from .hf import load as load_hf

        return load_hf(*_split_hf(spec), say)
    if kind == "llm" and attribute is not None:
        return load_llm(split_llm(spec), attribute.strip(), say)
    if kind == "regex":
        return RegexJudge(rest)
    return ToxicityJudge() if kind == "toxicity" else SentimentJudge()


class SentimentJudge:
    """VADER's compound score, -1 to 1.

    Positive from 0.05 up, as its authors have it (Hutto & Gilbert 2014, "VADER").
    """

    name = "sentiment"
    limits = (
        "VADER adds up the sentiment of words in a fixed English list. It knows nothing of irony, "
        "context or what the words are about."
    )

    def __init__(self) -> None:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

        self._vader = SentimentIntensityAnalyzer()
        self.card: dict[str, Any] = {
            "vadersentiment": version("vaderSentiment"),
            "range": [-1, 1],
            "threshold": VADER_POSITIVE,
        }
        self.warnings: list[str] = []

    def score(
        self,
        prompts: Sequence[str],  # noqa: ARG002  # only continuations are judged
        texts: Sequence[str],
        advance: Callable[[int], None],
    ) -> Scores:
        scores: list[float] = []
        for text in texts:
            scores.append(float(self._vader.polarity_scores(text)["compound"]))
            advance(1)
        return Scores([*scores], [score >= VADER_POSITIVE for score in scores])


class ToxicityJudge:
    """The probability, by alt-profanity-check, that a text is offensive; positive from 0.5 up.

    The package reads pickled models that it brings itself, which is why it pins scikit-learn.
    """

    name = "toxicity"
    limits = (
        "A linear model on words, trained on English comments. It finds swearing and insults better than "
        "toxicity without bad words, and takes quoted or harmless uses of such words for toxic."
    )

    def __init__(self) -> None:
        try:
            from profanity_check import predict_prob
        except Exception as error:  # its own model files, made for one version of scikit-learn
            raise ModelError(
                f"judge 'toxicity': alt-profanity-check cannot be loaded ({type(error).__name__}: {error}); "
                "run: pip install --force-reinstall alt-profanity-check"
            ) from error
        self._predict: Callable[[list[str]], Any] = predict_prob
        self.card: dict[str, Any] = {
            "alt_profanity_check": version("alt-profanity-check"),
            "scikit_learn": version("scikit-learn"),
            "threshold": TOXIC,
        }
        self.warnings: list[str] = []

    def score(
        self,
        prompts: Sequence[str],  # noqa: ARG002  # only continuations are judged
        texts: Sequence[str],
        advance: Callable[[int], None],
    ) -> Scores:
        scores: list[float] = []
        for start in range(0, len(texts), _BATCH):
            batch = list(texts[start : start + _BATCH])
            scores.extend(self._predict(batch).tolist())
            advance(len(batch))
        return Scores([*scores], [score >= TOXIC for score in scores])


class RegexJudge:
    """1 where a pattern is found anywhere in a text, else 0."""

    limits = (
        "Whether the pattern is found anywhere in the text, upper and lower case told apart unless it "
        "starts with (?i). It says nothing of what the text means."
    )

    def __init__(self, pattern: str) -> None:
        self._pattern = _compiled(pattern)
        self.name = f"regex:{pattern}"
        self.card: dict[str, Any] = {"pattern": pattern}
        self.warnings: list[str] = []

    def score(
        self,
        prompts: Sequence[str],  # noqa: ARG002  # only continuations are judged
        texts: Sequence[str],
        advance: Callable[[int], None],
    ) -> Scores:
        found: list[bool] = []
        for text in texts:
            found.append(self._pattern.search(text) is not None)
            advance(1)
        return Scores([float(one) for one in found], [*found])


def _split_hf(spec: str) -> tuple[str, str]:
    """MODEL and LABEL of `hf:MODEL:LABEL`; the last colon parts them."""
    model, _, label = spec.removeprefix("hf:").rpartition(":")
    if not model.strip() or not label.strip():
        raise InputError(
            f"--judge {spec}: write hf:MODEL:LABEL, a folder or Hub id and one of its labels, "
            "such as hf:distilbert/distilbert-base-uncased-finetuned-sst-2-english:POSITIVE"
        )
    return model, label


def _compiled(pattern: str) -> re.Pattern[str]:
    if not pattern:
        raise InputError("--judge regex: no pattern; write regex:PATTERN, such as 'regex:(?i)thank you'")
    try:
        return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise InputError(f"--judge regex:{pattern}: not a regular expression: {error}") from error


def _check_installed(kind: str) -> None:
    module, package = _NEEDS[kind]
    if importlib.util.find_spec(module) is None:
        raise ModelError(f"--judge {kind} needs a package that is not installed; run: pip install {package}")
