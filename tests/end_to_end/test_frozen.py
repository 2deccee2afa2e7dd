"""What every command says, held to what it said before: help, results, pages and errors.

Knows the command line and the files under `frozen`; knows nothing of the modules behind them, so that
those may move. To accept a change, or to add a case: run with NEUROSTEER_FREEZE=1, which rewrites the
files instead of comparing, and read the diff. A bad input is added as a row {"command": ...} of
`frozen/errors.jsonl`, any other case below.

    help/      --help of every command
    json/      results for programs; floats may differ by 1 part in 10,000
    shown/     results for people: tables and texts on stdout
    pages/     what can be read on an HTML page, charts left out, and the data that its script lists
    files/     other files that a command writes
    told/      what each of these says on stderr besides; no file is: nothing
    errors.jsonl   bad inputs: exit code and stderr, to the letter

Numbers with a point in texts and on pages may differ by as much, or by one in the last place. Dates,
seconds, versions and the folder of the test are replaced by a word in <brackets>, and so is what another
library says of a damaged file. Commands run in one folder made for them, by relative names; each finds a
folder `out` with a vector, an SAE and an interrupted run of its own.
"""

import difflib
import gzip
import html
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import traceback
from collections.abc import Iterable, Iterator
from operator import itemgetter
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import gguf
import huggingface_hub
import numpy as np
import pytest
import torch
import uvicorn
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils import validate_repo_id
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support.tiny import save_tiny, save_tiny_bert, save_tiny_sae
from typer.testing import CliRunner, Result

from neurosteer_cli.cli import app

FROZEN = Path(__file__).with_name("frozen")
FREEZE = os.environ.get("NEUROSTEER_FREEZE") == "1"
ERRORS = FROZEN / "errors.jsonl"
POINT = "blocks.2.hook_resid_post"

# --- the cases ---------------------------------------------------------------------------------

COMMANDS = (
    "", "fit", "gen", "combine", "inspect", "eval", "calibrate", "layers", "export", "import", "serve",
    "demo", "doctor", "help", "sae", "sae train", "sae info", "sae describe", "sae search",
)  # fmt: skip

CPU = "--dtype float32 --device cpu"
TINY = f"-m tiny {CPU}"
FIT = f"fit up.jsonl down.jsonl {TINY} -o out/new.st"
LATENT = f"fit --sae family --latent 2/3:-2 --latent 1/5 {TINY} -o out/new.st"
GEN = f"gen --max-new-tokens 6 {CPU}"
WRITE = f"--prompts prompts.jsonl --max-new-tokens 6 {CPU}"
EVAL = f"eval -v v.st -a -20,20 {WRITE} --judge regex:[a-m]"
EVAL_MORE = f"{EVAL} --judge sentiment --baseline-prompt 'be nice' -n 2"
CALIBRATE = f"calibrate out/v.st {WRITE} --judge regex:[a-m] -a -200,-100,100,200 --max-ppl-ratio 1000 -n 4"
LAYERS = f"layers up.jsonl down.jsonl {TINY}"
STEER = "--layers 1,2 --steer -a -20,20 --prompts prompts.jsonl --judge regex:[a-m] --max-new-tokens 6"
TRAIN = f"sae train words.txt {TINY} --k 4 --tokens 1k --epochs 2 --batch-size 128 --context 64 --d-sae"


class Case(NamedTuple):
    """A command that must succeed."""

    golden: str  # the file under `frozen`
    command: str
    written: str = ""  # the file to hold in place of stdout
    stdin: str = ""

    @property
    def told(self) -> str:
        """The file under `frozen` of what it says on stderr."""
        return f"told/{Path(self.golden).with_suffix('.txt')}"


CASES = [
    # fit
    Case("json/fit.jsonl", f"{FIT} --sae sae --top-k 8 --json"),
    Case("json/fit_family.jsonl", f"{FIT} --sae family --top-k 4 --json"),
    Case("json/fit_paper.jsonl", f"{FIT} --sae sae --method paper --top-k 8 --json"),
    Case("json/fit_diffmean.jsonl", f"{FIT} --method diffmean --layers 1,3 --json"),
    Case("json/fit_pca.jsonl", f"{FIT} --method pca --hook-point blocks.2.hook_resid_pre --json"),
    Case("json/fit_labels.jsonl", f"fit both.jsonl --target good --source bad {TINY} --method diffmean "
         "-o out/new.st --json"),
    Case("json/fit_stdin.jsonl", f"fit up.jsonl - {TINY} --method diffmean -o out/new.st --json",
         stdin="".join(f"zzz yyy {n}\n" for n in range(10))),
    Case("json/fit_completions.jsonl", f"fit completions.jsonl chats.jsonl {TINY} --method diffmean "
         "-o out/new.st --json"),
    Case("json/fit_latent.jsonl", f"{LATENT} --json"),
    Case("json/fit_latent_texts.jsonl", f"fit up.jsonl --sae sae --latent 3:2 {TINY} -o out/new.st --json"),
    Case("shown/fit.txt", f"{FIT} --sae sae --top-k 8"),
    Case("shown/fit_family.txt", f"{FIT} --sae family --top-k 4"),
    Case("shown/fit_latent.txt", LATENT),
    Case("shown/fit_other_name.txt", f"{FIT} --sae othersae --top-k 8"),
    Case("shown/fit_twice.txt", f"fit twice.jsonl down.jsonl {TINY} --method diffmean -o out/new.st"),
    # gen
    Case("json/gen.jsonl", f"{GEN} -m tiny hello --json"),
    Case("json/gen_alphas.jsonl", f"{GEN} -v v.st -a -20,0,20 one two -n 2 --seed 3 --json"),
    Case("json/gen_two_vectors.jsonl", f"{GEN} -v v.st -a 5 -v early.st -a 10,20 hello --json"),
    Case("json/gen_sum.jsonl", f"{GEN} -v sum.st -a 300 hello --positions generated --json"),
    Case("json/gen_records.jsonl", f"{GEN} -v v.st prompts.jsonl --json"),
    Case("json/gen_chat.jsonl", f"{GEN} -v v.st --chat hi --system 'be kind' user.jsonl --json"),
    Case("json/gen_greedy.jsonl", f"{GEN} -m tiny hello --greedy --repetition-penalty 1.3 --json"),
    Case("json/gen_sampling.jsonl", f"{GEN} -m tiny hello --temperature 1.2 --top-p 0.7 --top-k 9 --json"),
    Case("json/gen_auto.jsonl", f"{GEN} -v calibrated.st -a auto hello --json"),
    Case("json/gen_level.jsonl", f"{GEN} -v calibrated.st --level 0.2 --chat hello --json"),
    Case("json/gen_stdin.jsonl", f"{GEN} -m tiny --json", stdin='{"prompt": "one", "id": 1}\n'),
    Case("json/gen_baked.jsonl", f"{GEN} -m baked hello --json"),
    Case("json/gen_imported.jsonl", f"{GEN} -v imported.st -a 20 hello --json"),
    Case("shown/gen.txt", f"{GEN} -v v.st hello"),
    Case("shown/gen_several.txt", f"{GEN} -v v.st -a 0,20 one two -n 2"),
    Case("shown/gen_compare.txt", f"{GEN} -v v.st -a 20,30 --compare one two"),
    # vectors
    Case("shown/version.txt", "--version"),
    Case("shown/combine.txt", "combine v.st:2 early.st:-0.5 v.st -o out/sum.st"),
    Case("json/inspect.jsonl", "inspect v.st --latents 3 --json"),
    Case("json/inspect_named.jsonl", "inspect named.st --json"),
    Case("json/inspect_sum.jsonl", "inspect sum.st --json"),
    Case("json/inspect_calibrated.jsonl", "inspect calibrated.st --latents 1 --json"),
    Case("json/inspect_imported.jsonl", "inspect imported.st --json"),
    Case("json/inspect_restored.jsonl", "inspect restored.st --json"),
    Case("json/inspect_gone.jsonl", "inspect gone.st --json"),
    *(Case(f"shown/inspect_{name}.txt", f"inspect {name}.st")
      for name in ("v", "named", "sum", "calibrated", "imported", "restored", "gone", "qwen")),
    Case("shown/export_gguf.txt", "export v.st --to gguf -o out/v.gguf"),
    Case("shown/export_model.txt", "export v.st --to model -a 8 -o out/baked"),
    Case("files/baked_config.jsonl", "export v.st --to model -a 8 -o out/baked", "out/baked/config.json"),
    Case("shown/import.txt", f"import foreigncv.gguf --gguf-origin repeng {TINY} -o out/new.st"),
    Case("shown/import_texts.txt", f"import foreigncv.gguf --gguf-origin cvector-generator --layers 1 "
         f"--texts up.jsonl {TINY} -o out/new.st"),
    Case("shown/import_own.txt", "import own.gguf -o out/new.st"),
    # eval, calibrate, layers
    Case("json/eval.jsonl", f"{EVAL_MORE} --json"),
    Case("json/eval_classifier.jsonl", f"eval -v v.st {WRITE} --judge hf:judge:good --no-random --json"),
    Case("json/eval_two_vectors.jsonl", f"eval -v v.st -a 5 -v good.st -a 1,2 {WRITE} --chat --json"),
    Case("json/eval_built_in.jsonl", f"eval -v v.st -a 1 --no-random --max-new-tokens 1 {CPU} --json"),
    Case("json/eval_written.jsonl", f"eval written.jsonl --judge regex:[a-m] {CPU} --json"),
    Case("json/eval_published.jsonl", f"eval published.jsonl {TINY} --judge regex:abc --json"),
    Case("json/eval_ppl_model.jsonl", f"eval written.jsonl --ppl-model qwen {CPU} --json"),
    Case("files/eval_save.jsonl", f"{EVAL} --save out/new.jsonl", "out/new.jsonl"),
    Case("shown/eval.txt", EVAL_MORE),
    Case("shown/eval_resume.txt", f"{EVAL} --save out/kept.jsonl --resume"),
    Case("shown/eval_no_judge.txt", f"eval -v v.st {WRITE}"),
    Case("pages/eval.txt", f"{EVAL_MORE} --report out/page.html", "out/page.html"),
    Case("pages/eval_no_judge.txt", f"eval -v v.st {WRITE} --report out/page.html", "out/page.html"),
    Case("pages/eval_written.txt", f"eval written.jsonl --judge hf:judge:good {CPU} --report out/page.html",
         "out/page.html"),
    Case("json/calibrate.jsonl", f"{CALIBRATE} --json"),
    Case("shown/calibrate.txt", CALIBRATE),
    Case("pages/calibrate.txt", f"{CALIBRATE} --report out/page.html", "out/page.html"),
    Case("pages/calibrate_nothing.txt", f"calibrate out/v.st {WRITE} --judge regex:. -a 9 --max-ppl-ratio 1 "
         "--report out/page.html", "out/page.html"),
    Case("json/layers.jsonl", f"{LAYERS} --json"),
    Case("json/layers_steer.jsonl", f"{LAYERS} {STEER} --json"),
    Case("shown/layers.txt", f"{LAYERS} --plot out/layers.svg"),
    Case("shown/layers_steer.txt", f"{LAYERS} {STEER}"),
    Case("pages/layers.txt", f"{LAYERS} --report out/page.html", "out/page.html"),
    Case("pages/layers_steer.txt", f"{LAYERS} {STEER} --report out/page.html", "out/page.html"),
    # sae
    *(Case(f"json/sae_train_{kind}.jsonl",
           f"{TRAIN} 32 --layers 1,2 --architecture {kind} -o out/saes --json")
      for kind in ("topk", "batchtopk", "jumprelu", "matryoshka")),
    Case("json/sae_train_init.jsonl", f"{TRAIN} 64 --layers 3 --init family -o out/saes --json"),
    Case("files/sae_config.jsonl", f"{TRAIN} 32 --layers 1 -o out/saes",
         "out/saes/blocks.1.hook_resid_post/cfg.json"),
    Case("shown/sae_train.txt", f"{TRAIN} 32 --layers 1 -o out/saes"),
    Case("json/sae_info.jsonl", f"sae info family {TINY} --json"),
    Case("json/sae_info_measured.jsonl", f"sae info family words.txt --loss-tokens 500 {TINY} --json"),
    Case("shown/sae_info.txt", f"sae info family {TINY}"),
    Case("shown/sae_info_measured.txt", f"sae info sae words.txt --loss-tokens 500 {TINY}"),
    Case("shown/sae_describe.txt", f"sae describe out/sae words.txt {TINY}"),
    Case("files/descriptions.jsonl", f"sae describe out/sae words.txt {TINY} --contexts 2 --tokens-shown 2",
         "out/sae/descriptions.jsonl.gz"),
    Case("pages/sae_describe.txt", f"sae describe out/sae words.txt {TINY} --report out/page.html",
         "out/page.html"),
    Case("json/sae_search.jsonl", f"sae search family 'some words' -n 3 {TINY} --json"),
    Case("shown/sae_search.txt", f"sae search family 'some words' --layer 2 {TINY}"),
]  # fmt: skip

# --- the folder --------------------------------------------------------------------------------

GOOD = '{"text": "good"}\n'
FILES: dict[str, str | bytes] = {
    # sides of texts
    "up.jsonl": "".join(f'{{"text": "aaa bbb {"ab" * n} {n}"}}\n' for n in range(10)),
    "down.jsonl": "".join(f'{{"text": "zzz yyy {"zy" * n} {n}"}}\n' for n in range(10)),
    "twice.jsonl": "".join(f'{{"text": "aaa bbb {n % 9}"}}\n{{"text": "{n % 9}"}}\n' for n in range(10)),
    "both.jsonl": "".join(
        f'{{"text": "text {n}", "label": "{"good" if n % 2 else "bad"}"}}\n' for n in range(20)
    ),
    "completions.jsonl": "".join(f'{{"prompt": "Say it.", "completion": " aaa {n}"}}\n' for n in range(10)),
    "chats.jsonl": "".join(
        f'{{"messages": [{{"role": "user", "content": "hi"}}, '
        f'{{"role": "assistant", "content": "bb {n}"}}]}}\n'
        for n in range(10)
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
    "utf16.jsonl": GOOD.encode("utf-16"),
    "latin1.txt": "cafe\ncaf\xe9\n".encode("latin-1"),
    "surrogate.jsonl": '{"text": "a\\ud800"}\n',
    "deep.jsonl": '{"text": ' + "[" * 100_000 + "]" * 100_000 + "}\n",
    "digits.jsonl": '{"text": ' + "1" * 5000 + "}\n",
    "nan.jsonl": '{"prompt": "one", "score": NaN}\n',
    "completion.jsonl": '{"completion": "a"}\n',
    "emptycompletion.jsonl": '{"prompt": "a", "completion": ""}\n',
    "nomessages.jsonl": '{"messages": []}\n',
    "textmessages.jsonl": '{"messages": "hi"}\n',
    "norole.jsonl": '{"messages": [{"content": "hi"}]}\n',
    "content.jsonl": '{"messages": [{"role": "assistant", "content": [1]}]}\n',
    "user.jsonl": '{"messages": [{"role": "user", "content": "hi"}]}\n',
    # prompts
    "prompts.jsonl": "".join(f'{{"prompt": "prompt {n}", "id": {n}}}\n' for n in range(5)),
    "noprompt.jsonl": '{"prompt": "one"}\n{"text": "two"}\n',
    "numberprompt.jsonl": '{"prompt": 1}\n',
    "emptyprompt.jsonl": '{"prompt": "one"}\n{"prompt": ""}\n',
    "longprompt.jsonl": '{"prompt": "one"}\n\n{"prompt": "' + "a" * 200 + '"}\n',
    # continuations
    "published.jsonl": '{"prompt": {"text": "a"}, "generations": [{"text": " abc"}, {"text": " xyz"}]}\n',
    "ungenerated.jsonl": '{"prompt": {"text": "a"}, "generations": []}\n',
    "unlaid.jsonl": '{"prompt": "a", "generations": []}\n',
    "unlisted.jsonl": '{"prompt": {"text": "a"}, "generations": ["b"]}\n',
    "promptless.jsonl": GOOD,
    "vectorless.jsonl": '{"prompt": "a", "text": "b", "alpha": 1, "vectors": "v.st"}\n',
    "alphatext.jsonl": '{"prompt": "a", "text": "b", "alpha": "much", "vectors": ["v.st"]}\n',
    "alphas.jsonl": '{"prompt": "a", "text": "b", "alpha": [1, 2], "vectors": ["v.st"]}\n',
    "baseline.jsonl": '{"prompt": "a", "text": "b", "alpha": 1, "vectors": ["v.st"], "baseline": "odd"}\n',
    "sample.jsonl": '{"prompt": "a", "text": "b", "sample": "first"}\n',
    "modelless.jsonl": '{"prompt": "a", "text": "b"}\n',
    "torn.jsonl": "torn",
    # corpora
    "words.txt": "".join(f"some words of a corpus, line {n}\n" for n in range(60)),
    "cut.jsonl.gz": gzip.compress(GOOD.encode() * 500)[:30],
    "plain.txt.gz": "hello\n",
    # other things
    "magic.gguf": b"GGUF" + b"\0" * 100,
    "text.gguf": "hello",
    "text.st": "hello",
    "empty.st": b"",
}


def altered_copy(source: Path, name: str, file: str, data: bytes | None) -> None:
    """Copy a folder under another name, with one file changed or, without data, left out."""
    target = shutil.copytree(source, source.with_name(name))
    if data is None:
        (target / file).unlink()
    else:
        (target / file).write_bytes(data)


def make_models(folder: Path) -> None:
    for name, family in (("tiny", "llama"), ("qwen", "qwen3"), ("mistral", "mistral"), ("gemma", "gemma2")):
        save_tiny(folder / name, family)
    save_tiny(folder / "nochat", chat=False)
    save_tiny_bert(folder / "judge", ("bad", "good"))
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
        ("lacking", "model.safetensors", (folder / "lacking.safetensors").read_bytes()),
        ("notokenizer", "tokenizer.json", None),
        ("badtokenizer", "tokenizer.json", b"{"),
    ):
        altered_copy(folder / "tiny", name, file, data)


def make_saes(folder: Path) -> None:
    save_tiny_sae(folder / "sae")
    save_tiny_sae(folder / "othersae", model_name="gpt2-small")
    save_tiny_sae(folder / "narrowsae", d_model=8)
    save_tiny_sae(folder / "deepsae", hook_name="blocks.9.hook_resid_post")
    save_tiny_sae(folder / "mlpsae", hook_name="blocks.1.hook_mlp_out")
    save_tiny_sae(folder / "oddsae", architecture="crosscoder")
    save_tiny_sae(folder / "unfoldedsae", normalize_activations="expected_average_only_in")
    save_tiny_sae(folder / "manysae", k=99)
    save_tiny_sae(folder / "shapesae", d_sae=64, d_in=12)
    save_tiny_sae(folder / "factlesssae", metadata={"hook_name": POINT})
    save_tiny_sae(folder / "textsae", metadata="none")
    for block in (1, 2):
        name = f"blocks.{block}.hook_resid_post"
        save_tiny_sae(folder / "family" / name, hook_name=name, seed=block)
    run(f"sae describe family words.txt {TINY}")
    save_tiny_sae(folder / "damaged")
    (folder / "damaged" / "descriptions.jsonl.gz").write_bytes(b"hello")
    save_tiny_sae(folder / "newersae")
    (folder / "newersae" / "descriptions.jsonl.gz").write_bytes(gzip.compress(b'{"format_version": 99}\n'))
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
        altered_copy(folder / "sae", name, file, data)


def make_vectors(folder: Path) -> None:
    """Vectors of every origin, and continuations written with them."""
    fit = "fit up.jsonl down.jsonl --dtype float32 --device cpu"
    run(f"{fit} -m tiny --sae sae --top-k 8 -o v.st")
    run(f"{fit} -m tiny --sae family --layers 2 --top-k 6 -o named.st")
    for name, model, options in (
        ("good", "tiny", ""), ("early", "tiny", "--layers 0"), ("qwen", "qwen", ""),
        ("first", "tiny", "--hook-point blocks.0.hook_resid_pre"), ("sliding", "mistral", ""),
        ("gemma", "gemma", ""),
    ):  # fmt: skip
        run(f"{fit} -m {model} --method diffmean {options} -o {name}.st")
    run("combine v.st:2 early.st:-0.5 -o sum.st")
    shutil.copy(folder / "good.st", folder / "kept.st")
    shutil.copy(folder / "v.st", folder / "calibrated.st")
    run(CALIBRATE.replace("out/v.st", "calibrated.st"))
    run("export v.st --to gguf -o own.gguf")
    run("import own.gguf -o restored.st")
    run("export v.st --to model -a 8 -o baked")
    (folder / "written.jsonl").write_text(run(f"{GEN} -v v.st -a 0,20 prompts.jsonl --json").stdout)
    run(f"{EVAL} --save kept.jsonl")
    lines = (folder / "kept.jsonl").read_text().splitlines(keepends=True)
    (folder / "kept.jsonl").write_text("".join(lines[:7]) + '{"job": 9, "tex')
    (folder / "vectors").mkdir()
    shutil.copy(folder / "good.st", folder / "vectors" / "a b.st")


def damage_vectors(folder: Path) -> None:
    (folder / "cut.st").write_bytes((folder / "good.st").read_bytes()[:-5])
    with safe_open(folder / "good.st", framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in list(file.keys())}
        text = file.metadata()["neurosteer"]
    facts = json.loads(text)
    without = {key: value for key, value in facts.items() if key != "method"}
    for name, metadata, changed in (
        ("nottext", {"neurosteer": "{"}, {}),
        ("newer", {"neurosteer": json.dumps({**facts, "format_version": 4})}, {}),
        ("fieldless", {"neurosteer": json.dumps(without)}, {}),
        ("pointless", {"neurosteer": json.dumps({**facts, "points": {}})}, {}),
        ("foreign", {"format": "pt"}, {}),
        ("altered", {"neurosteer": text}, {POINT: tensors[POINT][:15].contiguous()}),
        ("nan", {"neurosteer": text}, {POINT: tensors[POINT] * float("nan")}),
        ("gone", {"neurosteer": text.replace("/tiny", "/moved")}, {}),
    ):
        save_file({**tensors, **changed}, folder / f"{name}.st", metadata=metadata)


def make_control_vectors(folder: Path) -> None:
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
    run(f"import foreigncv.gguf --gguf-origin repeng {TINY} -o imported.st")
    (folder / "cutown.gguf").write_bytes((folder / "own.gguf").read_bytes()[:-40])


def settle(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Stand in the folder, in a terminal of one width, with nothing set that commands read.

    `--dtype auto` takes float32, on machines with bfloat16 instructions too.
    """
    patch.chdir(folder)
    patch.setattr(torch.cpu, "get_capabilities", dict)
    for name in ("NEUROSTEER_MODEL", "NEUROSTEER_API_KEY", "OPENAI_API_KEY", "FORCE_COLOR", "NO_COLOR"):
        patch.delenv(name, raising=False)
    for name, value in (("NEUROSTEER_CACHE", str(folder / "cache")), ("COLUMNS", "100"), ("TERM", "dumb")):
        patch.setenv(name, value)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("frozen").resolve()
    torch.set_num_threads(1)
    for name, data in FILES.items():
        (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
    with pytest.MonkeyPatch.context() as patch:
        settle(patch, folder)
        make_models(folder)
        make_saes(folder)
        make_vectors(folder)
        damage_vectors(folder)
        make_control_vectors(folder)
    return folder


@pytest.fixture(autouse=True)
def surroundings(house: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In the folder, with an `out` of its own: a vector, an SAE and an interrupted run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    settle(monkeypatch, house)
    out = house / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    for name in ("v.st", "kept.jsonl"):
        shutil.copy(house / name, out)
    shutil.copytree(house / "sae", out / "sae")
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hub cannot be reached, nor pip's index; the registry of SAEs has one release."""

    def unreachable(*_arguments: Any, **_options: Any) -> Any:
        raise ConnectionError("no route to host\nsecond line")

    def no_hub(model: str, **_options: Any) -> Any:
        validate_repo_id(model)
        raise LocalEntryNotFoundError("not cached, and no network")

    def serving(*_arguments: Any, **_options: Any) -> Any:
        pytest.fail("a server has begun")

    monkeypatch.setattr(uvicorn.Server, "run", serving)
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: Could not find a version\n")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", no_hub)
    monkeypatch.setattr(subprocess, "run", lambda *_arguments, **_options: failed)
    saes = {"blocks.8.hook_resid_pre": "", "blocks.9.hook_resid_pre": ""}
    library: Any = ModuleType("sae_lens")
    library.SAE = SimpleNamespace(from_pretrained_with_cfg_and_sparsity=unreachable)
    directory: Any = ModuleType("sae_lens.loading.pretrained_saes_directory")
    directory.get_pretrained_saes_directory = lambda: {"gpt2-small-res-jb": SimpleNamespace(saes_map=saes)}
    monkeypatch.setitem(sys.modules, "sae_lens", library)
    monkeypatch.setitem(sys.modules, "sae_lens.loading", ModuleType("sae_lens.loading"))
    monkeypatch.setitem(sys.modules, directory.__name__, directory)


# --- running -----------------------------------------------------------------------------------


def run(command: str, *, stdin: str = "", code: int | None = 0) -> Result:
    """Run a command that must end with this code, if one is named; a bug shows its traceback."""
    arguments = shlex.split(command)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["neurosteer", *arguments])
        result = CliRunner().invoke(app, arguments, prog_name="neurosteer", input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        pytest.fail("".join(traceback.format_exception(result.exception)))
    assert code is None or result.exit_code == code, result.output
    return result


def read_written(name: str) -> str:
    """The text of a file that a command wrote."""
    if name.endswith(".gz"):
        with gzip.open(name, "rt", encoding="utf-8") as file:
            return file.read()
    text = Path(name).read_text(encoding="utf-8")
    if name.endswith(".html"):
        return visible_text(text)
    return json.dumps(json.loads(text)) + "\n" if name.endswith(".json") else text


def visible_text(page: str) -> str:
    """What can be read on a page, a line a piece of text between tags; and data that a script lists."""
    page = re.sub(r'(?s)<(svg|style|script(?! type="application/json"))\b.*?</\1>', "", page)
    pieces = (" ".join(html.unescape(piece).split()) for piece in re.split(r"<[^>]+>", page))
    return "".join(f"{piece}\n" for piece in pieces if piece)


# --- what varies -------------------------------------------------------------------------------

VARYING = (
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(\+\d\d:\d\d|Z)"), "<date>"),
    (re.compile(r"\b\d+\.\d s, \d+ tokens/s"), "<seconds> s, <speed> tokens/s"),
    (re.compile(r"(tokens, )(\d+ (s|min)|unknown time)( left)"), r"\1<seconds> s\4"),
    (re.compile(r"(neurosteer |program_version\n)\d+\.\d+\.\d+\w*"), r"\1<version>"),
    # a vector's file says when it was written
    (re.compile(r"(parent: .* \(sha256 |\.st\nsha256\n)[0-9a-f]+"), r"\1<hash>"),
)
VARYING_KEYS = {
    "created": "<date>",
    "seconds": "<seconds>",
    "tokens_per_second": "<speed>",
    "program_version": "<version>",
    "transformers_version": "<version>",
    "sae_lens_version": "<version>",
    "sae_lens_training_version": "<version>",
    "run": "<hash>",
}
OTHERS_WORDS = re.compile(
    r"(damaged weights|damaged|cannot read (?:its configuration|its tokenizer|the SAE)|"
    r"cannot be read as a GGUF model|(?:not|or not) a (?:GGUF|vector|whole gzip) file|not available here)"
    r" \([^\n]*\)(?=[;\n])"
)


def settled(text: str, folder: Path) -> str:
    """A text without what varies from run to run."""
    text = text.replace(str(folder), "<here>")
    for pattern, word in VARYING:
        text = pattern.sub(word, text)
    return text


def settled_record(value: Any, key: str = "") -> Any:
    """A record without what varies from run to run."""
    if key in VARYING_KEYS:
        return VARYING_KEYS[key]
    if isinstance(value, dict):
        if key == "parents[]":
            value = {**value, "sha256": "<hash>"}
        return {name: settled_record(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [settled_record(item, f"{key}[]") for item in value]
    return value


# --- comparing ---------------------------------------------------------------------------------

WITH_POINT = re.compile(r"\d+\.\d+")


def compare(golden: str, found: str, *, to_the_letter: bool = False) -> None:
    """Hold a text against a file under `frozen`, or write that file; no file is no text."""
    path = FROZEN / golden
    if FREEZE:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        if found:
            path.write_bytes(found.encode())
        return
    frozen = path.read_bytes().decode() if path.exists() else ""
    if path.suffix == ".jsonl":
        differing = list(differences(records_of(frozen), records_of(found), "record"))
    elif frozen == found or (not to_the_letter and alike(frozen, found)):
        differing = []
    else:
        differing = changed_lines(frozen, found)
    assert not differing, "\n".join([f"frozen/{golden}", *differing])


def changed_lines(frozen: str, found: str) -> list[str]:
    lines = (text.split("\n") for text in (frozen, found))
    return list(difflib.unified_diff(*lines, "frozen", "found", n=1, lineterm=""))


def records_of(text: str) -> list[Any]:
    return [json.loads(line) for line in text.split("\n") if line]


def as_lines(records: Iterable[Any]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def differences(frozen: Any, found: Any, where: str) -> Iterator[str]:
    """Each place where two values differ, floats by more than 1 part in 10,000."""
    if type(frozen) is not type(found):
        yield f"{where}: was {frozen!r}, is {found!r}"
    elif isinstance(frozen, dict):
        if list(frozen) != list(found):
            yield f"{where}: had the keys {list(frozen)}, has {list(found)}"
        for key in frozen.keys() & found.keys():
            yield from differences(frozen[key], found[key], f"{where}.{key}")
    elif isinstance(frozen, list):
        if len(frozen) != len(found):
            yield f"{where}: had {len(frozen)} items, has {len(found)}"
        for number, pair in enumerate(zip(frozen, found, strict=False)):
            yield from differences(*pair, f"{where}[{number}]")
    elif isinstance(frozen, float):
        if not math.isclose(frozen, found, rel_tol=1e-4, abs_tol=1e-6):
            yield f"{where}: was {frozen}, is {found}"
    elif frozen != found:
        yield f"{where}: was {frozen!r}, is {found!r}"


def alike(frozen: str, found: str) -> bool:
    """Whether two texts are the same but for one in the last place of numbers with a point."""
    if WITH_POINT.sub("#", frozen) != WITH_POINT.sub("#", found):
        return False
    pairs = zip(WITH_POINT.findall(frozen), WITH_POINT.findall(found), strict=True)
    return all(are_close(*pair) for pair in pairs)


def are_close(one: str, other: str) -> bool:
    places = sorted(len(number.partition(".")[2]) for number in (one, other))
    written_alike = places[0] == places[1] or places[0] > 9  # else rounded by the program
    step = 1.01 * 10 ** -places[0]
    return written_alike and math.isclose(float(one), float(other), rel_tol=1e-4, abs_tol=step)


# --- the tests ---------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS, ids=[command or "neurosteer" for command in COMMANDS])
def test_help_is_what_it_was(command: str) -> None:
    result = run(f"{command} --help")
    assert result.stderr == ""
    compare(help_file(command), result.stdout, to_the_letter=True)


def help_file(command: str) -> str:
    return f"help/{command.replace(' ', '_') or 'neurosteer'}.txt"


@pytest.mark.parametrize("case", CASES, ids=[case.golden for case in CASES])
def test_a_result_is_what_it_was(case: Case, house: Path) -> None:
    result = run(case.command, stdin=case.stdin)
    found = settled(read_written(case.written) if case.written else result.stdout, house)
    if case.golden.endswith(".jsonl"):
        found = as_lines(settled_record(record) for record in records_of(found))
    compare(case.golden, found)
    compare(case.told, settled(result.stderr, house))


ROWS: list[dict[str, Any]] = records_of(ERRORS.read_bytes().decode())


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("row", ROWS, ids=[row["command"][:90] for row in ROWS])
def test_a_bad_input_is_refused_as_it_was(row: dict[str, Any], house: Path) -> None:
    result = run(row["command"], code=None)
    stderr = OTHERS_WORDS.sub(r"\1 (<another library's words>)", settled(result.stderr, house))
    assert result.exit_code != 0
    assert result.stdout == ""
    if FREEZE:
        row |= {"exit_code": result.exit_code, "stderr": stderr}
        ERRORS.write_bytes(as_lines(sorted(ROWS, key=itemgetter("command"))).encode())
    differing = changed_lines(row["stderr"], stderr)
    assert not differing, "\n".join([row["command"], *differing])
    assert result.exit_code == row["exit_code"]


def test_the_table_of_bad_inputs_is_in_order_and_says_each_once() -> None:
    commands = [row["command"] for row in ROWS]
    assert commands == sorted(set(commands))


def test_every_file_is_held_by_a_case() -> None:
    there = {path.relative_to(FROZEN).as_posix() for path in FROZEN.rglob("*") if path.is_file()}
    held = {case.golden for case in CASES} | {case.told for case in CASES} | {ERRORS.name}
    assert there - held - {help_file(command) for command in COMMANDS} == set()
