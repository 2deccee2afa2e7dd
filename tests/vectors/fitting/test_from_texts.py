"""A fitted vector equals the formula of its method, computed here from scratch in plain torch."""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from support.tiny import D_VOCAB, save_tiny_sae
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor

from neurosteer_cli.data.records import Passage
from neurosteer_cli.data.sides import open_sides, shuffled, sides_of, text_hash
from neurosteer_cli.errors import InputError, NeurosteerError, SAEError
from neurosteer_cli.models import engine as engine_module
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.models.tokenizer import Tokens
from neurosteer_cli.saes.load import load_sae
from neurosteer_cli.saes.sae import SparseAutoencoder
from neurosteer_cli.vectors.detector import score
from neurosteer_cli.vectors.fitting import reading as reading_module
from neurosteer_cli.vectors.fitting.from_texts import choose_saes, fit
from neurosteer_cli.vectors.fitting.log_odds import token_bias
from neurosteer_cli.vectors.fitting.report import FitReport
from neurosteer_cli.vectors.vector import SteeringVector

POINT = HookPoint(2)
TOP_K = 8
ALPHABET = sorted(ByteLevel.alphabet())  # of the tiny tokenizer; ids count from 0
METHODS = ("neurosteer", "paper", "diffmean", "pca")


def noisy(letters: str, seed: int, n: int = 20) -> list[str]:
    """Texts of 5 to 40 letters, so that a mean over texts is not one over tokens."""
    draw = random.Random(seed)
    return ["".join(draw.choices(letters, k=draw.randint(5, 40))) for _ in range(n)]


# Letters in common, so that neither the choice of latents nor the AUROC is trivial.
UP, DOWN = noisy("abcdefgh", 1), noisy("efghijkl", 2)


def fitted(
    engine: Engine,
    sources: Sequence[Path],
    *points: HookPoint,
    sae: SparseAutoencoder | None = None,
    **options: Any,
) -> tuple[SteeringVector, FitReport]:
    points = points or (POINT,)
    with open_sides([str(source) for source in sources]) as sides:
        saes = {point: sae for point in points} if sae else None
        return fit(engine, sides, points, saes=saes, top_k=TOP_K, **options)


@pytest.fixture
def sources(write_texts: Callable[[str, list[str]], Path]) -> tuple[Path, Path]:
    return write_texts("up.jsonl", UP), write_texts("down.jsonl", DOWN)


@pytest.fixture(scope="module")
def sae(tiny_sae_folder: Path) -> SparseAutoencoder:
    return load_sae(str(tiny_sae_folder), model_id="tiny")


# --- the same from scratch ---------------------------------------------------------------------


class Scratch:
    """The tiny model as transformers loads it, and the tiny SAE as its file has it."""

    def __init__(self, model_folder: Path, sae_folder: Path) -> None:
        self.model = transformers.AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
        self.sae = load_file(sae_folder / "sae_weights.safetensors")
        self.k = json.loads((sae_folder / "cfg.json").read_text())["k"]

    @torch.no_grad()
    def residuals(self, text: str, layer: int = 2, first: int = 1) -> Tensor:
        """What block `layer` puts out for one text alone, from position `first`. A token a byte."""
        ids = torch.tensor([[ALPHABET.index(char) for char in text]])
        kept: list[Tensor] = []
        block = self.model.model.layers[layer]
        handle = block.register_forward_hook(
            lambda _block, _args, out: kept.append(out[0] if isinstance(out, tuple) else out)
        )
        self.model(ids)
        handle.remove()
        return kept[0][0, first:].double()  # [n, d_model]

    def activations(self, resid: Tensor) -> Tensor:
        """TopK activations [n, d_sae] of residuals [n, d_model]."""
        pre = resid @ self.sae["W_enc"].double() + self.sae["b_enc"].double()
        lowest_kept = pre.sort(descending=True).values[:, self.k - 1 : self.k]
        return torch.where(pre >= lowest_kept, pre, 0.0).relu()

    def median_norm(self, texts: Sequence[str], layer: int = 2) -> float:
        norms = torch.cat([self.residuals(text, layer).norm(dim=-1) for text in texts])
        return float(norms.median())

    def direction(self, method: str, up: Sequence[str], down: Sequence[str]) -> Tensor:
        return getattr(self, method)(
            [self.residuals(text) for text in up], [self.residuals(text) for text in down]
        )

    def neurosteer(self, up: list[Tensor], down: list[Tensor]) -> Tensor:
        a, b = (
            torch.stack([self.activations(r).mean(0) for r in side]) for side in (up, down)
        )  # [n_texts, d_sae]
        t = (a.mean(0) - b.mean(0)) / (a.var(0) / len(a) + b.var(0) / len(b)).sqrt()
        ids = t.nan_to_num(0).abs().argsort(descending=True)[:TOP_K]
        return (a.mean(0) - b.mean(0))[ids] @ self.sae["W_dec"].double()[ids]

    def paper(self, up: list[Tensor], down: list[Tensor]) -> Tensor:
        a, b = (self.activations(torch.cat(side)) for side in (up, down))  # [n_tokens, d_sae]
        more_often = ((a > 0).double().mean(0) - (b > 0).double().mean(0)).relu()
        ids = more_often.argsort(descending=True)[:TOP_K]
        return (a.mean(0) - b.mean(0)).relu()[ids] @ self.sae["W_dec"].double()[ids]

    def diffmean(self, up: list[Tensor], down: list[Tensor]) -> Tensor:
        return torch.stack([r.mean(0) for r in up]).mean(0) - torch.stack([r.mean(0) for r in down]).mean(0)

    def pca(self, up: list[Tensor], down: list[Tensor]) -> Tensor:
        pairs = torch.stack([a.mean(0) - b.mean(0) for a, b in zip(up, down, strict=True)])
        # with the order inside each pair drawn at random the mean is zero: no centring
        component = torch.linalg.svd(pairs).Vh[0]
        return component * (component @ self.diffmean(up, down)).sign()


@pytest.fixture(scope="module")
def scratch(tiny_folder: Path, tiny_sae_folder: Path) -> Scratch:
    return Scratch(tiny_folder, tiny_sae_folder)


def unit(vector: Tensor) -> Tensor:
    return vector.double() / vector.double().norm()


@pytest.mark.parametrize("method", METHODS)
def test_a_vector_equals_its_methods_formula(
    engine: Engine, sae: SparseAutoencoder, scratch: Scratch, sources: tuple[Path, Path], method: str
) -> None:
    vector, _ = fitted(engine, sources, sae=sae if method in ("neurosteer", "paper") else None, method=method)
    push, expected = vector.pushes[POINT], scratch.direction(method, UP, DOWN)
    assert (unit(push) - unit(expected)).norm() < 1e-4
    median = scratch.median_norm(UP + DOWN)
    # the median is taken from a histogram, good to 0.1 %
    assert float(push.norm()) == pytest.approx(0.01 * median, rel=1e-3)
    assert vector.metadata.points[str(POINT)].resid_norm == pytest.approx(median, rel=1e-3)
    assert vector.dose(8) == pytest.approx(0.08, rel=1e-6)


def test_the_scratch_formulas_of_the_methods_all_differ(scratch: Scratch) -> None:
    directions = [unit(scratch.direction(method, UP, DOWN)) for method in METHODS]
    for i, one in enumerate(directions):
        for other in directions[:i]:
            assert (one - other).norm() > 1e-2


def test_the_last_block_is_read_before_the_final_norm(
    engine: Engine, scratch: Scratch, sources: tuple[Path, Path]
) -> None:
    vector, _ = fitted(engine, sources, HookPoint(3), method="diffmean")
    expected = scratch.diffmean(*([scratch.residuals(t, 3) for t in s] for s in (UP, DOWN)))
    assert (unit(vector.pushes[HookPoint(3)]) - unit(expected)).norm() < 1e-4


def test_the_latents_of_a_vector_give_its_push(
    engine: Engine, sae: SparseAutoencoder, scratch: Scratch, sources: tuple[Path, Path]
) -> None:
    vector, report = fitted(engine, sources, sae=sae)
    latents = vector.latents[POINT]
    assert latents.ids.shape == (TOP_K,)
    push = latents.weights.double() @ scratch.sae["W_dec"].double()[latents.ids]
    assert (unit(vector.pushes[POINT]) - unit(push)).norm() < 1e-6
    fired = [
        (scratch.activations(torch.cat([scratch.residuals(t) for t in side])) > 0).double().mean(0)
        for side in (UP, DOWN)
    ]
    expected = torch.stack(fired)[:, latents.ids].float()
    torch.testing.assert_close(latents.firing_rates, expected, rtol=1e-5, atol=1e-6)
    shown = [row.latent_id for row in report.strongest[str(POINT)]]
    up, down = latents.ids[latents.weights > 0], latents.ids[latents.weights < 0]
    assert shown == up[:6].tolist() + down[:6].tolist()


def test_methods_without_an_sae_have_no_latents(engine: Engine, sources: tuple[Path, Path]) -> None:
    vector, report = fitted(engine, sources, method="diffmean")
    assert vector.latents == {}
    assert report.strongest == {str(POINT): []}
    assert vector.metadata.points[str(POINT)].sae is None


def test_paper_never_turns_a_latent_down(
    engine: Engine, sae: SparseAutoencoder, sources: tuple[Path, Path]
) -> None:
    vector, _ = fitted(engine, sources, sae=sae, method="paper")
    assert bool((vector.latents[POINT].weights >= 0).all())
    rates = vector.latents[POINT].firing_rates
    assert bool((rates[0] > rates[1]).all())


# --- what must not matter ----------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("setting", ["tokens a batch", "texts sorted together"])
def test_a_vector_does_not_depend_on_how_texts_are_batched(
    engine: Engine,
    sae: SparseAutoencoder,
    sources: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    setting: str,
) -> None:
    options = {"method": method, "sae": sae if method in ("neurosteer", "paper") else None}
    whole, _ = fitted(engine, sources, **options)
    if setting == "tokens a batch":
        monkeypatch.setitem(engine_module.TOKENS_PER_BATCH, "cpu", 50)
    else:
        monkeypatch.setattr(reading_module, "CHUNK", 3)
    cut, _ = fitted(engine, sources, **options)
    assert (cut.pushes[POINT] - whole.pushes[POINT]).norm() < 1e-5 * whole.pushes[POINT].norm()
    assert cut.metadata.points[str(POINT)].auroc == whole.metadata.points[str(POINT)].auroc
    assert cut.metadata.positive == whole.metadata.positive


def test_a_vector_does_not_depend_on_how_many_activations_are_held(
    engine: Engine, sae: SparseAutoencoder, sources: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = fitted(engine, sources, sae=sae)
    monkeypatch.setattr(reading_module, "ENCODED_AT_ONCE", 7 * sae.d_sae)
    cut, _ = fitted(engine, sources, sae=sae)
    assert (cut.pushes[POINT] - whole.pushes[POINT]).norm() < 1e-5 * whole.pushes[POINT].norm()


@pytest.mark.parametrize("method", ["neurosteer", "diffmean"])
def test_a_vector_does_not_depend_on_the_order_of_the_texts(
    engine: Engine,
    sae: SparseAutoencoder,
    sources: tuple[Path, Path],
    write_texts: Callable[[str, list[str]], Path],
    method: str,
) -> None:
    options = {"method": method, "sae": sae if method == "neurosteer" else None}
    vector, _ = fitted(engine, sources, **options)
    draw = random.Random(3)
    up, down = draw.sample(UP, len(UP)), draw.sample(DOWN, len(DOWN))
    mixed, _ = fitted(engine, (write_texts("up.jsonl", up), write_texts("down.jsonl", down)), **options)
    assert (mixed.pushes[POINT] - vector.pushes[POINT]).norm() < 1e-5 * vector.pushes[POINT].norm()
    assert torch.equal(mixed.text_hashes, vector.text_hashes)


@pytest.mark.parametrize("method", ["neurosteer", "diffmean", "pca"])
def test_sides_exchanged_give_the_opposite_vector(
    engine: Engine, sae: SparseAutoencoder, sources: tuple[Path, Path], method: str
) -> None:
    options = {"method": method, "sae": sae if method == "neurosteer" else None}
    there, _ = fitted(engine, sources, **options)
    back, _ = fitted(engine, sources[::-1], **options)
    assert (there.pushes[POINT] + back.pushes[POINT]).norm() < 1e-5 * there.pushes[POINT].norm()


def test_duplicates_are_counted_and_change_nothing(
    engine: Engine, sources: tuple[Path, Path], write_texts: Callable[[str, list[str]], Path]
) -> None:
    vector, report = fitted(engine, sources, method="diffmean")
    assert report.n_duplicates == 0
    doubled = write_texts("up.jsonl", UP + UP[:5]), write_texts("down.jsonl", DOWN + DOWN[:1])
    again, report = fitted(engine, doubled, method="diffmean")
    assert report.n_duplicates == 6
    assert torch.equal(again.pushes[POINT], vector.pushes[POINT])
    assert again.metadata.positive is not None
    assert again.metadata.positive.n_texts == 20


# --- the unit, shared --------------------------------------------------------------------------


def test_two_layers_share_the_push_equally(engine: Engine, sources: tuple[Path, Path]) -> None:
    one, two = HookPoint(1), HookPoint(2)
    both, _ = fitted(engine, sources, one, two, method="diffmean")
    assert list(both.pushes) == [one, two]
    for point in (one, two):
        alone, _ = fitted(engine, sources, point, method="diffmean")
        torch.testing.assert_close(both.pushes[point], alone.pushes[point] / 2)
        metadata = both.metadata.points[str(point)]
        assert metadata == alone.metadata.points[str(point)]
        assert float(both.pushes[point].norm()) == pytest.approx(0.005 * metadata.resid_norm)
    assert both.dose(8) == pytest.approx(0.08)


def test_what_enters_a_block_is_what_left_the_one_before(engine: Engine, sources: tuple[Path, Path]) -> None:
    pre, _ = fitted(engine, sources, HookPoint(2, "hook_resid_pre"), method="diffmean")
    post, _ = fitted(engine, sources, HookPoint(1), method="diffmean")
    assert torch.equal(pre.pushes[HookPoint(2, "hook_resid_pre")], post.pushes[HookPoint(1)])


# --- what is recorded --------------------------------------------------------------------------


def test_the_metadata_says_what_was_fitted_on_what(
    engine: Engine, sae: SparseAutoencoder, scratch: Scratch, sources: tuple[Path, Path]
) -> None:
    metadata = fitted(engine, sources, sae=sae)[0].metadata
    assert metadata.method == "neurosteer"
    assert metadata.parameters == {"top_k": TOP_K}
    assert metadata.model_shape == engine.shape
    assert Path(metadata.model_id).is_absolute()
    assert metadata.parents == []
    assert metadata.positive is not None
    assert metadata.negative is not None
    for side, texts in ((metadata.positive, UP), (metadata.negative, DOWN)):
        assert side.n_texts == 20
        assert side.n_tokens == sum(len(text) - 1 for text in texts)  # position 0 is left out
    point = metadata.points[str(POINT)]
    assert point.sae is not None
    assert (point.sae.d_sae, point.sae.model_name) == (64, "tiny")
    shift = scratch.direction("diffmean", UP, DOWN).norm()
    assert point.shift_norm == pytest.approx(float(shift), rel=1e-4)


def test_the_texts_fitted_on_are_recognised_by_their_hashes(
    engine: Engine, sources: tuple[Path, Path]
) -> None:
    vector, _ = fitted(engine, sources, method="diffmean")
    assert vector.text_hashes.tolist() == sorted(text_hash(text) for text in UP + DOWN)


@pytest.mark.parametrize("method", METHODS)
def test_the_auroc_is_that_of_a_vector_fitted_without_the_held_out_texts(
    engine: Engine,
    sae: SparseAutoencoder,
    scratch: Scratch,
    write_texts: Callable[[str, list[str]], Path],
    method: str,
) -> None:
    up, down = noisy("abcdef", 5, 40), noisy("bcdefg", 6, 40)
    sources = write_texts("up.jsonl", up), write_texts("down.jsonl", down)
    vector, report = fitted(
        engine, sources, sae=sae if method in ("neurosteer", "paper") else None, method=method
    )
    kept_up, kept_down = ([text for i, text in enumerate(side) if i % 5 != 4] for side in (up, down))
    direction = scratch.direction(method, kept_up, kept_down)
    scores = [
        [float(scratch.residuals(text).mean(0) @ direction) for text in side[4::5]] for side in (up, down)
    ]
    wins = [(a > b) + (a == b) / 2 for a in scores[0] for b in scores[1]]
    assert report.n_held_out == (8, 8)
    auroc = vector.metadata.points[str(POINT)].auroc
    assert auroc == pytest.approx(sum(wins) / len(wins))
    assert 0.5 < auroc < 1  # noisy enough to tell


# --- what is counted ---------------------------------------------------------------------------


def test_of_a_prompt_and_completion_only_the_completion_counts(
    engine: Engine, scratch: Scratch, tmp_path: Path
) -> None:
    prompts = [f"prompt{n}:" for n in range(20)]
    for name, side in (("up", UP), ("down", DOWN)):
        lines = [json.dumps({"prompt": p, "completion": c}) for p, c in zip(prompts, side, strict=True)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    vector, _ = fitted(engine, (tmp_path / "up.jsonl", tmp_path / "down.jsonl"), method="diffmean")
    expected = scratch.diffmean(
        *(
            [scratch.residuals(p + c, first=len(p)) for p, c in zip(prompts, side, strict=True)]
            for side in (UP, DOWN)
        )
    )
    assert (unit(vector.pushes[POINT]) - unit(expected)).norm() < 1e-4
    assert vector.metadata.positive is not None
    assert vector.metadata.positive.n_tokens == sum(map(len, UP))


def test_of_a_chat_only_the_last_turn_counts(engine: Engine, scratch: Scratch, tmp_path: Path) -> None:
    for name, side in (("up", UP), ("down", DOWN)):
        turns = [[{"role": "user", "content": "hi"}, {"role": "assistant", "content": text}] for text in side]
        lines = [json.dumps({"messages": messages}) for messages in turns]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    vector, _ = fitted(engine, (tmp_path / "up.jsonl", tmp_path / "down.jsonl"), method="diffmean")
    assert vector.metadata.positive is not None
    assert vector.metadata.positive.n_tokens == sum(map(len, UP))
    plain = scratch.direction("diffmean", UP, DOWN)
    assert (unit(vector.pushes[POINT]) - unit(plain)).norm() > 1e-3  # the chat is context


@pytest.mark.parametrize("text", ["s", "assistant", "ab", " " * 9 + "ab", "ab" + " " * 9])
def test_a_last_turn_is_found_in_the_chat_whatever_it_says(engine: Engine, text: str) -> None:
    """`</s>` follows every turn of the tiny template, `<s>assistant` comes before the last."""
    messages = ({"role": "user", "content": "hi"}, {"role": "assistant", "content": text})
    ids, counts, *_ = engine.tokenize(Passage("chat", text, messages=messages))
    counted = engine.decode([], [token for token, count in zip(ids, counts, strict=True) if count])
    assert counted.strip(" ") == text.strip(" ")


def test_texts_of_a_single_token_are_counted_and_left_out(
    engine: Engine,
    scratch: Scratch,
    write_texts: Callable[[str, list[str]], Path],
    sources: tuple[Path, Path],
) -> None:
    vector, report = fitted(engine, (write_texts("up.jsonl", [*UP, "x", "y"]), sources[1]), method="diffmean")
    assert report.n_without_tokens == 2
    expected = scratch.direction("diffmean", UP, DOWN)
    assert (unit(vector.pushes[POINT]) - unit(expected)).norm() < 1e-4


# --- warnings ----------------------------------------------------------------------------------

FEW = "{}: {} texts; 50 or more a side give a more dependable vector"


def test_few_texts_are_warned_of_side_by_side(
    engine: Engine, write_texts: Callable[[str, list[str]], Path]
) -> None:
    few, many = noisy("abcd", 1, 49), noisy("wxyz", 2, 50)
    sources = write_texts("few.jsonl", few), write_texts("many.jsonl", many)
    _, report = fitted(engine, sources, method="diffmean")
    assert report.warnings == [FEW.format("few", 49)]


def test_texts_that_are_cut_are_warned_of(
    engine: Engine, write_texts: Callable[[str, list[str]], Path]
) -> None:
    long = [text + "x" * 128 for text in noisy("abcd", 1, 3)]
    sources = (
        write_texts("a.jsonl", [*noisy("abcd", 1, 57), *long]),
        write_texts("b.jsonl", noisy("wxyz", 2, 60)),
    )
    _, report = fitted(engine, sources, method="diffmean")
    assert report.warnings == ["3 of 120 texts were cut to the model's 128 tokens"]


def test_texts_that_do_not_separate_are_warned_of(
    engine: Engine, write_texts: Callable[[str, list[str]], Path]
) -> None:
    texts = noisy("abcdef", 4, 100)
    sources = write_texts("a.jsonl", texts[:50]), write_texts("b.jsonl", texts[50:])
    vector, report = fitted(engine, sources, method="diffmean")
    auroc = vector.metadata.points[str(POINT)].auroc
    assert auroc is not None
    assert auroc < 0.6
    assert report.warnings == [
        f"held-out AUROC at blocks.2.hook_resid_post is {auroc:.2f}: the texts hardly separate "
        "there (0.50 is chance); use other texts, more of them, or another layer"
    ]


def test_texts_that_separate_are_not_warned_of(
    engine: Engine, write_texts: Callable[[str, list[str]], Path]
) -> None:
    sources = (write_texts("up.jsonl", noisy("abcd", 1, 50)), write_texts("down.jsonl", noisy("wxyz", 2, 50)))
    vector, report = fitted(engine, sources, method="diffmean")
    assert vector.metadata.points[str(POINT)].auroc == 1.0
    assert report.warnings == []


# --- what is refused ---------------------------------------------------------------------------


@contextmanager
def refusal(error: type[NeurosteerError], message: str) -> Iterator[None]:
    with pytest.raises(error) as caught:
        yield
    assert str(caught.value) == message


def test_what_cannot_be_fitted_is_refused(
    engine: Engine,
    sae: SparseAutoencoder,
    sources: tuple[Path, Path],
    write_texts: Callable[[str, list[str]], Path],
) -> None:
    with refusal(InputError, "--method best: one of neurosteer, paper, diffmean, pca, logodds"):
        fitted(engine, sources, method="best")
    with refusal(InputError, "blocks.4.hook_resid_post: the model has 4 blocks, 0 to 3"):
        fitted(engine, sources, HookPoint(4), method="diffmean")
    letters = write_texts("letters.jsonl", list("abcdefgh"))
    with refusal(InputError, "letters: every text is a single token; nothing to take statistics over"):
        fitted(engine, (letters, sources[1]), method="diffmean")
    with open_sides([str(source) for source in sources]) as sides:
        for k in (0, 65):
            with refusal(InputError, f"--top-k must be between 1 and d_sae=64, got {k}"):
                fit(engine, sides, [POINT], saes={POINT: sae}, top_k=k)


def test_sides_that_do_not_differ_are_refused(
    engine: Engine, sae: SparseAutoencoder, sources: tuple[Path, Path]
) -> None:
    silent = replace(sae, weights={name: 0 * weight for name, weight in sae.weights.items()})
    with refusal(NeurosteerError, "the two sides do not differ at this hook point: nothing to steer along"):
        fitted(engine, sources, sae=silent)


@pytest.mark.parametrize("method", METHODS)
def test_a_side_with_hardly_a_text_of_more_than_one_token_is_refused(
    engine: Engine,
    sae: SparseAutoencoder,
    sources: tuple[Path, Path],
    write_texts: Callable[[str, list[str]], Path],
    method: str,
) -> None:
    # its one usable text is held out: nothing is left to fit the vector of the AUROC on
    bare = write_texts("bare.jsonl", ["a", "b", "c", "d", "text", "e", "f", "g"])
    with refusal(InputError, "bare: 1 distinct texts of more than one token; at least 8 a side are needed"):
        fitted(
            engine, (bare, sources[1]), sae=sae if method in ("neurosteer", "paper") else None, method=method
        )


def test_progress_counts_every_text_once(engine: Engine, sources: tuple[Path, Path]) -> None:
    steps: list[int] = []
    fitted(engine, sources, method="diffmean", advance=steps.append)
    assert sum(steps) == 40


# --- what is left out --------------------------------------------------------------------------


def test_lists_of_texts_give_the_vector_of_their_files(engine: Engine, sources: tuple[Path, Path]) -> None:
    of_files, _ = fitted(engine, sources, method="diffmean")
    records = [{"text": text} for text in DOWN]
    of_lists, report = fit(engine, (UP, records), [POINT], method="diffmean")
    assert torch.equal(of_lists.pushes[POINT], of_files.pushes[POINT])
    assert report.n_held_out == (4, 4)
    labels = [side.label for side in (of_lists.metadata.positive, of_lists.metadata.negative) if side]
    assert labels == ["positive", "negative"]


def test_a_method_without_an_sae_steers_two_thirds_up(engine: Engine) -> None:
    vector, _ = fit(engine, (UP, DOWN), method="diffmean")
    assert list(vector.pushes) == [HookPoint(2)]  # of 4 blocks


def test_saes_say_where_they_belong(engine: Engine, sae: SparseAutoencoder) -> None:
    vector, _ = fit(engine, (UP, DOWN), saes={sae.hook_point: sae}, top_k=TOP_K)
    assert list(vector.pushes) == [sae.hook_point]


def test_a_model_without_bundled_saes_is_told_of_them(engine: Engine) -> None:
    with pytest.raises(SAEError, match=r"^no SAE is bundled for model '.*': give --sae FOLDER"):
        fit(engine, (UP, DOWN))
    with refusal(
        SAEError, "the method needs an SAE at every hook point: give one, or choose diffmean or pca"
    ):
        fit(engine, (UP, DOWN), [POINT], saes={})


def test_the_saes_of_a_family_are_chosen_by_the_method(tmp_path: Path) -> None:
    family = tmp_path / "family"
    for layer in (0, 1, 2, 3):
        name = f"blocks.{layer}.hook_resid_post"
        save_tiny_sae(family / name, hook_name=name)
    for method, layers in (("neurosteer", [1, 2, 3]), ("paper", [3]), ("diffmean", [])):
        assert list(choose_saes(method, "tiny", sae=str(family))) == [HookPoint(layer) for layer in layers]
    assert list(choose_saes("paper", "tiny", [HookPoint(0)], str(family))) == [HookPoint(0)]
    with refusal(
        SAEError,
        f"SAE '{family / 'blocks.1.hook_resid_post'}' belongs to blocks.1.hook_resid_post, "
        "not to blocks.0.hook_resid_post; leave out --layers, or choose another SAE",
    ):
        choose_saes("paper", "tiny", [HookPoint(0)], str(family / "blocks.1.hook_resid_post"))


# --- logits ------------------------------------------------------------------------------------


def counts(side: list[str]) -> Tensor:
    """How often each byte stands in the texts, the first of each left out."""
    found = torch.zeros(D_VOCAB)
    for text in side:
        for char in text[1:]:
            found[ALPHABET.index(char)] += 1
    return found


def test_log_odds_urge_tokens_and_push_nothing(engine: Engine) -> None:
    vector, report = fit(engine, (UP, DOWN), method="logodds")
    assert vector.bias is not None
    assert (vector.pushes, vector.metadata.points, vector.metadata.kind) == ({}, {}, "logits")
    expected = token_bias(torch.stack([counts(UP), counts(DOWN)]))
    assert torch.equal(vector.bias.ids, expected.ids)
    torch.testing.assert_close(vector.bias.bias, expected.bias)
    assert [side and side.n_texts for side in (vector.metadata.positive, vector.metadata.negative)] == [
        len(set(UP)), len(set(DOWN))
    ]  # fmt: skip
    assert report.n_held_out == (4, 4)
    # the strongest of either sign, by hand: letters that one side alone has
    rate = counts(UP)[ALPHABET.index("a")] / counts(UP).sum()
    (row,) = (row for row in report.tokens if row.token == "a")
    assert (row.positive_rate, row.negative_rate) == (pytest.approx(float(rate)), 0.0)
    assert row.bias == pytest.approx(float(expected.dense(D_VOCAB)[ALPHABET.index("a")]))
    assert [row.bias > 0 for row in report.tokens] == [True] * 6 + [False] * 6


def test_a_share_of_logits_is_taken_from_the_push(engine: Engine, tmp_path: Path) -> None:
    whole, _ = fit(engine, (UP, DOWN), [POINT], method="diffmean")
    mixed, _ = fit(engine, (UP, DOWN), [POINT], method="diffmean", logits_share=0.25)
    urging, _ = fit(engine, (UP, DOWN), method="logodds")
    assert whole.bias is None and mixed.bias is not None and urging.bias is not None
    torch.testing.assert_close(mixed.pushes[POINT], 0.75 * whole.pushes[POINT])
    torch.testing.assert_close(mixed.bias.bias, 0.25 * urging.bias.bias)
    assert mixed.dose(1.0) == pytest.approx(0.0075)
    assert (mixed.metadata.kind, mixed.metadata.parameters) == ("add", {"logits_share": 0.25})
    mixed.save(tmp_path / "mixed.st")
    loaded = SteeringVector.load(tmp_path / "mixed.st")
    assert loaded.metadata == mixed.metadata
    assert loaded.bias is not None and torch.equal(loaded.bias.bias, mixed.bias.bias)
    urging.save(tmp_path / "urging.st")
    assert SteeringVector.load(tmp_path / "urging.st").metadata == urging.metadata


def test_a_share_that_is_none_is_refused(engine: Engine) -> None:
    for share in (-0.1, 1.0, 3.0):
        with pytest.raises(InputError, match="--logits-share must be from 0 to below 1"):
            fit(engine, (UP, DOWN), logits_share=share, method="diffmean")
    with pytest.raises(InputError, match="--method logodds acts on logits alone; leave out hook points"):
        fit(engine, (UP, DOWN), [POINT], method="logodds")


def test_a_fit_knows_where_the_middle_of_its_sides_is_and_what_projections_say(engine: Engine) -> None:
    ups, downs = ([f"{text} {n}" for n in range(3) for text in side] for side in (UP, DOWN))
    vector, _ = fit(engine, (ups, downs), [POINT], method="diffmean")
    push = vector.pushes[POINT].double()
    means = []
    for side in (ups, downs):
        texts = [engine.tokenize(Passage("", text)) for text in side]
        own = [
            batch.resid[POINT][batch.text_index == row].mean(0)
            for batch in engine.residuals(texts, [POINT])
            for row in range(len(batch.texts))
        ]
        means.append(torch.stack(own).double().mean(0))
    middle = float((means[0] + means[1]) / 2 @ push / push.norm())
    assert vector.metadata.points[str(POINT)].middle == pytest.approx(middle, rel=1e-4)
    known = vector.metadata.detector
    assert known is not None and known.slope > 0
    assert known.n_texts == 2 * (len(ups) // 5)
    spread = known.spread
    scored = [found.z for _, found in score(engine, vector, tokenized(engine, [*ups, *downs]))]
    assert sum(scored) / len(scored) == pytest.approx(0.0, abs=1e-3 * float(push.norm()) / spread)


def tokenized(engine: Engine, texts: list[str]) -> list[Tokens]:
    return [engine.tokenize(Passage("", text)) for text in texts]


@pytest.mark.parametrize("share", [0.25, 0.9])
def test_what_a_mixed_vector_says_of_texts_is_what_its_push_alone_would(engine: Engine, share: float) -> None:
    ups, downs = noisy("abcdef", 5, 40), noisy("bcdefg", 6, 40)
    texts = tokenized(engine, noisy("abcdefg", 7, 10))
    found = [
        dict(
            score(engine, fit(engine, (ups, downs), [POINT], method="diffmean", logits_share=part)[0], texts)
        )
        for part in (0.0, share)
    ]
    for number, alone in found[0].items():
        assert found[1][number].z == pytest.approx(alone.z, rel=1e-4)
        assert found[1][number].probability == pytest.approx(alone.probability, rel=1e-4)


def test_the_middle_of_the_sides_scores_nothing_though_the_held_out_texts_lie_elsewhere(
    engine: Engine,
) -> None:
    """The held-out texts of both sides are moved one way: texts like the others are still in between."""
    ups, downs = noisy("abcdef", 5, 40), noisy("bcdefg", 6, 40)
    moved = [
        [f"{text}zzzzzz" if n % 5 == 4 else text for n, text in enumerate(side)] for side in (ups, downs)
    ]
    vector, _ = fit(engine, (moved[0], moved[1]), [POINT], method="diffmean")
    scores = [found.z for _, found in score(engine, vector, tokenized(engine, [*moved[0], *moved[1]]))]
    assert sum(scores) / len(scores) == pytest.approx(0.0, abs=1e-3)


# --- controls ----------------------------------------------------------------------------------

OPTIONS: dict[str, dict[str, Any]] = {
    "neurosteer": {},
    "paper": {"method": "paper"},
    "diffmean": {"method": "diffmean"},
    "pca": {"method": "pca"},
    "logodds": {"method": "logodds"},
    "mixed": {"method": "diffmean", "logits_share": 0.5},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_control_is_the_vector_of_the_texts_dealt_out(
    engine: Engine, sae: SparseAutoencoder, name: str
) -> None:
    options = OPTIONS[name]
    ups, downs = noisy("abcdefgh", 1, 50), noisy("efghijkl", 2, 50)
    if options.get("method", "paper") == "paper":
        options = {**options, "saes": {POINT: sae}, "top_k": TOP_K}
    points = [] if name == "logodds" else [POINT]
    control, report = fit(engine, (ups, downs), points, shuffle_labels=3, **options)
    dealt, _ = fit(engine, shuffled(sides_of(ups, downs), 3), points, **options)
    assert control.metadata.parameters == {**dealt.metadata.parameters, "shuffle_labels": 3}
    for point, push in dealt.pushes.items():
        assert torch.equal(control.pushes[point], push)
        assert float(push.norm()) == pytest.approx(
            float(fit(engine, (ups, downs), points, **options)[0].pushes[point].norm()), rel=1e-3
        )
    assert (control.bias is None) == (dealt.bias is None)
    if control.bias and dealt.bias:
        assert torch.equal(control.bias.bias, dealt.bias.bias)
    assert report.warnings == []  # not that the sides are alike, which they are meant to be
    other, _ = fit(engine, (ups, downs), points, shuffle_labels=4, **options)
    assert other.metadata.positive != control.metadata.positive


def test_a_control_tells_nothing_apart(engine: Engine) -> None:
    ups, downs = noisy("abcdefgh", 1, 100), noisy("ijklmnop", 2, 100)
    for method in ("diffmean", "logodds"):
        points = [POINT] if method == "diffmean" else []
        for seed, low, high in ((None, 0.9, 1.0), (0, 0.2, 0.8)):
            vector, report = fit(engine, (ups, downs), points, method=method, shuffle_labels=seed)
            auroc = vector.metadata.points[str(POINT)].auroc if points else report.tokens_auroc
            assert auroc is not None and low <= auroc <= high
