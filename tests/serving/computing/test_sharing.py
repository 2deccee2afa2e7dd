"""Long computations on a model that others write with: cut into parts, and worth the same."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.engines import TEXTS, by_text, passage
from support.serving import wait_for
from support.tiny import FAMILIES

from neurosteer_cli.generation.batching import batch
from neurosteer_cli.generation.batching.cache import Caching
from neurosteer_cli.generation.continuation import Continuation, Delta, GenerationConfig, Token
from neurosteer_cli.generation.sampling import Sampling
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.serving import scheduler as scheduling
from neurosteer_cli.serving.computing import sharing
from neurosteer_cli.serving.computing.sharing import SharedEngine, Turns
from neurosteer_cli.serving.scheduler import ClosedError, Scheduler
from neurosteer_cli.vectors.fitting.from_texts import fit

POINTS = [HookPoint(0), HookPoint(2, "hook_resid_pre"), HookPoint(3)]


@pytest.fixture
def scheduler(engine: Engine) -> Iterator[Scheduler]:
    found = Scheduler(engine)
    yield found
    found.close(1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("n_tokens", [1, 7, 64, 10_000])
def test_residuals_read_in_slices_are_those_read_whole(
    endless_engines: Callable[[str], Engine], monkeypatch: pytest.MonkeyPatch, family: str, n_tokens: int
) -> None:
    engine = endless_engines(family)
    scheduler = Scheduler(engine)
    monkeypatch.setattr(Turns, "n_tokens", n_tokens)
    n_pauses: list[Turns] = []
    monkeypatch.setattr(Turns, "pause", lambda turns: n_pauses.append(turns))
    texts = [engine.tokenize(passage(text)) for text in [*TEXTS, "y" * 100]]
    shared = SharedEngine.of(engine, Turns(scheduler))
    for whole, parts in (
        (by_text(engine, texts, POINTS), by_text(shared, texts, POINTS)),
        (by_text(engine, texts, POINTS[:1], 50), by_text(shared, texts, POINTS[:1], 50)),
    ):
        assert parts.keys() == whole.keys()
        for text, resid in whole.items():
            for point, expected in resid.items():
                torch.testing.assert_close(parts[text][point], expected, rtol=1e-4, atol=1e-4)
    scheduler.close(1)
    assert len(n_pauses) > 100 / n_tokens


def test_where_the_model_remembers_nothing_texts_are_read_whole(
    engine: Engine, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Caching, "can_slice", False)
    texts = [engine.tokenize(passage("to be or not"))]
    (parts,) = by_text(SharedEngine.of(engine, Turns(scheduler)), texts, POINTS).values()
    (whole,) = by_text(engine, texts, POINTS).values()
    assert all(torch.equal(parts[point], whole[point]) for point in POINTS)


def test_a_slice_takes_about_as_long_as_a_step_of_those_who_wait(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = Turns(scheduler)
    assert turns.n_tokens == 1024  # nobody waits
    monkeypatch.setattr(Scheduler, "n_running", 1)
    assert turns.n_tokens == 32
    scheduler.pace.note_step(1.0)
    turns.note(32, 0.2)
    assert turns.n_tokens == 64
    turns.note(64, 2.8 + 1e-6)
    assert turns.n_tokens == 31


def test_what_nobody_waits_for_ends_at_its_next_pause(engine: Engine, scheduler: Scheduler) -> None:
    turns = Turns(scheduler)
    turns.pause()
    turns.abandon()
    texts = [engine.tokenize(passage("y" * 100))]
    with pytest.raises(ClosedError, match="nobody waits for this any more"):
        list(SharedEngine.of(engine, turns).residuals(texts, POINTS))


@dataclass
class Clock:
    """A machine on which a pass takes 30 ms, and half a millisecond a token."""

    seconds: float = 0.0

    def run(self, _model: Any, _args: Any, given: dict[str, Any]) -> None:
        self.seconds += 0.03 + 0.0005 * given["input_ids"].numel()

    def now(self) -> float:
        return self.seconds


@pytest.fixture
def clock(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    found = Clock()
    for module in (batch, sharing, scheduling):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=found.now, monotonic=found.now))
    hook = engine.model.register_forward_pre_hook(found.run, with_kwargs=True)
    yield found
    hook.remove()


def long_fit(engine: Engine, turns: Turns) -> None:
    sides = [[f"{letter * 1200} {n}" for n in range(9)] for letter in "xy"]
    fit(SharedEngine.of(engine, turns), (sides[0], sides[1]), method="diffmean")


@pytest.mark.parametrize("what", ["a prompt", "a fit", "a prompt and a fit"])
def test_a_stream_goes_on_while_something_long_is_read(engine: Engine, clock: Clock, what: str) -> None:
    engine = replace(engine, max_tokens=2000, stop_ids=frozenset())
    scheduler, times = Scheduler(engine), list[float]()
    config = GenerationConfig(sampling=Sampling(temperature=0), max_new_tokens=1500)

    class Timed(Continuation):
        def take(self, token: Token | None) -> Delta:
            times.append(clock.seconds)
            return super().take(token)

    stream = Timed(ids=[1], key="", config=config)
    scheduler.submit([stream])
    wait_for(lambda: len(times) > 10)
    waits: list[Future[Any]] = [Future()]
    if "prompt" in what:
        short = replace(config, max_new_tokens=1)
        prompt = Continuation(ids=[7] * 1500, key="", config=short)
        prompt.on_delta = waits[0].set_result
        scheduler.submit([prompt])
    else:
        waits.clear()
    if "fit" in what:
        waits.append(scheduler.call(partial(long_fit, engine, Turns(scheduler))))
    for each in waits:
        each.result(30)
    assert not stream.finish_reason, "it is over too early to show anything"
    stream.cancel()
    scheduler.close(5)
    gaps = [after - before for before, after in pairwise(times)]
    assert max(gaps) > 1.5 * min(gaps)
    assert max(gaps) < 3 * min(gaps)
