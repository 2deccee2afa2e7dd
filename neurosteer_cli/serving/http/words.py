"""What is wrong with a request, in our words: a sentence for each kind of fault, and the field's name.

Knows pydantic's kinds of errors; none of its sentences reaches anybody.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ..protocol.fields import EXPECTED, SAID

_OBJECT = "must be an object"
MUST_BE = {
    EXPECTED: "must be {expected}",
    "string_type": "must be a text",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "list_type": "must be a list",
    "dict_type": _OBJECT,
    "model_type": _OBJECT,
    "model_attributes_type": _OBJECT,
    "greater_than": "must be above {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be below {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "literal_error": "must be {expected}",
    "string_pattern_mismatch": "must be 1 to 64 letters, digits, '_', '-' and '.'",
}
SENTENCES = {
    SAID: "{message}",
    "missing": "missing",
    "string_too_short": "empty",
    "too_short": "empty",
    "string_too_long": "longer than {max_length} characters",
    "too_long": "more than {max_length}",
    "extra_forbidden": "given twice, under two names",
}
LONGEST = 500  # characters of a sentence
LONGEST_PLACE = 100


def fault(errors: Sequence[Mapping[str, Any]]) -> tuple[str, str | None]:
    """What to tell of a request's faults, the first of them alone, and the field it lies in."""
    first = errors[0]
    kind, ctx = first["type"], first.get("ctx", {})
    if kind == "json_invalid":
        return f"the body is not JSON: {ctx['error']}, at character {first['loc'][-1]}", None
    field, deeper = first["loc"][1:2], first["loc"][2:]  # deeper down stand marks of pydantic's own, too
    own = (part for part in deeper if not str(part).startswith(("<", "[key]")))
    parts = [str(part) or "''" for part in (*field, *own)]
    if not parts:
        return "send a JSON object", None
    if kind in MUST_BE:
        sentence = f"{MUST_BE[kind].format(**ctx)}, got {_shown(first['input'])}"
    else:
        sentence = SENTENCES.get(kind, "cannot be read").format(**ctx)
    place = ".".join(parts)[:LONGEST_PLACE]
    return f"{place}: {sentence}"[:LONGEST], place


def _shown(value: Any) -> str:
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "an object"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value[:40]) if isinstance(value, str) else str(value)[:40]
