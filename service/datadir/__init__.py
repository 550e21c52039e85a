"""Tools for a data directory: backup, restore, repair, format checks, and learning a stopped journal again.

Knows nothing of a running server.
"""
