"""A prompt is read once for all that go on from it alike, and they say what each says alone."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from support.tiny import D_MODEL

from neurosteer_cli.generation.batching import batch as batch_module
from neurosteer_cli.generation.batching.batch import Batch
from neurosteer_cli.generation.batching.pace import Pace
from neurosteer_cli.generation.continuation import Continuation, Echo, GenerationConfig
from neurosteer_cli.generation.sampling import Sampling
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.vectors.kinds import TokenBias
from neurosteer_cli.vectors.steering import NOTHING, Steering

PROMPT = [40 + 3 * n for n in range(30)]
PUSHED = Steering({HookPoint(1): 20 * torch.randn(D_MODEL, generator=torch.Generator().manual_seed(1))})
URGED = Steering(bias=TokenBias(torch.arange(60), torch.linspace(-3, 3, 60)))


def one(sample: int, steering: Steering = NOTHING, positions: str = "all", **changes: Any) -> Continuation:
    config = GenerationConfig(sampling=Sampling(temperature=2.0), positions=positions, max_new_tokens=6)
    values = {"ids": PROMPT, "key": "prompt", "config": config, **changes}
    return Continuation(sample=sample, steering=steering, **values)


@contextmanager
def tokens_read(engine: Engine) -> Iterator[list[int]]:
    """The number of tokens of each pass, pads counted."""
    sizes: list[int] = []
    handle = engine.model.register_forward_pre_hook(
        lambda _module, _args, given: sizes.append(given["input_ids"].numel()), with_kwargs=True
    )
    try:
        yield sizes
    finally:
        handle.remove()


def written(engine: Engine, several: list[Continuation], **settings: Any) -> list[list[int]]:
    batch, waiting = Batch(engine, **settings), deque(several)
    while waiting or len(batch):
        batch.admit(waiting)
        batch.step()
    return [each.written for each in several]


def alone(engine: Engine, several: list[Continuation]) -> list[list[int]]:
    return [written(engine, [each])[0] for each in several]


@pytest.mark.parametrize("steering", [NOTHING, PUSHED, URGED], ids=["unsteered", "pushed", "urged"])
def test_samples_of_a_prompt_read_it_once_and_say_what_each_says_alone(
    engine: Engine, steering: Steering
) -> None:
    with tokens_read(engine) as sizes:
        found = written(engine, [one(sample, steering) for sample in range(5)])
    assert sizes == [len(PROMPT)] + [5] * 5
    assert found == alone(engine, [one(sample, steering) for sample in range(5)])
    assert len(set(map(tuple, found))) == 5


def test_only_those_that_are_steered_alike_share_a_prompt(llama: Engine) -> None:
    several = [
        *(one(sample) for sample in range(2)),
        *(one(sample, PUSHED) for sample in range(2)),
        *(one(sample, PUSHED, "prompt") for sample in range(2)),
        one(0, ids=[*PROMPT, 7]),
    ]
    with tokens_read(llama) as sizes:
        found = written(llama, several)
    assert sizes == [4 * (len(PROMPT) + 1)] + [7] * 5
    again = [one(each.sample, each.steering, each.config.positions, ids=each.ids) for each in several]
    assert found == alone(llama, again)


def test_prompts_whose_log_probabilities_are_wanted_are_read_for_each(llama: Engine) -> None:
    several = [one(sample, echo=Echo.of(llama, PROMPT), n_log_probs=1) for sample in range(2)]
    with tokens_read(llama) as sizes:
        written(llama, several)
    assert sizes[0] == 2 * len(PROMPT)
    assert [len(each.echo.tokens) for each in several if each.echo] == [len(PROMPT)] * 2


def test_who_leaves_while_a_prompt_is_read_takes_it_from_nobody(
    llama: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_module, "SLICE_ALONE", 7)
    several = [one(sample) for sample in range(4)]
    batch = Batch(llama, pace=Pace())
    batch.join(several)
    batch.step()  # a slice
    assert len(batch) == 4
    several[0].cancel()  # the first, by which the prompt is read
    several[2].cancel()
    while len(batch):
        batch.step()
    assert [len(each.written) for each in several] == [0, 6, 0, 6]
    assert [several[1].written, several[3].written] == alone(llama, [one(1), one(3)])


def test_a_prompt_that_nobody_waits_for_is_read_no_further(
    llama: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_module, "SLICE_ALONE", 7)
    several = [one(sample) for sample in range(2)]
    batch = Batch(llama, pace=Pace())
    batch.join(several)
    batch.step()
    for each in several:
        each.cancel()
    with tokens_read(llama) as sizes:
        batch.step()
    assert not sizes


def test_a_long_prompt_of_many_samples_lets_all_of_them_in_at_once(
    llama: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_module, "TOKENS_PER_PASS", 40)
    batch, waiting = Batch(llama), deque(one(sample) for sample in range(5))
    assert len(batch.admit(waiting)) == 5
    waiting = deque(one(0, ids=[*PROMPT, sample]) for sample in range(5))
    assert len(batch.admit(waiting)) == 1
