"""An endpoint is asked patiently, a few questions at once, and not for ever."""

import re
import socket
import time
from collections.abc import Iterator
from email.utils import formatdate

import pytest
from support.endpoint import Reply, Script, endpoint

from neurosteer_cli.errors import InputError, ModelError
from neurosteer_cli.evaluation.judges import chat
from neurosteer_cli.evaluation.judges.chat import Answer, Endpoint, NoAnswerError

BAD = Reply(status=500)


@pytest.fixture(autouse=True)
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What would have been waited, in seconds; and no key, no proxy."""
    waits: list[float] = []
    monkeypatch.setattr(chat, "_sleep", waits.append)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return waits


@pytest.fixture
def dead_url() -> Iterator[str]:
    """Where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/v1"


def ask(script: Script, question: str = "Well?") -> Answer:
    return Endpoint(script.url, "a-model").ask(question)


def test_a_question_is_one_user_message_at_temperature_0(slept: list[float]) -> None:
    with endpoint(Reply("Yes.")) as script:
        assert ask(script) == Answer("Yes.", "served-model")
    assert script.asked == [
        {"model": "a-model", "messages": [{"role": "user", "content": "Well?"}], "temperature": 0}
    ]
    assert script.paths == ["/v1/chat/completions"]
    assert script.keys == [None]
    assert slept == []


def test_the_key_goes_along_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", " secret\n")
    with endpoint() as script:
        ask(script)
    assert script.keys == ["Bearer secret"]


@pytest.mark.parametrize("key", ["clé", "two\nlines"])
def test_a_key_that_cannot_be_one_is_named_but_not_shown(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with endpoint() as script, pytest.raises(InputError) as caught:
        ask(script)
    assert str(caught.value) == "OPENAI_API_KEY holds characters that no key has; set it again"
    assert script.asked == []


@pytest.mark.parametrize(
    "body", ["<html>hello</html>", "[]", "{}", '{"choices": []}', '{"choices": [{"message": "x"}]}', "null"]
)
def test_what_is_no_chat_completion_has_no_content(body: str) -> None:
    with endpoint(Reply(body=body)) as script:
        assert ask(script) == Answer(None, None)


@pytest.mark.parametrize("content", ["null", '[{"type": "text", "text": "x"}]'])
def test_an_answer_without_text_is_empty(content: str) -> None:
    with endpoint(Reply(body=f'{{"choices": [{{"message": {{"content": {content}}}}}]}}')) as script:
        assert ask(script) == Answer("", None)


# --- trying again ------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_passing_trouble_is_tried_again_after_longer_and_longer(status: int, slept: list[float]) -> None:
    trouble = Reply(status=status)
    with endpoint(trouble, trouble, Reply("Yes.")) as script:
        assert ask(script).content == "Yes."
    assert len(script.asked) == 3
    assert slept == [1.0, 2.0]


def test_after_three_attempts_it_is_given_up(slept: list[float]) -> None:
    with endpoint(BAD) as script, pytest.raises(NoAnswerError) as caught:
        ask(script)
    assert str(caught.value) == (
        f"{script.url}: no answer in 3 attempts (status 500); is it running, and is the URL right?"
    )
    assert (len(script.asked), len(slept)) == (3, 2)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("3600", 30.0),
        ("soon", 1.0),
        ("-5", 1.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
    ],
)
def test_retry_after_is_honoured_up_to_half_a_minute(header: str, seconds: float, slept: list[float]) -> None:
    with endpoint(Reply(status=429, headers={"Retry-After": header}), Reply("Yes.")) as script:
        assert ask(script).content == "Yes."
    assert slept == [seconds]


@pytest.mark.parametrize("zone", [True, False])
def test_retry_after_may_be_a_date(zone: bool, slept: list[float]) -> None:
    header = formatdate(time.time() + 10, usegmt=True)
    header = header if zone else header.replace("GMT", "-0000")
    with endpoint(Reply(status=503, headers={"Retry-After": header}), Reply("Yes.")) as script:
        ask(script)
    assert slept == [pytest.approx(9.5, abs=1.5)]


def test_a_timeout_is_tried_again(monkeypatch: pytest.MonkeyPatch, slept: list[float]) -> None:
    monkeypatch.setattr(chat, "TIMEOUT", 0.2)
    with endpoint(Reply(seconds=0.6), Reply("Yes.")) as script:
        assert ask(script).content == "Yes."
    assert slept == [1.0]


def test_an_endpoint_that_is_not_there_is_named(dead_url: str, slept: list[float]) -> None:
    with pytest.raises(NoAnswerError) as caught:
        Endpoint(dead_url, "m").ask("Well?")
    assert str(caught.value) == (
        f"{dead_url}: no answer in 3 attempts (ConnectError); is it running, and is the URL right?"
    )
    assert slept == [1.0, 2.0]


@pytest.mark.parametrize(
    ("status", "body", "detail"),
    [
        (400, '{"error": {"message": "no such\\nparameter"}}', ": no such parameter"),
        (401, '{"error": "no key"}', ": no key"),
        (404, "Not Found", ": Not Found"),
        (403, '{"detail": 1}', ": {'detail': 1}"),
        (301, "", ""),
    ],
)
def test_a_refusal_is_not_tried_again(status: int, body: str, detail: str, slept: list[float]) -> None:
    with endpoint(Reply(status=status, body=body)) as script, pytest.raises(ModelError) as caught:
        ask(script)
    assert str(caught.value) == (
        f"{script.url}: refuses to answer as 'a-model' (status {status}{detail}); "
        "check the URL, the model's name and OPENAI_API_KEY"
    )
    assert (len(script.asked), slept) == (1, [])


def test_a_host_that_cannot_be_one_is_named() -> None:
    url = f"http://{'a' * 70}.example/v1"
    with pytest.raises(ModelError, match=re.escape(f"{url}: ")):
        Endpoint(url, "m").ask("Well?")


# --- many --------------------------------------------------------------------------------------


def test_many_are_asked_four_at_a_time_and_each_gets_its_answer() -> None:
    questions = [f"question {i}" for i in range(12)]
    with endpoint(Reply(seconds=0.1)) as script:
        found = dict(Endpoint(script.url, "m").ask_all(questions))
    assert sorted(found) == list(range(12))
    assert sorted(body["messages"][0]["content"] for body in script.asked) == sorted(questions)
    assert script.most_at_once == 4


def test_none_are_asked_if_there_are_none() -> None:
    with endpoint() as script:
        assert list(Endpoint(script.url, "m").ask_all([])) == []
    assert script.asked == []


def test_one_without_an_answer_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "WORKERS", 1)
    with endpoint(BAD, BAD, BAD, Reply("Yes.")) as script:
        first, second = Endpoint(script.url, "m").ask_all(["a", "b"])
    assert first[0] == 0
    assert isinstance(first[1], NoAnswerError)
    assert second == (1, Answer("Yes.", "served-model"))


def test_after_eight_in_a_row_without_an_answer_no_more_are_asked() -> None:
    with endpoint(BAD) as script:
        found = dict(Endpoint(script.url, "m").ask_all([str(i) for i in range(60)]))
    assert len(found) == 60
    assert all(isinstance(answer, NoAnswerError) for answer in found.values())
    assert 8 * 3 <= len(script.asked) < 20 * 3
    assert any("not asked, after 8 without an answer" in str(answer) for answer in found.values())


def test_a_refusal_ends_it_all() -> None:
    with (
        endpoint(Reply(), Reply(status=401, body="no")) as script,
        pytest.raises(ModelError, match="status 401"),
    ):
        list(Endpoint(script.url, "m").ask_all([str(i) for i in range(50)]))
    assert len(script.asked) < 50


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_text_that_is_refused_is_counted_and_the_others_are_answered(status: int) -> None:
    with endpoint(Reply(), Reply(status=status, body="filtered"), Reply()) as script:
        found = dict(Endpoint(script.url, "m").ask_all(["a", "b", "c"]))
    refused = [answer for answer in found.values() if isinstance(answer, NoAnswerError)]
    assert len(found) == 3
    assert [f"status {status}: filtered" in str(answer) for answer in refused] == [True]


def test_a_reader_that_stops_stops_the_asking() -> None:
    with endpoint(Reply(seconds=0.02)) as script:
        answers = Endpoint(script.url, "m").ask_all([str(i) for i in range(50)])
        next(answers)
        answers.close()
        time.sleep(0.2)
        assert len(script.asked) < 20
