"""Training on recorded series before going online, and the baselines that claims are compared with.

Knows nothing of the fold.
"""
