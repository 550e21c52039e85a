"""`freshet top`: the state of a running server on a terminal.

Reads /metrics and the SDK, nothing else.
"""
