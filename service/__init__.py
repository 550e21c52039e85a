"""The server, a room per folder; imports between rooms go down only (tests/test_architecture.py)."""


def version() -> str:
    """Return the version of the installed server."""
    from importlib import metadata  # 20 ms that most processes do not need

    return metadata.version("freshet-server")
