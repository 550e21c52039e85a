"""Training on recorded series before a model goes online, and baselines for comparison.

Knows nothing of the fold.
"""
