"""Folders of the cache are made once, whole or not at all."""

from pathlib import Path

import pytest

from neurosteer_cli.models.wheels import cache_folder, made_once


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
