"""The server, a room per folder; imports between rooms go down only (tests/test_architecture.py)."""

__version__ = "0.1.0"
