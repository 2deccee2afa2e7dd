"""Say in sentences what the rows of an evaluation show, hedged by their intervals.

Knows settings and their numbers; knows nothing of charts or HTML.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .tables import (
    MAX_RATIO,
    Estimate,
    Setting,
    auroc,
    estimate,
    exactly,
    fixed_within,
    interval,
    on_one_scale,
    percent_within,
)

# What a verdict can be, and its few words.
KINDS = {
    "works": "works",
    "unspecific": "not told apart from a random vector",
    "backwards": "lowers the rate at positive alpha",
    "costly": "too costly",
    "nothing": "no effect beyond its interval",
    "open": "cannot be told",
}


@dataclass(frozen=True)
class Verdict:
    """What one judge's numbers show: its kind, a headline, and the evidence."""

    judge: str
    kind: str  # of KINDS
    headline: str
    sentences: tuple[str, ...]


def verdict(settings: Sequence[Setting], judge: str, max_ratio: float = MAX_RATIO) -> Verdict:
    """What one judge's numbers show.

    A setting has an effect if the interval of its difference to the unsteered texts excludes 0; where
    no difference was computed, if the two intervals do not overlap. It is affordable if its
    perplexity ratio is at most `max_ratio`. It is told apart from a random vector of equal norm, at
    the nearest alpha, if the two intervals do not overlap.
    """
    return _Reading(settings, judge, max_ratio).verdict()


def by_layer(rows: Sequence[dict[str, Any]], max_ratio: float = MAX_RATIO) -> tuple[str, ...]:
    """Where the sides separate best and, where it was tried, where steering moves texts most."""
    found = [(row["layer"], number) for row in rows if (number := auroc(row))]
    if not found:
        return ("No layer's separation could be measured.",)
    layer, best = max(found, key=lambda one: one[1].value)
    rivals = [other for other, number in found if other != layer and number.overlaps(best)]
    said = f"The sides are told apart best after layer {layer}: AUROC {fixed_within(best)}."
    if best.low < best.high:
        said += (
            f" The intervals of {len(rivals) or 'no'} other layer{'s' * (len(rivals) != 1)} overlap its own."
        )
    return (said, *_best_steered(rows, max_ratio))


def _best_steered(rows: Sequence[dict[str, Any]], max_ratio: float) -> list[str]:
    """For either sign of alpha, the layer and dose that move the rate most at an affordable cost."""
    tried = [
        (row["layer"], one["alpha"], rate, ratio)
        for row in rows
        for one in row.get("steer") or ()
        if (rate := estimate(one["rate"])) and (ratio := estimate(one["perplexity_ratio"]))
    ]
    said = []
    for sign, superlative in ((1, "most"), (-1, "fewest")):
        signed = [one for one in tried if sign * one[1] > 0]
        cheap = [one for one in signed if one[3].value <= max_ratio]
        if cheap:
            layer, alpha, rate, ratio = max(cheap, key=lambda one: sign * one[2].value)
            said.append(
                f"Steered within a perplexity ratio of {max_ratio:g}, layer {layer} at alpha {alpha:g} gives "
                f"the {superlative} positive texts: {percent_within(rate)}, at a ratio of "
                f"{fixed_within(ratio)}."
            )
        elif signed:
            said.append(f"No layer keeps the perplexity ratio within {max_ratio:g} at alphas of that sign.")
    return said


class _Reading:
    """The rows as one judge sees them."""

    def __init__(self, settings: Sequence[Setting], judge: str, max_ratio: float) -> None:
        self.judge = judge
        self.max_ratio = max_ratio
        self.judged = [one for one in settings if one.effect(judge) is not None]
        self.steered = [one for one in self.judged if one.steered]
        self.unsteered = self.baseline("unsteered")
        self.one_curve = on_one_scale(settings) and len({one.group for one in self.steered}) == 1

    def verdict(self) -> Verdict:
        if not self.steered or self.unsteered is None:
            return self._open()
        moved = sorted((one for one in self.steered if self.direction(one)), key=self.size, reverse=True)
        if not moved:
            return self._nothing(max(self.steered, key=self.size))
        cheap = [one for one in moved if self.ratio(one) <= self.max_ratio]
        if not cheap:
            return self._costly(min(moved, key=self.ratio))
        best = cheap[0]
        others = self._other_way(best, cheap)
        return Verdict(self.judge, self._kind(best), self.finding(best), (*self._evidence(best), *others))

    # --- what the numbers are ----------------------------------------------------------------

    def baseline(self, name: str, near: Setting | None = None) -> Setting | None:
        """The baseline of that name; of several, the one at the nearest alpha."""
        found = [one for one in self.judged if one.baseline == name]
        alpha = (near.alpha if near else None) or 0.0
        return min(found, key=lambda one: abs((one.alpha or 0.0) - alpha), default=None)

    def effect(self, one: Setting) -> Estimate:
        return one.effect(self.judge) or exactly(0.0)

    def difference(self, one: Setting) -> Estimate:
        """Effect minus the unsteered texts', with its own interval or, wider, that of the two."""
        if found := one.number("rate_difference" if self.is_rate(one) else "mean_difference", self.judge):
            return found
        mine, theirs = self.effect(one), self.effect(self.unsteered or one)
        return Estimate(mine.value - theirs.value, mine.low - theirs.high, mine.high - theirs.low)

    def direction(self, one: Setting) -> int:
        """+1 or -1 where the texts moved, 0 where the difference may be none."""
        found = self.difference(one)
        return int(found.low > 0) - int(found.high < 0)

    def size(self, one: Setting) -> float:
        return abs(self.difference(one).value)

    def ratio(self, one: Setting) -> float:
        """What it costs; a setting is not taken for cheap because it alone has no ratio."""
        known = any(other.ratio for other in self.steered)
        return one.ratio.value if one.ratio else math.inf if known else 1.0

    def is_rate(self, one: Setting) -> bool:
        return one.number("rate", self.judge) is not None

    def _kind(self, best: Setting) -> str:
        control = self.baseline("random", near=best)
        if control is not None and self.effect(control).overlaps(self.effect(best)):
            return "unspecific"
        against = self.one_curve and (best.alpha or 0.0) * self.direction(best) < 0
        return "backwards" if against else "works"

    # --- how they are said -------------------------------------------------------------------

    def where(self, one: Setting) -> str:
        return f"At alpha {one.alpha:g}" if self.one_curve and one.steered else f"With {one.label}"

    def amount(self, one: Setting) -> str:
        found = self.effect(one)
        return percent_within(found) if self.is_rate(one) else fixed_within(found)

    def found(self, one: Setting) -> str:
        verb = "finds {} of texts positive" if self.is_rate(one) else "gives a mean score of {}"
        return f"the judge “{self.judge}” {verb.format(self.amount(one))}"

    def finding(self, one: Setting) -> str:
        """`At alpha 16 the judge “data” finds 96 % [92, 99] of texts positive, against ...`"""
        against = f", against {self.amount(self.unsteered)} unsteered" if self.unsteered else ""
        found = self.difference(one)
        scale, digits, unit = (100, 0, " points") if self.is_rate(one) else (1, 2, "")
        difference = f"{scale * found.value:+.{digits}f}{unit} {interval(found, digits, scale)}"
        return f"{self.where(one)} {self.found(one)}{against} ({difference.rstrip()})."

    def _open(self) -> Verdict:
        if not self.judged:
            return Verdict(self.judge, "open", f"The judge “{self.judge}” judged no text.", ())
        missing = "unsteered" if self.steered else "steered"
        shown = tuple(f"{self.where(one)} {self.found(one)}." for one in self.judged[:3])
        more = len(self.judged) - len(shown)
        rest = (f"{more} more in the table.",) if more else ()
        headline = f"No {missing} texts to compare with, so no effect can be shown."
        return Verdict(self.judge, "open", headline, shown + rest)

    def _nothing(self, largest: Setting) -> Verdict:
        tried = len(self.steered)
        among = "the one setting tried" if tried == 1 else f"any of the {tried} settings tried"
        headline = f"The judge “{self.judge}” finds no effect beyond its interval at {among}."
        first = "" if tried == 1 else "The largest: "
        evidence = self._evidence(largest, chosen=False)
        return Verdict(self.judge, "nothing", headline, (first + self.finding(largest), *evidence))

    def _costly(self, cheapest: Setting) -> Verdict:
        headline = (
            f"The judge “{self.judge}” finds an effect beyond its interval only where perplexity is more "
            f"than {self.max_ratio:g} times the unsteered one."
        )
        evidence = self._evidence(cheapest, chosen=False)
        return Verdict(self.judge, "costly", headline, (f"The cheapest: {self.finding(cheapest)}", *evidence))

    def _evidence(self, one: Setting, *, chosen: bool = True) -> tuple[str, ...]:
        """What it costs, what the controls do, and what to mind."""
        said = [self._cost(one), *self._controls(one), *self._cautions(one)]
        if chosen and len(self.steered) > 1:
            said.append(
                f"Of {len(self.steered)} settings tried it is the strongest that keeps the ratio within "
                f"{self.max_ratio:g}; on new prompts expect a little less."
            )
        return tuple(said)

    def _cost(self, one: Setting) -> str:
        if one.ratio is None:
            return "Its perplexity was not compared with the unsteered one."
        cost = f"Perplexity is {fixed_within(one.ratio)} times the unsteered one"
        if one.ratio.value <= self.max_ratio < one.ratio.high:
            cost += f" (its interval reaches beyond {self.max_ratio:g})"
        kl = one.number("kl")
        return cost + ("." if kl is None else f"; KL on neutral text is {kl.value:.2f} nats a token.")

    def _controls(self, one: Setting) -> list[str]:
        names = {"random": "A random vector of equal norm", "prompt": "Prompting instead"}
        said = []
        for key, name in names.items():
            if control := self.baseline(key, near=one):
                other = (
                    f" at alpha {control.alpha:g}" if key == "random" and control.alpha != one.alpha else ""
                )
                said.append(f"{name}{other}: {self.amount(control)}.")
        if self.baseline("random") is None:
            said.append("There was no random vector to compare with.")
        return said

    def _cautions(self, one: Setting) -> list[str]:
        """What perplexity does not show: loops, empty texts, texts that were not judged."""
        said = []
        mine = one.number("repetition_4")
        theirs = self.unsteered.number("repetition_4") if self.unsteered else None
        if mine and theirs and mine.low > theirs.high:
            said.append(
                f"It repeats itself more: {percent_within(mine)} of its 4-grams, against "
                f"{percent_within(theirs)} unsteered."
            )
        if empty := one.record.get("n_empty"):
            said.append(f"{empty} of its {one.record['n']} texts are empty.")
        if failed := one.record["judges"][self.judge].get("n_failed"):
            said.append(f"On {failed} of its {one.record['n']} texts the judge failed.")
        return said

    def _other_way(self, best: Setting, found: Sequence[Setting]) -> list[str]:
        """What the other sign of alpha does, where it was tried."""
        tried = [one for one in self.steered if (one.alpha or 0.0) * (best.alpha or 0.0) < 0]
        if not self.one_curve or not tried:
            return []
        moved = [one for one in found if one in tried and self.direction(one) != self.direction(best)]
        if moved:
            return [f"The other way: {self.finding(moved[0])} {self._cost(moved[0])}"]
        return ["The other sign of alpha has no opposite effect beyond its interval at that cost."]
