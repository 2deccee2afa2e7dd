"""What this machine computes with, and which models lie ready on it.

Knows torch's devices, the user's cache and the Hub's; knows nothing of vectors or commands.
"""

import os
import platform

import torch

from ..errors import NeurosteerError
from .checkpoints.named import NAMED
from .checkpoints.resolve import is_local
from .checkpoints.wheels import cache_folder
from .load import choose_device, choose_dtype


def processor() -> str:
    """The system, its cores, and its memory in GB where the system tells."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        memory = f", {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB of memory"
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        memory = ""
    return f"{platform.platform()}, {platform.machine()}, {cores} cores{memory}"


def devices() -> list[str]:
    """The accelerators that torch sees, each with its memory."""
    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    names = [f"cuda:{i} {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB" for i, gpu in enumerate(found)]
    return names + (["mps"] if torch.backends.mps.is_available() else [])


def choices() -> str:
    """What --device auto and --dtype auto come to, and why."""
    device = choose_device("auto")
    dtype = str(choose_dtype("auto", device)).removeprefix("torch.")
    if device.type != "cpu":
        return f"{device}, {dtype}"
    able = "has" if dtype == "bfloat16" else "has no"
    return f"{device}, {dtype} (this CPU {able} bfloat16 instructions); {torch.get_num_threads()} threads"


def cache() -> list[str]:
    """The user's cache: where, how large, whether it can be written, and what is in it."""
    folder = cache_folder()
    if not folder.exists():
        return [f"{folder} (not made yet)"]
    inside = sorted(folder.iterdir())
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    state = "" if os.access(folder, os.W_OK) else ", cannot be written"
    return [f"{folder}, {size / 1e9:.2f} GB{state}", *(entry.name for entry in inside if entry.is_dir())]


def models_at_hand() -> list[str]:
    """Models that load by their name without a network: those named here and those in the Hub's cache."""
    return [*filter(is_local, NAMED), *_hub_models()]


def _hub_models() -> list[str]:
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return []
    names = sorted(repository.repo_id for repository in repositories if repository.repo_type == "model")
    return [name for name in names if _has_weights(name)]


def _has_weights(name: str) -> bool:
    try:
        return is_local(name) and not os.path.exists(name)
    except (NeurosteerError, OSError):
        return False
