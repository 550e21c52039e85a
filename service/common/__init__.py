"""Vocabulary of every room: errors, names, bounds, addresses, bounded reading of documents.

Knows the sizes of models and no component of the server. Its only I/O is reading files that people write, and
those of time zones.
"""
