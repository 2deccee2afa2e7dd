"""Judges by their names: what each says of a text, and what is refused before anything is loaded."""

import importlib.util
import json
import re
import sys
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from types import ModuleType

import pytest

from neurosteer_cli.errors import InputError, ModelError
from neurosteer_cli.evaluation.judges.judge import Scores
from neurosteer_cli.evaluation.judges.load import FORMS, Judge, check_spec, load_judge

needs_profanity_check = pytest.mark.skipif(
    importlib.util.find_spec("profanity_check") is None, reason="alt-profanity-check needs Python 3.11"
)


def refusal(spec: str, *, has_data: bool = False, attribute: str | None = None) -> str:
    with pytest.raises((InputError, ModelError)) as caught:
        check_spec(spec, has_data=has_data, attribute=attribute)
    return str(caught.value)


def score(judge: Judge, texts: list[str]) -> Scores:
    advanced: list[int] = []
    verdicts = judge.score(["a prompt"] * len(texts), texts, advanced.append)
    assert sum(advanced) == len(texts) == len(verdicts.scores) == len(verdicts.positive)
    assert verdicts.fluency is None
    return verdicts


# --- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["vibes", "", "Sentiment", "regexp:x", "http://host/v1:m"])
def test_an_unknown_judge_names_those_there_are(spec: str) -> None:
    assert refusal(spec) == (
        f"--judge {spec}: no such judge; there are data, sentiment, toxicity, hf:MODEL:LABEL, "
        "regex:PATTERN, llm:URL:MODEL"
    )


@pytest.mark.parametrize("kind", ["data", "sentiment", "toxicity"])
def test_a_judge_that_stands_alone_takes_nothing(kind: str) -> None:
    assert (
        refusal(f"{kind}:x", has_data=True)
        == f"--judge {kind}:x: {kind!r} stands alone; write --judge {kind}"
    )


def test_the_data_judge_needs_data() -> None:
    message = (
        "--judge data needs --judge-data POS NEG: two files of texts that show what is looked for, "
        "and that do not"
    )
    assert refusal("data") == message
    with pytest.raises(InputError, match=re.escape(message)):
        load_judge("data")


@pytest.mark.parametrize(
    "spec", ["data", "sentiment", "hf:org/model:LABEL", "regex:a:b", "llm:http://127.0.0.1:1/v1:m"]
)
def test_what_is_right_passes_without_being_loaded(spec: str) -> None:
    check_spec(spec, has_data=True, attribute="polite")


@pytest.mark.parametrize(
    ("spec", "module", "package"),
    [
        ("data", "sklearn", "scikit-learn"),
        ("sentiment", "vaderSentiment", "vaderSentiment"),
        ("toxicity", "profanity_check", "alt-profanity-check (Python 3.11 or newer)"),
        ("llm:http://host/v1:m", "httpx", "httpx"),
    ],
)
def test_a_package_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, spec: str, module: str, package: str
) -> None:
    genuine = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == module else genuine(name, *rest)
    )
    with pytest.raises(ModelError) as caught:
        check_spec(spec, has_data=True, attribute="polite")
    assert str(caught.value) == (
        f"--judge {spec.partition(':')[0]} needs a package that is not installed; run: pip install {package}"
    )


def test_every_form_is_one_that_can_be_checked() -> None:
    for form in FORMS:
        assert "no such judge" not in refusal(f"{form.partition(':')[0]}:")


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
    verdicts = score(judge, texts)
    assert verdicts.scores == [0.8316, 0.9469, 0.3832, 0.431, -0.5461, 0.0, 0.0]
    assert verdicts.positive == [True, True, True, True, False, False, False]
    assert judge.name == "sentiment"
    assert judge.card == {"vadersentiment": version("vaderSentiment"), "range": [-1, 1], "threshold": 0.05}
    assert judge.warnings == []
    assert score(judge, []).scores == []


@pytest.mark.parametrize(("compound", "positive"), [(0.05, True), (0.0499, False), (-0.9, False)])
def test_the_threshold_itself_is_positive(
    monkeypatch: pytest.MonkeyPatch, compound: float, positive: bool
) -> None:
    judge = load_judge("sentiment")
    monkeypatch.setattr(
        judge._vader,
        "polarity_scores",
        lambda _text: {"compound": compound},  # type: ignore[attr-defined]
    )
    assert score(judge, ["x"]).positive == [positive]


# --- toxicity ----------------------------------------------------------------------------------


@needs_profanity_check
def test_toxicity_is_the_probability_of_offence() -> None:
    from profanity_check import predict_prob

    judge = load_judge("toxicity")
    texts = ["Have a lovely day.", "you stupid piece of shit", "", "Please pass the salt."]
    verdicts = score(judge, texts)
    assert verdicts.scores == pytest.approx(predict_prob(texts).tolist())
    assert verdicts.positive == [False, True, False, False]
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
    verdicts = judge.score([""] * 250, texts, advanced.append)
    assert advanced == [100, 100, 50]
    assert verdicts.scores[-1] == pytest.approx(score(judge, texts[-1:]).scores[0])


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
    verdicts = score(judge, ["Well, THANK YOU.", "thanks", "please: sit", "", "please"])
    assert verdicts.scores == [1.0, 0.0, 1.0, 0.0, 0.0]
    assert verdicts.positive == [True, False, True, False, False]
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
    assert refusal(f"regex:{pattern}") == f"--judge regex:{pattern}: not a regular expression: {reason}"


@pytest.mark.parametrize("spec", ["regex:", "regex"])
def test_a_missing_pattern_is_named(spec: str) -> None:
    assert refusal(spec) == ("--judge regex: no pattern; write regex:PATTERN, such as 'regex:(?i)thank you'")


def test_what_every_judge_is_made_of_can_be_written_as_json() -> None:
    for spec in ("sentiment", "regex:x"):
        judge = load_judge(spec)
        assert json.loads(json.dumps(judge.card)) == judge.card
        assert judge.limits.endswith(".")
