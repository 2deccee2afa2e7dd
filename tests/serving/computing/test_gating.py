"""Gates opened by the names of vectors, and prompts held against them on the model's thread."""

from collections.abc import Iterator

import pytest
import torch
from support.tiny import D_MODEL, detecting, tiny_vector

from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.serving.computing.gating import Gating
from neurosteer_cli.serving.scheduler import ClosedError, Scheduler
from neurosteer_cli.vectors.gate import open_gate
from neurosteer_cli.vectors.steering import NOTHING, Steering

PROMPTS = [[7, 21, 3], [99], [50, 51, 52, 53, 54]]
STEERING = Steering({HookPoint(2): torch.ones(D_MODEL)})


@pytest.fixture
def scheduler(engine: Engine) -> Iterator[Scheduler]:
    found = Scheduler(engine)
    yield found
    found.close(5)


@pytest.fixture
def gating(engine: Engine, scheduler: Scheduler) -> Gating:
    draw = torch.Generator().manual_seed(0)
    push = torch.randn(D_MODEL, generator=draw)
    known = {"detects": detecting(tiny_vector(engine.shape, {HookPoint(1): push}))}
    return Gating(engine, scheduler, known.__getitem__)


def test_prompts_that_pass_are_steered_and_the_others_are_left_alone(engine: Engine, gating: Gating) -> None:
    gate = open_gate("detects>0", engine, vector_of=gating.vector_of)
    read = dict(gate.prompts(engine, PROMPTS))
    when = f"detects > {sorted(read.values())[1] - 1e-3:.5f}"
    found = gating.gated(when, "prompt", STEERING, PROMPTS)
    steered = [read[number] >= sorted(read.values())[1] for number in range(3)]
    assert found.told["steered"] == steered
    assert found.told["gate"] == pytest.approx([read[number] for number in range(3)], abs=1e-4)
    assert found.steerings == [STEERING if each else NOTHING for each in steered]


def test_tokens_are_gated_while_they_are_read(gating: Gating) -> None:
    found = gating.gated("detects>0", "token", STEERING, PROMPTS)
    assert found.told == {"when": "detects>0"}
    assert [each.gate is not None for each in found.steerings] == [True] * 3


def test_without_a_gate_all_are_steered_and_nothing_is_told(gating: Gating) -> None:
    found = gating.gated("", "prompt", STEERING, PROMPTS)
    assert (found.steerings, found.told) == ([STEERING] * 3, {})


def test_while_the_server_ends_nothing_is_read(gating: Gating, scheduler: Scheduler) -> None:
    scheduler.close(5)
    with pytest.raises(ClosedError):
        gating.gated("detects>0", "prompt", STEERING, PROMPTS)
