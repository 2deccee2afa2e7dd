"""neurosteer serve and demo as commands: what they refuse, what they say, how they end."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import torch
from support.serving import events
from support.tiny import D_MODEL, tiny_vector

import neurosteer_cli
from neurosteer_cli.commands.serving import server as serving
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint


@pytest.fixture
def vectors(engine: Engine, tmp_path: Path) -> Path:
    """A folder with the vector `up`."""
    folder = tmp_path / "vectors"
    folder.mkdir()
    tiny_vector(engine.shape, {HookPoint(1): torch.ones(D_MODEL)}).save(folder / "up.st")
    return folder


def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "neurosteer_cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


class Server(subprocess.Popen[str]):
    """A process, and the lines it said before its address."""

    said: list[str]


@contextmanager
def started(*arguments: object) -> Iterator[tuple[str, Server]]:
    """The address it tells, and the process."""
    command = [sys.executable, "-m", "neurosteer_cli", *map(str, arguments)]
    process = Server(command, stderr=subprocess.PIPE, text=True)
    process.said = []
    try:
        assert process.stderr is not None
        for line in process.stderr:
            process.said.append(line)
            if found := re.search(r"on (http://127\.0\.0\.1:\d+)", line):
                yield found[1], process
                break
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_a_folder_of_vectors_until_it_is_told_to_stop(
    vectors: Path, tiny_folder: Path, number: signal.Signals
) -> None:
    with started("serve", "--vectors", vectors, "--model", tiny_folder, "--port", 0) as (address, process):
        models = httpx.get(f"{address}/v1/models").json()["data"]
        assert [model["id"] for model in models] == ["tiny", "tiny+up:8"]
        body = {"model": "tiny+up:8", "prompt": "x", "max_tokens": 3}
        assert httpx.post(f"{address}/v1/completions", json=body).status_code == 200
        process.send_signal(number)
        assert process.wait(20) == 0
        assert process.stderr is not None
        *requests, last = process.stderr.read().splitlines()
    assert last == "stopped"
    for line, route in zip(requests, ("GET /v1/models 200", "POST /v1/completions 200"), strict=True):
        assert re.match(rf"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d 127\.0\.0\.1:\d+ {route}, \d\.\d\d s", line)


@contextmanager
def streaming(*arguments: object) -> Iterator[tuple[Iterator[str], "subprocess.Popen[str]"]]:
    """A stream's lines, of which the first has come, of texts that take long; and the server's process."""
    with started("serve", *arguments, "--port", 0, "--no-log") as (address, process):
        body = {"prompt": "x", "max_tokens": 1000, "stream": True, "n": 16, "logit_bias": {"257": -100}}
        with httpx.stream("POST", f"{address}/v1/completions", json=body, timeout=60) as answer:
            lines = answer.iter_lines()
            next(lines)
            yield lines, process


def test_a_second_ctrl_c_ends_it_at_once_and_quietly(vectors: Path, tiny_folder: Path) -> None:
    arguments = ("--vectors", vectors, "--model", long_context(tiny_folder))
    with streaming(*arguments) as (_, process):
        assert process.stderr is not None
        process.send_signal(signal.SIGINT)
        line = process.stderr.readline()
        assert line == "finishing what runs, for up to 30 s; Ctrl-C again ends it at once\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == 130
        assert process.stderr.read() == "interrupted\n"


def test_what_cannot_be_finished_in_time_is_given_as_far_as_it_is(vectors: Path, tiny_folder: Path) -> None:
    arguments = ("--vectors", vectors, "--model", long_context(tiny_folder), "--shutdown-time", 0.5)
    with streaming(*arguments) as (lines, process):
        process.send_signal(signal.SIGTERM)
        streamed = "\n".join(lines)
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert process.stderr.read().splitlines()[-1] == "stopped"
    choices = [choice for event in events(streamed) for choice in event["choices"] if choice["finish_reason"]]
    assert len(choices) == 16
    assert {"name": "shutdown", "seconds": 0.5} in [choice.get("limit") for choice in choices]


def long_context(folder: Path) -> Path:
    """The tiny model, with a context that takes it a while to fill."""
    longer = folder.with_name("longer")
    if not longer.exists():
        shutil.copytree(folder, longer)
        config = json.loads((longer / "config.json").read_text())
        (longer / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    return longer


def test_files_that_cannot_be_served_are_named_and_left_out(vectors: Path, tiny_folder: Path) -> None:
    (vectors / "bad.st").write_bytes(b"")
    shutil.copy(vectors / "up.st", vectors / "very up.st")
    files = sorted(vectors.glob("*.st"))
    for arguments in (("--vectors", vectors), (vectors,), files, ("--vectors", *files)):
        with started("serve", *arguments, "--model", tiny_folder, "--port", 0) as (address, process):
            served = [card["id"] for card in httpx.get(f"{address}/v1/vectors").json()["data"]]
            assert served == ["up", "very-up"]
            assert process.said[0].startswith(f"{vectors}/bad.st: ")
            assert process.said[0].endswith("; it is left out\n")
            assert process.said[1] == f"{vectors}/very up.st is served as very-up\n"


def test_of_vectors_of_several_models_one_model_is_to_be_named(
    vectors: Path, tiny_folder: Path, engine: Engine
) -> None:
    other = engine.shape.model_copy(update={"d_model": 8})
    tiny_vector(other, {HookPoint(1): torch.ones(8)}, model_id="other").save(vectors / "down.st")
    found = run("serve", vectors, "--port", "0")
    assert found.returncode == 2
    assert f"down.st of 'other', {vectors}/up.st of 'tiny'; name one of them by --model" in found.stderr
    with started("serve", vectors, "--model", tiny_folder, "--port", 0) as (address, process):
        assert [card["id"] for card in httpx.get(f"{address}/v1/vectors").json()["data"]] == ["up"]
        assert "down.st was fitted on 'other'" in process.said[0]
    found = run("serve", vectors / "down.st", "--model", tiny_folder, "--port", "0")
    assert found.returncode == 1
    assert "error: none of the vectors that were named can be served" in found.stderr


def test_the_demo_is_the_page_and_its_server(vectors: Path, tiny_folder: Path) -> None:
    arguments = ("demo", "--vectors", vectors, "--model", tiny_folder, "--port", 0, "--no-browser")
    with started(*arguments) as (address, process):
        page = httpx.get(address)
        assert page.headers["content-type"].startswith("text/html")
        assert "<title>One prompt, written several ways – neurosteer</title>" in page.text
        assert httpx.get(f"{address}/v1/vectors").json()["can_fit"] is True
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--port", 70000), 2, "error: --port must be between 0 and 65535, got 70000"),
        (("--max-batch", 0), 2, "error: --max-batch must be a finite number above 0, got 0"),
        (("--time-limit", "nan"), 2, "error: --time-limit must be a finite number above 0, got nan"),
        (("--max-request", "much"), 2, "error: --max-request much: not a count such as 3M, 500k or 20000"),
        (("--api-key", ""), 2, "error: --api-key must be printable ASCII, at least one character"),
        (("--vectors", "nowhere.st"), 2, "error: nowhere.st: no such file; `neurosteer fit` writes one"),
        (("--vectors", "{empty}"), 2, "no .st file in this folder; `neurosteer fit` writes one"),
        (("--log-texts", "--no-log"), 2, "error: --log-texts says what to log; leave out --no-log"),
        (("--allow-origin", "localhost:3000"), 2, "give scheme and host, as http://localhost:3000, or *"),
        (("--allow-origin", "http://a/b"), 2, "error: --allow-origin http://a/b: give scheme and host"),
        (("--host", "256.1.1.1"), 1, "error: cannot listen on 256.1.1.1:0"),
    ],
)
def test_wrong_options_are_refused_by_name(
    tiny_folder: Path, tmp_path: Path, arguments: tuple[object, ...], code: int, message: str
) -> None:
    (empty := tmp_path / "empty").mkdir()
    given = [str(argument).format(empty=empty) for argument in arguments]
    port = () if "--port" in given else ("--port", 0)
    found = run("serve", "--model", tiny_folder, *port, *given)
    assert found.returncode == code
    assert message in found.stderr
    assert found.stdout == ""


def test_a_port_that_is_taken_is_named(vectors: Path, tiny_folder: Path) -> None:
    with started("serve", "--vectors", vectors, "--model", tiny_folder, "--port", 0) as (address, _):
        port = address.rsplit(":", 1)[1]
        found = run("serve", "--model", tiny_folder, "--port", port)
    assert found.returncode == 1
    assert f"error: cannot listen on 127.0.0.1:{port} (Address already in use)" in found.stderr


def test_without_its_libraries_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from neurosteer_cli.errors import NeurosteerError

    monkeypatch.setattr(serving, "NEEDED", (*serving.NEEDED, "no_such_library"))
    with pytest.raises(NeurosteerError, match=r"needs no_such_library: .* 'neurosteer\[serve\]'"):
        serving.check_installed()


def test_the_vectors_that_come_along_fit_the_embedded_default() -> None:
    from neurosteer_cli.saes.load import load_sae
    from neurosteer_cli.vectors.vector import SteeringVector

    files = sorted((Path(neurosteer_cli.__file__).parent / "vectors" / "bundled").glob("*.st"))
    assert [file.stem for file in files] == ["happy", "polite"]
    for file in files:
        metadata = SteeringVector.load(file).metadata
        assert metadata.model_id == "smollm2"
        for point, measured in metadata.points.items():
            assert measured.sae is not None
            layer = HookPoint.parse(point).layer
            assert measured.sae.sha256 == load_sae("bundled", model_id="smollm2", layer=layer).sha256
    assert os.path.getsize(files[0]) < 50_000
