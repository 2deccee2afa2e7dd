"""A judge made of a sequence-classification checkpoint: the probability of one of its labels.

Knows such checkpoints and their labels; knows nothing of what the labels mean.
"""

from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError
from ...models.resolve import resolve
from .encoders import Encoder, load_encoder
from .judge import Scores

MULTI_LABEL = "multi_label_classification"


class HfJudge:
    """Scores a text with the probability of a label."""

    def __init__(self, model: str, label: str, encoder: Encoder) -> None:
        config = encoder.model.config
        places = {str(name): place for place, name in sorted(config.id2label.items())}
        if config.problem_type == "regression":
            raise InputError(f"--judge hf:{model}:{label}: the model predicts a number, not labels")
        if label not in places:
            raise InputError(
                f"--judge hf:{model}:{label}: no label {label!r}; the model has {', '.join(places)}"
            )
        self.name = f"hf:{model}:{label}"
        self._encoder = encoder
        self._index = places[label]
        # one logit alone is the log-odds of its label
        self._multi_label = config.problem_type == MULTI_LABEL or len(places) == 1
        self.warnings: list[str] = []
        self.card: dict[str, Any] = {
            "model": model,
            "architecture": type(encoder.model).__name__,
            "label": label,
            "labels": list(places),
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
        scores: list[float | None] = [None] * len(texts)
        positive: list[bool | None] = [None] * len(texts)
        for places, output, _mask in self._encoder.batches(texts):
            probabilities, shown = self._probabilities(output.logits)
            for place, probability, is_shown in zip(
                places, probabilities.tolist(), shown.tolist(), strict=True
            ):
                scores[place], positive[place] = probability, is_shown
            advance(len(places))
        return Scores(scores, positive)

    def _probabilities(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The label's probability, and whether the text shows it, both [batch].

        Args:
            logits: [batch, n_labels].
        """
        if self._multi_label:
            probability = torch.sigmoid(logits[:, self._index])
            return probability, probability >= 0.5
        return logits.softmax(-1)[:, self._index], logits.argmax(-1) == self._index


def load(model: str, label: str, say: Callable[[str], None] = lambda _message: None) -> HfJudge:
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
