"""Write a file, or a folder of files, whole or not at all; spool what can be read only once; hash a file.

Knows paths and the operating system's errors; knows nothing of what is in them.
"""

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import BinaryIO
from weakref import WeakSet

from .errors import InputError, OutputError

_STDIN = {"-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"}
_taken: WeakSet[object] = WeakSet()  # what has been read as standard input


def check_target(target: Path) -> None:
    """Raise InputError before any work is done where `target` cannot be written."""
    if str(target) == "-":
        raise InputError("-: is standard output, which takes other results; name a file to write")
    if os.path.isdir(target):
        raise InputError(f"{target}: is a directory; name a file to write")
    if os.path.exists(target) and not os.path.isfile(target):  # renaming over /dev/null would remove it
        raise InputError(f"{target}: is not a regular file; name a file to write")
    try:
        os.fspath(target).encode()
    except UnicodeEncodeError as error:  # readers of safetensors and GGUF take no other path
        raise InputError(f"{target}: is no name in UTF-8; choose another") from error
    _check_parent(target)


def _check_parent(target: Path) -> None:
    if not os.path.isdir(target.parent):
        raise InputError(f"{target}: no folder {str(target.parent)!r}; create it first")
    try:
        with suppress(FileNotFoundError):
            os.lstat(target)  # a name may be too long
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
        handle, name = tempfile.mkstemp(prefix=_prefix(target), dir=target.parent)
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
    with writing(target), tempfile.TemporaryDirectory(prefix=_prefix(target), dir=target.parent) as place:
        part = Path(place) / target.name  # with a plain folder's permissions, not a private one's
        part.mkdir()
        yield part
        for path in part.rglob("*"):  # a writer of its own kind may have made a private file
            if path.is_file():
                path.chmod(_plain_mode())
        if replace and target.exists():
            shutil.rmtree(target)
        part.replace(target)


def _prefix(target: Path) -> str:
    """Of a temporary file's name beside the target, whose own may be as long as a name can be."""
    return f".{target.name[:50]}."


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turn an OSError of the body into an OutputError that names `target`."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{target}: cannot write ({error.strerror or error})") from error


def file_sha256(path: Path) -> str:
    """The hash by which a file is known again; InputError if it is none that can be read again."""
    if is_pipe(str(path)):
        raise InputError(f"{path}: is no file that can be read again; save it as one first")
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def is_stdin(source: str) -> bool:
    return source in _STDIN


def take_stdin() -> BinaryIO:
    """The process's stdin, which is there once: InputError if something has read it already."""
    if sys.stdin is None:
        raise InputError("<stdin>: is closed; name a file")
    if sys.stdin in _taken:
        raise InputError("`-` (stdin) can be read only once; name a file in its other place")
    _taken.add(sys.stdin)
    return sys.stdin.buffer


def is_pipe(source: str) -> bool:
    """Whether it is there to be read once: stdin, a FIFO, `<(...)`."""
    is_plain = os.path.isfile(source) or os.path.isdir(source)
    return is_stdin(source) or (os.path.exists(source) and not is_plain)


def check_read_once(sources: Sequence[str]) -> None:
    """Raise InputError if what can be read only once is given twice."""
    pipes = ["-" if is_stdin(source) else source for source in sources if is_pipe(source)]
    for pipe in pipes:
        if pipes.count(pipe) > 1:
            what = "`-` (stdin)" if pipe == "-" else pipe
            raise InputError(f"{what} can be read only once; name a file in its other place")


@contextmanager
def spooled(source: str) -> Iterator[str]:
    """Yield a path that can be read more than once: what is no regular file is copied to a temporary one."""
    if not is_pipe(source):
        yield source
        return
    with tempfile.NamedTemporaryFile() as file:
        with _pipe(source) as pipe, writing(Path(file.name)):
            shutil.copyfileobj(pipe, file)
            file.flush()
        yield file.name


def _pipe(source: str) -> AbstractContextManager[BinaryIO]:
    if is_stdin(source):
        return nullcontext(take_stdin())  # the process's stdin is not ours to close
    try:
        return open(source, "rb")
    except OSError as error:
        raise InputError(f"{source}: {error.strerror}") from error


def _plain_mode() -> int:
    """The permissions a plain `open` gives a new file."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
