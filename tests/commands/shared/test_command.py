"""A command line is read as people type it, and what would be dropped in silence is refused."""

import pytest
from support.cli import refused

from neurosteer_cli.commands.shared.command import pasteable


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["gen", "--seed", "1", "--seed", "2", "hi"], "--seed is given 2 times; give it once"),
        (["gen", "-n", "1", "-n", "2", "-n3", "hi"], "-n is given 3 times; give it once"),
        (["gen", "-m", "a", "--model", "b", "hi"], "--model/-m is given 2 times; give it once"),
        (["fit", "a", "b", "--sae", "x", "--sae=y"], "--sae is given 2 times; give it once"),
        (["eval", "--prompts", "p", "--prompts", "q"], "--prompts is given 2 times; give it once"),
        (["eval", "--judge-data", "pos", "--prompts", "p"], "--judge-data takes 2 values: POS NEG"),
        (["sae", "train", "c", "--k", "2", "--k", "3"], "--k is given 2 times; give it once"),
        (["gen", "--seed", "x", "hi"], "--seed 'x': not a whole number"),
        (["gen", "-n", "1.5", "hi"], "-n '1.5': not a whole number"),
        (["gen", "--temperature", "warm", "hi"], "--temperature 'warm': not a number"),
        (["gen", "- item"], "No such option: - ; a text that begins with a dash goes after --"),
        (["gen", "--mode", "x"], "No such option: --mode (Possible options: --dtype, --judge, --model)"),
    ],
)
def test_what_would_be_dropped_is_refused(typed: list[str], said: str) -> None:
    assert refused(*typed) == f"Error: {said}"


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["gen", "-a=-8", "hi"], "--alpha without --vector: name the vector to add"),
        (["gen", "-n=0", "hi"], "-n must be at least 1, got 0"),
        (["gen", "-n=0", "--", "-n=1"], "-n must be at least 1, got 0"),
        (["layers", "a", "b", "--layers", "3-1"],
         "--layers 3-1: not block numbers, from 0, such as 20, 14,17,20 or 11-20"),
        (["layers", "a", "b", "--layers", "1", "--layer", "0-2"], "--layers 1,0-2: each block once"),
    ],
)  # fmt: skip
def test_what_is_typed_is_understood(typed: list[str], said: str) -> None:
    assert refused(*typed) == f"error: {said}"


def test_a_flag_may_be_given_twice() -> None:
    assert refused("gen", "--json", "--json", "-n=0", "hi") == "error: -n must be at least 1, got 0"


def test_examples_are_wrapped_for_a_shell() -> None:
    words = " ".join(f"--option-{i} value" for i in range(6))
    assert pasteable(f'What it does.\n\nExample: neurosteer gen {words} "two words"') == (
        "What it does.\n\n\b\nExample:\n"
        "  neurosteer gen --option-0 value --option-1 value --option-2 value \\\n"
        '      --option-3 value --option-4 value --option-5 value "two words"'
    )
    assert pasteable("Without one.") == "Without one."
