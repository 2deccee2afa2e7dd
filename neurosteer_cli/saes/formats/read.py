"""Which library saved an SAE, told by its files' names; a folder of SAEs sorted by block.

Knows the readers; knows nothing of names that are not paths.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from ...data.kinds import MODEL, known_kind
from ...errors import SAEError, one_line
from ..sae import SparseAutoencoder
from . import dictionary_learning, gemma_scope, sae_lens, sparsify
from .hook_names import residual_point
from .state import from_state

_READERS = {
    sae_lens.WEIGHTS_FILE: sae_lens,
    sparsify.WEIGHTS_FILE: sparsify,
    dictionary_learning.WEIGHTS_FILE: dictionary_learning,
    gemma_scope.NPZ_FILE: gemma_scope,
    gemma_scope.SAFETENSORS_FILE: gemma_scope,
}
WEIGHTS_FILES = tuple(_READERS)
_BY_SUFFIX = {".pt": dictionary_learning, ".npz": gemma_scope}  # of a file called otherwise
_KNOWN = (
    "sae_weights.safetensors (sae-lens), sae.safetensors (sparsify), ae.pt (dictionary_learning), "
    "params.npz or params.safetensors (Gemma Scope)"
)


def place_of(path: Path) -> Path:
    """The folder of an SAE; of a file, its folder too, unless its name is one of its own."""
    return path.parent if path.name in _READERS else path


def is_sae(place: Path) -> bool:
    """Whether there is an SAE, or what is left of one."""
    return _reader(place) is not None


def read_sae(place: Path, sae_id: str, layer: int | None = None) -> SparseAutoencoder:
    """Load the SAE in a folder, or a file.

    Args:
        sae_id: what it is called from there on.
        layer: the block it belongs to where nothing in it says so.

    Raises:
        SAEError: of a form, an architecture or a place that is not read, or damaged.
    """
    reader = _reader(place)
    if reader is None:
        raise SAEError(_what_else(place))
    with _of_its_form(place):
        return from_state(sae_id, *reader.read(place, layer))


@contextmanager
def _of_its_form(place: Path) -> Iterator[None]:
    """Name an SAE in whose files there is, say, a text where a number belongs."""
    try:
        yield
    except (AttributeError, TypeError, ValueError) as error:
        raise SAEError(
            f"{place}: its files are not of the form they should be ({one_line(error)})"
        ) from error


def places_by_layer(folder: Path, depth: int) -> dict[int, list[Path]]:
    """Where within so many folders of one there are SAEs of the residual stream, by block."""
    found = {
        path.parent
        for level in range(1, depth + 1)
        for name in WEIGHTS_FILES
        for path in folder.glob("*/" * level + name)
    }
    places: dict[int, list[Path]] = {}
    for place in sorted(found):
        if (layer := _layer_of(place)) is not None:
            places.setdefault(layer, []).append(place)
    return dict(sorted(places.items()))


def _layer_of(place: Path) -> int | None:
    reader = _reader(place)
    assert reader is not None
    try:
        with _of_its_form(place):
            return residual_point("", reader.hook_name(place, None)).layer
    except SAEError:  # of another place, or damaged: read for itself, it says what is the matter
        return None


def _reader(place: Path) -> ModuleType | None:
    if place.is_file():
        return _BY_SUFFIX.get(place.suffix)
    here = next((reader for name, reader in _READERS.items() if (place / name).is_file()), None)
    return here or (sae_lens if (place / "cfg.json").is_file() else None)


def _what_else(place: Path) -> str:
    """What a path is that no reader takes, and what to do."""
    if place.is_file():
        what = known_kind(place) or "not a file of an SAE that is read"
        return f"{place}: {what}. For an SAE name the folder it is in, with one of {_KNOWN}"
    if known_kind(place) == MODEL:
        return f"{place}: {MODEL}"
    if (place / "hyperparams.json").is_file():
        return (
            f"{place}: an SAE of Llama Scope, whose norms are folded in by sae-lens's loader; name it as "
            "sae-lens's registry does, llama_scope_lxr_8x/l16r_8x"
        )
    return f"{place}: no SAE of the residual stream in it, nor in folders of it; known are {_KNOWN}"
