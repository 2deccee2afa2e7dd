"""The program as a whole: its version, its examples, and what becomes of errors."""

from pathlib import Path
from typing import Any

import pytest
from support.cli import run
from typer.testing import CliRunner

from neurosteer_cli import __version__
from neurosteer_cli.cli import app
from neurosteer_cli.errors import InputError
from neurosteer_cli.evaluation import run as runs
from neurosteer_cli.vectors.vector import DEFAULT_ALPHA, SteeringVector


def test_the_version_is_a_result() -> None:
    result = run("--version")
    assert (result.stdout, result.stderr) == (f"neurosteer {__version__}\n", "")


@pytest.mark.parametrize("command", ["fit", "gen", "combine", "inspect"])
def test_every_command_explains_itself_with_an_example(command: str) -> None:
    assert f"\n  Example: neurosteer {command} " in run(command, "--help").stdout


def test_a_bug_keeps_its_traceback(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: Any, **_options: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(runs, "generate", broken)
    result = CliRunner().invoke(app, ["gen", "-m", str(tiny_folder), "hi"])
    assert isinstance(result.exception, ZeroDivisionError)


def test_errors_of_the_library_are_lines_only_in_the_program() -> None:
    with pytest.raises(InputError):
        SteeringVector.load(Path("none.st"))
    result = CliRunner().invoke(app, ["inspect", "none.st"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "error: none.st: no such file; `neurosteer fit` writes one\n"


def test_the_help_of_gen_names_the_alpha_that_is_taken() -> None:
    # not read from there: it would load torch on the way to --help
    assert f"[default: {DEFAULT_ALPHA:g}]" in run("gen", "--help").stdout
