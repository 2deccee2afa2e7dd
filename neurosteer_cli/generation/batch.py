"""Continuations written together, a token a step; others join and leave while they are.

Knows the engine, pushes and sampling; knows nothing of vector files or of where text goes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from ..models.engine import Engine
from ..models.hooks import HookPoint, add
from .sampling import Sampling, choose

Positions = Literal["all", "prompt", "generated"]
POSITIONS = get_args(Positions)


@dataclass(eq=False, kw_only=True)
class Continuation:
    """One continuation while it is written. Each has settings of its own."""

    ids: list[int]  # the prompt's tokens, at least one
    pushes: Mapping[HookPoint, Tensor]  # [d_model] each, raw residual units
    positions: Positions
    sampling: Sampling
    generator: torch.Generator
    max_new_tokens: int
    n_log_probs: int | None = None  # how many tokens a step to tell the log-probabilities of
    written: list[int] = field(default_factory=list)  # without the token that ends the text
    finish_reason: str | None = None  # "stop": the model ended the text; "length": max_new_tokens reached


class Written(NamedTuple):
    """What a step did to a line."""

    line: Continuation
    token: int
    log_prob: float | None  # of the token, under the steered model at temperature 1
    most_probable: list[tuple[int, float]]  # tokens and their log-probabilities


class Batch:
    """Lines that are written together.

    Lines of unequal length are padded on the left. Newcomers' prompts are run by themselves, in the
    step after they have joined; then their keys and values go beside those of the others. What a line
    says depends on the others only as far as the machine's arithmetic does.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.lines: list[Continuation] = []  # in the order of the tensors' rows
        self._new: list[Continuation] = []
        self._gone: set[Continuation] = set()
        self._running = _Running.none(engine)

    def __len__(self) -> int:
        return len(self.lines) + len(self._new) - len(self._gone)

    @property
    def is_open(self) -> bool:
        """Whether lines can join: always when empty, else where the cache is one of keys and values."""
        is_empty = len(self.lines) == len(self._gone)
        return is_empty or all(type(layer) in _MERGED for layer in self._running.cache.layers)

    def join(self, lines: Iterable[Continuation]) -> None:
        """Take lines in; the next step gives each its first token. `is_open` must hold."""
        self._new.extend(lines)

    def leave(self, line: Continuation) -> None:
        """Write a line no further."""
        if line in self._new:
            self._new.remove(line)
        elif line in self.lines:
            self._gone.add(line)

    @torch.inference_mode()
    def step(self) -> list[Written]:
        """Give one more token to every line, or, if lines have joined, the first one to these alone.

        Lines that are finished have a `finish_reason` and have left.
        """
        self._clear()
        running = self._running
        if self._new:
            running = _Running.of(self.engine, self._new)
        if not running.lines:
            return []
        logits = running.forward()
        chosen = _choose(logits, running.lines)
        written = [
            Written(line, token, *_log_probs(line, token, row))
            for line, token, row in zip(running.lines, chosen.tolist(), logits, strict=True)
        ]
        running.append(chosen)
        for line, token, *_ in written:
            self._take(line, token)
        if self._new:
            self._running = running if not self.lines else self._running.joined(running)
            self.lines, self._new = self._running.lines, []
        return written

    def _take(self, line: Continuation, token: int) -> None:
        if token in self.engine.stop_ids:
            line.finish_reason = "stop"
        else:
            line.written.append(token)
            if len(line.written) == line.max_new_tokens:
                line.finish_reason = "length"
        if line.finish_reason:
            self._gone.add(line)

    def _clear(self) -> None:
        """Drop the rows of lines that have left."""
        if self._gone:
            kept = [row for row, line in enumerate(self.lines) if line not in self._gone]
            self._running = self._running.kept(kept) if kept else _Running.none(self.engine)
            self.lines, self._gone = self._running.lines, set()


@dataclass
class _Running:
    """The tensors behind some lines."""

    engine: Engine
    lines: list[Continuation]
    ids: Tensor  # [batch, pos] int64: the tokens that are not yet in the cache
    mask: Tensor  # [batch, all pos] int64
    pushes: dict[HookPoint, Tensor]  # [batch, 1 or pos, d_model]: of the next pass
    cache: DynamicCache

    def __post_init__(self) -> None:
        self.is_padded = not bool(self.mask.all())

    @classmethod
    def none(cls, engine: Engine) -> "_Running":
        empty = torch.empty(0, 0, dtype=torch.int64)
        return cls(engine, [], empty, empty, {}, DynamicCache(config=engine.model.config))

    @classmethod
    def of(cls, engine: Engine, lines: list[Continuation]) -> "_Running":
        """Before the prompts' pass. Pads are never steered."""
        ids, mask = _left_padded([line.ids for line in lines], engine.device)
        running = cls(engine, lines, ids, mask, {}, DynamicCache(config=engine.model.config))
        pushes = _stacked(lines, "generated", engine.device)
        if running.is_padded:
            pushes = {point: push * mask[..., None] for point, push in pushes.items()}
        running.pushes = pushes
        return running

    def forward(self) -> Tensor:
        """Logits [batch, d_vocab] after the tokens not yet in the cache."""
        positions = (self.mask.cumsum(-1) - 1).clamp_min(0)  # [batch, all pos]
        with add(self.engine.blocks, self.pushes):
            output = self.engine.model(
                input_ids=self.ids,
                attention_mask=self.mask if self.is_padded else None,
                position_ids=positions[:, -self.ids.shape[1] :],
                use_cache=True,
                logits_to_keep=1,
                **{self.engine.cache_argument: self.cache},
            )
        logits: Tensor = output.logits[:, -1]
        return logits

    def append(self, chosen: Tensor) -> None:
        """Go on with each line's chosen token."""
        if not self.lines[0].written:  # the prompts' pass is over
            self.pushes = _stacked(self.lines, "prompt", self.engine.device)
        self.ids = chosen[:, None]
        self.mask = torch.cat([self.mask, torch.ones_like(self.ids)], dim=1)

    def kept(self, rows: list[int]) -> "_Running":
        """Some of the rows, without the columns where all of these have pads."""
        index = torch.tensor(rows, dtype=torch.int64, device=self.engine.device)
        self.cache.batch_select_indices(index)
        mask = self.mask[index]
        n_pads = int(mask.any(0).int().argmax())
        if n_pads and all(type(layer) in _MERGED for layer in self.cache.layers):
            for layer in self.cache.layers:
                _cut(layer, n_pads)
            mask = mask[:, n_pads:]
        return _Running(
            self.engine,
            [self.lines[row] for row in rows],
            self.ids[index],
            mask,
            {point: push[index] for point, push in self.pushes.items()},
            self.cache,
        )

    def joined(self, other: "_Running") -> "_Running":
        """These rows and then the other's, each with one token that is not yet in the cache."""
        for layer, others in zip(self.cache.layers, other.cache.layers, strict=True):
            _merge(layer, others)
        length = max(self.mask.shape[1], other.mask.shape[1])
        points = dict.fromkeys([*self.pushes, *other.pushes])
        return _Running(
            self.engine,
            self.lines + other.lines,
            torch.cat([self.ids, other.ids]),
            torch.cat([_widened(part.mask, length, dim=1) for part in (self, other)]),
            {point: torch.cat([part._push_at(point) for part in (self, other)]) for point in points},
            self.cache,
        )

    def _push_at(self, point: HookPoint) -> Tensor:
        """[batch, 1, d_model], zeros where nothing is added."""
        there = self.pushes.get(point)
        if there is not None:
            return there
        return torch.zeros(len(self.lines), 1, self.engine.d_model, device=self.engine.device)


_MERGED = (
    DynamicLayer,
    DynamicSlidingWindowLayer,
)  # keys and values [batch, n_heads, pos, d_head] and no more


def _merge(layer: Any, other: Any) -> None:
    """Put another batch's keys and values below a layer's; the last tokens of all stand side by side."""
    if not layer.is_initialized:  # it uses another block's
        return
    length = max(layer.keys.shape[-2], other.keys.shape[-2])
    layer.keys, layer.values = (
        torch.cat([_widened(part, length, dim=-2) for part in parts])
        for parts in ((layer.keys, other.keys), (layer.values, other.values))
    )
    if layer.is_sliding:
        layer.cumulative_length = max(layer.cumulative_length, other.cumulative_length)


def _cut(layer: Any, n: int) -> None:
    """Take the first n columns from a layer; a sliding window may hold none of them any more."""
    if not layer.is_initialized:
        return
    length = layer.get_seq_length() - n
    if layer.is_sliding:
        layer.cumulative_length = length
    length = min(length, layer.keys.shape[-2])
    layer.keys, layer.values = layer.keys[:, :, -length:], layer.values[:, :, -length:]


def _widened(tensor: Tensor, length: int, dim: int) -> Tensor:
    """A tensor with zeros before it, so that it is `length` long."""
    shape = list(tensor.shape)
    shape[dim] = length - shape[dim]
    return torch.cat([tensor.new_zeros(shape), tensor], dim=dim) if shape[dim] else tensor


def _choose(logits: Tensor, lines: Sequence[Continuation]) -> Tensor:
    """A token a line [batch], each by its own sampling; lines that sample alike are taken together."""
    rows_of: dict[Sampling, list[int]] = {}
    for row, line in enumerate(lines):
        rows_of.setdefault(line.sampling, []).append(row)
    chosen = torch.empty(len(lines), dtype=torch.int64, device=logits.device)
    for sampling, rows in rows_of.items():
        mine = [lines[row] for row in rows]
        seen = None
        if sampling.repetition_penalty != 1.0:
            seen = torch.zeros(len(rows), logits.shape[-1], dtype=torch.bool, device=logits.device)
            for row, line in enumerate(mine):
                seen[row, line.ids + line.written] = True
        some = logits if len(rows) == len(lines) else logits[rows]
        chosen[rows] = choose(some, [line.generator for line in mine], sampling, seen)
    return chosen


def _log_probs(
    line: Continuation, token: int, logits: Tensor
) -> tuple[float | None, list[tuple[int, float]]]:
    if line.n_log_probs is None:
        return None, []
    log_probs = logits.float().log_softmax(-1)
    top = log_probs.topk(line.n_log_probs)
    return float(log_probs[token]), list(zip(top.indices.tolist(), top.values.tolist(), strict=True))


def _stacked(lines: Sequence[Continuation], but: Positions, device: torch.device) -> dict[HookPoint, Tensor]:
    """Each line's push at each hook point, [batch, 1, d_model], for all whose positions are not `but`.

    Hook points at which nothing is added are left out.
    """
    steered = {line: line.pushes if line.positions != but else {} for line in lines}
    points = {point: push for pushes in steered.values() for point, push in pushes.items()}
    return {
        point: torch.stack([steered[line].get(point, torch.zeros_like(push)) for line in lines])[:, None].to(
            device
        )
        for point, push in points.items()
    }


def _left_padded(rows: Sequence[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, both [batch, pos] int64, padded on the left."""
    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for line, row in enumerate(rows):
        ids[line, longest - len(row) :] = torch.tensor(row)
        mask[line, longest - len(row) :] = 1
    return ids.to(device), mask.to(device)
