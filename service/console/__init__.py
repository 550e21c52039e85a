"""What commands share: options, printed tables, files of a model, progress, one-line failures.

Knows no particular command, and talks to a server only through the SDK.
"""
