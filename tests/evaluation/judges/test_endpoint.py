"""An endpoint is asked patiently, a few questions at once, and not for ever."""

import asyncio
import json
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate

import anyio
import pytest
from support.endpoint import Reply, Script, endpoint

from neurosteer_cli.errors import InputError, ModelError
from neurosteer_cli.evaluation.judges import endpoint as module
from neurosteer_cli.evaluation.judges.endpoint import Answer, Endpoint, NoAnswerError, parse_endpoint

BAD = Reply(status=500)
BACKOFF = [
    pytest.approx(0.44, abs=0.07),
    pytest.approx(0.88, abs=0.13),
]  # the client's: 0.5 and 1 s, less up to a quarter


@pytest.fixture(autouse=True)
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What would have been waited, in seconds; and no key, no proxy."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(anyio, "sleep", sleep)
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
    return ask_at(script.url, question)


def ask_at(url: str, question: str = "Well?") -> Answer:
    (answer,) = Endpoint(url, "a-model").ask([question])
    if isinstance(answer, NoAnswerError):
        raise answer
    return answer


# --- its name ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "url", "model"),
    [
        ("llm:http://127.0.0.1:8080/v1:qwen2.5:7b", "http://127.0.0.1:8080/v1", "qwen2.5:7b"),
        ("llm:http://127.0.0.1:8080/v1/:qwen2.5:7b", "http://127.0.0.1:8080/v1", "qwen2.5:7b"),
        ("llm:http://localhost:8080:m", "http://localhost:8080", "m"),
        ("llm:http://localhost:8080/:m", "http://localhost:8080", "m"),
        ("llm:http://localhost:qwen2.5:7b", "http://localhost", "qwen2.5:7b"),
        ("llm:http://localhost:7b", "http://localhost", "7b"),
        ("llm:https://api.example/v1:org/model:free", "https://api.example/v1", "org/model:free"),
        ("llm:https://api.example/v1:model@2024", "https://api.example/v1", "model@2024"),
        ("llm:https://api.example:@cf/meta/m", "https://api.example", "@cf/meta/m"),
        ("llm:https://api.example/v1/chat/completions:m", "https://api.example/v1", "m"),
        ("llm:http://[::1]:8080/v1:m:7b", "http://[::1]:8080/v1", "m:7b"),
        ("llm:http://[::1]/v1:m", "http://[::1]/v1", "m"),
    ],
)
def test_the_url_ends_at_the_first_colon_after_host_port_and_path(spec: str, url: str, model: str) -> None:
    assert parse_endpoint(spec) == Endpoint(url, model)


@pytest.mark.parametrize(
    "spec",
    [
        "llm:",
        "llm:gpt-4o",
        "llm:ftp://host/v1:m",
        "llm:http://host/v1",
        "llm:http://host/v1:",
        "llm:http://host:8080",
        "llm:http://host:8080/v1",
        "llm:http://:8080/v1:m",
        "llm:http://host:99999/v1:m",
        "llm:http://[nothing]/v1:m",
        "llm:http://host/v1?key=1:m",
        "llm:http://ho st/v1:m",
    ],
)
def test_a_spec_of_another_form_is_refused(spec: str) -> None:
    message = (
        f"--judge {spec}: write llm:URL:MODEL, an OpenAI-compatible endpoint and a model it serves, such as"
    )
    with pytest.raises(InputError, match=re.escape(message)):
        parse_endpoint(spec)


@pytest.mark.parametrize("user", ["me:secret@", "me@"])
def test_a_password_in_the_url_is_refused_and_not_shown(user: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_endpoint(f"llm:https://{user}api.example/v1:m")
    assert str(caught.value) == (
        "--judge llm: no user or password in the URL; put the key into OPENAI_API_KEY"
    )


# --- one question ------------------------------------------------------------------------------


def test_a_question_is_one_user_message_at_temperature_0(slept: list[float]) -> None:
    with endpoint(Reply("Yes.")) as script:
        assert ask(script) == Answer("Yes.", "served-model")
    messages = [{"role": "user", "content": "Well?"}]
    assert script.asked == [{"model": "a-model", "messages": messages, "temperature": 0, "max_tokens": 512}]
    assert script.paths == ["/v1/chat/completions"]
    assert script.keys == [None]
    assert slept == []


def test_the_key_goes_along_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", " secret\n")
    with endpoint() as script:
        ask(script)
    assert script.keys == ["Bearer secret"]


def test_nothing_is_told_of_this_machine() -> None:
    with endpoint() as script:
        ask(script)
    assert {name for name in script.headers[0] if name.startswith("x-")} == {"x-stainless-retry-count"}


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


@pytest.mark.parametrize("body", ["", '{"choices": [', "[" * 100_000])
def test_what_calls_itself_json_and_is_none_has_no_content_and_stops_nothing(body: str) -> None:
    broken = Reply(body=body, headers={"Content-Type": "application/json"})
    with endpoint(broken, Reply("Yes.")) as script:
        first, second = sorted(Endpoint(script.url, "m").ask(["a", "b"]), key=str)
    assert (first, second) == (Answer("Yes.", "served-model"), Answer(None, None))


@pytest.mark.parametrize(
    ("message", "is_reasoned"),
    [
        ({"content": "Yes."}, False),
        ({"content": "Yes.", "reasoning_content": ""}, False),
        ({"content": "Yes.", "reasoning_content": "Hm."}, True),
        ({"content": "Yes.", "reasoning": "Hm."}, True),
        ({"content": "\n<think>Hm.</think>Yes."}, True),
    ],
)
def test_a_model_that_thinks_before_it_answers_is_told(message: dict[str, str], is_reasoned: bool) -> None:
    with endpoint(Reply(body=json.dumps({"model": "m", "choices": [{"message": message}]}))) as script:
        assert ask(script) == Answer(message["content"], "m", is_reasoned)


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
    assert slept == BACKOFF


def test_after_three_attempts_it_is_given_up(slept: list[float]) -> None:
    with endpoint(BAD) as script, pytest.raises(NoAnswerError) as caught:
        ask(script)
    assert str(caught.value) == (
        f"{script.url}: no answer in 3 attempts (status 500); is it running, and is the URL right?"
    )
    assert (len(script.asked), len(slept)) == (3, 2)


def test_retry_after_is_honoured(slept: list[float]) -> None:
    with endpoint(Reply(status=429, headers={"Retry-After": "7"}), Reply("Yes.")) as script:
        assert ask(script).content == "Yes."
    assert slept == [7.0]


@pytest.mark.parametrize("header", ["0", "soon", "-5", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_a_retry_after_that_names_no_time_to_come_is_passed_over(header: str, slept: list[float]) -> None:
    with endpoint(Reply(status=429, headers={"Retry-After": header}), Reply("Yes.")) as script:
        assert ask(script).content == "Yes."
    assert slept == BACKOFF[:1]


def test_nobody_waits_for_longer_than_two_minutes(slept: list[float]) -> None:
    with (
        endpoint(Reply(status=429, headers={"Retry-After": "3600"})) as script,
        pytest.raises(NoAnswerError, match=re.escape("no answer in 1 attempts (status 429)")),
    ):
        ask(script)
    assert slept == []


@pytest.mark.parametrize("zone", [True, False])
def test_retry_after_may_be_a_date(zone: bool, slept: list[float]) -> None:
    header = formatdate(time.time() + 10, usegmt=True)
    header = header if zone else header.replace("GMT", "-0000")
    with endpoint(Reply(status=503, headers={"Retry-After": header}), Reply("Yes.")) as script:
        ask(script)
    assert slept == [pytest.approx(9.5, abs=1.5)]


def test_a_timeout_is_tried_again(monkeypatch: pytest.MonkeyPatch, slept: list[float]) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 0.2)
    with endpoint(Reply(seconds=0.6), Reply("Yes.")) as script:
        assert ask(script).content == "Yes."
    assert slept == BACKOFF[:1]


def test_an_endpoint_that_is_not_there_is_named(dead_url: str, slept: list[float]) -> None:
    with pytest.raises(NoAnswerError) as caught:
        ask_at(dead_url)
    assert str(caught.value) == (
        f"{dead_url}: no answer in 3 attempts (ConnectError); is it running, and is the URL right?"
    )
    assert slept == BACKOFF


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


def test_a_redirection_is_not_followed() -> None:
    with endpoint() as elsewhere:
        to = {"Location": f"{elsewhere.url}/chat/completions"}
        with endpoint(Reply(status=307, headers=to)) as script, pytest.raises(ModelError, match="status 307"):
            ask(script)
    assert elsewhere.asked == []


def test_what_cannot_be_a_url_is_named() -> None:
    with pytest.raises(ModelError, match=r"^http://a\x01b/v1: not a URL that can be asked \(Invalid non-"):
        ask_at("http://a\x01b/v1")


def test_a_host_that_cannot_be_one_is_named() -> None:
    url = f"http://{'a' * 70}.example/v1"
    with pytest.raises(ModelError, match=re.escape(f"{url}: ")):
        ask_at(url)


# --- many --------------------------------------------------------------------------------------


def test_many_are_asked_four_at_a_time_and_each_gets_its_answer() -> None:
    questions = [f"question {i}" for i in range(12)]
    with endpoint(Reply("Yes.", seconds=0.1)) as script:
        found = Endpoint(script.url, "m").ask(questions)
    assert found == [Answer("Yes.", "served-model")] * 12
    assert sorted(body["messages"][0]["content"] for body in script.asked) == sorted(questions)
    assert script.most_at_once == 4


def test_none_are_asked_if_there_are_none() -> None:
    with endpoint() as script:
        assert Endpoint(script.url, "m").ask([]) == []
    assert script.asked == []


def test_one_without_an_answer_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WORKERS", 1)
    with endpoint(BAD, BAD, BAD, Reply("Yes.")) as script:
        first, second = Endpoint(script.url, "m").ask(["a", "b"])
    assert isinstance(first, NoAnswerError)
    assert second == Answer("Yes.", "served-model")


def test_after_eight_in_a_row_without_an_answer_no_more_are_asked() -> None:
    with endpoint(BAD) as script:
        found = Endpoint(script.url, "m").ask([str(i) for i in range(60)])
    assert len(found) == 60
    assert all(isinstance(answer, NoAnswerError) for answer in found)
    assert 8 * 3 <= len(script.asked) < 20 * 3
    assert any("not asked, after 8 without an answer" in str(answer) for answer in found)


def test_a_refusal_ends_it_all() -> None:
    with (
        endpoint(Reply(), Reply(status=401, body="no")) as script,
        pytest.raises(ModelError, match="status 401"),
    ):
        Endpoint(script.url, "m").ask([str(i) for i in range(50)])
    assert len(script.asked) < 50


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_text_that_is_refused_is_counted_and_the_others_are_answered(status: int) -> None:
    with endpoint(Reply(), Reply(status=status, body="filtered"), Reply()) as script:
        found = Endpoint(script.url, "m").ask(["a", "b", "c"])
    refused = [answer for answer in found if isinstance(answer, NoAnswerError)]
    assert len(found) == 3
    assert [f"status {status}: filtered" in str(answer) for answer in refused] == [True]


def test_who_is_told_of_progress_can_stop_the_asking() -> None:
    def stop(_n: int) -> None:
        raise ZeroDivisionError

    with endpoint(Reply(seconds=0.02)) as script:
        with pytest.raises(ZeroDivisionError):
            Endpoint(script.url, "m").ask([str(i) for i in range(50)], stop)
        time.sleep(0.2)
        assert len(script.asked) < 20


def test_ctrl_c_waits_for_no_answer() -> None:
    with endpoint(Reply(seconds=3)) as script:
        threading.Timer(0.5, signal.pthread_kill, [threading.get_ident(), signal.SIGINT]).start()
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            Endpoint(script.url, "m").ask([str(i) for i in range(50)])
        assert time.monotonic() - start < 2
        assert len(script.asked) == 4


def test_it_can_be_asked_where_a_loop_runs_as_in_a_notebook() -> None:
    async def cell() -> Answer:
        return ask(script)

    with endpoint(Reply("Yes.")) as script:
        assert asyncio.run(cell()).content == "Yes."
