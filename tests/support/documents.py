"""Made-up documents for pages and plots: what the commands hand over, usual and unusual ones."""

import math
import random
from typing import Any

Document = dict[str, Any]

HOSTILE = (
    '</div></td></table><script>alert("x")</script><img src=http://example.com/x onerror=alert(1)> '
    "{{ 7 * 7 }} {% raw %} &amp; $\\frac{1}{0}$ \ud83d \x00\x1b[31m\u202e 漢字 ' \""
)
PROMPTS = ("I read your report and", "About the meeting tomorrow:", "Your invoice is late, so")
TEXTS = (
    " I appreciate your dedication to providing the best possible support to your clients. However, I must "
    "express my concerns regarding the timeline and the need to address any existing challenges.",
    " I'm impressed by what you have to say. Still, nobody here has the time to read forty pages of it.",
    " it looks fine to me.\n\n- The first point is new\n- The second is not\n\nShall we talk on Monday?",
)


def near(value: float, spread: float, top: float = math.inf) -> Document:
    """A value with an interval around it."""
    return {"value": value, "low": max(0.0, value - spread), "high": min(top, value + spread)}


def row(
    label: str,
    alpha: Any,
    rates: dict[str, Document],
    *,
    ratio: Document | None = None,
    baseline: str | None = None,
    unsteered: float | None = None,
    **more: Any,
) -> Document:
    """A row of an evaluation; `unsteered` is the rate that differences are taken to."""
    dose = sum(map(abs, alpha)) if isinstance(alpha, list) else abs(alpha or 0.0)
    value = 8.4 * (ratio["value"] if ratio else 1.0)
    return {
        "label": label, "vectors": [] if baseline else ["polite.st"], "alpha": alpha, "dose": dose / 100,
        "positions": "all", "baseline": baseline, "n": 240, "n_prompts": 60, "n_empty": 0,
        "perplexity": near(value, 0.08 * value), "perplexity_ratio": ratio,
        "distinct_1": near(0.412, 0.013), "distinct_2": near(0.834, 0.011), "distinct_3": near(0.957, 0.006),
        "repetition_4": near(0.021, 0.008), "length": near(38.7, 0.6),
        "kl": (dose / 40) ** 2 if dose else None,
        "judges": {
            name: {
                "rate": rate, "mean": near(rate["value"] * 0.9 + 0.03, 0.04), "n_failed": 0, "fluency": None,
                "rate_difference": None if unsteered is None else difference(rate, unsteered),
            }
            for name, rate in rates.items()
        },
        **more,
    }  # fmt: skip


def difference(rate: Document, unsteered: float) -> Document:
    return {key: value - unsteered for key, value in rate.items()}


def facts() -> Document:
    return {
        "model": "smollm2",
        "vectors": [
            {
                "name": "polite.st", "sha256": "2f5bccb4e2b6" * 5 + "2f5b", "method": "neurosteer",
                "positive": "polite", "negative": "rude", "parameters": {"top_k": 100},
            }
        ],
        "prompts": {"file": "prompts.jsonl", "n": 60, "sha256": "9d3ac1be77aa" * 5 + "9d3a"},
        "n": 4,
        "sampling": {"temperature": 0.8, "top_p": 0.95, "max_new_tokens": 40, "seed": 0, "greedy": False},
        "neutral_texts": None,
        "program_version": "0.1.0",
        "date": "2026-11-24T16:59:34+00:00",
    }  # fmt: skip


def judge(name: str, *, warnings: tuple[str, ...] = ()) -> Document:
    return {
        "name": name,
        "limits": "It was trained on the texts the vector was fitted on and may reward the same habits.",
        "facts": {"accuracy": 0.93, "texts held out": 88, "kind": "logistic regression on word counts"},
        "warnings": list(warnings),
    }


def samples(n_rows: int, judges: tuple[str, ...], prompts: tuple[str, ...] = PROMPTS) -> list[Document]:
    draw = random.Random(0)
    return [
        {
            "prompt": prompt,
            "texts": [
                {
                    "row": index, "text": draw.choice(TEXTS),
                    "scores": {name: round(draw.random(), 3) for name in judges},
                }
                for index in range(n_rows)
            ],
        }
        for prompt in prompts
    ]  # fmt: skip


def evaluation(rows: list[Document], judges: tuple[Document, ...], **more: Any) -> Document:
    names = tuple(one["name"] for one in judges)
    return {
        "title": "polite.st on smollm2",
        "command": "neurosteer eval --vector polite.st --alpha=-8,0,4,8,16 --prompts prompts.jsonl -n 4",
        "facts": facts(), "judges": list(judges), "rows": rows, "samples": samples(len(rows), names),
        "notes": ["Perplexity is that of the texts under the unsteered model, at most 40 tokens each."],
        **more,
    }  # fmt: skip


def working() -> Document:
    """One vector, five alphas, one judge, all baselines: it works at 16 and breaks at 24."""
    rates = {-8.0: 0.38, 4.0: 0.66, 8.0: 0.79, 16.0: 0.955, 24.0: 0.97}
    ratios = {-8.0: 1.02, 4.0: 1.0, 8.0: 1.03, 16.0: 1.08, 24.0: 1.62}
    rows = [row("unsteered", 0.0, {"data": near(0.61, 0.09)}, baseline="unsteered")]
    rows += [
        row(
            f"polite {alpha:+g}", alpha, {"data": near(rate, 0.035, 1.0)},
            ratio=near(ratios[alpha], 0.07), unsteered=0.61,
        )
        for alpha, rate in rates.items()
    ]  # fmt: skip
    rows += [
        row(
            f"random {alpha:+g}", alpha, {"data": near(0.60, 0.09)}, ratio=near(ratio, 0.07),
            baseline="random", unsteered=0.61,
        )
        for alpha, ratio in ((8.0, 1.03), (16.0, 1.11))
    ]  # fmt: skip
    rows.append(
        row(
            "prompt “Be polite.”", 0.0, {"data": near(0.83, 0.05)}, ratio=near(0.94, 0.05),
            baseline="prompt", unsteered=0.61,
        )
    )  # fmt: skip
    return evaluation(rows, (judge("data"),))


def without_effect() -> Document:
    """Nothing moves beyond its interval, by two judges, at three alphas."""
    rows = [row("unsteered", 0.0, {"data": near(0.5, 0.06), "llm": near(0.4, 0.06)}, baseline="unsteered")]
    rows += [
        row(
            f"noise {alpha:+g}", alpha, {"data": near(0.5 + shift, 0.06), "llm": near(0.4 + shift, 0.06)},
            ratio=near(1.0 + shift, 0.05),
        )
        for alpha, shift in ((4.0, 0.01), (8.0, -0.02), (16.0, 0.03))
    ]  # fmt: skip
    return evaluation(rows, (judge("data"), judge("llm")), title="noise.st on smollm2")


def costly() -> Document:
    """An effect, but only where perplexity is at least 1.6 times as high, and texts loop."""
    rows = [row("unsteered", 0.0, {"data": near(0.3, 0.06)}, baseline="unsteered")]
    rows += [
        row(
            f"blunt {alpha:+g}", alpha, {"data": near(rate, 0.05)}, ratio=near(ratio, 0.2), unsteered=0.3,
            repetition_4=near(0.12, 0.03), n_empty=3,
        )
        for alpha, rate, ratio in ((8.0, 0.32, 1.1), (16.0, 0.55, 1.6), (32.0, 0.9, 7.5))
    ]  # fmt: skip
    rows.append(row("random +16", 16.0, {"data": near(0.31, 0.06)}, ratio=near(1.4, 0.2), baseline="random"))
    return evaluation(rows, (judge("data"),), title="blunt.st on smollm2")


def single() -> Document:
    """One setting and nothing to compare with."""
    return evaluation([row("polite +8", 8.0, {"data": near(0.79, 0.05)})], (judge("data"),))


def seven() -> Document:
    """Seven settings, two judges of which one failed on some texts, hostile and long texts."""
    alphas = (-24.0, -16.0, -8.0, 8.0, 16.0, 24.0)
    rows = [row("unsteered", 0.0, {"data": near(0.5, 0.06), "llm": near(0.45, 0.07)}, baseline="unsteered")]
    for alpha in alphas:
        rates = {
            "data": near(1 / (1 + math.exp(-alpha / 8)), 0.04, 1.0),
            "llm": near(0.45 + alpha / 80, 0.07, 1.0),
        }
        rows.append(
            row(f"polite {alpha:+g}", alpha, rates, ratio=near(1 + (alpha / 30) ** 2, 0.06), unsteered=0.48)
        )
    for one in rows:
        one["judges"]["llm"].update(n_failed=3, fluency=near(4.1, 0.2))
    document = evaluation(
        rows,
        (
            judge("data"),
            judge("llm", warnings=("On 21 of 1680 texts it gave no answer that could be read.",)),
        ),
        samples=samples(7, ("data", "llm"), (*PROMPTS, HOSTILE)),
    )
    document["samples"][0]["texts"][2]["text"] = HOSTILE
    document["samples"][0]["texts"][3]["scores"] = {"data": 0.5, "llm": None}
    document["samples"][1]["texts"][4]["text"] = " and again, and again" * 120
    del document["samples"][2]["texts"][5]
    return document


def two_vectors() -> Document:
    """Two vectors at once: an alpha for each."""
    rows = [row("unsteered", 0.0, {"data": near(0.5, 0.06)}, baseline="unsteered")]
    rows += [
        row(
            f"polite {a:+g} happy {b:+g}", [a, b], {"data": near(rate, 0.05, 1.0)}, ratio=near(ratio, 0.08),
            unsteered=0.5, vectors=["polite.st", "happy.st"],
        )
        for a, b, rate, ratio in ((8.0, 4.0, 0.7, 1.04), (8.0, -4.0, 0.62, 1.02), (16.0, 8.0, 0.93, 1.31))
    ]  # fmt: skip
    return evaluation(rows, (judge("data"),), title="polite.st and happy.st on smollm2")


def published() -> Document:
    """Generations read from files: no alpha, no vector, no ratio, names of any length."""
    labels = ("system-a_generations_final_version_3.jsonl", "system-b.jsonl", "$x^2$ <b>.jsonl")
    rows = [
        row(
            label, None, {"vader": near(0.4 + 0.15 * place, 0.05), "llm": near(0.5 + 0.1 * place, 0.05)},
            vectors=[], dose=None, positions=None, kl=None, n=100 + place,
        )
        for place, label in enumerate(labels)
    ]  # fmt: skip
    return evaluation(rows, (judge("vader"), judge("llm")), title="3 files of generations")


def hostile() -> Document:
    """Every text of the document is one that would break out of a page."""

    def spoil(value: Any) -> Any:
        if isinstance(value, str):
            return value if value in ("unsteered", "random", "prompt", "data") else HOSTILE
        if isinstance(value, dict):
            return {key: spoil(item) for key, item in value.items()}
        return [spoil(item) for item in value] if isinstance(value, list) else value

    document: Document = spoil(working())
    return document


def failed() -> Document:
    """A judge that gave no answer at all, and a model whose perplexity overflowed."""
    document = working()
    for one in document["rows"]:
        one["judges"]["llm"] = {
            "rate": None,
            "mean": None,
            "rate_difference": None,
            "n_failed": 240,
            "fluency": None,
        }
    document["judges"].append(judge("llm", warnings=("It gave no answer.",)))
    document["rows"][5]["perplexity_ratio"] = {"value": math.inf, "low": 2.0, "high": math.inf}
    return document


def calibration() -> Document:
    document = working()
    alphas = (-8.0, -4.0, 0.0, 4.0, 8.0, 12.0, 16.0, 20.0, 24.0)
    return {
        **{key: document[key] for key in ("title", "facts", "judges", "rows")},
        "command": "neurosteer calibrate polite.st --judge data",
        "recommended": {"up": 16.0, "down": -8.0}, "max_ppl_ratio": 1.25,
        "expected": [{"alpha": a, "rate": 1 / (1 + math.exp(-(a + 4) / 7))} for a in alphas],
    }  # fmt: skip


def layers(*, steer: bool = True) -> Document:
    """Thirty layers, an SAE at some, and with `steer` three doses at every third."""
    rows = []
    for layer in range(30):
        auroc = 0.55 + 0.44 * (1 - math.exp(-layer / 7)) - 0.0004 * max(0, layer - 20) ** 2
        rows.append({
            "layer": layer, "hook_point": f"blocks.{layer}.hook_resid_post", "auroc": auroc,
            "auroc_low": auroc - 0.03, "auroc_high": min(1.0, auroc + 0.02),
            "sae_auroc": auroc - 0.02 if layer in (10, 14, 20) else None,
            "shift_share": 0.02 + 0.003 * layer, "resid_norm": 60.0 + 8.3 * layer,
            "steer": [
                {
                    "alpha": alpha,
                    "rate": near(0.5 + alpha / 40 * math.exp(-(((layer - 16) / 9) ** 2)), 0.06, 1.0),
                    "perplexity_ratio": near(1 + abs(alpha) / 60 * math.exp(-layer / 20), 0.05),
                }
                for alpha in (-10.0, 10.0, 16.0)
            ] if steer and layer % 3 == 2 else None,
        })  # fmt: skip
    return {
        "title": "polite against rude on smollm2",
        "command": "neurosteer layers polite.jsonl rude.jsonl --steer 10",
        "facts": facts(), "rows": rows, "judge": "data",
    }  # fmt: skip
