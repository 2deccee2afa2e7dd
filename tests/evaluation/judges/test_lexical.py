"""What each judge that goes by words says of a text."""

import importlib.util
import re
import sys
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from types import ModuleType

import pytest
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from neurosteer_cli.errors import InputError, ModelError
from neurosteer_cli.evaluation.judges.judge import Judge, Scores
from neurosteer_cli.evaluation.judges.lexical import regex_judge
from neurosteer_cli.evaluation.judges.load import check_spec, load_judge

needs_profanity_check = pytest.mark.skipif(
    importlib.util.find_spec("profanity_check") is None, reason="alt-profanity-check needs Python 3.11"
)


def score(judge: Judge, texts: list[str]) -> Scores:
    advanced: list[int] = []
    found = judge.score(["a prompt"] * len(texts), texts, advanced.append)
    assert sum(advanced) == len(texts) == len(found.scores) == len(found.positive)
    assert found.fluency is None
    return found


# --- sentiment ---------------------------------------------------------------------------------


def test_sentiment_is_vaders_compound_positive_from_its_authors_threshold_up() -> None:
    judge = load_judge("sentiment")
    # The compounds are those of the VADER authors' README, but for the last two.
    texts = [
        "VADER is smart, handsome, and funny.",
        "VADER is VERY SMART, uber handsome, and FRIGGIN FUNNY!!!",
        "The book was only kind of good.",
        "Not bad at all",
        "Today SUX!",
        "",
        "The table has four legs.",
    ]
    found = score(judge, texts)
    assert found.scores == [0.8316, 0.9469, 0.3832, 0.431, -0.5461, 0.0, 0.0]
    assert found.positive == [True, True, True, True, False, False, False]
    assert judge.name == "sentiment"
    assert judge.card == {"vadersentiment": version("vaderSentiment"), "range": [-1, 1], "threshold": 0.05}
    assert judge.warnings == []
    assert score(judge, []).scores == []


@pytest.mark.parametrize(("compound", "positive"), [(0.05, True), (0.0499, False), (-0.9, False)])
def test_the_threshold_itself_is_positive(
    monkeypatch: pytest.MonkeyPatch, compound: float, positive: bool
) -> None:
    monkeypatch.setattr(
        SentimentIntensityAnalyzer, "polarity_scores", lambda _self, _text: {"compound": compound}
    )
    assert score(load_judge("sentiment"), ["x"]).positive == [positive]


# --- toxicity ----------------------------------------------------------------------------------


@needs_profanity_check
def test_toxicity_is_the_probability_of_offence() -> None:
    from profanity_check import predict_prob

    judge = load_judge("toxicity")
    texts = ["Have a lovely day.", "you stupid piece of shit", "", "Please pass the salt."]
    found = score(judge, texts)
    assert found.scores == pytest.approx(predict_prob(texts).tolist())
    assert found.positive == [False, True, False, False]
    assert judge.name == "toxicity"
    assert judge.card == {
        "alt_profanity_check": version("alt-profanity-check"),
        "scikit_learn": version("scikit-learn"),
        "threshold": 0.5,
    }
    assert judge.warnings == []
    assert score(judge, []).scores == []


@needs_profanity_check
def test_many_texts_are_judged_in_batches() -> None:
    texts = [f"text {i}" for i in range(250)]
    judge = load_judge("toxicity")
    advanced: list[int] = []
    found = judge.score([""] * 250, texts, advanced.append)
    assert advanced == [100, 100, 50]
    assert found.scores[-1] == pytest.approx(score(judge, texts[-1:]).scores[0])


@needs_profanity_check
def test_model_files_that_do_not_fit_scikit_learn_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = ModuleType("profanity_check")
    broken.__spec__ = ModuleSpec("profanity_check", None)
    monkeypatch.setitem(sys.modules, "profanity_check", broken)
    with pytest.raises(
        ModelError, match=r"^judge 'toxicity': alt-profanity-check cannot be loaded \(ImportError: "
    ) as caught:
        load_judge("toxicity")
    assert str(caught.value).endswith("; run: pip install --force-reinstall alt-profanity-check")


# --- patterns ----------------------------------------------------------------------------------


def test_a_pattern_is_found_anywhere_in_a_text() -> None:
    judge = load_judge("regex:(?i)thank you|please:")
    found = score(judge, ["Well, THANK YOU.", "thanks", "please: sit", "", "please"])
    assert found.scores == [1.0, 0.0, 1.0, 0.0, 0.0]
    assert found.positive == [True, False, True, False, False]
    assert judge.name == "regex:(?i)thank you|please:"
    assert judge.card == {"pattern": "(?i)thank you|please:"}
    assert judge.warnings == []


def test_upper_and_lower_case_differ_unless_told_otherwise() -> None:
    assert score(load_judge("regex:thanks"), ["Thanks", "thanks"]).scores == [0.0, 1.0]


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(", "missing ), unterminated subpattern at position 0"),
        ("a{99999999999}", "the repetition number is too large"),
    ],
)
def test_a_bad_pattern_is_named(pattern: str, reason: str) -> None:
    with pytest.raises(InputError) as caught:
        regex_judge(pattern)
    assert str(caught.value) == f"--judge regex:{pattern}: not a regular expression: {reason}"


def test_a_missing_pattern_is_named() -> None:
    message = "--judge regex: no pattern; write regex:PATTERN, such as 'regex:(?i)thank you'"
    for spec in ("regex:", "regex"):
        with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
            check_spec(spec)
