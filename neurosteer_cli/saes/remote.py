"""SAEs that are fetched: of sae-lens's registry by its own loaders, of a repository of the Hub as a folder.

Tells what the network is at fault for from what it is not. Knows nothing of local folders.
"""

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from ..errors import SAEError, one_line
from .formats.read import WEIGHTS_FILES, read_sae
from .formats.state import from_state
from .sae import SparseAutoencoder


def fetch_sae(sae_id: str, layer: int | None = None) -> SparseAutoencoder:
    """Fetch RELEASE/SAE_ID of sae-lens's registry, or else OWNER/REPO/FOLDER of the Hub.

    Args:
        layer: the block of one on the Hub that does not say it.

    Raises:
        SAEError: neither is there, or it cannot be fetched, or not be used.
    """
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    directory = get_pretrained_saes_directory()
    release, _, name = sae_id.partition("/")
    if release in directory:
        known = directory[release].saes_map
        if name not in known:
            raise SAEError(f"release {release!r} has no SAE {name!r}; it has {_near(name, known)}, ...")
        return _of_registry(release, name)
    owner, _, rest = sae_id.partition("/")
    if near := difflib.get_close_matches(release, directory, n=3):
        hint = f"; did you mean {' or '.join(near)}?"
    elif owner.strip(".") and rest:
        repository, _, folder = rest.partition("/")
        return _of_hub(sae_id, f"{owner}/{repository}", folder, layer)
    else:
        hint = ", nor OWNER/REPO/FOLDER of the Hub"
    raise SAEError(f"{sae_id!r} is neither a folder nor a RELEASE/SAE_ID of sae-lens's registry{hint}")


def _of_registry(release: str, name: str) -> SparseAutoencoder:
    from sae_lens import SAE

    sae_id = f"{release}/{name}"
    command = f"python -c \"from sae_lens import SAE; SAE.from_pretrained('{release}', '{name}')\""
    with _told(sae_id, command):
        sae = SAE.from_pretrained_with_cfg_and_sparsity(release, name, device="cpu", dtype="float32")[0]
    weights = {key: value.detach() for key, value in sae.state_dict().items()}
    return from_state(sae_id, sae.cfg.to_dict(), weights)


def _of_hub(sae_id: str, repository: str, folder: str, layer: int | None) -> SparseAutoencoder:
    """Fetch the one folder of a repository, with what says of the training around it."""
    from huggingface_hub import list_repo_files, snapshot_download

    with _told(sae_id, f"hf download {repository} --include '{folder or '*'}/*'"):
        files = [PurePosixPath(name) for name in list_repo_files(repository)]
        folders = sorted({str(file.parent) for file in files if file.name in WEIGHTS_FILES})
        if (folder or ".") not in folders:
            shown = f"it has {_near(folder, folders)}, ..." if folders else "nor any other that is read"
            raise SAEError(f"{repository} on the Hub has no SAE {folder!r}; {shown}")
        wanted = [f"{folder}/*", f"{PurePosixPath(folder).parent}/config.json", "config.json"]
        place = Path(snapshot_download(repository, allow_patterns=wanted if folder else None)) / folder
    return read_sae(place, sae_id, layer)


@contextmanager
def _told(sae_id: str, command: str) -> Iterator[None]:
    """Say of a failure whether it is the network's, the Hub's, or that of what was fetched."""
    from httpx import HTTPError
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        yield
    except SAEError:
        raise
    except GatedRepoError as error:
        raise SAEError(
            f"SAE {sae_id!r} is gated: accept its terms on its page, then run `hf auth login`"
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise SAEError(
            f"{sae_id!r} is neither a folder, nor a RELEASE/SAE_ID of sae-lens's registry, nor in a "
            "repository of the Hub that can be read"
        ) from error
    except EntryNotFoundError as error:
        if not isinstance(error, LocalEntryNotFoundError):
            raise SAEError(f"SAE {sae_id!r}: the Hub has not all of its files ({one_line(error)})") from error
        raise SAEError(_unreachable(sae_id, error, command)) from error
    except (OSError, HTTPError) as error:
        raise SAEError(_unreachable(sae_id, error, command)) from error
    except Exception as error:  # sae-lens documents none of what its loaders raise
        raise SAEError(
            f"SAE {sae_id!r} was fetched, but its loader in sae-lens cannot read it "
            f"({type(error).__name__}: {one_line(error)}); choose another"
        ) from error


def _unreachable(sae_id: str, error: Exception, command: str) -> str:
    why = one_line(error)
    return f"SAE {sae_id!r} could not be fetched ({why}); where there is a network, run: {command}"


def _near(name: str, known: "dict[str, str] | list[str]") -> str:
    return ", ".join(difflib.get_close_matches(name, known, n=3) or list(known)[:3])
