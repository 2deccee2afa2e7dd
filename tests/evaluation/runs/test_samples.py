"""Records as samples: what they say of the condition they were written in, and which are refused."""

import pytest

from neurosteer_cli.data.records import Located
from neurosteer_cli.errors import InputError
from neurosteer_cli.evaluation.runs.samples import RANDOM, UNSTEERED, Condition, samples


def located(**record: object) -> list[Located]:
    return [Located("f:1", record)]


def test_the_published_layout_is_read() -> None:
    found = list(samples(located(prompt={"text": "a"}, generations=[{"text": " b"}, {"text": " c"}]), "f"))
    assert [(s.prompt, s.text, s.number, s.condition) for s in found] == [
        ("a", " b", 0, Condition(alphas=None, source="f")),
        ("a", " c", 1, Condition(alphas=None, source="f")),
    ]


@pytest.mark.parametrize(
    ("record", "condition"),
    [
        ({"vectors": [], "alpha": 0.0}, Condition((), (), "all", UNSTEERED)),
        ({"vectors": ["v"], "alpha": 0}, Condition(("v",), (0.0,), "all", UNSTEERED)),
        ({"vectors": ["v"], "alpha": 8, "positions": "prompt"}, Condition(("v",), (8.0,), "prompt")),
        ({"vectors": ["v", "w"], "alpha": [8, 1]}, Condition(("v", "w"), (8.0, 1.0))),
        ({"vectors": ["v"], "alpha": 8, "baseline": "random"}, Condition(("v",), (8.0,), "all", RANDOM)),
        ({}, Condition(alphas=None, source="f")),
    ],
)
def test_a_record_says_its_condition(record: dict[str, object], condition: Condition) -> None:
    (found,) = samples(located(prompt="a", text="b", **record), "f")
    assert found.condition == condition


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "a"}, "f:1: a prompt without its continuation"),
        ({"text": "a"}, "f:1: no 'prompt' key; records are those that `gen --json` writes"),
        ({"prompt": "a", "text": "b", "alpha": "8", "vectors": ["v"]}, "f:1: 'alpha' must be a number"),
        ({"prompt": "a", "text": "b", "alpha": [8, 1], "vectors": ["v"]}, "f:1: 1 'vectors' and 2 alphas"),
        ({"prompt": "a", "text": "b", "alpha": 8, "vectors": "v"}, "f:1: 'vectors' must be a list of names"),
        ({"prompt": "a", "text": "b", "alpha": 0, "baseline": "x"}, "f:1: 'baseline' is 'x'"),
        ({"prompt": "a", "text": "b", "sample": "1"}, "f:1: 'sample' must be a number"),
        ({"prompt": "a", "generations": []}, "f:1: 'generations' without the layout"),
        ({"prompt": {"text": "a"}, "generations": [7]}, "f:1: generation 1 is no object"),
        ({"prompt": {}, "generations": [{"text": "a"}]}, "f:1: no 'text' key"),
    ],
)
def test_a_record_of_no_known_form_is_refused(record: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        list(samples(located(**record), "f"))
