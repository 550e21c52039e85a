"""Replay of a recorded series as if it arrived now, and scores of the forecasts.

Reaches a server only from outside, through the SDK.
"""
