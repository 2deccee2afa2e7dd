"""Fields of requests for text that other servers know: those without effect, and those not served.

Knows names and values that ask for nothing; a declared field of a form is never looked up here.
"""

from collections.abc import Mapping
from typing import Any

from .fields import Neutral


def only(*values: Any) -> Neutral:
    """These ask for nothing. True is not 1."""
    return lambda value: any(
        value == each and isinstance(value, bool) == isinstance(each, bool) for each in values
    )


IGNORED = frozenset({
    # OpenAI: who asks, and how it is billed, kept or cached
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention", "prompt_cache_options", "parallel_tool_calls", "max_tool_calls",
    # OpenAI: hints that change no distribution of text that a model here could know of
    "reasoning_effort", "reasoning", "verbosity", "prediction",
    # vLLM
    "priority", "request_id", "cache_salt", "include_reasoning", "spaces_between_special_tokens",
    # llama.cpp
    "cache_prompt", "id_slot", "n_keep", "n_discard", "timings_per_token", "return_progress",
    "mirostat_tau", "mirostat_eta", "dynatemp_exponent", "dry_base", "dry_allowed_length",
    "dry_penalty_last_n", "dry_sequence_breakers", "xtc_threshold", "repeat_last_n", "penalize_nl",
    "reasoning_format", "reasoning_in_content", "thinking_forced_open", "parse_tool_calls",
    "speculative.n_max", "speculative.n_min", "speculative.p_min",
})  # fmt: skip

UNSERVED: Mapping[str, Neutral] = {
    # OpenAI
    "tools": only(),
    "tool_choice": only("none", "auto"),
    "functions": only(),
    "function_call": only("none", "auto"),
    "modalities": only(["text"]),
    "audio": only(),
    "web_search_options": only(),
    "moderation": only(),
    "suffix": only(),
    "echo": only(False),
    "best_of": only(0, 1),
    # vLLM
    "min_tokens": only(0),
    "length_penalty": only(1),
    "use_beam_search": only(False),
    "early_stopping": only(False),
    "ignore_eos": only(False),
    "stop_token_ids": only(),
    "include_stop_str_in_output": only(False),
    "skip_special_tokens": only(True),
    "truncate_prompt_tokens": only(),
    "prompt_logprobs": only(),
    "allowed_token_ids": only(),
    "bad_words": only(),
    "add_special_tokens": only(False),
    "add_generation_prompt": only(True),
    "continue_final_message": only(False),
    "documents": only(),
    "chat_template": only(),
    "chat_template_kwargs": only(),
    "mm_processor_kwargs": only(),
    "media_io_kwargs": only(),
    "structured_outputs": only(),
    "guided_json": only(),
    "guided_regex": only(),
    "guided_choice": only(),
    "guided_grammar": only(),
    "guided_decoding_backend": only(),
    "guided_whitespace_pattern": only(),
    "logits_processors": only(),
    "return_tokens_as_token_ids": only(False),
    "return_token_ids": only(False),
    "prompt_embeds": only(),
    "kv_transfer_params": only(),
    "vllm_xargs": only(),
    "thinking_token_budget": only(),
    "repetition_detection": only(),
    # llama.cpp
    "typical_p": only(1),
    "tfs_z": only(1),
    "top_n_sigma": only(-1),
    "mirostat": only(0),
    "dynatemp_range": only(0),
    "dry_multiplier": only(0),
    "xtc_probability": only(0),
    "grammar": only(),
    "json_schema": only(),
    "lora": only(),
    "n_probs": only(0),
    "min_keep": only(0),
    "post_sampling_probs": only(False),
    "return_tokens": only(False),
    "samplers": only(),
    "n_indent": only(0),
    "t_max_predict_ms": only(0, -1),
    "t_max_prompt_ms": only(0, -1),
}
