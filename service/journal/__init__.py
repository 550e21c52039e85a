"""The journal: records, files, the one writer, and pure rules for retention, skips and repeated windows.

Knows nothing of streams in memory, of weights, or of gRPC messages.
"""
