"""Verbs that ask a running server through the SDK: models, streams, quarantine.

Knows no data directory.
"""
