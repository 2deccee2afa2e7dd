"""doctor tells what there is on a machine, without a secret and whatever is broken."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.cli import rows, run

from neurosteer_cli import __version__
from neurosteer_cli.commands import doctor as doctor_module
from neurosteer_cli.models import machine


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NEUROSTEER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    return tmp_path / "cache"


def test_the_page_names_versions_device_cache_and_extras(cache: Path) -> None:
    (page,) = rows(run("doctor", "--json"))
    assert page["neurosteer"].startswith(f"{__version__}, ")
    assert page["libraries"][0] == f"torch {torch.__version__}"
    assert page["--device auto, --dtype auto"].startswith(("cpu, ", "cuda, ", "mps, "))
    assert page["cache"] == [f"{cache} (not made yet)"]
    assert "bundled for smollm2: blocks.20.hook_resid_post" in page["SAEs at hand"]
    assert "serve: ready" in page["extras"]


def test_what_is_in_the_cache_is_listed(cache: Path) -> None:
    (cache / "model-0123").mkdir(parents=True)
    (cache / "model-0123" / "weights").write_bytes(b"x" * 20_000_000)
    (page,) = rows(run("doctor", "--json"))
    assert page["cache"] == [f"{cache}, 0.02 GB", "model-0123"]


def test_the_same_is_shown_as_lines() -> None:
    lines = run("doctor").stdout.splitlines()
    assert lines[0].startswith(f"neurosteer: {__version__}, ")
    assert "environment: " in "\n".join(lines)


def test_secrets_and_the_home_folder_stay_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abc")
    monkeypatch.setenv("HOME", str(tmp_path))
    shown = run("doctor").stdout
    assert "HF_TOKEN=(set)" in shown
    assert "hf_abc" not in shown and str(tmp_path) not in shown
    assert "cache: ~/cache (not made yet)" in shown


def test_what_is_broken_is_told_and_the_rest_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> str:
        raise RuntimeError("no driver\nsecond line")

    monkeypatch.setattr(machine, "devices", broken)
    (page,) = rows(run("doctor", "--json"))
    assert page["accelerators"] == "cannot be told: RuntimeError: no driver"
    assert page["cache"]


def test_an_extra_lacks_what_is_absent_or_too_old_on_this_python(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = [
        "torch>=2",
        "absent; extra == 'one'",
        "torch>=999; extra == 'one'",
        "rich>=1; extra == 'two'",
        "absent>=1; python_version < '3' and extra == 'two'",
        "absent; extra == 'test'",
    ]
    monkeypatch.setattr(doctor_module, "requires", lambda _name: needed)
    found = {"Provides-Extra": ["two", "one", "test"]}
    monkeypatch.setattr(doctor_module, "metadata", lambda _name: SimpleNamespace(get_all=found.get))
    (page,) = rows(run("doctor", "--json"))
    assert page["extras"] == ["one: lacks absent, torch; pip install 'neurosteer[one]'", "two: ready"]
