"""Tools on a data directory: backup, restore, repair, formats, learning a stopped journal again.

Knows no running server.
"""
