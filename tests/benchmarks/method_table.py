"""The tables of method_search.py, from the texts it kept: who gets further at equal cost, and how surely.

A method's gain within a bound is how many points a judge's mean probability moves up to where the curve of
dose against cost first crosses the bound (`reach` of steering_frontier.py). Cost is the perplexity's ratio to
unsteered under the model itself, or that of bits a byte under the second model, whose bounds are closer to 1:
a ratio of bits is one of logarithms. Leads are differences of gains, mean over bounds and tasks, with 95 %
bootstrap intervals, paired by opening. A point is marked where texts are less diverse than unsteered ones by
more than 3 %: in different pairs of words (distinct-2), or in 4-grams that did not stand in the text before.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from steering_frontier import reach
from torch import Tensor

from neurosteer_cli.evaluation.measures.metrics import Bootstrap, Estimate, distinct, repetition

JUDGES = ("embeddings", "words")
BOUNDS = {"own": (1.1, 1.25, 1.5), "second": (1.05, 1.1, 1.2)}  # of the ratio, by language model
VIEWS = tuple(product(BOUNDS, JUDGES))
REFERENCES = ("diffmean", "neurosteer", "diffmean narrow")
# Each is held against the difference of means in a nucleus as wide as its own.
CANDIDATES = {
    **dict.fromkeys(("mixed", "logodds", "onpolicy", "placed", "front-loaded", "neurosteer"), "diffmean"),
    **dict.fromkeys(("mixed narrow", "neurosteer narrow"), "diffmean narrow"),
}
SHARED_PASS = "neurosteer"  # whose fit is the first, and has the pass over the texts
MOST_LOST = 3.0  # points, in a direction of a task
LEAST_DIVERSE = 0.97  # of unsteered
BEST = "best of n"
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Point:
    """What a dose does, by opening: [2, n_units] each, total and count."""

    dose: float
    scores: dict[str, Tensor]  # by judge
    costs: dict[str, Tensor]  # by language model: nats a token of a text, and texts; bits, and bytes
    distinct_2: float
    fresh: float  # share of 4-grams that did not stand in the text before

    @classmethod
    def of(cls, rows: Sequence[Row], unit: Mapping[str, int]) -> "Point":
        kinds = {**{name: name for name in JUDGES}, "own": "own", "second": "second"}
        sums = {name: torch.zeros(2, len(unit), dtype=torch.float64) for name in kinds}
        for row in rows:
            if not row["tokens"] or not row["bytes"]:
                continue
            values = {name: (row[name], 1) for name in JUDGES}
            values["own"] = row["nats"] / row["tokens"], 1
            values["second"] = row["bits"], row["bytes"]
            for name, value in values.items():
                sums[name][:, unit[row["prompt"]]] += torch.tensor(value, dtype=torch.float64)
        words = [row["text"].lower().split() for row in rows]
        repeated = [share for text in words if (share := repetition(text)) is not None]
        return cls(
            float(rows[0]["dose"]),
            {name: sums[name] for name in JUDGES},
            {name: sums[name] for name in BOUNDS},
            distinct(words, 2) or 0.0,
            1 - sum(repeated) / max(1, len(repeated)),
        )

    def is_dull(self, unsteered: "Point") -> bool:
        return (
            self.distinct_2 < LEAST_DIVERSE * unsteered.distinct_2
            or self.fresh < LEAST_DIVERSE * unsteered.fresh
        )


Curves = dict[tuple[str, str], list[Point]]  # by task and method: unsteered, then dose after dose


@dataclass(frozen=True)
class Found:
    """What is in a folder of texts."""

    curves: dict[str, Curves]  # by judge: best of n is chosen by the other family
    fits: dict[str, list[float]]  # processor seconds, by method
    n_units: int

    @classmethod
    def read(cls, raw: Path, tasks: Sequence[str]) -> "Found":
        files = {
            (task, path.name.removeprefix(f"{task}.").removesuffix(".jsonl")): _rows(path)
            for task in tasks
            for path in sorted(raw.glob(f"{task}.*.jsonl"))
        }
        prompts = dict.fromkeys(row["prompt"] for rows in files.values() for row in rows)
        unit = {prompt: number for number, prompt in enumerate(prompts)}
        curves: dict[str, Curves] = {judge: {} for judge in JUDGES}
        for (task, method), rows in files.items():
            start = Point.of([row for row in files[task, BEST] if row["dose"] == 0], unit)
            for judge in JUDGES:
                used = [row for row in rows if row["dose"] and row.get("by") != judge]
                if used:
                    curves[judge][task, method] = [start, *_points(used, unit)]
        fits: dict[str, list[float]] = {}
        for path in sorted(raw.glob("*.fits.jsonl")):
            for name, seconds in _rows(path)[0].items():
                fits.setdefault(name, []).append(seconds)
        return cls(curves, fits, len(unit))

    @cached_property
    def bootstrap(self) -> Bootstrap:
        return Bootstrap(self.n_units)

    @cached_property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(task for task, _ in self.curves[JUDGES[0]]))

    @cached_property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(method for _, method in self.curves[JUDGES[0]]))

    def of(self, task: str) -> list[str]:
        """The methods that were measured in a task."""
        return [method for method in self.methods if (task, method) in self.curves[JUDGES[0]]]

    def shared(self, *methods: str) -> list[str]:
        """The tasks in which all of these were measured."""
        return [task for task in self.tasks if {*methods} <= {*self.of(task)}]

    def lead(
        self,
        model: str,
        judge: str,
        first: str,
        other: str | None,
        tasks: Sequence[str],
        *,
        bounds: Sequence[float] | None = None,
        admits_dull: bool = True,
    ) -> Estimate:
        """How many points further the first method gets than the other, or than unsteered text."""
        used = [(task, name) for task in tasks for name in ((first, other) if other else (first,))]
        curves = [self._admitted(self.curves[judge][key], admits_dull=admits_dull) for key in used]

        def difference(*means: Tensor) -> Tensor:
            left, total = iter(means), torch.zeros_like(means[0])
            for (task, name), curve in zip(used, curves, strict=True):
                pairs = [(next(left), next(left)) for _ in curve]
                sign = 100.0 if task.endswith("+") else -100.0
                moved = [sign * (score - pairs[0][0]) for score, _ in pairs]
                costs = [cost.log() if model == "second" else cost for _, cost in pairs]
                got = [reach(moved, costs, bound) for bound in bounds or BOUNDS[model]]
                total = total + (1 if name == first else -1) * torch.stack(got).mean(0)
            return total / len(tasks)

        quantities = (
            sums for curve in curves for one in curve for sums in (one.scores[judge], one.costs[model])
        )
        found = self.bootstrap.estimate(difference, *quantities)
        assert found is not None  # some text was scored
        return found

    @staticmethod
    def _admitted(curve: list[Point], *, admits_dull: bool) -> list[Point]:
        """The points up to the first whose texts are too little diverse."""
        dull = (number for number, point in enumerate(curve) if point.is_dull(curve[0]))
        return curve if admits_dull else curve[: next(dull, len(curve))]


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _points(rows: Sequence[Row], unit: Mapping[str, int]) -> Iterator[Point]:
    for dose in sorted({row["dose"] for row in rows}):
        yield Point.of([row for row in rows if row["dose"] == dose], unit)


def shown(one: Estimate) -> str:
    low, high = one.ends
    return f"{one.value:+5.1f} [{low:+5.1f},{high:+5.1f}]"


HEADER = "".join(f"{f'{model}, {judge}':22}" for model, judge in VIEWS)


def _table(title: str, lines: Iterable[tuple[str, Sequence[Estimate], str]], note: str = "") -> None:
    print(f"\n-- {title}\n{'':20}{HEADER}{note}".rstrip())
    for name, estimates, rest in lines:
        print(f"{name:20}{''.join(f'{shown(one):22}' for one in estimates)}{rest}".rstrip())


def show(raw: Path, tasks: Sequence[str]) -> None:
    """Print all tables of what is in the folder."""
    found = Found.read(raw, tasks)
    print(f"{len(found.tasks)} tasks: {', '.join(found.tasks)}. Points of a judge's mean probability.")
    print(
        "Columns: the model itself (perplexity within 1.1, 1.25, 1.5) or the second one (bits a byte within "
        "1.05, 1.1, 1.2);\nthe judge by embeddings or by words."
    )
    _table("gain over unsteered text, all tasks", _gains(found), "tasks  run a token  fit s  marked")
    for reference in REFERENCES:
        if reference in found.methods:
            _table(f"lead over {reference}, all tasks", _leads(found, reference), "tasks")
    _table(
        "lead over diffmean, the same bounds for both models", _leads(found, "diffmean", same=True), "tasks"
    )
    _table("lead over diffmean, without marked points", _leads(found, "diffmean", admits_dull=False), "tasks")
    for task in found.tasks:
        _table(f"lead over diffmean, {task}", _leads(found, "diffmean", within=[task]))
    print("\n-- adopted as the default?")
    for name, reference in CANDIDATES.items():
        if found.shared(name, reference):
            print(f"{name:20}{verdict(found, name, reference)}")
    _show_points(found)


def _gains(found: Found) -> Iterator[tuple[str, Sequence[Estimate], str]]:
    for method in found.methods:
        tasks = found.shared(method)
        gains = [found.lead(*view, method, None, tasks) for view in VIEWS]
        points = [found.curves[judge][task, method] for judge in JUDGES for task in tasks]
        dull = sum(point.is_dull(curve[0]) for curve in points for point in curve[1:])
        n_points = sum(len(curve) - 1 for curve in points)
        run = "n" if method == BEST else "1"
        yield method, gains, f"{len(tasks):5}  {run:>11}  {_fit(found, method):>5}  {dull / n_points:.0%}"


def _fit(found: Found, method: str) -> str:
    """Processor seconds, those of the pass over the texts that all vectors share included."""
    name = method.removesuffix(" narrow")
    if not (own := found.fits.get(name)):
        return "-"
    shared = found.fits[SHARED_PASS] if name not in (SHARED_PASS, "shuffled") else [0.0]
    return f"{fmean(own) + fmean(shared):.0f}"


def _leads(
    found: Found, reference: str, *, within: Sequence[str] = (), same: bool = False, admits_dull: bool = True
) -> Iterator[tuple[str, Sequence[Estimate], str]]:
    bounds = BOUNDS["own"] if same else None
    for method in found.methods:
        tasks = [task for task in found.shared(method, reference) if not within or task in within]
        if method != reference and tasks:
            leads = [
                found.lead(*view, method, reference, tasks, bounds=bounds, admits_dull=admits_dull)
                for view in VIEWS
            ]
            yield method, leads, f"{len(tasks):5}"


def verdict(found: Found, name: str, reference: str) -> str:
    """Whether a method leads under every model and judge, and loses no direction of a task."""
    tasks = found.shared(name, reference)
    unproven = [view for view in VIEWS if found.lead(*view, name, reference, tasks).ends[0] <= 0]
    worst, where = min(
        (found.lead(*view, name, reference, [task]).value, f"{task} ({', '.join(view)})")
        for view in VIEWS
        for task in tasks
    )
    reasons = []
    if unproven:
        reasons.append("no sure lead under " + "; ".join(", ".join(view) for view in unproven))
    if worst < -MOST_LOST:
        reasons.append(f"{worst:+.1f} in {where}")
    return f"over {reference}, {len(tasks)} tasks: " + ("yes" if not reasons else "no: " + ". ".join(reasons))


def _show_points(found: Found) -> None:
    print("\n-- every point: mean probabilities of the judges in %, ratios, diversity; * less diverse")
    print(
        f"{'task':12} {'method':18} {'dose':>5} {'emb':>6} {'words':>6} {'own':>6} {'second':>6} "
        f"{'dist-2':>6} {'rep-4':>6}"
    )
    for task in found.tasks:
        methods = found.of(task)
        start = found.curves[JUDGES[0]][task, methods[0]][0]
        print(f"{task:12} {'unsteered':18} {_shown_point(start, start)}")
        for method, judge in product(methods, JUDGES):
            if method != BEST and judge != JUDGES[0]:
                continue
            name = f"{BEST}, for {judge[:5]}" if method == BEST else method
            for point in found.curves[judge][task, method][1:]:
                print(f"{task:12} {name:18} {_shown_point(point, start)}")


def _shown_point(point: Point, unsteered: Point) -> str:
    def mean(sums: Tensor) -> float:
        return float(sums[0].sum() / sums[1].sum())

    scores = " ".join(f"{100 * mean(point.scores[judge]):6.1f}" for judge in JUDGES)
    own = torch.tensor(mean(point.costs["own"]) - mean(unsteered.costs["own"])).exp()
    second = mean(point.costs["second"]) / mean(unsteered.costs["second"])
    mark = " *" if point.is_dull(unsteered) else ""
    costs = f"{own:6.2f} {second:6.3f}"
    return f"{point.dose:5g} {scores} {costs} {point.distinct_2:6.2f} {1 - point.fresh:6.1%}{mark}"
