"""A judge made of a sequence-classification checkpoint: the probability of one of its labels.

Knows such checkpoints and their labels; knows nothing of what the labels mean.
"""

from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import torch

from ...errors import InputError
from ...models.resolve import resolve
from .encoders import Encoder, load_encoder
from .judge import Scores

MULTI_LABEL = "multi_label_classification"


class HfJudge:
    """Scores a text with the probability of a label; positive where that is the highest.

    Where a text may have several labels, or there is only one, positive from 0.5 up.
    """

    def __init__(self, model: str, label: str, encoder: Encoder) -> None:
        config = encoder.model.config
        labels = [str(name) for _, name in sorted(config.id2label.items())]
        self.name = f"hf:{model}:{label}"
        if config.problem_type == "regression":
            raise InputError(f"--judge {self.name}: the model predicts a number, not labels")
        if label not in labels:
            raise InputError(f"--judge {self.name}: no label {label!r}; the model has {', '.join(labels)}")
        self._encoder = encoder
        self._index = labels.index(label)
        # one logit alone is the log-odds of its label
        self._multi_label = config.problem_type == MULTI_LABEL or len(labels) == 1
        self.warnings: list[str] = []
        self.card: dict[str, Any] = {
            "model": model,
            "architecture": type(encoder.model).__name__,
            "label": label,
            "labels": labels,
            "multi_label": self._multi_label,
            "max_tokens": encoder.max_tokens,
            "transformers": version("transformers"),
        }
        self.limits = (
            f"What {model} takes for {label}; on texts unlike those it was trained on, unfinished "
            f"continuations among them, it may err. It reads a text's first {encoder.max_tokens} tokens."
        )

    def score(
        self,
        prompts: Sequence[str],  # noqa: ARG002  # only continuations are judged
        texts: Sequence[str],
        advance: Callable[[int], None],
    ) -> Scores:
        # transformers.pipeline would save no line: load_encoder's checks stay, and it sorts nothing by length
        logits = torch.zeros(len(texts), len(self.card["labels"]))
        for places, output, _mask in self._encoder.batches(texts):
            logits[places] = output.logits
            advance(len(places))
        if self._multi_label:
            scores = torch.sigmoid(logits[:, self._index])
            positive = scores >= 0.5
        else:
            scores = logits.softmax(-1)[:, self._index]
            positive = logits.argmax(-1) == self._index
        return Scores(scores.tolist(), positive.tolist())


def load_hf_judge(model: str, label: str, say: Callable[[str], None]) -> HfJudge:
    """Load the checkpoint behind `hf:MODEL:LABEL`.

    Args:
        model: a local folder or a Hub id.
        say: told what takes long, before it is begun.

    Raises:
        InputError: the model has no such label.
        ModelError: it cannot be found, fetched or read, has no safetensors weights, or is no
            trained classifier.
    """
    encoder = load_encoder(resolve(model, say), "AutoModelForSequenceClassification")
    return HfJudge(model, label, encoder)
