"""What libraries call a place in the residual stream, and the hook point it is.

Knows TransformerLens's names, module names of transformers, and folder names that tell a block.
"""

import re
from pathlib import Path

from ...errors import InputError, SAEError
from ...models.hooks import RESID_POST, RESID_PRE, HookPoint

# `model.layers.20`, `transformer.h.20.output`: a block is a numbered member of the one list of them,
# that of the text.
_BLOCK = re.compile(
    r"(?!.*(?:vision|visual|audio))(?:[a-z_]+\.)*?(?:layers?|h|blocks?)\.([0-9]{1,6})(?:\.(input|output))?"
)
_FOLDER = re.compile(r"(?<![a-z])(?:layers?[._]?|blocks?[._]?|h\.)([0-9]{1,6})(?![0-9])")
_PLACE = re.compile(
    r"(?<![a-z])(?:(?P<residual>res|resid|residual)(?!_?mid)|mlp|att|attn|attention|resid_?mid|hook_z|clt|"
    r"transcoders?|crosscoders?|embedding|embed_tokens)(?![a-z])"
)


def residual_point(sae_id: str, name: str) -> HookPoint:
    """The hook point of a name; SAEError where it is no place in the residual stream."""
    if match := _BLOCK.fullmatch(name):
        return HookPoint(int(match[1]), RESID_PRE if match[2] == "input" else RESID_POST)
    try:
        return HookPoint.parse(name)
    except InputError as error:
        raise SAEError(f"SAE {sae_id!r}: {error}") from error


def layer_in(place: Path) -> int | None:
    """The block that the name of a file or folder, or of one of the nearest around it, tells."""
    for part in reversed(_near(place)):
        if match := _FOLDER.search(part.lower()):
            return int(match[1])
    return None


def hook_name_of(place: Path, layer: int | None, said: str = "", kind: str = RESID_POST) -> str:
    """The residual at a block, where neither its file, in the words of `said`, nor its path tells another.

    Raises:
        SAEError: nothing tells the block, or what is told is another place in it.
    """
    for words in [said] if said else reversed(_near(place)):
        if match := _PLACE.search(words.lower()):
            if not match["residual"]:
                raise SAEError(f"{place}: an SAE of {match[0]} ({words}), not of the residual stream")
            break
    else:
        if said and not _FOLDER.search(said.lower()):
            raise SAEError(f"{place}: an SAE of {said!r}, which is no known name of the residual stream")
    if layer is None:
        raise SAEError(f"{place}: nothing in it says which block it belongs to; name it with --layers")
    return str(HookPoint(layer, kind))


def _near(place: Path) -> tuple[str, ...]:
    """The parts of a path that may speak of the SAE: from the repository on, in the Hub's cache."""
    return place.resolve().parts[-6:]
