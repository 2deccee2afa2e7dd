"""Vectors fitted while the server runs."""

import base64
import gzip
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from support.serving import PLAIN, counted, post, served

from neurosteer_cli.models.engine import Engine
from neurosteer_cli.serving.scheduler import Scheduler
from neurosteer_cli.vectors.vector import SteeringVector

TEXTS = [f"{'b' * 60} {n}" for n in range(300)]
LONG: dict[str, Any] = {
    "name": "ab", "method": "diffmean", "positive": TEXTS, "negative": [f"{text} z" for text in TEXTS]
}  # fmt: skip


def test_a_vector_is_fitted_used_and_sent(
    engine: Engine, vectors: dict[str, SteeringVector], tmp_path: Path
) -> None:
    form = {
        "name": "ab", "method": "diffmean",
        "positive": [f"aaa bbb aab {'ab' * n} number {n}" for n in range(20)],
        "negative": [f"zzz yyy zzy {'zy' * n} number {n}" for n in range(20)],
    }  # fmt: skip
    with served(engine, vectors, fitting=True) as (address, completions):
        found = post(address, "/v1/vectors", form).json()
        assert (found["id"], found["towards"], found["away"], found["n_texts"]) == ("ab", "ab", "not-ab", 40)
        assert found["warnings"]
        plain, steered = (
            post(
                address, "/v1/completions", {**PLAIN, "max_tokens": 9, "temperature": 0, "steering": steering}
            )
            for steering in ({}, {"ab": 90})
        )
        assert plain.json()["choices"][0]["text"] != steered.json()["choices"][0]["text"]
        file = tmp_path / "ab.st"
        file.write_bytes(httpx.get(f"{address}/v1/vectors/ab/file").content)
        loaded, own = SteeringVector.load(file), completions.registry["ab"]
        assert loaded.metadata == own.metadata
        assert all(torch.equal(loaded.pushes[point], push) for point, push in own.pushes.items())
        again = post(address, "/v1/vectors", form)
        assert (again.status_code, "already" in again.json()["error"]["message"]) == (400, True)
        for changes, message in (
            ({"name": "../x"}, "name: must be 1 to 64 letters, digits"),
            ({"name": "few", "positive": ["a", "b"]}, "2 distinct texts; at least 8 a side are needed"),
            ({"name": "same", "negative": form["positive"]}, "this text stands on both sides"),
            ({"name": "sae", "method": "neurosteer"}, "bundled"),
        ):
            refused = post(address, "/v1/vectors", {**form, **changes})
            assert refused.status_code == 400
            assert message in refused.json()["error"]["message"]
        blank = post(address, "/v1/vectors", {**form, "name": "blank", "positive": [" "] * 9})
        assert blank.json()["error"]["message"].startswith("blank.jsonl:1: ")
        assert httpx.get(f"{address}/v1/vectors/nothing/file").status_code == 404


def test_texts_are_written_while_a_vector_is_fitted_and_no_two_vectors_at_once(
    engine: Engine, vectors: dict[str, SteeringVector], monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    yield_to_batch, begun = Scheduler.yield_to_batch, threading.Event()

    def noted(scheduler: Scheduler) -> None:
        begun.set()
        time.sleep(0.5)
        before = sum(n_tokens)
        yield_to_batch(scheduler)
        written.append(sum(n_tokens) - before)

    n_tokens = counted(monkeypatch)
    monkeypatch.setattr(Scheduler, "yield_to_batch", noted)
    form = {
        "method": "diffmean", "positive": [f"aaa {'b' * 30} {n}" for n in range(40)],
        "negative": [f"zzz {'y' * 30} {n}" for n in range(40)],
    }  # fmt: skip
    with served(engine, vectors, fitting=True) as (address, _), ThreadPoolExecutor(2) as pool:
        fitted = pool.submit(post, address, "/v1/vectors", {**form, "name": "one"})
        assert begun.wait(10)
        other = post(address, "/v1/vectors", {**form, "name": "two"})
        assert (other.status_code, "another vector" in other.text) == (429, True)
        assert post(address, "/v1/completions", {**PLAIN, "max_tokens": 3, "temperature": 0}).is_success
        assert fitted.result().status_code == 200
    assert sum(written) > 0


def slow_fits(patch: pytest.MonkeyPatch) -> None:
    """Have every pause of a fit take a while."""
    yield_to_batch = Scheduler.yield_to_batch

    def slowly(scheduler: Scheduler) -> None:
        time.sleep(0.3)
        yield_to_batch(scheduler)

    patch.setattr(Scheduler, "yield_to_batch", slowly)


def test_a_fit_ends_when_its_client_leaves(
    engine: Engine, vectors: dict[str, SteeringVector], monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(engine, vectors, fitting=True) as (address, completions):
        with monkeypatch.context() as patch:
            slow_fits(patch)
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{address}/v1/vectors", json=LONG, timeout=0.5)
            time.sleep(1.2)  # till that is seen, and the batch at hand is read
        few = {**LONG, "positive": LONG["positive"][:20], "negative": LONG["negative"][:20]}
        again = post(address, "/v1/vectors", few)  # neither busy nor is the name taken
        assert (again.status_code, again.json().get("n_texts")) == (200, 40)
        assert len(completions.registry) == 3


def test_a_fit_ends_when_the_server_does(
    engine: Engine, vectors: dict[str, SteeringVector], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_fits(monkeypatch)
    with ThreadPoolExecutor(1) as pool, served(engine, vectors, fitting=True) as (address, completions):
        fitted = pool.submit(post, address, "/v1/vectors", LONG)
        time.sleep(0.5)
        start = time.monotonic()
        completions.scheduler.close(0.1)
        assert time.monotonic() - start < 3
        assert fitted.result().status_code == 503


def test_how_far_a_fit_is_is_told(
    engine: Engine, vectors: dict[str, SteeringVector], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, Any]] = []
    yield_to_batch = Scheduler.yield_to_batch

    def noted(scheduler: Scheduler) -> None:
        told.append(httpx.get(f"{address}/v1/fitting").json())
        yield_to_batch(scheduler)

    monkeypatch.setattr(Scheduler, "yield_to_batch", noted)
    with served(engine, vectors, fitting=True) as (address, _):
        assert httpx.get(f"{address}/v1/fitting").json() == {}
        form = {**LONG, "positive": TEXTS[:40], "negative": LONG["negative"][:40]}
        assert post(address, "/v1/vectors", form).is_success
        assert httpx.get(f"{address}/v1/fitting").json() == {}
    assert {(one["name"], one["n_texts"]) for one in told} == {("ab", 80)}
    read = [one["n_read"] for one in told]
    assert read == sorted(read)
    assert read[-1] == 80


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b'{"text": "one"}\n{"text": "two"}\n'),
        ("a.csv", b"text,stars\none,1\ntwo,2\n"),
        ("a.txt", b"one\ntwo\n"),
        ("a.json.gz", gzip.compress(b'[{"text": "one"}, {"text": "two"}]')),
    ],
)
def test_texts_are_read_out_of_files_and_fitted(
    engine: Engine, vectors: dict[str, SteeringVector], name: str, content: bytes
) -> None:
    with served(engine, vectors, fitting=True) as (address, _):
        form = {"name": name, "content": base64.b64encode(content).decode()}
        found = post(address, "/v1/texts", form).json()
        assert [record["text"] for record in found["records"]] == ["one", "two"]


def test_records_are_fitted_as_texts_are(engine: Engine, vectors: dict[str, SteeringVector]) -> None:
    few = {**LONG, "positive": [{"text": text} for text in TEXTS[:10]], "negative": LONG["negative"][:10]}
    with served(engine, vectors, fitting=True) as (address, _):
        assert post(address, "/v1/vectors", few).json()["n_texts"] == 20


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("AA=A", "content: not base64"),
        (base64.b64encode(b'{"text": 3}\n').decode(), "a.jsonl:1: 'text' must be a string"),
        (base64.b64encode(b'{"text": "x"}\n{"other": "x"}\n').decode(), "a.jsonl:2: no 'text'"),
        ("", "a.jsonl: no records"),
    ],
)
def test_a_file_that_holds_no_texts_is_refused_by_its_line(
    engine: Engine, vectors: dict[str, SteeringVector], content: str, message: str
) -> None:
    with served(engine, vectors, fitting=True) as (address, _):
        refused = post(address, "/v1/texts", {"name": "a.jsonl", "content": content})
        assert refused.status_code == 400
        assert refused.json()["error"]["message"].startswith(message)
