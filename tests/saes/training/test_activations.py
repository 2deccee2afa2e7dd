"""Activations on disk: the right ones, in the right unit, and the same after an interruption."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.tiny import D_MODEL

from neurosteer_cli.errors import InputError
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.models.residuals import OUTLIER, packed
from neurosteer_cli.models.tokenizer import Tokens
from neurosteer_cli.saes.training.activations import ActivationStore, ReadingState, order_of

POINTS = [HookPoint(1), HookPoint(3)]


def sequences(engine: Engine, n: int = 80) -> Iterator[Tokens]:
    return packed(engine, [f"document {i} of some {'very ' * (i % 7)}few words" for i in range(n)], 32)


def ignore(_n: int) -> None:
    pass


def test_rows_are_the_counted_residuals_in_training_units(engine: Engine, tmp_path: Path) -> None:
    store = ActivationStore(tmp_path, POINTS, D_MODEL)
    store.fill(engine, sequences(engine), 10**6, ignore)
    resid = torch.cat(
        [torch.stack([batch.resid[point] for point in POINTS], 1)
         for group in _groups(list(sequences(engine)))
         for batch in engine.residuals(group, POINTS)]
    )  # [n, n_points, d_model]  # fmt: skip
    norms = resid.norm(dim=-1)
    kept = resid[(norms < OUTLIER * torch.tensor(store.state.medians)).all(-1)]
    rows = store.draw(torch.arange(store.state.n_rows))
    assert store.state.exhausted
    torch.testing.assert_close(rows, kept * torch.tensor(store.state.scales)[:, None], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(
        rows.norm(dim=-1).mean(0), torch.full((2,), math.sqrt(D_MODEL)), rtol=0.1, atol=0.0
    )


def _groups(every: list[Tokens]) -> Iterator[list[Tokens]]:
    for start in range(0, len(every), 32):
        yield every[start : start + 32]


def test_rows_are_drawn_in_the_order_asked_for(engine: Engine, tmp_path: Path) -> None:
    store = ActivationStore(tmp_path, POINTS, D_MODEL)
    store.fill(engine, sequences(engine), 50, ignore)
    every = store.draw(torch.arange(50))
    asked = torch.tensor([7, 0, 49, 7])
    assert torch.equal(store.draw(asked), every[asked])


def test_it_stops_at_the_rows_asked_for_and_goes_on_with_what_comes_next(
    engine: Engine, tmp_path: Path
) -> None:
    store = ActivationStore(tmp_path, POINTS, D_MODEL)
    told: list[int] = []
    store.fill(engine, sequences(engine), 100, told.append)
    assert (store.state.n_rows, told[-1], store.state.exhausted) == (100, 100, False)
    read = store.state.n_sequences
    store.next_round()
    store.fill(engine, sequences(engine), 100, ignore)
    assert (store.state.round, store.state.n_rows) == (1, 100)
    assert store.state.n_sequences > read


def test_no_more_sequences_are_run_than_the_rows_need(engine: Engine, tmp_path: Path) -> None:
    store = ActivationStore(tmp_path, POINTS, D_MODEL)
    store.fill(engine, sequences(engine), 100, ignore)
    n_counted = [sum(tokens.counts) for tokens in sequences(engine)]
    n_read = store.state.n_sequences
    assert sum(n_counted[:n_read]) >= 100 > sum(n_counted[: n_read - 1])


def test_an_outlier_in_norm_is_left_out(tmp_path: Path) -> None:
    store = ActivationStore(tmp_path, POINTS, D_MODEL)
    resid = torch.randn(40, 2, D_MODEL)
    resid[5, 1] *= 100
    store._take(resid, [], 1000)
    assert store.state.n_rows == 39


@pytest.mark.parametrize("written_beyond", [0, 7])
def test_a_reading_that_was_interrupted_ends_with_the_same_rows(
    written_beyond: int, engine: Engine, tmp_path: Path
) -> None:
    whole = ActivationStore(tmp_path, POINTS, D_MODEL)
    whole.fill(engine, sequences(engine), 10**6, ignore)
    other = tmp_path / "other"
    other.mkdir()
    first = ActivationStore(other, POINTS, D_MODEL)
    first.fill(engine, iter(list(sequences(engine))[:32]), 10**6, ignore)
    with first.rows_file.open("ab") as file:  # a group that was not noted down
        file.write(b"x" * written_beyond)
    state = ReadingState.load(first.state_file)
    assert state.n_sequences == 32
    ReadingState(**{**state.__dict__, "exhausted": False}).save(first.state_file)
    second = ActivationStore(other, POINTS, D_MODEL)
    second.fill(engine, sequences(engine), 10**6, ignore)
    assert second.rows_file.read_bytes() == whole.rows_file.read_bytes()
    assert second.state == whole.state


def test_another_corpus_is_noticed(engine: Engine, tmp_path: Path) -> None:
    store = ActivationStore(tmp_path, POINTS, D_MODEL)
    store.fill(engine, sequences(engine), 100, ignore)
    with pytest.raises(InputError, match="the corpus is not the one this training has read so far"):
        store.fill(engine, packed(engine, ["something else " * 200], 32), 200, ignore)


def test_orders_are_permutations_that_differ_by_round_and_epoch() -> None:
    orders = [order_of(50, (0, round_, epoch)) for round_ in range(3) for epoch in range(3)]
    assert all(sorted(order.tolist()) == list(range(50)) for order in orders)
    assert len({tuple(order.tolist()) for order in orders}) == 9
    assert torch.equal(orders[0], order_of(50, (0, 0, 0)))
