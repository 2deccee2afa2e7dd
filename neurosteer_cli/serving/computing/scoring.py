"""What vectors, as detectors, say of texts that have been written.

Knows detectors and the model's thread; knows nothing of requests' forms or HTTP.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from functools import partial

from ...data.records import Passage
from ...errors import InputError
from ...models.engine import Engine
from ...vectors.detector import known_detector, score
from ...vectors.vector import SteeringVector
from ..protocol.fields import Json
from ..scheduler import ClosedError, Scheduler
from .sharing import SharedEngine, Turns


class Scoring:
    """Has texts read, unsteered and by themselves as `neurosteer score` reads them, by vectors' detectors."""

    def __init__(self, engine: Engine, scheduler: Scheduler, vectors: Mapping[str, SteeringVector]) -> None:
        """`vectors` are by name.

        Raises:
            InputError: one of them is no detector.
        """
        self.engine, self.scheduler, self.vectors = engine, scheduler, vectors
        for name, vector in vectors.items():
            try:
                known_detector(vector, name)
            except InputError as error:
                raise InputError(f"score: {error}") from error

    def submit(self, texts: Sequence[str]) -> "Future[list[Json]]":
        """Of each text each vector's score and probability, null where no token counts.

        All null too where the program is ending: the texts themselves are there.
        """
        try:
            return self.scheduler.call(partial(self._compute, texts))
        except ClosedError:
            unread: Future[list[Json]] = Future()
            unread.set_result([dict.fromkeys(self.vectors) for _ in texts])
            return unread

    def _compute(self, texts: Sequence[str]) -> list[Json]:
        engine = SharedEngine.of(self.engine, Turns(self.scheduler))
        tokens = [engine.tokenize(Passage("the answer", text)) for text in texts]
        found: list[Json] = [{} for _ in texts]
        for name, vector in self.vectors.items():
            scored = dict(score(engine, vector, tokens, name))
            for number, of_text in enumerate(found):
                one = scored.get(number)
                of_text[name] = one and {"score": round(one.z, 6), "probability": round(one.probability, 6)}
            engine.pause()
        return found
