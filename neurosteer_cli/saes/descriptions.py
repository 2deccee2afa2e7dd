"""What an SAE's latents fire on and stand for, in a small file beside the SAE.

Knows the file's format and where it is kept; knows nothing of how descriptions are made.
"""

import gzip
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field, PlainSerializer, TypeAdapter

from ..data.sources import read_records
from ..errors import InputError, SAEError, one_line
from ..files import replace_file
from ..models.checkpoints.wheels import cache_folder
from .load import sae_place
from .sae import SparseAutoencoder

FORMAT_VERSION = 2
READABLE = (1, FORMAT_VERSION)  # version 1 had no strengths
N_STRENGTHS = 12
FILE_NAME = "descriptions.jsonl.gz"
N_NAMING = 3  # tokens in a latent's name

Rounded = Annotated[float, PlainSerializer(lambda number: float(f"{number:.3g}"))]


class Context(NamedTuple):
    """One place where a latent fired."""

    before: str
    token: str  # at which it fired
    after: str
    activation: Rounded


@dataclass(frozen=True)
class Description:
    """One latent; an alias is a field's name in the file."""

    latent_id: Annotated[int, Field(alias="id")]
    firing_rate: Annotated[Rounded, Field(alias="rate")]  # share of tokens
    contexts: Annotated[tuple[Context, ...], Field(alias="at")]  # of largest activation first
    promoted: Annotated[tuple[str, ...], Field(alias="up")]  # tokens, by the logit lens
    suppressed: Annotated[tuple[str, ...], Field(alias="down")]
    # tokens at which it fires, in half octaves of activation up to the strongest; () of version 1
    strengths: tuple[int, ...] = ()

    @property
    def peak(self) -> float:
        """The largest activation seen; 0 if it never fired."""
        return self.contexts[0].activation if self.contexts else 0.0

    @property
    def name(self) -> str:
        """The tokens it fires at most, each once, and the first of its contexts."""
        if not self.contexts:
            return "never fired"
        first = self.contexts[0]
        lead = first.token[: len(first.token) - len(first.token.lstrip())]
        quote = " ".join(f"{first.before}{lead}[{first.token.strip()}]{first.after}".split())
        return f"{', '.join(self.naming)}: {quote}"

    @property
    def naming(self) -> list[str]:
        """The tokens it fires at most, each once, the first few."""
        tokens = dict.fromkeys(c.token.strip() or repr(c.token)[1:-1] for c in self.contexts)
        return list(tokens)[:N_NAMING]


@dataclass(frozen=True, kw_only=True)
class About:
    """Where descriptions come from. No field has a default."""

    format_version: int
    program_version: str
    sae_sha256: str
    model_id: str
    hook_point: str
    d_sae: int
    n_tokens: int  # that were read for them
    median_resid_norm: float


_ABOUT, _LATENT = TypeAdapter(About), TypeAdapter(Description)


@dataclass(frozen=True)
class Descriptions:
    """All latents of an SAE."""

    about: About
    latents: list[Description]  # by latent id

    def save(self, file: Path) -> None:
        """Write the file, the same bytes for the same descriptions."""
        latents = (_LATENT.dump_python(latent, by_alias=True) for latent in self.latents)
        lines = [asdict(self.about), *latents]
        text = "".join(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in lines)
        with replace_file(file) as temporary:
            temporary.write_bytes(gzip.compress(text.encode(errors="replace"), 9, mtime=0))

    @classmethod
    def load(cls, file: Path) -> "Descriptions":
        """Read what `save` wrote; SAEError if it is damaged, incomplete, or of another version."""
        try:
            records = (located.record for located in read_records(str(file)))
            about = next(records)
            if (version := about.get("format_version")) is None:
                raise ValueError("no descriptions")
            if version not in READABLE:
                raise SAEError(
                    f"{file}: format version {version}, this program reads "
                    f"1 to {FORMAT_VERSION}; run `neurosteer sae describe` again"
                )
            descriptions = cls(_ABOUT.validate_python(about), [*map(_LATENT.validate_python, records)])
            if [latent.latent_id for latent in descriptions.latents] != list(range(descriptions.about.d_sae)):
                raise ValueError("latents are missing")
        except (InputError, ValueError) as error:
            raise SAEError(
                f"{file}: damaged ({one_line(error)}); run `neurosteer sae describe` again"
            ) from error
        return descriptions


def file_for(sae: SparseAutoencoder, sae_id: str, model_id: str) -> Path:
    """Where an SAE's descriptions are written: its own folder, or the cache if it has none here."""
    place = sae_place(sae_id, model_id=model_id, layer=sae.hook_point.layer)
    return place / FILE_NAME if place and place.is_dir() else _cached(sae)


def find(sae: SparseAutoencoder, model_id: str) -> Descriptions | None:
    """The descriptions of an SAE, if it has any; those of other weights are not its own."""
    for file in (file_for(sae, sae.sae_id, model_id), _cached(sae)):
        if file.is_file() and (descriptions := Descriptions.load(file)).about.sae_sha256 == sae.sha256:
            return descriptions
    return None


def _cached(sae: SparseAutoencoder) -> Path:
    return cache_folder() / "descriptions" / f"{sae.sha256[:16]}.jsonl.gz"


def names(sae: SparseAutoencoder, model_id: str, latent_ids: Iterable[int]) -> dict[int, str]:
    """A name for each latent; none if the SAE has no descriptions."""
    descriptions = find(sae, model_id)
    return {latent: descriptions.latents[latent].name for latent in latent_ids} if descriptions else {}
