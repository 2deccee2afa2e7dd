"""Continuations that join and leave a batch say what they say alone, in every family of models."""

import random
from collections import deque
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.tiny import D_MODEL, D_VOCAB

from neurosteer_cli.generation.batching import batch as batch_module
from neurosteer_cli.generation.batching import cache
from neurosteer_cli.generation.batching.batch import Batch
from neurosteer_cli.generation.batching.pace import FIRST_SLICE, SHORTEST_SLICE, WAIT, Pace
from neurosteer_cli.generation.continuation import Continuation, GenerationConfig
from neurosteer_cli.generation.sampling import Sampling
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.vectors.steering import Steering

POINTS = (HookPoint(1), HookPoint(2))
SAMPLINGS = (
    Sampling(temperature=0),
    Sampling(temperature=1.0, top_p=0.9, seed=3),
    Sampling(temperature=0.8, top_k=5, repetition_penalty=1.5, seed=4),
)


def continuation(number: int, **changes: Any) -> Continuation:
    """One like no other: prompts of 1 to 70 tokens, all samplings and positions, other pushes."""
    draw = random.Random(number)
    noise = torch.Generator().manual_seed(number)
    points = POINTS[: number % 3]
    values: dict[str, Any] = {
        "ids": [draw.randrange(D_VOCAB) for _ in range(draw.choice([1, 3, 12, 70]))],
        "steering": Steering({point: 20 * torch.randn(D_MODEL, generator=noise) for point in points}),
        "positions": ("all", "prompt", "generated")[number % 3 if number % 2 else 0],
        "sampling": SAMPLINGS[number % len(SAMPLINGS)],
        "key": str(number),
        "max_new_tokens": draw.choice([1, 4, 9, 25]),
        **changes,
    }
    config = {name: values.pop(name) for name in ("positions", "sampling", "max_new_tokens")}
    return Continuation(**values, config=GenerationConfig(**config))


def alone(engine: Engine, number: int, **changes: Any) -> list[int]:
    batch, one = Batch(engine), continuation(number, **changes)
    batch.join([one])
    while len(batch):
        batch.step()
    return one.written


@pytest.mark.parametrize("schedule", range(4))
def test_continuations_that_join_at_any_time_say_what_they_say_alone(engine: Engine, schedule: int) -> None:
    draw = random.Random(schedule)
    waiting = [(number, continuation(number)) for number in range(schedule, schedule + 14)]
    everyone = list(waiting)
    batch, most = Batch(engine), 0
    while waiting or len(batch):
        n = draw.choice([0, 0, 1, 2, 5])
        newcomers, waiting = waiting[:n], waiting[n:]
        batch.join([one for _, one in newcomers])
        batch.step()
        most = max(most, len(batch))
    assert most > 3
    for number, one in everyone:
        assert one.finish_reason == "length"
        assert one.written == alone(engine, number), number


def test_continuations_that_leave_change_nothing_for_the_others(engine: Engine) -> None:
    several = [continuation(number, max_new_tokens=20) for number in range(8)]
    batch = Batch(engine)
    batch.join(several)
    several[5].cancel()  # before its first token
    for step in range(10):
        batch.step()
        several[step % 4].cancel()
    assert len(batch) == 3
    while len(batch):
        batch.step()
    assert [len(one.written) for one in several] == [1, 2, 3, 4, 20, 0, 20, 20]
    for number in (4, 6, 7):
        assert several[number].written == alone(engine, number, max_new_tokens=20)


def test_leaving_twice_or_after_the_end_is_nothing(llama: Engine) -> None:
    first, second = continuation(0, max_new_tokens=1), continuation(1, max_new_tokens=3)
    batch = Batch(llama)
    batch.join([first, second])
    batch.step()
    first.cancel()
    first.cancel()
    assert len(batch) == 1
    batch.step()
    first.cancel()
    assert len(batch) == 1


def test_a_step_gives_newcomers_their_first_token_and_the_others_none(llama: Engine) -> None:
    old, new = continuation(0, max_new_tokens=9), continuation(1, max_new_tokens=9)
    batch = Batch(llama)
    batch.join([old])
    batch.step()
    batch.join([new])
    assert [one for one, _ in batch.step()] == [new]
    assert [one for one, _ in batch.step()] == [old, new]
    assert (len(old.written), len(new.written)) == (2, 2)


def test_an_empty_batch_steps_to_nothing(llama: Engine) -> None:
    batch = Batch(llama)
    assert batch.step() == []
    batch.join([continuation(0, max_new_tokens=1)])
    batch.step()
    assert batch.step() == []
    assert len(batch) == 0


def test_columns_of_pads_alone_are_let_go(llama: Engine) -> None:
    long, short = (
        continuation(0, ids=[5] * 70, max_new_tokens=1),
        continuation(1, ids=[5, 6], max_new_tokens=5),
    )
    batch = Batch(llama)
    batch.join([long, short])
    batch.step()
    batch.step()
    assert batch._rows.mask.shape == (1, 4)  # two of the prompt, one in the cache since, one chosen
    assert {layer.keys.shape[-2] for layer in batch._rows.cache.layers} == {3}


def test_a_cache_of_another_kind_is_given_no_pads_and_takes_rows_in_when_it_is_empty(
    llama: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "PADDED", ())
    monkeypatch.setattr(cache, "JOINED", ())
    several = [continuation(number, ids=[5 + number] * n) for number, n in enumerate((3, 3, 9, 3))]
    batch = Batch(llama)
    batch.join(several[:3])
    batch.step()
    assert [len(one.written) for one in several] == [1, 1, 0, 0]
    batch.join(several[3:])
    shapes = set()
    while len(batch):
        batch.step()
        shapes.add(tuple(batch._rows.mask.all(-1).tolist()))
    assert shapes <= {(True, True), (True,), ()}
    for number, n in enumerate((3, 3, 9, 3)):
        assert several[number].written == alone(llama, number, ids=[5 + number] * n)


def test_who_waits_joins_in_order_while_there_is_room(llama: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_module, "TOKENS_IN_CACHE", 48)
    monkeypatch.setattr(batch_module, "TOKENS_PER_PASS", 20)

    def admitted(batch: Batch, *sizes: tuple[int, int]) -> int:
        waiting = deque(continuation(0, ids=[5] * n, max_new_tokens=new) for n, new in sizes)
        first, n_waiting = waiting[0], len(waiting)
        joined = batch.admit(waiting)
        assert len(joined) + len(waiting) == n_waiting
        assert not joined or joined[0] is first
        return len(joined)

    assert admitted(Batch(llama, 3), *[(2, 2)] * 9) == 3
    assert admitted(Batch(llama), *[(4, 12)] * 9) == 3  # 3 x 16 tokens
    assert admitted(Batch(llama), (2, 2), (8, 16), (2, 2)) == 2  # 2 x 24, the shorter one's pads counted
    assert admitted(Batch(llama), *[(7, 1)] * 9) == 2  # 3 x 7 tokens of prompts are too many for one pass
    assert admitted(Batch(llama), *[(100, 20)] * 2) == 1  # one alone is always let in
    batch = Batch(llama)
    assert (admitted(batch, (9, 7)), admitted(batch, *[(9, 7)] * 3)) == (1, 2)


def test_those_of_one_noise_that_join_together_share_its_draws_and_others_begin_anew(llama: Engine) -> None:
    batch = Batch(llama)
    first, second, third = (continuation(1, key="k", max_new_tokens=9) for _ in range(3))
    batch.join([first, second])
    assert first.generator is second.generator
    batch.step()
    batch.join([third])
    while len(batch):
        batch.step()
    assert first.written == second.written == third.written


def test_log_probabilities_are_those_of_the_steered_model(llama: Engine) -> None:
    one = continuation(4, n_log_probs=3, positions="all", max_new_tokens=4)
    other = continuation(1, n_log_probs=None)
    batch = Batch(llama)
    batch.join([one, other])
    told = [
        token for _ in range(4) for stepped, delta in batch.step() if stepped is one for token in delta.tokens
    ]
    handles = [
        llama.blocks[point.layer].register_forward_hook(lambda _b, _a, out, push=push: out + push)
        for point, push in one.steering.pushes.items()
    ]
    with torch.no_grad():
        logits = llama.model(input_ids=torch.tensor([one.ids + one.written])).logits[0]
    for handle in handles:
        handle.remove()
    expected = logits.log_softmax(-1)[len(one.ids) - 1 : -1]
    for token, written, row in zip(told, one.written, expected, strict=True):
        assert token.id == written
        assert token.log_prob == pytest.approx(float(row[written]), abs=1e-4)
        top = row.topk(3)
        assert [other for other, _ in token.most_probable] == top.indices.tolist()
        assert [value for _, value in token.most_probable] == pytest.approx(top.values.tolist(), abs=1e-4)


def test_a_stop_token_ends_a_continuation_and_is_not_part_of_it(llama: Engine) -> None:
    first = alone(llama, 0, max_new_tokens=3)
    engine = replace(llama, stop_ids=frozenset({first[1]}))
    batch, one = Batch(engine), continuation(0, max_new_tokens=3)
    batch.join([one])
    while len(batch):
        batch.step()
    assert (one.written, one.finish_reason) == (first[: first.index(first[1])], "stop")


# --- slices ------------------------------------------------------------------------------------


@pytest.fixture
def short_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices of a few tokens, of a number that differs from slice to slice."""
    draw = random.Random(5)
    monkeypatch.setattr(batch_module, "SLICE_ALONE", 7)
    monkeypatch.setattr(Pace, "next_slice", lambda *_: draw.randrange(1, 12))


@pytest.mark.parametrize("schedule", range(4))
@pytest.mark.usefixtures("short_slices")
def test_prompts_that_are_read_in_slices_are_continued_as_if_read_whole(
    engine: Engine, schedule: int
) -> None:
    draw = random.Random(schedule)
    waiting = [(number, continuation(number)) for number in range(schedule, schedule + 14)]
    everyone = list(waiting)
    batch = Batch(engine, pace=Pace())
    while waiting or len(batch):
        n = draw.choice([0, 0, 0, 1, 2, 5])
        newcomers, waiting = waiting[:n], waiting[n:]
        batch.join([one for _, one in newcomers])
        batch.step()
    for number, one in everyone:
        assert one.written == alone(engine, number), number


@pytest.mark.usefixtures("short_slices")
def test_those_being_written_get_a_token_between_two_slices(llama: Engine) -> None:
    old = continuation(0, ids=[5, 6], max_new_tokens=40)
    long, short = (continuation(n, ids=[7] * length, max_new_tokens=3) for n, length in ((1, 90), (2, 3)))
    batch = Batch(llama, pace=Pace())
    batch.join([old])
    batch.step()
    batch.join([long])
    given = [[one for one, _ in batch.step()] for _ in range(6)]
    assert given == [[old], [], [old], [], [old], []]
    batch.join([short])  # a short prompt does not wait for the end of a long one
    while not short.written:
        batch.step()
    assert not long.written
    while not long.written:
        before = len(old.written)
        batch.step(), batch.step()
        assert len(old.written) == before + 1


@pytest.mark.usefixtures("short_slices")
def test_who_leaves_while_prompts_are_read_changes_nothing_for_the_others(engine: Engine) -> None:
    lengths = (40, 50, 60, 70)
    several = [continuation(n, ids=[n + 3] * length, max_new_tokens=6) for n, length in enumerate(lengths)]
    batch = Batch(engine, pace=Pace())
    batch.join(several)
    batch.step()
    several[3].cancel()  # the longest: the columns that only it had go, read or not
    batch.step()
    several[0].cancel()
    while len(batch):
        batch.step()
    assert [len(one.written) for one in several] == [0, 6, 6, 0]
    for n in (1, 2):
        assert several[n].written == alone(engine, n, ids=[n + 3] * lengths[n], max_new_tokens=6)


def test_a_slice_takes_about_as_long_as_those_who_wait_for_it_may() -> None:
    pace = Pace()
    assert pace.next_slice(100, 1.0) == FIRST_SLICE  # nobody has waited yet
    for seconds in (0.1, 0.1, 5.0, 0.1):
        pace.note_step(seconds)
    assert pace.next_slice(100, WAIT * 0.1) == 100
    assert pace.next_slice(100, WAIT * 0.2) == 50
    assert pace.next_slice(100, 0.001) == 200
    assert pace.next_slice(100, 60.0) == SHORTEST_SLICE
