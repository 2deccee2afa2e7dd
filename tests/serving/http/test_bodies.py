"""Requests in every form that HTTP and JSON allow, on a bare connection."""

import json
import socket

import pytest

from neurosteer_cli.serving.completions import Completions

ASKED = {"model": "tiny", "prompt": "é", "max_tokens": 3, "temperature": 0}
TEXT = json.dumps(ASKED, ensure_ascii=False)
PLAIN = TEXT.encode()
POST, TYPED = "POST /v1/completions HTTP/1.1", "Content-Type: application/json"


def asked(address: str, start: str, *headers: str, body: bytes) -> tuple[int, bytes]:
    """The last status and the body that a request gets."""
    host, port = address.removeprefix("http://").split(":")
    lines = [start, f"Host: {host}", "Connection: close", *headers, "", ""]
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall("\r\n".join(lines).encode() + body)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    *_, head, content = answer.split(b"\r\n\r\n", answer.count(b"HTTP/1.1 "))
    return int(head.split()[1]), content


def length(body: bytes) -> str:
    return f"Content-Length: {len(body)}"


def chunked(body: bytes) -> bytes:
    return b"".join(b"1\r\n" + bytes([byte]) + b"\r\n" for byte in body) + b"0\r\n\r\n"


@pytest.mark.parametrize(
    ("start", "headers", "body"),
    [
        (POST, [TYPED, length(PLAIN)], PLAIN),
        (POST.replace("1.1", "1.0"), [TYPED, length(PLAIN)], PLAIN),
        (POST, [TYPED, "Transfer-Encoding: chunked"], chunked(PLAIN)),
        (POST, [TYPED, length(PLAIN), "Expect: 100-continue"], PLAIN),
        (POST, ["Content-Type: Application/JSON; charset=utf-8", length(PLAIN)], PLAIN),
        (POST, [TYPED, length(b"\xef\xbb\xbf" + PLAIN)], b"\xef\xbb\xbf" + PLAIN),
        (POST, [TYPED, length(TEXT.encode("utf-16"))], TEXT.encode("utf-16")),
        (POST, [TYPED, length(json.dumps(ASKED).encode())], json.dumps(ASKED).encode()),
        (POST, [TYPED, length(b'{"model": "other", ' + PLAIN[1:])], b'{"model": "other", ' + PLAIN[1:]),
    ],
)  # fmt: skip
def test_the_same_request_gets_the_same_text_in_every_form(
    server: tuple[str, Completions], start: str, headers: list[str], body: bytes
) -> None:
    _, expected = asked(server[0], POST, TYPED, length(PLAIN), body=PLAIN)
    status, content = asked(server[0], start, *headers, body=body)
    assert status == 200
    assert json.loads(content)["choices"] == json.loads(expected)["choices"]
    assert json.loads(content)["usage"]["prompt_tokens"] == 2


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "send a JSON object"),
        (b"[]", "send a JSON object"),
        (b'"x"', "send a JSON object"),
        (b"{", "the body is not JSON: Expecting property name enclosed in double quotes, at character 1"),
        (b'{"prompt": "x",}', "the body is not JSON: "),
        (b"[" * 100_000, "the body cannot be read as JSON"),
        (b'{"prompt": "x", "seed": ' + b"9" * 5000 + b"}", "the body cannot be read as JSON"),
        (b'{"prompt": "x", "temperature": 1e400}', "temperature: must be a finite number, got inf"),
        (b'{"prompt": "x", "temperature": NaN}', "temperature: must be a finite number, got nan"),
        (b'{"prompt": "\\ud800"}', "the body holds \\ud800 alone, "),
        (b"\xff\xfe", "the body"),
    ],
)
def test_what_is_no_request_is_told_why(server: tuple[str, Completions], body: bytes, message: str) -> None:
    status, content = asked(server[0], POST, TYPED, length(body), body=body)
    assert status == 400
    assert message in json.loads(content)["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("chat/completions", b'{"messages": [{"role": "user", "content": "\\ud83d"}]}'),
        ("chat/completions", b'{"messages": [{"role": "user", "content": "\xed\xa0\xbd"}]}'),
        ("chat/completions", '{"messages": [{"role": "user", "content": "\\uDE00"}]}'.encode("utf-16")),
        ("responses", b'{"input": "x", "metadata": {"a": "\\ude00\\ud83d"}}'),
    ],
)
def test_half_of_a_surrogate_pair_is_refused_wherever_it_stands(
    server: tuple[str, Completions], path: str, body: bytes
) -> None:
    start = f"POST /v1/{path} HTTP/1.1"
    status, content = asked(server[0], start, TYPED, length(body), body=body)
    assert status == 400
    assert "half of a surrogate pair" in json.loads(content)["error"]["message"]


@pytest.mark.parametrize("text", [b"\\ud83d\\ude00", b"\\\\ud83d", "😀".encode()])
def test_whole_pairs_and_backslashes_are_text(server: tuple[str, Completions], text: bytes) -> None:
    body = b'{"max_tokens": 1, "messages": [{"role": "user", "content": "%b"}]}' % text
    status, _ = asked(server[0], "POST /v1/chat/completions HTTP/1.1", TYPED, length(body), body=body)
    assert status == 200
