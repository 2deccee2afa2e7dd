"""What is written under a constraint is JSON of its schema, whatever the model would rather say."""

import json
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema_rs
import pytest
import torch
from llguidance import hf

from neurosteer_cli.errors import InputError
from neurosteer_cli.generation import constraints
from neurosteer_cli.generation.constraints import ANY_OBJECT, JSONConstraints
from neurosteer_cli.generation.continuation import Continuation, GenerationConfig, Token
from neurosteer_cli.generation.text import TextStream
from neurosteer_cli.models.engine import Engine

MOOD = {
    "type": "object",
    "properties": {
        "mood": {"enum": ["happy", "sad"]},
        "marks": {"type": "array", "items": {"type": "integer"}},
    },
    "required": ["mood", "marks"],
    "additionalProperties": False,
}


def drawn(engine: Engine, schema: dict[str, Any], seed: int, most: int = 400) -> str | None:
    """A text of tokens drawn among those allowed; None if it was not whole after `most`."""
    constraint, noise = JSONConstraints(engine).of_schema(schema), torch.Generator().manual_seed(seed)
    written: list[int] = []
    for _ in range(most):
        tokens = constraint.allowed(engine.shape.d_vocab).nonzero().flatten()
        token = int(tokens[torch.randint(len(tokens), (1,), generator=noise)])
        if token in engine.stop_ids:
            return engine.decode([], written)
        written.append(token)
        if constraint.take(token):
            return engine.decode([], written)
    return None


@pytest.mark.parametrize("schema", [ANY_OBJECT, MOOD])
def test_whatever_is_drawn_is_of_the_schema(engine: Engine, schema: dict[str, Any]) -> None:
    texts = [text for seed in range(12) if (text := drawn(engine, schema, seed)) is not None]
    assert len(texts) >= 6
    for text in texts:
        assert jsonschema_rs.is_valid(schema, json.loads(text)), text


def test_a_text_can_end_only_once_it_is_whole(engine: Engine) -> None:
    constraint = JSONConstraints(engine).of_schema({"type": "integer"})
    (end,) = engine.stop_ids
    assert not constraint.allowed(engine.shape.d_vocab)[end]
    assert not constraint.take(engine.prompt_ids("7")[-1])
    assert constraint.allowed(engine.shape.d_vocab)[end]


def test_the_tokenizer_is_made_once_and_before_anybody_asks(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, from_tokenizer = threading.Semaphore(0), hf.from_tokenizer

    def counted(*arguments: Any, **options: Any) -> Any:
        made.release()
        return from_tokenizer(*arguments, **options)

    monkeypatch.setattr(hf, "from_tokenizer", counted)
    json_constraints = JSONConstraints(engine)
    assert made.acquire(timeout=10)
    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(json_constraints.of_schema, [ANY_OBJECT, MOOD] * 2))) == 4
    assert not made.acquire(blocking=False)


def test_a_copy_goes_on_by_itself(engine: Engine) -> None:
    one = JSONConstraints(engine).of_schema({"enum": [1, 2]})
    other = one.copy()
    assert one.take(engine.prompt_ids("1")[-1])
    assert other.allowed(engine.shape.d_vocab).sum() == 2
    assert other.take(engine.prompt_ids("2")[-1])


def test_a_schema_that_is_given_up_ends_no_text_as_if_it_were_whole(engine: Engine) -> None:
    schema = {"type": "string", "pattern": "^(.*a.{90}.*b.{90}.*c.{90}.*){9}$"}
    constraint, noise = JSONConstraints(engine).of_schema(schema), random.Random(0)
    letters = [engine.prompt_ids(letter)[-1] for letter in "abc"]
    token = engine.prompt_ids('"')[-1]
    for _ in range(2000):
        if not constraint.allowed(engine.shape.d_vocab)[token]:
            break
        constraint.take(token)
        token = noise.choice(letters)
    assert constraint.allowed(engine.shape.d_vocab).nonzero().flatten().tolist() == [*engine.stop_ids]
    config = GenerationConfig()
    one = Continuation(ids=engine.prompt_ids("x"), key="", config=config, constraint=constraint)
    for ended in (None, Token(token, 0)):
        one.stream = TextStream(engine, one.ids)
        with pytest.raises(InputError, match=r"^the JSON schema takes too much .*too many expressions"):
            one.take(ended)
        assert one.finish_reason is None


def test_tokens_beyond_the_tokenizers_are_not_allowed(engine: Engine) -> None:
    allowed = JSONConstraints(engine).of_schema(ANY_OBJECT).allowed(engine.shape.d_vocab + 40)
    assert allowed.shape == (engine.shape.d_vocab + 40,)
    assert allowed.nonzero().flatten().tolist() == [engine.prompt_ids("{")[-1]]


@pytest.mark.parametrize(
    ("schema", "why"),
    [({"type": "nonsense"}, "Invalid type: nonsense"), ({"$ref": "#/no"}, "Pointer '/no' does not exist")],
)
def test_what_is_no_schema_is_named(engine: Engine, schema: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError) as caught:
        JSONConstraints(engine).of_schema(schema)
    assert str(caught.value) == f"not a JSON schema that can be held to ({why})"


def test_without_the_library_its_extra_is_named(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constraints, "find_spec", lambda _name: None)
    with pytest.raises(
        InputError, match=r"^JSON needs llguidance: install it with pip install 'neurosteer\[json\]'$"
    ):
        JSONConstraints(engine).of_schema(ANY_OBJECT)
