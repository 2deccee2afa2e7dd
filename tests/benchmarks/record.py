"""Keep what a benchmark prints, as a file in results/ that says where, when and with what it was measured.

    if __name__ == "__main__":
        with recorded(__file__):
            main()

With `--record` among its arguments a script writes results/NAME.md as well; without, it only prints. What
people wrote there under the heading SAID stays.
"""

import os
import platform
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import date
from importlib.metadata import version
from io import StringIO
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
SAID = "## What it says"
VERSIONS = ("neurosteer", "torch", "transformers", "tokenizers", "sae-lens", "scikit-learn")


class _Both(StringIO):
    """What is printed, kept, and shown as it comes."""

    def __init__(self, shown: "object") -> None:
        super().__init__()
        self.shown = shown

    def write(self, text: str) -> int:
        self.shown.write(text)  # type: ignore[attr-defined]
        self.shown.flush()  # type: ignore[attr-defined]
        return super().write(text)


@contextmanager
def recorded(script: str, seed: str = "0") -> Iterator[None]:
    """Keep what the body prints in results/, if the script was asked to."""
    if "--record" not in sys.argv:
        yield
        return
    sys.argv.remove("--record")
    kept = _Both(sys.stdout)
    with redirect_stdout(kept):
        yield
    name = Path(script).stem
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.md"
    _, heading, said = path.read_text().partition(SAID) if path.is_file() else ("", "", "")
    path.write_text(
        f"# {name}\n\n"
        f"{provenance(script, seed)}\n\n"
        f"```text\n{kept.getvalue().strip()}\n```\n\n"
        f"What is measured, and how, is said at the top of [{Path(script).name}](../{Path(script).name}).\n"
        + (f"\n{heading}{said}" if said else "")
    )


def provenance(script: str, seed: str) -> str:
    """Where, when and with what."""
    arguments = [Path(text).name if os.sep in text else text for text in sys.argv[1:]]
    command = shlex.join(["python", f"tests/benchmarks/{Path(script).name}", *arguments])
    versions = ", ".join(f"{name} {version(name)}" for name in VERSIONS)
    return (
        f"`{command}`, {date.today()}, seed {seed}; {processor()}, {os.cpu_count()} cores, "
        f"{platform.system()}; Python {platform.python_version()}, {versions}."
    )


def processor() -> str:
    """The processor, and the instructions it has that matter here."""
    import torch

    named = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    able = [
        name
        for name in ("avx2", "avx512_f", "avx512_bf16", "amx_bf16", "bf16")
        if torch.cpu.get_capabilities().get(name)
    ]
    return f"{named[0] if named else platform.machine()} ({', '.join(able)})"
