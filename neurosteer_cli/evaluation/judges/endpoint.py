"""Ask a language model behind an OpenAI-compatible endpoint, patiently but not for ever.

Knows a base URL, retries and refusals; knows nothing of what is asked.
"""

import asyncio
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ...errors import InputError, ModelError
from .judge import Advance

if TYPE_CHECKING:
    import openai

RETRIES = 2  # after a first attempt
WORKERS = 4  # requests under way at once
GIVE_UP = 8  # questions without an answer in a row, after which no more are asked
TIMEOUT, CONNECT_TIMEOUT = 120.0, 10.0  # seconds
_ABOUT_THE_TEXT = (400, 413, 422)  # statuses that a text can bring about, by a content filter, say
_HEADER = re.compile(  # that a request needs; the client's others tell of this machine
    "host|accept.*|authorization|connection|content-.*|user-agent|x-stainless-retry-count"
)

_SPEC = re.compile(
    r"llm:"
    r"(?P<url>https?://(?:\[[0-9a-fA-F:.]+\]|[^/:\s\[\]?#]+)"  # scheme, and a host or an IPv6 address
    r"(?::\d+(?=[:/])|(?!:\d+(?:/|$)))"  # port; digits in its place are no model's name
    r"(?:/[^:\s?#]*)?)"  # path
    r":(?P<model>\S.*)"
)
_USER_IN_URL = re.compile(r"llm:https?://[^/:@]*(:[^/:@]+)?@")


class NoAnswerError(ModelError):
    """No answer came to one question, however often it was asked; another may fare better."""


@dataclass(frozen=True)
class Answer:
    """What came back."""

    content: str | None  # what the model said; None: the answer is no chat completion
    model: str | None  # what the endpoint says has answered
    is_reasoned: bool = False  # whether it thought aloud before


Reply = Answer | NoAnswerError


@dataclass(frozen=True)
class Endpoint:
    """A model at a base URL, such as http://127.0.0.1:8080/v1; the key is in OPENAI_API_KEY."""

    url: str
    model: str
    max_tokens: int = 512  # of an answer

    def ask(self, questions: Sequence[str], advance: Advance = lambda _n: None) -> list[Reply]:
        """Ask all, a few at once; the replies in order. Raised is what would befall any question."""
        import httpx2  # what the client is made of
        from anyio.from_thread import start_blocking_portal

        try:
            # a loop in a thread of its own, as a notebook's is taken; leaving it, by Ctrl-C too, cancels
            with start_blocking_portal() as portal:
                return portal.call(self._ask_all, questions, advance)
        except httpx2.InvalidURL as error:
            raise ModelError(f"{self.url}: not a URL that can be asked ({error})") from error

    async def _ask_all(self, questions: Sequence[str], advance: Advance) -> list[Reply]:
        free = asyncio.Semaphore(WORKERS)
        in_a_row = 0  # without an answer

        async def ask(question: str) -> Reply:
            nonlocal in_a_row
            reply: Reply = NoAnswerError(f"{self.url}: not asked, after {GIVE_UP} without an answer")
            async with free:
                if in_a_row < GIVE_UP:
                    reply = await self._ask(client, question)
            in_a_row = in_a_row + 1 if isinstance(reply, NoAnswerError) else 0
            advance(1)
            return reply

        async with _client(self.url) as client:
            tasks = [asyncio.create_task(ask(question)) for question in questions]
            try:
                return await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()

    async def _ask(self, client: "openai.AsyncOpenAI", question: str) -> Reply:
        """Ask one question, again if need be."""
        import openai

        try:
            completion: Any = await client.chat.completions.create(
                model=self.model,
                messages=[{"role": "user", "content": question}],
                temperature=0,
                max_tokens=self.max_tokens,
            )
        except openai.APIError as error:
            return self._no_answer(error)
        except (ValueError, RecursionError):  # it calls itself JSON and is none
            return Answer(None, None)
        try:
            message = completion.choices[0].message
            content = message.content if isinstance(message.content, str) else ""
        except (AttributeError, TypeError, LookupError):
            return Answer(None, None)
        thought = [getattr(message, name, None) for name in ("reasoning_content", "reasoning")]
        return Answer(content, completion.model, any(thought) or content.lstrip().startswith("<think>"))

    def _no_answer(self, error: "openai.APIError") -> NoAnswerError:
        """The client's error as one question's, raised where it is about them all."""
        status = getattr(error, "status_code", 0)  # 0: a timeout or a broken connection
        if status in (0, 429) or status >= 500:
            attempts = 1 + int(error.request.headers["x-stainless-retry-count"])
            cause = f"status {status}" if status else type(error.__cause__).__name__
            return NoAnswerError(
                f"{self.url}: no answer in {attempts} attempts ({cause}); "
                "is it running, and is the URL right?"
            )
        message = error.body.get("message", error.body) if isinstance(error.body, dict) else error.body
        detail = " ".join(str(message).split())[:200]
        refusal = (
            f"{self.url}: refuses to answer as {self.model!r} (status {status}"
            f"{': ' + detail if detail else ''}); check the URL, the model's name and OPENAI_API_KEY"
        )
        if status in _ABOUT_THE_TEXT:
            return NoAnswerError(refusal)
        raise ModelError(refusal) from error


def _client(url: str) -> "openai.AsyncOpenAI":
    import openai

    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not (key.isascii() and key.isprintable()):
        raise InputError("OPENAI_API_KEY holds characters that no key has; set it again")

    async def strip(request: Any) -> None:
        for name in list(request.headers):
            if not _HEADER.fullmatch(name) or (name == "authorization" and not key):
                del request.headers[name]

    return openai.AsyncOpenAI(
        base_url=url,
        api_key=key or "none",
        max_retries=RETRIES,
        timeout=openai.Timeout(TIMEOUT, connect=CONNECT_TIMEOUT),
        http_client=openai.DefaultAsyncHttpxClient(follow_redirects=False, event_hooks={"request": [strip]}),
    )


def parse_endpoint(spec: str) -> Endpoint:
    """Read `llm:URL:MODEL`; a URL's path has no colon, a model's name may have some.

    Raises:
        InputError: it is not of that form, or the URL has a user or password.
    """
    if _USER_IN_URL.match(spec):
        raise InputError("--judge llm: no user or password in the URL; put the key into OPENAI_API_KEY")
    with suppress(ValueError):  # urlsplit's: a port over 65535, or brackets around what is no address
        if (parsed := _SPEC.fullmatch(spec)) and urlsplit(parsed["url"]).port != 0:
            url = parsed["url"].rstrip("/").removesuffix("/chat/completions")
            return Endpoint(url, parsed["model"].strip())
    raise InputError(
        f"--judge {spec}: write llm:URL:MODEL, an OpenAI-compatible endpoint and a model it serves, "
        "such as llm:http://127.0.0.1:8080/v1:qwen2.5:7b"
    )
