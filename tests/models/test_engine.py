"""The engine: which tokens count, chats and prompts, residuals, continuations."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.engines import TEXTS, by_text, load, passage
from support.tiny import CONTEXT, N_LAYERS, tiny_tokenizer

from neurosteer_cli.data.records import Passage
from neurosteer_cli.errors import InputError
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.hooks import RESID_PRE, HookPoint
from neurosteer_cli.models.tokenizer import Tokens


def counted(engine: Engine, text: Passage) -> str:
    """The tokens that count, as text."""
    tokens = engine.tokenize(text)
    kept = [token for token, counts in zip(tokens.ids, tokens.counts, strict=True) if counts]
    return str(engine.tokenizer.decode(kept))


# --- what is known of a model -------------------------------------------------------------------


def test_a_model_is_described_by_its_configuration(whole: Engine) -> None:
    assert (whole.shape.d_model, whole.shape.n_layers, whole.shape.d_vocab) == (16, 4, 300)
    assert whole.shape.architecture == type(whole.model).__name__
    assert whole.max_tokens == CONTEXT
    assert whole.stop_ids == {256, 257}
    assert not any(parameter.requires_grad for parameter in whole.model.parameters())
    assert not whole.model.training


def test_layer_norm_is_told_from_rms_norm(whole: Engine) -> None:
    with_layer_norm = {"GPT2LMHeadModel", "GPTNeoXForCausalLM"}
    assert whole.uses_layer_norm == (whole.shape.architecture in with_layer_norm)


def test_a_local_model_is_named_by_its_whole_path(tiny_folder: Path, engine: Engine) -> None:
    assert engine.model_id == str(tiny_folder.resolve())
    assert str(tiny_folder) in engine.model_names


def test_tokens_that_the_checkpoint_says_end_a_text_stop_it(copied: Path) -> None:
    (copied / "generation_config.json").write_text(json.dumps({"eos_token_id": [10, 257]}))
    assert load(copied, points=[]).stop_ids == {10, 256, 257}
    (copied / "generation_config.json").unlink()
    assert load(copied, points=[]).stop_ids == {256, 257}


# --- which tokens count ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_bos(engine: Engine) -> Engine:
    return replace(engine, tokenizer=tiny_tokenizer(bos=True))


def chat(*turns: tuple[str, str]) -> dict[str, Any]:
    """The text and messages of a chat, as `records` reads them."""
    messages = tuple({"role": role, "content": content} for role, content in turns)
    return {"text": turns[-1][1], "messages": messages}


def test_position_0_does_not_count(engine: Engine) -> None:
    assert counted(engine, passage("hello")) == "ello"


def test_a_bos_token_takes_the_place_of_position_0(with_bos: Engine) -> None:
    tokens = with_bos.tokenize(passage("hello"))
    assert tokens.ids[0] == 256
    assert counted(with_bos, passage("hello")) == "hello"


def test_special_tokens_in_a_text_do_not_count(with_bos: Engine) -> None:
    assert counted(with_bos, passage("one</s>two<s>three")) == "onetwothree"


def test_every_byte_of_a_character_counts(with_bos: Engine) -> None:
    tokens = with_bos.tokenize(passage("né€"))
    assert tokens.counts == [False] + [True] * 6  # 1 + 2 + 3 bytes
    assert counted(with_bos, passage("né€")) == "né€"


@pytest.mark.parametrize("prompt", ["Q: ", "", "né ", "a</s>b "])
def test_only_the_completion_counts(with_bos: Engine, prompt: str) -> None:
    text = passage(" an answer. ", prompt=prompt)
    assert counted(with_bos, text) == " an answer. "
    assert with_bos.tokenizer.decode(with_bos.tokenize(text).ids) == f"<s>{prompt} an answer. "


def test_a_completion_counts_where_the_prompt_says_the_same(engine: Engine) -> None:
    tokens = engine.tokenize(passage("ab", prompt="abab"))
    assert tokens.counts == [False] * 4 + [True] * 2


def test_a_token_across_the_border_counts(engine: Engine) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["bc"])
    spanning = replace(engine, tokenizer=tokenizer)
    assert counted(spanning, passage("cd", prompt="ab")) == "bcd"


def test_only_the_last_message_counts(engine: Engine) -> None:
    text = passage(**chat(("user", "How are you?"), ("assistant", "Fine, thanks.")))
    assert counted(engine, text) == "Fine, thanks."
    rendered = "<s>user\nHow are you?</s>\n<s>assistant\nFine, thanks.</s>\n"
    assert engine.tokenizer.decode(engine.tokenize(text).ids) == rendered


def test_a_chat_has_its_special_tokens_from_the_template_alone(with_bos: Engine) -> None:
    tokens = with_bos.tokenize(passage(**chat(("user", "a"), ("assistant", "b"))))
    assert tokens.ids[:2] == [256, with_bos.tokenizer("u").input_ids[1]]


@pytest.mark.parametrize(
    "turns",
    [
        [("user", "yes"), ("assistant", "yes")],
        [("assistant", "yes"), ("user", "or no"), ("assistant", "yes")],
        [("user", "yes or no"), ("assistant", "yes")],
    ],
)
def test_a_last_message_that_was_said_before_counts_once(
    engine: Engine, turns: list[tuple[str, str]]
) -> None:
    tokens = engine.tokenize(passage(**chat(*turns)))
    n = len(tokens.ids)
    # "yes" stands before "</s>" (one token) and a line break
    assert [i for i, counts in enumerate(tokens.counts) if counts] == [n - 5, n - 4, n - 3]
    assert counted(engine, passage(**chat(*turns))) == "yes"


@pytest.mark.parametrize("answer", ["s", "</", ">", "assistant", "Say it."])
def test_a_last_message_that_the_template_also_holds_is_found_in_its_place(
    engine: Engine, answer: str
) -> None:
    text = passage(**chat(("user", "Say it."), ("assistant", answer)))
    assert counted(engine, text) == answer


@pytest.mark.parametrize("answer", [" yes", "yes ", "\n\n     yes", "  yes \n"])
@pytest.mark.parametrize("trim", ["", " | trim"])
def test_nothing_after_a_last_message_with_spaces_around_it_counts(
    engine: Engine, answer: str, trim: str
) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content']" + trim + " }}</s>\nEND\n{% endfor %}"
    )
    text = passage(**chat(("user", "yes or no"), ("assistant", answer)))
    assert counted(replace(engine, tokenizer=tokenizer), text).strip() == "yes"


def test_a_text_longer_than_the_context_is_cut(engine: Engine) -> None:
    tokens = engine.tokenize(passage("ab" * CONTEXT))
    assert len(tokens.ids) == len(tokens.counts) == CONTEXT
    assert tokens.counts == [False] + [True] * (CONTEXT - 1)


def test_a_completion_is_cut_at_the_context(engine: Engine) -> None:
    text = passage("c" * 50, prompt="p" * (CONTEXT - 10))
    assert counted(engine, text) == "c" * 10


def test_a_completion_beyond_the_context_is_refused(engine: Engine) -> None:
    message = "^texts.jsonl:1: the text lies beyond the model's 128 tokens$"
    with pytest.raises(InputError, match=message):
        engine.tokenize(passage("completion", prompt="p" * CONTEXT))


# --- chats and prompts -------------------------------------------------------------------------


def test_a_model_without_a_chat_template_is_named(engine: Engine) -> None:
    plain = replace(engine, tokenizer=tiny_tokenizer(chat=False), model_id="gpt2")
    message = "^texts.jsonl:1: model 'gpt2' has no chat template; give plain text$"
    with pytest.raises(InputError, match=message):
        plain.tokenize(passage(**chat(("user", "a"), ("assistant", "b"))))


def test_what_a_chat_template_refuses_is_passed_on(engine: Engine) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('no system role') }}"
    refusing = replace(engine, tokenizer=tokenizer)
    message = r"^chat.jsonl:3: the model's chat template refuses this chat \(no system role\)$"
    with pytest.raises(InputError, match=message):
        refusing.chat([{"role": "system", "content": "Be brief."}], "chat.jsonl:3")


def test_a_chat_template_that_leaves_the_last_message_out_is_told(engine: Engine) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    forgetful = replace(engine, tokenizer=tokenizer)
    message = "^texts.jsonl:1: the model's chat template leaves the last message out$"
    with pytest.raises(InputError, match=message):
        forgetful.tokenize(passage(**chat(("user", "a"), ("assistant", "b"))))


def test_a_chat_ends_with_the_assistants_turn_open(engine: Engine) -> None:
    rendered = engine.chat([{"role": "user", "content": "Hi"}], "chat.jsonl:1")
    assert rendered == "<s>user\nHi</s>\n<s>assistant\n"


def test_a_rendered_prompt_gets_no_second_bos(with_bos: Engine) -> None:
    assert with_bos.prompt_ids("<s>a", rendered=True).count(256) == 1
    assert with_bos.prompt_ids("<s>a").count(256) == 2
    assert with_bos.prompt_ids("a") == [256, *with_bos.prompt_ids("a", rendered=True)]


def test_an_empty_prompt_is_refused_unless_a_bos_token_stands_for_it(
    engine: Engine, with_bos: Engine
) -> None:
    message = "^prompts.jsonl:4: empty; give the model at least one word to go on from$"
    with pytest.raises(InputError, match=message):
        engine.prompt_ids("", "prompts.jsonl:4")
    assert with_bos.prompt_ids("") == [256]


def test_what_was_written_is_decoded_with_the_space_before_it(engine: Engine) -> None:
    prompt, written = engine.prompt_ids("to be"), engine.prompt_ids(" or not")
    assert engine.decode(prompt, written) == " or not"
    assert engine.decode([], written) == " or not"


def test_a_character_begun_by_the_prompt_does_not_lose_what_follows(engine: Engine) -> None:
    ids = engine.prompt_ids("a€b")  # 1 + 3 + 1 bytes
    assert engine.decode(ids[:2], ids[2:]).endswith("b")


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


# --- continuations -----------------------------------------------------------------------------


def test_a_continuation_is_what_the_whole_text_adds_to_the_prompt(engine: Engine) -> None:
    prompt = engine.prompt_ids("to be")
    expected = engine.prompt_ids("to be or")[len(prompt) :]
    assert engine.continuation_ids("to be", prompt, " or", rendered=False) == expected
    assert len(expected) == 3
    assert engine.continuation_ids("to be", prompt, "", rendered=False) == []


def test_a_continuation_that_melts_into_its_prompt_is_tokenized_alone(engine: Engine) -> None:
    # other tokens than the whole text's first ones, as where a merge spans the seam
    expected = engine.tokenizer(" or", add_special_tokens=False)["input_ids"]
    assert engine.continuation_ids("to be", [1, 2, 3], " or", rendered=False) == expected
