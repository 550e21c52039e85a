"""A sender of labels and whole windows: one call of Training.Learn after the other, from `open` to `close`."""

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
from freshet.backlog import Backlog, Verdict
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

MAX_BYTES = 8 << 20  # of items that are not acknowledged
LEAVE_S = 1.0  # a call on which nothing waits is ended well, or cut after this


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnSettings:
    """How one sender behaves. Times in seconds."""

    # Items that may be unacknowledged at once; the server stops reading at 1,024.
    in_flight: int = LEARN_IN_FLIGHT
    # Without any success for so long, the sender fails with Unavailable.
    give_up_s: float = GIVE_UP_S
    # A call that is not welcomed within it is cut and made again.
    answer_s: float = ANSWER_S
    # Keep refused items in `refused` instead of raising them.
    keep_refused: bool = False
    # What is subtracted from each channel of a window before it becomes float32, as `offsets.checked` gives it.
    offset: dict[str, float] | list[float] | float | None = None


class Learning:
    """Labels and windows for one model. Made by `Client.learn`; open it with `async with`. For use in one event loop.

    It reconnects by itself: what is not acknowledged is sent again, and learned once. An item that the server refuses
    is raised by the next call of a method, as LabelRefused or WindowRefused, unless they are kept.
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
        self._raised = False  # that error was raised
        self._runner: asyncio.Task[None] | None = None
        self._waits = Waits(settings.give_up_s, self._check)
        self._welcomes = 0
        self._progress = 0  # what has come of the server
        self._closing = False

    def __repr__(self) -> str:
        state = shown.state(
            opened=self._runner is not None, connected=self._backlog.connected, welcomed=self._welcomes > 0,
            closing=self._closing, error=self._error,
        )  # fmt: skip
        name = f"Learning of model {self._hello.model!r} from source {self._hello.source!r}"
        refused = len(self.refused) + len(self._unraised)
        return shown.handle(name, state, f"{len(self._backlog)} not acknowledged", f"{refused} refused")

    # --- for the user

    async def open(self) -> Self:
        """Connect; returns once the server has said Welcome. `async with` does it at its start.

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
        """Close; after an error in the block, leave at once."""
        if error is None:
            await self.aclose()
        else:
            await self._end()

    async def aclose(self) -> None:
        """Wait until everything is acknowledged, then end the call. Raises as `flush` does, but not again what ended
        the sender; safe to repeat."""
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
        """Send a labelled window; returns once there is room for it, `flush` says when it is acknowledged.

        x: (T, channels). y: the label of the last tick: a number, one per target, or for task classify the class by
        name, index or probabilities; or one per tick, (T, outputs), or (T,) of numbers where a label is one number. For
        task forecast, the values that follow a tick.
        weight: how much each tick's label counts, (T,) or (T, outputs), 0 for no label; default 1 where y has one.
        initial_state: the state before the first tick, one row as `Streams.Get` gives it; default zeros.
        Raises WindowRefused for what cannot be sent, or what an earlier item was refused for; this is not sent then.
        Raises InvalidArgument where x changes by less than float32 keeps beside it: give an offset.
        """
        message = window_message(self._layout, x, y, weight, initial_state)
        await self._add(pb.LearnRequest(window=message), window=True)

    async def label(self, stream: str, seq: int, y: Any) -> None:
        """Send the true value for tick `seq` of a stream of the model; y as for `Stream.label`.

        Returns once there is room for it. Raises LabelRefused for what cannot be sent, or what an earlier item was
        refused for; this is not sent then.
        """
        stream, seq = identifier(stream), whole(seq, "seq")
        values = label_values(self._layout.answers, y, seq, stream)
        message = pb.StreamLabel(stream=stream, seq=seq, y=values)
        await self._add(pb.LearnRequest(label=message), window=False)

    async def flush(self) -> None:
        """Wait until all that was sent is acknowledged: on disk, or learned where that was asked for; or is refused,
        which is raised then, one at a time. Raises Unavailable once nothing was acknowledged for `give_up_s`."""
        await self._until(lambda: not len(self._backlog), "what was sent to be acknowledged", patient=True)

    @property
    def next_window(self) -> int:
        """The number of the next window of this source, 1 where it never sent one: where to go on after a restart."""
        return self._backlog.next_window

    @property
    def reconnects(self) -> int:
        """Times that the sender went on on another call."""
        return max(0, self._welcomes - 1)

    # --- inside

    async def _add(self, message: pb.LearnRequest, window: bool) -> None:
        await self._until(lambda: self._backlog.room, "room for one more, behind what is not acknowledged")
        self._backlog.add(message, message.ByteSize(), window)
        self._waits.notify()

    async def _until(self, true: Callable[[], bool], what: str, patient: bool = False) -> None:
        """Wait until it is true, looked at after every change. Raises what ended the sender, or a refusal: the patient
        wait first. If nothing comes of the server for `give_up_s`, the sender is over."""
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
        """The sender is over. Only the first reason counts."""
        if self._error is None:
            self._error = error
            if self._runner is not None:
                self._runner.cancel()
        self._waits.notify()

    async def _end(self) -> None:
        """End the call, well where nothing waits any more."""
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
        """One call after the other, until the sender is closed or fails."""
        loop = asyncio.get_running_loop()
        try:
            while (why := await self._one_call()) and not self._closing:
                self._waits.last_call = why
                wait = self._backoff.failed(loop.time())
                if wait is None:
                    raise Unavailable(f"no success for {self._settings.give_up_s:g} s; the last call: {why}")
                await asyncio.sleep(wait)
        except Exception as error:
            self._fail(error)

    async def _one_call(self) -> str:
        """One call from Hello to its end. Returns why to call again. Raises FreshetError."""
        call = self._open_call()
        sending = asyncio.create_task(self._send(call))
        sending.add_done_callback(lambda task: task.cancelled() or (task.exception() and call.cancel()))
        try:
            async with asyncio.timeout(self._settings.answer_s) as welcomed:
                async for message in call:  # not `read`, which forgets what has arrived once a write has failed
                    welcomed.reschedule(None)
                    self._receive(message)
            return "ended by the server"
        except TimeoutError:
            return f"not welcomed within {self._settings.answer_s:g} s"
        except grpc.aio.AioRpcError as error:
            return await self._open_call.failed(error, self._welcomes > 0)
        except asyncio.CancelledError:
            if cancelled_from_outside():
                raise
            if sending.done():
                sending.result()  # what no server can cause stays loud
            return "cut"
        finally:
            self._backlog.disconnected()
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            call.cancel()

    async def _send(self, call: Call) -> None:
        """Hello, then whatever may be sent, as long as the call lives."""
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # over: the reader learns why
            await call.write(pb.LearnRequest(hello=self._hello))
            while not self._closing:
                await self._waits.until(lambda: self._backlog.sendable or self._closing)
                while (item := self._backlog.next_to_send()) is not None:
                    if item.number:
                        item.payload.window.window_seq = item.number
                    await call.write(item.payload)
            await call.done_writing()

    def _receive(self, message: pb.LearnResponse) -> None:
        kind = message.WhichOneof("message")
        if kind == "welcome":
            self._backlog.welcome(message.welcome.next_window_seq)
            self._welcomes += 1
        elif kind == "acknowledged":
            self._backlog.acknowledged(message.acknowledged.labels + message.acknowledged.windows)
            self._backoff.succeeded()
        elif kind == "refused":
            self._refuse(message.refused)
            self._backoff.succeeded()
        self._progress += 1
        self._waits.notify()

    def _refuse(self, refused: types_pb2.Refused) -> None:
        reason = Reason(refused.reason)
        verdict, item = self._backlog.refused(refused.item, reason)
        if verdict is Verdict.IGNORE:
            return
        error: LabelRefused | WindowRefused
        if item.number:
            error = WindowRefused(refused.field, refused.value, refused.remedy, reason)
        else:
            error = label_refused(refused, item.payload.label.stream)
        if verdict is Verdict.FAIL:
            raise error
        (self.refused if self._settings.keep_refused else self._unraised).append(error)
