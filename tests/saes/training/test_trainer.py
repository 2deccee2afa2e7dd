"""One SAE in training: sae-lens's loss and gradients, its file format, and a state that goes on."""

import json
from pathlib import Path

import pytest
import torch
from sae_lens import SAE
from sae_lens.saes.sae import TrainStepInput
from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
from safetensors.torch import load_file
from torch import Tensor

from neurosteer_cli.saes.load import load_sae
from neurosteer_cli.saes.training.config import ARCHITECTURES, TrainingConfig
from neurosteer_cli.saes.training.sparse_topk import SparseTopK
from neurosteer_cli.saes.training.trainer import FADE, Average, LayerTrainer

D_MODEL, D_SAE, K = 12, 40, 5


def config(architecture: str = "topk", **changes: object) -> TrainingConfig:
    facts = {
        "model_id": "m", "points": ("blocks.0.hook_resid_post",), "architecture": architecture,
        "d_sae": D_SAE, "k": K, "n_tokens": 40 * 32, "epochs": 1, "rows_per_round": 40 * 32, "context": 32,
        "batch_size": 32, "lr": 1e-3, "seed": 0, "init": None, "dtype": "float32", "device": "cpu", **changes,
    }  # fmt: skip
    return TrainingConfig(**facts)  # type: ignore[arg-type]


def trainer(config: TrainingConfig, mean: Tensor) -> LayerTrainer:
    return LayerTrainer(config, mean, n_steps=40)


def batches(n: int, seed: int = 0) -> list[Tensor]:
    """Sums of a few of 30 directions, around a mean."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(30, D_MODEL, generator=generator)
    mean = torch.randn(D_MODEL, generator=generator)
    drawn = (torch.rand(n, 32, 30, generator=generator) < 0.1).float()
    return list(drawn @ directions + mean)


def step_input(x: Tensor, dead: Tensor | None) -> TrainStepInput:
    return TrainStepInput(
        sae_in=x, coefficients={}, dead_neuron_mask=dead, n_training_steps=0, is_logging_step=False
    )


@pytest.mark.parametrize("n_dead", [0, 3, 20])
def test_sparse_topk_has_the_loss_and_the_gradients_of_sae_lens(n_dead: int) -> None:
    facts = {"d_in": D_MODEL, "d_sae": D_SAE, "k": K, "apply_b_dec_to_input": False}
    ours = SparseTopK(TopKTrainingSAEConfig(**facts))
    theirs = TopKTrainingSAE(TopKTrainingSAEConfig(**facts))
    generator = torch.Generator().manual_seed(1)
    for parameter in ours.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(64, D_MODEL, generator=generator)
    dead = torch.arange(D_SAE) < n_dead
    for sae in (ours, theirs):
        sae.training_forward_pass(step_input(x, dead)).loss.backward()
    outputs = [sae.training_forward_pass(step_input(x, dead)) for sae in (ours, theirs)]
    torch.testing.assert_close(outputs[0].loss, outputs[1].loss)
    torch.testing.assert_close(outputs[0].sae_out, outputs[1].sae_out)
    torch.testing.assert_close(outputs[0].feature_acts.to_dense(), outputs[1].feature_acts)
    for (name, mine), (_, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "jumprelu"])
def test_weights_to_start_from_may_be_in_any_unit(architecture: str) -> None:
    data = batches(3)
    first = trainer(config(architecture), torch.cat(data).mean(0))
    weights = {name: parameter.detach().clone() for name, parameter in first.sae.named_parameters()}
    stretch = torch.linspace(0.1, 8, D_SAE)
    weights["W_enc"] *= stretch
    weights["b_enc"] *= stretch
    weights["W_dec"] /= stretch[:, None]
    second = trainer(config(architecture), torch.zeros(D_MODEL))
    second.start_from(weights)
    torch.testing.assert_close(second.sae.W_dec.norm(dim=-1), torch.ones(D_SAE))
    expected, found = (
        one.sae.training_forward_pass(step_input(data[0], None)).sae_out for one in (first, second)
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_learns_and_is_loaded_by_sae_lens_with_equal_encodings(
    architecture: str, tmp_path: Path
) -> None:
    data = batches(40)
    layer = trainer(config(architecture, lr=3e-3), torch.cat(data).mean(0))
    errors = []
    for batch in data:
        before = layer.average.error
        layer.step(batch)
        errors.append(layer.average.error - FADE * before)
    assert errors[-1] < 0.8 * errors[0]
    scale = 2.0
    layer.save(
        tmp_path, scale, torch.float32,
        {"model_name": "tiny", "hook_name": "blocks.2.hook_resid_post"},
    )  # fmt: skip
    theirs = SAE.load_from_disk(tmp_path)
    ours = load_sae(str(tmp_path), model_id="tiny")
    raw = data[0] / scale
    assert ours.architecture == ("topk" if architecture == "topk" else "jumprelu")
    torch.testing.assert_close(ours.encode(raw), theirs.encode(raw))
    assert bool((ours.encode(raw) > 0).any())


def test_the_saved_sae_reconstructs_raw_residuals_as_it_did_scaled_ones(tmp_path: Path) -> None:
    data = batches(40)
    layer = trainer(config(), torch.cat(data).mean(0))
    for batch in data:
        layer.step(batch)
    with torch.no_grad():
        before = layer.sae.training_forward_pass(step_input(data[0], None)).sae_out
    facts = {"model_name": "m", "hook_name": "blocks.0.hook_resid_post"}
    layer.save(tmp_path, 4.0, torch.float32, facts)
    after = SAE.load_from_disk(tmp_path)(data[0] / 4.0)
    torch.testing.assert_close(after, before / 4.0, rtol=1e-4, atol=1e-4)
    norms = load_file(tmp_path / "sae_weights.safetensors")["W_dec"].norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones(D_SAE))


def test_the_saved_number_type_and_facts_are_those_asked_for(tmp_path: Path) -> None:
    layer = trainer(config(), torch.zeros(D_MODEL))
    layer.step(batches(1)[0])
    facts = {"model_name": "m", "hook_name": "blocks.0.hook_resid_post", "median_resid_norm": 3.5}
    layer.save(tmp_path, 1.0, torch.float16, facts)
    saved = json.loads((tmp_path / "cfg.json").read_text())
    assert (saved["dtype"], saved["normalize_activations"], saved["k"]) == ("float16", "none", K)
    assert saved["metadata"]["median_resid_norm"] == 3.5
    weights = load_file(tmp_path / "sae_weights.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_restored_layer_goes_on_as_if_it_had_never_stopped(architecture: str) -> None:
    data = batches(30)
    whole = trainer(config(architecture), torch.zeros(D_MODEL))
    for batch in data:
        whole.step(batch)
    first = trainer(config(architecture), torch.zeros(D_MODEL))
    for batch in data[:17]:
        first.step(batch)
    tensors, numbers = first.state()
    second = trainer(config(architecture, seed=99), torch.ones(D_MODEL))
    second.restore(
        {name: tensor.clone() for name, tensor in tensors.items()}, json.loads(json.dumps(numbers))
    )
    for batch in data[17:]:
        second.step(batch)
    for name, tensor in whole.sae.state_dict().items():
        assert torch.equal(tensor, second.sae.state_dict()[name]), name


def test_a_fresh_layer_depends_on_its_seed_alone() -> None:
    torch.manual_seed(1)
    one = trainer(config(), torch.zeros(D_MODEL)).sae.W_dec
    torch.manual_seed(2)
    assert torch.equal(one, trainer(config(), torch.zeros(D_MODEL)).sae.W_dec)
    assert not torch.equal(one, trainer(config(seed=1), torch.zeros(D_MODEL)).sae.W_dec)


def test_an_average_forgets_old_batches() -> None:
    average = Average().plus(8.0, 10.0, 100.0, 10)
    assert average.quality(n_dead=3) == (pytest.approx(0.2), 10.0, 3)
    for _ in range(1000):
        average = average.plus(1.0, 10.0, 50.0, 10)
    assert average.quality(n_dead=0) == (pytest.approx(0.9), pytest.approx(5.0), 0)
