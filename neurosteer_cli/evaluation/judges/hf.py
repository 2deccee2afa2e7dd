"""A judge made of a sequence-classification checkpoint: the probability of one of its labels.

Knows such checkpoints and their labels; knows nothing of what the labels mean.
"""

from functools import partial
from importlib.metadata import version

from ...errors import InputError
from ...models.checkpoints.resolve import resolve
from .encoders import Encoder, load_encoder
from .judge import Advance, Judge, Say, Scores, Texts


def load_hf_judge(model: str, label: str, say: Say) -> Judge:
    """Load the checkpoint behind `hf:MODEL:LABEL`, a local folder or a Hub id.

    Raises:
        InputError: the model has no such label.
        ModelError: it cannot be found, fetched or read, or is no trained classifier in safetensors.
    """
    encoder = load_encoder(resolve(model, say), "AutoModelForSequenceClassification")
    config = encoder.model.config
    name = f"hf:{model}:{label}"
    labels = [str(text) for _, text in sorted(config.id2label.items())]
    if config.problem_type == "regression":
        raise InputError(f"--judge {name}: the model predicts a number, not labels")
    if label not in labels:
        raise InputError(f"--judge {name}: no label {label!r}; the model has {', '.join(labels)}")
    multi_label = len(labels) == 1 or config.problem_type == "multi_label_classification"
    return Judge(
        name,
        limits=f"What {model} takes for {label}; on texts unlike those it was trained on, unfinished "
        f"continuations among them, it may err. It reads a text's first {encoder.max_tokens} tokens.",
        card={
            "model": model,
            "architecture": type(encoder.model).__name__,
            "label": label,
            "labels": labels,
            "multi_label": multi_label,
            "max_tokens": encoder.max_tokens,
            "transformers": version("transformers"),
        },
        scores_of=partial(_scores, encoder, labels.index(label), multi_label),
    )


def _scores(
    encoder: Encoder, index: int, multi_label: bool, _prompts: Texts, texts: Texts, advance: Advance
) -> Scores:
    """The label's probability; positive where it is the highest, or from 0.5 up where several may hold."""
    import torch

    # transformers.pipeline would save no line: load_encoder's checks stay, and it sorts nothing by length
    logits = torch.zeros(len(texts), encoder.model.config.num_labels)
    for places, output, _mask in encoder.batches(texts, advance):
        logits[places] = output.logits
    if multi_label:  # one logit alone is the log-odds of its label
        return Scores.from_threshold(logits[:, index].sigmoid().tolist(), 0.5)
    return Scores(logits.softmax(-1)[:, index].tolist(), (logits.argmax(-1) == index).tolist())
