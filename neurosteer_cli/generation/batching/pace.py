"""How much of a prompt is read at a time, so that those who are being written do not wait long.

Knows how long steps and slices took; knows nothing of models.
"""

import statistics
from collections import deque

WAIT = 1.4  # a slice may take as long as so many steps of those who wait for it
FIRST_SLICE = 32  # tokens, while it is not known how long they take
SHORTEST_SLICE = 16  # tokens: a pass takes some time, however few are read
SLICE_ALONE = 1024  # tokens, while nobody is being written: whoever comes waits for one slice
N_STEPS = 15  # the last ones, whose median is what a step takes


class Pace:
    """What a step takes of late, and how many tokens of prompts may be read meanwhile."""

    def __init__(self) -> None:
        self._steps: deque[float] = deque(maxlen=N_STEPS)

    def note_step(self, seconds: float) -> None:
        """A step has given a token to everyone."""
        self._steps.append(seconds)

    @property
    def step(self) -> float:
        """Seconds that a step takes; 0 while it is not known."""
        return statistics.median(self._steps) if self._steps else 0.0

    def next_slice(self, n_tokens: int, seconds: float) -> int:
        """How many tokens to read next, at most twice as many, where so many took so long."""
        if not self._steps:
            return FIRST_SLICE
        return max(SHORTEST_SLICE, int(n_tokens * min(2.0, WAIT * self.step / seconds)))
