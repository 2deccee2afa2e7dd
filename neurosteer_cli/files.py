"""Write a file, or a folder of files, whole or not at all; spool standard input; tell a file by its hash.

Knows paths and the operating system's errors; knows nothing of what is in them.
"""

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import InputError, OutputError


def check_target(target: Path) -> None:
    """Raise InputError before any work is done where `target` cannot be written."""
    if target.is_dir():
        raise InputError(f"{target}: is a directory; name a file to write")
    if target.exists() and not target.is_file():  # renaming a file over /dev/null would remove it
        raise InputError(f"{target}: is not a regular file; name a file to write")
    _check_parent(target)


def _check_parent(target: Path) -> None:
    if not target.parent.is_dir():
        raise InputError(f"{target}: no folder {str(target.parent)!r}; create it first")
    try:
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise InputError(f"{target}: cannot write there ({error.strerror})") from error


@contextmanager
def replace_file(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`; rename it to `target` if the body succeeds.

    A killed run leaves the old file or the new one, never half of one. OutputError where neither can be.
    """
    with writing(target):
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(target.stat().st_mode & 0o777 if target.exists() else _plain_mode())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


def check_new_folder(target: Path) -> None:
    """Raise InputError before any work is done where a folder `target` cannot be made."""
    if os.path.lexists(target):
        raise InputError(f"{target}: exists already; name a new folder to write")
    _check_parent(target)


@contextmanager
def make_folder(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside `target`; rename it to `target` if the body succeeds.

    One that is there already is an OutputError, or goes to make place: `replace`.
    """
    with writing(target), tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as place:
        part = Path(place) / target.name  # with a plain folder's permissions, not a private one's
        part.mkdir()
        yield part
        for path in part.rglob("*"):  # a writer of its own kind may have made a private file
            if path.is_file():
                path.chmod(_plain_mode())
        if replace and target.exists():
            shutil.rmtree(target)
        part.replace(target)


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turn an OSError of the body into an OutputError that names `target`."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{target}: cannot write ({error.strerror or error})") from error


def file_sha256(path: Path) -> str:
    """The hash by which a file is known again."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def spooled(source: str) -> Iterator[str]:
    """Yield a path that can be read more than once: `-`, stdin, is copied to a temporary file."""
    if source != "-":
        yield source
        return
    with tempfile.NamedTemporaryFile() as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
        file.flush()
        yield file.name


def _plain_mode() -> int:
    """The permissions a plain `open` gives a new file."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
