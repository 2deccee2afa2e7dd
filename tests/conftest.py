"""Fixtures shared by the tests. Everything but tests marked `real` runs on tiny random models."""

import json
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from support.tiny import save_tiny, save_tiny_sae

from neurosteer_cli.models.engine import Engine

ALL_THREADS = torch.get_num_threads()


@pytest.fixture(autouse=True)
def _threads(request: pytest.FixtureRequest) -> None:
    """One thread for tiny tensors, which threads only wait for one another over."""
    real = request.node.get_closest_marker("real")
    torch.set_num_threads(ALL_THREADS if real else 1)


@pytest.fixture(autouse=True)
def _interrupts() -> Iterator[None]:
    """Have Ctrl-C raise: a command interrupted in this process, or a shell, may have it ignored."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint folder of a tiny Llama, named `tiny`."""
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_sae_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TopK SAE for the tiny Llama's block 2."""
    return save_tiny_sae(tmp_path_factory.mktemp("saes") / "sae")


@pytest.fixture(scope="session")
def engine(tiny_folder: Path) -> Engine:
    """The tiny Llama, loaded whole."""
    return Engine.load(str(tiny_folder), device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def endless_engines(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Engine]:
    """A tiny model of each family, none of whose tokens ends a text."""

    @cache
    def engine(family: str) -> Engine:
        folder = save_tiny(tmp_path_factory.mktemp("models") / family, family)
        return replace(Engine.load(str(folder), device="cpu", dtype="float32"), stop_ids=frozenset())

    return engine


@pytest.fixture
def write_texts(tmp_path: Path) -> Callable[[str, list[str]], Path]:
    """Write texts as JSONL into the test's folder."""

    def write(name: str, texts: list[str]) -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        return path

    return write


@pytest.fixture
def two_sides(write_texts: Callable[[str, list[str]], Path]) -> tuple[Path, Path]:
    """Twenty texts a side that a byte-level model can tell apart."""
    return (
        write_texts("up.jsonl", [f"aaa bbb aab {'ab' * n} number {n}" for n in range(20)]),
        write_texts("down.jsonl", [f"zzz yyy zzy {'zy' * n} number {n}" for n in range(20)]),
    )
