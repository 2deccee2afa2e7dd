"""An adapter folder is its base with the adapter in it, or is named for what it is."""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from support.engines import load
from support.tiny import save_tiny, tiny_model, tiny_tokenizer

from neurosteer_cli.errors import ModelError
from neurosteer_cli.models.checkpoints.adapters import is_adapter
from neurosteer_cli.models.checkpoints.resolve import resolve

IDS = torch.tensor([[5, 99, 7, 20]])


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NEUROSTEER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "base")


def trained(base: Path, folder: Path, config: Any = None) -> Any:
    """An adapter of a tiny Llama, as if trained; the model with it, in PEFT."""
    model = tiny_model("llama")
    model.name_or_path = model.config._name_or_path = str(base)
    torch.manual_seed(3)
    config = config or LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    adapted = get_peft_model(model, config).eval()
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(folder)
    return adapted


def test_an_adapter_is_its_base_with_the_adapter_in_it(base: Path, tmp_path: Path, cache: Path) -> None:
    adapted = trained(base, tmp_path / "lora")
    said: list[str] = []
    engine = load(tmp_path / "lora", say=said.append)
    with torch.no_grad():
        ours, expected = engine.model(input_ids=IDS).logits, adapted(input_ids=IDS).logits
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(ours, load(base).model(input_ids=IDS).logits, rtol=0.1)
    assert said == [f"merging the adapter lora onto {base} (once)"]
    assert engine.tokenizer.chat_template == tiny_tokenizer().chat_template
    assert engine.stop_ids == load(base).stop_ids
    resolve(str(tmp_path / "lora"), said.append)
    assert len(said) == 1 and len(list(cache.iterdir())) == 2  # and a lock


def test_an_adapters_own_tokenizer_goes_before_the_bases(base: Path, tmp_path: Path) -> None:
    trained(base, tmp_path / "lora")
    tiny_tokenizer(bos=True, chat=False).save_pretrained(tmp_path / "lora")
    engine = load(tmp_path / "lora")
    assert engine.prompt_ids("a")[0] == 256 and not engine.tokenizer.chat_template


def test_an_adapter_beside_a_whole_model_is_left_alone(base: Path, tmp_path: Path) -> None:
    trained(base, tmp_path / "lora")
    for path in (tmp_path / "lora").glob("adapter_*"):
        shutil.copy(path, base)
    assert not is_adapter(base) and resolve(str(base)) == base
    with torch.no_grad():
        plain = tiny_model("llama")(input_ids=IDS).logits
        assert torch.equal(load(base).model(input_ids=IDS).logits, plain)


def test_an_adapter_beside_a_configuration_alone_is_an_adapter(base: Path, tmp_path: Path) -> None:
    trained(base, tmp_path / "lora")
    shutil.copy(base / "config.json", tmp_path / "lora")
    assert resolve(str(tmp_path / "lora")).parent == tmp_path / "cache"


def test_without_peft_the_way_out_is_told(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(base, tmp_path / "lora")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    expected = (
        rf"^{tmp_path}/lora: an adapter of {base}, no model of its own; "
        r"run: pip install 'neurosteer\[peft\]', or merge it with PEFT's merge_and_unload\(\) and save what "
        "comes of it$"
    )
    with pytest.raises(ModelError, match=expected):
        resolve(str(tmp_path / "lora"))


def test_a_base_that_is_not_there_is_named(base: Path, tmp_path: Path) -> None:
    trained(base, tmp_path / "lora")
    shutil.rmtree(base)
    with pytest.raises(ModelError, match=f"^{tmp_path}/lora: an adapter of {base}, which cannot be found: "):
        resolve(str(tmp_path / "lora"))


@pytest.mark.parametrize("content", ["{}", "no json", '{"base_model_name_or_path": null}', "[]"])
def test_an_adapter_that_names_no_base_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "adapter_config.json").write_text(content)
    with pytest.raises(ModelError, match=f"^{tmp_path}: adapter_config.json names no base model$"):
        resolve(str(tmp_path))


def test_an_adapter_that_adds_tokens_rather_than_weights_is_refused(
    base: Path, tmp_path: Path, cache: Path
) -> None:
    trained(base, tmp_path / "prompt", PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    with pytest.raises(ModelError, match=rf"^{tmp_path}/prompt: cannot be merged onto {base} \(.+\)$"):
        resolve(str(tmp_path / "prompt"))
    assert not [path for path in cache.iterdir() if path.is_dir()]


def test_an_adapter_of_another_shape_is_refused(base: Path, tmp_path: Path) -> None:
    trained(base, tmp_path / "lora")
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps({**config, "r": 2}))
    with pytest.raises(ModelError, match=f"^{tmp_path}/lora: cannot be merged onto {base}"):
        resolve(str(tmp_path / "lora"))
