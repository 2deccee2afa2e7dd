"""How vectors act, as options say it: the vectors that come of them, and what is refused before any work."""

from pathlib import Path
from typing import Any

import pytest
from support.cli import refused

from neurosteer_cli.commands.shared.acting import ActingOptions
from neurosteer_cli.errors import InputError

pytestmark = pytest.mark.usefixtures("in_fitted_folder")


def test_vectors_act_as_their_files_say_or_as_is_asked() -> None:
    paths = [Path("a.st"), Path("b.st")]
    assert [(name, v.metadata.kind, v.default_alpha) for name, v in ActingOptions().load(paths)] == [
        ("a.st", "add", 8.0),
        ("b.st", "add", 8.0),
    ]
    ablating = ActingOptions(kind="ablate").load(paths)
    assert [(v.metadata.kind, v.default_alpha) for _, v in ablating] == [("ablate", 1.0)] * 2


@pytest.mark.parametrize(
    ("options", "paths", "message"),
    [
        ({"kind": "subtract"}, ["a.st"], "--kind must be one of add, ablate, clamp, logits, got 'subtract'"),
        ({"when_each": "word"}, ["a.st"], "--when-each must be one of prompt, token, got 'word'"),
        ({"when_each": "token"}, ["a.st"], "--when-each without --when: name the gate"),
        ({"kind": "ablate"}, [], "--kind without --vector: name what is to act"),
        ({"when": "a.st<0"}, [], "--when without --vector: name what is to act"),
        ({"kind": "logits"}, ["a.st"], "a.st: a vector of the kind add cannot act as logits"),
        ({"when": "a.st"}, ["a.st"], "gate 'a.st': write a vector or a latent, < or >, and a number: 'pol"),
        ({"when": "nowhere.st<0"}, ["a.st"], "nowhere.st: no such file"),
        ({}, ["nowhere.st"], "nowhere.st: no such file"),
    ],
)
def test_what_cannot_act_so_is_refused(options: dict[str, Any], paths: list[str], message: str) -> None:
    with pytest.raises(InputError) as told:
        ActingOptions(**options).load([Path(path) for path in paths])
    assert str(told.value).startswith(message)


@pytest.mark.parametrize("command", [("gen", "hello"), ("eval", "--alpha", "1")])
def test_commands_refuse_it_before_a_model_is_loaded(command: tuple[str, ...]) -> None:
    asked = (*command, "-v", "a.st", "-m", "nowhere")
    assert refused(*asked, "--kind", "x") == (
        "error: --kind must be one of add, ablate, clamp, logits, got 'x'"
    )
    assert refused(*asked, "--when", "a.st") == (
        "error: gate 'a.st': write a vector or a latent, < or >, and a number: 'polite.st<0', '20/1234>0.5'"
    )
