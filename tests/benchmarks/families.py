"""Sweep every family that transformers builds small from a configuration, and write down what is right.

    python tests/benchmarks/families.py [FAMILY OR CLASS ...] [--write]

Without a name all are swept; `--write` puts what is found into tests/benchmarks/results/families.md, the
table to which tests/end_to_end/test_families.py holds the installed transformers. It ends in 1 if something
is wrong.
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
from support.sweep import RESULTS, NotBuilt, recorded, refusal, sweep  # noqa: E402


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
    print(f"{counted([found for *_, found in rows])}; {time.perf_counter() - start:.0f} s")
    if "--write" in sys.argv:
        found = recorded() | {(family, class_name): line for family, class_name, line in rows}
        write([(*name, found[name]) for name in all_families() if name in found])
    sys.exit(any(line.startswith("wrong") for *_, line in rows))


def counted(found: list[str]) -> str:
    """How many families are right, refused and so on."""
    kinds = [line.split(":")[0] for line in found]
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)) + f", of {len(kinds)}"


def write(rows: list[tuple[str, str, str]]) -> None:
    """Put the table where the test finds it."""
    version = ".".join(transformers.__version__.split(".")[:2])
    lines = [
        f"# Every family of transformers {version} that writes text",
        "",
        "Built small from its configuration, with random weights, in float32 on a CPU, by",
        f"`python tests/benchmarks/families.py --write`: {counted([found for *_, found in rows])}.",
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
