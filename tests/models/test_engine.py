"""The engine: what is loaded, which tokens count, residuals, promoted tokens."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from support.tiny import CONTEXT, D_MODEL, D_VOCAB, FAMILIES, N_LAYERS, save_tiny, tiny_model, tiny_tokenizer
from torch import Tensor

from neurosteer_cli.data.records import Passage
from neurosteer_cli.errors import InputError, ModelError
from neurosteer_cli.models.engine import Engine, Tokens
from neurosteer_cli.models.hooks import RESID_PRE, HookPoint
from neurosteer_cli.models.load import choose_device, choose_dtype
from neurosteer_cli.models.logit_lens import promoted_tokens

FINAL_NORMS = {"gpt2": "transformer.ln_f", "gpt_neox": "gpt_neox.final_layer_norm"}
TEXTS = ["a", "to be", "or not to be, that is the question", "x" * 40, "whether 'tis nobler", "yes"]
WEIGHTS = "model.safetensors"


def load(folder: Path, **options: Any) -> Engine:
    return Engine.load(str(folder), **{"device": "cpu", "dtype": "float32", **options})


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A family's checkpoint folder; gains and biases are random, so that none can be left out."""

    @cache
    def folder(family: str) -> Path:
        path = save_tiny(tmp_path_factory.mktemp("models") / family, family)
        tensors = load_file(path / WEIGHTS)
        generator = torch.Generator().manual_seed(6)
        for name, tensor in tensors.items():
            if tensor.dim() == 1:
                tensors[name] = tensor + torch.randn(tensor.shape, generator=generator)
        save_file(tensors, path / WEIGHTS, metadata={"format": "pt"})
        return path

    return folder


@pytest.fixture(scope="module")
def engines(folders: Callable[[str], Path]) -> Callable[[str], Engine]:
    """A family's engine, whole."""
    return cache(lambda family: load(folders(family)))


@pytest.fixture(scope="module", params=FAMILIES)
def whole(request: pytest.FixtureRequest, engines: Callable[[str], Engine]) -> Engine:
    return engines(request.param)


@pytest.fixture
def copied(tmp_path: Path, tiny_folder: Path) -> Path:
    """A checkpoint folder that a test may damage."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "damaged"))


class TokenNumbers:
    """A tokenizer that spells each token as its number, so that a text says which tokens it has."""

    def __len__(self) -> int:
        return 258

    def decode(self, ids: Sequence[int], **_options: Any) -> str:
        return "".join(f"<{i}>" for i in ids)


def passage(text: str, **context: Any) -> Passage:
    return Passage("texts.jsonl:1", text, **context)


def counted(engine: Engine, text: Passage) -> str:
    """The tokens that count, as text."""
    tokens = engine.tokenize(text)
    kept = [token for token, counts in zip(tokens.ids, tokens.counts, strict=True) if counts]
    return str(engine.tokenizer.decode(kept))


def by_text(
    engine: Engine,
    texts: list[Tokens],
    points: list[HookPoint],
    tokens_per_batch: int | None = None,
) -> dict[int, dict[HookPoint, Tensor]]:
    """Each text's residuals [n_counted, d_model], whatever batch they came in."""
    found = {}
    for batch in engine.residuals(texts, points, tokens_per_batch):
        for line, text in enumerate(batch.texts):
            mine = batch.text_index == line
            found[text] = {point: resid[mine] for point, resid in batch.resid.items()}
    return found


# --- loading a part ----------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_blocks_alone_give_the_residuals_of_the_whole_model(
    folders: Callable[[str], Path], engines: Callable[[str], Engine], family: str, layer: int
) -> None:
    points = [HookPoint(layer), HookPoint(layer, RESID_PRE)]
    part = load(folders(family), points=points, head=False)
    assert len(part.blocks) == layer + 1
    assert part.shape == engines(family).shape
    texts = [part.tokenize(passage(text)) for text in TEXTS]
    ours, expected = (by_text(engine, texts, points) for engine in (part, engines(family)))
    assert ours.keys() == expected.keys() == {1, 2, 3, 4, 5}  # text 0 is a single token
    for text in ours:
        for point in points:
            assert torch.equal(ours[text][point], expected[text][point])


@pytest.mark.parametrize("family", FAMILIES)
def test_an_embedding_of_bfloat16_values_is_kept_in_half_the_memory(
    folders: Callable[[str], Path], tmp_path: Path, family: str
) -> None:
    whole = load(folders(family))
    wide = load(folders(family), points=[HookPoint(0)], head=False)
    assert wide.model.get_input_embeddings().weight.dtype == torch.float32
    whole.model.to(torch.bfloat16).save_pretrained(tmp_path)
    whole.tokenizer.save_pretrained(tmp_path)
    texts = [whole.tokenize(passage(text)) for text in TEXTS]
    narrow, plain = (load(tmp_path, points=[HookPoint(0)], head=head) for head in (False, True))
    kept = torch.float32 if family == "gemma2" else torch.bfloat16  # Gemma's scales what it gives
    assert narrow.model.get_input_embeddings().weight.dtype == kept
    assert plain.model.get_input_embeddings().weight.dtype == torch.float32
    ours, expected = (by_text(engine, texts, [HookPoint(0)]) for engine in (narrow, plain))
    for text in ours:
        assert torch.equal(ours[text][HookPoint(0)], expected[text][HookPoint(0)])


@pytest.mark.parametrize("family", FAMILIES)
def test_no_block_and_the_head_give_the_same_promoted_tokens(
    folders: Callable[[str], Path], engines: Callable[[str], Engine], family: str
) -> None:
    part = load(folders(family), points=[])
    assert len(part.blocks) == 0
    directions = torch.randn(5, D_MODEL, generator=torch.Generator().manual_seed(7))
    assert promoted_tokens(part, directions, 4) == promoted_tokens(engines(family), directions, 4)


def test_the_whole_model_gives_the_logits_of_transformers(whole: Engine) -> None:
    ids = torch.tensor([[5, 99, 7, 20]])
    reference = transformers.AutoModelForCausalLM.from_pretrained(whole.model_id, dtype=torch.float32).eval()
    with torch.no_grad():
        assert torch.equal(whole.model(input_ids=ids).logits, reference(input_ids=ids).logits)


@pytest.mark.parametrize("family", ["gemma2", "qwen3"])
def test_what_a_configuration_lists_by_layer_is_cut_with_the_blocks(
    folders: Callable[[str], Path], engines: Callable[[str], Engine], family: str
) -> None:
    whole, part = engines(family), load(folders(family), points=[HookPoint(2)], head=False)
    assert part.model.config.layer_types == whole.model.config.layer_types[:3]


def test_a_checkpoint_in_several_files_is_read_whole(tmp_path: Path, engine: Engine) -> None:
    tiny_tokenizer().save_pretrained(tmp_path)
    tiny_model("llama").save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    ids = torch.tensor([[5, 99, 7, 20]])
    with torch.no_grad():
        logits = load(tmp_path).model(input_ids=ids).logits
        assert torch.equal(logits, engine.model(input_ids=ids).logits)


def test_a_checkpoint_that_names_tensors_as_the_base_model_does_is_read(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path, "gpt2")  # the Hub's gpt2 has "h.0.ln_1.weight", and no head
    ids = torch.tensor([[5, 99, 7, 20]])
    with torch.no_grad():
        expected = load(folder).model(input_ids=ids).logits
        tensors = load_file(folder / WEIGHTS)
        renamed = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
        assert "h.0.ln_1.weight" in renamed
        save_file(renamed, folder / WEIGHTS, metadata={"format": "pt"})
        assert torch.equal(load(folder).model(input_ids=ids).logits, expected)
        assert len(load(folder, points=[HookPoint(0)], head=False).blocks) == 1


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


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_weights_are_read_in_the_number_type_asked_for(tiny_folder: Path, name: str) -> None:
    engine = load(tiny_folder, dtype=name, points=[HookPoint(0)])
    assert engine.dtype == getattr(torch, name)
    assert {parameter.dtype for parameter in engine.model.parameters()} == {engine.dtype}


# --- number type and device --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True, "avx512_bf16": False}, torch.bfloat16),
        ({"bf16": True}, torch.bfloat16),  # ARM
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, torch.float32),
        ({"neon": True, "bf16": False}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_on_a_cpu_bfloat16_is_taken_only_where_it_has_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert choose_dtype("auto", torch.device("cpu")) == expected


def test_a_number_type_that_is_named_is_taken_whatever_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert choose_dtype("float32", torch.device("cpu")) == torch.float32


def test_an_unknown_number_type_is_refused(tiny_folder: Path) -> None:
    message = "^--dtype int8: not one of auto, float32, bfloat16, float16$"
    with pytest.raises(InputError, match=message):
        load(tiny_folder, dtype="int8")


def test_an_unknown_device_is_refused(tiny_folder: Path) -> None:
    with pytest.raises(InputError, match=r"^--device abacus: not available here \(.+\)$"):
        load(tiny_folder, device="abacus")


def test_a_device_that_cannot_compute_is_refused() -> None:
    with pytest.raises(InputError, match="^--device meta: one of cpu, cuda, mps is needed$"):
        choose_device("meta")


# --- what cannot be loaded ---------------------------------------------------------------------


def test_more_blocks_than_the_model_has_are_refused(tiny_folder: Path) -> None:
    with pytest.raises(InputError, match="^block 8: the model has 4 blocks, 0 to 3$"):
        load(tiny_folder, points=[HookPoint(8)])


def test_a_folder_without_a_configuration_is_refused(tmp_path: Path) -> None:
    message = f"^{tmp_path}: no config.json; not a Hugging Face checkpoint folder$"
    with pytest.raises(ModelError, match=message):
        load(tmp_path)


def test_a_folder_without_safetensors_is_refused_with_the_way_out(copied: Path) -> None:
    (copied / WEIGHTS).rename(copied / "pytorch_model.bin")
    message = (
        rf"^{copied}: no .safetensors weights \(pickled ones are not read\); "
        r"save the model again with `model.save_pretrained\(folder\)`$"
    )
    with pytest.raises(ModelError, match=message):
        load(copied)


@pytest.mark.parametrize("damage", ["truncated", "garbled", "empty"])
def test_damaged_weights_are_refused(copied: Path, damage: str) -> None:
    content = (copied / WEIGHTS).read_bytes()
    damaged = {"truncated": content[:-100], "garbled": b"\xff" * 8 + content[8:], "empty": b""}
    (copied / WEIGHTS).write_bytes(damaged[damage])
    with pytest.raises(ModelError, match=rf"^{copied}: damaged weights \(.+\)$"):
        load(copied)


@pytest.mark.parametrize("head", [True, False])
def test_weights_that_lack_a_tensor_are_refused(copied: Path, head: bool) -> None:
    tensors = load_file(copied / WEIGHTS)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, copied / WEIGHTS, metadata={"format": "pt"})
    message = f"^{copied}: weights are missing from its .safetensors files"
    with pytest.raises(ModelError, match=message):
        load(copied, head=head)


def test_a_tensor_missing_beyond_the_blocks_wanted_does_not_matter(copied: Path) -> None:
    tensors = load_file(copied / WEIGHTS)
    del tensors["model.layers.3.mlp.up_proj.weight"]
    save_file(tensors, copied / WEIGHTS, metadata={"format": "pt"})
    assert len(load(copied, points=[HookPoint(2)], head=False).blocks) == 3


def test_weights_of_another_shape_than_the_configuration_says_are_refused(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, "intermediate_size": 64}))
    with pytest.raises(ModelError, match=f"^{copied}: "):
        load(copied)


@pytest.mark.parametrize("content", ['{"model_type": "nonesuch"}', "not json", "{}"])
def test_an_unreadable_configuration_is_refused(copied: Path, content: str) -> None:
    (copied / "config.json").write_text(content)
    with pytest.raises(ModelError, match=rf"^{copied}: cannot read its configuration \(.+\)$"):
        load(copied)


def test_a_folder_without_a_tokenizer_is_refused(copied: Path) -> None:
    for path in copied.glob("*token*"):
        path.unlink()
    with pytest.raises(ModelError, match=rf"^{copied}: cannot read its tokenizer \(.+\)$"):
        load(copied)


@pytest.mark.parametrize("head", [True, False])
def test_an_encoder_decoder_is_refused(copied: Path, head: bool) -> None:
    config = transformers.T5Config(
        vocab_size=D_VOCAB, d_model=D_MODEL, d_ff=32, num_layers=2, num_heads=2, d_kv=8
    )
    transformers.T5ForConditionalGeneration(config).save_pretrained(copied)
    with pytest.raises(ModelError, match=rf"^{copied}: not a decoder-only language model"):
        load(copied, head=head)


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
