"""The process log: one format for every line on standard error, whichever library writes it.

Python's `logging` (uvicorn, asyncio, grpc), warnings and uncaught exceptions become records of this log. C libraries
(onnxruntime, gRPC's core) write to descriptor 2, which is a pipe here; each of their lines becomes a record. The only
exception is a crash of the interpreter: faulthandler writes its traceback to standard error unchanged.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import fcntl
import io
import json
import logging
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TextIO

import structlog

LINE_BYTES = 8192  # a longer line of a library becomes several
STDERR = 2
STOP_S = 1.0
PIPE_BYTES = 1 << 20
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
FOREIGN = (  # library, and how its lines show their level
    ("onnxruntime", re.compile(r"\[([VIWEF]):onnxruntime")),
    ("grpc", re.compile(r"([IWEF])\d{4} \d\d:\d\d:\d\d")),  # absl's format
)
LEVELS = {"V": "debug", "I": "info", "W": "warning", "E": "error", "F": "critical"}


class Named(structlog.PrintLogger):
    """A printing logger with a name."""

    def __init__(self, file: TextIO, name: str) -> None:
        super().__init__(file)
        self.name = name


class Log:
    """The log of this process, from construction to `stop`, which restores standard error."""

    def __init__(self, form: str) -> None:
        """Redirect descriptor 2, `logging` and the hooks of uncaught exceptions. form: see `configure`."""
        self._stderr = os.dup(STDERR)  # destination of all lines
        self._file = os.fdopen(self._stderr, "w", encoding="utf-8", errors="backslashreplace", buffering=1)
        self.json, self._stopped = form == "json", False
        configure(self._file, form)
        reading, writing = os.pipe()
        # Drop lines rather than wait: a C library may write while holding the interpreter lock, which the reader needs.
        os.set_blocking(writing, False)
        with contextlib.suppress(OSError):  # the user's pipes are at the system's limit
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        os.dup2(writing, STDERR)
        os.close(writing)
        self._reader = threading.Thread(target=forward, args=(reading,), name="stderr", daemon=True)
        self._reader.start()
        faulthandler.enable(self._stderr)
        self._undo = contextlib.ExitStack()
        self._undo.enter_context(bridged())
        self._undo.enter_context(hooked())

    def announce(self, event: str, text: str, **facts: object) -> None:
        """Print a line on standard output: the text, or a JSON object if the log is JSON."""
        if self.json:
            now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
            line = {"timestamp": now, "level": "info", "logger": "freshet", "event": event}
            text = json.dumps(line | {name: _plain(value) for name, value in facts.items()})
        print(text, flush=True)

    def stop(self) -> None:
        """Restore standard error after everything written to it is in the log."""
        if self._stopped:
            return
        self._stopped = True
        self._undo.close()
        sys.stderr.flush()
        os.dup2(self._stderr, STDERR)  # the pipe loses its last writer, so its reader ends
        self._reader.join(STOP_S)  # not if another process has inherited the pipe
        faulthandler.disable()


def configure(file: TextIO, form: str) -> None:
    """Make structlog write to `file`. form: console, logfmt, json, or auto: console on a terminal, else logfmt."""
    if form == "auto":
        form = "console" if file.isatty() else "logfmt"
    keys = ["timestamp", "level", "logger", "event"]
    renderers: dict[str, Any] = {
        "console": structlog.dev.ConsoleRenderer(),
        "logfmt": structlog.processors.LogfmtRenderer(key_order=keys, bool_as_flag=False, drop_missing=True),
        "json": structlog.processors.JSONRenderer(default=str),
    }
    structlog.configure(
        processors=[
            structlog.stdlib.add_log_level,
            _add_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _sound_keys,
            renderers[form],
        ],
        logger_factory=lambda name="freshet": Named(file, name),
        cache_logger_on_first_use=True,
    )


def forward(descriptor: int) -> None:
    """Log each line read from a pipe until its end, then close it."""
    rest = b""
    while data := os.read(descriptor, 1 << 16):
        *lines, rest = (rest + data).split(b"\n")
        if len(rest) > LINE_BYTES:
            lines, rest = [*lines, rest], b""
        for line in lines:
            foreign(line)
    foreign(rest)
    os.close(descriptor)


async def forward_stream(stream: asyncio.StreamReader, logger: str, **facts: object) -> None:
    """Log each line of a child's standard error until its end."""
    rest = b""
    while data := await stream.read(1 << 16):
        *lines, rest = (rest + data).split(b"\n")
        if len(rest) > LINE_BYTES:
            lines, rest = [*lines, rest], b""
        for line in lines:
            foreign(line, logger, **facts)
    foreign(rest, logger, **facts)


def foreign(line: bytes, logger: str = "stderr", **facts: object) -> None:
    """Log a line of another library under the name and level that it shows."""
    for at in range(0, len(line), LINE_BYTES):
        text = COLOUR.sub("", line[at : at + LINE_BYTES].decode(errors="backslashreplace")).rstrip()
        level, name = "warning", logger
        for library, pattern in FOREIGN:
            if found := pattern.search(text):
                level, name = LEVELS[found[1]], library
        if text:
            getattr(structlog.get_logger(name), level)(text, **facts)


class Printed(io.TextIOBase):
    """Stands in for sys.stderr: logs printed text line by line, without waiting for the pipe."""

    def __init__(self) -> None:
        self._rest = ""

    def write(self, text: str) -> int:
        """Log the complete lines."""
        *lines, self._rest = (self._rest + text).split("\n")
        if len(self._rest) > LINE_BYTES:
            lines, self._rest = [*lines, self._rest], ""
        for line in lines:
            foreign(line.encode(errors="backslashreplace"))
        return len(text)

    def fileno(self) -> int:
        """Return the descriptor that C libraries write to."""
        return STDERR

    def close(self) -> None:
        """Log the rest, which has no end of line."""
        self.write("\n")


class Bridge(logging.Handler):
    """Forwards records of `logging` to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record."""
        try:
            text = record.getMessage().rstrip()
        except (TypeError, ValueError):  # arguments do not fit the text: a bug of the caller
            text = f"{record.msg} {record.args}"
        log = structlog.get_logger(record.name)
        level = min(logging.CRITICAL, max(logging.DEBUG, record.levelno // 10 * 10))
        log.log(level, text, **({"exc_info": record.exc_info} if record.exc_info else {}))


@contextlib.contextmanager
def bridged() -> Iterator[None]:
    """Send `logging` and warnings to structlog alone inside the block."""
    root, bridge = logging.getLogger(), Bridge()
    before, level = root.handlers[:], root.level
    root.handlers, root.level = [bridge], logging.WARNING
    logging.captureWarnings(True)
    shown = warnings.formatwarning
    warnings.formatwarning = _one_line
    try:
        yield
    finally:
        warnings.formatwarning = shown
        logging.captureWarnings(False)
        root.handlers, root.level = before, level


@contextlib.contextmanager
def hooked() -> Iterator[None]:
    """Log inside the block what is printed to sys.stderr, and uncaught exceptions, also of threads and finalizers."""
    log = structlog.get_logger("uncaught")

    def uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        log.critical("uncaught exception", exc_info=(kind, error, trace))

    def in_thread(args: threading.ExceptHookArgs) -> None:
        name = args.thread.name if args.thread else ""
        log.error("uncaught exception in a thread", thread=name, exc_info=_info(args))

    def unraisable(args: Any) -> None:
        log.error("exception in a finalizer or callback", where=repr(args.object), exc_info=_info(args))

    before: tuple[Callable[..., Any], ...] = sys.excepthook, threading.excepthook, sys.unraisablehook
    stderr, printed = sys.stderr, Printed()
    sys.stderr = printed
    sys.excepthook, threading.excepthook, sys.unraisablehook = uncaught, in_thread, unraisable
    try:
        yield
    finally:
        sys.excepthook, threading.excepthook, sys.unraisablehook = before
        sys.stderr = stderr
        printed.close()


def _info(args: Any) -> Any:
    return (args.exc_type, args.exc_value or args.exc_type(), args.exc_traceback)


def _one_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    return f"{filename}:{lineno}: {category.__name__}: {message}"


def _plain(value: object) -> object:
    return value if isinstance(value, (bool, int, float, str)) or value is None else str(value)


def _add_name(logger: Any, _method: str, line: Any) -> Any:
    line.setdefault("logger", getattr(logger, "name", "freshet"))
    return line


def _sound_keys(_logger: Any, _method: str, line: Any) -> Any:
    """Replace white space in keys, which logfmt cannot hold."""
    return {key.replace(" ", "_"): value for key, value in line.items()}
