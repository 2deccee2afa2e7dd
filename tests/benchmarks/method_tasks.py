"""The tasks of method_search.py: texts to fit on, others to train judges on, and the judges."""

import json
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from neurosteer_cli.evaluation.judges import data

EXAMPLES = Path(__file__).parents[2] / "examples"
OPPOSITES = {"polite": "rude", "happy": "sad"}  # the project's own
Texts = tuple[list[str], list[str]]  # positive, negative
Rate = Callable[[Sequence[str]], Sequence[float]]  # the probability that a text is of the positive side


@dataclass(frozen=True)
class Corpus:
    """Texts of two sides: those to fit on, and others to train judges on."""

    name: str
    fit: Texts
    judge: Texts
    prompts: str  # "neutral", or its own name

    @classmethod
    def read(cls, name: str, folder: Path) -> "Corpus":
        if name in OPPOSITES:
            fit, judge = (_own(name, place) for place in (EXAMPLES, EXAMPLES / "judge"))
            return cls(name, fit, judge, "neutral")
        positive, negative = (_texts(folder / f"{name}.{side}.jsonl") for side in ("pos", "neg"))
        prompts = name if (folder / f"prompts.{name}.jsonl").is_file() else "neutral"
        return cls(name, (positive[1::2], negative[1::2]), (positive[::2], negative[::2]), prompts)


def _own(name: str, folder: Path) -> Texts:
    return _texts(folder / f"{name}.jsonl"), _texts(folder / f"{OPPOSITES[name]}.jsonl")


def _texts(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text().splitlines() if line.strip()]


def by_embeddings(texts: Texts) -> Rate:
    """Logistic regression on sentence embeddings: the judge `data` of `eval`."""
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for side, of_side in zip(("positive", "negative"), texts, strict=True):
            path = Path(folder, f"{side}.jsonl")
            path.write_text("".join(json.dumps({"text": text}) + "\n" for text in of_side))
            files.append(str(path))
        judge = data.train((files[0], files[1]))
    print(f"   embeddings right on {judge.card['balanced_accuracy']:.2f} of held-out texts", flush=True)
    return lambda some: [float(s or 0) for s in judge.score([""] * len(some), some, lambda _n: None).scores]


def by_words(texts: Texts) -> Rate:
    """Logistic regression on TF-IDF of words and pairs of words."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline

    judge = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2),
        LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000),
    )
    both, labels = [*texts[0], *texts[1]], [True] * len(texts[0]) + [False] * len(texts[1])
    right = cross_val_score(judge, both, labels, cv=5, scoring="balanced_accuracy").mean()
    print(f"   words right on {right:.2f} of held-out texts", flush=True)
    judge.fit(both, labels)
    return lambda some: judge.predict_proba(list(some))[:, 1].tolist()


JUDGES = {"embeddings": by_embeddings, "words": by_words}


def shuffled(texts: Texts, seed: int) -> Texts:
    """The same texts with sides dealt out at random, half of each side's to either."""
    noise = random.Random(seed)
    dealt: Texts = ([], [])
    for side in texts:
        once = list(dict.fromkeys(side))
        for number, text in enumerate(noise.sample(once, len(once))):
            dealt[number % 2].append(text)
    return dealt
