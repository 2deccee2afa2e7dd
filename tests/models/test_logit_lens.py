"""The tokens a direction promotes are those that the final norm and the head raise most."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from support.engines import load
from support.families import save_family
from support.tiny import D_MODEL, FAMILIES, tiny_model, tiny_tokenizer

from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import HookPoint
from neurosteer_cli.models.logit_lens import promoted_tokens

FINAL_NORMS = {"gpt2": "transformer.ln_f", "gpt_neox": "gpt_neox.final_layer_norm"}


class TokenNumbers:
    """A tokenizer that spells each token as its number, so that a text says which tokens it has."""

    def __len__(self) -> int:
        return 258

    def decode(self, ids: Sequence[int], **_options: Any) -> str:
        return "".join(f"<{i}>" for i in ids)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_block_and_the_head_give_the_same_promoted_tokens(
    folders: Callable[[str], Path], engines: Callable[[str], Engine], family: str
) -> None:
    part = load(folders(family), points=[HookPoint(0)])
    assert len(part.blocks) == 1
    directions = torch.randn(5, D_MODEL, generator=torch.Generator().manual_seed(7))
    assert promoted_tokens(part, directions, 4) == promoted_tokens(engines(family), directions, 4)


# --- promoted tokens ---------------------------------------------------------------------------


@pytest.fixture(params=FAMILIES)
def promoting(request: pytest.FixtureRequest, engines: Callable[[str], Engine]) -> tuple[Engine, Any]:
    """An engine whose texts are token numbers, and its final norm."""
    engine = engines(request.param)
    norm = engine.model.get_submodule(FINAL_NORMS.get(request.param, "model.norm"))
    return replace(engine, tokenizer=TokenNumbers()), norm


@torch.no_grad()
def test_promoted_tokens_are_those_the_final_norm_and_the_head_raise_most(
    promoting: tuple[Engine, Any],
) -> None:
    engine, norm = promoting
    directions = torch.randn(6, D_MODEL, generator=torch.Generator().manual_seed(8))
    # the norm's own bias stands at every token, whatever the direction
    change = norm(directions) - norm(torch.zeros(D_MODEL))
    logits = change @ engine.model.get_output_embeddings().weight.T  # [6, d_vocab]
    falling = logits[:, :258].argsort(-1, descending=True).tolist()
    expected = [([f"<{i}>" for i in row[:3]], [f"<{i}>" for i in row[:-4:-1]]) for row in falling]
    assert promoted_tokens(engine, directions, 3) == expected


def test_the_length_of_a_direction_does_not_matter_and_its_sign_swaps_the_two(
    promoting: tuple[Engine, Any],
) -> None:
    engine, _ = promoting
    directions = torch.randn(6, D_MODEL, generator=torch.Generator().manual_seed(9))
    found = promoted_tokens(engine, directions, 3)
    assert promoted_tokens(engine, 100 * directions, 3) == found
    assert promoted_tokens(engine, -directions, 3) == [(down, up) for up, down in found]


def test_tokens_that_the_tokenizer_does_not_have_are_never_promoted(engine: Engine) -> None:
    numbered = replace(engine, tokenizer=TokenNumbers())
    beyond = tiny_model("llama").get_output_embeddings().weight[299:].detach()
    (up, down), = promoted_tokens(numbered, beyond, 258)  # fmt: skip
    assert set(up) == set(down) == {f"<{i}>" for i in range(258)}


# --- families that do something of their own after the last block -----------------------------------

# where a block's output has the residual's several streams, and its class
OWN_ENDS = {
    "qwen3_next": (None, "Qwen3NextForCausalLM"),  # gains are 1 + w
    "qwen3_5_text": (None, "Qwen3_5ForCausalLM"),
    "nemotron": (None, "NemotronForCausalLM"),
    "minimax_m3_vl_text": (None, "MiniMaxM3VLForCausalLM"),
    "gemma4_text": (None, "Gemma4ForCausalLM"),  # gains are w
    "cohere": (None, "CohereForCausalLM"),  # LayerNorms of classes of their own
    "cohere2": (None, "Cohere2ForCausalLM"),
    "olmo": (None, "OlmoForCausalLM"),  # without weights
    "opt": (None, "OPTForCausalLM"),
    "gpt_neox_japanese": (None, "GPTNeoXJapaneseForCausalLM"),
    "granitemoehybrid": (None, "GraniteMoeHybridForCausalLM"),
    "falcon_mamba": (None, "FalconMambaForCausalLM"),
    "gemma3n_text": (0, "Gemma3nForCausalLM"),  # several streams become one
    "deepseek_v4": (2, "DeepseekV4ForCausalLM"),
    "qwen3_vl": (None, "Qwen3VLForConditionalGeneration"),
}


def lens_by_hand(engine: Engine, directions: torch.Tensor, streams: int | None) -> torch.Tensor:
    """Logits of the whole model with the last block's output replaced, less those with its opposite."""

    def replaced(sign: int) -> torch.Tensor:
        resid = sign * 1e4 * directions / directions.norm(dim=-1, keepdim=True)

        def put(_block: Any, _args: Any, output: Any) -> Any:
            whole = output if isinstance(output, torch.Tensor) else output[0]
            own = resid[:, None] if streams is None else resid[:, None].unsqueeze(streams)
            new = own.expand_as(whole).clone()
            return new if isinstance(output, torch.Tensor) else type(output)([new, *output[1:]])

        handle = engine.blocks[-1].register_forward_hook(put)
        ids = torch.full((len(directions), 1), 7)
        logits: torch.Tensor = engine.model(input_ids=ids, use_cache=False).logits[:, -1]
        handle.remove()
        return logits

    return replaced(1) - replaced(-1)


@torch.no_grad()
@pytest.mark.parametrize("family", OWN_ENDS)
def test_whatever_follows_the_last_block_is_run(tmp_path: Path, family: str) -> None:
    streams, class_name = OWN_ENDS[family]
    engine = replace(load(save_family(tmp_path / family, family, class_name)), tokenizer=TokenNumbers())
    inside = {*engine.blocks.parameters(), *engine.model.get_output_embeddings().parameters()}
    generator = torch.Generator().manual_seed(3)
    for parameter in engine.model.parameters():
        if parameter.dim() == 1 and parameter not in inside:  # gains of all signs and sizes
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    directions = torch.randn(6, engine.d_model, generator=generator)
    falling = lens_by_hand(engine, directions, streams)[:, :258].argsort(-1, descending=True).tolist()
    expected = [([f"<{i}>" for i in row[:5]], [f"<{i}>" for i in row[:-6:-1]]) for row in falling]
    assert promoted_tokens(engine, directions, 5) == expected
    assert len(engine.blocks) == engine.shape.n_layers


@torch.no_grad()
def test_a_head_narrower_than_the_residual_is_reached_through_its_projection(tmp_path: Path) -> None:
    config = transformers.OPTConfig(
        vocab_size=300, hidden_size=32, word_embed_proj_dim=16, ffn_dim=48, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=64, do_layer_norm_before=False,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.OPTForCausalLM(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    engine = replace(load(tmp_path), tokenizer=TokenNumbers())
    directions = torch.randn(4, 32, generator=torch.Generator().manual_seed(5))
    falling = lens_by_hand(engine, directions, None)[:, :258].argsort(-1, descending=True).tolist()
    found = promoted_tokens(engine, directions, 5)
    assert [up for up, _ in found] == [[f"<{i}>" for i in row[:5]] for row in falling]


def test_a_model_of_few_bits_is_measured_in_more(tmp_path: Path) -> None:
    folder = save_family(tmp_path / "qwen3_next", "qwen3_next", "Qwen3NextForCausalLM")
    exact = replace(load(folder, dtype="bfloat16"), tokenizer=TokenNumbers())
    before = {name: (p.dtype, p.clone()) for name, p in exact.model.named_parameters()}
    directions = torch.randn(8, exact.d_model, generator=torch.Generator().manual_seed(5))
    found = promoted_tokens(exact, directions, 5)
    for name, parameter in exact.model.named_parameters():
        assert parameter.dtype == before[name][0] and torch.equal(parameter, before[name][1])
    wide = replace(exact, model=exact.model.float())  # the same values in more bits
    assert found == promoted_tokens(wide, directions, 5)
