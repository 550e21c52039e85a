"""gRPC does not survive a fork: what was opened before hangs or crashes behind it, and so does what is opened then.

A process that was forked from one that had used gRPC is told so at once, wherever it would use it. gRPC's own handlers
of forks are left out where gRPC was not imported before and GRPC_ENABLE_FORK_SUPPORT does not say otherwise: with
grpc.aio they do nothing in the parent, and crash some of its children inside of fork(), whatever these were for.
"""

from __future__ import annotations

import os
import sys
import threading

SWITCH = "GRPC_ENABLE_FORK_SUPPORT"  # gRPC reads it when it is imported
if "grpc" not in sys.modules and SWITCH not in os.environ:
    os.environ[SWITCH] = "0"
    try:
        import grpc  # noqa: F401
    finally:
        del os.environ[SWITCH]

from freshet.errors import Forked  # noqa: E402  # which imports gRPC

POLLER = "_poll_wrapper"  # the thread of grpc.aio, as `threading` names it; whoever started it, it does not survive
REMEDY = (
    'start processes with multiprocessing.get_context("spawn") or "forkserver", or fork before the first client is '
    "opened, and open one in each process"
)

_used = False  # a channel was opened in this process, or in one that it was forked from
_forked = False  # this process was forked behind that


def use() -> None:
    """gRPC is about to be used. Raises Forked where that cannot be."""
    global _used
    check()
    _used = True


def check() -> None:
    """Raises Forked in a process that was forked from one that had used gRPC."""
    if _forked:
        raise Forked(f"this process was forked from one that had used gRPC, which does not survive a fork: {REMEDY}")


def forked() -> bool:
    """Whether `check` raises: for what must leave everything as it is then."""
    return _forked


def _before() -> None:
    global _used
    _used = _used or any(POLLER in thread.name for thread in threading.enumerate())


def _in_child() -> None:
    global _forked
    _forked = _forked or _used


if hasattr(os, "register_at_fork"):  # where there are forks
    os.register_at_fork(before=_before, after_in_child=_in_child)
