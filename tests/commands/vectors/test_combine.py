"""`neurosteer combine`: the sum, and how alike its parts are."""

from pathlib import Path

import pytest
import torch
from support.cli import refused, run

from neurosteer_cli.vectors.vector import SteeringVector

pytestmark = pytest.mark.usefixtures("in_fitted_folder")
GEN = ("gen", "--max-new-tokens", "5")


def test_combine_writes_the_sum_and_tells_the_rest_on_stderr(tmp_path: Path) -> None:
    out = tmp_path / "sum.st"
    result = run("combine", "a.st:2", "b.st:-0.5", "a.st", "-o", str(out))
    assert result.stdout == ""
    assert result.stderr == (
        "a.st and b.st: no hook point in common\n"
        "a.st and a.st: cosine +1.000\n"
        "b.st and a.st: no hook point in common\n"
        f"wrote {out}: alpha 1 is a dose of 3.50%\n"
    )
    a, b, total = (SteeringVector.load(Path(path)) for path in ("a.st", "b.st", out))
    for point, push in a.pushes.items():
        torch.testing.assert_close(total.pushes[point], 3 * push)
    for point, push in b.pushes.items():
        torch.testing.assert_close(total.pushes[point], -0.5 * push)
    assert [(p["name"], p["weight"]) for p in total.metadata.parents] == [
        ("a.st", 2.0), ("b.st", -0.5), ("a.st", 1.0),
    ]  # fmt: skip


def test_a_file_whose_name_has_a_colon_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "odd:2"
    path.write_bytes(Path("a.st").read_bytes())
    run("combine", str(path), f"{path}:3", "-o", str(tmp_path / "sum.st"))
    parents = SteeringVector.load(tmp_path / "sum.st").metadata.parents
    assert [(p["name"], p["weight"]) for p in parents] == [(str(path), 1.0), (str(path), 3.0)]


def test_a_sum_may_take_the_place_of_its_part(tmp_path: Path) -> None:
    path = tmp_path / "v.st"
    path.write_bytes(Path("a.st").read_bytes())
    run("combine", f"{path}:2", "-o", str(path))
    assert SteeringVector.load(path).metadata.parents[0]["weight"] == 2.0


def test_gen_with_a_sum_writes_what_its_parts_would_write(tmp_path: Path) -> None:
    run("combine", "a.st:2", "b.st:-0.5", "-o", str(tmp_path / "sum.st"))
    gen = (*GEN, "hello", "--dtype", "float32")
    parts = run(*gen, "-v", "a.st", "-a", "20", "-v", "b.st", "-a", "-5").stdout
    assert run(*gen, "-v", str(tmp_path / "sum.st"), "-a", "10").stdout == parts


def test_a_push_and_what_is_added_to_logits_are_one_vector(tmp_path: Path) -> None:
    words, out = tmp_path / "words.st", tmp_path / "sum.st"
    run("fit", "up.jsonl", "down.jsonl", "-m", "tiny", "--method", "logodds", "-o", str(words))
    told = run("combine", "a.st:0.5", f"{words}:0.5", f"{words}:0.5", "-o", str(out)).stderr.splitlines()
    assert told[2] == f"{words} and {words}: cosine of what they add to logits +1.000"
    assert told[3].startswith(f"wrote {out}: alpha 1 is a dose of 0.50% and up to ")
    gen = (*GEN, "hello", "--dtype", "float32")
    apart = run(*gen, "-v", "a.st", "-a", "20", "-v", str(words), "-a", "40").stdout
    assert run(*gen, "-v", str(out), "-a", "40").stdout == apart


def test_vectors_that_do_not_act_alike_are_refused_by_name(tmp_path: Path) -> None:
    SteeringVector.load(Path("a.st")).acting("ablate").save(tmp_path / "gone.st")
    said = refused("combine", "b.st", str(tmp_path / "gone.st"), "-o", str(tmp_path / "sum.st"), code=1)
    assert f"b.st is of the kind add, {tmp_path / 'gone.st'} of the kind ablate: only vectors that" in said
