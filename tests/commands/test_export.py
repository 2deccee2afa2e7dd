"""`neurosteer export` and `neurosteer import`, as a person runs them, on a tiny model."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from support.tiny import D_MODEL, save_tiny
from typer.testing import CliRunner

from neurosteer_cli.cli import app
from neurosteer_cli.files import file_sha256
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import RESID_PRE, HookPoint, add
from neurosteer_cli.vectors.vector import SteeringVector

POINTS = [HookPoint(2, RESID_PRE), HookPoint(2)]


def run(*arguments: object) -> Any:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.stderr
    assert result.stdout == ""
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and a vector for it, fitted at what enters block 2 and at the output of block 2."""
    folder = tmp_path_factory.mktemp("export")
    save_tiny(folder / "tiny")
    for name, letter in (("up", "ab"), ("down", "zy")):
        lines = [json.dumps({"text": f"{letter} {letter * n} {n}"}) + "\n" for n in range(12)]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    points = ",".join(map(str, POINTS))
    sides = (folder / "up.jsonl", folder / "down.jsonl")
    run("fit", *sides, "--method", "diffmean", "-m", folder / "tiny", "-o", folder / "v.st",
        "--hook-point", points)  # fmt: skip
    return folder


def test_a_vector_goes_to_llama_cpp_and_comes_back(folder: Path, tmp_path: Path) -> None:
    told = run("export", folder / "v.st", "--to", "gguf", "-o", tmp_path / "v.gguf").stderr
    assert told == f"wrote {tmp_path / 'v.gguf'}: scale 1 in llama.cpp is alpha 1, a dose of 1.00%\n"
    told = run("import", tmp_path / "v.gguf", "--gguf-origin", "llama.cpp", "-o", tmp_path / "v.st").stderr
    assert told == (
        f"wrote {tmp_path / 'v.st'}: the vector that {tmp_path / 'v.gguf'} was exported from at alpha 1\n"
    )
    before, after = (SteeringVector.load(path / "v.st") for path in (folder, tmp_path))
    assert list(map(str, after.pushes)) == ["blocks.1.hook_resid_post", "blocks.2.hook_resid_post"]
    for old, new in zip(POINTS, after.pushes, strict=True):
        assert torch.equal(before.pushes[old], after.pushes[new])
    assert after.metadata.positive == before.metadata.positive
    assert after.dose(1) == pytest.approx(before.dose(1))


def test_alpha_is_baked_into_the_control_vector(folder: Path, tmp_path: Path) -> None:
    run("export", folder / "v.st", "--to", "gguf", "--alpha", "-2", "-o", tmp_path / "v.gguf")
    first = SteeringVector.load(folder / "v.st").pushes[POINTS[0]]
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / "v.gguf").tensors}
    assert np.array_equal(tensors["direction.1"], (-2 * first).numpy())


def test_a_model_with_the_vector_baked_in_steers_itself(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "baked"
    told = run("export", folder / "v.st", "--to", "model", "--alpha", "30", "-o", target).stderr
    dose = "a dose of 30.00%"
    assert told == f"wrote {target}: {folder / 'tiny'} with {folder / 'v.st'} at alpha 30, {dose}\n"
    vector = SteeringVector.load(folder / "v.st")
    engine = Engine.load(str(folder / "tiny"), dtype="float32", device="cpu")
    ids = torch.tensor([engine.prompt_ids("a prompt of many bytes")])
    with torch.inference_mode(), add(engine.blocks, {p: 30 * push for p, push in vector.pushes.items()}):
        expected = engine.model(input_ids=ids).logits  # [1, pos, d_vocab]
    model = transformers.AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    with torch.inference_mode():
        assert (model(input_ids=ids).logits - expected).abs().max() < 2e-6
        assert (engine.model(input_ids=ids).logits - expected).abs().amax(-1).min() > 0.01
    note = json.loads((target / "neurosteer.json").read_text())
    assert note["alpha"] == 30.0
    assert note["vector_sha256"] == file_sha256(folder / "v.st")
    assert note["vector_metadata"]["method"] == "diffmean"


def test_gen_writes_with_the_baked_model_what_it_writes_with_the_vector(folder: Path, tmp_path: Path) -> None:
    run("export", folder / "v.st", "--to", "model", "--alpha", "30", "-o", tmp_path / "baked")
    shared = ["gen", "one", "two", "--max-new-tokens", "12", "--dtype", "float32"]
    steered = CliRunner().invoke(app, [*shared, "-v", str(folder / "v.st"), "-a", "30", "--json"])
    baked = CliRunner().invoke(app, [*shared, "-m", str(tmp_path / "baked"), "--json"])
    plain = CliRunner().invoke(app, [*shared, "-m", str(folder / "tiny"), "--json"])
    texts = [
        [json.loads(line)["text"] for line in run.stdout.splitlines()] for run in (steered, baked, plain)
    ]
    assert texts[0] == texts[1] != texts[2]


def write_foreign(path: Path, hint: str = "llama") -> Path:
    """Unit directions at 1, 2 and 3, as repeng and llama.cpp's generator write them."""
    writer = gguf.GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", hint)
    writer.add_uint32("controlvector.layer_count", 3)
    for k in (3, 2, 1):  # repeng's order
        writer.add_tensor(f"direction.{k}", np.eye(D_MODEL, dtype=np.float32)[k].copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("origin", "blocks"), [("repeng", [1, 2, 3]), ("llama.cpp", [1, 2, 3]), ("cvector-generator", [0, 1, 2])]
)
def test_a_foreign_vector_gets_our_unit(folder: Path, tmp_path: Path, origin: str, blocks: list[int]) -> None:
    source = write_foreign(tmp_path / "f.gguf")
    out = tmp_path / "f.st"
    told = run("import", source, "--gguf-origin", origin, "-m", folder / "tiny", "-o", out).stderr
    vector = SteeringVector.load(out)
    assert [point.layer for point in vector.pushes] == blocks
    assert vector.dose(1) == pytest.approx(0.01)
    scale = vector.metadata.parameters["scale"]
    for k, push in enumerate(vector.pushes.values(), start=1):
        assert torch.equal(push, torch.eye(D_MODEL)[k] * scale)
    assert f"wrote {out}: alpha 1 is a scale of {scale:.4g} in {origin}, scale 1 an alpha of " in told
    assert vector.metadata.parameters["sha256"] == file_sha256(source)
    assert run_gen(out, folder / "tiny")


def run_gen(vector: Path, model: Path) -> str:
    arguments = ["gen", "hi", "-v", str(vector), "-m", str(model), "--max-new-tokens", "3"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    text: str = result.stdout
    return text


@pytest.mark.parametrize(
    ("layers", "blocks"), [("2", [2]), ("1,3", [1, 3]), ("2-3", [2, 3]), ("1,2-3", [1, 2, 3])]
)
def test_only_the_blocks_asked_for_are_taken(
    folder: Path, tmp_path: Path, layers: str, blocks: list[int]
) -> None:
    source, out = write_foreign(tmp_path / "f.gguf"), tmp_path / "f.st"
    run("import", source, "--gguf-origin", "repeng", "--layers", layers, "-m", folder / "tiny", "-o", out)
    vector = SteeringVector.load(out)
    assert [point.layer for point in vector.pushes] == blocks
    assert vector.dose(1) == pytest.approx(0.01)


def test_the_norm_is_measured_on_the_texts_that_are_given(folder: Path, tmp_path: Path) -> None:
    source = write_foreign(tmp_path / "f.gguf")
    shared = ("import", source, "--gguf-origin", "repeng", "--layers", "2", "-m", folder / "tiny")
    run(*shared, "-o", tmp_path / "neutral.st")
    run(*shared, "--texts", folder / "up.jsonl", "-o", tmp_path / "up.st")
    facts = [SteeringVector.load(tmp_path / f"{name}.st").metadata for name in ("neutral", "up")]
    norms = [next(iter(fact.points.values())).resid_norm for fact in facts]
    assert norms[0] != norms[1]
    assert [fact.parameters["texts"] for fact in facts] == ["neutral", str(folder / "up.jsonl")]


def test_the_texts_that_are_given_may_stand_under_any_key(folder: Path, tmp_path: Path) -> None:
    texts = folder / "up.jsonl"
    renamed = tmp_path / "reviews.jsonl"
    renamed.write_text(texts.read_text(encoding="utf-8").replace('"text"', '"review"'), encoding="utf-8")
    source, norms = write_foreign(tmp_path / "f.gguf"), []
    for arguments in (["--texts", texts], ["--texts", renamed, "--text-key", "review"]):
        shared = ("-m", folder / "tiny", "-o", tmp_path / "up.st")
        run("import", source, "--gguf-origin", "repeng", *arguments, *shared)
        metadata = SteeringVector.load(tmp_path / "up.st").metadata
        norms.append({name: point.resid_norm for name, point in metadata.points.items()})
    assert norms[0] == norms[1]


# --- kinds -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def words(folder: Path) -> Path:
    """A vector for the same model that adds to logits."""
    sides = (folder / "up.jsonl", folder / "down.jsonl")
    run("fit", *sides, "--method", "logodds", "-m", folder / "tiny", "-o", folder / "words.st")
    return folder / "words.st"


@pytest.fixture(scope="module")
def mixed(folder: Path) -> Path:
    """A vector for the same model that pushes at block 2 and adds to logits."""
    sides, share = (folder / "up.jsonl", folder / "down.jsonl"), ("--layers", "2", "--logits-share", "0.5")
    run("fit", *sides, "--method", "diffmean", *share, "-m", folder / "tiny", "-o", folder / "mixed.st")
    return folder / "mixed.st"


def told_of(*arguments: object) -> list[str]:
    lines: list[str] = run("export", *arguments).stderr.splitlines()
    return lines


def refusal(*arguments: object, code: int = 1) -> str:
    result = CliRunner().invoke(app, ["export", *map(str, arguments)])
    assert result.exit_code == code, result.stderr
    return result.stderr.strip()


def test_a_logit_bias_is_what_the_vector_adds_to_its_strongest_tokens(words: Path, tmp_path: Path) -> None:
    vector, out = SteeringVector.load(words), tmp_path / "b.json"
    assert vector.bias is not None
    told = told_of(words, "--to", "logit_bias", "--alpha", "8", "--tokens", "3", "-o", out)
    numbers = json.loads(out.read_text())
    assert len(numbers) == 3
    dense = (vector.bias * 8.0).dense(300)
    assert all(nats == pytest.approx(float(dense[int(token)]), rel=1e-5) for token, nats in numbers.items())
    assert min(map(abs, numbers.values())) >= float(dense.abs().sort(descending=True).values[3]) - 1e-6
    share = sum(map(abs, numbers.values())) / float(dense.abs().sum())
    low, high = min(numbers.values()), max(numbers.values())
    assert told == [
        f"wrote {out}: 3 tokens at alpha 8, {low:+.2f} to {high:+.2f} nats, {share:.0%} of all that is added",
        "a server adds them at every step; `gen` only to likely tokens, and to none that the text has used",
    ]


def test_of_a_vector_that_does_both_each_form_takes_its_part_and_tells_what_is_left(
    mixed: Path, tmp_path: Path
) -> None:
    vector = SteeringVector.load(mixed)
    assert vector.bias is not None
    left = (
        f"warning: what {mixed} adds to the logits of {len(vector.bias.ids)} tokens is left out: "
        "--to logit_bias writes it"
    )
    assert told_of(mixed, "--to", "gguf", "-o", tmp_path / "m.gguf")[-1] == left
    written, last = told_of(mixed, "--to", "model", "--alpha", "8", "-o", tmp_path / "model")
    assert written.endswith("at alpha 8, a dose of 4.00%") and last == left
    assert told_of(mixed, "--to", "logit_bias", "-a", "8", "-o", tmp_path / "m.json")[-1] == (
        f"warning: the push of {mixed} is left out: --to gguf and --to model write it"
    )
    run("import", tmp_path / "m.gguf", "-o", tmp_path / "back.st")
    back = SteeringVector.load(tmp_path / "back.st")
    assert back.bias is not None and torch.equal(back.bias.bias, vector.bias.bias)


def test_an_ablation_is_baked_in_whole_unless_a_share_is_named(folder: Path, tmp_path: Path) -> None:
    v = folder / "v.st"
    (told,) = told_of(v, "--to", "model", "--kind", "ablate", "-o", tmp_path / "gone")
    assert told == (
        f"wrote {tmp_path / 'gone'}: {folder / 'tiny'} with {v} at alpha 1, 100% of the component taken away"
    )
    note = json.loads((tmp_path / "gone" / "neurosteer.json").read_text())
    assert (note["alpha"], note["dose"], note["vector_metadata"]["kind"]) == (1.0, None, "ablate")
    told_of(v, "--to", "model", "--kind", "ablate", "--alpha", "0.5", "-o", tmp_path / "half")
    ids = torch.tensor([list(b"a prompt of many bytes")])
    directions = torch.stack([push / push.norm() for push in SteeringVector.load(v).pushes.values()])
    found = []
    for name in ("gone", "half"):
        engine = Engine.load(str(tmp_path / name), dtype="float32", device="cpu")
        found.append(float((engine.read(ids, [HookPoint(3)])[HookPoint(3)] @ directions.T).abs().max()))
    assert found[0] < 1e-3 < found[1]


def test_what_a_form_cannot_hold_is_refused_by_name(folder: Path, words: Path, tmp_path: Path) -> None:
    v, out = folder / "v.st", tmp_path / "out"
    assert refusal(v, "--to", "gguf", "--kind", "clamp", "-o", out) == (
        f"error: {v} is of the kind clamp, and llama.cpp adds control vectors: `neurosteer gen` and "
        "`serve` clamp"
    )
    assert refusal(v, "--to", "model", "--kind", "clamp", "-a", "8", "-o", out) == (
        "error: a vector of the kind clamp cannot be baked into a model: `neurosteer gen` and `serve` clamp"
    )
    assert "its head has no bias" in refusal(words, "--to", "model", "-a", "8", "-o", out)
    assert "adds nothing to logits" in refusal(v, "--to", "logit_bias", "-a", "8", "-o", out)
    assert "--to logit_bias bakes one strength in" in refusal(words, "--to", "logit_bias", "-o", out, code=2)
    assert "--tokens: a number of at least 1, with --to logit_bias" in refusal(
        v, "--to", "gguf", "--tokens", "3", "-o", out, code=2
    )
    assert not out.exists()


def test_directions_that_are_projected_out_come_in_as_an_ablation(folder: Path, tmp_path: Path) -> None:
    source, out = write_foreign(tmp_path / "f.gguf"), tmp_path / "f.st"
    run("import", source, "--gguf-origin", "repeng", "--kind", "ablate", "-m", folder / "tiny", "-o", out)
    assert SteeringVector.load(out).metadata.kind == "ablate"
    assert run_gen(out, folder / "tiny")
