"""Serving's side of learning: trainer processes, what each is sent next, labels on their way, replays.

Knows no message of the wire.
"""
