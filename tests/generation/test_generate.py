"""Steered generation, against transformers' own and against passes without a cache."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from support.engines import load
from support.families import save_family
from support.tiny import D_MODEL, D_VOCAB, FAMILIES, of_kind, tiny_vector
from tokenizers import Tokenizer, decoders, models
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from neurosteer_cli.errors import InputError
from neurosteer_cli.generation.batching import batch
from neurosteer_cli.generation.batching import rows as rows_module
from neurosteer_cli.generation.continuation import Continuation, GenerationConfig
from neurosteer_cli.generation.generate import Completion, Job, generate
from neurosteer_cli.generation.sampling import Sampling
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import RESID_PRE, HookPoint, add, change
from neurosteer_cli.vectors.gate import Gate
from neurosteer_cli.vectors.kinds import TokenBias
from neurosteer_cli.vectors.metadata import PointMetadata, VectorMetadata
from neurosteer_cli.vectors.steering import Steering
from neurosteer_cli.vectors.vector import SteeringVector

POINT = HookPoint(1)
GREEDY = Sampling(temperature=0)
LONG = list(range(10, 90))  # longer than the sliding window of 64
PROMPTS = [[7, 21, 3], [99], [50, 51, 52, 53, 54, 55, 56, 57], LONG]
ALPHAS = [0.0, 1.0, -1.0, 0.5]  # one a prompt


def token_numbers() -> PreTrainedTokenizerFast:
    """A tokenizer that spells each token as its number, so that a text says which tokens it has."""
    raw = Tokenizer(models.WordLevel({spelled([i]): i for i in range(D_VOCAB)}))
    raw.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=raw)


def spelled(ids: Sequence[int]) -> str:
    return "".join(f"<{i}>" for i in ids)


@pytest.fixture(scope="module")
def engines(endless_engines: Callable[[str], Engine]) -> Callable[[str], Engine]:
    """A family's engine; its texts are token numbers and no token ends them."""
    return cache(lambda family: replace(endless_engines(family), tokenizer=token_numbers()))


@pytest.fixture(scope="module", params=FAMILIES)
def writer(request: pytest.FixtureRequest, engines: Callable[[str], Engine]) -> Engine:
    return engines(request.param)


@pytest.fixture(scope="module")
def llama(engines: Callable[[str], Engine]) -> Engine:
    return engines("llama")


def direction(engine: Engine, seed: int = 0, point: HookPoint = POINT) -> Tensor:
    """A push [d_model] about as long as the residual: it changes what is written."""
    push = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(seed))
    lengths: list[Tensor] = []
    block = engine.blocks[point.layer]
    handle = block.register_forward_hook(
        lambda _block, _args, out: lengths.append((out[0] if isinstance(out, tuple) else out).norm(dim=-1))
    )
    with torch.no_grad():
        engine.model(input_ids=torch.tensor([LONG]))
    handle.remove()
    return push / push.norm() * lengths[0].median()


def vector(engine: Engine, pushes: dict[HookPoint, Tensor]) -> SteeringVector:
    points = {str(point): PointMetadata.without_texts(1.0) for point in pushes}
    metadata = VectorMetadata.new(engine.model_id, engine.shape, "diffmean", points)
    return SteeringVector(metadata, pushes, {}, torch.empty(0, dtype=torch.int64))


def written(
    engine: Engine, rows: Sequence[Job], vectors: Sequence[SteeringVector] = (), n: int = 8, **settings: Any
) -> list[Completion]:
    """What is written, in the order of the rows."""
    settings = {"sampling": GREEDY, "max_new_tokens": n, **settings}
    found = dict(generate(engine, rows, vectors, GenerationConfig(**settings)))
    assert sorted(found) == list(range(len(rows)))
    return [found[index] for index in range(len(rows))]


def texts(*args: Any, **options: Any) -> list[str]:
    return [one.text for one in written(*args, **options)]


def rows_of(prompts: Sequence[list[int]], *alphas: float) -> list[Job]:
    return [Job(spelled(ids), ids, alphas) for ids in prompts]


@torch.no_grad()
def of_transformers(engine: Engine, ids: list[int], n: int = 8, **options: Any) -> list[int]:
    """What transformers' own generate writes after one prompt, greedily."""
    output = engine.model.generate(
        torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
        do_sample=False, max_new_tokens=n, eos_token_id=None, pad_token_id=0, **options,
    )  # fmt: skip
    return list(output[0, len(ids) :].tolist())


def covered(positions: str, n: int, n_prompt: int) -> Tensor:
    """Which of n tokens are steered, [n] 0 or 1."""
    place = torch.arange(n)
    where = {
        "all": place >= 0, "prompt": place < n_prompt, "generated": place >= n_prompt,
        "answer": place >= n_prompt - 1, "first:2": (place == n_prompt - 1) | (place == n_prompt),
        "after:2": place > n_prompt,
    }  # fmt: skip
    return where[positions].float()


@torch.no_grad()
def without_cache(engine: Engine, ids: list[int], push: Tensor, positions: str, n: int = 8) -> list[int]:
    """Greedy tokens from whole passes over all tokens, the push added where `positions` says."""
    so_far = list(ids)
    for _ in range(n):
        where = covered(positions, len(so_far), len(ids))
        with add(engine.blocks, {POINT: push * where[:, None]}):
            logits = engine.model(input_ids=torch.tensor([so_far]), use_cache=False).logits
        so_far.append(int(logits[0, -1].argmax()))
    return so_far[len(ids) :]


# --- greedy ------------------------------------------------------------------------------------


def test_greedy_is_that_of_transformers_in_a_batch_of_unequal_prompts(writer: Engine) -> None:
    expected = [spelled(of_transformers(writer, ids)) for ids in PROMPTS]
    assert len(set(expected)) > 2
    assert texts(writer, rows_of(PROMPTS)) == expected


def test_steered_greedy_is_that_of_transformers_under_the_same_push(writer: Engine) -> None:
    push = direction(writer)
    expected = []
    for ids in PROMPTS:
        with add(writer.blocks, {POINT: push}):
            expected.append(spelled(of_transformers(writer, ids)))
    steered = texts(writer, rows_of(PROMPTS, 1.0), [vector(writer, {POINT: push})])
    assert steered == expected
    assert all(a != b for a, b in zip(steered, texts(writer, rows_of(PROMPTS)), strict=True))


def test_a_row_is_steered_by_its_own_alpha_as_if_it_were_alone(writer: Engine) -> None:
    steering = [vector(writer, {POINT: direction(writer), HookPoint(2, RESID_PRE): direction(writer, 1)})]
    rows = [Job("p", ids, (alpha,)) for ids, alpha in zip(PROMPTS, ALPHAS, strict=True)]
    alone = [texts(writer, [row], steering)[0] for row in rows]
    assert texts(writer, rows, steering) == alone
    assert alone[0] == spelled(of_transformers(writer, PROMPTS[0]))


def test_a_long_text_outgrows_the_sliding_window_as_in_transformers(engines: Callable[[str], Engine]) -> None:
    for family in ("mistral", "gemma2"):
        engine = engines(family)
        prompts = [LONG[:60], [5, 6]]
        expected = [spelled(of_transformers(engine, ids, 10)) for ids in prompts]
        assert texts(engine, rows_of(prompts), n=10) == expected


def test_a_repetition_penalty_is_that_of_transformers_and_ignores_pads(llama: Engine) -> None:
    prompts = [*PROMPTS, [0, 1, 2]]  # token 0 is also what pads are made of
    expected = [spelled(of_transformers(llama, ids, repetition_penalty=1.5)) for ids in prompts]
    penalized = Sampling(temperature=0, repetition_penalty=1.5)
    assert texts(llama, rows_of(prompts), sampling=penalized) == expected
    assert expected != texts(llama, rows_of(prompts))


# --- positions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", ["all", "prompt", "generated", "answer", "first:2", "after:2"])
def test_the_tokens_named_are_steered_and_no_others(writer: Engine, positions: str) -> None:
    push = direction(writer)
    expected = [spelled(without_cache(writer, ids, push, positions)) for ids in PROMPTS]
    rows, steering = rows_of(PROMPTS, 1.0), [vector(writer, {POINT: push})]
    assert texts(writer, rows, steering, positions=positions) == expected
    # a prompt of one token: its pass is as long as those that follow
    assert texts(writer, rows[1:2], steering, positions=positions) == expected[1:2]


def test_the_three_ways_and_none_all_differ(writer: Engine) -> None:
    rows, steering = rows_of(PROMPTS[:1], 1.0), [vector(writer, {POINT: direction(writer)})]
    ways = ("all", "prompt", "generated")
    found = {texts(writer, rows, steering, positions=way)[0] for way in ways}
    assert len(found | set(texts(writer, rows_of(PROMPTS[:1])))) == 4


def test_steering_what_is_generated_leaves_the_first_token_as_it_was(writer: Engine) -> None:
    steering = [vector(writer, {POINT: direction(writer)})]
    first = texts(writer, rows_of(PROMPTS), n=1)
    assert texts(writer, rows_of(PROMPTS, 1.0), steering, n=1, positions="generated") == first


# --- kinds -------------------------------------------------------------------------------------


@torch.no_grad()
def edited(engine: Engine, ids: list[int], edit: Callable[[Tensor], Tensor], n: int = 8) -> str:
    """Greedy tokens from whole passes, the residual after block 1 replaced by what `edit` makes of it."""
    so_far = list(ids)
    for _ in range(n):
        with change(engine.blocks, {POINT: lambda resid: edit(resid) - resid}):
            logits = engine.model(input_ids=torch.tensor([so_far]), use_cache=False).logits
        so_far.append(int(logits[0, -1].argmax()))
    return spelled(so_far[len(ids) :])


def test_rows_of_all_kinds_are_written_together_as_each_is_alone(writer: Engine) -> None:
    push, other = direction(writer), direction(writer, 1)
    u = push / push.norm()
    vectors = [
        of_kind("ablate", vector(writer, {POINT: push})),
        of_kind("clamp", vector(writer, {POINT: push})),
        vector(writer, {POINT: other}),
    ]
    edits: dict[tuple[float, float, float], Callable[[Tensor], Tensor]] = {
        (1.0, 0.0, 0.0): lambda resid: resid - (resid @ u)[..., None] * u,
        (0.0, -2.0, 0.0): lambda resid: resid - (resid @ u + 2 * push.norm())[..., None] * u,
        (0.5, 0.0, 1.0): lambda resid: resid + other - 0.5 * ((resid + other) @ u)[..., None] * u,
        (0.0, 0.0, 1.0): lambda resid: resid + other,
        (0.0, 0.0, 0.0): lambda resid: resid,
    }
    expected = [edited(writer, ids, edit) for ids in PROMPTS for edit in edits.values()]
    jobs = [Job("p", ids, alphas) for ids in PROMPTS for alphas in edits]
    assert texts(writer, jobs, vectors) == expected
    assert len(set(expected[:5])) > 2


def test_a_bias_of_tokens_acts_at_the_positions_steered(llama: Engine) -> None:
    plain = texts(llama, rows_of(PROMPTS), n=1)
    ids = torch.arange(D_VOCAB)
    urging = replace(vector(llama, {}), bias=TokenBias(ids, (ids % 7 == 3).float()))
    urging = of_kind("logits", urging)
    urged = texts(llama, rows_of(PROMPTS, 30.0), [urging], n=1)
    nucleus_has_one = [int(text.strip("<>")) % 7 == 3 for text in urged]
    assert all(nucleus_has_one) and urged != plain
    assert texts(llama, rows_of(PROMPTS, 30.0), [urging], n=1, positions="generated") == plain
    assert texts(llama, rows_of(PROMPTS, 30.0), [urging], n=1, positions="answer") == urged


def test_gates_let_tokens_of_their_own_rows_be_steered(writer: Engine) -> None:
    push, probe = direction(writer), direction(writer, 5)
    u = probe / probe.norm()
    steering = Steering({POINT: push, HookPoint(2, RESID_PRE): direction(writer, 1)})
    early = HookPoint(0)
    gate = Gate("x<0", {early: lambda resid: resid @ u}, 0.0, False, "mean")
    steerings = [steering.gated(gate), steering, Steering().gated(gate)]

    @torch.no_grad()
    def expected(ids: list[int], gated: bool) -> list[int]:
        so_far, is_open = list(ids), []

        def watched(resid: Tensor) -> None:
            is_open[:] = [(resid @ u < 0)[..., None].float() if gated else torch.ones(1)]

        changes = {
            point: lambda _resid, push=push: push * is_open[0] for point, push in steering.pushes.items()
        }
        for _ in range(8):
            with change(writer.blocks, {early: watched, **changes}):
                logits = writer.model(input_ids=torch.tensor([so_far]), use_cache=False).logits
            so_far.append(int(logits[0, -1].argmax()))
        return so_far[len(ids) :]

    written = []
    for ids in PROMPTS:
        several = [
            Continuation(
                ids=ids, key="", steering=each, config=GenerationConfig(sampling=GREEDY, max_new_tokens=8)
            )
            for each in steerings
        ]
        together = batch.Batch(writer)
        together.join(several)
        while len(together):
            together.step()
        written.append([one.written for one in several])
    for ids, (gated, steered, plain) in zip(PROMPTS, written, strict=True):
        assert gated == expected(ids, True)
        assert steered == expected(ids, False)
        assert plain == of_transformers(writer, ids)
    assert any(gated not in (steered, plain) for gated, steered, plain in written)


def passes(engine: Engine, layer: int, run: Callable[[], Any]) -> list[Tensor]:
    """The residuals after a block in each pass of the model."""
    seen: list[Tensor] = []
    handle = engine.blocks[layer].register_forward_hook(
        lambda _block, _args, out: seen.append((out[0] if isinstance(out, tuple) else out).clone())
    )
    run()
    handle.remove()
    return seen


@pytest.mark.parametrize("positions", ["all", "prompt", "generated"])
def test_pads_are_never_steered(writer: Engine, positions: str) -> None:
    """The last block is steered, where no attention follows that could carry the push on."""
    point = HookPoint(3)
    push = direction(writer, point=point)
    steering = [vector(writer, {point: push})]
    rows = rows_of([[7, 21, 3, 9], [99], [5, 6]], 0.5)
    prompt = torch.tensor([[1, 1, 1, 1], [0, 0, 0, 1], [0, 0, 1, 1]])[..., None]  # pads on the left
    plain = passes(writer, 3, lambda: texts(writer, rows_of([row.ids for row in rows]), n=2))
    into_norm: list[Tensor] = []  # a hook on the block would come before that of `add`
    handle = _final_norm(writer).register_forward_pre_hook(lambda _norm, args: into_norm.append(args[0]))
    texts(writer, rows, steering, n=2, positions=positions)
    handle.remove()
    expected = plain[0] if positions == "generated" else plain[0] + 0.5 * push * prompt
    assert torch.equal(into_norm[0], expected)
    assert into_norm[1].shape == (3, 1, D_MODEL)


def _final_norm(engine: Engine) -> Any:
    names = ("model.norm", "transformer.ln_f", "gpt_neox.final_layer_norm")
    return next(module for name, module in engine.model.named_modules() if name in names)


def test_an_unknown_way_is_refused() -> None:
    message = "^--positions must be one of all, prompt, .* first:N or after:N, got 'last'$"
    with pytest.raises(InputError, match=message):
        GenerationConfig(positions="last")  # type: ignore[arg-type]


# --- several vectors ---------------------------------------------------------------------------


def test_two_vectors_are_their_weighted_sum(writer: Engine) -> None:
    first, second = direction(writer, 0), direction(writer, 1)
    both = [vector(writer, {POINT: first}), vector(writer, {POINT: second})]
    total = [vector(writer, {POINT: 0.75 * first - 0.5 * second})]
    added = texts(writer, rows_of(PROMPTS, 0.75, -0.5), both)
    assert added == texts(writer, rows_of(PROMPTS, 1.0), total)
    assert added != texts(writer, rows_of(PROMPTS, 0.75, 0.0), both)


def test_vectors_of_different_hook_points_both_push(llama: Engine) -> None:
    other = HookPoint(0)
    first, second = direction(llama, 0), direction(llama, 1, other)
    apart = [vector(llama, {POINT: first}), vector(llama, {other: second})]
    together = [vector(llama, {POINT: first, other: second})]
    expected = texts(llama, rows_of(PROMPTS, 0.5), together)
    assert texts(llama, rows_of(PROMPTS, 0.5, 0.5), apart) == expected


def test_a_vector_and_its_opposite_cancel(llama: Engine) -> None:
    push = direction(llama)
    both = [vector(llama, {POINT: push}), vector(llama, {POINT: push})]
    assert texts(llama, rows_of(PROMPTS, 2.0, -2.0), both) == texts(llama, rows_of(PROMPTS))


# --- sampling ----------------------------------------------------------------------------------

WARM = Sampling(temperature=1.0, top_p=0.95, seed=3)


def test_alpha_0_is_no_vector_exactly(writer: Engine) -> None:
    steering = [vector(writer, {POINT: direction(writer)})]
    plain = texts(writer, rows_of(PROMPTS), sampling=WARM)
    assert texts(writer, rows_of(PROMPTS, 0.0), steering, sampling=WARM) == plain
    mixed = rows_of(PROMPTS, 0.0) + rows_of(PROMPTS, 1.0)
    assert texts(writer, mixed, steering, sampling=WARM)[: len(PROMPTS)] == plain


def test_with_every_alpha_0_no_hook_is_set(llama: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def watched(blocks: Any, changes: Any) -> Any:
        asked.append(changes)
        return change(blocks, changes)

    monkeypatch.setattr(rows_module, "change", watched)
    texts(llama, rows_of(PROMPTS, 0.0), [vector(llama, {POINT: direction(llama)})], n=3)
    assert asked == [{}, {}, {}]


def test_alphas_of_one_prompt_draw_the_same_noise(writer: Engine) -> None:
    steering = [vector(writer, {POINT: direction(writer)})]
    rows = [Job("p", PROMPTS[0], (alpha,)) for alpha in (0.0, 1e-9, -1e-9, 1.0)]
    plain, *tiny, strong = texts(writer, rows, steering, sampling=WARM)
    assert tiny == [plain, plain]
    assert strong != plain


@pytest.fixture(scope="module")
def company(llama: Engine) -> tuple[list[Job], list[SteeringVector]]:
    """Three prompts at two alphas, twice each."""
    rows = [
        Job(spelled(ids), ids, (alpha,), sample)
        for ids in PROMPTS[:3]
        for alpha in (0.0, 0.5)
        for sample in (0, 1)
    ]
    return rows, [vector(llama, {POINT: direction(llama)})]


def test_a_rows_text_does_not_depend_on_batch_size_order_or_company(
    llama: Engine, company: tuple[list[Job], list[SteeringVector]]
) -> None:
    rows, steering = company
    expected = dict(zip(rows_keys(rows), texts(llama, rows, steering, sampling=WARM), strict=True))
    for batch_size in (1, 5):
        found = texts(llama, rows, steering, sampling=WARM, batch_size=batch_size)
        assert found == list(expected.values())
    for others in (rows[::-1], rows[3:4], rows[1::3], rows[::-2]):
        found = texts(llama, others, steering, sampling=WARM)
        assert found == [expected[key] for key in rows_keys(others)]


def rows_keys(rows: Sequence[Job]) -> list[tuple[str, tuple[float, ...], int]]:
    return [(row.key, row.alphas, row.sample) for row in rows]


@pytest.mark.parametrize("penalty", [1.0, 1.5])
def test_a_rows_text_does_not_depend_on_when_others_end(llama: Engine, penalty: float) -> None:
    rows = [Job("p", ids, (alpha,)) for ids, alpha in zip(PROMPTS, ALPHAS, strict=True)]
    steering = [vector(llama, {POINT: direction(llama)})]
    options = {"sampling": replace(WARM, repetition_penalty=penalty), "n": 20}
    expected = texts(llama, rows, steering, **options)
    first = int(expected[0][1:].split(">")[0])
    stopping = replace(llama, stop_ids=frozenset({first, int(expected[2].split("><")[3])}))
    found = written(stopping, rows, steering, **options)
    assert (found[0].text, found[0].finish_reason) == ("", "stop")
    for whole, got in zip(expected, found, strict=True):
        tokens = [int(token) for token in whole[1:-1].split("><")]
        ends = next((i for i, t in enumerate(tokens) if t in stopping.stop_ids), 20)
        assert got == Completion(spelled(tokens[:ends]), ends, "stop" if ends < 20 else "length")


def test_the_samples_of_a_prompt_differ_and_so_do_seeds(llama: Engine) -> None:
    rows = [Job("p", PROMPTS[0], (), sample) for sample in range(4)]
    samples = texts(llama, rows, sampling=WARM)
    assert len(set(samples)) == 4
    other_seed = texts(llama, rows, sampling=replace(WARM, seed=4))
    assert not set(samples) & set(other_seed)
    assert texts(llama, rows, sampling=WARM) == samples


# --- ends --------------------------------------------------------------------------------------


def test_a_text_ends_at_a_stop_token_which_is_not_part_of_it(llama: Engine) -> None:
    tokens = of_transformers(llama, PROMPTS[0])
    ends = next(i for i in range(1, 8) if tokens[i] not in tokens[:i])
    stopping = replace(llama, stop_ids=frozenset({tokens[ends]}))
    (found,) = written(stopping, rows_of(PROMPTS[:1]))
    assert found == Completion(spelled(tokens[:ends]), ends, "stop")


def test_a_text_ends_at_max_new_tokens(llama: Engine) -> None:
    tokens = of_transformers(llama, PROMPTS[0])
    (found,) = written(llama, rows_of(PROMPTS[:1]), n=5)
    assert found == Completion(spelled(tokens[:5]), 5, "length")


def test_a_text_that_ends_at_its_last_token_allowed_was_stopped(llama: Engine) -> None:
    tokens = of_transformers(llama, PROMPTS[0])
    ends = next(i for i in range(1, 8) if tokens[i] not in tokens[:i])
    stopping = replace(llama, stop_ids=frozenset({tokens[ends]}))
    (found,) = written(stopping, rows_of(PROMPTS[:1]), n=ends + 1)
    assert found.finish_reason == "stop"


def test_prompt_and_continuation_must_fit_into_the_context(llama: Engine) -> None:
    assert len(written(llama, rows_of([[1] * 120]), n=8)[0].text.split("><")) == 8
    message = (
        "^prompt of 120 tokens and 9 new ones exceed the model's context of 128: "
        f"'{spelled([1] * 120)[:40]}'; shorten it$"
    )
    with pytest.raises(InputError, match=message):
        written(llama, rows_of([[2], [1] * 120]), n=9)


@pytest.mark.parametrize("alphas", [(), (1.0, 2.0), (float("nan"),), (float("inf"),)])
def test_each_vector_needs_a_finite_alpha(llama: Engine, alphas: tuple[float, ...]) -> None:
    message = r"^alphas \(.*\) for 1 vectors: one finite number each$"
    with pytest.raises(InputError, match=message):
        written(llama, rows_of(PROMPTS, *alphas), [vector(llama, {POINT: torch.ones(D_MODEL)})])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"max_new_tokens": -1}, "--max-new-tokens must be at least 0, got -1"),
        ({"batch_size": 0}, "--batch-size must be at least 1, got 0"),
    ],
)
def test_no_row_and_fewer_than_no_tokens_are_refused(values: dict[str, int], said: str) -> None:
    with pytest.raises(InputError, match=f"^{said}$"):
        GenerationConfig(**values)  # type: ignore[arg-type]


# --- batches and streaming ---------------------------------------------------------------------


def test_no_rows_write_nothing(llama: Engine) -> None:
    assert written(llama, []) == []


def prefills(engine: Engine, rows: Sequence[Job], **options: Any) -> list[tuple[int, int]]:
    """(rows, tokens) of each batch."""
    shapes = [seen.shape for seen in passes(engine, 0, lambda: texts(engine, rows, n=1, **options))]
    return [(shape[0], shape[1]) for shape in shapes]


def test_batches_follow_the_order_of_the_rows(llama: Engine) -> None:
    found = prefills(llama, rows_of([[1], [1, 2], [1, 2, 3], [1], [1]]), batch_size=2)
    assert found == [(2, 2), (2, 3), (1, 1)]


def test_batches_are_bounded_in_tokens(llama: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "TOKENS_IN_CACHE", 12)
    # with one new token each: 3 x 4 = 12 fit; a fourth of 4 would not; 30 alone is let through
    rows = rows_of([[1, 2, 3], [1], [2], [1, 2, 3], [1] * 30, [1]])
    assert prefills(llama, rows) == [(3, 3), (1, 3), (1, 30), (1, 1)]


def test_a_batch_is_filled_again_as_rows_end_and_says_the_same(llama: Engine) -> None:
    rows = [Job(str(n), PROMPTS[n % 3]) for n in range(24)]
    stopping = replace(llama, stop_ids=frozenset(range(0, D_VOCAB, 8)))  # some end at once, some late
    alone = [written(stopping, [row], sampling=WARM, n=20)[0] for row in rows]
    assert len({one.n_tokens for one in alone}) > 6
    sizes = [
        len(resid)
        for resid in passes(
            stopping,
            0,
            lambda: written(stopping, rows, sampling=WARM, n=20, batch_size=4) == alone or pytest.fail(),
        )
    ]
    assert max(sizes) == 4
    slices = [rows[i : i + 4] for i in range(0, len(rows), 4)]
    static = passes(
        stopping, 0, lambda: [written(stopping, some, sampling=WARM, n=20, batch_size=4) for some in slices]
    )
    assert len(sizes) < len(static)


def test_finished_rows_leave_the_batch(llama: Engine) -> None:
    first = int(texts(llama, rows_of(PROMPTS[:1]), n=1)[0][1:-1])
    stopping = replace(llama, stop_ids=frozenset({first}))
    others = [ids for ids in PROMPTS[1:] if of_transformers(llama, ids, 1) != [first]]
    seen = passes(llama, 0, lambda: texts(stopping, rows_of([PROMPTS[0], *others]), n=2))
    assert [len(resid) for resid in seen] == [1 + len(others), len(others)]


def test_rows_are_yielded_as_soon_as_they_are_finished(llama: Engine) -> None:
    tokens = [of_transformers(llama, ids) for ids in PROMPTS[:2]]
    ends = next(i for i in range(8) if tokens[1][i] not in tokens[1][:i] + tokens[0])
    stopping = replace(llama, stop_ids=frozenset({tokens[1][ends]}))
    settings = GenerationConfig(sampling=GREEDY, max_new_tokens=8)
    order = [index for index, _ in generate(stopping, rows_of(PROMPTS[:2]), (), settings)]
    assert order == [1, 0]


def test_what_is_streamed_is_the_text(engine: Engine) -> None:
    heard: dict[int, str] = {0: "", 1: "", 2: ""}

    def on_text(row: int, text: str) -> None:
        assert row in heard
        heard[row] += text

    rows = [Job(text, engine.prompt_ids(text)) for text in ("to be", "or not", "to é")]
    settings = GenerationConfig(sampling=replace(WARM, top_p=1.0), max_new_tokens=30, batch_size=2)
    found = dict(generate(engine, rows, (), settings, on_text=on_text))
    assert heard == {index: one.text for index, one in found.items()}
    assert any("\ufffd" in text for text in heard.values())  # bytes that make no character


def test_half_a_character_at_the_end_is_streamed_too(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    script = iter([*engine.prompt_ids("a€")[:2], 257])  # the first of three bytes, then the end
    monkeypatch.setattr(batch, "choose", lambda *_: torch.tensor([next(script)]))
    heard: list[str] = []
    rows = [Job("p", engine.prompt_ids("to be"))]
    ((_, found),) = generate(engine, rows, on_text=lambda _row, text: heard.append(text))
    assert (found.text, found.finish_reason) == ("a\ufffd", "stop")
    assert "".join(heard) == found.text


def test_a_block_that_text_does_not_run_is_named(tmp_path: Path) -> None:
    engine = load(save_family(tmp_path / "mllama", "mllama", "MllamaForConditionalGeneration"))
    vector = tiny_vector(engine.shape, {HookPoint(2): torch.ones(engine.d_model)})
    job = Job("to be", engine.prompt_ids("to be"), (8.0,))
    with pytest.raises(InputError) as caught:
        list(generate(engine, [job], [vector], GenerationConfig(max_new_tokens=2)))
    assert str(caught.value) == (
        "blocks.2.hook_resid_post: the model does not run this block for text alone; name another"
    )
