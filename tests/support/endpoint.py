"""A local OpenAI-compatible endpoint that answers as a test tells it."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Reply:
    """What the endpoint answers once."""

    content: str = '{"attribute": 2, "fluency": 1}'
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None  # in place of a chat completion
    seconds: float = 0.0  # until it answers


@dataclass
class Script:
    """Replies in turn, the last one again and again; and what was asked."""

    replies: list[Reply]
    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    headers: list[list[str]] = field(default_factory=list)  # their names
    paths: list[str] = field(default_factory=list)
    lock: Any = field(default_factory=threading.Lock)
    at_once: int = 0
    most_at_once: int = 0

    def next(self, handler: BaseHTTPRequestHandler) -> Reply:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self.lock:
            self.asked.append(body)
            self.keys.append(handler.headers.get("Authorization"))
            self.headers.append([name.lower() for name in handler.headers])
            self.paths.append(handler.path)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]

    def left(self) -> None:
        with self.lock:
            self.at_once -= 1


@contextmanager
def endpoint(*replies: Reply) -> Iterator[Script]:
    """Serve on a free port of this machine while the context is open."""
    script = Script(list(replies) or [Reply()])

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # noqa: N802
            reply = script.next(self)
            time.sleep(reply.seconds)
            message = {"message": {"role": "assistant", "content": reply.content}}
            body = reply.body
            if body is None:
                body = json.dumps({"model": "served-model", "choices": [message]})
            script.left()
            self.send_response(reply.status)
            for name, value in {**reply.headers, "Content-Length": str(len(body.encode()))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_args: Any) -> None:  # a client that did not wait
            pass

    server = Server(("127.0.0.1", 0), Handler)
    script.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
