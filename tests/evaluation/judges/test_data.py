"""A judge is trained on labelled texts, and says how far it can be relied on."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import sklearn
from support.tiny import save_tiny_bert

from neurosteer_cli.data.sides import text_hash
from neurosteer_cli.errors import InputError
from neurosteer_cli.evaluation.judges import data as data_judge
from neurosteer_cli.evaluation.judges import encoders
from neurosteer_cli.evaluation.judges.data import train
from neurosteer_cli.evaluation.judges.encoders import embed, load_encoder
from neurosteer_cli.evaluation.judges.judge import Judge
from neurosteer_cli.evaluation.judges.load import load_judge

Write = Callable[[str, list[str]], Path]
EXAMPLES = Path(__file__).parents[3] / "examples"
UP = [f"aaa bbb aab {'ab' * n} number {n}" for n in range(25)]
DOWN = [f"zzz yyy zzy {'zy' * n} number {n}" for n in range(30)]


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_bert(tmp_path_factory.mktemp("encoders") / "bert")


@pytest.fixture(autouse=True)
def _tiny_encoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, bert: Path) -> None:
    """A tiny encoder in the place of all-MiniLM-L6-v2, cut where its positions end."""
    if request.node.get_closest_marker("real") is None:
        monkeypatch.setattr(data_judge, "minilm_folder", lambda _say: bert)
        monkeypatch.setattr(data_judge, "MINILM_TOKENS", 100)


def judge_of(positive: Path, negative: Path, leave_out: set[int] | None = None) -> Judge:
    return load_judge("data", judge_data=(str(positive), str(negative)), leave_out=leave_out or set())


def test_texts_are_told_apart_by_the_probability_of_the_positive_side(write_texts: Write, bert: Path) -> None:
    judge = judge_of(write_texts("up.jsonl", UP), write_texts("down.jsonl", DOWN))
    texts = ["aaa bbb abab", "zzz yyy zyzy", "", "aab bbb number 99"]
    advanced: list[int] = []
    found = judge.score([""] * 4, texts, advanced.append)
    assert sum(advanced) == 4
    assert found.positive[:2] == [True, False]
    assert found.positive[3] is True
    assert found.fluency is None
    # by hand: the weighted, L2-regularised log-likelihood has no slope at the classifier's weights
    _, classifier = judge.scores_of.args  # type: ignore[attr-defined]
    encoder = load_encoder(bert, max_tokens=100)
    X, y = embed(encoder, UP + DOWN).double().numpy(), numpy.array([1.0] * 25 + [0.0] * 30)
    w, b = classifier.coef_[0], classifier.intercept_[0]
    weight = numpy.where(y == 1, 55 / (2 * 25), 55 / (2 * 30))
    error = weight * (1 / (1 + numpy.exp(-(X @ w + b))) - y)
    numpy.testing.assert_allclose(X.T @ error + w, 0, atol=1e-2)
    x = embed(encoder, texts).double().numpy()
    numpy.testing.assert_allclose(found.scores, 1 / (1 + numpy.exp(-(x @ w + b))), atol=1e-5)
    assert found.positive == [score >= 0.5 for score in found.scores if score is not None]


def test_what_the_judge_is_made_of_is_told(write_texts: Write) -> None:
    up = write_texts("up.jsonl", [*UP, UP[0], UP[3], UP[0]])
    down = write_texts("down.jsonl", DOWN)
    judge = judge_of(up, down, {text_hash(UP[0]), text_hash(UP[1]), text_hash(DOWN[7]), 12345})
    card = judge.card
    assert judge.name == "data"
    assert {key: card[key] for key in card if key not in ("positive", "negative")} == {
        "encoder": "all-MiniLM-L6-v2",
        "encoder_sha256": "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        "scikit_learn": sklearn.__version__,
        "folds": 5,
        "accuracy": 1.0,
        "balanced_accuracy": 1.0,
        "threshold": 0.5,
    }
    positive, negative = card["positive"], card["negative"]
    assert re.fullmatch("[0-9a-f]{64}", positive.pop("sha256"))
    assert re.fullmatch("[0-9a-f]{64}", negative.pop("sha256"))
    assert positive == {
        "source": str(up), "label": "up", "n_texts": 23, "n_duplicates": 3, "n_left_out": 2,
    }  # fmt: skip
    assert negative == {
        "source": str(down), "label": "down", "n_texts": 29, "n_duplicates": 0, "n_left_out": 1,
    }  # fmt: skip
    json.dumps(card)
    assert judge.warnings == []
    assert judge.limits == (
        "A classifier that tells up from down by sentence embeddings, right on 100% of its own texts when "
        "they were held out (each side counted the same). It goes by whatever sets the two files apart, "
        "topic and length included, and reads a text's first 100 tokens."
    )


def test_no_left_out_or_repeated_text_is_trained_on(
    write_texts: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded: list[str] = []
    genuine = data_judge.embed
    monkeypatch.setattr(
        data_judge, "embed", lambda e, texts, *a: embedded.extend(texts) or genuine(e, texts, *a)
    )
    judge_of(write_texts("up.jsonl", UP + UP), write_texts("down.jsonl", DOWN), {text_hash(UP[4])})
    assert embedded == UP[:4] + UP[5:] + DOWN


def shuffled_numbers(n: int) -> list[str]:
    numbers = [f"number {i}" for i in range(n)]
    random.Random(0).shuffle(numbers)
    return numbers


def test_sides_that_do_not_differ_are_warned_of(write_texts: Write) -> None:
    numbers = shuffled_numbers(60)
    judge = judge_of(write_texts("a.jsonl", numbers[:30]), write_texts("b.jsonl", numbers[30:]))
    accuracy = judge.card["balanced_accuracy"]
    assert accuracy < 0.7
    assert judge.card["accuracy"] == pytest.approx(accuracy)  # as many texts a side
    assert judge.warnings == [
        f"the data judge is right on only {accuracy:.0%} of held-out texts (each side counted the same; "
        "50% is chance, 70% the least to rely on): its scores say little; give --judge-data more, or more "
        "clearly different, texts"
    ]


def test_a_large_side_does_not_hide_that_nothing_was_learnt(write_texts: Write) -> None:
    numbers = shuffled_numbers(200)
    judge = judge_of(write_texts("a.jsonl", numbers[:20]), write_texts("b.jsonl", numbers[20:]))
    assert judge.card["balanced_accuracy"] < 0.7
    assert len(judge.warnings) == 1


def test_the_same_texts_give_the_same_judge(write_texts: Write) -> None:
    sides = write_texts("up.jsonl", UP), write_texts("down.jsonl", DOWN)
    one, two = judge_of(*sides), judge_of(*sides)
    assert one.card == two.card
    texts = ["aaa", "zzz", "number"]
    assert one.score([""] * 3, texts, lambda _n: None) == two.score([""] * 3, texts, lambda _n: None)
    assert one.score([], [], lambda _n: None).scores == []


def test_chats_and_completions_are_judged_by_what_counts(write_texts: Write, tmp_path: Path) -> None:
    chats = tmp_path / "chats.jsonl"
    lines = [
        {"messages": [{"role": "user", "content": "zzz"}, {"role": "assistant", "content": t}]}
        for t in UP[:12]
    ]
    lines += [{"prompt": "zzz", "completion": t} for t in UP[12:]]
    chats.write_text("".join(json.dumps(line) + "\n" for line in lines))
    down = write_texts("down.jsonl", DOWN)
    plain = judge_of(write_texts("up.jsonl", UP), down).card["positive"]
    found = judge_of(chats, down).card["positive"]
    assert (found["n_texts"], found["sha256"]) == (25, plain["sha256"])


def test_what_takes_long_is_said(write_texts: Write) -> None:
    said: list[str] = []
    train((str(write_texts("up.jsonl", UP)), str(write_texts("down.jsonl", DOWN))), say=said.append)
    assert said == ["training the data judge on 25 and 30 texts"]


# --- what is refused, before the encoder is fetched --------------------------------------------


@pytest.fixture
def no_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetched(_say: object) -> Path:
        raise AssertionError("the encoder was asked for")

    monkeypatch.setattr(data_judge, "minilm_folder", fetched)


@pytest.mark.usefixtures("no_encoder")
def test_too_few_texts_are_refused_with_the_reason(write_texts: Write) -> None:
    up, down = write_texts("up.jsonl", [*UP, UP[0]]), write_texts("down.jsonl", DOWN)
    with pytest.raises(InputError) as caught:
        judge_of(up, down, {text_hash(text) for text in UP[:6]})
    assert str(caught.value) == (
        f"{up}: 19 of 26 texts can train a judge, at least 20 a side are needed (6 were also used to fit the "
        "vector, 1 are repeated); give --judge-data more texts that no vector was fitted on"
    )


def test_twenty_texts_a_side_are_enough(write_texts: Write) -> None:
    judge = judge_of(write_texts("up.jsonl", UP[:20]), write_texts("down.jsonl", DOWN[:20]))
    assert judge.card["positive"]["n_texts"] == 20


@pytest.mark.usefixtures("no_encoder")
def test_a_text_on_both_sides_is_refused(write_texts: Write) -> None:
    up, down = write_texts("up.jsonl", UP), write_texts("down.jsonl", [*DOWN, UP[2]])
    message = (
        f"{down}:31: this text stands on both sides of --judge-data, first at {up}:3; remove one of them"
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        judge_of(up, down)


@pytest.mark.usefixtures("no_encoder")
def test_a_bad_record_is_named(write_texts: Write, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "fine"}\n{"txt": "x"}\n')
    with pytest.raises(InputError, match=re.escape(f"{bad}:2: no 'text', ")):
        judge_of(write_texts("up.jsonl", UP), bad)


@pytest.mark.usefixtures("no_encoder")
def test_standard_input_cannot_be_both_sides() -> None:
    message = "`-` (stdin) can be read only once; name a file in its other place"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        load_judge("data", judge_data=("-", "-"))


# --- the true weights --------------------------------------------------------------------------

GLAD = [
    f"What a {word} day, {rest}."
    for word in ("lovely", "wonderful", "glorious", "splendid", "happy")
    for rest in ("I could sing", "we laughed for hours", "everyone cheered", "I got the job", "she said yes")
]
GLUM = [
    f"What a {word} day, {rest}."
    for word in ("dreadful", "miserable", "horrible", "gloomy", "sad")
    for rest in ("I could cry", "we wept for hours", "everyone booed", "I lost the job", "she said no")
]


@pytest.mark.real
def test_the_true_encoder_tells_glad_from_glum(write_texts: Write) -> None:
    assert encoders.minilm_folder().is_dir()
    judge = judge_of(write_texts("glad.jsonl", GLAD), write_texts("glum.jsonl", GLUM))
    assert judge.card["accuracy"] > 0.95
    assert judge.warnings == []
    texts = ["I am so pleased, what great news.", "My dog died and I am heartbroken."]
    found = judge.score(["", ""], texts, lambda _n: None)
    assert found.positive == [True, False]


@pytest.mark.real
def test_the_true_encoder_tells_the_polite_examples_from_the_rude() -> None:
    judge = judge_of(EXAMPLES / "polite.jsonl", EXAMPLES / "rude.jsonl")
    assert judge.card["positive"]["n_texts"] == 220
    assert 0.8 < judge.card["accuracy"] < 1.0
