"""The program as a whole: its version, its examples, and what becomes of errors."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from support.cli import refused, run
from support.tiny import D_MODEL, save_tiny, tiny_vector
from typer.testing import CliRunner

from neurosteer_cli import __version__
from neurosteer_cli.cli import app
from neurosteer_cli.errors import InputError
from neurosteer_cli.evaluation.runs import plan as runs
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.models.load import model_shape
from neurosteer_cli.vectors.vector import DEFAULT_ALPHA, SteeringVector


def test_the_version_is_a_result() -> None:
    result = run("--version")
    assert (result.stdout, result.stderr) == (f"neurosteer {__version__}\n", "")


COMMANDS = [
    "", "fit", "gen", "combine", "inspect", "eval", "calibrate", "layers", "export", "import", "serve",
    "demo", "doctor", "help", "sae", "sae train", "sae info", "sae describe", "sae search",
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_a_result_however_it_is_asked_for(command: str) -> None:
    words = command.split()
    shown = run(*words, "--help").stdout
    assert shown.startswith(f"Usage: {' '.join(['neurosteer', *words])} [OPTIONS]")
    assert run(*words, "-h").stdout == shown
    assert run("help", *words).stdout == shown
    assert "[[" not in shown and "{" not in shown.splitlines()[0]


@pytest.mark.parametrize("command", ["", "sae"])
def test_a_group_alone_shows_its_help_on_stdout(command: str) -> None:
    result = run(*command.split())
    assert (result.stdout, result.stderr) == (run(*command.split(), "--help").stdout, "")


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in ("", "sae", "help")])
def test_an_example_can_be_pasted_as_it_is_shown(command: str) -> None:
    _, example = run(*command.split(), "--help").stdout.split("\n  Example:\n")
    example = example.split("\n\n")[0]
    assert all(len(line) <= 80 for line in example.splitlines())
    for typed in example.replace("\\\n", " ").splitlines():
        assert shlex.split(typed)[: 1 + len(command.split())] == ["neurosteer", *command.split()]
        parsed(shlex.split(typed)[1:])


def parsed(words: list[str]) -> None:
    """Let typer read a command line, and run nothing."""
    group, context = typer.main.get_command(app), None
    for word in list(words):
        if not hasattr(group, "get_command"):
            break
        context = group.make_context("neurosteer", words, parent=context, resilient_parsing=False)
        group, words = group.get_command(context, word), words[1:]
    group.make_context("neurosteer", words, parent=context)


def test_an_unknown_command_is_no_help() -> None:
    assert refused("help", "nonsense") == "Error: No such command 'nonsense'."


def test_the_version_has_a_short_name() -> None:
    assert run("-V").stdout == run("--version").stdout


# --- the process -------------------------------------------------------------------------------


def program(*arguments: str, shell: str = "", **settings: Any) -> subprocess.CompletedProcess[str]:
    """Run the program in a process of its own, its streams changed by a shell."""
    command = shlex.join([sys.executable, "-m", "neurosteer_cli", *arguments])
    return subprocess.run(["sh", "-c", f"{command} {shell}"], capture_output=True, text=True, **settings)


@pytest.mark.parametrize("typed", ["--help", "--version", "fit -h", "inspect v.st --json"])
@pytest.mark.parametrize(
    ("shell", "why"), [(">&-", "it is closed"), ("> /dev/full", "No space left on device")]
)
def test_a_stdout_that_takes_nothing_is_named(
    typed: str, shell: str, why: str, tmp_path: Path, tiny_folder: Path
) -> None:
    tiny_vector(model_shape(str(tiny_folder)), {HookPoint(1): torch.ones(D_MODEL)}).save(tmp_path / "v.st")
    done = program(*typed.split(), shell=shell, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"error: <stdout>: cannot write ({why})"


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_records_are_utf_8_and_texts_what_the_terminal_can_show(encoding: str, tmp_path: Path) -> None:
    save_tiny(tmp_path / "tiny")
    asked = ["gen", "-m", "tiny", "--greedy", "--max-new-tokens", "1", "\u65e5\u672c \u00e9"]
    settings: dict[str, Any] = {"cwd": tmp_path, "env": {**os.environ, "PYTHONIOENCODING": encoding}}
    command = [sys.executable, "-m", "neurosteer_cli"]
    records = subprocess.run([*command, *asked, "--json"], capture_output=True, **settings)
    assert json.loads(records.stdout.decode())["prompt"] == "\u65e5\u672c \u00e9"
    texts = subprocess.run([*command, *asked], capture_output=True, **settings)
    assert texts.returncode == 0
    shown = "\u65e5\u672c \u00e9".encode(encoding, "backslashreplace").removeprefix(b"\xff\xfe")
    assert shown in texts.stdout


@pytest.mark.parametrize("shell", ["2>&-", "<&-", "<&- 2>&-"])
def test_other_closed_streams_do_no_harm(shell: str, tmp_path: Path) -> None:
    done = program("--version", shell=shell, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"neurosteer {__version__}\n", "")


@pytest.mark.parametrize("form", ["source_bash", "bash_source"])
def test_a_shell_can_ask_for_its_completion(form: str) -> None:
    done = program("--version", env={**os.environ, "_NEUROSTEER_COMPLETE": form})
    assert (done.returncode, "complete -o default -F _neurosteer_completion neurosteer" in done.stdout) == (
        0,
        True,
    )


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("neurosteer sae d", ["describe"]),
        ("neurosteer gen --rep", ["--repetition-penalty"]),
        ("neurosteer fit --method p", ["paper", "pca"]),
        ("neurosteer gen --dtype b", ["bfloat16"]),
    ],
)
def test_words_are_completed(typed: str, offered: list[str]) -> None:
    asked = {
        "_NEUROSTEER_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(typed.count(" ")),
    }
    assert program(env={**os.environ, **asked}).stdout.split() == offered


def test_two_interruptions_end_it_as_one_does() -> None:
    code = """
import os, signal, sys, time
from neurosteer_cli import cli

def slow(*_arguments, **_settings):
    try:
        print("begun", flush=True)
        time.sleep(30)
    finally:
        os.kill(os.getpid(), signal.SIGINT)  # the second, while the first is cleaned up after

cli.app.registered_commands[0].callback = slow
sys.argv = ["neurosteer", "fit", "a", "b"]
cli.run()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=-1, stderr=-1, text=True) as running:
        assert running.stdout and running.stdout.readline() == "begun\n"
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=30)
    assert (running.returncode, said) == (130, "interrupted\n")


@pytest.mark.parametrize(
    "typed",
    ["fit a.txt b.txt -o v.st --method diffmean", "gen -n 200 --max-new-tokens 100 hello"],
    ids=["fit", "gen"],
)
def test_an_interruption_at_any_moment_leaves_a_word_and_nothing_else(typed: str, tmp_path: Path) -> None:
    save_tiny(tmp_path / "tiny")
    for name in ("a.txt", "b.txt"):  # texts enough to be read for many seconds
        (tmp_path / name).write_text("\n".join(f"{name} {n} " + "so " * 30 for n in range(30_000)))
    begun = sorted(path.name for path in tmp_path.iterdir())
    command = [sys.executable, "-m", "neurosteer_cli", *typed.split(), "-m", "tiny"]
    for seconds in (0.6, 1.2, 2.4):  # Python itself has begun by then
        with subprocess.Popen(command, cwd=tmp_path, stdout=-3, stderr=-1, text=True) as running:
            time.sleep(seconds)
            running.send_signal(signal.SIGINT)
            _, said = running.communicate(timeout=30)
        # while modules are loaded it ends without a word, by the signal
        assert running.returncode in (130, -signal.SIGINT), seconds
        assert said in ("", "interrupted\n"), seconds
        assert sorted(path.name for path in tmp_path.iterdir()) == begun


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals there")
@pytest.mark.parametrize(
    ("wish", "unwanted"), [({"NO_COLOR": "1"}, r"\x1b\[[0-9;]*m"), ({"TERM": "dumb"}, "\x1b")]
)
def test_a_terminal_gets_no_colours_that_it_does_not_want(
    wish: dict[str, str], unwanted: str, tmp_path: Path
) -> None:
    save_tiny(tmp_path / "tiny")
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text("".join(f"{name} {n}\n" for n in range(8)))
    typed = "fit a.txt b.txt --method diffmean -m tiny -o v.st"
    told = {name: in_terminal(typed, tmp_path, asked) for name, asked in {"wish": wish, "none": {}}.items()}
    assert re.search(unwanted, told["none"])
    assert not re.search(unwanted, told["wish"])
    assert "warning: a: 8 texts; " in told["wish"]


def in_terminal(typed: str, folder: Path, wish: dict[str, str]) -> str:
    """What a terminal gets of a command."""
    import pty

    shown, terminal = pty.openpty()
    plain = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "CI")}
    command = [sys.executable, "-m", "neurosteer_cli", *typed.split()]
    environment = {**plain, "TERM": "xterm", **wish}
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=terminal, stderr=terminal):
        os.close(terminal)
        told = b""
        with suppress(OSError):  # as a pseudo-terminal ends
            while piece := os.read(shown, 4096):
                told += piece
    os.close(shown)
    return told.decode()


def test_an_interruption_is_one_whatever_a_library_makes_of_it() -> None:
    told = interrupted("""
    try:
        time.sleep(30)
    except KeyboardInterrupt:
        raise ImportError("cut off")
""")
    assert told == (130, "interrupted\n")


def test_an_interruption_while_an_object_is_removed_is_not_lost() -> None:
    told = interrupted("""
    class Slow:
        def __del__(self):
            time.sleep(30)
    Slow()
    for _ in range(3000):  # computes on
        time.sleep(0.01)
""")
    assert told == (130, "interrupted\n")


def interrupted(body: str) -> tuple[int, str]:
    """Exit code and words of a command, of this body, that Ctrl-C ends."""
    code = f"""
import sys, time
from neurosteer_cli import cli

def slow(*_arguments, **_settings):
    print("begun", flush=True)
{body}

cli.app.registered_commands[0].callback = slow
sys.argv = ["neurosteer", "fit", "a", "b"]
cli.run()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=-1, stderr=-1, text=True) as running:
        assert running.stdout and running.stdout.readline() == "begun\n"
        time.sleep(0.1)  # in what follows the word
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=20)
    return running.returncode, said


def test_an_interruption_while_commands_are_put_together_says_nothing() -> None:
    code = """
import time
from unittest import mock

def slow(_app):
    print("begun", flush=True)
    time.sleep(30)

with mock.patch("typer.main.get_command", slow):
    from neurosteer_cli.__main__ import main
    main()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=-1, stderr=-1, text=True) as running:
        assert running.stdout and running.stdout.readline() == "begun\n"
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=30)
    assert (running.returncode, said) == (-signal.SIGINT, "")


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
