"""Vector files that a registry follows: new ones come, changed ones are read again, removed ones go.

Knows folders, files and the registry; knows nothing of requests. A request under way keeps its vectors.
"""

import os
import re
import stat
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ..errors import InputError, NeurosteerError
from ..vectors.vector import SteeringVector
from .registry import VectorRegistry

Signature = tuple[int, int, int]  # when it was modified, in nanoseconds, its size, its inode
Changes = Mapping[Path, SteeringVector | NeurosteerError | None]  # None: it is gone


class VectorFiles:
    """The files named, and the `*.st` files of the folders named, as they come, change and go."""

    def __init__(self, paths: Sequence[Path], say: Callable[[str], None]) -> None:
        """`say` is told what is left out, and of every change."""
        self.say = say
        self._folders = [path for path in paths if os.path.isdir(path)]
        self._files = [path for path in paths if path not in self._folders]
        self._looked_at: dict[Path, Signature] = {}  # when each was last looked at
        self._read: dict[Path, Signature] = {}  # when each was last read, good or bad
        self._served: dict[Path, str] = {}  # under which name

    def first(self) -> Changes:
        """All of them, read.

        Raises:
            InputError: a file that is not there, or a folder without any.
        """
        for folder in self._folders:
            if not any(folder.glob("*.st")):
                raise InputError(f"{folder}: no .st file in this folder; `neurosteer fit` writes one")
        for file in self._files:
            if not os.path.exists(file):
                raise InputError(f"{file}: no such file; `neurosteer fit` writes one")
        self._looked_at = self._signatures()
        return self.look()

    def look(self) -> Changes:
        """What has changed since it was last read, read anew.

        A file that differs from what it was at the last look may still be on its way: it waits for the next.
        """
        now, before = self._signatures(), self._looked_at
        self._looked_at = now
        changed = [file for file, at in now.items() if at == before.get(file) and at != self._read.get(file)]
        gone = self._read.keys() - now.keys()
        self._read = {file: at for file, at in self._read.items() if file in now}
        self._read |= {file: now[file] for file in changed}
        return {**dict.fromkeys(gone), **{file: _read(file) for file in changed}}

    def apply(self, changes: Changes, registry: VectorRegistry) -> None:
        """Have the registry follow; what cannot be served is named, and the vector before it kept."""
        for file, found in changes.items():
            try:
                self._take(file, found, registry)
            except NeurosteerError as error:
                is_served = file in self._served
                self.say(f"{error}; " + ("the one before it is kept" if is_served else "it is left out"))

    def _take(
        self, file: Path, found: SteeringVector | NeurosteerError | None, registry: VectorRegistry
    ) -> None:
        name = self._served.get(file)
        if isinstance(found, NeurosteerError):
            raise found
        if found is None:
            if name := self._served.pop(file, None):
                del registry[name]
                self.say(f"{file} is gone, and {name} with it")
        elif name:
            registry.replace(name, found, str(file))
            self.say(f"{file} has changed, and was read again")
        else:
            registry.add(name := served_name(file), found, str(file))
            self._served[file] = name
            if name != file.stem:
                self.say(f"{file} is served as {name}")

    def _signatures(self) -> dict[Path, Signature]:
        """Of all files there are; those of a folder that is not there just now are as they were."""
        found = {}
        for folder in self._folders:
            known = [file for file in self._looked_at if file.parent == folder]
            there = sorted(filter(os.path.isfile, folder.glob("*.st")))  # no pipes, say
            for file in there if os.path.isdir(folder) else known:
                found[file] = self._signature(file)
        found |= {file: self._signature(file) for file in self._files}
        once: dict[str, Path] = {}  # by whatever paths a file is reached
        for file in found:
            once.setdefault(os.path.realpath(file), file)
        return {file: signature for file in once.values() if (signature := found[file])}

    def _signature(self, file: Path) -> Signature | None:
        with suppress(OSError):
            status = os.stat(file)
            is_file = stat.S_ISREG(status.st_mode)  # of a pipe, say, one reading has to do
            return (status.st_mtime_ns, status.st_size, status.st_ino) if is_file else (0, 0, 0)
        return None if file.parent.is_dir() or file not in self._looked_at else self._looked_at[file]


def served_name(file: Path) -> str:
    """A vector's name, by its file's: with hyphens for what a name may not have."""
    return re.sub("[^A-Za-z0-9_.-]+", "-", file.stem).strip("-.")[:64]


def _read(file: Path) -> SteeringVector | NeurosteerError:
    try:
        return SteeringVector.load(file)
    except NeurosteerError as error:
        return error
