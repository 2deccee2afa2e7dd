"""In whatever a family remembers what it has read: a text in a batch is what whole passes give."""

import json
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from support.families import D_VOCAB, SPECIAL, save_family
from torch import Tensor

from neurosteer_cli.generation.batching import batch as batch_module
from neurosteer_cli.generation.batching.batch import Batch
from neurosteer_cli.generation.batching.cache import Caching
from neurosteer_cli.generation.batching.pace import Pace
from neurosteer_cli.generation.continuation import Continuation, GenerationConfig, Positions
from neurosteer_cli.generation.sampling import Sampling
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint, add
from neurosteer_cli.vectors.steering import NOTHING, Steering

POINT = HookPoint(1)
# prompt's tokens, tokens to write, what is steered; the last three join when the others are being written
TEXTS: list[tuple[int, int, Positions | None]] = [
    (21, 9, "all"), (3, 12, None), (9, 5, "generated"), (9, 1, "all"), (1, 7, "prompt"),
    (40, 6, "all"), (3, 4, "prompt"), (2, 8, "all"),
]  # fmt: skip
N_FIRST = 5

# family: (class, pads, rows join, prompts in slices, one text after another)
FAMILIES = {
    "llama4_text": ("Llama4ForCausalLM", True, True, True, False),
    "deepseek_v2": ("DeepseekV2ForCausalLM", True, True, True, False),
    "gemma3n_text": ("Gemma3nForCausalLM", True, True, True, False),
    "gemma4_text": ("Gemma4ForCausalLM", True, True, True, False),
    "qwen3_next": ("Qwen3NextForCausalLM", False, True, True, False),
    "qwen3_5_text": ("Qwen3_5ForCausalLM", False, True, True, False),
    "granitemoehybrid": ("GraniteMoeHybridForCausalLM", False, True, True, False),
    "falcon_h1": ("FalconH1ForCausalLM", False, True, True, False),
    "nemotron_h": ("NemotronHForCausalLM", False, True, True, False),
    "bamba": ("BambaForCausalLM", False, True, True, False),
    "lfm2_moe": ("Lfm2MoeForCausalLM", False, True, True, False),
    "lfm3": ("Lfm3ForCausalLM", False, True, True, False),
    "zamba2": ("Zamba2ForCausalLM", False, True, True, False),
    "olmo_hybrid": ("OlmoHybridForCausalLM", False, True, True, False),
    "lara_mini": ("LaraMiniForCausalLM", False, True, True, False),
    "inkling_text": ("InklingForCausalLM", False, True, True, False),
    "mamba2": ("Mamba2ForCausalLM", False, True, True, False),
    "mamba": ("MambaForCausalLM", False, True, False, False),
    "falcon_mamba": ("FalconMambaForCausalLM", False, True, False, False),
    "jamba": ("JambaForCausalLM", False, True, False, False),
    "deepseek_v32": ("DeepseekV32ForCausalLM", False, False, False, False),
    "deepseek_v4": ("DeepseekV4ForCausalLM", False, False, False, False),
    "recurrent_gemma": ("RecurrentGemmaForCausalLM", False, False, False, True),
    "minimax": ("MiniMaxForCausalLM", False, False, False, True),
    "rwkv": ("RwkvForCausalLM", False, False, False, True),
    "xlstm": ("xLSTMForCausalLM", False, False, False, True),
    "openai-gpt": ("OpenAIGPTLMHeadModel", False, False, False, True),
}


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Engine]:
    @cache
    def engine(family: str) -> Engine:
        folder = save_family(tmp_path_factory.mktemp("families") / family, family, FAMILIES[family][0])
        return Engine.load(str(folder), device="cpu", dtype="float32")

    return engine


@pytest.fixture(params=FAMILIES)
def engine(request: pytest.FixtureRequest, engines: Callable[[str], Engine]) -> Engine:
    return engines(request.param)


def push(engine: Engine) -> Tensor:
    """A push [d_model] that changes what is written."""
    return 3 * torch.randn(engine.d_model, generator=torch.Generator().manual_seed(1))


def continuations(engine: Engine) -> list[Continuation]:
    draw = random.Random(7)
    return [
        Continuation(
            ids=[draw.randrange(D_VOCAB - 60) for _ in range(length)],
            key=str(number),
            steering=Steering({POINT: push(engine)} if positions else {}),
            config=GenerationConfig(
                sampling=Sampling(temperature=0), max_new_tokens=n, positions=positions or "all"
            ),
        )
        for number, (length, n, positions) in enumerate(TEXTS)
    ]


@torch.no_grad()
def by_whole_passes(engine: Engine, one: Continuation) -> list[int]:
    """Greedy tokens from passes over all tokens, the push added where its positions say."""
    ids, n = list(one.ids), len(one.ids)
    for _ in range(one.config.max_new_tokens):
        steered = torch.zeros(len(ids), 1)
        steered[:n] = one.config.positions != "generated"
        steered[n:] = one.config.positions != "prompt"
        pushes = {point: (each * steered)[None] for point, each in one.steering.pushes.items()}
        with add(engine.blocks, pushes):
            logits = engine.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
        if (token := int(logits.argmax())) in engine.stop_ids:
            break
        ids.append(token)
    return ids[n:]


def written(engine: Engine, *, in_slices: bool) -> list[Continuation]:
    everyone = continuations(engine)
    batch = Batch(engine, pace=Pace() if in_slices else None)
    batch.join(everyone[:N_FIRST])
    for _ in range(3):
        batch.step()
    batch.join(everyone[N_FIRST:])
    while len(batch):
        batch.step()
    return everyone


@pytest.mark.parametrize("in_slices", [False, True], ids=["whole", "in slices"])
def test_a_text_in_a_batch_is_what_whole_passes_give(
    engine: Engine, in_slices: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(3)
    monkeypatch.setattr(batch_module, "SLICE_ALONE", 10)
    monkeypatch.setattr(Pace, "next_slice", lambda *_: draw.randrange(1, 12))
    for one in written(engine, in_slices=in_slices):
        assert one.written == by_whole_passes(engine, one), one.key


@pytest.mark.parametrize("family", FAMILIES)
def test_what_may_be_done_with_a_cache_is_found_out(engines: Callable[[str], Engine], family: str) -> None:
    _, *expected = FAMILIES[family]
    caching = Caching(engines(family))
    assert [caching.can_pad, caching.can_join, caching.can_slice, caching.one_by_one] == expected


def check_long_text(folder: Path) -> None:
    """An unsteered text over a window of 16 must be what whole passes give."""
    engine = Engine.load(str(folder), device="cpu", dtype="float32")
    ids = random.Random(7).choices(range(D_VOCAB - 60), k=24)
    config = GenerationConfig(sampling=Sampling(temperature=0), max_new_tokens=12)
    unsteered = Continuation(ids=ids, key="", steering=NOTHING, config=config)
    batch = Batch(engine)
    batch.join([unsteered])
    while len(batch):
        batch.step()
    assert unsteered.written == by_whole_passes(engine, unsteered)


@pytest.mark.parametrize("window", [4, 16])
def test_a_window_in_a_models_own_cache_goes_wrong_only_beyond_it(
    window: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MiniMax's mask is as long as what the first block remembers, which is nothing if that is recurrent."""
    kinds = ["linear_attention", "full_attention"] * 2
    monkeypatch.setitem(SPECIAL, "minimax", {"layer_types": kinds, "sliding_window": window})
    check_long_text(save_family(tmp_path, "minimax", "MiniMaxForCausalLM"))


@pytest.mark.parametrize(
    ("family", "class_name"),
    [
        ("llama", "LlamaForCausalLM"),
        ("qwen3_vl_moe", "Qwen3VLMoeForConditionalGeneration"),
        ("qwen3_omni_moe_thinker", "Qwen3OmniMoeThinkerForConditionalGeneration"),
    ],
)
@pytest.mark.parametrize("name", ["sliding_window", "attention_chunk_size"])
def test_a_window_that_the_models_code_does_not_know_hides_nothing(
    family: str, class_name: str, name: str, tmp_path: Path
) -> None:
    """A Mistral that was saved as a Llama keeps the window in its configuration."""
    folder = save_family(tmp_path, family, class_name)
    config = json.loads((folder / "config.json").read_text())
    config.get("text_config", config)[name] = 16
    (folder / "config.json").write_text(json.dumps(config))
    check_long_text(folder)


def test_the_head_is_given_rows_that_lie_side_by_side(
    engines: Callable[[str], Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of others torch copies the weights for each row, which takes longer than all the rest."""
    engine, strides = engines("llama4_text"), set[bool]()
    head = engine.model.get_output_embeddings()
    forward = type(head).forward

    def watched(x: Tensor) -> Tensor:
        strides.add(x.stride() == torch.empty(x.shape).stride())
        return forward(head, x)

    monkeypatch.setattr(head, "forward", watched)
    written(engine, in_slices=False)
    assert strides == {True}
