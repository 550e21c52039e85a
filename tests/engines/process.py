"""A process of an engine: started, killed and started again by a test, with its own ports on 127.0.0.1."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.ports import free_port

START_S = 90.0  # longest wait for an engine, on a machine with other work


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, for programs that cannot be told to choose their own."""
    return [free_port() for _ in range(count)]


class Process:
    """A command in a process group of its own, with its output in a file. user: the numbers of another user to run as,
    None for ours."""

    def __init__(self, command: Sequence[str], log: Path, user: tuple[int, int] | None = None) -> None:
        self._command, self._log, self._user = command, log, user
        self._running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        user, group = self._user or (None, None)
        extra: list[int] | None = [] if self._user else None
        with self._log.open("ab") as log:
            self._running = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._log.parent,
                start_new_session=True, user=user, group=group, extra_groups=extra,
            )  # fmt: skip

    def until(self, ready: Callable[[], bool]) -> None:
        """Wait until `ready()`; fails with the end of the log if the process ends or takes too long."""
        deadline, pause = time.monotonic() + START_S, threading.Event()
        while not ready():
            running = self._running
            if running is None or running.poll() is not None or time.monotonic() > deadline:
                text = self._log.read_text(errors="replace")[-3000:]
                raise RuntimeError(f"{self._command[0]} did not become ready:\n{text}")
            pause.wait(0.02)

    def run(self) -> None:
        """Run the command to its end; fails with its output if it fails."""
        self.start()
        if code := self.wait():
            raise RuntimeError(f"{self._command[0]} ended with {code}:\n{self._log.read_text(errors='replace')}")

    def wait(self) -> int:
        """Wait for the end of the process and return its exit code; 0 if it was never started."""
        return self._running.wait(START_S) if self._running else 0

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process and its children."""
        if self._running is not None and self._running.poll() is None:
            os.killpg(self._running.pid, number)

    def kill(self) -> None:
        """Kill the process and its children, and wait for the process; nothing is flushed."""
        self.signal(signal.SIGKILL)
        self.wait()
