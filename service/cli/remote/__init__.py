"""Verbs that ask a running server: health, and through the SDK models, streams, quarantine.

Knows no data directory.
"""
