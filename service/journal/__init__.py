"""The journal: its records, its files, its one writer, and the pure rules on what is kept, skipped or repeated.

Knows nothing of streams in memory, of weights, or of the wire.
"""
