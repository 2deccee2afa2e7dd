"""How numbers and texts are written on pages and charts. Knows nothing of what they are of."""

import re
from collections.abc import Sequence

from ..evaluation.measures.metrics import Estimate

NO_BREAK = "\u00a0"
# Control characters, half surrogate pairs, and what reverses the text that follows it.
_UNSHOWABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff\u202a-\u202e\u2066-\u2069]"
)


def showable(text: str) -> str:
    """The text with what no page can hold, half surrogate pairs say, as U+FFFD."""
    return _UNSHOWABLE.sub("\ufffd", text)


def fixed(number: float, digits: int = 2) -> str:
    return f"{round(number, digits) + 0.0:.{digits}f}".replace("inf", "∞")  # + 0.0: no "-0"


def percent(share: float, digits: int = 0) -> str:
    return f"{fixed(100 * share, digits)}{NO_BREAK}%"


def interval(estimate: Estimate, digits: int = 2, scale: float = 1.0) -> str:
    """`[low, high]`; nothing for an exact number."""
    low, high = estimate.ends
    return f"[{fixed(scale * low, digits)},{NO_BREAK}{fixed(scale * high, digits)}]" if low != high else ""


def percent_within(share: Estimate) -> str:
    """`96 % [92, 99]`"""
    return f"{percent(share.value)} {interval(share, 0, 100)}".rstrip()


def fixed_within(estimate: Estimate) -> str:
    """`1.08 [1.02, 1.15]`"""
    return f"{fixed(estimate.value)} {interval(estimate)}".rstrip()


def listed(numbers: Sequence[int]) -> str:
    """`14, 20 and 26`; three or more in a row as `14 to 20`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = [part for run in runs for part in ([f"{run[0]} to {run[-1]}"] if len(run) > 2 else map(str, run))]
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
