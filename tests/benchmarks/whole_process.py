"""Run a command as a whole process: its wall-clock seconds and peak memory."""

import os
import subprocess
import time
from collections.abc import Sequence
from typing import NamedTuple


class Cost(NamedTuple):
    seconds: float
    peak_mb: float  # 10^6 bytes, of the process itself


def run(command: Sequence[str], env: dict[str, str] | None = None) -> Cost:
    """Run a command to its end; what it prints on stdout is thrown away.

    Raises:
        RuntimeError: it failed.
    """
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, **(env or {})})
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if os.waitstatus_to_exitcode(status) != 0:
        raise RuntimeError(f"{command} failed")
    return Cost(seconds, usage.ru_maxrss * 1024 / 1e6)
