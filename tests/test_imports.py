"""The package is built in levels, each foreign library has its place, and `--help` is quick."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import neurosteer_cli

PACKAGE = Path(neurosteer_cli.__file__).parent
HEAVY = {
    "torch", "transformers", "sae_lens", "sklearn", "vaderSentiment", "profanity_check", "httpx",
    "matplotlib", "jinja2", "fastapi", "uvicorn", "prometheus_client",
}  # fmt: skip

# A module imports only from the levels above it in this list.
LEVELS = (
    ("__init__", "errors", "files", "estimates"),
    (
        "records", "console", "hooks", "latents", "residuals", "sampling", "metrics", "facts", "wheels",
        "verdicts", "chat", "panels", "conclusion", "settings", "snapshots", "forms", "gate", "telemetry",
        "sparse_topk",
    ),
    ("texts", "checkpoints", "vector", "sae", "llm_judge", "charts", "figures", "corpus", "training"),
    ("sae_sources",),
    ("loading", "methods", "encoders", "report", "control_vectors", "bake", "descriptions", "chosen",
     "catalogue"),
    ("engine", "data_judge", "hf_judge", "browse", "portrait"),
    ("logit_lens",),
    (
        "batch", "text_stream", "reading", "judges", "likelihood", "adopt", "packing", "transfer", "harvest",
        "describe", "measure", "search",
    ),
    ("generation", "fit", "train", "writing"),
    ("scheduler",),
    ("runs", "service"),
    ("evaluate", "workshop", "refusals"),
    ("calibrate", "layers", "answers"),
    ("server",),
    ("commands.__init__", "commands.options"),
    ("commands.prompting", "commands.sae_common"),
    ("commands.continuations", "commands.fit_latents", "commands.serving"),
    ("commands.scoring",),
    (
        "commands.fit", "commands.gen", "commands.combine", "commands.inspect", "commands.eval",
        "commands.calibrate", "commands.layers", "commands.export", "commands.import_vector",
        "commands.sae_describe", "commands.sae_info", "commands.sae_search", "commands.sae_train",
        "commands.serve", "commands.demo",
    ),
    (
        "commands.sae",
    ),
    ("cli",),
    ("__main__",),
)  # fmt: skip
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}
WITHIN_A_LEVEL = {("files", "errors")}  # an error type
PLACES = {
    "jsonlines": {"records"},
    "rich": {"console"},
    "safetensors": {"vector", "sae_sources", "loading", "checkpoints", "bake", "snapshots", "training"},
    "sae_lens": {"sae_sources", "sparse_topk", "training"},
    "huggingface_hub": {"checkpoints"},
    "gguf": {"checkpoints", "control_vectors"},
    "transformers": {"loading", "batch", "checkpoints", "encoders"},
    "sklearn": {"data_judge", "calibrate"},
    "vaderSentiment": {"judges"},
    "profanity_check": {"judges"},
    "httpx": {"chat"},
    "matplotlib": {"charts"},
    "jinja2": {"report"},
    "pydantic": {"forms", "refusals"},
    "fastapi": {"answers", "refusals", "server"},
    "starlette": {"refusals", "telemetry"},
    "uvicorn": {"commands.serving"},
    "prometheus_client": {"telemetry"},
    "typer": {"cli", *(name for name in LEVEL if name.startswith("commands."))},
    "click": set(),  # typer carries its own
    "pickle": set(),
    "dill": set(),
    "joblib": set(),
}


class Import(NamedTuple):
    """What one module takes from another."""

    importer: str
    line: int
    module: str  # "hooks", "commands.options"; "torch.nn" of another package
    name: str | None  # what is taken from it, if not the module itself
    own: bool  # whether it is of this package


def imports_in(importer: str, source: str) -> Iterator[Import]:
    """Every import in a module's text, wherever it stands; only the package's own are resolved."""
    package = ["neurosteer_cli", *importer.split(".")[:-1]]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield _import(importer, node.lineno, alias.name, None)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *((node.module or "").split(".") if node.module else [])])
            for alias in node.names:
                yield _import(importer, node.lineno, module, alias.name)


def _import(importer: str, line: int, module: str, name: str | None) -> Import:
    if module.split(".")[0] != "neurosteer_cli":
        return Import(importer, line, module, name, own=False)
    inner = module.removeprefix("neurosteer_cli").lstrip(".")
    if name is not None and (joined := f"{inner}.{name}".lstrip(".")) in LEVEL:
        return Import(importer, line, joined, None, own=True)  # from . import console
    if inner == "" and name in neurosteer_cli._HOME:  # a public name, resolved on first use
        return Import(importer, line, neurosteer_cli._HOME[name].lstrip("."), name, own=True)
    if inner in ("", "commands"):
        inner = f"{inner}.__init__".lstrip(".")
    return Import(importer, line, inner, name, own=True)


def sources() -> dict[str, str]:
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path.read_text()
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def all_imports() -> list[Import]:
    return [found for name, text in sources().items() for found in imports_in(name, text)]


def against_levels(imports: list[Import]) -> list[str]:
    """The imports that do not go down."""
    return [
        f"{one.importer}.py:{one.line} imports {one.module}"
        for one in imports
        if one.own
        and (one.module, one.name) != ("__init__", "__version__")
        and (one.importer, one.module) not in WITHIN_A_LEVEL
        and LEVEL[one.module] >= LEVEL[one.importer]
    ]


def out_of_place(imports: list[Import]) -> list[str]:
    """The imports of a foreign library outside of its place."""
    return [
        f"{one.importer}.py:{one.line} imports {one.module}"
        for one in imports
        if not one.own and one.importer not in PLACES.get(one.module.split(".")[0], {one.importer})
    ]


def printing(name: str, source: str) -> list[str]:
    """The calls of `print` in a module."""
    return [
        f"{name}.py:{node.lineno} prints"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]


# --- levels and places -------------------------------------------------------------------------


def test_every_module_has_a_level() -> None:
    assert set(sources()) == set(LEVEL)


def test_a_module_imports_only_from_lower_levels() -> None:
    assert against_levels(all_imports()) == []


def test_every_foreign_library_keeps_to_its_place() -> None:
    assert out_of_place(all_imports()) == []


def test_every_place_is_one_where_the_library_is_used() -> None:
    used = {(one.module.split(".")[0], one.importer) for one in all_imports()}
    stale = {
        (library, module)
        for library, modules in PLACES.items()
        for module in modules
        if (library, module) not in used
        and library != "typer"  # the package of commands, and what might come there
        and (library, module) != ("gguf", "checkpoints")  # transformers reads it there
    }
    assert stale == set()


def test_only_the_command_line_talks_to_the_console() -> None:
    talking = {one.importer for one in all_imports() if one.own and one.module == "console"}
    assert talking <= {"cli"} | {name for name in LEVEL if name.startswith("commands.")}
    assert talking


def test_the_library_never_prints() -> None:
    assert [line for name, text in sources().items() for line in printing(name, text)] == []


@pytest.mark.parametrize(
    ("importer", "line", "module"),
    [
        ("hooks", "from .engine import Engine", "engine"),
        ("latents", "from .metrics import auroc", "metrics"),
        ("errors", "from . import files", "files"),
        ("fit", "from .commands.fit import fit", "commands.fit"),
        ("commands.gen", "from .fit import fit", "commands.fit"),
        ("commands.options", "from ..cli import app", "cli"),
        ("engine", "import neurosteer_cli.fit", "fit"),
        ("vector", "def f():\n    from neurosteer_cli.engine import Engine", "engine"),
        ("sae", "if TYPE_CHECKING:\n    from .vector import SteeringVector", "vector"),
        ("hooks", "from . import generate", "generation"),
    ],
)
def test_the_check_of_levels_can_fail(importer: str, line: str, module: str) -> None:
    (complaint,) = against_levels(list(imports_in(importer, line)))
    assert complaint.startswith(f"{importer}.py:")
    assert complaint.endswith(f" imports {module}")


@pytest.mark.parametrize(
    ("importer", "line"),
    [
        ("engine", "from . import __version__"),
        ("files", "from .errors import InputError"),
        ("commands.gen", "from .options import Model"),
        ("commands.gen", "from .. import console"),
        ("cli", "from .commands.gen import gen"),
    ],
)
def test_the_check_of_levels_lets_the_rest_pass(importer: str, line: str) -> None:
    assert list(imports_in(importer, line))[0].own
    assert against_levels(list(imports_in(importer, line))) == []


@pytest.mark.parametrize(
    ("importer", "line"),
    [
        ("engine", "import transformers"),
        ("fit", "from rich.console import Console"),
        ("texts", "def f():\n    import jsonlines"),
        ("vector", "import pickle"),
        ("cli", "import click"),
    ],
)
def test_the_check_of_places_can_fail(importer: str, line: str) -> None:
    assert len(out_of_place(list(imports_in(importer, line)))) == 1
    assert printing(importer, 'print("x")') == [f"{importer}.py:1 prints"]


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
for command in ([], ["fit"], ["gen"], ["combine"], ["inspect"], ["export"], ["import"], ["eval"],
                ["calibrate"], ["layers"], ["sae"], ["sae", "train"], ["sae", "info"], ["sae", "describe"],
                ["sae", "search"]):
    try:
        app([*command, "--help"])
    except SystemExit as end:
        assert end.code == 0
"""


def test_help_loads_no_heavy_library() -> None:
    assert heavy_after(HELP) == set()


def test_checking_what_a_judge_is_given_loads_no_heavy_library() -> None:
    code = """
from neurosteer_cli.judges import check_spec
for spec in ("data", "sentiment", "hf:org/model:LABEL", "regex:x", "llm:http://127.0.0.1:80/v1:m"):
    check_spec(spec, has_data=True, attribute="polite")
"""
    assert heavy_after(code) == set()


def test_the_check_above_can_fail() -> None:
    assert "torch" in heavy_after("import neurosteer_cli.hooks")


def test_pages_and_plots_load_no_heavy_library_until_one_is_made() -> None:
    assert heavy_after("import neurosteer_cli.report, neurosteer_cli.charts") == set()
    chart = "Chart('', [Panel(Axis(''), Axis(''), [])])"
    made = f"from neurosteer_cli.panels import Axis, Chart, Panel; charts.inline_svg({chart}, 'a')"
    assert heavy_after(f"from neurosteer_cli import charts; {made}") == {"matplotlib"}


def test_the_package_alone_loads_no_heavy_library_until_a_name_is_used() -> None:
    code = "import neurosteer_cli; neurosteer_cli.NeurosteerError, neurosteer_cli.__version__"
    assert heavy_after(code) == set()


def test_every_public_name_can_be_imported() -> None:
    for name in neurosteer_cli.__all__:
        assert getattr(neurosteer_cli, name) is not None
    with pytest.raises(AttributeError, match="^module 'neurosteer_cli' has no attribute 'nothing'$"):
        _ = neurosteer_cli.nothing
