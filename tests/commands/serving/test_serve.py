"""neurosteer serve and demo as commands: what they refuse, what they say, how they end."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import torch
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


@contextmanager
def started(*arguments: object) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """The address it tells, and the process."""
    command = [sys.executable, "-m", "neurosteer_cli", *map(str, arguments)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        for line in process.stderr:
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
        assert httpx.get(address).status_code == 404  # no page
        process.send_signal(number)
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert process.stderr.read() == "stopped\n"


def test_the_demo_is_the_page_and_its_server(vectors: Path, tiny_folder: Path) -> None:
    arguments = ("demo", "--vectors", vectors, "--model", tiny_folder, "--port", 0, "--no-browser")
    with started(*arguments) as (address, process):
        page = httpx.get(address)
        assert page.headers["content-type"].startswith("text/html")
        assert "<title>neurosteer</title>" in page.text
        assert httpx.get(f"{address}/v1/vectors").json()["can_fit"] is True
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_the_page_asks_for_nothing_from_elsewhere() -> None:
    page = (Path(neurosteer_cli.__file__).parent / "serving" / "demo.html").read_text()
    assert re.findall(r"""(?:src|href)=["'](?!data:)[^"']+|https?://[^"'\s]+""", page) == []


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
        (("--vectors", "{named}"), 2, "'a b' cannot be a vector's name"),
        (("--host", "256.1.1.1"), 1, "error: cannot listen on 256.1.1.1:0"),
    ],
)
def test_wrong_options_are_refused_by_name(
    vectors: Path, tiny_folder: Path, tmp_path: Path, arguments: tuple[object, ...], code: int, message: str
) -> None:
    empty, named = tmp_path / "empty", tmp_path / "named"
    empty.mkdir()
    named.mkdir()
    (named / "a b.st").write_bytes((vectors / "up.st").read_bytes())
    given = [str(argument).format(empty=empty, named=named) for argument in arguments]
    found = run("serve", "--model", tiny_folder, "--port", 0, *given)
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
    from neurosteer_cli.serving.registry import vector_files
    from neurosteer_cli.vectors.vector import SteeringVector

    files = vector_files([Path(neurosteer_cli.__file__).parent / "vectors" / "bundled"])
    assert [file.stem for file in files] == ["happy", "polite"]
    for file in files:
        metadata = SteeringVector.load(file).metadata
        assert metadata.model_id == "smollm2"
        for point, measured in metadata.points.items():
            assert measured.sae is not None
            layer = HookPoint.parse(point).layer
            assert measured.sae.sha256 == load_sae("bundled", model_id="smollm2", layer=layer).sha256
    assert os.path.getsize(files[0]) < 50_000
