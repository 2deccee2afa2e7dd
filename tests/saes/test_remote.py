"""SAEs that are fetched, by sae-lens's own loaders or from the Hub, with small files for downloads."""

import json
import re
from pathlib import Path
from typing import Any

import httpx
import huggingface_hub
import huggingface_hub.errors as hub_errors
import pytest
import torch
from safetensors.torch import save_file
from support.tiny import D_MODEL, save_tiny_sae
from torch import Tensor

from neurosteer_cli.errors import SAEError
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.saes.descriptions import FILE_NAME, file_for
from neurosteer_cli.saes.load import load_sae

pytestmark = pytest.mark.usefixtures("quietly_without_gradients")

D_SAE = 64


def assert_near(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def random_weights(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(14)
    return {
        name.replace("_DOT_", "."): 0.4 * torch.randn(shape, generator=generator)
        for name, shape in shapes.items()
    }


# --- the registry ------------------------------------------------------------------------------


THRESHOLD, AVERAGE_NORM = 1.5, 3.2


@pytest.fixture
def llama_scope(hub: Path) -> dict[str, Tensor]:
    """The weights of llama_scope_lxr_8x/l16r_8x as the Hub has them."""
    folder = hub / "fnlp/Llama3_1-8B-Base-LXR-8x/Llama3_1-8B-Base-L16R-8x"
    (folder / "checkpoints").mkdir(parents=True)
    config = {
        "d_model": D_MODEL, "d_sae": D_SAE, "jump_relu_threshold": THRESHOLD,
        "dataset_average_activation_norm": {"in": AVERAGE_NORM},
        "hook_point_in": "blocks.16.hook_resid_post",
    }  # fmt: skip
    (folder / "hyperparams.json").write_text(json.dumps(config))
    weights = random_weights(
        encoder_DOT_weight=(D_SAE, D_MODEL), encoder_DOT_bias=(D_SAE,),
        decoder_DOT_weight=(D_MODEL, D_SAE), decoder_DOT_bias=(D_MODEL,),
    )  # fmt: skip
    save_file(weights, folder / "checkpoints" / "final.safetensors")
    return weights


def test_the_scaling_factor_of_a_llama_scope_sae_is_folded_in(
    lens: Any, llama_scope: dict[str, Tensor], resid: Tensor
) -> None:
    sae = load_sae("llama_scope_lxr_8x/l16r_8x", model_id="meta-llama/Llama-3.1-8B")
    directory = lens.loading.pretrained_saes_directory.get_pretrained_saes_directory()
    factor = directory["llama_scope_lxr_8x"].norm_scaling_factor["l16r_8x"]
    assert factor > 1.5
    assert (sae.architecture, sae.normalize_activations) == ("jumprelu", "none")
    assert (sae.hook_point, sae.centred) == (HookPoint(16), False)
    assert_near(sae.weights["W_enc"], factor * llama_scope["encoder.weight"].T)
    assert_near(sae.decoder_rows(torch.arange(D_SAE)), llama_scope["decoder.weight"].T / factor)
    theirs = lens.SAE.from_pretrained("llama_scope_lxr_8x", "l16r_8x")
    assert_near(sae.encode(resid), theirs.encode(resid))
    hidden = factor * resid @ llama_scope["encoder.weight"].T + llama_scope["encoder.bias"]
    threshold = THRESHOLD * D_MODEL**0.5 / AVERAGE_NORM
    assert_near(sae.encode(resid), hidden * (hidden > threshold))


@pytest.mark.usefixtures("llama_scope")
def test_a_scaling_factor_that_sae_lens_does_not_know_is_an_error(
    lens: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lens.saes.sae, "get_norm_scaling_factor", lambda *_: None)
    message = "normalize_activations='expected_average_only_in' has not been folded"
    with pytest.raises(SAEError, match=message):
        load_sae("llama_scope_lxr_8x/l16r_8x", model_id="meta-llama/Llama-3.1-8B")


@pytest.mark.usefixtures("hub")
def test_a_release_that_is_nearly_right_is_answered_with_the_right_one() -> None:
    message = (
        "^'gpt2-smal-res-jb/blocks.6.hook_resid_pre' is neither a folder nor a RELEASE/SAE_ID of "
        "sae-lens's registry; did you mean gpt2-small-res-jb"
    )
    with pytest.raises(SAEError, match=message):
        load_sae("gpt2-smal-res-jb/blocks.6.hook_resid_pre", model_id="gpt2")


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("name", ["./no/such/folder", "!?", "bundle"])
def test_what_is_nothing_at_all_is_said_to_be_neither(name: str) -> None:
    with pytest.raises(SAEError, match="is neither a folder nor a RELEASE/SAE_ID"):
        load_sae(name, model_id="gpt2")


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("name", "near"),
    [("blocks.6.hook_resid_pree", "blocks.6.hook_resid_pre, "), ("", "blocks.0.hook_resid_pre, ")],
)
def test_an_sae_that_a_release_does_not_have_is_answered_with_those_it_has(name: str, near: str) -> None:
    message = f"^release 'gpt2-small-res-jb' has no SAE '{name}'; it has {near}"
    with pytest.raises(SAEError, match=message):
        load_sae(f"gpt2-small-res-jb/{name}", model_id="gpt2")


RESPONSE = httpx.Response(404, request=httpx.Request("GET", "https://example.org"))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionError("no route\nto host"), "could not be fetched (no route); where there is"),
        (httpx.ConnectTimeout("timed out"), "could not be fetched (timed out); where there is"),
        (hub_errors.LocalEntryNotFoundError("offline"), "could not be fetched (offline); where"),
        (hub_errors.GatedRepoError("401", response=RESPONSE), "is gated: accept its terms on its page"),
        (hub_errors.EntryNotFoundError("404"), "the Hub has not all of its files (404)"),
        (KeyError("layer"), "was fetched, but its loader in sae-lens cannot read it (KeyError: 'layer')"),
        (ValueError("Scaling factor\nis"), "was fetched, but its loader in sae-lens cannot read it"),
        (AssertionError(), "was fetched, but its loader in sae-lens cannot read it (AssertionError"),
    ],
)  # fmt: skip
def test_a_failure_says_whose_it_is(
    lens: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def failing(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(lens.loading.pretrained_sae_loaders, "hf_hub_download", failing)
    name = "gpt2-small-res-jb/blocks.6.hook_resid_pre"
    with pytest.raises(SAEError, match=f"^SAE '{name}':? {re.escape(message)}"):
        load_sae(name, model_id="gpt2")


# --- a repository of the Hub -------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """An unregistered repository of two SAEs; what is downloaded of it is noted."""
    wanted: list[Any] = []
    for layer in (1, 2):
        name = f"blocks.{layer}.hook_resid_post"
        save_tiny_sae(tmp_path / "someone/saes" / "run" / name, hook_name=name, seed=layer)
    files = [
        str(path.relative_to(tmp_path / "someone/saes")) for path in (tmp_path / "someone/saes").rglob("*.*")
    ]

    def download(repository: str, allow_patterns: Any = None) -> str:
        wanted.append(allow_patterns)
        return str(tmp_path / repository)

    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda _repository: files)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return wanted


@pytest.mark.usefixtures("lens")
def test_a_folder_of_a_repository_is_fetched_alone(repository: list[Any]) -> None:
    name = "someone/saes/run/blocks.1.hook_resid_post"
    sae = load_sae(name, model_id="tiny")
    assert (sae.sae_id, sae.hook_point) == (name, HookPoint(1))
    folder = "run/blocks.1.hook_resid_post"
    assert repository == [[f"{folder}/*", "run/config.json", "config.json"]]
    assert file_for(sae, name, "tiny").name != FILE_NAME  # in the cache: the Hub's is not written to


@pytest.mark.usefixtures("lens", "repository")
@pytest.mark.parametrize("folder", ["", "/run", "/run/blocks.7.hook_resid_post"])
def test_a_repository_is_asked_for_a_folder_of_it(folder: str) -> None:
    message = rf"^someone/saes on the Hub has no SAE '{folder[1:]}'; it has run/blocks.[12].hook_resid_post, "
    with pytest.raises(SAEError, match=message):
        load_sae(f"someone/saes{folder}", model_id="tiny")


@pytest.mark.usefixtures("lens")
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (hub_errors.RepositoryNotFoundError("404", response=RESPONSE), "is neither a folder, nor a RELEASE"),
        (hub_errors.HFValidationError("!"), "is neither a folder, nor a RELEASE/SAE_ID"),
        (
            OSError("no route"),
            r"no route\); where there is a network, run: hf download someone/saes --include",
        ),
    ],
)
def test_a_repository_that_cannot_be_read_is_named(
    monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def failing(_repository: str) -> Any:
        raise error

    monkeypatch.setattr(huggingface_hub, "list_repo_files", failing)
    with pytest.raises(SAEError, match=message):
        load_sae("someone/saes/run", model_id="tiny")
