"""README.md and the guides: what they show is what the program prints, has and keeps."""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from support.guides import DOCUMENTS, EXAMPLES, ROOT, Step, alike, blocks, differences, runner, steps

from neurosteer_cli.cli import app

README_LINES = 260
PAGES = sorted(path for path in ROOT.rglob("*.md") if not any(part[0] == "." for part in path.parts))
USERS_PAGES = [page for page in PAGES if ROOT / "tests" not in page.parents]
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]+)?\)")
OPTION = re.compile(r"--[a-z][a-z-]*")
CODE = re.compile(r"`([^`\n]+)`")
OTHERS_OPTIONS = {
    "--install-completion",
    "--control-vector",
    "--control-vector-scaled",
    "--no-repack",
    "--version",
}  # llama.cpp's, the program's


def names_of(pages: Sequence[Path]) -> list[str]:
    return [str(page.relative_to(ROOT)) for page in pages]


# --- what is printed ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def printed() -> dict[Path, str]:
    """Every document as its commands would write it, run in order."""
    with runner() as runs:
        return {document: runs.run(document.read_text()) for document in DOCUMENTS}


@pytest.mark.real
@pytest.mark.parametrize("document", DOCUMENTS, ids=names_of(DOCUMENTS))
def test_a_document_shows_what_its_commands_print(document: Path, printed: dict[Path, str]) -> None:
    unlike = differences(document.read_text(), printed[document])
    assert not unlike, "\n".join([document.name, *unlike])


# --- what can be seen without running ------------------------------------------------------------


@pytest.mark.parametrize("document", DOCUMENTS, ids=names_of(DOCUMENTS))
def test_every_block_of_commands_can_be_run(document: Path) -> None:
    text = document.read_text()
    assert text.count("```") == 2 * len(list(blocks(text)))
    assert any(steps(block) for language, block in blocks(text) if language == "console")


def test_readme_is_no_longer_than_a_door_should_be() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= README_LINES


@pytest.mark.parametrize("page", PAGES, ids=names_of(PAGES))
def test_every_link_leads_to_a_file(page: Path) -> None:
    linked = {target for target, _ in LINK.findall(page.read_text()) if "://" not in target}
    assert [target for target in sorted(linked) if not (page.parent / target).exists()] == []


def test_the_index_of_examples_names_every_file() -> None:
    index = (EXAMPLES / "README.md").read_text()
    files = [path for path in EXAMPLES.iterdir() if path.name != "README.md"]
    guides = [path for path in DOCUMENTS if path.parent.name == "guides"]
    assert [path.name for path in [*files, *guides] if path.name not in index] == []
    assert sorted(EXAMPLES.glob("guides/*.md")) == sorted(guides)


@cache
def options_of(command: str) -> frozenset[str]:
    """Every option of a command such as `fit` or `sae train`."""
    found: Any = typer.main.get_command(app)
    for name in command.split():
        found = found.commands[name]
    options = (option for one in found.params for option in (*one.opts, *one.secondary_opts))
    return frozenset({*options, "--help"})


@cache
def commands() -> frozenset[str]:
    top: Any = typer.main.get_command(app)
    below = (f"sae {name}" for name in top.commands["sae"].commands)
    return frozenset({*top.commands, *below} - {"sae"})


def uses(line: str) -> list[tuple[str, frozenset[str]]]:
    """The neurosteer commands in a line of a shell or of text, each with its options."""
    found = []
    for part in re.split(r"\bneurosteer ", line)[1:]:
        words = re.split(r"[|;>&]", part)[0]
        named = [name for name in commands() if re.match(rf"{name}\b", words)]
        found += [(name, frozenset(OPTION.findall(words))) for name in named]
    return found


@pytest.mark.parametrize("page", USERS_PAGES, ids=names_of(USERS_PAGES))
def test_every_option_named_is_one(page: Path) -> None:
    """In a command an option of that command, elsewhere in a sentence one of any command."""
    text = page.read_text()
    shown = [block.replace("\\\n", " ") for language, block in blocks(text) if language in ("console", "sh")]
    said = [code for line in text.splitlines() for code in CODE.findall(line)]
    lines = [*said, *(line for block in shown for line in block.splitlines())]
    wrong = [(name, options - options_of(name)) for line in lines for name, options in uses(line)]
    assert [(name, options) for name, options in wrong if options] == []
    known = OTHERS_OPTIONS.union(*map(options_of, commands()))
    assert {option for code in said for option in OPTION.findall(code)} - known == set()


# --- the script itself ---------------------------------------------------------------------------


def test_a_block_is_read_as_commands_and_what_they_print() -> None:
    block = "$ neurosteer fit a b |\n    cat\nline\n\n$ curl -d '{\n  1}' \\\n  x\n"
    assert steps(block) == [
        Step("neurosteer fit a b |\n    cat", "line\n\n"),
        Step("curl -d '{\n  1}' \\\n  x", ""),
    ]
    assert "".join(map(str, steps(block))) == block
    with pytest.raises(ValueError, match="begins with"):
        steps("no command\n")


def test_what_varies_is_left_out_and_numbers_may_differ_in_their_last_place() -> None:
    assert alike("polite 220 texts; 45.2 s, 552 tokens/s", "polite 220 texts; 9 s, 2 tokens/s")
    assert alike("AUROC 0.98 at 151.2", "AUROC 0.97 at 151.3")
    assert not alike("AUROC 0.98", "AUROC 0.95")
    assert not alike("220 texts", "221 texts")
    assert not alike("+0.98", "-0.98")


def test_a_difference_is_told_by_its_line() -> None:
    shown, found = "```console\n$ true\na 1.0\nb\n```\n", "```console\n$ true\na 1.1\nc\n```\n"
    assert differences(shown, found) == ["- b\n+ c"]
    assert differences(shown, shown.replace("b\n", "b\nmore\n")) != []


def test_commands_run_in_order_in_one_folder_with_the_examples() -> None:
    text = "```console\n$ ls polite.jsonl > seen; cat seen\n$ python one.py\n```\n"
    file = "```python\n# one.py\nprint(1)\n```\n"
    with runner() as runs:
        assert runs.run(file + text) == file + (
            "```console\n$ ls polite.jsonl > seen; cat seen\npolite.jsonl\n$ python one.py\n1\n```\n"
        )
        assert runs.run("```console\n$ false\n```\n") == (
            "```console\n$ false\n(ended with exit code 1)\n```\n"
        )
        assert runs.failed == ["false"]
        server = "```console\n$ sh -c 'echo up; exec sleep 60' &\n{}```\n"
        assert runs.run(server.format("")) == server.format("up\n")


def test_an_output_is_cut_where_the_document_cuts_it() -> None:
    shown = Step("seq 9", "1\n...\n8\n9\n")
    assert shown.printing("1\n2\n3\n4\n") == Step("seq 9", "1\n...\n3\n4\n")
    assert Step("seq 2", "1\n").printing("1\n2\n").output == "1\n2\n"
