"""A classifier's label is a judge."""

import json
import re
from pathlib import Path

import pytest
import torch
import transformers
from support.tiny import save_tiny, save_tiny_bert

from neurosteer_cli.errors import InputError, ModelError
from neurosteer_cli.evaluation.judges import encoders
from neurosteer_cli.evaluation.judges.judge import Judge
from neurosteer_cli.evaluation.judges.load import check_spec, load_judge

LABELS = ("calm", "LABEL: odd", "angry")
TEXTS = ["one", "", "a longer text than the others are", "äöü", "x" * 500, "last"]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_bert(tmp_path_factory.mktemp("classifiers") / "three", LABELS)


@pytest.fixture(scope="module")
def multi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_bert(tmp_path_factory.mktemp("classifiers") / "multi", LABELS, multi_label=True)


def load(folder: Path, label: str) -> Judge:
    return load_judge(f"hf:{folder}:{label}")


def logits(folder: Path) -> torch.Tensor:
    """Each text's logits, computed for it alone, [n_texts, n_labels]."""
    model = transformers.BertForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        ids = [torch.tensor([tokenizer(text)["input_ids"][:126]]) for text in TEXTS]
        return torch.cat([model(input_ids=one).logits for one in ids])


@pytest.mark.parametrize("label", ["calm", "angry"])
@pytest.mark.parametrize("size", [1, 4, 32])
def test_the_score_is_the_labels_softmax_and_positive_where_it_is_highest(
    classifier: Path, monkeypatch: pytest.MonkeyPatch, label: str, size: int
) -> None:
    monkeypatch.setattr(encoders, "BATCH_SIZE", size)
    judge = load(classifier, label)
    advanced: list[int] = []
    found = judge.score([""] * 6, TEXTS, advanced.append)
    assert sum(advanced) == 6
    exps = logits(classifier).double().exp()
    shares = exps / exps.sum(1, keepdim=True)
    index = LABELS.index(label)
    torch.testing.assert_close(torch.tensor(found.scores).double(), shares[:, index], atol=1e-5, rtol=0)
    assert found.positive == [row.index(max(row)) == index for row in shares.tolist()]
    assert found.fluency is None


def test_the_labels_disagree_somewhere(classifier: Path) -> None:
    assert len(set(logits(classifier).argmax(1).tolist())) > 1  # else the test above proves little


def test_with_several_labels_a_text_the_score_is_the_labels_sigmoid(multi: Path) -> None:
    found = load(multi, "angry").score([""] * 6, TEXTS, lambda _n: None)
    expected = 1 / (1 + (-logits(multi)[:, 2].double()).exp())
    torch.testing.assert_close(torch.tensor(found.scores).double(), expected, atol=1e-5, rtol=0)
    assert found.positive == [share >= 0.5 for share in expected.tolist()]


def test_a_single_logit_is_the_log_odds_of_its_label(tmp_path: Path) -> None:
    folder = save_tiny_bert(tmp_path / "one", ("toxic",))
    judge = load(folder, "toxic")
    expected = 1 / (1 + (-logits(folder)[:, 0].double()).exp())
    found = judge.score([""] * 6, TEXTS, lambda _n: None).scores
    torch.testing.assert_close(torch.tensor(found).double(), expected, atol=1e-5, rtol=0)


def test_what_the_judge_is_made_of_is_told(classifier: Path) -> None:
    judge = load(classifier, "calm")
    assert judge.name == f"hf:{classifier}:calm"
    assert judge.card == {
        "model": str(classifier),
        "architecture": "BertForSequenceClassification",
        "label": "calm",
        "labels": list(LABELS),
        "multi_label": False,
        "max_tokens": 126,
        "transformers": transformers.__version__,
    }
    json.dumps(judge.card)
    assert judge.warnings == []
    assert judge.limits.startswith(f"What {classifier} takes for calm; ")
    assert judge.score([], [], lambda _n: None).scores == []


def test_an_unknown_label_names_those_there_are(classifier: Path) -> None:
    message = f"--judge hf:{classifier}:furious: no label 'furious'; the model has calm, LABEL: odd, angry"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        load(classifier, "furious")


def test_a_model_that_predicts_a_number_is_refused(tmp_path: Path) -> None:
    folder = save_tiny_bert(tmp_path / "number", ("calm",))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "problem_type": "regression"}))
    with pytest.raises(
        InputError, match=f"^--judge hf:{folder}:calm: the model predicts a number, not labels$"
    ):
        load(folder, "calm")


def test_a_checkpoint_that_is_no_classifier_is_refused(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "gpt2", "gpt2")
    with pytest.raises(ModelError, match=f"^{folder}: weights are missing: score.weight; "):
        load(folder, "LABEL_1")


def test_a_folder_with_pickled_weights_alone_is_refused(classifier: Path, tmp_path: Path) -> None:
    model = transformers.BertForSequenceClassification.from_pretrained(classifier)
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=re.escape("no .safetensors weights (pickled ones are not read)")):
        load(tmp_path, "calm")


@pytest.mark.parametrize("spec", ["hf:", "hf:model", "hf:model:", "hf::label", "hf: :label"])
def test_a_spec_without_model_or_label_is_refused(spec: str) -> None:
    message = f"--judge {spec}: write hf:MODEL:LABEL, a folder or Hub id and one of its labels, such as hf:"
    with pytest.raises(InputError, match=f"^{re.escape(message)}"):
        check_spec(spec)
