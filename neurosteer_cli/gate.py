"""What every request passes before anything reads it: the key, the kind of body, its size.

Knows ASGI only.
"""

import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

GUARDED = "/v1"  # paths that need the key, if there is one


def error_body(message: str, kind: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """An error as OpenAI's API tells it."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


class Gate:
    """Refuses by status and name: 401 no key, 415 not JSON, 413 too large. A body is read whole, once.

    That a body must say it is JSON also keeps other sites' pages out: a browser sends such a body
    elsewhere only after asking for permission, which is not given.
    """

    def __init__(self, app: App, *, max_bytes: int, api_key: str | None) -> None:
        self.app, self.max_bytes, self.api_key = app, max_bytes, api_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
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
        body = await self._body(headers, receive)
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
    if status == 413:
        headers.append((b"connection", b"close"))  # the rest of the body is not read
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
