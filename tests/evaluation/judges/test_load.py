"""Judges by their names, and what is refused before anything is loaded."""

import importlib.util
import json
import re

import pytest

from neurosteer_cli.errors import InputError, ModelError
from neurosteer_cli.evaluation.judges.judge import FORMS
from neurosteer_cli.evaluation.judges.load import check_spec, load_judge


def refusal(spec: str, *, judge_data: tuple[str, str] | None = None, attribute: str | None = None) -> str:
    with pytest.raises((InputError, ModelError)) as caught:
        check_spec(spec, judge_data=judge_data, attribute=attribute)
    return str(caught.value)


# --- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["vibes", "", "Sentiment", "regexp:x", "http://host/v1:m"])
def test_an_unknown_judge_names_those_there_are(spec: str) -> None:
    assert refusal(spec) == (
        f"--judge {spec}: no such judge; there are data, tfidf, sentiment, toxicity, hf:MODEL:LABEL, "
        "regex:PATTERN, llm:URL:MODEL"
    )


@pytest.mark.parametrize("kind", ["sentiment", "toxicity"])
def test_a_judge_that_stands_alone_takes_nothing(kind: str) -> None:
    assert (
        refusal(f"{kind}:x", judge_data=("a", "b"))
        == f"--judge {kind}:x: {kind!r} stands alone; write --judge {kind}"
    )


@pytest.mark.parametrize("kind", ["data", "tfidf"])
def test_a_judge_that_is_trained_needs_texts(kind: str) -> None:
    message = (
        f"--judge {kind} needs --judge-data POS NEG, or {kind}:POS:NEG: two files of texts that show what is "
        "looked for, and that do not"
    )
    assert refusal(kind) == message
    with pytest.raises(InputError, match=re.escape(message)):
        load_judge(kind)


@pytest.mark.parametrize("spec", ["data:", "data:a", "tfidf:a:", "data::b", "data:a:b:c"])
def test_a_judge_on_texts_of_its_own_names_two_files(spec: str) -> None:
    kind = spec.partition(":")[0]
    assert refusal(spec, judge_data=("a", "b")) == (
        f"--judge {spec}: write {kind}:POS:NEG: two files of texts that show what is looked for, and that do "
        "not"
    )


@pytest.mark.parametrize(
    "spec",
    [
        "data",
        "tfidf",
        "data:a:b",
        "tfidf:a:b",
        "sentiment",
        "hf:org/model:LABEL",
        "regex:a:b",
        "llm:http://127.0.0.1:1/v1:m",
    ],
)
def test_what_is_right_passes_without_being_loaded(spec: str) -> None:
    check_spec(spec, judge_data=("a", "b"), attribute="polite")


@pytest.mark.parametrize(
    ("spec", "module", "package"),
    [
        ("data", "sklearn", "scikit-learn"),
        ("tfidf", "sklearn", "scikit-learn"),
        ("sentiment", "vaderSentiment", "vaderSentiment"),
        ("toxicity", "profanity_check", "alt-profanity-check (Python 3.11 or newer)"),
        ("llm:http://host/v1:m", "openai", "openai"),
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
        check_spec(spec, judge_data=("a", "b"), attribute="polite")
    assert str(caught.value) == (
        f"--judge {spec.partition(':')[0]} needs a package that is not installed; run: pip install {package}"
    )


def test_every_form_is_one_that_can_be_checked() -> None:
    for form in FORMS:
        assert "no such judge" not in refusal(f"{form.partition(':')[0]}:")


def test_what_every_judge_is_made_of_can_be_written_as_json() -> None:
    for spec in ("sentiment", "regex:x"):
        judge = load_judge(spec)
        assert json.loads(json.dumps(judge.card)) == judge.card
        assert judge.limits.endswith(".")
