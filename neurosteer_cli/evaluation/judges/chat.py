"""Ask a language model behind an OpenAI-compatible endpoint, patiently but not for ever.

Knows HTTP, retries and the form of a chat completion; knows nothing of what is asked.
"""

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from ...errors import InputError, ModelError

if TYPE_CHECKING:
    import httpx

ATTEMPTS = 3
WORKERS = 4  # requests under way at once
ABOUT_THE_TEXT = (400, 413, 422)  # statuses that a text can bring about
GIVE_UP = 8  # questions without an answer in a row, after which no more are asked
TIMEOUT, CONNECT_TIMEOUT = 120.0, 10.0  # seconds
FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0  # seconds between attempts

_sleep = time.sleep


class NoAnswerError(ModelError):
    """No answer came, however often it was asked; another question may fare better."""


@dataclass(frozen=True)
class Answer:
    """What came back."""

    content: str | None  # what the model said; None: the answer is no chat completion
    model: str | None  # what the endpoint says has answered


class _RefusedTextError(ModelError):
    """The endpoint refuses one request, for what is in it."""


@dataclass(frozen=True)
class Endpoint:
    """A model at a base URL, such as http://127.0.0.1:8080/v1; the key is in OPENAI_API_KEY."""

    url: str
    model: str

    def ask(self, question: str) -> Answer:
        """Ask once.

        Raises:
            NoAnswerError: every attempt met a timeout, a broken connection, 429 or 5xx.
            ModelError: the endpoint refuses the request.
            InputError: the key cannot be one.
        """
        with _client() as client:
            return self._ask(client, question)

    def ask_all(self, questions: Sequence[str]) -> Iterator[tuple[int, Answer | NoAnswerError]]:
        """Ask many, a few at once.

        Yields:
            A question's place and its answer, as they come.

        Raises:
            ModelError: the endpoint refuses requests, whatever their text.
        """
        gave_up = threading.Event()

        def ask(place: int) -> Answer | NoAnswerError:
            if gave_up.is_set():
                return NoAnswerError(f"{self.url}: not asked, after {GIVE_UP} without an answer")
            try:
                return self._ask(client, questions[place])
            except NoAnswerError as error:
                return error
            except _RefusedTextError as error:  # by a content filter, say; others may be answered
                return NoAnswerError(str(error))

        in_a_row = 0
        with _client() as client:
            for place, answer in _in_parallel(ask, len(questions)):
                in_a_row = in_a_row + 1 if isinstance(answer, NoAnswerError) else 0
                if in_a_row >= GIVE_UP:
                    gave_up.set()
                yield place, answer

    def _ask(self, client: "httpx.Client", question: str) -> Answer:
        import httpx

        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
        }
        problem = ""
        wait = FIRST_WAIT
        for attempt in range(ATTEMPTS):
            if attempt:
                _sleep(wait)
            wait = min(LONGEST_WAIT, FIRST_WAIT * 2**attempt)
            try:
                response = client.post(f"{self.url}/chat/completions", json=body)
            except httpx.RequestError as error:  # timeouts and broken connections among them
                problem = type(error).__name__
                continue
            except (httpx.InvalidURL, UnicodeError) as error:  # a host that no name can be
                raise ModelError(f"{self.url}: not a URL that can be asked ({error})") from error
            if response.status_code == 429 or response.status_code >= 500:
                problem = f"status {response.status_code}"
                wait = _retry_after(response.headers.get("Retry-After", ""), wait)
                continue
            if response.status_code in ABOUT_THE_TEXT:
                raise _RefusedTextError(self._refusal(response))
            if response.status_code != 200:
                raise ModelError(self._refusal(response))
            return _answer(response)
        raise NoAnswerError(
            f"{self.url}: no answer in {ATTEMPTS} attempts ({problem}); is it running, and is the URL right?"
        )

    def _refusal(self, response: "httpx.Response") -> str:
        detail = " ".join(_detail(response).split())[:200]
        return (
            f"{self.url}: refuses to answer as {self.model!r} (status {response.status_code}"
            f"{': ' + detail if detail else ''}); check the URL, the model's name and OPENAI_API_KEY"
        )


def _client() -> "httpx.Client":
    import httpx

    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not (key.isascii() and key.isprintable()):
        raise InputError("OPENAI_API_KEY holds characters that no key has; set it again")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.Client(headers=headers, timeout=httpx.Timeout(TIMEOUT, connect=CONNECT_TIMEOUT))


def _json(response: "httpx.Response") -> Any:
    with suppress(ValueError, RecursionError):
        return response.json()
    return None


def _answer(response: "httpx.Response") -> Answer:
    said = _json(response)
    try:
        content = said["choices"][0]["message"]["content"] or ""  # null where a model says nothing
    except (TypeError, LookupError):
        return Answer(None, None)
    model = said.get("model")
    return Answer(content if isinstance(content, str) else "", model if isinstance(model, str) else None)


def _detail(response: "httpx.Response") -> str:
    """What an endpoint says of an error, in one of the usual forms."""
    said = _json(response)
    error = said.get("error", said) if isinstance(said, dict) else response.text
    if isinstance(error, dict):
        error = error.get("message", error)
    return str(error)


def _retry_after(header: str, otherwise: float) -> float:
    """Seconds to wait by a Retry-After header, seconds or a date, but not longer than `LONGEST_WAIT`."""
    seconds = otherwise
    if header.strip().isdecimal():
        seconds = float(header)
    elif header:
        with suppress(ValueError):
            date = parsedate_to_datetime(header)
            date = date if date.tzinfo else date.replace(tzinfo=timezone.utc)
            seconds = (date - datetime.now(timezone.utc)).total_seconds()
    return min(LONGEST_WAIT, max(0.0, seconds))


def _in_parallel(
    work: Callable[[int], Answer | NoAnswerError], n: int
) -> Iterator[tuple[int, Answer | NoAnswerError]]:
    """Do `work` for 0 to n - 1 on a few threads; yield (place, result) as they are done.

    The threads are daemons, for which nobody waits: Ctrl-C ends the program at once, not when the
    last request has timed out.
    """
    places: queue.SimpleQueue[int] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, Answer | NoAnswerError | BaseException]] = queue.SimpleQueue()
    stop = threading.Event()
    for place in range(n):
        places.put(place)

    def run() -> None:
        with suppress(queue.Empty):
            while not stop.is_set():
                place = places.get_nowait()
                try:
                    done.put((place, work(place)))
                except BaseException as error:  # raised where the results are read
                    done.put((place, error))

    for _ in range(min(WORKERS, n)):
        threading.Thread(target=run, daemon=True).start()
    try:
        for _ in range(n):
            place, result = done.get()
            if isinstance(result, BaseException) and not isinstance(result, NoAnswerError):
                raise result
            yield place, result
    finally:
        stop.set()
