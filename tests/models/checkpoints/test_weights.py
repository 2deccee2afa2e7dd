"""Which files make up a checkpoint, and that each is whole."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.engines import load
from support.tiny import save_tiny, tiny_model, tiny_tokenizer

from neurosteer_cli.errors import ModelError
from neurosteer_cli.models.checkpoints.weights import INDEX, SINGLE, stored_tensors, weight_files
from neurosteer_cli.models.hooks import HookPoint

IDS = torch.tensor([[5, 99, 7, 20]])


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A tiny Llama in several files."""
    tiny_tokenizer().save_pretrained(tmp_path / "sharded")
    tiny_model("llama").save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert len(shards(tmp_path / "sharded")) > 2
    return tmp_path / "sharded"


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("model-*.safetensors"))


def logits(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = load(folder).model(input_ids=IDS).logits
        return found


@pytest.fixture(scope="module")
def expected() -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = tiny_model("llama")(input_ids=IDS).logits
        return found


@pytest.mark.parametrize("name", ["old_model.safetensors", "zzz.safetensors", "consolidated.safetensors"])
def test_a_second_file_beside_the_checkpoints_own_is_not_read(
    copied: Path, expected: torch.Tensor, name: str
) -> None:
    shutil.copy(save_tiny(copied.parent / "other", seed=9) / SINGLE, copied / name)
    assert weight_files(copied) == [copied / SINGLE]
    assert torch.equal(logits(copied), expected)


def test_a_damaged_file_beside_the_checkpoints_own_does_not_matter(
    copied: Path, expected: torch.Tensor
) -> None:
    (copied / "consolidated.safetensors").write_bytes(b"nothing")
    assert torch.equal(logits(copied), expected)


def test_the_index_says_which_files_are_read(sharded: Path, expected: torch.Tensor) -> None:
    other = save_tiny(sharded.parent / "other", seed=9)
    for name in ("model-old.safetensors", "consolidated-00001-of-00001.safetensors"):
        shutil.copy(other / SINGLE, sharded / name)
    assert weight_files(sharded) == [path for path in shards(sharded) if path.name != "model-old.safetensors"]
    assert torch.equal(logits(sharded), expected)


def test_a_single_file_goes_before_an_index_as_in_transformers(
    sharded: Path, tiny_folder: Path, expected: torch.Tensor
) -> None:
    shutil.copy(tiny_folder / SINGLE, sharded)
    for path in shards(sharded):
        path.unlink()
    assert torch.equal(logits(sharded), expected)


def test_a_file_of_another_name_is_read_where_there_is_no_other(copied: Path, expected: torch.Tensor) -> None:
    (copied / SINGLE).rename(copied / "weights.safetensors")
    (copied / "consolidated.safetensors").write_bytes(b"nothing")
    assert torch.equal(logits(copied), expected)


def test_two_files_of_other_names_that_hold_one_tensor_are_refused(copied: Path) -> None:
    first = min(load_file(copied / SINGLE))
    for name in ("a", "b"):
        shutil.copy(copied / SINGLE, copied / f"{name}.safetensors")
    (copied / SINGLE).unlink()
    with pytest.raises(ModelError) as caught:
        load(copied)
    assert str(caught.value) == (
        f"{copied}: a.safetensors and b.safetensors both hold {first}; keep the files of one model, "
        f"or name them in {INDEX}"
    )


def test_a_shard_that_the_index_names_must_be_there(sharded: Path) -> None:
    lost = shards(sharded)[-1]
    lost.unlink()
    message = f"^{sharded}: {lost.name} is not there, though {INDEX} names it; fetch the whole checkpoint$"
    with pytest.raises(ModelError, match=message):
        load(sharded, points=[HookPoint(0)], head=False)


def test_shards_without_an_index_are_counted(sharded: Path, expected: torch.Tensor) -> None:
    (sharded / INDEX).unlink()
    assert torch.equal(logits(sharded), expected)
    n = len(shards(sharded))
    shards(sharded)[1].unlink()
    message = (
        rf"^{sharded}: {n - 1} of the {n} files model-\*-of-{n:05}.safetensors are there; fetch the whole"
    )
    with pytest.raises(ModelError, match=message):
        load(sharded)


@pytest.mark.parametrize("content", ["not json", "{}", "[]", '{"weight_map": []}'])
def test_a_damaged_index_is_named(sharded: Path, content: str) -> None:
    (sharded / INDEX).write_text(content)
    with pytest.raises(ModelError, match=rf"^{sharded}: {INDEX} is damaged \(.+\)$"):
        load(sharded)


def test_a_tensor_is_read_when_it_is_asked_for_and_not_before(copied: Path) -> None:
    tensors = load_file(copied / SINGLE)
    stored = stored_tensors(copied)
    assert stored.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert stored[name].get_dtype() == "F32"
        assert torch.equal(stored[name][...], tensor)
    (copied / SINGLE).unlink()
    with pytest.raises(OSError):
        next(iter(stored.values()))[...]


def test_only_the_tensors_that_are_needed_are_read(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from neurosteer_cli.models.checkpoints import weights

    read: list[str] = []
    whole = weights.StoredTensor.__getitem__

    def noted(self: weights.StoredTensor, index: object) -> torch.Tensor:
        read.append(self.name)
        return whole(self, index)

    monkeypatch.setattr(weights.StoredTensor, "__getitem__", noted)
    load(copied, points=[HookPoint(1)], head=False)
    blocks = {name.split(".")[2] for name in read if ".layers." in name}
    assert blocks == {"0", "1"}
    assert "lm_head.weight" not in read and "model.embed_tokens.weight" in read
    assert len(read) == len(set(read))


def test_a_consolidated_file_alone_is_no_checkpoint_of_transformers(copied: Path) -> None:
    (copied / SINGLE).rename(copied / "consolidated.safetensors")
    with pytest.raises(ModelError, match=f"^{copied}: weights are missing from its .safetensors files: "):
        load(copied)
