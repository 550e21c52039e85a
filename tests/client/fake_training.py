"""The fake server with Training.Learn: it numbers windows, and acknowledges what it took when the test lets it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from freshet.v1 import training_pb2 as pb
from freshet.v1 import training_pb2_grpc
from tests.client.fake_server import FakeServer


class FakeTraining(FakeServer, training_pb2_grpc.TrainingServicer):
    def __init__(self, **spec: Any) -> None:
        super().__init__(**spec)
        self.windows: list[bytes] = []  # x of each, by its number
        self.stream_labels: set[int] = set()  # the ticks that they are for
        self.acknowledging = asyncio.Event()  # cleared: it takes items and says nothing
        self.acknowledging.set()
        self.taken = asyncio.Condition()

    def serve(self, server: grpc.aio.Server) -> None:
        super().serve(server)
        training_pb2_grpc.add_TrainingServicer_to_server(self, server)

    async def Learn(self, requests: Any, context: Any) -> AsyncIterator[pb.LearnResponse]:
        await anext(requests)
        await self.welcoming.wait()
        yield pb.LearnResponse(welcome=pb.LearnWelcome(next_window_seq=len(self.windows) + 1, version=1))
        windows = labels = 0
        async for request in requests:
            if request.HasField("window"):
                window, windows = request.window, windows + 1
                assert window.window_seq <= len(self.windows) + 1, "a gap"
                if window.window_seq == len(self.windows) + 1:
                    self.windows.append(window.x)
                assert self.windows[window.window_seq - 1] == window.x, "another window of the same number"
            else:
                labels += 1
                self.stream_labels.add(request.label.seq)
            async with self.taken:
                self.taken.notify_all()
            await self.acknowledging.wait()
            yield pb.LearnResponse(acknowledged=pb.Acknowledged(labels=labels, windows=windows))
