"""What a process's messages cost beside CPU: hand-overs between threads and system calls; and how fast this machine is.

A thread that waits gives its core away (a voluntary switch), and is woken by another: one hand-over. Linux counts them.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

LOOPS, LOOP_ROUNDS = 100_000, 5
ATTACH_S = 20.0
SHOWN = ("futex", "epoll_wait", "fdatasync", "sendmsg", "recvmsg", "write", "read")  # system calls in the table
SWITCHES = re.compile(r"^(non)?voluntary_ctxt_switches:\s+(\d+)$", re.MULTILINE)
COUNTED = re.compile(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)(?:\s+\d+)?\s+(\w+)$", re.MULTILINE)  # a row of strace -c


@dataclass(frozen=True, slots=True)
class Thread:
    """One thread's use so far. name: the kernel's, 15 characters; cpu_s: user and system, exact to 1 ns."""

    name: str
    cpu_s: float
    waits: int  # voluntary switches
    preempted: int  # involuntary switches


def threads(pid: int) -> dict[int, Thread]:
    """Return the living threads of a process, by thread id; the process's own id is its first thread's."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it has ended
            cpu_ns = int((task / "schedstat").read_text().split()[0])
            switches = {non: int(count) for non, count in SWITCHES.findall((task / "status").read_text())}
            name = (task / "comm").read_text().strip()
            found[int(task.name)] = Thread(name, cpu_ns / 1e9, switches[""], switches["non"])
    return found


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process's living threads, user and system. Exact to 1 ns."""
    return sum(thread.cpu_s for thread in threads(pid).values())


def between(before: Mapping[int, Thread], after: Mapping[int, Thread]) -> dict[int, Thread]:
    """Return what each thread that lives `after` has used since `before`, most CPU first."""
    none = Thread("", 0.0, 0, 0)
    used = {}
    for tid, now in after.items():
        was = before.get(tid, none)
        used[tid] = Thread(now.name, now.cpu_s - was.cpu_s, now.waits - was.waits, now.preempted - was.preempted)
    return dict(sorted(used.items(), key=lambda item: -item[1].cpu_s))


def calibration_s() -> float:
    """Return the seconds of a fixed pure Python loop, a median: divide by it to compare figures of two machines."""
    taken = []
    for _ in range(LOOP_ROUNDS):
        total, started = 0, time.thread_time()
        for i in range(LOOPS):
            total += i & 7
        taken.append(time.thread_time() - started)
    return median(taken)


@contextlib.asynccontextmanager
async def traced(pid: int) -> AsyncIterator[Counter[str]]:
    """Count the system calls of all threads of a process, with strace; the counts are filled in at the end.

    They stay empty where strace is not installed or may not attach. Calls take several times as long meanwhile.
    """
    calls: Counter[str] = Counter()
    if shutil.which("strace") is None:
        yield calls
        return
    with tempfile.NamedTemporaryFile(mode="r") as out:
        command = ["strace", "-f", "-c", "-U", "time-percent,total-time,avg-time,calls,errors,name"]
        strace = subprocess.Popen([*command, "-o", out.name, "-p", str(pid)], stderr=subprocess.PIPE)
        try:
            _until_attached(strace)
            yield calls
        finally:
            strace.send_signal(signal.SIGINT)
            strace.wait()
            assert strace.stderr
            strace.stderr.close()
        calls.update({name: int(count) for count, name in COUNTED.findall(out.read()) if name != "total"})


def _until_attached(strace: subprocess.Popen[bytes]) -> None:
    """Wait for strace's line that it has attached, or for its end."""
    assert strace.stderr
    deadline = time.monotonic() + ATTACH_S
    while time.monotonic() < deadline:
        line = strace.stderr.readline()
        if not line or b"attached" in line:
            return


def table(used: Mapping[int, Thread], pid: int, messages: int) -> Iterator[str]:
    """Yield lines for people: microseconds, waits and preemptions per message, of the threads that did something."""
    for tid, thread in used.items():
        if thread.cpu_s / messages > 1e-6:
            role = "the first: the event loop" if tid == pid else f"thread {tid - pid:+d}"
            yield (
                f"  {thread.cpu_s / messages * 1e6:7.1f} µs  {thread.waits / messages:5.2f} waits"
                f"  {thread.preempted / messages:5.2f} preempted  {thread.name} ({role})"
            )
