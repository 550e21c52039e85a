"""The second process: it folds journal chunks into weights, keeps checkpoints and proposes versions.

Imports no gRPC and nothing of serving; what it exchanges with serving is in `messages`.
"""
