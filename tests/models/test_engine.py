"""The engine: what is known of a model, and residuals."""

from pathlib import Path

import pytest
import torch
from support.engines import TEXTS, by_text, load, passage
from support.families import save_family
from support.tiny import CONTEXT, N_LAYERS

from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import RESID_PRE, HookPoint
from neurosteer_cli.models.tokenizer import Tokens

# --- what is known of a model -------------------------------------------------------------------


def test_a_model_is_described_by_its_configuration(whole: Engine) -> None:
    assert (whole.shape.d_model, whole.shape.n_layers, whole.shape.d_vocab) == (16, 4, 300)
    assert whole.shape.architecture == type(whole.model).__name__
    assert whole.max_tokens == CONTEXT
    assert whole.stop_ids == {257}
    assert not any(parameter.requires_grad for parameter in whole.model.parameters())
    assert not whole.model.training


def test_layer_norm_is_told_from_rms_norm(whole: Engine) -> None:
    with_layer_norm = {"GPT2LMHeadModel", "GPTNeoXForCausalLM"}
    assert whole.uses_layer_norm == (whole.shape.architecture in with_layer_norm)


@pytest.mark.parametrize(
    ("family", "class_name", "expected"),
    [
        ("cohere", "CohereForCausalLM", True),  # classes of their own
        ("olmo", "OlmoForCausalLM", True),
        ("bloom", "BloomForCausalLM", True),
        ("phi", "PhiForCausalLM", True),
        ("mpt", "MptForCausalLM", True),
        ("nemotron", "NemotronForCausalLM", True),
        ("chameleon", "ChameleonForConditionalGeneration", False),  # LayerNorms of queries and keys alone
        ("deepseek_v32", "DeepseekV32ForCausalLM", False),
        ("gemma3n_text", "Gemma3nForCausalLM", False),
        ("mamba", "MambaForCausalLM", False),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_layer_norms_are_told_by_what_they_do(
    tmp_path: Path, family: str, class_name: str, expected: bool, dtype: str
) -> None:
    engine = load(save_family(tmp_path / family, family, class_name), dtype=dtype, points=[HookPoint(0)])
    assert engine.uses_layer_norm == expected


def test_a_local_model_is_named_by_its_whole_path(tiny_folder: Path, engine: Engine) -> None:
    assert engine.model_id == str(tiny_folder.resolve())
    assert str(tiny_folder) in engine.model_names


# --- residuals ---------------------------------------------------------------------------------


def test_residuals_do_not_depend_on_the_batch_they_are_taken_in(whole: Engine) -> None:
    texts = [whole.tokenize(passage(text)) for text in TEXTS]
    points = [HookPoint(0, RESID_PRE), HookPoint(N_LAYERS - 1)]
    alone = by_text(whole, texts, points, tokens_per_batch=1)
    for tokens_per_batch in (45, 100, 10_000):
        together = by_text(whole, texts, points, tokens_per_batch)
        assert together.keys() == alone.keys()
        for text, resid in together.items():
            for point in points:
                torch.testing.assert_close(resid[point], alone[text][point], rtol=1e-5, atol=1e-5)


def test_residuals_are_those_of_the_counted_tokens_in_order(whole: Engine) -> None:
    texts = [whole.tokenize(passage("cd efg", prompt="ab ")), whole.tokenize(passage("xyz"))]
    found = by_text(whole, texts, [HookPoint(1)])
    for text, kept in ((0, slice(3, 9)), (1, slice(1, 3))):
        with torch.no_grad():
            states = whole.model(
                input_ids=torch.tensor([texts[text].ids]), output_hidden_states=True
            ).hidden_states
        expected = states[2][0, kept]
        torch.testing.assert_close(found[text][HookPoint(1)], expected, rtol=1e-5, atol=1e-5)


def test_batches_hold_no_more_tokens_than_asked_for_pads_counted(engine: Engine) -> None:
    texts = [Tokens([1] * n, [False] + [True] * (n - 1)) for n in (9, 2, 5, 4, 2, 20)]
    batches = [batch.ids.shape for batch in engine.residuals(texts, [HookPoint(0)], 10)]
    # sorted: 2 2 | 4 5 fit with 2 x 5 = 10 | 9 | 20 alone, though it is more than 10
    assert [tuple(shape) for shape in batches] == [(2, 2), (2, 5), (1, 9), (1, 20)]


def test_texts_without_a_counted_token_are_left_out(engine: Engine) -> None:
    texts = [Tokens([1], [False]), Tokens([1, 2], [False, True]), Tokens([3, 4], [False, False])]
    assert [batch.texts for batch in engine.residuals(texts, [HookPoint(0)])] == [[1]]
    assert list(engine.residuals(texts[:1], [HookPoint(0)])) == []


def test_a_batch_says_where_each_residual_comes_from(engine: Engine) -> None:
    texts = [engine.tokenize(passage("long one")), engine.tokenize(passage("ab"))]
    (batch,) = engine.residuals(texts, [HookPoint(2)])
    assert batch.texts == [1, 0]
    assert batch.text_index.tolist() == [0] + [1] * 7
    assert batch.places.tolist() == [[0, 1]] + [[1, position] for position in range(1, 8)]
    assert batch.ids.tolist() == [[*texts[1].ids, *[-1] * 6], texts[0].ids]
    assert batch.resid[HookPoint(2)].dtype == torch.float32


def test_residuals_of_a_half_precision_model_are_float32(tiny_folder: Path) -> None:
    half = load(tiny_folder, dtype="bfloat16", points=[HookPoint(0)], head=False)
    (batch,) = half.residuals([half.tokenize(passage("ab"))], [HookPoint(0)])
    assert batch.resid[HookPoint(0)].dtype == torch.float32
