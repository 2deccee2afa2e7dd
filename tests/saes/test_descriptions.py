"""Descriptions of latents: their names, the file, and finding it again."""

import gzip
from pathlib import Path

import pytest
from support.tiny import save_tiny_sae

from neurosteer_cli.errors import SAEError
from neurosteer_cli.saes.descriptions import (
    FILE_NAME,
    About,
    Context,
    Description,
    Descriptions,
    file_for,
    find,
    names,
)
from neurosteer_cli.saes.load import load_sae
from neurosteer_cli.saes.sae import SparseAutoencoder


def by_hand(latents: list[Description], **changes: object) -> Descriptions:
    about = {
        "format_version": 1, "program_version": "0", "sae_sha256": "0" * 64, "model_id": "tiny",
        "hook_point": "blocks.2.hook_resid_post", "d_sae": len(latents), "n_tokens": 10,
        "median_resid_norm": 2.0, **changes,
    }  # fmt: skip
    return Descriptions(About(**about), latents)  # type: ignore[arg-type]


def test_a_latents_name_is_where_it_fires() -> None:
    contexts = (
        Context("it was", " hardly", " worth", 9.0), Context("is", " utterly", "", 8.0),
        Context("", " hardly", " a", 7.0), Context("a", "\n", "", 6.0),
    )  # fmt: skip
    assert Description(1, 0.1, contexts, (), ()).name == "hardly, utterly, \\n: it was [hardly] worth"
    assert Description(1, 0.0, (), (), ()).name == "never fired"


def test_what_is_saved_is_read_again_and_found_by_the_weights(
    sae: SparseAutoencoder, described: Descriptions, tmp_path: Path
) -> None:
    file = file_for(sae, str(tmp_path / "sae"), "tiny")
    assert file == tmp_path / "sae" / FILE_NAME
    described.save(file)
    first = file.read_bytes()
    found = find(sae, "tiny")
    assert found is not None
    assert found.about == described.about
    for before, after in zip(described.latents, found.latents, strict=True):
        assert (after.latent_id, after.promoted, after.suppressed) == (
            before.latent_id, before.promoted, before.suppressed,
        )  # fmt: skip
        assert after.firing_rate == pytest.approx(before.firing_rate, rel=0.01)
        assert after.name == before.name
    found.save(file)
    assert file.read_bytes() == first


def test_descriptions_of_other_weights_are_not_its_own(
    sae: SparseAutoencoder, described: Descriptions, tmp_path: Path
) -> None:
    assert find(sae, "tiny") is None
    described.save(tmp_path / "sae" / FILE_NAME)
    other = load_sae(str(save_tiny_sae(tmp_path / "sae", d_sae=96, seed=1)), model_id="tiny")
    assert find(other, "tiny") is None
    assert names(other, "tiny", [1, 2]) == {}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"no gzip", "damaged"),
        (gzip.compress(b"{}\n"), "damaged .no descriptions."),
        (gzip.compress(b'{"format_version": 3}\n'), "format version 3, this program reads 1 to 2"),
        (gzip.compress(b'{"format_version": 1}\n'), "damaged"),
        (None, "damaged .latents are missing."),
    ],
)
def test_a_damaged_file_is_named(data: bytes | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / FILE_NAME
    if data is None:
        by_hand([Description(0, 0.1, (), (), ())], d_sae=2).save(file)
    else:
        file.write_bytes(data)
    with pytest.raises(SAEError, match=rf"{FILE_NAME}: {message}.*run `neurosteer sae describe` again"):
        Descriptions.load(file)


def test_a_file_of_version_1_has_no_strengths(tmp_path: Path) -> None:
    old = by_hand([Description(0, 0.1, (), (), (), strengths=(1, 2))])
    old.save(tmp_path / FILE_NAME)
    assert Descriptions.load(tmp_path / FILE_NAME) == old
    lines = gzip.decompress((tmp_path / FILE_NAME).read_bytes()).replace(b',"strengths":[1,2]', b"")
    (tmp_path / FILE_NAME).write_bytes(gzip.compress(lines))
    assert Descriptions.load(tmp_path / FILE_NAME).latents[0].strengths == ()
