"""What every request passes before anything reads it: the key, the kind of body, its size.

Knows ASGI only.
"""

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

SECONDS_FOR_A_BODY = 30.0
GUARDED = "/v1"  # paths that need the key, if there is one


def error_body(message: str, kind: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """An error as OpenAI's API tells it."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


class Gate:
    """Refuses by status and name: 401 no key, 403 another host, 415 not JSON, 413 too large, 408 too slow.

    A body is read whole, once.

    That a body must say it is JSON also keeps other sites' pages out: a browser sends such a body
    elsewhere only after asking for permission, which is not given.
    """

    def __init__(
        self, app: App, *, max_bytes: int, api_key: str | None, hosts: Sequence[str] | None = None
    ) -> None:
        """Guard an application.

        Args:
            hosts: names under which it may be asked for; None takes any. Another site's name can be made
                to lead here, and its pages would then be free to ask.
        """
        self.app, self.max_bytes, self.api_key, self.hosts = app, max_bytes, api_key, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        host = headers.get(b"host", b"").decode("latin-1")
        if self.hosts is not None and _without_port(host) not in self.hosts:
            message = f"host {host[:80]!r} is not served without an API key, only {', '.join(self.hosts)}"
            await _refuse(send, 403, message, "host_not_allowed")
            return
        if self.api_key is not None and scope["path"].startswith(GUARDED):
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, b"Bearer " + self.api_key.encode()):
                await _refuse(
                    send, 401, "a valid API key is needed: Authorization: Bearer KEY", "invalid_api_key"
                )
                return
        if scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        if headers.get(b"content-type", b"").split(b";")[0].strip().lower() != b"application/json":
            await _refuse(
                send, 415, "send JSON, with Content-Type: application/json", "unsupported_media_type"
            )
            return
        try:
            body = await asyncio.wait_for(self._body(headers, receive), SECONDS_FOR_A_BODY)
        except asyncio.TimeoutError:
            await _refuse(send, 408, "the request's body did not come", "request_timeout")
            return
        if body is None:
            message = f"the request is larger than {self.max_bytes} bytes"
            await _refuse(send, 413, message, "request_too_large")
            return
        await self.app(scope, _replayed(body, receive), send)

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes | None:
        """The body; None if it is too large, or its sender is gone."""
        said = headers.get(b"content-length", b"")
        if said.isdigit() and int(said[:19]) > self.max_bytes:
            return None
        body = bytearray()
        while True:
            message = await receive()
            body += message.get("body", b"")
            if message["type"] != "http.request" or len(body) > self.max_bytes:
                return None
            if not message.get("more_body"):
                return bytes(body)


def _without_port(host: str) -> str:
    """`127.0.0.1:8000` and `[::1]:8000` without what follows the last colon."""
    name, _, port = host.rpartition(":")
    return (name if name and port.isdigit() else host).strip("[]").lower()


def _replayed(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> MutableMapping[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _refuse(send: Send, status: int, message: str, code: str) -> None:
    body = json.dumps(error_body(message, "invalid_request_error", code=code)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status in (408, 413):
        headers.append((b"connection", b"close"))  # the rest of the body is not read
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
