"""Sweep every family that transformers builds small from a configuration, and write down what is right.

    python tests/benchmarks/families.py [FAMILY OR CLASS ...] [--write]

Without a name all are swept; `--write` puts the table into tests/benchmarks/results/families.md, which
tests/end_to_end/test_families.py holds the installed transformers to. It ends in 1 if something is wrong.
"""

import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import torch  # noqa: E402
import transformers  # noqa: E402
from support.families import all_families  # noqa: E402
from support.sweep import RESULTS, NotBuilt, refusal, sweep  # noqa: E402


def verdict(family: str, class_name: str) -> str:
    """What is found of a family, in one line."""
    if reason := refusal(family):
        return f"refused: {reason}"
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = sweep(Path(folder), family, class_name)
        except NotBuilt as error:
            return f"not built: {error}"
    wrong = {check: line for check, line in found.items() if line is not None}
    return "wrong: " + "; ".join(f"{check}: {line}" for check, line in wrong.items()) if wrong else "right"


def main() -> None:
    torch.set_num_threads(1)
    wanted = {name for name in sys.argv[1:] if not name.startswith("-")}
    start, rows = time.perf_counter(), []
    for family, class_name in all_families():
        if not wanted or wanted & {family, class_name}:
            rows.append((family, class_name, verdict(family, class_name)))
            print(*rows[-1], flush=True)
    counts = {
        kind: sum(found.startswith(kind) for *_, found in rows) for kind in ("right", "refused", "not built")
    }
    told = ", ".join(f"{n} {kind}" for kind, n in counts.items())
    print(f"{told}, {len(rows) - sum(counts.values())} wrong of {len(rows)}")
    print(f"{time.perf_counter() - start:.0f} s")
    if "--write" in sys.argv:
        write(rows, told)
    sys.exit(sum(counts.values()) < len(rows))


def write(rows: list[tuple[str, str, str]], told: str) -> None:
    """Put the table where the test finds it."""
    version = ".".join(transformers.__version__.split(".")[:2])
    lines = [
        f"# Every family of transformers {version} that writes text",
        "",
        "Built small from its configuration, with random weights, in float32 on a CPU, by",
        f"`python tests/benchmarks/families.py --write`: {told}, of {len(rows)}.",
        "",
        "Right is: residuals of its first 1, 2, 3 and 4 blocks, a steered text alone and in a batch whose",
        "lines end early, and the logit lens, each held to plain transformers hooked by hand.",
        "",
        "| family | class | |",
        "|---|---|---|",
        *(f"| {family} | {class_name} | {found.replace('|', '/')} |" for family, class_name, found in rows),
    ]
    RESULTS.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
