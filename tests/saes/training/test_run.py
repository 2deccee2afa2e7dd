"""Training from text to folders: seconds on a tiny model, the same after a kill, nothing half-written."""

import errno
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sae_lens import SAE
from safetensors.torch import load_file
from support.tiny import D_MODEL

from neurosteer_cli.data.corpus import Part, corpus_files
from neurosteer_cli.errors import InputError, OutputError
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.saes.load import load_sae
from neurosteer_cli.saes.training import checkpoint
from neurosteer_cli.saes.training.activations import ActivationStore
from neurosteer_cli.saes.training.config import STATE_FOLDER, Progress, TrainingConfig
from neurosteer_cli.saes.training.run import Training

POINTS = ("blocks.1.hook_resid_post", "blocks.2.hook_resid_post")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[Part]:
    """Forty documents of about 400 bytes: 16,000 tokens of the tiny tokenizer."""
    words = ["alpha", "beta", "gamma", "the", "of", "to", "cat", "dog", "house", "river", "green", "sleeps"]
    generator = torch.Generator().manual_seed(0)
    file = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    with file.open("w") as stream:
        for _ in range(40):
            drawn = torch.randint(len(words), (80,), generator=generator).tolist()
            stream.write(json.dumps({"text": " ".join(words[i] for i in drawn)}) + "\n")
    return corpus_files([str(file)])


def config(engine: Engine, **changes: object) -> TrainingConfig:
    base = TrainingConfig(
        model_id=engine.model_id, points=POINTS, architecture="topk", d_sae=48, k=6, n_tokens=9000, epochs=2,
        rows_per_round=4000, context=64, batch_size=256, lr=3e-3, seed=0, init=None, dtype="float32",
        device="cpu",
    )  # fmt: skip
    return replace(base, **changes)  # type: ignore[arg-type]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {
        f"{point}/{name}": tensor
        for point in POINTS
        for name, tensor in load_file(folder / point / "sae_weights.safetensors").items()
    }


@pytest.fixture(scope="module")
def uninterrupted(
    engine: Engine, corpus: list[Part], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[Progress]]:
    folder = tmp_path_factory.mktemp("whole") / "out"
    told: list[Progress] = []
    Training(config(engine), engine, corpus, folder, tell=told.append).run()
    return folder, told


def test_it_learns_and_leaves_one_folder_a_point_and_nothing_else(
    uninterrupted: tuple[Path, list[Progress]],
) -> None:
    folder, told = uninterrupted
    assert sorted(path.name for path in folder.iterdir()) == sorted(POINTS)
    assert sorted(path.name for path in (folder / POINTS[0]).iterdir()) == [
        "cfg.json", "sae_weights.safetensors",
    ]  # fmt: skip
    for explained, l0, _ in told[-1].quality.values():
        assert explained > 0.5
        assert l0 == pytest.approx(6, abs=0.1)
    assert {progress.phase for progress in told} == {"reading", "training"}
    assert (told[-1].done, told[-1].total) == (told[-1].total, 2 * (2 * 15 + 3) * 256)


def test_sae_lens_loads_each_folder_as_its_own(
    uninterrupted: tuple[Path, list[Progress]], engine: Engine
) -> None:
    folder, _ = uninterrupted
    resid = torch.randn(20, D_MODEL)
    for point in POINTS:
        theirs = SAE.load_from_disk(folder / point)
        ours = load_sae(str(folder / point), model_id="tiny")
        torch.testing.assert_close(ours.encode(resid), theirs.encode(resid))
        assert theirs.cfg.metadata.hook_name == point
        assert theirs.cfg.metadata.model_name == engine.model_id
        assert theirs.cfg.metadata.trained_tokens == 2 * (2 * 15 + 3) * 256
        assert theirs.cfg.metadata.median_resid_norm > 0


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def killed_at(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, nth: int) -> None:
    """Let the nth call of a method end the run."""
    method: Callable[..., object] = getattr(owner, name)
    n = 0

    def called(*args: object, **kwargs: object) -> object:
        nonlocal n
        n += 1
        if n == nth:
            raise Killed
        return method(*args, **kwargs)

    monkeypatch.setattr(owner, name, called)


@pytest.mark.parametrize(
    ("owner", "name", "nth"),
    [
        (ActivationStore, "_take", 2),  # while the corpus is read
        (Training, "_new_trainers", 1),  # before the first step
        (Training, "_quality", 20),  # in the first round, past a checkpoint
        (Training, "_quality", 45),  # in the second round
        (ActivationStore, "next_round", 1),  # between rounds
        (Training, "_save", 1),  # before anything is saved
    ],
)
def test_a_killed_run_goes_on_to_the_very_same_weights(
    owner: type,
    name: str,
    nth: int,
    uninterrupted: tuple[Path, list[Progress]],
    engine: Engine,
    corpus: list[Part],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        killed_at(patch, owner, name, nth)
        with pytest.raises(Killed):
            Training(config(engine), engine, corpus, tmp_path / "out", checkpoint_steps=7).run()
    assert [path.name for path in (tmp_path / "out").iterdir()] == [STATE_FOLDER]
    Training(config(engine), engine, corpus, tmp_path / "out", checkpoint_steps=7).run()
    whole = weights(uninterrupted[0])
    resumed = weights(tmp_path / "out")
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_what_is_asked_for_must_be_what_was_begun(
    engine: Engine, corpus: list[Part], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        killed_at(patch, Training, "_new_trainers", 1)
        with pytest.raises(Killed):
            Training(config(engine), engine, corpus, tmp_path / "out").run()
    with pytest.raises(InputError, match=r"its unfinished training has k=6, and 7 is asked for"):
        Training(config(engine, k=7), engine, corpus, tmp_path / "out")
    with pytest.raises(InputError, match=r"has dtype='float32', and 'bfloat16' is asked for"):
        Training(config(engine, dtype="bfloat16"), engine, corpus, tmp_path / "out")
    other = tmp_path / "other.txt"
    other.write_text("another text altogether, as long as you like it to be\n" * 400)
    with pytest.raises(InputError, match="the corpus is not the one this training has read so far"):
        training = Training(config(engine), engine, corpus_files([str(other)]), tmp_path / "out")
        training.store.next_round()
        training.round = 1
        training.run()


def test_a_corpus_that_ends_early_gives_a_shorter_training(
    engine: Engine, corpus: list[Part], tmp_path: Path
) -> None:
    asked = config(engine, n_tokens=10**6, rows_per_round=10**6)
    told: list[Progress] = []
    Training(asked, engine, corpus, tmp_path / "out", tell=told.append).run()
    assert (told[-1].done, told[-1].total) == (told[-1].total, told[-1].done)
    assert 10_000 < told[-1].total / 2 < 20_000


def test_a_corpus_of_less_than_a_batch_is_refused(engine: Engine, tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("a few words\n")
    with pytest.raises(InputError, match="gives 10 tokens to train on, fewer than one batch of 256"):
        Training(config(engine), engine, corpus_files([str(short)]), tmp_path / "out").run()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("failing", ["checkpoint", "activations", "result"])
def test_a_full_disk_is_told_of_and_leaves_no_sae(
    failing: str, engine: Engine, corpus: list[Part], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object, **_kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        if failing == "checkpoint":
            patch.setattr(checkpoint, "save_file", full)
        elif failing == "activations":
            patch.setattr("neurosteer_cli.saes.training.activations.os.fsync", full)
        else:
            patch.setattr("neurosteer_cli.saes.training.trainer.save_file", full)
        with pytest.raises(OutputError, match="cannot write .No space left on device"):
            Training(config(engine), engine, corpus, tmp_path / "out", checkpoint_steps=5).run()
    assert [path.name for path in (tmp_path / "out").iterdir()] == [STATE_FOLDER]
    Training(config(engine), engine, corpus, tmp_path / "out", checkpoint_steps=5).run()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(POINTS)


def test_a_damaged_checkpoint_is_named(
    engine: Engine, corpus: list[Part], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        killed_at(patch, Training, "_quality", 9)
        with pytest.raises(Killed):
            Training(config(engine), engine, corpus, tmp_path / "out", checkpoint_steps=5).run()
    file = tmp_path / "out" / STATE_FOLDER / checkpoint.FILE_NAME
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputError, match="a damaged checkpoint .*; remove .*out/.training and start anew"):
        Training(config(engine), engine, corpus, tmp_path / "out").run()


def test_an_sae_to_start_from_is_better_than_noise_even_at_another_block(
    engine: Engine, corpus: list[Part], tmp_path: Path, uninterrupted: tuple[Path, list[Progress]]
) -> None:
    start = load_sae(str(uninterrupted[0] / POINTS[0]), model_id="tiny")
    one_step = config(engine, n_tokens=256, rows_per_round=256, epochs=1, lr=1e-6)
    told: dict[str, list[Progress]] = {"noise": [], "init": []}
    Training(one_step, engine, corpus, tmp_path / "noise", tell=told["noise"].append).run()
    points = {HookPoint.parse(name): start for name in POINTS}
    Training(
        replace(one_step, init=start.sha256), engine, corpus, tmp_path / "init", init=points,
        tell=told["init"].append,
    ).run()  # fmt: skip
    for point in POINTS:
        noise, init = (told[key][-1].quality[point][0] for key in ("noise", "init"))
        assert init > noise + 0.1
