"""The trainer process: it folds journal chunks into weights, saves checkpoints and proposes versions.

Knows nothing of gRPC or of serving; `messages` and `reports` define what it exchanges with serving.
"""
