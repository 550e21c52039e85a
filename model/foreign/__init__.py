"""Weights of other frameworks as a spec and parameters of ours: state_dicts of PyTorch and Keras, and ONNX graphs.

Reads arrays and messages that the caller has loaded; opens no file and runs no graph. The caller compares answers.
"""
