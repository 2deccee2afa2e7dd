"""Vectors that follow their files: come, change, go, or are left out."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import torch
from support.live import running
from support.serving import post, wait_for, written
from support.tiny import D_MODEL, tiny_vector

from neurosteer_cli.errors import InputError
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.serving import app
from neurosteer_cli.serving.completions import Completions, Limits
from neurosteer_cli.serving.registry import VectorRegistry
from neurosteer_cli.serving.scheduler import Scheduler
from neurosteer_cli.serving.vector_files import VectorFiles
from neurosteer_cli.vectors.vector import SteeringVector


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "vectors"
    folder.mkdir()
    return folder


@pytest.fixture
def make(engine: Engine) -> Callable[[float], SteeringVector]:
    def vector(length: float) -> SteeringVector:
        return tiny_vector(engine.shape, {HookPoint(1): torch.linspace(-length, length, D_MODEL)})

    return vector


class Followed:
    """A registry that follows files, a look at a time."""

    def __init__(self, engine: Engine, *paths: Path) -> None:
        self.said: list[str] = []
        self.files = VectorFiles(paths, self.said.append)
        self.registry = VectorRegistry(engine.shape, "tiny")
        self.files.apply(self.files.first(), self.registry)

    def look(self, times: int = 2) -> list[str]:
        """What is said at some looks; a change is taken at the second after it."""
        self.said.clear()
        for _ in range(times):
            self.files.apply(self.files.look(), self.registry)
        return self.said

    def length(self, name: str) -> float:
        return float(self.registry[name].pushes[HookPoint(1)].max())


def test_new_files_come_changed_ones_are_read_again_and_removed_ones_go(
    engine: Engine, folder: Path, make: Callable[[float], SteeringVector]
) -> None:
    make(1).save(folder / "a.st")
    followed = Followed(engine, folder)
    assert (sorted(followed.registry), followed.said) == (["a"], [])
    assert followed.look() == []
    make(2).save(folder / "b.st")
    make(3).save(folder / "a.st")
    assert followed.look(1) == []  # they might still be on their way
    assert followed.look(1) == [f"{folder}/a.st has changed, and was read again"]
    assert (followed.length("a"), followed.length("b")) == (3, 2)
    (folder / "a.st").unlink()
    assert followed.look() == [f"{folder}/a.st is gone, and a with it"]
    assert sorted(followed.registry) == ["b"]
    (folder / "b.st").rename(folder / "c.st")
    followed.look()
    assert sorted(followed.registry) == ["c"]


def test_a_damaged_version_is_named_once_and_the_one_before_kept(
    engine: Engine, folder: Path, make: Callable[[float], SteeringVector]
) -> None:
    file = folder / "a.st"
    make(1).save(file)
    followed = Followed(engine, folder)
    whole = file.read_bytes()
    file.write_bytes(whole[:-9])
    (said,) = followed.look(4)
    assert said.startswith(f"{file}: damaged, or not a vector file") and said.endswith(
        "the one before it is kept"
    )
    assert followed.length("a") == 1
    make(2).save(file)
    followed.look()
    assert followed.length("a") == 2


def test_what_cannot_be_served_is_left_out_and_taken_in_once_it_can(
    engine: Engine, folder: Path, make: Callable[[float], SteeringVector]
) -> None:
    make(1).save(folder / "good.st")
    make(1).save(folder / "+.st")
    (folder / "empty.st").write_bytes(b"")
    (folder / "text.st").write_text("no vector\n" * 9)
    other = engine.shape.model_copy(update={"d_model": 8})
    tiny_vector(other, {HookPoint(1): torch.ones(8)}, model_id="other").save(folder / "other.st")
    followed = Followed(engine, folder)
    assert sorted(followed.registry) == ["good"]
    assert len(followed.said) == 4
    assert all(said.startswith(f"{folder}/") and said.endswith("; it is left out") for said in followed.said)
    make(1).save(folder / "empty.st")
    assert followed.look() == []
    assert sorted(followed.registry) == ["empty", "good"]


def test_a_file_copied_in_slowly_is_read_when_it_is_whole(
    engine: Engine, folder: Path, tmp_path: Path, make: Callable[[float], SteeringVector]
) -> None:
    make(1).save(folder / "a.st")
    make(2).save(tmp_path / "b.st")
    followed, whole = Followed(engine, folder), (tmp_path / "b.st").read_bytes()
    for end in range(100, len(whole) + 100, 100):
        with (folder / "b.st").open("wb") as file:
            file.write(whole[:end])
        assert followed.look(1) == []
    assert followed.look(1) == []
    assert sorted(followed.registry) == ["a", "b"]


def test_a_folder_that_is_away_for_a_moment_takes_nothing_along(
    engine: Engine, folder: Path, make: Callable[[float], SteeringVector]
) -> None:
    make(1).save(folder / "a.st")
    alone = folder / "a.st"
    for paths in ((folder,), (alone,)):
        followed = Followed(engine, *paths)
        away = folder.rename(folder.with_name("away"))
        assert followed.look() == []
        away.rename(folder)
        assert followed.look() == []
        assert sorted(followed.registry) == ["a"]


def test_files_named_twice_are_read_once_and_two_of_one_name_told(
    engine: Engine, folder: Path, tmp_path: Path, make: Callable[[float], SteeringVector]
) -> None:
    make(1).save(folder / "a.st")
    (tmp_path / "more").mkdir()
    shutil.copy(folder / "a.st", tmp_path / "more" / "a.st")
    followed = Followed(engine, folder, folder / "a.st", tmp_path / "more")
    assert sorted(followed.registry) == ["a"]
    (said,) = followed.said
    assert f"{tmp_path}/more/a.st: there is a vector named 'a' already" in said


def test_what_is_no_file_is_passed_by(
    engine: Engine, folder: Path, make: Callable[[float], SteeringVector]
) -> None:
    make(1).save(folder / "a.st")
    os.mkfifo(folder / "b.st")
    (folder / "c.st").mkdir()
    followed = Followed(engine, folder)
    assert sorted(followed.registry) == ["a"]


def test_what_is_not_there_is_refused(engine: Engine, folder: Path) -> None:
    for path, message in ((folder, "no .st file in this folder"), (folder / "a.st", "no such file")):
        with pytest.raises(InputError, match=message):
            Followed(engine, path)


def test_a_server_follows_and_a_request_under_way_keeps_its_vector(
    engine: Engine, folder: Path, make: Callable[[float], SteeringVector], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "SECONDS_BETWEEN_LOOKS", 0.05)
    before, after = make(5), make(-5)
    before.save(folder / "a.st")
    followed = Followed(engine, folder)
    completions = Completions(engine, followed.registry, Scheduler(engine), Limits())
    body = {"model": "tiny+a:8", "prompt": "x", "max_tokens": 9, "temperature": 0}

    def text(address: str) -> str:
        return str(post(address, "/v1/completions", body).json()["choices"][0]["text"])

    with running(app.create_app(completions, vectors=followed.files)) as address:
        assert text(address) == written(engine, {"a": before}, "x", {"a": 8}, 9)
        with httpx.stream("POST", f"{address}/v1/completions", json={**body, "stream": True}) as streamed:
            after.save(folder / "a.st")
            wait_for(lambda: followed.said)
            assert "[DONE]" in streamed.read().decode()
        assert text(address) == written(engine, {"a": after}, "x", {"a": 8}, 9)
        (folder / "a.st").unlink()
        wait_for(lambda: post(address, "/v1/completions", body).status_code == 404)


def test_an_odd_name_is_served_with_hyphens_and_said(
    engine: Engine, folder: Path, make: Callable[[float], SteeringVector]
) -> None:
    names = {"very polite": "very-polite", "polite+happy": "polite-happy", "über (1)": "ber-1", "a.b": "a.b"}
    for stem in names:
        make(1).save(folder / f"{stem}.st")
    followed = Followed(engine, folder)
    assert sorted(followed.registry) == sorted(names.values())
    assert set(followed.said) == {
        f"{folder}/{stem}.st is served as {name}" for stem, name in names.items() if stem != name
    }
    make(2).save(folder / "very polite.st")
    followed.look()
    assert followed.length("very-polite") == 2
    (folder / "very polite.st").unlink()
    followed.look()
    assert "very-polite" not in followed.registry
    make(1).save(folder / "very-polite.st")
    make(1).save(folder / "very polite.st")
    followed.look()
    assert any("there is a vector named 'very-polite' already" in said for said in followed.said)


def test_a_file_that_is_given_twice_is_served_once(
    engine: Engine, folder: Path, make: Callable[[float], SteeringVector]
) -> None:
    make(1).save(folder / "a.st")
    (folder.parent / "link").symlink_to(folder)
    followed = Followed(engine, folder, folder / "a.st", folder / "a.st", folder.parent / "link")
    assert (sorted(followed.registry), followed.said) == (["a"], [])
