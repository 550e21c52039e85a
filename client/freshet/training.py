"""Labels and windows from outside of streams, and the quarantine of those that could not be learned."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Set
from typing import Literal

import grpc

from freshet.arguments import identifier, integer, listed, named, number, whole
from freshet.defaults import ANSWER_S, GIVE_UP_S, LEARN_IN_FLIGHT
from freshet.learning import Learning, LearnSettings
from freshet.models import Models
from freshet.offsets import Given, checked
from freshet.results import ModelSpec, Quarantined, Replayed
from freshet.v1 import training_pb2, training_pb2_grpc

REPLAYED_AT_ONCE = 256  # the server's limit for one request
MAX_IN_FLIGHT = 1024  # a server stops reading here

ACKNOWLEDGE = {"durable": training_pb2.LearnHello.DURABLE, "learned": training_pb2.LearnHello.LEARNED}


class Training(Models):
    """The methods of `Client` for labels, windows and the quarantine."""

    def learn(
        self,
        model: str,
        source: str,
        acknowledge: Literal["durable", "learned"] = "durable",
        *,
        on_refused: Literal["raise", "keep"] = "raise",
        in_flight: int = LEARN_IN_FLIGHT,
        give_up_s: float = GIVE_UP_S,
        answer_s: float = ANSWER_S,
        offset: Given = None,
    ) -> Learning:
        """Return a sender of labels and windows to `model`; open it with `async with`.

        source: the sender's name. The server numbers its windows and accepts each once. A second sender with the same
            name takes over from the first.
        acknowledge: when an item counts as done: "durable", on the server's disk, or "learned".
        on_refused: "raise" raises a refused item from the next call; "keep" collects it in `Learning.refused`.
        in_flight: items that may be unacknowledged, 1 to 1024; beyond that, `window` and `label` wait.
        give_up_s: fail after this many seconds without any success.
        answer_s: cut and repeat a call without a Welcome for this many seconds.
        offset: as for `stream`; subtracted from x of windows and, for task forecast, from their labels.
        """
        for name, value, choices in (
            ("acknowledge", acknowledge, list(ACKNOWLEDGE)), ("on_refused", on_refused, ["raise", "keep"]),
        ):  # fmt: skip
            if value not in choices:
                raise ValueError(f"{name} = {value!r}; give {' or '.join(choices)}")
        in_flight, give_up_s = integer(in_flight, "in_flight"), number(give_up_s, "give_up_s")
        answer_s = number(answer_s, "answer_s")
        if not 1 <= in_flight <= MAX_IN_FLIGHT:
            raise ValueError(f"in_flight = {in_flight}; give 1 to {MAX_IN_FLIGHT}")
        settings = LearnSettings(
            in_flight=in_flight, give_up_s=give_up_s, answer_s=answer_s, keep_refused=on_refused == "keep",
            offset=checked(offset),
        )  # fmt: skip
        model, source = named(model, "model"), identifier(source, "source")
        open_call = self._opener(model, lambda to: _stub(to).Learn)
        hello = training_pb2.LearnHello(model=model, source=source, acknowledge=ACKNOWLEDGE[acknowledge])

        async def describe() -> ModelSpec:
            return (await self._get_model(model, give_up_s)).spec

        learning = Learning(open_call, hello, describe, settings)
        self._open.add(learning)
        return learning

    async def quarantine(self, model: str) -> AsyncIterator[Quarantined]:
        """Iterate over acknowledged items that could not be learned, with the reasons, oldest first."""
        model = named(model, "model")
        after, page = 0, [training_pb2.Quarantined()]
        while page:
            request = training_pb2.QuarantineRequest(model=model, after=after, page_size=1000)
            page = list((await self._unary(lambda to: _stub(to).Quarantine, request)).items)
            for item in page:
                yield Quarantined.of(item)
                after = item.id

    async def replay(self, model: str, ids: Iterable[int]) -> Replayed:
        """Learn from items of the quarantine after all. A label becomes a window with the ticks before it.

        Returns the ids that are on disk and will be learned, and why each other id will not.
        """
        answer, model = training_pb2.ReplayResponse(), named(model, "model")
        wanted = [whole(id, "ids") for id in (ids if isinstance(ids, Set) else listed(ids, "ids"))]
        for start in range(0, len(wanted), REPLAYED_AT_ONCE):
            request = training_pb2.ReplayRequest(model=model, ids=wanted[start : start + REPLAYED_AT_ONCE])
            answer.MergeFrom(await self._unary(lambda to: _stub(to).Replay, request, once=True))
        return Replayed.of(answer)


def _stub(to: grpc.aio.Channel) -> training_pb2_grpc.TrainingAsyncStub:
    return training_pb2_grpc.TrainingStub(to)
