"""Read and edit the residual stream of a decoder's blocks, and say where in it numbers stop being finite.

Knows torch modules and hook points; knows nothing of tokenizers, SAEs or files.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..errors import InputError, ModelError

RESID_PRE, RESID_POST = "hook_resid_pre", "hook_resid_post"
Change = Callable[[Tensor], Tensor | None]
_NAME = re.compile(rf"blocks\.([0-9]{{1,6}})\.({RESID_PRE}|{RESID_POST})")


@dataclass(frozen=True, order=True)
class HookPoint:
    """A place in the residual stream, in TransformerLens's naming: `blocks.20.hook_resid_post`.

    `layer` counts blocks from 0; `hook_resid_pre` is what enters the block, `hook_resid_post`
    what leaves it.
    """

    layer: int
    kind: str = RESID_POST

    def __str__(self) -> str:
        return f"blocks.{self.layer}.{self.kind}"

    @classmethod
    def parse(cls, name: str) -> "HookPoint":
        """Read a hook point's name; InputError if it is no residual one's."""
        match = _NAME.fullmatch(name)
        if match is None:
            raise InputError(
                f"{name!r} is not a residual hook point; use blocks.L.{RESID_POST} or blocks.L.{RESID_PRE}"
            )
        return cls(int(match[1]), match[2])

    @property
    def after_block(self) -> int:
        """The block whose output this is: what enters block L leaves block L-1; -1 is the embedding."""
        return self.layer if self.kind == RESID_POST else self.layer - 1

    def check(self, n_layers: int) -> None:
        """Raise InputError if a model of so many blocks has no such layer."""
        if self.layer >= n_layers:
            raise InputError(f"{self}: the model has {n_layers} blocks, 0 to {n_layers - 1}")


class _Stop(Exception):
    """Ends a forward pass once everything asked for has been read."""


@contextmanager
def capture(blocks: nn.ModuleList, points: Sequence[HookPoint]) -> Iterator[dict[HookPoint, Tensor]]:
    """Yield a dict that the next forward pass fills with the residuals [batch, pos, d_model].

    Where blocks pass on several streams (Gemma 3n, DeepSeek-V4), the residual is their mean. The pass is
    ended at the last of the points: nothing after it is computed, and the call of the model does not
    return. Statements in the body after that call are skipped.
    """
    seen: dict[HookPoint, Tensor] = {}

    def read(point: HookPoint, resid: Tensor, streams: int | None) -> None:
        seen[point] = resid if streams is None else resid.mean(streams)
        if len(seen) == len(points):
            raise _Stop

    with ExitStack() as handles:
        for point in points:
            handles.enter_context(_hook(blocks, point, partial(read, point)))
        with suppress(_Stop):
            yield seen


@contextmanager
def add(blocks: nn.ModuleList, pushes: Mapping[HookPoint, Tensor]) -> Iterator[set[HookPoint]]:
    """Add a push to the residual stream at each hook point while the context is open; those reached.

    Args:
        pushes: for each hook point a tensor that broadcasts to [batch, pos, d_model], in raw
            residual units; [d_model], [batch, 1, d_model] or [batch, pos, d_model].

    No pushes, no hook: the model is bit for bit unchanged.
    """

    def constant(push: Tensor) -> Change:
        return lambda _resid: push

    with change(blocks, {point: constant(push) for point, push in pushes.items()}) as reached:
        yield reached


@contextmanager
def change(blocks: nn.ModuleList, changes: Mapping[HookPoint, Change]) -> Iterator[set[HookPoint]]:
    """Add to the residual stream what a function makes of it, while the context is open; the points reached.

    Args:
        changes: for each hook point a function of the residual [batch, pos, d_model]; what it gives is
            added to it and broadcasts to it: [d_model], [batch, 1, d_model] or [batch, pos, d_model].
            With None the residual is left as it is.

    Where blocks pass on several streams, the function is given their mean, and what it gives is added to
    each: their mean moves by it.
    """
    reached: set[HookPoint] = set()

    def changed(point: HookPoint, resid: Tensor, streams: int | None) -> Tensor | None:
        reached.add(point)
        new = changes[point](resid if streams is None else resid.mean(streams))
        if new is None:
            return None
        new = new.to(resid)  # its device and dtype
        return resid + (new if streams is None or new.dim() == 1 else new.unsqueeze(streams))

    with ExitStack() as handles:
        for point in changes:
            handles.enter_context(_hook(blocks, point, partial(changed, point)))
        yield reached


@contextmanager
def replace(blocks: nn.ModuleList, point: HookPoint, resid: Tensor) -> Iterator[None]:
    """Put `resid` [batch, pos, d_model], in its own dtype, in the residual's place while the context is open.

    Where blocks pass on several streams, it is put into each.
    """

    def put(old: Tensor, streams: int | None) -> Tensor:
        return (resid if streams is None else resid.unsqueeze(streams)).expand_as(old).clone()

    with _hook(blocks, point, put):
        yield


def _hook(
    blocks: nn.ModuleList, point: HookPoint, edit: Callable[[Tensor, int | None], Tensor | None]
) -> RemovableHandle:
    """Call `edit` with the residual at `point` and the dimension of its streams, if it has several.

    What it returns, if anything, takes the residual's place.
    """
    block = blocks[point.layer]

    def edited(resid: Tensor) -> Tensor | None:
        if resid.dim() == 4:
            return edit(resid, 0 if hasattr(block, "altup") else 2)  # Gemma 3n has its streams first
        if n_streams := getattr(getattr(block, "attn_hyper_connection", None), "hc_count", None):
            apart = resid.view(*resid.shape[:2], n_streams, -1)  # Qwen 4 has them end to end
            new = edit(apart, 2)
            return None if new is None else new.flatten(-2)
        return edit(resid, None)

    def before(_block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        new = edited(args[0] if args else kwargs["hidden_states"])
        if new is None:
            return None
        return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": new})

    def after(_block: nn.Module, _args: Any, output: Any) -> Any:
        if isinstance(output, Tensor):
            return edited(output)
        new = edited(output[0])  # transformers 4 blocks, and old families' in 5, return several things
        return output if new is None else type(output)([new, *output[1:]])

    if point.kind == RESID_PRE:
        return block.register_forward_pre_hook(before, with_kwargs=True)
    return block.register_forward_hook(after)


@torch.inference_mode()
def not_finite(name: str, model: Any, blocks: nn.ModuleList, ids: Tensor) -> ModelError:
    """What to say where a pass over tokens [batch, pos], pads -1, gave numbers that are not finite.

    They are run again, unsteered, to see where it begins.
    """
    points = [HookPoint(0, RESID_PRE), *(HookPoint(layer) for layer in range(len(blocks)))]
    with capture(blocks, points) as seen:
        model(input_ids=ids.clamp_min(0), use_cache=False)
    first = next((point for point in points if not bool(seen[point][ids >= 0].isfinite().all())), None)
    dtype = next(model.parameters()).dtype
    number_type = str(dtype).removeprefix("torch.")
    if first is None:
        return ModelError(
            f"{name}: steered so strongly its numbers are not finite in {number_type}: choose a smaller alpha"
        )
    where = "the embedding" if first.kind == RESID_PRE else f"block {first.layer}"
    if dtype == torch.float16:
        advice = "they are too large for float16; pass --dtype float32 or bfloat16"
    else:
        advice = "its weights are damaged; fetch the model again"
    return ModelError(f"{name}: from {where} on its numbers are not finite in {number_type}: {advice}")
