"""The composition root: builds each part, recovers, runs all, drains.

The only room that sees every other; it decides nothing about a stream or a model.
"""
