"""Hold a family's small model to plain transformers: residuals, texts alone and in a batch, the lens.

Each check returns None where neurosteer is right, and else one line that says what differs or was raised.
"""

import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from neurosteer_cli.data.records import Passage
from neurosteer_cli.errors import InputError, NeurosteerError
from neurosteer_cli.generation.continuation import GenerationConfig
from neurosteer_cli.generation.generate import Job, generate
from neurosteer_cli.generation.sampling import Sampling
from neurosteer_cli.models.architectures.families import check_steered
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.models.logit_lens import promoted_tokens
from neurosteer_cli.models.tokenizer import Tokens

from .engines import load
from .families import FIRST, N_BLOCKS, save_family, silence, tiny_config
from .tiny import tiny_vector

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results" / "families.md"
TEXTS = ["to be or not to be", "that is the question, whether"]
PROMPTS = ["ab cd", "e", "cgf dakspltsn", "ffsvduakyhrykavomacv mvbcpyk ygt"]
N_NEW = 12
LAYER = 1  # the block that is steered
CLOSE = dict(rtol=2e-4, atol=2e-4)


class NotBuilt(Exception):
    """A family that the small configuration does not fit."""


def recorded() -> dict[tuple[str, str], str]:
    """What the table of results says of each family and class."""
    if not RESULTS.exists():
        return {}
    rows = [line.strip("| ").split(" | ") for line in RESULTS.read_text().splitlines()]
    return {(row[0], row[1]): row[2] for row in rows if len(row) == 3 and row[0] != "family"}


@dataclass(frozen=True)
class Whole:
    """A checkpoint folder in plain transformers, whole, in float32, hooked by hand."""

    model: Any
    blocks: Any

    @classmethod
    def load(cls, folder: Path, class_name: str) -> "Whole":
        with silence():
            model = getattr(transformers, class_name).from_pretrained(folder, dtype=torch.float32).eval()
        if (part := getattr(model, "language_model", None)) is not None and part.can_generate():
            model = part  # a composite whose text part writes by itself
        return cls(model, _blocks(model))

    def residuals(self, ids: list[int]) -> dict[int, Tensor]:
        """What leaves each block that runs, [pos, d_model]."""
        seen: dict[int, Tensor] = {}

        def read(layer: int, block: Any, _args: Any, output: Any) -> None:
            resid = _first(output)
            if resid.dim() == 4:  # several streams, Gemma 3n's first
                resid = resid.mean(0 if hasattr(block, "altup") else 2)
            if resid.shape[-1] != (d_model := self.model.config.get_text_config(decoder=True).hidden_size):
                resid = resid.unflatten(-1, (-1, d_model)).mean(2)  # several streams end to end
            seen[layer] = resid[0]

        handles = [
            block.register_forward_hook(partial(read, layer)) for layer, block in enumerate(self.blocks)
        ]
        try:
            with torch.no_grad(), silence():
                self.model(input_ids=torch.tensor([ids]), use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        return seen

    def greedy(self, ids: list[int], push: Tensor) -> list[int]:
        """N_NEW tokens with a push added to what leaves block LAYER, each from a pass over all before."""
        handle = self.blocks[LAYER].register_forward_hook(
            lambda _m, _a, out: _with_first(out, _first(out) + _fitting(push, out))
        )
        written: list[int] = []
        try:
            with torch.no_grad(), silence():
                while len(written) < N_NEW:
                    logits = self.model(input_ids=torch.tensor([ids + written]), use_cache=False).logits[
                        0, -1
                    ]
                    written.append(int(logits.argmax()))
        finally:
            handle.remove()
        return written

    def logits_of(self, resid: Tensor) -> Tensor:
        """Logits where a residual [d_model] leaves the last block."""
        last = self.blocks[max(self.residuals([5, 6]))]
        handle = last.register_forward_hook(
            lambda _m, _a, out: _with_first(out, _fitting(resid, out).expand_as(_first(out)))
        )
        try:
            with torch.no_grad(), silence():
                return self.model(input_ids=torch.tensor([[5, 6]]), use_cache=False).logits[0, -1]
        finally:
            handle.remove()


def _blocks(model: Any) -> Any:
    """The first list of N_BLOCKS modules that text alone runs."""
    lists = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == N_BLOCKS]
    run: list[Any] = []
    handles = [each[0].register_forward_hook(lambda *_, of=each: run.append(of)) for each in lists]
    with torch.no_grad(), silence():
        model(input_ids=torch.tensor([[5, 6]]), use_cache=False)
    for handle in handles:
        handle.remove()
    return next(each for each in lists if any(each is ran for ran in run))


def _fitting(vector: Tensor, output: Any) -> Tensor:
    """A vector [d_model] as often as a block's output has streams end to end."""
    return vector.repeat(_first(output).shape[-1] // vector.shape[-1])


def _first(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


def _with_first(output: Any, resid: Tensor) -> Any:
    """A block's output with another residual [..., d_model] in place of its first part."""
    return resid if isinstance(output, Tensor) else type(output)([resid, *output[1:]])


def refusal(family: str) -> str | None:
    """Why a family is refused; None where it is not."""
    try:
        config = tiny_config(family)
    except Exception:  # a family that cannot be built small
        config = CONFIG_MAPPING[family](**FIRST.get(family, {}))
    try:
        check_steered(config, "FOLDER")
    except NeurosteerError as error:
        return str(error).split(f"({family}: ")[-1].removesuffix(")")
    return None


def sweep(folder: Path, family: str, class_name: str) -> dict[str, str | None]:
    """Save a small model of a family into `folder` and check it in everything, by the check's name.

    Raises:
        NotBuilt: transformers does not build it from the small configuration.
    """
    try:
        save_family(folder, family, class_name)
    except Exception as error:  # each family has demands of its own on a configuration's sizes
        first = f"{type(error).__name__}: {error}".replace(str(folder), "FOLDER").split("\n")
        raise NotBuilt(" ".join(line.strip() for line in first[:2])[:160]) from error
    try:
        reference = Whole.load(folder, class_name)
    except Exception as error:
        return {"plain transformers": f"{type(error).__name__}: {error}"}
    checks: dict[str, Callable[[Path, Whole], str | None]] = {
        **{f"fit {layer}": lambda f, w, at=layer: _residuals(f, w, at) for layer in range(N_BLOCKS)},
        "alone": _alone,
        "batch": _batch,
        "lens": _lens,
    }
    return {name: _told(check, folder, reference) for name, check in checks.items()}


def _told(check: Callable[[Path, Whole], str | None], folder: Path, reference: Whole) -> str | None:
    try:
        with silence():
            return check(folder, reference)
    except NeurosteerError as error:
        return f"refused: {str(error).replace(str(folder), 'FOLDER')}"
    except Exception as error:  # what a person would see as a traceback
        at = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {error} ({Path(at.filename).name}:{at.lineno})"


def _residuals(folder: Path, reference: Whole, layer: int) -> str | None:
    engine = load(folder, points=[HookPoint(layer)], head=False)
    if layer not in reference.residuals([5, 6]):
        return _refused(engine, layer)
    tokens = [engine.tokenize(Passage("texts.jsonl:1", text)) for text in TEXTS]
    for batch in engine.residuals(tokens, [HookPoint(layer)]):
        for row, text in enumerate(batch.texts):
            kept = torch.tensor(tokens[text].counts)
            expected = reference.residuals(tokens[text].ids)[layer][kept]
            ours = batch.resid[HookPoint(layer)][batch.text_index == row]
            if ours.shape != expected.shape or not torch.allclose(ours, expected, **CLOSE):
                return f"residuals differ: {_apart(ours, expected)}"
    return None


def _refused(engine: Engine, layer: int) -> str | None:
    """A block that does not run without an image must be named."""
    try:
        list(engine.residuals([Tokens([5, 6], [False, True])], [HookPoint(layer)]))
    except InputError:
        return None
    return "a block that does not run is not named"


def _apart(ours: Tensor, expected: Tensor) -> str:
    if ours.shape != expected.shape:
        return f"{list(ours.shape)} for {list(expected.shape)}"
    cosine = torch.nn.functional.cosine_similarity(ours, expected, dim=-1).mean()
    return f"cosine {cosine:.4f}, norm {ours.norm():.3f} for {expected.norm():.3f}"


def _steered(engine: Engine) -> tuple[Tensor, Any]:
    push = torch.randn(engine.d_model, generator=torch.Generator().manual_seed(1)) * 0.2
    return push * 2, tiny_vector(engine.shape, {HookPoint(LAYER): push})


def _written(engine: Engine, prompts: list[str], vector: Any) -> list[str]:
    config = GenerationConfig(sampling=Sampling(temperature=0), max_new_tokens=N_NEW)
    jobs = [Job.of(engine, prompt, 2.0) for prompt in prompts]
    texts = dict(generate(engine, jobs, [vector], config))
    return [texts[number].text for number in range(len(jobs))]


def _alone(folder: Path, reference: Whole) -> str | None:
    engine = replace(load(folder), stop_ids=frozenset())
    push, vector = _steered(engine)
    for prompt in PROMPTS:
        ids = engine.prompt_ids(prompt)
        (ours,) = _written(engine, [prompt], vector)
        expected = engine.decode(ids, reference.greedy(ids, push))
        if ours != expected:
            return f"text alone: {ours!r} for {expected!r}"
    return None


def _batch(folder: Path, _reference: Whole) -> str | None:
    engine = replace(load(folder), stop_ids=frozenset(range(3, 300, 4)))
    _push, vector = _steered(engine)
    alone = [_written(engine, [prompt], vector)[0] for prompt in PROMPTS]
    together = _written(engine, PROMPTS, vector)
    return None if together == alone else f"texts together: {together} for {alone}"


def _lens(folder: Path, reference: Whole) -> str | None:
    engine = load(folder)
    direction = torch.randn(engine.d_model, generator=torch.Generator().manual_seed(2))
    ((up, down),) = promoted_tokens(engine, direction[None], 5)
    difference = reference.logits_of(1e4 * direction) - reference.logits_of(-1e4 * direction)
    difference = difference[: len(engine.tokenizer)]
    order = difference.argsort(descending=True).tolist()
    expected = [[engine.tokenizer.decode([token]) for token in ids] for ids in (order[:5], order[::-1][:5])]
    return None if [up, down] == expected else f"promoted {up} {down} for {expected[0]} {expected[1]}"
