"""The page of `neurosteer demo`: one prompt written several ways, with a slider a vector.

Knows what the page opens with and what it offers to try; what it shows it asks of the server behind it.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from ..evaluation.judges.judge import Judge
from ..vectors.vector import SAFE_DOSE
from .render import render, script_data

FIRST = "polite"  # the vector that is turned up when the page opens, if it is there
LADDER = (-20, -10, 0, 10, 20)
PROMPTS = (
    "When the customer asked for a refund, the clerk said:",
    "The waiter brought the soup and",
    "Your invoice is late, so",
    "I read your report and",
    "My neighbour knocked on the door and",
)


def demo_page(judges: Sequence[Judge] = ()) -> str:
    """The page, which shows the scores that these judges give by the server."""
    scales = [
        {"name": judge.name, "range": judge.card.get("range", (0, 1)), "limits": judge.limits}
        for judge in judges
    ]
    example = Path(__file__).with_name("templates") / "fit_example.json"  # a name, and texts of two sides
    data = {
        "first": FIRST,
        "ladder": LADDER,
        "safe_dose": SAFE_DOSE,
        "judges": scales,
        "fit_example": json.loads(example.read_text(encoding="utf-8")),
    }
    return render("demo", prompts=PROMPTS, data=script_data(data))
