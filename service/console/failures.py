"""Failures of programs that run a server or wait for one. Each ends a command with one line."""


class ServerFailed(RuntimeError):
    """A server did not start, or ended by itself. The text has the reason and the last lines of its log."""


class Stalled(RuntimeError):
    """A replay made no progress. The text says how far it came and what it waits for."""
