"""The rooms stand in their order, each foreign library has its place, and `--help` is quick."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import neurosteer_cli

PACKAGE = Path(neurosteer_cli.__file__).parent
HEAVY = {
    "torch", "transformers", "sae_lens", "sklearn", "scipy", "vaderSentiment", "profanity_check", "openai",
    "httpx", "httpx2", "pyarrow", "matplotlib", "jinja2", "fastapi", "uvicorn", "prometheus_client",
}  # fmt: skip

# --- the house ---------------------------------------------------------------------------------


def linted(folder: Path) -> subprocess.CompletedProcess[str]:
    """What import-linter says of the package in a folder, by the contracts in pyproject.toml."""
    config = PACKAGE.parent / "pyproject.toml"
    code = "import sys; from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", code, "--no-cache", "--config", str(config)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder)


def test_the_rooms_import_from_lower_levels_only() -> None:
    done = linted(PACKAGE.parent)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("models/hooks.py", "from ..vectors import metadata", "A room imports from lower levels only"),
        ("vectors/vector.py", "from ..commands import fit", "A room imports from lower levels only"),
        ("serving/app.py", "from ..evaluation import metrics", "A room imports from lower levels only"),
        ("models/hooks.py", "from . import engine", "No circle of modules"),
        ("vectors/vector.py", "import transformers", "transformers is the models' own"),
        ("vectors/vector.py", "def f():\n    import sae_lens", "sae_lens is the SAEs' own"),
        ("data/sides.py", "import torch", "torch is for what computes"),
        ("models/engine.py", "import rich", "Only commands talk to the terminal"),
        ("models/engine.py", "import jinja2", "Charts and pages are the reports' own"),
        ("evaluation/measures/metrics.py", "import fastapi", "HTTP is the server's own"),
        ("newcomer.py", "", "A room imports from lower levels only"),
    ],
)
def test_the_order_of_rooms_can_be_broken(tmp_path: Path, module: str, line: str, broken: str) -> None:
    shutil.copytree(
        PACKAGE, tmp_path / "neurosteer_cli", ignore=shutil.ignore_patterns("bundled", "__pycache__")
    )
    with (tmp_path / "neurosteer_cli" / module).open("a") as file:
        file.write(f"\n{line}\n")
    done = linted(tmp_path)
    assert done.returncode == 1
    assert any(broken in row and "BROKEN" in row for row in done.stdout.splitlines()), done.stdout


def test_a_package_holds_at_most_ten_modules_and_a_module_at_most_300_lines() -> None:
    for folder in [PACKAGE, *(path for path in PACKAGE.rglob("*") if path.is_dir())]:
        inside = [
            path for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()
        ]
        modules = [path for path in inside if path.name not in ("__init__.py", "__main__.py")]
        assert len(modules) <= (12 if folder == PACKAGE else 10), folder
    for path in PACKAGE.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 300, path


def test_every_package_says_what_it_knows() -> None:
    for path in PACKAGE.rglob("__init__.py"):
        assert path.read_text().startswith('"""'), path


# --- what is loaded ----------------------------------------------------------------------------


def heavy_after(code: str) -> set[str]:
    """The heavy libraries that a new interpreter has loaded after some code."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return HEAVY & set(done.stdout.split())


HELP = """
from neurosteer_cli.cli import app
for command in ([], ["fit"], ["lint"], ["gen"], ["combine"], ["inspect"], ["score"], ["export"], ["import"],
                ["eval"], ["calibrate"], ["layers"], ["serve"], ["demo"], ["doctor"], ["help"], ["sae"],
                ["sae", "train"], ["sae", "info"], ["sae", "describe"], ["sae", "search"]):
    try:
        app([*command, "--help"])
    except SystemExit as end:
        assert end.code == 0
"""


def test_help_loads_no_heavy_library() -> None:
    assert heavy_after(HELP) == set()


def test_checking_what_a_judge_is_given_loads_no_heavy_library() -> None:
    code = """
from neurosteer_cli.evaluation.judges.load import check_spec
for spec in ("data", "sentiment", "hf:org/model:LABEL", "regex:x", "llm:http://127.0.0.1:80/v1:m"):
    check_spec(spec, judge_data=("a", "b"), attribute="polite")
"""
    assert heavy_after(code) == set()


def test_the_check_above_can_fail() -> None:
    assert "torch" in heavy_after("import neurosteer_cli.models.hooks")


def test_the_package_alone_loads_no_heavy_library_until_a_name_is_used() -> None:
    code = "import neurosteer_cli; neurosteer_cli.NeurosteerError, neurosteer_cli.__version__"
    assert heavy_after(code) == set()


def test_every_public_name_can_be_imported() -> None:
    for name in neurosteer_cli.__all__:
        assert getattr(neurosteer_cli, name) is not None
    with pytest.raises(AttributeError, match="^module 'neurosteer_cli' has no attribute 'nothing'$"):
        _ = neurosteer_cli.nothing
