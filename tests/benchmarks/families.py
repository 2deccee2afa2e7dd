"""Sweep every family that transformers builds small from a configuration, and write down what is right.

    python tests/benchmarks/families.py [FAMILY OR CLASS ...] [--write]

Without a name all are swept; `--write` puts the table into tests/benchmarks/results/families.md.
"""

import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import torch  # noqa: E402
from support.families import all_families  # noqa: E402
from support.sweep import refusal, sweep  # noqa: E402


def main() -> None:
    torch.set_num_threads(1)
    wanted = [name for name in sys.argv[1:] if not name.startswith("-")]
    rows = []
    for family, class_name in all_families():
        if wanted and not {family, class_name} & set(wanted):
            continue
        if refused := refusal(family):
            print(family, class_name, "refused:", refused, flush=True)
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                found = sweep(Path(folder), family, class_name)
            except Exception as error:
                found = {"build": f"not built: {type(error).__name__}: {error}".replace("\n", " ")[:200]}
        wrong = {check: line for check, line in found.items() if line is not None}
        rows.append((family, class_name, wrong))
        print(family, class_name, "right" if not wrong else "", flush=True)
        for check, line in wrong.items():
            print(f"    {check}: {line[:300]}", flush=True)
    print(sum(not wrong for *_, wrong in rows), "of", len(rows), "right")


if __name__ == "__main__":
    main()
