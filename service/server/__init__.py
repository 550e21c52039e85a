"""The composition root: builds every component, recovers, runs them, drains.

The only room that sees all others. It decides nothing about a stream or a model.
"""
