"""Refuse gRPC after a fork: open calls, and calls opened in the child, would hang or crash there.

A process forked from one that had used gRPC gets the exception Forked wherever it would use gRPC. gRPC's own fork
handlers are switched off if gRPC was not imported before and GRPC_ENABLE_FORK_SUPPORT is not set: with grpc.aio they do
nothing in the parent, and crash some children inside fork(), whatever these were forked for.
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

from freshet.errors import Forked  # noqa: E402  # it imports gRPC

POLLER = "_poll_wrapper"  # name of grpc.aio's thread, which does not survive a fork
REMEDY = (
    'start processes with multiprocessing.get_context("spawn") or "forkserver", or fork before the first client is '
    "opened, and open one in each process"
)

_used = False  # a channel was opened in this process, or in an ancestor before the fork
_forked = False  # this process was forked after that


def use() -> None:
    """Record that gRPC is used from now on. Raises Forked if it cannot be."""
    global _used
    check()
    _used = True


def check() -> None:
    """Raise Forked in a process that was forked from one that had used gRPC."""
    if _forked:
        raise Forked(f"this process was forked from one that had used gRPC, which does not survive a fork: {REMEDY}")


def forked() -> bool:
    """Whether `check` raises; for code that must then leave everything unchanged."""
    return _forked


def _before() -> None:
    global _used
    _used = _used or any(POLLER in thread.name for thread in threading.enumerate())


def _in_child() -> None:
    global _forked
    _forked = _forked or _used


if hasattr(os, "register_at_fork"):  # where there are forks
    os.register_at_fork(before=_before, after_in_child=_in_child)
