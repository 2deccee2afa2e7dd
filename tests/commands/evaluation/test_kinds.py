"""eval and calibrate of vectors that act in other ways than to add, and of gates."""

from pathlib import Path

from support.cli import refused, rows, run

from neurosteer_cli.vectors.vector import SteeringVector

JUDGE = ("--judge", "regex:[a-m]")
SHORT = ("--prompts", "prompts.jsonl", "--max-new-tokens", "6")
EVAL = ("eval", "-v", "v.st", *SHORT)


def test_a_component_is_taken_away_by_half_and_whole_unless_shares_are_given() -> None:
    found = rows(run(*EVAL, *JUDGE, "--kind", "ablate", "--json"))
    assert [(row["label"], row["alpha"], row["dose"]) for row in found] == [
        ("unsteered", 0.0, 0.0),
        ("v ablate +0.5", 0.5, None),
        ("v ablate +1", 1.0, None),
    ]
    assert found[2]["kl"] > found[1]["kl"] > 0


def test_a_gated_condition_says_its_gate_and_no_damage_of_texts_that_it_lets_be() -> None:
    found = run(*EVAL, "--alpha", "20", "--when", "v.st>-1000", "--no-random", "--json")
    assert "gate v.st>-1000: 5 of 5 prompts are steered\n" in found.stderr
    plain, gated = rows(found)
    assert (gated["label"], gated["dose"], gated["kl"]) == ("v +20 (v.st>-1000)", 0.2, None)
    closed = rows(run(*EVAL, "--alpha", "20", "--when", "v.st>1000", "--no-random", "--json"))
    assert [row["perplexity"] for row in closed] == [plain["perplexity"]] * 2


def test_what_gen_wrote_of_kinds_and_gates_is_scored_as_such(tmp_path: Path) -> None:
    path, written = tmp_path / "w.jsonl", ""
    for options in (("--kind", "ablate", "-a", "0,1"), ("-a", "20", "--when", "v.st<1000")):
        written += run("gen", "-v", "v.st", "prompts.jsonl", *SHORT[2:], *options, "--json").stdout
    path.write_text(written)
    labels = [(row["label"], row["dose"]) for row in rows(run("eval", str(path), "--json"))]
    assert labels == [("unsteered", 0.0), ("v ablate +1", None), ("v +20 (v.st<1000)", 0.2)]


def test_a_share_is_calibrated_upwards_alone_and_taken_by_gen(tmp_path: Path) -> None:
    ablating = tmp_path / "ablating.st"
    run("fit", "up.jsonl", "down.jsonl", "--model", "tiny", "--method", "diffmean", "--layer", "2",
        "--kind", "ablate", "-o", str(ablating))  # fmt: skip
    found = run("calibrate", str(ablating), *SHORT, *JUDGE, "--max-ppl-ratio", "1000", "-n", "4")
    assert "-auto" not in found.stderr
    calibration = SteeringVector.load(ablating).metadata.calibration
    assert calibration is not None
    assert [point.alpha for point in calibration.curve] == [0, 0.25, 0.5, 0.75, 1]
    assert calibration.alpha_down is None
    if calibration.alpha_up is not None:
        (record,) = rows(run("gen", "-v", str(ablating), "-a", "auto", "x", *SHORT[2:], "--json"))
        assert (record["alpha"], record["kinds"]) == (calibration.alpha_up, ["ablate"])
    said = refused("gen", "-v", str(ablating), "--kind", "add", "-a", "auto", "x")
    assert said.startswith(f"error: {ablating} is not calibrated: run")


def test_gates_do_not_go_with_tasks_of_the_harness() -> None:
    assert refused("eval", "-v", "v.st", "--lm-eval", "x", "--when", "v.st<0") == (
        "error: --when does not go with --lm-eval, which writes no texts"
    )
