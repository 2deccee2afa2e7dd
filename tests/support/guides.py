"""Guides that test themselves: run the commands they show, and hold what is printed against what they show.

Knows markdown's fenced blocks, bash, and what varies from run to run; knows nothing of the package. In
README.md and the guides

    ```console     a line after `$ ` is a command, and goes on after `\\`, `|` or within quotes; what
                   follows is what it prints, stderr among it, as on a terminal
    ```python      with a first line `# NAME.py`: a file of that name, for the commands that follow
    any other      is only shown

A line `...` in an output stands for lines that are left out. All documents run in one folder with the
files of examples/ and the happy.st that comes along, README.md first, so what one writes is there for the
next; a command that stands again is not run again. One that ends in `&` runs until its document ends, and
its first line is shown. `neurosteer` takes float32 for `--dtype auto` and two threads on every machine, so
that texts are the same on all.

To write what commands print into the documents, from the folder tests/:

    python -m support.guides --write
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
GUIDES = ("fitting", "generating", "evaluating", "exporting", "serving", "saes")
DOCUMENTS = (
    ROOT / "README.md",
    *(EXAMPLES / "guides" / f"{name}.md" for name in GUIDES),
    EXAMPLES / "README.md",
)

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"# (\w+\.py)\n")
PROMPT, LEFT_OUT = "$ ", "..."
SECONDS_TO_START = 120

PROGRAMS = {
    "python": f"""\
#!/bin/sh
exec {shlex.quote(sys.executable)} "$@"
""",
    "neurosteer": f"""\
#!{sys.executable}
import torch
torch.cpu.get_capabilities = dict  # no bfloat16 instructions: `--dtype auto` is float32
from neurosteer_cli.__main__ import main
main()
""",
}
ENVIRONMENT = {
    "OMP_NUM_THREADS": "2",
    "OMP_WAIT_POLICY": "PASSIVE",  # threads that wait do not slow down others on a busy machine
    "COLUMNS": "110",
    "TERM": "dumb",
    "PYTHONUNBUFFERED": "1",  # stderr and stdout in the order in which they were written
    "PYTHONPATH": str(ROOT),
}

VARYING = (
    (re.compile(r"\d+(\.\d+)? s, \d+ tokens/s"), "<seconds>"),
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+(\+\d\d:\d\d|Z)"), "<date>"),
    (re.compile(r"neurosteer \d+\.\d+\.\d+\w*"), "neurosteer <version>"),
    (re.compile(r"\b[0-9a-f]{12,64}\b"), "<hash>"),
    (re.compile(r"\b\d+ (s|min) left"), "<seconds> left"),
)
ONCE = re.compile(r"fetching .* with pip: |converting .* \(once, ")
WITH_POINT = re.compile(r"\d+\.\d+")


@dataclass(frozen=True)
class Step:
    """A command, and what a document says that it prints."""

    command: str
    output: str

    def __str__(self) -> str:
        return f"{PROMPT}{self.command}\n{self.output}"

    def printing(self, found: str) -> "Step":
        """The command with what it prints, cut where this output is cut."""
        shown, lines = self.output.splitlines(), found.splitlines(keepends=True)
        if LEFT_OUT not in shown:
            return Step(self.command, found)
        place = shown.index(LEFT_OUT)
        last = len(lines) - (len(shown) - place - 1)
        return Step(self.command, "".join([*lines[:place], f"{LEFT_OUT}\n", *lines[last:]]))


def steps(block: str) -> list[Step]:
    """The commands of a console block, each with its output."""
    found: list[Step] = []
    lines = block.splitlines(keepends=True)
    while lines:
        command = lines.pop(0)
        if not command.startswith(PROMPT):
            raise ValueError(f"a console block begins with `$ `, not {command!r}")
        while goes_on(command):
            command += lines.pop(0)
        following = (i for i, line in enumerate(lines) if line.startswith(PROMPT))
        end = next(following, len(lines))
        found.append(Step(command.removeprefix(PROMPT).rstrip("\n"), "".join(lines[:end])))
        lines = lines[end:]
    return found


def goes_on(command: str) -> bool:
    """Whether a command's next line belongs to it."""
    try:
        shlex.split(command)
    except ValueError:  # within quotes
        return True
    return command.endswith(("\\\n", "|\n"))


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Each fenced block's language and lines."""
    return (found.groups() for found in FENCE.finditer(text))


# --- running -----------------------------------------------------------------------------------


@dataclass
class Runner:
    """A folder to run documents in, and what commands have printed there."""

    folder: Path
    environment: dict[str, str]
    printed: dict[str, str] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    def run(self, text: str) -> str:
        """The document with what its commands print."""
        with self.background() as servers:

            def ran(block: re.Match[str]) -> str:
                language, body = block.groups()
                if language == "python" and (name := FILE_NAME.match(body)):
                    (self.folder / name[1]).write_text(body)
                if language != "console":
                    return block[0]
                done = [step.printing(self.output(step.command, servers)) for step in steps(body)]
                return f"```console\n{''.join(map(str, done))}```"

            return FENCE.sub(ran, text)

    def output(self, command: str, servers: list[subprocess.Popen[bytes]]) -> str:
        if command.endswith(" &"):
            return self.start(command.removesuffix(" &"), servers)
        if command not in self.printed:
            start = time.monotonic()
            ran = subprocess.run(self.bash(command), stdout=subprocess.PIPE, **self.where)
            sys.stderr.write(f"{time.monotonic() - start:6.1f} s  {command}\n")
            found = ran.stdout.decode()
            if ran.returncode:
                self.failed.append(command)
                found += f"\n(ended with exit code {ran.returncode})"
            self.printed[command] = tidied(found)
        return self.printed[command]

    def start(self, command: str, servers: list[subprocess.Popen[bytes]]) -> str:
        """Start what goes on running, and wait for its first line."""
        with tempfile.NamedTemporaryFile() as file:
            server = subprocess.Popen(self.bash(f"exec {command}"), stdout=file, **self.where)
            servers.append(server)
            until = time.monotonic() + SECONDS_TO_START
            while not (found := Path(file.name).read_text()).endswith("\n"):
                if server.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"`{command}` did not start:\n{found}")
                time.sleep(0.2)
        return tidied(found)

    @contextmanager
    def background(self) -> Iterator[list[subprocess.Popen[bytes]]]:
        """A list of processes that end with the context."""
        servers: list[subprocess.Popen[bytes]] = []
        try:
            yield servers
        finally:
            for server in servers:
                server.terminate()
                server.wait(60)

    def bash(self, command: str) -> list[str]:
        return ["bash", "-o", "pipefail", "-c", command]

    @property
    def where(self) -> dict[str, object]:
        """How every command is run."""
        return {
            "cwd": self.folder,
            "env": self.environment,
            "stdin": subprocess.DEVNULL,
            "stderr": subprocess.STDOUT,
        }


@contextmanager
def runner() -> Iterator[Runner]:
    """A folder with the example texts, and the programs to run there."""
    with tempfile.TemporaryDirectory() as name:
        folder, programs = Path(name) / "examples", Path(name) / "bin"
        shutil.copytree(EXAMPLES, folder, ignore=shutil.ignore_patterns("*.md", "*.png", "*.sh"))
        shutil.copy(ROOT / "neurosteer_cli" / "vectors" / "bundled" / "happy.st", folder)
        programs.mkdir()
        for program, text in PROGRAMS.items():
            (programs / program).write_text(text)
            (programs / program).chmod(0o755)
        path = f"{programs}{os.pathsep}{os.environ['PATH']}"
        unset = ("NEUROSTEER_MODEL", "NEUROSTEER_API_KEY", "FORCE_COLOR")
        own = {key: value for key, value in os.environ.items() if key not in unset}
        yield Runner(folder, {**own, **ENVIRONMENT, "PATH": path})


# --- comparing ---------------------------------------------------------------------------------


def tidied(text: str) -> str:
    """Without blanks at the ends of lines, empty lines at the end, and what is told once on a machine."""
    lines = [line.rstrip() for line in text.splitlines() if not ONCE.match(line)]
    return "".join(f"{line}\n" for line in lines).strip("\n") + "\n" if any(lines) else ""


def settled(text: str) -> str:
    """Without what varies from run to run."""
    for pattern, word in VARYING:
        text = pattern.sub(word, text)
    return text


def differences(shown: str, found: str) -> list[str]:
    """What a document shows and what its commands print, where they differ."""
    differing = []
    for (_, shown_block), (_, found_block) in zip(blocks(shown), blocks(found), strict=True):
        pairs = zip(shown_block.splitlines(), found_block.splitlines(), strict=False)
        unlike = [f"- {left}\n+ {right}" for left, right in pairs if not alike(left, right)]
        if len(shown_block.splitlines()) != len(found_block.splitlines()) and not unlike:
            unlike = [f"- {shown_block}\n+ {found_block}"]
        differing += unlike
    return differing


def alike(shown: str, found: str) -> bool:
    """Whether two lines are the same but for what varies, and 1 in the last place of numbers with a point."""
    shown, found = settled(shown), settled(found)
    if WITH_POINT.sub("#", shown) != WITH_POINT.sub("#", found):
        return False
    pairs = zip(WITH_POINT.findall(shown), WITH_POINT.findall(found), strict=True)
    return all(abs(float(left) - float(right)) <= last_place(left) for left, right in pairs)


def last_place(number: str) -> float:
    """1 in the last place of a number as it is written."""
    return 1.01 * 10.0 ** -len(number.partition(".")[2])


def write() -> None:
    """Run all documents and write what is printed into them."""
    with runner() as runs:
        for document in DOCUMENTS:
            text = runs.run(document.read_text())
            if runs.failed:
                sys.exit(f"{document}: {runs.failed} failed: {[runs.printed[one] for one in runs.failed]}")
            document.write_text(text)


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    write()
