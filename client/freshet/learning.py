"""A sender of labels and whole windows over Training.Learn: one call after the other, from `open` to `close`."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeAlias

import grpc

from freshet import forks, shown
from freshet.arguments import identifier, whole
from freshet.backlog import Backlog, Item, Verdict
from freshet.calls import Opener, cancelled_from_outside
from freshet.defaults import ANSWER_S, GIVE_UP_S, LEARN_IN_FLIGHT
from freshet.errors import (
    LabelRefused,
    NotOpen,
    Reason,
    StreamClosed,
    Unavailable,
    WindowRefused,
)
from freshet.labels import Answers, label_refused, label_values
from freshet.results import ModelSpec
from freshet.retry import Backoff
from freshet.v1 import training_pb2 as pb
from freshet.v1 import types_pb2
from freshet.waits import Waits
from freshet.windows import WindowLayout, window_message

Call: TypeAlias = "grpc.aio.StreamStreamCall[pb.LearnRequest, pb.LearnResponse]"

MAX_BYTES = 8 << 20  # of unacknowledged items
LEAVE_S = 1.0  # how long closing waits for the call to end by itself


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnSettings:
    """Settings of one sender. Times in seconds."""

    # Items that may be unacknowledged at once. The server stops reading at 1,024.
    in_flight: int = LEARN_IN_FLIGHT
    # The sender fails with Unavailable after this time without any success.
    give_up_s: float = GIVE_UP_S
    # A call without a Welcome within this time is cut and repeated.
    answer_s: float = ANSWER_S
    # Keep refused items in `refused` instead of raising them.
    keep_refused: bool = False
    # Subtracted from each channel of a window before it becomes float32, in the form of `offsets.checked`.
    offset: dict[str, float] | list[float] | float | None = None


class Learning:
    """Sends labels and windows for one model. Made by `Client.learn`; open it with `async with`. For use in one event
    loop.

    It reconnects by itself: unacknowledged items are sent again and learned once. The next call of a method raises an
    item that the server refused, as LabelRefused or WindowRefused, unless refusals are kept.
    """

    def __init__(
        self,
        open_call: Opener[Call],
        hello: pb.LearnHello,
        describe: Callable[[], Awaitable[ModelSpec]],
        settings: LearnSettings,
        rng: random.Random | None = None,
    ) -> None:
        self.refused: list[LabelRefused | WindowRefused] = []  # with on_refused="keep"
        self._open_call, self._hello, self._describe, self._settings = open_call, hello, describe, settings
        self._layout = WindowLayout((), 0, "", Answers("forecast", ()))  # until the model is described
        self._backlog: Backlog[pb.LearnRequest] = Backlog(settings.in_flight, MAX_BYTES)
        self._backoff = Backoff(settings.give_up_s, rng or random.Random())
        self._unraised: list[LabelRefused | WindowRefused] = []
        self._error: Exception | None = None
        self._raised = False  # the caller has seen the error
        self._runner: asyncio.Task[None] | None = None
        self._waits = Waits(settings.give_up_s, self._check)
        self._welcomes = self._progress = 0  # the server's Welcomes, and all its messages
        self._closing = False

    def __repr__(self) -> str:
        state = shown.state(
            opened=self._runner is not None, connected=self._backlog.connected, welcomed=self._welcomes > 0,
            closing=self._closing, error=self._error,
        )  # fmt: skip
        name = f"Learning of model {self._hello.model!r} from source {self._hello.source!r}"
        refused = len(self.refused) + len(self._unraised)
        return shown.handle(name, state, f"{len(self._backlog)} not acknowledged", f"{refused} refused")

    async def open(self) -> Self:
        """Connect and wait for the server's Welcome. `async with` calls it.

        Raises NotFound, InvalidArgument …; Unavailable after `give_up_s`.
        """
        forks.check()
        if self._runner is not None or self._closing:
            raise StreamClosed("this sender was opened before; make another with client.learn(…)")
        self._layout = WindowLayout.of(await self._describe(), self._settings.offset)
        self._runner = asyncio.create_task(self._run())
        try:
            await self._until(lambda: self._welcomes > 0, "the server's Welcome")
        except BaseException:
            await self._end()
            raise
        return self

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close; after an error in the block, end the call at once."""
        if error is None:
            await self.aclose()
        else:
            await self._end()

    async def aclose(self) -> None:
        """Wait until everything is acknowledged, then end the call. Safe to repeat.

        Raises as `flush` does, but not an error that a method has already raised.
        """
        if self._closing or self._runner is None or forks.forked():
            self._closing = True
            return
        try:
            if not self._raised:
                await self.flush()
        except (LabelRefused, WindowRefused) as refused:
            if self._unraised:
                refused.add_note(f"freshet: {len(self._unraised)} more were refused")
            raise
        finally:
            await self._end()

    async def window(self, x: Any, y: Any, weight: Any = None, initial_state: Any = None) -> None:
        """Send a labelled window. Returns when there is room for it; `flush` waits for the acknowledgement.

        x: (T, channels); with known and static inputs also their columns, in this order (`known.sent_names`).
        y: the label of the last tick: a number, one per target, or for task classify the class by name, index or
            probabilities. Or one label per tick: (T, outputs), or (T,) if a label is one number. For task forecast, a
            tick's label is the values that follow it.
        weight: how much each tick's label counts: (T,) or (T, outputs), 0 for no label; default 1 wherever y has a
            label.
        initial_state: the state before the first tick, one row as `Streams.Get` returns it; default zeros.

        Raises WindowRefused if the window cannot be sent, or for an earlier refused item; this window is then not sent.
        Raises InvalidArgument if x changes by less than float32 resolves at its level: give an offset.
        """
        message = window_message(self._layout, x, y, weight, initial_state)
        await self._add(pb.LearnRequest(window=message), window=True)

    async def label(self, stream: str, seq: int, y: Any) -> None:
        """Send the true value for tick `seq` of a stream of the model; y as for `Stream.label`.

        Returns when there is room for it. Raises LabelRefused if the label cannot be sent, or for an earlier refused
        item; this label is then not sent.
        """
        stream, seq = identifier(stream), whole(seq, "seq")
        values = label_values(self._layout.answers, y, seq, stream)
        message = pb.StreamLabel(stream=stream, seq=seq, y=values)
        await self._add(pb.LearnRequest(label=message), window=False)

    async def flush(self) -> None:
        """Wait until everything sent is acknowledged: on disk, or learned, as `acknowledge` says.

        Raises refused items, one per call; Unavailable if nothing was acknowledged for `give_up_s`.
        """
        await self._until(lambda: not len(self._backlog), "the acknowledgement of sent items", patient=True)

    @property
    def next_window(self) -> int:
        """The number of this source's next window; 1 for a new source. A restarted sender continues from here."""
        return self._backlog.next_window

    @property
    def address(self) -> str:
        """The address of the node that takes the items; empty before the sender is open."""
        return self._open_call.address if self._welcomes else ""

    @property
    def reconnects(self) -> int:
        """How often the sender continued on a new call."""
        return max(0, self._welcomes - 1)

    async def _add(self, message: pb.LearnRequest, window: bool) -> None:
        await self._until(lambda: self._backlog.room, "room for one more item: too many are unacknowledged")
        self._backlog.add(message, message.ByteSize(), window)
        self._waits.notify()

    async def _until(self, true: Callable[[], bool], what: str, patient: bool = False) -> None:
        """Wait until `true()` holds; it is tested after every change.

        patient: finish waiting before raising a refusal. Raises the error that ended the sender, or a refusal. If the
        server sends nothing for `give_up_s`, the sender fails.
        """
        try:
            await self._waits.until(
                lambda: true() or bool(self._unraised and not patient), (what, lambda: self._progress)
            )
        except Unavailable as error:
            self._fail(error)
            self._raised = True
            raise
        if self._unraised:
            raise self._unraised.pop(0)
        self._check()

    def _check(self) -> None:
        forks.check()
        if self._error is not None:
            self._raised = True
            raise self._error
        if self._runner is None:
            raise NotOpen("sender", "client.learn(…) as learning")

    def _fail(self, error: Exception) -> None:
        """End the sender. Only the first error counts."""
        if self._error is None:
            self._error = error
            if self._runner is not None:
                self._runner.cancel()
        self._waits.notify()

    async def _end(self) -> None:
        """End the call, cleanly if nothing is unacknowledged."""
        self._closing = True
        if forks.forked():
            return
        self._waits.notify()
        try:
            if self._runner is not None and not len(self._backlog) and self._error is None:
                await asyncio.wait({self._runner}, timeout=LEAVE_S)
        finally:
            self._fail(StreamClosed("the sender is closed"))
            self._backlog.clear()
            if self._runner is not None:
                self._runner.cancel()
                await asyncio.gather(self._runner, return_exceptions=True)

    async def _run(self) -> None:
        """Make calls, one after the other, until the sender is closed or fails."""
        try:
            while (why := await self._one_call()) and not self._closing:
                self._waits.last_call = why
                await self._open_call.pause(self._backoff, why)
        except Exception as error:
            self._fail(error)

    async def _one_call(self) -> str:
        """Make one call, from Hello to its end. Returns why to call again, if so. Raises FreshetError."""
        call = await self._open_call()
        sending = asyncio.create_task(send_items(call, self._hello, self._backlog, self._waits, lambda: self._closing))
        sending.add_done_callback(lambda task: task.cancelled() or (task.exception() and call.cancel()))
        try:
            async with asyncio.timeout(self._settings.answer_s) as welcomed:
                async for message in call:  # not `read`, which drops received messages after a failed write
                    welcomed.reschedule(None)
                    self._receive(message)
            return "" if self._closing else self._open_call.ended("ended by the server")
        except TimeoutError:
            return self._open_call.ended(f"not welcomed within {self._settings.answer_s:g} s")
        except grpc.aio.AioRpcError as error:
            return await self._open_call.failed(error, self._welcomes > 0)
        except asyncio.CancelledError:
            if cancelled_from_outside():
                raise
            if sending.done() and not sending.cancelled():  # a write on a call that is cancelled ends so
                sending.result()  # a bug in the writer is raised
            return self._open_call.ended("cut")
        finally:
            self._backlog.disconnected()
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            call.cancel()

    def _receive(self, message: pb.LearnResponse) -> None:
        kind = message.WhichOneof("message")
        if kind == "welcome":
            self._backlog.welcome(message.welcome.next_window_seq)
            self._welcomes += 1
            self._open_call.served()
        elif kind == "acknowledged":
            self._backlog.acknowledged(message.acknowledged.labels + message.acknowledged.windows)
            self._open_call.succeeded(self._backoff)
        elif kind == "refused":
            self._refuse(message.refused)
            self._open_call.succeeded(self._backoff)
        self._progress += 1
        self._waits.notify()

    def _refuse(self, refused: types_pb2.Refused) -> None:
        reason = Reason(refused.reason)
        verdict, item = self._backlog.refused(refused.item, reason)
        if verdict is Verdict.IGNORE:
            return
        error = item_refused(refused, reason, item)
        if verdict is Verdict.FAIL:
            raise error
        (self.refused if self._settings.keep_refused else self._unraised).append(error)


async def send_items(
    call: Call, hello: pb.LearnHello, backlog: Backlog[pb.LearnRequest], waits: Waits, closing: Callable[[], bool]
) -> None:
    """Write Hello, then items as they may be sent, for as long as the call lives and the sender is not closing."""
    # Where the call has ended, its reader gets the reason.
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        await call.write(pb.LearnRequest(hello=hello))
        while not closing():
            await waits.until(lambda: backlog.sendable or closing())
            while (item := backlog.next_to_send()) is not None:
                if item.number:
                    item.payload.window.window_seq = item.number
                await call.write(item.payload)
        await call.done_writing()


def item_refused(
    refused: types_pb2.Refused, reason: Reason, item: Item[pb.LearnRequest]
) -> LabelRefused | WindowRefused:
    """Return the error of a label or window that the server refused."""
    if item.number:
        return WindowRefused(refused.field, refused.value, refused.remedy, reason)
    return label_refused(refused, item.payload.label.stream)
