"""Between text and tokens: which count, chats and prompts, what ends a text, continuations."""

import inspect
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from support.engines import load, passage
from support.tiny import CONTEXT, save_tiny, tiny_tokenizer

from neurosteer_cli.data.records import NOT_THE_TEMPLATES, Passage
from neurosteer_cli.errors import InputError, ModelError
from neurosteer_cli.generation.continuation import GenerationConfig
from neurosteer_cli.generation.generate import Job, generate
from neurosteer_cli.generation.sampling import Sampling
from neurosteer_cli.models.engine import Engine
from neurosteer_cli.models.tokenizer import Shortfall, context_length, stop_ids


def counted(engine: Engine, text: Passage) -> str:
    """The tokens that count, as text."""
    tokens = engine.tokenize(text)
    kept = [token for token, counts in zip(tokens.ids, tokens.counts, strict=True) if counts]
    return str(engine.tokenizer.decode(kept))


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
    message = "^texts.jsonl:1: the model's chat template leaves out the last message$"
    with pytest.raises(InputError, match=message):
        forgetful.tokenize(passage(**chat(("user", "a"), ("assistant", "b"))))


def test_a_chat_ends_with_the_assistants_turn_open(engine: Engine) -> None:
    rendered = engine.chat([{"role": "user", "content": "Hi"}], "chat.jsonl:1")
    assert rendered == "<s>user\nHi</s>\n<s>assistant\n"


def test_a_prompt_that_brings_its_bos_gets_no_second(with_bos: Engine) -> None:
    assert with_bos.prompt_ids("<s>a", rendered=True).count(256) == 1
    assert with_bos.prompt_ids("<s>a") == [256, *with_bos.prompt_ids("a")[1:]]
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


# --- what a tokenizer puts before and after a text ----------------------------------------------


@pytest.fixture(scope="module", params=[True, False], ids=["bos", "no bos"])
def with_eos(request: pytest.FixtureRequest, engine: Engine) -> Engine:
    return replace(engine, tokenizer=tiny_tokenizer(bos=request.param, eos=True))


def test_what_a_tokenizer_appends_ends_no_text(with_eos: Engine, engine: Engine, with_bos: Engine) -> None:
    like = with_bos if with_eos.tokenizer("a").input_ids[0] == 256 else engine
    assert with_eos.tokenizer("to be").input_ids[-1] == 257
    assert with_eos.prompt_ids("to be") == like.prompt_ids("to be")
    assert with_eos.tokenize(passage("to be", prompt="or ")) == like.tokenize(passage("to be", prompt="or "))
    prompt = with_eos.prompt_ids("to be")
    expected = like.continuation_ids("to be", prompt, " or", rendered=False)
    assert with_eos.continuation_ids("to be", prompt, " or", rendered=False) == expected
    assert with_eos.prompt_ids("to be</s>") == [*prompt, 257]  # typed, it stands


def test_an_empty_prompt_does_not_become_an_end(with_eos: Engine) -> None:
    if with_eos.tokenizer("").input_ids == [257]:
        with pytest.raises(InputError, match="^prompt: empty; "):
            with_eos.prompt_ids("")
    else:
        assert with_eos.prompt_ids("") == [256]


def test_a_text_that_brings_its_bos_is_the_text_without(with_bos: Engine) -> None:
    assert with_bos.tokenize(passage("<s>to be")) == with_bos.tokenize(passage("to be"))
    assert with_bos.prompt_ids("<s><s>a").count(256) == 2  # two are typed


def test_a_token_beyond_the_embedding_is_named(engine: Engine) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([f"added{n}" for n in range(43)])
    other = replace(engine, tokenizer=tokenizer, model_id="other")
    assert other.prompt_ids("added41 a")[0] == 299
    message = (
        "^model 'other': its tokenizer gives 'added42' the id 300, and its embedding ends at 299: "
        "they do not belong together$"
    )
    for read in (
        other.prompt_ids,
        lambda text: other.tokenize(passage(text)),
        lambda t: other.plain_ids([t]),
    ):
        with pytest.raises(ModelError, match=message):
            read("see added42")


# --- chat templates -----------------------------------------------------------------------------

REASONING = "<think>\nIt is near.\n</think>\n\nAt the corner."
TURN = "{% for m in messages %}<s>{{ m.role }}\n{{ CONTENT }}</s>\n{% endfor %}"
QWEN = (  # reasoning is kept in the last turn, which always has its place
    "{% for m in messages %}<s>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% set parts = m.content.split('</think>') %}"
    "<think>\n{{ parts[0].split('<think>')[-1].strip() if parts | length > 1 }}\n</think>\n\n"
    "{{ parts[-1].lstrip('\n') }}{% else %}{{ m.content }}{% endif %}</s>\n{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "answer", "expected", "is_partial"),
    [
        (TURN.replace("CONTENT", "m.content.split('</think>')[-1]"), REASONING, "At the corner.", True),
        (TURN.replace("CONTENT", "m.content.split('</think>')[-1].strip()"), "Yes.", "Yes.", False),
        (TURN.replace("CONTENT", "m.content | upper"), "Yes, a s.", "YES, A S.", False),
        (TURN.replace("CONTENT", "m.content | tojson"), 'Say "a"\nb', 'Say \\"a\\"\\nb', False),
        (QWEN, REASONING, REASONING, False),
        (QWEN, "<think>It is near.</think>Here", "It is near.\n</think>\n\nHere", False),
        (QWEN, "At the corner.", "At the corner.", False),
        (QWEN, "</think>", None, True),
    ],
)
def test_what_a_template_makes_of_an_answer_counts(
    engine: Engine, template: str, answer: str, expected: str | None, is_partial: bool
) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    other = replace(engine, tokenizer=tokenizer)
    text = passage(**chat(("user", "Where? At the corner? Yes."), ("assistant", answer)))
    if expected is None:
        message = f"^texts.jsonl:1: the model's chat template leaves out all of {answer!r}$"
        with pytest.raises(InputError, match=message):
            other.tokenize(text)
    else:
        assert counted(other, text) == expected
        assert other.tokenize(text).is_partial == is_partial


def test_arguments_of_the_template_reach_it(engine: Engine) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ messages[0].content }} {{ enable_thinking | tojson }}"
    thinking = replace(engine, tokenizer=tokenizer, template_args={"enable_thinking": False})
    assert thinking.chat([{"role": "user", "content": "a"}], "here") == "a false"
    given = {"enable_thinking": True}  # of one chat
    assert thinking.chat([{"role": "user", "content": "a"}], "here", template_args=given) == "a true"


def test_what_is_no_argument_of_a_template_is_all_that_rendering_takes() -> None:
    rendering = set(inspect.signature(transformers.PreTrainedTokenizerFast.apply_chat_template).parameters)
    of_templates = {"self", "kwargs", "tools", "documents"}
    assert rendering - of_templates == NOT_THE_TEMPLATES - {"messages"}


def test_texts_that_were_not_read_whole_are_counted(engine: Engine) -> None:
    shortfall = Shortfall()
    for text in ("to be", "x" * CONTEXT, "x" * (CONTEXT + 1), "x" * 200):
        shortfall.add(engine.tokenize(passage(text)))
    assert shortfall.warnings(CONTEXT) == ["2 of 4 texts were cut to the model's 128 tokens"]
    assert engine.tokenize(passage("x" * 200)).n_cut == 72
    whole = Shortfall()
    whole.add(engine.tokenize(passage("to be")))
    assert whole.warnings(CONTEXT) == []


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (transformers.GPT2Config(n_positions=99), 99),
        (transformers.MptConfig(max_seq_len=98), 98),
        (transformers.CodeGenConfig(n_positions=97), 97),
        (transformers.DbrxConfig(max_seq_len=96), 96),
        (transformers.Gemma3Config(text_config={"max_position_embeddings": 95}), 95),
        (transformers.BloomConfig(), 2**20),
    ],
)
def test_a_context_is_known_whatever_it_is_called(config: Any, expected: int) -> None:
    assert context_length(config) == expected


# --- what ends a text ---------------------------------------------------------------------------


def with_json(folder: Path, name: str, **values: Any) -> None:
    path = folder / name
    found = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**found, **values}))


def test_what_the_checkpoint_declares_ends_a_text_and_nothing_else(copied: Path) -> None:
    with_json(copied, "generation_config.json", eos_token_id=[10, 257])
    assert load(copied, points=[]).stop_ids == {10, 257}
    with_json(copied, "generation_config.json", eos_token_id=11)
    assert load(copied, points=[]).stop_ids == {11}


@pytest.mark.parametrize("absent", ["file", "key", "null", "damaged"])
def test_config_json_declares_ends_where_generation_config_does_not(copied: Path, absent: str) -> None:
    with_json(copied, "config.json", eos_token_id=[12, 13])
    generation = copied / "generation_config.json"
    if absent == "file":
        generation.unlink()
    else:
        generation.write_text({"key": "{}", "null": '{"eos_token_id": null}', "damaged": "{"}[absent])
    assert load(copied, points=[]).stop_ids == {12, 13}


def test_ends_are_taken_from_the_text_part_of_a_configuration_and_at_last_from_the_tokenizer(
    tmp_path: Path,
) -> None:
    with_json(tmp_path, "config.json", text_config={"eos_token_id": 14})
    assert stop_ids(tmp_path, tiny_tokenizer()) == {14}
    with_json(tmp_path, "config.json", text_config={})
    assert stop_ids(tmp_path, tiny_tokenizer()) == {257}
    endless = tiny_tokenizer()
    endless.eos_token = None
    assert stop_ids(tmp_path, endless) == set()


@pytest.fixture(scope="module")
def with_markers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that writes special tokens which end nothing: every second token is one."""
    folder = save_tiny(tmp_path_factory.mktemp("models") / "markers")
    tokenizer = tiny_tokenizer()
    markers = [f"<|marker{n}|>" for n in range(42)]
    tokenizer.add_special_tokens({"additional_special_tokens": markers})
    tokenizer.save_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.lm_head.weight[258:300] *= 1.4
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("declared", ["generation_config.json", "config.json"])
@pytest.mark.parametrize("prompt", ["ab", "to be or", "x", "</s>!"])
def test_texts_with_special_tokens_are_those_of_transformers(
    with_markers: Path, tmp_path: Path, declared: str, prompt: str
) -> None:
    folder = Path(shutil.copytree(with_markers, tmp_path / "model"))
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    engine = load(folder)
    (ids,) = engine.plain_ids([prompt])
    asked = {"attention_mask": torch.ones(1, len(ids)), "do_sample": False, "max_new_tokens": 24}
    whole = reference.generate(torch.tensor([ids]), **asked, eos_token_id=-1)
    end = whole[0, len(ids) + 12].item()  # now an end, alone
    (folder / "generation_config.json").unlink()
    with_json(folder, declared, eos_token_id=end)
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    written = reference.generate(torch.tensor([ids]), **asked)[0, len(ids) :]
    n_markers = sum(token >= 258 for token in written.tolist())
    assert 0 < n_markers < len(written)
    config = GenerationConfig(sampling=Sampling(temperature=0.0), max_new_tokens=24)
    pieces: list[str] = []
    ((_, found),) = generate(
        load(folder), [Job(prompt, ids)], config=config, on_text=lambda _number, text: pieces.append(text)
    )
    assert written[-1] == end
    assert (found.n_tokens, found.finish_reason) == (len(written) - 1, "stop")
    assert "".join(pieces) == found.text == engine.decode(ids, written[:-1].tolist())
    assert found.text == engine.tokenizer.decode(written[:-1], skip_special_tokens=True)


# --- continuations -----------------------------------------------------------------------------


def test_a_continuation_is_what_the_whole_text_adds_to_the_prompt(engine: Engine) -> None:
    prompt = engine.prompt_ids("to be")
    expected = engine.prompt_ids("to be or")[len(prompt) :]
    assert engine.continuation_ids("to be", prompt, " or", rendered=False) == expected
    assert len(expected) == 3
    assert engine.continuation_ids("to be", prompt, "", rendered=False) == []


def test_a_continuation_that_melts_into_its_prompt_is_tokenized_alone(engine: Engine) -> None:
    # other tokens than the whole text's first ones, as where a merge spans the seam
    (expected,) = engine.plain_ids([" or"])
    assert engine.continuation_ids("to be", [1, 2, 3], " or", rendered=False) == expected
