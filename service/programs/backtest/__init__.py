"""Replaying a recorded series as if it were arriving now, and scoring what was forecast.

Reaches a server only from outside, through the SDK.
"""
