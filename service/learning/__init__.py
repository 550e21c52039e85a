"""Serving's side of learning: the trainer processes and what each is sent; labels, windows and replays.

Knows nothing of gRPC messages.
"""
