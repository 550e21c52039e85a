"""Failures of programs that run a server, or wait for one: each ends a command with one line."""


class ServerFailed(RuntimeError):
    """A server did not start, or ended by itself. The text says how, with the last lines of its log."""


class Stalled(RuntimeError):
    """A replay that does not get on. The text says how far it came and what it waits for."""
