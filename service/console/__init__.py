"""Shared parts of the commands: options, printed tables, a model's files, progress, failures in one line.

Knows no particular command, and reaches a server only through the SDK.
"""
